"""A folder or a hub id, loaded through transformers: encoders, cross-encoders, causal and seq2seq generators.

A hub id is looked up in the local hub cache only: nothing is fetched that nobody asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fieldstone.errors import ModelError
from fieldstone.models import BACKENDS, Encoder, Generator, Options, Reranker
from fieldstone.models.devices import pick_device, pick_dtype, pick_engine, thread_count


def load_encoder(name: str, options: Options) -> Encoder:
    """A sentence-transformers folder, a plain encoder, one half of DPR, or a tuned questions' side."""
    from fieldstone.models import towers
    from fieldstone.models.encoder import TransformerEncoder

    folder = resolve(name)
    if (folder / towers.FILE).is_file():
        return towers.load_towers(name, folder, options)
    return TransformerEncoder(name, folder, options)


def load_reranker(name: str, options: Options) -> Reranker:
    """A cross-encoder: a sequence classifier over (question, text) pairs."""
    from fieldstone.models.cross_encoder import CrossEncoder

    return CrossEncoder(name, resolve(name), options)


def load_generator(name: str, options: Options) -> Generator:
    """A causal language model, or a seq2seq one where the configuration says so."""
    from fieldstone.models.described import describe

    folder = resolve(name)
    if describe(name, folder, options.cache).config.is_encoder_decoder:
        from fieldstone.models.seq2seq import Seq2SeqGenerator

        pick_engine(name, options.engine, "the lean engine reads no encoder-decoders")
        return Seq2SeqGenerator(name, folder, options)
    from fieldstone.models.causal import CausalGenerator

    return CausalGenerator(name, folder, options)


def is_encoder_decoder(name: str) -> bool:
    """Whether the generator called `name` is a folder or hub id with an encoder of its own (T5, BART)."""
    if name.partition(":")[0] in BACKENDS:
        return False
    return bool(read_config(name, resolve(name)).is_encoder_decoder)


def resolve(name: str) -> Path:
    """The folder `name`, or that of a downloaded hub id (`owner/name`, `owner/name@revision`)."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        if any((folder / file).is_file() for file in ("config.json", "modules.json", "towers.json")):
            return folder
        raise ModelError(f"{folder}: no config.json there; give the folder that save_pretrained wrote")
    if folder.exists():
        raise ModelError(f"{folder} is a file; give the folder that holds config.json and the weights")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    repo, _, revision = name.partition("@")
    try:
        return Path(snapshot_download(repo, revision=revision or None, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError) as error:
        line = f"hf download {repo}" + (f" --revision {revision}" if revision else "")
        raise ModelError(
            f"{name!r} is neither a folder nor in the local hub cache; to fetch it, type: {line}"
        ) from error


def read_config(name: str, folder: Path) -> Any:
    """The transformers configuration in `folder`."""
    from transformers import AutoConfig

    with explained(name, "configuration"):
        return AutoConfig.from_pretrained(folder, local_files_only=True)


def read_tokenizer(name: str, folder: Path) -> Any:
    """The transformers tokenizer in `folder`."""
    from transformers import AutoTokenizer

    with explained(name, "tokenizer"), quiet():
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def place(options: Options) -> tuple[str, str]:
    """The device and the number type to compute in; the threads are set."""
    import torch

    device = pick_device(options.device).name
    torch.set_num_threads(thread_count(options.threads))
    return device, pick_dtype(device, options.dtype)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model in memory, ready to infer."""

    model: Any
    device: str
    dtype: str


def read_model(
    name: str,
    folder: Path,
    family: Any,
    options: Options,
    *,
    may_lack: tuple[str, ...] = (),
    quantization: Any = None,
) -> Loaded:
    """The weights in `folder` as `family` (an Auto class of transformers).

    Weights that the folder lacks are an error, not random numbers, but for names with a part in `may_lack`.
    `quantization` is a configuration of transformers: the weights are kept in so few bits on the device.
    """
    import torch

    device, dtype = place(options)
    kind = family.__name__
    placed = {"quantization_config": quantization, "device_map": {"": device}} if quantization else {}
    with explained(name, kind), quiet():
        model, info = family.from_pretrained(
            folder, dtype=getattr(torch, dtype), local_files_only=True, output_loading_info=True, **placed
        )
    lacking = sorted(key for key in info["missing_keys"] if not any(part in key for part in may_lack))
    if lacking:
        raise ModelError(
            f"{name}: its weights do not make a {kind}: {len(lacking)} are missing, such as {lacking[0]}; "
            "check that the folder holds this kind of model"
        )
    model = model if quantization else model.to(device)
    return Loaded(model.eval().requires_grad_(False), device, dtype)


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps transformers' progress bars and load reports off the terminal."""
    from transformers.utils import logging

    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def explained(name: str, what: str) -> Iterator[None]:
    """A model folder is foreign input: whatever is wrong with it becomes a ModelError with the reason."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ModelError(
            f"{name}: cannot be read ({what}): {reason}; check the folder, or download it again"
        ) from error
