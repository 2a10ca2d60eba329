"""`fieldstone rollback`: the newest tuned part goes out of use, and the workspace answers right away."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from fieldstone.cli.app import app
from fieldstone.in_use import Choice, Part, choices, model_in_use, take_into_use
from fieldstone.models import Vectors, load_encoder
from fieldstone.search.embed import embed_library
from fieldstone.settings import ModelSettings, SearchSettings, Settings, write_settings_file
from fieldstone.workspace import Workspace, open_workspace
from small_library import make_library

BASE = "fake:words"


class Tuned:
    """An encoder that stands for a tuned one: the base's vectors the other way round."""

    def __init__(self, fingerprint: str) -> None:
        self._base = load_encoder(BASE)
        self.name = self.fingerprint = fingerprint
        self.dimension, self.max_tokens = self._base.dimension, self._base.max_tokens
        self.count_tokens = self._base.count_tokens

    def encode_queries(self, texts: list[str]) -> Vectors:
        return -self._base.encode_queries(texts)

    def encode_passages(self, texts: list[str]) -> Vectors:
        return -self._base.encode_passages(texts)


def fieldstone(*args: object) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args])


def take(workspace: Workspace, part: Part, id_: str) -> Choice:
    """Take a candidate into use as tuning does; a retriever's vectors with it."""
    choice = Choice(part, f"models/{part}/{id_}", BASE, "2026-01-31", "it won", False)
    (workspace.path / choice.name).mkdir(parents=True)
    (workspace.path / choice.name / "tuned.json").write_text("{}")
    if part == "retriever":
        library = workspace.library()
        embed_library(library, Tuned(id_))
        library.set_meta("made by", id_)
        library.close()
    take_into_use(workspace, choice)
    return choice


def vectors_of(workspace: Workspace) -> tuple[str | None, int, int]:
    """The encoder of the vectors in use, how many there are, how many passages."""
    library = workspace.library()
    counts = library.counts()
    found = library.meta("encoder"), counts.embedded, counts.passages
    library.close()
    return found


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    make_library(tmp_path / "ws", embedded=True).close()
    opened = open_workspace(tmp_path / "ws")
    models = ModelSettings(encoder=BASE, generator=BASE)
    settings = Settings(models=models, search=SearchSettings(mode="dense", rerank="none"))
    write_settings_file(opened.settings_file, settings)
    return opened


def test_nothing_tuned_is_in_use(workspace):
    before = vectors_of(workspace)
    result = fieldstone("rollback", workspace.path)
    assert (result.exit_code, result.stdout) == (0, "Nothing tuned is in use.\n")
    result = fieldstone("rollback", workspace.path, "--part", "generator")
    assert (result.exit_code, result.stdout) == (0, "Nothing tuned is in use as generator.\n")
    shown = json.loads(fieldstone("rollback", workspace.path, "--json").stdout)
    assert shown == {"workspace": str(workspace.path), "taken_out": None, "in_use": None, "embedded": 0}
    assert vectors_of(workspace) == before
    assert list(workspace.read_journal()) == [], "nothing was done"


def test_a_retriever_is_rolled_back_with_its_vectors(workspace):
    untuned = vectors_of(workspace)
    take(workspace, "retriever", "one")
    assert vectors_of(workspace)[0] == "one"
    result = fieldstone("rollback", workspace.path)
    assert result.exit_code == 0, result.output
    assert "The retriever models/retriever/one is out of use; in use now: fake:words\n" in result.stdout
    assert f"{untuned[2]} vectors made anew" in result.stdout
    assert "embed: " in result.stderr, "progress is told on standard error"
    assert vectors_of(workspace) == untuned
    assert choices(workspace) == ()
    found = fieldstone("search", workspace.path, "crane forty tonnes", "--json")
    assert found.exit_code == 0, found.output
    assert json.loads(found.stdout)["hits"][0]["source"] == "berths/berth-7.md"
    line = list(workspace.read_journal())[-1]
    assert (line["step"], line["taken_out"]["name"], line["in_use"], line["embedded"]) == (
        "rollback",
        "models/retriever/one",
        BASE,
        untuned[2],
    )
    library = workspace.library()
    assert library.meta("made by") != "one", "the next build must not take the vectors for the tuned one's"
    library.close()


def test_only_the_part_that_is_named(workspace):
    take(workspace, "generator", "one")
    retriever = take(workspace, "retriever", "one")
    shown = json.loads(fieldstone("rollback", workspace.path, "--part", "generator", "--json").stdout)
    assert shown["taken_out"]["part"] == "generator"
    assert (shown["in_use"], shown["embedded"]) == (BASE, 0)
    assert choices(workspace) == (retriever,)
    assert vectors_of(workspace)[0] == "one"
    result = fieldstone("rollback", workspace.path, "--part", "engine")
    assert result.exit_code == 2


def test_json_and_quiet_show_no_progress(workspace):
    take(workspace, "retriever", "one")
    assert fieldstone("rollback", workspace.path, "--quiet").stderr == ""
    take(workspace, "retriever", "two")
    result = fieldstone("rollback", workspace.path, "--json")
    assert result.stderr == ""
    assert json.loads(result.stdout)["taken_out"]["name"] == "models/retriever/two"


def test_what_was_in_use_before_is_used_again(workspace):
    take(workspace, "generator", "one")
    take(workspace, "generator", "two")
    result = fieldstone("rollback", workspace.path)
    one = str(workspace.path.resolve() / "models/generator/one")
    assert f"in use now: {one}" in result.stdout
    assert model_in_use(workspace, "generator", BASE) == one


def test_a_folder_deleted_by_hand_is_rolled_back(workspace):
    take(workspace, "retriever", "one")
    shutil.rmtree(workspace.path / "models/retriever/one")
    result = fieldstone("rollback", workspace.path, "--part", "retriever")
    assert result.exit_code == 0, result.output
    assert vectors_of(workspace)[0] == load_encoder(BASE).fingerprint


def test_while_the_vectors_are_not_there_everything_stays(workspace):
    """The model to go back to cannot be had: the tuned retriever stays in use, with its vectors."""
    choice = take(workspace, "retriever", "one")
    tuned = vectors_of(workspace)
    (workspace.path / "fieldstone.toml").write_text('recipe = "guide"\n[models]\nencoder = "owner/nosuch"\n')
    result = fieldstone("rollback", workspace.path)
    assert result.exit_code == 1
    assert "owner/nosuch" in result.stderr
    assert choices(workspace) == (choice,)
    assert vectors_of(workspace) == tuned


def test_another_writer_is_respected(workspace):
    choice = take(workspace, "generator", "one")
    with workspace.writing():
        result = fieldstone("rollback", workspace.path)
    assert result.exit_code == 1
    assert "another process is writing" in result.stderr
    assert choices(workspace) == (choice,)


def test_no_workspace_and_a_damaged_history_are_said(workspace, tmp_path):
    result = fieldstone("rollback", tmp_path / "nowhere")
    assert (result.exit_code, "there is no workspace at" in result.stderr) == (1, True)
    (workspace.path / "models").mkdir()
    (workspace.path / "models/in_use.json").write_text("[")
    result = fieldstone("rollback", workspace.path)
    assert result.exit_code == 1
    assert "is damaged" in result.stderr
    assert "Traceback" not in result.output
