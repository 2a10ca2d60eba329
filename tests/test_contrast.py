"""What the retriever is tuned on: the fused ranking taken apart again, and where negatives come from."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from fieldstone.models import load_encoder
from fieldstone.prompts import likelihood_prompt
from fieldstone.quotes import find_words
from fieldstone.records import Example
from fieldstone.search import search
from fieldstone.settings import SearchSettings, resolve_settings
from fieldstone.tune.retriever.contrast import beside_lexical, mined
from ports import Clerk, handbooks, index_of, library_of


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


@pytest.mark.parametrize("judged", [False, True])
def test_negatives_are_mined_from_several_searches(index, judged):
    texts, examples = index.library.passage_texts(), examples_of(index.library)
    searches = [SearchSettings(mode=mode) for mode in ("dense", "lexical")]  # no generator: nothing reranks
    data = mined(index, examples, searches, 4, 30, texts, 0, judged=judged)
    plain = [s.model_copy(update={"rerank": "none"}) for s in searches]
    rankings = [search(index, [e.question for e in examples], s, 4) for s in plain]
    held = 0
    for item, example, *found in zip(data, examples, *rankings, strict=True):
        best = {texts[hit.passage.id] for hits in found for hit in hits} - {texts[example.passage_id]}
        holding = {text for text in best if find_words(example.answer, text)}
        held += len(holding)
        assert set(item.negatives) == (best if judged else best - holding)
        assert (item.question, item.positive) == (example.question, texts[example.passage_id])
    assert held
    some = mined(index, examples, searches, 4, 2, texts, 0, judged=judged)
    assert some == mined(index, examples, searches, 4, 2, texts, 0, judged=judged)  # drawn by the seed
    assert some != mined(index, examples, searches, 4, 2, texts, 1, judged=judged)
    assert all(set(few.negatives) <= set(all_.negatives) for few, all_ in zip(some, data, strict=True))
