"""The sections of a report that show single questions: won and lost by tuning, and the worst answers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from html import escape
from typing import Any

from fieldstone.evaluate.measures.lost import GOOD
from fieldstone.evaluate.report.findings import AFTER, BEFORE, sets_of, short
from fieldstone.evaluate.report.page.markup import heading
from fieldstone.quotes import Span, find, find_words

Content = Mapping[str, Any]

LONGEST = 1200
"""Characters of a passage that are shown; beyond, the part around what is marked."""


def example_section(content: Content) -> Iterator[str]:
    """Some of the questions that tuning won and lost."""
    sets = sets_of(content)
    shown = {name: its for name, its in sets.items() if any(its.get("examples", {}).values())}
    if shown:
        yield "<h2>Questions won and lost</h2>"
    for name, questions in shown.items():
        for kind in ("won", "lost"):
            examples = questions["examples"].get(kind, ())
            total = _counted(questions["moved"], won=kind == "won")
            some = f", {len(examples)} of them shown" if total > len(examples) else ""
            yield heading(f"{name}: {total} {kind}{some}" if name else f"{total} {kind}{some}")
            yield '<div class="examples">'
            for example in examples:
                yield from _example(example, "good" if kind == "won" else "bad")
            yield "</div>"


def worst_section(content: Content) -> Iterator[str]:
    """The worst cases of each system that answers; the first system is unfolded, or the one after tuning."""
    shown = {name: its for name, its in sets_of(content).items() if any(its.get("worst", {}).values())}
    if not shown:
        return
    yield '<h2>The worst answers</h2><p class="soft">Wrong answers come first, and the surest of them; then '
    yield "right ones with a wrong citation, then refusals. Marked is what was quoted, and the right answer "
    yield "where it stands.</p>"
    for name, questions in shown.items():
        cases = {system: its for system, its in questions["worst"].items() if its}
        best = AFTER if AFTER in cases else next(iter(cases))
        for system in (best, *(other for other in cases if other != best)):
            title = f'<span class="cap">{escape(name)}: {escape(system)}</span>' if name else escape(system)
            unfolded = " open" if system == best else ""
            yield f"<details{unfolded}><summary>{title}</summary>"
            yield '<div class="worst">'
            for case in cases[system]:
                yield from _case(case, questions.get("passages", {}))
            yield "</div></details>"


def _example(example: Content, kind: str) -> Iterator[str]:
    yield f'<div class="card {kind}"><p>{escape(example["question"])}</p><dl>'
    yield f"<dt>wanted</dt><dd>{escape(_wanted(example))}</dd>"
    for name in (BEFORE, AFTER):
        said = example[name]
        quote = f"<blockquote>“{escape(said['quote'])}”</blockquote>" if said["quote"] else ""
        yield f'<dt>{name}</dt><dd>{escape(said["answer"] or "no answer")} <span class="stage">'
        yield f"{escape(said['stage'])}</span>{quote}</dd>"
    yield f'<dt>from</dt><dd class="soft">{escape(example["source"])}</dd>' if example["source"] else ""
    yield "</dl></div>"


def _case(case: Content, passages: Mapping[str, str]) -> Iterator[str]:
    sure = "" if case["confidence"] is None else f", confidence {short(case['confidence'])}"
    yield f'<div class="card bad"><p>{escape(case["question"])}</p><dl>'
    yield f"<dt>wanted</dt><dd>{escape(_wanted(case))}</dd>"
    yield f'<dt>answered</dt><dd>{escape(case["answer"] or "no answer")} <span class="stage">'
    yield f"{escape(case['stage'] + sure)}</span></dd>"
    yield f'<dt>from</dt><dd class="soft">{escape(case["source"])}</dd>' if case["source"] else ""
    yield "</dl>"
    read, held = case["read"], case["held"]
    told = "that it cites" if case["quote"] else "that was found first"
    if read in passages and read == held:
        yield _passage(f"The passage {told}, which holds the answer", passages[read], case)
    elif read in passages:
        yield _passage(f"The passage {told}", passages[read], case)
    if held in passages and held != read:
        yield _passage("The passage that holds the answer", passages[held], case)
    yield "</div>"


def _passage(title: str, text: str, case: Content) -> str:
    quoted = find(case["quote"], text)[:1] if case["quote"] else []
    right = [span for answer in case["wanted"] for span in find_words(answer, text)]
    start, end = _window(text, [*right, *quoted])
    shown = (
        f"{'… ' if start else ''}{_marked(text, quoted, right, start, end)}{' …' if end < len(text) else ''}"
    )
    return f'<p class="soft cap">{title}</p><blockquote class="passage">{shown}</blockquote>'


def _window(text: str, spans: Iterable[Span]) -> Span:
    """The part of a long text that is shown: with the first of the spans in it."""
    first = next(iter(spans), (0, 0))[0]
    start = max(0, min(first - LONGEST // 4, len(text) - LONGEST))
    return start, min(len(text), start + LONGEST)


def _marked(text: str, quoted: Iterable[Span], right: Iterable[Span], start: int, end: int) -> str:
    """The text from start to end as HTML, the quotation underlined and the right answer marked."""
    kinds = [""] * len(text)
    for kind, spans in (("quoted", quoted), ("right", right)):
        for a, b in spans:
            kinds[a:b] = [kind] * (b - a)
    pieces, at = [], start
    for place in range(start, end):
        if place + 1 == end or kinds[place + 1] != kinds[place]:
            words = escape(text[at : place + 1])
            pieces.append(f'<mark class="{kinds[place]}">{words}</mark>' if kinds[place] else words)
            at = place + 1
    return "".join(pieces)


def _wanted(case: Content) -> str:
    return " / ".join(case["wanted"]) or "no answer: the documents do not hold it"


def _counted(moved: Mapping[str, Mapping[str, int]], *, won: bool) -> int:
    return sum(
        count
        for start, ends in moved.items()
        for end, count in ends.items()
        if (start in GOOD) != (end in GOOD) and (end in GOOD) == won
    )
