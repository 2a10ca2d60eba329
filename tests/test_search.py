"""Searches: words, BM25, vectors, fusion, filters and the closer look."""

from __future__ import annotations

import json
import math
import multiprocessing
import random
import shutil
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fieldstone.errors import SettingsError, WorkspaceError
from fieldstone.library import Library
from fieldstone.models import load_encoder, load_generator, load_reranker
from fieldstone.search import Filter, Index, search
from fieldstone.search.dense import DenseIndex
from fieldstone.search.embed import embed_library
from fieldstone.search.fused import fuse_ranks, fuse_scores
from fieldstone.search.lexical import LexicalIndex
from fieldstone.search.stores import open_store
from fieldstone.search.words import index_words
from fieldstone.settings import SearchSettings
from small_library import TEXTS, make_library, put

spawn = multiprocessing.get_context("spawn")
CRANES = {f"crane-{i:02}.txt": f"crane {i % 7} lifts {'heavy ' * (i % 5)}stones" for i in range(40)}


@pytest.fixture
def library(tmp_path):
    library = make_library(tmp_path, embedded=True)
    yield library
    library.close()


@pytest.fixture(scope="module")
def still(tmp_path_factory):
    """An opened index of a library that no test changes."""
    library = make_library(tmp_path_factory.mktemp("still"), embedded=True)
    yield index_of(library)
    library.close()


def lexical_of(library, name="lexical"):
    return LexicalIndex(library.path.parent / "cache" / name, library)


def dense_of(library, **prefixes):
    encoder = load_encoder("fake:words", **prefixes)
    return DenseIndex(library, encoder, open_store("memory:", encoder.dimension, encoder.fingerprint))


def index_of(library):
    return Index(
        library,
        lexical_of(library),
        dense_of(library),
        load_generator("fake:words"),
        load_reranker("fake:words"),
    )


def sources(library, found):
    """The sources of what a lexical or dense search found."""
    passages = library.passages([id_ for id_, _ in found])
    names = library.sources({p.document_id for p in passages})
    return [names[p.document_id][0] for p in passages]


# -- words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The cranes' LIFTS", ["the", "crane", "lift"]),
        (
            "ferries buses bus glass oes preflight_checks v2.10",
            "ferry buse bus glass oes preflight_check v2 10",
        ),
        ("Überlade-Öffnung naïveté", ["uberlade", "offnung", "naivete"]),
        ("ﬁre №５ ｶﾞ", ["fire", "no5", "ガ"]),
        ("東京港", ["東京", "京港"]),
        ("港 crane港", ["港", "crane", "港"]),
        ("ท่าเรือ", ["ท่", "่า", "าเ", "เร", "รื", "ือ"]),
        ("قَانُونٌ", ["قانون"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("தமிழ்", ["தமிழ்"]),
        ("አማርኛ ቋንቋ", ["አማርኛ", "ቋንቋ"]),
        ("한국어", ["한국어"]),
        ("", []),
        ("?! … — 。", []),
    ],
)
def test_text_to_words(text, words):
    assert index_words(text) == (words.split() if isinstance(words, str) else words)


@given(st.text(max_size=60))
def test_words_never_hold_white_space_and_do_not_depend_on_case(text):
    words = index_words(text)
    assert all(word and not any(letter.isspace() for letter in word) for word in words)
    if text.isascii():
        assert index_words(text.upper()) == words


# -- lexical


def bm25(texts, question, k1=1.2, b=0.75):
    """BM25 as it is written in books, over word lists; scores of the texts that share a word."""
    lists = [index_words(text) for text in texts]
    average = sum(map(len, lists)) / len(lists)
    scores = {}
    for place, words in enumerate(lists):
        counts = Counter(words)
        score = 0.0
        for word in set(index_words(question)):
            if counts[word]:
                holding = sum(word in other for other in lists)
                rarity = math.log(1 + (len(lists) - holding + 0.5) / (holding + 0.5))
                norm = k1 * (1 - b + b * len(words) / average)
                score += rarity * counts[word] * (k1 + 1) / (counts[word] + norm)
        if score:
            scores[place] = score
    return scores


def test_lexical_agrees_with_another_bm25(tmp_path):
    chance = random.Random(7)
    vocabulary = [f"w{i}" for i in range(60)]
    texts = {f"{i}": " ".join(chance.choices(vocabulary, k=chance.randint(1, 30))) for i in range(120)}
    library = make_library(tmp_path, texts)
    ids, bodies = zip(*((id_, text) for _, id_, text in library.texts()), strict=True)
    for _ in range(20):
        question = " ".join(chance.choices(vocabulary, k=4))
        (found,) = lexical_of(library).search([question], len(texts))
        expected = {ids[place]: score for place, score in bm25(bodies, question).items()}
        assert dict(found) == pytest.approx(expected, rel=1e-4)
        assert [score for _, score in found] == sorted(dict(found).values(), reverse=True)


def test_lexical_finds_words_of_title_headings_and_text(library):
    (found,) = lexical_of(library).search(["welding radio"], 10)
    assert sources(library, found)[0] == "safety/welding.md"
    (found,) = lexical_of(library).search(["2025"], 10)  # stands in the title alone
    assert sources(library, found) == ["tariffs/2025.txt"]


UNSPACED = {
    "ja": {"a": "港の使用料は一日につき百二十円です。", "b": "溶接の前に消防に連絡してください。"},
    "zh": {"a": "码头每天的使用费是一百二十元。", "b": "焊接前必须通知消防值班员。"},
    "th": {"a": "ค่าธรรมเนียมท่าเรือวันละหนึ่งร้อยบาท", "b": "ก่อนเชื่อมโลหะต้องแจ้งเวรดับเพลิง"},
}


@pytest.mark.parametrize(
    ("language", "question", "source"),
    [
        ("ja", "使用料はいくらですか", "a"),
        ("ja", "溶接する前に誰に連絡しますか", "b"),
        ("zh", "使用费多少?", "a"),
        ("zh", "焊接前要通知谁", "b"),
        ("th", "ค่าธรรมเนียมเท่าไร", "a"),
        ("th", "เชื่อมโลหะแจ้งใคร", "b"),
    ],
)
def test_languages_without_spaces_are_found(tmp_path, language, question, source):
    library = make_library(tmp_path, UNSPACED[language])
    (found,) = lexical_of(library).search([question], 2)
    assert sources(library, found)[0] == source


@pytest.mark.parametrize("language", ["ja", "zh", "zh-hant", "ar"])
def test_real_questions_in_other_languages_are_found(tmp_path, data, language):
    def lines(name):
        file = data / "tiny" / f"{language}_{name}.jsonl"
        return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]

    passages, questions = lines("passages"), lines("questions")
    library = make_library(tmp_path, {p["id"]: p["text"] for p in passages}, tokens=10_000)
    found = lexical_of(library).search([q["question"] for q in questions], 2)
    hit = [q["passage_id"] in sources(library, f) for q, f in zip(questions, found, strict=True)]
    recall = sum(hit) / len(hit)

    def spaced(question):
        asked = set(question.split())
        shared = {p["id"]: len(asked & set(p["text"].split())) for p in passages}
        return [id_ for id_ in sorted(shared, key=lambda id_: -shared[id_])[:2] if shared[id_]]

    by_spaces = sum(q["passage_id"] in spaced(q["question"]) for q in questions) / len(questions)
    assert recall >= 0.8
    assert recall > by_spaces + (0.5 if language != "ar" else -0.01)


def same(a, b):
    """Two rankings with the same passages and, as near as floats go, the same scores."""
    return [dict(x) for x in a] == [pytest.approx(dict(y), rel=1e-5) for y in b]


def test_an_index_that_followed_equals_one_made_anew(tmp_path):
    library = make_library(tmp_path, CRANES)
    index, questions = lexical_of(library), ["crane 3 heavy", "stones", "lifts 5", "new"]
    index.refresh()
    put(library, "crane-03.txt", "a new text")
    library.remove_files(["crane-11.txt", "crane-12.txt"])
    index.refresh()
    put(library, "zebra.txt", "new heavy stones")
    found, anew = index.search(questions, 50), lexical_of(library, "anew").search(questions, 50)
    assert [set(dict(f)) for f in found] == [set(dict(f)) for f in anew]
    assert sources(library, found[0])[0] == sources(library, anew[0])[0]
    assert same(lexical_of(library).search(questions, 50), found)  # opened again: nothing is done twice


def test_the_index_follows_adds_and_removes(library):
    index = lexical_of(library)
    assert index.search(["anchor"], 5) == [[]]
    put(library, "anchor.txt", "An anchor is heavy.")
    (found,) = index.search(["anchor"], 5)
    assert sources(library, found) == ["anchor.txt"]
    library.remove_files(["anchor.txt"])
    assert index.search(["anchor"], 5) == [[]]


def test_removed_passages_take_no_place_from_others(tmp_path):
    library = make_library(tmp_path, CRANES)
    index = lexical_of(library)
    (best,) = index.search(["heavy stones"], 20)
    library.remove_files(sources(library, best))
    (found,) = index.search(["heavy stones"], 20)
    assert len(found) == 20
    assert not dict(found).keys() & dict(best).keys()


def delete_all(folder):
    shutil.rmtree(folder)


def delete_meta(folder):
    (folder / "meta.json").unlink()


def delete_mark(folder):
    (folder / "mark.json").unlink()


def garble_mark(folder):
    (folder / "mark.json").write_text('{"mark": 3')


def other_words(folder):
    mark = json.loads((folder / "mark.json").read_text())
    (folder / "mark.json").write_text(json.dumps(mark | {"words": "0"}))


def empty_meta(folder):
    (folder / "meta.json").write_text("")


def cut_segments(folder):
    for file in folder.glob("*.*"):
        if file.suffix in (".idx", ".term", ".fast", ".store"):
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def delete_segment(folder):
    for file in folder.glob("*.term"):
        file.unlink()


def a_file_instead(folder):
    shutil.rmtree(folder)
    folder.write_text("no index")


@pytest.mark.parametrize(
    "damage",
    [
        delete_all,
        delete_meta,
        delete_mark,
        garble_mark,
        other_words,
        empty_meta,
        cut_segments,
        delete_segment,
        a_file_instead,
    ],
)
def test_a_damaged_or_deleted_index_comes_back(library, damage):
    expected = lexical_of(library).search(["crane quay"], 10)
    assert expected[0]
    damage(library.path.parent / "cache" / "lexical")
    assert same(lexical_of(library).search(["crane quay"], 10), expected)


def test_an_index_of_another_library_is_made_anew(tmp_path):
    first, second = make_library(tmp_path / "a"), make_library(tmp_path / "b", CRANES)
    folder = tmp_path / "cache"
    LexicalIndex(folder, first).refresh()
    (found,) = LexicalIndex(folder, second).search(["stones"], 100)
    assert len(found) == len(CRANES)
    assert LexicalIndex(folder, first).search(["stones"], 100) == [[]]


def refresh_until_told(path: str, stop, results) -> None:
    library = Library(Path(path))
    index = lexical_of(library)
    while not stop.is_set():
        found, held = index.search(["stones"], 1000)[0], {p.id for p in library.passages()}
        if len({id_ for id_, _ in found} & held) < len(CRANES):
            results.put(f"found {len(found)}")
            return
    results.put(sorted(id_ for id_, _ in index.search(["stones"], 1000)[0]))


@pytest.mark.slow
def test_two_processes_refresh_at_once_while_a_third_adds(tmp_path):
    library = make_library(tmp_path, CRANES)
    stop, results = spawn.Event(), spawn.Queue()
    arguments = (str(library.path), stop, results)
    readers = [spawn.Process(target=refresh_until_told, args=arguments) for _ in range(2)]
    for reader in readers:
        reader.start()
    ends, turn = time.monotonic() + 4, 0
    while time.monotonic() < ends:
        put(library, f"more-{turn % 9}.txt", f"more stones {turn}")
        turn += 1
        time.sleep(0.01)
    stop.set()
    found = [results.get(timeout=60) for _ in readers]
    for reader in readers:
        reader.join(60)
    everything = sorted(p.id for p in library.passages())
    assert found == [everything, everything]


# -- odd questions


@pytest.mark.parametrize("mode", ["dense", "lexical", "fused"])
@pytest.mark.parametrize("rerank", ["none", "likelihood", "cross-encoder"])
@pytest.mark.parametrize("question", ["", "   ", "?!,. -- …", "\0\ud800", "港", "xyzzy", "crane " * 10_000])
def test_any_question_gets_an_honest_list(still, mode, rerank, question):
    settings = SearchSettings(mode=mode, rerank=rerank)
    for k in (1, 3, 10**12):
        (hits,) = search(still, [question], settings, k)
        assert len(hits) <= min(k, still.library.counts().passages)
        assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
        assert len({hit.passage.id for hit in hits}) == len(hits)
    if mode == "lexical" and not index_words(question):
        assert hits == []


def test_ten_thousand_different_words_are_no_trouble(still):
    question = " ".join(f"word{i}" for i in range(9_999)) + " welding"
    began = time.perf_counter()
    (hits,) = search(still, [question], SearchSettings(mode="lexical"), 3)
    assert sources(still.library, [(hit.passage.id, 0) for hit in hits]) == ["safety/welding.md"]
    assert time.perf_counter() - began < 5


def test_an_empty_library_and_no_questions_give_nothing(tmp_path, library):
    empty = make_library(tmp_path / "empty", {}, embedded=True)
    assert search(index_of(empty), ["crane", ""], SearchSettings(), 5) == [[], []]
    assert search(index_of(library), [], SearchSettings(), 5) == []


def test_equal_scores_come_in_a_fixed_order(tmp_path):
    same_text = {f"{i:02}.txt": "the same stones" for i in range(30)}
    library = make_library(tmp_path, {})
    for source in same_text:
        put(library, source, "the same stones", title="stones")
    embed_library(library, load_encoder("fake:words"))
    for mode in ("dense", "lexical", "fused"):
        settings = SearchSettings(mode=mode, rerank="none")
        first, again = (search(index_of(library), ["stones"], settings, 30)[0] for _ in range(2))
        assert first == again
        assert len({hit.score for hit in first}) == 1
        few = search(index_of(library), ["stones"], settings, 7)[0]
        assert few == first[:7]


def test_one_question_alone_finds_what_it_finds_among_others(library):
    questions = ["crane", "fee for fishing boats", "who is told before welding"]
    index = index_of(library)
    together = search(index, questions, SearchSettings(), 5)
    for question, hits in zip(questions, together, strict=True):
        (alone,) = search(index, [question], SearchSettings(), 5)
        assert [hit.passage for hit in alone] == [hit.passage for hit in hits]
        assert [hit.score for hit in alone] == pytest.approx([hit.score for hit in hits], abs=1e-5)


# -- dense


def test_dense_scores_are_cosines(library):
    encoder = load_encoder("fake:words")
    (found,) = dense_of(library).search(["How deep may a ship at berth 7 lie?"], 10)
    texts = {id_: text for _, id_, text in library.texts()}
    question = encoder.encode_queries(["How deep may a ship at berth 7 lie?"])[0]
    expected = {id_: float(encoder.encode_passages([text])[0] @ question) for id_, text in texts.items()}
    assert dict(found) == pytest.approx(expected, abs=1e-5)
    assert sources(library, found)[0] == "berths/berth-7.md"


def test_dense_follows_adds_changes_and_removes(library):
    index, encoder = dense_of(library), load_encoder("fake:words")
    index.refresh()
    put(library, "anchor.txt", "An anchor is heavy.")
    put(library, "berths/berth-8.md", "Berth 8 was filled in.")
    library.remove_files(["berths/berth-7.md"])
    embed_library(library, encoder)
    (found,) = index.search(["anchor berth"], 10)
    (anew,) = dense_of(library).search(["anchor berth"], 10)
    assert dict(found) == pytest.approx(dict(anew), abs=1e-6)
    assert {"anchor.txt", "berths/berth-8.md"} <= set(sources(library, found))
    assert "berths/berth-7.md" not in sources(library, found)


def test_dense_takes_the_new_vector_of_a_passage_with_another_title(library):
    index, encoder = dense_of(library), load_encoder("fake:words")
    index.refresh()
    put(library, "berths/berth-8.md", TEXTS["berths/berth-8.md"], title="Zebra crossing")
    embed_library(library, encoder)
    (found,) = index.search(["zebra"], 1)
    assert sources(library, found) == ["berths/berth-8.md"]
    assert found == dense_of(library).search(["zebra"], 1)[0]


def test_what_people_say_of_answers_is_no_reason_to_compare_vectors_anew(library):
    dense = dense_of(library)
    dense.refresh()
    other = Library(library.path)
    asked = []
    library.embedded = lambda encoder: asked.append(encoder) or Library.embedded(library, encoder)
    other.put_answers([("a", "2026-01-01", "{}")], 10)
    other.put_said("a", "{}")
    dense.refresh()
    assert not asked
    put(other, "ferry.md", "The ferry sails at noon.")
    embed_library(other, load_encoder("fake:words"))
    dense.refresh()
    assert len(asked) == 1
    assert "ferry.md" in sources(library, dense.search(["When does the ferry sail?"], 1)[0])
    other.close()


def test_dense_refuses_vectors_of_another_encoder(library):
    with pytest.raises(WorkspaceError, match=r"made by encoder .*; type: fieldstone build FOLDER --into"):
        dense_of(library, query_prefix="query: ").search(["crane"], 3)
    index = dense_of(library)
    index.refresh()
    embed_library(library, load_encoder("fake:words", passage_prefix="passage: "))
    with pytest.raises(WorkspaceError, match="made by encoder"):  # switched while it was open
        index.search(["crane"], 3)


# -- fusion


def test_fused_ranks_by_hand():
    dense, lexical = [("a", 0.9), ("b", 0.8), ("c", 0.1)], [("b", 12.0), ("d", 3.0)]
    assert fuse_ranks([dense, lexical], 10) == [
        ("b", pytest.approx(1 / 62 + 1 / 61)),
        ("a", pytest.approx(1 / 61)),
        ("d", pytest.approx(1 / 62)),
        ("c", pytest.approx(1 / 63)),
    ]
    assert [id_ for id_, _ in fuse_ranks([dense, lexical], 2)] == ["b", "a"]
    assert fuse_ranks([[], []], 5) == []


def test_fused_scores_by_hand():
    dense, lexical = [("a", 0.8), ("b", 0.4), ("e", -0.2)], [("b", 10.0), ("d", 5.0)]
    assert fuse_scores(dense, lexical, 0.6, 10) == [
        ("b", pytest.approx(0.6 * 0.5 + 0.4)),
        ("a", pytest.approx(0.6)),
        ("d", pytest.approx(0.4 * 0.5)),
    ]
    assert fuse_scores(dense, lexical, 0.6, 1) == [("b", pytest.approx(0.7))]
    assert fuse_scores([], lexical, 0.6, 9) == [("b", pytest.approx(0.4)), ("d", pytest.approx(0.2))]
    assert fuse_scores([("a", 0.0)], [], 0.6, 9) == []


def test_equal_fused_scores_come_by_id():
    assert [id_ for id_, _ in fuse_ranks([[("z", 1.0)], [("a", 1.0)], [("m", 1.0)]], 3)] == ["a", "m", "z"]


@pytest.mark.parametrize("fusion", ["scores", "rrf"])
def test_a_fused_hit_says_what_each_search_gave_it(still, fusion):
    settings = SearchSettings(fusion=fusion, rerank="none")
    question = "fire watch before welding"
    (hits,) = search(still, [question], settings, 3)
    (dense,), (lexical,) = still.dense.search([question], 100), still.lexical.search([question], 100)
    expected = fuse_ranks([dense, lexical], 3) if fusion == "rrf" else fuse_scores(dense, lexical, 0.6, 3)
    assert [(hit.passage.id, hit.score) for hit in hits] == expected
    assert hits[0].by == "fused"
    assert hits[0].scores == {
        "lexical": dict(lexical)[hits[0].passage.id],
        "dense": dict(dense)[hits[0].passage.id],
        "fused": hits[0].score,
    }


# -- filters


@pytest.fixture(scope="module")
def dated(tmp_path_factory):
    library = make_library(tmp_path_factory.mktemp("dated"), {})
    for source, type_, date in [
        ("tariffs/old/2019.pdf", "pdf", "2019-12-31"),
        ("tariffs/2024.pdf", "pdf", "2024-02-29"),
        ("tariffs/2025.md", "md", "2025-03-01"),
        ("notes.md", "md", "2025-03-31"),
    ]:
        put(library, source, "The fee is due.", title="", metadata={"type": type_, "date": date})
    put(library, "undated.txt", "The fee is due.")
    embed_library(library, load_encoder("fake:words"))
    yield index_of(library)
    library.close()


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({}, 5),
        ({"source": "tariffs/*"}, 3),
        ({"source": "*.md"}, 2),
        ({"source": "tariffs/202[45].*"}, 2),
        ({"source": "notes.md"}, 1),
        ({"type": "pdf"}, 2),
        ({"since": "2024"}, 3),
        ({"since": "2024-03"}, 2),
        ({"until": "2024"}, 2),
        ({"until": "2024-02-28"}, 1),
        ({"since": "2025-03-01", "until": "2025-03"}, 2),
        ({"source": "tariffs/*", "type": "md", "since": "2025"}, 1),
        ({"type": "docx"}, 0),
        ({"source": "tariffs"}, 0),
    ],
)
@pytest.mark.parametrize("mode", ["dense", "lexical", "fused"])
def test_filters_hold_in_every_mode(dated, wanted, expected, mode):
    settings = SearchSettings(mode=mode)
    (hits,) = search(dated, ["fee"], settings, 10, Filter(**wanted))
    assert len(hits) == expected
    (few,) = search(dated, ["fee"], settings, 1, Filter(**wanted))
    assert len(few) == min(1, expected)


def test_a_filter_is_taken_before_the_best_are_cut(tmp_path):
    library = make_library(tmp_path, CRANES | {"wanted.md": "one crane among many other words here"})
    embed_library(library, load_encoder("fake:words"))
    for mode in ("dense", "lexical", "fused"):
        settings = SearchSettings(mode=mode, candidates=3)
        (hits,) = search(index_of(library), ["crane"], settings, 3, Filter(source="wanted*"))
        assert len(hits) == 1


@pytest.mark.parametrize("date", ["March", "2025-3", "2025-03-01T00:00", "25", ""])
def test_a_date_that_is_none_is_refused(date):
    with pytest.raises(SettingsError, match=r"since = .* is no date; write it as 2025"):
        Filter(since=date)


# -- the closer look


def test_likelihood_lifts_the_passage_that_makes_the_question_likely(still):
    question = "When is the fire watch told by radio before welding?"
    settings = SearchSettings(mode="lexical", rerank="likelihood", likelihood_weight=1.0)
    (hits,) = search(still, [question], settings, 5)
    likelihoods = [hit.scores["likelihood"] for hit in hits]
    assert likelihoods == sorted(likelihoods, reverse=True)
    assert (hits[0].score, hits[-1].score, hits[0].by) == (1.0, 0.0, "likelihood")
    assert sources(still.library, [(hits[0].passage.id, 0)]) == ["safety/welding.md"]


def test_likelihood_is_mixed_with_what_was_found_before(still):
    question = "crane at berth 7"
    (before,) = search(still, [question], SearchSettings(rerank="none"), 5)
    (after,) = search(still, [question], SearchSettings(likelihood_weight=0.25), 5)
    first = {hit.passage.id: hit.score for hit in before}
    means = {hit.passage.id: hit.scores["likelihood"] for hit in after}
    low, high = min(means.values()), max(means.values())
    for hit in after:
        second = (means[hit.passage.id] - low) / (high - low)
        assert hit.score == pytest.approx(0.75 * first[hit.passage.id] + 0.25 * second)


@pytest.mark.parametrize("rerank", ["likelihood", "cross-encoder"])
def test_what_lies_below_the_rerank_depth_keeps_its_order_below(still, rerank):
    question = "crane berth quay day"
    settings = SearchSettings(rerank=rerank, rerank_depth=2)
    (before,) = search(still, [question], SearchSettings(rerank="none"), 5)
    (after,) = search(still, [question], settings, 5)
    ids = [[hit.passage.id for hit in hits] for hits in (before, after)]
    assert len(ids[0]) == 5
    assert (set(ids[0][:2]), ids[0][2:]) == (set(ids[1][:2]), ids[1][2:])
    scores = [hit.score for hit in after]
    assert scores == sorted(scores, reverse=True)


def test_a_cross_encoder_decides_the_order(still):
    question = "What does a day at the quay cost fishing boats?"
    settings = SearchSettings(rerank="cross-encoder", rerank_depth=5)
    (hits,) = search(still, [question], settings, 5)
    texts = {id_: text for _, id_, text in still.library.texts()}
    scores = load_reranker("fake:words").rerank(question, [texts[hit.passage.id] for hit in hits])
    assert [hit.score for hit in hits] == scores == sorted(scores, reverse=True)
    assert [hit.scores["cross-encoder"] for hit in hits] == scores


def test_a_cross_encoder_is_mixed_with_what_was_found_before(still):
    question = "What does a day at the quay cost fishing boats?"
    (before,) = search(still, [question], SearchSettings(rerank="none"), 5)
    settings = SearchSettings(rerank="cross-encoder", reranker_weight=0.25)
    (after,) = search(still, [question], settings, 5)
    first = {hit.passage.id: hit.score for hit in before}
    texts = {id_: text for _, id_, text in still.library.texts()}
    given = dict(
        zip(first, load_reranker("fake:words").rerank(question, [texts[i] for i in first]), strict=True)
    )
    low, high = min(given.values()), max(given.values())
    assert high > low
    for hit in after:
        assert hit.scores["cross-encoder"] == given[hit.passage.id]
        second = (given[hit.passage.id] - low) / (high - low)
        assert hit.score == pytest.approx(0.75 * first[hit.passage.id] + 0.25 * second)
    assert [hit.score for hit in after] == sorted((hit.score for hit in after), reverse=True)


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        (SearchSettings(mode="dense", rerank="none"), "models.encoder"),
        (SearchSettings(mode="lexical", rerank="likelihood"), "models.generator"),
        (SearchSettings(mode="lexical", rerank="cross-encoder"), "models.reranker"),
    ],
)
def test_what_is_asked_for_and_not_there_is_named(library, settings, names):
    with pytest.raises(SettingsError, match=names):
        search(Index(library, lexical_of(library)), ["crane"], settings)
