"""Each measure against its oracle: ir-measures, SQuAD's, MLQA's and KorQuAD's rules typed anew, sacrebleu, rouge-score."""

import re
import string
import sys
import unicodedata
from collections import Counter

import ir_measures
import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_measures import AP, RR, P, R, nDCG
from rouge_score.rouge_scorer import RougeScorer

from fieldstone.evaluate.measures import (
    average_precision_at,
    citation_accuracy,
    citation_precision,
    citation_recall,
    citation_support,
    exact_match,
    faithfulness,
    ndcg_at,
    over_refusal,
    precision_at,
    recall_at,
    reciprocal_rank,
    refusal_f1,
    refusal_precision,
    refusal_recall,
    token_f1,
)
from fieldstone.evaluate.overlap import bleu, rouge_l
from fieldstone.evaluate.words import normalize_answer

CASES = 2000


def test_ranking_measures_equal_those_of_ir_measures():
    random = np.random.default_rng(0)
    depths = (1, 2, 3, 5, 10, 25)
    run, qrels, ours = [], [], {}
    for query in map(str, range(CASES)):
        documents = [f"d{i}" for i in random.permutation(20)]
        ranked = documents[: random.integers(1, 21)]
        grades = {d: int(random.integers(-1, 4)) for d in random.permutation(documents)[: random.integers(1, 20)]}
        relevant = [{id_} for id_, grade in grades.items() if grade > 0]
        run += [ir_measures.ScoredDoc(query, id_, -rank) for rank, id_ in enumerate(ranked)]
        qrels += [ir_measures.Qrel(query, id_, grade) for id_, grade in grades.items()]
        ours |= {(query, RR): reciprocal_rank(ranked, relevant)}
        for k in depths:
            ours |= {
                (query, R @ k): recall_at(k, ranked, relevant),
                (query, P @ k): precision_at(k, ranked, relevant),
                (query, RR @ k): reciprocal_rank(ranked, relevant, k),
                (query, AP @ k): average_precision_at(k, ranked, relevant),
                (query, nDCG @ k): ndcg_at(k, ranked, grades),
            }
    measures = {measure for _, measure in ours}
    theirs = {(m.query_id, m.measure): m.value for m in ir_measures.iter_calc(measures, qrels, run)}
    answered = {key: value for key, value in ours.items() if value is not None}
    assert len(answered) > 0.9 * len(ours)
    assert answered == pytest.approx({key: theirs[key] for key in answered})
    assert not any(theirs.get(key) for key in ours.keys() - answered.keys())


def test_one_passage_of_a_group_is_enough():
    ranked = ["x", "b", "a", "c"]
    assert recall_at(1, ranked, [{"a", "b"}]) == 0
    assert recall_at(2, ranked, [{"a", "b"}]) == 1
    assert recall_at(2, ranked, [{"a", "b"}, {"c"}, set()]) == 0.5
    assert recall_at(2, ranked, [{"a"}, {"b"}]) == 0.5
    assert reciprocal_rank(ranked, [{"a", "b"}]) == 0.5
    assert reciprocal_rank(ranked, [{"a"}], k=2) == 0
    assert recall_at(3, ranked, []) is recall_at(3, ranked, [set()]) is None


def test_nothing_found_scores_nothing():
    assert (recall_at(5, [], [{"a"}]), reciprocal_rank([], [{"a"}]), ndcg_at(10, [], {"a": 1})) == (0, 0, 0)


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


WORDS = st.sampled_from(["the", "a", "An", "cat", "cat's", "Cat.", "1,853", "-", "anthem", "été", "\t", "«да»", "½"])
SPACED = st.text(st.characters(max_codepoint=0x5FF), max_size=12)
TEXTS = st.one_of(st.lists(WORDS, max_size=6).map(" ".join), SPACED)


@settings(max_examples=CASES)
@given(prediction=st.one_of(TEXTS, st.text(max_size=12)), answers=st.lists(TEXTS, min_size=1, max_size=4))
def test_answer_measures_equal_the_squad_scripts(prediction, answers):
    matches = [squad_normalize(prediction) == squad_normalize(answer) for answer in answers]
    assert exact_match(prediction, answers) == max(matches)
    assert token_f1(prediction, answers) == pytest.approx(max(squad2_f1(prediction, a) for a in answers))
    answers = [answer for answer in answers if squad_normalize(answer)]
    if answers:  # where no answer is empty, v1.1 and v2.0 agree
        assert token_f1(prediction, answers) == pytest.approx(max(squad_f1(prediction, a) for a in answers))


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


MLQA_PUNCTUATION = {
    c for c in map(chr, range(sys.maxunicode)) if unicodedata.category(c)[0] == "P"
} | set(string.punctuation)


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


CHINESE = ["东", "京", "大", "学", "1949", "年", "the", "GDP", " ", "·", "《", "，", "a", "100", "%", "-", "（"]
SYLLABLES = ["서", "울", "에서", "대학교", "1989", "년", " ", "《", "’", "(", "the", ",", "KBS", "李", "·"]
LETTERS = ["ال", "قاهرة", "و", "مال", "سؤ", " ", "،", "؟", "في", "1922", "the", "ل", "ا", "a.", "-"]


def texts(random, pieces):
    return "".join(random.choice(pieces, random.integers(1, 9)))


@pytest.mark.parametrize(
    ("pieces", "written_in", "text", "words"),
    [
        (CHINESE, "[东京大学年]", lambda t: mlqa_words(t, "zh"), lambda t: mlqa_words(t, "zh")),
        (LETTERS, "[قامسف]", lambda t: mlqa_words(t, "ar"), lambda t: mlqa_words(t, "ar")),
        (SYLLABLES, "[가-힣]", korquad_text, lambda t: list(korquad_text(t).replace(" ", ""))),
    ],
    ids=["MLQA zh", "MLQA ar", "KorQuAD"],
)
def test_answer_measures_equal_the_scripts_of_other_languages(pieces, written_in, text, words):
    random = np.random.default_rng(0)
    partly = 0
    for _ in range(CASES):
        prediction, answers = texts(random, pieces), [texts(random, pieces) for _ in range(2)]
        prediction = answers[0] + "。 " if random.random() < 0.1 else prediction
        if not re.search(written_in, "".join(answers)):
            continue
        expected = [unicodedata.normalize("NFKC", answer) for answer in answers]
        given = unicodedata.normalize("NFKC", prediction)
        f1 = max(bag_f1(words(given), words(answer)) for answer in expected)
        partly += 0 < f1 < 1
        assert exact_match(prediction, answers) == any(text(given) == text(answer) for answer in expected)
        if all(map(words, expected)):
            assert token_f1(prediction, answers) == pytest.approx(f1)
    assert partly > CASES / 2


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


ENGLISH = ["the", "Cat", "cat's", "sat", "on", "1,853", "3.5", "well-known", "-", "e.g.", "a", ".", "(mat)", "1990-91"]
ENGLISH += ["&amp;", "&quot;mat&quot;", "$5", "\n", "-\n", "mat.", "U.S.", "end_of", "<skipped>", "...", ",", "'", "été"]


def sentences(random, pieces, low):
    return " ".join(random.choice(pieces, random.integers(low, 12)))


def test_rouge_l_equals_rouge_score():
    random = np.random.default_rng(0)
    scorer = RougeScorer(["rougeL"])
    pieces = [piece for piece in ENGLISH if piece.isascii()]
    for _ in range(CASES):
        prediction = sentences(random, pieces, 0)
        answers = [sentences(random, pieces, 0) for _ in range(random.integers(1, 4))]
        theirs = scorer.score_multi(answers, prediction)["rougeL"].fmeasure
        assert rouge_l(prediction, answers) == pytest.approx(theirs), (prediction, answers)


class Split:
    def tokenize(self, text):
        return text.lower().split()


def test_rouge_l_equals_rouge_score_on_words_of_any_alphabet():
    random = np.random.default_rng(1)
    scorer = RougeScorer(["rougeL"], tokenizer=Split())
    pieces = ["été", "Über", "да", "нет", "Ωμέγα", "हिन्दी", "số", "x2"]
    for _ in range(CASES):
        prediction, answer = sentences(random, pieces, 0), sentences(random, pieces, 1)
        theirs = scorer.score(answer, prediction)["rougeL"].fmeasure
        assert rouge_l(prediction, [answer]) == pytest.approx(theirs), (prediction, answer)


def test_rouge_l_by_hand():
    # Lin 2004, section 3.1: the first two share three of four words in order, the third only two
    gold = ["police killed the gunman"]
    assert rouge_l("police kill the gunman", gold) == pytest.approx(3 / 4)
    assert rouge_l("the gunman kill police", gold) == pytest.approx(2 / 4)
    assert rouge_l("the gunman police killed", gold) == pytest.approx(2 / 4)
    assert rouge_l("东京大学", ["东大"]) == pytest.approx(2 * 2 / 6)
    assert rouge_l("", ["東京"]) == 0


def test_bleu_equals_sacrebleu():
    random = np.random.default_rng(0)
    scored = 0
    for _ in range(CASES):
        answers = [sentences(random, ENGLISH, 1) for _ in range(random.integers(1, 4))]
        prediction = sentences(random, ENGLISH, 0)
        if random.random() < 0.5:  # so that longer runs are shared
            prediction = f"{answers[0][: random.integers(0, 40)]} {prediction[: random.integers(0, 20)]}"
        theirs = sacrebleu.sentence_bleu(prediction, answers).score / 100
        scored += 0 < theirs < 1
        assert bleu(prediction, answers) == pytest.approx(theirs), (prediction, answers)
    assert scored > CASES / 2


def test_bleu_equals_sacrebleu_in_chinese():
    random = np.random.default_rng(1)
    metric = sacrebleu.BLEU(tokenize="zh", effective_order=True)
    pieces = [*"东京大学位于日本。，《》（）", "GDP", " ", "1,853", "3.5%", "the", "."]
    for _ in range(CASES):
        # no full stop at an end: there `zh` does not part it from a figure, as 13a does
        prediction, answer = (f"东{texts(random, pieces)}。" for _ in range(2))
        theirs = metric.sentence_score(prediction, [answer]).score / 100
        assert bleu(prediction, [answer]) == pytest.approx(theirs), (prediction, answer)


def test_bleu_by_hand():
    # Papineni et al. 2002, section 2.1.1: of seven "the" two count; no run of two is shared
    papineni = ["The cat is on the mat .", "There is a cat on the mat ."]
    seven = "the the the the the the the"
    assert bleu(seven, [answer.lower() for answer in papineni]) == pytest.approx(
        (2 / 7 * 1 / (2 * 6) * 1 / (4 * 5) * 1 / (8 * 4)) ** 0.25
    )
    assert bleu("the cat", ["the cat"]) == pytest.approx(1)
    assert bleu("cat", ["the cat"]) == pytest.approx(np.exp(1 - 2 / 1))
    assert bleu("", ["cat"]) == bleu("dog", ["cat"]) == 0


def test_citation_accuracy():
    assert citation_accuracy(["a"], [{"a", "b"}], abstained=False) == 1
    assert citation_accuracy(["a", "x"], [{"a", "b"}], abstained=False) == 0.5
    assert citation_accuracy([], [{"a"}], abstained=False) == 0
    assert citation_accuracy([], [{"a"}], abstained=True) is None
    assert citation_accuracy(["a"], [], abstained=False) is None


def test_citation_precision_counts_citations():
    assert citation_precision(["a", "x", "a"], [{"a", "b"}], abstained=False) == (2, 3)
    assert citation_precision([], [{"a"}], abstained=False) == (0, 0)
    assert citation_precision(["a"], [{"a"}], abstained=True) is None
    assert citation_precision(["a"], [], abstained=False) is None


def test_citation_recall_counts_evidence():
    assert citation_recall(["a", "x"], [{"a", "b"}, {"c"}], abstained=False) == 0.5
    assert citation_recall(["b", "a", "c"], [{"a", "b"}, {"c"}], abstained=False) == 1
    assert citation_recall([], [{"a"}], abstained=False) == 0
    assert citation_recall(["a"], [{"a"}], abstained=True) is None
    assert citation_recall(["a"], [], abstained=False) is None


def test_support_of_the_citations_and_of_the_answer():
    assert citation_support([1.0, 0.25], abstained=False) == 0.625
    assert faithfulness([0.25, 1.0], abstained=False) == 1
    assert (citation_support([], abstained=False), faithfulness([], abstained=False)) == (None, 0)
    assert citation_support([1.0], abstained=True) is faithfulness([1.0], abstained=True) is None


@pytest.mark.parametrize(
    ("abstained", "answerable", "precision", "recall", "f1", "over"),
    [
        (True, False, (1, 1), 1, (2, 2), None),
        (True, True, (0, 1), None, (0, 1), 1),
        (False, False, (0, 0), 0, (0, 1), None),
        (False, True, (0, 0), None, (0, 0), 0),
    ],
)
def test_refusals(abstained, answerable, precision, recall, f1, over):
    case = {"abstained": abstained, "answerable": answerable}
    measures = refusal_precision, refusal_recall, refusal_f1, over_refusal
    assert tuple(measure(**case) for measure in measures) == (precision, recall, f1, over)
