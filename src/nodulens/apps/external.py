"""What the commands of frameworks that work apart from us have in common: their options, and how they are called."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nodulens.core.private import own_folder
from nodulens.core.text import printable
from nodulens.errors import training_installed

if TYPE_CHECKING:
    from nodulens.methods.run_record import Run

Env = Annotated[Path, typer.Option(help="Folder of its virtual environment.")]
Data = Annotated[Path, typer.Option(help="Folder with lidc/ and background/, or with images/ and masks/.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder of the run; an interrupted run resumes.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="Change a value of the recipe: segmenter.epochs=5. Repeatable.")
]
SplitFile = Annotated[Path | None, typer.Option(help="Split by nodulens data split; default: five fixed folds.")]
Fold = Annotated[int | None, typer.Option(min=0, help="The test fold; default: 1.")]
Everybody = Annotated[bool, typer.Option("--everybody", help="Train on all patients.")]
Slices = Annotated[int | None, typer.Option(min=2, help="Slices at most, for a trial.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads and processes; default: all cores.")]


def trainer(name: str) -> Any:
    """The module that trains by a framework; what trains has to be installed here too.

    Raises:
        MissingExtra: training needs packages that are not installed.
    """
    with training_installed():
        return import_module(f"nodulens.train.external.{name}")


def threads_of(threads: int | None) -> int:
    """The number given, or that of the CPUs."""
    return threads or os.cpu_count() or 1


@contextmanager
def trained_into(output: Path) -> Iterator[None]:
    """Keep other runs out of the folder of a run that is trained; of several processes the first does. Off a terminal,
    every epoch is a line on stderr.

    Raises:
        BadOption, CannotWrite: see :func:`nodulens.core.private.own_folder`.
    """
    from nodulens.train.lines import lines_shown

    if os.environ.get("RANK", "0") != "0":  # as PyTorch's launcher says
        yield
        return
    with own_folder(output), lines_shown():
        yield


def tell(run: Run, output: Path) -> None:
    """What a run has left."""
    for name, seconds in run.seconds.items():
        print(f"{printable(str(output / name))}.onnx and its card, {seconds:.0f} s")
