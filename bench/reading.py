"""How fast files are read and split, against pypdf, markitdown and unstructured on the same files.

Each reads all files with so many processes, ours with its limits and its child processes; the peers have
loaded what they need before the clock starts, ours starts its children within it. A page is 3,000 characters
where the format has none. `words` is the share of the peer's words that ours gives too, the median of the
files: what one of them reads the other should read.

Peers that are not installed here live in an environment of their own, whose Python is named with --peers:

    python -m venv PEERS && PEERS/bin/pip install pypdf 'markitdown[pdf]' 'unstructured[md]'
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from fieldstone.models import Encoder, load_encoder
from fieldstone.read import Found, ReadResult, find_files, read_files
from fieldstone.records import Document
from fieldstone.split import split_document
from machine import begin, spread, table

PAGE = 3_000

PEERS = {
    "pypdf": "from pypdf import PdfReader\n"
    "def read(path): return '\\n'.join(page.extract_text() for page in PdfReader(path).pages)",
    "markitdown": "from markitdown import MarkItDown\nmade = MarkItDown(enable_plugins=False)\n"
    "def read(path): return made.convert(path).text_content",
    "unstructured": "from unstructured.partition.auto import partition\n"
    "def read(path): return '\\n'.join(str(e) for e in partition(filename=path, strategy='fast'))",
}
"""What each peer does with a file."""

RUN = """
import json, sys, time
from multiprocessing import get_context
def safely(path):
    try: return read(path)
    except Exception as error: return None
def ready(_): return time.sleep(0.2)
if __name__ == "__main__":
    paths, workers = json.load(sys.stdin)
    with get_context("fork").Pool(workers) as pool:
        pool.map(ready, range(workers), 1)
        safely(paths[0])
        began = time.perf_counter()
        texts = pool.map(safely, paths, 1)
        seconds = time.perf_counter() - began
    json.dump([seconds, texts], sys.stdout)
"""


def main() -> None:
    """Each set of files by each reader."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--peers", default=sys.executable, help="the Python of the environment with the peers"
    )
    parser.add_argument("--runs", type=int, default=3, help="times that each set is read (default 3)")
    parser.add_argument("--sets", nargs="*", metavar="WORD", help="sets with such a word in their name")
    arguments = begin(parser)
    root = Path(os.environ["FIELDSTONE_DATA"])
    sets = {
        "Python docs, rst": root / "documents" / "python_docs_rst",
        "Docker docs, md": root / "documents" / "docker_docs_1.12_md",
        "Wikipedia, html": root / "documents" / "wikipedia_html_txt",
        "PDF, five times": root / "files" / "good",
    }
    encoder = load_encoder("embedded:minilm", threads=1)
    there = [peer for peer in PEERS if _imports(arguments.peers, peer)]
    print(f"peers: {', '.join(there) or 'none'}\n")
    for name, folder in sets.items():
        if arguments.sets and not any(word in name for word in arguments.sets):
            continue
        suffix, times = {"Wikipedia, html": (".htm", 1), "PDF, five times": (".pdf", 5)}.get(name, ("", 1))
        files = [f for f in find_files(folder) if f.skipped is None and f.source.endswith(suffix)] * times
        peers = [peer for peer in there if peer != "pypdf" or suffix == ".pdf"]
        _measure(name, files, encoder, arguments.peers, peers, arguments.threads, arguments.runs)


def _imports(python: str, package: str) -> bool:
    return not subprocess.run([python, "-c", f"import {package}"], capture_output=True).returncode


def _measure(
    name: str,
    files: list[Found],
    encoder: Encoder,
    python: str,
    peers: list[str],
    workers: int,
    runs: int,
) -> None:
    """One set of files."""
    results: list[ReadResult] = []
    times = []
    for _ in range(runs):
        began = time.perf_counter()
        results = list(read_files(files, workers=workers))
        times.append(time.perf_counter() - began)
    documents = [document for result in results for document in result.documents]
    pages = sum(len(d.pages) or len(d.text) / PAGE for d in documents)
    rows = [_row("fieldstone", times, pages, sum(bool(r.reason) for r in results), "")]
    began = time.perf_counter()
    passages = sum(1 for _ in _split(documents, encoder))
    rows.append(_row("its passages, one process", [time.perf_counter() - began], pages, 0, ""))
    ours = [Counter(" ".join(d.text for d in result.documents).split()) for result in results]
    for peer in peers:
        told = [_peer(python, PEERS[peer], files, workers) for _ in range(runs)]
        texts = told[0][1]
        shares = [
            (theirs & our).total() / theirs.total()
            for our, text in zip(ours, texts, strict=True)
            if text and (theirs := Counter(text.split()))
        ]
        words = f"{statistics.median(shares):.3f}" if shares else "none"
        read = pages if any(texts) else 0
        rows.append(_row(peer, [seconds for seconds, _ in told], read, texts.count(None), words))
    head = [f"{name}: {len(files)} files, {pages:,.0f} pages, {passages:,} passages", "seconds"]
    table([*head, "pages/s", "files unread", "words"], rows)


def _split(documents: list[Document], encoder: Encoder) -> Iterator[object]:
    for document in documents:
        yield from split_document(document, encoder.count_tokens, encoder.max_tokens)


def _peer(python: str, code: str, files: list[Found], workers: int) -> tuple[float, list[str | None]]:
    """Seconds, and the text of each file or None."""
    sent = json.dumps([[str(f.path) for f in files], workers])
    command = [python, "-c", code + RUN]
    done = subprocess.run(command, input=sent, capture_output=True, text=True, check=True)
    seconds, texts = json.loads(done.stdout.splitlines()[-1])
    return seconds, texts


def _row(name: str, times: list[float], pages: float, unread: int, words: str) -> list[str]:
    return [name, spread(times, 2), spread([pages / t for t in times], 0), str(unread), words]


if __name__ == "__main__":
    main()
