"""How fast a folder becomes a workspace, and what it costs to bring it up to date.

The steps run one by one in this process with the defaults of the recipe `guide`; then one file after the
other is changed by a line, and built again here and by `fieldstone build`. A page is 3,000 characters
where the format has none of its own. Goal: one changed file costs at most 2 % of the first build.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from fieldstone.library import Library
from fieldstone.models import Encoder, load_encoder
from fieldstone.read import find_files
from fieldstone.read.add import add_files
from fieldstone.recipes import choose_settings
from fieldstone.search.embed import embed_library
from fieldstone.search.lexical import LexicalIndex
from fieldstone.settings import Settings
from fieldstone.split import split_library
from fieldstone.workspace import Workspace, create_workspace
from machine import begin, peak_memory, spread, table

PAGE = 3_000


def main() -> None:
    """Build, build again, change and build again; print what each took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--runs", type=int, default=3, help="rebuilds of each kind (default 3)")
    parser.add_argument("--limit", type=int, help="so many of its files alone, spread over the folder")
    arguments = begin(parser)
    settings = choose_settings("guide", {}, flags=[f"models.threads={arguments.threads}"])
    with tempfile.TemporaryDirectory() as temporary:
        folder, workspace = Path(temporary, "documents"), create_workspace(Path(temporary, "workspace"))
        files = _copy(arguments.folder, folder, arguments.limit)
        library = workspace.library()
        read = _timed(lambda: add_files(library, folder, settings.read))
        child = peak_memory(resource.RUSAGE_CHILDREN)  # now: a child is born as large as its parent
        began = time.perf_counter()
        encoder = load_encoder(settings.models.encoder, threads=arguments.threads)
        seconds = {"read": read, "encoder loaded": time.perf_counter() - began}
        seconds |= _index(workspace, library, encoder, settings)
        _report(library, seconds, child)

        def build() -> None:
            add_files(library, folder, settings.read)
            _index(workspace, library, encoder, settings)

        def command() -> None:
            _command(folder, workspace.path, arguments.threads)

        rows = []
        for kind, changes in (("nothing changed", False), ("one file changed", True)):
            for where, again in (("in one process, encoder loaded", build), ("as a command", command)):
                times = []
                for run in range(arguments.runs):
                    if changes:
                        _change(files[(len(files) - arguments.runs) // 2 + run])
                    times.append(_timed(again))
                shares = [100 * time_ / sum(seconds.values()) for time_ in times]
                rows.append([f"{kind}, {where}", spread(times, 2), f"{spread(shares, 2)} %"])
        table([f"built again, {arguments.runs} runs each", "seconds", "of the first build"], rows)


def _copy(source: Path, folder: Path, limit: int | None) -> list[Path]:
    """The readable files copied into the folder, smallest first."""
    found = [file for file in find_files(source) if file.skipped is None]
    step = max(1, len(found) // limit) if limit else 1
    copies = []
    for file in found[::step][:limit]:
        copy = folder / file.source
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file.path, copy)
        copies.append(copy)
    return sorted(copies, key=lambda path: path.stat().st_size)


def _index(workspace: Workspace, library: Library, encoder: Encoder, settings: Settings) -> dict[str, float]:
    """Seconds of each step after reading."""
    return {
        "split": _timed(lambda: split_library(library, encoder, settings.split)),
        "embed": _timed(lambda: embed_library(library, encoder)),
        "lexical index": _timed(LexicalIndex(workspace.cache / "lexical", library).refresh),
    }


def _timed(step: Callable[[], object]) -> float:
    began = time.perf_counter()
    step()
    return time.perf_counter() - began


def _report(library: Library, seconds: dict[str, float], child: float) -> None:
    """The first build: one run, for it takes minutes."""
    counts = library.counts()
    pages = sum(len(d.pages) or len(d.text) / PAGE for d in library.documents())
    print(f"{counts.files} files ({counts.unread} without text), {counts.documents} documents, ", end="")
    print(f"{counts.characters:,} characters, {pages:,.0f} pages, {counts.passages:,} passages\n")
    rates = {
        name: f"{counts.passages / seconds[name]:,.0f} passages/s" for name in ("split", "lexical index")
    }
    rates["embed"] = f"{counts.passages / seconds['embed']:,.1f} passages/s"
    rates["read"] = f"{counts.files / seconds['read']:,.1f} files/s, {pages / seconds['read']:,.0f} pages/s"
    rows = [[name, f"{its:,.2f}", rates.get(name, "")] for name, its in seconds.items()]
    rows += [
        ["together", f"{sum(seconds.values()):,.2f}", ""],
        ["memory at most", "", f"{peak_memory():,.0f} MiB; a child that reads: {child:,.0f} MiB"],
    ]
    table(["first build, one run", "seconds", ""], rows)


def _change(path: Path) -> None:
    with path.open("ab") as file:
        file.write(f"\n\nOne more line, written at {time.time_ns()}.\n".encode())


def _command(folder: Path, workspace: Path, threads: int) -> None:
    program = str(Path(sys.executable).with_name("fieldstone"))
    options = ["--into", str(workspace), "--recipe", "guide", "--set", f"models.threads={threads}", "--quiet"]
    subprocess.run([program, "build", str(folder), *options], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
