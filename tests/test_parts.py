"""The three kinds of weights that sites share: begun, tuned on, and written as a model that loads."""

from __future__ import annotations

import numpy as np
import pytest

import tiny_models
from fieldstone.federate import parts
from fieldstone.federate.aggregate import norm
from fieldstone.models import load_encoder, load_generator
from fieldstone.recipes.build import Build
from harbours import harbours, settings_of

pytest.importorskip("torch")

TEXTS = ["The crane at the quay lifts ten tonnes.", "Who opened the harbour?"]


def built(tmp_path, *flags):
    workspace = harbours(tmp_path / "w", *flags)
    return Build(workspace, (), settings_of(*flags), workspace.library())


def moved(build, tmp_path):
    """The weights at the start, and those after tuning on."""
    begin = parts.start(build.settings)
    after, loss = parts.tune(build, begin, tmp_path / "t1", 1)
    assert set(after) == set(begin)
    assert all(after[name].shape == begin[name].shape for name in begin)
    assert norm({name: after[name] - begin[name] for name in begin}) > 1e-3
    assert np.isfinite(loss)
    return begin, after


def test_an_encoder_goes_there_and_back(tmp_path):
    base = tiny_models.bert(tmp_path / "bert")
    build = built(
        tmp_path, f"models.encoder={base}", "retriever.method=full", "retriever.towers=both",
        "retriever.learning_rate=0.001",
    )  # fmt: skip
    begin, after = moved(build, tmp_path)
    plain = load_encoder(str(base)).encode_passages(TEXTS)
    for weights, same in ((begin, True), (after, False)):
        folder = tmp_path / f"written-{same}"
        parts.write(weights, build.settings, folder)
        vectors = load_encoder(str(folder)).encode_passages(TEXTS)
        assert np.allclose(vectors, plain, atol=1e-3) == same
    tuned = load_encoder(str(tmp_path / "t1")).encode_passages(TEXTS)
    assert np.allclose(load_encoder(str(tmp_path / "written-False")).encode_passages(TEXTS), tuned, atol=1e-3)
    assert parts.base_identity(build.settings) == load_encoder(str(base)).weights
    build.library.close()


def test_a_generators_adapters_go_there_and_back(tmp_path):
    base = tiny_models.llama(tmp_path / "llama", max_position_embeddings=2048)
    build = built(
        tmp_path, f"models.generator={base}", "federate.part=generator", "generator.rank=2",
        "generator.alpha=4",
        "generator.learning_rate=0.01", "generator.epochs=1", "generator.checks=1", "answer.passages=2",
    )  # fmt: skip
    begin, after = moved(build, tmp_path)
    assert all(".lora_" in name for name in begin)
    assert not any(begin[name].any() for name in begin if ".lora_B." in name)
    again = parts.start(build.settings)
    assert all(np.array_equal(again[name], its) for name, its in begin.items())  # alike wherever it is begun
    from fieldstone.models import Prompt

    asked = [Prompt("The crane of the harbour")]
    plain = load_generator(str(base), dtype="float32").score(asked, [" lifts"])[0].logprob
    for weights, same in ((begin, True), (after, False)):
        folder = tmp_path / f"written-{same}"
        parts.write(weights, build.settings, folder)
        found = load_generator(str(folder), dtype="float32").score(asked, [" lifts"])[0].logprob
        assert (abs(found - plain) < 1e-4) == same
    build.library.close()
