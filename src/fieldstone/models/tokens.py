"""Text to token ids and back, alike for reading, scoring and writing, and safe in many threads."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from fieldstone.errors import ModelError

_WORD = re.compile(r"[^ \t\n\r]+")  # between the white space that every tokenizer takes for such
_SHORT = 40  # characters; what is longer is rarely a word that comes again
_REMEMBERED = 1 << 17  # words


class Tokens:
    """A tokenizer whose text stays text.

    Special tokens written out in a text ("<|im_end|>" in a document) are read as plain characters, so
    that a document cannot end its own turn; only `marked`, meant for chat templates, reads them.
    """

    def __init__(self, tokenizer: Any) -> None:
        """`tokenizer` is one of transformers'; it is copied, for a shared one may change under way."""
        refuse_slow(tokenizer)
        self._backend = tokenizer.backend_tokenizer
        self._plain = _bare(self._backend)
        self._plain.encode_special_tokens = True
        first = self._plain.encode("a").ids[:1]
        self.bos: list[int] = first if first == [tokenizer.bos_token_id] else []
        # SentencePiece models put a space before whatever they are given. A text that goes on after another
        # must not get one: it is read behind a line break, which is then taken off again.
        mark = self._plain.encode("\n", add_special_tokens=False).ids
        behind = self._plain.encode("\na", add_special_tokens=False).ids[len(mark) :]
        self._anchor = "" if behind == self._plain.encode("a", add_special_tokens=False).ids else "\n"
        self._anchor_ids: list[int] = mark if self._anchor else []
        self._anchor_text = self._plain.decode(self._anchor_ids)
        self._apart = _splits_at_spaces(self._plain)
        self._lengths: dict[str, int] = {}

    @cached_property
    def _marked(self) -> Any:
        return _bare(self._backend)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, without special tokens."""
        return [e.ids for e in self._plain.encode_batch_fast(list(texts), add_special_tokens=False)]

    def count(self, texts: Sequence[str]) -> list[int]:
        """How many ids each text has; a word's number is remembered where that is enough to know a text's."""
        if not self._apart:
            return [len(ids) for ids in self.encode(texts)]
        counts = []
        for text in texts:
            words = _WORD.findall(text)
            known = self._lengths
            try:
                counts.append(sum(map(known.__getitem__, words)))
            except KeyError:
                new = list({word for word in words if word not in known})
                lengths = dict(zip(new, map(len, self.encode(new)), strict=True))
                counts.append(sum(lengths[word] if word in lengths else known[word] for word in words))
                if len(known) > _REMEMBERED:
                    known = self._lengths = {}
                known.update((word, n) for word, n in lengths.items() if len(word) <= _SHORT)
        return counts

    def following(self, text: str) -> list[int]:
        """The ids of a text that goes on after another."""
        ids: list[int] = self._plain.encode(self._anchor + text, add_special_tokens=False).ids
        return ids[len(self._anchor_ids) :]

    def marked(self, text: str, *, after: bool = False) -> list[int]:
        """The ids of a piece of a chat template (`after` the user's words): special tokens count as such."""
        anchor, skipped = (self._anchor, len(self._anchor_ids)) if after else ("", 0)
        ids: list[int] = self._marked.encode(anchor + text, add_special_tokens=False).ids
        return ids[skipped:]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids that go on after a prompt; special tokens are left out."""
        text: str = self._plain.decode([*self._anchor_ids, *ids])
        return text[len(self._anchor_text) :]


def _splits_at_spaces(backend: Any) -> bool:
    """Whether no token reaches over white space or stands for it, as in BERT: words can be counted apart."""
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer

    added = backend.get_added_tokens_decoder().values()
    return (
        isinstance(backend.normalizer, BertNormalizer)
        and isinstance(backend.pre_tokenizer, BertPreTokenizer)
        and all(token.special for token in added)
    )


def refuse_slow(tokenizer: Any) -> None:
    """ModelError if it is one of the tokenizers written in Python."""
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise ModelError(
            f"{tokenizer.name_or_path}: {type(tokenizer).__name__} has no tokenizer.json; "
            "save one with transformers' AutoTokenizer.from_pretrained(…).save_pretrained(…)"
        )


def framed(tokenizer: Any, max_tokens: int) -> Any:
    """A backend tokenizer that adds the model's special tokens and cuts what exceeds `max_tokens`."""
    refuse_slow(tokenizer)
    backend = _bare(tokenizer.backend_tokenizer)
    backend.enable_truncation(max_tokens, strategy="longest_first")
    return backend


def _bare(backend: Any) -> Any:
    """A copy without padding and truncation (tokenizer.json may bring both)."""
    from tokenizers import Tokenizer

    copy = Tokenizer.from_str(backend.to_str())
    copy.no_padding()
    copy.no_truncation()
    return copy
