"""Pictures and numbers of a report: to scale, escaped, and nothing overlaps."""

import html
import itertools
import re

import numpy as np
import pytest
from hypothesis import given, strategies as st

from eqids.reporting.charts import Series, line_chart, point_chart
from eqids.reporting.html_parts import column
from eqids.reporting.svg import Frame, element, text_width, ticks


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(4, 8))
def test_ticks_are_round_and_hold_the_range(low: float, span: float, most: int) -> None:
    high = low + span
    found = ticks(low, high, most)
    steps = np.diff(found)
    slack = 1e-6 * max(1.0, abs(low), span)
    assert found[0] <= low + slack and found[-1] >= high - slack
    assert 2 <= len(found) <= most + 1
    np.testing.assert_allclose(steps, steps[0], rtol=1e-3, atol=slack)


def test_pictures_are_escaped_and_to_scale() -> None:
    found = element("text", class_='"><script>', x=1.239, y=None)
    assert found == '<text class="&quot;&gt;&lt;script&gt;" x="1.24"/>'
    frame = Frame((1, 100), (0, 2), log_x=True)
    assert frame.x(10) == pytest.approx((frame.x(1) + frame.x(100)) / 2)
    assert frame.y(1) == pytest.approx((frame.y(0) + frame.y(2)) / 2)
    assert frame.y(2) < frame.y(0) and frame.x(1) == frame.left


def test_numbers_of_a_column_have_one_format() -> None:
    assert column([0.1234567, 7.288e-05, 0.0, 1.0]) == [
        "0.123", "< 0.001", "0.000", "1.000",
    ]  # fmt: skip
    assert column([0.00915, 7.288e-05]) == ["0.0092", "0.0001"]
    assert column([-2e-5, 12.345]) == ["> -0.01", "12.35"]
    assert column([12_345.67, 0.6]) == ["12,345.7", "0.6"]


@pytest.mark.parametrize("most", [3e-9, 0.07, 19_700, 3e7])
def test_numbers_of_an_axis_overlap_neither_its_title_nor_each_other(
    most: float,
) -> None:
    one = Series("run", "r0", [0, most], [0, most])
    picture = line_chart([one], "step", "targets/s", about="")
    found = re.findall(
        r'<text x="([\d.]+)" y="([\d.]+)" text-anchor="(end|middle)">(.*?)<', picture
    )
    down = [(float(x), text) for x, _, anchor, text in found if anchor == "end"]
    across = [(float(x), text) for x, _, anchor, text in found if anchor == "middle"]
    # The title ends 16 pixels from the left.
    assert len(down) > 2 and all(x - text_width(text) >= 17 for x, text in down)
    ends = [(x - text_width(t) / 2, x + text_width(t) / 2) for x, t in across]
    assert len(ends) > 1 and ends[-1][1] <= 460
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(ends))


@pytest.mark.parametrize("tall", [0.05, 0.6, 3.0])
def test_a_map_names_its_largest_groups_without_overlap(tall: float) -> None:
    rng = np.random.default_rng(0)
    centre = rng.uniform(0.2, 0.8, (12, 2))
    group = np.repeat(np.arange(12), np.arange(12, 0, -1))
    places = centre[group] + 0.02 * rng.standard_normal((len(group), 2))
    places *= np.array([1, tall]) / max(1, tall)
    position = np.rint(65_535 * places.clip(0, 1)).astype(np.uint16)
    names = [f"Item {at} of {one} <b>" for at, one in enumerate(group)]
    picture = point_chart(position, group, names, [2.0] * len(group), about="map")
    found = re.findall(r'<text x="([\d.]+)" y="([\d.]+)"[^>]*>(.*?)</text>', picture)
    first = [html.escape(names[np.flatnonzero(group == one)[0]]) for one in range(8)]
    assert 2 <= len(found) <= 8 and {text for *_, text in found} <= set(first)
    boxes = [(float(x), float(y), text_width(html.unescape(t))) for x, y, t in found]
    for one, other in itertools.combinations(boxes, 2):
        apart = abs(one[0] - other[0]) >= (one[2] + other[2]) / 2 - 0.1
        assert apart or abs(one[1] - other[1]) >= 19.9
    # Both axes have one scale, and the points fill the picture's width or height.
    dots = re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', picture)
    shown = np.ptp(np.array(dots, float), axis=0)
    spans = np.ptp(position.astype(float), axis=0)
    assert shown[0] / spans[0] == pytest.approx(shown[1] / spans[1], rel=0.02)
    assert shown[0] == pytest.approx(968, abs=1) or tall > 1
