"""``nodulens recipes``: the methods side by side, with what their networks cost."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from nodulens.errors import training_installed
from nodulens.methods.catalogue import RECIPES
from nodulens.methods.recipe import NetworkConfig, Recipe, to_dict
from nodulens.methods.run_record import read_run
from nodulens.methods.shipped import released, shipped
from nodulens.runtime.weights import card

DOES = {"segmenter": "outline", "filter": "filter", "classifier": "grade"}


@dataclass(frozen=True)
class NetworkSummary:
    """One network of a method.

    Attributes:
        does: "find", "outline", "filter" or "grade".
        network: its name; that of one of ours ends in ".onnx", that of SAM's weights is a folder or hub name.
        parameters: all parameters, the statistics of batch norms included; None: unknown until fetched.
        trainable: those that training moves; None where it is not trained by the recipe.
        gflop: arithmetic of one input, multiplications and additions; None: unknown until fetched.
        here: the network whose weights are on this machine, where it is another; None: they are of this one.
    """

    does: str
    network: str
    parameters: int | None = None
    trainable: int | None = None
    gflop: float | None = None
    here: NetworkSummary | None = None


def described() -> list[dict[str, Any]]:
    """Every recipe as :func:`nodulens.methods.recipe.to_dict` gives it, its ``parts``, whether the ``weights`` of its
    own networks are on this machine, and whether they are ``released``: with nodulens or nodulens-methods.

    Raises:
        MissingExtra: what counts them is not installed.
        MissingWeights, CorruptWeights: see :func:`nodulens.methods.shipped.shipped`.
    """
    return [
        {
            **to_dict(recipe),
            "parts": [asdict(part) for part in parts(recipe)],
            "weights": not recipe.networks or shipped(recipe.name) is not None,
            "released": not recipe.networks or released(recipe.name),
        }
        for recipe in RECIPES.values()
    ]


def parts(recipe: Recipe) -> tuple[NetworkSummary, ...]:
    """The networks of a method, in the order they work."""
    with training_installed():
        from nodulens.train.networks.registry import cost, stored_values

    def ours(does: str, name: str) -> NetworkSummary:
        known = card(name)
        return NetworkSummary(does, known.path.name, stored_values(known.path), None, known.input["gflop"])

    def summary(name: str, config: NetworkConfig) -> NetworkSummary:
        found = cost(config)
        return NetworkSummary(DOES[name], config.network, found.parameters, found.trainable, found.gflop)

    trained, folder = {}, shipped(recipe.name) if recipe.networks else None
    weights = read_run(folder).recipe.networks if folder else recipe.networks
    for name, config in recipe.networks.items():
        trained[name] = summary(name, config)
        if weights[name].network != config.network:
            trained[name] = replace(trained[name], here=summary(name, weights[name]))
    detector = [ours("find", name) for name in ("screen", "volume")]
    chosen = [trained["segmenter"]] if "segmenter" in trained else detector
    if "filter" in trained:
        chosen.append(trained["filter"])
    if recipe.prompted == "network":
        chosen.append(ours("outline", "segmenter"))
    elif recipe.prompted:
        chosen.append(NetworkSummary("outline", recipe.checkpoint or recipe.prompted))
    graders = [ours("grade", name) for name in ("malignancy", "measured")]
    chosen += [trained["classifier"]] if "classifier" in trained else graders
    return tuple(chosen)
