"""Preference pairs from a model's own replies: what it should have written, and what it wrote instead.

Several replies to each prompt are drawn by chance. One that fails is set against one of its own that is
right, or against the known reply where none is. That a model learns most from its own kinds of error is
Trust-Align's idea (Song et al. 2024, arXiv 2409.11242), which draws errors by type; three types are told
apart here: a wrong answer, a refusal of what the passage answers, an answer that the passage does not give.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from fieldstone.examples import write_lines
from fieldstone.models import Completion, Generator, Prompt
from fieldstone.progress import Progress, silent
from fieldstone.prompts import SHOWN, parse_one_by_one, parse_together
from fieldstone.quotes import find_words
from fieldstone.records import fingerprint
from fieldstone.settings import PreferenceTuning
from fieldstone.tune.generator import Row
from fieldstone.tune.kept import by_batches

Kind = Literal["wrong answer", "refusal", "invented answer"]
Agree = Callable[[str, str], float]
"""How far a reply's answer (first) is the expected one (second): 1 the same, 0 nothing of it."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two replies to one prompt; `error` says what is wrong with the rejected one.

    `own` says whether the chosen one, too, is the model's.
    """

    prompt: Prompt
    chosen: str
    rejected: str
    error: Kind
    own: bool


def preference_pairs(
    generator: Generator,
    rows: Sequence[Row],
    tuning: PreferenceTuning,
    agree: Agree,
    *,
    max_tokens: int,
    passages: int,
    kept: Path,
    seed: int = 0,
    progress: Progress = silent,
) -> list[Pair]:
    """The pairs of these rows, each a prompt with the reply that is right; many rows give none, some two.

    A right answer agrees wholly with the row's, stands word for word in what the prompt shows and, where
    several passages are shown, cites the row's passage. A wrong one agrees less than `tuning.wrong_below` or
    cites another. What lies between is neither; nor are replies that did not come to an end. Of several
    failures of a kind the likeliest is taken. `passages` is how many a prompt shows at most. Batches of
    replies in the file `kept` are not drawn again.
    """

    def drawn(batch: Sequence[Row]) -> list[list[dict[str, Any]]]:
        generator.forget()
        replies = iter(
            generator.generate(
                [row.prompt for row in batch for _ in range(tuning.samples)],
                max_tokens=max_tokens,
                stop=() if batch[0].prompt.chat else ("\n",),
                temperature=tuning.temperature,
                seed=seed,
            )
        )
        return [[asdict(next(replies)) for _ in range(tuning.samples)] for _ in batch]

    found = by_batches(rows, drawn, kept, progress)
    return [
        pair
        for row, replies in zip(rows, found, strict=True)
        for pair in pairs_of(
            row, [Completion(**reply) for reply in replies], passages, agree, tuning.wrong_below
        )
    ]


def pairs_of(
    row: Row, replies: Sequence[Completion], passages: int, agree: Agree, wrong_below: float
) -> list[Pair]:
    """The pairs that these replies to a row's prompt make: at most one for each kind of error."""
    cited, expected = _parsed(row.prompt, row.completion, passages)
    if expected and not find_words(expected, _shown(row.prompt)):
        return []  # what cannot be verified is not taught
    right: list[Completion] = []
    failed: dict[Kind, list[Completion]] = {}
    for reply in replies:
        if not reply.finished:
            continue
        its, answer = _parsed(row.prompt, reply.text, passages)
        if not expected:
            if answer:
                failed.setdefault("invented answer", []).append(reply)
        elif not answer:
            failed.setdefault("refusal", []).append(reply)
        elif its != cited or agree(answer, expected) < wrong_below:
            failed.setdefault("wrong answer", []).append(reply)
        elif agree(answer, expected) == 1:
            right.append(reply)
    chosen = max(right, key=_likelihood).text if right else row.completion
    return [
        Pair(row.prompt, chosen, max(its, key=_likelihood).text, kind, bool(right))
        for kind, its in failed.items()
    ]


def write_pairs(path: Path, pairs: Sequence[Pair]) -> None:
    """The pairs as JSON Lines for a person to read, the end of each prompt first."""
    write_lines(
        path,
        (
            {
                "asked": pair.prompt.text,
                "chosen": pair.chosen,
                "rejected": pair.rejected,
                "error": pair.error,
                "own": pair.own,
                "passage": pair.prompt.prefix.removeprefix(SHOWN),
            }
            for pair in pairs
        ),
    )


def kinds(pairs: Sequence[Pair]) -> Mapping[str, int]:
    """How many pairs there are of each kind of error."""
    return {kind: sum(pair.error == kind for pair in pairs) for kind in sorted({p.error for p in pairs})}


def sample_key(generator: str, rows: Sequence[Row], tuning: PreferenceTuning, seed: int, tokens: int) -> str:
    """Stands for the replies that would be drawn: the name of the file that keeps them."""
    return fingerprint("replies", generator, tuning.samples, tuning.temperature, seed, tokens, *rows)


def _parsed(prompt: Prompt, reply: str, passages: int) -> tuple[tuple[int, ...], str]:
    """The cited numbers and the answer, as answering reads a reply; no answer is a refusal."""
    if prompt.chat:
        cited, answer = parse_together(reply, passages)
        return (cited, answer) if cited else ((), "")
    return (), parse_one_by_one(reply)


def _shown(prompt: Prompt) -> str:
    """What the prompt shows, without the example of a made-up passage."""
    return prompt.prefix.removeprefix(SHOWN) or prompt.text


def _likelihood(reply: Completion) -> float:
    return (reply.logprob or 0.0) / max(reply.tokens, 1)
