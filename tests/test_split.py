"""Splitting: nothing lost, nothing changed, nothing too long, everything in its place."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldstone.models import load_encoder
from fieldstone.records import Document, Heading, with_context
from fieldstone.settings import SplitSettings
from fieldstone.split import split_document, split_library
from small_library import make_library, put, words


def bytes_(texts):
    """Tokens as a byte-level tokenizer without merges has them: a letter may be four."""
    return [len(text.encode("utf-8", "surrogatepass")) for text in texts]


PIECES = [
    "The crane lifts forty tonnes. ",
    "Überlade-Öffnung, naïveté! ",
    "港の使用料は一日につき百二十円です。",
    "السفن الكبيرة ترسو هنا ",
    "👨‍👩‍👧‍👦",
    "e\u0301\u0302\u0303",
    "x" * 40,
    "\n\n",
    "\r\n",
    "\t \u3000\u00a0\u2028",
    "- item one\n",
    "| a | b |\n",
]


@st.composite
def documents(draw):
    """A document of pieces, some random, with headings and page starts wherever they may stand."""
    piece = st.sampled_from(PIECES) | st.text(max_size=12)
    text = "".join(draw(st.lists(piece, max_size=40)))
    places = st.integers(0, len(text))
    starts = sorted(draw(st.lists(places, max_size=6)))
    headings = tuple(
        Heading(draw(st.integers(1, 4)), draw(st.text("abc äöü", max_size=20)), start) for start in starts
    )
    pages = tuple(sorted(draw(st.sets(places, max_size=5))))
    return Document.new("a.md", draw(st.text("Title ", max_size=10)), text, {}, headings, pages)


def path_at(document, offset):
    """The headings above a letter, found the slow way."""
    path = []
    for heading in document.headings:
        if heading.start <= offset:
            path = [above for above in path if above.level < heading.level] + [heading]
    return tuple(heading.text for heading in path)


def is_part(part, path):
    """Whether `part` stands in `path` without a gap."""
    return any(path[i : i + len(part)] == part for i in range(len(path) - len(part) + 1))


def starts_with_bare(passage, above):
    """Whether the passage starts with a heading that has nothing under it but the next one."""
    letters = [c for c in passage.text if c.isalnum()]
    heading = [c for c in above[-1] if c.isalnum()] if above else []
    return bool(above) and letters[: len(heading)] == heading[: len(letters)]


def test_a_heading_alone_joins_what_stands_under_it():
    text = "# Berths\n\n## Berth 4\n\nThe draught is 8.1 m.\n\n## Berth 7\n\nThe draught is 6.9 m."
    headings = (
        Heading(1, "Berths", 0),
        Heading(2, "Berth 4", text.index("## Berth 4")),
        Heading(2, "Berth 7", text.index("## Berth 7")),
    )
    document = Document.new("a.md", "Handbook", text, {}, headings)
    first, second = split_document(document, words, 24)
    assert first.text == text[: text.index("\n\n## Berth 7")]
    assert (first.headings, second.headings) == (("Berths", "Berth 4"), ("Berths", "Berth 7"))


@settings(max_examples=60)
@given(documents(), st.integers(24, 80), st.integers(0, 20), st.sampled_from([words, bytes_]))
def test_every_passage_stands_in_its_document_and_nothing_is_lost(document, tokens, overlap, count):
    passages = list(split_document(document, count, tokens, overlap))
    covered = set()
    for passage in passages:
        assert document.text[passage.start : passage.end] == passage.text
        assert passage.text.strip()
        covered.update(range(passage.start, passage.end))
        assert is_part(passage.headings, path_at(document, passage.end - 1))
        above = path_at(document, passage.start)
        assert is_part(passage.headings, above) or starts_with_bare(passage, above)
        pages = [page for page, start in enumerate(document.pages, start=1) if start <= passage.start]
        assert passage.page == (pages[-1] if pages else None)
        assert not any(passage.start < start < passage.end for start in document.pages)
    lost = {i for i, letter in enumerate(document.text) if not letter.isspace()} - covered
    assert not lost
    assert [p.start for p in passages] == sorted(p.start for p in passages)
    assert len({p.id for p in passages}) == len(passages)
    assert passages == list(split_document(document, count, tokens, overlap))


@given(documents(), st.integers(40, 120), st.integers(0, 20), st.sampled_from([words, bytes_]))
def test_no_passage_is_over_the_budget_with_its_context(document, tokens, overlap, count):
    for passage in split_document(document, count, tokens, overlap):
        whole = with_context(passage.text, document.title, passage.headings)
        assert count([whole])[0] <= tokens


@pytest.mark.parametrize("tokens", range(1, 12))
def test_a_budget_too_small_for_anything_still_loses_nothing(tokens):
    document = Document.new("a", "a long title", "some words stand here " * 20)
    passages = list(split_document(document, words, tokens, 2))
    assert set(" ".join(p.text for p in passages).split()) == set(document.text.split())


def test_an_empty_document_and_one_of_white_space_give_nothing():
    for text in ("", " \n\t\u3000"):
        assert list(split_document(Document.new("a", "a", text), words, 20)) == []


def test_headings_are_the_path_and_pages_are_where_it_starts():
    text = "Intro.\nFees are due. " + "fee " * 30 + "\nCrane " + "lift " * 40
    fees, crane = text.index("Fees"), text.index("Crane")
    headings = (Heading(1, "Harbour", 0), Heading(2, "Fees", fees), Heading(2, "Cranes", crane))
    document = Document.new("a", "a", text, {}, headings, (0, crane))
    passages = list(split_document(document, words, 60))
    assert [(p.headings, p.page) for p in passages] == [
        (("Harbour",), 1),
        (("Harbour", "Fees"), 1),
        (("Harbour", "Cranes"), 2),
    ]


def test_short_siblings_join_under_their_parent_but_not_over_a_page():
    text = "Rules\n" + "".join(f"Rule {i}\nShort.\n" for i in range(4))
    starts = [text.index(f"Rule {i}") for i in range(4)]
    headings = (Heading(1, "Rules", 0), *(Heading(2, f"Rule {i}", s) for i, s in enumerate(starts)))
    (passage,) = split_document(Document.new("a", "a", text, {}, headings), words, 60)
    assert (passage.headings, passage.text) == (("Rules",), text.strip())
    paged = Document.new("a", "a", text, {}, headings, (0, starts[2]))
    assert [p.page for p in split_document(paged, words, 60)] == [1, 2]


def test_of_too_long_a_path_the_outermost_headings_give_way():
    headings = tuple(Heading(level, f"level {level} " + "word " * 5, level - 1) for level in range(1, 6))
    document = Document.new("a", "a", "abcd " + "word " * 40, {}, headings)
    *_, last = split_document(document, words, 50)
    path = tuple(heading.text for heading in headings)
    assert last.headings == path[-len(last.headings) :]
    assert 0 < len(last.headings) < len(path)


def test_overlap_repeats_the_end_of_a_passage():
    text = " ".join(f"w{i}" for i in range(300))
    passages = list(split_document(Document.new("a", "", text), words, 40, overlap=10))
    pairs = list(pairwise(passages))
    assert pairs
    assert all(0 < before.end - after.start <= 60 for before, after in pairs)


def test_ids_tell_documents_places_titles_and_headings_apart():
    document = Document.new("a", "Old title", "Some text of a document.")
    variants = [
        document,
        Document.new("b", "Old title", document.text),
        Document.new("a", "New title", document.text),
        Document.new("a", "Old title", document.text, {}, (Heading(1, "H", 0),)),
        Document.new("a", "Old title", document.text + "."),
    ]
    assert len({next(split_document(v, words, 40)).id for v in variants}) == len(variants)


@pytest.fixture
def library(tmp_path):
    library = make_library(tmp_path, {})
    yield library
    library.close()


def test_only_documents_that_need_it_are_split_again(library):
    encoder = load_encoder("fake:words")
    put(library, "a.txt", "word " * 100)
    put(library, "b.txt", "another one")
    tokens = SplitSettings(tokens=60)
    assert split_library(library, encoder, tokens) == library.counts().passages > 2
    before = library.passages()
    assert split_library(library, encoder, tokens) == 0
    assert library.passages() == before
    short = put(library, "b.txt", "another one, changed", split="left to the next splitting")
    assert split_library(library, encoder, tokens) == 1
    assert {p for p in library.passages() if p.document_id != short.id} < set(before)
    fewer = SplitSettings(tokens=40)
    assert split_library(library, encoder, fewer) == library.counts().passages > len(before)
    again = SplitSettings(tokens=40, overlap=10)
    assert split_library(library, encoder, again) == library.counts().passages


def test_passages_are_never_longer_than_the_encoder_reads(library):
    encoder = load_encoder("fake:words")
    put(library, "a.txt", "word " * 3000)
    split_library(library, encoder, SplitSettings(tokens=100_000))
    texts = [text for _, _, text in library.texts()]
    assert max(encoder.count_tokens(texts)) <= encoder.max_tokens
    assert len(texts) > 3000 / encoder.max_tokens
