"""A command in several processes, started by torchrun or `accelerate launch`: the first runs it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable


def launched() -> bool:
    """Whether this is one of several processes that a launcher has started."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


def run(command: Callable[[], None]) -> None:
    """Run the command in the first of the processes; the others follow it where it tunes (`tune.together`).

    An error ends the process where it happens, and the launcher then ends the others.
    """
    number = int(os.environ["RANK"])

    from fieldstone.errors import FieldstoneError
    from fieldstone.tune import together

    together.join()
    if number == 0:
        try:
            command()
        except SystemExit as end:
            if end.code:
                raise
        together.dismiss()
        return
    try:
        if not together.follow():
            sys.exit(1)
    except FieldstoneError as error:
        print(f"error: process {number}: {error}", file=sys.stderr)
        sys.exit(1)
