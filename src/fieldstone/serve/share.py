"""What of an answer leaves the site: what its policy (`share`) allows, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fieldstone.records import Answer
from fieldstone.serve.shapes import answer_as_json
from fieldstone.settings import ShareSettings


def shared_answer(
    answer: Answer, sources: Mapping[str, tuple[str, str]], policy: ShareSettings
) -> dict[str, Any]:
    """An answer in the shape of `answer_as_json`, with everything left out that the policy does not name.

    Of the passages that were found only the cited ones may go; ids and places in the text, by which two
    answers could be told to stand in one document, go with them alone.
    """
    given = answer_as_json(answer, sources)
    citations = given["citations"][: policy.quotes]
    cited = {citation["passage_id"] for citation in citations} if policy.passages else set()
    hits = [hit for hit in given["hits"] if hit["passage"]["id"] in cited]
    if not policy.passages:
        for citation in citations:
            citation |= {"passage_id": "", "start": 0, "end": 0}
    for citation in citations:
        citation["quote"] = _cut(citation["quote"], policy.characters)
    if not policy.places:
        for place in (*citations, *hits):
            place |= {"source": "", "title": ""}
        for place in (*citations, *(hit["passage"] for hit in hits)):
            place |= {"headings": [], "page": None}
    for hit in hits:
        hit["scores"] = {}
    return {**given, "citations": citations, "hits": hits, "timings": {}}


def _cut(quote: str, most: int) -> str:
    """The beginning of a quote, up to the end of a word."""
    if len(quote) <= most:
        return quote
    whole = quote[: most + 1].rpartition(" ")[0]
    return whole.rstrip() or quote[:most]
