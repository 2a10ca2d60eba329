"""Sites that do sums in the place of tuning, in this process or, run as a program, behind Flower."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from fieldstone.federate.messages import Reply
from fieldstone.settings import resolve_settings

FLAGS = (
    "models.encoder=fake:words",
    "retriever.method=adapter",
    "retriever.towers=query",
    "federate.rounds=3",
    "federate.deadline=0.1",
)


def settings(*flags):
    return resolve_settings(environment={}, flags=[*FLAGS, *flags])


class Toy:
    """A site that draws all weights towards its own number, half the way; `questions` say how it counts."""

    def __init__(self, aim, questions=1, **odd):
        self.aim, self.questions, self.odd, self.asked = aim, questions, odd, []

    def answer(self, request):
        self.asked.append((request.asked, request.round))
        if self.odd.get("killed_in") == (request.asked, request.round):
            raise KeyboardInterrupt
        if request.asked in self.odd.get("silent", ()) or request.round in self.odd.get("late", ()):
            return None
        if request.asked == "join":
            return self.odd.get("join", Reply(figures={"questions": self.questions}))
        if request.asked == "train":
            change = {n: (0.5 * (self.aim - x)).astype(np.float32) for n, x in request.weights.items()}
            return self.odd.get("train", lambda its: its)(
                Reply(change, {"questions": self.questions, "loss": 1.0})
            )
        if request.asked == "evaluate":
            return Reply(sums=(2.0, 1.5, 1.0, 1.0, 0.5, 0.25))
        return Reply(figures={"taken": 1.0})


class Here:
    """The toys by name."""

    def __init__(self, **toys):
        self.toys = toys

    def present(self):
        return list(self.toys)

    def ask(self, requests, seconds):
        replies = {name: self.toys[name].answer(request) for name, request in requests.items()}
        return {name: reply for name, reply in replies.items() if reply is not None}

    def ask_for_sum(self, requests, seconds):
        replies = self.ask(requests, seconds)
        names = list(replies)
        return {
            n: sum(replies[s].change[n] for s in names) / len(names) for n in replies[names[0]].change
        }, names


def say(*told):
    """One line on standard output."""
    sys.stdout.write(" ".join(map(str, told)) + "\n")


def main(kind, address, folder, *rest):
    """`site ADDRESS FOLDER AIM QUESTIONS [AUTHORITY KEY]`, or `run ADDRESS FOLDER [--safe DIR] SETTINGS`."""
    from fieldstone.federate.coordinator import federate
    from fieldstone.federate.flower import Link, attend, coordinating

    folder = Path(folder)
    if kind == "site":
        aim, questions, *safe = rest
        toy = Toy(float(aim), float(questions))

        def answer(request):
            say(request.asked, request.round)
            return toy.answer(request)

        link = Link(address, Path(safe[0]), site_key=Path(safe[1])) if safe else Link(address)
        attend(link, answer, folder, lambda: "done" if ("finish", 2) in toy.asked else "going")
        return
    keys = []
    link = Link(address)
    if rest[0] == "--safe":
        place, rest = Path(rest[1]), rest[2:]
        link = Link(address, place / "ca.pem", place / "server.pem", place / "server.key")
        keys = sorted(place.glob("site-?.pub"))
    with coordinating(link, folder, keys) as sites:
        federate(sites, settings(*rest), folder, say)


if __name__ == "__main__":
    main(*sys.argv[1:])
