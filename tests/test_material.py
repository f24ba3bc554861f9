"""Files of crops: how pictures are stored, and what the cubes say of a nodule and what is round it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from conftest import REPOSITORY
from nodulens.core.nodule import Box
from nodulens.data.jpegls import Streams, encode, mosaic, tiles_of
from nodulens.data.material import CROP_STEPS, CUBES, PATCH_STEPS, PATCHES, STACKS, Cubes, Patches, Stacks, read_arrays
from nodulens.errors import InputError, UnreadableFile
from nodulens.ops.intensity import Quantization, from_unit, to_unit
from nodulens.train.default.regions import cube_regions

# ---------------------------------------------------------------- pictures


def test_pictures_come_back_bit_for_bit() -> None:
    rng = np.random.default_rng(0)
    pictures = [rng.integers(60, 90, shape).astype(np.uint8) for shape in ((40, 7), (96, 96), (50, 250))]
    streams = encode(pictures)
    assert len(streams) == 3 and streams.offset[-1] == len(streams.data)
    assert all(np.array_equal(streams.picture(k), picture) for k, picture in enumerate(pictures))
    assert len(encode([])) == 0


def test_tiles_stand_row_by_row() -> None:
    tiles = np.arange(6 * 4 * 5).reshape(6, 4, 5)
    picture = mosaic(tiles, 3, 2)
    assert picture.shape == (12, 10)
    assert np.array_equal(picture[4:8, 5:], tiles[3])
    assert np.array_equal(tiles_of(picture, 3, 2), tiles)


def test_a_cube_is_read_as_its_description_says() -> None:
    picture = np.random.default_rng(0).integers(0, 176, (500, 250))
    said = picture.reshape(10, 50, 5, 50).swapaxes(1, 2).reshape(50, 50, 50)
    assert np.array_equal(tiles_of(picture, 10, 5), said)


def test_damaged_pictures_are_named() -> None:
    streams = encode([np.full((30, 40), 7, np.uint8)] * 2)
    cut = replace(streams, offset=streams.offset - [0, 0, 12])
    assert cut.picture(0).shape == (30, 40)
    with pytest.raises(UnreadableFile, match=r"Picture 1 of the crops is damaged .*: get the file again"):
        cut.picture(1)
    import jpeg_ls

    wide = np.frombuffer(jpeg_ls.encode_array(np.full((30, 40), 700, np.uint16)), np.uint8)
    with pytest.raises(UnreadableFile, match="2400 bytes for 30 × 40 pixels"):
        Streams(wide, np.array([0, len(wide)])).picture(0)


@pytest.mark.parametrize(("kind", "name"), [(Stacks, STACKS), (Cubes, CUBES), (Patches, PATCHES)])
def test_files_of_before_are_refused(data: Path, tmp_path: Path, kind: type, name: str) -> None:
    raw = read_arrays(data / name)
    old = {key: values for key, values in raw.items() if not key.startswith("hu_")} | {"hu_u8": np.zeros(3, np.uint8)}
    (tmp_path / name).parent.mkdir()
    np.savez(tmp_path / name, **old)
    with pytest.raises(InputError, match=r"no JPEG-LS images \(hu_jls, hu_offset\).*run nodulens data prepare"):
        kind(tmp_path)


def test_slices_in_another_order_than_their_images_are_refused(data: Path, tmp_path: Path) -> None:
    raw = read_arrays(data / STACKS)
    raw["slice_nodule"] = raw["slice_nodule"][::-1]
    (tmp_path / STACKS).parent.mkdir()
    np.savez(tmp_path / STACKS, **raw)
    with pytest.raises(UnreadableFile, match="must be in the order of the nodules"):
        Stacks(tmp_path)


def test_encodings_stay_inside() -> None:
    """What files call their arrays is known to those who read and write them alone."""
    allowed = {"data/material.py", "data/prepare.py", "data/jpegls.py", "data/whole_slices.py"}
    package = REPOSITORY / "src" / "nodulens"
    words = ("hu_jls", "hu_offset", "reader_bits", "hu_u8", "slice_nodule", "world_xyz_mm")
    telling = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if any(word in path.read_text("utf-8") for word in words)
    }
    assert telling == allowed


# ---------------------------------------------------------------- nodules


def test_stacks_and_cubes_are_asked_alike(data: Path) -> None:
    for material in (Stacks(data), Cubes(data)):
        for number in material.nodules[:6].tolist():
            hu, truth, masks = material.hu(number), material.truth(number), material.masks(number)
            assert hu.dtype == np.float32 and hu.shape == truth.shape == masks.shape[1:]
            assert len(masks) == material.readers(number)
            assert np.array_equal(truth, masks.mean(axis=0) >= 0.5)
            assert np.array_equal(material.outlined(number), masks.any(axis=0))
            assert np.allclose(material.unit(number), (hu + 1000) / 1400, atol=1e-6)
            volume = truth.sum() * np.prod(material.spacing_zyx(number))
            assert material.diameter_mm(number) == pytest.approx((6 * volume / np.pi) ** (1 / 3))
            central = material.central(number)
            assert central is not None and np.array_equal(central.truth, truth[central.index])
            assert central.truth.sum() == truth.sum(axis=(1, 2)).max()
            area = central.truth.sum() * material.spacing_zyx(number)[1] ** 2
            assert np.pi / 4 * central.diameter_mm**2 == pytest.approx(area)


def test_a_nodule_that_readers_do_not_share_has_no_central_slice(data: Path, tmp_path: Path) -> None:
    raw = read_arrays(data / STACKS)
    own = raw["slice_nodule"] == 0
    raw["reader_bits"][own] = raw["reader_bits"][own] & 1  # one of three readers
    (tmp_path / STACKS).parent.mkdir()
    np.savez(tmp_path / STACKS, **raw)
    stacks = Stacks(tmp_path)
    assert stacks.readers(0) == 3 and 0 in stacks.nodules
    assert stacks.outlined(0).any() and not stacks.truth(0).any()
    assert stacks.central(0) is None and stacks.diameter_mm(0) == 0


@pytest.mark.parametrize("steps", [CROP_STEPS, PATCH_STEPS])
def test_steps_come_back(steps: Quantization) -> None:
    every = np.arange(steps.top + 1, dtype=np.uint8)
    assert np.array_equal(steps.steps(steps.hu(every)), every)
    assert np.array_equal(steps.steps_of_unit(steps.unit(every)), every)
    assert from_unit(steps.unit(every)) == pytest.approx(steps.hu(every), abs=1e-3)
    assert to_unit(steps.hu(every)) == pytest.approx(steps.unit(every), abs=1e-6)
    assert steps.steps(np.array([-3000, -1000, 400, 3000])).tolist() == [0, 0, steps.top, steps.top]


# ---------------------------------------------------------------- cubes


def test_cubes_rise_towards_left_and_posterior_however_they_are_stored(data: Path) -> None:
    cubes = Cubes(data)
    for number in range(5):
        hu, held = cubes.hu(number), cubes.masks(number).all(axis=0)
        assert hu.dtype == np.float32 and hu.max() <= 400
        assert hu[held].mean() == pytest.approx(0, abs=20) and hu[:, 13:16, 13:16].mean() == pytest.approx(0, abs=20)
        assert hu[:, 34:37, 34:37][~(held | cubes.other(number))[:, 34:37, 34:37]].mean() < -800
        assert np.allclose(cubes.unit(number), (hu + 1000) / 1400, atol=1e-6)
        assert np.argwhere(held).mean(axis=0) == pytest.approx((25, 25, 25))


def test_what_lies_outside_the_scan_is_known(data: Path, tmp_path: Path) -> None:
    assert Cubes(data).scanned(3) == Box((0, 0, 0), (44, 50, 50))
    raw = read_arrays(data / CUBES)
    raw["size"][2], raw["sign"][3] = (50, 40, 30), (1, -1)
    (tmp_path / CUBES).parent.mkdir()
    np.savez(tmp_path / CUBES, **raw)
    assert Cubes(tmp_path).scanned(2) == Box((0, 10, 20), (50, 50, 50))


def test_negatives_lie_away_from_all_that_anybody_marked(data: Path) -> None:
    cubes = Cubes(data)
    inside = np.zeros((50, 50, 50), dtype=bool)
    for number in range(5):
        negative, held = cubes.negative(number), cubes.masks(number).any(axis=0)
        radius = float(cubes.annotated_mm[number]) / 2
        assert not negative[held].any() and not negative[25, 25, 25 : 25 + int(radius + 5)].any()
        assert negative[25, 25, 25 + int(radius + 7)]
        inside[cubes.scanned(number).slices] = True
        assert not negative[~inside].any()
    # ten voxels round a finding of no size that LUNA16 excludes
    near = np.linalg.norm(np.indices((50, 50, 50)) - 14.0, axis=0)
    beside = ndimage.distance_transform_edt(~cubes.masks(0).any(axis=0)) > 5
    assert np.array_equal(cubes.negative(0), beside & (near > 10)) and (beside & (near <= 10)).any()
    other = cubes.other(4)
    assert other.sum() == 125 and not cubes.other(0).any()
    assert not cubes.negative(4)[35, 35, 30:45].any() and cubes.negative(4)[45, 45, 30]


def test_non_nodules_of_cubes_are_negatives(data: Path) -> None:
    cubes = Cubes(data)
    scenes = cube_regions(cubes)
    wrong = sum(not n for scene in scenes for n in scene.is_nodule)
    assert wrong and sum(n for scene in scenes for n in scene.is_nodule) >= len(scenes) / 2
    for number, scene in enumerate(scenes):
        places = [np.rint(scene.volume.geometry.to_index(c.centre_lps)).astype(int) for c in scene.candidates]
        found = [cubes.negative(number)[tuple(np.clip(p, 0, 49))] for p in places]
        assert all(ok for ok, nodule in zip(found, scene.is_nodule, strict=True) if not nodule)


def test_real_cubes_show_their_nodules(shared: Path) -> None:
    """Those of turned scans too: what readers outlined is denser than the lung round it."""
    cubes = Cubes(shared)
    assert len(cubes) == 997 and len(set(cubes.patients)) == 508
    raw = read_arrays(shared / CUBES)
    kept = np.flatnonzero(~np.isin(raw["patient_id"], ["LIDC-IDRI-0001", "LIDC-IDRI-0003"]))
    turned = np.flatnonzero((raw["sign"][kept] < 0).any(axis=1) & (raw["doubt"][kept] == 0))
    cut = np.flatnonzero((raw["size"][kept] < 50).any(axis=1))
    assert len(turned) > 20 and len(cut) == 7
    for number in (*turned[:6], *cut, *range(0, 997, 200)):
        hu, held = cubes.hu(int(number)), cubes.truth(int(number))
        scanned = np.zeros_like(held)
        scanned[cubes.scanned(int(number)).slices] = True
        assert not held[~scanned].any() and (hu[~scanned] <= -992).all()
        ring = ndimage.binary_dilation(held, iterations=5) & ~ndimage.binary_dilation(held, iterations=2) & scanned
        assert hu[held].mean() > np.percentile(hu[ring], 25) + 80 and not cubes.negative(int(number))[held].any()
