"""Filters on what is searched: by source, type and date of the document."""

from __future__ import annotations

import re
from dataclasses import dataclass

from fieldstone.errors import SettingsError
from fieldstone.library import Library

_DATE = re.compile(r"\d{4}(-\d{2}(-\d{2})?)?")


@dataclass(frozen=True, slots=True)
class Filter:
    """Documents to search: `source` is a glob such as `tariffs/*`, `type` a suffix such as `pdf`.

    `since` and `until` are ISO dates or beginnings of one (2025, 2025-03), both included.
    """

    source: str | None = None
    type: str | None = None
    since: str | None = None
    until: str | None = None

    def __post_init__(self) -> None:
        for name, value in (("since", self.since), ("until", self.until)):
            if value is not None and not _DATE.fullmatch(value):
                raise SettingsError(f"{name} = {value!r} is no date; write it as 2025, 2025-03 or 2025-03-31")

    def passages(self, library: Library) -> set[str] | None:
        """Ids of the passages it lets through; None when it lets all through."""
        if self == Filter():
            return None
        return library.select(self.source, self.type, self.since, self.until)
