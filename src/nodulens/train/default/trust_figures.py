"""Where the malignancy estimate must not be trusted: the limits on its card, and what they are worth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodulens.data.material import Stacks
from nodulens.io.records import to_plain
from nodulens.metrics.classification import auc
from nodulens.train.default import calibration
from nodulens.train.default.calibration import ScoredNodules
from nodulens.train.default.malignancy_figures import SOURCES

LEVEL = 0.95
"""Share of the left-out nodules whose distance is within the limit."""
THIN = 0.99
"""Share of the stacks whose slices are within the limit: seven of two thousand have 5 mm."""

STANDS_ON = "on all outlines, five folds by patient"


def fill(
    card: dict[str, Any],
    stacks: Stacks,
    scored: ScoredNodules,
    away: NDArray[np.floating],
    source: NDArray[np.str_],
    strange: Mapping[str, NDArray[np.floating]],
) -> None:
    """Put the limits of what was taught on the card of the network, how well the distance tells what was not taught
    from nodules, and how well the estimate does within its limit and beyond.

    Args:
        stacks: of the training set, for the thickness of its slices.
        scored: nodules (N,).
        away: (N,) their distances, each by a network that was not trained on the patient.
        source: (N,) whose outline each has, see :class:`nodulens.train.default.malignancy.Planes`.
        strange: kind → distances of what was not taught, see :func:`nodulens.train.default.untaught.kinds`.
    """
    slices = [max(stacks.spacing_zyx(n)[0], stacks.thickness_mm(n)) for n in stacks.nodules.tolist()]
    limit = round(float(np.quantile(away, LEVEL)), 3)
    card["settings"]["taught"] = {"distance": limit, "slice_mm": round(float(np.quantile(slices, THIN)), 2)}
    p = calibration.cross_fitted(scored)
    card["figures"]["trust"] = {
        "held_out": {
            words: _flagged(away[source == name], limit) for name, words in SOURCES.items() if (source == name).any()
        },
        "stands_on": STANDS_ON,
        "kinds": {
            kind: {**_flagged(other, limit), "auc": _auc(away, other)} for kind, other in strange.items() if len(other)
        },
        "error": {"within": _error(scored, p, away <= limit), "beyond": _error(scored, p, away > limit)},
    }


def _flagged(away: NDArray[np.floating], limit: float) -> dict[str, Any]:
    return {"number": len(away), "flagged": round(float((away > limit).mean()), 3)}


def _auc(away: NDArray[np.floating], other: NDArray[np.floating]) -> float:
    """By the distance, of what was not taught against nodules."""
    both = np.concatenate([away, other])
    return round(auc(np.arange(len(both)) >= len(away), both), 3)


def _error(scored: ScoredNodules, p: NDArray[np.floating], chosen: NDArray[np.bool_]) -> dict[str, Any]:
    """AUC and calibration of some of the nodules that are benign or malignant, of three readers or more; only how many
    where a class has fewer than :data:`calibration.LEAST`."""
    rows = chosen & scored.decided & scored.panel
    truth = scored.truth[rows]
    if min((truth == 1).sum(), (truth == 0).sum()) < calibration.LEAST:
        return {"nodules": len(truth)}
    calibrated = to_plain(calibration.calibration_figures(truth, p[rows]), {})
    return {"auc": round(auc(truth == 1, p[rows]), 4), **calibrated}
