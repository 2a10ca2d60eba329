"""A folder to a workspace, and a search in it with each way to search.

    python examples/02_search.py

The workspace is kept in `handbook` in the folder you stand in; a second run only looks for changes.
"""

from pathlib import Path

from fieldstone import choose_settings, create_workspace, load_recipe, open_system
from fieldstone.recipes import run
from fieldstone.search import Filter, search

HARBOUR = Path(__file__).with_name("harbour")
QUESTION = "How deep may a ship lie at berth 7?"

workspace = create_workspace(Path("handbook"))
settings = choose_settings("guide", workspace.stored_settings())
run(load_recipe("guide"), HARBOUR, workspace, settings)

index = open_system(workspace, settings).index
print(QUESTION)
for change in (
    {"mode": "lexical", "rerank": "none"},
    {"mode": "dense", "rerank": "none"},
    {"mode": "fused", "rerank": "none"},
    {"mode": "fused", "rerank": "likelihood"},
):
    hits = search(index, [QUESTION], settings.search.model_copy(update=change), k=3)[0]
    sources = index.library.sources({hit.passage.document_id for hit in hits})
    print(f"\n{change['mode']}, rerank: {change['rerank']}")
    for hit in hits:
        print(f"  {hit.rank}. {hit.score:.3f}  {sources[hit.passage.document_id][0]}")

hits = search(index, ["mooring fees"], settings.search, k=3, filter=Filter(source="tariffs/*"))[0]
print(f"\nin tariffs/ alone: {hits[0].passage.text[:80]!r} …")
