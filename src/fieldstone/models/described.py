"""What a model's folder says of it, configuration and tokenizer, remembered as transformers read them.

What reads them takes two seconds to import. So what it made of a folder is kept in the cache, and taken from
there for as long as the folder's files and transformers stay the same.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from fieldstone.atomic import write_json
from fieldstone.models.files import cache_folder, sha256
from fieldstone.models.huggingface import read_config, read_tokenizer
from fieldstone.models.tokens import refuse_slow
from fieldstone.records import fingerprint

_READ = (".json", ".jinja", ".txt", ".model")
_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id", "model_max_length", "chat_template")


@dataclass(frozen=True)
class Tokenizer:
    """The part of a transformers tokenizer that reading and writing text takes."""

    name_or_path: str
    backend: str
    bos_token_id: int | None
    eos_token_id: int | None
    pad_token_id: int | None
    model_max_length: int
    chat_template: str | None

    @cached_property
    def backend_tokenizer(self) -> Any:
        """A `tokenizers.Tokenizer`."""
        from tokenizers import Tokenizer as Backend

        return Backend.from_str(self.backend)

    @cached_property
    def _whole(self) -> Any:
        return read_tokenizer(self.name_or_path, Path(self.name_or_path))

    def apply_chat_template(self, messages: list[dict[str, str]], **how: Any) -> str:
        """The text of a chat; it takes transformers' own tokenizer to make it."""
        return str(self._whole.apply_chat_template(messages, **how))


@dataclass(frozen=True, slots=True)
class Described:
    """`config` has the attributes of the configuration, `text` those of the part that concerns text."""

    config: Any
    text: Any
    tokenizer: Tokenizer


def describe(name: str, folder: Path, cache: Path | None = None) -> Described:
    """What the folder says. Raises ModelError where transformers cannot read it."""
    files = sorted(path for path in folder.iterdir() if path.suffix in _READ)
    sums = [f"{path.name} {sha256(path, cache)}" for path in files]
    key = fingerprint(version("transformers"), version("tokenizers"), *sums)
    kept = cache_folder(cache) / "described" / f"{key}.json"
    try:
        facts = json.loads(kept.read_text(encoding="utf-8"))
        return _from(facts, folder)
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not remembered, or damaged: it is read and written anew
    facts = _read(name, folder)
    with suppress(OSError):  # a cache that cannot be written costs time, not correctness
        write_json(kept, facts)
    return _from(json.loads(json.dumps(facts)), folder)


def _read(name: str, folder: Path) -> dict[str, Any]:
    config, tokenizer = read_config(name, folder), read_tokenizer(name, folder)
    refuse_slow(tokenizer)
    facts = {part: getattr(tokenizer, part) for part in _TOKENS}
    return {
        "config": json.loads(config.to_json_string(use_diff=False)),
        "text": json.loads(config.get_text_config().to_json_string(use_diff=False)),
        "tokenizer": facts | {"backend": tokenizer.backend_tokenizer.to_str()},
    }


def _from(facts: dict[str, Any], folder: Path) -> Described:
    return Described(
        SimpleNamespace(**facts["config"]),
        SimpleNamespace(**facts["text"]),
        Tokenizer(str(folder), **facts["tokenizer"]),
    )
