"""Federation over real processes: SuperLink, SuperNodes, TLS, keys, kills, masks, what is on the wire."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("flwr")

from certificates import make_certificates
from fieldstone.examples import read_examples
from fieldstone.federate.flower import answer_record, record_of, reply_of, request_of
from fieldstone.federate.messages import Plan, Reply, Request, read_weights
from fieldstone.federate.split import divided, part_of
from harbours import harbours
from serving import workspace_of
from toy_sites import settings

TOY = Path(__file__).with_name("toy_sites.py")


def free_port():
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Processes:
    """Programs of a test, all ended with it."""

    def __init__(self, folder):
        self.folder, self.running = folder, []
        self.home = folder / "flower"

    def start(self, name, *arguments):
        log = (self.folder / f"{name}.out").open("ab")
        child = subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            stdout=log,
            stderr=log,
            env={**os.environ, "FLWR_HOME": str(self.home), "PYTHONUNBUFFERED": "1"},
        )
        log.close()
        self.running.append(child)
        return child

    def toy(self, name, *arguments):
        return self.start(name, TOY, *arguments)

    def said(self, name):
        file = self.folder / f"{name}.out"
        return file.read_text(errors="replace") if file.exists() else ""

    def until(self, name, words, seconds=600):
        end = time.monotonic() + seconds
        while words not in self.said(name):
            assert time.monotonic() < end, self.said(name)
            time.sleep(0.1)


@pytest.fixture
def processes(tmp_path):
    made = Processes(tmp_path)
    yield made
    for child in made.running:
        if child.poll() is None:
            child.send_signal(signal.SIGTERM)
    for child in made.running:
        with suppress(subprocess.TimeoutExpired):
            child.wait(10)
        if child.poll() is None:
            child.kill()


def finished(process, seconds=600):
    return process.wait(seconds) == 0


def weights_of(folder, number):
    return read_weights(folder / f"round-{number:04}.safetensors")["bias"]


def test_a_message_comes_back_as_it_was_sent():
    how = settings()
    plan = Plan(
        run="0" * 16,
        base="b",
        seed=0,
        federate=how.federate,
        retriever=how.retriever,
        generator=how.generator,
    )
    weights = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros(3, np.float32)}
    request = request_of(record_of(Request("train", plan, 3, weights)))
    assert (request.asked, request.plan, request.round) == ("train", plan, 3)
    assert all(np.array_equal(request.weights[name], its) for name, its in weights.items())
    reply = reply_of(answer_record(Reply(weights, {"questions": 3.0}, (1.0, 2.0, 3.0), "failed", "feed")))
    assert (reply.figures, list(reply.sums), reply.problem, reply.base) == (
        {"questions": 3.0}, [1.0, 2.0, 3.0], "failed", "feed",
    )  # fmt: skip
    assert all(np.array_equal(reply.change[name], its) for name, its in weights.items())
    assert reply_of(record_of(Request("join", plan))).problem == "unreadable"


@pytest.mark.slow
def test_with_certificates_and_keys_a_killed_coordinator_and_a_killed_site_come_back(tmp_path, processes):
    safe = make_certificates(tmp_path / "safe", 4)
    (safe / "site-3.pub").rename(safe / "stranger.pub")
    address, where = f"127.0.0.1:{free_port()}", tmp_path / "rounds"
    how = ("federate.rounds=2", "federate.sites=3", "federate.fewest=3", "federate.deadline=120")

    def run():
        return processes.toy("run", "run", address, where, "--safe", safe, *how)

    def site(number, aim, questions):
        key = safe / f"site-{number}"
        return processes.toy(
            f"site-{number}", "site", address, tmp_path / f"s{number}", aim, questions, safe / "ca.pem", key
        )

    coordinator = run()
    sites = [site(0, 1.0, 10), site(1, 2.0, 30), site(2, -1.0, 60)]
    stranger = site(3, 99.0, 9999)
    processes.until("site-1", "train 1")
    coordinator.kill()  # in the middle of a round
    coordinator.wait()
    sites[2].kill()
    sites[2].wait()
    sites[2] = site(2, -1.0, 60)
    assert finished(run())
    assert all(map(finished, sites))
    assert stranger.poll() != 0
    assert "join" not in processes.said("site-3")
    assert "Failed to activate" in (tmp_path / "s3" / "supernode.log").read_text()
    for number in (1, 2):  # what it would be undisturbed
        assert weights_of(where, number) == pytest.approx(0.1 * (1 - 0.5**number), rel=1e-5)
    outcome = json.loads((where / "outcome.json").read_text())
    assert len(outcome["finished"]) == 3
    assert sorted(outcome["rounds"][1]["sites"].values()) == [10, 30, 60]


@pytest.mark.slow
def test_masked_updates_add_up_and_a_site_that_falls_out_is_missed_in_the_next(tmp_path, processes):
    address, where = f"127.0.0.1:{free_port()}", tmp_path / "rounds"
    how = ("federate.rounds=2", "federate.sites=3", "federate.deadline=30", "federate.secure=true")
    coordinator = processes.toy("run", "run", address, where, *how)
    sites = [
        processes.toy(f"site-{n}", "site", address, tmp_path / f"s{n}", aim, 1)
        for n, aim in enumerate((0.5, 1.0, -0.25))
    ]
    processes.until("run", "federate 1 2 rounds")
    sites[2].kill()
    assert finished(coordinator)
    assert weights_of(where, 1) == pytest.approx(0.5 * 1.25 / 3, abs=1e-5)  # a step of quantising: 2e-7
    first = weights_of(where, 1)
    assert weights_of(where, 2) == pytest.approx(first + 0.5 * (0.75 - first), abs=1e-5)
    outcome = json.loads((where / "outcome.json").read_text())
    assert list(outcome["rounds"][1]["left_out"].values()) == ["not in the sum"]


class Wire:
    """A way between SuperNodes and the SuperLink that keeps all bytes that pass."""

    def __init__(self, port):
        self.target, self.kept = port, bytearray()
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with suppress(OSError):
            while True:
                near, _ = self.server.accept()
                try:
                    far = socket.create_connection(("127.0.0.1", self.target))
                except OSError:
                    near.close()
                    continue
                for ends in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=ends, daemon=True).start()

    def _carry(self, source, target):
        with suppress(OSError):
            while data := source.recv(1 << 16):
                self.kept += data
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@pytest.mark.slow
def test_three_workspaces_tune_one_adapter_and_no_text_is_on_the_wire_or_in_a_log(tmp_path, processes):
    whole = harbours(tmp_path / "whole")
    library = whole.library()
    texts = [p.text for p in library.passages()]
    names = [p.id for p in library.passages()] + sorted(library.files())
    sites = [
        part_of(whole, its, tmp_path / f"site-{n}") for n, its in enumerate(divided(library, 3, skewed=False))
    ]
    library.close()
    examples = read_examples(whole.path / "examples" / "train.jsonl")
    port, where = free_port(), tmp_path / "rounds"
    where.mkdir()
    (where / "fieldstone.toml").write_text((whole.path / "fieldstone.toml").read_text())
    wire = Wire(port)
    command = ("-m", "fieldstone.cli", "-q", "federate")
    how = ("--set", "federate.sites=3", "--set", "federate.fewest=3", "--insecure")
    coordinator = processes.start("run", *command, "run", where, "--address", f"127.0.0.1:{port}", *how)
    joined = [
        processes.start(its.path.name, *command, "join", its.path, f"127.0.0.1:{wire.port}", "--insecure")
        for its in sites
    ]
    assert finished(coordinator, 1200), processes.said("run")
    wire.server.close()
    assert all(its.wait(60) == 0 for its in joined)

    first, second = (read_weights(where / f"round-000{n}.safetensors") for n in (1, 2))
    changes = [read_weights(next(its.path.glob("federation/*/round-0002-*.safetensors"))) for its in sites]
    counts = np.array([len(read_examples(its.path / "examples" / "train.jsonl")) for its in sites])
    for name in ("weight", "bias"):
        by_hand = first[name] + sum(
            count / counts.sum() * its[name] for count, its in zip(counts, changes, strict=True)
        )
        assert np.allclose(second[name], by_hand, atol=1e-7)
        assert np.abs(second[name]).max() > 1e-3
        assert all(not np.allclose(second[name], first[name] + its[name], atol=1e-5) for its in changes)

    assert len(wire.kept) > 10 * second["weight"].nbytes  # it has been read, and is not encrypted
    assert second["bias"].tobytes() in wire.kept
    assert b"fedavg" in wire.kept
    logs = [where / "superlink.log", *(its.path / "federation" / "supernode.log" for its in sites)]
    told = b"".join(its.read_bytes() for its in logs) + processes.said("run").encode()
    for place in (bytes(wire.kept), told):
        for text in (*texts, *(e.question for e in examples)):
            assert text[:24].encode() not in place
        for name in (*names, *(e.id for e in examples)):
            assert name.encode() not in place
    assert "was tried in the place of" in processes.said("site-0")  # the verdict is shown at the site alone
    assert "was tried in the place of" not in processes.said("run")


def test_a_site_says_that_it_waits_and_what_an_address_is(tmp_path, processes):
    workspace_of(tmp_path / "site")
    join = ("-m", "fieldstone.cli", "federate", "join", tmp_path / "site")
    nobody = f"127.0.0.1:{free_port()}"
    waiting = processes.start("waiting", *join, nobody, "--insecure")
    processes.until("waiting", "this site waits for the coordinator", 60)
    assert f"nobody answers at {nobody} yet" in processes.said("waiting")
    assert waiting.poll() is None
    waiting.send_signal(signal.SIGINT)
    assert waiting.wait(30) == 130
    assert processes.start("wrong", *join, "coordinator.example", "--insecure").wait(60) == 1
    assert "coordinator.example is no HOST:PORT" in " ".join(processes.said("wrong").split())
