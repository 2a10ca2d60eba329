"""Tune a cross-encoder to tell a question's passage from passages that look right.

`listwise`: the softmax over the passage and its hard negatives, the mean of -log p(passage) (localized
contrastive estimation, Gao, Dai and Callan 2021). It asks what a reranker is asked: which of these few.
`pointwise`: each pair by itself, binary cross-entropy (Nogueira and Cho 2019), a right pair weighing as much
as all its negatives.

The base is a cross-encoder, or any encoder: then its body gets a fresh head with one label.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from fieldstone.errors import ModelError, QuestionsError, WorkspaceError
from fieldstone.models import BACKENDS
from fieldstone.models.devices import pick_device, pick_dtype
from fieldstone.models.embedded import minilm_folder
from fieldstone.models.files import weights_fingerprint
from fieldstone.models.huggingface import resolve
from fieldstone.progress import Progress, silent
from fieldstone.records import fingerprint
from fieldstone.settings import RerankerTuning
from fieldstone.tune.retriever import Contrast, Tuned, finished, prepare, publish
from fieldstone.tune.retriever.batches import Row, plan_steps


def tune_reranker(
    base: str,
    data: Sequence[Contrast],
    into: Path,
    tuning: RerankerTuning,
    *,
    seed: int = 0,
    device: str = "auto",
    threads: int | None = None,
    dtype: str = "auto",
    progress: Progress = silent,
) -> Tuned:
    """Tune the cross-encoder called `base` on `data`; `into` becomes a folder with the facts in tuned.json.

    `load_reranker(str(into))` opens it, and so does sentence-transformers. Questions without a negative teach
    nothing and are left out. Until the end all lies in a folder beside `into` (`NAME.tuning`), then `into`
    appears in one rename. Called again with the same base, data, settings and seed, it goes on where it was
    stopped or returns at once. The last epoch is kept: the gate decides about it.

    Raises ModelError for a base that cannot be tuned, QuestionsError for data that teach nothing,
    WorkspaceError for a folder that cannot be written.
    """
    folder = _folder(base)
    rows = _rows(data, tuning.negatives)
    settings = tuning.model_dump(mode="json", exclude={"candidates", "weight"})  # they change no step
    inputs = fingerprint(weights_fingerprint(folder), json.dumps(settings), seed, dtype, *rows)

    work = into.with_name(f"{into.name}.tuning")
    if known := finished(into, inputs):
        shutil.rmtree(work, ignore_errors=True)
        return known
    where = pick_device(device).name
    # float16 gradients would underflow
    precision = "bfloat16" if pick_dtype(where, dtype) == "bfloat16" else "float32"
    plan = plan_steps(rows, tuning.batch, tuning.epochs, seed)
    from fieldstone.tune.reranker.pairs import train  # only now: it loads torch

    try:
        prepare(work, inputs)
        trained = train(
            folder, rows, plan, work, tuning,
            seed=seed, device=where, threads=threads, dtype=precision, progress=progress,
        )  # fmt: skip
        facts = {"base": base, "inputs": inputs, "questions": len(rows), "seed": seed, "settings": settings}
        facts |= {"device": where, "dtype": precision, "steps": len(trained.losses)}
        return publish(work, facts | dataclasses.asdict(trained), into)
    except OSError as error:
        raise WorkspaceError(
            f"{into} cannot be written: {error}; make room there and start again: it goes on where it stopped"
        ) from error


def _folder(base: str) -> Path:
    """Where the weights of the base lie."""
    if base == "embedded:minilm":
        return minilm_folder()
    if base.partition(":")[0] in BACKENDS:
        raise ModelError(
            f"{base!r} cannot be tuned as a reranker; give embedded:minilm, a folder or a hub id"
        )
    return resolve(base)


def _rows(data: Sequence[Contrast], most: int) -> list[Row]:
    """The data as rows with so many negatives at most; none is a negative of another's."""
    rows = []
    for item in data:
        negatives = [text for text in dict.fromkeys(item.negatives) if text != item.positive][:most]
        if negatives:
            rows.append(Row((item.question, item.positive, *negatives), (), None))
    if not rows:
        raise QuestionsError(
            "there are no questions with hard negatives to tune the reranker on; add documents, or write or "
            "gather some questions first"
        )
    return rows
