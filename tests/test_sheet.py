"""What is put to graders: which answers, in what order, and a page that tells nothing of the systems."""

import base64
import hashlib
import json
import re
from collections import Counter

import pytest

from fieldstone.errors import GradesError
from fieldstone.evaluate.grading.sheet import (
    CRITERIA,
    make_sheet,
    read_key,
    read_rows,
    render_sheet,
    workspace_of,
    write_key,
)
from small_library import make_library


def row(system="dense", id_="q1", **changes):
    return {
        "system": system,
        "id": id_,
        "question": f"What is {id_}?",
        "answers": ["forty tonnes"],
        "source": "berths/berth-7.md",
        "relevant": [],
        "hits": [],
        "answer": f"{system} says {id_}",
        "abstained": False,
        "confidence": 0.5,
        "citations": [],
        "measures": {"F1": 0.0},
    } | changes


def rows(systems=("dense", "fused"), number=40):
    return [row(system, f"q{i}") for system in systems for i in range(number)]


def data_of(page):
    return json.loads(
        re.search(r'<script type="application/json" id="sheet">(.*?)</script>', page, re.DOTALL)[1]
    )


def test_one_system_is_graded_answer_by_answer():
    sheet = make_sheet(rows(["dense"]))
    assert not sheet.pairs
    assert [len(item.rows) for item in sheet.items] == [1] * 40


def test_two_are_compared_and_more_are_not():
    assert make_sheet(rows()).pairs
    assert not make_sheet(rows(), each=True).pairs
    assert len(make_sheet(rows(), each=True).items) == 80
    three = rows(["dense", "fused", "lexical"])
    assert len(make_sheet(three).items) == 120
    assert make_sheet(three, ["lexical", "dense"]).pairs


def test_either_system_stands_first_as_often():
    first = Counter(item.rows[0]["system"] for item in make_sheet(rows(number=400)).items)
    assert 160 < first["dense"] < 240


def test_chance_depends_on_the_seed_alone():
    assert make_sheet(rows(), limit=10) == make_sheet(rows(), limit=10)
    drawn = [{item.rows[0]["id"] for item in make_sheet(rows(), limit=10, seed=s).items} for s in (0, 1)]
    assert [len(its) for its in drawn] == [10, 10]
    assert drawn[0] != drawn[1]
    assert make_sheet(rows()).id != make_sheet(rows(), seed=1).id
    assert len(make_sheet(rows(), limit=1000).items) == 40


def test_pairs_that_say_the_same_are_not_shown():
    given = [row(s, f"q{i}", answer="alike" if i < 3 else s) for s in ("dense", "fused") for i in range(8)]
    sheet = make_sheet(given)
    assert (len(sheet.items), len(sheet.alike)) == (5, 3)
    assert "q0" not in render_sheet(sheet)


def test_the_same_id_in_two_sets_is_two_questions():
    given = [row(s, "q1", set=name) for s in ("dense", "fused") for name in ("human", "synthetic")]
    assert len({item.id for item in make_sheet(given).items}) == 2


def test_unknown_systems_are_refused():
    with pytest.raises(GradesError, match=r"'bm25'.*dense, fused"):
        make_sheet(rows(), ["bm25"])
    with pytest.raises(GradesError, match="asked of all of"):
        make_sheet([row("dense", "q1"), row("fused", "q2")])


def test_rows_are_found(tmp_path):
    library = make_library(tmp_path)
    report = tmp_path / "reports" / "20260101T000000Z"
    report.mkdir(parents=True)
    text = "".join(json.dumps(r) + "\n" for r in [*rows(), {"system": "lexical", "id": "q1", "hits": []}])
    (report / "rows.jsonl").write_text(text)
    newer = tmp_path / "reports" / "20260202T000000Z"
    newer.mkdir()
    (newer / "rows.jsonl").write_text('{"system": "lexical", "id": "q1", "hits": []}\n')
    for path in (tmp_path, report, report / "rows.jsonl", report / "report.json", report / "report.html"):
        assert read_rows(path) == rows()
        assert workspace_of(path) == tmp_path
    with pytest.raises(GradesError, match="no answers"):
        read_rows(newer)
    library.close()


@pytest.mark.parametrize(
    "text",
    ["{", "[1]", '"answer"', '{"answer": "x"}', json.dumps(row(citations=[1])), json.dumps(row(answers="a"))],
)
def test_damaged_rows_are_refused(tmp_path, text):
    (tmp_path / "rows.jsonl").write_text(text)
    with pytest.raises(GradesError, match=r"rows\.jsonl"):
        read_rows(tmp_path)
    with pytest.raises(GradesError, match="cannot be read"):
        read_rows(tmp_path / "nothing.jsonl")


def test_the_key_comes_back_and_is_not_lost(tmp_path):
    sheet, path = make_sheet(rows()), tmp_path / "page.key.json"
    write_key(path, sheet)
    assert read_key(path) == sheet
    write_key(path, sheet)
    with pytest.raises(GradesError, match="name another page"):
        write_key(path, make_sheet(rows(), limit=3))
    for text in ("", "{}", '{"fieldstone": "grading key"}', "[]", "\x00"):
        path.write_text(text)
        with pytest.raises(GradesError, match="no key"):
            read_key(path)


def test_the_page_names_no_system_and_asks_for_nothing(tmp_path):
    library = make_library(tmp_path)
    passage = next(p for p in library.passages() if "forty tonnes" in p.text)
    cited = [{"passage": passage.id, "quote": "Its  crane lifts\nforty tonnes.", "verified": True}]
    gone = [{"passage": "nowhere", "quote": "lost", "verified": True}]
    invented = [{"passage": passage.id, "quote": "It flies.", "verified": False}]
    given = [
        row("SECRET-A", "q1", answer="</script><b>&", citations=cited),
        row("SECRET-B", "q1", answer="other", citations=[*gone, *invented]),
    ]
    sheet = make_sheet(given)
    page = render_sheet(sheet, library)
    assert "SECRET" not in page
    assert "http:" not in page
    assert "https:" not in page
    data = data_of(page)
    answers = {answer["text"]: answer["cited"] for answer in data["items"][0]["answers"]}
    (held,) = answers["</script><b>&"]
    assert held["place"].startswith("berths/berth-7.md")
    assert [text for text, quoted in held["pieces"] if quoted] == ["Its crane lifts forty tonnes."]
    assert "".join(text for text, _ in held["pieces"]) == passage.text
    lost, made_up = answers["other"]
    assert lost == {"place": "", "quote": "lost", "pieces": []}
    assert [quoted for _, quoted in made_up["pieces"]] == [False]
    assert [name for name, _ in data["criteria"]] == list(CRITERIA)
    library.close()


def test_the_policy_lets_only_the_pages_own_script_run():
    page = render_sheet(make_sheet(rows()))
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    for kind, tag in (("script", "<script>"), ("style", "<style>")):
        (text,) = re.findall(f"{tag}(.*?)</{kind}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert " style=" not in page
    assert " onclick=" not in page
