"""Comparing examinations from scans to outputs, on the phantom and its follow-up, and what is refused."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pydicom
import pytest

from conftest import REPOSITORY, Done, Run, refused, share
from nodulens.data.phantom import Followed, write_follow_up_dicom, write_phantom_dicom
from nodulens.followup.compare import LEAST_DICE, LEAST_FOUND
from nodulens.followup.json import from_json, to_json
from nodulens.followup.record import Comparison, Track
from nodulens.followup.registration import Lungs, register
from nodulens.io import read
from nodulens.ops.orient import canonical
from nodulens.stages.lungs import segment_lungs

COARSE = (2.5, 1.5, 1.5)
STATUSES = ("growing", "stable", "growing", "stable", "resolved", "new")
"""Of the nodules of the phantom, as :func:`follow_up_ct` orders them."""


@pytest.fixture(scope="module")
def times(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, tuple[Followed, ...]]:
    """The phantom and its follow-up as DICOM, and the truth."""
    folder = tmp_path_factory.mktemp("times")
    write_phantom_dicom(folder / "prior", spacing_zyx=COARSE)
    truth = write_follow_up_dicom(folder / "later", spacing_zyx=COARSE)
    return share(folder) / "prior", folder / "later", truth


def compared(out: Path) -> Comparison:
    return from_json((out / "comparison.json").read_text("utf-8"))


def track_of(comparison: Comparison, known: Followed) -> Track:
    """The track of a nodule of the phantom, by its place in the scan that has it."""
    exam, one = (1, known.after) if known.after is not None else (0, known.before)
    assert one is not None
    there = [t for t in comparison.tracks if t.sightings[exam].present]
    return min(there, key=lambda t: float(np.linalg.norm(np.subtract(t.sightings[exam].place_lps, one.centre_lps))))


@pytest.mark.training  # two analyses, and the registration
def test_the_phantom_a_year_later(run: Run, times: tuple[Path, Path, tuple[Followed, ...]], tmp_path: Path) -> None:
    prior, later, truth = times
    out = tmp_path / "out"
    # typed in the wrong order: the dates say which is the earlier one
    done = run("compare", later, prior, "-o", out, "--context", "screening", "--case", "P7")
    assert done.code == 0, done.err
    found = compared(out)
    assert to_json(found) == (out / "comparison.json").read_text("utf-8")
    assert [exam.day for exam in found.exams] == [0.0, 366.0] and found.exams[0].date is None
    assert any("another order" in text for text in found.warnings)
    assert found.registrations[0].found > 0.6 and found.registrations[0].dice > 0.9
    check_tracks(found, truth)
    check_outputs(out, found, done)
    for status in ("new", "growing", "resolved"):
        asked = json.loads(run("ask", out, f"{status} nodules", "--json").out)["nodules"]
        assert {row["id"] for row in asked} == {track.id for track in found.tracks if track.status == status}
        assert asked and all(row["status"] == status for row in asked)


def check_tracks(found: Comparison, truth: tuple[Followed, ...]) -> None:
    for known, status in zip(truth, STATUSES, strict=True):
        track = track_of(found, known)
        assert track.status == status, (known, track)
        if known.before is not None and known.after is not None and track.change is not None:
            # of the part-solid ball the segmenter outlines the solid one within
            part = "solid_diameter_mm" if known.before.texture == "part-solid" else "diameter_mm"
            ratio = (getattr(known.after, part) / getattr(known.before, part)) ** 3
            assert track.change.volume_share + 1 == pytest.approx(ratio, rel=0.25), (known, track.change)
            assert track.change.days == 366.0
    assert found.guidelines is not None and found.guidelines.patient.prior == "compared"


def check_outputs(out: Path, found: Comparison, done: Done) -> None:
    import jsonschema

    schema = json.loads((REPOSITORY / "src/nodulens/followup/comparison.schema.json").read_text("utf-8"))
    jsonschema.validate(json.loads((out / "comparison.json").read_text("utf-8")), schema)
    assert done.out.split() == [str(out / "comparison.html")] and "new" in done.err
    rows = list(csv.DictReader(io.StringIO((out / "changes.csv").read_text("utf-8"))))
    assert [row["status"] for row in rows] == [track.status for track in found.tracks]
    page = (out / "comparison.html").read_text("utf-8")
    assert "Made^Up" not in page and "MADE-UP" not in page, "no identity"
    sr = pydicom.dcmread(out / "dicom" / "sr.dcm")
    assert sr.PatientID == "MADE-UP-0" and sr.Modality == "SR"
    named = {
        series.SeriesInstanceUID
        for study in sr.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
    }
    others = [
        series.SeriesInstanceUID
        for study in sr.get("PertinentOtherEvidenceSequence", [])
        for series in study.ReferencedSeriesSequence
    ]
    assert {exam.series_uid for exam in found.exams} <= named | set(others), "both examinations are named"


@pytest.mark.training  # two analyses, and the registration
def test_another_patient_is_refused(run: Run, times: tuple[Path, Path, tuple[Followed, ...]], tmp_path: Path) -> None:
    write_phantom_dicom(tmp_path / "other", seed=3, spacing_zyx=COARSE)
    refused(run("compare", times[0], tmp_path / "other", "-o", tmp_path / "out"), "different patients", "patient id")
    done = run("compare", times[0], tmp_path / "other", "-o", tmp_path / "out", "--same-patient")
    refused(done, "do not match", "forks of vessels")
    assert not (tmp_path / "out").exists()


def test_what_is_refused_before_the_work(
    run: Run, times: tuple[Path, Path, tuple[Followed, ...]], dicom: Path, tmp_path: Path
) -> None:
    prior, later, _ = times
    out = tmp_path / "out"
    refused(run("compare", prior, "-o", out), "two scans")
    refused(run("compare", dicom, dicom, "-o", out), "same scan")
    refused(run("compare", prior, later, "-o", prior / "out"), "inside")
    refused(run("compare", prior, later, "-o", out, "--deidentified"), "--case")
    refused(run("compare", prior, later, "-o", out, "--series", "1.2"), "once for each scan")
    out.mkdir()
    (out / "comparison.json").write_text("mine")
    refused(run("compare", prior, later, "-o", out), "not written by a comparison")
    assert (out / "comparison.json").read_text() == "mine"


def test_an_analysis_without_its_scan_is_refused(run: Run, dicom: Path, tmp_path: Path) -> None:
    done = run("analyze", dicom, "-o", tmp_path / "a", "--threshold", "0.9", "--no-dicom")
    assert done.code == 0, done.err
    refused(run("compare", tmp_path / "a", dicom, "-o", tmp_path / "out"), "--scan")
    refused(run("compare", tmp_path / "a", dicom, "--scan", dicom, "-o", tmp_path / "out"), "same scan")


def test_two_real_patients_do_not_match(shared: Path) -> None:
    scans = []
    for name in ("LIDC-IDRI-0003", "LIDC-IDRI-0028"):
        volume, _ = canonical(read(shared / "ct" / name))
        scans.append(Lungs(volume, segment_lungs(volume)))
    quality = register(*scans).quality
    assert quality.dice > LEAST_DICE, "the lungs coincide, and tell nothing"
    assert quality.found < LEAST_FOUND, "the vessels do not"
