"""What ``nodulens train`` leaves in a folder: the recipe as it was trained, its networks, and how to repeat it.

A run folder holds ``run.json`` (a :class:`Run`), ``split.json`` (every patient named), and for each network its
checkpoint (.pt), curves (.csv, .png and for TensorBoard), ONNX file and card. Checkpoints and curves of the default's
four networks lie in ``checkpoints/NAME``. Both records are there before anything is trained: what is stopped goes on
only with what it was begun with.
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


@dataclass(frozen=True)
class Run:
    """How the networks in a folder were trained.

    Attributes:
        recipe: with everything filled in that the material decides.
        command: that makes the same again.
        fold: the fold of the split that was left out as test set; None: nobody was.
        software: name → version.
        seconds: network → training time; those that are not there are still to be trained.
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
        """Networks that are still to be trained: the run was stopped."""
        return tuple(name for name in self.recipe.networks or self.taught if name not in self.seconds)


def is_run(folder: Path) -> bool:
    """Whether a folder holds a run, come to its end or not."""
    return (folder / FILE).is_file()


def method_named(name: str) -> tuple[Recipe, Path | None]:
    """A recipe by its name, or the recipe and folder of a run.

    Raises:
        BadOption: neither, and the message lists the recipes; or the run was stopped before its end.
        UnreadableFile: the run cannot be read.
    """
    folder = Path(name)
    if is_run(folder):
        run = read_run(folder)
        if run.untrained:
            raise BadOption(
                f"{folder} holds a run that was stopped before {', '.join(run.untrained)} came to its end; go on with "
                f"it: {run.command}"
            )
        return run.recipe, folder
    if name not in RECIPES and folder.is_dir():
        raise BadOption(f"{folder} holds no {FILE}: it is no folder that nodulens train has made.")
    return recipe_named(name), None


def read_run(folder: Path) -> Run:
    """What a folder's ``run.json`` says.

    Raises:
        UnreadableFile: it is not there, or not one of ours.
    """
    path = folder / FILE
    try:
        return decode(Run, path.read_text(encoding="utf-8"), FORM)
    except (OSError, UnicodeDecodeError, UnreadableFile) as error:
        raise UnreadableFile(f"{path} cannot be read as a run: {error}") from error


def write_run(run: Run, folder: Path) -> None:
    """Write ``run.json``, whole or not at all."""
    with whole_file(folder / FILE) as part:
        part.write_text(encode(run, FORM), encoding="utf-8")
