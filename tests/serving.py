"""What the tests of the server share: workspaces with fake models, and models that can be held."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fieldstone import models
from fieldstone.errors import ModelError
from fieldstone.models import Completion, Heard, Options, Prompt, Score
from fieldstone.models.fake import FakeEncoder, FakeGenerator
from fieldstone.search.embed import embed_library
from fieldstone.serve.app import create_app
from fieldstone.serve.engine import Engine
from fieldstone.serve.run import Server, listen
from fieldstone.settings import ServeSettings, resolve_settings, write_settings_file
from fieldstone.workspace import Workspace, create_workspace
from small_library import TEXTS, put

models.BACKENDS["watched"] = __name__


class Watch:
    """Sees to it that one thread at a time uses a model, and holds it when asked to."""

    def __init__(self) -> None:
        self.lock, self.going, self.reached = threading.Lock(), threading.Event(), threading.Event()
        self.going.set()
        self.calls: list[int] = []  # how many things each call was about
        self.users: list[str] = []  # the thread of each call
        self.passing = 0
        self.failing = 0

    @contextmanager
    def using(self, things: int) -> Iterator[None]:
        """One call of a model."""
        assert self.lock.acquire(blocking=False), "two threads use a model at a time"
        try:
            self.calls.append(things)
            self.users.append(threading.current_thread().name)
            if self.failing:
                self.failing -= 1
                if not self.failing:
                    raise ModelError("it broke, once")
            if self.passing:
                self.passing -= 1
            else:
                self.reached.set()
                assert self.going.wait(20)
            yield
        finally:
            self.lock.release()

    def hold(self, after: int = 0) -> None:
        """The next call waits for `go`, or the one `after` so many."""
        self.passing = after
        self.going.clear()
        self.reached.clear()

    def fail(self, after: int) -> None:
        """The call after so many fails."""
        self.failing = after + 1

    def go(self) -> None:
        """Let it work."""
        self.passing = 0
        self.going.set()


GENERATOR, ENCODER = Watch(), Watch()


class WatchedGenerator(FakeGenerator):
    """`fake:words`, watched; by the name `watched:long` it reads passages together."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        if name == "watched:long":
            self.context_tokens = 20_000
        self.fingerprint = f"generator {name}"

    def generate(
        self, prompts: Sequence[Prompt], heard: Heard | None = None, **more: Any
    ) -> list[Completion]:
        """As `fake:words` does; each word that is heard is a call of its own."""
        with GENERATOR.using(len(prompts)):
            made = super().generate(prompts, **more)

        def one(place: int, text: str) -> None:
            with GENERATOR.using(1):
                pass
            assert heard is not None
            heard(place, text)

        return made if heard is None else super().generate(prompts, heard=one, **more)

    def stream(self, prompt: Prompt, **more: Any) -> Iterator[str]:
        """As `fake:words` does."""
        for piece in super().stream(prompt, **more):
            with GENERATOR.using(1):
                yield piece

    def score(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[Score]:
        """As `fake:words` does."""
        with GENERATOR.using(len(prompts)):
            return super().score(prompts, completions)


class WatchedEncoder(FakeEncoder):
    """`fake:words`, watched."""

    def encode_queries(self, texts: Sequence[str]) -> models.Vectors:
        """As `fake:words` does."""
        with ENCODER.using(len(texts)):
            return super().encode_queries(texts)

    def encode_passages(self, texts: Sequence[str]) -> models.Vectors:
        """As `fake:words` does."""
        with ENCODER.using(len(texts)):
            return super().encode_passages(texts)


def load_generator(name: str, _: Options) -> WatchedGenerator:
    """`watched:words` or `watched:long`."""
    return WatchedGenerator(name)


def load_encoder(name: str, _: Options) -> WatchedEncoder:
    """`watched:words`, or another by any other name."""
    return WatchedEncoder(name, query_prefix="" if name == "watched:words" else name)


def workspace_of(
    path: Path,
    texts: Mapping[str, str] = TEXTS,
    encoder: str = "fake:words",
    generator: str = "fake:words",
    **sections: Mapping[str, Any],
) -> Workspace:
    """A workspace with these texts under fake models; `sections` change its settings."""
    workspace = create_workspace(path)
    library = workspace.library()
    for source, text in texts.items():
        put(library, source, text)
    embed_library(library, models.load_encoder(encoder))
    library.close()
    tree: dict[str, Any] = {
        "recipe": "guide",
        "models": {"encoder": encoder, "generator": generator},
        "answer": {"abstain_below": 0.0},
    }
    for name, section in sections.items():
        tree[name] = tree.get(name, {}) | dict(section)
    write_settings_file(workspace.settings_file, resolve_settings(tree, environment={}))
    return workspace


@contextmanager
def running(
    *workspaces: Workspace,
    access: Any = None,
    hosts: Sequence[str] = (),
    watch: bool = False,
    **limits: Any,
) -> Iterator[str]:
    """The address of a real server over these workspaces; it has ended after the block."""
    engines = {engine.name: engine for engine in map(Engine, workspaces)}
    app = create_app(engines, access, ServeSettings(**limits), hosts=hosts, watch=watch)
    listening = listen("127.0.0.1", 0)
    server = Server(app)
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        until(lambda: server.started and all(engine.ready for engine in engines.values()))
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        until(lambda: not any(engine.ready for engine in engines.values()))
        for watch in (GENERATOR, ENCODER):
            watch.go()
        thread.join(30)
        assert not thread.is_alive(), "the server does not end"


def until(true: Callable[[], object], seconds: float = 20.0) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.01)
