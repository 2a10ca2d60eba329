"""Files that are written whole or not at all: a kill in between leaves what stood there."""

from __future__ import annotations

import json
from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Put this text in the place of what the file held; its folder is made where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8", newline="\n")
    partial.replace(path)


def write_json(path: Path, content: object) -> None:
    """The same with content that JSON can hold, laid out for people to read."""
    write_text(path, json.dumps(content, ensure_ascii=False, indent=1) + "\n")
