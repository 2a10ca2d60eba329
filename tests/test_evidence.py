"""Answers are found where they stand in the document, in spite of what reading did to the text."""

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fieldstone.evaluate.evidence import locate, relevant_passages, relevant_spans, resolve_source
from fieldstone.evaluate.questions import Question, read_questions
from fieldstone.quotes import find
from fieldstone.records import Document, Passage

TEXT = (
    "Kö harbour was founded in 1853. In 1853 it had two piers.\n\nThe network grew. In 1900 it had "
    "two cranes."
)


def ask(*answers, evidence="", source="a.txt"):
    return Question("q", "?", answers, source, evidence)


def found(question, text=TEXT):
    return [text[start:end] for start, end in relevant_spans(question, text)]


def bare(text):
    return re.sub(r"\s", "", text)


def test_the_answer_inside_the_evidence():
    evidence = "In 1853 it had two piers."
    assert relevant_spans(ask("1853", evidence=evidence), TEXT) == [(35, 39)]
    assert found(ask("two piers", "TWO", evidence=evidence)) == ["two piers"]


def test_every_occurrence_in_the_evidence_counts():
    evidence = "Kö harbour was founded in 1853. In 1853 it had two piers."
    assert relevant_spans(ask("1853", evidence=evidence), TEXT) == [(26, 30), (35, 39)]


def test_evidence_without_the_answer_is_relevant_as_a_whole():
    assert found(ask("a pair", evidence="In 1853 it had two piers.")) == ["In 1853 it had two piers."]


def test_without_evidence_the_answer_counts_wherever_it_stands():
    assert relevant_spans(ask("two"), TEXT) == [(47, 50), (92, 95)]


def test_whole_words_come_first():
    assert found(ask("art"), "part of the art") == ["art"]
    assert relevant_spans(ask("art"), "part of the art") == [(12, 15)]
    assert relevant_spans(ask("京都"), "東京都に") == [(1, 3)]


def test_what_is_not_there_is_not_found():
    assert relevant_spans(ask("Paris"), TEXT) == []
    assert relevant_spans(ask("1853", evidence="Nothing like it stands in there at all."), TEXT) == []
    assert relevant_spans(ask(evidence="In 1853 it had two piers."), TEXT) == []
    assert relevant_spans(ask("1853"), "") == []


def test_lines_hyphens_and_case_do_not_matter():
    text = "Page 3\nThe har-\nbour was\u00a0 found\u00aded\n\tin  1853. Page 4"
    assert found(ask("founded in 1853", evidence="the harbour was founded in 1853."), text) == [
        "found\u00aded\n\tin  1853"
    ]


def test_evidence_that_was_edited_is_found_by_its_words():
    text = "Before it.\n\n* The **harbour** [was](x) founded in *1853* by the city.\n\nIn 1853 nothing else."
    spans = relevant_spans(ask("1853", evidence="The harbour was founded in 1853 by the city."), text)
    assert [text[a - 1 : b + 1] for a, b in spans] == ["*1853*"]
    assert found(ask("北京"), "在北 京市") == ["北 京"]


SPACE = st.text(alphabet=" \n\t\u3000", max_size=3)
LETTERS = st.text(alphabet="abAß.-é京İ(", min_size=1, max_size=12)


@given(before=LETTERS, quote=st.lists(LETTERS, min_size=1, max_size=4), after=LETTERS, draw=st.data())
def test_quotations_are_found_whatever_the_white_space(before, quote, after, draw):
    spread = "".join(letter + draw.draw(SPACE) for letter in "".join(quote)).strip()
    text = f"{before}\n{spread}\n{after}"
    spans = find(" ".join(quote), text)
    start = len(before) + 1
    assert any(a <= start + len(spread) and start <= b for a, b in spans)
    for a, b in spans:
        assert bare(text[a:b]).replace("-", "").casefold() == bare("".join(quote)).replace("-", "").casefold()


@given(texts=st.lists(LETTERS, min_size=1, max_size=6), answer=LETTERS)
def test_spans_are_in_order_apart_and_inside(texts, answer):
    text = " ".join(texts)
    spans = relevant_spans(ask(answer, answer[:1]), text)
    assert all(0 <= start < end <= len(text) for start, end in spans)
    assert all(left[1] <= right[0] for left, right in itertools.pairwise(spans))


def test_relevant_passages_are_those_that_overlap():
    passages = [Passage(str(i), "d", "x" * 10, i * 10, i * 10 + 10) for i in range(4)]
    assert relevant_passages([(10, 12)], passages) == {"1"}
    assert relevant_passages([(9, 11), (39, 45)], passages) == {"0", "1", "3"}
    assert relevant_passages([], passages) == set()


@pytest.mark.parametrize(
    ("hint", "source"),
    [
        ("a/Kö_harbour.txt", "a/Kö_harbour.txt"),
        ("Kö_harbour.txt", "a/Kö_harbour.txt"),
        ("kö harbour", "a/Kö_harbour.txt"),
        ("same.md", None),
        ("b/same.md", "b/same.md"),
        ("absent", None),
        ("", None),
    ],
)
def test_resolve_source(hint, source):
    assert resolve_source(hint, ["a/Kö_harbour.txt", "b/same.md", "c/same.md"]) == source


def test_locate_says_what_it_did_not_find():
    documents = [Document.new("mail.mbox", "", TEXT), Document.new("mail.mbox", "", "founded in 1900")]
    there, nowhere, elsewhere = (
        Question("1", "?", ("1900",), "mail.mbox"),
        Question("2", "?", ("1901",), "mail.mbox"),
        Question("3", "?", ("1900",), "other.txt"),
    )
    located = locate([there, nowhere, elsewhere, Question("4", "?", (), "")], documents)
    assert located.spans == {"1": {documents[0].id: ((80, 84),), documents[1].id: ((11, 15),)}}
    assert located.missing == ("2", "3")


def test_every_real_question_is_located(data):
    questions = read_questions(data / "squad" / "squad8_questions.jsonl")
    documents = [
        Document.new(path.name, "", path.read_text(encoding="utf-8"))
        for path in (data / "documents" / "squad8_txt").glob("*.txt")
    ]
    located = locate(questions, documents)
    assert located.missing == ()
    assert len(located.spans) == len(questions)
