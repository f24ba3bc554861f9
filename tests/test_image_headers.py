"""Headers and streams of MetaImage, NRRD, NIfTI, zip and pictures: what is valid is read as SimpleITK does.

SimpleITK is the oracle for valid files only: on what is broken it guesses, opens other files or dies.
"""

from __future__ import annotations

import errno
import gzip
import os
import resource
import signal
import socket
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image
from scipy.spatial.transform import Rotation

from conftest import zip_of
from dicom_files import body
from nodulens.core.geometry import MAX_POSITION_MM, MAX_SIDE, Geometry
from nodulens.core.volume import Mask
from nodulens.data.folders import boxes_of_voc, files_below, open_folder, read_mask_picture, read_picture
from nodulens.data.frames import open_source
from nodulens.errors import BadGeometry, BadOption, BadValues, InputError, NotFound, UnreadableFile, UnsafeArchive
from nodulens.io import list_series, nifti, read, read_mask, write_mask
from nodulens.io.atomic import whole_file
from nodulens.io.stored import Part, Stored, check_bytes, read_voxels
from nodulens.io.unfold import BLOCK_BYTES, fill

GEOMETRY = Geometry.axial((12, 40, 48), (2.5, 0.8, 0.7), (-20.0, -30.0, -400.0))
METAIMAGE = {
    "ObjectType": "Image", "NDims": "3", "BinaryData": "True", "BinaryDataByteOrderMSB": "False",
    "CompressedData": "False", "TransformMatrix": "1 0 0 0 1 0 0 0 1", "Offset": "-20 -30 -400",
    "ElementSpacing": "0.7 0.8 2.5", "DimSize": "48 40 12", "ElementType": "MET_SHORT", "ElementDataFile": "a.raw",
}  # fmt: skip
NRRD = {
    "type": "short", "dimension": "3", "space": "left-posterior-superior", "sizes": "48 40 12",
    "space directions": "(0.7,0,0) (0,0.8,0) (0,0,2.5)", "kinds": "domain domain domain", "endian": "little",
    "encoding": "raw", "space origin": "(-20,-30,-400)", "data file": "a.raw",
}  # fmt: skip
Fields = dict[str, str | None]


@pytest.fixture(autouse=True)
def _time_limit() -> Iterator[None]:
    """A pipe that is opened by mistake would wait for ever."""

    def stop(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def edited(fields: dict[str, str], changes: Fields) -> dict[str, str]:
    """The fields with others' values, and without those that are None; the voxel file stays last."""
    *_, last = fields
    merged = {**fields, **changes}
    merged[last] = merged.pop(last)
    return {key: value for key, value in merged.items() if value is not None}


def metaimage(folder: Path, changes: Fields | None = None, voxels: bytes | None = None) -> Path:
    """A header ``a.mhd`` with its voxels in ``a.raw``."""
    folder.mkdir(exist_ok=True)
    (folder / "a.raw").write_bytes(body().tobytes() if voxels is None else voxels)
    lines = [f"{key} = {value}\n" for key, value in edited(METAIMAGE, changes or {}).items()]
    (folder / "a.mhd").write_text("".join(lines))
    return folder / "a.mhd"


def nrrd(folder: Path, changes: Fields | None = None, voxels: bytes | None = None) -> Path:
    """A header ``a.nhdr`` with its voxels in ``a.raw``."""
    folder.mkdir(exist_ok=True)
    (folder / "a.raw").write_bytes(body().tobytes() if voxels is None else voxels)
    lines = [f"{key}: {value}\n" for key, value in edited(NRRD, changes or {}).items()]
    (folder / "a.nhdr").write_text("NRRD0004\n" + "".join(lines))
    return folder / "a.nhdr"


def nifti_file(folder: Path, changes: dict[str, tuple[float, ...]] | None = None, *, packed: bool = False) -> Path:
    """``a.nii`` or ``a.nii.gz`` with fields of :data:`nodulens.io.nifti.LAYOUTS` changed."""
    data = bytearray(b"".join(nifti.encode(body(), GEOMETRY, packed=False)))
    for key, values in (changes or {}).items():
        form, at = nifti.LAYOUTS[348][key]
        struct.pack_into("<" + form, data, at, *values)
    path = folder / ("a.nii.gz" if packed else "a.nii")
    path.write_bytes(gzip.compress(data) if packed else data)
    return path


def same_as_simpleitk(path: Path) -> None:
    """The volume and the place of five of its voxels are those that SimpleITK reads."""
    image = sitk.ReadImage(str(path))
    volume = read(path)
    stored = sitk.GetArrayFromImage(image)
    array = volume.hu[::-1] if volume.source.z_reversed else volume.hu
    np.testing.assert_array_equal(array, stored)
    assert volume.geometry.spacing_zyx == pytest.approx(image.GetSpacing()[::-1])
    for z, y, x in np.random.default_rng(0).integers(0, 12, (5, 3)).tolist():
        own = (11 - z if volume.source.z_reversed else z, y, x)
        point = image.TransformIndexToPhysicalPoint([x, y, z])
        np.testing.assert_allclose(volume.geometry.to_lps(own), point, atol=1e-3)


# --- what is valid, against SimpleITK ------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["mha", "mhd", "nii", "nii.gz", "nrrd", "nhdr"])
@pytest.mark.parametrize("seed", range(6))
def test_oblique_grids_of_every_number_type(tmp_path: Path, suffix: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    kind = (np.int16, np.int32, np.float32, np.float64, np.int64, np.int16)[seed]
    image = sitk.GetImageFromArray(body().astype(kind))
    image.SetSpacing(rng.uniform(0.3, 4, 3).tolist())
    image.SetOrigin(rng.uniform(-900, 900, 3).tolist())
    direction = Rotation.random(rng=rng).as_matrix()
    direction[:, 2] *= 1 if seed % 2 else -1
    image.SetDirection(direction.ravel().tolist())
    path = tmp_path / f"scan.{suffix}"
    sitk.WriteImage(image, str(path), useCompression=seed > 2)
    same_as_simpleitk(path)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.uint32, np.uint64, np.int8])
@pytest.mark.parametrize("suffix", ["mha", "nii", "nrrd"])
def test_masks_of_every_number_type(tmp_path: Path, suffix: str, kind: type) -> None:
    labels = (body() > 0).astype(kind) * 7
    sitk.WriteImage(sitk.GetImageFromArray(labels), str(tmp_path / f"mask.{suffix}"))
    mask = read_mask(tmp_path / f"mask.{suffix}")
    np.testing.assert_array_equal(mask.labels, labels)
    assert mask.labels.dtype == np.uint8 and mask.names == {7: "label 7"}


@pytest.mark.parametrize(
    "changes",
    [
        {"BinaryDataByteOrderMSB": None},
        {"BinaryData": None, "ObjectType": None, "CompressedData": None},
        {"Offset": None, "Position": "1 2 3"},
        {"Offset": None, "Origin": "1 2 3"},
        {"TransformMatrix": "0 1 0 0 0 1 1 0 0"},
        {"TransformMatrix": None, "Orientation": "0 1 0 -1 0 0 0 0 1"},
        {"ElementSpacing": None, "ElementSize": "1 2 3"},
        {"ElementSize": "1 2 3"},
        {"Comment": "voxels as they came: a = b", "AnatomicalOrientation": "RAI"},
        {"NDims": "4", "DimSize": "48 40 12 1", "Offset": "1 2 3 0", "ElementSpacing": "1 2 3 1",
         "TransformMatrix": "1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1"},
    ],
)  # fmt: skip
def test_metaimage_fields(tmp_path: Path, changes: Fields) -> None:
    path = metaimage(tmp_path, changes)
    if "NDims" not in changes:
        same_as_simpleitk(path)
    np.testing.assert_array_equal(read(path).hu, body())


def test_metaimage_in_other_byte_order_behind_a_header_and_in_slices(tmp_path: Path) -> None:
    big = metaimage(tmp_path / "big", {"BinaryDataByteOrderMSB": "True"}, body().astype(">i2").tobytes())
    same_as_simpleitk(big)
    for size in ("10", "-1"):
        same_as_simpleitk(metaimage(tmp_path / f"skip{size}", {"HeaderSize": size}, b"x" * 10 + body().tobytes()))
    listed = metaimage(tmp_path / "list", {"ElementDataFile": "LIST\n" + "\n".join(f"{z}.raw" for z in range(12))})
    numbered = metaimage(tmp_path / "pattern", {"ElementDataFile": "%02d.raw 1 12 1"})
    for z in range(12):
        body()[z].tofile(listed.parent / f"{z}.raw")
        body()[z].tofile(numbered.parent / f"{z + 1:02d}.raw")
    same_as_simpleitk(listed)
    np.testing.assert_array_equal(read(numbered).hu, body())
    crlf = metaimage(tmp_path / "crlf")
    crlf.write_bytes(crlf.read_bytes().replace(b"\n", b"\r\n"))
    np.testing.assert_array_equal(read(crlf).hu, body())


@pytest.mark.parametrize(
    "changes",
    [
        {"space": "right-anterior-superior"},
        {"space": "LAS"},
        {"space": "scanner-xyz"},
        {"space directions": "(0,0.7,0) (0,0,0.8) (2.5,0,0)"},
        {"space": None, "space directions": None, "space origin": None, "spacings": "0.7 0.8 2.5"},
        {"type": "INT16", "encoding": "RAW", "content": "a: b"},
        {"dimension": "4", "sizes": "1 48 40 12", "kinds": "list domain domain domain",
         "space directions": "none (0.7,0,0) (0,0.8,0) (0,0,2.5)"},
    ],
)  # fmt: skip
def test_nrrd_fields(tmp_path: Path, changes: Fields) -> None:
    same_as_simpleitk(nrrd(tmp_path, changes))


def test_nrrd_in_other_byte_order_packed_skipped_and_listed(tmp_path: Path) -> None:
    same_as_simpleitk(nrrd(tmp_path / "big", {"endian": "big"}, body().astype(">i2").tobytes()))
    same_as_simpleitk(nrrd(tmp_path / "gz", {"encoding": "gz"}, gzip.compress(body().tobytes())))
    for skip in ("10", "-1"):
        same_as_simpleitk(nrrd(tmp_path / f"skip{skip}", {"byte skip": skip}, b"x" * 10 + body().tobytes()))
    listed = nrrd(tmp_path / "list", {"data file": "LIST\n" + "\n".join(f"{z}.raw" for z in range(12))})
    for z in range(12):
        body()[z].tofile(listed.parent / f"{z}.raw")
    same_as_simpleitk(listed)
    keyed = nrrd(tmp_path / "keyed")
    keyed.write_text(keyed.read_text().replace("type:", "# a comment\nDICOM_0008_0060:=CT\ntype:"))
    same_as_simpleitk(keyed)


@pytest.mark.parametrize("suffix", ["mhd", "nhdr"])
def test_what_a_header_leaves_open_is_a_warning(tmp_path: Path, suffix: str) -> None:
    made = (
        metaimage(tmp_path, {"Offset": None, "TransformMatrix": None})
        if suffix == "mhd"
        else nrrd(tmp_path, {"space": None, "space origin": None})
    )
    warnings = read(made).source.warnings
    assert len(warnings) == 2 and "left and right" in warnings[0] and "where the volume lies" in warnings[1]


def test_links_to_header_and_voxels_together_are_followed(tmp_path: Path) -> None:
    store = metaimage(tmp_path / "store")
    (tmp_path / "case").mkdir()
    for name in ("a.mhd", "a.raw"):
        (tmp_path / "case" / name).symlink_to(store.parent / name)
    np.testing.assert_array_equal(read(tmp_path / "case" / "a.mhd").hu, body())


@pytest.mark.parametrize("seed", range(12))
def test_what_is_written_lies_where_it_should_for_simpleitk(tmp_path: Path, seed: int) -> None:
    """By the qform alone as well, which is what some readers take; half turns and mirrored axes among them."""
    rng = np.random.default_rng(seed)
    turns = [*Rotation.create_group("O").as_matrix()[::4], *Rotation.random(6, rng=rng).as_matrix()]
    direction = turns[seed] * np.array([1, 1, 1 if seed % 2 else -1])
    grid = Geometry((12, 40, 48), (2.5, 0.8, 0.7), tuple(rng.uniform(-300, 300, 3)), direction[:, ::-1])
    data = bytearray(b"".join(nifti.encode(body(), grid, packed=False)))
    for codes in ((1, 1), (1, 0), (0, 1)):
        struct.pack_into("<2h", data, 252, *codes)
        (tmp_path / "a.nii").write_bytes(data)
        image = sitk.ReadImage(str(tmp_path / "a.nii"))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(image), body())
        # Near half turns a quaternion in single precision is good for three digits.
        digits = 1e-5 if codes[1] else 1e-3
        np.testing.assert_allclose(image.GetDirection(), direction.ravel(), atol=digits)
        np.testing.assert_allclose(image.GetOrigin(), grid.origin_lps, atol=1e-3)
        ours = read(tmp_path / "a.nii")
        stored = ours.geometry.direction * ([-1, 1, 1] if ours.source.z_reversed else [1, 1, 1])
        np.testing.assert_allclose(stored[:, ::-1], direction, atol=digits)


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.float32])
def test_what_is_written_has_the_header_that_simpleitk_writes(tmp_path: Path, kind: type) -> None:
    image = sitk.GetImageFromArray(body().astype(kind))
    image.SetSpacing([0.7, 0.8, 2.5])
    image.SetOrigin([-20.0, -30.0, -400.0])
    sitk.WriteImage(image, str(tmp_path / "theirs.nii"))
    ours = b"".join(nifti.encode(body().astype(kind), GEOMETRY, packed=False))
    assert ours == (tmp_path / "theirs.nii").read_bytes()


# --- headers that are broken ---------------------------------------------------------------------

HEADERS: list[tuple[Callable[[Path], Path], type[InputError], str]] = [
    *(
        (lambda p, c=changes: metaimage(p, c), error, phrase)
        for changes, error, phrase in [
            ({"NDims": "-3"}, UnreadableFile, "NDims = -3"),
            ({"NDims": "100"}, UnreadableFile, "NDims = 100"),
            ({"NDims": "2147483647"}, UnreadableFile, "NDims = 2147483647"),
            ({"NDims": "3.0"}, UnreadableFile, "NDims = '3.0' .* no whole number"),
            ({"NDims": None}, UnreadableFile, "does not say 'NDims'"),
            ({"DimSize": "48 40"}, UnreadableFile, "no list of 3 whole numbers"),
            ({"DimSize": "48 40 0"}, UnreadableFile, "damaged header .dimensions 48 × 40 × 0"),
            ({"DimSize": "48 -40 -12"}, UnreadableFile, "damaged header"),
            ({"DimSize": "48 40 " + "9" * 5000}, UnreadableFile, "no list of 3 whole numbers"),
            ({"DimSize": "48 40 70000"}, UnreadableFile, "damaged header"),
            ({"ElementSpacing": None}, BadGeometry, "holds no voxel spacing"),
            ({"ElementSpacing": "0.7 0.8"}, BadGeometry, "no list of 3 finite numbers"),
            ({"ElementSpacing": "0.7 nan 2.5"}, BadGeometry, "no list of 3 finite numbers"),
            ({"ElementSpacing": "0.7 1e999 2.5"}, BadGeometry, "no list of 3 finite numbers"),
            ({"ElementSpacing": "0.7 0.8 -2.5"}, BadGeometry, "above 0 mm"),
            ({"ElementSpacing": "0.7 0.8 1_0"}, BadGeometry, "no list of 3 finite numbers"),
            ({"ElementSpacing": "0.7 0.8 1e-300"}, BadGeometry, "impossible for a CT"),
            ({"Offset": "NaN 0 0"}, BadGeometry, "no list of 3 finite numbers"),
            ({"Offset": "1e300 0 0"}, BadGeometry, "first voxel lies at"),
            ({"TransformMatrix": "1 0 0 0 1 0 0 0 inf"}, BadGeometry, "no list of 9 finite numbers"),
            ({"TransformMatrix": "0 0 0 0 0 0 0 0 0"}, BadGeometry, "impossible for a CT"),
            ({"Position": "1 2 3"}, UnreadableFile, "Offset and Position, which differ"),
            ({"ElementByteOrderMSB": "True"}, UnreadableFile, "which differ"),
            ({"CompressedData": "perhaps"}, UnreadableFile, "neither True nor False"),
            ({"BinaryData": "False"}, UnreadableFile, "voxels as text"),
            ({"ElementType": "MET_SHORT_ARRAY"}, UnreadableFile, "'MET_SHORT_ARRAY' are not read"),
            ({"ObjectType": "Tube"}, UnreadableFile, "not an image"),
            ({"DistanceUnits": "cm"}, UnreadableFile, "not mm"),
            ({"ElementToIntensityFunctionSlope": "2"}, UnreadableFile, "is not applied"),
            ({"HeaderSize": "-2"}, UnreadableFile, "HeaderSize = -2"),
            ({"HeaderSize": "100"}, UnreadableFile, "header promises"),
            ({"NDims": "3\nNDims = 3"}, UnreadableFile, "says 'NDims' twice"),
            ({"Comment": "x" * 70000}, UnreadableFile, "first 64 KiB"),
            ({"Comment": "x\vy"}, UnreadableFile, "line 11 of the header holds a control character"),
            ({"ElementDataFile": None}, UnreadableFile, "has no ElementDataFile"),
            ({"ElementDataFile": ""}, UnreadableFile, "points at ''"),
            ({"ElementDataFile": "LIST\na.raw\na.raw"}, UnreadableFile, "lists 2 voxel files for 12 slices"),
            ({"ElementDataFile": "%d.raw 1 2147483647 1"}, UnreadableFile, "lists 2147483647 voxel files"),
            ({"ElementDataFile": "%d.raw 1 12 0"}, UnreadableFile, "lists 0 voxel files"),
        ]
    ),
    *(
        (lambda p, c=changes: nrrd(p, c), error, phrase)
        for changes, error, phrase in [
            ({"dimension": "-3"}, UnreadableFile, "dimension -3"),
            ({"dimension": "3000000000"}, UnreadableFile, "dimension 3000000000"),
            ({"sizes": "48 40"}, UnreadableFile, "no list of 3 whole numbers"),
            ({"space directions": None}, BadGeometry, "holds no voxel spacing"),
            ({"space directions": "none (0,0.8,0) (0,0,2.5)"}, BadGeometry, "leave the spacing of axis 1 open"),
            ({"space directions": "(1e300,0,0) (0,0.8,0) (0,0,2.5)"}, BadGeometry, "impossible for a CT"),
            ({"space directions": "(nan,0,0) (0,0.8,0) (0,0,2.5)"}, BadGeometry, "finite numbers"),
            ({"space directions": "(0.7,0,0) (0,0.8,0)"}, BadGeometry, "not 3 of the form"),
            ({"space directions": "(0.7,0,0) (0,0.8,0) (0,0,2.5) x"}, BadGeometry, "not 3 of the form"),
            ({"space directions": None, "spacings": "0.7 0.8 NaN"}, BadGeometry, "finite numbers"),
            ({"space directions": None, "spacings": "0.7 0.8 -1"}, BadGeometry, "above 0 mm"),
            ({"space origin": "(1e300,0,0)"}, BadGeometry, "first voxel lies at"),
            ({"space origin": "none"}, BadGeometry, "no point"),
            ({"space": "left-posterior-superior-time"}, BadGeometry, "is not read"),
            ({"space units": '"m" "m" "m"'}, BadGeometry, "not mm"),
            ({"encoding": "bzip2"}, UnreadableFile, "encoding 'bzip2' is not read"),
            ({"encoding": "hex"}, UnreadableFile, "encoding 'hex' is not read"),
            ({"encoding": "txt"}, UnreadableFile, "encoding 'txt' is not read"),
            ({"type": "block"}, UnreadableFile, "type 'block' are not read"),
            ({"endian": None}, UnreadableFile, "does not say endian"),
            ({"kinds": "vector domain domain"}, UnreadableFile, "48 values a voxel"),
            ({"kinds": "domain"}, UnreadableFile, "1 kinds for 3 axes"),
            ({"line skip": "1"}, UnreadableFile, "skipped lines"),
            ({"byte skip": "-2"}, UnreadableFile, "byte skip of -2"),
            ({"Type": "float"}, UnreadableFile, "says 'type' twice"),
            ({"datafile": "b.raw"}, UnreadableFile, "says 'datafile' twice"),
            ({"secret": "1"}, UnreadableFile, "no field of NRRD"),
            ({"content": "x\fy"}, UnreadableFile, "holds a control character"),
            ({"content": "x" * 70000}, UnreadableFile, "does not end within 64 KiB"),
        ]
    ),
    *(
        (lambda p, c=changes: nifti_file(p, c), error, phrase)
        for changes, error, phrase in [
            *(
                ({"offset": (offset,)}, UnreadableFile, "vox_offset is .* begin at 352 or later")
                for offset in (0, 100, -100, 351, 352.5, 2.0**31, 1e30, np.nan, np.inf, -np.inf)
            ),
            ({"offset": (336 + 32,)}, UnreadableFile, "header promises"),
            ({"dim": (3, 48, 40, -12, 1, 1, 1, 1)}, UnreadableFile, "damaged header"),
            ({"dim": (8, 48, 40, 12, 1, 1, 1, 1)}, UnreadableFile, "8 dimensions"),
            ({"dim": (-1, 48, 40, 12, 1, 1, 1, 1)}, UnreadableFile, "-1 dimensions"),
            ({"datatype": (4, 32)}, UnreadableFile, "data type 4 in 32 bits"),
            ({"datatype": (1, 1)}, UnreadableFile, "data type 1"),
            ({"scale": (np.inf, 0)}, UnreadableFile, "impossible rescale"),
            ({"scale": (1, np.nan)}, UnreadableFile, "impossible rescale"),
            ({"scale": (np.nan, 0)}, UnreadableFile, "impossible rescale"),
            ({"scale": (1e30, 0)}, UnreadableFile, "impossible rescale"),
            ({"scale": (1e-30, 0)}, UnreadableFile, "impossible rescale"),
            ({"codes": (0, 77)}, BadGeometry, "sform_code 77"),
            ({"codes": (-1, 0)}, BadGeometry, "qform_code -1"),
            ({"codes": (1, 0), "quaternion": (np.nan, 0, 1, 0, 0, 0)}, BadGeometry, "no rotation"),
            ({"codes": (1, 0), "quaternion": (3, 0, 1, 0, 0, 0)}, BadGeometry, "no rotation"),
            ({"codes": (1, 0), "quaternion": (0, 0, 1, np.inf, 0, 0)}, BadGeometry, "not a finite number"),
            ({"codes": (1, 0), "quaternion": (0, 0, 1, 1e30, 0, 0)}, BadGeometry, "first voxel lies at"),
            ({"codes": (1, 0), "pixdim": (np.nan, 1, 1, 1, 0, 0, 0, 0)}, BadGeometry, "no rotation"),
            ({"codes": (1, 0), "pixdim": (1, 1, np.inf, 1, 0, 0, 0, 0)}, BadGeometry, "finite number|impossible"),
            ({"codes": (0, 0), "pixdim": (1, 1, np.nan, 1, 0, 0, 0, 0)}, BadGeometry, "not a finite number"),
            ({"codes": (0, 0), "pixdim": (1, 1, 0, 1, 0, 0, 0, 0)}, BadGeometry, "impossible for a CT"),
            ({"codes": (0, 1), "rows": (np.nan,) * 12}, BadGeometry, "not a finite number"),
            ({"codes": (0, 1), "rows": (1e30,) * 12}, BadGeometry, "impossible for a CT"),
            ({"units": (7,)}, BadGeometry, "7 is no unit"),
            ({"magic": (b"n+2\0",)}, UnreadableFile, "magic"),
        ]
    ),
]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("number", range(len(HEADERS)))
def test_broken_headers(tmp_path: Path, number: int) -> None:
    make, error, phrase = HEADERS[number]
    path = make(tmp_path)
    with pytest.raises(error, match=phrase) as caught:
        read(path)
    assert type(caught.value) is error and path.name in str(caught.value) and len(str(caught.value)) < 500
    # Of a file alone, what is wrong with its header is the error of listing it too.
    with pytest.raises(error, match=phrase):
        list_series(path)


@pytest.mark.parametrize("number", range(0, len(HEADERS), 10))
def test_broken_headers_in_a_folder_are_listed_with_their_problem(tmp_path: Path, number: int) -> None:
    make, _, _ = HEADERS[number]
    path = make(tmp_path)
    (info,) = list_series(path.parent)
    assert not info.readable and path.name in info.problems[0]


def test_nifti_that_is_placed_twice(tmp_path: Path) -> None:
    assert read(nifti_file(tmp_path)).source.warnings == ()
    moved = nifti_file(tmp_path, {"quaternion": (0, 0, 1, 20, 30, -390)})
    (warning,) = read(moved).source.warnings
    assert "qform and sform" in warning


@pytest.mark.parametrize("packed", [False, True])
def test_nifti_with_extensions(tmp_path: Path, packed: bool) -> None:
    plain = b"".join(nifti.encode(body(), GEOMETRY, packed=False))
    data = bytearray(plain[:352] + struct.pack("<2i", 160, 6) + b"x" * 152 + plain[352:])
    data[348] = 1
    struct.pack_into("<f", data, 108, 512)
    path = tmp_path / ("a.nii.gz" if packed else "a.nii")
    path.write_bytes(gzip.compress(data) if packed else data)
    same_as_simpleitk(path)


def test_nifti_whose_rescale_is_not_set(tmp_path: Path) -> None:
    for scale in ((0, 5), (np.nan, np.nan)):
        np.testing.assert_array_equal(read(nifti_file(tmp_path, {"scale": scale})).hu, body())


# --- voxel files elsewhere -----------------------------------------------------------------------

TRICKS = {
    "plain": (metaimage, b"ElementDataFile = ../secret.raw\n"),
    "tab": (metaimage, b"ElementDataFile\t= ../secret.raw\n"),
    "colon": (metaimage, b"ElementDataFile : ../secret.raw\n"),
    "carriage return": (metaimage, b"Comment = x\rElementDataFile = a.raw\nElementDataFile = ../secret.raw\n"),
    "vertical tab": (metaimage, b"Comment = x\x0bElementDataFile = a.raw\nElementDataFile = ../secret.raw\n"),
    "next line": (metaimage, b"Comment = x\x85ElementDataFile = a.raw\nElementDataFile = ../secret.raw\n"),
    "unicode line": (metaimage, b"Comment = x\xe2\x80\xa8ElementDataFile = a.raw\nElementDataFile = ../secret.raw\n"),
    "64 KiB": (metaimage, b"Comment = " + b"x" * 70_000 + b"\nElementDataFile = ../secret.raw\n"),
    "below and back": (metaimage, b"ElementDataFile = sub/../../secret.raw\n"),
    "backslash": (metaimage, b"ElementDataFile = ..\\secret.raw\n"),
    "drive": (metaimage, b"ElementDataFile = C:\\secret.raw\n"),
    "link": (metaimage, b"ElementDataFile = link.raw\n"),
    "linked folder": (metaimage, b"ElementDataFile = up/secret.raw\n"),
    "list": (metaimage, b"ElementDataFile = LIST\n" + b"../secret.raw\n" * 12),
    "pattern": (metaimage, b"ElementDataFile = ../secret%d.raw 1 12 1\n"),
    "nrrd": (nrrd, b"data file: ../secret.raw\n"),
    "nrrd without a blank": (nrrd, b"datafile:../secret.raw\n"),
    "nrrd key and value": (nrrd, b"data file:=a.raw\ndata file: ../secret.raw\n"),
    "nrrd comment": (nrrd, b"# c\x85data file: a.raw\ndata file: ../secret.raw\n"),
    "nrrd form feed": (nrrd, b"# c\x0cdata file: a.raw\ndata file: ../secret.raw\n"),
    "nrrd 64 KiB": (nrrd, b"# " + b"x" * 70_000 + b"\ndata file: ../secret.raw\n"),
    "nrrd link": (nrrd, b"data file: link.raw\n"),
    "nrrd list": (nrrd, b"data file: LIST\n" + b"../secret.raw\n" * 12),
}


@pytest.mark.parametrize("trick", TRICKS)
def test_voxels_are_read_beside_the_header_only(tmp_path: Path, trick: str) -> None:
    make, ending = TRICKS[trick]
    (tmp_path / "secret.raw").write_bytes((body() + 7).astype(np.int16).tobytes())
    for number in range(1, 13):
        (body()[number - 1] + 7).astype(np.int16).tofile(tmp_path / f"secret{number}.raw")
    path = make(tmp_path / "in", {"ElementDataFile" if make is metaimage else "data file": None})
    path.write_bytes(path.read_bytes() + ending)
    (path.parent / "sub").mkdir()
    (path.parent / "link.raw").symlink_to(tmp_path / "secret.raw")
    (path.parent / "up").symlink_to(tmp_path)
    for call in (read, list_series, read_mask):
        with pytest.raises(UnreadableFile, match=r"same folder|control character|64 KiB|form key = value"):
            call(path)


def test_voxel_file_that_is_missing_or_no_file(tmp_path: Path) -> None:
    with pytest.raises(UnreadableFile, match=r"needs 'b\.raw' beside it"):
        read(metaimage(tmp_path, {"ElementDataFile": "b.raw"}))
    os.mkfifo(tmp_path / "pipe.raw")
    with pytest.raises(UnreadableFile, match=r"pipe\.raw is a pipe"):
        read(metaimage(tmp_path, {"ElementDataFile": "pipe.raw"}))


# --- streams -------------------------------------------------------------------------------------


def packed_metaimage(folder: Path, stream: bytes, **changes: str | None) -> Path:
    return metaimage(folder, {"CompressedData": "True", **changes}, stream)


def test_a_stream_is_neither_short_nor_long_nor_damaged(tmp_path: Path) -> None:
    voxels = body().tobytes()
    stream = zlib.compress(voxels)
    np.testing.assert_array_equal(read(packed_metaimage(tmp_path, stream)).hu, body())
    np.testing.assert_array_equal(read(packed_metaimage(tmp_path, gzip.compress(voxels))).hu, body())
    damaged = bytearray(stream)
    damaged[:40] = bytes(40)
    flipped = stream[:-1] + bytes([stream[-1] ^ 1])
    for made, phrase in [
        (bytes(damaged), "truncated or damaged"),
        (stream[:-5], "truncated or damaged .*ends early"),
        (flipped, "truncated or damaged .*check"),
        (stream + b"more", "truncated or damaged .*follows"),
        (zlib.compress(voxels + b"more"), "holds more than the 46,080 bytes"),
        (zlib.compress(voxels[:-2]), "truncated: 46,078 of 46,080"),
        (zlib.compress(b""), "header promises|truncated"),
    ]:
        with pytest.raises(UnreadableFile, match=phrase):
            read(packed_metaimage(tmp_path, made))
    with pytest.raises(UnreadableFile, match="packed voxels are 7 bytes by the header"):
        read(packed_metaimage(tmp_path, stream, CompressedDataSize="7"))
    for made in (voxels + b"xx", voxels + b"x" * 46080):
        with pytest.raises(UnreadableFile, match="46,080 bytes by the header and"):
            read(metaimage(tmp_path, None, made))


def test_gzip_of_several_members_and_padded(tmp_path: Path) -> None:
    data = nifti_file(tmp_path).read_bytes()
    path = tmp_path / "b.nii.gz"
    members = b"".join(gzip.compress(data[i : i + 700]) for i in range(0, len(data), 700))
    for good in (members, members + bytes(3000), gzip.compress(data) + gzip.compress(b"")):
        path.write_bytes(good)
        np.testing.assert_array_equal(read(path).hu, body())
    for bad, phrase in (
        (members + b"x", "truncated or damaged"),
        (gzip.compress(data) + gzip.compress(b"x"), "holds more than"),
        (gzip.compress(data[:-1]), "truncated: 46,079"),
        (gzip.compress(data)[:-4], "ends early"),
    ):
        path.write_bytes(bad)
        with pytest.raises(UnreadableFile, match=phrase):
            read(path)


@pytest.mark.parametrize("packing", ["zlib", "gzip"])
def test_bombs_are_not_unfolded(tmp_path: Path, packing: str) -> None:
    engine = zlib.compressobj(9, zlib.DEFLATED, 31 if packing == "gzip" else 15)
    zeros = bytes(2**20)
    (tmp_path / "bomb").write_bytes(b"".join(engine.compress(zeros) for _ in range(64)) + engine.flush())
    room = memoryview(bytearray(46080))
    tracemalloc.start()
    try:
        with (tmp_path / "bomb").open("rb") as file, pytest.raises(UnreadableFile, match="holds more than"):
            fill(tmp_path / "bomb", file, room, packing)
        assert tracemalloc.get_traced_memory()[1] < 4 * BLOCK_BYTES
    finally:
        tracemalloc.stop()


def test_sizes_are_limited_before_memory_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "held").write_bytes(b"")
    os.truncate(tmp_path / "held", 2**40)  # takes no room on the disk
    part = Part(tmp_path / "held", 2**40 - 5 * 2**20)
    stored = Stored((1024, 1024, 2048), np.eye(3), (0.0, 0.0, 0.0), np.dtype("<i2"), (part,), "gzip")
    with pytest.raises(UnreadableFile, match=r"4,096\.00 MiB .* no scan is so large"):
        check_bytes(tmp_path / "held", stored)
    whole = replace(stored, size=(65535, 65535, 128), parts=(Part(tmp_path / "held"),), packing=None)
    with pytest.raises(UnreadableFile, match="no scan is so large"):
        check_bytes(tmp_path / "held", whole)
    # What a mask of nothing is packed to is not refused.
    check_bytes(tmp_path / "held", replace(stored, size=(512, 512, 1000)))


def test_memory_that_is_not_there(tmp_path: Path) -> None:
    stored = Stored((60000, 60000, 60000), np.eye(3), (0.0, 0.0, 0.0), np.dtype("<i2"), (Part(tmp_path),))
    with pytest.raises(UnreadableFile, match="of memory, which there is not"):
        read_voxels(tmp_path, stored)


# --- pipes, devices, sockets ---------------------------------------------------------------------


@pytest.fixture(params=["pipe", "socket", "device"])
def special(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """What is no file, under the name of one."""
    path = tmp_path / "scan.nii"
    if request.param == "pipe":
        os.mkfifo(path)
    elif request.param == "socket":
        server = socket.socket(socket.AF_UNIX)
        where = os.getcwd()
        os.chdir(tmp_path)  # the names of sockets are short
        server.bind(path.name)
        os.chdir(where)
        request.addfinalizer(server.close)
    else:
        path.symlink_to("/dev/zero")
    return path


def test_what_is_no_file_is_refused_at_once(special: Path) -> None:
    for call in (read, list_series, read_mask, read_picture, read_mask_picture):
        with pytest.raises(UnreadableFile, match=r"is a (pipe|socket|device), not a file"):
            call(special)
    with pytest.raises(UnreadableFile, match=r"is a (pipe|socket|device), not a file"):
        open_source(str(special))


def test_what_is_no_file_within_a_folder(special: Path) -> None:
    folder = special.parent
    good = metaimage(folder / "good")
    np.testing.assert_array_equal(read(folder).hu, read(good).hu)
    special.rename(folder / "slice.png")
    with pytest.raises(UnreadableFile, match=r"is a (pipe|socket|device)"):
        files_below(folder, (".png",))


def test_names_too_long_are_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        read(tmp_path / ("x" * 5000))
    with pytest.raises(NotFound):
        open_source("x" * 5000)
    with pytest.raises(NotFound, match="no file or folder"):
        open_source("9" * 5000)


# --- zip -----------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("names", [("a.dcm", "a.dcm"), ("a.dcm", "A.DCM"), ("x/a.dcm", "x//a.dcm"), ("a/b", "a\\b")])
def test_zip_with_two_of_one_name(tmp_path: Path, names: tuple[str, str]) -> None:
    with pytest.raises(UnsafeArchive, match="twice"):
        read(zip_of(tmp_path / "a.zip", [(names[0], b"1"), (names[1], b"2")]))


def test_zip_with_a_file_that_is_a_folder_too(tmp_path: Path) -> None:
    with pytest.raises(UnreadableFile, match="cannot be unpacked"):
        read(zip_of(tmp_path / "a.zip", [("a", b"1"), ("a/b", b"2")]))


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_zip_packed_otherwise(tmp_path: Path, method: int) -> None:
    with pytest.raises(UnreadableFile, match=r"packed by (bzip2|LZMA); pack it again by deflate"):
        read(zip_of(tmp_path / "a.zip", [("a", bytes(5000))], method))


def test_zip_whose_members_share_bytes(tmp_path: Path) -> None:
    """The quine kind of bomb: the list of members names one stream twice."""
    path = zip_of(tmp_path / "a.zip", [("a", bytes(5000)), ("b", bytes(5000))])
    data = bytearray(path.read_bytes())
    second = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 4)
    data[second + 42 : second + 46] = struct.pack("<I", 0)
    path.write_bytes(data)
    with pytest.raises(UnsafeArchive, match="within another member"):
        read(path)


@pytest.mark.parametrize("mode", [0o010644, 0o020644, 0o140644])
def test_zip_with_a_pipe_or_device(tmp_path: Path, mode: int) -> None:
    member = zipfile.ZipInfo("a.dcm")
    member.create_system = 3
    member.external_attr = mode << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(member, b"")
    with pytest.raises(UnsafeArchive, match="no regular file"):
        read(tmp_path / "a.zip")


def test_zip_whose_members_claim_less_than_they_hold(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "a.zip", [("a", bytes(2**22))])
    data = bytearray(path.read_bytes())
    listed = data.index(b"PK\x01\x02")
    data[listed + 24 : listed + 28] = struct.pack("<I", 1000)
    path.write_bytes(data)
    with pytest.raises(UnreadableFile, match="cannot be unpacked"):
        read(path)


def test_zip_with_an_endless_list(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "a.zip", [("a", b"")])
    data = bytearray(path.read_bytes())
    end = data.index(b"PK\x05\x06")
    data[end + 12 : end + 16] = struct.pack("<I", 2**31)
    path.write_bytes(b"\0" * 2**10 + data)
    path.write_bytes(b"PK\x03\x04" + path.read_bytes()[4:])
    with pytest.raises(UnreadableFile, match="cannot be unpacked"):
        read(path)


# --- pictures ------------------------------------------------------------------------------------


def png_of(width: int, height: int) -> bytes:
    """A PNG that says that it is large, and holds nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">2I5B", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(10))) + chunk(b"IEND", b"")


@pytest.mark.filterwarnings("ignore:Image size")
@pytest.mark.parametrize("size", [(8193, 8192), (12000, 12000), (60000, 60000)])
def test_pictures_too_large(tmp_path: Path, size: tuple[int, int]) -> None:
    (tmp_path / "a.png").write_bytes(png_of(*size))
    for call in (read_picture, read_mask_picture):
        with pytest.raises(UnreadableFile, match="more than 67,108,864 pixels"):
            call(tmp_path / "a.png")


def test_pictures_of_other_kinds_whatever_their_name(tmp_path: Path) -> None:
    for format in ("BMP", "TIFF", "GIF", "PPM", "EPS"):
        Image.new("L", (8, 8)).save(tmp_path / "a.png", format)
        with pytest.raises(UnreadableFile, match="no PNG or JPEG"):
            read_picture(tmp_path / "a.png")


def test_a_folder_that_is_called_like_a_picture(tmp_path: Path) -> None:
    (tmp_path / "p1.png").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "p1.png" / "0.png")
    assert list(files_below(tmp_path, (".png",))) == ["p1.png/0"]


@pytest.mark.parametrize("corner", ["1e300", "nan", "inf", "70000", "-1e9"])
def test_boxes_out_of_all_bounds(tmp_path: Path, corner: str) -> None:
    text = f"<a><object><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>{corner}</xmax><ymax>9</ymax></bndbox></object></a>"
    (tmp_path / "a.xml").write_text(text)
    with pytest.raises(BadValues, match="smaller to a larger"):
        boxes_of_voc(tmp_path / "a.xml")


def test_boxes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "images" / "0.png")
    (tmp_path / "images" / "0.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UnreadableFile, match="no text in UTF-8"):
        open_folder(tmp_path / "images", boxes=tmp_path / "images", patient="(.+)")


def test_playlists_are_no_videos(tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    (tmp_path / "a.mp4").write_text("#EXTM3U\n#EXTINF:1,\n/etc/passwd\n")
    with pytest.raises(UnreadableFile, match="no video"):
        open_source(str(tmp_path / "a.mp4"))


# --- writing -------------------------------------------------------------------------------------


@pytest.fixture
def mask() -> Mask:
    labels = (np.random.default_rng(0).random((12, 40, 48)) > 0.5).astype(np.uint8)
    return Mask(labels, GEOMETRY, {1: "nodule 1"})


def change_what_is_written(monkeypatch: pytest.MonkeyPatch, change: Callable[[bytes], bytes]) -> None:
    """Let the disk hold other bytes than a NIfTI file was given."""
    encode = nifti.encode
    monkeypatch.setattr(nifti, "encode", lambda *args, **options: [change(b"".join(encode(*args, **options)))])


@pytest.mark.parametrize("name", ["mask.nii", "mask.nii.gz"])
def test_a_short_write_is_noticed(tmp_path: Path, mask: Mask, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mask(mask, tmp_path / name)
    before = (tmp_path / name).read_bytes()
    change_what_is_written(monkeypatch, lambda data: data[: len(data) // 2])
    with pytest.raises(UnreadableFile, match="could not be read back"):
        write_mask(replace(mask, labels=1 - mask.labels), tmp_path / name)
    assert (tmp_path / name).read_bytes() == before and [p.name for p in tmp_path.iterdir()] == [name]


def test_a_bit_that_flips_on_the_disk_is_noticed(tmp_path: Path, mask: Mask, monkeypatch: pytest.MonkeyPatch) -> None:
    change_what_is_written(monkeypatch, lambda data: data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
    with pytest.raises(UnreadableFile, match="does not hold what was written"):
        write_mask(mask, tmp_path / "mask.nii")
    assert not list(tmp_path.iterdir())


def test_a_disk_that_is_full(tmp_path: Path, mask: Mask) -> None:
    """A limit on the size of files stands for it: the writing itself ends early."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(BadOption, match=r"mask\.nii cannot be written: File too large"):
            write_mask(mask, tmp_path / "mask.nii")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert not list(tmp_path.iterdir())


def test_outputs_that_cannot_be(tmp_path: Path, mask: Mask) -> None:
    os.mkfifo(tmp_path / "pipe.nii")
    with pytest.raises(BadOption, match="is a pipe or a device"):
        write_mask(mask, tmp_path / "pipe.nii")
    assert (tmp_path / "pipe.nii").is_fifo()
    with pytest.raises(BadOption, match="cannot be written"):
        write_mask(mask, tmp_path / ("x" * 300 + ".nii"))
    with pytest.raises(BadOption, match="cannot be written"), whole_file(tmp_path / "a") as part:
        raise OSError(errno.ENOSPC, "No space left on device")
    # What went wrong with another file goes its way.
    with pytest.raises(PermissionError), whole_file(tmp_path / "a") as part:
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "other"))
    longest = "ä" * 120 + ".nii"
    with whole_file(tmp_path / longest) as part:
        part.write_text("there")
    assert (tmp_path / longest).read_text() == "there"
    with pytest.raises(BadGeometry, match="too long for NIfTI"):
        nifti.encode(np.zeros((2, 2, 40000), dtype=np.uint8), GEOMETRY, packed=False)


# --- grids ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "phrase"),
    [
        ({"spacing_zyx": (1e-4, 1.0, 1.0)}, "too small or too large"),
        ({"spacing_zyx": (1.0, 1e9, 1.0)}, "too small or too large"),
        ({"origin_lps": (0.0, -1.01 * MAX_POSITION_MM, 0.0)}, "first voxel lies at"),
        ({"origin_lps": (1e300, 0.0, 0.0)}, "first voxel lies at"),
        ({"shape": (4, 4, MAX_SIDE + 1)}, "larger than any scan"),
    ],
)
def test_grids_out_of_all_bounds(change: dict[str, tuple[float, ...]], phrase: str) -> None:
    with pytest.raises(BadGeometry, match=phrase):
        replace(GEOMETRY, **change)  # type: ignore[arg-type]


def test_grids_at_their_bounds() -> None:
    replace(GEOMETRY, origin_lps=(MAX_POSITION_MM, 0.0, -MAX_POSITION_MM), shape=(1, MAX_SIDE, 1))
