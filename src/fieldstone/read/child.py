"""The child process that reads strangers' files: bounded in memory, without a network.

It is asked a line at a time and answers a line at a time, in JSON: whatever a file makes of this process,
its answer is only ever text to the parent. It ends with its standard input.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

from fieldstone.errors import ReadError
from fieldstone.read.file import TOO_LARGE, ReadWarning, load, read_bytes
from fieldstone.records import Document, fingerprint

_GRACE = 5  # seconds after the parent's limit


def main(memory: int, seconds: float) -> None:
    """Read the files that standard input names, until it ends; `memory` in bytes, `seconds` a file."""
    if hasattr(signal, "SIGINT"):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this process
    # The pipes are ours alone: a library that prints must not answer in our place.
    requests = os.fdopen(os.dup(0), "rb")
    replies = os.fdopen(os.dup(1), "wb")
    try:
        replies.write(b"ready\n")
        replies.flush()
    except BrokenPipeError:  # the parent was killed while we started
        os._exit(0)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    sys.addaudithook(_refuse_network)
    _limit_memory(memory)
    for line in requests:
        if hasattr(signal, "alarm"):  # the parent keeps the time; this is for when it is gone
            signal.alarm(int(seconds) + _GRACE)
        replies.write(_reply(**json.loads(line)) + b"\n")
        replies.flush()


def _reply(path: str, source: str) -> bytes:
    """The answer to one request."""
    reply: dict[str, Any] = {"content_hash": "", "documents": [], "reason": None}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", ReadWarning)
        try:
            data, stamp = load(Path(path), source)
            reply["content_hash"] = fingerprint(data)
            reply["documents"] = [_plain(document) for document in read_bytes(data, source, stamp)]
        except ReadError as error:
            reply["reason"] = error.reason
    reply["warnings"] = [str(warning.message) for warning in caught]
    try:
        return json.dumps(reply).encode("ascii")
    except MemoryError:
        return json.dumps({**reply, "documents": [], "reason": TOO_LARGE}).encode("ascii")


def _plain(document: Document) -> dict[str, Any]:
    """The document as JSON knows it."""
    headings = [[heading.level, heading.text, heading.start] for heading in document.headings]
    return {
        "source": document.source,
        "title": document.title,
        "text": document.text,
        "metadata": dict(document.metadata),
        "headings": headings,
        "pages": document.pages,
    }


def _refuse_network(event: str, _arguments: tuple[Any, ...]) -> None:
    """An audit hook, which no code in this process can take away again."""
    if event.startswith(("socket.", "urllib.Request", "ftplib.", "http.client.")):
        raise PermissionError(f"reading a file fetches nothing: {event} is refused")


def _limit_memory(memory: int) -> None:
    """Bound the address space, where the system can."""
    try:
        import resource
    except ImportError:  # Windows: the time limit holds alone
        return
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
