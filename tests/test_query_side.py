"""Only the questions' side of an encoder learns; low-rank adapters; fewer dimensions."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fieldstone.errors import SettingsError
from fieldstone.models import Encoder, load_encoder
from fieldstone.settings import RetrieverTuning
from fieldstone.tune.retriever import _rows
from fieldstone.tune.retriever.batches import plan_steps
from test_tune_retriever import (
    CONTRASTIVE,
    CONTRASTS,
    DISTILL,
    FUSED,
    LEXICAL,
    RANKINGS,
    _alone,
    plain,
    sentences,
    tune,
    weights,
    words,
)

__all__ = ["_alone", "plain", "sentences"]  # fixtures

LSR = DISTILL.model_copy(update={"loss": "lsr", "lsr_temperature": 0.5})
LORA = {"method": "lora", "lora_rank": 4, "lora_rate": 3e-3}
# twelve rows: three or four steps an epoch where a batch is 4
ALL = [(CONTRASTS[:12], CONTRASTIVE), (LEXICAL[:12], FUSED), (RANKINGS, DISTILL), (RANKINGS, LSR)]
EIGHT = [
    replace(item, positive=words(2000 + i, 30), negatives=(words(3000 + i, 30),), passage_id=f"{i}")
    for i, item in enumerate(LEXICAL[:8])
]
TEXTS = [words(5, 4), words(6, 200)]


def query_only(tuning: RetrieverTuning, **more: Any) -> RetrieverTuning:
    return tuning.model_copy(update={"towers": "query", **more})


@pytest.mark.parametrize("method", [{}, LORA], ids=["full", "lora"])
@pytest.mark.parametrize(("data", "tuning"), ALL, ids=lambda given: getattr(given, "loss", ""))
def test_the_questions_learn_and_the_passages_stay(
    sentences: Path, tmp_path: Path, data: Any, tuning: RetrieverTuning, method: dict[str, Any]
) -> None:
    from sentence_transformers import SentenceTransformer

    untouched = (sentences / "model.safetensors").read_bytes()
    tuned = tune(sentences, data, tmp_path / "t", query_only(tuning, epochs=5, **method))
    an_epoch = tuned.steps // 5
    assert np.mean(tuned.losses[-an_epoch:]) < np.mean(tuned.losses[:an_epoch])
    before, after = weights(sentences), weights(tuned.folder / "query")
    assert before.keys() == after.keys()  # merged
    moved = {name for name in before if np.abs(after[name] - before[name]).max() > 1e-4}
    if method:
        assert moved == {n for n in before if "layer." in n and "LayerNorm" not in n and "weight" in n}
    else:
        assert moved == {name for name in before if "pooler" not in name}
    assert (sentences / "model.safetensors").read_bytes() == untouched

    base, both = (load_encoder(str(f), dtype="float32") for f in (sentences, tuned.folder))
    assert both.fingerprint == base.fingerprint
    assert np.array_equal(both.encode_passages(TEXTS), base.encode_passages(TEXTS))
    theirs = SentenceTransformer(str(tuned.folder / "query"), device="cpu")
    assert np.allclose(both.encode_queries(TEXTS), theirs.encode(TEXTS, prompt_name="query"), atol=1e-5)
    assert np.abs(both.encode_queries(TEXTS) - base.encode_queries(TEXTS)).max() > 1e-3
    assert json.loads((tuned.folder / "towers.json").read_text())["passage"] == str(sentences)
    assert sorted(f.name for f in tuned.folder.iterdir()) == ["query", "towers.json", "tuned.json"]
    assert tune(sentences, data, tmp_path / "t", query_only(tuning, epochs=5, **method)) == tuned


@pytest.mark.parametrize("towers", ["both", "query"])
@pytest.mark.parametrize("direction", ["student-teacher", "teacher-student"])
@pytest.mark.parametrize("memory", [4e9, 6e6])
def test_the_first_loss_of_lsr_is_that_of_the_formula(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, towers: str, direction: str, memory: float
) -> None:
    from fieldstone.tune.retriever import sentences

    monkeypatch.setattr(sentences, "_ACTIVATIONS", memory)
    tuning = LSR.model_copy(update={"towers": towers, "divergence": direction, "epochs": 1})
    tuned = tune(plain, RANKINGS, tmp_path / "t", tuning, seed=3, dtype="float32")
    base, wanted = load_encoder(str(plain), dtype="float32"), []
    for item in (RANKINGS[i] for i in plan_steps(_rows(RANKINGS, tuning), 4, 1, seed=3)[0][0]):
        cosines = base.encode_passages(item.passages) @ base.encode_queries([item.question])[0]
        teacher, student = np.exp(np.array(item.scores) / 0.5), np.exp(cosines.astype(float) / 0.05)
        p, q = student / student.sum(), teacher / teacher.sum()
        wanted.append(np.sum(p * np.log(p / q) if direction == "student-teacher" else q * np.log(q / p)))
    assert tuned.losses[0] == pytest.approx(np.mean(wanted), rel=1e-4)


@pytest.mark.parametrize(("data", "tuning"), ALL, ids=lambda given: getattr(given, "loss", ""))
def test_frozen_passages_give_the_losses_of_passages_encoded_anew(
    plain: Path, tmp_path: Path, data: Any, tuning: RetrieverTuning
) -> None:
    """Before anything has moved; the steps are shuffled, so a passage out of place would show."""
    still = tuning.model_copy(update={"learning_rate": 1e-12, "epochs": 1})
    both = tune(plain, data, tmp_path / "b", still, dtype="float32")
    frozen = tune(plain, data, tmp_path / "q", query_only(still), dtype="float32")
    assert frozen.losses == pytest.approx(both.losses, rel=1e-3)


@pytest.mark.parametrize("stop", [2, pytest.param(5, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("data", "tuning"),
    [
        (RANKINGS, query_only(LSR)),
        (LEXICAL[:12], query_only(FUSED, **LORA)),
        pytest.param(CONTRASTS[:12], CONTRASTIVE.model_copy(update=LORA), marks=pytest.mark.slow),
    ],
    ids=["lsr", "fused lora query", "contrastive lora"],
)
def test_stopped_it_ends_as_if_it_had_not_been(
    sentences: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: Any, tuning: Any, stop: int
) -> None:
    from fieldstone.tune import steps as training

    def score(encoder: Encoder) -> float:
        return float(encoder.encode_queries(["cats"])[0, 0])

    def stopping(step: str, done: int, total: int, unit: str) -> None:
        if (step, done) == ("tune retriever", stop):
            raise KeyboardInterrupt

    whole = tune(sentences, data, tmp_path / "whole", tuning, dev_score=score)
    monkeypatch.setattr(training, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        tune(sentences, data, tmp_path / "parts", tuning, dev_score=score, progress=stopping)
    steps: list[int] = []

    def told(step: str, done: int, *_: Any) -> None:
        if step == "tune retriever":
            steps.append(done)

    parts = tune(sentences, data, tmp_path / "parts", tuning, dev_score=score, progress=told)
    assert steps[0] == stop - 1
    assert (parts.losses, parts.dev_scores, parts.best) == (whole.losses, whole.dev_scores, whole.best)
    assert len(set(whole.dev_scores)) == 3
    place = "query" if tuning.towers == "query" else "."
    first, second = weights(whole.folder / place), weights(parts.folder / place)
    assert all(np.array_equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("data", "tuning"),
    [(CONTRASTS[:8], CONTRASTIVE), (EIGHT, FUSED), (RANKINGS[:8], DISTILL), (RANKINGS[:8], LSR)],
)
def test_matryoshka_sums_the_loss_over_the_dimensions(
    plain: Path, tmp_path: Path, data: Any, tuning: RetrieverTuning
) -> None:
    """Each alone is the same loss of vectors cut short and brought to unit length again."""
    import torch

    from fieldstone.tune.retriever.batches import labels_of
    from fieldstone.tune.retriever.losses import loss_of

    nested = tuning.model_copy(update={"matryoshka": (8,), "batch": 8 if data is EIGHT else 4})
    tuned = tune(plain, data, tmp_path / "t", nested, seed=3, dtype="float32")
    rows = _rows(data, tuning)
    step = [rows[i] for i in plan_steps(rows, nested.batch, 2, seed=3)[0][0]]
    base = load_encoder(str(plain), dtype="float32")
    columns = [base.encode_queries([row.texts[0] for row in step])]
    columns += [
        base.encode_passages(list(column)) for column in zip(*(r.texts[1:] for r in step), strict=True)
    ]
    labels = labels_of(step)
    if data is EIGHT:
        assert labels is not None
        assert len(labels[0]) == base.dimension  # a trap: as wide as the vectors, and not to be cut off
    total = 0.0
    for size in (32, 8):
        cut = [torch.nn.functional.normalize(torch.tensor(c[:, :size]), dim=1) for c in columns]
        told = None if labels is None else torch.tensor(labels)
        total += float(loss_of(None, tuning).compute_loss_from_embeddings(cut, told))
    assert tuned.losses[0] == pytest.approx(total, rel=1e-3)
    before, after = weights(plain), weights(tuned.folder)
    assert any(np.abs(after[name] - before[name]).max() > 1e-4 for name in before)


def test_dimensions_that_there_are_not_are_refused(plain: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"matryoshka = \[64\], but the encoder has 32 dimensions"):
        tune(plain, CONTRASTS, tmp_path / "t", CONTRASTIVE.model_copy(update={"matryoshka": (64,)}))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"method": "adapter"}, "retriever.method = adapter .* retriever.towers = both; set"),
        ({"matryoshka": (64,), "towers": "query"}, "retriever.matryoshka = .64. .* retriever.towers = query"),
        ({"matryoshka": (0,)}, "1 dimension or more"),
    ],
)
def test_what_does_not_fit_together_is_told(given: dict[str, Any], says: str) -> None:
    from fieldstone.settings import resolve_settings

    with pytest.raises(SettingsError, match=says):
        resolve_settings({"retriever": given}, environment={})
