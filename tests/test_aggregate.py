"""Averaging sites' updates: against numbers worked out by hand, and against what a poisoned site sends."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldstone.federate.aggregate import (
    Moments,
    Update,
    flaw,
    mean,
    median,
    norm,
    sift,
    step,
    together,
    trimmed_mean,
)
from fieldstone.settings import FederateSettings


def single(*numbers):
    return np.array(numbers, dtype=np.float32)


def update(site, numbers, weight=1.0):
    return Update(site, {"w": single(*numbers)}, weight)


def test_the_mean_is_weighted_by_questions():
    found = mean([update("a", [1, 0], 10), update("b", [4, 4], 30), update("c", [-1, 2], 60)])
    assert found["w"].tolist() == pytest.approx([0.7, 2.4])  # (10 + 120 - 60) / 100, (0 + 120 + 120) / 100
    assert found["w"].dtype == np.float32


def test_the_length_is_that_of_all_weights_together():
    assert norm({"a": single(3), "b": single(0, 4)}) == 5


@pytest.mark.parametrize("strategy", ["fedavg", "fedprox"])
def test_the_mean_is_added_at_the_rate_of_the_server(strategy):
    weights, change = {"w": single(1, 2)}, {"w": single(0.5, -1)}
    whole, _ = step(weights, change, Moments(), FederateSettings(strategy=strategy))
    half, _ = step(weights, change, Moments(), FederateSettings(strategy=strategy, server_rate=0.5))
    assert whole["w"].tolist() == [1.5, 1]
    assert half["w"].tolist() == [1.25, 1.5]


def test_two_steps_of_fedadam_by_hand():
    how = FederateSettings(strategy="fedadam", server_rate=0.1, beta1=0.9, beta2=0.99, tau=0.01)
    one, moments = step({"w": single(1)}, {"w": single(0.5)}, Moments(), how)
    # m = 0.05, v = 0.99e-4 + 0.01 * 0.25 = 2.599e-3
    assert one["w"][0] == pytest.approx(1 + 0.1 * 0.05 / (0.002599**0.5 + 0.01), rel=1e-6)
    two, moments = step(one, {"w": single(-1)}, moments, how)
    # m = 0.045 - 0.1 = -0.055, v = 0.99 * 2.599e-3 + 0.01 = 0.01257301
    assert two["w"][0] == pytest.approx(one["w"][0] + 0.1 * -0.055 / (0.01257301**0.5 + 0.01), rel=1e-6)
    assert moments.second["w"][0] == pytest.approx(0.01257301, rel=1e-6)


def test_fedyogi_lets_the_second_moment_go_more_slowly():
    how = FederateSettings(strategy="fedyogi", server_rate=0.1, beta1=0.9, beta2=0.99, tau=0.01)
    one, moments = step({"w": single(1)}, {"w": single(0.5)}, Moments(), how)
    # v - 0.01 * 0.25 * sign(1e-4 - 0.25) = 1e-4 + 2.5e-3
    assert moments.second["w"][0] == pytest.approx(0.0026, rel=1e-6)
    assert one["w"][0] == pytest.approx(1 + 0.1 * 0.05 / (0.0026**0.5 + 0.01), rel=1e-6)
    _, moments = step(one, {"w": single(0.01)}, moments, how)  # 1e-4 below v: it shrinks by 0.01 * 1e-4
    assert moments.second["w"][0] == pytest.approx(0.0026 - 1e-6, rel=1e-6)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (Update("x", {"v": single(1, 2)}, 1), "other weights, v among them"),
        (Update("x", {"w": single(1, 2), "v": single(1)}, 1), "other weights, v among them"),
        (update("x", [1, 2, 3]), r"shape \(3,\) in the place of \(2,\)"),
        (update("x", [1, np.nan]), "not finite"),
        (update("x", [np.inf, 1]), "not finite"),
        (update("x", [1, 1], 0), "counts 0"),
        (update("x", [1, 1], -5), "counts -5"),
        (update("x", [1, 1], float("nan")), "counts nan"),
    ],
)
def test_what_does_not_fit_is_left_out_with_the_reason(wrong, why):
    like = {"w": single(0, 0)}
    kept, refused = sift([update("a", [1, 1]), wrong], like, 10)
    assert [its.site for its in kept] == ["a"]
    assert re.search(why, refused["x"])
    assert flaw(kept[0], like) is None


def test_an_update_that_is_too_long_is_left_out():
    sound = [update("a", [1, 0]), update("b", [0, 1.2]), update("c", [0.8, 0])]
    poisoned = update("x", [-300, 400])
    kept, refused = sift([*sound, poisoned], {"w": single(0, 0)}, 10)
    assert [its.site for its in kept] == ["a", "b", "c"]
    assert refused == {"x": "it is 500 long, more than 10 times the median, 11"}
    assert sift([*sound, poisoned], {"w": single(0, 0)}, 0)[1] == {}
    assert sift([sound[0], poisoned], {"w": single(0, 0)}, 10)[1] == {}  # two cannot tell who is right


def test_the_middle_of_each_number():
    sites = [update("a", [1, 10], 99), update("b", [2, 30]), update("c", [1000, -1000])]
    assert median(sites)["w"].tolist() == [2, 10]
    assert trimmed_mean(sites, 0.2)["w"].tolist() == [2, 10]  # one of three is cut off on either side
    four = [*sites, update("d", [4, 20])]
    assert median(four)["w"].tolist() == [3, 15]
    assert trimmed_mean(four, 0.2)["w"].tolist() == [3, 15]
    assert trimmed_mean(four[:2], 0.4)["w"].tolist() == [1.5, 20]  # of two, none can be cut off


NUMBERS = st.lists(st.floats(-10, 10, width=32), min_size=4, max_size=4)


@settings(max_examples=20)
@given(st.lists(NUMBERS, min_size=3, max_size=9), st.floats(-1e6, 1e6, width=32))
def test_one_poisoned_site_moves_no_number_out_of_what_the_others_say(honest, evil):
    sites = [update(str(place), numbers) for place, numbers in enumerate(honest)]
    attacked = [*sites, update("x", [evil] * 4)]
    low, high = np.min(honest, axis=0), np.max(honest, axis=0)
    for found in (median(attacked)["w"], trimmed_mean(attacked, 0.3)["w"]):
        assert (found >= low - 1e-4).all()
        assert (found <= high + 1e-4).all()


def test_the_settings_choose():
    sites = [update("a", [0], 1), update("b", [3], 1), update("c", [30], 2)]
    assert together(sites, FederateSettings())["w"].tolist() == [15.75]
    assert together(sites, FederateSettings(average="median"))["w"].tolist() == [3]
    assert together(sites, FederateSettings(average="trimmed-mean"))["w"].tolist() == [3]


@settings(max_examples=20)
@given(st.lists(st.tuples(NUMBERS, st.floats(1, 1000)), min_size=1, max_size=6), st.randoms())
def test_the_order_of_sites_does_not_matter(sites, chance):
    updates = [update(str(place), numbers, weight) for place, (numbers, weight) in enumerate(sites)]
    shuffled = chance.sample(updates, len(updates))
    for way in (mean, median, lambda its: trimmed_mean(its, 0.2)):
        assert np.allclose(way(updates)["w"], way(shuffled)["w"], atol=1e-4)
