"""What a follow-up question leaves out, carried over by rule from the questions before it.

The rule knows English best. Of the other languages of `fieldstone.languages` it knows the words that point
elsewhere, and those that begin an addition; of all others it sees only that a question is too short to stand
by itself.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from functools import cache

from fieldstone.languages import LANGUAGES, Language, language_of, words_of
from fieldstone.search.words import index_words


def _words(listed: str) -> frozenset[str]:
    return frozenset(listed.split())


_WH = _words("what when where which who whom whose why how")
_BE = _words("am is are was were be been being")
_AUXILIARY = _BE | _words("do does did can could may might must shall should will would has have had")
_PREPOSITION = _words(
    """about above across after against along among around as at because before behind below between by
    despite during except for from if in inside into near of off on onto out outside over past per since than
    through to toward towards under until up upon via when while with within"""
)
_PERSON = _words("he she they him her them")
_THEIRS = _PERSON | _words("his hers their theirs")
_POINTING = _THEIRS | _words("it its this these those such ones itself himself herself themselves")
_TIME = _words("year years week weeks month months day days morning evening season time")
_MUTE = _words(  # no negation: one more or less asks something else
    """a an the and or but so also then there here that any some i me my we us our you your please tell give
    show say explain mean more much many long often far exactly really just even only still one s t re ve ll
    d m"""
)
_EMPTY = frozenset(index_words(" ".join(_WH | _AUXILIARY | _PREPOSITION | _POINTING | _MUTE)))
_OPENING = re.compile(r"((and|but|or|so|also|even|what about|how about|what if)\b[\s,]*)+", re.IGNORECASE)
_DEFINING = re.compile(r"(what|who|where)(\s+(is|are|was|were)|['’]s)\s+(?!the\b)", re.IGNORECASE)
_EXPLETIVE = re.compile(  # "How long does it take to …", "Is it allowed to …": "it" stands for nothing
    r"^it\b|\bit\s+(takes?|costs?)\b|\bit\s+(be\s+)?(possible|allowed|permitted|forbidden|true|necessary|safe|"
    r"legal|required|best|better|enough|the case)\b.*\b(to|that|if|when|for)\b",
    re.IGNORECASE,
)
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_NUMBERED = re.compile(r"\b([^\W\d_]{2,})\s+(\d+[a-z]?)\b", re.IGNORECASE)
_NAME = re.compile(r"(?:the\s+)?(?=[A-Z])[^\W_][^.,;:!?()]{0,40}")

FEW = 2
"""A question without verb or question word stands by itself if it has more words that say something."""

KNOWN_BEFORE = 4
"""After so many words that say something, "it" stands for one of them."""


SHORT = 3
"""A word of so many letters says nothing in a language that is not known here."""

ENDING = 2
"""So many letters of a word in another language than English may be its ending, if four stay before them."""

ENGLISH = "en"


def language_asked(question: str, *before: str) -> str:
    """The language of a question, or else of those before it; English where nothing tells."""
    likely = language_of(" ".join(before))
    ascii_alone = question.isascii() and all(map(str.isascii, before))
    return language_of(question, likely) or likely or (ENGLISH if ascii_alone else "")


def said(text: str, language: str = ENGLISH) -> set[str]:
    """The words of a text that say something, as the index knows them.

    In a language that is not known here these are those of four letters and more, and numbers.
    """
    words = set(index_words(text))
    if language == ENGLISH:
        return words - _EMPTY
    if language in LANGUAGES:
        return words - _empty_words(language)
    return {word for word in words if len(word) > SHORT or not word.isalpha()}


def brought_in(text: str, known: str, language: str = ENGLISH) -> set[str]:
    """The words of `text` that say something and stand nowhere in `known`.

    Of scripts without spaces, where words are pairs of characters, both characters must stand there. In other
    languages than English a word may stand there with another ending.
    """
    words = set(index_words(known))
    return {
        word
        for word in said(text, language) - words
        if (word.isascii() or len(word) > FEW or not all(letter in known for letter in word))
        and (language == ENGLISH or not _stands_otherwise(word, words))
    }


def follows(question: str, language: str = ENGLISH) -> bool:
    """Whether it can only be understood by what was asked before."""
    if language != ENGLISH:
        return _follows_elsewhere(question, language)
    words = [match[0].casefold() for match in _WORD.finditer(question)]
    telling = said(question)
    if not words:
        return False
    if _OPENING.match(question) or _points(question, words):
        return True
    if not _asks(words):
        return len(telling) <= FEW
    named = any(
        name.isupper() or name[:1].isupper() or name.isdigit() for name in _WORD.findall(question)[1:]
    )
    return len(telling) <= 1 and not (telling and (named or _DEFINING.match(question)))


def carried_over(turns: Sequence[tuple[str, str]], question: str) -> str:
    """The question with what it leaves out, taken from the questions and answers before it, the oldest first.

    A question that stands by itself stays as it is.
    """
    asked = answered = ""
    for before, answer in (*turns, (question, "")):
        asked, answered = _joined(asked, answered, before.strip()), answer
    return asked


def _follows_elsewhere(question: str, language: str) -> bool:
    """The same of a language that is not English."""
    its = LANGUAGES.get(language)
    written = words_of(question)
    words = [word.casefold() for word in written]
    if its is None:
        return 0 < len(words) <= FEW
    if not its.spaced:
        return _follows_unspaced("".join(written), its)
    if not words:
        return False
    if words[0] in its.opening or _points_elsewhere(written, its):
        return True
    telling = [word for word in words if word not in its.empty]
    if not any(word in its.asking for word in words):
        return len(telling) <= FEW
    named = any(word[:1].isupper() or word[:1].isdigit() for word in written[1:])
    return len(telling) <= 1 and not (telling and named)


def _points_elsewhere(written: Sequence[str], language: Language) -> bool:
    """Whether a word points at something that no word before it may be."""
    named, telling = False, 0
    for place, word in enumerate(written):
        plain = word.casefold()
        capital = place > 0 and word[:1].isupper()  # German "Sie" is who is asked
        if plain in language.pointing and not capital and not named and telling < FEW:
            return True
        named = named or capital or word[:1].isdigit()
        telling += plain not in language.empty
    return False


def _follows_unspaced(letters: str, language: Language) -> bool:
    """Of a script without spaces: how it begins and ends, what it points at, how little it says."""
    first = letters[: 2 * KNOWN_BEFORE]  # what is named before it may be what a later word points at
    begins = any(letters.startswith(word) for word in language.opening)
    ends = letters == first and letters.endswith(("呢", "は"))
    points = any(word in first for word in language.pointing)
    return bool(letters) and (begins or ends or points or len(letters) <= KNOWN_BEFORE)


def _joined(before: str, answered: str, question: str) -> str:
    language = language_asked(question, before)
    if not before or not follows(question, language):
        return question
    if language != ENGLISH:
        return _joined_elsewhere(before, question, language)
    opening = _OPENING.match(question)
    rest = question[opening.end() if opening else 0 :].strip(" ?")
    words = [match[0].casefold() for match in _WORD.finditer(rest)]
    asks = _asks(words) or _points(rest, words)
    if swapped := _other_number(before, rest):
        return swapped
    if asks and (named := _named(before, answered, question)):
        return named
    if words and not asks:
        return _added(before.rstrip(" ?"), rest, words, bool(opening))
    return f"{question.rstrip(' ?')} ({_topic(before)})?"


def _joined_elsewhere(before: str, question: str, language: str) -> str:
    """Another number in the question before, or else what that was about behind the question."""
    its = LANGUAGES.get(language)
    rest = question.strip(" ?¿？")
    if its is not None and its.spaced and rest.partition(" ")[0].casefold() in its.opening:
        rest = rest.partition(" ")[2]
    if swapped := _other_number(before, rest, language):
        return swapped
    spaced = its is None or its.spaced
    if spaced and not any(word.casefold() in (its.asking if its else ()) for word in words_of(rest)):
        return f"{before.rstrip(' ?')}, {rest}?"
    plain = before.strip(" ?¿？").replace(" (", ", ").replace(")", "")
    words = [word for word in plain.split() if said(word, language)] if spaced else [plain]
    mark = "？" if not spaced else "?"
    return f"{question.rstrip(' ?？')} ({' '.join(words) or plain}){mark}"


def _other_number(before: str, rest: str, language: str = ENGLISH) -> str:
    """The question before with the other number: "What is the depth at berth 7?", "And berth 8?"."""
    said_now = list(_NUMBERED.finditer(rest))
    if len(said_now) != 1 or said(rest, language) != said(said_now[0][0], language):
        return ""
    thing, number = said_now[0].groups()
    places = [m for m in _NUMBERED.finditer(before) if m[1].casefold() == thing.casefold()]
    if len(places) != 1:
        return ""
    return f"{before[: places[0].start(2)]}{number}{before[places[0].end(2) :]}"


def _named(before: str, answered: str, question: str) -> str:
    """The question with the name for the pronoun: "Which tug …?", "Sorrel", "How strong is she?"."""
    first, second, *_ = (*(match[0].casefold() for match in _WORD.finditer(before)), "", "")
    a_thing = first == "which" or (first == "what" and second not in _AUXILIARY)
    name = answered.strip().rstrip(".")
    if not (a_thing or first == "who") or not _NAME.fullmatch(name):
        return ""
    standing = _PERSON | {"it"} if a_thing else _PERSON
    pronouns = [match for match in _WORD.finditer(question) if match[0].casefold() in standing]
    if len(pronouns) != 1 or pronouns[0][0].casefold() == "her":  # it may be hers
        return ""
    return f"{question[: pronouns[0].start()]}{name}{question[pronouns[0].end() :]}"


def _added(before: str, rest: str, words: Sequence[str], opened: bool) -> str:
    """The question before with "for leaving" in the place of "for berthing", or else with it at its end."""
    if words[0] not in _PREPOSITION:
        return f"{before}, {'and ' if opened else ''}{rest}?"
    rest = rest[0].lower() + rest[1:]
    if len(rest.split()) == len(words) == 2:
        end = rf"(?=$|,|\s+(?:{'|'.join(_PREPOSITION)})\b)"
        places = re.finditer(rf"\b{words[0]}\s+([^\W\d_]+){end}", before, re.IGNORECASE)
        capital = rest.split()[1][:1].isupper()
        alike = [place for place in places if place[1][:1].isupper() == capital]
        if len(alike) == 1 and alike[0][1].casefold() not in _EMPTY:
            return f"{before[: alike[0].start()]}{rest}{before[alike[0].end() :]}?"
    return f"{before} {rest}?"


def _topic(before: str) -> str:
    """What a question is about: "the depth" of "What is the depth?", or else its words that say something."""
    plain = before.rstrip(" ?").replace(" (", ", ").replace(")", "")
    if match := re.match(r"what\s+(?:is|are|was|were)\s+(?=the\b)", plain, re.IGNORECASE):
        return plain[match.end() :]
    return " ".join(word for word in plain.split() if said(word)) or plain


def _asks(words: Sequence[str]) -> bool:
    return any(word in _WH | _AUXILIARY for word in words)


def _points(question: str, words: Sequence[str]) -> bool:
    """Whether a word points at something outside of the question."""
    for i, word in enumerate(words):
        before, after = words[i - 1] if i else "", words[i + 1] if i + 1 < len(words) else ""
        if word in _POINTING:
            points = after.removesuffix("'s") not in _TIME and not (word == "those" and after == "who")
        elif word == "that":
            points = not before or not after or before in _AUXILIARY | _PREPOSITION
        elif word == "one":
            points = before in ("which", "this", "that", "another", "other") and after != "of"
        elif word == "there":
            points = before not in _BE and after not in _AUXILIARY
        else:
            points = word == "then" and not after
        if (
            points
            and not (word == "it" and _EXPLETIVE.search(question))
            and not _inside(question, word, words[:i])
        ):
            return True
    return False


def _inside(question: str, pronoun: str, words: Sequence[str]) -> bool:
    """Whether what a pronoun after these words stands for may be among them."""
    names = [m[0] for m in _WORD.finditer(question)][1 : len(words)]
    if pronoun in _THEIRS and {"a", "an", "my", "our"} & set(words):
        return True
    return len(said(" ".join(words))) >= KNOWN_BEFORE or any(
        (name[:1].isupper() and name != "I") or name[:1].isdigit() for name in names
    )


@cache
def _empty_words(language: str) -> frozenset[str]:
    """The words of a language that say nothing, as the index knows them."""
    return frozenset(index_words(" ".join(LANGUAGES[language].empty)))


def _stands_otherwise(word: str, words: Collection[str]) -> bool:
    """Whether a word stands among others with another ending."""
    stem = word[: max(SHORT + 1, len(word) - ENDING)]
    return word.isalpha() and len(word) > SHORT and any(other.startswith(stem) for other in words)
