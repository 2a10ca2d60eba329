"""Which examples are for training, which for deciding, which for the report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from fieldstone.records import Passage, fingerprint
from fieldstone.settings import SynthesizeSettings

ENOUGH_DOCUMENTS = 40
"""With so many documents the division is by document: a seventh of them are still enough to judge by."""

BLOCK = 6
"""Passages of a section where a document has no headings."""


def sections(passages: Iterable[Passage]) -> dict[str, str]:
    """Passage id -> the section it belongs to: what stands under one top heading, at most a few passages."""
    found: dict[str, str] = {}
    counts: dict[tuple[str, str], int] = {}
    for passage in passages:
        heading = passage.headings[0] if passage.headings else ""
        place = counts[passage.document_id, heading] = counts.get((passage.document_id, heading), -1) + 1
        found[passage.id] = fingerprint(passage.document_id, heading, place // BLOCK)
    return found


def divide(passages: Iterable[Passage], settings: SynthesizeSettings) -> Mapping[str, str]:
    """Passage id -> train, dev or test: by document, or by section where there are few documents.

    By fingerprint, so that what is added later moves nothing from one side to the other, but for the one time
    that the documents become `ENOUGH_DOCUMENTS`; and whatever the seed, so that several can be compared.
    """
    passages = list(passages)
    many = len({passage.document_id for passage in passages}) >= ENOUGH_DOCUMENTS
    units = {p.id: p.document_id for p in passages} if many else sections(passages)
    sides = {unit: _side(unit, settings) for unit in set(units.values())}
    return {id_: sides[unit] for id_, unit in units.items()}


def _side(unit: str, settings: SynthesizeSettings) -> str:
    place = int(fingerprint("side", 0, unit), 16) / 2**64
    if place < settings.dev:
        return "dev"
    return "test" if place < settings.dev + settings.test else "train"
