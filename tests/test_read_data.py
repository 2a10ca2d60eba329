"""Real files, good and bad, against other readers: needs the data folder."""

from __future__ import annotations

import json
import re
import time
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Iterator
from functools import cache
from html import unescape
from pathlib import Path

import pytest

from fieldstone.read import Limits, ReadResult, find_files, read_file, read_files

pytestmark = pytest.mark.slow

# Of files/bad: a word of the text of those that open, or a part of the reason of those that do not.
OPENS = {
    "docling__docx_external_image.docx": "External Image",
    "docling__powerpoint_bad_text.pptx": "X-Library",
    "pdf_js__bad-PageLabels.pdf": "",
    "pdf_js__bomb_giant.pdf": "",
    "pdf_js__encrypted-attachment.pdf": "",
    "pdf_js__helloworld-bad.pdf": "Hello, world",
    "pdf_js__poppler-67295-0.pdf": "",
    "pdf_js__poppler-91414-0-53.pdf": "",
    "pdf_js__poppler-91414-0-54.pdf": "",
    "pdf_js__scan-bad.pdf": "",
    "pdf_js__xref_command_missing.pdf": "",
    "pdfminer_six__issue-00352-hash-twos-complement.pdf": "Obesity",
    "pdfminer_six__issue-1113-evil-xobjects.pdf": "",
    "pdfminer_six__issue-791-non-unicode-cmap.pdf": "",
    "pdfminer_six__zen_of_python_corrupted.pdf": "Beautiful is better than ugly",
    "pypdf__missing_info.pdf": "",
    "pypdf__r6-empty-password.pdf": "",
    "tika__NullHeader.docx": "Yemen protest",
    "tika__testBrokenHTMLContainingRFC822.html": "A whole bunch of text.",
    "tika__testHTMLBadScript.html": "This is a test.",
    "tika__testPDF_protected.pdf": "originate and distribute",
    "unstructured__copy-protected.pdf": "LayoutParser",
    "unstructured__csv-with-escaped-commas.csv": "A,A",
    "unstructured__failure-after-repair.pdf": "Understanding Breast Cancer",
    "unstructured__fake-email-malformed-encoding.eml": "Violets are blue",
    "unstructured__fake-html-cp1252.html": "Die schöne Frau",
    "unstructured__fake-html-with-image-from-url.html": "Test page",
    "unstructured__fake-incomplete-json.txt": '"John Doe"',
    "unstructured__fake-power-point-malformed.pptx": "Test Slide",
    "unstructured__fake-text-utf-16.txt": "",
    "unstructured__fake-text-utf-32.txt": "",
    "unstructured__hebrew-text-base64-iso88598i.txt": "",
    "unstructured__invalid-pdf-structure-pdfminer-one-page.pdf": "Cybersecurity",
    "unstructured__tables-with-incomplete-rows.docx": "a: c; b: d",
    "unstructured__umlauts-non-utf8.md": "können\n\näöüß",
}
REASONS = {
    "markitdown__random.bin": "no reader",
    "pdf_js__REDHAT-1531897-0.pdf": "damaged",
    "pdf_js__empty#hash.pdf": "no text",
    "pdf_js__empty.pdf": "no text",
    "pdf_js__empty_protected.pdf": "no text",
    "pdf_js__js-authors.pdf": "no text",
    "pdf_js__poppler-742-0-fuzzed.pdf": "damaged",
    "pdf_js__poppler-85140-0.pdf": "no text",
    "pdf_js__poppler-937-0-fuzzed.pdf": "damaged",
    "pdfminer_six__aes-256-r6.pdf": "encrypted",
    "pdfminer_six__aes-256.pdf": "encrypted",
    "pdfminer_six__encrypted_doc_no_id.pdf": "no text",
    "pypdf__encrypted-file.pdf": "encrypted",
    "sample-files__libreoffice-writer-password.pdf": "encrypted",
    "sample-files__unreadablemetadata.pdf": "damaged",
    "tika__testEXCEL_protected_passtika.xlsx": "encrypted",
    "tika__testODTEncrypted.odt": "encrypted",
    "tika__testODTnotaZipFile.odt": "damaged",
    "tika__testWORD_protected_passtika.docx": "encrypted",
    "tika__testWORD_truncated.docx": "cut off",
    "tika__testZIP_corrupted_oom.zip": "damaged",
    "tika__testZipEncrypted.zip": "no reader for zip archives",
    "unstructured__empty.eml": "no mail",
    "unstructured__empty.txt": "empty",
    "unstructured__fake-encrypted.msg": "no reader for Outlook",
    "unstructured__fake-text-all-whitespace.txt": "no text",
    "unstructured__password_protected.xlsx": "encrypted",
}


@pytest.fixture
def bad(data: Path) -> dict[str, ReadResult]:
    return read_once(data / "files" / "bad")


@cache
def read_once(folder: Path) -> dict[str, ReadResult]:
    began = time.monotonic()
    results = list(read_files(find_files(folder), Limits(seconds=30, memory=2**30)))
    assert time.monotonic() - began < 30  # 0.4 s on an idle machine
    return {result.source: result for result in results}


def test_every_bad_file_is_judged(bad: dict[str, ReadResult]) -> None:
    assert set(bad) == {*OPENS, *REASONS}


@pytest.mark.parametrize("name", OPENS)
def test_a_bad_file_that_should_open_does(bad: dict[str, ReadResult], name: str) -> None:
    result = bad[name]
    assert result.reason is None
    assert OPENS[name] in result.documents[0].text


@pytest.mark.parametrize("name", REASONS)
def test_a_bad_file_without_text_says_why(bad: dict[str, ReadResult], name: str) -> None:
    assert not bad[name].documents
    assert REASONS[name] in (bad[name].reason or "")


# --- good files: the words that another reader finds must be there ---


def words(text: str) -> Counter[str]:
    return Counter(re.findall(r"[^\W_]+", text))


def share(found: str, expected: str) -> float:
    """How many of the expected words were found, repeats counted."""
    wanted = words(expected)
    return (wanted & words(found)).total() / max(wanted.total(), 1)


def stripped(page: str) -> str:
    """Markup without its tags: the plainest reader there is."""
    page = re.sub(r"(?is)<(script|style|head|title)\b.*?</\1>|<!--.*?-->|<\?.*?\?>", " ", page)
    return unescape(re.sub(r"<[^>]*>", " ", page))


def other_reader(path: Path) -> str:
    """The text of the file by other means than ours."""
    match path.suffix:
        case ".pdf":
            pypdf = pytest.importorskip("pypdf")
            text = "\n".join(page.extract_text() for page in pypdf.PdfReader(path).pages)
            return re.sub(r"(?<=[a-z])-\n(?=[a-z])", "", unicodedata.normalize("NFKC", text))
        case ".docx":
            docx = pytest.importorskip("docx")
            document = docx.Document(str(path))
            tables = [cell.text for table in document.tables for row in table.rows[1:] for cell in row.cells]
            return "\n".join(
                [paragraph.text for paragraph in document.paragraphs] + list(dict.fromkeys(tables))
            )
        case ".pptx":
            pptx = pytest.importorskip("pptx")
            return "\n".join(_slide_texts(pptx.Presentation(str(path))))
        case ".xlsx":
            openpyxl = pytest.importorskip("openpyxl")
            book = openpyxl.load_workbook(path, data_only=True)
            cells = [cell for sheet in book for row in sheet.iter_rows(values_only=True) for cell in row]
            return " ".join(str(cell) for cell in cells if cell is not None)
        case ".epub":
            with zipfile.ZipFile(path) as archive:
                pages = [name for name in archive.namelist() if name.endswith(("html", "htm"))]
                return "\n".join(stripped(archive.read(name).decode()) for name in pages)
        case ".html":
            return stripped(path.read_text("utf-8"))
        case ".ipynb":
            return "\n".join("".join(cell["source"]) for cell in json.loads(path.read_text())["cells"])
        case ".rtf":
            return "My First Heading My first paragraph. Table Example: Row 1, Cell 1 Row 2, Cell 2"
        case ".eml":
            return (
                path.read_text("utf-8").partition("text/plain")[2].partition("\n\n")[2].partition("\n--")[0]
            )
        case ".csv":
            encoding = "cp932" if "mskanji" in path.name else "utf-8"
            return path.read_text(encoding)
    return path.read_text("utf-8")


def _slide_texts(presentation: object) -> Iterator[str]:
    for slide in presentation.slides:  # type: ignore[attr-defined]
        for shape in slide.shapes:
            if shape.has_text_frame:
                yield shape.text_frame.text
            if shape.has_table:
                yield from (cell.text for row in shape.table.rows for cell in row.cells)
        if slide.has_notes_slide:
            yield slide.notes_slide.notes_text_frame.text


LENIENT = {
    "docling__wiki_duck.html": 0.8,  # navigation is left out on purpose
    "markitdown__test_blog.html": 0.8,
    "docling__right_to_left_01.pdf": 0.9,  # spaces between Arabic and Latin letters
    "sample-files__habibi.pdf": 0.4,  # two ligatures in three words
    "sample-files__annotated_pdf.pdf": 0.85,  # the other reader misses a space
}


def test_good_files_give_the_words_that_other_readers_find(data: Path) -> None:
    files = list(find_files(data / "files" / "good"))
    results = {result.source: result for result in read_files(files)}
    assert len(results) == 40
    short = {}
    for file in files:
        result = results[file.source]
        assert result.reason is None, file.source
        found = share(result.documents[0].text, other_reader(file.path))
        if found < LENIENT.get(file.source, 0.95):
            short[file.source] = round(found, 3)
    assert not short


def test_wikipedia_pages_give_their_matching_text(data: Path) -> None:
    pages = sorted((data / "documents" / "wikipedia_html_txt").glob("*/*.htm"))
    assert len(pages) == 40
    for page in pages:
        text = read_file(page)[0].text
        expected = page.with_suffix(".txt").read_text("utf-8")
        assert share(text, expected) > 0.99, page
        assert share(expected, text) > 0.99, page


@pytest.mark.parametrize("folder", ["python_docs_rst", "docker_docs_1.12_md", "fastapi_md"])
def test_documentation_stays_as_it_stands(data: Path, folder: str) -> None:
    files = list(find_files(data / "documents" / folder))
    for file, result in zip(files, read_files(files), strict=True):
        [document] = result.documents
        assert document.text in file.path.read_text("utf-8").replace("\r\n", "\n")
        for heading in document.headings:
            line = document.text[heading.start :].lstrip("=*-~^# \n").partition("\n")[0]
            assert words(heading.text) & words(line), (file.source, heading)


def test_cut_off_files_give_text_or_a_reason(data: Path, tmp_path: Path) -> None:
    for path in (data / "files" / "good").iterdir():
        content = path.read_bytes()
        for part in (3, 2):
            (tmp_path / f"{part}_{path.name}").write_bytes(content[: len(content) // part])
    for result in read_files(find_files(tmp_path), Limits(seconds=20)):
        assert bool(result.documents) != bool(result.reason)
        assert "unknown make" not in (result.reason or ""), result
