"""Keys: shown once, kept as hashes, open what they are for, and nobody gets in by a damaged file."""

from __future__ import annotations

import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest
from typer.testing import CliRunner

from fieldstone.cli.app import app
from fieldstone.errors import KeysError
from fieldstone.serve.keys import Keys, make_key, read_keys, revoke_key, usual_file

posix = pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "config" / "keys.json"


def test_a_key_opens_what_it_is_for(path):
    everything = make_key(path, "owner", admin=True)
    reader = make_key(path, "reading room", ("handbook", "tariffs"))
    keys = Keys(path)
    assert len(keys) == 2
    for workspace in ("handbook", "tariffs", "other"):
        assert keys.allows(everything, workspace)
        assert keys.allows(everything, workspace, admin=True)
        assert keys.allows(reader, workspace) == (workspace != "other")
        assert not keys.allows(reader, workspace, admin=True)
    assert keys.of(reader).name == "reading room"
    for wrong in (None, "", reader[:-1], reader + "a", reader.swapcase(), "fs_", "\udcff", "é" * 40):
        assert keys.of(wrong) is None
        assert not keys.allows(wrong, "handbook")


def test_a_key_for_asking_opens_nothing_else(path):
    asking = make_key(path, "partner", ("handbook",), asking=True)
    keys = Keys(path)
    assert keys.allows(asking, "handbook", asking=True)
    assert not keys.allows(asking, "other", asking=True)
    assert not keys.allows(asking, "handbook")
    assert not keys.allows(asking, "handbook", admin=True, asking=True)
    with pytest.raises(KeysError, match="leave one out"):
        make_key(path, "both", admin=True, asking=True)
    kept = json.loads(path.read_text())
    del kept["keys"][0]["asking"]  # as it was written before there were such keys
    path.write_text(json.dumps(kept))
    assert not read_keys(path)[0].asking


def test_only_hashes_are_kept(path):
    tokens = [make_key(path, str(i)) for i in range(3)]
    assert len({*tokens}) == 3
    for token in tokens:
        assert len(token) == len("fs_") + 43, "256 bits in base 64"
        kept = path.read_text()
        assert token not in kept
        assert token[3:] not in kept
    assert [key.last4 for key in read_keys(path)] == [token[-4:] for token in tokens]
    assert not path.with_name("keys.json.partial").exists()


@posix
def test_only_the_owner_reads_the_file(path):
    old = os.umask(0)
    try:
        make_key(path, "one")
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    path.chmod(0o620)
    with pytest.raises(KeysError, match="chmod 600"):
        Keys(path)


def test_revoked_and_new_keys_hold_at_once(path):
    first = make_key(path, "first")
    keys = Keys(path)
    second = make_key(path, "second")
    assert keys.allows(second, "handbook")
    assert revoke_key(path, "first").last4 == first[-4:]
    assert not keys.allows(first, "handbook")
    assert keys.allows(second, "handbook")
    path.unlink()
    assert not keys.allows(second, "handbook")
    assert len(keys) == 0
    with pytest.raises(KeysError, match="fieldstone keys make"):
        revoke_key(path, "second")


def test_names_are_taken_once(path):
    token = make_key(path, "one")
    with pytest.raises(KeysError, match="there is a key named 'one'"):
        make_key(path, "one")
    with pytest.raises(KeysError, match="no key named 'two'; there are: 'one'"):
        revoke_key(path, "two")
    for name in ("", "  ", "a\nb"):
        with pytest.raises(KeysError, match="no name"):
            make_key(path, name)
    assert Keys(path).allows(token, "w")


WHOLE = {"name": "n", "hash": "0" * 64, "workspaces": None, "admin": True, "made": "", "last4": ""}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b'{"fieldstone": "keys"}',
        b'{"keys": []}',
        b"[" * 100_000,
        json.dumps({"fieldstone": "keys", "keys": [WHOLE | {"hash": ""}]}).encode(),
        json.dumps({"fieldstone": "keys", "keys": [WHOLE | {"hash": "é" * 64}]}).encode(),
        json.dumps({"fieldstone": "keys", "keys": [WHOLE | {"workspaces": "handbook"}]}).encode(),
        json.dumps({"fieldstone": "keys", "keys": [WHOLE, WHOLE]}).encode(),
        json.dumps({"fieldstone": "keys", "keys": [{"name": "n"}]}).encode(),
    ],
)
def test_nobody_gets_in_by_a_damaged_file(path, content, caplog):
    token = make_key(path, "one")
    keys = Keys(path)
    path.write_bytes(content)
    assert not keys.allows(token, "handbook")
    assert not keys.allows("", "handbook")
    assert "nobody is let in" in caplog.text
    for act in (lambda: Keys(path), lambda: make_key(path, "two"), lambda: revoke_key(path, "one")):
        with pytest.raises(KeysError, match="nobody is let in"):
            act()
    assert path.read_bytes() == content, "what was there is not lost"


def test_two_who_make_keys_at_once_lose_none(path):
    with ThreadPoolExecutor(4) as pool:
        tokens = list(pool.map(lambda i: make_key(path, str(i)), range(12)))
    keys = Keys(path)
    assert {keys.of(token).name for token in tokens} == {str(i) for i in range(12)}


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(KeysError, match="--file"):
        make_key(tmp_path / "file" / "keys.json", "one")


def test_the_commands(path, monkeypatch):
    monkeypatch.setenv("FIELDSTONE_KEYS", str(path))
    assert usual_file() == path
    run = CliRunner().invoke
    assert "There are no keys" in run(app, ["keys", "list"]).output
    made = run(app, ["keys", "make", "reading room", "--workspace", "handbook"])
    token = made.stdout.strip()
    assert Keys(path).allows(token, "handbook")
    assert not Keys(path).allows(token, "tariffs")
    boss = json.loads(run(app, ["keys", "make", "boss", "--admin", "--json"]).stdout)["token"]
    assert Keys(path).allows(boss, "tariffs", admin=True)
    listed = run(app, ["keys", "list"]).output
    assert f"…{token[-4:]}" in listed
    assert "handbook" in listed
    assert token not in listed
    shown = json.loads(run(app, ["keys", "list", "--json"]).stdout)
    assert [key["name"] for key in shown["keys"]] == ["reading room", "boss"]
    assert "hash" not in shown["keys"][0]
    assert run(app, ["keys", "revoke", "boss"]).exit_code == 0
    assert Keys(path).of(boss) is None
    refused = run(app, ["keys", "revoke", "boss"])
    assert refused.exit_code == 1
    assert "there is no key named 'boss'" in refused.stderr
