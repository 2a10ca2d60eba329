"""A workspace of made-up handbooks with questions about them, for the tests of federation."""

from __future__ import annotations

from pathlib import Path

from fieldstone.examples import write_examples
from fieldstone.records import Example, fingerprint
from fieldstone.settings import Settings, resolve_settings, write_settings_file
from fieldstone.workspace import Workspace, create_workspace
from ports import handbooks, library_of

FLAGS = (
    "models.encoder=fake:words",
    "models.generator=fake:words",
    "models.threads=1",
    "models.device=cpu",
    "search.mode=dense",
    "search.rerank=none",
    "retriever.loss=contrastive",
    "retriever.method=adapter",
    "retriever.towers=query",
    "retriever.adapter_rate=0.01",
    "retriever.adapter_pull=0.001",
    "retriever.batch=8",
    "federate.rounds=2",
    "federate.epochs=2",
)

WORDS = ("quay", "crane", "watch", "invoice", "mole", "berth")


def settings_of(*flags: str) -> Settings:
    """The settings of these tests."""
    return resolve_settings(environment={}, flags=[*FLAGS, *flags])


def harbours(path: Path, *flags: str) -> Workspace:
    """Eight handbooks, four questions about each section: three to learn from, one to judge by."""
    workspace = create_workspace(path)
    library = library_of(path, handbooks())
    asked: dict[str, list[Example]] = {"train": [], "dev": [], "test": []}
    for passage in library.passages():
        document = library.document(passage.document_id)
        for number, word in enumerate(WORDS[:4]):
            question = f"Tell of {document.title.lower()}, {passage.headings[-1].lower()} and the {word}?"
            id_ = fingerprint(passage.id, number)
            split = "dev" if number == 3 else "train"
            asked[split].append(Example(id_, question, word, passage.id))
    library.close()
    for split, examples in asked.items():
        write_examples(path / "examples" / f"{split}.jsonl", examples)
    write_settings_file(workspace.settings_file, settings_of(*flags))
    return workspace
