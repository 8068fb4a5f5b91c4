"""Charts: which points stay, where they lie, and which values the axes name."""

from __future__ import annotations

import math
import re

import pytest

from stylenat.reporting.charts import BOTTOM, LEFT, MOST_POINTS, RIGHT, TOP, Chart, Curve, draw
from stylenat.reporting.charts import thinned as thin
from stylenat.reporting.curves import ABOUT, SINGLE, direction, written_out
from stylenat.training.outputs import PANELS


def drawn(*curves: list[tuple[float, float]], is_log: bool = False) -> str:
    named = [Curve(f"c{index}", points) for index, points in enumerate(curves)]
    return draw(Chart("title", "about", "kimg", "y", named, is_log=is_log), "id")[0]


def places(svg: str) -> list[tuple[float, float]]:
    (points,) = re.findall(r'<polyline points="([^"]*)"', svg)
    return [tuple(map(float, pair.split(","))) for pair in points.split()]


def labels(svg: str, kind: str) -> list[str]:
    return re.findall(rf'<text[^>]*class="{kind}"[^>]*>([^<]*)</text>', svg)


def test_every_group_of_curves_is_explained():
    assert set(ABOUT) == {title for title, _ in (*PANELS, *SINGLE)}


def test_thinning_keeps_order_ends_and_extremes():
    points = [(float(x), math.sin(x)) for x in range(10_000)]
    points[1234] = (1234.0, 99.0)
    points[5678] = (5678.0, -99.0)
    kept = thin(points)
    assert len(kept) <= MOST_POINTS
    assert kept == sorted(kept)
    assert {(1234.0, 99.0), (5678.0, -99.0)} <= set(kept)
    assert kept[0][0] < 40
    assert kept[-1][0] > 9960
    assert thin(points[:MOST_POINTS]) == points[:MOST_POINTS]


def test_a_curve_fills_its_axes_from_left_to_right_and_upwards():
    svg = drawn([(0, 0), (5, 10), (10, 20)])
    (x0, y0), (x1, y1), (x2, y2) = places(svg)
    assert (x0, x2) == (LEFT, RIGHT)
    assert x1 == pytest.approx((LEFT + RIGHT) / 2, abs=0.1)
    assert BOTTOM > y0 > y1 > y2 > TOP
    assert labels(svg, "y") == ["0", "5", "10", "15", "20"]


def test_a_logarithmic_axis_names_powers_and_gives_way_to_zero():
    svg = drawn([(0, 0.001), (1, 1), (2, 1000)], is_log=True)
    assert labels(svg, "y") == ["0.01", "1", "100"]
    (_, y0), (_, y1), (_, y2) = places(svg)
    assert y0 - y1 == pytest.approx(y1 - y2, abs=0.11)
    assert labels(drawn([(0, 0), (1, 10)], is_log=True), "y")[:2] == ["0", "2"]


def test_strays_are_left_out_of_the_picture_and_counted():
    points = [(float(x), x % 7) for x in range(100)]
    points[3] = (3.0, 1e6)
    svg = drawn(points)
    assert "1 values lie outside the picture" not in svg
    assert "1 value lies outside the picture." in svg
    assert max(float(label) for label in labels(svg, "y")) < 10
    assert "outside the picture" not in drawn(points[4:])


def test_one_point_and_a_constant_have_axes():
    for points in ([(1.0, 5.0)], [(1.0, 0.0), (2.0, 0.0)], [(0.0, -3.0)] * 3):
        assert len(labels(drawn(points), "y")) >= 3


@pytest.mark.parametrize(
    ("name", "written", "better"),
    [
        ("fd_dinov2", "FD (dinov2)", "Lower is better"),
        ("coverage_effnet_lite0", "Coverage (effnet_lite0)", "Higher is better"),
        ("is", "IS", "Higher is better"),
        ("swd_16", "swd_16", "Lower is better"),
        ("is_std", "is_std", ""),
        ("unheard_of", "unheard_of", ""),
    ],
)
def test_scores_are_written_out_with_their_direction(name, written, better):
    assert (written_out(name), direction(name)) == (written, better)
