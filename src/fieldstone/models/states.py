"""Key/value states of a causal model: kept for prefixes that come back, joined into batches of rows.

What a causal model computes at a token depends only on the tokens before it. So the states of a prefix
can be computed once and serve every prompt that begins with it, whatever follows.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

# One (keys, values) pair a layer, each (heads, tokens, width).
States = tuple[tuple[torch.Tensor, torch.Tensor], ...]
Ids = tuple[int, ...]

Spans = list[tuple[int, int]]
"""The first column of each row's states, and the one behind its last."""


@dataclass(frozen=True, slots=True)
class Row:
    """What the model still has to read of one sequence: `rest` comes after `known` tokens with states."""

    states: States | None
    known: int
    rest: list[int]


class PrefixStates:
    """The most recently used prefixes' states, up to `limit` bytes; safe in many threads."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.bytes = 0
        self._kept: OrderedDict[Ids, States] = OrderedDict()
        self._lock = threading.Lock()

    def clear(self) -> None:
        """Keep nothing."""
        with self._lock:
            self._kept.clear()
            self.bytes = 0

    def get(self, ids: Ids) -> States | None:
        """The states of exactly these tokens."""
        with self._lock:
            states = self._kept.get(ids)
            if states is not None:
                self._kept.move_to_end(ids)
            return states

    def nearest(self, ids: Ids) -> tuple[int, States | None]:
        """The kept states that share most leading tokens with `ids`, cut to those; and how many these are."""
        with self._lock:
            kept = list(self._kept.items())
        best, found = 0, None
        for other, states in kept:
            if other[:best] == ids[:best] and (shared := shared_start(other, ids)) > best:
                best, found = shared, states
        return best, None if found is None else cut(found, best)

    def put(self, ids: Ids, states: States) -> None:
        """Keeps the states of these tokens, and drops what was used longest ago if they are too many."""
        size = _bytes(states)
        if size > self.limit:
            return
        with self._lock:
            if ids not in self._kept:
                self._kept[ids] = states
                self.bytes += size
            self._kept.move_to_end(ids)
            while self.bytes > self.limit:
                self.bytes -= _bytes(self._kept.popitem(last=False)[1])


class Layer(Protocol):
    """One layer's states of a batch of rows: (rows, heads, tokens, width)."""

    keys: torch.Tensor
    values: torch.Tensor

    def shrink(self, rows: int, moves: Sequence[tuple[int, int]]) -> None:
        """Keeps the first `rows` of the batch; before, each row of `moves` takes the place of another."""


class Buffers:
    """One layer's states of a batch of rows, with room to grow: a step writes one token and copies none.

    `keys` and `values` are what is filled of them: (rows, heads, tokens, width).
    """

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, length: int) -> None:
        """Whole buffers, of which the first `length` tokens are filled."""
        self._buffers = keys, values
        self._fill(length)

    def add(self, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Adds states (rows, heads, new tokens, width), for which there is room; returns all of them."""
        start = self.length
        end = start + keys.shape[-2]
        self._buffers[0][:, :, start:end], self._buffers[1][:, :, start:end] = keys, values
        self._fill(end)
        return self.keys, self.values

    def shrink(self, rows: int, moves: Sequence[tuple[int, int]]) -> None:
        """Keeps the first `rows` of the batch; before, each row of `moves` takes the place of another."""
        self._buffers = shrunk(self._buffers[0], rows, moves), shrunk(self._buffers[1], rows, moves)
        self._fill(self.length)

    def _fill(self, length: int) -> None:
        self.length = length
        self.keys, self.values = (buffer[:, :, :length] for buffer in self._buffers)


def shrunk(rows: torch.Tensor, count: int, moves: Sequence[tuple[int, int]]) -> torch.Tensor:
    """The first `count` rows; before, each row of `moves` takes the place of another, and no others move."""
    for old, new in moves:
        rows[new] = rows[old]
    return rows[:count]


def unstacked(cache: Sequence[Layer], row: int, start: int, end: int) -> States:
    """A row's states between two columns, as views."""
    return tuple((layer.keys[row, :, start:end], layer.values[row, :, start:end]) for layer in cache)


def copied(states: States) -> States:
    """The states in memory of their own, so that the batch they come from can go."""
    return tuple((keys.clone(), values.clone()) for keys, values in states)


def cut(states: States, tokens: int) -> States:
    """The states of the first `tokens` tokens, as views."""
    return tuple((keys[:, :tokens], values[:, :tokens]) for keys, values in states)


def _bytes(states: States) -> int:
    return sum(keys.nbytes + values.nbytes for keys, values in states)


def shared_start(a: Ids, b: Ids) -> int:
    """How many leading tokens two prefixes share."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
