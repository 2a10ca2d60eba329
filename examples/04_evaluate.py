"""How good is it? Questions with known answers, asked of several systems, and a report of what came out.

    python examples/04_evaluate.py

The workspace is that of 02_search.py; it is made if it is not there. The first ten questions are asked;
take all of them for a number to rely on.
"""

from pathlib import Path

from fieldstone.evaluate.significance import more_than_chance

from fieldstone import choose_settings, create_workspace, load_recipe, read_questions, write_report
from fieldstone.evaluate.run import evaluate
from fieldstone.recipes import run

HERE = Path(__file__).parent
SYSTEMS = ("lexical", "dense", "fused", "fused+likelihood/one-by-one")

workspace = create_workspace(Path("handbook"))
settings = choose_settings("guide", workspace.stored_settings())
run(load_recipe("guide"), HERE / "harbour", workspace, settings)

questions = read_questions(HERE / "harbour-questions.jsonl")[:10]
evaluation = evaluate(workspace, settings, questions, SYSTEMS)
for name, measures in evaluation.systems.items():
    print(name)
    for measure, estimate in measures.items():
        print(f"  {measure:18} {estimate.value:.2f} ({estimate.low:.2f} to {estimate.high:.2f})")
for pair, differences in evaluation.differences.items():
    for measure, difference in differences.items():
        if more_than_chance(difference, evaluation.tests[pair].get(measure)) and measure != "seconds":
            print(f"{pair}: {measure} {difference.value:+.2f} is more than chance")
print(write_report(workspace.reports, evaluation).html)
