"""Requests to a model server: retries with patience, bounded concurrency, errors that say what to check."""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from fieldstone.errors import EndpointError, ModelError

_KEY = "FIELDSTONE_API_KEY"
_TRY_AGAIN = frozenset({408, 429, 500, 502, 503, 504})
_LONGEST_WAIT = 60.0  # seconds; a server that asks for more is taken at its word no further


class Wire:
    """A server and one of its models; safe in many threads.

    Tries again after a lost connection, 429 and 5xx: after `Retry-After` if the server says so, else
    after `wait` seconds, doubled each time.
    """

    def __init__(
        self, name: str, *, timeout: float = 120.0, retries: int = 4, wait: float = 0.5, concurrency: int = 8
    ) -> None:
        url, _, self.model = name.partition("#")
        self.url = url.rstrip("/")
        if not self.model:
            raise ModelError(
                f"{name!r} names no model; write {self.url}#MODEL (the server lists them: {self.url}/models)"
            )
        self.timeout, self.retries, self.wait, self.concurrency = timeout, retries, wait, concurrency
        key = os.environ.get(_KEY)
        self._client = httpx.Client(
            timeout=httpx.Timeout(timeout, connect=min(timeout, 10.0)),
            headers={"Authorization": f"Bearer {key}"} if key else {},
        )
        self._counts = True

    def describe(self) -> dict[str, Any]:
        """What /models says of the model, {} if there is no list; EndpointError if it lacks the model."""
        try:
            reply = self._json(self._send("GET", f"{self.url}/models", None))
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

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The server's JSON reply to a request for this model."""
        return self._json(self._send("POST", self.url + path, {"model": self.model} | body))

    def events(self, path: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The reply as it comes, event by event (server-sent events)."""
        response = self._send("POST", self.url + path, {"model": self.model} | body, stream=True)
        try:
            for line in response.iter_lines():
                if line.startswith("data:"):
                    data = line[5:].strip()
                    if data == "[DONE]":
                        return
                    event = self._parsed(response, data)
                    if "error" in event:
                        raise EndpointError(f"{response.url} broke off: {_brief(json.dumps(event['error']))}")
                    yield event
        except httpx.HTTPError as error:
            raise EndpointError(
                f"{response.url} broke off in the middle: {_reason(error)}; ask again"
            ) from error
        finally:
            response.close()

    def count_tokens(self, text: str) -> int:
        """The server's count of a text's tokens, or an upper estimate (three bytes a token) without one."""
        if self._counts:
            body = {"model": self.model, "prompt": text, "content": text, "add_special_tokens": False}
            try:
                # vLLM reads `prompt`, llama.cpp `content`; both have the path beside /v1 and not under it
                reply = self._json(self._send("POST", re.sub(r"/v\d+$", "", self.url) + "/tokenize", body))
                return len(reply["tokens"])
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

    def _send(
        self, method: str, url: str, body: dict[str, Any] | None, *, stream: bool = False
    ) -> httpx.Response:
        problem: EndpointError
        for attempt in range(self.retries + 1):
            patience: float | None = None
            try:
                response = self._client.send(
                    self._client.build_request(method, url, json=body), stream=stream
                )
                if response.is_success:
                    return response
                response.read()
            except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
                raise ModelError(
                    f"{url!r} is no address: {error}; write http://host:port/v1#model"
                ) from error
            except httpx.ReadTimeout as error:  # asking again would only add to its load
                raise EndpointError(
                    f"{url} takes longer than {self.timeout:g} s; ask for fewer tokens, or check its load"
                ) from error
            except httpx.TransportError as error:
                problem = EndpointError(
                    f"{url} does not answer: {_reason(error)}; check that the server runs there"
                )
                problem.__cause__ = error
            else:
                problem = _Refused(response)
                if response.status_code not in _TRY_AGAIN:
                    raise problem
                patience = _retry_after(response)
            if attempt < self.retries:
                time.sleep(min(_LONGEST_WAIT, self.wait * 2**attempt if patience is None else patience))
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
