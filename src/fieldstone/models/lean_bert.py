"""BERT's forward pass on the CPU, with little around its matrix products.

The same weights and the same arithmetic as transformers' BertModel, but: packed weights, one product for
queries, keys and values, GELU and the residual sum inside the products, and no mask where no row is padded.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import layer_norm, scaled_dot_product_attention

from fieldstone.models.packed import PackedLinear
from fieldstone.models.weights import Weights
from fieldstone.models.weights import refusal as weights_refusal

INSIDE = "bert."
"""What stands before the names of the weights where a head was trained on top."""

# the weight and bias of a layer norm
_Norm = tuple[torch.Tensor, torch.Tensor]


def refusal(folder: Path, config: Any, device: str) -> str:
    """Why the model in `folder` cannot be read here; empty where it can."""
    if why := weights_refusal(folder, config, device):
        return why
    if config.model_type != "bert" or config.is_decoder:
        return f"the lean engine reads bert, not {config.model_type}"
    if config.hidden_act != "gelu":
        return f"the lean engine reads the activation gelu, not {config.hidden_act}"
    return ""


@dataclass(frozen=True, slots=True)
class _Layer:
    qkv: PackedLinear
    out: PackedLinear
    after_attention: _Norm
    up: PackedLinear
    down: PackedLinear
    after_mlp: _Norm


class LeanBert:
    """The model that `config` tells of, of these weights."""

    def __init__(self, config: Any, weights: Weights) -> None:
        def norm(name: str) -> _Norm:
            return weights[f"{name}.LayerNorm.weight"], weights[f"{name}.LayerNorm.bias"]

        self._heads, self._eps = config.num_attention_heads, config.layer_norm_eps
        self._words = weights["embeddings.word_embeddings.weight"]
        self._places = weights["embeddings.position_embeddings.weight"].float()
        self._places = self._places + weights["embeddings.token_type_embeddings.weight"][0]
        self._first = norm("embeddings")
        self._layers = []
        for i in range(config.num_hidden_layers):
            layer = f"encoder.layer.{i}."
            qkv = [weights.linear(f"{layer}attention.self.{part}") for part in ("query", "key", "value")]
            self._layers.append(
                _Layer(
                    PackedLinear(qkv),
                    PackedLinear([weights.linear(f"{layer}attention.output.dense")]),
                    norm(f"{layer}attention.output"),
                    PackedLinear([weights.linear(f"{layer}intermediate.dense")]),
                    PackedLinear([weights.linear(f"{layer}output.dense")]),
                    norm(f"{layer}output"),
                )
            )

    def __call__(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Token ids and their mask, both (rows, tokens), to the last states: (rows, tokens, width)."""
        rows, tokens = ids.shape
        dtype = self._words.dtype
        hidden = None
        if not bool(mask.all()):
            hidden = torch.zeros(mask.shape, dtype=dtype).masked_fill_(mask == 0, -torch.inf)[:, None, None]
        x = (self._words[ids].float() + self._places[:tokens]).to(dtype).view(rows * tokens, -1)
        x = self._normed(x, self._first)
        for layer in self._layers:
            q, k, v = layer.qkv(x).view(rows, tokens, 3, self._heads, -1).permute(2, 0, 3, 1, 4)
            seen = scaled_dot_product_attention(q, k, v, attn_mask=hidden)
            x = self._normed(layer.out(seen.transpose(1, 2).reshape(x.shape), add=x), layer.after_attention)
            x = self._normed(layer.down(layer.up(x, activation="gelu"), add=x), layer.after_mlp)
        return x.view(rows, tokens, -1)

    def _normed(self, x: torch.Tensor, norm: _Norm) -> torch.Tensor:
        return layer_norm(x, x.shape[-1:], *norm, self._eps)
