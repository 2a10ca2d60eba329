"""Clipping, noise, and what it is worth: against the literature's figures and another way of reckoning."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldstone.federate.aggregate import norm
from fieldstone.federate.privacy import add_noise, clip, delta, epsilon, multiplier, noise_length


def test_a_long_update_is_shortened_and_a_short_one_left():
    change = {"a": np.array([3.0], np.float32), "b": np.array([[0.0, 4.0]], np.float32)}
    found = clip(change, 1.0)
    assert norm(found) == pytest.approx(1.0)
    assert found["b"][0, 1] / found["a"][0] == pytest.approx(4 / 3)
    assert norm(clip(change, 5.5)) == pytest.approx(5.0)
    assert norm(clip({"a": np.zeros(3, np.float32)}, 1.0)) == 0


def test_the_noise_has_its_deviation_and_no_seed():
    change = {"a": np.full((300, 300), 2.0, np.float32)}
    one, two = add_noise(change, 0.5), add_noise(change, 0.5)
    assert (one["a"] - 2).std() == pytest.approx(0.5, rel=0.02)
    assert (one["a"] - 2).mean() == pytest.approx(0, abs=0.01)
    assert abs(np.corrcoef(one["a"].ravel(), two["a"].ravel())[0, 1]) < 0.02
    np.random.seed(0)
    assert not np.array_equal(one["a"], add_noise(change, 0.5)["a"])


# mu of a Gaussian mechanism and (epsilon, delta) on its curve, by numerical integration of the privacy loss
# E[max(0, 1 - exp(e - L))], L normal with mean mu^2 / 2 and deviation mu
@pytest.mark.parametrize("mu", [0.2, 0.5, 1.0, 2.0, 4.0])
@pytest.mark.parametrize("eps", [0.1, 1.0, 3.0, 8.0])
def test_the_curve_is_the_integral_of_the_privacy_loss(mu, eps):
    losses = np.linspace(mu**2 / 2 - 12 * mu, mu**2 / 2 + 12 * mu, 400_001)
    density = np.exp(-((losses - mu**2 / 2) ** 2) / (2 * mu**2)) / (mu * math.sqrt(2 * math.pi))
    integral = np.trapezoid(density * np.maximum(0.0, 1 - np.exp(np.minimum(eps - losses, 0))), losses)
    assert delta(eps, mu) == pytest.approx(integral, rel=1e-4, abs=1e-12)


def renyi(z, rounds, at_delta):
    """The bound of Renyi accounting (Mironov 2017, proposition 3), the least over the orders."""
    order = np.linspace(1.001, 2000, 400_000)
    return float((rounds * order / (2 * z * z) + math.log(1 / at_delta) / (order - 1)).min())


@pytest.mark.parametrize(("z", "rounds"), [(1.0, 1), (2.0, 5), (5.0, 10), (20.0, 100)])
def test_it_is_below_the_renyi_bound_and_not_far(z, rounds):
    exact, bound = epsilon([z] * rounds, 1e-5), renyi(z, rounds, 1e-5)
    assert 0.75 * bound < exact < bound


# dp-accounting 0.6.0: PLDAccountant(ADD_OR_REMOVE_ONE).compose(GaussianDpEvent(z), rounds).get_epsilon(1e-5)
@pytest.mark.parametrize(
    ("z", "rounds", "theirs"),
    [(1.0, 1, 4.37718), (2.0, 5, 4.98331), (5.0, 10, 2.59438), (20.0, 100, 1.99309)],
)
def test_it_is_what_another_accountant_says(z, rounds, theirs):
    assert epsilon([z] * rounds, 1e-5) == pytest.approx(theirs, rel=2e-4)


def test_rounds_add_up_as_their_squares():
    assert epsilon([2.0] * 4, 1e-5) == pytest.approx(epsilon([1.0], 1e-5))
    assert epsilon([3.0, 4.0], 1e-5) == pytest.approx(epsilon([2.4], 1e-5))  # 1/9 + 1/16 = 1/5.76
    assert epsilon([], 1e-5) == 0
    assert epsilon([1.0, 0.0], 1e-5) == math.inf
    assert epsilon([1e-2] * 5, 1e-5) == math.inf  # past what can be reckoned with


@settings(max_examples=10)
@given(st.floats(0.1, 50), st.integers(1, 200))
def test_the_multiplier_spends_what_it_may(most, rounds):
    z = multiplier(most, 1e-5, rounds)
    assert epsilon([z] * rounds, 1e-5) == pytest.approx(most, rel=1e-3)
    assert epsilon([z * 0.99] * rounds, 1e-5) > most


@pytest.mark.parametrize("shares", [1, 4])
def test_the_noise_is_as_long_as_said(shares):
    nothing = {"a": np.zeros((50, 60), np.float32), "b": np.zeros(700, np.float32)}
    updates = [add_noise(nothing, 1.5 * 0.2 / shares**0.5) for _ in range(6)]
    mean = {name: sum(its[name] for its in updates) / 6 for name in nothing}
    assert norm(mean) / 0.2 == pytest.approx(noise_length(1.5, 3700, 6, shares), rel=0.1)
