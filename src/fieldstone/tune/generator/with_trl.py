"""Adapters that one of trl's trainers tunes, merged into plain weights: what DPO and GRPO have in common.

trl's trainers report every run to the network and write a model card beside every checkpoint. `AtHome` keeps
them from both.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PrinterCallback, TrainerCallback

from fieldstone.errors import MissingExtra, ModelError, WorkspaceError
from fieldstone.models import Options
from fieldstone.models.causal import CausalGenerator
from fieldstone.models.devices import pick_device, pick_dtype
from fieldstone.models.huggingface import quiet, read_model, read_tokenizer
from fieldstone.progress import Progress
from fieldstone.settings import GeneratorTuning
from fieldstone.tune.checkpoint import last_checkpoint, writing
from fieldstone.tune.generator.weights import merge, micro_batch, weights_folder

_SAVED_EVERY = 60.0  # seconds between checkpoints


@dataclass(frozen=True, slots=True)
class Tuned:
    """A tuned generator and how it came about.

    `log` holds one mapping a step, as the trainer told it: always `step` and `loss`, then what the method
    measures. `facts` are the caller's. `seconds` is all the time spent, stopped runs included.
    """

    folder: Path
    steps: int
    seconds: float
    trainable: int
    device: str
    dtype: str
    log: tuple[Mapping[str, float], ...]
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Setting:
    """What a trainer is made of: the base in memory, its tokenizer, arguments that fit any of trl's."""

    model: Any
    tokenizer: Any
    arguments: Mapping[str, Any]
    tokens: int  # that are read at once for the way back


class AtHome:
    """Stands before a trainer of trl: nothing leaves the machine, and a full disk is told as such."""

    args: Any

    def _send_telemetry(self) -> None:
        """trl asks a server to count each run; we do not."""

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Nor is there a card to write, which would quote names and versions."""

    def _save_checkpoint(self, *given: Any) -> None:
        with writing(Path(self.args.output_dir)):
            super()._save_checkpoint(*given)  # type: ignore[misc]


def on_one_device(arguments: Any) -> Any:
    """The same arguments of a trainer, which would else refuse to run where several GPUs are visible."""
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def need_trl() -> None:
    """Raises MissingExtra before any work where trl is not installed."""
    if find_spec("trl") is None:
        raise MissingExtra("trl", "prefer")


def causal(generator: object, name: str) -> CausalGenerator:
    """The same generator, if it is a causal one, whose tokens we write ourselves; else ModelError."""
    if not isinstance(generator, CausalGenerator):
        raise ModelError(f"{name} is no causal model, and no other is tuned so; give a causal one")
    return generator


def tune_adapters(
    base: str,
    into: Path,
    key: str,
    adapters: GeneratorTuning,
    trainer: Callable[[Setting], Any],
    facts: Mapping[str, Any],
    *,
    section: str,
    learning_rate: float,
    warmup: float,
    steps: int,
    save_every: int = 1,
    seed: int = 0,
    device: str = "auto",
    threads: int | None = None,
    progress: Progress,
) -> Tuned:
    """Let `trainer` tune adapters on `base` for `steps` steps; `into` becomes a plain folder with tuned.json.

    Until the end all lies in a folder beside `into` (`NAME.tuning`), then `into` appears in one rename.
    Called again with the same `key` it goes on from its last checkpoint, of which there is one a minute at
    most and at a multiple of `save_every` steps, or returns at once. The adapters have the rank and alpha of
    `adapters`, and no dropout: a ratio of two likelihoods must not hold chance.

    Raises ModelError for a base that cannot be tuned or a loss that is no number (the message names
    `section`.learning_rate), WorkspaceError for a folder that cannot be written.
    """
    folder = weights_folder(base)
    work = into.with_name(f"{into.name}.tuning")
    if finished := finished_before(into, key):
        shutil.rmtree(work, ignore_errors=True)
        return finished
    where = pick_device(device).name
    if where.startswith("cuda:") and where != "cuda:0":
        raise ModelError(f"tuning runs on the first GPU; type CUDA_VISIBLE_DEVICES={where[5:]} before it")
    # as for tune_generator, but on a CPU in float32 always: differences of likelihoods are small
    dtype = "bfloat16" if where != "cpu" and pick_dtype(where) == "bfloat16" else "float32"
    with writing(into):
        _prepare(work, key)
    with _calm(), torch.random.fork_rng([where] if where.startswith("cuda") else []):
        options = Options(device=where, threads=threads, dtype=dtype)
        model = read_model(base, folder, AutoModelForCausalLM, options).model
        tokens = micro_batch(model.config.get_text_config(), where)
        arguments = {
            "output_dir": str(work), "seed": seed, "use_cpu": where == "cpu", "bf16": dtype == "bfloat16",
            "fp16": False, "learning_rate": learning_rate, "lr_scheduler_type": "cosine",
            "warmup_steps": math.ceil(warmup * steps), "max_steps": steps, "weight_decay": 0.0,
            "max_grad_norm": 1.0, "disable_dropout": True, "logging_steps": 1,
            "logging_nan_inf_filter": False, "save_strategy": "steps", "save_steps": steps + 1,
            "save_total_limit": 1, "report_to": "none", "disable_tqdm": True, "dataloader_pin_memory": False,
        }  # fmt: skip
        made = trainer(Setting(model, read_tokenizer(base, folder), arguments, tokens))
        watch = _Watch(section, save_every, progress)
        made.add_callback(watch)
        made.remove_callback(PrinterCallback)
        made.train(resume_from_checkpoint=last_checkpoint(work))
        adapter = {name: weights for name, weights in made.model.named_parameters() if weights.requires_grad}
        with writing(into):
            low = adapters.model_copy(update={"method": "lora"})  # whatever tunes the generator else
            merge(base, folder, low, threads, adapter, work / "merged")
    history = made.state.log_history
    tuned = Tuned(
        folder=into,
        steps=made.state.global_step,
        seconds=max((entry.get("seconds", 0.0) for entry in history), default=0.0),
        trainable=sum(weights.numel() for weights in adapter.values()),
        device=where,
        dtype=dtype,
        log=tuple(_numbers(entry) for entry in history if "loss" in entry),
        facts=facts,
    )
    with writing(into):
        _publish(work, key, tuned)
    return tuned


def finished_before(into: Path, key: str) -> Tuned | None:
    """What an earlier call left, if it was this same run."""
    if not into.exists() or (into.is_dir() and not any(into.iterdir())):
        return None
    try:
        said = json.loads((into / "tuned.json").read_text(encoding="utf-8"))
        if said.pop("key") != key:
            return None
        return Tuned(**{**said, "log": tuple(said["log"]), "folder": into})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WorkspaceError(
            f"{into} is there and is no generator tuned here ({error}); delete it, or name a new folder"
        ) from error


def parts(batch: int, longest: int, tokens: int) -> tuple[int, int]:
    """How many rows are read at once, and how often for a step of `batch` rows: their product is `batch`."""
    fit = max(1, tokens // longest)
    at_once = max(n for n in range(1, batch + 1) if batch % n == 0 and n <= fit)
    return at_once, batch // at_once


class _Watch(TrainerCallback):  # type: ignore[misc]
    """Tells the progress and the seconds, asks for checkpoints, and stops at a loss that is no number."""

    def __init__(self, section: str, save_every: int, progress: Progress) -> None:
        self._section, self._save_every, self._progress = section, save_every, progress
        self._began = self._saved = time.monotonic()

    def on_train_begin(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        self._began = self._saved = time.monotonic()
        if state.log_history:  # the seconds of the run that was killed
            self._began -= state.log_history[-1].get("seconds", 0.0)
        self._progress(f"tune by {self._section}", state.global_step, state.max_steps, "steps")

    def on_step_end(self, _args: Any, state: Any, control: Any, **_: Any) -> None:
        due = time.monotonic() - self._saved >= _SAVED_EVERY
        control.should_save |= due and state.global_step % self._save_every == 0

    def on_save(self, *_: Any, **__: Any) -> None:
        self._saved = time.monotonic()

    def on_log(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        last = state.log_history[-1]
        last["seconds"] = round(time.monotonic() - self._began, 3)
        if "loss" in last:
            if not math.isfinite(last["loss"]):
                raise ModelError(
                    f"the loss became {last['loss']}; set a lower {self._section}.learning_rate "
                    "and start again"
                )
            self._progress(f"tune by {self._section}", state.global_step, state.max_steps, "steps")


@contextmanager
def _calm() -> Iterator[None]:
    """Keeps trl's and transformers' hints off the terminal."""
    loggers = [logging.getLogger(name) for name in ("trl", "accelerate", "datasets")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _numbers(entry: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in entry.items() if isinstance(value, int | float)}


def _prepare(work: Path, key: str) -> None:
    """An empty `work` folder, but for one that a killed run of the same inputs has left."""
    note = work / "inputs.txt"
    if not (note.is_file() and note.read_text() == key):
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        note.write_text(key)


def _publish(work: Path, key: str, tuned: Tuned) -> None:
    """Puts the merged folder into its place, with the facts; whatever was there goes."""
    said = {"key": key, **asdict(tuned)}
    del said["folder"]
    (work / "merged" / "tuned.json").write_text(json.dumps(said, indent=1), encoding="utf-8")
    if tuned.folder.exists():
        tuned.folder.rename(work / "replaced")
    (work / "merged").rename(tuned.folder)
    shutil.rmtree(work, ignore_errors=True)
