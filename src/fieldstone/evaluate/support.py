"""Does a citation support its answer: does the quote stand in the passage, and does the passage say so?

A passage that says so makes the answer likelier than what else was read does. So the generator itself can
tell, by the answer's log-probability with the cited passage alone and with that passage taken away (context
ablation: SelfCite, Chuang et al., ICML 2025, whose probability drop and probability hold add up to this
difference). A model of entailment, where there is one, is asked directly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fieldstone.errors import ModelError
from fieldstone.evaluate.remembered import remembered
from fieldstone.models import Generator, Prompt, Reranker
from fieldstone.progress import Progress, silent
from fieldstone.prompts import one_by_one_prompt, unread_prompt
from fieldstone.quotes import find
from fieldstone.records import Citation, Passage, fingerprint

BATCH = 4
"""Citations looked at at once: what a kill can cost."""

SUPPORTED = 0.5
"""The support from which on a passage is taken to say so."""

CONSTANT, SLOPE = 0.0, 1.0

SENTENCE = "Support"


@dataclass(frozen=True, slots=True)
class Cited:
    """An answer with the passage that it cites, and the other passages that were read for it."""

    question: str
    answer: str
    passage: str
    others: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Ablation:
    """The answer's log-probability a token: read from the cited passage `alone`, and from the rest `without` it."""

    alone: float
    without: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.alone) and math.isfinite(self.without)):
            raise ValueError(f"log-probabilities of {self.alone} and {self.without}; they must be finite")

    @property
    def score(self) -> float:
        """How much likelier the passage makes the answer: above 0 it does."""
        return self.alone - self.without

    @property
    def support(self) -> float:
        """The same as a probability that the passage supports the answer."""
        return _share(CONSTANT + SLOPE * self.score)


def stands(citation: Citation, passage: Passage) -> bool:
    """Whether the quote is, letter by letter, what stands at its offsets, and those lie in the passage."""
    start, end = citation.start - passage.start, citation.end - passage.start
    return 0 <= start < end <= len(passage.text) and passage.text[start:end] == citation.quote
