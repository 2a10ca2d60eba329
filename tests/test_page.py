"""The page that a server shows, in a real browser before a real server with fake models.

FIELDSTONE_LOOK names a folder for pictures of it.
"""

import os
import re
import shutil
import threading
from contextlib import contextmanager

import httpx
import pytest

from fieldstone.serve import keys
from serving import GENERATOR, running, workspace_of

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
CRANE = "Which crane lifts forty tonnes?"
NOT_THERE = "...?!"
LOG = "\n".join(f"Day {day}: wind, rain and a grey sea." for day in range(2000))
LOG = LOG.replace("Day 1000:", "Day 1000: a whale at the mole,")
TEXTS = {
    "berths/berth-7.md": "Berth 7 takes ships of 9.5 m draught. Its crane lifts forty tonnes.",
    "berths/berth-8.md": "Berth 8 is closed in winter. It has no crane.",
    "tariffs/2025.txt": "A day at the quay costs 135 crowns. Fishing boats pay a third.",
    "notices/🚢.txt": "🚢🚢 Notice. <img src=x onerror=alert(1)> The pilot boards at Knoll Light. 🚢 End.",
}
WATCHED = {"encoder": "watched:words", "generator": "watched:words"}
TWO_CITATIONS = """async () => {
    const { post } = await import("/page/api.js");
    const { sourceOf } = await import("/page/found.js");
    const { openSource } = await import("/page/source.js");
    const found = ["ferry to Gull Island", "whale at the mole"].map(async (question) => {
        const { hits } = await post("api/search", { question, workspace: "island", k: 1 });
        return sourceOf(hits[0]);
    });
    const [first, second] = await Promise.all(found);
    openSource([{ ...first, document_id: null, verified: false }, second], 0, "island", null);
}"""
DROPPED = """() => {
    const dropped = new DataTransfer();
    dropped.items.add(new File(["The buoy off Grey Head is red."], "buoy.txt"));
    return dropped;
}"""
COUNT_PIECES = """() => {
    window.pieces = 0;
    const count = ({ target }) => target.className === "answer" && (pieces += 1);
    const observer = new MutationObserver((changes) => changes.forEach(count));
    observer.observe(document.body, { subtree: true, childList: true });
}"""


@pytest.fixture(scope="module")
def harbour(tmp_path_factory):
    path = tmp_path_factory.mktemp("page")
    ferry = "The ferry to Gull Island sails at noon."
    island = workspace_of(path / "island", {"ferry.md": ferry, "log.txt": LOG})
    with running(workspace_of(path / "harbour", TEXTS), island) as address:
        yield address


def test_the_files_of_the_page(harbour):
    with httpx.Client(base_url=harbour) as client:
        page = client.get("/")
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert "default-src 'self'" in page.headers["content-security-policy"]
        assert "unsafe" not in page.headers["content-security-policy"]
        named = re.findall(r'(?:src|href)="(page/[^"]+)"', page.text)
        imported = {
            f"page/{name}" for name in re.findall(r'from "\./(.+?)"', client.get("/page/ask.js").text)
        }
        assert {"page/app.js", "page/style.css", "page/icon.svg"} <= set(named)
        assert "page/api.js" in imported
        for path in {*named, *imported}:
            got = client.get(path)
            assert got.headers["content-type"].split(";")[0] in (
                "text/javascript",
                "text/css",
                "image/svg+xml",
            )
            assert got.headers["cache-control"] == "no-cache"
            again = client.get(path, headers={"If-None-Match": got.headers["etag"]})
            assert (again.status_code, again.content) == (304, b"")
            assert client.head(path).status_code == 200
        assert client.get("/page/__init__.py").status_code == 404
        assert client.get("/page/..%2F..%2Fapp.py").status_code == 404
        assert not re.search(r"<script(?! type=\"module\" src=)|<style|\son\w+=|style=", page.text), (
            "inline code"
        )


# -- in a browser

slow = pytest.mark.slow


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no chromium")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@contextmanager
def opened(browser, address, at="", allowed=(), **how):
    """The page in a browser of its own. It asks no other host, and complains of what is allowed alone."""
    how = {"viewport": {"width": 1280, "height": 844}, "reduced_motion": "reduce"} | how
    context = browser.new_context(**how)
    page = context.new_page()
    asked, problems = [], []
    context.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda told: problems.append(told.text))
    page.on("dialog", lambda dialog: problems.append(dialog.message))
    page.goto(f"{address}/{at}")
    page.set_default_timeout(15_000)
    yield page
    assert asked
    assert [url for url in asked if not url.startswith(f"{address}/")] == [], "another host is asked"
    assert [p for p in problems if not any(its in p for its in allowed)] == []
    context.close()


def ask(page, question):
    page.fill("#question", question)
    page.keyboard.press("Enter")
    page.wait_for_selector(f"article:last-child:has-text('{question}') .reply[aria-busy=false]")


def last(part):
    return f"article:last-child {part}"


@slow
def test_an_answer_and_its_source(browser, harbour):
    with opened(browser, harbour) as page:
        page.wait_for_selector("#question:focus")
        ask(page, CRANE)
        assert page.inner_text(last(".answer")) == "Its crane lifts forty tonnes [1]"
        assert page.is_hidden(last(".asked"))
        assert page.is_hidden(last(".none"))
        page.wait_for_selector("#text mark")
        assert page.evaluate("document.activeElement.id") == "question", "what opens by itself takes no focus"
        page.keyboard.press("Escape")
        assert page.is_hidden("#source")
        page.focus(last(".chip"))
        page.keyboard.press("Enter")
        page.wait_for_selector("#text mark")
        assert page.inner_text("#text mark") == "Its crane lifts forty tonnes."
        assert page.inner_text("#text") == TEXTS["berths/berth-7.md"]
        assert page.inner_text("#source-title") == "berths/berth-7.md"
        assert page.evaluate("document.activeElement.id") == "source-title"
        page.keyboard.press("Escape")
        assert page.is_hidden("#source")
        page.wait_for_selector(last(".chip:focus"))
        page.keyboard.press("/")
        assert page.evaluate("document.activeElement.id") == "question"
        page.keyboard.press("Escape")
        page.keyboard.press("?")
        assert page.is_visible("#help")
        page.keyboard.press("Escape")
        assert page.is_hidden("#help")


@slow
def test_what_is_found_and_why(browser, harbour):
    with opened(browser, harbour) as page:
        ask(page, CRANE)
        page.click(last("summary"))
        first = page.locator(last(".found .hits > li")).first
        assert "berths/berth-7.md" in first.inner_text()
        assert "cited as 1" in first.inner_text()
        scores = first.locator(".scores li").all_inner_texts()
        assert [its.split()[0] for its in scores] == ["lexical", "dense", "fused", "likelihood"]
        first.locator(".place").click()
        page.wait_for_selector("#text mark")
        assert page.inner_text("#text mark") == TEXTS["berths/berth-7.md"], "of a passage all is marked"


@slow
def test_a_long_document_and_steps_between_citations(browser, harbour):
    with opened(browser, harbour) as page:
        page.select_option("#workspace", "island")
        ask(page, "On which day was a whale at the mole?")
        page.wait_for_selector("#text mark")
        assert "whale" in page.inner_text("#text mark")
        top = page.evaluate("document.querySelector('#text mark').getBoundingClientRect().top")
        assert 100 < top < 700, "the mark is in sight"
        assert "Day 1:" not in page.inner_text("#text")
        for part, line in (("before", "Day 1:"), ("follows", "Day 1999:")):
            for _ in range(3):
                if (more := page.locator(f"#text button:has-text('{part}')")).is_visible():
                    more.click()
            assert line in page.inner_text("#text")
            assert more.is_hidden()
        assert page.inner_text("#text p") == LOG
        page.evaluate(TWO_CITATIONS)
        page.wait_for_selector("#text mark:has-text('ferry')")
        assert page.inner_text("#which") == "1 of 2"
        assert "word for word" in page.inner_text("#doubt")
        page.keyboard.press("ArrowRight")
        page.wait_for_selector("#text mark:has-text('whale')")
        assert page.inner_text("#which") == "2 of 2"
        assert page.is_hidden("#doubt")
        page.keyboard.press("ArrowRight")
        assert page.inner_text("#which") == "2 of 2"
        page.keyboard.press("ArrowLeft")
        page.wait_for_selector("#text mark:has-text('ferry')")


@slow
def test_text_of_documents_is_text(browser, harbour):
    """Neither a tag nor an emoji, which JavaScript counts as two, leads the page astray."""
    with opened(browser, harbour, allowed=["TrustedHTML"]) as page:
        ask(page, "Where does the pilot board?")
        page.click(last(".chip"))
        page.wait_for_selector("#text mark")
        assert page.inner_text("#text") == TEXTS["notices/🚢.txt"]
        assert "The pilot boards at Knoll Light." in page.inner_text("#text mark")
        assert not page.inner_text("#text mark").startswith("🚢")
        assert page.query_selector("#text img") is None
        refused = "() => { try { document.body.innerHTML = '<b>x</b>'; return false } catch { return true } }"
        assert page.evaluate(refused), "the browser itself takes no text for HTML"


@slow
def test_not_in_the_documents(browser, harbour):
    with opened(browser, harbour) as page:
        ask(page, NOT_THERE)
        assert page.inner_text(last(".none h3")) == "Not in your documents"
        assert page.is_hidden(last(".answer"))
        assert page.query_selector(last(".chip")) is None


@slow
def test_what_people_say_of_an_answer(browser, tmp_path):
    def kept(address):
        return httpx.get(f"{address}/api/feedback").text

    with running(workspace_of(tmp_path / "said", TEXTS)) as address, opened(browser, address) as page:
        ask(page, CRANE)
        page.click(last(".good"))
        page.wait_for_selector(last(".good[aria-pressed=true]"))
        assert CRANE in kept(address)
        page.click(last(".bad"))
        page.wait_for_selector(last(".bad[aria-pressed=true]"))
        page.fill(last(".correct textarea"), "the crane of berth 7")
        page.click(last(".correct .go"))
        page.wait_for_selector(last(".correct"), state="hidden")
        assert "the crane of berth 7" in kept(address)
        ask(page, NOT_THERE)
        page.click(last(".expect"))
        assert page.inner_text(last(".correct label span")) == "Which answer did you expect?"
        page.fill(last(".correct textarea"), "it stands elsewhere")
        page.click(last(".correct .go"))
        page.wait_for_selector(last(".correct"), state="hidden")
        assert "it stands elsewhere" in kept(address)


@slow
def test_a_conversation(browser, harbour):
    with opened(browser, harbour) as page:
        ask(page, "What is the draught at berth 7?")
        ask(page, "And berth 8?")
        assert page.inner_text(last(".asked")) == "Understood as: What is the draught at berth 8?"
        page.select_option("#workspace", "island")
        assert page.query_selector("article") is None, "each workspace has its conversation"
        ask(page, "When does the ferry sail?")
        assert "ferry.md" in page.inner_text(last(".cited"))
        page.select_option("#workspace", "harbour")
        assert page.locator("article").count() == 2
        page.click("#new")
        assert page.query_selector("article") is None
        ask(page, "And berth 8?")
        assert page.is_hidden(last(".asked")), "nothing came before"


@slow
def test_a_text_that_comes_in_pieces_and_is_stopped(browser, tmp_path):
    workspace = workspace_of(tmp_path / "long", TEXTS, generator="watched:long", search={"rerank": "none"})
    with running(workspace) as address, opened(browser, address) as page:
        page.evaluate(COUNT_PIECES)
        GENERATOR.hold()
        page.fill("#question", CRANE)
        page.keyboard.press("Enter")
        page.wait_for_selector(last(".hits > li"), state="attached")
        assert page.inner_text(last(".doing")) == "Reading what was found…"
        assert page.inner_text("#send") == "Stop"
        page.click("#send")
        page.wait_for_selector(last(".failed:has-text('Stopped')"))
        GENERATOR.go()
        page.click(last(".failed button"))
        page.wait_for_selector(last(".chip"))
        assert page.inner_text(last(".answer")).startswith("Its crane lifts forty tonnes")
        assert page.is_hidden(last(".failed"))
        assert page.locator("article").count() == 1
        assert page.evaluate("pieces") > 1


@slow
def test_questions_and_searches_are_limited(browser, harbour):
    price = "What does a day at the quay cost?"
    with opened(browser, harbour, allowed=["400"]) as page:
        button, panel = page.locator("#composer .filtering"), page.locator("#composer-filter")
        assert panel.is_hidden()
        page.focus("#question")
        page.keyboard.type(price)
        for key in ("Tab", "Tab", "Enter"):
            page.keyboard.press(key)
        assert button.get_attribute("aria-expanded") == "true"
        page.keyboard.type("berths/*")
        page.keyboard.press("Enter")
        page.wait_for_selector("article:last-child .reply[aria-busy=false]")
        assert page.inner_text(last(".only")) == "Limited to berths/*"
        assert "tariffs" not in page.inner_html(last(".found"))
        assert "berths/berth-7.md" in page.inner_html(last(".found"))
        page.focus("#composer-filter input")
        page.keyboard.press("Escape")
        assert panel.is_hidden()
        assert page.evaluate("document.activeElement.className") == "plain filtering"
        assert button.inner_text() == "Filter: berths/*"
        page.select_option("#workspace", "island")
        assert button.inner_text() == "Filter"
        page.select_option("#workspace", "harbour")
        page.click("nav a >> text=Documents")
        assert page.inner_text("#search .filtering") == "Filter: berths/*"
        page.fill("#words", price)
        page.keyboard.press("Enter")
        page.wait_for_selector("#passages li:has-text('berths/berth-8.md')")
        assert page.locator("#passages li").filter(has_text="tariffs").count() == 0
        page.click("#search .filtering")
        page.fill("#search-filter [name=since]", "May")
        page.keyboard.press("Enter")
        page.wait_for_selector("#warning:has-text('May')")
        page.click("#search-filter button")
        page.fill("#words", price)
        page.keyboard.press("Enter")
        page.wait_for_selector("#passages li:has-text('tariffs/2025.txt')")
        page.click("nav a >> text=Ask")
        ask(page, price)
        assert page.is_hidden(last(".only"))
        assert "tariffs/2025.txt" in page.inner_html(last(".found"))


@slow
def test_too_much_to_do(browser, tmp_path):
    """The page says how long to wait, and asks again when told to."""
    workspace = workspace_of(tmp_path / "busy", TEXTS, **WATCHED, serve={"queue": 1, "batch": 1})
    with running(workspace) as address, opened(browser, address, allowed=["429"]) as page:
        GENERATOR.hold()

        def asks():
            httpx.post(f"{address}/api/ask", json={"question": CRANE}, timeout=30)

        waiting = [threading.Thread(target=asks) for _ in range(2)]
        waiting[0].start()
        assert GENERATOR.reached.wait(10)
        waiting[1].start()
        with httpx.Client(base_url=address) as client:
            while 'kind="answers",workspace="busy"} 1.0' not in client.get("/metrics").text:
                pass
        ask(page, CRANE)
        assert re.search(
            r"requests are waiting already; ask again in \d+ s\.$", page.inner_text(last(".failed p"))
        )
        assert re.match(r"Ask again in \d+ s$", page.inner_text(last(".failed button")))
        assert page.is_disabled(last(".failed button"))
        GENERATOR.go()
        for thread in waiting:
            thread.join()
        page.click(last(".failed button"))
        page.wait_for_selector(last(".chip"))


@slow
def test_a_server_that_is_gone(browser, tmp_path):
    with running(workspace_of(tmp_path / "gone", TEXTS)) as address:
        opening = opened(browser, address, allowed=["ERR_CONNECTION_REFUSED"])
        page = opening.__enter__()
    ask(page, CRANE)
    assert "See whether fieldstone serve still runs" in page.inner_text(last(".failed p"))
    opening.__exit__(None, None, None)


@slow
def test_a_key_is_asked_for(browser, tmp_path):
    file = tmp_path / "keys.json"
    keys.make_key(file, "other", ("elsewhere",))
    token = keys.make_key(file, "reader", ("locked",))
    workspace = workspace_of(tmp_path / "locked", TEXTS)
    served = running(workspace, access=keys.Keys(file))
    with served as address, opened(browser, address, allowed=["401", "403"]) as page:
        page.wait_for_selector("#key[open]")
        page.keyboard.type("no such key")
        page.keyboard.press("Enter")
        page.wait_for_selector("#key[open] :text('does not accept')")
        page.fill("#key-field", token)
        page.keyboard.press("Enter")
        page.wait_for_selector("body.ready")
        ask(page, CRANE)
        assert page.locator(last(".chip")).count() == 1
        page.reload()
        page.wait_for_selector("body.ready")
        assert page.is_hidden("#key"), "the tab keeps the key"
        assert page.evaluate("localStorage.length") == 0
        page.click("nav a >> text=Documents")
        page.wait_for_selector("#list tbody tr")
        page.set_input_files("#files", {"name": "new.txt", "mimeType": "text/plain", "buffer": b"New."})
        page.wait_for_selector("#uploads .problem:has-text('may only read')")


@slow
def test_documents_are_added_searched_and_removed(browser, tmp_path):
    served = running(workspace_of(tmp_path / "own", TEXTS))
    with served as address, opened(browser, address, "#documents", allowed=["400"]) as page:
        page.wait_for_selector("#list tbody tr")
        assert page.locator("#list tbody tr").count() == len(TEXTS)
        lines = "The lamp of Grey Head is lit at six. " * 40
        page.set_input_files(
            "#files",
            [
                {"name": "lamp.txt", "mimeType": "text/plain", "buffer": lines.encode()},
                {"name": ".hidden", "mimeType": "text/plain", "buffer": b"no"},
                {"name": "broken.pdf", "mimeType": "application/pdf", "buffer": b"%PDF-1.4 nothing"},
            ],
        )
        page.wait_for_selector("#uploads li:has-text('lamp.txt') >> text=can be asked about")
        page.wait_for_selector("#uploads li:has-text('broken.pdf') >> text=could not be read")
        assert "cannot be kept" in page.inner_text("#uploads li:has-text('.hidden')")
        page.wait_for_selector("#list tr.unread:has-text('broken.pdf')")
        page.dispatch_event("#documents", "drop", {"dataTransfer": page.evaluate_handle(DROPPED)})
        page.wait_for_selector("#uploads li:has-text('buoy.txt') >> text=can be asked about")
        page.fill("#words", "lamp of Grey Head")
        page.keyboard.press("Enter")
        page.wait_for_selector("#passages li:has-text('uploads/lamp.txt')")
        page.locator("#passages .place").first.click()
        page.wait_for_selector("#text mark")
        page.click("#cleared")
        remove = page.locator("button[aria-label='Remove uploads/lamp.txt']")
        remove.click()
        page.click("#sure button:has-text('Keep it')")
        assert remove.is_visible()
        remove.click()
        page.click("#sure .danger")
        remove.wait_for(state="detached")
        assert httpx.get(f"{address}/api/documents").text.count("lamp.txt") == 0
        page.click("nav a >> text=Ask")
        ask(page, "When is the lamp of Grey Head lit?")
        assert "lamp.txt" not in page.inner_text(last(".found"))


@slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_sticks_out(browser, harbour, scheme, width):
    look = os.environ.get("FIELDSTONE_LOOK")
    phone = width < 500
    how = {"color_scheme": scheme, "is_mobile": phone, "has_touch": phone}
    with opened(browser, harbour, viewport={"width": width, "height": 844}, **how) as page:

        def looked_at(part):
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            if look:
                page.screenshot(path=f"{look}/{part}-{scheme}-{width}.png")

        looked_at("start")
        page.click("#composer .filtering")
        page.fill("#composer-filter [name=source]", "berths/*")
        looked_at("filter")
        page.click("#composer .filtering")
        ask(page, CRANE)
        looked_at("answer")
        page.click(last(".chip"))
        page.wait_for_selector("#text mark")
        assert page.locator("#source").evaluate("its => its.matches(':modal')") == phone
        looked_at("source")
        page.set_viewport_size({"width": 1280 if phone else 390, "height": 844})
        page.wait_for_selector("#source:not(:modal) mark" if phone else "#source:modal mark")
        page.set_viewport_size({"width": width, "height": 844})
        page.wait_for_selector("#source:modal mark" if phone else "#source:not(:modal) mark")
        page.keyboard.press("Escape")
        page.click(last("summary"))
        looked_at("found")
        ask(page, NOT_THERE)
        looked_at("none")
        page.click("nav a >> text=Documents")
        page.wait_for_selector("#list tbody tr")
        looked_at("documents")
        page.locator("#list button").first.click()
        looked_at("sure")
