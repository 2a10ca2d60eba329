"""Models that several workspaces have in common: loaded once, used by one of them at a time.

Two names are one model if name, device, threads and engine are the same, and so is what the name leads to: a
folder that was written anew is another model. A model goes when the last workspace that has it lets go of it.

Only two things are waited for here. A thread that works with generator and reranker takes the turn of both,
in one order for all; an encoder's turn lasts for a call, in which nothing else is waited for. So no two can
wait for each other.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import numpy as np

from fieldstone import models
from fieldstone.errors import ModelError
from fieldstone.models import BACKENDS, Encoder, Generator, Reranker, Vectors
from fieldstone.records import fingerprint
from fieldstone.settings import ModelSettings

if TYPE_CHECKING:
    Shelf = WeakValueDictionary[tuple[object, ...], "_Held"]

PASSAGES = 8
"""So many are embedded in a turn: a search may come in between, while files are worked in."""

APART = ("http", "https", "dual")
"""A model server takes many at a time; `dual` names two models, whose folders are not looked into."""

_serial = count()


class Turns:
    """A lock that is had in the order in which it was asked for, so that nobody waits for ever."""

    def __init__(self) -> None:
        self._changing = threading.Lock()
        self._taken = False
        self._waiting: deque[threading.Event] = deque()

    def __enter__(self) -> None:
        """Wait for one's turn."""
        with self._changing:
            if not self._taken:
                self._taken = True
                return
            mine = threading.Event()
            self._waiting.append(mine)
        mine.wait()

    def __exit__(self, *_: object) -> None:
        """Hand it to whoever has waited longest."""
        with self._changing:
            if self._waiting:
                self._waiting.popleft().set()
            else:
                self._taken = False


@dataclass(eq=False, slots=True, weakref_slot=True)
class _Held:
    """A model, and whose turn it is."""

    model: Any
    turns: Turns = field(default_factory=Turns)
    serial: int = field(default_factory=lambda: next(_serial))


class SharedModels:
    """The models of a process's workspaces."""

    def __init__(self) -> None:
        self._loading = threading.Lock()  # who wants what is being loaded waits for it
        self._shelf: Shelf = WeakValueDictionary()

    def held(
        self, kind: str, load: Callable[..., Any], name: str, device: str, threads: int | None, engine: str
    ) -> _Held:
        """The model, loaded if nobody has it. Raises what loading raises."""
        if name.partition(":")[0] in APART:
            return _Held(load(name, device=device, threads=threads, engine=engine))
        with self._loading:
            key = kind, name, device, threads, engine, _content(name)
            held = self._shelf.get(key)
            if held is None:
                held = self._shelf[key] = _Held(load(name, device=device, threads=threads, engine=engine))
            return held


class Borrowed:
    """The models of one workspace as it is open: a `Loader` over those of the process.

    With `how`, they are loaded on its device, threads and engine, whatever is asked for.
    """

    def __init__(self, shared: SharedModels, how: ModelSettings | None = None) -> None:
        self._shared, self._how = shared, how
        self._answering: list[_Held] = []

    def load_encoder(
        self, name: str, *, device: str = "auto", threads: int | None = None, engine: str = "auto"
    ) -> Encoder:
        """The encoder of that name; each call of it waits for its turn."""
        held = self._held("encoder", models.load_encoder, name, device, threads, engine)
        return _EncoderInTurn(held)

    def load_reranker(
        self, name: str, *, device: str = "auto", threads: int | None = None, engine: str = "auto"
    ) -> Reranker:
        """The reranker of that name, to be used within `turn`."""
        held = self._held("reranker", models.load_reranker, name, device, threads, engine)
        self._answering.append(held)
        model: Reranker = held.model
        return model

    def load_generator(
        self, name: str, *, device: str = "auto", threads: int | None = None, engine: str = "auto"
    ) -> Generator:
        """The generator of that name, to be used within `turn`."""
        held = self._held("generator", models.load_generator, name, device, threads, engine)
        self._answering.append(held)
        model: Generator = held.model
        return model

    def _held(
        self, kind: str, load: Callable[..., Any], name: str, device: str, threads: int | None, engine: str
    ) -> _Held:
        if self._how is not None:
            device, threads, engine = self._how.device, self._how.threads or None, self._how.engine
        return self._shared.held(kind, load, name, device, threads, engine)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Generator and reranker are ours in the block: a batch of answers, or a stream as a whole.

        What waits elsewhere gets its turn between two blocks, so a batch's answers need not wait one by one.
        """
        with ExitStack() as taken:
            for held in sorted(self._answering, key=lambda its: its.serial):
                taken.enter_context(held.turns)
            yield


class _EncoderInTurn:
    """An `Encoder` that others use, too."""

    def __init__(self, held: _Held) -> None:
        self._held = held
        self._encoder: Encoder = held.model
        self.name, self.fingerprint = self._encoder.name, self._encoder.fingerprint
        self.dimension, self.max_tokens = self._encoder.dimension, self._encoder.max_tokens

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        """One row a question."""
        with self._held.turns:
            return self._encoder.encode_queries(texts)

    def encode_passages(self, texts: Sequence[str]) -> Vectors:
        """One row a passage; others get their turn after every few, long ones with long ones."""
        if len(texts) <= PASSAGES:
            with self._held.turns:
                return self._encoder.encode_passages(texts)
        order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
        vectors = np.empty((len(texts), self.dimension), np.float32)
        for start in range(0, len(order), PASSAGES):
            places = order[start : start + PASSAGES]
            vectors[places] = self.encode_passages([texts[place] for place in places])
        return vectors

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, without special tokens."""
        with self._held.turns:
            return self._encoder.count_tokens(texts)


def _content(name: str) -> str:
    """Stands for what a folder or a downloaded model holds now; empty for what cannot change."""
    if name.partition(":")[0] in BACKENDS:
        return ""
    from fieldstone.models.huggingface import resolve

    try:
        folder = resolve(name)
    except ModelError:  # another package's model, or none: then loading says so
        return ""
    return fingerprint(*(_stamp(path) for path in sorted(folder.rglob("*")) if path.is_file()))


def _stamp(path: Path) -> str:
    stat = path.stat()
    return f"{path} {stat.st_size} {stat.st_mtime_ns}"
