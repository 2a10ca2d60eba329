"""Linear layers whose weights are laid out once for the matrix kernels of this CPU.

torch's own `linear` lays bfloat16 weights out anew at each call. Measured on an EPYC with AVX512-BF16, one
thread, a weight of 576 x 3072: 190 and 206 GFLOP/s at 2,400 tokens, 93 and 141 at 8, 18 and 39 at one.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch.nn.functional import gelu, linear


class PackedLinear:
    """The layers given, side by side as one, on (rows, width): in bfloat16 by oneDNN where torch has it."""

    def __init__(self, layers: Sequence[tuple[torch.Tensor, torch.Tensor | None]]) -> None:
        """Each layer's weight (out, in) and bias (out,)."""
        weight = torch.cat([weight for weight, _ in layers])
        self._bias = None
        if any(bias is not None for _, bias in layers):
            zeros = [weight.new_zeros(len(weight)) for weight, _ in layers]
            self._bias = torch.cat(
                [zero if bias is None else bias for (_, bias), zero in zip(layers, zeros, strict=True)]
            )
        self._plain: torch.Tensor | None = weight
        if weight.dtype == torch.bfloat16 and _packs():
            self._plain, self._packed = None, torch.ops.mkldnn._reorder_linear_weight(weight)

    def __call__(
        self, x: torch.Tensor, *, activation: str = "none", add: torch.Tensor | None = None
    ) -> torch.Tensor:
        """x W^T + b, then the activation (none, gelu), or `add` added."""
        if self._plain is None:
            ops = torch.ops.mkldnn
            result: torch.Tensor = (
                ops._linear_pointwise(x, self._packed, self._bias, activation, [], "none")
                if add is None
                else ops._linear_pointwise.binary(x, add, self._packed, self._bias, "add")
            )
            return result
        made = linear(x, self._plain, self._bias)
        if add is not None:
            return made.add_(add)
        return gelu(made) if activation == "gelu" else made


@cache
def _packs() -> bool:
    """Whether this torch has oneDNN and its operations on packed weights, and they work on this CPU.

    torch.compile writes calls to the same operations; they have no public name.
    """
    try:
        weight = torch.ops.mkldnn._reorder_linear_weight(torch.ones((16, 16), dtype=torch.bfloat16))
        x = torch.ones((2, 16), dtype=torch.bfloat16)
        torch.ops.mkldnn._linear_pointwise(x, weight, None, "gelu", [], "none")
        made = torch.ops.mkldnn._linear_pointwise.binary(x, x, weight, None, "add")
    except (AttributeError, RuntimeError):
        return False
    return bool((made == 17).all())
