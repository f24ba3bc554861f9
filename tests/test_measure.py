"""Measurement and place, pinned by bodies of known size in voxels that each hold their share of them."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from nodulens.core.geometry import Geometry
from nodulens.core.nodule import Box, Measurements, Side
from nodulens.core.volume import Mask, SliceRef, Source, Volume
from nodulens.data.material import Cubes
from nodulens.stages.measure import measure, texture
from nodulens.stages.position import hilum, locate, lung_extent

LUNG, NODULE = -850.0, 50.0
NAMES = {1: "left lung", 2: "right lung"}
Inside = Callable[[NDArray[np.float64]], NDArray[np.bool_]]


def share_inside(shape: tuple[int, ...], spacing: tuple[float, ...], inside: Inside, fine: int = 4) -> NDArray:
    """How much of each voxel lies in a body given by (z, y, x) mm from the middle of the grid."""
    axes = [((np.arange(n * fine) + 0.5) / fine - n / 2) * s for n, s in zip(shape, spacing, strict=True)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    z, y, x = shape
    return inside(points).reshape(z, fine, y, fine, x, fine).mean(axis=(1, 3, 5))


def ellipsoid(matrix: NDArray, centre: NDArray) -> Inside:
    return lambda points: np.einsum("...i,ij,...j->...", points - centre, matrix, points - centre) <= 1


def ball(diameter: float, centre: NDArray) -> Inside:
    return ellipsoid(np.eye(3) * 4 / diameter**2, centre)


def grid_round(diameter: float, spacing: tuple[float, ...]) -> tuple[int, ...]:
    return tuple(int(np.ceil(diameter / s)) + 9 for s in spacing)


def all_lung(shape: tuple[int, ...], spacing: tuple[float, ...]) -> Mask:
    labels = np.ones(shape, dtype=np.uint8)
    labels[:, 0] = 0
    return Mask(labels, Geometry.axial(shape, spacing), NAMES)


def measured(hu: NDArray, mask: NDArray, spacing: tuple[float, ...], lungs: Mask | None = None) -> Measurements:
    box = Box.of_mask(mask)
    volume = Volume(hu.astype(np.float32), Geometry.axial(hu.shape, spacing))
    return measure(volume, box, mask[box.slices], lungs or all_lung(hu.shape, spacing))


def ten_balls(diameter: float, spacing: tuple[float, ...], noise: float = 0) -> list[Measurements]:
    rng = np.random.default_rng(3)
    shape = grid_round(diameter, spacing)
    found = []
    for _ in range(10):
        share = share_inside(shape, spacing, ball(diameter, rng.uniform(-0.5, 0.5, 3) * spacing))
        hu = LUNG + (NODULE - LUNG) * share + rng.normal(0, noise, shape)
        found.append(measured(hu, share >= 0.5, spacing))
    return found


def mean(found: list[Measurements], name: str) -> float:
    return float(np.mean([getattr(one, name) for one in found]))


@pytest.mark.parametrize("noise", [0, 30])
@pytest.mark.parametrize(
    ("diameter", "spacing", "tolerance"),
    [
        (15.0, (1.0, 1.0, 1.0), 0.02),
        (15.0, (2.5, 0.7, 0.7), 0.05),
        (6.0, (1.0, 1.0, 1.0), 0.05),
        (6.0, (2.5, 0.7, 0.7), 0.10),
    ],
)
def test_a_ball_has_its_volume_and_diameters(
    diameter: float, spacing: tuple[float, ...], tolerance: float, noise: float
) -> None:
    found = ten_balls(diameter, spacing, noise)
    assert mean(found, "volume_mm3") == pytest.approx(np.pi / 6 * diameter**3, rel=tolerance)
    for name in ("long_axis_mm", "short_axis_mm", "mean_diameter_mm", "equivalent_diameter_mm"):
        assert mean(found, name) == pytest.approx(diameter, abs=spacing[1] / 2), name
    assert mean(found, "max_diameter_3d_mm") == pytest.approx(diameter, abs=spacing[0] / 2)
    assert mean(found, "surface_mm2") == pytest.approx(np.pi * diameter**2, rel=0.06)
    assert 0.95 <= mean(found, "sphericity") <= 1
    assert mean(found, "solid_share") > 0.98
    assert mean(found, "solid_diameter_mm") == pytest.approx(diameter, abs=spacing[1] / 2)


def test_every_single_ball_is_near_its_volume() -> None:
    """No lucky mean: each of the ten lies within the tolerance by itself."""
    for one in ten_balls(6.0, (1.0, 1.0, 1.0)):
        assert one.volume_mm3 == pytest.approx(36 * np.pi, rel=0.05)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.0, 0.7, 0.7)])
def test_a_tilted_ellipsoid_has_its_axes(seed: int, spacing: tuple[float, ...]) -> None:
    rng = np.random.default_rng(seed)
    half = np.array([13.0, 8.0, 6.0])
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    matrix = turn @ np.diag(half**-2.0) @ turn.T
    shape = grid_round(26, spacing)
    share = share_inside(shape, spacing, ellipsoid(matrix, np.zeros(3)))
    found = measured(LUNG + (NODULE - LUNG) * share, share >= 0.5, spacing)
    assert found.volume_mm3 == pytest.approx(4 / 3 * np.pi * half.prod(), rel=0.02)
    assert found.max_diameter_3d_mm == pytest.approx(26, abs=max(spacing) / 2)
    section = 2 / np.sqrt(np.linalg.eigvalsh(matrix[1:, 1:]))  # axes of the axial cut through the middle
    assert found.long_axis_mm == pytest.approx(section.max(), abs=0.5)
    assert found.short_axis_mm == pytest.approx(section.min(), abs=0.5)
    power = 1.6075  # Thomsen's formula, good to 1.1 %
    pairs = (half[[0, 0, 1]] * half[[1, 2, 2]]) ** power
    assert found.surface_mm2 == pytest.approx(4 * np.pi * pairs.mean() ** (1 / power), rel=0.04)
    assert found.sphericity < 0.97


def test_the_short_axis_is_a_chord_at_right_angles() -> None:
    """A 3-4-5 right triangle: across its longest side it measures 2.4, wherever the bounding box lies."""
    spacing = (1.0, 0.25, 0.25)
    shape = (9, 200, 200)

    def triangle(p: NDArray) -> NDArray:
        y, x = p[..., 1] + 10, p[..., 2] + 10
        return (np.abs(p[..., 0]) < 2.5) & (y > 0) & (x > 0) & (y / 15 + x / 20 < 1)

    share = share_inside(shape, spacing, triangle, fine=2)
    found = measured(LUNG + (NODULE - LUNG) * share, share >= 0.5, spacing)
    assert found.long_axis_mm == pytest.approx(25, abs=0.4)
    assert found.short_axis_mm == pytest.approx(12, abs=0.3)


@pytest.mark.parametrize("steps", [-1, 1])
def test_a_mask_one_voxel_off_is_put_right(steps: int) -> None:
    from scipy import ndimage

    share = share_inside((27, 27, 27), (1.0,) * 3, ball(15, np.array([0.2, -0.3, 0.1])))
    mask = (ndimage.binary_dilation if steps > 0 else ndimage.binary_erosion)(share >= 0.5)
    truth = np.pi / 6 * 15**3
    found = measured(LUNG + (NODULE - LUNG) * share, mask, (1.0,) * 3)
    assert abs(found.volume_mm3 - truth) < 0.4 * abs(mask.sum() - truth)
    assert found.equivalent_diameter_mm == pytest.approx(15, abs=1)


def test_a_single_voxel_has_finite_numbers() -> None:
    mask = np.zeros((9, 9, 9), dtype=bool)
    mask[4, 4, 4] = True
    for hu in (np.where(mask, NODULE, LUNG), np.full(mask.shape, LUNG), np.full(mask.shape, NODULE)):
        found = measured(hu, mask, (2.0, 1.0, 1.0))
        assert found.volume_mm3 == pytest.approx(2.0)
        assert 0.7 < found.short_axis_mm <= found.long_axis_mm < 1.5
        assert found.std_hu == 0
        assert all(np.isfinite(value) for value in vars(found).values())


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_ball_cut_by_the_end_of_the_scan_counts_what_was_scanned(axis: int) -> None:
    share = np.moveaxis(share_inside((26, 26, 26), (1.0,) * 3, ball(14, np.zeros(3)))[13:], 0, axis)
    found = measured(LUNG + (NODULE - LUNG) * share, share >= 0.5, (1.0,) * 3)
    assert found.volume_mm3 == pytest.approx(np.pi / 12 * 14**3, rel=0.02)
    assert found.max_diameter_3d_mm == pytest.approx(14, abs=0.5)


def test_a_cavity_inside_the_mask_counts() -> None:
    shape, spacing = grid_round(20, (1.0,) * 3), (1.0,) * 3
    outer, inner = (share_inside(shape, spacing, ball(d, np.zeros(3))) for d in (20, 9))
    hu = LUNG + (NODULE - LUNG) * outer + (-990 - NODULE) * inner
    found = measured(hu, outer >= 0.5, spacing)
    assert found.volume_mm3 == pytest.approx(np.pi / 6 * 20**3, rel=0.02)
    assert found.p5_hu < -900
    assert found.solid_share == pytest.approx(1 - (9 / 20) ** 3, abs=0.04)


def test_against_the_chest_wall_the_mask_decides() -> None:
    shape, spacing = (31, 31, 31), (1.0,) * 3
    share = share_inside(shape, spacing, ball(12, np.zeros(3)))
    wall = np.zeros(shape)
    wall[:, :11] = 1  # up to 4.5 mm from the middle: a slice of the ball lies in the wall
    mask = (share >= 0.5) & (wall == 0)
    lungs = Mask(np.where(wall == 0, 1, 0).astype(np.uint8), Geometry.axial(shape, spacing), NAMES)
    found = measured(LUNG + (NODULE - LUNG) * np.maximum(share, wall), mask, spacing, lungs)
    height = 6 + 4.5
    assert found.volume_mm3 == pytest.approx(np.pi * height**2 * (18 - height) / 3, rel=0.02)
    assert found.distance_to_pleura_mm == 0


def test_a_vessel_does_not_add_to_a_nodule() -> None:
    shape, spacing = (41, 27, 27), (1.0,) * 3
    share = share_inside(shape, spacing, ball(12, np.zeros(3)))
    vessel = share_inside(shape, spacing, lambda p: (np.hypot(p[..., 1], p[..., 2]) < 2.5) & (p[..., 0] > 0))
    found = measured(LUNG + (NODULE - LUNG) * np.maximum(share, vessel), share >= 0.5, spacing)
    assert found.volume_mm3 == pytest.approx(np.pi / 6 * 12**3, rel=0.03)


def test_without_contrast_voxels_are_counted() -> None:
    mask = share_inside((20, 20, 20), (1.0,) * 3, ball(9, np.zeros(3))) >= 0.5
    rng = np.random.default_rng(0)
    found = measured(rng.normal(LUNG, 25, mask.shape) + 60 * mask, mask, (1.0, 0.8, 0.8))
    assert found.volume_mm3 == pytest.approx(mask.sum() * 0.64)


def test_hu_are_those_of_the_masks_voxels() -> None:
    rng = np.random.default_rng(1)
    mask = rng.random((8, 8, 8)) < 0.5
    hu = rng.uniform(-900, 100, mask.shape).astype(np.float32)
    found = measured(hu, mask, (1.0,) * 3)
    assert found.mean_hu == pytest.approx(hu[mask].mean(), rel=1e-5)
    assert found.std_hu == pytest.approx(hu[mask].std(), rel=1e-5)
    assert (found.p5_hu, found.p50_hu, found.p95_hu) == pytest.approx(np.percentile(hu[mask], (5, 50, 95)), rel=1e-5)


@pytest.mark.parametrize("gap", [0, 1, 7, 25, 60])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_distance_to_the_pleura(gap: int, axis: int) -> None:
    """A cube ``gap`` voxels from the edge of the lung along one axis, in anisotropic voxels."""
    spacing = (2.0, 0.8, 0.8)
    shape = [90, 90, 90]
    labels = np.ones(shape, dtype=np.uint8)
    np.moveaxis(labels, axis, 0)[:10] = 0
    mask = np.zeros(shape, dtype=bool)
    np.moveaxis(mask, axis, 0)[10 + gap : 15 + gap, 43:48, 43:48] = True
    lungs = Mask(labels, Geometry.axial((90, 90, 90), spacing), NAMES)
    found = measured(np.where(mask, NODULE, LUNG), mask, spacing, lungs)
    assert found.distance_to_pleura_mm == pytest.approx(gap * spacing[axis])


def test_a_pleura_far_away_is_found_on_a_coarser_grid() -> None:
    """Of a long scan the whole would be hundreds of millions of voxels, several times over."""
    spacing, shape = (0.2, 0.8, 0.8), (500, 150, 150)
    labels = np.ones(shape, dtype=np.uint8)
    labels[:10] = 0
    mask = np.zeros(shape, dtype=bool)
    mask[261:290, 73:77, 73:77] = True  # 50.2 mm away
    lungs = Mask(labels, Geometry.axial(shape, spacing), NAMES)
    hu = np.where(mask, NODULE, LUNG)
    tracemalloc.start()
    found = measured(hu, mask, spacing, lungs)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.distance_to_pleura_mm == pytest.approx(251 * 0.2, abs=1.0)
    assert peak < 8 * hu.size


def test_where_no_pleura_is_seen_the_end_of_the_scan_bounds_the_lung() -> None:
    mask = np.zeros((20, 20, 20), dtype=bool)
    mask[8:12, 6:10, 8:12] = True
    lungs = Mask(np.ones(mask.shape, np.uint8), Geometry.axial((20, 20, 20)), NAMES)
    assert measured(np.where(mask, NODULE, LUNG), mask, (1.0,) * 3, lungs).distance_to_pleura_mm == pytest.approx(6)


@pytest.mark.parametrize(
    ("outer", "inner", "name"),
    [(NODULE, NODULE, "solid"), (-620.0, -620.0, "ground-glass"), (-620.0, 20.0, "part-solid")],
)
def test_texture_and_solid_part(outer: float, inner: float, name: str) -> None:
    spacing = (1.0, 0.7, 0.7)
    shape = grid_round(16, spacing)
    whole, middle = (share_inside(shape, spacing, ball(d, np.zeros(3))) for d in (16, 8))
    hu = LUNG + (outer - LUNG) * whole + (inner - outer) * middle
    found = measured(hu + np.random.default_rng(0).normal(0, 25, shape), whole >= 0.5, spacing)
    assert texture(found) == name
    assert found.volume_mm3 == pytest.approx(np.pi / 6 * 16**3, rel=0.06)
    solid = {"solid": 16, "ground-glass": 0, "part-solid": 8}[name]
    assert found.solid_diameter_mm == pytest.approx(solid, abs=0.7)


def test_masks_of_readers_keep_about_their_volume_and_texture(shared: Path) -> None:
    cubes = Cubes(shared)
    ratios, sizes, agreed = [], [], []
    rated = cubes.ratings.median("texture")
    for n in range(0, len(cubes), 8):  # a hundred or so, as sure as all of them
        mask = cubes.truth(n)
        found = measured(cubes.hu(n), mask, (1.0,) * 3)
        ratios.append(found.volume_mm3 / mask.sum())
        sizes.append(mask.sum())
        read = "ground-glass" if rated[n] < 2.5 else "part-solid" if rated[n] < 4.5 else "solid"
        agreed.append(texture(found) == read)
    assert len(ratios) > 90
    assert 0.94 < np.median(ratios) < 1.03
    assert min(ratios) > 0.65
    large = np.array(sizes) > 268  # below 8 mm much of a mask of such voxels is its edge
    assert np.max(ratios, where=large, initial=0) < 1.3
    assert max(ratios) < 1.6
    assert np.mean(agreed) > 0.78


# ---------------------------------------------------------------- position


def two_lungs() -> Mask:
    labels = np.zeros((90, 60, 80), dtype=np.uint8)
    labels[10:80, 10:50, 5:35] = 2
    labels[10:80, 10:50, 45:75] = 1
    return Mask(labels, Geometry.axial((90, 60, 80), (3.0, 3.0, 3.0)), NAMES)


def place(z: int, y: int, x: int, source: Source | None = None) -> tuple[str, str, str, int, int | None]:
    lungs = two_lungs()
    volume = Volume(np.zeros(lungs.labels.shape, np.int16), lungs.geometry, source or Source())
    mask = np.zeros((3, 3, 3), dtype=bool)
    mask[1] = mask[:, 1, 1] = True
    found = locate(volume, Box((z - 1, y - 1, x - 1), (z + 2, y + 2, x + 2)), mask, lungs)
    return found.side, found.zone, found.lobe_estimate, found.central_slice, found.instance_number


@pytest.mark.parametrize(
    ("at", "side", "zone", "lobe"),
    [
        ((75, 30, 20), "right", "upper", "right upper lobe"),
        ((75, 30, 60), "left", "upper", "left upper lobe"),
        ((40, 13, 20), "right", "middle", "right middle lobe"),
        ((40, 13, 60), "left", "middle", "left upper lobe"),
        ((15, 45, 20), "right", "lower", "right lower lobe"),
        ((15, 45, 60), "left", "lower", "left lower lobe"),
        ((50, 46, 20), "right", "middle", "right lower lobe"),  # the lower lobe reaches high behind
        ((45, 36, 2), "right", "middle", "right lower lobe"),  # off the lung: still its side
        ((45, 36, 42), "left", "middle", "left lower lobe"),
    ],
)
def test_side_zone_and_lobe(at: tuple[int, int, int], side: str, zone: str, lobe: str) -> None:
    assert place(*at)[:3] == (side, zone, lobe)


@pytest.mark.parametrize(
    ("slices", "at", "zone", "lobe"),
    [
        ((40, 60), (50, 30, 60), "unknown", "unknown"),  # 60 mm from the middle say nothing
        ((30, 90), (78, 30, 60), "upper", "left upper lobe"),  # near the apex, however far down the lung goes on
        ((30, 90), (35, 30, 60), "unknown", "unknown"),
        ((0, 60), (12, 45, 20), "lower", "right lower lobe"),  # near the base, however far up
        ((0, 60), (55, 13, 60), "unknown", "left upper lobe"),
        ((0, 90), (50, 30, 60), "middle", "left upper lobe"),
    ],
)
def test_zone_and_lobe_are_unknown_where_the_scan_shows_too_little(
    slices: tuple[int, int], at: tuple[int, int, int], zone: str, lobe: str
) -> None:
    whole = two_lungs()
    box = Box((slices[0], 0, 0), (slices[1], 60, 80))
    lungs = Mask(np.ascontiguousarray(whole.labels[box.slices]), whole.geometry.crop(box), NAMES)
    volume = Volume(np.zeros(box.shape, np.int16), lungs.geometry)
    z, y, x = at[0] - slices[0], at[1], at[2]
    found = locate(volume, Box.around((z, y, x), (1, 1, 1)), np.ones((1, 1, 1), dtype=bool), lungs)
    assert (found.zone, found.lobe_estimate) == (zone, lobe)


def towards(at: tuple[float, float, float], lungs: Mask) -> float | None:
    volume = Volume(np.zeros(lungs.labels.shape, np.int16), lungs.geometry)
    return locate(volume, Box.around(at, (1, 1, 1)), np.ones((1, 1, 1), dtype=bool), lungs).hilum_to_edge_estimate


@pytest.mark.parametrize(
    ("side", "inner", "edge", "off"), [("left", 54, 74, 77), ("right", 25, 5, 2)], ids=["left", "right"]
)
def test_how_far_from_the_hilum_towards_the_edge(side: Side, inner: int, edge: int, off: int) -> None:
    """From a hilum at half of the height, towards the chest wall, in mirrored lungs."""
    lungs = two_lungs()
    z, y, x = hilum(lung_extent(lungs, side), side)
    assert abs(x - inner) < 2 and 40 < z < 55 and 30 < y < 36
    along = [towards((z, y, x + share * (edge - x)), lungs) for share in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert np.allclose(np.array(along, dtype=float), (0.0, 0.25, 0.5, 0.75, 1.0), atol=0.08)
    assert towards((z, y, off), lungs) == 1.0, "off the lung, and still its side"
    assert towards((79, y, edge), lungs) == pytest.approx(1.0, abs=0.03), "the edge is that of the apex too"


def test_a_lung_that_is_cut_off_or_absent_has_no_hilum() -> None:
    whole = two_lungs()
    box = Box((0, 0, 0), (60, 60, 80))
    cut = Mask(np.ascontiguousarray(whole.labels[box.slices]), whole.geometry.crop(box), NAMES)
    assert towards((40, 30, 60), cut) is None and towards((40, 30, 20), cut) is None
    only_right = Mask(np.where(whole.labels == 2, whole.labels, 0).astype(np.uint8), whole.geometry, NAMES)
    assert towards((40, 30, 78), only_right) is None and towards((40, 30, 20), only_right) is not None


def test_the_central_slice_names_its_instance() -> None:
    slices = tuple(SliceRef(f"1.2.{i}", 200 - i) for i in range(90))
    assert place(40, 30, 20, Source(slices=slices))[3:] == (40, 160)
    assert place(40, 30, 20)[3:] == (40, None)
