"""A benchmark's own documents in a library, and its relevance as passages of that library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fieldstone.errors import WorkspaceError
from fieldstone.evaluate.benchmarks.benchmark import Benchmark
from fieldstone.evaluate.questions import Question
from fieldstone.evaluate.run import Judged
from fieldstone.library import FileRow, Library
from fieldstone.progress import Progress, silent, track
from fieldstone.records import Passage, fingerprint

WHOLE = "benchmark: whole"
"""The splitting of these documents: none, for relevance is of the published passage."""


def holds(library: Library, benchmark: Benchmark) -> bool:
    """Whether the library is of this benchmark's documents."""
    return library.meta("benchmark") == _mark(benchmark)


def put(library: Library, benchmark: Benchmark, progress: Progress = silent) -> None:
    """Put the documents into an empty library, a passage each; what an earlier run put in stays.

    The encoder cuts what is longer than it reads. Raises WorkspaceError when other documents are there.
    """
    if not holds(library, benchmark) and library.counts().files:
        raise WorkspaceError(
            f"{library.path.parent} holds other documents than this benchmark's; name a new folder"
        )
    library.set_meta("benchmark", _mark(benchmark))
    if "" not in library.roots():
        library.add_root("", "benchmark")
    known, documents = library.files(), benchmark.documents
    for document in track(documents, len(documents), "read", "documents", progress):
        if document.source not in known:
            row = FileRow(document.source, "", document.id, "benchmark", len(document.text))
            library.put_file(row, [document])
    missing = set(library.unsplit(WHOLE))
    for document in documents:
        if document.id in missing:
            text = document.text
            library.put_passages(document.id, WHOLE, [Passage(document.id, document.id, text, 0, len(text))])


def judge_by_grades(
    library: Library, questions: Sequence[Question], grades: Mapping[str, Mapping[str, float]]
) -> tuple[list[Judged], tuple[str, ...]]:
    """The questions with the passages that the benchmark calls relevant, a group each, and their grades.

    One that is not in the library counts, though it cannot be found: so does trec_eval.
    """
    passages = library.passages()
    sources = library.sources({p.document_id for p in passages})
    ids = {sources[p.document_id][0]: p.id for p in passages}
    judged = []
    for question in questions:
        its = {
            ids.get(source, f"not there: {source}"): g for source, g in grades.get(question.id, {}).items()
        }
        relevant = tuple(frozenset({id_}) for id_, grade in its.items() if grade > 0)
        judged.append(Judged(question, relevant, its))
    return judged, ()


def _mark(benchmark: Benchmark) -> str:
    return fingerprint(*(document.id for document in benchmark.documents))
