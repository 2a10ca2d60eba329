"""Workspaces that have a model in common share it: one copy, one thread at a time, everyone in turn."""

import asyncio
import gc
import threading
import weakref
from contextlib import asynccontextmanager

import httpx
import numpy as np
import pytest

import serving
from fieldstone.errors import ModelError
from fieldstone.models.fake import FakeEncoder
from fieldstone.recipes import choose_settings, update
from fieldstone.serve.engine import Engine, Found, Reply
from fieldstone.serve.shared import Borrowed, SharedModels, Turns
from serving import ENCODER, GENERATOR, running, until, workspace_of
from small_library import write_folder
from test_engine import CRANE, PRICE, RADIO, WATCHED, by_itself, change, heard, plain, reached, run


@pytest.fixture(autouse=True)
def nothing_held():
    for watch in (GENERATOR, ENCODER):
        watch.calls.clear()
        watch.users.clear()
    yield
    for watch in (GENERATOR, ENCODER):
        watch.go()


@asynccontextmanager
async def opened(*workspaces):
    """Engines over the same models, as one server has them."""
    models = SharedModels()
    engines = [Engine(workspace, (), models) for workspace in workspaces]
    try:
        await asyncio.gather(*(engine.refresh() for engine in engines))
        yield engines
    finally:
        GENERATOR.go()
        for engine in engines:
            await engine.close()


def three(path, **more):
    return [workspace_of(path / name, **{**WATCHED, **more}) for name in ("one", "two", "three")]


@pytest.mark.parametrize("reading", ["one-by-one", "together"])
def test_all_work_at_once_and_a_model_for_one_at_a_time(tmp_path, reading):
    """The watched models fail when two threads use them."""
    workspaces = three(tmp_path, answer={"reading": reading})
    expected = {question: plain(by_itself(workspaces[0], question)) for question in (CRANE, PRICE, RADIO)}

    async def main():
        async with opened(*workspaces) as engines:
            generators = {id(engine._opened.system.generator) for engine in engines}
            assert len(generators) == 1
            asking = {
                (engine.name, question, n): asyncio.create_task(engine.ask(question))
                for engine in engines
                for question in expected
                for n in range(6)
            }
            streams = [asyncio.create_task(heard(engine.stream(CRANE))) for engine in engines]
            beside = [engine.search(PRICE) for engine in engines for _ in range(20)]
            beside += [engine.embed(["a"] * 20) for engine in engines]
            await asyncio.gather(*beside)
            for (_, question, _), its in asking.items():
                assert plain((await its).answer) == expected[question]
            for its in streams:
                assert isinstance((await its)[-1], Reply)

    run(main())


def test_a_busy_workspace_does_not_keep_the_others_waiting(tmp_path):
    busy, other, _ = three(tmp_path, serve={"batch": 1})

    async def main():
        async with opened(busy, other) as (first, second):
            GENERATOR.hold()
            many = [asyncio.create_task(first.ask(CRANE)) for _ in range(12)]
            await reached(GENERATOR)
            one = asyncio.create_task(second.ask(PRICE))
            turns = second._opened.models._answering[0].turns
            await asyncio.to_thread(until, lambda: turns._waiting)
            assert (await second.search(PRICE)).hits, "what needs no generator waits for nobody"
            GENERATOR.go()
            assert (await one).answer.citations
            await asyncio.gather(*many)
            users = GENERATOR.users
            before = users.index("two-answers")
            assert before == users.count("one-answers") / len(many), "one answer, and then its turn has come"

    run(main())


def test_a_stream_has_the_model_for_itself_until_its_end(tmp_path):
    workspaces = [
        workspace_of(tmp_path / name, encoder="fake:words", generator="watched:long") for name in ("a", "b")
    ]

    async def main():
        async with opened(*workspaces) as (first, second):
            GENERATOR.hold(after=5)  # in the middle of the text
            events = first.stream(CRANE)
            assert isinstance(await anext(events), Found)
            await reached(GENERATOR)
            asking = asyncio.create_task(second.ask(PRICE))
            turns = second._opened.models._answering[0].turns
            await asyncio.to_thread(until, lambda: turns._waiting)
            await events.aclose()  # its asker goes: the turn goes to the other
            GENERATOR.go()
            assert (await asking).answer.citations

    run(main())


def test_a_change_of_one_leaves_the_others_with_what_they_have(tmp_path):
    first, second, _ = three(tmp_path)

    async def main():
        async with opened(first, second) as (changing, staying):
            GENERATOR.hold()
            asking = asyncio.create_task(staying.ask(CRANE))
            await reached(GENERATOR)
            change(first, generator="watched:long")
            assert await changing.refresh(), "no turn is needed to open"
            assert changing._opened.system.generator is not staying._opened.system.generator
            GENERATOR.go()
            assert (await asking).answer.citations
            change(second, generator="fake:words")
            gone = weakref.ref(staying._opened.system.generator)
            assert await staying.refresh()
            gc.collect()
            assert gone() is None, "nobody has it any more"
            assert (await changing.ask(CRANE)).answer.citations
            assert (await staying.ask(CRANE)).answer.citations

    run(main())


def test_what_is_the_same_model():
    models = SharedModels()
    having = Borrowed(models)
    kept = having.load_generator("fake:words", threads=1)
    assert Borrowed(models).load_generator("fake:words", threads=1) is kept
    assert Borrowed(models).load_generator("fake:words", threads=2) is not kept
    assert Borrowed(models).load_generator("fake:words", device="cpu", threads=1) is not kept
    assert Borrowed(SharedModels()).load_generator("fake:words", threads=1) is not kept
    with pytest.raises(ModelError, match="fake:words"):
        Borrowed(models).load_generator("fake:nosuch")


@pytest.mark.slow
def test_a_folder_that_was_written_anew_is_another_model(tmp_path):
    from tiny_models import llama

    folder, models = llama(tmp_path / "tiny"), SharedModels()
    having = Borrowed(models)
    kept = having.load_generator(str(folder))
    assert Borrowed(models).load_generator(str(folder)) is kept
    config = folder / "generation_config.json"
    config.write_text(config.read_text() + "\n")
    assert Borrowed(models).load_generator(str(folder)) is not kept


def test_generator_and_reranker_are_taken_in_one_order():
    """Two that would take them the other way round wait for each other for ever."""
    models = SharedModels()
    first, second = Borrowed(models), Borrowed(models)
    for load in (first.load_generator, first.load_reranker, second.load_reranker, second.load_generator):
        load("fake:words")
    generator, reranker = (held.turns for held in first._answering)

    def work():
        with second.turn():
            pass

    thread = threading.Thread(target=work)
    with generator:
        thread.start()
        until(lambda: generator._waiting)
        assert not reranker._taken
    thread.join(20)
    with first.turn():
        assert generator._taken
        assert reranker._taken


def test_turns_come_in_the_order_in_which_they_were_asked_for():
    turns, had = Turns(), []

    def work(number):
        with turns:
            had.append(number)

    with turns:
        threads = []
        for number in range(8):
            threads.append(threading.Thread(target=work, args=[number]))
            threads[-1].start()
            until(lambda number=number: len(turns._waiting) == number + 1)
        assert had == []
    for thread in threads:
        thread.join(20)
    assert had == list(range(8))
    with pytest.raises(ValueError), turns:
        raise ValueError
    work(8)


def test_what_is_uploaded_or_followed_is_embedded_by_the_model_that_searches(tmp_path, monkeypatch):
    workspace = workspace_of(tmp_path / "one", **WATCHED)
    folder = write_folder(tmp_path / "folder", {"ferry.md": "The ferry sails at noon."})
    update(workspace, choose_settings(None, workspace.stored_settings()), [folder])
    loaded = []
    load = serving.load_encoder
    monkeypatch.setattr(serving, "load_encoder", lambda *its: loaded.append(its) or load(*its))
    with running(workspace, watch=True) as address, httpx.Client(base_url=address, timeout=20) as client:
        client.post("/api/documents", files={"file": ("buoy.txt", b"The buoy is green.")}).raise_for_status()
        write_folder(folder, {"lock.md": "The lock opens at six."})
        until(lambda: len(client.get("/api/documents").json()["documents"]) == 7)
        until(lambda: client.get("/api/documents").json()["progress"] is None)
    assert len(loaded) == 1


def test_what_is_borrowed_is_on_the_device_that_the_server_was_told_of(tmp_path):
    workspace = workspace_of(tmp_path / "one", **WATCHED)

    async def main():
        engine = Engine(workspace, ["models.threads=1"])
        await engine.refresh()
        searching = engine._opened.index.dense._encoder
        assert engine.borrow().load_encoder("watched:words")._held is searching._held
        await engine.close()

    run(main())


def test_a_search_gets_its_turn_while_files_are_embedded():
    encoder = Borrowed(SharedModels()).load_encoder("watched:words")
    texts = [f"Berth {number} is {'very ' * (number % 7)}deep." for number in range(50)]
    vectors = encoder.encode_passages(texts)
    assert np.array_equal(vectors, FakeEncoder().encode_passages(texts))
    ENCODER.hold(after=1)
    thread = threading.Thread(target=encoder.encode_passages, args=[texts])
    thread.start()
    assert ENCODER.reached.wait(20), "they are embedded a few at a time"
    ENCODER.go()
    thread.join(20)
