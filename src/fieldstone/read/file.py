"""One file to documents: finds the reader, and turns whatever goes wrong into a ReadError with its reason."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from textwrap import shorten

from fieldstone.errors import ReadError
from fieldstone.read.sniff import kind_of, suffix_of
from fieldstone.records import Document

Reader = Callable[[bytes, str], Iterable[Document]]
"""The seam: the content of a file and its source to documents. It raises ReadError if there is no text,
and says what it had to leave out by `warnings.warn(…, ReadWarning)`."""

READERS = {
    "txt": "fieldstone.read.plain:read_text",
    "md": "fieldstone.read.plain:read_markdown",
    "rst": "fieldstone.read.plain:read_rst",
    "org": "fieldstone.read.plain:read_org",
    "code": "fieldstone.read.plain:read_code",
    "ipynb": "fieldstone.read.notebook:read_notebook",
    "html": "fieldstone.read.html:read_html",
    "csv": "fieldstone.read.csv:read_csv",
    "eml": "fieldstone.read.mail:read_mail",
    "rtf": "fieldstone.read.rtf:read_rtf",
    "pdf": "fieldstone.read.pdf:read_pdf",
    "docx": "fieldstone.read.docx:read_docx",
    "pptx": "fieldstone.read.pptx:read_pptx",
    "xlsx": "fieldstone.read.xlsx:read_xlsx",
    "odt": "fieldstone.read.odt:read_odt",
    "epub": "fieldstone.read.epub:read_epub",
}
"""The built-in reader of each kind, imported when the first such file comes."""


TITLE_CHARACTERS = 120
"""A title goes with every passage into encoder and prompt, so a longer one is cut."""

TOO_LARGE = "needs more memory than a file may take"


class ReadWarning(UserWarning):
    """A part of a file gave no text."""


def warn(text: str) -> None:
    """Say that a part of the file gave no text."""
    warnings.warn(text, ReadWarning, stacklevel=2)


def read_file(path: Path | str, source: str | None = None) -> list[Document]:
    """The documents of one file, read in this process: no limit holds here (see `read_files`).

    `source` is the name it goes by; without, the file's name. ReadError if it gives no text.
    """
    source = source or Path(path).name
    data, stamp = load(Path(path), source)
    return read_bytes(data, source, stamp)


def load(path: Path, source: str) -> tuple[bytes, dict[str, str]]:
    """The content of a file, and what its folder says of it: the day it was changed, its size."""
    try:
        data = path.read_bytes()
        changed = datetime.fromtimestamp(path.stat().st_mtime, UTC).date().isoformat()
    except OSError as error:
        raise ReadError(source, f"cannot be opened: {error.strerror}") from error
    except MemoryError as error:
        raise ReadError(source, TOO_LARGE) from error
    return data, {"date": changed, "bytes": str(len(data))}


def read_bytes(data: bytes, source: str, stamp: Mapping[str, str] | None = None) -> list[Document]:
    """The documents of a content. ReadError if it gives no text.

    Their metadata says of which `type` it is, and holds what `stamp` knows and the file itself does not.
    """
    try:
        kind, reader = _reader_for(data, source)
        documents = [document for document in reader(data, source) if document.text.strip()]
    except ReadError:
        raise
    except MemoryError as error:
        raise ReadError(source, TOO_LARGE) from error
    except Exception as error:  # a stranger's file in a third-party library: anything may come
        raise ReadError(
            source, f"damaged, or of an unknown make ({type(error).__name__}: {error})"
        ) from error
    if not documents:
        raise ReadError(source, "no text in it")
    known = {"type": kind, **(stamp or {})}
    return [
        replace(
            document,
            title=shorten(document.title, TITLE_CHARACTERS, placeholder=" …"),
            metadata={**known, **document.metadata},
        )
        for document in documents
    ]


def _reader_for(data: bytes, source: str) -> tuple[str, Reader]:
    """An installed reader for the suffix goes first, then the built-in one for the kind of content."""
    suffix = suffix_of(source)
    if suffix in _installed():
        loaded: Reader = _installed()[suffix].load()
        return suffix, loaded
    kind = kind_of(data, source)
    module, _, function = READERS[kind].partition(":")
    reader: Reader = getattr(import_module(module), function)
    return kind, reader


@cache
def _installed() -> dict[str, EntryPoint]:
    """Readers that other packages add: the name of the entry point is the suffix."""
    return {entry.name.lower(): entry for entry in entry_points(group="fieldstone.readers")}
