"""How much of the lungs the lung stage finds where disease, gas or the field of view makes it hard.

    python benchmarks/lungs.py --data ../shared/data

Every case of ``tests/made_disease.py`` is made from each of the seven scans, brought to voxels of about 2 mm (on which
the stage works), and held against the mask of the scan untouched: Dice of both lungs, each with its side right. The
middle and the lowest of the seven are printed, as rows of the table in docs/lungs.md. The package comes with the shapes
of three scans' lungs (:mod:`nodulens.stages.lung_shapes`): a scan's own is left out when it is measured.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

import nodulens as nl
from nodulens.core.volume import Volume
from nodulens.data.material import Background
from nodulens.errors import NoLungs
from nodulens.ops.blocks import block_grid, block_means
from nodulens.ops.orient import canonical
from nodulens.stages.lung_shapes import lung_shapes
from nodulens.stages.lungs import segment_lungs

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from made_disease import CASES, dice

SCANS = ("LIDC-IDRI-0001", "LIDC-IDRI-0003", "LIDC-IDRI-0028", "Lung_Dx-A0001")
GRID_MM = 2.1


def main(data: Annotated[Path, typer.Option(help="Folder with ct/ and background/.")] = Path("../shared/data")) -> None:
    """Print the rows of the table of docs/lungs.md."""
    scores: dict[str, list[float]] = {case: [] for case in CASES}
    for name in (*SCANS, *Background.PATIENTS):
        known = name in Background.PATIENTS
        volume = reduced(Background.volume(data, name) if known else canonical(nl.read(data / "ct" / name))[0])
        lungs = segment_lungs(volume)
        others = [shape for shape in lung_shapes() if shape.patient != name]
        for case, make in CASES.items():
            made = make(volume, lungs)
            try:
                found = np.asarray(segment_lungs(made.volume, others).labels, dtype=np.uint8)
            except NoLungs:
                found = np.zeros_like(made.lung)
            scores[case].append(dice(found, made.lung))
    for case, values in scores.items():
        print(f"| {case} | {np.median(values):.3f} | {min(values):.3f} |")


def reduced(volume: Volume) -> Volume:
    """Means over blocks of whole voxels."""
    grid = volume.geometry
    step = [max(1, round(GRID_MM / s)) for s in grid.spacing_zyx]
    low = np.rint(block_means(volume.hu, step)).astype(np.int16)
    return Volume(low, block_grid(grid, step, low.shape))


if __name__ == "__main__":
    typer.run(main)
