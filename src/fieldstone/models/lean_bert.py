"""BERT's forward pass on the CPU, with little around its matrix products.

The same weights and the same arithmetic as transformers' BertModel, but: packed weights, one product for
queries, keys and values, GELU and the residual sum inside the products, and no mask where no row is padded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import layer_norm, scaled_dot_product_attention

from fieldstone.models.packed import PackedLinear


def refusal(model: Any, device: str) -> str:
    """Why this model cannot be read here; empty where it can."""
    config = model.config
    if device != "cpu":
        return f"the lean engine computes on the CPU, not on {device}"
    if type(model).__name__ != "BertModel" or config.is_decoder:
        return f"the lean engine reads BertModel, not {type(model).__name__}"
    if config.hidden_act != "gelu":
        return f"the lean engine reads the activation gelu, not {config.hidden_act}"
    return ""


@dataclass(frozen=True, slots=True)
class _Layer:
    qkv: PackedLinear
    out: PackedLinear
    after_attention: torch.nn.LayerNorm
    up: PackedLinear
    down: PackedLinear
    after_mlp: torch.nn.LayerNorm


class LeanBert:
    """The weights of a model of transformers, repacked; the model itself is no longer needed."""

    def __init__(self, model: Any) -> None:
        self._heads = model.config.num_attention_heads
        embeddings = model.embeddings
        self._words = embeddings.word_embeddings.weight.detach()
        self._places = embeddings.position_embeddings.weight.detach().float()
        self._places = self._places + embeddings.token_type_embeddings.weight.detach()[0]
        self._first = embeddings.LayerNorm
        self._layers = [
            _Layer(
                PackedLinear(
                    [layer.attention.self.query, layer.attention.self.key, layer.attention.self.value]
                ),
                PackedLinear([layer.attention.output.dense]),
                layer.attention.output.LayerNorm,
                PackedLinear([layer.intermediate.dense]),
                PackedLinear([layer.output.dense]),
                layer.output.LayerNorm,
            )
            for layer in model.encoder.layer
        ]

    def __call__(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Token ids and their mask, both (rows, tokens), to the last states: (rows, tokens, width)."""
        rows, tokens = ids.shape
        dtype = self._words.dtype
        hidden = None
        if not bool(mask.all()):
            hidden = torch.zeros(mask.shape, dtype=dtype).masked_fill_(mask == 0, -torch.inf)[:, None, None]
        x = (self._words[ids].float() + self._places[:tokens]).to(dtype).view(rows * tokens, -1)
        x = _normed(x, self._first)
        for layer in self._layers:
            q, k, v = layer.qkv(x).view(rows, tokens, 3, self._heads, -1).permute(2, 0, 3, 1, 4)
            seen = scaled_dot_product_attention(q, k, v, attn_mask=hidden)
            x = _normed(layer.out(seen.transpose(1, 2).reshape(x.shape), add=x), layer.after_attention)
            x = _normed(layer.down(layer.up(x, activation="gelu"), add=x), layer.after_mlp)
        return x.view(rows, tokens, -1)


def _normed(x: torch.Tensor, norm: torch.nn.LayerNorm) -> torch.Tensor:
    return layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
