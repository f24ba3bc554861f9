"""``nodulens recipes``: the methods side by side, with what their networks cost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from nodulens.errors import MissingExtra
from nodulens.recipe import Recipe, to_dict
from nodulens.recipes import RECIPES
from nodulens.runtime.weights import card


@dataclass(frozen=True)
class Part:
    """One network of a method.

    Attributes:
        does: "find", "outline", "filter" or "grade".
        network: its name; that of one of ours ends in ".onnx", that of SAM's weights is a folder or hub name.
        parameters: all numbers it has learnt, the statistics of its batch norms included; None: unknown until fetched.
        trainable: those that training moves; None where it is not trained by the recipe.
        gflop: arithmetic of one input, multiplications and additions; None: unknown until fetched.
    """

    does: str
    network: str
    parameters: int | None = None
    trainable: int | None = None
    gflop: float | None = None


def described() -> list[dict[str, Any]]:
    """Every recipe as :func:`nodulens.recipe.to_dict` gives it, and its ``parts``.

    Raises:
        MissingExtra: what counts them is not installed.
    """
    return [{**to_dict(recipe), "parts": [asdict(part) for part in parts(recipe)]} for recipe in RECIPES.values()]


def parts(recipe: Recipe) -> tuple[Part, ...]:
    """The networks of a method, in the order they work."""
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise MissingExtra("train", "torch") from error
    return tuple(_parts(recipe))


def _parts(recipe: Recipe) -> Iterator[Part]:
    learnt = {name: _learnt(name, recipe) for name in recipe.learners}
    if "segmenter" in learnt:
        yield learnt["segmenter"]
    else:
        yield from (_shipped("find", name) for name in ("patch", "volume"))
    if "filter" in learnt:
        yield learnt["filter"]
    if recipe.prompted == "network":
        yield _shipped("outline", "segmenter")
    elif recipe.prompted:
        yield Part("outline", recipe.checkpoint or recipe.prompted)
    yield learnt.get("classifier") or _shipped("grade", "malignancy")


def _learnt(name: str, recipe: Recipe) -> Part:
    from nodulens.train.networks import cost

    learner = recipe.learners[name]
    found = cost(learner)
    does = {"segmenter": "outline", "filter": "filter", "classifier": "grade"}[name]
    return Part(does, learner.network, found.parameters, found.trainable, found.gflop)


def _shipped(does: str, name: str) -> Part:
    from nodulens.train.networks import stored_values

    known = card(name)
    return Part(does, known.path.name, stored_values(known.path), None, known.input["gflop"])
