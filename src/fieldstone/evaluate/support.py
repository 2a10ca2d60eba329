"""Does a citation support its answer: does the quote stand in the passage, and does the passage say so?

A passage that says so makes question and answer likelier than they are without it. So the generator itself
can tell, by the log-probability of both with the cited passage alone and with no passage (context ablation, as
in SelfCite, Chuang et al., ICML 2025). There the other passages remain where the cited one is taken away; here
nothing does, so that a second passage which says the same takes nothing from the first. The question counts
too: an answer copied from a passage is likely there, whatever was asked.

A model of entailment, where there is one, is asked directly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fieldstone.errors import ModelError
from fieldstone.evaluate.remembered import remembered
from fieldstone.models import Generator, Reranker
from fieldstone.progress import Progress, silent
from fieldstone.prompts import likelihood_prompt, one_by_one_prompt
from fieldstone.quotes import find
from fieldstone.records import Citation, Passage, fingerprint

BATCH = 4
"""Citations looked at at once: what a kill can cost."""

SUPPORTED = 0.5
"""The support from which on a passage counts as saying so."""

CONSTANT, SLOPE = 0.0, 1.0

SENTENCE = "Support"


@dataclass(frozen=True, slots=True)
class Cited:
    """An answer with the text of a passage that it cites."""

    question: str
    answer: str
    passage: str


@dataclass(frozen=True, slots=True)
class Ablation:
    """Log-probability a token of question and answer, behind the cited passage `alone` and `without` any."""

    alone: float
    without: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.alone) and math.isfinite(self.without)):
            raise ValueError(f"log-probabilities of {self.alone} and {self.without}; they must be finite")

    @property
    def gain(self) -> float:
        """How much likelier the passage makes question and answer, natural log a token."""
        return self.alone - self.without

    @property
    def support(self) -> float:
        """The gain as a probability that the passage supports the answer."""
        return _share(CONSTANT + SLOPE * self.gain)


Look = Callable[[Sequence[Cited], Path | None, Progress], list[float]]
"""What says how far each passage supports its answer, 0..1."""


def stands(citation: Citation, passage: Passage) -> bool:
    """Whether the quote is, letter by letter, what stands at its offsets, and those lie in the passage."""
    start, end = citation.start - passage.start, citation.end - passage.start
    return 0 <= start < end <= len(passage.text) and passage.text[start:end] == citation.quote


def quoted(quote: str, text: str) -> bool:
    """Whether a quote without offsets stands in the text, whatever its case and white space."""
    return bool(find(quote, text))


def ablate(
    generator: Generator, cited: Sequence[Cited], path: Path | None = None, progress: Progress = silent
) -> list[Ablation]:
    """What each passage does for the likelihood of its question and answer.

    What stands in the file at `path` is not computed again. Raises ModelError where the generator cannot
    score, or where a passage is longer than it reads.
    """
    keys = [fingerprint("ablate", generator.fingerprint, *_parts(c)) for c in cited]

    def look(places: Sequence[int]) -> list[Ablation]:
        generator.forget()  # what was read before must not show in what is read now
        its = [cited[place] for place in places]
        alone = _mean_logprobs(generator, [c.passage for c in its], its)
        without = _mean_logprobs(generator, [""] * len(its), its)
        return [Ablation(a, b) for a, b in zip(alone, without, strict=True)]

    return remembered(path, Ablation, keys, look, BATCH, "support", progress)


def by_ablation(generator: Generator) -> Look:
    """Support as the generator's own log-probabilities tell it."""
    return lambda cited, path, told: [found.support for found in ablate(generator, cited, path, told)]


def by_entailment(model: Reranker) -> Look:
    """Support as the probability that the passage entails question and answer.

    Raises ModelError unless the model is a cross-encoder with a label "entailment".
    """
    if not getattr(model, "entails", False):
        raise ModelError(
            f'{model.name} has no label "entailment"; give the folder of a cross-encoder for natural '
            "language inference, or leave this out and let the generator tell"
        )

    def look(cited: Sequence[Cited], path: Path | None, told: Progress) -> list[float]:
        del path  # fast enough to be done anew
        found = []
        for number, c in enumerate(cited):
            told("support", number, len(cited), "answers")
            found += [_share(odds) for odds in model.rerank(c.passage, [f"{c.question} {c.answer}"])]
        return found

    return look


def _mean_logprobs(generator: Generator, passages: Sequence[str], cited: Sequence[Cited]) -> list[float]:
    """Log-probability a token of each question with its answer, behind the passage or behind none."""
    prompts, wanted = [], []
    for passage, c in zip(passages, cited, strict=True):
        prompts += [likelihood_prompt(passage), one_by_one_prompt(passage, c.question)]
        wanted += [f" {c.question.strip()}", f" {c.answer.strip()}"]
    scores = generator.score(prompts, wanted)
    pairs = zip(scores[::2], scores[1::2], strict=True)
    return [(q.logprob + a.logprob) / max(q.tokens + a.tokens, 1) for q, a in pairs]


def _parts(cited: Cited) -> tuple[str, ...]:
    """Every word that the model reads: other prompts are another line in the file."""
    prompt = one_by_one_prompt(cited.passage, cited.question)
    return prompt.prefix, prompt.text, cited.answer


def _share(odds: float) -> float:
    """Log-odds as a probability."""
    return 1 / (1 + math.exp(-odds)) if odds > -700 else 0.0
