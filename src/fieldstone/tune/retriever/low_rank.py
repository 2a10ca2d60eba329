"""Low-rank adapters in an encoder (LoRA, Hu et al. 2021), merged before anybody else sees it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from fieldstone.settings import RetrieverTuning

_FILE = "adapters.safetensors"


def add_adapters(model: Any, tuning: RetrieverTuning) -> None:
    """Freeze all weights of a sentence-transformers model and put adapters on all its linear layers."""
    model.requires_grad_(False)
    model[0].model = get_peft_model(
        model[0].model,
        LoraConfig(
            r=tuning.lora_rank,
            lora_alpha=tuning.lora_alpha,
            lora_dropout=tuning.dropout,
            target_modules="all-linear",
        ),
    )


def merged(model: Any) -> Any:
    """The model with its adapters merged into plain weights: a copy, the model itself where it has none."""
    if not isinstance(model[0].model, PeftModel):
        return model
    plain = copy.deepcopy(model)
    plain[0].model = plain[0].model.merge_and_unload()
    return plain


def save_adapters(model: Any, folder: Path) -> None:
    """Keep what learns, for a checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(_learning(model), folder / _FILE)


def load_adapters(model: Any, folder: Path) -> None:
    """Put back what a checkpoint has kept."""
    kept = load_file(folder / _FILE)
    with torch.no_grad():
        for name, weights in _learning(model).items():
            weights.copy_(kept[name])


def _learning(model: Any) -> dict[str, torch.Tensor]:
    return {name: weights for name, weights in model.named_parameters() if weights.requires_grad}
