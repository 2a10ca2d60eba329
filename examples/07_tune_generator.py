"""A generator tuned on the questions about every second document, and asked those about the others.

    python examples/07_tune_generator.py

The workspace is that of 02_search.py; it is made if it is not there. Low-rank adapters learn for half a
minute and are merged into a plain folder; a second run tunes nothing anew. Each question comes with the
passage that holds its answer, so that the search plays no part. Intervals are of 95 %, clustered by document.
"""

from pathlib import Path

from fieldstone import choose_settings, create_workspace, load_generator, load_recipe, read_questions
from fieldstone.evaluate.measures.answering import token_f1
from fieldstone.evaluate.run import judge
from fieldstone.evaluate.statistics.bootstrap import bootstrap_mean, paired_difference
from fieldstone.prompts import one_by_one_prompt, parse_one_by_one
from fieldstone.recipes import run
from fieldstone.tune.generator import Row, tune_generator

HERE = Path(__file__).parent

workspace = create_workspace(Path("handbook"))
settings = choose_settings("guide", workspace.stored_settings())
run(load_recipe("guide"), HERE / "harbour", workspace, settings)

library = workspace.library()
texts = library.passage_texts()
questions = [q for q in read_questions(HERE / "harbour-questions.jsonl") if q.answerable]
judged, _ = judge(library, questions)  # which passages hold the evidence
prompts = {i.question: one_by_one_prompt(texts[min(i.relevant[0])], i.question.question) for i in judged}
taught = sorted({q.source for q in questions})[::2]
rows = [Row(prompts[q], f" {q.answers[0]}") for q in questions if q.source in taught]
others = [q for q in questions if q.source not in taught]

base, folder = settings.models.generator, workspace.path / "models" / "generator" / "example"
how = settings.generator.model_copy(update={"epochs": 1, "batch": 4})
tuned = tune_generator(base, rows, folder, how, dev_score=None, seed=settings.seed)
print(f"{len(rows)} questions learnt in {tuned.seconds:.0f} s, {len(others)} others asked")

asked, right = [prompts[q] for q in others], [f" {q.answers[0]}" for q in others]
said, nats, f1 = [], [], []
for generator in (load_generator(base), load_generator(str(folder))):
    replies = generator.generate(asked, max_tokens=settings.answer.max_tokens, stop=("\n",))
    said.append([parse_one_by_one(reply.text) for reply in replies])
    nats.append([(score.logprob, score.tokens) for score in generator.score(asked, right)])
    f1.append([token_f1(text, q.answers) for text, q in zip(said[-1], others, strict=True)])

documents = [q.source for q in others]
for name, (before, after) in (("log-probability of the right answer, nats a token", nats), ("F1", f1)):
    old, new = (bootstrap_mean(values, documents).value for values in (before, after))
    change = paired_difference(after, before, documents)
    told = f"{change.value:+.2f} ({change.low:+.2f} to {change.high:+.2f})"
    print(f"{name}: {old:.2f} before, {new:.2f} after, {told}")
for question, before, after in list(zip(others, *said, strict=True))[::5]:
    print(f"{question.question}\n  {question.answers[0]!r} is right; {before!r} before, {after!r} after")
