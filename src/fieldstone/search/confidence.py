"""How far an answer can be trusted, from how its passage was found: the ground for abstaining.

A small model's own certainty tells nothing here (on questions whose passage was taken away, the
probability of its answer is as high as else). How the searches found the passage does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from fieldstone.records import Hit
from fieldstone.search.lexical import LexicalIndex
from fieldstone.search.words import index_words

# Logistic regression on 168 questions of SQuAD's train articles, from a third of which the passage with
# the answer was taken away; area under the ROC curve .88 in ten-fold cross-validation.
_CONSTANT = -8.77
_AGREEMENT = 8.03
_COVERAGE = 1.04
_LIFT = 2.25

# What stands in for a figure that the search did not give: its mean on those questions.
_USUAL_AGREEMENT = 0.89
_USUAL_LIFT = 0.7


def confidence(question: str, hits: Sequence[Hit], cited: Hit, text: str, lexical: LexicalIndex) -> float:
    """Belief, 0..1, that the passage `cited`, which reads `text`, answers the question.

    Three figures: how far the dense and the lexical search agree on the passage (its fused score), which
    share of the question's words it holds (each weighed by its rarity), and how much likelier it makes the
    question than the other hits do (natural log a token).
    """
    agreement = cited.scores.get("fused", _USUAL_AGREEMENT)
    words = set(index_words(question))
    rarity = lexical.rarity(words)
    held = words & set(index_words(text))
    coverage = sum(rarity[w] for w in held) / (sum(rarity.values()) or 1.0)
    likelihoods = [hit.scores["likelihood"] for hit in hits if "likelihood" in hit.scores]
    lift = _USUAL_LIFT
    if "likelihood" in cited.scores and len(likelihoods) > 1:
        lift = cited.scores["likelihood"] - sum(likelihoods) / len(likelihoods)
    logit = _CONSTANT + _AGREEMENT * agreement + _COVERAGE * coverage + _LIFT * lift
    return 1 / (1 + math.exp(-logit))
