"""Answers of systems that are not ours: read, matched, judged by text alone, asked of a server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from fieldstone.cli.app import app
from fieldstone.errors import EndpointError, QuestionsError
from fieldstone.evaluate.evidence import holds_evidence, telling
from fieldstone.evaluate.questions import Question
from fieldstone.evaluate.systems.answers import Given, Piece, read_answers
from fieldstone.evaluate.systems.any_system import evaluate_answers
from fieldstone.evaluate.systems.endpoint import Shown, ask_endpoint
from fieldstone.evaluate.systems.matched import match_answers, rows_of
from fieldstone.models import Completion
from model_server import serving
from small_library import write_folder
from test_benchmarks import lines

EVIDENCE = "Berth 7 takes ships of 9.5 m draught. Its crane lifts forty tonnes. It is open all year."
QUESTIONS = [
    Question("q1", "What does the crane lift?", ("forty tonnes",), "berths/berth-7.md", EVIDENCE),
    Question("q2", "Who books the pilot?", ("the agent",), "pilotage.html"),
    Question("q3", "Who is king?", (), ""),
]


def fieldstone(*args: object) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args])


# -- what holds the evidence


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        (EVIDENCE, True),
        ("Its crane lifts forty tonnes.", True),
        ("forty tonnes", True),
        ("its CRANE lifts\n forty  ton-\nnes", True),  # a piece of it, whatever case, white space, line ends
        ("Berth 7 takes ships of 9.5 m draught.", False),  # a piece of it, but not the one that tells
        ("The quay.", False),
        ("for", False),  # a piece of the answer, but no more than three letters
        ("", False),
        (f"Before it stands another text. {EVIDENCE} And one behind.", True),
        ("At the end of a chunk: 9.5 m draught. Its crane lifts forty tonnes", True),
        ("The crane of berth 7 lifts forty tonnes in fair weather.", True),  # most words of the sentence
        ("Forty sailors and a crane.", False),
    ],
)
def test_a_text_holds_the_evidence(text: str, holds: bool) -> None:
    question = QUESTIONS[0]
    assert telling(question) == ["Its crane lifts forty tonnes."]
    assert holds_evidence(text, question, telling(question)) is holds


def test_where_the_answer_stands_nowhere_in_so_many_words_all_sentences_tell() -> None:
    question = Question("q", "?", ("forty",), "a", "One ship. Two ships.")
    assert telling(question) == ["One ship.", "Two ships."]
    assert holds_evidence("Two ships.", question, telling(question))


def test_without_evidence_the_answer_must_stand_there() -> None:
    assert holds_evidence("It is the agent who books.", QUESTIONS[1], ())
    assert not holds_evidence("The reagent books.", Question("q", "?", ("the agents",), "a"), ())


# -- reading and matching


def test_every_form_of_a_line(tmp_path: Path) -> None:
    rows = [
        {
            "id": "q1",
            "answer": "forty",
            "citations": ["berths/berth-7.md"],
            "contexts": ["One.", {"text": "Two."}],
        },
        {"user_input": "Who books?", "response": "An agent", "retrieved_contexts": ["Three."], "latency": 2},
        {"question": "x", "answer": None, "abstained": True, "seconds": "soon", "confidence": 0.5},
        {"question": "y", "answer": "  ", "system": "other", "citations": []},
        {"question": "z", "answer": "a", "hits": [{"passage": {"id": "p1", "text": "T"}, "source": "s.md"}]},
        {"question": "z", "answer": "a", "citations": [{"passage_id": "p2", "quote": "Q", "source": "s.md"}]},
    ]
    given, notes = read_answers([lines(tmp_path / "theirs.jsonl", *rows)])
    assert notes == ()
    assert [its.system for its in given] == ["theirs"] * 3 + ["other"] + ["theirs"] * 2
    first = given[0]
    assert first.citations == (Piece("berths/berth-7.md", "berths/berth-7.md", ""),)
    assert first.contexts == (Piece("One.", "One.", ""), Piece("Two.", "", ""))
    assert (given[1].answer, given[1].seconds, given[1].citations) == ("An agent", 2.0, None)
    assert (given[2].abstained, given[2].seconds, given[2].confidence) == (True, None, 0.5)
    assert (given[3].abstained, given[3].citations) == (True, ())
    assert given[4].contexts == (Piece("T", "s.md", "p1"),)
    assert given[5].citations == (Piece("Q", "s.md", "p2"),)


def test_bad_lines_are_counted_and_named(tmp_path: Path) -> None:
    bad = ["{", "[1]", {"answer": "x"}, {"id": "q1"}, {"id": "q1", "answer": 3}, {"id": [1], "answer": "x"}]
    bad += [{"id": "q1", "answer": "x", "citations": "c"}, {"id": "q1", "answer": "x", "contexts": [3]}]
    path = lines(tmp_path / "a.jsonl", {"id": "q1", "answer": "x"}, *bad)
    given, notes = read_answers([path])
    assert len(given) == 1
    assert notes[0].startswith("a.jsonl: lines that cannot be read: 8 (line 2: ")
    with pytest.raises(QuestionsError, match=r"b\.jsonl holds no answer: line 1: "):
        read_answers([lines(tmp_path / "b.jsonl", *bad)])
    with pytest.raises(QuestionsError, match="No such file"):
        read_answers([tmp_path / "absent.jsonl"])


def said(system: str, id_: str, answer: str, **fields: Any) -> Given:
    return Given(system, id_, "", answer, not answer, **fields)


def test_answers_find_their_questions() -> None:
    given = [
        said("one", "q1", "forty tonnes"),
        Given("one", "", " who books  THE pilot?", "the agent", False),
        said("two", "q1", "two"),
        said("two", "q1", "again"),
        Given("two", "zz", "What else?", "x", False),
    ]
    matched = match_answers(QUESTIONS, given)
    assert [question.id for question in matched.asked] == ["q1", "q2"]
    assert matched.answers["one"]["q2"].answer == "the agent"
    assert matched.answers["two"]["q1"].answer == "two"
    assert matched.notes == (
        "left out, for nobody answered them: 1 questions",
        "two: no answer is given to 1 of 2; they count as unanswered",
        "two: answers that belong to no question: 1 (What else?)",
        "two: given again, of which the first counts: 1 answers",
    )
    with pytest.raises(QuestionsError, match="no answer belongs to any"):
        match_answers(QUESTIONS, [said("one", "zz", "x")])


# -- measures


def measures(given: list[Given], system: str = "one", **options: Any) -> list[dict[str, Any]]:
    rows = rows_of(match_answers(QUESTIONS, given), **options)
    return [row["measures"] for row in rows if row["system"] == system]


def piece(text: str = "", source: str = "", id_: str = "") -> Piece:
    return Piece(text, source, id_)


def test_by_hand() -> None:
    wrong, right = piece("The quay."), piece("Its crane lifts forty tonnes.")
    given = [
        said("one", "q1", "forty tonnes", contexts=(wrong, right), citations=(right, wrong), seconds=2.0),
        said("one", "q2", "", contexts=(wrong,)),
        said("one", "q3", "Ann", contexts=(wrong,), citations=(wrong,)),
    ]
    first, second, third = measures(given)
    assert (first["EM"], first["F1"], first["seconds"]) == (1, 1, 2)
    assert (first["recall@1"], first["recall@5"], first["MRR@10"]) == (0, 1, 0.5)
    assert first["citation-accuracy"] == 0.5
    assert "nDCG@10" not in first
    assert (second["EM"], second["over-refusal"], second["citation-accuracy"]) == (0, 1, None)
    assert (second["recall@10"], second["MRR@10"]) == (0, 0), "the evidence was to be found"
    assert "seconds" not in second
    assert (third["EM"], third["refusal-recall"], third["recall@10"]) == (None, 0, None)


def test_what_a_system_does_not_say_is_not_measured() -> None:
    given = [said("one", "q1", "forty"), said("two", "q1", "x", citations=(), contexts=())]
    assert not [name for name in measures(given)[0] if "@" in name or "citation" in name]
    other = measures(given, "two")[0]
    assert (other["recall@5"], other["citation-accuracy"]) == (0, 0)


@pytest.mark.parametrize(
    ("cited", "right"),
    [
        (piece("berths/berth-7.md", "berths/berth-7.md"), True),
        (piece("", "berth-7.md"), True),  # the only file of this name
        (piece("", "Berth-7"), True),  # its title
        (piece("", "berths/berth-8.md"), False),
        (piece("", "", "p1"), True),  # a passage of the library
        (piece("", "", "p2"), False),
        (piece("forty tonnes", "elsewhere.md"), True),  # the evidence says more than the name of the source
    ],
)
def test_a_citation_may_be_a_source_or_a_passage_id(cited: Piece, right: bool) -> None:
    texts = {"p1": "Its crane lifts forty tonnes.", "p2": "Else."}
    found = measures([said("one", "q1", "x", citations=(cited,))], text_of=texts.get)
    assert found[0]["citation-accuracy"] == float(right)


def test_a_citation_of_a_passage_that_was_found_is_judged_by_it() -> None:
    found = piece("Before. Its crane lifts forty tonnes.", "x", "p7")
    given = said("one", "q1", "x", contexts=(found,), citations=(piece("Before.", "x", "p7"),))
    assert measures([given])[0]["citation-accuracy"] == 1
    assert measures([given])[0]["recall@1"] == 1


def test_an_answer_in_another_document_is_no_evidence() -> None:
    its = (
        piece("It is the agent.", "pilotage.html"),
        piece("It is the agent.", "other.html"),
        piece("The agent."),
    )
    found = measures([said("one", "q2", "x", citations=its)])
    assert found[0]["citation-accuracy"] == pytest.approx(2 / 3)


def test_two_systems_are_compared_on_the_same_questions() -> None:
    asked = [Question(f"q{n}", f"{n}?", ("yes",), f"d{n}") for n in range(12)]
    given = [said("good", q.id, "yes") for q in asked] + [said("bad", q.id, "no") for q in asked[:9]]
    found = evaluate_answers(asked, given=given)
    difference = found.differences["bad - good"]["EM"]
    assert (difference.value, difference.n, difference.beyond_noise) == (-1, 12, True)
    assert "bad: no answer is given to 3 of 12; they count as unanswered" in found.notes


# -- the command

ASKED = [
    {"id": "q1", "question": "What does the crane lift?", "answers": ["forty tonnes"], "source": "a.md"},
    {"id": "q2", "question": "Who books the pilot?", "answers": ["the agent"], "source": "b.md"},
    {"id": "q3", "question": "Who is king?", "answers": []},
]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    lines(tmp_path / "q.jsonl", *ASKED)
    return tmp_path


def test_answers_end_to_end(here: Path) -> None:
    lines(
        here / "theirs.jsonl",
        {"question": "What does the crane lift?", "answer": "forty tonnes", "citations": ["a.md"]},
        {"id": "q2", "answer": "a boy", "citations": ["a.md"]},
        {"id": "q3", "answer": ""},
        "{broken",
        {"question": "Where is it?", "answer": "here"},
    )
    lines(here / "more.jsonl", {"id": "q1", "answer": "ten", "system": "other"})
    result = fieldstone(
        "evaluate",
        "--questions",
        "q.jsonl",
        "--answers",
        "theirs.jsonl",
        "--answers",
        "more.jsonl",
        "--json",
        "-q",
    )
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert set(found["systems"]) == {"theirs", "other"}
    assert found["systems"]["theirs"]["EM"]["value"] == 0.5
    assert found["systems"]["theirs"]["citation-accuracy"]["value"] == 0.5
    assert found["systems"]["theirs"]["refusal-recall"]["value"] == 1
    assert "citation-accuracy" not in found["systems"]["other"]
    assert "other - theirs" in found["differences"]
    notes = "\n".join(found["notes"])
    assert "theirs.jsonl: lines that cannot be read: 1 (line 4: " in notes
    assert "theirs: answers that belong to no question: 1 (Where is it?)" in notes
    assert "other: no answer is given to 2 of 3; they count as unanswered" in notes
    page = Path(found["report"]["html"])
    assert page.resolve().is_relative_to((here / "reports").resolve())
    assert page.read_text().startswith("<!")
    plain = fieldstone(
        "evaluate", "--questions", "q.jsonl", "--answers", "theirs.jsonl", "--reports", "r", "-q"
    )
    assert "theirs\n" in plain.stdout
    assert list((here / "r").iterdir())


def test_the_worst_answers_of_others_stand_with_their_passages(here: Path) -> None:
    asked = {**ASKED[1], "evidence": "The agent books the pilot."}
    lines(here / "q.jsonl", asked, {**asked, "id": "q4", "question": "Who then?"})
    contexts = [{"text": "Boys whistle for it.", "source": "c.md"}, {"text": "The agent books the pilot."}]
    lines(
        here / "theirs.jsonl",
        {"id": "q2", "answer": "a boy", "contexts": contexts, "citations": ["Boys whistle"]},
        {"id": "q4", "answer": "a girl", "contexts": contexts[:1]},
    )
    result = fieldstone("evaluate", "--questions", "q.jsonl", "--answers", "theirs.jsonl", "--json", "-q")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    shown = [
        (case["question"], found["passages"].get(case["read"]), found["passages"].get(case["held"]))
        for case in found["worst"]["theirs"]
    ]
    assert shown == [
        ("Who books the pilot?", "Boys whistle", "The agent books the pilot."),
        ("Who then?", "Boys whistle for it.", "The agent books the pilot."),
    ]
    assert "Boys whistle" in Path(found["report"]["html"]).read_text()


def test_a_judge_is_tried_before_it_grades_answers_of_others(here: Path) -> None:
    lines(here / "theirs.jsonl", {"id": "q1", "answer": "forty"}, {"id": "q2", "answer": "the agent"})
    people = [
        {"question": f"{n}?", "answers": ["yes"], "answer": "yes" if n % 2 else "no", "correct": bool(n % 2)}
        for n in range(40)
    ]
    lines(here / "people.jsonl", *people)
    args = ("--questions", "q.jsonl", "--answers", "theirs.jsonl", "--judge", "fake:words", "-q", "--json")
    result = fieldstone("evaluate", *args, "--judged", "people.jsonl")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["judged"]["judge"] == "fake:words"
    assert found["judged"]["sentence"] in found["notes"]
    assert ("correctness" in found["systems"]["theirs"]) == found["judged"]["fit"]


def built(here: Path) -> Path:
    texts = {
        "a.md": "The crane lifts forty tonnes. It stands at berth 7.",
        "b.md": "The pilot is booked by the agent. He comes by boat.",
    }
    docs = write_folder(here / "docs", texts)
    models = ("--set", "models.encoder=fake:words", "--set", "models.generator=fake:words")
    made = fieldstone("build", docs, "--into", here / "ws", "--recipe", "guide", *models, "-q")
    assert made.exit_code == 0, made.output
    return here / "ws"


def test_answers_beside_our_own_systems(here: Path) -> None:
    workspace = built(here)
    lines(here / "theirs.jsonl", {"id": "q1", "answer": "forty"}, {"id": "q2", "answer": "the agent"})
    args = ("--questions", "q.jsonl", "--answers", "theirs.jsonl", "--systems", "lexical/one-by-one", "-q")
    result = fieldstone("evaluate", workspace, *args, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert set(found["systems"]) == {"lexical/one-by-one", "theirs"}
    assert found["differences"]["theirs - lexical/one-by-one"]["F1"]["n"] == 2
    assert Path(found["report"]["html"]).is_relative_to(workspace / "reports")
    # what our own evaluation kept is read again, and comes to the same
    again = fieldstone(
        "evaluate", workspace, "--questions", "q.jsonl", "--answers", found["report"]["rows"], "--json", "-q"
    )
    kept = json.loads(again.stdout)["systems"]
    for system in ("lexical/one-by-one", "theirs"):
        assert kept[system]["F1"] == found["systems"][system]["F1"]
    assert kept["lexical/one-by-one"]["recall@5"] == found["systems"]["lexical/one-by-one"]["recall@5"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["evaluate", "--questions", "q.jsonl"], "name a WORKSPACE"),
        (
            ["evaluate", "--questions", "q.jsonl", "--answers", "q.jsonl", "--systems", "dense"],
            "name a WORKSPACE",
        ),
        (["evaluate", "--questions", "q.jsonl", "--answers", "absent"], "absent cannot be read"),
        (
            ["evaluate", "WS", "--questions", "q.jsonl", "--answers", "x.jsonl", "--support"],
            "leave out --answers",
        ),
        (["evaluate", "--questions", "q.jsonl", "--answers", "x.jsonl"], "no answer belongs to any"),
        (["evaluate", "--questions", "q.jsonl", "--endpoint", "http://127.0.0.1:9"], "names no model"),
        (["evaluate", "--questions", "q.jsonl", "--endpoint", "fieldstone"], "is no address"),
        (["evaluate", "--questions", "q.jsonl", "--answers", "x.jsonl", "--context"], "name a WORKSPACE"),
    ],
)
def test_an_error_is_one_line(here: Path, args: list[str], message: str) -> None:
    lines(here / "x.jsonl", {"id": "zz", "answer": "x"})
    before = sorted(here.iterdir())
    result = fieldstone(*args)
    assert result.exit_code == 1, result.output
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert sorted(here.iterdir()) == before


# -- an endpoint


def test_an_endpoint_end_to_end(here: Path) -> None:
    workspace = built(here)
    with serving() as server:
        url = f"{server.url}#fake"
        plain = fieldstone("evaluate", "--questions", "q.jsonl", "--endpoint", url, "--json", "-q")
        assert plain.exit_code == 0, plain.output
        assert json.loads(plain.stdout)["systems"]["fake"]["EM"]["n"] == 2
        bodies = [body for path, body, _ in server.seen if path.endswith("chat/completions")]
        assert sorted(body["messages"][0]["content"] for body in bodies) == sorted(
            q["question"] for q in ASKED
        )
        server.seen.clear()
        args = ("--questions", "q.jsonl", "--endpoint", url, "--context", "--json", "-q")
        fed = fieldstone("evaluate", workspace, *args)
        assert fed.exit_code == 0, fed.output
        found = json.loads(fed.stdout)["systems"]["fake"]
        assert found["recall@5"]["value"] == 1
        asked = [body["messages"][0]["content"] for _, body, _ in server.seen if "messages" in body]
        assert any("[1] " in text and "forty tonnes" in text for text in asked)
    assert not list(here.rglob("endpoint-*.jsonl")), "all answered: nothing is left to go on from"


class Flaky:
    """A chat model that fails where it is told to; what it is asked is kept."""

    name = "http://x/v1#flaky"

    def __init__(self, fails: set[str]) -> None:
        self.fails, self.asked = fails, []

    def generate(self, prompts: Any, **_: Any) -> list[Completion]:
        self.asked += [prompt.text for prompt in prompts]
        if prompts[0].text in self.fails:
            raise EndpointError("it is overloaded")
        return [Completion(" an answer ", 1, None, True)]


def test_a_stopped_run_goes_on_and_errors_are_asked_again(tmp_path: Path) -> None:
    asked = [Question(f"q{n}", f"{n}?", ("x",), "") for n in range(20)]
    into = tmp_path / "kept" / "a.jsonl"
    first = Flaky({"3?", "17?"})
    (note,) = ask_endpoint(first, asked, into)  # type: ignore[arg-type]
    assert note.startswith("2 of 20 questions got no answer from http://x/v1#flaky and count as unanswered: ")
    assert len(first.asked) == 20
    with into.open("a") as file:
        file.write('{"id": "q3", "answ')  # killed while it wrote
    second = Flaky(set())
    assert ask_endpoint(second, asked, into) == ()  # type: ignore[arg-type]
    assert sorted(second.asked) == ["17?", "3?"]
    kept = [json.loads(line) for line in into.read_text().splitlines()]
    assert {line["id"] for line in kept} == {question.id for question in asked}
    assert {line["answer"] for line in kept} == {"an answer"}


def test_a_damaged_file_of_kept_answers_is_refused(tmp_path: Path) -> None:
    into = lines(tmp_path / "a.jsonl", "{broken", {"id": "q1", "answer": "x"})
    with pytest.raises(QuestionsError, match="is damaged; delete it"):
        ask_endpoint(Flaky(set()), QUESTIONS, into)  # type: ignore[arg-type]


def test_a_server_that_is_gone_is_not_asked_for_ever(tmp_path: Path) -> None:
    asked = [Question(f"q{n}", f"{n}?", ("x",), "") for n in range(100)]
    gone = Flaky({question.question for question in asked})
    (note,) = ask_endpoint(gone, asked, tmp_path / "a.jsonl")  # type: ignore[arg-type]
    assert note.startswith("100 of 100 questions")
    assert len(gone.asked) == 24


def test_a_refusal_with_passages_is_an_abstention(tmp_path: Path) -> None:
    class Refuses(Flaky):
        def generate(self, prompts: Any, **_: Any) -> list[Completion]:
            return [Completion("Unanswerable.", 1, None, True)]

    shown = {"q1": [Shown("p1", "Some text.", "a.md")], "q2": [], "q3": []}
    ask_endpoint(Refuses(set()), QUESTIONS, tmp_path / "a.jsonl", shown)  # type: ignore[arg-type]
    given, _ = read_answers([tmp_path / "a.jsonl"])
    assert all(its.abstained for its in given)
    assert given[0].contexts == (Piece("Some text.", "a.md", "p1"),)


def test_errors_of_a_real_server_count_as_unanswered_and_are_asked_again(here: Path) -> None:
    with serving() as server:
        args = ("evaluate", "--questions", "q.jsonl", "--endpoint", f"{server.url}#fake", "--json", "-q")
        server.replies += [(400, "no", {})] * 2
        first = fieldstone(*args)
        assert first.exit_code == 0, first.output
        found = json.loads(first.stdout)
        assert f"2 of 3 questions got no answer from {server.url}#fake" in found["notes"][-1]
        assert found["systems"]["fake"]["F1"]["n"] == 2, "they are measured as unanswered"
        assert len(list(here.rglob("endpoint-*.jsonl"))) == 1
        server.seen.clear()
        again = fieldstone(*args)
        assert again.exit_code == 0, again.output
        assert len([path for path, *_ in server.seen if path.endswith("completions")]) == 2
        assert not list(here.rglob("endpoint-*.jsonl"))
