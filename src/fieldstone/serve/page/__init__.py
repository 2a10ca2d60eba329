"""The web page: plain files, served from memory with their types, that ask nothing of any other server."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from importlib.resources import files

from fastapi import FastAPI, Request, Response

TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}

POLICY = (
    "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
"""Nothing but our own files; and the browser itself refuses to take any text for HTML."""


def mount_page(app: FastAPI) -> None:
    """Serve the page at `/`, its files under `/page/`.

    A browser asks each time whether a file has changed, and is told no for nothing: a new version is seen at
    once.
    """
    for file in files(__name__).iterdir():
        type_ = TYPES.get(file.name.rpartition(".")[2])
        if type_ is not None:
            path = "/" if file.name == "index.html" else f"/page/{file.name}"
            route = _serve(file.read_bytes(), type_)
            app.add_api_route(path, route, methods=["GET", "HEAD"], include_in_schema=False)


def _serve(content: bytes, type_: str) -> Callable[[Request], Response]:
    tag = f'"{blake2b(content, digest_size=8).hexdigest()}"'
    headers = {
        "Content-Security-Policy": POLICY,
        "Cache-Control": "no-cache",
        "ETag": tag,
        "X-Content-Type-Options": "nosniff",
    }

    def serve(request: Request) -> Response:
        if tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=type_, headers=headers)

    return serve
