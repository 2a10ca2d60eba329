"""Fieldstone: a folder of documents into a question-answering system that cites its sources.

The public names, in the order of the pipeline. Each is loaded when it is first asked for, so that
`import fieldstone` costs next to nothing. The verbs live in the modules that they name:
`from fieldstone.search import search`, `from fieldstone.answer import answer`,
`from fieldstone.synthesize import synthesize`, `from fieldstone.evaluate.run import evaluate`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fieldstone.answer import System as System
    from fieldstone.answer import open_system as open_system
    from fieldstone.answer import stream_answer as stream_answer
    from fieldstone.errors import EndpointError as EndpointError
    from fieldstone.errors import FeedbackError as FeedbackError
    from fieldstone.errors import FieldstoneError as FieldstoneError
    from fieldstone.errors import KeysError as KeysError
    from fieldstone.errors import MissingExtra as MissingExtra
    from fieldstone.errors import ModelError as ModelError
    from fieldstone.errors import QuestionsError as QuestionsError
    from fieldstone.errors import ReadError as ReadError
    from fieldstone.errors import SettingsError as SettingsError
    from fieldstone.errors import StoreError as StoreError
    from fieldstone.errors import WorkspaceError as WorkspaceError
    from fieldstone.evaluate.evaluation import Evaluation as Evaluation
    from fieldstone.evaluate.questions import Question as Question
    from fieldstone.evaluate.questions import read_questions as read_questions
    from fieldstone.evaluate.report.files import write_report as write_report
    from fieldstone.examples import read_examples as read_examples
    from fieldstone.examples import write_examples as write_examples
    from fieldstone.gate import Verdict as Verdict
    from fieldstone.in_use import Choice as Choice
    from fieldstone.in_use import choices as choices
    from fieldstone.library import Library as Library
    from fieldstone.models import load_encoder as load_encoder
    from fieldstone.models import load_generator as load_generator
    from fieldstone.models import load_reranker as load_reranker
    from fieldstone.read import find_files as find_files
    from fieldstone.read import read_file as read_file
    from fieldstone.read import read_files as read_files
    from fieldstone.recipes import choose_settings as choose_settings
    from fieldstone.recipes import load_recipe as load_recipe
    from fieldstone.recipes import run_steps as run_steps
    from fieldstone.records import Answer as Answer
    from fieldstone.records import Citation as Citation
    from fieldstone.records import Document as Document
    from fieldstone.records import Example as Example
    from fieldstone.records import Heading as Heading
    from fieldstone.records import Hit as Hit
    from fieldstone.records import Passage as Passage
    from fieldstone.search import Filter as Filter
    from fieldstone.search import Index as Index
    from fieldstone.settings import Settings as Settings
    from fieldstone.settings import resolve_settings as resolve_settings
    from fieldstone.split import split_document as split_document
    from fieldstone.tune.generator import tune_generator as tune_generator
    from fieldstone.tune.retriever import tune_retriever as tune_retriever
    from fieldstone.workspace import Workspace as Workspace
    from fieldstone.workspace import create_workspace as create_workspace
    from fieldstone.workspace import open_workspace as open_workspace

    __version__: str

_HOMES = {
    "settings": ("Settings", "resolve_settings"),
    "workspace": ("Workspace", "create_workspace", "open_workspace"),
    "recipes": ("load_recipe", "choose_settings", "run_steps"),
    "read": ("find_files", "read_files", "read_file"),
    "split": ("split_document",),
    "library": ("Library",),
    "models": ("load_encoder", "load_reranker", "load_generator"),
    "search": ("Filter", "Index"),
    "examples": ("read_examples", "write_examples"),
    "tune.retriever": ("tune_retriever",),
    "tune.generator": ("tune_generator",),
    "gate": ("Verdict",),
    "in_use": ("Choice", "choices"),
    "answer": ("System", "open_system", "stream_answer"),
    "evaluate.questions": ("Question", "read_questions"),
    "evaluate.evaluation": ("Evaluation",),
    "evaluate.report.files": ("write_report",),
    "records": ("Document", "Heading", "Passage", "Hit", "Example", "Citation", "Answer"),
    "errors": (
        "FieldstoneError",
        "SettingsError",
        "ReadError",
        "WorkspaceError",
        "StoreError",
        "ModelError",
        "EndpointError",
        "QuestionsError",
        "FeedbackError",
        "KeysError",
        "MissingExtra",
    ),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("fieldstone")
    elif name in _HOME:
        value = getattr(import_module(f"fieldstone.{_HOME[name]}"), name)
    else:
        raise AttributeError(f"module 'fieldstone' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
