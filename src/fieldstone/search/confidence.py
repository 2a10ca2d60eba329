"""How far an answer can be trusted, from how its passage was found and read: the ground for abstaining.

An untuned small model's own certainty tells nothing here (on questions whose passage was taken away, the
probability of its answer is as high as else). How the searches found the passage does, and so does a tuned
model's certainty.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np

from fieldstone.records import Hit
from fieldstone.search.lexical import LexicalIndex
from fieldstone.search.words import index_words


@dataclass(frozen=True, slots=True)
class Weights:
    """A logistic regression: what each figure of `Figures` weighs, and the confidence that is too low.

    The defaults are fitted on 168 questions of SQuAD's train articles, from a third of which the passage with
    the answer was taken away; area under the ROC curve .88 in ten-fold cross-validation. `below` is None
    where the settings decide.
    """

    constant: float = -8.77
    agreement: float = 8.03
    coverage: float = 1.04
    lift: float = 2.25
    certainty: float = 0.0
    below: float | None = None


USUAL = Weights()


@dataclass(frozen=True, slots=True)
class Figures:
    """What is known of a passage as the source of an answer.

    `agreement`: how far the dense and the lexical search agree on it (its fused score); `coverage`: the share
    of the question's words that it holds, each weighed by its rarity; `lift`: how much likelier it makes the
    question than the other hits do (natural log a token); `certainty`: mean log-probability of the
    answer's tokens, 0 where the generator does not say.
    """

    agreement: float
    coverage: float
    lift: float
    certainty: float = 0.0


# What stands in for a figure that the search did not give: its mean on those questions.
USUAL_AGREEMENT = 0.89
_USUAL_LIFT = 0.7


def figures(
    question: str, hits: Sequence[Hit], cited: Hit, text: str, lexical: LexicalIndex, certainty: float = 0.0
) -> Figures:
    """The figures of the passage `cited`, which reads `text`, as the source of an answer to the question."""
    words = dict.fromkeys(index_words(question))  # in their order: a set's changes the last digit of a sum
    rarity, read = lexical.rarity(words), set(index_words(text))
    coverage = sum(rarity[w] for w in words if w in read) / (sum(rarity[w] for w in words) or 1.0)
    likelihoods = [hit.scores["likelihood"] for hit in hits if "likelihood" in hit.scores]
    lift = _USUAL_LIFT
    if "likelihood" in cited.scores and len(likelihoods) > 1:
        lift = cited.scores["likelihood"] - sum(likelihoods) / len(likelihoods)
    return Figures(cited.scores.get("fused", USUAL_AGREEMENT), coverage, lift, certainty)


def confidence(figures: Figures, weights: Weights) -> float:
    """Belief, 0..1, that the passage answers the question."""
    logit = weights.constant + weights.agreement * figures.agreement + weights.coverage * figures.coverage
    logit += weights.lift * figures.lift + weights.certainty * figures.certainty
    return 1 / (1 + math.exp(-logit))


def fit_weights(examples: Sequence[Figures], right: Sequence[bool]) -> Weights:
    """Weights by logistic regression with a ridge on standardised figures (scikit-learn's defaults).

    Raises ValueError where all examples are right, or all wrong.
    """
    from sklearn.linear_model import LogisticRegression

    rows = np.array([astuple(figure) for figure in examples], dtype=np.float64)
    spread = rows.std(axis=0)
    spread[spread == 0] = 1.0
    found = LogisticRegression(class_weight="balanced").fit(rows / spread, np.array(right))
    slopes = found.coef_[0] / spread
    return Weights(float(found.intercept_[0]), *(float(slope) for slope in slopes))
