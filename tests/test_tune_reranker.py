"""Tuning the reranker: real training of tiny random BERTs, and of MiniLM's body on real questions."""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny_models
from fieldstone.errors import ModelError, QuestionsError
from fieldstone.models import load_reranker
from fieldstone.search import search
from fieldstone.settings import RerankerTuning, SearchSettings
from fieldstone.tune.reranker import tune_reranker
from fieldstone.tune.retriever import Contrast, Tuned
from fieldstone.tune.retriever.batches import Row, plan_steps
from fieldstone.tune.retriever.contrast import mined
from small_library import squad_index

WORDS = ["harbour", "master", "pilot", "vessel", "radio", "evening", "morning", "cats", "purr", "content"]


def words(seed: int, count: int) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=count))


CONTRASTS = [
    Contrast(words(i, 5), words(1000 + i % 7, 20), tuple(words(1000 + (i + k) % 7, 20) for k in (1, 2)), "p")
    for i in range(13)
]
LISTWISE = RerankerTuning(epochs=2, batch=4, learning_rate=1e-3, negatives=2)
POINTWISE = LISTWISE.model_copy(update={"loss": "pointwise"})


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No network, and a cache of its own."""

    def refuse(*_: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("FIELDSTONE_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def crossed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cross-encoder."""
    return tiny_models.cross_encoder(tmp_path_factory.mktemp("crossed"))


@pytest.fixture(scope="module")
def body(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder, which has no head."""
    return tiny_models.bert(tmp_path_factory.mktemp("body"))


def weights(folder: Path) -> dict[str, np.ndarray[Any, Any]]:
    from safetensors.numpy import load_file

    return dict(load_file(folder / "model.safetensors"))


def tune(base: Path, data: Sequence[Contrast], into: Path, tuning: RerankerTuning, **more: Any) -> Tuned:
    return tune_reranker(str(base), data, into, tuning, device="cpu", threads=1, **more)


@pytest.mark.parametrize("tuning", [LISTWISE, POINTWISE])
@pytest.mark.parametrize("base", ["crossed", "body"])
def test_a_tuned_reranker(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
    base: str,
    tuning: RerankerTuning,
) -> None:
    from sentence_transformers import CrossEncoder

    folder: Path = request.getfixturevalue(base)
    tuning = tuning.model_copy(update={"epochs": 6})
    seen: list[tuple[str, int, int, str]] = []
    capfd.readouterr()
    tuned = tune(folder, CONTRASTS, tmp_path / "t", tuning, progress=lambda *said: seen.append(said))
    assert capfd.readouterr() == ("", "")

    before, after = weights(folder), weights(tuned.folder)
    kept = {name: name if name in after else f"bert.{name}" for name in before}
    assert all(np.abs(after[new] - before[old]).max() > 1e-4 for old, new in kept.items())
    assert len(tuned.losses) == tuned.steps == 6 * 4
    assert np.mean(tuned.losses[-4:]) < np.mean(tuned.losses[:4])
    assert seen == [("tune reranker", step, tuned.steps, "steps") for step in range(tuned.steps + 1)]

    ours = load_reranker(str(tuned.folder), device="cpu", threads=1, dtype="float32")
    theirs = CrossEncoder(str(tuned.folder), device="cpu")
    texts = [words(5, 4), words(6, 30), words(7, 300)]  # the last is cut off
    scores = ours.rerank("who purrs at the harbour?", texts)
    assert scores == pytest.approx(
        theirs.predict([("who purrs at the harbour?", text) for text in texts]), abs=1e-4
    )
    assert np.ptp(scores) > 1e-3

    facts = json.loads((tuned.folder / "tuned.json").read_text())
    assert (facts["base"], facts["seed"], facts["questions"]) == (str(folder), 0, len(CONTRASTS))
    assert not (tuned.folder / "README.md").exists()
    assert not (tmp_path / "t.tuning").exists()
    assert tune(folder, CONTRASTS, tmp_path / "t", tuning) == tuned  # at once, from the facts


def log_sigmoid(logits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    found: np.ndarray[Any, Any] = -np.log1p(np.exp(-logits))
    return found


@pytest.mark.parametrize("memory", [4e9, 1e6])  # with the little one, a step is worked through in parts
def test_the_first_losses_are_those_of_the_formulas(
    crossed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: float
) -> None:
    from fieldstone.tune.reranker import pairs

    monkeypatch.setattr(pairs, "_ACTIVATIONS", memory)
    base = load_reranker(str(crossed), device="cpu", threads=1, dtype="float32")
    rows = [Row((c.question, c.positive, *c.negatives), (), None) for c in CONTRASTS]
    step = [CONTRASTS[i] for i in plan_steps(rows, 4, 1, seed=3)[0][0]]
    logits = np.array([base.rerank(c.question, [c.positive, *c.negatives]) for c in step])
    assert logits.shape == (len(step), 3)

    once = {"epochs": 1}
    how = LISTWISE.model_copy(update=once)
    listed = tune(crossed, CONTRASTS, tmp_path / "l", how, seed=3, dtype="float32")
    expected = -np.mean(logits[:, 0] - np.log(np.exp(logits).sum(1)))
    assert listed.losses[0] == pytest.approx(expected, rel=1e-4)

    how = POINTWISE.model_copy(update=once)
    paired = tune(crossed, CONTRASTS, tmp_path / "p", how, seed=3, dtype="float32")
    right, wrong = 2 * log_sigmoid(logits[:, 0]), log_sigmoid(-logits[:, 1:]).sum(1)
    assert paired.losses[0] == pytest.approx(-np.mean(right + wrong) / 3, rel=1e-4)


def test_the_head_is_drawn_by_the_seed(body: Path, tmp_path: Path) -> None:
    still = LISTWISE.model_copy(update={"learning_rate": 1e-12, "epochs": 1})
    heads = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        tuned = tune(body, CONTRASTS, tmp_path / name, still, seed=seed)
        heads.append(weights(tuned.folder)["classifier.weight"])
    assert np.allclose(heads[0], heads[1], atol=1e-9)
    assert np.abs(heads[0] - heads[2]).max() > 1e-3
    body_now = weights(tmp_path / "a")["bert.encoder.layer.0.output.dense.weight"]
    assert np.allclose(body_now, weights(body)["encoder.layer.0.output.dense.weight"], atol=1e-9)


# within the first epoch and within the second
@pytest.mark.parametrize("stop", [2, pytest.param(6, marks=pytest.mark.slow)])
def test_a_run_that_was_stopped_ends_as_if_it_had_not_been(
    body: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    from fieldstone.tune import steps

    tuning = LISTWISE.model_copy(update={"dropout": 0.1})

    def stopping(step: str, done: int, total: int, unit: str) -> None:
        if done == stop:
            raise KeyboardInterrupt

    whole = tune(body, CONTRASTS, tmp_path / "whole", tuning)
    monkeypatch.setattr(steps, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        tune(body, CONTRASTS, tmp_path / "parts", tuning, progress=stopping)
    assert not (tmp_path / "parts").exists()
    half = tmp_path / "parts.tuning" / "checkpoint-99"  # a kill while a checkpoint was written
    half.mkdir()
    (half / "trainer_state.json").write_text('{"epoch": 0.')

    steps: list[int] = []
    parts = tune(
        body, CONTRASTS, tmp_path / "parts", tuning, progress=lambda _, done, *__: steps.append(done)
    )
    assert steps[0] == stop - 1
    assert parts.losses == whole.losses
    first, second = weights(whole.folder), weights(parts.folder)
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_questions_without_negatives_are_left_out_and_their_own_passage_is_none(
    crossed: Path, tmp_path: Path
) -> None:
    odd = [
        Contrast("why?", "cats purr", (), "1"),
        Contrast("who?", "cats purr", ("cats purr",), "1"),
        *CONTRASTS[:4],
    ]
    tuned = tune(crossed, odd, tmp_path / "t", LISTWISE)
    assert json.loads((tuned.folder / "tuned.json").read_text())["questions"] == 4
    with pytest.raises(QuestionsError, match="no questions with hard negatives"):
        tune(crossed, odd[:2], tmp_path / "n", LISTWISE)


@pytest.mark.parametrize("name", ["http://host:8000/v1#model", "fake:words", "dual:query=a,passage=b"])
def test_what_has_no_weights_here_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelError, match="give embedded:minilm, a folder or a hub id"):
        tune_reranker(name, CONTRASTS, tmp_path / "t", LISTWISE)


@pytest.mark.slow
def test_minilm_learns_to_rerank_from_human_questions(data: Path, tmp_path: Path) -> None:
    """From a body with a fresh head, on eight articles of SQuAD: it orders the candidates of four others."""
    index, examples = squad_index(tmp_path, data, longest=400)
    held_titles = sorted({e.id.partition("/")[0] for e in examples})[::3]
    held = [e for e in examples if e.id.partition("/")[0] in held_titles]
    ours = [e for e in examples if e.id.partition("/")[0] not in held_titles]
    texts = index.library.passage_texts()
    chosen, asked = random.Random(0).sample(ours, 341), random.Random(0).sample(held, 160)
    rows = mined(index, chosen, [SearchSettings()], 30, 1, texts, 0)
    tuning = RerankerTuning(epochs=1, batch=6, learning_rate=2e-4, negatives=1)
    tuned = tune_reranker("embedded:minilm", rows, tmp_path / "t", tuning)
    still = tuning.model_copy(update={"learning_rate": 1e-12})
    start = tune_reranker("embedded:minilm", rows[:4], tmp_path / "s", still)
    found = search(index, [e.question for e in asked], SearchSettings(rerank="none"), 8)

    def reciprocal_ranks(name: Path) -> np.ndarray[Any, Any]:
        reranker, values = load_reranker(str(name)), []
        for example, hits in zip(asked, found, strict=True):
            scores = reranker.rerank(example.question, [texts[hit.passage.id] for hit in hits])
            own = [s for s, h in zip(scores, hits, strict=True) if h.passage.id == example.passage_id]
            values.append(1 / (1 + sum(score > own[0] for score in scores)) if own else 0.0)
        return np.array(values)

    gains = reciprocal_ranks(tuned.folder) - reciprocal_ranks(start.folder)
    assert gains.mean() > 1.96 * gains.std() / len(gains) ** 0.5
