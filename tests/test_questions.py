"""Files of questions as people have them, and what is said of the bad ones."""

import codecs
import json

import pytest

from fieldstone.errors import QuestionsError
from fieldstone.evaluate.questions import Question, read_questions

ONE = {"id": "q1", "question": "When was Kö founded?", "answers": ["1853", "in 1853"], "source": "a/b.txt"}
TWO = {"question": "Who sank it?", "answers": [], "source": "a/b.txt", "evidence": None, "other": 1}


def write(path, *lines, encoding="utf-8", mark=b"", end="\n"):
    text = end.join(line if isinstance(line, str) else json.dumps(line, ensure_ascii=False) for line in lines)
    path.write_bytes(mark + text.encode(encoding))
    return path


def test_json_lines(tmp_path):
    first, second = read_questions(write(tmp_path / "q.jsonl", ONE, "", TWO, ""))
    assert first == Question("q1", "When was Kö founded?", ("1853", "in 1853"), "a/b.txt")
    assert first.answerable
    assert (second.question, second.answers, second.answerable) == ("Who sank it?", (), False)
    assert len(second.id) == 16


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize(
    ("encoding", "mark"),
    [
        ("utf-8", b""),
        ("utf-8", codecs.BOM_UTF8),
        ("utf-16-le", codecs.BOM_UTF16_LE),
        ("utf-16-be", codecs.BOM_UTF16_BE),
        ("utf-16-le", b""),
        ("utf-16-be", b""),
    ],
)
def test_any_usual_encoding(tmp_path, encoding, mark, end):
    plain = read_questions(write(tmp_path / "plain.jsonl", ONE, TWO))
    assert (
        read_questions(write(tmp_path / "q.jsonl", ONE, TWO, "", encoding=encoding, mark=mark, end=end))
        == plain
    )


def test_line_separators_inside_strings_do_not_end_a_line(tmp_path):
    odd = ONE | {"evidence": "one\u2028two\x85three"}
    assert read_questions(write(tmp_path / "q.jsonl", odd))[0].evidence == "one\u2028two\x85three"


def test_ids_are_made_up_once_each(tmp_path):
    questions = read_questions(write(tmp_path / "q.jsonl", TWO, TWO, TWO))
    assert len({question.id for question in questions}) == 3
    assert questions == read_questions(tmp_path / "q.jsonl")


def test_number_ids_and_windows_paths(tmp_path):
    entry = ONE | {"id": 7, "source": ".\\a\\b.txt"}
    question = read_questions(write(tmp_path / "q.jsonl", entry))[0]
    assert (question.id, question.source) == ("7", "a/b.txt")


def test_an_indented_list(tmp_path):
    path = write(tmp_path / "q.json", json.dumps([ONE, TWO], indent=1))
    assert [question.question for question in read_questions(path)] == [ONE["question"], TWO["question"]]


SQUAD = {
    "version": "v2.0",
    "data": [
        {
            "title": "Harbour",
            "paragraphs": [
                {
                    "context": "Kö was founded in 1853.",
                    "qas": [
                        {
                            "id": "a",
                            "question": "When?",
                            "answers": [{"text": "1853", "answer_start": 18}] * 3,
                            "is_impossible": False,
                        },
                        {
                            "id": "b",
                            "question": "Why?",
                            "answers": [],
                            "is_impossible": True,
                            "plausible_answers": [{"text": "Kö", "answer_start": 0}],
                        },
                    ],
                }
            ],
        }
    ],
}


def test_squad(tmp_path):
    evidence = "Kö was founded in 1853."
    assert read_questions(write(tmp_path / "dev.json", SQUAD)) == [
        Question("a", "When?", ("1853",), "Harbour", evidence),
        Question("b", "Why?", (), "Harbour", evidence, "near miss"),
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"question": ', "Expecting value"),
        ("[1]", "no JSON object"),
        ('"text"', "no JSON object"),
        ("[" * 100_000, "recursion"),
        (ONE | {"question": " "}, '"question" is missing'),
        (ONE | {"question": 3}, '"question" must be a string, not 3'),
        ({"question": "Why?", "source": "a"}, '"answers" must be a list of strings'),
        (ONE | {"answers": "1853"}, "not '1853'"),
        (ONE | {"answers": [1853]}, "[1853]"),
        (ONE | {"answers": [""]}, '"answers" must be'),
        (ONE | {"source": None}, '"source" is missing'),
        (ONE | {"evidence": ["x"]}, '"evidence" must be a string'),
        (ONE | {"id": [1]}, '"id" must be a string'),
        (r'{"question": "\ud800?", "answers": [], "source": "a"}', "surrogate"),
    ],
)
def test_a_bad_line_is_named_with_what_is_wrong(tmp_path, line, reason):
    path = write(tmp_path / "q.jsonl", TWO, line)
    with pytest.raises(QuestionsError) as caught:
        read_questions(path)
    assert "q.jsonl" in str(caught.value)
    assert "line 2: " in str(caught.value)
    assert reason in str(caught.value)


def test_the_first_five_bad_lines_are_shown_together(tmp_path):
    path = write(tmp_path / "q.jsonl", ONE, *["{"] * 7, ONE)
    with pytest.raises(QuestionsError) as caught:
        read_questions(path)
    message = str(caught.value)
    assert "8 of 9 questions cannot be read" in message
    assert "line 6" in message
    assert "line 7" not in message
    assert message.endswith("and 3 more")


def test_the_same_id_twice(tmp_path):
    with pytest.raises(QuestionsError, match=r"line 3: the id 'q1' stands already in line 1"):
        read_questions(write(tmp_path / "q.jsonl", ONE, TWO, ONE))


@pytest.mark.parametrize("text", ["", "\n \r\n", "[]", '{"data": []}'])
def test_an_empty_file_is_refused(tmp_path, text):
    with pytest.raises(QuestionsError, match="holds no question; write one a line"):
        read_questions(write(tmp_path / "q.jsonl", text))


def test_what_cannot_be_read_at_all(tmp_path):
    with pytest.raises(QuestionsError, match="No such file"):
        read_questions(tmp_path / "absent.jsonl")
    with pytest.raises(QuestionsError, match="Is a directory"):
        read_questions(tmp_path)
    (tmp_path / "q.jsonl").write_bytes(b'{"question": "K\xf6?"}')
    with pytest.raises(QuestionsError, match="not valid UTF-8 at byte 15; save it as UTF-8"):
        read_questions(tmp_path / "q.jsonl")


@pytest.mark.parametrize(
    "data",
    [
        [1],
        [{"title": "x"}],
        [{"paragraphs": [{"context": "c"}]}],
        [{"title": "t", "paragraphs": [{"qas": [{}]}]}],
    ],
)
def test_broken_squad(tmp_path, data):
    with pytest.raises(QuestionsError, match="looks like SQuAD"):
        read_questions(write(tmp_path / "dev.json", {"data": data}))


def test_real_questions(data):
    answerable = read_questions(data / "squad" / "squad8_questions.jsonl")
    assert len(answerable) == 1788
    assert all(question.answerable and question.evidence for question in answerable)
    assert not any(q.answerable for q in read_questions(data / "squad" / "squad8_unanswerable.jsonl"))
