"""The nine ratings of LIDC's readers for a nodule, and their pooling over readers."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from nodulens.errors import BadOption

RATINGS = (
    "subtlety", "internalStructure", "calcification", "sphericity", "margin", "lobulation", "spiculation", "texture",
    "malignancy",
)  # fmt: skip
Pooling = Literal["median", "mean", "majority"]


class Malignancy(IntEnum):
    """A nodule's class by its readers; 0, 1 and 2 are those of the three-class reading."""

    INDETERMINATE = 0
    BENIGN = 1
    MALIGNANT = 2
    NO_AGREEMENT = 3


@dataclass(frozen=True)
class Ratings:
    """Readers' ratings of nodules.

    Attributes:
        readers: (N,) how many outlined the nodule.
        values: (N, R, 9) in the order of :data:`RATINGS`, 0 where there is no reader; R is 4, or more where a nodule
            has more.
    """

    readers: NDArray[np.uint8]
    values: NDArray[np.uint8]

    def of(self, name: str) -> NDArray[np.uint8]:
        """(N, R) one of the nine, 0 where there is no reader."""
        return np.asarray(self.values[:, :, RATINGS.index(name)])

    def mean(self, name: str) -> NDArray[np.float32]:
        """(N,) mean over readers, 0 without a rating."""
        v = self.of(name).astype(np.float32)
        return np.asarray(v.sum(1) / np.maximum((v > 0).sum(1), 1), dtype=np.float32)

    def median(self, name: str) -> NDArray[np.float32]:
        """(N,) median over readers, 0 without a rating. Between two readers it may end in a half."""
        v = np.where(self.of(name) > 0, self.of(name), np.nan)
        rated = ~np.isnan(v).all(1)
        out = np.zeros(len(v), dtype=np.float32)
        out[rated] = np.nanmedian(v[rated], axis=1)
        return out

    def majority(self, name: str) -> NDArray[np.float32]:
        """(N,) the most frequent rating; 0 for a tie or without a rating."""
        votes = (self.of(name)[:, :, None] == np.arange(1, 7)).sum(1)
        first = votes == votes.max(1, keepdims=True)
        return np.where(first.sum(1) == 1, first.argmax(1) + 1, 0).astype(np.float32)

    def spread(self, name: str) -> NDArray[np.uint8]:
        """(N,) highest less lowest rating; 0 where fewer than two rated."""
        v = self.of(name)
        return np.asarray(v.max(1) - np.minimum(np.where(v > 0, v, 255).min(1), v.max(1)), dtype=np.uint8)

    def share_above(self, name: str, value: int) -> NDArray[np.float32]:
        """(N,) share of readers above ``value``; one who said just that counts half."""
        v = self.of(name).astype(np.float32)
        counted = ((v > value) + 0.5 * (v == value)) * (v > 0)
        return np.asarray(counted.sum(1) / np.maximum((v > 0).sum(1), 1), dtype=np.float32)

    def malignancy(self, by: Pooling = "median", *, too_far: int | None = None) -> NDArray[np.uint8]:
        """(N,) the :class:`Malignancy` of each nodule: below 3 benign, above 3 malignant, 3 indeterminate.

        Args:
            by: how several readers become one. By "majority" a tie is no agreement; a median or mean always exists.
            too_far: ratings this far apart or farther are no agreement, whatever their middle (4: a 1 against a 5);
                None lets every spread pass.

        Raises:
            BadOption: another ``by``.
        """
        if by not in get_args(Pooling):
            raise BadOption(f"Readers are pooled by median, mean or majority, not by {by!r}.")
        pooled = {"median": self.median, "mean": self.mean, "majority": self.majority}[by]("malignancy")
        classes = np.select(
            [pooled == 0, pooled < 3, pooled > 3],
            [Malignancy.NO_AGREEMENT, Malignancy.BENIGN, Malignancy.MALIGNANT],
            Malignancy.INDETERMINATE,
        ).astype(np.uint8)
        if too_far is not None:
            classes[self.spread("malignancy") >= too_far] = Malignancy.NO_AGREEMENT
        return classes


def three_classes(classes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """:class:`Malignancy` with "no agreement" counted as indeterminate: 0 indeterminate, 1 benign, 2 malignant."""
    return np.where(classes == Malignancy.NO_AGREEMENT, Malignancy.INDETERMINATE, classes).astype(np.uint8)
