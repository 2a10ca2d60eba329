"""The first stage of SimRAG: general data into rows, the step, and what later steps take from it."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

import tiny_models
from fieldstone import gate
from fieldstone.errors import QuestionsError, WorkspaceError
from fieldstone.examples import read_examples
from fieldstone.in_use import choices
from fieldstone.models import Prompt, load_generator
from fieldstone.prompts import ask_for_prompt, name_answers_prompt, one_by_one_prompt, parse_answers
from fieldstone.recipes import load_recipe, run
from fieldstone.settings import resolve_settings
from fieldstone.workspace import Workspace, create_workspace
from ports import handbooks, own_questions
from small_library import write_folder

torch = pytest.importorskip("torch")

from fieldstone.tune.generator import Row  # noqa: E402
from fieldstone.tune.generator.instruct import (  # noqa: E402
    Comprehension,
    Task,
    comprehension_tasks,
    draw,
    hold_out,
    read_instructions,
)

STEPS = load_recipe("simrag").steps


class Stopped(Exception):
    """Stands for Ctrl-C at a certain moment."""


TEXT = "The gate of {n} is blue. It was painted in {y} by Ida Lindqvist."
SQUAD = {
    "data": [
        {
            "title": f"Gate_{n}",
            "paragraphs": [
                {
                    "context": (text := TEXT.format(n=f"Gate {n}{p}", y=1900 + 10 * n + p)),
                    "qas": [
                        {
                            "id": f"{n} {p} {word}",
                            "question": f"{word} was the gate {n}{p} painted?",
                            "answers": [{"text": answer, "answer_start": text.index(answer)}],
                        }
                        for word, answer in (("When", str(1900 + 10 * n + p)), ("By whom", "Ida Lindqvist"))
                    ]
                    + [{"id": f"{n} {p}", "question": "Why?", "answers": [], "is_impossible": True}],
                }
                for p in range(3)
            ],
        }
        for n in range(8)
    ]
}
LINES = [
    {"instruction": "Name a colour.", "input": "", "output": "Blue,\nor red."},
    {"instruction": "Say it in one word.", "context": "The gate is blue.", "response": "Blue"},
    {"prompt": "2 + 2 =", "completion": " 4"},
]


def write_lines(path: Path, lines: list[object]) -> Path:
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    return path


# -- instructions


def test_instructions_in_three_forms(tmp_path):
    tasks, problems = read_instructions(write_lines(tmp_path / "a.jsonl", LINES))
    assert problems == []
    assert [task.row for task in tasks] == [
        Row(Prompt("Instruction: Name a colour.\nResponse:"), " Blue, or red."),
        Row(Prompt("Instruction: Say it in one word.\nInput: The gate is blue.\nResponse:"), " Blue"),
        Row(Prompt("2 + 2 ="), " 4"),
    ]
    (tmp_path / "b.json").write_text(json.dumps(LINES), encoding="utf-8-sig")
    assert [task.row for task in read_instructions(tmp_path / "b.json")[0]] == [task.row for task in tasks]


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("{", "Expecting"),
        ("[]", "no JSON object"),
        ("7", "no JSON object"),
        ('{"instruction": "x"}', '"output" is missing'),
        ('{"instruction": "", "output": "y"}', '"instruction" is missing'),
        ('{"instruction": "x", "output": 5}', '"output" is missing or no text'),
        ('{"prompt": "x", "completion": ""}', '"completion" is missing'),
        ('{"instruction": "x", "output": "\\ud800"}', "half of a surrogate pair"),
    ],
)
def test_a_damaged_line_is_reported_and_left_out(tmp_path, line, wrong):
    path = write_lines(tmp_path / "a.jsonl", LINES)
    path.write_text(f"{line}\n{path.read_text()}\n\n")
    tasks, problems = read_instructions(path)
    assert len(tasks) == 3
    assert len(problems) == 1
    assert problems[0].startswith(f"{path}, line 1: ")
    assert wrong in problems[0]


# -- reading comprehension


def items(text="The gate is blue. It opens at nine; then Ida Lindqvist comes.", work="Gate"):
    asked = {"When does it open?": "nine", "What colour is it?": "blue", "Who  comes?": "Ida\nLindqvist"}
    return [Comprehension(text, question, answer, work) for question, answer in asked.items()]


def test_a_text_gives_the_three_tasks_in_the_prompts_of_the_second_stage():
    tasks = comprehension_tasks(items())
    text = items()[0].text
    assert Counter(task.kind for task in tasks) == {"answer": 3, "ask": 3, "name": 1}
    rows = [task.row for task in tasks]
    assert Row(one_by_one_prompt(text, "Who comes?"), " Ida Lindqvist") in rows
    assert Row(ask_for_prompt(text, "Ida Lindqvist"), " Who comes?") in rows
    assert Row(name_answers_prompt(text), " blue; nine; Ida Lindqvist") in rows
    assert parse_answers(rows[-1].completion) == ["blue", "nine", "Ida Lindqvist"]
    assert {(task.text, task.work) for task in tasks} == {(text, "Gate")}


def test_what_cannot_be_listed_is_not():
    text = "The gate; it is blue."
    odd = [Comprehension(text, "Q?", answer, "w") for answer in ("gate; it", "blue", "Blue", "nowhere")]
    assert not [task for task in comprehension_tasks(odd) if task.kind == "name"]


def test_no_text_is_learnt_and_judged_by():
    tasks = [t for n in range(60) for t in comprehension_tasks(items(f"blue {n}, nine", f"w{n}"))]
    learnt, held = hold_out(tasks, 0.2, 0)
    assert sorted(map(repr, learnt + held)) == sorted(map(repr, tasks))
    assert not {t.text for t in learnt} & {t.text for t in held}
    assert 0.1 < len(held) / len(tasks) < 0.3
    more, _ = hold_out([*tasks, Task("instruction", Row(Prompt("x"), "y"), "z", "w")], 0.2, 0)
    assert [t for t in more if t.text != "z"] == learnt


def test_tasks_are_drawn_alike_and_more_adds_to_fewer():
    tasks = [t for n in range(20) for t in comprehension_tasks(items(f"blue {n}, nine", f"w{n}"))]
    assert Counter(t.kind for t in draw(tasks, 30, 0)) == {"answer": 10, "ask": 10, "name": 10}
    assert draw(tasks, 60, 0)[:30] == draw(tasks, 30, 0) != draw(tasks, 30, 1)
    assert len(draw(tasks, 10_000, 0)) == len(tasks)


# -- the step


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder of handbooks, two tiny models, and general data."""
    home = tmp_path_factory.mktemp("simrag")
    tiny_models.llama(home / "llama", max_position_embeddings=2048)
    tiny_models.bert(home / "bert")
    write_folder(home / "folder", handbooks())
    (home / "squad.json").write_text(json.dumps(SQUAD))
    write_lines(home / "dolly.jsonl", [*LINES, {"instruction": 3}])
    return home


def settings_in(home, *flags, files=("squad.json", "dolly.jsonl")):
    return resolve_settings(
        load_recipe("simrag").settings,
        environment={},
        flags=[
            f"models.encoder={home / 'bert'}", f"models.generator={home / 'llama'}", "models.device=cpu",
            "models.threads=1", "read.workers=1", "synthesize.dev=0.3", "synthesize.test=0.3",
            "synthesize.found_within=100", "generator.rank=2", "generator.learning_rate=1e-3",
            "answer.max_tokens=6", "answer.passages=2", "synthesize.passages=12", "synthesize.spans=3",
            "instruct.held_out=0.3", "instruct.rows=40",
            f"instruct.files={json.dumps([str(home / name) for name in files])}", *flags,
        ],
    )  # fmt: skip


def build(home, workspace, *flags, files=("squad.json", "dolly.jsonl"), steps=STEPS, **more):
    recipe = replace(load_recipe("simrag"), steps=steps)
    told = []
    tell = more.pop("progress", lambda *said: None)

    def progress(*said):
        told.append(said[0])
        tell(*said)

    settings = settings_in(home, *flags, files=files)
    return run(recipe, home / "folder", workspace, settings, progress, **more).made, set(told)


UNTIL = STEPS[: STEPS.index("instruct") + 1]


@pytest.fixture(scope="module")
def taught(home):
    """The steps up to `instruct`, its model taken whatever it is worth."""
    workspace = create_workspace(home / "ws")
    return workspace, build(home, workspace, steps=UNTIL, force=True)[0]["instruct"]


def tensors(folder):
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def test_without_files_it_says_what_is_missing(home, tmp_path):
    made, _ = build(home, create_workspace(tmp_path / "ws"), files=(), steps=UNTIL)
    assert list(made["instruct"]) == ["skipped"]
    assert "instruct.files names no file" in made["instruct"]["skipped"]
    assert "--set 'instruct.files=" in made["instruct"]["skipped"]


def test_the_step_learns_the_tasks_and_reports_what_is_damaged(home, taught):
    workspace, said = taught
    assert said["used"]
    assert said["judged"]["forced"]
    assert said["tasks"].keys() == {"instruction", "answer", "name", "ask"}
    assert said["rows"] == sum(said["tasks"].values()) == 40
    assert any("dolly.jsonl, line 4" in note for note in said["notes"])
    folder = workspace.path / said["model"]
    old, new = tensors(home / "llama"), tensors(folder)
    moved = {name for name in old if not torch.equal(old[name], new[name])}
    assert moved
    assert all("_proj" in name for name in moved)
    assert choices(workspace) == ()  # it is no candidate for use


def test_unanswerable_questions_are_no_rows(home, taught):
    _, said = taught
    assert "Why?" not in json.dumps(said)
    from fieldstone.recipes.instruct import _comprehension

    tasks = _comprehension(home / "squad.json")
    assert len(tasks) == 8 * 3 * 5
    assert all("Why?" not in task.row.prompt.text for task in tasks)
    assert tasks[0].row.prompt == one_by_one_prompt(
        f"Gate 0\n{TEXT.format(n='Gate 00', y=1900)}", "When was the gate 00 painted?"
    )


def test_it_is_done_once_and_anew_for_other_data(home, taught):
    workspace, said = taught
    again, told = build(home, workspace, steps=UNTIL, force=True)
    assert again["instruct"] == json.loads(json.dumps(said))
    assert not told & {"tune generator", "judge instructed"}
    other, told = build(home, workspace, steps=UNTIL, force=True, files=("squad.json",))
    assert other["instruct"]["model"] != said["model"]
    assert "tune generator" in told
    build(home, workspace, steps=UNTIL, force=True)


@pytest.mark.parametrize(
    "where", ["tune generator", pytest.param("judge instructed", marks=pytest.mark.slow)]
)
def test_killed_it_goes_on_and_ends_the_same(home, taught, tmp_path, where):
    _, said = taught
    workspace = create_workspace(tmp_path / "ws")

    def stop(step, done, total, unit):
        if step == where and done:
            raise Stopped

    with pytest.raises(Stopped):
        build(home, workspace, steps=UNTIL, force=True, progress=stop)
    made, _ = build(home, workspace, steps=UNTIL, force=True)
    told = {k: v for k, v in made["instruct"].items() if k != "tuning seconds"}
    assert told == {k: v for k, v in said.items() if k != "tuning seconds"}
    assert (workspace.path / said["model"] / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "there is no file"), ("", "holds nothing to learn"), ("{\n", "holds nothing to learn")],
)
def test_a_file_that_teaches_nothing_is_named(home, tmp_path, content, message):
    if content is not None:
        (tmp_path / "bad.jsonl").write_text(content)
    with pytest.raises(QuestionsError, match=message):
        build(
            home, create_workspace(tmp_path / "ws"), f'instruct.files=["{tmp_path / "bad.jsonl"}"]',
            steps=UNTIL,
        )  # fmt: skip


def test_what_did_not_win_neither_asks_nor_is_tuned_further(home, tmp_path):
    workspace = create_workspace(tmp_path / "ws")
    made, _ = build(home, workspace, "generator.learning_rate=1e-9", steps=STEPS[:5])
    assert made["instruct"]["used"] is False
    assert "the untuned model stays" in made["instruct"]["notes"][-1]
    assert made["synthesize"]["model"] == str(home / "llama")


# -- the whole recipe


@pytest.fixture(scope="module")
def whole(home):
    """Two rounds of the whole recipe, every candidate forced into use."""
    workspace = create_workspace(home / "whole")
    return workspace, *in_two_rounds(home, workspace)


def in_two_rounds(home, workspace, **more):
    """A random model writes no sense: what it wrote is put right, after a stop, before it is judged."""
    for folder in ("examples", "examples/round-2"):
        asked = workspace.path / folder / "asked.jsonl"

        def stop(step, done, total, unit, asked=asked):
            if step == "filter" and asked.exists():
                raise Stopped

        with pytest.raises(Stopped):
            build(home, workspace, "synthesize.rounds=2", force=True, progress=stop)
        mend(asked, "What is told of" if folder == "examples" else "What do the papers tell of")
    return build(home, workspace, "synthesize.rounds=2", force=True, **more)


def mend(path, opening):
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for asked in (asked for line in lines for asked in line["asked"] if asked["sentence"]):
        left = asked["sentence"].strip(".").replace(asked["answer"], "").split()
        asked |= {"question": f"{opening} {' '.join(left)}?", "finished": True}
    write_lines(path, lines)


def test_the_taught_model_asks_and_is_tuned_further(home, whole):
    workspace, made, _ = whole
    assert tuple(made) == STEPS
    assert made["synthesize"]["model"] == made["instruct"]["model"]
    first = choices(workspace)[0]
    assert first.base == str(home / "llama")
    tuned = tensors(workspace.path / first.name)
    base = tensors(workspace.path / made["instruct"]["model"])
    assert any(not torch.equal(tuned[name], base[name]) for name in base)
    embedded = next(name for name in base if "_proj" not in name)
    assert torch.equal(tuned[embedded], base[embedded])


def test_a_share_of_the_general_rows_is_learnt_beside_the_own(whole):
    workspace, made, _ = whole
    train = read_examples(workspace.path / "examples" / "train.jsonl")
    own = sum(bool(e.answer and e.passage_id) for e in train)
    assert own > 0
    assert made["tune-generator"]["rows"] == own + round(own * 0.2 / 0.8)


def test_the_second_round_is_asked_by_the_model_that_won(whole):
    workspace, made, _ = whole
    (second,) = made["tune-again"]["rounds"]
    assert second["model"] == made["tune-generator"]["verdict"]["candidate"]
    assert second["verdict"]["candidate"] != second["model"]
    assert second["verdict"]["incumbent"].endswith(second["model"])
    folder = workspace.path / "examples" / "round-2"
    assert (folder / "asked.jsonl").stat().st_size
    assert read_examples(folder / "dev.jsonl") == read_examples(folder / "test.jsonl") == []
    assert [c.name for c in choices(workspace)] == [second["model"], second["verdict"]["candidate"]]


def test_the_same_again_does_nothing_anew(home, whole):
    workspace, made, _ = whole
    again, told = build(home, workspace, "synthesize.rounds=2", force=True)
    assert not told & {"tune generator", "judge generator", "judge instructed", "synthesize"}
    assert {step: again[step] for step in STEPS[3:]} == json.loads(
        json.dumps({step: made[step] for step in STEPS[3:]})
    )
    assert len(choices(workspace)) == 2


@pytest.mark.slow
def test_no_second_round_where_the_first_did_not_win(home, tmp_path):
    workspace = create_workspace(tmp_path / "ws")
    flags = ("synthesize.rounds=3", "generator.learning_rate=1e-9")
    made, _ = build(home, workspace, *flags, teach=own_questions("What"))
    assert not made["tune-generator"]["verdict"]["accepted"]
    assert made["tune-again"]["rounds"] == []
    assert "no round 2, for the candidate of round 1 is not in use" in made["tune-again"]["notes"]
    assert not (workspace.path / "examples" / "round-2").exists()
    assert choices(workspace) == ()


@pytest.mark.slow
def test_killed_in_the_second_round_it_goes_on(home, whole, tmp_path):
    _, made, _ = whole
    workspace = create_workspace(tmp_path / "ws")

    def stop(step, done, total, unit):
        if step == "tune generator" and done > 1 and choices(workspace):
            raise Stopped

    with pytest.raises(Stopped):
        in_two_rounds(home, workspace, progress=stop)
    assert len(choices(workspace)) == 1
    again, told = build(home, workspace, "synthesize.rounds=2", force=True)
    assert "judge instructed" not in told
    assert again["tune-again"]["verdict"]["candidate"] == made["tune-again"]["verdict"]["candidate"]
    assert len(choices(workspace)) == 2


def test_a_taught_model_that_is_gone_is_missed(home, taught):
    workspace, said = taught
    folder = workspace.path / said["model"]
    folder.rename(folder.with_name("away"))
    try:
        with pytest.raises(WorkspaceError, match="make it anew: type fieldstone build"):
            build(home, workspace, steps=("synthesize",))
    finally:
        folder.with_name("away").rename(folder)


def test_other_recipes_take_nothing_from_it(home, taught):
    workspace, _ = taught
    made, _ = build(home, workspace, steps=("synthesize",), files=())
    assert made["synthesize"]["model"] == str(home / "llama")
    assert Workspace(workspace.path).path.is_dir()
    assert load_generator(str(home / "llama"), threads=1).name == str(home / "llama")


# -- a real model


@pytest.mark.slow
def test_the_embedded_model_learns_to_ask_about_another_article(data, tmp_path):
    import numpy as np

    from fieldstone.evaluate.measures.answering import token_f1
    from fieldstone.models import load_encoder
    from fieldstone.records import Passage, with_context
    from fieldstone.settings import GeneratorTuning, SynthesizeSettings
    from fieldstone.synthesize.filters import fault, fault_of_answer, holds
    from fieldstone.synthesize.spans import ask_by_spans
    from fieldstone.tune.generator import tune_generator

    def lines(name):
        return [json.loads(line) for line in (data / "squad" / name).read_text().splitlines()]

    passages = {row["id"]: row for row in lines("squad_train_passages.jsonl")}
    tasks = comprehension_tasks(
        Comprehension(with_context(p["text"], p["title"], ()), q["question"], q["answers"][0], p["title"])
        for q in lines("squad_train_slice.jsonl")
        if len((p := passages[q["passage_id"]])["text"]) < 400
    )
    tested = sorted({task.work for task in tasks})[0]
    learnt = draw([task for task in tasks if task.work != tested], 72, 0)
    held = draw([task for task in tasks if task.work == tested], 24, 0)

    own = [p for p in passages.values() if p["title"] == tested]
    texts = [with_context(p["text"], p["title"], ()) for p in own]
    about = [Passage(p["id"], tested, p["text"], 0, len(p["text"])) for p in own]
    short = sorted(about, key=lambda p: len(p.text))[:10]
    encoder = load_encoder("embedded:minilm")
    vectors = encoder.encode_passages(texts)

    def asks(generator):
        """Of answers, the share that stand there; of questions, those that pass; of answers, those."""
        how = SynthesizeSettings(way="simrag", spans=3)
        tried = ask_by_spans(generator, short, [tested] * len(short), how)
        asked = [a for a in tried if a.sentence]
        best = np.argsort(-(encoder.encode_queries([a.question for a in asked]) @ vectors.T))[:, :3]
        passed = [
            fault(a) is None and fault_of_answer(a) is None and any(holds(a.answer, texts[i]) for i in its)
            for a, its in zip(asked, best, strict=True)
        ]
        return len(asked) / len(tried), sum(passed) / len(passed), sum(passed) / len(tried)

    def f1(generator):
        """How near what it writes for each row is to what people wrote."""
        replies = generator.generate([t.row.prompt for t in held], max_tokens=32, stop=["\n"])
        return [token_f1(r.text, [t.row.completion]) for r, t in zip(replies, held, strict=True)]

    tuning = GeneratorTuning(epochs=1, checks=1, learning_rate=6e-4)
    rows = [task.row for task in learnt]
    tune_generator("embedded:smollm2", rows, tmp_path / "new", tuning, dev_score=lambda _: 0.0)
    base, new = load_generator("embedded:smollm2"), load_generator(str(tmp_path / "new"))
    first = [rows[0].prompt], [rows[0].completion]
    assert new.score(*first)[0].logprob != base.score(*first)[0].logprob
    theirs, ours = f1(base), f1(new)
    verdict = gate.judge(
        "generator", "new", "base", "token F1", ours, theirs, [tested] * len(held),
        finer=[t.text for t in held],
    )  # fmt: skip
    assert verdict.difference.value > 0  # .07 and .25 when this was written
    assert verdict.difference.low > 0 or not verdict.accepted
    before, after = asks(base), asks(new)
    assert after[0] > before[0]  # .25 and .68
    assert after[2] > before[2]  # .12 and .41; of the questions alone .48 and .60 passed, of 27 and 30
