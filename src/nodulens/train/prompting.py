"""How well the prompted network outlines the central slice of a nodule, by what it is told.

The publications prompt slice by slice. So the network is told a box on one slice here, as a person draws it, and judged
on that slice: the box of the readers' outline, the same with every side off by a tenth, and the square that an
annotated diameter gives; and, in three dimensions, the strongest mark of our detector and a point in the nodule's
middle. Beside each box stands the ellipse that it inscribes. It learnt from LIDC: none of this is zero-shot.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from nodulens.core.geometry import Geometry
from nodulens.core.nodule import Box
from nodulens.core.volume import Volume
from nodulens.data.crops import Cubes, Stacks
from nodulens.data.folds import is_left_out
from nodulens.errors import BadPrompt
from nodulens.evaluate.segmentation import Overlap, compare, summarise
from nodulens.recipe import DEFAULT
from nodulens.runtime.engine import Model, load_model
from nodulens.stages.pointing import prompt_of_annotation, prompt_of_outline, shaken
from nodulens.stages.prompt import GRID, Prompt
from nodulens.stages.segment import prompt_of_box, prompt_of_candidate, prompt_of_point, segment
from nodulens.train import segmenter
from nodulens.train.export import export
from nodulens.train.parts import Outcome, Rows
from nodulens.train.segmenter import Example, ellipsoid, strongest_mark, without_ends

SHAKE = 0.1
"""Normal error of every side of a shaken box, over the side."""
ONE_IN = 4
"""Of the stacks every fourth is judged, as for the card of the weights."""
PROMPTED = ("box", "box_shaken", "diameter", "detector", "point")
BESIDE = ("ellipse", "ellipse_shaken", "ellipse_diameter")


def load(data: Path) -> list[Example]:
    """The nodules of stacks and cubes."""
    return segmenter.examples(Stacks(data), Cubes(data))


def rows_of(material: Sequence[Example], fold: int) -> Rows:
    """The stacks of a fold that are judged."""
    left = is_left_out([e.patient for e in material], fold)
    rows = np.flatnonzero(left & ~np.array([e.is_cube for e in material]))
    return np.asarray(rows[rows % ONE_IN == 0])


def trained(material: list[Example], fold: int, run: Path) -> Model:
    """The network of the card's figures that has not seen the fold; trained where its checkpoint is not there."""
    net = segmenter.train(material, fold, run)
    card = {"name": "segmenter", "command": "", "trained_on": {}, "input": {}, "settings": {}, "figures": {}}
    export(net, torch.rand(3, 3, *GRID), run / f"fold{fold}", card)
    return load_model("segmenter", folder=run / f"fold{fold}")


def judge(model: Model, material: Sequence[Example], rows: Rows, seed: int = 0) -> Outcome:
    """Outlines of the central slices of some nodules; what no prompt leads to counts 0."""
    rng = np.random.default_rng(seed)
    columns: dict[str, list[Any]] = {"row": rows.tolist(), "patient": [material[r].patient for r in rows]}
    for row in rows:
        for kind, case in _central(model, material[row], rng).items():
            counts = {"truth": case.truth_voxels, "predicted": case.predicted_voxels, "common": case.common_voxels}
            for name, value in counts.items():
                columns.setdefault(f"{kind} {name}", []).append(value)
    return Outcome(figures(columns), columns)


def figures(columns: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """Mean Dice, IoU and sensitivity by kind of prompt, with intervals by patient, of one fold or of several."""
    out: dict[str, Any] = {"nodules": len(columns["row"])}
    for kind in (*PROMPTED, *BESIDE):
        counts = zip(*(columns[f"{kind} {name}"] for name in ("truth", "predicted", "common")), strict=True)
        cases = [Overlap(truth, drawn, both, 1.0, np.nan, np.nan) for truth, drawn, both in counts]
        told = summarise(cases, columns["patient"])
        out[kind] = {
            name: {end: round(float(getattr(getattr(told, name), end)), 4) for end in ("value", "low", "high")}
            for name in ("dice", "iou", "sensitivity")
        }
    return out


def _central(model: Model, example: Example, rng: np.random.Generator) -> dict[str, Overlap]:
    z = int(example.truth.sum(axis=(1, 2)).argmax())
    plane = example.truth[z]
    shape, spacing = example.truth.shape, example.spacing_zyx
    grid = Geometry.axial((shape[0], shape[1], shape[2]), spacing)
    patient, repeated = (Volume(unit * 1400 - 1000, grid) for unit in (example.image, without_ends(example)))
    flat = Box.of_mask(plane[None])
    true = prompt_of_outline(Box((z, *flat.start[1:]), (z + 1, *flat.stop[1:])))
    moved = shaken(true, rng, SHAKE)
    middle = (z, *ndimage.center_of_mass(plane))
    x, y, height = (float(v) for v in grid.to_lps(middle))
    annotated = prompt_of_annotation(patient, (x, y, height), 2 * float(np.sqrt(plane.sum() / np.pi)) * spacing[1])
    boxes = {"box": true, "box_shaken": moved, "diameter": annotated}
    asked: dict[str, tuple[Prompt, int]] = {}
    found = {kind: np.zeros_like(plane) for kind in (*PROMPTED, *BESIDE)}
    for kind, box in boxes.items():
        start, stop = np.array([z, *box.start[1:]], float), np.array([z + 1, *box.stop[1:]], float)
        asked[kind] = prompt_of_box(repeated, start, stop), DEFAULT.rounds_drawn
        ellipse = Prompt((0.0, *box.start[1:]), (1.0, *box.stop[1:]), 1.0)
        found[kind.replace("box", "ellipse").replace("diameter", "ellipse_diameter")] = ellipsoid(
            ellipse, (1, *shape[1:])
        )[0]
    mark = strongest_mark(patient, example.truth)
    if mark is not None:
        asked["detector"] = prompt_of_candidate(patient, mark), DEFAULT.rounds_detected
    asked["point"] = prompt_of_point(patient, (x, y, height)), DEFAULT.rounds_detected
    for kind, (prompt, rounds) in asked.items():
        with suppress(BadPrompt):  # nothing found there: the mask stays empty
            where, mask = segment(repeated, prompt, model, rounds)
            whole = np.zeros_like(example.truth)
            whole[where.slices] = mask
            found[kind] = whole[z]
    return {kind: compare(plane, mask, spacing[1:]) for kind, mask in found.items()}
