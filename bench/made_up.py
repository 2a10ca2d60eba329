"""A large library out of a small folder, for measuring speed: made-up passages with made-up vectors.

The passages are sentences of the folder, recombined at random to about 100 words. Each vector is that of
a real sentence plus noise, of unit length, and is put straight into the library. The questions are real
and their vectors too, so that a search can be timed without its encoder.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from fieldstone.library import FileRow, Library
from fieldstone.models import Vectors, load_encoder
from fieldstone.quotes import sentences
from fieldstone.read import find_files, read_files
from fieldstone.records import Document, Passage, fingerprint
from fieldstone.search.lexical import LexicalIndex

WORDS = 100  # a passage
PASSAGES = 100  # a document
REAL = 1_000  # sentences whose vectors the others are made from
NOISE = 0.8  # length of the noise beside a vector of length 1: their cosine is .78


class Remembered:
    """An encoder that knows the vectors of certain questions by heart, and no passage."""

    name = "remembered"
    max_tokens = 256

    def __init__(self, folder: Path) -> None:
        self.questions: list[str] = json.loads((folder / "questions.json").read_text(encoding="utf-8"))
        self._vectors = np.load(folder / "questions.npy")
        self._rows = {question: row for row, question in enumerate(self.questions)}
        self.dimension = int(self._vectors.shape[1])
        self.fingerprint = fingerprint(self.name, self.dimension)

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        """One row a question."""
        vectors: Vectors = self._vectors[[self._rows[text] for text in texts]]
        return vectors

    def encode_passages(self, texts: Sequence[str]) -> Vectors:
        """None of them."""
        raise NotImplementedError

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Words."""
        return [len(text.split()) for text in texts]


def made(arguments: argparse.Namespace, temporary: Path) -> Path:
    """The folder of such a library: `--keep`, as it is or filled now, or a temporary one."""
    folder: Path = arguments.keep or temporary
    if not (folder / "lexical" / "mark.json").exists():  # the last thing that is written
        facts = (folder, arguments.documents, arguments.questions, arguments.passages, arguments.ask)
        maker = get_context("spawn").Process(target=make, args=(*facts, arguments.threads))
        maker.start()  # its encoder and texts shall not count as memory of what is measured
        maker.join()
    return folder


def make(into: Path, documents: Path, questions: Path, count: int, asked: int, threads: int) -> None:
    """A library with its lexical index, and the questions with their vectors, in the folder `into`."""
    chance, noise = random.Random(0), np.random.default_rng(0)
    texts = [d.text for result in read_files(find_files(documents)) for d in result.documents]
    spoken = [" ".join(text[a:b].split()) for text in texts for a, b in sentences(text)]
    lines = chance.sample(questions.read_text(encoding="utf-8").splitlines(), asked)
    chosen = list(dict.fromkeys(json.loads(line)["question"] for line in lines))
    encoder = load_encoder("embedded:minilm", threads=threads)
    real = encoder.encode_passages(chance.sample(spoken, min(REAL, len(spoken))))
    into.mkdir(parents=True, exist_ok=True)
    np.save(into / "questions.npy", encoder.encode_queries(chosen))
    (into / "questions.json").write_text(json.dumps(chosen), encoding="utf-8")

    library, known_as = Library(into / "library.db", create=True), Remembered(into).fingerprint
    library.add_root("", str(into))
    for number in range(0, count, PASSAGES):
        parts = [_passage(spoken, chance) for _ in range(PASSAGES)]
        document = Document.new(f"{number}.txt", "", "\n".join(parts))
        library.put_file(FileRow(document.source, "", document.id, "made up", len(document.text)), [document])
        placed = _placed(document, parts)
        library.put_passages(document.id, "made up", placed)
        near = real[noise.integers(0, len(real), len(parts))]
        far = noise.standard_normal(near.shape) * NOISE / np.sqrt(near.shape[1])
        vectors = (near + far) / np.linalg.norm(near + far, axis=1, keepdims=True)
        rows = library.rows([passage.id for passage in placed])
        library.put_vectors(known_as, list(rows.values()), vectors)
    library.use_encoder(known_as)
    LexicalIndex(into / "lexical", library).refresh()
    library.close()
    print(f"made of {len(spoken):,} sentences in {len(texts)} documents of {documents}")


def _passage(spoken: Sequence[str], chance: random.Random) -> str:
    parts: list[str] = []
    words = 0
    while words < WORDS:
        parts.append(chance.choice(spoken))
        words += len(parts[-1].split())
    return " ".join(parts)


def _placed(document: Document, parts: Sequence[str]) -> list[Passage]:
    passages, start = [], 0
    for text in parts:
        id_ = fingerprint(document.id, start)
        passages.append(Passage(id_, document.id, text, start, start + len(text)))
        start += len(text) + 1
    return passages
