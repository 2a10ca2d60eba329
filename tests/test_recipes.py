"""Recipes: a build does what is still to do, and an interrupted one ends where any other does."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from fieldstone.errors import ModelError, SettingsError, WorkspaceError
from fieldstone.models import BACKENDS
from fieldstone.models.fake import FakeEncoder
from fieldstone.recipes import choose_settings, load_recipe, recipes, remove, run, update
from fieldstone.search import Index, search
from fieldstone.search.lexical import LexicalIndex
from fieldstone.settings import SearchSettings, Settings, resolve_settings
from fieldstone.workspace import create_workspace
from small_library import TEXTS, write_folder

FAKE = ["models.encoder=fake:words", "models.generator=fake:words", "read.workers=1"]
LONG = {
    "rules.md": "# Rules\n"
    + "".join(f"\n## Rule {i}\n{f'Rule {i} says something long. ' * 12}" for i in range(9))
}


class Interrupted(Exception):
    """Stands for Ctrl-C at a certain moment."""


def settings(*flags):
    return resolve_settings(environment={}, flags=[*FAKE, *flags])


def build(folder, home, *flags, progress=None):
    workspace = create_workspace(home)
    report = {} if progress is None else {"progress": progress}
    return run(load_recipe("guide"), folder, workspace, settings(*flags), **report), workspace


def state(workspace):
    """All that a reader of the library can see: documents, passages, vectors and a search by words."""
    library = workspace.library()
    try:
        encoder = library.meta("encoder")
        passages = sorted(library.passages(), key=lambda p: p.id)
        vectors = {}
        for ids, matrix in library.vectors(encoder, [p.id for p in passages]):
            vectors.update(zip(ids, map(np.ndarray.tobytes, matrix), strict=True))
        (found,) = LexicalIndex(workspace.cache / "lexical", library).search(["crane rule quay"], 100)
        documents = sorted(library.documents(), key=lambda d: d.id)
        return documents, passages, encoder, vectors, {id_ for id_, _ in found}
    finally:
        library.close()


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "folder", TEXTS | LONG)


def test_a_build_leaves_a_whole_workspace(tmp_path, folder):
    built, workspace = build(folder, tmp_path / "w")
    assert sorted(built.added.read) == sorted(TEXTS | LONG)
    documents, passages, encoder, vectors, found = state(workspace)
    assert len(documents) == len(TEXTS | LONG)
    assert vectors.keys() == {p.id for p in passages}
    assert encoder
    assert found
    assert [line["step"] for line in workspace.read_journal()] == ["read", "split", "index"]
    assert Settings.model_validate(workspace.stored_settings()) == settings()


def test_a_second_build_has_nothing_to_do(tmp_path, folder):
    _, workspace = build(folder, tmp_path / "w")
    before = state(workspace)
    library = workspace.library()
    version = library.version()
    built, _ = build(folder, tmp_path / "w")
    assert library.version() == version
    library.close()
    assert (built.added.read, built.added.unchanged) == ((), len(TEXTS | LONG))
    assert (built.made["split"]["passages"], built.made["index"]["embedded"]) == (0, 0)
    assert state(workspace) == before


def test_only_what_changed_is_split_and_embedded_again(tmp_path, folder):
    _, workspace = build(folder, tmp_path / "w")
    (folder / "tariffs/2024.txt").write_text("All is free.")
    (folder / "safety/welding.md").unlink()
    built, _ = build(folder, tmp_path / "w")
    assert (built.added.read, built.added.removed) == (("tariffs/2024.txt",), ("safety/welding.md",))
    assert (built.made["split"]["passages"], built.made["index"]["embedded"]) == (1, 1)
    assert state(workspace) == state(build(folder, tmp_path / "anew")[1])


def test_another_split_setting_splits_and_embeds_again(tmp_path, folder):
    _, workspace = build(folder, tmp_path / "w")
    built, _ = build(folder, tmp_path / "w", "split.tokens=40")
    library = workspace.library()
    counts = library.counts()
    library.close()
    assert built.made["split"]["passages"] == built.made["index"]["embedded"] == counts.passages
    assert state(workspace) == state(build(folder, tmp_path / "anew", "split.tokens=40")[1])


def test_another_encoder_for_the_questions_embeds_nothing(tmp_path, folder):
    _, workspace = build(folder, tmp_path / "w")
    before = state(workspace)
    built, _ = build(folder, tmp_path / "w", "models.encoder=dual:query=fake:words,passage=fake:words")
    assert (built.made["split"]["passages"], built.made["index"]["embedded"]) == (0, 0)
    assert state(workspace) == before


def test_another_encoder_takes_over_in_one_go(tmp_path, folder, monkeypatch):
    _, workspace = build(folder, tmp_path / "w")
    before = state(workspace)
    backend = SimpleNamespace(load_encoder=lambda name, _: FakeEncoder(name, passage_prefix="text: "))
    monkeypatch.setitem(BACKENDS, "other", "other_backend")
    monkeypatch.setitem(sys.modules, "other_backend", backend)
    other = "models.encoder=other:words"
    library = workspace.library()
    seen = []

    def look(step, done, total, unit):
        encoder = library.meta("encoder")
        assert library.embedded(encoder) == {p.id for p in library.passages()}
        seen.append(encoder)

    built, _ = build(folder, tmp_path / "w", other, progress=look)
    library.close()
    after = state(workspace)
    assert set(seen) == {before[2]}  # the old ones serve until all the new ones are there
    assert after[2] != before[2]
    assert after[1] == before[1]
    assert (built.made["split"]["passages"], built.made["index"]["embedded"]) == (0, len(before[1]))


def interrupt_at(call):
    left = call

    def progress(step, done, total, unit):
        nonlocal left
        left -= 1
        if left < 0:
            raise Interrupted(f"{step} {done} of {total}")

    return progress


@pytest.mark.slow
def test_interrupted_anywhere_a_build_ends_as_an_undisturbed_one(tmp_path, folder):
    first, changed = ("split.tokens=60",), ("split.tokens=40",)

    def change(folder):
        (folder / "tariffs/2024.txt").write_text("All is free.")
        (folder / "safety/welding.md").unlink()
        (folder / "new.txt").write_text("A new one.")

    later = write_folder(tmp_path / "later" / "folder", TEXTS | LONG)
    change(later)
    expected = [
        state(build(folder, tmp_path / "expected", *first)[1]),
        state(build(later, tmp_path / "expected-later", *changed)[1]),
    ]
    call, went_through = 0, False
    while not went_through:
        here = write_folder(tmp_path / f"{call}" / "folder", TEXTS | LONG)
        went_through = True
        for number, flags in enumerate((first, changed)):
            if number:
                change(here)
            try:
                build(here, tmp_path / f"{call}" / "w", *flags, progress=interrupt_at(call))
            except Interrupted:
                went_through = False
            _, workspace = build(here, tmp_path / f"{call}" / "w", *flags)
            assert state(workspace) == expected[number]
        call += 1
    assert call > 15


def test_what_stands_can_be_searched_while_a_build_goes_on(tmp_path, folder):
    _, workspace = build(folder, tmp_path / "w")
    (folder / "new.txt").write_text("A zebra stood on the quay.")
    library = workspace.library()
    lexical = LexicalIndex(workspace.cache / "lexical", library)
    asked = []

    def ask(step, done, total, unit):
        only_words = SearchSettings(mode="lexical", rerank="none")
        asked.append(len(search(Index(library, lexical), ["crane at berth 7"], only_words)[0]))

    build(folder, tmp_path / "w", progress=ask)
    library.close()
    assert len(asked) > 3
    assert min(asked) > 0


def test_a_build_whose_tuning_is_stopped_can_be_asked(tmp_path, folder):
    workspace = create_workspace(tmp_path / "w")

    def stop(step, done, total, unit):
        if step == "synthesize":
            raise Interrupted

    with pytest.raises(Interrupted):
        run(load_recipe("fieldstone"), folder, workspace, settings(), stop)
    assert Settings.model_validate(workspace.stored_settings()) == settings()
    assert state(workspace)[4]


def test_two_builds_at_once_are_one_too_many(tmp_path, folder):
    workspace = create_workspace(tmp_path / "w")
    with workspace.writing(), pytest.raises(WorkspaceError, match="another process is writing"):
        build(folder, tmp_path / "w")


def test_a_model_that_is_not_there_leaves_what_was_read(tmp_path, folder):
    with pytest.raises(ModelError, match="fake:letters"):
        build(folder, tmp_path / "w", "models.encoder=fake:letters")
    built, _ = build(folder, tmp_path / "w")
    assert built.added.unchanged == len(TEXTS | LONG)


def test_a_workspace_inside_the_folder_is_not_read(tmp_path, folder):
    home = folder / "work[1]"
    build(folder, home)
    built, workspace = build(folder, home)
    assert built.added.unchanged == len(TEXTS | LONG)
    assert {d.source for d in state(workspace)[0]} == set(TEXTS | LONG)


def test_update_adds_and_remove_takes_out(tmp_path, folder):
    _, workspace = build(folder, tmp_path / "w")
    (folder / "new.txt").write_text("A new one.")
    (folder / "tariffs/2024.txt").unlink()
    built = update(workspace, settings(), [folder / "new.txt", folder / "tariffs"])
    assert (built.added.read, built.added.removed) == (("new.txt",), ("tariffs/2024.txt",))
    assert remove(workspace, ["berths", "new.txt"]) == ("berths/berth-7.md", "berths/berth-8.md", "new.txt")
    documents, passages, _, vectors, found = state(workspace)
    assert {d.source for d in documents} == {"tariffs/2025.txt", "safety/welding.md", "rules.md"}
    ids = {p.id for p in passages}
    assert vectors.keys() == ids
    assert found <= ids


# -- recipes as files


MINE = 'summary = "s"\nsource = "x"\ncost = "c"\n[[steps]]\nstep = "read"\n'


def test_every_recipe_loads_and_its_settings_hold():
    assert "guide" in [recipe.name for recipe in recipes()]
    for recipe in recipes():
        assert recipe.summary
        assert recipe.source
        assert recipe.cost
        assert recipe.steps
        resolve_settings(recipe.settings, environment={})


def test_a_recipe_of_ones_own_is_a_file(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text(MINE + '[settings.search]\nmode = "dense"\n')
    recipe = load_recipe(str(file))
    assert recipe.steps == ("read",)
    assert choose_settings(str(file), {}, environment={}).search.mode == "dense"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no recipe .*; type: fieldstone recipes"),
        ("summary = ", "recipe .*compare it with guide.toml"),
        ("summary = 's'", "KeyError.*compare it with guide.toml"),
        (
            "summary = 's'\nsource = ''\ncost = ''\n[[steps]]\nstep = 'fly'",
            "no known step 'fly'; known: read, split",
        ),
    ],
)
def test_a_recipe_that_is_none_is_refused(tmp_path, content, message):
    file = tmp_path / "mine.toml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(SettingsError, match=message):
        load_recipe(str(file))
    with pytest.raises(SettingsError, match="there is no recipe 'nosuch'"):
        load_recipe("nosuch")


def test_every_size_of_every_recipe_holds():
    for recipe in recipes():
        for size in recipe.sizes:
            chosen = choose_settings(recipe.name, {}, environment={}, size=size)
            assert (chosen.recipe, chosen.size) == (recipe.name, size)
            assert chosen.models.encoder == recipe.sizes[size]["models"]["encoder"]


def test_the_first_size_is_the_usual_one_and_a_size_stays_with_its_recipe():
    assert choose_settings("fieldstone", {}, environment={}).size == "tiny"
    small = choose_settings("fieldstone", {}, environment={}, size="small")
    assert choose_settings(None, small.model_dump(), environment={}) == small
    assert choose_settings("guide", small.model_dump(), environment={}).size == ""
    assert choose_settings(None, small.model_dump(), environment={}, size="tiny").size == "tiny"
    with pytest.raises(SettingsError, match=r"fieldstone has no size 'huge'; its sizes: tiny, small, base"):
        choose_settings("fieldstone", {}, environment={}, size="huge")
    with pytest.raises(SettingsError, match="guide has no size 'tiny'; its sizes: none"):
        choose_settings("guide", {}, environment={}, size="tiny")


def test_settings_that_name_no_recipe_count_for_any():
    stored = {"search": {"mode": "dense"}, "models": {"encoder": "fake:words"}}
    for recipe in (None, "guide", "fieldstone"):
        chosen = choose_settings(recipe, stored, environment={})
        assert (chosen.search.mode, chosen.models.encoder) == ("dense", "fake:words")


def test_settings_of_the_workspace_count_for_its_own_recipe(tmp_path):
    stored = {"recipe": "guide", "search": {"mode": "dense"}, "seed": 5}
    assert choose_settings(None, stored, environment={}).search.mode == "dense"
    assert choose_settings("guide", stored, environment={}).seed == 5
    flags = ["search.mode=lexical"]
    assert choose_settings("guide", stored, environment={}, flags=flags).search.mode == "lexical"
    other = tmp_path / "other.toml"
    other.write_text(MINE)
    assert choose_settings(str(other), stored, environment={}).search.mode == Settings().search.mode
    assert choose_settings(str(other), stored, environment={}).recipe == str(other)


def test_a_size_is_no_setting_to_change_by_itself():
    with pytest.raises(SettingsError, match=r"size=small would change the name alone; type --size small"):
        choose_settings("fieldstone", {}, environment={}, flags=["size=small"])
