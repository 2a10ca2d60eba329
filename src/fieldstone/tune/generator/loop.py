"""The steps of tuning a generator, whatever its kind: planned, scored between, kept, and gone on with."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch.distributed.tensor import DTensor

from fieldstone.progress import Progress
from fieldstone.records import fingerprint
from fieldstone.settings import GeneratorTuning
from fieldstone.tune import together
from fieldstone.tune.checkpoint import resumed, save_checkpoint, writing
from fieldstone.tune.divided import whole
from fieldstone.tune.generator.tuned import Tuned, publish, work_of

_STEP = "tune generator"
SAVED_EVERY = 60.0  # seconds between checkpoints where the dev scores are farther apart
_SAVING = 0.05  # share of the time that may go into them: all weights of a large model are many bytes


def run_steps(
    learn: Callable[[Sequence[int]], float],
    *,
    write: Callable[[Mapping[str, torch.Tensor], Path], None],
    dev_score: Callable[[str], float] | None,
    base: str,
    into: Path,
    key: str,
    learnt: Mapping[str, torch.Tensor],
    tuning: GeneratorTuning,
    lengths: Sequence[int],
    starts: Sequence[str] = (),
    too_long: int,
    device: str,
    dtype: str,
    seed: int,
    began: float,
    progress: Progress,
) -> Tuned:
    """Run all steps, or those left after the last checkpoint beside `into`, and put the best into its place.

    `learn` puts the gradients of these rows' mean loss into place and returns it; `write` makes a plain
    folder of what is learnt so far, the `learnt` weights, put together where they are divided; `dev_score`
    is asked about a model by its name, and without it the last step is the best. `lengths`: tokens of each
    row, besides which `too_long` rows were left out; `starts`: what each begins with, as in `batches_of`.
    `began`: `time.perf_counter()` at the start of the call, from which the seconds are counted.
    """
    work = work_of(into)
    an_epoch = math.ceil(len(lengths) / tuning.batch)
    steps = an_epoch * tuning.epochs
    checks = {math.ceil(n * an_epoch / tuning.checks) for n in range(tuning.checks * tuning.epochs + 1)}
    batches: list[list[int]] = [[]]
    for epoch in range(tuning.epochs):
        batches += batches_of(lengths, tuning, seed, epoch, starts)
    optimizer = torch.optim.AdamW(learnt.values(), weight_decay=0.0)
    first = together.rank() == 0  # of several processes: all learn, the first one scores and writes
    history = together.one_after_another(lambda: resumed(work, key, learnt, optimizer))
    together.same_everywhere(history.step, work)
    divided = any(isinstance(weights, DTensor) for weights in learnt.values())
    before, saved, pause = history.seconds, began, SAVED_EVERY
    progress(_STEP, max(history.step, 0), steps, "steps")
    for step in range(history.step + 1, steps + 1):
        if step:
            started = time.perf_counter()
            optimizer.param_groups[0]["lr"] = tuning.learning_rate * rate(step, steps, tuning.warmup)
            chance = fingerprint(seed, step, *([] if first else [together.rank()]))
            torch.manual_seed(int(chance, 16) >> 1)  # dropout, alike after a restart
            loss = learn(batches[step])
            torch.nn.utils.clip_grad_norm_(learnt.values(), 1.0)
            optimizer.step()
            history.losses.append(loss)
            history.tokens += sum(lengths[i] for i in batches[step])
            history.training += time.perf_counter() - started
        ours = whole(learnt) if step in checks else learnt  # all put divided weights together
        if first and step in checks:
            name = base
            if step:
                name = str(work / f"step-{step}")
                with writing(into):
                    write(ours, Path(name))
            history.scores.append((step, float(dev_score(name) if dev_score else step)))
        history.step, now = step, time.perf_counter()
        if step in checks or (now - saved > pause and not divided):
            history.seconds = before + now - began
            state = whole(optimizer.state_dict())
            if first:
                with writing(into):
                    save_checkpoint(work, key, history, ours, state)
            saved = time.perf_counter()
            pause = max(SAVED_EVERY, (saved - now) / _SAVING)
        if step:
            progress(_STEP, step, steps, "steps")

    def finish() -> Tuned:
        tuned = Tuned(
            folder=into,
            steps=history.step,
            seconds=round(history.seconds, 3),
            losses=tuple(history.losses),
            scores=tuple(history.scores),
            best_step=history.best,
            rows=len(lengths),
            too_long=too_long,
            trainable=sum(weights.numel() for weights in learnt.values()),
            tokens_per_second=round(history.tokens / history.training, 1),
            device=device,
            dtype=dtype,
        )
        with writing(into):
            publish(key, tuned)
        return tuned

    return together.first_only(finish)


def batches_of(
    lengths: Sequence[int], tuning: GeneratorTuning, seed: int, epoch: int, starts: Sequence[str] = ()
) -> list[list[int]]:
    """The rows in batches of like length, the batches in random order.

    With `starts`, rows that begin with the same stay together.
    """
    chance = random.Random(f"{seed} {epoch}")
    order = list(range(len(lengths)))
    chance.shuffle(order)
    groups: dict[object, list[int]] = {}
    for i in order:
        groups.setdefault(starts[i] if starts else i, []).append(i)

    def length(group: list[int]) -> float:  # new company each epoch
        return lengths[group[0]] + chance.uniform(-0.1, 0.1) * lengths[group[0]]

    order = [i for group in sorted(groups.values(), key=length) for i in group]
    batches = [order[start : start + tuning.batch] for start in range(0, len(order), tuning.batch)]
    chance.shuffle(batches)
    return batches


def rate(step: int, steps: int, warmup: float) -> float:
    """The learning rate's share at `step` (from 1): a linear rise, then a cosine down to almost nothing."""
    rising = math.ceil(warmup * steps)
    if step <= rising:
        return step / rising
    return 0.5 * (1 + math.cos(math.pi * (step - 1 - rising) / (steps - rising)))
