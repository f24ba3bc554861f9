"""The interface of data sets: a list of items, and a sample for each.

Items are cheap and name their patient, so that splits, summaries and leakage checks read no pixel. Samples are loaded
one at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from nodulens.core.geometry import Geometry
from nodulens.core.nodule import Box
from nodulens.errors import BadGeometry

Unit = Literal["hu", "unit"]


@dataclass(frozen=True, order=True)
class Item:
    """One example, not loaded.

    Attributes:
        key: unique in its data set, and the same in every run.
        patient_id: several items may share a patient.
        stratum: for stratified splits, such as a label or a number of nodules.
    """

    key: str
    patient_id: str
    stratum: str = ""


@dataclass(frozen=True, eq=False)
class Sample:
    """One example, loaded. Every array is (z, y, x); a slice is a volume of one slice.

    Attributes:
        item: of the sample.
        image: float32, HU or 0…1 as ``unit`` says.
        unit: "hu", or "unit" for 0…1 over the range that the data set states.
        spacing_zyx: mm between voxel centres; None if unknown.
        geometry: in canonical orientation as nearly as possible; None for pictures and crops of unknown or hidden
            position.
        reader_masks: (readers, z, y, x) bool; None without masks by reader.
        mask: bool, the nodules by consensus or as the data set defines them; None without masks.
        boxes: bounding boxes of nodules, half-open; empty without a nodule, None if unknown.
        label: 1 or 0, as the data set's docstring defines it; None without one.
        ratings: (readers, 9) uint8, 0 for missing ones, in the order of the reader masks; None without ratings.

    Raises:
        BadGeometry: an array that is not of the image's shape.
    """

    item: Item
    image: NDArray[np.float32]
    unit: Unit
    spacing_zyx: tuple[float, float, float] | None = None
    geometry: Geometry | None = None
    reader_masks: NDArray[np.bool_] | None = None
    mask: NDArray[np.bool_] | None = None
    boxes: tuple[Box, ...] | None = None
    label: int | None = None
    ratings: NDArray[np.uint8] | None = None

    def __post_init__(self) -> None:
        shape = self.image.shape
        shapes = {
            "geometry": self.geometry and self.geometry.shape,
            "mask": None if self.mask is None else self.mask.shape,
            "reader masks": None if self.reader_masks is None else self.reader_masks.shape[1:],
        }
        wrong = [f"{name} {other}" for name, other in shapes.items() if other is not None and other != shape]
        if len(shape) != 3 or wrong:
            raise BadGeometry(f"{self.item.key}: image {shape} (z, y, x), {', '.join(wrong) or 'not three axes'}.")


class Dataset(Protocol):
    """A data set: its items in a fixed order, and how one is loaded."""

    @property
    def name(self) -> str:
        """Short name, for tables and split files."""
        ...

    def items(self) -> Sequence[Item]:
        """All examples, without reading pixels."""
        ...

    def load(self, item: Item) -> Sample:
        """Load one example."""
        ...
