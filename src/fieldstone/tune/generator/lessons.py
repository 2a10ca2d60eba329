"""What the generator is tuned on: examples as prompts and what follows them, in each way of reading.

The prompts are those of answering. `generator.lessons` says which passages they show:

- `gold`: the right one alone (read one by one), or among its hard negatives (read together: ALoFTRAG);
- `swr`: the right one among those that the search finds (supervised fine-tuning with retrieval: LocalRQA);
- `ralt`: each of those that the search finds, in a row of its own (RA-DIT);
- `raft`: the right one among others, and in some rows the others alone (RAFT).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from fieldstone.errors import SettingsError
from fieldstone.models import Prompt
from fieldstone.progress import Progress, silent
from fieldstone.prompts import REFUSAL, fid_prompt, one_by_one_prompt, together_prompt, together_reply
from fieldstone.quotes import find_words
from fieldstone.records import Example, fingerprint
from fieldstone.search import Index, search
from fieldstone.settings import GeneratorTuning, Settings
from fieldstone.tune.generator import Row

NEAR = 2
"""Hard negatives of a question that become refusals, the likeliest first."""

BATCH = 64
"""Questions searched at once."""

SPARE = 4
"""So many times the passages wanted are looked up or drawn, for some hold the answer and are left out."""

Rows = tuple[list[Row], list[Row]]
"""Those with an answer, and those with the refusal as target."""


class _Form(NamedTuple):
    """How several passages are shown at once: `ask` makes a prompt of texts and a question.

    `reply` makes what it is answered, of the number of the right text (0: none) and the answer.
    """

    ask: Callable[[Sequence[str], str], Prompt]
    reply: Callable[[int, str], str]


def _fid_reply(_: int, answer: str) -> str:
    return answer or REFUSAL


_FORMS = {"together": _Form(together_prompt, together_reply), "fid": _Form(fid_prompt, _fid_reply)}


def lessons(
    examples: Sequence[Example],
    texts: Mapping[str, str],
    reading: str,
    tuning: GeneratorTuning,
    passages: int,
    seed: int = 0,
    found: Mapping[str, Sequence[str]] | None = None,
) -> list[Row]:
    """Rows for this way of reading, `tuning.refusals` of them with the refusal as their target.

    `texts`: passage id -> text with context; examples about passages that are gone are left out. `passages`
    is how many are read together. `found`: example id -> the passages that the search finds, best first; all
    lessons but `gold` need it. Raises SettingsError where this way of reading has no such lessons.
    """
    check_lessons(tuning.lessons, reading)
    present = [e for e in examples if {e.passage_id, *e.negatives} - {None} <= texts.keys()]
    looked_up = {id_: [p for p in its if p in texts] for id_, its in (found or {}).items()}
    form = _FORMS.get(reading)
    if tuning.lessons == "ralt":
        rows, refusals = _ralt(present, texts, looked_up, tuning.retrieved)
    elif form is None:
        rows, refusals = _gold_alone(present, texts)
    elif tuning.lessons == "raft":
        return _raft(present, texts, looked_up, tuning, seed, form)
    elif tuning.lessons == "swr":
        rows, refusals = _swr(present, texts, looked_up, tuning.retrieved, seed, form)
    else:
        rows, refusals = _gold_among(present, texts, passages, tuning.hard_negatives, seed, form)
    random.Random(fingerprint("lessons", seed)).shuffle(refusals)
    return rows + refusals[: round(len(rows) * tuning.refusals / (1 - tuning.refusals))]


def check_lessons(named: str, reading: str) -> None:
    """Raises SettingsError where what a row shows and what is read at once do not go together."""
    if named == "ralt" and reading == "together":
        raise SettingsError(
            "generator.lessons = ralt has a passage a row, but this generator reads several together; "
            "type: --set answer.reading=mixture"
        )
    if named in ("swr", "raft") and reading != "together":
        alone = "; one by one, generator.lessons=gold with generator.refusals is its like"
        raise SettingsError(
            f"generator.lessons = {named} has several passages a row, but this generator reads them one by "
            f"one; type: --set answer.reading=together{alone if named == 'raft' else ''}"
        )


def look_up(
    index: Index, examples: Sequence[Example], settings: Settings, progress: Progress = silent
) -> dict[str, list[str]]:
    """Example id -> the passages that the search finds for its question, best first, before any reranking."""
    plain = settings.search.model_copy(update={"rerank": "none"})
    depth = SPARE * (settings.generator.retrieved + 1)
    found: dict[str, list[str]] = {}
    for start in range(0, len(examples), BATCH):
        progress("search", start, len(examples), "questions")
        batch = examples[start : start + BATCH]
        for example, hits in zip(
            batch, search(index, [e.question for e in batch], plain, depth), strict=True
        ):
            found[example.id] = [hit.passage.id for hit in hits]
    progress("search", len(examples), len(examples), "questions")
    return found


def _gold_alone(examples: Sequence[Example], texts: Mapping[str, str]) -> Rows:
    """The passage with its answer; near misses, and all passages of a question without any, refused."""
    rows, refusals = [], []
    for example in examples:
        if example.passage_id is not None and example.answer:
            rows.append(_alone(example, texts[example.passage_id], example.answer))
        refusals += [_alone(example, texts[id_], REFUSAL) for id_ in example.negatives[:NEAR]]
    return rows, refusals


def _gold_among(
    examples: Sequence[Example],
    texts: Mapping[str, str],
    passages: int,
    hard: bool,
    seed: int,
    form: _Form,
) -> Rows:
    """The passage among its hard negatives (ALoFTRAG's step 5); without it, the refusal."""
    pool = sorted(texts)
    rows, refusals = [], []
    for example in examples:
        chance = random.Random(fingerprint("together", seed, example.id))
        wrong = list(example.negatives) if hard else _drawn(example, texts, pool, passages, chance)
        chance.shuffle(wrong)
        if wrong:
            refusals.append(_without(form, example, texts, wrong[:passages]))
        if example.passage_id is not None and example.answer:
            rows.append(_among(form, example, texts, wrong[: passages - 1], chance))
    return rows, refusals


def _swr(
    examples: Sequence[Example],
    texts: Mapping[str, str],
    found: Mapping[str, Sequence[str]],
    k: int,
    seed: int,
    form: _Form,
) -> Rows:
    """The passage among the `k` best found that do not hold the answer; without it, the refusal.

    So the generator learns from what its own search will show it (LocalRQA, Yu et al. 2024).
    """
    rows, refusals = [], []
    for example in examples:
        chance = random.Random(fingerprint("swr", seed, example.id))
        wrong = _wrong(example, texts, found[example.id])[: k + 1]
        if wrong:
            refusals.append(_without(form, example, texts, chance.sample(wrong, len(wrong))))
        if example.passage_id is not None and example.answer:
            rows.append(_among(form, example, texts, chance.sample(wrong[:k], len(wrong[:k])), chance))
    return rows, refusals


def _ralt(
    examples: Sequence[Example], texts: Mapping[str, str], found: Mapping[str, Sequence[str]], k: int
) -> Rows:
    """The answer after each of the `k` best found passages, right or wrong, all alike (RA-DIT's RALT).

    The loss is the sum of -log p(answer | passage, question) over rows, without a weight for the passage.
    Questions that nothing answers have the refusal as their answer, as SQuAD 2.0's have in RA-DIT.
    """
    rows, refusals = [], []
    for example in examples:
        shown = [texts[id_] for id_ in found[example.id][:k]]
        if example.answer:
            rows += [_alone(example, text, example.answer) for text in shown]
        elif example.kind == "unanswerable":
            refusals += [_alone(example, text, REFUSAL) for text in shown]
    return rows, refusals


def _raft(
    examples: Sequence[Example],
    texts: Mapping[str, str],
    found: Mapping[str, Sequence[str]],
    tuning: GeneratorTuning,
    seed: int,
    form: _Form,
) -> list[Row]:
    """A share of rows with the passage among others, the rest with others alone (RAFT, Zhang et al. 2024).

    All rows show as many. Hard: the others are the best found; else any. RAFT asks for the answer in either
    case; here it is the refusal where the passage is missing, for a system that cites must not answer from
    memory.
    """
    k, pool = tuning.retrieved, sorted(texts)
    told = [e for e in examples if e.passage_id is not None and e.answer]
    order = sorted(told, key=lambda e: fingerprint("raft", seed, e.id))
    golden = {e.id for e in order[: round(len(order) * tuning.gold_share)]}
    rows = []
    for example in told:
        chance = random.Random(fingerprint("raft", seed, example.id))
        if tuning.hard_negatives:
            wrong = _wrong(example, texts, found[example.id])[: k + 1]
        else:
            wrong = _drawn(example, texts, pool, k + 1, chance)
        if example.id in golden:
            rows.append(_among(form, example, texts, chance.sample(wrong[:k], len(wrong[:k])), chance))
        elif wrong:
            rows.append(_without(form, example, texts, chance.sample(wrong, len(wrong))))
    return rows


def _wrong(example: Example, texts: Mapping[str, str], ids: Sequence[str]) -> list[str]:
    """Those of these passages that do not answer: neither its own, nor any that holds the answer."""
    others = [id_ for id_ in ids if id_ != example.passage_id]
    return [id_ for id_ in others if not (example.answer and find_words(example.answer, texts[id_]))]


def _drawn(
    example: Example, texts: Mapping[str, str], pool: Sequence[str], most: int, chance: random.Random
) -> list[str]:
    """So many passages by chance that do not answer."""
    return _wrong(example, texts, chance.sample(pool, min(SPARE * most + 1, len(pool))))[:most]


def _alone(example: Example, text: str, answer: str) -> Row:
    return Row(one_by_one_prompt(text, example.question), f" {answer}")


def _among(
    form: _Form, example: Example, texts: Mapping[str, str], others: Sequence[str], chance: random.Random
) -> Row:
    """The right passage at a random place among these."""
    place = chance.randrange(len(others) + 1)
    shown = [*others[:place], str(example.passage_id), *others[place:]]
    prompt = form.ask([texts[id_] for id_ in shown], example.question)
    return Row(prompt, form.reply(place + 1, example.answer))


def _without(form: _Form, example: Example, texts: Mapping[str, str], others: Sequence[str]) -> Row:
    return Row(form.ask([texts[id_] for id_ in others], example.question), form.reply(0, ""))
