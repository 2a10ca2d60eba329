"""Small libraries made of plain texts: what the tests of library, split and search run on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from fieldstone.library import FileRow, Library
from fieldstone.models import load_encoder
from fieldstone.records import Document, Example, Heading, fingerprint
from fieldstone.search import Index
from fieldstone.search.dense import DenseIndex
from fieldstone.search.embed import embed_library
from fieldstone.search.lexical import LexicalIndex
from fieldstone.search.stores import open_store
from fieldstone.split import split_document

TEXTS = {
    "berths/berth-7.md": "Berth 7 takes ships of 9.5 m draught. Its crane lifts forty tonnes.",
    "berths/berth-8.md": "Berth 8 is closed in winter. It has no crane.",
    "tariffs/2024.txt": "A day at the quay costs 120 crowns. Fishing boats pay half.",
    "tariffs/2025.txt": "A day at the quay costs 135 crowns. Fishing boats pay a third.",
    "safety/welding.md": "Before welding on the quay the fire watch is told by radio on channel 12.",
}


def words(texts: Sequence[str]) -> list[int]:
    """Tokens as white space parts them."""
    return [len(text.split()) for text in texts]


def put(
    library: Library,
    source: str,
    text: str,
    *,
    title: str | None = None,
    metadata: Mapping[str, str] | None = None,
    headings: tuple[Heading, ...] = (),
    pages: tuple[int, ...] = (),
    tokens: int = 50,
    split: str = "split-1",
) -> Document:
    """Put a text into the library and split it; its title is its source."""
    if not library.roots():
        library.add_root("", "/folder")
    title = source if title is None else title
    document = Document.new(source, title, text, metadata, headings, pages)
    library.put_file(FileRow(source, "", fingerprint(text), "1", len(text)), [document])
    if document.id in library.unsplit(split):
        library.put_passages(document.id, split, split_document(document, words, tokens))
    return document


def make_library(
    path: Path, texts: Mapping[str, str] = TEXTS, *, embedded: bool = False, tokens: int = 50
) -> Library:
    """A library with these texts, split, and on request embedded with `fake:words`."""
    path.mkdir(parents=True, exist_ok=True)
    library = Library(path / "library.db", create=True)
    for source, text in texts.items():
        put(library, source, text, tokens=tokens)
    if embedded:
        embed_library(library, load_encoder("fake:words"))
    return library


def squad_index(path: Path, data: Path, longest: int) -> tuple[Index, list[Example]]:
    """SQuAD's train passages of so many characters at most, under MiniLM, and the human questions about them.

    A document a passage; its source, and the ids of its questions, begin with the article.
    """
    library = Library(path / "library.db", create=True)
    rows = [json.loads(line) for line in (data / "squad" / "squad_train_passages.jsonl").open()]
    ids = {}
    for row in rows:
        if len(row["text"]) <= longest:
            number = row["id"].rpartition("#")[2]
            put(library, f"{row['title']}/{number}", row["text"], title=row["title"], tokens=1000)
    encoder = load_encoder("embedded:minilm")
    embed_library(library, encoder)
    sources = {
        id_: source
        for id_, (source, _) in library.sources({p.document_id for p in library.passages()}).items()
    }
    ids = {sources[p.document_id]: p.id for p in library.passages()}
    asked = [json.loads(line) for line in (data / "squad" / "squad_train_slice.jsonl").open()]
    titles = {row["id"]: row["title"] for row in rows}
    examples = []
    for q in asked:
        about = f"{titles[q['passage_id']]}/{q['passage_id'].rpartition('#')[2]}"
        if about in ids:
            id_ = f"{about}/{q['id']}"
            examples.append(
                Example(id_, q["question"], q["answers"][0], ids[about], (), "answerable", "human")
            )
    store = open_store("memory:", encoder.dimension, encoder.fingerprint)
    dense = DenseIndex(library, encoder, store)
    return Index(library, LexicalIndex(path / "lexical", library), dense), examples


def write_folder(folder: Path, texts: Mapping[str, str] = TEXTS) -> Path:
    """The texts as files below `folder`."""
    for source, text in texts.items():
        file = folder / source
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return folder
