"""An encoder-decoder model (T5, BART): batched writing and exact scoring."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSeq2SeqLM

from fieldstone.errors import ModelError
from fieldstone.models import Completion, Options, Prompt, Score
from fieldstone.models.batches import by_length
from fieldstone.models.decoding import Writing, seeds, write
from fieldstone.models.files import weights_fingerprint
from fieldstone.models.huggingface import read_model, read_tokenizer
from fieldstone.models.limits import check_request
from fieldstone.models.tokens import Tokens, framed

_BATCH_TOKENS = 4096


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
    ) -> list[Completion]:
        """One completion a prompt; `temperature` 0 is greedy. A stop string ends the text and is cut off."""
        check_request(max_tokens, temperature)
        ids = self._prompts(prompts)
        rows = self._writings(ids, max_tokens, stop, temperature, seed)
        for prefill in dict.fromkeys(prompt.prefill for prompt in prompts):
            same = [i for i, prompt in enumerate(prompts) if prompt.prefill == prefill]
            for batch in by_length([len(ids[i]) for i in same], budget=_BATCH_TOKENS):
                own = [same[i] for i in batch]
                for _ in self._write([ids[i] for i in own], [rows[i] for i in own], prefill, temperature):
                    pass
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
        begun = [self._begun(prompt.prefill) for prompt in prompts]
        wanted = self._tokens.encode(completions)
        if len(wanted) != len(ids):
            raise ModelError(f"{len(ids)} prompts and {len(wanted)} completions: there must be one each")
        for start, row in zip(begun, wanted, strict=True):
            self._check_length(len(start) + len(row))
        logprobs = [0.0] * len(ids)
        for batch in by_length(
            [len(a) + len(b) for a, b in zip(ids, wanted, strict=True)], budget=_BATCH_TOKENS
        ):
            sums = self._score([ids[i] for i in batch], [begun[i] for i in batch], [wanted[i] for i in batch])
            for i, logprob in zip(batch, sums, strict=True):
                logprobs[i] = logprob
        return [Score(logprob, len(row)) for logprob, row in zip(logprobs, wanted, strict=True)]

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, without special tokens."""
        return [len(ids) for ids in self._tokens.encode(texts)]

    def forget(self) -> None:
        """Nothing is kept of earlier prompts."""

    def _prompts(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        texts = []
        for prompt in prompts:
            instruction = f"{prompt.system}\n" if prompt.chat and prompt.system else ""
            texts.append(instruction + prompt.prefix + prompt.text)
        ids: list[list[int]] = [encoding.ids for encoding in self._frame.encode_batch(texts)]
        for row in ids:
            self._check_length(len(row))
        return [row or [self._start[0]] for row in ids]

    def _begun(self, prefill: str) -> list[int]:
        """What the decoder has before its first token of its own."""
        return self._start + self._tokens.encode([prefill])[0]

    def _check_length(self, length: int) -> None:
        if length > self.context_tokens:
            raise ModelError(
                f"{self.name}: a text of {length} tokens does not fit into its {self.context_tokens}; "
                "give fewer or shorter passages"
            )

    def _writings(
        self, ids: list[list[int]], max_tokens: int, stop: Sequence[str], temperature: float, seed: int
    ) -> list[Writing]:
        limit = min(max_tokens, self.context_tokens - len(self._start))
        own = seeds(seed, ids, temperature)
        return [Writing(self._tokens, limit, stop, self._ends, one) for one in own]

    def _encoded(self, ids: list[list[int]]) -> tuple[Any, torch.Tensor]:
        """The encoder's output for a batch, and its mask."""
        width = max(len(row) for row in ids)
        padded = torch.full((len(ids), width), self._tokenizer.pad_token_id or 0)
        mask = torch.zeros((len(ids), width), dtype=torch.long)
        for i, row in enumerate(ids):
            padded[i, : len(row)] = torch.tensor(row)
            mask[i, : len(row)] = 1
        mask = mask.to(self._device)
        return self._model.get_encoder()(input_ids=padded.to(self._device), attention_mask=mask), mask

    @torch.inference_mode()
    def _score(self, ids: list[list[int]], begun: list[list[int]], wanted: list[list[int]]) -> list[float]:
        encoded, mask = self._encoded(ids)
        read = [start + row for start, row in zip(begun, wanted, strict=True)]
        inputs = torch.zeros((len(ids), max(len(row) for row in read)), dtype=torch.long)
        for i, row in enumerate(read):
            inputs[i, : len(row)] = torch.tensor(row)
        out = self._model(
            encoder_outputs=encoded,
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
        self, ids: list[list[int]], writings: Sequence[Writing], prefill: str, temperature: float
    ) -> Iterator[None]:
        """Writes all rows at once, a token each a step."""
        if all(writing.done for writing in writings):
            return
        with torch.inference_mode():
            encoded, mask = self._encoded(ids)
            start = torch.tensor([self._begun(prefill)] * len(ids), device=self._device)
            out = self._model(
                encoder_outputs=encoded, attention_mask=mask, decoder_input_ids=start, use_cache=True
            )
        cache, states = out.past_key_values, encoded.last_hidden_state

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
