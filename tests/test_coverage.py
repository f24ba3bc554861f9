"""What of the lungs was searched, on a made chest; real scans stand in test_lungs_disease.py."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from made_chest import GRID, egg
from nodulens.core.coverage import Coverage, SideCoverage
from nodulens.core.geometry import Geometry
from nodulens.core.volume import Mask, Volume
from nodulens.stages.coverage import lung_coverage
from nodulens.stages.lungs import segment_lungs


def chest() -> NDArray[np.int16]:
    """Two lungs of one value beside a spine, ribs round them."""
    hu = np.full(GRID.shape, -1000, dtype=np.int16)
    tube = 1e6
    hu[egg((0, 0, 0), (160, 115, tube))] = 40
    hu[egg((0, 0, 0), (148, 103, tube)) & ~egg((0, 0, 0), (142, 97, tube))] = 400
    hu[egg((0, 60, 0), (16, 16, tube))] = 400
    for x in (75, -75):
        hu[egg((x, 5, 110), (60, 84, 95))] = -860
    return hu


def covered(hu: NDArray[np.int16]) -> Coverage:
    volume = Volume(hu, GRID)
    return lung_coverage(volume, segment_lungs(volume))


def test_two_whole_lungs_are_complete() -> None:
    coverage = covered(chest())
    assert coverage.complete and coverage.headline == "" and coverage.opacities == ()
    assert coverage.left.searched_ml == pytest.approx(coverage.right.searched_ml, rel=0.02)


@pytest.mark.parametrize(("fill", "kind"), [(5, "fluid"), (45, "solid tissue")])
@pytest.mark.parametrize(("side", "sign"), [("left", 1), ("right", -1)])
def test_a_lung_without_air_is_the_first_thing_to_say(side: str, sign: int, fill: int, kind: str) -> None:
    hu = chest()
    hu[egg((sign * 75, 5, 110), (60, 84, 95))] = fill
    coverage = covered(hu)
    assert coverage.headline == f"All of the {side} lung was not searched"
    assert coverage.reasons[0].startswith(f"No {side} lung was found")
    assert [(o.kind, o.side, o.share) for o in coverage.opacities] == [(kind, side, 1.0)]


def test_fluid_behind_both_lungs_is_seen_without_a_healthy_side() -> None:
    hu = chest()
    behind = (np.arange(110) * 2.5 - 136.25 > 45)[None, :, None] & (hu == -860)
    hu[behind] = 5
    coverage = covered(hu)
    assert {(o.kind, o.side) for o in coverage.opacities} == {("fluid", "left"), ("fluid", "right")}
    assert coverage.headline.endswith("lung was not searched") and " and " in coverage.headline


@pytest.mark.parametrize(
    ("z", "x", "words"),
    [
        (slice(25, None), slice(None), "cut off at the bottom"),
        (slice(0, 30), slice(None), "cut off at the top"),
        (slice(20, 35), slice(None), "cut off at the top and bottom"),
        (slice(None), slice(24, None), "ends inside the lungs (right)"),
        (slice(None), slice(0, 116), "ends inside the lungs (left)"),
    ],
)
def test_where_the_scan_ends_inside_the_lungs_is_said(z: slice, x: slice, words: str) -> None:
    hu = np.ascontiguousarray(chest()[z, :, x])
    volume = Volume(hu, Geometry.axial(hu.shape, GRID.spacing_zyx))
    coverage = lung_coverage(volume, segment_lungs(volume))
    assert words in coverage.reasons[0]
    assert coverage.headline == "The scan ends inside the lungs: what lies beyond was not searched"


def test_dense_lung_is_named_and_searched() -> None:
    hu = chest()
    hu[(hu == -860) & (np.arange(60) < 32)[:, None, None]] = -550
    coverage = covered(hu)
    assert coverage.complete
    assert {(o.kind, o.side) for o in coverage.opacities} == {("dense lung", "left"), ("dense lung", "right")}


@pytest.mark.parametrize(("share", "words"), [(0.06, "About 5 % of"), (0.44, "About 45 % of"), (0.97, "All of")])
def test_shares_are_rounded_to_what_an_estimate_is_worth(share: float, words: str) -> None:
    sides = SideCoverage(1000.0, 1.0, share), SideCoverage(1000.0, 0.0, 0.0)
    assert Coverage(False, ("So it is.",), *sides, ()).headline == f"{words} the left lung was not searched"


def test_labels_need_no_particular_type() -> None:
    volume = Volume(chest(), GRID)
    lungs = segment_lungs(volume)
    wide = Mask(lungs.labels.astype(np.uint16), GRID, lungs.names)
    assert lung_coverage(volume, wide) == lung_coverage(volume, lungs)
