"""The nodules of a comparison, as text queries ask for them."""

from __future__ import annotations

from collections.abc import Iterator

from nodulens.followup.record import Comparison
from nodulens.query.criteria import Tracked


def tracked(comparison: Comparison) -> Iterator[Tracked]:
    """Every track, with what the latest examination that shows the nodule has of it; by :func:`nodulens.query.resolve`
    with ``compared=True`` they are selected."""
    for track in comparison.tracks:
        seen = next(one for one in reversed(track.sightings) if one.present)
        # a sighting has these where the nodule is there
        assert seen.score is not None and seen.texture is not None
        assert seen.position is not None and seen.measurements is not None
        yield Tracked(
            track.id, track.status, track.current.present, seen.score, seen.texture, seen.position, seen.measurements,
            seen.risk, seen.attributes,
        )  # fmt: skip
