"""Tuning by two processes gives what tuning by one gives."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny_models

HERE = Path(__file__).parent
CASES = ["lora", "full", "packed", "divided", "divided-lora", "seq2seq", "fused", "margin"]


def run(command: list[str], processes: int, folder: Path) -> str:
    """The standard output of a Python command, started alone or by torchrun."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "FIELDSTONE_CACHE": str(folder / "cache")}
    started = subprocess.run(
        [sys.executable, *(launcher if processes > 1 else []), *command],
        env=environment, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert started.returncode == 0, started.stderr[-3000:]
    return started.stdout


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bases")
    tiny_models.llama(folder / "llama")
    tiny_models.t5(folder / "t5")
    (folder / "bert").mkdir()
    tiny_models.bert(folder / "bert")
    config = json.loads((folder / "bert" / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "bert" / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def both(bases: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, tuple[Path, dict[str, Any]]]:
    """What one process made, and what two did: the folder, and the losses by the name of the tuning."""
    made = {}
    for processes in (1, 2):
        into = tmp_path_factory.mktemp(f"by-{processes}")
        out = run([str(HERE / "tuned_together.py"), str(bases), str(into)], processes, into)
        made[processes] = into, json.loads(out)  # fails if more than one has printed
    return made


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_two_processes_learn_what_one_learns(both: dict[int, tuple[Path, dict[str, Any]]], case: str) -> None:
    from safetensors.numpy import load_file

    (alone, losses), (shared, theirs) = both[1], both[2]
    assert theirs[case] == pytest.approx(losses[case], rel=1e-4)
    ours, others = (load_file(into / case / "model.safetensors") for into in (alone, shared))
    assert ours.keys() == others.keys()
    for name, tensor in ours.items():
        # the softmax takes a key's bias out again: its gradient is rounding, of which AdamW makes a step
        assert np.abs(tensor - others[name]).max() < (2e-3 if name.endswith("key.bias") else 1e-5), name
    assert sorted(p.name for p in alone.iterdir()) == sorted(p.name for p in shared.iterdir())


@pytest.mark.slow
def test_a_command_is_run_and_printed_once(tmp_path: Path) -> None:
    assert run(["-m", "fieldstone.cli", "--version"], 2, tmp_path).count("fieldstone ") == 1


@pytest.mark.slow
def test_an_error_ends_all_and_is_told_once(tmp_path: Path) -> None:
    with pytest.raises(AssertionError) as caught:
        run(["-m", "fieldstone.cli", "tune", str(tmp_path / "none")], 2, tmp_path)
    assert str(caught.value).count("there is no workspace at") == 1


@pytest.fixture
def group() -> Iterator[None]:
    """This process as the only one of a group."""
    from torch import distributed

    from fieldstone.tune import together

    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        with together.together():
            yield
    finally:
        distributed.destroy_process_group()


@pytest.mark.slow
def test_divided_weights_are_kept_whole_and_come_back(bases: Path, tmp_path: Path, group: None) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from fieldstone.tune.checkpoint import History, resumed, save_checkpoint
    from fieldstone.tune.divided import divide, is_divided, whole

    def begun() -> tuple[Any, dict[str, torch.Tensor], torch.optim.Optimizer]:
        model = AutoModelForCausalLM.from_pretrained(bases / "llama", dtype=torch.float32)
        divide(model)
        assert is_divided(model)
        learnt = dict(model.named_parameters())
        return model, learnt, torch.optim.AdamW(learnt.values(), lr=1e-3)

    def step(model: Any, optimizer: torch.optim.Optimizer) -> None:
        model.zero_grad()
        model(input_ids=torch.tensor([[5, 6, 7]]), labels=torch.tensor([[5, 6, 7]])).loss.backward()
        optimizer.step()

    model, learnt, optimizer = begun()
    step(model, optimizer)
    save_checkpoint(tmp_path / "work", "key", History(step=1), whole(learnt), whole(optimizer.state_dict()))
    kept = torch.load(tmp_path / "work" / "checkpoint.pt", weights_only=True)
    assert {type(tensor) for tensor in kept["learnt"].values()} == {torch.Tensor}
    again, theirs, other = begun()
    assert resumed(tmp_path / "work", "key", theirs, other).step == 1
    step(model, optimizer)
    step(again, other)
    for name, tensor in whole(learnt).items():
        assert torch.equal(tensor, whole(theirs)[name]), name
