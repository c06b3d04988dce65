"""Plots as inline SVG, coloured by the style sheet of the page that they stand in."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

Point = tuple[float, float]

# of the line chart, in units of its view box; the text must be legible on a telephone
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 480, 300, 58, 24, 10, 50
# of the heat map
CELL, SHADES = 12, 16
# units that a character of a label is wide, about
CHARACTER = 5.5


@dataclass(frozen=True, kw_only=True)
class Series:
    """A line of a chart.

    Args:
        name: shown where the pointer rests on a point.
        points: x and y, in order of x; what is not finite is left out.
        colour: number of the colour, `--series-0`, … of the style sheet.
        marked: each point has a mark; otherwise the line is thin.
    """

    name: str
    points: Sequence[Point]
    colour: int
    marked: bool = False


def line_chart(series: Iterable[Series], *, x_label: str, y_label: str) -> str:
    """Lines over two linear axes.

    Points that fall on the same tenth of a unit are drawn as their mean.

    Raises:
        ValueError: there is no point.
    """
    drawn = [(each, [point for point in each.points if _is_finite(point)]) for each in series]
    everything = [point for _, points in drawn for point in points]
    if not everything:
        raise ValueError(f"there is nothing to draw of {y_label}")
    x_ticks = ticks(min(0, *(x for x, _ in everything)), max(x for x, _ in everything))
    y_ticks = ticks(min(y for _, y in everything), max(y for _, y in everything))

    def place(point: Point) -> Point:
        x, y = point
        return (
            LEFT + (x - x_ticks[0]) / (x_ticks[-1] - x_ticks[0]) * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0]) * _inner_height(),
        )

    parts = [
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(y_label)} against {escape(x_label)}">'
    ]
    for tick in y_ticks:
        _, y = place((x_ticks[0], tick))
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(_text(LEFT - 6, y + 4, short_number(tick), "end"))
    for tick in x_ticks:
        x, _ = place((tick, y_ticks[0]))
        parts.append(f'<path class="grid" d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}"/>')
        parts.append(_text(x, HEIGHT - BOTTOM + 18, short_number(tick), "middle"))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, x_label, "middle"))
    middle = TOP + _inner_height() / 2
    parts.append(
        f'<text transform="translate(14 {middle:.0f}) rotate(-90)" text-anchor="middle">'
        f"{escape(y_label)}</text>"
    )
    for each, points in drawn:
        style = f"--colour:var(--series-{each.colour})"
        kind = "line marked" if each.marked else "line"
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in _thinned(map(place, points)))
        if len(points) > 1:
            parts.append(f'<path class="{kind}" style="{style}" d="M{path}"/>')
        for point in points if each.marked or len(points) == 1 else ():
            x, y = place(point)
            title = f"{each.name}: {point[1]:.4g} at {short_number(point[0])} {x_label}"
            parts.append(
                f'<circle class="mark" style="{style}" cx="{x:.1f}" cy="{y:.1f}" r="3.5">'
                f"<title>{escape(title)}</title></circle>"
            )
    return "".join([*parts, "</svg>"])


def heat_map(weights: Sequence[Sequence[float]], labels: Sequence[str], *, title: str) -> str:
    """A square of numbers as shades, the largest the darkest; row and column have the labels.

    Args:
        weights: rows of numbers ≥ 0, as many as labels.
        labels: of rows and columns alike.
        title: read aloud in place of the picture.
    """
    margin = 8 + CHARACTER * max(map(len, labels))
    side = CELL * len(labels)
    most = max(map(max, weights)) or 1.0
    shades: list[list[str]] = [[] for _ in range(SHADES + 1)]
    for row, numbers in enumerate(weights):
        for column, number in enumerate(numbers):
            shade = round(number / most * SHADES)
            shades[shade].append(f"M{margin + CELL * column:g} {CELL * row}h{CELL}v{CELL}h-{CELL}z")
    size = side + margin
    parts = [
        f'<svg class="map" viewBox="0 0 {size:g} {size:g}" role="img" aria-label="{escape(title)}">'
        f'<path class="frame" d="M{margin:g} 0h{side}v{side}h-{side}z"/>'
    ]
    parts += [
        f'<path class="cells" opacity="{shade / SHADES:.3g}" d="{"".join(cells)}"/>'
        for shade, cells in enumerate(shades)
        if cells and shade
    ]
    for index, label in enumerate(labels):
        centre = CELL * (index + 0.5) + 3
        parts.append(_text(margin - 4, centre, label, "end"))
        parts.append(
            f'<text transform="translate({margin + centre:g} {side + 4}) rotate(-90)" '
            f'text-anchor="end">{escape(label)}</text>'
        )
    return "".join([*parts, "</svg>"])


def ticks(low: float, high: float, *, about: int = 5) -> list[float]:
    """Round numbers, evenly spaced, the first at most `low` and the last at least `high`."""
    if high <= low:
        high = low + (abs(low) or 1.0)
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, last + 1)]


def short_number(number: float) -> str:
    """Three significant digits and k, M or G: 1.5M."""
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.3g}{suffix}"
    return f"{number:.3g}"


def _inner_height() -> int:
    return HEIGHT - TOP - BOTTOM


def _is_finite(point: Point) -> bool:
    return all(map(math.isfinite, point))


def _thinned(points: Iterable[Point]) -> list[Point]:
    columns: dict[str, list[float]] = {}
    for x, y in points:
        columns.setdefault(f"{x:.1f}", []).append(y)
    return [(float(x), sum(heights) / len(heights)) for x, heights in columns.items()]


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
