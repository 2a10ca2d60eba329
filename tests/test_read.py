"""Which files are read, in child processes that hold limits; what becomes of the hostile ones."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fieldstone.errors import ReadError
from fieldstone.read import Found, Limits, ReadResult, find_files, read_bytes, read_file, read_files

READERS = """
import os, signal, socket, time, urllib.request
from fieldstone.records import Document
from fieldstone.read import ReadWarning
import warnings

def hang(data, source):
    while True:
        pass

def crash(data, source):
    os.kill(os.getpid(), signal.SIGSEGV)

def eat(data, source):
    return [Document.new(source, "", "x" * 2**33)]

def fetch(data, source):
    return [Document.new(source, "", urllib.request.urlopen("http://127.0.0.1:9/").read().decode())]

def talk(data, source):
    print("not the answer", flush=True)
    os.write(1, b"nor this")
    warnings.warn("page 2 gave no text", ReadWarning)
    return [Document.new(source, "Mine", data.decode().upper())]

def stop(data, source):
    raise ValueError("what is this?")
"""


@pytest.fixture
def extra_readers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers of another package, for the suffixes .hang, .crash and so on; children find it as we do."""
    package = tmp_path / "package"
    about = package / "harmful-1.0.dist-info"
    about.mkdir(parents=True)
    names = ["hang", "crash", "eat", "fetch", "talk", "stop"]
    (package / "harmful.py").write_text(READERS)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: harmful\nVersion: 1.0\n")
    entries = "\n".join(f"{name} = harmful:{name}" for name in names)
    (about / "entry_points.txt").write_text(f"[fieldstone.readers]\n{entries}\n")
    monkeypatch.syspath_prepend(str(package))


def folder_with(tmp_path: Path, files: dict[str, str | bytes]) -> Path:
    folder = tmp_path / "folder"
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def skipped(found: list[Found]) -> dict[str, str | None]:
    return {file.source: file.skipped for file in found}


def by_source(results: list[ReadResult]) -> dict[str, ReadResult]:
    return {result.source: result for result in results}


# --- which files ---


def test_files_come_sorted_with_the_reason_for_each_that_is_left_out(tmp_path: Path) -> None:
    folder = folder_with(
        tmp_path,
        {
            "b.txt": "b",
            "a/z.md": "z",
            "a/.secret": "s",
            ".git/config": "c",
            "drafts/one.md": "1",
            "a/drafts/two.md": "2",
            "a/old.tmp": "t",
            "big.txt": "x" * 2000,
        },
    )
    found = list(find_files(folder, exclude=["drafts/", "*.tmp"], max_bytes=1000))
    assert [file.source for file in found] == [
        ".git/",
        "a/.secret",
        "a/drafts/",
        "a/old.tmp",
        "a/z.md",
        "b.txt",
        "big.txt",
        "drafts/",
    ]
    reasons = skipped(found)
    assert reasons["a/z.md"] is reasons["b.txt"] is None
    assert "hidden" in (reasons[".git/"] or "")
    assert "hidden" in (reasons["a/.secret"] or "")
    assert "excluded by 'drafts/'" in (reasons["a/drafts/"] or "")
    assert "excluded by '*.tmp'" in (reasons["a/old.tmp"] or "")
    assert "oversized" in (reasons["big.txt"] or "")


@pytest.mark.parametrize("pattern", ["a/b", "a/*", "./a", "b", "*.md", "a/b/c.md"])
def test_exclude_patterns_match_paths_folders_and_names(tmp_path: Path, pattern: str) -> None:
    folder = folder_with(tmp_path, {"a/b/c.md": "c", "d.txt": "d"})
    read = [file.source for file in find_files(folder, exclude=[pattern]) if file.skipped is None]
    assert read == ["d.txt"]


def test_links_are_followed_inside_the_folder_only(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, {"a.txt": "a", "sub/b.txt": "b"})
    (tmp_path / "outside.txt").write_text("secret")
    (folder / "inside.txt").symlink_to("a.txt")
    (folder / "leaves.txt").symlink_to(tmp_path / "outside.txt")
    (folder / "leaves_too").symlink_to(tmp_path)
    (folder / "loop").symlink_to(folder)
    (folder / "nowhere.txt").symlink_to("gone.txt")
    (folder / "round").symlink_to("round")
    reasons = skipped(list(find_files(folder)))
    assert reasons["inside.txt"] is None
    assert reasons["leaves.txt"] == reasons["leaves_too"] == "a link that leaves the folder"
    assert "inside this one" in (reasons["loop"] or "")
    assert "nowhere" in (reasons["nowhere.txt"] or "")
    assert reasons["round"]
    assert [name for name, reason in reasons.items() if reason is None] == [
        "a.txt",
        "inside.txt",
        "sub/b.txt",
    ]


def test_pipes_and_names_that_are_not_utf8(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, {"a.txt": "a"})
    os.mkfifo(folder / "pipe.txt")
    Path(os.fsdecode(os.fsencode(folder) + b"/gr\xfc\xdfe.txt")).write_text("hello")
    found = list(find_files(folder))
    assert skipped(found)["pipe.txt"] == "not a regular file"
    odd = r"gr\xfc\xdfe.txt"
    assert odd.encode("utf-8")
    assert by_source(list(read_files(found)))[odd].documents[0].text == "hello"


def test_a_single_file_and_a_missing_folder(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, {".notes.md": "# Notes"})
    assert [(file.source, file.skipped) for file in find_files(folder / ".notes.md")] == [(".notes.md", None)]
    with pytest.raises(ReadError, match="no such file or folder"):
        find_files(tmp_path / "gone")


def test_deep_folders(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, {"a.txt": "a"})
    deep = folder.joinpath(*["d"] * 300)
    deep.mkdir(parents=True)
    (deep / "b.txt").write_text("b")
    assert len(list(find_files(folder))) == 2


# --- child processes ---


def test_results_keep_the_order_and_carry_what_was_skipped(tmp_path: Path) -> None:
    names = [f"{number:03}.txt" for number in range(60)]
    folder = folder_with(
        tmp_path, {name: f"text of {name}" for name in names} | {".hidden": "h", "e.txt": ""}
    )
    results = list(read_files(find_files(folder), workers=3))
    assert [result.source for result in results] == sorted([*names, ".hidden", "e.txt"])
    found = by_source(results)
    assert found["007.txt"].documents[0].text == "text of 007.txt"
    assert found["007.txt"].content_hash != found["008.txt"].content_hash != ""
    assert found[".hidden"].reason == "hidden (its name starts with a dot)"
    assert found["e.txt"].reason == "empty: 0 bytes"


def test_a_child_gives_what_this_process_would(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, {"a.md": "# Überschrift\n\ntext\n\n## Zwei\n\x00 mehr 🎉"})
    [result] = read_files(find_files(folder))
    assert list(result.documents) == read_file(folder / "a.md", "a.md")
    assert result.documents[0].headings[1].text == "Zwei"


def test_a_hang_is_stopped_and_the_rest_goes_on(tmp_path: Path, extra_readers: None) -> None:
    folder = folder_with(tmp_path, {"a.hang": "x", "b.txt": "b", "c.hang": "x", "d.txt": "d"})
    began = time.monotonic()
    found = by_source(list(read_files(find_files(folder), Limits(seconds=0.8), workers=2)))
    assert time.monotonic() - began < 10
    assert found["a.hang"].reason == found["c.hang"].reason == "took longer than 0.8 s and was stopped"
    assert [found[name].documents[0].text for name in ("b.txt", "d.txt")] == ["b", "d"]


def test_a_crash_is_named_and_the_rest_goes_on(tmp_path: Path, extra_readers: None) -> None:
    folder = folder_with(tmp_path, {"a.crash": "x", "b.txt": "b", "c.stop": "x"})
    found = by_source(list(read_files(find_files(folder), workers=1)))
    assert "SIGSEGV" in (found["a.crash"].reason or "")
    assert found["b.txt"].reason is None
    assert "ValueError: what is this?" in (found["c.stop"].reason or "")


def test_memory_is_bounded(tmp_path: Path, extra_readers: None) -> None:
    folder = folder_with(tmp_path, {"a.eat": "x", "b.txt": "b"})
    found = by_source(list(read_files(find_files(folder), Limits(memory=400 * 2**20), workers=1)))
    assert "memory" in (found["a.eat"].reason or "")
    assert found["b.txt"].documents[0].text == "b"


def test_nothing_is_fetched(tmp_path: Path, extra_readers: None) -> None:
    folder = folder_with(tmp_path, {"a.fetch": "x"})
    [result] = read_files(find_files(folder))
    assert "fetches nothing" in (result.reason or "")


def test_remote_pictures_are_left_alone(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        url = f"http://127.0.0.1:{server.getsockname()[1]}/x"
        page = f'<!DOCTYPE html SYSTEM "{url}"><html><link rel=stylesheet href="{url}"><p>Hi<img src="{url}">'
        folder = folder_with(tmp_path, {"a.html": page})
        [result] = read_files(find_files(folder))
        assert result.documents[0].text == "Hi"
        with pytest.raises(TimeoutError):
            server.accept()


def test_a_reader_of_another_package_may_print_and_warn(tmp_path: Path, extra_readers: None) -> None:
    folder = folder_with(tmp_path, {"a.talk": "loud"})
    [result] = read_files(find_files(folder))
    assert result.documents[0].text == "LOUD"
    assert result.documents[0].metadata["type"] == "talk"
    assert result.warnings == ("page 2 gave no text",)


def test_leaving_early_ends_the_children(tmp_path: Path, extra_readers: None) -> None:
    folder = folder_with(tmp_path, {"a.txt": "a"} | {f"b{number}.hang": "x" for number in range(9)})
    results = read_files(find_files(folder), workers=2)
    assert next(results).source == "a.txt"
    began = time.monotonic()
    results.close()  # type: ignore[attr-defined]
    assert time.monotonic() - began < 5
    assert not _children()


def _children() -> list[str]:
    """What is left of the processes that read."""
    tasks = Path("/proc/self/task").glob("*/children")
    return [child for task in tasks for child in task.read_text().split() if _reads(child)]


def _reads(process: str) -> bool:
    try:
        return b"fieldstone.read.child" in Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return False


def test_ctrl_c_ends_the_parent_and_its_children(tmp_path: Path, extra_readers: None) -> None:
    folder = folder_with(tmp_path, {"a.hang": "x"})
    code = (
        "import os, signal, sys, threading; sys.path.insert(0, sys.argv[2])\n"
        "from fieldstone.read import find_files, read_files\n"
        "threading.Timer(0.8, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
        "try:\n    list(read_files(find_files(sys.argv[1]), workers=1))\n"
        "except KeyboardInterrupt:\n    print('stopped')\n"
    )
    command = [sys.executable, "-c", code, str(folder), str(tmp_path / "package")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert (done.stdout, done.returncode, done.stderr) == ("stopped\n", 0, "")


def test_one_file_is_quick_and_no_torch_is_loaded(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, {"a.txt": "a"})
    began = time.monotonic()
    list(read_files(find_files(folder)))
    assert time.monotonic() - began < 2  # 0.15 s on an idle machine
    code = "import fieldstone.read.child, sys; sys.exit('torch' in sys.modules or 'openpyxl' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_modules_of_the_folder_we_stand_in_are_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_with(
        tmp_path, {"json.py": "raise SystemExit", "csv.py": "raise SystemExit", "a.csv": "a,b\nc,d"}
    )
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend("")
    assert [result.reason for result in read_files(find_files(folder))] == [None] * 3


def test_read_bytes_and_read_file_say_why_there_is_no_text(tmp_path: Path) -> None:
    with pytest.raises(ReadError, match=r"a\.txt: no text in it"):
        read_bytes(b" \n\t ", "a.txt")
    with pytest.raises(ReadError, match="cannot be opened"):
        read_file(tmp_path / "gone.txt")
