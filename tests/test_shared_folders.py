"""Whoever changes a folder that all tests read is told so, and nobody else is."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

import conftest

CHANGES: dict[str, Callable[[Path], object]] = {
    "new": lambda folder: (folder / "new.txt").write_text(""),
    "written again": lambda folder: (folder / "below" / "old.txt").write_text("old"),
    "gone": lambda folder: (folder / "below" / "old.txt").unlink(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_test_that_writes_fails_and_the_next_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], object]
) -> None:
    monkeypatch.setattr(conftest, "shared_folders", {})
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "old.txt").write_text("old")
    for path in (tmp_path / "below" / "old.txt", tmp_path / "below", tmp_path):
        os.utime(path, (0, 0))  # clocks of file systems may be too coarse for a test as short as this
    conftest.share(tmp_path)
    conftest.check_shared_folders()
    change(tmp_path)
    with pytest.raises(AssertionError, match="give it a copy"):
        conftest.check_shared_folders()
    conftest.check_shared_folders()
