"""What each format gives: text, title, headings, pages, tables; made-up files, built here."""

from __future__ import annotations

import io
import json
import zipfile
from datetime import date, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fieldstone.errors import ReadError
from fieldstone.read import read_bytes
from fieldstone.read.draft import Draft
from fieldstone.read.encodings import decode, detect
from fieldstone.read.tables import looks_like_header, table_lines, table_text
from fieldstone.records import Document

W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'


def read(content: str | bytes, source: str) -> Document:
    data = content.encode() if isinstance(content, str) else content
    [document] = read_bytes(data, source)
    headings = document.headings
    assert [heading.start for heading in headings] == sorted(heading.start for heading in headings)
    return document


def zipped(members: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            # of no date: the bytes name tests, which must be the same in every process
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def outline(document: Document) -> list[tuple[int, str]]:
    return [(heading.level, heading.text) for heading in document.headings]


def at(document: Document, index: int) -> str:
    """The line where a heading starts."""
    return document.text[document.headings[index].start :].partition("\n")[0]


# --- text that stays as it stands ---


def test_markdown_headings_outside_fences() -> None:
    text = (
        "# One `x` {#one}\n\n```sh\n# no\n```\n\nTwo\n---\n\n- item\n---\n\n### [Three](x.md) ###\n    # no\n"
    )
    document = read(text, "a.md")
    assert document.text == text
    assert document.title == "One x"
    assert outline(document) == [(1, "One x"), (2, "Two"), (3, "Three")]
    assert at(document, 1) == "Two"


@pytest.mark.parametrize(
    "front",
    [
        '---\ntitle: "The Manual"\ndate: 2024-03-01\n---\n',
        '+++\ntitle = "The Manual"\ndate = 2024-03-01\n+++\n',
        '<!--[metadata]>\n+++\ntitle = "The Manual"\ndate = 2024-03-01\n+++\n<![end-metadata]-->\n',
    ],
)
def test_front_matter_names_the_document_and_is_left_out(front: str) -> None:
    document = read(front + "\nText.\n\n# Late\n", "a.md")
    assert (document.title, document.metadata["date"]) == ("The Manual", "2024-03-01")
    assert document.text == "Text.\n\n# Late\n"
    assert read("---\nText\n---\nmore", "a.md").text == "---\nText\n---\nmore"


def test_rst_levels_come_in_the_order_of_their_adornments() -> None:
    text = (
        "=====\nTitle\n=====\n\n.. x::\n\nFirst :mod:`os`\n===============\n\nDeep\n----\n\n"
        "Second\n======\n\n"
        "== ==\na  b\n== ==\n\n日本語\n======\n"
    )
    document = read(text, "a.rst")
    assert document.text == text
    assert outline(document) == [(1, "Title"), (2, "First os"), (3, "Deep"), (2, "Second"), (2, "日本語")]
    assert document.headings[0].start == 0


def test_org_and_source_code() -> None:
    org = read("#+TITLE: Plan\n* TODO One :tag:\n** Two\ntext", "a.org")
    assert (org.title, outline(org)) == ("Plan", [(1, "One"), (2, "Two")])
    code = read("import x\n\nclass A:\n    def inner(self): ...\n\nasync def go():\n    pass\n", "src/a.py")
    assert (code.title, outline(code)) == ("a.py", [(1, "class A"), (1, "async def go")])
    assert outline(read("pub fn main() {}\n", "a.rs")) == [(1, "pub fn main")]


def test_a_first_line_that_stands_alone_is_the_title_of_a_text() -> None:
    assert read("The Harbour\n\nShips come.\n", "a.txt").title == "The Harbour"
    assert read("It was dark.\n\nShips come.\n", "night_watch-2.txt").title == "night watch 2"


def test_notebooks() -> None:
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "text"]},
        {
            "cell_type": "code",
            "source": "1+1",
            "outputs": [{"data": {"text/plain": ["2"]}}, {"text": "x" * 5000}],
        },
    ]
    document = read(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4}), "a.ipynb")
    assert document.title == "Title"
    assert "```\n1+1\n```\n\n```\n2\n```" in document.text
    assert len(document.text) < 2200


# --- encodings ---


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"]
)
def test_unicode_is_told_with_and_without_a_mark(encoding: str) -> None:
    assert decode("Grüße to the harbour master\r\n".encode(encoding)) == "Grüße to the harbour master\n"


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("cp1252", "Die Größe der Straßen führt häufig zu Missverständnissen – für 5 €."),
        ("cp1252", "Les élèves de l'école ont été reçus à la mairie, où le maire était très ému."),
        ("cp1251", "Привет, это проверка кодировки для русского текста, который достаточно длинный"),
        ("koi8-r", "Привет, это проверка кодировки для русского текста, который достаточно длинный"),
        ("cp932", "日本語のテキストです。漢字とかな"),
        ("iso2022_jp", "日本語のテキストです。漢字とかな"),
        ("gb18030", "中文文本测试编码检测，这是一个比较长的句子，用来测试编码检测的准确性。"),
        ("cp1250", "Dnes ráno jsme se vydali na výlet do hor. Děti se těšily na večeři, počasí nám přálo."),
    ],
)
def test_older_encodings_are_told(encoding: str, text: str) -> None:
    assert decode(text.encode(encoding)) == text


def test_what_a_page_declares_holds_unless_it_is_utf8() -> None:
    greek = "<meta charset='iso-8859-7'><p>Καλημέρα κόσμε"
    assert read(greek.encode("iso-8859-7"), "a.html").text == "Καλημέρα κόσμε"
    assert read("<meta charset=latin1><p>Grüße", "a.html").text == "Grüße"
    assert detect(b"plain", "no-such-encoding") == "utf-8"


@given(st.binary(max_size=300))
def test_any_bytes_give_clean_text(data: bytes) -> None:
    text = decode(data)
    assert "\r" not in text
    assert "\x00" not in text
    text.encode("utf-8")


# --- tables ---


def test_each_row_keeps_the_header() -> None:
    rows = [["Berth", "Depth"], ["A1", "7 m"], ["A2", ""], [], ["A3", "5 m", "closed"]]
    assert table_text(rows) == "Berth: A1; Depth: 7 m\nBerth: A2\nBerth: A3; Depth: 5 m; closed"
    assert table_text([["Fees of 2026", ""], *rows[:2]]) == "Fees of 2026\nBerth: A1; Depth: 7 m"
    assert table_text([["1", "2"], ["3", "4"]]) == "1; 2\n3; 4"
    assert table_text([["Name:", "Ann"], ["Age:", "3"]]) == "Name: Ann\nAge: 3"
    assert not looks_like_header([["A", "A"], ["b", "c"]])


@given(st.lists(st.lists(st.text(max_size=5), max_size=5), max_size=6))
def test_tables_lose_no_cell_and_no_row(rows: list[list[str]]) -> None:
    lines = list(table_lines(rows))
    assert len(lines) == sum(any(cell.split() for cell in row) for row in rows if any(map(_seen, row)))
    assert all("\n" not in line for line in lines)


def _seen(cell: str) -> bool:
    return bool(cell.translate(dict.fromkeys(map(ord, "\u00ad\u200b\ufeff\x00"))).split())


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_csv_delimiters_are_told(delimiter: str) -> None:
    rows = [["Ship", "Captain, first"], ["Ann; a\nbarge", "Lee"], ["Bo", "1,5"]]
    lines = [delimiter.join(f'"{cell}"' for cell in row) for row in rows]
    document = read("\r\n".join(lines), "a.csv")
    assert document.text == "Ship: Ann; a barge; Captain, first: Lee\nShip: Bo; Captain, first: 1,5"


# --- html ---


def test_html_reads_as_a_person_would() -> None:
    page = """<!doctype html><html><head><title>Harbour - Site</title><style>p {}</style></head><body>
      <nav><a>Home</a></nav><header><a>Logo</a></header><main><header><h1>The <b>Har</b>bour</h1></header>
      <p>Ships&nbsp;come<br>and go.<!-- no --> Of&shy;ten.</p><script>no()</script>
      <div hidden>no</div><span style="display:none">no</span>
      <ol start=3><li>three<ul><li>deep</li></ul></li><li><p>four</p></li></ol>
      <pre>a  b\n  c</pre><h2>Fees</h2>tail</main><footer>no</footer></body></html>"""
    document = read(page, "a.html")
    assert document.text == (
        "The Harbour\n\nShips come\nand go. Often.\n\n3. three\n  - deep\n4. four\n\n"
        "a  b\n  c\n\nFees\n\ntail"
    )
    assert document.title == "The Harbour"
    assert outline(document) == [(1, "The Harbour"), (2, "Fees")]


def test_html_tables() -> None:
    page = """<table><caption>Fees</caption>
      <tr><th rowspan=2>Berth<th colspan=2>2026</tr><tr><th>day<th>week</tr>
      <tr><td rowspan=2>A<td>5<td>30</tr><tr><td>6</tr></table>
      <table><tr><th>Name<td>Ann</tr><tr><th>Age<td>3</tr></table>
      <table><tr><td><h2>Lay</h2><td>out</tr></table>
      <table><tr><td colspan=999999999>x<td rowspan=x>y</table>"""
    assert read(page, "a.html").text == (
        "Fees\nBerth: A; 2026 day: 5; 2026 week: 30\nBerth: A; 2026 day: 6\n\nName: Ann\nAge: 3\n\n"
        "Lay\n\nout\n\nx; y"
    )


def test_html_that_is_all_navigation_is_still_read() -> None:
    assert read("<html><nav><p>Only this</nav>", "a.html").text == "Only this"


@pytest.mark.parametrize("tag", ["div", "b", "ul><li", "table><tr><td", "blockquote"])
def test_deep_html_keeps_its_text(tag: str) -> None:
    with pytest.warns(UserWarning, match="too deep"):
        assert "deep down" in read(f"<{tag}>" * 20_000 + "deep down", "a.html").text


# --- containers ---


def test_word_documents() -> None:
    def paragraph(text: str, style: str = "", more: str = "") -> str:
        return f'<w:p><w:pPr><w:pStyle w:val="{style}"/>{more}</w:pPr><w:r><w:t>{text}</w:t></w:r></w:p>'

    item = '<w:numPr><w:ilvl w:val="0"/><w:numId w:val="1"/></w:numPr>'
    edits = "<w:ins><w:r><w:t>new</w:t></w:r></w:ins><w:del><w:r><w:delText>old</w:delText></w:r></w:del>"
    row = "<w:tr>" + "<w:tc>{}</w:tc>" * 2 + "</w:tr>"
    rows = row.format(paragraph("Berth"), paragraph("Fee")) + row.format(paragraph("A"), paragraph("5"))
    body = (
        paragraph("The Harbour", "T")
        + paragraph("Fees", "berschrift1")
        + f"<w:p>{edits}</w:p>"
        + f"<w:sdt><w:sdtContent>{paragraph('in a control')}</w:sdtContent></w:sdt>"
        + paragraph("one", more=item)
        + paragraph("two", more=item)
        + f"<w:tbl>{rows}</w:tbl>"
    )
    styles = (
        '<w:style w:styleId="T"><w:name w:val="Title"/></w:style>'
        '<w:style w:styleId="base"><w:name w:val="heading 1"/></w:style>'
        '<w:style w:styleId="berschrift1"><w:name w:val="mine"/><w:basedOn w:val="base"/></w:style>'
    )
    members = {
        "word/document.xml": f"<w:document {W}><w:body>{body}</w:body></w:document>",
        "word/styles.xml": f"<w:styles {W}>{styles}</w:styles>",
    }
    document = read(zipped(members), "a.docx")
    assert document.text == ("The Harbour\n\nFees\n\nnew\n\nin a control\n\n- one\n- two\n\nBerth: A; Fee: 5")
    assert (document.title, outline(document)) == ("The Harbour", [(1, "The Harbour"), (1, "Fees")])


def test_workbooks() -> None:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    sheet = book.active
    sheet.title = "Fees"
    for values in (["All fees"], ["Berth", "Since", "Fee"], ["A", date(2026, 5, 1), 2.50], ["B", None, True]):
        sheet.append(values)
    book.create_sheet("Empty")
    book.create_sheet("Log").append([datetime(2026, 5, 1, 8, 30), "opened"])
    buffer = io.BytesIO()
    book.save(buffer)
    document = read(buffer.getvalue(), "harbour_fees.xlsx")
    assert document.text == (
        "Fees\n\nAll fees\nBerth: A; Since: 2026-05-01; Fee: 2.5\nBerth: B; Fee: yes\n\n"
        "Log\n\n2026-05-01 08:30; opened"
    )
    assert document.title == "harbour fees"
    assert [document.text[start:][:4] for start in document.pages] == ["Fees", "Log\n", "Log\n"]


def test_open_documents_and_books() -> None:
    odt = """<office:document-content xmlns:office="o" xmlns:text="t" xmlns:table="b"><office:body>
      <office:text><text:h text:outline-level="2">Fees</text:h>
      <text:p>Two<text:s text:c="2"/>spaces<text:line-break/>end</text:p>
      <text:list><text:list-item><text:p>one</text:p></text:list-item></text:list>
      <table:table><table:table-row><table:table-cell><text:p>Berth</text:p></table:table-cell>
      <table:table-cell><text:p>Fee</text:p></table:table-cell></table:table-row><table:table-row>
      <table:table-cell><text:p>A</text:p></table:table-cell>
      <table:table-cell><text:p>5</text:p></table:table-cell></table:table-row></table:table>
      </office:text></office:body></office:document-content>"""
    document = read(
        zipped({"mimetype": "application/vnd.oasis.opendocument.text", "content.xml": odt}), "a.odt"
    )
    assert document.text == "Fees\n\nTwo  spaces\nend\n- one\n\nBerth: A; Fee: 5"
    assert outline(document) == [(2, "Fees")]
    package = """<package><metadata><title>Tides</title><date>1913-01-02</date></metadata><manifest>
      <item id="a" href="a%20b.xhtml"/><item id="c" href="c.xhtml"/></manifest>
      <spine><itemref idref="c"/><itemref idref="a"/><itemref idref="gone"/></spine></package>"""
    members = {
        "mimetype": "application/epub+zip",
        "META-INF/container.xml": '<c><rootfile full-path="OEBPS/p.opf"/></c>',
        "OEBPS/p.opf": package,
        "OEBPS/a b.xhtml": "<html><h1>Ebb</h1><p>out",
        "OEBPS/c.xhtml": "<?xml version='1.0' encoding='utf-8'?><html><h1>Flood</h1><p>in",
    }
    with pytest.warns(UserWarning, match="missing"):
        book = read(zipped(members), "a.epub")
    assert (book.title, book.metadata["date"]) == ("Tides", "1913-01-02")
    assert book.text == "Flood\n\nin\n\nEbb\n\nout"


def test_mail() -> None:
    mail = (
        "From: =?utf-8?q?J=C3=B8rn?= <j@x.org>\nTo: all@x.org\nSubject: Fog\n"
        "Date: Fri, 1 May 2026 10:00:00 +0200\nMIME-Version: 1.0\n"
        'Content-Type: multipart/mixed; boundary="b"\n\n'
        "--b\nContent-Type: text/html\n\n<p>No <b>ships</b>\n"
        "--b\nContent-Type: text/plain\nContent-Disposition: attachment; filename=log.txt\n\nlogged\n"
        "--b\nContent-Type: image/png\nContent-Disposition: attachment; filename=map.png\n\nx\n--b--\n"
    )
    document = read(mail, "a.eml")
    assert (document.title, document.metadata["from"]) == ("Fog", "Jørn <j@x.org>")
    assert document.metadata["date"] == "2026-05-01"
    assert document.text.endswith("No ships\n\nAttachment: log.txt\n\nlogged\n\nAttachment: map.png")


def pdf_of(pages: list[list[str]], title: str = "") -> bytes:
    """A PDF with a line of text for each string."""
    count = len(pages)
    kids = " ".join(f"{3 + number} 0 R" for number in range(count))
    parts = ["<< /Type /Catalog /Pages 2 0 R >>", f"<< /Type /Pages /Kids [{kids}] /Count {count} >>"]
    font = "<< /Font << /F << /Type /Font /Subtype /Type1 /BaseFont /Courier >> >> >>"
    for number in range(count):
        parts.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 600 800] /Resources {font} "
            f"/Contents {3 + count + number} 0 R >>"
        )
    for lines in pages:
        text = " ".join(f"({line}) Tj T*" for line in lines)
        stream = f"BT /F 9 Tf 12 TL 20 780 Td {text} ET"
        parts.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
    parts.append(f"<< /Title ({title}) /CreationDate (D:20260501) >>")
    body = "%PDF-1.4\n"
    offsets = []
    for number, part in enumerate(parts, 1):
        offsets.append(len(body))
        body += f"{number} 0 obj\n{part}\nendobj\n"
    table = "".join(f"{offset:010} 00000 n \n" for offset in offsets)
    size = len(parts) + 1
    trailer = f"trailer << /Size {size} /Root 1 0 R /Info {size - 1} 0 R >>\nstartxref\n{len(body)}\n%%EOF"
    return f"{body}xref\n0 {size}\n0000000000 65535 f \n{table}{trailer}".encode()


def test_pdf_pages_paragraphs_and_running_heads() -> None:
    line = "All ships that come in by night keep their lights on until moored"
    pages = [
        ["Harbour Manual", f"{quay} quay", line, "and wait.", line, f"- so do {quay} tugs", f"Page {number}"]
        for number, quay in enumerate(["North", "South", "East", "West", "Old"], 1)
    ]
    document = read(pdf_of(pages, title="Harbour Manual"), "a.pdf")
    first = f"North quay\n{line} and wait.\n\n{line}\n- so do North tugs"
    assert document.text.startswith(first + "\n\nSouth quay\n")
    assert "Manual" not in document.text
    assert "Page" not in document.text
    assert (document.title, document.metadata["date"]) == ("Harbour Manual", "2026-05-01")
    assert [document.text[start:].split()[0] for start in document.pages] == [
        "North",
        "South",
        "East",
        "West",
        "Old",
    ]
    assert document.pages[1] == len(first) + 2
    junk = read(pdf_of([["Text"]], title="Microsoft Word - x.doc"), "night_watch.pdf")
    assert junk.title == "night watch"


def test_a_pdf_without_text_may_be_a_scan() -> None:
    with pytest.raises(ReadError, match="OCR"):
        read_bytes(pdf_of([[], []]), "a.pdf")
    with pytest.warns(UserWarning, match="no text on 1 of 2 pages"):
        assert read(pdf_of([[], ["Text"]]), "a.pdf").pages == (0, 0)


# --- what content says against the suffix ---


@pytest.mark.parametrize(
    ("content", "source", "kind"),
    [
        ("<!DOCTYPE html><html><p>Hi", "a.txt", "html"),
        ("{\\rtf1 Hi}", "a.doc", "rtf"),
        ("Hi", "a.log", "txt"),
        ("Hi", "README", "txt"),
        ("From: a\nTo: b\nSubject: c\n\nHi", "mail", "eml"),
        (b"\xff\xfeH\0i\0", "a.md", "md"),
    ],
)
def test_content_wins(content: str | bytes, source: str, kind: str) -> None:
    assert read(content, source).metadata["type"] == kind


@pytest.mark.parametrize(
    ("content", "source", "reason"),
    [
        (b"", "a.txt", "empty"),
        (b"\x89PNG\r\n\x1a\n", "a.txt", "no reader for PNG images"),
        (bytes(range(256)) * 9, "a.bin", "no reader for this content"),
        (zipped({"a.txt": "a"}), "a.zip", "no reader for zip archives"),
        (zipped({"../../evil.txt": "a"}), "a.docx", "no reader for zip archives"),
        (zipped({"word/x": "a"}), "a.docx", "word/document.xml is missing"),
        (zipped({"word/document.xml": "0" * (301 * 2**20)}), "a.docx", "too large once unpacked"),
        (zipped({"word/document.xml": "a"})[:60], "a.docx", "cut off"),
        (b"not a zip", "a.odt", "plain text is all it holds"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + "EncryptedPackage".encode("utf-16-le"), "a.xlsx", "encrypted"),
        (
            b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + "WordDocument".encode("utf-16-le"),
            "a.doc",
            "save it as .docx",
        ),
        (b"%PDF-1.7\nnothing", "a.pdf", "damaged"),
        (b"{", "a.ipynb", "damaged"),
        (b"<html><script>x</script>", "a.html", "no text"),
    ],
)
def test_why_a_file_gives_no_text(content: bytes, source: str, reason: str) -> None:
    with pytest.raises(ReadError, match=reason):
        read_bytes(content, source)


def test_entities_are_not_expanded() -> None:
    bomb = (
        '<!DOCTYPE x [<!ENTITY a "lol"><!ENTITY b "'
        + "&a;" * 1000
        + '"><!ENTITY f SYSTEM "file:///etc/passwd">]>'
    )
    text = f"<w:document {W}><w:body><w:p><w:r><w:t>x&b;&f;y</w:t></w:r></w:p></w:body></w:document>"
    document = read(zipped({"word/document.xml": bomb + text}), "a.docx")
    assert "lol" not in document.text
    assert "root:" not in document.text


@given(st.lists(st.one_of(st.none(), st.text(max_size=20)), max_size=12))
def test_a_draft_knows_where_things_start(blocks: list[str | None]) -> None:
    draft = Draft()
    pages = 0
    for block in blocks:
        if block is None:
            draft.page()
            pages += 1
        else:
            draft.heading(1, block)
    document = draft.document("a.txt")
    assert len(document.pages) == pages
    assert list(document.pages) == sorted(document.pages)
    for heading in document.headings:
        assert document.text[heading.start :].startswith(heading.text)
