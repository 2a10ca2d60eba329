"""`python mcp_relay.py SOCKET FOLDER`: an MCP server of FOLDER on the standard streams.

The `mcp_source.py` that waits at SOCKET gets the streams and serves over them; this ends when it does.
"""

import socket
import sys

with socket.socket(socket.AF_UNIX) as asking:
    asking.connect(sys.argv[1])
    socket.send_fds(asking, [sys.argv[2].encode()], [0, 1, 2])
    ended = asking.recv(1)
sys.exit(0 if ended else 3)
