"""What a tuned generator costs at answer time, against its base: the same questions, turn by turn.

The adapters are merged into plain weights, so a token costs the same; what differs is how many are written.
Both read the same passages, found by the untuned search. One round warms up and is not counted.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from fieldstone.answer import System, read
from fieldstone.evaluate.questions import read_questions
from fieldstone.recipes import choose_settings
from fieldstone.recipes.build import Build
from fieldstone.search.embed import embed_beside
from fieldstone.workspace import open_workspace
from machine import begin, spread, table

BATCH = 16


def main() -> None:
    """Answer in turns, print seconds a question and the ratio of each round."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workspace", type=Path)
    parser.add_argument("questions", type=Path)
    parser.add_argument("tuned", help="folder of the tuned generator")
    parser.add_argument("--count", type=int, default=32, help="questions a round")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = begin(parser)
    workspace = open_workspace(arguments.workspace)
    settings = choose_settings("fieldstone", {}, flags=[f"models.threads={arguments.threads}"])
    build = Build(workspace, (), settings, workspace.library())
    encoder = build.load_encoder(settings.models.encoder)
    embed_beside(build.library, encoder)
    systems = {}
    for name, generator in (("base", build.generator), ("tuned", build.load_generator(arguments.tuned))):
        systems[name] = System(build.open_index(encoder, generator=generator), generator, settings)
    questions = [q.question for q in read_questions(arguments.questions)]
    questions = questions[:: max(1, len(questions) // arguments.count)][: arguments.count]
    seconds: dict[str, list[float]] = {name: [] for name in systems}
    for _ in range(arguments.rounds + 1):
        for name, system in systems.items():
            began = time.perf_counter()
            for start in range(0, len(questions), BATCH):
                system.generator.forget()
                read(system, questions[start : start + BATCH])
            seconds[name].append((time.perf_counter() - began) / len(questions))
    base, tuned = seconds["base"][1:], seconds["tuned"][1:]
    ratios = [ours / theirs for ours, theirs in zip(tuned, base, strict=True)]
    rows = [["base", spread(base, 3)], ["tuned", spread(tuned, 3)], ["tuned / base", spread(ratios, 3)]]
    table([f"{len(questions)} questions x {arguments.rounds} rounds", "seconds a question"], rows)


if __name__ == "__main__":
    main()
