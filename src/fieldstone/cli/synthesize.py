"""`fieldstone synthesize`."""

from __future__ import annotations

import json as json_
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fieldstone.cli.options import Json, Questions, Quiet, Ray, Set, WorkspacePath

if TYPE_CHECKING:
    from fieldstone.library import Library
    from fieldstone.workspace import Workspace

FEW = 5
"""One unanswerable and one rejected question are shown with so many accepted ones."""


def synthesize(
    ctx: typer.Context,
    workspace: WorkspacePath,
    sample: Annotated[
        int,
        typer.Option("--show", metavar="N", min=0, help="Show so many of the questions, to judge them by."),
    ] = 0,
    questions: Questions = None,
    changes: Set = None,
    ray: Ray = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Write questions with answers from the passages of a workspace.

    They are what `fieldstone tune` trains on and is measured with. Passages that were asked about before
    are not asked again. Settings are kept in the workspace.
    """
    from fieldstone import recipes
    from fieldstone.cli import progress
    from fieldstone.cli.options import machines, questions_in, settings_of
    from fieldstone.cli.output import show, show_json
    from fieldstone.workspace import open_workspace

    opened = open_workspace(workspace)
    teach, settings = questions_in(questions), settings_of(opened, changes)
    with machines(ray) as (loader, spread), progress.shown(quiet or ctx.obj or json) as told:
        built = recipes.run_steps(
            ["synthesize"], opened, settings, told, teach=teach, loader=loader, spread=spread
        )
    facts = built.made["synthesize"]
    drawn = draw(opened, sample)
    if json:
        counts = {name: facts[name] for name in ("passages", "asked", "examples", "unanswerable", "rejected")}
        show_json({"workspace": str(opened.path), **counts, "shown": drawn})
        return
    show(in_numbers(facts))
    for reason, number in facts["rejected"].items():
        show(f"{number:>7,}  {reason}", indent=2, style="dim")
    for kind, examples in drawn.items():
        _show_examples(kind, examples)
    show()
    show(f"Read them all in {opened.path / 'examples'}; then:  fieldstone tune {quote(str(workspace))}")


def in_numbers(facts: Mapping[str, Any]) -> str:
    """What the step `synthesize` made, in one line."""
    examples, rejected = facts["examples"], sum(facts["rejected"].values())
    shares = ", ".join(f"{number:,} {split}" for split, number in examples.items())
    total = sum(examples.values())
    return f"Questions: {total:,} ({shares}), {facts['unanswerable']:,} unanswerable; {rejected:,} rejected"


def draw(workspace: Workspace, number: int) -> dict[str, list[dict[str, Any]]]:
    """So many accepted examples of the training split and a few of the others, evenly, as JSON has them."""
    from fieldstone.examples import read_examples

    folder = workspace.path / "examples"
    train = [asdict(example) for example in read_examples(folder / "train.jsonl")]
    few = -(-number // FEW)
    refused = folder / "rejected.jsonl"
    lines = refused.read_text(encoding="utf-8").splitlines() if few and refused.exists() else []
    drawn = {
        "accepted": _evenly([e for e in train if e["kind"] == "answerable"], number),
        "unanswerable": _evenly([e for e in train if e["kind"] == "unanswerable"], few),
        "rejected": [json_.loads(line) for line in _evenly(lines, few)],
    }
    library = workspace.library()
    places = _places(library, {_about(example) for its in drawn.values() for example in its})
    library.close()
    return {
        kind: [{**example, "place": places.get(_about(example), "")} for example in its]
        for kind, its in drawn.items()
        if its
    }


def _evenly(rows: Sequence[Any], number: int) -> list[Any]:
    """So many of the rows, as far apart as can be."""
    number = min(number, len(rows))
    return [rows[i * len(rows) // number] for i in range(number)]


def _about(example: Mapping[str, Any]) -> str:
    """The passage that a question was written about; one without an answer names it as the nearest."""
    return str(example["passage_id"] or next(iter(example["negatives"]), ""))


def _places(library: Library, ids: set[str]) -> dict[str, str]:
    from fieldstone.cli.output import place

    passages = library.passages(sorted(ids))
    sources = library.sources({p.document_id for p in passages})
    return {p.id: place(sources[p.document_id][0], p.headings, p.page) for p in passages}


def _show_examples(kind: str, examples: Sequence[Mapping[str, Any]]) -> None:
    from rich.text import Text

    from fieldstone.cli.output import one_line, show

    show()
    show(f"{kind.capitalize()}, {len(examples)} of them", style="bold")
    for example in examples:
        show(one_line(example["question"]), indent=4, mark=" -")
        if example["answer"]:
            show(Text.assemble("= ", (one_line(example["answer"]), "green")), indent=4)
        if "reason" in example:
            show(one_line(example["reason"]), indent=4, style="yellow")
        if example["place"]:
            show(example["place"], indent=4, style="cyan")
