"""How much of the lungs that a chest should hold was searched, and what in them may hide nodules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nodulens.core.nodule import Side

OpacityKind = Literal["solid tissue", "fluid", "gas", "dense lung"]


@dataclass(frozen=True)
class SideCoverage:
    """One side of the chest.

    Attributes:
        searched_ml: volume of the lung mask.
        unsearched_ml: an estimate of what lung is likely to be there, in what was scanned, and lies outside the mask.
        unsearched_share: of both together, 0…1; 1 where no lung was found.
    """

    searched_ml: float
    unsearched_ml: float
    unsearched_share: float


@dataclass(frozen=True)
class Opacity:
    """What may hide nodules, on one side.

    Attributes:
        kind: "solid tissue" (consolidation, collapse, a large mass) and "fluid" by their density; "gas" without the
            structure of lung (pneumothorax, a large bulla); "dense lung", between lung and tissue (fibrosis, oedema,
            ground glass).
        side: of the chest.
        ml: volume, an estimate.
        share: of the lung that the side should hold, 0…1.
    """

    kind: OpacityKind
    side: Side
    ml: float
    share: float


@dataclass(frozen=True)
class Coverage:
    """What of the lungs was searched.

    Attributes:
        complete: nothing is known to be missing.
        reasons: sentences: what was not searched, and why; empty where complete.
        left, right: of what was scanned.
        opacities: what may hide nodules in what was searched, or lies where lung is missing.
    """

    complete: bool
    reasons: tuple[str, ...]
    left: SideCoverage
    right: SideCoverage
    opacities: tuple[Opacity, ...]

    def __post_init__(self) -> None:
        assert self.complete == (not self.reasons), "what is missing has a reason"

    @property
    def headline(self) -> str:
        """What was not searched, in a few words; empty where complete."""
        if self.complete:
            return ""
        missing = [
            f"{_amount(side.unsearched_share)} the {name} lung"
            for name, side in (("right", self.right), ("left", self.left))
            if side.unsearched_share > 0
        ]
        if not missing:
            return "The scan ends inside the lungs: what lies beyond was not searched"
        return f"{_capital(' and '.join(missing))} was not searched"


def _amount(share: float) -> str:
    """Such as "about 40 % of"; nothing where it is the whole."""
    if share > 0.95:
        return "all of"
    return f"about {max(5, 5 * round(20 * share))} % of"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
