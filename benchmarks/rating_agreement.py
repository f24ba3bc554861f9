"""How far LIDC's readers agree on how a nodule looks: each reader against the median of the others, as the network is.

    python benchmarks/rating_agreement.py --data ../shared/data

Nodules of the cubes with three readers or more. As on the network's card, a median above 3 is told from one below, and
one of 3 is left out; the reader's rating takes the network's place as the score. The network's target is the median of
all readers, here one fewer is in it, and a reader's few ratings tie where the network's do not: both lower this AUC.

LIDC's file does not say who is who: which of a nodule's readers comes first changes from scan to scan, so the figures
are of readers in general. Spiculation and lobulation were rated on scales of their own in about 100 of the first 399
patients (TCIA's page of LIDC-IDRI); "ends" counts nodules that one reader rates lowest and another highest.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, get_args

import numpy as np
import typer
from numpy.typing import NDArray

from nodulens.core.nodule import Rating
from nodulens.data.material import Cubes
from nodulens.metrics.agreement import cohen_kappa
from nodulens.metrics.classification import auc
from nodulens.metrics.statistics import bootstrap
from nodulens.runtime.weights import card
from nodulens.train.default.calibration import PANEL

LEAST = 10
"""Comparisons of each class for an AUC."""


def main(data: Annotated[Path, typer.Option(help="The folder that holds lidc/.")] = Path("../shared/data")) -> None:
    """Print the table of docs/report.md."""
    cubes = Cubes(data)
    chosen = np.flatnonzero(cubes.ratings.readers >= PANEL)
    network = card("malignancy").figures["attributes"]
    print(f"{len(chosen)} nodules of {len({cubes.patients[n] for n in chosen})} patients\n")
    print(
        "| rating | comparisons | above 3 | one reader, AUC [95 %] | the network, AUC | one reader, weighted κ | ends |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name in get_args(Rating):
        values = cubes.ratings.of(name)[chosen].astype(float)
        one, others, nodule = left_out(values)
        patients = np.array(cubes.patients)[chosen][nodule]
        kappa = cohen_kappa(one, others, weights="quadratic")
        decided = others != 3
        truth, score = others[decided] > 3, one[decided]
        found = "–"
        if min(truth.sum(), (~truth).sum()) >= LEAST:
            area = bootstrap(lambda rows, t=truth, s=score: auc(t[rows], s[rows]), patients[decided])
            found = f"{area.value:.3f} [{area.low:.3f}, {area.high:.3f}]"
        shipped = network[name]["auc"]
        ends = (cubes.ratings.spread(name)[chosen] == values.max() - 1).mean()
        print(
            f"| {name} | {len(truth)} | {truth.sum()} | {found} | {'–' if shipped is None else f'{shipped:.3f}'} "
            f"| {kappa:.2f} | {ends:.1%} |"
        )


def left_out(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int_]]:
    """Each rating with the median of the same nodule's others.

    Args:
        values: (N, readers), 0 where there is no rating.

    Returns:
        (C,) each: the ratings, the medians, the nodule's row.
    """
    rows, readers = np.nonzero(values)
    table = np.where(values > 0, values, np.nan)[rows]
    table[np.arange(len(rows)), readers] = np.nan
    return values[rows, readers], np.nanmedian(table, axis=1), rows


if __name__ == "__main__":
    typer.run(main)
