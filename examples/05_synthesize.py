"""Training questions that the system writes itself: what it kept, what it rejected, and why.

    python examples/05_synthesize.py

The workspace is that of 02_search.py; it is made if it is not there. Twenty passages are asked about, which
takes half a minute; a build asks about more. What was written stands in `handbook/examples`, and a second run
writes nothing anew. So small a writer asks much that nobody would, and not all of it is caught.
"""

import json
from collections import Counter
from pathlib import Path

from fieldstone import choose_settings, create_workspace, load_recipe, read_examples, run_steps
from fieldstone.recipes import run

HARBOUR = Path(__file__).with_name("harbour")

workspace = create_workspace(Path("handbook"))
settings = choose_settings("guide", workspace.stored_settings(), flags=["synthesize.passages=20"])
run(load_recipe("guide"), HARBOUR, workspace, settings)
made = run_steps(["synthesize"], workspace, settings).made["synthesize"]

library, folder = workspace.library(), workspace.path / "examples"
kept = [e for split in ("train", "dev", "test") for e in read_examples(folder / f"{split}.jsonl")]
kept = [e for e in kept if e.origin == "synthetic"]  # 09_federate.py adds questions of people
answered = [e for e in kept if e.answer]
others = [e for e in kept if e.passage_id and not e.answer]
altered = [e for e in kept if e.kind == "unanswerable"]
rejected = [json.loads(line) for line in (folder / "rejected.jsonl").read_text(encoding="utf-8").splitlines()]

print(f"{made['asked']} questions written about {made['passages']} passages")
print(f"\nkept with an answer: {len(answered)}; among them")
for example in answered[::3]:
    passage = library.passages([example.passage_id])[0]
    source = library.document(passage.document_id).source
    print(f"  {example.question}\n    {example.answer!r}, from {source}")
print(f"\nkept without an answer, for the retriever alone: {len(others)}; among them")
for example in others[::5]:
    print(f"  {example.question}\n    {example.made_by['answer']}")
print(f"\nmade unanswerable, a name or number exchanged: {len(altered)}")
for example in altered:
    print(f"  {example.question}")
print(f"\nrejected: {len(rejected)}; for each reason the first")
for reason, number in Counter(row["reason"] for row in rejected).most_common():
    first = next(row["question"] for row in rejected if row["reason"] == reason)
    print(f"  {first}\n    {reason} ({number})")
