"""What a method is, as a value: change it with :func:`dataclasses.replace`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Training:
    """How a network is trained.

    Attributes:
        epochs: passes over the material at most.
        learning_rate: the peak.
        optimizer: "sgd" has Nesterov momentum of 0.9.
        schedule: how the rate falls: "cosine" to 0; "polynomial" as (1 − done)^0.9; "step" to a tenth at one half and
            again at three quarters of the epochs; "plateau" by half whenever ``plateau`` epochs bring nothing better;
            "constant".
        warm_up: share of the epochs in which the rate rises to its peak.
        patience: epochs without anything better after which training stops, and the best weights are kept; None: it
            runs to its end, and the last weights are kept.
        minutes: training stops after the epoch that passes them.
        averaging: the weights kept are an exponential moving average with this decay; 0: the weights as they are.
        precision: "mixed" computes in half precision where that is safe (16 bits on a GPU, bfloat16 on a CPU).
    """

    epochs: int
    learning_rate: float = 2e-3
    optimizer: Literal["adam", "adamw", "sgd"] = "adamw"
    weight_decay: float = 1e-2
    schedule: Literal["cosine", "polynomial", "step", "plateau", "constant"] = "cosine"
    warm_up: float = 0.05
    plateau: int = 3
    patience: int | None = None
    minutes: float | None = None
    averaging: float = 0.99
    precision: Literal["single", "mixed"] = "single"
    seed: int = 0


@dataclass(frozen=True)
class Recipe:
    """How the stages of an analysis are set.

    Attributes:
        name: as reports say it.
        threshold: least score of a finding; None for the one on the detector's card.
        most_findings: findings reported at most, the most certain first.
        rounds_detected: how often the segmenter looks at a mark of the detector or a point at most, until the outline
            settles.
        rounds_drawn: how often at a box or mask that a person drew.
    """

    name: str = "default"
    threshold: float | None = None
    most_findings: int = 100
    rounds_detected: int = 12
    rounds_drawn: int = 1


DEFAULT = Recipe()
