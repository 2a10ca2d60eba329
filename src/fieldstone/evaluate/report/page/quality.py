"""The HTML page of the quality of questions, in the manner of the reports."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from importlib.resources import files

from fieldstone.evaluate.quality.advice import findings
from fieldstone.evaluate.quality.found import Quality, Repeats
from fieldstone.evaluate.report.page import POLICY
from fieldstone.evaluate.report.page.markup import table_head


def render_quality(quality: Quality, date: str) -> str:
    """One file that asks for nothing from outside itself."""
    every = sum(quality.asking.values())
    style = (files("fieldstone.evaluate.report.page") / "page.css").read_text(encoding="utf-8")
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>The questions, {escape(date)}</title>\n<style>\n{style}</style>\n</head>",
            "<body>\n<main>",
            f'<h1>How good are the questions?</h1>\n<p class="soft">{escape(date)}</p>',
            *_found(quality),
            *_counts("How they ask", quality.asking, every),
            *_counts("How they begin", quality.openings, every),
            *_coverage(quality),
            *_histogram(quality),
            *_counts("Why others were turned down", quality.rejected, sum(quality.rejected.values())),
            *(
                line
                for what, its in quality.ratings.items()
                for line in _counts(f"How {what} were rated, 0 to 10", its, sum(its.values()))
            ),
            *_twins("Asked in train, too", quality.leaks),
            *_twins("Asked twice", quality.repeats),
            *_pairs(
                "Hard negatives that hold the answer",
                "answer and passage that counts as wrong",
                quality.negatives.shown,
            ),
            *_pairs(
                "Answered without the passage", "what the model said", quality.closed_book.answered
                if quality.closed_book
                else (),
            ),
            "</main>\n</body>\n</html>\n",
        ]
    )  # fmt: skip


def _found(quality: Quality) -> Iterator[str]:
    yield '<div class="verdicts">'
    for topic, said, advice in findings(quality):
        todo = f'<p class="worse">→ {escape(advice)}</p>' if advice else ""
        yield f'<div class="card {"bad" if advice else "good"}"><p class="cap">{topic}</p>'
        yield f"<p>{escape(said)}</p>{todo}</div>"
    yield "</div>"


def _counts(title: str, counts: Mapping[str, int], total: int) -> Iterator[str]:
    if counts:
        yield f"<h2>{title}</h2>{table_head('rows', '', '', 'number', 'share')}<tbody>"
        for name, number in counts.items():
            yield _bar(name, number / max(counts.values()), f"{number:,}", f"{100 * number / total:.0f} %")
        yield "</tbody></table></div>"


def _coverage(quality: Quality) -> Iterator[str]:
    its = quality.coverage
    for title, rows in (("Asked about most", its.most), ("Asked about least", its.least)):
        if rows:
            yield f"<h2>{title}</h2>{table_head('rows', '', '', 'questions', 'passages')}<tbody>"
            most = max(1, *(questions for _, questions, _ in its.most))
            for source, questions, passages in rows:
                yield _bar(source, questions / most, f"{questions:,}", f"{passages:,}")
            yield "</tbody></table></div>"


def _histogram(quality: Quality) -> Iterator[str]:
    counts = quality.negatives.histogram
    if any(counts):
        yield "<h2>How near the hard negatives are</h2>"
        yield '<p class="soft">Cosine between a negative and the right passage. '
        yield "What lies far off teaches little; what is nearly the same may be right.</p>"
        yield f"{table_head('rows', '', '', 'negatives', 'share')}<tbody>"
        for step, number in enumerate(counts):
            name = f"{step / 10:.1f} to {(step + 1) / 10:.1f}"
            yield _bar(name, number / max(counts), f"{number:,}", f"{100 * number / sum(counts):.0f} %")
        yield "</tbody></table></div>"


def _bar(name: str, share: float, number: str, beside: str) -> str:
    rect = f'<g class="now"><rect class="band" width="{100 * share:.1f}%" height="14" rx="2"/></g>'
    bar = f'<svg width="100%" height="14" aria-hidden="true">{rect}</svg>'
    return (
        f'<tr><th scope="row">{escape(name)}</th><td class="plot">{bar}</td>'
        f'<td class="number">{number}</td><td class="range">{beside}</td></tr>'
    )


def _twins(title: str, sets: Mapping[str, Repeats]) -> Iterator[str]:
    shown = [(name, twins) for name, its in sets.items() for twins in its.shown]
    if shown:
        yield f'<h2>{title}</h2><div class="examples">'
        for name, twins in shown:
            how = "word for word" if twins.exact else f"cosine {twins.cosine:.2f}"
            yield f'<div class="card"><p>{escape(twins.first)}</p><p>{escape(twins.second)}</p>'
            yield f'<p class="soft">{escape(name)}, {how}</p></div>'
        yield "</div>"


def _pairs(title: str, what: str, pairs: Sequence[tuple[str, str]]) -> Iterator[str]:
    if pairs:
        yield f'<h2>{title}</h2><p class="soft">Question, {what}.</p><div class="examples">'
        for question, text in pairs:
            yield f'<div class="card"><p>{escape(question)}</p><p class="soft">{escape(text)}</p></div>'
        yield "</div>"
