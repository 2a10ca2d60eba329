"""A real HTTP server that speaks the OpenAI-compatible API around the fake models, and can misbehave."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from fieldstone.models import Prompt
from fieldstone.models.fake import _WORD, FakeEncoder, FakeGenerator, FakeReranker, _unigram


@dataclass
class Server:
    """What the server is told to do, and what it saw."""

    url: str = ""
    replies: list[tuple[int, str, dict[str, str]]] = field(default_factory=list)  # to be given first
    seen: list[tuple[str, dict[str, Any], dict[str, str]]] = field(default_factory=list)
    delay: float = 0.0
    slots: int = 1000  # requests that it works on at a time; the others wait
    root: str = "fake-root"
    tokenize: bool = True
    echo: bool = True
    models: bool = True
    refuse_logprobs: bool = False
    break_off: bool = False
    busy: int = 0
    busiest: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


@contextmanager
def serving(port: int = 0, **how: Any) -> Iterator[Server]:
    """A server on this port of this machine, or on a free one."""
    state = Server(**how)
    room = threading.Semaphore(state.slots)
    connections: list[socket.socket] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            connections.append(self.connection)

        def log_message(self, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            if self.path != "/v1/models" or not state.models:
                return self._send(404, {"error": "no such path"})
            return self._send(200, {"data": [{"id": "fake", "max_model_len": 2048, "root": state.root}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with state.lock:
                state.seen.append((self.path, body, {k.lower(): v for k, v in self.headers.items()}))
                state.busy += 1
                state.busiest = max(state.busiest, state.busy)
                reply = state.replies.pop(0) if state.replies else None
            try:
                with room:
                    time.sleep(state.delay)
                if reply is not None:
                    return self._raw(*reply)
                return self._answer(body)
            finally:
                with state.lock:
                    state.busy -= 1

        def _answer(self, body: dict[str, Any]) -> None:
            if self.path == "/tokenize" and state.tokenize:
                words = FakeGenerator().count_tokens([body["prompt"]])[0]
                return self._send(200, {"count": words, "tokens": list(range(words))})
            if self.path == "/v1/embeddings":
                vectors = FakeEncoder().encode_passages(body["input"]) * 3
                rows = [{"index": i, "embedding": v.tolist()} for i, v in enumerate(vectors)]
                return self._send(200, {"data": rows[::-1]})
            if self.path == "/v1/rerank":
                scores = FakeReranker().rerank(body["query"], body["documents"])
                rows = [{"index": i, "relevance_score": s} for i, s in enumerate(scores)]
                return self._send(200, {"results": sorted(rows, key=lambda r: -r["relevance_score"])})
            if self.path in ("/v1/completions", "/v1/chat/completions"):
                return self._complete(body, chat=self.path.endswith("chat/completions"))
            return self._send(404, {"error": "no such path"})

        def _complete(self, body: dict[str, Any], chat: bool) -> None:
            if state.refuse_logprobs and "logprobs" in body:
                return self._send(400, {"error": "logprobs is not supported"})
            if body.get("echo"):
                return self._echo(body["prompt"])
            if chat:
                last = body["messages"][-1]
                prefill = last["content"] if last["role"] == "assistant" else ""
                user = next(m["content"] for m in body["messages"] if m["role"] == "user")
                prompt = Prompt(text=user, chat=True, prefill=prefill)
            else:
                prompt = Prompt(text=body["prompt"])
            asked = {key: body[key] for key in ("max_tokens", "temperature", "seed")}
            asked["stop"] = body.get("stop", ())
            if body.get("stream"):
                return self._stream(FakeGenerator().stream(prompt, **asked), chat, "logprobs" in body)
            made = FakeGenerator().generate([prompt], **asked)[0]
            choice: dict[str, Any] = {"finish_reason": "stop" if made.finished else "length"}
            if chat:
                choice["message"] = {"role": "assistant", "content": made.text}
                if "logprobs" in body:
                    choice["logprobs"] = {"content": [{"token": made.text, "logprob": made.logprob}]}
            else:
                choice["text"] = made.text
                if "logprobs" in body:
                    choice["logprobs"] = {"token_logprobs": [made.logprob]}
            return self._send(200, {"choices": [choice], "usage": {"completion_tokens": made.tokens}})

        def _echo(self, text: str) -> None:
            if not state.echo:
                return self._send(200, {"choices": [{"text": " more", "logprobs": None}]})
            # a token a word, with the spaces before it; likelihood is given what stands up to the question
            ends = [m.end() for m in _WORD.finditer(text)] or [0]
            starts = [0, *ends[:-1]]
            tokens = [text[a:b] for a, b in zip(starts, ends, strict=True)]
            values: list[float | None] = [None]
            prompt = text[: text.rindex("Question:") + len("Question:")] if "Question:" in text else ""
            values += [_unigram(prompt, token).logprob for token in tokens[1:]]
            logprobs = {
                "tokens": [*tokens, " more"],
                "token_logprobs": [*values, -9.0],
                "text_offset": [*starts, len(text)],
            }
            return self._send(200, {"choices": [{"text": text + " more", "logprobs": logprobs}]})

        def _stream(self, pieces: Iterator[str], chat: bool, logprobs: bool) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            events: list[dict[str, Any]] = [{"delta": {"role": "assistant"}} if chat else {"text": ""}]
            for piece in pieces:
                events.append({"delta": {"content": piece}} if chat else {"text": piece})
                if logprobs and chat:
                    events[-1]["logprobs"] = {"content": [{"token": piece, "logprob": -0.5}]}
                elif logprobs:
                    events[-1]["logprobs"] = {"token_logprobs": [-0.5]}
            events.append({"delta": {}} if chat else {"text": ""})
            events[-1]["finish_reason"] = "stop"
            for number, event in enumerate(events):
                if state.break_off and number == 2:
                    self.close_connection = True
                    return
                self._chunk(f": keep-alive\n\ndata: {json.dumps({'choices': [event]})}\n\n")
            self._chunk("data: [DONE]\n\n")
            self._chunk("")

        def _chunk(self, text: str) -> None:
            data = text.encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

        def _send(self, status: int, reply: dict[str, Any]) -> None:
            self._raw(status, json.dumps(reply), {})

        def _raw(self, status: int, text: str, headers: dict[str, str]) -> None:
            data = text.encode()
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.handle_error = lambda *_: None  # a connection that was ended is not worth a traceback
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        for connection in connections:  # kept alive, they would be served on
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
