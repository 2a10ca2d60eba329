"""What sites tune together: an adapter on the questions' vectors, an encoder, or a generator's adapters.

Each kind knows its weights at the start, how to tune on from given weights with `tune/`, and how to write
them as a folder that Fieldstone loads.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fieldstone.errors import SettingsError
from fieldstone.federate.aggregate import Array, Arrays
from fieldstone.federate.messages import read_weights, write_weights
from fieldstone.in_use import base_of
from fieldstone.models import Options, load_encoder
from fieldstone.models.towers import ADAPTER, identity, read_adapter, write_adapter, write_towers
from fieldstone.settings import Settings

if TYPE_CHECKING:
    from fieldstone.recipes.build import Build

Kind = Literal["adapter", "encoder", "generator"]


def kind_of(settings: Settings) -> Kind:
    """What the settings federate. Raises SettingsError for what cannot be."""
    how = settings.retriever
    if settings.federate.part == "generator":
        if settings.generator.method != "lora":
            raise SettingsError(
                f"federate.part = generator shares low-rank adapters, but generator.method = "
                f"{settings.generator.method}; set generator.method = lora"
            )
        return "generator"
    if how.warm_up != "none":
        raise SettingsError(
            f"retriever.warm_up = {how.warm_up} would come anew in every round of a federation; set "
            "retriever.warm_up = none"
        )
    if how.method == "adapter":
        return "adapter"
    if how.method == "full" and how.towers == "both":
        return "encoder"
    raise SettingsError(
        f"retriever.method = {how.method} with retriever.towers = {how.towers} is not federated; set "
        "retriever.method = adapter with retriever.towers = query, or full with both"
    )


def base_identity(settings: Settings) -> str:
    """The fingerprint of the weights of the base model, which must be one at all sites."""
    base = base_of(settings, settings.federate.part)
    if settings.federate.part == "retriever":
        return identity(load_encoder(base, device=settings.models.device))
    from fieldstone.models.files import weights_fingerprint
    from fieldstone.tune.generator.weights import weights_folder

    return weights_fingerprint(weights_folder(base))


def start(settings: Settings) -> dict[str, Array]:
    """The weights that the first round begins with: those of the base, or adapters that do nothing yet."""
    kind, base = kind_of(settings), base_of(settings, settings.federate.part)
    if kind == "adapter":
        dimension = load_encoder(base, device=settings.models.device).dimension
        return {
            "weight": np.zeros((dimension, dimension), np.float32),
            "bias": np.zeros(dimension, np.float32),
        }
    if kind == "encoder":
        return _encoder_weights(_sentences(_encoder_folder(base)))
    import torch

    from fieldstone.tune.generator.weights import prepared, weights_folder

    with torch.random.fork_rng([]):
        torch.manual_seed(settings.seed)
        options = Options(device="cpu", dtype="float32")
        model = prepared(base, weights_folder(base), settings.generator, options)
    return {name: its.detach().float().numpy() for name, its in model.named_parameters() if its.requires_grad}


def tune(build: Build, weights: Arrays, into: Path, turn: int) -> tuple[dict[str, Array], float]:
    """The weights after tuning on at home, and the mean loss. Called again, it goes on where it stopped.

    `turn` gives every round an order of its own.
    """
    settings, seed = build.settings, build.settings.seed + turn
    kind, base = kind_of(settings), base_of(settings, settings.federate.part)
    begun = into.with_name(f"{into.name}.start")
    how: dict[str, Any] = {
        "seed": seed,
        "device": settings.models.device,
        "threads": settings.models.threads or None,
        "progress": build.progress,
    }
    if kind == "generator":
        from fieldstone.recipes.dev import told
        from fieldstone.recipes.tuning import generator_rows
        from fieldstone.tune.generator import tune_generator
        from fieldstone.tune.generator.weights import ADAPTERS

        rows = generator_rows(build, told(build.examples("train")), settings.seed)
        build.__dict__.pop("generator", None)  # one copy of the weights less while tuning
        write_weights(begun / ADAPTERS, weights)
        made = tune_generator(
            base, rows, into, settings.generator, dev_score=None, start=begun / ADAPTERS, **how
        )
        return read_weights(into / ADAPTERS), float(np.mean(made.losses))
    from fieldstone.recipes.tuning import known_vectors, retriever_data
    from fieldstone.tune.retriever import tune_retriever

    data = retriever_data(build)
    if kind == "adapter":
        write_adapter(begun / ADAPTER, weights["weight"], weights["bias"])
        tuned = tune_retriever(
            base, data, into, settings.retriever,
            known=known_vectors(build, data), start=begun / ADAPTER, **how,
        )  # fmt: skip
        return dict(zip(("weight", "bias"), read_adapter(into / ADAPTER), strict=True)), float(
            np.mean(tuned.losses)
        )
    write(weights, settings, begun)
    tuned = tune_retriever(str(begun), data, into, settings.retriever, **how)
    return _encoder_weights(_sentences(into)), float(np.mean(tuned.losses))


def write(weights: Arrays, settings: Settings, folder: Path) -> None:
    """Write the weights as a model that Fieldstone loads by its folder."""
    kind, base = kind_of(settings), base_of(settings, settings.federate.part)
    if kind == "adapter":
        write_towers(folder, base, identity(load_encoder(base, device=settings.models.device)))
        write_adapter(folder / ADAPTER, weights["weight"], weights["bias"])
        return
    import torch

    tensors = {name: torch.tensor(array) for name, array in weights.items()}
    if kind == "encoder":
        model = _sentences(_encoder_folder(base))
        model.load_state_dict(tensors, strict=False)
        model.save_pretrained(str(folder), create_model_card=False)
        return
    from fieldstone.tune.generator.weights import merge, weights_folder

    merge(base, weights_folder(base), settings.generator, settings.models.threads or None, tensors, folder)


def _encoder_folder(base: str) -> Path:
    from fieldstone.models.embedded import minilm_folder
    from fieldstone.models.huggingface import resolve

    return minilm_folder() if base == "embedded:minilm" else resolve(base)


def _sentences(folder: Path) -> Any:
    """The encoder with all its modules, as sentence-transformers opens it, on the CPU in float32."""
    import torch
    from sentence_transformers import SentenceTransformer

    from fieldstone.tune.steps import silence

    with silence():
        return SentenceTransformer(
            str(folder), device="cpu", local_files_only=True, model_kwargs={"dtype": torch.float32}
        )


def _encoder_weights(model: Any) -> dict[str, Array]:
    return {name: its.detach().float().numpy() for name, its in model.named_parameters()}
