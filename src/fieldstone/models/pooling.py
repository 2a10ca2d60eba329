"""What a sentence-transformers folder says about its encoder: pooling, dense layers, prompts, lengths."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fieldstone.errors import ModelError

_MODES = {  # the older keys, in the order in which sentence-transformers joins the parts
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_QUERY, _PASSAGE = ("query",), ("document", "passage", "corpus")


@dataclass(frozen=True, slots=True)
class Layout:
    """How token states become a vector: modes joined in order, then the dense layers."""

    transformer: Path
    modes: tuple[str, ...] = ("mean",)
    dense: tuple[Path, ...] = ()
    max_tokens: int | None = None
    lower: bool = False
    query_prefix: str = ""
    passage_prefix: str = ""


def read_layout(folder: Path) -> Layout:
    """The layout of a sentence-transformers folder, or mean pooling for one without modules.json."""
    if not (folder / "modules.json").is_file():
        return Layout(folder)
    transformer, dense = folder, []
    modes: tuple[str, ...] = ("mean",)
    for module in read_json(folder / "modules.json"):
        kind, path = str(module["type"]).rpartition(".")[2], folder / str(module["path"])
        if kind == "Transformer":
            transformer = path
        elif kind == "Pooling":
            modes = _modes(path / "config.json")
        elif kind == "Dense":
            dense.append(path)
        elif kind not in ("Normalize", "Dropout"):  # every vector is normalised in the end
            raise ModelError(f"{folder}: the module {kind} is not supported; export the encoder without it")
    limits = transformer / "sentence_bert_config.json"
    settings = read_json(limits) if limits.is_file() else {}
    prompts = folder / "config_sentence_transformers.json"
    query, passage = _prefixes(read_json(prompts)) if prompts.is_file() else ("", "")
    return Layout(
        transformer,
        modes,
        tuple(dense),
        settings.get("max_seq_length"),
        bool(settings.get("do_lower_case")),
        query,
        passage,
    )


def _modes(path: Path) -> tuple[str, ...]:
    config = read_json(path)
    if config.get("include_prompt") is False:
        raise ModelError(f"{path}: include_prompt = false is not supported; the prompt is always pooled here")
    given = config.get("pooling_mode") or [mode for key, mode in _MODES.items() if config.get(key)] or "mean"
    modes = (given,) if isinstance(given, str) else tuple(given)
    unknown = set(modes) - set(_MODES.values())
    if unknown:
        raise ModelError(
            f"{path}: unknown pooling {', '.join(sorted(unknown))}; known: {', '.join(_MODES.values())}"
        )
    return modes


def _prefixes(config: dict[str, Any]) -> tuple[str, str]:
    """The prefixes of questions and passages; the default prompt serves where there is none of that name."""
    prompts: dict[str, str] = config.get("prompts") or {}
    default = prompts.get(config.get("default_prompt_name") or "", "")
    query = next((prompts[key] for key in _QUERY if prompts.get(key)), default)
    passage = next((prompts[key] for key in _PASSAGE if prompts.get(key)), default)
    return query, passage


def read_json(path: Path) -> Any:
    """The JSON in a file of a model folder."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read: {error}; download the model again") from error


def pool(states: Any, mask: Any, modes: tuple[str, ...]) -> Any:
    """Token states (batch, tokens, width) and their mask (batch, tokens) to vectors, in float32."""
    import torch

    states, weights = states.float(), mask.unsqueeze(-1).float()
    parts = []
    for mode in modes:
        if mode == "cls":
            parts.append(states[:, 0])
        elif mode == "lasttoken":
            parts.append(states[torch.arange(len(states), device=states.device), mask.sum(1) - 1])
        elif mode == "max":
            parts.append(states.masked_fill(weights == 0, -torch.inf).max(1).values)
        elif mode == "weightedmean":
            ramp = weights * torch.arange(1, states.shape[1] + 1, device=states.device).view(1, -1, 1)
            parts.append((states * ramp).sum(1) / ramp.sum(1))
        else:
            count = weights.sum(1)
            parts.append((states * weights).sum(1) / (count if mode == "mean" else count.sqrt()))
    return torch.cat(parts, 1)


def read_dense(folder: Path) -> Any:
    """A Dense module of sentence-transformers as a torch module, in float32."""
    import torch

    config = read_json(folder / "config.json")
    if config.get("use_residual"):
        raise ModelError(f"{folder}: a Dense module with use_residual is not supported")
    name = str(config.get("activation_function", "torch.nn.modules.activation.Tanh"))
    activation = getattr(torch.nn, name.rpartition(".")[2], None)
    if not name.startswith("torch.nn.") or not isinstance(activation, type):
        raise ModelError(f"{folder}: the activation {name!r} is not one of torch.nn")
    linear = torch.nn.Linear(config["in_features"], config["out_features"], bias=config.get("bias", True))
    safe = folder / "model.safetensors"
    if safe.is_file():
        from safetensors.torch import load_file

        weights = load_file(safe)
    else:
        weights = torch.load(folder / "pytorch_model.bin", map_location="cpu", weights_only=True)
    linear.load_state_dict({key.removeprefix("linear."): value.float() for key, value in weights.items()})
    return torch.nn.Sequential(linear, activation()).eval().requires_grad_(False)
