"""The command line: what it prints where, its exit codes, its prompts, and what it never tells."""

from __future__ import annotations

import csv
import gzip
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import jsonschema
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

import dicom_files
import made_reports
import nodulens
import real_scans
import small_scans
from conftest import REPOSITORY, Done, Run, command, environment, refused
from made_objects import figure, number_of, saved, sr_of
from nodulens.core.volume import Mask
from nodulens.errors import CorruptWeights
from nodulens.io import write_mask, write_volume
from nodulens.report.json import from_json
from nodulens.report.outputs import DICOM, FILES

LOW = ("--threshold", str(small_scans.LOW))
SECRETS = ("Quirinzyx", "Wolframvax", "19470813", "KRN-77310", "ACCN-55021")
"""Parts of the name, birth date, id and accession number of the patient in :func:`series`."""


@pytest.fixture(scope="session")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small scan as DICOM of a patient whose name is like no other."""
    return small_scans.dicom(
        tmp_path_factory.mktemp("cli") / "ct",
        PatientName="Quirinzyx^Wolframvax",
        PatientBirthDate="19470813",
        PatientID="KRN-77310",
        AccessionNumber="ACCN-55021",
        ReferringPhysicianName="Quirinzyx^Doctor",
        SeriesDescription="chest of Quirinzyx",
        StudyDescription="Quirinzyx follow-up",
    )


@pytest.fixture(scope="session")
def nifti(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small scan as NIfTI whose array runs from head to feet."""
    path = tmp_path_factory.mktemp("nifti") / "ct.nii.gz"
    write_volume(small_scans.turned(small_scans.noisy(), (0, 1, 2), (True, False, False)), path)
    return path


def everything(folder: Path, *, objects: bool = True) -> dict[str, bytes]:
    """Every output, unpacked; the DICOM objects, which belong to the patient's study, only if asked for."""
    paths = (p for p in folder.rglob("*") if p.is_file() and (objects or p.parent.name != DICOM))
    files = {p.name: p.read_bytes() for p in paths}
    return {name: gzip.decompress(b) if name.endswith(".gz") else b for name, b in files.items()}


# ---- analyze


def test_analyze_json_and_case(run: Run, series: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    done = run("analyze", series, "-o", out, *LOW, "--case", "CASE-42", "--json", "--threads", "2")
    assert done.code == 0, done.err
    assert done.err == ""
    report = json.loads(done.out)
    assert done.out == (out / "report.json").read_text("utf-8"), "the report and nothing else"
    schema = REPOSITORY / "src" / "nodulens" / "report" / "report.schema.json"
    jsonschema.validate(report, json.loads(schema.read_text("utf-8")))
    assert {p.name for p in out.iterdir()} - {DICOM} == {*FILES}

    assert report["schema"] == "nodulens-report/2"
    assert report["series_uid"] == pydicom.dcmread(series / "0000.dcm").SeriesInstanceUID
    assert report["case"] == "CASE-42"
    with (out / "nodules.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(report["nodules"]) >= 2
    assert {row["case"] for row in rows} == {"CASE-42"}
    assert "CASE-42" in (out / "report.html").read_text("utf-8")
    assert {"read", "lungs", "detect", "segment", "total"} <= set(report["timing_s"])
    parts = [v for k, v in report["timing_s"].items() if k != "total"]
    assert report["timing_s"]["total"] == pytest.approx(sum(parts))

    # what the file says of each nodule holds in the files that were read
    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(out / "nodules.nii.gz")))
    place = {}
    for path in series.iterdir():
        data = pydicom.dcmread(path, stop_before_pixels=True)
        place[str(data.SOPInstanceUID)] = (int(data.InstanceNumber), float(data.ImagePositionPatient[2]))
    for nodule in report["nodules"]:
        (z0, y0, x0), (z1, y1, x1) = nodule["box_zyx"]
        found = np.argwhere(labels == nodule["id"])
        assert found.min(0).tolist() == [z0, y0, x0] and (found.max(0) + 1).tolist() == [z1, y1, x1]
        number, height = place[nodule["sop_instance_uid"]]
        assert number == nodule["instance_number"]
        assert abs(height - nodule["centre_lps"][2]) <= 2.5


def test_nobody_is_named_unless_asked_for(run: Run, series: Path, tmp_path: Path) -> None:
    done = run("analyze", series, "-o", tmp_path / "out", *LOW)
    assert (done.code, done.err) == (0, "")
    assert done.out == f"{tmp_path / 'out' / 'report.html'}\n"
    for name, content in everything(tmp_path / "out", objects=False).items():
        for secret in SECRETS:
            assert secret.lower().encode() not in content.lower(), f"{secret} in {name}"

    centre = ",".join(str(v) for v in made_reports.NODULES[0][0])
    words = ("--point", centre, "--deidentified", "--case", "CASE-9")
    assert run("segment", series, "-o", tmp_path / "one", *words).code == 0
    assert (tmp_path / "one" / DICOM / "sr.dcm").exists(), "its objects are searched for the patient as well"
    listed = run("info", series).out + run("info", series, "--json").out
    for secret in SECRETS:
        for name, content in everything(tmp_path / "one").items():
            assert secret.lower().encode() not in content.lower(), f"{secret} in {name}"
        assert secret not in listed


def test_identify_names_the_patient(run: Run, series: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run("analyze", series, "-o", out, "--threshold", "1", "--identify").code == 0
    report = json.loads((out / "report.json").read_text("utf-8"))
    assert report["patient"] == {
        "name": "Quirinzyx^Wolframvax", "patient_id": "KRN-77310", "birth_date": "19470813"
    }  # fmt: skip
    assert "Quirinzyx" in (out / "report.html").read_text("utf-8")
    assert report["nodules"] == []


def test_a_second_run_replaces_the_first_and_leaves_the_rest(run: Run, series: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run("analyze", series, "-o", out, *LOW, "--case", "EARLIER-7").code == 0
    before = everything(out)
    (out / "notes.txt").write_text("mine")
    assert run("analyze", series, "-o", out, "--threshold", "1", "--case", "LATER-8").code == 0
    after = everything(out)
    assert after.pop("notes.txt") == b"mine"
    objects = {"seg.dcm", "sr.dcm", "sc-001.dcm"}
    found = len(json.loads(before["report.json"])["nodules"])
    assert set(before) == {*FILES, *objects, *(f"sc-{n + 2:03d}.dcm" for n in range(found))}
    assert set(after) == {*FILES, *objects}, "no object of the earlier run is left"
    assert not any(b"EARLIER-7" in content for content in after.values())
    assert json.loads(after["report.json"])["nodules"] == []
    assert len(after["nodules.csv"].splitlines()) == 1
    assert "No nodule" in after["report.html"].decode() or "no nodule" in after["report.html"].decode()


def test_formats_without_series_are_told_by_their_hash(run: Run, nifti: Path, tmp_path: Path) -> None:
    done = run("analyze", nifti, "-o", tmp_path / "out", *LOW, "--json")
    report = json.loads(done.out)
    assert report["series_uid"] is None and len(report["input_sha256"]) == 64
    upright = small_scans.noisy_report()
    found = [n["centre_lps"] for n in report["nodules"]]
    np.testing.assert_allclose(found, [n.centre_lps for n in upright.nodules], atol=0.01)
    image, labels = (sitk.ReadImage(str(p)) for p in (nifti, tmp_path / "out" / "nodules.nii.gz"))
    assert image.GetSize() == labels.GetSize() and np.allclose(image.GetDirection(), labels.GetDirection())
    assert np.allclose(image.GetOrigin(), labels.GetOrigin(), atol=1e-3)


# ---- Which series


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, list[str]]:
    """A folder with two series of one patient, the sharper one thinner; their UIDs."""
    uids = []
    for name, kernel in (("a", "STANDARD"), ("b", "BONE")):
        made = dicom_files.slices(ConvolutionKernel=kernel)
        dicom_files.save(tmp_path / "two" / name, made)
        uids.append(str(made[0].SeriesInstanceUID))
    return tmp_path / "two", uids


def test_several_series_are_listed_with_one_recommended(run: Run, two: tuple[Path, list[str]], tmp_path: Path) -> None:
    folder, uids = two
    done = run("analyze", folder, "-o", tmp_path / "out")
    assert done.code == 2 and done.out == ""
    assert all(uid in done.err for uid in uids)
    assert "STANDARD" in done.err and "BONE" in done.err and "2.5" in done.err and "--series" in done.err
    assert "recommend" in done.err.lower()
    assert "Traceback" not in done.err and not (tmp_path / "out").exists()


def test_series_chooses(run: Run, series: Path, two: tuple[Path, list[str]], tmp_path: Path) -> None:
    folder, uids = two
    shutil.copytree(series, folder / "c")
    uid = str(pydicom.dcmread(series / "0000.dcm").SeriesInstanceUID)
    done = run("analyze", folder, "-o", tmp_path / "out", "--series", uid, "--threshold", "1", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["series_uid"] == uid
    done = run("analyze", folder, "-o", tmp_path / "other", "--series", "9.9.9.none")
    assert done.code == 2 and "9.9.9.none" in done.err and uids[0] in done.err


def test_info_lists_what_there_is(run: Run, two: tuple[Path, list[str]]) -> None:
    folder, uids = two
    done = run("info", folder)
    assert done.code == 0
    assert all(any(uid in line for line in done.out.splitlines()) for uid in uids), "whole, to be copied"
    assert "BONE" in done.out and "axial" in done.out and "→" in done.out
    listed = json.loads(run("info", folder, "--json").out)
    assert {row["uid"] for row in listed} == set(uids)
    for row in listed:
        assert row["slices"] == 12 and row["thickness_mm"] == 2.5 and row["spacing_zyx"] == [2.5, 0.8, 0.7]
        assert {"kernel", "contrast", "orientation", "problems"} <= set(row)
    assert [row["recommended"] for row in listed].count(True) == 1


def test_info_shows_brackets_as_they_stand(run: Run, tmp_path: Path) -> None:
    folder = dicom_files.save(tmp_path / "ct", dicom_files.slices(ConvolutionKernel="[/red]B30"))
    done = run("info", folder)
    assert done.code == 0 and "[/red]B30" in done.out


# ---- What goes wrong


@pytest.mark.parametrize(
    ("words", "phrase"),
    [
        (("analyze", "no/such/place", "-o", "{tmp}/out"), "no/such/place"),
        (("analyze", "{series}", "-o", "{series}/0000.dcm"), "is a file"),
        (("analyze", "{series}", "-o", "{series}/0000.dcm/deeper"), "0000.dcm is a file"),
        (("analyze", "{series}", "-o", "{tmp}/out", "--threshold", "1.5"), "threshold"),
        (("analyze", "{series}", "-o", "{tmp}/out", "--threshold", "nan"), "threshold"),
        (("analyze", "{series}", "-o", "{tmp}/out", "--threads", "0"), "threads"),
        (("analyze", "{series}", "-o", "{tmp}/out", "--no-such-option"), "no-such-option"),
        (("analyze", "{series}"), "output"),
        (("info", "{empty}"), "empty"),
        (("info", "no/such/place"), "no/such/place"),
        (("segment", "{series}", "-o", "{tmp}/out"), "exactly one of"),
        (("segment", "{series}", "-o", "{tmp}/out", "--point", "1,2,3", "--box", "0,0,0,1,1,1"), "exactly one of"),
        (("segment", "{series}", "-o", "{tmp}/out", "--point", "1,2"), "3 are needed"),
        (("segment", "{series}", "-o", "{tmp}/out", "--point", "0,0,9999"), "outside the scan"),
        (("segment", "{series}", "-o", "{tmp}/out", "--point", "a,b,c"), "not a list of numbers"),
        (("segment", "{series}", "-o", "{tmp}/out", "--box", "9,9,9,1,1,1"), "box is empty"),
        (("segment", "{series}", "-o", "{tmp}/out", "--mask", "{tmp}/none.nii.gz"), "none.nii.gz"),
        (("segment", "{series}", "-o", "{tmp}/out", "--point", "1,2,3", "--space", "ras"), "ras"),
        (("phantom", "-o", "{series}"), "not empty"),
        (("phantom", "-o", "{tmp}/new", "--seed", "-1"), "seed"),
        (("no-such-command",), "no-such-command"),
    ],
)
def test_bad_input_is_a_message_and_exit_code_2(
    run: Run, series: Path, tmp_path: Path, words: tuple[str, ...], phrase: str
) -> None:
    (tmp_path / "empty").mkdir()
    filled = [w.format(series=series, tmp=tmp_path, empty=tmp_path / "empty") for w in words]
    done = run(*filled)
    assert done.code == 2
    plain = " ".join(done.err.replace("│", " ").split())
    assert phrase in plain.replace("- ", "-")
    assert "Traceback" not in done.err and "Error(" not in done.err
    assert done.out == ""
    assert not (tmp_path / "out").exists() and not (tmp_path / "new").exists()


def test_a_fault_is_told_with_its_trace_and_exit_code_1(
    run: Run, series: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("of the test's making")

    monkeypatch.setattr("nodulens.pipeline.segment_lungs", broken)
    done = run("analyze", series, "-o", tmp_path / "out")
    assert done.code == 1 and done.out == ""
    assert "A fault in nodulens: ZeroDivisionError: of the test's making" in done.err
    assert "Traceback" in done.err, "with the lines to report"
    assert not (tmp_path / "out").exists()


def test_models_out_of_order_are_no_bad_input(
    run: Run, series: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = "screen.onnx is not the file its card describes. Reinstall nodulens."

    def corrupt(threads: int | None) -> None:
        raise CorruptWeights(message)

    monkeypatch.setattr("nodulens.methods.load.load_models", corrupt)
    done = run("analyze", series, "-o", tmp_path / "out")
    assert (done.code, done.err) == (1, f"nodulens: {message}\n")


def test_the_version_is_told(run: Run) -> None:
    done = run("--version")
    assert (done.code, done.out) == (0, f"nodulens {nodulens.__version__}\n")


def test_help_says_what_it_is_for(run: Run) -> None:
    done = run("--help")
    assert done.code == 0 and "not a medical device" in " ".join(done.out.replace("│", " ").split())
    for name in ("analyze", "segment", "ask", "recipes", "info", "doctor", "phantom", "data", "evaluate"):
        assert name in done.out
        assert run(name, "--help").code == 0


# ---- segment

CENTRE, DIAMETER = made_reports.NODULES[0]


def check_one(done: Done, out: Path) -> None:
    """The same kind of result as an analysis gives, for the large ball."""
    assert done.code == 0, done.err
    report = from_json((out / "report.json").read_text("utf-8"))
    assert {p.name for p in out.iterdir()} - {DICOM} == {*FILES}
    (nodule,) = report.nodules
    assert report.prompted
    assert np.linalg.norm(np.subtract(nodule.centre_lps, CENTRE)) < 2
    assert nodule.measurements.mean_diameter_mm == pytest.approx(DIAMETER, abs=3)
    assert nodule.risk is not None


def voxel(nifti: Path, points: list[tuple[float, float, float]]) -> str:
    """LPS points as SimpleITK, another reader, counts voxels in the stored array: x,y,z from 0."""
    image = sitk.ReadImage(str(nifti))
    index = [image.TransformPhysicalPointToContinuousIndex(point) for point in points]
    return ",".join(f"{v:.2f}" for point in index for v in point)


def test_segment_by_point(run: Run, series: Path, tmp_path: Path) -> None:
    typed = ",".join(str(v) for v in CENTRE)
    done = run("segment", series, "-o", tmp_path / "out", "--point", typed, "--case", "P-1", "--json")
    check_one(done, tmp_path / "out")
    assert json.loads(done.out)["case"] == "P-1"
    with (tmp_path / "out" / "nodules.csv").open(newline="", encoding="utf-8") as file:
        assert [row["case"] for row in csv.DictReader(file)] == ["P-1"]


def test_segment_by_point_in_voxels_of_an_array_from_head_to_feet(run: Run, nifti: Path, tmp_path: Path) -> None:
    where = voxel(nifti, [CENTRE])
    assert float(where.split(",")[2]) < 30, "counted from the head, where the array begins"
    done = run("segment", nifti, "-o", tmp_path / "out", "--point", where, "--space", "voxel")
    check_one(done, tmp_path / "out")


@pytest.mark.parametrize("flat", [False, True])
def test_segment_by_box(run: Run, series: Path, tmp_path: Path, flat: bool) -> None:
    half = np.array([DIAMETER / 2] * 3) * (1, 1, 0 if flat else 1)
    typed = ",".join(f"{v:g}" for v in (*(CENTRE - half), *(CENTRE + half)))
    check_one(run("segment", series, "-o", tmp_path / "out", "--box", typed), tmp_path / "out")


def test_segment_by_box_in_voxels(run: Run, nifti: Path, tmp_path: Path) -> None:
    low, high = (tuple(np.add(CENTRE, sign * (DIAMETER / 2))) for sign in (-1, 1))
    corners = voxel(nifti, [low, high])
    done = run("segment", nifti, "-o", tmp_path / "out", "--box", corners, "--space", "voxel")
    check_one(done, tmp_path / "out")


def test_segment_by_mask(run: Run, series: Path, tmp_path: Path) -> None:
    ct = small_scans.noisy()
    index = np.stack(np.meshgrid(*(np.arange(n) for n in ct.geometry.shape), indexing="ij"), -1)
    rough = ((ct.geometry.to_lps(index) - CENTRE) ** 2).sum(-1) < (0.6 * DIAMETER) ** 2
    write_mask(Mask(rough.astype(np.uint8), ct.geometry, {1: "rough"}), tmp_path / "rough.nii.gz")
    done = run("segment", series, "-o", tmp_path / "out", "--mask", tmp_path / "rough.nii.gz")
    check_one(done, tmp_path / "out")


@pytest.fixture(scope="module")
def objects(series: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of DICOM objects of the series: two nodules and the lungs."""
    ct = nodulens.read(series)
    folder = tmp_path_factory.mktemp("objects") / "dicom"
    return nodulens.write_dicom(made_reports.report(ct), ct, folder, kinds=("seg", "sr", "rtstruct"))


@pytest.mark.parametrize(("file", "roi"), [("seg.dcm", "3"), ("rtstruct.dcm", "Nodule 1"), ("sr.dcm", "nodule 1")])
def test_segment_by_a_region_of_dicom(
    run: Run, series: Path, objects: Path, tmp_path: Path, file: str, roi: str
) -> None:
    done = run("segment", series, "-o", tmp_path / "out", "--mask", objects / file, "--roi", roi)
    check_one(done, tmp_path / "out")


def test_segment_by_a_point_and_diameter_of_a_report(run: Run, series: Path, tmp_path: Path) -> None:
    frame = str(nodulens.read(series).source.frame_of_reference_uid)
    measured = number_of(("81827009", "SCT", "Diameter"), DIAMETER)
    report = sr_of([figure("POINT", np.array([CENTRE]), frame=frame), measured])
    done = run("segment", series, "-o", tmp_path / "out", "--mask", saved(report, tmp_path / "sr.dcm"))
    check_one(done, tmp_path / "out")


def test_a_region_is_never_chosen_silently(run: Run, series: Path, objects: Path, tmp_path: Path) -> None:
    done = run("segment", series, "-o", tmp_path / "out", "--mask", objects / "seg.dcm")
    assert done.code == 2 and "choose one with --roi" in done.err and "  4 Nodule 2 (Nodule)" in done.err
    refused(run("segment", series, "-o", tmp_path / "out", "--point", "1,2,3", "--roi", "3"), "--roi names a region")
    other = small_scans.dicom(tmp_path / "other")
    words = ("--mask", objects / "seg.dcm", "--roi", "3")
    refused(run("segment", other, "-o", tmp_path / "out", *words), "frame of reference")
    assert not (tmp_path / "out").exists()


# ---- doctor and phantom


def test_doctor(run: Run) -> None:
    done = run("doctor")
    assert done.code == 0, done.out
    assert f"nodulens{' ' * 21}{nodulens.__version__}" in done.out
    assert all(word in done.out for word in ("openvino", "engine", "threads", "weights segmenter", "intact"))
    found = json.loads(run("doctor", "--json").out)
    assert found["well"] is True and "missing" not in found["versions"].values()


def test_doctor_finds_what_is_wrong(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from nodulens.runtime.weights import card

    copy = Path(shutil.copytree(card("screen").path.parent, tmp_path / "weights"))
    (copy / "screen.onnx").write_bytes(b"no model")
    (copy / "volume.onnx").unlink()
    monkeypatch.setattr("nodulens.apps.doctor.card", lambda name, folder: card(name, copy))
    done = run("doctor")
    assert done.code == 1
    assert "Reinstall nodulens" in done.out and "python -m nodulens.train detector" in done.out
    assert "Traceback" not in done.err


def test_phantom(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[Path, int]] = []
    monkeypatch.setattr("nodulens.data.phantom.write_phantom_dicom", lambda folder, seed: made.append((folder, seed)))
    done = run("phantom", "-o", tmp_path / "new", "--seed", "3")
    assert (done.code, done.out) == (0, f"{tmp_path / 'new'}\n")
    assert made == [(tmp_path / "new", 3)]


# ---- As a process of its own


def test_a_console_of_few_characters_is_no_fault(series: Path) -> None:
    done = subprocess.run(
        command("info", series), capture_output=True, text=True, timeout=120,
        env=environment(PYTHONIOENCODING="ascii", LC_ALL="C"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "STANDARD" in done.stdout


@pytest.mark.skipif(os.name != "posix", reason="pseudo-terminals are of POSIX systems")
def test_bars_on_a_terminal_and_the_path_in_the_pipe(series: Path, tmp_path: Path) -> None:
    import pty

    ours, theirs = pty.openpty()
    out = tmp_path / "out"
    with subprocess.Popen(
        command("analyze", series, "-o", out, "--threshold", "1"), stdout=subprocess.PIPE, stderr=theirs,
        env=environment(TERM="xterm", COLUMNS="100"),
    ) as process:  # fmt: skip
        os.close(theirs)
        shown = b""
        while True:
            try:
                piece = os.read(ours, 65536)
            except OSError:  # Linux says that the other end has gone by an error
                break
            if not piece:
                break
            shown += piece
        assert process.stdout is not None
        printed = process.stdout.read().decode()
    os.close(ours)
    assert process.returncode == 0, shown.decode()
    assert printed == f"{out / 'report.html'}\n"
    for stage in (b"read", b"lungs", b"detect", b"report"):
        assert stage in shown


def test_killed_while_it_writes_nothing_is_half_made(series: Path, tmp_path: Path) -> None:
    """The whole command, killed as soon as it begins to write and at moments after that."""
    whole = tmp_path / "whole"
    killed = 0
    for number, delay in enumerate((0.0, 0.1)):
        home = tmp_path / f"try{number}"
        home.mkdir()
        out = home / "out"
        process = subprocess.Popen(
            command("analyze", series, "-o", out, *LOW), stdout=subprocess.DEVNULL, env=environment()
        )
        while process.poll() is None and not any(home.iterdir()):
            time.sleep(0.002)
        time.sleep(delay)
        process.send_signal(getattr(signal, "SIGKILL", signal.SIGTERM))
        killed += process.wait() != 0
        if out.exists():
            assert {p.name for p in out.iterdir()} - {DICOM} == {*FILES}
            from_json((out / "report.json").read_text("utf-8"))
            assert (out / "report.html").read_text("utf-8").rstrip().endswith("</html>")
            for name in ("nodules.nii.gz", "lungs.nii.gz"):
                assert sitk.GetArrayFromImage(sitk.ReadImage(str(out / name))).any()
        whole = home
    assert killed >= 1
    done = subprocess.run(command("analyze", series, "-o", whole / "out", *LOW), env=environment(), capture_output=True)
    assert done.returncode == 0
    assert {p.name for p in whole.iterdir()} == {"out"}, "what the killed run left is swept away"
    assert {p.name for p in (whole / "out").iterdir()} == {*FILES, DICOM}


def test_whoever_reads_may_go(series: Path) -> None:
    """``nodulens info --json | head -c 10``: no trace."""
    process = subprocess.Popen(
        command("info", series, "--json"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert "Traceback" not in process.stderr.read().decode()
    process.wait()


# ---- A real scan, through the command line


def test_a_real_scan_gives_what_the_library_gives(run: Run, shared: Path, tmp_path: Path) -> None:
    """``nodulens segment`` on the mass of Lung_Dx-A0001, at the middle of the radiologist's boxes."""
    ct, report = real_scans.analysed(shared, "Lung_Dx-A0001")
    low, high = real_scans.mass(shared, ct)
    typed = ",".join(f"{v:.1f}" for v in (*low, *high))
    done = run("segment", shared / "ct" / "Lung_Dx-A0001", "-o", tmp_path / "out", "--box", typed, "--json")
    assert done.code == 0, done.err
    found = from_json(done.out)
    (nodule,) = found.nodules
    assert np.all(low < nodule.centre_lps) and np.all(nodule.centre_lps < high)
    assert found.series_uid == report.series_uid
    assert found.lungs == report.lungs
