"""Marks to findings: what is kept, merged and outlined by which mark."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from nodulens.core.geometry import Geometry
from nodulens.core.nodule import Box, Candidate
from nodulens.core.volume import Volume
from nodulens.errors import BadPrompt
from nodulens.stages.findings import outline_all
from nodulens.stages.prompt import Prompt

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
