"""A workspace put to the test: questions asked of several systems, measured, compared in pairs.

A system is named by what it does: `dense`, `lexical` or `fused` searches; `fused+likelihood` reranks;
`fused+likelihood/one-by-one` also answers. Searching systems get retrieval measures, answering ones all.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fieldstone.answer import SEARCH_DEPTH, System, conclude, open_system, read
from fieldstone.errors import QuestionsError, SettingsError
from fieldstone.evaluate.evaluation import Evaluation, QuestionSet
from fieldstone.evaluate.evidence import locate, relevant_passages
from fieldstone.evaluate.judge.fitness import Grader, examine, in_words
from fieldstone.evaluate.judge.second_look import in_words_of_support, with_grades, with_support
from fieldstone.evaluate.judge.support import SENTENCE, Look, by_ablation, by_entailment, by_judge
from fieldstone.evaluate.measures.lost import answering as answering_rows
from fieldstone.evaluate.measures.named import DEFAULTS, QUANTILES, Case, check_names, depth, values
from fieldstone.evaluate.questions import NEAR_MISS, Question
from fieldstone.evaluate.report.worst import passages_of, worst
from fieldstone.evaluate.statistics.agreement import WRITTEN, YOURS, agreement
from fieldstone.evaluate.statistics.summary import differences, estimates, measured, notes, tests
from fieldstone.in_use import with_tuned
from fieldstone.library import Library
from fieldstone.models import Generator, Reranker
from fieldstone.progress import Progress, silent
from fieldstone.records import Answer, Example, Hit
from fieldstone.search import search
from fieldstone.settings import Settings
from fieldstone.workspace import Workspace

BATCH = 16
"""Questions asked at once."""

_NAME = re.compile(
    r"(dense|lexical|fused)(?:\+(likelihood|cross-encoder))?(?:/(one-by-one|together|mixture|fid|search))?"
)


@dataclass(frozen=True, slots=True)
class Judged:
    """A question with the passages that are relevant to it, one group a piece of evidence.

    `grades`: how relevant each is, where some are more so than others.
    """

    question: Question
    relevant: tuple[frozenset[str], ...]
    grades: Mapping[str, float] = field(default_factory=dict)


Judging = Callable[[Library, Sequence[Question]], tuple[list[Judged], tuple[str, ...]]]
"""How the relevant passages are found: `judge` by the evidence, a benchmark by what it says itself."""


def evaluate(
    workspace: Workspace,
    settings: Settings,
    questions: Sequence[Question],
    systems: Sequence[str] = (),
    progress: Progress = silent,
    measures: Sequence[str] = DEFAULTS,
    written: Sequence[Example] = (),
    *,
    grader: Grader | None = None,
    support: bool | Reranker | Grader = False,
    judging: Judging | None = None,
) -> Evaluation:
    """Ask every question of every system (default: the searches alone, then what the settings say).

    Each of the `measures` (see `named`) comes with a 95 % interval clustered by document, each pair of
    systems with the paired difference. Questions whose evidence stands nowhere in the library count for no
    measure but refusal. Where a latency is asked for, questions are asked one at a time. With `written`
    examples, these are asked as well, as a set of their own, and compared with the questions.

    A `grader` that agrees with people grades the answers. With `support` the generator says how far each
    citation supports its answer; or a model of entailment does, or a grader that agrees with people on that,
    and where it does not, the generator after all.
    """
    if not questions:
        raise QuestionsError("no questions to ask; give a file with at least one")
    measures = check_names(measures)
    used = with_tuned(workspace, settings)
    names = list(dict.fromkeys(systems)) or default_systems(used)
    variants = {name: _variant(used, name) for name in names}
    opened = open_system(workspace, _most_needed(used, variants.values()))
    library = opened.index.library
    judged, missing = (judging or judge)(library, questions)
    kept = workspace.cache / "second_look.jsonl"
    found = examine(grader, kept, progress) if grader is not None else None
    look, about_support = _look(support, opened.generator, kept, progress)
    answering = [name for name in names if "/" in name]
    asked = {name: replace(opened, settings=variant) for name, variant in variants.items()}

    def put(items: Sequence[Judged]) -> QuestionSet:
        result = measure(asked, items, answering, progress, measures)
        rows, told, said = result.rows, dict[str, Any](), list[str]()
        if look is not None:
            rows = with_support(rows, library, look, kept, progress)
            said += filter(None, [*about_support, in_words_of_support(rows)])
        if grader is not None and found is not None:
            rows, told = with_grades(rows, grader.generator, found, kept, progress)
            said.append(told["sentence"])
        if rows is result.rows and not told:
            return result
        again = summarise(rows, items, names, measures)
        return replace(again, judged=told, passages=result.passages, notes=(*result.notes, *said))

    result = put(judged)
    whole = Evaluation(
        date=datetime.now(UTC),
        settings=settings.model_dump(mode="json"),
        notes=(*missing, *_not_measured(result, measures)),
    )
    if not written:
        return replace(
            whole,
            systems=result.systems,
            differences=result.differences,
            tests=result.tests,
            notes=(*result.notes, *whole.notes),
            rows=result.rows,
            passages=result.passages,
            judged=result.judged,
        )
    others = judge_examples(library, written)
    other = put(others)
    compared = agreement(
        measured(result.rows, judged, names, measures), measured(other.rows, others, names, measures)
    )
    return replace(whole, sets={YOURS: result, WRITTEN: other}, agreement=compared)


def _look(
    support: bool | Reranker | Grader, generator: Generator, kept: Path, progress: Progress
) -> tuple[Look | None, tuple[str, ...]]:
    """What looks at citations, and the sentences that stand beside its figures."""
    if support is False:
        return None, ()
    if support is True:
        return by_ablation(generator), (SENTENCE,)
    if not isinstance(support, Grader):
        return by_entailment(support), ()
    found = examine(support, kept, progress)
    if found.fit:
        return by_judge(support.generator), (in_words(found),)
    return by_ablation(generator), (in_words(found), SENTENCE)


def measure(
    systems: Mapping[str, System],
    judged: Sequence[Judged],
    answering: Collection[str] | None = None,
    progress: Progress = silent,
    measures: Sequence[str] = DEFAULTS,
) -> QuestionSet:
    """Ask every question of every system; those not in `answering` only search (None: all answer).

    The estimates are of the `measures` asked for; a row keeps the default ones as well.
    """
    rows: list[dict[str, Any]] = []
    asked: list[tuple[str, System]] = []
    for name, system in systems.items():
        same = next((other for other, its in asked if its is system), None)
        asked.append((name, system))
        if same is not None:  # the same system under another name answers the same
            rows += [{**row, "system": name} for row in rows if row["system"] == same]
            continue
        answers = answering is None or name in answering
        system.generator.forget()  # the same questions give the same answers, whatever was asked before them
        size = 1 if any(name in QUANTILES for name in measures) else BATCH
        for start in range(0, len(judged), size):
            progress(name, start, len(judged), "questions")
            rows += _ask(system, name, answers, judged[start : start + size], measures)
        progress(name, len(judged), len(judged), "questions")
    found = summarise(rows, judged, list(systems), measures)
    first = next(iter(systems.values()))
    return replace(found, passages=passages_shown(first.index.library, rows, first.settings))


def passages_shown(library: Library, rows: Sequence[Mapping[str, Any]], settings: Settings) -> dict[str, str]:
    """Id -> text of the passages that a report of these rows shows: those of each system's worst cases."""
    cases = [case for its in answering_rows(rows).values() for case in worst(its, settings.answer.passages)]
    return library.passage_texts(library.passages(passages_of(cases)))


def summarise(
    rows: Sequence[Mapping[str, Any]],
    judged: Sequence[Judged],
    systems: Sequence[str],
    measures: Sequence[str] = DEFAULTS,
) -> QuestionSet:
    """What these rows say of the systems and of each pair of them.

    There is a row a question and system; of a system that ran several times, a row a question and `seed`.
    """
    # where a passage is relevant, a question without answers has one that is not known
    unanswerable = sum(not item.question.answerable and not item.relevant for item in judged)
    found = measured(rows, judged, systems, measures)
    return QuestionSet(
        estimates(found),
        differences(found),
        (f"{len(judged)} questions, {unanswerable} of them unanswerable", *notes(judged, len(systems))),
        rows,
        tests=tests(found),
    )


def _not_measured(found: QuestionSet, measures: Sequence[str]) -> tuple[str, ...]:
    """A note on the measures that were asked for by name and of which there is no estimate."""
    if tuple(measures) == DEFAULTS:
        return ()
    missing = [name for name in measures if not any(name in its for its in found.systems.values())]
    return (f"no questions, or too few, to measure {', '.join(missing)} on",) if missing else ()


def default_systems(settings: Settings) -> list[str]:
    """The three searches alone, then the whole system that the settings describe."""
    whole = settings.search.mode
    name = whole if settings.search.rerank == "none" else f"{whole}+{settings.search.rerank}"
    reading = "one-by-one" if settings.answer.reading == "auto" else settings.answer.reading
    searches = ["lexical"] if whole == "lexical" else ["lexical", "dense", "fused"]
    return [*searches, f"{name}/{reading}"]


def _variant(settings: Settings, name: str) -> Settings:
    """The settings that make the system of that name."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise SettingsError(
            f"there is no system {name!r}; write dense, lexical or fused, then +likelihood or +cross-encoder "
            "to rerank, then /one-by-one, /together, /mixture, /fid or /search to answer"
        )
    mode, rerank, reading = match.groups()
    search_ = settings.search.model_copy(update={"mode": mode, "rerank": rerank or "none"})
    answer_ = settings.answer.model_copy(update={"reading": reading or "auto"})
    return settings.model_copy(update={"search": search_, "answer": answer_})


def _most_needed(settings: Settings, variants: Iterable[Settings]) -> Settings:
    """Settings under which all that any of the variants needs is opened."""
    variants = list(variants)
    lexical = all(v.search.mode == "lexical" for v in variants)
    crossed = any(v.search.rerank == "cross-encoder" for v in variants)
    return settings.model_copy(
        update={
            "search": settings.search.model_copy(
                update={
                    "mode": "lexical" if lexical else "fused",
                    "rerank": "cross-encoder" if crossed else "none",
                }
            )
        }
    )


def judge(library: Library, questions: Sequence[Question]) -> tuple[list[Judged], tuple[str, ...]]:
    """The questions with the passages that hold their evidence, and a note on those it was not found of."""
    located = locate(questions, library.documents())
    by_document: dict[str, list[Any]] = {}
    for passage in library.passages():
        by_document.setdefault(passage.document_id, []).append(passage)
    judged = []
    for question in questions:
        spans = located.spans.get(question.id, {})
        relevant = {
            id_
            for document, its in spans.items()
            for id_ in relevant_passages(its, by_document.get(document, ()))
        }
        judged.append(Judged(question, (frozenset(relevant),) if relevant else ()))
    if not located.missing:
        return judged, ()
    shown = ", ".join(located.missing[:5])
    note = f"the evidence of {len(located.missing)} questions stands nowhere in the library ({shown})"
    return judged, (note,)


def judge_examples(library: Library, examples: Sequence[Example]) -> list[Judged]:
    """Examples as questions: relevant is the passage that each was written about."""
    passages = {p.id: p for p in library.passages()}
    sources = library.sources({p.document_id for p in passages.values()})
    judged = []
    for example in examples:
        about = example.passage_id or next(iter(example.negatives), "")
        source = sources[passages[about].document_id][0] if about in passages else ""
        answers = (example.answer,) if example.kind == "answerable" else ()
        kind = NEAR_MISS if not answers and example.origin == "synthetic" else ""
        question = Question(example.id, example.question, answers, source, kind=kind)
        relevant = (frozenset({example.passage_id}),) if example.passage_id in passages else ()
        judged.append(Judged(question, relevant))
    return judged


def _ask(
    system: System, name: str, answering: bool, batch: Sequence[Judged], measures: Sequence[str]
) -> Iterator[dict[str, Any]]:
    questions = [item.question.question for item in batch]
    deepest = max([SEARCH_DEPTH, *map(depth, measures)])
    began = time.perf_counter()
    reads = read(system, questions) if answering else []
    answers: list[Answer] = [conclude(system, its) for its in reads]
    found: list[list[Hit]] = [list(given.hits) for given in answers]
    if not answering:
        found = search(system.index, questions, system.settings.search, deepest)
    seconds = (time.perf_counter() - began) / len(batch)
    # one that answers finds no more than it needs, so nothing deeper can be said of it
    reach = max(SEARCH_DEPTH, system.settings.answer.passages) if answering else deepest
    asked = [name for name in dict.fromkeys((*measures, *DEFAULTS)) if depth(name) <= reach]
    for i, (item, hits) in enumerate(zip(batch, found, strict=True)):
        ranked = tuple(hit.passage.id for hit in hits)
        case = Case(item.question, item.relevant, ranked, seconds=seconds, grades=item.grades)
        row: dict[str, Any] = {
            "system": name,
            "id": item.question.id,
            "question": item.question.question,
            "answers": list(item.question.answers),
            "source": item.question.source,
            "kind": item.question.kind,
            "relevant": sorted(id_ for group in item.relevant for id_ in group),
            "hits": [{"passage": h.passage.id, "score": h.score, **h.scores} for h in hits],
        }
        if answering:
            given = answers[i]
            cited = tuple(citation.passage_id for citation in given.citations)
            case = replace(case, answer=given.text, abstained=given.abstained, cited=cited)
            row |= {
                "answer": given.text,
                "abstained": given.abstained,
                "unsaid": reads[i].readings[0].text if given.abstained and reads[i].readings else "",
                "confidence": given.confidence,
                "abstain_below": system.abstain_below,
                "citations": [
                    {"passage": c.passage_id, "quote": c.quote, "verified": c.verified}
                    for c in given.citations
                ],
            }
        yield {**row, "seconds": seconds, "measures": values(case, asked)}
