"""What a second look finds stands in the rows and in their measures, and changes nothing else."""

from fieldstone.evaluate.judge.fitness import Fitness
from fieldstone.evaluate.judge.second_look import in_words_of_support, with_grades, with_support
from fieldstone.evaluate.judge.support import by_ablation, by_judge
from fieldstone.evaluate.statistics.bootstrap import Estimate
from fieldstone.models import Score
from fieldstone.models.fake import FakeGenerator
from fieldstone.prompts import VERDICTS
from small_library import make_library

ESTIMATE = Estimate(0.8, 0.6, 0.9, 60)
FIT = Fitness("judge", 60, 0, ESTIMATE, ESTIMATE, Estimate(0.0, -0.1, 0.1, 60), ESTIMATE, True)


class Judge(FakeGenerator):
    """Finds every answer right that speaks of a crane, and has no verdict on those that speak of a ferry."""

    def score(self, prompts, completions):
        return [self._of(prompt.text, word) for prompt, word in zip(prompts, completions, strict=True)]

    def _of(self, text, word):
        if "Answer: the ferry" in text:
            return Score(-1.0, 1)
        return Score(-1.0 if (word == VERDICTS[True]) == ("Answer: its crane" in text) else -2.0, 1)


def row(passage, quote, **more):
    citation = {"passage": passage, "quote": quote, "verified": True}
    return {
        "id": "q",
        "question": "What lifts forty tonnes?",
        "answers": ["its crane"],
        "source": "",
        "answer": "its crane",
        "abstained": False,
        "citations": [citation],
        "measures": {"EM": 1.0},
    } | more


def test_rows_get_the_support_of_their_citations(tmp_path):
    library = make_library(tmp_path / "ws")
    crane = next(p for p in library.passages() if "crane lifts" in p.text)
    other = next(p for p in library.passages() if "welding" in p.text)
    searched = {"id": "q", "question": "?", "answers": [], "hits": [], "measures": {"recall@5": 1.0}}
    rows = [
        row(crane.id, "Its crane lifts forty tonnes."),
        row(other.id, "Before welding"),
        row(crane.id, "Its crane lifts fifty tonnes."),
        row(
            crane.id, "Its crane", citations=[{"passage": crane.id, "quote": "Its crane", "verified": False}]
        ),
        row("gone", "Its crane"),
        row(crane.id, "", citations=[]),
        row(crane.id, "Its crane", abstained=True),
        searched,
    ]
    looked = with_support(rows, library, by_ablation(FakeGenerator()), tmp_path / "cache" / "s.jsonl")
    right, wrong, *nothing, silent_one, refused, untouched = looked
    assert right["citations"][0]["support"] > wrong["citations"][0]["support"] > 0
    assert right["measures"]["citation-support"] == right["measures"]["faithfulness"]
    assert right["measures"]["EM"] == 1.0
    assert [its["citations"][0]["support"] for its in nothing] == [0, 0, 0]
    assert silent_one["measures"]["faithfulness"] == 0
    assert silent_one["measures"]["citation-support"] is None
    assert refused["measures"]["faithfulness"] is None
    assert untouched == searched


def test_a_judge_says_of_citations_what_it_can(tmp_path):
    library = make_library(tmp_path / "ws")
    crane = next(p for p in library.passages() if "crane lifts" in p.text)
    quote = "Its crane lifts forty tonnes."
    rows = [row(crane.id, quote, answer=said) for said in ("its crane", "its anchor", "the ferry")]
    looked = with_support(rows, library, by_judge(Judge()), tmp_path / "s.jsonl")
    assert [its["citations"][0]["support"] for its in looked] == [1.0, 0.0, None]
    assert [its["measures"]["citation-support"] for its in looked] == [1.0, 0.0, None]
    assert [its["measures"]["faithfulness"] for its in looked] == [1.0, 0.0, None]
    assert in_words_of_support(looked) == "1 of the 3 verdicts on citations could not be read"
    assert in_words_of_support(looked[:2]) == ""


def test_rows_get_the_grades_of_a_judge(tmp_path):
    rows = [
        row("p", ""),
        row("p", "", answer="its anchor"),
        row("p", "", answer="the ferry"),
        row("p", "", answer="", abstained=True),
        row("p", "", answers=[]),
        {"id": "q", "question": "?", "answers": ["a"], "hits": [], "measures": {"recall@5": 1.0}},
    ]
    graded, told = with_grades(rows, Judge(), FIT, tmp_path / "judge.jsonl")
    assert [its.get("correct", "not asked") for its in graded] == [1.0, 0.0, None, 0.0, None, "not asked"]
    assert [its["measures"].get("correctness") for its in graded] == [1.0, 0.0, None, 0.0, None, None]
    assert graded[-1] == rows[-1]
    assert (told["answers"], told["answers_unread"], told["fit"]) == (3, 1, True)
    assert told["kappa"] == {"value": 0.8, "low": 0.6, "high": 0.9, "n": 60}
    assert told["sentence"].endswith("1 of the 3 verdicts here could not be read and count nowhere.")


def test_an_unfit_judge_grades_nothing():
    unfit = Fitness("judge", 60, 0, ESTIMATE, ESTIMATE, ESTIMATE, ESTIMATE, False, "it guesses")
    rows = [row("p", "")]
    graded, told = with_grades(rows, Judge(), unfit)
    assert graded == rows
    assert not told["fit"]
    assert told["answers"] == 0
    assert told["sentence"].startswith("judge is no judge here: it guesses;")
