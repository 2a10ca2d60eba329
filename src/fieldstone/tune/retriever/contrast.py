"""What retriever and reranker are tuned on: questions with passages, hard negatives, lexical scores."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from fieldstone.progress import Progress, silent
from fieldstone.quotes import find_words
from fieldstone.records import Example, Hit, fingerprint
from fieldstone.search import Index, search
from fieldstone.settings import SearchSettings, Settings
from fieldstone.tune.retriever import Contrast
from fieldstone.tune.retriever.teacher import likelihoods

BATCH = 64
"""Questions searched at once."""


def contrast(example: Example, negatives: Sequence[str], texts: Mapping[str, str]) -> Contrast:
    """The example with the texts of its passage and of these others. `texts`: passage id -> text."""
    own = str(example.passage_id)
    return Contrast(example.question, texts[own], tuple(texts[n] for n in negatives), own)


def mined(
    index: Index,
    examples: Sequence[Example],
    searches: Sequence[SearchSettings],
    depth: int,
    most: int,
    texts: Mapping[str, str],
    seed: int,
    *,
    judged: bool = False,
    progress: Progress = silent,
) -> list[Contrast]:
    """Each example with `most` negatives at most, drawn from the `depth` best that any of the searches finds.

    Passages that hold the answer are left out, but where the negatives are `judged` by a teacher afterwards.
    """
    plain = [settings.model_copy(update={"rerank": "none"}) for settings in searches]
    made = []
    for start in range(0, len(examples), BATCH):
        progress("search", start, len(examples), "questions")
        batch = examples[start : start + BATCH]
        found = [search(index, [e.question for e in batch], settings, depth) for settings in plain]
        for example, *rankings in zip(batch, *found, strict=True):
            hits = {hit.passage.id: hit for ranking in rankings for hit in ranking}
            about = replace(example, answer="") if judged else example
            drawn = _negatives(about, list(hits.values()), texts, most, seed)
            made.append(contrast(example, drawn, texts))
    progress("search", len(examples), len(examples), "questions")
    return made


def beside_lexical(
    index: Index,
    examples: Sequence[Example],
    settings: Settings,
    texts: Mapping[str, str],
    kept: Path,
    progress: Progress = silent,
) -> list[Contrast]:
    """For the fused loss: negatives drawn from the best found passages, and what the lexical search adds.

    Where the index has a generator, it scores the passages of each question; its scores are kept in the file
    `kept`.

    The fused score of a passage is w cos / C + (1 - w) lex / L, with C and L the highest of either search and
    w the dense weight. Times C / w that is the cosine and a term that does not change while the encoder
    learns: (1 - w) / w C lex / L. Zero where the search in use is not of this kind.
    """
    how, plain = settings.retriever, settings.search.model_copy(update={"rerank": "none"})
    weighted = plain.mode == "fused" and plain.fusion == "scores" and plain.dense_weight > 0
    share = (1 - plain.dense_weight) / plain.dense_weight if weighted else 0.0
    made = []
    for start in range(0, len(examples), BATCH):
        progress("search", start, len(examples), "questions")
        batch = examples[start : start + BATCH]
        found = search(index, [e.question for e in batch], plain, max(plain.candidates, how.candidates))
        for example, hits in zip(batch, found, strict=True):
            drawn = _negatives(example, hits[: how.candidates], texts, how.negatives, settings.seed)
            plainly = contrast(example, drawn, texts)
            made.append(replace(plainly, lexical=_lexical(hits, share, texts)))
    progress("search", len(examples), len(examples), "questions")
    if index.generator is None:
        return made
    asked = [(item.question, (item.positive, *item.negatives)) for item in made]
    scores = likelihoods(index.generator, asked, kept, progress)
    return [replace(item, scores=its) for item, its in zip(made, scores, strict=True)]


def _negatives(
    example: Example, hits: Sequence[Hit], texts: Mapping[str, str], most: int, seed: int
) -> list[str]:
    """So many of these passages by chance, but for its own and those that hold the answer."""
    ids = [hit.passage.id for hit in hits if hit.passage.id != example.passage_id]
    wrong = [id_ for id_ in ids if not (example.answer and find_words(example.answer, texts[id_]))]
    return random.Random(fingerprint("negatives", seed, example.id)).sample(wrong, min(most, len(wrong)))


def _lexical(hits: Sequence[Hit], share: float, texts: Mapping[str, str]) -> dict[str, float]:
    lexical = {hit.passage.id: hit.scores["lexical"] for hit in hits if "lexical" in hit.scores}
    nearest = max((hit.scores["dense"] for hit in hits if "dense" in hit.scores), default=0.0)
    highest = max(lexical.values(), default=0.0)
    if highest <= 0 or share <= 0:
        return {}
    return {texts[id_]: share * nearest * score / highest for id_, score in lexical.items() if score > 0}
