"""How many of LUNA16's nodules the detector finds in the cubes around them: FROC by size, texture, readers and scan.

    python benchmarks/cubes.py --data ../shared/data --run runs

searches every cube with the networks of a training that left the cube's patient out (``python -m nodulens.train
detector --run runs``). Without ``--run`` it is the networks that ship, which were trained on these patients: the
figures are then upper limits.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.progress import Progress

from nodulens.data.folds import FOLDS, fold_of
from nodulens.data.material import Cubes
from nodulens.metrics.detection import FP_RATES
from nodulens.runtime.engine import load_model
from nodulens.runtime.weights import FOLDER
from nodulens.stages.detect import detect_within
from nodulens.train.default.cube_detection import LITRES, CubeDetection, match, search_cubes
from nodulens.train.default.detector_figures import strata


def main(
    data: Annotated[Path, typer.Option(help="Folder with lidc/.")] = Path("../shared/data"),
    run: Annotated[Path | None, typer.Option(help="Checkpoint folder of a training with folds.")] = None,
    every: Annotated[int, typer.Option(min=1, help="Search one cube in so many.")] = 1,
    threads: Annotated[int, typer.Option(min=1)] = 2,
) -> None:
    """Print the tables."""
    cubes = Cubes(data)
    folders = [run / "detector" / f"fold{fold}" if run else FOLDER for fold in range(FOLDS)]
    fold_detectors = [
        partial(detect_within, screen=load_model("screen", threads, folder), ball=load_model("volume", threads, folder))
        for folder in folders
    ]

    with Progress(transient=True) as progress:
        bar = progress.add_task("cubes", total=1.0)
        numbers = range(0, len(cubes), every)
        searched = search_cubes(
            cubes, numbers, lambda p: fold_detectors[fold_of(p)], lambda share: progress.update(bar, completed=share)
        )
    found = match(cubes, searched)
    low, high = found.interval()
    print(
        f"{len(found.cubes)} cubes, {found.litres.sum():.1f} litres of lung: CPM {found.cpm:.3f} [{low:.3f}, "
        f"{high:.3f}]; proposed {found.proposed.mean():.3f}\n"
    )
    print(f"| nodules | number | {' | '.join(f'{rate:g}' for rate in FP_RATES)} | CPM |")
    print("| --- " * (len(FP_RATES) + 3) + "|")
    for name, chosen in {
        "all": np.ones(len(found.cubes), dtype=bool),
        **strata(cubes, found.cubes, found.froc.nodule_mm),
    }.items():
        if chosen.any():
            print(row(name, found.among(chosen), int(chosen.sum())))
    print(f"\nFalse positives are counted in {LITRES:g} litres of lung.")


def row(name: str, found: CubeDetection, number: int) -> str:
    """A line of the table."""
    at = " | ".join(f"{value:.2f}" for value in found.sensitivity_at())
    return f"| {name} | {number} | {at} | {found.cpm:.3f} |"


if __name__ == "__main__":
    typer.run(main)
