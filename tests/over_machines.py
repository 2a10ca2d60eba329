"""What the tests of work on other machines send: work that dies or fails, a model, readers that harm."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path

from fieldstone.errors import EndpointError, ReadError
from fieldstone.models import Options
from fieldstone.records import Document
from ports import Rater

ENTRY_POINTS = """\
[fieldstone.readers]
crash = over_machines:crash
hang = over_machines:hang
[fieldstone.models]
rater = over_machines
here = over_machines
"""


def write_package(folder: Path) -> None:
    """Make the folder one of a package that adds the readers and the models of this module."""
    about = folder / "over_machines-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: over-machines\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(ENTRY_POINTS)


def crash(data: bytes, source: str) -> Sequence[Document]:
    """A reader that a file ends."""
    os.kill(os.getpid(), signal.SIGSEGV)
    return []


def hang(data: bytes, source: str) -> Sequence[Document]:
    """A reader that a file holds up."""
    while True:
        pass


def load_generator(name: str, options: Options) -> Rater:
    """`rater:it` anywhere; `here:PID` in that process alone is the same."""
    rater = Rater()
    if name.startswith("here:") and name != f"here:{os.getpid()}":
        rater.fingerprint = "another000000001"
    return rater


def double_and_die_once(folder: Path, number: int) -> int:
    """Twice the number; the first process that takes 3 dies of it. Each attempt leaves a file."""
    attempts = len(list(folder.glob(f"{number}-*")))
    (folder / f"{number}-{attempts}").touch()
    if number == 3 and not attempts:
        os.kill(os.getpid(), signal.SIGKILL)
    return 2 * number


def die(number: int) -> int:
    """No process survives 2."""
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def fail(number: int) -> int:
    """A server of models does not answer the third."""
    if number == 2:
        raise EndpointError("no model answers")
    return number


def fail_to_read(number: int) -> int:
    """An error whose class is made of more than its message."""
    raise ReadError(f"{number}.txt", "damaged")
