"""Forward passes of a causal model over batches of rows, with the states of their prefixes kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from fieldstone.errors import ModelError
from fieldstone.models import lean_llama
from fieldstone.models.batches import by_length
from fieldstone.models.devices import pick_engine
from fieldstone.models.states import PrefixStates, Row, States, copied, cut, shared_start, stacked, unstacked

BATCH_TOKENS = 4096
_WORTH_SHARING = 32  # a common start shorter than this is computed again rather than looked up

Spans = list[tuple[int, int]]
"""The first column of each row's states, and the one behind its last."""


class Forward:
    """A causal model of transformers that reads rows; all of it runs in inference mode.

    The `engine` lean, our own forward pass, takes the weights over, and `model` is None; `auto` is lean where
    it knows the architecture.
    """

    def __init__(self, name: str, model: Any, device: str, kept_bytes: int, engine: str = "auto") -> None:
        layers = DynamicCache(config=model.config).layers
        if any(type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers):
            raise ModelError(
                f"{name}: {type(model).__name__} keeps another state than keys and values, which is not "
                "supported in this process; serve it (vLLM, llama.cpp) and give http://host:port/v1#model"
            )
        lean = pick_engine(name, engine, lean_llama.refusal(model, device)) == "lean"
        self._lean = lean_llama.LeanLlama(model) if lean else None
        self.model: Any = None if lean else model
        self.device, self.layers = device, len(layers)
        self.kept = PrefixStates(kept_bytes)

    @torch.inference_mode()
    def rows(self, halves: Sequence[tuple[list[int], list[int]]], wanted: Sequence[list[int]]) -> list[Row]:
        """Each (prefix, text) and what is wanted after it, as kept states and what remains to be read.

        At least one token of the prompt remains, for the next one's logits are not among the states.
        """
        states = self._prefixes({tuple(prefix) for prefix, _ in halves if prefix})
        rows = []
        for (prefix, text), completion in zip(halves, wanted, strict=True):
            known = len(prefix) if text else len(prefix) - 1
            kept = cut(states[tuple(prefix)], known) if known > 0 else None
            rows.append(Row(kept, max(known, 0), (prefix + text)[max(known, 0) :] + completion))
        return rows

    def _prefixes(self, wanted: set[tuple[int, ...]]) -> dict[tuple[int, ...], States]:
        """The states of each prefix: kept ones, and new ones that start from the nearest kept."""
        found = {ids: states for ids in wanted if (states := self.kept.get(ids)) is not None}
        new = sorted(wanted - found.keys())
        if len(new) > 1:
            start = new[0][: shared_start(new[0], new[-1])]  # sorted, so all others lie between
            if len(start) >= _WORTH_SHARING and self.kept.nearest(start)[0] < len(start):
                self._prefill([start])
        for batch in by_length([len(ids) for ids in new], budget=BATCH_TOKENS):
            found |= self._prefill([new[i] for i in batch])
        return found

    def _prefill(self, prefixes: Sequence[tuple[int, ...]]) -> dict[tuple[int, ...], States]:
        rows = []
        for ids in prefixes:
            shared, states = self.kept.nearest(ids)
            if shared < _WORTH_SHARING:
                shared, states = 0, None
            shared = min(shared, len(ids) - 1)
            rows.append(Row(cut(states, shared) if states else None, shared, list(ids[shared:])))
        _, cache, spans = self.read(rows, [[] for _ in rows], room=0)
        result = {}
        for i, (ids, span) in enumerate(zip(prefixes, spans, strict=True)):
            states = copied(unstacked(cache, i, *span))
            self.kept.put(ids, states)
            result[ids] = states
        return result

    @torch.inference_mode()
    def read(
        self, rows: Sequence[Row], keep: Sequence[Sequence[int]], room: int
    ) -> tuple[torch.Tensor, Cache, Spans]:
        """Runs the model over a batch: logits (all positions kept, vocabulary), all states and their places.

        `keep` holds for each row the positions in its rest whose logits are wanted.
        """
        if self._lean is not None:
            logits, cache = self._lean.read(rows, keep, room)
            width = max(row.known + len(row.rest) for row in rows)
            return logits, cache, [(width - row.known - len(row.rest), width) for row in rows]
        return self._read_padded(rows, keep, room)

    def _read_padded(
        self, rows: Sequence[Row], keep: Sequence[Sequence[int]], room: int
    ) -> tuple[torch.Tensor, Cache, Spans]:
        """Kept states stand to the left, ending at one column; what remains is read behind it and padded to
        the right, where causality keeps it from being seen.
        """
        width = max(len(row.rest) for row in rows)
        before = max(row.known for row in rows)
        ids = torch.zeros((len(rows), width), dtype=torch.long)
        for i, row in enumerate(rows):
            ids[i, : len(row.rest)] = torch.tensor(row.rest)
        mask = positions = None
        if before:
            known = torch.tensor([row.known for row in rows])[:, None]
            mask = (torch.arange(before + width)[None] >= before - known).long().to(self.device)
            positions = (torch.arange(width)[None] + known).to(self.device)
        cache = stacked([row.states for row in rows], self.layers, incoming=width, room=room)
        columns = sorted({place for places in keep for place in places}) or [0]
        logits = self.model(
            input_ids=ids.to(self.device),
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=torch.tensor(columns, device=self.device),
        ).logits
        at = [(i, columns.index(place)) for i, places in enumerate(keep) for place in places]
        logits = logits[[i for i, _ in at], [column for _, column in at]]
        return logits, cache, [(before - row.known, before + len(row.rest)) for row in rows]

    def step(
        self, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: Cache
    ) -> torch.Tensor:
        """One token a row after the states in `cache`: logits (rows, vocabulary). `mask`: (rows, columns)."""
        if self._lean is not None:
            return self._lean.step(ids, mask, positions, cache)
        logits: torch.Tensor = self.model(
            input_ids=ids[:, None],
            attention_mask=mask,
            position_ids=positions[:, None],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        return logits


class Step:
    """The next token's logits, from states that are shifted so that all rows end at one column."""

    def __init__(self, forward: Forward, cache: Cache, spans: Spans, room: int) -> None:
        device = forward.device
        self._lengths = torch.tensor([end - start for start, end in spans], device=device)
        width = int(self._lengths.max())
        if {end for _, end in spans} != {width} or cache.get_seq_length() != width:
            states = [unstacked(cache, i, *span) for i, span in enumerate(spans)]
            cache = stacked(states, forward.layers, incoming=0, room=room)
        columns = torch.arange(width, device=device)[None]
        self._mask = (columns >= width - self._lengths[:, None]).long()
        self._forward, self._cache, self._device = forward, cache, device

    def __call__(self, going: list[int], chosen: list[int]) -> torch.Tensor:
        """Reads the chosen tokens of the rows that go on."""
        if len(going) < len(self._lengths):
            rows = torch.tensor(going, device=self._device)
            self._lengths, self._mask = self._lengths[rows], self._mask[rows]
            for layer in self._cache.layers:
                layer.select(rows)
        self._mask = torch.cat([self._mask, self._mask.new_ones((len(chosen), 1))], 1)
        ids = torch.tensor(chosen, device=self._device)
        logits = self._forward.step(ids, self._mask, self._lengths, self._cache)
        self._lengths = self._lengths + 1
        return logits
