"""Who may call from where, how much may come in, which headers go out; and whose key opens what."""

import json
import socket

import httpx
import pytest

from fieldstone.serve.keys import Key
from serving import running, workspace_of


class SomeKeys:
    """A key that reads the harbour, and one that may do everything."""

    def of(self, token):
        """As `Keys` does."""
        known = token in ("master", "reader")
        return Key(token, "", None, token == "master", "", "") if known else None

    def allows(self, token, workspace, admin=False, *, asking=False):
        """As `Keys` does."""
        return token == "master" or (token == "reader" and workspace == "harbour" and not admin)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    path = tmp_path_factory.mktemp("guard")
    return workspace_of(path / "harbour"), workspace_of(
        path / "island", {"ferry.md": "A ferry sails at noon."}
    )


@pytest.fixture(scope="module")
def local(both):
    hosts = ("127.0.0.1", "localhost")
    origins = ("https://intranet.example",)
    with (
        running(*both, hosts=hosts, upload_megabytes=2, origins=origins) as address,
        httpx.Client(base_url=address, timeout=20) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def locked(both):
    with running(*both, access=SomeKeys()) as address, httpx.Client(base_url=address, timeout=20) as client:
        yield client


def test_every_response_carries_the_headers(local):
    for path in ("/healthz", "/nosuch", "/api/documents"):
        headers = local.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["cache-control"] == "no-store"
        assert "server" not in headers


@pytest.mark.parametrize(
    ("host", "status"), [("127.0.0.1:1", 200), ("localhost", 200), ("evil.example", 421), ("", 421)]
)
def test_a_name_that_someone_pointed_at_this_machine_is_refused(local, host, status):
    got = local.get("/api/documents", headers={"host": host})
    assert got.status_code == status


def test_another_pages_script_may_not_change_anything(local):
    given = {"json": {"question": "crane"}}
    for origin, status in (
        (str(local.base_url).rstrip("/"), 200),
        ("https://intranet.example", 200),
        ("https://evil.example", 403),
        ("null", 403),
    ):
        assert local.post("/api/search", headers={"origin": origin}, **given).status_code == status
    upload = {"files": {"file": ("a.txt", b"x")}, "headers": {"origin": "https://evil.example"}}
    assert local.post("/api/documents", **upload).status_code == 403


def test_cors_is_closed_but_to_those_that_are_named(local):
    asks = {"access-control-request-method": "POST", "access-control-request-headers": "content-type"}
    good = local.options("/api/search", headers={"origin": "https://intranet.example", **asks})
    assert good.headers["access-control-allow-origin"] == "https://intranet.example"
    evil = local.options("/api/search", headers={"origin": "https://evil.example", **asks})
    assert "access-control-allow-origin" not in evil.headers
    read = local.get("/api/documents", headers={"origin": "https://evil.example"})
    assert "access-control-allow-origin" not in read.headers


def test_without_any_origin_named_cors_is_shut(locked):
    asks = {"origin": "https://evil.example", "access-control-request-method": "POST"}
    got = locked.options("/api/search", headers=asks)
    assert got.status_code == 405
    assert not [name for name in got.headers if name.startswith("access-control")]


def test_a_body_over_its_limit_is_refused(local):
    large = json.dumps({"question": "x", "more": "y" * 2**20}).encode()
    kind = {"content-type": "application/json"}
    assert local.post("/api/search", content=large, headers=kind).status_code == 413
    in_pieces = local.post("/api/search", content=iter([large[: 2**19], large[2**19 :]]), headers=kind)
    assert (in_pieces.status_code, in_pieces.json()["error"]["code"]) == (413, "too_large")
    upload = local.post("/api/documents", files={"file": ("a.txt", b"x" * (2 * 2**20 + 1))})
    assert (upload.status_code, upload.json()["error"]["code"]) == (413, "too_large")


def test_a_request_that_is_said_to_be_huge_is_not_waited_for(local):
    with socket.create_connection((local.base_url.host, local.base_url.port), timeout=5) as line:
        head = "POST /api/documents HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data\r\n"
        line.sendall(f"{head}Content-Length: 10000000000\r\n\r\n".encode())
        assert line.recv(100).startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize(
    ("token", "method", "path", "status"),
    [
        (None, "GET", "/healthz", 200),
        (None, "GET", "/readyz", 200),
        (None, "GET", "/metrics", 401),
        (None, "GET", "/api/documents", 401),
        (None, "GET", "/api/workspaces", 401),
        ("wrong", "GET", "/api/workspaces", 401),
        (None, "GET", "/v1/models", 401),
        ("wrong", "GET", "/api/documents", 401),
        ("wrong", "GET", "/api/documents?workspace=nosuch", 401),
        ("reader", "GET", "/metrics", 200),
        ("reader", "GET", "/api/documents", 200),
        ("reader", "GET", "/api/documents?workspace=island", 403),
        ("reader", "GET", "/api/documents?workspace=nosuch", 403),
        ("reader", "GET", "/api/documents/nosuch?workspace=island", 403),
        ("reader", "GET", "/api/passages/nosuch?workspace=island", 403),
        ("reader", "POST", "/api/documents", 403),
        ("reader", "DELETE", "/api/documents?source=x", 403),
        ("reader", "GET", "/v1/models/fieldstone/island", 403),
        ("master", "GET", "/api/documents?workspace=island", 200),
        ("master", "GET", "/api/documents?workspace=nosuch", 404),
        ("master", "POST", "/api/documents", 400),
        ("master", "DELETE", "/api/documents?source=x", 404),
    ],
)
def test_a_key_opens_what_it_is_for(locked, token, method, path, status):
    got = locked.request(method, path, headers={"authorization": f"Bearer {token}"} if token else {})
    assert got.status_code == status, got.text
    if status == 401:
        assert got.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("path", ["/api/ask", "/api/search", "/v1/chat/completions", "/v1/embeddings"])
def test_a_key_opens_what_is_asked_there(locked, path):
    given = {
        "/v1/chat/completions": {"model": "fieldstone/{}", "messages": [{"role": "user", "content": "x"}]},
        "/v1/embeddings": {"model": "fieldstone/{}", "input": "x"},
    }.get(path, {"question": "x", "workspace": "{}"})
    for token, workspace, status in (
        ("reader", "harbour", 200),
        ("reader", "island", 403),
        ("master", "island", 200),
        ("wrong", "harbour", 401),
    ):
        body = json.dumps(given).replace("{}", workspace)
        headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
        assert locked.post(path, content=body, headers=headers).status_code == status


def test_a_key_sees_what_it_opens_and_no_more(locked):
    for token, names in (("reader", ["harbour"]), ("master", ["harbour", "island"])):
        headers = {"authorization": f"Bearer {token}"}
        shown = locked.get("/api/workspaces", headers=headers).json()["workspaces"]
        assert [its["name"] for its in shown] == names
        models = locked.get("/v1/models", headers=headers).json()["data"]
        assert [its["id"] for its in models] == [f"fieldstone/{name}" for name in names]
