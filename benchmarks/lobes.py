"""How wrong a lobe estimated from position alone must be, for people's fissures differ and ours are the mean.

    python benchmarks/lobes.py --data ../shared/data

Nobody outlined lobes in our data. What is known is how much lobes differ between people: the shares of the lungs that
32 healthy supine adults' lobes have, with their standard deviations (Yamada et al. 2020, table 3,
doi:10.1159/000507265). Flat fissures are moved at random, both ends on their own, as far as gives those deviations, and
what then lies in another lobe than by the mean fissures is counted. Real fissures are curved and incomplete, so this is
the least error to expect.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

import nodulens as nl
from nodulens.core.nodule import Side
from nodulens.core.volume import Volume
from nodulens.data.material import Background
from nodulens.ops.orient import canonical
from nodulens.stages.lungs import segment_lungs
from nodulens.stages.position import HORIZONTAL_RIGHT, OBLIQUE_BACK, OBLIQUE_FRONT, lung_extent, share_along

SCANS = ("LIDC-IDRI-0001", "LIDC-IDRI-0003", "LIDC-IDRI-0028", "Lung_Dx-A0001")
DEVIATIONS: dict[Side, tuple[float, float]] = {"right": (2.6 / 53.6, 2.4 / 53.6), "left": (2.4 / 46.4, 2.1 / 46.4)}
"""Of the lower and the upper lobe's share of that lung."""
ENDS: dict[Side, tuple[float, float]] = {"right": (0.062, 0.048), "left": (0.072, 0.0)}
"""Standard deviations of the oblique fissure's two ends and of the horizontal one, in heights of the lung: those that
bring the shares' deviations about (printed beside the published ones)."""
BINS = (0.0, 5.0, 10.0, 20.0, np.inf)
DRAWS = 200

Float = NDArray[np.float64]


def main(data: Annotated[Path, typer.Option(help="Folder with ct/ and background/.")] = Path("../shared/data")) -> None:
    """Print the table of docs/prompts.md."""
    lungs: dict[Side, list[tuple[Float, Float]]] = {"left": [], "right": []}
    for name in (*Background.PATIENTS, *SCANS):
        known = name in Background.PATIENTS
        volume = Background.volume(data, name) if known else canonical(nl.read(data / "ct" / name))[0]
        for side, kept in lungs.items():
            kept.append(points(volume, side))
    for side, kept in lungs.items():
        wrong, shares, by_distance = moved(side, kept)
        low, high = shares.std(axis=0)
        often, rarely = wrong.mean(), np.quantile(wrong, 0.95)
        print(f"{side} lung, {len(kept)} scans: {often:.1%} in another lobe, {rarely:.1%} or more in 1 of 20")
        for lobe, made, known in zip(("lower", "upper"), (low, high), DEVIATIONS[side], strict=True):
            print(f"  {lobe} lobe's share deviates by {made:.1%}; published {known:.1%}")
        for start, stop, share in zip(BINS, BINS[1:], by_distance, strict=False):
            print(f"  {start:g} to {stop:g} mm from a mean fissure: {share:.0%}")


def points(volume: Volume, side: Side) -> tuple[Float, Float]:
    """Places of a lung's voxels in its frame, (2, n) height and depth, and its height and depth in mm."""
    lungs = segment_lungs(volume)
    extent = lung_extent(lungs, side)
    value = next(v for v, name in lungs.names.items() if name == f"{side} lung")
    z, y, _ = np.nonzero(lungs.labels[::2, ::4, ::8] == value)
    spacing = volume.geometry.spacing_zyx
    shares = np.stack([share_along(extent[0], 2.0 * z), share_along(extent[1], 4.0 * y)])
    return shares, (extent[:, 1] - extent[:, 0]) * np.asarray(spacing[:2])


def moved(side: Side, lungs: list[tuple[Float, Float]]) -> tuple[Float, Float, Float]:
    """For each draw and lung: the share in another lobe, and by how much the lower and the upper lobe's share changed;
    and the share in another lobe by distance from the nearest mean fissure."""
    rng = np.random.default_rng(0)
    wrong, shares = [], []
    changed, counted = np.zeros(len(BINS) - 1), np.zeros(len(BINS) - 1)
    for _ in range(DRAWS):
        front, back = rng.normal(0, ENDS[side][0], 2)
        level = rng.normal(0, ENDS[side][1])
        for (height, depth), mm in lungs:
            mean = lobes(side, height, depth, (OBLIQUE_FRONT, OBLIQUE_BACK, HORIZONTAL_RIGHT))
            there = (OBLIQUE_FRONT + front, OBLIQUE_BACK + back, HORIZONTAL_RIGHT + level)
            own = lobes(side, height, depth, there)
            wrong.append((own != mean).mean())
            shares.append([(own == k).mean() - (mean == k).mean() for k in (0, 2)])
            number = np.digitize(distance_mm(side, height, depth, mm), BINS) - 1
            changed += np.bincount(number, own != mean, len(changed))
            counted += np.bincount(number, minlength=len(counted))
    return np.array(wrong), np.array(shares), changed / counted


def lobes(side: Side, height: Float, depth: Float, fissures: tuple[float, float, float]) -> NDArray[np.int_]:
    """0 lower, 1 middle, 2 upper, as :func:`nodulens.stages.position.lobe_at` with other fissures."""
    front, back, level = fissures
    lower = height < front + depth * (back - front)
    middle = (height < level) if side == "right" else np.zeros_like(lower)
    return np.where(lower, 0, np.where(middle, 1, 2))


def distance_mm(side: Side, height: Float, depth: Float, mm: Float) -> Float:
    """From the nearest mean fissure."""
    above = (height - OBLIQUE_FRONT - depth * (OBLIQUE_BACK - OBLIQUE_FRONT)) * mm[0]
    oblique = np.abs(above) / np.hypot(1, (OBLIQUE_BACK - OBLIQUE_FRONT) * mm[0] / mm[1])
    if side == "left":
        return np.asarray(oblique)
    level = np.abs(height - HORIZONTAL_RIGHT) * mm[0]
    return np.where(above > 0, np.minimum(oblique, level), oblique)


if __name__ == "__main__":
    typer.run(main)
