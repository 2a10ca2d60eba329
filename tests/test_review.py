"""The review: what is on the page, what comes back from it, and that nothing else is learnt."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from fieldstone.cli.app import app
from fieldstone.errors import FeedbackError
from fieldstone.feedback import Given, feedback_examples, keep_answers, keep_said, now, read_entries, said
from fieldstone.records import Citation
from fieldstone.serve.review import (
    Decision,
    Decisions,
    read_decisions,
    render_review,
    take_decisions,
    to_review,
)
from fieldstone.workspace import Workspace
from small_library import TEXTS, make_library

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
GOOD, BAD, REFUSED, FAILED = "good bad refused failed".split()  # noqa: SIM905


@pytest.fixture
def library(tmp_path):
    """Four answers about berth 7 and its neighbour, with what was said of them."""
    library = make_library(tmp_path / "w")
    by_text = {p.text: p for p in library.passages()}
    seven, eight = by_text[TEXTS["berths/berth-7.md"]], by_text[TEXTS["berths/berth-8.md"]]

    def given(id_, question, text, passage, verified=True, **more):
        at = passage.text.index(text) if text in passage.text else 0
        cited = Citation(passage.id, text, passage.start + at, passage.start + at + len(text), verified)
        found = (passage.id, *(p.id for p in library.passages() if p is not passage))
        whole = Given(id_, now(), "w", question, question, text, False, 0.5, (cited,), found)
        return replace(whole, **more)

    keep_answers(
        library,
        [
            given(GOOD, "What does the crane lift?", "forty tonnes", seven),
            given(
                BAD, "What is the draught?", "forty tonnes", seven, asked="What is the draught at berth 7?"
            ),
            given(
                REFUSED, "<b>Who paints</b> </script> it?", "not there", seven, citations=(), abstained=True
            ),
            given(FAILED, "When is berth 8 closed?", "in the winter", eight, verified=False),
        ],
        10,
    )
    keep_said(library, GOOD, said(True, who="ann"))
    keep_said(library, BAD, said(False, "9.5 m", "that is the crane", "ben"))
    yield library
    library.close()


def passage(library, words):
    return next(p.id for p in library.passages() if words in p.text)


def decisions(library, its):
    return Decisions("review", 1, library.id, "Eve", "", its)


def test_the_page_shows_what_is_open(library):
    entries = to_review(library)
    assert [entry.given.id for entry in entries] == [BAD, GOOD, FAILED, REFUSED]
    page = render_review(library, entries, "w")
    assert "http" not in re.sub(r"http-equiv", "", page), "it asks for nothing from outside"
    data = re.search(r'<script type="application/json" id="sheet">(.*?)</script>', page, re.DOTALL)[1]
    items = {item["id"]: item for item in json.loads(data)["items"]}
    assert items[REFUSED]["question"] == "<b>Who paints</b> </script> it?"
    assert items[BAD]["asked"] == "What is the draught at berth 7?"
    assert items[BAD]["said"] == [False, "9.5 m", "that is the crane", "ben"]
    assert items[BAD]["proposed"] == ["9.5 m", passage(library, "9.5 m")]
    assert {id_: its["clear"] for id_, its in items.items()} == {
        GOOD: True, BAD: True, REFUSED: False, FAILED: False
    }  # fmt: skip
    assert {id_: its["why"].split()[0] for id_, its in items.items()} == {
        GOOD: "thumbs", BAD: "corrected", REFUSED: "not", FAILED: "the"
    }  # fmt: skip
    assert ["forty tonnes", True] in items[GOOD]["passages"][0]["pieces"]


def test_decisions_are_taken_in_once_and_all(library):
    made = {
        GOOD: Decision(True, "forty tonnes", passage(library, "forty")),
        BAD: Decision(True, "9.5 m draught", passage(library, "9.5 m")),
        REFUSED: Decision(True, "", None),
        FAILED: Decision(False),
    }
    for _ in range(2):
        taken = take_decisions(library, decisions(library, made))
        assert (taken.accepted, taken.corrected, taken.discarded, taken.left_out) == (2, 1, 1, ())
    assert to_review(library) == []
    assert {e.review.who for e in read_entries(library)} == {"Eve"}
    assert {e.question: (e.answer, e.kind) for e in feedback_examples(library)} == {
        "What does the crane lift?": ("forty tonnes", "answerable"),
        "What is the draught at berth 7?": ("9.5 m draught", "answerable"),
        "<b>Who paints</b> </script> it?": ("", "unanswerable"),
    }


def test_what_cannot_be_is_left_out_with_its_reason(library):
    made = {
        "gone": Decision(True, "x", passage(library, "forty")),
        GOOD: Decision(True, "forty tonnes", None),
        BAD: Decision(True, "9.5 m", "0" * 16),
        FAILED: Decision(True, "x" * 5000, passage(library, "winter")),
        REFUSED: Decision(False),
    }
    taken = take_decisions(library, decisions(library, made))
    assert (taken.accepted, taken.corrected, taken.discarded) == (0, 0, 1)
    reasons = dict(taken.left_out)
    assert "not kept any more" in reasons["gone"]
    assert "no passage was chosen" in reasons["What does the crane lift?"]
    assert "document was changed" in reasons["What is the draught?"]
    assert "5,000 characters" in reasons["When is berth 8 closed?"]
    assert len(to_review(library)) == 3
    with pytest.raises(FeedbackError, match="another library"):
        take_decisions(library, replace(decisions(library, made), library="other"))


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"\xff", b"[1]", b'{"fieldstone": "grades", "version": 1, "library": "", "reviewer": ""}',
     b'{"fieldstone": "review", "version": 1, "library": "", "reviewer": "", "decisions": {"a": {}}}'],
)  # fmt: skip
def test_another_file_is_refused(tmp_path, content):
    (tmp_path / "file.json").write_bytes(content)
    with pytest.raises(FeedbackError, match="holds no decisions of a review page"):
        read_decisions(tmp_path / "file.json")
    with pytest.raises(FeedbackError, match="cannot be read"):
        read_decisions(tmp_path / "nothing.json")


def test_the_command(library, tmp_path):
    run = CliRunner().invoke
    home, page = str(tmp_path / "w"), tmp_path / "pages" / "review.html"
    shown = run(app, ["review", home, "--into", str(page)])
    assert "4 answers to review" in shown.output
    assert page.read_text().startswith("<!doctype html>")
    exported = tmp_path / "review-eve.json"
    exported.write_text(
        json.dumps(
            {
                "fieldstone": "review", "version": 1, "library": library.id, "reviewer": "Eve",
                "decisions": {id_: {"take": False} for id_ in (GOOD, BAD, REFUSED)}
                | {FAILED: {"take": True, "answer": "in winter", "passage": passage(library, "winter")}},
            }
        )
    )  # fmt: skip
    assert (
        "4 decisions taken in: 0 accepted, 1 corrected, 3 thrown away"
        in run(app, ["review", home, "--read", str(exported)]).output
    )
    assert "nothing to review" in run(app, ["review", home]).output
    assert run(app, ["review", home, "--json"]).output.strip().startswith("{")
    refused = run(app, ["review", home, "--read", str(page)])
    assert refused.exit_code == 1
    assert "holds no decisions" in refused.stderr
    workspace = Workspace(tmp_path / "w")
    assert [e.answer for e in feedback_examples(workspace.library())] == ["in winter"]
    keep_answers(library, [replace(read_entries(library)[0].given, id="new")], 10)
    (tmp_path / "file").write_text("")
    unwritten = run(app, ["review", home, "--into", str(tmp_path / "file" / "review.html")])
    assert "cannot be written" in unwritten.stderr


@pytest.mark.slow
def test_the_page_in_a_browser(library, tmp_path):
    """By mouse and keyboard: take, correct, throw away, close, go on, export, read in; on a phone too."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no chromium")
    path = tmp_path / "review.html"
    path.write_text(render_review(library, to_review(library), "w"), encoding="utf-8")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        context = browser.new_context(accept_downloads=True, viewport={"width": 390, "height": 844})
        problems, asked = [], []
        context.on("request", lambda request: asked.append(request.url))

        def opened():
            page = context.new_page()
            page.on("pageerror", lambda error: problems.append(str(error)))
            page.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
            page.goto(path.as_uri())
            return page

        page = opened()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        cards = page.locator("article")
        assert cards.count() == 4
        page.click("text=Take the 2 that are clear")
        assert page.inner_text("#done") == "2 of 4"
        failed = cards.nth(2)
        assert "When is berth 8 closed?" in failed.inner_text()
        failed.locator("textarea").fill("in winter")
        failed.get_by_role("button", name="Take").click()
        refused = cards.nth(3)
        refused.get_by_role("button", name="Take").click()
        assert refused.locator(".doubt").inner_text() == "Say which passage the answer stands in."
        refused.locator("label", has_text="nowhere").click()
        refused.get_by_role("button", name="Take").press("Enter")
        cards.nth(1).get_by_role("button", name="Throw away").click()
        cards.nth(0).get_by_label("The right answer").fill("")
        assert page.inner_text("#done") == "3 of 4", "an answer that was emptied is open again"
        cards.nth(0).get_by_label("The right answer").fill("9.5 m")
        cards.nth(0).get_by_label("Understood as").fill("What draught has berth 7?")
        cards.nth(0).get_by_role("button", name="Take").click()
        page.click("#export")
        assert page.inner_text("#warning").startswith("Say who you are")
        page.keyboard.type("Eve Lee")
        if look := os.environ.get("FIELDSTONE_LOOK"):
            page.screenshot(path=f"{look}/review-390.png", full_page=True)
            wide = browser.new_context(
                viewport={"width": 1280, "height": 900}, color_scheme="dark"
            ).new_page()
            wide.goto(path.as_uri())
            wide.screenshot(path=f"{look}/review-1280-dark.png", full_page=True)
        page.close()
        page = opened()
        assert page.inner_text("#done") == "4 of 4", "closing loses nothing"
        with page.expect_download() as download:
            page.click("#export")
        file = tmp_path / download.value.suggested_filename
        download.value.save_as(file)
        assert problems == []
        assert all(url.startswith(("file:", "blob:")) for url in asked)
        browser.close()
    assert file.name == "review-eve-lee.json"
    taken = take_decisions(library, read_decisions(file))
    assert (taken.accepted, taken.corrected, taken.discarded, taken.left_out) == (1, 2, 1, ())
    assert {e.question: e.answer for e in feedback_examples(library)} == {
        "What draught has berth 7?": "9.5 m",
        "When is berth 8 closed?": "in winter",
        "<b>Who paints</b> </script> it?": "",
    }
