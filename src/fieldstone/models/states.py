"""Key/value states of a causal model: kept for prefixes that come back, joined into batches of rows.

What a causal model computes at a token depends only on the tokens before it. So the states of a prefix
can be computed once and serve every prompt that begins with it, whatever follows.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer

# One (keys, values) pair a layer, each (heads, tokens, width).
States = tuple[tuple[torch.Tensor, torch.Tensor], ...]
Ids = tuple[int, ...]


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


class RoomyLayer(DynamicLayer):  # type: ignore[misc]  # transformers is untyped here
    """One layer's states in a buffer with room to grow: a step writes one token and copies none."""

    def __init__(self, room: int = 0) -> None:
        super().__init__()
        self.keys: torch.Tensor
        self.values: torch.Tensor
        self._room = room
        self._buffers: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Adds states (batch, heads, new tokens, width); returns all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if self._buffers is None or end > self._buffers[0].shape[-2]:
            buffers = _buffer(key_states, end + self._room), _buffer(value_states, end + self._room)
            if start:
                buffers[0][:, :, :start], buffers[1][:, :, :start] = self.keys, self.values
            self._buffers = buffers
        keys, values = self._buffers
        keys[:, :, start:end], values[:, :, start:end] = key_states, value_states
        self.keys, self.values = keys[:, :, :end], values[:, :, :end]
        return self.keys, self.values

    def fill(self, keys: torch.Tensor, values: torch.Tensor, length: int) -> None:
        """Takes over whole buffers, of which the first `length` tokens are filled."""
        self.lazy_initialization(keys, values)
        self._buffers = keys, values
        self.keys, self.values = keys[:, :, :length], values[:, :, :length]

    def select(self, rows: torch.Tensor) -> None:
        """Keeps only these rows of the batch."""
        assert self._buffers is not None
        length = self.get_seq_length()
        self.fill(self._buffers[0][rows], self._buffers[1][rows], length)


def stacked(rows: Sequence[States | None], layers: int, *, incoming: int, room: int) -> Cache:
    """The rows' states as one batch, each ending at the same column (zeros before).

    `incoming` tokens are about to be read; `room` more may follow.
    """
    cache = Cache(layers=[RoomyLayer(room) for _ in range(layers)])
    first = next((row for row in rows if row is not None), None)
    if first is None:
        return cache
    lengths = [0 if row is None else row[0][0].shape[1] for row in rows]
    width = max(lengths)
    for index, layer in enumerate(cache.layers):
        pair = []
        for part, like in enumerate(first[index]):
            joined = like.new_zeros((len(rows), like.shape[0], width + incoming + room, like.shape[2]))
            for i, row in enumerate(rows):
                if row is not None:
                    joined[i, :, width - lengths[i] : width] = row[index][part]
            pair.append(joined)
        layer.fill(pair[0], pair[1], width)
    return cache


def unstacked(cache: Cache, row: int, start: int, end: int) -> States:
    """A row's states between two columns, as views."""
    return tuple((layer.keys[row, :, start:end], layer.values[row, :, start:end]) for layer in cache.layers)


def copied(states: States) -> States:
    """The states in memory of their own, so that the batch they come from can go."""
    return tuple((keys.clone(), values.clone()) for keys, values in states)


def cut(states: States, tokens: int) -> States:
    """The states of the first `tokens` tokens, as views."""
    return tuple((keys[:, :tokens], values[:, :tokens]) for keys, values in states)


def _buffer(like: torch.Tensor, length: int) -> torch.Tensor:
    return like.new_empty((*like.shape[:2], length, like.shape[3]))


def _bytes(states: States) -> int:
    return sum(keys.nbytes + values.nbytes for keys, values in states)


def shared_start(a: Ids, b: Ids) -> int:
    """How many leading tokens two prefixes share."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
