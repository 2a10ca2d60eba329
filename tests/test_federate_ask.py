"""One question to several sites: fused, bounded in what comes back, and no site is trusted further."""

from __future__ import annotations

import gzip
import json
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from typer.testing import CliRunner

from fieldstone.cli.app import app
from fieldstone.errors import SitesError
from fieldstone.federate.addresses import Site, read_sites
from fieldstone.federate.ask import BYTES, SURE, Quoted, SiteAnswer, ask_sites, fused
from fieldstone.serve.keys import Keys, make_key
from serving import running, workspace_of

CRANE = "What does the crane of berth 7 lift?"
QUOTE = "The crane of berth 7 lifts forty tonnes on most days of the year."
NORTH = {"secret/berths.md": f"{QUOTE} The combination of the safe is 4711."}
SOUTH = {
    "berths.md": "The crane of berth 7 lifts forty tonnes on most days of the year. Berth 8 has no crane."
}
ISLAND = {"ferry.md": "The ferry to Gull Island sails at noon."}


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    return path, make_key(path, "partner", asking=True), make_key(path, "reader")


@pytest.fixture(scope="module")
def sites(tmp_path_factory, keys) -> Iterator[list[Site]]:
    """Three real servers with keys: two that know, and one whose documents are silent."""
    path, partner, _ = keys
    home = tmp_path_factory.mktemp("sites")
    with ExitStack() as stack:
        found = []
        for name, texts, more in (
            ("north", NORTH, {}),
            ("south", SOUTH, {"share": {"quotes": 2, "characters": 30, "passages": True, "places": True}}),
            ("island", ISLAND, {"answer": {"abstain_below": 0.6}}),
        ):
            workspace = workspace_of(home / name, texts, **more)
            found.append(Site(name, stack.enter_context(running(workspace, access=Keys(path))), partner))
        yield found


def test_answers_are_fused_and_each_citation_names_its_site(sites):
    got = ask_sites(sites, CRANE)
    assert got.text == got.candidates[0].text == QUOTE.rstrip(".")
    assert {its.site for its in got.candidates[0].citations} == {"north", "south"}
    assert got.silent == ("island",)
    assert not got.failed
    assert len(got.candidates) == 1


def test_no_more_comes_back_than_the_site_shares(sites, keys):
    bodies = {}
    for site in sites:
        ask = {"question": CRANE, "shared": True}
        for token in keys[1:]:  # asked to share, a reader gets no more than a partner
            sent = httpx.post(f"{site.url}/api/ask", json=ask, headers={"Authorization": f"Bearer {token}"})
            bodies[site.name] = sent.raise_for_status().json()
            if site.name == "north":
                assert "4711" not in sent.text
                assert "secret" not in sent.text
    north, south = bodies["north"], bodies["south"]
    (citation,) = north["citations"]
    assert citation == {
        "number": 1, "passage_id": "", "quote": QUOTE, "start": 0, "end": 0, "verified": True,
        "source": "", "title": "", "headings": [], "page": None,
    }  # fmt: skip
    assert north["hits"] == []
    (citation,) = south["citations"]
    assert citation["quote"] == "The crane of berth 7 lifts"
    assert citation["source"] == "berths.md"
    assert [hit["passage"]["text"] for hit in south["hits"]] == list(SOUTH.values())
    (quoted,) = [one for one in ask_sites(sites, CRANE).candidates[0].citations if one.site == "south"]
    assert (quoted.source, quoted.passage) == ("berths.md", SOUTH["berths.md"])


def test_a_key_for_asking_does_nothing_else(sites, keys):
    head = {"Authorization": f"Bearer {keys[1]}"}
    with httpx.Client(base_url=sites[0].url, headers=head) as client:
        assert client.post("/api/ask", json={"question": CRANE}).json()["hits"] == []
        for more in ({"stream": True}, {"filter": {"source": "secret/*"}}, {"history": [{"question": "x"}]}):
            assert client.post("/api/ask", json={"question": CRANE, **more}).status_code == 400
        chat = {"messages": [{"role": "user", "content": CRANE}]}
        for method, path, body in (
            ("POST", "/api/search", {"question": CRANE}),
            ("POST", "/v1/chat/completions", chat),
            ("POST", "/v1/embeddings", {"input": "x"}),
            ("GET", "/v1/models", None),
            ("GET", "/api/documents", None),
            ("GET", "/api/workspaces", None),
            ("GET", "/api/feedback", None),
            ("POST", "/api/feedback", {"answer_id": "x", "good": True}),
            ("DELETE", "/api/documents?source=secret/berths.md", None),
            ("GET", "/metrics", None),
        ):
            assert client.request(method, path, json=body).status_code == 403, path
        assert client.post("/mcp", json={}).status_code == 401


# -- sites that do not behave


@contextmanager
def stranger(status=200, body=b"", headers=(), seconds=0.0, endless=False, certificate=None):
    """A server that answers anything so; yields its address and what it was sent."""
    seen, over = [], threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_POST(self) -> None:
            sent = self.rfile.read(int(self.headers["content-length"]))
            seen.append((self.path, {name.lower(): its for name, its in self.headers.items()}, sent))
            self.send_response(status)
            for name, value in headers:
                self.send_header(name, value)
            self.end_headers()
            over.wait(seconds)
            try:
                self.wfile.write(body)
                while endless and not over.is_set():
                    self.wfile.write(b" " * 65536)
                    time.sleep(0.01)
            except OSError:
                pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http{'s' if certificate else ''}://127.0.0.1:{server.server_port}", seen
    finally:
        over.set()
        server.shutdown()
        thread.join()
        server.server_close()


def reply(**changes: object) -> bytes:
    good = {"answer": "forty tonnes", "abstained": False, "confidence": 0.5, "citations": []}
    return json.dumps(good | changes).encode()


@pytest.mark.parametrize(
    ("behaviour", "why"),
    [
        ({"body": b"<html>"}, "no answer"),
        ({"body": b"[]"}, "no answer"),
        ({"body": reply(confidence=1.5)}, "no answer"),
        ({"body": reply(confidence="0.5")}, "no answer"),
        ({"body": reply().replace(b"0.5", b"NaN")}, "no answer"),
        ({"body": reply(answer="x" * 5000)}, "no answer"),
        ({"body": reply(citations=[{"quote": "x", "verified": True}] * 21)}, "no answer"),
        ({"body": reply(citations=[{"quote": 7, "verified": True}])}, "no answer"),
        ({"endless": True}, f"longer than {BYTES // 1024} KiB"),
        ({"status": 429, "body": b'{"error": {"message": "come back later"}}'}, "429: come back later"),
        ({"status": 500, "body": b"\x00"}, "refuses (500)"),
        ({"body": gzip.compress(reply()), "headers": [("Content-Encoding", "gzip")]}, "no answer"),
    ],
)
def test_what_is_no_answer_is_told_and_left_out(behaviour, why):
    with stranger(body=reply()) as (good, _), stranger(**behaviour) as (bad, _):
        got = ask_sites([Site("good", good), Site("bad", bad)], CRANE)
    assert got.text == "forty tonnes"
    assert got.candidates[0].citations == (Quoted("good"),)
    ((name, told),) = got.failed
    assert name == "bad"
    assert why in told


def test_a_site_that_is_slow_is_left_out():
    with (
        stranger(body=reply(), seconds=60) as (slow, _),
        pytest.raises(SitesError, match=r"slow: it took longer than 0\.2 s"),
    ):
        ask_sites([Site("slow", slow)], CRANE, 0.2)


def test_a_redirection_is_not_followed():
    with stranger(body=reply()) as (elsewhere, seen):
        moved = [("Location", f"{elsewhere}/api/ask")]
        with (
            stranger(status=307, headers=moved) as (site, _),
            pytest.raises(SitesError, match="not followed"),
        ):
            ask_sites([Site("site", site, "fs_secret")], CRANE)
    assert not seen


def own_certificate(path, address="127.0.0.1"):
    """A certificate that only its owner vouches for, with its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "site")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address(address))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    path.write_bytes(
        made.public_bytes(serialization.Encoding.PEM) + key.private_bytes(serialization.Encoding.PEM, *form)
    )
    return str(path)


def test_only_a_certificate_that_is_trusted_for_that_address_will_do(tmp_path):
    ours, theirs = (
        own_certificate(tmp_path / "ours.pem"),
        own_certificate(tmp_path / "theirs.pem", "127.0.0.2"),
    )
    with (
        stranger(body=reply(), certificate=ours) as (good, _),
        stranger(body=reply(), certificate=theirs) as (bad, seen),
    ):
        sites = [
            Site("known", good, "fs_ours", ca=ours),
            Site("unknown", good, "fs_ours"),
            Site("by another name", bad, "fs_ours", ca=theirs),
            Site("no such file", good, "fs_ours", ca=str(tmp_path / "none.pem")),
        ]
        got = ask_sites(sites, CRANE)
    assert got.candidates[0].citations == (Quoted("known"),)
    assert [name for name, _ in got.failed] == [site.name for site in sites[1:]]
    assert "CERTIFICATE_VERIFY_FAILED" in got.failed[0][1]
    assert not seen


def test_nothing_but_the_question_leaves(monkeypatch):
    with stranger() as (proxy, proxied), stranger(body=reply()) as (address, seen):
        monkeypatch.setenv("HTTP_PROXY", proxy)
        monkeypatch.setenv("ALL_PROXY", proxy)
        ask_sites([Site("site", address, "fs_ours", "handbook")], CRANE)
    assert not proxied
    ((path, headers, body),) = seen
    assert path == "/api/ask"
    assert json.loads(body) == {"question": CRANE, "shared": True, "workspace": "handbook"}
    assert set(headers) == {
        "host", "accept", "accept-encoding", "connection", "user-agent", "authorization", "content-length",
        "content-type",
    }  # fmt: skip
    assert headers["authorization"] == "Bearer fs_ours"
    assert "fs_ours" not in repr(Site("site", address, "fs_ours"))


def test_a_site_that_is_down_is_told(sites):
    down = Site("down", "http://127.0.0.1:9")
    got = ask_sites([*sites, down, Site("stranger", sites[0].url, "fs_wrong")], CRANE)
    assert got.text == QUOTE.rstrip(".")
    assert [name for name, _ in got.failed] == ["down", "stranger"]
    assert "cannot be reached" in got.failed[0][1]
    assert "401: no such key" in got.failed[1][1]
    with pytest.raises(SitesError, match=r"no site could be asked: down: it cannot be reached"):
        ask_sites([down], CRANE)


def said(site, text, confidence):
    return SiteAnswer(site, text, confidence, (Quoted(site),), 0.1)


def test_fusion_by_hand():
    first, second, third = fused(
        [
            said("a", "Forty tonnes", 0.5),
            said("b", "nine", 0.7),
            said("c", "forty tonnes.", 0.6),
            said("d", "", 0.9),
            said("e", "lies", 1.0),
        ]
    )
    assert (first.text, first.confidence) == ("lies", pytest.approx(SURE))
    assert (second.text, second.confidence) == ("forty tonnes.", pytest.approx(1 - 0.5 * 0.4))
    assert [its.site for its in second.citations] == ["c", "a"]
    assert (third.text, third.confidence) == ("nine", pytest.approx(0.7))


# -- addresses, and the command


def test_addresses_come_from_urls_and_files(tmp_path):
    file = tmp_path / "sites.toml"
    file.write_text(
        '[[sites]]\nname = "north"\nurl = "https://north.example/"\nkey = "fs_x"\nworkspace = "w"\n'
    )
    file.chmod(0o600)
    assert read_sites([str(file), "http://[::1]:8000"]) == [
        Site("north", "https://north.example", "fs_x", "w"),
        Site("http://[::1]:8000", "http://[::1]:8000"),
    ]
    file.chmod(0o644)
    with pytest.raises(SitesError, match="chmod 600"):
        read_sites([str(file)])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[[sites]]\nname = 'a'\nurl = 'http://north.example'", "in the clear"),
        ("[[sites]]\nname = 'a'\nurl = 'ftp://north.example'", "no address"),
        ("[[sites]]\nname = 'a'\nurl = 'https://me:pw@north.example'", "no address"),
        ("[[sites]]\nname = 'a'\nurl = 'https://north.example?x=1'", "no address"),
        ("[[sites]]\nname = 'a'\nurl = 'https://x'\nkey = 'a b'", "the key of 'a' is none"),
        ("[[sites]]\nname = 'a'\nurl = 'https://x'\n[[sites]]\nname = 'a'\nurl = 'https://y'", "two sites"),
        ("[[sites]]\nname = 'a'", "url"),
        ("[[sites]]\nname = 'a'\nurl = 'https://x'\nkye = 'fs_secret'", "kye"),
        ("sites = []", "no site to ask"),
        ("x = 1", r"\[\[sites\]\]"),
        ("[[", "not valid TOML"),
    ],
)
def test_what_names_no_site_is_said(tmp_path, text, why):
    file = tmp_path / "sites.toml"
    file.write_text(text)
    file.chmod(0o600)
    with pytest.raises(SitesError, match=why) as told:
        read_sites([str(file)])
    assert "fs_secret" not in str(told.value)
    with pytest.raises(SitesError, match="cannot be read"):
        read_sites([str(tmp_path / "none.toml")])


def test_the_command_shows_what_the_sites_say(sites, tmp_path):
    file = tmp_path / "sites.toml"
    listed = [f'[[sites]]\nname = "{its.name}"\nurl = "{its.url}"\nkey = "{its.key}"\n' for its in sites]
    file.write_text("".join(listed))
    file.chmod(0o600)
    run = CliRunner().invoke
    done = run(app, ["ask", "--sites", str(file), "--sites", "http://127.0.0.1:9", CRANE])
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0] == QUOTE.rstrip(".")
    assert f'[1] north: "{QUOTE}"' in lines
    assert '[2] south › berths.md: "The crane of berth 7 lifts"' in lines
    assert "Not in the documents of: island" in lines
    assert "Left out: http://127.0.0.1:9: it cannot be reached" in done.stdout
    told = json.loads(run(app, ["ask", "--json", "--sites", str(file), CRANE]).stdout)
    assert told["answer"] == QUOTE.rstrip(".")
    assert told["silent"] == ["island"]
    assert [its["site"] for its in told["citations"]] == ["north", "south"]
    lines = run(app, ["ask", "--json", "--sites", str(file)], input=f"{CRANE}\n\n{CRANE}\n").stdout
    assert [json.loads(line)["answer"] for line in lines.splitlines()] == [QUOTE.rstrip(".")] * 2
    assert "there is no question" in run(app, ["ask", "--sites", str(file), " "]).output
    assert "name the workspace" in run(app, ["ask"]).output
    silent = run(app, ["ask", "--sites", str(file), "Who painted the Mona Lisa?"])
    assert silent.exit_code == 0
    assert run(app, ["ask", "--sites", str(file), "w", CRANE]).exit_code == 2
    assert run(app, ["ask", "--sites", str(file), "--mode", "dense", CRANE]).exit_code == 2
