"""What the quality of questions says in plain words, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from fieldstone.evaluate.quality.closed_book import ClosedBook
from fieldstone.evaluate.quality.found import Quality, Repeats

FEW_DEV = 100
"""With fewer answered questions to decide by, the gate can tell large differences only."""


class Finding(NamedTuple):
    """What was found under a topic; `advice` is empty where all is well."""

    topic: str
    said: str
    advice: str = ""


def findings(quality: Quality) -> list[Finding]:
    """A finding a topic, in the order in which they matter."""
    return list(_findings(quality))


def _findings(quality: Quality) -> Iterator[Finding]:
    yield _size(quality)
    yield from _leaks(quality.leaks)
    yield _repeats(quality.repeats)
    yield _coverage(quality)
    yield _asking(quality)
    yield from _answers(quality)
    yield from _negatives(quality)
    if quality.closed_book is not None:
        yield _closed_book(quality.closed_book)
    yield from _written(quality)
    yield from _ratings(quality)


def _size(quality: Quality) -> Finding:
    totals = {name: sum(its.values()) for name, its in quality.sets.items()}
    parts = ", ".join(f"{number:,} {name}" for name, number in totals.items())
    total = sum(totals.values()) or 1
    refused = sum(its.get("unanswerable", 0) for its in quality.sets.values())
    bare = sum(its.get("without an answer", 0) for its in quality.sets.values())
    said = f"{parts}; {_share(refused, total)} unanswerable, {_share(bare, total)} without an answer"
    dev = quality.sets.get("dev")
    if dev is not None and dev.get("answerable", 0) < FEW_DEV:
        return Finding(
            "questions", said,
            f"only {dev.get('answerable', 0)} answered ones in dev: the gate tells large differences only; "
            "add documents or questions of your own",
        )  # fmt: skip
    if not refused:
        return Finding("questions", said, "none is unanswerable: nothing shows whether it keeps silent")
    return Finding("questions", said)


def _leaks(leaks: Mapping[str, Repeats]) -> Iterator[Finding]:
    for name, its in leaks.items():
        if not its.of:
            continue
        said = (
            f"{its.questions:,} of {its.of:,} in {name} are as good as in train, {its.exact:,} word for word"
        )
        advice = f"take those out of train.jsonl: {name} measures what was learnt by heart"
        yield Finding("leakage", said, advice if its.questions > 0.01 * its.of else "")


def _repeats(repeats: Mapping[str, Repeats]) -> Finding:
    number, total = sum(r.questions for r in repeats.values()), sum(r.of for r in repeats.values())
    exact = sum(r.exact for r in repeats.values())
    said = f"{number:,} of {total:,} ({_share(number, total)}) say again what another says"
    said += f", {exact:,} word for word"
    advice = "they teach nothing new; delete them, or lower synthesize.openings and synthesize again"
    return Finding("repeats", said, advice if number > 0.05 * total else "")


def _coverage(quality: Quality) -> Finding:
    its = quality.coverage
    documents = f"{its.documents_asked:,} of {its.documents:,} documents"
    passages = f"{its.passages_asked:,} of {its.passages:,} passages"
    share = _share(its.passages_asked, its.passages)
    said = f"{documents} and {passages} ({share}) are asked about"
    if its.gone:
        return Finding(
            "coverage", f"{said}; {its.gone:,} questions ask about passages that are gone", "synthesize again"
        )
    if its.documents_asked < 0.8 * its.documents:
        return Finding("coverage", said, "raise synthesize.passages, or write questions about the others")
    return Finding("coverage", said)


def _asking(quality: Quality) -> Finding:
    total = sum(quality.asking.values()) or 1
    said = ", ".join(f"{word} {_share(number, total)}" for word, number in list(quality.asking.items())[:6])
    word, most = next(iter(quality.asking.items()), ("", 0))
    advice = f"people ask otherwise than {word!r} too; add questions of theirs"
    return Finding("asking", said, advice if most > 0.6 * total and word != "other" else "")


def _answers(quality: Quality) -> Iterator[Finding]:
    standing, answers = quality.verbatim
    if answers:
        said = f"{_share(standing, answers)} of {answers:,} stand in their passage word for word"
        words = quality.lengths["answer"]
        said += f"; half have no more than {_count(words[2])}, the longest {words[4]:.0f}"
        advice = "the others cannot be cited as a quote; look at them before you trust EM and F1"
        yield Finding("answers", said, advice if standing < 0.9 * answers else "")


def _negatives(quality: Quality) -> Iterator[Finding]:
    its = quality.negatives
    if not its.number:
        return
    said = (
        f"{its.number:,} for {its.questions:,} questions; {_share(its.holding, its.number)} hold the answer"
    )
    if its.cosines:
        said += (
            f"; cosine to the right passage {its.cosines[2]:.2f} in the middle, {its.twins:,} nearly the same"
        )
    wrong = max(its.holding, its.twins) > 0.02 * its.number
    advice = "they punish what is right; check retriever.negatives, or delete them from the lines"
    yield Finding("negatives", said, advice if wrong else "")


def _closed_book(its: ClosedBook) -> Finding:
    known = its.known
    share = f"{_percent(known.value)} of {known.n:,} ({_percent(known.low)} to {_percent(known.high)})"
    said = f"{share} are answered without the passage; F1 {its.f1_without.value:.2f} without, "
    said += f"{its.f1_with.value:.2f} with it"
    if its.unhelped is not None:
        said += f"; the passage makes {_percent(its.unhelped.value)} of the answers no likelier"
    advice = "the model knows much of this: measure with questions that only your documents answer"
    return Finding("closed book", said, advice if known.value > 0.2 else "")


def _written(quality: Quality) -> Iterator[Finding]:
    rejected = sum(quality.rejected.values())
    if rejected:
        written = rejected + sum(sum(its.values()) for its in quality.sets.values())
        why, most = next(iter(quality.rejected.items()))
        said = f"{_share(rejected, written)} of what was written, most because {why} ({most:,})"
        if quality.lifts:
            said += (
                f"; half were made likelier by {quality.lifts[2]:.2f} or more by their sentence (log a token)"
            )
        yield Finding("rejected", said)


def _ratings(quality: Quality) -> Iterator[Finding]:
    for what, its in quality.ratings.items():
        rating, most = max(its.items(), key=lambda item: item[1])
        total = sum(its.values())
        said = f"{total:,} {what} rated; {rating} was given to {_share(most, total)}"
        advice = f"the ratings tell nothing apart: type --set synthesize.rate_{what}=false"
        yield Finding("ratings", said, advice if most > 0.9 * total else "")


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _count(words: float) -> str:
    return "1 word" if words == 1 else f"{words:.0f} words"


def _share(part: int, whole: int) -> str:
    """In whole per cent, but never 0 of something, and never all where something is left."""
    share = 100 * part / whole if whole else 0.0
    if 0 < share < 1:
        return "under 1 %"
    return "over 99 %" if 99 < share < 100 else f"{share:.0f} %"
