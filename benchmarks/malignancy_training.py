"""What each part of the malignancy estimate's training brings: five folds with one thing changed each.

    python benchmarks/malignancy_training.py --data ../shared/data --run runs

Needs the folds of ``python -m nodulens.train segmenter --run runs`` for the program's own outlines; they are trained
if the run has none. Trainings resume where they were interrupted.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any
from unittest import mock

import numpy as np
import typer
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from nodulens.data.folds import FOLDS, may_train
from nodulens.train.default import malignancy, measured, release
from nodulens.train.default.calibration import ScoredNodules, beside_diameter
from nodulens.train.default.malignancy import CUBES, OWN, STACKS, Planes
from nodulens.train.default.malignancy_figures import SOURCES, averaged, scored_nodules
from nodulens.train.default.taught import Taught, out_of_fold
from nodulens.train.networks.default_method import PooledClassifier


def malignancy_alone(net: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
    """The loss without the other ratings."""
    x, target, weight = batch
    each = functional.binary_cross_entropy_with_logits(net(x)[:, 0], target[:, 0], reduction="none")
    return (each * weight).mean()


def of_width(stem: int, *widths: int) -> partial[PooledClassifier]:
    return partial(_of_width, stem, widths)


def _of_width(stem: int, widths: tuple[int, ...], outputs: int) -> PooledClassifier:
    return PooledClassifier(2, 2, stem, widths, (False, True), outputs=outputs)


@dataclass(frozen=True)
class Variant:
    """What is changed.

    Attributes:
        sources: of the entries that teach.
        constants: of the network's module.
    """

    sources: tuple[str, ...] = (STACKS, CUBES, OWN)
    constants: dict[str, Any] = field(default_factory=dict)


VARIANTS = {
    "as it ships": Variant(),
    "stacks alone": Variant((STACKS,)),
    "readers' outlines alone": Variant((STACKS, CUBES)),
    "malignancy alone, no other ratings": Variant(constants={"rating_loss": malignancy_alone}),
    "network half as wide": Variant(constants={"malignancy_net": of_width(6, 8, 24)}),
    "network twice as wide": Variant(constants={"malignancy_net": of_width(24, 32, 96)}),
}


def main(
    data: Annotated[Path, typer.Option(help="Folder with lidc/ and background/.")] = Path("../shared/data"),
    run: Annotated[Path, typer.Option(help="Folder of the checkpoints.")] = Path("runs"),
    only: Annotated[list[str] | None, typer.Option(help="Name of a variant; all if none is named.")] = None,
) -> None:
    """Print the table: AUC of three readers or more, median above 3 against below, and from 6 to 12 mm."""
    job = release.Release(data, run, run)
    material = release.rated_material(job, release.segmenters_of(job))
    shown = [SOURCES[STACKS], SOURCES[OWN]]
    columns = [f"{name}{size}" for name in shown for size in ("", ", 6 to 12 mm")]
    print(f"| variant | score | {' | '.join(columns)} |\n| --- | --- {'| --- ' * len(columns)}|", flush=True)
    for name in only or VARIANTS:
        network, forest = _trained(VARIANTS[name], material, run / "malignancy-ablation" / name.replace(" ", "-"))
        scores = {"network": network[:, 0], "forest": forest, "average": averaged(network, forest)}
        for score, values in scores.items():
            cells = " | ".join(_aucs(scored_nodules(material, values), material.source))
            print(f"| {name} | {score} | {cells} |", flush=True)


def _trained(variant: Variant, material: Planes, run: Path) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Out-of-fold logits of the network (N, ratings) and of the forest (N,)."""
    own = np.isin(material.source, variant.sources)

    def may(patients: list[str], left_out: int | None) -> NDArray[np.bool_]:
        return may_train(patients, left_out) & own

    with ExitStack() as patches:
        for module, constants in (
            (malignancy, {**variant.constants, "may_train": may}),
            (measured, {"may_train": may}),
        ):
            patches.enter_context(mock.patch.multiple(module, **constants))
        nets = [malignancy.train(material, fold, run) for fold in range(FOLDS)]
        forest = measured.cross_validate(material)
    return out_of_fold(material, [Taught.of(net, material, k) for k, net in enumerate(nets)])[0], forest


def _aucs(scored: ScoredNodules, source: NDArray[np.str_]) -> Iterator[str]:
    for kind in (STACKS, OWN):
        for sized in (scored.panel, scored.panel & scored.between):
            ranking = beside_diameter(scored, sized & (source == kind)).ranking
            yield "–" if ranking is None else f"{ranking.auc:.3f}"


if __name__ == "__main__":
    typer.run(main)
