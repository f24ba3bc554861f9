"""How wrong a hilum at its mean place is, and how often that changes a third of the way to the edge of the lung.

    python benchmarks/hilum.py --data ../shared/data

Nobody marked hila in our data. The large airways that the lung mask leaves out do run through them: the middle of the
part of the lumen that lies within 3 mm of a lung is taken for its hilum here. The mean place in the three nodule-free
scans, which the program has, is compared with that in each of the four evaluation scans, and what of their lungs then
lies in another third, central, middle or peripheral, is counted.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from lobes import SCANS
from numpy.typing import NDArray

import nodulens as nl
from nodulens.core.nodule import Side
from nodulens.core.volume import Mask, Volume
from nodulens.data.material import Background
from nodulens.ops.blocks import block_grid, block_means
from nodulens.ops.components import dilated
from nodulens.ops.orient import canonical
from nodulens.ops.resample import nearest_index
from nodulens.stages.airway import airway_lumen
from nodulens.stages.lungs import segment_lungs
from nodulens.stages.position import hilum, hilum_to_edge, lung_extent
from nodulens.stages.thorax import air_within_body

GRID_MM = 2.1
NEAR_MM = 3.0
PLACES = 2000
"""So many voxels of each lung are counted."""

Float = NDArray[np.float64]


def main(data: Annotated[Path, typer.Option(help="Folder with ct/ and background/.")] = Path("../shared/data")) -> None:
    """Print the figures of docs/prompts.md."""
    known = [with_airways(Background.volume(data, name)) for name in Background.PATIENTS]
    others = [with_airways(canonical(nl.read(data / "ct" / name))[0]) for name in SCANS]
    for side in ("left", "right"):
        mean = np.mean([share_of(lungs, side, middles[side]) for lungs, middles in known], axis=0)
        print(f"{side} lung: height, depth, width from the middle {np.round(mean, 2)} in {len(known)} scans")
        report(side, [(lungs, middles[side]) for lungs, middles in others])


def with_airways(volume: Volume) -> tuple[Mask, dict[Side, Float]]:
    """The lungs of a scan, and the middle of the airways beside each, see :func:`airways_near`."""
    lungs = segment_lungs(volume)
    return lungs, airways_near(volume, lungs)


def share_of(lungs: Mask, side: Side, at: Float) -> Float:
    """An index (z, y, x) as (height, depth, width from the middle of the body) of a lung, as ``HILUM`` has it."""
    first, last = lung_extent(lungs, side).T
    height, depth, width = (at - first) / (last - first)
    return np.array([height, depth, width if side == "left" else 1 - width])


def airways_near(volume: Volume, lungs: Mask) -> dict[Side, Float]:
    """The middle of the airways beside each lung, index (z, y, x) of the volume."""
    blocks = [max(1, round(GRID_MM / s)) for s in volume.geometry.spacing_zyx]
    low = block_means(volume.hu, blocks)
    grid = block_grid(volume.geometry, blocks, low.shape)
    lumen = airway_lumen(low, air_within_body(low, grid.spacing_zyx), grid.spacing_zyx)
    lines = nearest_index(lungs.geometry, grid)
    labels = lungs.labels[np.ix_(*(line.clip(0) for line in lines))]
    out: dict[Side, Float] = {}
    for side in ("left", "right"):
        beside = lumen & dilated(labels == lungs.value(f"{side} lung"), NEAR_MM, grid.spacing_zyx)
        out[side] = np.array([line[at].mean() for line, at in zip(lines, np.nonzero(beside), strict=True)])
    return out


def report(side: Side, scans: list[tuple[Mask, Float]]) -> None:
    """How far off the hilum of the program is in these scans, and what that changes."""
    away, moved = [], []
    rng = np.random.default_rng(0)
    for lungs, at in scans:
        mean = hilum(lung_extent(lungs, side), side)
        away.append(np.linalg.norm((mean - at) * lungs.geometry.spacing_zyx))
        lung = np.argwhere(lungs.labels == lungs.value(f"{side} lung"))
        places = lung[rng.integers(len(lung), size=PLACES)].astype(np.float64)
        thirds = [[third(hilum_to_edge(lungs, side, origin, place)) for place in places] for origin in (mean, at)]
        moved.append(np.bincount(3 * np.array(thirds[1]) + np.array(thirds[0]), minlength=9).reshape(3, 3) / PLACES)
    print(f"  off by {np.mean(away):.0f} mm, at most {max(away):.0f} mm, in {len(scans)} others")
    table = np.mean(moved, axis=0)
    worst = max(1 - np.trace(one) for one in moved)
    print(f"  in another third: {1 - np.trace(table):.1%}, in the worst scan {worst:.1%}")
    for k, name in enumerate(("central", "middle", "peripheral")):
        print(f"  {name}: {table[k].sum():.0%} of the lung; {table[k, k] / table[k].sum():.0%} of it called so")
    wrong = max(max(one[0, 2], one[2, 0]) for one in moved)
    print(f"  central called peripheral or the reverse: at most {wrong:.2%}")


def third(share: float | None) -> int:
    """0 central, 1 middle, 2 peripheral."""
    return min(int(3 * (share or 0.0)), 2)


if __name__ == "__main__":
    typer.run(main)
