"""FedRAG's experiment: RALT on WebQuestions over the passages of a workspace, MMLU before and after.

RALT (RA-DIT, Lin et al. 2024): the generator learns the answer after each passage that the search finds,
right or wrong. Then the letters of MMLU's options are scored by their log-probability, with passages of the
same workspace before each question. Once a seed: which questions are learnt, and in what order. Printed are
accuracy before, after each seed, the mean and standard deviation over seeds, and the difference with its
95 % interval over questions.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

from fieldstone.evaluate.benchmarks import read_benchmark
from fieldstone.evaluate.benchmarks.benchmark import Benchmark
from fieldstone.evaluate.statistics.bootstrap import bootstrap_mean, paired_difference
from fieldstone.evaluate.systems.alone import ask_alone
from fieldstone.models import Generator, load_generator
from fieldstone.recipes import choose_settings
from fieldstone.records import Example
from fieldstone.search import Index, search
from fieldstone.search.open import open_index
from fieldstone.settings import Settings
from fieldstone.tune.generator import tune_generator
from fieldstone.tune.generator.lessons import lessons, look_up
from fieldstone.workspace import open_workspace
from machine import begin, data, table


def main() -> None:
    """Measure, tune once a seed, measure again, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workspace", type=Path)
    data(parser, "train", "webquestions/webquestions_train.jsonl")
    data(parser, "mmlu", "mmlu/mmlu_global_facts.jsonl")
    parser.add_argument("--rows", type=int, default=1000, help="questions learnt, drawn once a seed")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--questions", type=int, default=0, help="of MMLU, the first so many; 0: all")
    parser.add_argument("--shots", type=int, default=5, help="examples before a question of MMLU, 0 to 5")
    parser.add_argument("--passages", type=int, default=2, help="before a question of MMLU; 0: closed book")
    parser.add_argument("--generator", default="embedded:smollm2")
    parser.add_argument("--set", dest="flags", action="append", default=[], metavar="NAME=VALUE")
    arguments = begin(parser)
    workspace = open_workspace(arguments.workspace)
    encoder = workspace.stored_settings().get("models", {}).get("encoder", "embedded:minilm")
    flags = [f"models.threads={arguments.threads}", f"models.encoder={encoder}"]
    flags += [f"models.generator={arguments.generator}", *arguments.flags]
    settings = choose_settings("ra-dit", {}, flags=flags)
    learnt = read_benchmark("webquestions", arguments.train)
    asked = read_benchmark("mmlu", arguments.mmlu)
    asked = replace(
        asked,
        questions=asked.questions[: arguments.questions or None],
        shots={subject: its[: arguments.shots] for subject, its in asked.shots.items()},
    )
    index = open_index(workspace, settings)
    background = _background(index, asked, settings, arguments.passages)
    before = _accuracy(load_generator(arguments.generator, threads=arguments.threads), asked, background)
    rows = [["before", f"{statistics.fmean(before):.3f}", "", ""]]
    after = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(arguments.seeds):
            tuned, steps = _tuned(index, learnt, settings, arguments.rows, seed, Path(folder) / str(seed))
            after.append(_accuracy(tuned, asked, background))
            rows.append([f"after, seed {seed}", f"{statistics.fmean(after[-1]):.3f}", "", f"{steps} steps"])
    runs = [statistics.fmean(values) for values in after]
    deviation = statistics.stdev(runs) if len(runs) > 1 else 0.0
    names = [question.id for question in asked.questions]
    mean = [statistics.fmean(values) for values in zip(*after, strict=True)]
    whole, change = bootstrap_mean(mean, names), paired_difference(mean, before, names)
    assert whole is not None
    assert change is not None
    rows += [
        [f"after, {len(runs)} seeds", f"{whole.value:.3f}", f"{whole.low:.3f} {whole.high:.3f}",
         f"deviation {deviation:.3f}"],
        ["after - before", f"{change.value:+.3f}", f"{change.low:+.3f} {change.high:+.3f}", ""],
    ]  # fmt: skip
    table([f"accuracy of {len(names)} questions", "mean", "95 % interval", ""], rows)


def _background(index: Index, asked: Benchmark, settings: Settings, most: int) -> dict[str, list[str]]:
    """Question id -> the texts of the passages that the search finds for it."""
    if not most:
        return {}
    hits = search(index, [question.question for question in asked.questions], settings.search, most)
    texts = index.library.passage_texts()
    return {
        question.id: [texts[hit.passage.id] for hit in its]
        for question, its in zip(asked.questions, hits, strict=True)
    }


def _accuracy(generator: Generator, asked: Benchmark, background: dict[str, list[str]]) -> list[float]:
    found = ask_alone(generator, "mmlu", asked, asked.questions, background=background)
    return [row["measures"]["accuracy"] for row in found.rows]


def _tuned(
    index: Index, learnt: Benchmark, settings: Settings, rows: int, seed: int, into: Path
) -> tuple[Generator, int]:
    """The generator after RALT on so many of the questions, and its steps."""
    drawn = random.Random(seed).sample(learnt.questions, min(rows, len(learnt.questions)))
    examples = [Example(q.id, q.question, q.answers[0], None, origin="human") for q in drawn]
    found = look_up(index, examples, settings)
    shown = lessons(
        examples, index.library.passage_texts(), settings.answer.reading, settings.generator,
        settings.answer.passages, seed, found,
    )  # fmt: skip
    models = settings.models
    made = tune_generator(
        models.generator, shown, into, settings.generator, dev_score=lambda _: 0.0, seed=seed,
        device=models.device, threads=models.threads or None,
    )  # fmt: skip
    return load_generator(str(made.folder), device=models.device, threads=models.threads or None), made.steps


if __name__ == "__main__":
    main()
