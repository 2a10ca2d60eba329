"""Every error that Fieldstone raises on purpose. Each message says what happened and what to do next.

FieldstoneError
├── SettingsError     a setting is unknown, out of range, or contradicts another
├── ReadError         a file gives no text; `reason` says why
├── WorkspaceError    a workspace is missing, foreign, damaged or busy
├── StoreError        a vector store cannot be reached or does not fit
├── ModelError        a model is missing, damaged or does not fit
│   └── EndpointError a model server does not answer, or answers nonsense
├── QuestionsError    a file of questions cannot be read
├── GradesError       answers to grade, or their grades, cannot be read
├── FeedbackError     feedback cannot be kept, or decisions about it cannot be read
├── KeysError         the keys of a server cannot be read, written or found
├── SitesError        the sites of a question cannot be read, or none of them answers
├── FederationError   sites do not fit together, or too few answer
├── ClusterError      other machines cannot be reached, or cannot do the work
├── RequestError      a server turns a request down
│   ├── Busy          it has too much to do
│   └── NotReady      it loads its models, or stops
└── MissingExtra      an optional package is not installed
"""

from __future__ import annotations

from typing import Any


class FieldstoneError(Exception):
    """The root of the tree: catch it to catch all that Fieldstone raises on purpose.

    It comes out of another process as it went in, however its class is made.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        return _as_it_was, (type(self), self.args, self.__dict__)


def _as_it_was(
    kind: type[FieldstoneError], args: tuple[object, ...], state: dict[str, Any]
) -> FieldstoneError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error


class SettingsError(FieldstoneError):
    """A setting is unknown, out of range, or contradicts another."""


class ReadError(FieldstoneError):
    """A file gives no text."""

    def __init__(self, source: str, reason: str) -> None:
        super().__init__(f"{source}: {reason}")
        self.source = source
        self.reason = reason


class WorkspaceError(FieldstoneError):
    """A workspace is missing, foreign, damaged or busy."""


class StoreError(FieldstoneError):
    """A vector store cannot be reached or does not fit."""


class ModelError(FieldstoneError):
    """A model is missing, damaged or does not fit."""


class EndpointError(ModelError):
    """A model server does not answer, or answers nonsense."""


class QuestionsError(FieldstoneError):
    """A file of questions cannot be read."""


class GradesError(FieldstoneError):
    """Answers to grade, or their grades, cannot be read."""


class FeedbackError(FieldstoneError):
    """Feedback cannot be kept, or decisions about it cannot be read."""


class KeysError(FieldstoneError):
    """The keys of a server cannot be read, written or found."""


class SitesError(FieldstoneError):
    """The sites of a question cannot be read, or none of them answers."""


class FederationError(FieldstoneError):
    """Sites do not fit together, or too few of them answer."""


class ClusterError(FieldstoneError):
    """Other machines cannot be reached, or cannot do the work."""


class RequestError(FieldstoneError):
    """A server turns a request down.

    `status` is that of HTTP, `code` a word for programs, `param` the field of the request that is to blame,
    and `seconds` how long to wait before it is worth asking again.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        code: str = "invalid_request",
        param: str | None = None,
        seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.param, self.seconds = status, code, param, seconds


class Busy(RequestError):
    """The server has too much to do to take in more."""

    def __init__(self, waiting: int, seconds: float) -> None:
        super().__init__(
            f"{waiting} requests are waiting already; ask again in {seconds:.0f} s",
            status=429,
            code="busy",
            seconds=seconds,
        )


class NotReady(RequestError):
    """The server cannot answer at the moment: it loads its models, or stops."""

    def __init__(self, message: str, seconds: float = 2.0) -> None:
        super().__init__(message, status=503, code="not_ready", seconds=seconds)


class MissingExtra(FieldstoneError):
    """An optional package is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"the package {package!r} is not installed; type: pip install 'fieldstone[{extra}]'")
        self.package = package
        self.extra = extra
