"""What the malignancy network was taught on, what it was not, and how far apart the two are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage

from nodulens.core.geometry import Geometry
from nodulens.core.nodule import Box, Candidate
from nodulens.core.volume import Volume
from nodulens.data.folds import FOLDS, fold_of, may_train
from nodulens.data.material import Cubes, Stacks
from nodulens.metrics.classification import auc
from nodulens.stages.classify import distance
from nodulens.stages.features import nodule_features
from nodulens.stages.prompts import Prompt
from nodulens.train.default import malignancy, malignancy_figures, trust_figures, untaught
from nodulens.train.default.cube_detection import GRID
from nodulens.train.default.malignancy import Planes, nodule_views, planes, pooled
from nodulens.train.default.measured import logged
from nodulens.train.default.taught import Taught, distances_of, out_of_fold, views_of
from nodulens.train.networks.default_method import PooledClassifier, malignancy_net
from nodulens.train.networks.whitening import Whitening

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def material(data: Path) -> Planes:
    return planes(Stacks(data), Cubes(data), {})


def net(seed: int) -> PooledClassifier:
    torch.manual_seed(seed)
    return malignancy_net(len(malignancy.TARGETS)).eval()


# ---- The distance


def test_most_of_the_training_set_is_within_one(material: Planes) -> None:
    taught = Taught.of(net(0), material, 1)
    own = may_train(material.patients, 1)
    features, measured = pooled(taught.net, *views_of(material, own)), logged(material.features[own], material.names)
    away = taught.distances(features, measured)
    assert len(away) == own.sum() and 0.7 < np.quantile(away, 0.95) < 1.05
    for whitened in (taught.seen(torch.from_numpy(features)), taught.measured(torch.from_numpy(measured))):
        assert float((whitened.square().mean(1).sqrt() > 1).float().mean()) == pytest.approx(0.05, abs=0.02)
    middle = features.mean(0)[None], measured.mean(0)[None]
    assert taught.distances(*middle)[0] < 0.02 < away.min()
    assert taught.distances(middle[0] + 50 * features.std(0), middle[1])[0] > away.max()
    assert taught.distances(middle[0], middle[1] + 50 * measured.std(0))[0] > away.max()


def test_whitened_features_are_as_far_as_the_covariance_says() -> None:
    """On Gaussian features, as many as make the shrinkage vanish."""
    rng = np.random.default_rng(0)
    features = (rng.normal(size=(5000, 3)) @ rng.normal(size=(3, 3)) + 2).astype(np.float32)
    whitened = Whitening.fitted(features)(torch.from_numpy(features)).numpy()
    covariance = np.cov(whitened.T)
    np.testing.assert_allclose(covariance / covariance[0, 0], np.eye(3), atol=0.05)
    inverse, off = np.linalg.inv(np.cov(features.T)), features[:9] - features.mean(0)
    direct = np.einsum("ni,ij,nj->n", off, inverse, off)
    found = np.square(whitened[:9]).sum(1)
    np.testing.assert_allclose(found / found[0], direct / direct[0], rtol=0.1)
    ones, twos = np.ones((2, 5)), np.full((2, 3), 2.0)
    np.testing.assert_allclose(distance(ones, twos), np.sqrt((1 + 4) / 2), err_msg="both kinds count the same")


def test_each_nodule_is_judged_by_the_network_that_left_it_out(material: Planes) -> None:
    by_fold = [Taught.of(net(fold), material, fold) for fold in range(FOLDS)]
    logits, away = out_of_fold(material, by_fold)
    for row in (0, 7, 30):
        taught = by_fold[fold_of(material.patients[row])]
        chosen = np.arange(len(material.patients)) == row
        features = pooled(taught.net, *views_of(material, chosen))
        measured = logged(material.features[chosen], material.names)
        assert away[row] == pytest.approx(taught.distances(features, measured)[0], rel=1e-4)
        x = torch.from_numpy(material.image[material.nodule == row].astype(np.float32))
        x[:, 1] = torch.from_numpy(malignancy.soft_outline(x[:, 1].numpy()))
        with torch.inference_mode():
            turned = torch.stack([taught.net(x.flip(dims)) for dims in ([], [2], [3], [2, 3])])
        np.testing.assert_allclose(logits[row], turned.mean((0, 1)), atol=1e-4)


def test_what_is_shown_is_judged_by_the_network_that_left_its_patient_out(data: Path, material: Planes) -> None:
    cubes = Cubes(data)
    shown = [
        untaught.Shown(cubes.patients[n], cubes.unit(n), cubes.truth(n), (1.0, 1.0, 1.0)) for n in cubes.nodules[:3]
    ]
    by_fold = [Taught.of(net(fold), material, fold) for fold in range(FOLDS)]
    found = distances_of(shown, by_fold)
    for one, away in zip(shown, found, strict=True):
        taught = by_fold[fold_of(one.patient)]
        views = nodule_views(one.image, one.mask, one.spacing_zyx)
        measured = np.array([list(nodule_features(one.image, one.mask, one.spacing_zyx).values())])
        both = pooled(taught.net, views, np.zeros(len(views), int)), logged(measured, material.names)
        assert away == pytest.approx(taught.distances(*both)[0])
    assert len(distances_of([], by_fold)) == 0


# ---- What was not taught


def test_pneumonia_is_denser_lung_and_nothing_else_changes() -> None:
    rng = np.random.default_rng(0)
    lung = np.zeros((30, 60, 60), dtype=bool)
    lung[:, 10:50, 5:55] = True
    hu = np.where(lung, -850.0, 40.0).astype(np.float32)
    hu[:, 30, 30] = -990  # an open airway
    volume, dense = untaught.pneumonia(Volume(hu, Geometry.axial(lung.shape, (2.0, 1.0, 1.0))), lung, rng)
    np.testing.assert_array_equal(volume.hu[~dense], hu[~dense])
    assert not (dense & ~lung).any() and dense.sum() / lung.sum() == pytest.approx(untaught.DENSE, abs=0.01)
    assert (volume.hu >= hu).all() and volume.hu[:, 30, 30].max() == -990
    inside = ndimage.binary_erosion(dense, iterations=3)
    assert -100 < volume.hu[inside].mean() < 20 and inside.sum() > 100


def test_thick_slices_are_means_of_thin_ones(data: Path) -> None:
    cubes = Cubes(data)
    (first, *_) = untaught.in_thick_slices(cubes, 5)
    assert first.spacing_zyx == (5.0, 1.0, 1.0) and first.image.shape == first.mask.shape == (10, 50, 50)
    np.testing.assert_allclose(first.image[4], cubes.unit(0)[20:25].mean(0), atol=1e-6)
    np.testing.assert_array_equal(first.mask[4], cubes.truth(0)[20:25].mean(0) >= 0.5)


def test_noise_is_as_strong_as_asked(data: Path) -> None:
    cubes = Cubes(data)
    (first, *_) = untaught.in_noise(cubes, 40)
    added = (first.image - cubes.unit(0)) * 1400
    assert added[(cubes.unit(0) > 0.2) & (cubes.unit(0) < 0.8)].std() == pytest.approx(40, rel=0.1)
    assert first.image.min() >= 0 and first.image.max() <= 1


def test_only_large_nodules_are_grown(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(untaught, "GROWN_FROM_MM", 8.0)
    stacks = Stacks(data)
    shown = list(untaught.grown(stacks))
    large = [n for n in stacks.nodules.tolist() if stacks.readers(n) >= 3 and stacks.diameter_mm(n) >= 8]
    assert [one.patient for one in shown] == [stacks.patients[n] for n in large] and shown
    np.testing.assert_allclose(shown[0].spacing_zyx, 2.5 * np.array(stacks.spacing_zyx(large[0])))


def test_marks_are_taken_from_where_nothing_was_outlined(data: Path) -> None:
    """The nodule's own mark is none, and a mark without an outline shows nothing."""
    cubes = Cubes(data)
    asked: list[str] = []

    def mark(zyx: tuple[int, int, int]) -> Candidate:
        x, y, z = GRID.to_lps(np.asarray(zyx, float))
        return Candidate((float(x), float(y), float(z)), 5.0, 0.9)

    def marks(patient: str) -> Any:
        asked.append(patient)
        return lambda volume, region: [mark((25, 25, 25)), mark((5, 6, 7)), mark((44, 8, 9))]

    def outline(volume: Volume, prompt: Prompt) -> tuple[Box, NDArray[np.bool_]]:
        start = np.floor(prompt.start).astype(int)
        empty = start[0] > 25
        return Box.between(start, start + 2), np.full((2, 2, 2), not empty)

    shown = list(untaught.marks_in_cubes(cubes, marks, lambda patient: outline))
    assert asked == [cubes.patients[n] for n in range(0, len(cubes), untaught.ONE_CUBE_IN)]
    assert [one.patient for one in shown] == asked
    assert all(one.mask.sum() == 8 and len(one.mask) == 2 for one in shown)


# ---- The card


def test_limits_and_figures_are_those_of_the_distances(data: Path, material: Planes) -> None:
    rng = np.random.default_rng(0)
    n = len(material.patients)
    away = rng.normal(1, 0.2, n)
    score = material.target[:, 0] + rng.normal(0, 0.1, n)
    scored = replace(malignancy_figures.scored_nodules(material, score), truth=(score > np.median(score)).astype(int))
    card: dict[str, Any] = {"settings": {}, "figures": {}}
    strange = {"vessels": rng.normal(2, 0.2, 30), "nothing": np.empty(0)}
    trust_figures.fill(card, Stacks(data), scored, away, material.source, strange)
    limits, found = card["settings"]["taught"], card["figures"]["trust"]
    assert limits["distance"] == pytest.approx(np.quantile(away, 0.95), abs=1e-3)
    assert limits["slice_mm"] == pytest.approx(Stacks(data).thickness_mm(0))
    assert found["held_out"].keys() == {"stacks, readers' outlines", "cubes, readers' outlines"}
    assert sum(group["number"] for group in found["held_out"].values()) == n
    in_cubes = away[material.source == malignancy.CUBES] > limits["distance"]
    assert found["held_out"]["cubes, readers' outlines"]["flagged"] == pytest.approx(in_cubes.mean(), abs=1e-3)
    assert found["kinds"].keys() == {"vessels"}
    vessels = found["kinds"]["vessels"]
    assert vessels["flagged"] == pytest.approx((strange["vessels"] > limits["distance"]).mean(), abs=1e-3)
    both = np.concatenate([away, strange["vessels"]])
    assert vessels["auc"] == pytest.approx(auc(np.arange(len(both)) >= n, both), abs=1e-3)
    assert found["error"]["within"]["auc"] > 0.98 and found["error"]["beyond"].keys() == {"nodules"}
    panel = (scored.readers >= 3).sum()
    assert sum(group["nodules"] for group in found["error"].values()) == panel
