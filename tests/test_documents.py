"""Documents uploaded, listed, removed; what was acknowledged is there, and what is none is refused."""

import io
import threading
from pathlib import Path

import httpx
import pytest
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st

from fieldstone import recipes
from fieldstone.errors import RequestError, WorkspaceError
from fieldstone.read.add import add_files
from fieldstone.serve.upkeep import Upkeep, checked_name
from fieldstone.settings import ReadSettings
from serving import running, until, workspace_of
from small_library import write_folder

FERRY = "The ferry to Gull Island sails at noon.\n"
ASKED = {"question": "When does the ferry to Gull Island sail?"}


@pytest.fixture
def workspace(tmp_path):
    return workspace_of(tmp_path / "harbour", {"berth.md": "Berth 7 takes ships of 9.5 m draught."})


@pytest.fixture
def client(workspace):
    with running(workspace) as address, httpx.Client(base_url=address, timeout=20) as client:
        yield client


def listed(client):
    got = client.get("/api/documents").json()
    return {its["source"]: its["state"] for its in got["documents"]}, got["progress"]


def settled(client):
    """The documents, once nothing is left to do."""
    until(lambda: listed(client)[1] is None)
    return listed(client)[0]


def test_an_upload_is_found_replaced_and_removed(client, workspace):
    files = [
        ("file", ("ferry.txt", FERRY.encode())),
        ("file", ("Über uns.md", "# Über uns\n\nWir sind da.".encode())),
    ]
    got = client.post("/api/documents", files=files)
    assert got.status_code == 202
    assert got.json() == {"workspace": "harbour", "accepted": ["uploads/ferry.txt", "uploads/Über uns.md"]}
    assert settled(client) == {
        "berth.md": "ready",
        "uploads/ferry.txt": "ready",
        "uploads/Über uns.md": "ready",
    }
    answer = client.post("/api/ask", json=ASKED).json()
    assert answer["citations"][0]["source"] == "uploads/ferry.txt"
    client.post("/api/documents", files={"file": ("ferry.txt", FERRY.replace("noon", "dusk").encode())})
    settled(client)
    answer = client.post("/api/ask", json=ASKED).json()
    assert "dusk" in answer["citations"][0]["quote"]
    document = answer["hits"][0]["passage"]["document_id"]
    assert client.get(f"/api/documents/{document}").json()["text"] == FERRY.replace("noon", "dusk")
    removed = client.delete("/api/documents", params={"source": "uploads/ferry.txt"})
    assert removed.json() == {"workspace": "harbour", "source": "uploads/ferry.txt", "file_deleted": True}
    assert "uploads/ferry.txt" not in listed(client)[0]
    assert [path.name for path in (workspace.path / "uploads").iterdir()] == ["Über uns.md"]
    assert not [h for h in client.post("/api/search", json=ASKED).json()["hits"] if "ferry" in h["source"]]
    assert client.get(f"/api/documents/{document}").status_code == 404
    gone = client.delete("/api/documents", params={"source": "berth.md"}).json()
    assert gone["file_deleted"] is False
    assert settled(client) == {"uploads/Über uns.md": "ready"}


def test_a_file_without_text_says_why(client):
    client.post("/api/documents", files={"file": ("broken.pdf", b"%PDF-1.4 nothing")})
    assert settled(client)["uploads/broken.pdf"] == "unread"
    (file,) = [f for f in client.get("/api/documents").json()["documents"] if f["state"] == "unread"]
    assert file["reason"]


@pytest.mark.parametrize(
    "name",
    [
        "../evil.txt",
        "..",
        "a/b.txt",
        "/etc/passwd",
        ".hidden",
        "..\\up.txt",
        "a\nb.txt",
        "x" * 201,
        "%2e%2e/x",
    ],
)
def test_a_name_that_is_a_path_is_refused(client, workspace, name):
    content = (
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="good.txt"\r\n\r\nx\r\n'
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="'
        + name.encode()
        + b'"\r\n\r\nx\r\n--b--\r\n'
    )
    headers = {"content-type": "multipart/form-data; boundary=b"}
    got = client.post("/api/documents", content=content, headers=headers)
    assert got.status_code == 400, got.text
    assert not list(workspace.path.parent.rglob("*.txt"))


@given(st.text())
def test_a_name_that_passes_is_one_plain_name(name):
    try:
        path = Path("/there") / checked_name(name)
    except RequestError:
        return
    assert path.parent == path.resolve().parent == Path("/there")
    assert not path.name.startswith(".")


def test_what_is_no_upload_is_refused(client):
    for body in (
        {"json": {"file": "x"}},
        {"data": {"file": "x"}},
        {"files": {"other": ("a.txt", b"x")}},
        {"content": b"garbage", "headers": {"content-type": "multipart/form-data; boundary=b"}},
        {"content": b"garbage", "headers": {"content-type": "multipart/form-data"}},
        {},
    ):
        got = client.post("/api/documents", **body)
        assert got.status_code == 400
        assert got.json()["error"]["message"]


def test_a_file_larger_than_one_may_be_is_refused(tmp_path):
    workspace = workspace_of(tmp_path / "harbour", read={"max_megabytes": 0.5})
    with running(workspace) as address:
        got = httpx.post(f"{address}/api/documents", files={"file": ("a.txt", b"x" * 2**20)})
        assert (got.status_code, got.json()["error"]["param"]) == (413, "file")
        assert not list((workspace.path / "uploads").iterdir())


def test_the_name_of_another_document_is_not_taken(tmp_path):
    workspace = workspace_of(tmp_path / "harbour", {"uploads/berth.md": "Berth 7."})
    with running(workspace) as address:
        got = httpx.post(f"{address}/api/documents", files={"file": ("berth.md", b"x")})
        assert (got.status_code, got.json()["error"]["code"]) == (409, "name_taken")


def test_while_another_process_writes_uploads_wait_and_removals_say_so(client, workspace, monkeypatch):
    monkeypatch.setattr("fieldstone.serve.upkeep.AGAIN", 0.1)
    with FileLock(workspace.path / ".writing.lock"):
        assert client.post("/api/documents", files={"file": ("ferry.txt", FERRY.encode())}).status_code == 202
        until(lambda: listed(client)[1]["problem"])
        assert listed(client)[1]["waiting"] == ["uploads/ferry.txt"]
        got = client.delete("/api/documents", params={"source": "berth.md"})
        assert (got.status_code, got.headers["retry-after"]) == (503, "5")
    assert settled(client) == {"berth.md": "ready", "uploads/ferry.txt": "ready"}


def test_questions_are_answered_while_uploads_are_worked_in(client):
    files = [("file", (f"{n}.txt", f"Buoy {n} is painted in colour {n}.\n".encode())) for n in range(20)]
    assert client.post("/api/documents", files=files).status_code == 202
    asked = 0
    while listed(client)[1] is not None or not asked:
        answer = client.post("/api/ask", json={"question": "Which draught does berth 7 take?"})
        assert answer.status_code == 200
        assert all(citation["verified"] for citation in answer.json()["citations"])
        asked += 1
    assert len(settled(client)) == 21


def test_what_was_kept_before_a_kill_is_worked_in_at_the_next_start(workspace):
    upkeep = Upkeep(workspace)
    assert upkeep.keep([("ferry.txt", io.BytesIO(FERRY.encode()))], 1000) == ["uploads/ferry.txt"]
    (upkeep.folder / ".cut-off.partial").write_bytes(b"half")
    with running(workspace) as address, httpx.Client(base_url=address, timeout=20) as client:
        until(lambda: "uploads/ferry.txt" in listed(client)[0])
        assert settled(client)["uploads/ferry.txt"] == "ready"
        assert [path.name for path in upkeep.folder.iterdir()] == ["ferry.txt"]
    (upkeep.folder / "ferry.txt").unlink()
    with running(workspace) as address, httpx.Client(base_url=address, timeout=20) as client:
        until(lambda: "uploads/ferry.txt" not in listed(client)[0])


def test_a_second_start_has_nothing_to_do(workspace):
    upkeep = Upkeep(workspace)
    upkeep.keep([("ferry.txt", io.BytesIO(FERRY.encode()))], 1000)
    upkeep._work_in()
    assert upkeep._left_over() is None
    journal = (workspace.path / "journal.jsonl").read_text()
    with running(workspace) as address, httpx.Client(base_url=address) as client:
        assert settled(client)["uploads/ferry.txt"] == "ready"
    assert (workspace.path / "journal.jsonl").read_text() == journal


def test_an_upload_that_was_taken_out_stays_out_until_it_is_uploaded_again(workspace):
    upkeep = Upkeep(workspace)
    upkeep.keep([("ferry.txt", io.BytesIO(FERRY.encode()))], 1000)
    upkeep._work_in()
    assert recipes.remove(workspace, ["uploads/ferry.txt"]) == ("uploads/ferry.txt",)
    assert (upkeep.folder / "ferry.txt").exists(), "the command leaves files where they are"
    assert upkeep._left_over() is None
    upkeep.keep([("buoy.txt", io.BytesIO(b"The buoy is green."))], 1000)
    upkeep._work_in()
    library = workspace.library()
    assert "uploads/ferry.txt" not in library.files()
    upkeep.keep([("ferry.txt", io.BytesIO(FERRY.encode()))], 1000)
    upkeep._work_in()
    assert {"uploads/ferry.txt", "uploads/buoy.txt"} <= library.files().keys()
    library.close()


def test_uploads_stay_when_the_folder_around_the_workspace_is_read_again(tmp_path):
    folder = write_folder(tmp_path / "papers", {"berth.md": "Berth 7."})
    workspace = workspace_of(folder / "ws", {"old.md": "x"})
    library = workspace.library()
    library._db.execute("UPDATE roots SET path = ?", (str(folder.resolve()),))
    upkeep = Upkeep(workspace)
    upkeep.keep([("ferry.txt", io.BytesIO(FERRY.encode()))], 1000)
    upkeep._work_in()
    add_files(library, folder, ReadSettings(exclude=("ws",)))
    assert list(library.files()) == ["berth.md", "uploads/ferry.txt"]
    library.close()


def test_a_moved_workspace_takes_its_uploads_along(workspace, tmp_path):
    upkeep = Upkeep(workspace)
    upkeep.keep([("ferry.txt", io.BytesIO(FERRY.encode()))], 1000)
    upkeep._work_in()
    workspace.path.rename(tmp_path / "moved")
    moved = Upkeep(type(workspace)(tmp_path / "moved"))
    moved.keep([("berth.txt", io.BytesIO(b"Berth 8 is closed."))], 1000)
    moved._work_in()
    library = moved.workspace.library()
    assert [source for source in library.files() if source.startswith("uploads/")] == [
        "uploads/berth.txt",
        "uploads/ferry.txt",
    ]
    library.close()


def test_a_folder_that_goes_by_the_name_already_is_left_alone(workspace, tmp_path):
    other = write_folder(tmp_path / "uploads", {"a.md": "A."})
    library = workspace.library()
    add_files(library, other, ReadSettings())
    library.close()
    upkeep = Upkeep(workspace)
    upkeep.keep([("ferry.txt", io.BytesIO(FERRY.encode()))], 1000)
    with pytest.raises(WorkspaceError, match="goes by the name"):
        upkeep._work_in()


def test_uploads_at_the_same_time_are_all_kept(client):
    def upload(n):
        client.post("/api/documents", files={"file": (f"{n}.txt", f"Buoy {n}.".encode())}).raise_for_status()

    threads = [threading.Thread(target=upload, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(settled(client)) == 9
