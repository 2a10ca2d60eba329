"""Which weights of a generator learn, and how they become a plain folder again.

`lora`: low-rank adapters on all linear layers (Hu et al. 2021), merged in the end. `qlora`: the same over
weights that are kept in four bits meanwhile (Dettmers et al. 2023). `full`: all of them.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from fieldstone.errors import MissingExtra, ModelError
from fieldstone.models import BACKENDS, Options
from fieldstone.models.devices import DTYPES
from fieldstone.models.embedded import smollm2_folder
from fieldstone.models.huggingface import explained, quiet, read_config, read_model, read_tokenizer, resolve
from fieldstone.settings import GeneratorTuning

ADAPTERS = "adapters.safetensors"
SHORT = 512
"""Tokens of a row; the memory of attention in plain steps grows with the square of them."""

_ACTIVATIONS = 1.5e9  # bytes on a CPU: with it, the 135M model peaks below 3 GB
_BYTES = 180  # that a token leaves for the way back, a layer and unit of width; bf16 145, float32 200


def weights_folder(base: str) -> Path:
    """Where the weights of the base lie. Raises ModelError for what cannot be tuned."""
    if base == "embedded:smollm2":
        return smollm2_folder()
    if base.partition(":")[0] in BACKENDS:
        raise ModelError(
            f"{base} cannot be tuned here; give embedded:smollm2, a folder or a hub id, or say "
            "--recipe guide to tune nothing"
        )
    return resolve(base)


def check_method(method: str, device: str) -> None:
    """Raises ModelError or MissingExtra where `qlora` cannot run: it needs CUDA and bitsandbytes."""
    if method != "qlora":
        return
    if not device.startswith("cuda"):
        raise ModelError(
            f"generator.method = qlora needs a CUDA device, and this is {device}; "
            "type: --set generator.method=lora"
        )
    if find_spec("bitsandbytes") is None:
        raise MissingExtra("bitsandbytes", "qlora")


def prepared(
    base: str, folder: Path, tuning: GeneratorTuning, options: Options, family: Any = AutoModelForCausalLM
) -> Any:
    """The base, ready to learn: only what learns takes gradients, and is in float32 whatever the base is in.

    In bfloat16 a step of AdamW is mostly too small to change a weight at all. `family` is the class of
    transformers that loads it.
    """
    if tuning.method == "full":
        whole = read_model(base, folder, family, replace(options, dtype="float32"))
        return whole.model.requires_grad_(True)
    four_bits = _four_bits(options.dtype) if tuning.method == "qlora" else None
    loaded = read_model(base, folder, family, options, quantization=four_bits)
    task = "CAUSAL_LM" if family is AutoModelForCausalLM else "SEQ_2_SEQ_LM"
    with explained(base, "adapters on its linear layers"), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by an older name
        return get_peft_model(loaded.model, low_rank(tuning, task))


def low_rank(tuning: GeneratorTuning, task: str = "CAUSAL_LM") -> LoraConfig:
    """Adapters of that rank on every linear layer but the last, which gives the vocabulary's logits."""
    return LoraConfig(
        r=tuning.rank,
        lora_alpha=tuning.alpha,
        lora_dropout=tuning.dropout,
        target_modules="all-linear",
        task_type=task,
    )


def _four_bits(dtype: str) -> BitsAndBytesConfig:
    """QLoRA's: normal float 4, the scales quantised too, products computed in `dtype`."""
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, dtype),
    )


def write_adapters(learnt: Mapping[str, torch.Tensor], file: Path) -> None:
    """Keep what was learnt as it is, not merged."""
    save_file({name: weights.detach().cpu().contiguous() for name, weights in learnt.items()}, file)


def put_adapters(learnt: Mapping[str, torch.Tensor], file: Path) -> None:
    """Put what `write_adapters` kept into place. Raises ModelError where it is of other adapters."""
    try:
        kept = load_file(file)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{file} holds no adapters: {error}; name the file that tuning wrote") from None
    shapes = {name: tuple(weights.shape) for name, weights in kept.items()}
    if shapes != {name: tuple(weights.shape) for name, weights in learnt.items()}:
        raise ModelError(
            f"{file} holds adapters of another rank or model; give generator.rank and the base that made it"
        )
    with torch.no_grad():
        for name, weights in learnt.items():
            weights.copy_(kept[name])


def attend_in_steps(model: Any) -> None:
    """Lets it compute attention in plain steps: with gradients the fused kernel is slower on a CPU.

    SmolLM2-135M learnt 8 rows of 250 tokens a step at 304 tokens a second fused, and at 372 so (two cores).
    """
    model.set_attn_implementation("eager")


def recompute(model: Any) -> None:
    """Lets it keep a layer's input alone and compute the rest again on the way back: slower, far smaller."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the newer name came in the middle of transformers 5
        model.gradient_checkpointing_enable({"use_reentrant": False})


def micro_batch(config: Any, device: str, trained: int = 0) -> int:
    """How many tokens are read at once, by the size of the model and the memory there is.

    `trained` weights will each need 12 bytes of it: the gradient and two moments of AdamW.
    """
    room = _ACTIVATIONS
    if device.startswith("cuda"):
        room = (torch.cuda.mem_get_info(device)[0] - 12 * trained) / 2
    return max(1, int(room / (_BYTES * config.num_hidden_layers * config.hidden_size)))


def merge(
    base: str,
    folder: Path,
    tuning: GeneratorTuning,
    threads: int | None,
    learnt: Mapping[str, torch.Tensor],
    target: Path,
    family: Any = AutoModelForCausalLM,
) -> None:
    """Writes a plain folder with what was learnt, in the number type that the base is kept in.

    Adapters are added to the weights as they are kept, not to those in training, which may be rounded.
    """
    kept = str(read_config(base, folder).dtype).removeprefix("torch.")
    options = Options(device="cpu", threads=threads, dtype=kept if kept in DTYPES else "float32")
    if tuning.method == "full":
        model = read_model(base, folder, family, options).model
    else:
        model = prepared(base, folder, tuning.model_copy(update={"method": "lora"}), options, family)
    model.load_state_dict({name: weights.detach().cpu() for name, weights in learnt.items()}, strict=False)
    shutil.rmtree(target, ignore_errors=True)
    with quiet():
        plain = model if tuning.method == "full" else model.merge_and_unload()
        plain.save_pretrained(target)
        read_tokenizer(base, folder).save_pretrained(target)
