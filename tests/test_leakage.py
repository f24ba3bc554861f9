"""The leakage report: where memory helps and where it does not, on rows made up, and on the real crops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn")

from nodulens.data.material import Stacks
from nodulens.evaluate import leakage as module
from nodulens.evaluate.leakage import AT_RANDOM, BY_NODULE, BY_PATIENT, NEIGHBOURS, Figure, leakage


def figures(found: list[Figure]) -> dict[str, float]:
    return {f.split: f.auc.value for f in found}


def test_what_can_only_be_remembered_is_seen_at_random_alone() -> None:
    """Nodules look like nothing but themselves, and labels are tossed: only memory tells them."""
    rng = np.random.default_rng(0)
    nodule = np.repeat(np.arange(120), 8)
    looks = rng.normal(size=(120, 256))[nodule] + rng.normal(0, 0.1, (960, 256))
    label = rng.random(120) < 0.5
    patient = np.array([f"P{n // 2}" for n in nodule])
    crops = module._Crops("q", looks.astype(np.float32), label[nodule], nodule, patient)
    auc = figures(module._under_each_split(crops, NEIGHBOURS, 0))
    assert auc[AT_RANDOM] > 0.99 and abs(auc[BY_NODULE] - 0.5) < 0.12 and abs(auc[BY_PATIENT] - 0.5) < 0.12


def test_what_patients_share_is_seen_by_nodule_too() -> None:
    """All nodules of a patient look alike and have one label: splitting by nodule is not enough."""
    rng = np.random.default_rng(1)
    owner = np.repeat(np.arange(100), 6)
    looks = rng.normal(size=(100, 256))[owner] + rng.normal(0, 0.1, (600, 256))
    patient = np.array([f"P{n}" for n in owner])
    label = (rng.random(100) < 0.5)[owner]
    crops = module._Crops("q", looks.astype(np.float32), label, np.arange(600), patient)
    auc = figures(module._under_each_split(crops, NEIGHBOURS, 0))
    assert auc[BY_NODULE] > 0.99 and abs(auc[BY_PATIENT] - 0.5) < 0.15


def test_an_honest_sign_is_seen_under_every_split() -> None:
    rng = np.random.default_rng(2)
    label = rng.random(600) < 0.5
    looks = rng.normal(size=(600, 256)) + 0.4 * label[:, None]
    patient = np.array([f"P{n % 150}" for n in range(600)])
    crops = module._Crops("q", looks.astype(np.float32), label, np.arange(600), patient)
    found = module._under_each_split(crops, module.LOGISTIC, 0)
    assert min(figures(found).values()) > 0.95
    assert found == module._under_each_split(crops, module.LOGISTIC, 0)


def test_a_code_is_judged_by_other_patients() -> None:
    """A code that names its patient says nothing of others; one that says the label tells it all."""
    patient = np.repeat([f"P{k}" for k in range(200)], 3)
    label = np.repeat(np.random.default_rng(3).random(200) < 0.4, 3)
    own = np.repeat(np.arange(200), 3)
    assert module._by_code("q", "s", own, label, patient).auc.value == pytest.approx(0.5, abs=0.1)
    assert module._by_code("q", "s", label.astype(int), label, patient).auc.value == 1


@pytest.mark.training
def test_the_report_is_whole(data: Path) -> None:
    steps: list[tuple[int, int]] = []
    found = leakage(data, 5, lambda *step: steps.append(step))
    assert steps[-1][0] == steps[-1][1]
    assert [f.split for f in found.splits] == [AT_RANDOM, BY_NODULE, BY_PATIENT] * 6
    sources = {f.source for f in found.inputs}
    assert sources >= {"rounding of the coordinates", "number of slices × spacing", "diameter"}
    for figure in (*found.splits, *found.inputs):
        assert 0 <= figure.auc.low <= figure.auc.value <= figure.auc.high <= 1


def test_the_real_crops_leak_as_their_readme_says(shared: Path) -> None:
    stacks = Stacks(shared)
    nodules = module._nodules(stacks)
    beside = {(f.question, f.source): f.auc.value for f in module._beside_the_stacks(stacks, nodules)}
    agreed = "malignant or benign, nodules of three readers or more"
    assert beside[agreed, "number of slices × spacing"] == pytest.approx(0.88, abs=0.005)
    assert beside[agreed, "diameter"] == pytest.approx(0.945, abs=0.005)
    assert beside[f"{agreed}, 6–12 mm", "diameter"] == pytest.approx(0.80, abs=0.01)
    (rounding,) = module._beside_the_patches(shared)
    assert rounding.auc.value > 0.72
    auc = figures(module._under_each_split(module._slices(stacks, nodules), NEIGHBOURS, 0))
    assert auc[AT_RANDOM] > 0.95 and auc[BY_PATIENT] < 0.75
