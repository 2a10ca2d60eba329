"""Differential privacy of whole sites: updates clipped and noised, and what has been spent said.

The promise is about a site as a whole: what leaves the federation would be almost as likely without it (zero
in its place). In every round each site's update is clipped to length C and Gaussian noise of standard
deviation z C is added, z being the multiplier. All sites take part in every round, so nothing is gained by
sampling, and the composition of T such rounds is exactly one Gaussian mechanism with mu = sqrt(T) / z (Dong,
Roth and Su 2022, corollary 3.3), whose curve is delta = Phi(mu/2 - e/mu) - exp(e) Phi(-mu/2 - e/mu) (Balle
and Wang 2018, theorem 8). So no bound is lost on the way and no accountant is needed.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Iterable

import numpy as np

from fieldstone.federate.aggregate import Array, Arrays, norm

_MOST = 700.0  # exp of more is no number


def clip(change: Arrays, most: float) -> dict[str, Array]:
    """The same direction, at most so long."""
    share = min(1.0, most / max(norm(change), 1e-12))
    return {name: np.asarray(array * share, dtype=np.float32) for name, array in change.items()}


def add_noise(change: Arrays, deviation: float) -> dict[str, Array]:
    """Gaussian noise on every number, from the operating system's randomness, so that no seed undoes it."""
    chance = np.random.default_rng(secrets.randbits(256))
    return {
        name: np.asarray(array + chance.normal(0.0, deviation, array.shape), dtype=np.float32)
        for name, array in change.items()
    }


def noise_length(multiplier: float, numbers: int, sites: int, shares: int = 1) -> float:
    """The expected length of the noise in the mean of the sites' updates, the clipping length being 1.

    Each site adds noise to `numbers` numbers, divided by the root of `shares` where the sum alone is seen.
    """
    return multiplier * math.sqrt(numbers / (sites * shares))


def delta(epsilon: float, mu: float) -> float:
    """The least delta at this epsilon of a Gaussian mechanism with sensitivity `mu` standard deviations."""
    if mu == 0 or epsilon > _MOST:
        return 0.0
    kept = _share_below(mu / 2 - epsilon / mu)
    return max(0.0, kept - math.exp(epsilon) * _share_below(-mu / 2 - epsilon / mu))


def _share_below(x: float) -> float:
    """Phi, the normal distribution function; by erfc, which keeps its digits in the tail."""
    return math.erfc(-x / math.sqrt(2)) / 2


def epsilon(multipliers: Iterable[float], at_delta: float) -> float:
    """What rounds with noise of these multipliers have spent together; infinite where one had none."""
    given = list(multipliers)
    if not all(given):
        return math.inf
    mu = math.sqrt(sum(z**-2 for z in given))
    if delta(_MOST, mu) > at_delta:
        return math.inf
    return _least(lambda e: delta(e, mu) <= at_delta, 0.0, _MOST)


def multiplier(most_epsilon: float, at_delta: float, rounds: int) -> float:
    """The least noise with which so many rounds spend at most this epsilon."""
    return _least(lambda z: epsilon([z] * rounds, at_delta) <= most_epsilon, 1e-3, 1e6)


def _least(holds: Callable[[float], bool], low: float, high: float) -> float:
    """The least number at which it holds, to ten digits; it holds for all above."""
    if holds(low):
        return low
    while high - low > 1e-10 * max(1.0, high):
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
