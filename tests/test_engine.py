"""A workspace held open: many ask, each gets their own answer, whatever changes meanwhile."""

import asyncio
import json
import threading
from contextlib import asynccontextmanager

import pytest
from typer.testing import CliRunner

from fieldstone.answer import answer, open_system
from fieldstone.cli.app import app
from fieldstone.errors import Busy, ModelError, NotReady
from fieldstone.in_use import Choice, take_into_use
from fieldstone.models import load_encoder
from fieldstone.records import Answer
from fieldstone.search import Filter
from fieldstone.search.embed import embed_library
from fieldstone.serve.engine import Engine, Found, Reply, Turn
from fieldstone.settings import resolve_settings, write_settings_file
from fieldstone.workspace import open_workspace
from serving import ENCODER, GENERATOR, until, workspace_of
from small_library import put

CRANE = "Which crane lifts forty tonnes?"
PRICE = "What does a day at the quay cost?"
RADIO = "On which channel is the fire watch told?"
WATCHED = {"encoder": "watched:words", "generator": "watched:words"}


@pytest.fixture(autouse=True)
def nothing_held():
    GENERATOR.calls.clear()
    yield
    for watch in (GENERATOR, ENCODER):
        watch.go()


def run(main):
    asyncio.run(asyncio.wait_for(main, 30))


@asynccontextmanager
async def opened(workspace, flags=()):
    engine = Engine(workspace, flags)
    try:
        await engine.refresh()
        yield engine
    finally:
        GENERATOR.go()
        await engine.close()
        assert not [t.name for t in threading.enumerate() if t.name.startswith(f"{engine.name}-")]


async def reached(watch):
    assert await asyncio.to_thread(watch.reached.wait, 20)


def plain(given: Answer):
    return given.text, given.citations, [hit.passage.id for hit in given.hits], given.abstained


def by_itself(workspace, question, filter=None):
    """What `fieldstone ask` would say."""
    from fieldstone.recipes import choose_settings

    system = open_system(workspace, choose_settings(None, workspace.stored_settings()))
    return answer(system, [question], filter)[0]


def test_it_answers_and_finds_as_the_command_does(tmp_path):
    workspace = workspace_of(tmp_path / "harbour")

    async def main():
        async with opened(workspace) as engine:
            for filter in (None, Filter(source="tariffs/*")):
                reply = await engine.ask(PRICE, filter)
                assert plain(reply.answer) == plain(by_itself(workspace, PRICE, filter))
                found = await engine.search(PRICE, 2, filter)
                assert len(found.hits) == 2
                assert {hit.by for hit in found.hits} == {"fused"}
                assert {hit.passage.document_id for hit in found.hits} == set(found.sources)
            assert sorted(source for source, _ in found.sources.values()) == [
                "tariffs/2024.txt",
                "tariffs/2025.txt",
            ]
            assert reply.tokens[0] == 8
            embedded = await engine.embed(["a"] * 9)
            assert (embedded.vectors.shape, embedded.tokens) == ((9, 256), 9)

    run(main())


@pytest.mark.slow
def test_a_second_look_is_that_of_the_command_with_a_tuned_reranker_too(tmp_path):
    from tiny_models import cross_encoder

    workspace = workspace_of(tmp_path / "harbour")
    tuned = Choice("reranker", "models/reranker/one", "likelihood", "2026-11-22", "better", False)

    async def main():
        async with opened(workspace) as engine:
            for by in ("likelihood", "cross-encoder"):
                said = CliRunner().invoke(app, ["search", str(workspace.path), PRICE, "--json"])
                hits = (await engine.search(PRICE, 10, rerank=True)).hits
                assert {hit.by for hit in hits} == {by}
                assert [hit.passage.id for hit in hits] == [
                    its["passage"]["id"] for its in json.loads(said.stdout)["hits"]
                ]
                cross_encoder(workspace.path / tuned.name)
                with workspace.writing():
                    take_into_use(workspace, tuned)
                await engine.refresh()

    run(main())


def test_before_it_is_open_and_after_its_stop_it_says_so(tmp_path):
    workspace = workspace_of(tmp_path / "harbour")

    async def main():
        engine = Engine(workspace)
        with pytest.raises(NotReady, match="is loading"):
            await engine.ask(PRICE)
        with pytest.raises(NotReady):
            engine.stream(PRICE)
        await engine.refresh()
        assert engine.ready
        await engine.close()
        for asked in (engine.ask(PRICE), engine.search(PRICE), engine.embed(["a"])):
            with pytest.raises(NotReady, match="stopping"):
                await asked

    run(main())


def test_what_keeps_it_from_opening_is_known_and_may_pass(tmp_path):
    workspace = workspace_of(tmp_path / "harbour")
    good = workspace.settings_file.read_text()
    workspace.settings_file.write_text(good.replace('generator = "fake:words"', 'generator = "fake:other"'))

    async def main():
        engine = Engine(workspace)
        keeping = asyncio.create_task(engine.keep_fresh(0.02))
        await asyncio.to_thread(until, lambda: engine.problem)
        assert "the only fake models are fake:words" in engine.problem
        with pytest.raises(NotReady, match="could not be opened"):
            await engine.ask(PRICE)
        workspace.settings_file.write_text(good)
        await asyncio.to_thread(until, lambda: engine.ready)
        assert not engine.problem
        assert (await engine.ask(PRICE)).answer.citations
        keeping.cancel()
        await engine.close()

    run(main())


def test_what_waits_is_answered_together_and_each_as_if_alone(tmp_path):
    workspace = workspace_of(tmp_path / "harbour", **WATCHED)
    expected = {question: plain(by_itself(workspace, question)) for question in (CRANE, PRICE, RADIO)}

    async def main():
        async with opened(workspace) as engine:
            GENERATOR.hold()
            first = asyncio.create_task(engine.ask(CRANE))
            await reached(GENERATOR)
            GENERATOR.calls.clear()
            rest = [asyncio.create_task(engine.ask(q)) for q in (PRICE, RADIO, PRICE)]
            filtered = asyncio.create_task(engine.ask(PRICE, Filter(source="tariffs/2024*")))
            await asyncio.to_thread(until, lambda: engine.waiting["answers"] == 4)
            GENERATOR.go()
            replies = [its.answer for its in await asyncio.gather(first, *rest)]
            assert list(map(plain, replies)) == [expected[q] for q in (CRANE, PRICE, RADIO, PRICE)]
            assert len((await filtered).answer.hits) == 1
            # the first one's reading; three questions reranked and read at once, and the one with a filter
            assert len(GENERATOR.calls) == 1 + 2 + 2

    run(main())


def test_a_search_never_waits_behind_an_answer(tmp_path):
    workspace = workspace_of(tmp_path / "harbour", **WATCHED)

    async def main():
        async with opened(workspace) as engine:
            GENERATOR.hold()
            asking = asyncio.create_task(engine.ask(CRANE))
            await reached(GENERATOR)
            found = await asyncio.gather(*(engine.search(PRICE) for _ in range(20)))
            assert all(its.hits for its in found)
            assert not asking.done()

    run(main())


def test_encoder_and_generator_serve_one_thread_at_a_time(tmp_path):
    workspace = workspace_of(tmp_path / "harbour", **WATCHED)

    async def main():
        async with opened(workspace) as engine:
            asked = [engine.ask(q) for q in (CRANE, PRICE, RADIO) * 3]
            await asyncio.gather(*asked, *(engine.search(CRANE) for _ in range(50)), engine.embed(["a"] * 30))

    run(main())


def test_one_question_that_fails_does_not_cost_the_others(tmp_path):
    workspace = workspace_of(tmp_path / "harbour", **WATCHED)

    async def main():
        async with opened(workspace) as engine:
            GENERATOR.hold()
            first = asyncio.create_task(engine.ask(CRANE))
            await reached(GENERATOR)
            rest = [asyncio.create_task(engine.ask(q)) for q in (PRICE, "crane " * 5000, RADIO)]
            await asyncio.to_thread(until, lambda: engine.waiting["answers"] == 3)
            GENERATOR.go()
            replies = await asyncio.gather(first, *rest, return_exceptions=True)
            assert isinstance(replies.pop(2), ModelError)
            assert all(its.answer.citations for its in replies)

    run(main())


def test_a_full_queue_turns_down_answers_and_no_searches(tmp_path):
    workspace = workspace_of(tmp_path / "harbour", **WATCHED, serve={"queue": 2})

    async def main():
        async with opened(workspace) as engine:
            GENERATOR.hold()
            first = asyncio.create_task(engine.ask(CRANE))
            await reached(GENERATOR)
            waiting = [asyncio.create_task(engine.ask(CRANE)) for _ in range(2)]
            await asyncio.to_thread(until, lambda: engine.waiting["answers"] == 2)
            with pytest.raises(Busy):
                await engine.ask(CRANE)
            with pytest.raises(Busy):
                engine.stream(CRANE)
            assert (await engine.search(CRANE)).hits
            waiting[0].cancel()
            await asyncio.wait(waiting[:1])
            assert engine.waiting["answers"] == 1
            GENERATOR.go()
            await asyncio.gather(first, waiting[1])

    run(main())


async def heard(stream):
    return [event async for event in stream]


def test_a_stream_tells_what_is_found_then_the_text_then_all(tmp_path):
    for reading in ("together", "one-by-one"):
        workspace = workspace_of(tmp_path / reading, **WATCHED, answer={"reading": reading})

        async def main(workspace=workspace, reading=reading):
            async with opened(workspace) as engine:
                found, *pieces, reply = await heard(engine.stream(CRANE))
                assert isinstance(found, Found)
                assert isinstance(reply, Reply)
                assert found.hits == reply.answer.hits
                assert "".join(pieces).strip() == reply.answer.text != ""
                assert (len(pieces) > 1) == (reading == "together")
                assert plain(reply.answer) == plain((await engine.ask(CRANE)).answer)

        run(main())


def test_in_company_streams_come_piece_by_piece_and_at_the_same_time(tmp_path):
    workspace = workspace_of(tmp_path / "harbour", encoder="fake:words", generator="watched:long")
    alone = {question: plain(by_itself(workspace, question)) for question in (PRICE, RADIO)}

    async def main():
        async with opened(workspace) as engine:
            GENERATOR.hold()
            first = asyncio.create_task(heard(engine.stream(CRANE)))
            await reached(GENERATOR)
            order: list[str] = []

            async def listen(question):
                events = []
                async for event in engine.stream(question):
                    events.append(event)
                    order.append(question)
                return events

            streams = [asyncio.create_task(listen(question)) for question in alone]
            silent = asyncio.create_task(engine.ask(CRANE))
            await asyncio.to_thread(until, lambda: engine.waiting["answers"] == 3)
            GENERATOR.go()
            assert len(await first) > 3
            for question, (found, *pieces, reply) in zip(alone, await asyncio.gather(*streams), strict=True):
                assert isinstance(found, Found)
                assert len(pieces) > 2
                assert "".join(pieces).strip() == reply.answer.text
                assert plain(reply.answer) == alone[question]
            assert (await silent).answer.citations
            assert order != sorted(order, key=list(alone).index), "neither waits for the other's end"

    run(main())


def test_a_batch_that_fails_tells_nobody_the_same_words_twice(tmp_path):
    workspace = workspace_of(tmp_path / "harbour", encoder="fake:words", generator="watched:long")

    async def main():
        async with opened(workspace) as engine:
            GENERATOR.hold()
            first = asyncio.create_task(heard(engine.stream(CRANE)))
            await reached(GENERATOR)
            streaming = asyncio.create_task(heard(engine.stream(PRICE)))
            other = asyncio.create_task(engine.ask(RADIO))
            await asyncio.to_thread(until, lambda: engine.waiting["answers"] == 2)
            GENERATOR.fail(after=20)
            GENERATOR.go()
            await first
            _found, *pieces, reply = await streaming
            assert "".join(pieces).strip() == reply.answer.text
            assert (await other).answer.citations
            assert not GENERATOR.failing, "it did fail"

    run(main())


def test_in_company_those_who_stay_get_their_answer(tmp_path):
    workspace = workspace_of(tmp_path / "harbour", encoder="fake:words", generator="watched:long")

    async def main():
        async with opened(workspace) as engine:
            GENERATOR.hold()
            first = asyncio.create_task(heard(engine.stream(CRANE)))
            await reached(GENERATOR)
            leaving, staying = engine.stream(PRICE), asyncio.create_task(heard(engine.stream(RADIO)))
            began = asyncio.create_task(anext(leaving))
            await asyncio.to_thread(until, lambda: engine.waiting["answers"] == 2)
            GENERATOR.go()
            await first
            await began
            await leaving.aclose()
            assert (await staying)[-1].answer.citations

    run(main())


def test_a_stream_that_is_left_frees_the_thread(tmp_path):
    workspace = workspace_of(tmp_path / "harbour", encoder="fake:words", generator="watched:long")

    async def main():
        async with opened(workspace) as engine:
            GENERATOR.hold(after=5)  # in the middle of the text
            events = engine.stream(CRANE)
            assert isinstance(await anext(events), Found)
            await reached(GENERATOR)
            written = len(GENERATOR.calls)
            await events.aclose()
            asking = asyncio.create_task(engine.ask(PRICE))
            GENERATOR.go()
            assert (await asking).answer.citations
            assert len(GENERATOR.calls) <= written + 3  # at most a piece more, then the other's two

    run(main())


def test_a_stop_ends_streams_and_turns_down_what_waits(tmp_path):
    workspace = workspace_of(tmp_path / "harbour", encoder="fake:words", generator="watched:long")

    async def main():
        async with opened(workspace) as engine:
            GENERATOR.hold()
            streaming = asyncio.create_task(heard(engine.stream(CRANE)))
            await reached(GENERATOR)
            waiting = asyncio.create_task(engine.ask(PRICE))
            await asyncio.to_thread(until, lambda: engine.waiting["answers"] == 1)
            engine.stop()
            with pytest.raises(NotReady):
                await waiting
            GENERATOR.go()
            with pytest.raises(NotReady):
                await streaming

    run(main())


def test_a_follow_up_is_understood_by_what_was_asked_before(tmp_path):
    workspace = workspace_of(tmp_path / "harbour")

    async def main():
        async with opened(workspace) as engine:
            assert await engine.self_contained("And berth 8?", ()) == "And berth 8?"
            turns = [Turn("What does the crane of berth 7 lift?", "forty tonnes")]
            assert "crane" in await engine.self_contained("And berth 8?", turns)

    run(main())


def test_new_documents_are_found_at_once(tmp_path):
    workspace = workspace_of(tmp_path / "harbour")

    async def main():
        async with opened(workspace) as engine:
            library = workspace.library()
            put(library, "ferry.md", "The ferry to Gull Island sails at noon.")
            embed_library(library, load_encoder("fake:words"))
            found = await engine.search("When does the ferry to Gull Island sail?", 1)
            assert list(found.sources.values()) == [("ferry.md", "ferry.md")]
            library.remove_files(["ferry.md"])
            library.close()
            hits = (await engine.search("When does the ferry to Gull Island sail?")).hits
            assert not [hit for hit in hits if "ferry" in hit.passage.text]

    run(main())


def test_an_answer_is_of_one_version_of_the_library(tmp_path):
    workspace = workspace_of(tmp_path / "harbour", **WATCHED)

    async def main():
        async with opened(workspace) as engine:
            GENERATOR.hold()
            asking = asyncio.create_task(engine.ask(CRANE))
            await reached(GENERATOR)
            library = workspace.library()
            library.remove_files(list(library.files()))
            library.close()
            assert not (await engine.search(CRANE)).hits
            GENERATOR.go()
            reply = await asking
            assert [citation.verified for citation in reply.answer.citations] == [True]
            assert reply.answer.hits
            assert all(source for source, _ in reply.sources.values())
            assert (await engine.ask(CRANE)).answer.abstained

    run(main())


def change(workspace, **models):
    tree = workspace.stored_settings()
    tree["models"] |= models
    write_settings_file(workspace.settings_file, resolve_settings(tree, environment={}))


def test_another_generator_comes_into_use_and_nothing_under_way_is_lost(tmp_path):
    workspace = workspace_of(tmp_path / "harbour", **WATCHED)

    async def main():
        async with opened(workspace) as engine:
            assert not await engine.refresh()
            GENERATOR.hold()
            under_way = asyncio.create_task(engine.ask(CRANE))
            await reached(GENERATOR)
            change(workspace, generator="fake:words")
            refreshing = asyncio.create_task(engine.refresh())
            await asyncio.to_thread(until, lambda: engine.settings.models.generator == "fake:words")
            waiting = asyncio.create_task(engine.ask(PRICE))
            found = await engine.search(PRICE)
            GENERATOR.go()
            assert await refreshing
            assert (await under_way).answer.citations
            written = len(GENERATOR.calls)
            assert (await waiting).answer.citations
            assert found.hits
            assert len(GENERATOR.calls) == written

    run(main())


def test_another_encoder_comes_into_use_under_a_question(tmp_path):
    workspace = workspace_of(tmp_path / "harbour")

    async def main():
        async with opened(workspace) as engine:
            library = open_workspace(workspace.path).library()
            embed_library(library, load_encoder("watched:other"))  # what we hold no longer fits
            library.close()
            asking = [asyncio.create_task(its) for its in (engine.ask(CRANE), engine.search(CRANE))]
            streaming = asyncio.create_task(heard(engine.stream(CRANE)))
            await asyncio.sleep(0.1)
            change(workspace, encoder="watched:other")
            reply, found = await asyncio.gather(*asking)
            assert reply.answer.citations
            assert found.hits
            assert (await streaming)[-1].answer.citations

    run(main())
