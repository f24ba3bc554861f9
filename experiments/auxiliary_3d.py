"""Method B's second head in three dimensions, its publication's future work: a small U-Net on cubes, with and without.

    python -m experiments.auxiliary_3d --data ../shared/data

Each arm is trained on five folds by patient, with the same windows in the same order, and evaluated on the patients
left out: Dice of the nodule in windows around it, windows without a nodule in which it segments something, and how well
its outputs tell windows with a nodule from those without. The same command computes the folds that are missing, resumes
the one that was stopped, and prints the arms and their paired difference.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from torch import Tensor, nn

from nodulens.data.folds import FOLDS, is_left_out, may_train
from nodulens.data.material import Cubes
from nodulens.errors import BadOption
from nodulens.io.atomic import whole_file
from nodulens.methods.recipe import NetworkConfig
from nodulens.metrics.classification import auc
from nodulens.metrics.segmentation import Overlap
from nodulens.metrics.statistics import bootstrap
from nodulens.presentation.evaluation import Table
from nodulens.presentation.table_writer import to_markdown
from nodulens.train.conditions import software
from nodulens.train.loop.fit import Batch, Maker, Task, fit
from nodulens.train.loop.losses import loss_of
from nodulens.train.networks.unets import SeAuxUNet

SIDE = 32
"""Of a window, in voxels of 1 mm."""
SHIFT = 8
"""Largest distance of a nodule from the middle of its window in training, along each axis."""
PLACES = 20
"""Random places tried for a window without a nodule."""
WIDTHS = (16, 32, 64, 128)
"""Of method B's network in three dimensions: a quarter as wide, and one level less."""
ARMS = {"with": 0.3, "without": 0.0}
"""Weight of the second head's loss; 0: there is none."""
CONFIG = NetworkConfig(
    network="se-aux-unet-3d",
    size=SIDE,
    pixel_mm=1.0,
    classes=("nodule",),
    loss="hybrid",
    epochs=12,
    learning_rate=1e-3,
    optimizer="adam",
    weight_decay=0,
    averaging=0,
    batch=16,
)
"""Method B's training, with its rate falling as a cosine."""


# ---------------------------------------------------------------- windows


@dataclass(frozen=True, eq=False)
class Windows:
    """Windows of 32 mm of the cubes.

    Attributes:
        unit: (N, 50, 50, 50) float16, 0…1.
        nodule, other: (N, 50, 50, 50) consensus of half of the readers; what any reader outlined, of any nodule.
        centre: (N, 3) middle of each nodule in voxels, (z, y, x).
        patients: (N,).
    """

    unit: NDArray[np.float16]
    nodule: NDArray[np.bool_]
    other: NDArray[np.bool_]
    centre: NDArray[np.float64]
    patients: list[str]

    @classmethod
    def of(cls, cubes: Cubes) -> Windows:
        """Of the cubes that are wholly inside their scans, and whose consensus is not empty."""
        shape = cubes.unit(0).shape
        numbers = [n for n in cubes.nodules.tolist() if cubes.scanned(n).shape == shape and cubes.truth(n).any()]
        return cls(
            unit=np.stack([cubes.unit(n).astype(np.float16) for n in numbers]),
            nodule=np.stack([cubes.truth(n) for n in numbers]),
            other=np.stack([cubes.outlined(n) | cubes.other(n) for n in numbers]),
            centre=np.stack([np.argwhere(cubes.truth(n)).mean(0) for n in numbers]),
            patients=[cubes.patients[n] for n in numbers],
        )

    def at(self, number: int, rng: np.random.Generator | None) -> tuple[slice, slice, slice]:
        """A window around a nodule; with a generator shifted at random."""
        shift = np.zeros(3) if rng is None else rng.integers(-SHIFT, SHIFT + 1, 3)
        return self._placed(np.rint(self.centre[number] + shift - SIDE / 2).astype(int))

    def away(self, number: int, rng: np.random.Generator) -> tuple[slice, slice, slice] | None:
        """A random window of its cube without any outlined voxel; None if there is none in :data:`PLACES` draws."""
        for _ in range(PLACES):
            where = self._placed(rng.integers(0, self.unit.shape[1] - SIDE + 1, 3))
            if not self.other[number][where].any():
                return where
        return None

    def _placed(self, first: NDArray[np.int_]) -> tuple[slice, slice, slice]:
        z, y, x = np.clip(first, 0, self.unit.shape[1] - SIDE).tolist()
        return slice(z, z + SIDE), slice(y, y + SIDE), slice(x, x + SIDE)

    def pair(self, number: int, rng: np.random.Generator) -> list[tuple[NDArray[np.float16], NDArray[np.bool_]]]:
        """A window with a nodule and one without, if there is one: image and truth."""
        places = [self.at(number, rng), self.away(number, rng)]
        return [(self.unit[number][where], self.nodule[number][where]) for where in places if where is not None]


# ---------------------------------------------------------------- training and evaluation


def network(*, auxiliary: bool) -> SeAuxUNet:
    """Of an arm: (N, 1, S, S, S) → logits of each voxel and, by the head, (N, 1) of a nodule in the window."""
    return SeAuxUNet(1, auxiliary=auxiliary, widths=WIDTHS, dimensions=3)


def train(windows: Windows, rows: NDArray[np.int_], config: NetworkConfig, checkpoint: Path) -> nn.Module:
    """Train an arm; both see the same windows, as the generator is that of the epoch."""
    torch.manual_seed(config.seed)
    net, loss = network(auxiliary=config.auxiliary > 0), loss_of(config)

    def batches(rng: np.random.Generator) -> list[Maker]:
        parts = np.array_split(rng.permutation(rows), -(-2 * len(rows) // config.batch))
        return [partial(make, part, int(rng.integers(2**31))) for part in parts]

    def make(part: NDArray[np.int_], seed: int) -> Batch:
        rng = np.random.default_rng(seed)
        pairs = [one for number in part.tolist() for one in windows.pair(number, rng)]
        images, truth = (np.stack(side) for side in zip(*pairs, strict=True))
        return torch.from_numpy(images)[:, None].float(), torch.from_numpy(truth)[:, None].float()

    def compute(net: nn.Module, batch: Batch) -> Tensor:
        return loss(net(batch[0]), batch[1])

    return fit(net, Task(batches, compute), config, checkpoint)


def evaluate(net: nn.Module, windows: Windows, rows: NDArray[np.int_]) -> dict[str, list[Any]]:
    """Rows of a fold: each nodule in the window around it, and a window of its cube without any.

    Returns:
        column → values: "patient"; "dice"; "invented", whether the window without shows anything, None without one;
        "score with" and "score without", the largest probability in each window; "head with" and "head without", the
        second head's logits, None without it.
    """
    rng = np.random.default_rng(0)
    out: dict[str, list[Any]] = {"patient": [windows.patients[n] for n in rows.tolist()]}
    for n in rows.tolist():
        there, away = windows.at(n, None), windows.away(n, rng)
        mask, head = _outputs(net, windows.unit[n][there])
        found, truth = mask >= 0.5, windows.nodule[n][there]
        counts = (int(truth.sum()), int(found.sum()), int((truth & found).sum()))
        row = {"dice": Overlap.of_counts(*counts).dice, "score with": float(mask.max()), "head with": head}
        row |= {"invented": None, "score without": None, "head without": None}
        if away is not None:
            mask, head = _outputs(net, windows.unit[n][away])
            row |= {"invented": bool((mask >= 0.5).any()), "score without": float(mask.max()), "head without": head}
        for name, value in row.items():
            out.setdefault(name, []).append(round(value, 5) if isinstance(value, float) else value)
    return out


@torch.inference_mode()
def _outputs(net: nn.Module, image: NDArray[np.float16]) -> tuple[NDArray[np.float32], float | None]:
    """Probabilities (S, S, S), and the second head's logit."""
    place = next(net.parameters()).device
    found = net(torch.from_numpy(image)[None, None].float().to(place))
    mask, head = found if isinstance(found, tuple) else (found, None)
    return mask[0, 0].sigmoid().cpu().numpy(), None if head is None else float(head)


# ---------------------------------------------------------------- judgement


def judged(arms: dict[str, dict[str, list[Any]]]) -> Table:
    """Both arms, and with less without, paired by nodule; intervals by patient."""
    patients = arms["with"]["patient"]
    figures = {name: _figures(columns) for name, columns in arms.items()}
    lines = []
    for what in figures["with"]:
        cells = [_interval(figures[arm][what], patients) for arm in ARMS]
        lines.append((what, *cells, _interval(figures["with"][what], patients, less=figures["without"][what])))
    lines.append(("AUC of the head's output", _auc(arms["with"], "head"), "–", "–"))
    lines.append(("AUC of the largest probability of a voxel", *(_auc(arms[a], "score") for a in ARMS), "–"))
    title = f"{len(patients)} nodules of {len(set(patients))} patients"
    return Table(title, ("", *(f"{arm} the head" for arm in ARMS), "difference"), tuple(lines))


def _figures(columns: dict[str, list[Any]]) -> dict[str, NDArray[np.float64]]:
    dice = np.array(columns["dice"], dtype=np.float64)
    invented = np.array([np.nan if one is None else one for one in columns["invented"]], dtype=np.float64)
    return {"Dice": dice, "missed": (dice == 0).astype(np.float64), "invented in windows without a nodule": invented}


def _interval(values: NDArray[np.float64], patients: Sequence[str], less: NDArray[np.float64] | None = None) -> str:
    paired = values if less is None else values - less
    known = np.isfinite(paired)
    if not known.any():
        return "–"
    found = bootstrap(lambda rows: float(paired[known][rows].mean()), np.array(patients)[known])
    sign = "" if less is None else "+"
    return f"{found.value:{sign}.3f} ({found.low:{sign}.3f} to {found.high:{sign}.3f})"


def _auc(columns: dict[str, list[Any]], name: str) -> str:
    without = [one for one in columns[f"{name} without"] if one is not None]
    scores = [*columns[f"{name} with"], *without]
    return f"{auc(np.repeat([1, 0], [len(scores) - len(without), len(without)]), scores):.3f}"


# ---------------------------------------------------------------- the command


def main(
    data: Annotated[Path, typer.Option(help="Folder that holds lidc/.")],
    run: Annotated[Path, typer.Option(help="Checkpoints, and a JSON file for each arm and fold.")] = Path(
        "runs/auxiliary-3d"
    ),
    epochs: Annotated[int, typer.Option(min=1, help="Of each training.")] = CONFIG.epochs,
    folds: Annotated[int, typer.Option(min=1, max=FOLDS, help="Folds to train and evaluate.")] = FOLDS,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
) -> None:
    """Train and evaluate what is missing, then print both arms."""
    if threads:
        torch.set_num_threads(threads)
    windows = Windows.of(Cubes(data))
    arms: dict[str, dict[str, list[Any]]] = {}
    for fold in range(folds):
        rows, test = (np.flatnonzero(chosen(windows.patients, fold)) for chosen in (may_train, is_left_out))
        if not len(test):
            continue
        for arm, weight in ARMS.items():
            path = run / f"{arm}-{fold}.json"
            if not path.exists():
                config = replace(CONFIG, auxiliary=weight, epochs=epochs)
                net = train(windows, rows, config, run / f"{arm}-{fold}.pt")
                found = {"software": software(), "epochs": epochs, "rows": evaluate(net, windows, test)}
                with whole_file(path) as file:
                    file.write_text(json.dumps(found) + "\n", encoding="utf-8")
                typer.echo(f"{arm} the head, fold {fold}: done", err=True)
            known = json.loads(path.read_text(encoding="utf-8"))
            if known["epochs"] != epochs:
                raise BadOption(f"{path} is of {known['epochs']} epochs, not {epochs}: name another folder by --run.")
            for name, values in known["rows"].items():
                arms.setdefault(arm, {}).setdefault(name, []).extend(values)
    table = judged(arms)
    typer.echo(f"{table.title}\n\n{to_markdown(table)}")


if __name__ == "__main__":
    typer.run(main)
