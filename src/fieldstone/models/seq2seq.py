"""An encoder-decoder model (T5, BART): batched writing and exact scoring, also from passages read apart.

Fusion-in-Decoder (Izacard and Grave 2021a, "Leveraging Passage Retrieval with Generative Models for Open
Domain Question Answering", section 3): the question goes through the encoder with each passage apart, and the
decoder attends to the states of all, one after another. A plain prompt is the case of one part.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForSeq2SeqLM

from fieldstone.errors import ModelError
from fieldstone.models import Completion, Heard, Options, Prompt, Score
from fieldstone.models.batches import by_length
from fieldstone.models.cross_attention import attention_to_parts
from fieldstone.models.decoding import Writing, seeds, tell, write
from fieldstone.models.files import weights_fingerprint
from fieldstone.models.huggingface import read_model, read_tokenizer
from fieldstone.models.limits import check_request
from fieldstone.models.tokens import Tokens, framed

_BATCH_TOKENS = 4096

Parts = list[list[int]]
"""The token ids of one prompt, as the encoder reads them: a list for each text that it reads apart."""


class Seq2SeqGenerator:
    """A `Generator` over an encoder-decoder model of transformers.

    These models have no turns: `chat` puts the instruction before the words, on a line of its own.
    """

    def __init__(self, name: str, folder: Path, options: Options) -> None:
        self._tokenizer = read_tokenizer(name, folder)
        loaded = read_model(name, folder, AutoModelForSeq2SeqLM, options)
        self._model, self._device = loaded.model, loaded.device
        config = self._model.config
        positions = getattr(
            config, "max_position_embeddings", None
        )  # T5 counts distances and has no such end
        said = self._tokenizer.model_max_length
        self.context_tokens = int(positions or (said if said < 1_000_000 else 4096))
        self._tokens = Tokens(self._tokenizer)
        self._frame = framed(self._tokenizer, 1_000_000)
        self._start = _decoder_start(name, self._model, self._frame)
        given = self._model.generation_config.eos_token_id
        ends = (
            given
            if isinstance(given, list)
            else [given, getattr(config, "eos_token_id", None), self._tokenizer.eos_token_id]
        )
        self._ends = frozenset(int(i) for i in ends if i is not None)
        self.pad = int(self._tokenizer.pad_token_id or 0)
        self.name = name
        self.fingerprint = weights_fingerprint(folder, loaded.dtype, cache=options.cache)

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
        ids = self._prompts(prompts)
        rows = self._writings(ids, max_tokens, stop, temperature, seed)
        for prefill in dict.fromkeys(prompt.prefill for prompt in prompts):
            same = [i for i, prompt in enumerate(prompts) if prompt.prefill == prefill]
            for batch in by_length([length(ids[i]) for i in same], budget=_BATCH_TOKENS):
                own = [same[i] for i in batch]
                for _ in self._write([ids[i] for i in own], [rows[i] for i in own], prefill, temperature):
                    tell(heard, rows, own)
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
        ids = self._prompts([prompt])
        rows = self._writings(ids, max_tokens, stop, temperature, seed)
        sent = 0
        for _ in self._write(ids, rows, prompt.prefill, temperature):
            end = rows[0].settled
            if end > sent:
                yield rows[0].text[sent:end]
                sent = end

    def score(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[Score]:
        """Exact log-probability of each completion given its prompt, without the end of text."""
        ids = self._prompts(prompts)
        begun = [self.begun_ids(prompt) for prompt in prompts]
        wanted = self._tokens.encode(completions)
        if len(wanted) != len(ids):
            raise ModelError(f"{len(ids)} prompts and {len(wanted)} completions: there must be one each")
        for start, row in zip(begun, wanted, strict=True):
            self._check_length(len(start) + len(row))
        logprobs = [0.0] * len(ids)
        for batch in by_length(
            [length(a) + len(b) for a, b in zip(ids, wanted, strict=True)], budget=_BATCH_TOKENS
        ):
            sums = self._score([ids[i] for i in batch], [begun[i] for i in batch], [wanted[i] for i in batch])
            for i, logprob in zip(batch, sums, strict=True):
                logprobs[i] = logprob
        return [Score(logprob, len(row)) for logprob, row in zip(logprobs, wanted, strict=True)]

    def attend(self, prompts: Sequence[Prompt]) -> list[tuple[float, ...]]:
        """How much the first token of the reply attends to each passage of a prompt: the teacher's G(q, p).

        Izacard and Grave 2021b, "Distilling Knowledge from Reader to Retriever for Question Answering",
        section 3: the attention before its softmax, as a mean over layers, heads and the tokens of the
        passage's part, which are, as in the authors' code, all that the encoder read in it.
        """
        ids = self._prompts(prompts)
        found: list[tuple[float, ...]] = [()] * len(ids)
        for batch in by_length([length(parts) for parts in ids], budget=_BATCH_TOKENS):
            with torch.inference_mode():
                states, seen = joined_states(self._model, [ids[i] for i in batch], self.pad)
                start = torch.tensor([self._start] * len(batch), device=self._device)
                lengths = [[len(part) for part in ids[i]] for i in batch]
                scores = attention_to_parts(self._model, states, seen, start, lengths)
            for i, its in zip(batch, scores, strict=True):
                found[i] = its
        return found

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, without special tokens."""
        return [len(ids) for ids in self._tokens.encode(texts)]

    def forget(self) -> None:
        """Nothing is kept of earlier prompts."""

    def prompt_ids(self, prompts: Sequence[Prompt]) -> list[Parts]:
        """What the encoder reads for each prompt; training must use the same."""
        texts: list[list[str]] = []
        for prompt in prompts:
            instruction = f"{prompt.system}\n" if prompt.chat and prompt.system else ""
            shared = instruction + prompt.prefix + prompt.text
            texts.append([shared + passage for passage in prompt.passages or ("",)])
        flat = iter(self._frame.encode_batch_fast([text for its in texts for text in its]))
        return [[next(flat).ids or [self._start[0]] for _ in its] for its in texts]

    def begun_ids(self, prompt: Prompt) -> list[int]:
        """What the decoder has before its first token of its own; training must use the same."""
        return self._start + self._tokens.encode([prompt.prefill])[0]

    def learnt_ids(self, completion: str) -> list[int]:
        """The token ids of a completion and of the end of text. For training."""
        end = self._tokenizer.eos_token_id
        return self._tokens.encode([completion])[0] + [min(self._ends) if end is None else int(end)]

    def _prompts(self, prompts: Sequence[Prompt]) -> list[Parts]:
        ids = self.prompt_ids(prompts)
        for parts in ids:
            self._check_length(max(map(len, parts)))
        return ids

    def _check_length(self, length: int) -> None:
        if length > self.context_tokens:
            raise ModelError(
                f"{self.name}: a text of {length} tokens does not fit into its {self.context_tokens}; "
                "give fewer or shorter passages"
            )

    def _writings(
        self, ids: list[Parts], max_tokens: int, stop: Sequence[str], temperature: float, seed: int
    ) -> list[Writing]:
        limit = min(max_tokens, self.context_tokens - len(self._start))
        own = seeds(seed, [[token for part in parts for token in part] for parts in ids], temperature)
        return [Writing(self._tokens, limit, stop, self._ends, one) for one in own]

    @torch.inference_mode()
    def _score(self, ids: list[Parts], begun: list[list[int]], wanted: list[list[int]]) -> list[float]:
        states, mask = joined_states(self._model, ids, self.pad)
        read = [start + row for start, row in zip(begun, wanted, strict=True)]
        inputs = torch.zeros((len(ids), max(len(row) for row in read)), dtype=torch.long)
        for i, row in enumerate(read):
            inputs[i, : len(row)] = torch.tensor(row)
        out = self._model(
            encoder_outputs=(states,),
            attention_mask=mask,
            decoder_input_ids=inputs.to(self._device),
            use_cache=False,
        )
        sums = []
        for logits, start, row in zip(out.logits, begun, wanted, strict=True):
            own = logits[len(start) - 1 : len(start) - 1 + len(row)].float().log_softmax(-1)
            chosen = own.gather(1, torch.tensor(row, dtype=torch.long, device=self._device)[:, None])
            sums.append(float(chosen.double().sum()))
        return sums

    def _write(
        self, ids: list[Parts], writings: Sequence[Writing], prefill: str, temperature: float
    ) -> Iterator[None]:
        """Writes all rows at once, a token each a step."""
        if all(writing.done for writing in writings):
            return
        with torch.inference_mode():
            states, mask = joined_states(self._model, ids, self.pad)
            begun = self._start + self._tokens.encode([prefill])[0]
            start = torch.tensor([begun] * len(ids), device=self._device)
            out = self._model(
                encoder_outputs=(states,), attention_mask=mask, decoder_input_ids=start, use_cache=True
            )
        cache = out.past_key_values

        def advance(going: list[int], chosen: list[int]) -> torch.Tensor:
            nonlocal mask, states
            if len(going) < len(mask):
                rows = torch.tensor(going, device=self._device)
                mask, states = mask[rows], states[rows]
                cache.batch_select_indices(rows)
            step = self._model(
                encoder_outputs=(states,),
                attention_mask=mask,
                decoder_input_ids=torch.tensor(chosen, device=self._device)[:, None],
                past_key_values=cache,
                use_cache=True,
            )
            logits: torch.Tensor = step.logits[:, -1]
            return logits

        steps = write(out.logits[:, -1], advance, writings, temperature)
        while True:
            with torch.inference_mode():
                try:
                    next(steps)
                except StopIteration:
                    return
            yield


def length(parts: Parts) -> int:
    """Tokens of all parts of a prompt."""
    return sum(map(len, parts))


def joined_states(model: Any, ids: Sequence[Parts], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What the decoder attends to: the encoder's states (prompts, tokens, width), and a mask (1: it counts).

    Each part goes through the encoder apart; the states of a prompt's parts follow one another.
    """
    parts = [torch.tensor(part) for prompt in ids for part in prompt]
    padded = pad_sequence(parts, batch_first=True, padding_value=pad).to(model.device)
    own = _mask([len(part) for part in parts]).to(model.device)
    states = model.get_encoder()(input_ids=padded, attention_mask=own).last_hidden_state
    lengths = [length(prompt) for prompt in ids]
    return (
        pad_sequence(states[own.bool()].split(lengths), batch_first=True),
        _mask(lengths).to(model.device),
    )


def _mask(lengths: Sequence[int]) -> torch.Tensor:
    return (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()


def _decoder_start(name: str, model: Any, frame: Any) -> list[int]:
    """What the decoder is given before the first token of its own.

    The start token; then the forced first one, or the opening token that the tokenizer puts before every
    text (BART's), for so its targets looked in training.
    """
    start = model.generation_config.decoder_start_token_id
    start = model.config.decoder_start_token_id if start is None else start
    if start is None:
        raise ModelError(f"{name}: its configuration names no decoder_start_token_id; add it to config.json")
    opening = frame.encode("a").ids[:1]
    forced = model.generation_config.forced_bos_token_id
    if forced is None and opening == [getattr(model.config, "bos_token_id", None)]:
        forced = opening[0]
    return [int(start)] if forced is None else [int(start), int(forced)]
