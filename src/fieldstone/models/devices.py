"""Which device, how many threads, which number type, how much memory; and why."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

from fieldstone.errors import ModelError

DTYPES = ("auto", "float32", "bfloat16", "float16")
ENGINES = ("auto", "lean", "transformers")


@dataclass(frozen=True, slots=True)
class Device:
    """A torch device and the reason why it was picked."""

    name: str
    why: str


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of main memory that this process may use; `available` is None where the system does not say."""

    total: int
    available: int | None


def pick_device(wanted: str = "auto") -> Device:
    """The device asked for, or the best there is: cuda, then mps, then cpu. ModelError if it is not there."""
    import torch

    if wanted == "auto":
        if torch.cuda.is_available():
            return Device("cuda", f"{torch.cuda.get_device_name(0)} is there")
        if torch.backends.mps.is_available():
            return Device("mps", "Apple's GPU is there")
        return Device("cpu", _why_no_gpu())
    kind = wanted.partition(":")[0]
    if kind == "cpu":
        return Device(wanted, "asked for")
    if kind == "cuda":
        if not torch.cuda.is_available():
            raise ModelError(f"device {wanted!r} was asked for, but: {_why_no_gpu()}; give auto or cpu")
        index = wanted.partition(":")[2]
        if index and not (index.isdigit() and int(index) < torch.cuda.device_count()):
            raise ModelError(f"device {wanted!r}: there are {torch.cuda.device_count()} GPUs, counted from 0")
        return Device(wanted, f"asked for; {torch.cuda.get_device_name(int(index or 0))}")
    if kind == "mps":
        if not torch.backends.mps.is_available():
            raise ModelError("device 'mps' was asked for, but there is no Apple GPU here; give auto or cpu")
        return Device(wanted, "asked for")
    raise ModelError(f"device {wanted!r} is unknown; give auto, cpu, cuda, cuda:1 or mps")


def _why_no_gpu() -> str:
    """Why torch sees no GPU: the commonest hurt is a GPU that is there and a torch that cannot use it."""
    import torch

    seen = Path("/dev/nvidia0").exists() or Path("/proc/driver/nvidia/version").exists()
    if seen and torch.version.cuda is None:
        return (
            f"an NVIDIA GPU is there, but torch {torch.__version__} is built without CUDA; "
            "install the CUDA build of torch (pytorch.org/get-started)"
        )
    if seen:
        return (
            f"an NVIDIA GPU is there, but torch (CUDA {torch.version.cuda}) cannot use it; "
            "check the driver with nvidia-smi"
        )
    return "no GPU was found"


def cpu_features() -> frozenset[str]:
    """The instruction sets of this CPU by their Linux names; empty where the system does not list them."""
    try:
        text = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return frozenset()
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def pick_dtype(device: str, wanted: str = "auto") -> str:
    """The number type to compute in.

    `auto` is bfloat16 on CUDA and on CPUs that multiply it natively (measured there with MiniLM and
    SmolLM2: 1.3 to 2 times as fast, mean cosine .9999, log-probabilities within .03 a token), else float32.
    """
    if wanted not in DTYPES:
        raise ModelError(f"dtype {wanted!r} is unknown; give one of {', '.join(DTYPES)}")
    if wanted != "auto":
        return wanted
    if device.startswith("cuda"):
        import torch

        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    native = device.startswith("cpu") and cpu_features() & {"avx512_bf16", "amx_bf16"}
    return "bfloat16" if native else "float32"


def pick_engine(name: str, wanted: str, why_not_lean: str) -> str:
    """What reads the model `name`: lean, our own forward pass, where it can and nothing else was asked for.

    `why_not_lean` is empty where it can. ModelError where it cannot and was asked for.
    """
    if wanted not in ENGINES:
        raise ModelError(f"engine {wanted!r} is unknown; give one of {', '.join(ENGINES)}")
    if wanted == "lean" and why_not_lean:
        raise ModelError(f"{name}: {why_not_lean}; set models.engine = auto, or transformers")
    return "transformers" if why_not_lean or wanted == "transformers" else "lean"


def thread_count(wanted: int | None = None) -> int:
    """How many threads to compute with: `wanted`, else `OMP_NUM_THREADS`, else the physical cores we may use.

    Hyperthreads and cores beyond a container's quota are left out: threads that wait for one another by
    spinning made training 5 to 10 times slower when there were too many.
    """
    if wanted is not None:
        if wanted < 1:
            raise ModelError(f"threads must be 1 or more, not {wanted}")
        return wanted
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdigit() and int(asked) > 0:
        return int(asked)
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    ours = os.sched_getaffinity(0)
    cores = {_core(cpu) for cpu in ours}
    quota = _cpu_quota()
    return max(1, min(len(cores), quota) if quota else len(cores))


def _core(cpu: int) -> tuple[str, str]:
    """The physical core that a logical one belongs to; itself where the system does not say."""
    topology = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology")
    try:
        return (topology / "physical_package_id").read_text(), (topology / "core_id").read_text()
    except OSError:
        return "", str(cpu)


def _cpu_quota() -> int | None:
    """Whole CPUs that the control group grants, None without a limit."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else max(1, int(quota) // int(period))


def memory() -> Memory:
    """Main memory: that of the machine, or of the container where that is less."""
    sizes = {}
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            key, _, value = line.partition(":")
            sizes[key] = int(value.split()[0]) * 1024
    except (OSError, ValueError, IndexError):
        return Memory(_total_memory(), None)
    total, available = sizes["MemTotal"], sizes.get("MemAvailable")
    try:
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text())
        left = limit - int((group / "memory.current").read_text())
    except (OSError, ValueError):  # no control group, or the limit is the word "max"
        return Memory(total, available)
    return Memory(min(total, limit), max(0, left if available is None else min(available, left)))


def _total_memory() -> int:
    if platform.system() == "Windows" or "SC_PHYS_PAGES" not in os.sysconf_names:
        return 0
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
