"""Words counted apart give what reading the whole text gives, where the tokenizer allows it."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer

import tiny_models
from fieldstone.models import tokens
from fieldstone.models.embedded import minilm_folder
from fieldstone.models.tokens import Tokens

PIECES = [
    *" \t\n\r\x0b\x0c\x1c\x1f\x85\xa0\u2003\u2028\u200b\u3000\ufeff\ufffd\x00\x07\u0301\u00e9\u03a3\u0130",
    *(
        "the",
        "Harbour",
        "preflight_checks()",
        "antidisestablishment",
        "日本語",
        "東",
        "naïve",
        "ΟΔΟΣ",
        "👩‍🚀",
        "...",
    ),
    *("[CLS]", "[SEP] [PAD]", "##ing", "x" * 120, "قانون", "1,234.5"),
]


@pytest.fixture(scope="module")
def folder() -> Path:
    return next(minilm_folder().rglob("tokenizer.json")).parent


def exact(folder: Path, texts: list[str]) -> list[int]:
    """The numbers of tokens by the library alone."""
    backend: Any = Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.no_padding()
    backend.no_truncation()
    backend.encode_special_tokens = True
    return [len(e.ids) for e in backend.encode_batch(texts, add_special_tokens=False)]


def test_words_counted_apart_are_the_whole(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "_REMEMBERED", 15)  # so that what is remembered is forgotten on the way
    ours, chance = Tokens(AutoTokenizer.from_pretrained(folder)), random.Random(0)
    assert ours._apart
    texts = ["".join(chance.choices(PIECES, k=chance.randrange(30))) for _ in range(2000)]
    texts += [" ".join(chance.choices(PIECES, k=20)) for _ in range(500)]
    assert ours.count(texts) == exact(folder, texts)
    assert ours.count(texts) == exact(folder, texts)


def test_what_is_long_is_not_remembered(folder: Path) -> None:
    ours = Tokens(AutoTokenizer.from_pretrained(folder))
    texts = ["short " + "long" * 20]
    assert ours.count(texts) == exact(folder, texts)
    assert list(ours._lengths) == ["short"]


def test_spaces_that_belong_to_tokens_are_counted(tmp_path: Path) -> None:
    its = tiny_models.llama(tmp_path / "llama", chat=False)
    ours, texts = Tokens(AutoTokenizer.from_pretrained(its)), ["the  harbour\n opens", "", "  "]
    assert not ours._apart
    assert ours.count(texts) == exact(its, texts)
