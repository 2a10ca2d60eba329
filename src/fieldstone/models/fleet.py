"""Several servers of one model: the one with the least to do is asked, one that fails is left in peace."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock

LONGEST_WAIT = 60.0
"""Seconds; a server that asks for more is taken at its word no further."""

LONGEST_REST = 10.0
"""Seconds after which a server that failed is tried again at the latest."""


def servers_of(name: str) -> list[str]:
    """The names in a name: `http://a/v1#model,http://b/v1#model` are two."""
    return [its.strip() for its in re.split(r",(?=\s*https?:)", name)]


@dataclass(slots=True)
class Server:
    """One of them: how many requests it has now and has had, how often it failed in a row."""

    url: str
    busy: int = 0
    asked: int = 0
    failures: int = 0
    rests_until: float = 0.0  # on the clock of time.monotonic


class Fleet:
    """Servers that stand in for one another; safe in many threads.

    A server that failed rests for `wait` seconds, doubled with each failure in a row, or for as long as it
    asks to itself (`Retry-After`); meanwhile the others are asked.
    """

    def __init__(self, urls: Sequence[str], wait: float) -> None:
        self.servers = [Server(url) for url in urls]
        self._wait = wait
        self._lock = Lock()

    def take(self) -> Server:
        """The server that has the least to do and does not rest; where all rest, the first to be done."""
        while True:
            with self._lock:
                now = time.monotonic()
                if awake := [server for server in self.servers if server.rests_until <= now]:
                    chosen = min(awake, key=lambda server: (server.busy, server.asked))
                    chosen.busy += 1
                    chosen.asked += 1
                    return chosen
                pause = min(server.rests_until for server in self.servers) - now
            time.sleep(pause)

    def let_go(self, server: Server) -> None:
        """Its request is over."""
        with self._lock:
            server.busy -= 1

    def succeeded(self, server: Server) -> None:
        """It answers."""
        with self._lock:
            server.failures = 0

    def failed(self, server: Server, failures: int, patience: float | None) -> None:
        """It had failed so many times when it was asked, and has again; `patience`: what it asks for.

        Of requests that fail together one counts.
        """
        with self._lock:
            if server.failures == failures:
                server.failures += 1
            pause = min(LONGEST_WAIT, patience or 0.0)
            if patience is None:
                pause = min(LONGEST_REST, self._wait * 2 ** (server.failures - 1))
            until = time.monotonic() + pause
            server.rests_until = max(server.rests_until, until)
