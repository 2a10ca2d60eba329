"""What averaging low-rank adapters means: the mean of A and of B is not the mean of B A.

`stacked` is the exact mean of the products, as in FLoRA (Wang et al. 2024): the sites' factors side by side,
whose product is the sum. So its rank grows with the sites; FLoRA then sends the stack and merges it into the
base. Here it is brought back to the rank of the settings by a truncated singular value decomposition, which
is the nearest product of that rank (Eckart and Young 1936), and the next round starts from it. Averaging the
factors themselves is what most do; `error` says how far either is from the mean of the products.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from fieldstone.federate.aggregate import Array, Arrays

A, B = ".lora_A.", ".lora_B."


def pairs(arrays: Arrays) -> Iterator[tuple[str, str]]:
    """The names of the two factors of each adapter: A (rank, in) and B (out, rank)."""
    for name in arrays:
        if A in name:
            yield name, name.replace(A, B)


def stacked(sites: Sequence[Arrays], shares: Sequence[float], rank: int) -> dict[str, Array]:
    """The adapters whose products are nearest to the mean of the sites' products; the rest is averaged.

    The two factors have the singular values in equal parts.
    """
    found = {
        name: np.asarray(
            sum(share * its[name] for share, its in zip(shares, sites, strict=True)), dtype=np.float32
        )
        for name in sites[0]
    }
    for a, b in pairs(sites[0]):
        right = np.concatenate([its[a] for its in sites]).astype(np.float64)
        left = np.concatenate([share * its[b] for share, its in zip(shares, sites, strict=True)], axis=1)
        found[a], found[b] = _nearest(left.astype(np.float64), right, rank)
    return found


def error(sites: Sequence[Arrays], shares: Sequence[float], joined: Arrays) -> float:
    """How far the products of `joined` are from the mean of the sites' products, as a share of its length."""
    missed = whole = 0.0
    for a, b in pairs(joined):
        exact = sum(share * its[b] @ its[a] for share, its in zip(shares, sites, strict=True))
        missed += float(np.square(exact - joined[b] @ joined[a]).sum())
        whole += float(np.square(exact).sum())
    return math.sqrt(missed / whole) if whole else 0.0


def _nearest(left: np.ndarray, right: np.ndarray, rank: int) -> tuple[Array, Array]:
    """A and B of this rank with B A nearest to left @ right; the product itself is never formed."""
    q_left, r_left = np.linalg.qr(left)
    q_right, r_right = np.linalg.qr(right.T)
    u, values, v = np.linalg.svd(r_left @ r_right.T)
    root = np.sqrt(values[:rank])
    b = q_left @ u[:, :rank] * root
    a = (root[:, None] * v[:rank]) @ q_right.T
    return a.astype(np.float32), b.astype(np.float32)
