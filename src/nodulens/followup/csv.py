"""The changes of a comparison as CSV."""

from __future__ import annotations

from collections.abc import Iterator

from nodulens.followup.record import Comparison, Track
from nodulens.io.tables import table_text

COLUMNS = (
    "case", "nodule", "status", "side", "zone", "texture", "before_presence", "current_presence", "days",
    "mean_diameter_before_mm", "mean_diameter_mm", "volume_before_mm3", "volume_mm3", "volume_share",
    "volume_share_low", "volume_share_high", "mass_share", "doubling_days", "doubling_low_days", "doubling_high_days",
    "lung_rads_growth", "fleischner_growth", "nelson_growth",
)  # fmt: skip
"""Columns of ``changes.csv``, empty where there is no value. Shares are of the earlier value, 0.25 a quarter more."""


def to_csv(comparison: Comparison) -> str:
    """The nodules as CSV: a header, then a row each."""
    return table_text(COLUMNS, (dict(_row(track, comparison)) for track in comparison.tracks), digits=6)


def _row(track: Track, comparison: Comparison) -> Iterator[tuple[str, object]]:
    now, change = track.current, track.change
    before = track.sightings[-2 if track.compared is None else track.compared]
    seen = [one for one in track.sightings if one.measurements is not None][-1]
    yield from (("case", comparison.case), ("nodule", track.id), ("status", track.status), ("texture", seen.texture))
    if seen.position is not None:
        yield from (("side", seen.position.side), ("zone", seen.position.zone))
    yield from (("before_presence", before.presence), ("current_presence", now.presence))
    for one, name in ((before, "_before"), (now, "")):
        if one.measurements is not None:
            yield f"mean_diameter{name}_mm", one.measurements.mean_diameter_mm
            yield f"volume{name}_mm3", one.measurements.volume_mm3
    if change is None:
        return
    yield from (("days", change.days), ("volume_share", change.volume_share), ("mass_share", change.mass_share))
    yield from zip(("volume_share_low", "volume_share_high"), change.volume_share_interval, strict=True)
    yield "doubling_days", change.doubling_days
    if change.doubling_interval_days is not None:
        yield from zip(("doubling_low_days", "doubling_high_days"), change.doubling_interval_days, strict=True)
    yield from (("lung_rads_growth", change.lung_rads), ("nelson_growth", change.nelson))
    yield "fleischner_growth", change.fleischner_growth
