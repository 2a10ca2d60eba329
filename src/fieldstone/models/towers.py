"""A tuned questions' side beside an encoder whose passages' vectors stay as they are.

Its folder holds `towers.json`, which names the passages' encoder, and either an encoder for the questions in
`query/` or an adapter, a small map on the vectors that the passages' encoder gives the questions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fieldstone.atomic import write_json
from fieldstone.errors import ModelError
from fieldstone.models import Encoder, Options, Vectors, load_encoder
from fieldstone.models.dual import DualEncoder

FILE = "towers.json"
QUERY = "query"
ADAPTER = "adapter.safetensors"


def load_towers(name: str, folder: Path, options: Options) -> Encoder:
    """The two towers in `folder`. Raises ModelError where the passages' encoder is gone or another one."""
    facts = read_towers(folder)
    try:
        passage = load_encoder(facts["passage"], **asdict(options))
    except ModelError as error:
        raise ModelError(
            f"{folder} holds the questions' side alone and needs the encoder {facts['passage']!r} for the "
            f"passages, which cannot be had: {error}"
        ) from error
    if facts["identity"] != identity(passage):
        raise ModelError(
            f"{folder} was tuned beside other weights than {facts['passage']!r} has now; put the old ones "
            "back, or tune again"
        )
    if (folder / ADAPTER).is_file():
        return DualEncoder(name, AdaptedEncoder(passage, *read_adapter(folder / ADAPTER)), passage)
    from fieldstone.models.encoder import TransformerEncoder

    return DualEncoder(name, TransformerEncoder(name, folder / QUERY, options), passage)


def read_towers(folder: Path) -> Mapping[str, str]:
    """What `towers.json` says: `passage`, the name of the passages' encoder, and its `identity`."""
    try:
        facts = json.loads((folder / FILE).read_text(encoding="utf-8"))
        return {key: str(facts[key]) for key in ("passage", "identity")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{folder / FILE} is damaged ({error!r}); delete the folder and tune again"
        ) from None


def write_towers(folder: Path, passage: str, its_identity: str) -> None:
    """Make `folder` the questions' side of the encoder called `passage`."""
    folder.mkdir(parents=True, exist_ok=True)
    there = Path(passage).expanduser()
    name = str(there.resolve()) if there.is_dir() else passage
    write_json(folder / FILE, {"passage": name, "identity": its_identity})


def passage_model(name: str) -> str:
    """The encoder that makes the passages' vectors for the encoder called `name`; often itself."""
    folder = Path(name).expanduser()
    return read_towers(folder)["passage"] if (folder / FILE).is_file() else name


def identity(encoder: Encoder) -> str:
    """Stands for an encoder's weights, on whatever device and in whatever precision it computes."""
    if isinstance(encoder, DualEncoder):
        return identity(encoder.passage)
    return str(getattr(encoder, "weights", encoder.fingerprint))


class AdaptedEncoder:
    """An `Encoder` whose questions pass through a map: v + W v + b, brought to unit length.

    `weight`: (dimension, dimension), `bias`: (dimension,); with zeros it is the encoder itself.
    """

    def __init__(self, encoder: Encoder, weight: NDArray[np.float32], bias: NDArray[np.float32]) -> None:
        self._encoder, self._weight, self._bias = encoder, weight, bias
        self.name, self.fingerprint = encoder.name, encoder.fingerprint
        self.dimension, self.max_tokens = encoder.dimension, encoder.max_tokens
        if weight.shape != (self.dimension, self.dimension) or bias.shape != (self.dimension,):
            raise ModelError(
                f"the adapter has the shape {weight.shape}, but {encoder.name} has {self.dimension} "
                "dimensions; tune again"
            )

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        """One row a question, mapped."""
        plain = self._encoder.encode_queries(texts)
        mapped = plain + plain @ self._weight.T + self._bias
        lengths = np.linalg.norm(mapped, axis=1, keepdims=True)
        found: Vectors = (mapped / np.maximum(lengths, 1e-12)).astype(np.float32)
        return found

    def encode_passages(self, texts: Sequence[str]) -> Vectors:
        """One row a passage, as the encoder itself has it."""
        return self._encoder.encode_passages(texts)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, as the encoder counts them."""
        return self._encoder.count_tokens(texts)


def read_adapter(path: Path) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weight and bias of an adapter's file."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        arrays = load_file(path)
        return arrays["weight"], arrays["bias"]
    except (OSError, SafetensorError, KeyError) as error:
        raise ModelError(f"{path} is damaged ({error!r}); delete the folder and tune again") from None


def write_adapter(path: Path, weight: NDArray[np.float32], bias: NDArray[np.float32]) -> None:
    """Keep an adapter in a file."""
    from safetensors.numpy import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"weight": np.ascontiguousarray(weight), "bias": np.ascontiguousarray(bias)}, path)
