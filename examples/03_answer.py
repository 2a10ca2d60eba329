"""Questions to cited answers, and no answer where the documents hold none.

    python examples/03_answer.py

The workspace is that of 02_search.py; it is made if it is not there.
"""

from pathlib import Path

from fieldstone import choose_settings, create_workspace, load_recipe, open_system
from fieldstone.answer import answer
from fieldstone.recipes import run

HARBOUR = Path(__file__).with_name("harbour")
QUESTIONS = (
    "At what swell height does a bulker have to clear out of Granary Quay?",
    "What does a haircut cost in the harbour?",
)

workspace = create_workspace(Path("handbook"))
settings = choose_settings("guide", workspace.stored_settings())
run(load_recipe("guide"), HARBOUR, workspace, settings)

system = open_system(workspace, settings)
library = system.index.library
for question, given in zip(QUESTIONS, answer(system, QUESTIONS), strict=True):
    print(f"{question}\n  {given.text} (confidence {given.confidence:.2f})")
    for citation in given.citations:
        passage = library.passages([citation.passage_id])[0]
        document = library.document(passage.document_id)
        print(f"  {document.source}, characters {citation.start} to {citation.end}: {citation.quote!r}")
        assert citation.verified == (document.text[citation.start : citation.end] == citation.quote)
