from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import tiny_models
from fieldstone.errors import ModelError
from fieldstone.models import Prompt, load_generator
from fieldstone.models.seq2seq import Seq2SeqGenerator

PROMPTS = [
    Prompt(text="When does the harbour open?"),
    Prompt(prefix="Cats purr because they are content. ", text="Why do they?"),
    Prompt(text="x"),
]
COMPLETIONS = ["at six", "they are content", "because"]


@pytest.fixture(scope="module", params=["t5", "bart"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = getattr(tiny_models, request.param)(tmp_path_factory.mktemp("m") / request.param)
    return made


@pytest.fixture(scope="module")
def generator(folder: Path) -> Seq2SeqGenerator:
    made = load_generator(str(folder), dtype="float32", cache=folder.parent)
    assert isinstance(made, Seq2SeqGenerator)
    return made


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    from transformers import AutoModelForSeq2SeqLM

    return AutoModelForSeq2SeqLM.from_pretrained(folder).eval()


def plain_score(
    model: Any, tokenizer: Any, prompt: Prompt, before: list[int], completion: list[int]
) -> float:
    import torch

    ids = tokenizer(prompt.prefix + prompt.text, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        logits = model(input_ids=ids, decoder_input_ids=torch.tensor([before + completion])).logits[0]
    logprobs = logits.log_softmax(-1)
    return sum(float(logprobs[len(before) - 1 + i, token]) for i, token in enumerate(completion))


def test_scores_are_those_of_a_plain_forward_pass(generator: Seq2SeqGenerator, model: Any) -> None:
    scores = generator.score(PROMPTS, COMPLETIONS)
    for prompt, completion, score in zip(PROMPTS, COMPLETIONS, scores, strict=True):
        ids = generator._tokens.encode([completion])[0]
        expected = plain_score(model, generator._tokenizer, prompt, generator._start, ids)
        assert score.logprob == pytest.approx(expected, abs=1e-3)
        assert score.tokens == len(ids)


def test_greedy_writing_is_that_of_transformers(generator: Seq2SeqGenerator, model: Any) -> None:
    made = generator.generate(PROMPTS, max_tokens=12)
    for prompt, completion in zip(PROMPTS, made, strict=True):
        ids = generator._tokenizer(prompt.prefix + prompt.text, return_tensors="pt")
        ids.pop("token_type_ids", None)
        before = len(generator._start)
        out = model.generate(
            **ids, max_new_tokens=12 + before - 1, do_sample=False, num_beams=1, forced_eos_token_id=None
        )[0].tolist()
        assert out[:before] == generator._start
        written = [token for token in out[before:] if token not in generator._ends]
        assert completion.text == generator._tokens.decode(written)
        expected = plain_score(model, generator._tokenizer, prompt, generator._start, written)
        assert completion.logprob == pytest.approx(expected, abs=1e-3)


def test_a_reply_goes_on_after_its_prefill(generator: Seq2SeqGenerator) -> None:
    plain = generator.generate(PROMPTS[:1], max_tokens=8)[0]
    begun = Prompt(text=PROMPTS[0].text, prefill="at")
    mixed = generator.generate([begun, PROMPTS[0]], max_tokens=8)
    assert mixed[1].text == plain.text
    assert mixed[0].text == generator.generate([begun], max_tokens=8)[0].text
    both = generator.score([begun], [" six"])[0].logprob
    whole = generator.score([PROMPTS[0]], ["at six"])[0]
    first = generator.score([PROMPTS[0]], ["at"])[0]
    if whole.tokens == first.tokens + len(generator._tokens.encode([" six"])[0]):
        assert both == pytest.approx(whole.logprob - first.logprob, abs=1e-3)


def test_chat_puts_the_instruction_first(generator: Seq2SeqGenerator) -> None:
    chat = Prompt(text="cats", chat=True, system="Be brief.")
    assert generator.score([chat], ["a"]) == generator.score([Prompt(text="Be brief.\ncats")], ["a"])


def test_what_does_not_fit_is_refused(generator: Seq2SeqGenerator) -> None:
    with pytest.raises(ModelError, match="does not fit"):
        generator.generate([Prompt(text="cats " * 3000)])
    with pytest.raises(ModelError, match="one each"):
        generator.score(PROMPTS, ["a"])
