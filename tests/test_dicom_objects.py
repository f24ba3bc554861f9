"""DICOM objects: on the right images, true to the report, and free of errors by the standard's checkers."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileDataset
from pydicom.sr.coding import Code
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, generate_uid
from scipy import ndimage

import made_reports
from conftest import zip_of
from dicom_files import SPACING_ZYX, multiframe, save, slices
from made_objects import STUDY, balls, noise, plain, reported, turned
from nodulens.clinical.facts import Answers, PatientFacts
from nodulens.clinical.lung_rads_v2022 import ORDER
from nodulens.core.coverage import Coverage, Opacity, SideCoverage
from nodulens.core.nodule import Box, Nodule
from nodulens.core.volume import Volume
from nodulens.dicom_objects import codes
from nodulens.dicom_objects.kinds import KINDS
from nodulens.dicom_objects.structures import closed_curves
from nodulens.dicom_objects.study import context_of
from nodulens.dicom_objects.write import write_dicom
from nodulens.errors import BadOption
from nodulens.io import read
from nodulens.io.deidentify import released
from nodulens.report.guideline_words import chance, said
from nodulens.report.guidelines import categorise
from nodulens.report.record import Report
from nodulens.rois.grid import Drawn, Grid
from nodulens.rois.read import read_rois


def compressed(folder: Path, syntax: str) -> Path:
    made = slices(noise(), **STUDY)
    plugin = "pyjpegls" if syntax == JPEGLSLossless else "pylibjpeg"
    for data in made:
        data.compress(syntax, encoding_plugin=plugin, generate_instance_uid=False)
    return save(folder / "ct", made)


def frames(folder: Path) -> Path:
    data = multiframe(noise())
    data.FrameOfReferenceUID = generate_uid()
    for keyword, value in STUDY.items():
        setattr(data, keyword, value)
    return save(folder / "ct", [data])


def zipped(folder: Path) -> Path:
    files = sorted(plain(folder).iterdir())
    return zip_of(folder / "ct.zip", [(file.name, file.read_bytes()) for file in files])


def tilted(folder: Path) -> Path:
    """A gantry tilted by 12 degrees: each slice is moved back."""
    made = slices(noise(), **STUDY)
    for z, data in enumerate(made):
        x, y, height = map(float, data.ImagePositionPatient)
        data.ImagePositionPatient = [x, y + z * SPACING_ZYX[0] * np.tan(np.radians(12)), height]
    return save(folder / "ct", made)


def with_a_gap(folder: Path) -> Path:
    made = slices(noise(), **STUDY)
    return save(folder / "ct", [data for z, data in enumerate(made) if z != 8])


SOURCES: dict[str, Callable[[Path], Path]] = {
    "plain": plain,
    "oblique": lambda folder: plain(folder, cosines=turned(3)),
    "oblique again": lambda folder: plain(folder, cosines=turned(5)),
    "flipped": lambda folder: plain(folder, cosines=(-1.0, 0.0, 0.0, 0.0, 1.0, 0.0)),
    "coronal": lambda folder: plain(folder, cosines=(1.0, 0.0, 0.0, 0.0, 0.0, -1.0)),
    "JPEG 2000": lambda folder: compressed(folder, JPEG2000Lossless),
    "JPEG-LS": lambda folder: compressed(folder, JPEGLSLossless),
    "multi-frame": frames,
    "zip": zipped,
    "tilted": tilted,
    "gap": with_a_gap,
}


@pytest.fixture(scope="module", params=SOURCES)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Volume, Report, Path]:
    """A scan, its report, and the folder of all objects."""
    folder = tmp_path_factory.mktemp("objects")
    ct = read(SOURCES[request.param](folder), gaps="interpolate")
    report = reported(ct)
    return ct, report, write_dicom(report, ct, folder / "dicom", kinds=KINDS)


def shown(folder: Path) -> tuple[Dataset, dict[str, dict[tuple[str, int | None], np.ndarray]]]:
    """The SEG, and label → image that a frame refers to → its mask."""
    seg = pydicom.dcmread(folder / "seg.dcm")
    names = {int(item.SegmentNumber): str(item.SegmentLabel) for item in seg.SegmentSequence}
    count = int(seg.NumberOfFrames)
    bits = np.unpackbits(np.frombuffer(seg.PixelData, np.uint8), bitorder="little")
    pixels = bits[: count * seg.Rows * seg.Columns].reshape(count, seg.Rows, seg.Columns).astype(bool)
    out: dict[str, dict[tuple[str, int | None], np.ndarray]] = {name: {} for name in names.values()}
    for group, mask in zip(seg.PerFrameFunctionalGroupsSequence, pixels, strict=True):
        source = group.DerivationImageSequence[0].SourceImageSequence[0]
        frame = source.get("ReferencedFrameNumber")
        key = (str(source.ReferencedSOPInstanceUID), None if frame is None else int(frame))
        out[names[int(group.SegmentIdentificationSequence[0].ReferencedSegmentNumber)]][key] = mask
    return seg, out


def stored(place: Path) -> dict[tuple[str, int | None], tuple[np.ndarray, np.ndarray]]:
    """Image → the LPS places of its pixels (rows, columns, 3), by the standard's own formula."""
    out = {}
    for file in sorted(place.rglob("*.dcm")):
        data = pydicom.dcmread(file, stop_before_pixels=True)
        if "PerFrameFunctionalGroupsSequence" in data:
            shared = data.SharedFunctionalGroupsSequence[0]
            cosines = shared.PlaneOrientationSequence[0].ImageOrientationPatient
            spacing = shared.PixelMeasuresSequence[0].PixelSpacing
            for number, group in enumerate(data.PerFrameFunctionalGroupsSequence, start=1):
                position = group.PlanePositionSequence[0].ImagePositionPatient
                out[str(data.SOPInstanceUID), number] = places(data, position, cosines, spacing)
        else:
            out[str(data.SOPInstanceUID), None] = places(
                data, data.ImagePositionPatient, data.ImageOrientationPatient, data.PixelSpacing
            )
    return out


def places(data: Dataset, position: object, cosines: object, spacing: object) -> np.ndarray:
    """PS3.3, C.7.6.2.1.1."""
    across, down = np.array(cosines, float).reshape(2, 3)
    rows, columns = np.mgrid[: data.Rows, : data.Columns]
    between_rows, between_columns = map(float, spacing)  # type: ignore[call-overload]
    return (
        np.array(position, float)
        + columns[..., None] * between_columns * across
        + rows[..., None] * between_rows * down
    )


def test_masks_lie_on_the_right_images(written: tuple[Volume, Report, Path], request: pytest.FixtureRequest) -> None:
    """The balls are drawn again on each image from its own header, without the volume."""
    ct, report, folder = written
    images = stored(folder.parent / "ct")
    seg, masks = shown(folder)
    positions = {}
    for group in seg.PerFrameFunctionalGroupsSequence:
        source = group.DerivationImageSequence[0].SourceImageSequence[0]
        frame = source.get("ReferencedFrameNumber")
        key = (str(source.ReferencedSOPInstanceUID), None if frame is None else int(frame))
        positions[key] = np.array(group.PlanePositionSequence[0].ImagePositionPatient, float)
    for key, position in positions.items():
        np.testing.assert_allclose(position, images[key][0, 0], atol=1e-4)
    slack = 4 if "tilted" in request.node.name else 0  # whole pixels, where the volume was moved by parts of them
    for nodule, (middle, radius) in zip(report.nodules, balls(ct.geometry), strict=True):
        drawn = {key: ((lps - middle) ** 2).sum(axis=-1) < radius**2 for key, lps in images.items()}
        found = masks[f"Nodule {nodule.id}"]
        expected = {key for key, mask in drawn.items() if mask.any()}
        assert len(expected) > 2
        if not slack:
            assert set(found) == expected
        for key in expected & set(found):
            assert np.count_nonzero(found[key] ^ drawn[key]) <= slack * 3
    assert all(mask.any() for frames_of in masks.values() for mask in frames_of.values())


def test_segmentation_reads_back(written: tuple[Volume, Report, Path], request: pytest.FixtureRequest) -> None:
    """By highdicom: the same centroid and volume."""
    if "gap" in request.node.name or "tilted" in request.node.name:
        pytest.skip("highdicom makes no volume of planes that are no regular grid")
    ct, report, folder = written
    seg = hd.seg.segread(folder / "seg.dcm")
    number = {seg.get_segment_description(n).segment_label: n for n in seg.segment_numbers}
    for nodule in report.nodules:
        volume = seg.get_volume(segment_numbers=[number[f"Nodule {nodule.id}"]])
        index = np.argwhere(volume.array[..., 0])
        centre = volume.map_indices_to_reference(index).mean(axis=0)
        np.testing.assert_allclose(centre, nodule.centre_lps, atol=0.1)
        assert nodule.mask is not None
        expected = nodule.mask.sum() * ct.geometry.voxel_mm3
        assert len(index) * np.prod(volume.spacing) == pytest.approx(expected, rel=0.01)
    lungs = seg.get_volume(segment_numbers=[1, 2]).array.sum(axis=(0, 1, 2))
    assert report.lung_mask is not None
    assert lungs.tolist() == [np.count_nonzero(report.lung_mask.labels == value) for value in (1, 2)]


def test_segments_say_what_they_are(written: tuple[Volume, Report, Path]) -> None:
    ct, _, folder = written
    seg = hd.seg.segread(folder / "seg.dcm")
    described = {seg.get_segment_description(n).segment_label: seg.SegmentSequence[n - 1] for n in seg.segment_numbers}
    assert set(described) == {"Left lung", "Right lung", "Nodule 1", "Nodule 2"}
    for label, item in described.items():
        side = "Right" if label in ("Right lung", "Nodule 2") else "Left"
        region = item.AnatomicRegionSequence[0]
        assert region.AnatomicRegionModifierSequence[0].CodeMeaning == side
        assert item.TrackingID == label and item.TrackingUID
        algorithm = item.SegmentationAlgorithmIdentificationSequence[0]
        assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("nodulens default", seg.SoftwareVersions)
        kind = item.SegmentedPropertyTypeCodeSequence[0].CodeValue
        assert kind == ("27925004" if label.startswith("Nodule") else "39607008")
    assert seg.SegmentsOverlap == "YES"
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == ct.source.series_uid


def test_measurements_read_back(written: tuple[Volume, Report, Path]) -> None:
    """By highdicom: numbers, places, and the segment of the same tracking UID."""
    _, report, folder = written
    seg, sr = hd.seg.segread(folder / "seg.dcm"), hd.sr.srread(folder / "sr.dcm")
    groups = {g.tracking_identifier: g for g in sr.content.get_volumetric_roi_measurement_groups()}
    assert set(groups) == {"Left lung", "Right lung", "Nodule 1", "Nodule 2"}
    for number in seg.segment_numbers:
        described = seg.get_segment_description(number)
        group = groups[described.segment_label]
        assert group.tracking_uid == described.tracking_uid
        reference = [i for i in group[0].ContentSequence if i.ConceptNameCodeSequence[0].CodeValue == "121191"]
        item = reference[0].ReferencedSOPSequence[0]
        assert (item.ReferencedSOPInstanceUID, item.ReferencedSegmentNumber) == (seg.SOPInstanceUID, number)
    for nodule in report.nodules:
        group = groups[f"Nodule {nodule.id}"]
        m = nodule.measurements
        numbers = {n.name.meaning: n.value for n in group.get_measurements()}
        expected = {
            "Long Axis": m.long_axis_mm,
            "Short Axis": m.short_axis_mm,
            "Diameter": m.mean_diameter_mm,
            "Volume": m.volume_mm3,
            "Attenuation Coefficient": m.mean_hu,
            "Mean diameter of the largest solid part": m.solid_diameter_mm,
            "Solid share of the volume": 100 * m.solid_share,
            "Certainty of Finding": 100 * nodule.score,
        }
        if nodule.risk is not None:
            expected["Probability that expert readers rate the nodule suspicious"] = 100 * nodule.risk.probability
        assert {name: numbers[name] for name in expected} == pytest.approx(expected, rel=1e-5)
        (texture,) = [e for e in group.get_qualitative_evaluations() if e.name.meaning == "Texture"]
        kind = {"ground-glass": "non-solid"}.get(nodule.texture, nodule.texture)
        assert texture.value.meaning == f"{kind} pulmonary nodule"
        (site,) = group.finding_sites
        assert (site.value.meaning, site.laterality.meaning.lower()) == ("Lower lobe of lung", nodule.position.side)
        words = [i.TextValue for i in group[0].ContentSequence if i.get("ValueType") == "TEXT"]
        assert any("without fissures" in text for text in words)
        assert any("rate the nodule suspicious" in text for text in words) == (nodule.risk is not None)


def test_central_slice_is_the_source_of_the_axes(written: tuple[Volume, Report, Path]) -> None:
    ct, report, folder = written
    sr = hd.sr.srread(folder / "sr.dcm")
    for nodule, group in zip(report.nodules, sr.content.get_volumetric_roi_measurement_groups()[:-2], strict=True):
        (axis,) = [m for m in group.get_measurements() if m.name.meaning == "Long Axis"]
        (image,) = axis.referenced_images
        known = ct.source.slices[nodule.position.central_slice]
        assert image.referenced_sop_instance_uid == known.sop_instance_uid
        if image.referenced_frame_numbers:
            assert image.referenced_frame_numbers[0] == known.instance_number


def test_every_segment_has_an_outline_on_an_image(written: tuple[Volume, Report, Path]) -> None:
    """By highdicom: a planar group of the same tracking UID, of a nodule on its central slice; findings come first."""
    ct, report, folder = written
    sr = hd.sr.srread(folder / "sr.dcm")
    _, masks = shown(folder)
    planar = {g.tracking_identifier: g for g in sr.content.get_planar_roi_measurement_groups()}
    whole = {g.tracking_identifier: g for g in sr.content.get_volumetric_roi_measurement_groups()}
    assert list(planar) == list(whole) == ["Nodule 1", "Nodule 2", "Left lung", "Right lung"]
    for name, group in planar.items():
        assert group.tracking_uid == whole[name].tracking_uid and not group.get_measurements()
        corners = group.roi.value
        assert (corners[0] == corners[-1]).all(), "closed"
        source = group.roi.ContentSequence[0].ReferencedSOPSequence[0]
        frame = source.get("ReferencedFrameNumber")
        key = (str(source.ReferencedSOPInstanceUID), None if frame is None else int(frame))
        mask = masks[name][key]
        drawn = filled(corners[:-1] - 0.5, mask.shape)
        assert not (drawn & ~mask).any() and drawn.sum() == np.bincount(ndimage.label(mask)[0][mask]).max()
        if name.startswith("Nodule"):
            nodule = report.nodules[int(name[-1]) - 1]
            assert key[0] == ct.source.slices[nodule.position.central_slice].sop_instance_uid
        else:
            assert mask.sum() == max(one.sum() for one in masks[name].values()), "where it is largest"


def test_evidence_names_what_is_referred_to(written: tuple[Volume, Report, Path]) -> None:
    ct, _, folder = written
    sr = pydicom.dcmread(folder / "sr.dcm")
    (study,) = sr.CurrentRequestedProcedureEvidenceSequence
    assert study.StudyInstanceUID == ct.source.study_uid
    listed = {i.ReferencedSOPInstanceUID for s in study.ReferencedSeriesSequence for i in s.ReferencedSOPSequence}
    text = pydicom.dcmread(folder / "sr.dcm")
    used = {item.ReferencedSOPInstanceUID for item in referred(text)}
    assert used <= listed
    assert pydicom.dcmread(folder / "seg.dcm").SOPInstanceUID in used


def referred(data: Dataset) -> list[Dataset]:
    """All references in a content tree."""
    own = list(data.get("ReferencedSOPSequence") or [])
    return own + [item for child in data.get("ContentSequence") or [] for item in referred(child)]


def test_contours_fill_to_the_same_masks(written: tuple[Volume, Report, Path]) -> None:
    """Every pixel by the rule of even and odd, in its own plane."""
    _, _, folder = written
    plan = pydicom.dcmread(folder / "rtstruct.dcm")
    images = stored(folder.parent / "ct")
    _, masks = shown(folder)
    for region, contours in zip(plan.StructureSetROISequence, plan.ROIContourSequence, strict=True):
        drawn: dict[tuple[str, int | None], np.ndarray] = {}
        for contour in contours.ContourSequence:
            (image,) = contour.ContourImageSequence
            frame = image.get("ReferencedFrameNumber")
            key = (str(image.ReferencedSOPInstanceUID), None if frame is None else int(frame))
            lps = images[key]
            points = np.array(contour.ContourData, float).reshape(-1, 3) - lps[0, 0]
            across, down = lps[0, 1] - lps[0, 0], lps[1, 0] - lps[0, 0]
            curve = np.stack([points @ across / (across @ across), points @ down / (down @ down)], axis=1)
            assert np.abs(points @ np.cross(across, down)).max() < 1e-3
            drawn[key] = drawn.get(key, np.zeros(lps.shape[:2], bool)) ^ filled(curve, lps.shape[:2])
        assert drawn.keys() == masks[region.ROIName].keys()
        for key, mask in drawn.items():
            np.testing.assert_array_equal(mask, masks[region.ROIName][key])


@pytest.mark.parametrize("kind", ["seg", "rtstruct", "sr"])
def test_our_reader_gives_back_the_masks(
    written: tuple[Volume, Report, Path], request: pytest.FixtureRequest, kind: str
) -> None:
    """On the scan as read; slices that were made between stored images have none."""
    ct, report, folder = written
    rois = {roi.name: roi for roi in read_rois(folder / f"{kind}.dcm").rois}
    assert set(rois) == {"Left lung", "Right lung", "Nodule 1", "Nodule 2"}
    assert [name for name, roi in rois.items() if not roi.finding] == ["Left lung", "Right lung"]
    stored_slices = sorted(context_slices(ct))
    slack = 30 if "tilted" in request.node.name and kind == "rtstruct" else 0  # moved by parts of pixels
    for nodule in report.nodules:
        drawn = rois[f"Nodule {nodule.id}"].on(Grid.of(ct))
        assert drawn is not None and nodule.mask is not None
        whole = Box((0, 0, 0), ct.geometry.shape)
        found, expected = drawn.on(whole), Drawn(nodule.box, nodule.mask).on(whole)
        assert np.count_nonzero((found ^ expected)[stored_slices]) <= slack
        assert found.sum() == found[stored_slices].sum()


def filled(curve: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Pixels from which a ray crosses the curve an odd number of times."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    inside = np.zeros(shape, bool)
    for (x0, y0), (x1, y1) in zip(curve, np.roll(curve, -1, axis=0), strict=True):
        crosses = (y0 > rows) != (y1 > rows)
        with np.errstate(divide="ignore", invalid="ignore"):
            at = x0 + (rows - y0) / (y1 - y0) * (x1 - x0)
        inside ^= crosses & (columns < at)
    return inside


def test_holes_and_islands_in_a_contour() -> None:
    mask = np.zeros((20, 24), np.uint8)
    mask[2:18, 3:20] = 1
    mask[5:15, 6:16] = 0
    mask[8:11, 9:12] = 1
    mask[9, 10] = 0
    mask[3, 4] = 0
    mask[1, 22] = 1
    drawn = np.zeros(mask.shape, bool)
    for curve in closed_curves(mask):
        drawn ^= filled(curve, mask.shape)
    np.testing.assert_array_equal(drawn, mask.astype(bool))


def test_captures_are_pictures_of_the_findings(written: tuple[Volume, Report, Path]) -> None:
    _, report, folder = written
    files = sorted(folder.glob("sc-*.dcm"))
    assert len(files) == 1 + len(report.nodules)
    series = {pydicom.dcmread(file, stop_before_pixels=True).SeriesInstanceUID for file in files}
    assert len(series) == 1
    for number, file in enumerate(files, start=1):
        data = pydicom.dcmread(file)
        assert data.InstanceNumber == number and data.PhotometricInterpretation == "RGB"
        pixels = data.pixel_array
        assert (pixels == (255, 165, 60)).all(axis=-1).sum() > 50  # outlines


def checked(*words: str | Path) -> str:
    """What a checker prints."""
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False, timeout=120)
    return done.stdout + done.stderr


def needed(program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not on the path: make dicomtools installs it where apt has it")


def assert_conforms(folder: Path) -> None:
    """No error by any checker, of any object."""
    for file in sorted(folder.glob("*.dcm")):
        told = checked("dciodvfy", "-new", file)
        assert not [line for line in told.splitlines() if line.startswith(("Error", "Abort"))], (file.name, told)
        assert checked("dcmftest", file).startswith("yes:")
    told = checked("dsrdump", folder / "sr.dcm")
    assert not [line for line in told.splitlines() if line.startswith(("E:", "F:"))], told
    assert "Measurement Group" in told


def test_checkers_find_no_error(written: tuple[Volume, Report, Path]) -> None:
    for program in ("dciodvfy", "dcmftest", "dsrdump"):
        needed(program)
    assert_conforms(written[2])


def test_study_is_that_of_the_scan(written: tuple[Volume, Report, Path]) -> None:
    ct, _, folder = written
    for file in folder.iterdir():
        data = pydicom.dcmread(file)
        assert data.StudyInstanceUID == ct.source.study_uid
        assert data.SeriesInstanceUID != ct.source.series_uid
        assert str(data.PatientName) == "Müller^Jörg" and data.PatientID == "T1"
        for keyword in ("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName", "PatientSex"):
            assert str(data.get(keyword)) == STUDY[keyword], keyword
        if data.Modality in ("SEG", "RTSTRUCT"):
            assert data.FrameOfReferenceUID == ct.source.frame_of_reference_uid


def test_pseudonym_in_place_of_the_patient(tmp_path: Path) -> None:
    ct = read(plain(tmp_path))
    folder = write_dicom(reported(ct), ct, tmp_path / "dicom", kinds=KINDS, pseudonym="CASE-9")
    secrets = [STUDY[k] for k in ("PatientName", "StudyID", "AccessionNumber", "ReferringPhysicianName")]
    for file in folder.iterdir():
        data = pydicom.dcmread(file)
        assert (str(data.PatientName), data.PatientID, data.PatientIdentityRemoved) == ("CASE-9", "CASE-9", "YES")
        content = file.read_bytes()
        for secret in (*secrets, "19500101", "20240131", "THORAX", "MEIER"):
            assert secret.encode() not in content, (file.name, secret)
    if all(shutil.which(program) for program in ("dciodvfy", "dcmftest", "dsrdump")):
        assert_conforms(folder)


@pytest.mark.filterwarnings("error")
def test_names_of_one_part_are_not_shown(tmp_path: Path) -> None:
    """A warning would quote them."""
    ct = read(plain(tmp_path, PatientName="Quirinzyx", ReferringPhysicianName="Drumblefort"))
    folder = write_dicom(reported(ct), ct, tmp_path / "dicom")
    assert {str(pydicom.dcmread(file).PatientName) for file in folder.iterdir()} == {"Quirinzyx"}


def test_what_the_report_may_say_has_no_study(tmp_path: Path) -> None:
    ct = read(plain(tmp_path))
    assert ct.source.study is not None and "Müller" not in repr(ct.source)
    assert released(ct.source).study is None


def test_damaged_values_of_the_header_are_left_out(tmp_path: Path) -> None:
    made = slices(noise(), **STUDY)
    for data in made:
        data.add_new("StudyDate", "LO", "someday")
        data["StudyDate"].VR = "LO"
    ct = read(save(tmp_path / "ct", made))
    folder = write_dicom(reported(ct), ct, tmp_path / "dicom")
    assert not pydicom.dcmread(folder / "seg.dcm").StudyDate


def test_scans_without_a_study_are_refused(tmp_path: Path) -> None:
    ct = made_reports.scan()
    with pytest.raises(BadOption, match="only a scan read from DICOM"):
        write_dicom(made_reports.report(ct), ct, tmp_path / "dicom")
    bare: list[FileDataset] = slices(noise(), FrameOfReferenceUID=None)
    ct = read(save(tmp_path / "ct", bare))
    with pytest.raises(BadOption, match="frame of reference are missing"):
        write_dicom(reported(ct), ct, tmp_path / "dicom")
    assert not (tmp_path / "dicom").exists()


@pytest.mark.parametrize(
    ("kinds", "words"), [(("seg", "pdf"), "got pdf"), (("sr",), "refer to the segm"), ((), "none")]
)
def test_kinds_that_make_no_sense(tmp_path: Path, kinds: tuple[str, ...], words: str) -> None:
    ct = read(plain(tmp_path))
    with pytest.raises(BadOption, match=words):
        write_dicom(reported(ct), ct, tmp_path / "dicom", kinds=kinds)


def test_no_findings(tmp_path: Path) -> None:
    """The lungs alone are measured."""
    ct = read(plain(tmp_path))
    folder = write_dicom(replace(reported(ct), nodules=()), ct, tmp_path / "dicom", kinds=KINDS)
    assert sorted(p.name for p in folder.iterdir()) == ["rtstruct.dcm", "sc-001.dcm", "seg.dcm", "sr.dcm"]
    assert pydicom.dcmread(folder / "seg.dcm").SegmentsOverlap == "NO"
    if all(shutil.which(program) for program in ("dciodvfy", "dcmftest", "dsrdump")):
        assert_conforms(folder)


def test_a_nodule_on_a_made_up_slice_alone(tmp_path: Path) -> None:
    """It lies on no stored image: no segment holds it, but it is measured."""
    ct = read(with_a_gap(tmp_path), gaps="interpolate")
    report = reported(ct)
    one = report.nodules[0]
    z = next(z for z in range(ct.geometry.shape[0]) if z not in context_slices(ct))
    mask = np.ones((1, 3, 3), bool)
    lost: Nodule = replace(
        one, box=Box((z, 10, 10), (z + 1, 13, 13)), mask=mask, position=replace(one.position, central_slice=z)
    )
    folder = write_dicom(replace(report, nodules=(lost, report.nodules[1])), ct, tmp_path / "dicom")
    _, masks = shown(folder)
    assert set(masks) == {"Left lung", "Right lung", "Nodule 2"}
    sr = hd.sr.srread(folder / "sr.dcm")
    (group,) = sr.content.get_image_measurement_groups()
    assert group.tracking_identifier == "Nodule 1" and len(group.get_measurements()) == 11
    assert len(sr.content.get_volumetric_roi_measurement_groups()) == 3
    seg = pydicom.dcmread(folder / "seg.dcm")
    numbers = [item.ReferencedSegmentNumber for item in referred(sr) if "ReferencedSegmentNumber" in item]
    assert sorted(numbers) == [1, 2, 3] and seg.SegmentSequence[2].SegmentLabel == "Nodule 2"


def context_slices(ct: Volume) -> set[int]:
    """Slices of the volume that are stored images."""
    from datetime import datetime

    from nodulens.dicom_objects.study import corners

    context = context_of(ct, datetime(2024, 1, 1))
    assert not isinstance(context, str)
    return set(corners(ct.geometry, context.images)[:, 0].tolist())


def said_in(items: list[Dataset], code: str) -> list[str]:
    """Texts and codes of a concept, in order."""
    named = [item for item in items if item.ConceptNameCodeSequence[0].CodeValue == code]
    return [i.TextValue if i.ValueType == "TEXT" else i.ConceptCodeSequence[0].CodeValue for i in named]


def root_and_evaluations(folder: Path) -> tuple[Dataset, list[Dataset], list[Dataset]]:
    """The SR, the items of its root, and those of its evaluations of the whole examination."""
    sr = pydicom.dcmread(folder / "sr.dcm")
    items = list(sr.ContentSequence)
    (last,) = [item for item in items if item.ConceptNameCodeSequence[0].CodeValue == "C0034375"]
    return sr, items, list(last.ContentSequence)


def test_guidelines_are_in_the_structured_report(tmp_path: Path) -> None:
    """Every result and every estimate, of the examination and of each nodule; codes where the source names them."""
    ct = read(plain(tmp_path))
    facts = PatientFacts(context="screening", prior="none", age=63, sex="female", family_history=False, emphysema=False)
    report = categorise(reported(ct), Answers(facts))
    found = report.guidelines
    assert found is not None
    folder = write_dicom(report, ct, tmp_path / "dicom")
    _, _, evaluations = root_and_evaluations(folder)
    worst = found.examination[0]
    assert worst.category == "4B" and said_in(evaluations, "RID50134") == ["LUNG-RADS-4B"]
    assert said_in(evaluations, "LUNG-RADS-2022")[0].startswith(said(worst))
    assert said_in(evaluations, "BTS-2015")[0].startswith(said(found.examination[1]))
    assert {*found.notes, *report.warnings} <= set(said_in(evaluations, "121106"))
    sr = hd.sr.srread(folder / "sr.dcm")
    groups = {g.tracking_identifier: g for g in sr.content.get_volumetric_roi_measurement_groups()}
    for nodule in found.nodules:
        group = groups[f"Nodule {nodule.id}"]
        items = list(group[0].ContentSequence)
        assert said_in(items, "RID50134") == [f"LUNG-RADS-{nodule.results[0].category}"]
        assert said_in(items, "LUNG-RADS-2022")[0].startswith(said(nodule.results[0]))
        brock = next(one for one in nodule.estimates if one.model == "Brock 2013")
        texts = [i.TextValue for i in items if i.ValueType == "TEXT" and "Brock" in str(i.ConceptNameCodeSequence[0])]
        assert len(texts) == 1 and texts[0].startswith(f"{chance(brock)} probability of malignancy.")
        numbers = {n.name.meaning: n.value for n in group.get_measurements()}
        assert ("Probability of malignancy, Brock model 2013" in numbers) == (brock.probability is not None)
    if all(shutil.which(program) for program in ("dciodvfy", "dcmftest", "dsrdump")):
        assert_conforms(folder)


def test_open_categories_have_no_code(tmp_path: Path) -> None:
    """Without a prior CT stated, Lung-RADS is open: the text says what it can be."""
    ct = read(plain(tmp_path))
    report = categorise(reported(ct), Answers(PatientFacts(context="screening")))
    assert report.guidelines is not None and report.guidelines.examination[0].category is None
    folder = write_dicom(report, ct, tmp_path / "dicom")
    _, _, evaluations = root_and_evaluations(folder)
    assert said_in(evaluations, "RID50134") == []
    assert " or " in said_in(evaluations, "LUNG-RADS-2022")[0]


def test_codes_fit_their_elements() -> None:
    """A code value has 16 characters at most, its meaning 64 (PS3.5, 6.2)."""
    known = [one for one in vars(codes).values() if isinstance(one, Code)]
    known += [*codes.GUIDELINES.values(), *codes.MODELS.values()]
    categories = [codes.lung_rads(name + modifier) for name in ORDER for modifier in ("", "S")]
    for code in [*known, *categories]:
        assert code is not None and len(code.value) <= 16 and len(code.meaning) <= 64
    assert codes.lung_rads("not categorised") is None


def test_what_was_not_searched_comes_first(tmp_path: Path) -> None:
    ct = read(plain(tmp_path))
    reason = "The left lung is seen to 60 % only."
    hidden = Opacity("fluid", "left", 400.0, 0.2)
    right, left = SideCoverage(2000.0, 0.0, 0.0), SideCoverage(1200.0, 800.0, 0.4)
    partly = replace(reported(ct), coverage=Coverage(False, (reason,), left, right, (hidden,)))
    folder = write_dicom(partly, ct, tmp_path / "dicom")
    sr, items, _ = root_and_evaluations(folder)
    headline = "About 40 % of the left lung was not searched"
    assert (sr.CompletionFlag, sr.CompletionFlagDescription) == ("PARTIAL", headline)
    first, second, third = said_in(items, "COVERAGE")
    assert (first, second) == (f"{headline}.", reason) and "hidden" in third
    order = [item.ConceptNameCodeSequence[0].CodeValue for item in items]
    assert order.index("COVERAGE") < order.index("126010") < order.index("C0034375")
    if all(shutil.which(program) for program in ("dciodvfy", "dcmftest", "dsrdump")):
        assert_conforms(folder)
    both = Coverage(False, (reason,), left, SideCoverage(1500.0, 300.0, 0.17), ())
    sr, items, _ = root_and_evaluations(write_dicom(replace(partly, coverage=both), ct, tmp_path / "both"))
    assert sr.CompletionFlagDescription == "Lung was not searched", (
        "what is longer than the element holds is in the content"
    )
    assert said_in(items, "COVERAGE")[0] == f"{both.headline}."
    sr, items, _ = root_and_evaluations(write_dicom(reported(ct), ct, tmp_path / "whole"))
    assert sr.CompletionFlag == "COMPLETE" and said_in(items, "COVERAGE") == []
    pointed = write_dicom(replace(reported(ct), prompted=True), ct, tmp_path / "pointed")
    assert "a person pointed" in said_in(root_and_evaluations(pointed)[1], "COVERAGE")[0]
