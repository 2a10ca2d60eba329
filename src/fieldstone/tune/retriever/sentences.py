"""The training itself, with sentence-transformers; importing this module takes seconds and loads torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.base.evaluation import BaseEvaluator
from sentence_transformers.base.modules import Normalize
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    MatryoshkaLoss,
)
from transformers import PrinterCallback

from fieldstone.errors import SettingsError
from fieldstone.models import Encoder, load_encoder
from fieldstone.models.devices import thread_count
from fieldstone.models.huggingface import explained
from fieldstone.models.towers import QUERY, write_towers
from fieldstone.progress import Progress
from fieldstone.settings import RetrieverTuning
from fieldstone.tune import together
from fieldstone.tune.checkpoint import last_checkpoint, writing
from fieldstone.tune.pull import distance_from_here
from fieldstone.tune.retriever import Trained
from fieldstone.tune.retriever.batches import Plan, Row, labels_of
from fieldstone.tune.retriever.frozen import Frozen
from fieldstone.tune.retriever.losses import CachedFusedLoss, FrozenPassages, loss_of
from fieldstone.tune.retriever.low_rank import add_adapters, load_adapters, merged, save_adapters
from fieldstone.tune.steps import (
    AddUp,
    Watch,
    arguments_of,
    check_device,
    parts_of,
    set_dropout,
    silence,
    texts_that_fit,
)

_SHORT = 512  # tokens
_ACTIVATIONS = 4e9  # bytes; more passages than that hold are worked through in parts


def train(
    folder: Path,
    rows: Sequence[Row],
    plan: Plan,
    work: Path,
    tuning: RetrieverTuning,
    *,
    towers: tuple[str, str] | None,
    frozen: Frozen | None,
    max_tokens: int,
    longest: int,
    dev_score: Callable[[Encoder], float] | None,
    seed: int,
    device: str,
    threads: int | None,
    dtype: str,
    progress: Progress,
) -> Trained:
    """Train the encoder in `folder` on `rows` as planned, or go on with what stands in `work`.

    With `towers` (the passages' encoder: its name and identity) the result holds the questions' side alone.
    With `frozen` passages only the questions go through the encoder.

    Of several processes each reads its share of a step's texts; the first one scores and writes.
    Texts are cut off at `max_tokens`; the longest has `longest`, which says how many fit into memory.
    With bfloat16 the weights and their updates stay float32 (autocast). Measured with MiniLM on a CPU that
    multiplies it natively: 1.9 times as fast, the loss within .1 %, the gradient's cosine above .99.
    """
    check_device(device)
    torch.set_num_threads(thread_count(threads))
    ends = [sum(map(len, plan[: epoch + 1])) for epoch in range(len(plan))]
    steps = [step for epoch in plan for step in epoch]

    with silence():
        with explained(str(folder), "encoder"):
            model = SentenceTransformer(
                str(folder), device=device, local_files_only=True, model_kwargs=_how_computed(device, longest)
            )
        model.max_seq_length = max_tokens
        set_dropout(model, tuning.dropout)
        if not any(isinstance(module, Normalize) for module in model):
            model.append(Normalize())  # our encoder always does it; so the folder says the same to others
        texts_at_once = texts_that_fit(model[0].auto_model.config, longest, _ACTIVATIONS)
        parts = parts_of(steps, rows, texts_at_once) if _apart(tuning) and not frozen else 1
        if tuning.method == "lora":
            add_adapters(model, tuning)
        checkpoint = together.first_only(lambda: last_checkpoint(work))
        several, first = together.size() > 1, together.rank() == 0
        if several:
            model.forward = together.shared_forward(model.forward)
        arguments = arguments_of(
            SentenceTransformerTrainingArguments,
            work,
            steps,
            parts,
            tuning,
            rate=tuning.lora_rate if tuning.method == "lora" else tuning.learning_rate,
            seed=seed,
            device=device,
            dtype=dtype,
            eval_strategy="steps" if dev_score else "no",
            eval_steps=len(steps),
            eval_on_start=dev_score is not None and checkpoint is None,
            load_best_model_at_end=dev_score is not None and first,  # the others have kept none
            metric_for_best_model="dev" if first else None,
            greater_is_better=True,
        )
        trainer = _Trainer(
            steps,
            tuning.method == "lora",
            tuning.start_pull if tuning.method == "full" else 0.0,
            model=model,
            args=arguments,
            train_dataset=Dataset.from_dict({"row": range(len(rows))}).with_transform(
                _questions(rows) if frozen else _columns(rows)
            ),
            loss=_loss(model, tuning, rows, frozen, texts_at_once),
            # of several processes the first scores; the trainer lets the others wait
            evaluator=_DevScore(dev_score, work / "dev", towers, device, threads) if dev_score else None,
            callbacks=[
                Watch(set(ends), progress, "tune retriever", keeps=first),
                *([AddUp()] if several else []),
            ],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train(resume_from_checkpoint=checkpoint)
        if first:
            with writing(work):
                _write(model, work / "model", towers)

    history = trainer.state.log_history
    scores = tuple(entry["eval_dev"] for entry in history if "eval_dev" in entry)
    best = max(range(1, len(scores)), key=lambda epoch: scores[epoch]) if scores else len(plan)
    losses = tuple(entry["loss"] for entry in history if "loss" in entry)
    return Trained(losses, scores, best, history[-1]["seconds"])


def _how_computed(device: str, longest: int) -> dict[str, Any]:
    """Weights in float32; on a CPU attention in plain steps: with gradients the fused kernel is slower there.

    Measured on 16 passages of 200 tokens through MiniLM, forth and back in bfloat16: 0.84 s, fused 1.12 s,
    fused with dropout 1.81 s. Its memory grows with the square of the length.
    """
    plain = {"attn_implementation": "eager"} if device == "cpu" and longest <= _SHORT else {}
    return {"dtype": torch.float32} | plain


def _loss(
    model: Any, tuning: RetrieverTuning, rows: Sequence[Row], frozen: Frozen | None, texts_at_once: int
) -> Any:
    if frozen:
        vectors = torch.tensor(frozen.vectors)

        def labels(chosen: Sequence[int]) -> list[Any] | None:
            return labels_of([rows[index] for index in chosen])

        return FrozenPassages(model, loss_of(model, tuning), vectors, frozen.places, labels)
    widest = max(len(row.texts) for row in rows) - 1
    # under Matryoshka labels as wide as the vectors would be cut off too, but not those of a cached loss
    whole = tuning.batch * widest <= texts_at_once and not tuning.matryoshka
    if whole or _apart(tuning):
        loss = loss_of(model, tuning)
    elif tuning.loss == "fused":
        loss = CachedFusedLoss(model, mini_batch_size=texts_at_once)
    else:
        loss = CachedMultipleNegativesRankingLoss(model, mini_batch_size=texts_at_once)
    return _nested(model, loss, tuning, widest) if tuning.matryoshka else loss


def _apart(tuning: RetrieverTuning) -> bool:
    """Whether no question is compared with the passages of others."""
    return tuning.loss in ("distill", "lsr", "margin")


def _nested(model: Any, loss: Any, tuning: RetrieverTuning, widest: int) -> Any:
    """The sum of the loss over all dimensions and over fewer (Matryoshka: Kusupati et al. 2022)."""
    full = model.get_embedding_dimension()
    sizes = sorted({*tuning.matryoshka, full}, reverse=True)
    if sizes[0] > full:
        raise SettingsError(
            f"retriever.matryoshka = {list(tuning.matryoshka)}, but the encoder has {full} dimensions; "
            "name smaller numbers"
        )
    if _apart(tuning) and widest == full:
        raise SettingsError(
            f"retriever.candidates = {widest} is also the number of dimensions, which retriever.matryoshka "
            f"mistakes for vectors; set retriever.candidates = {widest - 1}"
        )
    return MatryoshkaLoss(model, loss, sizes)


def _write(model: Any, folder: Path, towers: tuple[str, str] | None) -> None:
    """The encoder as it would be served: a plain folder, or the questions' side of two towers."""
    merged(model).save_pretrained(str(folder / QUERY if towers else folder), create_model_card=False)
    if towers:
        write_towers(folder, *towers)


def _questions(rows: Sequence[Row]) -> Callable[[dict[str, list[int]]], dict[str, list[Any]]]:
    """Row numbers to the questions, and the numbers themselves, by which the loss finds the passages."""
    return lambda batch: {"text_0": [rows[index].texts[0] for index in batch["row"]], "label": batch["row"]}


def _columns(rows: Sequence[Row]) -> Callable[[dict[str, list[int]]], dict[str, list[Any]]]:
    """Row numbers to the columns of a batch. Texts stay out of Arrow, and each batch has its own width."""

    def columns(batch: dict[str, list[int]]) -> dict[str, list[Any]]:
        chosen = [rows[index] for index in batch["row"]]
        texts: dict[str, list[Any]] = {
            f"text_{place}": list(column)
            for place, column in enumerate(zip(*(row.texts for row in chosen), strict=True))
        }
        labels = labels_of(chosen)
        return texts if labels is None else texts | {"label": labels}

    return columns


class _Trainer(SentenceTransformerTrainer):  # type: ignore[misc]
    """The trainer without model cards, which quote the documents and ask the hub about the base."""

    def __init__(self, steps: list[list[int]], low_rank: bool, start_pull: float, **given: Any) -> None:
        super().__init__(**given)
        self._steps, self._low_rank = steps, low_rank
        self._pull, self._away = start_pull / 2, distance_from_here(self.model) if start_pull else None

    def compute_loss(self, model: Any, inputs: dict[str, Any], **_: Any) -> Any:
        """The mean over a step, though its parts may hold one question more or less than the others."""
        share = len(inputs["text_0_input_ids"]) / len(self._steps[self.state.global_step])
        loss = super().compute_loss(model, inputs) * (share * self.args.gradient_accumulation_steps)
        return loss + self._pull * self._away() if self._away else loss

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        pass

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        with writing(Path(self.args.output_dir)):
            super()._save_checkpoint(model, trial)

    def _save(self, output_dir: str | None = None, **_: Any) -> None:
        folder = output_dir or self.args.output_dir
        if self._low_rank:
            save_adapters(self.model, Path(folder))
        else:
            self.model.save_pretrained(folder, create_model_card=False)

    def _load_from_checkpoint(self, checkpoint_path: str) -> None:
        if self._low_rank:
            load_adapters(self.model, Path(checkpoint_path))
        else:
            super()._load_from_checkpoint(checkpoint_path)


class _DevScore(BaseEvaluator):  # type: ignore[misc]
    """The caller's score, of the encoder as it would be served."""

    def __init__(
        self,
        score: Callable[[Encoder], float],
        folder: Path,
        towers: tuple[str, str] | None,
        device: str,
        threads: int | None,
    ) -> None:
        super().__init__()
        self._score, self._folder, self._towers = score, folder, towers
        self._device, self._threads = device, threads

    def __call__(self, model: Any, *_: Any, **__: Any) -> dict[str, float]:
        with writing(self._folder):
            _write(model, self._folder, self._towers)
        with torch.random.fork_rng():  # the score must not change what comes after it
            encoder = load_encoder(str(self._folder), device=self._device, threads=self._threads)
            return {"dev": float(self._score(encoder))}
