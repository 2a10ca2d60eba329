"""Tune an encoder-decoder (T5, BART) on prompts and replies, of one text or of passages read apart.

The decoder learns the reply and the end of text; the prompt, and what the decoder is given to begin with, are
read but not learnt. Rows whose prompts hold `passages` make a Fusion-in-Decoder reader (Izacard and Grave
2021a); the loss is the same. All weights are tuned (`method` full, as there), or low-rank adapters on all
linear layers (lora, merged at the end). As in `tune.generator`, every step follows from the rows, the
settings and the seed alone, so a run that was stopped goes on from its last checkpoint and ends as if it had
not been.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForSeq2SeqLM

from fieldstone.errors import ModelError, SettingsError
from fieldstone.models import Generator, Options, load_generator
from fieldstone.models.batches import by_length
from fieldstone.models.devices import pick_device, pick_dtype
from fieldstone.models.files import weights_fingerprint
from fieldstone.models.seq2seq import Parts, Seq2SeqGenerator, joined_states, length
from fieldstone.progress import Progress, silent
from fieldstone.records import fingerprint
from fieldstone.settings import GeneratorTuning
from fieldstone.tune import together
from fieldstone.tune.generator import Row
from fieldstone.tune.generator.loop import run_steps
from fieldstone.tune.generator.tuned import Tuned, finished_before
from fieldstone.tune.generator.weights import merge, micro_batch, prepared, recompute, weights_folder


@dataclass(frozen=True, slots=True)
class _Lesson:
    """A row as token ids: what the encoder reads, what the decoder begins with, what it learns after that."""

    read: Parts
    begun: list[int]
    learnt: list[int]

    @property
    def tokens(self) -> int:
        return length(self.read) + len(self.begun) + len(self.learnt)


def tune_seq2seq(
    base: str,
    rows: Sequence[Row],
    into: Path,
    tuning: GeneratorTuning,
    *,
    dev_score: Callable[[Generator], float],
    seed: int = 0,
    device: str = "auto",
    threads: int | None = None,
    progress: Progress = silent,
) -> Tuned:
    """Tune `base` on `rows`, as `tune_generator` does a causal model: the same folders, facts and errors.

    `tuning.dropout` holds in the model's own layers too.
    """
    began = time.perf_counter()
    if tuning.method not in ("lora", "full"):
        raise SettingsError(
            f"generator.method = {tuning.method}, but {base} has an encoder of its own; set lora or full"
        )
    if tuning.divided:
        raise SettingsError(
            f"generator.divided = true, but {base} has an encoder of its own; set generator.divided = false"
        )
    if tuning.packing:
        raise SettingsError(
            f"generator.packing = true, but {base} has an encoder of its own; set generator.packing = false"
        )
    if tuning.start_pull:
        raise SettingsError(
            f"generator.start_pull = {tuning.start_pull}, but {base} has an encoder of its own; set 0"
        )
    folder = weights_folder(base)
    key = fingerprint("seq2seq", weights_fingerprint(folder), tuning.model_dump_json(), seed, *rows)
    if finished := together.first_only(lambda: finished_before(into, key)):
        return finished
    generator = load_generator(base, device=device, threads=threads)
    if not isinstance(generator, Seq2SeqGenerator):
        raise ModelError(f"{base} has no encoder of its own; tune it with tune_generator")
    lessons, pad = _lessons(generator, rows), generator.pad
    del generator  # one copy of the weights less while tuning
    lengths = [lesson.tokens for lesson in lessons]
    where = pick_device(device).name
    half = pick_dtype(where) == "bfloat16"  # float16 would overflow in T5, and its gradients underflow
    with torch.random.fork_rng([where] if where.startswith("cuda") else []):
        torch.manual_seed(seed)
        # weights that are learnt must be in float32: a small step is lost in the eight bits of bfloat16
        precision = "bfloat16" if half and tuning.method == "lora" else "float32"
        options = Options(device=where, threads=threads, dtype=precision)
        model = prepared(base, folder, tuning, options, AutoModelForSeq2SeqLM).train()
        _set_dropout(model, tuning.dropout)
        budget = micro_batch(model.config, where)
        if tuning.recompute == "on" or (tuning.recompute == "auto" and max(lengths) > 2 * budget):
            recompute(model)
        learnt = {name: weights for name, weights in model.named_parameters() if weights.requires_grad}
        return run_steps(
            lambda step: _learn(model, [lessons[i] for i in step], budget, pad, half),
            write=lambda its, to: merge(base, folder, tuning, threads, its, to, AutoModelForSeq2SeqLM),
            dev_score=lambda name: dev_score(load_generator(name, device=device, threads=threads)),
            base=base, into=into, key=key, learnt=learnt, tuning=tuning, lengths=lengths,
            too_long=len(rows) - len(lessons), device=where, dtype="bfloat16" if half else "float32",
            seed=seed, began=began, progress=progress,
        )  # fmt: skip


def _lessons(generator: Seq2SeqGenerator, rows: Sequence[Row]) -> list[_Lesson]:
    """The rows whose texts fit, each by itself, into the model's context."""
    lessons = []
    for row, read in zip(rows, generator.prompt_ids([row.prompt for row in rows]), strict=True):
        begun, learnt = generator.begun_ids(row.prompt), generator.learnt_ids(row.completion)
        if max(*map(len, read), len(begun) + len(learnt)) <= generator.context_tokens:
            lessons.append(_Lesson(read, begun, learnt))
    if not lessons:
        raise ModelError(
            f"none of {len(rows)} rows fits into the {generator.context_tokens} tokens of {generator.name}; "
            "give rows, with shorter passages"
        )
    return lessons


def _set_dropout(model: Any, share: float) -> None:
    """The settings' dropout in the place of the model's own, which keeps it as modules and as numbers."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = share
        for name in ("dropout", "attention_dropout", "activation_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, share)


def _learn(model: Any, batch: Sequence[_Lesson], budget: int, pad: int, half: bool) -> float:
    """Puts the gradients of a batch's mean loss a learnt token into place; the loss.

    Read in parts of `budget` tokens. With `half`, products are computed in bfloat16 (autocast).
    """
    model.zero_grad()
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model  # adapters are inside
    count = sum(len(lesson.learnt) for lesson in batch)
    batch = together.share(batch)
    loss = 0.0
    for part in by_length([lesson.tokens for lesson in batch], budget=budget):
        its = [batch[i] for i in part]
        inputs, labels = (tensor.to(model.device) for tensor in _tensors(its))
        with torch.autocast(model.device.type, torch.bfloat16, enabled=half):
            states, seen = joined_states(plain, [lesson.read for lesson in its], pad)
            logits = plain(
                encoder_outputs=(states,), attention_mask=seen, decoder_input_ids=inputs, use_cache=False
            ).logits
        summed = cross_entropy(logits.float().flatten(0, 1), labels.flatten(), reduction="sum")
        torch.autograd.backward(summed / count)
        loss += summed.item() / count
    loss = together.total(loss, model.device)
    together.add_up(weights for weights in model.parameters() if weights.requires_grad)
    if not math.isfinite(loss):
        raise ModelError(f"the loss became {loss}; set a lower generator.learning_rate and start again")
    return loss


def _tensors(batch: Sequence[_Lesson]) -> tuple[torch.Tensor, torch.Tensor]:
    """The decoder's input (rows, width), and the label at each of its places (-100: none).

    The label stands where it is predicted, one place before it is read. Padding is to the right, where
    causality keeps it from being seen.
    """
    inputs = [torch.tensor(lesson.begun + lesson.learnt[:-1]) for lesson in batch]
    labels = [torch.tensor([-100] * (len(lesson.begun) - 1) + lesson.learnt) for lesson in batch]
    return (
        pad_sequence(inputs, batch_first=True),
        pad_sequence(labels, batch_first=True, padding_value=-100),
    )
