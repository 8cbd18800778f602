"""Plots as plain SVG: one bar per variant on a logarithmic scale, with the range of the rounds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from bench.results import Spread

WIDTH, LEFT, RIGHT, ROW, TOP = 760, 230, 150, 26, 44
OURS, THEIRS, RANGE, TEXT, GRID = "#1f6feb", "#8b949e", "#24292f", "#57606a", "#d0d7de"
FONT = 'font-family="system-ui, sans-serif" font-size="13"'


@dataclass(frozen=True)
class Bar:
    """A bar: its name, its value with its range, the text beside it, and whether it is this library's."""

    name: str
    spread: Spread
    text: str
    ours: bool


def bars(title: str, rows: Sequence[Bar]) -> str:
    """A plot; its background is transparent, its text grey, so that it is readable in light and dark."""
    low = min(bar.spread.low for bar in rows)
    high = max(bar.spread.high for bar in rows)
    first, last = math.floor(math.log10(max(low, 1e-6)) - 0.01), math.ceil(math.log10(max(high, 1e-6)))
    height = TOP + ROW * len(rows) + 12

    def place(value: float) -> float:
        share = (math.log10(max(value, 1e-6)) - first) / max(last - first, 1)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img">',
        f"<title>{escape(title)}</title>",
        f'<text x="8" y="20" {FONT} font-weight="bold" fill="{TEXT}">{escape(title)}</text>',
    ]
    parts += [_line(place(10.0**power), TOP - 6, height - 8, _power(power)) for power in range(first, last + 1)]
    for number, bar in enumerate(rows):
        parts.append(_bar(bar, TOP + ROW * number, LEFT, place))
    return "\n".join([*parts, "</svg>\n"])


def _line(x: float, top: float, bottom: float, label: str) -> str:
    return (
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}" stroke="{GRID}" stroke-width="1"/>'
        f'<text x="{x:.1f}" y="{top - 4}" {FONT} fill="{TEXT}" text-anchor="middle">{label}</text>'
    )


def _bar(bar: Bar, y: float, left: float, place: object) -> str:
    assert callable(place)
    end, low, high = (place(value) for value in (bar.spread.median, bar.spread.low, bar.spread.high))
    middle, colour = y + ROW / 2, OURS if bar.ours else THEIRS
    return (
        f'<text x="{left - 8}" y="{middle + 4:.1f}" {FONT} fill="{TEXT}" text-anchor="end">{escape(bar.name)}</text>'
        f'<rect x="{left}" y="{y + 5}" width="{max(end - left, 1):.1f}" height="{ROW - 10}" fill="{colour}"/>'
        f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{middle}" y2="{middle}" stroke="{RANGE}" stroke-width="2"/>'
        f'<text x="{max(end, high) + 6:.1f}" y="{middle + 4:.1f}" {FONT} fill="{TEXT}">{escape(bar.text)}</text>'
    )


def _power(power: int) -> str:
    return f"{10**power:,}" if power >= 0 else f"{10.0**power:g}"
