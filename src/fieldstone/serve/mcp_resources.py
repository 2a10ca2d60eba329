"""The documents of libraries as MCP resources: `fieldstone://WORKSPACE/documents/ID`, a long one in parts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from urllib.parse import parse_qs, quote, unquote, urlsplit

from mcp import MCPError, Resource
from mcp.types import (
    INVALID_PARAMS,
    ListResourcesResult,
    ListResourceTemplatesResult,
    ReadResourceResult,
    ResourceTemplate,
    TextResourceContents,
)

from fieldstone.errors import RequestError
from fieldstone.library import Library
from fieldstone.serve import tools
from fieldstone.serve.engine import Engine

LISTED = 100
"""Resources a page."""

SCHEME = "fieldstone"


async def list_documents(engines: Mapping[str, Engine], cursor: str | None) -> ListResourcesResult:
    """A page of documents, one workspace after the other."""
    names = list(engines)
    try:
        name, source, id_ = json.loads(cursor) if cursor else [next(iter(names), ""), "", ""]
        place = names.index(name)
        after = (str(source), str(id_))
        "".join(after).encode()  # half a character is none
    except (ValueError, TypeError, RecursionError):
        raise MCPError(INVALID_PARAMS, "no such cursor; list the resources from the start") from None
    engine = engines[name]
    rows = await tools.from_library(engine, lambda library: library.listed(after, LISTED))
    following: list[str] | None = None
    if len(rows) == LISTED:
        following = [name, *rows[-1][:2]]
    elif place + 1 < len(names):
        following = [names[place + 1], "", ""]
    return ListResourcesResult(
        resources=[
            Resource(uri=_uri(name, "documents", id_), name=source, title=title, mime_type="text/plain")
            for source, id_, title in rows
        ],
        next_cursor=json.dumps(following) if following else None,
    )


def templates(workspaces: Sequence[str]) -> ListResourceTemplatesResult:
    """How documents and passages are addressed."""
    return ListResourceTemplatesResult(
        resource_templates=[
            ResourceTemplate(
                uri_template=f"{_uri(name, kind)}/{{id}}{more}",
                name=kind,
                description=what,
                mime_type="text/plain",
            )
            for name in workspaces
            for kind, more, what in (
                ("documents", "{?start}", f"A document of {name} as text, from a place on"),
                ("passages", "", f"A passage of {name}"),
            )
        ]
    )


async def read_document(engines: Mapping[str, Engine], uri: str) -> ReadResourceResult:
    """A resource; a long document comes in parts, and each but the last ends with where the next one is."""
    try:
        parts = urlsplit(uri)
        kind, _, id_ = parts.path.lstrip("/").partition("/")
        start = int(parse_qs(parts.query).get("start", ["0"])[0])
    except ValueError:
        kind, start = "", 0
    if kind not in ("documents", "passages") or parts.scheme != SCHEME or start < 0:
        raise RequestError(f"there is no resource {uri[:200]!r}; resources/list says what there is")
    engine = tools.chosen(engines, unquote(parts.netloc))

    def read(library: Library) -> tools.FetchResult:
        return tools.part_of(library, engine.name, unquote(id_), start)

    got = await tools.from_library(engine, read)
    more = f"\n\n(goes on: {_uri(engine.name, kind, got.document_id)}?start={got.next})" if got.next else ""
    return ReadResourceResult(
        contents=[TextResourceContents(uri=uri, mime_type="text/plain", text=got.text + more)]
    )


def _uri(workspace: str, kind: str, id_: str = "") -> str:
    return f"{SCHEME}://{quote(workspace, safe='')}/{kind}" + (f"/{id_}" if id_ else "")
