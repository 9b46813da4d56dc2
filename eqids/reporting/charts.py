"""Charts of reports, from numbers to SVG: lines, intervals, points."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, UInt16

from eqids.reporting.bootstrap import Interval
from eqids.reporting.svg import (
    Frame,
    Number,
    element,
    escaped,
    label,
    number,
    space_left,
    text_width,
    thinned,
    ticks,
)

_DOT = 3.5
_ROW = 17
"""Height of a row of intervals."""
_MAP_WIDTH, _MARGIN = 1_000, 16
"""Of a map."""
_MOST_LABELS = 8
"""Most groups of a map that are named."""
_SHIFTS = (-9, 20, -29, 40, -49, 60)
"""How far the base line of a name may be from its point, in the order of trial."""


@dataclass(frozen=True)
class Series:
    """A line of a chart.

    Attributes:
        label: its name.
        kind: the class that colours it, such as `r0` of the first run.
        xs: where its points are.
        ys: their values.
        lows: lower ends of their intervals, or none.
        highs: upper ends.
        dots: whether points are drawn.
    """

    label: str
    kind: str
    xs: Sequence[Number]
    ys: Sequence[Number]
    lows: Sequence[Number] = ()
    highs: Sequence[Number] = ()
    dots: bool = False


@dataclass(frozen=True)
class IntervalRow:
    """A row of an interval chart.

    Attributes:
        label: what is left of it.
        dots: the interval of each system with the class that colours it.
        detail: what is below the label, such as a number of users.
    """

    label: str
    dots: Sequence[tuple[str, str, Interval]]
    """Label, class and interval of each system."""
    detail: str = ""


def line_chart(
    series: Sequence[Series],
    x_title: str,
    y_title: str,
    *,
    about: str,
    log_x: bool = False,
    zero: bool = True,
    square: bool = False,
    x_ticks: Sequence[Number] = (),
) -> str:
    """Returns a chart of lines.

    Args:
        series: the lines, with a point in all.
        x_title: of the x axis.
        y_title: of the y axis.
        about: what the chart shows, for those who do not see it.
        log_x: whether the x axis is logarithmic.
        zero: whether the y axis begins at 0.
        square: whether both axes have one range and the diagonal is drawn.
        x_ticks: numbers of the x axis, by default round ones.
    """
    xs = [x for one in series for x in one.xs]
    ys = [y for one in series for part in (one.ys, one.lows, one.highs) for y in part]
    y_ticks = ticks(min(0.0, *ys) if zero else min(ys), max(ys))
    if square:
        y_ticks = ticks(0.0, max(max(xs), max(ys)))
    across = list(x_ticks) or (y_ticks if square else ticks(min(xs), max(xs)))
    if not square and not x_ticks and across[-1] > max(xs):
        across = across[:-1]
    x_range = (min(xs), max(xs)) if not square else (y_ticks[0], y_ticks[-1])
    shown = [tick for tick in across if x_range[0] <= tick <= x_range[1]]
    frame = Frame(
        x_range, (y_ticks[0], y_ticks[-1]), log_x=log_x, left=space_left(y_ticks),
        right=max(14, round(text_width(number(shown[-1])) / 2) + 1),
    )  # fmt: skip
    parts = [frame.axes(thinned(shown, frame), y_ticks, x_title, y_title)]
    if square:
        ends = frame.path(x_range, x_range)
        parts.append(element("polyline", points=ends, class_="diagonal"))
    parts += [_line(frame, one) for one in series]
    return frame.picture(*parts, about=about)


def _line(frame: Frame, one: Series) -> str:
    parts = [element("polyline", points=frame.path(one.xs, one.ys), class_="line")]
    for x, low, high in zip(one.xs, one.lows, one.highs, strict=False):
        place, ends = frame.x(x), (frame.y(low), frame.y(high))
        parts.append(element("line", x1=place, x2=place, y1=ends[0], y2=ends[1],
                             class_="whisker"))  # fmt: skip
    if one.dots or len(one.xs) == 1:
        for x, y in zip(one.xs, one.ys, strict=True):
            said = element("title", f"{escaped(one.label)}: {number(x)}, {number(y)}")
            parts.append(element("circle", said, cx=frame.x(x), cy=frame.y(y), r=_DOT,
                                 class_="dot"))  # fmt: skip
    return element("g", *parts, class_=one.kind)


def interval_chart(
    rows: Sequence[IntervalRow], x_title: str, *, about: str, zero: bool = True
) -> str:
    """Returns means with their intervals, a row for each and a dot for each system.

    Args:
        rows: from above.
        x_title: of the axis.
        about: what the chart shows, for those who do not see it.
        zero: whether the axis has 0 on it, marked by a line.
    """
    values = [x for row in rows for _, _, one in row.dots for x in (one.low, one.high)]
    low, high = min(values), max(values)
    across = ticks(min(0.0, low) if zero else low, max(0.0, high) if zero else high, 5)
    most = max(len(row.dots) for row in rows)
    least = 2 * _ROW + 4 if any(row.detail for row in rows) else _ROW + 4
    step = max(least, 10 * most + 8)
    height = step * len(rows) + 54
    words = [text for row in rows for text in (_cut(row.label), row.detail)]
    left = 14 + min(190, int(8 * max(map(len, words))))
    frame = Frame((across[0], across[-1]), (0.0, 1.0), height=height, left=left)
    parts = [frame.axes(thinned(across, frame), (), x_title, "")]
    if across[0] < 0 < across[-1]:
        x = frame.x(0.0)
        bottom = height - frame.bottom
        parts.append(element("line", x1=x, x2=x, y1=frame.top, y2=bottom,
                             class_="zero"))  # fmt: skip
    for place, row in enumerate(rows):
        middle = frame.top + step * (place + 0.5)
        up = _ROW / 2 if row.detail else 0
        parts.append(label(left - 8, middle + 4 - up, _cut(row.label), "end", "axis"))
        if row.detail:
            parts.append(label(left - 8, middle + 4 + up, row.detail, "end"))
        for at, dot in enumerate(row.dots):
            y = middle + 10 * (at - (len(row.dots) - 1) / 2)
            parts.append(_interval(frame, y, *dot))
    return frame.picture(*parts, about=about)


def _interval(frame: Frame, y: Number, name: str, kind: str, one: Interval) -> str:
    said = element(
        "title",
        f"{escaped(name)}: {one.mean:.4f}, 95% {one.low:.4f} to {one.high:.4f}, "
        f"{one.num:,} users",
    )
    ends = frame.x(one.low), frame.x(one.high)
    line = element("line", x1=ends[0], x2=ends[1], y1=y, y2=y, class_="whisker")
    dot = element("circle", said, cx=frame.x(one.mean), cy=y, r=_DOT, class_="dot")
    return element("g", line, dot, class_=kind)


def _cut(text: str) -> str:
    return text if len(text) <= 24 else text[:23] + "…"


def point_chart(
    position: UInt16[np.ndarray, "point 2"],
    group: Int[np.ndarray, " point"],
    names: Sequence[str],
    sizes: Sequence[Number],
    *,
    about: str,
) -> str:
    """Returns points on a map whose axes have the same scale, as wide as a page.

    Args:
        position: from 0 to 65535, x to the right and y up; the most popular first.
        group: of each point; groups differ in colour.
        names: what each point is called.
        sizes: radius of each.
        about: what the chart shows, for those who do not see it.
    """
    frame = _map_frame(position)
    # The golden angle gives neighbouring groups different hues.
    groups: dict[int, list[str]] = {}
    for (x, y), one, name, size in zip(
        position.tolist(), group.tolist(), names, sizes, strict=True
    ):
        circle = element("circle", element("title", escaped(name)), cx=frame.x(x),
                         cy=frame.y(y), r=size)  # fmt: skip
        groups.setdefault(one, []).append(circle)
    parts = [
        element("g", *circles, style=f"--h:{137.5 * number_ % 360:.0f}")
        for number_, circles in sorted(groups.items())
    ]
    labels = _map_labels(frame, position, group, names)
    return frame.picture(
        element("g", *parts, class_="points"),
        element("g", *labels, class_="labels", aria_hidden="true"),
        about=about,
    )


def _map_frame(position: UInt16[np.ndarray, "point 2"]) -> Frame:
    """A picture of the points' own height, or wider points on the least height."""
    low, high = position.min(axis=0), position.max(axis=0)
    span = np.maximum(high.astype(float) - low, 1.0)
    inner = _MAP_WIDTH - 2 * _MARGIN
    height = int(np.clip(inner * span[1] / span[0], _MAP_WIDTH / 3, _MAP_WIDTH))
    # The same scale on both axes: the range of one of them is wider than its points.
    scale = min(inner / span[0], height / span[1])
    half = np.array([inner, height]) / scale / 2
    middle = (low.astype(float) + high) / 2
    x_low, y_low = (middle - half).tolist()
    x_high, y_high = (middle + half).tolist()
    return Frame(
        (x_low, x_high), (y_low, y_high), width=_MAP_WIDTH,
        height=height + 2 * _MARGIN, left=_MARGIN, right=_MARGIN, top=_MARGIN,
        bottom=_MARGIN,
    )  # fmt: skip


def _map_labels(
    frame: Frame,
    position: UInt16[np.ndarray, "point 2"],
    group: Int[np.ndarray, " point"],
    names: Sequence[str],
) -> list[str]:
    """Names of the largest groups, beside their first points; no two overlap."""
    found, taken = list[str](), list[tuple[float, float, float, float]]()
    kinds, counts = np.unique(group, return_counts=True)
    for kind in kinds[np.argsort(-counts, kind="stable")][:_MOST_LABELS]:
        members = np.flatnonzero(group == kind)
        text = _cut(names[members[0]])
        half = text_width(text) / 2
        x, y = position[members[0]].tolist()
        middle = min(max(frame.x(x), half), frame.width - half)
        for shift in _SHIFTS:
            base = frame.y(y) + shift
            box = (middle - half, base - 14, middle + half, base + 6)
            inside = box[1] >= 0 and box[3] <= frame.height
            if inside and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                found.append(label(middle, base, text, "middle"))
                break
    return found


def _overlap(
    one: tuple[float, float, float, float], other: tuple[float, float, float, float]
) -> bool:
    """Whether two boxes share a point; each is left, top, right and bottom."""
    return (
        one[0] < other[2] and other[0] < one[2]
        and one[1] < other[3] and other[1] < one[3]
    )  # fmt: skip
