"""What is remembered of a model's folder, and weights read from it without transformers' model classes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny_models
from fieldstone.errors import ModelError
from fieldstone.models import Prompt, load_encoder, load_generator
from fieldstone.models.described import describe

LOAD = """
import sys
from pathlib import Path
from fieldstone.models import Prompt, load_encoder, load_generator
encoder, generator, cache = sys.argv[1], sys.argv[2], Path(sys.argv[3])
load_encoder(encoder, device="cpu", cache=cache).encode_queries(["When does it open?"])
load_generator(generator, device="cpu", cache=cache).generate([Prompt(text="It opens")], max_tokens=2)
print("transformers" in sys.modules)
"""


def test_the_second_process_asks_without_transformers(tmp_path: Path) -> None:
    """Its import was a third of what asking from a cold shell took."""
    folders = tiny_models.bert(tmp_path / "bert"), tiny_models.llama(tmp_path / "llama")
    command = [sys.executable, "-c", LOAD, *map(str, folders), str(tmp_path / "cache")]
    said = [subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(2)]
    assert [line.strip() for line in said] == ["True", "False"]


def test_it_is_what_transformers_says(tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoTokenizer

    folder = tiny_models.llama(tmp_path / "llama")
    for _ in range(2):  # read, then remembered
        found = describe("m", folder, tmp_path)
        config, tokenizer = AutoConfig.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
        assert vars(found.config) == json.loads(config.to_json_string(use_diff=False))
        for part in ("bos_token_id", "eos_token_id", "pad_token_id", "model_max_length", "chat_template"):
            assert getattr(found.tokenizer, part) == getattr(tokenizer, part)
        turns = [{"role": "user", "content": "Hi"}]
        assert found.tokenizer.apply_chat_template(turns, tokenize=False) == tokenizer.apply_chat_template(
            turns, tokenize=False
        )
        assert found.tokenizer.backend_tokenizer.encode("cats purr").ids == tokenizer("cats purr").input_ids


def test_a_changed_folder_and_a_damaged_note_are_read_anew(tmp_path: Path) -> None:
    folder = tiny_models.llama(tmp_path / "llama")
    assert describe("m", folder, tmp_path).config.max_position_embeddings == 512
    changed = json.loads((folder / "config.json").read_text()) | {"max_position_embeddings": 2560}
    (folder / "config.json").write_text(json.dumps(changed))
    assert describe("m", folder, tmp_path).config.max_position_embeddings == 2560
    notes = list((tmp_path / "described").iterdir())
    assert len(notes) == 2
    for note in notes:
        note.write_text("{")
    assert describe("m", folder, tmp_path).config.max_position_embeddings == 2560


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    folder = tiny_models.llama(tmp_path / "llama")
    (tmp_path / "file").write_text("")
    assert describe("m", folder, tmp_path / "file").config.model_type == "llama"


def test_weights_in_several_files_and_under_a_head(tmp_path: Path) -> None:
    """Sharded, and of a BERT that a head was trained on, with the names of 2018."""
    llama = tiny_models.llama(tmp_path / "llama")
    parts = Path(shutil.copytree(llama, tmp_path / "parts"))
    tensors = load_file(parts / "model.safetensors")
    (parts / "model.safetensors").unlink()
    where = {}
    for i, name in enumerate(tensors):
        where[name] = f"model-{i % 2}.safetensors"
    for file in set(where.values()):
        save_file({name: tensors[name] for name in tensors if where[name] == file}, parts / file)
    (parts / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    prompt = Prompt(text="The harbour opens")
    written = [
        load_generator(str(folder), engine="lean", cache=tmp_path).generate([prompt], max_tokens=8)[0].text
        for folder in (llama, parts)
    ]
    assert written[0] == written[1]

    bert = tiny_models.bert(tmp_path / "bert")
    headed = Path(shutil.copytree(bert, tmp_path / "headed"))
    old = {
        f"bert.{name}".replace("LayerNorm.weight", "LayerNorm.gamma").replace("Norm.bias", "Norm.beta"): its
        for name, its in load_file(headed / "model.safetensors").items()
    }
    save_file(old | {"cls.predictions.bias": torch.zeros(3)}, headed / "model.safetensors")
    vectors = [
        load_encoder(str(folder), engine="lean", cache=tmp_path).encode_passages(["cats purr", "a"])
        for folder in (bert, headed)
    ]
    assert np.array_equal(vectors[0], vectors[1])


def test_missing_weights_are_named_and_other_formats_left_to_transformers(tmp_path: Path) -> None:
    folder = tiny_models.llama(tmp_path / "llama")
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"do not make the model .*layers\.1\.mlp\.up_proj\.weight"):
        load_generator(str(folder), engine="lean", cache=tmp_path)

    old = tiny_models.llama(tmp_path / "old")
    torch.save(load_file(old / "model.safetensors"), old / "pytorch_model.bin")
    (old / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"reads model\.safetensors, which is not there"):
        load_generator(str(old), engine="lean", cache=tmp_path)
    assert load_generator(str(old), cache=tmp_path).generate([Prompt(text="a")], max_tokens=1)
