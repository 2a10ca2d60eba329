"""How far a judge agrees with people: kappa as scikit-learn has it, intervals that cover, who is refused."""

import json
import warnings

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from fieldstone.errors import QuestionsError
from fieldstone.evaluate.judge.fitness import (
    Grader,
    JudgedAnswer,
    cohen_kappa,
    examine,
    fitness,
    in_words,
    kappa_estimate,
    read_judged,
)
from fieldstone.evaluate.judge.verdict import Claim, Grade
from fieldstone.models import Score
from fieldstone.models.fake import FakeGenerator
from fieldstone.prompts import VERDICTS


def judged(right, answer="six", answers=("seven",), about=None):
    return JudgedAnswer(Claim(f"When? {about}", answer, answers), right, str(about))


def grades(rights):
    return [Grade(right) for right in rights]


def test_kappa_is_that_of_scikit_learn():
    random = np.random.default_rng(0)
    seen = 0
    for _ in range(1000):
        size, kinds = random.integers(1, 40), random.integers(1, 4)
        a, b = random.integers(0, kinds, (2, size)).tolist()
        same = random.random() < 0.5
        b = [x if same and random.random() < 0.7 else y for x, y in zip(a, b, strict=True)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = cohen_kappa_score(a, b) if len({*a, *b}) > 1 else float("nan")
        found = cohen_kappa(a, b)
        if np.isnan(expected):
            assert found is None
        else:
            seen += 1
            assert found == pytest.approx(expected, abs=1e-12)
    assert seen > 600


def test_kappa_by_hand():
    # Cohen 1960's kind of table: 20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no; observed .7, by chance .5
    a = [True] * 25 + [False] * 25
    b = [True] * 20 + [False] * 5 + [True] * 10 + [False] * 15
    assert cohen_kappa(a, b) == pytest.approx(0.4)
    assert cohen_kappa([True, False], [False, True]) == -1
    assert cohen_kappa([True] * 9, [True] * 9) is None
    assert cohen_kappa([], []) is None
    with pytest.raises(ValueError, match="2 grades and 1"):
        cohen_kappa([True, False], [True])


def test_the_interval_of_kappa_covers():
    """Answers about one document go right and wrong together, and the judge is fooled by documents."""
    random = np.random.default_rng(3)

    def draw(documents, each):
        share = random.choice([0.2, 0.9], documents)[:, None]
        trust = random.choice([0.65, 0.95], documents)[:, None]
        people = random.random((documents, each)) < share
        its = np.where(random.random((documents, each)) < trust, people, ~people)
        return its.ravel(), people.ravel(), np.repeat(np.arange(documents), each)

    its, people, _ = draw(40_000, 10)
    truth = cohen_kappa_score(its, people)
    covered = 0
    for _ in range(300):
        estimate = kappa_estimate(*(part.tolist() for part in draw(25, 8)), samples=400)
        covered += estimate.low <= truth <= estimate.high
    assert 0.92 <= covered / 300 <= 0.98, covered


def test_the_value_does_not_depend_on_the_clusters():
    a, b = [True, True, False, False, True, False], [True, False, False, False, True, True]
    alone = kappa_estimate(a, b, ["one"] * 6)
    assert alone.value == kappa_estimate(a, b, list("abcabc")).value == cohen_kappa(a, b)
    assert alone.n == 6
    assert alone.low < alone.value < alone.high


PEOPLE = [n % 3 > 0 for n in range(60)]
CASES = [judged(right, about=n // 2) for n, right in enumerate(PEOPLE)]


def test_a_good_judge_is_fit():
    its = [right if n % 20 else not right for n, right in enumerate(PEOPLE)]
    found = fitness("m", grades(its), CASES)
    assert found.fit
    assert (found.graded, found.unread, found.why) == (60, 0, "")
    assert found.agreement.value == pytest.approx(57 / 60)
    assert found.bias.value == pytest.approx((sum(its) - sum(PEOPLE)) / 60)
    assert "agrees with them in 95 %" in in_words(found)
    assert in_words(found).startswith("Graded by m: on 60 answers that people judged")


class Opinion(FakeGenerator):
    """Says yes, whatever it is asked."""

    def score(self, prompts, completions):
        return [Score(-1.0 if c == VERDICTS[True] else -2.0, 1) for c in completions]


def test_a_judge_that_always_says_yes_is_refused(tmp_path):
    found = examine(Grader(Opinion("yes-man"), CASES), tmp_path / "judge.jsonl")
    assert not found.fit
    assert found.why == "it calls every answer right"
    assert found.kappa.value == 0
    assert found.agreement.value == pytest.approx(40 / 60)
    said = in_words(found)
    assert said.startswith("yes-man is no judge here: it calls every answer right")
    assert "33 in 100 more than people do" in said
    assert said.endswith("The string measures stand alone.")


def test_a_judge_that_always_says_no_is_refused():
    assert fitness("m", grades([False] * 60), CASES).why == "it calls every answer wrong"


def test_a_judge_that_guesses_is_refused():
    found = fitness("m", grades([n % 2 > 0 for n in range(60)]), CASES)
    assert not found.fit
    assert "0.40 is the least allowed" in found.why


def test_the_least_kappa_is_a_setting():
    its = [right if n % 6 else not right for n, right in enumerate(PEOPLE)]
    found = fitness("m", grades(its), CASES, least=0.0)
    assert found.fit
    assert not fitness("m", grades(its), CASES, least=found.kappa.low).fit


def test_a_judge_that_adds_nothing_to_shared_words_is_refused():
    people = [judged(right, "six" if right else "ten", ("six",), n) for n, right in enumerate(PEOPLE)]
    its = [right if n % 20 else not right for n, right in enumerate(PEOPLE)]
    found = fitness("m", grades(its), people)
    assert found.by_words.value == 1
    assert not found.fit
    assert "shared words alone" in found.why


def passages(right, number):
    """An answer whose words stand in its passage, which people found to support it or not."""
    return JudgedAnswer(
        Claim(f"When? {number}", "at six", passage="It opens at six."), right, str(number // 2)
    )


def test_a_judge_of_support_is_held_against_the_words_of_the_passage():
    cases = [passages(right, n) for n, right in enumerate(PEOPLE)]
    its = [right if n % 20 else not right for n, right in enumerate(PEOPLE)]
    found = fitness("m", grades(its), cases)
    assert (found.fit, found.support, found.by_words.value) == (True, True, 0)
    assert in_words(found).startswith("Support by m: on 60 citations that people judged")
    unfit = fitness("m", grades([True] * 60), cases)
    assert in_words(unfit).startswith("m is no judge of support here: it calls every answer supported;")
    elsewhere = Claim("When?", "at six", passage="It is closed.")
    told = [
        case if right else JudgedAnswer(elsewhere, right, case.about)
        for case, right in zip(cases, PEOPLE, strict=True)
    ]
    assert "the answer stands in the passage" in fitness("m", grades(its), told).why


def test_unread_verdicts_are_shown_and_are_not_taken_for_wrong():
    its = [None if n in (3, 4) else right for n, right in enumerate(PEOPLE)]
    found = fitness("m", grades(its), CASES)
    assert (found.graded, found.unread, found.fit) == (58, 2, True)
    assert found.agreement.value == found.kappa.value == 1
    assert found.bias.value == 0
    assert "as many as people do right; 2 of its verdicts could not be read" in in_words(found)


def test_a_judge_that_is_often_unread_is_refused():
    its = [None if n % 8 == 0 else right for n, right in enumerate(PEOPLE)]
    assert fitness("m", grades(its), CASES).why == "8 of its 60 verdicts could not be read"
    nothing = fitness("m", grades([None] * 60), CASES)
    assert (nothing.graded, nothing.kappa, nothing.fit) == (0, None, False)
    assert in_words(nothing) == (
        "m is no judge here: 60 of its 60 verdicts could not be read. The string measures stand alone."
    )


def test_few_answers_do_not_tell():
    found = fitness("m", grades(PEOPLE[:29]), CASES[:29])
    assert found.why == "29 judged answers do not tell; give 30 at least"


def test_answers_that_are_all_right_do_not_tell():
    found = fitness("m", grades([True] * 40), [judged(True, about=n) for n in range(40)])
    assert not found.fit
    assert "every answer the same grade" in found.why


def lines(tmp_path, *entries):
    path = tmp_path / "judged.jsonl"
    path.write_text("\n".join(e if isinstance(e, str) else json.dumps(e) for e in entries), encoding="utf-8")
    return path


GOOD = {"question": "When?", "answers": ["six"], "answer": "at six", "correct": 1}


def test_judged_answers_are_read(tmp_path):
    about = {**GOOD, "correct": 0.25, "source": "a.md"}
    found = read_judged(lines(tmp_path, "\ufeff" + json.dumps(GOOD), "", about))
    assert found == [
        JudgedAnswer(Claim("When?", "at six", ("six",)), True, "When?"),
        JudgedAnswer(Claim("When?", "at six", ("six",)), False, "a.md"),
    ]
    by_passage = {"question": "When?", "answer": "at six", "passage": "It opens at six.", "supported": True}
    claim = Claim("When?", "at six", passage="It opens at six.")
    assert read_judged(lines(tmp_path, by_passage)) == [JudgedAnswer(claim, True, "When?")]


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ("{", "line 2"),
        ("[1]", "no JSON object"),
        ({**GOOD, "question": " "}, '"question" is missing or empty'),
        ({**GOOD, "answer": 7}, '"answer" must be a string'),
        ({**GOOD, "answers": "six"}, '"answers" must be a list of strings'),
        ({**GOOD, "answers": []}, '"answers" is missing or empty'),
        ({**GOOD, "correct": "yes"}, '"correct" must be true, false or a grade'),
        ({**GOOD, "correct": 2}, '"correct" must be true, false or a grade'),
        ({**GOOD, "correct": float("nan")}, '"correct" must be true, false or a grade'),
        ({k: v for k, v in GOOD.items() if k != "correct"}, '"correct" must be'),
        ("[" * 5000, "line 2"),
        ({**GOOD, "passage": "It opens at six."}, '"supported" must be true, false or a grade'),
        ({**GOOD, "passage": " ", "supported": 1}, '"passage" is missing or empty'),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, entry, why):
    with pytest.raises(QuestionsError) as raised:
        read_judged(lines(tmp_path, GOOD, entry))
    assert why in str(raised.value)
    assert "1 of 2 judged answers cannot be read" in str(raised.value)


def test_no_file_no_answers(tmp_path):
    with pytest.raises(QuestionsError, match="cannot be read"):
        read_judged(tmp_path / "none.jsonl")
    with pytest.raises(QuestionsError, match="holds no judged answer"):
        read_judged(lines(tmp_path, ""))
    (tmp_path / "bad").write_bytes(b"\xff\xff")
    with pytest.raises(QuestionsError, match="not valid UTF-8"):
        read_judged(tmp_path / "bad")
    bad = lines(tmp_path, *["x"] * 7)
    with pytest.raises(QuestionsError, match="and 2 more"):
        read_judged(bad)
