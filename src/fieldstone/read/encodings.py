"""Bytes to text: byte order marks, UTF-8, what the file declares, and only then a guess."""

from __future__ import annotations

import codecs
import re

from fieldstone.read.draft import clean

_SAMPLE = 2**16
# Letters of Czech, Polish, Turkish and their like where Windows-1252 has signs or rare letters.
_CENTRAL = rb"[\x8a\x8d-\x8f\x9a\x9c-\x9f\xa3\xa5\xaa\xaf\xb3\xb9\xba\xbc\xbe\xbf\xd0\xde\xec\xf0\xfd\xfe]"
_NOT_WESTERN = re.compile(rb"(?<=[a-z])" + _CENTRAL + rb"|" + _CENTRAL + rb"(?=[a-z])", re.I)

# UTF-32 before UTF-16: its little-endian mark starts with the other's.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def decode(data: bytes, declared: str = "") -> str:
    """The text of `data`, cleaned; `declared` is the encoding that the file itself names, if any."""
    return clean(data.decode(detect(data, declared), "replace"))


def detect(data: bytes, declared: str = "") -> str:
    """The name of the encoding of `data`."""
    for mark, name in _MARKS:
        if data.startswith(mark):
            return name
    if wide := wide_encoding(data):
        return wide
    is_utf8 = _decodes(data, "utf-8")
    if is_utf8 and not data.isascii():  # text in another encoding is never valid UTF-8 by chance
        return "utf-8"
    if declared and _decodes(data, name := _as_browsers_do(declared)):
        return name
    if b"\x1b$" in data[:_SAMPLE] and _decodes(data, "iso2022_jp"):
        return "iso2022_jp"
    if is_utf8:
        return "utf-8"
    return _guess(data)


def wide_encoding(data: bytes) -> str:
    """UTF-16 or UTF-32 without a byte order mark, told by where the NULs of ASCII letters stand."""
    sample = data[: 4 * 256]
    if len(sample) < 8 or b"\0" not in sample:
        return ""
    zeros = [sample[offset::4].count(0) / len(sample[offset::4]) for offset in range(4)]
    high = [share > 0.7 for share in zeros]
    low = [share < 0.2 for share in zeros]
    if low[0] and high[1] and high[2] and high[3]:
        return "utf-32-le"
    if high[0] and high[1] and high[2] and low[3]:
        return "utf-32-be"
    if low[0] and high[1] and low[2] and high[3]:
        return "utf-16-le"
    if high[0] and low[1] and high[2] and low[3]:
        return "utf-16-be"
    return ""


def _as_browsers_do(name: str) -> str:
    """Pages that declare Latin-1 or ASCII mean Windows-1252 (WHATWG Encoding Standard)."""
    name = name.strip().lower().replace("_", "-")
    return "cp1252" if name in {"iso-8859-1", "latin1", "latin-1", "ascii", "us-ascii"} else name


def _decodes(data: bytes, name: str) -> bool:
    try:
        data.decode(name)
    except (UnicodeError, LookupError, ValueError):
        return False
    return True


def _guess(data: bytes) -> str:
    """The likeliest legacy encoding; of those for Latin letters Windows-1252, unless letters speak against.

    Statistics of short texts cannot tell them apart, and Windows-1252 is by far the commonest.
    """
    from charset_normalizer import from_bytes

    sample = data[:_SAMPLE]
    matches = from_bytes(sample)
    best = matches.best()
    if best is None:
        return "cp1252"
    high = len(sample) - len(sample.translate(None, bytes(range(128, 256))))
    if len(_NOT_WESTERN.findall(sample)) > 0.1 * high:
        return best.encoding
    for match in matches:
        if "cp1252" in match.could_be_from_charset and match.chaos <= best.chaos + 0.15:
            return "cp1252"
    return best.encoding
