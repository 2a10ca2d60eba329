"""`fieldstone doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fieldstone.cli.options import Json

if TYPE_CHECKING:
    from fieldstone.doctor import Checkup


def doctor(json: Json = False) -> None:
    """Show what this machine has and what fits on it.

    Device, threads, memory, models, missing packages, and how large a model may be.
    """
    from dataclasses import asdict

    from fieldstone.cli.output import show_json
    from fieldstone.cli.progress import waiting
    from fieldstone.doctor import examine
    from fieldstone.settings import resolve_settings

    with waiting("looking …"):
        checkup = examine(resolve_settings().models)
    if json:
        show_json(asdict(checkup))
    else:
        _render(checkup)


def _render(checkup: Checkup) -> None:
    from rich.text import Text

    from fieldstone.cli.output import count, show, size

    torch = f"torch {checkup.torch}" if checkup.torch else "no torch"
    show(f"Fieldstone {checkup.fieldstone}, Python {checkup.python}, {torch}, {checkup.system}", style="bold")
    show(f"device     {checkup.device.name}: {checkup.device.why}")
    on = f"{count(checkup.threads, 'thread')} on {count(checkup.cores, 'core')}"
    show(f"compute    {on}, {checkup.dtype or 'no torch'}")
    free = checkup.memory.available
    left = "" if free is None else f"{size(free)} free of "
    show(f"memory     {left}{size(checkup.memory.total)}")
    show()
    show("Models", style="bold")
    for model in checkup.models:
        state = (model.state, "green" if model.ready else "yellow")
        show(Text.assemble(f"{model.name:<17} ", state), indent=2)
        if model.place:
            show(model.place, indent=4, style="dim")
    show()
    show("Packages", style="bold")
    show(f"{checkup.packages - len(checkup.missing)} of {checkup.packages} are installed", indent=2)
    for missing in checkup.missing:
        kind = "optional" if missing.extra else "needed"
        line = (f"{kind}; type: {missing.install}", "yellow")
        show(Text.assemble(f"{missing.package:<17} ", line), indent=2)
    show()
    have = checkup.memory.total if free is None else free
    show(f"What fits in {size(have)} (roughly; in brackets what does not)", style="bold")
    titles = ("run float32", "run bfloat16", "tune float32", "tune bfloat16")
    show(f"{'parameters':>10}" + "".join(f"{title:>16}" for title in titles), indent=2)
    for need in checkup.needs:
        row = Text(f"{need.billions:>8g} B")
        for bytes_ in (need.run_fp32, need.run_bf16, need.tune_fp32, need.tune_bf16):
            fits = bytes_ <= have
            text = f"{bytes_ / 1e9:,.1f} GB" if fits else f"({bytes_ / 1e9:,.0f} GB)"
            row.append(f"{text:>16}", "" if fits else "dim")
        show(row, indent=2)
