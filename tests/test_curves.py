"""How tuning went, read from what each kind of tuning keeps."""

import json

import pytest

from fieldstone.recipes.curves import curve, curves_of, thinned


def keep(workspace, candidate, **facts):
    (workspace / candidate).mkdir(parents=True)
    (workspace / candidate / "tuned.json").write_text(json.dumps(facts))
    return candidate


def test_a_generator_keeps_the_steps_of_its_scores(tmp_path):
    name = keep(tmp_path, "models/generator/g", losses=[2.0, 1.5], scores=[[0, 0.1], [2, 0.4]])
    assert curve(tmp_path, name) == {
        "part": "generator",
        "candidate": "g",
        "losses": [(1, 2.0), (2, 1.5)],
        "scores": [(0, 0.1), (2, 0.4)],
    }


def test_a_retriever_is_scored_before_and_after_each_epoch(tmp_path):
    name = keep(tmp_path, "models/retriever/r", losses=[1.0] * 14, dev_scores=[0.5, 0.6, 0.7], steps=14)
    assert curve(tmp_path, name)["scores"] == [(0, 0.5), (7, 0.6), (14, 0.7)]
    name = keep(tmp_path, "models/retriever/s", losses=[1.0], dev_scores=[], steps=1)
    assert curve(tmp_path, name)["scores"] == []


def test_a_log_tells_its_steps(tmp_path):
    name = keep(tmp_path, "models/generator/p", log=[{"step": 5, "loss": 0.7}, {"step": 6, "reward": 1.0}])
    assert curve(tmp_path, name)["losses"] == [(5, 0.7)]


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"losses": 3}', '{"losses": ["x"]}', '{"log": [{"loss": 1}]}']
)
def test_what_cannot_be_read_has_no_curve(tmp_path, text):
    (tmp_path / "tuned.json").write_text(text)
    assert curve(tmp_path, ".") is None
    assert list(curves_of(tmp_path, [".", "models/gone"])) == []


def test_long_curves_are_thinned_to_means():
    assert thinned([(1.0, 1.0), (2.0, 3.0), (3.0, 5.0)], 2) == [(1.5, 2.0), (3.0, 5.0)]
    assert thinned([(1.0, 1.0)], 2) == [(1.0, 1.0)]
    assert thinned([], 2) == []
    assert len(thinned([(float(n), 0.0) for n in range(1001)])) <= 200
