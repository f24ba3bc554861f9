"""A recipe with its networks, ready to run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from nodulens.core.volume import Mask
from nodulens.errors import MissingWeights
from nodulens.methods.recipe import Recipe
from nodulens.report.record import WeightRef
from nodulens.runtime.engine import Model, Models
from nodulens.stages.prompted import Outline
from nodulens.stages.segment import segment

EVEN = 0.5
"""Least mean probability of a region, or of a place a filter is slid over, where a recipe names no threshold."""


@dataclass(frozen=True)
class Prompted:
    """A prompted network from outside, such as SAM2.

    Attributes:
        within: from the lungs of a scan, on its grid, to what outlines there at a prompt.
        weights: for the report.
    """

    within: Callable[[Mask], Outline]
    weights: WeightRef


@dataclass(frozen=True)
class Method:
    """A recipe with its networks.

    Raises:
        MissingWeights: a network of its own, or SAM, is not among them.
    """

    recipe: Recipe
    models: Models
    prompted: Prompted | None = None

    def __post_init__(self) -> None:
        recipe = self.recipe
        missing = sorted(recipe.networks.keys() - self.models.own.keys())
        if missing:
            raise untrained(recipe, missing)
        if recipe.prompted not in (None, "network") and self.prompted is None:
            raise MissingWeights(
                f"The recipe {recipe.name!r} outlines by {recipe.prompted}, and no such network was given. Fetch its "
                f"weights, hf download {recipe.checkpoint or 'NAME'}, and pass prompted=; the command line loads them "
                "itself. Or take our own network: prompted='network' in the recipe, --set prompted=network there."
            )

    @property
    def threshold(self) -> float:
        """Least score of a finding."""
        if self.recipe.threshold is not None:
            return self.recipe.threshold
        return float(self.models.volume.card.settings["threshold"]) if self.recipe.marks else EVEN

    def outline(self, lungs: Mask) -> Outline | None:
        """What outlines at a prompt in a scan with these lungs, on its grid; None where nothing is prompted."""
        if self.recipe.prompted is None:
            return None
        if self.prompted is not None:
            return self.prompted.within(lungs)
        return partial(segment, model=self.models.segmenter, rounds=self.recipe.rounds_detected)

    @property
    def classifier(self) -> Model:
        """What grades."""
        return self.models.own.get("classifier", self.models.malignancy)

    @property
    def weights(self) -> tuple[WeightRef, ...]:
        """Of all that takes part, in the order they work."""
        models, own = self.models, self.models.own
        finding = ("filter",) if self.recipe.sliding_window else ("segmenter", "filter")
        found = [own[name] for name in finding if name in own] or [models.patch, models.volume]
        if self.recipe.prompted is not None and self.prompted is None:
            found.append(models.segmenter)
        refs = [WeightRef(m.card.name, m.card.sha256) for m in (*found, self.classifier)]
        return (*refs, self.prompted.weights) if self.prompted else tuple(refs)


def untrained(recipe: Recipe, missing: Iterable[str]) -> MissingWeights:
    """What to say of a recipe whose networks are not there."""
    return MissingWeights(
        f"The recipe {recipe.name!r} has no weights for its {' and '.join(missing)}. Train it: nodulens train "
        f"{recipe.name} --data FOLDER -o RUN; then name RUN as the recipe."
    )
