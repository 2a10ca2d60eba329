"""Questions put to an OpenAI-compatible chat endpoint: answers in a file that a stopped run goes on from."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fieldstone.errors import EndpointError, QuestionsError
from fieldstone.evaluate.questions import Question
from fieldstone.examples import whole_lines
from fieldstone.in_use import with_tuned
from fieldstone.models import Generator, Prompt
from fieldstone.progress import Progress, silent
from fieldstone.prompts import asked_with_passages, parse_one_by_one
from fieldstone.search import search
from fieldstone.search.open import open_index
from fieldstone.settings import Settings
from fieldstone.workspace import Workspace

AT_ONCE = 8
"""Questions asked at the same time."""

PATIENCE = 3
"""After so many rounds of questions without any answer the server is taken to be gone."""

MAX_TOKENS = 512


@dataclass(frozen=True, slots=True)
class Shown:
    """A passage that is handed to the endpoint with the question: its text with title, and its source."""

    id: str
    text: str
    source: str


def retrieve(
    workspace: Workspace, settings: Settings, questions: Sequence[Question]
) -> dict[str, list[Shown]]:
    """Question id -> the passages that the workspace's own search finds, as many as the settings read."""
    used = with_tuned(workspace, settings)
    index = open_index(workspace, used)
    hits = search(index, [q.question for q in questions], used.search, used.answer.passages)
    passages = {hit.passage.id: hit.passage for its in hits for hit in its}
    texts = index.library.passage_texts(passages.values())
    sources = index.library.sources({passage.document_id for passage in passages.values()})
    index.library.close()
    shown = {id_: Shown(id_, texts[id_], sources[p.document_id][0]) for id_, p in passages.items()}
    return {q.id: [shown[h.passage.id] for h in its] for q, its in zip(questions, hits, strict=True)}


def ask_endpoint(
    generator: Generator,
    questions: Sequence[Question],
    into: Path,
    shown: Mapping[str, Sequence[Shown]] | None = None,
    progress: Progress = silent,
) -> tuple[str, ...]:
    """Ask every question that `into` has no answer to yet; answers are appended as they come.

    A question goes out as it is, or with the passages `shown` (question id -> passages). What fails is not
    written, so the next run asks it again. Returns notes on that, nothing where all is answered. Raises
    QuestionsError when `into` is damaged.
    """
    into.parent.mkdir(parents=True, exist_ok=True)
    try:
        known = {line["id"] for line in whole_lines(into)}
    except (ValueError, KeyError, TypeError):
        raise QuestionsError(f"{into} is damaged; delete it, and all questions are asked anew") from None
    left = [question for question in questions if question.id not in known]
    failed: list[str] = []
    silent_rounds = 0

    def one(question: Question) -> dict[str, Any] | str:
        return _ask(generator, question, shown.get(question.id, ()) if shown is not None else None)

    with into.open("a", encoding="utf-8") as file, ThreadPoolExecutor(AT_ONCE) as pool:
        for start in range(0, len(left), AT_ONCE):
            progress("ask", len(known) + start, len(questions), "questions")
            replies = list(pool.map(one, left[start : start + AT_ONCE]))
            answered = [reply for reply in replies if not isinstance(reply, str)]
            failed += [reply for reply in replies if isinstance(reply, str)]
            file.writelines(json.dumps(reply, ensure_ascii=False) + "\n" for reply in answered)
            file.flush()
            silent_rounds = 0 if answered else silent_rounds + 1
            if silent_rounds == PATIENCE:
                rest = len(left) - start - len(replies)
                failed += [failed[-1]] * rest
                break
    progress("ask", len(questions), len(questions), "questions")
    if not failed:
        return ()
    return (
        f"{len(failed)} of {len(questions)} questions got no answer from {generator.name} and count as "
        f"unanswered: {failed[-1]}; the same command asks them again",
    )


def _ask(generator: Generator, question: Question, shown: Sequence[Shown] | None) -> dict[str, Any] | str:
    """The line to keep, or what went wrong."""
    if shown is None:
        prompt = Prompt(text=question.question, chat=True)
    else:
        prompt = asked_with_passages([its.text for its in shown], question.question)
    began = time.perf_counter()
    try:
        reply = generator.generate([prompt], max_tokens=MAX_TOKENS)[0].text.strip()
    except EndpointError as error:
        return str(error)
    line: dict[str, Any] = {
        "id": question.id,
        "question": question.question,
        "answer": reply if shown is None else parse_one_by_one(reply),
        "seconds": time.perf_counter() - began,
    }
    if shown is not None:
        line["contexts"] = [asdict(its) for its in shown]
    return line
