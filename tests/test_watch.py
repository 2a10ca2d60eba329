"""The folder is followed: what changes comes in, what is half written waits, and errors are survived."""

from __future__ import annotations

import asyncio
import logging
import time

import pytest

from fieldstone.errors import WorkspaceError
from fieldstone.read.add import add_files
from fieldstone.recipes import load_recipe, remove, run, update
from fieldstone.serve import watch
from fieldstone.serve.watch import follow, followed
from fieldstone.settings import ReadSettings, resolve_settings
from fieldstone.workspace import create_workspace
from small_library import TEXTS, write_folder

SETTINGS = resolve_settings(
    environment={}, flags=["models.encoder=fake:words", "models.generator=fake:words", "read.workers=1"]
)
PATIENCE = 60.0
"""Seconds after which what should have come counts as missing; the machine may be busy."""


@pytest.fixture
def home(tmp_path):
    """A workspace and the folder that it was built from."""
    folder = write_folder(tmp_path / "folder")
    workspace = create_workspace(tmp_path / "w")
    run(load_recipe("guide"), folder, workspace, SETTINGS)
    return workspace, folder


@pytest.fixture
def soon(monkeypatch):
    """Nothing is waited for longer than it must."""
    monkeypatch.setattr(watch, "SETTLED", 0.15)
    monkeypatch.setattr(watch, "TICK", 0.05)
    monkeypatch.setattr(watch, "LOOK", 0.1)
    monkeypatch.setattr(watch, "PATIENCE", (0.1, 0.2))


def texts(workspace):
    library = workspace.library()
    try:
        counts = library.counts()
        found = {d.source: d.text.strip() for d in library.documents()}
        return found if counts.embedded == counts.passages and not counts.unsplit else {}
    finally:
        library.close()


class Followed:
    """A workspace that is followed while the block runs."""

    def __init__(self, workspace, settings=SETTINGS):
        self.workspace, self.settings, self.told, self.fail = workspace, settings, 0, None

    async def __aenter__(self):
        self.stop = asyncio.Event()
        self.task = asyncio.create_task(follow(self.workspace, self.settings, self.changed, self.stop))
        return self

    async def changed(self):
        if self.fail:
            fail, self.fail = self.fail, None
            raise fail
        self.told += 1

    async def until(self, ready):
        deadline = time.monotonic() + PATIENCE
        while not ready():
            assert not self.task.done(), self.task.exception()
            assert time.monotonic() < deadline, texts(self.workspace)
            await asyncio.sleep(0.02)

    async def __aexit__(self, *_):
        self.stop.set()
        await asyncio.wait_for(self.task, PATIENCE)


def test_only_what_is_named_is_looked_at(home):
    workspace, folder = home
    library = workspace.library()
    write_folder(folder, {"tariffs/2024.txt": "new", "berths/berth-9.md": "nine", "deep/er/a.txt": "deep"})
    for gone in ("berths/berth-7.md", "safety/welding.md"):
        (folder / gone).unlink()
    only = [folder / "berths", folder / "deep/er/a.txt"]
    added = add_files(library, folder, ReadSettings(workers=1), only=only)
    assert set(added.read) == {"berths/berth-9.md", "deep/er/a.txt"}
    assert (added.removed, added.unchanged) == (("berths/berth-7.md",), 1)
    whole = add_files(library, folder, ReadSettings(workers=1), only=[folder])
    assert (whole.read, whole.removed) == (("tariffs/2024.txt",), ("safety/welding.md",))
    library.close()


def test_changes_come_in(home, soon):
    workspace, folder = home

    async def act():
        async with Followed(workspace) as its:
            await its.until(lambda: len(texts(workspace)) == len(TEXTS))
            write_folder(
                folder, {"tariffs/2024.txt": "All is free.", "new/er.md": "A new one.", ".hidden": "x"}
            )
            (folder / "safety/welding.md").unlink()
            wanted = TEXTS | {"tariffs/2024.txt": "All is free.", "new/er.md": "A new one."}
            del wanted["safety/welding.md"]
            await its.until(lambda: texts(workspace) == wanted)
            await its.until(lambda: its.told)
            (folder / "berths").rename(folder / "quays")
            moved = {source.replace("berths/", "quays/"): text for source, text in wanted.items()}
            await its.until(lambda: texts(workspace) == moved)

    asyncio.run(act())


def test_what_changed_while_nobody_looked_comes_in_first(home, soon):
    workspace, folder = home
    (folder / "tariffs/2025.txt").unlink()
    write_folder(folder, {"new.txt": "Written at night."})

    async def act():
        async with Followed(workspace) as its:
            await its.until(lambda: its.told)
        assert its.told == 1

    asyncio.run(act())
    found = texts(workspace)
    assert found["new.txt"] == "Written at night."
    assert "tariffs/2025.txt" not in found


def test_nothing_is_told_where_nothing_changed(home, soon):
    workspace, folder = home

    async def act():
        async with Followed(workspace) as its:
            write_folder(folder, {"new.txt": "one"})
            await its.until(lambda: its.told)
            lines = len(list(workspace.read_journal()))
            (folder / "new.txt").touch()
            await its.until(lambda: len(list(workspace.read_journal())) == lines + 3)  # it was looked at
            await asyncio.sleep(0.1)
        assert its.told == 1

    asyncio.run(act())


def test_a_file_is_read_once_it_is_whole(home, soon, monkeypatch):
    workspace, folder = home
    monkeypatch.setattr(watch, "SETTLED", 1.0)
    seen, lines = set(), len(list(workspace.read_journal()))

    async def act():
        async with Followed(workspace) as its:
            await its.until(lambda: len(list(workspace.read_journal())) == lines + 3)
            with (folder / "long.txt").open("w") as file:
                for number in range(12):
                    file.write(f"Line {number}.\n")
                    file.flush()
                    await asyncio.sleep(0.1)
                    seen.add(texts(workspace).get("long.txt"))
            await its.until(lambda: "Line 11." in texts(workspace).get("long.txt", ""))

    asyncio.run(act())
    assert seen == {None}


def test_another_writer_is_waited_for(home, soon, caplog):
    workspace, folder = home

    async def act():
        async with Followed(workspace) as its:
            with workspace.writing():
                write_folder(folder, {"new.txt": "one"})
                await its.until(lambda: "another process is writing" in caplog.text)
                write_folder(folder, {"new.txt": "two"})
                await asyncio.sleep(0.3)
                assert "new.txt" not in texts(workspace)
            await its.until(lambda: texts(workspace).get("new.txt") == "two")
            await its.until(lambda: its.told)

    asyncio.run(act())


def test_errors_are_survived(home, soon, caplog):
    workspace, folder = home

    async def act():
        async with Followed(workspace) as its:
            its.fail = WorkspaceError("cannot be opened anew")
            write_folder(folder, {"broken.pdf": "%PDF-1.7 and no more", "new.txt": "one"})
            await its.until(lambda: its.told)
            assert texts(workspace)["new.txt"] == "one"

    asyncio.run(act())
    assert "cannot be opened anew" in caplog.text
    assert "broken.pdf" in caplog.text


def test_a_folder_that_goes_takes_nothing_with_it(home, soon, caplog, tmp_path):
    workspace, folder = home

    async def act():
        async with Followed(workspace) as its:
            await its.until(lambda: len(texts(workspace)) == len(TEXTS))
            folder.rename(tmp_path / "away")
            await asyncio.sleep(0.3)
            folder.mkdir()
            await its.until(lambda: "is empty" in caplog.text)
            assert texts(workspace) == TEXTS
            folder.rmdir()
            await asyncio.sleep(0.3)
            (tmp_path / "away").rename(folder)
            write_folder(folder, {"new.txt": "back"})
            await its.until(lambda: texts(workspace).get("new.txt") == "back")
        assert TEXTS.items() <= texts(workspace).items()

    asyncio.run(act())


def test_what_was_added_by_itself_brings_no_neighbours(tmp_path):
    workspace = create_workspace(tmp_path / "w")
    beside = write_folder(tmp_path / "beside")
    update(workspace, SETTINGS, [beside / "tariffs/2024.txt"])
    assert followed(workspace) == []
    folder = write_folder(tmp_path / "folder")
    update(workspace, SETTINGS, [folder, folder / "berths"])
    assert followed(workspace) == [folder]
    (workspace.path / "journal.jsonl").unlink()
    assert followed(workspace) == [beside / "tariffs", folder]


def test_a_workspace_in_its_own_folder_does_not_wake_itself(tmp_path, soon, caplog):
    caplog.set_level(logging.INFO)
    folder = write_folder(tmp_path / "folder")
    workspace = create_workspace(folder / "w")
    update(workspace, SETTINGS, [folder])

    async def act():
        read = ReadSettings(workers=1, exclude=("*.tmp",))
        async with Followed(workspace, SETTINGS.model_copy(update={"read": read})) as its:
            write_folder(folder, {"new.txt": "one", "skipped.tmp": "x"})
            await its.until(lambda: its.told)
            lines = len(list(workspace.read_journal()))
            write_folder(folder, {"skipped.tmp": "y"})
            await asyncio.sleep(0.5)
            assert len(list(workspace.read_journal())) == lines

    asyncio.run(act())
    assert set(texts(workspace)) == {*TEXTS, "new.txt"}


def test_what_a_person_took_out_stays_out_until_they_add_it_again(home, soon):
    workspace, folder = home
    assert remove(workspace, ["tariffs/2024.txt"]) == ("tariffs/2024.txt",)

    async def act():
        async with Followed(workspace) as its:
            write_folder(folder, {"tariffs/2024.txt": "Changed.", "new.txt": "one"})
            await its.until(lambda: its.told)
            await its.until(lambda: "new.txt" in texts(workspace))
            write_folder(folder, {"tariffs/2024.txt": "Changed again.", "new.txt": "two"})
            await its.until(lambda: texts(workspace).get("new.txt") == "two")
            assert "tariffs/2024.txt" not in texts(workspace)
        update(workspace, SETTINGS, [folder / "tariffs/2024.txt"])
        async with Followed(workspace) as its:
            write_folder(folder, {"tariffs/2024.txt": "Changed for good."})
            await its.until(lambda: texts(workspace).get("tariffs/2024.txt") == "Changed for good.")

    asyncio.run(act())
