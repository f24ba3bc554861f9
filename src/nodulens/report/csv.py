"""The findings of a report as CSV."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import get_args

from nodulens.clinical import brock_2013, bts_2015, fleischner_2017, herder_2005, lung_rads_v2022, mayo_1997
from nodulens.core.nodule import Measurements, Nodule, Rating
from nodulens.io.tables import table_text
from nodulens.report.record import Report

_MEASURED = tuple(f.name for f in fields(Measurements))
_RATED = tuple(f"rated_{name}" for name in get_args(Rating))
_GUIDELINES = {
    "lung_rads_v2022": lung_rads_v2022.NAME,
    "fleischner_2017": fleischner_2017.NAME,
    "bts_2015": bts_2015.NAME,
}
_MODELS = {"brock_2013": brock_2013.NAME, "mayo_1997": mayo_1997.NAME, "herder_2005": herder_2005.NAME}
COLUMNS = (
    "case", "series_uid", "input_sha256", "id", "score", "side", "zone", "lobe_estimate", "hilum_to_edge_estimate",
    "texture", "centre_x_lps", "centre_y_lps", "centre_z_lps",
    "box_start_z", "box_start_y", "box_start_x", "box_stop_z", "box_stop_y", "box_stop_x",
    "central_slice", "instance_number", "sop_instance_uid", *_MEASURED, "volume_low_mm3", "volume_high_mm3",
    "risk_probability", "risk_low", "risk_high", "risk_calibrated", "risk_model", "risk_doubts", *_RATED, "warnings",
    *_GUIDELINES, *_MODELS,
)  # fmt: skip
"""Columns of ``nodules.csv``, empty where there is no value; ``score`` is the detection confidence,
``risk_probability`` the malignancy estimate, ``rated_…`` the ratings of its look that readers would give. The last are
categories of guidelines, every possible one joined by " or ", and the probabilities of risk models that are known."""


def to_csv(report: Report) -> str:
    """The nodules as CSV: a header, then a row each."""
    return table_text(COLUMNS, (dict(_row(nodule, report)) for nodule in report.nodules), digits=6)


def _row(nodule: Nodule, report: Report) -> Iterator[tuple[str, object]]:
    position, risk = nodule.position, nodule.risk
    yield from (("case", report.case), ("series_uid", report.series_uid), ("input_sha256", report.input_sha256))
    yield from (("id", nodule.id), ("score", nodule.score), ("texture", nodule.texture))
    yield from ((f.name, getattr(position, f.name)) for f in fields(position))
    yield from zip(("centre_x_lps", "centre_y_lps", "centre_z_lps"), nodule.centre_lps, strict=True)
    yield from ((f"box_start_{axis}", value) for axis, value in zip("zyx", nodule.box.start, strict=True))
    yield from ((f"box_stop_{axis}", value) for axis, value in zip("zyx", nodule.box.stop, strict=True))
    yield from ((name, getattr(nodule.measurements, name)) for name in _MEASURED)
    if nodule.volume_interval_mm3 is not None:
        yield from zip(("volume_low_mm3", "volume_high_mm3"), nodule.volume_interval_mm3, strict=True)
    if risk is not None:
        yield from (("risk_probability", risk.probability), ("risk_calibrated", risk.calibrated))
        yield from (("risk_low", risk.interval[0]), ("risk_high", risk.interval[1]), ("risk_model", risk.model))
        yield "risk_doubts", " | ".join(risk.doubts)
    yield from ((f"rated_{one.name}", one.rating) for one in nodule.attributes)
    yield "warnings", " | ".join(nodule.warnings)
    yield from _guidelines(nodule, report)


def _guidelines(nodule: Nodule, report: Report) -> Iterator[tuple[str, object]]:
    said = report.guidelines.nodules if report.guidelines is not None else ()
    for one in (one for one in said if one.id == nodule.id):
        possible = {result.guideline: " or ".join(result.possible) for result in one.results}
        probability = {estimate.model: estimate.probability for estimate in one.estimates}
        yield from ((column, possible.get(name)) for column, name in _GUIDELINES.items())
        yield from ((column, probability.get(name)) for column, name in _MODELS.items())
