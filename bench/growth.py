"""How a build grows: seconds and memory of `fieldstone build` over 1, 4 and 16 times as many documents.

The documents are sentences of a folder, recombined at random, a file each. Each build is a process of its
own over all of them, nothing kept of the one before. Memory is the most that the process has held; what read
the files are children of it, with limits of their own.
Goal: seconds grow about as the documents do, and memory by less than their text.

    python bench/growth.py --files 20 --set search.mode=lexical
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from fieldstone.quotes import sentences
from fieldstone.read import find_files, read_files
from fieldstone.workspace import Workspace
from machine import begin, data, table

TIMES = (1, 4, 16)


def main() -> None:
    """Make the documents, build each size, print how it grows."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    data(parser, "documents", "documents/squad8_txt")
    parser.add_argument("--files", type=int, default=20, help="documents of the smallest (default 20)")
    parser.add_argument("--characters", type=int, default=20_000, help="of a document (default 20,000)")
    parser.add_argument("--set", action="append", default=[], dest="changes", help="a setting of the build")
    arguments = begin(parser)
    texts = [d.text for result in read_files(find_files(arguments.documents)) for d in result.documents]
    spoken = [" ".join(text[a:b].split()) for text in texts for a, b in sentences(text)]
    changes = [f"models.threads={arguments.threads}", *arguments.changes]
    rows: list[list[str]] = []
    first = 0.0
    for times in TIMES:
        with tempfile.TemporaryDirectory() as temporary:
            folder, workspace = Path(temporary, "documents"), Path(temporary, "workspace")
            size = _write(spoken, folder, times * arguments.files, arguments.characters)
            seconds, memory = _build(folder, workspace, changes)
            library = Workspace(workspace).library()
            counts = library.counts()
            library.close()
        first = first or seconds
        rows.append(
            [
                f"{counts.documents:,}",
                f"{size / 2**20:,.1f} MiB",
                f"{counts.passages:,}",
                f"{seconds:,.1f}",
                f"{seconds / first:.1f}",
                f"{memory:,.0f}",
            ]
        )
    table(["documents", "text", "passages", "seconds", "times the first", "MiB at most"], rows)


def _write(spoken: Sequence[str], folder: Path, files: int, characters: int) -> int:
    """So many files; the bytes of all."""
    chance, size = random.Random(0), 0
    folder.mkdir()
    for number in range(files):
        paragraphs, length = [], 0
        while length < characters:
            paragraphs.append(" ".join(chance.choices(spoken, k=5)))
            length += len(paragraphs[-1])
        size += (folder / f"{number:06}.txt").write_bytes("\n\n".join(paragraphs).encode())
    return size


def _build(folder: Path, workspace: Path, changes: Sequence[str]) -> tuple[float, float]:
    """Seconds, and MiB of the process at most."""
    flags = [word for change in changes for word in ("--set", change)]
    command = [sys.executable, "-m", "fieldstone.cli", "-q", "build", str(folder), "--into", str(workspace)]
    began = time.perf_counter()
    process = subprocess.Popen([*command, "--recipe", "guide", *flags], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"the build of {folder} failed")
    return time.perf_counter() - began, used.ru_maxrss / 1024


if __name__ == "__main__":
    main()
