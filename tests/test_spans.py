"""The simrag way of asking: answers first, a question for each, other forms of them, rounds by the answer."""

from __future__ import annotations

import random
import re

import pytest

from fieldstone.examples import read_examples
from fieldstone.models import Completion
from fieldstone.prompts import (
    ask_for_prompt,
    choice_question,
    claim_question,
    name_answers_prompt,
    named_answers,
    option,
    parse_answers,
)
from fieldstone.quotes import find_words
from fieldstone.recipes.dev import answerable
from fieldstone.records import Example, Passage
from fieldstone.settings import SynthesizeSettings
from fieldstone.synthesize.filters import holds
from fieldstone.synthesize.forms import CLAIM_WORDS, OPTIONS, choice, claim, other_forms
from fieldstone.synthesize.spans import answers_of, ask_by_spans, sentence_of
from fieldstone.synthesize.terms import terms
from ports import Clerk, handbooks
from test_synthesize import Stopped, all_of, contents, examples_of, passages_in, rows, write

SIMRAG = ("synthesize.way=simrag", "synthesize.consistency=answer", "synthesize.altered=0")
FORMS = (*SIMRAG, "synthesize.choices=1", "synthesize.claims=1")
JUNK = "forty winks"


class Namer(Clerk):
    """Names the terms of a passage and one that is not there; asks with the sentence of the answer."""

    def _write(self, prompt, reply):
        text = prompt.prefix.rpartition("Passage: ")[2]
        if prompt.text == "Answers:":
            return named_answers([JUNK, *(t.text for t in terms(text) if "\n" not in t.text)])
        if asked := re.fullmatch(r"Answer: (.*)\nQuestion:", prompt.text):
            body = text.partition("\n")[2]
            return " What about " + sentence_of(asked[1], body).strip(".").replace(asked[1], "")
        return super()._write(prompt, reply)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """One run over all handbooks, in all forms."""
    path = tmp_path_factory.mktemp("whole")
    return (path, *write(path, *FORMS, clerk=Namer()))


# -- what is named and asked


@pytest.mark.parametrize(
    ("reply", "named"),
    [
        (" nine; Mondays; four crowns\nAnswer: nine", ["nine", "Mondays", "four crowns"]),
        (' "nine";; Nine ; Mondays.', ["Nine", "Mondays"]),
        (" ;", []),
        ("", []),
    ],
)
def test_named_answers_are_parsed_each_once(reply, named):
    assert parse_answers(reply) == named


def test_what_is_taught_to_be_named_parses_back():
    assert parse_answers(named_answers(["nine", "four crowns"])) == ["nine", "four crowns"]


def test_both_prompts_share_the_passage():
    name, ask = name_answers_prompt("The gate is blue."), ask_for_prompt("The gate is blue.", " blue ")
    assert name.prefix == ask.prefix
    assert ask.text == "Answer: blue\nQuestion:"
    assert ask.prefix.endswith("Passage: The gate is blue.\n")


def test_answers_stand_in_the_text_differ_and_are_filled_up_with_terms():
    text = "Ida Lindqvist built the blue gate in 1911. It weighs 40 tonnes."
    named = ["the blue gate", "blue", "red", "gate", "1911"]
    assert answers_of(text, named, 9) == ["the blue gate", "1911", "Ida Lindqvist", "40"]
    assert answers_of(text, named, 1) == ["the blue gate"]
    assert answers_of(text, [], 2) == ["Ida Lindqvist", "1911"]


def test_the_sentence_holds_the_answer():
    text = "The gate is blue. It was painted\nin 1911. Then it was red."
    assert sentence_of("1911", text) == "It was painted in 1911."
    assert sentence_of("1911. Then", text) == "It was painted in 1911. Then it was red."
    assert sentence_of("1912", text) == ""


@pytest.mark.parametrize(("finished", "lost"), [(True, ["the moo"]), (False, [])])
def test_a_list_that_was_cut_off_loses_its_last(finished, lost):
    class Cut(Namer):
        def generate(self, prompts, **more):
            if prompts[0].text == "Answers:":
                return [Completion(" 40 tonnes; the moo", 5, -1.0, finished)]
            return super().generate(prompts, **more)

    passage = Passage("p", "d", "The crane of Kelmouth lifts 40 tonnes.", 0, 38)
    asked = ask_by_spans(Cut(), [passage], ["Port"], SynthesizeSettings(way="simrag"))
    assert [a.answer for a in asked if not a.question] == lost
    assert [a.answer for a in asked if a.question] == ["40 tonnes", "Kelmouth"]
    assert [a.sentence for a in asked if a.question] == [passage.text] * 2


@pytest.mark.parametrize(
    ("answer", "text", "found"),
    [
        ("ten", "They came often.", False),
        ("Café", "at the cafe, late", True),
        ("the gates", "THE GATE", True),
        ("", "any", False),
        ("$", "$", False),
        ("40 tonnes", "40, tonnes", True),
    ],
)
def test_an_answer_is_held_as_words(answer, text, found):
    assert holds(answer, text) is found


# -- a whole run


def test_every_question_is_kept_once_or_rejected_with_its_reason(whole):
    _, folder, made, _ = whole
    asked = [a for batch in rows(folder / "asked.jsonl") for a in batch["asked"]]
    rejected = rows(folder / "rejected.jsonl")
    plain = [e for e in all_of(folder) if "form" not in e.made_by]
    assert len(plain) + len(rejected) == len(asked) == made.asked
    junk = [r for r in rejected if r["reason"] == "the answer that was named does not stand in the passage"]
    assert {r["answer"] for r in junk} == {JUNK}
    assert len(junk) == made.passages
    assert all(r["passage_id"] for r in rejected)
    assert len({e.id for e in all_of(folder)}) == len(all_of(folder))


def test_an_example_knows_its_passage_its_model_and_its_prompt(whole):
    path, folder, _, _ = whole
    _, texts = passages_in(path)
    assert len(all_of(folder)) > 40
    for example in all_of(folder):
        assert {"model", "prompt", "seed"} <= example.made_by.keys()
        if "form" not in example.made_by:
            assert find_words(example.answer, texts[example.passage_id])


def test_choices_and_claims_are_trained_on_and_decide_nothing(whole):
    path, folder, _, _ = whole
    its = examples_of(folder)
    forms = {split: {e.made_by.get("form") for e in examples} for split, examples in its.items()}
    assert forms["train"] == {None, "choice", "claim"}
    assert forms["dev"] <= {None}
    assert forms["test"] <= {None}
    _, _, again = write(path, *FORMS, "synthesize.deciding=all", clerk=Namer())
    assert again.read == []
    assert {e.made_by.get("form") for e in examples_of(folder)["dev"]} == {None, "choice", "claim"}
    write(path, *FORMS, clerk=Namer())


def test_the_options_hold_the_answer_and_nothing_else_of_the_passage(whole):
    path, folder, _, _ = whole
    _, texts = passages_in(path)
    choices = [e for e in all_of(folder) if e.made_by.get("form") == "choice"]
    places = set()
    for example in choices:
        letter, right = example.answer.split(") ", 1)
        options = re.findall(r"[A-D]\) (.*?)(?= [B-D]\) |$)", example.question)
        assert len(options) == OPTIONS == len(set(options))
        assert options["ABCD".index(letter)] == right
        assert [o for o in options if find_words(o, texts[example.passage_id])] == [right]
        places.add(letter)
    assert len(places) > 1


def test_a_claim_is_what_the_passage_says_or_has_one_term_exchanged(whole):
    path, folder, _, _ = whole
    passages, _ = passages_in(path)
    texts = {p.id: p.text for p in passages}
    claims = [e for e in all_of(folder) if e.made_by.get("form") == "claim"]
    assert {e.answer for e in claims} == {"yes", "no"}
    for example in claims:
        said = example.question.removeprefix("Is it true that ").removesuffix("?")
        assert bool(find_words(said, texts[example.passage_id])) is (example.answer == "yes")


def test_any_passage_with_the_answer_will_do_and_else_its_own(tmp_path):
    twins = {
        f"{n}.md": f"# {n}\n\nThe harbour master of the year was Ida Lindqvist and {w}.\n"
        for n, w in (("a", "no other man"), ("b", "nobody else there"))
    }
    flags = (*SIMRAG, "synthesize.found_within=1")
    _, by_answer, _ = write(tmp_path / "x", *flags, texts=twins, clerk=Namer())
    _, by_passage, _ = write(
        tmp_path / "y", *flags, "synthesize.consistency=passage", texts=twins, clerk=Namer()
    )
    kept = [sum(made.examples.values()) for made in (by_answer, by_passage)]
    assert kept[0] >= kept[1]
    assert not any("holds the answer" in why for why in by_passage.rejected)


def test_a_question_that_finds_no_passage_with_its_answer_is_rejected(tmp_path):
    class Lost(Namer):
        def _write(self, prompt, reply):
            if prompt.text.startswith("Answer: 105"):
                return " What did Bruno Lindqvist open at Marrowby in 1824"
            return super()._write(prompt, reply)

    flags = (*SIMRAG, "synthesize.found_within=1")
    folder, made, _ = write(tmp_path, *flags, texts=handbooks(3), clerk=Lost())
    why = "no passage among the 1 that the search finds holds the answer"
    assert made.rejected[why] >= 1
    assert "105" in {r["answer"] for r in rows(folder / "rejected.jsonl") if r["reason"] == why}


@pytest.mark.parametrize("at", range(1, 6))
def test_stopped_anywhere_it_goes_on_and_ends_as_if_it_had_not_been(whole, tmp_path, at):
    _, folder, made, undisturbed = whole
    left, clerk = at, Namer()

    def stop(step, done, total, unit):
        nonlocal left
        left -= 1
        if not left:
            raise Stopped(step)

    with pytest.raises(Stopped):
        write(tmp_path, *FORMS, clerk=clerk, progress=stop)
    ended, again, _ = write(tmp_path, *FORMS, clerk=clerk)
    assert again == made
    assert contents(ended) == contents(folder)
    assert clerk.read == undisturbed.read


def test_what_decides_the_wording_asks_anew_and_what_only_judges_does_not(tmp_path):
    write(tmp_path, *SIMRAG, texts=handbooks(2), clerk=Namer())
    for flag in ("synthesize.choices=0.5", "synthesize.consistency=passage", "synthesize.deciding=all"):
        assert not write(tmp_path, *SIMRAG, flag, clerk=Namer())[2].read
    for flag in ("synthesize.spans=2", "seed=1"):
        assert write(tmp_path, *SIMRAG, flag, clerk=Namer())[2].read


def test_only_passages_of_a_split_are_asked_about(whole, tmp_path):
    _, folder, _, _ = whole
    elsewhere, made, _ = write(tmp_path, *FORMS, clerk=Namer(), only=("train",))
    assert made.examples["dev"] == made.examples["test"] == 0
    assert {e.passage_id for e in read_examples(elsewhere / "train.jsonl")} == {
        e.passage_id for e in read_examples(folder / "train.jsonl")
    }


# -- the forms by themselves


def test_a_choice_and_a_claim_in_words():
    assert option(1, "Mondays") == "B) Mondays"
    assert choice_question("When?", ["Sundays", "Mondays"]) == "When? A) Sundays B) Mondays"
    assert claim_question("the gate is blue.") == "Is it true that the gate is blue?"


def test_options_are_of_the_answers_kind_or_there_are_none():
    passage = "It was opened by Ida Lindqvist in 1911 with a brass band."
    pool = {"date": ["1911", "1920", "1931", "1842"], "name": ["Kelmouth"]}
    asked = Example("e", "When was it opened?", "1911", "p")
    made = choice(asked, passage, pool, [], random.Random(0))
    assert made is not None
    assert set(re.findall(r"\d{4}", made[0])) == {"1911", "1920", "1931", "1842"}
    assert choice(Example("e", "Who?", "Ida Lindqvist", "p"), passage, pool, [], random.Random(0)) is None
    others = ["a steam crane", "the old mole", "1950", "a bell"]
    made = choice(Example("e", "With what?", "a brass band", "p"), passage, {}, others, random.Random(0))
    assert made is not None
    assert "1950" not in made[0]


@pytest.mark.parametrize(
    "passage",
    ["He lifts 40 tonnes with the crane.", "Lifts 40.", f"It has {'very ' * CLAIM_WORDS.stop}40."],
)
def test_no_claim_is_made_of_what_cannot_stand_alone(passage):
    for seed in range(4):
        assert claim(Example("e", "What?", "40", "p"), passage, {}, random.Random(seed)) is None


def test_a_claim_begins_as_it_does_within_a_sentence():
    its = {
        claim(
            Example("e", "What?", "40", "p"),
            "The crane lifts 40 tonnes.",
            {"number": ["50"]},
            random.Random(n),
        )
        for n in range(8)
    }
    assert its == {
        ("Is it true that the crane lifts 40 tonnes?", "yes"),
        ("Is it true that the crane lifts 50 tonnes?", "no"),
    }


def test_no_share_no_form():
    passages = [Passage("p", "d", "The crane lifts 40 tonnes.", 0, 26)]
    examples = [Example("e", "What does the crane lift?", "40 tonnes", "p")]
    assert list(other_forms(examples, passages, {}, SynthesizeSettings(), 0)) == []


def test_nothing_is_searched_by_other_forms(whole):
    _, folder, _, _ = whole
    everything = all_of(folder)
    assert {e.made_by.get("form") for e in answerable(everything)} == {None}
    assert len(answerable(everything)) == sum("form" not in e.made_by for e in everything)
