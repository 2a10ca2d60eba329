"""Our own forward pass of Llama and BERT, beside transformers' in both number types."""

from __future__ import annotations

import random
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tiny_models
from fieldstone.errors import ModelError
from fieldstone.models import Prompt, load_encoder, load_generator
from fieldstone.models.causal import CausalGenerator
from fieldstone.models.lean_llama import _consecutive
from fieldstone.models.packed import PackedLinear

WORDS = [word for text in tiny_models.TEXT for word in text.split()]


def texts(count: int, most: int, seed: int = 0) -> list[str]:
    """Of lengths from one word to `most`."""
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=1 + i * most // count)) for i in range(count)]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.llama(tmp_path_factory.mktemp("m") / "llama")


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.bert(tmp_path_factory.mktemp("m") / "bert")


def generator(folder: Path, engine: str, dtype: str) -> CausalGenerator:
    made = load_generator(str(folder), engine=engine, dtype=dtype, device="cpu", cache=folder.parent)
    assert isinstance(made, CausalGenerator)
    return made


def means(made: CausalGenerator) -> list[float]:
    """Log-probabilities a token, with prefixes and without, of rows of many lengths."""
    given = texts(12, 30)
    prompts = [
        Prompt(text=text) if i % 3 else Prompt(prefix=text, text=" six") for i, text in enumerate(given)
    ]
    return [score.mean for score in made.score(prompts, [" at ten in the evening"] * len(prompts))]


def test_bfloat16_is_no_farther_from_float32_than_that_of_transformers(llama: Path) -> None:
    exact = means(generator(llama, "transformers", "float32"))
    assert means(generator(llama, "lean", "float32")) == pytest.approx(exact, abs=1e-4)

    def error(engine: str) -> float:
        return statistics.mean(
            abs(a - b) for a, b in zip(means(generator(llama, engine, "bfloat16")), exact, strict=True)
        )

    assert 0 < error("lean") < 1.2 * error("transformers")


def test_vectors_in_bfloat16_are_those_of_transformers_but_for_rounding(bert: Path) -> None:
    given = [*texts(20, 60), ""]

    def vectors(engine: str, dtype: str) -> Any:
        made = load_encoder(str(bert), engine=engine, dtype=dtype, device="cpu", cache=bert.parent)
        return made.encode_passages(given)

    exact, rounded = vectors("transformers", "float32"), vectors("transformers", "bfloat16")
    assert np.allclose(vectors("lean", "float32"), exact, atol=1e-5)
    lean = vectors("lean", "bfloat16")
    assert 1 - (lean * exact).sum(1).mean() < 1.2 * (1 - (rounded * exact).sum(1).mean())


def test_the_fingerprint_does_not_tell_the_engine(bert: Path, llama: Path) -> None:
    """They differ by rounding alone, so vectors of the one serve the other."""
    encoders = [load_encoder(str(bert), engine=e, cache=bert.parent) for e in ("lean", "transformers")]
    assert len({encoder.fingerprint for encoder in encoders}) == 1
    assert len({generator(llama, e, "float32").fingerprint for e in ("lean", "transformers")}) == 1


@pytest.mark.parametrize("kind", ["gemma2", "t5"])
def test_what_it_cannot_read_is_refused_or_left_to_transformers(tmp_path: Path, kind: str) -> None:
    folder = getattr(tiny_models, kind)(tmp_path / kind)
    with pytest.raises(ModelError, match=r"the lean engine reads .*models\.engine = auto"):
        load_generator(str(folder), engine="lean", cache=tmp_path)
    assert load_generator(str(folder), engine="auto", cache=tmp_path).generate(
        [Prompt(text="a")], max_tokens=1
    )


def test_an_unknown_engine_is_refused(llama: Path) -> None:
    with pytest.raises(ModelError, match=r"'vllm' is unknown; give one of auto, lean, transformers"):
        load_generator(str(llama), engine="vllm")


def test_other_rotations_and_activations(tmp_path: Path) -> None:
    """Llama 3's rotation is read; one that changes with the length, and another activation, are not."""
    rope = {"rope_theta": 1e4, "factor": 2.0, "original_max_position_embeddings": 64}
    llama3 = {**rope, "rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    folder = tiny_models.llama(tmp_path / "llama3", rope_parameters=llama3)
    assert means(generator(folder, "lean", "float32")) == pytest.approx(
        means(generator(folder, "transformers", "float32")), abs=1e-4
    )
    for i, changes in enumerate(
        [{"rope_parameters": {**rope, "rope_type": "dynamic"}}, {"hidden_act": "gelu"}]
    ):
        folder = tiny_models.llama(tmp_path / str(i), **changes)
        with pytest.raises(ModelError, match="reads silu with one of the rotations"):
            generator(folder, "lean", "float32")


def test_packed_is_linear() -> None:
    torch.manual_seed(0)
    layers = [(torch.randn(32, 48) / 7, torch.randn(32)), (torch.randn(16, 48) / 7, None)]
    x, more = torch.randn(7, 48), torch.randn(7, 48)
    expected = torch.cat([torch.nn.functional.linear(x, *layer) for layer in layers], 1)
    for dtype, near in ((torch.float32, 1e-5), (torch.bfloat16, 5e-2)):
        packed = PackedLinear([(w.to(dtype), None if b is None else b.to(dtype)) for w, b in layers])
        given = x.to(dtype)
        assert torch.allclose(packed(given).float(), expected, atol=near)
        assert torch.allclose(packed(given, add=more.to(dtype)).float(), expected + more, atol=near)
        made = packed(given, activation="gelu").float()
        assert torch.allclose(made, torch.nn.functional.gelu(expected), atol=near)


@pytest.mark.parametrize("lengths", [[], [5], [600, 1], [100] * 11, [511, 1, 1, 512]])
def test_rows_are_taken_in_order_within_the_budget(lengths: list[int]) -> None:
    batches = [list(batch) for batch in _consecutive(lengths, 512)]
    assert [i for batch in batches for i in batch] == list(range(len(lengths)))
    assert all(len(batch) == 1 or sum(lengths[i] for i in batch) <= 512 for batch in batches)


def test_it_can_be_stopped_between_steps(llama: Path) -> None:
    """What a stopped stream leaves behind does not change what comes next."""
    made = generator(llama, "lean", "float32")
    prompt = Prompt(prefix="The harbour opens at six in the morning. ", text="It closes")
    whole = made.generate([prompt], max_tokens=20)[0].text
    stream = made.stream(prompt, max_tokens=20)
    next(stream)
    stream.close()
    assert made.generate([prompt], max_tokens=20)[0].text == whole


@pytest.mark.parametrize("engine", ["lean", "transformers"])
def test_rows_that_end_early_leave_the_others_as_they_are(llama: Path, engine: str) -> None:
    """Whichever leave, and in whatever order: the last of a batch take their places."""
    made = generator(llama, engine, "float32")
    prompts = [Prompt(text=text) for text in texts(16, 12, seed=3)]
    for stop in ("e", "a", "t", "o"):
        together = made.generate(prompts, max_tokens=24, stop=(stop,))
        alone = [made.generate([prompt], max_tokens=24, stop=(stop,))[0] for prompt in prompts]
        assert [its.text for its in together] == [its.text for its in alone]
        assert len({its.tokens for its in together}) > 3


@pytest.mark.slow
def test_smollm2_scores_as_transformers_do() -> None:
    from fieldstone.models.embedded import smollm2_folder

    exact = means(generator(smollm2_folder(), "transformers", "float32"))
    assert means(generator(smollm2_folder(), "lean", "float32")) == pytest.approx(exact, abs=1e-4)
    near = means(generator(smollm2_folder(), "lean", "bfloat16"))
    assert statistics.mean(abs(a - b) for a, b in zip(near, exact, strict=True)) < 0.03
