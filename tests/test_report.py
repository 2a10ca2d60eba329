"""What a report holds, and that its page asks for nothing from outside."""

import json
import re
from datetime import UTC, datetime
from html.parser import HTMLParser

import pytest

from fieldstone.evaluate.evaluation import Evaluation, QuestionSet
from fieldstone.evaluate.report.files import as_json, write_report
from fieldstone.evaluate.report.findings import changes, gaps
from fieldstone.evaluate.report.headline import headline
from fieldstone.evaluate.report.markdown import render_markdown
from fieldstone.evaluate.report.page import render_page
from fieldstone.evaluate.statistics.bootstrap import Estimate

EVALUATION = Evaluation(
    date=datetime(2026, 1, 31, 12, 0, 5, tzinfo=UTC),
    systems={
        "dense": {"recall@1": Estimate(0.66, 0.6, 0.72, 400), "seconds": Estimate(1.5, 1.2, 12.25, 400)},
        "<fused>": {"recall@1": Estimate(0.82, 0.78, 0.86, 400)},
    },
    differences={
        "<fused> - dense": {
            "recall@1": Estimate(0.16, 0.1, 0.22, 400),
            "token F1": Estimate(-0.01, -0.04, 0.02, 400),
            "MRR": Estimate(0.0, 0.0, 0.0, 400),
        }
    },
    settings={"recipe": "guide", "search": {"mode": "fused & more"}},
    notes=("12 questions could not be located.",),
    rows=[{"id": "q1", "system": "dense", "answer": "Kö"}, {"id": "q1", "system": "<fused>", "answer": ""}],
)


@pytest.fixture
def report(tmp_path):
    return write_report(tmp_path / "reports", EVALUATION)


def test_files_lie_in_a_folder_named_by_the_date(report, tmp_path):
    folder = tmp_path / "reports" / "20260131T120005Z"
    assert report == tuple(
        folder / name for name in ("report.json", "report.html", "rows.jsonl", "report.md")
    )
    assert write_report(tmp_path / "reports", EVALUATION).json.parent.name == "20260131T120005Z-2"


def test_json(report):
    content = json.loads(report.json.read_text(encoding="utf-8"))
    assert content["date"] == "2026-01-31T12:00:05+00:00"
    assert content["systems"]["dense"]["recall@1"] == {"value": 0.66, "low": 0.6, "high": 0.72, "n": 400}
    assert content["differences"]["<fused> - dense"]["MRR"]["n"] == 400
    assert content["notes"] == ["12 questions could not be located."]
    assert content["settings"]["search"] == {"mode": "fused & more"}


def test_rows(report):
    rows = [json.loads(line) for line in report.rows.read_text(encoding="utf-8").splitlines()]
    assert rows == EVALUATION.rows


class Page(HTMLParser):
    """The words of a page, and whether its tags are balanced."""

    VOID = ("meta", "line", "rect", "circle", "polyline", "polygon")

    def __init__(self, text):
        super().__init__()
        self.open, self.words, self.links = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        led = [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action")]
        self.links += [value for value in led if not value.startswith("#")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def test_page_is_self_contained_and_well_formed(report):
    text = report.html.read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    assert page.links == []
    assert not re.search(r"https?:|//|@import|url\(|<script", text)
    assert "default-src 'none'" in text
    assert "prefers-color-scheme: dark" in text


def test_page_says_in_words_what_the_numbers_mean(report):
    words = " ".join(Page(report.html.read_text(encoding="utf-8")).words)
    assert "<fused> is higher" in words
    assert "within the noise; about 3,600 questions would tell" in words
    assert "no difference" in words
    assert "12 questions could not be located." in words
    assert "search.mode fused & more" in words
    assert "−0.010" in words
    assert "1.200 to 12" in words


def test_an_evaluation_without_differences_has_a_page(tmp_path):
    bare = Evaluation(date=EVALUATION.date, systems={"dense": {"recall@1": Estimate(1, 1, 1, 3)}})
    assert "Differences" not in write_report(tmp_path, bare).html.read_text(encoding="utf-8")


def test_numbers_that_are_none_are_not_written(tmp_path):
    broken = Evaluation(
        date=EVALUATION.date, systems={"dense": {"recall@1": Estimate(float("nan"), 0, 1, 3)}}
    )
    with pytest.raises(ValueError):
        write_report(tmp_path, broken)


def row(system, number, *, answer, rank=0, wanted=("at ten",)):
    """A row of an answering system; an empty answer is a refusal."""
    hits = [{"passage": "right" if place == rank else f"other{place}", "score": 0.5} for place in range(5)]
    return {
        "system": system,
        "id": f"q{number}",
        "question": f"When does <gate {number}> close?",
        "answers": list(wanted),
        "source": "gates.md",
        "relevant": ["right"] if wanted else [],
        "hits": hits,
        "answer": answer or "The documents do not answer this question.",
        "abstained": not answer,
        "citations": [{"passage": hits[0]["passage"], "quote": "It closes & locks."}] if answer else [],
        "measures": {"F1": float(answer in wanted) if wanted else None},
    }


BEFORE = [row("before", n, answer="at ten" if n < 4 else "", rank=4 if n > 16 else 0) for n in range(20)]
AFTER = [row("after", n, answer="at ten" if n else "at six") for n in range(20)]
SILENT = [row("before", 20, answer="at two", wanted=()), row("after", 20, answer="", wanted=())]

VERDICT = {
    "part": "retriever",
    "candidate": "models/retriever/1",
    "incumbent": "embedded:minilm",
    "measure": "recall@1",
    "difference": {"value": 0.08, "low": 0.03, "high": 0.13, "n": 300},
    "accepted": True,
    "forced": False,
    "questions_needed": None,
    "reason": "models/retriever/1 was tried in the place of embedded:minilm and taken into use: "
    "its recall@1 is 0.080 higher",
    "guards": [["<MRR>", {"value": 0.01, "low": -0.01, "high": 0.03, "n": 300}]],
}
DECLINED = VERDICT | {
    "part": "generator",
    "measure": "F1",
    "difference": {"value": 0.01, "low": -0.01, "high": 0.03, "n": 300},
    "accepted": False,
    "questions_needed": 2700,
    "reason": "b was tried in the place of a and turned down: its F1 is 0.010 higher, which may be luck",
}


def measured(before, after, *change):
    pair = {
        "before": {"recall@1": Estimate(before, before - 0.05, before + 0.05, 400)},
        "after": {"recall@1": Estimate(after, after - 0.05, after + 0.05, 400)},
    }
    return pair, {"after - before": {"recall@1": Estimate(*change, 400)}}


HUMAN = QuestionSet(*measured(0.64, 0.71, 0.07, 0.03, 0.10), ("400 questions",), BEFORE + AFTER + SILENT)
SYNTHETIC = QuestionSet(*measured(0.7, 0.83, 0.13, 0.09, 0.17))
TUNED = Evaluation(
    date=EVALUATION.date,
    sets={"human <questions>": HUMAN, "synthetic questions": SYNTHETIC},
    verdicts=(VERDICT, DECLINED),
    settings={"answer": {"passages": 4}},
    versions={"torch": "2.13"},
)


def test_a_tuned_evaluation_as_json_keeps_what_its_rows_tell():
    content = json.loads(json.dumps(as_json(TUNED)))
    human = content["sets"]["human <questions>"]
    assert human["lost"]["before"] == {
        "right": 4,
        "refused": 13,
        "ranked low": 3,
        "answered though nothing stands there": 1,
    }
    assert human["moved"]["ranked low"] == {"right": 3}
    assert len(human["examples"]["won"]) == 10
    assert [e["question"] for e in human["examples"]["lost"]] == ["When does <gate 0> close?"]
    assert content["sets"]["synthetic questions"]["lost"] == {}
    assert content["verdicts"] == [VERDICT, DECLINED]
    assert content["systems"] == {}


def test_rows_of_a_set_are_written_with_its_name(tmp_path):
    rows = write_report(tmp_path, TUNED).rows.read_text(encoding="utf-8").splitlines()
    assert len(rows) == len(HUMAN.rows)
    assert {json.loads(line)["set"] for line in rows} == {"human <questions>"}


def test_the_headline_tells_what_tuning_did():
    assert headline(as_json(TUNED)) == (
        "Tuning took the retriever into use: recall@1 went from .64 to .71 on the human <questions> "
        "(+.07, 95 % interval +.03 to +.10); the generator candidate was turned down: F1 changed by +.01 "
        "(95 % interval −.01 to +.03), which may be chance."
    )


@pytest.mark.parametrize(
    ("verdict", "said"),
    [
        (DECLINED, "Tuning changed nothing: the generator candidate was turned down: F1 changed by +.01"),
        (DECLINED | {"difference": None}, "turned down: its F1 is 0.010 higher, which may be luck."),
        (DECLINED | {"difference": None, "reason": "no data."}, "was turned down: no data."),
        (VERDICT | {"forced": True}, "Tuning forced the retriever into use: recall@1 went"),
        (VERDICT | {"measure": "MRR"}, "MRR changed by +.08 (95 % interval +.03 to +.13) where the gate"),
        (VERDICT | {"measure": "MRR", "difference": None}, "Tuning took the retriever into use."),
    ],
)
def test_the_headline_of_other_verdicts(verdict, said):
    assert said in headline(as_json(Evaluation(date=TUNED.date, sets=TUNED.sets, verdicts=(verdict,))))


def test_a_change_on_the_page_that_may_be_chance_is_said_to():
    chance = {"human": QuestionSet(*measured(0.64, 0.66, 0.02, -0.01, 0.05))}
    assert headline(as_json(Evaluation(date=TUNED.date, sets=chance, verdicts=(VERDICT,)))).endswith(
        "(+.02, 95 % interval −.01 to +.05), which may be chance."
    )


def test_less_is_better_of_some_measures():
    found = {name: Estimate(0.1, 0.05, 0.15, 400) for name in ("F1", "seconds", "over-refusal")}
    content = as_json(
        Evaluation(
            date=TUNED.date, systems={"before": found, "after": found}, differences={"after - before": found}
        )
    )
    assert {c.measure: c.verdict for c in changes(content)} == {
        "F1": "better",
        "seconds": "worse",
        "over-refusal": "worse",
    }


def test_the_gap_is_that_to_the_first_set():
    gap = gaps(as_json(TUNED))["synthetic questions"]["recall@1"]
    assert gap.value == pytest.approx(0.12)
    assert gap.value - gap.low == pytest.approx(0.05 * 2**0.5)
    assert gap.high - gap.value == pytest.approx(0.05 * 2**0.5)
    assert gaps(as_json(EVALUATION)) == {}


def test_the_page_of_a_tuned_evaluation(tmp_path):
    text = write_report(tmp_path, TUNED).html.read_text(encoding="utf-8")
    page = Page(text)
    words = " ".join(page.words)
    assert page.open == page.links == []
    assert not re.search(r"https?:|//|@import|url\(|<script|<gate|<MRR|<questions", text)
    for said in (
        "Before and after tuning",
        "Tuning took the retriever into use",
        "retriever taken into use",
        "its recall@1 is 0.080 higher",
        "human <questions>: 17 won, 10 of them shown",
        "human <questions>: 1 lost",
        "When does <gate 0> close?",
        "“It closes & locks.”",
        "the right passage was found, but not among those that are read",
        "The gap: synthetic questions against human <questions>",
        "answer.passages",
        "torch",
    ):
        assert said in words


def test_other_systems_of_a_tuned_evaluation_are_folded_away():
    more = HUMAN.systems | {"retriever alone": HUMAN.systems["after"]}
    folded = Evaluation(date=TUNED.date, sets={"human": QuestionSet(more, HUMAN.differences)})
    assert "<summary>All systems: human</summary>" in render_page(as_json(folded))
    assert "All systems" not in render_page(as_json(TUNED))


def test_a_report_written_before_there_were_sets_can_be_shown():
    old = {k: as_json(EVALUATION)[k] for k in ("date", "systems", "differences", "notes", "settings")}
    assert "&lt;fused&gt; is higher" in render_page(old)


def test_verdicts_alone_have_a_page():
    page = render_page(as_json(Evaluation(date=TUNED.date, verdicts=(DECLINED | {"difference": None},))))
    assert "Tuning changed nothing" in page
    assert "What the gate decided" in page


HOSTILE = '<script>alert(1)</script> & "<b>" </blockquote>'


def answered(system, number, *, confidence=0.6, **more):
    return row(system, number, **more) | {
        "confidence": confidence,
        "abstain_below": 0.3,
        "unsaid": "at ten",
        "kind": "" if more.get("wanted", True) else "near <miss>",
    }


def several():
    """An evaluation of two systems that answer and one that searches, on one set of questions."""
    rows = []
    for system, right in (("<one>", 30), ("two", 12)):
        rows += [
            answered(
                system,
                n,
                answer="" if n % 10 == 9 else "at ten" if n < right else HOSTILE,
                wanted=() if n % 5 == 4 else ("at ten",),
                confidence=0.2 if n % 10 == 9 else 0.4 + n / 100,
            )
            for n in range(40)
        ]
    estimates = {"F1": Estimate(0.61, 0.5, 0.7, 40), "recall@5": Estimate(0.8, 0.7, 0.9, 32)}
    systems = {"<one>": estimates, "two": estimates | {"F1": Estimate(0.31, 0.2, 0.4, 40)}}
    systems["dense"] = {"recall@5": Estimate(0.7, 0.6, 0.8, 32)}
    return Evaluation(
        date=EVALUATION.date,
        systems=systems,
        differences={"two - <one>": {"F1": Estimate(-0.3, -0.4, -0.2, 40)}},
        settings={"answer": {"passages": 4}},
        rows=rows,
        passages={"right": f"Gates\nThey close at ten. It closes & locks. {HOSTILE}", "elsewhere": "unread"},
    )


def test_all_that_the_page_shows_of_several_systems_stands_in_the_json():
    content = json.loads(json.dumps(as_json(several())))
    page = Page(render_page(content))
    words = " ".join(" ".join(page.words).split())
    assert page.open == page.links == []
    for found in content["coverage"].values():
        area, excess = (f"{found[key]:.2f}".removeprefix("0") for key in ("aurc", "excess"))
        assert f"{area} {excess} above the best" in words
        for name in ("coverage", "risk", "precision", "recall", "f1"):
            its = found["chosen"][name]
            shown = [f"{its[key]:.2f}".removeprefix("0") for key in ("value", "low", "high")]
            assert f"{shown[0]} {shown[1]} to {shown[2]} n = {its['n']}" in words
        assert found["kinds"]["near <miss>"]["n"] == 8
    for parts in content["slices"]["by"].values():
        for part in parts:
            values = [f"{its['value']:.3f}" for its in part["systems"].values()]
            assert f"{part['name'] or 'about no document'} {' '.join(values)} {part['n']}" in words
    for counts in content["lost"].values():
        assert sum(counts.values()) == 40
    for system, cases in content["worst"].items():
        assert system in words
        assert all(case["question"] in words for case in cases)
    assert set(content["passages"]) == {"right"}


def test_hostile_text_stays_text():
    text = render_page(as_json(several()))
    page = Page(text)
    assert not re.search(r"<script|<b>|<one>|near <miss>|<gate", text)
    assert HOSTILE in " ".join(page.words)
    assert text.count('<mark class="right">') >= 1
    assert text.count('<mark class="quoted">') >= 1


def test_the_headline_of_several_systems():
    content = as_json(several())
    assert headline(content) == (
        "Of 2 systems <one> has the highest F1, .61 (95 % interval .50 to .70, 40 questions); two has .31, a "
        "difference that is more than chance. It answers 90 % of the questions, and 33 % of these answers "
        "are wrong."
    )
    few = {"value": -0.3, "low": -0.4, "high": 0.2, "n": 40}
    content["differences"]["two - <one>"]["F1"] = few
    assert "a difference that may be chance." in headline(content)
    content["differences"]["two - <one>"]["F1"] = few | {"high": -0.2}
    content["tests"] = {
        "two - <one>": {"F1": {"p": 0.03, "holm": 0.09, "wins": 1, "ties": 2, "losses": 3, "detectable": 0.2}}
    }
    assert "a difference that may be chance." in headline(content)
    assert "1 won, 2 tied, 3 lost; p = 0.030, after Holm p = 0.090" in " ".join(
        Page(render_page(content)).words
    )


def test_the_headline_of_one_system():
    one = Evaluation(date=EVALUATION.date, systems={"dense": {"recall@5": Estimate(0.66, 0.6, 0.72, 400)}})
    assert headline(as_json(one)) == "dense reaches recall@5 .66 (95 % interval .60 to .72, 400 questions)."
    assert headline(as_json(Evaluation(date=EVALUATION.date))) == ""


def test_the_page_is_drawn_light_and_dark_and_printed():
    text = render_page(as_json(several()))
    light, dark = text.split("prefers-color-scheme: dark")
    named = set(re.findall(r"(--[a-z0-9]+):", light))
    again = set(re.findall(r"(--[a-z0-9]+):", dark[: dark.index("* {")]))
    assert named == again >= set(re.findall(r"var\((--[a-z0-9]+)\)", text)) - {"--c"}
    assert not re.findall(r'(?:fill|stroke)="(?!var|none)|style="', text)  # no colour but the page's
    assert "@media print" in text


def test_the_curves_of_tuning():
    curve = {
        "part": "retriever",
        "candidate": "<1>",
        "losses": [(1.0, 0.9), (2.0, 0.5), (3.0, 0.41)],
        "scores": [(0.0, 0.6), (3.0, 0.7)],
    }
    tuned = Evaluation(date=EVALUATION.date, curves=(curve, curve | {"part": "generator", "scores": []}))
    text = render_page(json.loads(json.dumps(as_json(tuned))))
    assert Page(text).open == []
    assert "retriever &lt;1&gt;: training loss, from 0.900 at step 1 to 0.410 at step 3" in text
    assert "retriever &lt;1&gt;: score on dev questions, from 0.600 at step 0 to 0.700 at step 3" in text
    assert "generator &lt;1&gt;: score" not in text
    assert "How tuning went" not in render_page(as_json(EVALUATION))


def test_the_markdown_of_several_systems():
    text = render_markdown(as_json(several()))
    assert text.startswith("# Evaluation, 2026-01-31\n\nOf 2 systems \\<one\\> has the highest F1")
    assert "| F1 | .61 (.50 to .70) | .31 (.20 to .40) |  |" in text
    assert "| two - \\<one\\> | F1 | −.30 (−.40 to −.20) |  |" in text
    assert "| refused rightly | 4 | 4 |" in text
    assert HOSTILE not in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in rows)


def test_the_markdown_of_tuning():
    text = render_markdown(as_json(TUNED))
    assert "## human \\<questions\\>" in text
    assert "| recall@1 | +.07 (+.03 to +.10) | better |" in text
    assert "- retriever taken into use: its recall@1 is 0.080 higher" in text


def test_what_may_be_believed_of_a_judge_and_of_synthetic_questions():
    content = json.loads(json.dumps(as_json(TUNED)))
    estimate = {"value": 0.42, "low": 0.31, "high": 0.55, "n": 120}
    content["sets"]["human <questions>"]["judged"] = {
        "judge": "a <judge>",
        "fit": False,
        "sentence": "It agrees too little.",
        "kappa": estimate,
        "agreement": None,
    }
    gap = {"human": estimate, "synthetic": estimate | {"value": 0.54}, "gap": estimate | {"value": 0.12}}
    content["agreement"] = {
        "human": "human <questions>",
        "synthetic": "synthetic questions",
        "gaps": {"F1": {"<one>": gap}},
        "rankings": {"F1": {"tau": -1.0, "probability": 0.03, "alike": False}},
        "warnings": ["go by the human ones"],
    }
    text = render_page(content)
    page = Page(text)
    words = " ".join(" ".join(page.words).split())
    assert page.open == []
    assert not re.search(r"<judge|<one>|<questions", text)
    assert "a <judge> It agrees too little." in words
    assert "kappa: agreement beyond chance +0.420 +0.310 to +0.550 n = 120" in words
    assert "F1 <one> 0.420 0.540 +0.120 +0.310 to +0.550" in words
    assert "go by the human ones" in words
    assert "F1 −1.000 3 % the other way round" in words
    assert "The gap:" not in words
