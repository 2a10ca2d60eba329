"""The weights of a folder, read without the model classes of transformers, whose import costs two seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from fieldstone.errors import ModelError

_WHOLE, _PARTS = "model.safetensors", "model.safetensors.index.json"


class Weights:
    """Tensors by name in one number type; a name that is not there is a ModelError.

    `inside` may stand before the names ("bert." where a head was trained on top) and is left out of them.
    """

    def __init__(self, name: str, folder: Path, dtype: str, inside: str = "") -> None:
        from safetensors.torch import load_file

        files = [_WHOLE]
        if not (folder / _WHOLE).is_file():
            files = sorted(set(json.loads((folder / _PARTS).read_text())["weight_map"].values()))
        self._name, self._dtype = name, getattr(torch, dtype)
        self._tensors: dict[str, torch.Tensor] = {}
        for file in files:
            for key, tensor in load_file(folder / file).items():
                key = key.removeprefix(inside)
                # BERTs of 2018 say so still
                key = key.replace("LayerNorm.gamma", "LayerNorm.weight")
                self._tensors[key.replace("LayerNorm.beta", "LayerNorm.bias")] = tensor

    def __getitem__(self, key: str) -> torch.Tensor:
        """The tensor, out of the way: it is asked for once, and its memory goes where the caller lets go."""
        if key not in self._tensors:
            raise ModelError(
                f"{self._name}: its weights do not make the model that its config.json tells of: {key} is "
                "missing; check that the folder holds this kind of model"
            )
        return self._tensors.pop(key).to(self._dtype)

    def linear(self, key: str) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Weight (out, in) and bias (out,) of a linear layer; None where it has none."""
        weight, bias = self[f"{key}.weight"], f"{key}.bias"
        return weight, (self[bias] if bias in self._tensors else None)


def refusal(folder: Path, config: Any, device: str) -> str:
    """Why the weights in `folder` cannot be read here, whatever model they make; empty where they can."""
    if device != "cpu":
        return f"the lean engine computes on the CPU, not on {device}"
    if getattr(config, "quantization_config", None) is not None:
        return "the lean engine reads no weights in fewer bits"
    if not any((folder / file).is_file() for file in (_WHOLE, _PARTS)):
        return f"the lean engine reads {_WHOLE}, which is not there"
    return ""
