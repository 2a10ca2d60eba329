"""A retriever tuned on the questions about every second document, and tried on those about the others.

    python examples/06_tune_retriever.py

The workspace is that of 02_search.py; it is made if it is not there. What is learnt is a small map on the
questions' vectors; the passages keep theirs. The gate is asked what it would say, and nothing is taken into
use. Intervals are of 95 %, clustered by document.
"""

from pathlib import Path

from fieldstone import choose_settings, create_workspace, load_recipe, open_system, read_questions
from fieldstone.evaluate.run import judge, measure
from fieldstone.gate import judge as ask_gate
from fieldstone.recipes import run
from fieldstone.tune.retriever import Contrast, tune_retriever

HERE = Path(__file__).parent
DENSE = ("search.mode=dense", "search.rerank=none")
MAP = ("retriever.method=adapter", "retriever.towers=query", "retriever.loss=contrastive")

workspace = create_workspace(Path("handbook"))
settings = choose_settings("guide", workspace.stored_settings())
run(load_recipe("guide"), HERE / "harbour", workspace, settings)
settings = choose_settings("guide", workspace.stored_settings(), flags=DENSE + MAP)

before = open_system(workspace, settings)
texts = before.index.library.passage_texts()
questions = [q for q in read_questions(HERE / "harbour-questions.jsonl") if q.answerable]
judged, _ = judge(before.index.library, questions)  # which passages hold the evidence
about = {item.question: min(item.relevant[0]) for item in judged}
taught = sorted({q.source for q in questions})[::2]
lessons = [Contrast(q.question, texts[id_], (), id_) for q, id_ in about.items() if q.source in taught]
others = [item for item in judged if item.question.source not in taught]

folder, base = workspace.path / "models" / "retriever" / "example", settings.models.encoder
tuned = tune_retriever(base, lessons, folder, settings.retriever, seed=settings.seed)
print(f"{len(lessons)} questions learnt in {tuned.seconds:.1f} s, {len(others)} others asked")

models = settings.models.model_copy(update={"encoder": str(folder)})
after = open_system(workspace, settings.model_copy(update={"models": models}))
found = measure({"before": before, "after": after}, others, (), measures=("recall@1", "recall@5", "MRR@10"))
for name, measures in found.systems.items():
    for measured, its in measures.items():
        print(f"{name:6} {measured:8} {its.value:.3f} ({its.low:.3f} to {its.high:.3f})")

ranks = {s: [row["measures"]["MRR@10"] for row in found.rows if row["system"] == s] for s in found.systems}
documents = [item.question.source for item in others]
print(ask_gate("retriever", "the map", base, "MRR@10", ranks["after"], ranks["before"], documents).reason)
