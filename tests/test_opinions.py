"""What people say of answers comes in over HTTP, stays, and is shown to those who may see it."""

import json

import httpx
import pytest

from serving import running, until, workspace_of
from small_library import write_folder
from test_guard import SomeKeys

CRANE = "Which crane lifts forty tonnes?"


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    path = tmp_path_factory.mktemp("opinions")
    first = workspace_of(path / "harbour")
    second = workspace_of(path / "island", {"ferry.md": "The ferry sails at noon."})
    with running(first, second) as address, httpx.Client(base_url=address, timeout=20) as client:
        yield client


def of_stream(client, path, given):
    """The id of an answer that comes as a stream."""
    got = client.post(path, json={**given, "stream": True}).text
    told = [json.loads(line[6:]) for line in got.splitlines() if line.startswith("data: {")]
    return next(its["id"] for its in reversed(told) if "id" in its)


def test_something_can_be_said_of_every_answer(client):
    chat = {"messages": [{"role": "user", "content": CRANE}]}
    ferry = {"question": "When does the ferry sail?", "workspace": "island"}
    ids = [
        client.post("/api/ask", json={"question": CRANE}).json()["id"],
        client.post("/api/ask", json=ferry).json()["id"],
        of_stream(client, "/api/ask", {"question": CRANE}),
        client.post("/v1/chat/completions", json=chat).json()["id"],
        of_stream(client, "/v1/chat/completions", chat),
    ]
    bad = {"good": False, "correction": "the big one"}
    for id_, name in zip(ids, ["harbour", "island", "harbour", "harbour", "harbour"], strict=True):
        got = client.post("/api/feedback", json={"answer_id": id_, **bad})
        assert got.json() == {"workspace": name, "answer_id": id_}
    client.post("/api/feedback", json={"answer_id": ids[0], "good": True})
    kept = client.get("/api/feedback").json()["feedback"]
    assert [its["answer_id"] for its in kept] == [ids[4], ids[3], ids[2], ids[0]]
    assert (kept[0]["question"], kept[0]["good"], kept[0]["correction"]) == (CRANE, False, "the big one")
    assert kept[-1]["good"] is True
    assert kept[0]["quotes"] == ["Its crane lifts forty tonnes."]
    assert len(client.get("/api/feedback?workspace=island").json()["feedback"]) == 1


def test_what_is_not_answered_is_kept_unasked(client):
    client.post("/api/ask", json={"question": "...?!", "workspace": "island"})
    kept = client.get("/api/feedback?workspace=island&limit=1").json()["feedback"]
    assert (kept[0]["question"], kept[0]["answer"], kept[0]["good"]) == ("...?!", None, None)


def test_what_is_no_feedback_is_refused(client):
    for given, status in (
        ({"answer_id": "nosuch", "good": True}, 404),
        ({"answer_id": "nosuch"}, 400),
        ({"answer_id": "nosuch", "good": True, "comment": "x" * 4001}, 400),
    ):
        assert client.post("/api/feedback", json=given).status_code == status


def test_whose_key_it_was_is_kept_and_who_may_read_it(tmp_path):
    workspace = workspace_of(tmp_path / "harbour")
    with (
        running(workspace, access=SomeKeys()) as address,
        httpx.Client(base_url=address, timeout=20) as client,
    ):
        reader, master = ({"authorization": f"Bearer {token}"} for token in ("reader", "master"))
        id_ = client.post("/api/ask", json={"question": CRANE}, headers=reader).json()["id"]
        given = {"answer_id": id_, "good": True}
        assert client.post("/api/feedback", json=given).status_code == 401
        assert client.post("/api/feedback", json=given, headers=reader).status_code == 200
        assert client.get("/api/feedback", headers=reader).status_code == 403
        assert client.get("/api/feedback", headers=master).json()["feedback"][0]["who"] == "reader"


def test_a_workspace_that_keeps_none_says_so(tmp_path):
    workspace = workspace_of(tmp_path / "harbour", feedback={"keep": "nothing"})
    with running(workspace) as address, httpx.Client(base_url=address, timeout=20) as client:
        got = client.post("/api/feedback", json={"answer_id": "x", "good": True})
        assert (got.status_code, "set feedback.keep" in got.text) == (403, True)


def test_a_followed_folder_is_answered_from_as_it_changes(tmp_path):
    workspace = workspace_of(tmp_path / "harbour", {})
    folder = write_folder(tmp_path / "papers", {"ferry.md": "The ferry to Gull Island sails at noon.\n"})
    library = workspace.library()
    library.add_root("", str(folder))
    library.close()
    with running(workspace, watch=True) as address, httpx.Client(base_url=address, timeout=20) as client:

        def found():
            asked = {"question": "When does the ferry to Gull Island sail?"}
            return [hit["passage"]["text"] for hit in client.post("/api/search", json=asked).json()["hits"]]

        until(lambda: any("noon" in text for text in found()))
        (folder / "ferry.md").write_text("The ferry to Gull Island sails at dusk.\n")
        until(lambda: any("dusk" in text for text in found()))
        assert not any("noon" in text for text in found())
