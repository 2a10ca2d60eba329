"""The teacher of the retriever: the whole search, with the generator's likelihood of the question (ART).

It needs no labels, only questions: Sachan et al. (2023), "Questions Are All You Need to Train a Dense Passage
Retriever", with the fused ranking mixed in as in our search.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from fieldstone.examples import whole_lines
from fieldstone.progress import Progress, silent
from fieldstone.records import fingerprint
from fieldstone.search import Index, search
from fieldstone.settings import SearchSettings
from fieldstone.tune.retriever import Ranking

BATCH = 32
"""Questions ranked at once: what a kill can cost."""


def rank(
    index: Index,
    questions: Sequence[str],
    search_settings: SearchSettings,
    candidates: int,
    kept: Path,
    progress: Progress = silent,
) -> list[Ranking]:
    """The teacher's scores of each question's candidates; batches in the file `kept` are not redone.

    Questions with fewer than two candidates teach nothing and are left out.
    """
    teacher = search_settings.model_copy(update={"rerank": "likelihood", "rerank_depth": candidates})
    kept.parent.mkdir(parents=True, exist_ok=True)
    known = {
        line["batch"]: [[(id_, score) for id_, score in ranking] for ranking in line["found"]]
        for line in whole_lines(kept)
    }
    found: list[list[tuple[str, float]]] = []
    progress("teach", 0, len(questions), "questions")
    with kept.open("a", encoding="utf-8", newline="\n") as file:
        for start in range(0, len(questions), BATCH):
            batch = questions[start : start + BATCH]
            key = fingerprint(*batch)
            if key not in known:
                if index.generator is not None:
                    index.generator.forget()
                rankings = search(index, batch, teacher, candidates)
                known[key] = [[(hit.passage.id, hit.score) for hit in hits] for hits in rankings]
                file.write(json.dumps({"batch": key, "found": known[key]}) + "\n")
                file.flush()
            found += known[key]
            progress("teach", min(start + BATCH, len(questions)), len(questions), "questions")
    present = index.library.passages(sorted({id_ for ranking in found for id_, _ in ranking}))
    texts = index.library.passage_texts(present)
    return [
        Ranking(question, tuple(texts[id_] for id_, _ in ranking), tuple(score for _, score in ranking))
        for question, ranking in zip(questions, found, strict=True)
        if len(ranking) > 1 and all(id_ in texts for id_, _ in ranking)
    ]
