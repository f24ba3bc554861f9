"""The lock of private folders as Windows has it, played by POSIX locks: what it asks of a file, and when it lets go.

No test of ours has run on Windows itself.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from conftest import REPOSITORY
from nodulens.core import private
from nodulens.core.private import claimed_folder, own_folder, private_folder, sweep
from nodulens.errors import CannotWrite

FAR = 1000
"""Where the locked byte lies: beyond what is written, since nobody else can read a locked byte."""


def opened(path: Path) -> bool:
    """Whether this process holds a file of a folder open."""
    for handle in Path("/proc/self/fd").iterdir():
        try:
            if Path(os.readlink(handle)).is_relative_to(path):
                return True
        except OSError:  # the handle of this very listing
            continue
    return False


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """``msvcrt`` and a file system on which an open file can be neither renamed nor removed."""

    def locking(handle: int, mode: int, count: int) -> None:
        assert (mode, count, os.lseek(handle, 0, os.SEEK_CUR)) == (2, 1, FAR)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise PermissionError(13, "Permission denied") from error

    real_rename, real_rmtree = os.rename, private.shutil.rmtree

    def rename(source: Path, target: Path) -> None:
        assert not opened(Path(source)), "a folder with an open file is renamed"
        real_rename(source, target)

    def rmtree(path: Path, ignore_errors: bool = False) -> None:
        assert not opened(Path(path)), "an open file is removed"
        real_rmtree(path, ignore_errors=ignore_errors)

    monkeypatch.setitem(sys.modules, "msvcrt", SimpleNamespace(LK_NBLCK=2, locking=locking))
    monkeypatch.setattr(private, "sys", SimpleNamespace(platform="win32"))
    monkeypatch.setattr(private, "POSIX", False)
    monkeypatch.setattr(os, "rename", rename)
    monkeypatch.setattr(private, "shutil", SimpleNamespace(rmtree=rmtree))
    yield
    assert not [path for path in Path("/proc/self/fd").iterdir() if str(path.resolve()).endswith(f"/{private.LOCK}")]


pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads open files from /proc"),
    pytest.mark.usefixtures("windows"),
]


def test_a_folder_is_locked_once_and_gone_afterwards(tmp_path: Path) -> None:
    with claimed_folder(tmp_path / "held") as folder:
        (folder / "below").mkdir()
        (folder / "below" / "file").write_text("half")
        assert (folder / private.LOCK).read_text().startswith(f"{os.getpid()}-")
        taken = f"Another run, process {os.getpid()}, is writing"
        with pytest.raises(CannotWrite, match=taken), claimed_folder(tmp_path / "held"):
            pytest.fail("held twice")
        assert (folder / "below" / "file").exists()
    assert list(tmp_path.iterdir()) == []


def test_what_is_locked_is_not_swept_and_what_is_left_is(tmp_path: Path) -> None:
    with private_folder(tmp_path) as folder:
        sweep(tmp_path)
        assert folder.is_dir()
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom nodulens.core.private import own_folder\n"
        "with own_folder(Path(sys.argv[1])) as staging:\n"
        "    (staging / 'scan').touch(); print('ready', flush=True); time.sleep(60)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "src")}
    words = [sys.executable, "-c", code, str(tmp_path / "out")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        with pytest.raises(CannotWrite, match=f"process {process.pid}"), own_folder(tmp_path / "out"):
            pytest.fail("held twice")
        process.kill()
    assert (tmp_path / "out" / private.PARTIAL / "scan").exists()
    with own_folder(tmp_path / "out") as staging:
        assert [path.name for path in staging.iterdir()] == [private.LOCK]
    assert list((tmp_path / "out").iterdir()) == []
