"""Which language a text is in, by the words that say nothing."""

from __future__ import annotations

import pytest

from fieldstone.languages import LANGUAGES, language_of, other_language
from follow_ups import CONVERSATIONS


def test_questions_are_known_for_what_they_are():
    for code, ((question, _), _, others) in CONVERSATIONS.items():
        wanted = code if code in LANGUAGES else ""
        its = [language_of(text) for text in (question, *others)]
        assert its.count(wanted) >= len(its) - 1, code
    assert language_of("Which crane lifts forty tonnes?") == "en"


@pytest.mark.parametrize(
    ("one", "other", "different"),
    [
        ("Welcher Kran hebt 40 Tonnen?", "The crane at berth 4 lifts forty tonnes.", True),
        ("Which crane lifts forty tonnes?", "The crane at berth 4 lifts forty tonnes.", False),
        ("Kırk tonluk yükü hangi vinç kaldırır?", "The crane at berth 4 lifts forty tonnes.", True),
        ("crane berth 4", "The crane at berth 4 lifts forty tonnes.", False),
        ("Kran?", "The crane at berth 4 lifts forty tonnes.", False),
        ("", "", False),
    ],
)
def test_two_texts_are_in_different_languages_only_where_that_can_be_told(one, other, different):
    assert other_language(one, other) == different
    assert other_language(other, one) == different


def test_no_negation_counts_as_empty():
    """A rewritten question could lose or gain it unseen."""
    negations = {
        "en": "no not never", "de": "nicht kein keine nie", "fr": "pas jamais", "es": "no nunca",
        "it": "non mai",
        "pt": "não nunca", "nl": "niet geen nooit", "pl": "nie", "ru": "не ни", "zh": "不 没", "ja": "ない",
        "ko": "안 못",
    }  # fmt: skip
    assert negations.keys() == LANGUAGES.keys()
    for code, words in negations.items():
        assert not LANGUAGES[code].empty & set(words.split()), code
