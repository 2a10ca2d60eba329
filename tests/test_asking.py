"""Questions from passages: terms, openings, the rules that reject, near misses, the division, ratings."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fieldstone import prompts
from fieldstone.models import Completion, load_generator
from fieldstone.quotes import find_words
from fieldstone.records import Passage, fingerprint
from fieldstone.settings import SynthesizeSettings
from fieldstone.synthesize.ask import FITTING, WORDS, Asked, ask, openings, way_of_asking
from fieldstone.synthesize.divide import BLOCK, ENOUGH_DOCUMENTS, divide, sections
from fieldstone.synthesize.filters import ANSWER_WORDS, fault, fault_of_answer, repeats
from fieldstone.synthesize.rate import rate_answers, rate_passages
from fieldstone.synthesize.terms import terms
from fieldstone.synthesize.unanswerable import altered
from ports import Clerk

HOW = SynthesizeSettings()
ANY_TEXT = st.text(
    st.sampled_from("ab AB1920,.%€?\n'’-éÜ") | st.characters(exclude_categories=["Cs"]), max_size=80
)


def asked(question, answer="forty tonnes", sentence="Its crane lifts forty tonnes.", passage="p", **more):
    return Asked(passage, sentence, question, answer, more.pop("lift", 1.0), more.pop("finished", True))


# -- terms


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("It opened on 3 May 1911.", [("date", "3 May 1911")]),
        ("It opened on May 3, 1911.", [("date", "May 3, 1911")]),
        ("Closed on Mondays at 10:30 am.", [("date", "Mondays"), ("date", "10:30 am")]),
        ("In the 1920s it sank.", [("date", "1920s")]),
        ("A day costs €1,200.50 or 15 %.", [("number", "€1,200.50"), ("number", "15 %")]),
        ("The crane lifts forty tonnes.", [("number", "forty")]),
        ("Some 3 million came.", [("number", "3 million")]),
        (
            "Then Maria Lindqvist left the Bay of Biscay.",
            [("name", "Maria Lindqvist"), ("name", "Bay of Biscay")],
        ),
        ("The office is in Trieste.", [("name", "Trieste")]),
        ("Kelmouth is small.", []),  # a word that opens a sentence may be any word
        ("Kelmouth Harbour is small.", [("name", "Kelmouth Harbour")]),
        ("nothing to see here", []),
        ("", []),
    ],
)
def test_terms(text, found):
    assert [(term.kind, term.text) for term in terms(text)] == found


@given(ANY_TEXT)
def test_terms_stand_where_they_say_in_order_and_apart(text):
    end = 0
    for term in terms(text):
        assert term.text
        assert term.start >= end
        end = term.start + len(term.text)
        assert text[term.start : end] == term.text


# -- openings


@pytest.mark.parametrize(
    ("sentence", "first"),
    [
        ("The crane lifts 40 tonnes.", [FITTING["number"]]),
        ("It was opened by Maria Lindqvist in 1911.", [FITTING["name"], FITTING["date"]]),
        ("It is closed because the rooms are cleaned.", [("Why",)]),
    ],
)
def test_fitting_openings_come_first(sentence, first):
    for seed in range(10):
        found = openings(sentence, 4, random.Random(seed))
        assert len(found) == 4
        assert all(opening in fitting for opening, fitting in zip(found, first, strict=False))


@given(ANY_TEXT, st.integers(1, 12), st.integers(0, 99))
def test_openings_are_different_and_follow_from_the_seed(sentence, most, seed):
    found = openings(sentence, most, random.Random(seed))
    assert 1 <= len(found) <= most
    assert len(set(found)) == len(found)
    assert found == openings(sentence, most, random.Random(seed))


# -- asking


def test_completion_asks_about_sentences_worth_it_and_answers_from_them():
    long = "The crane at the quay of Kelmouth lifts forty tonnes on any working day."
    passage = Passage("p", "d", f"Too short. {long} {'much ' * 70}too long.", 0, 0, ("Berths",))
    clerk = Clerk()
    made = ask(clerk, [passage], ["Kelmouth"], HOW.model_copy(update={"openings": 3}))
    assert [a.passage_id for a in made] == ["p"] * 3
    assert {a.sentence for a in made} == {long}
    assert len(long.split()) in WORDS
    assert {a.answer for a in made} == {"forty"}
    assert all(a.lift > 0.7 and a.finished and a.question.endswith("?") for a in made)
    assert len({a.question.split(" The ")[0] for a in made}) == 3
    answering = [p for p in clerk.read if p.text.endswith("Answer:")]
    shown = f"Kelmouth > Berths\n{long}"
    assert answering == [prompts.one_by_one_prompt(shown, a.question) for a in made]


def test_a_question_that_the_sentence_does_not_lift_is_not_worth_an_answer():
    passage = Passage("p", "d", "The crane at the quay of Kelmouth lifts forty tonnes.", 0, 0)
    clerk = Clerk()
    made = ask(clerk, [passage], ["Kelmouth"], HOW.model_copy(update={"lift": 100.0}))
    assert made
    assert {a.answer for a in made} == {""}
    assert not [p for p in clerk.read if p.text.endswith("Answer:")]


def test_asking_again_says_the_same():
    passages = [
        Passage(f"p{i}", "d", f"The crane number {i} lifts some {i * 7} tonnes a day.", 0, 0)
        for i in range(5)
    ]
    titles = ["Cranes"] * 5
    assert ask(Clerk(), passages, titles, HOW) == ask(Clerk(), passages, titles, HOW)
    alone = ask(Clerk(), passages[3:4], titles[:1], HOW)
    assert alone == [a for a in ask(Clerk(), passages, titles, HOW) if a.passage_id == "p3"]


class Replies(Clerk):
    """Gives the same reply to everything, finished or not."""

    def __init__(self, reply, context_tokens=32_768, finished=True):
        super().__init__()
        self.reply, self.context_tokens, self.finished = reply, context_tokens, finished

    def generate(self, prompts, *, max_tokens=64, stop=(), temperature=0.0, seed=0):
        self.read += prompts
        return [Completion(self.reply, 1, -1.0, self.finished) for _ in prompts]


def test_a_generator_that_follows_instructions_is_asked_by_chat():
    assert way_of_asking(Replies(""), HOW) == "chat"
    assert way_of_asking(Clerk(), HOW) == "completion"
    assert way_of_asking(Clerk(), HOW.model_copy(update={"way": "chat"})) == "chat"
    passage = Passage("p", "d", "The gate is blue.", 0, 0, ("Gates",))
    writer = Replies("What colour is the gate?\n\n### Answer\nblue")
    assert ask(writer, [passage], ["Port"], HOW) == [
        Asked("p", "Port > Gates\nThe gate is blue.", "What colour is the gate?", "blue", 0.0, True)
    ]
    assert writer.read == [prompts.ask_chat_prompt("Port > Gates\nThe gate is blue.")]


@pytest.mark.parametrize(
    ("reply", "parsed"),
    [
        ("Who?\n\n### Answer\nI", ("Who?", "I")),
        (" Who? \n### Answer: I \n", ("Who?", "I")),
        ("Who?", ("", "")),
        ("Who?\n### Reply\nI", ("", "")),
        ("### Answer\n", ("", "")),
        ("", ("", "")),
    ],
)
def test_a_question_and_its_answer_are_parsed(reply, parsed):
    assert prompts.parse_asked(reply) == parsed


@pytest.mark.parametrize(
    ("reply", "score"),
    [("7", 7), ("[8]", 8), (" 9.5 \nbecause", 9.5), ("0", 0), ("10", 10), ("11", None), ("-1", None)]
    + [(text, None) for text in ("good", "", "\n", "8/10", "nan", "inf")],
)
def test_a_rating_is_parsed(reply, score):
    assert prompts.parse_rating(reply) == score


@given(st.text(max_size=30))
def test_any_rating_is_none_or_within_its_range(reply):
    score = prompts.parse_rating(reply)
    assert score is None or 0 <= score <= 10


def test_prompts_for_ratings_hold_what_is_rated():
    for prompt in (
        prompts.rate_passage_prompt("TEXT"),
        prompts.rate_question_prompt("TEXT", "ASKED?"),
        prompts.rate_answer_prompt("TEXT", "ASKED?", "REPLY"),
    ):
        assert prompt.chat
        assert prompt.system
        heading = prompt.prefill.strip()
        assert prompt.system.rstrip().endswith(f"{heading}\n7")  # the form shown is the one that is begun
    assert prompt.text == "### Context\nTEXT\n\n### Question\nASKED?\n\n### Answer\nREPLY"


def test_the_blind_prompt_is_the_other_without_its_sentence():
    seen, blind = prompts.ask_prompt("T", "It opens.", "When"), prompts.ask_blindly_prompt("T", "When")
    assert (seen.prefix + seen.text).replace("Sentence: It opens.\n", "") == blind.prefix + blind.text


# -- rules


@pytest.mark.parametrize(
    ("question", "why"),
    [
        ("How much does the crane of berth 7 lift?", None),
        ("What did the harbour master do?", None),
        ("How much does the crane lift", "the question does not come to an end"),
        ("", "the question does not come to an end"),
        ("How much, then?", "the question is too short"),
        ("What does the passage say of cranes?", "the question points at the text"),
        ("According to the document what lifts most?", "the question points at the text"),
        ("Which of the following lifts most?", "the question points at the text"),
        ("What is the main idea of this article?", "the question points at the text"),
        ("What is the name of the man who lifts?", "the question points at the text"),
        ("How much does it lift there?", "the question leaves open whom or what it means"),
        ("When did He leave for Trieste?", "the question leaves open whom or what it means"),
        ("How many of these are cranes?", "the question leaves open whom or what it means"),
    ],
)
def test_what_is_wrong_with_a_question(question, why):
    assert fault(asked(question)) == why


def test_a_question_must_be_finished_and_owe_something_to_its_sentence():
    question = "How much does the crane lift?"
    assert fault(asked(question, finished=False)) == "the question does not come to an end"
    assert fault(asked(question, lift=0.4), 0.5) == "the question is as likely without the sentence"
    assert fault(asked(question, lift=0.5), 0.5) is None


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("forty tonnes", None),
        ("Forty\nTonnes", None),
        ("", "no answer"),
        ("forty " * (ANSWER_WORDS + 1), "the answer is too long"),
        ("fifty tonnes", "the answer does not stand in what was asked about"),
        ("crane", "the question holds its answer"),
        ("Its crane", "the question holds its answer"),
    ],
)
def test_what_is_wrong_with_an_answer(answer, why):
    question = "How much does its crane lift?" if answer == "Its crane" else "How much does the crane lift?"
    assert fault_of_answer(asked(question, answer)) == why


def test_repeats_leave_the_better_question():
    many = [
        asked("How many tonnes does the crane lift?", lift=1.0),
        asked("How much tonnes does the crane lift?", lift=2.0),
        asked("Which ships may enter the dock?", lift=0.5),
        asked("How many tonnes does the crane lift?", lift=1.5, passage="q"),
        asked("Which ships may enter the dock?", lift=0.9, passage="q"),
    ]
    assert repeats(many) == {0, 2}
    assert repeats([]) == set()


QUESTIONS = st.lists(
    st.builds(
        asked,
        st.lists(
            st.sampled_from(["how", "many", "tonnes", "crane", "lifts", "dock", "ship"]), min_size=1
        ).map(" ".join),
        passage=st.sampled_from("pq"),
        lift=st.sampled_from([0.1, 0.5, 0.9]),
    ),
    max_size=12,
)


@given(QUESTIONS)
def test_of_what_repeats_one_is_left_and_none_of_the_left_repeats(many):
    out = repeats(many)
    left = [a for i, a in enumerate(many) if i not in out]
    assert repeats(left) == set()
    assert {a.passage_id for a in left} <= {a.passage_id for a in many}
    assert bool(left) == bool(many)
    best = max((a.lift for a in many), default=0.0)
    assert not many or best in {a.lift for a in left}


# -- near misses


def test_a_near_miss_exchanges_one_term_for_one_that_the_passage_does_not_hold():
    passage = "In 1911 Maria Lindqvist moved to Trieste and built three clocks."
    pool = {"date": ["1911", "1984"], "name": ["Maria Lindqvist", "Bruno Tamm"], "number": ["three", "nine"]}
    question = "How many clocks did Maria Lindqvist build in 1911?"
    seen = {altered(question, passage, pool, random.Random(seed)) for seed in range(20)}
    assert seen == {
        "How many clocks did Bruno Tamm build in 1911?",
        "How many clocks did Maria Lindqvist build in 1984?",
    }


def test_no_near_miss_without_a_term_or_a_stand_in():
    chance = random.Random(0)
    assert altered("How many were there?", "In 1911 there were three.", {"date": ["1984"]}, chance) is None
    assert altered("Who left in 1911?", "He left in 1911.", {"date": ["1911"]}, chance) is None
    assert altered("Who left in 1911?", "He left in 1911.", {}, chance) is None
    assert altered("Who left in 1912?", "He left in 1911.", {"date": ["1984"]}, chance) is None


TERMS = st.sampled_from(
    ["1911", "1984", "Maria Lindqvist", "Bruno Tamm", "Trieste", "forty", "7", "3 May 1911"]
)


@given(
    st.lists(TERMS, max_size=4), st.lists(TERMS, max_size=4), st.lists(TERMS, max_size=6), st.integers(0, 9)
)
def test_a_near_miss_differs_in_one_term(held, wanted, others, seed):
    passage = "It tells of " + " and of ".join(held)
    question = "Who knew of " + " and of ".join(wanted) + "?"
    pool = {}
    for other in others:
        for term in terms(f"see {other}"):
            pool.setdefault(term.kind, []).append(term.text)
    new = altered(question, passage, pool, random.Random(seed))
    if new is None:
        return
    assert new != question
    exchanges = [
        (old, stand_in)
        for old in terms(question)
        for stand_in in pool.get(old.kind, ())
        if question[: old.start] + stand_in + question[old.start + len(old.text) :] == new
    ]
    assert any(find_words(old.text, passage) and not find_words(new_, passage) for old, new_ in exchanges)


# -- division


def passages_of(document, headings):
    return [
        Passage(fingerprint(document, i), document, "text", i, i + 1, (h,) if h else ())
        for i, h in enumerate(headings)
    ]


DOCUMENTS = st.lists(
    st.lists(st.sampled_from(["", "A", "B", "C"]), min_size=1, max_size=2 * BLOCK + 2), min_size=1, max_size=8
)


@given(DOCUMENTS, DOCUMENTS)
def test_what_is_added_moves_nothing_and_no_section_is_torn(some, more):
    first = [p for i, headings in enumerate(some) for p in passages_of(f"a{i}", headings)]
    added = [p for i, headings in enumerate(more) for p in passages_of(f"b{i}", headings)]
    before, after = divide(first, HOW), divide([*added, *first], HOW)
    assert {id_: after[id_] for id_ in before} == before
    assert set(after.values()) <= {"train", "dev", "test"}
    sides = {}
    for id_, section in sections([*added, *first]).items():
        sides.setdefault(section, set()).add(after[id_])
    assert all(len(its) == 1 for its in sides.values())


def test_a_section_is_what_stands_under_one_heading_a_few_passages_at_most():
    found = sections(passages_of("d", ["A"] * (BLOCK + 1) + ["B"]) + passages_of("e", ["A"]))
    assert [list(found.values()).count(section) for section in dict.fromkeys(found.values())] == [
        BLOCK,
        1,
        1,
        1,
    ]


def test_many_documents_are_divided_whole_in_the_shares_asked_for():
    many = [p for i in range(2000) for p in passages_of(f"d{i}", ["A", "B"])]
    sides = divide(many, HOW)
    by_document = {}
    for passage in many:
        by_document.setdefault(passage.document_id, set()).add(sides[passage.id])
    assert len(by_document) >= ENOUGH_DOCUMENTS
    assert all(len(its) == 1 for its in by_document.values())
    counted = [next(iter(its)) for its in by_document.values()]
    for side, share in (("dev", HOW.dev), ("test", HOW.test), ("train", 1 - HOW.dev - HOW.test)):
        assert counted.count(side) / len(counted) == pytest.approx(share, abs=0.03)
    grown = divide([*many, *passages_of("new", ["A"])], HOW)
    assert {id_: grown[id_] for id_ in sides} == sides


# -- ratings


def test_ratings_are_read_off_the_reply():
    assert rate_passages(Replies("8"), ["a", "b"]) == [8, 8]
    assert rate_passages(Replies("fine"), ["a"]) == [None]
    assert rate_passages(Replies("8", finished=False), ["a"]) == [None]
    assert rate_answers(Replies("9"), ["t"], ["q?"], ["a"]) == [9]
    assert rate_passages(load_generator("fake:words"), []) == []


def test_an_answer_is_rated_as_low_as_the_lower_of_its_two_ratings():
    class Two(Replies):
        def generate(self, prompts, **_):
            said = {"### Answer rating score\n": "3", "### Question rating score\n": "9"}
            return [Completion(said[p.prefill], 1, -1.0, True) for p in prompts]

    assert rate_answers(Two(""), ["t"], ["q?"], ["a"]) == [3]
