"""The HTML page of an evaluation: one file that asks for nothing from outside itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from fieldstone.evaluate.compare import Estimate, questions_to_tell

WIDTH, HEIGHT = 240, 31
"""Of the scale that an interval is drawn on, in pixels; the lines of a group touch."""

POLICY = "default-src 'none'; style-src 'unsafe-inline'"

STYLE = """
:root { color-scheme: light dark; --paper: #fdfcfa; --ink: #22262b; --soft: #6a7078; --line: #e3dfd8;
        --band: #9db8cf; --dot: #1f5d8c; --quiet: #c9c5bd; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #16181b; --ink: #e4e2dd; --soft: #969ca4; --line: #2f3337;
          --band: #38597a; --dot: #8fc1ea; --quiet: #4a4f55; } }
body { margin: 0; background: var(--paper); color: var(--ink);
       font: 15px/1.5 ui-sans-serif, system-ui, "Segoe UI", "Noto Sans", Helvetica, Arial, sans-serif; }
main { max-width: 56rem; margin: 0 auto; padding: 3rem 1.5rem 4rem; }
h1 { font-size: 1.7rem; font-weight: 600; letter-spacing: -.015em; margin: 0; }
h2 { font-size: 1.1rem; font-weight: 600; margin: 2.75rem 0 .25rem; }
p { margin: .25rem 0 1rem; max-width: 42rem; }
.soft, caption { color: var(--soft); }
ul.notes { margin: 1.25rem 0; padding: .6rem 1rem .6rem 2rem; border-left: 3px solid var(--band); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th { font-weight: 400; text-align: left; }
thead th { color: var(--soft); font-size: .85rem; padding: .4rem 1.25rem .4rem 0; white-space: nowrap; }
tbody { border-top: 1px solid var(--line); }
td, tbody th { padding: .28rem 1.25rem .28rem 0; }
tbody th { white-space: nowrap; }
td:has(svg) { padding-block: 0 !important; }
tbody::before, tbody::after { content: ""; display: block; height: .35rem; }
th[scope=rowgroup] { font-weight: 600; vertical-align: top; }
td.number { text-align: right; white-space: nowrap; }
td.range, td.count { color: var(--soft); text-align: right; white-space: nowrap; }
thead th.right { text-align: right; }
:is(td, th):last-child { padding-right: 0; }
svg { display: block; }
svg .axis { stroke: var(--line); }
svg .zero { stroke: var(--soft); }
svg .band { fill: var(--band); }
svg .dot { fill: var(--dot); }
.noise svg .band { fill: var(--quiet); }
.noise svg .dot { fill: var(--soft); }
.noise .verdict { color: var(--soft); }
.verdict { min-width: 13rem; }
details { margin-top: 2.75rem; }
summary { cursor: pointer; font-weight: 600; font-size: 1.1rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1.5rem; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
"""


def render_page(content: Mapping[str, Any]) -> str:
    """The page of an evaluation that `report.as_json` made plain."""
    notes = "".join(f"<li>{escape(note)}</li>" for note in content["notes"])
    date = str(content["date"]).replace("T", " ").replace("+00:00", " UTC")
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>Evaluation, {escape(date)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>",
            f'<h1>Evaluation</h1>\n<p class="soft">{escape(date)}</p>',
            f'<ul class="notes">{notes}</ul>' if notes else "",
            *_systems(content["systems"]),
            *_differences(content["differences"]),
            *_settings(content["settings"]),
            "</main>\n</body>\n</html>\n",
        ]
    )


def _systems(systems: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Iterator[str]:
    yield "<h2>Systems</h2>"
    yield (
        '<p class="soft">Each dot is a mean over questions, each bar its 95 % interval: where the mean would '
        "lie with other questions and documents of the same kind. The scale runs from 0 to 1, or to the "
        "greatest value where that is above 1.</p>"
    )
    yield _table_head("measure", "system", "", "mean", "95 % interval", "questions")
    for measure, rows in _by_measure(systems):
        top = max(1.0, *(estimate.high for _, estimate in rows))
        yield "<tbody>"
        for i, (system, estimate) in enumerate(rows):
            first = f'<th scope="rowgroup" rowspan="{len(rows)}">{escape(measure)}</th>' if i == 0 else ""
            yield (
                f'<tr>{first}<th scope="row">{escape(system)}</th><td>{_bar(estimate, 0.0, top)}</td>'
                f'<td class="number">{_number(estimate.value)}</td>'
                f'<td class="range">{_number(estimate.low)} to {_number(estimate.high)}</td>'
                f'<td class="count">{estimate.n:,}</td></tr>'
            )
        yield "</tbody>"
    yield "</table></div>"


def _differences(differences: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Iterator[str]:
    if not differences:
        return
    yield "<h2>Differences</h2>"
    yield (
        '<p class="soft">Both systems on the same questions. Where the bar crosses the line at zero, the '
        "difference lies within the noise and these questions cannot tell the two apart.</p>"
    )
    yield _table_head("measure", "", "by", "95 % interval", "verdict")
    for pair, measures in differences.items():
        yield "<tbody>"
        yield f'<tr><th scope="rowgroup" colspan="5">{escape(pair)}</th></tr>'
        for measure, values in measures.items():
            estimate = Estimate(**values)
            reach = _reach(differences, measure)
            yield (
                f"<tr{'' if estimate.beyond_noise else ' class=noise'}>"
                f'<th scope="row">{escape(measure)}</th><td>{_bar(estimate, -reach, reach)}</td>'
                f'<td class="number">{_number(estimate.value, signed=True)}</td>'
                f'<td class="range">{_number(estimate.low, signed=True)} to '
                f"{_number(estimate.high, signed=True)}</td>"
                f'<td class="verdict">{escape(_verdict(pair, estimate))}</td></tr>'
            )
        yield "</tbody>"
    yield "</table></div>"


def _verdict(pair: str, estimate: Estimate) -> str:
    if estimate.beyond_noise:
        return f"{pair.partition(' - ')[0]} is {'higher' if estimate.value > 0 else 'lower'}"
    needed = questions_to_tell(estimate)
    if needed is None or needed > 1000 * estimate.n:
        return "no difference"
    return f"within the noise; about {_round_up(max(needed, estimate.n + 1)):,} questions would tell"


def _settings(settings: Mapping[str, Any]) -> Iterator[str]:
    if settings:
        yield "<details><summary>Settings</summary>\n<dl>"
        for name, value in _flat(settings):
            yield f"<dt>{escape(name)}</dt><dd>{escape(str(value))}</dd>"
        yield "</dl></details>"


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + str(name), value


def _table_head(*names: str) -> str:
    right = ("mean", "by", "95 % interval", "questions")
    cells = "".join(f"<th{' class=right' if name in right else ''}>{name}</th>" for name in names)
    return f'<div class="wide"><table><thead><tr>{cells}</tr></thead>'


def _by_measure(
    systems: Mapping[str, Mapping[str, Mapping[str, Any]]],
) -> Iterator[tuple[str, list[tuple[str, Estimate]]]]:
    for measure in dict.fromkeys(measure for measures in systems.values() for measure in measures):
        rows = [(name, Estimate(**found[measure])) for name, found in systems.items() if measure in found]
        yield measure, rows


def _reach(differences: Mapping[str, Mapping[str, Mapping[str, Any]]], measure: str) -> float:
    """Half the scale that a measure's differences are drawn on: one for all within 1, else its own."""
    reach: dict[str, float] = {}
    for measures in differences.values():
        for name, values in measures.items():
            reach[name] = max(reach.get(name, 0.05), abs(values["low"]), abs(values["high"]))
    own = reach[measure]
    return 1.05 * (own if own > 1 else max(value for value in reach.values() if value <= 1))


def _bar(estimate: Estimate, low: float, high: float) -> str:
    """The interval as a bar with a dot at the value, on a scale with a line at each quarter and at 0."""

    def x(value: float) -> float:
        return round(6 + (min(max(value, low), high) - low) / (high - low) * (WIDTH - 12), 1)

    def line(at: float, name: str) -> str:
        return f'<line class="{name}" x1="{at}" x2="{at}" y1="0" y2="{HEIGHT}"/>'

    quarters = "".join(line(x(low + (high - low) * i / 4), "axis") for i in range(5))
    zero = line(x(0.0), "zero") if low < 0 else ""
    label = f"{_number(estimate.value)}, from {_number(estimate.low)} to {_number(estimate.high)}"
    return (
        f'<svg role="img" aria-label="{label}" '
        f'width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}">'
        f'{quarters}{zero}<rect class="band" x="{x(estimate.low)}" y="{HEIGHT / 2 - 3}" rx="3" height="6" '
        f'width="{max(1.0, round(x(estimate.high) - x(estimate.low), 1))}"/>'
        f'<circle class="dot" cx="{x(estimate.value)}" cy="{HEIGHT / 2}" r="4"/></svg>'
    )


def _number(value: float, *, signed: bool = False) -> str:
    text = f"{abs(value):.3f}" if abs(value) < 10 else f"{abs(value):,.0f}"
    sign = "−" if value < 0 else "+" if signed else ""
    return text if float(text.replace(",", "")) == 0 else sign + text


def _round_up(count: int) -> int:
    """To two figures: an estimate of this kind has no more."""
    step = int(10 ** max(0, len(str(count)) - 2))
    return -(-count // step) * step
