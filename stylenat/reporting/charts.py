"""A chart of a few curves as SVG, and the numbers that the page's script shows on it.

Coordinates are those of the SVG's own box, WIDTH x HEIGHT, y downwards.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from stylenat.reporting.facts import Point
from stylenat.reporting.markup import Markup, number, tag

WIDTH, HEIGHT = 440, 240
LEFT, RIGHT, TOP, BOTTOM = 66, 430, 10, 204
MOST_POINTS = 600  # of a curve
MOST_DOTS = 40  # a curve of at most so many points shows each of them
ENOUGH_POINTS = 50  # to tell strays from the rest
SMALLEST = 1e-200  # below it, numbers lose their digits
STYLES = 6  # colours and dashes in the style sheet


@dataclass(frozen=True)
class Curve:
    """Points in the order in which they are joined; `names` says what each stands for."""

    name: str
    points: Sequence[Point]
    names: Sequence[str] = ()


@dataclass(frozen=True)
class Chart:
    """Curves over one pair of axes. `about` is a sentence for the reader."""

    title: str
    about: str
    x_label: str
    y_label: str
    curves: Sequence[Curve] = field(default_factory=tuple)
    is_log: bool = False


@dataclass(frozen=True)
class Axis:
    """Where values from `low` to `high` lie between `start` and `end` of the picture."""

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False

    def at(self, value: float) -> float:
        low, high = self._scaled(self.low), self._scaled(self.high)
        share = (self._scaled(value) - low) / (high - low)
        # A stray is far outside the picture, and still a number that every browser takes.
        return self.start + min(max(share, -50.0), 50.0) * (self.end - self.start)

    def _scaled(self, value: float) -> float:
        return math.log10(value) if self.is_log else value

    def ticks(self) -> list[float]:
        """Round values within the axis."""
        if not self.is_log:
            return _round_values(self.low, self.high)
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        step = max(1, -(-(last - first) // 5))
        digits = (1, 2, 5) if last - first < 3 else (1,)
        values = [digit * 10.0**power for power in range(first, last + 1, step) for digit in digits]
        found = [value for value in values if self.low <= value <= self.high]
        return found if len(found) > 1 else _round_values(self.low, self.high)


def _round_values(low: float, high: float) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten, three to seven of them."""
    rough = (high - low) / 7
    power = 10.0 ** math.floor(math.log10(rough))
    step = next((digit * power for digit in (1, 2, 5) if digit * power >= rough), 10 * power)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{index * step:.12g}") for index in range(first, last + 1)]


def thinned(points: Sequence[Point], most: int = MOST_POINTS) -> list[Point]:
    """At most `most` points: of each stretch of the curve the lowest and the highest stay."""
    if len(points) <= most:
        return list(points)
    count = most // 2
    kept: list[Point] = []
    for part in range(count):
        stretch = range(part * len(points) // count, (part + 1) * len(points) // count)
        ends = {
            min(stretch, key=lambda index: points[index][1]),
            max(stretch, key=lambda index: points[index][1]),
        }
        kept += (points[index] for index in sorted(ends))
    return kept


def _axes(chart: Chart) -> tuple[Axis, Axis]:
    points = [point for curve in chart.curves for point in curve.points]
    room = 0.1 if any(curve.names for curve in chart.curves) else 0.0  # for the names
    low_x, high_x = _widened(*_ends([x for x, _ in points]), room)
    is_log = chart.is_log and all(y > SMALLEST for _, y in points)
    low_y, high_y = _ends(_without_strays([y for _, y in points]))
    if is_log:
        low_y, high_y = (low_y / 1.1, high_y * 1.1)
    else:
        low_y, high_y = _widened(low_y, high_y, 0.05 + room)
    return Axis(low_x, high_x, LEFT, RIGHT), Axis(low_y, high_y, BOTTOM, TOP, is_log)


def _ends(values: Sequence[float]) -> tuple[float, float]:
    return min(values), max(values)


def _widened(low: float, high: float, share: float) -> tuple[float, float]:
    if high - low <= max(1e-9 * max(abs(low), abs(high)), SMALLEST):
        room = abs(low) / 10
        return (low - room, high + room) if room > SMALLEST else (0.0, 1.0)
    return low - share * (high - low), high + share * (high - low)


def _without_strays(values: Sequence[float]) -> list[float]:
    """The values without the outermost of them, if these would press all others into a line."""
    ordered = sorted(values)
    cut = len(ordered) // 50
    if len(ordered) < ENOUGH_POINTS:
        return ordered
    kept = ordered[cut : len(ordered) - cut]
    is_pressed = ordered[-1] - ordered[0] > 4 * (kept[-1] - kept[0]) > 0
    return kept if is_pressed else ordered


def draw(chart: Chart, name: str) -> tuple[Markup, dict[str, Any]]:
    """The figure, and what the script needs: x, and the values of each curve at its points.

    `name` is an id that no other chart of the page has.
    """
    curves = [
        curve if curve.names else Curve(curve.name, thinned(curve.points)) for curve in chart.curves
    ]
    x_axis, y_axis = _axes(chart)
    lines = [_line(curve, index, x_axis, y_axis) for index, curve in enumerate(curves)]
    svg = tag(
        "svg",
        tag("clipPath", _box(), id=f"{name}-box"),
        _grid(chart, x_axis, y_axis),
        tag("g", *lines, clip_path=f"url(#{name}-box)"),
        *(_names(curve, x_axis, y_axis) for curve in curves),
        tag("line", class_="cursor", y1=TOP, y2=BOTTOM, x1=LEFT, x2=LEFT, hidden=True),
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        tabindex="0",
        aria_label=f"{chart.title}: {', '.join(c.name for c in curves)} over {chart.x_label}",
    )
    figure = tag(
        "figure",
        tag("h4", chart.title),
        tag("p", chart.about, class_="about"),
        svg,
        _legend(curves),
        _strays(chart, y_axis),
        class_="chart",
        id=name,
    )
    return figure, {"x": chart.x_label, "curves": [_numbers(curve) for curve in curves]}


def _strays(chart: Chart, y_axis: Axis) -> Markup | None:
    """How many values the picture leaves out."""
    values = [y for curve in chart.curves for _, y in curve.points]
    count = sum(not y_axis.low <= y <= y_axis.high for y in values)
    text = "1 value lies" if count == 1 else f"{count:,} values lie"
    return tag("p", f"{text} outside the picture.", class_="about") if count else None


def _box() -> Markup:
    return tag("rect", x=LEFT - 4, y=TOP - 4, width=RIGHT - LEFT + 8, height=BOTTOM - TOP + 8)


def _grid(chart: Chart, x_axis: Axis, y_axis: Axis) -> Markup:
    parts = []
    for value in y_axis.ticks():
        y = f"{y_axis.at(value):.1f}"
        parts.append(tag("line", x1=LEFT, x2=RIGHT, y1=y, y2=y, class_="rule"))
        parts.append(tag("text", number(value), x=LEFT - 6, y=y, class_="y"))
    for value in x_axis.ticks():
        x = f"{x_axis.at(value):.1f}"
        parts.append(tag("line", x1=x, x2=x, y1=BOTTOM, y2=BOTTOM + 4, class_="tick"))
        parts.append(tag("text", number(value), x=x, y=BOTTOM + 16, class_="x"))
    parts.append(tag("line", x1=LEFT, x2=RIGHT, y1=BOTTOM, y2=BOTTOM, class_="tick"))
    middle = (TOP + BOTTOM) / 2
    parts.append(tag("text", chart.x_label, x=(LEFT + RIGHT) / 2, y=HEIGHT - 4, class_="x"))
    turned = f"rotate(-90 10 {middle:g})"
    parts.append(tag("text", chart.y_label, x=10, y=middle, class_="x", transform=turned))
    return tag("g", *parts)


def _line(curve: Curve, index: int, x_axis: Axis, y_axis: Axis) -> Markup:
    places = [(x_axis.at(x), y_axis.at(y)) for x, y in curve.points]
    style = f"s{index % STYLES}"
    joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    parts = [tag("polyline", points=joined, class_=f"curve {style}")]
    if len(places) <= MOST_DOTS:
        parts += [tag("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=3, class_=style) for x, y in places]
    parts.append(tag("circle", r=4.5, class_=f"mark {style}", hidden=True))
    return tag("g", *parts)


def _names(curve: Curve, x_axis: Axis, y_axis: Axis) -> Markup:
    """The names of the points, each above its point."""
    named = zip(curve.points, curve.names, strict=True) if curve.names else ()
    texts = (
        tag("text", name, x=f"{x_axis.at(x):.1f}", y=f"{y_axis.at(y) - 8:.1f}", class_="x")
        for (x, y), name in named
    )
    return tag("g", *texts)


def _legend(curves: Sequence[Curve]) -> Markup:
    keys = []
    where = curves[0].names[-1] if curves[0].names else "last value"
    for index, curve in enumerate(curves):
        dash = tag("line", x1=0, x2=26, y1=5, y2=5, class_=f"curve s{index % STYLES}")
        sample = tag("svg", dash, viewBox="0 0 26 10", class_="sample", aria_hidden="true")
        value = tag("b", number(curve.points[-1][1]), class_="value")
        keys.append(tag("span", sample, f" {curve.name} ", value, class_="key"))
    return tag("figcaption", tag("span", where, class_="where"), *keys)


def _numbers(curve: Curve) -> dict[str, Any]:
    xs, ys = zip(*curve.points, strict=True)
    named = {"names": list(curve.names)} if curve.names else {}
    return {"x": [number(x) for x in xs], "y": [number(y) for y in ys], **named}
