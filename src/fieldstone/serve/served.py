"""What the routes share: which workspaces are served, who may see which, how long a request may take."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Protocol

from fastapi import Depends, Request, Response
from pydantic_core import to_json
from starlette.concurrency import run_in_threadpool

from fieldstone.errors import RequestError
from fieldstone.feedback import Given, now
from fieldstone.serve.engine import Engine, Reply
from fieldstone.serve.feedback import Answers
from fieldstone.serve.keys import Key
from fieldstone.serve.upkeep import Upkeep
from fieldstone.settings import ServeSettings

if TYPE_CHECKING:
    from fieldstone.serve.health import Metrics


class Access(Protocol):
    """Who may do what: `fieldstone.serve.keys.Keys`, say."""

    def of(self, token: str | None) -> Key | None:
        """The key that this token is, if it is one."""
        ...

    def allows(self, token: str | None, workspace: str, admin: bool = False, *, asking: bool = False) -> bool:
        """Whether this token opens the workspace of that name, as `admin` or to read, or for `asking`."""
        ...


class Served:
    """The workspaces by name, the first one the default; without `access` they are open to everyone."""

    def __init__(
        self,
        engines: Mapping[str, Engine],
        access: Access | None,
        settings: ServeSettings,
        metrics: Metrics,
    ) -> None:
        self.engines, self.access, self.settings, self.metrics = dict(engines), access, settings, metrics
        self.upkeep = {name: Upkeep(engine.workspace, engine.borrow) for name, engine in engines.items()}
        self.stopping = asyncio.Event()
        self.answers = {
            name: Answers(engine.workspace.library(), engine.settings.feedback)
            for name, engine in engines.items()
        }

    def engine(
        self, request: Request, workspace: str | None, *, admin: bool = False, asking: bool = False
    ) -> Engine:
        """The workspace that a request is about; without a name the first one that the asker's key opens.

        `asking`: also with a key that is for asking alone, which then gets what is shared (`shares`). Raises
        RequestError where there is none of that name, or where the key does not open it.
        """
        engine = self._found(request, workspace, admin, asking)
        request.state.workspace = engine.name  # the log tells it
        return engine

    def _found(self, request: Request, workspace: str | None, admin: bool, asking: bool) -> Engine:
        token = _token(request)
        if workspace is None:
            opened = self.opened(request, admin=admin, asking=asking)
            if opened:
                return opened[0]
        elif self.access is None or self.access.allows(token, workspace, admin, asking=asking):
            if workspace in self.engines:
                return self.engines[workspace]
            known = ", ".join(engine.name for engine in self.opened(request, asking=asking))
            raise RequestError(
                f"there is no workspace {workspace[:100]!r} here; there is {known}",
                status=404,
                code="no_such_workspace",
                param="workspace",
            )
        if not token or not self.opened(request, asking=True):
            raise RequestError(
                "this needs a key: send it as Authorization: Bearer KEY" if not token else "no such key",
                status=401,
                code="invalid_api_key",
            )
        raise RequestError(
            "this key may only read" if admin else "this key does not open that",
            status=403,
            code="not_allowed",
        )

    def time(self) -> asyncio.Timeout:
        """A block that may take as long as a request may; TimeoutError where it takes longer."""
        return asyncio.timeout(self.settings.seconds)

    async def answered(self, id_: str, workspace: str, question: str, asked: str, got: Reply) -> None:
        """Take note of an answer, before it goes out: from then on something can be said of it."""
        self.metrics.answered(workspace, got)
        its = got.answer
        given = Given(
            id=id_,
            time=now(),
            workspace=workspace,
            question=question,
            asked=asked,
            answer=its.text,
            abstained=its.abstained,
            confidence=its.confidence,
            citations=its.citations,
            found=tuple(hit.passage.id for hit in its.hits),
            models=got.models,
        )
        await run_in_threadpool(self.answers[workspace].gave, given)

    def who(self, request: Request) -> str:
        """The name of the key that a request came with; empty without one."""
        key = self.access.of(_token(request)) if self.access is not None else None
        return key.name if key is not None else ""

    def shares(self, request: Request) -> bool:
        """Whether the asker's key is for asking alone: then an answer goes out as the policy has it."""
        key = self.access.of(_token(request)) if self.access is not None else None
        return key is not None and key.asking

    def stop(self) -> None:
        """Turn down what waits and what comes, so that what is under way can end."""
        for engine in self.engines.values():
            engine.stop()
        for upkeep in self.upkeep.values():
            upkeep.stop()
        self.stopping.set()

    async def close(self) -> None:
        """End it all, once no request is under way any more."""
        await asyncio.gather(*(engine.close() for engine in self.engines.values()))
        for answers in self.answers.values():
            answers.close()

    def opened(self, request: Request, *, admin: bool = False, asking: bool = False) -> list[Engine]:
        """The workspaces that the asker's key opens."""
        if self.access is None:
            return list(self.engines.values())
        token = _token(request)
        allows = self.access.allows
        return [its for name, its in self.engines.items() if allows(token, name, admin, asking=asking)]


def _token(request: Request) -> str | None:
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() or None if kind.lower() == "bearer" else None


def _served(request: Request) -> Served:
    served: Served = request.app.state.served
    return served


Here = Annotated[Served, Depends(_served)]
"""What is served, as a route asks for it."""


def reply(body: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON reply that is sent as it is."""
    return Response(to_json(body), status, dict(headers or {}), "application/json")
