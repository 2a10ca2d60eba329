"""Parts of the questions: each question in one part, each mean that of its questions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fieldstone.evaluate.report.slices import SCORE, slices

WORDS = st.text("ab ", min_size=1, max_size=20)


def row(number, system="a", **more):
    return {
        "system": system,
        "id": f"q{number}",
        "question": "How deep is it?",
        "answers": ["ten metres"],
        "source": "depth.md",
        "abstained": False,
        "answer": "ten metres",
        "measures": {},
    } | more


@given(st.lists(st.tuples(WORDS, WORDS, st.integers(0, 3), st.booleans()), min_size=1, max_size=30))
def test_each_question_is_in_one_part_of_a_division(drawn):
    rows = [
        row(n, question=q, source=str(source), answers=[a] if answerable else [], kind="")
        for n, (q, a, source, answerable) in enumerate(drawn)
    ]
    found = slices(rows)
    answerable = sum(bool(r["answers"]) for r in rows)
    for name, parts in found.by.items():
        asked = answerable if name == "length of the right answer" else len(rows)
        if name != "question word":
            assert sum(part.n for part in parts) == asked
        assert all(bool(part.systems) == (part.n >= 6) for part in parts)
        assert len({part.name for part in parts}) == len(parts) > 1


def test_means_are_those_of_the_part():
    rows = [row(n, source="a.md" if n < 8 else "b.md", abstained=n % 2 == 0) for n in range(20)]
    rows += [row(n, "b", source="a.md" if n < 8 else "b.md", answer="ten feet") for n in range(20)]
    found = slices(rows)
    assert found.measure == SCORE
    assert [(part.name, part.n) for part in found.by["document"]] == [("b.md", 12), ("a.md", 8)]
    small = found.by["document"][1].systems
    assert (small["a"].value, small["a"].n) == (0.5, 8)
    assert small["b"].value == pytest.approx(0.5)  # one of two words is right
    assert found.overall["a"].n == 20


def test_a_refusal_is_right_where_nothing_answers():
    rows = [row(n, answers=[], abstained=n < 3, kind="near miss") for n in range(10)]
    rows += [row(n) for n in range(10, 20)]
    parts = {part.name: part for part in slices(rows).by["kind"]}
    assert parts["unanswerable, near miss"].systems["a"].value == pytest.approx(0.3)
    assert parts["answerable"].systems["a"].value == 1


def test_small_parts_are_named_and_not_judged():
    rows = [row(n, source="long.md" if n < 6 else "short.md") for n in range(11)]
    long, short = slices(rows).by["document"]
    assert (long.name, long.n, set(long.systems)) == ("long.md", 6, {"a"})
    assert (short.name, short.n, short.systems) == ("short.md", 5, {})


def test_lengths_are_parted_in_thirds():
    rows = [row(n, question="why " * (n + 1)) for n in range(9)]
    parts = slices(rows).by["length of the question"]
    assert [(p.name, p.n) for p in parts] == [("1 to 3 words", 3), ("4 to 6 words", 3), ("7 to 9 words", 3)]
    rows = [row(n, answers=["x"] if n < 8 else ["x y z", "a b c d"]) for n in range(12)]
    parts = slices(rows).by["length of the right answer"]
    assert [(p.name, p.n) for p in parts] == [("1 word", 8), ("2 to 3 words", 4)]


def test_characters_count_where_there_are_no_spaces():
    rows = [row(n, question="いつ来ますか" if n < 6 else "いつ") for n in range(12)]
    assert [p.name for p in slices(rows).by["length of the question"]] == ["2 words", "3 to 6 words"]


def test_question_words():
    asked = ["How many are there?", "How much is it?", "To whom is it sent?", "Who is it?", "Which one?"]
    rows = [row(n, question=question) for n, question in enumerate(asked)]
    parts = {part.name: part.n for part in slices(rows).by["question word"]}
    assert parts == {"how many, how much": 2, "who": 2, "which": 1}
    rows = [row(n, question="Wann kommt er?") for n in range(5)]
    assert "question word" not in slices(rows).by


def test_systems_that_only_search_are_judged_by_recall_where_none_answers():
    searched = [
        {k: v for k, v in row(n).items() if k not in ("abstained", "answer")}
        | {"source": f"{n % 2}.md", "measures": {"recall@5": float(n < 6)}}
        for n in range(12)
    ]
    found = slices(searched)
    assert found.measure == "recall@5"
    assert found.overall["a"].value == 0.5
    assert slices([*searched, row(99, "b")]).overall == {}  # one answer is too few to judge
    assert slices([]) is None
