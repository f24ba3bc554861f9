"""Which patients a model may see: one function of the patient, for every file.

Stacks, cubes, patches, backgrounds and rendered nodules share patients, so they share these folds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

FOLDS = 5

EVALUATION_PATIENTS = frozenset({"LIDC-IDRI-0001", "LIDC-IDRI-0003", "LIDC-IDRI-0028", "Lung_Dx-A0001"})
"""Patients of the whole scans that figures are reported on: they never train or tune a shipped model."""


def fold_of(patient_id: str) -> int:
    """The fold 0…4 of a patient: a hash, so that it depends on nothing else and never changes."""
    digest = hashlib.sha256(f"nodulens fold {patient_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % FOLDS


def may_train(patient_ids: Iterable[str], left_out: int | None) -> NDArray[np.bool_]:
    """True where a patient may train: not for evaluation, and not in the fold left out (None: no fold is)."""
    return np.array([p not in EVALUATION_PATIENTS and fold_of(p) != left_out for p in patient_ids], dtype=bool)


def is_left_out(patient_ids: Iterable[str], left_out: int) -> NDArray[np.bool_]:
    """True where a patient is judged by the model of this fold; evaluation patients never are."""
    return np.array([p not in EVALUATION_PATIENTS and fold_of(p) == left_out for p in patient_ids], dtype=bool)
