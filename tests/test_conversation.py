"""A follow-up is made self-contained, and a question that stands by itself is left alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fieldstone.models import Completion, Prompt, load_generator
from fieldstone.models.fake import FakeGenerator
from fieldstone.prompts import NO_ANSWER, parse_rewritten, together_prompt
from fieldstone.quotes import find_words
from fieldstone.serve.conversation import Turn, faithful, self_contained
from fieldstone.serve.follow_up import carried_over, follows, language_asked
from follow_ups import CONVERSATIONS

HARBOUR = Path(__file__).parents[1] / "examples" / "harbour"
DRAUGHT = ("What is the greatest draught at berth 7?", "6.9 m")
TUG = ("Which tug is used in Marrow Dock?", "Sorrel")


class Scripted(FakeGenerator):
    """Follows instructions, and replies what it is told to."""

    context_tokens = 32_768

    def __init__(self, reply: str) -> None:
        super().__init__()
        self.reply, self.asked = reply, []

    def generate(self, prompts: list[Prompt], **_: object) -> list[Completion]:
        self.asked += prompts
        return [Completion(self.reply, 1, None, True) for _ in prompts]


@pytest.mark.parametrize(
    ("turns", "question", "whole"),
    [
        ([DRAUGHT], "And at berth 8?", "What is the greatest draught at berth 8?"),
        ([DRAUGHT], "What about berth 12?", "What is the greatest draught at berth 12?"),
        ([DRAUGHT], "And at night?", "What is the greatest draught at berth 7 at night?"),
        ([DRAUGHT], "Who decides that?", "Who decides that (the greatest draught at berth 7)?"),
        ([DRAUGHT], "Why?", "Why (the greatest draught at berth 7)?"),
        ([TUG], "How strong is she?", "How strong is Sorrel?"),
        ([TUG], "What does it cost?", "What does Sorrel cost?"),
        ([TUG], "Is her master on call?", "Is her master on call (tug used Marrow Dock)?"),
        ([("What is the wind limit for berthing at berth 6?", "28 kn")], "And for leaving?",
         "What is the wind limit for leaving at berth 6?"),
        ([("Who may moor at Kelmouth?", "")], "At night?", "Who may moor at Kelmouth at night?"),
        ([DRAUGHT, ("And at berth 8?", "6.7 m")], "And by night?",
         "What is the greatest draught at berth 8 by night?"),
        ([DRAUGHT], "And the air draught?", "What is the greatest draught at berth 7, and the air draught?"),
        ([("Was kostet der Liegeplatz?", "120 Kronen")], "Nachts?", "Was kostet der Liegeplatz, Nachts?"),
        ([("Was kostet Liegeplatz 7?", "120 Kronen")], "Und Liegeplatz 8?", "Was kostet Liegeplatz 8?"),
        ([("Qui délivre le permis ?", "le port")], "Combien de temps est-il valable ?",
         "Combien de temps est-il valable (délivre permis)?"),
        ([("岸壁7の最大喫水は？", "6.9 m")], "夜は？", "夜は (岸壁7の最大喫水は)？"),
    ],
)  # fmt: skip
def test_the_rule_carries_over_what_is_left_out(turns, question, whole):
    assert carried_over(turns, question) == whole
    assert self_contained(load_generator("fake:words"), [Turn(*t) for t in turns], question) == whole


@pytest.mark.parametrize(
    "question",
    [
        "Who issues diving permits?",
        "Who is Sorrel?",
        "What is dunnage?",
        "How long does it take to pass the lock?",
        "Is it allowed to weld on the quay?",
        "What is this year's charge for pilots?",
        "Is there a crane on the ferry quay?",
        "Where does a tanker take her pilot on board?",
        "When the coaster Marigold hit the gate, was she fined?",
        "Which ships that carry grain pay less?",
    ],
)
def test_a_question_that_stands_by_itself_stays(question):
    assert not follows(question)
    assert carried_over([DRAUGHT], question) == question
    assert self_contained(load_generator("fake:words"), [Turn(*DRAUGHT)], question) == question
    assert carried_over([], "And at night?") == "And at night?"


WORDS = "and at for what is the it that there who 7 8 berth Berth Sorrel night quay ? ! ( ) , … 夜は"
SAID = st.sampled_from([*WORDS.split(), "\n"])


@given(st.lists(st.tuples(st.lists(SAID), st.lists(SAID)), max_size=3), st.lists(SAID))
def test_the_rule_loses_nothing_and_makes_nothing_up(turns, question):
    turns, question = [(" ".join(q), " ".join(a)) for q, a in turns], " ".join(question)
    assert faithful(carried_over(turns, question) or question, turns, question) or not question


def test_few_human_questions_are_taken_for_follow_ups(data):
    files = {
        Path(__file__).parents[1] / "examples" / "harbour-questions.jsonl": 0.02,
        data / "squad" / "squad8_questions.jsonl": 0.03,  # some of these do point at their paragraph
    }
    for file, most in files.items():
        asked = [json.loads(line)["question"] for line in file.open(encoding="utf-8")]
        assert sum(map(follows, asked)) <= most * len(asked)


def test_follow_ups_in_other_languages_are_known():
    """The rule was made with these, so this holds it in place; the next test knows it from nowhere."""
    found = missed = wrong = 0
    for (before, _), following, others in CONVERSATIONS.values():
        taken = [follows(question, language_asked(question, before)) for question in following]
        found, missed = found + sum(taken), missed + taken.count(False)
        wrong += sum(follows(question, language_asked(question, before)) for question in others)
    assert found >= 83
    assert missed <= 1
    assert wrong <= 3


@pytest.mark.parametrize(
    ("file", "most"), [("cmrc2018_trial", 0.02), ("jsquad_test", 0.03), ("arcd_train", 0.02)]
)
def test_few_human_questions_in_other_languages_are_taken_for_follow_ups(data, file, most):
    lines = (data / "multilingual" / f"{file}.jsonl").open(encoding="utf-8")
    asked = [json.loads(line)["question"] for line in lines]
    assert sum(follows(question, language_asked(question)) for question in asked) <= most * len(asked)


@pytest.mark.parametrize(
    ("turn", "question", "written", "right"),
    [
        (("Wie lange gilt eine Genehmigung?", "ein Jahr"), "Und wer erteilt sie?",
         "Wer erteilt eine Genehmigung?", True),
        (("Wie lange gilt eine Genehmigung?", "ein Jahr"), "Und wer erteilt sie?",
         "Wer erteilt keine Genehmigung?", False),
        (("Какая осадка у причала 7?", "6,9 м"), "А ночью?", "Какая осадка ночью у причалов 7?", True),
        (("Какая осадка у причала 7?", "6,9 м"), "А ночью?", "Какая осадка ночью у моста?", False),
        (("¿Cuánto cuesta un permiso?", "10"), "¿Y de noche?", "¿Cuánto cuesta un permiso de noche?", True),
    ],
)  # fmt: skip
def test_a_rewriting_in_another_language_may_leave_out_what_says_nothing(turn, question, written, right):
    assert faithful(written, [turn], question) == right
    assert (self_contained(Scripted(written), [Turn(*turn)], question) == written) == right


def test_a_model_that_follows_instructions_rewrites():
    model = Scripted("Question: How much may a ship draw at berth 7 at night?")
    history = [Turn("How much may a ship draw at berth 7?", "6.9 m")]
    assert self_contained(model, history, "And at night?") == "How much may a ship draw at berth 7 at night?"
    (prompt,) = model.asked
    assert prompt.chat
    assert "6.9 m" in prompt.text
    assert prompt.text.endswith("Next question: And at night?")


@pytest.mark.parametrize(
    "reply",
    [
        "What is the greatest draught at berth 7?",  # night is lost
        "What is the greatest draught of barges at berth 7 at night?",  # nobody spoke of barges
        "What is not the greatest draught at berth 7 at night?",
        "It is 6.5 m at night.\nBecause of the lock.",
        "",
    ],
)
def test_an_unfaithful_rewriting_is_refused(reply):
    model = Scripted(reply)
    whole = "What is the greatest draught at berth 7 at night?"
    assert self_contained(model, [Turn(*DRAUGHT)], "And at night?") == whole
    assert len(model.asked) == 1


def test_a_plain_question_is_not_put_to_the_model():
    model = Scripted("Something else?")
    question = "Who issues the permit for diving at Stannet Jetty?"
    assert self_contained(model, [Turn(*DRAUGHT)], question) == question
    assert self_contained(model, [], "And at night?") == "And at night?"
    assert model.asked == []


def test_other_languages_are_rewritten_and_checked():
    history = [("岸壁7の最大喫水は？", "6.9 m")]
    assert faithful("岸壁7の夜の最大喫水は？", history, "夜は？")
    assert not faithful("岸壁8の夜の最大喫水は？", history, "夜は？")
    assert not faithful("岸壁7の夜の最大風速は？", history, "夜は？")


def test_history_has_a_budget():
    model = Scripted("")
    old = Turn("What is the air draught at the bridge?", "long ago " * 40)
    refused = Turn("What is the depth at berth 7?", NO_ANSWER)
    self_contained(model, [old, refused], "And at night?", budget=30)
    assert "bridge" not in model.asked[0].text
    assert "depth at berth 7" in model.asked[0].text
    assert NO_ANSWER not in model.asked[0].text
    assert self_contained(model, [Turn("word " * 1000)], "And at night?") == "And at night?"


@pytest.mark.parametrize(
    ("reply", "question"),
    [
        ("How deep is it?", "How deep is it?"),
        ('  "How deep is it?"\n', "How deep is it?"),
        ("**Rewritten question:** How deep is it?\n\nI put in the berth.", "How deep is it?"),
        ("<think>They mean berth 7.</think>\nHow deep is it?", "How deep is it?"),
        ("\n", ""),
    ],
)
def test_a_reply_is_one_question(reply, question):
    assert parse_rewritten(reply) == question


def test_a_chat_model_is_told_the_language():
    assert "another language" in together_prompt(["A passage."], "Wie tief?").system


FOLLOW_UPS = (
    ("How is a licence list for fuel suppliers published?", "in the Harbour Office",
     "How long is it valid?", "valid for two years"),
    ("At what mean wind do barge deliveries stop?", "27 knots", "And lorry deliveries?", "up to 35 knots"),
    ("How many lorries may be connected for LNG?", "two", "How wide is the zone around the connection?",
     "zone of 25 m"),
    ("How many tugs does a laden tanker of more than 100 m take?", "two", "And a gas carrier?",
     "A gas carrier takes two tugs"),
    ("What is the crane at berth 4?", "C4", "At what gusts does it stop?", "stops at 38"),
    ("What may be stacked on the east pad of berth 4?", "Hatch covers", "How high may they be stacked?",
     "three high at most"),
    ("When is a swell warning for berth 5 issued?", "above 0.8 m", "And for berth 6?", "issued at 1.1 m"),
    ("At what current is there no diving?", "0.7 knots", "How many people are in such a team?",
     "five persons at the least"),
    ("How many signatures does a permit need?", "two people sign", "How long are they kept?",
     "kept for two years"),
    ("Who issues permits for drones?", "the Port Facility Security Officer",
     "How far from berth 11 must they stay?", "Not within 150 m of berth 11"),
    ("How strong is the tug Bramble?", "52 t", "And Teasel?", "45 t"),
    ("What is the wind limit across Marrow Lock by day?", "32 knots", "What is it at night?",
     "26 knots at night"),
)  # fmt: skip


@pytest.mark.slow
def test_follow_ups_find_their_passage(tmp_path):
    """A dozen that the rule was not made from: question, answer, follow-up, what its passage says."""
    from fieldstone.recipes import choose_settings, load_recipe, run
    from fieldstone.search import search
    from fieldstone.search.open import open_index
    from fieldstone.workspace import create_workspace

    folder = tmp_path / "harbour"
    for name in ("weather-and-swell-limits", "towage", "bunkering", "permits-to-work", "berth-4", "berth-7"):
        file = next(HARBOUR.rglob(f"{name}.md"))
        (folder / file.name).parent.mkdir(exist_ok=True)
        (folder / file.name).write_bytes(file.read_bytes())
    workspace = create_workspace(tmp_path / "w")
    settings = choose_settings("guide", {}, {}, ["search.rerank=none"])
    run(load_recipe("guide"), folder, workspace, settings)
    index = open_index(workspace, settings)
    smollm = load_generator("embedded:smollm2")

    def first(questions):
        found = search(index, questions, settings.search, 2)
        return sum(
            any(find_words(said, hit.passage.text) for hit in hits)
            for hits, (*_, said) in zip(found, FOLLOW_UPS, strict=True)
        )

    whole = [self_contained(smollm, [Turn(q, a)], follow) for q, a, follow, _ in FOLLOW_UPS]
    assert first(whole) >= 10
    assert first(whole) >= first([follow for *_, follow, _ in FOLLOW_UPS]) + 3
