"""The folder of outputs: claimed by one run before the work, and never a mixture."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

import made_reports
from conftest import REPOSITORY, Run
from nodulens.core import private
from nodulens.core.private import claimed_folder, private_folder
from nodulens.core.volume import Volume
from nodulens.data.phantom import write_phantom_dicom
from nodulens.errors import BadOption, CannotWrite, InputError
from nodulens.io.atomic import whole_file, whole_folder, write_whole
from nodulens.report import outputs
from nodulens.report.json import from_json
from nodulens.report.outputs import FILES, claimed, write_outputs
from nodulens.report.record import Report

if os.name == "posix":
    import resource

POSIX = pytest.mark.skipif(os.name != "posix", reason="of POSIX systems")
COARSE = (6.0, 3.0, 3.0)


@pytest.fixture(scope="module")
def ct() -> Volume:
    return made_reports.scan((44, 40, 100))


@pytest.fixture(scope="module")
def report(ct: Volume) -> Report:
    return made_reports.report(ct, 1)


@pytest.fixture(autouse=True)
def quick_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests are of folders, not of pages."""
    monkeypatch.setattr(outputs, "render_page", lambda report, ct: "<html></html>")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ---- Two runs


@pytest.mark.parametrize("there", [False, True], ids=["new folder", "folder that exists"])
def test_another_run_is_refused_at_once(there: bool, ct: Volume, report: Report, tmp_path: Path) -> None:
    out = tmp_path / "out"
    if there:
        write_outputs(report, ct, out)
    with claimed(out) as claim:
        with pytest.raises(CannotWrite, match=rf"Another run, process {os.getpid()}, is writing .*out"):
            write_outputs(report, ct, out)
        with claimed(tmp_path / "beside"):  # another folder of the same parent is free
            pass
        assert outputs.write_into(claim, report, ct) == out
    assert names(tmp_path) == ["out"] and names(out) == sorted(FILES)
    write_outputs(report, ct, out)


@POSIX
def test_processes_that_write_into_one_folder_leave_the_files_of_one(tmp_path: Path) -> None:
    """Processes at once: one at least writes, each other one writes after it or is refused."""
    code = """
import sys, dataclasses
sys.path.insert(0, sys.argv[3])
import made_reports
from nodulens.errors import CannotWrite
from nodulens.report import outputs
outputs.render_page = lambda report, ct: "<html></html>"
ct = made_reports.scan((44, 40, 100))
report = dataclasses.replace(made_reports.report(ct, 1), case=sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
done = refused = 0
for _ in range(6):
    try:
        outputs.write_outputs(report, ct, sys.argv[1])
        done += 1
    except CannotWrite as error:
        assert "Another run" in str(error), error
        refused += 1
print(done, refused)
"""
    out, tests = tmp_path / "out", REPOSITORY / "tests"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "src")}
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", code, out, f"case-{n}", tests],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )
        for n in range(3)
    ]  # fmt: skip
    for run in runs:
        assert run.stdout is not None and run.stdout.readline() == "ready\n"
    for run in runs:
        assert run.stdin is not None
        run.stdin.write("\n")
        run.stdin.flush()
    counts = [tuple(map(int, run.communicate(timeout=120)[0].split())) for run in runs]
    assert all(run.returncode == 0 for run in runs)
    assert sum(done for done, _ in counts) >= 1 and sum(refused for _, refused in counts) >= 1
    assert names(tmp_path) == ["out"] and names(out) == sorted(FILES)
    case = from_json((out / "report.json").read_text("utf-8")).case
    assert str(case) in (out / "nodules.csv").read_text("utf-8")


def abandoned(path: Path, process: str) -> Path:
    """A private folder as a process leaves it that was killed."""
    path.mkdir(mode=0o700)
    (path / private.LOCK).write_text(process)
    (path / "scan.dcm").write_text("somebody's")
    return path


@POSIX
@pytest.mark.parametrize(
    "process",
    ["1-5", f"{os.getpid()}-7", f"{os.getpid()}-0", "999999999-1", "", "x"],
    ids=["another", "this number, started then", "this number", "nobody", "empty", "no number"],
)
def test_who_holds_no_lock_is_dead_whatever_its_number(process: str, tmp_path: Path) -> None:
    """Process 1 of a container that is no more is not process 1 of this one."""
    left = abandoned(tmp_path / f"{private.PREFIX}1-5-abcd", process)
    with private_folder(tmp_path) as folder:
        assert not left.exists() and names(tmp_path) == [folder.name]
    held = abandoned(tmp_path / "held", process)
    with claimed_folder(held):
        assert names(held) == [private.LOCK]
    assert names(tmp_path) == []


@POSIX
def test_without_locks_number_and_start_decide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private, "_lock", lambda handle: False)
    with private_folder(tmp_path) as ours:
        dead = abandoned(tmp_path / f"{private.PREFIX}old", f"{os.getpid()}-1")  # our number, another start
        private.sweep(tmp_path)
        assert ours.exists() and not dead.exists()
        with pytest.raises(CannotWrite, match="Another run"), claimed_folder(ours):
            pass


@POSIX
def test_a_link_or_a_stranger_is_not_swept(tmp_path: Path) -> None:
    precious = abandoned(tmp_path / "precious", "999999999-1")
    (tmp_path / f"{private.PREFIX}link").symlink_to(precious, target_is_directory=True)
    (tmp_path / f"{private.PREFIX}file").write_text("")
    (tmp_path / f"{private.PREFIX}mine").mkdir()
    (tmp_path / f"{private.PREFIX}mine" / "file").write_text("no lock was ever here")
    private.sweep(tmp_path)
    assert names(precious) == [private.LOCK, "scan.dcm"]
    assert len(names(tmp_path)) == 4


# ---- What is in the way


@pytest.mark.parametrize("name", FILES)
def test_files_of_others_are_not_replaced(name: str, ct: Volume, report: Report, tmp_path: Path) -> None:
    (tmp_path / name).write_text('{"schema": "mine"}')
    with pytest.raises(BadOption, match=f"holds {name}, not written by nodulens"):
        write_outputs(report, ct, tmp_path)
    assert names(tmp_path) == [name] and (tmp_path / name).read_text() == '{"schema": "mine"}'


def test_a_folder_called_like_an_output_is_refused(ct: Volume, report: Report, tmp_path: Path) -> None:
    write_outputs(report, ct, tmp_path / "out")
    (tmp_path / "out" / "lungs.nii.gz").unlink()
    (tmp_path / "out" / "lungs.nii.gz").mkdir()
    with pytest.raises(BadOption, match=r"holds lungs\.nii\.gz, not written by nodulens"):
        write_outputs(report, ct, tmp_path / "out")


def test_what_a_killed_run_left_half_moved_is_replaced(ct: Volume, report: Report, tmp_path: Path) -> None:
    out = write_outputs(report, ct, tmp_path / "out")
    (out / "report.json").unlink()
    (out / outputs._MOVING).touch()
    write_outputs(report, ct, out)
    assert names(out) == sorted(FILES)
    with pytest.raises(BadOption, match="not written by nodulens"):  # without the mark they may be anybody's
        (out / "report.json").unlink()
        write_outputs(report, ct, out)


def test_a_fault_while_files_are_moved_brings_the_earlier_run_back(
    ct: Volume, report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = write_outputs(report, ct, tmp_path / "out")
    before = {name: (out / name).read_bytes() for name in FILES}
    real, left = os.replace, 0

    def fails_once(source: Path, target: Path) -> None:
        nonlocal left
        left -= Path(target).parent == out or Path(source).parent == out
        if left == 0:
            left = -1
            raise OSError(errno.EIO, "Input/output error")
        real(source, target)

    monkeypatch.setattr(os, "replace", fails_once)
    for at in range(1, 2 * len(FILES) + 1):
        left = at
        with pytest.raises(CannotWrite, match="Input/output error"):
            write_outputs(made_reports.report(ct, 2), ct, out)
        assert {path.name: path.read_bytes() for path in out.iterdir()} == before


@pytest.mark.parametrize("where", [".", "out", "deep/out"])
def test_outputs_do_not_lie_in_the_scan(run: Run, where: str, tmp_path: Path) -> None:
    scan = tmp_path / "scan"
    scan.mkdir()
    (tmp_path / "link").symlink_to(scan, target_is_directory=True)
    for folder in (scan, tmp_path / "link"):
        done = run("analyze", scan, "-o", folder / where)
        assert done.code == 2 and "is inside the folder of the scan" in done.err
    assert names(scan) == []


def test_the_scan_is_not_replaced_by_an_output(run: Run, ct: Volume, report: Report, tmp_path: Path) -> None:
    out = write_outputs(report, ct, tmp_path / "out")
    before = (out / "lungs.nii.gz").read_bytes()
    done = run("analyze", out / "lungs.nii.gz", "-o", out)
    assert done.code == 2 and "has the name of an output" in done.err
    (tmp_path / "link.nii.gz").symlink_to(out / "lungs.nii.gz")
    assert run("analyze", tmp_path / "link.nii.gz", "-o", out).code == 2
    assert (out / "lungs.nii.gz").read_bytes() == before


@POSIX
def test_links(ct: Volume, report: Report, tmp_path: Path) -> None:
    (tmp_path / "nothing").symlink_to(tmp_path / "absent")
    with pytest.raises(BadOption, match="nothing is a link to nothing"):
        write_outputs(report, ct, tmp_path / "nothing")
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real", target_is_directory=True)
    write_outputs(report, ct, tmp_path / "link")
    assert names(tmp_path / "real") == sorted(FILES) and names(tmp_path) == ["link", "nothing", "real"]


@pytest.mark.parametrize(
    "name",
    [
        "new\nline",
        "-o",
        "trailing ",
        " ",
        "ümläut 胸部",
        "a" * 255,
        "..dots",
        "$(x)",
        pytest.param("\udcff\udcfe", marks=POSIX),
    ],
)
def test_odd_names_do_no_harm(name: str, ct: Volume, report: Report, tmp_path: Path) -> None:
    for _ in range(2):
        assert names(write_outputs(report, ct, tmp_path / name)) == sorted(FILES)
    assert names(tmp_path) == [name]


# ---- Known before the work


def refuses(*_: object, **__: object) -> None:
    pytest.fail("read before the output was looked at")


@pytest.mark.parametrize("option", ["{tmp}/" + "a" * 256, "{tmp}/file", "{tmp}/file/below", "{tmp}/nothing/below"])
def test_a_place_that_cannot_be_is_refused_before_the_work(
    run: Run, option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "nothing").symlink_to(tmp_path / "absent")
    monkeypatch.setattr("nodulens.io.read", refuses)
    done = run("analyze", tmp_path / "file", "-o", option.format(tmp=tmp_path))
    assert done.code == 2 and done.err.startswith("nodulens: ") and done.err.count("\n") == 1
    assert names(tmp_path) == ["file", "nothing"]


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("there", [False, True])
def test_a_place_that_is_read_only_is_refused_before_the_work(
    run: Run, there: bool, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(self: Path, *_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), str(self))

    (tmp_path / "scan").touch()
    out = tmp_path / "deep" / "out"
    if there:
        out.mkdir(parents=True)
    monkeypatch.setattr("nodulens.io.read", refuses)
    monkeypatch.setattr(Path, "mkdir", refused)
    done = run("analyze", tmp_path / "scan", "-o", out)
    assert done.code == 2 and os.strerror(number) in done.err
    assert "hoose another" in done.err


def test_folders_made_for_a_run_that_failed_are_gone(run: Run, tmp_path: Path) -> None:
    done = run("analyze", tmp_path / "absent", "-o", tmp_path / "a" / "b" / "out")
    assert done.code == 2 and "absent" in done.err
    assert names(tmp_path) == []


@pytest.mark.parametrize("case", ["a\nb", "\x1b[31m", "\udcff", "\u202e"])
def test_a_case_of_control_characters_is_refused_before_the_work(
    run: Run, case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nodulens.io.read", refuses)
    done = run("analyze", tmp_path, "-o", tmp_path.parent / "out", "--case", case)
    assert done.code == 2 and "--case is text on one line" in done.err
    assert done.err.isascii() and done.err.count("\n") == 1 and done.err[:-1].isprintable()


# ---- A disk that fills


def test_a_short_write_leaves_nothing(
    ct: Volume, report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.write_bytes
    monkeypatch.setattr(Path, "write_bytes", lambda self, data: real(self, data[: len(data) // 2]))
    with pytest.raises(BadOption, match="not written whole"):
        write_whole(tmp_path / "file", b"1234")
    with pytest.raises(InputError):
        write_outputs(report, ct, tmp_path / "out")
    assert names(tmp_path) == []


@POSIX
@pytest.mark.parametrize("limit", [0, 1000, 100_000])
def test_a_full_disk_leaves_nothing(limit: int, tmp_path: Path) -> None:
    """Files may not grow beyond a limit, as on a disk that is full: an error of the input, and nothing half made."""
    code = """
import resource, sys
sys.path.insert(0, sys.argv[3])
import made_reports
from nodulens.errors import InputError
from nodulens.report.outputs import write_outputs
ct = made_reports.scan((44, 80, 100))
report = made_reports.report(ct, 1)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    write_outputs(report, ct, sys.argv[1])
except InputError as error:
    print(error)
    sys.exit(2)
"""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "src")}
    words = [sys.executable, "-c", code, tmp_path / "out", str(limit), REPOSITORY / "tests"]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 2, done.stderr
    assert "File too large" in done.stdout or "not written whole" in done.stdout or "cannot be written" in done.stdout
    assert names(tmp_path) == []


# ---- A folder of files that belong together


KILLED_PHANTOM = """
import sys, time
from pathlib import Path
from nodulens.data import phantom
real = phantom._dicom_slice
def pausing(volume, z, seed, date):
    if z == 20:
        print("ready", flush=True)
        time.sleep(60)
    return real(volume, z, seed, date)
phantom._dicom_slice = pausing
phantom.write_phantom_dicom(Path(sys.argv[1]), 1, (6.0, 3.0, 3.0))
"""


@POSIX
@pytest.mark.parametrize("there", [False, True], ids=["new folder", "empty folder"])
def test_a_killed_phantom_leaves_no_slice(there: bool, tmp_path: Path) -> None:
    out = tmp_path / "out"
    if there:
        out.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "src")}
    words = [sys.executable, "-c", KILLED_PHANTOM, out]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        with pytest.raises(CannotWrite, match="Another run"):
            write_phantom_dicom(out, 1, COARSE)
        process.kill()
    assert out.exists() is there and not list(out.glob("*"))
    assert len(list(tmp_path.rglob("*.dcm"))) == 20
    write_phantom_dicom(out, 1, COARSE)
    assert len(names(out)) == 50 and names(tmp_path) == ["out"]


def test_a_whole_folder_is_the_target_or_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), whole_folder(tmp_path / "deep" / "out") as room:
        (room / "a").touch()
        raise ZeroDivisionError
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        with pytest.raises(CannotWrite, match=r"/out .*" + os.strerror(number)), whole_folder(tmp_path / "out") as room:
            raise OSError(number, os.strerror(number), str(room / "a"))
    with pytest.raises(PermissionError), whole_folder(tmp_path / "out"):
        raise PermissionError(errno.EACCES, "Permission denied", "/another/place")
    assert names(tmp_path) == []
    with whole_folder(tmp_path / "out") as room:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "theirs").touch()
        with pytest.raises(BadOption, match="not empty"), whole_folder(tmp_path / "out"):
            pytest.fail("the work began")
        (tmp_path / "out" / "theirs").unlink()
        (room / "ours").touch()
    assert names(tmp_path / "out") == ["ours"] and names(tmp_path) == ["out"]


@POSIX
def test_a_phantom_on_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(CannotWrite, match="/out cannot be written: File too large"):
            write_phantom_dicom(tmp_path / "out", 1, COARSE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert names(tmp_path) == []


def test_whole_file_says_which_place_is_full(tmp_path: Path) -> None:
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        with pytest.raises(BadOption, match="out.txt.*" + os.strerror(number)), whole_file(tmp_path / "out.txt"):
            raise OSError(number, os.strerror(number))
    with pytest.raises(InputError), whole_file(tmp_path / ("a" * 256)):
        pytest.fail("the work began")
    assert names(tmp_path) == []
