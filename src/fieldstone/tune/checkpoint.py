"""What a run of tuning keeps on disk: its checkpoint, and the writing of it."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from fieldstone.errors import WorkspaceError
from fieldstone.tune.divided import as_divided, divide_state


@dataclass(slots=True)
class History:
    """How far a run has come; with what was learnt and the optimizer all that a checkpoint holds."""

    step: int = -1  # the last that is done; 0 is the score of the untuned model
    losses: list[float] = field(default_factory=list)
    scores: list[tuple[int, float]] = field(default_factory=list)
    tokens: int = 0
    training: float = 0.0
    seconds: float = 0.0

    @property
    def best(self) -> int:
        """The step with the best score among the tuned, the earlier one where two are equal; 0: none yet."""
        return max(self.scores[1:], key=lambda scored: scored[1], default=(0, 0.0))[0]


def save_checkpoint(
    work: Path, key: str, history: History, learnt: Mapping[str, torch.Tensor], optimizer: Mapping[str, Any]
) -> None:
    """Writes a checkpoint, with the state of the optimizer; of the merged folders the best so far stays."""
    work.mkdir(parents=True, exist_ok=True)
    partial = work / "checkpoint.partial"
    weights = {name: tensor.detach().cpu() for name, tensor in learnt.items()}
    state = {"key": key, "history": asdict(history), "learnt": weights, "optimizer": optimizer}
    torch.save(state, partial)
    partial.replace(work / "checkpoint.pt")
    for merged in work.glob("step-*"):
        if merged.name != f"step-{history.best}":
            shutil.rmtree(merged, ignore_errors=True)


def resumed(work: Path, key: str, learnt: Mapping[str, torch.Tensor], optimizer: Any) -> History:
    """How far the checkpoint had come, its weights put in place; a new history if it is of another run."""
    try:
        state = torch.load(work / "checkpoint.pt", map_location="cpu", weights_only=True)
        history = History(**state["history"])
        ours = state["key"] == key and (not history.best or (work / f"step-{history.best}").is_dir())
    except (OSError, RuntimeError, EOFError, KeyError, TypeError, pickle.UnpicklingError):
        ours = False  # there is none, or it is damaged
    if not ours:
        shutil.rmtree(work, ignore_errors=True)
        return History()
    with torch.no_grad():
        for name, weights in learnt.items():
            weights.copy_(as_divided(state["learnt"][name], weights))
    optimizer.load_state_dict(state["optimizer"])
    divide_state(optimizer)
    return history


def last_checkpoint(work: Path) -> str | None:
    """The last whole checkpoint of a trainer of transformers: its state is what that writes last."""
    for folder in sorted(work.glob("checkpoint-*"), key=lambda path: -int(path.name.rpartition("-")[2])):
        try:
            json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        return str(folder)
    return None


@contextmanager
def writing(into: Path) -> Iterator[None]:
    """A disk that is full is told as such; torch reports it as a RuntimeError."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        raise WorkspaceError(
            f"{into} cannot be written: {error}; make room there and start again: it goes on where it stopped"
        ) from error
