"""A recipe with its networks, ready to run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from nodulens.core.nodule import Box
from nodulens.core.volume import Mask, Volume
from nodulens.errors import BadOption, MissingWeights
from nodulens.methods.recipe import Recipe
from nodulens.methods.shipped import INSTALL, released, shipped
from nodulens.report.record import WeightRef
from nodulens.runtime.engine import Model, Models
from nodulens.stages.classify import Grade, evaluate
from nodulens.stages.classify_crop import grade
from nodulens.stages.findings import grown
from nodulens.stages.prompted import Outline, PromptedNetwork
from nodulens.stages.prompts import DRAWN
from nodulens.stages.segment import DRAWN_ROUNDS, segment, volume_interval
from nodulens.stages.user_prompts import PlacedPrompt

EVEN = 0.5
"""Least mean probability of a region, or of a place a filter is slid over, where a recipe names no threshold."""


@dataclass(frozen=True)
class Prompted:
    """An external prompted network, such as SAM2.

    Attributes:
        within: from the lungs of a scan, on its grid, to the network there.
        weights: for the report.
    """

    within: Callable[[Mask], PromptedNetwork]
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
                f"The recipe {recipe.name!r} segments by {recipe.prompted}, and no such network was given. Fetch its "
                f"weights, hf download {recipe.checkpoint or 'NAME'}, then load the method by its name. "
                "Or take our own network: prompted='network' in the recipe, --set prompted=network in a command."
            )

    @property
    def threshold(self) -> float:
        """Least score of a finding."""
        if self.recipe.threshold is not None:
            return self.recipe.threshold
        return float(self.models.volume.card.settings["threshold"]) if self.recipe.detects else EVEN

    def outline(self, lungs: Mask) -> Outline | None:
        """What outlines at a prompt in a scan with these lungs, on its grid; None where nothing is prompted."""
        if self.recipe.prompted is None:
            return None
        if self.prompted is not None:
            return self.prompted.within(lungs)("box", None)
        return partial(segment, model=self.models.segmenter, rounds=self.recipe.rounds_detected)

    @property
    def finder(self) -> Method:
        """What finds and measures the nodules among which a text chooses: this method without an external prompted
        network, which is slow and is prompted only where the text says. Its candidates are outlined by our own network;
        the regions of its own segmenter are kept as they are."""
        if self.prompted is None:
            return self
        own = self.recipe.segmenter is not None and not self.recipe.sliding_window
        return replace(self, recipe=replace(self.recipe, prompted=None if own else "network"), prompted=None)

    def prompt_of(self, volume: Volume, box: Box) -> PlacedPrompt:
        """The box of a finding as a prompt, as a person draws it; grown as the recipe says for its own regions."""
        scale = 1.0 if self.recipe.detects else self.recipe.box_scale
        return PlacedPrompt(grown(box, scale, DRAWN).raised(volume.geometry.spacing_zyx))

    def check_prompted(self) -> None:
        """Check that there is a network to prompt.

        Raises:
            BadOption: there is none.
        """
        if self.recipe.prompted is None:
            raise BadOption(
                f"The method {self.recipe.name!r} has no prompted network: it keeps the masks of its segmenter. Take "
                "one that has, such as default, or set prompted=network."
            )

    def outline_given(self, volume: Volume, lungs: Mask, prompt: PlacedPrompt) -> tuple[Box, NDArray[np.bool_]]:
        """Segment what a person prompts, by a point, a box or a mask as it was given; our own network also takes clicks
        that correct the outline.

        Args:
            volume: canonical orientation.
            lungs: on its grid.
            prompt: in the volume's indices.

        Raises:
            BadOption: the method prompts no network, or one that takes no corrections.
            BadPrompt: nothing there looks like a nodule.
        """
        self.check_prompted()
        if self.prompted is not None:
            if prompt.clicks:
                raise BadOption(
                    f"{self.recipe.prompted} takes no points to include or exclude; the method default does."
                )
            return self.prompted.within(lungs)(prompt.kind, prompt.prior)(volume, prompt.box)
        rounds = DRAWN_ROUNDS if prompt.box.trust == DRAWN else self.recipe.rounds_detected
        return segment(volume, prompt.box, self.models.segmenter, rounds, prompt.prior, prompt.clicks)

    def volume_interval(
        self, volume: Volume, box: Box, mask: NDArray[np.bool_], volume_mm3: float
    ) -> tuple[float, float] | None:
        """See :func:`nodulens.stages.segment.volume_interval`; None unless our own network is prompted."""
        if self.recipe.prompted != "network":
            return None
        return volume_interval(volume, box, mask, volume_mm3, self.models.segmenter)

    def grade(self, volume: Volume, box: Box, mask: NDArray[np.bool_]) -> Grade:
        """Risk of a nodule and its explanation, by the method's own classifier or the default's network and forest; see
        :func:`nodulens.stages.classify.evaluate`."""
        own = "classifier" in self.models.own
        return grade(volume, box, mask, *self._graders) if own else evaluate(volume, box, mask, *self._graders)

    @property
    def classifier(self) -> Model:
        """The network that classifies nodules."""
        return self._graders[0]

    @property
    def _graders(self) -> tuple[Model, ...]:
        own = self.models.own.get("classifier")
        return (own,) if own is not None else (self.models.malignancy, self.models.measured)

    @property
    def finders(self) -> tuple[Model, ...]:
        """The networks that find and outline, but for SAM, in the order they work."""
        models, own = self.models, self.models.own
        finding = ("filter",) if self.recipe.sliding_window else ("segmenter", "filter")
        found = [own[name] for name in finding if name in own] or [models.screen, models.volume]
        if self.recipe.prompted is not None and self.prompted is None:
            found.append(models.segmenter)
        return tuple(found)

    @property
    def weights(self) -> tuple[WeightRef, ...]:
        """The networks that take part, in the order they work."""
        refs = [WeightRef(m.card.name, m.card.sha256) for m in (*self.finders, *self._graders)]
        return (*refs, self.prompted.weights) if self.prompted else tuple(refs)


def untrained(recipe: Recipe, missing: Iterable[str]) -> MissingWeights:
    """The error for a recipe without trained networks; where weights are installed those do not fit it."""
    ships = released(recipe.name) and not shipped(recipe.name)
    ways = f"Install them: {INSTALL}. Or train it" if ships else "Train it"
    by_sam = recipe.detects and recipe.prompted not in (None, "network")
    without = " To outline by SAM without it: --recipe default --checkpoint FOLDER." if by_sam else ""
    return MissingWeights(
        f"The recipe {recipe.name!r} has no weights for its {' and '.join(missing)}. {ways}: nodulens train "
        f"{recipe.name} --data FOLDER -o RUN; then name RUN as the recipe.{without}"
    )
