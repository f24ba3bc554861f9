"""How many of LUNA16's nodules the default detector finds in the cubes around them: FROC, by size and texture.

    python benchmarks/cubes.py --data ../shared/data --every 5

The shipped networks were trained on patients of these cubes: the figures are upper limits until the fold networks of
a training take their place.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.progress import Progress

from nodulens.data.material import Cubes
from nodulens.metrics.detection import FP_RATES
from nodulens.runtime.engine import load_model
from nodulens.stages.detect import detect
from nodulens.train.default.cube_detection import LITRES, SIZE_EDGES_MM, CubeDetection, detect_in_cubes

THRESHOLD = 0.5
"""Default score from which on a finding is reported."""


def main(
    data: Annotated[Path, typer.Option(help="Folder with lidc/.")] = Path("../shared/data"),
    every: Annotated[int, typer.Option(min=1, help="Search one cube in so many.")] = 1,
    threads: Annotated[int, typer.Option(min=1)] = 2,
) -> None:
    """Print the tables."""
    cubes = Cubes(data)
    find = partial(detect, patch=load_model("patch", threads), ball=load_model("volume", threads))
    numbers = range(0, len(cubes), every)
    with Progress(transient=True) as progress:
        bar = progress.add_task("cubes", total=1.0)
        found = detect_in_cubes(cubes, numbers, find, lambda share: progress.update(bar, completed=share))
    litres = found.litres.sum()
    low, high = found.interval()
    false = np.sum(found.froc.false_score >= THRESHOLD) * LITRES / litres
    print(
        f"{len(found.cubes)} cubes, {litres:.1f} litres of lung: CPM {found.cpm:.3f} [{low:.3f}, {high:.3f}]; proposed "
        f"{found.proposed.mean():.3f}; at a score of {THRESHOLD} sensitivity "
        f"{np.mean(found.froc.nodule_score >= THRESHOLD):.3f} and {false:.2f} false positives in {LITRES:g} litres\n"
    )
    print(f"| nodules | number | {' | '.join(f'{rate:g}' for rate in FP_RATES)} | CPM |")
    print("| --- " * (len(FP_RATES) + 3) + "|")
    for name, chosen in strata(cubes, found).items():
        if chosen.any():
            print(row(name, found.among(chosen), int(chosen.sum())))


def strata(cubes: Cubes, found: CubeDetection) -> dict[str, np.ndarray]:
    """Name → which nodules (N,)."""
    size = found.froc.nodule_mm
    out = {f"{low:g} to {high:g} mm": (size >= low) & (size < high) for low, high in pairwise(SIZE_EDGES_MM)}
    texture = cubes.ratings.median("texture")[found.cubes]
    out |= {"ground glass": texture <= 2, "part-solid": (texture > 2) & (texture < 4.5), "solid": texture >= 4.5}
    readers = cubes.ratings.readers[found.cubes]
    out |= {f"{n} readers": readers == n for n in (3, 4)}
    thickness = cubes.thickness_mm[found.cubes]
    out |= {"slices up to 1.25 mm": thickness <= 1.25, "thicker": thickness > 1.25}
    return {"all": np.ones(len(size), dtype=bool)} | out


def row(name: str, found: CubeDetection, number: int) -> str:
    """A line of the table."""
    at = " | ".join(f"{value:.2f}" for value in found.sensitivity_at())
    return f"| {name} | {number} | {at} | {found.cpm:.3f} |"


if __name__ == "__main__":
    typer.run(main)
