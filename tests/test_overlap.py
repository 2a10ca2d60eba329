"""ROUGE-L against rouge-score, BLEU against sacrebleu."""

import math
import random

import pytest
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer

from fieldstone.evaluate.measures.overlap import bleu, rouge_l

CASES = 1000

SENTENCE = "the a on sat Cat cat's 1,853 3.5 well-known - e.g. . (mat) mat. 1990-91 &amp; $5 U.S. ... , '"
ENGLISH = SENTENCE.split()
ENGLISH += ["&quot;mat&quot;", "\n", "-\n", "end_of", "<skipped>", "été"]


def texts(chance, pieces, between=" "):
    return between.join(chance.choices(pieces, k=chance.randint(0, 12)))


def test_rouge_l_equals_rouge_score():
    chance = random.Random(0)
    scorer = RougeScorer(["rougeL"])
    pieces = [piece for piece in ENGLISH if piece.isascii()]
    for _ in range(CASES):
        prediction, *answers = (texts(chance, pieces) for _ in range(chance.randint(2, 4)))
        theirs = scorer.score_multi(answers, prediction)["rougeL"].fmeasure
        assert rouge_l(prediction, answers) == pytest.approx(theirs), (prediction, answers)


class Split:
    def tokenize(self, text):
        return text.lower().split()


def test_rouge_l_equals_rouge_score_on_words_of_any_alphabet():
    chance = random.Random(1)
    scorer = RougeScorer(["rougeL"], tokenizer=Split())
    pieces = ["été", "Über", "да", "нет", "Ωμέγα", "हिन्दी", "số", "x2"]
    for _ in range(CASES):
        prediction, answer = texts(chance, pieces), texts(chance, pieces)
        theirs = scorer.score(answer, prediction)["rougeL"].fmeasure
        assert rouge_l(prediction, [answer]) == pytest.approx(theirs), (prediction, answer)


def test_rouge_l_by_hand():
    gold = ["police killed the gunman"]  # the example of Lin 2004, section 3.1
    assert rouge_l("police kill the gunman", gold) == pytest.approx(3 / 4)
    assert rouge_l("the gunman kill police", gold) == pytest.approx(2 / 4)
    assert rouge_l("the gunman police killed", gold) == pytest.approx(2 / 4)
    assert rouge_l("东京大学", ["东大"]) == pytest.approx(2 * 2 / 6)
    assert rouge_l("서울에서", ["서울"]) == pytest.approx(2 * 2 / 6)
    assert rouge_l("", ["東京"]) == rouge_l("cat", []) == 0


def test_bleu_equals_sacrebleu():
    chance = random.Random(0)
    scored = 0
    for _ in range(CASES):
        prediction, *answers = (texts(chance, ENGLISH) for _ in range(chance.randint(2, 4)))
        if chance.random() < 0.5:  # so that longer runs are shared
            prediction = f"{answers[0][: chance.randint(0, 40)]} {prediction[: chance.randint(0, 20)]}"
        theirs = sacrebleu.sentence_bleu(prediction, answers).score / 100
        scored += 0 < theirs < 1
        assert bleu(prediction, answers) == pytest.approx(theirs), (prediction, answers)
    assert scored > CASES / 2


def test_bleu_equals_sacrebleu_in_chinese():
    chance = random.Random(1)
    metric = sacrebleu.BLEU(tokenize="zh", effective_order=True)
    pieces = [*"东京大学位于日本。，《》（）", "GDP", " ", "1,853", "3.5%", "the", "."]
    for _ in range(CASES):
        # no full stop at an end: there `zh` does not part it from a figure, as 13a does
        prediction, answer = (f"东{texts(chance, pieces, '')}。" for _ in range(2))
        theirs = metric.sentence_score(prediction, [answer]).score / 100
        assert bleu(prediction, [answer]) == pytest.approx(theirs), (prediction, answer)


def test_bleu_by_hand():
    # Papineni et al. 2002, section 2.1: of seven "the" two count; no run of two is shared
    answers = ["the cat is on the mat .", "there is a cat on the mat ."]
    precisions = 2 / 7, 1 / (2 * 6), 1 / (4 * 5), 1 / (8 * 4)
    assert bleu("the the the the the the the", answers) == pytest.approx(math.prod(precisions) ** 0.25)
    assert bleu("the cat", ["the cat"]) == pytest.approx(1)
    assert bleu("cat", ["the cat"]) == pytest.approx(math.exp(1 - 2 / 1))
    assert bleu("", ["cat"]) == bleu("dog", ["cat"]) == bleu("cat", []) == 0
