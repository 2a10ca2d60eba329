"""The resources of an MCP server into the library: fetched, then read as files are."""

from __future__ import annotations

import asyncio
import base64
import binascii
import mimetypes
import os
import re
import shlex
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from ipaddress import ip_address
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TextIO
from urllib.parse import urlsplit

from fieldstone.errors import ReadError
from fieldstone.library import Library
from fieldstone.progress import Progress, silent, track
from fieldstone.read.add import Added, bring_in
from fieldstone.read.find import Found, excluded, oversized
from fieldstone.read.sniff import KINDS, suffix_of
from fieldstone.records import fingerprint
from fieldstone.settings import ReadSettings
from fieldstone.spread import Spread, here

if TYPE_CHECKING:
    from mcp import Client, Resource
    from mcp.types import BlobResourceContents, TextResourceContents

MAX_RESOURCES = 100_000

KEY = "FIELDSTONE_MCP_KEY"
"""The environment variable with the key that a server at an address wants."""

SUFFIXES = {
    "application/x-ipynb+json": "ipynb",
    "application/xhtml+xml": "html",
    "message/rfc822": "eml",
    "text/csv": "csv",
    "text/html": "html",
    "text/markdown": "md",
    "text/org": "org",
    "text/prs.fallenstein.rst": "rst",
    "text/tab-separated-values": "tsv",
    "text/x-markdown": "md",
    "text/x-rst": "rst",
}
"""The types that say more than an address does; what is no text is known by its content."""


@dataclass(frozen=True, slots=True)
class Server:
    """An MCP server: an `http(s)` address, or a command that starts it and speaks on its standard streams.

    `arguments` fill in the templates of its resources that have all they need. An address beyond this machine
    is refused without `allow_network`.
    """

    address: str
    arguments: Mapping[str, str] = field(default_factory=dict)
    allow_network: bool = False


@dataclass(frozen=True, slots=True)
class _Fetched:
    """What a server has; `failed` are addresses that could not be fetched this time."""

    found: list[Found]
    failed: tuple[str, ...]


def add_resources(
    library: Library,
    server: Server,
    settings: ReadSettings,
    progress: Progress = silent,
    spread: Spread = here,
) -> Added:
    """Bring the library up to date with the resources of a server; the source of each is its URI.

    What the server lists no longer goes. What it lists and does not give is skipped with the reason, and what
    the library holds of it stays. Raises ReadError when the server cannot be reached, or cannot list them.
    """
    _check(server)
    with tempfile.TemporaryDirectory(prefix="fieldstone-") as folder:
        with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as said:
            try:
                got = asyncio.run(_fetch(server, Path(folder), settings, progress, said))
            except ReadError:
                raise
            except Exception as error:  # a stranger's server, behind a library that passes on what comes
                raise ReadError(server.address, _why(error, said)) from error
        label = label_of(server.address)
        if label not in library.roots():
            library.add_root(label, server.address)

        def covered(source: str) -> bool:
            return not source.startswith(got.failed)

        return bring_in(library, label, got.found, covered, settings, progress, spread)


def label_of(address: str) -> str:
    """The label in a library of the root that this server is."""
    return f"mcp {address}"


def _check(server: Server) -> None:
    """Raise ReadError for an address that may not be asked, or that is none."""
    if not _is_url(server.address):
        try:
            parts = shlex.split(server.address)
        except ValueError as error:
            raise ReadError(server.address, f"no command: {error}") from None
        if not parts:
            raise ReadError(server.address, "no command and no address of an MCP server")
        return
    try:
        host = urlsplit(server.address).hostname or ""
    except ValueError:
        host = ""
    if not host:
        raise ReadError(server.address, "no address: write it as http://127.0.0.1:8000/mcp")
    if not (server.allow_network or _here(host)):
        raise ReadError(
            server.address, "lies beyond this machine; if it shall be asked, type --allow-network too"
        )


def _is_url(address: str) -> bool:
    return address.startswith(("http://", "https://"))


def _here(host: str) -> bool:
    """Whether a host is this machine, whatever a name server says."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@asynccontextmanager
async def _connected(server: Server, seconds: float, said: TextIO) -> AsyncIterator[Client]:
    """A client of the server; what a started one says on its standard error goes to `said`."""
    import httpx2
    from mcp import Client, StdioServerParameters, stdio_client
    from mcp.client.streamable_http import streamable_http_client

    if not _is_url(server.address):
        command, *arguments = shlex.split(server.address)
        started = StdioServerParameters(command=command, args=arguments, env=dict(os.environ))
        async with Client(stdio_client(started, errlog=said), read_timeout_seconds=seconds) as client:
            yield client
        return
    key = os.environ.get(KEY)
    async with httpx2.AsyncClient(
        headers={"Authorization": f"Bearer {key}"} if key else None,
        timeout=httpx2.Timeout(seconds),
        trust_env=not _here(urlsplit(server.address).hostname or ""),  # a proxy would be another machine
    ) as http:
        transport = streamable_http_client(server.address, http_client=http)
        async with Client(transport, read_timeout_seconds=seconds) as client:
            yield client


async def _fetch(
    server: Server, folder: Path, settings: ReadSettings, progress: Progress, said: TextIO
) -> _Fetched:
    """What the server has, as files in `folder`."""
    most = int(settings.max_megabytes * 2**20)
    found: dict[str, Found] = {}
    failed: list[str] = []
    async with _connected(server, settings.seconds_a_file, said) as client:
        listed = await _listed(client, server)
        for resource in track(listed, len(listed), "fetch", "resources", progress):
            uri = resource.uri
            skipped = excluded(uri, settings.exclude)
            if skipped is None and (resource.size or 0) > most:
                skipped = oversized(resource.size or 0, most)
            if skipped is not None:
                found[uri] = Found(uri, folder, resource.size or 0, skipped)
                continue
            try:
                contents = (await client.read_resource(uri)).contents
            except Exception as error:  # of this one resource
                failed.append(uri)
                found[uri] = Found(uri, folder, 0, f"not given by the server: {_message(error)}")
                continue
            for content in contents:
                source = content.uri if len(contents) > 1 else uri
                path = folder / fingerprint(source)
                found[source] = _kept(path, source, content, resource, most)
    return _Fetched(list(found.values()), tuple(failed))


async def _listed(client: Client, server: Server) -> list[Resource]:
    """All resources: those that are listed, and the templates that the arguments fill in."""
    from mcp import MCPError, Resource, UriTemplate
    from mcp.types import METHOD_NOT_FOUND

    resources: dict[str, Resource] = {}
    cursor: str | None = None
    seen: set[str] = set()
    while True:
        page = await client.list_resources(cursor=cursor)
        resources.update((resource.uri, resource) for resource in page.resources)
        cursor = page.next_cursor
        if not cursor or cursor in seen:
            break
        seen.add(cursor)
        if len(resources) > MAX_RESOURCES or len(seen) > MAX_RESOURCES:
            raise ReadError(server.address, f"lists more than {MAX_RESOURCES:,} resources")
    if server.arguments:
        try:
            templates = (await client.list_resource_templates()).resource_templates
        except MCPError as error:
            if error.code != METHOD_NOT_FOUND:
                raise
            templates = []
        for its in templates:
            template = UriTemplate.parse(its.uri_template)
            if template.variable_names and set(template.variable_names) <= server.arguments.keys():
                uri = template.expand(server.arguments)
                name = " ".join(
                    [its.title or its.name, *(server.arguments[n] for n in template.variable_names)]
                )
                resources.setdefault(uri, Resource(uri=uri, name=name, mime_type=its.mime_type))
    return list(resources.values())


def _kept(
    path: Path,
    source: str,
    content: TextResourceContents | BlobResourceContents,
    resource: Resource,
    most: int,
) -> Found:
    """A content as a file at `path`, or why it is not to be read."""
    text: str | None = getattr(content, "text", None)
    try:
        data = text.encode() if text is not None else base64.b64decode(getattr(content, "blob", ""))
    except (binascii.Error, ValueError) as error:
        return Found(source, path, 0, f"damaged: {error}")
    if len(data) > most:
        return Found(source, path, len(data), oversized(len(data), most))
    path.write_bytes(data)
    if resource.annotations is not None and resource.annotations.last_modified:
        with suppress(ValueError, OSError, OverflowError):
            changed = datetime.fromisoformat(resource.annotations.last_modified).timestamp()
            os.utime(path, (changed, changed))
    kind = content.mime_type or resource.mime_type or ""
    return Found(source, path, len(data), name=_named(source, resource, kind))


def _named(source: str, resource: Resource, kind: str) -> str:
    """A name by which the readers know what it is, and what to call it."""
    title = " ".join((resource.title or resource.name).replace("/", " ").split()) or "untitled"
    by_type = kind.partition(";")[0].strip().lower()
    by_name = [suffix_of(PurePosixPath(name).name) for name in (urlsplit(source).path, title)]
    guessed = (mimetypes.guess_extension(by_type) or "")[1:]
    known = [suffix for suffix in (SUFFIXES.get(by_type, ""), *by_name, guessed) if suffix in KINDS]
    suffix = next(iter(known), "txt")
    return title if title.lower().endswith(f".{suffix}") else f"{title}.{suffix}"


def _why(error: BaseException, said: TextIO) -> str:
    """Why the server cannot be used, in words; with the last line that it said itself."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    said.seek(0)
    lines = [line.strip() for line in said.read()[-10_000:].splitlines() if line.strip()]
    last = f"; it said: {lines[-1][:300]}" if lines else ""
    if isinstance(error, FileNotFoundError):
        return f"there is no such command ({error.filename}); type what starts the MCP server"
    return f"no MCP server answers there: {_message(error)}{last}"


def _message(error: Any) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    words = re.sub(r"\s+", " ", str(error)).strip()
    return words[:300] or type(error).__name__
