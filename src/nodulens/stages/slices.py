"""Networks that segment whole axial slices: their input, their output on the scan's grid, and the findings in it.

Training and inference share this file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from nodulens.core.geometry import Geometry
from nodulens.core.nodule import Box
from nodulens.core.volume import Mask, Volume
from nodulens.errors import BadOption
from nodulens.ops.components import components, dilated
from nodulens.ops.intensity import to_unit
from nodulens.ops.resample import resample_array
from nodulens.runtime.engine import Model
from nodulens.stages.findings import Finding
from nodulens.stages.thorax import Body

Float32 = NDArray[np.float32]
Bool = NDArray[np.bool_]

BACKGROUND, NODULE, NON_NODULE = "background", "nodule", "non-nodule"
BACKGROUNDS = (BACKGROUND, NON_NODULE)
"""Names of the class of all other pixels: where one is the first class, classes are mutually exclusive."""
WHOLE_PX = 512
"""Side of a whole slice."""
CHUNK = 8
"""Slices at a time: the feature maps of a network take some 60 times as much memory."""
LEAST_MM = 3.0
"""A region smaller than a ball of this diameter is a speck."""
MARGIN_MM = 3.0
"""How far outside the lungs a region may be."""


@dataclass(frozen=True)
class Field:
    """The input of a network of whole slices, and the meaning of its outputs.

    Attributes:
        size: side of its square input in pixels.
        classes: with one of :data:`BACKGROUNDS` first they are mutually exclusive (softmax), else independent
            (sigmoid).
        pixel_mm: pixel size of its input; None: the scan's own, with the whole slice resampled to ``size`` if it is
            larger.

    Raises:
        BadOption: no class is called "nodule".
    """

    size: int
    classes: tuple[str, ...]
    pixel_mm: float | None = None

    def __post_init__(self) -> None:
        if NODULE not in self.classes:
            raise BadOption(f"One class of a network of whole slices is {NODULE!r}; it has {', '.join(self.classes)}.")

    @classmethod
    def of(cls, settings: dict[str, Any]) -> Field:
        """From the settings on a model's card; :meth:`settings` makes them."""
        return cls(int(settings["size"]), tuple(settings["classes"]), settings["pixel_mm"])

    @property
    def settings(self) -> dict[str, Any]:
        """For a model's card."""
        return {"size": self.size, "classes": list(self.classes), "pixel_mm": self.pixel_mm}

    @property
    def exclusive(self) -> bool:
        """Whether the classes are mutually exclusive."""
        return self.classes[0] in BACKGROUNDS

    @property
    def foreground(self) -> tuple[str, ...]:
        """The foreground classes: all but the background."""
        return self.classes[1:] if self.exclusive else self.classes

    def grid(self, geometry: Geometry) -> Geometry:
        """The grid of the input: (slices, size, size), the slice at its centre, pixels square."""
        sides, own = np.asarray(geometry.shape[1:]), np.asarray(geometry.spacing_zyx[1:])
        pixel = self.pixel_mm or max(float(own.min()), float((sides * own).max()) / self.size)
        step = pixel / own
        step[np.isclose(step, 1)] = 1  # the scan's own pixels are not resampled
        first = (sides - 1) / 2 - (self.size - 1) / 2 * step
        first = np.where(step == 1, np.floor(first), first)
        x, y, z = geometry.to_lps((0.0, first[0], first[1]))
        spacing = (geometry.spacing_zyx[0], float(step[0] * own[0]), float(step[1] * own[1]))
        return Geometry((geometry.shape[0], self.size, self.size), spacing, (x, y, z), geometry.direction)

    def input(self, hu: NDArray[Any], geometry: Geometry) -> Float32:
        """HU (slices, y, x) on ``geometry`` → 0…1 (slices, size, size), padded with air."""
        return np.asarray(resample_array(to_unit(hu), geometry, self.grid(geometry), fill=0))

    def outlines(self, masks: Bool, geometry: Geometry) -> Bool:
        """Masks (slices, y, x) on the grid of the input: pixels at least half filled, (slices, size, size)."""
        return np.asarray(resample_array(masks, geometry, self.grid(geometry), fill=0) >= 0.5)

    def exclusively(self, masks: Bool) -> Bool:
        """Masks (N, foreground classes, …) with one class a pixel if classes are exclusive: nodule before lung."""
        if not self.exclusive:
            return masks
        nodule = self.foreground.index(NODULE)
        apart = masks & ~masks[:, [nodule]]
        apart[:, nodule] = masks[:, nodule]
        return np.asarray(apart)

    def invert(self, values: Float32, geometry: Geometry) -> Float32:
        """Values (slices, size, size) → (slices, y, x) on ``geometry``; 0 beyond the field."""
        return np.asarray(resample_array(values, self.grid(geometry), geometry, fill=0))

    def probabilities(self, logits: Float32) -> Float32:
        """Logits (N, classes, …) → probabilities (N, foreground classes, …)."""
        if self.exclusive:
            return np.asarray(special.softmax(logits, axis=1)[:, 1:])
        return np.asarray(special.expit(logits))

    def decided(self, probabilities: Float32) -> Bool:
        """Probabilities (N, foreground classes, …) → masks; if they are exclusive, only the most probable class."""
        if not self.exclusive:
            return np.asarray(probabilities >= 0.5)
        best = probabilities.max(axis=1, keepdims=True)
        return np.asarray((probabilities == best) & (best > 1 - probabilities.sum(axis=1, keepdims=True)))


@dataclass(frozen=True, eq=False)
class Outlined:
    """The output of a network on a scan.

    Attributes:
        labels: 1 for the first foreground class, 2 for the next, …; where classes overlap, the later one.
        nodule: float16 0…1 (z, y, x), probability of a nodule.
    """

    labels: Mask
    nodule: NDArray[np.float16]


def segment_slices(
    volume: Volume,
    model: Model,
    field: Field,
    body: Body | None = None,
    progress: Callable[[float], None] = lambda done: None,
) -> Outlined:
    """Segment every axial slice of a scan.

    Args:
        volume: canonical orientation.
        model: (N, 1, size, size) → (N, classes, size, size) logits first.
        field: the model's input; ``Field.of(model.card.settings)``.
        body: of the scan. Networks that learnt on slices cropped to the chest take the patient table for lung, so
            they see air outside the body. None: nothing is replaced.
        progress: called with the share of the slices that are done.
    """
    geometry = volume.geometry
    labels = np.zeros(geometry.shape, dtype=np.uint8)
    nodule = np.zeros(geometry.shape, dtype=np.float16)
    for box in _chunks(geometry):
        where, piece = box.slices, geometry.crop(box)
        progress(box.start[0] / geometry.shape[0])
        hu = volume.hu[where] if body is None else body.alone(volume, box)
        values = field.probabilities(model.run(field.input(hu, piece)[:, None])[0])
        found = np.stack([field.invert(values[:, k], piece) for k in range(values.shape[1])], axis=1)
        for number, mask in enumerate(field.decided(found).swapaxes(0, 1), start=1):
            labels[where][mask] = number
        nodule[where] = found[:, field.foreground.index(NODULE)]
    return Outlined(Mask(labels, geometry, dict(enumerate(field.foreground, start=1))), nodule)


def _chunks(geometry: Geometry) -> Iterator[Box]:
    slices, rows, columns = geometry.shape
    for first in range(0, slices, CHUNK):
        yield Box((first, 0, 0), (min(first + CHUNK, slices), rows, columns))


def find_regions(outlined: Outlined, lungs: Mask | None, least_mm: float = LEAST_MM) -> list[Finding]:
    """The connected components of the nodule class in and at the lungs, the highest score first.

    A finding's score is the mean probability over its voxels. Components that touch by a corner are one.

    Args:
        outlined: by :func:`segment_slices`.
        lungs: on the same grid; at least half of a component must be within :data:`MARGIN_MM` of them. None: anywhere.
        least_mm: components smaller than a ball of this diameter are left out.
    """
    geometry = outlined.labels.geometry
    least = np.pi / 6 * least_mm**3 / geometry.voxel_mm3
    parts = components(outlined.labels.of(NODULE), 26)
    out = []
    for number in range(1, int((parts.sizes >= least).sum()) + 1):
        z, y, x = where = parts.slices[number - 1]
        box = Box((z.start, y.start, x.start), (z.stop, y.stop, x.stop))
        mask = parts.labels[where] == number
        if lungs is None or _mostly_near(lungs, box, mask):
            out.append(Finding(float(outlined.nodule[where][mask].mean(dtype=np.float64)), box, mask))
    return sorted(out, key=lambda finding: -finding.score)


def _mostly_near(lungs: Mask, box: Box, mask: Bool) -> bool:
    """Whether at least half of a component is within :data:`MARGIN_MM` of the lungs."""
    spacing = lungs.geometry.spacing_zyx
    around = box.grown([int(np.ceil(MARGIN_MM / s)) for s in spacing]).clipped(lungs.geometry.shape)
    close = dilated(lungs.labels[around.slices] > 0, MARGIN_MM, spacing)
    offset = np.subtract(box.start, around.start)
    inside = close[tuple(slice(o, o + n) for o, n in zip(offset, box.shape, strict=True))]
    return bool(2 * np.count_nonzero(mask & inside) >= np.count_nonzero(mask))
