"""Where the models seam keeps what it computes once, and checksums of weights that are not read twice."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path

from fieldstone.errors import ModelError
from fieldstone.records import fingerprint

WEIGHTS = ("*.safetensors", "*.bin")


def cache_folder(cache: Path | None = None) -> Path:
    """`cache`, else `$FIELDSTONE_CACHE`, else `~/.cache/fieldstone`; not created here."""
    return Path(
        cache or os.environ.get("FIELDSTONE_CACHE") or Path.home() / ".cache" / "fieldstone"
    ).expanduser()


def sha256(path: Path, cache: Path | None = None) -> str:
    """The file's SHA-256 in hex, remembered in the cache for as long as size and time stay the same."""
    stat = path.stat()
    stamp = f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns}"
    note = cache_folder(cache) / "checksums" / f"{fingerprint(stamp)}.json"
    try:
        known = json.loads(note.read_text())
        if known["file"] == stamp:
            return str(known["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not remembered, or the note is damaged: it is written anew
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=note.parent, delete=False) as new:
            json.dump({"file": stamp, "sha256": digest}, new)
        Path(new.name).replace(note)
    except OSError:
        pass  # a cache that cannot be written costs time, not correctness
    return digest


def weights_fingerprint(folder: Path, *parts: object, cache: Path | None = None) -> str:
    """Stands for the weights in `folder` (subfolders too) and for `parts`; ModelError without any."""
    for pattern in WEIGHTS:
        files = sorted(path for path in folder.rglob(pattern) if path.is_file())
        if files:
            break
    else:
        raise ModelError(
            f"{folder}: no weights there (*.safetensors); give the folder that save_pretrained wrote"
        )
    sums = [f"{path.relative_to(folder).as_posix()} {sha256(path, cache)}" for path in files]
    return fingerprint(*sums, *parts)
