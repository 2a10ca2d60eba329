from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from types import ModuleType

import pytest

import fieldstone.models
from fieldstone.errors import ModelError
from fieldstone.models import load_encoder, load_generator, load_reranker
from fieldstone.models.fake import FakeEncoder


@pytest.mark.parametrize("name", ["", "no such thing", "./nowhere", "nowhere:thing", "a/b/c", "fake"])
def test_a_bad_name_lists_what_can_be_given_or_how_to_fetch(name: str) -> None:
    with pytest.raises(ModelError, match=r"embedded:minilm.*fake:words|hf download"):
        load_encoder(name)


def test_a_hub_id_is_never_fetched_silently() -> None:
    with pytest.raises(ModelError, match=r"type: hf download owner/nothing-here --revision v1"):
        load_generator("owner/nothing-here@v1")


def test_a_kind_that_a_backend_lacks_is_said() -> None:
    with pytest.raises(ModelError, match=r"has no rerankers, only encoders and generators"):
        load_reranker("embedded:minilm")


@pytest.mark.parametrize(
    ("load", "name", "says"),
    [
        (load_encoder, "embedded:smollm2", "only embedded encoder is embedded:minilm"),
        (load_generator, "embedded:minilm", "only embedded generator is embedded:smollm2"),
        (load_generator, "fake:letters", "fake:words"),
        (load_encoder, "dual:minilm", "dual:query=NAME,passage=NAME"),
        (load_generator, "http://localhost:1/v1", "names no model"),
        (load_encoder, "/dev/null", "is a file"),
    ],
)
def test_a_wrong_name_within_a_scheme_says_the_right_one(load: object, name: str, says: str) -> None:
    with pytest.raises(ModelError, match=says):
        load(name)  # type: ignore[operator]


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no config\.json there"):
        load_encoder(str(tmp_path))


@pytest.mark.parametrize("load", [load_encoder, load_reranker, load_generator])
def test_a_damaged_folder(tmp_path: Path, load: object) -> None:
    (tmp_path / "config.json").write_text("{ broken")
    with pytest.raises(ModelError, match="cannot be read"):
        load(str(tmp_path))  # type: ignore[operator]


def test_a_package_adds_a_backend_by_its_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("their_models")
    module.load_encoder = lambda name, options: FakeEncoder(name, options.query_prefix or "")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "their_models", module)
    entry = EntryPoint("theirs", "their_models", "fieldstone.models")
    broken = EntryPoint("broken", "not_there", "fieldstone.models")
    monkeypatch.setattr(fieldstone.models, "entry_points", lambda group: EntryPoints([entry, broken]))
    encoder = load_encoder("theirs:best", query_prefix="query: ")
    assert (encoder.name, encoder.query_prefix) == ("theirs:best", "query: ")  # type: ignore[attr-defined]
    with pytest.raises(ModelError, match="does not import"):
        load_encoder("broken:x")
    with pytest.raises(ModelError, match="theirs:…"):
        load_encoder("nobody:x")


def test_the_seam_and_its_light_backends_load_no_torch() -> None:
    code = (
        "import sys, fieldstone.models as m; m.load_encoder('fake:words'); m.load_generator('fake:words');"
        "import fieldstone.models.endpoint, fieldstone.models.embedded, fieldstone.models.huggingface;"
        "sys.exit(bool({'torch', 'transformers'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
