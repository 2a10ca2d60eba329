"""What the generator is tuned on: examples as prompts and what follows them, either way of reading."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence

from fieldstone.models import Prompt
from fieldstone.prompts import REFUSAL, one_by_one_prompt, together_prompt, together_reply
from fieldstone.records import Example, fingerprint
from fieldstone.settings import GeneratorTuning
from fieldstone.tune.generator import Row

NEAR = 2
"""Hard negatives of a question that become refusals, the likeliest first."""


def lessons(
    examples: Sequence[Example],
    texts: Mapping[str, str],
    reading: str,
    tuning: GeneratorTuning,
    passages: int,
    seed: int = 0,
) -> list[Row]:
    """Rows for this way of reading, `tuning.refusals` of them with the refusal as their target.

    `texts`: passage id -> text with context; examples about passages that are gone are left out. `passages`
    is how many are read together.
    """
    present = [e for e in examples if {e.passage_id, *e.negatives} - {None} <= texts.keys()]
    if reading == "together":
        rows, refusals = _together(present, texts, passages, tuning.hard_negatives, seed)
    else:
        rows, refusals = _one_by_one(present, texts)
    random.Random(fingerprint("lessons", seed)).shuffle(refusals)
    return rows + refusals[: round(len(rows) * tuning.refusals / (1 - tuning.refusals))]


def _one_by_one(examples: Iterable[Example], texts: Mapping[str, str]) -> tuple[list[Row], list[Row]]:
    """The passage with its answer; near misses, and all passages of a question without any, refused."""
    rows, refusals = [], []
    for example in examples:
        if example.passage_id is not None and example.answer:
            prompt = one_by_one_prompt(texts[example.passage_id], example.question)
            rows.append(Row(prompt, f" {example.answer}"))
        for id_ in example.negatives[:NEAR]:
            refusals.append(Row(one_by_one_prompt(texts[id_], example.question), f" {REFUSAL}"))
    return rows, refusals


def _together(
    examples: Iterable[Example], texts: Mapping[str, str], passages: int, hard: bool, seed: int
) -> tuple[list[Row], list[Row]]:
    """The passage among its hard negatives, cited first (ALoFTRAG's step 5); without it, the refusal."""
    rows, refusals = [], []
    for example in examples:
        chance = random.Random(fingerprint("together", seed, example.id))
        wrong = list(example.negatives)
        if not hard:
            others = sorted(texts.keys() - {example.passage_id})
            wrong = chance.sample(others, min(passages, len(others)))
        chance.shuffle(wrong)
        if wrong:
            refusals.append(Row(_prompt(wrong[:passages], texts, example), together_reply(0, "")))
        if example.passage_id is not None and example.answer:
            shown = wrong[: passages - 1]
            place = chance.randrange(len(shown) + 1)
            shown.insert(place, example.passage_id)
            rows.append(Row(_prompt(shown, texts, example), together_reply(place + 1, example.answer)))
    return rows, refusals


def _prompt(ids: Sequence[str], texts: Mapping[str, str], example: Example) -> Prompt:
    return together_prompt([texts[id_] for id_ in ids], example.question)
