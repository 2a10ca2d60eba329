"""The table at the end of a build that tunes itself."""

import io
import re
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from fieldstone.cli.table import show_before_after
from fieldstone.evaluate.evaluation import Evaluation, QuestionSet
from fieldstone.evaluate.report.files import as_json
from fieldstone.evaluate.statistics.bootstrap import Estimate

DATE = datetime(2026, 1, 31, tzinfo=UTC)

VERDICT = {
    "part": "retriever",
    "candidate": "models/retriever/1",
    "incumbent": "embedded:minilm",
    "measure": "recall@1",
    "difference": {"value": 0.08, "low": 0.03, "high": 0.13, "n": 300},
    "accepted": True,
    "forced": False,
    "questions_needed": None,
    "reason": "models/retriever/1 was tried in the place of embedded:minilm and taken into use: "
    "its recall@1 is 0.080 higher (95 % interval +0.030 to +0.130, 300 questions)",
    "guards": [],
}
DECLINED = VERDICT | {
    "part": "generator",
    "accepted": False,
    "reason": "b was tried in the place of a and turned down: its F1 is \x1b[2J 0.010 higher, perhaps luck",
}


def questions(changes):
    """A set of questions: measure -> (before, after, low, high)."""
    estimates = {
        system: {name: Estimate(v[i], v[i], v[i], 380) for name, v in changes.items()}
        for i, system in enumerate(("before", "after"))
    }
    differences = {name: Estimate(v[1] - v[0], v[2], v[3], 380) for name, v in changes.items()}
    return QuestionSet(estimates, {"after - before": differences})


HUMAN = questions(
    {
        "recall@1": (0.641, 0.712, 0.034, 0.108),
        "refusal-precision": (1.0, 0.982, -0.09, 0.03),
        "over-refusal": (0.2, 0.15, -0.08, -0.02),
        "seconds": (12.4, 15.1, 2.5, 2.9),
    }
)


def shown(evaluation, width=80, terminal=False):
    file = io.StringIO()
    colours = "standard" if terminal else None
    to = Console(file=file, width=width, force_terminal=terminal, highlight=False, color_system=colours)
    show_before_after(as_json(evaluation), to)
    return file.getvalue()


def test_the_table_to_the_letter():
    text = shown(Evaluation(date=DATE, sets={"human questions": HUMAN}, verdicts=(VERDICT, DECLINED)))
    assert text.splitlines() == [
        "Human questions  n = 380",
        "measure           before after  change  95 % interval  −.15    0    +.15",
        "recall@1            .641  .712   +.071   +.034  +.108          ┊ ──●──   better",
        "refusal-precision  1.000  .982   −.018   −.090  +.030     ────○───",
        "over-refusal        .200  .150   −.050   −.080  −.020      ─●──┊         better",
        "seconds             12.4  15.1  +2.700  +2.500 +2.900                    worse",
        "",
        "✓ retriever taken into use: its recall@1 is 0.080 higher "
        "(95 % interval +0.030 to +0.130, 300 questions)",
        "✗ generator turned down: its F1 is \ufffd[2J 0.010 higher, perhaps luck",
    ]


def test_a_terminal_gets_colours_and_wrapped_verdicts():
    text = shown(Evaluation(date=DATE, sets={"human": HUMAN}, verdicts=(VERDICT,)), terminal=True)
    assert "\x1b[" in text
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()
    assert max(map(len, plain)) <= 80
    assert plain[-1].startswith("  to +0.130")


def test_a_narrow_terminal_gets_the_numbers_alone():
    text = re.sub(
        r"\x1b\[[0-9;]*m", "", shown(Evaluation(date=DATE, sets={"human": HUMAN}), 64, terminal=True)
    )
    assert "●" not in text
    assert "recall@1            .641  .712   +.071   +.034  +.108   better" in text
    assert max(map(len, text.splitlines())) <= 64


def test_sets_stand_under_each_other_and_one_set_needs_no_name():
    both = shown(Evaluation(date=DATE, sets={"human questions": HUMAN, "synthetic questions": HUMAN}))
    assert both.index("Human questions") < both.index("Synthetic questions")
    one = shown(Evaluation(date=DATE, systems=HUMAN.systems, differences=HUMAN.differences))
    assert one.startswith("Before and after tuning  n = 380\n")


def test_other_systems_have_no_table():
    assert shown(Evaluation(date=DATE, systems={"dense": {"recall@1": Estimate(1, 1, 1, 3)}})) == ""


def test_a_measure_that_could_not_be_paired_is_shown_without_a_change():
    assert "recall@1            .641  .712\n" in shown(Evaluation(date=DATE, systems=HUMAN.systems))


RATE = st.floats(0, 1)


@given(st.lists(st.tuples(RATE, RATE, RATE, RATE), min_size=1, max_size=4), st.floats(0, 5000))
def test_no_row_is_wider_than_the_terminal(rates, seconds):
    rows = {
        f"m{i}": (b, a, a - b - low * 0.3, a - b + high * 0.3) for i, (b, a, low, high) in enumerate(rates)
    }
    rows["seconds"] = (seconds, seconds / 2, -seconds / 2, -seconds / 2)
    for line in shown(Evaluation(date=DATE, sets={"human": questions(rows)})).splitlines():
        assert len(line) <= 80


@pytest.mark.parametrize("width", [20, 40, 60])
def test_any_terminal_will_do(width):
    evaluation = Evaluation(date=DATE, sets={"human": HUMAN}, verdicts=(VERDICT, DECLINED))
    assert "retriever" in shown(evaluation, width, terminal=True)
