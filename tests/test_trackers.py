"""Trackers are told what tuning kept; one that is not installed is refused before any work."""

import json
from importlib.util import find_spec

import pytest

from fieldstone.errors import SettingsError
from fieldstone.recipes import run_steps
from fieldstone.recipes.trackers import check_tracker, tell_tracker
from fieldstone.settings import resolve_settings
from fieldstone.workspace import create_workspace


@pytest.fixture
def candidate(tmp_path):
    (tmp_path / "models" / "generator" / "g").mkdir(parents=True)
    facts = {"losses": [2.0, 1.5], "scores": [[0, 0.1], [2, 0.4]]}
    (tmp_path / "models" / "generator" / "g" / "tuned.json").write_text(json.dumps(facts))
    return "models/generator/g"


def test_no_tracker_is_asked_for_by_default():
    assert resolve_settings(environment={}).report_to == ""
    assert resolve_settings(environment={"FIELDSTONE_REPORT_TO": "mlflow"}).report_to == "mlflow"
    with pytest.raises(SettingsError, match="report_to"):
        resolve_settings(environment={}, flags=["report_to=notepad"])
    check_tracker("")


@pytest.mark.skipif(find_spec("wandb") is not None, reason="wandb is installed here")
def test_a_tracker_that_is_not_installed_is_refused_before_any_work(tmp_path):
    settings = resolve_settings(environment={}, flags=["report_to=wandb"])
    workspace = create_workspace(tmp_path / "made")
    with pytest.raises(SettingsError, match="type: pip install wandb"):
        run_steps(["read"], workspace, settings)
    assert not workspace.settings_file.exists()


@pytest.mark.skipif(find_spec("wandb") is not None, reason="wandb is installed here")
def test_a_tracker_that_fails_does_not_undo_the_tuning(tmp_path, candidate):
    assert tell_tracker("wandb", tmp_path, candidate).startswith("wandb was not told: RuntimeError")
    assert tell_tracker("wandb", tmp_path, "models/generator/none") == "models/generator/none keeps no losses"


def test_tensorboard_is_told_of_each_step(tmp_path, candidate, monkeypatch):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    assert tell_tracker("tensorboard", tmp_path, candidate) == "tensorboard was told of 3 steps"
    (folder,) = (tmp_path / "runs" / "generator-g" / "runs").iterdir()
    kept = EventAccumulator(str(folder))
    kept.Reload()
    assert [(e.step, e.value) for e in kept.Scalars("train/loss")] == [(1, 2.0), (2, 1.5)]
    scores = [(e.step, e.value) for e in kept.Scalars("eval/score")]
    assert [step for step, _ in scores] == [0, 2]
    assert [value for _, value in scores] == pytest.approx([0.1, 0.4])
