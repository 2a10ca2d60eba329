"""A causal language model: batched writing and exact scoring over key/value states that are kept.

The tokens of a prompt are those of its prefix followed by those of its text, each tokenised by itself.
So training, scoring and writing see the same tokens, and the prefix's states can be kept.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fieldstone.errors import ModelError
from fieldstone.models import Completion, Heard, Options, Prompt, Score, lean_llama
from fieldstone.models.batches import by_length
from fieldstone.models.decoding import Writing, seeds, tell, write
from fieldstone.models.described import Described, describe
from fieldstone.models.devices import pick_engine
from fieldstone.models.files import weights_fingerprint
from fieldstone.models.forward import BATCH_TOKENS, Forward, Step
from fieldstone.models.huggingface import Loaded, explained, place, read_model
from fieldstone.models.limits import check_request, refuse_passages
from fieldstone.models.states import Row
from fieldstone.models.tokens import Tokens
from fieldstone.models.weights import Weights

_KEPT_BYTES = 2 << 30
_PREFIX = 4  # tokens of a prefix that weigh as much in a batch as one to be read: they cost memory, not time


@dataclass(frozen=True, slots=True)
class _Template:
    """The token ids before and behind the user's words, and whether those are stripped of white space."""

    head: list[int]
    tail: list[int]
    strips: bool


class CausalGenerator:
    """A `Generator` over a causal model of transformers."""

    def __init__(self, name: str, folder: Path, options: Options, *, kept_bytes: int = _KEPT_BYTES) -> None:
        """`kept_bytes` bounds the memory for states of prefixes."""
        described = describe(name, folder, options.cache)
        config, self._tokenizer = described.config, described.tokenizer
        architecture = (config.architectures or [""])[0]
        if architecture.endswith(("ForMaskedLM", "ForSequenceClassification", "ForTokenClassification")):
            raise ModelError(f"{name} is a {architecture} and writes no text; give a causal or seq2seq model")
        loaded = _read(name, folder, config, options)
        self._forward = Forward(loaded.model, loaded.device, kept_bytes)
        self._tokens = Tokens(self._tokenizer)
        self._ends = _ends(folder, described)
        self._templates: dict[str, _Template] = {}
        self.name = name
        positions = getattr(described.text, "max_position_embeddings", None)
        self.context_tokens = int(positions or 4096)
        template = self._tokenizer.chat_template or ""
        self.fingerprint = weights_fingerprint(folder, loaded.dtype, template, cache=options.cache)
        with explained(name, f"{architecture}, a first forward pass"):
            first = Writing(self._tokens, 2, (), frozenset(), None)
            for _ in self._write([([], [0])], [first], 0.0):
                pass

    def generate(
        self,
        prompts: Sequence[Prompt],
        *,
        max_tokens: int = 64,
        stop: Sequence[str] = (),
        temperature: float = 0.0,
        seed: int = 0,
        heard: Heard | None = None,
    ) -> list[Completion]:
        """One completion a prompt; `temperature` 0 is greedy. A stop string ends the text and is cut off."""
        check_request(max_tokens, temperature)
        halves = [self.prompt_ids(prompt) for prompt in prompts]
        rows = self._writings(halves, max_tokens, stop, temperature, seed)
        lengths = [len(a) // _PREFIX + len(b) + max_tokens for a, b in halves]
        for batch in by_length(lengths, budget=BATCH_TOKENS):
            for _ in self._write([halves[i] for i in batch], [rows[i] for i in batch], temperature):
                tell(heard, rows, batch)
        return [row.completion() for row in rows]

    def stream(
        self,
        prompt: Prompt,
        *,
        max_tokens: int = 64,
        stop: Sequence[str] = (),
        temperature: float = 0.0,
        seed: int = 0,
    ) -> Iterator[str]:
        """The same completion in pieces as they come."""
        check_request(max_tokens, temperature)
        halves = [self.prompt_ids(prompt)]
        rows = self._writings(halves, max_tokens, stop, temperature, seed)
        sent = 0
        for _ in self._write(halves, rows, temperature):
            end = rows[0].settled
            if end > sent:
                yield rows[0].text[sent:end]
                sent = end

    def score(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[Score]:
        """Exact log-probability of each completion after its prompt (teacher forcing)."""
        halves = [self.prompt_ids(prompt) for prompt in prompts]
        wanted = [self.completion_ids(text) for text in completions]
        if len(wanted) != len(halves):
            raise ModelError(f"{len(halves)} prompts and {len(wanted)} completions: there must be one each")
        for (a, b), c in zip(halves, wanted, strict=True):
            self._check_length(len(a) + len(b) + len(c))
        lengths = [len(a) // _PREFIX + len(b) + len(c) for (a, b), c in zip(halves, wanted, strict=True)]
        logprobs = [0.0] * len(halves)
        for batch in by_length(lengths, budget=BATCH_TOKENS):
            batch = [i for i in batch if wanted[i]]
            if batch:
                sums = self._score([halves[i] for i in batch], [wanted[i] for i in batch])
                for i, logprob in zip(batch, sums, strict=True):
                    logprobs[i] = logprob
        return [Score(logprob, len(ids)) for logprob, ids in zip(logprobs, wanted, strict=True)]

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, without special tokens."""
        return [len(ids) for ids in self._tokens.encode(texts)]

    def forget(self) -> None:
        """Drop the kept states of prefixes: in bfloat16 they may change the last digit of what comes next."""
        self._forward.kept.clear()

    def prompt_ids(self, prompt: Prompt) -> tuple[list[int], list[int]]:
        """The token ids of a prompt's prefix and of what follows it; training must use the same."""
        refuse_passages(self.name, prompt)
        tokens, prefix, text = self._tokens, prompt.prefix, prompt.text
        if prompt.chat:
            template = self._template(prompt.system)
            if template.strips:
                stripped = (prefix + text).strip()
                prefix = prefix.lstrip()[: len(stripped)]
                text = stripped[len(prefix) :]
            before, after = template.head, template.tail
            first = before + (tokens.following(prefix) if prefix else [])
            rest = (tokens.following(text) if text else []) + after
        elif prefix:
            first, rest = tokens.bos + tokens.encode([prefix])[0], tokens.following(text) if text else []
        else:
            first, rest = [], tokens.bos + tokens.encode([text])[0]
        if prompt.prefill:
            rest = rest + tokens.following(prompt.prefill)
        return (first, rest) if first or rest else ([], [self._start_token()])

    def completion_ids(self, text: str) -> list[int]:
        """The token ids of a completion, without the end of text; training must use the same."""
        return self._tokens.following(text) if text else []

    def end_ids(self, prompt: Prompt) -> list[int]:
        """What ends a completion: in a chat the end of the turn, else a line break. For training."""
        if not prompt.chat:
            return self._tokens.following("\n")
        words = "\u2039the model's words\u203a"
        turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": words}]
        text = str(self._tokenizer.apply_chat_template(turns, tokenize=False))
        after = self._tokens.marked(text.partition(words)[2], after=True)
        return [*(token for token in after if token in self._ends), *sorted(self._ends)][:1]

    def _template(self, system: str) -> _Template:
        """What the chat template puts before and behind the user's words."""
        known = self._templates.get(system)
        if known is None:
            if len(self._templates) > 100:
                self._templates.clear()
            known = self._templates[system] = _template(self.name, self._tokenizer, self._tokens, system)
        return known

    def _start_token(self) -> int:
        """What an empty prompt begins with."""
        for token in (self._tokenizer.bos_token_id, self._tokenizer.eos_token_id):
            if token is not None:
                return int(token)
        raise ModelError(f"{self.name}: an empty prompt, and the model has no token to begin with")

    def _check_length(self, length: int) -> None:
        if length > self.context_tokens:
            raise ModelError(
                f"{self.name}: a prompt of {length} tokens does not fit into its {self.context_tokens}; "
                "give fewer or shorter passages"
            )

    def _writings(
        self,
        halves: Sequence[tuple[list[int], list[int]]],
        max_tokens: int,
        stop: Sequence[str],
        temperature: float,
        seed: int,
    ) -> list[Writing]:
        ids = [prefix + text for prefix, text in halves]
        rows = []
        for prompt, own in zip(ids, seeds(seed, ids, temperature), strict=True):
            self._check_length(len(prompt) + 1)
            limit = min(max_tokens, self.context_tokens - len(prompt))
            rows.append(Writing(self._tokens, limit, stop, self._ends, own))
        return rows

    @torch.inference_mode()
    def _score(
        self, halves: Sequence[tuple[list[int], list[int]]], wanted: Sequence[list[int]]
    ) -> list[float]:
        rows = self._forward.rows(halves, wanted)
        # the token at t is predicted at t - 1, so the last of each completion need not be read
        rows = [Row(row.states, row.known, row.rest[:-1]) for row in rows]
        starts = [len(row.rest) - len(ids) for row, ids in zip(rows, wanted, strict=True)]
        spans = [range(start, start + len(ids)) for start, ids in zip(starts, wanted, strict=True)]
        logits, *_ = self._forward.read(rows, spans, room=None)
        sums = []
        for own, ids in zip(torch.split(logits, [len(ids) for ids in wanted]), wanted, strict=True):
            logprobs = own.float().log_softmax(-1)
            chosen = logprobs.gather(1, torch.tensor(ids, device=own.device)[:, None])
            sums.append(float(chosen.double().sum()))
        return sums

    def _write(
        self, halves: Sequence[tuple[list[int], list[int]]], writings: Sequence[Writing], temperature: float
    ) -> Iterator[None]:
        """Writes all rows at once, a token each a step."""
        if all(writing.done for writing in writings):
            return
        with torch.inference_mode():
            rows = self._forward.rows(halves, [[] for _ in halves])
            room = max(writing.limit for writing in writings)
            first, layers, spans = self._forward.read(rows, [[len(row.rest) - 1] for row in rows], room)
            step = Step(self._forward, layers, spans)
        steps = write(first, step, writings, temperature)
        while True:
            # the mode is entered anew each time: a caller of `stream` runs code of its own in between
            with torch.inference_mode():
                try:
                    next(steps)
                except StopIteration:
                    return
            yield


def _template(name: str, tokenizer: Any, tokens: Tokens, system: str) -> _Template:
    """The chat template, taken apart around the user's words."""
    from jinja2 import TemplateError

    if not tokenizer.chat_template:
        raise ModelError(f"{name} has no chat template; use prompts without chat, or an instruct model")
    words = "\u2039the user's words\u203a"
    user = {"role": "user", "content": f" {words} "}

    def render(messages: list[dict[str, str]]) -> str:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))

    try:
        text = render([{"role": "system", "content": system}, user] if system else [user])
    except TemplateError:
        # Gemma's template, say, knows no system turn: the instruction goes before the user's words
        text = render([{"role": "user", "content": f"{system}\n\n {words} "}])
    strips = f" {words} " not in text
    head, found, tail = text.partition(words if strips else f" {words} ")
    if not found:
        raise ModelError(f"{name}: its chat template leaves out the user's words; use prompts without chat")
    return _Template(tokens.marked(head), tokens.marked(tail, after=True), strips)


def _read(name: str, folder: Path, config: Any, options: Options) -> Loaded:
    """What computes the model, by the engine asked for."""
    device, dtype = place(options)
    if pick_engine(name, options.engine, lean_llama.refusal(folder, config, device)) == "lean":
        with explained(name, "weights"):
            weights = Weights(name, folder, dtype, inside=lean_llama.INSIDE)
            return Loaded(lean_llama.LeanLlama(config, weights), device, dtype)
    from transformers import AutoModelForCausalLM

    from fieldstone.models.padded import Padded

    model = read_model(name, folder, AutoModelForCausalLM, options).model
    return Loaded(Padded(name, model, device), device, dtype)


def _ends(folder: Path, described: Described) -> frozenset[int]:
    """The tokens that end a text."""
    file = folder / "generation_config.json"
    with explained(str(folder), file.name):
        said = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    given = said.get("eos_token_id", getattr(described.text, "eos_token_id", None))
    ids = given if isinstance(given, list) else [given]
    return frozenset(int(i) for i in [*ids, described.tokenizer.eos_token_id] if i is not None)
