"""How good questions are: each figure against a plain count, and the sentences that are made of them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from fieldstone.cli.app import app
from fieldstone.evaluate.quality.advice import findings
from fieldstone.evaluate.quality.closed_book import closed_book
from fieldstone.evaluate.quality.found import kind_of, measure_quality, question_word, same
from fieldstone.examples import write_examples
from fieldstone.models import load_encoder, load_generator
from fieldstone.records import Example
from small_library import make_library

ENCODER = load_encoder("fake:words")


def example(question, answer="", passage=None, negatives=(), **made_by):
    kind = "answerable" if passage else "unanswerable"
    return Example(question, question, answer, passage, tuple(negatives), kind, "synthetic", made_by)


@pytest.fixture
def library(tmp_path):
    its = make_library(tmp_path, embedded=True)
    yield its
    its.close()


@pytest.fixture
def passages(library):
    """Source -> its only passage."""
    sources = library.sources({p.document_id for p in library.passages()})
    return {sources[p.document_id][0]: p for p in library.passages()}


def measured(library, sets, **more):
    its = library.passages()
    sources = {id_: source for id_, (source, _) in library.sources({p.document_id for p in its}).items()}
    found = library.vectors(library.meta("encoder"), [p.id for p in its])
    vectors = {id_: vector for ids, rows in found for id_, vector in zip(ids, rows, strict=True)}
    return measure_quality(sets, its, sources, ENCODER, vectors, **more)


def test_repeats_and_leaks(library, passages):
    crane = passages["berths/berth-7.md"].id
    quay = passages["tariffs/2025.txt"].id
    train = [
        example("How much does its crane lift?", "forty tonnes", crane),
        example("how much does its CRANE lift", "forty tonnes", crane),
        example("What does a day at the quay cost in 2025?", "135 crowns", quay),
        example("What does a day at the quay cost in 2024?", "135 crowns", quay),
        example("What does a day at the quay cost in 2025?"),  # a near miss: no answer
        example("When was the quay at the basin built?", "x", quay),
        example("Where was the quay at the basin built?", "x", quay),
    ]
    dev = [
        example("How much does its crane lift?", "forty tonnes", crane),
        example("Who is told?", "x", crane),
    ]
    found = measured(library, {"train": train, "dev": dev})
    repeats = found.repeats["train"]
    assert (repeats.questions, repeats.of, repeats.exact) == (1, 7, 1)
    assert repeats.shown[0].first == "how much does its CRANE lift"
    assert list(found.leaks) == ["dev"]
    assert (found.leaks["dev"].questions, found.leaks["dev"].of) == (1, 2)
    assert found.repeats["dev"].questions == 0


def test_repeats_against_all_pairs(library):
    """The same numbers as a plain double loop over 300 made-up questions."""
    random = np.random.default_rng(5)
    words = ["crane", "berth", "quay", "tonnes", "lift", "price", "night", "pilot", "7", "8"]
    train, test = (
        [example(f"What {' '.join(random.choice(words, 4))}?", "x", "p" if random.random() < 0.7 else None)
         for _ in range(150)]
        for _ in range(2)
    )  # fmt: skip
    found = measured(library, {"train": train, "test": test}, alike=0.9)

    vectors = {e.question: v for e in train + test for v in ENCODER.encode_queries([e.question])}

    def alike(a, b):
        return float(vectors[a.question] @ vectors[b.question]) >= 0.9 and same(a, b)

    wanted = sum(any(alike(a, b) for b in train[:i]) for i, a in enumerate(train))
    assert found.repeats["train"].questions == wanted
    leaked = found.leaks["test"].questions
    assert leaked == sum(any(alike(a, b) for b in train) for a in test)
    assert 10 < leaked < 140


def test_coverage(library, passages):
    crane, quay = passages["berths/berth-7.md"].id, passages["tariffs/2025.txt"].id
    asked = [example(f"What {i}?", "x", crane) for i in range(3)]
    asked += [
        example("What is paid?", "135 crowns", quay),
        example("What is gone?", "x", "gone"),
        example("No?"),
    ]
    its = measured(library, {"train": asked}).coverage
    assert (its.documents, its.documents_asked, its.passages, its.passages_asked, its.gone) == (5, 2, 5, 2, 1)
    assert its.most[0] == ("berths/berth-7.md", 3, 1)
    assert {source for source, questions, _ in its.most if not questions} == {
        "berths/berth-8.md", "tariffs/2024.txt", "safety/welding.md",
    }  # fmt: skip
    assert its.least == ()


def test_the_least_asked_are_listed_where_there_are_many(tmp_path):
    library = make_library(
        tmp_path, {f"{i:02}.txt": f"Page {i} says this." for i in range(25)}, embedded=True
    )
    asked = [example(f"What {p.id}?", "x", p.id) for p in library.passages()[:24]]
    its = measured(library, {"train": asked}).coverage
    assert [len(its.most), len(its.least)] == [10, 10]
    assert its.least[0] == ("24.txt", 0, 1)
    assert not {source for source, _, _ in its.most} & {source for source, _, _ in its.least}
    library.close()


def test_answers_and_negatives(library, passages):
    crane = passages["berths/berth-7.md"].id
    others = [passages["berths/berth-8.md"].id, passages["tariffs/2025.txt"].id]
    asked = [
        example("How much does it lift?", "forty tonnes", crane, others),
        example("What has berth 8 none of?", "crane", crane, others),
        example("How deep?", "very deep", crane, ["gone"]),
        example("Or not?", "", None, others),
    ]
    found = measured(library, {"train": asked})
    assert found.verbatim == (2, 3)
    assert found.lengths["answer"] == (1, 1.5, 2, 2, 2)
    its = found.negatives
    assert (its.number, its.questions, its.holding) == (4, 2, 1)
    assert its.shown[0][0] == "What has berth 8 none of? = crane"
    vectors = dict(zip(*next(library.vectors(library.meta("encoder"), [crane, *others])), strict=True))
    cosines = [float(vectors[crane] @ vectors[id_]) for id_ in others] * 2
    assert its.cosines == pytest.approx(np.quantile(cosines, (0, 0.25, 0.5, 0.75, 1)), abs=1e-3)
    assert sum(its.histogram) == 4


@pytest.mark.parametrize(
    ("question", "word"),
    [
        ("How many cranes are there?", "how many"),
        ("In what year was it built?", "when"),
        ("What is it for?", "what"),
        ("By whom is it paid?", "who"),
        ("Is it true that it flies?", "yes or no"),
        ("Name the pilot.", "other"),
        ("Somewhat odd", "other"),
        ("how\n much is it", "how much"),
        ("パイロットは誰ですか", "other"),
    ],
)
def test_question_words(question, word):
    assert question_word(question) == word


def test_kinds():
    assert kind_of(example("a", "x", "p")) == "answerable"
    assert kind_of(example("a", "", "p")) == "without an answer"
    assert kind_of(example("a")) == "unanswerable"
    assert kind_of(example("a", "A) x", "p", form="choice")) == "choice"


def test_closed_book_counts_what_is_known_without_the_passage():
    """The fake generator copies a sentence that shares words: it knows nothing without the passage."""
    asked = [
        example("What does berth 7 take?", "berth 7 takes ships", "p"),
        example("Who is it?", "a pilot", "p"),
    ]
    texts = {"p": "Berth 7 takes ships. Nobody else is here."}
    its = closed_book(load_generator("fake:words"), asked, texts, {"p": "d"})
    assert its.known.value == 0
    assert its.f1_with.value > 0
    assert its.lift.n == 2
    assert its.lift.value > 0
    assert closed_book(load_generator("fake:words"), [], texts, {"p": "d"}) is None


def test_advice(library, passages):
    crane, quay = passages["berths/berth-7.md"].id, passages["tariffs/2025.txt"].id
    bad = [example(f"What is it, number {i}?", "no such words", crane, [quay]) for i in range(20)]
    found = measured(library, {"train": bad * 2, "dev": bad[:5]}, rejected=["the question is too short"] * 3)
    told = {its.topic: its for its in findings(found)}
    assert "gate" in told["questions"].advice
    assert "train.jsonl" in told["leakage"].advice
    assert told["repeats"].said.startswith("20 of 45 (44 %)")
    assert "synthesize.passages" in told["coverage"].advice
    assert "'what'" in told["asking"].advice
    assert told["answers"].advice
    assert "too short (3)" in told["rejected"].said
    good = measured(library, {"questions": [example("Who books?", "forty tonnes", crane), example("Or?")]})
    assert not any(its.advice for its in findings(good) if its.topic in ("answers", "repeats", "questions"))


FILES = {
    "a.md": "# Berth 7\n\nBerth 7 takes ships of 9.5 m draught. Its crane lifts forty tonnes every day.\n",
    "b.md": "# Berth 8\n\nBerth 8 is closed in winter. It has no crane and no light.\n",
}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A workspace with questions."""
    place = tmp_path_factory.mktemp("quality")
    (place / "docs").mkdir()
    for name, text in FILES.items():
        (place / "docs" / name).write_text(text)
    fakes = ["--set", "models.encoder=fake:words", "--set", "models.generator=fake:words"]
    assert (
        command("build", place / "docs", "--into", place / "ws", "--recipe", "guide", *fakes).exit_code == 0
    )
    return place / "ws"


def command(*args):
    return CliRunner().invoke(app, [str(arg) for arg in args])


def ask(workspace):
    from fieldstone.workspace import open_workspace

    library = open_workspace(workspace).library()
    ids = [p.id for p in library.passages()]
    library.close()
    asked = [
        example("What does the crane lift?", "forty tonnes", ids[0], ids[1:]),
        example("Why?", "", ids[1]),
    ]
    write_examples(workspace / "examples" / "train.jsonl", asked)
    write_examples(workspace / "examples" / "test.jsonl", asked[:1])
    (workspace / "examples" / "rejected.jsonl").write_text('{"reason": "no answer"}\n{"rea')
    (workspace / "examples" / "asked.jsonl").write_text(
        '{"batch": "1", "asked": [{"lift": 0.5}, {"lift": 1}], "ratings": {"passages": [7, 7, null]}}\n'
    )


def test_the_command(built, tmp_path):
    workspace = Path(shutil.copytree(built, tmp_path / "ws"))
    empty = command("quality", workspace)
    assert empty.exit_code == 1
    assert "fieldstone synthesize" in empty.output
    ask(workspace)
    result = command("quality", workspace, "--closed-book", 5)
    assert result.exit_code == 0, result.output
    for topic in (
        "questions",
        "leakage",
        "repeats",
        "coverage",
        "asking",
        "answers",
        "negatives",
        "closed book",
    ):
        assert f"\n{topic}" in f"\n{result.stdout}"
    (report,) = (workspace / "reports").glob("*/quality.html")
    page = report.read_text()
    assert "default-src 'none'" in page
    assert "http:" not in page
    assert "https:" not in page
    kept = json.loads(report.with_suffix(".json").read_text())
    assert kept["rejected"] == {"no answer": 1}
    assert kept["lifts"] == [0.5, 0.625, 0.75, 0.875, 1.0]
    assert kept["ratings"] == {"passages": {"7": 2, "unread": 1}}
    assert kept["leaks"]["test"]["questions"] == 1


def test_a_file_of_questions(built, tmp_path):
    workspace = Path(shutil.copytree(built, tmp_path / "ws"))
    ask(workspace)
    mine = tmp_path / "mine.jsonl"
    mine.write_text(
        '{"question": "What does the crane lift?", "answers": ["forty tonnes"], "source": "a.md"}\n'
        '{"question": "What does it cost?", "answers": []}\n'
    )
    told = json.loads(command("quality", workspace, "--questions", mine, "--json").stdout)
    assert told["sets"] == {"mine.jsonl": {"answerable": 1, "unanswerable": 1}}
    assert told["leaks"]["mine.jsonl"]["exact"] == 1
    assert told["verbatim"] == [1, 1]
    assert told["rejected"] == {}
