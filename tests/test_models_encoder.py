from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny_models
from fieldstone.errors import ModelError
from fieldstone.models import load_encoder, load_reranker
from fieldstone.models.pooling import read_layout

TEXTS = ["The harbour opens at six.", "cats", "A pilot boards every vessel longer than eighty metres. " * 3]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.bert(tmp_path_factory.mktemp("bert"))


def sentence_folder(bert: Path, into: Path, pooling: dict[str, Any], *more: str, **config: Any) -> Path:
    """A sentence-transformers folder around the tiny BERT, in their older layout."""
    shutil.copytree(bert, into)
    modules = [("Transformer", ""), ("Pooling", "1_Pooling"), *((kind, f"{kind}_") for kind in more)]
    (into / "modules.json").write_text(
        json.dumps([{"type": f"sentence_transformers.models.{kind}", "path": path} for kind, path in modules])
    )
    (into / "1_Pooling").mkdir()
    (into / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 32, **pooling}))
    (into / "sentence_bert_config.json").write_text(
        json.dumps({"max_seq_length": 24, "do_lower_case": False})
    )
    (into / "config_sentence_transformers.json").write_text(json.dumps(config))
    return into


def states(bert: Path, text: str) -> np.ndarray[Any, Any]:
    """Token states by transformers alone."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(bert), AutoModel.from_pretrained(bert).eval()
    ids = tokenizer(text, return_tensors="pt", truncation=True, max_length=24)
    with torch.inference_mode():
        out: np.ndarray[Any, Any] = model(**ids).last_hidden_state[0].numpy()
    return out


POOLED = {
    "cls": lambda h: h[0],
    "lasttoken": lambda h: h[-1],
    "max": lambda h: h.max(0),
    "mean": lambda h: h.mean(0),
    "mean_sqrt_len_tokens": lambda h: h.sum(0) / len(h) ** 0.5,
    "weightedmean": lambda h: (h * np.arange(1, len(h) + 1)[:, None]).sum(0) / np.arange(1, len(h) + 1).sum(),
}


@pytest.mark.parametrize("mode", sorted(POOLED))
def test_pooling_against_the_definition(bert: Path, tmp_path: Path, mode: str) -> None:
    folder = sentence_folder(bert, tmp_path / "m", {"pooling_mode": mode})
    vectors = load_encoder(str(folder), dtype="float32", cache=tmp_path).encode_passages(TEXTS)
    for vector, text in zip(vectors, TEXTS, strict=True):
        expected = POOLED[mode](states(bert, text))
        assert vector @ (expected / np.linalg.norm(expected)) > 0.99999


def test_older_keys_join_their_modes_in_order(bert: Path, tmp_path: Path) -> None:
    pooling = {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}
    folder = sentence_folder(bert, tmp_path / "m", pooling)
    assert read_layout(folder).modes == ("cls", "mean")
    assert load_encoder(str(folder), dtype="float32", cache=tmp_path).dimension == 64


def test_a_dense_module(bert: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    folder = sentence_folder(bert, tmp_path / "m", {"pooling_mode": "mean"}, "Dense", "Normalize")
    weight = torch.randn(8, 32, generator=torch.Generator().manual_seed(0))
    (folder / "Dense_").mkdir()
    save_file({"linear.weight": weight}, folder / "Dense_" / "model.safetensors")
    config = {
        "in_features": 32,
        "out_features": 8,
        "bias": False,
        "activation_function": "torch.nn.modules.activation.Tanh",
    }
    (folder / "Dense_" / "config.json").write_text(json.dumps(config))
    encoder = load_encoder(str(folder), dtype="float32", cache=tmp_path)
    expected = np.tanh(weight.numpy() @ states(bert, TEXTS[0]).mean(0))
    assert encoder.dimension == 8
    assert encoder.encode_passages(TEXTS[:1])[0] @ (expected / np.linalg.norm(expected)) > 0.99999


def test_prefixes_come_from_the_folder_and_can_be_replaced(bert: Path, tmp_path: Path) -> None:
    prompts = {"query": "query: ", "document": "passage: "}
    folder = sentence_folder(bert, tmp_path / "m", {"pooling_mode": "mean"}, prompts=prompts)
    own = load_encoder(str(folder), dtype="float32", cache=tmp_path)
    none = load_encoder(str(folder), dtype="float32", cache=tmp_path, query_prefix="", passage_prefix="")
    assert np.allclose(own.encode_queries(["cats"]), none.encode_queries(["query: cats"]), atol=1e-6)
    assert np.allclose(own.encode_passages(["cats"]), none.encode_passages(["passage: cats"]), atol=1e-6)
    assert own.fingerprint != none.fingerprint


def test_the_default_prompt_serves_both_sides(bert: Path, tmp_path: Path) -> None:
    folder = sentence_folder(
        bert,
        tmp_path / "m",
        {"pooling_mode": "mean"},
        prompts={"retrieve": "r: "},
        default_prompt_name="retrieve",
    )
    layout = read_layout(folder)
    assert (layout.query_prefix, layout.passage_prefix) == ("r: ", "r: ")


@pytest.mark.parametrize(
    ("pooling", "modules", "says"),
    [
        ({"pooling_mode": "attention"}, (), "unknown pooling attention"),
        ({"pooling_mode": "mean", "include_prompt": False}, (), "include_prompt"),
        ({"pooling_mode": "mean"}, ("LSTM",), "LSTM is not supported"),
    ],
)
def test_what_is_unknown_is_refused(
    bert: Path, tmp_path: Path, pooling: dict[str, Any], modules: tuple[str, ...], says: str
) -> None:
    folder = sentence_folder(bert, tmp_path / "m", pooling, *modules)
    with pytest.raises(ModelError, match=says):
        load_encoder(str(folder), cache=tmp_path)


def test_too_long_a_text_is_cut_at_max_tokens(bert: Path, tmp_path: Path) -> None:
    folder = sentence_folder(bert, tmp_path / "m", {"pooling_mode": "mean"})
    encoder = load_encoder(str(folder), dtype="float32", cache=tmp_path)
    assert encoder.max_tokens == 24
    first, second = encoder.encode_passages(["cats purr " * 200, "cats purr " * 300])
    assert np.allclose(first, second, atol=1e-5)
    assert load_encoder(str(bert), cache=tmp_path).max_tokens == 128  # as many as there are positions


def test_the_fingerprint_follows_the_weights_and_not_the_place(bert: Path, tmp_path: Path) -> None:
    shutil.copytree(bert, tmp_path / "copy")
    here = load_encoder(str(bert), dtype="float32", cache=tmp_path / "a")
    assert (
        load_encoder(str(tmp_path / "copy"), dtype="float32", cache=tmp_path / "b").fingerprint
        == here.fingerprint
    )
    assert load_encoder(str(bert), dtype="bfloat16", cache=tmp_path / "a").fingerprint != here.fingerprint
    weights = tmp_path / "copy" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert (
        load_encoder(str(tmp_path / "copy"), dtype="float32", cache=tmp_path / "b").fingerprint
        != here.fingerprint
    )


def test_dpr_against_transformers(tmp_path: Path) -> None:
    import torch
    from transformers import AutoTokenizer, DPRContextEncoder, DPRQuestionEncoder

    question, passage = tiny_models.dpr(tmp_path)
    encoder = load_encoder(f"dual:query={question},passage={passage}", dtype="float32", cache=tmp_path)
    for folder, family, encode in (
        (question, DPRQuestionEncoder, encoder.encode_queries),
        (passage, DPRContextEncoder, encoder.encode_passages),
    ):
        model = family.from_pretrained(folder).eval()
        with torch.inference_mode():
            expected = model(
                **AutoTokenizer.from_pretrained(folder)("cats purr", return_tensors="pt")
            ).pooler_output[0]
        assert encode(["cats purr"])[0] @ (expected / expected.norm()).numpy() > 0.99999
    assert abs(encoder.encode_queries(["cats"])[0] @ encoder.encode_passages(["cats"])[0]) < 0.999


def test_two_encoders_that_do_not_fit_are_refused(bert: Path) -> None:
    with pytest.raises(ModelError, match="32 dimensions and passages 256"):
        load_encoder(f"dual:query={bert},passage=fake:words")


def test_a_cross_encoder_against_transformers(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = tiny_models.cross_encoder(tmp_path / "ce")
    reranker = load_reranker(str(folder), dtype="float32", cache=tmp_path)
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder).eval(), None
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.inference_mode():
        expected = [
            float(
                model(
                    **tokenizer("a harbour?", text, return_tensors="pt", truncation=True, max_length=128)
                ).logits
            )
            for text in TEXTS
        ]
    assert reranker.rerank("a harbour?", TEXTS) == pytest.approx(expected, abs=1e-4)


def test_an_encoder_is_no_reranker(bert: Path) -> None:
    with pytest.raises(ModelError, match=r"missing, such as classifier"):
        load_reranker(str(bert))


def test_a_folder_that_sentence_transformers_wrote(bert: Path, tmp_path: Path) -> None:
    """Tuned retrievers come back by this door."""
    st = pytest.importorskip("sentence_transformers")
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    modules = [Transformer(str(bert), max_seq_length=40), Pooling(32, "cls"), Normalize()]
    theirs = st.SentenceTransformer(
        modules=modules, device="cpu", prompts={"query": "query: ", "document": ""}
    )
    theirs.save(str(tmp_path / "saved"))
    ours = load_encoder(str(tmp_path / "saved"), dtype="float32", cache=tmp_path)
    assert ours.max_tokens == 40
    expected = theirs.encode(TEXTS, prompt_name="query", normalize_embeddings=True)
    assert (ours.encode_queries(TEXTS) * expected).sum(1).min() > 0.9999


@pytest.mark.slow
def test_minilm_against_sentence_transformers(tmp_path: Path) -> None:
    st = pytest.importorskip("sentence_transformers")
    from fieldstone.models.embedded import minilm_folder

    texts = [*TEXTS, "", "日本語 naïve", "long " * 1000]
    expected = st.SentenceTransformer(str(minilm_folder(tmp_path)), device="cpu").encode(texts)
    exact = load_encoder("embedded:minilm", dtype="float32", cache=tmp_path)
    assert (exact.encode_passages(texts) * expected).sum(1).min() > 0.9999
    fast = load_encoder("embedded:minilm", dtype="bfloat16", cache=tmp_path)
    assert (fast.encode_passages(texts) * expected).sum(1).min() > 0.999
    assert (exact.dimension, exact.max_tokens) == (384, 256)
