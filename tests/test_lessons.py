"""What the generator is tuned on: the prompts that answering uses, and replies that answering understands."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fieldstone.answer import System, answer
from fieldstone.prompts import (
    REFUSAL,
    fid_prompt,
    one_by_one_prompt,
    parse_one_by_one,
    parse_together,
    together_prompt,
)
from fieldstone.records import Example, with_context
from fieldstone.settings import GeneratorTuning, resolve_settings
from fieldstone.tune.reading import NEAR, lessons
from ports import Clerk, handbooks, index_of, library_of

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
