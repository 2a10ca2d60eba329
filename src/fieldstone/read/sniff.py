"""What kind of file it is, by its content and its suffix; where they contradict, the content wins."""

from __future__ import annotations

import io
import re
import zipfile
from pathlib import PurePosixPath

from fieldstone.errors import ReadError
from fieldstone.read.archives import ENCRYPTED, member, open_zip
from fieldstone.read.encodings import decode, wide_encoding

_CODE = re.split(
    r"\s+",
    """py pyi pyx rb pl pm php js mjs cjs jsx ts tsx java kt kts scala groovy c h cc cpp cxx hpp hh cs go rs
    swift m mm r jl lua sh bash zsh fish ps1 bat sql hs ml ex exs erl clj lisp el vim f f90 pas d zig nim dart
    proto thrift tf cmake gradle""",
)

KINDS = {
    **dict.fromkeys(_CODE, "code"),
    **dict.fromkeys(["md", "markdown", "mdx", "mkd", "qmd", "rmd"], "md"),
    **dict.fromkeys(["rst", "rest"], "rst"),
    **dict.fromkeys(["html", "htm", "xhtml", "xht"], "html"),
    **dict.fromkeys(["csv", "tsv", "tab"], "csv"),
    **dict.fromkeys(["docx", "docm", "dotx"], "docx"),
    **dict.fromkeys(["pptx", "pptm", "ppsx"], "pptx"),
    **dict.fromkeys(["xlsx", "xlsm"], "xlsx"),
    **dict.fromkeys(["odt", "ods", "odp", "ott"], "odt"),
    **{suffix: suffix for suffix in ("org", "txt", "pdf", "epub", "eml", "ipynb", "rtf")},
}
"""The kind that a suffix stands for."""

_ZIPPED = {"docx", "pptx", "xlsx", "odt", "epub"}
_BINARY = _ZIPPED | {"pdf"}

_MAGIC = (
    (b"\x89PNG\r\n", "PNG images"),
    (b"\xff\xd8\xff", "JPEG images"),
    (b"GIF8", "GIF images"),
    (b"II*\0", "TIFF images"),
    (b"MM\0*", "TIFF images"),
    (b"\x1f\x8b", "gzip archives: unpack it into the folder"),
    (b"BZh", "bzip2 archives: unpack it into the folder"),
    (b"\xfd7zXZ\0", "xz archives: unpack it into the folder"),
    (b"7z\xbc\xaf", "7z archives: unpack it into the folder"),
    (b"Rar!", "rar archives: unpack it into the folder"),
    (b"\x7fELF", "programs"),
    (b"SQLite format 3\0", "SQLite databases"),
    (b"ID3", "sound files"),
    (b"RIFF", "sound, film or WebP files"),
    (b"OggS", "sound files"),
)

_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_OLE_MAKES = (  # a stream that such a file holds, what it is, what to do
    ("WordDocument", "Word files of before 2007: save it as .docx"),
    ("Workbook", "Excel files of before 2007: save it as .xlsx"),
    ("PowerPoint Document", "PowerPoint files of before 2007: save it as .pptx"),
    ("__nameid_version", "Outlook mails: save it as .eml"),
)

_HTML = re.compile(r"\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html[\s>])", re.I | re.S)
_MAIL = re.compile(r"(?:[A-Za-z][A-Za-z0-9-]*:[^\n]*\n(?:[ \t][^\n]*\n)*)+\r?\n")
_MAIL_NAMES = ("from:", "to:", "date:", "subject:", "message-id:", "mime-version:", "received:")


def suffix_of(source: str) -> str:
    """The suffix in small letters and without its dot: `md` for `Notes.MD`."""
    return PurePosixPath(source).suffix[1:].lower()


def kind_of(data: bytes, source: str) -> str:
    """The kind of reader for this content; ReadError if there is none for it."""
    suffix = suffix_of(source)
    if not data:
        raise ReadError(source, "empty: 0 bytes")
    if b"%PDF-" in data[:1024] or (suffix == "pdf" and b"endobj" in data):
        return "pdf"
    if data.startswith(b"{\\rtf"):
        return "rtf"
    if data.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _zip_kind(data, source)
    if data.startswith(_OLE):
        raise ReadError(source, _ole_reason(data))
    for magic, name in _MAGIC:
        if data.startswith(magic):
            raise ReadError(source, f"no reader for {name}")
    if data[4:8] == b"ftyp":
        raise ReadError(source, "no reader for sound, film or HEIC files")
    if _is_binary(data):
        raise ReadError(
            source, f"no reader for this content: it is binary, and {_named(suffix)} tells no more"
        )
    return _text_kind(data, source)


def _named(suffix: str) -> str:
    return f"its suffix .{suffix}" if suffix else "a name without a suffix"


def _zip_kind(data: bytes, source: str) -> str:
    """Office, OpenDocument and EPUB files are zip containers, told apart by their members."""
    suffix = suffix_of(source)
    if not zipfile.is_zipfile(io.BytesIO(data)) and KINDS.get(suffix) in _ZIPPED:
        raise ReadError(source, f"damaged or cut off: the zip container inside this .{suffix} has no end")
    archive = open_zip(data, source)
    names = set(archive.namelist())
    mimetype = (member(archive, "mimetype") or b"")[:200]
    if b"opendocument" in mimetype or {"content.xml", "META-INF/manifest.xml"} <= names:
        return "odt"
    if b"epub" in mimetype or "META-INF/container.xml" in names:
        return "epub"
    for folder, kind in (("word/", "docx"), ("ppt/", "pptx"), ("xl/", "xlsx")):
        if any(name.startswith(folder) for name in names):
            return kind
    if any(entry.flag_bits & 1 for entry in archive.infolist()):
        raise ReadError(
            source, "no reader for zip archives, and this one is encrypted: unpack it into the folder"
        )
    raise ReadError(source, "no reader for zip archives: unpack it into the folder")


def _ole_reason(data: bytes) -> str:
    """Why an OLE2 container is not read: an encrypted Office file, or one of before 2007."""
    if "EncryptedPackage".encode("utf-16-le") in data:
        return ENCRYPTED
    for stream, make in _OLE_MAKES:
        if stream.encode("utf-16-le") in data:
            return f"no reader for {make}"
    return "no reader for OLE2 containers: save it in a newer format"


def _is_binary(data: bytes) -> bool:
    """Whether a text would not look like this: NULs that no UTF-16 explains, or many control characters."""
    sample = data[:8192]
    if sample.startswith((b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff")) or wide_encoding(sample):
        return False
    control = sum(byte < 32 and byte not in b"\t\n\r\f\x1b\x08" for byte in sample)
    return control > max(2, len(sample) // 100)


def _text_kind(data: bytes, source: str) -> str:
    suffix = suffix_of(source)
    kind = KINDS.get(suffix)
    head = decode(data[:4096])
    if suffix == "svg":
        raise ReadError(source, "no reader for SVG images")
    if kind not in {"html", "md", "code", "ipynb"} and _HTML.match(head):
        return "html"
    if kind in _BINARY:
        raise ReadError(source, f"damaged: it is named .{suffix}, but plain text is all it holds")
    if kind is None and head.lstrip().startswith("{") and b'"nbformat"' in data:
        return "ipynb"
    if kind is None and _is_mail(head):
        return "eml"
    return kind if kind and kind != "rtf" else "txt"


def _is_mail(head: str) -> bool:
    block = _MAIL.match(head)
    heads = f"\n{block.group().lower()}" if block else ""
    return sum(f"\n{name}" in heads for name in _MAIL_NAMES) >= 3
