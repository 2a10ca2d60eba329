"""An MCP server with the official package, of resources that a test puts into a folder; run as a program.

`python mcp_source.py SOCKET` waits at a socket for `mcp_relay.py`, which is the command that a test starts: a
second of imports is paid once. It serves the files of a FOLDER as `notes://NAME`. FOLDER/how holds one word:
`dies` ends it when the third resource is read, `fails` makes each resource whose name starts with `bad` fail,
`endless` makes it list without an end.
"""

from __future__ import annotations

import asyncio
import base64
import os
import signal
import socket
import sys
from pathlib import Path

from mcp import MCPError, Resource
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server
from mcp.types import (
    INTERNAL_ERROR,
    Annotations,
    BlobResourceContents,
    ListResourcesResult,
    ListResourceTemplatesResult,
    ReadResourceResult,
    ResourceTemplate,
    TextResourceContents,
)

TYPES = {
    ".md": "text/markdown",
    ".txt": "text/plain",
    ".html": "text/html; charset=utf-8",
    ".pdf": "application/pdf",
}
PAGE = 2


def build(folder: Path) -> Server:
    how = (folder / "how").read_text() if (folder / "how").exists() else ""
    told = 0

    async def list_resources(context, given):
        files = sorted(f for f in folder.iterdir() if f.name != "how")
        at = int(given.cursor) if given and given.cursor else 0
        resources = [
            Resource(
                uri=f"notes://{f.stem}",
                name=f.stem,
                title=f.stem.replace("-", " "),
                mime_type=TYPES.get(f.suffix, "application/octet-stream"),
                annotations=Annotations(last_modified="2024-05-01T12:00:00Z"),
            )
            for f in files[at : at + PAGE]
        ]
        more = at + PAGE < len(files) or how == "endless"
        return ListResourcesResult(resources=resources, next_cursor=str(at + PAGE) if more else None)

    async def list_templates(context, given):
        return ListResourceTemplatesResult(
            resource_templates=[
                ResourceTemplate(uri_template="days://{day}", name="day", mime_type="text/plain")
            ]
        )

    async def read_resource(context, given):
        nonlocal told
        told += 1
        uri = str(given.uri)
        if how == "dies" and told == 3:
            sys.stderr.write("out of ink\n")
            sys.stderr.flush()
            os._exit(3)
        if uri.startswith("days://"):
            text = f"On {uri[7:]} the lock was shut."
            return ReadResourceResult(contents=[TextResourceContents(uri=uri, text=text)])
        file = next(f for f in folder.iterdir() if f.stem == uri.removeprefix("notes://"))
        if how == "fails" and file.stem.startswith("bad"):
            raise MCPError(INTERNAL_ERROR, "this note is lost")
        kind = TYPES.get(file.suffix)
        if kind and kind.startswith("text"):
            return ReadResourceResult(
                contents=[TextResourceContents(uri=uri, mime_type=kind, text=file.read_text())]
            )
        blob = base64.b64encode(file.read_bytes()).decode()
        return ReadResourceResult(contents=[BlobResourceContents(uri=uri, mime_type=kind, blob=blob)])

    return Server(
        "notes",
        on_list_resources=list_resources,
        on_list_resource_templates=list_templates,
        on_read_resource=read_resource,
    )


async def speak(server: Server) -> None:
    async with stdio_server() as (incoming, outgoing):
        await server.run(incoming, outgoing, server.create_initialization_options())


def wait_at(place: str) -> None:
    """Serve whoever hands over a folder's name and three standard streams, each in a process of its own."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as waiting:
        waiting.bind(f"{place}.new")
        waiting.listen()
        os.rename(f"{place}.new", place)  # noqa: PTH104 - it is there once it listens
        while True:
            asking, _ = waiting.accept()
            folder, streams, _, _ = socket.recv_fds(asking, 4096, 3)
            if os.fork() == 0:
                waiting.close()
                for standard, stream in enumerate(streams):
                    os.dup2(stream, standard)
                    os.close(stream)
                asyncio.run(speak(build(Path(folder.decode()))))
                asking.send(b"\0")
                os._exit(0)
            for stream in streams:
                os.close(stream)
            asking.close()


if __name__ == "__main__":
    wait_at(sys.argv[1])
