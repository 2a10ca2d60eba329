"""`fieldstone serve` as people start it: from the first second to the last, and when it is killed."""

import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import count

import httpx
import pytest
from typer.testing import CliRunner

from fieldstone.cli.app import app
from fieldstone.errors import WorkspaceError
from fieldstone.serve.app import create_app
from fieldstone.serve.engine import Engine
from fieldstone.serve.keys import make_key
from fieldstone.serve.logs import PLAIN, PlainLines
from fieldstone.serve.run import serving
from serving import until, workspace_of

CRANE = {"question": "Which crane lifts forty tonnes?"}
FERRY = b"The ferry to Gull Island sails at noon.\n"


@contextmanager
def started(tmp_path, *arguments, **environment):
    """(process, a client of its address); killed at the end if it still runs."""
    log = tmp_path / "log"
    command = [sys.executable, "-m", "fieldstone.cli", "serve", *map(str, arguments), "--port", "0"]
    with log.open("w") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=out, env=os.environ | {"FIELDSTONE_KEYS": "/nowhere"} | environment
        )
    try:
        until(lambda: "http://" in log.read_text() or process.poll() is not None, 60)
        address = re.search(r"http://\S+:\d+", log.read_text())
        assert address, log.read_text()
        with httpx.Client(base_url=address[0], timeout=30) as client:
            until(lambda: answers(client), 60)
            yield process, client
    finally:
        process.kill()
        process.wait()


def answers(client):
    try:
        return client.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


def refused(*arguments):
    """What it says when it does not start."""
    done = CliRunner(env={"FIELDSTONE_KEYS": "/nowhere"}).invoke(app, ["serve", *map(str, arguments)])
    assert (done.exit_code, done.stdout) == (1, "")
    assert not [thread for thread in threading.enumerate() if "harbour" in thread.name]
    return done.stderr


def test_it_serves_until_it_is_told_to_stop(tmp_path):
    workspace = workspace_of(tmp_path / "harbour")
    with started(tmp_path, workspace.path) as (process, client):
        assert client.post("/api/ask", json=CRANE).json()["citations"]
        assert client.get("/api/documents", headers={"host": "evil.example"}).status_code == 421
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    log = (tmp_path / "log").read_text()
    assert log.rstrip().endswith("ended")
    assert "/api/ask" not in log
    assert "Traceback" not in log


@pytest.mark.parametrize("killed_at", ["acknowledged", pytest.param("working", marks=pytest.mark.slow)])
def test_what_was_acknowledged_survives_a_kill(tmp_path, killed_at):
    workspace = workspace_of(tmp_path / "harbour")
    names = [f"{n}.txt" for n in range(5)]
    files = [("file", (name, name.encode() + b": " + FERRY)) for name in names]
    with started(tmp_path, workspace.path) as (process, client):
        assert client.post("/api/documents", files=files).status_code == 202
        if killed_at == "working":
            until(
                lambda: (
                    "uploads/0.txt" in client.get("/api/documents?after=uploads/").text.split("progress")[0]
                )
            )
        process.kill()
        process.wait()
    with started(tmp_path, workspace.path) as (process, client):
        until(lambda: client.get("/api/documents").json()["progress"] is None, 60)
        states = {its["source"]: its["state"] for its in client.get("/api/documents").json()["documents"]}
        assert {states[f"uploads/{name}"] for name in names} == {"ready"}
        found = client.post("/api/search", json={"question": "When does the ferry sail?", "k": 5}).json()[
            "hits"
        ]
        assert {hit["source"] for hit in found} == {f"uploads/{name}" for name in names}


@pytest.mark.slow
def test_what_was_acknowledged_under_load_survives_a_kill(tmp_path):
    """Eight clients upload, ask and give their opinion without a pause when the process is killed."""
    workspace = workspace_of(tmp_path / "harbour")
    uploads, opinions = set(), set()

    def visit(base, number):
        with httpx.Client(base_url=base, timeout=30) as own, suppress(httpx.TransportError):
            for turn in count():
                name = f"{number}-{turn}.txt"
                if own.post("/api/documents", files={"file": (name, FERRY)}).status_code == 202:
                    uploads.add(f"uploads/{name}")
                answered = own.post("/api/ask", json=CRANE)
                given = {"answer_id": answered.json().get("id"), "good": True}
                if own.post("/api/feedback", json=given).status_code == 200:
                    opinions.add(given["answer_id"])

    with started(tmp_path, workspace.path) as (process, client), ThreadPoolExecutor(8) as visitors:
        for number in range(8):
            visitors.submit(visit, str(client.base_url), number)
        until(lambda: len(uploads) > 30 and len(opinions) > 30, 60)
        process.kill()
        process.wait()
    with started(tmp_path, workspace.path) as (process, client):
        until(lambda: client.get("/api/documents").json()["progress"] is None, 60)
        after, states = "", {}
        while listed := client.get("/api/documents", params={"after": after}).json()["documents"]:
            states |= {its["source"]: its["state"] for its in listed}
            after = listed[-1]["source"]
        assert {states.get(source) for source in uploads} == {"ready"}
        kept = client.get("/api/feedback", params={"limit": 1000}).json()["feedback"]
        assert opinions <= {its["answer_id"] for its in kept if its["good"]}


def test_beyond_this_machine_it_takes_a_key(tmp_path):
    workspace = workspace_of(tmp_path / "harbour")
    said = refused(workspace.path, "--host", "0.0.0.0")
    assert "serve.host = 0.0.0.0 lets other machines in" in said
    assert "fieldstone keys make NAME" in said
    assert "--open is for this machine alone" in refused(workspace.path, "--host", "0.0.0.0", "--open")
    keys = tmp_path / "keys.json"
    assert "there is no key in" in refused(workspace.path, "--keys", keys)
    token = make_key(keys, "me")
    with started(tmp_path, workspace.path, "--host", "0.0.0.0", "--keys", keys) as (_, client):
        address = str(client.base_url).replace("0.0.0.0", "127.0.0.1")
        assert httpx.post(f"{address}/api/ask", json=CRANE).status_code == 401
        key = {"authorization": f"Bearer {token}"}
        assert httpx.post(f"{address}/api/ask", json=CRANE, headers=key).status_code == 200
        assert httpx.post(f"{address}/api/documents", headers=key).status_code == 403


def test_its_log_is_for_machines_if_wanted_and_tells_no_secrets(tmp_path):
    workspace, keys = workspace_of(tmp_path / "harbour"), tmp_path / "keys.json"
    token = make_key(keys, "reading-room")
    with started(tmp_path, workspace.path, "--keys", keys, "--log", "json") as (process, client):
        key = {"authorization": f"Bearer {token}"}
        said = client.post("/api/ask", json=CRANE, headers=key).json()["text"]
        assert client.post("/api/ask", json=CRANE | {"stream": True}, headers=key).status_code == 200
        assert client.get(f"/api/documents?after={token}", headers=key).status_code == 200
        assert client.get("/api/documents/a%0Ab", headers={"authorization": "Bearer fs_x"}).status_code == 401
        with socket.create_connection((client.base_url.host, client.base_url.port)) as raw:
            raw.sendall(b"no HTTP at all\r\n\r\n")
            raw.recv(1000)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    text = (tmp_path / "log").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert all({"time", "level", "logger", "message"} <= set(line) for line in lines)
    told = [
        (line["method"], line["path"], line["status"], line["workspace"], line["key"])
        for line in lines
        if line["logger"] == "fieldstone.requests" and line["path"].startswith("/api/")
    ]
    assert told == [
        ("POST", "/api/ask", 200, "harbour", "reading-room"),
        ("POST", "/api/ask", 200, "harbour", "reading-room"),
        ("GET", "/api/documents", 200, "harbour", "reading-room"),
        ("GET", "/api/documents/a\nb", 401, None, None),
    ]
    assert all(line["milliseconds"] > 0 for line in lines if line["logger"] == "fieldstone.requests")
    assert "uvicorn.error" in {line["logger"] for line in lines}
    assert lines[-1]["message"] == "ended"
    for secret in (token, CRANE["question"], said, "Bearer"):
        assert secret not in text


def test_what_cannot_be_served_is_said(tmp_path):
    workspace = workspace_of(tmp_path / "harbour")
    assert "there is no workspace at" in refused(tmp_path / "nosuch")
    twin = workspace_of(tmp_path / "other" / "harbour")
    assert "two workspaces go by the name 'harbour'" in refused(workspace.path, twin.path)
    assert "serve.queue" in refused(workspace.path, "--set", "serve.queue=0")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "cannot listen at 127.0.0.1, port" in refused(workspace.path, "--port", taken.getsockname()[1])


@pytest.mark.slow
@pytest.mark.parametrize("reading", ["one-by-one", "together"])
def test_the_embedded_models_serve_many_at_once(tmp_path, reading):
    models = {"encoder": "embedded:minilm", "generator": "embedded:smollm2"}
    workspace = workspace_of(tmp_path / "harbour", **models, answer={"reading": reading, "max_tokens": 12})
    questions = ["Which crane lifts forty tonnes?", "What does a day at the quay cost?", "Is berth 8 open?"]
    with started(tmp_path, workspace.path) as (_, client):

        def ask(question):
            return client.post("/api/ask", json={"question": question}).json()

        def plain(got):
            return got["text"], [citation["quote"] for citation in got["citations"]]

        alone = {question: plain(ask(question)) for question in questions}
        with ThreadPoolExecutor(12) as pool:
            asked = [pool.submit(ask, question) for question in questions * 2]
            found = [
                pool.submit(client.post, "/api/search", json={"question": question})
                for question in questions * 4
            ]
            streamed = pool.submit(client.post, "/api/ask", json={"question": questions[0], "stream": True})
            assert all(its.result().json()["hits"] for its in found)
            got = [plain(its.result()) for its in asked]
        assert sum(its == alone[question] for its, question in zip(got, questions * 2, strict=True)) >= 5
        assert streamed.result().text.count("event: answer") == 1


def test_nobody_writes_lines_of_their_own_into_the_log():
    record = logging.LogRecord("fieldstone", logging.WARNING, "", 0, "%s", ("a\n2026 ERROR \x1b[2Jb",), None)
    assert PlainLines(PLAIN).format(record).endswith("WARNING a\ufffd2026 ERROR \ufffd[2Jb")


def test_a_program_serves_a_workspace_for_as_long_as_a_block(tmp_path):
    served = create_app({"harbour": Engine(workspace_of(tmp_path / "harbour"))}, hosts=["127.0.0.1"])
    with serving(served) as address:
        assert httpx.post(f"{address}/api/ask", json=CRANE).json()["citations"]
    with pytest.raises(httpx.TransportError):
        httpx.get(address)


def test_a_program_is_told_why_nothing_is_served(tmp_path):
    workspace = workspace_of(tmp_path / "harbour", encoder="watched:words")
    settings = workspace.settings_file.read_text()
    engine = Engine(workspace)
    workspace.settings_file.write_text(settings.replace("watched:words", str(tmp_path / "no-such-model")))
    with pytest.raises(WorkspaceError, match="no-such-model"), serving(create_app({"harbour": engine})):
        pass
    assert not [its for its in threading.enumerate() if its.name == "fieldstone-serving"]
