"""Many files to documents, in child processes: a file may crash, hang or eat memory, and the rest goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from queue import LifoQueue
from threading import Event, Lock, Timer
from typing import Any

from fieldstone.errors import FieldstoneError
from fieldstone.read.find import Found
from fieldstone.records import Document, Heading

_START = "import sys; sys.path[:] = sys.argv[3:]; from fieldstone.read.child import main; main({}, {})"
_AHEAD = 4  # files a worker may be ahead of who takes the results


@dataclass(frozen=True, slots=True)
class Limits:
    """What one file may take: `seconds` by the clock, `memory` in bytes of address space."""

    seconds: float = 60.0
    memory: int = 1536 * 2**20


@dataclass(frozen=True, slots=True)
class ReadResult:
    """What became of one file: its documents, or the `reason` why it gives no text.

    `content_hash` is the fingerprint of the file's bytes, empty if they were not read; `warnings` name the
    parts of it that gave no text.
    """

    source: str
    content_hash: str
    documents: tuple[Document, ...]
    reason: str | None = None
    warnings: tuple[str, ...] = ()


def read_files(
    files: Iterable[Found], limits: Limits | None = None, workers: int | None = None
) -> Iterator[ReadResult]:
    """What became of each file, in the order of `files`; those to be skipped come with their reason.

    Each of the `workers` (default: one a processor, eight at most) is a child process that starts with its
    first file. Ending the iteration early, by Ctrl-C too, ends them.
    """
    limits = limits or Limits()
    workers = workers or min(os.cpu_count() or 1, 8)
    children = [Child(limits) for _ in range(workers)]
    idle: LifoQueue[Child] = LifoQueue()  # last in, first out: few files start few children
    for child in children:
        idle.put(child)

    def read(found: Found) -> ReadResult:
        child = idle.get()
        try:
            return child.read(found)
        finally:
            idle.put(child)

    pending: deque[Future[ReadResult] | ReadResult] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="read")
    try:
        for found in files:
            if found.skipped is not None:
                pending.append(ReadResult(found.source, "", (), found.skipped))
            else:
                pending.append(pool.submit(read, found))
            while len(pending) > _AHEAD * workers:
                yield _taken(pending.popleft())
        while pending:
            yield _taken(pending.popleft())
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for child in children:
            child.close()
        pool.shutdown()


def _taken(result: Future[ReadResult] | ReadResult) -> ReadResult:
    return result if isinstance(result, ReadResult) else result.result()


class Child:
    """One worker: a child process, started when needed and again after each death."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = Lock()  # between starting and closing, which come from two threads
        self._closed = False

    def read(self, found: Found) -> ReadResult:
        """Ask for one file; a child that dies over it is the reason why there is no text."""
        process = self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        late = Event()

        def stop() -> None:
            late.set()
            process.kill()

        timer = Timer(self._limits.seconds, stop)
        timer.start()
        try:
            request = json.dumps({"path": str(found.path), "source": found.name or found.source})
            process.stdin.write(request.encode("ascii") + b"\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except (BrokenPipeError, ValueError):  # it is dead, or closed under us
            line = b""
        finally:
            timer.cancel()
        with suppress(ValueError, KeyError, TypeError):  # no answer, or half of one
            return _result(found, json.loads(line))
        return ReadResult(found.source, "", (), self._last_words(process, late.is_set()))

    def close(self) -> None:
        """End the process, whatever it is at, and start no other."""
        with self._lock:
            self._closed = True
            if self._process is not None:
                _end(self._process)

    def _running(self) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._closed:
                raise FieldstoneError("reading has been ended")
            if self._process is None or self._process.poll() is not None:
                self._process = _started(self._limits)
            return self._process

    def _last_words(self, process: subprocess.Popen[bytes], late: bool) -> str:
        """Why the child died."""
        _end(process)
        code = process.returncode
        if late or code == -getattr(signal, "SIGALRM", 0):
            return f"took longer than {self._limits.seconds:g} s and was stopped"
        name = signal.Signals(-code).name if -code in list(signal.Signals) else f"exit status {code}"
        return (
            f"ended the process that read it ({name}): damaged, hostile, "
            f"or in need of more than {self._limits.memory / 2**20:,.0f} MiB of memory"
        )


def _started(limits: Limits) -> subprocess.Popen[bytes]:
    """A child that has said that it is ready; it finds modules where this process does."""
    code = _START.format(int(limits.memory), float(limits.seconds))
    # -P keeps the folder we stand in, which may be the strangers' folder, off the path of modules.
    command = [sys.executable, "-P", "-c", code, "", "", *filter(None, sys.path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout is not None
    if process.stdout.readline() != b"ready\n":
        _end(process)
        raise FieldstoneError(
            "the process that reads files does not start; "
            f"to see why, type: {sys.executable} -c 'import fieldstone.read.child'"
        )
    return process


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the process if it lives, and let go of its pipes."""
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(BrokenPipeError):  # a request that it never took
                pipe.close()


def _result(found: Found, reply: dict[str, Any]) -> ReadResult:
    """What the child answered, as records again."""
    documents = tuple(
        Document.new(
            found.source,
            document["title"],
            document["text"],
            document["metadata"],
            tuple(Heading(*heading) for heading in document["headings"]),
            tuple(document["pages"]),
        )
        for document in reply["documents"]
    )
    return ReadResult(
        found.source, reply["content_hash"], documents, reply["reason"], tuple(reply["warnings"])
    )
