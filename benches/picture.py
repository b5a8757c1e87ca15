"""Small line charts as one SVG, readable in light and dark: panels with logarithmic axes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from html import escape
from typing import NamedTuple

COLUMNS = 3
WIDTH, HEIGHT = 320, 270
# Around the lines of a panel: for its titles, for the numbers of its axes.
LEFT, TOP, RIGHT, BOTTOM = 46, 52, 28, 48
HEAD = 74
MARK = 3.5

STYLE = """
text { font: 11px system-ui, "DejaVu Sans", sans-serif; fill: #24292f }
.back { fill: #ffffff }
.title { font-size: 17px; font-weight: 600 }
.question { font-size: 13px; font-weight: 600 }
.quiet { fill: #57606a }
.grid { stroke: #d8dee4; stroke-width: 1 }
.line { fill: none; stroke-width: 2 }
.s-one { stroke: #0969da } .f-one { fill: #0969da }
.s-two { stroke: #bc4c00 } .f-two { fill: #bc4c00 }
.s-three { stroke: #8250df } .f-three { fill: #8250df }
.s-floor { stroke: #6e7781; stroke-dasharray: 4 3 } .f-floor { fill: #6e7781 }
.s-none { stroke: #6e7781; stroke-dasharray: 1 3 } .f-none { fill: #6e7781 }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 }
.back { fill: #0d1117 }
.quiet { fill: #9198a1 }
.grid { stroke: #30363d }
.s-one { stroke: #58a6ff } .f-one { fill: #58a6ff }
.s-two { stroke: #f0883e } .f-two { fill: #f0883e }
.s-three { stroke: #bc8cff } .f-three { fill: #bc8cff }
.s-floor, .s-none { stroke: #9198a1 } .f-floor, .f-none { fill: #9198a1 }
}
"""


class Style(NamedTuple):
    """How a line looks: a class of the style sheet, the shape of its points, its words."""

    name: str
    shape: str
    words: str = ""


class Line(NamedTuple):
    name: str
    points: list[tuple[float, float]]


class Panel(NamedTuple):
    """A question, what the axes are, what answers it, and words beside some points."""

    title: str
    y_label: str
    x_label: str
    lines: list[Line]
    notes: Iterable[tuple[float, float, str]] = ()


class Axis:
    """From values to places, logarithmic."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self.low, self.high = low, high
        self.start, self.end = start, end

    def place(self, value: float) -> float:
        part = math.log(value / self.low) / math.log(self.high / self.low)
        return self.start + part * (self.end - self.start)


def _steps(values: list[float]) -> list[float]:
    """Numbers for an axis that has these values: powers of ten, or 1, 2, 5 and so on."""
    # A little beyond the last number does no harm.
    low, high = min(values) * 1.05, max(values) / 1.05
    steps = [digit * 10.0**power for power in range(-6, 12) for digit in (1, 2, 5)]
    if high / low > 20:
        steps = steps[::3]
    first = max(number for number, step in enumerate(steps) if step <= low)
    return steps[first : 1 + next(n for n, step in enumerate(steps) if step >= high and n > first)]


def draw(title: str, subtitle: str, panels: list[Panel], styles: dict[str, Style]) -> str:
    rows = math.ceil(len(panels) / COLUMNS)
    width, height = COLUMNS * WIDTH, HEAD + rows * HEIGHT
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"'
        f' width="{width}" height="{height}" role="img">',
        f"<title>{escape(title)}</title>",
        f"<style>{STYLE}</style>",
        f'<rect class="back" width="{width}" height="{height}"/>',
        _text(14, 24, title, "title"),
        _text(14, 42, subtitle, "quiet"),
        *_legend(styles),
    ]
    for number, panel in enumerate(panels):
        row, column = divmod(number, COLUMNS)
        lines += [
            f'<g transform="translate({column * WIDTH} {HEAD + row * HEIGHT})">',
            *_panel(panel, styles),
            "</g>",
        ]
    return "\n".join([*lines, "</svg>", ""])


def _legend(styles: dict[str, Style]) -> list[str]:
    lines, x = [], 14.0
    for name, style in styles.items():
        words = style.words or name
        lines += [_path([(x, 58), (x + 22, 58)], style), _mark(x + 11, 58, style)]
        lines.append(_text(x + 27, 62, words))
        x += 27 + 6.1 * len(words) + 12
    return lines


def _panel(panel: Panel, styles: dict[str, Style]) -> list[str]:
    points = [point for line in panel.lines for point in line.points if min(point) > 0]
    lines = [
        _text(14, 22, panel.title, "question"),
        _text(14, 38, panel.y_label, "quiet"),
        _text(LEFT, HEIGHT - 14, panel.x_label, "quiet"),
    ]
    if not points:
        return [*lines, _text(LEFT, HEIGHT / 2, "not measured")]
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    # Across, what was measured; up, round numbers.
    measured = sorted({x for x, _ in points})
    across = Axis(measured[0], max(measured[-1], measured[0] * 1.01), LEFT, right)
    steps = _steps([y for _, y in points])
    up = Axis(steps[0], steps[-1], bottom, TOP)
    for value in measured:
        x = across.place(value)
        lines.append(f'<path class="grid" d="M{x:.1f} {TOP}V{bottom}"/>')
        lines.append(_text(x, bottom + 15, _number(value), "quiet", "middle"))
    for value in steps:
        y = up.place(value)
        lines.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{right}"/>')
        lines.append(_text(LEFT - 5, y + 4, _number(value), "quiet", "end"))
    # The first line is the one that matters: it is drawn last.
    for line in reversed(panel.lines):
        style = styles[line.name]
        places = [(across.place(x), up.place(y)) for x, y in line.points if min(x, y) > 0]
        if places:
            lines.append(_path(places, style))
        lines += [_mark(x, y, style) for x, y in places]
    for x, y, words in panel.notes:
        lines.append(_text(across.place(x), up.place(y) + 18, words, "", "middle"))
    return lines


def _number(value: float) -> str:
    if value >= 1e6:
        return f"{value / 1e6:g}M"
    if value >= 1e5:
        return f"{value / 1e3:g}k"
    return f"{value:,.0f}" if value >= 10 else f"{value:g}"


def _text(x: float, y: float, words: str, style: str = "", anchor: str = "start") -> str:
    kind = f' class="{style}"' if style else ""
    kind += f' text-anchor="{anchor}"' if anchor != "start" else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{kind}>{escape(words)}</text>'


def _path(places: list[tuple[float, float]], style: Style) -> str:
    steps = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    return f'<path class="line s-{style.name}" d="M{steps}"/>'


def _mark(x: float, y: float, style: Style) -> str:
    if style.shape == "circle":
        return f'<circle class="f-{style.name}" cx="{x:.1f}" cy="{y:.1f}" r="{MARK}"/>'
    shape = {
        "square": f"M{x - MARK:.1f} {y - MARK:.1f}h{2 * MARK}v{2 * MARK}h{-2 * MARK}z",
        "triangle": f"M{x:.1f} {y - MARK - 1:.1f}l{MARK + 1} {2 * MARK}h{-2 * MARK - 2}z",
        "cross": (
            f"M{x - MARK:.1f} {y - 1:.1f}h{2 * MARK}v2h{-2 * MARK}z"
            f"M{x - 1:.1f} {y - MARK:.1f}h2v{2 * MARK}h-2z"
        ),
    }[style.shape]
    return f'<path class="f-{style.name}" d="{shape}"/>'
