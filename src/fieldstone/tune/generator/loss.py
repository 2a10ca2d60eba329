"""One step of a causal generator: the loss of what stands after the prompts, and its gradients.

Rows are read side by side, padded, or packed one behind another into a sequence in which no row sees
another; the loss is the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
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


def learn(model: Any, batch: Sequence[Text], budget: int, dtype: str, *, packing: bool = False) -> float:
    """Puts the gradients of a batch's mean loss into place, read in parts of `budget` tokens; the loss.

    Of several processes each reads its share of the batch. The mean is over the learnt tokens of the whole
    batch, in nats. In bfloat16 the products of float32 weights are computed in it too (autocast).
    """
    model.zero_grad()
    learnt = sum(len(after) for _, after in batch)
    batch = together.share(batch)
    lengths = [len(before) + len(after) for before, after in batch]
    parts = list(packs(lengths, min(budget, PACKED)) if packing else by_length(lengths, budget=budget))
    loss = 0.0
    if is_divided(model):
        parts = evened(parts)
    for part in parts:
        rows = [batch[i] for i in part] or [([0], [0])]  # with none, it takes part and learns nothing
        ids, keep, labels, positions = (packed if packing else padded)(rows)
        with torch.autocast(model.device.type, torch.bfloat16, enabled=dtype == "bfloat16"):
            logits = model(
                input_ids=ids.to(model.device),
                position_ids=None if positions is None else positions.to(model.device),
                logits_to_keep=keep.to(model.device),
                use_cache=False,
            ).logits
        summed = torch.nn.functional.cross_entropy(
            logits.float().flatten(0, 1),
            labels.to(model.device).flatten(),
            ignore_index=-100,
            reduction="sum",
        )
        if not part:
            summed = summed * 0
        torch.autograd.backward(summed / learnt)
        loss += summed.item() / learnt
    loss = together.total(loss, model.device)
    together.add_up(weights for weights in model.parameters() if weights.requires_grad)
    if not math.isfinite(loss):
        raise ModelError(f"the loss became {loss}; set a lower generator.learning_rate and start again")
    return loss


def padded(batch: Sequence[Text]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, None]:
    """Token ids (rows, width), the columns whose logits are wanted, the labels there (-100: none).

    Padding is to the right, where causality keeps it from being seen, so no mask is needed.
    """
    width = max(len(before) + len(after) for before, after in batch)
    ids = torch.zeros((len(batch), width), dtype=torch.long)
    labels = torch.full((len(batch), width), -100)
    for i, (before, after) in enumerate(batch):
        ids[i, : len(before) + len(after)] = torch.tensor(before + after)
        start = len(before) - 1  # the token at t is predicted at t - 1
        labels[i, start : start + len(after)] = torch.tensor(after)
    keep = (labels != -100).any(0).nonzero()[:, 0]
    return ids, keep, labels[:, keep], None


def packed(batch: Sequence[Text]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The same of one sequence, (1, width), and the position of each token in its own row.

    Where positions begin anew and there is neither mask nor cache, transformers lets attention see no
    further back (`masking_utils.find_packed_sequence_indices`).
    """
    parts = [padded([row]) for row in batch]
    widths = [ids.shape[1] for ids, *_ in parts]
    starts = [sum(widths[:i]) for i in range(len(widths))]
    ids = torch.cat([ids for ids, *_ in parts], 1)
    keep = torch.cat([keep + start for (_, keep, *_), start in zip(parts, starts, strict=True)])
    labels = torch.cat([labels for _, _, labels, _ in parts], 1)
    return ids, keep, labels, torch.cat([torch.arange(width) for width in widths])[None]


def packs(lengths: Sequence[int], room: int) -> Iterator[list[int]]:
    """Indices in sequences of at most `room` tokens (or one row): first fit, the longest first."""
    found: list[tuple[list[int], int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        for place, (its, used) in enumerate(found):
            if used + lengths[index] <= room:
                found[place] = ([*its, index], used + lengths[index])
                break
        else:
            found.append(([index], lengths[index]))
    return (its for its, _ in found)


@torch.no_grad()
def check_packing(name: str, model: Any, texts: Sequence[Text]) -> None:
    """Raises ModelError if this model's attention sees what stands before a row in its sequence."""
    row = before, after = min(texts, key=lambda text: len(text[0]) + len(text[1]))
    vocabulary = model.config.get_text_config().vocab_size
    others = [(token + 1) % vocabulary for token in before]
    training = model.training
    seen = []
    model.eval()  # chance would show as a difference
    for first in ((before, after), (others, after)):
        ids, _, _, positions = packed([first, row])
        logits = model(
            input_ids=ids.to(model.device), position_ids=positions.to(model.device), use_cache=False
        ).logits
        seen.append(logits[0, -len(before) - len(after) :].float())
    model.train(training)
    if not torch.allclose(seen[0], seen[1], atol=1e-3):
        raise ModelError(
            f"{name}: rows in one sequence see one another in this kind of model; "
            "type: --set generator.packing=false"
        )
