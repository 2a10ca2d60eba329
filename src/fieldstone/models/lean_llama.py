"""Llama's forward pass on the CPU, with little around its matrix products.

The same weights and the same arithmetic as transformers' LlamaForCausalLM (and Mistral's and Qwen2's, which
differ from it in biases alone), but: packed weights, one product for queries, keys and values and one for
gate and up; no token of padding is read; logits only where they are asked for; a step's queries that share
keys are one product; sums between layers are kept in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from torch.nn.functional import rms_norm, scaled_dot_product_attention, silu
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from fieldstone.models.packed import PackedLinear
from fieldstone.models.states import RoomyLayer, Row

ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM")
_ROTATIONS = ("default", "linear", "llama3")  # those whose frequencies do not change with the length

_CACHED_TOKENS = 512

# queries (tokens, heads, size), keys and values (tokens, kv heads, size) -> (tokens, heads * size)
_Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def refusal(model: Any, device: str) -> str:
    """Why this model cannot be read here; empty where it can."""
    config = model.config
    if device != "cpu":
        return f"the lean engine computes on the CPU, not on {device}"
    if type(model).__name__ not in ARCHITECTURES:
        return f"the lean engine reads {', '.join(ARCHITECTURES)}, not {type(model).__name__}"
    if config.hidden_act != "silu" or config.rope_parameters["rope_type"] not in _ROTATIONS:
        return f"the lean engine reads silu with one of the rotations {', '.join(_ROTATIONS)}"
    if any(type(layer) is not DynamicLayer for layer in DynamicCache(config=config).layers):
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
    """The weights of a model of transformers, repacked; the model itself is no longer needed."""

    def __init__(self, model: Any) -> None:
        config, inner = model.config, model.model
        self._heads, self._kv_heads = config.num_attention_heads, config.num_key_value_heads
        self._size = inner.layers[0].self_attn.head_dim
        self._eps = config.rms_norm_eps
        self._embedding = inner.embed_tokens.weight.detach()
        self._frequencies = inner.rotary_emb.inv_freq.float()
        self._scaling = inner.rotary_emb.attention_scaling
        self._layers = []
        for layer in inner.layers:
            attention, mlp = layer.self_attn, layer.mlp
            self._layers.append(
                _Layer(
                    layer.input_layernorm.weight.detach().float(),
                    PackedLinear([attention.q_proj, attention.k_proj, attention.v_proj]),
                    PackedLinear([attention.o_proj]),
                    layer.post_attention_layernorm.weight.detach().float(),
                    PackedLinear([mlp.gate_proj, mlp.up_proj]),
                    PackedLinear([mlp.down_proj]),
                )
            )
            layer.to("meta")  # or memory would hold all weights twice
        self._last_norm = inner.norm.weight.detach().float()
        self._to_logits = PackedLinear([model.lm_head])

    def read(
        self, rows: Sequence[Row], keep: Sequence[Sequence[int]], room: int
    ) -> tuple[torch.Tensor, Cache]:
        """What remains of each row: logits (all positions kept, vocabulary), and all states.

        `keep` holds for each row the positions in its rest. The rows' states end at one column.
        """
        lengths = [row.known + len(row.rest) for row in rows]
        cache = self._buffers(rows, max(lengths), room)
        ids = torch.tensor([token for row in rows for token in row.rest])
        positions = torch.cat([torch.arange(row.known, n) for row, n in zip(rows, lengths, strict=True)])
        x, turn = self._embedding[ids].float(), self._rotation(positions)
        starts = [0, *accumulate(len(row.rest) for row in rows)]
        masks = [self._causal(row) if row.known else None for row in rows]
        # a few rows at a time: what lies between the products stays in the processor's cache
        batches = list(_consecutive([len(row.rest) for row in rows], _CACHED_TOKENS))
        for index, states in enumerate(cache.layers):
            for batch in batches:
                attend = partial(self._attend_rows, rows, masks, states, batch)
                tokens = slice(starts[batch[0]], starts[batch[-1] + 1])
                self._layer(index, x[tokens], (turn[0][tokens], turn[1][tokens]), attend)
        wanted = [start + i for start, places in zip(starts[:-1], keep, strict=True) for i in places]
        return self._logits(x[wanted]), cache

    def step(
        self, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: Cache
    ) -> torch.Tensor:
        """One token a row after the states in `cache`: logits (rows, vocabulary). `mask`: (rows, columns)."""
        dtype = self._embedding.dtype
        hidden = None
        if not bool(mask.all()):
            hidden = torch.zeros(mask.shape, dtype=dtype).masked_fill_(mask == 0, -torch.inf)[:, None, None]
        x, turn = self._embedding[ids].float(), self._rotation(positions)
        for index, states in enumerate(cache.layers):
            self._layer(index, x, turn, partial(self._attend_next, states, hidden))
        return self._logits(x)

    def _rotation(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines of the rotary embedding (Su et al. 2021), each (tokens, 1, half a head)."""
        angles = positions.float()[:, None, None] * self._frequencies
        return angles.cos() * self._scaling, angles.sin() * self._scaling

    def _layer(
        self, index: int, x: torch.Tensor, turn: tuple[torch.Tensor, torch.Tensor], attend: _Attend
    ) -> None:
        """One layer over x (tokens, width), in place."""
        layer, dtype, turned_heads = self._layers[index], self._embedding.dtype, self._heads + self._kv_heads
        cos, sin = turn
        normed = rms_norm(x, x.shape[1:], layer.before_attention, self._eps).to(dtype)
        parts = layer.qkv(normed).view(len(x), -1, self._size)
        a, b = parts[:, :turned_heads].float().chunk(2, -1)
        turned = torch.cat([a * cos - b * sin, b * cos + a * sin], -1).to(dtype)
        x += layer.out(attend(turned[:, : self._heads], turned[:, self._heads :], parts[:, turned_heads:]))
        normed = rms_norm(x, x.shape[1:], layer.before_mlp, self._eps).to(dtype)
        gate, up = layer.gate_up(normed).chunk(2, -1)
        x += layer.down(silu(gate).mul_(up))

    def _logits(self, states: torch.Tensor) -> torch.Tensor:
        if not len(states):  # states alone were asked for
            return states
        normed = rms_norm(states, states.shape[1:], self._last_norm, self._eps)
        return self._to_logits(normed.to(self._embedding.dtype))

    def _buffers(self, rows: Sequence[Row], width: int, room: int) -> Cache:
        """Buffers for all states, the known ones in place, so that every row ends at column `width`."""
        shape = (len(rows), self._kv_heads, width + room, self._size)
        cache = Cache(layers=[RoomyLayer(room) for _ in self._layers])
        for index, layer in enumerate(cache.layers):
            pair = self._embedding.new_zeros(shape), self._embedding.new_zeros(shape)
            for i, row in enumerate(rows):
                if row.states is not None:
                    end = width - len(row.rest)
                    for buffer, known in zip(pair, row.states[index], strict=True):
                        buffer[i, :, end - row.known : end] = known
            layer.fill(*pair, width)
        return cache

    def _attend_next(
        self,
        states: RoomyLayer,
        hidden: torch.Tensor | None,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
    ) -> torch.Tensor:
        """Attention of one token a row over all of the row's states."""
        keys, values = states.update(k[:, :, None], v[:, :, None])
        # the queries that share a head of keys stand as rows of one product: 7 times as fast in bfloat16
        grouped = q.view(len(q), self._kv_heads, -1, self._size)
        return scaled_dot_product_attention(grouped, keys, values, attn_mask=hidden).reshape(len(q), -1)

    def _attend_rows(
        self,
        rows: Sequence[Row],
        masks: Sequence[torch.Tensor | None],
        states: RoomyLayer,
        batch: Sequence[int],
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
    ) -> torch.Tensor:
        """Attention of what is read of the rows in `batch`: causal, and over all that is known of them."""
        width = states.get_seq_length()
        seen = q.new_empty((len(q), self._heads * self._size))
        end = 0
        for i in batch:
            n, mask = len(rows[i].rest), masks[i]
            own, end = slice(end, end + n), end + n
            states.keys[i, :, width - n :] = k[own].transpose(0, 1)
            states.values[i, :, width - n :] = v[own].transpose(0, 1)
            first = width - n - rows[i].known
            pair = states.keys[i : i + 1, :, first:], states.values[i : i + 1, :, first:]
            if mask is None:
                query = q[own].transpose(0, 1)[None]
                out = scaled_dot_product_attention(query, *pair, is_causal=True, enable_gqa=True)
                seen[own] = out[0].transpose(0, 1).reshape(n, -1)
            else:
                grouped = q[own].view(n, self._kv_heads, -1, self._size).permute(1, 2, 0, 3)
                query = grouped.reshape(1, self._kv_heads, -1, self._size)
                out = scaled_dot_product_attention(query, *pair, attn_mask=mask)
                out = out.view(self._kv_heads, -1, n, self._size).permute(2, 0, 1, 3)
                seen[own] = out.reshape(n, -1)
        return seen

    def _causal(self, row: Row) -> torch.Tensor:
        """What the rest of a row sees, once for each query that shares keys: (groups * rest, all tokens)."""
        n = len(row.rest)
        mask: torch.Tensor = self._embedding.new_full((n, row.known + n), -torch.inf).triu_(row.known + 1)
        return torch.cat([mask] * (self._heads // self._kv_heads))


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
