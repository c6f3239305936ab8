"""Small multiples over time as one SVG, written by hand so that nothing has to be installed for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT, COLUMNS = 420, 150, 2
LEFT, TOP, RIGHT, BOTTOM = 62, 30, 14, 24


def svg(
    title: str, seconds: Sequence[float], series: Mapping[str, Sequence[float]], marks: Sequence[float] = ()
) -> str:
    """One panel for each series over `seconds`, from 0 to its maximum, with upright lines at `marks`."""
    rows = -(-len(series) // COLUMNS)
    width, height = COLUMNS * WIDTH, rows * HEIGHT + 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" '
        'font-size="11" fill="#222">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="12" y="22" font-size="14">{escape(title)}</text>',
    ]
    for index, (name, values) in enumerate(series.items()):
        x, y = index % COLUMNS * WIDTH, index // COLUMNS * HEIGHT + 40
        parts.append(f'<g transform="translate({x} {y})">{_panel(name, seconds, values, marks)}</g>')
    return "\n".join([*parts, "</svg>\n"])


def _panel(name: str, seconds: Sequence[float], values: Sequence[float], marks: Sequence[float]) -> str:
    top, end = max(max(values), 1e-9), max(seconds[-1], 1e-9)
    inner, tall = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def across(second: float) -> float:
        return LEFT + inner * second / end

    def up(value: float) -> float:
        return TOP + tall * (1 - value / top)

    points = " ".join(f"{across(at):.1f},{up(value):.1f}" for at, value in zip(seconds, values, strict=True))
    lines = [
        f'<text x="{LEFT}" y="{TOP - 8}" font-weight="bold">{escape(name)}</text>',
        f'<text x="{LEFT - 6}" y="{TOP + 8}" text-anchor="end">{top:,.4g}</text>',
        f'<text x="{LEFT - 6}" y="{TOP + tall}" text-anchor="end">0</text>',
        f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 8}" text-anchor="end">{end:,.0f} s</text>',
        f'<path d="M{LEFT} {TOP}V{TOP + tall}H{WIDTH - RIGHT}" fill="none" stroke="#999"/>',
        *(f'<path d="M{across(at):.1f} {TOP}V{TOP + tall}" stroke="#c66" stroke-dasharray="3 3"/>' for at in marks),
        f'<polyline points="{points}" fill="none" stroke="#27c" stroke-width="1.2"/>',
    ]
    return "".join(lines)
