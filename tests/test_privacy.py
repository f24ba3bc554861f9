"""Whoever was scanned is named nowhere: not by outputs, messages and traces, nor by what a killed process leaves."""

from __future__ import annotations

import gzip
import os
import signal
import stat
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pydicom
import pytest

import dicom_files
import small_scans
from conftest import Run, command, environment
from nodulens.apps.typed import typed_command
from nodulens.core.private import PREFIX
from nodulens.core.text import without_places

SECRETS = (
    "quirinzyx", "wolframvax", "19470813", "1947-08-13", "13.08.1947", "krn-77310", "accn-55021", "zephyrhospital",
    "drumblefort", "knurrbein",
)  # fmt: skip


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small scan, its patient, referrer and hospital in every text of the header and in the names of its files."""
    folder = small_scans.dicom(
        tmp_path_factory.mktemp("privacy") / "Quirinzyx_Wolframvax_1947-08-13",
        PatientName="Quirinzyx^Wolframvax",
        PatientBirthDate="19470813",
        PatientID="KRN-77310",
        AccessionNumber="ACCN-55021",
        ReferringPhysicianName="Drumblefort^Dr",
        InstitutionName="Zephyrhospital",
        SeriesDescription="thorax 13.08.1947 for Drumblefort",
        StudyDescription="Quirinzyx follow-up",
        ConvolutionKernel="BONE Wolframvax",
        Manufacturer="Zephyrhospital",
        ProtocolName="WOLFRAMVAX QUIRINZYX",
        OperatorsName="Knurrbein",
        PatientComments="KRN-77310",
        ImageComments="Knurrbein",
    )
    for path in list(folder.iterdir()):
        path.rename(path.with_name(f"Quirinzyx-{path.name}"))
    (folder / "Wolframvax.txt").write_text("a letter of Dr Drumblefort")
    return folder


def told_of(content: bytes) -> list[str]:
    return [secret for secret in SECRETS if secret.encode() in content.lower()]


def test_outputs_name_nobody(run: Run, hostile: Path, tmp_path: Path) -> None:
    done = run("analyze", hostile, "-o", tmp_path / "out", "--threshold", str(small_scans.LOW), "--json")
    assert (done.code, done.err) == (0, "")
    assert told_of(done.out.encode()) == []
    files = [path for path in (tmp_path / "out").iterdir() if path.is_file()]  # objects belong to the patient's study
    assert len(files) == 5
    for path in files:
        content = path.read_bytes()
        assert told_of(gzip.decompress(content) if path.suffix == ".gz" else content) == [], path.name
    assert "Left out, for what stands there may say who was scanned: series description" in done.out
    assert "Sharp kernel: noise" in done.out, "what the kernel means is said without its name"


def test_a_choice_of_series_names_nobody(run: Run, hostile: Path, tmp_path: Path) -> None:
    for i, path in enumerate(sorted(hostile.glob("*.dcm"))):
        data = pydicom.dcmread(path)
        data.SeriesInstanceUID = f"1.2.3.{i % 2}"
        (tmp_path / "two").mkdir(exist_ok=True)
        data.save_as(tmp_path / "two" / f"{i}.dcm")
    done = run("analyze", tmp_path / "two", "-o", tmp_path / "out")
    assert done.code == 2 and "holds 2 CT series" in done.err
    assert told_of(done.err.encode()) == []


def test_listing_leaves_the_patient_out(run: Run, tmp_path: Path) -> None:
    series = dicom_files.slices(
        PatientName="Müller^Anna", PatientID="", SeriesDescription="MUELLER lung", ConvolutionKernel="Muller B30"
    )
    folder = dicom_files.save(tmp_path / "ct", series)
    for done in (run("info", folder), run("info", folder, "--json")):
        assert done.code == 0 and "ller" not in done.out.lower()


@pytest.mark.parametrize("where", ["nodulens.io.series.find_series", "nodulens.pipeline.segment_lungs"])
def test_the_trace_of_a_fault_names_nobody(
    where: str, run: Run, hostile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError(f"in {hostile}" if "pipeline" in where else f"could not convert {SECRETS[0]}")

    monkeypatch.setattr(where, broken)
    done = run("analyze", hostile, "-o", tmp_path / "out")
    assert done.code == 1 and "Traceback" in done.err and "A fault in nodulens: ZeroDivisionError." in done.err
    assert told_of(done.err.encode()) == []
    assert "in broken" in done.err, "the lines are there"


def test_warnings_of_the_reader_of_dicom_are_not_printed(hostile: Path, tmp_path: Path) -> None:
    for i, path in enumerate(sorted(hostile.glob("*.dcm"))[:12]):
        data = pydicom.dcmread(path)
        with pytest.warns(UserWarning, match="Invalid value"):
            data.PatientBirthDate = "Quirinzyx 13.08.1947"
        (tmp_path / "ct").mkdir(exist_ok=True)
        data.save_as(tmp_path / "ct" / f"{i}.dcm")
    done = subprocess.run(command("info", tmp_path / "ct"), capture_output=True, env=environment(), timeout=120)
    assert done.returncode == 0 and told_of(done.stdout + done.stderr) == []


# ---- Killed


@pytest.fixture
def packed(hostile: Path, tmp_path: Path) -> Path:
    """The scan as a zip, which is unpacked into a temporary folder."""
    with zipfile.ZipFile(tmp_path / "scan.zip", "w") as archive:
        for path in hostile.glob("*.dcm"):
            archive.write(path, path.name)
    return tmp_path / "scan.zip"


@pytest.mark.skipif(os.name != "posix", reason="signals are of POSIX systems")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_what_a_killed_process_leaves_is_private_and_swept(number: int, packed: Path, tmp_path: Path) -> None:
    place, out = tmp_path / "temporary", tmp_path / "here" / "out"
    place.mkdir()
    out.parent.mkdir()
    words = command("analyze", packed, "-o", out, "--threshold", "1")
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, env=environment(TMPDIR=str(place)))
    limit = time.monotonic() + 60
    while not any(place.glob(f"{PREFIX}*/files/*.dcm")):  # and not in a folder on its way to its name
        assert process.poll() is None and time.monotonic() < limit
    folders = [path for path in place.iterdir() if path.name.startswith(PREFIX)]
    assert [stat.S_IMODE(path.stat().st_mode) for path in folders] == [0o700]
    process.send_signal(number)
    code = process.wait(60)
    left = list(place.rglob("*.dcm"))
    if number == signal.SIGTERM:
        assert code == 128 + signal.SIGTERM and left == [] and list(out.parent.iterdir()) == []
    else:
        assert code == -signal.SIGKILL and left
    done = subprocess.run(command("info", packed), capture_output=True, env=environment(TMPDIR=str(place)), timeout=120)
    assert done.returncode == 0, done.stderr
    assert not [path for path in place.iterdir() if path.name.startswith(PREFIX)]


# ---- Where whoever typed the command keeps things


def test_a_command_is_kept_without_the_places_of_a_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    home = tmp_path / "Quirinzyx"
    here = home / "work"
    here.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    monkeypatch.chdir(here)
    words = {
        "train": "train",
        "runs/one": "runs/one",
        str(here / "runs" / "one"): "runs/one",
        str(here): ".",
        str(home / "scans"): "…/scans",
        "../scans": "…/scans",
        "~/scans": "…/scans",
        str(home): "…",
        "~": "…",
        str(tmp_path): "…",
        f"--data={home / 'scans'}": "--data=…/scans",
        f"checkpoint={home / 'sam2'}": "checkpoint=…/sam2",
        "facebook/sam2.1-hiera-tiny": "facebook/sam2.1-hiera-tiny",
        "--window=-1350,150": "--window=-1350,150",
        "70,10,20": "70,10,20",
    }
    for typed, kept in words.items():
        assert without_places(typed) == kept, typed
    monkeypatch.setattr(sys, "argv", ["/usr/bin/nodulens", "train", "se-aux-unet", "--data", str(home / "scans")])
    assert typed_command() == "nodulens train se-aux-unet --data '…/scans'"
    monkeypatch.chdir(tmp_path)  # a folder above the home folder names it
    assert without_places(str(home / "scans")) == "…/scans"


def test_a_call_is_kept_without_the_places_of_a_machine() -> None:
    pytest.importorskip("torch")
    from nodulens.train import _call
    from nodulens.train.options import TrainOptions

    options = TrainOptions(Path("/home/quirinzyx/split.json"), 1)
    call = _call("se-aux-unet", "/home/quirinzyx/a", Path("run"), ["checkpoint=/home/quirinzyx/sam"], options)
    assert told_of(call.encode()) == []
    assert call.startswith("nodulens.train('se-aux-unet', '…/a', 'run', settings=['checkpoint=…/sam'], options=")
    assert "PosixPath('…/split.json')" in call or os.name != "posix"
