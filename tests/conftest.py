"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from nodulens.apps import cli

REPOSITORY = Path(__file__).resolve().parents[1]
NEEDS = {"shared": "real", "browser": "browser", "opened": "browser", "wheel": "packaging", "installed": "packaging"}
"""Fixture → mark of the tests that take it: ``make test`` leaves them out, ``make check`` runs them."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by what they need."""
    for item in items:
        for fixture in NEEDS.keys() & set(getattr(item, "fixturenames", ())):
            item.add_marker(NEEDS[fixture])


@dataclass(frozen=True)
class Done:
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


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real scans and annotations: NODULENS_DATA, or ../shared/data beside the clone."""
    folder = Path(os.environ.get("NODULENS_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "ct").is_dir():
        pytest.skip(f"real data not found at {folder}: set NODULENS_DATA to the folder that holds ct/ and lidc/")
    return folder
