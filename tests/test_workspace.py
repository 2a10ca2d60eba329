"""Workspaces: made, opened, held by one writer, and never in the place of something else."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import pytest

from fieldstone.errors import SettingsError, WorkspaceError
from fieldstone.settings import Settings, write_settings_file
from fieldstone.workspace import create_workspace, open_workspace

spawn = multiprocessing.get_context("spawn")


def test_a_workspace_is_made_once_and_opened_again(tmp_path):
    workspace = create_workspace(tmp_path / "deep" / "handbook")
    library = workspace.library()
    library.set_meta("colour", "green")
    library.close()
    for again in (create_workspace(workspace.path), open_workspace(workspace.path)):
        assert again == workspace
        library = again.library()
        assert library.meta("colour") == "green"
        library.close()


def test_no_workspace_says_how_to_make_one(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(WorkspaceError, match=r"no workspace at .*fieldstone build FOLDER --into"):
            open_workspace(path)
    assert not (tmp_path / "nowhere").exists()


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(WorkspaceError, match="not empty and no workspace; name a new folder after --into"):
        create_workspace(tmp_path)
    with pytest.raises(WorkspaceError, match="is a file; name a folder"):
        create_workspace(tmp_path / "thesis.txt")
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]


def test_settings_are_stored(tmp_path):
    workspace = create_workspace(tmp_path / "w")
    assert workspace.stored_settings() == {}
    write_settings_file(workspace.settings_file, Settings(seed=4))
    assert Settings.model_validate(workspace.stored_settings()) == Settings(seed=4)
    workspace.settings_file.write_text("seed = ")
    with pytest.raises(SettingsError, match="mend it, or delete it"):
        workspace.stored_settings()


def test_the_journal_keeps_what_was_done_and_survives_a_cut_line(tmp_path):
    workspace = create_workspace(tmp_path / "w")
    assert list(workspace.read_journal()) == []
    workspace.journal("read", seconds=0.5, read=3)
    workspace.journal("split", passages=9, note="Grüße 港")
    with (workspace.path / "journal.jsonl").open("a") as file:
        file.write(json.dumps({"step": "index"})[:9])
    lines = list(workspace.read_journal())
    assert [(line["step"], line["time"][:2]) for line in lines] == [("read", "20"), ("split", "20")]
    assert (lines[0]["read"], lines[1]["note"]) == (3, "Grüße 港")


def hold(path: str, held, release) -> None:
    with open_workspace(Path(path)).writing():
        held.set()
        release.wait(60)


def test_one_process_writes_at_a_time_and_a_killed_one_lets_go(tmp_path):
    workspace = create_workspace(tmp_path / "w")
    held, release = spawn.Event(), spawn.Event()
    other = spawn.Process(target=hold, args=(str(workspace.path), held, release))
    other.start()
    assert held.wait(60)
    with pytest.raises(WorkspaceError, match=r"another process is writing to .*; wait for it or stop it"):  # noqa: SIM117
        with workspace.writing():
            pass
    workspace.library().close()  # reading goes on
    other.kill()
    other.join()
    with workspace.writing(), pytest.raises(WorkspaceError, match="another process"), workspace.writing():
        pass


def test_writing_lets_go_after_a_failure(tmp_path):
    workspace = create_workspace(tmp_path / "w")
    with pytest.raises(RuntimeError, match="broke"), workspace.writing():
        raise RuntimeError("it broke")
    with workspace.writing():
        pass
