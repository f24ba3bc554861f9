"""Where the weights of the published methods are: in a distribution of their own, ``nodulens-methods``.

It holds a folder for each recipe, with what an analysis takes of a run folder
(:mod:`nodulens.methods.run_record`), and :data:`FILE`, which names the format. nodulens does not depend on it: it is
found where it is installed, or in the clone that this module lies in.
"""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

from nodulens.errors import CorruptWeights, MissingWeights
from nodulens.runtime.weights import METHODS

INSTALL = "pip install 'nodulens[methods]'"
RELEASED = ("conv3-classifier", "nnunet-sam", "resnet-unet-patch-cnn", "sam2-densenet", "se-aux-unet")
"""The recipes whose weights nodulens-methods holds, for where it is not installed: the folders of its package."""
FILE = "methods.json"
SCHEMA = "nodulens-methods/1"
"""The format that this version reads: that of the folders, and what the networks take and give."""
IN_CLONE = Path("distributions", "methods", METHODS)


def shipped(recipe: str) -> Path | None:
    """The folder with the weights of a recipe, in the form of a run; None if they are not on this machine.

    Args:
        recipe: its name.

    Raises:
        MissingWeights: those on this machine are of another format.
        CorruptWeights: the format cannot be read.
    """
    return next((place / recipe for place in places() if (place / recipe).is_dir()), None)


def released(recipe: str) -> bool:
    """Whether a release of nodulens-methods holds the weights of a recipe, given by its name."""
    return recipe in RELEASED


def places() -> tuple[Path, ...]:
    """The folders of weights on this machine, that of the clone before the installed one. Nothing is imported.

    Raises:
        MissingWeights, CorruptWeights: see :func:`shipped`.
    """
    clone = Path(__file__).resolve().parents[3] / IN_CLONE
    spec = find_spec(METHODS)
    installed = map(Path, (spec.submodule_search_locations or ()) if spec else ())
    found = tuple(place for place in dict.fromkeys((clone, *installed)) if (place / FILE).is_file())
    for place in found:
        _check_format(place / FILE)
    return found


def _check_format(path: Path) -> None:
    try:
        schema = json.loads(path.read_text(encoding="utf-8"))["schema"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptWeights(
            f"{path} does not name the format of the weights beside it. Reinstall nodulens-methods."
        ) from error
    if schema != SCHEMA:
        raise MissingWeights(
            f"The weights of the methods in {path.parent} are of the format {schema!r}, and this nodulens reads "
            f"{SCHEMA!r}. Bring both to the same version: {INSTALL.replace('install', 'install --upgrade')}"
        )
