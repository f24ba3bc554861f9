"""Reading right: real scans, written series, every format, and back again."""

from __future__ import annotations

import os
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import tracemalloc
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from pydicom.uid import (
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)
from scipy.spatial.transform import Rotation

from dicom_files import INTERCEPT, SPACING_ZYX, body, multiframe, pixels, same_scan, save, slices, to_jpeg_lossless
from nodulens.core.geometry import Geometry
from nodulens.core.volume import Mask, Volume
from nodulens.errors import NodulensError, NoSeries, NotFound, SeveralSeries
from nodulens.io import list_series, read, read_mask, sharp_kernel, write_mask, write_volume
from nodulens.io.atomic import whole_file

GEOMETRY = Geometry.axial((12, 40, 48), SPACING_ZYX, (-20.0, -30.0, -400.0))


def assert_reads(path: Path, geometry: Geometry = GEOMETRY, atol: float = 0, **options: object) -> Volume:
    """The volume at ``path``, after a check that it holds :func:`body` on ``geometry``."""
    volume = read(path, **options)  # type: ignore[arg-type]
    assert volume.geometry.shape == geometry.shape
    np.testing.assert_allclose(volume.geometry.affine, geometry.affine, atol=1e-5)
    np.testing.assert_allclose(volume.hu, body(), atol=atol)
    return volume


# --- real scans ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "shape", "spacing", "uid_end", "kernel"),
    [
        ("LIDC-IDRI-0001", (133, 512, 512), (2.5, 0.703125, 0.703125), "059720603192", "STANDARD"),
        ("LIDC-IDRI-0003", (140, 512, 512), (2.5, 0.820312, 0.820312), "033480003264", "STANDARD"),
        ("LIDC-IDRI-0028", (141, 512, 512), (2.5, 0.664062, 0.664062), "377298352671", "STANDARD"),
        ("Lung_Dx-A0001", (64, 512, 512), (5.0, 0.841796875, 0.841796875), "276911485641315", "B"),
    ],
)
def test_real_scan(shared: Path, name: str, shape: tuple[int, ...], spacing: object, uid_end: str, kernel: str) -> None:
    calls: list[tuple[int, int]] = []
    volume = read(shared / "ct" / name, progress=lambda done, total: calls.append((done, total)))
    source = volume.source
    assert volume.geometry.shape == shape and volume.hu.dtype == np.int16
    assert volume.geometry.spacing_zyx == pytest.approx(spacing)
    assert source.series_uid is not None and source.series_uid.endswith(uid_end)
    assert (source.kernel, source.format, source.warnings) == (kernel, "dicom", ())
    assert source.slice_thickness_mm == pytest.approx(volume.geometry.spacing_zyx[0])
    assert calls[-1] == (shape[0], shape[0])

    # Outside the field and outside the body is air, whatever was stored there.
    assert volume.hu[:, :12, :12].mean() == pytest.approx(-1000, abs=30)
    assert volume.hu.min() >= -1500
    # In the middle of a chest there is lung as well as soft tissue, and bone somewhere.
    middle = volume.hu[shape[0] // 2]
    assert (np.abs(middle + 850) < 100).mean() > 0.05 and (np.abs(middle - 40) < 60).mean() > 0.05
    assert volume.hu.max() > 600

    # z rises towards the head, and every slice knows its stored image.
    assert volume.geometry.direction[:, 0] == pytest.approx([0, 0, 1])
    numbers = [ref.instance_number for ref in source.slices]
    assert numbers == list(range(shape[0], 0, -1))
    assert len({ref.sop_instance_uid for ref in source.slices}) == shape[0]


def test_real_scan_against_simpleitk(shared: Path) -> None:
    folder = shared / "ct" / "Lung_Dx-A0001"
    volume = read(folder)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    np.testing.assert_array_equal(volume.hu, sitk.GetArrayFromImage(image))
    assert volume.geometry.origin_lps == pytest.approx(image.GetOrigin())
    assert volume.geometry.spacing_zyx == pytest.approx(image.GetSpacing()[::-1])


def test_real_scans_together_are_a_choice(shared: Path) -> None:
    with pytest.raises(SeveralSeries, match="holds 4 CT series") as caught:
        read(shared / "ct")
    infos = list_series(shared / "ct")
    assert caught.value.choices == tuple(info.uid for info in infos)
    assert [info.slices for info in infos] == [141, 140, 133, 64]
    assert [info.recommended for info in infos] == [True, False, False, False]
    assert all(info.orientation == "axial" and not info.problems for info in infos)
    assert read(shared / "ct", series="1315").geometry.shape[0] == 64


# --- written series ------------------------------------------------------------------------------


def test_plain_series(tmp_path: Path) -> None:
    series = slices()
    volume = assert_reads(save(tmp_path, series))
    assert volume.source.series_uid == series[0].SeriesInstanceUID
    assert volume.source.patient is not None and volume.source.patient.name == "Test^Body"
    assert "Test" not in repr(volume)
    assert [ref.sop_instance_uid for ref in volume.source.slices] == [s.SOPInstanceUID for s in series]


def test_order_of_files_and_numbers_does_not_matter(tmp_path: Path) -> None:
    series = slices()
    rng = np.random.default_rng(1)
    for data, number in zip(series, rng.permutation(12).tolist(), strict=True):
        data.InstanceNumber = number
    shuffled = [series[i] for i in rng.permutation(12)]
    assert_reads(save(tmp_path, shuffled))


@pytest.mark.parametrize("seed", range(6))
def test_oblique_and_flipped(tmp_path: Path, seed: int) -> None:
    turn = Rotation.random(rng=np.random.default_rng(seed)).as_matrix()
    sign = 1 if seed % 2 else -1
    across, down = turn[:, 0] * sign, turn[:, 1]
    geometry = Geometry(
        (12, 40, 48), SPACING_ZYX, (-20.0, -30.0, -400.0), np.column_stack([np.cross(across, down), down, across])
    )
    series = slices(cosines=tuple(np.round([*across, *down], 8)))
    volume = assert_reads(save(tmp_path, series[::-1]), geometry)
    # The oracle: each stored slice's own position and pixel spacing.
    z, y, x = 7, 11, 30
    data = series[z]
    point = np.asarray(data.ImagePositionPatient) + x * data.PixelSpacing[1] * across + y * data.PixelSpacing[0] * down
    np.testing.assert_allclose(volume.geometry.to_lps([z, y, x]), point, atol=1e-4)


def test_rescale_per_slice(tmp_path: Path) -> None:
    series = slices()
    for z, data in enumerate(series):
        stored = (body()[z].astype(np.int32) - (INTERCEPT - 10 * z)) * 2
        pixels(data, stored)
        data.RescaleSlope, data.RescaleIntercept = 0.5, INTERCEPT - 10 * z
    volume = assert_reads(save(tmp_path, series), atol=1e-3)
    assert volume.hu.dtype == np.float32


def test_missing_rescale_with_plausible_values_is_a_warning(tmp_path: Path) -> None:
    series = slices(RescaleSlope=None, RescaleIntercept=None, RescaleType=None)
    for z, data in enumerate(series):
        pixels(data, body()[z].astype(np.int32), signed=True)
    volume = assert_reads(save(tmp_path, series))
    assert any("Rescale slope and intercept are missing" in w for w in volume.source.warnings)


@pytest.mark.parametrize(
    ("padding", "limit", "stored", "signed"),
    [(-2000, None, -2000, True), (63536, None, -2000, True), (63536, None, 63536, False), (-2000, -1500, -1700, True)],
)
def test_padding_is_air(tmp_path: Path, padding: int, limit: int | None, stored: int, signed: bool) -> None:
    series = slices()
    for z, data in enumerate(series):
        image = body()[z].astype(np.int32) - INTERCEPT
        image[:5, :7] = stored
        pixels(data, image, signed=signed)
        for keyword, value in (("PixelPaddingValue", padding), ("PixelPaddingRangeLimit", limit)):
            if value is not None:
                data.add_new(keyword, "US" if value >= 0 else "SS", value)
    volume = read(save(tmp_path, series))
    assert (volume.hu[:, :5, :7] == -1000).all()
    np.testing.assert_array_equal(volume.hu[:, 5:], body()[:, 5:])


def test_padding_that_tissue_has_too_is_ignored(tmp_path: Path) -> None:
    series = slices()
    for data in series:
        data.add_new("PixelPaddingValue", "US", 1064)  # 40 HU
    assert_reads(save(tmp_path, series))


def test_far_below_air_is_air_without_padding(tmp_path: Path) -> None:
    series = slices()
    for z, data in enumerate(series):
        image = body()[z].astype(np.int32) - INTERCEPT
        image[:3] = -1024  # −2048 HU
        image[20, 20] = 30000
        pixels(data, image, signed=True)
    volume = read(save(tmp_path, series))
    assert (volume.hu[:, :3] == -1000).all() and (volume.hu[:, 20, 20] == 28976).all()


@pytest.mark.parametrize(
    ("syntax", "plugin"),
    [
        (RLELossless, "pylibjpeg"),
        (JPEG2000Lossless, "pylibjpeg"),
        (JPEGLSLossless, "pyjpegls"),
        (JPEGLosslessSV1, "gdcm"),
    ],
)
@pytest.mark.parametrize("signed", [False, True])
def test_compressed(tmp_path: Path, syntax: str, plugin: str, signed: bool) -> None:
    series = slices()
    for z, data in enumerate(series):
        pixels(data, body()[z].astype(np.int32) - (0 if signed else INTERCEPT), signed=signed)
        data.RescaleIntercept = 0 if signed else INTERCEPT
    plain = save(tmp_path / "plain", series)
    packed = tmp_path / "packed"
    if syntax == JPEGLosslessSV1:
        packed.mkdir()
        for file in sorted(plain.iterdir()):
            to_jpeg_lossless(file, packed / file.name)
    else:
        for data in series:
            data.compress(syntax, encoding_plugin=plugin, generate_instance_uid=False)
        save(packed, series)
    assert_reads(packed)


def test_multiframe(tmp_path: Path) -> None:
    data = multiframe()
    save(tmp_path, [data])
    volume = assert_reads(tmp_path / "0000.dcm")
    frames = [ref.instance_number for ref in volume.source.slices]
    assert frames == [1, 7, 2, 8, 3, 9, 4, 10, 5, 11, 6, 12]
    assert {ref.sop_instance_uid for ref in volume.source.slices} == {data.SOPInstanceUID}


def test_compressed_multiframe(tmp_path: Path) -> None:
    data = multiframe()
    data.compress(RLELossless, encoding_plugin="pylibjpeg", generate_instance_uid=False)
    assert_reads(save(tmp_path, [data]))


def test_without_preamble(tmp_path: Path) -> None:
    for i, data in enumerate(slices()):
        data.file_meta.clear()
        data.preamble = None
        data.save_as(tmp_path / f"{i}", implicit_vr=True, little_endian=True)
        assert (tmp_path / f"{i}").read_bytes()[:2] == b"\x08\x00"
    assert_reads(tmp_path)


def test_nested_folders_with_other_files(tmp_path: Path) -> None:
    series = slices()
    save(tmp_path / "a" / "b", series[:5])
    save(tmp_path / "a" / "c", series[5:])
    (tmp_path / "readme.txt").write_text("not a slice")
    (tmp_path / "empty").touch()
    (tmp_path / ".DS_Store").write_bytes(b"\0\1")
    volume = assert_reads(tmp_path)
    assert volume.source.warnings == ("2 files that are not DICOM were left out, first «empty».",)


def test_zip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "in" / "deep", slices())
    shutil.make_archive(str(tmp_path / "scan"), "zip", tmp_path / "in")
    (temporary := tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    assert_reads(tmp_path / "scan.zip")
    (tmp_path / "scan.zip").rename(tmp_path / "scan.dat")
    assert list_series(tmp_path / "scan.dat")[0].slices == 12
    assert not list(temporary.iterdir())


def test_two_series(tmp_path: Path) -> None:
    thick = slices(body()[::2], ConvolutionKernel="B70f", SeriesDescription="lung")
    for z, data in enumerate(thick):
        data.ImagePositionPatient[2] = -400.0 + 5.0 * z
        data.SliceThickness = 5.0
    thin = slices(ContrastBolusAgent="IV")
    save(tmp_path / "thick", thick)
    save(tmp_path / "thin", thin)
    thin_uid, thick_uid = str(thin[0].SeriesInstanceUID), str(thick[0].SeriesInstanceUID)
    with pytest.raises(SeveralSeries) as caught:
        read(tmp_path)
    message = str(caught.value)
    assert "--series" in message and f"{thin_uid}  12 slices, 2.5 mm, kernel STANDARD" in message
    assert f"{thick_uid}  6 slices, 5 mm, kernel B70f" in message
    assert message.splitlines()[1].endswith("(recommended)") and thin_uid in message.splitlines()[1]
    assert caught.value.choices == (thin_uid, thick_uid)

    first, second = list_series(tmp_path)
    assert (first.uid, first.recommended, first.kernel, first.contrast) == (thin_uid, True, "STANDARD", True)
    assert (second.uid, second.recommended, second.contrast) == (thick_uid, False, None)
    assert second.spacing_zyx == pytest.approx((5.0, 0.8, 0.7))

    for wanted in (thin_uid, thin_uid[-8:], thin_uid[:-2]):
        assert_reads(tmp_path, series=wanted)
    assert read(tmp_path, series=thick_uid).geometry.shape[0] == 6
    with pytest.raises(SeveralSeries, match=r"2 series match '1\.2\.826'"):
        read(tmp_path, series="1.2.826")
    with pytest.raises(NoSeries, match=r"No series in .* matches '99\.99'"):
        read(tmp_path, series="99.99")


def test_localizers_and_other_modalities_are_no_choice(tmp_path: Path) -> None:
    save(tmp_path / "ct", slices())
    save(tmp_path / "scout", slices(body()[:2], ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]))
    save(tmp_path / "mr", slices(body()[:3], Modality="MR"))
    colours = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
    save(tmp_path / "dose", slices(body()[:1], **colours))
    volume = assert_reads(tmp_path)
    assert volume.source.warnings == ("Other series in the same place were left out: 2 CT, 1 MR.",)
    problems = {info.slices: " ".join(info.problems) for info in list_series(tmp_path)}
    assert "localizer" in problems[2] and "modality MR" in problems[3] and problems[12] == ""


def test_localizer_within_the_series(tmp_path: Path) -> None:
    series = slices()
    scout = slices(body()[:1], cosines=(1, 0, 0, 0, 0, -1), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])[0]
    scout.SeriesInstanceUID = series[0].SeriesInstanceUID
    volume = assert_reads(save(tmp_path, [scout, *series]))
    assert volume.source.warnings == ("1 localizer in the series left out.",)


def test_copies_are_dropped(tmp_path: Path) -> None:
    series = slices()
    again = slices(**same_scan(series))
    volume = assert_reads(save(tmp_path, [*series, *again[3:5]]))
    assert volume.source.warnings == ("2 images were stored twice; the copies were dropped.",)
    assert list_series(tmp_path)[0].problems == ("2 images lie where another does.",)


def test_gap_is_filled_on_request(tmp_path: Path) -> None:
    series = slices()
    save(tmp_path, series[:5] + series[7:])
    (info,) = list_series(tmp_path)
    assert not info.readable and not info.recommended and "2 of 12 slices missing" in info.problems[0]
    volume = read(tmp_path, gaps="interpolate")
    assert volume.geometry.shape == (12, 40, 48)
    np.testing.assert_allclose(volume.geometry.affine, GEOMETRY.affine, atol=1e-9)
    real = [0, 1, 2, 3, 4, 7, 8, 9, 10, 11]
    np.testing.assert_array_equal(volume.hu[real], body()[real])
    expected = body()[4] * (2 / 3) + body()[7] / 3
    np.testing.assert_allclose(volume.hu[5], expected, atol=0.51)
    assert volume.source.slices[5].sop_instance_uid == series[4].SOPInstanceUID
    assert volume.source.slices[6].sop_instance_uid == series[7].SOPInstanceUID
    assert "2 slices were interpolated" in volume.source.warnings[0]


def test_uneven_slices_are_evened_on_request(tmp_path: Path) -> None:
    series = slices()
    ramp = np.broadcast_to(np.linspace(-1000, 500, 40)[:, None], (40, 48))
    heights = np.array([0, 2.5, 5, 7.5, 10, 11.2, 12.5, 15, 17.5, 20, 22.5, 25])
    for data, height in zip(series, heights, strict=True):
        data.ImagePositionPatient[2] = -400 + height
        pixels(data, (ramp + height * 4).astype(np.int32) - INTERCEPT)
    volume = read(save(tmp_path, series), gaps="interpolate")
    # A linear ramp along z stays one, at the positions the geometry gives.
    z = volume.geometry.to_lps([[k, 0, 0] for k in range(volume.geometry.shape[0])])[:, 2]
    np.testing.assert_allclose(volume.hu[:, 20, 20], ramp[20, 20] + (z + 400) * 4, atol=1.6)
    assert "unevenly" in volume.source.warnings[0]


def test_rounded_positions_are_even(tmp_path: Path) -> None:
    series = slices()
    for z, data in enumerate(series):
        data.ImagePositionPatient[2] = round(-400 + 0.625 * z, 1)
    volume = read(save(tmp_path, series))
    assert volume.geometry.spacing_zyx[0] == pytest.approx(0.625, abs=0.01)


def test_gantry_tilt_is_sheared_upright(tmp_path: Path) -> None:
    """A smooth object in the patient, sampled on tilted slices, lies in the same place afterwards."""
    tilt = np.radians(12)
    down = np.array([0, np.cos(tilt), np.sin(tilt)])
    origin, count = np.array([-20.0, -30.0, -400.0]), 16
    centre = origin + np.array([17, 18, 22])

    def smooth(points: np.ndarray) -> np.ndarray:
        return -1000 + 1200 * np.exp(-((np.linalg.norm(points - centre, axis=-1) / 9) ** 2))

    y, x = np.meshgrid(np.arange(60), np.arange(64), indexing="ij")
    series = slices(np.zeros((count, 60, 64), dtype=np.int16), cosines=(1, 0, 0, *down))
    for z, data in enumerate(series):
        first = origin + np.array([0, 0, 2.5 * z])  # the table moves along z, not along the slice normal
        data.ImagePositionPatient = first.tolist()
        points = first + x[..., None] * 0.7 * np.array([1, 0, 0]) + y[..., None] * 0.8 * down
        pixels(data, np.rint(smooth(points)).astype(np.int32) - INTERCEPT)
    volume = read(save(tmp_path, series))
    assert volume.geometry.spacing_zyx == pytest.approx((2.5 * np.cos(tilt), 0.8, 0.7))
    assert "tilted by 12.0 degrees" in volume.source.warnings[0]
    assert list_series(tmp_path)[0].tilt_deg == pytest.approx(12)
    index = np.argwhere(np.ones(volume.geometry.shape, dtype=bool))
    expected = smooth(volume.geometry.to_lps(index)).reshape(volume.geometry.shape)
    inside = volume.hu > -1000
    assert np.abs(volume.hu - expected)[inside].max() < 15
    assert inside.sum() > 5000


def test_small_drift_is_not_tilt(tmp_path: Path) -> None:
    series = slices()
    for z, data in enumerate(series):
        data.ImagePositionPatient[0] += 0.02 * z
    assert assert_reads(save(tmp_path, series)).source.warnings == ()


@pytest.mark.parametrize(
    ("kernel", "sharp"),
    [
        ("STANDARD", False), ("BONE", True), ("BONEPLUS", True), ("LUNG", True), ("SOFT", False), ("B30f", False),
        ("B70f", True), ("Br40d/3", False), ("Bl64f", True), ("I70f/2", True), ("FC08", False), ("FC51", True),
        ("B", False), ("D", True), ("YC", True), (None, False), ("", False),
    ],
)  # fmt: skip
def test_sharp_kernels(kernel: str | None, sharp: bool) -> None:
    assert sharp_kernel(kernel) is sharp


def test_no_such_path(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no file or folder"):
        read(tmp_path / "nothing")


# --- other formats -------------------------------------------------------------------------------


def oblique_image(seed: int) -> tuple[sitk.Image, np.ndarray]:
    rng = np.random.default_rng(seed)
    image = sitk.GetImageFromArray(body())
    image.SetSpacing([0.7, 0.8, 2.5])
    image.SetOrigin(rng.uniform(-300, 300, 3).tolist())
    direction = Rotation.random(rng=rng).as_matrix()
    if seed % 2:
        direction[:, 2] *= -1
    image.SetDirection(direction.ravel().tolist())
    return image, direction


@pytest.mark.parametrize("suffix", [".mha", ".mhd", ".nii", ".nii.gz", ".nrrd", ".nhdr"])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_formats_put_voxels_where_simpleitk_does(tmp_path: Path, suffix: str, packed: bool, seed: int) -> None:
    image, direction = oblique_image(seed)
    path = tmp_path / f"scan{suffix}"
    sitk.WriteImage(image, str(path), useCompression=packed)
    volume = read(path)
    reversed_ = np.linalg.det(direction) < 0
    assert volume.source.z_reversed is bool(reversed_)
    np.testing.assert_array_equal(volume.hu, body()[::-1] if reversed_ else body())
    assert np.linalg.det(volume.geometry.direction[:, ::-1]) > 0
    for index in np.random.default_rng(seed).integers(0, 12, (5, 3)).tolist():
        stored = [index[0] if not reversed_ else 11 - index[0], *index[1:]]
        point = image.TransformIndexToPhysicalPoint(stored[::-1])
        np.testing.assert_allclose(volume.geometry.to_lps(index), point, atol=1e-3)
    assert volume.source.series_uid is None and len(volume.source.input_sha256 or "") == 64
    (info,) = list_series(path)
    assert info.slices == 12 and info.recommended and info.uid is None and info.format == volume.source.format


def test_hash_is_of_the_voxels_too(tmp_path: Path) -> None:
    image, _ = oblique_image(0)
    sitk.WriteImage(image, str(tmp_path / "a.mhd"))
    first = read(tmp_path / "a.mhd").source.input_sha256
    image[0, 0, 0] = 55
    sitk.WriteImage(image, str(tmp_path / "a.mhd"))
    assert read(tmp_path / "a.mhd").source.input_sha256 != first


def test_number_types(tmp_path: Path) -> None:
    for kind, expected in ((np.int32, np.int16), (np.float32, np.float32), (np.float64, np.float32)):
        image = sitk.GetImageFromArray(body().astype(kind))
        sitk.WriteImage(image, str(tmp_path / "scan.mha"))
        volume = read(tmp_path / "scan.mha")
        assert volume.hu.dtype == expected
        np.testing.assert_array_equal(volume.hu, body())


def test_field_of_luna16_is_air(tmp_path: Path) -> None:
    hu = body()
    hu[:, :3] = -3024
    sitk.WriteImage(sitk.GetImageFromArray(hu), str(tmp_path / "scan.mhd"))
    volume = read(tmp_path / "scan.mhd")
    assert (volume.hu[:, :3] == -1000).all()


def test_nifti_without_a_place_is_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "scan.nii"
    sitk.WriteImage(sitk.GetImageFromArray(body()), str(path))
    data = bytearray(path.read_bytes())
    data[252:256] = b"\0\0\0\0"  # qform_code and sform_code
    path.write_bytes(data)
    assert any("left and right may be exchanged" in w for w in read(path).source.warnings)


@pytest.mark.parametrize(("right", "wrong"), [("nii", "nii.gz"), ("nii.gz", "nii")])
def test_packed_or_not_whatever_the_name_says(tmp_path: Path, right: str, wrong: str) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(body()), str(tmp_path / f"scan.{right}"))
    (tmp_path / f"scan.{right}").rename(tmp_path / f"scan.{wrong}")
    np.testing.assert_array_equal(read(tmp_path / f"scan.{wrong}").hu, body())


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("two", [False, True])
def test_scaled_nifti(tmp_path: Path, big: bool, two: bool) -> None:
    """Written by hand: both versions, both byte orders, with a rescale."""
    order = ">" if big else "<"
    stored = ((body() + 1024) * 2).astype(order + "u2")
    head = bytearray(544 if two else 352)
    put = lambda form, at, *values: struct.pack_into(order + form, head, at, *values)  # noqa: E731
    if two:
        head[4:12] = b"n+2\0\r\n\x1a\n"
        put("i", 0, 540), put("2h", 12, 512, 16), put("8q", 16, 3, 48, 40, 12, 1, 1, 1, 1)
        put("8d", 104, 1, 0.7, 0.8, 2.5, 1, 1, 1, 1), put("q", 168, 544), put("2d", 176, 0.5, -1024)
        put("2i", 344, 0, 1), put("12d", 400, -0.7, 0, 0, 20, 0, -0.8, 0, 30, 0, 0, 2.5, -400)
    else:
        head[344:348] = b"n+1\0"
        put("i", 0, 348), put("8h", 40, 3, 48, 40, 12, 1, 1, 1, 1), put("2h", 70, 512, 16)
        put("8f", 76, 1, 0.7, 0.8, 2.5, 1, 1, 1, 1), put("3f", 108, 352, 0.5, -1024)
        put("2h", 252, 0, 1), put("12f", 280, -0.7, 0, 0, 20, 0, -0.8, 0, 30, 0, 0, 2.5, -400)
    (tmp_path / "scan.nii").write_bytes(bytes(head) + stored.tobytes())
    volume = read(tmp_path / "scan.nii")
    np.testing.assert_array_equal(volume.hu, body())
    np.testing.assert_allclose(volume.geometry.affine, GEOMETRY.affine, atol=1e-4)


def test_one_volume_in_a_folder_or_zip(tmp_path: Path) -> None:
    image, _ = oblique_image(0)
    (tmp_path / "in").mkdir()
    sitk.WriteImage(image, str(tmp_path / "in" / "scan.mhd"))
    with zipfile.ZipFile(tmp_path / "scan.zip", "w") as archive:
        for file in (tmp_path / "in").iterdir():
            archive.write(file, f"folder/{file.name}")
    np.testing.assert_array_equal(read(tmp_path / "in").hu, body())
    np.testing.assert_array_equal(read(tmp_path / "scan.zip").hu, body())
    sitk.WriteImage(image, str(tmp_path / "in" / "other.nii.gz"))
    with pytest.raises(SeveralSeries, match="holds 2 volumes"):
        read(tmp_path / "in")
    with pytest.raises(NoSeries, match="no series UID"):
        read(tmp_path / "scan.zip", series="1.2")


# --- writing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_masks_and_volumes_lie_on_the_input(tmp_path: Path, seed: int) -> None:
    image, _ = oblique_image(seed)
    sitk.WriteImage(image, str(tmp_path / "scan.nii.gz"))
    volume = read(tmp_path / "scan.nii.gz")
    labels = (volume.hu > 0).astype(np.uint8) * 2
    mask = Mask(labels, volume.geometry, {2: "dense"})
    write_mask(mask, tmp_path / "mask.nii.gz", z_reversed=volume.source.z_reversed)
    stored = sitk.ReadImage(str(tmp_path / "mask.nii.gz"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(stored) == 2, sitk.GetArrayFromImage(image) > 0)
    np.testing.assert_allclose(stored.GetOrigin(), image.GetOrigin(), atol=1e-3)
    np.testing.assert_allclose(stored.GetDirection(), image.GetDirection(), atol=1e-5)

    again = read_mask(tmp_path / "mask.nii.gz")
    np.testing.assert_array_equal(again.labels, labels)
    np.testing.assert_allclose(again.geometry.affine, volume.geometry.affine, atol=1e-3)
    assert again.names == {2: "label 2"} and again.labels.dtype == np.uint8

    write_volume(volume, tmp_path / "copy.nii.gz")
    copy = read(tmp_path / "copy.nii.gz")
    np.testing.assert_array_equal(copy.hu, volume.hu)
    assert copy.source.z_reversed == volume.source.z_reversed


@pytest.mark.parametrize("format", ["dicom", "gaps", "uneven", "tilted", "nifti"])
def test_reading_holds_one_copy(tmp_path: Path, format: str) -> None:
    series = slices(body((64, 256, 256)))
    if format == "gaps":
        del series[20:22], series[9]
    for data in series[30:]:
        data.ImagePositionPatient[2] += 0.8 * (format == "uneven")
    for z, data in enumerate(series):
        data.ImagePositionPatient[1] += 0.5 * z * (format == "tilted")
    path = save(tmp_path / "dicom", series)
    if format == "nifti":
        volume = read(path)
        path = tmp_path / "reversed.nii.gz"
        write_volume(replace(volume, source=replace(volume.source, z_reversed=True)), path)
    read(path, gaps="interpolate")  # what is imported on first use is not of the scan
    del series
    tracemalloc.start()
    volume = read(path, gaps="interpolate")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert volume.hu.dtype == np.int16 and peak < 1.5 * volume.hu.nbytes


def test_equal_masks_make_equal_files(tmp_path: Path) -> None:
    mask = Mask(np.full((12, 40, 48), 300, dtype=np.uint16), GEOMETRY, {300: "nodule 300"})
    write_mask(mask, tmp_path / "a.nii.gz")
    write_mask(mask, tmp_path / "b.nii.gz")
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
    assert read_mask(tmp_path / "a.nii.gz").labels.dtype == np.uint16


def test_whole_file_or_none(tmp_path: Path) -> None:
    target = tmp_path / "out.nii.gz"
    target.write_text("old")
    with pytest.raises(ValueError, match="half way"), whole_file(target) as part:
        assert part.name == "out.nii.gz"
        part.write_text("ne")
        raise ValueError("half way")
    assert target.read_text() == "old" and list(tmp_path.iterdir()) == [target]
    with whole_file(target) as part:
        part.write_text("new")
    assert target.read_text() == "new" and list(tmp_path.iterdir()) == [target]
    with pytest.raises(NotFound, match="no folder"), whole_file(tmp_path / "no" / "out"):
        pass
    (tmp_path / "folder").mkdir()
    with pytest.raises(NodulensError, match="is a folder"), whole_file(tmp_path / "folder"):
        pass


def test_killed_while_writing(tmp_path: Path) -> None:
    target = tmp_path / "out.txt"
    target.write_text("old")
    code = (
        "import sys, time\nfrom nodulens.io.atomic import whole_file\n"
        "with whole_file(sys.argv[1]) as part, part.open('w') as file:\n"
        "    file.write('half'); file.flush(); print('ready', flush=True); time.sleep(60)\n"
    )
    source = Path(__file__).resolve().parents[1] / "src"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(target)],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(source)},
    ) as process:
        assert process.stdout is not None and process.stdout.readline().strip() == b"ready"
        with whole_file(target) as part:  # leaves alone what a living process writes
            part.write_text("other")
        (live,) = (path for path in tmp_path.iterdir() if path != target)
        assert (live / "out.txt").read_text() == "half"
        process.send_signal(signal.SIGKILL)
    assert target.read_text() == "other" and live.is_dir()
    with whole_file(tmp_path / "beside.txt") as part:
        part.write_text("new")
    assert sorted(tmp_path.iterdir()) == [tmp_path / "beside.txt", target]
