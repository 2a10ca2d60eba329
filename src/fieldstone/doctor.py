"""What this machine has and what that is enough for: device, memory, models, packages."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fieldstone.errors import ModelError
from fieldstone.models import embedded
from fieldstone.models.devices import Device, Memory, memory, pick_device, pick_dtype, thread_count
from fieldstone.settings import ModelSettings

BILLIONS = (0.1, 0.5, 1, 3, 7, 14, 32, 70)

_ELSEWHERE = ("fake", "http", "https")  # models that torch does not run in this process
_REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)[^;]*(;.*extra == ['\"](?P<extra>\w+)['\"])?")


@dataclass(frozen=True, slots=True)
class FoundModel:
    """A model by its name, where it lies, and in what state; `ready` to be used."""

    name: str
    place: str
    state: str
    ready: bool


@dataclass(frozen=True, slots=True)
class Missing:
    """A package that is not installed, what wants it, and the line to type."""

    package: str
    extra: str
    install: str


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes that a model of so many billion parameters takes, to run and to tune with LoRA."""

    billions: float
    run_fp32: float
    run_bf16: float
    tune_fp32: float
    tune_bf16: float


@dataclass(frozen=True, slots=True)
class Checkup:
    """All that `examine` finds; memory is that of the device in use."""

    fieldstone: str
    python: str
    system: str
    torch: str
    device: Device
    dtype: str
    threads: int
    cores: int
    memory: Memory
    models: tuple[FoundModel, ...]
    packages: int
    missing: tuple[Missing, ...]
    needs: tuple[Need, ...]


def examine(settings: ModelSettings | None = None) -> Checkup:
    """Look at the machine as models with these settings would find it."""
    settings = settings or ModelSettings()
    try:
        torch = str(importlib.import_module("torch").__version__)
        device = pick_device(settings.device)
        dtype = pick_dtype(device.name)
    except (ImportError, OSError) as error:  # a torch whose libraries do not load raises OSError
        torch, dtype = "", ""
        device = Device("none", f"torch does not load: {error}")
    missing = tuple(_missing_packages())
    return Checkup(
        fieldstone=importlib.metadata.version("fieldstone"),
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        torch=torch,
        device=device,
        dtype=dtype,
        threads=thread_count(settings.threads or None),
        cores=os.cpu_count() or 1,
        memory=_device_memory(device.name),
        models=(*_embedded_models(), *_downloaded_models()),
        packages=len(_requirements()),
        missing=missing,
        needs=tuple(need(billions) for billions in BILLIONS),
    )


def describe_model(name: str, settings: ModelSettings) -> str:
    """The model's name and, if it works in this process, on what: `… on cpu (2 threads, bfloat16)`."""
    if name.partition(":")[0] in _ELSEWHERE:
        return name
    device = pick_device(settings.device).name
    threads = thread_count(settings.threads or None)
    share = f"{threads} thread{'s' if threads > 1 else ''}, " if device == "cpu" else ""
    return f"{name} on {device} ({share}{pick_dtype(device)})"


def need(billions: float) -> Need:
    """A rule of thumb, right within a third or so for decoders with contexts of a few thousand tokens.

    To run: the weights, a fifth more for activations and kept states, half a GB for torch. To tune with
    LoRA, activations recomputed: the weights, half as much for activations, adapters and their optimiser,
    one GB for torch.
    """
    fp32, bf16 = billions * 4e9, billions * 2e9
    return Need(billions, 1.2 * fp32 + 5e8, 1.2 * bf16 + 5e8, 1.5 * fp32 + 1e9, 1.5 * bf16 + 1e9)


def _device_memory(device: str) -> Memory:
    if not device.startswith("cuda"):
        return memory()
    import torch

    free, total = torch.cuda.mem_get_info(device)
    return Memory(total, free)


def _embedded_models() -> Iterator[FoundModel]:
    for name, find in (
        ("embedded:minilm", embedded.minilm_folder),
        ("embedded:smollm2", embedded.smollm2_file),
    ):
        try:
            yield FoundModel(name, str(find()), "installed, its SHA-256 is right", True)
        except ModelError as error:
            yield FoundModel(name, "", str(error), False)


def _downloaded_models() -> Iterator[FoundModel]:
    """Models in the local hub cache."""
    from huggingface_hub.constants import HF_HUB_CACHE

    for folder in sorted(Path(HF_HUB_CACHE).glob("models--*")):
        if any(folder.glob("snapshots/*/config.json")):
            name = folder.name.removeprefix("models--").replace("--", "/")
            yield FoundModel(name, str(folder), "downloaded", True)


def _requirements() -> list[tuple[str, str]]:
    """(package, extra) of everything that Fieldstone can use; the extra is empty for what it always needs."""
    found = []
    for line in importlib.metadata.requires("fieldstone") or ():
        match = _REQUIREMENT.match(line)
        if match and match["extra"] != "dev":
            found.append((match["name"], match["extra"] or ""))
    return found


def _missing_packages() -> Iterator[Missing]:
    for package, extra in _requirements():
        try:
            importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            install = f"pip install 'fieldstone[{extra}]'" if extra else f"pip install {package}"
            yield Missing(package, extra, install)
