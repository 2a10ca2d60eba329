"""The client of OpenAI-compatible servers, against a real one on this machine that can misbehave."""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Iterator

import numpy as np
import pytest

from fieldstone.errors import EndpointError, ModelError
from fieldstone.models import Prompt, load_encoder, load_generator, load_reranker
from fieldstone.models.endpoint import EndpointEncoder, EndpointGenerator
from fieldstone.models.fake import FakeEncoder, FakeGenerator, FakeReranker
from fieldstone.models.wire import Wire
from model_server import Server, serving

PASSAGE = "Passage: The harbour opens at six. Cats purr.\n"
PROMPT = Prompt(prefix=PASSAGE, text="Question: When does the harbour open?\nAnswer:")


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as state:
        yield state


def generator(server: Server, **options: object) -> EndpointGenerator:
    wire = Wire(f"{server.url}#fake", **{"wait": 0.01, "timeout": 5.0} | options)  # type: ignore[arg-type]
    return EndpointGenerator("test", wire)


def test_it_says_what_the_model_behind_it_says(server: Server) -> None:
    remote, local = load_generator(f"{server.url}#fake"), FakeGenerator()
    assert remote.context_tokens == 2048
    for prompt in (PROMPT, Prompt(text=PASSAGE + "When does it open?", chat=True)):
        ours, theirs = remote.generate([prompt], max_tokens=5)[0], local.generate([prompt], max_tokens=5)[0]
        assert (ours.text, ours.tokens, ours.finished) == (theirs.text, theirs.tokens, theirs.finished)
        assert ours.logprob == pytest.approx(theirs.logprob)
        assert list(remote.stream(prompt, max_tokens=5)) == list(local.stream(prompt, max_tokens=5))


def test_vectors_are_normalised_and_in_order(server: Server) -> None:
    remote, local = load_encoder(f"{server.url}#fake", query_prefix="q: "), FakeEncoder()
    texts = [f"text number {i}" for i in range(150)]
    assert np.allclose(remote.encode_passages(texts), local.encode_passages(texts), atol=1e-6)
    assert np.allclose(remote.encode_queries(["a"]), local.encode_passages(["q: a"]), atol=1e-6)
    assert remote.fingerprint == load_encoder(f"{server.url}#fake", query_prefix="q: ").fingerprint
    assert remote.fingerprint != load_encoder(f"{server.url}#fake").fingerprint


def test_reranking(server: Server) -> None:
    texts = ["Bread.", "The harbour opens at six.", "A harbour."]
    remote = load_reranker(f"{server.url}#fake")
    assert remote.rerank("When does the harbour open?", texts) == FakeReranker().rerank(
        "When does the harbour open?", texts
    )


def test_scores_are_summed_over_the_completion_alone(server: Server) -> None:
    prompt = Prompt(prefix=PASSAGE, text="Question:")
    ours = generator(server).score([prompt, prompt], [" When does the harbour open?", ""])
    theirs = FakeGenerator().score([prompt], [" When does the harbour open?"])[0]
    assert ours[0].tokens == theirs.tokens
    assert ours[0].logprob == pytest.approx(theirs.logprob)
    assert ours[1].logprob == 0.0


def test_a_server_that_cannot_score_is_named(server: Server) -> None:
    server.echo = False
    with pytest.raises(EndpointError, match=r"cannot score; vLLM"):
        generator(server).score([PROMPT], [" six"])
    with pytest.raises(EndpointError, match="chat API gives no log-prob"):
        generator(server).score([Prompt(text="x", chat=True)], ["y"])


def test_tokens_are_counted_by_the_server_or_estimated_from_above(server: Server) -> None:
    assert generator(server).count_tokens(["one two three"]) == [3]
    server.tokenize = False
    (estimate,) = generator(server).count_tokens(["one two three"])
    assert 3 <= estimate <= 13


def test_a_prefill_is_gone_on_with(server: Server) -> None:
    text = "### 1\nBread.\n\n### 2\nThe harbour opens at six.\n\n### Question\nWhen does the harbour open?"
    prompt = Prompt(text=text, chat=True, system="Cite.", prefill="### Reference\n")
    made = generator(server).generate([prompt])[0].text
    assert made.startswith("2\n\n### Answer\nThe harbour opens at six")
    _, body, _ = server.seen[-1]
    assert [m["role"] for m in body["messages"]] == ["system", "user", "assistant"]
    assert body["continue_final_message"] is True


def test_busy_and_broken_servers_are_asked_again(server: Server) -> None:
    server.replies += [(429, "slow down", {"retry-after": "0.2"}), (500, "oops", {}), (503, "soon", {})]
    began = time.perf_counter()
    assert generator(server).generate([PROMPT])[0].text
    assert time.perf_counter() - began > 0.2  # it waited as long as it was asked to
    assert len(server.seen) == 4


def test_patience_ends(server: Server) -> None:
    server.replies += [(500, "out of memory", {})] * 9
    with pytest.raises(
        EndpointError, match=r"/v1/completions answered 500: out of memory; see the server's log"
    ):
        generator(server, retries=2).generate([PROMPT])
    assert len(server.seen) == 3


@pytest.mark.parametrize(
    ("status", "says"),
    [(401, "FIELDSTONE_API_KEY"), (400, "see what it says"), (404, "check the path and the model")],
)
def test_refusals_are_final(server: Server, status: int, says: str) -> None:
    server.replies += [(status, "no", {})] * 2
    with pytest.raises(EndpointError, match=f"answered {status}: no; .*{says}"):
        generator(server).generate([PROMPT])
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        ("<html>welcome</html>", "not with JSON: <html>"),
        ("[1, 2]", "not with a JSON object"),
        ("{}", r"without choices\[0\]"),
        ('{"choices": []}', r"without choices\[0\]"),
        ('{"choices": [{"message": 3}]}', r"without choices\[0\]"),
        ("", "nothing"),
    ],
)
def test_nonsense_is_called_by_its_name(server: Server, reply: str, says: str) -> None:
    server.replies += [(200, reply, {})]
    with pytest.raises(EndpointError, match=says):
        generator(server).generate([PROMPT])


@pytest.mark.parametrize(
    "reply",
    [
        '{"data": []}',
        '{"data": [{"index": 0, "embedding": "AAAA"}]}',
        '{"data": [{"index": 0, "embedding": [NaN, 1]}]}',
        '{"data": [{"index": 0, "embedding": [0, 0]}]}',
    ],
)
def test_bad_vectors_are_refused(server: Server, reply: str) -> None:
    encoder = EndpointEncoder("test", Wire(f"{server.url}#fake"))
    server.replies += [(200, reply, {})]
    with pytest.raises(EndpointError, match="without data with 1 embeddings"):
        encoder.encode_passages(["x"])


def test_a_server_that_refuses_logprobs_is_asked_without(server: Server) -> None:
    server.refuse_logprobs = True
    remote = generator(server)
    made = remote.generate([PROMPT] * 2)
    assert made[0].text
    assert made[0].logprob is None
    before = len(server.seen)
    remote.generate([PROMPT])
    assert len(server.seen) == before + 1  # it remembers


def test_a_slow_server_runs_out_of_time(server: Server) -> None:
    server.delay = 0.5
    with pytest.raises(EndpointError, match=r"takes longer than 0.1 s"):
        generator(server, timeout=0.1).generate([PROMPT])


def test_a_stream_that_breaks_off(server: Server) -> None:
    server.break_off = True
    pieces = generator(server).stream(PROMPT)
    assert next(pieces)
    with pytest.raises(EndpointError, match="broke off"):
        list(pieces)


@pytest.mark.parametrize("chat", [False, True])
def test_what_is_heard_costs_no_log_probability(server: Server, chat: bool) -> None:
    model, heard = generator(server), []
    prompt = Prompt(text="The harbour opens at six in summer. When does the harbour open?", chat=chat)
    (made,) = model.generate([prompt], heard=lambda _, text: heard.append(text))
    assert len(set(heard)) == made.tokens > 2
    assert made.logprob == -0.5 * made.tokens
    assert made.finished
    server.refuse_logprobs = True
    (again,) = generator(server).generate([prompt], heard=lambda *_: None)
    assert (again.text, again.logprob) == (made.text, None)


def test_requests_run_side_by_side_within_bounds(server: Server) -> None:
    server.delay = 0.05
    prompts = [Prompt(text=f"The number is {i}. Which number is {i}?") for i in range(12)]
    made = generator(server, concurrency=4).generate(prompts)
    assert [f"number is {i}" in c.text for i, c in enumerate(made)] == [True] * 12
    assert 1 < server.busiest <= 4


def test_a_missing_model_is_told_with_what_there_is(server: Server) -> None:
    with pytest.raises(EndpointError, match=r"does not have the model 'fable'; it has fake"):
        load_generator(f"{server.url}#fable")
    server.models = False  # no list: no objection
    assert load_generator(f"{server.url}#fable").context_tokens == 4096


def test_nobody_there() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(EndpointError, match=r"does not answer: ConnectError.*check that the server runs"):
        EndpointGenerator("test", Wire(f"http://127.0.0.1:{port}/v1#m", retries=1, wait=0.01))


@pytest.mark.parametrize("address", ["http://[::1#m", "http:#m", "http://host:port/v1#m"])
def test_an_address_that_is_none(address: str) -> None:
    with pytest.raises(ModelError, match=r"is no address.*http://host:port"):
        EndpointGenerator("test", Wire(address))


def test_the_key_is_sent(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIELDSTONE_API_KEY", "secret-one")
    generator(server).generate([PROMPT])
    assert server.seen[-1][2]["authorization"] == "Bearer secret-one"


def test_scores_are_finite(server: Server) -> None:
    assert all(math.isfinite(s.logprob) for s in generator(server).score([PROMPT] * 5, [" six"] * 5))
