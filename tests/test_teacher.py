"""The retriever's teacher: the scores of the search, kept batch by batch."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

import tiny_models
from fieldstone.errors import ModelError, SettingsError
from fieldstone.models import Prompt, load_generator, load_reranker
from fieldstone.prompts import fid_prompt, one_by_one_prompt, parse_together
from fieldstone.records import Example, with_context
from fieldstone.search import Index, search
from fieldstone.settings import SearchSettings, resolve_settings
from fieldstone.tune.kept import BATCH
from fieldstone.tune.retriever.teacher import answer_row, pseudo_labels, rank, rank_by_attention, supervise
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
        # other numbers of questions at once are products of other sizes, whose last bits may differ
        assert ranking.scores == pytest.approx([hit.score for hit in hits], abs=1e-6)
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


# -- a reader's attention


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    pytest.importorskip("torch")
    made = tiny_models.t5(tmp_path_factory.mktemp("m") / "t5", initializer_factor=0.7)
    return load_generator(str(made), dtype="float32", threads=1)


def test_attention_scores_stand_beside_their_passages(taught, reader, tmp_path):
    asked = QUESTIONS[:5]
    rankings = rank_by_attention(taught, asked, PLAIN, 4, reader, tmp_path / "t.jsonl")
    assert [r.question for r in rankings] == asked
    for ranking, hits in zip(rankings, search(taught, asked, PLAIN, 4), strict=True):
        passages = taught.library.passage_texts(hit.passage for hit in hits)
        assert ranking.passages == tuple(passages[hit.passage.id] for hit in hits)
        assert len(set(ranking.scores)) == len(ranking.scores) == 4
        back = reader.attend([fid_prompt(ranking.passages[::-1], ranking.question)])[0]
        assert ranking.scores == pytest.approx(back[::-1], abs=1e-4)
    written = (tmp_path / "t.jsonl").read_bytes()
    assert rank_by_attention(taught, asked, PLAIN, 4, reader, tmp_path / "t.jsonl") == rankings
    assert (tmp_path / "t.jsonl").read_bytes() == written


def test_another_generator_has_no_attention_to_teach_by(taught, tmp_path):
    with pytest.raises(ModelError, match=r"clerk has no cross-attention.*name it in retriever\.reader"):
        rank_by_attention(taught, QUESTIONS, PLAIN, 4, Clerk(), tmp_path / "t.jsonl")


def test_no_candidates_are_no_ranking(reader, tmp_path):
    library = library_of(tmp_path, {"a.md": "# A\n\nThe crane lifts forty tonnes.\n"})
    index = index_of(tmp_path, library)
    assert rank_by_attention(index, ["What lifts?", "?"], PLAIN, 5, reader, tmp_path / "t.jsonl") == []
    library.close()


def examples():
    """More than a batch; every fourth has no answer."""
    return [
        Example(f"e{i}", question, "" if i % 4 == 3 else f"{i} crowns", None)
        for i, question in enumerate(QUESTIONS + [f"Once more: {question}" for question in QUESTIONS])
    ]


def lsr(*flags):
    flags = ("retriever.loss=lsr", "retriever.candidates=5", "search.rerank=likelihood", *flags)
    return resolve_settings(environment={}, flags=flags)


def test_each_answer_is_scored_after_each_passage_that_was_found(taught, tmp_path):
    rankings = supervise(taught, examples(), lsr(), "one-by-one", tmp_path / "t.jsonl")
    told = [e for e in examples() if e.answer]
    assert len(told) > BATCH
    assert [r.question for r in rankings] == [e.question for e in told]
    for ranking, example, hits in zip(
        rankings, told, search(taught, [e.question for e in told], PLAIN, 5), strict=True
    ):
        texts = taught.library.passage_texts([hit.passage for hit in hits])
        assert ranking.passages == tuple(texts[hit.passage.id] for hit in hits)
        assert len(ranking.passages) == 5
        for text, score in zip(ranking.passages, ranking.scores, strict=True):
            (alone,) = taught.generator.score(
                [one_by_one_prompt(text, example.question)], [f" {example.answer}"]
            )
            assert score == alone.mean


def test_a_probability_is_that_of_the_whole_answer(taught, tmp_path):
    means = supervise(taught, examples(), lsr(), "one-by-one", tmp_path / "t.jsonl")
    asked = len(taught.generator.read)
    how = lsr("retriever.lsr_score=probability")
    whole = supervise(taught, examples(), how, "one-by-one", tmp_path / "t.jsonl")
    assert len(taught.generator.read) == asked  # what is kept serves both
    for mean, sum_ in zip(means, whole, strict=True):
        assert sum_ == replace(mean, scores=sum_.scores)
        answer = next(e.answer for e in examples() if e.question == mean.question)
        tokens = taught.generator.fake.score([Prompt("")], [f" {answer}"])[0].tokens
        for m, p in zip(mean.scores, sum_.scores, strict=True):
            assert p == pytest.approx(math.exp(m * tokens))


def test_stopped_it_does_not_score_again(taught, tmp_path):
    def stop(step, done, total, unit):
        if step == "teach" and done:
            raise Stopped

    whole = supervise(taught, examples(), lsr(), "one-by-one", tmp_path / "whole.jsonl")
    asked = len(taught.generator.read)
    with pytest.raises(Stopped):
        supervise(taught, examples(), lsr(), "one-by-one", tmp_path / "t.jsonl", stop)
    assert supervise(taught, examples(), lsr(), "one-by-one", tmp_path / "t.jsonl") == whole
    assert len(taught.generator.read) == 2 * asked
    assert (tmp_path / "t.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_read_together_the_answer_alone_is_scored():
    prompt, wanted = answer_row("The gate is blue.", "Which colour?", "blue", "together")
    assert (prompt.chat, wanted) == (True, "blue")
    assert "### 1\nThe gate is blue." in prompt.text
    assert parse_together(prompt.prefill + wanted, 1) == ((1,), "blue")


def test_lsr_without_a_generator_is_told(taught, tmp_path):
    index = Index(taught.library, taught.lexical, taught.dense)
    with pytest.raises(SettingsError, match="lsr needs a generator"):
        supervise(index, examples(), lsr(), "one-by-one", tmp_path / "t.jsonl")


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
