"""`fieldstone benchmark` end to end, with models without weights, and on Cranfield with real ones."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import ir_measures
import pytest
from typer.testing import CliRunner, Result

from fieldstone.cli.app import app
from fieldstone.workspace import open_workspace
from small_library import TEXTS, write_folder
from test_benchmarks import beir, lines, localrqa, paragraph

FAKES = ("--set", "models.encoder=fake:words", "--generator", "fake:words", "-q")


def fieldstone(*args: object) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args])


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Reports of benchmarks without a workspace go below the current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def shown(*args: object) -> dict[str, Any]:
    result = fieldstone("benchmark", *args, *FAKES, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def rows_of(found: dict[str, Any]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(found["report"]["rows"]).read_text().splitlines()]


def squad(path: Path) -> Path:
    made = [paragraph(text, text.split()[-1].rstrip(".")) for text in TEXTS.values()]
    return lines(path, {"data": [{"title": "Harbour", "paragraphs": made}, "damaged"]})


def test_squad_over_its_own_paragraphs(here: Path) -> None:
    found = shown("squad", "--data", squad(here / "dev.json"))
    assert set(found["systems"]) == {"lexical", "dense", "fused", "fused+likelihood/one-by-one"}
    assert found["systems"]["lexical"]["recall@10"]["n"] == len(TEXTS)
    assert "F1" in found["systems"]["fused+likelihood/one-by-one"]
    assert found["notes"][-1].startswith("1 entry that cannot be read is left out: data[1]: ")
    assert Path(found["report"]["html"]).parent.parent.resolve() == (here / "reports").resolve()
    limited = shown("squad", "--data", here / "dev.json", "--limit", 2, "--systems", "lexical")
    assert limited["systems"]["lexical"]["recall@1"]["n"] == 2


def test_what_is_shown_fits_a_terminal(here: Path) -> None:
    result = fieldstone("benchmark", "squad", "--data", squad(here / "dev.json"), *FAKES)
    assert result.exit_code == 0, result.output
    table = [line for line in result.stdout.splitlines() if "n = " in line]
    assert table
    assert max(map(len, table)) <= 80


def test_a_kept_workspace_is_used_again_and_can_be_asked(here: Path) -> None:
    first = shown(
        "squad", "--data", squad(here / "dev.json"), "--workspace", here / "ws", "--recipe", "guide"
    )
    embedded = [line for line in open_workspace(here / "ws").read_journal() if line["step"] == "index"]
    second = shown("squad", "--data", here / "dev.json", "--workspace", here / "ws")
    again = [line for line in open_workspace(here / "ws").read_journal() if line["step"] == "index"]
    assert (embedded[0]["embedded"], again[-1]["embedded"]) == (len(TEXTS), 0)
    assert Path(second["report"]["html"]).is_relative_to(here / "ws" / "reports")
    without_time = [
        {name: {m: e for m, e in its.items() if m != "seconds"} for name, its in found["systems"].items()}
        for found in (first, second)
    ]
    assert without_time[0] == without_time[1]
    asked = fieldstone("ask", here / "ws", "Where is the fire watch told?", "--set", "answer.abstain_below=0")
    assert asked.exit_code == 0, asked.output


def graded(folder: Path) -> Path:
    """A collection with grades from -1 to 3, some of documents that are not there."""
    chance = random.Random(3)
    words = [f"word{n}" for n in range(30)]
    lines(
        folder / "corpus.jsonl",
        *[{"_id": f"d{n}", "text": " ".join(chance.choices(words, k=12))} for n in range(60)],
    )
    lines(
        folder / "queries.jsonl",
        *[{"_id": f"q{n}", "text": " ".join(chance.choices(words, k=4))} for n in range(25)],
    )
    rows = ["query-id\tcorpus-id\tscore"]
    for n in range(25):
        judged = chance.sample(range(65), 15)
        rows += [f"q{n}\td{d}\t{chance.choice([-1, 0, 1, 2, 3])}" for d in judged]
    (folder / "qrels").mkdir()
    (folder / "qrels" / "test.tsv").write_text("\n".join(rows))
    return folder


def check_with_ir_measures(found: dict[str, Any], folder: Path, workspace: Path) -> None:
    """Every system's nDCG@10, recall and MRR as ir_measures has them of the same rankings."""
    library = open_workspace(workspace).library()
    sources = library.sources([p.document_id for p in library.passages()])
    ids = {p.id: sources[p.document_id][0] for p in library.passages()}
    qrels = [
        ir_measures.Qrel(query, document, int(grade))
        for query, document, grade in (
            line.split("\t") for line in (folder / "qrels" / "test.tsv").read_text().splitlines()[1:]
        )
    ]
    oracles = {
        "nDCG@10": ir_measures.nDCG @ 10,
        "recall@10": ir_measures.R @ 10,
        "MRR@10": ir_measures.RR @ 10,
    }
    for system, estimates in found["systems"].items():
        run = [
            ir_measures.ScoredDoc(row["id"], ids[hit["passage"]], -rank)
            for row in rows_of(found)
            if row["system"] == system
            for rank, hit in enumerate(row["hits"])
        ]
        theirs: dict[Any, list[float]] = {}
        for metric in ir_measures.iter_calc(list(oracles.values()), qrels, run):
            theirs.setdefault(metric.measure, []).append(metric.value)
        for name, oracle in oracles.items():
            # they leave out queries for which nothing was found; here every query finds ten
            assert estimates[name]["n"] == len(theirs[oracle])
            mean = sum(theirs[oracle]) / len(theirs[oracle])
            assert estimates[name]["value"] == pytest.approx(mean, abs=1e-9), (system, name)


def test_graded_relevance_equals_ir_measures(here: Path) -> None:
    folder = graded(here / "set")
    found = shown("beir", "--data", folder, "--workspace", here / "ws", "--seed", 1)
    assert set(found["systems"]) == {"lexical", "dense", "fused"}, "nothing is known but relevance"
    assert "0 of them unanswerable" in found["notes"][0]
    check_with_ir_measures(found, folder, here / "ws")


@pytest.mark.slow
def test_cranfield_equals_ir_measures(here: Path, data: Path) -> None:
    args = ("--workspace", here / "ws", "--systems", "lexical,fused", "-q", "--json")
    result = fieldstone("benchmark", "beir", "--data", data / "cranfield", *args)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    check_with_ir_measures(found, data / "cranfield", here / "ws")
    assert found["systems"]["fused"]["nDCG@10"]["value"] > 0.3


def test_localrqa_and_tables(here: Path) -> None:
    found = shown("localrqa", "--data", localrqa(here / "rqa"), "--systems", "lexical,lexical/one-by-one")
    assert found["systems"]["lexical"]["recall@10"]["n"] == 2
    table = here / "t.csv"
    table.write_text("question,answer,context\nWhat lifts?,the crane,It is the crane that lifts.\nWho?,,\n")
    found = shown("csv", "--data", table, "--systems", "lexical/one-by-one")
    assert found["systems"]["lexical/one-by-one"]["recall@1"]["value"] == 1
    assert found["systems"]["lexical/one-by-one"]["refusal-recall"]["n"] == 1


MMLU = [
    {
        "question": "What costs 135 crowns?",
        "choices": ["a day", "a crane", "a ship", "a boat"],
        "answer": "A",
    },
    {"question": "Who is told?", "choices": ["Ann", "the fire watch", "Bo", "Cy"], "answer": "B"},
]


def test_mmlu_closed_book_and_over_a_workspace(here: Path) -> None:
    found = shown("mmlu", "--data", lines(here / "m.jsonl", *MMLU))
    ((name, estimates),) = found["systems"].items()
    assert (name, estimates["accuracy"]["n"]) == ("fake:words", 2)
    assert found["notes"][0] == "0 examples before each question"
    docs = write_folder(here / "docs")
    models = ("--set", "models.encoder=fake:words", "--set", "models.generator=fake:words", "-q")
    assert fieldstone("build", docs, "--into", here / "ws", "--recipe", "guide", *models).exit_code == 0
    over = shown("mmlu", "--data", here / "m.jsonl", "--workspace", here / "ws")
    alone, shown_too = rows_of(found), rows_of(over)
    assert [row["id"] for row in alone] == [row["id"] for row in shown_too]
    assert [row["logprobs"] for row in alone] != [row["logprobs"] for row in shown_too], "the passages count"


def test_webquestions_closed_book_and_over_a_workspace(here: Path) -> None:
    file = lines(
        here / "w.jsonl",
        {"id": "w", "question": "What does a day at the quay cost?", "answers": ["135 crowns"]},
    )
    found = shown("webquestions", "--data", file)
    assert set(found["systems"]["fake:words"]) == {"EM", "F1", "over-refusal", "seconds"}
    docs = write_folder(here / "docs")
    models = ("--set", "models.encoder=fake:words", "--set", "models.generator=fake:words", "-q")
    assert fieldstone("build", docs, "--into", here / "ws", "--recipe", "guide", *models).exit_code == 0
    over = shown(
        "webquestions", "--data", file, "--workspace", here / "ws", "--set", "answer.abstain_below=0",
        "--systems", "fused/one-by-one",
    )  # fmt: skip
    assert over["systems"]["fused/one-by-one"]["F1"]["n"] == 1
    assert "recall@1" not in over["systems"]["fused/one-by-one"]
    assert any("no measures of retrieval" in note for note in over["notes"])


def test_squad_over_a_workspace_of_other_files(here: Path) -> None:
    docs = write_folder(here / "docs", {"Harbour.md": "\n\n".join(TEXTS.values())})
    models = ("--set", "models.encoder=fake:words", "--set", "models.generator=fake:words", "-q")
    assert fieldstone("build", docs, "--into", here / "ws", "--recipe", "guide", *models).exit_code == 0
    found = shown(
        "squad", "--data", squad(here / "dev.json"), "--workspace", here / "ws", "--systems", "lexical"
    )
    assert found["systems"]["lexical"]["recall@10"]["n"] == len(TEXTS)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["glue", "--data", "DATA"], "there is no benchmark format 'glue'"),
        (["squad", "--data", "absent"], "cannot be read"),
        (["beir", "--data", "BEIR", "--systems", "fused/one-by-one"], "knows no answers"),
        (["beir", "--data", "BEIR", "--workspace", "WS"], "holds other documents than this benchmark"),
        (["squad", "--data", "DATA", "--workspace", "WS", "--recipe", "guide"], "is built already"),
        (["mmlu", "--data", "MMLU", "--workspace", "absent"], "there is no workspace"),
        (["squad", "--data", "DATA", "--systems", "best"], "there is no system 'best'"),
        (["squad", "--data", "DATA", "--recipe", "nosuch"], "there is no recipe"),
    ],
)
def test_an_error_is_one_line(here: Path, args: list[str], said: str) -> None:
    docs = write_folder(here / "docs")
    models = ("--set", "models.encoder=fake:words", "--set", "models.generator=fake:words", "-q")
    fieldstone("build", docs, "--into", here / "ws", "--recipe", "guide", *models)
    places: dict[str, object] = {
        "DATA": squad(here / "dev.json"),
        "BEIR": beir(here / "set"),
        "MMLU": lines(here / "m.jsonl", *MMLU),
        "WS": here / "ws",
    }
    before = sorted(here.iterdir())
    result = fieldstone("benchmark", *(places.get(arg, arg) for arg in args), *FAKES)
    assert result.exit_code == 1, result.output
    assert result.stderr.startswith("error: ")
    assert said in result.stderr
    assert result.stderr.count("\n") == 1
    assert sorted(here.iterdir()) == before, "an error leaves nothing behind"
