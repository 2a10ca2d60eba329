"""Llama's forward pass on the CPU, with little around its matrix products.

The same weights and the same arithmetic as transformers' LlamaForCausalLM (and Mistral's and Qwen2's, which
differ from it in biases alone), but: packed weights, one product for queries, keys and values and one for
gate and up; no token of padding is read; logits only where they are asked for; attention in plain products;
sums between layers are kept in float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import rms_norm, silu

from fieldstone.models.attention import attend_causal, attend_next
from fieldstone.models.packed import PackedLinear
from fieldstone.models.states import Buffers, Row, Spans
from fieldstone.models.weights import Weights
from fieldstone.models.weights import refusal as weights_refusal

KINDS = ("llama", "mistral", "qwen2")
INSIDE = "model."
"""What stands before the names of the weights where the folder holds the last layer too."""

_ROTATIONS = ("default", "linear", "llama3")  # those whose frequencies do not change with the length

_CACHED_TOKENS = 512

# queries (tokens, heads, size), keys and values (tokens, kv heads, size) -> (tokens, heads * size)
_Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def refusal(folder: Path, config: Any, device: str) -> str:
    """Why the model in `folder` cannot be read here; empty where it can."""
    if why := weights_refusal(folder, config, device):
        return why
    if config.model_type not in KINDS:
        return f"the lean engine reads {', '.join(KINDS)}, not {config.model_type}"
    rope = config.rope_parameters
    partly = rope.get("partial_rotary_factor", 1.0) != 1.0
    if config.hidden_act != "silu" or rope["rope_type"] not in _ROTATIONS or partly:
        return f"the lean engine reads silu with one of the rotations {', '.join(_ROTATIONS)}"
    whole = set(getattr(config, "layer_types", None) or ()) == {"full_attention"}
    if getattr(config, "sliding_window", None) and not whole:
        return "the lean engine reads no sliding windows"
    return ""


@dataclass(frozen=True, slots=True)
class _Layer:
    before_attention: torch.Tensor
    qkv: PackedLinear
    out: PackedLinear
    before_mlp: torch.Tensor
    gate_up: PackedLinear
    down: PackedLinear


class LeanLlama:
    """The model that `config` tells of, of these weights."""

    def __init__(self, config: Any, weights: Weights) -> None:
        self._heads = config.num_attention_heads
        self._kv_heads = config.num_key_value_heads or self._heads
        self._size = getattr(config, "head_dim", None) or config.hidden_size // self._heads
        self._eps = config.rms_norm_eps
        self._embedding = weights["embed_tokens.weight"]
        self._frequencies = _frequencies(config.rope_parameters, self._size)
        self._layers = []
        for i in range(config.num_hidden_layers):
            layer = f"layers.{i}."
            q, k, v, out = (weights.linear(f"{layer}self_attn.{part}_proj") for part in "qkvo")
            gate, up, down = (weights.linear(f"{layer}mlp.{part}_proj") for part in ("gate", "up", "down"))
            self._layers.append(
                _Layer(
                    weights[f"{layer}input_layernorm.weight"].float(),
                    PackedLinear([q, k, v]),
                    PackedLinear([out]),
                    weights[f"{layer}post_attention_layernorm.weight"].float(),
                    PackedLinear([gate, up]),
                    PackedLinear([down]),
                )
            )
        self._last_norm = weights["norm.weight"].float()
        tied = config.tie_word_embeddings
        self._to_logits = PackedLinear([(self._embedding, None) if tied else weights.linear("lm_head")])

    def read(
        self, rows: Sequence[Row], keep: Sequence[Sequence[int]], room: int | None
    ) -> tuple[torch.Tensor, list[Buffers], Spans]:
        """What remains of each row: logits (all positions kept, vocabulary), all states, their places.

        `keep` holds for each row the positions in its rest. The rows' states end at one column. Without
        `room` no states are given.
        """
        lengths = [row.known + len(row.rest) for row in rows]
        width = max(lengths)
        ids = torch.tensor([token for row in rows for token in row.rest])
        positions = torch.cat([torch.arange(row.known, n) for row, n in zip(rows, lengths, strict=True)])
        x, turn = self._embedding[ids].float(), self._rotation(positions)
        starts = [0, *accumulate(len(row.rest) for row in rows)]
        # a few rows at a time: what lies between the products stays in the processor's cache
        batches = list(_consecutive([len(row.rest) for row in rows], _CACHED_TOKENS))
        layers: list[Buffers] = []
        for index in range(len(self._layers)):
            if room is not None or not layers:  # else the first layer's do for all, and stay in the cache
                layers.append(self._buffers(len(rows), width, room or 0))
            states = layers[-1]
            self._put_known(rows, index, states)
            for batch in batches:
                attend = partial(self._attend_rows, rows, states, batch)
                tokens = slice(starts[batch[0]], starts[batch[-1] + 1])
                self._layer(index, x[tokens], (turn[0][tokens], turn[1][tokens]), attend)
        wanted = [start + i for start, places in zip(starts[:-1], keep, strict=True) for i in places]
        spans = [(width - n, width) for n in lengths]
        return self._logits(x[wanted]), [] if room is None else layers, spans

    def step(
        self, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, layers: list[Buffers]
    ) -> torch.Tensor:
        """One token a row after the states in `layers`: logits (rows, vocabulary); `mask` (rows, columns)."""
        dtype = self._embedding.dtype
        hidden = None
        if not bool(mask.all()):
            hidden = torch.zeros(mask.shape, dtype=dtype).masked_fill_(mask == 0, -torch.inf)[:, None, None]
        x, turn = self._embedding[ids].float(), self._rotation(positions)
        for index, states in enumerate(layers):
            self._layer(index, x, turn, partial(self._attend_next, states, hidden))
        return self._logits(x)

    def _rotation(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines of the rotary embedding (Su et al. 2021), each (tokens, 1, half a head)."""
        angles = positions.float()[:, None, None] * self._frequencies
        return angles.cos(), angles.sin()

    def _layer(
        self, index: int, x: torch.Tensor, turn: tuple[torch.Tensor, torch.Tensor], attend: _Attend
    ) -> None:
        """One layer over x (tokens, width), in place."""
        layer, dtype, turned_heads = self._layers[index], self._embedding.dtype, self._heads + self._kv_heads
        cos, sin = turn
        normed = rms_norm(x, x.shape[1:], layer.before_attention, self._eps).to(dtype)
        parts = layer.qkv(normed).view(len(x), -1, self._size)
        a, b = parts[:, :turned_heads].float().chunk(2, -1)
        turned = torch.cat([a * cos - b * sin, b * cos + a * sin], -1)
        turned[:, : self._heads] *= self._size**-0.5  # before it is rounded
        turned = turned.to(dtype)
        x += layer.out(attend(turned[:, : self._heads], turned[:, self._heads :], parts[:, turned_heads:]))
        normed = rms_norm(x, x.shape[1:], layer.before_mlp, self._eps).to(dtype)
        gate, up = layer.gate_up(normed).chunk(2, -1)
        x += layer.down(silu(gate).mul_(up))

    def _logits(self, states: torch.Tensor) -> torch.Tensor:
        if not len(states):  # states alone were asked for
            return states
        normed = rms_norm(states, states.shape[1:], self._last_norm, self._eps)
        return self._to_logits(normed.to(self._embedding.dtype))

    def _buffers(self, rows: int, width: int, room: int) -> Buffers:
        """One layer's, for states that end at column `width`."""
        shape = (rows, self._kv_heads, width + room, self._size)
        return Buffers(self._embedding.new_empty(shape), self._embedding.new_empty(shape), width)

    def _put_known(self, rows: Sequence[Row], index: int, states: Buffers) -> None:
        """Known states of the layer `index` to their places, so that every row ends at one column."""
        for i, row in enumerate(rows):
            end = states.length - len(row.rest)
            start = end - row.known
            for which, buffer in enumerate((states.keys, states.values)):
                buffer[i, :, :start] = 0  # no token's, so a step hides it: but nothing hides NaN
                if row.states is not None:
                    buffer[i, :, start:end] = row.states[index][which]

    def _attend_next(
        self,
        states: Buffers,
        hidden: torch.Tensor | None,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
    ) -> torch.Tensor:
        """Attention of one token a row over all of the row's states."""
        return attend_next(q, *states.add(k[:, :, None], v[:, :, None]), hidden)

    def _attend_rows(
        self,
        rows: Sequence[Row],
        states: Buffers,
        batch: Sequence[int],
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
    ) -> torch.Tensor:
        """Attention of what is read of the rows in `batch`: causal, and over all that is known of them."""
        width = states.length
        seen = q.new_empty((len(q), self._heads * self._size))
        end = 0
        for i in batch:
            n = len(rows[i].rest)
            own, end = slice(end, end + n), end + n
            states.keys[i, :, width - n :] = k[own].transpose(0, 1)
            states.values[i, :, width - n :] = v[own].transpose(0, 1)
            first = width - n - rows[i].known
            seen[own] = attend_causal(q[own], states.keys[i, :, first:], states.values[i, :, first:])
        return seen


def _frequencies(rope: Mapping[str, Any], size: int) -> torch.Tensor:
    """The frequencies of the rotary embedding: (half a head)."""
    plain: torch.Tensor = 1 / rope["rope_theta"] ** (torch.arange(0, size, 2, dtype=torch.float) / size)
    if rope["rope_type"] == "default":
        return plain
    slowed = plain / float(rope["factor"])
    if rope["rope_type"] == "linear":
        return slowed
    # Llama 3: the slow ones are slowed, the fast ones are left, and between them it is done by shares
    turns = plain * float(rope["original_max_position_embeddings"]) / (2 * math.pi)
    low, high = float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return plain * kept + slowed * (1 - kept)


def _consecutive(lengths: Sequence[int], budget: int) -> Iterator[range]:
    """Ranges of rows that follow one another, each of at most `budget` tokens (or one row)."""
    start, size = 0, 0
    for i, length in enumerate(lengths):
        if i > start and size + length > budget:
            yield range(start, i)
            start, size = i, 0
        size += length
    if lengths:
        yield range(start, len(lengths))
