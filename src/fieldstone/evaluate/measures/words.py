"""How answers are compared as strings: what is dropped, and what counts as a word.

The script of the expected answers chooses the rule; nothing is configured. Latin, Cyrillic, Devanagari and
whatever else is written with spaces: SQuAD's rule, to the letter. The others begin with Unicode's NFKC,
which makes full-width letters and digits plain and puts marks that stand apart together with their letters:

- a script without spaces (Chinese, Japanese, Thai, Lao, Khmer, Burmese): each character is a word, a run of
  anything else stays one. For Chinese this is the mixed segmentation of MLQA (Lewis et al., ACL 2020).
- Korean: words for EM, characters for F1, as particles stick to words; the rule of KorQuAD 1.0 (Lim et
  al. 2019). Hangul decides, even beside Chinese characters.
- Arabic: MLQA's rule, without vowel marks and tatweel. Like MLQA's script it drops the article's two letters
  wherever they stand, also within a word. Persian and Urdu are read by the same rule.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Callable, Iterable
from typing import NamedTuple

PUNCTUATION = str.maketrans("", "", string.punctuation)
ARTICLES = re.compile(r"\b(a|an|the)\b")

UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai and Lao, Burmese, Khmer
    "\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff"  # 々〆〇, kana
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"  # Chinese characters
)
HANGUL = re.compile("[\u1100-\u11ff\u3130-\u318f\uac00-\ud7a3]")
ARABIC = re.compile("[\u0620-\u064a\u066e-\u06d3\u0750-\u077f\u08a0-\u08c7]")

KOREAN_MARKS = re.compile("['\"《》<>〈〉()‘’]")
ARABIC_MARKS = re.compile("[\u0610-\u061a\u0640\u064b-\u065f\u0670\u06d6-\u06dc\u06df-\u06e8\u06ea-\u06ed]")


class Rule(NamedTuple):
    """How answers in one kind of script are compared: the text that EM compares, the words that F1 counts."""

    text: Callable[[str], str]
    words: Callable[[str], list[str]]


def rule_for(answers: Iterable[str]) -> Rule:
    """The rule for answers that are written like these."""
    expected = "".join(answers)
    if expected.isascii():
        return SQUAD
    expected = unicodedata.normalize("NFKC", expected)
    if HANGUL.search(expected):
        return KOREAN
    if UNSPACED.search(expected):
        return CHARACTERS
    return ARABIC_RULE if ARABIC.search(expected) else SQUAD


def normalize_answer(text: str) -> str:
    """Lower case, without ASCII punctuation, English articles and surplus white space.

    To the letter as in the evaluation script of SQuAD (Rajpurkar et al., EMNLP 2016).
    """
    return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())


def _characters(text: str) -> str:
    plain = _without_punctuation(unicodedata.normalize("NFKC", text).lower())
    return " ".join(UNSPACED.sub(r" \g<0> ", plain).split())


def _arabic(text: str) -> str:
    plain = ARABIC_MARKS.sub("", unicodedata.normalize("NFKC", text).lower())
    return " ".join(_without_punctuation(plain).replace("ال", " ").split())


def _korean(text: str) -> str:
    plain = KOREAN_MARKS.sub(" ", unicodedata.normalize("NFKC", text))
    return " ".join(plain.lower().translate(PUNCTUATION).split())


def _without_punctuation(text: str) -> str:
    """Without what Unicode calls punctuation, and without ASCII's."""
    kept = text.translate(PUNCTUATION)
    return "".join(sign for sign in kept if not unicodedata.category(sign).startswith("P"))


SQUAD = Rule(normalize_answer, lambda text: normalize_answer(text).split())
CHARACTERS = Rule(_characters, lambda text: _characters(text).split())
ARABIC_RULE = Rule(_arabic, lambda text: _arabic(text).split())
KOREAN = Rule(_korean, lambda text: list(_korean(text).replace(" ", "")))
