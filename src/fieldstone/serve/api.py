"""Fieldstone's own API: search, ask, and what is served."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from time import perf_counter
from typing import Any

from fastapi import APIRouter, Request, Response

from fieldstone.errors import RequestError
from fieldstone.serve.engine import Found, Reply
from fieldstone.serve.events import EventStream, event
from fieldstone.serve.served import Here, reply
from fieldstone.serve.shapes import (
    AskReply,
    AskRequest,
    SearchReply,
    SearchRequest,
    Workspaces,
    answer_as_json,
    hits_as_json,
)
from fieldstone.serve.share import shared_answer

routes = APIRouter(prefix="/api")

STREAMED: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {
            "text/event-stream": {
                "example": 'event: asked\ndata: {"asked":"When may ships pass Marrow Lock?"}\n\n'
                'event: hits\ndata: {"hits":[]}\n\nevent: text\ndata: {"text":"two hours"}\n\n'
                'event: answer\ndata: {"id":"…","text":"two hours","citations":[]}\n\n',
            }
        }
    }
}


@routes.post("/search", response_model=SearchReply, tags=["search and ask"])
async def search(given: SearchRequest, request: Request, here: Here) -> Response:
    """The passages that fit a question best; the second look that answering takes is taken if asked for."""
    began = perf_counter()
    engine = here.engine(request, given.workspace)
    only = given.filter.as_filter() if given.filter else None
    async with here.time():
        found = await engine.search(given.question, given.k, only, rerank=given.rerank)
    hits = hits_as_json(found.hits, found.sources)
    return reply({"workspace": engine.name, "hits": hits, "seconds": perf_counter() - began})


@routes.post("/ask", response_model=AskReply, responses=STREAMED, tags=["search and ask"])
async def ask(given: AskRequest, request: Request, here: Here) -> Response:
    """An answer out of the documents, with the sentence it stands on; or that they do not answer.

    With `stream` the events are `asked` (the question as it was understood), `hits`, `text` (pieces of the
    answer), and `answer` (the whole; its text counts, should it differ from the pieces) or `error`.
    """
    engine = here.engine(request, given.workspace, asking=True)
    shared = given.shared or here.shares(request)
    if shared and (given.stream or given.filter or given.history):
        raise RequestError(
            "what is shared is a whole answer to a question that stands by itself; leave out stream, filter "
            "and history",
            param="shared",
        )
    only = given.filter.as_filter() if given.filter else None
    async with here.time() as limit:
        asked = await engine.self_contained(given.question, [turn.as_turn() for turn in given.history])
        id_ = f"ans-{secrets.token_hex(12)}"
        head = {"id": id_, "workspace": engine.name, "question": given.question, "asked": asked}
        if given.stream:
            return EventStream(_told(engine.stream(asked, only), head, here), limit.when())
        got = await engine.ask(asked, only)
        await here.answered(id_, engine.name, given.question, asked, got)
    if shared:
        return reply({**head, **shared_answer(got.answer, got.sources, engine.settings.share)})
    return reply({**head, **answer_as_json(got.answer, got.sources)})


@routes.get("/workspaces", response_model=Workspaces, tags=["documents"])
def workspaces(request: Request, here: Here) -> Response:
    """The workspaces that the key opens."""
    here.engine(request, None)
    listed = []
    for engine in here.opened(request):
        library = engine.workspace.library()
        try:
            counts = library.counts()
        finally:
            library.close()
        size = {"documents": counts.documents, "passages": counts.passages}
        listed.append({"name": engine.name, "ready": engine.ready, **size})
    return reply({"workspaces": listed})


async def _told(
    events: AsyncIterator[Found | str | Reply], head: dict[str, str], here: Here
) -> AsyncIterator[bytes]:
    yield event({"asked": head["asked"]}, "asked")
    async for part in events:
        if isinstance(part, Found):
            yield event({"hits": hits_as_json(part.hits, part.sources)}, "hits")
        elif isinstance(part, str):
            yield event({"text": part}, "text")
        else:
            await here.answered(head["id"], head["workspace"], head["question"], head["asked"], part)
            yield event({**head, **answer_as_json(part.answer, part.sources)}, "answer")
