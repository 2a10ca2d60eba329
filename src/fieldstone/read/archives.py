"""Zip containers and XML from strangers: bounded, never unpacked to disk, never fetching anything."""

from __future__ import annotations

import io
import posixpath
import re
import zipfile
import zlib
from typing import Any

from fieldstone.errors import ReadError

MAX_UNPACKED = 300 * 2**20
MAX_MEMBERS = 20_000
ENCRYPTED = "encrypted: remove the password and add it again"


def open_zip(data: bytes, source: str) -> zipfile.ZipFile:
    """The archive, if it is whole and small enough once unpacked."""
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except (zipfile.BadZipFile, ValueError, OverflowError, NotImplementedError) as error:
        raise ReadError(source, f"a damaged or cut-off zip container: {error}") from error
    members = archive.infolist()
    unpacked = sum(member.file_size for member in members)
    if unpacked > MAX_UNPACKED or len(members) > MAX_MEMBERS:
        raise ReadError(
            source,
            f"too large once unpacked: {unpacked / 2**20:,.0f} MiB in {len(members):,} parts "
            f"(the limits are {MAX_UNPACKED // 2**20} MiB and {MAX_MEMBERS:,})",
        )
    return archive


def member(archive: zipfile.ZipFile, name: str) -> bytes | None:
    """The bytes of one member, or None if there is none or it is damaged."""
    try:
        return archive.read(name)
    except (KeyError, ValueError, EOFError, OSError, RuntimeError, zipfile.BadZipFile, zlib.error):
        return None


def xml(data: bytes | None) -> Any:
    """The root element, or None; entities are not expanded, nothing is fetched, damage is passed over."""
    from lxml import etree

    if not data:
        return None
    parser = etree.XMLParser(
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        huge_tree=False,
        recover=True,
        remove_comments=True,
        remove_pis=True,
    )
    try:
        return etree.fromstring(data, parser)
    except (etree.XMLSyntaxError, ValueError):
        return None


def local(node: Any) -> str:
    """The element's name without its namespace; empty for anything but an element."""
    return node.tag.rpartition("}")[2] if isinstance(node.tag, str) else ""


def attribute(node: Any, name: str) -> str:
    """The value of the attribute of that name in whatever namespace, or an empty string."""
    for key, value in node.attrib.items():
        if key == name or key.endswith("}" + name):
            return str(value)
    return ""


def relations(archive: zipfile.ZipFile, part: str) -> dict[str, tuple[str, str]]:
    """What an Office part points to inside the archive: id to (kind, name of the part)."""
    folder, _, name = part.rpartition("/")
    root = xml(member(archive, f"{folder}/_rels/{name}.rels"))
    found = {}
    for node in () if root is None else root:
        if local(node) == "Relationship" and node.get("TargetMode") != "External":
            target = posixpath.normpath(posixpath.join("/" + folder, node.get("Target", "")))
            found[node.get("Id", "")] = (node.get("Type", "").rpartition("/")[2], target.lstrip("/"))
    return found


def core_date(archive: zipfile.ZipFile) -> dict[str, str]:
    """The day an Office file was changed, as it says itself: `{"date": "2026-05-01"}`, or empty."""
    root = xml(member(archive, "docProps/core.xml"))
    dates = {} if root is None else {local(node): node.text or "" for node in root}
    day = iso_day(dates.get("modified", "") or dates.get("created", ""))
    return {"date": day} if day else {}


def iso_day(text: str) -> str:
    """The ISO day that `text` starts with, or an empty string."""
    day = re.match(r"\d{4}-[01]\d-[0-3]\d", text.strip())
    return day.group() if day else ""
