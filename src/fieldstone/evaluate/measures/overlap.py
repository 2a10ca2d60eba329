"""How much of an answer's wording is that of an expected one: ROUGE-L and BLEU, for answers of a sentence."""

from __future__ import annotations

import math
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Collection, Sequence

from fieldstone.evaluate.measures.words import SQUAD, UNSPACED, rule_for

ORDER = 4
"""The longest run of words that BLEU looks at."""

WIDE = re.compile(f"{UNSPACED.pattern}|[\u3001-\u303f\uff01-\uffef]")
"""Characters that are tokens by themselves: those of scripts without spaces, and their punctuation."""

# The tokens of mteval-v13a, which sacrebleu takes by default: these in this order.
ENTITIES = (("<skipped>", ""), ("-\n", ""), ("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"))
SYMBOLS = re.compile("[" + re.escape("".join(sorted(set(string.punctuation) - set("',-.")))) + "]")
POINTS = (
    (re.compile(r"([^0-9])([.,])"), r"\1 \2 "),
    (re.compile(r"([.,])([^0-9])"), r" \1 \2"),
    (re.compile(r"([0-9])(-)"), r"\1 \2 "),
)


def rouge_l(prediction: str, answers: Collection[str]) -> float:
    """F1 of the longest common subsequence of words, for the best of the answers.

    Lin, ACL 2004, as in the package rouge-score (rougeL without a stemmer), to which it is equal on ASCII
    text. Words are runs of letters and digits of any script with spaces; otherwise those of `words`.
    """
    rule = rule_for(answers)
    words = _letters if rule is SQUAD else rule.words
    predicted = words(prediction)
    return max((_lcs_f1(predicted, words(answer)) for answer in answers), default=0.0)


def bleu(prediction: str, answers: Collection[str]) -> float:
    """BLEU of one answer, 0..1: precision of runs of up to four words, times a penalty for brevity.

    Papineni et al., ACL 2002, as sacrebleu's `sentence_bleu` (Post, WMT 2018) divided by 100: all answers
    count together, exponential smoothing, orders only as long as the prediction, tokens of 13a. Characters
    of scripts without spaces are tokens, much as with its `zh`. Case and punctuation count.
    """
    predicted, expected = _tokens(prediction), [_tokens(answer) for answer in answers]
    if not predicted or not expected:
        return 0.0
    logs: list[float] = []
    missed = 0
    for order in range(1, min(ORDER, len(predicted)) + 1):
        runs = _runs(predicted, order)
        allowed: Counter[tuple[str, ...]] = Counter()
        for tokens in expected:
            allowed |= _runs(tokens, order)
        shared = (runs & allowed).total()
        if not shared and order == 1:
            return 0.0
        missed += not shared
        logs.append(math.log((shared or 0.5**missed) / runs.total()))
    length = min(map(len, expected), key=lambda n: (abs(n - len(predicted)), n))
    return math.exp(min(0.0, 1 - length / len(predicted)) + sum(logs) / len(logs))


def _lcs_f1(a: Sequence[str], b: Sequence[str]) -> float:
    return 2 * _lcs(a, b) / (len(a) + len(b)) if a and b else 0.0


def _lcs(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence; a bit a word of `a` (Hyyrö, AWOCA 2004)."""
    places: dict[str, int] = {}
    for i, word in enumerate(a):
        places[word] = places.get(word, 0) | 1 << i
    every = (1 << len(a)) - 1
    free = every
    for word in b:
        here = free & places.get(word, 0)
        free = ((free + here) | (free - here)) & every
    return len(a) - free.bit_count()


def _letters(text: str) -> list[str]:
    """Runs of letters and digits with their marks, in lower case."""
    kept = (c if c.isalnum() or unicodedata.category(c).startswith("M") else " " for c in text.lower())
    return "".join(kept).split()


def _tokens(text: str) -> list[str]:
    """The tokens of mteval-v13a, and each character of a script without spaces."""
    line = text.rstrip()
    for written, meant in ENTITIES:
        line = line.replace(written, meant)
    line = WIDE.sub(r" \g<0> ", f" {line} ".replace("\n", " "))
    line = SYMBOLS.sub(r" \g<0> ", line)
    for pattern, spaced in POINTS:
        line = pattern.sub(spaced, line)
    return line.split()


def _runs(tokens: Sequence[str], order: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(tokens[i : i + order]) for i in range(len(tokens) - order + 1))
