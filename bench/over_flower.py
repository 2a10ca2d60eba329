"""A federation over Flower on loopback: a coordinator and its sites, each a process of its own."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def over_flower(workspaces: Sequence[Path], changes: Sequence[str], into: Path) -> dict[str, Any]:
    """What `fieldstone federate run --json` says of a federation of copies of these workspaces.

    `changes` are settings, as after --set. Without certificates. Needs flwr beside fieldstone.
    What the processes said lies in `into`.
    """
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir(parents=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    flags = [word for change in changes for word in ("--set", change)]
    coordinator = _start(into / "run", "run", into / "rounds", "--address", address, "--json", *flags)
    sites = []
    for workspace in workspaces:
        own = into / workspace.name
        shutil.copytree(workspace, own, ignore=shutil.ignore_patterns("federation"))
        sites.append(_start(own.with_suffix(".site"), "join", own, address, *flags))
    try:
        if coordinator.wait() or any(site.wait() for site in sites):
            raise SystemExit(f"a process of the federation failed; {into} holds what each said")
    finally:
        for process in (coordinator, *sites):
            process.kill()
    told: dict[str, Any] = json.loads((into / "run.out").read_text(encoding="utf-8"))
    return told


def _start(log: Path, *words: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "fieldstone.cli", "-q", "federate", *map(str, words), "--insecure"]
    with log.with_suffix(".out").open("wb") as out, log.with_suffix(".err").open("wb") as problems:
        return subprocess.Popen(command, stdout=out, stderr=problems)
