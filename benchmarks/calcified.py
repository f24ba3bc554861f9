"""How far a word that rests on Hounsfield units agrees with the readers: "calcified" in a text query.

    python benchmarks/calcified.py --data ../shared/data

A nodule is calcified in a query from a 95th percentile of 200 HU on (:mod:`nodulens.query.meanings`). LIDC's readers
rated calcification from 1 to 5 by its kind, and 6 where there is none. Counted are the stacks' nodules of three readers
or four who do not split evenly, with the percentile over the readers' consensus. Nothing is chosen here.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from nodulens.data.material import Stacks
from nodulens.query.meanings import CALCIFIED_HU

ABSENT = 6
LEAST_READERS = 3
SIZES_MM = (0.0, 6.0, 10.0, np.inf)


def main(data: Annotated[Path, typer.Option(help="Folder with lidc/.")] = Path("../shared/data")) -> None:
    """Print the table of docs/prompts.md."""
    stacks = Stacks(data)
    rated = stacks.ratings.of("calcification")
    rows = []
    for nodule in stacks.nodules:
        given = rated[nodule][rated[nodule] > 0]
        seen = (given != ABSENT).sum()
        truth = stacks.truth(nodule)
        if len(given) >= LEAST_READERS and 2 * seen != len(given) and truth.any():
            dense = float(np.percentile(stacks.hu(nodule)[truth], 95)) >= CALCIFIED_HU
            rows.append((2 * seen > len(given), dense, stacks.diameter_mm(nodule)))
    calcified, dense, size = (np.array(column) for column in zip(*rows, strict=True))
    for low, high in ((0.0, np.inf), *pairwise(SIZES_MM)):
        here = (size >= low) & (size < high)
        yes, no = here & calcified, here & ~calcified
        print(
            f"{low:g} to {high:g} mm: {(yes & dense).sum()} of {yes.sum()} calcified ones found, "
            f"{(no & dense).sum()} of {no.sum()} others taken for calcified"
        )


if __name__ == "__main__":
    typer.run(main)
