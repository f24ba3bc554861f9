"""What each part of the detector's training brings: short trainings with one thing changed, judged in a fold's cubes.

    python benchmarks/detection_training.py --data ../shared/data --fold 1

Every candidate is scored, none is screened, and the score is calibrated on the very cubes, so that the rows differ by
the networks alone. Trainings resume where they were interrupted.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any
from unittest import mock

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from rich.progress import Progress
from torch import nn

from nodulens.core.volume import Volume
from nodulens.data.folds import fold_of
from nodulens.data.material import Cubes, Stacks
from nodulens.runtime.engine import Model, load_model
from nodulens.stages.candidates import propose
from nodulens.stages.detect import Scored, logits
from nodulens.stages.views import ball_view
from nodulens.train.default import detector, detector_figures
from nodulens.train.default.cube_detection import match, search_cubes
from nodulens.train.default.regions import backgrounds, cube_regions
from nodulens.train.loop.export import export
from nodulens.train.networks.default_method import PooledClassifier

INNER, OUTER, IN_BACKGROUND, ELSEWHERE, REAL, SET_IN = detector.SHARES


def shares(*kinds: float) -> dict[str, Any]:
    """Other shares of the kinds of examples, scaled to add up to one."""
    share = np.array(kinds) / sum(kinds)
    return {"SHARES": tuple(share), "ENDING": float(share[detector.OUTER] / share[: detector.REAL].sum())}


def of_width(factor: float) -> Callable[[], nn.Module]:
    """The scoring network, so many times as wide."""
    stem, *widths = (round(factor * w) for w in (16, 24, 48, 96))
    return lambda: PooledClassifier(3, 1, stem, tuple(widths), (False, True, True), central=True)


class Even(detector._Examples):
    """Examples of which all non-nodules are drawn equally often."""

    def draw(self, number: int, hardness: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.int_]:
        return super().draw(number, np.ones_like(hardness), rng)


VARIANTS: dict[str, dict[str, Any]] = {
    "as it ships": {},
    "no nodules inserted into lungs": shares(INNER, OUTER, IN_BACKGROUND, ELSEWHERE, REAL + SET_IN, 0),
    "only inserted nodules": shares(INNER, OUTER, IN_BACKGROUND, ELSEWHERE, 0, REAL + SET_IN),
    "no nodule-free lungs": shares(INNER, OUTER, 0, 0, REAL + SET_IN, 0),
    "hard non-nodules no more often": {"_Examples": Even},
    "none as of thick slices": {"THICK": 0.0},
    "none zoomed": {"ZOOMED": 0.0},
    "neither turned nor mirrored": {"_turned": lambda view, rng: view},
    "scoring network half as wide": {"volume_net": of_width(0.5)},
    "scoring network 1.5 times as wide": {"volume_net": of_width(1.5)},
}


def main(
    data: Annotated[Path, typer.Option(help="Folder with lidc/ and background/.")] = Path("../shared/data"),
    run: Annotated[Path, typer.Option(help="Folder of the checkpoints.")] = Path("runs/ablation"),
    fold: Annotated[int, typer.Option(help="The fold that is left out.")] = 1,
    epochs: Annotated[int, typer.Option(help="Of the first part of each training.")] = 5,
) -> None:
    """Print the table."""
    cubes, stacks = Cubes(data), Stacks(data)
    regions = cube_regions(cubes) + backgrounds(data)
    print("| variant | CPM | at 1 | at 4 | 3 to 5 mm, CPM |\n| --- | --- | --- | --- | --- |", flush=True)
    for name, changed in VARIANTS.items():
        folder = run / name.replace(" ", "-")
        with mock.patch.multiple(detector, **changed) if changed else nullcontext():
            net = detector.train(regions, stacks, fold, folder, replace(detector.TRAINING, epochs=epochs))
        card = {"name": "volume", "command": "", "trained_on": {}, "settings": {}, "input": {}, "figures": {}}
        export(net.volume, torch.rand(3, 1, 32, 32, 32), folder, card)
        print(_row(name, cubes, fold, load_model("volume", torch.get_num_threads(), folder)), flush=True)


def _row(name: str, cubes: Cubes, fold: int, ball: Model) -> str:
    numbers = [n for n in range(len(cubes)) if fold_of(cubes.patients[n]) == fold]
    with Progress(transient=True) as progress:
        bar = progress.add_task("cubes", total=1.0)
        done = partial(progress.update, bar)
        seen = search_cubes(cubes, numbers, lambda _: partial(_scored, ball), lambda share: done(completed=share))
    lungs = detector_figures.LungDetection((), (), np.empty(0))
    plain = match(cubes, seen.each(lambda s: s.marks(detector_figures.UNCALIBRATED)))
    fitted = detector_figures.calibration(plain, lungs)
    found = match(cubes, seen.each(lambda s: s.marks(fitted)))
    one, four = found.sensitivity_at([1, 4])
    small = found.among(found.froc.nodule_mm < 5)
    return f"| {name} | {found.cpm:.3f} | {one:.3f} | {four:.3f} | {small.cpm:.3f} |"


def _scored(ball: Model, volume: Volume, region: NDArray[np.bool_]) -> Scored:
    found = propose(volume, region)
    return Scored(found, logits(volume, found, ball, ball_view))


if __name__ == "__main__":
    typer.run(main)
