"""Training settings of the default method's networks, and the sampling of examples."""

from __future__ import annotations

from dataclasses import dataclass

from nodulens.methods.recipe import Training


@dataclass(frozen=True, kw_only=True)
class DefaultTraining(Training):
    """The training of one of the default method's networks.

    Attributes:
        batch: examples a step.
        examples: number an epoch; None: as many as there are, sampled as the network's module says.
    """

    batch: int
    examples: int | None
