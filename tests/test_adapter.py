"""The small map on the questions' vectors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny_models
from fieldstone.errors import ModelError
from fieldstone.models import load_encoder
from fieldstone.models.towers import ADAPTER, read_adapter, write_adapter
from fieldstone.settings import RetrieverTuning
from fieldstone.tune.retriever import Tuned, _rows, tune_retriever
from fieldstone.tune.retriever.batches import plan_steps
from test_tune_retriever import CONTRASTS, LEXICAL, RANKINGS, words

HOW = RetrieverTuning(
    method="adapter",
    towers="query",
    loss="contrastive",
    batch=4,
    adapter_epochs=5,
    adapter_rate=0.01,
    adapter_pull=0.01,
)
ALL: list[tuple[Any, str]] = [
    (CONTRASTS, "contrastive"), (LEXICAL, "fused"), (RANKINGS, "distill"), (RANKINGS, "lsr"),
]  # fmt: skip


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.bert(tmp_path_factory.mktemp("bert"))


def tune(base: object, data: Any, into: Path, tuning: RetrieverTuning, **more: Any) -> Tuned:
    return tune_retriever(str(base), data, into, tuning, device="cpu", threads=1, **more)


@pytest.mark.parametrize(("data", "loss"), ALL)
@pytest.mark.parametrize("base", ["bert", "fake:words"])
def test_it_learns_and_the_passages_stay(bert, tmp_path, data, loss, base):
    base = str(bert) if base == "bert" else base
    seen: list[tuple[str, int, int, str]] = []
    tuned = tune(
        base, data, tmp_path / "t", HOW.model_copy(update={"loss": loss}), progress=lambda *s: seen.append(s)
    )
    an_epoch = tuned.steps // 5
    assert np.mean(tuned.losses[-an_epoch:]) < np.mean(tuned.losses[:an_epoch])
    before, after = load_encoder(base), load_encoder(str(tuned.folder))
    texts = [words(3, 5), words(4, 9)]
    assert np.array_equal(before.encode_passages(texts), after.encode_passages(texts))
    assert np.abs(before.encode_queries(texts) - after.encode_queries(texts)).max() > 1e-3
    assert after.fingerprint == before.fingerprint
    weight, bias = read_adapter(tuned.folder / ADAPTER)
    assert np.abs(weight).max() > 1e-3
    assert np.abs(bias).max() > 1e-3
    assert seen[-1] == ("tune retriever", tuned.steps, tuned.steps, "steps")
    assert json.loads((tuned.folder / "tuned.json").read_text())["questions"] == len(data)
    assert not (tmp_path / "t.tuning").exists()
    again = tune(base, data, tmp_path / "t", HOW.model_copy(update={"loss": loss}))
    assert again == tuned  # at once, from the facts


def test_it_starts_at_the_identity(bert, tmp_path):
    tuning = HOW.model_copy(update={"loss": "lsr", "lsr_temperature": 0.5})
    tuned = tune(bert, RANKINGS, tmp_path / "t", tuning, seed=3)
    encoder, divergences = load_encoder(str(bert)), []
    for item in (RANKINGS[i] for i in plan_steps(_rows(RANKINGS, tuning), 4, 1, seed=3)[0][0]):
        cosines = encoder.encode_passages(item.passages) @ encoder.encode_queries([item.question])[0]
        teacher, student = np.exp(np.array(item.scores) / 0.5), np.exp(cosines.astype(float) / 0.05)
        teacher, student = teacher / teacher.sum(), student / student.sum()
        divergences.append(np.sum(student * np.log(student / teacher)))
    assert tuned.losses[0] == pytest.approx(np.mean(divergences), rel=1e-4)


def test_a_strong_pull_holds_it_there(bert, tmp_path):
    texts = [words(3, 5)]
    plain = load_encoder(str(bert)).encode_queries(texts)
    moved = []
    for pull in (0.0, 1.0, 1000.0):
        folder = tune(
            bert, CONTRASTS, tmp_path / f"{pull}", HOW.model_copy(update={"adapter_pull": pull})
        ).folder
        moved.append(float(np.abs(load_encoder(str(folder)).encode_queries(texts) - plain).max()))
    assert moved[0] > moved[1] > moved[2]


def test_stopped_it_comes_to_the_same(bert, tmp_path):
    def stop(step: str, done: int, total: int, unit: str) -> None:
        if (step, done) == ("tune retriever", 7):
            raise KeyboardInterrupt

    whole = tune(bert, RANKINGS, tmp_path / "whole", HOW.model_copy(update={"loss": "lsr"}))
    with pytest.raises(KeyboardInterrupt):
        tune(bert, RANKINGS, tmp_path / "t", HOW.model_copy(update={"loss": "lsr"}), progress=stop)
    assert not (tmp_path / "t").exists()
    again = tune(bert, RANKINGS, tmp_path / "t", HOW.model_copy(update={"loss": "lsr"}))
    assert again.losses == whole.losses
    for one, other in zip(
        read_adapter(whole.folder / ADAPTER), read_adapter(again.folder / ADAPTER), strict=True
    ):
        assert np.array_equal(one, other)


def test_known_vectors_are_not_made_again(bert, tmp_path):
    vectors = np.random.default_rng(0).normal(size=(20, 32)).astype(np.float32)
    texts = list(dict.fromkeys(t for c in CONTRASTS for t in (c.positive, *c.negatives)))
    known = {text: v / np.linalg.norm(v) for text, v in zip(texts, vectors, strict=False)}
    told: list[str] = []
    tuned = tune(bert, CONTRASTS, tmp_path / "t", HOW, known=known, progress=lambda s, *_: told.append(s))
    assert set(told) == {"tune retriever"}
    assert tuned.losses[0] != tune(bert, CONTRASTS, tmp_path / "u", HOW).losses[0]


def test_the_best_epoch_is_kept(bert, tmp_path):
    met: list[Any] = []

    def score(encoder: Any) -> float:
        met.append(encoder.encode_queries(["cats purr"]))
        return (0.5, 0.1, 0.4, 0.2, 0.4, 0.3)[len(met) - 1]

    tuned = tune(bert, CONTRASTS, tmp_path / "t", HOW, dev_score=score)
    assert (tuned.best, tuned.dev_scores) == (2, (0.5, 0.1, 0.4, 0.2, 0.4, 0.3))
    kept = load_encoder(str(tuned.folder)).encode_queries(["cats purr"])
    assert kept == pytest.approx(met[2], abs=1e-6)


def test_a_tuned_side_is_not_tuned_again(bert, tmp_path):
    tuned = tune(bert, CONTRASTS, tmp_path / "t", HOW)
    for method in ("adapter", "full"):
        with pytest.raises(ModelError, match="tune its base"):
            tune(tuned.folder, CONTRASTS, tmp_path / "u", HOW.model_copy(update={"method": method}))


def test_it_goes_on_from_an_earlier_map(bert, tmp_path):
    first = tune(bert, CONTRASTS, tmp_path / "first", HOW)
    start = first.folder / ADAPTER
    still = HOW.model_copy(update={"adapter_rate": 1e-12})
    second = tune(bert, CONTRASTS, tmp_path / "second", still, start=start)
    for ours, theirs in zip(read_adapter(second.folder / ADAPTER), read_adapter(start), strict=True):
        assert np.allclose(ours, theirs, atol=1e-7)
    assert second.losses[0] < first.losses[0]
    other = tune(bert, CONTRASTS, tmp_path / "second", still)  # another start is another run
    assert other.losses != second.losses


def test_a_pull_to_the_start_holds_it_there(bert, tmp_path):
    start = tune(bert, CONTRASTS, tmp_path / "first", HOW).folder / ADAPTER
    moved = []
    for pull in (0.0, 10.0, 10_000.0):
        how = HOW.model_copy(update={"start_pull": pull})
        weight, _ = read_adapter(
            tune(
                bert, LEXICAL, tmp_path / f"{pull}", how.model_copy(update={"loss": "fused"}), start=start
            ).folder
            / ADAPTER
        )
        moved.append(float(np.square(weight - read_adapter(start)[0]).sum()))
    assert moved[0] > moved[1] > moved[2]


def test_a_map_of_another_size_is_refused(bert, tmp_path):
    write_adapter(tmp_path / ADAPTER, np.zeros((3, 3), np.float32), np.zeros(3, np.float32))
    with pytest.raises(ModelError, match=r"shape \(3, 3\), but the encoder has"):
        tune(bert, CONTRASTS, tmp_path / "t", HOW, start=tmp_path / ADAPTER)
