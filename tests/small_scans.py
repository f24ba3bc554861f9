"""The made-up scan of the reports as something to analyze: with noise, turned, tilted, or as a folder of DICOM."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import dicom_files
import made_reports
from nodulens.core.nodule import Nodule
from nodulens.core.volume import SliceRef, Volume
from nodulens.methods.recipe import Recipe
from nodulens.pipeline import analyze
from nodulens.report.record import Report

LOW = 0.02
"""A threshold at which the balls are findings whatever the weights; nothing else in these smooth lungs is round."""


@lru_cache(maxsize=1)
def noisy() -> Volume:
    """:func:`made_reports.scan` with 20 HU of noise."""
    ct = made_reports.scan()
    hu = ct.hu + np.random.default_rng(0).normal(0, 20, ct.hu.shape)
    return replace(ct, hu=np.rint(hu).astype(np.int16))


@lru_cache(maxsize=1)
def noisy_report() -> Report:
    """What is found in :func:`noisy`."""
    return analyze(noisy(), method=Recipe(threshold=LOW))


def turned(ct: Volume, axes: tuple[int, int, int], flips: tuple[bool, bool, bool]) -> Volume:
    """The same patient stored another way: new axis k is axis ``axes[k]``, reversed where ``flips[k]``.

    Slices that are no longer the old ones get UIDs of their own.
    """
    hu = turned_array(np.asarray(ct.hu), axes, flips)
    slices = ct.source.slices[:: -1 if flips[0] else 1]
    if axes[0] != 0:
        slices = tuple(SliceRef(f"1.2.3.{z}", z + 1) for z in range(hu.shape[0]))
    return Volume(hu, ct.geometry.transposed(axes, flips), replace(ct.source, slices=slices))


def turned_array(array: NDArray, axes: tuple[int, int, int], flips: tuple[bool, bool, bool]) -> NDArray:  # type: ignore[type-arg]
    """An array of the scan stored as :func:`turned` stores it."""
    steps = tuple(slice(None, None, -1 if flip else None) for flip in flips)
    return np.ascontiguousarray(array.transpose(axes)[steps])


def nearest(report: Report, number: int) -> tuple[Nodule, float]:
    """The finding nearest ball ``number`` of :data:`made_reports.NODULES`, and how far its middle lies off, in mm."""
    centre = made_reports.NODULES[number][0]
    apart = [float(np.linalg.norm(np.subtract(n.centre_lps, centre))) for n in report.nodules]
    return report.nodules[int(np.argmin(apart))], min(apart)


def dicom(folder: Path, **changes: object) -> Path:
    """:func:`noisy` as a DICOM series; ``changes`` as for :func:`dicom_files.slices`."""
    ct = noisy()
    pixel = list(ct.geometry.spacing_zyx[1:])
    made = dicom_files.slices(np.asarray(ct.hu), origin=ct.geometry.origin_lps, PixelSpacing=pixel, **changes)
    return dicom_files.save(folder, made)
