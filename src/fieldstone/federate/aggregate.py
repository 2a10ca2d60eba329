"""Many sites' updates to one: checked, averaged, and taken as a step by the server's optimiser.

An update is a site's tuned weights minus those that it was given. `mean` is the average of FedAvg (McMahan
et al. 2017), weighted by training questions; `median` and `trimmed_mean` are the coordinate-wise ones of Yin
et al. (2018), which a minority of poisoned sites cannot move far, and which count every site alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fieldstone.settings import FederateSettings

Array = NDArray[np.float32]
Arrays = Mapping[str, Array]
"""Name -> weights."""


@dataclass(frozen=True, slots=True)
class Update:
    """What a site sends back; `weight` says how much it counts, in training questions."""

    site: str
    change: Arrays
    weight: float


@dataclass(frozen=True, slots=True)
class Moments:
    """What FedAdam and FedYogi remember of earlier rounds; empty before the first."""

    first: Arrays = field(default_factory=dict)
    second: Arrays = field(default_factory=dict)


def norm(arrays: Arrays) -> float:
    """The length of all weights as one vector."""
    return math.sqrt(sum(float(np.square(array, dtype=np.float64).sum()) for array in arrays.values()))


def flaw(update: Update, like: Arrays) -> str | None:
    """Why an update cannot be one of these weights; None where it can."""
    if set(update.change) != set(like):
        odd = sorted(set(update.change) ^ set(like))[0]
        return f"it has other weights, {odd} among them"
    for name, array in update.change.items():
        if array.shape != like[name].shape:
            return f"{name} has the shape {array.shape} in the place of {like[name].shape}"
        if not np.isfinite(array).all():
            return f"{name} holds a number that is not finite"
    if not (math.isfinite(update.weight) and update.weight > 0):
        return f"it counts {update.weight}, which is no number of questions"
    return None


def sift(updates: Sequence[Update], like: Arrays, times: float) -> tuple[list[Update], dict[str, str]]:
    """The updates that count, and site -> why another one does not.

    One that is longer than `times` the median length of those that fit is left out too, where there are
    three or more to tell by; `times` 0 leaves none out for its length.
    """
    refused = {update.site: why for update in updates if (why := flaw(update, like))}
    sound = [update for update in updates if update.site not in refused]
    if times and len(sound) > 2:
        lengths = {update.site: norm(update.change) for update in sound}
        most = times * float(np.median(list(lengths.values())))
        for site, length in lengths.items():
            if most and length > most:
                refused[site] = f"it is {length:.4g} long, more than {times:g} times the median, {most:.4g}"
    return [update for update in sound if update.site not in refused], refused


def mean(updates: Sequence[Update]) -> dict[str, Array]:
    """sum(weight * change) / sum(weight), name by name."""
    shares = shares_of(updates)
    return {
        name: np.asarray(
            sum(share * update.change[name] for share, update in zip(shares, updates, strict=True)),
            dtype=np.float32,
        )
        for name in updates[0].change
    }


def shares_of(updates: Sequence[Update]) -> list[float]:
    """Each site's share of the average."""
    whole = sum(update.weight for update in updates)
    return [update.weight / whole for update in updates]


def median(updates: Sequence[Update]) -> dict[str, Array]:
    """The middle value of each number; of an even count the mean of the two."""
    return _by_number(updates, lambda stack: np.median(stack, axis=0))


def trimmed_mean(updates: Sequence[Update], share: float) -> dict[str, Array]:
    """The mean of each number without the highest and the lowest `share` of sites (below a half)."""
    cut = min(math.ceil(share * len(updates)), (len(updates) - 1) // 2)
    return _by_number(updates, lambda stack: np.sort(stack, axis=0)[cut : len(updates) - cut].mean(axis=0))


def _by_number(
    updates: Sequence[Update], middle: Callable[[NDArray[np.float32]], NDArray[np.float32]]
) -> dict[str, Array]:
    return {
        name: middle(np.stack([update.change[name] for update in updates])).astype(np.float32)
        for name in updates[0].change
    }


def together(updates: Sequence[Update], how: FederateSettings) -> dict[str, Array]:
    """One update of many, as `federate.average` says."""
    if how.average == "median":
        return median(updates)
    if how.average == "trimmed-mean":
        return trimmed_mean(updates, how.trimmed)
    return mean(updates)


def step(
    weights: Arrays, change: Arrays, moments: Moments, how: FederateSettings
) -> tuple[dict[str, Array], Moments]:
    """The next global weights: algorithm 2 of Reddi et al. (2021), Adaptive Federated Optimization.

    FedAvg and FedProx: x + server_rate * change. FedAdam and FedYogi: m = b1 m + (1 - b1) change;
    v = b2 v + (1 - b2) change^2, or v - (1 - b2) change^2 sign(v - change^2); x + server_rate * m /
    (sqrt(v) + tau). Both begin with m = 0 and v = tau^2.
    """
    adaptive = how.strategy in ("fedadam", "fedyogi")
    rate = how.server_rate or (0.001 if adaptive else 1.0)
    if not adaptive:
        moved = {name: _single(x + rate * change[name]) for name, x in weights.items()}
        return moved, moments
    first, second, moved = {}, {}, {}
    for name, x in weights.items():
        square = np.square(change[name])
        v = moments.second.get(name, np.full_like(x, how.tau**2))
        first[name] = _single(
            how.beta1 * moments.first.get(name, np.zeros_like(x)) + (1 - how.beta1) * change[name]
        )
        if how.strategy == "fedadam":
            second[name] = _single(how.beta2 * v + (1 - how.beta2) * square)
        else:
            second[name] = _single(v - (1 - how.beta2) * square * np.sign(v - square))
        moved[name] = _single(x + rate * first[name] / (np.sqrt(second[name]) + how.tau))
    return moved, Moments(first, second)


def _single(array: NDArray[np.floating]) -> Array:
    return np.asarray(array, dtype=np.float32)
