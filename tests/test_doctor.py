from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from fieldstone.cli.app import app
from fieldstone.doctor import BILLIONS, describe_model, examine, need
from fieldstone.settings import ModelSettings


def test_examine_says_what_models_would_find() -> None:
    checkup = examine(ModelSettings(device="cpu", threads=1))
    assert checkup.device.name == "cpu"
    assert checkup.device.why == "asked for"
    assert checkup.threads == 1
    assert 0 < (checkup.memory.available or 1) <= checkup.memory.total
    assert {"embedded:minilm", "embedded:smollm2"} <= {model.name for model in checkup.models}
    assert [n.billions for n in checkup.needs] == list(BILLIONS)


def test_every_model_has_a_place_or_a_reason() -> None:
    for model in examine(ModelSettings(device="cpu")).models:
        assert model.place if model.ready else "type:" in model.state


def test_needs_grow_with_size_and_tuning() -> None:
    needs = [need(billions) for billions in BILLIONS]
    assert needs == sorted(needs, key=lambda n: n.run_bf16)
    for n in needs:
        assert n.billions * 2e9 < n.run_bf16 < n.run_fp32 < n.tune_fp32
        assert n.run_bf16 < n.tune_bf16 < n.tune_fp32


@pytest.mark.parametrize("name", ["fake:words", "http://host:1/v1#model"])
def test_a_model_elsewhere_has_no_device(name: str) -> None:
    assert describe_model(name, ModelSettings()) == name


def test_a_model_here_has_one() -> None:
    told = describe_model("embedded:minilm", ModelSettings(device="cpu", threads=2))
    assert told.startswith("embedded:minilm on cpu (2 threads, ")
    assert "1 thread," in describe_model("embedded:minilm", ModelSettings(device="cpu", threads=1))


def test_the_command() -> None:
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 0
    assert "memory" in result.stdout
    assert "What fits in" in result.stdout
    assert max(map(len, result.stdout.splitlines()[:4])) <= 80
    as_json = json.loads(CliRunner().invoke(app, ["doctor", "--json"]).stdout)
    assert as_json["device"]["name"]
    assert len(as_json["needs"]) == len(BILLIONS)
