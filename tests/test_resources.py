"""The resources of an MCP server in a library: read as files are, kept up to date, and never by surprise."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvicorn
from typer.testing import CliRunner

import mcp_source
from fieldstone.cli.app import app
from fieldstone.errors import ReadError, WorkspaceError
from fieldstone.library import Library
from fieldstone.read.add import add_files
from fieldstone.read.resources import KEY, Server, add_resources
from fieldstone.settings import ReadSettings
from serving import until, workspace_of

SETTINGS = ReadSettings(workers=1, seconds_a_file=20)


@pytest.fixture
def library(tmp_path):
    library = Library(tmp_path / "library.db", create=True)
    yield library
    library.close()


@pytest.fixture
def notes(tmp_path):
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "crane.md").write_text("# The crane\n\nIt lifts forty tonnes.\n\n## Wind\n\nNot above force 7.")
    (folder / "fire-watch.txt").write_text("The fire watch listens on channel 12.")
    (folder / "lock.html").write_text("<p>The lock opens at <b>six</b>.</p><script>alert(1)</script>")
    return folder


@pytest.fixture(scope="module")
def place():
    """The socket at which the MCP server waits."""
    with tempfile.TemporaryDirectory() as folder:  # whose path is short enough for one
        place = Path(folder) / "socket"
        process = subprocess.Popen([sys.executable, mcp_source.__file__, str(place)])
        try:
            until(place.is_socket)
            yield place
        finally:
            process.kill()
            process.wait()


@pytest.fixture
def server(place):
    """Makes the server of a folder, which is a command to start."""
    relay = str(Path(__file__).with_name("mcp_relay.py"))

    def made(folder: Path, **more) -> Server:
        return Server(shlex.join([sys.executable, relay, str(place), str(folder)]), **more)

    return made


def texts(library):
    return {d.source: d.text for d in library.documents()}


def test_resources_are_read_as_their_type_says(library, notes, server):
    added = add_resources(library, server(notes), SETTINGS)
    assert set(added.read) == {"notes://crane", "notes://fire-watch", "notes://lock"}
    crane, watch, lock = library.documents()
    assert (crane.source, crane.title) == ("notes://crane", "The crane")
    assert [h.text for h in crane.headings] == ["The crane", "Wind"]
    assert crane.metadata["type"] == "md"
    assert crane.metadata["date"] == "2024-05-01"
    assert (watch.title, watch.metadata["type"]) == ("fire watch", "txt")
    assert lock.text.strip() == "The lock opens at six."
    assert library.roots() == {f"mcp {server(notes).address}": server(notes).address}


def test_only_what_changed_is_read_again_and_what_is_gone_goes(library, notes, server):
    add_resources(library, server(notes), SETTINGS)
    (notes / "lock.html").unlink()
    (notes / "fire-watch.txt").write_text("The fire watch listens on channel 14.")
    (notes / "ice.txt").write_text("Ice is made from five on.")
    added = add_resources(library, server(notes), SETTINGS)
    assert set(added.read) == {"notes://fire-watch", "notes://ice"}
    assert (added.removed, added.unchanged) == (("notes://lock",), 1)
    assert "14" in texts(library)["notes://fire-watch"]


def test_what_gives_no_text_is_told_and_the_rest_is_read(library, notes, server):
    (notes / "map.pdf").write_bytes(b"%PDF-1.4 not really")
    (notes / "photo.bin").write_bytes(b"\x89PNG\r\n\x1a\n123")
    (notes / "big.txt").write_text("ab " * 700_000)
    added = add_resources(
        library, server(notes), ReadSettings(workers=1, max_megabytes=1, exclude=("crane",))
    )
    assert set(added.read) == {"notes://fire-watch", "notes://lock"}
    unread = dict(added.unread)
    assert "PNG" in unread["notes://photo"]
    assert "notes://map" in unread
    skipped = dict(added.skipped)
    assert "the limit is 1.0 MiB" in skipped["notes://big"]
    assert "excluded by 'crane'" in skipped["notes://crane"]


def test_what_a_server_does_not_give_now_is_not_lost(library, notes, server):
    (notes / "bad-news.txt").write_text("A ship ran aground.")
    add_resources(library, server(notes), SETTINGS)
    (notes / "how").write_text("fails")
    (notes / "lock.html").unlink()
    added = add_resources(library, server(notes), SETTINGS)
    assert dict(added.skipped) == {"notes://bad-news": "not given by the server: this note is lost"}
    assert added.removed == ("notes://lock",)
    assert "notes://bad-news" in texts(library)


def test_a_server_that_dies_on_the_way_leaves_what_it_gave_and_what_was_there(library, notes, server):
    (notes / "a.txt").write_text("First.")
    add_resources(library, server(notes), SETTINGS)
    (notes / "how").write_text("dies")
    (notes / "a.txt").write_text("First of all.")
    (notes / "lock.html").unlink()
    (notes / "z.txt").write_text("Last.")
    added = add_resources(library, server(notes), SETTINGS)
    assert added.read == ("notes://a",)
    assert {source for source, _ in added.skipped} == {"notes://fire-watch", "notes://z"}
    assert texts(library).keys() == {"notes://a", "notes://crane", "notes://fire-watch"}


def test_templates_are_filled_in_by_what_is_given(library, notes, server):
    added = add_resources(library, server(notes, arguments={"day": "1 May", "week": "7"}), SETTINGS)
    assert len(added.read) == 4
    assert texts(library)["days://1%20May"].strip() == "On 1%20May the lock was shut."


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("nosuchprogram --serve", "there is no such command"),
        (f"{sys.executable} -c 'print(1)'", "no MCP server answers there"),
        (f"{sys.executable} -c 'raise SystemExit(\"no ink\")'", "it said: no ink"),
        ("", "no command and no address"),
        ("server 'unclosed", "no command: No closing quotation"),
        ("http://", "no address"),
        ("http://[::1", "no address"),
        ("http://127.0.0.1:9/mcp", "no MCP server answers there"),
        ("http://192.0.2.1/mcp", "--allow-network"),
        ("https://notes.example/mcp", "--allow-network"),
        ("http://localhost.notes.example/mcp", "--allow-network"),
    ],
)
def test_what_is_no_server_is_told_and_nothing_is_lost(library, notes, address, why):
    add_files(library, notes, SETTINGS)
    before = texts(library)
    with pytest.raises(ReadError, match=why):
        add_resources(library, Server(address), SETTINGS)
    assert texts(library) == before
    assert library.roots().keys() == {""}


def test_a_list_without_an_end_is_refused(library, notes, monkeypatch, server):
    monkeypatch.setattr("fieldstone.read.resources.MAX_RESOURCES", 20)
    (notes / "how").write_text("endless")
    with pytest.raises(ReadError, match="lists more than 20 resources"):
        add_resources(library, server(notes), SETTINGS)


def test_a_folder_and_a_server_live_side_by_side(library, notes, tmp_path, server):
    add_resources(library, server(notes), SETTINGS)
    folder = tmp_path / "handbook"
    folder.mkdir()
    (folder / "tides.txt").write_text("High water at noon.")
    assert add_files(library, folder, SETTINGS).read == ("tides.txt",)
    other = tmp_path / "other"
    other.mkdir()
    (other / "crane.md").write_text("Another crane.")
    with pytest.raises(WorkspaceError, match="notes://crane is there already"):
        add_resources(library, server(other), SETTINGS)
    assert len(texts(library)) == 4


@contextmanager
def over_http(folder, seen):
    serving = mcp_source.build(folder).streamable_http_app()

    async def watched(scope, receive, send):
        if scope["type"] == "http":
            seen.append(dict(scope["headers"]).get(b"authorization", b"").decode())
        await serving(scope, receive, send)

    config = uvicorn.Config(watched, port=0, log_level="error", lifespan="on")
    uvicorned = uvicorn.Server(config)
    thread = threading.Thread(target=uvicorned.run, daemon=True)
    thread.start()
    until(lambda: uvicorned.started)
    port = uvicorned.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        uvicorned.should_exit = True
        thread.join(10)


def test_a_server_at_an_address_of_this_machine(library, notes, monkeypatch):
    monkeypatch.setenv(KEY, "fs_secret")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # which would be another machine
    seen = []
    with over_http(notes, seen) as address:
        added = add_resources(library, Server(address), SETTINGS)
        again = add_resources(library, Server(address), SETTINGS)
    assert len(added.read) == 3
    assert (again.read, again.unchanged) == ((), 3)
    assert set(seen) == {"Bearer fs_secret"}


def test_the_command(notes, tmp_path, server):
    workspace = str(workspace_of(tmp_path / "harbour").path)

    def fieldstone(*args):
        return CliRunner().invoke(app, list(args))

    added = fieldstone("add", workspace, "--mcp", server(notes).address, "--argument", "day=monday", "-q")
    assert added.exit_code == 0, added.output
    assert "4 files read" in added.stdout
    found = fieldstone("search", workspace, "fire watch", "--source", "notes://*", "--json").stdout
    assert json.loads(found)["hits"][0]["source"] == "notes://fire-watch"
    assert f"MCP server {sys.executable}" in fieldstone("status", workspace).stdout
    assert "3 files" in fieldstone("remove", workspace, "notes://").stdout
    for slip, told in (
        ((), "name a file or a folder, or an MCP server"),
        (("--mcp", "x", "--argument", "day"), "write it as NAME=VALUE"),
        (("--mcp", "https://notes.example/mcp"), "--allow-network"),
        (("--mcp", f"{sys.executable} -c 'print(1)'"), "no MCP server answers there"),
    ):
        refused = fieldstone("add", workspace, *slip)
        assert refused.exit_code in (1, 2)
        assert told in refused.stderr
        assert "Traceback" not in refused.stderr
