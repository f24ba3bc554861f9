"""Whether a network of whole slices has learnt where nodules are in close-ups, in place of how they look.

    python -m experiments.places RUN [RUN…] --data ../shared/data --fold 1

Close-ups are evaluated side by side on a sheet, each nodule in the middle of its square. Here their squares are three
quarters as wide, cut with the nodule in the middle, and again with the whole nodule anywhere in the square: a network
that looks at nodules alone has much the same Dice.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from nodulens.data.folds import FOLDS, fold_of
from nodulens.data.material import Stacks
from nodulens.methods.run_record import read_run
from nodulens.metrics.segmentation import Overlap
from nodulens.presentation.evaluation import Table
from nodulens.presentation.table_writer import to_markdown
from nodulens.runtime.engine import Model, load_model
from nodulens.stages.slices import Field
from nodulens.train.tasks.closeups import CloseUps, on_sheets
from nodulens.train.tasks.segmentation import field_of

WIDTH = 0.75
"""Of a square, as a part of a close-up."""


def dice(model: Model, field: Field, closeups: CloseUps, nodules: NDArray[np.int_]) -> tuple[int, float, float]:
    """How a network does with nodules in the middle of their squares, and anywhere in these.

    Returns:
        The number of nodules, on their central slices, that a square holds in its middle; their mean Dice there, on
        the network's pixels and with a missed nodule as 0; and the same with each anywhere in its square.
    """
    side = closeups.side(field)
    width = int(WIDTH * side)
    images, truth = closeups.examples(field, closeups.central[nodules], side)
    middle = (side - width) // 2
    fits = truth[:, middle : middle + width, middle : middle + width].sum(axis=(1, 2)) == truth.sum(axis=(1, 2))
    images, truth = images[fits & truth.any(axis=(1, 2))], truth[fits & truth.any(axis=(1, 2))]
    rng = np.random.default_rng(0)
    anywhere = [(_start(t.any(axis=1), width, rng), _start(t.any(axis=0), width, rng)) for t in truth]
    central, moved = (_dice(model, field, images, truth, at) for at in ([(middle, middle)] * len(truth), anywhere))
    return len(truth), central, moved


def _start(occupied: NDArray[np.bool_], width: int, rng: np.random.Generator) -> int:
    """A random start of a square, along one axis, that holds all that is occupied."""
    first, last = np.flatnonzero(occupied)[[0, -1]]
    return int(rng.integers(max(0, last + 1 - width), min(first, len(occupied) - width) + 1))


def _dice(
    model: Model, field: Field, images: NDArray[np.float32], truth: NDArray[np.bool_], starts: list[tuple[int, int]]
) -> float:
    """Mean Dice of close-ups, each cut from where it starts."""
    width = int(WIDTH * images.shape[1])
    cut = [np.s_[number, y : y + width, x : x + width] for number, (y, x) in enumerate(starts)]
    found = on_sheets(model, field, np.stack([images[where] for where in cut])) >= 0.5
    pairs = zip((truth[where] for where in cut), found, strict=True)
    return float(np.mean([Overlap.of_counts(int(t.sum()), int(f.sum()), int((t & f).sum())).dice for t, f in pairs]))


def main(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs with a segmenter of whole slices.")],
    data: Annotated[Path, typer.Option(help="Folder that holds lidc/.")],
    fold: Annotated[int | None, typer.Option(min=0, max=FOLDS - 1, help="Its patients alone.")] = None,
) -> None:
    """Print the Dice of each run on the close-ups of real nodules, by their place in a square."""
    closeups = CloseUps.of(Stacks(data))
    nodules = np.array([n for n, patient in enumerate(closeups.patients) if fold is None or fold_of(patient) == fold])
    rows = []
    for run in runs:
        config = read_run(run).recipe.segmenter
        if config is None:
            raise typer.BadParameter(f"{run} has no segmenter of its own.")
        number, *values = dice(load_model("segmenter", folder=run), field_of(config), closeups, nodules)
        rows.append((str(run), str(number), *(f"{value:.3f}" for value in values)))
    head = ("Dice", "nodules", "in the middle", "anywhere")
    typer.echo(to_markdown(Table("Close-ups, by the nodule's place in its square", head, tuple(rows))))


if __name__ == "__main__":
    typer.run(main)
