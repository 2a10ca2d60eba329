"""Work that is spread: batches, errors and files that travel; without any other machine."""

from __future__ import annotations

import os
import pickle
import sys

import pytest

from fieldstone import errors
from fieldstone.errors import ClusterError, FieldstoneError, MissingExtra, ReadError
from fieldstone.over_ray import connected
from fieldstone.read import Limits, find_files, read_files
from fieldstone.read.elsewhere import read_elsewhere
from fieldstone.read.find import Found
from fieldstone.spread import batches, here


def sent(thing):
    """What arrives of a thing in another process."""
    return pickle.loads(pickle.dumps(thing))


def elsewhere(work, items):
    there = sent(work)
    return (sent(there(sent(item))) for item in items)


def test_here_is_map():
    assert list(here(str, iter([1, 2]))) == ["1", "2"]


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ([], []),
        ([1, 2, 3], [[1, 2], [3]]),
        ([9, 1, 1], [[9], [1, 1]]),
        ([3, 3], [[3], [3]]),
    ],
)
def test_batches_weigh_at_most_so_much_or_are_one_item(weights, expected):
    assert list(batches(iter(weights), int, 3)) == expected


def test_batches_take_no_more_items_than_they_need():
    taken = []
    first = next(batches((taken.append(i) or i for i in range(10)), lambda _: 1, 2))
    assert (first, taken) == ([0, 1], [0, 1, 2])


def test_errors_come_out_of_another_process_as_they_went_in():
    made = [
        ReadError("a.pdf", "damaged"),
        MissingExtra("ray", "ray"),
        errors.Busy(3, 2.0),
        errors.NotReady("later"),
        errors.RequestError("no", status=404, code="gone", param="id"),
        errors.EndpointError("no answer"),
    ]
    for error in made:
        back = sent(error)
        assert (type(back), str(back), vars(back)) == (type(error), str(error), vars(error))
        with pytest.raises(FieldstoneError):
            raise back


def test_files_that_travel_are_read_as_those_at_home(tmp_path):
    texts = {"berths.md": "# Berths\n\nBerth 7 takes ships.", "notes/empty.txt": "", "tides.txt": "The tide."}
    for name, text in texts.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    (tmp_path / "odd.bin").write_bytes(bytes(range(256)))
    os.utime(tmp_path / "tides.txt", (86_400, 86_400))
    files = [*find_files(tmp_path), Found("gone.txt", tmp_path / "gone.txt", 3)]
    at_home = list(read_files(files, Limits(), 1))
    assert list(read_elsewhere(files, Limits(), elsewhere)) == at_home
    by_source = {result.source: result for result in at_home}
    assert by_source["tides.txt"].documents[0].metadata["date"] == "1970-01-02"
    assert by_source["gone.txt"].reason == "cannot be opened: No such file or directory"


def test_without_ray_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"pip install 'fieldstone\[ray\]'"), connected("local"):
        pass


def test_it_is_told_where_no_ray_can_be_reached():
    pytest.importorskip("ray")
    with pytest.raises(ClusterError, match="type: ray start --head"), connected("127.0.0.1:1"):
        pass
    with pytest.raises(ClusterError, match="--ray auto"), connected("ray://127.0.0.1:10001"):
        pass
