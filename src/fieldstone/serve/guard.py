"""What stands before every route: who may call from where, how much may come in, which headers go out."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from fastapi import HTTPException
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fieldstone.errors import RequestError
from fieldstone.serve.problems import respond

BODY_BYTES = 2**20
"""Of a request that uploads nothing."""

UPLOADS = "/api/documents"

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; font-src 'self'; connect-src 'self'; manifest-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Guard:
    """An ASGI layer around the whole app.

    A page of another address may not make a browser change anything here, and where `hosts` are given, it may
    not reach us by a name that it pointed at this machine. A body over its limit is refused as soon as that
    is known. A client that goes away takes its request with it.
    """

    def __init__(
        self, app: ASGIApp, *, upload_bytes: int, origins: Sequence[str] = (), hosts: Sequence[str] = ()
    ) -> None:
        self._app, self._upload_bytes = app, upload_bytes
        self._origins, self._hosts = frozenset(origins), frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        uploading = scope["method"] == "POST" and scope["path"] == UPLOADS
        limit = self._upload_bytes if uploading else BODY_BYTES
        came, started = 0, False

        async def sent(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                out = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    out.setdefault(name, value)
                out.setdefault("Cache-Control", "no-store")
            await send(message)

        async def received() -> Message:
            nonlocal came
            message = await receive()
            came += len(message.get("body", b""))
            if came > limit:
                raise HTTPException(413, _too_large(limit))
            return message

        length = headers.get("content-length", "")
        if refusal := self._refusal(scope["method"], headers):
            await respond(refusal)(scope, receive, sent)
        elif length.isdecimal() and int(length) > limit:
            await respond(HTTPException(413, _too_large(limit)))(scope, receive, sent)
        else:
            try:
                await _unless_gone(self._app, scope, received, sent)
            except Exception as error:
                if started:
                    raise
                await respond(error)(scope, receive, sent)

    def _refusal(self, method: str, headers: Headers) -> RequestError | None:
        host, origin = headers.get("host", ""), headers.get("origin")
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
        if self._hosts and name.lower() not in self._hosts:
            return RequestError(
                f"this server does not go by the name {name[:100]!r}; "
                f"call it {' or '.join(sorted(self._hosts))}",
                status=421,
                code="wrong_host",
            )
        ours = origin is None or origin in self._origins or origin.partition("://")[2] == host
        if not ours and method not in ("GET", "HEAD", "OPTIONS"):
            return RequestError(
                "a page of another address may not do this; allow it with --set serve.origins='[\"…\"]'",
                status=403,
                code="wrong_origin",
            )
        return None


async def _unless_gone(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Serve a request until its client goes away: then what works on it is cancelled."""
    messages: asyncio.Queue[Message | Exception] = asyncio.Queue(1)

    async def next_message() -> Message:
        message = await messages.get()
        if isinstance(message, Exception):
            raise message
        return message

    async def listen() -> None:
        while True:
            try:
                message = await receive()
            except HTTPException as error:
                await messages.put(error)
                return
            if message["type"] == "http.disconnect":
                working.cancel()
                return
            await messages.put(message)

    working = asyncio.ensure_future(app(scope, next_message, send))
    listening = asyncio.ensure_future(listen())
    try:
        await asyncio.wait([working])
    finally:  # cancelled itself, at the latest by a server that ends
        listening.cancel()
        if not working.done():
            working.cancel()
            await asyncio.wait([working])
    with suppress(asyncio.CancelledError):
        working.result()


def _too_large(limit: int) -> str:
    return f"the request is larger than {limit / 2**20:g} MiB; send less at a time"
