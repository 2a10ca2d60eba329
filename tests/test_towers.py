"""A tuned questions' side beside its passages' encoder: opened, adapted, and refused where that is gone."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import tiny_models
from fieldstone.errors import ModelError
from fieldstone.models import Encoder, load_encoder
from fieldstone.models.dual import DualEncoder
from fieldstone.models.towers import (
    ADAPTER,
    AdaptedEncoder,
    identity,
    passage_model,
    write_adapter,
    write_towers,
)

TEXTS = ["cats purr", "the harbour master", ""]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tiny_models.bert(tmp_path / "base")


def opened(folder: Path, dtype: str = "float32") -> Encoder:
    return load_encoder(str(folder), device="cpu", threads=1, dtype=dtype)


@pytest.fixture
def towers(tmp_path: Path, base: Path) -> Path:
    """Questions through another encoder."""
    import torch
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "towers"
    shutil.copytree(base, folder / "query")
    weights = load_file(folder / "query" / "model.safetensors")
    torch.manual_seed(1)
    moved = {name: tensor + 0.1 * torch.randn_like(tensor) for name, tensor in weights.items()}
    save_file(moved, folder / "query" / "model.safetensors", {"format": "pt"})
    write_towers(folder, str(base), identity(opened(base)))
    return folder


def test_questions_and_passages_go_through_an_encoder_each(base, towers):
    both, passages, questions = opened(towers), opened(base), opened(towers / "query")
    assert np.array_equal(both.encode_passages(TEXTS), passages.encode_passages(TEXTS))
    assert np.array_equal(both.encode_queries(TEXTS), questions.encode_queries(TEXTS))
    assert np.abs(both.encode_queries(TEXTS) - passages.encode_queries(TEXTS)).max() > 0.01
    # what made the passages' vectors, and so whether they are made anew
    assert both.fingerprint == passages.fingerprint != questions.fingerprint
    assert (both.name, both.dimension, both.max_tokens) == (str(towers), 32, 128)
    assert both.count_tokens(TEXTS) == passages.count_tokens(TEXTS)
    assert opened(towers, "bfloat16").fingerprint == opened(base, "bfloat16").fingerprint


def test_the_encoder_of_the_passages_is_named(base, towers):
    assert passage_model(str(towers)) == str(base)
    for plain in (str(base), "embedded:minilm", "http://host/v1#m", "owner/name"):
        assert passage_model(plain) == plain


def test_identity_is_that_of_the_weights_in_any_precision(base):
    assert identity(opened(base)) == identity(opened(base, "bfloat16"))
    assert identity(DualEncoder("two", load_encoder("fake:words"), opened(base))) == identity(opened(base))
    assert identity(load_encoder("fake:words")) == load_encoder("fake:words").fingerprint


def test_an_adapter_maps_the_questions_alone(tmp_path, base):
    chance = np.random.default_rng(0)
    weight = chance.normal(size=(32, 32)).astype(np.float32)
    bias = chance.normal(size=32).astype(np.float32)
    write_towers(tmp_path / "a", str(base), identity(opened(base)))
    write_adapter(tmp_path / "a" / ADAPTER, weight, bias)
    adapted, plain = opened(tmp_path / "a"), opened(base)
    assert adapted.fingerprint == plain.fingerprint
    assert np.array_equal(adapted.encode_passages(TEXTS), plain.encode_passages(TEXTS))
    for mapped, vector in zip(adapted.encode_queries(TEXTS), plain.encode_queries(TEXTS), strict=True):
        by_hand = vector + weight @ vector + bias
        assert mapped == pytest.approx(by_hand / np.linalg.norm(by_hand), abs=1e-5)
    assert adapted.encode_queries([]).shape == (0, 32)
    nothing = AdaptedEncoder(plain, np.zeros((32, 32), np.float32), np.zeros(32, np.float32))
    assert nothing.encode_queries(TEXTS) == pytest.approx(plain.encode_queries(TEXTS), abs=1e-6)
    with pytest.raises(ModelError, match=r"shape \(2, 2\), but .* has 32 dimensions"):
        AdaptedEncoder(plain, np.zeros((2, 2), np.float32), np.zeros(2, np.float32))


def test_a_base_that_is_gone_is_named(base, towers):
    base.rename(base.with_name("elsewhere"))
    with pytest.raises(ModelError, match=r"questions' side alone and needs the encoder '.*base' for the"):
        opened(towers)


def test_a_base_with_other_weights_is_refused(base, towers):
    shutil.copy(towers / "query" / "model.safetensors", base / "model.safetensors")
    with pytest.raises(ModelError, match=r"tuned beside other weights than '.*base' has now"):
        opened(towers)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"passage": "x"}', "\x00"])
def test_a_damaged_note_is_told(towers, content):
    (towers / "towers.json").write_text(content)
    for load in (opened, lambda folder: passage_model(str(folder))):
        with pytest.raises(ModelError, match="damaged"):
            load(towers)


def test_a_damaged_adapter_is_told(tmp_path, base):
    write_towers(tmp_path / "a", str(base), identity(opened(base)))
    (tmp_path / "a" / ADAPTER).write_bytes(b"nothing of the kind")
    with pytest.raises(ModelError, match="damaged"):
        opened(tmp_path / "a")
