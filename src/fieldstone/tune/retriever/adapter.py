"""Tune a small map on the questions' vectors: seconds on a CPU, for any encoder, a model server's too.

A question's vector v becomes v + W v + b, brought to unit length. It starts at the identity, or at an earlier
map, and is held to the identity by `adapter_pull` times the squares of W and b, to its start by `start_pull`.
Questions and passages are encoded once; the passages' vectors stay as they are. The losses are those of the
other methods.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from fieldstone.errors import ModelError
from fieldstone.models import Encoder
from fieldstone.models.devices import thread_count
from fieldstone.models.dual import DualEncoder
from fieldstone.models.towers import ADAPTER, AdaptedEncoder, write_adapter
from fieldstone.progress import Progress
from fieldstone.settings import RetrieverTuning
from fieldstone.tune.pull import distance_from_here
from fieldstone.tune.retriever import Trained
from fieldstone.tune.retriever.batches import Plan, Row, labels_of
from fieldstone.tune.retriever.frozen import Frozen
from fieldstone.tune.retriever.losses import FrozenPassages, loss_of


class Adapter(torch.nn.Module):
    """v -> (v + W v + b) / |v + W v + b|, at the start the identity."""

    def __init__(self, dimension: int, start: tuple[np.ndarray, np.ndarray] | None = None) -> None:
        super().__init__()
        weight, bias = start or (
            np.zeros((dimension, dimension), np.float32),
            np.zeros(dimension, np.float32),
        )
        if weight.shape != (dimension, dimension):
            raise ModelError(
                f"the adapter to start from has the shape {weight.shape}, but the encoder has {dimension} "
                "dimensions; start from one that was tuned beside it"
            )
        self.weight, self.bias = (torch.nn.Parameter(torch.tensor(array)) for array in (weight, bias))

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """(questions, dimension) to the same, of unit length."""
        return torch.nn.functional.normalize(vectors + vectors @ self.weight.T + self.bias, dim=1)

    def pull(self) -> torch.Tensor:
        """How far it is from the identity: the sum of all squares."""
        return self.weight.square().sum() + self.bias.square().sum()


def train_adapter(
    encoder: Encoder,
    rows: Sequence[Row],
    plan: Plan,
    frozen: Frozen,
    folder: Path,
    tuning: RetrieverTuning,
    *,
    start: tuple[np.ndarray, np.ndarray] | None,
    dev_score: Callable[[Encoder], float] | None,
    threads: int | None,
    progress: Progress,
) -> Trained:
    """Train the map as planned and leave it in `folder`, that of the best epoch where there is a dev score.

    `start`: weight and bias to go on from; without them the identity.

    It keeps no checkpoint: done again, it takes seconds and comes to the same.
    """
    began = time.monotonic()
    torch.set_num_threads(thread_count(threads))
    questions = torch.tensor(encoder.encode_queries([row.texts[0] for row in rows]))
    adapter = Adapter(encoder.dimension, start)
    away = distance_from_here(adapter) if tuning.start_pull else None
    loss = FrozenPassages(
        None,
        loss_of(None, tuning),
        torch.tensor(frozen.vectors),
        frozen.places,
        lambda chosen: labels_of([rows[index] for index in chosen]),
    )
    optimizer = torch.optim.Adam(adapter.parameters(), lr=tuning.adapter_rate)
    total = sum(map(len, plan))
    losses: list[float] = []
    scores = [dev_score(encoder)] if dev_score else []
    kept = _arrays(adapter)
    progress("tune retriever", 0, total, "steps")
    for epoch in plan:
        for step in epoch:
            optimizer.zero_grad()
            missed = loss.against(adapter(questions[step]), step)
            total_loss: torch.Tensor = missed + tuning.adapter_pull * adapter.pull()
            if away:
                total_loss = total_loss + tuning.start_pull / 2 * away()
            total_loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(missed.item())
            progress("tune retriever", len(losses), total, "steps")
        if dev_score:
            now = _arrays(adapter)
            scores.append(dev_score(DualEncoder(encoder.name, AdaptedEncoder(encoder, *now), encoder)))
            if scores[-1] > max(scores[1:-1], default=-np.inf):
                kept = now
    write_adapter(folder / ADAPTER, *(kept if dev_score else _arrays(adapter)))
    best = max(range(1, len(scores)), key=lambda epoch: scores[epoch]) if scores else len(plan)
    return Trained(tuple(losses), tuple(scores), best, round(time.monotonic() - began, 3))


def _arrays(adapter: Adapter) -> tuple[np.ndarray, np.ndarray]:
    return adapter.weight.detach().numpy().copy(), adapter.bias.detach().numpy().copy()
