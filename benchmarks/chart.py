"""Lines over two logarithmic axes, as a small SVG."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 460, 330  # of a panel
LEFT, RIGHT, TOP, BOTTOM = 60, 34, 46, 46  # its margins
COLOURS = ("#c2410c", "#1d4ed8", "#15803d", "#7e22ce")
INK, PALE = "#1f2937", "#d1d5db"


@dataclass(frozen=True)
class Point:
    """A measurement, with the least and the most of its runs."""

    x: float
    y: float
    low: float
    high: float


@dataclass(frozen=True)
class Line:
    """Measurements that belong together."""

    name: str
    points: Sequence[Point]
    dashed: bool = False


@dataclass(frozen=True)
class Panel:
    """One pair of axes."""

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]


def drawn(panels: Sequence[Panel]) -> str:
    """The panels side by side."""
    width = WIDTH * len(panels)
    body = "".join(
        f'<g transform="translate({WIDTH * number},0)">{_panel(panel)}</g>\n' for number, panel in enumerate(panels)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {HEIGHT}" width="{width}" height="{HEIGHT}" '
        f'font-family="system-ui, sans-serif" font-size="12" fill="{INK}">\n'
        f'<rect width="{width}" height="{HEIGHT}" fill="#ffffff"/>\n{body}</svg>\n'
    )


def _panel(panel: Panel) -> str:
    lines = [[p for p in line.points if p.y > 0] for line in panel.lines]  # what is lost in the noise has no logarithm
    shown = [p for points in lines for p in points]
    x_ends = _decades([p.x for p in shown])
    y_ends = _decades([value for p in shown for value in (p.y, p.high, max(p.low, p.y / 3))])

    def at_x(value: float) -> float:
        return LEFT + _share(value, x_ends) * (WIDTH - LEFT - RIGHT)

    def at_y(value: float) -> float:
        return HEIGHT - BOTTOM - _share(value, y_ends) * (HEIGHT - TOP - BOTTOM)

    parts = [_text(14, 18, panel.title, "start", weight="600")]
    for power in range(x_ends[0], x_ends[1] + 1):
        x = at_x(10.0**power)
        parts += [_rule(x, TOP, x, HEIGHT - BOTTOM), _text(x, HEIGHT - BOTTOM + 16, _number(power), "middle")]
    for power in range(y_ends[0], y_ends[1] + 1):
        y = at_y(10.0**power)
        parts += [_rule(LEFT, y, WIDTH - RIGHT, y), _text(LEFT - 6, y + 4, _number(power), "end")]
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, panel.x_label, "middle"))
    parts.append(_text(14, 36, panel.y_label, "start"))
    for line, points, colour in zip(panel.lines, lines, COLOURS, strict=False):
        if not points:
            continue
        path = " ".join(f"{at_x(p.x):.1f},{at_y(p.y):.1f}" for p in points)
        dash = ' stroke-dasharray="5 4"' if line.dashed else ""
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>')
        for p in points if not line.dashed else ():
            low = max(p.low, 10.0 ** y_ends[0])
            if p.high > low:
                parts.append(_rule(at_x(p.x), at_y(low), at_x(p.x), at_y(p.high), colour))
            parts.append(f'<circle cx="{at_x(p.x):.1f}" cy="{at_y(p.y):.1f}" r="3.2" fill="{colour}"/>')
        named = points[len(points) // 2]
        anchor = "end" if points[-1].y > 3 * points[0].y else "middle"  # above a line, left of a rising one
        parts.append(_text(at_x(named.x), at_y(named.y) - 10, line.name, anchor, colour, "600"))
    return "\n".join(parts)


def _decades(values: Sequence[float]) -> tuple[int, int]:
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return low, max(high, low + 1)


def _share(value: float, ends: tuple[int, int]) -> float:
    return (math.log10(value) - ends[0]) / (ends[1] - ends[0])


def _number(power: int) -> str:
    return f"{10**power:,}" if power >= 0 else f"{10.0**power:.{-power}f}"


def _text(x: float, y: float, text: str, anchor: str, colour: str = INK, weight: str = "400") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}" font-weight="{weight}">'
        f"{escape(text)}</text>"
    )


def _rule(x1: float, y1: float, x2: float, y2: float, colour: str = PALE) -> str:
    return f'<path d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}" stroke="{colour}"/>'
