"""Whether a network of whole slices has learnt where nodules are on the sheets of close-ups, in place of how they look.

    python -m experiments.places RUN [RUN…] --data ../shared/data --fold 1

Close-ups are evaluated side by side on a sheet, each nodule in the middle of its square. The same close-ups are
segmented again with the sheet shifted around its edges by a part of a square: a network that looks at nodules alone has
the same Dice, but for those that the edge of the sheet cuts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from nodulens.data.folds import FOLDS, fold_of
from nodulens.data.material import Stacks
from nodulens.methods.run_record import read_run
from nodulens.metrics.segmentation import Overlap
from nodulens.presentation.evaluation import Table
from nodulens.presentation.table_writer import to_markdown
from nodulens.runtime.engine import Model, load_model
from nodulens.stages.slices import Field
from nodulens.train.tasks.closeups import CloseUps, nodule_probabilities
from nodulens.train.tasks.segmentation import field_of

SHIFTS = (0.0, 0.25, 0.75)
"""Of a square; by a half the edge of the sheet would cut nodules in the middle."""


def dice(model: Model, field: Field, closeups: CloseUps, nodules: np.ndarray, shift: float) -> float:
    """Mean Dice of central slices, a missed nodule as 0, with the sheet shifted by a part of a square."""
    found = nodule_probabilities(model, field, closeups, nodules, shift) >= 0.5
    truth = closeups.nodule[closeups.central[nodules]]
    pairs = zip(truth, found, strict=True)
    return float(np.mean([Overlap.of_counts(int(t.sum()), int(f.sum()), int((t & f).sum())).dice for t, f in pairs]))


def main(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs with a segmenter of whole slices.")],
    data: Annotated[Path, typer.Option(help="Folder that holds lidc/.")],
    fold: Annotated[int | None, typer.Option(min=0, max=FOLDS - 1, help="Its patients alone.")] = None,
) -> None:
    """Print the Dice of each run on the close-ups of real nodules, by shift."""
    closeups = CloseUps.of(Stacks(data))
    nodules = np.array([n for n, patient in enumerate(closeups.patients) if fold is None or fold_of(patient) == fold])
    rows = []
    for run in runs:
        config = read_run(run).recipe.segmenter
        if config is None:
            raise typer.BadParameter(f"{run} has no segmenter of its own.")
        model, field = load_model("segmenter", folder=run), field_of(config)
        values = [dice(model, field, closeups, nodules, shift) for shift in SHIFTS]
        rows.append((str(run), *(f"{value:.3f}" for value in values)))
    head = ("Dice with the sheet shifted by, squares", *map(str, SHIFTS))
    typer.echo(to_markdown(Table(f"{len(nodules)} nodules", head, tuple(rows))))


if __name__ == "__main__":
    typer.run(main)
