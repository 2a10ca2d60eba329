"""Feedback is kept, is bounded, teaches nothing unreviewed, and reaches the examples of the next build."""

from __future__ import annotations

import sqlite3
from dataclasses import replace

import pytest

from fieldstone.answer import answer, open_system
from fieldstone.errors import FeedbackError
from fieldstone.examples import read_examples
from fieldstone.feedback import (
    CHARACTERS,
    Entry,
    feedback_examples,
    keep_answers,
    keep_reviews,
    keep_said,
    new_answer,
    propose,
    read_entries,
    reviewed,
    said,
)
from fieldstone.recipes import load_recipe, run, run_steps, update
from fieldstone.records import Answer
from fieldstone.serve.feedback import REMEMBERED, WAITING, Answers, models_of
from fieldstone.settings import FeedbackSettings, resolve_settings
from fieldstone.synthesize.divide import divide
from fieldstone.workspace import create_workspace
from ports import handbooks
from small_library import TEXTS, write_folder

FAKE = [
    "models.encoder=fake:words",
    "models.generator=fake:words",
    "read.workers=1",
    "answer.abstain_below=0",
]
SETTINGS = resolve_settings(environment={}, flags=FAKE)
CRANE = "What does the crane of berth 7 lift?"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A workspace that is only read, its system, and an answer with a verified citation."""
    home = tmp_path_factory.mktemp("feedback")
    workspace = create_workspace(home / "w")
    run(load_recipe("guide"), write_folder(home / "folder"), workspace, SETTINGS)
    system = open_system(workspace, SETTINGS)
    return workspace, system, answer(system, [CRANE])[0]


@pytest.fixture
def library(built, tmp_path):
    """A copy of the library, to write feedback into."""
    (tmp_path / "library.db").write_bytes(b"")
    with sqlite3.connect(tmp_path / "library.db") as copy:
        built[1].index.library._db.backup(copy)
    from fieldstone.library import Library

    library = Library(tmp_path / "library.db")
    yield library
    library.close()


@pytest.fixture
def give(built, library):
    """Makes answers: the one to `CRANE`, or what is changed of it."""
    _, system, right = built

    def made(question=CRANE, **changes):
        return new_answer("w", question, question, replace(right, **changes), models_of(system))

    return made


def test_what_is_kept_comes_back(built, library, give):
    given = give()
    assert given.citations[0].verified
    assert set(given.models) == {"encoder", "generator"}
    keep_answers(library, [given], 10)
    assert keep_said(library, given.id, said(False, "forty tonnes\ud800 ", "too long", "ann"))
    assert not keep_said(library, "other", said(True))
    (entry,) = read_entries(library)
    assert entry.given == given
    assert (entry.said.correction, entry.said.comment, entry.said.who) == ("forty tonnes?", "too long", "ann")
    assert entry.review is None
    with pytest.raises(FeedbackError, match=r"the correction has 4,001 characters"):
        said(False, "x" * (CHARACTERS + 1))


def test_answers_without_feedback_are_bounded(library, give):
    rated = give()
    keep_answers(library, [rated], 3)
    keep_said(library, rated.id, said(True))
    made = [give() for _ in range(7)]
    keep_answers(library, made[:5], 3)
    keep_answers(library, made[5:], 3)
    assert [entry.given.id for entry in read_entries(library)] == [g.id for g in [*reversed(made[4:]), rated]]


def test_documents_and_indexes_are_left_alone(library, give):
    before = library.mark(), library.counts(), library.meta("encoder")
    keep_answers(library, [give()], 3)
    assert (library.mark(), library.counts(), library.meta("encoder")) == before


def test_a_damaged_answer_is_named(library, give):
    keep_answers(library, [give()], 3)
    library._db.execute("UPDATE answers SET given = '{}'")
    with pytest.raises(FeedbackError, match="damaged"):
        read_entries(library)


def proposal(library, entry):
    return propose(entry, {p.id: p for p in library.passages()})


def test_corrections_find_their_passage(built, library, give):
    passages = {p.text: p.id for p in library.passages()}
    about = give()
    right = proposal(library, Entry(about, said(False, "Forty  tonnes")))
    assert (right.passage_id, right.clear) == (passages[TEXTS["berths/berth-7.md"]], True)
    close = proposal(library, Entry(about, said(False, "It lifts full forty tonnes on berth 7")))
    assert (close.passage_id, close.clear) == (passages[TEXTS["berths/berth-7.md"]], False)
    nowhere = proposal(library, Entry(about, said(False, "ask the crane driver")))
    assert (nowhere.answer, nowhere.passage_id, nowhere.clear) == ("ask the crane driver", None, False)


def test_only_what_was_reviewed_is_learnt(built, library, give):
    good, bad, refused, thrown = (give(f"{CRANE[:-1]} {n}?") for n in "abcd")
    refused = replace(refused, abstained=True, citations=())
    keep_answers(library, [good, bad, refused, thrown], 10)
    keep_said(library, good.id, said(True))
    keep_said(library, bad.id, said(False, "forty tonnes"))
    keep_said(library, thrown.id, said(True))
    assert feedback_examples(library) == []
    assert feedback_examples(library, "nothing") == []
    clear = feedback_examples(library, "clear")
    assert {e.question for e in clear} == {good.asked, bad.asked, thrown.asked}
    passage = next(p for p in library.passages() if "forty" in p.text)
    for entry in read_entries(library):
        its = entry, {passage.id: passage}
        review = {
            good.id: reviewed(*its, "forty tonnes", passage.id, question="How much does its crane lift?"),
            bad.id: reviewed(*its, "40 tonnes", passage.id),
            refused.id: reviewed(*its, "", None),
            thrown.id: replace(reviewed(*its, "", None), decision="discarded"),
        }[entry.given.id]
        keep_reviews(library, {entry.given.id: review})
    decisions = {e.given.id: e.review.decision for e in read_entries(library)}
    assert decisions == {
        good.id: "corrected", bad.id: "corrected", refused.id: "accepted", thrown.id: "discarded"
    }  # fmt: skip
    examples = {e.question: e for e in feedback_examples(library)}
    mended = "How much does its crane lift?"
    assert examples.keys() == {mended, bad.asked, refused.asked}
    assert feedback_examples(library) == feedback_examples(library, "clear")
    assert {e.origin for e in examples.values()} == {"feedback"}
    assert examples[bad.asked].answer == "40 tonnes"
    assert examples[bad.asked].passage_id == passage.id
    assert passage.id not in examples[mended].negatives
    assert len(examples[mended].negatives) == 4
    assert (examples[refused.asked].kind, examples[refused.asked].passage_id) == ("unanswerable", None)
    assert passage.id in examples[refused.asked].negatives


def test_the_last_word_counts_and_the_newest_answer(library, give):
    old, new = give(), give()
    keep_answers(library, [old, new], 10)
    keep_said(library, old.id, said(False, "half"))
    keep_said(library, old.id, said(False, "forty tonnes"))
    assert [e.answer for e in feedback_examples(library, "clear")] == ["forty tonnes"]
    keep_said(library, new.id, said(False, "Its crane lifts forty tonnes"))
    assert [e.answer for e in feedback_examples(library, "clear")] == ["Its crane lifts forty tonnes"]


def test_feedback_follows_its_document(tmp_path, give, built):
    """Split otherwise, its passage is found again; changed, it teaches nothing, whatever another one says."""
    text = "# Crane\n" + "The crane is painted every year. " * 20 + "Its crane lifts forty tonnes.\n"
    folder = write_folder(tmp_path / "folder", {"berths/berth-7.md": text, "b.md": "It lifts forty tonnes."})
    workspace = create_workspace(tmp_path / "w")
    update(workspace, SETTINGS, [folder])
    library = workspace.library()
    passage = next(p for p in library.passages() if "crane lifts forty" in p.text)
    given = replace(give(), found=(passage.id,))
    keep_answers(library, [given], 10)
    its = reviewed(
        Entry(given), {passage.id: passage}, "forty tonnes", passage.id, source="berths/berth-7.md"
    )
    keep_reviews(library, {given.id: its})
    assert [e.passage_id for e in feedback_examples(library)] == [passage.id]
    shorter = resolve_settings(environment={}, flags=[*FAKE, "split.tokens=40"])
    update(workspace, shorter, [folder])
    (example,) = feedback_examples(library)
    assert example.passage_id != passage.id
    assert "crane lifts forty" in library.passages([example.passage_id])[0].text
    write_folder(folder, {"berths/berth-7.md": text.replace("forty", "fifty")})
    update(workspace, shorter, [folder])
    assert feedback_examples(library) == []
    library.close()


@pytest.fixture
def answers(library):
    """Makes what remembers answers, with the library that it writes into."""
    from fieldstone.library import Library

    made = []

    def start(**settings):
        made.append(Answers(Library(library.path), FeedbackSettings(**settings)))
        return made[-1]

    yield start
    for its in made:
        its.close()


def test_a_good_answer_is_kept_once_it_is_rated(library, give, answers):
    lately, given = answers(), give()
    lately.gave(given)
    assert lately.entries() == []
    assert lately.say(given.id, said(True, who="ann"))
    assert [(e.given, e.said.who) for e in read_entries(library)] == [(given, "ann")]
    assert not lately.say("0" * 32, said(True))
    again = answers()
    assert again.say(given.id, said(False)), "also after a restart"
    assert [e.said.good for e in read_entries(library)] == [False]


def test_doubtful_answers_are_kept_for_review(library, give, answers):
    lately = answers(most=WAITING)
    doubtful = [give(abstained=True, citations=()) for _ in range(WAITING - 1)]
    for given in (*doubtful, give()):
        lately.gave(given)
    assert read_entries(library) == [], "they are written together"
    failed = give()
    failed = replace(failed, citations=(replace(failed.citations[0], verified=False),))
    lately.gave(failed)
    assert [e.given for e in read_entries(library)] == [failed, *reversed(doubtful)]
    last = give(abstained=True, citations=())
    lately.gave(last)
    assert [e.given for e in lately.entries()] == [last, failed, *reversed(doubtful[1:])]


def test_what_is_not_to_be_kept_is_not(library, give, answers):
    rated = answers(keep="rated")
    given = give(abstained=True, citations=())
    rated.gave(given)
    assert rated.entries() == []
    assert rated.say(given.id, said(False))
    nothing = answers(keep="nothing")
    other = give()
    nothing.gave(other)
    with pytest.raises(FeedbackError, match=r"feedback\.keep"):
        nothing.say(other.id, said(True))
    assert [e.given for e in read_entries(library)] == [given]


def test_memory_is_bounded(library, give, answers):
    lately, given = answers(), give()
    for n in range(REMEMBERED + 1):
        lately.gave(replace(given, id=str(n)))
    assert not lately.say("0", said(True))
    assert lately.say("1", said(True))


def test_a_library_that_cannot_be_written_costs_no_answer(library, give, answers, caplog):
    lately = answers(most=5)
    library._db.execute("DROP TABLE answers")
    for _ in range(WAITING):
        lately.gave(give(abstained=True, citations=()))
    assert "could not be kept" in caplog.text
    with pytest.raises(FeedbackError, match="send it again"):
        lately.say("1", said(True))


def test_the_next_build_holds_what_was_reviewed(tmp_path):
    """In the split of its passage, whichever that is; the step is done anew when something was reviewed."""
    workspace = create_workspace(tmp_path / "w")
    settings = resolve_settings(environment={}, flags=[*FAKE, "synthesize.dev=0.3", "synthesize.test=0.3"])
    update(workspace, settings, [write_folder(tmp_path / "folder", handbooks())])
    assert run_steps(["synthesize"], workspace, settings).made["synthesize"]["examples"]
    library = workspace.library()
    passages = {p.id: p for p in library.passages()}
    given = []
    for p in passages.values():
        asked = f"What does it say of {p.text[:40]}?"
        its = Answer(p.text[:12], (), (), False, 0.5)
        given.append(replace(new_answer("w", asked, asked, its, {}), found=(p.id,)))
    keep_answers(library, given, 10_000)
    run_steps(["synthesize"], workspace, settings)
    splits = ("train", "dev", "test")
    examples = {s: read_examples(workspace.path / "examples" / f"{s}.jsonl") for s in splits}
    assert not [e for its in examples.values() for e in its if e.origin == "feedback"], "not reviewed"
    source = library.sources({p.document_id for p in passages.values()})
    keep_reviews(
        library,
        {
            g.id: reviewed(Entry(g), passages, g.answer, p.id, source=source[p.document_id][0])
            for g, p in zip(given, passages.values(), strict=True)
        },
    )
    run_steps(["synthesize"], workspace, settings)
    examples = {s: read_examples(workspace.path / "examples" / f"{s}.jsonl") for s in splits}
    learnt = {e.passage_id: s for s in splits for e in examples[s] if e.origin == "feedback"}
    assert len(learnt) == len(passages)
    assert learnt == divide(passages.values(), settings.synthesize)
    assert set(learnt.values()) == {"train", "dev", "test"}
    library.close()
