"""What the generator is tuned on: the prompts that answering uses, and replies that answering understands."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fieldstone.answer import System, answer
from fieldstone.errors import SettingsError
from fieldstone.models import load_generator
from fieldstone.prompts import (
    REFUSAL,
    fid_prompt,
    one_by_one_prompt,
    parse_one_by_one,
    parse_together,
    together_prompt,
)
from fieldstone.records import Example, with_context
from fieldstone.search import search
from fieldstone.settings import GeneratorTuning, resolve_settings
from fieldstone.tune.generator import tune_generator
from fieldstone.tune.generator.lessons import NEAR, SPARE, lessons, look_up
from ports import Clerk, handbooks, index_of, library_of
from small_library import squad_index

TEXTS = {f"p{i}": f"Port {i}\nThe crane lifts {i} tonnes." for i in range(12)}
TUNING = GeneratorTuning(refusals=0.25)


def example(i, negatives=3, answer=None, passage=True):
    near = tuple(f"p{(i + k) % 12}" for k in range(1, negatives + 1))
    told = f"{i} tonnes" if answer is None else answer
    question = f"What does crane {i} lift{'' if passage else ' in 1911'}?"
    kind = "answerable" if passage else "unanswerable"
    return Example(
        f"e{i}{passage}", question, told if passage else "", f"p{i}" if passage else None, near, kind
    )


EXAMPLES = [example(i) for i in range(12)] + [example(i, passage=False) for i in range(4)]


def refused(row, reading):
    if reading == "together":
        return parse_together(row.completion, 12) == ((), "")
    return parse_one_by_one(row.completion) == ""


@pytest.mark.parametrize("reading", ["one-by-one", "together", "fid"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 0.4])
def test_so_many_rows_refuse(reading, share):
    rows = lessons(EXAMPLES, TEXTS, reading, GeneratorTuning(refusals=share), 4)
    refusals = sum(refused(row, reading) for row in rows)
    assert len(rows) - refusals == 12
    assert refusals == round(12 * share / (1 - share))
    assert refusals / len(rows) == pytest.approx(share, abs=0.04)


def test_one_by_one_rows_are_the_prompts_of_answering_and_parse_back():
    rows = lessons(EXAMPLES, TEXTS, "one-by-one", TUNING, 4)
    told = {one_by_one_prompt(TEXTS[e.passage_id], e.question): e.answer for e in EXAMPLES if e.passage_id}
    near = {one_by_one_prompt(TEXTS[id_], e.question) for e in EXAMPLES for id_ in e.negatives[:NEAR]}
    for row in rows:
        if row.prompt in told:
            assert parse_one_by_one(row.completion) == told[row.prompt]
        else:
            assert row.prompt in near
            assert row.completion == f" {REFUSAL}"
    assert told.keys() <= {row.prompt for row in rows}


@pytest.mark.parametrize("hard", [True, False])
@pytest.mark.parametrize("passages", [1, 2, 4, 10])
def test_together_rows_are_the_prompts_of_answering_and_parse_back(hard, passages):
    tuning = GeneratorTuning(refusals=0.4, hard_negatives=hard)
    rows = lessons(EXAMPLES, TEXTS, "together", tuning, passages, seed=3)
    questions = {e.question: e for e in EXAMPLES}
    seen = set()
    for row in rows:
        *numbered, question = row.prompt.text.split("### ")[1:]
        shown = [part.split("\n", 1)[1].strip() for part in numbered]
        question = question.removeprefix("Question\n")
        assert row.prompt == together_prompt(shown, question)  # the same function as answering
        assert 1 <= len(shown) <= passages
        assert len(set(shown)) == len(shown)
        cited, text = parse_together(row.completion, len(shown))
        gold = questions[question]
        if cited:
            assert [shown[n - 1] for n in cited] == [TEXTS[gold.passage_id]]
            assert text == gold.answer
            seen.add(cited)
        else:
            assert text == ""
            assert TEXTS.get(gold.passage_id) not in shown
        if hard:
            assert set(shown) <= {TEXTS.get(id_) for id_ in (gold.passage_id, *gold.negatives)}
    if passages == 4:
        assert len(seen) == 4  # the gold passage stands anywhere


@pytest.mark.parametrize("hard", [True, False])
@pytest.mark.parametrize("passages", [1, 2, 4, 10])
def test_fid_rows_hold_the_right_passage_anywhere_among_others(hard, passages):
    tuning = GeneratorTuning(refusals=0.4, hard_negatives=hard)
    rows = lessons(EXAMPLES, TEXTS, "fid", tuning, passages, seed=3)
    questions = {f"question: {e.question}": e for e in EXAMPLES}
    given_of = {passage: id_ for id_, text in TEXTS.items() for passage in fid_prompt([text], "?").passages}
    places = set()
    for row in rows:
        shown = [given_of[passage] for passage in row.prompt.passages]
        gold = questions[row.prompt.text]
        assert row.prompt == fid_prompt([TEXTS[id_] for id_ in shown], gold.question)
        assert 1 <= len(set(shown)) == len(shown) <= passages
        if gold.passage_id in shown:
            assert row.completion == gold.answer
            places.add(shown.index(gold.passage_id))
        else:
            assert row.completion == REFUSAL
        if hard:
            assert set(shown) <= {gold.passage_id, *gold.negatives}
    if passages == 4:
        assert places == {0, 1, 2, 3}


@pytest.mark.parametrize("reading", ["one-by-one", "together"])
def test_answering_asks_in_the_very_words_of_the_lessons(tmp_path, reading):
    library = library_of(tmp_path, handbooks(3))
    passages = list(library.passages())
    titles = library.sources({p.document_id for p in passages})
    texts = {p.id: with_context(p.text, titles[p.document_id][1], p.headings) for p in passages}
    clerk, question = Clerk(), "What costs 136 crowns at Marrowby?"
    flags = [f"answer.reading={reading}", "answer.passages=3", "search.rerank=none"]
    system = System(index_of(tmp_path, library), clerk, resolve_settings(environment={}, flags=flags))
    (given_,) = answer(system, [question])
    first, *others = [hit.passage.id for hit in given_.hits[:3]]
    asked = [Example("e", question, "a day", first, tuple(others))]
    rows = lessons(asked, texts, reading, GeneratorTuning(refusals=0), 3)
    (row,) = rows
    if reading == "one-by-one":
        assert row.prompt in clerk.read
    else:
        (prompt,) = (p for p in clerk.read if p.chat)
        assert (row.prompt.system, row.prompt.prefill, row.prompt.chat) == (
            prompt.system,
            prompt.prefill,
            True,
        )
        blocks = [sorted(p.text.replace("\n\n### ", "\n\n\0").split("\0")[-1:]) for p in (row.prompt, prompt)]
        assert blocks[0] == blocks[1] == [f"Question\n{question}"]
        assert sorted(t for t in texts.values() if t.strip() in row.prompt.text) == sorted(
            t for t in texts.values() if t.strip() in prompt.text
        )
    library.close()


def test_passages_that_are_gone_teach_nothing():
    texts = {id_: text for id_, text in TEXTS.items() if id_ != "p3"}
    for reading in ("one-by-one", "together"):
        rows = lessons(EXAMPLES, texts, reading, TUNING, 4)
        kept = [e for e in EXAMPLES if "p3" not in (e.passage_id, *e.negatives)]
        assert rows == lessons(kept, TEXTS if reading == "one-by-one" else texts, reading, TUNING, 4)
    assert lessons([], TEXTS, "together", TUNING, 4) == []


@given(st.permutations(range(12)), st.integers(0, 5))
def test_an_example_has_the_same_row_whatever_stands_beside_it(order, seed):
    tuning = GeneratorTuning(refusals=0)
    together = set(lessons(EXAMPLES[:12], TEXTS, "together", tuning, 4, seed))
    assert {
        row for i in order[:5] for row in lessons([EXAMPLES[i]], TEXTS, "together", tuning, 4, seed)
    } <= together


# -- what the search adds to a row: swr, ralt, raft

FOUND = {
    e.id: [f"p{(i % 12 + k) % 12}" for k in (2, 0, 1, 3, 5, 4)]  # the right one comes second
    for i, e in enumerate(EXAMPLES)
}


def shown_in(row):
    *numbered, question = row.prompt.text.split("### ")[1:]
    texts = [part.split("\n", 1)[1].strip() for part in numbered]
    by_text = {text: id_ for id_, text in TEXTS.items()}
    return question.removeprefix("Question\n"), [by_text[text] for text in texts]


def by_question(examples=EXAMPLES):
    return {e.question: e for e in examples}


def test_ralt_has_the_answer_after_each_found_passage_right_or_wrong():
    tuning = GeneratorTuning(lessons="ralt", retrieved=3, refusals=0)
    for reading in ("one-by-one", "mixture"):
        rows = lessons(EXAMPLES, TEXTS, reading, tuning, 4, found=FOUND)
        assert [(row.prompt, row.completion) for row in rows] == [
            (one_by_one_prompt(TEXTS[id_], e.question), f" {e.answer}")
            for e in EXAMPLES
            if e.answer
            for id_ in FOUND[e.id][:3]
        ]


def test_ralt_refuses_where_nothing_answers_and_nowhere_else():
    tuning = GeneratorTuning(lessons="ralt", retrieved=2, refusals=0.2)
    rows = lessons(EXAMPLES, TEXTS, "mixture", tuning, 4, found=FOUND)
    refusals = [row for row in rows if row.completion == f" {REFUSAL}"]
    assert len(rows) - len(refusals) == 12 * 2
    assert len(refusals) == round(24 * 0.2 / 0.8)
    assert all(" in 1911?" in row.prompt.text for row in refusals)


@pytest.mark.parametrize("k", [1, 3])
def test_swr_hides_the_passage_among_the_best_found(k):
    tuning = GeneratorTuning(lessons="swr", retrieved=k, refusals=0.2)
    rows = lessons(EXAMPLES, TEXTS, "together", tuning, 99, found=FOUND)
    places = set()
    for row in rows:
        question, shown = shown_in(row)
        e = by_question()[question]
        others = [id_ for id_ in FOUND[e.id] if id_ != e.passage_id]
        best = [id_ for id_ in others if not e.answer or f"{e.answer}." not in TEXTS[id_]]
        cited, text = parse_together(row.completion, len(shown))
        if cited:
            assert text == e.answer
            assert shown[cited[0] - 1] == e.passage_id
            assert set(shown) == {e.passage_id, *best[:k]}
            places |= set(cited)
        else:
            assert e.passage_id not in shown
            assert set(shown) == set(best[: k + 1])
    assert places == set(range(1, k + 2))
    assert len(rows) == 12 + 3


@pytest.mark.parametrize("hard", [True, False])
@pytest.mark.parametrize("share", [0.25, 0.75, 1.0])
def test_raft_shows_the_passage_in_its_share_of_rows_and_refuses_in_the_others(share, hard):
    tuning = GeneratorTuning(lessons="raft", retrieved=3, gold_share=share, hard_negatives=hard)
    rows = lessons(EXAMPLES, TEXTS, "together", tuning, 99, found=FOUND)
    assert len(rows) == 12  # one for each question with an answer, none for others
    golden = 0
    for row in rows:
        question, shown = shown_in(row)
        e = by_question()[question]
        assert len(shown) == len(set(shown)) == 4
        if hard:
            assert set(shown) - {e.passage_id} <= set(FOUND[e.id])
        if e.passage_id in shown:
            golden += 1
            place = shown.index(e.passage_id) + 1
            assert parse_together(row.completion, 4) == ((place,), e.answer)
        else:
            assert parse_together(row.completion, 4) == ((), "")
    assert golden == round(12 * share)


@pytest.mark.parametrize("lesson", ["gold", "swr", "raft"])
@pytest.mark.parametrize("hard", [True, False])
def test_a_passage_that_holds_the_answer_is_no_wrong_one(lesson, hard):
    texts = TEXTS | {
        f"q{i}": f"Port {i}, once more\nThis crane lifts {i} tonnes, they say." for i in range(12)
    }
    found = {id_: [*(p.replace("p", "q") for p in its), *its] for id_, its in FOUND.items()}
    tuning = GeneratorTuning(lessons=lesson, hard_negatives=hard, gold_share=0.5)
    examples = EXAMPLES[:12]
    for row in lessons(examples, texts, "together", tuning, 6, found=found):
        question = row.prompt.text.rpartition("Question\n")[2]
        e = by_question(examples)[question]
        assert texts[e.passage_id.replace("p", "q")] not in row.prompt.text


def test_rows_are_the_same_again_and_others_with_another_seed():
    for lesson in ("swr", "raft"):
        tuning = GeneratorTuning(lessons=lesson)
        one, same, other = (lessons(EXAMPLES, TEXTS, "together", tuning, 4, s, FOUND) for s in (1, 1, 2))
        assert one == same != other


def test_lessons_that_do_not_go_with_the_way_of_reading_are_refused():
    for lesson, reading in [("ralt", "together"), ("swr", "one-by-one"), ("raft", "mixture")]:
        with pytest.raises(
            SettingsError, match=f"generator.lessons = {lesson} .* type: --set answer.reading="
        ):
            lessons(EXAMPLES, TEXTS, reading, GeneratorTuning(lessons=lesson), 4, found=FOUND)
        with pytest.raises(SettingsError, match=f"lessons = {lesson} .*answer.reading = {reading}"):
            resolve_settings(
                environment={}, flags=[f"generator.lessons={lesson}", f"answer.reading={reading}"]
            )


def test_what_is_looked_up_is_what_the_search_finds(tmp_path):
    library = library_of(tmp_path, handbooks(4))
    index = index_of(tmp_path, library)
    settings = resolve_settings(environment={}, flags=["generator.retrieved=2"])
    questions = ["What costs 136 crowns at Marrowby?", "Who answers on channel 3?"]
    asked = [Example(f"e{i}", q, "", None) for i, q in enumerate(questions)]
    found = look_up(index, asked, settings)
    plain = settings.search.model_copy(update={"rerank": "none"})
    hits = search(index, questions, plain, SPARE * 3)
    assert found == {f"e{i}": [hit.passage.id for hit in its] for i, its in enumerate(hits)}
    library.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lesson", "reading"),
    [("gold", "together"), ("swr", "together"), ("raft", "together"), ("ralt", "mixture")],
)
def test_what_a_lesson_teaches_holds_for_other_articles(data, tmp_path, lesson, reading):
    """Of SQuAD: each reply to a held-out row gets likelier, the mean by more than its noise."""
    index, examples = squad_index(tmp_path, data, longest=300)
    settings = resolve_settings(environment={}, flags=["generator.retrieved=1"])
    held_titles = sorted({e.id.partition("/")[0] for e in examples})[::3]
    random.Random(0).shuffle(examples)
    held = [e for e in examples if e.id.partition("/")[0] in held_titles][:24]
    ours = [e for e in examples if e.id.partition("/")[0] not in held_titles][:32]
    texts = index.library.passage_texts()
    found = look_up(index, [*ours, *held], settings)
    index.library.close()
    how = GeneratorTuning(
        lessons=lesson, retrieved=1, hard_negatives=False, gold_share=0.5, epochs=1, checks=1, batch=4
    )
    rows, tested = (lessons(its, texts, reading, how, 2, found=found) for its in (ours, held))

    def said(name):
        replies = load_generator(name).score([r.prompt for r in tested], [r.completion for r in tested])
        return np.array([score.logprob / score.tokens for score in replies])

    tuned = tune_generator("embedded:smollm2", rows, tmp_path / "new", how, dev_score=lambda _: 0.0)
    gains = said(str(tuned.folder)) - said("embedded:smollm2")
    assert gains.mean() > 1.96 * gains.std() / len(gains) ** 0.5
