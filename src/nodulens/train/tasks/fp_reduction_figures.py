"""Evaluated patches, and figures of them: ranking and decisions, with equal weight for each nodule."""

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
from nodulens.stages.slices import NODULE, NON_NODULE

THRESHOLD = 0.5
"""Score from which a patch is kept."""
BANDS_MM = ((0.0, 6.0), (6.0, 10.0), (10.0, np.inf))
"""Bands of diameter for recall."""


@dataclass(frozen=True)
class KeepFigures:
    """Ranking and decisions on nodules and non-nodules, each 0…1; all patches of a nodule together weigh 1.

    Attributes:
        auc, average_precision: of the scores.
        precision: share of nodules among those kept.
        recall: share of the nodules that are kept.
        specificity: share of the non-nodules that are rejected.
        recall_by_size: band of diameter → recall; bands without a nodule are omitted.
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
        kept: None without a nodule or without a non-nodule.
    """

    patches: int
    on_nodules: int
    nodules: float | None
    kept: KeepFigures | None

    def to_json(self) -> dict[str, Any]:
        """As in a cell of the table of results and in ``nodulens evaluate RUN --json``."""
        out: dict[str, Any] = to_plain(self, ARRANGED)
        return out


ARRANGED: Mapping[type, Arrangement] = {
    FpReductionFigures: inlined("kept"),
}
"""In JSON the figures of ``kept`` are in one object with the counts."""


@dataclass(frozen=True)
class PatchRow:
    """An evaluated patch.

    Attributes:
        row: of the material.
        truth: 1 on a nodule, else 0.
        score: probability of a nodule.
        weight: those of a nodule's patches add up to 1.
        nodule: number of the nodule; −1 for non-nodules.
        diameter_mm: of the nodule; 0 for non-nodules.
    """

    row: int
    patient: str
    truth: int
    score: float
    weight: float
    nodule: int
    diameter_mm: float

    @property
    def true_class(self) -> str:
        """What it shows: :data:`~nodulens.stages.slices.NODULE` or :data:`~nodulens.stages.slices.NON_NODULE`."""
        return NODULE if self.truth else NON_NODULE

    @property
    def called(self) -> str:
        """The class that the filter decides for."""
        return NODULE if self.score >= THRESHOLD else NON_NODULE


@dataclass(frozen=True)
class EvaluatedPatches:
    """A filter evaluated on patches."""

    rows: tuple[PatchRow, ...]

    @cached_property
    def figures(self) -> FpReductionFigures:
        """Counts; and with both nodules and non-nodules, ranking and decisions."""
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
        """As columns, the form of rows in a cell of the table of results."""
        return columns_of(PatchRow, self.rows)

    @classmethod
    def from_json(cls, columns: Columns) -> EvaluatedPatches:
        """From the columns of :meth:`to_json`, of one fold or several."""
        return cls(records_of(PatchRow, columns))


def _rates(cells: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """Precision, recall and specificity from (4, …): nodules kept and rejected, non-nodules kept and rejected."""
    hit, missed, wrong, right = cells
    return ratio(hit, hit + wrong), ratio(hit, hit + missed), ratio(right, right + wrong)
