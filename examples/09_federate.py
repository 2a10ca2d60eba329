"""Three sites on this machine tune one map on the questions' vectors together, each on documents of its own.

    python examples/09_federate.py

The workspace is that of 02_search.py, its questions are those of 05_synthesize.py and ours; what is not there
is made. A second run shows what the first has left. So few questions teach little, and each site's gate finds
that out; docs/results.md tells of a federation that learns from thousands.
"""

from pathlib import Path

from fieldstone import (
    choose_settings,
    create_workspace,
    load_recipe,
    read_examples,
    read_questions,
    run_steps,
)
from fieldstone.federate.simulate import simulate
from fieldstone.recipes import run

HERE = Path(__file__).parent
WRITTEN = ("synthesize.passages=20", "synthesize.dev=0.45")
MAP = ("retriever.method=adapter", "retriever.towers=query", "retriever.negatives=0", "retriever.batch=8")
ROUNDS = ("federate.rounds=3", "federate.personal=false")

workspace = create_workspace(Path("handbook"))
settings = choose_settings("guide", workspace.stored_settings(), flags=WRITTEN)
run(load_recipe("guide"), HERE / "harbour", workspace, settings)
run_steps(["synthesize"], workspace, settings, teach=read_questions(HERE / "harbour-questions.jsonl"))

settings = choose_settings("guide", workspace.stored_settings(), flags=MAP + ROUNDS)
outcome, sites = simulate(workspace, settings, workspace.path / "federation" / "example", 3)

for name, site in sites.items():
    folder, files = site.workspace.path / "examples", site.workspace.library().files()
    asked = (read_examples(folder / f"{split}.jsonl") for split in ("train", "dev"))
    learnt, deciding = (sum(e.passage_id is not None for e in its) for its in asked)
    print(f"{name}: {len(files)} files, {learnt} questions to learn from, {deciding} to decide by")
for done in outcome.rounds:
    ways = f"{done.sent:,} bytes to {len(done.sites)} sites, {done.received:,} back"
    print(f"round {done.number}: {ways}; the map moved by {done.length:.2f}")
if found := outcome.measured:
    change = f"{found.difference.value:+.3f} ({found.difference.low:+.3f} to {found.difference.high:+.3f})"
    print(f"MRR@10 at all sites: {found.untuned.value:.3f} untuned, {found.tuned.value:.3f} tuned, {change}")
for name, site in sites.items():
    print(f"{name}: {site.verdicts[0]['verdict']['reason']}")
