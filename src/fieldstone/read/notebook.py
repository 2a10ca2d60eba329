"""Jupyter notebooks: text cells as they stand, code and short outputs between fences."""

from __future__ import annotations

import json
from typing import Any

from fieldstone.errors import ReadError
from fieldstone.read.draft import clean
from fieldstone.read.encodings import decode
from fieldstone.read.plain import markdown
from fieldstone.records import Document

_OUTPUT_CHARS = 2000


def read_notebook(data: bytes, source: str) -> list[Document]:
    """One document a notebook, as Markdown; outputs are cut at 2,000 characters, pictures left out."""
    try:
        notebook = json.loads(decode(data))
    except (ValueError, RecursionError) as error:
        raise ReadError(source, f"damaged: not the JSON of a notebook ({error})") from error
    if not isinstance(notebook, dict):
        raise ReadError(source, "damaged: JSON, but not a notebook")
    sheets = notebook.get("worksheets") or [notebook]  # notebooks of before 2014 keep cells in worksheets
    cells = [cell for sheet in sheets for cell in sheet.get("cells", ())]
    about = notebook.get("metadata") or {}
    language = (about.get("kernelspec") or {}).get("language", "")
    blocks = [block for cell in cells for block in _blocks(cell, language)]
    return [markdown(clean("\n\n".join(blocks)), source, title=_joined(about.get("title", "")))]


def _blocks(cell: dict[str, Any], language: str) -> list[str]:
    text = _joined(cell.get("source", cell.get("input", ""))).strip("\n")
    if cell.get("cell_type") == "heading":
        return [f"{'#' * int(cell.get('level', 1))} {text}"]
    if cell.get("cell_type") != "code":
        return [text] if text.strip() else []
    blocks = [f"```{language}\n{text}\n```"] if text.strip() else []
    for output in cell.get("outputs", ()):
        said = _joined(output.get("text") or (output.get("data") or {}).get("text/plain") or "").strip("\n")
        if len(said) > _OUTPUT_CHARS:
            said = said[:_OUTPUT_CHARS] + "\n…"
        if said.strip():
            blocks.append(f"```\n{said}\n```")
    return blocks


def _joined(text: Any) -> str:
    """Notebooks keep a text as a string or as its lines."""
    return "".join(map(str, text)) if isinstance(text, list) else str(text)
