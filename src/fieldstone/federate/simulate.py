"""A federation on one machine: the same coordinator and sites, asked one after another in one process."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fieldstone.errors import SettingsError
from fieldstone.federate.aggregate import Arrays
from fieldstone.federate.coordinator import Outcome, federate
from fieldstone.federate.messages import Reply, Request
from fieldstone.federate.site import Site
from fieldstone.federate.split import divided, part_of
from fieldstone.progress import Progress, silent
from fieldstone.settings import Settings
from fieldstone.workspace import Workspace


class InTurn:
    """Sites in this process, by name; one that takes longer than it may has not answered."""

    def __init__(self, sites: Mapping[str, Site]) -> None:
        self.sites = sites

    def present(self) -> Sequence[str]:
        """All of them."""
        return list(self.sites)

    def ask(self, requests: Mapping[str, Request], seconds: float) -> Mapping[str, Reply]:
        """Each in turn."""
        replies = {}
        for name, request in requests.items():
            began = time.monotonic()
            reply = self.sites[name].answer(request)
            if time.monotonic() - began <= seconds:
                replies[name] = reply
        return replies

    def ask_for_sum(self, requests: Mapping[str, Request], seconds: float) -> tuple[Arrays, list[str]] | None:
        """Nothing is hidden from anybody in one process."""
        del requests, seconds
        raise SettingsError(
            "federate.secure = true needs sites that are processes of their own; set federate.secure = false "
            "to simulate"
        )


def simulate(
    workspace: Workspace,
    settings: Settings,
    into: Path,
    count: int,
    *,
    skewed: bool = False,
    progress: Progress = silent,
) -> tuple[Outcome, Mapping[str, Site]]:
    """Divide a workspace among `count` sites below `into`, and federate them; a second call goes on.

    Raises SettingsError, FederationError, WorkspaceError.
    """
    if settings.federate.secure:
        InTurn({}).ask_for_sum({}, 0)
    library = workspace.library()
    try:
        of_sites = divided(library, count, skewed=skewed, seed=settings.seed)
    finally:
        library.close()
    sites = {}
    for number, sources in enumerate(of_sites, start=1):
        folder = into / f"site-{number}"
        if not folder.exists():
            partial = into / f"site-{number}.partial"
            shutil.rmtree(partial, ignore_errors=True)
            part_of(workspace, sources, partial)
            partial.rename(folder)
        sites[folder.name] = Site(Workspace(folder), settings, progress)
    outcome = federate(InTurn(sites), settings, into / "rounds", progress)
    for site in sites.values():
        site.verdicts = site.verdicts or _said_before(site, 1 + settings.federate.personal)
    return outcome, sites


def _said_before(site: Site, times: int) -> list[Mapping[str, Any]]:
    """What the site's gate said when all was done already."""
    lines = [line for line in site.workspace.read_journal() if line.get("asked") == "finish"]
    return [line for line in lines if "verdict" in line][-times:]
