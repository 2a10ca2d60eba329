"""Two encoders in one: `dual:query=NAME,passage=NAME`, each name as anywhere else (DPR's two halves, say)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict

from fieldstone.errors import ModelError
from fieldstone.models import Encoder, Options, Vectors
from fieldstone.models import load_encoder as load_any


def load_encoder(name: str, options: Options) -> Encoder:
    """The dual encoder called `dual:query=NAME,passage=NAME`."""
    match = re.fullmatch(r"dual:query=(.+),passage=(.+)", name)
    if not match:
        raise ModelError(f"{name!r}: two encoders are written dual:query=NAME,passage=NAME")
    query, passage = (load_any(half, **asdict(options)) for half in match.groups())
    if query.dimension != passage.dimension:
        raise ModelError(
            f"{name!r}: questions have {query.dimension} dimensions and passages {passage.dimension}; "
            "give two encoders that were trained together"
        )
    return DualEncoder(name, query, passage)


class DualEncoder:
    """An `Encoder` whose questions and passages go through a model each.

    Its fingerprint is that of the passages' model, for it says what made their vectors: with another model
    for the questions they stay as they are.
    """

    def __init__(self, name: str, query: Encoder, passage: Encoder) -> None:
        self.name = name
        self.query, self.passage = query, passage
        self.fingerprint = passage.fingerprint
        self.dimension = passage.dimension
        self.max_tokens = passage.max_tokens

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        """One row a question."""
        return self.query.encode_queries(texts)

    def encode_passages(self, texts: Sequence[str]) -> Vectors:
        """One row a passage."""
        return self.passage.encode_passages(texts)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text as the passage encoder counts them."""
        return self.passage.count_tokens(texts)
