"""The map of the lungs with its numbered findings: nothing covers anything, however many and however close."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from browser import Browser
from nodulens.core.nodule import Nodule
from nodulens.core.volume import Volume
from nodulens.report.lung_map import MOST, ROW, Dot, LungMap, apart, lung_map, untangled
from nodulens.report.page import render_page
from nodulens.report.pictures import DisplayScan
from nodulens.report.record import Report

DIGIT, TALL = 8.4, 12.0
"""Width of a bold digit of 12 pixels, widely taken, and height of its line."""
Rectangle = tuple[float, float, float, float]


def crowded(report: Report, count: int, *, one_side: bool = False) -> tuple[Nodule, ...]:
    """So many findings: three in four within two centimetres of one place of their lung, some at the same place."""
    rng = np.random.default_rng(count)
    nodules = []
    for number in range(1, count + 1):
        side = -1 if one_side or number % 2 else 1
        x, y, z = side * 55 + rng.uniform(-35, 35), rng.uniform(-30, 30), rng.uniform(-100, -10)
        if number % 4:
            x, y, z = side * 60 + rng.uniform(-10, 10), rng.uniform(-30, 30), -40 + rng.uniform(-10, 10)
        if number % 9 == 0:
            x, y, z = side * 60.0, float(number), -40.0
        template = report.nodules[0 if side > 0 else 1]
        size = float(rng.uniform(3, 35))
        measured = replace(template.measurements, mean_diameter_mm=size)
        nodules.append(replace(template, id=number, centre_lps=(x, y, z), measurements=measured))
    return tuple(nodules)


def drawn(ct: Volume, report: Report, nodules: tuple[Nodule, ...]) -> LungMap:
    scene = DisplayScan(ct, nodules, report.lung_mask)
    found = lung_map(scene, nodules, [f"Nodule {nodule.id}" for nodule in nodules])
    assert found is not None
    return found


def rectangle(dot: Dot, to_the_right: bool) -> Rectangle:
    """Left, top, right and bottom of a number."""
    assert dot.text_x is not None and dot.text_y is not None
    wide = DIGIT * len(str(dot.id))
    left = dot.text_x if to_the_right else dot.text_x - wide
    return left, dot.text_y - TALL * 0.8, left + wide, dot.text_y + TALL * 0.2


def overlap(a: Rectangle, b: Rectangle) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def turn(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> float:  # type: ignore[type-arg]
    return float((b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]))


def cross(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    """Whether two segments cross at an inner point of both."""
    p, q, r, s = np.array(a[:2]), np.array(a[2:]), np.array(b[:2]), np.array(b[2:])
    return turn(p, q, r) * turn(p, q, s) < -1e-6 and turn(r, s, p) * turn(r, s, q) < -1e-6


@pytest.mark.parametrize(("count", "one_side"), [(1, False), (4, False), (30, False), (30, True), (75, False)])
def test_no_number_covers_another_and_no_lines_cross(ct: Volume, report: Report, count: int, one_side: bool) -> None:
    found = drawn(ct, report, crowded(report, count, one_side=one_side))
    assert found.all_numbered and [dot.id for dot in found.dots] == list(range(1, count + 1))
    boxes = [rectangle(dot, dot in found.left) for dot in found.dots]
    assert not any(overlap(a, b) for a, b in combinations(boxes, 2))
    for left, top, right, bottom in boxes:
        assert 0 <= left < right <= found.width and 14 <= top < bottom <= found.height
    lines = [dot.line for dot in found.dots if dot.line]
    assert len(lines) == count and not any(cross(a, b) for a, b in combinations(lines, 2))


def test_a_line_goes_from_the_number_to_the_rim_of_its_dot(ct: Volume, report: Report) -> None:
    for dot in drawn(ct, report, crowded(report, 30)).dots:
        assert dot.line is not None and dot.text_x is not None and dot.text_y is not None
        x0, y0, x1, y1 = dot.line
        assert abs(x0 - dot.text_x) == pytest.approx(3) and y0 == pytest.approx(dot.text_y - 4)
        assert np.hypot(x1 - dot.x, y1 - dot.y) == pytest.approx(dot.r)


def test_dots_stand_where_the_findings_are_and_grow_with_them(ct: Volume, report: Report) -> None:
    nodules = crowded(report, 30)
    scene = DisplayScan(ct, nodules, report.lung_mask)
    found = drawn(ct, report, nodules)
    for dot, nodule in zip(found.dots, nodules, strict=True):
        x, y = scene.silhouette_place(nodule)
        assert dot.x == pytest.approx(x * 4 * found.scale + found.shift_x)
        assert dot.y == pytest.approx(y * 4 * found.scale + found.shift_y)
        assert (dot in found.left) == (nodule.position.side == "left")
    by_size = sorted(zip(nodules, found.dots, strict=True), key=lambda pair: pair[0].measurements.mean_diameter_mm)
    assert (np.diff([dot.r for _, dot in by_size]) > 0).all()


def test_of_very_many_findings_the_most_certain_have_numbers(ct: Volume, report: Report) -> None:
    found = drawn(ct, report, crowded(report, 3 * MOST, one_side=True))
    assert [dot.id for dot in found.dots if dot.line] == list(range(1, MOST + 1))
    assert len(found.dots) == 3 * MOST and not found.all_numbered
    page = render_page(replace(report, nodules=crowded(report, 3 * MOST, one_side=True)), ct)
    assert "the most certain have numbers" in page


def test_there_is_a_map_of_no_findings_and_none_without_lungs(ct: Volume, report: Report) -> None:
    assert drawn(ct, report, ()).dots == []
    assert lung_map(DisplayScan(ct, (), None), (), ()) is None


def test_rows_are_apart_near_what_is_wanted_and_inside() -> None:
    rng = np.random.default_rng(2)
    for count in (1, 2, 7, 20):
        wanted = rng.choice(rng.uniform(-20, 420, 8), count)
        rows = apart(wanted, 0, 400)
        assert np.diff(np.sort(rows)).min(initial=ROW) >= ROW - 1e-9
        assert rows.min() >= 0 and rows.max() <= 400 + 1e-9
        assert (np.diff(rows[np.argsort(wanted, kind="stable")]) >= 0).all()
    assert apart(np.array([300.0, 100.0]), 0, 400).tolist() == [300.0, 100.0]
    assert apart(np.array([100.0, 100.0]), 0, 400).tolist() == [100 - ROW / 2, 100 + ROW / 2]


def test_rows_are_exchanged_where_lines_would_cross() -> None:
    """The far point's line to the upper row would run below the near point and then above its row."""
    points = np.array([[10.0, 100.0], [90.0, 101.0]])
    assert untangled(points, 100, np.array([130.0, 145.0])).tolist() == [145.0, 130.0]
    assert untangled(points, 100, np.array([80.0, 101.0])).tolist() == [80.0, 101.0]


def test_numbers_cover_nothing_in_a_browser(ct: Volume, report: Report, browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "crowded.html"
    nodules = tuple(replace(n, score=0.5) for n in crowded(report, 34))
    path.write_text(render_page(replace(report, nodules=nodules), ct), "utf-8")
    for width, mobile in ((1440, False), (820, False), (390, True)):
        browser.size(width, 900, mobile=mobile)
        browser.open(path)
        assert browser.run("document.documentElement.scrollWidth") <= width
        texts = browser.run(
            "[...document.querySelectorAll('.map text')].map(t => {const r = t.getBoundingClientRect();"
            "return [t.textContent, r.left, r.top, r.right, r.bottom]})"
        )
        assert sorted(text for text, *_ in texts) == sorted(["R", "L", *(str(n.id) for n in nodules)])
        boxes = [tuple(box) for _, *box in texts]
        assert not any(overlap(a, b) for a, b in combinations(boxes, 2))
        assert min(box[0] for box in boxes) >= 0 and max(box[2] for box in boxes) <= width
    browser.size(1440, 900)
    names = browser.run("[...document.querySelectorAll('.map a')].map(a => a.getAttribute('aria-label'))")
    assert all(re.fullmatch(r"Nodule \d+, (left|right) lung, middle zone, [\d.]+ mm", name) for name in names)
