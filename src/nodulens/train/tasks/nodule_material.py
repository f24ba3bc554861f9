"""Material of classification: the nodules of the stacks, benign or malignant by the readers' ratings.

Two classes: the readers' median below 3 against above 3, with 3 left out. Three classes: the majority's rating, and
indeterminate if that is 3, if no rating leads, or if readers are as far apart as 1 and 5. Six classes: the majority's
rating, and "0" if none leads or readers are so far apart. Training takes nodules of any
number of readers; evaluation has figures of those of three readers or more, and of all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nodulens.data.material import Stacks
from nodulens.data.ratings import Malignancy, three_classes
from nodulens.errors import BadOption
from nodulens.train.tasks.protocol import Material, Rows

MALIGNANT = "malignant"
TWO, THREE = {"benign", MALIGNANT}, {"indeterminate", "benign", MALIGNANT}
SIX = set("012345")
TOO_FAR = 4
"""Difference between two ratings from which readers do not agree: a 1 against a 5."""


@dataclass(frozen=True, eq=False)
class Nodules:
    """Nodules with a class; (N,) all, but ``classes``.

    Attributes:
        classes: their names.
        truth: number of the class in them.
        patient: of the nodule.
        origin: number of the nodule in the stacks: rows that share it show the same nodule.
        central: index of its largest slice in its stack.
        outline: (N, 96, 96) consensus of half of the readers there.
        pixel_mm: of that slice.
        diameter_mm: of the disc of the outline's area.
        readers: number who marked it.
        share: of the readers who rated malignancy above 3.
        calibration: code of the slice; never an input.
    """

    classes: tuple[str, ...]
    truth: NDArray[np.int_]
    patient: NDArray[np.str_]
    origin: NDArray[np.int_]
    central: NDArray[np.int_]
    outline: NDArray[np.bool_]
    pixel_mm: NDArray[np.float32]
    diameter_mm: NDArray[np.float32]
    readers: NDArray[np.uint8]
    share: NDArray[np.float32]
    calibration: NDArray[np.uint8]

    @property
    def patients(self) -> Sequence[str]:
        """(N,)."""
        return self.patient.tolist()

    @property
    def strata(self) -> Sequence[str]:
        """(N,) names of the classes."""
        return [self.classes[k] for k in self.truth]

    @property
    def items(self) -> Sequence[str]:
        """(N,) number of each nodule in the stacks."""
        return [f"nodule {n}" for n in self.origin]

    def take(self, rows: Rows) -> Nodules:
        """The nodules of some rows, which may repeat."""
        columns = {f.name: getattr(self, f.name)[rows] for f in fields(self) if f.name != "classes"}
        return replace(self, **columns)


@dataclass(frozen=True, eq=False)
class NoduleMaterial(Material):
    """Nodules with their classifier input; a row is a nodule."""

    nodules: Nodules

    @property
    def patients(self) -> Sequence[str]:
        """(N,)."""
        return self.nodules.patients

    @property
    def strata(self) -> Sequence[str]:
        """(N,) names of the classes."""
        return self.nodules.strata

    @property
    def items(self) -> Sequence[str]:
        """(N,) number of each nodule in the stacks."""
        return self.nodules.items


def load_nodules(data: Path, classes: tuple[str, ...]) -> tuple[Stacks, Nodules]:
    """The stacks of a data folder, and their nodules of the classes, see :func:`nodules_of`.

    Raises:
        NotFound: the folder has no stacks.
        BadOption: classes that no reader's rating gives.
    """
    stacks = Stacks(data)
    return stacks, nodules_of(stacks, classes)


def nodules_of(stacks: Stacks, classes: tuple[str, ...]) -> Nodules:
    """The nodules of the classes whose consensus (half of the readers) is not empty.

    Raises:
        BadOption: other classes than benign and malignant, with or without indeterminate, or 0 to 5.
    """
    ratings = stacks.ratings
    if set(classes) == TWO:
        names = [Malignancy(k).name.lower() for k in ratings.malignancy("median")]
    elif set(classes) == THREE:
        names = [Malignancy(k).name.lower() for k in three_classes(ratings.malignancy("majority", too_far=TOO_FAR))]
    elif set(classes) == SIX:
        apart = ratings.spread("malignancy") >= TOO_FAR
        names = [str(int(k)) for k in np.where(apart, 0, ratings.majority("malignancy"))]
    else:
        raise BadOption(
            f"Nodules are {' or '.join(sorted(TWO))}; one of {', '.join(sorted(THREE))}; or their rating, "
            f"{', '.join(sorted(SIX))} with 0 for no agreement. Got {', '.join(classes)}."
        )
    slices = ((n, stacks.central(n)) for n in stacks.nodules.tolist() if names[n] in classes)
    found = {n: central for n, central in slices if central is not None}
    origin = np.array(list(found))
    return Nodules(
        classes=classes,
        truth=np.array([classes.index(names[n]) for n in origin]),
        patient=np.array(stacks.patients)[origin],
        origin=origin,
        central=np.array([central.index for central in found.values()]),
        outline=np.stack([central.truth for central in found.values()]),
        pixel_mm=np.array([stacks.spacing_zyx(n)[1] for n in found], dtype=np.float32),
        diameter_mm=np.array([central.diameter_mm for central in found.values()], dtype=np.float32),
        readers=ratings.readers[origin],
        share=ratings.share_above("malignancy", 3)[origin],
        calibration=np.array([stacks.calibration(n)[central.index] for n, central in found.items()]),
    )
