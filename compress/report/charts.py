"""Charts as SVG text: no script, no font, no file. Colours are CSS classes that the page defines for light and dark.

Each chart is drawn for a width in CSS pixels and scales down with its box; text keeps its size when the page chooses
the drawing that was made for its width.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

from compress.measures.pareto import optimal
from compress.measures.units import format_ms

Kind = Literal["teacher", "baseline", "stage", "shipped"]
CHARACTER_PX = 6.7  # of the page's 12 px text, on average
LINE_PX = 15.0
BESIDE_PX = 100.0  # of a waterfall's labels that stand beside their bars
LARGEST_BUBBLE_PX = 26.0
SMALLEST_BUBBLE_PX = 4.5


@dataclass(frozen=True, slots=True)
class Point:
    """A model in the scatter: milliseconds per call, accuracy with its interval in percent, bytes."""

    name: str
    kind: Kind
    latency_ms: float
    accuracy: float
    low: float
    high: float
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Spread:
    """How long one model's calls took, in milliseconds.

    ``quantiles_ms`` are evenly spaced from 0 to 100%, or empty; ``units_ms`` are medians of launches or rounds;
    ``tail`` is the highest percentile that the calls support, with its name, or None.
    """

    name: str
    kind: Kind
    median_ms: float
    quantiles_ms: Sequence[float]
    units_ms: Sequence[float]
    tail: tuple[str, float] | None


@dataclass(frozen=True, slots=True)
class Move:
    """One step of a waterfall: the value after it, and the text beside it."""

    name: str
    value: float
    text: str
    change: str
    good: bool | None


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle, for labels that must not cover each other."""

    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: "Box") -> float:
        """Return the common area."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return width * height if width > 0 and height > 0 else 0.0


def scatter(points: Sequence[Point], *, width: int, height: int, title: str, description: str, measure: str) -> str:
    """Return accuracy against latency: error bars, bubbles whose area is the file's size, the Pareto set as steps.

    Models far below all others (``floor_of``) stand on the lower edge with their value beside them.
    """
    left, right, top, bottom = 50.0, width - 14.0, 12.0, height - 44.0
    x_low, x_high = min(p.latency_ms for p in points), max(p.latency_ms for p in points)
    pad = max(1.12, (x_high / x_low) ** 0.08)
    x_low, x_high = x_low / pad, x_high * pad
    floor = floor_of([point.accuracy for point in points])
    inside = [point for point in points if point.accuracy >= floor]
    y_low, y_high = min(p.low for p in inside), max(p.high for p in inside)
    margin = 0.08 * max(y_high - y_low, 0.2)
    y_low, y_high = y_low - margin * (1 if len(inside) == len(points) else 2.5), min(y_high + margin, 100 + margin)

    def x_of(value: float) -> float:
        return left + (right - left) * math.log(value / x_low) / math.log(x_high / x_low)

    def y_of(value: float) -> float:
        return bottom - (bottom - top) * (max(value, y_low) - y_low) / (y_high - y_low)

    largest = max(point.size_bytes for point in points)
    best = optimal([(point.latency_ms, -point.accuracy) for point in points])
    parts = [_open(width, height, title, description)]
    for tick in log_ticks(x_low, x_high, most=max(4, width // 90)):
        parts.append(f'<line class="grid" x1="{x_of(tick):.1f}" x2="{x_of(tick):.1f}" y1="{top}" y2="{bottom}"/>')
        parts.append(_text(x_of(tick), bottom + 17, f"{tick:g}", anchor="middle", kind="tick"))
    for tick in linear_ticks(y_low, y_high, most=max(4, height // 70)):
        parts.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{y_of(tick):.1f}" y2="{y_of(tick):.1f}"/>')
        parts.append(_text(left - 7, y_of(tick) + 4, f"{tick:g}", anchor="end", kind="tick"))
    parts.append(_text((left + right) / 2, height - 8, "median latency, ms (log scale)", anchor="middle", kind="axis"))
    parts.append(
        f'<text class="axis" transform="translate(12 {(top + bottom) / 2:.0f}) rotate(-90)" text-anchor="middle">'
        f"{escape(measure)}, %</text>"
    )
    front = sorted((point for point, on in zip(points, best, strict=True) if on), key=lambda point: point.latency_ms)
    path = f"M{x_of(front[0].latency_ms):.1f} {y_of(front[0].accuracy):.1f}"
    for point in front[1:]:
        path += f"H{x_of(point.latency_ms):.1f}V{y_of(point.accuracy):.1f}"
    parts.append(f'<path class="front" d="{path}H{right:.1f}"/>')
    taken: list[Box] = []
    for point, on in sorted(zip(points, best, strict=True), key=lambda pair: -pair[0].size_bytes):
        x, y = x_of(point.latency_ms), y_of(point.accuracy)
        radius = max(SMALLEST_BUBBLE_PX, LARGEST_BUBBLE_PX * math.sqrt(point.size_bytes / largest))
        faded = "" if on or point.kind == "teacher" else " faded"
        parts.append(f'<g class="{point.kind}{faded}"><title>{escape(_describe(point))}</title>')
        if point.accuracy >= floor:
            y_top, y_bottom = y_of(point.high), y_of(point.low)
            parts.append(
                f'<path class="error" d="M{x:.1f} {y_top:.1f}V{y_bottom:.1f}'
                f'M{x - 4:.1f} {y_top:.1f}h8M{x - 4:.1f} {y_bottom:.1f}h8"/>'
            )
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}"/></g>')
        half = max(5.0, 0.8 * radius)
        taken.append(Box(x - half, y - half, x + half, y + half))
    frame = Box(left, top, right, bottom)
    order = {"shipped": 0, "teacher": 1}
    for point in sorted(points, key=lambda point: (order.get(point.kind, 2), point.latency_ms)):
        x, y = x_of(point.latency_ms), y_of(point.accuracy)
        radius = max(SMALLEST_BUBBLE_PX, LARGEST_BUBBLE_PX * math.sqrt(point.size_bytes / largest))
        label = point.name if point.accuracy >= floor else f"{point.name} {point.accuracy:.1f}% ↓"
        box = _free(x, y, radius, CHARACTER_PX * len(label), frame=frame, taken=taken)
        taken.append(box)
        parts.append(_text(box.left, box.bottom - 4, label, anchor="start", kind=f"label {point.kind}"))
    return "".join([*parts, "</svg>"])


def floor_of(values: Sequence[float]) -> float:
    """Return the smallest value that belongs to the rest: below the widest gap lie the outliers, if there are any.

    They are outliers when the gap is more than half of the whole range and fewer than half of the values lie below.
    """
    ordered = sorted(values)
    gaps = [(high - low, index + 1) for index, (low, high) in enumerate(zip(ordered, ordered[1:], strict=False))]
    if not gaps:
        return ordered[0]
    gap, count = max(gaps)
    is_split = gap > 0.5 * (ordered[-1] - ordered[0]) and count < 0.5 * len(ordered) and len(ordered) > 3
    return ordered[count] if is_split else ordered[0]


def waterfall(moves: Sequence[Move], *, title: str, description: str, from_zero: bool) -> str:
    """Return floating bars, one row a step, each from the value before it to the value after it."""
    longest = CHARACTER_PX * max(len(move.name) for move in moves)
    above = longest > BESIDE_PX  # longer names have a line of their own, above their bar
    width, row, head = 360, 44 if above else 30, 6
    left, right = (2.0 if above else longest + 12), 226.0
    down = row - 30  # from the top of a row to its bar's
    values = [move.value for move in moves]
    low, high = (min(0.0, *values) if from_zero else min(values)), max(values)
    span = (high - low) or 1.0
    height = head + row * len(moves) + 4

    def x_of(value: float) -> float:
        return left + (right - left) * (value - low) / span

    parts = [_open(width, height, title, description)]
    before = low if from_zero else values[0]
    for index, move in enumerate(moves):
        y = head + row * index
        x = x_of(move.value)
        start, end = sorted((x_of(before), x))
        tone = "start" if index == 0 else {True: "good", False: "bad", None: "same"}[move.good]
        place = (0.0, y + 13, "start") if above else (left - 8, y + 19, "end")
        parts.append(_text(place[0], place[1], move.name, anchor=place[2], kind="row"))
        y += down
        parts.append(
            f'<rect class="bar {tone}" x="{start - 1.5:.1f}" y="{y + 6}" width="{max(end - start, 0) + 3:.1f}"'
            ' height="18" rx="3"/>'
        )
        if index + 1 < len(moves):
            parts.append(f'<line class="link" x1="{x:.1f}" x2="{x:.1f}" y1="{y + 24}" y2="{y + row + 6}"/>')
        parts.append(_text(right + 62, y + 19, move.text, anchor="end", kind="value"))
        if move.change:
            parts.append(_text(width - 2, y + 19, move.change, anchor="end", kind=f"change {tone}"))
        before = move.value
    return "".join([*parts, "</svg>"])


def spreads(rows: Sequence[Spread], *, width: int, title: str, description: str) -> str:
    """Return the distribution of call times, one row a model: 5 to 95%, the middle half, the median, every launch."""
    wide = width > 600
    left, right, row, top = (170.0, width - 150.0, 36, 6) if wide else (8.0, width - 10.0, 54, 6)
    everything = [value for entry in rows for value in (entry.median_ms, *entry.units_ms, *_band(entry))]
    everything += [entry.tail[1] for entry in rows if entry.tail is not None]
    x_low, x_high = min(everything) / 1.06, max(everything) * 1.06
    bottom = top + row * len(rows)
    height = bottom + 40

    def x_of(value: float) -> float:
        return left + (right - left) * math.log(value / x_low) / math.log(x_high / x_low)

    parts = [_open(width, height, title, description)]
    for tick in log_ticks(x_low, x_high, most=max(4, width // 90)):
        parts.append(f'<line class="grid" x1="{x_of(tick):.1f}" x2="{x_of(tick):.1f}" y1="{top}" y2="{bottom}"/>')
        parts.append(_text(x_of(tick), bottom + 16, f"{tick:g}", anchor="middle", kind="tick"))
    parts.append(_text((left + right) / 2, height - 6, "ms per call (log scale)", anchor="middle", kind="axis"))
    for index, entry in enumerate(rows):
        middle = top + row * index + (row / 2 if wide else row - 17)
        text = f"{format_ms(entry.median_ms)} ms"
        if entry.tail is not None:
            text += f" · {entry.tail[0]} {format_ms(entry.tail[1])}"
        if wide:
            parts.append(_text(left - 12, middle + 4, entry.name, anchor="end", kind=f"row {entry.kind}"))
            parts.append(_text(width - 2, middle + 4, text, anchor="end", kind="value"))
        else:
            parts.append(_text(left, middle - 14, entry.name, anchor="start", kind=f"row {entry.kind}"))
            parts.append(_text(right, middle - 14, text, anchor="end", kind="value"))
        parts.append(f'<g class="{entry.kind}">')
        band = [x_of(value) for value in _band(entry)]
        if band:
            parts.append(_bar("thin", band[0], band[3], middle, 6) + _bar("thick", band[1], band[2], middle, 12))
        parts += [f'<circle class="dot" cx="{x_of(value):.1f}" cy="{middle}" r="2"/>' for value in entry.units_ms]
        x = x_of(entry.median_ms)
        parts.append(f'<line class="median" x1="{x:.1f}" x2="{x:.1f}" y1="{middle - 9}" y2="{middle + 9}"/>')
        if entry.tail is not None:
            parts.append(f'<path class="tail" d="M{x_of(entry.tail[1]):.1f} {middle - 5}l5 5l-5 5l-5 -5z"/>')
        parts.append("</g>")
    return "".join([*parts, "</svg>"])


def log_ticks(low: float, high: float, *, most: int) -> list[float]:
    """Return round numbers between two positive ones, evenly spread in the logarithm, at most about ``most``."""
    found: list[float] = []
    for mantissas in ((1, 1.5, 2, 3, 4, 5, 7), (1, 2, 3, 5), (1, 2, 5), (1, 3), (1,)):
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        ticks = (float(f"{mantissa}e{decade}") for decade in decades for mantissa in mantissas)
        found = [tick for tick in ticks if low <= tick <= high]
        if len(found) <= most:
            break
    return found


def linear_ticks(low: float, high: float, *, most: int) -> list[float]:
    """Return round numbers between two numbers, evenly spaced, at most ``most``."""
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw)
    first = math.ceil(low / step)
    return [float(f"{number * step:.6g}") for number in range(first, math.floor(high / step) + 1)]


def _band(entry: Spread) -> list[float]:
    """Return the 5, 25, 75 and 95% quantiles, or nothing."""
    last = len(entry.quantiles_ms) - 1
    return [entry.quantiles_ms[round(share * last)] for share in (0.05, 0.25, 0.75, 0.95)] if last > 0 else []


def _bar(kind: str, start: float, end: float, middle: float, height: int) -> str:
    return (
        f'<rect class="{kind}" x="{start:.1f}" y="{middle - height / 2}" width="{max(end - start, 1):.1f}" '
        f'height="{height}" rx="{height / 2}"/>'
    )


def _free(x: float, y: float, radius: float, width: float, *, frame: Box, taken: Sequence[Box]) -> Box:
    """Return where a label fits best near a bubble: the place that covers least, first right, then around it."""
    out = radius + 5
    found: list[tuple[float, int, Box]] = []
    for far in (0.0, 14.0, 28.0, 42.0):
        places = [
            (x + out, y - LINE_PX / 2),
            (x - out - width, y - LINE_PX / 2),
            (x - width / 2, y - out - far - LINE_PX),
            (x - width / 2, y + out + far),
            (x + out * 0.7, y - out * 0.7 - far - LINE_PX / 2),
            (x + out * 0.7, y + out * 0.7 + far - LINE_PX / 2),
            (x - out * 0.7 - width, y - out * 0.7 - far - LINE_PX / 2),
            (x - out * 0.7 - width, y + out * 0.7 + far - LINE_PX / 2),
        ]
        for left, top in places:
            box = Box(left, top, left + width, top + LINE_PX)
            covered = sum(box.overlap(other) for other in taken)
            outside = (box.right - box.left) * (box.bottom - box.top) - box.overlap(frame)
            found.append((covered + 2 * outside, len(found), box))
    return min(found)[2]


def _describe(point: Point) -> str:
    return (
        f"{point.name}: {point.accuracy:.2f}% [{point.low:.2f}, {point.high:.2f}], "
        f"{format_ms(point.latency_ms)} ms, {point.size_bytes / 1e3:,.1f} kB"
    )


def _open(width: float, height: float, title: str, description: str) -> str:
    label = escape(f"{title}. {description}", quote=True)
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{label}" xmlns="http://www.w3.org/2000/svg">'


def _text(x: float, y: float, text: str, *, anchor: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
