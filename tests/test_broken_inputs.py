"""What people hand over by mistake or malice: each gives its named error, with a message that helps."""

from __future__ import annotations

import gzip
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

from conftest import Run, zip_of
from dicom_files import INTERCEPT, body, multiframe, pixels, same_scan, save, slices
from nodulens.errors import (
    BadGeometry,
    BadOption,
    BadValues,
    InputError,
    MixedSeries,
    NoSeries,
    NotCT,
    NotFound,
    SeveralSeries,
    UnreadableFile,
    UnsafeArchive,
)
from nodulens.io import list_series, read, read_mask, write_mask

Maker = Callable[[Path], Path]
CASES: list[tuple[Maker, type[InputError], str]] = []


def broken(error: type[InputError], phrase: str) -> Callable[[Maker], Maker]:
    """Register an input, the error it must give, and a phrase of the message (a regular expression)."""

    def register(make: Maker) -> Maker:
        CASES.append((make, error, phrase))
        return make

    return register


def write_image(path: Path, array: np.ndarray, **options: bool) -> Path:
    sitk.WriteImage(sitk.GetImageFromArray(array), str(path), **options)
    return path


# --- places and files ----------------------------------------------------------------------------


@broken(NotFound, "no file or folder .*absent")
def absent(tmp: Path) -> Path:
    return tmp / "absent"


@broken(NoSeries, "holds no files")
def empty_folder(tmp: Path) -> Path:
    return tmp


@broken(NoSeries, "holds 2 files, none of them a scan")
def folder_of_text(tmp: Path) -> Path:
    (tmp / "a.txt").write_text("a")
    (tmp / "b.dcm").write_text("not DICOM in spite of its name")
    return tmp


@broken(UnreadableFile, "neither DICOM nor MetaImage")
def empty_file(tmp: Path) -> Path:
    (tmp / "scan.dcm").touch()
    return tmp / "scan.dcm"


@broken(UnreadableFile, "neither DICOM nor MetaImage")
def photograph(tmp: Path) -> Path:
    Image.new("RGB", (64, 64)).save(tmp / "chest.png")
    return tmp / "chest.png"


@broken(UnreadableFile, "neither DICOM nor MetaImage")
def random_bytes(tmp: Path) -> Path:
    (tmp / "scan.nii").write_bytes(np.random.default_rng(0).bytes(5000))
    return tmp / "scan.nii"


# --- DICOM ---------------------------------------------------------------------------------------


@broken(BadGeometry, "0000.dcm is a single slice; give the folder")
def one_file_of_a_series(tmp: Path) -> Path:
    return save(tmp, slices()) / "0000.dcm"


@broken(BadGeometry, "single slice")
def one_slice(tmp: Path) -> Path:
    return save(tmp, slices()[:1])


@broken(NotCT, "modality MR")
def magnetic_resonance(tmp: Path) -> Path:
    return save(tmp, slices(Modality="MR"))


@broken(NotCT, "modality PT")
def positron_emission(tmp: Path) -> Path:
    return save(tmp, slices(Modality="PT"))


@broken(NotCT, "modality DX")
def chest_x_ray(tmp: Path) -> Path:
    plain = slices(Modality="DX", ImagePositionPatient=None, ImageOrientationPatient=None)[:1]
    return save(tmp, plain) / "0000.dcm"


@broken(NotCT, "nothing but 2 localizers")
def localizer(tmp: Path) -> Path:
    return save(tmp, slices(body()[:2], ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]))


@broken(NotCT, "nothing but 3 pictures")
def dose_report(tmp: Path) -> Path:
    return save(tmp, slices(body()[:3], SOPClassUID="1.2.840.10008.5.1.4.1.1.7"))


@broken(NoSeries, "only DICOM of modality SR")
def structured_report(tmp: Path) -> Path:
    series = slices(body()[:2], Modality="SR")
    for data in series:
        del data.PixelData, data.Rows, data.Columns
    return save(tmp, series)


@broken(BadGeometry, r"3 of 12 slices missing between z −392.50 and −382.50 mm; .*gaps=\"interpolate\"")
def gap(tmp: Path) -> Path:
    series = slices()
    return save(tmp, series[:4] + series[7:])


@broken(BadGeometry, "4 of 12 slices missing between z .* and .* and .* mm")
def several_gaps(tmp: Path) -> Path:
    series = slices()
    return save(tmp, [series[i] for i in (0, 1, 3, 4, 6, 7, 10, 11)])


@broken(BadGeometry, "unevenly, 1.00 to 2.50 mm")
def uneven(tmp: Path) -> Path:
    series = slices()
    for data in series[6:]:
        data.ImagePositionPatient[2] -= 1.5
    return save(tmp, series)


@broken(BadGeometry, "2 different images lie in one place .*several acquisitions")
def two_acquisitions(tmp: Path) -> Path:
    series = slices()
    again = slices(**same_scan(series))
    for data in again:
        pixels(data, np.roll(body()[0], 3, axis=0).astype(np.int32) - INTERCEPT)
    return save(tmp, series + again)


@broken(BadGeometry, "All 12 images lie in one place")
def bolus_track(tmp: Path) -> Path:
    return save(tmp, slices(ImagePositionPatient=[0, 0, 0]))


@broken(BadGeometry, "12 of 12 images, first 0000.dcm, do not say where they lie")
def no_positions(tmp: Path) -> Path:
    return save(tmp, slices(ImagePositionPatient=None))


@broken(MixedSeries, r"mixes image sizes: 8 of 40 × 48 \(z −390.00 to −372.50 mm\), 4 of 20 × 24 \(z −400")
def mixed_sizes(tmp: Path) -> Path:
    series = slices()
    for z in range(4):
        pixels(series[z], body()[z, ::2, ::2].astype(np.int32) - INTERCEPT)
    return save(tmp, series)


@broken(MixedSeries, r"mixes orientations: 8 of axial \(1, 0, 0, 0, 1, 0\) .*, 4 of coronal \(1, 0, 0, 0, 0, -1\)")
def mixed_orientations(tmp: Path) -> Path:
    series = slices()
    for data in series[:4]:
        data.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
    return save(tmp, series)


@broken(MixedSeries, "mixes pixel spacings: 11 of 0.8 × 0.7 mm .*, 1 of 0.5 × 0.5 mm")
def mixed_spacings(tmp: Path) -> Path:
    series = slices()
    series[3].PixelSpacing = [0.5, 0.5]
    return save(tmp, series)


@broken(BadGeometry, "12 of 12 images, first 0000.dcm, have an impossible pixel spacing, 0, 0; .* from 0.05 to 20 mm")
def zero_spacing(tmp: Path) -> Path:
    return save(tmp, slices(PixelSpacing=[0, 0]))


@broken(BadGeometry, "not two unit vectors at right angles")
def impossible_orientation(tmp: Path) -> Path:
    return save(tmp, slices(ImageOrientationPatient=[1, 0, 0, 1, 0, 0]))


@broken(BadGeometry, "shifted sideways .* up to 1[12].. mm")
def shifted_slices(tmp: Path) -> Path:
    series = slices()
    series[5].ImagePositionPatient[0] += 12
    return save(tmp, series)


@broken(BadGeometry, "tilt of 45 degrees is beyond 30")
def impossible_tilt(tmp: Path) -> Path:
    series = slices()
    for z, data in enumerate(series):
        data.ImagePositionPatient[1] += 2.5 * z
    return save(tmp, series)


@broken(BadValues, "values from 0 to .* rescale .*lost")
def lost_rescale(tmp: Path) -> Path:
    return save(tmp, slices(RescaleSlope=None, RescaleIntercept=None))


@broken(BadValues, "1 of 12 images, first 0004.dcm, have a rescale slope but no intercept")
def rescale_lost_in_one(tmp: Path) -> Path:
    series = slices()
    del series[4].RescaleIntercept
    return save(tmp, series)


@broken(BadValues, "0000.dcm has an impossible rescale")
def zero_slope(tmp: Path) -> Path:
    return save(tmp, slices(RescaleSlope=0))


@broken(BadValues, "holds Z_EFF, not HU")
def spectral_map(tmp: Path) -> Path:
    return save(tmp, slices(RescaleType="Z_EFF"))


@broken(UnreadableFile, "0006.dcm: the pixel data are truncated or damaged")
def truncated_pixels(tmp: Path) -> Path:
    file = save(tmp, slices()) / "0006.dcm"
    file.write_bytes(file.read_bytes()[:-1000])
    return tmp


def truncated_compressed(tmp: Path, syntax: str, plugin: str) -> Path:
    series = slices()
    for data in series:
        data.compress(syntax, encoding_plugin=plugin)
    file = save(tmp, series) / "0006.dcm"
    file.write_bytes(file.read_bytes()[:-600])
    return tmp


@broken(UnreadableFile, "0006.dcm: the pixel data are truncated or damaged")
def truncated_jpeg_2000(tmp: Path) -> Path:
    return truncated_compressed(tmp, JPEG2000Lossless, "pylibjpeg")


@broken(UnreadableFile, "0006.dcm: the pixel data are truncated or damaged")
def truncated_jpeg_ls(tmp: Path) -> Path:
    return truncated_compressed(tmp, JPEGLSLossless, "pyjpegls")


@broken(UnreadableFile, "0006.dcm: the pixel data are truncated or damaged")
def truncated_rle(tmp: Path) -> Path:
    return truncated_compressed(tmp, RLELossless, "pylibjpeg")


@broken(UnreadableFile, "0006.dcm: the pixel data are truncated or damaged")
def bits_flipped_in_compressed_pixels(tmp: Path) -> Path:
    series = slices()
    for data in series:
        data.compress(JPEGLSLossless, encoding_plugin="pyjpegls")
    file = save(tmp, series) / "0006.dcm"
    data = bytearray(file.read_bytes())
    data[-1500:-1400] = b"\xff" * 100
    file.write_bytes(data)
    return tmp


@broken(UnreadableFile, "0006.dcm: the DICOM header is damaged or ends early")
def truncated_header(tmp: Path) -> Path:
    file = save(tmp, slices()) / "0006.dcm"
    file.write_bytes(file.read_bytes()[:500])
    return tmp


@broken(UnreadableFile, "0006.dcm: the pixel data are truncated or damaged")
def no_pixels(tmp: Path) -> Path:
    series = slices()
    del series[6].PixelData
    return save(tmp, series)


@broken(UnreadableFile, "0000.dcm: the DICOM header is damaged")
def text_for_numbers(tmp: Path) -> Path:
    series = slices()
    save(tmp, series)
    file = tmp / "0000.dcm"
    data = file.read_bytes()
    assert b"-20.0\\-30.0" in data
    file.write_bytes(data.replace(b"-20.0\\-30.0", b"left\\right "))
    return tmp


@broken(NotCT, "nothing but 12 pictures")
def colour(tmp: Path) -> Path:
    series = slices()
    for data in series:
        data.SamplesPerPixel, data.PhotometricInterpretation, data.PlanarConfiguration = 3, "RGB", 0
        data.PixelData = data.PixelData * 3
    return save(tmp, series)


@broken(BadGeometry, "12 of 12 images, first 0000.dcm, do not say where they lie")
def frames_without_positions(tmp: Path) -> Path:
    data = multiframe()
    data.PerFrameFunctionalGroupsSequence = Sequence([Dataset() for _ in range(12)])
    data.RescaleSlope, data.RescaleIntercept = 1, INTERCEPT
    return save(tmp, [data]) / "0000.dcm"


@broken(NotCT, "nothing but 1 picture;")
def film(tmp: Path) -> Path:
    data = multiframe()
    del data.PerFrameFunctionalGroupsSequence
    data.NumberOfFrames = 2**31 - 1
    return save(tmp, [data])


@broken(UnreadableFile, "0000.dcm: the pixel data are truncated or damaged")
def size_lie(tmp: Path) -> Path:
    return save(tmp, slices(Rows=65535, Columns=65535))


@broken(BadValues, "impossible rescale, 1e\\+30")
def huge_slope(tmp: Path) -> Path:
    return save(tmp, slices(RescaleSlope="1e30"))


@broken(SeveralSeries, "holds 2 CT series")
def two_series(tmp: Path) -> Path:
    save(tmp / "a", slices())
    save(tmp / "b", slices())
    return tmp


# --- zip -----------------------------------------------------------------------------------------


@broken(UnsafeArchive, r"'\.\./escaped.dcm', which would be written outside")
def path_traversal(tmp: Path) -> Path:
    return zip_of(tmp / "scan.zip", [("../escaped.dcm", b"x")], zipfile.ZIP_STORED)


@broken(UnsafeArchive, "which would be written outside")
def path_traversal_inside(tmp: Path) -> Path:
    return zip_of(tmp / "scan.zip", [("a/../../escaped.dcm", b"x")], zipfile.ZIP_STORED)


@broken(UnsafeArchive, "which would be written outside")
def absolute_path(tmp: Path) -> Path:
    return zip_of(tmp / "scan.zip", [(str(tmp / "escaped.dcm"), b"x")], zipfile.ZIP_STORED)


@broken(UnsafeArchive, "which would be written outside")
def windows_path(tmp: Path) -> Path:
    return zip_of(tmp / "scan.zip", [("C:\\escaped.dcm", b"x")], zipfile.ZIP_STORED)


@broken(UnsafeArchive, "'link', a link")
def symbolic_link(tmp: Path) -> Path:
    member = zipfile.ZipInfo("link")
    member.create_system = 3
    member.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp / "scan.zip", "w") as archive:
        archive.writestr(member, "/etc/passwd")
    return tmp / "scan.zip"


@broken(UnsafeArchive, "beyond the limit")
def bomb(tmp: Path) -> Path:
    with zipfile.ZipFile(tmp / "scan.zip", "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a", "w") as member:
        for _ in range(70):
            member.write(bytes(2**20))
    return tmp / "scan.zip"


@broken(UnreadableFile, "encrypted")
def encrypted(tmp: Path) -> Path:
    path = zip_of(tmp / "scan.zip", [("a.dcm", b"x" * 50)], zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    data[6] |= 1  # the flag in the local header, then in the directory
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    return path


@broken(UnreadableFile, "cannot be unpacked")
def truncated_zip(tmp: Path) -> Path:
    path = zip_of(tmp / "scan.zip", [("a.dcm", b"x" * 5000)], zipfile.ZIP_STORED)
    path.write_bytes(path.read_bytes()[:3000])
    return path


@broken(UnreadableFile, "cannot be unpacked .*CRC")
def corrupt_zip(tmp: Path) -> Path:
    path = zip_of(tmp / "scan.zip", [("a.dcm", b"x" * 5000)], zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    data[1000] ^= 255
    path.write_bytes(data)
    return path


@broken(NoSeries, "an archive, inner.zip; unpack it first")
def zip_in_zip(tmp: Path) -> Path:
    inner = zip_of(tmp / "inner.zip", [("a.dcm", b"x")], zipfile.ZIP_STORED)
    return zip_of(tmp / "scan.zip", [("inner.zip", inner.read_bytes())], zipfile.ZIP_STORED)


@broken(NoSeries, "holds no files")
def empty_zip(tmp: Path) -> Path:
    return zip_of(tmp / "scan.zip", [])


# --- MetaImage, NIfTI, NRRD ----------------------------------------------------------------------


@broken(BadValues, "1 voxels are NaN")
def nan_in_nifti(tmp: Path) -> Path:
    hu = body().astype(np.float32)
    hu[3, 4, 5] = np.nan
    return write_image(tmp / "scan.nii.gz", hu)


@broken(BadValues, "2 voxels are NaN or infinite")
def infinity_in_nrrd(tmp: Path) -> Path:
    hu = body().astype(np.float32)
    hu[3, 4, 5:7] = np.inf
    return write_image(tmp / "scan.nrrd", hu)


@broken(BadValues, "from 0 to 255 .*8-bit picture")
def eight_bit(tmp: Path) -> Path:
    return write_image(tmp / "scan.nii", np.clip(body() + 1000, 0, 255).astype(np.uint8))


@broken(BadValues, "rescale .* was lost")
def stored_values(tmp: Path) -> Path:
    return write_image(tmp / "scan.mha", (body() + 1024).astype(np.uint16))


@broken(BadValues, "look normalised")
def normalised(tmp: Path) -> Path:
    return write_image(tmp / "scan.nrrd", (body() / 3000).astype(np.float32))


@broken(BadValues, "no chest in HU")
def nothing_but_air(tmp: Path) -> Path:
    return write_image(tmp / "scan.nrrd", np.full((4, 8, 8), -1000, dtype=np.int16))


@broken(UnreadableFile, "header promises 1,907.35 MiB of voxels, the file holds")
def two_gigabyte_lie(tmp: Path) -> Path:
    path = write_image(tmp / "scan.nii", body())
    data = bytearray(path.read_bytes())
    data[42:48] = struct.pack("<3h", 1000, 1000, 1000)
    path.write_bytes(data)
    return path


@broken(UnreadableFile, "header promises .* MiB of voxels, the file holds")
def two_gigabyte_lie_packed(tmp: Path) -> Path:
    path = two_gigabyte_lie(tmp)
    (tmp / "scan.nii.gz").write_bytes(gzip.compress(path.read_bytes()))
    return tmp / "scan.nii.gz"


@broken(UnreadableFile, "header promises .* MiB of voxels, the file holds")
def two_gigabyte_lie_in_metaimage(tmp: Path) -> Path:
    path = write_image(tmp / "scan.mhd", body())
    path.write_text(path.read_text().replace("DimSize = 48 40 12", "DimSize = 1000 1000 1000"))
    return path


@broken(UnreadableFile, "header promises .* MiB of voxels, the file holds")
def two_gigabyte_lie_in_nrrd(tmp: Path) -> Path:
    path = write_image(tmp / "scan.nrrd", body())
    path.write_bytes(path.read_bytes().replace(b"sizes: 48 40 12", b"sizes: 9999 9999 9999"))
    return path


@broken(UnreadableFile, "truncated")
def truncated_nifti(tmp: Path) -> Path:
    path = write_image(tmp / "scan.nii", body())
    path.write_bytes(path.read_bytes()[:-5000])
    return path


@broken(UnreadableFile, "truncated")
def truncated_packed_nifti(tmp: Path) -> Path:
    path = write_image(tmp / "scan.nii.gz", body())
    path.write_bytes(path.read_bytes()[:-3000])
    return path


@broken(UnreadableFile, "truncated")
def truncated_packed_metaimage(tmp: Path) -> Path:
    path = write_image(tmp / "scan.mha", body(), useCompression=True)
    path.write_bytes(path.read_bytes()[:-3000])
    return path


@broken(UnreadableFile, "truncated")
def truncated_packed_nrrd(tmp: Path) -> Path:
    path = write_image(tmp / "scan.nrrd", body(), useCompression=True)
    path.write_bytes(path.read_bytes()[:-3000])
    return path


@broken(UnreadableFile, "truncated or damaged")
def damaged_packed_nifti(tmp: Path) -> Path:
    path = write_image(tmp / "scan.nii.gz", body())
    data = bytearray(path.read_bytes())
    data[-4000:-3900] = bytes(100)
    path.write_bytes(data)
    return path


@broken(UnreadableFile, "truncated or damaged")
def gzip_of_nothing(tmp: Path) -> Path:
    (tmp / "scan.nii.gz").write_bytes(b"\x1f\x8b\x08\x00 and no more")
    return tmp / "scan.nii.gz"


@broken(UnreadableFile, "in colour")
def colour_nifti(tmp: Path) -> Path:
    path = write_image(tmp / "scan.nii", body())
    data = bytearray(path.read_bytes())
    data[70:72] = struct.pack("<h", 128)
    path.write_bytes(data)
    return path


@broken(UnreadableFile, "keeps its voxels in an .img file")
def nifti_pair(tmp: Path) -> Path:
    path = write_image(tmp / "scan.nii", body())
    path.write_bytes(path.read_bytes().replace(b"n+1\0", b"ni1\0"))
    return path


@broken(UnreadableFile, "holds nifti, which its suffix hides; rename it to end in .nii")
def wrong_suffix(tmp: Path) -> Path:
    return write_image(tmp / "scan.nii.gz", body()).rename(tmp / "scan.mha")


@broken(UnreadableFile, "needs 'scan.raw' beside it")
def header_without_voxels(tmp: Path) -> Path:
    path = write_image(tmp / "scan.mhd", body())
    (tmp / "scan.raw").unlink()
    return path


@broken(UnreadableFile, "points at '/etc/passwd'")
def header_to_another_file(tmp: Path) -> Path:
    path = write_image(tmp / "scan.mhd", body())
    path.write_text(path.read_text().replace("scan.raw", "/etc/passwd"))
    return path


@broken(UnreadableFile, r"points at '\.\./\.\./secret'")
def nrrd_header_to_another_file(tmp: Path) -> Path:
    path = write_image(tmp / "scan.nhdr", body())
    path.write_text(path.read_text().replace("data file: scan.raw", "data file: ../../secret"))
    return path


@broken(BadGeometry, "48 × 40 × 12 × 3 voxels; a CT has three dimensions")
def four_dimensions(tmp: Path) -> Path:
    image = sitk.JoinSeries([sitk.GetImageFromArray(body())] * 3)
    sitk.WriteImage(image, str(tmp / "scan.nii.gz"))
    return tmp / "scan.nii.gz"


@broken(BadGeometry, "48 × 40 voxels; a CT has three dimensions")
def two_dimensions(tmp: Path) -> Path:
    return write_image(tmp / "scan.mha", body()[3])


@broken(BadGeometry, "a single slice")
def one_slice_nrrd(tmp: Path) -> Path:
    return write_image(tmp / "scan.nrrd", body()[:1])


@broken(UnreadableFile, "3 values a voxel")
def colour_metaimage(tmp: Path) -> Path:
    image = sitk.GetImageFromArray(np.zeros((4, 8, 8, 3), dtype=np.uint8), isVector=True)
    sitk.WriteImage(image, str(tmp / "scan.mha"))
    return tmp / "scan.mha"


@broken(BadGeometry, "is the unit not millimetres")
def metres(tmp: Path) -> Path:
    image = sitk.GetImageFromArray(body())
    image.SetSpacing([0.0007, 0.0007, 0.0025])
    sitk.WriteImage(image, str(tmp / "scan.mha"))
    return tmp / "scan.mha"


@broken(BadGeometry, "right angles")
def sheared(tmp: Path) -> Path:
    path = write_image(tmp / "scan.mha", body())
    data = path.read_bytes()
    path.write_bytes(data.replace(b"TransformMatrix = 1 0 0 0 1 0 0 0 1", b"TransformMatrix = 1 0 0 1 1 0 0 0 1"))
    return path


@pytest.mark.parametrize(("make", "error", "phrase"), CASES, ids=[make.__name__ for make, _, _ in CASES])
def test_broken(tmp_path: Path, make: Maker, error: type[InputError], phrase: str) -> None:
    path = make(tmp_path)
    outside = {p for p in tmp_path.parent.iterdir() if p != tmp_path}
    with pytest.raises(error, match=phrase) as caught:
        read(path)
    assert type(caught.value) is error
    assert "\n" not in str(caught.value) or error is SeveralSeries
    assert {p for p in tmp_path.parent.iterdir() if p != tmp_path} == outside
    assert not any(p.name == "escaped.dcm" for p in tmp_path.rglob("*"))


@pytest.mark.parametrize(("make", "error", "phrase"), CASES, ids=[make.__name__ for make, _, _ in CASES])
def test_listing_never_fails_in_another_way(tmp_path: Path, make: Maker, error: type[InputError], phrase: str) -> None:
    try:
        infos = list_series(make(tmp_path))
    except InputError as failure:
        assert type(failure) is error
    else:
        assert infos


def test_headers_tell_what_is_wrong(tmp_path: Path) -> None:
    makers = [gap, mixed_sizes, magnetic_resonance, localizer, no_positions, rescale_lost_in_one, impossible_tilt]
    for make in makers:
        (folder := tmp_path / make.__name__).mkdir()
        (info,) = list_series(make(folder))
        phrase = next(phrase for maker, _, phrase in CASES if maker is make)
        assert not info.readable and not info.recommended, make.__name__
        with pytest.raises(AssertionError, match=phrase):
            raise AssertionError("; ".join(info.problems))


VOXELS = (
    truncated_nifti, truncated_packed_nifti, truncated_packed_metaimage, truncated_packed_nrrd, damaged_packed_nifti,
)  # fmt: skip


@pytest.mark.parametrize("make", VOXELS, ids=[make.__name__ for make in VOXELS])
def test_damaged_voxels_are_listed_as_such(run: Run, make: Maker, tmp_path: Path) -> None:
    path = make(tmp_path)
    with pytest.raises(UnreadableFile, match="truncated"):
        list_series(path)
    done = run("info", path)
    assert done.code == 2 and done.out == "" and "truncated" in done.err
    write_image(tmp_path / "whole.mha", body())
    whole, damaged = list_series(tmp_path)
    assert whole.readable and whole.recommended and not damaged.readable and "truncated" in damaged.problems[0]


def test_a_gap_too_wide_is_not_filled(tmp_path: Path) -> None:
    series = slices()
    with pytest.raises(BadGeometry, match="hole of 20 mm is too wide"):
        read(save(tmp_path, series[:2] + series[9:]), gaps="interpolate")


def test_unknown_way_with_gaps(tmp_path: Path) -> None:
    with pytest.raises(BadOption, match="got 'fill'"):
        read(save(tmp_path, slices()), gaps="fill")  # type: ignore[arg-type]


def test_masks(tmp_path: Path) -> None:
    with pytest.raises(BadValues, match="whole numbers"):
        read_mask(write_image(tmp_path / "a.nii.gz", body()))
    with pytest.raises(BadValues, match="whole numbers"):
        read_mask(write_image(tmp_path / "b.nii.gz", np.full((4, 8, 8), 0.5, dtype=np.float32)))
    with pytest.raises(NotFound, match=r"no file .*absent\.nii\.gz"):
        read_mask(tmp_path / "absent.nii.gz")
    (tmp_path / "mask.txt").write_text("no mask")
    with pytest.raises(UnreadableFile, match="a mask is read from one of these"):
        read_mask(tmp_path / "mask.txt")
    good = read_mask(write_image(tmp_path / "c.nii.gz", np.ones((4, 8, 8), dtype=np.uint8)))
    with pytest.raises(BadOption, match=r"ending in \.nii\.gz"):
        write_mask(good, tmp_path / "mask.png")
    with pytest.raises(NotFound, match="no folder"):
        write_mask(good, tmp_path / "no" / "mask.nii.gz")
