"""Which tuned parts a workspace uses: `models/in_use.json`, a history whose newest choice of a part counts.

Tuning leaves candidates in `models/retriever/`, `models/reranker/` and `models/generator/`, a folder each.
The settings go on naming the base: a choice stands in for its base for as long as they name that one. Whoever
writes here holds `workspace.writing()`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from shlex import quote
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from fieldstone.atomic import write_json
from fieldstone.errors import WorkspaceError
from fieldstone.search.confidence import Weights
from fieldstone.settings import Settings
from fieldstone.workspace import Workspace

Part = Literal["retriever", "reranker", "generator"]

TRUST = "models/trust.json"

SETTING_OF: Mapping[Part, str] = {"retriever": "encoder", "reranker": "reranker", "generator": "generator"}
"""Part -> the name in `settings.models` of the model that it stands in for."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A candidate that was taken into use.

    `name` is its folder relative to the workspace, with forward slashes; `base` is what it stands in for in
    the settings (`base_of`), also where it was tuned from an earlier candidate; `date` is in ISO format.
    `forced`: taken although the gate turned it down.
    """

    part: Part
    name: str
    base: str
    date: str
    reason: str
    forced: bool


@dataclass(frozen=True, slots=True)
class Trust:
    """How far to trust answers, and the models that it was fitted with; `reranker` is empty without one."""

    encoder: str
    generator: str
    weights: Weights
    reranker: str = ""


def choices(workspace: Workspace) -> tuple[Choice, ...]:
    """All choices that were not rolled back, newest last. Raises WorkspaceError if the file is damaged."""
    path = _file(workspace)
    try:
        history = TypeAdapter(tuple[Choice, ...]).validate_json(path.read_bytes())
        for choice in history:
            _folder(workspace, choice)
    except FileNotFoundError:
        return ()
    except (OSError, ValidationError, WorkspaceError) as error:
        raise WorkspaceError(
            f"{path} is damaged ({_short(error)}); mend it, or go on with the models of the settings: "
            f"type rm {quote(str(path))}, then fieldstone build FOLDER --into {quote(str(workspace.path))}"
        ) from None
    return history


def newest(workspace: Workspace, part: Part | None = None) -> Choice | None:
    """The newest choice, of that part where one is given."""
    return next((c for c in reversed(choices(workspace)) if part in (None, c.part)), None)


def base_of(settings: Settings, part: Part) -> str:
    """What the settings name for a part: the model, or for the reranker, where no model reranks, the way.

    So a tuned reranker stands in for `likelihood` in a workspace that reranks by likelihood, and is left out
    where another way is asked for.
    """
    if part == "reranker" and settings.search.rerank != "cross-encoder":
        return settings.search.rerank
    return str(getattr(settings.models, SETTING_OF[part]))


def with_reranker(settings: Settings, name: str) -> Settings:
    """The settings with what `name` says in the place of their reranking: a tuned model, or what they say."""
    if name == base_of(settings, "reranker"):
        return settings
    search = {"rerank": "cross-encoder", "reranker_weight": settings.reranker.weight}
    return settings.model_copy(
        update={
            "models": settings.models.model_copy(update={"reranker": name}),
            "search": settings.search.model_copy(update=search),
        }
    )


def model_in_use(workspace: Workspace, part: Part, base: str, *, rolled_back: bool = False) -> str:
    """The model that does the work of `base`: the absolute path of the tuned folder, or `base` itself.

    `rolled_back` asks what it would be without the newest choice. Raises WorkspaceError when the tuned folder
    is gone: answers would silently change, and the library's vectors may be of that very encoder.
    """
    history = [choice for choice in choices(workspace) if choice.part == part]
    if rolled_back:
        history = history[:-1]
    if not history or history[-1].base != base:
        return base
    folder = _folder(workspace, history[-1])
    if not folder.is_dir():
        raise WorkspaceError(
            f"the tuned {part} in use is gone: there is no folder {folder}; put it back, or go on with what "
            f"was in use before: type fieldstone rollback {quote(str(workspace.path))} --part {part}"
        )
    return str(folder)


def with_tuned(workspace: Workspace, settings: Settings) -> Settings:
    """The settings with the models in use in the place of their bases; a tuned reranker is searched with.

    To work with, not to store: a workspace's settings file names bases. Raises WorkspaceError as
    `model_in_use` does.
    """
    used = {part: model_in_use(workspace, part, base_of(settings, part)) for part in SETTING_OF}
    models = {SETTING_OF[part]: name for part, name in used.items() if part != "reranker"}
    changed = settings.model_copy(update={"models": settings.models.model_copy(update=models)})
    return with_reranker(changed, used["reranker"])


def reranking_model(settings: Settings) -> str:
    """The cross-encoder that these settings search with; empty where none does."""
    return settings.models.reranker if settings.search.rerank == "cross-encoder" else ""


def trust_in_use(workspace: Workspace, encoder: str, generator: str, reranker: str = "") -> Weights:
    """How far to trust answers of these models: as fitted on the workspace's questions, else as usual."""
    try:
        kept = TypeAdapter(Trust).validate_json((workspace.path / TRUST).read_bytes())
    except (OSError, ValidationError):  # it only sharpens what the usual weights do as well
        return Weights()
    names = Path(encoder).name, Path(generator).name, Path(reranker).name
    return kept.weights if names == (kept.encoder, kept.generator, kept.reranker) else Weights()


def keep_trust(
    workspace: Workspace, encoder: str, generator: str, weights: Weights, reranker: str = ""
) -> None:
    """Keep the weights that were fitted with these models in use."""
    names = Path(encoder).name, Path(generator).name, Path(reranker).name
    write_json(workspace.path / TRUST, asdict(Trust(*names[:2], weights, names[2])))


def take_into_use(workspace: Workspace, choice: Choice) -> None:
    """Use this candidate from now on. Raises WorkspaceError when its folder is not there."""
    folder = _folder(workspace, choice)
    if not folder.is_dir():
        raise WorkspaceError(f"there is no tuned {choice.part} at {folder}; tune one before it is used")
    _write(workspace, (*choices(workspace), choice))


def roll_back(workspace: Workspace, part: Part | None = None) -> Choice | None:
    """Take the newest choice (of that part) out of use; returns it, None when there is none.

    The candidate's folder stays. The library's vectors are not touched: see `fieldstone rollback`.
    """
    history = choices(workspace)
    for i in reversed(range(len(history))):
        if part in (None, history[i].part):
            _write(workspace, (*history[:i], *history[i + 1 :]))
            return history[i]
    return None


def _file(workspace: Workspace) -> Path:
    return workspace.path / "models" / "in_use.json"


def _folder(workspace: Workspace, choice: Choice) -> Path:
    """Where the candidate lies. Raises WorkspaceError when its name leads out of its place."""
    name = PurePosixPath(choice.name)
    if name.parts[:2] != ("models", choice.part) or ".." in name.parts or len(name.parts) < 3:
        raise WorkspaceError(f"{choice.name!r} is not below models/{choice.part}/ in the workspace")
    return workspace.path.resolve() / name


def _write(workspace: Workspace, history: tuple[Choice, ...]) -> None:
    write_json(_file(workspace), [asdict(choice) for choice in history])


def _short(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"{place}: {first['msg']}" if place else str(first["msg"])
