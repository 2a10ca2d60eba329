"""The answers that a server gave lately, so that people can say what they think of them.

In memory stand the newest ones, whatever the questions were. Into the library goes what `feedback.keep` says.
"""

from __future__ import annotations

import logging
import sqlite3
from threading import Lock

from fieldstone.answer import System
from fieldstone.errors import FeedbackError
from fieldstone.feedback import Entry, Given, Said, keep_answers, keep_said, read_entries
from fieldstone.library import Library
from fieldstone.settings import FeedbackSettings

REMEMBERED = 1000
"""Answers in memory: on older ones nothing can be said, unless the library has them."""

WAITING = 16
"""Doubtful answers that are written together: each write makes those who follow the library look at it."""

_log = logging.getLogger(__name__)


def models_of(system: System) -> dict[str, str]:
    """The fingerprints of the models that a system answers with."""
    models = {"generator": system.generator.fingerprint}
    if encoder := system.index.library.meta("encoder"):
        models["encoder"] = encoder
    if system.index.reranker is not None:
        models["reranker"] = system.index.reranker.fingerprint
    return models


class Answers:
    """The answers given lately. Any thread may use it; `library` is for it alone."""

    def __init__(self, library: Library, settings: FeedbackSettings) -> None:
        self._library, self._settings = library, settings
        self._lately: dict[str, Given] = {}
        self._waiting: list[Given] = []
        self._lock = Lock()

    def gave(self, given: Given) -> None:
        """Remember an answer. What the library cannot take is lost and logged: the answer was given."""
        with self._lock:
            if self._settings.keep == "nothing":
                return
            self._lately[given.id] = given
            if len(self._lately) > REMEMBERED:
                del self._lately[next(iter(self._lately))]
            if self._settings.keep == "doubtful" and self._settings.most and given.doubtful:
                self._waiting.append(given)
                if len(self._waiting) >= WAITING:
                    self._write()

    def say(self, id_: str, what: Said) -> bool:
        """Keep what somebody said of an answer: once this returns True it is in the library.

        False: no such answer is known any more. Raises FeedbackError if nothing is kept here, or cannot be.
        """
        if self._settings.keep == "nothing":
            raise FeedbackError("no feedback is kept here; to keep it, set feedback.keep = rated")
        with self._lock:
            try:
                return keep_said(self._library, id_, what, self._lately.get(id_))
            except sqlite3.Error as error:
                raise FeedbackError(f"the feedback could not be kept ({error}); send it again") from None

    def entries(self) -> list[Entry]:
        """All that the library has, the newest first. Raises FeedbackError if it is damaged."""
        with self._lock:
            self._write()
            return read_entries(self._library)

    def close(self) -> None:
        """Write what waits, and close the library."""
        with self._lock:
            self._write()
            self._library.close()

    def _write(self) -> None:
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        try:
            keep_answers(self._library, waiting, self._settings.most)
        except sqlite3.Error as error:
            _log.warning("%d answers could not be kept for review: %s", len(waiting), error)
