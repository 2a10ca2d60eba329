"""Measures by name: which there are, and what each says of a case."""

from dataclasses import replace
from math import log2
from pathlib import Path

import pytest

from fieldstone.errors import SettingsError
from fieldstone.evaluate.measures.named import DEFAULTS, MEASURES, QUANTILES, Case, check_names, depth, values
from fieldstone.evaluate.questions import Question
from fieldstone.evaluate.report.findings import LESS_IS_BETTER
from fieldstone.evaluate.statistics.bootstrap import bootstrap_mean

ASKED = Question("q1", "Who books the pilot?", ("the agent", "an agent of the ship"), "pilotage.md")
UNANSWERABLE = Question("q2", "What does a haircut cost?", (), "")
EVERY = [name.replace("@k", "@5") for name in MEASURES]
ANSWERED = Case(
    ASKED,
    relevant=(frozenset({"p1", "p2"}),),
    ranked=("p9", "p2", "p3", "p1"),
    answer="the agent of the ship",
    cited=("p2", "p3"),
    support=(1.0, 0.5),
    correct=0.5,
    seconds=2.0,
)


def test_every_measure_has_its_value():
    found = values(ANSWERED, EVERY)
    assert list(found) == EVERY
    numbers = {
        "recall@5": 1,
        "precision@5": 2 / 5,
        "MRR@5": 1 / 2,
        "MAP@5": (1 / 2 + 2 / 4) / 2,
        "nDCG@5": (1 / log2(3) + 1 / log2(5)) / (1 + 1 / log2(3)),
        "EM": 1,
        "F1": 1,
        "ROUGE-L": 2 * 4 / 10,
        "BLEU": (4 / 5 * 4 / 4 * 2 / 3 * 1 / 2) ** 0.25,
        "correctness": 0.5,
        "citation-accuracy": 0.5,
        "citation-recall": 1,
        "citation-support": 0.75,
        "faithfulness": 1,
        "over-refusal": 0,
        "seconds": 2,
        "latency-p50": 2,
        "latency-p95": 2,
    }
    assert {name: found.pop(name) for name in numbers} == pytest.approx(numbers)
    assert found == {
        "citation-precision": (1, 2),
        "refusal-precision": (0, 0),
        "refusal-recall": None,
        "refusal-F1": (0, 0),
    }


def test_an_abstention_is_an_empty_answer():
    found = values(replace(ANSWERED, abstained=True, answer="The documents do not say.", cited=()), EVERY)
    wanted = {"EM": 0, "F1": 0, "ROUGE-L": 0, "BLEU": 0, "over-refusal": 1, "refusal-precision": (0, 1)}
    assert {name: found[name] for name in wanted} == wanted
    assert {name for name, value in found.items() if value is None} == {
        "citation-accuracy",
        "citation-precision",
        "citation-recall",
        "citation-support",
        "faithfulness",
        "refusal-recall",
    }


def test_an_unanswerable_question_counts_for_refusal_alone():
    found = values(replace(ANSWERED, question=UNANSWERABLE, relevant=(), support=None, correct=None), EVERY)
    assert {name for name, value in found.items() if value is not None} == {
        "refusal-precision",
        "refusal-recall",
        "refusal-F1",
        "seconds",
        "latency-p50",
        "latency-p95",
    }
    assert (found["refusal-recall"], found["refusal-F1"]) == (0, (0, 1))


def test_what_is_not_known_is_not_measured():
    assert values(Case(ASKED), EVERY) == {}
    searched = values(Case(ASKED, (frozenset({"p1"}),), ("p1",)), EVERY)
    assert list(searched) == ["recall@5", "precision@5", "MRR@5", "MAP@5", "nDCG@5"]
    answered = values(Case(ASKED, answer="the agent"), EVERY)
    assert "EM" in answered
    assert not {"recall@5", "seconds", "correctness", "citation-support"} & set(answered)


def test_names_are_given_back_as_they_are_spelled_once_and_in_order():
    assert check_names([" ndcg@10", "rouge-l", "nDCG@10", "Recall@100"]) == (
        "nDCG@10",
        "ROUGE-L",
        "recall@100",
    )
    assert check_names(DEFAULTS) == DEFAULTS
    assert check_names(EVERY) == tuple(EVERY)
    assert (depth("recall@100"), depth("F1")) == (100, 0)


@pytest.mark.parametrize(
    "name", ["", "recall", "recall@", "recall@0", "recall@-1", "recall@k", "F2", "EM@5", "@5"]
)
def test_an_unknown_name_is_refused_with_those_there_are(name):
    with pytest.raises(SettingsError) as refused:
        check_names(["F1", name])
    assert repr(name) in str(refused.value)
    assert all(known in str(refused.value) for known in MEASURES)


def test_a_name_nearly_right_is_named():
    with pytest.raises(SettingsError, match="did you mean ROUGE-L"):
        check_names(["ROUGEL"])


def test_what_less_is_better_of_is_known_by_its_name():
    assert {"over-refusal", "seconds", *QUANTILES} == LESS_IS_BETTER
    assert set(MEASURES) >= LESS_IS_BETTER


def test_the_documents_name_every_measure():
    page = (Path(__file__).parent.parent / "docs" / "evaluate.md").read_text(encoding="utf-8")
    table = page.partition("## Measures")[2].partition("## Intervals")[0]
    assert [name for name in MEASURES if f"`{name}`" not in table] == []
    marked = {line.split("|")[1] for line in table.splitlines() if "•" in line and line.startswith("|")}
    plain = {name.partition("@")[0] for name in DEFAULTS}
    assert {cell.split("`")[1].removesuffix("@k") for cell in marked} == plain


def test_the_mean_of_fed_rags_benchmark_0_0_0_1_is_a_quarter():
    """fed-rag's running mean forgets zeros at the start and comes to 1.0."""
    cases = [Case(ASKED, answer=answer) for answer in ("the master", "nobody", "", "The agent.")]
    exact = [values(case, ["EM"])["EM"] for case in cases]
    assert exact == [0, 0, 0, 1]
    assert bootstrap_mean(exact, ["a", "b", "c", "d"]).value == 0.25
