"""What every benchmark here prints above its numbers: the command, the machine, the versions, the threads."""

from __future__ import annotations

import argparse
import os
import platform
import resource
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from pathlib import Path

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""NumPy, torch and FAISS read these once, when they are loaded."""


def begin(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Parse the arguments, make `--threads` hold for every library, print the facts."""
    parser.add_argument("--threads", type=int, default=2, help="threads to compute with (default 2)")
    arguments = parser.parse_args()
    wanted = dict.fromkeys(THREADS, str(arguments.threads))
    if any(os.environ.get(name) != value for name, value in wanted.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | wanted)
    facts(f"python {shlex.join(sys.argv)}", arguments.threads)
    return arguments


def facts(command: str, threads: int) -> None:
    """Print the command line, the processor, how busy it is with others, memory and versions."""
    busy = ", ".join(f"{load:.1f}" for load in os.getloadavg())
    packages = ("fieldstone", "numpy", "torch", "tantivy")
    print(f"$ {command}")
    print(f"{_processor()}, {os.cpu_count()} logical cores, {_memory():.0f} GiB; load before: {busy}")
    print(f"{platform.platform()}; Python {platform.python_version()}; {threads} threads; ", end="")
    print(", ".join(f"{name} {version(name)}" for name in packages), end="\n\n", flush=True)


def data(parser: argparse.ArgumentParser, name: str, default: str) -> None:
    """An argument that is a path of the data folder unless another one is given."""
    root = os.environ.get("FIELDSTONE_DATA")
    known = Path(root, default) if root else None
    help_ = f"default: $FIELDSTONE_DATA/{default}"
    parser.add_argument(name, type=Path, nargs="?" if known else None, default=known, help=help_)


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Median, and the range of all runs where there are several."""
    middle = f"{statistics.median(values):,.{digits}f}"
    return middle if len(values) < 2 else f"{middle} ({min(values):,.{digits}f}-{max(values):,.{digits}f})"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print columns, the first one flush left."""
    lines = [header, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    for line in lines:
        cells = [line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))]
        print("  ".join(cells), flush=True)
    print()


def quantiles(ask: Callable[[list[str]], object], questions: list[str], runs: int) -> list[str]:
    """Median and 95th percentile over the questions, asked one by one: the middle and range of the runs."""
    runs_of: list[list[float]] = []
    ask(questions[:1])
    for _ in range(runs):
        times = []
        for question in questions:
            began = time.perf_counter()
            ask([question])
            times.append(1000 * (time.perf_counter() - began))
        runs_of.append(statistics.quantiles(times, n=20, method="inclusive"))
    return [spread([cuts[place] for cuts in runs_of]) for place in (9, 18)]


def peak_memory(who: int = resource.RUSAGE_SELF) -> float:
    """The most memory that this process (or RUSAGE_CHILDREN: any of its children) has held, in MiB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(who).ru_maxrss * unit / 2**20


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "unknown")


def _memory() -> float:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30


if __name__ == "__main__":
    facts(sys.argv[1], int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
