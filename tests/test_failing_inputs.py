"""Small inputs that fooled nodulens once: each folder of shared/failing, with what must happen to it.

Each stands for a kind of damage or malice. It runs in a process with limits, so that a crash or a bomb is an outcome.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from conftest import REPOSITORY
from reader_worker import Outcome, Worker

FAILING = Path(os.environ.get("NODULENS_FAILING", REPOSITORY.parent / "shared" / "failing"))
pytestmark = pytest.mark.skipif(os.name != "posix", reason="limits and signals are of POSIX systems")

REFUSED, WARNED, READ = "refused", "warned", "read"
EXPECTED: tuple[tuple[str, tuple[str, ...]], ...] = (
    # A library's success is believed; native code ends the process.
    ("mha_damaged_zlib", (REFUSED,)),
    ("mhd_NDims__*", (REFUSED,)),
    ("mha_NDims_*", (REFUSED,)),
    ("dcm_jpeg_lossless_abort", (REFUSED,)),
    ("dcm_rle_panic", (REFUSED,)),
    # Two parsers disagree about a header.
    ("outside-folder-*", (REFUSED,)),
    ("nii_voxoffset_0", (REFUSED, READ)),
    ("nii_voxoffset_100", (REFUSED, READ)),
    ("nii_voxoffset_neg_gz", (REFUSED, READ)),
    ("nii_voxoffset_*", (REFUSED,)),
    ("zip_lzma_damaged", (REFUSED,)),
    ("dcm_charset_hex", (REFUSED, READ)),
    # Absurd numbers pass comparisons.
    ("dcm_PixelSpacing_*", (REFUSED,)),
    ("dcm_tiny_spacing_tilt2", (REFUSED,)),
    ("dcm_thickness_nan*", (READ,)),
    ("dcm_nan_*", (REFUSED,)),
    ("mhd_no_spacing", (REFUSED, WARNED)),
    ("nrrd_no_spacing", (REFUSED, WARNED)),
    ("nrrd_none", (REFUSED, WARNED)),
    ("nrrd_1e300_0_0", (REFUSED, WARNED)),
    ("mhd_NaN_0_0", (REFUSED,)),
    ("mhd_1e300_0_0", (REFUSED,)),
    # Slices that do not belong together; HU that cannot be.
    ("dcm_two_patients_same_uid", (REFUSED,)),
    ("dcm_interleaved_kernels_same_uid", (REFUSED,)),
    ("dcm_mixed_modality_same_uid", (REFUSED,)),
    ("dcm_end_slice_without_Rows", (REFUSED, WARNED)),
    ("dcm_one_intercept_sign_flipped", (WARNED,)),
    ("dcm_intercept_missing_slope_half", (REFUSED,)),
    ("dcm_slope_overflow", (REFUSED,)),
    ("dcm_duplicate_offset_001", (REFUSED,)),
    ("dcm_stray_bad_gz", (READ,)),
)
"""Pattern of a folder's name, and what may happen to it; the first that fits counts."""
FOLDERS = sorted(path.name for path in FAILING.iterdir() if path.is_dir()) if FAILING.is_dir() else []


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with Worker(limit_s=60) as process:
        yield process


def expected(name: str) -> tuple[str, ...]:
    return next((outcomes for pattern, outcomes in EXPECTED if fnmatch.fnmatchcase(name, pattern)), ())


def place(name: str) -> Path:
    """What is handed over: a folder of DICOM slices, or the one file that is a header, an image or an archive."""
    folder = FAILING / name
    if name.startswith("dcm_"):
        return folder
    (file,) = (path for path in folder.rglob("[ax].*") if path.suffix != ".raw")
    return file


def kind(outcome: Outcome) -> str:
    return WARNED if outcome.kind == "read" and outcome.detail["warnings"] else outcome.kind


@pytest.mark.skipif(not FOLDERS, reason=f"no failing inputs at {FAILING}: set NODULENS_FAILING to their folder")
def test_the_table_names_every_folder() -> None:
    assert [name for name in FOLDERS if not expected(name)] == []
    unused = {pattern for pattern, _ in EXPECTED} - {
        next(pattern for pattern, _ in EXPECTED if fnmatch.fnmatchcase(name, pattern)) for name in FOLDERS
    }
    assert unused == set(), "no folder fits these patterns any more"


@pytest.mark.parametrize(
    "name", FOLDERS or [pytest.param("", marks=pytest.mark.skip(f"no failing inputs at {FAILING}"))]
)
def test_each_is_refused_or_read_right(name: str, worker: Worker, tmp_path: Path) -> None:
    path, wanted = place(name), expected(name)
    outcome = worker.run("scan", path)
    assert outcome.kind in ("read", "refused"), outcome
    happened = kind(outcome)
    assert happened in wanted or (happened == WARNED and READ in wanted), outcome
    if outcome.kind == "read":
        check(name, path, outcome)

    told = worker.run("command", "info", path)
    assert told.kind in ("read", "refused"), told
    listed = worker.run("command", "info", path, "--json")
    assert listed.kind == told.kind, listed
    if outcome.kind == "refused":
        analyzed = worker.run("command", "analyze", path, "-o", tmp_path / "out")
        assert analyzed.kind == "refused" and analyzed.detail["message"].startswith("nodulens: "), analyzed
        assert list(tmp_path.iterdir()) == []
    else:
        assert listed.kind == "read", "what is read is listed as well"


def check(name: str, path: Path, outcome: Outcome) -> None:
    """That what was read is right."""
    if name.startswith("nii_voxoffset"):
        import gzip

        data = path.read_bytes()
        data = gzip.decompress(data) if path.suffix == ".gz" else data
        assert outcome.detail["sum"] == int(np.frombuffer(data[352:], "<i2").astype(np.int64).sum())
    if name.startswith("dcm_thickness_nan"):
        assert outcome.detail["thickness"] is None
    if name in ("dcm_duplicate_offset_001", "dcm_stray_bad_gz"):
        assert outcome.detail["shape"][0] < 100


@pytest.mark.skipif("dcm_duplicate_offset_001" not in FOLDERS, reason=f"no failing inputs at {FAILING}")
def test_gaps_of_a_hair_are_not_filled(worker: Worker) -> None:
    outcome = worker.run("scan", FAILING / "dcm_duplicate_offset_001", "interpolate")
    assert outcome.kind == "refused", outcome
