"""What tuning on synthetic questions brings, measured on human ones: retriever and generator, several seeds.

Takes a workspace whose questions are written (`fieldstone build … --recipe guide`, `fieldstone synthesize …`)
and tunes from the same examples once a seed, without the gate: what is shown is what a candidate is worth.
The base answers with its own prompt and the usual threshold. Intervals are of 95 %, clustered by document.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Mapping
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fieldstone.answer import System
from fieldstone.evaluate.evaluation import Evaluation, QuestionSet
from fieldstone.evaluate.questions import read_questions
from fieldstone.evaluate.report.files import write_report
from fieldstone.evaluate.run import Judged, judge, measure, passages_shown, summarise
from fieldstone.evaluate.statistics.bootstrap import paired_difference
from fieldstone.models import Encoder
from fieldstone.recipes import choose_settings
from fieldstone.recipes.build import Build
from fieldstone.recipes.tuning import fit_on_dev, generator_rows, retriever_data
from fieldstone.search.embed import embed_beside
from fieldstone.tune.generator import tune_generator
from fieldstone.tune.retriever import tune_retriever
from fieldstone.workspace import open_workspace
from machine import begin

SEARCH = ("recall@1", "recall@5", "MRR@10")
ANSWERS = ("F1", "EM", "citation-accuracy", "refusal-recall", "over-refusal", "seconds")


def main() -> None:
    """Tune once a seed, measure each on the same questions, print the differences to the untuned system."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workspace", type=Path)
    parser.add_argument("questions", type=Path)
    parser.add_argument("--unanswerable", type=Path, help="more questions, without answers")
    parser.add_argument("--seeds", default="0,1,2", help="which, with commas between")
    parser.add_argument("--sample", type=int, default=0, help="answer so many of each file; 0: search only")
    parser.add_argument("--keep", type=Path, help="folder for the tuned models; they are not tuned again")
    parser.add_argument("--report", type=Path, help="also write a report of the answers into this folder")
    parser.add_argument("--set", action="append", default=[], dest="flags")
    arguments = begin(parser)
    workspace = open_workspace(arguments.workspace)
    flags = [f"models.threads={arguments.threads}", *arguments.flags]
    settings = choose_settings("fieldstone", {}, flags=flags)
    build = Build(workspace, (), settings, workspace.library())
    asked, _ = judge(build.library, read_questions(arguments.questions))
    base = build.load_encoder(settings.models.encoder)
    embed_beside(build.library, base)
    before = _searched(build, base, asked)
    _print("untuned", before, before, asked)
    sample = _drawn(asked, arguments.sample)
    if arguments.unanswerable:
        sample += _drawn(judge(build.library, read_questions(arguments.unanswerable))[0], arguments.sample)
    answered = None
    rows_kept: list[Mapping[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        keep = arguments.keep or Path(folder)
        for seed in map(int, arguments.seeds.split(",")):
            build.settings = settings.model_copy(update={"seed": seed})
            into, base_name = keep / f"retriever-{seed}", settings.models.encoder
            tuned = tune_retriever(
                base_name,
                retriever_data(build),
                into,
                settings.retriever,
                seed=seed,
                threads=arguments.threads,
            )
            encoder = build.load_encoder(str(tuned.folder))
            embed_beside(build.library, encoder)
            print(f"\nseed {seed}: retriever, {tuned.steps} steps, {tuned.seconds:.0f} s")
            _print(f"tuned {seed}", before, _searched(build, encoder, asked), asked)
            if not arguments.sample:
                continue
            rows = generator_rows(build, build.examples("train"), seed)
            into, base_name = keep / f"generator-{seed}", settings.models.generator
            made = tune_generator(
                base_name, rows, into, settings.generator, seed=seed,
                dev_score=lambda _: 0.0, threads=arguments.threads,
            )  # fmt: skip
            print(f"seed {seed}: generator, {made.steps} steps, {made.seconds:.0f} s", flush=True)
            if answered is None:
                index = build.open_index(base, generator=build.generator)
                plain = System(index, build.generator, settings)
                answered = measure({"untuned": plain}, sample)
                rows_kept += answered.rows
                _differ(answered, "untuned", answered, sample, ANSWERS)
                _cited(answered, "untuned", before["fused"], sample)
            generator = build.load_generator(str(made.folder))
            system = System(build.open_index(encoder, generator=generator), generator, settings)
            trusted = replace(system, weights=fit_on_dev(build, system))
            print(trusted.weights)
            name = f"tuned {seed}"
            found = measure({name: trusted}, sample)
            _differ(answered, name, found, sample, ANSWERS)
            _cited(found, name, before["fused"], sample)
            rows_kept += [{**row, "system": "tuned", "seed": seed} for row in found.rows]
    if arguments.report and rows_kept:
        whole = summarise(rows_kept, sample, ["untuned", "tuned"])
        shown = {part.name: getattr(whole, part.name) for part in fields(QuestionSet)}
        texts = passages_shown(build.library, rows_kept, settings)
        evaluation = Evaluation(
            **shown | {"passages": texts}, date=datetime.now(UTC), settings=settings.model_dump(mode="json")
        )
        print(f"\nreport: {write_report(arguments.report, evaluation).html}")
        for measure_, test in whole.tests["tuned - untuned"].items():
            print(f"{measure_:<18} p = {test.p:.4f}, {test.wins} won, {test.ties} tied, {test.losses} lost")


def _searched(build: Build, encoder: Encoder, asked: list[Judged]) -> dict[str, QuestionSet]:
    index = build.open_index(encoder)
    found = {}
    for mode in ("dense", "fused"):
        how = build.settings.search.model_copy(update={"mode": mode, "rerank": "none"})
        system = System(index, build.generator, build.settings.model_copy(update={"search": how}))
        found[mode] = measure({mode: system}, asked, ())
    return found


def _print(
    name: str, before: dict[str, QuestionSet], after: dict[str, QuestionSet], asked: list[Judged]
) -> None:
    for mode, old in before.items():
        _differ(old, mode, after[mode], asked, SEARCH, name)


def _differ(
    old: QuestionSet,
    new_name: str,
    new: QuestionSet,
    asked: list[Judged],
    measures: tuple[str, ...],
    title: str = "",
) -> None:
    clusters = [item.question.source or item.question.id for item in asked]
    for name in measures:
        first = [row["measures"].get(name) for row in old.rows]
        second = [row["measures"].get(name) for row in new.rows]
        difference = paired_difference(second, first, clusters)
        value = new.systems[new_name].get(name)
        if difference is None or value is None:
            continue
        print(
            f"{title or new_name:<10} {new_name:<8} {name:<18} {value.value:6.3f}  {difference.value:+.3f} "
            f"({difference.low:+.3f} … {difference.high:+.3f})  n = {difference.n}",
            flush=True,
        )


def _cited(found: QuestionSet, name: str, fused: QuestionSet, sample: list[Judged]) -> None:
    """Citation accuracy against the first passage of the untuned fused search, where it answers."""
    first = {row["id"]: row["measures"].get("recall@1") for row in fused.rows}
    cited = [row["measures"].get("citation-accuracy") for row in found.rows]
    top = [None if c is None else first.get(row["id"]) for c, row in zip(cited, found.rows, strict=True)]
    clusters = [item.question.source or item.question.id for item in sample]
    difference = paired_difference(cited, top, clusters)
    if difference is not None:
        print(
            f"{name:<10} cites better than the fused search's first passage: {difference.value:+.3f} "
            f"({difference.low:+.3f} … {difference.high:+.3f})  n = {difference.n}",
            flush=True,
        )


def _drawn(asked: list[Judged], most: int) -> list[Judged]:
    places = sorted(random.Random(0).sample(range(len(asked)), min(most, len(asked))))
    return [asked[place] for place in places]


if __name__ == "__main__":
    main()
