"""Regions of SEG, RTSTRUCT, SR and image files, drawn on scans: against shapes by hand, and in whatever form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from pydicom.dataset import Dataset, FileDataset
from pydicom.sequence import Sequence as Items
from pydicom.sr.codedict import codes
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless, generate_uid

import dicom_files
from made_objects import coded, figure, item_of, number_of, saved, sr_of
from nodulens.core.geometry import Geometry
from nodulens.core.volume import Mask, Volume
from nodulens.errors import BadGeometry, InputError, NotFound, SeveralRois, UnreadableFile
from nodulens.io import read, write_mask
from nodulens.rois.contours import Contour, Contours, filled, plane_of
from nodulens.rois.grid import Box, Drawn, Grid
from nodulens.rois.read import read_rois
from nodulens.rois.roi import Roi

SHAPE = (16, 40, 44)
STUDY = dict.fromkeys(
    ("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "PatientSex", "ReferringPhysicianName"), ""
)
MIDDLE_ZYX, RADIUS_MM = (7.4, 20.2, 17.6), 7.3


@pytest.fixture(scope="module")
def series() -> list[FileDataset]:
    """A CT, rising slice by slice."""
    return dicom_files.slices(dicom_files.body(SHAPE), **STUDY)


@pytest.fixture(scope="module")
def ct(series: list[FileDataset], tmp_path_factory: pytest.TempPathFactory) -> Volume:
    return read(dicom_files.save(tmp_path_factory.mktemp("ct"), series))


def ball(geometry: Geometry, middle: np.ndarray, radius: float = RADIUS_MM) -> np.ndarray:
    """Voxels whose middle lies in a ball."""
    index = np.stack(np.meshgrid(*map(np.arange, geometry.shape), indexing="ij"), axis=-1)
    return ((geometry.to_lps(index) - middle) ** 2).sum(axis=-1) < radius**2


@pytest.fixture(scope="module")
def middle(ct: Volume) -> np.ndarray:
    return ct.geometry.to_lps(MIDDLE_ZYX)


@pytest.fixture(scope="module")
def truth(ct: Volume, middle: np.ndarray) -> np.ndarray:
    return ball(ct.geometry, middle)


def described(number: int, label: str, category: object = None) -> hd.seg.SegmentDescription:
    return hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=label,
        segmented_property_category=category or codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.SCT.Nodule,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.MANUAL,
        tracking_uid=generate_uid(),
        tracking_id=label,
    )


def seg_of(images: Sequence[Dataset], pixels: np.ndarray, kind: str = "BINARY", **more: object) -> Dataset:
    """A SEG by highdicom, of one segment or as many as ``pixels`` has on a fourth axis."""
    count = pixels.shape[3] if pixels.ndim == 4 else 1
    return hd.seg.Segmentation(
        source_images=images,
        pixel_array=pixels,
        segmentation_type=kind,
        segment_descriptions=[described(n + 1, f"Lesion {'ABCDEF'[n]}") for n in range(count)],
        series_instance_uid=generate_uid(),
        series_number=7,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="Maker",
        manufacturer_model_name="Model",
        software_versions="1",
        device_serial_number="1",
        **more,
    )


def on(ct: Volume, roi: Roi) -> np.ndarray:
    """A region on the whole of a scan."""
    drawn = roi.on(Grid.of(ct))
    out = np.zeros(ct.geometry.shape, dtype=bool)
    if drawn is not None:
        out[drawn.box.slices] = drawn.mask
    return out


# ---- SEG


def test_frames_in_any_order(ct: Volume, series: list[FileDataset], truth: np.ndarray, tmp_path: Path) -> None:
    """Slices upside down in the source, frames shuffled in the file, an odd number of pixels in a frame."""
    other = np.zeros_like(truth)
    other[2:5, 3:8, 30:39] = True
    seg = seg_of(series[::-1], np.stack([truth[::-1], other[::-1]], axis=-1).astype(np.uint8))
    count = int(seg.NumberOfFrames)
    order = np.random.default_rng(1).permutation(count)
    bits = np.unpackbits(np.frombuffer(seg.PixelData, np.uint8), bitorder="little")[: count * truth[0].size]
    packed = np.packbits(bits.reshape(count, -1)[order].ravel(), bitorder="little").tobytes()
    seg.PixelData = packed + b"\0" * (len(packed) % 2)
    groups = list(seg.PerFrameFunctionalGroupsSequence)
    seg.PerFrameFunctionalGroupsSequence = Items([groups[k] for k in order])
    file = read_rois(saved(seg, tmp_path / "seg.dcm"))
    assert (file.format, file.patient) == ("DICOM SEG", "T1")
    assert [(roi.number, roi.name, roi.kind) for roi in file.rois] == [
        (1, "Lesion A", "Nodule"),
        (2, "Lesion B", "Nodule"),
    ]
    np.testing.assert_array_equal(on(ct, file.rois[0]), truth)
    np.testing.assert_array_equal(on(ct, file.rois[1]), other)


@pytest.mark.parametrize("syntax", [None, RLELossless, JPEG2000Lossless, JPEGLSLossless])
@pytest.mark.parametrize("kind", ["PROBABILITY", "OCCUPANCY"])
def test_fractions_of_half_are_inside(
    ct: Volume, series: list[FileDataset], truth: np.ndarray, tmp_path: Path, kind: str, syntax: str | None
) -> None:
    values = np.where(truth, 0.5, 0.49).astype(np.float32)
    values[0] = 0
    more = {"fractional_type": kind, "max_fractional_value": 200}
    if syntax is not None:
        more["transfer_syntax_uid"] = syntax
    file = read_rois(saved(seg_of(series, values, "FRACTIONAL", **more), tmp_path / "seg.dcm"))
    np.testing.assert_array_equal(on(ct, file.one(None)), truth)
    assert "reaches half" in file.notes[0]


def test_a_label_map(ct: Volume, series: list[FileDataset], truth: np.ndarray, tmp_path: Path) -> None:
    labels = truth.astype(np.uint8)
    labels[2:5, 3:8, 30:39] = 2
    seg = seg_of(series, np.stack([labels == 1, labels == 2], axis=-1).astype(np.uint8), "LABELMAP")
    file = read_rois(saved(seg, tmp_path / "seg.dcm"))
    for number in (1, 2):
        np.testing.assert_array_equal(on(ct, file.one(str(number))), labels == number)


@pytest.mark.parametrize(
    ("spacing", "cosines"),
    [
        ((1.25, 0.4, 0.35), dicom_files.AXIAL),
        ((5.0, 1.6, 1.4), dicom_files.AXIAL),
        ((2.5, 0.8, 0.7), (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)),
        ((1.0, 0.9, 0.9), (0.8, 0.6, 0.0, -0.6, 0.8, 0.0)),
        ((2.5, 0.8, 0.7), (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0)),
    ],
)
def test_a_segmentation_on_another_grid(
    ct: Volume,
    middle: np.ndarray,
    truth: np.ndarray,
    tmp_path: Path,
    spacing: tuple[float, ...],
    cosines: tuple[float, ...],
) -> None:
    """Of another series with the same frame of reference: finer, coarser, turned."""
    shape = tuple(np.ceil(np.divide(36.0, spacing)).astype(int).tolist())
    across, down = np.array(cosines).reshape(2, 3)
    normal = np.cross(across, down)
    half = [(n - 1) / 2 * s for n, s in zip(shape, spacing, strict=True)]
    origin = middle - half[0] * normal - half[1] * down - half[2] * across + 0.13
    images = []
    for z in range(shape[0]):
        data = dicom_files.slices(np.zeros((1, *shape[1:]), np.int16), cosines=cosines, **STUDY)[0]
        data.ImagePositionPatient = [round(float(v), 5) for v in origin + z * spacing[0] * normal]
        data.PixelSpacing, data.SliceThickness = list(spacing[1:]), spacing[0]
        data.FrameOfReferenceUID, data.SOPInstanceUID = ct.source.frame_of_reference_uid, generate_uid()
        images.append(data)
    for data in images:
        data.SeriesInstanceUID, data.StudyInstanceUID = images[0].SeriesInstanceUID, images[0].StudyInstanceUID
    grid = Geometry(shape, spacing, tuple(origin), np.stack([normal, down, across], axis=1))
    path = saved(seg_of(images, ball(grid, middle).astype(np.uint8)), tmp_path / "seg.dcm")
    found = on(ct, read_rois(path).one(None))
    assert found.sum() == pytest.approx(truth.sum(), rel=0.1)
    off = ct.geometry.to_lps(np.argwhere(found).mean(axis=0)) - middle
    assert np.all(np.abs(off) < (0.6, 0.6, 1.3)), "half of a voxel of the scan"


def test_another_frame_of_reference_is_refused(
    ct: Volume, series: list[FileDataset], truth: np.ndarray, tmp_path: Path
) -> None:
    seg = seg_of(series, truth.astype(np.uint8))
    seg.FrameOfReferenceUID = "1.2.3.4"
    with pytest.raises(BadGeometry, match=r"frame of reference 1\.2\.3\.4, the scan of"):
        read_rois(saved(seg, tmp_path / "seg.dcm")).one(None).on(Grid.of(ct))


def test_frames_of_no_grid_are_refused(
    ct: Volume, series: list[FileDataset], truth: np.ndarray, tmp_path: Path
) -> None:
    seg = seg_of(series, truth.astype(np.uint8))
    place = seg.PerFrameFunctionalGroupsSequence[2].PlanePositionSequence[0]
    place.ImagePositionPatient = [-20, -30, float(place.ImagePositionPatient[2]) + 0.9]
    with pytest.raises(BadGeometry, match="no regular grid"):
        read_rois(saved(seg, tmp_path / "seg.dcm")).one(None).on(Grid.of(ct))


def test_one_of_several_is_never_chosen_silently(
    ct: Volume, series: list[FileDataset], truth: np.ndarray, tmp_path: Path
) -> None:
    pixels = np.stack([truth, np.roll(truth, 6, axis=2), np.roll(truth, -6, axis=2)], axis=-1).astype(np.uint8)
    seg = seg_of(series, pixels)
    seg.SegmentSequence[0].SegmentedPropertyCategoryCodeSequence[0].CodeValue = "123037004"  # a part of the body
    seg.SegmentSequence[2].SegmentLabel = "2"
    path = saved(seg, tmp_path / "seg.dcm")
    file = read_rois(path)
    with pytest.raises(SeveralRois, match=r"outlines 2 regions; choose one with --roi") as caught:
        file.one(None)
    assert caught.value.choices == ("Lesion B", "2") and "  3 2 (Nodule)" in str(caught.value)
    assert file.one("lesion b").number == 2
    assert file.one("2").number == 3, "a name counts before a number"
    assert file.one("1").name == "Lesion A", "a part of the body, where it is named"
    assert file.one(seg.SegmentSequence[1].TrackingUID).number == 2
    assert [roi.number for roi in file.chosen(("3", "1"))] == [1, 3]
    with pytest.raises(NotFound, match="no region 'Lesion Z'"):
        file.one("Lesion Z")
    seg.SegmentSequence[2].SegmentLabel = "Lesion B"
    with pytest.raises(SeveralRois, match="2 regions 'Lesion B'"):
        read_rois(saved(seg, path)).one("Lesion B")


def test_a_name_that_names_the_patient_is_not_shown(
    series: list[FileDataset], truth: np.ndarray, tmp_path: Path
) -> None:
    seg = seg_of(series, np.stack([truth, np.roll(truth, 6, axis=2)], axis=-1).astype(np.uint8))
    seg.PatientName, seg.SegmentSequence[0].SegmentLabel = "Quirinzyx^Wolframvax", "nodule of Wolframvax"
    file = read_rois(saved(seg, tmp_path / "seg.dcm"))
    assert [str(roi) for roi in file.rois] == ["1 (Nodule)", "2 Lesion B (Nodule)"]
    with pytest.raises(SeveralRois) as caught:
        file.one(None)
    assert "Wolframvax" not in str(caught.value) and caught.value.choices == ("1", "Lesion B")
    assert file.one("Nodule of Wolframvax").number == 1


def test_parts_of_the_body_alone(series: list[FileDataset], truth: np.ndarray, tmp_path: Path) -> None:
    seg = seg_of(series, truth.astype(np.uint8))
    seg.SegmentSequence[0].SegmentedPropertyCategoryCodeSequence[0].CodeValue = "123037004"
    with pytest.raises(NotFound, match="parts of the body alone"):
        read_rois(saved(seg, tmp_path / "seg.dcm")).one(None)


# ---- image files


def test_labels_of_an_image_file(ct: Volume, truth: np.ndarray, tmp_path: Path) -> None:
    labels = truth.astype(np.uint8) * 3
    labels[1, 1, 1] = 7
    path = tmp_path / "mask.nii.gz"
    write_mask(Mask(labels, ct.geometry, {3: "a", 7: "b"}), path)
    file = read_rois(path)
    assert [(roi.number, roi.name) for roi in file.rois] == [(3, "label 3"), (7, "label 7")]
    np.testing.assert_array_equal(on(ct, file.one("3")), truth)
    with pytest.raises(SeveralRois, match="choose one"):
        file.one(None)
    write_mask(Mask(np.zeros_like(labels), ct.geometry, {}), path)
    with pytest.raises(NotFound, match="every voxel is 0"):
        read_rois(path).one(None)


# ---- contours


def square(low: float, high: float, turn: int = 1) -> np.ndarray:
    """Rows and columns of a square's corners."""
    return np.array([(low, low), (low, high), (high, high), (high, low)])[::turn]


def plane(*curves: np.ndarray, exclusive: bool = False) -> np.ndarray:
    made = [Contour(np.column_stack([np.zeros(len(c)), c]), exclusive) for c in curves]
    return plane_of(made, Box((0, 0, 0), (1, 20, 20)))


def filled_square(low: int, high: int) -> np.ndarray:
    out = np.zeros((20, 20), bool)
    out[low:high, low:high] = True
    return out


def test_nested_contours_are_holes_and_islands() -> None:
    outer, hole, island = square(1.5, 15.5), square(4.5, 12.5, -1), square(6.5, 9.5)
    expected = filled_square(2, 16) & ~filled_square(5, 13) | filled_square(7, 10)
    for curves in ((outer, hole, island), (island, outer, hole), (hole, island, outer)):
        np.testing.assert_array_equal(plane(*curves), expected)


def test_contours_that_overlap_in_part_are_added() -> None:
    np.testing.assert_array_equal(
        plane(square(1.5, 8.5), square(5.5, 12.5)), filled_square(2, 9) | filled_square(6, 13)
    )
    np.testing.assert_array_equal(plane(square(1.5, 8.5), square(1.5, 8.5)), filled_square(2, 9))


def test_exclusive_contours_leave_out_what_they_share() -> None:
    np.testing.assert_array_equal(
        plane(square(1.5, 8.5), square(5.5, 12.5), exclusive=True), filled_square(2, 9) ^ filled_square(6, 13)
    )


def test_a_hole_that_a_contour_reaches_by_a_line() -> None:
    curve = np.concatenate(
        [square(1.5, 15.5)[:1], square(1.5, 15.5)[[3, 2, 1, 0]], square(4.5, 12.5), square(4.5, 12.5)[:1]]
    )
    np.testing.assert_array_equal(plane(curve), filled_square(2, 16) & ~filled_square(5, 13))


def test_filling_is_as_by_rays() -> None:
    rng = np.random.default_rng(4)
    for _ in range(20):
        curve = rng.uniform(-6, 26, (rng.integers(3, 12), 2))
        rows, columns = np.mgrid[:20, :20]
        inside = np.zeros((20, 20), bool)
        for (y0, x0), (y1, x1) in zip(curve, np.roll(curve, -1, axis=0), strict=True):
            crosses = (y0 > rows) != (y1 > rows)
            inside ^= crosses & (columns > x0 + (rows - y0) / (y1 - y0) * (x1 - x0))
        np.testing.assert_array_equal(filled(curve, (20, 20)), inside)


@pytest.mark.parametrize("apart_mm", [1.25, 2.5, 5.0])
def test_slices_take_the_nearest_plane_of_contours(
    ct: Volume, middle: np.ndarray, truth: np.ndarray, apart_mm: float
) -> None:
    """Contours drawn on slices as thick, half as thick and twice as thick as those of the scan."""
    turn = np.linspace(0, 2 * np.pi, 90, endpoint=False)
    curves = []
    for z in np.arange(-20, 20) * apart_mm + ct.geometry.origin_lps[2] + 8 * 2.5:
        radius = np.sqrt(max(RADIUS_MM**2 - (z - middle[2]) ** 2, 0))
        if radius > 0.1:
            xy = middle[:2] + radius * np.column_stack([np.cos(turn), np.sin(turn)])
            curves.append(Contour(np.column_stack([xy, np.full(len(xy), z)])))
    drawn = Contours(tuple(curves), np.empty((0, 3)), "ball").on(Grid.of(ct))
    assert drawn is not None
    found = drawn.on(Box((0, 0, 0), SHAPE))
    if apart_mm == 2.5:
        assert (found ^ truth).sum() < 0.01 * truth.sum()
    assert found.sum() == pytest.approx(truth.sum(), rel=0.12)
    off = drawn.centre(ct.geometry) - middle
    assert np.all(np.abs(off) < (0.3, 0.3, 1.3)), "half of a slice of the scan"


def rtstruct(ct: Volume, rois: Sequence[tuple[str, str, np.ndarray]]) -> Dataset:
    """A structure set of (name, geometric type, LPS points) of one contour each."""
    made = dicom_files.slices()[0]
    for keyword in ("PixelData", "Rows", "Columns", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        delattr(made, keyword)
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.481.3"
    made.Modality = "RTSTRUCT"
    made.StructureSetROISequence, made.ROIContourSequence = Items([]), Items([])
    for number, (name, kind, points) in enumerate(rois, start=1):
        item, drawn, contour = Dataset(), Dataset(), Dataset()
        item.ROINumber, item.ROIName = number, name
        item.ReferencedFrameOfReferenceUID = ct.source.frame_of_reference_uid
        drawn.ReferencedROINumber = number
        contour.ContourGeometricType, contour.NumberOfContourPoints = kind, len(points)
        contour.ContourData = [f"{v:.4f}" for v in points.ravel()]
        drawn.ContourSequence = Items([contour] if len(points) else [])
        made.StructureSetROISequence.append(item)
        made.ROIContourSequence.append(drawn)
    return made


def test_a_structure_set(ct: Volume, tmp_path: Path) -> None:
    corners = ct.geometry.to_lps([(3, 4.5, 5.5), (3, 4.5, 9.5), (3, 12.5, 9.5), (3, 12.5, 5.5)])
    steep = corners + np.array([(0, 0, 0), (0, 0, 4), (0, 0, 4), (0, 0, 0)])
    data = rtstruct(ct, [
        ("GTV", "CLOSED_PLANAR", corners), ("spot", "POINT", corners[:1]), ("none", "CLOSED_PLANAR", corners[:0]),
        ("steep", "CLOSED_PLANAR", steep),
    ])  # fmt: skip
    file = read_rois(saved(data, tmp_path / "rt.dcm"))
    assert [roi.name for roi in file.rois] == [
        "GTV",
        "spot",
        "steep",
    ] and "without contours are the ROIs 3" in file.notes[0]
    expected = np.zeros(SHAPE, bool)
    expected[3, 5:13, 6:10] = True
    np.testing.assert_array_equal(on(ct, file.one("gtv")), expected)
    assert not file.one("spot").shape.outlined
    np.testing.assert_allclose(file.one("spot").points(Grid.of(ct)), corners[:1], atol=1e-3)
    with pytest.raises(UnreadableFile, match="place without an outline"):
        file.one("spot").on(Grid.of(ct))
    with pytest.raises(BadGeometry, match="do not lie in the slices"):
        file.one("steep").on(Grid.of(ct))


# ---- reports


TRACKED = item_of("TEXT", ("112039", "DCM", "Tracking Identifier"), TextValue="Lesion 1")


def test_figures_in_the_patient(ct: Volume, tmp_path: Path) -> None:
    frame = ct.source.frame_of_reference_uid or ""
    corners = ct.geometry.to_lps([(3, 4.5, 5.5), (3, 4.5, 9.5), (3, 12.5, 9.5), (3, 12.5, 5.5), (3, 4.5, 5.5)])
    line = np.array([(0.0, 0.0, -380.0), (3.0, 4.0, -380.0)])
    data = sr_of(
        [TRACKED, figure("POLYGON", corners, frame=frame)],
        [figure("POINT", line[:1], frame=frame), number_of(("81827009", "SCT", "Diameter"), 8.0)],
        [figure("POLYLINE", line, frame=frame)],
        [figure("POINT", line[:1], frame="1.2.3")],
        [TRACKED],
    )
    file = read_rois(saved(data, tmp_path / "sr.dcm"))
    assert [roi.number for roi in file.rois] == [1, 2, 3, 4] and "1 of 5 measurement groups" in file.notes[0]
    expected = np.zeros(SHAPE, bool)
    expected[3, 5:13, 6:10] = True
    np.testing.assert_array_equal(on(ct, file.one("Lesion 1")), expected)
    grid = Grid.of(ct)
    np.testing.assert_allclose(file.one("2").points(grid), [(-4, -4, -384), (4, 4, -376)])
    np.testing.assert_allclose(file.one("3").points(grid), [(-1, -0.5, -380), (4, 4.5, -380)])
    with pytest.raises(BadGeometry, match=r"frame of reference 1\.2\.3"):
        file.one("4").points(grid)


def test_figures_on_an_image(ct: Volume, series: list[FileDataset], tmp_path: Path) -> None:
    """Columns and rows from the corner of the first pixel, on the image with that UID."""
    image = (str(series[5].SOPInstanceUID), None)
    corners = np.array([(6.0, 5.0), (10.0, 5.0), (10.0, 13.0), (6.0, 13.0), (6.0, 5.0)])
    circle = np.array([(20.5, 18.5), (25.5, 18.5)])
    ellipse = np.array([(10.5, 18.5), (30.5, 18.5), (20.5, 12.5), (20.5, 24.5)])
    length = number_of(("103339001", "SCT", "Long Axis"), 3.5)
    length.ContentSequence = Items([figure("POLYLINE", circle, image)])  # that it was inferred from
    data = sr_of(
        [figure("POLYLINE", corners, image)],
        [figure("CIRCLE", circle, image)],
        [figure("ELLIPSE", ellipse, image)],
        [figure("POINT", circle[:1], image)],
        [figure("POINT", circle[:1], ("1.2.3", None))],
        [length],
    )
    file = read_rois(saved(data, tmp_path / "sr.dcm"))
    found = [on(ct, roi) for roi in file.rois[:3]]
    assert all(np.flatnonzero(mask.any(axis=(1, 2))).tolist() == [5] for mask in found)
    assert np.argwhere(found[0][5]).min(axis=0).tolist() == [5, 6] and found[0].sum() == 8 * 4
    rows, columns = np.mgrid[: SHAPE[1], : SHAPE[2]]
    round_one = (rows - 18) ** 2 + (columns - 20) ** 2 < 24.5
    assert (found[1][5] ^ round_one).sum() <= 4
    assert (found[2][5] ^ (((rows - 18) / 6) ** 2 + ((columns - 20) / 10) ** 2 < 1)).sum() <= 6
    np.testing.assert_allclose(file.rois[3].points(Grid.of(ct))[0], ct.geometry.to_lps((5, 18, 20)), atol=1e-4)
    ends = ct.geometry.to_lps([(5, 18, 20), (5, 18, 25)])
    square = ends.mean(axis=0) + np.array([(-1, -1, 0), (1, 1, 0)]) * 5 * 0.7 / 2
    np.testing.assert_allclose(file.rois[5].points(Grid.of(ct)), square, atol=1e-4)
    with pytest.raises(BadGeometry, match=r"image 1\.2\.3, which is not of this scan"):
        file.rois[4].points(Grid.of(ct))


def test_a_figure_of_what_a_segment_shows_is_no_region_of_its_own(
    series: list[FileDataset], truth: np.ndarray, tmp_path: Path
) -> None:
    seg = seg_of(series, truth[..., None].astype(np.uint8))
    saved(seg, tmp_path / "seg.dcm")
    named = Dataset()
    named.ReferencedSOPClassUID, named.ReferencedSOPInstanceUID = seg.SOPClassUID, seg.SOPInstanceUID
    named.ReferencedSegmentNumber = 1
    segment = item_of("IMAGE", ("121191", "DCM", "Referenced Segment"), ReferencedSOPSequence=Items([named]))
    same, other = (
        item_of("UIDREF", ("112040", "DCM", "Tracking UID"), UID=uid)
        for uid in (seg.SegmentSequence[0].TrackingUID, "1.2.3")
    )
    square = figure("POLYLINE", np.array([(6.0, 5.0), (10.0, 5.0), (10.0, 13.0), (6.0, 5.0)]), ("1.2", None))
    data = sr_of([TRACKED, same, square], [TRACKED, same, segment], [other, square])
    file = read_rois(saved(data, tmp_path / "sr.dcm"))
    assert [(roi.number, roi.tracking_uid) for roi in file.rois] == [(1, same.UID), (2, "1.2.3")] and not file.notes
    assert file.rois[0].shape.outlined and file.rois[0].name == "Lesion 1"


def test_a_report_finds_its_segmentation_beside_it(
    ct: Volume, series: list[FileDataset], truth: np.ndarray, tmp_path: Path
) -> None:
    seg = seg_of(series, np.stack([np.roll(truth, 5, axis=1), truth], axis=-1).astype(np.uint8))
    named = Dataset()
    named.ReferencedSOPClassUID, named.ReferencedSOPInstanceUID = seg.SOPClassUID, seg.SOPInstanceUID
    named.ReferencedSegmentNumber = 2
    segment = item_of("IMAGE", ("121191", "DCM", "Referenced Segment"), ReferencedSOPSequence=Items([named]))
    tracking = item_of("UIDREF", ("112040", "DCM", "Tracking UID"), UID=seg.SegmentSequence[1].TrackingUID)
    texture = item_of("CODE", ("C41144", "NCIt", "Texture"), ConceptCodeSequence=coded("RID50151", "RadLex", "solid"))
    volume = number_of(("118565006", "SCT", "Volume"), 412.5, "mm3")
    path = saved(sr_of([TRACKED, tracking, segment, texture, volume]), tmp_path / "sr.dcm")
    with pytest.raises(NotFound, match="which is not beside it"):
        read_rois(path)
    (tmp_path / "a damaged one.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 40)
    saved(seg, tmp_path / "seg.dcm")
    roi = read_rois(path).one("lesion 1")
    np.testing.assert_array_equal(on(ct, roi), truth)
    assert [(m.name, m.value, m.unit) for m in roi.measured] == [("Volume", 412.5, "mm3")]
    assert [(e.name, e.value) for e in roi.evaluated] == [("Texture", "solid")]
    tracking.UID = "1.2.3.5"
    with pytest.raises(UnreadableFile, match="do not belong together"):
        read_rois(saved(sr_of([TRACKED, tracking, segment]), path))
    named.ReferencedSegmentNumber = 9
    with pytest.raises(UnreadableFile, match="which has none of that number"):
        read_rois(saved(sr_of([TRACKED, segment]), path))


# ---- what is broken


Damage = Callable[[Dataset], None]


def removed(*keywords: str) -> Damage:
    def change(data: Dataset) -> None:
        for keyword in keywords:
            delattr(data, keyword)

    return change


def frame_changed(change: Damage) -> Damage:
    return lambda data: change(data.PerFrameFunctionalGroupsSequence[1])


@pytest.mark.parametrize(
    ("damage", "phrase"),
    [
        (removed("SegmentSequence"), "without segments"),
        (removed("PixelData"), "there are none|truncated"),
        (lambda data: setattr(data, "PixelData", data.PixelData[:200]), "truncated"),
        (lambda data: setattr(data, "NumberOfFrames", 9000), "no place|damaged|truncated|without"),
        (frame_changed(removed("PlanePositionSequence")), "no place in the patient"),
        (frame_changed(removed("SegmentIdentificationSequence")), "frame 2 does not say"),
        (
            frame_changed(lambda g: setattr(g.SegmentIdentificationSequence[0], "ReferencedSegmentNumber", 8)),
            "frames of segment 8",
        ),
        (
            frame_changed(lambda g: setattr(g.PlanePositionSequence[0], "ImagePositionPatient", [0, 0, 1e30])),
            "impossible place",
        ),
        (lambda data: setattr(data, "Rows", 60000), "truncated"),
    ],
)
def test_damaged_segmentations_are_named(
    series: list[FileDataset], truth: np.ndarray, tmp_path: Path, damage: Damage, phrase: str
) -> None:
    seg = seg_of(series, np.stack([truth, np.roll(truth, 6, axis=2)], axis=-1).astype(np.uint8))
    damage(seg)
    with pytest.raises(InputError, match=phrase) as caught:
        read_rois(saved(seg, tmp_path / "seg.dcm"))
    assert "seg.dcm" in str(caught.value)


def test_other_files_are_named(ct: Volume, series: list[FileDataset], tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("no mask")
    with pytest.raises(UnreadableFile, match=r"neither DICOM nor an image file; give a DICOM SEG"):
        read_rois(tmp_path / "a.txt")
    with pytest.raises(UnreadableFile, match="DICOM of modality CT, which outlines nothing"):
        read_rois(saved(series[0], tmp_path / "ct.dcm"))
    with pytest.raises(NotFound, match="There is no file"):
        read_rois(tmp_path / "absent.dcm")
    with pytest.raises(UnreadableFile, match="not after template TID 1500"):
        read_rois(saved(sr_of(), tmp_path / "sr.dcm"))
    deep = item_of("CONTAINER", ("125007", "DCM", "Measurement Group"))
    for _ in range(40):
        deep = item_of("CONTAINER", ("125007", "DCM", "Measurement Group"), ContentSequence=Items([deep]))
    with pytest.raises(UnreadableFile, match="nested beyond measure"):
        read_rois(saved(sr_of([deep]), tmp_path / "sr.dcm"))
    corners = ct.geometry.to_lps([(3, 4, 5), (3, 4, 9), (3, 12, 9)])
    data = rtstruct(ct, [("GTV", "CLOSED_PLANAR", corners)])
    data.ROIContourSequence[0].ContourSequence[0]["ContourData"]._value = ["nan"] * 9
    with pytest.raises(UnreadableFile, match="structure set is damaged"):
        read_rois(saved(data, tmp_path / "rt.dcm"))
    far = rtstruct(ct, [("far", "CLOSED_PLANAR", corners * 1e6)])
    with pytest.raises(BadGeometry, match=r"larger, or farther away|do not lie"):
        read_rois(saved(far, tmp_path / "rt.dcm")).one(None).on(Grid(ct.geometry))


def test_truncated_files_end_in_a_named_error(
    ct: Volume, series: list[FileDataset], truth: np.ndarray, tmp_path: Path
) -> None:
    """Cut at many lengths, also within a list of a report, whose rest would look like a whole one."""
    corners = ct.geometry.to_lps([(3, 4, 5), (3, 4, 9), (3, 12, 9)])
    wholes = {
        "seg": seg_of(series, truth.astype(np.uint8)),
        "rt": rtstruct(ct, [("GTV", "CLOSED_PLANAR", corners)]),
        "sr": sr_of([figure("POLYGON", corners, frame="1.2")]),
        "sr with delimiters": sr_of(*[[figure("POLYGON", corners, frame="1.2")]] * 4),
    }
    wholes["sr with delimiters"]["ContentSequence"].is_undefined_length = True
    for item in wholes["sr with delimiters"].ContentSequence:
        item.is_undefined_length_sequence_item = True
    for name, data in wholes.items():
        content = saved(data, tmp_path / f"{name}.dcm").read_bytes()
        assert read_rois(tmp_path / f"{name}.dcm").rois
        refused = 0
        for length in np.linspace(0, len(content) - 3, 40).astype(int):
            path = tmp_path / f"{name} cut.dcm"
            path.write_bytes(content[:length])
            try:
                for roi in read_rois(path).rois:
                    roi.on(Grid(ct.geometry))
            except InputError:
                refused += 1
        assert refused == 40, name


def test_a_mask_on_a_grid_without_an_end() -> None:
    drawn = Drawn(Box((-2, 0, 3), (1, 2, 4)), np.ones((3, 2, 1), bool))
    assert drawn.on(Box((0, 0, 0), (2, 2, 5))).sum() == 2
