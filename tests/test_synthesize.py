"""From a library to examples: which questions are kept, where they go, and going on where it stopped."""

from __future__ import annotations

import json
from collections import Counter
from itertools import chain

import pytest

from fieldstone.examples import SPLITS, read_examples
from fieldstone.models import load_encoder
from fieldstone.quotes import find_words
from fieldstone.recipes import choose_settings
from fieldstone.records import Example, with_context
from fieldstone.search import search
from fieldstone.search.embed import embed_library
from fieldstone.search.words import index_words
from fieldstone.settings import read_settings_file, resolve_settings, write_settings_file
from fieldstone.synthesize import CHAT_ANSWER_WORDS, synthesize
from fieldstone.synthesize.ask import Asked
from fieldstone.synthesize.divide import sections
from fieldstone.synthesize.filters import ANSWER_WORDS, fault, fault_of_answer
from fieldstone.synthesize.terms import terms
from ports import PORTS, Clerk, Rater, add, handbooks, index_of, library_of, reasons

FILES = (*(f"{split}.jsonl" for split in SPLITS), "rejected.jsonl")
BLURRED = {  # a question about the gate in the first finds the second
    "yearbook.md": "# Yearbook\n\nThe gate of the dock closes at night, on Mondays too, says Ida Lindqvist. "
    + " ".join(f"In {1900 + i} the {w} of the yard was painted by {i + 3} men." for i, w in enumerate(PORTS))
    + "\n",
    "gate.md": "# Gate\n\nThe gate of the dock closes at night, on Mondays too, says the gate.\n",
}


class Stopped(Exception):
    """Stands for Ctrl-C at a certain moment."""


def settings(*flags):
    return resolve_settings(environment={}, flags=["models.encoder=fake:words", *flags])


def write(path, *flags, texts=None, clerk=None, own=(), **more):
    """The examples folder, what was said of it, and the generator that was asked."""
    if not (path / "library.db").exists():
        library_of(path, handbooks() if texts is None else texts).close()
    library = library_of(path, {})
    try:
        clerk = clerk or Clerk()
        made = synthesize(path / "examples", index_of(path, library), clerk, settings(*flags), own, **more)
        return path / "examples", made, clerk
    finally:
        library.close()


def contents(folder):
    return {name: (folder / name).read_bytes() for name in FILES}


def examples_of(folder):
    return {split: read_examples(folder / f"{split}.jsonl") for split in SPLITS}


def all_of(folder):
    return list(chain.from_iterable(examples_of(folder).values()))


def rows(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def passages_in(path):
    library = library_of(path, {})
    try:
        passages = list(library.passages())
        titles = library.sources({p.document_id for p in passages})
        return passages, {p.id: with_context(p.text, titles[p.document_id][1], p.headings) for p in passages}
    finally:
        library.close()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """One run over all handbooks."""
    path = tmp_path_factory.mktemp("whole")
    return (path, *write(path, "synthesize.altered=0.5"))


def test_every_question_is_kept_once_or_rejected_with_its_reason(whole):
    _, folder, made, _ = whole
    written = Counter(a["question"] for batch in rows(folder / "asked.jsonl") for a in batch["asked"])
    asked = [e for e in all_of(folder) if e.kind == "answerable"]
    rejected = rows(folder / "rejected.jsonl")
    assert Counter(e.question for e in asked) + Counter(r["question"] for r in rejected) == written
    assert all(r["reason"] for r in rejected)
    assert reasons(rejected) == made.rejected
    assert made.asked == written.total()
    assert made.examples == {split: len(its) for split, its in examples_of(folder).items()}
    assert made.unanswered == sum(not e.answer for e in asked)
    assert made.unanswerable == sum(e.kind == "unanswerable" for e in all_of(folder)) > 5
    assert len({e.id for e in all_of(folder)}) == len(all_of(folder))


def test_what_is_kept_stands_up(whole):
    path, folder, _, _ = whole
    _, texts = passages_in(path)
    answered = [e for e in all_of(folder) if e.answer and e.passage_id]
    assert len(answered) > 20
    for example in answered:
        asked = Asked(
            example.passage_id, texts[example.passage_id], example.question, example.answer, 9.0, True
        )
        assert fault(asked) is None
        assert fault_of_answer(asked) is None
        assert example.made_by["model"] == "clerk"


def test_negatives_hold_neither_the_passage_nor_the_answer(whole):
    path, folder, _, _ = whole
    _, texts = passages_in(path)
    answered = [e for e in all_of(folder) if e.answer]
    assert sum(len(e.negatives) for e in answered) > len(answered)
    for example in answered:
        assert example.passage_id not in example.negatives
        assert len(set(example.negatives)) == len(example.negatives) <= settings().synthesize.negatives
        for id_ in example.negatives:
            assert not find_words(example.answer, texts[id_])


def test_near_misses_exchange_one_term_for_one_that_the_passage_does_not_hold(whole):
    path, folder, _, _ = whole
    _, texts = passages_in(path)
    questions = {e.passage_id: [] for e in all_of(folder)}
    for example in all_of(folder):
        questions[example.passage_id].append(example.question)
    misses = [e for e in all_of(folder) if e.kind == "unanswerable"]
    assert misses
    for example in misses:
        about = example.negatives[0]
        assert (example.passage_id, example.answer) == (None, "")
        exchanged = [
            (old, new)
            for original in questions[about]
            for old in terms(original)
            for new in terms(example.question)
            if original[: old.start] + new.text + original[old.start + len(old.text) :] == example.question
        ]
        assert any(
            find_words(old.text, texts[about]) and not find_words(new.text, texts[about])
            for old, new in exchanged
        )


def test_no_near_miss_is_a_question_that_is_answered_or_another_near_miss(whole):
    _, folder, _, _ = whole
    said = Counter(tuple(index_words(e.question)) for e in all_of(folder))
    assert set(said.values()) == {1}


def test_a_section_lies_in_one_split(whole):
    path, folder, made, _ = whole
    passages, _ = passages_in(path)
    unit = sections(passages)
    sides = {}
    for split, its in examples_of(folder).items():
        for example in its:
            sides.setdefault(unit[example.passage_id or example.negatives[0]], set()).add(split)
    assert all(len(its) == 1 for its in sides.values())
    assert sum(made.examples.values()) == len(all_of(folder))


def test_no_passage_is_in_two_splits(tmp_path):
    folder, made, _ = write(tmp_path, "synthesize.dev=0.3", "synthesize.test=0.3")
    assert all(made.examples.values())
    about = [{e.passage_id or e.negatives[0] for e in its} for its in examples_of(folder).values()]
    assert sum(map(len, about)) == len(set().union(*about))


def test_the_search_must_find_the_passage(tmp_path):
    library_of(tmp_path, BLURRED, tokens=200).close()
    folder, made, _ = write(tmp_path, "synthesize.found_within=1")
    why = "the search does not find its passage among 1"
    assert made.rejected[why]
    library = library_of(tmp_path, {})
    index, plain = index_of(tmp_path, library), settings("search.rerank=none").search
    kept = [(e.question, e.passage_id) for e in all_of(folder) if e.passage_id]
    lost = [(r["question"], r["passage_id"]) for r in rows(folder / "rejected.jsonl") if r["reason"] == why]
    for pairs, found in ((kept, True), (lost, False)):
        hits = search(index, [question for question, _ in pairs], plain, 1)
        assert {its[0].passage.id == id_ for its, (_, id_) in zip(hits, pairs, strict=True)} == {found}
    library.close()
    _, more, _ = write(tmp_path)
    assert why not in more.rejected
    assert sum(more.examples.values()) > sum(made.examples.values())


def test_a_question_without_an_answer_to_rely_on_teaches_the_retriever_alone(tmp_path):
    class Wordy(Clerk):
        def _write(self, prompt, reply):
            return " forty crowns" if prompt.text.endswith("Answer:") else super()._write(prompt, reply)

    folder, made, _ = write(tmp_path, clerk=Wordy(), texts=handbooks(2))
    unanswered = all_of(folder)
    assert made.unanswered == len(unanswered) > 0
    assert made.unanswerable == 0
    for example in unanswered:
        assert example.passage_id
        assert (example.answer, example.kind, example.negatives) == ("", "answerable", ())
        assert example.made_by["answer"] == "left out: the answer does not stand in what was asked about"


def test_the_same_again_asks_nothing_and_writes_the_same(whole, tmp_path):
    path, folder, made, clerk = whole
    before = contents(folder) | {"asked": (folder / "asked.jsonl").read_bytes()}
    assert clerk.read
    _, again, other = write(path, "synthesize.altered=0.5")
    assert other.read == []
    assert again == made
    assert contents(folder) | {"asked": (folder / "asked.jsonl").read_bytes()} == before
    elsewhere, there, _ = write(tmp_path, "synthesize.altered=0.5")
    assert there == made
    assert contents(elsewhere) == contents(folder)


@pytest.mark.parametrize("at", range(1, 7))
def test_stopped_anywhere_it_goes_on_and_ends_as_if_it_had_not_been(whole, tmp_path, at):
    _, folder, made, undisturbed = whole
    left, clerk = at, Clerk()

    def stop(step, done, total, unit):
        nonlocal left
        left -= 1
        if not left:
            raise Stopped(step)

    with pytest.raises(Stopped):
        write(tmp_path, "synthesize.altered=0.5", clerk=clerk, progress=stop)
    ended, again, _ = write(tmp_path, "synthesize.altered=0.5", clerk=clerk)
    assert again == made
    assert contents(ended) == contents(folder)
    assert clerk.read == undisturbed.read  # nothing was asked twice


def test_a_half_written_line_is_cut_off(whole, tmp_path):
    _, folder, made, undisturbed = whole
    write(tmp_path, "synthesize.altered=0.5", "synthesize.passages=1")
    (tmp_path / "examples/asked.jsonl").unlink()
    asked = (folder / "asked.jsonl").read_bytes()
    for length in (1, len(asked) // 2, len(asked) - 1):
        (tmp_path / "examples/asked.jsonl").write_bytes(asked[:length])
        ended, again, clerk = write(tmp_path, "synthesize.altered=0.5")
        assert again == made
        assert contents(ended) == contents(folder)
        assert 0 < len(clerk.read) <= len(undisturbed.read)
        lines = rows(ended / "asked.jsonl")
        assert len({line["batch"] for line in lines}) == len(lines)


def test_a_new_document_only_adds(tmp_path):
    texts = handbooks(6)
    folder, _, first = write(tmp_path, texts=texts)
    before = {split: {e.id: e for e in its} for split, its in examples_of(folder).items()}
    kept = (folder / "asked.jsonl").read_bytes()
    library = library_of(tmp_path, {})
    (new, text) = list(handbooks(7).items())[-1]
    add(library, new, text)
    embed_library(library, load_encoder("fake:words"))
    library.close()
    _, made, second = write(tmp_path)
    assert (folder / "asked.jsonl").read_bytes().startswith(kept)
    assert len(second.read) == len(first.read) / 6
    port = text.splitlines()[0].strip("# ")
    assert all(port in p.prefix for p in second.read if p.text.endswith("Answer:"))
    for split, its in examples_of(folder).items():
        after = {e.id: e.passage_id for e in its if e.kind == "answerable"}
        assert {id_ for id_, e in before[split].items() if e.kind == "answerable"} <= after.keys()
    assert sum(made.examples.values()) > sum(map(len, before.values()))
    assert not {r["reason"] for r in rows(folder / "rejected.jsonl")} - {"another question says the same"}


def test_a_document_that_goes_takes_its_questions_along(tmp_path):
    write(tmp_path, texts=handbooks(3))
    library = library_of(tmp_path, {})
    library.remove_files(["kelmouth.md"])
    library.close()
    ended, _, clerk = write(tmp_path)
    assert clerk.read == []
    passages, _ = passages_in(tmp_path)
    assert {e.passage_id for e in all_of(ended)} <= {p.id for p in passages} | {None}


def test_what_decides_the_wording_asks_anew_and_what_only_judges_does_not(tmp_path):
    write(tmp_path, texts=handbooks(2))
    for flag in (
        "synthesize.found_within=2",
        "synthesize.negatives=1",
        "synthesize.dev=0.3",
        "search.mode=dense",
    ):
        assert not write(tmp_path, flag)[2].read
    for flag in ("seed=1", "synthesize.openings=1", "synthesize.sentences=1", "synthesize.lift=0.1"):
        assert write(tmp_path, flag)[2].read


def test_settings_that_went_through_their_file_are_the_same(tmp_path):
    for size in ("tiny", "small", "base"):
        first = choose_settings("fieldstone", {}, {}, size=size)
        write_settings_file(tmp_path / "fieldstone.toml", first)
        again = choose_settings(None, read_settings_file(tmp_path / "fieldstone.toml"), {})
        assert str(again) == str(first)  # their words are what fingerprints are made of


def test_own_questions_join_the_split_of_their_passage(tmp_path):
    write(tmp_path, "synthesize.dev=0.3", "synthesize.test=0.3")
    passages, _ = passages_in(tmp_path)
    own = [Example(f"own{i}", "Mine?", "x", p.id, (), "answerable", "human") for i, p in enumerate(passages)]
    own.append(Example("none", "Nothing?", "", None, (), "unanswerable", "human"))
    folder, *_ = write(tmp_path, "synthesize.dev=0.3", "synthesize.test=0.3", own=own)
    sides = {}
    for split, its in examples_of(folder).items():
        for example in its:
            sides.setdefault(example.passage_id or example.id, set()).add(split)
            assert example.origin == ("human" if example.id.startswith(("own", "none")) else "synthetic")
    assert all(len(its) == 1 for id_, its in sides.items())
    assert sides["none"] == {"train"}
    assert sum(e.origin == "human" for e in all_of(folder)) == len(own)


def test_at_most_so_many_passages_are_asked_about_and_always_the_same(tmp_path):
    _, made, _ = write(tmp_path, "synthesize.passages=5", texts=handbooks(4))
    assert made.passages == 5
    few = {e.passage_id for e in all_of(tmp_path / "examples")} - {None}
    write(tmp_path, "synthesize.passages=9")
    assert few <= {e.passage_id for e in all_of(tmp_path / "examples")}


def test_ratings_leave_out_what_is_rated_badly(tmp_path):
    both = handbooks(2)
    _, made, _ = write(tmp_path / "p", "synthesize.rate_passages=true", texts=both, clerk=Rater())
    _, other, _ = write(tmp_path / "q", "synthesize.rate_questions=true", texts=both, clerk=Rater())
    for name in ("p", "q"):
        _, texts = passages_in(tmp_path / name)
        kept = [e for e in all_of(tmp_path / name / "examples") if e.passage_id]
        assert kept
        assert all("Kelmouth" in texts[e.passage_id] for e in kept)
    assert made.asked == other.asked
    assert made.ratings["passages"].keys() == {"7", "9"}
    assert made.ratings["passages"]["9"] == made.ratings["passages"]["7"] == made.passages / 2
    assert other.ratings["questions"].keys() == {"7", "9"}
    _, again, clerk = write(tmp_path / "p", "synthesize.rate_passages=true", clerk=Rater())
    assert (again.ratings, clerk.read) == (made.ratings, [])


def test_nothing_to_ask_about(tmp_path):
    folder, made, clerk = write(tmp_path, texts={"a.md": "# A\n\nToo short.\n"})
    assert (made.asked, clerk.read) == (0, [])
    assert all_of(folder) == []
    empty, none, _ = write(tmp_path / "empty", texts={})
    assert none.passages == 0
    assert all_of(empty) == []


def test_by_chat_an_answer_may_be_longer(tmp_path):
    class Chat(Clerk):
        context_tokens = 32_768

        def _write(self, prompt, reply):
            heading, body = prompt.text.split("\n", 1)[0], prompt.text.rpartition("\n\n")[2]
            return f"What is written under {heading.rpartition(' ')[2]}?\n\n### Answer\n{body}"

    folder, made, clerk = write(tmp_path, texts=handbooks(1), clerk=Chat())
    assert made.asked == made.passages == len(clerk.read) == 3
    answers = [e.answer for e in all_of(folder) if e.kind == "answerable"]
    assert len(answers) == 3
    assert all(ANSWER_WORDS < len(answer.split()) <= CHAT_ANSWER_WORDS for answer in answers)
