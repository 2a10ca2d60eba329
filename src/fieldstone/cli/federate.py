"""`fieldstone federate simulate`, `run` and `join`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fieldstone.cli.options import Json, Quiet, Set, WorkspacePath

if TYPE_CHECKING:
    from fieldstone.federate.coordinator import Outcome
    from fieldstone.federate.flower import Link

federate = typer.Typer(
    help="Tune one model at many sites, each on documents of its own, which stay there.",
    no_args_is_help=True,
)

Authority = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Certificate of the authority that vouches for the coordinator.",
        show_default=False,
    ),
]
Insecure = Annotated[
    bool, typer.Option("--insecure", help="Without certificates and keys, for trials on one machine.")
]


@federate.command()
def simulate(
    ctx: typer.Context,
    workspace: WorkspacePath,
    sites: Annotated[int, typer.Option(min=2, help="How many sites the documents are divided among.")] = 3,
    skewed: Annotated[bool, typer.Option("--skewed", help="Divide them by topic, not by chance.")] = False,
    into: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Without it: one below WORKSPACE/federation.", show_default=False
        ),
    ] = None,
    changes: Set = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Divide a workspace among sites on this machine, and tune as they would.

    Each site gets a workspace of its own with its share of the documents and of the questions about them;
    what is said in settings of the workspace under federate counts. The workspace itself is not changed.
    """
    from fieldstone.cli import progress
    from fieldstone.cli.options import settings_of
    from fieldstone.errors import WorkspaceError
    from fieldstone.examples import read_examples
    from fieldstone.federate.simulate import simulate as run_all
    from fieldstone.workspace import open_workspace

    opened = open_workspace(workspace)
    settings = settings_of(opened, changes)
    if not read_examples(opened.path / "examples" / "train.jsonl"):
        raise WorkspaceError(
            f"{workspace} holds no questions to tune on; type: fieldstone synthesize {workspace}"
        )
    kind = "skewed" if skewed else "even"
    place = into or opened.path / "federation" / f"simulated-{sites}-{kind}"
    with progress.shown(quiet or ctx.obj or json) as told:
        outcome, all_sites = run_all(opened, settings, place, sites, skewed=skewed, progress=told)
    verdicts = {name: [its["verdict"]["reason"] for its in site.verdicts] for name, site in all_sites.items()}
    _show(outcome, verdicts, json)


@federate.command()
def run(
    ctx: typer.Context,
    folder: Annotated[
        Path,
        typer.Argument(metavar="FOLDER", help="Where the coordinator keeps its rounds.", show_default=False),
    ],
    address: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where sites connect to.")
    ] = "0.0.0.0:9092",
    authority: Authority = None,
    certificate: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The coordinator's certificate.", show_default=False)
    ] = None,
    certificate_key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Its private key.", show_default=False)
    ] = None,
    site: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Public key of a site that may connect. May be given again.",
            show_default=False,
        ),
    ] = None,
    insecure: Insecure = False,
    changes: Set = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Run a federation: wait for the sites, ask them to tune, make one of what they send.

    Stopped or killed, the same command goes on with the round that was under way.
    """
    from fieldstone.cli import progress
    from fieldstone.errors import FederationError
    from fieldstone.federate.coordinator import federate as run_all
    from fieldstone.federate.flower import Link, coordinating
    from fieldstone.recipes import choose_settings
    from fieldstone.settings import read_settings_file, write_settings_file

    link = Link(address, authority, certificate, certificate_key)
    _check(link, insecure)
    if not insecure and not (certificate and certificate_key and site):
        raise FederationError(
            "the coordinator needs --certificate, --certificate-key and --site for each site; "
            "docs/federate.md says how they are made"
        )
    file = folder / "fieldstone.toml"
    settings = choose_settings(None, read_settings_file(file) if file.exists() else {}, flags=changes or ())
    folder.mkdir(parents=True, exist_ok=True)
    write_settings_file(file, settings)
    with progress.shown(quiet or ctx.obj or json) as told, coordinating(link, folder, site or ()) as sites:
        outcome = run_all(sites, settings, folder, told)
    _show(outcome, {}, json)


@federate.command()
def join(
    ctx: typer.Context,
    workspace: WorkspacePath,
    address: Annotated[
        str, typer.Argument(metavar="HOST:PORT", help="The coordinator's address.", show_default=False)
    ],
    authority: Authority = None,
    key: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="This site's private key, by which it is known.", show_default=False
        ),
    ] = None,
    insecure: Insecure = False,
    changes: Set = None,
    quiet: Quiet = False,
) -> None:
    """Take part in a federation with this workspace, until the coordinator has ended it.

    The documents stay here. The global part goes into use if it wins on this workspace's own questions.
    """
    from fieldstone.cli import progress
    from fieldstone.cli.options import settings_of
    from fieldstone.cli.output import err, show
    from fieldstone.errors import FederationError
    from fieldstone.federate.site import Site
    from fieldstone.workspace import open_workspace

    opened = open_workspace(workspace)
    from fieldstone.federate.flower import Link, attend, listening  # only now: it asks for an extra

    link = Link(address, authority, site_key=key)
    _check(link, insecure)
    if not insecure and key is None:
        raise FederationError(
            "a site is known by its key: name it after --key; to make one: ssh-keygen -t ecdsa -b 384 -f site"
        )
    if not (quiet or ctx.obj or listening(address)):
        show(f"nobody answers at {address} yet; this site waits for the coordinator. Ctrl-C ends it", to=err)
    with progress.shown(quiet or ctx.obj) as told:
        site = Site(opened, settings_of(opened, changes), told)
        attend(link, site.answer, opened.path / "federation", lambda: site.state)
    if site.refused:
        raise FederationError(site.refused)
    for said in site.verdicts:
        show(said["verdict"]["reason"])


def _check(link: Link, insecure: bool) -> None:
    from fieldstone.errors import FederationError

    _, colon, port = link.address.rpartition(":")
    if not colon or not port.isdecimal():
        raise FederationError(f"{link.address} is no HOST:PORT; type one such as coordinator.example:9092")
    if not insecure and link.authority is None:
        raise FederationError(
            "without --authority everything would travel in the clear; docs/federate.md says how "
            "certificates are made, and --insecure does without on one machine"
        )


def _show(outcome: Outcome, verdicts: dict[str, list[str]], json: bool) -> None:
    """The rounds, what was measured, and what the sites' gates said."""
    from fieldstone.cli.output import count, show, show_json, size

    if json:
        show_json(_as_json(outcome, verdicts))
        return
    for its in outcome.rounds:
        spent = "" if its.epsilon is None else f", epsilon {its.epsilon:.2f} spent"
        spent += "" if its.noise is None else f", noise {its.noise:.1f} times the longest update"
        far = "" if its.stacking is None else f", {its.stacking:.1%} from the mean of the products"
        show(
            f"round {its.number}: {count(len(its.sites), 'site')}, {size(its.sent)} out and "
            f"{size(its.received)} in, {its.seconds:.0f} s{spent}{far}"
        )
        for name, why in its.left_out.items():
            show(f"{name} was left out: {why}", indent=2, style="yellow")
    for name, why in outcome.turned_away.items():
        show(f"{name} did not take part: {why}", style="yellow")
    if outcome.measured:
        found = outcome.measured
        show(
            f"over all sites' dev questions ({found.difference.n}): {found.untuned.value:.3f} untuned, "
            f"{found.tuned.value:.3f} federated, difference {found.difference.value:+.3f} "
            f"({found.difference.low:+.3f} to {found.difference.high:+.3f})"
        )
    for name, said in outcome.finished.items():
        if "taken" in said:
            own = f", its own from there {_taken(said['own'])}" if "own" in said else ""
            show(f"{name}: the global part {_taken(said['taken'])}{own}")
        for reason in verdicts.get(name, ()):
            show(reason, indent=2, style="dim")
    show(f"The weights: {outcome.weights}", style="dim")


def _taken(said: float) -> str:
    return "taken into use" if said else "turned down"


def _as_json(outcome: Outcome, verdicts: dict[str, list[str]]) -> dict[str, Any]:
    from dataclasses import asdict

    return {**asdict(outcome), "weights": str(outcome.weights), "verdicts": verdicts}
