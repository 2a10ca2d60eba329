"""`fieldstone status`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fieldstone.cli.options import Json, WorkspacePath

if TYPE_CHECKING:
    from fieldstone.in_use import Part
    from fieldstone.settings import Settings
    from fieldstone.workspace import Workspace

STEPS_SHOWN = 7


def status(
    workspace: WorkspacePath,
    files: Annotated[
        bool, typer.Option("--files", help="List every file, with the reason why any is left out.")
    ] = False,
    json: Json = False,
) -> None:
    """Show what a workspace holds and what was done to it last."""
    from fieldstone.cli.options import settings_of
    from fieldstone.cli.output import show_json
    from fieldstone.workspace import open_workspace

    opened = open_workspace(workspace)
    facts = gather(opened, settings_of(opened), files)
    if json:
        show_json(facts)
    else:
        _render(facts)


def gather(workspace: Workspace, settings: Settings, files: bool) -> dict[str, Any]:
    """What there is to say of a workspace, as JSON has it."""
    from fieldstone.examples import SPLITS, read_examples
    from fieldstone.in_use import SETTING_OF, base_of, newest

    library = workspace.library()
    rows, roots, counts = library.files(), library.roots(), library.counts()
    library.close()
    facts: dict[str, Any] = {
        "workspace": str(workspace.path),
        "recipe": settings.recipe,
        "roots": roots,
        **asdict(counts),
        "encoder": settings.models.encoder,
        "reranker": settings.models.reranker,
        "generator": settings.models.generator,
        "size": settings.size,
        "bases": {part: base_of(settings, part) for part in SETTING_OF},
        "tuned": {part: asdict(choice) for part in SETTING_OF if (choice := newest(workspace, part))},
        "examples": {
            split: len(read_examples(workspace.path / "examples" / f"{split}.jsonl")) for split in SPLITS
        },
        "bytes": sum(path.stat().st_size for path in workspace.path.rglob("*") if path.is_file()),
        "not_read": {source: row.reason for source, row in rows.items() if row.reason},
        "read_in_part": {source: list(row.warnings) for source, row in rows.items() if row.warnings},
        "journal": list(workspace.read_journal())[-STEPS_SHOWN:],
    }
    if files:
        facts["sources"] = {source: row.size for source, row in rows.items()}
        facts["skipped"] = _skipped(roots, settings)
    return facts


def _skipped(roots: Mapping[str, str], settings: Settings) -> dict[str, str]:
    """What stands in the folders now and is not read, with the reason."""
    from fieldstone.read.find import find_files

    limit = int(settings.read.max_megabytes * 2**20)
    return {
        f"{label}/{found.source}" if label else found.source: found.skipped
        for label, root in roots.items()
        if Path(root).is_dir()
        for found in find_files(root, settings.read.exclude, limit)
        if found.skipped
    }


def _render(facts: Mapping[str, Any]) -> None:
    from fieldstone.cli.output import count, show, show_reasons, size
    from fieldstone.read.resources import label_of

    show(facts["workspace"], style="bold")
    read = facts["files"] - facts["unread"]
    show(f"files      {read:,} read, {facts['unread']:,} not; {count(facts['documents'], 'document')}")
    show(f"passages   {facts['passages']:,}, {facts['embedded']:,} of them with a vector")
    if facts["unsplit"] or facts["embedded"] < facts["passages"]:
        show("           the build has not finished; type it again", style="yellow")
    show(f"models     encoder {facts['encoder']}, generator {facts['generator']}")
    for part, choice in facts["tuned"].items():
        _show_choice(part, choice, facts["bases"][part])
    if any(facts["examples"].values()):
        counts = (f"{number:,} {split}" for split, number in facts["examples"].items())
        show(f"examples   {', '.join(counts)}")
    show(f"recipe     {facts['recipe']}" + (f", size {facts['size']}" if facts["size"] else ""))
    for label, root in facts["roots"].items():
        if label == label_of(root):
            show(f"MCP server {root}")
        else:
            show(f"folder     {root}" + (f" (as {label}/)" if label else ""))
    show(f"on disk    {size(facts['bytes'])}")
    listed = "sources" in facts
    if listed:
        show()
        show("Files", style="bold")
        for source, bytes_ in facts["sources"].items():
            if source not in facts["not_read"]:
                show(f"{size(bytes_):>9}  {source}", indent=2)
    more = "" if listed else f"fieldstone status {quote(facts['workspace'])} --files"
    show_reasons("Not read", list(facts["not_read"].items()), more)
    in_part = [(source, warning) for source, its in facts["read_in_part"].items() for warning in its]
    show_reasons("Read in part", in_part, more)
    show_reasons("Skipped", list(facts.get("skipped", {}).items()), style="default")
    if facts["journal"]:
        show()
        show("Last steps", style="bold")
    for line in facts["journal"]:
        done = ", ".join(f"{k} {v:,}" for k, v in line.items() if isinstance(v, int) and v)
        step, seconds = line.get("step", ""), line.get("seconds", 0)
        when = str(line.get("time", ""))[:16].replace("T", " ")
        show(f"{when}  {step:<14} {seconds:>8,.1f} s  {done}", indent=2)


def _show_choice(part: Part, choice: Mapping[str, Any], base: str) -> None:
    """A tuned part: since when it is in use, why, and whether it is at all."""
    from fieldstone.cli.output import one_line, show
    from fieldstone.evaluate.report.findings import why

    reason = one_line(why({**choice, "accepted": True}))
    forced = ", forced into use" if choice["forced"] else ""
    show(f"tuned      {part} {choice['name']}, {choice['date'][:10]}{forced}: {reason}")
    if choice["base"] != base:
        show(f"not in use: it stands in for {choice['base']}, not {base}", indent=11, style="yellow")
