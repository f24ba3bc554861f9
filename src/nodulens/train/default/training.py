"""How a network of the default method is trained: the settings of every training, and how examples are drawn."""

from __future__ import annotations

from dataclasses import dataclass

from nodulens.methods.recipe import Training


@dataclass(frozen=True, kw_only=True)
class DefaultTraining(Training):
    """The training of one of the default method's networks.

    Attributes:
        batch: examples a step.
        examples: an epoch; None: as many as the material holds, each drawn as often as its module says.
    """

    batch: int
    examples: int | None
