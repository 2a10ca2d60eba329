"""What an evaluation finds: of one set of questions, and of them all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from fieldstone.evaluate.statistics.agreement import Agreement
from fieldstone.evaluate.statistics.bootstrap import Estimate
from fieldstone.evaluate.statistics.significance import Test

Estimates = Mapping[str, Mapping[str, Estimate]]
Tests = Mapping[str, Mapping[str, Test]]


@dataclass(frozen=True, slots=True)
class QuestionSet:
    """What was measured on one set of questions.

    `systems` is name -> measure -> estimate, `differences` the same under names such as "fused - dense".
    `rows` are JSON objects, one a question and system; `notes` are sentences that the reader must know,
    such as how many questions could not be located. `tests` hold what else is known of a difference, under
    the same names; `passages` the text of those that the worst cases speak of, by id. `judged`, where a model
    graded: its name, how it agrees with people, and the sentence that says so. A build that tunes itself
    names its systems "before" and "after".
    """

    systems: Estimates = field(default_factory=dict)
    differences: Estimates = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    rows: Sequence[Mapping[str, Any]] = ()
    tests: Tests = field(default_factory=dict)
    passages: Mapping[str, str] = field(default_factory=dict)
    judged: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation(QuestionSet):
    """What an evaluation found: on one set of questions, or on several `sets` under their names.

    With several, the first counts in the headline: put "human questions" before "synthetic questions".
    `notes` are then about them all, and the rest of what is inherited is empty. `verdicts` are those of the
    gate as JSON objects: part, candidate, incumbent, measure, difference (an estimate or None), accepted,
    forced, questions_needed, reason, guards. `agreement` says how far synthetic questions tell what human
    ones tell, where there are both. `curves` tell of the tuning of each candidate: part, candidate, losses,
    scores, the last two lists of (step, value).
    """

    date: datetime
    settings: Mapping[str, Any] = field(default_factory=dict)
    sets: Mapping[str, QuestionSet] = field(default_factory=dict)
    verdicts: tuple[Mapping[str, Any], ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    agreement: Agreement | None = None
    curves: tuple[Mapping[str, Any], ...] = ()
