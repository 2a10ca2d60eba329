"""Forward passes of a causal model over batches of rows, with the states of their prefixes kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from fieldstone.models.batches import by_length
from fieldstone.models.states import (
    PrefixStates,
    Row,
    Spans,
    States,
    copied,
    cut,
    shared_start,
    shrunk,
    unstacked,
)

BATCH_TOKENS = 4096
_WORTH_SHARING = 32  # a common start shorter than this is computed again rather than looked up


class Engine(Protocol):
    """What computes: `LeanLlama`, or `Padded` around any model of transformers."""

    def read(
        self, rows: Sequence[Row], keep: Sequence[Sequence[int]], room: int | None
    ) -> tuple[torch.Tensor, list[Any], Spans]:
        """Reads what remains of each row: logits (all positions kept, vocabulary), all states, their places.

        `keep` holds for each row the positions in its rest whose logits are wanted. With `room`, tokens that
        may follow, the rows' states end at one column; with None the states are wanted by nobody.
        """

    def step(
        self, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, layers: list[Any]
    ) -> torch.Tensor:
        """One token a row after the states in `layers`: logits (rows, vocabulary); `mask` (rows, columns)."""


class Forward:
    """An engine that reads rows, and the states that are kept; all of it runs in inference mode."""

    def __init__(self, engine: Engine, device: str, kept_bytes: int) -> None:
        self.engine, self.device = engine, device
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
        _, layers, spans = self.read(rows, [[] for _ in rows], room=0)
        result = {}
        for i, (ids, span) in enumerate(zip(prefixes, spans, strict=True)):
            states = copied(unstacked(layers, i, *span))
            self.kept.put(ids, states)
            result[ids] = states
        return result

    @torch.inference_mode()
    def read(
        self, rows: Sequence[Row], keep: Sequence[Sequence[int]], room: int | None
    ) -> tuple[torch.Tensor, list[Any], Spans]:
        """As the engine does."""
        return self.engine.read(rows, keep, room)


class Step:
    """The next token's logits, from states of rows that all end at one column."""

    def __init__(self, forward: Forward, layers: list[Any], spans: Spans) -> None:
        device = forward.device
        self._lengths = torch.tensor([end - start for start, end in spans], device=device)
        starts = torch.tensor([start for start, _ in spans], device=device)
        self._mask = (torch.arange(spans[0][1], device=device)[None] >= starts[:, None]).long()
        self._engine, self._layers, self._device = forward.engine, layers, device
        self._places = list(range(len(spans)))  # of each row that goes on, among the states

    def __call__(self, going: list[int], chosen: list[int]) -> torch.Tensor:
        """Reads the chosen tokens of the rows that go on."""
        self._places = [self._places[i] for i in going]
        if len(going) < len(self._lengths):
            self._close_ranks()
        self._mask = torch.cat([self._mask, self._mask.new_ones((len(chosen), 1))], 1)
        places = torch.tensor(self._places, device=self._device)
        ids = torch.empty_like(places)
        ids[places] = torch.tensor(chosen, device=self._device)
        logits = self._engine.step(ids, self._mask, self._lengths, self._layers)
        self._lengths = self._lengths + 1
        return logits[places]

    def _close_ranks(self) -> None:
        """Rows from the end take the places of those that are done: the others' states are not copied."""
        count = len(self._places)
        free = set(range(count)) - set(self._places)
        moves = [(place, free.pop()) for place in self._places if place >= count]
        for layer in self._layers:
            layer.shrink(count, moves)
        self._lengths, self._mask = (shrunk(its, count, moves) for its in (self._lengths, self._mask))
        moved = dict(moves)
        self._places = [moved.get(place, place) for place in self._places]
