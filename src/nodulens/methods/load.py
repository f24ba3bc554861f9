"""From a name to a method that is ready to run: a recipe, or the folder of a run, with all its networks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from nodulens.core.text import without_places
from nodulens.core.volume import Mask
from nodulens.errors import BadOption, MissingExtra, MissingWeights
from nodulens.methods.catalogue import RECIPES
from nodulens.methods.method import Method, Prompted, untrained
from nodulens.methods.recipe import Recipe, changed_in_use
from nodulens.methods.run_record import method_named, shipped_method
from nodulens.ops.intensity import NETWORK_WINDOW
from nodulens.report.record import WeightRef
from nodulens.runtime.engine import Models, load_model, load_models
from nodulens.stages.prompted import PromptedNetwork, view_of

if TYPE_CHECKING:
    from nodulens.stages.sam import Sam

WAYS = "Name the folder that holds them: --set checkpoint=FOLDER; or take our own network: --set prompted=network."


def load_method(
    name: str | Path | Recipe,
    *,
    threads: int | None = None,
    settings: Sequence[str] = (),
    checkpoint: str | Path | None = None,
) -> Method:
    """A recipe or run with all its networks, ready to analyze.

    >>> load_method("default", settings=["threshold=0.3"]).threshold
    0.3

    Args:
        name: the folder of a run, or of a recipe, whose networks ship; or a recipe as a value, changed at most in what
            acts after training.
        threads: CPU threads; None for as many as there are cores.
        settings: ``name=value``, see :func:`nodulens.methods.recipe.changed_in_use`.
        checkpoint: SAM's, SAM2's or MedSAM's weights, a folder or a hub name that is on this machine; what they are is
            read from them. The same as the settings checkpoint and prompted.

    Raises:
        BadOption: no such recipe or setting, or one that acts in training alone.
        MissingWeights: missing networks; the message says how to get them.
        CorruptWeights: a network does not match its card.
        MissingExtra: SAM needs packages that are not installed.
    """
    recipe, folder = _of_value(name) if isinstance(name, Recipe) else method_named(str(name))
    recipe = changed_in_use(recipe, [*_settings_for(checkpoint), *settings])
    return Method(recipe, load_networks(recipe, folder, threads), prompted_by(recipe, load_sam_of(recipe)))


def _of_value(recipe: Recipe) -> tuple[Recipe, Path | None]:
    """A recipe with the networks that ship and their folder; itself and None where they were trained for another."""
    if recipe.name not in RECIPES:
        return recipe, None
    known, folder = shipped_method(recipe.name)
    trained = ("segmenter", "filter", "classifier", *recipe.shapes_training)
    same = any(all(getattr(recipe, f) == getattr(one, f) for f in trained) for one in (RECIPES[recipe.name], known))
    return (replace(recipe, **{f: getattr(known, f) for f in trained}), folder) if same else (recipe, None)


def load_networks(recipe: Recipe, folder: Path | None, threads: int | None) -> Models:
    """All networks but SAM: those that ship, and the recipe's own from the folder of its run.

    Raises:
        MissingWeights, CorruptWeights: a network is missing, or does not match its card.
    """
    if folder is not None and not recipe.networks:  # the default method, trained again
        return load_models(threads, folder)
    if folder is None and recipe.networks:
        raise untrained(recipe, recipe.networks)
    own = {part: load_model(part, threads, folder) for part in recipe.networks} if folder else {}
    return replace(load_models(threads), own=own)


def prompted_by(recipe: Recipe, sam: Sam | None) -> Prompted | None:
    """SAM or SAM2 with the recipe's prompt and field of view; None without it.

    Raises:
        BadOption: the recipe wants a memory that these weights lack.
    """
    if sam is None:
        return None
    if recipe.memory and not sam.net.remembers:
        raise BadOption(f"{recipe.checkpoint} has no memory to carry outlines with: --set memory=false, or take SAM2.")

    def within(lungs: Mask) -> PromptedNetwork:
        view = partial(view_of, part=recipe.shown, lungs=lungs)
        window = NETWORK_WINDOW if recipe.intensity == "window" else None
        return replace(sam, view=view, memory=recipe.memory, window=window).network

    return Prompted(within, WeightRef(without_places(str(recipe.checkpoint)), sam.sha256))


def load_sam_of(recipe: Recipe) -> Sam | None:
    """SAM or SAM2 from files on this machine; None if the recipe uses neither.

    Raises:
        MissingWeights: the recipe names no weights, or they are not on this machine.
        MissingExtra: a package is not installed.
    """
    if recipe.prompted is None or recipe.prompted == "network":
        return None
    if recipe.checkpoint is None:
        raise MissingWeights(f"The recipe {recipe.name!r} segments by {recipe.prompted}, and names no weights. {WAYS}")
    with _sam_errors():
        from nodulens.stages.sam import load_sam

        return load_sam(recipe.checkpoint, recipe.prompted)


def _settings_for(checkpoint: str | Path | None) -> tuple[str, ...]:
    """The settings that a checkpoint stands for."""
    if checkpoint is None:
        return ()
    with _sam_errors():
        from nodulens.stages.sam import kind_of

        return f"prompted={kind_of(checkpoint)}", f"checkpoint={checkpoint}"


@contextmanager
def _sam_errors() -> Iterator[None]:
    """What is missing for SAM says what to do.

    Raises:
        MissingExtra: a package.
        MissingWeights: the weights.
    """
    try:
        yield
    except ImportError as error:
        raise MissingExtra("sam", error.name or "torch") from error
    except MissingWeights as error:
        raise MissingWeights(f"{error} {WAYS}") from error
