"""Pairs from a model's own replies, and DPO on them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

import tiny_models
from fieldstone.errors import ModelError, WorkspaceError
from fieldstone.evaluate.measures.answering import token_f1
from fieldstone.models import Completion, Options, Prompt, load_generator
from fieldstone.models.causal import CausalGenerator
from fieldstone.prompts import REFUSAL, one_by_one_prompt, parse_one_by_one, together_prompt, together_reply
from fieldstone.settings import GeneratorTuning, PreferenceTuning
from fieldstone.tune.generator import Row
from fieldstone.tune.generator.preference import Pair, kinds, pairs_of, preference_pairs, write_pairs

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from fieldstone.tune.generator.dpo import dpo_trainer, token_rows, tune_by_preference  # noqa: E402
from fieldstone.tune.generator.with_trl import Setting, Tuned, parts  # noqa: E402

TUNING = PreferenceTuning(batch=4, epochs=2, learning_rate=5e-3, warmup=0.0, beta=0.3)
ADAPTERS = GeneratorTuning(rank=4, alpha=8, dropout=0.1)
PASSAGE = "The crane lifts forty tonnes. It stands on berth 7."


def agree(said: str, expected: str) -> float:
    return token_f1(said, [expected])


def reply(text: str, mean: float = -1.0, finished: bool = True) -> Completion:
    return Completion(text, 2, 2 * mean, finished)


def pairs(row: Row, *texts: str | Completion) -> list[tuple[str, str, str, bool]]:
    replies = [text if isinstance(text, Completion) else reply(text) for text in texts]
    return [(p.error, p.chosen, p.rejected, p.own) for p in pairs_of(row, replies, 4, agree, 0.5)]


KNOWN = Row(one_by_one_prompt(PASSAGE, "What does the crane lift?"), " forty tonnes")
SILENT = Row(one_by_one_prompt(PASSAGE, "Who built the crane?"), f" {REFUSAL}")


def test_each_kind_of_error_makes_a_pair() -> None:
    assert pairs(KNOWN, " forty tonnes", " The forty tonnes.") == []
    assert pairs(KNOWN, " berth 7") == [("wrong answer", " forty tonnes", " berth 7", False)]
    assert pairs(KNOWN, " berth 7", ' "Forty tonnes"') == [
        ("wrong answer", ' "Forty tonnes"', " berth 7", True)
    ]
    assert pairs(KNOWN, " unanswerable", " berth 7") == [
        ("refusal", " forty tonnes", " unanswerable", False),
        ("wrong answer", " forty tonnes", " berth 7", False),
    ]
    assert pairs(SILENT, " forty tonnes", " unanswerable", "") == [
        ("invented answer", " unanswerable", " forty tonnes", False)
    ]


def test_what_is_unclear_unfinished_or_not_in_the_passage_makes_none() -> None:
    assert pairs(KNOWN, " forty heavy tonnes") == []  # F1 .8
    assert pairs(KNOWN, reply(" berth 7", finished=False)) == []
    row = Row(KNOWN.prompt, " fifty tonnes")
    assert pairs(row, " berth 7") == []
    shown = Row(one_by_one_prompt(PASSAGE, "When is it closed?"), " Mondays")  # in the made-up example alone
    assert pairs(shown, " berth 7") == []


def test_of_several_failures_the_likeliest_is_rejected_and_of_right_ones_chosen() -> None:
    made = pairs(
        KNOWN,
        reply(" berth 7", -2),
        reply(" a ship", -0.5),
        reply(" forty tonnes", -3),
        reply(" Forty tonnes", -1),
    )
    assert made == [("wrong answer", " Forty tonnes", " a ship", True)]


def test_read_together_the_citation_counts() -> None:
    prompt = together_prompt(["It is closed.", PASSAGE], "What does the crane lift?")
    row = Row(prompt, together_reply(2, "forty tonnes"))
    right, cited_elsewhere = together_reply(2, "forty tonnes"), together_reply(1, "forty tonnes")
    assert pairs(row, right) == []
    assert pairs(row, cited_elsewhere, right) == [("wrong answer", right, cited_elsewhere, True)]
    assert pairs(row, together_reply(0, "")) == [("refusal", right, together_reply(0, ""), False)]
    refused = Row(prompt, together_reply(0, ""))
    assert pairs(refused, right) == [("invented answer", together_reply(0, ""), right, False)]


class Stopped(Exception):
    pass


def test_replies_are_drawn_in_batches_that_are_kept(tmp_path: Path) -> None:
    rows = [Row(one_by_one_prompt(PASSAGE, f"What does crane {n} lift?"), " forty tonnes") for n in range(40)]
    rows += [Row(one_by_one_prompt(PASSAGE, f"Who built crane {n}?"), f" {REFUSAL}") for n in range(5)]
    base = tiny_models.llama(tmp_path / "llama", max_position_embeddings=2048)
    generator = load_generator(str(base), device="cpu", threads=1)
    tuning = PreferenceTuning(samples=2, temperature=1.0)

    def made(kept: Path, **more: Any) -> list[Pair]:
        return preference_pairs(
            generator, rows, tuning, agree, max_tokens=6, passages=4, kept=tmp_path / kept, **more
        )

    def stopping(_: str, done: int, total: int, unit: str) -> None:
        if done == 32:
            raise Stopped

    whole = made(Path("whole.jsonl"))
    assert whole == made(Path("whole.jsonl"))
    assert whole != made(Path("other.jsonl"), seed=1)
    with pytest.raises(Stopped):
        made(Path("parts.jsonl"), progress=stopping)
    assert made(Path("parts.jsonl")) == whole
    assert (tmp_path / "parts.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    write_pairs(tmp_path / "pairs.jsonl", whole)
    lines = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    assert [(line["chosen"], line["rejected"]) for line in lines] == [(p.chosen, p.rejected) for p in whole]
    assert sum(kinds(whole).values()) == len(whole)


PAIRS = [
    *(
        Pair(
            Prompt(f"Question: {n}?\nAnswer:", prefix="The harbour opens at six.\n"),
            f" {n}", f" six and {n + 1}", "wrong answer", True,
        )
        for n in range(7)
    ),
    Pair(Prompt("What is 2 + 1?", chat=True, prefill="It is "), "3", "a harbour", "wrong answer", False),
    Pair(Prompt("What is 4 + 1?", chat=True, prefill="It is "), "five", "0", "refusal", False),
]  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.llama(tmp_path_factory.mktemp("m") / "llama")


def run(base: Path, into: Path, given: list[Pair] = PAIRS, **changes: Any) -> Tuned:
    arguments: dict[str, Any] = {"threads": 1, "device": "cpu", **changes}
    tuning, adapters = arguments.pop("tuning", TUNING), arguments.pop("adapters", ADAPTERS)
    return tune_by_preference(str(base), given, into, tuning, adapters, **arguments)


def load(folder: Path) -> CausalGenerator:
    made = load_generator(str(folder), dtype="float32", threads=1)
    assert isinstance(made, CausalGenerator)
    return made


def weights(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def logp(generator: CausalGenerator, prompt: Prompt, text: str) -> float:
    """The reply's log-probability with its end, by transformers' own forward pass over one row."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(generator.name, dtype=torch.float32).eval()
    prefix, rest = generator.prompt_ids(prompt)
    learnt = generator.completion_ids(text) + generator.end_ids(prompt)
    ids = prefix + rest + learnt
    with torch.no_grad():
        logprobs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    return sum(float(logprobs[len(prefix + rest) - 1 + i, token]) for i, token in enumerate(learnt))


def margins(policy: CausalGenerator, reference: CausalGenerator, given: list[Pair]) -> list[float]:
    """How much more the chosen reply of each pair gained on the reference than the rejected, in nats."""
    return [
        logp(policy, p.prompt, p.chosen) - logp(reference, p.prompt, p.chosen)
        - logp(policy, p.prompt, p.rejected) + logp(reference, p.prompt, p.rejected)
        for p in given
    ]  # fmt: skip


def test_the_loss_is_equation_7(base: Path, tmp_path: Path) -> None:
    """trl's loss, of adapters that are far from the base, against a forward pass over the merged weights."""
    from transformers import AutoModelForCausalLM

    from fieldstone.models.huggingface import read_model, read_tokenizer
    from fieldstone.tune.generator.weights import merge

    options = Options(device="cpu", threads=1, dtype="float32")
    model = read_model(str(base), base, AutoModelForCausalLM, options).model
    arguments = {"output_dir": str(tmp_path), "use_cpu": True, "bf16": False, "report_to": "none"}
    rows = token_rows(load(base), PAIRS)
    trainer = dpo_trainer(
        Setting(model, read_tokenizer(str(base), base), arguments, 1000), rows, TUNING, ADAPTERS,
        {"disable_dropout": True, "gradient_checkpointing": False},
    )  # fmt: skip
    adapter = {name: p for name, p in trainer.model.named_parameters() if p.requires_grad}
    torch.manual_seed(1)
    with torch.no_grad():
        for tensor in adapter.values():
            tensor.normal_(std=0.3)
    merge(str(base), base, ADAPTERS, 1, adapter, tmp_path / "merged")
    wanted = margins(load(tmp_path / "merged"), load(base), PAIRS)
    assert max(map(abs, wanted)) > 0.5
    for row, margin in zip(rows, wanted, strict=True):  # row by row, then all: padding must not count
        found = trainer.compute_loss(trainer.model, trainer.data_collator([row]))
        assert float(found.detach()) == pytest.approx(math.log1p(math.exp(-TUNING.beta * margin)), abs=1e-4)
    whole = trainer.compute_loss(trainer.model, trainer.data_collator(rows))
    mean = sum(math.log1p(math.exp(-TUNING.beta * margin)) for margin in wanted) / len(wanted)
    assert float(whole.detach()) == pytest.approx(mean, abs=1e-4)


def test_score_agrees_with_the_plain_forward_pass(base: Path) -> None:
    """So that margins can be measured by any generator: the end of a reply is a token of its own."""
    generator = load(base)
    pair = PAIRS[0]
    whole = generator.score([pair.prompt], [f"{pair.chosen}\n"])[0].logprob
    assert generator.completion_ids(f"{pair.chosen}\n") == [
        *generator.completion_ids(pair.chosen),
        *generator.end_ids(pair.prompt),
    ]
    assert logp(generator, pair.prompt, pair.chosen) == pytest.approx(whole, abs=1e-4)


def test_the_weights_move_and_the_margin_grows(base: Path, tmp_path: Path) -> None:
    tuned = run(base, tmp_path / "new", tuning=TUNING.model_copy(update={"epochs": 8}))
    old, new = weights(base), weights(tuned.folder)
    moved = {name for name in old if not torch.equal(old[name], new[name])}
    assert len(moved) == 2 * 7  # each linear layer of the two blocks, and nothing else
    assert all("_proj" in name for name in moved)
    assert {t.dtype for t in new.values()} == {torch.float32}
    assert tuned.log[0]["loss"] == pytest.approx(math.log(2))  # tuned model and reference are still one
    assert tuned.log[-1]["loss"] < 0.6
    grown = margins(load(tuned.folder), load(base), PAIRS)
    assert sum(grown) / len(grown) > 1
    assert (tuned.steps, len(tuned.log)) == (24, 24)
    assert tuned.facts == {"pairs": 9, "too_long": 0, "errors": {"refusal": 1, "wrong answer": 8}}
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
    assert not (tuned.folder / "README.md").exists()


def test_read_in_parts_it_learns_the_same(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    even = PAIRS[:8]
    whole = run(base, tmp_path / "whole", even)
    monkeypatch.setattr("fieldstone.tune.generator.weights._ACTIVATIONS", 1e5)
    parted = run(base, tmp_path / "parted", even)
    assert [entry["loss"] for entry in parted.log] == pytest.approx(
        [entry["loss"] for entry in whole.log], rel=1e-3
    )


def test_parts_multiply_to_the_batch() -> None:
    assert parts(8, 100, 10_000) == (8, 1)
    assert parts(8, 100, 700) == (4, 2)
    assert parts(6, 100, 500) == (3, 2)
    assert parts(5, 100, 10) == (1, 5)


def stopping_at(step: int) -> Any:
    def progress(_: str, done: int, total: int, unit: str) -> None:
        if done == step:
            raise Stopped

    return progress


@pytest.fixture(scope="module")
def whole(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    """The run that nothing stopped."""
    return run(base, tmp_path_factory.mktemp("whole") / "new")


@pytest.mark.parametrize("stop", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_a_stopped_run_ends_like_one_that_was_not(
    base: Path, whole: Tuned, tmp_path: Path, stop: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fieldstone.tune.generator.with_trl._SAVED_EVERY", 0.0)
    with pytest.raises(Stopped):
        run(base, tmp_path / "parts", progress=stopping_at(stop))
    assert not (tmp_path / "parts").exists()
    assert list((tmp_path / "parts.tuning").glob("checkpoint-*"))
    torch.manual_seed(7)  # no chance of the caller's comes in
    seen: list[int] = []
    ended = run(base, tmp_path / "parts", progress=lambda _, done, total, unit: seen.append(done))
    assert seen[0] > 0  # it went on
    assert [entry["loss"] for entry in ended.log] == [entry["loss"] for entry in whole.log]
    one, other = weights(whole.folder), weights(ended.folder)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_that_is_killed_before_it_is_merged(
    base: Path, whole: Tuned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> None:
        raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr("fieldstone.tune.generator.with_trl.merge", killed)
        with pytest.raises(Stopped):
            run(base, tmp_path / "parts")
    ended = run(base, tmp_path / "parts")
    assert (ended.steps, [entry["loss"] for entry in ended.log]) == (
        whole.steps,
        [entry["loss"] for entry in whole.log],
    )
    one, other = weights(whole.folder), weights(ended.folder)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_second_call_returns_at_once_and_another_starts_anew(base: Path, tmp_path: Path) -> None:
    first = run(base, tmp_path / "new")
    assert run(base, tmp_path / "new", progress=stopping_at(0)) == first
    again = run(base, tmp_path / "new", tuning=TUNING.model_copy(update={"beta": 0.5}))
    assert again.log != first.log


def test_it_is_quiet_and_nothing_is_sent(
    base: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CI", raising=False)

    def sent(*_: Any, **__: Any) -> None:
        raise AssertionError("trl's telemetry")

    monkeypatch.setattr("trl.trainer.base_trainer.send_telemetry", sent)
    run(base, tmp_path / "new", tuning=TUNING.model_copy(update={"epochs": 1}))
    assert capfd.readouterr() == ("", "")


def test_what_cannot_be_tuned_is_told(base: Path, tmp_path: Path) -> None:
    long = Pair(Prompt("word " * 600), " x", " y", "refusal", True)
    tuned = run(base, tmp_path / "new", [*PAIRS, long])
    assert (tuned.facts["pairs"], tuned.facts["too_long"]) == (len(PAIRS), 1)
    with pytest.raises(ModelError, match="none of 1 pairs fits into the 512 tokens"):
        run(base, tmp_path / "none", [long])
    with pytest.raises(ModelError, match="cannot be tuned here; give embedded:smollm2"):
        tune_by_preference("fake:words", PAIRS, tmp_path / "fake", TUNING, ADAPTERS)
    with pytest.raises(ModelError, match="is no causal model"):
        run(tiny_models.t5(tmp_path / "t5"), tmp_path / "new5")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(WorkspaceError, match="no generator tuned here"):
        run(base, tmp_path / "mine")
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(WorkspaceError, match="cannot be written"):
        run(base, tmp_path / "file" / "new")
    with pytest.raises(ModelError, match=r"set a lower preference\.learning_rate"):
        run(base, tmp_path / "nan", tuning=TUNING.model_copy(update={"learning_rate": 1e30, "epochs": 4}))


def test_without_trl_it_says_what_to_install(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fieldstone.errors import MissingExtra

    monkeypatch.setattr("fieldstone.tune.generator.with_trl.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"pip install 'fieldstone\[prefer\]'"):
        run(base, tmp_path / "new")


@pytest.mark.slow
def test_on_human_questions_the_embedded_model_comes_to_prefer_what_is_right(
    data: Path, tmp_path: Path
) -> None:
    def lines(name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (data / "squad" / name).read_text().splitlines()]

    texts = {row["id"]: row["text"] for row in lines("squad_train_passages.jsonl")}
    short = [q for q in lines("squad_train_slice.jsonl") if len(texts[q["passage_id"]]) < 300]
    first = short[0]["passage_id"].partition("#")[0]
    of_tested = [q for q in short if q["passage_id"].startswith(f"{first}#")]
    tested = of_tested[:: max(1, len(of_tested) // 16)][:16]
    others = [q for q in short if not q["passage_id"].startswith(f"{first}#")]
    learnt = others[:: len(others) // 32][:32]

    def rows(questions: list[dict[str, Any]]) -> list[Row]:
        return [
            Row(one_by_one_prompt(texts[q["passage_id"]], q["question"]), f" {q['answers'][0]}")
            for q in questions
        ]

    def made(questions: list[dict[str, Any]], name: str) -> list[Pair]:
        tuning = PreferenceTuning(samples=3)
        return preference_pairs(
            base, rows(questions), tuning, agree, max_tokens=12, passages=1, kept=tmp_path / name
        )

    def f1(generator: Any) -> float:
        replies = generator.generate([row.prompt for row in rows(tested)], max_tokens=24, stop=["\n"])
        found = [parse_one_by_one(reply.text) for reply in replies]
        return sum(token_f1(a, q["answers"]) for a, q in zip(found, tested, strict=True)) / len(tested)

    def gaps(generator: Any, pairs: list[Pair]) -> list[float]:
        """log p(chosen) - log p(rejected), each with its end."""
        prompts = [pair.prompt for pair in pairs]
        chosen = generator.score(prompts, [f"{pair.chosen}\n" for pair in pairs])
        rejected = generator.score(prompts, [f"{pair.rejected}\n" for pair in pairs])
        return [c.logprob - r.logprob for c, r in zip(chosen, rejected, strict=True)]

    base = load_generator("embedded:smollm2", device="cpu")
    teach, held_out = made(learnt, "teach"), made(tested, "held out")
    untuned, before = f1(base), gaps(base, held_out)
    tuning = PreferenceTuning(learning_rate=2e-4, warmup=0.0, batch=4)
    tuned = tune_by_preference(
        "embedded:smollm2", teach, tmp_path / "new", tuning, GeneratorTuning(), device="cpu"
    )
    new = load_generator(str(tuned.folder), device="cpu")
    grown = [a - b for a, b in zip(gaps(new, held_out), before, strict=True)]
    assert sum(grown) / len(grown) > 0.2  # nats
    assert sum(g > 0 for g in grown) > 0.7 * len(grown)
    assert f1(new) > untuned - 0.05
