"""Several servers of one model, real ones on this machine that can be slow, busy, different, or gone."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import numpy as np
import pytest

from fieldstone.errors import EndpointError, ModelError
from fieldstone.models import Prompt, load_encoder, load_generator
from fieldstone.models.endpoint import EndpointGenerator
from fieldstone.models.fake import FakeEncoder, FakeGenerator
from fieldstone.models.fleet import LONGEST_REST, LONGEST_WAIT, Fleet
from fieldstone.models.wire import Wire
from fieldstone.settings import resolve_settings
from model_server import Server, serving

PROMPTS = [Prompt(text=f"The number is {i}. Which number is {i}?") for i in range(40)]


@pytest.fixture
def two() -> Iterator[tuple[Server, Server]]:
    with serving() as one, serving() as other:
        yield one, other


@pytest.fixture
def nobody() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/v1"


def generator(*urls: str, **options: object) -> EndpointGenerator:
    name = ",".join(f"{url}#fake" for url in urls)
    wire = Wire(name, **{"wait": 0.02, "timeout": 5.0} | options)  # type: ignore[arg-type]
    return EndpointGenerator(name, wire)


def assert_all_there(made: EndpointGenerator) -> None:
    expected = [its.text for its in FakeGenerator().generate(PROMPTS)]
    assert [its.text for its in made.generate(PROMPTS)] == expected


def asked(server: Server) -> int:
    return sum(path != "/v1/models" for path, *_ in server.seen)


@pytest.mark.slow
def test_throughput_grows_with_the_servers() -> None:
    seconds: dict[int, list[float]] = {1: [], 2: []}
    with serving(slots=2, delay=0.3) as one, serving(slots=2, delay=0.3) as other:
        fleets = {1: generator(one.url), 2: generator(one.url, other.url)}
        for _ in range(2):
            for servers, fleet in fleets.items():
                began = time.perf_counter()
                fleet.generate(PROMPTS[:8])
                seconds[servers].append(time.perf_counter() - began)
    # 8 requests of 0.3 s, two at a time and server: 1.2 s behind one, 0.6 s behind two
    assert min(seconds[1]) > 1.5 * min(seconds[2])


def test_the_less_busy_server_is_asked() -> None:
    with serving(slots=1) as fast, serving(slots=1, delay=0.3) as slow:
        assert_all_there(generator(fast.url, slow.url, concurrency=2))
        assert asked(fast) > 2 * asked(slow) > 0


def test_a_server_that_is_gone_is_left_out_and_taken_back(two: tuple[Server, Server]) -> None:
    with serving() as short_lived:
        fleet = generator(two[0].url, short_lived.url)
        assert_all_there(fleet)
        assert asked(short_lived) > 10
    assert_all_there(fleet)
    time.sleep(0.1)
    port = int(short_lived.url.split(":")[2].split("/")[0])
    with serving(port) as again:
        deadline = time.monotonic() + 20
        while not asked(again) and time.monotonic() < deadline:
            assert_all_there(fleet)
        assert asked(again)


def test_one_that_is_gone_from_the_start_does_not_matter(two: tuple[Server, Server], nobody: str) -> None:
    for urls in ((nobody, two[0].url), (two[0].url, nobody)):
        fleet = generator(*urls)
        assert fleet.context_tokens == 2048
        assert_all_there(fleet)
    with pytest.raises(EndpointError, match="does not answer"):
        generator(nobody, nobody, retries=1)


def test_a_rate_limit_is_heeded_while_the_other_server_works(two: tuple[Server, Server]) -> None:
    limited, free = two
    fleet = generator(limited.url, free.url)
    limited.replies += [(429, "slow down", {"retry-after": "30"})] * 40
    assert_all_there(fleet)
    assert 1 <= asked(limited) <= 8  # those that were on their way when the first was turned down
    before = asked(limited)
    assert_all_there(fleet)
    assert asked(limited) == before


def test_a_server_is_asked_again_once_it_said(two: tuple[Server, Server]) -> None:
    limited, free = two
    fleet = generator(limited.url, free.url)
    limited.replies += [(429, "slow down", {"retry-after": "0.1"})]
    assert_all_there(fleet)
    time.sleep(0.1)
    before = asked(limited)
    assert_all_there(fleet)
    assert asked(limited) > before


def test_patience_ends_when_no_server_has_any(two: tuple[Server, Server]) -> None:
    for server in two:
        server.replies += [(503, "soon", {})] * 20
    with pytest.raises(EndpointError, match="answered 503: soon"):
        generator(*(server.url for server in two), retries=1).generate(PROMPTS[:1])
    assert sum(map(asked, two)) == 4


@pytest.mark.slow
def test_one_that_hangs_costs_a_request_once(two: tuple[Server, Server]) -> None:
    two[0].delay = 2.0
    fleet = generator(two[0].url, two[1].url, timeout=1.0)
    assert_all_there(fleet)


def test_a_stream_is_taken_from_either(two: tuple[Server, Server]) -> None:
    fleet = generator(*(server.url for server in two))
    for _ in range(4):
        assert list(fleet.stream(PROMPTS[0])) == list(FakeGenerator().stream(PROMPTS[0]))
    assert [asked(server) for server in two] == [2, 2]


def test_the_same_model_is_the_same_behind_more_servers(two: tuple[Server, Server]) -> None:
    names = [f"{server.url}#fake" for server in two]
    assert load_generator(names[0]).fingerprint == load_generator(",".join(names)).fingerprint
    encoder = load_encoder(", ".join(names))
    assert encoder.fingerprint == load_encoder(names[0]).fingerprint
    texts = [f"text number {i}" for i in range(300)]
    assert np.allclose(encoder.encode_passages(texts), FakeEncoder().encode_passages(texts), atol=1e-6)


def test_servers_of_different_models_are_no_fleet(two: tuple[Server, Server]) -> None:
    with pytest.raises(ModelError, match=r"names several models \(fake, other\)"):
        load_generator(f"{two[0].url}#fake,{two[1].url}#other")
    two[1].root = "tuned"
    with pytest.raises(EndpointError, match=r"fake-root, .* serves tuned"):
        generator(*(server.url for server in two))


def test_a_list_in_the_settings_names_a_fleet() -> None:
    flags = ['models.generator=["http://a/v1#m", "http://b/v1#m"]', "models.encoder=embedded:minilm"]
    models = resolve_settings({}, environment={}, flags=flags).models
    assert models.generator == "http://a/v1#m,http://b/v1#m"
    assert models.encoder == "embedded:minilm"


def rests(*failures: float | None) -> list[float]:
    """Seconds that a server rests after each of so many failures in a row, of what it asks for with each."""
    fleet = Fleet(["http://a"], wait=1.0)
    (server,), found = fleet.servers, []
    for patience in failures:
        server.rests_until = 0.0
        fleet.failed(server, server.failures, patience)
        found.append(server.rests_until - time.monotonic())
    return found


def test_a_server_rests_longer_with_each_failure_but_never_longer_than_the_longest() -> None:
    assert rests(*[None] * 6) == pytest.approx([1.0, 2.0, 4.0, 8.0, LONGEST_REST, LONGEST_REST], abs=0.5)
    assert rests(0.0, 7.0, 10 * LONGEST_WAIT) == pytest.approx([0.0, 7.0, LONGEST_WAIT], abs=0.5)
