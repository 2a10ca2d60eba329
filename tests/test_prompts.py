"""Prompts: what the models are shown, and what is made of their replies."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fieldstone.models import load_generator
from fieldstone.prompts import (
    likelihood_prompt,
    one_by_one_prompt,
    parse_one_by_one,
    parse_together,
    passage_prefix,
    together_prompt,
)


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        (" Mondays\nQuestion: And", "Mondays"),
        ("\n 9.5 m.", "9.5 m"),
        ('"forty tonnes"', "forty tonnes"),
        ("“forty tonnes”.", "“forty tonnes”"),
        ("'", "'"),
        ("", ""),
        (" \n ", ""),
        (".", ""),
    ],
)
def test_a_completion_to_its_answer(reply, answer):
    assert parse_one_by_one(reply) == answer


@pytest.mark.parametrize(
    ("reply", "cited", "answer"),
    [
        ("2\n\n### Answer\nforty tonnes", (2,), "forty tonnes"),
        ("### Reference\n3\n\n### Answer\n9.5 m\n", (3,), "9.5 m"),
        ("[2], 1, 2\n### Answer: yes", (2, 1), "yes"),
        ("1 and 3\n## ANSWER\ntwo\nlines", (1, 3), "two\nlines"),
        ("0\n\n### Answer\n", (), ""),
        ("7\n\n### Answer\nmade up", (), "made up"),
        ("none\n\n### Answer\nno", (), "no"),
        ("The crane lifts forty tonnes.", (), "The crane lifts forty tonnes."),
        ("", (), ""),
    ],
)
def test_a_cited_reply_to_numbers_and_answer(reply, cited, answer):
    assert parse_together(reply, 3) == (cited, answer)


@given(st.text(max_size=80), st.integers(0, 5))
def test_any_reply_is_parsed(reply, passages):
    cited, answer = parse_together(reply, passages)
    assert all(1 <= number <= passages for number in cited)
    assert len(set(cited)) == len(cited)
    assert answer == answer.strip()
    assert "\n" not in parse_one_by_one(reply)


def test_all_prompts_about_a_passage_share_its_prefix():
    text = "Berths\nThe crane lifts forty tonnes."
    one, other = one_by_one_prompt(text, "How much?"), one_by_one_prompt(text, "By whom?")
    assert one.prefix == other.prefix == likelihood_prompt(text).prefix == passage_prefix(text)
    assert one.text == "Question: How much?\nAnswer:"
    assert one.prefix.endswith(f"Passage: {text}\n")


def test_passages_read_together_are_numbered_from_one():
    prompt = together_prompt(["first", " second \n"], " Why? ")
    assert prompt.text == "### 1\nfirst\n\n### 2\nsecond\n\n### Question\nWhy?"
    assert prompt.chat
    assert prompt.prefill == "### Reference\n"


def test_a_reply_to_the_prompt_is_understood():
    generator = load_generator("fake:words")
    texts = ["Berth 8 is closed.", "The crane lifts forty tonnes.", "Boats pay half."]
    (reply,) = generator.generate([together_prompt(texts, "How much does the crane lift?")])
    assert parse_together(reply.text, 3) == ((2,), "The crane lifts forty tonnes.")
