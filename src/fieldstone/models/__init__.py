"""The models seam: what an encoder, a reranker and a generator are, and how one is named.

A name says what the model is: `embedded:minilm`, a folder, a hub id, `http://…/v1#model` for any
OpenAI-compatible server, or `fake:…` for tests. Nothing is guessed from a part of a name.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from fieldstone.errors import ModelError

Vectors = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a generator reads.

    `prefix` is the part that many prompts share (a passage, say): a generator may compute it once and
    keep it. With `chat` the whole is put to the model as one user turn of its chat template, under the
    instruction `system`; without, `prefix + text` is completed as it stands. `prefill` is what the reply
    begins with already: the completion goes on after it and does not repeat it.

    With `passages`, each of them is read apart, behind the rest of the prompt, and the reply is written from
    all (Fusion-in-Decoder). Encoder-decoders can do that; every other generator raises ModelError.
    """

    text: str
    prefix: str = ""
    system: str = ""
    chat: bool = False
    prefill: str = ""
    passages: tuple[str, ...] = ()


Heard = Callable[[int, str], None]
"""Called while prompts are answered: a prompt's place, and what is certain of its completion so far.

It comes one call at a time, and may come again with the same text. What it raises ends the writing."""


@dataclass(frozen=True, slots=True)
class Completion:
    """What a generator wrote: `logprob` is the natural log-probability of its `tokens` tokens, summed."""

    text: str
    tokens: int
    logprob: float | None
    finished: bool  # stopped by itself (end of text or a stop string), not by the limit


@dataclass(frozen=True, slots=True)
class Score:
    """Natural log-probability of a completion given its prompt, summed over its `tokens` tokens."""

    logprob: float
    tokens: int

    @property
    def mean(self) -> float:
        """Log-probability a token; 0 for an empty completion."""
        return self.logprob / self.tokens if self.tokens else 0.0


class Encoder(Protocol):
    """Texts to vectors of unit length: (n, dimension), float32."""

    name: str
    fingerprint: str
    dimension: int
    max_tokens: int

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        """One row a question."""
        ...

    def encode_passages(self, texts: Sequence[str]) -> Vectors:
        """One row a passage."""
        ...

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, without special tokens; more than `max_tokens` would be cut off."""
        ...


class Reranker(Protocol):
    """Scores how well each text answers the question; higher is better, any scale."""

    name: str
    fingerprint: str

    def rerank(self, question: str, texts: Sequence[str]) -> list[float]:
        """One score a text."""
        ...


class Generator(Protocol):
    """Writes text, and says how likely a text is."""

    name: str
    fingerprint: str
    context_tokens: int

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
        """One completion a prompt; `temperature` 0 is greedy. A stop string ends the text and is cut off.

        `heard` follows the completions of all prompts as they are written.
        """
        ...

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
        ...

    def score(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[Score]:
        """Exact log-probability of each completion after its prompt (teacher forcing)."""
        ...

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, without special tokens."""
        ...

    def forget(self) -> None:
        """Drop what is kept of earlier prompts: in bfloat16 it may change the last digit of the next."""
        ...


LONG_CONTEXT = 16_384
"""Tokens. Models that take so many also follow instructions over several passages; smaller ones complete."""


def reads_long(generator: Generator) -> bool:
    """Whether it can be shown several passages at once and be told what to do with them."""
    return generator.context_tokens >= LONG_CONTEXT


@dataclass(frozen=True, slots=True)
class Options:
    """How a model is loaded; a backend reads what concerns it and leaves the rest.

    `device`: auto, cpu, cuda, cuda:1, mps. `threads`: None leaves the choice to `devices.thread_count`.
    `cache`: where dequantised weights and checksums are kept (default `$FIELDSTONE_CACHE`, then
    `~/.cache/fieldstone`). `dtype`: auto, float32, bfloat16, float16. `query_prefix` and
    `passage_prefix` stand in for those that the encoder brings along; None keeps its own. `timeout`
    (seconds) and `concurrency` (requests at a time) concern model servers. `engine`: auto, lean (our own
    forward pass, on the CPU), transformers.
    """

    device: str = "auto"
    threads: int | None = None
    cache: Path | None = None
    dtype: str = "auto"
    query_prefix: str | None = None
    passage_prefix: str | None = None
    timeout: float = 120.0
    concurrency: int = 8
    engine: str = "auto"


class Loader(Protocol):
    """Loads models by name: this module, or what keeps those that it has loaded."""

    def load_encoder(
        self, name: str, *, device: str = "auto", threads: int | None = None, engine: str = "auto"
    ) -> Encoder:
        """The encoder called `name`."""
        ...

    def load_reranker(
        self, name: str, *, device: str = "auto", threads: int | None = None, engine: str = "auto"
    ) -> Reranker:
        """The reranker called `name`."""
        ...

    def load_generator(
        self, name: str, *, device: str = "auto", threads: int | None = None, engine: str = "auto"
    ) -> Generator:
        """The generator called `name`."""
        ...


# scheme -> module. A backend is a module with any of load_encoder, load_reranker, load_generator, each
# taking (name, options). A package of your own adds one under the entry points "fieldstone.models".
BACKENDS = {
    "embedded": "fieldstone.models.embedded",
    "http": "fieldstone.models.endpoint",
    "https": "fieldstone.models.endpoint",
    "fake": "fieldstone.models.fake",
    "dual": "fieldstone.models.dual",
}
_FOLDER_OR_HUB = "fieldstone.models.huggingface"
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?(@[\w./-]+)?")


def load_encoder(
    name: str,
    *,
    device: str = "auto",
    threads: int | None = None,
    cache: Path | None = None,
    dtype: str = "auto",
    query_prefix: str | None = None,
    passage_prefix: str | None = None,
    timeout: float = 120.0,
    concurrency: int = 8,
    engine: str = "auto",
) -> Encoder:
    """The encoder called `name`; ModelError says what to type if it cannot be had."""
    options = Options(
        device, threads, cache, dtype, query_prefix, passage_prefix, timeout, concurrency, engine
    )
    return cast(Encoder, _door(name, "encoder")(name, options))


def load_reranker(
    name: str,
    *,
    device: str = "auto",
    threads: int | None = None,
    cache: Path | None = None,
    dtype: str = "auto",
    timeout: float = 120.0,
    concurrency: int = 8,
    engine: str = "auto",
) -> Reranker:
    """The reranker called `name`; ModelError says what to type if it cannot be had."""
    options = Options(device, threads, cache, dtype, timeout=timeout, concurrency=concurrency, engine=engine)
    return cast(Reranker, _door(name, "reranker")(name, options))


def load_generator(
    name: str,
    *,
    device: str = "auto",
    threads: int | None = None,
    cache: Path | None = None,
    dtype: str = "auto",
    timeout: float = 120.0,
    concurrency: int = 8,
    engine: str = "auto",
) -> Generator:
    """The generator called `name`; ModelError says what to type if it cannot be had."""
    options = Options(device, threads, cache, dtype, timeout=timeout, concurrency=concurrency, engine=engine)
    return cast(Generator, _door(name, "generator")(name, options))


def _door(name: str, kind: str) -> Callable[[str, Options], object]:
    """The function that loads a model of this kind by this name."""
    module = _backend(name)
    load = getattr(module, f"load_{kind}", None)
    if load is None:
        kinds = [k for k in ("encoder", "reranker", "generator") if hasattr(module, f"load_{k}")]
        raise ModelError(
            f"{name!r}: {module.__name__} has no {kind}s, only {' and '.join(f'{k}s' for k in kinds)}; "
            f"give one of: {_choices()}"
        )
    return cast("Callable[[str, Options], object]", load)


def _backend(name: str) -> ModuleType:
    scheme, colon, _ = name.partition(":")
    if colon and scheme in BACKENDS:
        return importlib.import_module(BACKENDS[scheme])
    if name and Path(name).expanduser().exists():
        return importlib.import_module(_FOLDER_OR_HUB)
    if colon:
        for entry in entry_points(group="fieldstone.models"):
            if entry.name == scheme:
                try:
                    return cast(ModuleType, entry.load())
                except ImportError as error:
                    raise ModelError(
                        f"{name!r}: the package behind {scheme}: does not import: {error}"
                    ) from error
    if _HUB_ID.fullmatch(name) and not name.startswith("."):
        return importlib.import_module(_FOLDER_OR_HUB)
    raise ModelError(f"{name!r} names no model and is no folder here; give one of: {_choices()}")


def _choices() -> str:
    others = sorted({entry.name for entry in entry_points(group="fieldstone.models")} - BACKENDS.keys())
    return ", ".join(
        [
            "embedded:minilm (encoder)",
            "embedded:smollm2 (generator)",
            "a folder",
            "a hub id such as owner/name",
            "http://host:port/v1#model",
            "dual:query=NAME,passage=NAME (encoder)",
            "fake:words",
            *(f"{other}:…" for other in others),
        ]
    )
