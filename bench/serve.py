"""What `fieldstone serve` bears: many clients at once against one at a time, and searches a second.

A server of its own is started for a workspace. Its questions are put in turns: by one client, which waits for
each answer, and by many, who ask again as soon as they are answered; who is told 429 waits as long as told.
Then the same for searches, and beside them what the encoder alone does with as many questions at once. The
clients run on the same cores as the server, and cost it something.

    python bench/serve.py WORKSPACE $FIELDSTONE_DATA/squad/squad8_questions.jsonl
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path

import numpy as np

from fieldstone.evaluate.questions import read_questions
from fieldstone.models import load_encoder
from fieldstone.recipes import choose_settings
from fieldstone.workspace import open_workspace
from machine import begin, spread, table

MEMORY = 5
"""So many times the server's memory is looked at in a round."""


@dataclass
class Round:
    """What some clients saw: seconds of each answer, statuses; and what the server held all along, in MiB."""

    clients: int
    length: float
    seconds: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    memory: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.seconds) / self.length


def main() -> None:
    """Start, ask, print a table of answers and one of searches."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("workspace", type=Path)
    parser.add_argument("questions", type=Path)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--paths", default="/api/ask,/api/search", help="what is asked, with commas between")
    parser.add_argument("--seconds", type=float, default=60, help="a round")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = begin(parser)
    questions = [its.question for its in read_questions(arguments.questions)]
    with serving(arguments.workspace) as (server, port, first):
        print(f"from start to first answer: {first:.1f} s\n")
        for path in arguments.paths.split(","):
            alone, together = [], []
            for _ in range(arguments.rounds):
                alone.append(ask(port, path, questions, 1, arguments.seconds, server))
                together.append(ask(port, path, questions, arguments.clients, arguments.seconds, server))
            show(path, alone, together)
    if encoder := choose_settings(None, open_workspace(arguments.workspace).stored_settings()).models.encoder:
        model, batch, rates = load_encoder(encoder, threads=arguments.threads), questions[:64], []
        for _ in range(arguments.rounds + 1):
            began = time.perf_counter()
            model.encode_queries(batch)
            rates.append(len(batch) / (time.perf_counter() - began))
        print(f"{encoder} alone, {len(batch)} questions at once: {spread(rates[1:], 0)} a second")


@contextmanager
def serving(workspace: Path) -> Iterator[tuple[int, int, float]]:
    """A server for this workspace: its process id, its port, and the seconds until its first answer."""
    with tempfile.TemporaryFile("w+") as log:
        began = time.perf_counter()
        command = [sys.executable, "-m", "fieldstone.cli", "serve", str(workspace), "--port", "0", "--open"]
        process = subprocess.Popen(command, stderr=log)
        try:
            port = 0
            while not port:
                time.sleep(0.02)
                log.seek(0)
                found = re.search(r"http://[^ ]+:(\d+)", log.read())
                port = int(found[1]) if found else 0
                if process.poll() is not None:
                    log.seek(0)
                    sys.exit(log.read())
            while asyncio.run(_once(port, "/api/ask", {"question": "Who?"})) != 200:
                time.sleep(0.05)
            yield process.pid, port, time.perf_counter() - began
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)


def ask(port: int, path: str, questions: Sequence[str], clients: int, seconds: float, server: int) -> Round:
    """So many clients ask the server of this process id for so long."""
    result, asked = Round(clients, seconds), cycle(questions)

    async def client(ends: float) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while (began := time.perf_counter()) < ends:
            status, wait = await _request(reader, writer, path, {"question": next(asked)})
            result.statuses[status] += 1
            if status == 200 and time.perf_counter() < ends:
                result.seconds.append(time.perf_counter() - began)
            await asyncio.sleep(min(wait, max(0, ends - time.perf_counter())))
        writer.close()

    async def watch(ends: float) -> None:
        while time.perf_counter() < ends:
            await asyncio.sleep(seconds / MEMORY)
            status = Path(f"/proc/{server}/status")
            held = re.search(r"VmRSS:\s+(\d+)", status.read_text()) if status.exists() else None
            result.memory.append(int(held[1]) / 1024 if held else 0.0)

    async def everyone() -> None:
        ends = time.perf_counter() + seconds
        await asyncio.gather(watch(ends), *(client(ends) for _ in range(clients)))

    asyncio.run(everyone())
    return result


async def _once(port: int, path: str, body: dict[str, object]) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    status, _ = await _request(reader, writer, path, body)
    writer.close()
    return status


async def _request(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str, body: dict[str, object]
) -> tuple[int, float]:
    """Status, and how long the server asks to wait; by hand: a client library costs as much as a search."""
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
    lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
    await reader.readexactly(int(headers["content-length"]))
    return int(lines[0].split()[1]), float(headers.get("retry-after", 0))


def show(path: str, alone: Sequence[Round], together: Sequence[Round]) -> None:
    """Rates, waiting times, refusals, memory; and how many times as many are answered at once."""
    rows = []
    for rounds in (alone, together):
        taken = [value for its in rounds for value in its.seconds] or [0.0]
        refused = sum(its.statuses[429] for its in rounds)
        failed = sum(sum(its.statuses.values()) - its.statuses[200] - its.statuses[429] for its in rounds)
        rows.append(
            [
                f"{rounds[0].clients} at once",
                spread([its.rate for its in rounds], 2),
                f"{np.percentile(taken, 50):.3f}",
                f"{np.percentile(taken, 95):.3f}",
                str(refused),
                str(failed),
                " ".join(f"{held:,.0f}" for held in rounds[-1].memory),
            ]
        )
    title = f"{path}, {len(alone)} x {alone[0].length:.0f} s"
    table([title, "a second", "p50 s", "p95 s", "429", "failed", "MiB, of the last"], rows)
    ratios = [many.rate / one.rate for one, many in zip(alone, together, strict=True) if one.rate]
    print(f"at once / one at a time: {spread(ratios, 2)}\n")


if __name__ == "__main__":
    main()
