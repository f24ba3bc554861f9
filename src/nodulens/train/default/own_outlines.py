"""The program's own outlines of the nodules in cubes, each by a segmenter that was not trained on its patient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nodulens.core.nodule import Candidate
from nodulens.core.volume import Volume
from nodulens.data.folds import fold_of
from nodulens.data.material import CUBE_MM, Cubes
from nodulens.io.atomic import whole_file
from nodulens.methods.recipe import DEFAULT
from nodulens.runtime.engine import Model
from nodulens.stages.prompted import outlined
from nodulens.stages.segment import prompt_of_candidate, segment
from nodulens.train.default.cube_detection import GRID
from nodulens.train.default.outline_figures import Marks, strongest_candidate

Bool = NDArray[np.bool_]


def own_outlines(cubes: Cubes, models: Sequence[Model], marks: Callable[[], Marks], run: Path) -> dict[int, Bool]:
    """Outline every cube's nodule as the program does: from the detector's mark on it, else from the strongest
    candidate, in the rounds of the default.

    Args:
        models: the prompted segmenter of each fold, which left out the patients of that fold.
        marks: searches all cubes; called once, if anything is to be outlined.
        run: the outlines of each fold are kept there, and made again if its segmenter has changed.

    Returns:
        Number of a cube → (50, 50, 50) mask. Nodules that nothing was found on, or only something beside what the
        readers outlined, are missing.
    """
    found: dict[int, Bool] = {}
    hits: Marks | None = None
    for fold, model in enumerate(models):
        numbers = [n for n in cubes.nodules.tolist() if fold_of(cubes.patients[n]) == fold]
        kept = run / f"outlines{fold}.npz"
        masks = _known(kept, model, numbers)
        if masks is None:
            hits = hits or marks()
            masks = np.stack([_outlined(cubes, n, model, hits(n)) for n in numbers])
            with whole_file(kept) as part, part.open("wb") as file:
                bits = np.packbits(masks, axis=-1)
                np.savez_compressed(file, bits=bits, numbers=numbers, segmenter=model.card.sha256)
        found |= {n: mask for n, mask in zip(numbers, masks, strict=True) if (mask & cubes.outlined(n)).any()}
    return found


def _known(path: Path, model: Model, numbers: Sequence[int]) -> Bool | None:
    """Masks (N, 50, 50, 50) that an earlier run has made by the same segmenter."""
    if not path.exists():
        return None
    with np.load(path) as stored:
        if str(stored["segmenter"]) != model.card.sha256 or stored["numbers"].tolist() != list(numbers):
            return None
        return np.asarray(np.unpackbits(stored["bits"], axis=-1, count=CUBE_MM), dtype=bool)


def _outlined(cubes: Cubes, number: int, model: Model, mark: Candidate | None) -> Bool:
    """(50, 50, 50): empty where nothing was found."""
    volume, truth = Volume(cubes.hu(number), GRID), cubes.truth(number)
    if mark is None and truth.any():
        mark = strongest_candidate(volume, truth)
    if mark is None:
        return np.zeros_like(truth)
    outline = partial(segment, model=model, rounds=DEFAULT.rounds_detected)
    return outlined(outline, volume, prompt_of_candidate(volume, mark))
