"""The workspace behind an address, asked by Fieldstone's own API and by OpenAI's.

    python examples/08_serve.py

The workspace is that of 02_search.py; it is made if it is not there. The server runs in a thread, at a free
port that this machine alone can reach, and ends with the example; `fieldstone serve handbook` goes on.
"""

from pathlib import Path

import httpx

from fieldstone import choose_settings, create_workspace, load_recipe
from fieldstone.recipes import run
from fieldstone.serve.app import create_app
from fieldstone.serve.engine import Engine
from fieldstone.serve.run import serving

HARBOUR = Path(__file__).with_name("harbour")
QUESTION = "At what filter pressure is the pumping of cement shut down?"

workspace = create_workspace(Path("handbook"))
settings = choose_settings("guide", workspace.stored_settings())
run(load_recipe("guide"), HARBOUR, workspace, settings)

app = create_app({"handbook": Engine(workspace)}, hosts=["127.0.0.1"])
with serving(app) as address, httpx.Client(base_url=address, timeout=120) as client:
    given = client.post("/api/ask", json={"question": QUESTION}).raise_for_status().json()
    chat = {"model": "fieldstone/handbook", "messages": [{"role": "user", "content": QUESTION}]}
    chat |= {"fieldstone": {"inline": True}}  # numbers of citations in the text
    completion = client.post("/v1/chat/completions", json=chat).raise_for_status().json()

print(f"{QUESTION}\n\n/api/ask: {given['text']} (confidence {given['confidence']:.2f})")
for citation in given["citations"]:
    print(f"  {citation['source']}: {citation['quote']!r}")
message = completion["choices"][0]["message"]
print(f"\n/v1/chat/completions: {message['content']}")
for citation in message["citations"]:
    print(f"  [{citation['number']}] {citation['source']}: {citation['quote']!r}")
