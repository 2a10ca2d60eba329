"""The coordinator: asks sites to tune, makes one of what they send, and keeps every round.

It knows sites by name and by what they answer, never how the answers travel: `Sites` is a link to processes
elsewhere (`flower`) or to workspaces here (`simulate`). Killed, it goes on with the round that was under way.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from pydantic import TypeAdapter

from fieldstone.atomic import write_json
from fieldstone.errors import FederationError
from fieldstone.federate import lora, parts
from fieldstone.federate.aggregate import (
    Array,
    Arrays,
    Moments,
    Update,
    norm,
    shares_of,
    sift,
    step,
    together,
)
from fieldstone.federate.evaluation import Evaluated, evaluated
from fieldstone.federate.messages import (
    PROBLEMS,
    Asked,
    Plan,
    Reply,
    Request,
    read_weights,
    size,
    write_weights,
)
from fieldstone.federate.privacy import epsilon, multiplier, noise_length
from fieldstone.progress import Progress, silent
from fieldstone.records import fingerprint
from fieldstone.settings import Settings

POLL = 0.2
"""Seconds between two looks at which sites are there."""


class Sites(Protocol):
    """The way to the sites."""

    def present(self) -> Sequence[str]:
        """The names of the sites that can be asked now."""
        ...

    def ask(self, requests: Mapping[str, Request], seconds: float) -> Mapping[str, Reply]:
        """Ask each of these sites; the replies that came in time."""
        ...

    def ask_for_sum(self, requests: Mapping[str, Request], seconds: float) -> tuple[Arrays, list[str]] | None:
        """Like `ask` for their changes, of which nobody learns more than the mean; and whose it is."""
        ...


@dataclass(frozen=True, slots=True)
class Round:
    """What became of a round: whose updates made it, who was left out and why, and what it cost.

    `length` is that of the update, `sent` and `received` count bytes of weights, `epsilon` what has been
    spent until now and `noise` how long the noise is in it, an update's greatest length being 1 (both None
    without noise). `stacking` is how far the adapters are from the mean of the sites'
    products, as a share of it; None where there are no low-rank adapters or single updates are not seen.
    """

    number: int
    sites: Mapping[str, float]
    left_out: Mapping[str, str]
    length: float
    sent: int
    received: int
    seconds: float
    epsilon: float | None = None
    stacking: float | None = None
    noise: float | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """All rounds, the measures over all sites, what each site's gate said, who was turned away and why."""

    rounds: Sequence[Round]
    measured: Evaluated | None
    finished: Mapping[str, Mapping[str, float]]
    turned_away: Mapping[str, str]
    weights: Path


def federate(sites: Sites, settings: Settings, folder: Path, progress: Progress = silent) -> Outcome:
    """Run the rounds of the settings over these sites, kept in `folder`, or go on with those kept there.

    Once all is done, it returns the same at once.
    Raises FederationError where a round has fewer sites than it needs, and SettingsError for what cannot be
    federated; what was done until then stays.
    """
    parts.kind_of(settings)
    plan = _plan(settings, folder)
    if (done_before := folder / "outcome.json").exists():
        return TypeAdapter(Outcome).validate_json(done_before.read_bytes())
    how, talk = plan.federate, _Talk(sites, plan)
    rounds, weights, moments = _kept(folder, settings)
    progress("federate", len(rounds), how.rounds, "rounds")
    talk.gather(how.sites or how.fewest)
    for number in range(len(rounds) + 1, how.rounds + 1):
        began = time.monotonic()
        requests = talk.requests("train", number, weights)
        changed, made = _secure(talk, requests, weights) if how.secure else _open(talk, requests, weights)
        before = weights
        weights, moments = step(before, changed, moments, how)
        multiple = multiplier(how.epsilon, how.delta, how.rounds)
        spent = epsilon([multiple] * number, how.delta)
        numbers = sum(array.size for array in before.values())
        noise = noise_length(multiple, numbers, len(made.counts), how.fewest if how.secure else 1)
        done = Round(
            number, made.counts, made.left_out, norm(changed), len(requests) * size(before),
            len(made.counts) * size(before), round(time.monotonic() - began, 3),
            spent if how.epsilon else None, made.stacking, noise if how.epsilon else None,
        )  # fmt: skip
        _keep(folder, done, weights, moments)
        rounds.append(done)
        progress("federate", number, how.rounds, "rounds")
    last = how.rounds
    talk.gather(1)
    replies = talk.ask("evaluate", last, weights)
    measured = evaluated((reply.sums for reply in replies.values()), plan.seed)
    finished = {name: dict(reply.figures) for name, reply in talk.ask("finish", last, weights).items()}
    outcome = Outcome(rounds, measured, finished, talk.left_out, _file(folder, last).resolve())
    write_json(done_before, TypeAdapter(Outcome).dump_python(outcome, mode="json"))
    return outcome


@dataclass(slots=True)
class _Made:
    """Whose updates one was made of, and how much each counted; who was left out and why."""

    counts: dict[str, float]
    left_out: dict[str, str]
    stacking: float | None = None


def _open(talk: _Talk, requests: Mapping[str, Request], weights: Arrays) -> tuple[dict[str, Array], _Made]:
    """One update of many, each of which is looked at."""
    how = talk.plan.federate
    replies = talk.sites.ask(requests, how.deadline)
    left_out = {name: f"no answer in {how.deadline:g} s" for name in requests if name not in replies}
    updates = []
    for name, reply in replies.items():
        if reply.problem:
            left_out[name] = PROBLEMS.get(reply.problem, "it answered what no site answers")
        else:
            updates.append(
                Update(name, reply.change, 1.0 if how.epsilon else reply.figures.get("questions", 0))
            )
    updates, refused = sift(updates, weights, how.longest)
    left_out |= refused
    talk.enough(len(updates), "update", left_out)
    changed, shares = together(updates, how), shares_of(updates)
    made = _Made({its.site: its.weight for its in updates}, left_out)
    if list(lora.pairs(weights)) and how.average == "mean":
        whole = [{name: x + its.change[name] for name, x in weights.items()} for its in updates]
        joined: Arrays = {name: x + changed[name] for name, x in weights.items()}
        if how.adapters == "stacked":
            joined = lora.stacked(whole, shares, talk.plan.generator.rank)
            changed = {name: joined[name] - x for name, x in weights.items()}
        made.stacking = lora.error(whole, shares, joined)
    return changed, made


def _secure(talk: _Talk, requests: Mapping[str, Request], weights: Arrays) -> tuple[dict[str, Array], _Made]:
    """One update of many, none of which is seen.

    A site that does not answer at all would stop the sum, where one that falls out later does not: so they
    are asked before, and it is tried twice.
    """
    how, found = talk.plan.federate, None
    for _ in range(2):
        here = talk.sites.ask({name: Request("join", talk.plan) for name in requests}, how.deadline)
        found = (
            talk.sites.ask_for_sum({name: requests[name] for name in here}, how.deadline) if here else None
        )
        if found:
            break
    changed, names = found if found else ({}, [])
    left_out = {name: "not in the sum" for name in requests if name not in names}
    talk.enough(len(names), "share of the sum", left_out)
    mean = {name: changed[name] for name in weights}
    _, refused = sift([Update("the sum", mean, 1.0)], weights, 0)
    if refused:
        raise FederationError(f"the sum of the updates cannot be used: {refused['the sum']}; start again")
    return mean, _Made(dict.fromkeys(names, 1.0), left_out)


class _Talk:
    """The conversation with the sites of a run: who has joined, and who was turned away and why."""

    def __init__(self, sites: Sites, plan: Plan) -> None:
        self.sites, self.plan = sites, plan
        self.joined: set[str] = set()
        self.left_out: dict[str, str] = {}

    def gather(self, many: int) -> None:
        """Wait until so many sites have joined, or the deadline is past and there are enough."""
        until = time.monotonic() + self.plan.federate.deadline
        while True:
            self._join()
            if len(self.joined) >= many or time.monotonic() > until:
                break
            if len(self.left_out) + len(self.joined) >= many > len(self.joined):
                break  # all are here, and some do not fit
            time.sleep(POLL)
        self.enough(len(self.joined), "site", self.left_out)

    def enough(self, many: int, what: str, left_out: Mapping[str, str]) -> None:
        """Raises FederationError for fewer than the settings ask for."""
        fewest = self.plan.federate.fewest
        if many < fewest:
            why = "; ".join(f"{name}: {reason}" for name, reason in left_out.items()) or "none is connected"
            raise FederationError(
                f"{many} {what}{'' if many == 1 else 's'}, and federate.fewest = {fewest} ({why}); mend that "
                "and type the same command: it goes on with the round that was under way"
            )

    def requests(self, asked: Asked, number: int, weights: Arrays) -> dict[str, Request]:
        """The same for every site that is there and has joined; new ones join first."""
        self._join()
        here = [name for name in self.sites.present() if name in self.joined]
        return {name: Request(asked, self.plan, number, weights) for name in here}

    def ask(self, asked: Asked, number: int, weights: Arrays) -> dict[str, Reply]:
        """The replies without a problem."""
        replies = self.sites.ask(self.requests(asked, number, weights), self.plan.federate.deadline)
        return {name: reply for name, reply in replies.items() if not reply.problem}

    def _join(self) -> None:
        new = [name for name in self.sites.present() if name not in self.joined | set(self.left_out)]
        replies = self.sites.ask(
            {name: Request("join", self.plan) for name in new}, self.plan.federate.deadline
        )
        for name, reply in replies.items():
            if reply.problem == "other-base":
                self.left_out[name] = (
                    f"its base {self.plan.federate.part} has the fingerprint {reply.base}, the "
                    f"coordinator's {self.plan.base}"
                )
            elif reply.problem:
                self.left_out[name] = PROBLEMS.get(reply.problem, "it answered what no site answers")
            else:
                self.joined.add(name)


def _plan(settings: Settings, folder: Path) -> Plan:
    """What is asked of the sites. Raises FederationError where the folder holds another federation."""
    base = parts.base_identity(settings)
    said = {
        "base": base, "seed": settings.seed, "federate": settings.federate,
        "retriever": settings.retriever, "generator": settings.generator,
    }  # fmt: skip
    # how long and for whom to wait may change from one start to the next, but where the noise goes by it
    wait = {"sites": 0, "deadline": 1.0, "personal": True} | (
        {} if settings.federate.epsilon else {"fewest": 1}
    )
    how = settings.federate.model_copy(update=wait)
    run = fingerprint(base, settings.seed, how, settings.retriever, settings.generator)
    plan = Plan(run=run, **said)
    note = folder / "plan.json"
    try:
        known = json.loads(note.read_text(encoding="utf-8"))["run"]
    except (OSError, ValueError, KeyError, TypeError):
        known = plan.run
        write_json(note, plan.model_dump(mode="json"))
    if known != plan.run:
        raise FederationError(
            f"{folder} holds the rounds of another federation, with other settings or another base; name a "
            "new folder, or give the settings that it was begun with"
        )
    return plan


def _file(folder: Path, number: int) -> Path:
    return folder / f"round-{number:04}.safetensors"


def _kept(folder: Path, settings: Settings) -> tuple[list[Round], dict[str, Array], Moments]:
    """The rounds that are done, with the weights and moments after the last."""
    rounds: list[Round] = []
    while (note := _file(folder, len(rounds) + 1).with_suffix(".json")).exists():
        rounds.append(Round(**json.loads(note.read_text(encoding="utf-8"))))
    last = _file(folder, len(rounds))
    if not last.exists():
        write_weights(last, parts.start(settings))
    moments = Moments()
    if (kept := last.with_name(f"moments-{len(rounds):04}.safetensors")).exists():
        arrays = read_weights(kept)
        moments = Moments(*({n[2:]: a for n, a in arrays.items() if n[0] == which} for which in "12"))
    return rounds, read_weights(last), moments


def _keep(folder: Path, done: Round, weights: Arrays, moments: Moments) -> None:
    """Weights first and the note last: a round without its note is done again."""
    write_weights(_file(folder, done.number), weights)
    if moments.first:
        both = {
            f"{which} {name}": array
            for which, arrays in (("1", moments.first), ("2", moments.second))
            for name, array in arrays.items()
        }
        write_weights(folder / f"moments-{done.number:04}.safetensors", both)
    write_json(_file(folder, done.number).with_suffix(".json"), asdict(done))
