"""Part-solid and ground-glass nodules rendered into the nodule-free lungs, of which the ground truth is exact.

Readers marked few nodules whose solid part is much denser than the ground glass around it, and each in its own way; a
network taught on these alone outlines the solid part and leaves the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from nodulens.core.nodule import Box
from nodulens.core.volume import Mask, Volume, crop_array
from nodulens.data.folds import fold_of
from nodulens.data.material import CUBE_MM, Background, Cubes, Stacks
from nodulens.data.render import Rendered, RenderedScan, render, render_many
from nodulens.data.shapes import Shape, stack_shapes
from nodulens.ops.intensity import to_unit
from nodulens.stages.lungs import segment_lungs
from nodulens.train.default.segmenter import Example, examples, marks_on

SCENES, NODULES = 6, 14
"""How often nodules are rendered into each lung, other ones each time, and how many at once."""
TEXTURES = {1.0: 0.7, 2.0: 0.15, 3.0: 0.15}
"""Ratings of texture, and their shares: none of it solid, about a twelfth of it in lumps, a quarter."""
CORED, CORES = 0.75, (0.3, 0.65)
"""Share of the ground glass that has one solid core, and its diameter as a share of the nodule's."""
SIZES_MM = (8.0, 24.0)
"""Diameters, the logarithm evenly spread; outlines are enlarged or shrunk to them."""
LEAST_MM = 5.0
"""Smaller outlines are too coarse to be enlarged."""
SEED = 17


def outline_material(data: Path, *, rendered: bool = False) -> list[Example]:
    """What the prompted segmenter is trained on: stacks, cubes, and on demand rendered nodules.

    Args:
        data: folder with ``lidc/``, and for the rendered ``background/``.
    """
    stacks = Stacks(data)
    real = examples(stacks, Cubes(data))
    return [*real, *rendered_nodules(data, stacks)] if rendered else real


def rendered_nodules(data: Path, stacks: Stacks) -> list[Example]:
    """Nodules with the lung around them, each of the patient of its lung.

    Outlines are of patients of the lung's own fold, so that leaving a fold out leaves out both.

    Args:
        data: folder with ``background/``.
        stacks: whose outlines and ratings are used, and no pixel.
    """
    shapes = [s for s in stack_shapes(stacks).values() if s.diameter_mm >= LEAST_MM]
    out: list[Example] = []
    for patient in Background.PATIENTS:
        volume = Background.volume(data, patient)
        lungs = segment_lungs(volume)
        own = [s for s in shapes if fold_of(s.patient) == fold_of(patient)]
        for scene in _scenes(volume, lungs, own, np.random.default_rng([SEED, fold_of(patient)])):
            for label, nodule in enumerate(scene.nodules, 1):
                if not Background.is_unannotated(patient, nodule.place):
                    out.append(_example(patient, len(out), scene, nodule, label))
    return out


def _scenes(volume: Volume, lungs: Mask, shapes: Sequence[Shape], rng: np.random.Generator) -> Iterator[RenderedScan]:
    for _ in range(SCENES):
        chosen = [_subsolid(shapes[i], rng) for i in rng.choice(len(shapes), min(NODULES, len(shapes)), replace=False)]
        scene = render_many(volume, lungs, chosen, seed=int(rng.integers(2**31)))
        hu = scene.volume.hu.copy()
        for nodule in scene.nodules:
            if nodule.shape.ratings["texture"] == 1 and rng.random() < CORED:
                core = _core(scene.volume, nodule, rng)
                hu[core.box.slices] = core.piece.hu
        yield replace(scene, volume=replace(scene.volume, hu=hu))


def _core(volume: Volume, nodule: Rendered, rng: np.random.Generator) -> Rendered:
    """A solid core of the nodule's own form, off its centre but inside."""
    share = rng.uniform(*CORES)
    core = replace(_scaled(nodule.shape, share), ratings={**nodule.shape.ratings, "texture": 5.0})
    away = rng.normal(0, 1, 3)
    away *= rng.uniform(0, 0.3) * (1 - share) * nodule.shape.diameter_mm / np.linalg.norm(away)
    x, y, z = (np.asarray(nodule.place) + away).tolist()
    return render(volume, core, (x, y, z), seed=int(rng.integers(2**31)))


def _subsolid(shape: Shape, rng: np.random.Generator) -> Shape:
    """A nodule of the same outline at a random size, part-solid or ground glass, without calcium."""
    grown = np.exp(rng.uniform(*np.log(SIZES_MM))) / shape.diameter_mm
    texture = rng.choice(list(TEXTURES), p=list(TEXTURES.values()))
    ratings = {**shape.ratings, "texture": float(texture), "calcification": 6.0}
    return replace(_scaled(shape.turned(rng), grown), ratings=ratings)


def _scaled(shape: Shape, times: float) -> Shape:
    z, y, x = shape.spacing_zyx
    return replace(shape, spacing_zyx=(times * z, times * y, times * x))


def _example(patient: str, number: int, scene: RenderedScan, nodule: Rendered, label: int) -> Example:
    """The surroundings of one nodule, as large as a cube."""
    grid = scene.volume.geometry
    spacing = np.asarray(grid.spacing_zyx)
    size = 2 * np.ceil(CUBE_MM / 2 / spacing).astype(int) + 1
    box = Box.around(np.round(grid.to_index(nodule.place)), size)
    piece = scene.volume.crop(box, fill=-1000)
    labels = crop_array(scene.truth.labels, box)
    truth = labels == label
    weight = ((labels == 0) | truth).astype(np.float32) * crop_array(np.ones(grid.shape, np.float32), box)
    return Example(
        patient,
        number,
        to_unit(piece.hu),
        truth,
        truth[None],
        weight,
        grid.spacing_zyx,
        (0, len(truth)),
        marks_on(piece, truth),
        rendered=True,
    )
