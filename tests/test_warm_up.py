"""The encoder warms up on passages alone (TSDAE): damaged, written anew from their vector."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fieldstone.errors import SettingsError
from fieldstone.models import load_encoder
from fieldstone.models.embedded import minilm_folder
from fieldstone.settings import RetrieverTuning, resolve_settings
from test_tune_retriever import (
    CONTRASTIVE,
    CONTRASTS,
    _alone,
    plain,
    sentences,
    tune,
    weights,
    words,
)

torch = pytest.importorskip("torch")

from fieldstone.tune.retriever import warm_up as module  # noqa: E402
from fieldstone.tune.retriever.warm_up import BATCH, _batch, _missed, damaged, warm_up  # noqa: E402

__all__ = ["_alone", "plain", "sentences"]  # fixtures

TEXTS = [words(100 + i, 20) for i in range(2 * BATCH + 3)]
WARM = CONTRASTIVE.model_copy(update={"warm_up": "tsdae", "warm_up_epochs": 2})


class Stopped(Exception):
    pass


def warmed(folder: Path, work: Path, tuning: RetrieverTuning = WARM, texts: Any = TEXTS, **more: Any) -> Any:
    given = {"max_tokens": 24, "seed": 0, "device": "cpu", "threads": 1, "progress": lambda *_: None, **more}
    return warm_up(folder, texts, work, tuning, **given)


def test_about_six_words_in_ten_are_struck_out_and_one_is_left():
    chance = random.Random(0)
    text = " ".join(map(str, range(2000)))
    left = damaged(text, chance).split()
    assert len(left) / 2000 == pytest.approx(0.4, abs=0.03)
    assert left == sorted(left, key=int)
    assert {damaged("one", chance) for _ in range(50)} == {"one"}


def test_each_text_is_seen_once_an_epoch():
    steps = math.ceil(len(TEXTS) / BATCH)
    first, second = (
        [text for step in range(1, steps + 1) for text in _batch(TEXTS, epoch * steps + step, 0)]
        for epoch in range(2)
    )
    assert sorted(first) == sorted(second) == sorted(TEXTS)
    assert first != second


def test_the_encoder_learns_and_opens_as_before(sentences: Path, tmp_path: Path) -> None:
    folder, losses = warmed(sentences, tmp_path / "w", WARM.model_copy(update={"warm_up_epochs": 8}))
    assert len(losses) == 8 * math.ceil(len(TEXTS) / BATCH)
    assert np.mean(losses[-3:]) < np.mean(losses[:3])
    before, after = weights(sentences), weights(folder)
    assert before.keys() == after.keys()  # nothing of the decoder is left in it
    moved = {name for name in before if np.abs(before[name] - after[name]).max() > 1e-6}
    assert any("layer.0" in name for name in moved)
    old, new = load_encoder(str(sentences)), load_encoder(str(folder))
    assert (old.max_tokens, old.dimension) == (new.max_tokens, new.dimension)


def test_the_loss_is_that_of_the_whole_text_given_the_damaged_vector(sentences: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.losses import DenoisingAutoEncoderLoss

    model = SentenceTransformer(str(sentences), device="cpu", local_files_only=True)
    loss = DenoisingAutoEncoderLoss(model, tie_encoder_decoder=True).eval()
    texts = [words(1, 6), words(2, 9)]
    chance = random.Random(module.fingerprint(0, *texts))
    broken = [damaged(text, chance) for text in texts]
    with torch.no_grad():
        total, count = 0.0, 0
        for text, left in zip(texts, broken, strict=True):
            vector = model.encode([left], convert_to_tensor=True, prompt="")[:, None]
            ids = model.tokenizer(text, return_tensors="pt", truncation=True, max_length=24)["input_ids"]
            logits = loss.decoder(input_ids=ids[:, :-1], encoder_hidden_states=vector, use_cache=False).logits
            logprobs = logits.log_softmax(-1)[0]
            total -= sum(logprobs[i, token].item() for i, token in enumerate(ids[0, 1:]))
            count += ids.shape[1] - 1
        assert _missed(loss, texts, 0).item() == pytest.approx(total / count, abs=1e-4)


def test_stopped_it_goes_on_and_ends_the_same(
    sentences: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SAVED_EVERY", 0.0)

    def stop(_step: str, done: int, *_: Any) -> None:
        if done == 4:
            raise Stopped

    whole, losses = warmed(sentences, tmp_path / "whole")
    with pytest.raises(Stopped):
        warmed(sentences, tmp_path / "stopped", progress=stop)
    seen: list[int] = []
    again, others = warmed(sentences, tmp_path / "stopped", progress=lambda _, done, *__: seen.append(done))
    assert seen[0] == 4
    assert others == losses
    ours, theirs = weights(whole), weights(again)
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


def test_tuning_goes_on_from_there(sentences: Path, tmp_path: Path) -> None:
    seen: list[str] = []
    tuned = tune(
        sentences,
        CONTRASTS,
        tmp_path / "t",
        WARM,
        passages=TEXTS,
        progress=lambda step, *_: seen.append(step),
    )
    cold = tune(sentences, CONTRASTS, tmp_path / "cold", CONTRASTIVE, passages=TEXTS)
    assert seen.index("warm up retriever") < seen.index("tune retriever")
    assert tuned.losses != cold.losses
    assert not (tmp_path / "t.tuning").exists()
    assert tune(sentences, CONTRASTS, tmp_path / "t", WARM, passages=TEXTS) == tuned  # at once


def test_it_cannot_be_where_the_passages_keep_their_vectors() -> None:
    flags = ["retriever.warm_up=tsdae", "retriever.towers=query"]
    with pytest.raises(SettingsError, match=r"retriever.warm_up = tsdae.*retriever.towers = query"):
        resolve_settings(environment={}, flags=flags)


@pytest.mark.slow
def test_minilm_learns_to_write_passages_of_other_articles(data: Path, tmp_path: Path) -> None:
    """Held-out passages become likelier given the vector of what is left of them."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.losses import DenoisingAutoEncoderLoss

    passages = [json.loads(line) for line in (data / "squad" / "squad_train_passages.jsonl").open()]
    short = [p for p in passages if len(p["text"]) <= 500]
    held = set(sorted({p["title"] for p in short})[::3])
    ours = [p["text"] for p in short if p["title"] not in held][:96]
    theirs = [p["text"] for p in short if p["title"] in held][:24]
    assert (len(ours), len(theirs)) == (96, 24)
    folder, losses = warmed(minilm_folder(), tmp_path / "w", WARM, ours, max_tokens=128, threads=None)
    assert np.mean(losses[-4:]) < np.mean(losses[:4])

    def missed(encoder: Path) -> float:
        """With the decoder's attention as it was drawn, the same for both: what differs is the encoder."""
        torch.manual_seed(0)
        model = SentenceTransformer(str(encoder), device="cpu", local_files_only=True)
        loss = DenoisingAutoEncoderLoss(model, tie_encoder_decoder=True).eval()
        with torch.no_grad():
            return float(_missed(loss, theirs, 1))

    assert missed(folder) < missed(minilm_folder()) - 0.1
