"""Tuning of encoder-decoders, and the Fusion-in-Decoder readers that it makes."""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import tiny_models
from fieldstone.errors import ModelError, SettingsError
from fieldstone.models import Generator, Prompt, load_generator
from fieldstone.models.seq2seq import Seq2SeqGenerator
from fieldstone.prompts import fid_prompt
from fieldstone.settings import GeneratorTuning, RetrieverTuning

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from fieldstone.tune.generator import Row, Tuned  # noqa: E402
from fieldstone.tune.generator import seq2seq as tune  # noqa: E402
from fieldstone.tune.generator.seq2seq import tune_seq2seq  # noqa: E402

TUNING = GeneratorTuning(
    method="full", rank=4, alpha=8, epochs=2, batch=4, learning_rate=1e-3, checks=1, dropout=0.1
)
TEXTS = (
    "Harbour\nIt opens at six.",
    "Pilot\nHe boards every vessel longer than eighty metres.",
    "Cats purr.",
)
ROWS = [
    *(Row(Prompt(f"{n}?\nAnswer:", prefix="The harbour opens at six.\n"), f" {n}") for n in range(5)),
    *(Row(fid_prompt(TEXTS[: 1 + n % 3], f"What is {n}?"), f"{n} {n}") for n in range(5)),
    Row(Prompt("Be brief.", prefill="It is "), "six"),
]  # fmt: skip


@pytest.fixture(scope="module", params=["t5", "bart"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = getattr(tiny_models, request.param)(tmp_path_factory.mktemp("m") / request.param)
    return made


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train in float32 also on a CPU that multiplies bfloat16."""
    monkeypatch.setattr("fieldstone.models.devices.cpu_features", lambda: frozenset())


def constant(_: Generator) -> float:
    return 0.5


def run(base: Path, into: Path, rows: list[Row] = ROWS, **changes: Any) -> Tuned:
    arguments: dict[str, Any] = {"dev_score": constant, "threads": 1, "device": "cpu", **changes}
    return tune_seq2seq(str(base), rows, into, arguments.pop("tuning", TUNING), **arguments)


def changed(**changes: Any) -> GeneratorTuning:
    return TUNING.model_copy(update=changes)


def weights(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def load(folder: Path) -> Seq2SeqGenerator:
    made = load_generator(str(folder), dtype="float32", threads=1)
    assert isinstance(made, Seq2SeqGenerator)
    return made


def mean_loss(folder: Path, rows: list[Row]) -> float:
    """A learnt token's loss: a row at a time, each passage through the encoder by a call of its own."""
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    model = AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    start = [model.config.decoder_start_token_id]
    if model.config.model_type == "bart":
        start.append(tokenizer.bos_token_id)
    total, count = 0.0, 0
    for row in rows:
        shared = row.prompt.prefix + row.prompt.text
        begun = start + tokenizer(row.prompt.prefill, add_special_tokens=False)["input_ids"]
        learnt = [*tokenizer(row.completion, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        with torch.no_grad():
            states = [
                model.get_encoder()(
                    input_ids=tokenizer(shared + passage, return_tensors="pt")["input_ids"]
                ).last_hidden_state
                for passage in row.prompt.passages or ("",)
            ]
            logits = model(
                encoder_outputs=(torch.cat(states, 1),),
                decoder_input_ids=torch.tensor([begun + learnt]),
            ).logits[0]
        for place, token in enumerate(learnt, start=len(begun) - 1):
            total -= float(logits[place].log_softmax(-1)[token])
            count += 1
    return total / count


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("room", [1.5e9, 1e5], ids=["at-once", "in-parts-and-checkpointed"])
def test_the_loss_is_that_of_replies_and_ends_alone(
    base: Path, tmp_path: Path, exact: None, method: str, room: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fieldstone.tune.generator.weights._ACTIVATIONS", room)
    whole = changed(method=method, batch=len(ROWS), dropout=0.0, epochs=1, checks=1)
    tuned = run(base, tmp_path / "new", tuning=whole)
    assert tuned.losses == (pytest.approx(mean_loss(base, ROWS), rel=1e-5),)


def test_a_plain_row_has_the_loss_of_transformers_own_labels(tmp_path: Path, exact: None) -> None:
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    base = tiny_models.t5(tmp_path / "t5")  # whose labels begin right after the start token, as ours
    row = Row(Prompt("When does the harbour open?"), "at six")
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForSeq2SeqLM.from_pretrained(base).eval()
    ids = tokenizer(row.prompt.text, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        wanted = model(input_ids=ids, labels=tokenizer(row.completion, return_tensors="pt")["input_ids"]).loss
    tuned = run(base, tmp_path / "new", [row], tuning=changed(dropout=0.0, epochs=1, checks=1))
    assert tuned.losses == (pytest.approx(float(wanted), rel=1e-5),)


def test_the_first_step_of_full_tuning_is_adams(tmp_path: Path, exact: None) -> None:
    """Adam's first step moves each weight by the learning rate, against the sign of its gradient."""
    base = tiny_models.t5(tmp_path / "t5")
    tuned = run(base, tmp_path / "new", tuning=changed(batch=len(ROWS), epochs=1, checks=1, warmup=0.0))
    old, new = weights(base), weights(tuned.folder)
    moved = torch.cat([(new[name] - old[name]).abs().flatten() for name in old])
    assert float(moved.max()) == pytest.approx(1e-3, rel=0.01)


def test_all_weights_move_or_those_of_the_linear_layers(base: Path, tmp_path: Path, exact: None) -> None:
    old, later = weights(base), itertools.count()  # the later, the better
    for method in ("full", "lora"):
        tuning = changed(method=method, batch=6, epochs=1, checks=1, learning_rate=1e-2, dropout=0.0)
        tuned = run(base, tmp_path / method, ROWS * 6, tuning=tuning, dev_score=lambda _: next(later))
        assert tuned.best_step == tuned.steps == 11
        new = weights(tuned.folder)
        assert old.keys() == new.keys()
        moved = {name for name in old if not torch.equal(old[name], new[name])}
        if method == "full":
            assert moved == {name for name in old if name != "final_logits_bias"}
        else:
            names = ("proj", "fc", "Attention", "DenseReluDense")
            assert moved == {n for n in old if n.endswith("weight") and any(part in n for part in names)
                             and "layer_norm" not in n and "bias" not in n}  # fmt: skip
        assert tuned.losses[-1] < 0.8 * tuned.losses[0]
        assert {tensor.dtype for tensor in new.values()} == {torch.float32}
        assert mean_loss(tuned.folder, ROWS) < 0.8 * mean_loss(base, ROWS)


def test_dropout_is_that_of_the_settings(base: Path) -> None:
    from fieldstone.models import Options

    options = Options(device="cpu", threads=1, dtype="float32")
    model = tune.prepared(str(base), base, TUNING, options, tune.AutoModelForSeq2SeqLM).train()
    lessons = tune._lessons(load(base), ROWS)

    def losses(share: float) -> set[float]:
        tune._set_dropout(model, share)
        return {tune._learn(model, lessons, 10_000, 0, half=False) for _ in range(2)}

    assert len(losses(0.0)) == 1
    assert len(losses(0.3)) == 2


class Stopped(Exception):
    pass


def stopping_at(step: int) -> Callable[..., None]:
    def progress(_: str, done: int, total: int, unit: str) -> None:
        if done == step:
            raise Stopped

    return progress


@pytest.mark.parametrize(
    ("method", "stop"), [pytest.param("full", 0, marks=pytest.mark.slow), ("full", 3), ("lora", 6)]
)
def test_a_stopped_run_ends_like_one_that_was_not(tmp_path: Path, method: str, stop: int) -> None:
    base, tuning = tiny_models.t5(tmp_path / "t5"), changed(method=method)
    whole = run(base, tmp_path / "whole", tuning=tuning)
    assert len(set(whole.losses)) == whole.steps == 6
    with pytest.raises(Stopped):
        run(base, tmp_path / "parts", tuning=tuning, progress=stopping_at(stop))
    assert not (tmp_path / "parts").exists()
    torch.manual_seed(7)  # no chance of the caller's comes in
    parts = run(base, tmp_path / "parts", tuning=tuning)
    assert (parts.losses, parts.scores, parts.best_step) == (whole.losses, whole.scores, whole.best_step)
    one, other = weights(whole.folder), weights(parts.folder)
    assert all(torch.equal(one[name], other[name]) for name in one)
    again = run(base, tmp_path / "parts", tuning=tuning, progress=stopping_at(0))  # it is there already
    assert again == parts


def test_what_cannot_be_tuned_is_told(base: Path, tmp_path: Path) -> None:
    long = Row(fid_prompt(["word " * 600], "What?"), " x")
    tuned = run(base, tmp_path / "new", [*ROWS, long])
    assert (tuned.rows, tuned.too_long) == (len(ROWS), 1)
    with pytest.raises(ModelError, match="none of 1 rows fits into the"):
        run(base, tmp_path / "none", [long])
    with pytest.raises(ModelError, match="tune it with tune_generator"):
        run(tiny_models.llama(tmp_path / "llama"), tmp_path / "none")
    with pytest.raises(ModelError, match="cannot be tuned here; give embedded:smollm2"):
        tune_seq2seq("fake:words", ROWS, tmp_path / "none", TUNING, dev_score=constant)
    with pytest.raises(SettingsError, match=r"method = qlora.*set lora or full"):
        run(base, tmp_path / "none", tuning=changed(method="qlora"))
    with pytest.raises(SettingsError, match=r"packing = true.*set generator.packing = false"):
        run(base, tmp_path / "none", tuning=changed(packing=True))
    with pytest.raises(ModelError, match="set a lower generator"):
        run(base, tmp_path / "none", tuning=changed(learning_rate=1e30))


# -- learning to read


KEYS = ("opens", "closes", "told", "boards")
WORDS = ("harbour", "morning", "evening", "pilot", "vessel", "metres", "master", "radio")


def copying(count: int, seed: int) -> list[Row]:
    """Three passages, each a title and a word; the question names a title, the answer is its word."""
    chance = random.Random(seed)
    rows = []
    for _ in range(count):
        keys, words = chance.sample(KEYS, 3), [chance.choice(WORDS) for _ in range(3)]
        right = chance.randrange(3)
        texts = [f"{key}\n{word}" for key, word in zip(keys, words, strict=True)]
        rows.append(Row(fid_prompt(texts, keys[right]), f" {words[right]}"))
    return rows


def copied(generator: Generator, rows: list[Row]) -> float:
    """Share of the rows whose word is written, letter for letter."""
    replies = generator.generate([row.prompt for row in rows], max_tokens=6)
    return sum(r.text == row.completion for r, row in zip(replies, rows, strict=True)) / len(rows)


def right(row: Row) -> int:
    """The place of the passage whose title is asked for."""
    key = row.prompt.text.removeprefix("question: ")
    return next(i for i, passage in enumerate(row.prompt.passages) if f"title: {key} " in passage)


@dataclass(frozen=True)
class Reader:
    """A model from random weights, tuned to copy; the rows that it has seen and those that it has not."""

    base: Path
    tuned: Tuned
    train: list[Row]
    held: list[Row]


def reader_of(base: Path, home: Path, learning_rate: float, epochs: int) -> Reader:
    train = copying(512, 1)
    held = [row for row in copying(60, 2) if row not in train]
    tuning = GeneratorTuning(method="full", epochs=epochs, batch=32, learning_rate=learning_rate, checks=1)
    score = {"dev_score": lambda its: copied(its, held)}
    return Reader(base, run(base, home / "new", train, tuning=tuning, **score), train, held)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    home = tmp_path_factory.mktemp("reader")
    return reader_of(tiny_models.t5(home / "t5", initializer_factor=1.0), home, 8e-3, 12)


@pytest.mark.slow
def test_t5_copies_the_word_out_of_the_right_one_of_three_passages(reader: Reader) -> None:
    assert copied(load(reader.base), reader.held) == reader.tuned.scores[0][1] == 0
    assert (
        copied(load(reader.tuned.folder), reader.held) > 0.8
    )  # 1.0 when this was written; by chance a third


@pytest.mark.slow
def test_bart_copies_the_word_too(tmp_path: Path) -> None:
    reader = reader_of(tiny_models.bart(tmp_path / "bart", init_std=0.02), tmp_path, 5e-3, 8)
    assert copied(load(reader.base), reader.held) == reader.tuned.scores[0][1] == 0
    assert copied(load(reader.tuned.folder), reader.held) > 0.45  # .63


@pytest.mark.slow
def test_the_right_passage_has_the_most_attention(reader: Reader) -> None:
    def share(folder: Path) -> float:
        scores = load(folder).attend([row.prompt for row in reader.held])
        hits = [its[right(row)] == max(its) for row, its in zip(reader.held, scores, strict=True)]
        return sum(hits) / len(hits)

    before, after = share(reader.base), share(reader.tuned.folder)
    assert after > before + 0.3  # .32 and .88


@pytest.mark.slow
def test_a_retriever_learns_from_the_readers_attention(reader: Reader, tmp_path: Path) -> None:
    from fieldstone.models import load_encoder
    from fieldstone.tune.retriever import Ranking, tune_retriever

    def passages(row: Row) -> tuple[str, ...]:
        return tuple(passage.strip() for passage in row.prompt.passages)

    def nearest_is_right(folder: Path) -> float:
        encoder, hits = load_encoder(str(folder), threads=1), 0
        for row in reader.held:
            cosines = encoder.encode_passages(passages(row)) @ encoder.encode_queries([row.prompt.text])[0]
            hits += int(cosines.argmax()) == right(row)
        return hits / len(reader.held)

    rows = reader.train[:256]
    taught = load(reader.tuned.folder).attend([row.prompt for row in rows])
    data = [Ranking(r.prompt.text, passages(r), its) for r, its in zip(rows, taught, strict=True)]
    bert = tiny_models.bert(tmp_path / "bert")
    tuning = RetrieverTuning(
        loss="distill", teacher_kind="cross-attention", teacher_temperature=1.0, epochs=4, batch=16,
        learning_rate=1e-3, candidates=3,
    )  # fmt: skip
    tuned = tune_retriever(str(bert), data, tmp_path / "new", tuning, device="cpu", threads=1)
    assert nearest_is_right(tuned.folder) > nearest_is_right(bert) + 0.2  # .17 and .68


@pytest.mark.slow
def test_a_real_model_is_tuned_and_reads(tmp_path: Path) -> None:
    named = os.environ.get("FIELDSTONE_SEQ2SEQ")
    if not named:
        pytest.skip("FIELDSTONE_SEQ2SEQ names no folder of an encoder-decoder")
    train = copying(64, 1)
    tuning = GeneratorTuning(epochs=1, batch=8, learning_rate=1e-3, checks=1)
    tuned = tune_seq2seq(named, train, tmp_path / "new", tuning, dev_score=lambda its: copied(its, train[:8]))
    before, after = load_generator(named), load_generator(str(tuned.folder))
    assert isinstance(after, Seq2SeqGenerator)
    prompts, replies = [row.prompt for row in train], [row.completion for row in train]

    def likelihood(generator: Generator) -> float:
        return sum(score.mean for score in generator.score(prompts, replies))

    assert likelihood(after) > likelihood(before)
    whole = Prompt(prompts[0].text + prompts[0].passages[0])
    apart = Prompt(prompts[0].text, passages=prompts[0].passages[:1])
    one, other = (after.score([prompt], replies[:1])[0].logprob for prompt in (whole, apart))
    assert one == pytest.approx(other, abs=1e-3)
    assert len(after.attend(prompts[:1])[0]) == 3
