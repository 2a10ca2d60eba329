"""OpenAI's API: chat, embeddings and models, so that what speaks to OpenAI can speak to a workspace.

A workspace is the model `fieldstone/NAME`. The last user message is the question, the messages before it are
the conversation so far; system messages, tools and sampling parameters change nothing.
"""

from __future__ import annotations

import base64
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from fieldstone.errors import RequestError
from fieldstone.models import Vectors
from fieldstone.serve.engine import Engine, Found, Reply, Turn
from fieldstone.serve.events import EventStream, event
from fieldstone.serve.served import Here, reply
from fieldstone.serve.shapes import QUESTION, QUESTION_CHARACTERS, FilterGiven, Short, citations_as_json

PREFIX = "fieldstone/"
OURS = "fieldstone"

TEXTS = 512
"""Texts that one request may have embedded."""

DONE = b"data: [DONE]\n\n"

routes = APIRouter(prefix="/v1", tags=["as OpenAI"])


class _Given(BaseModel):
    model_config = ConfigDict(extra="allow")


class Part(_Given):
    """A part of a message; only text is read."""

    type: str
    text: str | None = None


class Message(_Given):
    """A message of the conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[Part] | None = None

    def text(self) -> str:
        """What it says."""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text or "" for part in self.content or () if part.type == "text")


class StreamOptions(_Given):
    """How a stream ends."""

    include_usage: bool | None = None


class OurOptions(BaseModel):
    """What OpenAI's API has no word for."""

    model_config = ConfigDict(extra="forbid")

    inline: bool = Field(False, description="Put the citations' numbers into the text, as [1].")
    filter: FilterGiven | None = None


class ChatRequest(_Given):
    """A conversation that ends with a question. Fields that are not named here are not looked at."""

    model: Short = Field("", description="fieldstone/NAME; any other name is the first workspace.")
    messages: list[Message] = Field(
        min_length=1, max_length=1000, examples=[[{"role": "user", "content": QUESTION}]]
    )
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    n: Literal[1] | None = 1
    fieldstone: OurOptions | None = None


class EmbeddingsRequest(_Given):
    """Texts to embed."""

    model: Short = ""
    input: str | list[str] | list[int] | list[list[int]] = Field(examples=["The gate opens at six."])
    encoding_format: Literal["float", "base64"] | None = "float"
    dimensions: int | None = Field(None, ge=1)
    input_type: Literal["passage", "query"] = Field("passage", description="What the texts are.")


@routes.post("/chat/completions", responses={200: {"content": {"text/event-stream": {}}}})
async def chat_completions(given: ChatRequest, request: Request, here: Here) -> Response:
    """An answer out of the documents, as a chat completion; `citations` stands beside the message's text.

    Streamed, `citations` stands in the delta of the last chunk that has a choice. `usage` counts the tokens
    of the question as it was understood, and of the answer; the passages that were read are not counted.
    """
    engine = _engine(request, here, given.model)
    question, history = _conversation(given.messages)
    ours = given.fieldstone or OurOptions()
    only = ours.filter.as_filter() if ours.filter else None
    head = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": _name(engine)}
    async with here.time() as limit:
        asked = await engine.self_contained(question, history)
        if given.stream:
            counted = bool(given.stream_options and given.stream_options.include_usage)
            told = _Stream(head, ours.inline, counted, engine.name, question, asked)
            chunks = _chunks(engine.stream(asked, only), told, here)
            return EventStream(chunks, limit.when(), event)
        got = await engine.ask(asked, only)
        await here.answered(str(head["id"]), engine.name, question, asked, got)
    citations = citations_as_json(got.answer, got.sources)
    text = _text(got, ours.inline)
    message = {"role": "assistant", "content": text, "refusal": None, "citations": citations}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
    said = {"choices": [choice], "usage": _usage(got), OURS: _told(asked, got)}
    return reply({**head, "object": "chat.completion", **said})


@routes.get("/models")
def models(request: Request, here: Here) -> Response:
    """The workspaces that the key opens, as models."""
    here.engine(request, None)
    return reply({"object": "list", "data": [_as_model(engine) for engine in here.opened(request)]})


@routes.get("/models/{name:path}")
def model(name: str, request: Request, here: Here) -> Response:
    """One workspace, as a model."""
    return reply(_as_model(_engine(request, here, name, strict=True)))


@routes.post("/embeddings")
async def embeddings(given: EmbeddingsRequest, request: Request, here: Here) -> Response:
    """Vectors of texts, of unit length, by the encoder in use. Give questions as `input_type` query."""
    engine = _engine(request, here, given.model)
    texts = _texts(given.input)
    async with here.time():
        embedded = await engine.embed(texts, questions=given.input_type == "query")
    dimension = embedded.vectors.shape[1]
    if given.dimensions not in (None, dimension):
        raise RequestError(
            f"the encoder makes vectors of {dimension} dimensions, not {given.dimensions}", param="dimensions"
        )
    packed = given.encoding_format == "base64"
    data = [
        {"object": "embedding", "index": i, "embedding": _packed(row) if packed else row.tolist()}
        for i, row in enumerate(embedded.vectors)
    ]
    usage = {"prompt_tokens": embedded.tokens, "total_tokens": embedded.tokens}
    return reply({"object": "list", "model": _name(engine), "data": data, "usage": usage})


def _engine(request: Request, here: Here, model: str, *, strict: bool = False) -> Engine:
    """The workspace of a model's name; one that is not ours stands for the first."""
    if model.startswith(PREFIX) or strict:
        return here.engine(request, model.removeprefix(PREFIX))
    return here.engine(request, None)


def _conversation(messages: list[Message]) -> tuple[str, list[Turn]]:
    """The question, and what was asked and answered before it. Raises RequestError where nothing is asked."""
    last = max((i for i, its in enumerate(messages) if its.role == "user"), default=-1)
    question = messages[last].text().strip() if last >= 0 else ""
    if not question:
        raise RequestError("there is no user message with text in it", param="messages")
    if len(question) > QUESTION_CHARACTERS:
        raise RequestError(
            f"the question has {len(question):,} characters; {QUESTION_CHARACTERS:,} are the most",
            param="messages",
        )
    turns: list[Turn] = []
    for message in messages[:last]:
        if message.role == "user":
            turns.append(Turn(message.text()))
        elif message.role == "assistant" and turns and not turns[-1].answer:
            turns[-1] = Turn(turns[-1].question, message.text())
    return question, turns


@dataclass(frozen=True, slots=True)
class _Stream:
    """A stream of chunks: what each begins with, what was wished for, and what was asked where."""

    head: Mapping[str, Any]
    inline: bool
    counted: bool
    workspace: str
    question: str
    asked: str


async def _chunks(
    events: AsyncIterator[Found | str | Reply], its: _Stream, here: Here
) -> AsyncIterator[bytes]:
    def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
        usage = {"usage": None} if its.counted else {}
        return event({**its.head, "object": "chat.completion.chunk", "choices": [choice], **usage, **more})

    written = ""
    yield chunk({"role": "assistant", "content": ""})
    async for part in events:
        if isinstance(part, str):
            written += part
            yield chunk({"content": part})
        elif isinstance(part, Reply):
            await here.answered(its.head["id"], its.workspace, its.question, its.asked, part)
            whole = _text(part, its.inline)
            if rest := whole.removeprefix(written) if whole.startswith(written) else f"\n\n{whole}":
                yield chunk({"content": rest})
            citations = citations_as_json(part.answer, part.sources)
            yield chunk({"citations": citations}, "stop", **{OURS: _told(its.asked, part)})
            if its.counted:
                last = {"object": "chat.completion.chunk", "choices": [], "usage": _usage(part)}
                yield event({**its.head, **last})
    yield DONE


def _text(got: Reply, inline: bool) -> str:
    marks = "".join(f" [{number}]" for number, _ in enumerate(got.answer.citations, start=1))
    return got.answer.text + marks if inline else got.answer.text


def _told(asked: str, got: Reply) -> dict[str, Any]:
    return {"asked": asked, "abstained": got.answer.abstained, "confidence": got.answer.confidence}


def _usage(got: Reply) -> dict[str, int]:
    asked, said = got.tokens
    return {"prompt_tokens": asked, "completion_tokens": said, "total_tokens": asked + said}


def _as_model(engine: Engine) -> dict[str, Any]:
    return {"id": _name(engine), "object": "model", "created": engine.made, "owned_by": OURS}


def _name(engine: Engine) -> str:
    return f"{PREFIX}{engine.name}"


def _texts(given: str | list[str] | list[int] | list[list[int]]) -> list[str]:
    """The texts to embed. Raises RequestError where there are none, or tokens in their place."""
    texts = [given] if isinstance(given, str) else list(given)
    if not all(isinstance(text, str) and text for text in texts) or not texts:
        raise RequestError(
            "input must be a text or a list of texts, none of them empty; tokens mean nothing to this "
            "encoder (LangChain: check_embedding_ctx_length=False)",
            param="input",
        )
    if len(texts) > TEXTS:
        raise RequestError(
            f"input has {len(texts):,} texts; {TEXTS} are the most in a request", param="input"
        )
    return [str(text) for text in texts]


def _packed(row: Vectors) -> str:
    return base64.b64encode(row.astype("<f4").tobytes()).decode()
