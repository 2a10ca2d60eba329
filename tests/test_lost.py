"""At which stage a question was lost, and what moved."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fieldstone.evaluate.measures.lost import STAGES, answering, changed, lost, moved, stage

READ = 2


def row(**changes):
    """A question that was answered rightly, but for the changes."""
    return {
        "system": "before",
        "id": "q1",
        "question": "When does the gate close?",
        "answers": ["at ten"],
        "source": "gates.md",
        "relevant": ["p1", "p2"],
        "hits": [{"passage": "p9", "score": 0.9}, {"passage": "p2", "score": 0.8}, {"passage": "p3"}],
        "answer": "at ten",
        "abstained": False,
        "citations": [{"passage": "p2", "quote": "The gate closes at ten.", "verified": True}],
        "measures": {"F1": 1.0},
    } | changes


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, "right"),
        ({"measures": {"F1": 0.5}}, "right"),
        ({"measures": {"F1": 0.49}}, "misread"),
        ({"citations": [{"passage": "p9", "quote": ""}]}, "cited elsewhere"),
        ({"citations": []}, "cited elsewhere"),
        ({"abstained": True, "citations": []}, "refused"),
        ({"relevant": ["p3"]}, "ranked low"),
        ({"relevant": ["p3"], "abstained": True}, "ranked low"),
        ({"relevant": ["p7"]}, "not found"),
        ({"hits": []}, "not found"),
        ({"relevant": []}, "evidence not located"),
        ({"answers": [], "relevant": [], "abstained": True}, "refused rightly"),
        ({"answers": [], "relevant": [], "measures": {"F1": None}}, "answered though nothing stands there"),
    ],
)
def test_the_first_stage_that_failed_is_named(changes, wanted):
    assert stage(row(**changes), READ) == wanted


def test_more_passages_read_bring_a_low_one_in():
    assert stage(row(relevant=["p3"]), 3) == "cited elsewhere"


def test_counts_leave_out_what_does_not_occur():
    rows = [row(), row(), row(abstained=True)]
    assert lost(rows, READ) == {"right": 2, "refused": 1}


def test_only_systems_that_answer_are_told_apart():
    search = {k: v for k, v in row(system="dense").items() if k not in ("answer", "abstained", "citations")}
    assert list(answering([search, row(), row(system="after")])) == ["before", "after"]


def test_moves_pair_questions_by_id_whatever_their_order():
    before = [row(id="a", abstained=True), row(id="b"), row(id="c", hits=[]), row(id="gone")]
    after = [row(id="c"), row(id="b", hits=[]), row(id="a"), row(id="new")]
    assert moved(before, after, READ) == {
        "right": {"not found": 1},
        "refused": {"right": 1},
        "not found": {"right": 1},
    }


def test_examples_show_what_was_won_and_lost():
    refused = {"abstained": True, "answer": "The documents do not answer this question.", "citations": []}
    before = [row(id="a", **refused), row(id="b"), row(id="c")]
    after = [row(id="a"), row(id="b", **refused), row(id="c")]
    found = changed(before, after, READ)
    assert [len(found["won"]), len(found["lost"])] == [1, 1]
    assert found["won"][0] == {
        "question": "When does the gate close?",
        "wanted": ["at ten"],
        "source": "gates.md",
        "before": {"answer": "", "stage": "refused", "quote": ""},
        "after": {"answer": "at ten", "stage": "right", "quote": "The gate closes at ten."},
    }


ROWS = st.lists(
    st.builds(
        row,
        id=st.uuids().map(str),
        answers=st.sampled_from([[], ["at ten"]]),
        relevant=st.lists(st.sampled_from(["p1", "p2", "p3", "p9"]), max_size=2),
        abstained=st.booleans(),
        measures=st.floats(0, 1).map(lambda f1: {"F1": f1}),
    ),
    max_size=12,
)


@given(ROWS, st.data())
def test_every_question_is_counted_once(rows, data):
    again = [r | {"abstained": data.draw(st.booleans())} for r in rows]
    assert sum(lost(rows, READ).values()) == len(rows)
    assert set(lost(rows, READ)) <= set(STAGES)
    moves = moved(rows, again, READ)
    assert {start: sum(ends.values()) for start, ends in moves.items()} == lost(rows, READ)
    found = changed(rows, again, READ)
    good = {"right", "refused rightly"}
    gained = sum(lost(again, READ).get(g, 0) - lost(rows, READ).get(g, 0) for g in good)
    assert len(found["won"]) - len(found["lost"]) == gained


def test_an_answer_that_nobody_knows_is_not_counted_as_wrong():
    row = {"answers": [], "relevant": ["a"], "hits": [{"passage": "a"}], "abstained": False, "answer": "ten"}
    assert stage(row, 4) == "evidence not located"
    assert stage(row | {"relevant": []}, 4) == "answered though nothing stands there"


def test_nothing_is_lost_where_hits_and_citations_are_not_known():
    row = {"answers": ["ten"], "relevant": ["a"], "hits": None, "citations": None, "abstained": False}
    assert stage(row | {"measures": {"F1": 1.0}}, 4) == "right"
    assert stage(row | {"measures": {"F1": 0.0}}, 4) == "misread"
    assert stage(row | {"measures": {}, "answer": "ten"}, 4) == "right"
    assert stage(row | {"abstained": True}, 4) == "refused"
    assert stage(row | {"relevant": [], "measures": {"F1": 1.0}}, 4) == "right"
