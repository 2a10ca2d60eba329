"""What the generator is tuned on: examples as prompts and what follows them, in each way of reading."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence

from fieldstone.models import Prompt
from fieldstone.prompts import REFUSAL, fid_prompt, one_by_one_prompt, together_prompt, together_reply
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
    shown = (present, texts, passages, tuning.hard_negatives, seed)
    if reading == "together":
        rows, refusals = _several(*shown, together_prompt, together_reply)
    elif reading == "fid":
        rows, refusals = _several(*shown, fid_prompt, _fid_reply)
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


def _several(
    examples: Iterable[Example],
    texts: Mapping[str, str],
    passages: int,
    hard: bool,
    seed: int,
    ask: Callable[[Sequence[str], str], Prompt],
    reply: Callable[[int, str], str],
) -> tuple[list[Row], list[Row]]:
    """The passage among its hard negatives (ALoFTRAG's step 5); without it, the refusal.

    `ask` makes a prompt of texts and a question, `reply` what it is answered, of the number of the right text
    (0: none) and the answer.
    """
    rows, refusals = [], []
    for example in examples:
        chance = random.Random(fingerprint("together", seed, example.id))
        wrong = list(example.negatives)
        if not hard:
            others = sorted(texts.keys() - {example.passage_id})
            wrong = chance.sample(others, min(passages, len(others)))
        chance.shuffle(wrong)
        if wrong:
            prompt = ask([texts[id_] for id_ in wrong[:passages]], example.question)
            refusals.append(Row(prompt, reply(0, "")))
        if example.passage_id is not None and example.answer:
            shown = wrong[: passages - 1]
            place = chance.randrange(len(shown) + 1)
            shown.insert(place, example.passage_id)
            prompt = ask([texts[id_] for id_ in shown], example.question)
            rows.append(Row(prompt, reply(place + 1, example.answer)))
    return rows, refusals


def _fid_reply(_: int, answer: str) -> str:
    return answer or REFUSAL
