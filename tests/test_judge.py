"""A model as judge: every verdict is read, asked for again, or counted as unread; none is lost or made up."""

import json
import math

import pytest

import tiny_models
from fieldstone.errors import EndpointError, ModelError
from fieldstone.evaluate.judge.verdict import BATCH, TRIES, Claim, Grade, decide, grade, way_of_judging
from fieldstone.models import Completion, Prompt, Score, load_generator
from fieldstone.models.fake import FakeGenerator
from fieldstone.prompts import VERDICTS, grade_prompt, parse_verdict
from model_server import serving

CLAIMS = [Claim(f"When does berth {n} open?", f"at {n}", (f"{n} o'clock", f"{n}")) for n in range(30)]


class Scripted(FakeGenerator):
    """Writes what the script says; the replies to one prompt come one after another, the last stays."""

    def __init__(self, replies, context_tokens=4096):
        super().__init__("scripted")
        self.fingerprint = "scripted00000001"
        self.replies, self.context_tokens = replies, context_tokens
        self.asked, self.calls = {}, []

    def score(self, prompts, completions):
        raise ModelError("this one cannot score")

    def generate(self, prompts, *, max_tokens=64, stop=(), temperature=0.0, seed=0):
        self.calls.append((len(prompts), temperature, seed))
        return [self._reply(prompt) for prompt in prompts]

    def _reply(self, prompt):
        berth = int(prompt.text.partition("berth ")[2].split()[0])
        script = self.replies(berth)
        times = self.asked[berth] = self.asked.get(berth, 0) + 1
        return Completion(script[min(times, len(script)) - 1], 1, None, True)


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        (" yes", True),
        (" No.\n", False),
        ("**Yes**", True),
        ("Yes, because the passage says so.", True),
        ("No - the year is another one", False),
        ("Verdict: right", True),
        ("**Verdict:** no", False),
        ('{"verdict": "yes"}', True),
        ('{"correct": false}', None),
        ('{"correct": true}', True),
        ("The answer is correct.", True),
        ("It is incorrect.", False),
        ("The year differs.\n\nVerdict: wrong", False),
        ("<think>yes? no?\nYes\n</think>\nno", False),
        ("<think>\nyes", None),
        ("yes/no", None),
        ("Yes or no", None),
        ("no doubt it is right", None),
        ("Right answer: 1853", None),
        ("The answer is not right", None),
        ("Not correct", None),
        ("yesterday", None),
        ("no's", None),
        ("yes\nno", None),
        ("yes\n\nYes.", True),
        ("Is the answer right? no", None),
        ("", None),
        ("7", None),
    ],
)
def test_only_what_is_a_verdict_is_read_as_one(reply, verdict):
    assert parse_verdict(reply) is verdict


def test_the_verdict_is_the_likelier_word(tmp_path):
    folder = tiny_models.llama(tmp_path / "m", max_position_embeddings=4096)
    generator = load_generator(str(folder), dtype="float32", cache=tmp_path, threads=1)
    grades = grade(generator, CLAIMS[:12], way="score")
    prompts = [grade_prompt(c.question, c.answer, c.answers) for c in CLAIMS[:12]]
    for prompt, given in zip(prompts, grades, strict=True):
        yes, no = (s.logprob for s in generator.score([prompt, prompt], [VERDICTS[True], VERDICTS[False]]))
        assert given.right is (yes > no)
        assert given.belief == pytest.approx(math.exp(yes) / (math.exp(yes) + math.exp(no)), rel=1e-3)
    assert way_of_judging(generator) == "score"


def test_a_prompt_shows_what_is_graded_and_by_what():
    by_answers = grade_prompt("When\nnow?", "at  six", ("6", "six"))
    assert (
        by_answers.text == "Question: When now?\nRight answer: 6 / six\nAnswer: at six\nIs the answer right?"
    )
    by_passage = grade_prompt("When?", "at six", (), "It opens\nat six.")
    assert by_passage.prefix.endswith("Passage: It opens at six.\n")
    assert by_passage.text == "Question: When?\nAnswer: at six\nDoes the passage say so?"


def test_what_cannot_be_read_is_asked_for_again():
    judge = Scripted(lambda berth: [["yes"], ["hm", "no"], ["?", "!", "yes"]][berth % 3])
    grades = grade(judge, CLAIMS[:6])
    assert [g.right for g in grades] == [True, False, True] * 2
    assert [g.tries for g in grades] == [1, 2, 3] * 2
    assert judge.calls == [(6, 0.0, 0), (4, 0.7, 1), (2, 0.7, 2)]


def test_what_stays_unread_has_no_verdict_and_says_why():
    judge = Scripted(lambda berth: ["it depends"])
    (given,) = grade(judge, CLAIMS[:1])
    assert given == Grade(None, None, TRIES, "its reply is no verdict: 'it depends'")


def test_words_that_are_equally_likely_are_no_verdict():
    class Even(FakeGenerator):
        def score(self, prompts, completions):
            return [Score(-2.0, 1) for _ in prompts]

    class Never(FakeGenerator):
        def score(self, prompts, completions):
            return [Score(-math.inf, 1) for _ in prompts]

    for generator in (Even(), Never()):
        assert [g.right for g in decide(generator, [Prompt(text="?")] * 2, "score")] == [None, None]


def test_words_that_are_worlds_apart_are_a_verdict():
    class Sure(FakeGenerator):
        def score(self, prompts, completions):
            return [Score(0.0 if c == VERDICTS[False] else -1e9, 1) for c in completions]

    (given,) = decide(Sure(), [Prompt(text="?")], "score")
    assert given == Grade(False, 0.0)


def test_an_answer_that_is_too_long_costs_no_other_its_verdict():
    judge = Scripted(lambda berth: ["yes"], context_tokens=600)
    endless = Claim("When does berth 1 open?", "at one " * 1000, ("1",))
    grades = grade(judge, [CLAIMS[0], endless, CLAIMS[2]])
    assert [g.right for g in grades] == [True, None, True]
    assert grades[1].why == "longer than the judge reads"


def test_a_kill_costs_one_batch_and_nothing_is_asked_twice(tmp_path):
    path = tmp_path / "cache" / "judge.jsonl"
    judge = Scripted(lambda berth: ["yes" if berth % 2 else "no"])

    def until(stop):
        def replies(berth):
            if berth >= stop:
                raise KeyboardInterrupt
            return ["yes" if berth % 2 else "no"]

        return replies

    with pytest.raises(KeyboardInterrupt):
        grade(Scripted(until(2 * BATCH + 3)), CLAIMS, path)
    grades = grade(judge, CLAIMS, path)
    assert [g.right for g in grades] == [bool(n % 2) for n in range(30)]
    assert sorted(judge.asked) == list(range(2 * BATCH, 30))
    again = Scripted(lambda berth: ["hm"])
    assert grade(again, [*CLAIMS, *CLAIMS], path) == grades * 2
    assert again.calls == []


def test_another_judge_or_question_is_another_line(tmp_path):
    path = tmp_path / "judge.jsonl"
    grade(Scripted(lambda berth: ["yes"]), CLAIMS[:1], path)
    other = Scripted(lambda berth: ["no"])
    other.fingerprint = "scripted00000002"
    assert not grade(other, CLAIMS[:1], path)[0].right
    changed = Claim(CLAIMS[0].question, CLAIMS[0].answer, ("noon",))
    assert not grade(Scripted(lambda berth: ["no"]), [changed], path)[0].right


def test_damaged_lines_are_asked_again(tmp_path):
    path = tmp_path / "judge.jsonl"
    grade(Scripted(lambda berth: ["yes"]), CLAIMS[:10], path)
    lines = path.read_bytes().splitlines()
    rows = [json.loads(line) for line in lines]
    lines[0] = b"\xff\xfe no JSON"
    lines[1] = json.dumps(rows[1] | {"right": "maybe"}).encode()
    lines[2] = json.dumps(rows[2] | {"belief": float("nan")}).encode()
    lines[3] = json.dumps(rows[3] | {"belief": 7.0}).encode()
    lines[4] = json.dumps({"key": rows[4]["key"]}).encode()
    lines[5] = b"[1, 2]"
    lines[6] = json.dumps({k: v for k, v in rows[6].items() if k != "key"}).encode()
    lines[7] = b"[" * 5000
    path.write_bytes(b"\n".join(lines)[:-20])  # and the last one was cut off by a kill
    judge = Scripted(lambda berth: ["no"])
    grades = grade(judge, CLAIMS[:10], path)
    assert [g.right for g in grades] == [False] * 8 + [True, False]
    assert grade(Scripted(lambda berth: ["?"]), CLAIMS[:10], path) == grades


def test_a_server_that_cannot_score_is_asked_to_write():
    with serving() as server:
        server.echo = False
        remote = load_generator(f"{server.url}#fake")
        assert way_of_judging(remote) == "generate"
        words = [{"choices": [{"text": t, "finish_reason": "stop"}]} for t in (" yes", " ?", " ?", " ?")]
        first, *others = [(200, json.dumps(reply), {}) for reply in words]
        counted = (200, json.dumps({"tokens": [1, 2]}), {})
        server.replies = [counted, first, counted, *others]
        given = [grade(remote, [claim], way="generate")[0] for claim in CLAIMS[:2]]
        assert [g.right for g in given] == [True, None]
        server.echo = True
        assert way_of_judging(remote) == "score"


def test_a_server_that_fails_is_an_error_and_no_verdict():
    with serving() as server:
        remote = load_generator(f"{server.url}#fake")
        server.replies = [(400, "out of order", {})] * 20
        with pytest.raises(EndpointError):
            grade(remote, CLAIMS[:1])


def test_nothing_to_grade():
    assert grade(Scripted(lambda berth: ["yes"]), []) == []
