"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real scans and annotations: NODULENS_DATA, or ../shared/data beside the clone."""
    folder = Path(os.environ.get("NODULENS_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "ct").is_dir():
        pytest.skip(f"real data not found at {folder}: set NODULENS_DATA to the folder that holds ct/ and lidc/")
    return folder
