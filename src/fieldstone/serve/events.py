"""Server-sent events: what happens is told as it happens, and the line is kept open while nothing does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi.responses import StreamingResponse
from pydantic_core import to_json
from starlette.types import Receive, Scope, Send

from fieldstone.serve.problems import as_json, as_request_error

PING = 15.0
"""Seconds of silence after which a comment is sent, so that nothing on the way cuts the line."""

HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


def event(data: Any, name: str = "") -> bytes:
    """One event; a name where the client tells events apart by it."""
    return (f"event: {name}\n" if name else "").encode() + b"data: " + to_json(data) + b"\n\n"


class EventStream(StreamingResponse):
    """A response made of events, which ends by the loop's time `ends` at the latest.

    Where they end in an error, that becomes the last event: by the name `error`, or as `broken` has it.
    """

    def __init__(
        self,
        events: AsyncIterator[bytes],
        ends: float | None,
        broken: Callable[[dict[str, object]], bytes] = lambda told: event(told, "error"),
    ) -> None:
        self._told = _told(events, ends, broken)
        super().__init__(self._told, media_type="text/event-stream", headers=HEADERS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it; the events end with it, however it ends."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._told.aclose()


async def _told(
    events: AsyncIterator[bytes], ends: float | None, broken: Callable[[dict[str, object]], bytes]
) -> Any:
    coming: asyncio.Future[bytes] | None = None
    try:
        while True:
            coming = coming or asyncio.ensure_future(_next(events))
            left = PING if ends is None else ends - asyncio.get_running_loop().time()
            await asyncio.wait([coming], timeout=max(0, min(PING, left)))
            if not coming.done():
                if left <= 0:
                    raise TimeoutError
                yield b": still at it\n\n"
                continue
            told, coming = coming.result(), None
            if not told:
                return
            yield told
    except Exception as error:
        yield broken(as_json(as_request_error(error)))
    finally:
        if coming is not None:
            coming.cancel()
            await asyncio.wait([coming])
        close = getattr(events, "aclose", None)
        if close is not None:
            await close()


async def _next(events: AsyncIterator[bytes]) -> bytes:
    """The next event; an empty one after the last."""
    return await anext(events, b"")
