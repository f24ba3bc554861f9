"""What each part of the detector brings, in the cubes of LUNA16's nodules, by networks that left their patients out.

    python benchmarks/detection_parts.py --data ../shared/data --run runs

Each row of the table changes one thing. Needs the folds of ``python -m nodulens.train detector --run runs``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from rich.progress import Progress

from nodulens.core.nodule import Candidate
from nodulens.core.volume import Volume
from nodulens.data.folds import FOLDS, fold_of
from nodulens.data.material import Cubes
from nodulens.runtime.engine import Model, load_model
from nodulens.stages.candidates import propose
from nodulens.stages.detect import LIKELY, Scored, logits
from nodulens.stages.views import ball_view, screen_view
from nodulens.train.default.cube_detection import CubeDetection, match, search_cubes
from nodulens.train.default.detector_figures import UNCALIBRATED


@dataclass(frozen=True, eq=False)
class Seen:
    """The candidates of a cube.

    Attributes:
        candidates: N of them.
        rough: (N,) logits of the screening network.
        turns: (N, 8) logits of the scoring network, of eight turns and mirror images of its view; the second column is
            the mirror image of the first.
        least: logit that passes the screen.
        calibration: of the scoring network.
    """

    candidates: list[Candidate]
    rough: NDArray[np.float32]
    turns: NDArray[np.float32]
    least: float
    calibration: list[float]

    @property
    def passed(self) -> NDArray[np.bool_]:
        return np.asarray(self.rough >= self.least)

    @property
    def both(self) -> NDArray[np.float32]:
        return np.where(self.turns[:, 0] >= LIKELY, self.turns[:, :2].mean(1), self.turns[:, 0])

    def marks(
        self, logit: NDArray[np.float32], kept: NDArray[np.bool_], calibration: Sequence[float] | None = None
    ) -> list[Candidate]:
        """Marks by a logit (N,) of the candidates that are kept."""
        own = [c for c, k in zip(self.candidates, kept, strict=True) if k]
        return Scored(own, logit[kept]).marks(calibration or self.calibration)

    def at_best(self) -> list[Candidate]:
        """Each mark at its best candidate, the one of which a mark would have this score."""
        alone = [Scored([c], self.both[[i]]).marks(self.calibration)[0] for i, c in enumerate(self.candidates)]
        place = {mark.score: c.centre_lps for mark, c in zip(alone, self.candidates, strict=True)}
        return [replace(mark, centre_lps=place[mark.score]) for mark in self.marks(self.both, self.passed)]


VARIANTS: dict[str, Callable[[Seen], list[Candidate]]] = {
    "as it ships": lambda s: s.marks(s.both, s.passed),
    "every candidate also mirrored": lambda s: s.marks(s.turns[:, :2].mean(1), s.passed),
    "one view, no mirror image": lambda s: s.marks(s.turns[:, 0], s.passed),
    "eight turns and mirror images": lambda s: s.marks(s.turns.mean(1), s.passed),
    "every candidate scored, none screened": lambda s: s.marks(s.both, np.ones_like(s.passed)),
    "each mark at its best candidate": Seen.at_best,
    "the score without the diameter": lambda s: s.marks(s.both, s.passed, UNCALIBRATED),
    "the screening network's score alone": lambda s: s.marks(s.rough, s.passed),
}


def main(
    data: Annotated[Path, typer.Option(help="Folder with lidc/.")] = Path("../shared/data"),
    run: Annotated[Path, typer.Option(help="Checkpoint folder of a training with folds.")] = Path("runs"),
    every: Annotated[int, typer.Option(min=1, help="Search one cube in so many.")] = 1,
    threads: Annotated[int, typer.Option(min=1)] = 2,
) -> None:
    """Print the table."""
    cubes = Cubes(data)
    models = [
        tuple(load_model(name, threads, run / "detector" / f"fold{fold}") for name in ("screen", "volume"))
        for fold in range(FOLDS)
    ]
    with Progress(transient=True) as progress:
        bar = progress.add_task("cubes", total=1.0)
        seen = search_cubes(
            cubes,
            range(0, len(cubes), every),
            lambda patient: partial(_seen, models[fold_of(patient)]),
            lambda share: progress.update(bar, completed=share),
        )
    print("| variant | CPM | at 1 | at 4 | 3 to 5 mm, CPM | marked at all |\n| --- | --- | --- | --- | --- | --- |")
    for name, variant in VARIANTS.items():
        print(_row(name, match(cubes, seen.each(variant))))


def _seen(models: tuple[Model, ...], volume: Volume, region: NDArray[np.bool_]) -> Seen:
    screen, ball = models
    found = propose(volume, region)
    rough = logits(volume, found, screen, screen_view)

    def turned(turn: int, flip: bool) -> NDArray[np.float32]:
        def view(volume: Volume, centre: NDArray[np.float64], diameter: float) -> NDArray[np.float32]:
            own = ball_view(volume, centre, diameter)
            return np.rot90(own[..., ::-1] if flip else own, turn, (1, 2))

        return logits(volume, found, ball, view)

    turns = [turned(turn, flip) for turn in range(4) for flip in (False, True)]
    settings = ball.card.settings["calibration"]
    return Seen(found, rough, np.stack(turns, 1), float(screen.card.settings["least"]), settings)


def _row(name: str, found: CubeDetection) -> str:
    small = found.among(found.froc.nodule_mm < 5)
    one, four = found.sensitivity_at([1, 4])
    return f"| {name} | {found.cpm:.3f} | {one:.3f} | {four:.3f} | {small.cpm:.3f} | {found.proposed.mean():.3f} |"


if __name__ == "__main__":
    typer.run(main)
