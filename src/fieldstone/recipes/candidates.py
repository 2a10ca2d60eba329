"""A candidate's way through the gate: judged, the verdict written down, then carried out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from fieldstone import gate
from fieldstone.atomic import write_json
from fieldstone.evaluate.statistics.bootstrap import Value
from fieldstone.in_use import Choice, Part, base_of, newest, roll_back, take_into_use
from fieldstone.records import Example

if TYPE_CHECKING:
    from fieldstone.models import Encoder
    from fieldstone.recipes.build import Build


def put_to_gate(
    build: Build,
    part: Part,
    id_: str,
    incumbent: str,
    measure: str,
    ours: Sequence[Value],
    theirs: Sequence[Value],
    dev: Sequence[Example],
) -> gate.Verdict:
    """The gate's verdict on values of the same dev questions, `ours` the candidate's."""
    from fieldstone.synthesize.divide import ENOUGH_DOCUMENTS, sections

    passages = {p.id: p for p in build.library.passages()}
    unit = sections(passages.values())
    about = [e.passage_id or next(iter(e.negatives), "") for e in dev]
    documents = [passages[id_].document_id if id_ in passages else id_ for id_ in about]
    # with many documents the dev questions are about some of them only, and speak for those
    few = len({p.document_id for p in passages.values()}) < ENOUGH_DOCUMENTS
    finer = [unit.get(id_, id_) for id_ in about] if few else None
    name = f"models/{part}/{id_}"
    return gate.judge(
        part, name, incumbent, measure, ours, theirs, documents,
        finer=finer, force=build.force, seed=build.settings.seed,
    )  # fmt: skip


def settle(
    build: Build, verdict: gate.Verdict, id_: str, facts: Mapping[str, Any], encoder: Encoder | None = None
) -> dict[str, Any]:
    """Write the verdict down, then do what it says; a kill in between is made good by the next run."""
    folder = build.workspace.path / "models" / verdict.part / id_
    said = {"verdict": gate.as_json(verdict), **facts}
    if tracker := build.settings.report_to:
        from fieldstone.recipes.trackers import tell_tracker

        said["tracker"] = tell_tracker(tracker, build.workspace.path, verdict.candidate)
    write_json(folder / "verdict.json", {**said, "settled": False})
    _carry_out(build, verdict, id_, encoder)
    write_json(folder / "verdict.json", {**said, "settled": True})
    return said


def kept_verdict(build: Build, part: Part, id_: str, judged: str) -> dict[str, Any] | None:
    """What an earlier run found of the same candidate, carried out if it was killed before that.

    None where it was `judged` by other questions, with another search or beside another retriever.
    """
    path = build.workspace.path / "models" / part / id_ / "verdict.json"
    try:
        kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if kept.get("judged") != judged:
        return None
    verdict = gate.from_json(kept["verdict"])
    if build.force and not verdict.accepted:
        return None
    if not kept.pop("settled", False):
        encoder = build.load_encoder(str(path.parent)) if part == "retriever" else None
        _carry_out(build, verdict, id_, encoder)
        write_json(path, {**kept, "settled": True})
    return kept


def _carry_out(build: Build, verdict: gate.Verdict, id_: str, encoder: Encoder | None) -> None:
    from fieldstone.search.embed import embed_beside

    part, name = verdict.part, f"models/{verdict.part}/{id_}"
    current = newest(build.workspace, part)
    if current is not None and current.name == name and not verdict.accepted:
        roll_back(build.workspace, part)  # it won once, and does not against other questions
    if encoder is not None:
        base = build.load_encoder(build.settings.models.encoder)
        chosen = encoder if verdict.accepted else build.load_encoder(build.in_use(part))
        # documents may have come since a kill
        embed_beside(build.library, chosen, build.progress, build.spread)
        build.library.use_encoder(chosen.fingerprint, keep=(base.fingerprint,))
    if verdict.accepted and (current is None or current.name != name):
        base_name = base_of(build.settings, part)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        take_into_use(build.workspace, Choice(part, name, base_name, now, verdict.reason, verdict.forced))
    build.reopen()


def verdicts_of(build: Build) -> list[dict[str, Any]]:
    """The verdicts of this build's steps, in order."""
    return [made["verdict"] for made in build.made.values() if "verdict" in made]
