"""Folds by patient: one function of the patient's name, for every file.

Stacks, cubes, patches, backgrounds and rendered nodules share patients, so they share these folds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

FOLDS = 5

EVALUATION_PATIENTS = frozenset({"LIDC-IDRI-0001", "LIDC-IDRI-0003", "LIDC-IDRI-0028", "Lung_Dx-A0001"})
"""Patients of the whole scans for evaluation, which are in no training or validation set of a shipped model."""


def fold_of(patient_id: str) -> int:
    """The fold 0…4 of a patient: a hash, so that it depends on nothing else and never changes."""
    digest = hashlib.sha256(f"nodulens fold {patient_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % FOLDS


def may_train(patient_ids: Iterable[str], left_out: int | None) -> NDArray[np.bool_]:
    """Which patients may train: those not for evaluation, and not in the test fold (None: no test fold)."""
    return np.array([p not in EVALUATION_PATIENTS and fold_of(p) != left_out for p in patient_ids], dtype=bool)


def is_left_out(patient_ids: Iterable[str], left_out: int) -> NDArray[np.bool_]:
    """Which patients are in a test fold; evaluation patients never are."""
    return np.array([p not in EVALUATION_PATIENTS and fold_of(p) == left_out for p in patient_ids], dtype=bool)
