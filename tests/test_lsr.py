"""LM-supervised retrieval with the real models: only the questions' side moves, and it finds more."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from fieldstone.library import Library
from fieldstone.models import Encoder, Vectors, load_encoder, load_generator
from fieldstone.models.embedded import minilm_folder
from fieldstone.models.files import sha256
from fieldstone.models.towers import ADAPTER, read_adapter
from fieldstone.records import Example, with_context
from fieldstone.search import Index
from fieldstone.search.dense import DenseIndex
from fieldstone.search.embed import embed_library
from fieldstone.search.lexical import LexicalIndex
from fieldstone.search.stores import open_store
from fieldstone.settings import resolve_settings
from fieldstone.tune.retriever import Ranking, Tuned, tune_retriever
from fieldstone.tune.retriever.teacher import supervise
from small_library import put

pytestmark = pytest.mark.slow

TAUGHT = 96
SHORT = 420  # characters; passages that the generator reads quickly


@dataclass(frozen=True)
class Lesson:
    """What SmolLM2 says of what MiniLM finds for 96 questions of SQuAD, and all other questions."""

    rankings: list[Ranking]
    answered_by: list[str]
    held: list[str]
    gold: np.ndarray
    passages: Vectors
    before: np.ndarray

    def reciprocal_ranks(self, questions: Vectors) -> np.ndarray:
        """Of the held-out questions' passages among all 678."""
        scores = questions @ self.passages.T
        own = scores[np.arange(len(self.gold)), self.gold]
        found: np.ndarray = 1 / (1 + (scores > own[:, None]).sum(1))
        return found

    def gains(self, encoder: Encoder) -> tuple[np.ndarray, str]:
        """What this encoder changes, and the same in words."""
        after = self.reciprocal_ranks(encoder.encode_queries(self.held))
        first = [float((ranks == 1).mean()) for ranks in (self.before, after)]
        said = (
            f"MRR {self.before.mean():.4f} -> {after.mean():.4f}, recall@1 {first[0]:.4f} -> {first[1]:.4f}"
        )
        return after - self.before, said


@pytest.fixture(scope="module")
def lesson(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Lesson:
    home = tmp_path_factory.mktemp("lsr")
    passages = [json.loads(line) for line in (data / "squad" / "squad_train_passages.jsonl").open()]
    questions = [json.loads(line) for line in (data / "squad" / "squad_train_slice.jsonl").open()]
    short = {p["id"]: p for p in passages if len(p["text"]) <= SHORT}
    ours = [q for q in questions if q["passage_id"] in short]
    random.Random(0).shuffle(ours)
    taught = ours[:TAUGHT]
    encoder = load_encoder("embedded:minilm")

    library = Library(home / "library.db", create=True)
    for passage in short.values():
        put(library, passage["id"], passage["text"], title=passage["title"], tokens=10_000)
    embed_library(library, encoder)
    store = open_store("memory:", encoder.dimension, encoder.fingerprint)
    generator = load_generator("embedded:smollm2")
    dense = DenseIndex(library, encoder, store)
    index = Index(library, LexicalIndex(home / "lexical", library), dense, generator)
    flags = ["retriever.loss=lsr", "retriever.candidates=4", "search.mode=dense"]
    examples = [Example(q["id"], q["question"], q["answers"][0], None) for q in taught]
    settings = resolve_settings(environment={}, flags=flags)
    rankings = supervise(index, examples, settings, "one-by-one", home / "scores.jsonl")
    library.close()

    used = {q["id"] for q in taught}
    held = [q for q in questions if q["id"] not in used]
    place = {p["id"]: i for i, p in enumerate(passages)}
    everything = encoder.encode_passages([with_context(p["text"], p["title"], ()) for p in passages])
    gold = np.array([place[q["passage_id"]] for q in held])
    lesson = Lesson(
        rankings,
        [with_context(short[q["passage_id"]]["text"], short[q["passage_id"]]["title"], ()) for q in taught],
        [q["question"] for q in held],
        gold,
        everything,
        np.zeros(len(held)),
    )
    lesson.before[:] = lesson.reciprocal_ranks(encoder.encode_queries(lesson.held))
    return lesson


def tune(lesson: Lesson, into: Path, *flags: str) -> Tuned:
    given = ("retriever.loss=lsr", "retriever.towers=query", "retriever.candidates=4", *flags)
    settings = resolve_settings(environment={}, flags=given)
    return tune_retriever("embedded:minilm", lesson.rankings, into, settings.retriever)


def test_the_generator_likes_the_passages_that_hold_the_answer(lesson: Lesson) -> None:
    found = [
        ranking.passages[int(np.argmax(ranking.scores))] == own
        for ranking, own in zip(lesson.rankings, lesson.answered_by, strict=True)
    ]
    assert np.mean(found) > 0.85


def test_an_adapter_learns_what_the_generator_likes(lesson: Lesson, tmp_path: Path) -> None:
    tuned = tune(lesson, tmp_path / "t", "retriever.method=adapter", "retriever.divergence=teacher-student")
    weight, _ = read_adapter(tuned.folder / ADAPTER)
    assert np.abs(weight).max() > 1e-4
    encoder = load_encoder(str(tuned.folder))
    assert encoder.fingerprint == load_encoder("embedded:minilm").fingerprint
    gains, said = lesson.gains(encoder)
    assert gains.mean() > gains.std() / len(gains) ** 0.5, said


def test_the_tower_of_the_questions_learns_what_the_generator_likes(lesson: Lesson, tmp_path: Path) -> None:
    source = minilm_folder() / "model.safetensors"
    was = sha256(source)
    tuned = tune(
        lesson, tmp_path / "t", "retriever.divergence=teacher-student", "retriever.learning_rate=5e-5",
        "retriever.batch=16", "retriever.epochs=2",
    )  # fmt: skip
    before, after = load_file(source), load_file(tuned.folder / "query" / "model.safetensors")
    moved = {name for name in after if np.abs(after[name] - before[name]).max() > 1e-5}
    assert all(any(f"layer.{i}." in name for name in moved) for i in range(6))
    assert sha256(source) == was
    encoder, base = load_encoder(str(tuned.folder)), load_encoder("embedded:minilm")
    texts = list(lesson.rankings[0].passages)
    assert np.array_equal(encoder.encode_passages(texts), base.encode_passages(texts))
    gains, said = lesson.gains(encoder)
    assert gains.mean() > 0, said
