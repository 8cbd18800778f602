"""Plots as SVG, drawn by the server: geometry is in attributes and colours in the style sheet, as the policy wants it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import floor, log10

from markupsafe import Markup, escape

from absurd.web.dashboard.format import compact

# Units of the drawing; the style sheet scales it.
WIDTH, HEIGHT = 720, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 6, 12, 26
_INNER_WIDTH, _INNER_HEIGHT = WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM
# Labels below the plot.
_LABELS = 5


@dataclass(frozen=True, slots=True)
class Series:
    """One row of numbers. ``name`` is its class and its word in the title of a bar."""

    name: str
    values: Sequence[float]


def bars(series: Sequence[Series], start: datetime, width: timedelta, label: str) -> Markup:
    """Stacked bars over time."""
    totals = [sum(values) for values in zip(*(one.values for one in series), strict=True)]
    top = nice_top(max(totals, default=0))
    step = _INNER_WIDTH / max(len(totals), 1)
    # There is no half of a task.
    parts = [*_axes(top, lambda number: compact(number) if number == int(number) else "", start, width, len(totals))]
    for index, total in enumerate(totals):
        if total <= 0:
            continue
        at = start + index * width
        said = ", ".join(f"{compact(one.values[index])} {one.name}" for one in series if one.values[index] > 0)
        parts.append(f"<g><title>{escape(_span(at, width))}: {escape(said)}</title>")
        y = float(_TOP + _INNER_HEIGHT)
        for one in series:
            height = one.values[index] / top * _INNER_HEIGHT
            if height <= 0:
                continue
            height = max(height, 1.5)
            y -= height
            parts.append(
                f'<rect class="bar-{one.name}" x="{_LEFT + index * step + step * 0.1:.1f}" y="{y:.1f}" '
                f'width="{step * 0.8:.1f}" height="{height:.1f}" rx="1" />'
            )
        parts.append("</g>")
    return _svg(parts, label)


def share(values: Sequence[float | None], start: datetime, width: timedelta, label: str, name: str = "failed") -> Markup:
    """Shares between 0 and 1 as a line with the area below it; where there is ``None`` it is broken."""
    known = [value for value in values if value is not None]
    top = min(nice_top(max(known, default=0)) if any(known) else 0.05, 1.0)
    step = _INNER_WIDTH / max(len(values), 1)
    parts = [*_axes(top, lambda number: f"{number * 100:.3g}%", start, width, len(values))]
    for begin, run in _runs(values):
        points = [
            (_LEFT + (begin + offset + 0.5) * step, _TOP + _INNER_HEIGHT - value / top * _INNER_HEIGHT)
            for offset, value in enumerate(run)
        ]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        base = _TOP + _INNER_HEIGHT
        parts.append(f'<polygon class="area-{name}" points="{points[0][0]:.1f},{base} {line} {points[-1][0]:.1f},{base}" />')
        parts.append(f'<polyline class="line-{name}" points="{line}" />')
        if len(points) == 1:
            parts.append(f'<circle class="dot-{name}" cx="{points[0][0]:.1f}" cy="{points[0][1]:.1f}" r="2.5" />')
    for index, value in enumerate(values):
        if value is not None:
            said = f"{_span(start + index * width, width)}: {value * 100:.3g}% {name}"
            parts.append(
                f'<rect class="touch" x="{_LEFT + index * step:.1f}" y="{_TOP}" width="{step:.1f}" height="{_INNER_HEIGHT}">'
                f"<title>{escape(said)}</title></rect>"
            )
    return _svg(parts, label)


def sparkline(values: Sequence[float], label: str) -> Markup:
    """A small line without axes, for a row of a table."""
    if not any(values):
        return Markup('<span class="none">–</span>')
    top, width, height = max(values), 96, 22
    step = width / max(len(values) - 1, 1)
    line = " ".join(f"{index * step:.1f},{height - 1 - value / top * (height - 2):.1f}" for index, value in enumerate(values))
    return Markup(
        f'<svg class="spark" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">'
        f'<polygon points="0,{height} {line} {width},{height}" /><polyline points="{line}" /></svg>'
    )


def nice_top(value: float) -> float:
    """The end of an axis: the next of 1, 2, 5 × 10ⁿ."""
    if value <= 0:
        return 1.0
    unit = 10.0 ** floor(log10(value))
    return float(next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= value * 0.9999))


def _axes(top: float, written: object, start: datetime, width: timedelta, count: int) -> list[str]:
    assert callable(written)
    parts = []
    for part in (0.0, 0.5, 1.0):
        y = _TOP + _INNER_HEIGHT * (1 - part)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" />')
        text = escape(written(top * part)) if part else "0"
        parts.append(f'<text class="axis" x="{_LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{text}</text>')
    for index in range(_LABELS):
        at = start + count * width * index / (_LABELS - 1)
        anchor = "start" if index == 0 else "end" if index == _LABELS - 1 else "middle"
        x = _LEFT + _INNER_WIDTH * index / (_LABELS - 1)
        parts.append(f'<text class="axis" x="{x:.1f}" y="{HEIGHT - 6}" text-anchor="{anchor}">{_tick(at, count * width)}</text>')
    return parts


def _tick(at: datetime, span: timedelta) -> str:
    return f"{at.astimezone(UTC):%b %d}" if span > timedelta(days=2) else f"{at.astimezone(UTC):%H:%M}"


def _span(at: datetime, width: timedelta) -> str:
    at, end = at.astimezone(UTC), (at + width).astimezone(UTC)
    return f"{at:%b %d %H:%M}–{end:%H:%M} UTC" if width >= timedelta(minutes=1) else f"{at:%H:%M:%S}–{end:%H:%M:%S} UTC"


def _runs(values: Sequence[float | None]) -> list[tuple[int, list[float]]]:
    """The unbroken pieces, with where they begin."""
    found: list[tuple[int, list[float]]] = []
    for index, value in enumerate(values):
        if value is None:
            continue
        if found and found[-1][0] + len(found[-1][1]) == index:
            found[-1][1].append(value)
        else:
            found.append((index, [value]))
    return found


def _svg(parts: Sequence[str], label: str) -> Markup:
    return Markup(
        f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'
    )
