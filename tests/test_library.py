"""The library: it survives kills, is read while it is written, and keeps its promises about vectors."""

from __future__ import annotations

import multiprocessing
import sqlite3
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fieldstone import schema
from fieldstone.errors import WorkspaceError
from fieldstone.library import FileRow, Library
from fieldstone.models import load_encoder
from fieldstone.records import Document, Heading, Passage
from fieldstone.search.embed import embed_library
from fieldstone.workspace import create_workspace
from small_library import TEXTS, make_library, put

spawn = multiprocessing.get_context("spawn")


@pytest.fixture
def library(tmp_path):
    library = make_library(tmp_path)
    yield library
    library.close()


def fill_vectors(library, encoder, dimension=8):
    rows = library.unembedded(encoder)
    library.put_vectors(encoder, rows, np.full((len(rows), dimension), len(encoder), np.float32))


def rewrite(library, turn):
    """One turn of all that a build writes, on documents that are there already and on new ones."""
    for number in range(3):
        put(library, f"f{number}.txt", f"word{turn} " * (20 + number), tokens=10, split=f"split-{turn % 2}")
    put(library, "lasting.txt", "word " * 300, tokens=6 + turn % 5, split=f"split-{turn % 2}")
    library.remove_files([f"f{turn % 3}.txt"])
    encoder = f"encoder-{turn % 2}"
    fill_vectors(library, encoder)
    library.use_encoder(encoder)


def check(library):
    """What holds at every moment, seen in one snapshot."""
    with library.snapshot():
        documents = {document.id: document for document in library.documents()}
        passages = library.passages()
        files, encoder = library.files(), library.meta("encoder")
        for document in documents.values():
            assert document.source in files
        for passage in passages:
            text = documents[passage.document_id].text
            assert text[passage.start : passage.end] == passage.text
        for split in ("split-0", "split-1"):  # a document that counts as split has all of its passages
            for id_ in documents.keys() - set(library.unsplit(split)):
                mine = [p.text for p in passages if p.document_id == id_]
                assert " ".join(mine).split() == documents[id_].text.split()
        vectors = [v for _, v in library.vectors(encoder, [p.id for p in passages])] if encoder else []
        assert sum(map(len, vectors)) == (len(library.embedded(encoder)) if encoder else 0)
        assert all((matrix == len(encoder)).all() for matrix in vectors)


# -- kills


def write_until_killed(path: str, ready) -> None:
    library = Library(Path(path))
    for turn in range(10**6):
        rewrite(library, turn)
        ready.set()


@pytest.mark.slow
def test_a_kill_at_any_point_leaves_a_library_that_opens_and_goes_on(tmp_path):
    path = tmp_path / "library.db"
    make_library(tmp_path, {"f0.txt": "first " * 20}).close()
    for number in range(8):
        ready = spawn.Event()
        writer = spawn.Process(target=write_until_killed, args=(str(path), ready))
        writer.start()
        assert ready.wait(60)
        time.sleep(0.011 * number)
        writer.kill()
        writer.join()
        assert writer.exitcode == -9
        library = Library(path)
        with sqlite3.connect(path) as db:
            assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert db.execute("PRAGMA foreign_key_check").fetchall() == []
        check(library)
        rewrite(library, number)
        check(library)
        assert library.counts().embedded == library.counts().passages
        library.close()


def test_a_kill_before_the_first_table_is_made_good(tmp_path):
    (tmp_path / "library.db").touch()
    with pytest.raises(WorkspaceError, match="fieldstone build"):
        Library(tmp_path / "library.db")
    library = create_workspace(tmp_path).library()
    assert library.counts().files == 0
    library.close()


# -- many processes


def read_until_told(path: str, stop, seen) -> None:
    library, looks = Library(Path(path)), 0
    while not stop.is_set():
        check(library)
        with library.snapshot():  # the switch of vectors is one moment: all are of the encoder in use
            assert len(library.embedded(library.meta("encoder"))) == library.counts().embedded
        looks += 1
    seen.put(looks)


@pytest.mark.slow
def test_two_processes_read_while_one_writes(tmp_path):
    library = make_library(tmp_path, {})
    rewrite(library, 0)
    stop, seen = spawn.Event(), spawn.Queue()
    readers = [spawn.Process(target=read_until_told, args=(str(library.path), stop, seen)) for _ in range(2)]
    for reader in readers:
        reader.start()
    ends = time.monotonic() + 4
    turn = 0
    while time.monotonic() < ends:
        rewrite(library, turn := turn + 1)
    stop.set()
    assert [seen.get(timeout=60) > 0 for _ in readers] == [True, True]
    for reader in readers:
        reader.join(60)
        assert reader.exitcode == 0
    assert turn > 20
    library.close()


def switch_until_told(path: str, stop) -> None:
    library = Library(Path(path))
    for turn in range(10**6):
        if stop.is_set():
            break
        fill_vectors(library, f"encoder-{turn % 2}")
        library.use_encoder(f"encoder-{turn % 2}")


def test_a_reader_sees_all_old_vectors_or_all_new_ones(library):
    fill_vectors(library, "encoder-1")
    library.use_encoder("encoder-1")
    everything = {p.id for p in library.passages()}
    stop = spawn.Event()
    writer = spawn.Process(target=switch_until_told, args=(str(library.path), stop))
    writer.start()
    seen = set()
    ends = time.monotonic() + 20
    while len(seen) < 2 and time.monotonic() < ends:
        for _ in range(50):
            with library.snapshot():
                encoder = library.meta("encoder")
                assert library.embedded(encoder) == everything
            seen.add(encoder)
    stop.set()
    writer.join(60)
    assert writer.exitcode == 0
    assert seen == {"encoder-0", "encoder-1"}


def test_a_snapshot_is_of_one_moment(library):
    other = Library(library.path)
    with library.snapshot():
        before = library.counts()
        version = library.version()
        other.remove_files(list(TEXTS))
        with library.snapshot():  # one inside another is the same moment
            assert library.counts() == before
            assert len(library.passages()) == before.passages
        assert library.counts() == before
    assert library.counts().files == 0
    assert library.version() != version
    other.close()


# -- files, documents, passages


def test_what_goes_in_comes_out(library):
    document = Document.new(
        "a/ü.pdf",
        "Títle",
        "Grüße\n港",
        {"type": "pdf", "date": "2025-03-01"},
        (Heading(1, "Ä", 0), Heading(2, "港", 6)),
        (0, 6),
    )
    file = FileRow("a/ü.pdf", "", "abc", "1", 12, None, ("page 3 is a picture",))
    library.put_file(file, [document])
    assert library.document(document.id) == document
    assert list(library.documents("a/ü.pdf")) == [document]
    assert library.files()["a/ü.pdf"] == file
    passages = [
        Passage("p1", document.id, "Grüße", 0, 5, ("Ä",), 1),
        Passage("p2", document.id, "港", 6, 7, ("Ä", "港"), 2),
    ]
    library.put_passages(document.id, "split-1", passages)
    assert library.passages(["p2", "gone", "p1"]) == [passages[1], passages[0]]
    assert library.sources([document.id]) == {document.id: ("a/ü.pdf", "Títle")}
    with pytest.raises(KeyError):
        library.document("gone")


def test_a_file_that_gives_no_text_is_known_with_the_reason(library):
    library.put_file(FileRow("scan.pdf", "", "abc", "1", 3, "no text in it"), [])
    counts = library.counts()
    assert (counts.files, counts.unread, counts.documents) == (6, 1, 5)


def test_the_same_text_again_keeps_its_passages_and_vectors(library):
    fill_vectors(library, "encoder-1")
    mark, passages = library.mark(), library.passages()
    put(library, "berths/berth-7.md", TEXTS["berths/berth-7.md"], metadata={"date": "2025"})
    assert library.mark() == mark
    assert library.passages() == passages
    assert library.unembedded("encoder-1") == []


@pytest.mark.parametrize("change", ["title", "headings", "pages"])
def test_another_title_headings_or_pages_ask_for_another_splitting(library, change):
    new = {"title": "Berth seven", "headings": (Heading(1, "Berth 7", 0),), "pages": (0,)}[change]
    (document,) = library.documents("berths/berth-7.md")
    changed = replace(document, **{change: new})
    library.put_file(library.files()[document.source], [changed])
    assert library.document(document.id) == changed
    assert library.unsplit("split-1") == [document.id]


def test_another_text_takes_the_place_of_the_old_one(library):
    fill_vectors(library, "encoder-1")
    mark = library.mark()
    (old,) = library.documents("berths/berth-7.md")
    gone = {p.id for p in library.passages() if p.document_id == old.id}
    put(library, "berths/berth-7.md", "Berth 7 was taken down.")
    assert [d.text for d in library.documents("berths/berth-7.md")] == ["Berth 7 was taken down."]
    assert {id_ for _, id_ in library.removed(mark.removed)} == gone
    assert len(library.unembedded("encoder-1")) == 1


def test_removing_a_file_removes_all_that_came_from_it(library):
    fill_vectors(library, "encoder-1")
    library.use_encoder("encoder-1")
    mark, before = library.mark(), library.counts()
    rows = library.rows([p.id for p in library.passages()])
    (document,) = library.documents("tariffs/2024.txt")
    gone = {(rows[p.id], p.id) for p in library.passages() if p.document_id == document.id}
    library.remove_files(["tariffs/2024.txt", "never/was.txt"])
    after = library.counts()
    assert set(library.removed(mark.removed)) == gone
    assert (after.files, after.documents) == (before.files - 1, before.documents - 1)
    assert after.passages == after.embedded == before.passages - len(gone)
    assert library.passages([id_ for _, id_ in gone]) == []
    assert library.mark().removed > mark.removed


def test_a_row_never_comes_back(library):
    rows = set(library.rows([p.id for p in library.passages()]).values())
    library.remove_files(list(TEXTS))
    for source, text in TEXTS.items():
        put(library, source, text)
    again = set(library.rows([p.id for p in library.passages()]).values())
    assert min(again) > max(rows)


def test_a_failure_inside_a_transaction_leaves_nothing_behind(library):
    before = library.files()

    def documents():
        yield Document.new("new.txt", "new", "one")
        raise RuntimeError("the reader broke")

    with pytest.raises(RuntimeError, match="the reader broke"):
        library.put_file(FileRow("new.txt", "", "abc", "1", 3), documents())
    assert library.files() == before
    put(library, "new.txt", "one")


# -- vectors


def test_vectors_carry_their_encoder_and_are_switched_in_one_go(library):
    encoder = load_encoder("fake:words")
    assert embed_library(library, encoder) == library.counts().passages
    assert library.meta("encoder") == encoder.fingerprint
    rows = library.unembedded("encoder-2")
    library.put_vectors("encoder-2", rows[:-1], np.zeros((len(rows) - 1, 4), np.float32))
    with pytest.raises(WorkspaceError, match=r"1 passages have no vector of encoder encoder-2.*build again"):
        library.use_encoder("encoder-2")
    assert library.meta("encoder") == encoder.fingerprint
    assert library.counts().embedded == library.counts().passages
    fill_vectors(library, "encoder-2", 4)
    assert library.embedded(encoder.fingerprint)  # the old ones serve until the switch
    library.use_encoder("encoder-2")
    assert not library.embedded(encoder.fingerprint)
    assert library.counts().embedded == library.counts().passages


def test_vectors_come_back_as_they_went_in(library):
    encoder = load_encoder("fake:words")
    embed_library(library, encoder)
    texts = {id_: text for _, id_, text in library.texts()}
    wanted = [*texts, "gone"]
    found = {}
    for ids, vectors in library.vectors(encoder.fingerprint, wanted, batch=2):
        found.update(zip(ids, vectors, strict=True))
    assert found.keys() == texts.keys()
    for id_, vector in found.items():
        np.testing.assert_array_equal(vector, encoder.encode_passages([texts[id_]])[0])


def test_vectors_of_passages_that_went_meanwhile_are_left_out(library):
    rows = library.unembedded("encoder-1")
    library.remove_files(["safety/welding.md"])
    library.put_vectors("encoder-1", rows, np.zeros((len(rows), 4), np.float32))
    assert len(library.embedded("encoder-1")) == len(rows) - 1


def test_an_interrupted_embedding_goes_on_where_it_stopped(library):
    class Failing:
        def __init__(self):
            self.inner = load_encoder("fake:words")
            self.fingerprint, self.seen = self.inner.fingerprint, 0

        def encode_passages(self, texts):
            self.seen += len(texts)
            return self.inner.encode_passages(texts)

    encoder = Failing()
    rows = library.unembedded(encoder.fingerprint)
    library.put_vectors(encoder.fingerprint, rows[:3], np.zeros((3, 256), np.float32))
    assert embed_library(library, encoder) == len(rows) - 3 == encoder.seen


# -- files that are no library


def test_no_library_says_how_to_make_one(tmp_path):
    with pytest.raises(WorkspaceError, match=r"no library at .*fieldstone build FOLDER --into"):
        Library(tmp_path / "library.db")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content", [b"no database at all, but text" * 200, b"SQLite format 3\0" + b"\1" * 500]
)
def test_a_file_that_is_no_database_says_what_to_type(tmp_path, content):
    path = tmp_path / "handbook" / "library.db"
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(
        WorkspaceError, match=r"cannot be opened as a library.*fieldstone build FOLDER --into"
    ):
        Library(path)


def test_two_vectors_share_a_page(tmp_path, library):
    put(library, "long.txt", "word " * 2000, tokens=6, split="split-0")
    before = pages(library)
    fill_vectors(library, "encoder-0", dimension=384)
    assert pages(library) - before < 0.6 * len(library.passages())


def pages(library):
    return library._db.execute("PRAGMA page_count").fetchone()[0]


EARLIER_VECTORS = """
ALTER TABLE vectors RENAME TO later_vectors;
DROP INDEX vectors_passage;
CREATE TABLE vectors (
    encoder TEXT NOT NULL,      -- fingerprint of the encoder that made it
    passage INTEGER NOT NULL REFERENCES passages(row) ON DELETE CASCADE,
    vector BLOB NOT NULL,       -- float32, little endian
    PRIMARY KEY (encoder, passage)
) WITHOUT ROWID;
CREATE INDEX vectors_passage ON vectors(passage);
INSERT INTO vectors SELECT * FROM later_vectors;
DROP TABLE later_vectors;
"""


@pytest.mark.parametrize("version", [1, 2])
def test_a_library_of_an_earlier_schema_is_brought_up_to_date(tmp_path, version):
    """Without loss: what is in it, byte by byte, and what follows it."""
    library = make_library(tmp_path, embedded=True)

    def all_of(library):
        tables = ("meta", "roots", "files", "documents", "passages", "vectors", "removed")
        return [library._db.execute(f"SELECT * FROM {table}").fetchall() for table in tables], library.mark()

    before = all_of(library)
    library.close()
    with sqlite3.connect(tmp_path / "library.db") as db:
        db.executescript(EARLIER_VECTORS)
        if version == 1:
            db.execute("DROP TABLE answers")
        db.execute(f"PRAGMA user_version = {version}")
    reader = Library(tmp_path / "library.db")
    beside = Library(tmp_path / "library.db")
    for opened in (reader, beside):
        assert all_of(opened) == before
        assert list(opened.answers()) == []
    beside.put_answers([("a", "2026-01-01", "{}")], 1)
    assert list(reader.answers()) == [("{}", None, None)]
    tables = "SELECT sql FROM sqlite_master ORDER BY name"
    fresh = Library(tmp_path / "fresh.db", create=True)
    assert reader._db.execute(tables).fetchall() == fresh._db.execute(tables).fetchall()
    for opened in (reader, beside, fresh):
        opened.close()


def test_a_kill_while_the_schema_is_changed_leaves_the_old_one(tmp_path, monkeypatch):
    make_library(tmp_path).close()
    with sqlite3.connect(tmp_path / "library.db") as db:
        db.executescript(EARLIER_VECTORS)
        db.execute("DROP TABLE answers")
        db.execute("PRAGMA user_version = 1")
    script = f"{schema.ANSWERS}SELECT 1 FROM nowhere;\n"
    with monkeypatch.context() as broken:
        broken.setitem(schema.MIGRATIONS, 1, script)
        with pytest.raises(WorkspaceError, match="nowhere"):
            Library(tmp_path / "library.db")
    library = Library(tmp_path / "library.db")
    assert list(library.answers()) == []
    assert len(library.passages()) >= len(TEXTS)
    library.close()


@pytest.mark.parametrize("version", [-1, schema.VERSION + 1])
def test_another_schema_says_what_to_type_and_that_works(tmp_path, version):
    home = tmp_path / "handbook"
    make_library(home).close()
    with sqlite3.connect(home / "library.db") as db:
        db.execute(f"PRAGMA user_version = {version}")
    with pytest.raises(WorkspaceError, match=rf"schema {version}, .* reads {schema.VERSION}; move .* away"):
        Library(home / "library.db")
    home.rename(tmp_path / "away")
    create_workspace(home).library().close()
