"""EPUB books: the chapters in the order of the spine, each through the HTML reader."""

from __future__ import annotations

import posixpath
from urllib.parse import unquote

from fieldstone.errors import ReadError
from fieldstone.read.archives import iso_day, local, member, open_zip, xml
from fieldstone.read.draft import Draft
from fieldstone.read.encodings import decode
from fieldstone.read.file import warn
from fieldstone.read.html import add_html
from fieldstone.records import Document


def read_epub(data: bytes, source: str) -> list[Document]:
    """One document a book."""
    archive = open_zip(data, source)
    container = xml(member(archive, "META-INF/container.xml"))
    roots = [] if container is None else [node.get("full-path", "") for node in container.iter("{*}rootfile")]
    package_name = next(iter(roots), "")
    package = xml(member(archive, package_name))
    if package is None:
        raise ReadError(source, "damaged: its list of chapters is missing or cannot be read")
    folder = posixpath.dirname(package_name)
    files = {node.get("id"): node.get("href", "") for node in package.iter("{*}item")}
    locked = xml(member(archive, "META-INF/encryption.xml"))
    sealed = set() if locked is None else {node.get("URI", "") for node in locked.iter("{*}CipherReference")}
    draft = Draft()
    for entry in package.iter("{*}itemref"):
        name = posixpath.normpath(posixpath.join(folder, unquote(files.get(entry.get("idref"), ""))))
        chapter = member(archive, name)
        if chapter is None or name in sealed:
            warn(f"chapter {name!r} is {'missing or damaged' if chapter is None else 'locked (DRM)'}")
            continue
        add_html(draft, decode(chapter))
    about: dict[str, str] = {}
    for node in package.iterfind("{*}metadata/{*}*"):
        about.setdefault(local(node), node.text or "")
    day = iso_day(about.get("date", ""))
    return [draft.document(source, about.get("title", ""), {"date": day} if day else {})]
