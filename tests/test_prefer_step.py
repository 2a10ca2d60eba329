"""The step `prefer` end to end, with tiny random models."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import tiny_models
from fieldstone.in_use import choices
from fieldstone.progress import silent
from fieldstone.recipes import load_recipe, run, run_steps
from fieldstone.settings import resolve_settings
from fieldstone.workspace import Workspace, create_workspace
from ports import handbooks, own_questions
from small_library import write_folder

pytest.importorskip("trl")

STEPS = ("prefer",)


class Stopped(Exception):
    """Stands for Ctrl-C at a certain moment."""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A workspace with questions, a tuned generator forced into use, and pairs learnt on top of it."""
    home = tmp_path_factory.mktemp("built")
    llama = tiny_models.llama(home / "llama", max_position_embeddings=2048)
    flags = (
        f"models.generator={llama}", "models.encoder=fake:words", "models.device=cpu", "models.threads=1",
        "read.workers=1", "synthesize.lift=-100", "synthesize.dev=0.3", "synthesize.test=0.3",
        "synthesize.found_within=100", "generator.epochs=1", "generator.rank=2", "generator.checks=1",
        "answer.max_tokens=6", "answer.reading=one-by-one", "preference.wrong_below=1",
        "preference.samples=8", "preference.refusals=0.7", "preference.batch=2", "preference.temperature=1.5",
    )  # fmt: skip
    settings = resolve_settings(load_recipe("preference").settings, environment={}, flags=flags)
    workspace = create_workspace(home / "ws")
    steps = ("read", "split", "index", "synthesize")
    folder = write_folder(home / "folder", handbooks())
    recipe = load_recipe("preference")
    assert [step for step in recipe.steps if step not in steps] == [
        "tune-retriever",
        "tune-generator",
        "prefer",
        "report",
    ]
    run(replace(recipe, steps=steps), folder, workspace, settings, teach=own_questions("What"))
    first = run_steps(("tune-generator",), workspace, settings, force=True).made["tune-generator"]
    return workspace, settings, first


def prefer(workspace, settings, progress=silent, force=False):
    return run_steps(STEPS, workspace, settings, progress, force=force).made["prefer"]


def test_a_candidate_on_top_of_the_one_in_use_is_put_to_the_gate(built, tmp_path):
    workspace, settings, first = built
    shutil.copytree(workspace.path, tmp_path / "ws")
    workspace = Workspace(tmp_path / "ws")
    made = prefer(workspace, settings)
    assert "skipped" not in made
    assert made["pairs"] >= 2
    assert f"models/generator/{made['started from']}" == first["verdict"]["candidate"]
    assert made["verdict"]["incumbent"].endswith(made["started from"])
    assert made["verdict"]["measure"] == "answer score"
    folder = workspace.path / made["verdict"]["candidate"]
    assert json.loads((folder / "tuned.json").read_text())["facts"]["pairs"] == made["pairs"]
    lines = (workspace.path / "examples" / "preferences.jsonl").read_text().splitlines()
    assert len(lines) == made["pairs"]
    assert {"asked", "chosen", "rejected", "error", "own", "passage"} == json.loads(lines[0]).keys()

    def no_work(step: str, *_: object) -> None:
        raise AssertionError(step)

    assert prefer(workspace, settings, no_work) == made  # nothing is left to do

    forced = prefer(workspace, settings, force=True)
    assert forced["verdict"]["accepted"]
    assert choices(workspace)[-1].name == forced["verdict"]["candidate"] == made["verdict"]["candidate"]
    assert choices(workspace)[-1].base == settings.models.generator
    again = prefer(workspace, settings, no_work)  # it does not go on from its own result
    assert again["verdict"]["candidate"] == made["verdict"]["candidate"]


def test_killed_it_goes_on(built, tmp_path):
    workspace, settings, _ = built
    shutil.copytree(workspace.path, tmp_path / "ws")
    workspace = Workspace(tmp_path / "ws")

    def stopping(at):
        def progress(step, done, total, unit):
            if step == at and done == total:
                raise Stopped

        return progress

    for step in ("teach", "tune by preference"):
        with pytest.raises(Stopped):
            prefer(workspace, settings, stopping(step))
        assert not [line for line in workspace.read_journal() if line["step"] == "prefer"]
    made = prefer(workspace, settings)
    assert made["pairs"] >= 2
    assert len(list((workspace.path / "cache" / "replies").iterdir())) == 1
    assert not list(Path(workspace.path / "models" / "generator").glob("*.tuning"))


def test_learning_to_search_is_put_to_the_gate(built, tmp_path):
    workspace, settings, _ = built
    shutil.copytree(workspace.path, tmp_path / "ws")
    workspace = Workspace(tmp_path / "ws")
    made = run_steps(("search-rl",), workspace, settings).made["search-rl"]
    assert "answer.reading = one-by-one" in made["skipped"]
    flags = {"reading": "search", "abstain_below": 0.0}
    tuning = {"max_tokens": 8, "result_tokens": 60, "passages": 1, "searches": 1, "batch": 2, "group": 2}
    settings = settings.model_copy(
        update={
            "answer": settings.answer.model_copy(update=flags),
            "search_rl": settings.search_rl.model_copy(update=tuning),
        }
    )
    made = run_steps(("search-rl",), workspace, settings).made["search-rl"]
    assert made["steps"] >= 1
    assert made["verdict"]["measure"] == "answer score"
    assert not made["verdict"]["accepted"]  # it never came to a tag that closes

    def no_work(step: str, *_: object) -> None:
        raise AssertionError(step)

    again = run_steps(("search-rl",), workspace, settings, no_work).made["search-rl"]
    assert again == made
