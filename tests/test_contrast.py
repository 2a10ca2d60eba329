"""What the retriever is tuned on: the fused ranking taken apart again, and where negatives come from."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import numpy as np
import pytest

from fieldstone.library import Library
from fieldstone.models import load_encoder
from fieldstone.prompts import likelihood_prompt
from fieldstone.quotes import find_words
from fieldstone.records import Example
from fieldstone.search import Index, search
from fieldstone.search.dense import DenseIndex
from fieldstone.search.embed import embed_library
from fieldstone.search.lexical import LexicalIndex
from fieldstone.search.stores import open_store
from fieldstone.settings import resolve_settings
from fieldstone.tune.contrast import beside_lexical
from fieldstone.tune.retriever import tune_retriever
from ports import Clerk, handbooks, index_of, library_of
from small_library import put


@pytest.fixture
def index(tmp_path):
    library = library_of(tmp_path, handbooks(6))
    yield index_of(tmp_path, library)
    library.close()


def examples_of(library):
    chance = random.Random(0)
    made = []
    for i, passage in enumerate(library.passages()):
        words = passage.text.split()
        question = " ".join(chance.sample(words, min(5, len(words)))) + "?"
        made.append(
            Example(f"e{i}", question, words[-1].strip("."), passage.id, (), "answerable", "synthetic")
        )
    return made


def test_cosine_and_lexical_part_rank_as_the_fused_search_does(index, tmp_path):
    settings = resolve_settings(
        flags=["retriever.negatives=2", "search.rerank=none", "search.dense_weight=0.7"]
    )
    texts, examples = index.library.passage_texts(), examples_of(index.library)
    data = beside_lexical(index, examples, settings, texts, tmp_path / "kept.jsonl")
    assert [d.question for d in data] == [e.question for e in examples]
    encoder = load_encoder("fake:words")
    for item, hits in zip(data, search(index, [d.question for d in data], settings.search, 8), strict=True):
        shown = [texts[hit.passage.id] for hit in hits]
        cosines = encoder.encode_passages(shown) @ encoder.encode_queries([item.question])[0]
        total = cosines + np.array([item.lexical.get(text, 0.0) for text in shown])
        fused = np.array([hit.scores["fused"] for hit in hits])
        assert total / total[0] == pytest.approx(fused / fused[0], abs=1e-5)


def test_negatives_are_found_passages_without_the_answer(index, tmp_path):
    settings = resolve_settings(
        flags=["retriever.negatives=2", "retriever.candidates=5", "search.rerank=none"]
    )
    texts, examples = index.library.passage_texts(), examples_of(index.library)
    data = beside_lexical(index, examples, settings, texts, tmp_path / "kept.jsonl")
    found = search(index, [e.question for e in examples], settings.search, 5)
    assert any(len(item.negatives) == 2 for item in data)
    for item, example, hits in zip(data, examples, found, strict=True):
        best = {texts[hit.passage.id] for hit in hits}
        assert item.positive == texts[example.passage_id]
        assert set(item.negatives) <= best - {item.positive}
        assert not any(find_words(example.answer, text) for text in item.negatives)
    assert data == beside_lexical(
        index, examples, settings, texts, tmp_path / "kept.jsonl"
    )  # drawn by the seed


@pytest.mark.parametrize("how", ["search.mode=dense", "search.fusion=rrf", "search.dense_weight=1"])
def test_without_a_weighted_lexical_score_nothing_is_added(index, how, tmp_path):
    settings = resolve_settings(flags=[how, "search.rerank=none"])
    data = beside_lexical(
        index, examples_of(index.library), settings, index.library.passage_texts(), tmp_path / "kept.jsonl"
    )
    assert not any(item.lexical for item in data)


def test_a_generator_scores_the_question_after_each_passage_and_is_asked_once(index, tmp_path):
    settings = resolve_settings(flags=["retriever.negatives=2", "search.rerank=none"])
    texts, examples = index.library.passage_texts(), examples_of(index.library)
    clerk = Clerk()
    taught = replace(index, generator=clerk)
    data = beside_lexical(taught, examples, settings, texts, tmp_path / "kept.jsonl")
    for item in data:
        shown = [likelihood_prompt(text) for text in (item.positive, *item.negatives)]
        assert item.scores == tuple(s.mean for s in clerk.score(shown, [f" {item.question}"] * len(shown)))
    before = len(clerk.read)
    assert beside_lexical(taught, examples, settings, texts, tmp_path / "kept.jsonl") == data
    assert len(clerk.read) == before


@pytest.mark.slow
def test_the_fused_search_learns_from_human_questions(data, tmp_path):
    """Tuned on eight articles of SQuAD beside what the lexical search knows, the *fused* search finds more in
    four others."""
    passages = [json.loads(line) for line in (data / "squad" / "squad_train_passages.jsonl").open()]
    questions = [json.loads(line) for line in (data / "squad" / "squad_train_slice.jsonl").open()]
    title = {p["id"]: p["title"] for p in passages}
    held = set(sorted(set(title.values()))[::3])
    chance = random.Random(0)
    asked = [q for q in questions if title[q["passage_id"]] in held]
    short = {p["id"] for p in passages if len(p["text"]) <= 600}
    ours = [q for q in questions if title[q["passage_id"]] not in held and q["passage_id"] in short]

    def library_with(name, its):
        library, ids = Library(tmp_path / f"{name}.db", create=True), {}
        for p in its:
            put(library, p["id"], p["text"], title=p["title"], tokens=10_000)
        sources = library.sources({p.document_id for p in library.passages()})
        ids = {sources[p.document_id][0]: p.id for p in library.passages()}
        return library, ids

    def index(library, encoder, name):
        embed_library(library, encoder)
        store = open_store("memory:", encoder.dimension, encoder.fingerprint)
        return Index(library, LexicalIndex(tmp_path / name, library), DenseIndex(library, encoder, store))

    flags = ["search.rerank=none", "retriever.epochs=1", "retriever.batch=16", "retriever.learning_rate=1e-4"]
    settings = resolve_settings(environment={}, flags=[*flags, "retriever.negatives=0"])
    assert settings.retriever.loss == "fused"
    base = load_encoder("embedded:minilm")
    taught, own = library_with("taught", [p for p in passages if p["id"] in short and p["title"] not in held])
    train = [
        Example(q["id"], q["question"], q["answers"][0], own[q["passage_id"]])
        for q in chance.sample(ours, 640)
    ]
    texts = taught.passage_texts()
    rows = beside_lexical(index(taught, base, "t"), train, settings, texts, tmp_path / "kept.jsonl")
    assert all(row.lexical for row in rows)
    tuned = tune_retriever("embedded:minilm", rows, tmp_path / "tuned", settings.retriever)

    theirs, ids = library_with("theirs", [p for p in passages if p["title"] in held])

    def reciprocal_ranks(encoder):
        found = search(index(theirs, encoder, "h"), [q["question"] for q in asked], settings.search, 10)
        gold = [ids[q["passage_id"]] for q in asked]
        ranked = [[hit.passage.id for hit in hits] for hits in found]
        return np.array([1 / (1 + r.index(g)) if g in r else 0 for r, g in zip(ranked, gold, strict=True)])

    before, after = reciprocal_ranks(base), reciprocal_ranks(load_encoder(str(tuned.folder)))
    gains = after - before
    said = f"MRR@10 {before.mean():.4f} -> {after.mean():.4f} on {len(gains)} questions"
    assert gains.mean() > 1.96 * gains.std() / len(gains) ** 0.5, said
    taught.close()
    theirs.close()
