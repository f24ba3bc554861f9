"""How a nodule looks, in the ratings of LIDC's readers: predicted by the malignancy network, and put in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from nodulens.core.nodule import Attribute, Rating
from nodulens.runtime.weights import Card

LEAST_AUC = 0.8
"""A rating is reported if left-out nodules rated above 3 were told from those below with at least this AUC."""


@dataclass(frozen=True)
class Scale:
    """A scale of LIDC, from 1.

    Attributes:
        top: the highest rating.
        words: (highest rating it stands for, what a radiologist calls it), rising.
    """

    top: int
    words: tuple[tuple[float, str], ...]

    def word(self, rating: float) -> str:
        """What a rating 1…``top`` is called."""
        return next(word for highest, word in self.words if rating <= highest)


SCALES: Mapping[Rating, Scale] = {
    "spiculation": Scale(
        5, ((2, "not spiculated"), (3, "slightly spiculated"), (4, "spiculated"), (5, "markedly spiculated"))
    ),
    "lobulation": Scale(
        5, ((2, "not lobulated"), (3, "slightly lobulated"), (4, "lobulated"), (5, "markedly lobulated"))
    ),
    "margin": Scale(
        5, ((2, "ill-defined"), (3, "rather ill-defined"), (4, "rather sharply defined"), (5, "sharply defined"))
    ),
    "texture": Scale(5, ((2, "non-solid"), (4, "part-solid"), (5, "solid"))),
    "sphericity": Scale(5, ((2, "linear"), (4, "ovoid"), (5, "round"))),
    "calcification": Scale(6, ((5, "calcified"), (6, "not calcified"))),
}
"""1 is none of spiculation and lobulation, a poorly defined margin, non-solid and linear; 6 is absent calcification,
1 to 5 are its patterns."""


def predictable(card: Card) -> dict[Rating, float]:
    """The ratings that a network predicts well enough to be reported → AUC on patients left out, from its card."""
    measured = card.figures.get("attributes", {})
    return {name: one["auc"] for name, one in measured.items() if one["auc"] is not None and one["auc"] >= LEAST_AUC}


def predicted(logits: NDArray[np.floating], card: Card) -> tuple[Attribute, ...]:
    """The :func:`predictable` ratings of a nodule.

    Args:
        logits: (outputs,) of the network, named by ``outputs`` of the card's settings. The logistic function of one is
            the readers' mean on the scale's 0…1, as in training.
        card: of the network.
    """
    found = []
    for name in predictable(card):
        scale = SCALES[name]
        share = float(special.expit(float(logits[card.settings["outputs"].index(name)])))
        rating = 1 + (scale.top - 1) * share
        found.append(Attribute(name, rating, scale.word(rating)))
    return tuple(found)
