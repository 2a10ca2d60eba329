"""What speaks to OpenAI can speak to a workspace: its official client, unchanged."""

import json
import re
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest

from fieldstone.models import load_encoder
from serving import running, workspace_of

CRANE = "Which crane lifts forty tonnes?"
ANSWER = "Its crane lifts forty tonnes."


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    path = tmp_path_factory.mktemp("chat")
    first = workspace_of(path / "harbour", generator="watched:long")
    second = workspace_of(path / "island", {"ferry.md": "The ferry to Gull Island sails at noon."})
    third = workspace_of(path / "words", search={"mode": "lexical", "rerank": "none"})
    with running(first, second, third) as address:
        yield openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=20)


def user(text):
    return {"role": "user", "content": text}


def test_a_chat_completion(client):
    got = client.chat.completions.create(model="fieldstone/harbour", messages=[user(CRANE)])
    assert got.object == "chat.completion"
    assert got.model == "fieldstone/harbour"
    (choice,) = got.choices
    assert (choice.message.role, choice.message.content, choice.finish_reason) == (
        "assistant",
        ANSWER,
        "stop",
    )
    (citation,) = choice.message.citations
    assert citation["source"] == "berths/berth-7.md"
    assert citation["quote"] == "Its crane lifts forty tonnes."
    assert (got.usage.prompt_tokens, got.usage.completion_tokens, got.usage.total_tokens) == (5, 5, 10)
    assert got.fieldstone["asked"] == CRANE


def test_the_same_as_a_stream(client):
    whole = client.chat.completions.create(model="x", messages=[user(CRANE)]).choices[0].message
    chunks = list(
        client.chat.completions.create(
            model="x", messages=[user(CRANE)], stream=True, stream_options={"include_usage": True}
        )
    )
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    *texts, end, usage = chunks
    assert "".join(chunk.choices[0].delta.content for chunk in texts) == whole.content
    assert len(texts) > 3, "it came in pieces"
    assert end.choices[0].finish_reason == "stop"
    assert end.choices[0].delta.citations == whole.citations
    assert (usage.choices, usage.usage.total_tokens) == ([], 10)
    assert not [chunk for chunk in chunks[:-1] if chunk.usage]
    plain = list(client.chat.completions.create(model="x", messages=[user(CRANE)], stream=True))
    assert plain[-1].choices[0].delta.citations == whole.citations


def test_citations_in_the_text_if_asked_for(client):
    options = {"messages": [user(CRANE)], "model": "x", "extra_body": {"fieldstone": {"inline": True}}}
    assert client.chat.completions.create(**options).choices[0].message.content == f"{ANSWER} [1]"
    chunks = list(client.chat.completions.create(**options, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == f"{ANSWER} [1]"


def test_a_filter(client):
    only = {"fieldstone": {"filter": {"source": "tariffs/2024*"}}}
    asked = [user("What does a day at the quay cost?")]
    got = client.chat.completions.create(model="x", messages=asked, extra_body=only)
    assert [its["source"] for its in got.choices[0].message.citations] == ["tariffs/2024.txt"]


def test_the_conversation_so_far_counts_and_all_else_does_not(client):
    messages = [
        {"role": "system", "content": "Answer like a pirate."},
        user("What is the draught at berth 7?"),
        {"role": "assistant", "content": "9.5 m"},
        {"role": "user", "content": [{"type": "text", "text": "And berth 8?"}]},
    ]
    got = client.chat.completions.create(
        model="gpt-4o",
        messages=messages,
        temperature=0.3,
        max_tokens=5,
        seed=1,
        user="me",
        metadata={"a": "b"},
    )
    assert got.fieldstone["asked"] == "What is the draught at berth 8?"


def test_what_open_webui_sends(client):
    """It lists the models, streams the chat with fields of its own, and asks the model for a title."""
    address = str(client.base_url)
    with httpx.Client(headers={"authorization": "Bearer none"}, timeout=20) as webui:
        listed = webui.get(f"{address}models").json()
        assert "error" not in listed
        model = listed["data"][0]["id"]
        chat = {
            "model": model,
            "stream": True,
            "stream_options": {"include_usage": True},
            "messages": [
                {"role": "system", "content": "User Context:\n\n"},
                {"role": "user", "content": [{"type": "text", "text": CRANE}]},
            ],
            "params": {},
            "features": {"web_search": False, "image_generation": False},
            "tool_ids": None,
            "chat_id": "c",
            "session_id": "s",
        }
        with webui.stream("POST", f"{address}chat/completions", json=chat) as response:
            assert "text/event-stream" in response.headers["content-type"]
            lines = [line for line in response.iter_lines() if line]
        assert lines.pop() == "data: [DONE]"
        chunks = [json.loads(line.removeprefix("data: ")) for line in lines]
        assert "".join(c["choices"][0]["delta"].get("content", "") for c in chunks if c["choices"]) == ANSWER
        title = {"role": "user", "content": "### Task:\nGenerate a concise, 3-5 word title with an emoji."}
        task = {"model": model, "messages": [title], "stream": False}
        got = webui.post(f"{address}chat/completions", json=task).json()
        assert isinstance(got["choices"][0]["message"]["content"], str)


def test_what_is_not_answered(client):
    got = client.chat.completions.create(model="x", messages=[user("...?!")])
    assert got.choices[0].message.citations == []
    assert got.fieldstone["abstained"]
    assert got.choices[0].message.content
    chunks = list(client.chat.completions.create(model="x", messages=[user("...?!")], stream=True))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == got.choices[0].message.content


def test_models(client):
    assert [model.id for model in client.models.list()] == [
        "fieldstone/harbour", "fieldstone/island", "fieldstone/words",
    ]  # fmt: skip
    assert client.models.retrieve("fieldstone/island").owned_by == "fieldstone"
    asked = [user("When does the ferry sail?")]
    got = client.chat.completions.create(model="fieldstone/island", messages=asked)
    assert got.choices[0].message.citations[0]["source"] == "ferry.md"
    with pytest.raises(openai.NotFoundError, match="there is no workspace 'moon'"):
        client.chat.completions.create(model="fieldstone/moon", messages=asked)
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-4o")


def test_embeddings(client):
    texts = ["The gate opens at six.", "Fishing boats pay half."] * 6
    expected = load_encoder("fake:words").encode_passages(texts)
    for encoding in ("float", "base64"):
        got = client.embeddings.create(model="fieldstone/harbour", input=texts, encoding_format=encoding)
        if encoding == "float":
            assert [its.index for its in got.data] == list(range(12))
            assert np.allclose([its.embedding for its in got.data], expected)
        assert got.usage.prompt_tokens == 6 * (5 + 4)
    by_default = client.embeddings.create(model="x", input=texts[0])  # base64 on the wire
    assert np.allclose(by_default.data[0].embedding, expected[0])
    with pytest.raises(openai.BadRequestError, match="256 dimensions"):
        client.embeddings.create(model="x", input="a", dimensions=64)
    with pytest.raises(openai.BadRequestError, match="tokens mean nothing"):
        client.embeddings.create(model="x", input=[[1, 2, 3]])
    with pytest.raises(openai.BadRequestError, match="512 are the most"):
        client.embeddings.create(model="x", input=["a"] * 513)
    with pytest.raises(openai.BadRequestError, match="no encoder"):
        client.embeddings.create(model="fieldstone/words", input="a")


@pytest.mark.parametrize(
    ("messages", "why"),
    [
        ([], "messages"),
        ([{"role": "assistant", "content": "hello"}], "no user message"),
        ([user("")], "no user message"),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
            "no user message",
        ),
        ([{"role": "wizard", "content": "x"}], "role"),
        ([user("x" * 4001)], "4,000 are the most"),
    ],
)
def test_a_conversation_without_a_question(client, messages, why):
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError, match=why) as refused:
            client.chat.completions.create(model="x", messages=messages, stream=stream)
        assert refused.value.type == "invalid_request_error"
        assert refused.value.param == "messages"


def test_the_example_of_the_documentation_runs(client, capsys):
    page = (Path(__file__).parents[1] / "docs" / "serve.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    address = str(client.base_url).rstrip("/")
    exec(code.replace("http://127.0.0.1:8000/v1", address).replace("handbook", "harbour"), {})
    assert capsys.readouterr().out == f"{ANSWER}\n1 berths/berth-7.md {ANSWER}\n"
