"""Tiles of lung: patches of slices that hold no nodule, cut side by side, as non-nodules that a filter is trained on.

A sliding window meets every place in the lungs, and LUNA16's candidates are only those that other detectors took for
nodules.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodulens.data.frames import grey_as_hu
from nodulens.data.luna16 import SIDES
from nodulens.data.material import PATCH_PX, PATCH_STEPS, Background, MadePatches
from nodulens.data.whole_slices import WholeSlices
from nodulens.errors import NotFound
from nodulens.ops.patches import Window
from nodulens.stages.classical import classic_steps
from nodulens.stages.lungs import segment_lungs
from nodulens.stages.slices import NODULE
from nodulens.train.tasks.picture_folders import find_pictures, is_pictures
from nodulens.train.tasks.slice_material import WHOLE_SLICE_MM, background, usable

TILES = 4
"""Largest number of tiles of a slice, drawn at random from those whose middle is in the lungs."""


@dataclass(frozen=True, eq=False)
class LungSlice:
    """An axial slice without a nodule.

    Attributes:
        name: of the slice in its data set.
        hu: (y, x).
        lungs: (y, x) bool.
        step: pixels of the slice in one of a tile.
    """

    patient: str
    name: str
    hu: NDArray[Any]
    lungs: NDArray[np.bool_]
    step: float = 1.0

    def tiles(self) -> Iterator[NDArray[np.uint8]]:
        """Tiles (64, 64) as :data:`PATCH_STEPS`, always the same ones; their grid is shifted at random."""
        rng, side = np.random.default_rng([*self.name.encode()]), PATCH_PX * self.step
        rows, columns = (np.arange(rng.uniform(0, side), n, side).astype(int) for n in self.lungs.shape)
        for row, column in rng.permutation(np.argwhere(self.lungs[np.ix_(rows, columns)]))[:TILES]:
            first = (0.0, rows[row] - side / 2, columns[column] - side / 2)
            tile = Window(first, (1.0, self.step, self.step), (1, PATCH_PX, PATCH_PX)).sample(self.hu[None])
            yield PATCH_STEPS.steps(tile[0])


def lung_tiles(data: Path) -> MadePatches:
    """Tiles of the slices of a data folder on which no nodule is annotated: of its pictures, or of its whole scans, or
    else of the backgrounds.

    Raises:
        NotFound: no such slice, or no whole scans and not all backgrounds.
    """
    slices = _of_pictures(data) if is_pictures(data) else _of_scans(data)
    found = [(one.patient, tile) for one in slices for tile in one.tiles()]
    if not found:
        raise NotFound(f"No slice without a nodule in {data} shows lung, so no tile can be cut: take other negatives.")
    return MadePatches(
        steps=np.stack([tile for _, tile in found]),
        label=np.zeros(len(found), dtype=bool),
        diameter_mm=np.zeros(len(found), dtype=np.float32),
        patients=[patient for patient, _ in found],
        nodule=np.full(len(found), -1),
        weight=np.ones(len(found)),
    )


def _of_pictures(data: Path) -> Iterator[LungSlice]:
    """Lungs are those of the classic steps."""
    folder = find_pictures(data)
    for item in folder.items():
        if item.stratum != NODULE:
            grey = folder.load(item).image[0]
            yield LungSlice(item.patient_id, item.key, grey_as_hu(grey), classic_steps(grey)["filled"] > 0)


def _of_scans(data: Path) -> Iterator[LungSlice]:
    scans = WholeSlices(data).scans
    for scan in scans:
        rows = np.flatnonzero(scan.nodule_px == 0)
        hu, lungs, _ = scan.read(rows)
        for z, image, lung in zip(rows, hu, lungs, strict=True):
            yield LungSlice(scan.patient, f"{scan.series_uid} {z}", image, np.isin(lung, SIDES))
    for patient in () if scans else Background.PATIENTS:
        yield from _of_background(data, patient)


def _of_background(data: Path, patient: str) -> Iterator[LungSlice]:
    """Its slices, their pixels brought to those of whole slices, a random size for each."""
    volume = background(data, patient)
    lungs, pixel_mm = segment_lungs(volume).labels > 0, volume.geometry.spacing_zyx[1]
    rng = np.random.default_rng([*patient.encode()])
    for z in np.flatnonzero(usable(volume.geometry, patient)).tolist():
        step = rng.uniform(*WHOLE_SLICE_MM) / pixel_mm
        yield LungSlice(patient, f"{patient} {z}", volume.hu[z], lungs[z], step)
