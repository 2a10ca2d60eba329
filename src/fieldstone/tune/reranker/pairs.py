"""The training of a reranker itself, with sentence-transformers; importing this module loads torch."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from sentence_transformers.cross_encoder import (
    CrossEncoder,
    CrossEncoderTrainer,
    CrossEncoderTrainingArguments,
)
from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss, ListNetLoss
from transformers import AutoModelForSequenceClassification, PrinterCallback

from fieldstone.errors import ModelError
from fieldstone.models.devices import thread_count
from fieldstone.models.huggingface import explained, quiet, read_config, read_tokenizer
from fieldstone.progress import Progress
from fieldstone.settings import RerankerTuning
from fieldstone.tune.checkpoint import last_checkpoint, writing
from fieldstone.tune.retriever import Trained
from fieldstone.tune.retriever.batches import Plan, Row
from fieldstone.tune.steps import (
    Watch,
    arguments_of,
    check_device,
    parts_of,
    set_dropout,
    silence,
    texts_that_fit,
)

_ACTIVATIONS = 1.5e9  # bytes; a step of more pairs than that hold is worked through in parts
_HEADS = ("pooler", "classifier", "score", "head", "pre_classifier")
"""Parts of the names of weights that a body may lack; they are drawn by the seed."""


def train(
    folder: Path,
    rows: Sequence[Row],
    plan: Plan,
    work: Path,
    tuning: RerankerTuning,
    *,
    seed: int,
    device: str,
    threads: int | None,
    dtype: str,
    progress: Progress,
) -> Trained:
    """Train the cross-encoder in `folder` on `rows` as planned, or go on with what stands in `work`.

    With bfloat16 the weights and their updates stay float32 (autocast). A pair that is too long is cut at the
    longer of the two, as when it is used.
    """
    check_device(device)
    torch.set_num_threads(thread_count(threads))
    steps = [step for epoch in plan for step in epoch]
    ends = [sum(map(len, plan[: epoch + 1])) for epoch in range(len(plan))]

    with silence():
        start = _with_head(folder, work, seed)
        longest = _longest(start, rows)
        with explained(str(folder), "cross-encoder"):
            model = CrossEncoder(
                str(start), device=device, local_files_only=True, activation_fn=torch.nn.Identity(),
                model_kwargs={"dtype": torch.float32},
            )  # fmt: skip
        model.max_seq_length = _most_tokens(start)
        set_dropout(model, tuning.dropout)
        parts = parts_of(steps, rows, texts_that_fit(model.config, longest, _ACTIVATIONS))
        arguments = arguments_of(
            CrossEncoderTrainingArguments, work, steps, parts, tuning,
            rate=tuning.learning_rate, seed=seed, device=device, dtype=dtype,
        )  # fmt: skip
        trainer = _Trainer(
            steps,
            model=model,
            args=arguments,
            train_dataset=Dataset.from_dict({"row": range(len(rows))}).with_transform(_columns(rows)),
            loss=_loss(model, tuning, rows),
            callbacks=[Watch(set(ends), progress, "tune reranker")],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train(resume_from_checkpoint=last_checkpoint(work))
        with writing(work):
            model.save_pretrained(str(work / "model"), create_model_card=False)

    history = trainer.state.log_history
    losses = tuple(entry["loss"] for entry in history if "loss" in entry)
    return Trained(losses, (), len(plan), history[-1]["seconds"])


def _with_head(folder: Path, work: Path, seed: int) -> Path:
    """The base as a classifier with one label, in `work`; what its body lacks is drawn by the seed."""
    target = work / "base"
    if target.is_dir():
        return target
    name = str(folder)
    with explained(name, "classifier"), quiet(), torch.random.fork_rng():
        torch.manual_seed(seed)
        model, info = AutoModelForSequenceClassification.from_pretrained(
            folder, num_labels=1, dtype=torch.float32, local_files_only=True, output_loading_info=True
        )
    lacking = [key for key in info["missing_keys"] if not any(part in key for part in _HEADS)]
    if lacking:
        raise ModelError(f"{name}: {len(lacking)} weights of its body are missing, such as {lacking[0]}")
    partial = work / "base.partial"
    shutil.rmtree(partial, ignore_errors=True)
    with quiet(), writing(partial):
        model.save_pretrained(partial)
        read_tokenizer(name, folder).save_pretrained(partial)
    partial.rename(target)
    return target


def _most_tokens(folder: Path) -> int:
    """Tokens of a pair that it reads, as `models.cross_encoder` counts them."""
    positions = getattr(read_config(str(folder), folder), "max_position_embeddings", None) or 512
    most: int = min(read_tokenizer(str(folder), folder).model_max_length, positions, 8192)
    return most


def _longest(folder: Path, rows: Sequence[Row]) -> int:
    """Tokens of the longest pair."""
    tokenizer = read_tokenizer(str(folder), folder)
    texts = list({text for row in rows for text in row.texts})
    lengths = {
        text: len(ids)
        for text, ids in zip(texts, tokenizer(texts, add_special_tokens=False)["input_ids"], strict=True)
    }
    pairs = [lengths[row.texts[0]] + max(lengths[text] for text in row.texts[1:]) for row in rows]
    return min(max(pairs) + int(tokenizer.num_special_tokens_to_add(pair=True)), _most_tokens(folder))


def _loss(model: Any, tuning: RerankerTuning, rows: Sequence[Row]) -> Any:
    if tuning.loss == "pointwise":
        negatives = sum(len(row.texts) - 2 for row in rows) / len(rows)
        return _PointwiseLoss(model, pos_weight=torch.tensor(negatives))
    # in one go: parts of its own would save no memory, for they are kept for the way back
    return ListNetLoss(model, mini_batch_size=-1)


class _PointwiseLoss(BinaryCrossEntropyLoss):  # type: ignore[misc]
    """Binary cross-entropy over the pairs of each question with its passages."""

    def forward(self, inputs: list[Any], labels: list[torch.Tensor], **more: Any) -> Any:
        """The mean over all pairs of the batch; `labels` as for the listwise loss, logarithms of 1 and 0."""
        questions, passages = inputs
        asked = [q for q, its in zip(questions, passages, strict=True) for _ in its]
        texts = [text for its in passages for text in its]
        right = torch.cat(labels).exp().to(self.model.device)
        return super().forward([asked, texts], right, **more)


def _columns(rows: Sequence[Row]) -> Callable[[dict[str, list[int]]], dict[str, list[Any]]]:
    """Row numbers to questions, their passages, and what ListNet takes the softmax of for its target.

    The logarithm of the target: 0 for the passage, minus infinity for the others. With 1 and 0 the softmax
    would leave each of four negatives a share of 0.15.
    """

    def columns(batch: dict[str, list[int]]) -> dict[str, list[Any]]:
        chosen = [rows[index] for index in batch["row"]]
        return {
            "question": [row.texts[0] for row in chosen],
            "passages": [list(row.texts[1:]) for row in chosen],
            "label": [[0.0] + [-math.inf] * (len(row.texts) - 2) for row in chosen],
        }

    return columns


class _Trainer(CrossEncoderTrainer):  # type: ignore[misc]
    """The trainer without model cards, which quote the documents and ask the hub about the base."""

    def __init__(self, steps: list[list[int]], **given: Any) -> None:
        super().__init__(**given)
        self._steps = steps

    def compute_loss(self, model: Any, inputs: dict[str, Any], **_: Any) -> Any:
        """The mean over a step, though its parts may hold one question more or less than the others."""
        share = len(inputs["question"]) / len(self._steps[self.state.global_step])
        return super().compute_loss(model, inputs) * (share * self.args.gradient_accumulation_steps)

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        pass

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        with writing(Path(self.args.output_dir)):
            super()._save_checkpoint(model, trial)

    def _save(self, output_dir: str | None = None, **_: Any) -> None:
        self.model.save_pretrained(output_dir, create_model_card=False)
