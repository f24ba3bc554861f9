"""What is trained by a framework that works apart from us, in an environment of its own: nnU-Net, YOLO.

Only files pass between the two: our slices go out as its data set, a small script of ours runs in its environment and
drives it, and what it has trained comes back as a program of torch, which becomes the ONNX file and card that our
runtime knows. What is special to each stands in :mod:`nodulens.train.external.nnunet` and
:mod:`nodulens.train.external.yolo`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from nodulens.data.folds import EVALUATION_PATIENTS
from nodulens.data.splits import Split
from nodulens.errors import BadOption, NodulensError, NotFound
from nodulens.io.atomic import whole_file
from nodulens.methods.recipe import NetworkConfig, Recipe
from nodulens.methods.run_record import Run, write_run
from nodulens.stages.slices import Field
from nodulens.train.loop.export import LICENCE, TOLERANCE, export
from nodulens.train.run import Division, begun, digest, division, noted, parts_of, train_recipe
from nodulens.train.tasks import segmentation
from nodulens.train.tasks.segmentation import Material
from nodulens.train.tasks.task import Rows

CHUNK = 64
WORDS = 1500
"""Characters of a failed program's last words in the error."""


# ---------------------------------------------------------------- an environment


@dataclass(frozen=True)
class Environment:
    """A virtual environment with a framework that is never imported here.

    Attributes:
        folder: of the environment.
        threads: CPU threads and processes that it may use.
        TITLE: of the framework, for people.
        NAME: of our command for it, and of its folder in a run.
        REQUIREMENT: what pip installs.
        SIGN: a program that is there where the framework is.
        INSIDE: our script that runs in there.
    """

    folder: Path
    threads: int = 1

    TITLE: ClassVar[str]
    NAME: ClassVar[str]
    REQUIREMENT: ClassVar[str]
    SIGN: ClassVar[str]
    INSIDE: ClassVar[str]

    @property
    def variables(self) -> dict[str, str]:
        """Environment variables of all its programs."""
        return {"OMP_NUM_THREADS": str(self.threads)}

    def places(self, work: Path) -> dict[str, str]:
        """Environment variables that say where it works."""
        return {}

    def program(self, name: str) -> Path:
        """One of its programs."""
        return self.folder / ("Scripts" if os.name == "nt" else "bin") / name

    def set_up(self) -> None:
        """Make it: torch as it is here, the framework, and no torchvision, since torch for CPUs cannot load that.

        Raises:
            NodulensError: something could not be installed.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        log = self.folder / "setup.log"
        pip = [self.program("python"), "-m", "pip"]
        self.call([sys.executable, "-m", "venv", self.folder], log)
        self.call([*pip, "install", f"torch=={version('torch')}", self.REQUIREMENT], log)
        self.call([*pip, "uninstall", "--yes", "torchvision"], log)

    def check(self) -> None:
        """See that it is there.

        Raises:
            NotFound: the message says how to make it.
        """
        if not self.program(self.SIGN).exists():
            raise NotFound(
                f"{self.folder} holds no {self.TITLE}. Make it: nodulens {self.NAME} setup --env {self.folder}"
            )

    def step(self, work: Path, name: str, *arguments: object) -> None:
        """A step of the script that runs inside."""
        # -P: the folder of the script is ours, and its modules must hide none of theirs
        command = [self.program("python"), "-P", self.INSIDE, name, *arguments]
        self.call(command, work / "log.txt", self.places(work))

    def call(self, command: Sequence[object], log: Path, more: Mapping[str, str] | None = None) -> None:
        """Run a program to its end, what it says added to a log.

        Raises:
            NodulensError: it failed; with its last words.
        """
        words = [str(part) for part in command]
        own = {**os.environ, **self.variables, **(more or {})}
        with log.open("a", encoding="utf-8") as file:
            done = subprocess.run(words, env=own, stdout=file, stderr=file, check=False)
        if done.returncode:
            last = log.read_text(encoding="utf-8", errors="replace")[-WORDS:]
            raise NodulensError(f"{' '.join(words[:4])} … failed ({done.returncode}); all it said is in {log}:\n{last}")


def settled(config: NetworkConfig, standard: NetworkConfig, free: Sequence[str], title: str) -> NetworkConfig:
    """The config, where it asks for nothing but what the framework can be told.

    Args:
        standard: the recipe's own.
        free: what may differ from it.
        title: of the framework.

    Raises:
        BadOption: a value is changed that the framework decides by itself.
    """
    asked = replace(standard, **{name: getattr(config, name) for name in free})
    own = [name for name, value in asdict(config).items() if value != getattr(asked, name)]
    if own:
        raise BadOption(
            f"{title} decides {', '.join(f'segmenter.{n}' for n in own)} by itself; what can be set is "
            f"{', '.join(f'segmenter.{n}' for n in free if n != 'network')}."
        )
    return asked


# ---------------------------------------------------------------- what goes out


def case(material: Material, row: int) -> str:
    """The name of a slice: patient and row."""
    return f"{material.patients[row]}_{row:06d}"


def cases(material: Material, rows: Rows) -> list[str]:
    """The names of slices."""
    return [case(material, row) for row in rows]


def views(material: Material, field: Field, rows: Rows) -> Iterator[tuple[str, NDArray[np.float32], NDArray[np.bool_]]]:
    """Of every row its name, (size, size) 0…1 as a network sees it, and (drawn, size, size) of what is true there."""
    for first in range(0, len(rows), CHUNK):
        some = rows[first : first + CHUNK]
        yield from zip(cases(material, some), *material.seen(field, some), strict=True)


def is_written(path: Path, description: dict[str, Any]) -> bool:
    """Whether a data set is there. Its description is written last: where that is, so is the rest.

    Raises:
        BadOption: there is another.
    """
    if not path.exists():
        return False
    if json.loads(path.read_text(encoding="utf-8")) != json.loads(json.dumps(description)):
        raise BadOption(f"{path.parent} holds other slices or settings than are asked for; name another folder.")
    return True


def write_json(path: Path, value: object) -> None:
    """A JSON file, whole or not at all."""
    with whole_file(path) as part:
        part.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


# ---------------------------------------------------------------- what comes back


class ExternalNetwork(nn.Module):
    """What goes round a network that comes back as an exported program.

    Args:
        net: the program, as ``torch.export.load(path).module()`` gives it.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def train(self, mode: bool = True) -> ExternalNetwork:
        """An exported program has no modes, and says so by an error."""
        self.training = mode
        return self


def off(ours: NDArray[np.float32], theirs: NDArray[np.float32], tolerance: float, title: str) -> float:
    """By how much probabilities of a slice differ at most.

    Args:
        ours, theirs: of the same shape.

    Raises:
        NodulensError: by more than the tolerance.
    """
    found = float(np.abs(ours - theirs).max())
    if found > tolerance:
        raise NodulensError(f"The network exported from {title} differs from its own predictor by {found:.2g}.")
    return found


@dataclass(frozen=True)
class Job:
    """What a framework is asked to do.

    Attributes:
        recipe: its segmenter as the framework can be told of it.
        division: rows of the material; those that judge are not for the framework.
        folder: of the run.
        work: of the framework, in it.
        command: that makes the same again.
    """

    recipe: Recipe
    material: Material
    division: Division
    folder: Path
    work: Path
    command: str

    @property
    def config(self) -> NetworkConfig:
        """What outlines."""
        assert self.recipe.segmenter is not None
        return self.recipe.segmenter

    @property
    def taught(self) -> list[str]:
        """The patients that teach or are watched."""
        return sorted({self.material.patients[row] for row in (*self.division.train, *self.division.validation)})

    def examples(self) -> Rows:
        """Two rows that teach, with a nodule where there is one: the export is tried on them."""
        train = self.division.train
        return train[np.argsort(~self.material.shows[train], kind="stable")][:2]

    def bring_back(
        self,
        net: nn.Module,
        config: NetworkConfig,
        seen: NDArray[np.float32],
        *,
        figures: dict[str, Any],
        settings: Mapping[str, Any] = MappingProxyType({}),
        licence: str = LICENCE,
        tolerance: float = TOLERANCE,
    ) -> None:
        """Write ``segmenter.onnx`` and its card.

        Args:
            net: (N, 1, size, size) 0…1 → (N, classes, size, size) logits.
            config: with what the framework decided.
            seen: (n, size, size), what the file is tried on.
            settings: for the card, beside the config's.
            tolerance: of the file's logits.

        Raises:
            NodulensError: the ONNX file does not compute what the network does.
        """
        card = {
            "name": "segmenter",
            "command": self.command,
            "trained_on": {
                "material": self.recipe.title,
                "never": sorted(EVALUATION_PATIENTS),
                "patients": self.taught,
            },
            "input": {"shape": f"(N, 1, {config.size}, {config.size}) float32, 0…1"},
            "settings": {**asdict(config), "masked": self.recipe.masked, **settings},
            "figures": figures,
            "licence": licence,
        }
        example = torch.from_numpy(np.resize(seen, (2, *seen.shape[1:])))[:, None]
        export(net, example, self.folder, card, tolerance)


# ---------------------------------------------------------------- a run


def train_external(
    recipe: Recipe,
    data: Path,
    folder: Path,
    environment: Environment,
    make: Callable[[Job], NetworkConfig],
    *,
    slices: int | None,
    command: str,
    split: Split | None = None,
    fold: int | None = None,
) -> Run:
    """Train a recipe's segmenter by a framework, and its other networks as always, into a run folder.

    What is there already is kept; what was stopped goes on. The framework's files and log lie in a folder of its name.

    Args:
        make: trains the segmenter, writes it (:meth:`Job.bring_back`), and returns it as it became.
        slices: at most, evenly taken; None: all.
        data, folder, command, split, fold: see :func:`nodulens.train.run.train_recipe`.

    Raises:
        NotFound: no environment or no material.
        BadOption: there is no such fold, the folder holds another run, or nobody is left to train on.
        NodulensError: the framework failed, or what was exported does not do what it does.
    """
    environment.check()
    start = time.monotonic()
    material = segmentation.load(data, recipe)
    chosen = thinned(division(material, parts_of(material.patients, split, fold)), slices)
    if not len(chosen.train) or not len(chosen.validation):
        raise BadOption("Too few slices are left to train on and to watch; leave out another fold, or fewer slices.")
    work = folder / environment.NAME
    run = begun(recipe, folder, command=command, split=split, fold=fold)
    noted(run, environment.NAME, None, digest(material, chosen.train, chosen.validation), folder)
    work.mkdir(parents=True, exist_ok=True)
    config = make(Job(recipe, material, chosen, folder, work, command))
    seconds = round(time.monotonic() - start, 1)
    # it finds the segmenter done, and trains the others
    run = train_recipe(replace(recipe, segmenter=config), data, folder, command=command, split=split, fold=fold)
    software = {**run.software, environment.NAME: environment.REQUIREMENT}
    run = replace(run, seconds={**run.seconds, "segmenter": seconds}, software=software)
    write_run(run, folder)
    return run


def thinned(division: Division, slices: int | None) -> Division:
    """At most so many rows that teach or are watched, in the shares they have."""
    total = len(division.train) + len(division.validation)
    step = 1 if slices is None else max(1, -(-total // slices))
    return replace(division, train=division.train[::step], validation=division.validation[::step])
