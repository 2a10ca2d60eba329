"""The retriever's teacher: the scores of the search, kept batch by batch."""

from __future__ import annotations

import json

import pytest

from fieldstone.models import load_reranker
from fieldstone.records import with_context
from fieldstone.search import Index, search
from fieldstone.settings import SearchSettings
from fieldstone.tune.teacher import BATCH, pseudo_labels, rank
from ports import Clerk, handbooks, index_of, library_of

QUESTIONS = [
    f"{how} at {port}?"
    for port in ("Kelmouth", "Marrowby", "Trenwick", "Oldhaven", "Sandquay", "Fernport")
    for how in ("Who opened it", "What costs a day", "Which channel answers", "What did the storm break",
                "How much does the crane lift", "When are invoices sent")
] + ["Where is the lighthouse keeper?"]  # fmt: skip
PLAIN = SearchSettings(rerank="none")


class Stopped(Exception):
    """Stands for Ctrl-C at a certain moment."""


@pytest.fixture
def taught(tmp_path):
    """An index with a generator that keeps what it was asked."""
    library = library_of(tmp_path, handbooks(6))
    index = index_of(tmp_path, library)
    yield Index(library, index.lexical, index.dense, Clerk())
    library.close()


def test_scores_are_those_of_the_search_reranked_by_likelihood(taught, tmp_path):
    assert len(QUESTIONS) > BATCH
    rankings = rank(taught, QUESTIONS, PLAIN, 5, tmp_path / "k" / "t.jsonl")
    assert [r.question for r in rankings] == QUESTIONS
    how = PLAIN.model_copy(update={"rerank": "likelihood", "rerank_depth": 5})
    titles = taught.library.sources({p.document_id for p in taught.library.passages()})
    for ranking, hits in zip(rankings, search(taught, QUESTIONS, how, 5), strict=True):
        assert ranking.scores == tuple(hit.score for hit in hits)
        passages = [hit.passage for hit in hits]
        assert ranking.passages == tuple(
            with_context(p.text, titles[p.document_id][1], p.headings) for p in passages
        )
        assert len(set(ranking.passages)) == len(ranking.passages) == 5


def test_what_is_kept_is_not_asked_again(taught, tmp_path):
    kept = tmp_path / "t.jsonl"
    first = rank(taught, QUESTIONS, PLAIN, 5, kept)
    written, asked = kept.read_bytes(), len(taught.generator.read)
    assert rank(taught, QUESTIONS, PLAIN, 5, kept) == first
    assert (kept.read_bytes(), len(taught.generator.read)) == (written, asked)


def test_stopped_it_goes_on(taught, tmp_path):
    first = rank(taught, QUESTIONS, PLAIN, 5, tmp_path / "undisturbed.jsonl")
    asked = len(taught.generator.read)

    def stop(step, done, total, unit):
        if done:
            raise Stopped

    with pytest.raises(Stopped):
        rank(taught, QUESTIONS, PLAIN, 5, tmp_path / "t.jsonl", stop)
    assert rank(taught, QUESTIONS, PLAIN, 5, tmp_path / "t.jsonl") == first
    assert len(taught.generator.read) == 2 * asked
    assert (tmp_path / "t.jsonl").read_bytes() == (tmp_path / "undisturbed.jsonl").read_bytes()


@pytest.mark.parametrize("cut", [1, 40, -2, -1])
def test_a_damaged_last_line_is_done_again(taught, tmp_path, cut):
    kept = tmp_path / "t.jsonl"
    first = rank(taught, QUESTIONS, PLAIN, 5, kept)
    *whole, last = kept.read_bytes().splitlines(keepends=True)
    kept.write_bytes(b"".join([*whole, last[:cut]]))
    assert rank(taught, QUESTIONS, PLAIN, 5, kept) == first
    asked = len(taught.generator.read)
    assert rank(taught, QUESTIONS, PLAIN, 5, kept) == first  # and then it is kept
    assert len(taught.generator.read) == asked


def test_progress_comes_to_its_end(taught, tmp_path):
    seen = []
    rank(taught, QUESTIONS, PLAIN, 5, tmp_path / "t.jsonl", lambda *said: seen.append(said))
    assert seen[0] == ("teach", 0, len(QUESTIONS), "questions")
    assert seen[-1] == ("teach", len(QUESTIONS), len(QUESTIONS), "questions")


def test_one_candidate_teaches_nothing(tmp_path):
    library = library_of(tmp_path, {"a.md": "# A\n\nThe crane lifts forty tonnes.\n"})
    index = index_of(tmp_path, library)
    index = Index(library, index.lexical, index.dense, Clerk())
    assert rank(index, ["What lifts?"], PLAIN, 5, tmp_path / "t.jsonl") == []
    assert rank(index, [], PLAIN, 5, tmp_path / "t.jsonl") == []
    assert [json.loads(line)["found"] for line in (tmp_path / "t.jsonl").read_text().splitlines()]
    library.close()


def test_pseudo_labels_are_a_reranker_s_scores_and_are_kept(tmp_path):
    reranker = load_reranker("fake:words")
    texts = ["The crane lifts forty tonnes.", "Who opened it?", "A day at the quay costs 120 crowns."]
    asked = [(question, texts[: 1 + i % 3]) for i, question in enumerate(QUESTIONS)]
    found = pseudo_labels(reranker, asked, tmp_path / "t.jsonl")
    assert found == [tuple(reranker.rerank(question, its)) for question, its in asked]
    assert len({score for scores in found for score in scores}) > 1

    class Silent:
        """Would be noticed if it were asked."""

        name = fingerprint = "silent"

        def rerank(self, question, texts):
            raise AssertionError("what is kept is not asked again")

    assert pseudo_labels(Silent(), asked, tmp_path / "t.jsonl") == found
