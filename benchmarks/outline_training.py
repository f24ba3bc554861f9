"""What each part of the segmenter's training brings: short trainings with one thing changed, judged on a fold's cubes.

    python benchmarks/outline_training.py --data ../shared/data --fold 1

Trainings resume where they were interrupted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any
from unittest import mock

import numpy as np
import torch
import typer

from nodulens.data.folds import fold_of
from nodulens.runtime.engine import Model
from nodulens.train.default import outline_figures, release, segmenter
from nodulens.train.default.rendered_nodules import outline_material
from nodulens.train.default.segmenter import Example
from nodulens.train.networks.default_method import PromptUNet

KINDS = {"the true box": "box", "a point inside": "point_inside", "a candidate": "candidate"}


def real(material: Sequence[Example]) -> list[Example]:
    return [e for e in material if not e.rendered]


def no_cubes(material: Sequence[Example]) -> list[Example]:
    return [replace(e, in_cube=False) for e in material if e.is_stack]


def no_stacks(material: Sequence[Example]) -> list[Example]:
    return [e for e in material if e.is_cube]


def no_marks(material: Sequence[Example]) -> list[Example]:
    return [replace(e, marks=()) for e in real(material)]


@dataclass(frozen=True)
class Variant:
    """What is changed.

    Attributes:
        taught: from all material to what the network is trained on.
        constants: of the segmenter's module.
    """

    taught: Callable[[Sequence[Example]], Sequence[Example]] = real
    constants: dict[str, Any] = field(default_factory=dict)


VARIANTS = {
    "as it ships": Variant(),
    "no cubes, stacks alone": Variant(no_cubes),
    "no stacks": Variant(no_stacks),
    "rendered nodules too": Variant(list),
    "cubes in mm in place of the candidates": Variant(no_marks),
    "no earlier masks, no corrections": Variant(constants={"CORRECTED": 0.0}),
    "none as of thick slices": Variant(constants={"THICK": 0.0}),
    "half as wide": Variant(constants={"PromptUNet": partial(PromptUNet, (8, 16, 32))}),
    "1.5 times as wide": Variant(constants={"PromptUNet": partial(PromptUNet, (24, 48, 96))}),
}


def main(
    data: Annotated[Path, typer.Option(help="Folder with lidc/ and background/.")] = Path("../shared/data"),
    run: Annotated[Path, typer.Option(help="Folder of the checkpoints.")] = Path("runs/outline-ablation"),
    fold: Annotated[int, typer.Option(help="The fold that is left out.")] = 1,
    epochs: Annotated[int, typer.Option(help="Of each training.")] = 4,
    only: Annotated[list[str] | None, typer.Option(help="Name of a variant; all if none is named.")] = None,
) -> None:
    """Print the table."""
    material = outline_material(data, rendered=True)
    training = replace(segmenter.TRAINING, epochs=epochs)
    columns = [f"Dice from {name}" for name in KINDS] + ["leaked", "ground glass and part-solid, rendered: partial"]
    print(f"| variant | {' | '.join(columns)} |\n| --- {'| --- ' * len(columns)}|", flush=True)
    for name in only or VARIANTS:
        variant = VARIANTS[name]
        folder = run / name.replace(" ", "-").replace(",", "")
        taught = variant.taught(material)
        with mock.patch.multiple(segmenter, **variant.constants) if variant.constants else nullcontext():
            model = release.segmenter_without(fold, taught, folder, training)
        print(_row(name, [e for e in material if fold_of(e.patient) == fold], model), flush=True)


def _row(name: str, material: Sequence[Example], model: Model) -> str:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    found = [outline_figures.evaluate(model, e, rng) for e in material if not e.is_stack]
    cubes = [o.overlap for o in found if o.example.is_cube]
    rendered = [o.overlap["point_inside"] for o in found if o.example.rendered]
    dice = [np.mean([overlap[kind].dice for overlap in cubes]) for kind in KINDS.values()]
    leaked, partial_ = (outline_figures.reached(cases) for cases in ([o["candidate"] for o in cubes], rendered))
    shares = (leaked["leaked"], partial_["partial"])
    return f"| {name} | {' | '.join(f'{v:.3f}' for v in dice)} | {' | '.join(f'{v:.1%}' for v in shares)} |"


if __name__ == "__main__":
    typer.run(main)
