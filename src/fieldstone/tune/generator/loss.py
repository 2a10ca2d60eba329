"""One step of a causal generator: the loss of what stands after the prompts, and its gradients.

Rows are read side by side, padded, or packed into sequences in which what rows begin alike stands once; the
loss is the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fieldstone.errors import ModelError
from fieldstone.models.batches import by_length
from fieldstone.tune import together
from fieldstone.tune.divided import evened, is_divided

Text = tuple[list[int], list[int]]
"""The tokens of a prompt, and those to learn after it."""

PACKED = 2048
"""Tokens of a packed sequence at most, but for a longer row: attention's mask grows with the square."""

_ROUNDING = {torch.float32: 1e-4, torch.bfloat16: 1e-2, torch.float16: 1e-2}


@dataclass(frozen=True, slots=True)
class Sequences:
    """What the model reads at once: token ids (rows, width), and where it says what.

    `keep` are the columns whose logits are wanted; of these, laid row behind row, those at `at` predict the
    `labels`, one for one. Packed rows have `positions` (1, width), each token's place in its own row, and a
    `mask` (1, 1, width, width): 0 for what a token sees, -inf for all else.
    """

    ids: torch.Tensor
    keep: torch.Tensor
    at: torch.Tensor
    labels: torch.Tensor
    positions: torch.Tensor | None = None
    mask: torch.Tensor | None = None


def learn(model: Any, batch: Sequence[Text], budget: int, dtype: str, *, packing: bool = False) -> float:
    """Puts the gradients of a batch's mean loss into place, read in parts of `budget` tokens; the loss.

    Of several processes each reads its share of the batch. The mean is over the learnt tokens of the whole
    batch, in nats. In bfloat16 the products of float32 weights are computed in it too (autocast).
    """
    model.zero_grad()
    learnt = sum(len(after) for _, after in batch)
    batch = together.share(batch)
    lengths = [len(before) + len(after) for before, after in batch]
    parts = list(packs(batch, min(budget, PACKED)) if packing else by_length(lengths, budget=budget))
    loss = 0.0
    if is_divided(model):
        parts = evened(parts)
    for part in parts:
        rows = [batch[i] for i in part] or [([0], [0])]  # with none, it takes part and learns nothing
        read = (packed if packing else padded)(rows)
        with torch.autocast(model.device.type, torch.bfloat16, enabled=dtype == "bfloat16"):
            summed = _summed(model, read) * bool(part)
        torch.autograd.backward(summed / learnt)
        loss += summed.item() / learnt
    loss = together.total(loss, model.device)
    together.add_up(weights for weights in model.parameters() if weights.requires_grad)
    if not math.isfinite(loss):
        raise ModelError(f"the loss became {loss}; set a lower generator.learning_rate and start again")
    return loss


def padded(batch: Sequence[Text]) -> Sequences:
    """Rows side by side.

    Padding is to the right, where causality keeps it from being seen, so no mask is needed.
    """
    width = max(len(before) + len(after) for before, after in batch)
    ids = torch.zeros((len(batch), width), dtype=torch.long)
    told = torch.full((len(batch), width), -100)
    for i, (before, after) in enumerate(batch):
        ids[i, : len(before) + len(after)] = torch.tensor(before + after)
        start = len(before) - 1  # the token at t is predicted at t - 1
        told[i, start : start + len(after)] = torch.tensor(after)
    keep = (told != -100).any(0).nonzero()[:, 0]
    kept = told[:, keep].flatten()
    at = (kept != -100).nonzero()[:, 0]
    return Sequences(ids, keep, at, kept[at])


def packed(batch: Sequence[Text]) -> Sequences:
    """Rows in one sequence, in which tokens that several begin with stand once.

    The rows form a tree. A token sees those on the way to it from the root, which are those before it in its
    row, and has the position that it has there: so it is read as it would be in the row alone.
    """
    rows = sorted(batch, key=_tokens)
    ids: list[int] = []
    positions: list[int] = []
    labels: list[int] = []
    predicting: list[int] = []  # for each label, where in the sequence it is predicted
    ways: list[list[int]] = []  # for each token of the sequence, those that it sees
    way: list[int] = []  # where the tokens of a row stand
    for before, after in rows:
        row = before + after
        shared = _alike(row, [ids[place] for place in way])
        way = way[:shared] + list(range(len(ids), len(ids) + len(row) - shared))
        ids += row[shared:]
        positions += range(shared, len(row))
        ways += (way[: depth + 1] for depth in range(shared, len(row)))
        predicting += way[len(before) - 1 : len(row) - 1]  # the token at t is predicted at t - 1
        labels += after
    mask = torch.full((len(ids), len(ids)), -math.inf)
    for own, seen in zip(mask, ways, strict=True):
        own[seen] = 0.0
    keep, at = torch.unique(torch.tensor(predicting), return_inverse=True)
    return Sequences(
        torch.tensor([ids]), keep, at, torch.tensor(labels), torch.tensor([positions]), mask[None, None]
    )


def packs(batch: Sequence[Text], room: int) -> list[list[int]]:
    """Indices of rows in sequences of at most `room` tokens (or one row), what begins alike together."""
    found: list[list[int]] = []
    used = 0
    last: list[int] = []
    for index in sorted(range(len(batch)), key=lambda i: _tokens(batch[i])):
        row = _tokens(batch[index])
        more = len(row) - _alike(row, last)
        if found and used + more <= room:
            found[-1].append(index)
            used += more
        else:
            found.append([index])
            used = len(row)
        last = row
    return found


def _tokens(text: Text) -> list[int]:
    before, after = text
    return before + after


def _alike(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens both begin with."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _summed(model: Any, read: Sequences) -> torch.Tensor:
    """The negative log-likelihood of all labels, in nats."""

    ids, keep, at, labels = (its.to(model.device) for its in (read.ids, read.keep, read.at, read.labels))
    where = None if read.positions is None else read.positions.to(model.device)
    seen = None if read.mask is None else read.mask.to(model.device)
    logits = model(
        input_ids=ids, position_ids=where, attention_mask=seen, logits_to_keep=keep, use_cache=False
    ).logits
    chosen = logits.flatten(0, 1)[at].float()
    return torch.nn.functional.cross_entropy(chosen, labels, reduction="sum")


@torch.no_grad()
def check_packing(name: str, model: Any, texts: Sequence[Text]) -> None:
    """Raises ModelError if this kind of model reads packed rows otherwise than apart."""
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None) or math.inf
    before, after = min(texts, key=lambda text: len(_tokens(text)))
    others = [(token + 1) % config.vocab_size for token in before]
    rows = [(before, after), (others, after), ([*before[:-1], others[-1]], after)]
    training = model.training
    model.eval()  # chance would show as a difference
    apart = float(_summed(model, padded(rows)))
    try:
        joined = float(_summed(model, packed(rows)))
    except (TypeError, ValueError, RuntimeError):  # it takes no positions, or no such mask
        joined = math.nan
    model.train(training)
    alike = math.isclose(apart, joined, rel_tol=_ROUNDING[model.dtype])
    if not alike or window < max(len(_tokens(text)) for text in texts):
        raise ModelError(
            f"{name}: rows in one sequence are not read as they are apart in this kind of model; "
            "type: --set generator.packing=false"
        )
