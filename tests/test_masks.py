"""Masks against a truth, nodule by nodule: by hand, as files of every kind, and from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import dicom_files
from conftest import Run, refused
from made_objects import figure, plain, reported, saved, sr_of
from nodulens.apps.panels import known_truth
from nodulens.core.geometry import Geometry
from nodulens.core.nodule import Box
from nodulens.core.volume import Mask, Volume
from nodulens.errors import BadGeometry, BadOption, NotFound
from nodulens.evaluate.masks import MaskFiles, MaskOptions, evaluate_masks, listed_files
from nodulens.evaluate.truths import CohortScan, MaskTruths
from nodulens.io import read, write_mask
from nodulens.metrics.segmentation import compare, matched
from nodulens.report.outputs import nodule_mask

GRID = Geometry.axial((20, 30, 30), (2.0, 0.5, 0.5), (-7.0, 3.0, 100.0))


def block(*spans: tuple[int, int]) -> np.ndarray:
    out = np.zeros(GRID.shape, bool)
    out[tuple(slice(*span) for span in spans)] = True
    return out


def written(path: Path, *masks: np.ndarray, geometry: Geometry = GRID) -> Path:
    """Masks as labels 1, 2, … of a NIfTI."""
    labels = np.zeros(geometry.shape, np.uint8)
    for number, mask in enumerate(masks, start=1):
        labels[mask] = number
    write_mask(Mask(labels, geometry, {n: f"label {n}" for n in range(1, len(masks) + 1)}), path)
    return path


def test_pairs_have_the_most_overlap_together() -> None:
    assert matched(np.array([[0.9, 0.8], [0.85, 0.0]])) == ((0, 1), (1, 0))
    assert matched(np.array([[0.0, 0.2], [0.0, 0.6]])) == ((1, 1),)
    assert matched(np.zeros((0, 3))) == () and matched(np.zeros((2, 0))) == ()


def test_nodules_by_hand(tmp_path: Path) -> None:
    """Found but for a column, missed, and invented."""
    true = block((5, 9), (4, 12), (4, 12)), block((12, 14), (20, 24), (20, 24))
    found = block((5, 9), (4, 12), (5, 12)), block((1, 3), (1, 5), (1, 5))
    files = MaskFiles("P1", "", written(tmp_path / "t.nii.gz", *true), written(tmp_path / "p.nii.gz", *found))
    result = evaluate_masks([files])
    assert result.counts == {"nodules": 2, "found": 1, "missed": 1, "other_predictions": 1}
    first, second, third = result.rows
    assert first.overlap is not None and first.true is not None and first.predicted is not None
    assert first.overlap == compare(true[0], found[0], GRID.spacing_zyx)
    assert first.overlap.dice == pytest.approx(2 * 7 / 15) and first.overlap.hd95_mm == pytest.approx(0.5)
    assert (first.volume_error_mm3, first.volume_error_percent) == (-16.0, -12.5)
    assert first.true.volume_mm3 == 128.0
    assert first.true.mean_mm == pytest.approx(4 * 2**0.5, rel=0.06), "the diagonals of a square of 4 mm"
    assert first.diameter_error_mm is not None and -0.6 < first.diameter_error_mm < 0
    assert (second.truth, second.prediction, second.overlap) == ("2 label 2", None, None)
    assert (third.truth, third.prediction, third.diameter_error_mm) == (None, "2 label 2", None)
    assert result.figures["found"].value == 0.5
    assert result.figures["dice"].value == pytest.approx(7 / 15)
    assert result.figures["dice_found"].value == pytest.approx(14 / 15)
    assert result.figures["absolute_volume_error_percent"].value == 12.5
    document = result.to_json()
    assert document["figures"]["dice"]["low"] is None, "one patient gives no interval"
    json.dumps(document, allow_nan=False)


def test_other_grids_and_small_masks(tmp_path: Path) -> None:
    """A prediction on a finer grid, turned the other way; nodules of a voxel."""
    fine = GRID.respaced((1.0, 0.25, 0.25)).transposed((0, 1, 2), (True, True, False))
    truth = block((5, 9), (4, 12), (4, 12)), block((15, 16), (2, 3), (2, 3))
    repeated = [np.repeat(np.repeat(np.repeat(m, 2, 0), 2, 1), 2, 2)[::-1, ::-1] for m in truth]
    files = MaskFiles(
        "1", "", written(tmp_path / "t.nii.gz", *truth), written(tmp_path / "p.nii.gz", *repeated, geometry=fine)
    )
    result = evaluate_masks([files])
    assert [row.overlap.dice for row in result.rows if row.overlap is not None] == [1.0, 1.0]
    assert [row.diameter_error_mm for row in result.rows] == [0.0, 0.0]


def test_intervals_are_by_patient(tmp_path: Path) -> None:
    whole = block((5, 9), (4, 12), (4, 12))
    parts = [block((5, 9), (4, 12), (4, 12 - k)) for k in range(4)]
    lines = ["scan,truth,predictions,patient,name"]
    for k, part in enumerate(parts):
        written(tmp_path / f"t{k}.nii.gz", whole), written(tmp_path / f"p{k}.nii.gz", part)
        lines.append(f",t{k}.nii.gz,p{k}.nii.gz,{'A' if k < 2 else k},case {k}")
    lines.append(",,p0.nii.gz,D,none there")
    (tmp_path / "pairs.csv").write_text("\n".join(lines), "utf-8")
    result = evaluate_masks(listed_files(tmp_path / "pairs.csv"))
    assert (result.scans, result.patients) == (5, 4)
    assert [row.patient for row in result.rows] == [0, 0, 1, 2, 3]
    assert result.counts == {"nodules": 4, "found": 4, "missed": 0, "other_predictions": 1}
    low, high = result.figures["dice"].low, result.figures["dice"].high
    assert low < result.figures["dice"].value < high
    assert [row.scan for row in result.rows][-1] == "none there"
    page = result.evaluation("nodulens evaluate masks")
    assert "bootstraps by patient" in page.interval and page.metrics[1].low == pytest.approx(low, abs=1e-4)


def test_nodules_of_one_patient_have_no_interval(tmp_path: Path) -> None:
    """Whoever else was predicted in: every draw of one patient's nodules is the same."""
    whole = written(tmp_path / "t.nii.gz", block((5, 9), (4, 12), (4, 12)), block((12, 14), (20, 24), (20, 24)))
    part = written(tmp_path / "p.nii.gz", block((5, 9), (4, 12), (4, 10)))
    other = written(tmp_path / "o.nii.gz", block((5, 9), (4, 12), (4, 10)))
    result = evaluate_masks([MaskFiles("1", "A", whole, part), MaskFiles("2", "B", None, other)])
    assert result.patients == 2 and result.to_json()["figures"]["dice"]["low"] is None
    assert not result.evaluation("").interval and result.evaluation("").metrics[0].low is None
    assert not result.notes
    [note] = evaluate_masks([MaskFiles("1", "A", whole, part), MaskFiles("2", "", None, other)]).notes
    assert note.startswith("1 scan of no known patient: each counts as one")


def test_a_table_names_each_scan_once(tmp_path: Path) -> None:
    for rows, told in (
        ("a.nii,p.nii,\n./a.nii,q.nii,\n", "line 3 names .*a.nii, as line 2 does; write one row for each scan"),
        (",p.nii,\n,p.nii,\n", "line 3 names .*p.nii, as line 2"),
        ("a.nii,p.nii,x\nb.nii,q.nii,x\n", "line 3 names x, as line 2"),
        ("a.nii,p.nii,2\nb.nii,q.nii,\n", "line 3 names 2, as line 2"),
    ):
        (tmp_path / "pairs.csv").write_text(f"truth,predictions,name\n{rows}")
        with pytest.raises(BadOption, match=told):
            listed_files(tmp_path / "pairs.csv")
    (tmp_path / "pairs.csv").write_text("truth,predictions\na.nii,p.nii\nb.nii,p.nii\n")
    assert len(listed_files(tmp_path / "pairs.csv")) == 2


def test_what_cannot_be_compared_is_named(tmp_path: Path) -> None:
    empty, whole = written(tmp_path / "e.nii.gz"), written(tmp_path / "t.nii.gz", block((5, 9), (4, 12), (4, 12)))
    assert evaluate_masks([MaskFiles("1", "", whole, empty)]).counts["missed"] == 1
    with pytest.raises(NotFound, match="truth outlines no nodule"):
        evaluate_masks([MaskFiles("1", "", empty, whole)])
    with pytest.raises(NotFound, match="no region '4'"):
        evaluate_masks([MaskFiles("1", "", whole, whole)], MaskOptions(truth_rois=("4",)))
    corners = np.array([(0.0, 0.0, 1.0), (4.0, 0.0, 1.0), (4.0, 4.0, 1.0)])
    report = saved(sr_of([figure("POLYGON", corners, frame="1.2")]), tmp_path / "sr.dcm")
    with pytest.raises(BadGeometry, match="no grid of their own"):
        evaluate_masks([MaskFiles("1", "", report, report)])
    for text, phrase in (
        ("truth,predictions\n", "has no rows"),
        ("truth,predictions,name\n,,a\n", "line 2 names neither"),
    ):
        (tmp_path / "pairs.csv").write_text(text)
        with pytest.raises(BadOption, match=phrase):
            listed_files(tmp_path / "pairs.csv")


# ---- from the command line, on objects that we write


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> tuple[Volume, Path]:
    """A scan, and the folder of its objects and masks; the scan is in ``ct`` there."""
    from nodulens.dicom_objects.kinds import KINDS
    from nodulens.dicom_objects.write import write_dicom

    folder = tmp_path_factory.mktemp("masks")
    ct = read(plain(folder))
    report = reported(ct)
    write_dicom(report, ct, folder / "dicom", kinds=KINDS)
    write_mask(nodule_mask(report.nodules, ct), folder / "nodules.nii.gz")
    return ct, folder


@pytest.mark.parametrize("truth", ["dicom/seg.dcm", "dicom/rtstruct.dcm", "dicom/sr.dcm", "nodules.nii.gz"])
def test_every_kind_of_file_is_the_same_truth(run: Run, objects: tuple[Volume, Path], truth: str) -> None:
    _, folder = objects
    words = ("--truth", folder / truth, "--predictions", folder / "nodules.nii.gz", "--scan", folder / "ct")
    done = run("evaluate", "masks", *words, "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["schema"] == "nodulens-masks/1"
    assert (found["nodules"], found["found"], found["other_predictions"]) == (2, 2, 0)
    # the two overlap, which the labels of an image cannot say
    assert found["rows"][0]["dice"] == 1.0 and found["rows"][1]["dice"] > 0.98
    assert any("parts of the body" in note for note in found["notes"]) == truth.startswith("dicom")


def test_regions_as_the_truth_of_a_cohort_and_of_panels(objects: tuple[Volume, Path]) -> None:
    ct, folder = objects
    nodules = reported(ct).nodules
    scan = CohortScan("a", folder / "ct", mask=folder / "dicom" / "seg.dcm")
    truth = MaskTruths({"a": folder / "dicom" / "seg.dcm"}).of(scan, ct)
    assert len(truth.known.series) == 2
    for known, nodule in zip(truth.outlines, nodules, strict=True):
        assert known is not None and known.mask is not None and nodule.mask is not None
        assert known.box == nodule.box
        np.testing.assert_array_equal(known.mask, nodule.mask)
    shown = known_truth(folder / "dicom" / "rtstruct.dcm")(ct).labels
    assert shown.sum() == nodule_mask(nodules, ct).labels.astype(bool).sum()


def test_a_region_that_is_not_on_its_scan_is_no_truth_of_it(objects: tuple[Volume, Path]) -> None:
    """It would be no nodule, neither found nor missed."""
    scan, folder = objects
    corner = scan.crop(Box((0, 0, 0), (3, 3, 3)))
    truths = MaskTruths({"1": folder / "dicom" / "rtstruct.dcm"})
    with pytest.raises(BadGeometry, match="has nothing on the grid of its scan"):
        truths.of(CohortScan("1", folder), corner)


def test_a_page_of_masks(run: Run, objects: tuple[Volume, Path], tmp_path: Path) -> None:
    _, folder = objects
    words = ("--truth", folder / "dicom" / "seg.dcm", "--predictions", folder / "nodules.nii.gz")
    done = run("evaluate", "masks", *words, "--truth-roi", "Nodule 2", "-o", tmp_path / "page")
    assert done.code == 0, done.err
    assert "Every nodule" in done.out and done.out.rstrip().endswith("evaluation.html")
    assert {path.name for path in (tmp_path / "page").iterdir()} == {"evaluation.html", "evaluation.json", "masks.json"}
    kept = json.loads((tmp_path / "page" / "masks.json").read_text("utf-8"))
    assert (kept["nodules"], kept["other_predictions"]) == (1, 1)
    assert "Nodule 2" in (tmp_path / "page" / "evaluation.html").read_text("utf-8")


def test_options_of_masks_that_do_not_go_together(run: Run, objects: tuple[Volume, Path], tmp_path: Path) -> None:
    _, folder = objects
    refused(run("evaluate", "masks", "--truth", folder / "nodules.nii.gz"), "--table CSV")
    refused(run("evaluate", "masks", "--truth", folder / "a", "--table", folder / "b"), "leave these options out")
    other = dicom_files.save(tmp_path / "ct", dicom_files.slices())
    words = ("--truth", folder / "dicom" / "seg.dcm", "--predictions", folder / "nodules.nii.gz", "--scan", other)
    refused(run("evaluate", "masks", *words), "frame of reference")
