"""What a nodule is, from a mark in the lungs to a measured, graded finding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nodulens.errors import BadOption

Side = Literal["left", "right"]
Texture = Literal["solid", "part-solid", "ground-glass"]
Rating = Literal["spiculation", "lobulation", "margin", "texture", "sphericity", "calcification"]
"""Ratings of LIDC-IDRI's readers that say how a nodule looks."""
Point = tuple[float, float, float]


@dataclass(frozen=True)
class Box:
    """A half-open box of array indices: ``start <= index < stop`` in (z, y, x).

    Raises:
        BadOption: a side of no length, or not three numbers.
    """

    start: tuple[int, int, int]
    stop: tuple[int, int, int]

    def __post_init__(self) -> None:
        start = tuple(int(v) for v in self.start)
        stop = tuple(int(v) for v in self.stop)
        if len(start) != 3 or len(stop) != 3:
            raise BadOption("A box needs three start and three stop indices (z, y, x).")
        if any(b <= a for a, b in zip(start, stop, strict=True)):
            raise BadOption(f"A box must have start < stop on every axis, got {start} to {stop} (z, y, x).")
        object.__setattr__(self, "start", start)
        object.__setattr__(self, "stop", stop)

    @classmethod
    def around(cls, centre_zyx: ArrayLike, shape: Sequence[int] | NDArray[np.int_]) -> Box:
        """The box of ``shape`` voxels whose centre is nearest to a continuous index."""
        centre = np.asarray(centre_zyx, dtype=np.float64)
        size = np.asarray(shape, dtype=int)
        start = np.floor(centre - (size - 1) / 2 + 0.5).astype(int)
        return cls(_triple(start), _triple(start + size))

    @classmethod
    def between(cls, start: ArrayLike, stop: ArrayLike) -> Box:
        """The box from one whole index to another, such as rows of an array."""
        return cls(_triple(np.asarray(start)), _triple(np.asarray(stop)))

    @classmethod
    def of_mask(cls, mask: NDArray[np.bool_]) -> Box:
        """The smallest box around the true voxels of a mask (z, y, x).

        Raises:
            BadOption: the mask is empty.
        """
        if not mask.any():
            raise BadOption("An empty mask has no box.")
        z = np.flatnonzero(mask.any(axis=(1, 2)))
        plane = np.asarray(mask[z[0] : z[-1] + 1].any(axis=0))
        lines = z, np.flatnonzero(plane.any(axis=1)), np.flatnonzero(plane.any(axis=0))
        return cls(_triple([line[0] for line in lines]), _triple([line[-1] + 1 for line in lines]))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Side lengths in voxels (z, y, x)."""
        return _triple([b - a for a, b in zip(self.start, self.stop, strict=True)])

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """Slices for indexing an array, which must contain the box."""
        (a, b, c), (d, e, f) = self.start, self.stop
        return slice(a, d), slice(b, e), slice(c, f)

    @property
    def centre_zyx(self) -> Point:
        """Continuous index of the middle."""
        z, y, x = ((a + b - 1) / 2 for a, b in zip(self.start, self.stop, strict=True))
        return z, y, x

    def grown(self, margin_zyx: Sequence[int]) -> Box:
        """The box with ``margin`` voxels more on both sides of each axis."""
        return Box(
            _triple([a - m for a, m in zip(self.start, margin_zyx, strict=True)]),
            _triple([b + m for b, m in zip(self.stop, margin_zyx, strict=True)]),
        )

    def clipped(self, shape: Sequence[int]) -> Box:
        """The part inside an array of ``shape``.

        Raises:
            BadOption: nothing is left.
        """
        return Box(
            _triple([max(a, 0) for a in self.start]),
            _triple([min(b, n) for b, n in zip(self.stop, shape, strict=True)]),
        )


def _triple(values: Sequence[int] | NDArray[np.int_]) -> tuple[int, int, int]:
    a, b, c = (int(v) for v in values)
    return a, b, c


def opposite(side: Side) -> Side:
    """The other side."""
    return "right" if side == "left" else "left"


NO_OUTLINE = "It has no outline, as that grew beyond any nodule: what is measured is a ball of the mark's size."
"""The warning of a finding that is a mark alone."""
OUTSIDE = "Most of it is outside the lungs as segmented: its side, lobe and zone are those of the lung beside it."
"""The warning of what may be no nodule of the lung."""


@dataclass(frozen=True)
class Candidate:
    """A place that may be a nodule.

    Attributes:
        centre_lps: LPS mm (x, y, z).
        diameter_mm: rough size, from the scale that answered most strongly.
        score: probability-like, 0…1; NaN before it is scored.
    """

    centre_lps: Point
    diameter_mm: float
    score: float = float("nan")


@dataclass(frozen=True)
class Measurements:
    """Numbers about one nodule, each with its unit in its name.

    Attributes:
        long_axis_mm: longest in-plane diameter on the axial slice where it is largest.
        short_axis_mm: longest diameter at right angles to the long axis on that slice.
        mean_diameter_mm: mean of the two.
        max_diameter_3d_mm: longest distance between two points of the surface.
        volume_mm3: volume inside the half-way surface.
        equivalent_diameter_mm: diameter of the ball of that volume.
        surface_mm2: area of the surface.
        sphericity: surface of the ball of equal volume over the surface; 1 for a ball.
        mean_hu, std_hu: over the mask.
        p5_hu, p50_hu, p95_hu: percentiles over the mask.
        solid_share: share of the volume denser than the solid threshold, 0…1.
        solid_diameter_mm: mean diameter of the largest solid part; 0 without one.
        distance_to_pleura_mm: from the mask's nearest voxel to the edge of the lung; 0 where it touches.
    """

    long_axis_mm: float
    short_axis_mm: float
    mean_diameter_mm: float
    max_diameter_3d_mm: float
    volume_mm3: float
    equivalent_diameter_mm: float
    surface_mm2: float
    sphericity: float
    mean_hu: float
    std_hu: float
    p5_hu: float
    p50_hu: float
    p95_hu: float
    solid_share: float
    solid_diameter_mm: float
    distance_to_pleura_mm: float


@dataclass(frozen=True)
class Risk:
    """The malignancy risk of a nodule.

    Attributes:
        probability: that readers' median malignancy rating is above 3 rather than below, 0…1.
        interval: lower and upper end; the card of ``model`` gives its definition and coverage.
        calibrated: whether the probability was calibrated on patients left out, on nodules such as this one.
        model: name of the weights.
        doubts: sentences, why the estimate must not be trusted; empty where nothing is known against it.
    """

    probability: float
    interval: tuple[float, float]
    calibrated: bool
    model: str
    doubts: tuple[str, ...] = ()

    @property
    def trusted(self) -> bool:
        """Whether nothing is known against the estimate."""
        return not self.doubts

    def doubted(self, *doubts: str) -> Risk:
        """The same risk with more doubts; one with any is not calibrated."""
        every = (*self.doubts, *doubts)
        return replace(self, calibrated=self.calibrated and not every, doubts=every)


@dataclass(frozen=True)
class Attribute:
    """How readers would rate one thing about a nodule's look: a prediction, not a measurement.

    Attributes:
        name: of LIDC's rating.
        rating: the mean of readers' ratings that the network expects, on LIDC's scale: 1…5, calcification 1…6.
        words: what a radiologist calls a nodule of that rating, such as "spiculated".
    """

    name: Rating
    rating: float
    words: str


@dataclass(frozen=True)
class Position:
    """Where in the lungs.

    Attributes:
        side: by geometry, LPS.
        zone: upper, middle or lower third of that lung's height; "unknown" if the scan shows too little of the lung.
        lobe_estimate: estimated from position alone, without fissures; "unknown" likewise.
        central_slice: array index z of the slice where the nodule is largest.
        instance_number, sop_instance_uid: of that slice in the PACS; None where the format has none.
        hilum_to_edge_estimate: how far on the way from the hilum through it to the edge of the lung, 0…1; the hilum is
            estimated from position alone. None if the scan ends inside that lung.
    """

    side: Side
    zone: Literal["upper", "middle", "lower", "unknown"]
    lobe_estimate: str
    central_slice: int
    instance_number: int | None = None
    sop_instance_uid: str | None = None
    hilum_to_edge_estimate: float | None = None


@dataclass(frozen=True)
class Nodule:
    """One finding, complete.

    Attributes:
        id: 1, 2, …: the label value in ``nodules.nii.gz``.
        score: detection confidence, 0…1; 1 for a prompt by a person.
        centre_lps: centroid of the mask, LPS mm (x, y, z).
        box: around the mask, in indices of the volume as read.
        attributes: how readers would rate its look; those that the network predicts well enough.
        volume_interval_mm3: volumes inside the inner and outer edge of the band that holds four in five readers'
            outlines; None where the prompted network did not outline it.
        warnings: what limits this finding's measurements.
        mask: bool, shape ``box.shape``; None in a report read back from JSON, and not compared.
        heat: float32 0…1, same shape: how far the network's malignancy score falls when that part is covered; None
            where not computed.
    """

    id: int
    score: float
    centre_lps: Point
    box: Box
    texture: Texture
    position: Position
    measurements: Measurements
    risk: Risk | None
    attributes: tuple[Attribute, ...] = ()
    volume_interval_mm3: tuple[float, float] | None = None
    warnings: tuple[str, ...] = ()
    mask: NDArray[np.bool_] | None = field(default=None, compare=False, repr=False)
    heat: NDArray[np.float32] | None = field(default=None, compare=False, repr=False)

    @property
    def outlined(self) -> bool:
        """Whether its size is that of an outline; else that of the detector's mark."""
        return NO_OUTLINE not in self.warnings
