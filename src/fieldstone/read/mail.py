"""Mail as `.eml`: the subject as title, who wrote to whom and when, the text, what is attached."""

from __future__ import annotations

import email
import email.policy
from email.message import EmailMessage, Message
from email.utils import parsedate_to_datetime

from fieldstone.errors import ReadError
from fieldstone.read.draft import Draft, clean, one_line
from fieldstone.read.encodings import decode
from fieldstone.read.html import add_html
from fieldstone.records import Document

_NAMES = ("From", "To", "Cc", "Date", "Subject")


def read_mail(data: bytes, source: str) -> list[Document]:
    """One document a mail; attached texts are read, other attachments named."""
    message = email.message_from_bytes(data.lstrip(), policy=email.policy.default)
    if not message.keys():
        raise ReadError(source, "no mail in it: neither sender nor subject nor text")
    draft = Draft()
    heads = {name: _head(message, name) for name in _NAMES}
    draft.add("\n".join(f"{name}: {value}" for name, value in heads.items() if value))
    body = message.get_body(preferencelist=("plain", "html"))
    if body is not None:
        _write_part(draft, body)
    for part in message.walk():
        if part is not body and part.get_filename():
            draft.add(f"Attachment: {one_line(part.get_filename() or '')}")
            if part.get_content_type() == "text/plain":
                _write_part(draft, part)
    metadata = {key: heads[name] for key, name in (("from", "From"), ("to", "To")) if heads[name]}
    if day := _day(heads["Date"]):
        metadata["date"] = day
    return [draft.document(source, heads["Subject"], metadata)]


def _head(message: EmailMessage, name: str) -> str:
    """The value of a header; the email package raises all kinds of errors over malformed ones."""
    try:
        return one_line(str(message.get(name, "")))
    except (ValueError, TypeError, AttributeError, IndexError, LookupError):
        raw = next((value for key, value in message.raw_items() if key.lower() == name.lower()), "")
        return one_line(str(raw))


def _write_part(draft: Draft, part: Message) -> None:
    """The text of one part, in whatever encoding it turns out to be."""
    payload = part.get_payload(decode=True)
    text = decode(payload, part.get_content_charset("") or "") if isinstance(payload, bytes) else ""
    if part.get_content_type() == "text/html":
        add_html(draft, text)
    else:
        draft.add(clean(text))


def _day(text: str) -> str:
    try:
        return parsedate_to_datetime(text).date().isoformat()
    except (ValueError, TypeError, IndexError):
        return ""
