"""Dense search: the passages whose vectors lie nearest to the question's."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from threading import Lock

from fieldstone.errors import WorkspaceError
from fieldstone.library import Library
from fieldstone.models import Encoder, Vectors
from fieldstone.search.follow import follow
from fieldstone.search.stores import Found, Store


class DenseIndex:
    """Vectors of one encoder in a store that follows the library.

    Raises WorkspaceError when the library's vectors were made by another encoder, unless this one's are
    looked at `beside` those in use. Indexes of several threads may share encoder and store by one `lock`.
    """

    def __init__(
        self,
        library: Library,
        encoder: Encoder,
        store: Store,
        *,
        beside: bool = False,
        lock: Lock | None = None,
    ) -> None:
        self._library = library
        self._encoder = encoder
        self._store = store
        self._beside = beside
        self._lock = lock or Lock()
        self._held: set[str] | None = None
        self._version: tuple[int, int] | None = None
        self._mark: object = None

    def over(self, library: Library) -> DenseIndex:
        """The same over another connection to the library, for another thread."""
        return DenseIndex(library, self._encoder, self._store, beside=self._beside, lock=self._lock)

    def embed(self, texts: Sequence[str], *, questions: bool = False) -> Vectors:
        """The encoder's vectors of passages, or of questions: (n, dimension)."""
        with self._lock:
            encode = self._encoder.encode_queries if questions else self._encoder.encode_passages
            return encode(texts)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, as the encoder counts them."""
        with self._lock:
            return self._encoder.count_tokens(texts)

    def refresh(self) -> None:
        """Take in what the library gained and lost since the last time."""
        version = self._library.version()
        if version == self._version:
            return
        with self._lock, self._library.snapshot():
            mark = self._library.vectors_mark()
            if mark == self._mark:  # an answer was kept, say
                self._version = version
                return
            in_use = self._library.meta("encoder")
            if not self._beside and in_use not in (None, self._encoder.fingerprint):
                raise WorkspaceError(
                    f"the library's vectors were made by encoder {in_use}, "
                    f"but {self._encoder.name} is {self._encoder.fingerprint}; "
                    f"type: fieldstone build FOLDER --into {self._library.path.parent}"
                )
            held = follow(self._library, self._encoder.fingerprint, self._store, self._held)
        self._held, self._version, self._mark = held, version, mark

    def search(self, questions: Sequence[str], k: int, only: Collection[str] | None = None) -> list[Found]:
        """The `k` nearest passages of each question by cosine, among `only` where given."""
        self.refresh()
        if not self._held or not questions:
            return [[] for _ in questions]
        vectors = self.embed(questions, questions=True)
        with self._lock:
            return self._store.search(vectors, k, only)
