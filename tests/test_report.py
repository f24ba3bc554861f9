"""The report as a value, its JSON, and the folder of outputs."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.resources import files
from io import StringIO
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import SimpleITK as sitk

import made_reports
from nodulens.core.nodule import Measurements
from nodulens.core.volume import Volume
from nodulens.errors import BadGeometry, BadOption, CannotWrite, NodulensError, UnreadableFile
from nodulens.report.csv import COLUMNS, to_csv
from nodulens.report.json import SCHEMA, fingerprint, from_json, to_json
from nodulens.report.outputs import FILES, write_outputs
from nodulens.report.page import render_page
from nodulens.report.record import Report, ScanSummary

# ---- JSON


def test_json_round_trip_gives_the_same_report(report: Report) -> None:
    for one in (
        report,
        replace(report, nodules=(), patient=made_reports.PATIENT, case=None, sensitivity=(), prompted=True),
        replace(report, series_uid=None, input_sha256="ab" * 32, warnings=('«"\\ [ 1,\n 2 ] <b>', "")),
    ):
        assert from_json(to_json(one)) == one


def test_json_round_trip_of_numpy_numbers(report: Report) -> None:
    nodule = replace(report.nodules[0], score=np.float32(0.3), centre_lps=tuple(np.array([1.5, 2.5, 3.25])))
    one = replace(report, nodules=(replace(nodule, id=np.int64(7)),))
    assert from_json(to_json(one)) == one


def test_json_has_the_promised_keys(report: Report) -> None:
    document = json.loads(to_json(report))
    assert document["schema"] == SCHEMA == "nodulens-report/2"
    promised = "schema series_uid software recipe weights warnings timing_s lungs nodules"
    assert set(promised.split()) <= set(document)
    nodule = document["nodules"][0]
    promised = "id score centre_lps box_zyx side texture measurements risk instance_number sop_instance_uid"
    assert set(promised.split()) <= set(nodule)
    assert {"probability", "interval", "calibrated", "doubts"} <= set(nodule["risk"])
    assert set(nodule["measurements"]) == set(Measurements.__dataclass_fields__)
    assert np.shape(nodule["box_zyx"]) == (2, 3) and len(nodule["centre_lps"]) == 3
    assert document["nodules"][1]["risk"] is None
    assert set(document["lungs"]) == {"left_ml", "right_ml"} and "total" in document["timing_s"]


def test_json_keeps_rows_of_numbers_on_a_line(report: Report) -> None:
    text = to_json(report)
    assert re.search(r'"centre_lps": \[55\.0, 10\.0, -40\.0\],\n', text)
    assert text.endswith("}\n")


def test_json_fits_its_schema(report: Report) -> None:
    schema = json.loads((files("nodulens.report") / "report.schema.json").read_text("utf-8"))
    check = jsonschema.Draft202012Validator(schema)
    check.check_schema(schema)
    for one in (report, replace(report, nodules=(), patient=made_reports.PATIENT, case=None)):
        check.validate(json.loads(to_json(one)))
    wrong = json.loads(to_json(report)) | {"extra": 1}
    assert not check.is_valid(wrong)


def test_identity_stays_out_unless_it_was_asked_for(ct: Volume, report: Report) -> None:
    assert "DOE" not in to_json(report) and "19500229" not in to_json(report)
    assert "DOE^JANE" in to_json(replace(report, patient=made_reports.PATIENT))
    named = made_reports.scan((2, 8, 8), description="Thorax Doe, Jane")
    assert ScanSummary.of(named).description == ""
    assert ScanSummary.of(ct).description == "CHEST 2.5 MM"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(schema="nodulens-report/1"), "schema 'nodulens-report/1'"),
        (lambda d: d.pop("schema"), "schema None"),
        (lambda d: d.update(colour="red"), r"report has unknown keys \['colour'\]"),
        (lambda d: d.pop("lungs"), r"lacks \['lungs'\]"),
        (lambda d: d["nodules"][1].update(sid="left"), r"report.nodules\[1\] has unknown keys \['sid'\]"),
        (lambda d: d["nodules"][0].pop("zone"), r"report.nodules\[0\].position has .* lacks \['zone'\]"),
        (lambda d: d["nodules"][0].pop("box_zyx"), r"nodules\[0\].box_zyx should be a list, is null"),
        (lambda d: d["nodules"][0].update(side="top"), "side should be 'left' or 'right', is \"top\""),
        (lambda d: d["nodules"][0]["attributes"][0].update(name="colour"), "attributes.*name should be 'spiculation'"),
        (lambda d: d["nodules"][0].update(score="high"), "score should be float"),
        (lambda d: d["nodules"][0].update(score=True), "score should be float"),
        (lambda d: d["nodules"][0].update(centre_lps=[1, 2]), "centre_lps should be 3 values"),
        (lambda d: d["nodules"][0]["risk"].update(interval=0.3), "risk.interval should be a list"),
        (lambda d: d.update(nodules={}), "report.nodules should be a list"),
        (lambda d: d.update(weights=["detector"]), r"report.weights\[0\] should be an object"),
        (lambda d: d["timing_s"].update(read=None), "timing_s.read should be float, is null"),
    ],
)
def test_wrong_json_is_refused_by_name(report: Report, change: Callable[[dict], None], message: str) -> None:  # type: ignore[type-arg]
    document = json.loads(to_json(report))
    change(document)
    with pytest.raises(UnreadableFile, match=message):
        from_json(json.dumps(document))


def test_a_report_of_before_does_not_say_how_far_from_the_hilum(report: Report) -> None:
    document = json.loads(to_json(report))
    for row in document["nodules"]:
        row.pop("hilum_to_edge_estimate")
    assert all(n.position.hilum_to_edge_estimate is None for n in from_json(json.dumps(document)).nodules)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"nodulens-report/2"'])
def test_what_is_no_report_is_refused(text: str) -> None:
    with pytest.raises(UnreadableFile, match="Not a valid report"):
        from_json(text)


def test_a_number_that_json_cannot_hold_is_named(report: Report) -> None:
    nodule = report.nodules[1]
    bad = replace(nodule, measurements=replace(nodule.measurements, sphericity=float("nan")))
    with pytest.raises(NodulensError, match=r"report\.nodules\.1\.measurements\.sphericity"):
        to_json(replace(report, nodules=(report.nodules[0], bad)))


def test_ids_must_be_usable_as_labels(report: Report) -> None:
    one = report.nodules[0]
    for nodules in ((one, one), (replace(one, id=0),)):
        with pytest.raises(NodulensError, match="unique"):
            replace(report, nodules=nodules)
    with pytest.raises(NodulensError, match="total"):
        replace(report, timing_s={})


# ---- The folder


def test_outputs_are_all_there_and_agree(ct: Volume, report: Report, tmp_path: Path) -> None:
    folder = write_outputs(report, ct, tmp_path / "deep" / "out")
    assert sorted(p.name for p in folder.iterdir()) == sorted(FILES)
    assert sorted(p.name for p in folder.parent.iterdir()) == ["out"]
    assert from_json((folder / "report.json").read_text("utf-8")) == report
    lungs, nodules = (sitk.ReadImage(str(folder / f"{name}.nii.gz")) for name in ("lungs", "nodules"))
    assert report.lung_mask is not None
    assert np.array_equal(sitk.GetArrayFromImage(lungs), report.lung_mask.labels)
    labels = sitk.GetArrayFromImage(nodules)
    for nodule in report.nodules:
        assert nodule.mask is not None and (labels == nodule.id).sum() == nodule.mask.sum()
        index = nodules.TransformPhysicalPointToIndex(nodule.centre_lps)
        assert nodules[index] == nodule.id


def test_masks_lie_voxel_by_voxel_on_an_input_that_ran_the_other_way(tmp_path: Path) -> None:
    plain = made_reports.scan()
    ct = replace(plain, source=replace(plain.source, z_reversed=True))
    report = made_reports.report(ct, 1)
    image = sitk.ReadImage(str(write_outputs(report, ct, tmp_path / "out") / "nodules.nii.gz"))
    labels = sitk.GetArrayFromImage(image)
    box = report.nodules[0].box
    assert np.flatnonzero(labels.any(axis=(1, 2)))[0] == ct.geometry.shape[0] - box.stop[0]
    assert image[image.TransformPhysicalPointToIndex(report.nodules[0].centre_lps)] == 1


def test_table_has_a_header_always_and_the_case_in_every_row(ct: Volume, report: Report) -> None:
    rows = list(csv.DictReader(StringIO(to_csv(report))))
    assert [row["case"] for row in rows] == ["CASE-7"] * 3
    assert [row["id"] for row in rows] == ["1", "2", "3"]
    assert rows[0]["risk_calibrated"] == "true" and rows[1]["risk_probability"] == "" == rows[0]["risk_doubts"]
    assert (rows[0]["rated_spiculation"], rows[0]["rated_margin"], rows[0]["rated_texture"]) == ("3.5", "4.25", "")
    assert rows[1]["rated_spiculation"] == ""
    assert float(rows[0]["centre_x_lps"]) == 55.0 and rows[0]["sop_instance_uid"].startswith("1.2.826")
    assert int(rows[0]["box_start_z"]) == report.nodules[0].box.start[0]
    empty = to_csv(replace(report, nodules=()))
    assert empty == ",".join(COLUMNS) + "\n"


def test_a_doubted_estimate_keeps_its_reasons(report: Report) -> None:
    first, *others = report.nodules
    assert first.risk is not None
    doubted = replace(report, nodules=(replace(first, risk=first.risk.doubted("Thick.", "Large.")), *others))
    assert json.loads(to_json(doubted))["nodules"][0]["risk"]["doubts"] == ["Thick.", "Large."]
    assert from_json(to_json(doubted)) == doubted
    (row, *_) = csv.DictReader(StringIO(to_csv(doubted)))
    assert row["risk_doubts"] == "Thick. | Large." and row["risk_calibrated"] == "false"
    assert row["risk_probability"], "it is still given"


def test_table_holds_no_formula(report: Report) -> None:
    (row, *_) = csv.DictReader(StringIO(to_csv(replace(report, case='=HYPERLINK("http://x")'))))
    assert row["case"].startswith("'=")
    assert row["centre_z_lps"] == "-40"


def test_overlapping_nodules_belong_to_the_first(ct: Volume, report: Report, tmp_path: Path) -> None:
    first = report.nodules[0]
    folder = write_outputs(replace(report, nodules=(first, replace(first, id=300))), ct, tmp_path / "out")
    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "nodules.nii.gz")))
    assert set(np.unique(labels)) == {0, 1} and labels.dtype == np.uint16


def test_a_second_run_replaces_its_files_and_no_others(ct: Volume, report: Report, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_outputs(report, ct, out)
    (out / "notes.txt").write_text("mine")
    (out / "review.json").write_text("mine too")
    write_outputs(replace(report, nodules=report.nodules[:1]), ct, out)
    assert len(from_json((out / "report.json").read_text("utf-8")).nodules) == 1
    assert (out / "notes.txt").read_text() == "mine" and (out / "review.json").read_text() == "mine too"
    assert sorted(p.name for p in out.iterdir()) == sorted([*FILES, "notes.txt", "review.json"])


def test_refusals_leave_nothing_behind(ct: Volume, report: Report, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadOption, match="is a file"):
        write_outputs(report, ct, tmp_path / "file")
    with pytest.raises(BadOption, match="file is a file"):
        write_outputs(report, ct, tmp_path / "file" / "below")
    back = from_json(to_json(report))
    with pytest.raises(BadOption, match="Nodule 3 has no mask"):
        write_outputs(replace(back, lung_mask=report.lung_mask), ct, tmp_path / "out")
    with pytest.raises(BadOption, match="no lung mask"):
        write_outputs(back, ct, tmp_path / "out")
    moved = Volume(ct.hu, replace(ct.geometry, origin_lps=(0.0, 0.0, 0.0)), ct.source)
    with pytest.raises(BadGeometry, match="another grid"):
        write_outputs(report, moved, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]


def test_a_fault_in_the_middle_leaves_the_earlier_run_whole(
    ct: Volume, report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = write_outputs(report, ct, tmp_path / "out")
    before = {name: (out / name).read_bytes() for name in FILES}

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nodulens.report.outputs.write_mask", full)
    for folder in (out, tmp_path / "new"):
        with pytest.raises(CannotWrite, match="No space"):
            write_outputs(report, ct, folder)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]


# ---- Killed at any moment


def _killed(work: Callable[[], object], *, at_event: int | None = None, after_s: float | None = None) -> bool:
    """Run in a child that is killed with SIGKILL; whether it was, or finished before.

    ``at_event`` counts what Python does to the file system (open, rename, remove, …) from the start of the work.
    """
    child = os.fork()
    if child == 0:
        seen = 0

        def watch(event: str, _: object) -> None:
            nonlocal seen
            seen += event == "open" or event.startswith("os.")
            if seen == at_event:
                os.kill(os.getpid(), signal.SIGKILL)

        if at_event is not None:
            sys.addaudithook(watch)
        try:
            work()
        finally:
            os._exit(0)
    if after_s is not None:
        time.sleep(after_s)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def _check_whole(folder: Path, known: dict[int, Report]) -> set[str]:
    """Every output that is there is complete and all are of one run; names of those that are."""
    names = {p.name for p in folder.iterdir() if not p.name.startswith(".")} if folder.exists() else set()
    counts = set()
    for name in names:
        path = folder / name
        if name == "report.json":
            counts.add(len(from_json(path.read_text("utf-8")).nodules))
            assert names == set(FILES)
        elif name == "nodules.csv":
            rows = list(csv.reader(StringIO(path.read_text("utf-8"))))
            assert {len(row) for row in rows} == {len(COLUMNS)}
            counts.add(len(rows) - 1)
        elif name == "report.html":
            text = path.read_text("utf-8")
            assert text.endswith("</html>")
            shas = {fingerprint(one): count for count, one in known.items()}
            counts.add(shas[re.findall(r'"report_sha256":"(\w+)"', text)[0]])
        elif name == "nodules.nii.gz":
            counts.add(len(np.unique(sitk.GetArrayFromImage(sitk.ReadImage(str(path))))) - 1)
        else:
            assert sitk.GetArrayFromImage(sitk.ReadImage(str(path))).max() == 2
    assert len(counts) <= 1
    return names


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the killed child is a fork, which this system does not have")
@pytest.mark.parametrize("fresh", [True, False], ids=["new folder", "second run"])
def test_killed_at_any_moment_nothing_is_half_made(
    fresh: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ct = made_reports.scan((44, 40, 100))
    old, new = made_reports.report(ct, 1), made_reports.report(ct, 2)
    pages = {len(one.nodules): render_page(one, ct) for one in (old, new)}  # made once: the test is of writing
    monkeypatch.setattr("nodulens.report.outputs.render_page", lambda one, _: pages[len(one.nodules)])
    earlier = write_outputs(old, ct, tmp_path / "earlier")
    known = {1: old, 2: new}
    out = tmp_path / "out"
    seen: set[frozenset[str]] = set()

    def attempt(**when: float) -> bool:
        shutil.rmtree(out, ignore_errors=True)
        if not fresh:
            shutil.copytree(earlier, out)
        killed = _killed(lambda: write_outputs(new, ct, out), **when)  # type: ignore[arg-type]
        seen.add(frozenset(_check_whole(out, known)))
        return killed

    begin = time.monotonic()
    assert not attempt(at_event=10**9)
    duration = time.monotonic() - begin
    event, kills = 1, 0
    while attempt(at_event=event):
        event, kills = event + 1, kills + 1
    assert kills >= 20
    for share in np.linspace(0.05, 0.95, 12):  # between Python's own events, while bytes are on their way
        attempt(after_s=duration * float(share))
    assert frozenset() in seen or not fresh
    assert frozenset(FILES) in seen
    write_outputs(new, ct, out)
    assert _check_whole(out, known) == set(FILES)
    assert not [p for p in (*tmp_path.iterdir(), *out.iterdir()) if ".partial-" in p.name]
