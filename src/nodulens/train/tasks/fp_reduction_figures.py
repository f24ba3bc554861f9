"""Evaluated patches, and figures of them: ranking and decisions, every nodule weighing alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodulens.io.records import Arrangement, Columns, columns_of, inlined, records_of, to_plain
from nodulens.metrics.classification import curve, ranking_draws
from nodulens.metrics.estimates import Estimate, rounded
from nodulens.metrics.statistics import patient_draws, percentiles, ratio

THRESHOLD = 0.5
"""Score from which a patch is kept."""
BANDS_MM = ((0.0, 6.0), (6.0, 10.0), (10.0, np.inf))
"""Diameters of nodules that recall is given for."""


@dataclass(frozen=True)
class KeepFigures:
    """What is kept of nodules and of non-nodules, each 0…1; all patches of a nodule weigh as one.

    Attributes:
        auc, average_precision: of the scores.
        precision: share of nodules among what is kept.
        recall: share of the nodules that is kept.
        specificity: share of the non-nodules that is rejected.
        recall_by_size: words for a range of diameters → recall; ranges without a nodule are not there.
    """

    auc: Estimate
    average_precision: Estimate
    precision: Estimate
    recall: Estimate
    specificity: Estimate
    recall_by_size: Mapping[str, float | None]


@dataclass(frozen=True)
class FpReductionFigures:
    """Figures of evaluated patches, of one fold or of several, with intervals by patient.

    Attributes:
        patches, on_nodules: all, and those on a nodule.
        nodules: sum of the weights of the latter.
        kept: None where there are patches of one kind alone.
    """

    patches: int
    on_nodules: int
    nodules: float | None
    kept: KeepFigures | None

    def to_json(self) -> dict[str, Any]:
        """As cells of the table of results and ``nodulens evaluate RUN --json`` hold it."""
        out: dict[str, Any] = to_plain(self, ARRANGED)
        return out


ARRANGED: Mapping[type, Arrangement] = {
    FpReductionFigures: inlined("kept"),
}
"""In JSON figures of what is kept stand beside the counts."""


@dataclass(frozen=True)
class PatchRow:
    """An evaluated patch.

    Attributes:
        row: of the material.
        truth: 1 on a nodule, else 0.
        score: probability of a nodule.
        weight: those of a nodule's patches add up to 1.
        nodule: whose patch it is; −1 of non-nodules.
        diameter_mm: of the nodule; 0 of non-nodules.
    """

    row: int
    patient: str
    truth: int
    score: float
    weight: float
    nodule: int
    diameter_mm: float


@dataclass(frozen=True)
class EvaluatedPatches:
    """A filter evaluated on patches."""

    rows: tuple[PatchRow, ...]

    @cached_property
    def figures(self) -> FpReductionFigures:
        """Counts; and where there are nodules and non-nodules, ranking and decisions."""
        on, weight = np.array([row.truth > 0 for row in self.rows]), np.array([row.weight for row in self.rows])
        kept = self._kept(on, weight) if 0 < on.sum() < len(on) else None
        return FpReductionFigures(len(on), int(on.sum()), rounded(float(weight[on].sum())), kept)

    def _kept(self, on: NDArray[np.bool_], weight: NDArray[np.float64]) -> KeepFigures:
        patients = [row.patient for row in self.rows]
        score, diameter = np.array([(row.score, row.diameter_mm) for row in self.rows]).T
        ranked, draws = curve(on, score, weight), ranking_draws(on, score, patients, weights=weight)
        called = score >= THRESHOLD
        owner, times = patient_draws(patients)
        cells = np.stack([on & called, on & ~called, ~on & called, ~on & ~called]) * weight
        by_patient = np.array([np.bincount(owner, cell, times.shape[1]) for cell in cells], dtype=np.float64)
        whole, drawn = _rates(by_patient.sum(axis=1)), _rates(by_patient @ times.T)
        precision, recall, specificity = (
            Estimate.of(percentiles(float(one), samples), patients) for one, samples in zip(whole, drawn, strict=True)
        )
        by_size = {
            f"{low:g}–{high:g} mm" if np.isfinite(high) else f"from {low:g} mm": rounded(
                float(np.average(called[band], weights=weight[band]))
            )
            for low, high in BANDS_MM
            if (band := on & (diameter >= low) & (diameter < high)).any()
        }
        return KeepFigures(
            auc=Estimate.of(percentiles(ranked.auc, draws.auc), patients),
            average_precision=Estimate.of(percentiles(ranked.average_precision, draws.average_precision), patients),
            precision=precision,
            recall=recall,
            specificity=specificity,
            recall_by_size=by_size,
        )

    def to_json(self) -> dict[str, list[Any]]:
        """Column by column, as cells of the table of results keep rows."""
        return columns_of(PatchRow, self.rows)

    @classmethod
    def from_json(cls, columns: Columns) -> EvaluatedPatches:
        """The rows that :meth:`to_json` gave, of one fold or several."""
        return cls(records_of(PatchRow, columns))


def _rates(cells: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """Precision, recall and specificity of (4, …) nodules kept and not, non-nodules kept and not."""
    hit, missed, wrong, right = cells
    return ratio(hit, hit + wrong), ratio(hit, hit + missed), ratio(right, right + wrong)
