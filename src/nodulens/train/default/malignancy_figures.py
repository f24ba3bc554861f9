"""The malignancy estimate judged out of fold: network, forest and their average, on readers' outlines and its own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodulens.io.records import to_plain
from nodulens.metrics.classification import auc
from nodulens.train.default import calibration
from nodulens.train.default.calibration import PANEL, ScoredNodules
from nodulens.train.default.malignancy import CUBES, OWN, STACKS, TARGETS, Planes

STANDS_ON = "LIDC-IDRI stacks, readers' outlines, median > 3 against < 3, five folds by patient"
COMBINATION = (0.5, 0.5)
"""Weights of the network's and of the forest's log odds in the estimate."""
PER_NODULE = ("score", "truth", "readers", "share", "diameter_mm", "calibration")
SOURCES = {STACKS: "stacks, readers' outlines", CUBES: "cubes, readers' outlines", OWN: "cubes, the program's outlines"}


def scored_nodules(material: Planes, logits: NDArray[np.floating]) -> ScoredNodules:
    """The entries with a score (N,) each."""
    median = material.medians[:, 0]
    return ScoredNodules(
        patients=material.patients,
        score=logits,
        truth=np.where((median == 3) | (median == 0), -1, median > 3),
        readers=material.readers,
        share=material.share,
        diameter_mm=material.diameter_mm,
        calibration=material.calibration,
    )


def averaged(network: NDArray[np.floating], forest: NDArray[np.floating]) -> NDArray[np.float64]:
    """The score (N,) of the estimate, from logits (N, 7) of the network and (N,) of the forest."""
    return np.asarray(np.stack([network[:, 0].astype(np.float64), forest], 1) @ COMBINATION)


def fill(
    card: dict[str, Any],
    beside: dict[str, Any],
    material: Planes,
    network: NDArray[np.floating],
    forest: NDArray[np.floating],
    cubes: int,
) -> None:
    """Put settings and figures on the cards of the network and of the forest.

    Args:
        network: (N, 7) logits of its outputs, out of fold.
        forest: (N,) logits, out of fold.
        cubes: how many nodules could have an outline of the program's own.
    """
    average = averaged(network, forest)
    both, alone = (scored_nodules(material, score) for score in (average, forest))
    p = calibration.cross_fitted(both)
    card["settings"] = {"combination": list(COMBINATION), **calibration.settings(both), "outputs": list(TARGETS)}
    beside["settings"] = {"features": list(material.names)}
    scores = {"diameter": material.diameter_mm, "network": network[:, 0], "forest": forest, "average": average}
    shown = {source: material.source == source for source in SOURCES if (material.source == source).any()}
    card["figures"] = {
        **calibration.figures(_of(both, shown[STACKS]), p[shown[STACKS]]),
        "by_outline": {
            SOURCES[source]: {
                **calibration.figures(_of(both, rows), p[rows]),
                "each_alone": {name: _ranking(_of(replace(both, score=score), rows)) for name, score in scores.items()},
            }
            for source, rows in shown.items()
        },
        "own_outlines": [int((material.source == OWN).sum()), cubes],
        "attributes": attributes(material, network),
        "stands_on": STANDS_ON,
    }
    measured = calibration.figures(_of(alone, shown[STACKS]), calibration.cross_fitted(alone)[shown[STACKS]])
    beside["figures"] = {**measured, "stands_on": STANDS_ON}


def attributes(material: Planes, network: NDArray[np.floating]) -> dict[str, Any]:
    """AUC of each rating but malignancy, median above 3 against below, on the stacks of three readers or more; None
    where a class has fewer than :data:`calibration.LEAST` nodules."""
    found: dict[str, Any] = {}
    rows = np.flatnonzero((material.source == STACKS) & (material.readers >= PANEL))
    for k, name in enumerate(TARGETS[1:], start=1):
        median = material.medians[rows, k]
        decided = (median > 0) & (median != 3)
        truth, score = median[decided] > 3, network[rows[decided], k]
        few = min(truth.sum(), (~truth).sum()) < calibration.LEAST
        found[name] = {
            "auc": None if few else round(auc(truth, score), 4),
            "nodules": int(decided.sum()),
            "above_3": int(truth.sum()),
        }
    return found


def _ranking(scored: ScoredNodules) -> dict[str, Any]:
    chosen = {"three_readers_or_more": scored.panel, "six_to_twelve_mm": scored.panel & scored.between}
    return {
        name: to_plain(calibration.beside_diameter(scored, rows), calibration.ARRANGED) for name, rows in chosen.items()
    }


def _of(scored: ScoredNodules, chosen: NDArray[np.bool_]) -> ScoredNodules:
    """Some of the entries."""
    rows = np.flatnonzero(chosen)
    parts = {name: getattr(scored, name)[rows] for name in PER_NODULE}
    return replace(scored, patients=[scored.patients[i] for i in rows.tolist()], **parts)
