"""Tries at questions: a model writes, searches where it asks for it, reads what comes, and answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import GenerationConfig, StoppingCriteria

from fieldstone.models.tokens import Tokens
from fieldstone.prompts import MOVES, found_passages, parse_move, parse_one_by_one
from fieldstone.settings import SearchTuning

Find = Callable[[Sequence[str]], list[list[str]]]
"""The texts of the best passages of each query, best first."""


@dataclass(slots=True)
class Try:
    """One try at a question: its tokens, of which those with a 1 in `own` are the model's.

    `answer` is None until it has answered; `searches` are its queries.
    """

    prompt: list[int]
    ids: list[int] = field(default_factory=list)
    own: list[int] = field(default_factory=list)
    searches: list[str] = field(default_factory=list)
    answer: str | None = None
    done: bool = False

    def add(self, ids: Sequence[int], own: bool) -> None:
        """Go on with these tokens."""
        self.ids += ids
        self.own += [int(own)] * len(ids)


def roll_out(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[list[int]],
    find: Find,
    tuning: SearchTuning,
    context: int,
) -> list[Try]:
    """A try for each prompt: written by `model` at temperature 1, with what `find` gives put in.

    A try ends with its answer, with the end of text, after `tuning.max_tokens` without a tag that closes, or
    with a search too many; without an answer it earns nothing.
    """
    tokens = Tokens(tokenizer)
    tries = [Try(prompt) for prompt in prompts]
    for turn in range(tuning.searches + 1):
        going = [its for its in tries if not its.done]
        if not going:
            break
        pieces = _written(
            model, tokenizer, tokens, [its.prompt + its.ids for its in going], tuning.max_tokens
        )
        asking = []
        for its, piece in zip(going, pieces, strict=True):
            its.add(piece, own=True)
            what, words = parse_move(tokens.decode(piece)) if _closed(tokens.decode(piece)) else ("", "")
            if what == "answer":
                its.answer = parse_one_by_one(words)
            room = context - len(its.prompt) - len(its.ids) - tuning.result_tokens - tuning.max_tokens
            if what == "search" and turn < tuning.searches and room >= 0:
                its.searches.append(words)
                asking.append(its)
            else:
                its.done = True
        found = find([its.searches[-1] for its in asking]) if asking else []
        for its, texts in zip(asking, found, strict=True):
            its.add(_result(tokens, texts, tuning), own=False)
    return tries


class _Closes(StoppingCriteria):  # type: ignore[misc]
    """A row is done once a tag closes in what was written after `start`."""

    def __init__(self, tokens: Tokens, start: int) -> None:
        self._tokens, self._start = tokens, start

    def __call__(self, input_ids: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        closed = [_closed(self._tokens.decode(row)) for row in input_ids[:, self._start :].tolist()]
        return torch.tensor(closed, device=input_ids.device)


def _written(
    model: Any, tokenizer: Any, tokens: Tokens, rows: Sequence[list[int]], limit: int
) -> list[list[int]]:
    """What the model writes after each row at temperature 1, up to a closing tag, its end or `limit`."""
    width = max(map(len, rows))
    pad = tokenizer.pad_token_id
    ids = torch.tensor([[pad] * (width - len(row)) + list(row) for row in rows], device=model.device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=model.device)
    ends = _ends(model, tokenizer)
    how = GenerationConfig(
        do_sample=True, temperature=1.0, top_k=0, top_p=1.0, repetition_penalty=1.0, max_new_tokens=limit,
        pad_token_id=pad, eos_token_id=sorted(ends), bos_token_id=tokenizer.bos_token_id,
    )  # fmt: skip
    with torch.no_grad():
        out = model.generate(
            input_ids=ids, attention_mask=mask, generation_config=how,
            stopping_criteria=[_Closes(tokens, width)],
        )  # fmt: skip
    return [_cut(tokens, row, ends) for row in out[:, width:].tolist()]


def _cut(tokens: Tokens, written: Sequence[int], ends: frozenset[int]) -> list[int]:
    """The tokens up to the one that closes a tag or ends the text, which counts; padding stands behind it."""
    for place, token in enumerate(written, start=1):
        if token in ends or _closed(tokens.decode(written[:place])):
            return list(written[:place])
    return list(written)


def _closed(text: str) -> bool:
    return any(tag in text for tag in MOVES)


def _ends(model: Any, tokenizer: Any) -> frozenset[int]:
    """The tokens that end a text."""
    given = model.generation_config.eos_token_id
    ids = given if isinstance(given, list) else [given]
    return frozenset(int(i) for i in [*ids, tokenizer.eos_token_id] if i is not None)


def _result(tokens: Tokens, texts: Sequence[str], tuning: SearchTuning) -> list[int]:
    """What a search puts in, in at most `tuning.result_tokens` tokens: the last passages give way first."""
    for shown in range(len(texts[: tuning.passages]), 0, -1):
        ids = tokens.following(found_passages(texts[:shown]))
        if len(ids) <= tuning.result_tokens:
            return ids
    closing = tokens.following("\n</information>\n")
    whole = tokens.following(found_passages(texts[:1]).removesuffix("\n</information>\n"))
    return whole[: tuning.result_tokens - len(closing)] + closing
