"""How good a set of questions is: repeats, leaks, coverage, kinds, answers, hard negatives.

Whatever is wrong with the questions is wrong with all that is tuned and measured with them. Nothing here is
changed or left out: `advice` says what to do about it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fieldstone.evaluate.evidence import WORD
from fieldstone.evaluate.quality.closed_book import ClosedBook
from fieldstone.models import Encoder, Vectors
from fieldstone.quotes import find_words
from fieldstone.records import Example, Passage
from fieldstone.search.words import index_words

ALIKE = 0.95
"""From this cosine on two questions count as one."""

TWIN = 0.95
"""From this cosine on a hard negative may say the same as the right passage."""

BLOCK = 1024
"""Questions compared with all others at a time."""

SHOWN = 10
"""So many instances of each thing are kept."""

QUESTION_WORDS = ("how many", "how much", "how long", "how", "what", "when", "where", "which", "who", "why")
_YES_NO = re.compile(
    r"(?:is|are|was|were|do|does|did|can|could|may|must|should|will|would|has|have|had)\b", re.IGNORECASE
)
_ASKING = re.compile(rf"\b({'|'.join(QUESTION_WORDS)}|whose|whom)\b", re.IGNORECASE)
_TIME = re.compile(r"\b(?:what|which) (?:year|month|day|date|century)\b", re.IGNORECASE)
_SURE = {"how many", "how much", "how long", "when", "where", "who", "why", "yes or no"}
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True, slots=True)
class Twins:
    """Two questions that are as good as one: how alike they are, and whether word for word."""

    first: str
    second: str
    cosine: float
    exact: bool


@dataclass(frozen=True, slots=True)
class Repeats:
    """`questions` of `of` say again what another one says, `exact` of them word for word; some of them."""

    questions: int
    of: int
    exact: int
    shown: tuple[Twins, ...]


@dataclass(frozen=True, slots=True)
class Coverage:
    """What of the library is asked about.

    `gone` questions ask about passages that are no longer there. `most` and `least` are documents (path,
    questions, passages), the latter first those that nobody asks about, where there are more than `SHOWN`.
    """

    documents: int
    documents_asked: int
    passages: int
    passages_asked: int
    gone: int
    most: tuple[tuple[str, int, int], ...]
    least: tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, slots=True)
class Negatives:
    """Hard negatives: how many, their cosine to the right passage, and those that are none.

    `cosines` are the quartiles with minimum and maximum, empty where the passages have no vectors;
    `histogram` counts them in steps of a tenth from 0 to 1, less than 0 counting as 0. `twins` lie within
    `TWIN`; `holding` hold the answer word for word.
    """

    number: int
    questions: int
    cosines: tuple[float, ...]
    histogram: tuple[int, ...]
    twins: int
    holding: int
    shown: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Quality:
    """All that is known of a set of questions.

    `sets`: name -> kind -> questions. `repeats` within each set; `leaks`: questions of any other set that
    are as good as in `train`. `asking` and `openings`: question word, first two words -> questions.
    `verbatim`: (answers that stand in their passage word for word, answers). `lengths`: minimum, quartiles
    and maximum of the words of questions and of answers. `rejected`: reason -> questions; `lifts`: how much
    likelier its sentence made each question that was written, as quantiles again; `ratings`: what the
    generator rated -> rating -> how often it gave it.
    """

    sets: Mapping[str, Mapping[str, int]]
    repeats: Mapping[str, Repeats]
    leaks: Mapping[str, Repeats]
    coverage: Coverage
    asking: Mapping[str, int]
    openings: Mapping[str, int]
    verbatim: tuple[int, int]
    lengths: Mapping[str, tuple[float, ...]]
    negatives: Negatives
    rejected: Mapping[str, int]
    lifts: tuple[float, ...]
    ratings: Mapping[str, Mapping[str, int]]
    closed_book: ClosedBook | None = None


def measure_quality(
    sets: Mapping[str, Sequence[Example]],
    passages: Sequence[Passage],
    sources: Mapping[str, str],
    encoder: Encoder,
    vectors: Mapping[str, NDArray[np.float32]],
    *,
    train: Sequence[Example] = (),
    rejected: Iterable[str] = (),
    lifts: Sequence[float] = (),
    ratings: Mapping[str, Mapping[str, int]] | None = None,
    closed_book: ClosedBook | None = None,
    alike: float = ALIKE,
) -> Quality:
    """What there is to know of the questions in `sets`; the set named `train` is what the others must not be.

    `passages` are all of the library, `sources` document id -> path, `vectors` those of passages by id. Where
    the questions trained on are not among the sets, `train` gives them. `rejected` are reasons.
    """
    trained = sets.get("train") or train
    encoded: dict[str, Vectors] = {
        name: encoder.encode_queries([e.question for e in its])
        if its
        else np.zeros((0, encoder.dimension), np.float32)
        for name, its in {**sets, "train": trained}.items()
    }
    every = [example for its in sets.values() for example in its]
    texts = {p.id: p.text for p in passages}
    answered = [e for e in every if e.answer and e.passage_id in texts and "form" not in e.made_by]
    standing = sum(bool(find_words(e.answer, texts[e.passage_id or ""])) for e in answered)
    return Quality(
        sets={name: dict(Counter(map(kind_of, its))) for name, its in sets.items()},
        repeats={name: _repeats(its, encoded[name], its, encoded[name], alike) for name, its in sets.items()},
        leaks={
            name: _repeats(its, encoded[name], trained, encoded["train"], alike)
            for name, its in sets.items()
            if name != "train" and trained
        },
        coverage=_coverage(every, passages, sources),
        asking=dict(Counter(question_word(e.question) for e in every).most_common()),
        openings=dict(Counter(_opening(e.question) for e in every).most_common(SHOWN)),
        verbatim=(standing, len(answered)),
        lengths={
            "question": _quantiles([_words(e.question) for e in every]),
            "answer": _quantiles([_words(e.answer) for e in every if e.answer]),
        },
        negatives=_negatives(every, texts, vectors),
        rejected=dict(Counter(rejected).most_common()),
        lifts=_quantiles(lifts),
        ratings=ratings or {},
        closed_book=closed_book,
    )


def kind_of(example: Example) -> str:
    """Unanswerable, without an answer, or answerable, which may be in another form (choice, claim)."""
    if example.kind == "unanswerable":
        return "unanswerable"
    return example.made_by.get("form", "answerable") if example.answer else "without an answer"


def question_word(question: str) -> str:
    """How an English question asks: its first question word (`what year` is when), or yes or no, or other."""
    question = " ".join(question.split())
    if _YES_NO.match(question):
        return "yes or no"
    if _TIME.search(question):
        return "when"
    found = _ASKING.search(question)
    word = found[1].casefold() if found else "other"
    return "who" if word in ("whose", "whom") else word


def same(a: Example, b: Example) -> bool:
    """Whether two questions can be one at all, however alike they look to an encoder.

    They are of a kind (a near miss is made to look like another), hold the same numbers (berth 7 is not berth
    8), and do not ask for different things (where it was is not when).
    """
    if (a.kind == "unanswerable") != (b.kind == "unanswerable") or a.made_by.get("form") != b.made_by.get(
        "form"
    ):
        return False
    asked = {question_word(a.question), question_word(b.question)}
    if len(asked) > 1 and asked <= _SURE:
        return False
    return sorted(_NUMBER.findall(a.question)) == sorted(_NUMBER.findall(b.question))


def _repeats(
    questions: Sequence[Example], theirs: Vectors, others: Sequence[Example], vectors: Vectors, alike: float
) -> Repeats:
    """The questions that say what one of the others says; of a set and itself, what an earlier one says."""
    itself = questions is others
    plain = [tuple(index_words(e.question)) for e in others]
    mine = plain if itself else [tuple(index_words(e.question)) for e in questions]
    found: list[Twins] = []
    for start in range(0, len(questions), BLOCK):
        cosines = theirs[start : start + BLOCK] @ vectors.T
        for i, row in enumerate(cosines, start=start):
            near = np.flatnonzero(row[: i if itself else None] >= alike)
            best = max(
                (
                    (mine[i] == plain[j], float(row[j]), -j)
                    for j in near.tolist()
                    if same(questions[i], others[j])
                ),
                default=None,
            )
            if best is not None:
                exact, cosine, j = best
                found.append(Twins(questions[i].question, others[-j].question, min(cosine, 1.0), exact))
    # the least certain ones are those to look at
    shown = sorted(found, key=lambda twins: (twins.exact, twins.cosine))[:SHOWN]
    return Repeats(len(found), len(questions), sum(twins.exact for twins in found), tuple(shown))


def _coverage(
    examples: Sequence[Example], passages: Sequence[Passage], sources: Mapping[str, str]
) -> Coverage:
    documents = {p.id: p.document_id for p in passages}
    asked = [e.passage_id for e in examples if e.passage_id is not None]
    there = [id_ for id_ in asked if id_ in documents]
    questions = Counter(documents[id_] for id_ in there)
    sizes = Counter(documents.values())
    ranked = sorted(sizes, key=lambda id_: (questions[id_], -sizes[id_], sources.get(id_, "")))
    left = max(0, len(ranked) - SHOWN)  # a document is listed once
    listed = [(sources.get(id_, ""), questions[id_], sizes[id_]) for id_ in ranked]
    return Coverage(
        len(sizes), len(questions), len(documents), len(set(there)), len(asked) - len(there),
        tuple(listed[::-1][:SHOWN]), tuple(listed[: min(SHOWN, left)]),
    )  # fmt: skip


def _negatives(
    examples: Sequence[Example], texts: Mapping[str, str], vectors: Mapping[str, NDArray[np.float32]]
) -> Negatives:
    pairs = [
        (e, id_) for e in examples if e.kind == "answerable" and e.passage_id in texts for id_ in e.negatives
    ]
    pairs = [(e, id_) for e, id_ in pairs if id_ in texts]
    cosines = np.array(
        [
            float(np.dot(vectors[id_], vectors[gold]))
            for e, id_ in pairs
            if (gold := e.passage_id or "") in vectors and id_ in vectors
        ]
    )
    holding = [(e, id_) for e, id_ in pairs if e.answer and find_words(e.answer, texts[id_])]
    counted = np.histogram(np.clip(cosines, 0, 1), bins=10, range=(0, 1))[0]
    return Negatives(
        len(pairs),
        len({e.id for e, _ in pairs}),
        _quantiles(cosines.tolist()),
        tuple(int(number) for number in counted),
        int((cosines >= TWIN).sum()),
        len(holding),
        tuple((f"{e.question} = {e.answer}", texts[id_]) for e, id_ in holding[:SHOWN]),
    )


def _quantiles(values: Sequence[float]) -> tuple[float, ...]:
    """Minimum, quartiles, maximum; nothing of nothing."""
    if not len(values):
        return ()
    return tuple(round(float(value), 4) for value in np.quantile(values, (0, 0.25, 0.5, 0.75, 1)))


def _words(text: str) -> int:
    return sum(1 for _ in WORD.finditer(text))


def _opening(question: str) -> str:
    return " ".join(question.casefold().split()[:2])
