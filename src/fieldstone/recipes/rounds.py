"""Further rounds: the generator that won asks anew, and what learns from that must win again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fieldstone.examples import read_examples
from fieldstone.in_use import choices
from fieldstone.records import fingerprint

if TYPE_CHECKING:
    from fieldstone.recipes.build import Build


def tune_again(build: Build) -> dict[str, Any]:
    """Rounds 2 to `synthesize.rounds`, each only where the candidate of the one before is in use.

    The model that won writes new train questions, into `examples/round-N`; the questions of dev and test
    stay, and decide. Each candidate is tuned from where the first was, not from the one before.
    """
    from fieldstone.recipes.tuning import own_examples, tune_generator
    from fieldstone.synthesize import synthesize as write

    settings, own = build.settings, own_examples(build)
    if settings.synthesize.rounds < 2:
        return {}
    last: dict[str, Any] = dict(build.made.get("tune-generator", {}))
    inputs = fingerprint(
        last.get("verdict"), last.get("judged"), _won(build, last), settings.synthesize, settings.generator,
        settings.answer, settings.search, build.passages_mark, *own,
    )  # fmt: skip
    if done := build.done("tune-again", inputs):
        return done
    made: list[dict[str, Any]] = []
    taught = build.examples("train")
    notes = []
    for number in range(2, settings.synthesize.rounds + 1):
        name = _won(build, last)
        if name is None:
            notes.append(f"no round {number}, for the candidate of round {number - 1} is not in use")
            break
        folder = build.workspace.path / "examples" / f"round-{number}"
        asker = build.load_generator(str(build.workspace.path / name))
        asked = write(folder, build.open_index(), asker, settings, own, build.progress, only=("train",))
        del asker  # one copy of the weights less while tuning
        before, taught = taught, read_examples(folder / "train.jsonl")
        if {e.id for e in taught} <= {e.id for e in before}:
            notes.append(f"round {number} asked nothing that round {number - 1} had not asked")
            break
        last = tune_generator(build, taught)
        made.append({"round": number, "model": name, "examples": asked.examples["train"], **last})
    verdicts = {"verdict": last["verdict"]} if made and "verdict" in last else {}
    return {"inputs": inputs, "rounds": made, **verdicts, "notes": notes}


def _won(build: Build, last: Mapping[str, Any]) -> str | None:
    """The candidate of a round, if it was taken into use and not rolled back since."""
    name = last.get("verdict", {}).get("candidate")
    return name if name in [choice.name for choice in choices(build.workspace)] else None
