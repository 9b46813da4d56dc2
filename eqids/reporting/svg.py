"""Pictures as SVG text: elements, and frames that map numbers to places."""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

from eqids.cli.printing import one_line

Number = float | int
"""A place or a value in a picture."""
_NARROW, _WIDE = 5.0, 9.0
"""Most width of narrow letters and of others, at 14 pixels."""
_TITLE = 24
"""Space for the title of the y axis, which is left of its numbers."""


def escaped(text: object) -> str:
    """Returns a text of a user's as HTML or SVG, in quotes or outside, on one line."""
    return html.escape(one_line(str(text)), quote=True)


def element(name: str, *content: str, **attributes: object) -> str:
    """Returns an element.

    Args:
        name: its name, such as `circle`.
        content: markup inside it; texts are escaped already.
        attributes: by name: `stroke_width` is stroke-width, `class_` class; numbers are
            rounded to hundredths, other values escaped. None leaves one out.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_value(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    inside = "".join(content)
    return f"<{name}{written}>{inside}</{name}>" if inside else f"<{name}{written}/>"


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.2f}".rstrip("0").rstrip(".")
    return escaped(value)


def label(
    x: Number, y: Number, text: str, anchor: str = "start", kind: str = ""
) -> str:
    """Returns a text in a picture.

    Args:
        x: where it is anchored.
        y: its base line.
        text: not escaped yet.
        anchor: start, middle or end.
        kind: its class.
    """
    return element(
        "text", escaped(text), x=x, y=y, text_anchor=anchor, class_=kind or None
    )


def text_width(text: str) -> float:
    """Returns an upper estimate of how wide a text in a picture is.

    It is for the larger letters of phones, and for fonts with wide digits.

    Args:
        text: on one line.
    """
    return sum(_NARROW if letter in ".,:;'|il -" else _WIDE for letter in text)


@dataclass(frozen=True)
class Frame:
    """Maps numbers to places in a picture.

    Attributes:
        x_range: the first and the last number of the x axis.
        y_range: the same of the y axis, which goes up.
        width: of the picture.
        height: of the picture.
        left: space for the labels of the y axis.
        bottom: space for those of the x axis.
        log_x: whether the x axis is logarithmic; its numbers are above 0.
    """

    x_range: tuple[Number, Number]
    y_range: tuple[Number, Number]
    width: int = 460
    height: int = 280
    left: int = 50
    bottom: int = 42
    log_x: bool = False
    right: int = 14
    top: int = 12

    def x(self, value: Number) -> float:
        """Returns the place of a number on the x axis."""
        low, high = self.x_range
        if self.log_x:
            value, low, high = math.log(value), math.log(low), math.log(high)
        share = (value - low) / ((high - low) or 1.0)
        return self.left + share * (self.width - self.left - self.right)

    def y(self, value: Number) -> float:
        """Returns the place of a number on the y axis."""
        low, high = self.y_range
        share = (value - low) / ((high - low) or 1.0)
        bottom = self.height - self.bottom
        return bottom - share * (bottom - self.top)

    def path(self, xs: Sequence[Number], ys: Sequence[Number]) -> str:
        """Returns the points of a line for the attribute `points`."""
        pairs = zip(xs, ys, strict=True)
        return " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in pairs)

    def axes(
        self,
        x_ticks: Sequence[Number],
        y_ticks: Sequence[Number],
        x_title: str,
        y_title: str,
    ) -> str:
        """Returns grid lines, numbers and titles of both axes."""
        bottom, right = self.height - self.bottom, self.width - self.right
        parts = []
        for tick in y_ticks:
            y = self.y(tick)
            parts.append(element("line", x1=self.left, x2=right, y1=y, y2=y,
                                 class_="grid"))  # fmt: skip
            parts.append(label(self.left - 6, y + 4, number(tick), "end"))
        for tick in x_ticks:
            x = self.x(tick)
            parts.append(element("line", x1=x, x2=x, y1=self.top, y2=bottom,
                                 class_="grid"))  # fmt: skip
            parts.append(label(x, bottom + 16, number(tick), "middle"))
        middle = (self.left + right) / 2
        parts.append(label(middle, self.height - 6, x_title, "middle", "axis"))
        side = (self.top + bottom) / 2
        parts.append(
            element(
                "text", escaped(y_title), text_anchor="middle", class_="axis",
                transform=f"translate(12 {side:.1f}) rotate(-90)",
            )
        )  # fmt: skip
        return "".join(parts)

    def picture(self, *content: str, about: str) -> str:
        """Returns the whole picture.

        Args:
            content: its elements.
            about: what it shows, for those who do not see it.
        """
        return element(
            "svg", *content, viewBox=f"0 0 {self.width} {self.height}", role="img",
            aria_label=about, xmlns="http://www.w3.org/2000/svg",
        )  # fmt: skip


def space_left(y_ticks: Sequence[Number], least: int = 50) -> int:
    """Returns the space for the title of the y axis beside the longest of its numbers.

    Args:
        y_ticks: the numbers.
        least: the least space, so that most pictures of a page have their axes alike.
    """
    longest = max((text_width(number(tick)) for tick in y_ticks), default=0)
    return max(least, math.ceil(_TITLE + longest))


def thinned(x_ticks: Sequence[Number], frame: "Frame") -> list[Number]:
    """Returns the numbers of an x axis of which no two overlap; the first is kept.

    Args:
        x_ticks: the numbers, ascending.
        frame: maps them to places.
    """
    found, end = list[Number](), -math.inf
    for tick in x_ticks:
        half = text_width(number(tick)) / 2
        if frame.x(tick) - half >= end:
            found.append(tick)
            end = frame.x(tick) + half
    return found


def ticks(low: Number, high: Number, most: int = 6) -> list[float]:
    """Returns round numbers that divide a range, both ends included.

    Args:
        low: the smallest number that is shown.
        high: the largest, above it.
        most: most numbers.
    """
    span = (high - low) or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / most))
    steps = (step * power for step in (1, 2, 2.5, 5, 10, 20))
    step = next(one for one in steps if span / one <= most - 1 + 1e-9)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(step * place, 12) for place in range(first, last + 1)]


def number(value: Number) -> str:
    """Returns a number as axes show it: 1,500, 0.05, 1e-06."""
    if value == 0:
        return "0"
    if abs(value) >= 1_000 and float(value).is_integer():
        return f"{value:,.0f}"
    return f"{value:.4g}"
