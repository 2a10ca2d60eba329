"""API keys: random tokens that are shown once, kept as hashes in a file that only its owner reads.

A key opens all workspaces or some by name; with `admin` it may also change them, and one for `asking` may
ask questions and do nothing else.
"""

from __future__ import annotations

import hmac
import json
import logging
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from shlex import quote

from filelock import FileLock
from pydantic import TypeAdapter, ValidationError

from fieldstone.errors import KeysError

PREFIX = "fs_"
"""So that a key is known for what it is where it lies about."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Key:
    """What is kept of a key: never the token itself.

    `hash` is SHA-256 in hex: 256 random bits cannot be tried out, so it needs neither salt nor stretching.
    `workspaces` are names; None: all. `made` is in ISO format, `last4` the end of the token.
    """

    name: str
    hash: str
    workspaces: tuple[str, ...] | None
    admin: bool
    made: str
    last4: str
    asking: bool = False


def usual_file() -> Path:
    """Where keys are kept if nothing else is said: `$FIELDSTONE_KEYS`, or in the user's configuration."""
    named = os.environ.get("FIELDSTONE_KEYS")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "fieldstone" / "keys.json"


def read_keys(path: Path) -> tuple[Key, ...]:
    """The keys of a file, the oldest first; none where there is no file.

    Raises KeysError if the file is damaged, or if others than its owner may write it.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            kept = json.load(file)
        if os.name == "posix" and mode & 0o022:
            raise KeysError(
                f"others may write {path}, and so make keys of their own; type: "
                f"chmod 600 {quote(str(path))}, then see with fieldstone keys list whether you know them all"
            )
        if not isinstance(kept, dict) or kept.get("fieldstone") != "keys":
            raise ValueError("it is something else")
        keys = TypeAdapter(tuple[Key, ...]).validate_python(kept.get("keys"))
        if len({key.name for key in keys}) < len(keys):
            raise ValueError("two keys have one name")
        if not all(re.fullmatch("[0-9a-f]{64}", key.hash) for key in keys):
            raise ValueError("a hash is not whole")
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, RecursionError) as error:
        why = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise KeysError(
            f"the keys in {path} cannot be read ({why}): nobody is let in; mend the file, "
            "or move it away and make new keys with: fieldstone keys make NAME"
        ) from None
    return keys


def make_key(
    path: Path,
    name: str,
    workspaces: tuple[str, ...] | None = None,
    *,
    admin: bool = False,
    asking: bool = False,
) -> str:
    """Make a key of this name; returns the token, which cannot be had again.

    Raises KeysError if there is one of that name, if it would be for `asking` alone and for everything
    (`admin`), or if the file is damaged.
    """
    if admin and asking:
        raise KeysError("a key is for asking alone, or it is an admin's; leave one out")
    if not name.strip() or not name.isprintable():
        raise KeysError(f"{name!r} is no name for a key; say who or what will use it, such as reading-room")
    token = PREFIX + secrets.token_urlsafe(32)
    made = datetime.now(UTC).isoformat(timespec="seconds")
    with _writing(path):
        keys = read_keys(path)
        if any(key.name == name for key in keys):
            raise KeysError(f"there is a key named {name!r}; choose another name, or revoke that one first")
        _write(path, (*keys, Key(name, _hash(token), workspaces, admin, made, token[-4:], asking)))
    return token


def revoke_key(path: Path, name: str) -> Key:
    """Take a key away; a running server refuses it from the next request on.

    Raises KeysError if there is none of that name, or if the file is damaged.
    """
    if not path.exists():
        raise KeysError(f"there are no keys at {path}; make one with: fieldstone keys make NAME")
    with _writing(path):
        keys = read_keys(path)
        gone = next((key for key in keys if key.name == name), None)
        if gone is None:
            known = ", ".join(repr(key.name) for key in keys) or "none"
            raise KeysError(f"there is no key named {name!r}; there are: {known}")
        _write(path, tuple(key for key in keys if key is not gone))
    return gone


class Keys:
    """The keys of a file as a server asks for them: what is changed there holds from the next request on.

    Raises KeysError at the start if the file is damaged. If it becomes so later, nobody is let in, and the
    log says why.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stamp = _stamp(path)
        self._keys = read_keys(path)

    def __len__(self) -> int:
        return len(self._current())

    def of(self, token: str | None) -> Key | None:
        """The key that this token is, or None. It takes as long for a wrong token as for a right one."""
        given = _hash(token or "")
        found = None
        for key in self._current():
            if hmac.compare_digest(key.hash, given):
                found = key
        return found

    def allows(self, token: str | None, workspace: str, admin: bool = False, *, asking: bool = False) -> bool:
        """Whether this token opens the workspace of that name, as `admin` or to read, or for `asking`."""
        return opens(self.of(token), workspace, admin, asking=asking)

    def _current(self) -> tuple[Key, ...]:
        stamp = _stamp(self.path)
        if stamp != self._stamp:
            try:
                self._keys = read_keys(self.path)
            except KeysError as error:
                self._keys = ()
                _log.error("%s", error)
            self._stamp = stamp
        return self._keys


def opens(key: Key | None, workspace: str, admin: bool = False, *, asking: bool = False) -> bool:
    """Whether a key opens the workspace of that name; one for asking alone does only for `asking`."""
    if key is None or (admin and not key.admin) or (key.asking and not asking):
        return False
    return key.workspaces is None or workspace in key.workspaces


def _hash(token: str) -> str:
    return sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def _stamp(path: Path) -> tuple[int, ...]:
    try:
        its = path.stat()
    except OSError:
        return ()
    return its.st_mtime_ns, its.st_size, its.st_ino, its.st_mode


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Hold the file: two who change it at once lose neither key."""
    lock = FileLock(f"{path}.lock", timeout=10)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock.acquire()
    except OSError as error:  # a timeout is one
        raise KeysError(f"{path} cannot be written ({error}); name another place with --file") from None
    try:
        yield
    finally:
        lock.release()


def _write(path: Path, keys: tuple[Key, ...]) -> None:
    """Put these keys in the place of those the file held, never readable by others in between."""
    content = json.dumps({"fieldstone": "keys", "keys": [asdict(key) for key in keys]}, indent=1) + "\n"
    partial = path.with_name(f"{path.name}.partial")
    try:
        partial.unlink(missing_ok=True)
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise KeysError(f"{path} cannot be written ({error}); name another place with --file") from None
