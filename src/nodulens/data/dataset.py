"""What every data set looks like from outside: a list of items, and a sample for each.

Items are cheap and name their patient, so that splits, summaries and leakage checks never touch a pixel. Samples are
loaded one at a time.
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
    """One example, before anything of it is read.

    Attributes:
        key: names it within its data set; the same in every run.
        patient_id: whose it is; several items may share a patient.
        stratum: what a stratified split balances, such as a label or a number of nodules.
    """

    key: str
    patient_id: str
    stratum: str = ""


@dataclass(frozen=True, eq=False)
class Sample:
    """One example, read. Every array is (z, y, x); a slice is a volume of one slice.

    Attributes:
        item: what was asked for.
        image: float32, HU or 0…1 as ``unit`` says.
        unit: "hu", or "unit" for 0…1 over the range that the data set states.
        spacing_zyx: mm between voxel centres; None where the data set does not say.
        geometry: where it lies in the patient, axes rising towards superior, posterior and left as nearly as they
            can; None for pictures and crops whose place is unknown or must not be known.
        reader_masks: (readers, z, y, x) bool, one reader after the other; None where readers are not told apart.
        mask: bool, the nodules by consensus or as the data set draws them; None where it draws none.
        boxes: around each nodule, half-open; empty where there is no nodule, None where the data set does not say.
        label: 1 or 0, of what the data set asks (its docstring says); None where it asks nothing or has no answer.
        ratings: (readers, 9) uint8, 0 where a reader gave none, in the order of the reader masks; None without.

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
    """A data set: its items in a fixed order, and how one of them is read."""

    @property
    def name(self) -> str:
        """Short, for tables and split files."""
        ...

    def items(self) -> Sequence[Item]:
        """Every example, no pixel read."""
        ...

    def load(self, item: Item) -> Sample:
        """Read one example."""
        ...
