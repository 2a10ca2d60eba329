"""Grades read, unblinded and counted: what they say of the systems, and what is left out."""

import json
import random
from statistics import fmean

import pytest
from typer.testing import CliRunner

from fieldstone.cli.app import app
from fieldstone.evaluate.grading.grades import assess, judged_lines, read_grades
from fieldstone.evaluate.grading.sheet import CRITERIA, LEVELS, SIDES, make_sheet, write_key
from test_sheet import row, rows


def exported(sheet, grader, grade, copy="1", saved="2026-01-01", share=1.0):
    """What the page exports for a grader who gives each item's rows and criterion `grade(rows, name)`."""
    chance = random.Random(f"{grader}{share}")
    grades = {
        item.id: {name: grade(item.rows, name) for name in CRITERIA}
        for item in sheet.items
        if chance.random() < share
    }
    return {
        "fieldstone": "grades", "version": 1, "sheet": sheet.id, "grader": grader, "copy": copy,
        "saved": saved, "grades": grades, "remarks": {},
    }  # fmt: skip


def written(folder, *contents):
    paths = []
    for i, content in enumerate(contents):
        path = folder / f"grades-{i}.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        paths.append(path)
    return paths


def prefers(system):
    """Always finds that system's answer better, wherever it stands."""
    return lambda rows, name: -1 if rows[0]["system"] == system else 1


def by_chance(seed, values):
    chance = random.Random(seed)
    return lambda rows, name: chance.choice(values)


def test_a_preference_comes_out_for_the_system_not_the_place(tmp_path):
    sheet = make_sheet(rows())
    graders, left_out = read_grades(written(tmp_path, exported(sheet, "Ann", prefers("fused"))), sheet)
    found = assess(sheet, graders).evaluation
    assert not left_out
    for name in CRITERIA:
        assert (found.systems["fused"][name].value, found.systems["dense"][name].value) == (1.0, 0.0)
        assert found.differences["fused - dense"][name].value == 1.0
        test = found.tests["fused - dense"][name]
        assert (test.wins, test.ties, test.losses) == (40, 0, 0)
        assert test.holm < 0.01


def test_means_against_a_count_by_hand(tmp_path):
    """Random grades of three graders who skip items and cannot always say: every mean is a plain count."""
    for seed in range(8):
        sheet = make_sheet(rows(number=12), each=True, seed=seed)
        files = [
            exported(sheet, g, by_chance(f"{g}{seed}", (*LEVELS, None)), copy=g, share=0.7) for g in "abc"
        ]
        graders, _ = read_grades(written(tmp_path, *files), sheet)
        systems = assess(sheet, graders).evaluation.systems
        for system in sheet.systems:
            for name in CRITERIA:
                means = []
                for item in sheet.items:
                    given = [f["grades"][item.id][name] for f in files if item.id in f["grades"]]
                    given = [g / 2 for g in given if g is not None]
                    if item.rows[0]["system"] == system and given:
                        means.append(fmean(given))
                assert systems[system][name].value == pytest.approx(fmean(means))
                assert systems[system][name].n == len(means)


def test_shares_of_wins_against_a_count_by_hand(tmp_path):
    for seed in range(8):
        given = [
            row(s, f"q{i}", answer="same" if i < 2 else s) for s in ("dense", "fused") for i in range(12)
        ]
        sheet = make_sheet(given, seed=seed)
        files = [exported(sheet, g, by_chance(f"{g}{seed}", (*SIDES, None)), copy=g, share=0.7) for g in "ab"]
        graders, _ = read_grades(written(tmp_path, *files), sheet)
        systems = assess(sheet, graders).evaluation.systems
        for name in CRITERIA:
            shares = [0.5, 0.5]
            for item in sheet.items:
                given = [f["grades"][item.id][name] for f in files if item.id in f["grades"]]
                best = [None if g is None else "tie" if g == 0 else item.rows[g > 0]["system"] for g in given]
                scored = [{"tie": 0.5, "fused": 1.0, "dense": 0.0}[b] for b in best if b]
                shares += [fmean(scored)] if scored else []
            assert systems["fused"][name].value == pytest.approx(fmean(shares))
            assert systems["dense"][name].value == pytest.approx(1 - fmean(shares))


def test_agreement(tmp_path):
    sheet = make_sheet(rows())
    same = [exported(sheet, g, by_chance(1, SIDES), copy=g) for g in "ab"]
    graders, _ = read_grades(written(tmp_path, *same), sheet)
    found = assess(sheet, graders)
    assert found.agreement["correct"].ordinal.value == pytest.approx(1.0)
    assert found.disagreements == ()
    apart = [exported(sheet, "a", prefers("fused"), "a"), exported(sheet, "b", prefers("dense"), "b")]
    graders, _ = read_grades(written(tmp_path, *apart), sheet)
    found = assess(sheet, graders)
    assert found.agreement["correct"].ordinal.value < 0
    assert len(found.disagreements) == 40 * len(CRITERIA)
    assert found.disagreements[0].said == {"a": "fused is better", "b": "dense is better"}
    assert any("hardly better than chance" in note for note in found.evaluation.notes)


def test_a_preference_for_a_place_is_no_agreement_on_systems(tmp_path):
    """Two graders who always take what stands first agree on nothing that was asked."""
    sheet = make_sheet(rows(number=100))
    files = [exported(sheet, "a", lambda *_: -1, "a"), exported(sheet, "b", prefers("fused"), "b")]
    graders, _ = read_grades(written(tmp_path, *files), sheet)
    assert abs(assess(sheet, graders[:1]).evaluation.systems["fused"]["correct"].value - 0.5) < 0.15
    assert assess(sheet, graders).agreement["correct"].nominal.value < 0.2


def test_one_grader_is_said_to_be_one(tmp_path):
    sheet = make_sheet(rows())
    graders, _ = read_grades(written(tmp_path, exported(sheet, "Ann", prefers("fused"))), sheet)
    found = assess(sheet, graders)
    assert any(note.startswith("one grader") for note in found.evaluation.notes)
    assert found.agreement["correct"].ordinal.units == 0


def test_no_grades_at_all():
    sheet = make_sheet(rows())
    assert assess(sheet, []).evaluation.rows == []


def test_exports_of_one_grader_are_joined_and_two_of_one_name_told_apart(tmp_path):
    sheet = make_sheet(rows())
    earlier = exported(sheet, "Ann", prefers("fused"), "1", "2026-01-01")
    later = exported(sheet, " ann ", prefers("dense"), "1", "2026-01-02", share=0.5)
    other = exported(sheet, "Ann", prefers("fused"), "2", "2026-01-01")
    for order in ((earlier, later, other), (other, later, earlier)):
        graders, _ = read_grades(written(tmp_path, *order), sheet)
        assert sorted(len(grader.grades) for grader in graders) == [40, 40]
        assert len({grader.name.casefold() for grader in graders}) == 2
        joined = next(grader for grader in graders if grader.name.startswith("ann"))
        wins = [joined.grades[item.id]["correct"] == prefers("dense")(item.rows, "") for item in sheet.items]
        assert sum(wins) == len(later["grades"])


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda c: "", "no JSON"),
        (lambda c: json.dumps(c)[:-9], "no JSON"),
        (lambda c: "[1]", "no exported grades"),
        (lambda c: {**c, "fieldstone": "grading key"}, "no exported grades"),
        (lambda c: {**c, "sheet": "0"}, "another page"),
        (lambda c: {**c, "grader": " "}, "the grader"),
        (lambda c: {**c, "grades": None}, "the grades"),
        (lambda c: {**c, "grades": {}}, "no grade yet"),
        (lambda c: {**c, "grades": {"x": {}}}, "'x' is nothing"),
        (lambda c: {**c, "grades": {next(iter(c["grades"])): {"nice": 1}}}, "is nothing"),
        (lambda c: {**c, "grades": {next(iter(c["grades"])): {"correct": 7}}}, "7 is no grade"),
        (lambda c: {**c, "grades": {next(iter(c["grades"])): {"correct": True}}}, "True is no grade"),
        (lambda c: {**c, "grades": {next(iter(c["grades"])): {"correct": [1]}}}, "is no grade"),
        (lambda c: {**c, "grades": {next(iter(c["grades"])): {"correct": 1.0}}}, "1.0 is no grade"),
        (lambda c: "[" * 100_000, "no JSON"),
        (lambda c: {**c, "grades": {next(iter(c["grades"])): []}}, "is nothing"),
        (lambda c: {**c, "grader": 7}, "the grader"),
    ],
)
def test_damaged_and_foreign_files_are_named_and_left_out(tmp_path, damage, reason):
    sheet = make_sheet(rows())
    good, bad = exported(sheet, "Ann", prefers("fused")), exported(sheet, "Ben", prefers("fused"))
    paths = [*written(tmp_path, good, damage(bad)), tmp_path / "nowhere.json"]
    graders, left_out = read_grades(paths, sheet)
    assert [grader.name for grader in graders] == ["Ann"]
    assert [path for path, _ in left_out] == paths[1:]
    assert reason in left_out[0][1]


def test_what_a_judge_is_checked_by(tmp_path):
    given = [
        row(id_="q1"), row(id_="q2", abstained=True), row(id_="q3", answers=[]), row(id_="q4", answer=" "),
    ]  # fmt: skip
    sheet = make_sheet(given)
    files = [exported(sheet, "a", lambda *_: 2, "a"), exported(sheet, "b", lambda *_: 1, "b")]
    graders, _ = read_grades(written(tmp_path, *files), sheet)
    assert list(judged_lines(sheet, graders)) == [
        {
            "question": "What is q1?", "answers": ["forty tonnes"], "answer": "dense says q1",
            "correct": 0.75, "source": "berths/berth-7.md",
        }
    ]  # fmt: skip


def command(*args):
    return CliRunner().invoke(app, [str(arg) for arg in args])


@pytest.fixture
def made(tmp_path):
    """A page of two systems, its key, and the sheet."""
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows()))
    result = command(
        "grade", "make", tmp_path / "rows.jsonl", "--into", tmp_path / "page.html", "--limit", 20
    )
    assert result.exit_code == 0, result.output
    assert "20 pairs to grade" in result.stdout
    return tmp_path


def test_the_page_may_be_named_by_its_folder(made):
    result = command("grade", "make", made / "rows.jsonl", "--into", made)
    assert result.exit_code == 0, result.output
    assert (made / "grading.html").is_file()
    assert (made / "grading.key.json").is_file()


def test_the_commands(made):
    sheet = make_sheet(rows(), limit=20)
    files = written(
        made, exported(sheet, "Ann", prefers("fused"), "1"), exported(sheet, "Ben", by_chance(1, SIDES), "2")
    )
    bad = made / "bad.json"
    bad.write_text("{")
    result = command("grade", "read", made / "page.key.json", *files, bad)
    assert result.exit_code == 0, result.output
    assert "Ann 20 of 20, Ben 20 of 20" in result.stdout
    assert "bad.json: it is damaged: no JSON" in result.stdout
    assert "fused - dense" in result.stdout
    (report,) = (made / "graded").iterdir()
    assert {"report.json", "report.html", "rows.jsonl", "grades.json"} <= {p.name for p in report.iterdir()}
    kept = json.loads((report / "report.json").read_text())
    assert kept["systems"]["fused"]["correct"]["value"] > 0.5
    lines = [json.loads(line) for line in (report / "rows.jsonl").read_text().splitlines()]
    assert lines[0]["grades"]["correct"]["Ann"] == "fused is better"
    told = json.loads(command("grade", "read", made / "page.key.json", *files, "--json").stdout)
    assert told["graders"] == {"Ann": 20, "Ben": 20}
    assert told["agreement"]["correct"]["ordinal"]["units"] == 20
    judged = command("grade", "read", made / "page.key.json", *files, "--judged", made / "judged.jsonl")
    assert judged.exit_code == 1
    assert "--each" in judged.output


def test_nothing_to_read(made):
    result = command("grade", "read", made / "page.key.json", made / "rows.jsonl")
    assert result.exit_code == 1
    assert "no file holds grades of this page" in result.output
    assert "Traceback" not in result.output


def test_nothing_to_grade(tmp_path):
    given = [row(s, "q1", answer="same") for s in ("dense", "fused")]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in given))
    result = command("grade", "make", tmp_path / "rows.jsonl", "--into", tmp_path / "page.html")
    assert result.exit_code == 1
    assert "nothing to grade" in result.output
    assert not (tmp_path / "page.html").exists()


def test_judged_lines_are_written(tmp_path):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows(["dense"], 4)))
    sheet = make_sheet(rows(["dense"], 4))
    write_key(tmp_path / "k.json", sheet)
    (file,) = written(tmp_path, exported(sheet, "Ann", lambda *_: 2))
    result = command("grade", "read", tmp_path / "k.json", file, "--judged", tmp_path / "judged.jsonl")
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in (tmp_path / "judged.jsonl").read_text().splitlines()]
    assert [line["correct"] for line in lines] == [1.0] * 4
