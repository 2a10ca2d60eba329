"""Searching learnt by reinforcement: tries, rewards, the loss, and a toy task that is learnt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import tiny_models
from fieldstone import prompts
from fieldstone.errors import ModelError
from fieldstone.evaluate.measures.answering import token_f1
from fieldstone.models import Options, load_generator
from fieldstone.models.causal import CausalGenerator
from fieldstone.models.tokens import Tokens
from fieldstone.prompts import found_passages, parse_move
from fieldstone.settings import GeneratorTuning, SearchTuning

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from fieldstone.tune.generator.roll_out import Try, _result, roll_out  # noqa: E402
from fieldstone.tune.generator.search_rl import (  # noqa: E402
    Task,
    grpo_trainer,
    prompt_of,
    reward,
    tune_to_search,
)
from fieldstone.tune.generator.with_trl import Setting, Tuned  # noqa: E402

TUNING = SearchTuning(
    group=4, batch=2, searches=1, passages=1, max_tokens=24, result_tokens=64, learning_rate=5e-3, warmup=0.0
)
ADAPTERS = GeneratorTuning(rank=4, alpha=8)
TASKS = [Task(f"What colour is gate {n}?", "red") for n in range(2)]
GOOD = ("<search>gate</search>", "<answer>red</answer>")
BAD = "<answer>blue</answer>"


def agree(said: str, expected: str) -> float:
    return token_f1(said, [expected] if expected else [])


def find(queries: Sequence[str]) -> list[list[str]]:
    """The toy search: knows of the gate, and of nothing else."""
    return [["It is red."] if query == "gate" else [] for query in queries]


SAID = prompts.SEARCHING


@pytest.fixture(scope="module", autouse=True)
def brief() -> Iterator[None]:
    """A shorter instruction, for a tokenizer of single bytes and a model that reads none."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fieldstone.prompts.SEARCHING", "Search.\n")
        yield


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, brief: None) -> Path:
    """A tiny model that has seen both ways: to search and then answer right, or to guess wrong at once."""
    from transformers import AutoModelForCausalLM

    folder = tiny_models.llama(
        tmp_path_factory.mktemp("m") / "llama", max_position_embeddings=1024, initializer_range=0.1
    )
    generator = load(folder)
    shown = generator.completion_ids(found_passages(["It is red."]))
    rows = []
    for task in TASKS:
        prompt, end = prompt_of(generator, task.question), [2]
        first, second = (generator.completion_ids(text) for text in GOOD)
        rows.append((prompt, [(first, True), (shown, False), (second, True), (end, True)]))
        rows.append((prompt, [(generator.completion_ids(BAD), True), (end, True)]))
    width = max(len(prompt) + sum(len(piece) for piece, _ in pieces) for prompt, pieces in rows)
    ids, labels = torch.zeros((len(rows), width), dtype=torch.long), torch.full((len(rows), width), -100)
    for i, (prompt, pieces) in enumerate(rows):
        tokens = prompt + [token for piece, _ in pieces for token in piece]
        ids[i, : len(tokens)] = torch.tensor(tokens)
        learnt = [-100] * len(prompt) + [t if own else -100 for piece, own in pieces for t in piece]
        labels[i, : len(tokens)] = torch.tensor(learnt)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(45):
        optimizer.zero_grad()
        model(input_ids=ids, labels=labels).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    model.save_pretrained(folder)
    return folder


def load(folder: Path) -> CausalGenerator:
    made = load_generator(str(folder), dtype="float32", threads=1)
    assert isinstance(made, CausalGenerator)
    return made


def parts_of(base: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM

    from fieldstone.models.huggingface import read_model, read_tokenizer

    options = Options(device="cpu", threads=1, dtype="float32")
    return read_model(str(base), base, AutoModelForCausalLM, options).model, read_tokenizer(str(base), base)


def run(base: Path, into: Path, tasks: list[Task] = TASKS, **changes: Any) -> Tuned:
    arguments: dict[str, Any] = {"threads": 1, "device": "cpu", **changes}
    tuning = arguments.pop("tuning", TUNING)
    return tune_to_search(str(base), tasks, find, agree, into, tuning, ADAPTERS, **arguments)


def weights(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize(
    ("piece", "move"),
    [
        ("I look.\n<search>gate 7</search>", ("search", "gate 7")),
        ("<search>gate\n 7</search>\n", ("search", "gate 7")),
        ("<search>gate 7", ("search", "gate 7")),  # the closing tag was a stop string
        ("<answer>red</answer>", ("answer", "red")),
        ("<search>a</search> <answer>red", ("answer", "red")),
        ("<search></search>", ("", "")),
        ("<answer>red</search>", ("", "")),
        ("<answer>red</answer> and more", ("", "")),
        ("red", ("", "")),
        ("", ("", "")),
    ],
)
def test_what_a_model_does_is_read_from_its_last_tag(piece: str, move: tuple[str, str]) -> None:
    assert parse_move(piece) == move


def test_the_reward_is_the_answers_agreement_then_the_form() -> None:
    def earned(answer: str | None, expected: str = "red gate") -> float:
        return reward(Try([], answer=answer, searches=["gate"]), expected, agree, 0.1)

    assert earned("red gate") == 1
    assert earned("red") == pytest.approx(2 / 3)
    assert earned("blue") == 0.1
    assert earned(None) == 0
    assert earned("", expected="") == 1  # a refusal where the documents do not answer
    assert earned("red", expected="") == 0.1
    assert reward(Try([], answer="red"), "red", agree, 0.1) == 0  # not looked up


def test_a_try_holds_the_models_tokens_and_what_was_put_in(base: Path) -> None:
    model, tokenizer = parts_of(base)
    generator, tokens = load(base), Tokens(tokenizer)
    prompts = [prompt_of(generator, task.question) for task in TASKS * 12]
    torch.manual_seed(0)
    tries = roll_out(model, tokenizer, prompts, find, TUNING, 1024)
    shown = found_passages(["It is red."])
    searched = [its for its in tries if its.searches == ["gate"]]
    guessed = [its for its in tries if not its.searches and its.answer == "blue"]
    assert len(searched) > 5
    assert len(guessed) > 5
    for its in tries:
        assert len(its.ids) == len(its.own) > 0
        inserted = [token for token, own in zip(its.ids, its.own, strict=True) if not own]
        written = tokens.decode([token for token, own in zip(its.ids, its.own, strict=True) if own])
        if its.searches == ["gate"]:
            assert tokens.decode(inserted) == shown
            text = tokens.decode(its.ids)
            assert text.startswith(f"<search>gate</search>{shown}")
            assert written.startswith(GOOD[0])
        if not its.searches:
            assert not inserted
    assert {its.answer for its in guessed} == {"blue"}


def test_what_is_found_is_cut_to_its_tokens(base: Path) -> None:
    _, tokenizer = parts_of(base)
    tokens = Tokens(tokenizer)
    long = ["word " * 200, "short", "third"]
    for limit in (40, 60, 500):
        how = SearchTuning(result_tokens=limit, passages=2)
        ids = _result(tokens, long, how)
        assert len(ids) <= limit
        text = tokens.decode(ids)
        assert text.startswith("\n<information>")
        assert text.endswith("</information>\n")
        assert "third" not in text
    assert "2. short" in tokens.decode(_result(tokens, ["one", "short"], SearchTuning(passages=2)))
    assert tokens.decode(_result(tokens, [], TUNING)) == "\n<information>\n\n</information>\n"


def logprobs(model: Any, prompt: list[int], ids: list[int]) -> Any:
    """Of each token of a try, by a plain forward pass over one row."""
    with torch.no_grad():
        given = model(torch.tensor([prompt + ids])).logits[0].log_softmax(-1)
    return given[len(prompt) - 1 : -1].gather(1, torch.tensor(ids)[:, None])[:, 0]


def test_the_loss_is_the_formula_over_the_models_own_tokens(base: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    from fieldstone.tune.generator.weights import merge

    model, tokenizer = parts_of(base)
    tuning = TUNING.model_copy(update={"kl": 0.05, "clip": 0.1, "updates": 2})
    prompts = [prompt_of(load(base), task.question) for task in TASKS]
    trainer = grpo_trainer(
        Setting(
            model, tokenizer,
            {"output_dir": str(tmp_path), "use_cpu": True, "bf16": False, "report_to": "none",
             "disable_dropout": True, "seed": 0, "max_steps": 4},
            1000,
        ),
        TASKS, prompts, find, agree, tuning, ADAPTERS, 1024,
        {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1, "gradient_checkpointing": False},
    )  # fmt: skip
    adapter = {name: p for name, p in trainer.model.named_parameters() if p.requires_grad}

    def move(seed: int, std: float, name: str) -> Any:
        """Adapters moved by chance, and the same as plain weights."""
        torch.manual_seed(seed)
        with torch.no_grad():
            for tensor in adapter.values():
                tensor += torch.randn(tensor.shape) * std
        merge(str(base), base, ADAPTERS, 1, adapter, tmp_path / name)
        return AutoModelForCausalLM.from_pretrained(tmp_path / name, dtype=torch.float32).eval()

    torch.manual_seed(0)
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    old = move(1, 0.05, "old")
    kept: list[Try] = []
    tried = trainer.rollout_func

    def keep(*given: Any) -> Any:
        out = tried(*given)
        kept.extend(out["tried"])
        return out

    trainer.rollout_func = keep
    rows = [{"prompt": str(n), "number": n} for n in (0, 1) for _ in range(4)]
    inputs = trainer._generate_and_score_completions(rows)
    new = move(2, 0.15, "new")
    reference = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()

    rewards = torch.tensor([reward(its, "red", agree, tuning.form) for its in kept])
    groups = rewards.view(2, 4)
    assert groups.std(1).max() > 0
    advantages = ((groups - groups.mean(1, keepdim=True)) / (groups.std(1, keepdim=True) + 1e-4)).flatten()
    assert torch.allclose(inputs["advantages"], advantages, atol=1e-5)
    total, clipped = 0.0, 0
    for its, a in zip(kept, advantages.tolist(), strict=True):
        p, p_old, p0 = (logprobs(m, its.prompt, its.ids) for m in (new, old, reference))
        loss = 0.0
        for own, x, x_old, x0 in zip(its.own, p.tolist(), p_old.tolist(), p0.tolist(), strict=True):
            if own:
                r = torch.tensor(x - x_old).exp().item()
                inside = min(max(r, 0.9), 1.1)
                clipped += r * a > inside * a
                kl = torch.tensor(x0 - x).exp().item() - (x0 - x) - 1
                loss -= min(r * a, inside * a) - 0.05 * kl
        total += loss / sum(its.own) / len(kept)
    assert clipped > 0
    assert any(0 in its.own for its in kept)
    found = float(trainer._compute_loss(trainer.model, inputs).detach())
    assert found == pytest.approx(total, abs=1e-4)
    everything = {**inputs, "tool_mask": torch.ones_like(inputs["tool_mask"])}
    assert abs(float(trainer._compute_loss(trainer.model, everything).detach()) - total) > 1e-3


def mean_reward(folder: Path) -> tuple[float, float]:
    """The mean reward of fresh tries of a model, and its searches in the mean."""
    model, tokenizer = parts_of(folder)
    prompts = [prompt_of(load(folder), task.question) for task in TASKS * 20]
    torch.manual_seed(0)
    tries = roll_out(model, tokenizer, prompts, find, TUNING, 1024)
    earned = [reward(its, "red", agree, TUNING.form) for its in tries]
    return sum(earned) / len(earned), sum(len(its.searches) for its in tries) / len(tries)


@pytest.mark.slow
def test_the_reward_rises_and_the_weights_move(base: Path, tmp_path: Path) -> None:
    tuning = TUNING.model_copy(update={"epochs": 14, "kl": 0.0, "group": 8})
    tuned = run(base, tmp_path / "new", tuning=tuning)
    assert len(tuned.log) == tuned.steps == 14
    (before, searches), (after, more_searches) = mean_reward(base), mean_reward(tuned.folder)
    assert before < 0.65
    assert after > before + 0.25
    assert more_searches > searches + 0.25
    old, new = weights(base), weights(tuned.folder)
    moved = {name for name in old if not torch.equal(old[name], new[name])}
    assert len(moved) == 2 * 7
    assert all("_proj" in name for name in moved)
    assert tuned.facts == {"questions": 2, "group": 8}


class Stopped(Exception):
    pass


@pytest.mark.parametrize("updates", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_stopped_run_ends_like_one_that_was_not(
    base: Path, tmp_path: Path, updates: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fieldstone.tune.generator.with_trl._SAVED_EVERY", 0.0)
    tuning = TUNING.model_copy(update={"epochs": 4 // updates, "updates": updates, "kl": 0.1})
    whole = run(base, tmp_path / "whole", tuning=tuning)

    def stopping(_: str, done: int, total: int, unit: str) -> None:
        if done == 3:
            raise Stopped

    with pytest.raises(Stopped):
        run(base, tmp_path / "parts", tuning=tuning, progress=stopping)
    torch.manual_seed(7)
    seen: list[int] = []
    ended = run(
        base, tmp_path / "parts", tuning=tuning, progress=lambda _, done, total, unit: seen.append(done)
    )
    assert seen[0] == 2
    assert [entry["loss"] for entry in ended.log] == [entry["loss"] for entry in whole.log]
    one, other = weights(whole.folder), weights(ended.folder)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_it_is_quiet_and_nothing_is_sent(
    base: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CI", raising=False)

    def sent(*_: Any, **__: Any) -> None:
        raise AssertionError("trl's telemetry")

    monkeypatch.setattr("trl.trainer.base_trainer.send_telemetry", sent)
    tuned = run(base, tmp_path / "new", inputs="one")
    assert capfd.readouterr() == ("", "")
    assert run(base, tmp_path / "new", inputs="one") == tuned  # at once
    assert run(base, tmp_path / "new", inputs="two").seconds != tuned.seconds


def test_what_cannot_be_tuned_is_told(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no questions"):
        run(base, tmp_path / "none", [])
    with pytest.raises(ModelError, match="leaves no room to search in the 1024 tokens"):
        run(base, tmp_path / "long", [Task("word " * 900, "x")])
    with pytest.raises(ModelError, match="is no causal model"):
        run(tiny_models.t5(tmp_path / "t5"), tmp_path / "new5")


def test_answering_by_searching_cites_what_it_found(tmp_path: Path) -> None:
    """The protocol without a tuned model: one that plays its part word for word."""
    from fieldstone.answer import System, answer, read
    from fieldstone.models import Completion, Prompt
    from fieldstone.search.confidence import Weights
    from fieldstone.settings import resolve_settings
    from ports import Clerk, handbooks, index_of, library_of

    class Searcher(Clerk):
        """Searches once with the question, then answers; one question it answers unasked, one it refuses."""

        def generate(self, prompts: Sequence[Prompt], **_: Any) -> list[Completion]:
            replies = []
            for prompt in prompts:
                question = prompt.text.splitlines()[0].removeprefix("Question: ")
                if "<information>" in prompt.text:
                    text = "<answer>unanswerable" if "moon" in question else "<answer>136 crowns"
                else:
                    text = "<answer>136 crowns" if "at once" in question else f"<search>{question}"
                replies.append(Completion(text, 5, -1.0, True))
            return replies

    library = library_of(tmp_path, handbooks(3))
    flags = ["answer.reading=search", "search.rerank=none", "search_rl.passages=2", "answer.abstain_below=0"]
    settings = resolve_settings(environment={}, flags=flags)
    system = System(index_of(tmp_path, library), Searcher(), settings, Weights())
    questions = [
        "What does a day at the quay cost at Marrowby?",
        "Say at once: what costs it?",
        "Is the moon?",
    ]
    told, unasked, refused = answer(system, questions)
    if not told.abstained:
        assert told.text == "136 crowns"
        assert told.citations[0].verified
    assert 0 < len(told.hits) <= 2
    assert [hit.rank for hit in told.hits] == list(range(1, len(told.hits) + 1))
    assert unasked.abstained  # what was not looked up cannot be cited
    assert unasked.hits == ()
    assert refused.abstained
    first = told.hits[0].passage.id
    without, *_ = read(system, questions, without=[first, None, None])
    assert first not in [hit.passage.id for hit in without.hits]
    library.close()


@pytest.mark.slow
def test_the_embedded_model_can_be_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real tries, two steps of them: untuned it copies the form that the prompt shows, now and then."""
    monkeypatch.setattr("fieldstone.prompts.SEARCHING", SAID)
    tasks = [Task("What does the crane on berth 7 lift?", "forty tonnes")]
    tuning = SearchTuning(
        group=4, batch=1, searches=1, passages=1, max_tokens=24, result_tokens=60, warmup=0.0, epochs=2,
        learning_rate=1e-4,
    )  # fmt: skip
    asked: list[str] = []

    def crane(queries: Sequence[str]) -> list[list[str]]:
        asked.extend(queries)
        return [["The crane on berth 7 lifts forty tonnes."] for _ in queries]

    tuned = tune_to_search(
        "embedded:smollm2", tasks, crane, agree, tmp_path / "new", tuning, ADAPTERS, device="cpu"
    )
    assert len(tuned.log) == 2
    assert asked
    assert all(0 <= entry["reward"] <= 1 for entry in tuned.log)
    assert tuned.log[0]["kl"] == pytest.approx(0, abs=1e-3)
    assert load_generator(str(tuned.folder), device="cpu").count_tokens(["a b"]) == [2]
