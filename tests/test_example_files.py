"""Examples on disk: what is written is read again, and a bad line is named."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fieldstone.errors import QuestionsError
from fieldstone.examples import read_examples, write_examples, write_lines
from fieldstone.records import Example

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
EXAMPLES = st.builds(
    Example,
    TEXT,
    TEXT,
    TEXT,
    st.none() | TEXT,
    st.lists(TEXT, max_size=3).map(tuple),
    st.sampled_from(["answerable", "unanswerable"]),
    st.sampled_from(["synthetic", "human", "feedback"]),
    st.dictionaries(TEXT, TEXT, max_size=2),
)


@given(st.lists(EXAMPLES, max_size=5))
def test_what_is_written_is_read_again(tmp_path_factory, examples):
    path = tmp_path_factory.mktemp("e") / "new" / "train.jsonl"
    write_examples(path, examples)
    assert read_examples(path) == examples
    assert path.read_bytes().count(b"\n") == len(examples)


def test_no_file_holds_no_examples(tmp_path):
    assert read_examples(tmp_path / "train.jsonl") == []


def test_a_person_can_read_it(tmp_path):
    write_examples(tmp_path / "e.jsonl", [Example("1", "Wie groß?", "東京", None)])
    assert '"Wie groß?"' in (tmp_path / "e.jsonl").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "7",
        "{}",
        '{"id": "1", "question": "q"}',
        '{"id": "1", "question": "q", "answer": 3, "passage_id": null}',
    ],
)
def test_a_bad_line_is_named_with_what_to_type(tmp_path, line):
    path = tmp_path / "w" / "examples" / "train.jsonl"
    write_examples(path, [Example("1", "q", "a", "p")])
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    with pytest.raises(
        QuestionsError, match=rf"train\.jsonl, line 2: .*fieldstone synthesize {tmp_path / 'w'}"
    ):
        read_examples(path)


def test_all_lines_are_written_or_none(tmp_path):
    path = tmp_path / "e.jsonl"
    write_lines(path, [{"a": 1}])
    with pytest.raises(TypeError):
        write_lines(path, [{"a": 2}, {"a": object()}])
    assert path.read_text() == '{"a": 1}\n'
