"""How the tuning of a candidate went: the losses and dev scores that its `tuned.json` keeps."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from statistics import fmean
from typing import Any

Points = list[tuple[float, float]]

MOST = 200
"""Points of a curve; of a longer one each is the mean of as many steps as are needed."""


def curves_of(workspace: Path, candidates: Iterable[str]) -> Iterator[dict[str, Any]]:
    """What is known of each candidate, with so many points as can be drawn."""
    for found in (curve(workspace, candidate) for candidate in candidates):
        if found is not None:
            yield found | {name: thinned(found[name]) for name in ("losses", "scores")}


def curve(workspace: Path, candidate: str) -> dict[str, Any] | None:
    """What is known of a candidate such as `models/retriever/ID`, None where nothing is.

    {part, candidate, losses, scores}: losses and scores are lists of (step, value), a score the higher the
    better.
    """
    try:
        said = json.loads((workspace / candidate / "tuned.json").read_text(encoding="utf-8"))
        losses, scores = _losses(said), _scores(said)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    name = PurePosixPath(candidate)
    return {"part": name.parent.name, "candidate": name.name, "losses": losses, "scores": scores}


def thinned(points: Sequence[tuple[float, float]], most: int = MOST) -> Points:
    """The points, or the means of as many neighbours as leave `most` of them."""
    each = -(-len(points) // most)
    parts = [points[start : start + each] for start in range(0, len(points), each)] if points else []
    return [(fmean(step for step, _ in part), fmean(value for _, value in part)) for part in parts]


def _losses(said: Mapping[str, Any]) -> Points:
    """One a step, from step 1; a trainer of others tells the step with each."""
    if "log" in said:
        return [(float(entry["step"]), float(entry["loss"])) for entry in said["log"] if "loss" in entry]
    return [(float(step), float(loss)) for step, loss in enumerate(said["losses"], 1)]


def _scores(said: Mapping[str, Any]) -> Points:
    """With their steps, or that of the base and then one an epoch, which are equally long."""
    if "scores" in said:
        return [(float(step), float(score)) for step, score in said["scores"]]
    found = said.get("dev_scores", ())
    each = said["steps"] / (len(found) - 1) if len(found) > 1 else 0.0
    return [(place * each, float(score)) for place, score in enumerate(found)]
