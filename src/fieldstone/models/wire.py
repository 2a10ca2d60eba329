"""Requests to model servers: retries with patience, bounded concurrency, errors that say what to check."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from fieldstone.errors import EndpointError, ModelError
from fieldstone.models.fleet import Fleet, Server, servers_of

_KEY = "FIELDSTONE_API_KEY"
_TRY_AGAIN = frozenset({408, 429, 500, 502, 503, 504})


class Wire:
    """One of a server's models, or of several servers that have the same; safe in many threads.

    Tries again after a lost connection, 429 and 5xx, `retries` times with each server: at once where another
    has time, else after `Retry-After` if a server says so, or `wait` seconds, doubled each time.
    `concurrency`: requests at a time and server.
    """

    def __init__(
        self, name: str, *, timeout: float = 120.0, retries: int = 4, wait: float = 0.5, concurrency: int = 8
    ) -> None:
        urls, models = [], []
        for one in servers_of(name):
            url, _, model = one.partition("#")
            urls.append(url.rstrip("/"))
            models.append(model)
            if not model:
                listed = f"{urls[-1]}/models"
                raise ModelError(f"{one!r} names no model; write {urls[-1]}#MODEL (it lists them: {listed})")
        if len(set(models)) > 1:
            raise ModelError(
                f"{name!r} names several models ({', '.join(dict.fromkeys(models))}); "
                "servers that stand in for one another have the same model under the same name"
            )
        self.url, self.model = ", ".join(urls), models[0]
        self.timeout, self.retries, self.wait = timeout, retries, wait
        self.concurrency = concurrency * len(urls)
        self._fleet = Fleet(urls, wait)
        key = os.environ.get(_KEY)
        self._client = httpx.Client(
            timeout=httpx.Timeout(timeout, connect=min(timeout, 10.0)),
            headers={"Authorization": f"Bearer {key}"} if key else {},
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=self.concurrency),
        )
        self._counts = True

    def describe(self) -> dict[str, Any]:
        """What /models says of the model, {} if there is no list; EndpointError if it lacks the model.

        Of several servers one that does not answer now is passed over; the others must agree.
        """
        if len(self._fleet.servers) > 1:
            return self._agreed()
        try:
            with self._sent("GET", "/models", None) as response:
                reply = self._json(response)
        except _Refused as error:
            if error.status in (404, 405, 501):
                return {}
            raise
        models = [m for m in reply.get("data") or [] if isinstance(m, dict) and "id" in m]
        for described in models:
            if described["id"] in (self.model, f"{self.model}:latest"):
                return described
        if models:
            there = ", ".join(str(m["id"]) for m in models)
            raise EndpointError(f"{self.url} does not have the model {self.model!r}; it has {there}")
        return {}

    def _agreed(self) -> dict[str, Any]:
        """What the servers that answer say of the model: what it was made from, the shortest context."""
        said: dict[str, dict[str, Any]] = {}
        silent: list[_Silent] = []
        for server in self._fleet.servers:
            try:
                alone = Wire(f"{server.url}#{self.model}", timeout=self.timeout, retries=0)
                said[server.url] = alone.describe()
            except _Silent as error:
                self._fleet.failed(server, server.failures, None)
                silent.append(error)
        if not said:
            raise silent[-1]
        roots = {url: its.get("root") or "" for url, its in said.items()}
        if len(set(roots.values())) > 1:
            told = ", ".join(f"{url} serves {root or 'it does not say what'}" for url, root in roots.items())
            raise EndpointError(f"servers that stand in for one another must have the same model, but {told}")
        contexts = [int(its["max_model_len"]) for its in said.values() if its.get("max_model_len")]
        return {"root": next(iter(roots.values())), "max_model_len": min(contexts, default=None)}

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The server's JSON reply to a request for this model."""
        with self._sent("POST", path, {"model": self.model} | body) as response:
            return self._json(response)

    def events(self, path: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The reply as it comes, event by event (server-sent events)."""
        with self._sent("POST", path, {"model": self.model} | body, stream=True) as response:
            try:
                for line in response.iter_lines():
                    if line.startswith("data:"):
                        data = line[5:].strip()
                        if data == "[DONE]":
                            return
                        event = self._parsed(response, data)
                        if "error" in event:
                            raise EndpointError(
                                f"{response.url} broke off: {_brief(json.dumps(event['error']))}"
                            )
                        yield event
            except httpx.HTTPError as error:
                raise EndpointError(
                    f"{response.url} broke off in the middle: {_reason(error)}; ask again"
                ) from error

    def count_tokens(self, text: str) -> int:
        """The server's count of a text's tokens, or an upper estimate (three bytes a token) without one."""
        if self._counts:
            body = {"model": self.model, "prompt": text, "content": text, "add_special_tokens": False}
            try:
                # vLLM reads `prompt`, llama.cpp `content`; both have the path beside /v1 and not under it
                with self._sent("POST", "/tokenize", body, beside=True) as response:
                    return len(self._json(response)["tokens"])
            except (_Refused, KeyError, TypeError):
                self._counts = False
        return math.ceil(len(text.encode()) / 3)

    @contextmanager
    def expecting(self, path: str, what: str) -> Iterator[None]:
        """Turns a reply of another shape than expected into an EndpointError."""
        try:
            yield
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise EndpointError(
                f"{self.url}{path} answered without {what} ({type(error).__name__}: {error}); "
                "check that the URL is that of an OpenAI-compatible API"
            ) from error

    @contextmanager
    def _sent(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None,
        *,
        stream: bool = False,
        beside: bool = False,
    ) -> Iterator[httpx.Response]:
        """A server's reply to this request; the server has it until the block ends.

        `beside`: the path lies beside /v1 and not under it.
        """
        server, response = self._answered(method, path, body, stream=stream, beside=beside)
        try:
            yield response
        finally:
            response.close()
            self._fleet.let_go(server)

    def _answered(
        self, method: str, path: str, body: dict[str, Any] | None, *, stream: bool, beside: bool
    ) -> tuple[Server, httpx.Response]:
        problem: EndpointError
        slow: set[str] = set()
        for _ in range((self.retries + 1) * len(self._fleet.servers)):
            server = self._fleet.take()
            failures, answered = server.failures, False
            url = (re.sub(r"/v\d+$", "", server.url) if beside else server.url) + path
            patience: float | None = None
            try:
                response = self._client.send(
                    self._client.build_request(method, url, json=body), stream=stream
                )
                if response.is_success:
                    answered = True
                    self._fleet.succeeded(server)
                    return server, response
                response.read()
            except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
                raise ModelError(
                    f"{url!r} is no address: {error}; write http://host:port/v1#model"
                ) from error
            except httpx.ReadTimeout as error:
                slow.add(server.url)
                problem = EndpointError(
                    f"{url} takes longer than {self.timeout:g} s; ask for fewer tokens, or check its load"
                )
                if len(slow) == min(2, len(self._fleet.servers)):  # asking again would only add to the load
                    raise problem from error
            except httpx.TransportError as error:
                problem = _Silent(
                    f"{url} does not answer: {_reason(error)}; check that the server runs there"
                )
                problem.__cause__ = error
            else:
                problem = _Refused(response)
                if response.status_code not in _TRY_AGAIN:
                    raise problem
                patience = _retry_after(response)
            finally:
                if not answered:
                    self._fleet.let_go(server)
            self._fleet.failed(server, failures, patience)
        raise problem

    def _json(self, response: httpx.Response) -> dict[str, Any]:
        return self._parsed(response, response.text)

    def _parsed(self, response: httpx.Response, text: str) -> dict[str, Any]:
        try:
            reply = json.loads(text)
        except ValueError as error:
            raise EndpointError(
                f"{response.url} answered {response.status_code} and not with JSON: {_brief(text)}; "
                "check that the URL is that of an OpenAI-compatible API (it often ends in /v1)"
            ) from error
        if not isinstance(reply, dict):
            raise EndpointError(f"{response.url} answered with {_brief(text)} and not with a JSON object")
        return reply


class _Silent(EndpointError):
    """The server cannot be reached."""


class _Refused(EndpointError):
    """The server answered with an error status."""

    def __init__(self, response: httpx.Response) -> None:
        self.status = response.status_code
        key = f"check the key in {_KEY}"
        checks = {401: key, 403: key, 404: "check the path and the model"}
        check = checks.get(self.status, "see the server's log" if self.status >= 500 else "see what it says")
        super().__init__(f"{response.url} answered {self.status}: {_brief(response.text)}; {check}")


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds that the server asks to wait; a date is not understood and left to our own patience."""
    try:
        seconds = float(response.headers.get("retry-after", ""))
    except ValueError:
        return None
    return seconds if seconds >= 0 else None


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _brief(text: str) -> str:
    flat = " ".join(text.split())
    return flat[:300] + ("…" if len(flat) > 300 else "") or "nothing"
