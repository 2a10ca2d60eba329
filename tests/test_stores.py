"""One suite over every store: what one of them does, all of them do."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import numpy as np
import pytest

from fieldstone.errors import MissingExtra, StoreError
from fieldstone.records import fingerprint
from fieldstone.search import search
from fieldstone.search.open import open_index
from fieldstone.search.stores import folder_or_server, open_store
from fieldstone.search.stores.memory import NumpyStore
from fieldstone.settings import StoreSettings, resolve_settings
from fieldstone.workspace import open_workspace
from serving import workspace_of

DIMENSION = 24
HERE = ["memory:", "faiss://{}/vectors.faiss", "qdrant://{}/qdrant", "chroma://{}/chroma"]
LASTING = [*HERE[1:], "chroma server", "qdrant server"]
SLOW = pytest.mark.slow


def marked(urls):
    return [pytest.param(url, marks=SLOW) if "server" in url else url for url in urls]


@pytest.fixture(scope="module")
def chroma_server(tmp_path_factory):
    """A real `chroma run` on a free port of this machine."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    folder = tmp_path_factory.mktemp("chroma-server")
    program = os.path.join(os.path.dirname(sys.executable), "chroma")  # noqa: PTH118, PTH120 - not resolved
    command = [program, "run", "--host", "127.0.0.1", "--port", str(port), "--path", str(folder)]
    server = subprocess.Popen(
        command,
        cwd=folder,
        env=os.environ | {"ANONYMIZED_TELEMETRY": "False"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v2/heartbeat", timeout=1)
                break
            except OSError:
                time.sleep(0.1)
        yield f"chroma://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(20)


def url_of(template, folder, request):
    if template == "chroma server":
        return request.getfixturevalue("chroma_server")
    if template == "qdrant server":
        if "QDRANT_URL" not in os.environ:
            pytest.skip("QDRANT_URL names no server")
        return os.environ["QDRANT_URL"].replace("http://", "qdrant://")
    return f"faiss://{folder}/lists.faiss" if template == "faiss in lists" else template.format(folder)


@pytest.fixture
def at(tmp_path, request):
    """Opens the store of a template; the same template is the same place; all are closed at the end."""
    opened = []

    def opener(template, dimension=DIMENSION, collection=None):
        if "server" in template:  # other tests have theirs there
            collection = collection or fingerprint(tmp_path)
        settings = StoreSettings(approximate_above=0) if template == "faiss in lists" else StoreSettings()
        url = url_of(template, tmp_path, request)
        store = open_store(url, dimension, collection or "0123456789abcdef", settings)
        opened.append(store)
        return store

    yield opener
    for store in opened:
        store.close()


@pytest.fixture(params=marked([*HERE, "chroma server", "qdrant server", "faiss in lists"]))
def store(request, at, monkeypatch):
    if request.param == "faiss in lists":  # all of which are read, so that it must find what all others find
        monkeypatch.setattr("fieldstone.search.stores.faiss.SEARCHED", 1.0)
    return at(request.param)


def unit(n, seed=0):
    vectors = np.random.default_rng(seed).standard_normal((n, DIMENSION)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def names(n, start=0):
    return [fingerprint("passage", i) for i in range(start, start + n)]


def brute_force(ids, vectors, questions, k):
    found = []
    for question in questions:
        scores = vectors @ question
        found.append([(ids[i], scores[i]) for i in np.argsort(-scores)[:k]])
    return found


def assert_same(found, expected):
    assert [[id_ for id_, _ in row] for row in found] == [[id_ for id_, _ in row] for row in expected]
    for row, right in zip(found, expected, strict=True):
        assert [score for _, score in row] == pytest.approx([float(score) for _, score in right], abs=1e-5)
        assert all(type(id_) is str and type(score) is float for id_, score in row)


def test_finds_what_brute_force_finds(store):
    ids, vectors, questions = names(300), unit(300), unit(7, seed=1)
    store.add(ids[:200], vectors[:200])
    store.add(ids[200:], vectors[200:])
    assert_same(store.search(questions, 10), brute_force(ids, vectors, questions, 10))
    assert store.ids() == set(ids)


def test_an_empty_store_finds_nothing(store):
    assert store.search(unit(2), 5) == [[], []]
    assert store.search(unit(2), 5, only=names(3)) == [[], []]
    assert store.search(unit(0), 5) == []
    assert store.ids() == set()
    store.remove(names(2))
    store.remove([])
    store.add([], unit(0))
    assert store.ids() == set()


def test_k_may_be_larger_than_what_there_is_or_nothing(store):
    ids, vectors = names(5), unit(5)
    store.add(ids, vectors)
    assert_same(store.search(unit(2, 1), 50), brute_force(ids, vectors, unit(2, 1), 50))
    assert store.search(unit(2, 1), 0) == [[], []]


def test_adding_again_replaces(store):
    ids, old, new = names(30), unit(30), unit(30, seed=2)
    store.add(ids, old)
    store.add(ids[:10], new[:10])
    now = np.concatenate([new[:10], old[10:]])
    assert_same(store.search(new[:5], 30), brute_force(ids, now, new[:5], 30))
    assert store.ids() == set(ids)


def test_the_last_of_a_repeated_id_counts(store):
    ids, vectors = names(2), unit(3)
    store.add([ids[0], ids[1], ids[0]], vectors)
    assert_same(store.search(vectors[2:], 5), brute_force(ids, vectors[[2, 1]], vectors[2:], 5))


def test_removed_is_gone(store):
    ids, vectors = names(60), unit(60)
    store.add(ids, vectors)
    store.remove([*ids[:20], ids[0], *names(3, start=1000)])
    assert store.ids() == set(ids[20:])
    assert_same(store.search(vectors[:3], 60), brute_force(ids[20:], vectors[20:], vectors[:3], 60))
    store.add(ids[:20], vectors[:20])
    assert_same(store.search(vectors[:3], 60), brute_force(ids, vectors, vectors[:3], 60))


@pytest.mark.parametrize("share", [0.05, 0.5, 1.0])
def test_only_these(store, share):
    ids, vectors, questions = names(200), unit(200), unit(4, seed=1)
    store.add(ids, vectors)
    some = sorted(np.random.default_rng(3).choice(200, int(200 * share), replace=False).tolist())
    only = {ids[i] for i in some} | set(names(5, start=1000))
    expected = brute_force([ids[i] for i in some], vectors[some], questions, 12)
    assert_same(store.search(questions, 12, only=only), expected)
    assert store.search(questions, 12, only=set()) == [[]] * 4
    assert store.search(questions, 12, only=names(2, start=1000)) == [[]] * 4


def test_ids_at_the_ends_of_the_range(store):
    ids = ["0" * 16, "f" * 16, "8" + "0" * 15, "7" + "f" * 15]
    vectors = unit(4)
    store.add(ids, vectors)
    assert store.ids() == set(ids)
    assert_same(store.search(vectors, 9), brute_force(ids, vectors, vectors, 9))
    assert_same(store.search(vectors, 9, only=["f" * 16]), brute_force(ids[1:2], vectors[1:2], vectors, 9))
    store.remove(["f" * 16])
    assert "f" * 16 not in store.ids()


@pytest.mark.parametrize("template", marked(LASTING))
def test_reopened_it_is_as_it_was(at, template):
    ids, vectors = names(50), unit(50)
    first = at(template)
    first.add(ids, vectors)
    first.remove(ids[:10])
    first.close()
    again = at(template)
    assert again.ids() == set(ids[10:])
    assert_same(again.search(vectors[:3], 9), brute_force(ids[10:], vectors[10:], vectors[:3], 9))


@pytest.mark.parametrize("template", marked(LASTING))
def test_collections_lie_side_by_side(at, template):
    one, vectors = at(template, collection="1" * 16), unit(3)
    one.add(names(3), vectors)
    one.close()
    other = at(template, collection="2" * 16)
    assert other.ids() == set()
    other.close()
    assert at(template, collection="1" * 16).ids() == set(names(3))


@pytest.mark.parametrize("template", marked(LASTING))
def test_another_dimension_is_refused(at, template):
    store = at(template)
    store.add(names(3), unit(3))
    store.close()
    with pytest.raises(StoreError, match=r"dimension 24, the encoder makes 32; .* --set search\.store="):
        at(template, dimension=32)
    assert at(template).ids() == set(names(3))


ADDER = """
import sys
import numpy as np
from fieldstone.records import fingerprint
from fieldstone.search.stores import open_store

store = open_store(sys.argv[1], 24, sys.argv[2])
vectors = np.random.default_rng(0).standard_normal((20000, 24)).astype(np.float32)
vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
for start in range(0, 20000, 20):
    store.add([fingerprint("passage", i) for i in range(start, start + 20)], vectors[start : start + 20])
    print(start + 20, flush=True)
"""


@SLOW
@pytest.mark.parametrize("template", LASTING)
@pytest.mark.parametrize("after", [3, 40])
def test_what_was_added_survives_a_kill(at, tmp_path, request, template, after):
    url = url_of(template, tmp_path, request)
    collection = fingerprint(tmp_path)
    child = subprocess.Popen(
        [sys.executable, "-c", ADDER, url, collection], stdout=subprocess.PIPE, text=True
    )
    lines = [child.stdout.readline() for _ in range(after)]
    os.kill(child.pid, signal.SIGKILL)
    acknowledged = int((lines + child.stdout.read().splitlines())[-1])
    assert child.wait() == -signal.SIGKILL
    child.stdout.close()
    store = at(template, collection=collection)
    there = store.ids()
    assert set(names(acknowledged)) <= there <= set(names(acknowledged + 20))
    vectors = np.random.default_rng(0).standard_normal((20000, DIMENSION)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    for i in (0, acknowledged - 1):
        assert store.search(vectors[i : i + 1], 1)[0][0][0] == names(1, start=i)[0]
    store.add(names(1, start=30000), unit(1))
    assert names(1, start=30000)[0] in store.ids()


def test_memory_grows_and_shrinks_as_a_dictionary_would():
    random, store, model = np.random.default_rng(4), NumpyStore(DIMENSION), {}
    for step in range(60):
        ids = [fingerprint(i) for i in random.integers(0, 150, 20)]
        if step % 3 == 2:
            store.remove(ids)
            for id_ in ids:
                model.pop(id_, None)
        else:
            vectors = unit(20, seed=step)
            store.add(ids, vectors)
            model.update(zip(ids, vectors, strict=True))
        question = unit(1, seed=1000 + step)
        expected = brute_force(list(model), np.array(list(model.values())), question, 10)
        assert_same(store.search(question, 10), expected)
    with pytest.raises(ValueError, match="dimension 24"):
        store.add(names(2), unit(3))


def test_a_faiss_file_appears_whole_or_not_at_all(at, tmp_path):
    store = at(HERE[1])
    store.add(names(3), unit(3))
    folder = {path.name for path in tmp_path.iterdir()}
    assert folder == {"vectors-0123456789abcdef.faiss"}
    (tmp_path / "vectors-0123456789abcdef.faiss").write_bytes(b"IxM2 cut off")
    with pytest.raises(StoreError, match=r"is no FAISS file .* delete it"):
        at(HERE[1])


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("milvus://x", "there is no store 'milvus://x'; a store begins with one of chroma:, faiss:, memory:"),
        ("faiss:", "names no place; write faiss:///folder/name"),
        ("faiss://host:1", "works in this process"),
        ("qdrant://host:port", "names no place"),
        ("chroma://127.0.0.1:9", "start it with: chroma run --host 127.0.0.1 --port 9"),
        ("qdrant://127.0.0.1:9", "start it with: docker run"),
        ("faiss:///dev/null/x", "cannot be made"),
        ("qdrant:///dev/null/x", "name another place"),
        ("chroma:///dev/null/x", "name another place"),
    ],
)
def test_what_cannot_be_opened_says_what_to_type(url, message):
    with pytest.raises(StoreError) as caught:
        open_store(url, DIMENSION, "0123456789abcdef")
    assert message in str(caught.value)


def test_a_qdrant_folder_in_use(at):
    at(HERE[2])
    with pytest.raises(StoreError, match="close what else uses that folder"):
        at(HERE[2])


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("faiss:///a/b.c", "/a/b.c"),
        ("faiss:b.c", "b.c"),
        ("faiss:/a", "/a"),
        ("faiss:///a b/%20", "/a b/%20"),
    ],
)
def test_paths_in_urls(url, place):
    assert str(folder_or_server(url)) == place


def test_servers_in_urls():
    assert folder_or_server("qdrant://localhost:6333") == ("localhost", 6333)
    assert folder_or_server("qdrant://localhost/") == ("localhost", None)


def test_a_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    monkeypatch.delitem(sys.modules, "fieldstone.search.stores.faiss", raising=False)
    with pytest.raises(MissingExtra, match=r"pip install 'fieldstone\[faiss\]'"):
        open_store("faiss:x", DIMENSION, "0123456789abcdef")


def test_opening_one_store_loads_no_other():
    script = (
        "import sys; from fieldstone.search.stores import open_store; open_store('memory:', 4, 'x');"
        "print([m for m in ('faiss', 'qdrant_client', 'chromadb', 'torch') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "[]\n"


@pytest.mark.parametrize("store", ["faiss://{}/vectors.faiss", "qdrant://{}/qdrant", "chroma://{}/chroma"])
def test_two_workspaces_in_one_place_leave_each_other_alone(tmp_path, store):
    store = store.format(tmp_path)
    texts = {"one": "The crane lifts forty tonnes.", "two": "The ferry sails at noon."}
    for _ in range(2):  # the second time each finds what it left
        for name, text in texts.items():
            workspace = (
                open_workspace(tmp_path / name)
                if (tmp_path / name).exists()
                else workspace_of(tmp_path / name, {"a.md": text}, search={"store": store, "mode": "dense"})
            )
            settings = resolve_settings(workspace.stored_settings(), environment={})
            index = open_index(workspace, settings)
            ((hit,),) = search(index, ["What?"], settings.search.model_copy(update={"rerank": "none"}))
            assert hit.passage.text == text
            assert len(index.dense._store.ids()) == 1
            index.dense._store.close()
            index.library.close()
