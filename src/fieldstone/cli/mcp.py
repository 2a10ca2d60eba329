"""`fieldstone mcp`."""

from __future__ import annotations

from fieldstone.cli.options import Set, WorkspacePath


def mcp(workspace: WorkspacePath, changes: Set = None) -> None:
    """Serve a workspace to an assistant, over MCP on the standard streams.

    An assistant starts this by itself; docs/mcp.md has what to write into its settings. It can search, ask
    and read, and change nothing.
    """
    import asyncio
    import logging
    import signal
    import sys

    from fieldstone.workspace import open_workspace

    opened = open_workspace(workspace)
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(name)s: %(message)s")
    from fieldstone.serve.engine import Engine
    from fieldstone.serve.mcp import serve_stdio

    async def serve() -> None:
        await serve_stdio(Engine(opened, changes or ()))

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # else Ctrl-C would wait for a line on standard input
    asyncio.run(serve())
