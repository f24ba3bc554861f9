"""Cohorts of whole scans: which scans there are, what is known of them, and figures of all."""

from __future__ import annotations

import json
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import dicom_files
import made_luna16
import made_reports
import small_scans
from conftest import REPOSITORY, Run, refused
from lidc_xml_files import RATED, nodule, roi, write
from nodulens import io
from nodulens.core.geometry import Geometry
from nodulens.core.volume import Mask
from nodulens.data.lidc_ct import find_scans, slices_mm
from nodulens.errors import BadGeometry, BadOption, BadValues, NotFound, SeveralSeries
from nodulens.evaluate import truths
from nodulens.evaluate.cohort import CohortRun, CohortSettings, KnownRecord, MarkRecord, ScanRecord
from nodulens.evaluate.cohort_results import CohortEvaluation
from nodulens.evaluate.froc import read_predictions
from nodulens.evaluate.truths import CohortScan, TableTruths, find_cohort, outlined_truths, truths_of
from nodulens.methods.recipe import DEFAULT
from nodulens.metrics.detection import Findings, Marks, bootstrap, froc
from nodulens.presentation.evaluation import from_json

HEAD = "seriesuid,coordX,coordY,coordZ,diameter_mm\n"


def ball_mask(geometry: Geometry) -> Mask:
    """The balls of the made-up scan."""
    index = np.moveaxis(np.indices(geometry.shape), 0, -1).reshape(-1, 3)
    points = geometry.to_lps(index).reshape(*geometry.shape, 3)
    labels = np.zeros(geometry.shape, dtype=np.uint8)
    for centre, diameter in made_reports.NODULES:
        labels[np.linalg.norm(points - centre, axis=-1) < diameter / 2] = 1
    return Mask(labels, geometry, {1: "nodule"})


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One scan as DICOM and as NIfTI, each with its mask, and a file that is no scan."""
    folder = tmp_path_factory.mktemp("cohort") / "scans"
    folder.mkdir()
    small_scans.dicom(folder / "first")
    ct = io.read(folder / "first")
    io.write_volume(ct, folder / "second.nii.gz")
    io.write_mask(ball_mask(ct.geometry), folder / "first_mask.nii.gz")
    io.write_mask(ball_mask(io.read(folder / "second.nii.gz").geometry), folder / "second_mask.nii.gz")
    (folder / "third.nii.gz").write_bytes(b"no scan")
    return folder


# ---------------------------------------------------------------- scans and truths


def test_the_scans_of_a_folder(cohort: Path, luna: made_luna16.Luna16) -> None:
    """Masks are none, nor are LUNA16's lungs."""
    assert [scan.name for scan in find_cohort(cohort).scans] == ["first", "second.nii.gz", "third.nii.gz"]
    assert [scan.stem for scan in find_cohort(luna.root).scans] == [made_luna16.uid(k) for k in range(3)]


def test_the_scans_of_a_table(cohort: Path, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(f"scan,mask\n{cohort}/first,{cohort}/second_mask.nii.gz\nabsent,\n")
    found = find_cohort(tmp_path / "list.csv")
    [scan] = found.scans
    assert (scan.path, scan.mask) == (cohort / "first", cohort / "second_mask.nii.gz")
    assert list(found.unusable) == ["absent"]
    (tmp_path / "list.csv").write_text(f"scan\n{cohort}/first\n{cohort}/first\n")
    with pytest.raises(BadOption, match="twice"):
        find_cohort(tmp_path / "list.csv")
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotFound, match="holds no scan"):
        find_cohort(tmp_path / "empty")


def test_masks_are_balls_and_outlines(cohort: Path) -> None:
    found = find_cohort(cohort)
    truths = truths_of("masks", cohort, found)
    ct = io.read(cohort / "first")
    truth = truths.of(found.scans[0], ct)
    known = sorted(zip(truth.known.centre_lps.tolist(), truth.known.diameter_mm.tolist(), strict=True))
    for (centre, diameter), (place, size) in zip(known, sorted(made_reports.NODULES), strict=True):
        assert np.allclose(centre, place, atol=1.0) and diameter == pytest.approx(size, abs=1.5)
    assert sum(int(one.mask.sum()) for one in truth.outlines if one is not None and one.mask is not None) == int(
        ball_mask(ct.geometry).labels.sum()
    )
    with pytest.raises(NotFound, match=r"no mask third_mask"):
        truths.of(found.scans[2], ct)
    with pytest.raises(BadGeometry, match="not on the grid"):
        truths.of(found.scans[0], small_scans.turned(ct, (0, 1, 2), (False, True, False)))


def test_tables_name_scans_by_series_or_name(cohort: Path, tmp_path: Path) -> None:
    ct = io.read(cohort / "first")
    table = tmp_path / "points.csv"
    table.write_text(f"{HEAD}{ct.source.series_uid},1,2,3,8\nsecond,4,5,6,9\nelsewhere,7,8,9,10\n")
    found = find_cohort(cohort)
    truths = truths_of(str(table), cohort, found)
    centres = [truths.of(scan, io.read(scan.path)).known.centre_lps.tolist() for scan in found.scans[:2]]
    assert centres == [[[1, 2, 3]], [[4, 5, 6]]]
    with pytest.raises(NotFound, match="--truth is lidc, luna16, masks or a CSV"):
        truths_of("nowhere.csv", cohort, found)
    with pytest.raises(BadOption, match="--annotations is for lidc and luna16"):
        truths_of("masks", cohort, found, tmp_path)


def test_every_series_of_a_folder_is_a_scan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the order of the files, and but for a localizer and a single image."""
    place, flat = tmp_path / "flat", {}
    for number, prefix in ((11, "b"), (1, "a")):  # one UID begins with the other
        series = dicom_files.slices(SeriesInstanceUID=f"1.2.3.4.5.6.{number}")
        flat |= {f"{prefix}{k}.dcm": one for k, one in enumerate(series)}
    scout, *_ = dicom_files.slices(SeriesInstanceUID="1.2.3.4.5.6.8", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    lone, *_ = dicom_files.slices(SeriesInstanceUID="1.2.3.4.5.6.9")
    flat |= {"0.dcm": scout, "1.dcm": lone}
    place.mkdir()
    for name, one in flat.items():
        one.save_as(place / name, enforce_file_format=True)
    found = find_cohort(tmp_path)
    assert {(scan.name, scan.series) for scan in found.scans} == {
        ("flat/1.2.3.4.5.6.1", "1.2.3.4.5.6.1"),
        ("flat/1.2.3.4.5.6.11", "1.2.3.4.5.6.11"),
    }
    (tmp_path / "list.csv").write_text("scan,series\nflat,11\nflat,1.2.3.4.5.6.1\nflat,\n")
    listed = find_cohort(tmp_path / "list.csv").scans
    assert [(scan.name, scan.told) for scan in listed] == [
        ("flat/11", "1.2.3.4.5.6.11"),
        ("flat/1.2.3.4.5.6.1", "1.2.3.4.5.6.1"),
        ("flat", None),
    ]
    looked: list[Path] = []
    monkeypatch.setattr(truths, "find_scans", lambda folder: looked.append(folder) or find_scans(folder))
    assert find_cohort(tmp_path / "list.csv").scans == listed and looked == [tmp_path / "flat"], "once for all rows"
    with pytest.raises(SeveralSeries, match="holds 2 CT series"):
        io.read(listed[2].path, series=listed[2].series)


def test_a_scan_that_is_there_twice_counts_once(tmp_path: Path) -> None:
    """By the UID of its series, as DICOM and as a file of that name, or by its path."""
    small_scans.dicom(tmp_path / "first")
    uid = io.read(tmp_path / "first").source.series_uid
    for name in ("1.2.840.99999.1.1.7.mhd", "more/1.2.840.99999.1.1.7.mha", "other.nii.gz", "more/other.nii.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = find_cohort(tmp_path)
    assert [scan.name for scan in found.scans] == [
        "first",
        "1.2.840.99999.1.1.7.mhd",
        "more/other.nii.gz",
        "other.nii.gz",
    ]
    [(name, reason)] = found.unusable.items()
    assert name == "more/1.2.840.99999.1.1.7.mha" and "is 1.2.840.99999.1.1.7.mhd as well; keep one" in reason
    shutil.copytree(tmp_path / "first", tmp_path / "copy")
    (tmp_path / "list.csv").write_text("scan\nfirst\ncopy\nother.nii.gz\nmore/../other.nii.gz\n")
    listed = find_cohort(tmp_path / "list.csv")
    assert [scan.name for scan in listed.scans] == ["first", "other.nii.gz"]
    assert listed.scans[0].uid == uid and listed.scans[0].series is None, "known by its header, and read whole"
    assert listed.unusable == {
        "copy": f"Series {uid} is first as well; keep one of them.",
        "more/../other.nii.gz": "The scan is other.nii.gz as well; keep one of them.",
    }


def write_series(folder: Path, number: int) -> None:
    """Series 1.2.3.4.5.6.NUMBER, beside whatever is in a folder."""
    folder.mkdir(exist_ok=True)
    for k, one in enumerate(dicom_files.slices(SeriesInstanceUID=f"1.2.3.4.5.6.{number}")):
        one.save_as(folder / f"{number}-{k}.dcm", enforce_file_format=True)


def test_a_scan_beside_series_that_are_there_twice_counts(tmp_path: Path) -> None:
    for folder, numbers in (("a", (1, 2)), ("b", (1, 2, 3))):
        for number in numbers:
            write_series(tmp_path / folder, number)
    found = find_cohort(tmp_path)
    names = ["a/1.2.3.4.5.6.1", "a/1.2.3.4.5.6.2", "b/1.2.3.4.5.6.3"]
    assert [scan.name for scan in found.scans] == names
    [(name, reason)] = found.unusable.items()
    assert name == "b" and reason.count("as well; keep one of them.") == 2, "and no scan is called so"


def test_links_to_folders_are_followed(tmp_path: Path) -> None:
    """A cohort of links to a store, one of which leads back; what cannot be opened is no scan."""
    store, links = tmp_path / "store", tmp_path / "links"
    for number in (1, 2):
        (store / str(number)).mkdir(parents=True)
        write_series(store / str(number), number)
    (store / "files").mkdir()
    (store / "files" / "3.nii.gz").touch()
    links.mkdir()
    for name in ("1", "2", "files"):
        (links / name).symlink_to(store / name, target_is_directory=True)
    (links / "up").symlink_to(links, target_is_directory=True)
    (links / "gone").symlink_to(tmp_path / "nothing")
    found = find_cohort(links)
    assert [scan.name for scan in found.scans] == ["1", "2", "files/3.nii.gz"] and not found.unusable


def test_a_table_that_does_not_fit_is_refused_before_any_scan_is_read(tmp_path: Path) -> None:
    scans = tmp_path / "scans"
    for name in ("a/ct.nii.gz", "b/ct.nii.gz", "c/1.nii.gz"):
        (scans / name).parent.mkdir(parents=True)
        (scans / name).touch()
    found, table = find_cohort(scans), tmp_path / "points.csv"
    row = ",1,2,3,8\n"
    for text, error, message in (
        ("ct" + row, BadOption, r"names ct, and a/ct.nii.gz and b/ct.nii.gz are called so: name the scans by"),
        ("case 1" + row, BadOption, r"No row of .* is of a scan of the cohort: .* ct or a/ct.nii.gz.*, and not case 1"),
        ("", BadOption, "No row of"),
        (2 * ("1" + row), BadValues, "line 3 repeats line 2"),
    ):
        table.write_text(HEAD + text)
        with pytest.raises(error, match=message):
            truths_of(str(table), scans, found)
    write_series(tmp_path / "dicom", 7)
    table.write_text(f"{HEAD}case 1{row}")
    with pytest.raises(BadOption, match=r"they are called 1\.2\.3\.4\.5\.6\.7 or dicom, for instance, and not case 1"):
        truths_of(str(table), tmp_path, find_cohort(tmp_path / "dicom"))
    table.write_text(f"{HEAD}a/ct.nii.gz{row}1{row}case 1{row}")
    truths = truths_of(str(table), scans, found)
    assert isinstance(truths, TableTruths)
    assert truths.elsewhere({name for scan in found.scans for name in scan.names}) == 1


def test_truths_of_no_scan_are_refused_before_any_is_read(tmp_path: Path) -> None:
    scans = tmp_path / "scans"
    write_series(tmp_path / "scans", 7)
    head = "<ResponseHeader><SeriesInstanceUid>1.2.3</SeriesInstanceUid>"
    head += "<StudyInstanceUID>1.2</StudyInstanceUID></ResponseHeader>"
    write(tmp_path / "scan.xml", nodule(roi([(70, 70)], 1.0)), head=head)
    found = find_cohort(scans)
    with pytest.raises(NotFound, match=r"No XML in .* such as series 1\.2\.3\.4\.5\.6\.7"):
        truths_of("lidc", scans, found, tmp_path)
    with pytest.raises(NotFound, match=r"has a mask, such as scans_mask\.nii\.gz beside scans"):
        truths_of("masks", scans, found)
    (tmp_path / "list.csv").write_text("scan,mask\nscans,\n,some.nii.gz\n")
    with pytest.raises(BadOption, match="line 3: scan is empty"):
        find_cohort(tmp_path / "list.csv")


def test_luna16_is_read_with_its_excluded_findings(luna: made_luna16.Luna16) -> None:
    found = find_cohort(luna.root)
    ct = io.read(found.scans[0].path)
    truth = truths_of("luna16", luna.root, found).of(found.scans[0], ct)
    assert truth.known.diameter_mm.tolist() == [9.5] and truth.excluded.diameter_mm.tolist() == [-1, 4.5]
    with pytest.raises(NotFound, match="annotations"):
        truths_of("luna16", luna.root, found, luna.root / "subset0")
    unnamed = CohortScan("ct", found.scans[0].path.with_name("ct.mhd"))
    with pytest.raises(BadOption, match="which ct does not tell"):
        truths_of("luna16", luna.root, found).of(unnamed, replace(ct, source=replace(ct.source, series_uid=None)))


def test_luna16_has_the_outlines_of_lidc(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, luna: made_luna16.Luna16
) -> None:
    """Stored three ways round; the block is where the readers drew it, the diameter that of the table."""
    monkeypatch.setattr("nodulens.evaluate.truths.read_database", lambda: tuple(luna.scans.values()))
    found = find_cohort(luna.root)
    truths = outlined_truths("luna16", luna.root, found)
    for scan in found.scans:
        ct = io.read(scan.path)
        (known,) = truths.of(scan, ct).outlines
        assert known is not None and known.mask is not None and known.readers == made_luna16.READERS
        assert known.mask.all() and (ct.hu[known.box.slices] == made_luna16.NODULE).all()
        assert known.annotated is not None and known.annotated[1] == 9.5
        assert np.allclose(known.annotated[0], known.ball(ct.geometry)[0], atol=1e-6)
        assert [path.name for path in truths.files(scan)] == ["annotations.csv", "annotations_excluded.csv"]
    with pytest.raises(BadOption, match="Outlines are of lidc, luna16 or masks"):
        outlined_truths("points.csv", luna.root, found)
    monkeypatch.setattr("nodulens.evaluate.truths.read_database", tuple)
    with pytest.raises(NotFound, match="neither XML nor database"):
        outlined_truths("luna16", luna.root, found).of(found.scans[0], io.read(found.scans[0].path))


def test_three_readers_make_a_nodule_and_two_do_not(cohort: Path, tmp_path: Path) -> None:
    """Squares on two slices; a single point, which is a small nodule, has no size."""
    ct = io.read(cohort / "first")
    heights = slices_mm(ct.geometry)
    squares = [[(a, a), (a + 11, a), (a + 11, a + 11), (a, a + 11)] for a in (40, 90)]
    large, small = (nodule(RATED, *(roi(square, heights[z]) for z in (10, 11))) for square in squares)
    point = nodule(roi([(70, 70)], heights[20]))
    head = f"<ResponseHeader><SeriesInstanceUid>{ct.source.series_uid}</SeriesInstanceUid>"
    head += "<StudyInstanceUID>1.2</StudyInstanceUID></ResponseHeader>"
    write(tmp_path / "scan.xml", large + small + point, large + small, large, head=head)
    (tmp_path / "radiograph.xml").write_text("<IdriReadMessage/>")
    (tmp_path / "boxes.xml").write_text("<annotation/>")
    found = find_cohort(cohort)
    truths = truths_of("lidc", cohort, found, tmp_path)
    truth = truths.of(found.scans[0], ct)
    middle = ct.geometry.to_lps(np.array([10.5, 45.5, 45.5]))
    assert np.allclose(truth.known.centre_lps, [middle])
    assert truth.textures == ("part-solid",), "each reader rates it 3"
    assert truth.outlines[0] is not None and truth.outlines[0].readers == 3
    assert truth.excluded.diameter_mm[1] == -1 and truth.excluded.diameter_mm[0] > 0
    assert np.allclose(truth.excluded.centre_lps[1], ct.geometry.to_lps(np.array([20.0, 70.0, 70.0])))
    apart = [[(a, 40), (a + 3, 40), (a + 3, 43), (a, 43)] for a in (40, 43, 46)]
    three = [nodule(RATED, roi(square, heights[10])) for square in apart]
    write(tmp_path / "scan.xml", *three, head=head)
    none = truths_of("lidc", cohort, found, tmp_path).of(found.scans[0], ct)
    assert len(none.known.series) == 0 and none.excluded.diameter_mm.tolist() == [-1], "they outlined nothing alike"
    with pytest.raises(NotFound, match="No XML of LIDC is of series second"):
        truths.of(found.scans[1], io.read(cohort / "second.nii.gz"))


# ---------------------------------------------------------------- figures


def made(seed: int, count: int = 8) -> tuple[ScanRecord, ...]:
    """Scans of two kernels and thicknesses, with nodules of two textures, one of them with outlines."""
    rng = np.random.default_rng(seed)
    out = []
    for number in range(count):
        places = rng.uniform(-100, 100, (2, 3))
        scores = rng.uniform(0, 1, 2)
        nodules = tuple(
            KnownRecord(tuple(place), size, texture, score if score > 0.5 else None, score if score > 0.5 else 0.0)
            for place, size, texture, score in zip(
                places.tolist(), (5.0, 12.0), ("solid", "ground glass"), scores.tolist(), strict=True
            )
        )
        marks = [MarkRecord(tuple(p), s, (0.0, 0.0)) for p, s in zip(places.tolist(), scores.tolist(), strict=True)]
        marks += [MarkRecord((500.0 + k, 0.0, 0.0), float(rng.uniform(0, 1)), (0.0, 0.0)) for k in range(3)]
        kernel, thickness = ("SOFT", 1.0) if number % 2 else ("BONE", 3.0)
        name = f"scan {number}"
        out.append(
            ScanRecord(name, f"1.2.{number}", kernel, thickness, 0.5, 1, 1, nodules, (), tuple(marks), True, {}, False)
        )
    return tuple(out)


def evaluated(scans: tuple[ScanRecord, ...], **failed: str) -> CohortEvaluation:
    return CohortEvaluation(CohortRun(CohortSettings(DEFAULT, (), 0.02), scans, failed))


def test_groups_are_those_of_the_curve_by_hand() -> None:
    scans = made(0)
    found = evaluated(scans)
    groups = {(one.kind, one.name): one for one in found.groups}
    soft = [scan for scan in scans if scan.kernel == "SOFT"]
    nodules = Findings(
        tuple(s.series_uid for s in soft for _ in s.nodules),
        np.array([n.centre_lps for s in soft for n in s.nodules]),
        np.array([n.diameter_mm for s in soft for n in s.nodules]),
    )
    marked = [(s.series_uid, m) for s in soft for m in s.marks]
    marks = Marks(
        tuple(uid for uid, _ in marked),
        np.array([m.centre_lps for _, m in marked]),
        np.array([m.score for _, m in marked]),
    )
    by_hand = froc(nodules, None, [s.series_uid for s in soft], marks)
    kernel = groups["kernel", "SOFT"]
    assert (kernel.scans, kernel.nodules, kernel.cpm.value) == (4, 8, round(by_hand.cpm, 4))
    assert groups["slices", "< 1.5 mm"].cpm == kernel.cpm
    every = groups["", "all"]
    assert every.found == sum(n.score is not None for s in scans for n in s.nodules)
    for kind in ("size", "texture"):
        assert sum(one.found for (k, _), one in groups.items() if k == kind) == every.found
    assert every.cpm.low is not None and every.cpm.value is not None and every.cpm.low <= every.cpm.value
    dice = [n.dice for s in scans for n in s.nodules]
    assert found.outlines[0].dice.value == round(float(np.mean(np.array(dice, dtype=float))), 4)
    assert found.outlines[0].missed == sum(n.score is None for s in scans for n in s.nodules)


def test_intervals_draw_patients_with_all_their_scans() -> None:
    """Twice the same scans are no more than they are once; one scan a patient is the challenge's interval."""
    scans = tuple(replace(scan, patient=f"P{k}") for k, scan in enumerate(made(4)))
    twice = tuple(replace(scan, name=f"{scan.name} {k}") for scan in scans for k in (1, 2))
    once, both, unknown = evaluated(scans), evaluated(twice), evaluated(made(4))
    assert once.interval is not None and both.interval is not None and unknown.interval is not None
    assert np.array_equal(once.interval.cpms, bootstrap(once.froc).cpms)
    assert np.allclose(both.interval.cpms, once.interval.cpms)
    assert [(g.name, g.cpm) for g in both.groups] == [(g.name, g.cpm) for g in once.groups]
    assert [one.dice for one in both.outlines] == [one.dice for one in once.outlines]
    assert once.tables()[0].columns[4] == "CPM (95 % by patient)" and once.to_json()["intervals_by"] == "patient"
    page = once.evaluation("")
    assert page.summary[1].endswith(f"{once.groups[0].found} are found, with 1.00 false positives a scan.")
    assert page.interval == "95 %, 1,000 bootstraps by patient" and not once.notes
    assert unknown.tables()[0].columns[4] == "CPM (95 % by scan)" and unknown.interval.drawn == "scan"
    [note] = evaluated((*scans[1:], replace(scans[0], patient=""))).notes
    assert "patients of 1 scans (scan 0 …) are not known" in note and "not checked" in note
    alone = evaluated(tuple(replace(scan, patient="P") for scan in scans))
    assert alone.interval is None and alone.groups[0].cpm.low is None
    assert alone.evaluation("").metrics[0].low is None


def test_nodules_without_a_diameter_are_of_no_size() -> None:
    first, *rest = made(5)
    nodules = (replace(first.nodules[0], diameter_mm=-1.0), *first.nodules[1:])
    groups = {
        one.name: one.nodules
        for one in evaluated((replace(first, nodules=nodules), *rest)).groups
        if one.kind == "size"
    }
    assert groups == {"< 6 mm": 7, "8–15 mm": 8, "unknown": 1}


def test_what_failed_and_what_was_seen_is_said() -> None:
    scans = made(1)
    found = evaluated((*scans[:-1], replace(scans[-1], trained_on=True)), broken="it is no scan")
    assert any("1 scans failed" in note for note in found.notes) and any("trained on" in note for note in found.notes)
    assert found.tables()[-1].rows == (("broken", "it is no scan"),)
    assert found.to_json()["failed"] == {"broken": "it is no scan"}
    with pytest.raises(NotFound, match=r"none has a known nodule, so there is no sensitivity\. broken: it is no scan"):
        evaluated((), broken="it is no scan")


def test_marks_are_written_as_luna16_reads_them(tmp_path: Path) -> None:
    scans = made(2)
    (tmp_path / "predictions.csv").write_text(evaluated(scans).predictions())
    marks = read_predictions(tmp_path / "predictions.csv", [scan.series_uid for scan in scans])
    assert marks.score.tolist() == [mark.score for scan in scans for mark in scan.marks]
    assert marks.centre_lps.tolist() == [list(mark.centre_lps) for scan in scans for mark in scan.marks]


def test_files_of_one_name_are_told_apart(tmp_path: Path) -> None:
    """As ``patient/ct.nii.gz``: their marks are by the paths, and rows of no scan are said."""
    first, second, third = (replace(scan, name=f"{scan.name}/ct.nii.gz") for scan in made(3, 3))
    scans = (replace(first, series_uid="ct"), replace(second, series_uid="ct"), third)
    found = evaluated(scans)
    assert found.series == ("scan 0/ct.nii.gz", "scan 1/ct.nii.gz", "1.2.2")
    (tmp_path / "predictions.csv").write_text(found.predictions())
    marks = read_predictions(tmp_path / "predictions.csv", found.series)
    nodules = Findings(
        tuple(name for name, scan in zip(found.series, scans, strict=True) for _ in scan.nodules),
        np.array([n.centre_lps for scan in scans for n in scan.nodules]),
        np.array([n.diameter_mm for scan in scans for n in scan.nodules]),
    )
    assert froc(nodules, None, found.series, marks).cpm == found.froc.cpm
    more = CohortEvaluation(replace(found.run, elsewhere=4))
    assert "4 annotations are of no scan of the cohort." in more.notes
    empty = tuple(replace(scan, nodules=()) for scan in scans)
    with pytest.raises(NotFound, match=r"no sensitivity\. 4 annotations are of no scan"):
        CohortEvaluation(replace(found.run, scans=empty, elsewhere=4))


# ---------------------------------------------------------------- the command


def test_the_example_runs_and_resumes(cohort: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of docs/evaluation.md: two scans that are one, and a file that is none."""
    text = (REPOSITORY / "docs" / "evaluation.md").read_text(encoding="utf-8")
    [words] = [shlex.split(line)[2:] for line in text.splitlines() if line.startswith("$ nodulens evaluate default")]
    shutil.copytree(cohort, tmp_path / "scans")
    monkeypatch.chdir(tmp_path)
    done = run(*words, "--workers", "1", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["scans"] == 2 and list(found["failed"]) == ["third.nii.gz"]
    every = found["groups"][0]
    assert every["nodules"] == 6 and every["cpm"]["value"] > 0, "the balls are marked, at whatever score"
    assert found["outlines"][0]["nodules"] == 6 and found["boxes"] is not None
    page = from_json(Path("cohort", "evaluation.json").read_text())
    assert page.provenance.weights and any("failed" in warning for warning in page.warnings)
    rows = Path("cohort", "predictions.csv").read_text().splitlines()
    assert rows[0] == "seriesuid,coordX,coordY,coordZ,probability" and any(row.startswith("second,") for row in rows)
    times = {path: path.stat().st_mtime_ns for path in Path("cohort", "scans").iterdir()}
    assert len(times) == 2

    again = run(*words, "--workers", "1")
    assert again.code == 0 and again.out.endswith("cohort/evaluation.html\n")
    assert {path: path.stat().st_mtime_ns for path in Path("cohort", "scans").iterdir()} == times
    assert len(again.out.splitlines()) <= 60 and "third.nii.gz" in again.out
    refused(run(*words, "--set", "threshold=0.9"), "another recipe", "name another folder")
    kept, mask = Path("scans", "second_mask.nii.gz").read_bytes(), io.read_mask(Path("scans", "second_mask.nii.gz"))
    io.write_mask(replace(mask, labels=2 * mask.labels), Path("scans", "second_mask.nii.gz"))
    refused(run(*words), "1 scans, first second.nii.gz, were done with other annotations", "delete")
    Path("scans", "second_mask.nii.gz").write_bytes(kept)
    with Path("scans", "second.nii.gz").open("ab") as more:
        more.write(b" ")
    refused(run(*words), "1 scans, first second.nii.gz, were done with other files of the scan", "delete")


def test_words_that_do_not_go_together_are_refused(cohort: Path, tmp_path: Path, run: Run) -> None:
    refused(run("evaluate", "default"), "--data DIR", "--scans DIR")
    refused(run("evaluate", "default", "--scans", cohort, "-o", tmp_path / "out"), "--truth")
    refused(run("evaluate", "default", "--scans", cohort, "--truth", "masks"), "-o FOLDER")
    refused(run("evaluate", "default", "--data", cohort, "--truth", "masks"), "--scans DIR")


def test_scan_names_are_stems_of_all_formats() -> None:
    stems = {name: CohortScan(name, Path(name)).stem for name in ("a.nii.gz", "a.mhd", "1.2.840.nrrd")}
    assert list(stems.values()) == ["a", "a", "1.2.840"]
