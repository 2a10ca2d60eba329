"""One workspace held open, and its questions answered as they come."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

from fieldstone.errors import FieldstoneError, NotReady, WorkspaceError
from fieldstone.recipes import choose_settings
from fieldstone.search import Filter
from fieldstone.serve.batches import STOPPED, Batcher, apart
from fieldstone.serve.conversation import Turn
from fieldstone.serve.shared import Borrowed, SharedModels
from fieldstone.serve.work import (
    Asked,
    Embedded,
    FollowUp,
    Found,
    Opened,
    Reply,
    Wanted,
    answer_all,
    embed_texts,
    mark_of,
    open_all,
    search_for,
)
from fieldstone.settings import Settings
from fieldstone.workspace import Workspace

__all__ = ["Embedded", "Engine", "Found", "Reply", "Turn"]

log = logging.getLogger(__name__)
T = TypeVar("T")

SEARCHES = 8
"""So many times as many searches as answers may wait, and make a batch: they are that much cheaper."""

TRIES = (0.0, 0.5, 2.0)
"""Seconds waited before a question is asked again because another encoder came into use under it."""


class Engine:
    """One workspace, served in one event loop.

    `flags` as in `choose_settings`; `models` are those of other workspaces, too.

    Two threads work: one searches, the other answers, so that no search waits behind an answer. Each has a
    connection to the library and indexes over it of its own; encoder and vectors are shared under a lock.
    Models that other workspaces use as well are used in turns, a batch each (`shared`). What waits for a
    thread is worked on together (`batches`). An answer is of one version of the library.

    A streamed answer is one of its batch. Where the generator reads the passages together, its text comes
    piece by piece, whether or not others are written at the same time. What comes meanwhile waits and makes
    the next batch, and a batch whose askers have all gone is left.

    All that asks raises Busy when too much waits, NotReady until the models are loaded and after `stop`.
    """

    def __init__(
        self, workspace: Workspace, flags: Sequence[str] = (), models: SharedModels | None = None
    ) -> None:
        self.workspace, self._flags, self._models = workspace, tuple(flags), models or SharedModels()
        self.name = workspace.path.resolve().name
        self.settings = self._chosen()
        self.made = int((workspace.path / "library.db").stat().st_ctime)  # in seconds since 1970
        self.problem = ""  # why it could not be opened
        self._opened: Opened | None = None
        self._opening = asyncio.Lock()
        self._stopping = False
        how = self.settings.serve
        self._answers: Batcher[Asked | FollowUp | Wanted, Reply | str | Found] = Batcher(
            f"{self.name}-answers",
            lambda asked: answer_all(self._ready(), asked, lambda: self._stopping),
            largest=how.batch,
            limit=how.queue,
            patience=how.seconds,
        )
        self._searches: Batcher[Wanted, Found] = Batcher(
            f"{self.name}-searches",
            lambda wanted: search_for(self._ready(), wanted),
            largest=SEARCHES * how.batch,
            limit=SEARCHES * how.queue,
            patience=how.seconds,
        )
        self._embeddings: Batcher[tuple[Sequence[str], bool], Embedded] = Batcher(
            f"{self.name}-embeddings",
            lambda wanted: [embed_texts(self._ready(), *its) for its in wanted],
            largest=1,
            limit=how.queue,
            patience=how.seconds,
        )

    # -- what it does

    async def search(
        self, question: str, k: int = 10, filter: Filter | None = None, *, rerank: bool = False
    ) -> Found:
        """The `k` passages that fit best.

        With `rerank` a second look is taken at them as answering takes it, in the thread that answers.
        """
        wanted = Wanted(question, k, filter)
        if not rerank:
            return await self._whatever_changes(lambda: self._searches.put(wanted))
        found = await self._whatever_changes(lambda: self._answers.put(wanted))
        assert isinstance(found, Found)
        return found

    async def ask(self, question: str, filter: Filter | None = None) -> Reply:
        """The answer to a question that stands by itself."""
        reply = await self._whatever_changes(lambda: self._answers.put(Asked(question, filter)))
        assert isinstance(reply, Reply)
        return reply

    def stream(self, question: str, filter: Filter | None = None) -> AsyncIterator[Found | str | Reply]:
        """What is found, then the answer's text in pieces, then the whole; as `ask`.

        Busy and NotReady are raised here, at once. A text that was begun may end in a reply that abstains.
        """
        self._ready()
        events: asyncio.Queue[Found | str | None] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def tell(event: Found | str) -> None:
            loop.call_soon_threadsafe(events.put_nowait, event)

        asked = Asked(question, filter, tell)
        return self._streamed(asked, self._answers.enter(asked), events)

    async def self_contained(self, question: str, history: Sequence[Turn]) -> str:
        """A follow-up question as one asks it who has not heard the conversation."""
        if not history:
            return question
        self._ready()
        said = await self._answers.put(FollowUp(question, history))
        assert isinstance(said, str)
        return said

    async def embed(self, texts: Sequence[str], *, questions: bool = False) -> Embedded:
        """The vectors of passages, or of questions; one text or more."""
        self._ready()
        return await self._embeddings.put((texts, questions))

    # -- opening, changing, closing

    async def refresh(self) -> bool:
        """Open the workspace, anew if its settings or what is in use have changed; says whether it was.

        Questions under way are answered by what was open before. Raises what opening raises; what was open
        stays open then.
        """
        async with self._opening:
            settings = await asyncio.to_thread(self._chosen)
            mark = await asyncio.to_thread(mark_of, self.workspace, settings)
            before = self._opened
            if self._stopping or (before is not None and before.mark == mark):
                return False
            self._opened = await apart(lambda: open_all(self.workspace, settings, mark, self._models))
            self.settings, self.problem = settings, ""
            log.info("%s: %s", self.name, "can be asked" if before is None else "what is in use has changed")
        if before is not None and not self._stopping:
            await self._answers.between(before.system.index.library.close)
            await self._searches.between(before.index.library.close)
        return True

    async def keep_fresh(self, seconds: float = 5.0) -> None:
        """Refresh again and again, until cancelled; what goes wrong is the `problem`, and logged once."""
        while True:
            try:
                await self.refresh()
            except Exception as error:  # whatever it is, the others are served
                if str(error) != self.problem:
                    log.error("%s cannot be opened: %s", self.name, error)
                self.problem = str(error)
            await asyncio.sleep(seconds)

    def borrow(self) -> Borrowed:
        """The models that the process has, for who works on the documents beside the answers."""
        return Borrowed(self._models, self.settings.models)

    @property
    def ready(self) -> bool:
        """Whether it can be asked."""
        return self._opened is not None and not self._stopping

    @property
    def waiting(self) -> Mapping[str, int]:
        """How much of each kind waits."""
        return {
            "answers": len(self._answers),
            "searches": len(self._searches),
            "embeddings": len(self._embeddings),
        }

    def stop(self) -> None:
        """Turn down what waits and what comes; a batch of streams alone ends with its next piece."""
        self._stopping = True
        for batcher in (self._answers, self._searches, self._embeddings):
            batcher.stop()

    async def close(self, seconds: float = 10.0) -> None:
        """Stop, and wait so long at most for what is under way."""
        self.stop()
        ended = await asyncio.gather(
            self._answers.close(seconds), self._searches.close(seconds), self._embeddings.close(seconds)
        )
        if self._opened is not None and all(ended):
            self._opened.close()

    def _chosen(self) -> Settings:
        return choose_settings(None, self.workspace.stored_settings(), flags=self._flags)

    def _ready(self) -> Opened:
        """What is open. Raises NotReady where nothing is."""
        if self._stopping:
            raise NotReady(STOPPED)
        if self._opened is None:
            why = "could not be opened; the log says why" if self.problem else "is loading its models"
            raise NotReady(f"{self.name} {why}; ask again in a moment")
        return self._opened

    async def _whatever_changes(self, ask: Callable[[], Awaitable[T]]) -> T:
        """The outcome; asked again of what is in use by then, if that has changed under the question."""
        for seconds in TRIES:
            self._ready()
            try:
                return await ask()
            except WorkspaceError as error:
                await asyncio.sleep(seconds)
                try:
                    await self.refresh()
                except FieldstoneError as unopened:  # half changed, perhaps: the next try may find it whole
                    log.warning("%s: %s; %s", self.name, error, unopened)
        self._ready()
        return await ask()

    async def _streamed(
        self,
        asked: Asked,
        first: asyncio.Future[Reply | str | Found],
        events: asyncio.Queue[Found | str | None],
    ) -> AsyncIterator[Found | str | Reply]:
        entered = [first]

        async def ask() -> Reply | str | Found:
            return await (entered.pop() if entered else self._answers.enter(asked))

        def ended(asking: asyncio.Future[Reply | str | Found]) -> None:
            if not asking.cancelled():
                asking.exception()  # it may be that nobody is there any more to hear of it
            events.put_nowait(None)

        asking = asyncio.ensure_future(self._whatever_changes(ask))
        asking.add_done_callback(ended)
        told = False
        try:
            while (event := await events.get()) is not None:
                if not (told and isinstance(event, Found)):  # a batch that fails is tried again one by one
                    yield event
                told = told or isinstance(event, Found)
            reply = await asking
            assert isinstance(reply, Reply)
            yield reply
        finally:
            asked.gone = True
            asking.cancel()
