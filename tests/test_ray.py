"""The steps over a real Ray of two workers: the same result as on one machine, whatever dies on the way."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest

os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}  # read when ray is imported
pytest.importorskip("ray", reason="ray is not installed; type: make ray")

import tiny_models
from fieldstone import models, recipes
from fieldstone.errors import ClusterError, EndpointError, ModelError, ReadError
from fieldstone.models.towers import ADAPTER, identity, write_adapter, write_towers
from fieldstone.over_ray import connected
from fieldstone.read import Limits, find_files, read_files
from fieldstone.read.elsewhere import read_elsewhere
from fieldstone.search import embed
from fieldstone.settings import resolve_settings
from fieldstone.workspace import create_workspace
from over_machines import die, double_and_die_once, fail, fail_to_read, write_package
from ports import handbooks
from serving import until

STEPS = ("read", "split", "index", "synthesize")


def free_port():
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def ray(tmp_path_factory):
    """The address of a Ray of two workers that find our modules and the package of `over_machines`."""
    package = tmp_path_factory.mktemp("ray") / "package"
    write_package(package)
    address = f"127.0.0.1:{free_port()}"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(package))
        patch.setenv("RAY_worker_niceness", "0")  # at 15 its workers stand still while other tests run
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
        head = start_ray(address)
        try:
            yield address
        finally:
            head.send_signal(signal.SIGINT)
            head.wait(60)


def start_ray(address):
    program = "from ray.scripts.scripts import main; main()"
    head = subprocess.Popen(
        [
            sys.executable, "-c", program, "start", "--head", "--block", "--num-cpus=2",
            f"--port={address.rpartition(':')[2]}", "--include-dashboard=false", "--disable-usage-stats",
        ],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    for line in head.stdout:
        if "Ray runtime started" in line:
            return head
    raise AssertionError(f"ray did not start: {head.wait()}")


@pytest.fixture(scope="module")
def machines(ray):
    with connected(ray) as its:
        yield its


def folder_of(path, texts):
    for name, text in texts.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(text)
    return path


def built(folder, workspace, *flags, steps=STEPS, **where):
    settings = resolve_settings(
        environment={},
        flags=["models.encoder=fake:words", "models.generator=rater:it", "split.tokens=50", *flags],
    )
    opened = create_workspace(workspace)
    recipe = recipes.Recipe("few", "", "", "", steps)
    recipes.run(recipe, folder, opened, settings, **where)
    return opened


def passages_and_vectors(workspace):
    library = workspace.library()
    try:
        encoder = library.meta("encoder")
        passages = library.passages()
        ((_, vectors),) = library.vectors(encoder, [p.id for p in passages])
        return list(library.documents()), passages, encoder, vectors
    finally:
        library.close()


def test_work_comes_back_in_order_though_a_worker_dies(machines, tmp_path):
    work = partial(double_and_die_once, tmp_path)
    assert list(machines.spread(work, iter(range(8)))) == [2 * i for i in range(8)]
    assert (tmp_path / "3-1").exists()
    assert len(list(tmp_path.iterdir())) == 9  # no other batch was done again


def test_what_the_work_raises_is_raised_here(machines):
    done = machines.spread(fail, range(4))
    assert [next(done), next(done)] == [0, 1]
    with pytest.raises(EndpointError, match=r"^no model answers$"):
        next(done)
    with pytest.raises(ReadError) as caught:
        list(machines.spread(fail_to_read, [1]))
    assert caught.value.reason == "damaged"


def test_a_batch_that_ends_every_worker_is_given_up(machines):
    with pytest.raises(ClusterError, match="what ended 4 workers is not tried again"):
        list(machines.spread(die, range(4)))


def test_hostile_files_are_told_of_as_on_one_machine(machines, tmp_path):
    files = {"a.txt": "The tide.", "b.crash": "x", "c.hang": "x", "d.md": "# Berth 7\n\nIt takes ships."}
    found = list(find_files(folder_of(tmp_path / "folder", files)))
    limits = Limits(seconds=3)
    there = list(read_elsewhere(found, limits, machines.spread))
    assert there == list(read_files(found, limits, 1))
    assert "SIGSEGV" in there[1].reason
    assert "longer than 3 s" in there[2].reason
    assert [bool(result.documents) for result in there] == [True, False, False, True]


def test_a_build_over_ray_is_that_of_one_machine(machines, tmp_path):
    folder = folder_of(tmp_path / "folder", handbooks())
    flags = ("synthesize.rate_passages=true", "synthesize.rate_questions=true", "synthesize.least_rating=7")
    one = built(folder, tmp_path / "one", *flags)
    many = built(folder, tmp_path / "many", *flags, loader=machines, spread=machines.spread)
    (*texts, vectors), (*others, other_vectors) = passages_and_vectors(one), passages_and_vectors(many)
    assert texts == others
    assert len(texts[1]) == len(vectors) == 24
    assert (vectors == other_vectors).all()
    names = {"asked.jsonl", "train.jsonl", "dev.jsonl", "test.jsonl", "rejected.jsonl"}
    examples = {name: (one.path / "examples" / name).read_bytes() for name in names}
    assert examples == {name: (many.path / "examples" / name).read_bytes() for name in names}
    assert b'"ratings": {"passages": [9' in examples["asked.jsonl"]
    assert examples["train.jsonl"]


def test_vectors_are_the_same_to_the_bit_though_a_worker_is_killed(machines, tmp_path, monkeypatch):
    monkeypatch.setattr(embed, "BATCH", 4)
    folder = folder_of(tmp_path / "folder", handbooks())
    flags, steps = ("models.encoder=embedded:minilm", "models.threads=1"), STEPS[:3]
    one = built(folder, tmp_path / "one", *flags, steps=steps)
    killed = []

    def kill(step, done, total, unit):
        if step == "embed" and done and not killed:
            killed.append(worker_pid())
            os.kill(killed[0], signal.SIGKILL)

    many = built(
        folder, tmp_path / "many", *flags, steps=steps,
        progress=kill, loader=machines, spread=machines.spread,
    )  # fmt: skip
    (*texts, vectors), (*others, other_vectors) = passages_and_vectors(one), passages_and_vectors(many)
    assert killed
    assert texts == others
    assert (vectors == other_vectors).all()


def worker_pid():
    """A process of the pool of actors."""
    for folder in Path("/proc").iterdir():
        with suppress(OSError):
            if folder.name.isdigit() and b"_Worker" in (folder / "cmdline").read_bytes():
                return int(folder.name)
    raise AssertionError("there is no worker")


def test_another_model_there_than_here_is_refused(machines):
    generator = machines.load_generator(f"here:{os.getpid()}")
    with pytest.raises(ModelError, match="is not the same on"):
        list(machines.spread(generator.count_tokens, [["a b"]]))


def test_a_model_that_is_not_there_is_told_with_what_to_do(machines, tmp_path):
    encoder = machines.load_encoder(str(tiny_models.bert(tmp_path / "bert")))
    (tmp_path / "bert").rename(tmp_path / "away")
    with pytest.raises(ModelError, match=r"names no model and is no folder here.*without --ray"):
        list(machines.spread(encoder.encode_passages, [["a"]]))


def test_of_two_towers_the_machines_need_that_of_the_passages_alone(machines, tmp_path):
    base = models.load_encoder("fake:words")
    write_towers(tmp_path / "towers", "fake:words", identity(base))
    write_adapter(tmp_path / "towers" / ADAPTER, np.eye(256, dtype=np.float32), np.zeros(256, np.float32))
    encoder = machines.load_encoder(str(tmp_path / "towers"))
    (tmp_path / "towers").rename(tmp_path / "away")
    (vectors,) = machines.spread(encoder.encode_passages, [["Berth 7 takes ships."]])
    assert (vectors == base.encode_passages(["Berth 7 takes ships."])).all()


@pytest.mark.parametrize("given", ["address", "local"])
def test_the_command(ray, tmp_path, given):
    address, before = ray if given == "address" else given, raylets()
    folder = folder_of(tmp_path / "folder", handbooks(2))
    command = [
        sys.executable, "-m", "fieldstone.cli", "build", str(folder), "--into", str(tmp_path / "w"),
        "--recipe", "guide", "--set", "models.encoder=fake:words", "--ray", address,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("2 files read, 0 unchanged, 0 removed;")
    assert "ray" not in done.stdout + done.stderr.replace(ray, "")
    until(lambda: raylets() == before)  # what the command has started ends with it


def raylets():
    """The processes that are a machine of some Ray."""
    found = set()
    for folder in Path("/proc").iterdir():
        with suppress(OSError):
            if (
                folder.name.isdigit()
                and b"raylet/raylet" in (folder / "cmdline").read_bytes().split(b"\0")[0]
            ):
                found.add(folder.name)
    return found
