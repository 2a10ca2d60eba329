"""What passes between the coordinator and a site, and nothing else: weights, numbers, and short words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from fieldstone.federate.aggregate import Arrays
from fieldstone.settings import FederateSettings, GeneratorTuning, RetrieverTuning, Settings

Asked = Literal["join", "train", "evaluate", "finish"]

PROBLEMS: Mapping[str, str] = {
    "other-base": "its base model has other weights",
    "privacy": "it does not give away so much of its privacy",
    "few-questions": "it has too few questions to learn from",
    "failed": "it failed; its own journal says why",
}
"""What a site may say that is wrong: no word of its own errors leaves it, for they may quote documents."""


class Plan(BaseModel):
    """What the coordinator says once of all rounds: what is tuned and how, and the base's fingerprint.

    `run` stands for all of it, and names the folder of the run at a site: so it can be nothing but a
    fingerprint.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: str = Field(pattern="^[0-9a-f]{16}$")
    base: str
    seed: int
    federate: FederateSettings
    retriever: RetrieverTuning
    generator: GeneratorTuning

    def over(self, own: Settings) -> Settings:
        """A site's own settings with what the plan says in their place.

        Which models are used stays the site's to say: one behind an address would be sent passages.
        """
        how = self.federate
        pull = {"start_pull": how.proximal} if how.strategy == "fedprox" else {}
        epochs = {"epochs": how.epochs}
        return own.model_copy(
            update={
                "seed": self.seed,
                "federate": how,
                "retriever": self.retriever.model_copy(
                    update={**epochs, "adapter_epochs": how.epochs, "reader": own.retriever.reader, **pull}
                ),
                "generator": self.generator.model_copy(update={**epochs, "checks": 1, **pull}),
            }
        )


@dataclass(frozen=True, slots=True)
class Request:
    """What a site is asked to do in a round, with the global weights (none to join)."""

    asked: Asked
    plan: Plan
    round: int = 0
    weights: Arrays = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reply:
    """What comes back: a change of the weights, figures, and one of `PROBLEMS` or nothing.

    `base` is the fingerprint of the site's base model, where it is another one.
    """

    change: Arrays = field(default_factory=dict)
    figures: Mapping[str, float] = field(default_factory=dict)
    sums: Sequence[float] = ()
    problem: str = ""
    base: str = ""


def size(arrays: Arrays) -> int:
    """Bytes of these weights."""
    return sum(array.nbytes for array in arrays.values())


def write_weights(path: Path, arrays: Arrays) -> None:
    """Keep weights in a file, whole or not at all."""
    from safetensors.numpy import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, partial)
    partial.replace(path)


def read_weights(path: Path) -> dict[str, np.ndarray]:
    """The weights of a file."""
    from safetensors.numpy import load_file

    found: dict[str, np.ndarray] = load_file(path)
    return found
