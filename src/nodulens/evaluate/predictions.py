"""Predictions item by item, as ``predictions.csv``: what runs are compared by.

An item is one thing that a network was asked about: a nodule, a patch, or a structure on a slice.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from nodulens.errors import BadValues
from nodulens.io.tables import Table, read_table, table_text

if TYPE_CHECKING:
    from nodulens.evaluate.networks import NetworkEvaluation
    from nodulens.train.tasks.segmentation_figures import EvaluatedSlices

FILE = "predictions.csv"
SHOWN, ABSENT = "1", "0"
"""Truth of a structure on a slice: it is there, or not."""


@dataclass(frozen=True)
class Prediction:
    """What a network says of an item.

    Attributes:
        network: that was asked, such as "classifier"; may be empty.
        structure: what is segmented, such as "nodule", or "nodule, close-up"; empty for other networks.
        item: its name, the same in every file about it.
        patient: whom it is of.
        fold: the test fold of the patient; None for a split into shares.
        truth: class of the item; of a structure :data:`SHOWN` or :data:`ABSENT`, on the network's own grid.
        score: higher for malignant or nodule, on any scale; None for a segmenter.
        called: the class that the network decides for; None where it decides nothing.
        dice: of a structure, 0…1; None for other networks.
    """

    network: str
    structure: str
    item: str
    patient: str
    fold: int | None
    truth: str
    score: float | None = None
    called: str | None = None
    dice: float | None = None


COLUMNS = tuple(field.name for field in fields(Prediction))
REQUIRED = ("item", "patient", "truth")


def predictions_of(networks: Mapping[str, NetworkEvaluation]) -> tuple[Prediction, ...]:
    """The predictions of the networks of a run, by their field of the recipe, on its test patients."""
    return tuple(prediction for network, one in networks.items() for prediction in _of_network(network, one))


def _of_network(network: str, one: NetworkEvaluation) -> list[Prediction]:
    from nodulens.train.tasks.classification_figures import EvaluatedNodules
    from nodulens.train.tasks.fp_reduction_figures import EvaluatedPatches
    from nodulens.train.tasks.segmentation_figures import EvaluatedSlices

    items, fold = one.material.items, one.fold
    match one.evaluated:
        case EvaluatedNodules(nodules):
            return [
                Prediction(
                    network, "", items[row.row], row.patient, fold, row.truth, row.score,
                    max(row.logits, key=row.logits.__getitem__),
                )
                for row in nodules
            ]  # fmt: skip
        case EvaluatedPatches(patches):
            return [
                Prediction(network, "", items[row.row], row.patient, fold, row.true_class, row.score, row.called)
                for row in patches
            ]
        case EvaluatedSlices():
            return list(_of_slices(network, one.evaluated, items, fold))
    raise TypeError(f"No predictions are known of {type(one.evaluated).__name__}.")


def _of_slices(network: str, evaluated: EvaluatedSlices, items: list[str], fold: int | None) -> Iterator[Prediction]:
    """Every structure on every slice that shows it or where it is predicted, and the nodules of close-ups."""
    from nodulens.stages.slices import NODULE
    from nodulens.train.tasks.segmentation_figures import CLOSE_UP

    for row in evaluated.rows:
        for name, overlap in row.overlap.items():
            if row.kind == CLOSE_UP and name != NODULE:
                continue
            structure = f"{name}, {CLOSE_UP}" if row.kind == CLOSE_UP else name
            if overlap.truth_voxels or overlap.predicted_voxels:
                truth = SHOWN if overlap.truth_voxels else ABSENT
                item = items[row.row]
                yield Prediction(network, structure, item, row.patient, fold, truth, dice=float(overlap.dice))


def predictions_text(predictions: Iterable[Prediction]) -> str:
    """The text of ``predictions.csv``."""
    return table_text(COLUMNS, (vars(one) for one in predictions))


def read_predictions(path: Path) -> tuple[Prediction, ...]:
    """Read ``predictions.csv``, of a run or of any other method.

    Args:
        path: a file with the columns item, patient and truth, and score or dice; network, structure, fold and called
            may be left out.

    Raises:
        NotFound: no such file.
        UnreadableFile: a column is missing, see :func:`nodulens.io.tables.read_table`.
        BadValues: no row; an empty cell where one is needed; a number that is none; an item twice. With the line.
    """
    table = read_table(path, REQUIRED, optional=[name for name in COLUMNS if name not in REQUIRED])
    if not len(table):
        raise BadValues(f"{path} holds no prediction.")
    out: list[Prediction] = []
    first: dict[tuple[str, str, str], int] = {}
    for row in range(len(table)):
        one = _prediction(table, row)
        key = (one.network, one.structure, one.item)
        earlier = first.setdefault(key, row)
        if earlier != row:
            raise BadValues(f"{table.at(row)} is about {one.item!r}, as line {table.lines[earlier]} is; keep one.")
        out.append(one)
    return tuple(out)


def _prediction(table: Table, row: int) -> Prediction:
    cell = {name: column[row] for name, column in table.cells.items()}
    empty = [name for name in REQUIRED if not cell[name]]
    if empty:
        raise BadValues(f"{table.at(row)}: {empty[0]} is empty; every prediction needs {', '.join(REQUIRED)}.")
    score, dice = (_number(table, row, name, cell.get(name, "")) for name in ("score", "dice"))
    fold = _number(table, row, "fold", cell.get("fold", ""))
    if (score is None) is (dice is None):
        raise BadValues(f"{table.at(row)}: a prediction has a score, or the Dice of a structure; give one of them.")
    if dice is not None and (cell["truth"] not in (SHOWN, ABSENT) or not 0 <= dice <= 1):
        raise BadValues(
            f"{table.at(row)}: Dice is from 0 to 1, and its truth {SHOWN} where the item shows the structure, else "
            f"{ABSENT}; got {dice:g} and {cell['truth']!r}."
        )
    return Prediction(
        network=cell.get("network", ""),
        structure=cell.get("structure", ""),
        item=cell["item"],
        patient=cell["patient"],
        fold=None if fold is None else int(fold),
        truth=cell["truth"],
        score=score,
        called=cell.get("called") or None,
        dice=dice,
    )


def _number(table: Table, row: int, name: str, cell: str) -> float | None:
    """A cell as a number; None if it is empty."""
    if not cell:
        return None
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise BadValues(f"{table.at(row)}: {name} is {cell!r}, which is no finite number.")
    return value
