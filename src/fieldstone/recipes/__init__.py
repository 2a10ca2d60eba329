"""Recipes: ordered steps with their settings, and the few lines that run them."""

from __future__ import annotations

import time
import tomllib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from glob import escape
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fieldstone import models
from fieldstone.errors import SettingsError
from fieldstone.examples import write_lines
from fieldstone.models import Loader
from fieldstone.progress import Progress, silent
from fieldstone.read.add import Added, add_files, remove_sources
from fieldstone.read.resources import Server, add_resources
from fieldstone.recipes.build import Build
from fieldstone.recipes.trackers import check_tracker
from fieldstone.settings import Settings, resolve_settings, write_settings_file
from fieldstone.spread import Spread, here
from fieldstone.workspace import Workspace

if TYPE_CHECKING:
    from fieldstone.evaluate.questions import Question

DEFAULT = "fieldstone"

SIZES = ("tiny", "small", "base")

UPKEEP = ("read", "split", "index")
"""The steps that bring a workspace up to date with its files, whatever the recipe does besides."""


TUNING = ("tune-retriever", "tune-generator", "prefer", "search-rl")
"""The steps that make candidates."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a recipe does, where it comes from, what it costs; its steps in order, its settings as a tree.

    `sizes` holds the settings that differ by size: models, ranks, batches.
    """

    name: str
    summary: str
    source: str
    cost: str
    steps: tuple[str, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    sizes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def recipes() -> list[Recipe]:
    """All recipes, by name."""
    folder = files(__name__)
    names = sorted(f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml"))
    return [load_recipe(name) for name in names]


def load_recipe(name: str) -> Recipe:
    """The recipe of that name, or the TOML file at that path. Raises SettingsError."""
    file = Path(name) if name.endswith(".toml") else files(__name__) / f"{name}.toml"
    if not file.is_file():
        raise SettingsError(f"there is no recipe {name!r}; type: fieldstone recipes")
    try:
        data = tomllib.loads(file.read_text(encoding="utf-8"))
        steps = tuple(str(step["step"]) for step in data["steps"])
        recipe = Recipe(
            name,
            data["summary"],
            data["source"],
            data["cost"],
            steps,
            data.get("settings", {}),
            data.get("sizes", {}),
        )
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise SettingsError(f"recipe {name}: {error!r}; compare it with guide.toml") from None
    if unknown := [step for step in steps if step not in STEPS]:
        raise SettingsError(f"recipe {name} has no known step {unknown[0]!r}; known: {', '.join(STEPS)}")
    return recipe


@dataclass(frozen=True, slots=True)
class Built:
    """What became of the files, and what each step said of itself, as the journal keeps it."""

    added: Added
    made: Mapping[str, Mapping[str, Any]]


def choose_settings(
    recipe: str | None,
    stored: Mapping[str, Any],
    environment: Mapping[str, str] | None = None,
    flags: Iterable[str] = (),
    size: str | None = None,
) -> Settings:
    """The settings to work with: the recipe's, then those of the workspace, the environment, the flags.

    Those of the workspace count when they come of the same recipe and size, or when none is asked for.
    Raises SettingsError for a size that the recipe does not know.
    """
    name = recipe or str(stored.get("recipe", DEFAULT))
    wanted = load_recipe(name)
    same = stored.get("recipe", name) == name and size in (None, stored.get("size"))
    kept = stored if same else {}
    if size is not None and size not in wanted.sizes:
        known = ", ".join(wanted.sizes) or "none"
        raise SettingsError(f"recipe {name} has no size {size!r}; its sizes: {known}")
    flags = tuple(flags)
    if named := [flag for flag in flags if flag.startswith("size=")]:
        raise SettingsError(f"{named[0]} would change the name alone; type --size {named[0][5:]} instead")
    chosen = size or str(kept.get("size", "")) or next(iter(wanted.sizes), "")
    layers = (wanted.settings, wanted.sizes.get(chosen, {}), kept, {"recipe": name, "size": chosen})
    return resolve_settings(*layers, environment=environment, flags=flags)


def run(
    recipe: Recipe,
    folder: Path,
    workspace: Workspace,
    settings: Settings,
    progress: Progress = silent,
    *,
    teach: Sequence[Question] = (),
    questions: Sequence[Question] = (),
    force: bool = False,
    loader: Loader = models,
    spread: Spread = here,
) -> Built:
    """Run the steps of a recipe over a folder; each does only what is still to do.

    What follows `progress` as in `Build`. Raises ReadError, WorkspaceError, ModelError, ClusterError; what
    was done until then stays, and the next run goes on.
    """
    return _run(
        recipe.steps, (folder,), workspace, settings, progress, teach, questions, force, None, loader, spread
    )


def run_steps(
    steps: Sequence[str],
    workspace: Workspace,
    settings: Settings,
    progress: Progress = silent,
    *,
    teach: Sequence[Question] = (),
    questions: Sequence[Question] = (),
    force: bool = False,
    loader: Loader = models,
    spread: Spread = here,
) -> Built:
    """Run these steps over what a workspace holds already; each does only what is still to do."""
    return _run(steps, (), workspace, settings, progress, teach, questions, force, None, loader, spread)


def update(
    workspace: Workspace,
    settings: Settings,
    paths: Sequence[Path | Server],
    progress: Progress = silent,
    only: Collection[Path] | None = None,
    loader: Loader = models,
    spread: Spread = here,
) -> Built:
    """Bring a workspace up to date with these files, folders and MCP servers, by the steps of its upkeep.

    With `only`, as in `add_files`, nothing else in them is looked at. `loader` and `spread` as in `Build`.
    """
    steps = [step for step in load_recipe(settings.recipe).steps if step in UPKEEP]
    return _run(steps, paths, workspace, settings, progress, only=only, loader=loader, spread=spread)


def remove(workspace: Workspace, sources: Collection[str]) -> tuple[str, ...]:
    """Take these files, or all below these folders, out of a workspace; returns which they were."""
    from fieldstone.search.lexical import LexicalIndex

    with workspace.writing():
        library = workspace.library()
        try:
            began = time.perf_counter()
            gone = remove_sources(library, sources)
            LexicalIndex(workspace.cache / "lexical", library).refresh()
            if gone:
                workspace.journal("remove", seconds=round(time.perf_counter() - began, 3), removed=len(gone))
        finally:
            library.close()
    return gone


def _run(
    steps: Sequence[str],
    paths: Sequence[Path | Server],
    workspace: Workspace,
    settings: Settings,
    progress: Progress,
    teach: Sequence[Question] = (),
    questions: Sequence[Question] = (),
    force: bool = False,
    only: Collection[Path] | None = None,
    loader: Loader = models,
    spread: Spread = here,
) -> Built:
    check_tracker(settings.report_to)
    with workspace.writing():
        library = workspace.library()
        try:
            build = Build(
                workspace,
                paths,
                settings,
                library,
                progress,
                teach=_kept(workspace, "yours", teach),
                questions=_kept(workspace, "measured", questions),
                force=force,
                only=only,
                loader=loader,
                spread=spread,
            )
            for step in steps:
                began = time.perf_counter()
                build.made[step] = STEPS[step](build)
                workspace.journal(step, seconds=round(time.perf_counter() - began, 3), **build.made[step])
                if step == UPKEEP[-1]:  # from here on it can be asked, whatever becomes of the tuning
                    write_settings_file(workspace.settings_file, settings)
            write_settings_file(workspace.settings_file, settings)
        finally:
            library.close()
    return Built(build.added, build.made)


def _kept(workspace: Workspace, name: str, given: Sequence[Question]) -> Sequence[Question]:
    """The questions given, kept for the builds to come; those kept before where none are given."""
    from fieldstone.evaluate.questions import read_questions

    path = workspace.path / "examples" / f"{name}.jsonl"
    if given:
        write_lines(path, (asdict(question) for question in given))
    return given or (read_questions(path) if path.exists() else ())


def _read(build: Build) -> dict[str, Any]:
    added = build.added
    for path in build.paths:
        if isinstance(path, Server):
            added = _joined(
                added, add_resources(build.library, path, build.settings.read, build.progress, build.spread)
            )
            continue
        settings, ours = build.settings.read, build.workspace.path.resolve()
        if ours.is_relative_to(folder := path.resolve()):  # what we write is not what we read
            own = escape(ours.relative_to(folder).as_posix())
            settings = settings.model_copy(update={"exclude": (*settings.exclude, own)})
        added = _joined(
            added, add_files(build.library, path, settings, build.progress, build.only, build.spread)
        )
    build.added = added
    return {
        "paths": [p.address if isinstance(p, Server) else str(p.resolve()) for p in build.paths],
        "settings": build.settings.read.model_dump(mode="json"),
        "read": len(added.read),
        "unchanged": added.unchanged,
        "removed": len(added.removed),
        "unread": len(added.unread),
        "skipped": len(added.skipped),
    }


def _joined(a: Added, b: Added) -> Added:
    return Added(
        a.read + b.read,
        a.unchanged + b.unchanged,
        a.removed + b.removed,
        a.unread + b.unread,
        a.skipped + b.skipped,
        a.warnings + b.warnings,
    )


def _split(build: Build) -> dict[str, Any]:
    from fieldstone.split import split_library

    if build.finished():
        return {"settings": build.settings.split.model_dump(mode="json"), "passages": 0}
    made = split_library(build.library, build.encoder, build.settings.split, build.progress, build.spread)
    return {"settings": build.settings.split.model_dump(mode="json"), "passages": made}


def _index(build: Build) -> dict[str, Any]:
    from fieldstone.search.embed import embed_library
    from fieldstone.search.lexical import LexicalIndex

    embedded = 0
    if not build.finished():
        embedded = embed_library(build.library, build.encoder, build.progress, build.spread)
        build.library.set_meta("made by", build.made_by)
    LexicalIndex(build.workspace.cache / "lexical", build.library).refresh()
    return {
        "encoder": build.settings.models.encoder,
        "fingerprint": build.library.meta("encoder"),
        "embedded": embedded,
        "library": asdict(build.library.counts()),
    }


def _later(name: str, module: str = "tuning") -> Callable[[Build], dict[str, Any]]:
    """A step of a module beside this one, which is imported when it is run."""

    def step(build: Build) -> dict[str, Any]:
        done: dict[str, Any] = getattr(import_module(f"{__name__}.{module}"), name)(build)
        return done

    return step


STEPS: dict[str, Callable[[Build], dict[str, Any]]] = {
    "read": _read,
    "split": _split,
    "index": _index,
    "instruct": _later("instruct", "instruct"),
    "synthesize": _later("synthesize"),
    "tune-retriever": _later("tune_retriever"),
    "tune-reranker": _later("tune_reranker", "reranking"),
    "tune-generator": _later("tune_generator"),
    "tune-again": _later("tune_again", "rounds"),
    "prefer": _later("prefer", "preference"),
    "search-rl": _later("learn_to_search", "preference"),
    "report": _later("report"),
}
"""What each step of a recipe runs; it returns what the journal keeps of it."""
