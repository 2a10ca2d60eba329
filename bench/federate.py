"""Does a federation come near to pooling the documents, and what does it cost? Asked of other articles.

The twelve articles of SQuAD's train slice are divided among three sites, evenly or by topic; each learns from
the human questions about its own. Compared on human questions about the eight articles of SQuAD's dev slice,
from which nobody has learnt: no tuning; each site alone; federated; centralised, all articles in one place.
Alone and centralised get as many epochs as all rounds together. An arm that is done is kept in `--into`. With
`--again epsilon=8`, or any setting of `federate`, the federated arm is run once more so; with `--flower` over
Flower, each site a process on loopback, without and with secure sums; that needs an environment with flwr.

Measured is the rank of the passage in the dense search; with `--set federate.part=generator` token F1 of the
answers that are read out of that passage. Intervals are of 95 %, clustered by article.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fieldstone.atomic import write_json
from fieldstone.evaluate.measures.answering import token_f1
from fieldstone.evaluate.questions import Question, read_questions
from fieldstone.evaluate.run import Judged, judge, measure
from fieldstone.evaluate.statistics.bootstrap import bootstrap_mean, paired_difference
from fieldstone.examples import write_examples
from fieldstone.federate import parts
from fieldstone.federate.messages import Plan, read_weights, size
from fieldstone.federate.simulate import simulate
from fieldstone.prompts import one_by_one_prompt, parse_one_by_one
from fieldstone.recipes import choose_settings, load_recipe, run
from fieldstone.recipes.build import Build
from fieldstone.records import Example, fingerprint
from fieldstone.search.embed import embed_beside
from fieldstone.settings import Settings
from fieldstone.tune.generator.weights import weights_folder
from fieldstone.workspace import Workspace, create_workspace
from machine import begin
from over_flower import over_flower

ADAPTER = (
    "retriever.loss=contrastive",
    "retriever.method=adapter",
    "retriever.towers=query",
    "retriever.negatives=0",
)


def main() -> None:
    """Build both workspaces once, run every arm that is not there yet, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--into", type=Path, required=True, help="folder for workspaces, models and results")
    parser.add_argument("--seeds", default="0,1,2", help="which, with commas between")
    parser.add_argument("--divisions", default="even,skewed")
    parser.add_argument("--rows", type=int, default=0, help="questions to learn from, at most; 0: all")
    parser.add_argument("--asked", type=int, default=0, help="held-out questions, at most; 0: all")
    parser.add_argument("--again", action="append", default=[], help="run again with this, as epsilon=8")
    parser.add_argument("--flower", action="store_true", help="run again over Flower, and with secure sums")
    parser.add_argument("--set", action="append", default=[], dest="flags")
    given = begin(parser)
    given.flags = [f"models.threads={given.threads}", *ADAPTER, "federate.personal=false", *given.flags]
    settings = choose_settings("guide", {}, flags=given.flags)
    train = _train(given.data / "squad", given.into, settings, given.rows)
    held, asked = _held(given.data, given.into, settings, given.asked)
    arms: dict[str, Callable[[], list[float]]] = {"no tuning": lambda: _measured(held, asked, settings, None)}
    for seed in given.seeds.split(","):
        for division in given.divisions.split(","):
            arms |= _arms(train, held, asked, settings, given, int(seed), division == "skewed")
    print(f"learnt from {_lines(train)} questions, asked {len(asked)}; {settings.federate.model_dump()}\n")
    found = {name: _kept(given.into / "results" / f"{name}.json", arm) for name, arm in arms.items()}
    _print(found, [item.question.source for item in asked])


def _arms(
    train: Workspace,
    held: Build,
    asked: Sequence[Judged],
    settings: Settings,
    given: Any,
    seed: int,
    skewed: bool,
) -> dict[str, Callable[[], list[float]]]:
    """Name -> what it measures. Sites alone learn where the federated arm has divided the documents."""
    kind, rounds = "skewed" if skewed else "even", settings.federate.rounds
    seeded = settings.model_copy(update={"seed": seed})

    def place(name: str) -> Path:
        return given.into / f"{kind}-{seed}" / name

    def federated(name: str, change: str = "") -> list[float]:
        key, _, value = change.partition("=")
        changed = type(seeded.federate)(**seeded.federate.model_dump() | ({key: value} if key else {}))
        how = seeded.model_copy(update={"federate": changed})
        began = time.monotonic()
        outcome, _ = simulate(train, how, place(name), 3, skewed=skewed)
        weights = read_weights(outcome.weights)
        seconds = [its.seconds for its in outcome.rounds]
        print(
            f"{name} {kind} {seed}: {size(weights):,} bytes to a site and back each round, "
            f"all weights {_whole(how):,}; "
            f"{sum(seconds) / len(seconds):.1f} s a round, {time.monotonic() - began:.0f} s in all; epsilon "
            f"{outcome.rounds[-1].epsilon}; from the mean of products {outcome.rounds[-1].stacking}",
            flush=True,
        )
        return _measured(held, asked, how, weights)

    def flower(name: str, secure: bool) -> list[float]:
        sites = [place("federated") / f"site-{number}" for number in (1, 2, 3)]
        changes = [*given.flags, f"seed={seed}", "federate.sites=3", f"federate.secure={str(secure).lower()}"]
        told = over_flower(sites, changes, place(name))
        seconds = [its["seconds"] for its in told["rounds"]]
        print(
            f"{name} {kind} {seed}: {told['rounds'][-1]['sent']:,} bytes out and "
            f"{told['rounds'][-1]['received']:,} in a round; {sum(seconds) / len(seconds):.1f} s a round",
            flush=True,
        )
        return _measured(held, asked, seeded, read_weights(Path(told["weights"])))

    def alone(workspace: Callable[[], Workspace], name: str) -> list[float]:
        plan = Plan(
            run=fingerprint(name), base="", seed=seed,
            federate=seeded.federate.model_copy(update={"epochs": seeded.federate.epochs * rounds}),
            retriever=seeded.retriever, generator=seeded.generator,
        )  # fmt: skip
        where = workspace()
        build = Build(where, (), plan.over(seeded), where.library())
        weights, _ = parts.tune(build, parts.start(seeded), place(name) / "tuned", 1)
        build.library.close()
        return _measured(held, asked, seeded, weights)

    def site(number: int) -> Workspace:
        return Workspace(place("federated") / f"site-{number}")

    arms = {f"federated, {kind}, {seed}": lambda: federated("federated")}
    for number in (1, 2, 3):
        arms[f"site {number} alone, {kind}, {seed}"] = lambda n=number: alone(lambda: site(n), f"alone-{n}")
    arms[f"centralised, {seed}"] = lambda: alone(lambda: train, "centralised")
    for change in given.again:
        arms[f"{change}, {kind}, {seed}"] = lambda its=change: federated(its, its)
    if given.flower:
        arms[f"over Flower, {kind}, {seed}"] = lambda: flower("flower", False)
        arms[f"secure sums, {kind}, {seed}"] = lambda: flower("secure", True)
    return arms


def _whole(settings: Settings) -> int:
    """The bytes of all weights of what is tuned."""
    if settings.federate.part == "generator":
        folder = weights_folder(settings.models.generator)
        return sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    how = settings.retriever.model_copy(update={"method": "full", "towers": "both"})
    return size(parts.start(settings.model_copy(update={"retriever": how})))


def _train(squad: Path, into: Path, settings: Settings, rows: int) -> Workspace:
    """A workspace of the twelve articles, a document each, and the human questions about them to learn."""
    workspace = Workspace(into / "train")
    if workspace.settings_file.exists() and (workspace.path / "examples" / "train.jsonl").exists():
        return workspace
    articles: dict[str, list[str]] = defaultdict(list)
    texts, titles = {}, {}
    for line in (squad / "squad_train_passages.jsonl").read_text(encoding="utf-8").splitlines():
        passage = json.loads(line)
        articles[passage["title"]].append(passage["text"])
        texts[passage["id"]], titles[passage["id"]] = passage["text"], passage["title"]
    folder = into / "articles"
    folder.mkdir(parents=True, exist_ok=True)
    for title, its in articles.items():
        (folder / f"{_name(title)}.txt").write_text("\n\n".join(its), encoding="utf-8")
    run(load_recipe("guide"), folder, create_workspace(workspace.path), settings)
    questions = []
    for line in (squad / "squad_train_slice.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        about = row["passage_id"]
        questions.append(
            Question(
                str(row["id"]),
                row["question"],
                tuple(row["answers"]),
                f"{_name(titles[about])}.txt",
                texts[about],
            )
        )
    if rows:
        questions = random.Random(0).sample(questions, min(rows, len(questions)))
    library = workspace.library()
    judged, _ = judge(library, questions)
    library.close()
    examples = [
        Example(
            item.question.id, item.question.question, item.question.answers[0], min(item.relevant[0]), (),
            "answerable", "human",
        )
        for item in judged
        if item.relevant
    ]  # fmt: skip
    for split, its in (("dev", []), ("test", []), ("train", examples)):
        write_examples(workspace.path / "examples" / f"{split}.jsonl", its)
    return workspace


def _held(data: Path, into: Path, settings: Settings, most: int) -> tuple[Build, list[Judged]]:
    """The eight other articles, and the questions about them."""
    workspace = Workspace(into / "held-out")
    if not workspace.settings_file.exists():
        folder = data / "documents" / "squad8_txt"
        run(load_recipe("guide"), folder, create_workspace(workspace.path), settings)
    build = Build(workspace, (), settings, workspace.library())
    asked, _ = judge(build.library, read_questions(data / "squad" / "squad8_questions.jsonl"))
    places = sorted(random.Random(0).sample(range(len(asked)), min(most or len(asked), len(asked))))
    return build, [asked[place] for place in places]


def _measured(held: Build, asked: Sequence[Judged], settings: Settings, weights: Any) -> list[float]:
    """Reciprocal rank of each question's passage in the dense search, or token F1 of each answer from it."""
    from fieldstone.answer import System

    part, name = settings.federate.part, ""
    if weights is not None:
        folder = held.workspace.path / "measured"
        parts.write(weights, settings, folder)
        name = str(folder)
    if part == "generator":
        generator = held.load_generator(name) if name else held.generator
        prompts = [one_by_one_prompt(its.question.evidence, its.question.question) for its in asked]
        replies = generator.generate(prompts, max_tokens=settings.answer.max_tokens, stop=("\n",))
        return [
            token_f1(parse_one_by_one(reply.text), its.question.answers)
            for reply, its in zip(replies, asked, strict=True)
        ]
    encoder = held.load_encoder(name or settings.models.encoder)
    embed_beside(held.library, encoder)
    search = settings.search.model_copy(update={"mode": "dense", "rerank": "none"})
    how = settings.model_copy(update={"search": search})
    system = System(held.open_index(encoder), held.generator, how)
    return [row["measures"]["MRR@10"] for row in measure({"s": system}, asked, ()).rows]


def _kept(path: Path, arm: Callable[[], list[float]]) -> list[float]:
    if not path.exists():
        write_json(path, arm())
    found: list[float] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _print(found: dict[str, list[float]], clusters: Sequence[str]) -> None:
    """Each arm and its difference to no tuning; then the means over seeds and sites, federated less them."""
    groups: dict[str, list[list[float]]] = defaultdict(list)
    for name, values in found.items():
        _row(name, values, found["no tuning"], clusters)
        kind = name.rpartition(", ")[0] or name
        groups["sites alone" + kind[12:] if kind.startswith("site ") else kind].append(values)
    means = {
        kind: [sum(its) / len(its) for its in zip(*values, strict=True)] for kind, values in groups.items()
    }
    print()
    for kind, values in means.items():
        _row(f"mean of {kind}", values, means["no tuning"], clusters)
        division = kind.rpartition(", ")[2]
        if f"sites alone, {division}" in means and not kind.startswith("sites alone"):
            _row("  against centralised", values, means["centralised"], clusters)
            _row("  against sites alone", values, means[f"sites alone, {division}"], clusters)


def _row(name: str, values: Sequence[float], other: Sequence[float], clusters: Sequence[str]) -> None:
    its, difference = bootstrap_mean(values, clusters), paired_difference(values, other, clusters)
    assert its is not None
    assert difference is not None
    print(
        f"{name:<34} {its.value:.4f}  {difference.value:+.4f} "
        f"({difference.low:+.4f} … {difference.high:+.4f})",
        flush=True,
    )


def _name(title: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in title)


def _lines(workspace: Workspace) -> int:
    return len((workspace.path / "examples" / "train.jsonl").read_bytes().splitlines())


if __name__ == "__main__":
    main()
