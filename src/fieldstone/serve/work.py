"""What an engine's threads do: searches and questions, several at a time, over an opened workspace."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from fieldstone.answer import Read, System, conclude, open_system, read
from fieldstone.errors import NotReady, RequestError
from fieldstone.in_use import TRUST, choices
from fieldstone.library import Library
from fieldstone.models import Vectors
from fieldstone.records import Answer, Hit, fingerprint
from fieldstone.search import Filter, Index, search
from fieldstone.search.open import index_for_another_thread
from fieldstone.serve.batches import STOPPED
from fieldstone.serve.conversation import Turn, self_contained
from fieldstone.serve.feedback import models_of
from fieldstone.serve.shared import Borrowed, SharedModels
from fieldstone.settings import SearchSettings, Settings
from fieldstone.workspace import Workspace

Key = TypeVar("Key")

TEXTS = 8
"""Texts embedded at a time: a search may come in between."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a search found; `sources` holds source and title of each document, of the same version."""

    hits: tuple[Hit, ...]
    sources: Mapping[str, tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer; `sources` as in Found, `tokens` of question and answer as the generator counts them.

    `models` are the fingerprints of what answered.
    """

    answer: Answer
    sources: Mapping[str, tuple[str, str]]
    tokens: tuple[int, int]
    models: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Embedded:
    """Vectors (n, dimension), and the tokens of the texts as the encoder counts them."""

    vectors: Vectors
    tokens: int


@dataclass(frozen=True, slots=True)
class Opened:
    """A workspace opened: to answer, to search alone, with which models, and what stands for all of it."""

    system: System
    index: Index
    models: Borrowed
    mark: str

    def close(self) -> None:
        """Let go of the library."""
        self.system.index.library.close()
        self.index.library.close()


@dataclass(frozen=True, slots=True)
class Wanted:
    """A search that was asked for; whether with a second look is a matter of which thread it waits for."""

    question: str
    k: int
    filter: Filter | None


@dataclass(slots=True)
class Asked:
    """A question to answer; `tell` hears what is known early, until the asker is `gone`.

    `told` is the text that it has heard so far.
    """

    question: str
    filter: Filter | None
    tell: Callable[[Found | str], None] | None = None
    gone: bool = False
    told: str = ""

    def tell_text(self, text: str) -> None:
        """Tell what this text has more than what was told; nothing where it is another one."""
        if self.tell is not None and not self.gone and text != self.told and text.startswith(self.told):
            self.tell(text[len(self.told) :])
            self.told = text


@dataclass(frozen=True, slots=True)
class FollowUp:
    """A question to make self-contained."""

    question: str
    history: Sequence[Turn]


def mark_of(workspace: Workspace, settings: Settings) -> str:
    """Stands for all that a workspace is opened with: it changes when something else would be opened."""
    library = workspace.library()
    try:
        encoder = library.meta("encoder")
    finally:
        library.close()
    trust = workspace.path / TRUST
    fitted = trust.read_bytes() if trust.is_file() else b""
    return fingerprint(settings.model_dump_json(), choices(workspace), encoder, fitted)


def open_all(workspace: Workspace, settings: Settings, mark: str, shared: SharedModels) -> Opened:
    """Load the models in use, and bring the indexes up to date. Raises what `open_system` does."""
    models = Borrowed(shared)
    system = open_system(workspace, settings, models)
    index = index_for_another_thread(workspace, system.index)
    for its in (system.index, index):
        _refresh(its)
    return Opened(system, index, models, mark)


def search_for(opened: Opened, wanted: Sequence[Wanted]) -> list[Found | Exception]:
    """What each search finds, without a second look at it."""
    how = opened.system.settings.search.model_copy(update={"rerank": "none"})
    return _search(opened.index, how, wanted)


def answer_all(
    opened: Opened, asked: Sequence[Asked | FollowUp | Wanted], stopping: Callable[[], bool]
) -> list[Reply | str | Found | Exception]:
    """The reply to each question, the self-contained form of each follow-up, what each search finds.

    These searches take the second look that answering takes.

    Text that can be told in pieces is, to those that want to hear it. The writing ends early where nobody is
    left who waits for it: the askers have gone, or want to hear pieces while we are `stopping`.
    """
    outcomes: dict[int, Reply | str | Found | Exception] = {}
    questions = [(number, its) for number, its in enumerate(asked) if isinstance(its, Asked)]
    follow_ups = [(number, its) for number, its in enumerate(asked) if isinstance(its, FollowUp)]
    searches = [(number, its) for number, its in enumerate(asked) if isinstance(its, Wanted)]
    if follow_ups:
        with opened.models.turn():
            outcomes |= {number: _made_self_contained(opened.system, its) for number, its in follow_ups}
    if searches:
        found = _search(
            opened.system.index,
            opened.system.settings.search,
            [its for _, its in searches],
            opened.models.turn,
        )
        outcomes |= {number: its for (number, _), its in zip(searches, found, strict=True)}
    for filter, places in _alike([its.filter for _, its in questions]).items():
        some = [questions[place] for place in places]
        replies = _together(opened, [its for _, its in some], filter, stopping)
        outcomes |= {number: reply for (number, _), reply in zip(some, replies, strict=True)}
    return [outcomes[number] for number in range(len(asked))]


def embed_texts(opened: Opened, texts: Sequence[str], questions: bool) -> Embedded:
    """The vectors of passages, or of questions."""
    dense = opened.index.dense
    if dense is None:
        raise RequestError(
            "this workspace is searched by words alone and has no encoder; set search.mode = fused",
            code="no_encoder",
        )
    parts = [texts[i : i + TEXTS] for i in range(0, len(texts), TEXTS)]
    vectors = np.concatenate([dense.embed(part, questions=questions) for part in parts])
    return Embedded(vectors, sum(sum(dense.count_tokens(part)) for part in parts))


def _search(
    index: Index,
    how: SearchSettings,
    wanted: Sequence[Wanted],
    turn: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> list[Found | Exception]:
    outcomes: dict[int, Found | Exception] = {}
    for (k, filter), numbers in _alike([(its.k, its.filter) for its in wanted]).items():
        with _one_version(index) as library, turn():
            found = search(index, [wanted[n].question for n in numbers], how, k, filter)
            for number, hits in zip(numbers, found, strict=True):
                outcomes[number] = _found(library, hits)
    return [outcomes[number] for number in range(len(wanted))]


def _made_self_contained(system: System, its: FollowUp) -> str | Exception:
    try:
        budget = system.settings.serve.history_tokens
        return self_contained(system.generator, its.history, its.question, budget)
    except Exception as error:  # its own affair: the others of the batch are answered
        return error


class _Left(Exception):
    """Nobody waits any more for what is being written."""


def _together(
    opened: Opened, asked: Sequence[Asked], filter: Filter | None, stopping: Callable[[], bool]
) -> list[Reply | Exception]:
    """The answers to several questions, written at once."""
    system = opened.system

    def telling(its: Asked) -> Callable[[str], None]:
        def tell(text: str) -> None:
            if all(one.tell is not None and (one.gone or stopping()) for one in asked):
                raise _Left
            its.tell_text(text)

        return tell

    wrote = [telling(its) if its.tell is not None else None for its in asked]
    with _one_version(system.index), opened.models.turn():
        try:
            reads = read(
                system, [its.question for its in asked], filter, told=_telling(system, asked), wrote=wrote
            )
        except _Left:
            gone = RequestError("the asker has gone", status=499, code="gone")
            return [gone if its.gone else NotReady(STOPPED) for its in asked]
        return [_concluded(system, its, what) for its, what in zip(asked, reads, strict=True)]


def _concluded(system: System, asked: Asked, what: Read) -> Reply | Exception:
    try:
        reply = _reply(system, asked.question, conclude(system, what))
    except Exception as error:  # of this one
        return error
    asked.tell_text(reply.answer.text)
    return reply


def _reply(system: System, question: str, answer: Answer) -> Reply:
    asked, said = system.generator.count_tokens([question, answer.text])
    sources = _found(system.index.library, answer.hits).sources
    return Reply(answer, sources, (asked, said), models_of(system))


def _telling(system: System, asked: Sequence[Asked]) -> Callable[[Sequence[Sequence[Hit]]], None]:
    """What tells those that want to hear it early what was found."""

    def told(found: Sequence[Sequence[Hit]]) -> None:
        for its, hits in zip(asked, found, strict=True):
            if its.tell is not None:
                its.tell(_found(system.index.library, hits))

    return told


def _found(library: Library, hits: Sequence[Hit]) -> Found:
    return Found(tuple(hits), library.sources({hit.passage.document_id for hit in hits}))


def _refresh(index: Index) -> None:
    index.lexical.refresh()
    if index.dense is not None:
        index.dense.refresh()


@contextmanager
def _one_version(index: Index) -> Iterator[Library]:
    """All that is read in the block is of one version of the library, the newest."""
    _refresh(index)  # first, for it may wait for another process, which shall not find the library held
    with index.library.snapshot():
        yield index.library


def _alike(keys: Sequence[Key]) -> dict[Key, list[int]]:
    """Key -> the places where it stands."""
    places: dict[Key, list[int]] = defaultdict(list)
    for place, key in enumerate(keys):
        places[key].append(place)
    return places
