"""Vectors move from one store to another; what the search finds does not change, and a kill costs nothing."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from fieldstone.cli.app import app
from fieldstone.errors import StoreError
from fieldstone.recipes import choose_settings
from fieldstone.records import fingerprint
from fieldstone.search import search
from fieldstone.search.follow import follow
from fieldstone.search.move import move_store, recall_of
from fieldstone.search.open import open_index, open_vectors
from fieldstone.search.stores.memory import NumpyStore
from fieldstone.settings import Settings, StoreSettings
from fieldstone.workspace import Workspace, create_workspace
from small_library import put

PLACES = ["faiss://{}/v.faiss", "qdrant://{}/qdrant", "chroma://{}/chroma"]
WORDS = "berth crane quay tariff crowns winter ship fire channel watch pilot lock tide"
QUESTIONS = ["Which berth has a crane?", "crowns quay ship", "tide lock pilot"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace of forty documents, embedded with `fake:words`."""
    from fieldstone.models import load_encoder
    from fieldstone.search.embed import embed_library

    path = tmp_path_factory.mktemp("made") / "ws"
    library = create_workspace(path).library()
    chance = np.random.default_rng(0)
    for number in range(40):
        put(library, f"{number}.txt", " ".join(chance.choice(WORDS.split(), 12)) + f" number {number}.")
    embed_library(library, load_encoder("fake:words"))
    library.close()
    (path / "fieldstone.toml").write_text('recipe = "guide"\n[models]\nencoder = "fake:words"\n')
    return path


@pytest.fixture
def workspace(made: Path, tmp_path: Path) -> Workspace:
    shutil.copytree(made, tmp_path / "ws")
    return Workspace(tmp_path / "ws")


def settings_of(workspace: Workspace, *flags: str) -> Settings:
    flags = ("search.rerank=none", *flags)
    return choose_settings(None, workspace.stored_settings(), environment={}, flags=flags)


def found(workspace: Workspace, mode: str) -> list[list[tuple[str, float]]]:
    settings = settings_of(workspace, f"search.mode={mode}")
    index = open_index(workspace, settings)
    hits = search(index, QUESTIONS, settings.search, k=8)
    assert index.dense is not None
    index.dense._store.close()
    index.library.close()
    return [[(hit.passage.id, round(hit.score, 4)) for hit in row] for row in hits]


def test_round_all_stores_and_back(workspace: Workspace, tmp_path: Path) -> None:
    before = {mode: found(workspace, mode) for mode in ("dense", "fused")}
    for url in [template.format(tmp_path) for template in PLACES] + ["library"]:
        moved = move_store(workspace, settings_of(workspace, f"search.store={url}"))
        assert (moved.store, moved.vectors) == (url, 40)
        assert moved.recall is None if url == "library" else moved.recall == pytest.approx(1.0)
        assert settings_of(workspace).search.store == url
        assert {mode: found(workspace, mode) for mode in before} == before
    assert [line["store"] for line in workspace.read_journal()][-1] == "library"


class Stopped(Exception):
    pass


@pytest.mark.parametrize("template", PLACES)
def test_stopped_it_goes_on_where_it_was(workspace: Workspace, tmp_path: Path, template: str) -> None:
    """The first half is there; what is told says so, and nothing is added twice."""
    url = template.format(tmp_path)
    library = workspace.library()
    encoder = str(library.meta("encoder"))
    dimension = library.dimension(encoder)
    assert dimension is not None
    store = open_vectors(library, url, dimension, encoder, StoreSettings())
    half = sorted(library.embedded(encoder))[:20]
    for ids, vectors in library.vectors(encoder, half):
        store.add(ids, vectors)
    store.close()
    assert settings_of(workspace).search.store == "library"  # not before the end

    told: list[tuple[str, int, int]] = []
    settings = settings_of(workspace, f"search.store={url}")
    move_store(workspace, settings, lambda step, done, total, unit: told.append((step, done, total)))
    assert told[:2] == [("vectors", 20, 40), ("vectors", 40, 40)]
    assert ("check", 40, 40) in told
    again: list[str] = []
    move_store(workspace, settings, lambda step, *_: again.append(step))
    assert set(again) == {"check"}


def test_a_stop_in_the_middle_switches_nothing(workspace: Workspace, tmp_path: Path) -> None:
    def stop(step: str, done: int, total: int, unit: str) -> None:
        if done == total:
            raise Stopped

    settings = settings_of(workspace, f"search.store=faiss:{tmp_path}/v.faiss")
    with pytest.raises(Stopped):
        move_store(workspace, settings, stop)
    assert settings_of(workspace).search.store == "library"
    assert move_store(workspace, settings).vectors == 40


def test_recall_is_that_of_an_exact_search(workspace: Workspace) -> None:
    """A store that has lost every other vector finds about half of the nearest, and this says so."""
    library = workspace.library()
    encoder = str(library.meta("encoder"))
    store = NumpyStore(int(library.dimension(encoder) or 0))
    ids = follow(library, encoder, store)
    assert recall_of(store, library, encoder) == 1.0
    gone = sorted(ids)[::2]
    store.remove(gone)
    vectors = dict(pair for ids, rows in library.all_vectors(encoder) for pair in zip(ids, rows, strict=True))
    names = sorted(vectors)
    matrix = np.stack([vectors[name] for name in names])
    nearest = np.argsort(-(matrix @ matrix.T), axis=1, kind="stable")[:, :10]
    share = np.mean([[names[i] not in gone for i in row] for row in nearest])
    assert recall_of(store, library, encoder) == pytest.approx(share, abs=0.03)  # equal scores


def test_the_command(workspace: Workspace, tmp_path: Path) -> None:
    url = f"faiss:{tmp_path}/v.faiss"
    run: Callable[..., Any] = CliRunner().invoke
    done = run(app, ["move-store", str(workspace.path), url, "--set", "store.approximate_above=10", "-q"])
    assert done.exit_code == 0, done.output
    assert "40 vectors" in done.stdout
    assert "of the ten nearest by an exact search it finds" in done.stdout
    settings = settings_of(workspace)
    assert (settings.search.store, settings.store.approximate_above) == (url, 10)
    back = run(app, ["move-store", str(workspace.path), "library", "--json"])
    assert json.loads(back.stdout)["before"] == url
    wrong = run(app, ["move-store", str(workspace.path), "milvus://x"])
    assert wrong.exit_code == 1
    assert settings_of(workspace).search.store == "library"


def test_a_workspace_without_vectors(tmp_path: Path) -> None:
    create_workspace(tmp_path / "empty")
    done = CliRunner().invoke(app, ["move-store", str(tmp_path / "empty"), f"faiss:{tmp_path}/v"])
    assert done.exit_code == 1
    assert "holds no vectors to move" in done.stderr


# -- FAISS above a size


def unit(count: int, seed: int = 0, dimension: int = 24) -> Any:
    """Vectors in fifty heaps, as texts on fifty subjects would lie."""
    chance = np.random.default_rng(seed)
    middles = np.random.default_rng(99).standard_normal((50, dimension))
    rows = middles[chance.integers(0, 50, count)] + 0.5 * chance.standard_normal((count, dimension))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def names(count: int, start: int = 0) -> list[str]:
    return [fingerprint("passage", i) for i in range(start, start + count)]


def faiss_store(folder: Path, above: int = 1000) -> Any:
    from fieldstone.search.stores import open_store

    return open_store(f"faiss://{folder}/v.faiss", 24, "0" * 16, StoreSettings(approximate_above=above))


def test_faiss_goes_over_to_lists_above_a_size_and_back(tmp_path: Path) -> None:
    import faiss

    store, exact = faiss_store(tmp_path), NumpyStore(24)
    ids, vectors, questions = names(3000), unit(3000), unit(50, seed=1)
    store.add(ids[:1000], vectors[:1000])
    assert not isinstance(store._index, faiss.IndexIVFFlat)
    store.add(ids, vectors)
    exact.add(ids, vectors)
    assert isinstance(store._index, faiss.IndexIVFFlat)
    for opened in (store, faiss_store(tmp_path)):
        assert opened.ids() == set(ids)
        near, right = opened.search(questions, 10), exact.search(questions, 10)
        shared = [len({i for i, _ in a} & {i for i, _ in b}) for a, b in zip(near, right, strict=True)]
        assert np.mean(shared) > 8
        known = dict(right[0])
        assert all(score == pytest.approx(known[i], abs=1e-5) for i, score in near[0] if i in known)
        few = set(ids[100:300])  # among a few it is exact
        pairs = zip(opened.search(questions, 10, few), exact.search(questions, 10, few), strict=True)
        assert all([i for i, _ in a] == [i for i, _ in b] for a, b in pairs)
    store.add(ids[:5], vectors[5:10])
    assert {i for i, _ in store.search(vectors[5:6], 2)[0]} == {ids[0], ids[5]}
    store.remove(ids[:2600])
    assert store.ids() == set(ids[2600:])
    assert not isinstance(store._index, faiss.IndexIVFFlat)
    assert [i for i, _ in store.search(vectors[2700:2701], 1)[0]] == [ids[2700]]


def test_faiss_learns_its_lists_once_where_many_are_loaded(tmp_path: Path) -> None:
    import faiss

    store = faiss_store(tmp_path, above=500)
    ids, vectors = names(4000), unit(4000)
    with store.loading(4000, lambda *_: None):
        for start in range(0, 4000, 500):
            store.add(ids[start : start + 500], vectors[start : start + 500])
            assert not isinstance(store._index, faiss.IndexIVFFlat)
    assert store._index.nlist == 100
    assert faiss_store(tmp_path, above=500).ids() == set(ids)


def test_faiss_keeps_what_was_loaded_before_a_stop(tmp_path: Path) -> None:
    store = faiss_store(tmp_path, above=100)
    ids, vectors = names(600), unit(600)

    def load() -> None:
        with store.loading(600, lambda *_: None):
            store.add(ids[:300], vectors[:300])
            store.add(ids[300:400], vectors[300:400])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load()
    again = faiss_store(tmp_path, above=100)
    assert again.ids() == set(ids[:400])
    with again.loading(200, lambda *_: None):
        again.add(ids[400:], vectors[400:])
    assert faiss_store(tmp_path, above=100)._index.nlist == 15


# -- Qdrant's settings


@pytest.mark.skipif("QDRANT_URL" not in os.environ, reason="QDRANT_URL names no server")
@pytest.mark.parametrize("quantization", ["none", "int8", "binary"])
def test_a_qdrant_server_keeps_vectors_as_it_is_told(quantization: str, tmp_path: Path) -> None:
    from fieldstone.search.stores import open_store

    url = os.environ["QDRANT_URL"].replace("http://", "qdrant://")
    settings = StoreSettings(shards=2, on_disk=True, quantization=quantization)  # type: ignore[arg-type]
    collection = fingerprint(str(tmp_path), quantization)
    store: Any = open_store(url, 24, collection, settings)
    try:
        ids, vectors = names(25_000), unit(25_000)
        with store.loading(25_000, lambda *_: None):
            store.add(ids, vectors)
        exact = NumpyStore(24)
        exact.add(ids, vectors)
        near, right = store.search(vectors[:50], 10), exact.search(vectors[:50], 10)
        shared = [len({i for i, _ in a} & {i for i, _ in b}) for a, b in zip(near, right, strict=True)]
        assert np.mean(shared) > (7 if quantization == "binary" else 9)
        with pytest.raises(StoreError, match=r"was made with store.shards = 2"):
            open_store(url, 24, collection, settings.model_copy(update={"shards": 3}))
    finally:
        store._client.delete_collection(f"fieldstone-{collection}")
        store.close()
