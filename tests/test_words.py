"""EM and F1 against the rules of SQuAD, MLQA and KorQuAD, typed anew from their scripts."""

import random
import re
import string
import sys
import unicodedata
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fieldstone.evaluate.measures.answering import exact_match, token_f1
from fieldstone.evaluate.measures.words import normalize_answer

CASES = 1000

ENGLISH = ["the", "a", "An", "THE", "cat", "cat's", "Cat.", "1,853", "-", "anthem", "été", "\t", "«да»", "½"]
CHINESE = [*"东京大学年《，·（%-a", "1949", "the", "GDP", " "]
ARABIC = [
    "القاهرة ",
    "قاهرة",
    " و",
    "مال ",
    "سؤال",
    " ",
    "،",
    "؟",
    " في ",
    "1922",
    "the",
    "ل",
    "ا",
    "a.",
    "-",
]
KOREAN = ["서", "울", "에서", "대학교", "1989", "년", " ", "《", "’", "(", "the", ",", "KBS", "李", "·"]


def texts(chance, pieces, between=""):
    return between.join(chance.choices(pieces, k=chance.randint(0, 8)))


def squad_normalize(s):
    def remove_articles(text):
        return re.sub(r"\b(a|an|the)\b", " ", text)

    def remove_punctuation(text):
        return "".join(ch for ch in text if ch not in set(string.punctuation))

    return " ".join(remove_articles(remove_punctuation(s.lower())).split())


def squad_f1(prediction, truth):
    predicted, expected = squad_normalize(prediction).split(), squad_normalize(truth).split()
    same = sum((Counter(predicted) & Counter(expected)).values())
    if same == 0:
        return 0
    precision, recall = same / len(predicted), same / len(expected)
    return 2 * precision * recall / (precision + recall)


def squad2_f1(prediction, truth):
    predicted, expected = squad_normalize(prediction).split(), squad_normalize(truth).split()
    return int(predicted == expected) if not predicted or not expected else squad_f1(prediction, truth)


def squad_scores(prediction, answers):
    """EM and F1 as SQuAD v2.0 has them, and v1.1 where no answer comes to nothing."""
    exact = max(squad_normalize(prediction) == squad_normalize(answer) for answer in answers)
    overlap = max(squad2_f1(prediction, answer) for answer in answers)
    if all(map(squad_normalize, answers)):
        assert overlap == max(squad_f1(prediction, answer) for answer in answers)
    return exact, pytest.approx(overlap)


def test_equal_to_the_squad_scripts():
    chance = random.Random(0)
    partly = 0
    for _ in range(CASES):
        between = chance.choice(["", " ", " "])
        prediction = texts(chance, ENGLISH, between)
        answers = [texts(chance, ENGLISH, between) for _ in range(chance.randint(1, 4))]
        ours = exact_match(prediction, answers), token_f1(prediction, answers)
        assert ours == squad_scores(prediction, answers), (prediction, answers)
        partly += 0 < ours[1] < 1
    assert partly > CASES / 4


@given(
    prediction=st.text(max_size=12),
    answers=st.lists(st.text(st.characters(max_codepoint=0x5FF), max_size=12), min_size=1, max_size=3),
)
def test_equal_to_the_squad_scripts_on_any_characters(prediction, answers):
    ours = exact_match(prediction, answers), token_f1(prediction, answers)
    assert ours == squad_scores(prediction, answers)


@pytest.mark.parametrize(
    ("prediction", "answers", "em", "f1"),
    [
        ("The Cat!", ["cat"], 1, 1),
        ("a black cat", ["cat", "the black cat"], 1, 1),
        ("black cat", ["cat"], 0, 2 / 3),
        ("dog", ["cat"], 0, 0),
        ("cat cat", ["cat"], 0, 2 / 3),
        ("", ["cat"], 0, 0),
        ("", [], 1, 1),
        ("cat", [], 0, 0),
    ],
)
def test_answer_measures_by_hand(prediction, answers, em, f1):
    assert (exact_match(prediction, answers), token_f1(prediction, answers)) == (em, pytest.approx(f1))


def test_normalize_answer_keeps_words_that_begin_like_articles():
    assert normalize_answer("The  Anthem, an  aria") == "anthem aria"


MLQA_PUNCTUATION = set(string.punctuation)
MLQA_PUNCTUATION |= {c for c in map(chr, range(sys.maxunicode)) if unicodedata.category(c)[0] == "P"}


def mlqa_words(text, language):
    """MLQA's rule for zh and ar: lower case, no punctuation, articles out, then words."""
    text = "".join(c for c in text.lower() if c not in MLQA_PUNCTUATION)
    if language == "ar":
        return re.sub("\\sال^|ال", " ", text).split()
    words = [""]
    for c in text:
        if "\u4e00" <= c <= "\u9fa5":
            words += [c, ""]
        elif c.isspace():
            words += [""]
        else:
            words[-1] += c
    return [word for word in words if word]


def korquad_text(text):
    text = re.sub("['\"《》<>〈〉()‘’]", " ", text).lower()
    return " ".join("".join(c for c in text if c not in string.punctuation).split())


def bag_f1(predicted, expected):
    same = sum(min(predicted.count(word), expected.count(word)) for word in set(predicted))
    return 2 * same / (len(predicted) + len(expected)) if same else 0


@pytest.mark.parametrize(
    ("pieces", "written_in", "text", "words"),
    [
        (CHINESE, "[东京大学年]", lambda t: mlqa_words(t, "zh"), lambda t: mlqa_words(t, "zh")),
        (ARABIC, "[قامسف]", lambda t: mlqa_words(t, "ar"), lambda t: mlqa_words(t, "ar")),
        (KOREAN, "[가-힣]", korquad_text, lambda t: list(korquad_text(t).replace(" ", ""))),
    ],
    ids=["MLQA zh", "MLQA ar", "KorQuAD"],
)
def test_equal_to_the_scripts_of_other_languages(pieces, written_in, text, words):
    chance = random.Random(0)
    partly = same = 0
    for _ in range(2 * CASES):
        prediction, answers = texts(chance, pieces), [texts(chance, pieces) for _ in range(2)]
        if chance.random() < 0.1:
            prediction = f" {answers[0].upper()}"
        if not re.search(written_in, "".join(answers)):
            continue
        expected = [unicodedata.normalize("NFKC", answer) for answer in answers]
        given = unicodedata.normalize("NFKC", prediction)
        f1 = max(bag_f1(words(given), words(answer)) for answer in expected)
        exact = any(text(given) == text(answer) for answer in expected)
        assert exact_match(prediction, answers) == exact, (prediction, answers)
        if all(map(words, expected)):
            assert token_f1(prediction, answers) == pytest.approx(f1), (prediction, answers)
        partly, same = partly + (0 < f1 < 1), same + exact
    assert partly > CASES / 2
    assert same > CASES / 20


@pytest.mark.parametrize(
    ("prediction", "answers", "em", "f1"),
    [
        ("东京", ["东京大学"], 0, 2 * 2 / 6),
        ("《东京大学》。", ["东京大学"], 1, 1),
        ("ＧＤＰ１２％", ["GDP12 年"], 0, 2 / 3),  # full-width letters; a run of Latin is one word
        ("東京タワー", ["東京 タワー"], 1, 1),
        ("ｶﾀｶﾅ", ["カタカナ"], 1, 1),
        ("กรุงเทพ", ["กรุงเทพฯ"], 0, 2 * 7 / 15),
        ("서울에서", ["서울"], 0, 2 * 2 / 6),
        ("서울 대학교", ["서울대학교"], 0, 1),  # KorQuAD's EM heeds spaces, its F1 does not
        (unicodedata.normalize("NFD", "서울"), ["서울"], 1, 1),
        ("이순신", ["이순신(李舜臣)"], 0, 2 * 3 / 9),
        ("مُحَمَّد", ["محمد"], 1, 1),
        ("محـــمد", ["محمد"], 1, 1),
        ("القاهرة", ["قاهرة"], 1, 1),
        ("في القاهرة،", ["القاهرة"], 0, 2 / 3),
        ("東京", ["Tokyo"], 0, 0),
        ("the 東京", ["東京"], 0, 2 * 2 / 5),
    ],
)
def test_other_languages_by_hand(prediction, answers, em, f1):
    assert (exact_match(prediction, answers), token_f1(prediction, answers)) == (em, pytest.approx(f1))
    assert exact_match(answers[0], answers) == token_f1(answers[0], answers) == 1
