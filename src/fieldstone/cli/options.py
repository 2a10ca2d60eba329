"""The arguments and options that several commands share, and what they stand for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from fieldstone.evaluate.questions import Question
    from fieldstone.models import Loader
    from fieldstone.search import Filter
    from fieldstone.settings import Settings
    from fieldstone.spread import Spread
    from fieldstone.workspace import Workspace

WorkspacePath = Annotated[
    Path,
    typer.Argument(metavar="WORKSPACE", help="The folder that `fieldstone build` made.", show_default=False),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on standard output.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Change a setting, such as search.mode=dense. May be given again.",
        show_default=False,
    ),
]
Questions = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Your own questions, to train and to judge by with those that are written.",
        show_default=False,
    ),
]
Measure = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Questions that are only measured with, before and after.",
        show_default=False,
    ),
]
Reports = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Where the report goes. Without it: WORKSPACE/reports, or ./reports where there is none.",
        show_default=False,
    ),
]
Force = Annotated[
    bool, typer.Option("--force", help="Take what was tuned into use even if it does not win; recorded.")
]
Ray = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="ADDRESS",
        help="Work on the machines of a Ray: HOST:PORT of its head, `auto` for the one that runs here, or "
        "`local` to start one on this machine alone.",
        show_default=False,
    ),
]
Source = Annotated[
    str | None,
    typer.Option(metavar="GLOB", help="Only documents with such a path: 'tariffs/*'.", show_default=False),
]
Type = Annotated[
    str | None,
    typer.Option(
        "--type", metavar="SUFFIX", help="Only documents of this type: pdf, docx, md …", show_default=False
    ),
]
Since = Annotated[
    str | None,
    typer.Option(
        metavar="DATE",
        help="Only documents of this day, month or year, or later: 2025, 2025-03, 2025-03-31.",
        show_default=False,
    ),
]
Until = Annotated[
    str | None,
    typer.Option(
        metavar="DATE", help="Only documents of this day, month or year, or earlier.", show_default=False
    ),
]
Mode = Annotated[
    Literal["dense", "lexical", "fused"] | None,
    typer.Option(help="Search by meaning, by words, or by both.", show_default=False),
]
Rerank = Annotated[
    Literal["none", "likelihood", "cross-encoder"] | None,
    typer.Option(
        help="Look at the best again: not at all, by how likely the generator finds the question after "
        "each, or with the reranker of the settings.",
        show_default=False,
    ),
]


def settings_of(
    workspace: Workspace,
    changes: list[str] | None = None,
    *,
    mode: str | None = None,
    rerank: str | None = None,
    reading: str | None = None,
) -> Settings:
    """The settings of a workspace with what the options of this call change."""
    from fieldstone.recipes import choose_settings

    named = {"search.mode": mode, "search.rerank": rerank, "answer.reading": reading}
    flags = [f"{name}={value}" for name, value in named.items() if value is not None]
    return choose_settings(None, workspace.stored_settings(), flags=[*(changes or ()), *flags])


@contextmanager
def machines(ray: str | None) -> Iterator[tuple[Loader, Spread]]:
    """What loads the models and where the work is done: here, or on the machines of the Ray at an address."""
    from fieldstone import models
    from fieldstone.spread import here

    if ray is None:
        yield models, here
        return
    from fieldstone.over_ray import connected

    with connected(ray) as its:
        yield its, its.spread


def questions_in(file: Path | None) -> list[Question]:
    """The questions of a file; none where no file is given."""
    from fieldstone.evaluate.questions import read_questions

    return read_questions(file) if file else []


def filter_of(source: str | None, type_: str | None, since: str | None, until: str | None) -> Filter:
    """The filter that the options describe."""
    from fieldstone.search import Filter

    return Filter(source, type_.lower().removeprefix(".") if type_ else None, since, until)
