"""The coordinator, over sites that do sums in the place of tuning: rounds, failures, resumption, refusals."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fieldstone.errors import FederationError, SettingsError
from fieldstone.federate import coordinator
from fieldstone.federate.coordinator import federate
from fieldstone.federate.messages import Reply, read_weights
from fieldstone.federate.privacy import epsilon, multiplier, noise_length
from toy_sites import Here, Toy, settings


def weights_of(folder, number):
    return read_weights(folder / f"round-{number:04}.safetensors")["bias"]


def test_the_rounds_are_the_weighted_averages_by_hand(tmp_path):
    sites = Here(a=Toy(1.0, 10), b=Toy(2.0, 30), c=Toy(-1.0, 60))
    outcome = federate(sites, settings(), tmp_path)
    aim = (10 * 1 + 30 * 2 - 60 * 1) / 100  # 0.1; each round goes half of what is left of the way
    for number in (1, 2, 3):
        assert weights_of(tmp_path, number) == pytest.approx(aim * (1 - 0.5**number), rel=1e-5)
        assert all(not np.allclose(weights_of(tmp_path, number), toy.aim) for toy in sites.toys.values())
    assert not weights_of(tmp_path, 0).any()
    assert [its.sites for its in outcome.rounds] == [{"a": 10, "b": 30, "c": 60}] * 3
    one = 4 * (256 * 256 + 256)
    assert [(its.sent, its.received) for its in outcome.rounds] == [(3 * one, 3 * one)] * 3
    assert outcome.rounds[0].length == pytest.approx(0.05 * (one / 4) ** 0.5, rel=1e-4)
    assert outcome.finished == {name: {"taken": 1.0} for name in "abc"}
    assert outcome.measured.tuned.value == pytest.approx(2 / 3)
    assert outcome.measured.untuned.value == pytest.approx(1.25 / 3)
    assert outcome.measured.difference.n == 9
    assert json.loads((tmp_path / "outcome.json").read_text())["rounds"][2]["number"] == 3


def test_a_killed_coordinator_goes_on_with_the_round_under_way(tmp_path):
    how = settings("federate.strategy=fedadam", "federate.server_rate=0.1")
    whole = Here(a=Toy(1.0), b=Toy(2.0))
    federate(whole, how, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        federate(Here(a=Toy(1.0), b=Toy(2.0, killed_in=("train", 2))), how, tmp_path / "killed")
    again = Here(a=Toy(1.0), b=Toy(2.0))
    outcome = federate(again, how, tmp_path / "killed")
    assert [its for its in again.toys["a"].asked if its[0] == "train"] == [("train", 2), ("train", 3)]
    assert np.array_equal(weights_of(tmp_path / "killed", 3), weights_of(tmp_path / "whole", 3))
    assert [its.number for its in outcome.rounds] == [1, 2, 3]
    assert federate(Here(), how, tmp_path / "killed") == outcome  # all is done: nobody is asked


def test_a_killed_write_leaves_the_round_before(tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(coordinator, "_keep", stop)
    with pytest.raises(KeyboardInterrupt):
        federate(Here(a=Toy(1.0), b=Toy(2.0)), settings(), tmp_path)
    monkeypatch.undo()
    outcome = federate(Here(a=Toy(1.0), b=Toy(2.0)), settings(), tmp_path)
    assert weights_of(tmp_path, 3) == pytest.approx(1.5 * 0.875)
    assert len(outcome.rounds) == 3


def poisoned(reply):
    return Reply({name: -1000 * x for name, x in reply.change.items()}, reply.figures)


def not_finite(reply):
    return Reply({name: x * np.float32("nan") for name, x in reply.change.items()}, reply.figures)


def claims(reply):
    return Reply(reply.change, {"questions": float("inf")})


@pytest.mark.parametrize(
    ("what", "why"),
    [(poisoned, "more than 10 times the median"), (not_finite, "not finite"), (claims, "counts inf")],
)
def test_a_poisoned_site_is_left_out_and_said_to_be(tmp_path, what, why):
    sites = Here(a=Toy(1.0), b=Toy(1.2), c=Toy(0.8), x=Toy(1.0, train=what))
    outcome = federate(sites, settings("federate.rounds=1"), tmp_path)
    assert weights_of(tmp_path, 1) == pytest.approx(0.5)
    assert why in outcome.rounds[0].left_out["x"]
    assert set(outcome.rounds[0].sites) == {"a", "b", "c"}


def flipped(reply):
    return Reply({name: -9 * x for name, x in reply.change.items()}, {"questions": 1e9})


def test_one_within_the_bound_moves_the_mean_and_not_the_median(tmp_path):
    found = {}
    for average in ("mean", "median", "trimmed-mean"):
        sites = Here(a=Toy(1.0), b=Toy(1.2), c=Toy(0.8), x=Toy(1.0, train=flipped))
        how = settings("federate.rounds=1", f"federate.average={average}")
        federate(sites, how, tmp_path / average)
        found[average] = float(weights_of(tmp_path / average, 1)[0])
    assert found["mean"] == pytest.approx(-4.5, rel=1e-3)
    assert 0.4 <= found["median"] <= 0.6
    assert 0.4 <= found["trimmed-mean"] <= 0.6


def test_a_late_site_misses_its_round_and_joins_the_next(tmp_path):
    sites = Here(a=Toy(1.0), b=Toy(2.0), c=Toy(3.0, late=(2,)))
    outcome = federate(sites, settings(), tmp_path)
    assert [sorted(its.sites) for its in outcome.rounds] == [["a", "b", "c"], ["a", "b"], ["a", "b", "c"]]
    assert outcome.rounds[1].left_out == {"c": "no answer in 0.1 s"}
    assert weights_of(tmp_path, 1) == pytest.approx(1.0)
    assert weights_of(tmp_path, 2) == pytest.approx(1.25)


def test_a_site_that_says_it_failed_is_left_out(tmp_path):
    failed = Toy(4.0, train=lambda _: Reply(problem="failed"))
    outcome = federate(Here(a=Toy(1.0), b=Toy(1.0), c=failed), settings("federate.rounds=1"), tmp_path)
    assert outcome.rounds[0].left_out == {"c": "it failed; its own journal says why"}
    lies = Toy(4.0, train=lambda _: Reply(problem="the patient's name"))
    outcome = federate(
        Here(a=Toy(1.0), b=Toy(1.0), c=lies), settings("federate.rounds=1"), tmp_path / "other"
    )
    assert outcome.rounds[0].left_out == {"c": "it answered what no site answers"}


def test_too_few_answers_end_it_with_what_is_there(tmp_path):
    sites = Here(a=Toy(1.0), b=Toy(1.0, late=(2,)))
    with pytest.raises(
        FederationError, match=r"1 update, and federate\.fewest = 2 \(b: no answer in 0\.1 s\)"
    ):
        federate(sites, settings(), tmp_path)
    assert weights_of(tmp_path, 1) == pytest.approx(0.5)
    federate(Here(a=Toy(1.0), b=Toy(1.0)), settings(), tmp_path)
    assert weights_of(tmp_path, 3) == pytest.approx(0.875)


def test_nobody_there(tmp_path):
    with pytest.raises(FederationError, match=r"0 sites, and federate\.fewest = 2 \(none is connected\)"):
        federate(Here(), settings(), tmp_path)


def test_a_site_with_another_base_is_refused_and_both_are_named(tmp_path):
    other = Toy(9.0, join=Reply(problem="other-base", base="0123456789abcdef"))
    how = settings("federate.rounds=1", "federate.sites=3")
    sites = Here(a=Toy(1.0), b=Toy(1.0), x=other)
    outcome = federate(sites, how, tmp_path)
    assert weights_of(tmp_path, 1) == pytest.approx(0.5)
    assert other.asked == [("join", 0)]
    assert "0123456789abcdef" in outcome.turned_away["x"]
    with pytest.raises(FederationError, match="retriever has the fingerprint 0123456789abcdef, the coord"):
        federate(Here(a=Toy(1.0), x=other), how, tmp_path / "alone")


def test_another_run_does_not_go_into_the_same_folder(tmp_path):
    federate(Here(a=Toy(1.0), b=Toy(1.0)), settings("federate.rounds=1"), tmp_path)
    with pytest.raises(FederationError, match="another federation"):
        federate(Here(a=Toy(1.0), b=Toy(1.0)), settings("federate.rounds=2"), tmp_path)
    patient = settings("federate.rounds=1", "federate.deadline=0.2", "federate.fewest=1")
    assert len(federate(Here(a=Toy(1.0)), patient, tmp_path).rounds) == 1


def test_what_has_been_spent_is_said_each_round(tmp_path):
    how = settings("federate.epsilon=3")
    outcome = federate(Here(a=Toy(1.0, 10), b=Toy(3.0, 90)), how, tmp_path)
    z = multiplier(3, 1e-5, 3)
    assert [its.epsilon for its in outcome.rounds] == [
        pytest.approx(epsilon([z] * n, 1e-5)) for n in (1, 2, 3)
    ]
    assert outcome.rounds[2].epsilon == pytest.approx(3, rel=1e-6)
    numbers = sum(array.size for array in read_weights(outcome.weights).values())
    assert {its.noise for its in outcome.rounds} == {noise_length(z, numbers, 2)}
    assert weights_of(tmp_path, 1) == pytest.approx(1.0)  # sites count alike: a weight would tell too


def test_a_sum_is_taken_where_no_update_is_seen(tmp_path):
    outcome = federate(Here(a=Toy(1.0), b=Toy(3.0)), settings("federate.secure=true"), tmp_path)
    assert weights_of(tmp_path, 1) == pytest.approx(1.0)
    assert outcome.rounds[0].sites == {"a": 1.0, "b": 1.0}


@pytest.mark.parametrize(
    ("flags", "what"),
    [
        (["retriever.method=lora"], "retriever.method = lora with retriever.towers = query is not federated"),
        (["federate.part=generator", "generator.method=full"], "generator.method = full"),
        (["retriever.method=full", "retriever.towers=both", "retriever.warm_up=tsdae"], "warm_up = tsdae"),
    ],
)
def test_what_cannot_be_federated_is_said_before_anything_is_done(tmp_path, flags, what):
    with pytest.raises(SettingsError, match=what):
        federate(Here(), settings(*flags), tmp_path / "x")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    "flags",
    [
        ["federate.secure=true", "federate.average=median"],
        ["federate.adapters=stacked", "federate.strategy=fedyogi"],
        ["federate.epsilon=1", "federate.average=median"],
    ],
)
def test_settings_that_contradict_one_another(flags):
    with pytest.raises(SettingsError, match="federate"):
        settings(*flags)
