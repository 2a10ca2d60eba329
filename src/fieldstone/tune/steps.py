"""What the training of encoders and rerankers shares: the steps of a plan, in parts that fit into memory.

Importing this module loads torch and sentence-transformers.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from sentence_transformers.base.sampler import DefaultBatchSampler
from transformers import TrainerCallback

from fieldstone.errors import ModelError
from fieldstone.models.huggingface import quiet
from fieldstone.progress import Progress
from fieldstone.settings import RerankerTuning, RetrieverTuning
from fieldstone.tune import together
from fieldstone.tune.retriever.batches import Row

SECONDS_BETWEEN_CHECKPOINTS = 300.0
WEIGHT_DECAY = 0.01
CLIPPED_AT = 1.0
"""The greatest norm of a step's gradients."""
_BYTES = 200  # that a token leaves for the way back, a layer and unit of width (MiniLM in float32)


def check_device(device: str) -> None:
    """Raises ModelError unless it is one that the trainers of sentence-transformers can be held to."""
    if device.startswith("cuda:") and device != "cuda:0":
        raise ModelError(f"tuning runs on the first GPU; type CUDA_VISIBLE_DEVICES={device[5:]} before it")


def set_dropout(model: torch.nn.Module, share: float) -> None:
    """All its dropout at this share."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = share


def texts_that_fit(config: Any, longest: int, room: float) -> int:
    """How many texts of so many tokens can be read at once, if what they leave may take `room` bytes."""
    return max(1, int(room / (_BYTES * config.num_hidden_layers * config.hidden_size * longest)))


def parts_of(steps: list[list[int]], rows: Sequence[Row], texts_at_once: int) -> int:
    """Into how many parts a step is cut so that it fits into memory; their gradients add up to the same."""
    most = max(sum(len(rows[index].texts) - 1 for index in step) for step in steps)
    return min(math.ceil(most / texts_at_once), min(map(len, steps)))


def arguments_of(
    kind: Any,
    work: Path,
    steps: list[list[int]],
    parts: int,
    tuning: RetrieverTuning | RerankerTuning,
    *,
    rate: float,
    seed: int,
    device: str,
    dtype: str,
    **more: Any,
) -> Any:
    """Training arguments of this kind: the planned steps, each in `parts`; checkpoints when `Watch` asks."""
    batches = [step[part::parts] for step in steps for part in range(parts)]
    arguments = kind(
        output_dir=str(work),
        num_train_epochs=1,  # the plan holds all epochs
        per_device_train_batch_size=tuning.batch,
        gradient_accumulation_steps=parts,
        learning_rate=rate,
        warmup_steps=min(math.ceil(tuning.warmup * len(steps)), len(steps) - 1),  # the first has rate 0
        lr_scheduler_type="linear",
        weight_decay=WEIGHT_DECAY,
        max_grad_norm=CLIPPED_AT if together.size() == 1 else 0,  # else `AddUp` clips the sum
        seed=seed,
        use_cpu=device == "cpu",
        bf16=dtype == "bfloat16",
        batch_sampler=_planned(batches),
        dataloader_pin_memory=False,
        logging_steps=1,
        save_strategy="steps" if together.rank() == 0 else "no",
        save_steps=len(steps),
        save_total_limit=1,
        disable_tqdm=True,
        report_to="none",
        **more,
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # several would split the batches of the plan
    return arguments


class AddUp(TrainerCallback):  # type: ignore[misc]
    """Adds up the gradients of several processes, and then clips them as the trainer would."""

    def on_pre_optimizer_step(self, _args: Any, _state: Any, _control: Any, model: Any, **_: Any) -> None:
        """Before a step: the parameters that took part in it."""
        learnt = [weights for weights in model.parameters() if weights.grad is not None]
        together.add_up(learnt)
        torch.nn.utils.clip_grad_norm_(learnt, CLIPPED_AT)


class Watch(TrainerCallback):  # type: ignore[misc]
    """Tells the progress and the seconds, and asks for checkpoints and dev scores at the right steps."""

    def __init__(self, ends: set[int], progress: Progress, step: str, *, keeps: bool = True) -> None:
        self._ends, self._progress, self._step, self._keeps = ends, progress, step, keeps
        self._began = self._saved = time.monotonic()

    def on_train_begin(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        """The clock starts, or goes on where it was."""
        self._began = self._saved = time.monotonic()
        if state.log_history:  # the seconds of the run that was killed
            self._began -= state.log_history[-1]["seconds"]
        self._progress(self._step, state.global_step, state.max_steps, "steps")

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Told; at the end of an epoch, and now and then, also kept."""
        self._progress(self._step, state.global_step, state.max_steps, "steps")
        epoch_ends = state.global_step in self._ends
        control.should_evaluate |= epoch_ends and args.eval_strategy != "no"
        if self._keeps:
            control.should_save |= epoch_ends or time.monotonic() - self._saved > SECONDS_BETWEEN_CHECKPOINTS

    def on_save(self, *_: Any, **__: Any) -> None:
        """The next checkpoint can wait."""
        self._saved = time.monotonic()

    def on_log(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        """The seconds so far stand beside each loss."""
        state.log_history[-1]["seconds"] = round(time.monotonic() - self._began, 3)


@contextmanager
def silence() -> Iterator[None]:
    """Keeps the libraries' bars and hints off the terminal."""
    logger = logging.getLogger("sentence_transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with quiet():
            yield
    finally:
        logger.setLevel(level)


def _planned(batches: list[list[int]]) -> Callable[..., Any]:
    """The batches of the plan as a sampler of sentence-transformers."""

    class Planned(DefaultBatchSampler):  # type: ignore[misc]
        def __iter__(self) -> Iterator[list[int]]:
            return iter(batches)

        def __len__(self) -> int:
            return len(batches)

    return Planned
