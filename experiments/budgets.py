"""How long a network may learn in a cell of the table of results, in place of what its recipe says; and what ships in
place of the recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Budget:
    """What the networks of the table are trained with, in place of what their recipes say.

    Attributes:
        networks: name of a network → settings of its config. Minutes are a limit for slow machines: an epoch that has
            started is finished, none is started after them.
        copies: changed ones of every row, where classes are split after augmentation.
        renderings: how often nodules are rendered into each background; None: as often as the recipe says.
        epochs: of every network, whatever its settings and those of a cell say; None: as they say.
    """

    networks: Mapping[str, Mapping[str, float | str]]
    copies: int = 3
    renderings: int | None = None
    epochs: int | None = None


BUDGET = Budget({
    "conv3": {"epochs": 12, "minutes": 30},
    "densenet121": {"epochs": 8, "minutes": 30},
    "efficientnet-b0": {"epochs": 8, "minutes": 30},
    "patch-cnn": {"minutes": 90},
    "se-aux-unet": {"epochs": 24, "window": 160, "precision": "mixed", "minutes": 240},
    "resnet50-unet": {
        "epochs": 8, "window": 128, "batch": 4, "learning_rate": 1e-3, "schedule": "cosine", "patience": 8,
        "minutes": 60,
    },
    "planned-unet": {"epochs": 40, "size": 256, "window": 256, "precision": "mixed", "minutes": 240},
})  # fmt: skip
SHIPPED: Mapping[str, tuple[str, ...]] = {
    "conv3-classifier.classifier": ("classifier.crop_scale=none",),
    "resnet-unet-patch-cnn.segmenter": (
        "segmenter.pretrained=efficientnet-lite0", "segmenter.loss=hybrid", "segmenter.epochs=24",
        "segmenter.patience=none", "segmenter.batch=8",
    ),
}  # fmt: skip
"""Networks, as ``RECIPE.PART``, that ship with other settings than the recipe's and the budget's, because the table has
better figures of them."""
