"""A build that is killed again and again ends as one that nobody disturbed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest

import tiny_models
from ports import handbooks, own_questions
from small_library import write_folder

PATIENCE = 120.0
"""Seconds after which a build that does not get there counts as stuck."""


def start(command, workspace):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    log = workspace.with_suffix(".log").open("w")
    return subprocess.Popen(
        [*command, "--into", str(workspace)], stdout=log, stderr=subprocess.STDOUT, env=environment
    )


def finish(command, workspace):
    assert start(command, workspace).wait(PATIENCE) == 0, workspace.with_suffix(".log").read_text()


def steps_done(workspace):
    path = workspace / "journal.jsonl"
    return [json.loads(line)["step"] for line in path.read_text().splitlines()] if path.exists() else []


def kill_when(command, workspace, ready):
    """Kill a build once `ready` says so; it must not have come to its end before."""
    process = start(command, workspace)
    deadline = time.monotonic() + PATIENCE
    while not ready(workspace):
        assert process.poll() is None, workspace.with_suffix(".log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def asking(workspace):
    path = workspace / "examples" / "asked.jsonl"
    return path.exists() and path.read_bytes().count(b"\n") >= 3


def tuning_retriever(workspace):
    return any(workspace.glob("models/retriever/*.tuning/inputs.txt"))


def tuning_generator(workspace):
    return any(workspace.glob("models/generator/*.tuning/checkpoint.pt"))


def reporting(workspace):
    return steps_done(workspace)[-1:] == ["tune-generator"]


def report_of(workspace):
    """The one report, without what differs between two runs: its date, seconds, and where it lies."""
    (path,) = workspace.glob("reports/*/report.json")
    return _timeless(json.loads(path.read_text(encoding="utf-8").replace(str(workspace), "WORKSPACE")))


def _timeless(part):
    if isinstance(part, dict):
        return {name: _timeless(its) for name, its in part.items() if name not in ("date", "seconds")}
    return [_timeless(its) for its in part] if isinstance(part, list) else part


@pytest.mark.slow
def test_killed_in_every_step_a_build_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    llama = tiny_models.llama(tmp_path / "llama", max_position_embeddings=2048)
    bert = tiny_models.bert(tmp_path / "bert")
    folder = write_folder(tmp_path / "folder", handbooks())
    command = [sys.executable, "-m", "fieldstone.cli", "build", str(folder)]
    for option, word in (("--questions", "What"), ("--measure", "Which")):
        file = tmp_path / f"{word}.jsonl"
        file.write_text("".join(json.dumps(asdict(q)) + "\n" for q in own_questions(word)))
        command += [option, str(file)]
    for flag in (
        f"models.encoder={bert}", f"models.generator={llama}", "models.device=cpu", "models.threads=1",
        "read.workers=1", "synthesize.lift=-100", "synthesize.dev=0.3", "synthesize.test=0.3",
        "synthesize.found_within=100", "retriever.batch=4", "generator.batch=2", "generator.rank=2",
        "answer.max_tokens=6", "answer.passages=2", "search.rerank_depth=4",
    ):  # fmt: skip
        command += ["--set", flag]

    finish(command, tmp_path / "undisturbed")
    killed = tmp_path / "killed"
    for ready in (asking, tuning_retriever, tuning_generator, reporting):
        kill_when(command, killed, ready)
    assert "report" not in steps_done(killed)
    finish(command, killed)

    expected = {path.name: path.read_bytes() for path in (tmp_path / "undisturbed/examples").iterdir()}
    assert {path.name: path.read_bytes() for path in (killed / "examples").iterdir()} == expected
    assert {"train.jsonl", "dev.jsonl", "test.jsonl", "rejected.jsonl", "asked.jsonl"} <= expected.keys()
    assert report_of(killed) == report_of(tmp_path / "undisturbed")
    assert not list(killed.glob("models/*/*.tuning"))
