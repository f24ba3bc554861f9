"""Segmentation metrics, against SimpleITK, plain loops and worked cases; and the readers of the real outlines."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion
from scipy.spatial.distance import cdist

from nodulens.core.geometry import Geometry
from nodulens.core.volume import Mask
from nodulens.data.material import Stacks
from nodulens.errors import BadGeometry, BadOption, BadValues
from nodulens.metrics.segmentation import (
    Overlap,
    compare,
    compare_labels,
    consensus,
    reader_pairs,
    readers_left_out,
    summarise,
    summarise_by,
    surface_distances,
)
from nodulens.metrics.statistics import Groups

SPACING = (2.5, 0.7, 0.7)
EMPTY = np.zeros((3, 4, 4), dtype=bool)


def blob(seed: int, shape: tuple[int, ...] = (9, 20, 22)) -> NDArray:
    """A random body, possibly in pieces, that may touch the edges of its array."""
    rng = np.random.default_rng(seed)
    points = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1)
    out = np.zeros(shape, dtype=bool)
    for _ in range(3):
        centre, radius = rng.uniform(0, shape), rng.uniform(1, np.array(shape) / 2)
        out |= (((points - centre) / radius) ** 2).sum(-1) <= 1
    return out


def one(*index: int, shape: tuple[int, ...] = (5, 9, 9)) -> NDArray:
    out = np.zeros(shape, dtype=bool)
    out[index] = True
    return out


def image(mask: NDArray, spacing: tuple[float, ...]) -> sitk.Image:
    out = sitk.GetImageFromArray(mask.astype(np.uint8))
    out.SetSpacing(spacing[::-1])
    return out


# ---------------------------------------------------------------- overlap and volume


@pytest.mark.parametrize("seed", range(6))
def test_overlap_is_simpleitks(seed: int) -> None:
    truth, predicted = blob(seed), blob(seed + 50)
    found = compare(truth, predicted, SPACING)
    measure = sitk.LabelOverlapMeasuresImageFilter()
    measure.Execute(image(predicted, SPACING), image(truth, SPACING))
    assert found.dice == pytest.approx(measure.GetDiceCoefficient())
    assert found.iou == pytest.approx(measure.GetJaccardCoefficient())
    assert 1 - found.sensitivity == pytest.approx(measure.GetFalseNegativeError())
    assert 1 - found.precision == pytest.approx(measure.GetFalseDiscoveryRate())
    statistics = sitk.LabelShapeStatisticsImageFilter()
    sizes = []
    for mask in (truth, predicted):
        statistics.Execute(image(mask, SPACING))
        sizes.append(statistics.GetPhysicalSize(1))
    assert (found.truth_mm3, found.predicted_mm3) == pytest.approx(tuple(sizes))
    assert found.volume_error_mm3 == pytest.approx(sizes[1] - sizes[0])
    assert found.volume_error_percent == pytest.approx(100 * (sizes[1] / sizes[0] - 1))


def test_the_table_of_empty_masks() -> None:
    full = ~EMPTY
    both = compare(EMPTY, EMPTY, SPACING)
    assert (both.dice, both.iou, both.volume_error_mm3) == (1, 1, 0)
    assert np.isnan([both.sensitivity, both.precision, both.hd95_mm, both.surface_mm, both.volume_error_percent]).all()
    invented = compare(EMPTY, full, SPACING)
    assert (invented.dice, invented.iou, invented.precision) == (0, 0, 0)
    assert invented.volume_error_mm3 == pytest.approx(48 * 2.5 * 0.49)
    assert np.isnan([invented.sensitivity, invented.hd95_mm, invented.volume_error_percent]).all()
    missed = compare(full, EMPTY, SPACING)
    assert (missed.dice, missed.iou, missed.sensitivity, missed.volume_error_percent) == (0, 0, 0, -100)
    assert np.isnan([missed.precision, missed.hd95_mm, missed.surface_mm]).all()


def test_a_ball_has_its_diameter() -> None:
    z, y, x = np.ogrid[-12:13, -30:31, -30:31]
    found = compare(
        (z * 1.25) ** 2 + (y / 2) ** 2 + (x / 2) ** 2 <= 10**2, np.zeros((25, 61, 61), bool), (1.25, 0.5, 0.5)
    )
    assert found.truth_diameter_mm == pytest.approx(20, abs=0.1)


# ---------------------------------------------------------------- surfaces


def surface(mask: NDArray) -> NDArray:
    """Voxels with a face neighbour outside, one by one."""
    out = np.zeros_like(mask)
    padded = np.pad(mask, 1)
    for at in np.argwhere(mask):
        steps = np.concatenate([np.eye(mask.ndim, dtype=int), -np.eye(mask.ndim, dtype=int)])
        out[tuple(at)] = not all(padded[tuple(at + 1 + step)] for step in steps)
    return out


@pytest.mark.parametrize("shape", [(9, 20, 22), (25, 30)])
@pytest.mark.parametrize("seed", range(4))
def test_distances_are_those_of_all_pairs(seed: int, shape: tuple[int, ...]) -> None:
    spacing = SPACING[: len(shape)]
    a, b = blob(seed, shape), blob(seed + 50, shape)
    pairs = cdist(np.argwhere(surface(a)) * spacing, np.argwhere(surface(b)) * spacing)
    there, back = surface_distances(a, b, spacing)
    assert there == pytest.approx(pairs.min(1)) and back == pytest.approx(pairs.min(0))
    found = compare(a, b, spacing)
    assert found.hd95_mm == pytest.approx(max(np.percentile(pairs.min(1), 95), np.percentile(pairs.min(0), 95)))
    assert found.surface_mm == pytest.approx(np.concatenate([pairs.min(0), pairs.min(1)]).mean())
    turned = compare(b, a, spacing)
    assert (turned.hd95_mm, turned.surface_mm) == pytest.approx((found.hd95_mm, found.surface_mm))


@pytest.mark.parametrize("seed", range(4))
def test_the_largest_and_mean_distance_are_simpleitks(seed: int) -> None:
    a, b = blob(seed), blob(seed + 50)
    there, back = surface_distances(a, b, SPACING)
    on_a, on_b = (image(mask & ~binary_erosion(mask), SPACING) for mask in (a, b))
    hausdorff = sitk.HausdorffDistanceImageFilter()
    hausdorff.Execute(on_a, on_b)
    assert max(there.max(), back.max()) == pytest.approx(hausdorff.GetHausdorffDistance(), rel=1e-5)
    maurer = sitk.SignedMaurerDistanceMapImageFilter()
    maurer.SetUseImageSpacing(True)
    maurer.SetSquaredDistance(False)
    # inside a body the map is below 0
    maps = [np.maximum(sitk.GetArrayFromImage(maurer.Execute(on)), 0) for on in (on_b, on_a)]
    for found, far, on in zip((there, back), maps, (on_a, on_b), strict=True):
        assert found == pytest.approx(far[sitk.GetArrayFromImage(on) > 0], rel=1e-5, abs=1e-5)


def test_one_voxel_against_another() -> None:
    found = compare(one(1, 2, 2), one(3, 2, 6), SPACING)
    assert (found.dice, found.hd95_mm, found.surface_mm) == pytest.approx((0, np.hypot(5, 2.8), np.hypot(5, 2.8)))
    same = compare(one(1, 2, 2), one(1, 2, 2), SPACING)
    assert (same.dice, same.hd95_mm, same.surface_mm) == (1, 0, 0)
    assert compare(np.ones((1, 1), bool), np.ones((1, 1), bool), (1, 1)).dice == 1


def test_spacing_is_taken_axis_by_axis() -> None:
    for axis, expected in enumerate(SPACING):
        moved = np.roll(one(2, 4, 4), 1, axis)
        assert compare(one(2, 4, 4), moved, SPACING).hd95_mm == pytest.approx(expected)


def test_touching_cubes_by_hand() -> None:
    a, b = np.zeros((2, 4, 4, 8), dtype=bool)
    a[:, :, :4], b[:, :, 4:] = True, True
    there, back = surface_distances(a, b, (1, 1, 1))
    # the faces that touch are 1 mm apart, the far ones 4; of the 56 surface voxels 16, 12, 12 and 16 lie so far
    assert [int((there == k).sum()) for k in (1, 2, 3, 4)] == [16, 12, 12, 16]
    found = compare(a, b, (1, 1, 1))
    assert (found.dice, found.hd95_mm, found.surface_mm) == (0, 4, 2.5) and back.mean() == 2.5


def test_a_hole_has_a_surface_and_the_inside_has_none() -> None:
    whole = np.ones((5, 5, 5), dtype=bool)
    hollow = whole.copy()
    hollow[2, 2, 2] = False
    there, back = surface_distances(whole, hollow, (1, 1, 1))
    # beyond the array all is outside, so the shell is surface: 98 voxels; the hole adds the six around it
    assert (len(there), len(back)) == (98, 104) and there.max() == 0
    assert np.sort(back)[-7:].tolist() == [0, 1, 1, 1, 1, 1, 1]


def test_the_95th_percentile_is_taken_each_way() -> None:
    # a needle on a plate: few of the plate's voxels, but most of the needle's, lie far
    plate = np.zeros((60, 21, 21), dtype=bool)
    plate[0] = True
    needle = plate & False
    needle[:, 10, 10] = True
    there, back = surface_distances(plate, needle, (1, 1, 1))
    found = compare(plate, needle, (1, 1, 1))
    assert found.hd95_mm == pytest.approx(np.percentile(back, 95)) and found.hd95_mm > np.percentile(there, 95)
    assert found.hd95_mm > np.percentile(np.concatenate([there, back]), 95)


def test_where_the_arrays_edge_lies_does_not_matter() -> None:
    a, b = blob(3), blob(53)
    wide = [np.pad(m, ((1, 4), (7, 2), (0, 30))) for m in (a, b)]
    assert compare(*wide, SPACING) == compare(a, b, SPACING)


# ---------------------------------------------------------------- classes


def test_classes_are_joined_by_name() -> None:
    grid = Geometry.axial((2, 3, 4), SPACING)
    truth, predicted = np.zeros((2, 2, 3, 4), dtype=np.uint8)
    truth[0], truth[1, 0] = 1, 2
    predicted[0], predicted[1, 1] = 7, 9
    found = compare_labels(
        Mask(truth, grid, {1: "left lung", 2: "nodule", 3: "airway"}),
        Mask(predicted, grid, {7: "left lung", 9: "vessel"}),
    )
    assert list(found) == ["left lung", "nodule", "airway", "vessel"]
    assert [o.dice for o in found.values()] == [1, 0, 1, 0]
    assert (found["nodule"].predicted_voxels, found["vessel"].truth_voxels) == (0, 0)
    other = Mask(truth, Geometry.axial((2, 3, 4), (1, 1, 1)), {1: "left lung", 2: "nodule"})
    with pytest.raises(BadGeometry, match="different grids"):
        compare_labels(Mask(truth, grid, {1: "left lung", 2: "nodule"}), other)


# ---------------------------------------------------------------- many cases


def case(truth: int, predicted: int, common: int) -> Overlap:
    far = 1.0 if truth and predicted else np.nan
    return Overlap(truth, predicted, common, 2.0, 3 * far, far)


CASES = [case(100, 100, 80), case(10, 30, 10), case(50, 0, 0), case(0, 20, 0), case(0, 0, 0)]
PATIENTS = ["a", "a", "b", "c", "d"]


def test_a_summary_counts_what_is_empty() -> None:
    found = summarise(CASES, PATIENTS, samples=200)
    assert (found.cases, found.both_empty, found.invented, found.missed, found.without_distance) == (5, 1, 1, 1, 3)
    assert found.dice.value == pytest.approx((0.8 + 0.5 + 0) / 3)
    assert found.dice_all.value == pytest.approx((0.8 + 0.5 + 0 + 0 + 1) / 5)
    assert found.sensitivity.value == pytest.approx((0.8 + 1 + 0) / 3)
    assert found.precision.value == pytest.approx((0.8 + 1 / 3) / 2)
    assert (found.hd95_mm.value, found.surface_mm.value) == (3, 1)
    assert found.volume_error_mm3.value == pytest.approx(2 * (0 + 20 - 50) / 3)
    assert found.volume_error_percent.value == pytest.approx((0 + 200 - 100) / 3)
    assert found.absolute_volume_error_percent.value == pytest.approx(100)


def test_a_summary_of_one_and_of_nothing_but_empties() -> None:
    found = summarise(CASES[:1], ["a"], samples=20)
    assert (found.dice.value, found.dice.low, found.dice.high) == (0.8, 0.8, 0.8)
    empty = summarise(CASES[4:], ["d"], samples=20)
    assert empty.dice_all.value == 1 and np.isnan([empty.dice.value, empty.dice.low, empty.hd95_mm.value]).all()


def test_sizes_are_summed_up_apart() -> None:
    sizes = Groups.bands([c.truth_diameter_mm for c in CASES], (3, 7))
    found = summarise_by(CASES, PATIENTS, sizes, samples=20)
    assert list(found) == ["< 3 mm", "3–7 mm", "≥ 7 mm"]
    assert [s.cases for s in found.values()] == [2, 2, 1]
    assert found["3–7 mm"].dice.value == pytest.approx(0.25) and found["< 3 mm"].both_empty == 1
    with pytest.raises(BadValues, match="one each"):
        summarise_by(CASES, PATIENTS[:2], sizes)
    with pytest.raises(BadValues, match="patients"):
        summarise(CASES, PATIENTS[:2])
    with pytest.raises(BadValues, match="patients"):
        summarise([], [])


# ---------------------------------------------------------------- wrong input


def test_masks_that_cannot_be_compared() -> None:
    with pytest.raises(BadValues, match="threshold"):
        compare(EMPTY, EMPTY.astype(float), SPACING)
    with pytest.raises(BadGeometry, match="one shape"):
        compare(EMPTY, EMPTY[:2], SPACING)
    with pytest.raises(BadGeometry, match="two or three axes"):
        compare(EMPTY[0, 0], EMPTY[0, 0], (1,))
    for spacing in ((1, 1), (1, 1, 0), (1, np.nan, 1)):
        with pytest.raises(BadGeometry, match="positive spacings"):
            compare(EMPTY, EMPTY, spacing)
    for masks in (EMPTY, EMPTY[None], np.zeros((2, 3, 4, 4))):
        with pytest.raises(BadValues, match="2 at least"):
            reader_pairs(masks[:1], SPACING)
        with pytest.raises(BadValues, match="2 at least"):
            readers_left_out(masks[:1], SPACING)
    for share in (0, 1.5):
        with pytest.raises(BadOption, match="share"):
            consensus(EMPTY, share)


# ---------------------------------------------------------------- readers among themselves


def test_the_consensus_is_at_least_its_share() -> None:
    masks = np.array([[[1, 1, 1, 0]], [[1, 1, 0, 0]], [[1, 0, 0, 0]]], dtype=bool)
    assert consensus(masks).tolist() == [[True, True, False, False]]
    assert consensus(masks[:2]).tolist() == [[True, True, True, False]]
    assert consensus(masks, 1 / 3).tolist() == [[True, True, True, False]]
    assert consensus(masks, 2 / 3).tolist() == [[True, True, False, False]]
    assert consensus(masks, 1).tolist() == [[True, False, False, False]]


def test_readers_are_paired_and_left_out() -> None:
    masks = np.stack([blob(k) for k in range(3)])
    pairs, left = reader_pairs(masks, SPACING), readers_left_out(masks, SPACING)
    assert pairs == tuple(compare(masks[i], masks[j], SPACING) for i, j in ((0, 1), (0, 2), (1, 2)))
    assert left[1] == compare(masks[0] | masks[2], masks[1], SPACING)
    assert [o.dice for o in readers_left_out(masks[:2], SPACING)] == [pairs[0].dice] * 2


def test_what_readers_reach_on_the_stacks(shared: Path) -> None:
    """The figures of docs/evaluation.md: Dice of all nodules by counting, a part of them through the functions."""
    stacks = Stacks(shared)
    paired: dict[int, list[float]] = {2: [], 3: [], 4: []}
    left: list[list[float]] = []
    for place, nodule in enumerate(stacks.nodules.tolist()):
        readers = stacks.readers(nodule)
        if readers < 2:
            continue
        masks = stacks.masks(nodule)
        flat = masks.reshape(readers, -1).astype(np.float32)
        common = flat @ flat.T
        pairs = [2 * common[i, j] / (common[i, i] + common[j, j]) for i, j in combinations(range(readers), 2)]
        others = [np.mean(np.delete(flat, k, axis=0), axis=0) >= 0.5 for k in range(readers)]
        rest = [2 * (r @ o) / (r.sum() + o.sum()) for r, o in zip(flat, others, strict=True)]
        paired[readers].append(float(np.mean(pairs)))
        if readers > 2:
            left.append(rest)
        if place % 40 == 0:
            spacing = stacks.spacing_zyx(nodule)
            assert [o.dice for o in reader_pairs(masks, spacing)] == pytest.approx(pairs, rel=1e-6)
            assert [o.dice for o in readers_left_out(masks, spacing)] == pytest.approx(rest, rel=1e-6)
    assert [round(float(np.mean(paired[n])), 3) for n in (2, 3, 4)] == [0.718, 0.727, 0.775]
    # over readers; 0.783 where a nodule counts one, however many readers it has
    assert round(float(np.mean(np.concatenate(left))), 3) == 0.788
    assert round(float(np.mean([np.mean(rest) for rest in left])), 3) == 0.783
