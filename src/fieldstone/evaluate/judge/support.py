"""Does a citation support its answer: does the quote stand in the passage, and does the passage say so?

A passage that says so makes the question and the answer likelier than they are without it. So the generator
itself can tell, by their log-probability behind the cited passage and behind none (context ablation, as in
SelfCite, Chuang et al., ICML 2025). There the other passages remain where the cited one is taken away; here
nothing does, so that a second passage which says the same takes nothing from the first. And the question
counts as much as the answer: words copied from a passage are likely behind it, whatever was asked.

A model of entailment, where there is one, is asked directly, and so is a judge that agrees with people.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fieldstone.errors import ModelError
from fieldstone.evaluate.judge.remembered import remembered
from fieldstone.evaluate.judge.verdict import Claim, grade
from fieldstone.models import Generator, Reranker
from fieldstone.progress import Progress, silent
from fieldstone.prompts import likelihood_prompt, one_by_one_prompt
from fieldstone.quotes import find
from fieldstone.records import fingerprint

BATCH = 4
"""Citations looked at at once: what a kill can cost."""

SUPPORTED = 0.5
"""The support from which on a passage counts as saying so."""

CONSTANT, SLOPE = -2.29, 2.58
"""Log-odds of support at no gain, and what each unit of gain adds.

Fitted by bench/support.py with SmolLM2-135M on half of SQuAD's documents: an answer with its own passage, or
with another of the same article. On the other half the decision at `SUPPORTED` (a gain of .89) is right in
.900 of 90 cases (.833 to .944). Another generator's gains have another scale: there, compare systems, and do
not trust the decision.
"""

SENTENCE = (
    "Support is the generator's own opinion, by log-probability: with SmolLM2-135M it told the right passage "
    "from another of the same article in 90 of 100 cases, but could not tell a question that the passage "
    "answers from one that it nearly answers."
)
"""What stands beside figures of support that come from the generator."""


@dataclass(frozen=True, slots=True)
class Cited:
    """An answer with the text of a passage that it cites."""

    question: str
    answer: str
    passage: str


@dataclass(frozen=True, slots=True)
class Ablation:
    """How much likelier the passage makes the `question` and the `answer`, natural log a token."""

    question: float
    answer: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.question) and math.isfinite(self.answer)):
            raise ValueError(f"gains of {self.question} and {self.answer}; they must be finite")

    @property
    def support(self) -> float:
        """The smaller gain as a probability that the passage supports the answer."""
        return _share(CONSTANT + SLOPE * min(self.question, self.answer))


Look = Callable[[Sequence[Cited], Path | None, Progress], Sequence[float | None]]
"""What says how far each passage supports its answer, 0..1, or None where it gives no verdict."""


def quoted(quote: str, text: str) -> bool:
    """Whether a quote stands in the text, whatever its case and white space."""
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
        return _ablate(generator, [cited[place] for place in places])

    return remembered(path, Ablation, keys, look, BATCH, "support", progress)


def by_ablation(generator: Generator) -> Look:
    """Support as the generator's own log-probabilities tell it. Raises ModelError if it gives none."""
    generator.score([likelihood_prompt("")], [" Why?"])  # better now than after all questions are answered
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


def by_judge(generator: Generator) -> Look:
    """Support as a judge's verdict, 1 or 0; see `fitness` for whether to believe it."""

    def look(cited: Sequence[Cited], path: Path | None, told: Progress) -> list[float | None]:
        claims = [Claim(c.question, c.answer, passage=c.passage) for c in cited]
        rights = [given.right for given in grade(generator, claims, path, progress=told)]
        return [None if right is None else float(right) for right in rights]

    return look


def _ablate(generator: Generator, cited: Sequence[Cited]) -> list[Ablation]:
    prompts, wanted = [], []
    for c in cited:
        for passage in (c.passage, ""):
            prompts += [likelihood_prompt(passage), one_by_one_prompt(passage, c.question)]
            wanted += [f" {c.question.strip()}", f" {c.answer.strip()}"]
    means = [score.mean for score in generator.score(prompts, wanted)]
    quarters = zip(means[::4], means[1::4], means[2::4], means[3::4], strict=True)
    return [Ablation(q - q_alone, a - a_alone) for q, a, q_alone, a_alone in quarters]


def _parts(cited: Cited) -> tuple[str, ...]:
    """Every word that the model reads: other prompts are another line in the file."""
    prompt = one_by_one_prompt(cited.passage, cited.question)
    return prompt.prefix, prompt.text, cited.answer


def _share(odds: float) -> float:
    """Log-odds as a probability."""
    return 1 / (1 + math.exp(-odds)) if odds > -700 else 0.0
