"""The worst cases of a system, and the passages that they speak of."""

from fieldstone.evaluate.report.worst import CASES, passages_of, worst


def row(
    name, *, answer="wrong", confidence=0.5, cited="b", found=("a", "b"), relevant=("a",), wanted=("ten",)
):
    return {
        "id": name,
        "question": name,
        "answers": list(wanted),
        "source": "f.md",
        "relevant": list(relevant),
        "hits": [{"passage": id_} for id_ in found],
        "answer": answer,
        "abstained": not answer,
        "confidence": confidence,
        "citations": [{"passage": cited, "quote": "so it is"}] if cited else [],
        "measures": {"F1": float(answer in wanted)},
    }


def test_the_surest_wrong_answers_come_first_then_wrong_citations_then_refusals():
    rows = [
        row("refused", answer="", cited=""),
        row("cited elsewhere", answer="ten", confidence=0.99),
        row("unsure"),
        row("right", answer="ten", cited="a"),
        row("refused rightly", answer="", wanted=(), relevant=()),
        row("sure", confidence=0.9),
        row("answered nothing", confidence=0.8, wanted=(), relevant=()),
        row("not located but right", answer="ten", relevant=()),
        row("not located and wrong", relevant=(), confidence=0.1),
    ]
    assert [case["question"] for case in worst(rows, 4)] == [
        "sure",
        "answered nothing",
        "unsure",
        "not located and wrong",
        "cited elsewhere",
        "refused",
    ]


def test_a_case_tells_what_was_read_and_what_should_have_been():
    (case,) = worst([row("q", found=("b", "c", "a"))], 4)
    assert case["stage"] == "cited elsewhere"
    assert (case["read"], case["held"], case["quote"]) == ("b", "a", "so it is")
    (case,) = worst([row("q", answer="", cited="", found=("c", "a"))], 4)
    assert (case["answer"], case["read"], case["held"], case["quote"]) == ("", "c", "a", "")
    (case,) = worst([row("q", cited="", found=(), wanted=(), relevant=())], 4)
    assert (case["read"], case["held"]) == ("", "")


def test_passages_are_named_once_and_cases_are_few():
    cases = worst([row(str(n)) for n in range(20)], 4)
    assert len(cases) == CASES
    assert passages_of(cases) == ["b", "a"]


def test_another_systems_answers_come_without_hits_and_citations():
    other = row("q", confidence=None) | {"hits": None, "citations": None}
    (case,) = worst([other], 4)
    assert (case["stage"], case["confidence"], case["read"]) == ("misread", None, "")


def test_where_no_answer_is_known_none_is_bad():
    assert worst([row("q", wanted=(), relevant=("a",))], 4) == []
