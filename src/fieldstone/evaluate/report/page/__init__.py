"""The HTML page of an evaluation: one file that asks for nothing from outside itself, a module a section."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from importlib.resources import files
from typing import Any

from fieldstone.evaluate.report.findings import changes, sets_of
from fieldstone.evaluate.report.headline import headline
from fieldstone.evaluate.report.page.believed import agreement_section, judge_section
from fieldstone.evaluate.report.page.cases import example_section, worst_section
from fieldstone.evaluate.report.page.lost import lost_section
from fieldstone.evaluate.report.page.markup import note_list
from fieldstone.evaluate.report.page.measured import measured_section
from fieldstone.evaluate.report.page.refusals import refusal_section
from fieldstone.evaluate.report.page.slices import slice_section
from fieldstone.evaluate.report.page.tuned import curve_section, verdict_section

Content = Mapping[str, Any]

POLICY = "default-src 'none'; style-src 'unsafe-inline'"

SECTIONS = (
    measured_section,
    judge_section,
    agreement_section,
    verdict_section,
    curve_section,
    lost_section,
    refusal_section,
    slice_section,
    example_section,
    worst_section,
)


def render_page(content: Content) -> str:
    """The page of an evaluation that `report.as_json` made plain."""
    date = str(content["date"]).replace("T", " ").replace("+00:00", " UTC")
    tuned = any(changes(questions) for questions in sets_of(content).values())
    title = "Before and after tuning" if tuned else "Evaluation"
    said = headline(content)
    style = (files("fieldstone.evaluate.report.page") / "page.css").read_text(encoding="utf-8")
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{title}, {escape(date)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>",
            f'<h1>{title}</h1>\n<p class="soft">{escape(date)}</p>',
            f'<p class="headline">{escape(said)}</p>' if said else "",
            *note_list(content["notes"]),
            *(part for section in SECTIONS for part in section(content)),
            *_folded("Settings", content["settings"]),
            *_folded("Versions", content.get("versions", {})),
            "</main>\n</body>\n</html>\n",
        ]
    )


def _folded(name: str, tree: Content) -> Iterator[str]:
    if tree:
        yield f"<details><summary>{name}</summary>\n<dl>"
        for key, value in _flat(tree):
            yield f"<dt>{escape(key)}</dt><dd>{escape(str(value))}</dd>"
        yield "</dl></details>"


def _flat(tree: Content, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + str(name), value
