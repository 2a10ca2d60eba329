"""Any OpenAI-compatible server (vLLM, llama.cpp, Ollama, …) by its URL: `http://host:port/v1#model`.

Several that have the same model share the work: `http://a/v1#model,http://b/v1#model` (see `fleet`). A key,
where the server wants one, is read from the environment variable FIELDSTONE_API_KEY.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any

import numpy as np

from fieldstone.errors import EndpointError, ModelError
from fieldstone.models import (
    Completion,
    Encoder,
    Generator,
    Heard,
    Options,
    Prompt,
    Reranker,
    Score,
    Vectors,
)
from fieldstone.models.fleet import servers_of
from fieldstone.models.limits import check_request, refuse_passages
from fieldstone.models.wire import Wire
from fieldstone.records import fingerprint

_PROBES = ("The harbour opens at six.", "Why do cats purr?", "Zahlen: 1, 2, 3")
_INPUTS = 64  # texts a request


def load_encoder(name: str, options: Options) -> Encoder:
    """The server's embedding model; EndpointError for several servers whose models differ."""
    prefixes = options.query_prefix or "", options.passage_prefix or ""
    alone = [EndpointEncoder(one, _wire(one, options), *prefixes) for one in servers_of(name)]
    if len(alone) == 1:
        return alone[0]
    if len({encoder.fingerprint for encoder in alone}) > 1:
        told = ", ".join(f"{encoder.name} is {encoder.fingerprint}" for encoder in alone)
        raise EndpointError(f"servers that stand in for one another must have the same encoder, but {told}")
    return EndpointEncoder(name, _wire(name, options), *prefixes)


def load_reranker(name: str, options: Options) -> Reranker:
    """The server's reranker."""
    return EndpointReranker(name, _wire(name, options))


def load_generator(name: str, options: Options) -> Generator:
    """The server's generator."""
    return EndpointGenerator(name, _wire(name, options))


def _wire(name: str, options: Options) -> Wire:
    return Wire(name, timeout=options.timeout, concurrency=options.concurrency)


class EndpointGenerator:
    """A `Generator` behind /completions and /chat/completions."""

    def __init__(self, name: str, wire: Wire) -> None:
        self.name = name
        self._wire = wire
        described = wire.describe()
        self.context_tokens = int(described.get("max_model_len") or 4096)
        # weights cannot be seen from here: what stands for them is the model's name and what it was made from
        self.fingerprint = fingerprint(wire.model, described.get("root") or "")
        self._logprobs = True

    def generate(
        self,
        prompts: Sequence[Prompt],
        *,
        max_tokens: int = 64,
        stop: Sequence[str] = (),
        temperature: float = 0.0,
        seed: int = 0,
        heard: Heard | None = None,
    ) -> list[Completion]:
        """One completion a prompt, several at a time; `logprob` is None if the server gives none."""
        check_request(max_tokens, temperature)
        one_at_a_time = Lock()

        def one(place: int, prompt: Prompt) -> Completion:
            asked = (prompt, max_tokens, stop, temperature, seed)
            if heard is None:
                return self._complete(*asked)
            told = heard

            def tell(text: str) -> None:
                with one_at_a_time:
                    told(place, text)

            return self._complete_aloud(*asked, tell)

        with ThreadPoolExecutor(self._wire.concurrency) as pool:
            return list(pool.map(one, range(len(prompts)), prompts))

    def stream(
        self,
        prompt: Prompt,
        *,
        max_tokens: int = 64,
        stop: Sequence[str] = (),
        temperature: float = 0.0,
        seed: int = 0,
    ) -> Iterator[str]:
        """The same completion in pieces as they come."""
        check_request(max_tokens, temperature)
        path, body = self._request(prompt, max_tokens, stop, temperature, seed)
        for choice in self._choices(path, body):
            if piece := _piece(choice):
                yield piece

    def score(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[Score]:
        """Log-probability of each completion, from a server that echoes the prompt's (vLLM does).

        The server tokenises prompt and completion as one text; a token across the border counts whole.
        """
        if len(prompts) != len(completions):
            raise ModelError(
                f"{len(prompts)} prompts and {len(completions)} completions: there must be one each"
            )
        with ThreadPoolExecutor(self._wire.concurrency) as pool:
            return list(pool.map(self._score, prompts, completions))

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text: by /tokenize where there is one (vLLM, llama.cpp), else an upper estimate."""
        with ThreadPoolExecutor(self._wire.concurrency) as pool:
            return list(pool.map(self._wire.count_tokens, texts))

    def forget(self) -> None:
        """What the server keeps is its own affair."""

    def _request(
        self, prompt: Prompt, max_tokens: int, stop: Sequence[str], temperature: float, seed: int
    ) -> tuple[str, dict[str, Any]]:
        refuse_passages(self.name, prompt)
        body: dict[str, Any] = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed}
        if stop:
            body["stop"] = list(stop)
        if not prompt.chat:
            return "/completions", body | {"prompt": prompt.prefix + prompt.text + prompt.prefill}
        messages = [{"role": "system", "content": prompt.system}] if prompt.system else []
        messages.append({"role": "user", "content": prompt.prefix + prompt.text})
        if prompt.prefill:  # vLLM's way of going on; llama.cpp and Ollama go on by themselves
            messages.append({"role": "assistant", "content": prompt.prefill})
            body |= {"add_generation_prompt": False, "continue_final_message": True}
        return "/chat/completions", body | {"messages": messages}

    def _choices(self, path: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The first choice of each event of a streamed reply."""
        for event in self._wire.events(path, body | {"stream": True}):
            if choices := event.get("choices"):
                yield choices[0]

    def _complete_aloud(
        self,
        prompt: Prompt,
        max_tokens: int,
        stop: Sequence[str],
        temperature: float,
        seed: int,
        tell: Callable[[str], None],
    ) -> Completion:
        """As `_complete`, by a stream; `tell` hears the text so far."""
        path, body = self._request(prompt, max_tokens, stop, temperature, seed)
        logprobs, prefill = self._logprobs, prompt.prefill if prompt.chat else ""
        asked = {"logprobs": True if prompt.chat else 1} if logprobs else {}
        text, values, finished = "", list[float | None](), False
        try:
            for choice in self._choices(path, body | asked):
                text += _piece(choice)
                values += _logprobs(choice) or ()
                finished = finished or choice.get("finish_reason") == "stop"
                if not prefill.startswith(text):  # some servers say it once more
                    tell(text.removeprefix(prefill))
        except EndpointError as error:
            if text or not logprobs or "logprob" not in str(error).lower():
                raise
            self._logprobs = False
            return self._complete_aloud(prompt, max_tokens, stop, temperature, seed, tell)
        text = text.removeprefix(prefill)
        logprob = float(sum(v for v in values if v is not None)) if values else None
        return Completion(text, len(values or text.split()), logprob, finished)

    def _complete(
        self, prompt: Prompt, max_tokens: int, stop: Sequence[str], temperature: float, seed: int
    ) -> Completion:
        path, body = self._request(prompt, max_tokens, stop, temperature, seed)
        if self._logprobs:
            try:
                reply = self._wire.post(path, body | {"logprobs": True if prompt.chat else 1})
            except EndpointError as error:
                if "logprob" not in str(error).lower():
                    raise
                self._logprobs = False  # some servers refuse the field: go without from now on
        if not self._logprobs:
            reply = self._wire.post(path, body)
        with self._wire.expecting(path, "choices[0]"):
            choice = reply["choices"][0]
            text = (choice["message"]["content"] if prompt.chat else choice["text"]) or ""
            values = _logprobs(choice)
            tokens = (reply.get("usage") or {}).get("completion_tokens")
            count = int(tokens if tokens is not None else len(values or text.split()))
            logprob = float(sum(v for v in values if v is not None)) if values is not None else None
            if prompt.chat:  # some servers say the prefill once more
                text = text.removeprefix(prompt.prefill)
            return Completion(str(text), count, logprob, choice.get("finish_reason") == "stop")

    def _score(self, prompt: Prompt, completion: str) -> Score:
        refuse_passages(self.name, prompt)
        if prompt.chat:
            raise EndpointError(
                f"{self.name}: the chat API gives no log-probabilities of a given text; "
                "score prompts without chat, or use a model in this process"
            )
        if not completion:
            return Score(0.0, 0)
        before = prompt.prefix + prompt.text + prompt.prefill
        body = {"prompt": before + completion, "max_tokens": 1, "echo": True, "logprobs": 1, "temperature": 0}
        reply = self._wire.post("/completions", body)
        with self._wire.expecting("/completions", "choices[0]"):
            given = reply["choices"][0].get("logprobs") or {}
        values, offsets, tokens = (given.get(key) for key in ("token_logprobs", "text_offset", "tokens"))
        if not values or not offsets or not tokens or offsets[0] != 0 or offsets[-1] < len(before):
            raise EndpointError(
                f"{self._wire.url}/completions gives no log-probabilities of the prompt (echo, logprobs), so "
                f"{self.name} cannot score; vLLM's server can, or use a model in this process"
            )
        end = len(before) + len(completion)
        own = [
            value
            for value, start, token in zip(values, offsets, tokens, strict=False)
            if start < end and start + len(token) > len(before) and value is not None
        ]
        return Score(float(sum(own)), len(own))


def _piece(choice: dict[str, Any]) -> str:
    """What an event of a stream adds to the text."""
    return str(choice.get("text") or (choice.get("delta") or {}).get("content") or "")


def _logprobs(choice: dict[str, Any]) -> list[float | None] | None:
    """The log-probabilities of a choice's tokens, where it has them."""
    given = choice.get("logprobs") or {}
    values: list[float | None] | None = given.get("token_logprobs")
    if values is None and given.get("content"):
        values = [token["logprob"] for token in given["content"]]
    return values


class EndpointEncoder:
    """An `Encoder` behind /embeddings; vectors are normalised here."""

    def __init__(self, name: str, wire: Wire, query_prefix: str = "", passage_prefix: str = "") -> None:
        self.name = name
        self._wire = wire
        self.query_prefix, self.passage_prefix = query_prefix, passage_prefix
        self.max_tokens = int(wire.describe().get("max_model_len") or 512)
        probes = self._encode(_PROBES)
        self.dimension = int(probes.shape[1])
        # a server's weights cannot be seen: the greatest component of each probe tells most models apart,
        # and stays the same under the small differences between one machine and another
        peaks = np.abs(probes).argmax(1).tolist()
        self.fingerprint = fingerprint(wire.model, self.dimension, *peaks, query_prefix, passage_prefix)

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        """One row a question."""
        return self._encode([self.query_prefix + text for text in texts])

    def encode_passages(self, texts: Sequence[str]) -> Vectors:
        """One row a passage."""
        return self._encode([self.passage_prefix + text for text in texts])

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text: by /tokenize where there is one, else an upper estimate."""
        with ThreadPoolExecutor(self._wire.concurrency) as pool:
            return list(pool.map(self._wire.count_tokens, texts))

    def _encode(self, texts: Sequence[str]) -> Vectors:
        if not texts:
            return np.zeros((0, self.dimension), np.float32)
        parts = [list(texts[i : i + _INPUTS]) for i in range(0, len(texts), _INPUTS)]
        with ThreadPoolExecutor(self._wire.concurrency) as pool:
            vectors = np.concatenate(list(pool.map(self._request, parts)))
        return np.ascontiguousarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)

    def _request(self, texts: list[str]) -> Vectors:
        reply = self._wire.post("/embeddings", {"input": texts, "encoding_format": "float"})
        with self._wire.expecting("/embeddings", f"data with {len(texts)} embeddings of numbers"):
            rows = sorted(reply["data"], key=lambda row: int(row["index"]))
            vectors = np.array([row["embedding"] for row in rows], np.float32)
            if vectors.ndim != 2 or len(vectors) != len(texts) or not np.isfinite(vectors).all():
                raise ValueError(f"an array of shape {vectors.shape}")
            if not np.linalg.norm(vectors, axis=1).all():
                raise ValueError("a vector of zeros")
            return vectors


class EndpointReranker:
    """A `Reranker` behind /rerank (vLLM, llama.cpp, TEI speak it alike)."""

    def __init__(self, name: str, wire: Wire) -> None:
        self.name = name
        self._wire = wire
        self.fingerprint = fingerprint(wire.model, wire.describe().get("root") or "")

    def rerank(self, question: str, texts: Sequence[str]) -> list[float]:
        """One score a text."""
        if not texts:
            return []
        reply = self._wire.post("/rerank", {"query": question, "documents": list(texts), "top_n": len(texts)})
        with self._wire.expecting("/rerank", f"results with {len(texts)} scores"):
            scores = {int(row["index"]): float(row["relevance_score"]) for row in reply["results"]}
            return [scores[i] for i in range(len(texts))]
