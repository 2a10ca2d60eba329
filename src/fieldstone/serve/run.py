"""The app on a socket, until it is told to stop."""

from __future__ import annotations

import socket
from contextlib import suppress

import uvicorn
from fastapi import FastAPI

from fieldstone.errors import SettingsError
from fieldstone.serve.served import Served

GRACE = 15
"""Seconds that requests under way have to end, once the server is told to stop."""


class Server(uvicorn.Server):
    """A server that ends well: what waits is turned down, streams get an end, the rest is finished."""

    def __init__(self, app: FastAPI) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                lifespan="on",
                ws="none",
                timeout_graceful_shutdown=GRACE,
            )
        )
        self._served: Served = app.state.served

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End, in the order in which nobody is left waiting."""
        self._served.stop()
        await super().shutdown(sockets)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there; port 0 is any free one. Raises SettingsError where it cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise SettingsError(
            f"the server cannot listen at {host}, port {port} ({why}); name another with --host or --port"
        ) from None


def run(app: FastAPI, listening: socket.socket) -> None:
    """Serve until SIGINT or SIGTERM; a second SIGINT waits for nothing."""
    with suppress(KeyboardInterrupt):  # uvicorn sends the signal once more when all is over
        Server(app).run([listening])
