"""How well a prompted network segments the central slice of a nodule, by its prompt: our own, SAM or SAM2.

The publications prompt slice by slice, so here the network is prompted on one slice and evaluated on that slice.
Prompts are the box of the readers' outline, the same with every side off by a tenth, the square of an annotated
diameter, the strongest candidate of our candidate stage, and a point at the nodule's centre; our own network takes the
last two in three dimensions. The baseline of each box is the ellipse inscribed in it. Our network was trained on LIDC,
so none of its figures is zero-shot. Whole scans, which show more than a close crop, are in
:mod:`nodulens.evaluate.prompts`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from nodulens.core.geometry import Geometry, disc_diameter_mm
from nodulens.core.nodule import Box, Candidate
from nodulens.core.volume import Volume
from nodulens.data.folds import is_left_out
from nodulens.data.material import Stacks
from nodulens.io.records import Columns
from nodulens.methods.recipe import DEFAULT
from nodulens.metrics.estimates import Estimate
from nodulens.metrics.segmentation import Overlap, compare, overlap_columns, overlaps, summarise
from nodulens.metrics.statistics import Interval
from nodulens.ops.intensity import from_unit
from nodulens.runtime.engine import Model
from nodulens.stages.prompted import (
    PromptedNetwork,
    outlined,
    prompt_of_annotation,
    prompt_of_outline,
    shaken,
    view_of,
)
from nodulens.stages.prompts import DRAWN, ROUGH, Prompt
from nodulens.stages.sam import Sam
from nodulens.stages.segment import DRAWN_ROUNDS, prompt_of_candidate, prompt_of_point, segment
from nodulens.train.default import segmenter
from nodulens.train.default.outline_figures import inscribed, strongest_candidate, without_ends
from nodulens.train.default.segmenter import Example
from nodulens.train.tasks.protocol import Rows, median_ms

Bool = NDArray[np.bool_]

SHAKE = 0.1
"""Normal error of every side of a shaken box, over the side."""
ONE_IN = 4
"""Every fourth stack is evaluated, as for the card of the weights."""
PROMPTED = ("box", "box_shaken", "diameter", "detector", "point")
BESIDE = ("ellipse", "ellipse_shaken", "ellipse_diameter")


@dataclass(frozen=True)
class PromptFigures:
    """Means over nodules of the overlap with the readers' mask, each 0…1 with its interval by patient."""

    dice: Estimate
    iou: Estimate
    sensitivity: Estimate


@dataclass(frozen=True)
class CentralSliceFigures:
    """Figures of each prompt, and of the ellipses as baselines."""

    nodules: int
    by_prompt: Mapping[str, PromptFigures]

    def to_json(self) -> dict[str, Any]:
        """As in a cell of the table of results."""
        return {"nodules": self.nodules, **{kind: asdict(one) for kind, one in self.by_prompt.items()}}


@dataclass(frozen=True)
class CentralSlices:
    """A network evaluated on the central slices of nodules.

    Attributes:
        row: (N,) number of each nodule in its material.
        patient: (N,).
        overlap: prompt → (N,) with the readers' mask; that of an empty mask where a nodule has no such prompt.
    """

    row: tuple[int, ...]
    patient: tuple[str, ...]
    overlap: Mapping[str, tuple[Overlap, ...]]

    @cached_property
    def figures(self) -> CentralSliceFigures:
        """Means over the nodules, with intervals by patient."""
        found = {kind: summarise(cases, self.patient) for kind, cases in self.overlap.items()}
        by_prompt = {
            kind: PromptFigures(*(_estimate(getattr(one, name)) for name in ("dice", "iou", "sensitivity")))
            for kind, one in found.items()
        }
        return CentralSliceFigures(len(self.row), by_prompt)

    def to_json(self) -> dict[str, list[Any]]:
        """As columns, the form of rows in a cell of the table of results."""
        columns: dict[str, list[Any]] = {"row": list(self.row), "patient": list(self.patient)}
        for kind, cases in self.overlap.items():
            columns |= overlap_columns(cases, kind)
        return columns

    @classmethod
    def from_json(cls, columns: Columns) -> CentralSlices:
        """From the columns of :meth:`to_json`, of one fold or several."""
        overlap = {kind: overlaps(columns, kind) for kind in (*PROMPTED, *BESIDE)}
        return cls(tuple(columns["row"]), tuple(columns["patient"]), overlap)


def _estimate(figure: Interval) -> Estimate:
    return Estimate(*(round(float(end), 4) for end in (figure.value, figure.low, figure.high)))


def every_fourth(data: Path, most: int | None = None) -> list[Example]:
    """The evaluated stacks of all folds, for networks that were trained on none of them.

    Args:
        most: largest number, the first ones; None: all.
    """
    stacks = Stacks(data)
    outlined = [n for n in stacks.nodules.tolist() if stacks.truth(n).any()]
    return [segmenter.from_stack(stacks, n) for n in outlined[::ONE_IN][:most]]


def rows_of(material: Sequence[Example], fold: int) -> Rows:
    """The evaluated stacks of a fold."""
    left = is_left_out([e.patient for e in material], fold)
    rows = np.flatnonzero(left & np.array([e.is_stack for e in material]))
    return np.asarray(rows[rows % ONE_IN == 0])


def own(model: Model, rounds: int = DEFAULT.rounds_detected) -> PromptedNetwork:
    """Our own network, which works in three dimensions whatever the prompt.

    A box on one slice is made as high as it is wide, as for a box drawn by a person; for a candidate, a point and a
    rough box inference is repeated until the mask settles, at most ``rounds`` times.
    """

    def outline(volume: Volume, prompt: Prompt, prior: Bool | None) -> tuple[Box, Bool]:
        most = rounds if prompt.trust == ROUGH else DRAWN_ROUNDS
        return segment(volume, prompt.raised(volume.geometry.spacing_zyx), model, most, prior)

    return lambda prompt_kind, prior: partial(outline, prior=prior)


def close_up(sam: Sam) -> PromptedNetwork:
    """SAM or SAM2 on each slice by itself, on a close crop: stacks hold no more."""
    return replace(sam, memory=False, view=partial(view_of, part="crop")).network


def evaluate(model: Model, material: Sequence[Example], rows: Rows, seed: int = 0) -> CentralSlices:
    """Our own network on the central slices of some nodules; what no prompt leads to counts 0."""
    return evaluate_prompted(own(model), material, rows, seed=seed)


def milliseconds(model: Model, material: Sequence[Example], count: int = 10) -> float:
    """Time of segmentation by a box on one slice on the CPU, median over nodules spread evenly over the stacks."""
    stacks = [e for e in material if e.is_stack]
    jobs = []
    for k in np.linspace(0, len(stacks) - 1, count).astype(int).tolist():
        volume, z = repeated(stacks[k]), int(stacks[k].truth.sum(axis=(1, 2)).argmax())
        around = Box.of_mask(stacks[k].truth[z : z + 1])
        prompt = prompt_of_outline(Box((z, *around.start[1:]), (z + 1, *around.stop[1:]))).on_slice(z)
        jobs.append(partial(outlined, own(model)("box", None), volume, prompt))
    return median_ms(jobs)


def evaluate_prompted(
    network: PromptedNetwork, material: Sequence[Example], rows: Rows, *, flat: bool = False, seed: int = 0
) -> CentralSlices:
    """Evaluate a prompted network on the central slices of some nodules; a nodule without the prompt counts 0.

    Args:
        network: :func:`own`, or :func:`close_up`.
        material: of :func:`load` or :func:`every_fourth`.
        rows: of the material, each a nodule.
        flat: whether the network works slice by slice, so that candidates and points too prompt that one slice.
        seed: of the shaken boxes; the same for all networks.
    """
    rng = np.random.default_rng(seed)
    cases = [_central(network, flat, material[row], rng) for row in rows]
    overlap = {kind: tuple(case[kind] for case in cases) for kind in (*PROMPTED, *BESIDE)}
    return CentralSlices(tuple(rows.tolist()), tuple(material[r].patient for r in rows), overlap)


def prompts_at(
    volume: Volume, box: Box, middle_zyx: tuple[float, ...], diameter_mm: float, rng: np.random.Generator
) -> dict[str, Prompt]:
    """The prompts of a nodule that need no detector: see :data:`PROMPTED`.

    Args:
        volume: canonical orientation.
        box: around the readers' outline.
        middle_zyx: index of the centre of the outline.
        diameter_mm: as an annotation states it.
        rng: of the shaken box.
    """
    x, y, z = (float(v) for v in volume.geometry.to_lps(middle_zyx))
    true = prompt_of_outline(box)
    return {
        "box": true,
        "box_shaken": shaken(true, rng, SHAKE),
        "diameter": prompt_of_annotation(volume, (x, y, z), diameter_mm),
        "point": prompt_of_point(volume, (x, y, z)),
    }


def repeated(example: Example) -> Volume:
    """A nodule's volume as the input of a network: the end slices of its stack are repeated beyond it."""
    return _volume(example, without_ends(example))


def _volume(example: Example, unit: NDArray[np.float32]) -> Volume:
    z, y, x = unit.shape
    return Volume(from_unit(unit), Geometry.axial((z, y, x), example.spacing_zyx))


def _central(network: PromptedNetwork, flat: bool, example: Example, rng: np.random.Generator) -> dict[str, Overlap]:
    z = int(example.truth.sum(axis=(1, 2)).argmax())
    found = central_masks(network, flat, example, z, rng)
    return {kind: compare(example.truth[z], mask, example.spacing_zyx[1:]) for kind, mask in found.items()}


def central_masks(
    network: PromptedNetwork, flat: bool, example: Example, z: int, rng: np.random.Generator
) -> dict[str, Bool]:
    """The masks (y, x) of a network on one slice of a nodule by each prompt, and the ellipses beside; empty where there
    is no such prompt.

    Args:
        network, flat: see :func:`evaluate_prompted`.
        example: a nodule of the stacks.
        z: slice of it, on which the readers outlined it.
        rng: of the shaken box.
    """
    plane, pixel_mm = example.truth[z], example.spacing_zyx[1:]
    patient, volume = _volume(example, example.image), repeated(example)
    around = Box.of_mask(plane[None])
    true = Box((z, *around.start[1:]), (z + 1, *around.stop[1:]))
    middle = (z, *ndimage.center_of_mass(plane))
    prompts = prompts_at(patient, true, middle, disc_diameter_mm(plane.sum(), pixel_mm[0]), rng)
    mark: Candidate | None = strongest_candidate(patient, example.truth)
    if mark is not None:
        prompts["detector"] = prompt_of_candidate(patient, mark)
    found = {kind: np.zeros_like(plane) for kind in (*PROMPTED, *BESIDE)}
    for kind, prompt in prompts.items():
        is_drawn = prompt.trust == DRAWN
        if flat and not is_drawn and not prompt.start[0] <= z + 0.5 <= prompt.stop[0]:
            continue  # the candidate does not reach this slice
        if flat or is_drawn:
            prompt = prompt.on_slice(z)
        found[kind] = outlined(network("point" if kind == "point" else "box", None), volume, prompt)[z]
        if is_drawn:
            beside = kind.replace("box", "ellipse").replace("diameter", "ellipse_diameter")
            found[beside] = outlined(inscribed, volume, prompt)[z]
    return found
