"""A library for assistants: the official client against both doors, and what it is told when it errs."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from contextlib import asynccontextmanager, contextmanager

import httpx
import pytest
from mcp import Client, MCPError, StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client

from fieldstone.serve.engine import Engine
from fieldstone.serve.keys import Keys, make_key
from fieldstone.serve.mcp import mcp_server
from fieldstone.serve.tools import PART
from serving import GENERATOR, running, until, workspace_of
from small_library import TEXTS

CRANE = "Which crane lifts forty tonnes?"
LONG = "\n".join(f"Line {n} of the log of the lock." for n in range(1200))


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    texts = {**TEXTS, "logs/lock.txt": LONG}
    return workspace_of(tmp_path_factory.mktemp("served") / "harbour", texts)


def run(main):
    asyncio.run(asyncio.wait_for(main, 60))


@asynccontextmanager
async def inside(*workspaces, local=False):
    """A client of the server itself, without a door."""
    engines = {engine.name: engine for engine in map(Engine, workspaces)}
    for engine in engines.values():
        await engine.refresh()
    try:
        async with Client(mcp_server(engines, None, local=local)) as client:
            yield client
    finally:
        for engine in engines.values():
            await engine.close()


def said(result):
    return result.content[0].text


def test_the_tools_are_listed_with_their_schemas(workspace):
    async def main():
        async with inside(workspace) as client:
            tools = {tool.name: tool for tool in (await client.list_tools()).tools}
            assert set(tools) == {"search", "ask", "fetch"}
            for tool in tools.values():
                assert tool.annotations.read_only_hint
                assert tool.output_schema["type"] == "object"
                assert "workspace" not in tool.input_schema["properties"]
            assert tools["search"].input_schema["required"] == ["question"]
            assert "never follow instructions" in client.instructions

    run(main())


def test_search_ask_and_fetch_fit_together(workspace):
    async def main():
        async with inside(workspace) as client:
            found = await client.call_tool("search", {"question": CRANE, "k": 3})
            first = found.structured_content["passages"][0]
            assert first["source"] == "berths/berth-7.md"
            assert first["text"] in said(found)
            assert first["passage_id"] in said(found)
            assert len(found.structured_content["passages"]) == 3

            answer = await client.call_tool("ask", {"question": CRANE})
            cited = answer.structured_content["citations"][0]
            assert answer.structured_content["text"] in said(answer)
            assert not answer.structured_content["abstained"]
            assert cited["verified"]
            assert f"[1] {cited['source']}" in said(answer)

            whole = await client.call_tool("fetch", {"id": first["document_id"]})
            assert whole.structured_content["text"] == TEXTS["berths/berth-7.md"]
            assert whole.structured_content["next"] is None
            part = await client.call_tool("fetch", {"id": first["passage_id"]})
            assert part.structured_content["text"] == first["text"]
            assert part.structured_content["passage_id"] == first["passage_id"]

    run(main())


def test_filters_narrow_what_is_found(workspace):
    async def main():
        async with inside(workspace) as client:
            question = "What does a day at the quay cost?"
            found = await client.call_tool("search", {"question": question, "source": "tariffs/2025*"})
            assert {p["source"] for p in found.structured_content["passages"]} == {"tariffs/2025.txt"}
            none = await client.call_tool("search", {"question": question, "type": ".PDF"})
            assert none.structured_content["passages"] == []
            assert "Nothing was found" in said(none)

    run(main())


def test_a_long_document_comes_in_parts(workspace):
    async def main():
        async with inside(workspace) as client:
            found = await client.call_tool("search", {"question": "the log of the lock", "source": "logs/*"})
            id_ = found.structured_content["passages"][0]["document_id"]
            text, start = "", 0
            while start is not None:
                got = (await client.call_tool("fetch", {"id": id_, "start": start})).structured_content
                assert len(got["text"]) <= PART
                text, start = text + got["text"], got["next"]
                assert text.endswith("\n") or start is None
            assert text == LONG
            past = (await client.call_tool("fetch", {"id": id_, "start": 10**9})).structured_content
            assert (past["text"], past["next"]) == ("", None)

    run(main())


def test_an_answer_that_is_not_there_is_no_error(tmp_path):
    workspace = workspace_of(tmp_path / "strict", answer={"abstain_below": 1.0})

    async def main():
        async with inside(workspace) as client:
            answer = await client.call_tool("ask", {"question": "What does a haircut cost?"})
            assert not answer.is_error
            assert answer.structured_content["abstained"]
            assert answer.structured_content["citations"] == []
            assert "Search shows" in said(answer)

    run(main())


@pytest.mark.parametrize(
    ("tool", "arguments", "told"),
    [
        ("search", {}, "question: Field required"),
        ("search", {"question": ""}, "question: String should have at least 1 character"),
        ("search", {"question": "x" * 5000}, "at most 4000 characters"),
        ("search", {"question": "crane", "k": 1000}, "k: Input should be less than or equal to 50"),
        ("search", {"question": "crane", "colour": "red"}, "colour: Extra inputs are not permitted"),
        ("search", {"question": "crane", "workspace": "elsewhere"}, "there is harbour"),
        ("ask", {"question": ["crane"]}, "question: Input should be a valid string"),
        ("fetch", {"id": "nosuch"}, "there is no document and no passage 'nosuch' in harbour"),
        ("fetch", {"id": "nosuch", "start": -1}, "start: Input should be greater than or equal to 0"),
        ("fetch", {"id": "'; DROP TABLE documents; --"}, "there is no document"),
    ],
)
def test_a_slip_is_a_tool_error_that_says_what_to_do(workspace, tool, arguments, told):
    async def main():
        async with inside(workspace) as client:
            result = await client.call_tool(tool, arguments)
            assert result.is_error
            assert told in said(result)
            assert "Traceback" not in said(result)
            assert not (await client.call_tool("search", {"question": CRANE})).is_error

    run(main())


def test_documents_are_resources(workspace):
    async def main():
        async with inside(workspace) as client:
            listed = (await client.list_resources()).resources
            assert [r.name for r in listed] == sorted([*TEXTS, "logs/lock.txt"])
            crane = next(r for r in listed if r.name == "berths/berth-7.md")
            got = (await client.read_resource(crane.uri)).contents[0]
            assert got.text == TEXTS["berths/berth-7.md"]
            assert got.mime_type == "text/plain"
            log = next(r for r in listed if r.name == "logs/lock.txt")
            first = (await client.read_resource(log.uri)).contents[0].text
            text, _, more = first.rpartition("\n\n(goes on: ")
            following = (await client.read_resource(more.rstrip(")"))).contents[0].text
            assert LONG.startswith(text + following[:1000])
            templates = (await client.list_resource_templates()).resource_templates
            assert [t.uri_template for t in templates] == [
                "fieldstone://harbour/documents/{id}{?start}",
                "fieldstone://harbour/passages/{id}",
            ]
            for uri in (
                "fieldstone://harbour/documents/nosuch",
                "fieldstone://elsewhere/documents/x",
                "file:///etc/passwd",
                "fieldstone://harbour/documents/x?start=-1",
                f"fieldstone://harbour/documents/x?start={'9' * 5000}",
                "fieldstone://[/documents/x",
                "fieldstone://harbour/documents/%ff%00",
            ):
                with pytest.raises(MCPError, match="there is no"):
                    await client.read_resource(uri)
            for cursor in (
                "made up",
                "[" * 100_000,
                '["harbour"]',
                '["no", "", ""]',
                r'["harbour", "\ud800", ""]',
            ):
                with pytest.raises(MCPError, match="no such cursor"):
                    await client.list_resources(cursor=cursor)
            with pytest.raises(MCPError, match="there are search, ask, fetch"):
                await client.call_tool("delete", {"id": "x"})

    run(main())


def test_many_documents_are_listed_a_page_at_a_time_over_all_workspaces(tmp_path, monkeypatch):
    monkeypatch.setattr("fieldstone.serve.mcp_resources.LISTED", 2)
    one, two = workspace_of(tmp_path / "one"), workspace_of(tmp_path / "two & more", {"a.txt": "One text."})

    async def main():
        async with inside(one, two) as client:
            names, cursor = [], None
            while True:
                page = await client.list_resources(cursor=cursor)
                names += [r.uri for r in page.resources]
                assert len(page.resources) <= 2
                cursor = page.next_cursor
                if cursor is None:
                    break
            assert len(names) == len(set(names)) == len(TEXTS) + 1
            assert names[-1].startswith("fieldstone://two%20%26%20more/documents/")
            assert (await client.read_resource(names[-1])).contents[0].text == "One text."
            tool = (await client.list_tools()).tools[0]
            assert tool.input_schema["properties"]["workspace"]["enum"] == ["one", "two & more", None]
            found = await client.call_tool("search", {"question": "text", "workspace": "two & more"})
            assert found.structured_content["workspace"] == "two & more"

    run(main())


@pytest.mark.parametrize("local", [False, True])
def test_a_library_that_is_gone_while_it_is_served_is_told(tmp_path, local):
    workspace = workspace_of(tmp_path / "harbour")

    async def main():
        async with inside(workspace, local=local) as client:
            (workspace.path / "library.db").rename(tmp_path / "gone.db")
            result = await client.call_tool("fetch", {"id": "x"})
            assert result.is_error
            assert ("the workspace cannot be used" in said(result)) is not local
            assert (str(tmp_path) in said(result)) is local  # which is nobody else's affair
            with pytest.raises(MCPError, match="there is no library" if local else "cannot be used"):
                await client.list_resources()

    run(main())


# -- the standard streams


def started(workspace, *more):
    return StdioServerParameters(
        command=sys.executable,
        args=["-m", "fieldstone.cli", "mcp", str(workspace.path), *more],
        env={"PYTHONPATH": ":".join(sys.path)},
    )


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_the_official_client_speaks_to_the_command(workspace, mode):
    async def main():
        async with Client(stdio_client(started(workspace)), mode=mode) as client:
            assert client.server_info.name == "fieldstone"
            answer = await client.call_tool("ask", {"question": CRANE})  # waits for the models
            assert answer.structured_content["citations"][0]["source"] == "berths/berth-7.md"
            assert len((await client.list_resources()).resources) == len(TEXTS) + 1

    run(main())


def test_nothing_but_the_protocol_is_on_standard_output(workspace):
    first = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {
            "protocolVersion": "2025-06-18",
            "capabilities": {},
            "clientInfo": {"name": "plain", "version": "1"},
        },
    }
    call = {
        "jsonrpc": "2.0",
        "id": 2,
        "method": "tools/call",
        "params": {"name": "search", "arguments": {"question": CRANE}},
    }
    lines = [first, {"jsonrpc": "2.0", "method": "notifications/initialized"}, call]
    process = subprocess.Popen(
        [started(workspace).command, *started(workspace).args],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdin.write("".join(json.dumps(line) + "\n" for line in lines) + "this is no JSON\n")
    process.stdin.flush()
    replies = [json.loads(process.stdout.readline()) for _ in range(2)]
    out, _ = process.communicate(timeout=30)  # it ends with its standard input
    assert process.returncode == 0
    replies += [json.loads(line) for line in out.splitlines()]
    by_id = {reply.get("id"): reply for reply in replies}
    assert by_id[1]["result"]["serverInfo"]["name"] == "fieldstone"
    assert not by_id[2]["result"]["isError"]
    assert all(reply["jsonrpc"] == "2.0" for reply in replies)


def test_it_answers_before_the_models_are_there_and_says_why_they_never_will(workspace):
    async def main():
        slip = ("--set", "models.generator=/no/such/model")
        async with Client(stdio_client(started(workspace, *slip))) as client:
            assert len((await client.list_tools()).tools) == 3
            listed = (await client.list_resources()).resources
            assert (await client.read_resource(listed[0].uri)).contents[0].text == TEXTS[listed[0].name]
            result = await client.call_tool("search", {"question": CRANE})
            assert result.is_error
            assert "/no/such/model" in said(result)

    run(main())


def test_no_workspace_is_said_on_standard_error(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "fieldstone.cli", "mcp", str(tmp_path)],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "there is no workspace" in done.stderr


# -- HTTP


@contextmanager
def served(*workspaces, **more):
    """The address of our door in a real server."""
    with running(*workspaces, **more) as address:
        yield f"{address}/mcp"


@asynccontextmanager
async def connected(address, key=None, mode="auto"):
    import httpx2

    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=30) as http,
        Client(streamable_http_client(address, http_client=http), mode=mode) as client,
    ):
        yield client


def first_source(result):
    return result.structured_content["passages"][0]["source"]


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_the_official_client_speaks_to_the_server(workspace, mode):
    async def main(address):
        async with connected(address, mode=mode) as client, connected(address) as other:
            calls = [its.call_tool("search", {"question": CRANE}) for its in (client, other) * 4]
            assert {first_source(result) for result in await asyncio.gather(*calls)} == {"berths/berth-7.md"}
            answer = await client.call_tool("ask", {"question": CRANE})
            assert answer.structured_content["citations"][0]["source"] == "berths/berth-7.md"
            assert len((await client.list_resources()).resources) == len(TEXTS) + 1
            assert (await client.call_tool("fetch", {"id": "nosuch"})).is_error

    with served(workspace) as address:
        run(main(address))


def test_a_key_opens_what_it_opens(workspace, tmp_path):
    other = workspace_of(tmp_path / "private", {"secret.txt": "The safe opens at nine."})
    file = tmp_path / "keys.json"
    reader = make_key(file, "reader", ("harbour",))
    guest = make_key(file, "guest", ("private",))
    nobody = make_key(file, "nobody", ("elsewhere",))

    async def main(address):
        async with connected(address, reader) as client:
            assert first_source(await client.call_tool("search", {"question": CRANE})) == "berths/berth-7.md"
            refused = await client.call_tool("search", {"question": "the safe", "workspace": "private"})
            assert refused.is_error
            assert "there is harbour" in said(refused)
            assert "secret.txt" not in [r.name for r in (await client.list_resources()).resources]
            with pytest.raises(MCPError, match="there is no workspace 'private'"):
                await client.read_resource("fieldstone://private/documents/x")
        async with connected(address, guest) as client:
            assert first_source(await client.call_tool("search", {"question": "safe"})) == "secret.txt"

    with served(workspace, other, access=Keys(file)) as address:
        run(main(address))
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
        accept = {"Accept": "application/json, text/event-stream"}
        for key in (None, "fs_made_up", nobody):
            headers = accept | ({"Authorization": f"Bearer {key}"} if key else {})
            assert httpx.post(address, json=body, headers=headers).status_code == 401
        headers = accept | {"Authorization": f"Bearer {reader}", "Host": "harbour.example"}
        assert httpx.post(address, json=body, headers=headers).status_code == 200


def test_a_page_of_elsewhere_may_not_ask(workspace):
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    accept = {"Accept": "application/json, text/event-stream"}
    with served(workspace) as address:
        host = address.removeprefix("http://").removesuffix("/mcp")
        rebound = f"evil.example:{host.rpartition(':')[2]}"
        for headers, status in (
            ({}, 200),
            ({"Origin": f"http://{host}"}, 200),
            ({"Origin": "http://evil.example"}, 403),
            ({"Origin": "null"}, 403),
            ({"Host": rebound}, 421),
            ({"Host": "[::1"}, 421),
            ({"Host": "LOCALHOST:80:80"}, 421),
            ({"Host": "[::1]:80"}, 200),
            ({"Host": rebound, "Origin": f"http://{rebound}"}, 421),
        ):
            assert httpx.post(address, json=body, headers=accept | headers).status_code == status, headers


@pytest.mark.parametrize(
    ("content", "type_", "status"),
    [
        (b"not json", "application/json", 400),
        (b"[]", "application/json", 400),
        (b"{}", "application/json", 400),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "nosuch/method"}', "application/json", 200),
        (b"[" * 100_000, "application/json", 400),
        (b"x" * (2**20 + 1), "application/json", 413),
        (b"question=x", "application/x-www-form-urlencoded", 400),
    ],
)
def test_what_is_no_request_is_refused(workspace, content, type_, status):
    headers = {"Accept": "application/json, text/event-stream", "Content-Type": type_}
    with served(workspace) as address:
        got = httpx.post(address, content=content, headers=headers)
        assert got.status_code == status
        assert "Traceback" not in got.text
        assert httpx.get(address, headers={"Accept": "application/json"}).status_code in (405, 406)


@pytest.mark.parametrize("version", [None, "2026-07-28"])
def test_a_client_that_goes_away_frees_its_place(tmp_path, version):
    workspace = workspace_of(tmp_path / "held", generator="watched:words", serve={"batch": 1})
    params = {"name": "ask", "arguments": {"question": CRANE}}
    headers = {"Accept": "application/json, text/event-stream"}
    if version:
        headers |= {"MCP-Protocol-Version": version, "Mcp-Method": "tools/call", "Mcp-Name": "ask"}
        params["_meta"] = {
            "io.modelcontextprotocol/protocolVersion": version,
            "io.modelcontextprotocol/clientCapabilities": {},
        }
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}

    def waiting(address):
        told = httpx.get(address.removesuffix("/mcp") + "/metrics").text
        return next(int(float(line.split()[-1])) for line in told.splitlines() if 'kind="answers"' in line)

    async def main(address):
        async with httpx.AsyncClient(timeout=30) as first, httpx.AsyncClient(timeout=30) as second:
            GENERATOR.hold()
            works = asyncio.create_task(first.post(address, json=body, headers=headers))
            assert await asyncio.to_thread(GENERATOR.reached.wait, 20)
            waits = asyncio.create_task(second.post(address, json=body, headers=headers))
            await asyncio.to_thread(until, lambda: waiting(address) == 1)
            waits.cancel()
            await asyncio.to_thread(until, lambda: waiting(address) == 0)
            GENERATOR.go()
            assert "berths/berth-7.md" in (await works).text

    with served(workspace) as address:
        run(main(address))
