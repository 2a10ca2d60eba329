"""Documents over HTTP: listed, uploaded, removed, and read as text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, TypeVar

from fastapi import APIRouter, Query, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from fieldstone.errors import RequestError
from fieldstone.library import Library
from fieldstone.serve.engine import Engine
from fieldstone.serve.served import Here, reply
from fieldstone.serve.shapes import (
    DocumentShape,
    Files,
    PassageReply,
    Removed,
    Short,
    Uploaded,
    file_as_json,
)

T = TypeVar("T")

Named = Annotated[Short | None, Query(description="Which workspace; the first one if not said.")]

MULTIPART = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": {
                            "type": "array",
                            "minItems": 1,
                            "items": {"type": "string", "format": "binary"},
                        }
                    },
                }
            }
        },
    }
}

routes = APIRouter(prefix="/api", tags=["documents"])


@routes.get("/documents", response_model=Files)
def documents(
    request: Request,
    here: Here,
    workspace: Named = None,
    after: Annotated[str, Query(max_length=4000, description="Those behind this source.")] = "",
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Response:
    """The files of a workspace, in order of their source, and what is being worked in."""
    engine = here.engine(request, workspace)
    files = _read(engine, lambda library: library.file_states(after, limit + 1))
    return reply(
        {
            "workspace": engine.name,
            "documents": [file_as_json(file) for file in files[:limit]],
            "next": files[limit - 1].source if len(files) > limit else None,
            "progress": here.upkeep[engine.name].progress,
        }
    )


@routes.post("/documents", response_model=Uploaded, status_code=202, openapi_extra=MULTIPART)
async def upload(request: Request, here: Here, workspace: Named = None) -> Response:
    """Take in files; once this is answered they are kept, and soon they can be found.

    A file of the same name takes the place of the one before. The form's field is `file`, as often as there
    are files.
    """
    engine = here.engine(request, workspace, admin=True)
    upkeep = here.upkeep[engine.name]
    async with request.form(max_files=1000, max_fields=10) as form:
        files = [
            (part.filename or "", part.file) for part in form.getlist("file") if isinstance(part, UploadFile)
        ]
        if not files:
            raise RequestError(
                "there is no file in it; send multipart/form-data with a field named file", param="file"
            )
        most = int(engine.settings.read.max_megabytes * 2**20)
        sources = await run_in_threadpool(upkeep.keep, files, most)
    upkeep.wake(sources)
    return reply({"workspace": engine.name, "accepted": sources}, 202)


@routes.delete("/documents", response_model=Removed)
async def remove(
    request: Request,
    here: Here,
    source: Annotated[str, Query(min_length=1, max_length=4000, examples=["uploads/tariff.pdf"])],
    workspace: Named = None,
) -> Response:
    """Take a file out of the workspace; an upload is deleted.

    What lies in a folder that was added stays there. It comes back when somebody builds or adds that folder
    again, and not by itself where the folder is followed.
    """
    engine = here.engine(request, workspace, admin=True)
    async with here.time():
        deleted = await here.upkeep[engine.name].remove(source)
    return reply({"workspace": engine.name, "source": source, "file_deleted": deleted})


@routes.get("/documents/{id}", response_model=DocumentShape)
def document(request: Request, here: Here, id: str, workspace: Named = None) -> Response:
    """A document as text, whatever it was made from."""
    engine = here.engine(request, workspace)

    def found(library: Library) -> Response:
        its = library.document(id)
        return reply(
            {
                "id": its.id,
                "source": its.source,
                "title": its.title,
                "text": its.text,
                "metadata": dict(its.metadata),
                "headings": [{"level": h.level, "text": h.text, "start": h.start} for h in its.headings],
                "pages": list(its.pages),
            }
        )

    try:
        return _read(engine, found)
    except KeyError:
        raise _gone("document", id) from None


@routes.get("/passages/{id}", response_model=PassageReply)
def passage(request: Request, here: Here, id: str, workspace: Named = None) -> Response:
    """A passage, and the document it is of."""
    engine = here.engine(request, workspace)

    def found(library: Library) -> Response:
        for its in library.passages([id]):
            source, title = library.sources([its.document_id]).get(its.document_id, ("", ""))
            place = {"start": its.start, "end": its.end, "headings": list(its.headings), "page": its.page}
            known = {"id": its.id, "document_id": its.document_id, "text": its.text}
            return reply({**known, **place, "source": source, "title": title})
        raise _gone("passage", id)

    return _read(engine, found)


def _read(engine: Engine, what: Callable[[Library], T]) -> T:
    """Something read out of the library, by a connection of its own."""
    library = engine.workspace.library()
    try:
        with library.snapshot():
            return what(library)
    finally:
        library.close()


def _gone(kind: str, id_: str) -> RequestError:
    return RequestError(
        f"there is no {kind} {id_[:100]!r}; it may have changed since",
        status=404,
        code="not_found",
        param="id",
    )
