"""The server's own API, over a real connection: what it answers, and how it says no."""

import json
import threading

import httpx
import pytest

from serving import GENERATOR, running, until, workspace_of

CRANE = "Which crane lifts forty tonnes?"
WATCHED = {"encoder": "watched:words", "generator": "watched:words"}
LONG = {"generator": "watched:long"}


@pytest.fixture(scope="module")
def harbour(tmp_path_factory):
    path = tmp_path_factory.mktemp("served")
    first = workspace_of(path / "harbour")
    second = workspace_of(path / "island", {"ferry.md": "The ferry to Gull Island sails at noon."})
    with running(first, second) as address, httpx.Client(base_url=address, timeout=20) as client:
        yield client


def events(response):
    """(name, data) of each server-sent event."""
    told = []
    for block in "".join(response.iter_text()).split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if "data" in lines:
            told.append((lines.get("event", ""), json.loads(lines["data"])))
    return told


def test_a_search(harbour):
    given = {"question": CRANE, "k": 3, "filter": {"source": "berths/*"}}
    got = harbour.post("/api/search", json=given).json()
    assert got["workspace"] == "harbour"
    assert got["seconds"] > 0
    assert [hit["rank"] for hit in got["hits"]] == [1, 2]
    best = got["hits"][0]
    assert set(best) == {"rank", "score", "scores", "source", "title", "passage"}
    assert set(best["scores"]) == {"dense", "lexical", "fused"}
    assert best["source"] == "berths/berth-7.md"
    assert set(best["passage"]) == {"id", "document_id", "text", "start", "end", "headings", "page"}
    passage = harbour.get(f"/api/passages/{best['passage']['id']}").json()
    assert passage == {**best["passage"], "source": best["source"], "title": best["title"]}
    document = harbour.get(f"/api/documents/{passage['document_id']}").json()
    assert document["text"][passage["start"] : passage["end"]] == passage["text"]
    assert set(document) == {"id", "source", "title", "text", "metadata", "headings", "pages"}


def test_a_search_with_a_second_look(harbour):
    given = {"question": CRANE, "k": 3, "rerank": True, "filter": {"source": "berths/*"}}
    got = harbour.post("/api/search", json=given).json()
    assert [set(hit["scores"]) for hit in got["hits"]] == [{"dense", "lexical", "fused", "likelihood"}] * 2
    answered = harbour.post("/api/ask", json={k: given[k] for k in ("question", "filter")}).json()
    assert got["hits"] == answered["hits"]
    del given["rerank"]
    assert "likelihood" not in harbour.post("/api/search", json=given).json()["hits"][0]["scores"]


def test_an_answer(harbour):
    got = harbour.post("/api/ask", json={"question": CRANE}).json()
    assert (got["question"], got["asked"], got["workspace"]) == (CRANE, CRANE, "harbour")
    assert got["answer"] == got["text"] == "Its crane lifts forty tonnes"
    assert not got["abstained"]
    assert 0 <= got["confidence"] <= 1
    (citation,) = got["citations"]
    assert citation["number"] == 1
    assert citation["verified"]
    assert (citation["source"], citation["headings"], citation["page"]) == ("berths/berth-7.md", [], None)
    hit = next(hit for hit in got["hits"] if hit["passage"]["id"] == citation["passage_id"])
    text = harbour.get(f"/api/documents/{hit['passage']['document_id']}").json()["text"]
    assert text[citation["start"] : citation["end"]] == citation["quote"]
    assert set(got["timings"]) == {"search", "read"}
    assert got["id"] != harbour.post("/api/ask", json={"question": CRANE}).json()["id"]


def test_what_the_documents_do_not_answer(harbour):
    got = harbour.post("/api/ask", json={"question": "...?!"}).json()
    assert got["abstained"]
    assert got["answer"] is None
    assert got["text"]
    assert got["citations"] == []


def test_a_follow_up_is_made_self_contained_and_shown(harbour):
    history = [{"question": "What is the draught at berth 7?", "answer": "9.5 m"}]
    got = harbour.post("/api/ask", json={"question": "And berth 8?", "history": history}).json()
    assert got["question"] == "And berth 8?"
    assert got["asked"] == "What is the draught at berth 8?"


def test_a_stream(harbour):
    with harbour.stream("POST", "/api/ask", json={"question": CRANE, "stream": True}) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        told = events(response)
    assert [name for name, _ in told] == ["asked", "hits", "text", "answer"]
    whole = harbour.post("/api/ask", json={"question": CRANE}).json()
    assert told[0][1] == {"asked": CRANE}
    assert told[1][1] == {"hits": whole["hits"]}
    assert told[2][1] == {"text": whole["text"]}
    assert {**told[3][1], "id": 0, "timings": 0} == {**whole, "id": 0, "timings": 0}


def test_several_workspaces(harbour):
    assert harbour.get("/api/workspaces").json() == {
        "workspaces": [
            {"name": "harbour", "ready": True, "documents": 5, "passages": 5},
            {"name": "island", "ready": True, "documents": 1, "passages": 1},
        ]
    }
    asked = {"question": "When does the ferry sail?", "workspace": "island"}
    assert harbour.post("/api/ask", json=asked).json()["citations"][0]["source"] == "ferry.md"
    assert harbour.get("/api/documents", params={"workspace": "island"}).json()["workspace"] == "island"


def test_documents_page_by_page(harbour):
    first = harbour.get("/api/documents", params={"limit": 3}).json()
    assert first["next"] == first["documents"][-1]["source"]
    second = harbour.get("/api/documents", params={"limit": 3, "after": first["next"]}).json()
    assert second["next"] is None
    sources = [its["source"] for its in first["documents"] + second["documents"]]
    assert sources == sorted(sources)
    assert len(sources) == 5
    assert first["progress"] is None
    assert first["documents"][0] == {
        "source": "berths/berth-7.md", "type": "", "bytes": 67, "documents": 1, "passages": 1,
        "state": "ready", "reason": None, "warnings": [],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("method", "path", "given", "status", "code", "param"),
    [
        ("POST", "/api/search", {}, 400, "invalid_request", "question"),
        ("POST", "/api/search", {"question": ""}, 400, "invalid_request", "question"),
        ("POST", "/api/search", {"question": "x" * 4001}, 400, "invalid_request", "question"),
        ("POST", "/api/search", {"question": "\ud800"}, 400, "invalid_request", "question"),
        ("POST", "/api/search", {"question": "x", "k": 10**30}, 400, "invalid_request", "k"),
        ("POST", "/api/search", {"question": "x", "kk": 1}, 400, "invalid_request", "kk"),
        ("POST", "/api/search", {"question": "x", "filter": {"since": "May"}}, 400, "invalid_request", None),
        (
            "POST",
            "/api/search",
            {"question": "x", "workspace": "moon"},
            404,
            "no_such_workspace",
            "workspace",
        ),
        ("POST", "/api/ask", {"question": "x", "history": [{}]}, 400, "invalid_request", "history"),
        ("GET", "/api/documents?limit=0", None, 400, "invalid_request", "limit"),
        ("GET", "/api/documents/nosuch", None, 404, "not_found", "id"),
        ("GET", "/api/documents/..%2f..%2fetc%2fpasswd", None, 404, "not_found", None),
        ("GET", "/api/passages/nosuch%00", None, 404, "not_found", "id"),
        ("GET", "/api/nosuch", None, 404, "not_found", None),
        ("GET", "/api/search", None, 405, "method_not_allowed", None),
        ("DELETE", "/api/documents", None, 400, "invalid_request", "source"),
        ("DELETE", "/api/documents?source=nosuch", None, 404, "not_found", "source"),
    ],
)
def test_every_refusal_has_one_shape(harbour, method, path, given, status, code, param):
    body = (
        {}
        if given is None
        else {"content": json.dumps(given), "headers": {"content-type": "application/json"}}
    )
    got = harbour.request(method, path, **body)
    assert got.status_code == status
    assert set(got.json()) == {"error"}
    error = got.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["code"], error["param"]) == (code, param)
    assert error["message"]


def test_a_body_that_is_no_json(harbour):
    for content, kind in (
        (b"{", "application/json"),
        (b"\xff", "application/json"),
        (b'{"question":"x"}', "text/plain"),
    ):
        got = harbour.post("/api/search", content=content, headers={"content-type": kind})
        assert got.status_code == 400
        assert got.json()["error"]["message"]


def test_health_and_what_was_done(harbour):
    assert harbour.get("/healthz").json() == {"status": "ok"}
    assert harbour.get("/readyz").json() == {"status": "ready"}
    harbour.get("/api/documents/nosuch")
    text = harbour.get("/metrics").text
    assert 'fieldstone_requests_total{method="GET",route="/api/documents/{id}",status="404"}' in text
    assert 'fieldstone_ready{workspace="harbour"} 1.0' in text
    assert 'fieldstone_waiting{kind="answers",workspace="harbour"} 0.0' in text
    assert 'fieldstone_answers_total{abstained="false",workspace="harbour"}' in text


def test_the_schema_has_every_route_its_errors_and_examples(harbour):
    schema = harbour.get("/openapi.json").json()
    paths = set(schema["paths"])
    assert {"/api/search", "/api/ask", "/api/documents", "/v1/chat/completions", "/metrics"} <= paths
    for its in schema["paths"].values():
        for operation in its.values():
            assert "4XX" in operation["responses"]
            assert "422" not in operation["responses"]
            assert operation["description"]
    assert schema["components"]["schemas"]["AskRequest"]["properties"]["question"]["examples"]
    assert harbour.get("/docs").status_code == 404


def test_a_client_that_goes_away_frees_its_place(tmp_path):
    with running(workspace_of(tmp_path / "harbour", **WATCHED)) as address:
        GENERATOR.hold()
        with httpx.Client(base_url=address) as client:
            for stream in (False, False, True, True):  # the first is being answered, the others wait
                with pytest.raises(httpx.TimeoutException):
                    client.post("/api/ask", json={"question": CRANE, "stream": stream}, timeout=0.3)
            assert GENERATOR.reached.is_set()
            until(
                lambda: (
                    'fieldstone_waiting{kind="answers",workspace="harbour"} 0.0'
                    in client.get("/metrics").text
                )
            )
            assert 'status="499"' in client.get("/metrics").text
            written = len(GENERATOR.calls)
            GENERATOR.go()
            assert client.post("/api/ask", json={"question": CRANE}, timeout=20).json()["citations"]
            assert len(GENERATOR.calls) == written + 1 + 2  # the first one's reading, and the last one


def test_too_many_questions_are_told_to_come_back(tmp_path):
    workspace = workspace_of(tmp_path / "harbour", **WATCHED, serve={"queue": 1})
    with running(workspace) as address, httpx.Client(base_url=address, timeout=20) as client:
        GENERATOR.hold()
        threads = [
            threading.Thread(target=client.post, args=("/api/ask",), kwargs={"json": {"question": CRANE}})
            for _ in range(2)
        ]
        threads[0].start()
        assert GENERATOR.reached.wait(20)
        threads[1].start()
        until(lambda: 'kind="answers",workspace="harbour"} 1.0' in client.get("/metrics").text)
        for given in ({}, {"stream": True}):
            got = client.post("/api/ask", json={"question": CRANE, **given})
            assert got.status_code == 429
            assert int(got.headers["retry-after"]) >= 1
            assert (got.json()["error"]["type"], got.json()["error"]["code"]) == ("rate_limit_error", "busy")
        assert client.post("/api/search", json={"question": CRANE}).status_code == 200
        GENERATOR.go()
        for thread in threads:
            thread.join()


def test_what_takes_too_long_is_ended(tmp_path):
    with (
        running(workspace_of(tmp_path / "harbour", **WATCHED), seconds=0.3) as address,
        httpx.Client(base_url=address, timeout=20) as client,
    ):
        GENERATOR.hold()
        got = client.post("/api/ask", json={"question": CRANE})
        assert (got.status_code, got.json()["error"]["code"]) == (504, "timeout")
        with client.stream("POST", "/api/ask", json={"question": CRANE, "stream": True}) as response:
            told = events(response)
        assert [name for name, _ in told] == ["asked", "error"]
        assert told[-1][1]["error"]["code"] == "timeout"
        GENERATOR.go()


def test_a_stop_ends_streams_properly(tmp_path):
    heard = []

    def ask(address):
        with httpx.stream("POST", f"{address}/api/ask", json={"question": CRANE, "stream": True}) as response:
            heard.extend(events(response))

    with running(workspace_of(tmp_path / "harbour", **LONG)) as address:
        GENERATOR.hold()
        asking = threading.Thread(target=ask, args=(address,))
        asking.start()
        assert GENERATOR.reached.wait(20)
    asking.join(20)
    assert [name for name, _ in heard][-1] == "error"
    assert heard[-1][1]["error"]["code"] == "not_ready"


def test_a_library_that_is_gone_is_no_secret_told(tmp_path):
    workspace = workspace_of(tmp_path / "harbour")
    with running(workspace) as address, httpx.Client(base_url=address, timeout=20) as client:
        (workspace.path / "library.db").rename(workspace.path / "gone.db")
        got = client.get("/api/documents")
        assert (got.status_code, got.json()["error"]["code"]) == (503, "workspace")
        assert str(tmp_path) not in got.text
        assert got.headers["x-content-type-options"] == "nosniff"
        (workspace.path / "gone.db").rename(workspace.path / "library.db")
        assert client.get("/api/documents").status_code == 200
