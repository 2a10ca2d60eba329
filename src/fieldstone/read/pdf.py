"""PDF, by way of pdfium: text a page in the order of the page, hyphens joined, running heads left out."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import pypdfium2
import pypdfium2.raw

from fieldstone.errors import ReadError
from fieldstone.read.archives import ENCRYPTED
from fieldstone.read.draft import Draft, one_line, title_from
from fieldstone.read.file import warn
from fieldstone.records import Document

_HYPHEN = "\ufffe"  # what pdfium writes for a hyphen that breaks a word at the end of a line
_BROKEN = re.compile(rf"([^\W\d_]+){_HYPHEN}([^\W\d_]+)")
_ITEM = re.compile(r"(?:[-–•▪◦‣∙*·]|\(?\d{1,3}[.)]|\(?[a-z][.)]|\[\d+\]|\d+(?:\.\d+)+)\s")
_JUNK_TITLE = re.compile(r"untitled|microsoft |\.(?:docx?|dvi|tex|pdf|indd|qxd|ps|pptx?|xlsx?)\b|^\W*$", re.I)
_EDGE_LINES = 2
_MAX_BOOKMARKS = 10_000


def read_pdf(data: bytes, source: str) -> list[Document]:
    """One document a file, with its pages; bookmarks are its headings."""
    try:
        pdf = pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        if getattr(error, "err_code", None) == pypdfium2.raw.FPDF_ERR_PASSWORD:
            raise ReadError(source, ENCRYPTED) from error
        raise ReadError(source, f"damaged: {error}") from error
    with pdf:
        read = [_page_lines(pdf, index) for index in range(len(pdf))]
        pages = [lines or [] for lines in read]
        if all(lines is None for lines in read):
            raise ReadError(source, f"damaged: none of its {len(pages)} pages can be read")
        if not any(pages):
            raise ReadError(
                source, f"no text on any of its {len(pages)} pages: a scan? run OCR over it first"
            )
        if pictures := [number for number, lines in enumerate(pages, 1) if not lines]:
            warn(f"no text on {len(pictures)} of {len(pages)} pages, the first of them page {pictures[0]}")
        bookmarks = _bookmarks(pdf)
        about = {key: value for key, value in pdf.get_metadata_dict().items() if value}
    whole = "\n".join(line for lines in pages for line in lines).lower()
    words = Counter(re.findall(r"[^\W\d_]+(?:-[^\W\d_]+)*", whole))
    draft = Draft()
    starts: list[tuple[int, str]] = []  # of each page: the offset, the text
    for lines in _without_running_heads(pages):
        draft.page()
        text = _joined(_reflowed(lines), words)
        starts.append((draft.add(text), text))
    after = dict.fromkeys(range(len(starts)), 0)  # on a page, bookmarks come in the order of its text
    for level, title, page in bookmarks:
        if page in after:
            start, text = starts[page]
            place = _place(title, text, after[page])
            draft.mark(level, title, start + place)
            after[page] = min(place + 1, len(text))
    metadata = {"date": day} if (day := _day(about)) else {}
    return [draft.document(source, _title(about, bookmarks) or title_from(source), metadata)]


def _page_lines(pdf: Any, index: int) -> list[str] | None:
    """The lines of a page: an empty list if it holds pictures only, None if it is damaged."""
    try:
        page = pdf[index]
        text = page.get_textpage()
        lines = _ligatures_mended(text).replace(_HYPHEN, _HYPHEN + "\n").splitlines()
        text.close()
        page.close()
    except pypdfium2.PdfiumError as error:
        warn(f"page {index + 1} is damaged: {error}")
        return None
    return [line for line in map(one_line, lines) if line]


def _ligatures_mended(page: Any) -> str:
    """The text of a page with the Arabic ligature lam-alef as lam, alef.

    Pdfium turns right-to-left text around letter by letter, and so the two letters of this one sign as well,
    which makes them look like the article al-. Two letters in one place are a ligature.
    """
    text: str = page.get_text_range()
    found = list(re.finditer("[اأإآ]ل", text))
    if found and page.count_chars() == len(text):
        for match in found:
            start = match.start()
            if page.get_charbox(start) == page.get_charbox(start + 1):
                text = f"{text[:start]}{text[start + 1]}{text[start]}{text[start + 2 :]}"
    return text


def _without_running_heads(pages: list[list[str]]) -> list[list[str]]:
    """The pages without lines at their edges that stand on more than 60 % of them, page numbers aside."""
    if len(pages) < 4:
        return pages
    seen: Counter[str] = Counter()
    for lines in pages:
        seen.update({_shape(line) for line in lines[:_EDGE_LINES] + lines[-_EDGE_LINES:]})
    running = {shape for shape, count in seen.items() if count > 0.6 * len(pages)}
    cut = []
    for lines in pages:
        first, last = 0, len(lines)
        while first < min(_EDGE_LINES, last) and _shape(lines[first]) in running:
            first += 1
        while last > max(len(lines) - _EDGE_LINES, first) and _shape(lines[last - 1]) in running:
            last -= 1
        cut.append(lines[first:last])
    return cut


def _shape(line: str) -> str:
    """The line with its numbers blanked, so that `Page 3 of 9` and `Page 4 of 9` are the same."""
    return re.sub(r"\d+", "0", line)


def _reflowed(lines: list[str]) -> str:
    """Lines to paragraphs: one that fills the column goes on in the next, a short one ends its paragraph."""
    lengths = sorted(map(len, lines))
    column = lengths[int(0.8 * (len(lengths) - 1))] if lengths else 0
    text = ""
    before = ""
    for line in lines:
        full = len(before) >= 0.75 * column and column > 20
        ended = before[-1:] in tuple('.!?:”"')
        title = ended and len(line) < 0.75 * column and line[-1] not in ".!?:,;" and not line[0].islower()
        if before.endswith(_HYPHEN) or not before:
            text += line
        elif full and not title and not _ITEM.match(line):
            text += f" {line}"
        else:
            text += ("\n\n" if title or (ended and not full) else "\n") + line
        before = line
    return text


def _joined(text: str, words: Counter[str]) -> str:
    """Words that a line end broke are whole again.

    Where the document writes the word with a hyphen elsewhere, and never without, the hyphen stays.
    """

    def join(match: re.Match[str]) -> str:
        whole, hyphened = match[1] + match[2], f"{match[1]}-{match[2]}"
        return hyphened if words[hyphened.lower()] > words[whole.lower()] else whole

    return _BROKEN.sub(join, text).replace(_HYPHEN, "-")


def _title(about: dict[str, str], bookmarks: list[tuple[int, str, int]]) -> str:
    """What the file calls itself, unless that is its maker's doing; else the bookmark above all others."""
    title = one_line(about.get("Title", ""))
    if not _JUNK_TITLE.search(title):
        return title
    top = [name for level, name, _ in bookmarks if level == 1]
    return top[0] if len(top) == 1 else ""


def _bookmarks(pdf: Any) -> list[tuple[int, str, int]]:
    """Level (from 1), title and page index of each bookmark that leads to a page."""
    found = []
    try:
        for item in pdf.get_toc(max_depth=8):
            destination = item.get_dest()
            page = destination.get_index() if destination else None
            title = one_line(item.get_title())
            if title and page is not None:
                found.append((item.level + 1, title, page))
            if len(found) >= _MAX_BOOKMARKS:
                break
    except (pypdfium2.PdfiumError, RecursionError) as error:
        warn(f"its bookmarks are damaged: {error}")
    return found


def _place(title: str, text: str, after: int) -> int:
    """Where the title stands in the text of its page, at the start of a line if it does; else `after`."""
    words = r"\s+".join(map(re.escape, title.split()))
    for pattern in (rf"^(?:[\dA-Z.]+\s+)?{words}\b", words):
        if at := re.compile(pattern, re.I | re.M).search(text, after):
            return at.start()
    return after


def _day(about: dict[str, str]) -> str:
    """The day in `D:20260501…`, changed rather than created, as 2026-05-01."""
    for key in ("ModDate", "CreationDate"):
        if day := re.match(r"(?:D:)?(\d{4})([01]\d)([0-3]\d)", about.get(key, "")):
            return "-".join(day.groups())
    return ""
