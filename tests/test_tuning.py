"""The steps that tune a workspace and prove it, end to end, with tiny random models."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import tiny_models
from fieldstone.answer import answer, open_system
from fieldstone.cli.app import app
from fieldstone.errors import SettingsError
from fieldstone.evaluate.run import evaluate
from fieldstone.examples import read_examples
from fieldstone.in_use import choices, with_tuned
from fieldstone.models import load_encoder, load_reranker
from fieldstone.progress import silent
from fieldstone.recipes import load_recipe, run, run_steps
from fieldstone.records import with_context
from fieldstone.settings import resolve_settings
from fieldstone.tune.generator.lessons import lessons
from fieldstone.workspace import Workspace, create_workspace
from ports import handbooks, own_questions
from small_library import write_folder

TRAINING = ("tune generator", "tune retriever", "tune", "synthesize")
STEPS = load_recipe("fieldstone").steps
TUNING = STEPS[STEPS.index("synthesize") :]


NEW = {"new.md": "# Newport\n\nLit by Ada Voss.\n"}  # too short to be asked about
TEACH, MEASURE = own_questions("What"), own_questions("Which")


@dataclass(frozen=True)
class Place:
    """A folder, the workspace built from it, and the two tiny models."""

    folder: Path
    workspace: Workspace
    flags: tuple[str, ...]

    def settings(self, *flags):
        return resolve_settings(
            load_recipe("fieldstone").settings, environment={}, flags=[*self.flags, *flags]
        )

    def build(self, *flags, progress=silent, **more):
        """What the steps said of themselves, and what progress they told."""
        told = []

        def tell(*said):
            told.append(said)
            progress(*said)

        made = run(
            load_recipe("fieldstone"),
            self.folder,
            self.workspace,
            self.settings(*flags),
            tell,
            teach=TEACH,
            questions=MEASURE,
            **more,
        ).made
        return made, {step for step, *_ in told}

    def candidates(self):
        """Each candidate's folder and when its weights were written."""
        return {
            path.parent.relative_to(self.workspace.path).as_posix(): path.stat().st_mtime_ns
            for path in sorted(self.workspace.path.glob("models/*/*/model.safetensors"))
        }

    def vectors(self):
        """The encoder in use as the library has it, and passage id -> vector."""
        library = self.workspace.library()
        encoder = library.meta("encoder")
        found = {}
        for ids, matrix in library.vectors(encoder, [p.id for p in library.passages()]):
            found.update(zip(ids, matrix, strict=True))
        library.close()
        return encoder, found

    def examples(self, split):
        return read_examples(self.workspace.path / "examples" / f"{split}.jsonl")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """One whole run of the recipe, and what it said."""
    home = tmp_path_factory.mktemp("built")
    llama = tiny_models.llama(home / "llama", max_position_embeddings=2048)
    bert = tiny_models.bert(home / "bert")
    flags = (
        f"models.encoder={bert}", f"models.generator={llama}", "models.device=cpu", "models.threads=1",
        "read.workers=1", "synthesize.lift=-100", "synthesize.dev=0.3", "synthesize.test=0.3",
        "synthesize.found_within=100", "retriever.epochs=1", "retriever.learning_rate=1e-9",
        "generator.epochs=1", "generator.rank=2", "generator.checks=1", "generator.learning_rate=1e-9",
        "answer.max_tokens=6", "answer.reading=one-by-one", "answer.passages=2", "search.rerank_depth=4",
    )  # fmt: skip
    place = Place(write_folder(home / "folder", handbooks()), create_workspace(home / "ws"), flags)
    return place, *place.build()


@pytest.fixture
def new_document(built):
    """Writes one more document into the folder; gone after the test."""
    folder = built[0].folder
    yield lambda: write_folder(folder, NEW)
    for name in NEW:
        (folder / name).unlink(missing_ok=True)


@pytest.fixture
def copied(built, tmp_path):
    """A copy of the whole workspace, to change."""
    place = built[0]
    shutil.copytree(place.workspace.path, tmp_path / "ws")
    return Place(place.folder, Workspace(tmp_path / "ws"), place.flags)


def test_the_whole_recipe_ends_in_a_report(built):
    place, made, told = built
    assert tuple(made) == STEPS
    assert set(TRAINING) - {"tune"} <= told
    report = json.loads(Path(made["report"]["report"]).read_text())
    assert Path(made["report"]["page"]).read_text().startswith("<!doctype html>") or made["report"]["page"]
    assert [verdict["part"] for verdict in report["verdicts"]] == ["retriever", "generator"]
    assert set(report["sets"]["human questions"]["systems"]) == {"before", "after"}
    assert report["sets"]["human questions"]["notes"] == ["24 questions, 8 of them unanswerable"]
    assert not report["notes"]
    assert [line["step"] for line in place.workspace.read_journal()] == list(STEPS)


def test_own_questions_and_written_ones_are_taught_and_divided(built):
    place, made, _ = built
    everything = {split: place.examples(split) for split in ("train", "dev", "test")}
    assert {split: len(its) for split, its in everything.items()} == made["synthesize"]["examples"]
    assert {e.origin for its in everything.values() for e in its} == {"human", "synthetic"}
    own = [e for its in everything.values() for e in its if e.origin == "human"]
    assert {e.question for e in own} == {q.question for q in TEACH}
    assert not {e.question for its in everything.values() for e in its} & {q.question for q in MEASURE}
    assert all(everything.values())
    held = {e.question for e in everything["test"] if e.origin == "human" and e.answer}
    report = json.loads(Path(made["report"]["report"]).read_text())
    assert held
    told, *warnings = report["sets"]["your questions, kept back"]["notes"]
    assert told == f"{len(held)} questions, 0 of them unanswerable"
    assert all("the intervals say nothing about others" in note for note in warnings)


def test_what_does_not_win_is_turned_down_and_all_stays_as_it_was(built):
    place, made, _ = built
    for part in ("retriever", "generator"):
        verdict = made[f"tune-{part}"]["verdict"]
        assert not verdict["accepted"]
        assert not verdict["forced"]
        assert "turned down" in verdict["reason"]
        dev = place.examples("dev")
        answered = [e for e in dev if (e.passage_id if part == "retriever" else e.answer or not e.passage_id)]
        assert verdict["difference"]["n"] == len(answered) > 0
        assert (place.workspace.path / verdict["candidate"] / "model.safetensors").is_file()
    assert choices(place.workspace) == ()
    settings = place.settings()
    assert with_tuned(place.workspace, settings) == settings
    encoder, vectors = place.vectors()
    base = load_encoder(settings.models.encoder, device="cpu", threads=1)
    assert encoder == base.fingerprint
    library = place.workspace.library()
    assert vectors.keys() == {p.id for p in library.passages()}
    assert library.embedded(made["tune-retriever"]["verdict"]["candidate"]) == set()
    library.close()


def test_only_training_examples_are_trained_on(built):
    place, made, _ = built
    train = place.examples("train")
    held_out = {e.passage_id or e.id for split in ("dev", "test") for e in place.examples(split)}
    assert not held_out & {e.passage_id or e.id for e in train}
    assert made["tune-retriever"]["questions"] == sum(e.passage_id is not None for e in train)
    told = [e for e in train if e.answer or e.kind == "unanswerable"]
    library = place.workspace.library()
    passages = library.passages()
    titles = library.sources({p.document_id for p in passages})
    library.close()
    texts = {p.id: with_context(p.text, titles[p.document_id][1], p.headings) for p in passages}
    rows = lessons(told, texts, "one-by-one", place.settings().generator, 4)
    assert made["tune-generator"]["rows"] == len(rows) > 0


def test_a_second_run_does_nothing_anew(copied, built):
    _, made, _ = built
    before, journal = copied.candidates(), len(list(copied.workspace.read_journal()))
    again, told = copied.build()
    assert not told & set(TRAINING)
    assert {step: again[step] for step in TUNING} == {step: made[step] for step in TUNING}
    assert copied.candidates() == before
    lines = list(copied.workspace.read_journal())[journal:]
    assert [line["step"] for line in lines] == list(STEPS)
    facts = [{k: v for k, v in line.items() if k not in ("time", "seconds")} for line in lines]
    assert facts[-len(TUNING) :] == json.loads(json.dumps([{"step": s} | dict(made[s]) for s in TUNING]))


@pytest.mark.parametrize("part", ["retriever", "generator"])
def test_another_learning_rate_makes_another_candidate(copied, part):
    before = copied.candidates()
    made, told = copied.build(f"{part}.learning_rate=2e-9")
    new = copied.candidates().keys() - before.keys()
    assert new == {made[f"tune-{part}"]["verdict"]["candidate"]}
    assert before.items() <= copied.candidates().items()
    assert f"tune {part}" in told
    assert not {f"tune {other}" for other in ("retriever", "generator") if other != part} & told


@pytest.mark.parametrize(
    ("lesson", "reading"),
    [
        ("ralt", "mixture"),
        pytest.param("raft", "together", marks=pytest.mark.slow),
        pytest.param("swr", "together", marks=pytest.mark.slow),
    ],
)
def test_lessons_with_what_the_search_finds(copied, lesson, reading):
    flags = (f"generator.lessons={lesson}", f"answer.reading={reading}", "generator.retrieved=2")
    before = copied.candidates()
    made, told = copied.build(*flags)
    said = made["tune-generator"]
    answered = sum(bool(e.answer) for e in copied.examples("train"))
    assert said["rows"] == answered * (2 if lesson == "ralt" else 1)
    assert said["verdict"]["difference"]["n"] > 0
    assert copied.candidates().keys() - before.keys() == {said["verdict"]["candidate"]}
    again, told = copied.build(*flags)
    assert "tune generator" not in told
    assert again["tune-generator"] == said


@pytest.mark.slow
@pytest.mark.parametrize("name", ["raft", "ra-dit"])
def test_recipes_of_the_field_end_in_a_report(built, tmp_path, name):
    place, recipe = built[0], load_recipe(name)
    flags = [flag for flag in place.flags if not flag.startswith("answer.reading")]
    settings = resolve_settings(recipe.settings, recipe.sizes["tiny"], environment={}, flags=flags)
    made = run(recipe, place.folder, create_workspace(tmp_path / "ws"), settings, teach=TEACH).made
    assert tuple(made) == recipe.steps
    assert made["tune-generator"]["rows"] > 0
    assert made["tune-generator"]["verdict"]["part"] == "generator"
    assert Path(made["report"]["report"]).is_file()


def test_lessons_that_cannot_be_read_that_way_stop_the_build(copied):
    with pytest.raises(SettingsError, match="lessons = raft has several passages a row"):
        copied.build("generator.lessons=raft", "answer.reading=auto")


def test_forced_candidates_are_used_and_can_be_rolled_back(copied, built):
    _, made, _ = built
    was, trained = copied.vectors(), copied.candidates()
    forced, told = copied.build(force=True)
    assert "synthesize" not in told
    assert copied.candidates() == trained
    settings = copied.settings()
    used = with_tuned(copied.workspace, settings).models
    for part, name in (("retriever", used.encoder), ("generator", used.generator)):
        verdict = forced[f"tune-{part}"]["verdict"]
        assert (verdict["accepted"], verdict["forced"]) == (True, True)
        assert verdict["candidate"] == made[f"tune-{part}"]["verdict"]["candidate"]
        assert name == str(copied.workspace.path / verdict["candidate"])
    assert [choice.forced for choice in choices(copied.workspace)] == [True, True]

    tuned = load_encoder(used.encoder, device="cpu", threads=1)
    encoder, vectors = copied.vectors()
    assert encoder == tuned.fingerprint != was[0]
    library = copied.workspace.library()
    passages = library.passages()
    titles = library.sources({p.document_id for p in passages})
    texts = [with_context(p.text, titles[p.document_id][1], p.headings) for p in passages]
    library.close()
    anew = dict(zip([p.id for p in passages], tuned.encode_passages(texts), strict=True))
    assert vectors.keys() == anew.keys()
    assert all(np.dot(vectors[id_], anew[id_]) > 0.999 for id_ in anew)

    system = open_system(copied.workspace, settings)
    assert (system.settings.models, system.generator.name) == (used, used.generator)
    (given,) = answer(system, ["What does a day cost at Kelmouth?"])
    assert given.hits
    report = json.loads(Path(forced["report"]["report"]).read_text())
    assert [verdict["forced"] for verdict in report["verdicts"]] == [True, True]

    again, told = copied.build()  # what was forced stays
    assert not told & set(TRAINING)
    assert again["tune-retriever"] == forced["tune-retriever"]
    assert len(choices(copied.workspace)) == 2

    for _ in range(2):
        rolled = CliRunner().invoke(app, ["rollback", str(copied.workspace.path), "--quiet"])
        assert rolled.exit_code == 0, rolled.output
    assert choices(copied.workspace) == ()
    assert with_tuned(copied.workspace, settings) == settings
    encoder, vectors = copied.vectors()
    assert encoder == was[0]
    assert all(np.dot(vectors[id_], was[1][id_]) > 0.999 for id_ in was[1])
    assert answer(open_system(copied.workspace, settings), ["What does a day cost at Kelmouth?"])

    copied.build()  # and what was rolled back stays out
    assert choices(copied.workspace) == ()
    assert copied.vectors()[0] == was[0]


LSR = (
    "retriever.batch=8",
    "retriever.loss=lsr",
    "retriever.candidates=3",
    "retriever.towers=query",
    "retriever.learning_rate=1e-2",
)


@pytest.mark.parametrize("method", ["full", "adapter"])
def test_a_tuned_questions_side_embeds_no_passage_again(copied, method):
    """From base to questions' side and back: one set of vectors serves all the way."""
    was, journal = copied.vectors(), copied.workspace.path / "journal.jsonl"
    flags, embedded = (*LSR, f"retriever.method={method}"), []

    def look(step, done, total, unit):
        if step == "embed" and total:
            embedded.append((done, total))

    def settled(progress=silent):
        settings = copied.settings(*flags)
        return run_steps(["tune-retriever"], copied.workspace, settings, progress, force=True).made

    made = settled(look)
    candidate = made["tune-retriever"]["verdict"]["candidate"]
    (choice,) = choices(copied.workspace)
    assert choice.name == candidate
    folder = copied.workspace.path / candidate
    assert json.loads((folder / "towers.json").read_text())["passage"] == copied.settings().models.encoder
    assert (folder / ("query" if method == "full" else "adapter.safetensors")).exists()
    used = load_encoder(str(folder), device="cpu", threads=1)
    base = load_encoder(copied.settings().models.encoder, device="cpu", threads=1)
    asked = ["What does a day cost at Kelmouth?"]
    assert np.abs(used.encode_queries(asked) - base.encode_queries(asked)).max() > 1e-4
    assert was[0] == used.fingerprint == base.fingerprint == copied.vectors()[0]

    def load(*_, **__):
        raise AssertionError("an encoder was loaded for nothing")

    with pytest.MonkeyPatch.context() as patch:  # all is up to date: not even a model is loaded
        patch.setattr("fieldstone.models.load_encoder", load)
        upkeep = run_steps(["split", "index"], copied.workspace, copied.settings(*flags)).made
    assert (upkeep["split"]["passages"], upkeep["index"]["embedded"]) == (0, 0)
    assert settled()["tune-retriever"] == made["tune-retriever"]  # at once
    assert answer(open_system(copied.workspace, copied.settings(*flags)), asked)
    status = CliRunner().invoke(app, ["status", str(copied.workspace.path)])
    assert (status.exit_code, Path(candidate).name in status.output) == (0, True)
    assert CliRunner().invoke(app, ["doctor"]).exit_code == 0

    rolled = CliRunner().invoke(app, ["rollback", str(copied.workspace.path), "--quiet"])
    assert rolled.exit_code == 0, rolled.output
    assert json.loads(journal.read_text().splitlines()[-1])["embedded"] == 0
    assert choices(copied.workspace) == ()
    encoder, vectors = copied.vectors()
    assert encoder == was[0]
    assert all(np.array_equal(vectors[id_], was[1][id_]) for id_ in was[1])
    assert not embedded


@pytest.fixture(scope="module")
def crossed(tmp_path_factory):
    """A cross-encoder to tune as reranker."""
    return tiny_models.cross_encoder(tmp_path_factory.mktemp("crossed"))


def tune_reranker(place, crossed, *flags, force=False, steps=("tune-reranker",)):
    """Run these steps over a built workspace; what they said, and the settings."""
    quick = ("reranker.epochs=1", "reranker.learning_rate=1e-9", "reranker.weight=0.9")
    settings = place.settings(f"models.reranker={crossed}", *quick, *flags)
    return run_steps(steps, place.workspace, settings, questions=MEASURE, force=force).made, settings


def test_a_reranker_is_judged_against_the_search_in_use(copied, crossed):
    made, _ = tune_reranker(copied, crossed)
    facts = made["tune-reranker"]
    verdict = facts["verdict"]
    assert (verdict["part"], verdict["incumbent"], verdict["accepted"]) == ("reranker", "likelihood", False)
    assert verdict["difference"]["n"] == sum(e.passage_id is not None for e in copied.examples("dev")) > 0
    assert facts["questions"] == sum(e.passage_id is not None for e in copied.examples("train"))
    assert (copied.workspace.path / verdict["candidate"] / "model.safetensors").is_file()
    assert choices(copied.workspace) == ()
    before = copied.candidates()
    again, _ = tune_reranker(copied, crossed)
    assert again == made
    assert copied.candidates() == before


def test_a_reranker_behind_a_server_is_not_tuned(copied):
    made, _ = tune_reranker(copied, "http://host:8000/v1#reranker")
    assert "model server" in made["tune-reranker"]["skipped"]


def test_a_forced_reranker_is_searched_with_reported_and_rolled_back(copied, crossed):
    made, settings = tune_reranker(copied, crossed, force=True, steps=("tune-reranker", "report"))
    (choice,) = choices(copied.workspace)
    assert (choice.part, choice.base, choice.forced) == ("reranker", "likelihood", True)
    used = with_tuned(copied.workspace, settings)
    folder = copied.workspace.path / choice.name
    assert (used.search.rerank, used.search.reranker_weight) == ("cross-encoder", 0.9)
    assert used.models.reranker == str(folder)

    system = open_system(copied.workspace, settings)
    assert system.index.reranker.name == str(folder)
    question = "What does a day cost at Kelmouth?"
    (given,) = answer(system, [question])
    assert {hit.by for hit in given.hits} == {"cross-encoder"}
    texts = system.index.library.passage_texts([hit.passage for hit in given.hits])
    reranker = load_reranker(str(folder), device="cpu", threads=1)
    looked = [hit for hit in given.hits if "cross-encoder" in hit.scores]
    assert len(looked) == settings.search.rerank_depth
    expected = reranker.rerank(question, [texts[hit.passage.id] for hit in looked])
    assert [hit.scores["cross-encoder"] for hit in looked] == pytest.approx(expected, abs=1e-4)

    report = json.loads(Path(made["report"]["report"]).read_text())
    assert [verdict["part"] for verdict in report["verdicts"]] == ["reranker"]
    assert report["sets"]["human questions"]["differences"].keys() == {"after - before"}

    measured = evaluate(copied.workspace, settings, MEASURE[:2])
    assert list(measured.systems)[-1] == "fused+cross-encoder/one-by-one"

    generator, _ = tune_reranker(copied, crossed, steps=("tune-generator",))
    assert "verdict" in generator["tune-generator"]  # judged anew, with the reranker

    said = CliRunner().invoke(app, ["status", str(copied.workspace.path)])
    assert f"tuned      reranker {choice.name}" in said.output
    assert "not in use" not in said.output
    rolled = CliRunner().invoke(app, ["rollback", str(copied.workspace.path), "--part", "reranker", "--json"])
    assert json.loads(rolled.output)["in_use"] == "likelihood"
    assert with_tuned(copied.workspace, settings) == settings


def test_margins_are_taught_by_the_likelihood_and_then_by_the_reranker(copied, crossed):
    margin = ("retriever.loss=margin", "retriever.negatives=2", "synthesize.negatives=4")
    made, _ = tune_reranker(copied, crossed, *margin, "models.reranker=", steps=("tune-retriever",))
    first = made["tune-retriever"]["verdict"]["candidate"]
    kept = set((copied.workspace.cache / "teacher").iterdir())
    made, _ = tune_reranker(copied, crossed, *margin, steps=("tune-retriever",))
    assert made["tune-retriever"]["verdict"]["candidate"] != first
    (labels,) = set((copied.workspace.cache / "teacher").iterdir()) - kept
    found = [line for text in labels.read_text().splitlines() for line in json.loads(text)["found"]]
    assert len(found) == made["tune-retriever"]["questions"]
    assert {len(scores) for scores in found} == {3}


class Stopped(Exception):
    """Stands for Ctrl-C at a certain moment."""


@pytest.mark.parametrize("grown", [False, True])
def test_a_kill_between_verdict_and_deed_is_made_good(copied, new_document, grown):
    def stop(step, done, total, unit):
        written = copied.workspace.path.glob("models/retriever/*/verdict.json")
        if not all(json.loads(path.read_text())["settled"] for path in written):
            raise Stopped

    with pytest.raises(Stopped):
        copied.build(progress=stop, force=True)
    assert choices(copied.workspace) == ()
    if grown:
        new_document()
    copied.build()
    assert [choice.part for choice in choices(copied.workspace)] == ["retriever"]
    used = with_tuned(copied.workspace, copied.settings()).models.encoder
    encoder, vectors = copied.vectors()
    assert encoder == load_encoder(used, device="cpu", threads=1).fingerprint
    library = copied.workspace.library()
    assert vectors.keys() == {p.id for p in library.passages()}
    library.close()


@pytest.mark.parametrize("force", [False, True])
def test_new_documents_leave_the_vectors_whole(copied, new_document, force):
    if force:
        copied.build(force=True)
    before = choices(copied.workspace)
    new_document()
    made, _ = copied.build()
    assert choices(copied.workspace) == before
    assert made["index"]["embedded"] == 1
    settings = copied.settings()
    encoder, vectors = copied.vectors()
    used = load_encoder(with_tuned(copied.workspace, settings).models.encoder, device="cpu", threads=1)
    assert encoder == used.fingerprint
    library = copied.workspace.library()
    assert vectors.keys() == {p.id for p in library.passages()}
    library.close()


def test_too_few_documents_end_in_a_report_that_says_so(built, tmp_path):
    place = built[0]
    folder = write_folder(tmp_path / "one", {"a.md": "# A\n\nShort.\n"})
    little = Place(folder, create_workspace(tmp_path / "ws"), place.flags)
    workspace, settings = little.workspace, little.settings()
    made = run(load_recipe("fieldstone"), folder, workspace, settings).made
    assert "too few" in made["tune-retriever"]["skipped"]
    assert "too few" in made["tune-generator"]["skipped"]
    assert "no test questions" in made["report"]["skipped"]
    assert run_steps(TUNING, workspace, settings).made["report"] == made["report"]
