"""Choices: taken into use, kept, put in the place of their base, rolled back; damage is said."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldstone.errors import WorkspaceError
from fieldstone.in_use import (
    Choice,
    Part,
    choices,
    keep_trust,
    model_in_use,
    newest,
    roll_back,
    take_into_use,
    trust_in_use,
    with_tuned,
)
from fieldstone.search.confidence import Weights
from fieldstone.settings import ModelSettings, RerankerTuning, SearchSettings, Settings
from fieldstone.workspace import Workspace, create_workspace

BASE: dict[Part, str] = {"retriever": "embedded:minilm", "reranker": "", "generator": "embedded:smollm2"}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return create_workspace(tmp_path / "hand book")


def tuned(workspace: Workspace, part: Part, id_: str, base: str | None = None) -> Choice:
    """A candidate's folder, and the choice of it."""
    name = f"models/{part}/{id_}"
    folder = workspace.path / name
    folder.mkdir(parents=True)
    (folder / "tuned.json").write_text("{}")
    base = BASE[part] if base is None else base
    return Choice(part, name, base, "2026-01-31T12:00:00+00:00", "recall@1 is higher", False)


def test_nothing_is_in_use_at_first(workspace):
    assert choices(workspace) == ()
    assert newest(workspace) is None
    assert roll_back(workspace) is None
    assert with_tuned(workspace, Settings()) == Settings()
    assert not (workspace.path / "models").exists(), "asking leaves nothing behind"


def test_a_choice_stands_in_for_its_base_and_no_other(workspace):
    choice = tuned(workspace, "retriever", "one")
    take_into_use(workspace, choice)
    assert choices(workspace) == (choice,)
    folder = model_in_use(workspace, "retriever", "embedded:minilm")
    assert Path(folder).is_absolute()
    assert (Path(folder) / "tuned.json").is_file()
    assert model_in_use(workspace, "retriever", "owner/other") == "owner/other"
    assert model_in_use(workspace, "generator", "embedded:smollm2") == "embedded:smollm2"


def test_settings_with_the_tuned_parts(workspace):
    settings = Settings(seed=7)
    for part in ("retriever", "generator"):
        take_into_use(workspace, tuned(workspace, part, "one"))
    models = with_tuned(workspace, settings).models
    assert models.encoder == str(workspace.path.resolve() / "models/retriever/one")
    assert models.generator == str(workspace.path.resolve() / "models/generator/one")
    assert models.reranker == ""
    assert with_tuned(workspace, settings).seed == 7
    assert settings.models.encoder == "embedded:minilm", "the settings themselves go on naming bases"


def test_a_tuned_reranker_is_searched_with_where_it_stands_in(workspace):
    choice = tuned(workspace, "reranker", "one", base="likelihood")
    take_into_use(workspace, choice)
    settings = Settings(reranker=RerankerTuning(weight=0.3))
    assert (settings.search.rerank, settings.models.reranker) == ("likelihood", "")
    used = with_tuned(workspace, settings)
    assert (used.search.rerank, used.search.reranker_weight) == ("cross-encoder", 0.3)
    assert used.models.reranker == str(workspace.path.resolve() / choice.name)
    assert with_tuned(workspace, used) == used, "once is enough"
    for other in ("none", "cross-encoder"):
        search = settings.search.model_copy(update={"rerank": other})
        models = settings.models.model_copy(update={"reranker": "owner/other"})
        asked = settings.model_copy(update={"search": search, "models": models})
        assert with_tuned(workspace, asked) == asked, "another way was asked for"
    roll_back(workspace, "reranker")
    assert with_tuned(workspace, settings) == settings


def test_a_tuned_reranker_stands_in_for_a_named_one(workspace):
    take_into_use(workspace, tuned(workspace, "reranker", "one", base="owner/cross"))
    named = Settings(
        search=SearchSettings(rerank="cross-encoder"), models=ModelSettings(reranker="owner/cross")
    )
    assert with_tuned(workspace, named).models.reranker.endswith("models/reranker/one")
    assert with_tuned(workspace, Settings()) == Settings()


def test_trust_holds_for_the_models_it_was_fitted_with(workspace):
    fitted = Weights(constant=-1.0, below=0.4)
    keep_trust(workspace, "embedded:minilm", "g/one", fitted, "r/one")
    assert trust_in_use(workspace, "embedded:minilm", "g/one", "r/one") == fitted
    for others in (("g/one", ""), ("g/one", "r/two"), ("g/two", "r/one")):
        assert trust_in_use(workspace, "embedded:minilm", *others) == Weights()
    file = workspace.path / "models" / "trust.json"
    old = json.loads(file.read_text())
    del old["reranker"]  # as it was written before rerankers were tuned
    file.write_text(json.dumps(old))
    assert trust_in_use(workspace, "embedded:minilm", "g/one") == fitted


def test_a_moved_workspace_takes_its_models_along(workspace):
    take_into_use(workspace, tuned(workspace, "retriever", "one"))
    moved = Workspace(workspace.path.rename(workspace.path.with_name("elsewhere")))
    assert model_in_use(moved, "retriever", "embedded:minilm").startswith(str(moved.path))


def test_rolling_back_goes_back_one_choice_at_a_time(workspace):
    first, second = tuned(workspace, "retriever", "one"), tuned(workspace, "retriever", "two")
    other = tuned(workspace, "generator", "one")
    for choice in (first, other, second):
        take_into_use(workspace, choice)
    assert model_in_use(workspace, "retriever", "embedded:minilm").endswith("two")
    assert model_in_use(workspace, "retriever", "embedded:minilm", rolled_back=True).endswith("one")
    assert roll_back(workspace) == second, "without a part: the newest of all"
    assert model_in_use(workspace, "retriever", "embedded:minilm").endswith("one")
    assert roll_back(workspace, "retriever") == first, "though a generator is newer"
    assert model_in_use(workspace, "retriever", "embedded:minilm") == "embedded:minilm"
    assert roll_back(workspace, "retriever") is None
    assert choices(workspace) == (other,)
    assert (workspace.path / second.name).is_dir(), "the candidates stay"


def test_a_part_tuned_from_another_base_does_not_uncover_an_older_one(workspace):
    take_into_use(workspace, tuned(workspace, "retriever", "one"))
    take_into_use(workspace, tuned(workspace, "retriever", "two", base="owner/other"))
    assert model_in_use(workspace, "retriever", "embedded:minilm") == "embedded:minilm"


def test_a_folder_deleted_by_hand_is_said_and_can_be_rolled_back(workspace):
    choice = tuned(workspace, "generator", "one")
    take_into_use(workspace, choice)
    shutil.rmtree(workspace.path / choice.name)
    with pytest.raises(
        WorkspaceError, match=r"tuned generator in use is gone: .*models/generator/one"
    ) as said:
        with_tuned(workspace, Settings())
    assert f"fieldstone rollback '{workspace.path}' --part generator" in str(said.value)
    assert roll_back(workspace, "generator") == choice
    assert with_tuned(workspace, Settings()) == Settings()


def test_only_what_is_there_and_in_its_place_is_taken_into_use(workspace, tmp_path):
    choice = tuned(workspace, "retriever", "one")
    with pytest.raises(WorkspaceError, match=r"no tuned retriever at .*two; tune one"):
        take_into_use(workspace, replace(choice, name="models/retriever/two"))
    (tmp_path / "outside").mkdir()
    outside = (
        str(tmp_path / "outside"),
        "../outside",
        "models/retriever/../../../outside",
        "models/retriever",
    )
    for name in (*outside, "models/generator/one", ""):
        with pytest.raises(WorkspaceError, match="not below models/retriever/"):
            take_into_use(workspace, replace(choice, name=name))
    assert choices(workspace) == ()


GOOD = {
    "part": "retriever",
    "name": "models/retriever/x",
    "base": "b",
    "date": "",
    "reason": "",
    "forced": False,
}


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "JSON"),
        (b'[{"part": "retri', "JSON"),
        (b"\xff\xfe\x00", "JSON"),
        (b"{}", "array|tuple"),
        (json.dumps([GOOD | {"part": "engine"}]).encode(), "0.part"),
        (json.dumps([GOOD, {"part": "retriever"}]).encode(), "1.name"),
        (json.dumps([GOOD | {"name": "../../etc"}]).encode(), "not below models/retriever"),
    ],
)
def test_a_damaged_file_says_what_to_type(workspace, content, what):
    file = workspace.path / "models" / "in_use.json"
    file.parent.mkdir()
    file.write_bytes(content)
    with pytest.raises(WorkspaceError, match=what) as said:
        choices(workspace)
    assert f"rm '{file}', then fieldstone build FOLDER --into '{workspace.path}'" in str(said.value)
    with pytest.raises(WorkspaceError):
        take_into_use(workspace, tuned(workspace, "retriever", "one"))
    assert file.read_bytes() == content, "nothing is written over what could not be read"


def test_what_a_kill_left_behind_does_no_harm(workspace):
    choice = tuned(workspace, "retriever", "one")
    take_into_use(workspace, choice)
    (workspace.path / "models" / "in_use.partial").write_text('[{"part": "ret')
    assert choices(workspace) == (choice,)
    assert roll_back(workspace) == choice
    assert [file.name for file in (workspace.path / "models").iterdir() if file.is_file()] == ["in_use.json"]


@settings(max_examples=30)
@given(st.lists(st.tuples(st.sampled_from(["retriever", "reranker", "generator"]), st.text(), st.booleans())))
def test_the_file_keeps_every_choice_as_it_was(tmp_path_factory, facts):
    workspace = Workspace(tmp_path_factory.mktemp("w"))
    made = []
    for i, (part, reason, forced) in enumerate(facts):
        reason = reason.encode("utf-8", "replace").decode()
        choice = replace(tuned(workspace, part, f"id {i} ü"), reason=reason, forced=forced)
        take_into_use(workspace, choice)
        made.append(choice)
    assert choices(workspace) == tuple(made)
    while taken := roll_back(workspace):
        assert taken == made.pop()
    assert made == []
