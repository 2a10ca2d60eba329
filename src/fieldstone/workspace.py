"""The workspace: a folder with the library, the settings that made it, its reports and its journal."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from fieldstone.errors import WorkspaceError
from fieldstone.library import Library
from fieldstone.settings import read_settings_file

SETTINGS_FILE = "fieldstone.toml"


@dataclass(frozen=True, slots=True)
class Workspace:
    """The places of a workspace."""

    path: Path

    @property
    def settings_file(self) -> Path:
        """The resolved settings of the last build."""
        return self.path / SETTINGS_FILE

    @property
    def cache(self) -> Path:
        """What can be deleted and comes back."""
        return self.path / "cache"

    @property
    def reports(self) -> Path:
        """One folder an evaluation."""
        return self.path / "reports"

    def library(self) -> Library:
        """Its library, opened."""
        return Library(self.path / "library.db")

    def stored_settings(self) -> dict[str, Any]:
        """The settings it was built with, as a tree."""
        return read_settings_file(self.settings_file) if self.settings_file.exists() else {}

    def journal(self, step: str, **facts: Any) -> None:
        """Append a line to journal.jsonl: what a step took in, its settings, seconds, what came out."""
        line = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "step": step, **facts}
        with (self.path / "journal.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def read_journal(self) -> Iterator[Mapping[str, Any]]:
        """The journal's lines, those cut off by a kill left out."""
        path = self.path / "journal.jsonl"
        for line in path.read_bytes().splitlines() if path.exists() else ():
            try:
                yield json.loads(line)
            except ValueError:
                continue

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the workspace for writing. Raises WorkspaceError when another process does."""
        lock = FileLock(self.path / ".writing.lock")
        try:
            lock.acquire(timeout=0.2)
        except Timeout:
            raise WorkspaceError(
                f"another process is writing to {self.path}; wait for it or stop it, then try again"
            ) from None
        try:
            yield
        finally:
            lock.release()


def create_workspace(path: Path) -> Workspace:
    """The workspace at `path`, made where there is none.

    Raises WorkspaceError when the folder holds something else.
    """
    if path.exists() and not path.is_dir():
        raise WorkspaceError(f"{path} is a file; name a folder for the workspace")
    if path.is_dir() and not (path / "library.db").exists() and any(path.iterdir()):
        raise WorkspaceError(f"{path} is not empty and no workspace; name a new folder after --into")
    path.mkdir(parents=True, exist_ok=True)
    Library(path / "library.db", create=True).close()
    return Workspace(path)


def open_workspace(path: Path) -> Workspace:
    """The workspace at `path`. Raises WorkspaceError when there is none."""
    if not (path / "library.db").is_file():
        raise WorkspaceError(
            f"there is no workspace at {path}; make one with: fieldstone build FOLDER --into {path}"
        )
    return Workspace(path)
