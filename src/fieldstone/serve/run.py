"""The app on a socket, until it is told to stop."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Thread

import uvicorn
from fastapi import FastAPI

from fieldstone.errors import SettingsError, WorkspaceError
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


@contextmanager
def serving(app: FastAPI, host: str = "127.0.0.1", port: int = 0) -> Iterator[str]:
    """Serve in a thread of this program until the block ends: the address, once all workspaces can be asked.

    Raises SettingsError where it cannot listen there, WorkspaceError where a workspace cannot be opened.
    """
    served: Served = app.state.served
    with listen(host, port) as listening:
        server = Server(app)
        thread = Thread(target=server.run, args=([listening],), name="fieldstone-serving")
        thread.start()
        try:
            while not all(engine.ready for engine in served.engines.values()):
                problems = [its.problem for its in served.engines.values() if its.problem]
                if problems or not thread.is_alive():
                    raise WorkspaceError(
                        problems[0] if problems else "the server has ended; its log says why"
                    )
                time.sleep(0.02)
            name = f"[{host}]" if ":" in host else host
            yield f"http://{name}:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
