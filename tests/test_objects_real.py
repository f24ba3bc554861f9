"""DICOM objects of whole scans: by the standard's checkers, and read back; and TCIA's own, against LIDC's database."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import nodulens as nl
import real_scans
from benchmarks import objects
from nodulens.data.lidc import LidcScan
from nodulens.dicom_objects.kinds import KINDS
from nodulens.evaluate.masks import MaskFiles, evaluate_masks
from nodulens.rois.grid import Box, Grid
from nodulens.rois.read import read_rois

SCANS = ("LIDC-IDRI-0003", "LIDC-IDRI-0028", "Lung_Dx-A0001, JPEG-LS")
"""The first two are stored as JPEG-LS, as is the copy of the third, which is not."""
Written = tuple[nl.Volume, nl.Report, Path]


@pytest.fixture(scope="module", params=SCANS)
def written(request: pytest.FixtureRequest, shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Written:
    """A scan, what is found in it, and the folder of all objects."""
    name, _, syntax = request.param.partition(", ")
    room = tmp_path_factory.mktemp("objects")
    ct, report = real_scans.analysed(shared, name)
    if syntax:
        ct = nl.read(objects.compressed(shared / "ct" / name, syntax, room / "ct"))
    return ct, report, nl.write_dicom(report, ct, room / "dicom", kinds=KINDS)


def test_checkers_find_no_error(written: Written) -> None:
    if any(shutil.which(program) is None for program in objects.CHECKERS):
        pytest.skip("make dicomtools installs the checkers where apt has them")
    assert objects.errors(written[2]) == dict.fromkeys(objects.CHECKERS, 0)


def test_objects_read_back(written: Written) -> None:
    ct, report, folder = written
    found = [objects.by_highdicom(report, ct, folder)]
    found += [objects.by_us(report, ct, folder, kind) for kind in ("seg", "rtstruct", "sr")]
    assert report.nodules
    for one in found:
        assert one.centroid_mm < 0.1 and one.volume_percent < 1 and (one.number_percent or 0.0) < 0.001


def test_written_masks_are_their_own_truth(written: Written, tmp_path: Path) -> None:
    _, report, folder = written
    found = evaluate_masks([MaskFiles("1", "", folder / "seg.dcm", folder / "sr.dcm")])
    assert found.counts == {"nodules": len(report.nodules), "found": len(report.nodules), "missed": 0,
                            "other_predictions": 0}  # fmt: skip
    assert found.figures["dice"].value == 1.0 and found.figures["hd95_mm"].value == 0.0


def test_lidc_objects_are_as_the_database(shared: Path, database: tuple[LidcScan, ...]) -> None:
    scan = next(one for one in database if one.patient_id == "LIDC-IDRI-0001")
    rows = list(objects.lidc_rows(shared, scan))
    assert len({row.annotation for row in rows}) == 4
    for row in rows:
        assert row.dice == 1.0 and row.ratings == 9
        assert row.sr_mm3 == pytest.approx(row.polygon_mm3, rel=1e-5)
        assert row.sr_mm == pytest.approx(row.polygon_mm, rel=1e-5)


def test_lidc_segmentations_by_the_images_they_name(shared: Path) -> None:
    """Our reader places frames by position, this one by the UID of the image: the same."""
    ct, _ = real_scans.analysed(shared, "LIDC-IDRI-0001")
    for name, mask in real_scans.segmentations(shared, ct).items():
        files = [read_rois(path) for path in sorted((shared / "lidc" / "tcia_seg_sr").glob("SEG_*.dcm"))]
        (roi,) = [roi for file in files for roi in file.rois if roi.name.endswith(f"Annotation {name}")]
        drawn = roi.on(Grid.of(ct))
        assert drawn is not None
        np.testing.assert_array_equal(drawn.on(Box((0, 0, 0), ct.geometry.shape)), mask)


def test_our_outline_against_a_reader_of_lidc(shared: Path, tmp_path: Path) -> None:
    """From SEG to SEG, each with the grid of its own frames."""
    ct, report = real_scans.analysed(shared, "LIDC-IDRI-0001")
    folder = nl.write_dicom(report, ct, tmp_path / "dicom", kinds=("seg", "sr"))
    found = evaluate_masks([
        MaskFiles(f"reader {k}", "", shared / "lidc" / "tcia_seg_sr" / f"SR_0{k}.dcm", folder / "seg.dcm")
        for k in range(4)
    ])  # fmt: skip
    assert found.patients == 1 and found.counts["found"] == 4
    assert 0.8 < found.figures["dice"].value < 0.95 and found.figures["absolute_diameter_error_mm"].value < 5
