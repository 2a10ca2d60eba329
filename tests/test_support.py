"""Whether a citation supports its answer: the quote in the passage, the passage by what it makes likelier."""

import json
import math

import pytest

import tiny_models
from fieldstone.errors import ModelError
from fieldstone.evaluate.judge.support import (
    Ablation,
    Cited,
    ablate,
    by_ablation,
    by_entailment,
    quoted,
)
from fieldstone.models import load_generator, load_reranker
from fieldstone.models.fake import FakeGenerator
from fieldstone.progress import silent
from fieldstone.prompts import SHOWN
from fieldstone.records import Passage

PASSAGE = Passage("p", "d", "Berth 7 takes ships of 9.5 m.", 100, 129)


def test_a_quote_without_offsets():
    assert quoted("BERTH\n7  takes", PASSAGE.text)
    assert not quoted("Berth 8", PASSAGE.text)
    assert not quoted("", PASSAGE.text)


CITED = [
    Cited("How deep may ships at berth 7 be?", "9.5 m", "Berth 7 takes ships of 9.5 m."),
    Cited("How deep may ships at berth 7 be?", "9.5 m", "Bread is baked of flour."),
    Cited("What does a day cost?", "135 crowns", "A day at the quay costs 135 crowns."),
]


def test_the_gain_is_the_difference_of_the_generators_own_scores(tmp_path):
    """Against the sums of log-probabilities that transformers gives, token by token."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tiny_models.llama(tmp_path / "m", max_position_embeddings=2048)
    generator = load_generator(str(folder), dtype="float32", cache=tmp_path, threads=1)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)

    def ids(text):
        return tokenizer(text, add_special_tokens=False).input_ids

    def logprob(parts, completion):
        before = [token for part in parts if part for token in ids(part)]
        tokens = [*before, *ids(completion)]
        with torch.inference_mode():
            table = model(torch.tensor([tokens])).logits[0].log_softmax(-1)
        wanted = range(len(before), len(tokens))
        return sum(float(table[i - 1, tokens[i]]) for i in wanted), len(wanted)

    for given, c in zip(ablate(generator, CITED), CITED, strict=True):
        means = []
        for shown in (f"{SHOWN}Passage: {c.passage}\n", SHOWN):
            means.append(logprob([shown, "Question:"], f" {c.question}"))
            means.append(logprob([shown, f"Question: {c.question}\nAnswer:"], f" {c.answer}"))
        q, a, q_alone, a_alone = (total / tokens for total, tokens in means)
        assert (given.question, given.answer) == pytest.approx((q - q_alone, a - a_alone), abs=1e-4)


def test_what_says_so_gains_more_than_what_does_not():
    right, wrong, other = by_ablation(FakeGenerator())(CITED, None, silent)
    assert 0 <= wrong < right <= 1
    assert wrong < other


def test_a_generator_that_cannot_score_is_refused_before_any_work():
    class Mute(FakeGenerator):
        def score(self, prompts, completions):
            raise ModelError("it gives no log-probabilities")

    with pytest.raises(ModelError, match="no log-probabilities"):
        by_ablation(Mute())


def test_support_rises_with_the_gain_and_stays_a_probability():
    gains = [-1e6, -5.0, -1.0, 0.0, 1.0, 5.0, 1e6]
    found = [Ablation(gain, 1e6).support for gain in gains]
    assert found == [Ablation(1e6, gain).support for gain in gains]
    assert found == sorted(found)
    assert found[0] == 0
    assert found[-1] == 1
    with pytest.raises(ValueError, match="finite"):
        Ablation(-math.inf, 0.0)


def test_what_was_looked_at_is_not_looked_at_again(tmp_path):
    class Counting(FakeGenerator):
        asked = 0

        def score(self, prompts, completions):
            Counting.asked += len(prompts)
            return super().score(prompts, completions)

    path = tmp_path / "cache" / "support.jsonl"
    first = ablate(Counting(), CITED, path)
    asked = Counting.asked
    assert ablate(Counting(), [*CITED, *CITED], path) == first * 2
    assert Counting.asked == asked
    lines = path.read_text().splitlines()
    lines[0] = lines[0][:-9]
    lines[1] = json.dumps(json.loads(lines[1]) | {"answer": float("nan")})
    path.write_text("\n".join(lines))
    assert ablate(Counting(), CITED, path) == first
    assert Counting.asked == asked + 8  # a question and an answer, with and without, of two of them


def test_a_model_of_entailment_gives_the_probability_of_its_label(tmp_path):
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = tiny_models.entailment(tmp_path / "nli")
    look = by_entailment(load_reranker(str(folder), dtype="float32", cache=tmp_path))
    model, tokenizer = (
        AutoModelForSequenceClassification.from_pretrained(folder),
        AutoTokenizer.from_pretrained(folder),
    )
    for given, c in zip(look(CITED, None, silent), CITED, strict=True):
        pair = tokenizer(c.passage, f"{c.question} {c.answer}", return_tensors="pt")
        with torch.inference_mode():
            expected = float(model(**pair).logits.softmax(-1)[0, 1])
        assert given == pytest.approx(expected, abs=1e-5)


def test_a_reranker_is_no_model_of_entailment(tmp_path):
    with pytest.raises(ModelError, match='no label "entailment"'):
        by_entailment(load_reranker("fake:words"))
    with pytest.raises(ModelError, match='no label "entailment"'):
        by_entailment(load_reranker(str(tiny_models.cross_encoder(tmp_path / "ce")), cache=tmp_path))
