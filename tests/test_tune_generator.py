from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tiny_models
from fieldstone.errors import ModelError, WorkspaceError
from fieldstone.models import Generator, Prompt, load_generator
from fieldstone.models.causal import CausalGenerator
from fieldstone.settings import GeneratorTuning

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from fieldstone.tune import generator as tune  # noqa: E402
from fieldstone.tune import weights as weights_of  # noqa: E402
from fieldstone.tune.generator import Row, Tuned, tune_generator  # noqa: E402

TUNING = GeneratorTuning(rank=4, alpha=8, epochs=2, batch=4, learning_rate=5e-3, checks=2)
ROWS = [
    *(
        Row(Prompt(f"Question: {n}?\nAnswer:", prefix="The harbour opens at six.\n"), f" {n}")
        for n in range(9)
    ),
    *(Row(Prompt(f"What is {n * n} + 1?", chat=True, prefill="It is "), f"{n}") for n in range(5)),
]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.llama(tmp_path_factory.mktemp("m") / "llama")


def constant(_: Generator) -> float:
    return 0.5


def run(base: Path, into: Path, rows: list[Row] = ROWS, **changes: Any) -> Tuned:
    arguments: dict[str, Any] = {"dev_score": constant, "threads": 1, "device": "cpu", **changes}
    return tune_generator(str(base), rows, into, arguments.pop("tuning", TUNING), **arguments)


def weights(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def load(folder: Path) -> CausalGenerator:
    made = load_generator(str(folder), dtype="float32", threads=1)
    assert isinstance(made, CausalGenerator)
    return made


def all_ids(generator: CausalGenerator, row: Row) -> list[int]:
    prefix, rest = generator.prompt_ids(row.prompt)
    return prefix + rest + generator.completion_ids(row.completion)


def mean_loss(generator: CausalGenerator, rows: list[Row]) -> float:
    """A learnt token's loss by transformers' own forward pass, a row at a time, labels laid out anew."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(generator.name, dtype=torch.float32).eval()
    total, count = 0.0, 0
    for row in rows:
        prefix, rest = generator.prompt_ids(row.prompt)
        end = [2] if row.prompt.chat else generator.completion_ids("\n")
        learnt = generator.completion_ids(row.completion) + end
        prompt = prefix + rest
        with torch.no_grad():
            out = model(torch.tensor([prompt + learnt]), labels=torch.tensor([[-100] * len(prompt) + learnt]))
        total, count = total + float(out.loss) * len(learnt), count + len(learnt)
    return total / count


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train in float32 also on a CPU that multiplies bfloat16."""
    monkeypatch.setattr("fieldstone.models.devices.cpu_features", lambda: frozenset())


def test_the_weights_move_and_the_answers_are_learnt(base: Path, tmp_path: Path, exact: None) -> None:
    tuning = TUNING.model_copy(update={"epochs": 30, "checks": 1, "dropout": 0.0})
    later = itertools.count()  # the later, the better
    tuned = run(base, tmp_path / "new", tuning=tuning, dev_score=lambda _: next(later))
    assert tuned.best_step == tuned.steps
    old, new = weights(base), weights(tuned.folder)
    moved = {name for name in old if not torch.equal(old[name], new[name])}
    assert len(moved) == 2 * 7  # each linear layer of the two blocks, and nothing else
    assert all("_proj" in name for name in moved)
    assert {t.dtype for t in new.values()} == {torch.float32}
    assert tuned.losses[-1] < 0.5 * tuned.losses[0]
    assert mean_loss(load(tuned.folder), ROWS) < 0.5 * mean_loss(load(base), ROWS)


@pytest.mark.parametrize("room", [1.5e9, 1e5], ids=["at-once", "in-parts-and-checkpointed"])
def test_the_loss_is_that_of_answers_and_ends_alone(
    base: Path, tmp_path: Path, exact: None, room: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights_of, "_ACTIVATIONS", room)
    whole = TUNING.model_copy(update={"batch": len(ROWS), "dropout": 0.0, "epochs": 1, "checks": 1})
    tuned = run(base, tmp_path / "new", tuning=whole)
    assert tuned.losses == (pytest.approx(mean_loss(load(base), ROWS), rel=1e-5),)


def test_what_ends_a_text_is_what_stops_the_reply(base: Path) -> None:
    generator = load(base)
    assert generator.end_ids(Prompt("x")) == generator.completion_ids("\n")
    assert generator.end_ids(Prompt("x", chat=True, system="Be brief.")) == [2]


def test_merged_equals_base_and_adapter(base: Path, tmp_path: Path, exact: None) -> None:
    from fieldstone.models import Options

    options = Options(device="cpu", threads=1, dtype="float32")
    model = weights_of.prepared(str(base), base, TUNING, options).eval()
    adapter = {name: p for name, p in model.named_parameters() if p.requires_grad}
    torch.manual_seed(1)
    with torch.no_grad():
        for tensor in adapter.values():
            tensor.normal_(std=0.3)
    weights_of.merge(str(base), base, TUNING, 1, adapter, tmp_path / "merged")
    merged, plain = load(tmp_path / "merged"), load(base)
    for row in ROWS[::4]:
        ids = all_ids(plain, row)
        assert ids == all_ids(merged, row)
        with torch.no_grad():
            wanted = model(torch.tensor([ids])).logits.log_softmax(-1)
            found = merged._forward.model(torch.tensor([ids])).logits.log_softmax(-1)
            before = plain._forward.model(torch.tensor([ids])).logits.log_softmax(-1)
        assert torch.allclose(wanted, found, atol=1e-4)
        assert not torch.allclose(wanted, before, atol=0.1)


def test_the_best_tuned_weights_stay(base: Path, tmp_path: Path) -> None:
    answers = iter([0.9, 0.1, 0.4, 0.4, 0.3])  # the untuned model wins, step 4 and 6 are alike
    seen: list[dict[str, Any]] = []

    def score(generator: Generator) -> float:
        seen.append(weights(Path(generator.name)))
        return next(answers)

    tuned = run(base, tmp_path / "new", dev_score=score)
    assert tuned.scores == ((0, 0.9), (2, 0.1), (4, 0.4), (6, 0.4), (8, 0.3))
    assert (tuned.best_step, tuned.steps, len(tuned.losses)) == (4, 8, 8)
    kept = weights(tuned.folder)
    assert all(torch.equal(kept[name], seen[2][name]) for name in kept)
    assert not all(torch.equal(kept[name], seen[3][name]) for name in kept)
    assert json.loads((tuned.folder / "tuned.json").read_text())["best_step"] == 4
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


class Stopped(Exception):
    pass


def stopping_at(step: int) -> Callable[..., None]:
    def progress(_: str, done: int, total: int, unit: str) -> None:
        if done == step:
            raise Stopped

    return progress


@pytest.mark.parametrize("stop", [0, 3, 4, 8])
def test_a_stopped_run_ends_like_one_that_was_not(base: Path, tmp_path: Path, stop: int) -> None:
    whole = run(base, tmp_path / "whole")
    asked: list[str] = []

    def score(generator: Generator) -> float:
        asked.append(generator.name)
        return 0.5

    with pytest.raises(Stopped):
        run(base, tmp_path / "parts", dev_score=score, progress=stopping_at(stop))
    assert not (tmp_path / "parts").exists()
    torch.manual_seed(7)  # no chance of the caller's comes in
    parts = run(base, tmp_path / "parts", dev_score=score)
    assert (parts.losses, parts.scores, parts.best_step) == (whole.losses, whole.scores, whole.best_step)
    one, other = weights(whole.folder), weights(parts.folder)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert len(asked) == 5  # no score was taken twice


def test_a_run_that_is_stopped_while_it_scores(base: Path, tmp_path: Path) -> None:
    whole = run(base, tmp_path / "whole")
    answers = iter([0.5, 0.5])
    with pytest.raises(StopIteration):
        run(base, tmp_path / "parts", dev_score=lambda _: next(answers))
    parts = run(base, tmp_path / "parts")
    assert parts.losses == whole.losses
    one, other = weights(whole.folder), weights(parts.folder)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_other_rows_or_settings_start_anew(base: Path, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        run(base, tmp_path / "new", progress=stopping_at(4))
    seen: list[int] = []
    run(base, tmp_path / "new", ROWS[1:], progress=lambda _, done, total, unit: seen.append(done))
    assert seen == list(range(9))
    again = run(base, tmp_path / "new", ROWS[1:], seed=1)  # what is finished gives way too
    assert again.losses != run(base, tmp_path / "other", ROWS[1:]).losses


def test_a_damaged_checkpoint_starts_anew(base: Path, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        run(base, tmp_path / "new", progress=stopping_at(4))
    checkpoint = tmp_path / "new.tuning" / "checkpoint.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    assert run(base, tmp_path / "new").losses == run(base, tmp_path / "other").losses


def test_a_second_call_returns_at_once(base: Path, tmp_path: Path) -> None:
    def score(generator: Generator) -> float:
        raise AssertionError("asked again")

    first = run(base, tmp_path / "new")
    assert run(base, tmp_path / "new", dev_score=score, progress=stopping_at(0)) == first


def test_rows_that_do_not_fit_are_counted(base: Path, tmp_path: Path) -> None:
    long = Row(Prompt("word " * 600), " x")
    tuned = run(base, tmp_path / "new", [*ROWS, long])
    assert (tuned.rows, tuned.too_long) == (len(ROWS), 1)
    for rows in ([long], []):
        with pytest.raises(ModelError, match=f"none of {len(rows)} rows fits into the 512 tokens"):
            run(base, tmp_path / "none", rows)


def test_what_cannot_be_tuned_is_told(base: Path, tmp_path: Path) -> None:
    for name in ("fake:words", "http://localhost:1/v1#m", "embedded:minilm"):
        with pytest.raises(ModelError, match="cannot be tuned here; give embedded:smollm2"):
            tune_generator(name, ROWS, tmp_path / "new", TUNING, dev_score=constant)
    with pytest.raises(ModelError, match="no causal model"):
        run(tiny_models.t5(tmp_path / "t5"), tmp_path / "new")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(WorkspaceError, match="no generator tuned here"):
        run(base, tmp_path / "mine")
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(WorkspaceError, match="cannot be written"):
        run(base, tmp_path / "file" / "new")
    with pytest.raises(ModelError, match="set a lower generator"):
        run(base, tmp_path / "new", tuning=TUNING.model_copy(update={"learning_rate": 1e30}))


def test_a_model_with_sliding_windows(tmp_path: Path, exact: None) -> None:
    rows = [row for row in ROWS if not row.prompt.chat]
    gemma = tiny_models.gemma2(tmp_path / "gemma2")
    whole = TUNING.model_copy(update={"batch": len(rows), "dropout": 0.0, "epochs": 1, "checks": 1})
    tuned = run(gemma, tmp_path / "new", rows, tuning=whole)
    assert tuned.losses == (pytest.approx(mean_loss(load(gemma), rows), rel=1e-5),)


def test_the_learning_rate_rises_and_falls() -> None:
    rates = [tune._rate(step, 20, 0.1) for step in range(1, 21)]
    assert rates[:3] == [0.5, 1.0, 1.0]
    assert rates[2:] == sorted(rates[2:], reverse=True)
    assert 0 < rates[-1] < 0.01
    assert tune._rate(1, 1, 0.0) == 1.0


def test_batches_hold_every_row_once_and_rows_of_like_length() -> None:
    lengths = [n * 37 % 500 + 1 for n in range(100)]
    batches = tune._epoch(lengths, TUNING, 0, 0)
    assert sorted(i for batch in batches for i in batch) == list(range(100))
    spread = [
        max(lengths[i] for i in batch) / (sum(lengths[i] for i in batch) / len(batch)) for batch in batches
    ]
    assert sorted(spread)[len(spread) // 2] < 1.25
    assert batches != tune._epoch(lengths, TUNING, 0, 1)
    assert batches == tune._epoch(lengths, TUNING, 0, 0)


@pytest.mark.slow
def test_the_embedded_model_answers_better_about_another_article(data: Path, tmp_path: Path) -> None:
    from fieldstone.evaluate.measures import token_f1
    from fieldstone.prompts import one_by_one_prompt, parse_one_by_one

    def lines(name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (data / "squad" / name).read_text().splitlines()]

    passages = {row["id"]: row["text"] for row in lines("squad_train_passages.jsonl")}
    short = [q for q in lines("squad_train_slice.jsonl") if len(passages[q["passage_id"]]) < 450]
    articles = list(dict.fromkeys(q["passage_id"].partition("#")[0] for q in short))
    of_tested = [q for q in short if q["passage_id"].startswith(f"{articles[0]}#")]
    tested = of_tested[:: len(of_tested) // 40][:40]
    others = [q for q in short if not q["passage_id"].startswith(f"{articles[0]}#")]
    learnt = others[:: len(others) // 120][:120]

    def prompt(question: dict[str, Any]) -> Prompt:
        return one_by_one_prompt(passages[question["passage_id"]], question["question"])

    def f1(generator: Generator) -> float:
        replies = generator.generate([prompt(q) for q in tested], max_tokens=32, stop=["\n"])
        pairs = zip(replies, tested, strict=True)
        return sum(token_f1(parse_one_by_one(r.text), q["answers"]) for r, q in pairs) / len(tested)

    rows = [Row(prompt(q), f" {q['answers'][0]}") for q in learnt]
    tuning = GeneratorTuning(epochs=1, checks=1)
    tuned = tune_generator("embedded:smollm2", rows, tmp_path / "new", tuning, dev_score=f1)
    (_, before), (_, after) = tuned.scores
    assert after > before + 0.1  # .38 and .63 when this was written
    base, new = load_generator("embedded:smollm2"), load_generator(str(tuned.folder))
    assert f1(new) == after  # what was scored is what is kept
    first = [rows[0].prompt], [rows[0].completion]
    assert new.score(*first)[0].logprob != base.score(*first)[0].logprob
