"""A build under way: what the steps of a recipe share."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fieldstone import models as all_models
from fieldstone.examples import read_examples
from fieldstone.in_use import (
    Part,
    base_of,
    model_in_use,
    newest,
    reranking_model,
    trust_in_use,
    with_reranker,
)
from fieldstone.library import Library
from fieldstone.models import Encoder, Generator, Loader, Reranker
from fieldstone.models.towers import passage_model
from fieldstone.progress import Progress, silent
from fieldstone.read.add import Added
from fieldstone.read.resources import Server
from fieldstone.records import Example, fingerprint
from fieldstone.settings import Settings
from fieldstone.split import VERSION
from fieldstone.spread import Spread, here
from fieldstone.workspace import Workspace

if TYPE_CHECKING:
    from fieldstone.answer import System
    from fieldstone.evaluate.questions import Question
    from fieldstone.search import Index

Model = TypeVar("Model")

_NOTHING = Added((), 0, (), (), (), ())


@dataclass
class Build:
    """A build under way: what its steps share. Models are loaded when the first step asks for them.

    `teach` are the user's questions that join the examples, `questions` those that only measure. `force`
    takes candidates into use that the gate turns down. `only`, as in `add_files`, narrows what is read. The
    models come from the `loader`; where files are read, documents split, and passages embedded and asked
    about, `spread` says. `made` is what the steps said of themselves so far.
    """

    workspace: Workspace
    paths: Sequence[Path | Server]
    settings: Settings
    library: Library
    progress: Progress = silent
    added: Added = _NOTHING
    teach: Sequence[Question] = ()
    questions: Sequence[Question] = ()
    force: bool = False
    only: Collection[Path] | None = None
    loader: Loader = all_models
    spread: Spread = here
    made: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    @cached_property
    def encoder(self) -> Encoder:
        """The encoder in use."""
        return self.load_encoder(self.in_use("retriever"))

    @cached_property
    def generator(self) -> Generator:
        """The generator of the settings, untuned: it teaches, and writes the questions if no other does."""
        return self.load_generator(self.settings.models.generator)

    @property
    def writer(self) -> Generator:
        """What writes the questions."""
        named = self.settings.models.writer
        return self.load_generator(named) if named else self.generator

    def load_encoder(self, name: str) -> Encoder:
        """The encoder of that name, on the device of the settings."""
        return self._load("encoder", self.loader.load_encoder, name)

    def load_generator(self, name: str) -> Generator:
        """The generator of that name, on the device of the settings."""
        return self._load("generator", self.loader.load_generator, name)

    def load_reranker(self, name: str) -> Reranker:
        """The cross-encoder of that name, on the device of the settings."""
        return self._load("reranker", self.loader.load_reranker, name)

    def _load(self, kind: str, load: Callable[..., Model], name: str) -> Model:
        models = self.settings.models
        self.progress("load", 0, 1, kind)
        model = load(name, device=models.device, threads=models.threads or None, engine=models.engine)
        self.progress("load", 1, 1, kind)
        return model

    def in_use(self, part: Part, but: str = "") -> str:
        """The model in use, or the one that was before the candidate `but`."""
        base = base_of(self.settings, part)
        current = newest(self.workspace, part)
        rolled_back = current is not None and current.name == f"models/{part}/{but}"
        return model_in_use(self.workspace, part, base, rolled_back=rolled_back)

    def base_encoder(self) -> Encoder:
        """The untuned encoder, with its vectors in the library."""
        from fieldstone.search.embed import embed_beside

        encoder = self.load_encoder(self.settings.models.encoder)
        embed_beside(self.library, encoder, self.progress, self.spread)
        return encoder

    def reopen(self) -> None:
        """Forget the encoder: another one may be in use."""
        self.__dict__.pop("encoder", None)

    def open_index(
        self,
        encoder: Encoder | None = None,
        *,
        likelihood: bool = False,
        generator: Generator | None = None,
        reranker: str = "",
    ) -> Index:
        """The indexes under an encoder whose vectors are in the library, what reranks if asked."""
        from fieldstone.search import Index
        from fieldstone.search.dense import DenseIndex
        from fieldstone.search.lexical import LexicalIndex
        from fieldstone.search.stores import open_store

        encoder = encoder or self.encoder
        store = open_store("memory:", encoder.dimension, encoder.fingerprint)
        return Index(
            self.library,
            LexicalIndex(self.workspace.cache / "lexical", self.library),
            DenseIndex(self.library, encoder, store, beside=True),
            generator or (self.generator if likelihood else None),
            self.load_reranker(reranker) if reranker else None,
        )

    def system(self, generator: Generator, *, trusted: bool = False) -> System:
        """Encoder and reranking in use with this generator; `trusted` as far as the dev questions said."""
        from fieldstone.answer import System

        settings = self.searching()
        reranker = reranking_model(settings)
        index = self.open_index(generator=generator, reranker=reranker)
        if not trusted:
            return System(index, generator, settings)
        weights = trust_in_use(self.workspace, self.in_use("retriever"), generator.name, reranker)
        return System(index, generator, settings, weights)

    def searching(self, but: str = "") -> Settings:
        """The settings with the reranking in use, or with that before the candidate `but`."""
        return with_reranker(self.settings, self.in_use("reranker", but=but))

    @property
    def passages_mark(self) -> str:
        """Stands for all passages there are."""
        return fingerprint(*(p.id for p in self.library.passages()))

    def examples(self, split: str) -> list[Example]:
        """The examples of a split."""
        return read_examples(self.workspace.path / "examples" / f"{split}.jsonl")

    def done(self, step: str, inputs: str) -> dict[str, Any] | None:
        """What the journal says of the last run of a step, if it had the same inputs."""
        lines = [line for line in self.workspace.read_journal() if line.get("step") == step]
        if not lines or lines[-1].get("inputs") != inputs:
            return None
        return {k: v for k, v in lines[-1].items() if k not in ("time", "step", "seconds")}

    @cached_property
    def made_by(self) -> str:
        """Stands for all that passages and vectors are made by, without loading the encoder."""
        models, split = self.settings.models, self.settings.split
        folder = Path(passage_model(self.in_use("retriever"))).expanduser()
        stamps = [
            (f.name, f.stat().st_mtime_ns) for f in sorted(folder.rglob("*.safetensors")) if f.is_file()
        ]
        return fingerprint(VERSION, models.encoder, folder.name, models.device, split, stamps)

    def finished(self) -> bool:
        """Nothing is left to split or embed: no need to load the encoder."""
        counts = self.library.counts()
        whole = not counts.unsplit and counts.embedded == counts.passages
        return whole and self.library.meta("made by") == self.made_by
