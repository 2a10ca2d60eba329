"""Embedding on the CPU: passages a second of ours and of sentence-transformers' default, in turns.

The same weights and passages. Also: the mean cosine of ours with theirs, and how many of the ten nearest
passages of a question are the same. Goal: at least 2.5 times as fast, cosine at least .999, overlap .99.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fieldstone.evaluate.questions import read_questions
from fieldstone.models import Encoder, Vectors, load_encoder
from fieldstone.models.embedded import minilm_folder
from fieldstone.read import read_file
from fieldstone.records import with_context
from fieldstone.split import split_document
from machine import begin, data, spread, table


def main() -> None:
    """Split the documents, time both in turns, print the ratio and how far the vectors agree."""
    parser = argparse.ArgumentParser(description=__doc__)
    data(parser, "documents", "documents/squad8_txt")
    data(parser, "questions", "squad/squad8_questions.jsonl")
    parser.add_argument("--encoder", type=Path, help="a sentence-transformers folder (default: MiniLM)")
    parser.add_argument("--passages", type=int, default=512, help="at most so many (default 512)")
    parser.add_argument("--runs", type=int, default=5)
    arguments = begin(parser)
    from sentence_transformers import SentenceTransformer

    folder = arguments.encoder or minilm_folder()
    ours = load_encoder(str(folder), device="cpu", threads=arguments.threads, engine="lean")
    peer = SentenceTransformer(str(folder), device="cpu")
    texts = _passages(arguments.documents, ours, arguments.passages)
    systems: dict[str, Callable[[list[str]], Vectors]] = {
        "sentence-transformers": lambda given: np.asarray(peer.encode(given, normalize_embeddings=True)),
        "ours": ours.encode_passages,
    }
    vectors = {name: encode(texts) for name, encode in systems.items()}  # one round warms up
    wall: dict[str, list[float]] = {name: [] for name in systems}
    cpu: dict[str, list[float]] = {name: [] for name in systems}
    for _ in range(arguments.runs):
        for name, encode in systems.items():
            began, worked = time.perf_counter(), time.process_time()
            encode(texts)
            wall[name].append(len(texts) / (time.perf_counter() - began))
            cpu[name].append(len(texts) / (time.process_time() - worked))
    a, b = systems
    tokens = np.mean(ours.count_tokens(texts))
    table(
        [f"{len(texts)} passages, {tokens:.0f} tokens in the mean", "passages/s", "passages/CPU-second"],
        [
            *[[name, spread(wall[name]), spread(cpu[name])] for name in systems],
            ["ratio", *(spread([y / x for x, y in zip(t[a], t[b], strict=True)], 2) for t in (wall, cpu))],
        ],
    )
    cosines = (vectors[a] * vectors[b]).sum(1)
    known = [q.question for q in read_questions(arguments.questions)]
    asked = known[:: max(1, len(known) // 200)]
    found = [_nearest(encode(asked), vectors[name]) for name, encode in systems.items()]
    overlap = [len(set(x) & set(y)) / len(x) for x, y in zip(*found, strict=True)]
    table(
        ["agreement", ""],
        [
            ["cosine, mean", f"{cosines.mean():.5f}"],
            ["cosine, least", f"{cosines.min():.5f}"],
            [f"of the ten nearest, {len(asked)} questions", f"{np.mean(overlap):.4f}"],
        ],
    )


def _passages(documents: Path, encoder: Encoder, most: int) -> list[str]:
    """The documents' passages as a build makes them, or so many, spread over all."""
    texts = []
    for path in sorted(documents.glob("*.txt")):
        for document in read_file(path):
            for passage in split_document(document, encoder.count_tokens, encoder.max_tokens):
                texts.append(with_context(passage.text, document.title, passage.headings))
    return texts[:: max(1, len(texts) // most)][:most]


def _nearest(questions: Vectors, passages: Vectors) -> list[list[int]]:
    return [row.tolist() for row in np.argsort(-questions @ passages.T, axis=1, kind="stable")[:, :10]]


if __name__ == "__main__":
    main()
