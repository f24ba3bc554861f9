"""The run folder of ``nodulens train``: the recipe as trained, its networks, and how to reproduce it.

A run folder holds ``run.json`` (a :class:`Run`), ``split.json`` (every patient named), and for each network its
checkpoint (.pt), curves (.csv, .png and for TensorBoard), ONNX file and card. Checkpoints and curves of the default
method's four networks are in ``checkpoints/NAME``. Both records are written before training, so that an interrupted run
resumes only with the same settings.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from nodulens.errors import BadOption, CorruptWeights, UnreadableFile
from nodulens.io.atomic import whole_file
from nodulens.io.records import Format, decode, encode
from nodulens.methods.catalogue import RECIPES, recipe_named
from nodulens.methods.recipe import ARRANGEMENT, Recipe
from nodulens.methods.shipped import shipped

SCHEMA = "nodulens-run/1"
FORM = Format(SCHEMA, "run", escaped=True, defaults=True, arranged={Recipe: ARRANGEMENT})
FILE = "run.json"
SPLIT = "split.json"


@dataclass(frozen=True)
class Hardware:
    """What a training ran on.

    Attributes:
        cpu: name of the processor.
        cores: number of logical ones.
        memory_gb: in units of 2³⁰ bytes; None: not known.
        gpu: names with commas; None without one.
    """

    cpu: str
    cores: int
    memory_gb: float | None
    gpu: str | None


@dataclass(frozen=True)
class Conditions:
    """What a training ran with.

    Attributes:
        commit: of nodulens, with "-dirty" if files differ from it; None: not run from a checkout.
        software: name → version.
    """

    commit: str | None
    software: dict[str, str]
    hardware: Hardware | None


@dataclass(frozen=True)
class Extension:
    """Further training of a finished run.

    Attributes:
        epochs: by which each network goes on.
        after: network → epochs that it had before.
        command: that extends the run.
    """

    epochs: int
    after: dict[str, int]
    command: str


@dataclass(frozen=True)
class Run:
    """The record of a training run.

    Attributes:
        recipe: with all values that depend on the material; ``epochs`` include those of extensions.
        command: that reproduces the run, but for its extensions.
        fold: the test fold of the split; None: no test set.
        software: name → version.
        seconds: network → training time over all its runs, by its curves, for those that are trained.
        taught: network, or external framework that trains one → digest of the rows of its training and validation set.
        commit, hardware: see :class:`Conditions`.
        earlier: what the run was trained with before it was resumed or extended, if that was different.
        extended: further training, the last one last.
        mlflow: id of the run on an MLflow server that has its curves.
    """

    recipe: Recipe
    command: str
    fold: int | None
    software: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    taught: dict[str, str] = field(default_factory=dict)
    commit: str | None = None
    hardware: Hardware | None = None
    earlier: tuple[Conditions, ...] = ()
    extended: tuple[Extension, ...] = ()
    mlflow: str | None = None

    @property
    def commands(self) -> tuple[str, ...]:
        """Those that reproduce the run, in their order."""
        return (self.command, *(one.command for one in self.extended))

    @property
    def conditions(self) -> Conditions:
        """What it is trained with now."""
        return Conditions(self.commit, self.software, self.hardware)

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
    """The recipe and folder of a run; or a recipe by its name, see :func:`shipped_method`.

    Raises:
        BadOption: neither, and the message lists the recipes; or the run is not finished.
        UnreadableFile: the run cannot be read.
        MissingWeights, CorruptWeights: weights that ship are damaged, or of another version.
    """
    folder = Path(name)
    if is_run(folder):
        run = read_run(folder)
        if run.untrained:
            raise BadOption(
                f"{folder} holds a run in which {', '.join(run.untrained)} is not trained yet; resume it: "
                f"{run.commands[-1]}"
            )
        return run.recipe, folder
    if name not in RECIPES and folder.is_dir():
        raise BadOption(f"{folder} holds no {FILE}: it is not a run of nodulens train.")
    return shipped_method(name)


def shipped_method(name: str) -> tuple[Recipe, Path | None]:
    """A recipe as its networks that ship were trained, and their folder; as it is published and None where they are not
    on this machine, or where it has no networks of its own.

    Raises:
        BadOption: there is no such recipe; the message lists all.
        MissingWeights, CorruptWeights: weights that ship are damaged, or of another version.
    """
    recipe = recipe_named(name)
    folder = shipped(name) if recipe.networks else None
    if folder is None:
        return recipe, None
    try:
        run = read_run(folder)
    except UnreadableFile as error:
        raise CorruptWeights(f"{error} Reinstall nodulens-methods.") from error
    if run.untrained:
        raise CorruptWeights(f"{folder} has no {' and no '.join(run.untrained)}. Reinstall nodulens-methods.")
    return run.recipe, folder


def read_run(folder: Path) -> Run:
    """Read the ``run.json`` of a folder.

    Raises:
        UnreadableFile: it does not exist, or is not valid.
    """
    return read_record(folder / FILE)


def read_record(path: Path) -> Run:
    """Read a ``run.json``, wherever it is.

    Raises:
        UnreadableFile: it does not exist, or is not valid.
    """
    try:
        return decode(Run, path.read_text(encoding="utf-8"), FORM)
    except (OSError, UnicodeDecodeError, UnreadableFile) as error:
        raise UnreadableFile(f"{path} cannot be read as a run: {error}") from error


def write_run(run: Run, folder: Path) -> None:
    """Write ``run.json`` atomically."""
    with whole_file(folder / FILE) as part:
        part.write_text(encode(run, FORM), encoding="utf-8")
