"""What a method is, as a value: change it with :func:`dataclasses.replace`."""

from __future__ import annotations

from dataclasses import dataclass


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
