"""The model searches by itself: it writes a query, is given what is found, goes on, and answers.

The protocol is that of Search-R1 (Jin et al. 2025); `tune.generator.search_rl` tunes a model for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from fieldstone.models import Generator
from fieldstone.prompts import MOVES, found_passages, parse_move, parse_one_by_one, searching_prompt
from fieldstone.records import Hit
from fieldstone.settings import SearchTuning

Find = Callable[[Sequence[tuple[int, str]]], list[list[Hit]]]
"""The best passages of each query, which comes with the number of its question."""


@dataclass(slots=True)
class Search:
    """How far a model has come with a question: what it wrote and was given, all that it found, its answer.

    `certainty` is the mean log-probability of the tokens of its last piece of writing.
    """

    question: str
    so_far: str = ""
    hits: list[Hit] = field(default_factory=list)
    searches: int = 0
    answer: str = ""
    certainty: float = 0.0
    done: bool = False


def search_by_model(
    generator: Generator,
    questions: Sequence[str],
    find: Find,
    texts: Callable[[Sequence[Hit]], list[str]],
    tuning: SearchTuning,
) -> list[Search]:
    """What the model finds and answers, a question each; no answer where it refuses or breaks the form.

    `texts` gives hits as they are shown. No passage is counted twice among a question's hits.
    """
    ours = [Search(question) for question in questions]
    for turn in range(tuning.searches + 1):
        going = [number for number, its in enumerate(ours) if not its.done]
        if not going:
            break
        prompts = [searching_prompt(ours[number].question, ours[number].so_far) for number in going]
        replies = generator.generate(prompts, max_tokens=tuning.max_tokens, stop=MOVES)
        asking: list[tuple[int, str]] = []
        for number, reply in zip(going, replies, strict=True):
            its = ours[number]
            what, words = parse_move(reply.text) if reply.finished else ("", "")
            its.certainty = (reply.logprob or 0.0) / max(reply.tokens, 1)
            its.so_far += reply.text
            if what == "search" and turn < tuning.searches:
                asking.append((number, words))
            else:
                its.answer = parse_one_by_one(words) if what == "answer" else ""
                its.done = True
        found = find(asking) if asking else []
        for (number, _), hits in zip(asking, found, strict=True):
            its = ours[number]
            shown = hits[: tuning.passages]
            its.searches += 1
            its.so_far += MOVES[0] + _fitting(generator, texts(shown), tuning.result_tokens)
            known = {hit.passage.id for hit in its.hits}
            its.hits += [hit for hit in shown if hit.passage.id not in known]
    for its in ours:
        its.hits = [replace(hit, rank=rank) for rank, hit in enumerate(its.hits, start=1)]
    return ours


def _fitting(generator: Generator, texts: Sequence[str], tokens: int) -> str:
    """What was found, in at most so many tokens: the last passages give way first, then the last words."""
    for shown in range(len(texts), 0, -1):
        text = found_passages(texts[:shown])
        if generator.count_tokens([text])[0] <= tokens:
            return text
    words = texts[0].split() if texts else []
    while words and generator.count_tokens([found_passages([" ".join(words)])])[0] > tokens:
        words = words[: len(words) * 9 // 10]
    return found_passages([" ".join(words)] if words else [])
