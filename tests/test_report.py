"""What a report holds, and that its page asks for nothing from outside."""

import json
import re
from datetime import UTC, datetime
from html.parser import HTMLParser

import pytest

from fieldstone.evaluate.compare import Estimate
from fieldstone.evaluate.report import Evaluation, write_report

EVALUATION = Evaluation(
    date=datetime(2026, 1, 31, 12, 0, 5, tzinfo=UTC),
    systems={
        "dense": {"recall@1": Estimate(0.66, 0.6, 0.72, 400), "seconds": Estimate(1.5, 1.2, 12.25, 400)},
        "<fused>": {"recall@1": Estimate(0.82, 0.78, 0.86, 400)},
    },
    differences={
        "<fused> - dense": {
            "recall@1": Estimate(0.16, 0.1, 0.22, 400),
            "token F1": Estimate(-0.01, -0.04, 0.02, 400),
            "MRR": Estimate(0.0, 0.0, 0.0, 400),
        }
    },
    settings={"recipe": "guide", "search": {"mode": "fused & more"}},
    notes=("12 questions could not be located.",),
    rows=[{"id": "q1", "system": "dense", "answer": "Kö"}, {"id": "q1", "system": "<fused>", "answer": ""}],
)


@pytest.fixture
def report(tmp_path):
    return write_report(tmp_path / "reports", EVALUATION)


def test_files_lie_in_a_folder_named_by_the_date(report, tmp_path):
    folder = tmp_path / "reports" / "20260131T120005Z"
    assert report == (folder / "report.json", folder / "report.html", folder / "rows.jsonl")
    assert write_report(tmp_path / "reports", EVALUATION).json.parent.name == "20260131T120005Z-2"


def test_json(report):
    content = json.loads(report.json.read_text(encoding="utf-8"))
    assert content["date"] == "2026-01-31T12:00:05+00:00"
    assert content["systems"]["dense"]["recall@1"] == {"value": 0.66, "low": 0.6, "high": 0.72, "n": 400}
    assert content["differences"]["<fused> - dense"]["MRR"]["n"] == 400
    assert content["notes"] == ["12 questions could not be located."]
    assert content["settings"]["search"] == {"mode": "fused & more"}


def test_rows(report):
    rows = [json.loads(line) for line in report.rows.read_text(encoding="utf-8").splitlines()]
    assert rows == EVALUATION.rows


class Page(HTMLParser):
    """The words of a page, and whether its tags are balanced."""

    VOID = ("meta", "line", "rect", "circle")

    def __init__(self, text):
        super().__init__()
        self.open, self.words, self.links = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.links += [value for name, value in attrs if name in ("src", "href", "srcset", "action")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def test_page_is_self_contained_and_well_formed(report):
    text = report.html.read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    assert page.links == []
    assert not re.search(r"https?:|//|@import|url\(|<script", text)
    assert "default-src 'none'" in text
    assert "prefers-color-scheme: dark" in text


def test_page_says_in_words_what_the_numbers_mean(report):
    words = " ".join(Page(report.html.read_text(encoding="utf-8")).words)
    assert "<fused> is higher" in words
    assert "within the noise; about 3,600 questions would tell" in words
    assert "no difference" in words
    assert "12 questions could not be located." in words
    assert "search.mode fused & more" in words
    assert "−0.010" in words
    assert "1.200 to 12" in words


def test_an_evaluation_without_differences_has_a_page(tmp_path):
    bare = Evaluation(EVALUATION.date, {"dense": {"recall@1": Estimate(1, 1, 1, 3)}})
    assert "Differences" not in write_report(tmp_path, bare).html.read_text(encoding="utf-8")


def test_numbers_that_are_none_are_not_written(tmp_path):
    broken = Evaluation(EVALUATION.date, {"dense": {"recall@1": Estimate(float("nan"), 0, 1, 3)}})
    with pytest.raises(ValueError):
        write_report(tmp_path, broken)
