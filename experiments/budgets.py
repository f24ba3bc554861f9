"""How long a network may learn in a cell of the table of results, in place of what its recipe says."""

from __future__ import annotations

from collections.abc import Mapping

BUDGETS: Mapping[str, Mapping[str, float | str]] = {
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
}  # fmt: skip
"""By network. Minutes are a limit for slow machines: an epoch that has begun is ended, none is begun after them."""
