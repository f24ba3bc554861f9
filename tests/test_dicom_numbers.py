"""Numbers in DICOM headers that are none, or that no scanner stores; and how much may be interpolated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import FileDataset

from dicom_files import body, same_scan, save, slices
from nodulens.errors import BadGeometry, BadValues, MixedSeries
from nodulens.io import list_series, read, stack

NAN = float("nan")


@pytest.mark.parametrize(
    ("keyword", "value", "shown"),
    [
        ("PixelSpacing", [1e9, 1e9], "pixel spacing, 1e+09, 1e+09; it must be finite and from 0.05 to 20 mm"),
        ("PixelSpacing", ["1e308", "1e308"], "pixel spacing, 1e+308, 1e+308;"),
        ("PixelSpacing", [70, 70], "pixel spacing, 70, 70;"),
        ("PixelSpacing", [0.7, 1e-6], "pixel spacing, 0.7, 1e−06;"),
        ("PixelSpacing", [-0.7, 0.7], "pixel spacing, −0.7, 0.7;"),
        ("PixelSpacing", [NAN, 0.7], "pixel spacing, nan, 0.7;"),
        ("PixelSpacing", ["Infinity", 0.7], "pixel spacing, inf, 0.7;"),
        ("ImagePositionPatient", [NAN, 0, 0], "position, nan, 0, 0; it must be finite and from −100000 to 100000 mm"),
        ("ImagePositionPatient", [0, "1e300", 0], "position, 0, 1e+300, 0;"),
        ("ImagePositionPatient", [0, "-Infinity", 0], "position, 0, −inf, 0;"),
        ("ImageOrientationPatient", [1, 0, 0, 0, 1, NAN], "orientation, 1, 0, 0, 0, 1, nan; it must be finite and"),
        ("ImageOrientationPatient", [NAN, 0, 0, 0, 1, 0], "orientation, nan, 0, 0, 0, 1, 0;"),
        ("ImageOrientationPatient", [7, 0, 0, 0, 1, 0], "orientation, 7, 0, 0, 0, 1, 0;"),
    ],
)
@pytest.mark.parametrize("affected", [[5], range(12)], ids=["one", "all"])
def test_impossible(tmp_path: Path, keyword: str, value: list[Any], shown: str, affected: Any) -> None:
    series = slices()
    for z in affected:
        setattr(series[z], keyword, value)
    with pytest.raises(BadGeometry) as caught:
        read(save(tmp_path, series))
    first = f"{len(affected)} of 12 images, first {affected[0]:04d}.dcm, have an impossible "
    assert str(caught.value).startswith(first + shown)
    assert list_series(tmp_path)[0].problems == (str(caught.value),)


@pytest.mark.parametrize("hidden", [[-1, 0, 0, 0, 1, 0], [1, 0, 0, 0, 0, -1]])
def test_nan_hides_no_other_orientation(tmp_path: Path, hidden: list[int]) -> None:
    series = slices()
    series[5].ImageOrientationPatient = [1, 0, 0, 0, 1, NAN]
    for data in series[6:]:
        data.ImageOrientationPatient = hidden
    save(tmp_path, series)
    with pytest.raises(BadGeometry, match=r"first 0005\.dcm, have an impossible orientation"):
        read(tmp_path)
    (tmp_path / "0005.dcm").unlink()
    with pytest.raises(MixedSeries, match="mixes orientations"):
        read(tmp_path, gaps="interpolate")


@pytest.mark.parametrize(
    ("slope", "intercept", "phrase"),
    [
        (1, None, r"12 of 12 images, first 0000\.dcm, have a rescale slope but no intercept"),
        (0.5, None, "have a rescale slope but no intercept"),
        (None, -1024, "have a rescale intercept but no slope"),
        (0, -1024, "impossible rescale, 0, -1024"),
        (900_000, -1024, "impossible rescale, 900000, -1024"),
        ("NaN", -1024, "impossible rescale, nan, -1024"),
        (1, "Infinity", "impossible rescale, 1, inf"),
        (1, 200_000, "impossible rescale, 1, 200000"),
        (90, -1024, r"0000\.dcm: up to .* HU are beyond what any scanner gives; its rescale \(90, -1024\)"),
    ],
)
def test_rescale(tmp_path: Path, slope: Any, intercept: Any, phrase: str) -> None:
    with pytest.raises(BadValues, match=phrase):
        read(save(tmp_path, slices(RescaleSlope=slope, RescaleIntercept=intercept)))


def test_32_bits_do_not_overflow(tmp_path: Path) -> None:
    series = slices()
    for z, data in enumerate(series):
        stored = body()[z].astype(np.int64) + 2**30
        data.BitsAllocated, data.BitsStored, data.HighBit = 32, 32, 31
        data.PixelData = stored.astype("<u4").tobytes()
    with pytest.raises(BadValues, match=r"0000\.dcm: up to 1\.073.*e\+09 HU are beyond what any scanner gives"):
        read(save(tmp_path, series))


# --- how much of a scan may be made up -----------------------------------------------------------


@pytest.mark.parametrize("apart", [0.011, 0.02, 0.049])
def test_two_images_hardly_apart(tmp_path: Path, apart: float) -> None:
    series = slices()
    again = slices(**same_scan(series))
    for data in again:
        data.ImagePositionPatient[2] = round(data.ImagePositionPatient[2] + apart, 4)
    save(tmp_path, series + again)
    for gaps in ("error", "interpolate"):
        with pytest.raises(BadGeometry, match=r"12 slices lie hardly apart .* at z −400\.00 mm where most lie 2\.4"):
            read(tmp_path, gaps=gaps)  # type: ignore[arg-type]


def test_not_more_is_filled_than_given(tmp_path: Path) -> None:
    series = slices()
    heights = [0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 10, 20, 30, 40]
    for data, height in zip(series, heights, strict=True):
        data.ImagePositionPatient[2] = -400 + height
    with pytest.raises(BadGeometry, match=r"would make 201 slices of 12 \(limit 3 for each\)"):
        read(save(tmp_path, series), gaps="interpolate")


def test_slices_far_apart(tmp_path: Path) -> None:
    series = slices()
    for z, data in enumerate(series):
        data.ImagePositionPatient[2] = -400 + 25 * z
    with pytest.raises(BadGeometry, match="The slices lie 25 mm apart, more than 20 mm"):
        read(save(tmp_path, series))


def test_a_field_larger_than_any(tmp_path: Path) -> None:
    with pytest.raises(BadGeometry, match=r"are 30 × 400 × 1,200 mm \(z, y, x\); a scan has 1,000 mm across"):
        read(save(tmp_path, slices(body((12, 40, 60)), PixelSpacing=[10, 20])))


def tilted(spacing: float) -> list[FileDataset]:
    """Slices 12 mm apart that move sideways by a tilt of 28 degrees."""
    series = slices(PixelSpacing=[spacing, spacing])
    for z, data in enumerate(series):
        data.ImagePositionPatient = [6.0 * z, 2.4 * z, -400 + 12.0 * z]
    return series


def test_a_tilt_asks_for_no_more_than_a_scan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read(save(tmp_path / "small", tilted(0.05))).geometry.shape == (12, 568, 1368)
    with pytest.raises(BadGeometry, match=r"12 × 42 × 52 voxels of this spacing are .* a scan has 1,000 mm across"):
        read(save(tmp_path / "large", tilted(20)))
    monkeypatch.setattr(stack, "MAX_VOXELS", 2**20)
    with pytest.raises(BadGeometry, match=r"12 × 568 × 1,368 voxels \(z, y, x\) are more than any scan has"):
        read(tmp_path / "small")
