from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tiny_models
from fieldstone.errors import MissingExtra, ModelError, SettingsError, WorkspaceError
from fieldstone.models import Generator, Prompt, load_generator
from fieldstone.models.causal import CausalGenerator
from fieldstone.prompts import one_by_one_prompt, together_prompt
from fieldstone.records import Example
from fieldstone.settings import GeneratorTuning, resolve_settings

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from fieldstone.tune import generator as tune  # noqa: E402
from fieldstone.tune.generator import (  # noqa: E402
    Row,
    Tuned,
    loop,
    tune_generator,
)
from fieldstone.tune.generator import weights as weights_of  # noqa: E402
from fieldstone.tune.generator.lessons import lessons  # noqa: E402

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
    made = load_generator(str(folder), dtype="float32", threads=1, engine="transformers")
    assert isinstance(made, CausalGenerator)
    return made


def tiny_models_tokenizer(base: Path, into: Path) -> None:
    from transformers import AutoTokenizer

    AutoTokenizer.from_pretrained(base).save_pretrained(into)


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
    tuning = TUNING.model_copy(update={"epochs": 6, "checks": 1, "dropout": 0.0})
    later = itertools.count()  # the later, the better
    tuned = run(base, tmp_path / "new", ROWS * 5, tuning=tuning, dev_score=lambda _: next(later))
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
    lean = load_generator(str(tmp_path / "merged"), dtype="float32", threads=1, engine="lean")
    scores = [made.score([r.prompt for r in ROWS], [r.completion for r in ROWS]) for made in (merged, lean)]
    assert [s.mean for s in scores[0]] == pytest.approx([s.mean for s in scores[1]], abs=1e-4)
    for row in ROWS[::4]:
        ids = all_ids(plain, row)
        assert ids == all_ids(merged, row)
        with torch.no_grad():
            wanted = model(torch.tensor([ids])).logits.log_softmax(-1)
            found = merged._forward.engine.model(torch.tensor([ids])).logits.log_softmax(-1)
            before = plain._forward.engine.model(torch.tensor([ids])).logits.log_softmax(-1)
        assert torch.allclose(wanted, found, atol=1e-4)
        assert not torch.allclose(wanted, before, atol=0.1)


def test_all_weights_move_and_the_answers_are_learnt(base: Path, tmp_path: Path, exact: None) -> None:
    tuning = TUNING.model_copy(update={"method": "full", "epochs": 4, "checks": 1, "learning_rate": 1e-3})
    later = itertools.count()
    tuned = run(base, tmp_path / "new", ROWS * 5, tuning=tuning, dev_score=lambda _: next(later))
    old, new = weights(base), weights(tuned.folder)
    assert old.keys() == new.keys()
    assert all(not torch.equal(old[name], new[name]) for name in old)
    assert {name: (t.dtype, t.shape) for name, t in old.items()} == {
        name: (t.dtype, t.shape) for name, t in new.items()
    }
    assert tuned.trainable == sum(t.numel() for t in old.values())
    assert mean_loss(load(tuned.folder), ROWS) < 0.5 * mean_loss(load(base), ROWS)


@pytest.mark.parametrize("kept", ["float32", "bfloat16"])
def test_all_weights_are_kept_as_they_are_or_rounded_once(base: Path, tmp_path: Path, kept: str) -> None:
    from transformers import AutoModelForCausalLM

    from fieldstone.models import Options

    dtype, tuning = getattr(torch, kept), TUNING.model_copy(update={"method": "full"})
    AutoModelForCausalLM.from_pretrained(base, dtype=dtype).save_pretrained(tmp_path / "base")
    tiny_models_tokenizer(base, tmp_path / "base")
    name, options = str(tmp_path / "base"), Options(device="cpu", threads=1, dtype="bfloat16")
    model = weights_of.prepared(name, tmp_path / "base", tuning, options).eval()
    learnt = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert {p.dtype for p in learnt.values()} == {torch.float32}
    torch.manual_seed(1)
    with torch.no_grad():
        for tensor in learnt.values():
            tensor.add_(torch.randn_like(tensor) * 0.05)
    weights_of.merge(name, tmp_path / "base", tuning, 1, learnt, tmp_path / "new")
    saved = weights(tmp_path / "new")
    assert {t.dtype for t in saved.values()} == {dtype}
    assert all(torch.equal(saved[name], p.to(dtype)) for name, p in learnt.items() if name in saved)
    if kept == "float32":
        new = load(tmp_path / "new")
        for row in ROWS[::4]:
            prefix, rest = new.prompt_ids(row.prompt)
            ids, learnt_ids = prefix + rest, new.completion_ids(row.completion)
            with torch.no_grad():
                logits = model(torch.tensor([ids + learnt_ids])).logits[0].log_softmax(-1)
            wanted = sum(float(logits[len(ids) - 1 + i, token]) for i, token in enumerate(learnt_ids))
            assert new.score([row.prompt], [row.completion])[0].logprob == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("make", ["llama", "gemma2"])
@pytest.mark.parametrize("method", ["lora", "full"])
def test_packed_rows_learn_as_those_side_by_side(
    tmp_path: Path, exact: None, make: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [row for row in ROWS if make == "llama" or not row.prompt.chat]
    more = {"window": 512} if make == "gemma2" else {}
    folder = getattr(tiny_models, make)(tmp_path / make, **more)
    monkeypatch.setattr("fieldstone.tune.generator.loss.PACKED", 60)  # several sequences a step
    plain = TUNING.model_copy(update={"method": method, "learning_rate": 1e-3, "batch": 9, "checks": 1})
    packed = run(folder, tmp_path / "p", rows, tuning=plain.model_copy(update={"packing": True}))
    apart = run(folder, tmp_path / "a", rows, tuning=plain)
    assert packed.losses == pytest.approx(apart.losses, rel=2e-5)
    one, other = weights(packed.folder), weights(apart.folder)
    assert all(torch.allclose(one[name], other[name], atol=2e-4) for name in one)


def test_packed_sequences_hold_every_row_once_and_no_more_than_fits() -> None:
    from fieldstone.tune.generator.loss import packed, packs

    rows = [([n % 7] * (n * 37 % 90), [n]) for n in range(1, 50)] + [([8] * 299, [9])]
    found = packs(rows, 100)
    assert sorted(i for its in found for i in its) == list(range(50))
    assert [49] in found  # longer than a sequence: alone
    assert max(packed([rows[i] for i in its]).ids.shape[1] for its in found if its != [49]) <= 100


def test_what_packed_rows_begin_with_stands_once() -> None:
    from fieldstone.tune.generator.loss import packed

    its = packed([([5, 6], [7]), ([8], [9]), ([5, 6], [9, 10])])
    assert its.ids.tolist() == [[5, 6, 7, 9, 10, 8, 9]]
    assert its.positions is not None
    assert its.mask is not None
    assert its.positions.tolist() == [[0, 1, 2, 2, 3, 0, 1]]
    assert (its.keep[its.at].tolist(), its.labels.tolist()) == ([1, 1, 3, 5], [7, 9, 10, 9])
    seen = [row.isfinite().nonzero()[:, 0].tolist() for row in its.mask[0, 0]]
    assert seen == [[0], [0, 1], [0, 1, 2], [0, 1, 3], [0, 1, 3, 4], [5], [5, 6]]


def test_rows_that_begin_alike_are_learnt_in_one_step_when_packed() -> None:
    from fieldstone.tune.generator.loop import batches_of

    starts = [f"passage {n % 4}" for n in range(16)]
    tuning = TUNING.model_copy(update={"batch": 4})
    batches = batches_of([20] * 16, tuning, 0, 0, starts)
    assert sorted(i for batch in batches for i in batch) == list(range(16))
    assert all(len({starts[i] for i in batch}) == 1 for batch in batches)


@pytest.mark.parametrize("make", ["gemma2", "bloom"])
def test_a_model_that_reads_packed_rows_otherwise_is_refused(tmp_path: Path, make: str) -> None:
    """Its window hides what stands far before a token; or it takes no positions at all."""
    folder = getattr(tiny_models, make)(tmp_path / make)
    rows = [row for row in ROWS if not row.prompt.chat]
    with pytest.raises(
        ModelError, match=r"not read as they are apart .* type: --set generator.packing=false"
    ):
        run(folder, tmp_path / "new", rows, tuning=TUNING.model_copy(update={"packing": True}))


def test_what_is_computed_again_is_the_same(base: Path, tmp_path: Path, exact: None) -> None:
    from transformers import LlamaForCausalLM

    asked: list[object] = []
    enable = LlamaForCausalLM.gradient_checkpointing_enable
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(
            LlamaForCausalLM, "gradient_checkpointing_enable", lambda *a: asked.append(1) or enable(*a)
        )
        made = {
            how: run(base, tmp_path / how, tuning=TUNING.model_copy(update={"recompute": how, "checks": 1}))
            for how in ("auto", "off", "on")
        }
    assert len(asked) == 1
    assert made["on"].losses == pytest.approx(made["off"].losses, rel=1e-5)
    assert made["auto"].losses == made["off"].losses


@pytest.mark.parametrize("packing", [False, True])
def test_short_rows_learn_in_plain_steps_what_long_ones_learn_fused(
    base: Path, tmp_path: Path, exact: None, packing: bool
) -> None:
    from transformers import LlamaForCausalLM

    asked: list[str] = []
    choose = LlamaForCausalLM.set_attn_implementation
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(
            LlamaForCausalLM,
            "set_attn_implementation",
            lambda its, to: asked.append(to) or choose(its, to),
        )
        tuning = TUNING.model_copy(update={"packing": packing})
        plain = run(base, tmp_path / "plain", tuning=tuning)
        assert asked == ["eager"]
        patched.setattr(tune, "SHORT", 0)
        fused = run(base, tmp_path / "fused", tuning=tuning)
    assert asked == ["eager"]
    assert plain.losses == pytest.approx(fused.losses, rel=1e-5)


def test_four_bits_want_a_gpu(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tuning = TUNING.model_copy(update={"method": "qlora"})
    with pytest.raises(
        ModelError, match=r"needs a CUDA device, and this is cpu; type: --set generator.method=lora"
    ):
        run(base, tmp_path / "new", tuning=tuning)
    monkeypatch.setattr(weights_of, "find_spec", lambda _: None)
    with pytest.raises(MissingExtra, match=r"fieldstone\[qlora\]"):
        weights_of.check_method("qlora", "cuda")
    for flags in (["models.device=cpu"], ["models.device=mps"]):
        with pytest.raises(SettingsError, match=r"method = qlora needs a CUDA device, but models.device"):
            resolve_settings(environment={}, flags=["generator.method=qlora", *flags])
    resolve_settings(environment={}, flags=["generator.method=qlora", "models.device=cuda"])


def test_adapters_beside_four_bits_learn_and_are_added_to_the_whole_weights(
    base: Path, tmp_path: Path, exact: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("bitsandbytes")  # its CPU kernels are slow, but they are there
    monkeypatch.setattr(tune, "check_method", lambda *_: None)
    bits: list[set[str]] = []
    load_model = weights_of.read_model

    def read_model(*given: Any, **named: Any) -> Any:
        made = load_model(*given, **named)
        bits.append({str(p.dtype) for n, p in made.model.named_parameters() if "_proj" in n})
        return made

    monkeypatch.setattr(weights_of, "read_model", read_model)
    tuning = TUNING.model_copy(update={"method": "qlora", "epochs": 20, "checks": 1})
    later = itertools.count()
    tuned = run(base, tmp_path / "new", tuning=tuning, dev_score=lambda _: next(later))
    assert bits[0] == {"torch.uint8"}  # in training
    assert all(its == {"torch.float32"} for its in bits[1:])  # in merging
    old, new = weights(base), weights(tuned.folder)
    assert {name for name in old if not torch.equal(old[name], new[name])} == {
        name for name in old if "_proj" in name
    }
    assert tuned.trainable == run(base, tmp_path / "lora").trainable
    assert mean_loss(load(tuned.folder), ROWS) < 0.6 * mean_loss(load(base), ROWS)


TEXTS = {f"p{i}": f"Crane {i} lifts {n} tonnes." for i, n in enumerate([3, 5, 8, 13, 21, 34])}
ASKED = [Example(f"e{i}", f"What does crane {i} lift?", TEXTS[f"p{i}"][14:-1], f"p{i}") for i in range(4)]
FOUND = {e.id: ["p5", str(e.passage_id), "p4"] for e in ASKED}


def test_the_loss_of_ralt_is_that_of_the_answer_after_each_passage(
    base: Path, tmp_path: Path, exact: None
) -> None:
    tuning = TUNING.model_copy(
        update={"lessons": "ralt", "retrieved": 3, "batch": 12, "epochs": 1, "checks": 1}
    )
    rows = lessons(ASKED, TEXTS, "mixture", tuning, 4, found=FOUND)
    tuned = run(base, tmp_path / "new", rows, tuning=tuning)
    by_hand = [
        Row(one_by_one_prompt(TEXTS[id_], e.question), f" {e.answer}") for e in ASKED for id_ in FOUND[e.id]
    ]
    assert tuned.losses == (pytest.approx(mean_loss(load(base), by_hand), rel=1e-5),)
    scores = load(base).score([row.prompt for row in by_hand], [f"{row.completion}\n" for row in by_hand])
    total, count = sum(score.logprob for score in scores), sum(score.tokens for score in scores)
    assert tuned.losses == (pytest.approx(-total / count, rel=1e-4),)  # what LSR and the mixture score


def test_the_loss_of_raft_is_that_of_citing_or_refusing(base: Path, tmp_path: Path, exact: None) -> None:
    tuning = TUNING.model_copy(
        update={"lessons": "raft", "retrieved": 1, "gold_share": 0.5, "batch": 4, "epochs": 1, "checks": 1}
    )
    rows = lessons(ASKED, TEXTS, "together", tuning, 4, found=FOUND)
    tuned = run(base, tmp_path / "new", rows, tuning=tuning)
    by_hand = []
    for e, row in zip(ASKED, rows, strict=True):
        gold, far, last = TEXTS[str(e.passage_id)], TEXTS["p5"], TEXTS["p4"]
        if gold in row.prompt.text:
            first = row.prompt.text.index(gold) < row.prompt.text.index(far)
            prompt = together_prompt([gold, far] if first else [far, gold], e.question)
            by_hand.append(Row(prompt, f"{1 if first else 2}\n\n### Answer\n{e.answer}"))
        else:
            first = row.prompt.text.index(far) < row.prompt.text.index(last)
            prompt = together_prompt([far, last] if first else [last, far], e.question)
            by_hand.append(Row(prompt, "0\n\n### Answer\n"))
    assert sum(row.completion.startswith("0") for row in by_hand) == 2
    assert tuned.losses == (pytest.approx(mean_loss(load(base), by_hand), rel=1e-5),)


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


@pytest.fixture(scope="module")
def uninterrupted(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Tuned]:
    """The run with these settings that nothing stopped; made once for all tests that compare with it."""
    home, made = tmp_path_factory.mktemp("uninterrupted"), dict[str, Tuned]()

    def whole(tuning: GeneratorTuning = TUNING) -> Tuned:
        key = tuning.model_dump_json()
        if key not in made:
            made[key] = run(base, home / str(len(made)), tuning=tuning)
        return made[key]

    return whole


@pytest.mark.parametrize(
    ("stop", "how"), [(0, {}), (3, {}), (4, {}), (8, {}), (4, {"method": "full"}), (4, {"packing": True})]
)
def test_a_stopped_run_ends_like_one_that_was_not(
    base: Path,
    uninterrupted: Callable[..., Tuned],
    tmp_path: Path,
    stop: int,
    how: dict[str, Any],
) -> None:
    tuning = TUNING.model_copy(update={**how, "dropout": 0.0 if how else 0.1})
    whole = uninterrupted(tuning)
    asked: list[str] = []

    def score(generator: Generator) -> float:
        asked.append(generator.name)
        return 0.5

    with pytest.raises(Stopped):
        run(base, tmp_path / "parts", tuning=tuning, dev_score=score, progress=stopping_at(stop))
    assert not (tmp_path / "parts").exists()
    torch.manual_seed(7)  # no chance of the caller's comes in
    parts = run(base, tmp_path / "parts", tuning=tuning, dev_score=score)
    assert (parts.losses, parts.scores, parts.best_step) == (whole.losses, whole.scores, whole.best_step)
    one, other = weights(whole.folder), weights(parts.folder)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert len(asked) == 5  # no score was taken twice


def test_a_run_that_is_stopped_while_it_scores(
    base: Path, uninterrupted: Callable[..., Tuned], tmp_path: Path
) -> None:
    whole = uninterrupted()
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
    first = run(base, tmp_path / "new", ROWS[1:], progress=lambda _, done, total, unit: seen.append(done))
    assert seen == list(range(9))
    again = run(base, tmp_path / "new", ROWS[1:], seed=1)  # what is finished gives way too
    assert again.losses != first.losses


def test_a_damaged_checkpoint_starts_anew(
    base: Path, uninterrupted: Callable[..., Tuned], tmp_path: Path
) -> None:
    with pytest.raises(Stopped):
        run(base, tmp_path / "new", progress=stopping_at(4))
    checkpoint = tmp_path / "new.tuning" / "checkpoint.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    assert run(base, tmp_path / "new").losses == uninterrupted().losses


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
    rates = [loop.rate(step, 20, 0.1) for step in range(1, 21)]
    assert rates[:3] == [0.5, 1.0, 1.0]
    assert rates[2:] == sorted(rates[2:], reverse=True)
    assert 0 < rates[-1] < 0.01
    assert loop.rate(1, 1, 0.0) == 1.0


def test_batches_hold_every_row_once_and_rows_of_like_length() -> None:
    lengths = [n * 37 % 500 + 1 for n in range(100)]
    batches = loop.batches_of(lengths, TUNING, 0, 0)
    assert sorted(i for batch in batches for i in batch) == list(range(100))
    spread = [
        max(lengths[i] for i in batch) / (sum(lengths[i] for i in batch) / len(batch)) for batch in batches
    ]
    assert sorted(spread)[len(spread) // 2] < 1.25
    assert batches != loop.batches_of(lengths, TUNING, 0, 1)
    assert batches == loop.batches_of(lengths, TUNING, 0, 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "rows"), [({}, 120), ({"method": "full", "learning_rate": 5e-5}, 48)], ids=["lora", "full"]
)
def test_the_embedded_model_answers_better_about_another_article(
    data: Path, tmp_path: Path, how: dict[str, Any], rows: int
) -> None:
    from fieldstone.evaluate.measures.answering import token_f1
    from fieldstone.prompts import one_by_one_prompt, parse_one_by_one

    def lines(name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (data / "squad" / name).read_text().splitlines()]

    passages = {row["id"]: row["text"] for row in lines("squad_train_passages.jsonl")}
    short = [q for q in lines("squad_train_slice.jsonl") if len(passages[q["passage_id"]]) < 450]
    articles = list(dict.fromkeys(q["passage_id"].partition("#")[0] for q in short))
    of_tested = [q for q in short if q["passage_id"].startswith(f"{articles[0]}#")]
    tested = of_tested[:: len(of_tested) // 40][:40]
    others = [q for q in short if not q["passage_id"].startswith(f"{articles[0]}#")]
    learnt = others[:: len(others) // rows][:rows]

    def prompt(question: dict[str, Any]) -> Prompt:
        return one_by_one_prompt(passages[question["passage_id"]], question["question"])

    def f1(generator: Generator) -> float:
        replies = generator.generate([prompt(q) for q in tested], max_tokens=32, stop=["\n"])
        pairs = zip(replies, tested, strict=True)
        return sum(token_f1(parse_one_by_one(r.text), q["answers"]) for r, q in pairs) / len(tested)

    taught = [Row(prompt(q), f" {q['answers'][0]}") for q in learnt]
    tuning = GeneratorTuning(epochs=1, checks=1, **how)
    tuned = tune_generator("embedded:smollm2", taught, tmp_path / "new", tuning, dev_score=f1)
    (_, before), (_, after) = tuned.scores
    assert after > before + 0.1  # lora .38 and .63, full .38 and .59 when this was written
    base, new = load_generator("embedded:smollm2"), load_generator(str(tuned.folder))
    assert f1(new) == after  # what was scored is what is kept
    first = [taught[0].prompt], [taught[0].completion]
    assert new.score(*first)[0].logprob != base.score(*first)[0].logprob


def test_the_adapters_are_kept_beside_what_they_were_merged_into(base: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    tuned = run(base, tmp_path / "t", tuning=TUNING.model_copy(update={"epochs": 1}))
    kept, merged, plain = load_file(tuned.folder / weights_of.ADAPTERS), weights(tuned.folder), weights(base)
    a = next(name for name in kept if "q_proj.lora_A" in name)
    product = kept[a.replace("lora_A", "lora_B")] @ kept[a] * (TUNING.alpha / TUNING.rank)
    name = a.removeprefix("base_model.model.").replace("lora_A.default.", "")
    assert torch.allclose(merged[name], plain[name] + product, atol=1e-5)
    assert sum(its.numel() for its in kept.values()) == tuned.trainable


def test_it_goes_on_from_adapters(base: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    short = TUNING.model_copy(update={"epochs": 1, "checks": 1})
    first = run(base, tmp_path / "first", tuning=short, dev_score=None)
    start = first.folder / weights_of.ADAPTERS
    still = short.model_copy(update={"learning_rate": 1e-12})
    second = run(base, tmp_path / "second", tuning=still, dev_score=None, start=start)
    assert second.losses[0] < first.losses[0]
    for name, its in load_file(second.folder / weights_of.ADAPTERS).items():
        assert torch.allclose(its, load_file(start)[name], atol=1e-8), name
    assert run(base, tmp_path / "second", tuning=still, dev_score=None, start=start) == second  # at once
    other = short.model_copy(update={"rank": 3})
    with pytest.raises(ModelError, match="another rank or model"):
        run(base, tmp_path / "third", tuning=other, start=start)
    with pytest.raises(ModelError, match="holds no adapters"):
        run(base, tmp_path / "third", tuning=short, start=base / "config.json")


def test_without_a_score_the_last_step_is_kept(base: Path, tmp_path: Path) -> None:
    tuned = run(base, tmp_path / "t", dev_score=None)
    assert tuned.best_step == tuned.steps


def test_a_pull_to_the_start_holds_the_adapters_there(base: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    short, moved = TUNING.model_copy(update={"epochs": 1, "checks": 1}), []
    start = run(base, tmp_path / "first", tuning=short, dev_score=None).folder / weights_of.ADAPTERS
    for pull in (0.0, 10.0):
        how = short.model_copy(update={"start_pull": pull})
        found = load_file(
            run(base, tmp_path / f"{pull}", tuning=how, dev_score=None, start=start).folder
            / weights_of.ADAPTERS
        )
        moved.append(sum(float((its - load_file(start)[name]).square().sum()) for name, its in found.items()))
    assert moved[1] < 0.9 * moved[0]
