"""Evaluated nodules, and figures of a classifier on them: decisions, ranking beside diameter alone, and calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import compress
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from nodulens.io.records import Arrangement, Columns, Row, columns_of, inlined, omitting, records_of, to_plain
from nodulens.metrics.classification import Confusion, macro_auc, ranking_draws
from nodulens.metrics.estimates import Estimate
from nodulens.metrics.statistics import patient_draws, percentiles
from nodulens.stages.classify_crop import SIDES
from nodulens.train.default import calibration
from nodulens.train.default.calibration import (
    BesideDiameter,
    CalibrationFigures,
    CodeFigures,
    ScoredNodules,
    beside_diameter,
    by_calibration_code,
    calibration_figures,
)

# ---------------------------------------------------------------- figures


@dataclass(frozen=True)
class Rates:
    """Rates of decisions by the largest output, each 0…1 with its interval by patient.

    Attributes:
        accuracy, balanced_accuracy: of all classes.
        sensitivity, specificity, precision, f1: of malignant, all classes of that side together.
        macro_f1: mean over all classes; None for two classes.
        macro_auc: mean over classes of each against the others; None for two classes, or if only one has nodules.
    """

    accuracy: Estimate
    balanced_accuracy: Estimate
    sensitivity: Estimate
    specificity: Estimate
    precision: Estimate
    f1: Estimate
    macro_f1: Estimate | None = None
    macro_auc: Estimate | None = None


@dataclass(frozen=True)
class Decisions:
    """Decisions by the largest output.

    Attributes:
        classes: names.
        confusion: true class × predicted class, in the order of ``classes``.
        judged: number of nodules.
    """

    rates: Rates
    classes: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]
    judged: int


@dataclass(frozen=True)
class GroupFigures:
    """Figures of some nodules.

    Attributes:
        decisions: of all classes; None without a nodule.
        beside_diameter: malignant against benign, compared with diameter alone.
    """

    decisions: Decisions | None
    beside_diameter: BesideDiameter


@dataclass(frozen=True)
class ClassificationFigures:
    """Figures of evaluated nodules, of one fold or several.

    Attributes:
        three_readers_or_more, six_to_twelve_mm, all_readers: groups of nodules; the second is a subset of the first.
        by_slice_calibration_code: AUC within each code.
        own_probability: calibration of the network's own probability; None without a benign or malignant nodule.
    """

    three_readers_or_more: GroupFigures
    six_to_twelve_mm: GroupFigures
    all_readers: GroupFigures
    by_slice_calibration_code: Mapping[str, CodeFigures]
    own_probability: CalibrationFigures | None

    @property
    def groups(self) -> Mapping[str, GroupFigures]:
        """The groups of nodules by their names in tables."""
        return {
            "three readers or more": self.three_readers_or_more,
            "6 to 12 mm": self.six_to_twelve_mm,
            "any number of readers": self.all_readers,
        }

    def to_json(self) -> dict[str, Any]:
        """As in a cell of the table of results and in ``nodulens evaluate RUN --json``."""
        out: dict[str, Any] = to_plain(self, ARRANGED)
        return out


def _decisions_row(row: Row) -> Row:
    """Each rate by its name, and again with its interval."""
    rates = row.pop("rates")
    return {**{name: rate["value"] for name, rate in rates.items()}, "intervals": rates, **row}


ARRANGED: Mapping[type, Arrangement] = {
    **calibration.ARRANGED,
    Rates: omitting("macro_f1", "macro_auc"),
    Decisions: Arrangement(write=_decisions_row),
    GroupFigures: inlined("decisions", "beside_diameter"),
    ClassificationFigures: Arrangement(write=lambda row: {**row, "own_probability": row["own_probability"] or {}}),
}


# ---------------------------------------------------------------- rows


@dataclass(frozen=True)
class NoduleRow:
    """An evaluated nodule.

    Attributes:
        row: of the material.
        truth: name of its class.
        score: log odds of malignant against benign.
        diameter_mm: of the disc of the outline's area.
        readers: number who marked it.
        share: of the readers who rated malignancy above 3.
        calibration: code of its slice.
        logits: class → output.
    """

    row: int
    patient: str
    truth: str
    score: float
    diameter_mm: float
    readers: int
    share: float
    calibration: int
    logits: Mapping[str, float]


@dataclass(frozen=True)
class EvaluatedNodules:
    """A classifier evaluated on nodules."""

    rows: tuple[NoduleRow, ...]

    @cached_property
    def figures(self) -> ClassificationFigures:
        """Decisions are the class of the largest output. AUC is of malignant against benign, compared with diameter
        alone, with DeLong's interval and a bootstrap over patients; all other intervals are by patient too."""
        scored = self.scored
        decided, p = scored.decided, special.expit(np.asarray(scored.score, dtype=np.float64))

        def group(chosen: NDArray[np.bool_]) -> GroupFigures:
            return GroupFigures(_decisions(tuple(compress(self.rows, chosen))), beside_diameter(scored, chosen))

        return ClassificationFigures(
            three_readers_or_more=group(scored.panel),
            six_to_twelve_mm=group(scored.panel & scored.between),
            all_readers=group(np.ones(len(decided), dtype=bool)),
            by_slice_calibration_code=by_calibration_code(scored),
            own_probability=calibration_figures(scored.truth[decided], p[decided]) if decided.any() else None,
        )

    @property
    def scored(self) -> ScoredNodules:
        """The input of :mod:`nodulens.train.default.calibration`; all folds together give a card's settings."""
        return ScoredNodules(
            patients=[row.patient for row in self.rows],
            score=np.array([row.score for row in self.rows], dtype=np.float64),
            truth=np.array([SIDES.get(row.truth, -1) for row in self.rows], dtype=int),
            readers=np.array([row.readers for row in self.rows], dtype=int),
            share=np.array([row.share for row in self.rows], dtype=np.float64),
            diameter_mm=np.array([row.diameter_mm for row in self.rows], dtype=np.float64),
            calibration=np.array([row.calibration for row in self.rows], dtype=int),
        )

    def to_json(self) -> dict[str, list[Any]]:
        """As columns, the form of rows in a cell of the table of results."""
        columns = columns_of(NoduleRow, self.rows)
        logits = columns.pop("logits")
        return columns | {f"logit_{name}": [own[name] for own in logits] for name in logits[0]}

    @classmethod
    def from_json(cls, columns: Columns, classes: Sequence[str]) -> EvaluatedNodules:
        """From the columns of :meth:`to_json`, of one fold or several.

        Args:
            classes: of the network.
        """
        outputs = zip(*(columns[f"logit_{name}"] for name in classes), strict=True)
        logits = [dict(zip(classes, row, strict=True)) for row in outputs]
        return cls(records_of(NoduleRow, {**columns, "logits": logits}))


def _decisions(rows: Sequence[NoduleRow]) -> Decisions | None:
    """Decisions by the largest output, with intervals by patient; None without a nodule."""
    if not rows:
        return None
    classes = tuple(rows[0].logits)
    logits = np.array([[row.logits[name] for name in classes] for row in rows], dtype=np.float64)
    truth = np.array([classes.index(row.truth) for row in rows])
    patients = [row.patient for row in rows]
    owner, draws = patient_draws(patients)
    own = np.zeros((draws.shape[1], len(classes), len(classes)))
    np.add.at(own, (owner, truth, logits.argmax(1)), 1)
    total = own.sum(0)
    resampled = [_rates(Confusion(classes, counts)) for counts in np.tensordot(draws.astype(np.float64), own, 1)]
    found = {k: percentiles(v, [rates[k] for rates in resampled]) for k, v in _rates(Confusion(classes, total)).items()}
    present = np.unique(truth).tolist()
    if len(classes) > 2 and len(present) > 1:
        likely = np.exp(logits - logits.max(1, keepdims=True))
        likely /= likely.sum(1, keepdims=True)
        ranked = [ranking_draws(truth == k, likely[:, k], owner).auc for k in present]
        found["macro_auc"] = percentiles(macro_auc(truth, likely), np.mean(ranked, axis=0))
    rates = Rates(**{name: Estimate.of(one, patients) for name, one in found.items()})
    return Decisions(rates, classes, tuple(map(tuple, total.astype(int).tolist())), len(rows))


def _rates(found: Confusion) -> dict[str, float]:
    """By their name in :class:`Rates`."""
    side = np.array([[SIDES.get(name) != 1, SIDES.get(name) == 1] for name in found.classes], dtype=float)
    malignant = Confusion(("other", "malignant"), side.T @ found.counts @ side).positive
    out = {"accuracy": found.accuracy, "balanced_accuracy": found.balanced_accuracy}
    out |= {name: getattr(malignant, name) for name in ("sensitivity", "specificity", "precision", "f1")}
    return {**out, "macro_f1": found.macro.f1} if len(found.classes) > 2 else out
