"""The grading page in a real browser, by keyboard and by mouse; and how it looks, where a folder is named."""

import json
import os
import shutil
from pathlib import Path

import pytest

from fieldstone.evaluate.grading.grades import assess, read_grades
from fieldstone.evaluate.grading.sheet import CRITERIA, make_sheet, render_sheet
from small_library import make_library
from test_sheet import row

pytestmark = pytest.mark.slow

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no chromium")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def sheets(tmp_path_factory):
    """Name -> sheet and page: `one` answer at a time, `two` side by side; six questions each."""
    place = tmp_path_factory.mktemp("page")
    library = make_library(place)
    passage = next(p for p in library.passages() if "forty tonnes" in p.text)
    cited = [{"passage": passage.id, "quote": "Its crane lifts forty tonnes.", "verified": True}]
    given = [row(s, f"q{i}", citations=cited) for s in ("dense", "fused") for i in range(6)]
    made = {"one": make_sheet(given, ["dense"]), "two": make_sheet(given)}
    for name, sheet in made.items():
        (place / f"{name}.html").write_text(render_sheet(sheet, library), encoding="utf-8")
    library.close()
    return {name: (sheet, place / f"{name}.html") for name, sheet in made.items()}


@pytest.fixture
def context(browser):
    its = browser.new_context(accept_downloads=True)
    asked = []
    its.on("request", lambda request: asked.append(request.url))
    yield its
    assert all(url.startswith(("file:", "blob:")) for url in asked), (
        "the page asks for something from outside"
    )
    its.close()


def opened(context, path):
    page = context.new_page()
    problems = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.goto(path.as_uri())
    page.problems = problems
    return page


def begin(page, name):
    page.fill("#name", name)
    page.keyboard.press("Enter")
    page.wait_for_selector("#grading:not([hidden])")


def exported(page, folder):
    with page.expect_download() as download:
        page.click("#export")
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path


def question(page):
    return page.inner_text("#question")


def test_by_keyboard_alone(context, sheets, tmp_path):
    sheet, path = sheets["one"]
    page = opened(context, path)
    begin(page, "Ann Lee")
    wanted = {}
    for place in range(6):
        keys = ["y", "2", "n", "0"] if place % 2 else ["3", "p", "1", "0"]
        for key in keys:
            page.keyboard.press(key)
        wanted[question(page)] = [2, 1, 0, None]
        page.keyboard.press("Enter")
    assert page.inner_text("#thanks").startswith("All 6 graded")
    file = exported(page, tmp_path)
    assert file.name == "grades-ann-lee.json"
    kept = json.loads(file.read_text())
    asked = {item.id: item.rows[0]["question"] for item in sheet.items}
    assert {asked[id_]: [its[name] for name in CRITERIA] for id_, its in kept["grades"].items()} == wanted
    graders, left_out = read_grades([file], sheet)
    assert not left_out
    means = assess(sheet, graders).evaluation.systems["dense"]
    assert [means[name].value for name in ("correct", "helpful", "supported")] == [1.0, 0.5, 0.0]
    assert "harmless" not in means
    assert page.problems == []


def test_undo_back_choose_and_reveal(context, sheets):
    page = opened(context, sheets["one"][1])
    begin(page, "Ben")
    first = question(page)
    page.keyboard.press("y")
    page.keyboard.press("y")
    pressed = "fieldset:nth-child({}) button[aria-pressed=true]"
    assert page.inner_text(pressed.format(2)).startswith("yes")
    page.keyboard.press("u")
    assert page.query_selector(pressed.format(2)) is None
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("n")
    assert page.inner_text(pressed.format(4)).startswith("no")
    assert not page.is_visible("#expected > div")
    page.keyboard.press("r")
    assert page.inner_text("#expected > div") == "forty tonnes"
    page.keyboard.press("ArrowRight")
    assert question(page) != first
    page.keyboard.press("u")
    assert question(page) == first, "undo goes to where the grade was"
    page.keyboard.press("?")
    assert page.is_visible("#help")
    page.keyboard.press("y")
    page.keyboard.press("Escape")
    assert not page.is_visible("#help")
    assert page.query_selector(pressed.format(2)) is None, "behind the help no key grades"
    page.keyboard.press("c")
    page.keyboard.type("yes, no")
    page.keyboard.press("Escape")
    assert page.input_value("#remark") == "yes, no"
    assert page.query_selector(pressed.format(3)) is None, "in the remark no key grades"
    assert page.problems == []


def test_closing_loses_nothing(context, sheets, tmp_path):
    page = opened(context, sheets["one"][1])
    begin(page, "Cleo")
    order = [question(page)]
    for key in "yyyy":
        page.keyboard.press(key)
    page.keyboard.press("ArrowRight")
    order.append(question(page))
    page.keyboard.press("2")
    page.close()
    page = opened(context, sheets["one"][1])
    page.click("text=Go on as Cleo: 1 of 6 graded")
    assert question(page) == order[1]
    assert page.inner_text("#done") == "1 of 6"
    file = exported(page, tmp_path)
    page.close()
    other = context.browser.new_context()
    page = opened(other, sheets["one"][1])
    page.set_input_files("#import", sheets["one"][1])
    page.wait_for_selector("#warning:not([hidden])")
    assert "holds no exported grades" in page.inner_text("#warning")
    page.set_input_files("#import", file)
    page.wait_for_selector("#grading:not([hidden])")
    assert question(page) == order[1], "the same order on another machine"
    assert page.inner_text("#done") == "1 of 6"
    other.close()
    other = context.browser.new_context()
    page = opened(other, sheets["two"][1])
    page.set_input_files("#import", file)
    page.wait_for_selector("#warning:not([hidden])")
    assert "another page" in page.inner_text("#warning")
    other.close()


def test_side_by_side_is_unblinded(context, sheets, tmp_path):
    """Always the same system, wherever it stands, by mouse: it wins everything, and stood on both sides."""
    sheet, path = sheets["two"]
    sides = set()
    files = []
    for name in ("Ann", "Ben", "Cleo", "Dora"):
        page = opened(context, path)
        begin(page, name)
        assert "dense" not in page.inner_text("header")
        for _ in range(6):
            answers = page.query_selector_all("article .answer")
            place = next(i for i, a in enumerate(answers) if a.inner_text().startswith("fused"))
            sides.add((question(page), place))
            for i in range(len(CRITERIA)):
                page.click(f"fieldset:nth-child({i + 1}) button:nth-child({1 if place == 0 else 3})")
            page.click("#next")
        files.append(exported(page, tmp_path))
        assert page.problems == []
        page.close()
    assert 6 < len(sides) <= 12, "other graders see other sides"
    graders, left_out = read_grades(files, sheet)
    assert len(graders) == 4
    assert not left_out
    found = assess(sheet, graders)
    assert found.evaluation.systems["fused"]["helpful"].value == 1.0
    assert "same grade" in found.agreement["correct"].ordinal.in_words


@pytest.mark.parametrize("which", ["one", "two"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_sticks_out(browser, sheets, which, scheme, width):
    """Nothing is wider than the window, on a phone or a desk; FIELDSTONE_LOOK names a folder for pictures."""
    context = browser.new_context(
        viewport={"width": width, "height": 844}, color_scheme=scheme, is_mobile=width < 500
    )
    page = opened(context, Path(os.environ.get(f"FIELDSTONE_LOOK_{which.upper()}", sheets[which][1])))
    look = os.environ.get("FIELDSTONE_LOOK")

    def looked_at(part):
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        if look:
            page.screenshot(path=f"{look}/{which}-{part}-{scheme}-{width}.png", full_page=True)

    looked_at("start")
    begin(page, "Ann")
    page.keyboard.press("y" if which == "one" else "a")
    page.keyboard.press("r")
    page.wait_for_timeout(100)
    looked_at("item")
    page.keyboard.press("?")
    looked_at("help")
    context.close()
