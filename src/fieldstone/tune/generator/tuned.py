"""A tuned generator as it lies in its folder, with the facts in tuned.json."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from fieldstone.errors import WorkspaceError


@dataclass(frozen=True, slots=True)
class Tuned:
    """A tuned generator and how it came about.

    `losses` holds the mean negative log-probability of a learnt token, in nats, a step. `scores` holds
    (step, dev score), step 0 being the untuned model; `best_step` is the one that `folder` holds, never 0.
    `too_long` rows did not fit into the model's context and were left out. `seconds` is all the time spent,
    dev scores and stopped runs included; `tokens_per_second` counts the tokens read, in training alone.
    """

    folder: Path
    steps: int
    seconds: float
    losses: tuple[float, ...]
    scores: tuple[tuple[int, float], ...]
    best_step: int
    rows: int
    too_long: int
    trainable: int
    tokens_per_second: float
    device: str
    dtype: str


def finished_before(into: Path, key: str) -> Tuned | None:
    """What an earlier call left, if it was this same run; what it tuned in goes if that is still there."""
    if not into.exists() or (into.is_dir() and not any(into.iterdir())):
        return None
    try:
        facts = json.loads((into / "tuned.json").read_text(encoding="utf-8"))
        if facts.pop("key") != key:
            return None
        lists = {"losses": tuple(facts["losses"]), "scores": tuple((n, s) for n, s in facts["scores"])}
        tuned = Tuned(**{**facts, **lists, "folder": into})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WorkspaceError(
            f"{into} is there and is no generator tuned here ({error}); delete it, or name a new folder"
        ) from error
    shutil.rmtree(work_of(into), ignore_errors=True)
    return tuned


def work_of(into: Path) -> Path:
    """The folder in which `into` is tuned."""
    return into.with_name(f"{into.name}.tuning")


def publish(key: str, tuned: Tuned) -> None:
    """Puts the best merged folder into its place, with the facts; whatever was there goes."""
    into, work = tuned.folder, work_of(tuned.folder)
    best = work / f"step-{tuned.best_step}"
    facts = {"key": key, **asdict(tuned)}
    del facts["folder"]
    (best / "tuned.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
    if into.exists():
        into.rename(work / "replaced")
    best.rename(into)
    shutil.rmtree(work, ignore_errors=True)
