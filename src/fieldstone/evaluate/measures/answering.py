"""What is measured of an answer, one question at a time: its wording, its citations, its refusals.

A measure that does not apply to a question gives None, and the statistics leave such rows out. An abstention
is the empty prediction.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

from fieldstone.evaluate.measures.ranking import recall_at
from fieldstone.evaluate.measures.words import rule_for


def exact_match(prediction: str, answers: Collection[str]) -> float:
    """1 if the prediction equals one of the answers, normalised as their script asks (`words`), else 0.

    In scripts with spaces as in SQuAD v1.1, in Chinese as in MLQA, in Korean as in KorQuAD. Without answers
    the question is unanswerable, and 1 means that the system abstained (SQuAD v2.0).
    """
    text = rule_for(answers).text
    return float(text(prediction) in {text(answer) for answer in answers or ("",)})


def token_f1(prediction: str, answers: Collection[str]) -> float:
    """F1 of the words that prediction and answer share, for the best of the answers; words as in `words`.

    In scripts with spaces as in SQuAD v1.1, in Chinese as in MLQA, in Korean as in KorQuAD. Without answers:
    1 if the system abstained, else 0 (SQuAD v2.0).
    """
    words = rule_for(answers).words
    predicted = words(prediction)
    return max(_f1(predicted, words(answer)) for answer in answers or ("",))


def _f1(predicted: list[str], expected: list[str]) -> float:
    if not predicted or not expected:
        return float(predicted == expected)
    shared = (Counter(predicted) & Counter(expected)).total()
    return 2 * shared / (len(predicted) + len(expected))


def citation_accuracy(
    cited: Collection[str], relevant: Sequence[Collection[str]], *, abstained: bool
) -> float | None:
    """Share of the cited passages that hold evidence, 0 where an answer cites nothing.

    With one citation an answer this is the citation accuracy of ALoFTRAG. None where the system
    abstained or there is no evidence to cite.
    """
    pair = citation_precision(cited, relevant, abstained=abstained)
    return pair[0] / (pair[1] or 1.0) if pair else None


def citation_precision(
    cited: Collection[str], relevant: Sequence[Collection[str]], *, abstained: bool
) -> tuple[float, float] | None:
    """(citations of a passage that holds evidence, citations): summed, the share of citations that are right.

    As the citation precision of ALCE (Gao et al., EMNLP 2023), where known evidence stands for its model of
    entailment, and citations are counted, not answers: one that cites nothing has none that is wrong, and
    in `citation_accuracy` it is as bad as a wrong one. None as there.
    """
    wanted = {id_ for group in relevant for id_ in group}
    if abstained or not wanted:
        return None
    return float(sum(id_ in wanted for id_ in cited)), float(len(cited))


def citation_recall(
    cited: Collection[str], relevant: Sequence[Collection[str]], *, abstained: bool
) -> float | None:
    """Share of the pieces of evidence that the answer cites: the groups with a cited passage.

    None where the system abstained or there is no evidence to cite. (ALCE's citation recall is the share of
    claims that their citations entail: `faithfulness`.)
    """
    return None if abstained else recall_at(len(cited), list(cited), relevant)


def citation_support(support: Sequence[float], *, abstained: bool) -> float | None:
    """Mean over an answer's citations of how far each supports it, 0..1; None without a citation.

    ALCE's citation precision (Gao et al., EMNLP 2023) for answers of one claim, without its pardon for a
    citation that supports the claim only together with others.
    """
    return None if abstained or not support else sum(support) / len(support)


def faithfulness(support: Sequence[float], *, abstained: bool) -> float | None:
    """How far the answer is supported by the best of its citations, 0..1; 0 where it cites nothing.

    The share of an answer's claims that its citations support (faithfulness in RAGAS, Es et al., EACL 2024;
    citation recall in ALCE), where the answer is one claim. None where the system abstained.
    """
    return None if abstained else max(support, default=0.0)


def refusal_precision(*, abstained: bool, answerable: bool) -> tuple[float, float]:
    """(rightly abstained, abstained): summed over questions, the share of abstentions that were right.

    A pair, because how many questions the share is of depends on the system.
    """
    return float(abstained and not answerable), float(abstained)


def refusal_recall(*, abstained: bool, answerable: bool) -> float | None:
    """1 if the system abstained from an unanswerable question; None for an answerable one."""
    return None if answerable else float(abstained)


def refusal_f1(*, abstained: bool, answerable: bool) -> tuple[float, float]:
    """(twice rightly abstained, abstained + unanswerable): summed, the F1 of the two above."""
    return 2.0 * (abstained and not answerable), float(abstained) + (not answerable)


def over_refusal(*, abstained: bool, answerable: bool) -> float | None:
    """1 if the system abstained from an answerable question; None for an unanswerable one."""
    return float(abstained) if answerable else None
