"""Whether the server lives, whether it can be asked, and what it has done: for those who watch over it."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from time import perf_counter

from fastapi import APIRouter, Request, Response
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fieldstone.errors import NotReady
from fieldstone.serve.engine import Engine, Reply
from fieldstone.serve.logs import log_request, requests
from fieldstone.serve.served import Here, Served, reply

METHODS = ("GET", "POST", "DELETE", "HEAD", "OPTIONS", "PUT", "PATCH")

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)

routes = APIRouter(tags=["health"])


@routes.get("/healthz")
def healthz() -> Response:
    """The server lives."""
    return reply({"status": "ok"})


@routes.get("/readyz")
def readyz(here: Here) -> Response:
    """Every workspace can be asked: its models are loaded."""
    loading = sum(not engine.ready for engine in here.engines.values())
    if loading:
        raise NotReady(f"{loading} of {len(here.engines)} workspaces are not ready yet; the log says more")
    return reply({"status": "ready"})


@routes.get("/metrics", response_class=Response)
def metrics(request: Request, here: Here) -> Response:
    """What the server has done, as Prometheus reads it."""
    here.engine(request, None)
    return Response(generate_latest(here.metrics.registry), media_type=CONTENT_TYPE_LATEST)


class Metrics(Collector):
    """The counts of one app."""

    def __init__(self, engines: Iterable[Engine]) -> None:
        self._engines = tuple(engines)
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "fieldstone_requests", "Requests", ("method", "route", "status"), registry=self.registry
        )
        self._seconds = Histogram(
            "fieldstone_request_seconds", "Seconds a request took", ("method", "route"), buckets=SECONDS,
            registry=self.registry,
        )  # fmt: skip
        self._answers = Counter(
            "fieldstone_answers", "Questions answered", ("workspace", "abstained"), registry=self.registry
        )
        ProcessCollector(registry=self.registry)
        self.registry.register(self)

    def answered(self, workspace: str, got: Reply) -> None:
        """Count an answer."""
        self._answers.labels(workspace, str(got.answer.abstained).lower()).inc()

    def requested(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(seconds)

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """What is so at the moment."""
        ready = GaugeMetricFamily("fieldstone_ready", "Whether it can be asked", labels=["workspace"])
        waiting = GaugeMetricFamily("fieldstone_waiting", "What waits", labels=["workspace", "kind"])
        for engine in self._engines:
            ready.add_metric([engine.name], float(engine.ready))
            for kind, number in engine.waiting.items():
                waiting.add_metric([engine.name, kind], number)
        yield ready
        yield waiting


class Measured:
    """An ASGI layer that counts, times and logs requests; they are counted by the route's pattern."""

    def __init__(self, app: ASGIApp, served: Served) -> None:
        self._app, self._served = app, served

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = perf_counter(), 499  # gone before there was a reply

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, sent)
        finally:
            route = getattr(scope.get("route"), "path", "") or "none"
            method = scope["method"] if scope["method"] in METHODS else "other"  # a client may make up more
            seconds = perf_counter() - began
            self._served.metrics.requested(method, route, status, seconds)
            if requests.isEnabledFor(logging.INFO):
                workspace = scope.get("state", {}).get("workspace")
                who = {"workspace": workspace, "key": self._served.who(Request(scope)) or None}
                log_request(method, scope["path"], status, seconds, who)
