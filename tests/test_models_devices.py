from __future__ import annotations

import os

import pytest

from fieldstone.errors import ModelError
from fieldstone.models.batches import by_length
from fieldstone.models.devices import cpu_features, memory, pick_device, pick_dtype, thread_count


def test_auto_device_says_why() -> None:
    device = pick_device()
    assert device.name in ("cpu", "cuda", "mps")
    assert device.why
    assert pick_device("cpu").name == "cpu"


@pytest.mark.parametrize("wanted", ["gpu", "", "cuda:99", "tpu"])
def test_an_impossible_device_is_refused(wanted: str) -> None:
    with pytest.raises(ModelError, match=r"give|GPUs"):
        pick_device(wanted)


def test_dtype() -> None:
    native = bool(cpu_features() & {"avx512_bf16", "amx_bf16"})
    assert pick_dtype("cpu") == ("bfloat16" if native else "float32")
    assert pick_dtype("mps") == "float32"
    assert pick_dtype("cpu", "float16") == "float16"
    with pytest.raises(ModelError, match="int4"):
        pick_dtype("cpu", "int4")


def test_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    assert thread_count(3) == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert thread_count() == 5
    monkeypatch.setenv("OMP_NUM_THREADS", "nonsense")
    assert 1 <= thread_count() <= (os.cpu_count() or 1)
    with pytest.raises(ModelError, match="0"):
        thread_count(0)


def test_memory() -> None:
    found = memory()
    assert found.total > 1 << 20
    assert found.available is None or 0 <= found.available <= found.total


def test_batches_hold_each_index_once_within_the_budget() -> None:
    lengths = [5, 0, 90, 7, 7, 200, 3, 1]
    batches = list(by_length(lengths, budget=100, most=3))
    assert sorted(i for batch in batches for i in batch) == list(range(8))
    assert batches[0] == [5]
    for batch in batches:
        assert len(batch) <= 3
        assert len(batch) == 1 or max(lengths[i] for i in batch) * len(batch) <= 100
    assert list(by_length([], budget=1)) == []
