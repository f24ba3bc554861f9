"""How many of LUNA16's nodules are candidates, and how many candidates there are, by the least roundness.

    python benchmarks/candidates.py --data ../shared/data

A candidate within the radius is a hit by LUNA16's rules; one within 4 mm shows the network the whole of a small nodule.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated
from unittest import mock

import numpy as np
import typer
from rich.progress import Progress

from nodulens.core.nodule import Candidate
from nodulens.data.material import Cubes
from nodulens.stages import candidates
from nodulens.train.default.cube_detection import GRID, LITRES, match, search_cubes

ROUND_HU = (4.0, 6.0, 8.0, 12.0)
NEAR_MM = 4.0


def main(
    data: Annotated[Path, typer.Option(help="Folder with lidc/.")] = Path("../shared/data"),
    every: Annotated[int, typer.Option(min=1, help="Search one cube in so many.")] = 1,
) -> None:
    """Print the table."""
    cubes = Cubes(data)
    print("| least roundness, HU | candidates in five litres | within the nodule's radius | within it or 4 mm |")
    print("| --- | --- | --- | --- |")
    for least in ROUND_HU:
        with mock.patch.object(candidates, "LEAST_ROUND_HU", least), Progress(transient=True) as progress:
            done = partial(progress.update, progress.add_task("cubes", total=1.0))
            numbers = range(0, len(cubes), every)
            seen = search_cubes(cubes, numbers, lambda _: candidates.propose, partial(_show, done))
        number = sum(map(len, seen.found)) * LITRES / seen.litres.sum()
        # not those that count in FROC: of more than a hundred marks that are equal none does
        hits = match(cubes, seen.each(lambda found: [replace(c, score=0.5) for c in found])).hits
        inside = np.array([hit is not None for hit in hits])
        near = np.array([_nearest(cubes, n, found) <= NEAR_MM for n, found in zip(seen.cubes, seen.found, strict=True)])
        print(f"| {least:g} | {number:.0f} | {inside.mean():.1%} | {np.mean(inside | near):.1%} |", flush=True)


def _show(done: Callable[..., None], share: float) -> None:
    done(completed=share)


def _nearest(cubes: Cubes, nodule: int, found: Sequence[Candidate]) -> float:
    """Distance in mm from the centre of a nodule to the nearest candidate."""
    offsets = [GRID.to_index(c.centre_lps) - cubes.centre_zyx(nodule) for c in found]
    return float(min((np.linalg.norm(offset) for offset in offsets), default=np.inf))


if __name__ == "__main__":
    typer.run(main)
