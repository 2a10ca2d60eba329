"""Published formats as people have them, what is said of the damaged parts, and scores by hand."""

import json
import random
import re
from dataclasses import replace

import pytest

from fieldstone.errors import QuestionsError, SettingsError, WorkspaceError
from fieldstone.evaluate.benchmarks import FORMATS, read_benchmark
from fieldstone.evaluate.benchmarks.benchmark import Benchmark, Choice
from fieldstone.evaluate.benchmarks.library import holds, judge_by_grades, put
from fieldstone.evaluate.questions import Question
from fieldstone.evaluate.systems.alone import ask_alone
from fieldstone.library import Library
from fieldstone.models import Completion, Score, load_generator
from fieldstone.prompts import choice_prompt
from test_questions import SQUAD


def lines(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(
        (row if isinstance(row, str) else json.dumps(row, ensure_ascii=False)) + "\n" for row in rows
    )
    path.write_text(text, encoding="utf-8")
    return path


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


# -- SQuAD and its like


def test_squad(tmp_path):
    read = read_benchmark("squad", lines(tmp_path / "dev.json", SQUAD))
    assert [question.id for question in read.questions] == ["a", "b"]
    assert [(d.source, d.title, d.text) for d in read.documents] == [
        ("Harbour/0", "Harbour", "Kö was founded in 1853.")
    ]
    assert read.grades == {"a": {"Harbour/0": 1.0}}, "an unanswerable question has nothing to find"
    assert read.notes == ()


def paragraph(context, *answers):
    qas = [
        {"id": f"{context} {n}", "question": f"{n}?", "answers": [{"text": answer, "answer_start": 0}]}
        for n, answer in enumerate(answers)
    ]
    return {"context": context, "qas": qas}


def test_each_paragraph_is_one_document(tmp_path):
    articles = [
        {"title": "Ki_el", "paragraphs": [paragraph("One ship.", "One", "ship"), paragraph("Two.", "Two")]},
        {"paragraphs": [paragraph("Three ships.", "Three")]},
    ]
    read = read_benchmark("xquad", lines(tmp_path / "x.json", {"data": articles}))
    assert [(d.source, d.title) for d in read.documents] == [
        ("Ki_el/0", "Ki el"),
        ("Ki_el/1", "Ki el"),
        ("data[1]/0", "data[1]"),
    ]
    assert [list(read.grades[q.id]) for q in read.questions] == [
        ["Ki_el/0"], ["Ki_el/0"], ["Ki_el/1"], ["data[1]/0"]
    ]  # fmt: skip


def test_jsquad_has_the_title_in_its_contexts(tmp_path):
    article = {"title": "梅雨", "paragraphs": [paragraph("梅雨 [SEP] 梅雨は雨の多い時期。", "雨の多い時期")]}
    read = read_benchmark("jsquad", lines(tmp_path / "j.json", {"data": [article]}))
    assert [(d.title, d.text) for d in read.documents] == [("梅雨", "梅雨は雨の多い時期。")]


def test_damaged_squad_loses_only_what_is_damaged(tmp_path):
    good = {"title": "Good", "paragraphs": [paragraph("Four ships.", "Four")]}
    bad = {"title": "Bad", "paragraphs": [{"context": "Five.", "qas": [{"id": "x"}]}, {"qas": []}]}
    read = read_benchmark("squad", lines(tmp_path / "s.json", {"data": [1, good, bad]}))
    assert [q.question for q in read.questions] == ["0?"]
    assert read.notes[0].startswith("3 entries are left out: data[0]: this looks like SQuAD")
    assert "data[2].paragraphs[0].qas[0]" in read.notes[0]
    assert "data[2].paragraphs[1]" in read.notes[0]


# -- BEIR


def beir(folder):
    lines(
        folder / "corpus.jsonl",
        {"_id": "d1", "title": "Cranes", "text": "Cranes lift."},
        {"_id": "d2", "title": "", "text": "The quay."},
        {"_id": "d3", "title": "Lights", "text": "They turn."},
        {"_id": "d4", "title": "", "text": " "},
        "{not json",
        {"_id": "d1", "text": "again"},
        {"text": "no id"},
        ["d5"],
    )
    lines(
        folder / "queries.jsonl",
        {"_id": "q1", "text": "what lifts"},
        {"_id": 2, "text": "what turns"},
        {"_id": "q3", "text": "never judged"},
        {"_id": "q4", "text": ""},
    )
    write(
        folder / "qrels" / "test.tsv",
        "query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t1\nq1\td4\t1\nq1\td3\t0\n2\td3\t-1\n2\td1\thigh\n\nq9\td1\t1\n",
    )
    write(folder / "qrels" / "dev.tsv", "query-id\tcorpus-id\tscore\n2\td3\t1\n")
    return folder


def test_beir(tmp_path):
    read = read_benchmark("beir", beir(tmp_path / "set"))
    assert [(d.source, d.title, d.text) for d in read.documents] == [
        ("d1", "", "Cranes lift."),  # the text begins with the title: it is not read twice
        ("d2", "", "The quay."),
        ("d3", "Lights", "They turn."),
    ]
    assert [q.id for q in read.questions] == ["q1", "2"]
    assert read.grades["q1"] == {"d1": 2.0, "d2": 1.0, "d4": 1.0, "d3": 0.0}
    assert not read.answered
    assert read.notes[0].startswith(
        "7 entries are left out: corpus.jsonl, line 4: the document d4 is empty; "
    )
    assert read.notes[1] == "judged, but not in queries.jsonl: 1 queries (q9)"


def test_other_judgements_of_a_beir_folder(tmp_path):
    folder = beir(tmp_path / "set")
    dev = read_benchmark("beir", folder / "qrels" / "dev.tsv")
    assert dev.grades == {"2": {"d3": 1.0}}
    (folder / "qrels" / "test.tsv").unlink()
    assert read_benchmark("beir", folder).grades == dev.grades
    write(folder / "qrels" / "test.tsv", "q1 0 d2 3\n")  # TREC's own four columns
    assert read_benchmark("beir", folder).grades == {"q1": {"d2": 3.0}}


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl", "qrels/test.tsv"])
def test_an_incomplete_beir_folder_is_refused(tmp_path, name):
    folder = beir(tmp_path / "set")
    (folder / "qrels" / "dev.tsv").unlink()
    (folder / name).unlink()
    with pytest.raises(QuestionsError, match="give a folder with corpus"):
        read_benchmark("beir", folder)


# -- MMLU


def test_mmlu_as_published(tmp_path):
    write(tmp_path / "dev" / "facts_dev.csv", 'How many?,1,2,3,4,B\n"Who, if any?",I,you,he,she,A\n')
    write(tmp_path / "test" / "facts_test.csv", "Which?,red,blue,green,grey,D\nbroken,row\nWhen?,1,2,3,4,E\n")
    write(tmp_path / "val" / "facts_val.csv", "Not asked?,1,2,3,4,A\n")
    write(tmp_path / "test" / "law_test.csv", "Why?,a,b,c,d,A\n")
    read = read_benchmark("mmlu", tmp_path)
    assert [(q.id, q.question, q.answers, q.source) for q in read.questions] == [
        ("facts-test-0", "Which?", ("D",), "facts"),
        ("law-test-0", "Why?", ("A",), "law"),
    ]
    assert read.choices["facts-test-0"] == Choice("Which?", ("red", "blue", "green", "grey"), 3)
    assert [shot.letter for shot in read.shots["facts"]] == ["B", "A"]
    assert "law" not in read.shots
    assert read.notes[0].startswith("2 entries are left out: facts_test.csv, row 2")
    alone = read_benchmark("mmlu", tmp_path / "test" / "facts_test.csv")
    assert alone.shots == read.shots, "the examples beside a single file are found"


def test_mmlu_in_json_lines(tmp_path):
    rows = [
        {"question": "Which?", "choices": ["x", "y"], "answer": 1, "subject": "law"},
        {"question": "Who?", "choices": ["x", "y", "z"], "answer": "C", "id": "mine"},
        {"question": "Bad?", "choices": ["x", "y"], "answer": True},
        {"question": "Bad?", "choices": "xy", "answer": "A"},
        {"question": "", "choices": ["x", "y"], "answer": "A"},
    ]
    lines(tmp_path / "mmlu_facts_dev.jsonl", *[rows[1] | {"id": f"d{n}"} for n in range(7)])
    read = read_benchmark("mmlu", lines(tmp_path / "mmlu_facts.jsonl", *rows, "[]"))
    assert [(q.id, q.source, q.answers) for q in read.questions] == [
        ("law-test-0", "law", ("B",)),
        ("mine", "facts", ("C",)),
    ]
    assert len(read.shots["facts"]) == 5
    assert read.notes[0].startswith("4 entries are left out")


def test_a_header_is_no_question(tmp_path):
    text = "question,A,B,C,D,answer\nWhich?,1,2,3,4,A\n"
    assert len(read_benchmark("mmlu", write(tmp_path / "t.csv", text)).questions) == 1


class Table:
    """A generator that holds what a table says, and nothing else."""

    name = fingerprint = "table"
    context_tokens = 1000

    def __init__(self, table):
        self.table, self.seen = table, []

    def score(self, prompts, completions):
        self.seen += prompts
        found = []
        for prompt, completion in zip(prompts, completions, strict=True):
            question = re.findall(r"(\S+\?)\nA\. ", prompt.prefix)[-1]
            found.append(Score(-1.0 if completion == f" {self.table[question]}" else -2.0, 1))
        return found

    def generate(self, prompts, **_):
        said = [self.table[re.findall(r"Question: (.*)\nAnswer:$", prompt.text)[0]] for prompt in prompts]
        return [Completion(text, 1, -1.0, True) for text in said]


def choices(*letters):
    made = {
        f"q{n}": Choice(f"{n}?", ("w", "x", "y", "z"), "ABCD".index(letter))
        for n, letter in enumerate(letters)
    }
    return Benchmark(
        tuple(Question(id_, c.question, (c.letter,), "facts") for id_, c in made.items()), choices=made
    )


def test_the_mean_of_0_0_0_1_is_a_quarter():
    """FedRAG's benchmark says 1."""
    asked = choices("A", "B", "C", "D")
    said = Table({"0?": "B", "1?": "C", "2?": "D", "3?": "D"})
    found = ask_alone(said, "table", asked, asked.questions)
    assert [row["measures"]["accuracy"] for row in found.rows] == [0, 0, 0, 1]
    assert found.systems["table"]["accuracy"].value == 0.25


def test_the_likeliest_letter_of_a_fake_model():
    """Its words are the likelier the more often they stand in the prompt, which can be counted."""
    chance = random.Random(5)

    def asking() -> str:
        words = [*"abcd", "ship", *chance.choice("abcd") * 3]
        return " ".join(chance.choices(words, k=30)) + "?"

    made = {f"q{n}": Choice(asking(), tuple(chance.choices("abcd", k=4)), 0) for n in range(40)}
    shots = {"facts": tuple(Choice(f"{chance.choice('cd')} ship?", ("c", "d"), n % 2) for n in range(5))}
    asked = Benchmark(
        tuple(Question(id_, c.question, (c.letter,), "facts") for id_, c in made.items()),
        choices=made, shots=shots,
    )  # fmt: skip
    found = ask_alone(load_generator("fake:words"), "fake", asked, asked.questions)
    shown = "The following are multiple choice questions (with answers) about facts. "
    shown += " ".join(
        f"{s.question} A. {s.options[0]} B. {s.options[1]} Answer: {s.letter}" for s in shots["facts"]
    )
    for row, (id_, choice) in zip(found.rows, made.items(), strict=True):
        assert row["id"] == id_
        whole = f"{shown} {choice.question} A B C D {' '.join(choice.options)} Answer"
        counts = [len(re.findall(rf"\b{letter}\b", whole, re.IGNORECASE)) for letter in "abcd"]
        assert row["answer"] == "ABCD"[counts.index(max(counts))]
        assert row["measures"]["accuracy"] == float(row["answer"] == "A")
        assert len(row["logprobs"]) == 4
    assert len({row["answer"] for row in found.rows}) > 2, "the prompts differ enough to tell"


def test_the_layout_of_a_choice():
    prompt = choice_prompt("us_law", [("One?", ("x", "y"), "B")], "Two?", ("p", "q", "r"), ["A passage. "])
    assert prompt.prefix + prompt.text == (
        "The following are multiple choice questions (with answers) about us law.\n\n"
        "One?\nA. x\nB. y\nAnswer: B\n\n"
        "Background: A passage.\n\n"
        "Two?\nA. p\nB. q\nC. r\nAnswer:"
    )


def test_passages_stand_before_a_choice():
    asked = choices("A")
    said = Table({"0?": "A"})
    ask_alone(said, "table", asked, asked.questions, background={"q0": ["It is w."]})
    assert "Background: It is w.\n\n0?\nA. w" in said.seen[0].prefix


# -- WebQuestions


def test_webquestions_in_three_shapes(tmp_path):
    plain = [
        {"id": "w1", "question": "who?", "answers": ["Ann", "Ann ", "Bo"]},
        {"question": "why?", "answers": []},
    ]
    first = [
        {
            "url": "x",
            "utterance": "who?",
            "targetValue": '(list (description Ann) (description "Bo (the second)"))',
        }
    ]
    yoda = [{"qId": "y1", "qText": "who?", "answers": ["Ann"]}, {"qText": "who?", "answers": "Ann"}]
    read = read_benchmark(
        "webquestions", lines(tmp_path / "a.jsonl", *plain, "{", {"question": "x", "answers": [1]})
    )
    assert [(q.id, q.answers, q.source) for q in read.questions] == [("w1", ("Ann", "Bo"), "")]
    assert read.notes[0].startswith("3 entries are left out: line 2: there is no answer; ")
    read = read_benchmark("webquestions", write(tmp_path / "b.json", json.dumps(first)))
    assert read.questions[0].answers == ("Ann", "Bo (the second)")
    read = read_benchmark("webquestions", write(tmp_path / "c.json", json.dumps(yoda)))
    assert [q.id for q in read.questions] == ["y1"]


def test_questions_in_words_closed_book():
    asked = Benchmark(tuple(Question(f"q{n}", f"{n}?", ("Ann", "Bo"), "") for n in range(4)))
    said = Table({"0?": " the Ann.", "1?": " Bo and Ann", "2?": " Cy", "3?": " "})
    found = ask_alone(said, "table", asked, asked.questions)
    assert [row["answer"] for row in found.rows] == ["the Ann", "Bo and Ann", "Cy", ""]
    assert [row["measures"]["EM"] for row in found.rows] == [1, 0, 0, 0]
    assert found.systems["table"]["F1"].value == pytest.approx((1 + 0.5 + 0 + 0) / 4)
    assert found.systems["table"]["over-refusal"].value == 0.25


# -- LocalRQA


def doc(text, source="https://x/1", title="One"):
    return {
        "page_content": text,
        "fmt_content": f"Content: {text}",
        "metadata": {"source": source, "title": title},
    }


def localrqa(folder):
    lines(
        folder / "processed" / "test_w_qa.jsonl",
        {
            "question": "Who?",
            "gold_answer": "Ann",
            "gold_docs": [doc("Ann did.")],
            "hard_neg_docs": [doc("Bo.")],
        },
        {
            "question": "When?",
            "gold_answer": "1853",
            "gold_docs": [doc("Bo."), doc("In 1853.", "https://x/2")],
        },
        {"question": "", "gold_answer": "x", "gold_docs": []},
        {"question": "Bad?", "gold_docs": [{"metadata": {}}]},
        "[",
    )
    lines(
        folder / "processed" / "train_w_q.jsonl", {"questions": ["Not asked?"], "gold_docs": [doc("More.")]}
    )
    lines(
        folder / "raw" / "docs.jsonl",
        {"source": "https://x/1", "title": "One", "text": "Bo."},
        {"text": "Else."},
    )
    return folder


def test_localrqa(tmp_path):
    folder = localrqa(tmp_path)
    read = read_benchmark("localrqa", folder / "processed" / "test_w_qa.jsonl")
    assert [(q.question, q.answers, q.source, q.evidence) for q in read.questions] == [
        ("Who?", ("Ann",), "https://x/1", "Ann did."),
        ("When?", ("1853",), "https://x/1", "Bo."),
    ]
    assert [(d.source, d.title, d.text) for d in read.documents] == [
        ("https://x/1#0", "One", "Ann did."),
        ("https://x/1#1", "One", "Bo."),
        ("https://x/2#0", "One", "In 1853."),
    ]
    assert [list(read.grades[q.id]) for q in read.questions] == [
        ["https://x/1#0"],
        ["https://x/1#1", "https://x/2#0"],
    ]
    assert read.notes[0].startswith('3 entries are left out: line 3: "question" is missing')
    whole = read_benchmark("localrqa", folder)
    assert whole.questions == read.questions
    assert [d.text for d in whole.documents] == ["Ann did.", "Bo.", "In 1853.", "Else.", "More."] or [
        d.text for d in whole.documents
    ] == ["Ann did.", "Bo.", "In 1853.", "More.", "Else."]


def test_localrqa_without_answers(tmp_path):
    path = lines(tmp_path / "q.jsonl", {"questions": ["Who?", "What?"], "gold_docs": [doc("Ann did.")]})
    read = read_benchmark("localrqa", path)
    assert [q.question for q in read.questions] == ["Who?", "What?"]
    assert not read.answered
    assert all(its == {"https://x/1#0": 1.0} for its in read.grades.values())


# -- tables


def test_a_table(tmp_path):
    text = (
        "Question;Answer;Context\n"
        'Who?;Ann;"Ann did; so\ndid Bo."\n'
        'When?;"[""1853"", ""in 1853""]";In 1853.\n'
        "Why?;;In 1853.\n"
        ";x;y\n"
        "too;few\n"
        "\n"
    )
    read = read_benchmark("csv", write(tmp_path / "t.csv", text))
    assert [(q.question, q.answers) for q in read.questions] == [
        ("Who?", ("Ann",)),
        ("When?", ("1853", "in 1853")),
        ("Why?", ()),
    ]
    assert [d.text for d in read.documents] == ["Ann did; so\ndid Bo.", "In 1853."]
    assert len(read.grades) == 2
    assert read.notes == ("2 entries are left out: line 6: no question; line 7: 2 cells under 3 columns",)


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "question,b\n1,2\n", "\n\n"])
def test_a_table_without_the_columns_is_refused(tmp_path, text):
    with pytest.raises(QuestionsError, match="name one of them question and another answer"):
        read_benchmark("csv", write(tmp_path / "t.csv", text))


# -- all of them


def test_what_is_refused(tmp_path):
    with pytest.raises(SettingsError, match="known are squad, "):
        read_benchmark("glue", tmp_path)
    for name in FORMATS:
        with pytest.raises(QuestionsError):
            read_benchmark(name, tmp_path / "absent")
        with pytest.raises(QuestionsError):
            read_benchmark(name, tmp_path)  # a folder with nothing in it
    with pytest.raises(QuestionsError, match=r"holds no question in the format squad: .*line 1"):
        read_benchmark("squad", write(tmp_path / "x.json", "{"))


def test_damage_anywhere_is_reported_and_never_a_traceback(tmp_path):
    """Files cut off, and files with bytes exchanged, inserted and removed."""
    chance = random.Random(1)
    whole = {
        "squad": json.dumps(SQUAD),
        "webquestions": lines(
            tmp_path / "w", {"question": "who?", "answers": ["A"]}, {"utterance": "x"}
        ).read_text(),
        "localrqa": (localrqa(tmp_path / "l") / "processed" / "test_w_qa.jsonl").read_text(),
        "mmlu": lines(tmp_path / "m", {"question": "Q?", "choices": ["x", "y"], "answer": "B"}).read_text(),
        "csv": 'question,answer,context\n"Who?",Ann,"Ann, too"\n',
    }
    texts = {name: (tmp_path / f"{name}.jsonl", text) for name, text in whole.items()}
    texts["csv"] = (tmp_path / "t.csv", whole["csv"])
    folder = beir(tmp_path / "beir")
    for part in ("corpus.jsonl", "queries.jsonl", "qrels/test.tsv"):
        texts[f"beir {part}"] = (folder / part, (folder / part).read_text())
    for name, (path, text) in texts.items():
        kind = name.partition(" ")[0]
        data, kept = text.encode(), 0
        for _ in range(40):
            damaged = bytearray(data)
            for _ in range(chance.randint(1, 4)):
                at = chance.randrange(len(damaged))
                what = chance.randrange(4)
                if what == 0:
                    del damaged[at:]
                elif what == 1:
                    damaged[at] = chance.randrange(256)
                elif what == 2:
                    damaged[at:at] = chance.choice(
                        [b'"', b"\n", b"[", b"}", b"\0", b"\xff", b"null", b"\\ud800"]
                    )
                else:
                    del damaged[at : at + 5]
                if not damaged:
                    break
            path.write_bytes(bytes(damaged))
            try:
                read = read_benchmark(kind, folder if kind == "beir" else path)
            except QuestionsError:
                continue
            kept += bool(read.questions)
        assert kept, f"{name}: something was read in some of them"
        path.write_bytes(data)


def test_documents_in_a_library(tmp_path):
    read = read_benchmark("beir", beir(tmp_path / "set"))
    library = Library(tmp_path / "library.db", create=True)
    put(library, replace(read, documents=read.documents))
    assert holds(library, read)
    assert [p.text for p in library.passages()] == ["Cranes lift.", "The quay.", "They turn."]
    before = library.passages()
    put(library, read)
    assert library.passages() == before
    judged, _ = judge_by_grades(library, read.questions, read.grades)
    ids = {d.source: d.id for d in read.documents}
    assert judged[0].relevant == (
        frozenset({ids["d1"]}), frozenset({ids["d2"]}), frozenset({"not there: d4"})
    )  # fmt: skip
    assert judged[0].grades[ids["d3"]] == 0
    assert judged[1].relevant == ()
    with pytest.raises(WorkspaceError, match="holds other documents"):
        put(library, replace(read, documents=read.documents[1:]))


def test_a_killed_filling_goes_on(tmp_path):
    read = read_benchmark("beir", beir(tmp_path / "set"))
    library = Library(tmp_path / "library.db", create=True)

    def killed(step, done, total, unit):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        put(library, read, killed)
    put(library, read)
    assert sorted(p.text for p in library.passages()) == ["Cranes lift.", "The quay.", "They turn."]


# -- the real ones


def test_real_mmlu_and_webquestions(data):
    read = read_benchmark("mmlu", data / "mmlu" / "mmlu_global_facts.jsonl")
    assert (len(read.questions), len(read.shots["global_facts"]), read.notes) == (100, 5, ())
    test = read_benchmark("webquestions", data / "webquestions" / "webquestions_test.jsonl")
    assert (len(test.questions), test.notes) == (2032, ())


@pytest.mark.slow
def test_real_cranfield_and_squad(data):
    read = read_benchmark("beir", data / "cranfield")
    assert (len(read.documents), len(read.questions)) == (1398, 225)
    assert "the document 471 is empty" in read.notes[0]
    eight = read_benchmark("squad", data / "squad" / "squad8_questions.jsonl")
    assert (len(eight.documents), len(eight.questions), eight.notes) == (391, 1788, ())
