"""Text to index words, for languages with and without spaces."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

VERSION = "1"
"""Part of the lexical index's mark: raised when the same text would give other words."""

# Scripts written without spaces between words: Thai, Lao, Myanmar, Khmer, kana, Han.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
    "\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff"
)
# The vowel signs and joiners of Indic and other scripts stand inside words, but are no letters to `\w`.
_SIGNS = "".join(
    sign
    for sign in map(chr, range(0x0700, 0x1D00))
    if unicodedata.category(sign) in ("Mc", "Mn") and not re.match(f"[{_UNSPACED}]", sign)
)
_RUNS = re.compile(rf"([{_UNSPACED}]+)|([^\W{_UNSPACED}]+(?:[{_SIGNS}]+[^\W{_UNSPACED}]*)*)")

# Accents, Hebrew points, Arabic vowel signs. Not the marks of kana or of Indic vowels: those are letters.
_MARKS = re.compile("[\u0300-\u036f\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0670]+")


def index_words(text: str) -> list[str]:
    """The words of `text` as the lexical index knows them, in order, with repetitions.

    Compatibility forms are unified (NFKC), case and accents dropped, English endings stemmed lightly;
    runs of a script without spaces become overlapping pairs of characters.
    """
    return list(_words(text))


def _words(text: str) -> Iterator[str]:
    folded = unicodedata.normalize("NFKC", text).casefold()
    if not folded.isascii():
        folded = unicodedata.normalize("NFC", _MARKS.sub("", unicodedata.normalize("NFD", folded)))
    for unspaced, word in _RUNS.findall(folded):
        if not unspaced:
            yield _stem(word)
        elif len(unspaced) == 1:
            yield unspaced
        else:
            yield from (unspaced[i : i + 2] for i in range(len(unspaced) - 1))


def _stem(word: str) -> str:
    """Harman's S stemmer (1991): plural endings only, so that a name or a code is never mangled."""
    if len(word) < 4 or not word.isascii() or not word.endswith("s"):
        return word
    if word.endswith("ies") and not word.endswith(("eies", "aies")):
        return word[:-3] + "y"
    if word.endswith("es") and not word.endswith(("aes", "ees", "oes")):
        return word[:-1]
    if word.endswith(("us", "ss")):
        return word
    return word[:-1]
