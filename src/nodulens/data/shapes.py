"""Bodies of nodules: slice-wise outlines and ratings as one closed surface.

A renderer needs no pixel of the nodule, only its outline and ratings; but these too are of patients. Only outlines of
the patients of the nodule stacks without the evaluation patients are used, see :func:`check_allowed`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from nodulens.core.geometry import Geometry, ball_diameter_mm
from nodulens.core.nodule import Box, Point
from nodulens.data.folds import EVALUATION_PATIENTS, fold_of, may_train
from nodulens.data.material import Stacks
from nodulens.data.ratings import RATINGS
from nodulens.errors import BadOption
from nodulens.ops.resample import resample_array

Float = NDArray[np.float32]

CAP = 0.75
"""Height of the caps above and below, in slice spacings: half an ellipsoid of it has the volume of half a slice."""
SMOOTH_PX = 0.6
"""Smoothing of the pixel steps of an outline."""
FAR_MM = 4.0
"""Margin around a body in which distances are computed; beyond it they are at least this."""
READERS_OUTSIDE_MM = 0.05
"""LIDC's readers draw around nodules: the half-way surface is this far inside their consensus."""
FINE = 4
"""Planes in a slice spacing."""


@dataclass(frozen=True, eq=False)
class Shape:
    """The outline and ratings of one nodule.

    Args:
        share: (z, y, x) 0…1, the share of its readers whose mask contains each pixel; the body is where it is at least
            one half. The axes rise towards superior, posterior and left. Made read-only.
        spacing_zyx: mm. Increase it to enlarge the nodule.
        ratings: LIDC's name of a rating → its median over the readers; 0 or absent without one.
        patient: of the nodule; "" for a synthetic one.
        outside_mm: distance of the outline outside the nodule's visible surface.

    Raises:
        BadOption: no pixel reaches one half, or the patient is an evaluation patient.
    """

    share: Float
    spacing_zyx: tuple[float, float, float]
    ratings: Mapping[str, float]
    patient: str
    outside_mm: float = 0.0

    def __post_init__(self) -> None:
        if self.patient in EVALUATION_PATIENTS:
            raise BadOption(
                f"{self.patient} is kept for evaluation: its outlines must not be rendered. Take another patient's."
            )
        share = np.array(self.share, dtype=np.float32)
        if share.ndim != 3 or not bool((share >= 0.5).any()):
            raise BadOption(
                f"The outline of a nodule of {self.patient or 'no patient'} holds nothing: no pixel of the array of "
                f"shape {share.shape} (z, y, x) is shared by half of the readers."
            )
        share.setflags(write=False)
        object.__setattr__(self, "share", share)
        object.__setattr__(self, "spacing_zyx", tuple(float(s) for s in self.spacing_zyx))

    @property
    def body(self) -> NDArray[np.bool_]:
        """(z, y, x): at least half of the readers."""
        return np.asarray(self.share >= 0.5)

    @property
    def volume_mm3(self) -> float:
        """Area times slice spacing, summed."""
        return float(self.body.sum() * np.prod(self.spacing_zyx))

    @property
    def diameter_mm(self) -> float:
        """Diameter in mm of the ball of that volume."""
        return ball_diameter_mm(self.volume_mm3)

    def reach_mm(self, direction: NDArray[np.float64]) -> NDArray[np.float64]:
        """Extent of the body from its centroid along unit vectors, the columns of ``direction`` (LPS), in either sense:
        mm, caps and half a pixel included."""
        index = np.argwhere(self.body)
        mm = np.asarray(self.spacing_zyx)
        away = ((index - index.mean(0)) * mm)[:, ::-1] @ direction
        return np.asarray(np.abs(away).max(axis=0) + np.abs((mm * (CAP, 1, 1))[::-1] @ np.abs(direction)))

    def turned(self, rng: np.random.Generator) -> Shape:
        """A random one of the sixteen rotations and reflections that preserve the body's axis."""
        share = np.rot90(self.share, int(rng.integers(4)), (1, 2))
        share = np.flip(share, tuple(axis for axis in (0, 2) if rng.random() < 0.5))
        depth, row, column = self.spacing_zyx
        swapped = share.shape[1:] != self.share.shape[1:]
        return replace(self, share=share, spacing_zyx=(depth, column, row) if swapped else self.spacing_zyx)

    def distance_at(self, centre_lps: Point, points: Geometry) -> Float:
        """Signed distance in mm from the points of a grid to the surface, negative inside.

        Between slices the distances in the plane are interpolated (Raya and Udupa 1990, IEEE Trans Med Imaging 9:32);
        above the last slice and below the first the body closes as half an ellipsoid.

        Args:
            centre_lps: of the body's centroid.
            points: any grid, at any angle.

        Returns:
            float32 of ``points.shape``; accurate to first order close to the surface.
        """
        planes, own = self._planes(centre_lps)
        field = np.minimum(resample_array(planes, own, points, fill=FAR_MM), FAR_MM)
        steep = np.square(np.gradient(field, *points.spacing_zyx)).sum(axis=0) if min(points.shape) > 1 else 1.0
        return np.asarray(field / np.sqrt(np.maximum(steep, 1.0)), dtype=np.float32)

    def _planes(self, centre_lps: Point) -> tuple[Float, Geometry]:
        """Distances in the plane, with the caps as further planes, and their grid.

        Each slice spacing has :data:`FINE` planes, to follow the curve of the caps.
        """
        mm = np.asarray(self.spacing_zyx)
        above, *beside = (int(np.ceil(FAR_MM / s)) for s in mm)
        inner = np.pad(self.share[Box.of_mask(self.body).slices], ((0, 0), *((n, n) for n in beside)))
        flat = np.stack([_flat_distance(plane, mm[1:]) for plane in inner])
        last = len(flat) - 1
        heights = np.arange(-(above + 1) * FINE, (last + above + 1) * FINE + 1) / FINE
        lower = np.clip(np.floor(heights), 0, max(last - 1, 0)).astype(int)
        part = np.clip(heights - lower, 0, 1)[:, None, None].astype(np.float32)
        planes = flat[lower] * (1 - part) + flat[np.minimum(lower + 1, last)] * part
        over = np.maximum(np.maximum(-heights, heights - last), 0) / CAP
        sunk = -planes.min(axis=(1, 2)) * (1 - np.sqrt(np.maximum(1 - over**2, 0)))
        planes += (sunk + np.maximum(over - 1, 0) * CAP * mm[0])[:, None, None].astype(np.float32)
        filled = np.clip(0.5 - planes / float(mm[1:].mean()), 0, 1)
        step = (mm[0] / FINE, mm[1], mm[2])
        x, y, z = np.asarray(centre_lps) - (np.asarray(ndimage.center_of_mass(filled)) * step)[::-1]
        shape = (len(planes), planes.shape[1], planes.shape[2])
        return planes, Geometry.axial(shape, step, (float(x), float(y), float(z)))


def _flat_distance(share: Float, pixel_mm: NDArray[np.float64]) -> Float:
    """Signed distance in mm to the smoothed outline of one slice (y, x), negative inside.

    A slice without a pixel of the body is outside by about the size of the largest section it might have.
    """
    inside = share >= 0.5
    if not inside.any():
        return np.full(share.shape, float(pixel_mm.mean()), dtype=np.float32)
    half = 0.5 * float(pixel_mm.mean())
    out = ndimage.distance_transform_edt(~inside, sampling=pixel_mm) - half
    out = np.where(inside, half - ndimage.distance_transform_edt(inside, sampling=pixel_mm), out)
    return np.asarray(ndimage.gaussian_filter(out, SMOOTH_PX), dtype=np.float32)


def stack_shapes(stacks: Stacks, left_out: int | None = None) -> dict[int, Shape]:
    """The outlines of the nodule stacks that may be used in training, by their number in the file.

    Nodules with an empty consensus of half of the readers are left out.

    Args:
        stacks: as read; their pixels are not used.
        left_out: the fold whose patients are left out; None for none.
    """
    medians = {name: stacks.ratings.median(name) for name in RATINGS}
    out = {}
    for n in stacks.nodules[may_train([stacks.patients[n] for n in stacks.nodules], left_out)]:
        share = stacks.share(n)
        if (share >= 0.5).any():
            rated = {name: float(values[n]) for name, values in medians.items()}
            out[int(n)] = Shape(share, stacks.spacing_zyx(n), rated, stacks.patients[n], READERS_OUTSIDE_MM)
    return out


def check_allowed(patients: Iterable[str], known: Collection[str], left_out: int | None = None) -> None:
    """Refuse outlines of patients that may not train.

    The annotation database has all patients, including those kept for independent evaluation. Only outlines of patients
    of the nodule stacks may be used, without the evaluation patients and the fold left out.

    Args:
        patients: of the outlines.
        known: the patients of the nodule stacks.
        left_out: the test fold of the networks trained on these outlines; None: all may be used.

    Raises:
        BadOption: a patient may not be used; the message says which, and why.
    """
    for patient in dict.fromkeys(patients):
        if patient in EVALUATION_PATIENTS:
            why = "is kept for evaluation"
        elif patient not in known:
            why = "is not among the patients of the nodule stacks"
        elif fold_of(patient) == left_out:
            why = f"belongs to fold {left_out}, which is left out"
        else:
            continue
        raise BadOption(f"{patient} {why}: its outlines must not be rendered. Leave it out with data.folds.may_train.")
