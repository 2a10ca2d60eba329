"""A generator asked without documents: multiple choice by the likeliest letter, other questions in words."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from fieldstone.evaluate.benchmarks.benchmark import LETTERS, Benchmark
from fieldstone.evaluate.evaluation import QuestionSet
from fieldstone.evaluate.measures.named import Case, values
from fieldstone.evaluate.questions import Question
from fieldstone.evaluate.run import Judged, summarise
from fieldstone.models import Generator
from fieldstone.progress import Progress, silent
from fieldstone.prompts import choice_prompt, closed_book_prompt, parse_one_by_one

BATCH = 16
"""Questions asked at once."""

CHOSEN = ("accuracy", "seconds")
"""Measured of multiple choice: accuracy is 1 for the right letter, else 0."""

SAID = ("EM", "F1", "over-refusal", "seconds")
"""Measured of an answer in words."""

Rows = list[dict[str, Any]]


def ask_alone(
    generator: Generator,
    name: str,
    benchmark: Benchmark,
    questions: Sequence[Question],
    progress: Progress = silent,
    *,
    background: Mapping[str, Sequence[str]] | None = None,
    max_tokens: int = 48,
) -> QuestionSet:
    """Ask these questions of the benchmark; the system is called `name`.

    `background`: question id -> passages to show before a multiple-choice question.
    """
    rows: Rows = []
    for start in range(0, len(questions), BATCH):
        progress(name, start, len(questions), "questions")
        batch = questions[start : start + BATCH]
        began = time.perf_counter()
        if benchmark.choices:
            made = _choose(generator, benchmark, batch, background or {})
        else:
            made = _say(generator, batch, max_tokens)
        seconds = (time.perf_counter() - began) / len(batch)
        for row in made:
            rows.append({"system": name, **row, "seconds": seconds})
            rows[-1]["measures"]["seconds"] = seconds
    progress(name, len(questions), len(questions), "questions")
    # a question stands for itself: subjects are fixed, not drawn, and no document is behind them
    judged = [Judged(replace(question, source=""), ()) for question in questions]
    return summarise(rows, judged, [name], CHOSEN if benchmark.choices else SAID)


def _choose(
    generator: Generator,
    benchmark: Benchmark,
    questions: Sequence[Question],
    background: Mapping[str, Sequence[str]],
) -> Rows:
    """The letter with the highest log-probability after "Answer:"; of equal ones the first."""
    prompts, letters, sizes = [], [], []
    for question in questions:
        options = benchmark.choices[question.id].options
        shots = [(s.question, s.options, s.letter) for s in benchmark.shots.get(question.source, ())]
        shown = background.get(question.id, ())
        prompt = choice_prompt(question.source, shots, question.question, options, shown)
        prompts += [prompt] * len(options)
        letters += [f" {letter}" for letter in LETTERS[: len(options)]]
        sizes.append(len(options))
    scores = iter(generator.score(prompts, letters))
    rows = []
    for question, size in zip(questions, sizes, strict=True):
        logprobs = [next(scores).logprob for _ in range(size)]
        chosen = LETTERS[max(range(size), key=logprobs.__getitem__)]
        row = _row(question) | {
            "options": list(benchmark.choices[question.id].options),
            "answer": chosen,
            "logprobs": logprobs,
            "measures": {"accuracy": float(chosen in question.answers)},
        }
        rows.append(row)
    return rows


def _say(generator: Generator, questions: Sequence[Question], max_tokens: int) -> Rows:
    prompts = [closed_book_prompt(question.question) for question in questions]
    replies = generator.generate(prompts, max_tokens=max_tokens, stop=("\n",))
    rows = []
    for question, reply in zip(questions, replies, strict=True):
        said = parse_one_by_one(reply.text)
        case = Case(question, answer=said, abstained=not said)
        rows.append(_row(question) | {"answer": said, "measures": values(case, SAID)})
    return rows


def _row(question: Question) -> dict[str, Any]:
    return {
        "id": question.id,
        "question": question.question,
        "answers": list(question.answers),
        "source": question.source,
        "relevant": [],
        "hits": [],
    }
