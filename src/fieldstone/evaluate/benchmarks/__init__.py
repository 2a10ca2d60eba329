"""Published benchmarks, read from local files in the formats that they come in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fieldstone.errors import QuestionsError, SettingsError
from fieldstone.evaluate.benchmarks.beir import read_beir
from fieldstone.evaluate.benchmarks.benchmark import Benchmark
from fieldstone.evaluate.benchmarks.localrqa import read_localrqa
from fieldstone.evaluate.benchmarks.mmlu import read_mmlu
from fieldstone.evaluate.benchmarks.squad import read_squad
from fieldstone.evaluate.benchmarks.table import read_table
from fieldstone.evaluate.benchmarks.webquestions import read_webquestions

FORMATS: dict[str, Callable[[Path], Benchmark]] = {
    "squad": read_squad,
    "xquad": read_squad,
    "jsquad": read_squad,
    "beir": read_beir,
    "mmlu": read_mmlu,
    "webquestions": read_webquestions,
    "localrqa": read_localrqa,
    "csv": read_table,
}
"""Name of a format -> what reads it."""


def read_benchmark(name: str, path: Path) -> Benchmark:
    """The benchmark of that format at `path`; what is damaged in it is left out, and its notes say so.

    Raises SettingsError for an unknown format, QuestionsError when no question can be read.
    """
    if name not in FORMATS:
        raise SettingsError(f"there is no benchmark format {name!r}; known are {', '.join(FORMATS)}")
    found = FORMATS[name](path)
    if not found.questions:
        why = "; ".join(found.notes) or "it is empty"
        raise QuestionsError(f"{path} holds no question in the format {name}: {why}")
    return found
