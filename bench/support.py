"""Can the generator tell whether a passage supports an answer? Cases whose truth people made.

Takes a folder with SQuAD's passages and questions in JSON Lines. Other passage: an answer with its own, and
with the one of the same article that shares most words with the question and does not hold the answer. Near
miss: an answerable question with its answer and passage, and a question that people wrote about the same
passage so that it does not answer it (SQuAD 2.0), with the same answer.

For each kind the area under the ROC curve; then the logistic regression of the smaller gain on every other
document, and how often its decision is right on the rest.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from fieldstone.evaluate.judge.support import Ablation, Cited, ablate
from fieldstone.evaluate.statistics.bootstrap import bootstrap_mean
from fieldstone.models import load_generator
from fieldstone.search.words import index_words
from machine import begin, table

LONGEST = 600  # characters of a passage


@dataclass(frozen=True, slots=True)
class Known:
    """A case whose truth is known."""

    kind: str
    document: str
    cited: Cited
    supported: bool


def lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects of a file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def other_passages(folder: Path, a_document: int, chance: random.Random) -> list[Known]:
    """Questions with their passage, and with another one of the article."""
    texts = _texts(folder / "squad_train_passages.jsonl")
    made = []
    for document, its in _by_document(folder / "squad_train_slice.jsonl", texts).items():
        for row in chance.sample(its, min(len(its), a_document)):
            question, answer = row["question"], row["answers"][0]
            near = {
                id_: _shared(question, text)
                for id_, text in texts.items()
                if _document(id_) == document and answer.lower() not in text.lower()
            }
            if near:
                wrong = texts[max(near, key=lambda id_: near[id_])]
                right = Cited(question, answer, texts[row["passage_id"]])
                made.append(Known("other passage", document, right, True))
                made.append(Known("other passage", document, Cited(question, answer, wrong), False))
    return made


def near_misses(folder: Path, a_document: int, chance: random.Random) -> list[Known]:
    """Unanswerable questions, and the answerable ones that they are most alike, about the same passages."""
    texts = _texts(folder / "v2_dev8_passages.jsonl")
    answerable = defaultdict(list)
    for row in lines(folder / "v2_dev8_answerable.jsonl"):
        answerable[row["passage_id"]].append(row)
    made = []
    for document, its in _by_document(folder / "v2_dev8_unanswerable.jsonl", texts).items():
        its = [row for row in its if answerable[row["passage_id"]]]
        for row in chance.sample(its, min(len(its), a_document)):
            text = texts[row["passage_id"]]
            twin = max(
                answerable[row["passage_id"]], key=lambda other: _shared(row["question"], other["question"])
            )
            answer = twin["answers"][0]
            made.append(Known("near miss", document, Cited(twin["question"], answer, text), True))
            made.append(Known("near miss", document, Cited(row["question"], answer, text), False))
    return made


def _texts(path: Path) -> dict[str, str]:
    return {row["id"]: row["text"] for row in lines(path) if len(row["text"]) < LONGEST}


def _by_document(path: Path, texts: dict[str, str]) -> dict[str, list[dict[str, Any]]]:
    found = defaultdict(list)
    for row in lines(path):
        if row["passage_id"] in texts:
            found[_document(row["passage_id"])].append(row)
    return found


def _document(id_: str) -> str:
    return id_.partition("#")[0].partition(":")[2]


def _shared(a: str, b: str) -> int:
    return len(set(index_words(a)) & set(index_words(b)))


def areas(known: Sequence[Known], found: Sequence[Ablation]) -> None:
    """Print the area under the ROC curve by the gains of question and answer, and the smaller."""
    rows = []
    for kind in dict.fromkeys(case.kind for case in known):
        its = [(case.supported, a) for case, a in zip(known, found, strict=True) if case.kind == kind]
        truth = [supported for supported, _ in its]
        gains = (
            [a.question for _, a in its],
            [a.answer for _, a in its],
            [min(a.question, a.answer) for _, a in its],
        )
        rows.append([kind, str(len(its)), *(f"{roc_auc_score(truth, gain):.3f}" for gain in gains)])
    table(["area under the curve", "cases", "question", "answer", "smaller"], rows)


def halves(known: Sequence[Known], found: Sequence[Ablation]) -> None:
    """Print what is fitted on every other document and how it does on the rest."""
    documents = sorted({case.document for case in known})
    first = set(documents[::2])
    gain = np.array([[min(a.question, a.answer)] for a in found])
    truth = np.array([case.supported for case in known])
    fits = np.array([case.kind == "other passage" and case.document in first for case in known])
    fitted = LogisticRegression(C=1e6).fit(gain[fits], truth[fits])
    print(f"constant {fitted.intercept_[0]:.2f}, slope {fitted.coef_[0, 0]:.2f}, ", end="")
    print(f"so at least {-fitted.intercept_[0] / fitted.coef_[0, 0]:.2f} is support")
    right = (fitted.predict(gain) == truth).astype(float)
    rows = []
    for kind in dict.fromkeys(case.kind for case in known):
        held = [i for i, case in enumerate(known) if case.kind == kind and case.document not in first]
        estimate = bootstrap_mean([float(right[i]) for i in held], [known[i].document for i in held])
        if estimate is not None:
            interval = f"{estimate.low:.3f} to {estimate.high:.3f}"
            rows.append([kind, str(estimate.n), f"{estimate.value:.3f}", interval])
    table(["on the other documents", "cases", "right", "95 % interval"], rows)


def main() -> None:
    """Look, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="the folder of SQuAD's passages and questions")
    parser.add_argument("--generator", default="embedded:smollm2")
    parser.add_argument(
        "--cases", type=int, default=9, help="questions of each document (near misses: twice)"
    )
    parser.add_argument("--keep", type=Path, help="a file that keeps what was computed")
    arguments = begin(parser)
    chance = random.Random(7)
    known = other_passages(arguments.folder, arguments.cases, chance)
    known += near_misses(arguments.folder, 2 * arguments.cases, chance)
    generator = load_generator(arguments.generator, threads=arguments.threads)
    found = ablate(generator, [case.cited for case in known], arguments.keep)
    areas(known, found)
    halves(known, found)


if __name__ == "__main__":
    main()
