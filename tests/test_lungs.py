"""Lungs on real scans, on scans cut, turned and emptied, and on a made chest; and the tools they stand on."""

from __future__ import annotations

import csv
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from made_chest import GRID, egg
from nodulens.core.geometry import Geometry
from nodulens.core.nodule import Box
from nodulens.core.volume import Mask, Volume
from nodulens.errors import BadOption, NoLungs
from nodulens.io import read
from nodulens.ops.blocks import block_means
from nodulens.ops.components import closed, components, dilated, eroded, filled, opened, touching
from nodulens.ops.orient import canonical
from nodulens.ops.resample import resample_array
from nodulens.stages.lungs import cut_off_ends, lung_volumes_ml, search_region, segment_lungs
from real_scans import dice

CT = ("LIDC-IDRI-0001", "LIDC-IDRI-0003", "LIDC-IDRI-0028", "Lung_Dx-A0001")
BACKGROUND = ("LIDC-IDRI-0293", "LIDC-IDRI-0295", "LIDC-IDRI-0306")
VOLUMES_ML = {  # left, right: measured once, after looking at them slice by slice
    "LIDC-IDRI-0001": (1778, 1999),
    "LIDC-IDRI-0003": (3116, 2835),
    "LIDC-IDRI-0028": (2423, 2899),
    "Lung_Dx-A0001": (2394, 3223),
    "LIDC-IDRI-0293": (2129, 2429),
    "LIDC-IDRI-0295": (2195, 2527),
    "LIDC-IDRI-0306": (2194, 2388),
}
WINDPIPE_LPS = {  # two points in its lumen
    "LIDC-IDRI-0001": ((-4, 11, -100), (1, -13, -45)),
    "LIDC-IDRI-0003": ((-17, 32, -147), (-12, 9, -72)),
    "LIDC-IDRI-0028": ((4, -16, -113), (9, -35, -48)),
    "Lung_Dx-A0001": ((-10, 164, -244), (-10, 143, -164)),
    "LIDC-IDRI-0293": ((-7, -3, -71), (-9, -22, -11)),
    "LIDC-IDRI-0295": ((1, 4, -128), (7, -9, -60)),
    "LIDC-IDRI-0306": ((-1, 27, -113), (15, 18, -48)),
}

Scans = Callable[[str], tuple[Volume, Mask]]


@pytest.fixture(scope="module")
def scan(shared: Path) -> Scans:
    """A scan by name, in canonical orientation, and its lungs; each worked out once."""

    @cache
    def load(name: str) -> tuple[Volume, Mask]:
        if name in CT:
            volume = canonical(read(shared / "ct" / name))[0]
        else:
            image = sitk.ReadImage(str(shared / "background" / f"{name}.nii.gz"))
            x, y, z = image.GetSpacing()
            hu = sitk.GetArrayFromImage(image).astype(np.int16) * 8 - 1000
            volume = Volume(hu, Geometry.axial(hu.shape, (z, y, x), image.GetOrigin()))
        return volume, segment_lungs(volume)

    return load


def voxel(grid: Geometry, point: tuple[float, float, float]) -> tuple[int, int, int]:
    z, y, x = np.round(grid.to_index(point)).astype(int)
    return int(z), int(y), int(x)


def ball(grid: Geometry, centre: tuple[float, float, float], diameter_mm: float) -> NDArray[np.bool_]:
    index = np.ogrid[tuple(slice(n) for n in grid.shape)]
    middle = grid.to_index(centre)
    distance2 = sum(((i - m) * s) ** 2 for i, m, s in zip(index, middle, grid.spacing_zyx, strict=True))
    return np.asarray(distance2 <= diameter_mm**2 / 4)


# --- real scans


@pytest.mark.parametrize("name", CT + BACKGROUND)
def test_volumes_and_sides_are_those_of_a_chest(scan: Scans, name: str) -> None:
    volume, lungs = scan(name)
    ml = lung_volumes_ml(lungs)
    left, right = ml["left_ml"], ml["right_ml"]
    assert (left, right) == pytest.approx(VOLUMES_ML[name], rel=0.03)
    assert 0.6 < left / right < 1.2
    assert lungs.labels.dtype == np.uint8 and lungs.geometry == volume.geometry
    x = np.arange(volume.geometry.shape[2])
    centre = {side: np.average(x, weights=lungs.of(side).sum(axis=(0, 1))) for side in ("left lung", "right lung")}
    assert centre["left lung"] - centre["right lung"] > 90 / volume.geometry.spacing_zyx[2]  # x rises to the left
    air_share = np.mean(volume.hu[lungs.labels > 0] < -500)
    assert air_share > 0.85
    assert components(lungs.labels > 0).sizes[:2].sum() > 0.99 * (lungs.labels > 0).sum()


@pytest.mark.parametrize("name", CT + BACKGROUND)
def test_windpipe_is_out(scan: Scans, name: str) -> None:
    volume, lungs = scan(name)
    for point in WINDPIPE_LPS[name]:
        assert volume.hu[voxel(volume.geometry, point)] < -900
        assert not lungs.labels[ball(volume.geometry, point, 8)].any()


@pytest.mark.parametrize("name", ["LIDC-IDRI-0001", "LIDC-IDRI-0003"])
def test_annotated_nodules_are_in(scan: Scans, shared: Path, name: str) -> None:
    volume, lungs = scan(name)
    with (shared / "luna16" / "annotations.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["seriesuid"] == volume.source.series_uid]
    assert len(rows) == {"LIDC-IDRI-0001": 1, "LIDC-IDRI-0003": 3}[name]
    for row in rows:
        centre = (float(row["coordX"]), float(row["coordY"]), float(row["coordZ"]))
        side = lungs.labels[voxel(volume.geometry, centre)]
        assert side == (1 if centre[0] > 0 else 2)
        assert np.mean(lungs.labels[ball(volume.geometry, centre, float(row["diameter_mm"]))] == side) > 0.95


def test_masses_are_in_the_search_region_and_the_heart_is_not(scan: Scans) -> None:
    volume, lungs = scan("Lung_Dx-A0001")
    region = search_region(lungs)
    mass = (46, 356, 320)  # the middle of its box of 58 × 77 mm, on the middle one of nine boxed slices
    assert region[mass] and lungs.labels[mass] == 1
    assert not region[20, 220, 270]  # the heart
    volume, lungs = scan("LIDC-IDRI-0295")
    region = search_region(lungs)
    assert lungs.labels[ball(volume.geometry, (-83, 35, -202), 6)].all()  # a pleural mass of 40 mm
    assert region[lungs.labels > 0].all()
    assert region.sum() < 1.25 * (lungs.labels > 0).sum()


@pytest.mark.parametrize("name", ["LIDC-IDRI-0001", "LIDC-IDRI-0028"])
def test_a_mirrored_chest_has_its_sides_exchanged(scan: Scans, name: str) -> None:
    volume, lungs = scan(name)
    mirrored = segment_lungs(Volume(np.ascontiguousarray(volume.hu[:, :, ::-1]), volume.geometry)).labels[:, :, ::-1]
    assert dice(mirrored == 2, lungs.labels == 1) > 0.98
    assert dice(mirrored == 1, lungs.labels == 2) > 0.98


def test_lungs_cut_off_at_the_ends_stay_what_they_were(scan: Scans) -> None:
    volume, lungs = scan("LIDC-IDRI-0028")
    assert cut_off_ends(lungs) == (False, False)
    for start, stop, ends in ((0, 65, (False, True)), (56, 98, (True, True)), (85, 141, (True, False))):
        box = Box((start, 0, 0), (stop, 512, 512))
        part = segment_lungs(volume.crop(box))
        assert cut_off_ends(part) == ends
        for side in (1, 2):
            assert dice(part.labels == side, lungs.labels[box.slices] == side) > 0.98


def test_noise_and_a_tight_crop_change_little(scan: Scans) -> None:
    volume, lungs = scan("LIDC-IDRI-0306")
    noise = np.random.default_rng(0).normal(0, 150, volume.hu.shape).astype(np.float32)
    box = Box.of_mask(lungs.labels > 0).grown((2, 12, 12)).clipped(volume.geometry.shape)
    labels = segment_lungs(Volume(volume.hu + noise, volume.geometry).crop(box)).labels
    for side in (1, 2):
        assert dice(labels == side, lungs.labels[box.slices] == side) > 0.98


def test_a_lung_without_air_is_absent_and_the_other_keeps_its_side(scan: Scans) -> None:
    volume, lungs = scan("LIDC-IDRI-0003")
    for gone, stays in ((1, 2), (2, 1)):
        hu = volume.hu.copy()
        hu[lungs.labels == gone] = 40
        labels = segment_lungs(Volume(hu, volume.geometry)).labels
        assert not (labels == gone).any()
        assert dice(labels == stays, lungs.labels == stays) > 0.98


def test_gut_is_no_lung(scan: Scans) -> None:
    volume, lungs = scan("LIDC-IDRI-0001")
    first = int(np.flatnonzero(lungs.labels.any(axis=(1, 2)))[0])
    abdomen = volume.crop(Box((0, 0, 0), (first - 1, 512, 512)))
    assert (abdomen.hu[:, 150:350, 100:400] < -900).sum() > 2000
    with pytest.raises(NoLungs, match="chest"):
        segment_lungs(abdomen)


# --- a made chest


def chest() -> NDArray[np.int16]:
    hu = np.full(GRID.shape, -1000, dtype=np.int16)
    tube = 1e6
    hu[egg((0, 0, 0), (160, 115, tube))] = 40
    hu[egg((0, 75, 0), (18, 18, tube))] = 400
    for x in (75, -75):
        hu[egg((x, 0, 110), (62, 85, 95))] = -860
    hu[egg((0, 20, 0), (9, 9, tube)) & (np.arange(60) > 30)[:, None, None]] = -1000  # windpipe
    hu[egg((70, -60, 5), (35, 20, 30))] = -990  # gut
    hu[:, 105:107] = 200  # a table, and air between it and the back
    return hu


def test_made_chest_has_the_volumes_it_was_given() -> None:
    hu = chest()
    lungs = segment_lungs(Volume(hu, GRID))
    truth = np.where(hu == -860, 1, 0) * np.where(np.arange(140) * 2.5 - 173.75 > 0, 1, 2)
    for side in (1, 2):
        assert dice(lungs.labels == side, truth == side) > 0.98
    assert not lungs.labels[hu <= -990].any()
    given = np.bincount(truth.ravel()) * GRID.voxel_mm3 / 1000
    assert tuple(lung_volumes_ml(lungs).values()) == pytest.approx(given[1:], rel=0.03)


def test_nodules_inside_and_on_the_pleura_are_lung() -> None:
    hu = chest()
    behind, beside = (ball(GRID, centre, 36) & (hu == -860) for centre in ((-75, 75, 110), (125, 0, 110)))
    inner = ball(GRID, (75, 0, 110), 30)
    hu[behind | beside | inner] = 40
    lungs = segment_lungs(Volume(hu, GRID)).labels
    assert (lungs[inner] == 1).all()
    assert np.mean(lungs[behind] == 2) > 0.8  # all but the rim that a ball of 50 mm still reaches
    assert np.mean(lungs[beside] == 1) > 0.8


def test_lungs_that_touch_are_taken_apart() -> None:
    hu = chest()
    bridge = egg((0, -30, 120), (25, 9, 40)) & (hu == 40)
    hu[bridge] = -840
    lungs = segment_lungs(Volume(hu, GRID)).labels
    for side, x in ((1, 75), (2, -75)):
        assert np.mean(lungs[egg((x, 0, 110), (60, 80, 90))] == side) > 0.99
    assert (lungs[bridge] > 0).mean() > 0.9


@pytest.mark.parametrize("fill", [40, 0, -1000, -50])
def test_nothing_that_is_no_chest_has_lungs(fill: int) -> None:
    hu = np.where(egg((0, 0, 0), (150, 100, 1e6)), fill, -1000).astype(np.int16)
    with pytest.raises(NoLungs, match="0 ml"):
        segment_lungs(Volume(hu, GRID))


# --- grids


def points(grid: Geometry) -> NDArray[np.float64]:
    return grid.to_lps(np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), axis=-1))


SOURCE = Geometry.axial((30, 40, 44), (2.5, 0.7, 0.8), (-18.0, -13.0, -30.0))
RAMP = np.array([3.0, -5.0, 7.0])


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.5, 0.4, 0.3), (3.1, 1.3, 1.1), (2.5, 0.7, 0.8)])
def test_ramps_stay_ramps(spacing: tuple[float, float, float]) -> None:
    ramp = (points(SOURCE) @ RAMP).astype(np.float32)
    half = np.array([6 / 2, 7 / 2, 5 / 2]) * spacing[::-1]
    grid = Geometry.axial((6, 8, 7), spacing, tuple(np.subtract((-2.0, 1.3, 7.2), half)))
    np.testing.assert_allclose(resample_array(ramp, SOURCE, grid, fill=0), points(grid) @ RAMP, atol=2e-3)


def test_respacing_moves_nothing_by_half_a_voxel() -> None:
    centre = (0.4, 0.9, 6.1)
    blob = np.exp(-((points(SOURCE) - centre) ** 2).sum(axis=-1) / (2 * 4.0**2)).astype(np.float32)
    for spacing in ((1.0, 1.0, 1.0), (2.5, 2.1, 2.4), (0.9, 0.35, 0.4)):
        grid = SOURCE.respaced(spacing)
        got = resample_array(blob, SOURCE, grid, fill=0)
        weight = got / got.sum()
        np.testing.assert_allclose((points(grid) * weight[..., None]).sum(axis=(0, 1, 2)), centre, atol=0.03)
        np.testing.assert_allclose(got.sum() * grid.voxel_mm3, blob.sum() * SOURCE.voxel_mm3, rtol=0.01)


@pytest.mark.parametrize("kind", [np.int16, np.float32])
@pytest.mark.parametrize("factors", [(1, 3, 3), (2, 5, 4), (3, 1, 1), (1, 1, 1), (9, 9, 99)])
def test_block_means_are_means_of_blocks_and_the_last_ones_repeat_the_edge(
    factors: tuple[int, int, int], kind: type[np.int16] | type[np.float32]
) -> None:
    values = np.random.default_rng(6).integers(-1000, 3000, (7, 12, 16)).astype(kind)
    full = np.pad(values, [(0, -n % f) for n, f in zip(values.shape, factors, strict=True)], mode="edge")
    (nz, ny, nx), (fz, fy, fx) = full.shape, factors
    expected = full.reshape(nz // fz, fz, ny // fy, fy, nx // fx, fx).mean(axis=(1, 3, 5), dtype=np.float64)
    np.testing.assert_allclose(block_means(values, factors), expected, rtol=1e-6, atol=1e-3)


def test_coarser_grids_average_noise_away() -> None:
    noise = np.random.default_rng(2).normal(0, 100, (40, 60, 60)).astype(np.float32)
    grid = Geometry.axial(noise.shape, (1.0, 1.0, 1.0))
    assert resample_array(noise, grid, grid.respaced((3.0, 3.0, 3.0)), fill=0).std() < 100 / 3**1.5 * 1.3


@pytest.mark.parametrize("order", [0, 1])
def test_any_angle_agrees_with_simpleitk(order: int) -> None:
    values = np.random.default_rng(3).integers(0, 200, SOURCE.shape).astype(np.uint8)
    angle = 0.3
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    target = Geometry((12, 20, 16), (2.0, 1.0, 1.1), (-4.0, -6.0, -10.0), turn @ np.eye(3)[:, ::-1])
    image = sitk.GetImageFromArray(values if order == 0 else values.astype(np.float32))
    image.SetSpacing(SOURCE.spacing_zyx[::-1])
    image.SetOrigin(SOURCE.origin_lps)
    how = sitk.sitkNearestNeighbor if order == 0 else sitk.sitkLinear
    kind = sitk.sitkUInt8 if order == 0 else sitk.sitkFloat32
    expected = sitk.Resample(
        image, target.shape[::-1], sitk.Transform(), how, target.origin_lps, target.spacing_zyx[::-1],
        target.direction[:, ::-1].ravel().tolist(), 0, kind,
    )  # fmt: skip
    got = resample_array(values, SOURCE, target, order=order, fill=0)
    np.testing.assert_allclose(got, sitk.GetArrayFromImage(expected), atol=0.01)
    with pytest.raises(BadOption, match="order 3"):
        resample_array(values, SOURCE, target, order=3, fill=0)


def test_labels_come_back_from_a_finer_grid() -> None:
    labels = np.random.default_rng(4).integers(0, 4, SOURCE.shape).astype(np.uint8)
    fine = SOURCE.respaced(tuple(s / 3 for s in SOURCE.spacing_zyx))
    back = resample_array(resample_array(labels, SOURCE, fine, order=0, fill=9), fine, SOURCE, order=0, fill=9)
    assert back.dtype == np.uint8 and np.array_equal(back, labels)


# --- masks


def test_parts_are_numbered_by_size() -> None:
    mask = np.zeros((4, 9, 9), dtype=bool)
    mask[0, 0, 0] = mask[1:3, 4:7, 4:7] = mask[3, 0, 0:3] = True
    parts = components(mask)
    assert parts.sizes.tolist() == [18, 3, 1] and len(parts) == 3
    assert parts.part(1)[1, 4, 4] and parts.slices[1] == (slice(3, 4), slice(0, 1), slice(0, 3))
    np.testing.assert_allclose(parts.centroids_zyx[0], (1.5, 5, 5))
    assert len(components(np.zeros((2, 2, 2), dtype=bool))) == 0
    seed = np.zeros_like(mask)
    seed[3, 0, 1] = seed[0, 8, 8] = True
    assert touching(mask, seed).sum() == 3


def test_balls_are_balls_in_millimetres() -> None:
    spacing = (5.0, 1.0, 2.0)
    point = np.zeros((9, 41, 21), dtype=bool)
    point[4, 20, 10] = True
    grown = dilated(point, 10, spacing)
    assert [int(np.count_nonzero(grown.any(axis=a).any(axis=b))) for a, b in ((2, 1), (2, 0), (1, 0))] == [5, 21, 11]
    assert np.array_equal(eroded(grown, 9.9, spacing), point)
    assert not opened(point, 3, spacing).any()


@pytest.mark.parametrize("radius", [0.0, 0.7, 2.5, 7.1, 40.0])
@pytest.mark.parametrize("spacing", [(2.5, 0.8, 1.3), (1.0, 1.0, 1.0), (0.6, 2.1, 0.4)])
@pytest.mark.parametrize("shape", [(7, 20, 131), (1, 30, 64), (12, 9, 1)])
def test_dilation_and_erosion_are_thresholds_of_distance(
    shape: tuple[int, int, int], spacing: tuple[float, float, float], radius: float
) -> None:
    mask = np.random.default_rng(5).random(shape) < 0.004
    mask[0, 0, 0] = mask[-1, -1, -1] = True
    within = distance_transform_edt(~mask, spacing) <= radius + 1e-6
    assert np.array_equal(dilated(mask, radius, spacing), within)
    assert np.array_equal(eroded(~mask, radius, spacing), ~within)
    assert np.array_equal(dilated(np.asfortranarray(mask), radius, spacing), within), "however it is stored"


def test_closing_fills_dents_and_goes_on_past_the_ends() -> None:
    mask = np.zeros((12, 40, 40), dtype=bool)
    mask[:, 5:35, 5:35] = True
    mask[:, 18:22, 5:20] = False  # a dent that runs through both ends
    shut = closed(mask, 4, (1, 1, 1))
    assert shut[:, 18:22, 8:20].all() and not shut[:, :5].any() and not shut[:, :, :5].any()
    assert not closed(np.zeros_like(mask), 4, (1, 1, 1)).any()
    hollow = mask.copy()
    hollow[5, 10, 10] = False
    assert filled(hollow)[5, 10, 10]
