"""The commands: one thin file each. They parse, call the library, and render what it gives."""

from __future__ import annotations

import sys


def main() -> None:
    """The console entry point."""
    try:
        from fieldstone.cli.app import app

        app(prog_name="fieldstone")
    except KeyboardInterrupt:  # before a command has begun
        sys.exit(130)
