"""Quotes: found whatever the line breaks, and sentences that lose no letter."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fieldstone.quotes import find, find_words, sentences


@pytest.mark.parametrize(
    ("quote", "text", "places"),
    [
        ("forty tonnes", "It lifts forty tonnes.", ["forty tonnes"]),
        ("forty tonnes", "It lifts Forty\n  TONNES.", ["Forty\n  TONNES"]),
        ("maintenance", "The mainte-\nnance of it", ["mainte-\nnance"]),
        ("maintenance", "The mainte\u00adnance of it", ["mainte\u00adnance"]),
        ("half-hour", "every half-\nhour", ["half-\nhour"]),
        ("東京港", "ここは東京\n港です", ["東京\n港"]),
        ("a.b*c", "axb a.b*c", ["a.b*c"]),
        ("art", "part of the art", ["art", "art"]),
        ("missing", "It is not there.", []),
        ("", "text", []),
        (" \n", "text", []),
    ],
)
def test_where_a_quote_stands(quote, text, places):
    assert [text[start:end] for start, end in find(quote, text)] == places


def test_a_quote_is_found_between_bounds_only():
    text = "berth berth berth"
    assert find("berth", text, 1) == [(6, 11), (12, 17)]
    assert find("berth", text, 1, 11) == [(6, 11)]
    assert find("berth", text, 1, 10) == []


def test_words_of_their_own_go_first():
    assert find_words("art", "part of the art") == [(12, 15)]
    assert find_words("art", "part and cart") == [(1, 4), (10, 13)]
    assert find_words("9.5 m", "a 19.5 m ship of 9.5 m") == [(17, 22)]


@given(st.text(max_size=30), st.text(min_size=1, max_size=20).filter(str.strip), st.text(max_size=30))
def test_what_stands_there_is_found(before, quote, after):
    quote = quote.strip()
    text = before + quote + after
    spans = find(quote, text)
    assert spans
    for start, end in spans:
        assert text[start:end].strip() == text[start:end]
    assert any(start <= len(before) < end for start, end in spans)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        ('He said "no." Then he left', ['He said "no."', "Then he left"]),
        ("A draught of 9.5 m is allowed.", ["A draught of 9.5 m is allowed."]),
        ("港は広い。船が来る！", ["港は広い。", "船が来る！"]),
        ("Fees:\n- boats 3\n- ships 9\n", ["Fees:", "- boats 3", "- ships 9"]),
        ("1. First\n2. Second.\n  10. Third", ["1. First", "2. Second.", "10. Third"]),
        ("It was in 2024. Then came 5. And", ["It was in 2024.", "Then came 5.", "And"]),
        ("| a | b |\n| c | d |", ["| a | b |", "| c | d |"]),
        ("A heading\n\nIts text\ngoes on", ["A heading", "Its text\ngoes on"]),
        ("", []),
        (" \n\n ", []),
    ],
)
def test_sentences(text, expected):
    assert [text[start:end] for start, end in sentences(text)] == expected


@given(st.text(st.sampled_from('ab .!?。\n\t-*|1)"”') | st.characters(), max_size=80))
def test_sentences_come_in_order_and_lose_no_letter(text):
    spans = sentences(text)
    assert all(text[start:end].strip() == text[start:end] != "" for start, end in spans)
    places = [place for span in spans for place in span]
    assert places == sorted(places)
    covered = {place for start, end in spans for place in range(start, end)}
    assert all(letter.isspace() for place, letter in enumerate(text) if place not in covered)


def test_a_long_text_of_one_letter_takes_no_time():
    text = "- \n" * 20_000 + "a" * 20_000
    assert find("b" * 50, text) == []
    assert len(sentences(text)) <= 20_001
