"""Adding files: only what changed is read, what is gone goes, and every file keeps its source."""

from __future__ import annotations

import os
import shutil

import pytest

from fieldstone.errors import ReadError, WorkspaceError
from fieldstone.library import Library
from fieldstone.read.add import add_files, remove_sources
from fieldstone.settings import ReadSettings
from small_library import TEXTS, write_folder

SETTINGS = ReadSettings(workers=1)


@pytest.fixture
def library(tmp_path):
    library = Library(tmp_path / "library.db", create=True)
    yield library
    library.close()


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "handbook")


def test_a_folder_is_read_once(library, folder):
    added = add_files(library, folder, SETTINGS)
    assert sorted(added.read) == sorted(TEXTS)
    assert (added.unchanged, added.removed, added.unread, added.skipped) == (0, (), (), ())
    assert {d.source: d.text.strip() for d in library.documents()} == TEXTS
    version = library.version()
    again = add_files(library, folder, SETTINGS)
    assert (again.read, again.unchanged, again.removed) == ((), len(TEXTS), ())
    assert library.version()[0] == version[0]


def test_only_what_changed_is_touched(library, folder):
    add_files(library, folder, SETTINGS)
    before = {d.source: d.id for d in library.documents()}
    (folder / "berths/berth-7.md").write_text("Berth 7 was taken down.")
    (folder / "tariffs/2025.txt").write_text(TEXTS["tariffs/2025.txt"].replace("135", "136"))  # as long
    (folder / "tariffs/2024.txt").unlink()
    (folder / "safety/welding.md").rename(folder / "safety/hot-work.md")
    (folder / "new.txt").write_text("A new one.")
    os.utime(folder / "berths/berth-8.md", (1, 1))  # touched only
    added = add_files(library, folder, SETTINGS)
    assert set(added.read) == {"berths/berth-7.md", "tariffs/2025.txt", "safety/hot-work.md", "new.txt"}
    assert added.removed == ("safety/welding.md", "tariffs/2024.txt")
    assert added.unchanged == 1
    after = {d.source: d.id for d in library.documents()}
    assert after.keys() == set(added.read) | {"berths/berth-8.md"}
    assert after["berths/berth-8.md"] == before["berths/berth-8.md"]
    assert "136" in next(library.documents("tariffs/2025.txt")).text


def test_a_file_or_folder_inside_a_known_folder_keeps_its_source(library, folder):
    add_files(library, folder, SETTINGS)
    (folder / "berths/berth-7.md").write_text("Changed.")
    (folder / "berths/berth-9.md").write_text("New.")
    (folder / "tariffs/2024.txt").unlink()
    assert add_files(library, folder / "berths/berth-9.md", SETTINGS).read == ("berths/berth-9.md",)
    added = add_files(library, folder / "berths", SETTINGS)
    assert (added.read, added.unchanged, added.removed) == (("berths/berth-7.md",), 2, ())
    assert "tariffs/2024.txt" in library.files()  # nobody looked there
    assert list(library.roots()) == [""]


def test_a_folder_is_the_same_by_another_way_there(library, folder, tmp_path, monkeypatch):
    add_files(library, folder, SETTINGS)
    (tmp_path / "link").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    for path in (tmp_path / "link", tmp_path / "handbook" / ".." / "handbook", folder.relative_to(tmp_path)):
        assert add_files(library, path, SETTINGS).unchanged == len(TEXTS)
    assert len(library.files()) == len(TEXTS)


def test_the_sources_of_a_second_folder_start_with_its_name(library, folder, tmp_path):
    other = write_folder(tmp_path / "elsewhere" / "notes", {"a.txt": "One.", "deep/b.txt": "Two."})
    add_files(library, folder, SETTINGS)
    assert add_files(library, other, SETTINGS).read == ("notes/a.txt", "notes/deep/b.txt")
    (other / "a.txt").unlink()
    (folder / "tariffs/2024.txt").unlink()
    assert add_files(library, other, SETTINGS).removed == ("notes/a.txt",)
    assert "tariffs/2024.txt" in library.files()
    assert add_files(library, folder, SETTINGS).removed == ("tariffs/2024.txt",)
    assert "notes/deep/b.txt" in library.files()
    (other / "deep/b.txt").write_text("Three.")
    assert add_files(library, other / "deep/b.txt", SETTINGS).read == ("notes/deep/b.txt",)


def test_two_folders_of_one_name_or_with_one_source_are_refused(library, folder, tmp_path):
    add_files(library, folder, SETTINGS)
    add_files(library, write_folder(tmp_path / "a" / "notes", {"a.txt": "One."}), SETTINGS)
    with pytest.raises(WorkspaceError, match=r"goes by the name 'notes' already; rename"):
        add_files(library, write_folder(tmp_path / "b" / "notes", {"b.txt": "Two."}), SETTINGS)
    with pytest.raises(WorkspaceError, match=r"tariffs/2024\.txt is there already, from .*handbook; rename"):
        add_files(library, write_folder(tmp_path / "b" / "tariffs", {"2024.txt": "Free."}), SETTINGS)
    assert "120 crowns" in next(library.documents("tariffs/2024.txt")).text


def test_a_file_alone_is_known_by_its_name(library, folder):
    assert add_files(library, folder / "tariffs/2024.txt", SETTINGS).read == ("2024.txt",)
    assert add_files(library, folder / "tariffs", SETTINGS).read == ("2025.txt",)
    (folder / "tariffs/2024.txt").write_text("Free.")
    added = add_files(library, folder / "tariffs/2024.txt", SETTINGS)
    assert (added.read, added.removed) == (("2024.txt",), ())


def test_unread_files_are_listed_and_not_read_again(library, folder):
    (folder / "photo.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 64)
    (folder / "broken.pdf").write_bytes(b"%PDF-1.7\nnot really")
    (folder / "empty.txt").write_text("")
    added = add_files(library, folder, SETTINGS)
    reasons = dict(added.unread)
    assert reasons.keys() == {"photo.png", "broken.pdf", "empty.txt"}
    assert all(reasons.values())
    assert {s: row.reason for s, row in library.files().items() if row.reason} == reasons
    asked = []
    again = add_files(library, folder, SETTINGS, lambda step, done, total, unit: asked.append(total))
    assert (again.read, again.unread, again.unchanged) == ((), (), len(TEXTS) + 3)
    assert set(asked) == {0}
    (folder / "empty.txt").write_text("Not empty any more.")
    assert add_files(library, folder, SETTINGS).read == ("empty.txt",)
    assert library.files()["empty.txt"].reason is None


def test_a_file_that_cannot_be_read_any_more_loses_its_text(library, folder):
    add_files(library, folder, SETTINGS)
    (folder / "tariffs/2024.txt").write_bytes(b"\x7fELF" + bytes(range(256)) * 4)
    assert [source for source, _ in add_files(library, folder, SETTINGS).unread] == ["tariffs/2024.txt"]
    assert list(library.documents("tariffs/2024.txt")) == []


def test_what_is_excluded_later_goes_and_what_is_let_in_again_comes_back(library, folder):
    add_files(library, folder, SETTINGS)
    narrow = SETTINGS.model_copy(update={"exclude": ("tariffs", "*-8.md")})
    added = add_files(library, folder, narrow)
    assert added.removed == ("berths/berth-8.md", "tariffs/2024.txt", "tariffs/2025.txt")
    assert {source for source, _ in added.skipped} == {"tariffs/", "berths/berth-8.md"}
    assert set(add_files(library, folder, SETTINGS).read) == set(added.removed)


def test_hidden_and_oversized_files_are_skipped_with_the_reason(library, folder):
    (folder / ".secret").write_text("hidden")
    (folder / "big.txt").write_text("long " * 3000)
    added = add_files(library, folder, SETTINGS.model_copy(update={"max_megabytes": 0.01}))
    reasons = dict(added.skipped)
    assert reasons.keys() == {".secret", "big.txt"}
    assert "hidden" in reasons[".secret"]
    assert "oversized" in reasons["big.txt"]
    assert "big.txt" not in library.files()


def test_no_such_path_changes_nothing(library, folder, tmp_path):
    add_files(library, folder, SETTINGS)
    with pytest.raises(ReadError, match="no such file or folder; check the path"):
        add_files(library, tmp_path / "nowhere", SETTINGS)
    shutil.rmtree(folder)  # a disk that is not mounted must not empty the library
    with pytest.raises(ReadError, match="no such file or folder"):
        add_files(library, folder, SETTINGS)
    assert len(library.files()) == len(TEXTS)


def test_sources_are_removed_by_name_or_by_folder(library, folder):
    add_files(library, folder, SETTINGS)
    assert remove_sources(library, ["tariffs/", "safety/welding.md", "berths/berth"]) == (
        "safety/welding.md",
        "tariffs/2024.txt",
        "tariffs/2025.txt",
    )
    assert sorted(library.files()) == ["berths/berth-7.md", "berths/berth-8.md"]
    assert remove_sources(library, ["nowhere"]) == ()
