"""What the malignancy network was not taught: marks on what is no nodule, and nodules that are altered beyond what it
saw. How far these are from its training set, beside nodules that it left out, says what the distance is worth."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from nodulens.core.nodule import Box, Candidate
from nodulens.core.volume import Volume
from nodulens.data.material import Background, Cubes, Stacks
from nodulens.ops.blocks import block_means
from nodulens.ops.intensity import from_unit, to_unit
from nodulens.stages.lungs import search_region, segment_lungs
from nodulens.stages.prompted import Outline, outlined
from nodulens.stages.segment import prompt_of_candidate
from nodulens.train.default.cube_detection import GRID, searched

Bool = NDArray[np.bool_]
Search = Callable[[Volume, Bool], Sequence[Candidate]]
"""The marks in a region of a volume, the most certain first."""
Marks = Callable[[str], Search]
"""Patient → the search by a detector that left the patient out."""
Outlines = Callable[[str], Outline]
"""Patient → the program's outline at a prompt, by a segmenter that left the patient out."""

ONE_CUBE_IN = 16
"""Marks are searched in one cube of so many, and nodules altered in one of so many."""
IN_CUBE, IN_LUNG = 2, 40
"""Marks that are taken of each cube, and of each nodule-free lung, the most certain first."""
SLAB_MM = 80.0
"""Height of the middle of a nodule-free lung that is searched: with the hila and the great vessels."""
PATCHY_MM = (20.0, 5.0, 2.0)
"""Sizes of the patches of pneumonia."""
DENSE = 0.2
"""Share of the lung that is dense in it."""
SLICES_MM = (3, 5)
NOISE_HU = (40, 80)
"""Standard deviation of noise that is added, correlated over a voxel or so as a scanner's is."""
GROWN = 2.5
"""Times the size, of nodules of 12 mm and more."""
GROWN_FROM_MM = 12.0


@dataclass(frozen=True, eq=False)
class Shown:
    """Something that the network is shown as a nodule.

    Attributes:
        patient: whose scan it is from.
        image: (z, y, x) 0…1, with the tissue around.
        mask: the same shape, not empty.
        spacing_zyx: mm.
    """

    patient: str
    image: NDArray[np.float32]
    mask: Bool
    spacing_zyx: tuple[float, float, float]


Maker = Callable[[], Iterator[Shown]]


def kinds(
    cubes: Cubes, stacks: Stacks, scans: Mapping[str, Volume], marks: Marks, outlines: Outlines
) -> Mapping[str, Maker]:
    """Name of a kind → what makes it.

    Args:
        cubes: to search, and whose nodules are altered.
        stacks: whose nodules are grown.
        scans: of nodule-free lungs, by patient.
        marks, outlines: of the program, without the patient.
    """
    thick = {f"nodules in slices of {mm} mm": partial(in_thick_slices, cubes, mm) for mm in SLICES_MM}
    noisy = {f"nodules in noise of {hu} HU": partial(in_noise, cubes, hu) for hu in NOISE_HU}
    return {
        "marks on no nodule, in cubes": partial(marks_in_cubes, cubes, marks, outlines),
        "marks on no nodule, in nodule-free lungs": partial(marks_in_lungs, scans, marks, outlines),
        "marks in painted pneumonia": partial(marks_in_pneumonia, scans, marks, outlines),
        **thick,
        **noisy,
        f"nodules grown {GROWN:g} times": partial(grown, stacks),
    }


def marks_in_cubes(cubes: Cubes, marks: Marks, outline: Outlines) -> Iterator[Shown]:
    """The most certain marks more than 5 mm from what anyone has outlined: mostly vessels."""
    for n in range(0, len(cubes), ONE_CUBE_IN):
        patient, hu, away = cubes.patients[n], cubes.hu(n), cubes.negative(n)
        volume = Volume(hu, GRID)
        found = marks(patient)(volume, searched(cubes, n, hu))
        false = [mark for mark in found if _inside(volume, mark, away)]
        yield from _outlined(patient, volume, false[:IN_CUBE], outline)


def marks_in_lungs(scans: Mapping[str, Volume], marks: Marks, outline: Outlines) -> Iterator[Shown]:
    """The most certain marks in the middle of nodule-free lungs.

    Args:
        scans: of these, by patient.
    """
    for patient, scan in scans.items():
        volume, lung = _middle(scan)
        found = marks(patient)(volume, lung)
        found = [mark for mark in found if not Background.is_unannotated(patient, mark.centre_lps)]
        yield from _outlined(patient, volume, found[:IN_LUNG], outline)


def marks_in_pneumonia(scans: Mapping[str, Volume], marks: Marks, outline: Outlines) -> Iterator[Shown]:
    """The most certain marks in and beside dense lung that is painted into the middle of nodule-free lungs."""
    for seed, (patient, scan) in enumerate(scans.items()):
        before, lung = _middle(scan)
        volume, dense = pneumonia(before, lung, np.random.default_rng(seed))
        near = ndimage.binary_dilation(dense, iterations=2)
        found = [mark for mark in marks(patient)(volume, lung) if _inside(volume, mark, near)]
        yield from _outlined(patient, volume, found[:IN_LUNG], outline)


def pneumonia(volume: Volume, lung: Bool, rng: np.random.Generator) -> tuple[Volume, Bool]:
    """Patches of consolidation with ground glass around them, larger bronchi open.

    Args:
        lung: (z, y, x) of the volume, where they may be.

    Returns:
        The altered CT, and where it is dense.
    """
    spacing = volume.geometry.spacing_zyx
    field = sum(_smooth(lung.shape, mm, spacing, rng) / 2**k for k, mm in enumerate(PATCHY_MM))
    share = np.clip((field - np.quantile(field[lung], 1 - DENSE)) / 0.4, 0, 1)
    tissue = -20 + 40 * _smooth(lung.shape, 0.8, spacing, rng)
    hu = np.asarray(volume.hu, dtype=np.float32)
    mixed = np.maximum(hu, (1 - share) * hu + share * tissue)
    painted = np.where(lung & (hu > -960), mixed, hu)
    return Volume(painted.astype(np.float32), volume.geometry), np.asarray(lung & (share > 0))


def in_thick_slices(cubes: Cubes, slice_mm: int) -> Iterator[Shown]:
    """Nodules whose slices of 1 mm are averaged."""
    for shown in _nodules(cubes):
        whole = len(shown.image) // slice_mm * slice_mm
        both = (shown.image[:whole], shown.mask[:whole].astype(np.float32))
        image, share = (block_means(part, (slice_mm, 1, 1)) for part in both)
        if (share >= 0.5).any():
            yield Shown(shown.patient, image, share >= 0.5, (float(slice_mm), 1.0, 1.0))


def in_noise(cubes: Cubes, noise_hu: float) -> Iterator[Shown]:
    """Nodules with more noise."""
    rng = np.random.default_rng(0)
    for shown in _nodules(cubes):
        noise = noise_hu * _smooth(shown.mask.shape, 0.6, shown.spacing_zyx, rng)
        yield Shown(shown.patient, to_unit(from_unit(shown.image) + noise), shown.mask, shown.spacing_zyx)


def grown(stacks: Stacks) -> Iterator[Shown]:
    """Nodules enlarged beyond those that readers outlined."""
    for n in stacks.nodules.tolist():
        if stacks.readers(n) >= 3 and stacks.diameter_mm(n) >= GROWN_FROM_MM:
            z, y, x = (GROWN * mm for mm in stacks.spacing_zyx(n))
            yield Shown(stacks.patients[n], stacks.unit(n), stacks.truth(n), (z, y, x))


def _nodules(cubes: Cubes) -> Iterator[Shown]:
    for n in range(0, len(cubes), ONE_CUBE_IN):
        if cubes.truth(n).any():
            yield Shown(cubes.patients[n], cubes.unit(n), cubes.truth(n), cubes.spacing_zyx(n))


def _middle(scan: Volume) -> tuple[Volume, Bool]:
    """The middle of the lungs' height, and what of it is searched."""
    lung = search_region(segment_lungs(scan), margin_mm=0.0)
    box = Box.of_mask(lung)
    half = round(SLAB_MM / 2 / scan.geometry.spacing_zyx[0])
    centre = (box.start[0] + box.stop[0]) // 2
    slab = Box((centre - half, 0, 0), (centre + half, *lung.shape[1:])).clipped(lung.shape)
    return scan.crop(slab), np.ascontiguousarray(lung[slab.slices])


def _inside(volume: Volume, mark: Candidate, where: Bool) -> bool:
    index = np.round(volume.geometry.to_index(mark.centre_lps)).astype(int)
    return bool(where[tuple(np.clip(index, 0, np.subtract(where.shape, 1)))])


def _outlined(patient: str, volume: Volume, marks: Sequence[Candidate], outline: Outlines) -> Iterator[Shown]:
    """Marks as the program outlines them; those without an outline are left out."""
    image, spacing = to_unit(volume.hu), volume.geometry.spacing_zyx
    for mark in marks:
        mask = outlined(outline(patient), volume, prompt_of_candidate(volume, mark))
        if mask.any():
            rows = Box.of_mask(mask).slices[0]
            yield Shown(patient, image[rows], mask[rows], spacing)


def _smooth(
    shape: tuple[int, ...], mm: float, spacing_zyx: Sequence[float], rng: np.random.Generator
) -> NDArray[np.float32]:
    """A random field of mean 0 and standard deviation 1 that varies over so many mm."""
    field = ndimage.gaussian_filter(rng.normal(size=shape).astype(np.float32), [mm / s for s in spacing_zyx])
    return np.asarray(field / field.std(), dtype=np.float32)
