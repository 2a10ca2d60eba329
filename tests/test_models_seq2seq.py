from __future__ import annotations

from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

import tiny_models
from fieldstone.errors import ModelError
from fieldstone.models import Prompt, load_generator
from fieldstone.models.seq2seq import Seq2SeqGenerator
from fieldstone.prompts import fid_prompt

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


# -- passages read apart (Fusion-in-Decoder)

TEXTS = (
    "Harbour\nIt opens at six in the morning.",
    "Pilot\nHe boards every vessel longer than eighty metres.",
    "Cats purr because they are content.",
)


def test_the_form_of_a_reader_is_that_of_the_paper() -> None:
    prompt = fid_prompt(TEXTS, " When does it open? ")
    assert prompt.text == "question: When does it open?"
    assert prompt.passages == (
        " title: Harbour context: It opens at six in the morning.",
        " title: Pilot context: He boards every vessel longer than eighty metres.",
        " context: Cats purr because they are content.",
    )


def test_one_passage_is_plain_scoring_and_writing(generator: Seq2SeqGenerator) -> None:
    apart = [fid_prompt([text], "When?") for text in TEXTS]
    plain = [Prompt(prompt.text + prompt.passages[0]) for prompt in apart]
    for one, other in zip(
        generator.score(apart, COMPLETIONS), generator.score(plain, COMPLETIONS), strict=True
    ):
        assert one.logprob == pytest.approx(other.logprob, abs=1e-4)
    written = generator.generate(apart, max_tokens=8)
    assert [w.text for w in written] == [w.text for w in generator.generate(plain, max_tokens=8)]


def test_the_decoder_attends_to_the_joined_states(generator: Seq2SeqGenerator, model: Any) -> None:
    import torch

    prompts = [fid_prompt(TEXTS[:n], "When?") for n in (1, 2, 3)]  # of unlike length, in one batch
    for prompt, completion, score in zip(
        prompts, COMPLETIONS, generator.score(prompts, COMPLETIONS), strict=True
    ):
        wanted = generator._tokens.encode([completion])[0]
        with torch.inference_mode():
            states = [
                model.get_encoder()(
                    input_ids=generator._tokenizer(prompt.text + passage, return_tensors="pt")["input_ids"]
                ).last_hidden_state
                for passage in prompt.passages
            ]
            logits = model(
                encoder_outputs=(torch.cat(states, 1),),
                decoder_input_ids=torch.tensor([generator._start + wanted]),
            ).logits[0]
        logprobs = logits.log_softmax(-1)
        expected = sum(
            float(logprobs[len(generator._start) - 1 + i, token]) for i, token in enumerate(wanted)
        )
        assert score.logprob == pytest.approx(expected, abs=1e-3)


def test_the_order_of_passages_does_not_matter(generator: Seq2SeqGenerator) -> None:
    prompts = [fid_prompt(order, "When?") for order in permutations(TEXTS)]
    scores = [score.logprob for score in generator.score(prompts, ["at six"] * len(prompts))]
    assert scores == pytest.approx([scores[0]] * len(prompts), abs=1e-3)
    written = {completion.text for completion in generator.generate(prompts, max_tokens=8)}
    assert len(written) == 1
    (other,) = generator.score([fid_prompt(TEXTS[:2], "When?")], ["at six"])  # but which they are does
    assert abs(other.logprob - scores[0]) > 0.01


def test_attention_goes_with_its_passage(generator: Seq2SeqGenerator) -> None:
    orders = list(permutations(range(3)))
    prompts = [fid_prompt([TEXTS[i] for i in order], "When?") for order in orders]
    first, *others = generator.attend(prompts)
    assert len(set(first)) == 3
    for order, scores in zip(orders[1:], others, strict=True):
        assert scores == pytest.approx([first[i] for i in order], abs=1e-4)


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_attention_is_that_of_transformers_before_its_softmax(kind: str, tmp_path: Path) -> None:
    """The logarithm of what transformers gives, after the softmax, differs by one number a head and layer."""
    import torch
    from transformers import AutoModelForSeq2SeqLM

    # smaller weights than usual here, or the softmax comes down to 0
    small = {"t5": {"initializer_factor": 0.7}, "bart": {"init_std": 0.2}}[kind]
    folder = getattr(tiny_models, kind)(tmp_path / kind, **small)
    generator = load_generator(str(folder), dtype="float32", threads=1)
    assert isinstance(generator, Seq2SeqGenerator)
    prompt = fid_prompt(TEXTS, "When?")
    eager = AutoModelForSeq2SeqLM.from_pretrained(folder, attn_implementation="eager").eval()
    ids = [
        generator._tokenizer(prompt.text + passage, return_tensors="pt")["input_ids"]
        for passage in prompt.passages
    ]
    with torch.inference_mode():
        states = torch.cat([eager.get_encoder()(input_ids=its).last_hidden_state for its in ids], 1)
        out = eager(
            encoder_outputs=(states,),
            decoder_input_ids=torch.tensor([generator._start]),
            output_attentions=True,
        )
    layers = torch.stack([layer[0, :, -1].double().log() for layer in out.cross_attentions])
    parts = layers.mean((0, 1)).split([its.shape[1] for its in ids])
    wanted = torch.stack([part.mean() for part in parts])
    found = torch.tensor(generator.attend([prompt])[0], dtype=torch.float64)
    assert float(found.std()) > 1e-3
    assert torch.allclose(wanted - wanted.mean(), found - found.mean(), atol=1e-4)


def test_a_passage_that_does_not_fit_is_refused_and_many_that_do_are_not(generator: Seq2SeqGenerator) -> None:
    many = fid_prompt([TEXTS[1]] * 40, "When?")  # more than the context in all
    assert sum(generator.count_tokens(many.passages)) > generator.context_tokens
    assert len(generator.attend([many])[0]) == 40
    with pytest.raises(ModelError, match="does not fit"):
        generator.generate([fid_prompt(["cats " * 3000], "When?")])


def test_other_generators_do_not_read_passages_apart(tmp_path: Path) -> None:
    prompt = fid_prompt(TEXTS, "When?")
    for name in (str(tiny_models.llama(tmp_path / "llama")), "fake:words"):
        other = load_generator(name)
        for ask in (lambda its=other: its.generate([prompt]), lambda its=other: its.score([prompt], ["six"])):
            with pytest.raises(
                ModelError, match=r"cannot read 3 passages apart, as answer\.reading = fid asks"
            ):
                ask()
