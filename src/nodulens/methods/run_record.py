"""The run folder of ``nodulens train``: the recipe as trained, its networks, and how to reproduce it.

A run folder holds ``run.json`` (a :class:`Run`), ``split.json`` (every patient named), and for each network its
checkpoint (.pt), curves (.csv, .png and for TensorBoard), ONNX file and card. Checkpoints and curves of the default
method's four networks are in ``checkpoints/NAME``. Both records are written before training, so that an interrupted run
resumes only with the same settings.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from nodulens.errors import BadOption, UnreadableFile
from nodulens.io.atomic import whole_file
from nodulens.io.records import Format, decode, encode
from nodulens.methods.catalogue import RECIPES, recipe_named
from nodulens.methods.recipe import ARRANGEMENT, Recipe

SCHEMA = "nodulens-run/1"
FORM = Format(SCHEMA, "run", escaped=True, defaults=True, arranged={Recipe: ARRANGEMENT})
FILE = "run.json"
SPLIT = "split.json"
FIXED = "fixed"
"""The ``method`` of a split by the project's own folds."""


@dataclass(frozen=True)
class Run:
    """The record of a training run.

    Attributes:
        recipe: with all values that depend on the material.
        command: that reproduces the run.
        fold: the test fold of the split; None: no test set.
        software: name → version.
        seconds: network → training time, for those that are trained.
        taught: network, or external framework that trains one → digest of the rows of its training and validation set.
    """

    recipe: Recipe
    command: str
    fold: int | None
    software: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    taught: dict[str, str] = field(default_factory=dict)

    @property
    def untrained(self) -> tuple[str, ...]:
        """Networks that are not trained yet."""
        return tuple(name for name in self.recipe.networks or self.taught if name not in self.seconds)


def fold_name(fold: int) -> str:
    """Name of the folder of a run in a folder with a run for every fold."""
    return f"fold{fold}"


def is_run(folder: Path) -> bool:
    """Whether a folder holds a run, finished or not."""
    return (folder / FILE).is_file()


def method_named(name: str) -> tuple[Recipe, Path | None]:
    """A recipe by its name, or the recipe and folder of a run.

    Raises:
        BadOption: neither, and the message lists the recipes; or the run is not finished.
        UnreadableFile: the run cannot be read.
    """
    folder = Path(name)
    if is_run(folder):
        run = read_run(folder)
        if run.untrained:
            raise BadOption(
                f"{folder} holds a run in which {', '.join(run.untrained)} is not trained yet; resume it: {run.command}"
            )
        return run.recipe, folder
    if name not in RECIPES and folder.is_dir():
        raise BadOption(f"{folder} holds no {FILE}: it is not a run of nodulens train.")
    return recipe_named(name), None


def read_run(folder: Path) -> Run:
    """Read the ``run.json`` of a folder.

    Raises:
        UnreadableFile: it does not exist, or is not valid.
    """
    path = folder / FILE
    try:
        return decode(Run, path.read_text(encoding="utf-8"), FORM)
    except (OSError, UnicodeDecodeError, UnreadableFile) as error:
        raise UnreadableFile(f"{path} cannot be read as a run: {error}") from error


def write_run(run: Run, folder: Path) -> None:
    """Write ``run.json`` atomically."""
    with whole_file(folder / FILE) as part:
        part.write_text(encode(run, FORM), encoding="utf-8")
