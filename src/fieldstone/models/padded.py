"""Any causal model of transformers, read in batches of rows that are padded to one length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from fieldstone.errors import ModelError
from fieldstone.models.states import Row, Spans, States, shrunk, unstacked


class Padded:
    """The forward pass of a `model` of transformers, with the interface of `LeanLlama`."""

    def __init__(self, name: str, model: Any, device: str) -> None:
        layers = DynamicCache(config=model.config).layers
        if any(type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers):
            raise ModelError(
                f"{name}: {type(model).__name__} keeps another state than keys and values, which is not "
                "supported in this process; serve it (vLLM, llama.cpp) and give http://host:port/v1#model"
            )
        self.model, self._device, self._layers = model, device, len(layers)

    def read(
        self, rows: Sequence[Row], keep: Sequence[Sequence[int]], room: int | None
    ) -> tuple[torch.Tensor, list[RoomyLayer], Spans]:
        """As `LeanLlama.read`. Kept states stand to the left, ending at one column; what remains is read
        behind it and padded to the right, where causality keeps it from being seen.
        """
        width = max(len(row.rest) for row in rows)
        before = max(row.known for row in rows)
        ids = torch.zeros((len(rows), width), dtype=torch.long)
        for i, row in enumerate(rows):
            ids[i, : len(row.rest)] = torch.tensor(row.rest)
        mask = positions = None
        if before:
            known = torch.tensor([row.known for row in rows])[:, None]
            mask = (torch.arange(before + width)[None] >= before - known).long().to(self._device)
            positions = (torch.arange(width)[None] + known).to(self._device)
        layers = self._stacked([row.states for row in rows], incoming=width, room=room or 0)
        columns = sorted({place for places in keep for place in places}) or [0]
        logits = self.model(
            input_ids=ids.to(self._device),
            attention_mask=mask,
            position_ids=positions,
            past_key_values=Cache(layers=layers),
            use_cache=True,
            logits_to_keep=torch.tensor(columns, device=self._device),
        ).logits
        at = [(i, columns.index(place)) for i, places in enumerate(keep) for place in places]
        logits = logits[[i for i, _ in at], [column for _, column in at]]
        spans = [(before - row.known, before + len(row.rest)) for row in rows]
        if room and len({end for _, end in spans}) > 1:
            states = [unstacked(layers, i, *span) for i, span in enumerate(spans)]
            width = max(end - start for start, end in spans)
            layers = self._stacked(states, incoming=0, room=room)
            spans = [(width - end + start, width) for start, end in spans]
        return logits, layers, spans

    def step(
        self, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, layers: list[RoomyLayer]
    ) -> torch.Tensor:
        """As `LeanLlama.step`."""
        logits: torch.Tensor = self.model(
            input_ids=ids[:, None],
            attention_mask=mask,
            position_ids=positions[:, None],
            past_key_values=Cache(layers=layers),
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        return logits

    def _stacked(self, rows: Sequence[States | None], *, incoming: int, room: int) -> list[RoomyLayer]:
        """The rows' states as one batch, each ending at the same column (zeros before).

        `incoming` tokens are about to be read; `room` more may follow.
        """
        layers = [RoomyLayer(room) for _ in range(self._layers)]
        first = next((row for row in rows if row is not None), None)
        if first is None:
            return layers
        lengths = [0 if row is None else row[0][0].shape[1] for row in rows]
        width = max(lengths)
        for index, layer in enumerate(layers):
            pair = []
            for part, like in enumerate(first[index]):
                joined = like.new_zeros((len(rows), like.shape[0], width + incoming + room, like.shape[2]))
                for i, row in enumerate(rows):
                    if row is not None:
                        joined[i, :, width - lengths[i] : width] = row[index][part]
                pair.append(joined)
            layer.fill(pair[0], pair[1], width)
        return layers


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

    def shrink(self, rows: int, moves: Sequence[tuple[int, int]]) -> None:
        """As `Buffers.shrink`."""
        assert self._buffers is not None
        keys, values = (shrunk(buffer, rows, moves) for buffer in self._buffers)
        self.fill(keys, values, self.get_seq_length())


def _buffer(like: torch.Tensor, length: int) -> torch.Tensor:
    return like.new_empty((*like.shape[:2], length, like.shape[3]))
