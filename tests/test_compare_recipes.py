"""Recipes compared on one library, end to end, with tiny random models."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from statistics import mean
from unittest.mock import ANY

import pytest
from typer.testing import CliRunner

import tiny_models
from fieldstone.cli.app import app
from fieldstone.errors import QuestionsError
from fieldstone.evaluate.questions import Question
from fieldstone.evaluate.report.files import as_json
from fieldstone.examples import read_examples
from fieldstone.in_use import model_in_use
from fieldstone.models import load_encoder
from fieldstone.recipes import choose_settings, load_recipe, run, run_steps
from fieldstone.recipes.compare import WRITTEN, YOURS, compare
from fieldstone.workspace import Workspace, create_workspace
from ports import handbooks, own_questions
from small_library import write_folder

FLAGS = (
    "synthesize.lift=-100", "synthesize.found_within=100", "synthesize.openings=1", "retriever.epochs=1",
    "generator.epochs=1", "generator.rank=2", "generator.checks=1", "generator.learning_rate=0.01",
    "answer.max_tokens=6", "answer.reading=one-by-one", "models.device=cpu", "models.threads=1",
    "answer.passages=2", "search.rerank_depth=4",
)  # fmt: skip
SEEDS = (3, 4)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A workspace whose questions are written, and what comparing the plain system with tuning found."""
    home = tmp_path_factory.mktemp("compared")
    llama = tiny_models.llama(home / "llama", max_position_embeddings=2048)
    bert = tiny_models.bert(home / "bert")
    own = (
        f"models.encoder={bert}", f"models.generator={llama}", "models.writer=fake:words",
        "synthesize.dev=0.3", "synthesize.test=0.3",
    )  # fmt: skip
    folder, workspace = write_folder(home / "folder", handbooks()), create_workspace(home / "ws")
    recipe = load_recipe("fieldstone")
    written = replace(recipe, steps=("read", "split", "index", "synthesize"))
    settings = choose_settings("fieldstone", {}, {}, flags=[*own, *FLAGS, "read.workers=1"])
    run(written, folder, workspace, settings, teach=own_questions("What"))
    found = compare(workspace, ["guide", "fieldstone"], SEEDS, FLAGS, own_questions("Which"))
    return workspace, found


def test_the_plain_system_runs_once_and_the_tuned_one_once_a_seed(built):
    _, found = built
    assert [(run.recipe, run.seed) for run in found.runs] == [
        ("guide", 3),
        ("fieldstone", 3),
        ("fieldstone", 4),
    ]
    assert [[verdict["part"] for verdict in run.verdicts] for run in found.runs] == [
        [],
        ["retriever", "generator"],
        ["retriever", "generator"],
    ]


def test_all_are_asked_the_same_questions(built):
    workspace, found = built
    test = [e.id for e in read_examples(workspace.path / "examples" / "test.jsonl")]
    for its in found.runs:
        assert [row["id"] for row in its.rows[YOURS]] == [q.id for q in own_questions("Which")]
        assert {row["id"] for row in its.rows[WRITTEN]} <= set(test)
        assert [row["id"] for row in its.rows[WRITTEN]] == [row["id"] for row in found.runs[0].rows[WRITTEN]]


def test_what_is_measured_with_is_never_trained_on(built):
    workspace, _ = built
    test = {e.passage_id for e in read_examples(workspace.path / "examples" / "test.jsonl")} - {None}
    trained = read_examples(workspace.path / "compare" / "fieldstone" / "examples" / "train.jsonl")
    assert test
    assert trained
    assert not test & {e.passage_id for e in trained}


def test_the_mean_is_that_of_the_seeds_and_the_spread_their_own(built):
    _, found = built
    for title in (YOURS, WRITTEN):
        questions = found.evaluation.sets[title]
        for measure in ("recall@1", "F1", "over-refusal"):
            spread = found.spread(title, "fieldstone", measure)
            by_hand = [
                mean(
                    row["measures"][measure]
                    for row in run.rows[title]
                    if row["measures"][measure] is not None
                )
                for run in found.runs
                if run.recipe == "fieldstone"
            ]
            assert spread == pytest.approx(by_hand)
            assert questions.systems["fieldstone"][measure].value == pytest.approx(mean(by_hand))
            difference = questions.differences["fieldstone - guide"][measure].value
            assert difference == pytest.approx(mean(by_hand) - questions.systems["guide"][measure].value)


def test_the_workspace_stays_as_it_was_and_models_are_not_kept(built):
    workspace, _ = built
    assert not (workspace.path / "models").exists()
    assert not list((workspace.path / "compare").rglob("*.safetensors"))


def test_a_second_time_nothing_is_run_again(built):
    workspace, found = built
    told = []
    again = compare(
        workspace, ["guide", "fieldstone"], SEEDS, FLAGS, own_questions("Which"),
        progress=lambda *said: told.append(said),
    )  # fmt: skip
    assert not told
    assert again.runs == found.runs
    assert again.evaluation.sets == found.evaluation.sets


def test_a_stopped_comparison_goes_on(built):
    workspace, found = built
    (workspace.path / "compare" / "fieldstone-4.json").unlink()
    told = set()
    again = compare(
        workspace, ["guide", "fieldstone"], SEEDS, FLAGS, own_questions("Which"),
        progress=lambda step, *_: told.add(step.partition(":")[0]),
    )  # fmt: skip
    assert "fieldstone, seed 4" in told
    assert told <= {"fieldstone, seed 4", "fieldstone"}
    assert [run.rows[YOURS][0]["answer"] for run in again.runs] == [
        run.rows[YOURS][0]["answer"] for run in found.runs
    ]


def test_the_command_shows_mean_spread_and_difference(built, monkeypatch):
    workspace, _ = built
    monkeypatch.setenv("COLUMNS", "80")
    questions = workspace.path.parent / "mine.jsonl"
    asked = [asdict(question) for question in own_questions("Which") if question.answerable]
    questions.write_text("\n".join(map(json.dumps, asked)))
    given = ["--recipes", "guide", "--seeds", "1", "--measure", str(questions), "--quiet"]
    flags = [part for flag in FLAGS for part in ("--set", flag)]
    result = CliRunner().invoke(app, ["compare", str(workspace.path), *given, *flags])
    assert result.exit_code == 0, result.output
    assert "Your questions" in result.output
    assert "recall@1" in result.output
    assert max(map(len, result.output.splitlines()[:-1])) <= 80


def test_both_kinds_of_questions_are_set_against_each_other(built):
    _, found = built
    content = as_json(found.evaluation)
    agreement = content["agreement"]
    assert (agreement["human"], agreement["synthetic"]) == (YOURS, WRITTEN)
    for recipe in ("guide", "fieldstone"):
        gap = agreement["gaps"]["recall@1"][recipe]
        for side, title in (("human", YOURS), ("synthetic", WRITTEN)):
            assert gap[side] == content["sets"][title]["systems"][recipe]["recall@1"]
    assert "human questions are too few" in agreement["warnings"][-1]


def test_several_seeds_are_tested_as_several(built):
    """Wider than over questions alone, which three seeds that lie apart would not be."""
    _, found = built
    for title in (YOURS, WRITTEN):
        questions = found.evaluation.sets[title]
        tests = questions.tests["fieldstone - guide"]
        change = questions.differences["fieldstone - guide"]["F1"]
        assert set(tests) == set(questions.differences["fieldstone - guide"])
        assert (change.low <= 0 <= change.high) == (tests["F1"].p >= 0.05)
        assert tests["F1"].holm == tests["F1"].p, "a single pair"


def test_the_command_evaluate_asks_the_written_questions_too(built, tmp_path):
    workspace, _ = built
    questions = tmp_path / "mine.jsonl"
    questions.write_text("\n".join(json.dumps(asdict(q)) for q in own_questions("Which")))
    given = ["--questions", str(questions), "--systems", "lexical,fused", "--synthetic", "--quiet"]
    result = CliRunner().invoke(app, ["evaluate", str(workspace.path), *given])
    assert result.exit_code == 0, result.output
    assert "Synthetic questions against your questions: fused" in result.output
    assert "fused - lexical" in result.output
    shown = json.loads(CliRunner().invoke(app, ["evaluate", str(workspace.path), *given, "--json"]).stdout)
    assert set(shown["sets"]) == {YOURS, WRITTEN}
    assert set(shown["agreement"]["gaps"]["recall@1"]) == {"lexical", "fused"}


def test_a_tuned_workspace_can_be_compared(built, tmp_path):
    """Each recipe begins from the untuned models, whatever is in use."""
    workspace = Workspace(tmp_path / "ws")
    shutil.copytree(built[0].path, workspace.path, ignore=shutil.ignore_patterns("compare"))
    settings = choose_settings(None, workspace.stored_settings(), {}, flags=["retriever.learning_rate=0.01"])
    run_steps(["tune-retriever"], workspace, settings, force=True)
    tuned = load_encoder(model_in_use(workspace, "retriever", settings.models.encoder)).fingerprint
    library = workspace.library()
    assert library.meta("encoder") == tuned
    library.close()
    found = compare(workspace, ["guide"], [3], FLAGS, own_questions("Which"))
    assert found.evaluation.sets[YOURS].systems == {
        "guide": built[1].evaluation.sets[YOURS].systems["guide"] | {"seconds": ANY}
    }


def test_nothing_to_measure_with_is_said(built, tmp_path):
    workspace = create_workspace(tmp_path / "empty")
    with pytest.raises(QuestionsError, match="fieldstone synthesize"):
        compare(workspace, ["guide"], [0])


def test_a_question_of_unknown_evidence_is_told(built):
    workspace, _ = built
    unknown = Question("u", "Where is it?", ("there",), "", "This sentence stands nowhere at all.")
    found = compare(workspace, ["guide"], [3], FLAGS, [unknown])
    assert "stands nowhere in the library" in found.evaluation.notes[0]
