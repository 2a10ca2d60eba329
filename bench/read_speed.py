"""Reading passages one by one: what an answer costs when its passage's states are kept, and when not.

The passage stands first in the prompt, so its states serve every question about it. One question at a time:
seconds to the first token and to the whole answer, with nothing kept and with the passage kept, in turns.
The answers must be the same.
"""

from __future__ import annotations

import argparse
import statistics
import time
from itertools import groupby
from pathlib import Path

from fieldstone.evaluate.questions import read_questions
from fieldstone.models import Generator, Prompt, load_generator
from fieldstone.prompts import one_by_one_prompt
from machine import begin, data, spread, table


def main() -> None:
    """Ask several questions about each of some passages, print both times and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    data(parser, "questions", "squad/squad8_questions.jsonl")
    parser.add_argument("--generator", default="embedded:smollm2")
    parser.add_argument("--passages", type=int, default=20)
    parser.add_argument("--each", type=int, default=3, help="questions a passage (default 3)")
    arguments = begin(parser)
    generator = load_generator(arguments.generator, device="cpu", threads=arguments.threads)
    prompts = _prompts(arguments.questions, arguments.passages, arguments.each)
    first: dict[str, list[float]] = {"nothing kept": [], "passage kept": []}
    whole: dict[str, list[float]] = {name: [] for name in first}
    same = []
    for prompt in prompts:
        answers = []
        generator.forget()
        for name in first:  # the first of the two leaves the passage's states behind
            seconds, text = _answer(generator, prompt)
            first[name].append(1000 * seconds[0])
            whole[name].append(1000 * seconds[1])
            answers.append(text)
        same.append(answers[0] == answers[1])
    a, b = first
    tokens = statistics.mean(generator.count_tokens([prompt.prefix for prompt in prompts]))
    table(
        [f"{len(prompts)} questions, passages of {tokens:.0f} tokens", "first token, ms", "whole answer, ms"],
        [
            *[[name, _middle(first[name]), _middle(whole[name])] for name in first],
            [
                "ratio",
                *(spread([statistics.median(t[a]) / statistics.median(t[b])], 2) for t in (first, whole)),
            ],
            ["the same answer", f"{statistics.mean(same):.3f}", ""],
        ],
    )


def _prompts(questions: Path, passages: int, each: int) -> list[Prompt]:
    known = [q for q in read_questions(questions) if q.answers and q.evidence]
    groups = [list(its) for _, its in groupby(known, key=lambda q: q.evidence)]
    groups = [its[:each] for its in groups if len(its) >= each]
    groups = groups[:: max(1, len(groups) // passages)][:passages]
    return [one_by_one_prompt(q.evidence, q.question) for its in groups for q in its]


def _answer(generator: Generator, prompt: Prompt) -> tuple[tuple[float, float], str]:
    """Seconds to the first piece and to the last, and the text."""
    began, first, text = time.perf_counter(), 0.0, ""
    for piece in generator.stream(prompt, max_tokens=48, stop=("\n",)):
        first = first or time.perf_counter() - began
        text += piece
    seconds = time.perf_counter() - began
    return (first or seconds, seconds), text


def _middle(values: list[float]) -> str:
    """Median and quartiles: the questions differ in length."""
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:,.0f} ({low:,.0f}-{high:,.0f})"


if __name__ == "__main__":
    main()
