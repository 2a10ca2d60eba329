"""The gate refuses harm: the real MiniLM, spoilt by a learning rate far too high."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from fieldstone.examples import write_examples
from fieldstone.in_use import choices
from fieldstone.recipes import UPKEEP, load_recipe, run, run_steps
from fieldstone.records import Example, fingerprint
from fieldstone.settings import resolve_settings
from fieldstone.synthesize.divide import divide
from fieldstone.workspace import create_workspace

HARBOUR = Path(__file__).parent.parent / "examples" / "harbour"


def from_headings(library, settings):
    """A question about each passage, made of its title and headings, by the split of its passage."""
    passages = library.passages()
    titles = library.sources({p.document_id for p in passages})
    sides, parts = divide(passages, settings.synthesize), {"train": [], "dev": [], "test": []}
    for passage in passages:
        about = " and ".join(dict.fromkeys([titles[passage.document_id][1], *passage.headings]))
        question = f"What does the handbook say of {about}?"
        if question not in {e.question for its in parts.values() for e in its}:
            id_ = fingerprint(question)
            parts[sides[passage.id]].append(Example(id_, question, "", passage.id))
    return parts


@pytest.mark.slow
def test_an_encoder_spoilt_by_its_tuning_is_turned_down(tmp_path):
    for part in ("berths", "safety", "tariffs"):
        shutil.copytree(HARBOUR / part, tmp_path / "folder" / part)
    flags = [
        "models.encoder=embedded:minilm", "models.device=cpu", "search.mode=dense", "read.workers=1",
        "retriever.loss=contrastive", "retriever.epochs=1", "retriever.batch=8",
        "retriever.learning_rate=1.0", "synthesize.dev=0.4", "synthesize.test=0.01",
    ]  # fmt: skip
    settings = resolve_settings(load_recipe("fieldstone").settings, environment={}, flags=flags)
    workspace = create_workspace(tmp_path / "ws")
    run(load_recipe("guide"), tmp_path / "folder", workspace, settings)
    assert load_recipe("guide").steps == UPKEEP
    library = workspace.library()
    vectors = library.meta("encoder")
    parts = from_headings(library, settings)
    library.close()
    for split, its in parts.items():
        write_examples(workspace.path / "examples" / f"{split}.jsonl", its)
    assert len(parts["train"]) > 20
    assert len(parts["dev"]) > 10
    made = run_steps(["tune-retriever"], workspace, settings).made["tune-retriever"]
    verdict = made["verdict"]
    assert verdict["difference"]["high"] < 0
    assert (verdict["accepted"], verdict["forced"]) == (False, False)
    assert "more questions would not help" in verdict["reason"]
    assert choices(workspace) == ()
    library = workspace.library()
    assert library.meta("encoder") == vectors
    library.close()
