"""Recipes with an encoder-decoder, end to end: the plain guide, and Fusion-in-Decoder with its teaching."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import tiny_models
from fieldstone.answer import answer, open_system
from fieldstone.in_use import choices
from fieldstone.recipes import load_recipe, run, run_steps
from fieldstone.settings import resolve_settings
from fieldstone.workspace import create_workspace
from ports import handbooks, own_questions
from small_library import write_folder

pytest.importorskip("torch")

QUESTION = "What does a day cost at Kelmouth?"


def settings_of(recipe, home, *flags):
    bert = tiny_models.bert(home / "bert")
    few = ("models.device=cpu", "models.threads=1", "read.workers=1", f"models.encoder={bert}")
    return resolve_settings(load_recipe(recipe).settings, environment={}, flags=[*few, *flags])


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_the_guide_answers_with_an_encoder_decoder(tmp_path, kind):
    changes = {"bart": {"max_position_embeddings": 1024}}.get(kind, {})
    model = getattr(tiny_models, kind)(tmp_path / kind, **changes)
    settings = settings_of("guide", tmp_path, f"models.generator={model}", "answer.abstain_below=0")
    workspace = create_workspace(tmp_path / "ws")
    folder = write_folder(tmp_path / "folder", handbooks(2))
    run(load_recipe("guide"), folder, workspace, settings)
    system = open_system(workspace, settings)
    (given,) = answer(system, [QUESTION])
    assert given.hits
    assert given.hits[0].scores.keys() >= {"likelihood"}  # which the generator gave
    assert given.text == answer(system, [QUESTION])[0].text


@pytest.mark.slow
def test_a_reader_is_tuned_and_teaches_the_retriever(tmp_path):
    t5 = tiny_models.t5(tmp_path / "t5", initializer_factor=1.0)
    llama = tiny_models.llama(tmp_path / "llama", max_position_embeddings=2048)
    settings = settings_of(
        "fid", tmp_path, f"models.generator={t5}", f"models.writer={llama}", "synthesize.lift=-100",
        "synthesize.dev=0.3", "synthesize.test=0.3", "synthesize.found_within=100", "synthesize.negatives=3",
        "answer.passages=3", "answer.max_tokens=6", "generator.epochs=1", "generator.batch=8",
        "retriever.epochs=1", "retriever.candidates=4",
    )  # fmt: skip
    folder, workspace = write_folder(tmp_path / "folder", handbooks(6)), create_workspace(tmp_path / "ws")
    recipe = load_recipe("fid")
    own = own_questions("What")
    made = run(recipe, folder, workspace, settings, teach=own, force=True).made
    assert made["synthesize"]["model"] == str(llama)
    assert made["tune-generator"]["rows"] > 0
    assert [choice.part for choice in choices(workspace)] == ["generator", "retriever"]
    report = json.loads(Path(made["report"]["report"]).read_text())
    assert {verdict["part"] for verdict in report["verdicts"]} == {"generator", "retriever"}
    (kept,) = (workspace.cache / "teacher").glob("*.jsonl")
    assert kept.read_text().count("batch")
    steps = [line["step"] for line in workspace.read_journal()]
    assert steps == list(recipe.steps)

    told = []
    again = run_steps(recipe.steps[3:], workspace, settings, lambda *said: told.append(said[0]))
    assert not {"tune generator", "tune retriever", "teach"} & set(told)
    assert again.made["tune-retriever"]["verdict"] == made["tune-retriever"]["verdict"]
    system = open_system(workspace, settings)
    (given,) = answer(system, [QUESTION])
    assert given.hits
