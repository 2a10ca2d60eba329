"""The log of a server: plain lines for people, or one JSON object a line for what collects logs.

What people ask and what they are answered is in neither, nor is a key.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Literal

PLAIN = "%(asctime)s %(levelname)s %(message)s"

PATH_CHARACTERS = 200

requests = logging.getLogger("fieldstone.requests")
requests.setLevel(logging.WARNING)  # a line a request is for machines
_FACTS = "facts"


_CONTROLS = dict.fromkeys([*range(32), *range(127, 160)], "\ufffd")


class PlainLines(logging.Formatter):
    """A record on one line, whatever a file or a client is called: nobody writes lines of their own."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (the name is logging's)
        """The line, without a traceback."""
        return super().formatMessage(record).translate(_CONTROLS)


class JsonLines(logging.Formatter):
    """A record as an object on one line: time (UTC), level, logger, message, and what a request was."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        told: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, _FACTS, {}),
        }
        if record.exc_info:
            told["traceback"] = self.formatException(record.exc_info)
        return json.dumps(told, default=str)


def set_up(kind: Literal["plain", "json"], level: int) -> None:
    """Log to stderr, all libraries together; `level` is that of what Fieldstone says itself."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if kind == "json" else PlainLines(PLAIN))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("fieldstone").setLevel(level)
    if kind == "json":
        logging.captureWarnings(True)
        requests.setLevel(level)


def log_request(method: str, path: str, status: int, seconds: float, who: Mapping[str, str | None]) -> None:
    """A line for a request: the path without its query; `who` holds the names of workspace and key."""
    path, milliseconds = path[:PATH_CHARACTERS], round(seconds * 1000, 1)
    facts = {"method": method, "path": path, "status": status, "milliseconds": milliseconds, **who}
    requests.info("%s %s %d", method, path, status, extra={_FACTS: facts})
