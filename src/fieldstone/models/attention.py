"""Causal attention as plain products, a block of queries at a time: on a CPU faster than the fused kernel.

Measured in bfloat16 with 9 heads of 64 over 3 of keys and values, one thread of an EPYC with AVX512-BF16: 300
tokens in .95 ms where torch's `scaled_dot_product_attention` took 2.76; one token each of 8 rows after 330
others in .22 ms where it took .40.

Queries come multiplied by the root of one over a head's size; those that share a head of keys are rows of
one product.
"""

from __future__ import annotations

import torch

BLOCK = 64
"""Queries at once: no block looks at what comes after it, and its scores stay in the processor's cache."""


def attend_causal(q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """The last n tokens of a row over themselves and all before: (n, heads * size).

    `q` is (n, heads, size), `keys` and `values` (kv heads, tokens, size) of all tokens of the row.
    """
    n, heads, size = q.shape
    # alone in memory: where a row stands among others must not matter to the last bit of a product
    keys, values = keys.contiguous(), values.contiguous()
    shared = len(keys)
    known = keys.shape[1] - n
    grouped = q.view(n, shared, -1, size).permute(1, 2, 0, 3)
    seen = q.new_empty((n, shared, heads // shared, size))
    later = q.new_full((min(n, BLOCK),) * 2, -torch.inf).triu_(1)
    for start in range(0, n, BLOCK):
        block = grouped[:, :, start : start + BLOCK]
        count, end = block.shape[2], known + start + block.shape[2]
        scores = torch.bmm(block.reshape(shared, -1, size), keys[:, :end].transpose(1, 2))
        scores.view(shared, -1, count, end)[..., end - count :] += later[:count, :count]
        mixed = torch.bmm(scores.softmax(-1), values[:, :end])
        seen[start : start + count] = mixed.view(shared, -1, count, size).permute(2, 0, 1, 3)
    return seen.view(n, -1)


def attend_next(
    q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, hidden: torch.Tensor | None
) -> torch.Tensor:
    """One token a row over all states of the row: (rows, heads * size).

    `q` is (rows, heads, size), `keys` and `values` (rows, kv heads, tokens, size); `hidden` is added to the
    scores, minus infinity at states that are no token's.
    """
    rows, shared, _, size = keys.shape
    grouped = q.view(rows, shared, -1, size)
    # the keys times the queries, not the other way round: a third of the time, for keys lie row by row
    scores = torch.matmul(keys, grouped.transpose(-1, -2)).transpose(-1, -2)
    if hidden is not None:
        scores = scores + hidden
    return torch.matmul(scores.softmax(-1), values).reshape(rows, -1)
