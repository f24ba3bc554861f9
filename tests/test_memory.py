"""Memory beside the scan: more slices of a chest add the labels of its lungs, a byte a voxel, and hardly more."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import small_scans
from nodulens.core.geometry import Geometry
from nodulens.core.volume import Mask, Volume
from nodulens.io import write_mask
from nodulens.methods.load import load_method
from nodulens.methods.recipe import Recipe
from nodulens.pipeline import analyze
from nodulens.report.outputs import write_outputs
from nodulens.report.record import Report
from nodulens.stages.coverage import lung_coverage
from nodulens.stages.detect import detect
from nodulens.stages.lungs import segment_lungs

SHORT, LONG = 4, 12
"""So many slices are made of each of the scan's."""
METHOD = load_method(Recipe(threshold=small_scans.LOW))


def longer(times: int) -> Volume:
    """The small scan in so many times as many slices, of the same extent."""
    ct = small_scans.noisy()
    nz, ny, nx = ct.geometry.shape
    dz, dy, dx = ct.geometry.spacing_zyx
    x, y, z = ct.geometry.to_lps([0.5 / times - 0.5, 0, 0])
    grid = Geometry((nz * times, ny, nx), (dz / times, dy, dx), (float(x), float(y), float(z)), ct.geometry.direction)
    return Volume(np.repeat(np.asarray(ct.hu), times, axis=0), grid, replace(ct.source, slices=()))


@pytest.fixture(scope="module")
def scans() -> tuple[Volume, Volume]:
    """A short and a long scan."""
    return longer(SHORT), longer(LONG)


@pytest.fixture(scope="module")
def reports(scans: tuple[Volume, Volume]) -> tuple[Report, Report]:
    """Of each."""
    short, long = (analyze(ct, method=METHOD) for ct in scans)
    assert len(short.nodules) == len(long.nodules) > 0
    return short, long


def growth(work: Callable[[int], object], scans: tuple[Volume, Volume]) -> float:
    """Bytes by which the peak of some work grows for each voxel that the long scan has more than the short one."""
    peaks = []
    for number in range(len(scans)):
        work(number)  # what is loaded or kept on first use is not of the scan
        tracemalloc.start()
        work(number)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    short, long = (ct.hu.size for ct in scans)
    return (peaks[1] - peaks[0]) / (long - short)


def test_lungs_grow_by_their_labels(scans: tuple[Volume, Volume]) -> None:
    assert growth(lambda n: segment_lungs(scans[n]), scans) < 1.1


def test_detection_grows_by_nothing(scans: tuple[Volume, Volume], reports: tuple[Report, Report]) -> None:
    lungs = [report.lung_mask for report in reports]
    models = METHOD.models

    def work(n: int) -> object:
        mask = lungs[n]
        assert mask is not None
        return detect(scans[n], mask, models.screen, models.volume), lung_coverage(scans[n], mask)

    # which of two threads' parts are in memory together is chance; a region as large as the scan would add a byte
    assert growth(work, scans) < 0.5


def test_an_analysis_grows_by_the_labels_of_the_lungs(scans: tuple[Volume, Volume]) -> None:
    # what surrounds the nodules fills much of so small a scan; a second array as large as the scan would add a byte
    assert growth(lambda n: analyze(scans[n], method=METHOD), scans) < 1.6


def test_outputs_grow_by_the_mask_of_the_nodules(
    scans: tuple[Volume, Volume], reports: tuple[Report, Report], tmp_path: Path
) -> None:
    assert growth(lambda n: write_outputs(reports[n], scans[n], tmp_path / str(n)), scans) < 1.6


@pytest.mark.parametrize("name", ["mask.nii.gz", "mask.nii"])
def test_a_mask_is_written_and_read_back_slice_by_slice(tmp_path: Path, name: str) -> None:
    labels: NDArray[np.uint8] = np.random.default_rng(0).integers(0, 2, (600, 128, 128)).astype(np.uint8)
    mask = Mask(labels, Geometry.axial(labels.shape), {1: "label 1"})
    tracemalloc.start()
    write_mask(mask, tmp_path / name)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < labels.nbytes / 2
