"""Marks to findings: what is kept, merged and outlined by which mark; and findings outlined anew."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from nodulens.core.geometry import Geometry
from nodulens.core.nodule import Box, Candidate
from nodulens.core.volume import Volume
from nodulens.errors import BadPrompt, NoEnd
from nodulens.stages.findings import Finding, outline_all, refined
from nodulens.stages.prompts import ROUGH, Prompt

SHAPE = (40, 60, 60)
EMPTY = (5.0, 5.0, 5.0)
"""Where the made-up network finds nothing."""


def outline(volume: Volume, prompt: Prompt) -> tuple[Box, NDArray[np.bool_]]:
    """A network that outlines all of a box within the prompt, as a small view shows no more."""
    start, stop = np.maximum(prompt.start, 0).astype(int), np.minimum(prompt.stop, SHAPE).astype(int)
    if np.allclose((np.add(prompt.start, prompt.stop) / 2 - 0.5)[::-1], EMPTY):
        raise BadPrompt("nothing there")
    box = Box(tuple(start), tuple(stop))
    return box, np.ones(box.shape, dtype=bool)


def found(*marks: Candidate, threshold: float = 0.5, most: int = 9) -> list[tuple[float, int]]:
    """Score and largest side in voxels of every finding."""
    volume = Volume(np.zeros(SHAPE, np.float32), Geometry.axial(SHAPE, (1.0, 1.0, 1.0)))
    told: list[float] = []
    findings = outline_all(volume, sorted(marks, key=lambda m: -m.score), threshold, most, outline, told.append)
    assert told == sorted(told) and all(0 <= t < 1 for t in told)
    return [(f.score, max(f.mask.shape)) for f in findings]


def mark(x: float, diameter: float, score: float) -> Candidate:
    return Candidate((x, 30.0, 20.0), diameter, score)


def test_marks_apart_are_findings_of_their_own() -> None:
    assert found(mark(10, 6, 0.9), mark(40, 8, 0.6), mark(25, 6, 0.4)) == [(0.9, 9), (0.6, 12)]


def test_small_marks_that_coincide_are_the_first_one() -> None:
    assert found(mark(20, 6, 0.9), mark(21, 8, 0.8)) == [(0.9, 9)]


def test_lobes_that_touch_are_one_finding() -> None:
    """Two boxes of nine voxels a side that share a face are one of eighteen; a voxel apart they are two."""
    assert found(mark(20, 6, 0.9), mark(29, 6, 0.8)) == [(0.9, 18)]
    assert found(mark(20, 6, 0.9), mark(30, 6, 0.8)) == [(0.9, 9), (0.8, 9)]
    assert found(mark(20, 6, 0.9), mark(38, 6, 0.8), mark(29, 6, 0.7)) == [(0.9, 27)], "a lobe joins two findings"
    assert found(mark(20, 6, 0.9), mark(29, 6, 0.3)) == [(0.9, 9)], "what is no finding is no lobe of a small one"
    assert found(mark(20, 14, 0.9), mark(35, 6, 0.3)) == [(0.9, 30)], "but of a large one"
    assert found(mark(20, 14, 0.9), mark(35, 6, 0.2)) == [(0.9, 21)], "unless it is hardly one"


def test_what_touches_at_an_edge_stays_apart() -> None:
    beside = Candidate((29.0, 39.0, 20.0), 6.0, 0.8)
    assert found(mark(20, 6, 0.9), beside) == [(0.9, 9), (0.8, 9)]


@pytest.mark.parametrize("score", [0.8, 0.3])
def test_a_mass_is_outlined_by_the_mark_of_its_size(score: float) -> None:
    """Sure or not quite sure, the large mark gives the outline and the best of the small ones the score."""
    knobs = [mark(22, 6, 0.9), mark(36, 6, 0.7)]
    assert found(*knobs, mark(30, 24, score)) == [(0.9, 36)]


def test_a_large_mark_that_is_hardly_sure_changes_nothing() -> None:
    assert found(mark(22, 6, 0.9), mark(30, 24, 0.2)) == [(0.9, 9)]


def test_an_unsure_large_mark_alone_is_no_finding() -> None:
    assert found(mark(30, 24, 0.4)) == []
    assert found(mark(5, 4, 0.9), mark(40, 20, 0.4)) == [(0.9, 6)]


def test_a_mark_without_outline_is_no_finding_and_most_counts_marks() -> None:
    nothing = Candidate(EMPTY, 6.0, 0.95)
    assert found(nothing, mark(40, 6, 0.9)) == [(0.9, 9)]
    assert found(mark(40, 6, 0.9), mark(10, 6, 0.8), most=1) == [(0.9, 9)]
    assert found() == []


def test_a_mark_whose_outline_has_no_end_is_a_ball_of_its_size() -> None:
    """On a grid of 1 × 0.5 × 0.5 mm; at the scan's edge the ball is cut. What no finding is stays none."""
    volume = Volume(np.zeros(SHAPE, np.float32), Geometry.axial(SHAPE, (1.0, 0.5, 0.5)))

    def leaking(volume: Volume, prompt: Prompt) -> tuple[Box, NDArray[np.bool_]]:
        raise NoEnd("no end")

    marks = [Candidate((15, 12, 20), 9.0, 0.9), Candidate((16, 12, 20), 6.0, 0.8), Candidate((0, 12, 3), 4.0, 0.7)]
    doubtful = Candidate((25, 25, 20), 9.0, 0.4)
    first, edge = outline_all(volume, [*marks, doubtful], 0.5, 9, leaking, lambda done: None)
    assert (first.score, edge.score) == (0.9, 0.7) and not first.outlined and not edge.outlined
    assert first.box == Box((16, 15, 21), (25, 34, 40)), "9 mm about (20, 24, 30)"
    assert first.mask.sum() * 0.25 == pytest.approx(np.pi / 6 * 9**3, rel=0.1)
    assert edge.box.start[2] == 0 and edge.mask.any()


def test_a_finding_stands_where_another_mark_s_outline_has_no_end() -> None:
    """Whichever of the two is the likelier."""
    volume = Volume(np.zeros(SHAPE, np.float32), Geometry.axial(SHAPE, (1.0, 1.0, 1.0)))
    wide, small = mark(30, 8, 0.9), mark(31, 6, 0.8)

    def leaking(volume: Volume, prompt: Prompt) -> tuple[Box, NDArray[np.bool_]]:
        if prompt.stop[2] - prompt.start[2] > 10:
            raise NoEnd("no end")
        return outline(volume, prompt)

    for marks in ([wide, small], [replace(small, score=0.95), wide]):
        (kept,) = outline_all(volume, marks, 0.5, 9, leaking, lambda done: None)
        assert kept.outlined and kept.score == next(m.score for m in marks if m.diameter_mm == 6)
    apart = outline_all(volume, [replace(wide, score=0.7), mark(10, 6, 0.8)], 0.5, 9, leaking, lambda done: None)
    assert [(f.score, f.outlined) for f in apart] == [(0.8, True), (0.7, False)], "the likelier first"


# ---------------------------------------------------------------- outlined anew


def finding(score: float, start: tuple[int, int, int], stop: tuple[int, int, int]) -> Finding:
    """A corner of its box is not outlined."""
    box = Box(start, stop)
    mask = np.ones(box.shape, dtype=bool)
    mask[0, 0, 0] = False
    return Finding(score, box, mask)


def test_a_grown_box_prompts_and_its_outline_replaces_the_finding() -> None:
    """Each side half as long again round the same middle, and told as a rough box: nobody drew it."""
    volume = Volume(np.zeros(SHAPE, np.float32), Geometry.axial(SHAPE, (1.0, 1.0, 1.0)))
    asked: list[Prompt] = []
    told: list[float] = []

    def noting(volume: Volume, prompt: Prompt) -> tuple[Box, NDArray[np.bool_]]:
        asked.append(prompt)
        return outline(volume, prompt)

    found = [finding(0.9, (10, 20, 30), (14, 28, 32)), finding(0.6, (20, 40, 40), (24, 44, 44))]
    again = refined(volume, found, 1.5, noting, told.append)
    assert asked[0] == Prompt((9.0, 18.0, 29.5), (15.0, 30.0, 32.5), ROUGH)
    assert asked[1] == Prompt((19.0, 39.0, 39.0), (25.0, 45.0, 45.0), ROUGH)
    assert [f.score for f in again] == [0.9, 0.6] and told == [0, 0.5]
    assert again[0].box == Box((9, 18, 29), (15, 30, 32)) and again[1].box == Box((19, 39, 39), (25, 45, 45))
    assert all(f.mask.shape == f.box.shape and f.mask.all() for f in again)


def test_where_nothing_is_found_anew_the_finding_stands() -> None:
    volume = Volume(np.zeros(SHAPE, np.float32), Geometry.axial(SHAPE, (1.0, 1.0, 1.0)))
    blank = finding(0.9, (4, 4, 4), (7, 7, 7))  # its middle is EMPTY
    other = finding(0.6, (20, 40, 40), (24, 44, 44))
    kept, changed = refined(volume, [blank, other], 1.0, outline, lambda done: None)
    assert kept is blank
    assert changed.box == other.box and changed.mask.all() and not other.mask.all()
    assert refined(volume, [], 1.2, outline, lambda done: None) == []
