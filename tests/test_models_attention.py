"""Attention in plain products is that of torch's kernel, over blocks and over states that are known."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from fieldstone.models.attention import BLOCK, attend_causal, attend_next

SIZE = 16


@pytest.mark.parametrize(("heads", "shared"), [(6, 2), (4, 4), (3, 1)])
@pytest.mark.parametrize("known", [0, 1, BLOCK + 5])
@pytest.mark.parametrize("n", [1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 3])
def test_causal_attention_over_blocks(n: int, known: int, heads: int, shared: int) -> None:
    torch.manual_seed(n + known)
    q = torch.randn(n, heads, SIZE)
    keys, values = torch.randn(2, shared, known + n, SIZE)
    mask = torch.ones(n, known + n, dtype=torch.bool).tril(known)
    expected = scaled_dot_product_attention(
        q.transpose(0, 1)[None], keys[None], values[None], attn_mask=mask, enable_gqa=True
    )
    seen = attend_causal(q * SIZE**-0.5, keys, values)
    torch.testing.assert_close(seen, expected[0].transpose(0, 1).reshape(n, -1))


@pytest.mark.parametrize(("heads", "shared"), [(6, 2), (4, 4), (3, 1)])
def test_the_next_token_of_rows_that_differ_in_length(heads: int, shared: int) -> None:
    torch.manual_seed(0)
    rows, tokens = 3, 70
    q = torch.randn(rows, heads, SIZE)
    keys, values = torch.randn(2, rows, shared, tokens + 9, SIZE)[:, :, :, :tokens]
    there = torch.arange(tokens) >= torch.tensor([0, 13, 69])[:, None]
    expected = scaled_dot_product_attention(
        q[:, :, None], keys, values, attn_mask=there[:, None, None], enable_gqa=True
    )
    hidden = torch.zeros(rows, tokens).masked_fill(~there, -torch.inf)[:, None, None]
    seen = attend_next(q * SIZE**-0.5, keys, values, hidden)
    torch.testing.assert_close(seen, expected[:, :, 0].reshape(rows, -1))
