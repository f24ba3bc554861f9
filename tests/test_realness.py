"""Telling rendered nodules from real ones: nothing to tell gives 0.5, a give-away gives 1, patients stay apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("torch")
pytest.importorskip("sklearn")


from experiments.realness import PX, Host, Pairs, evaluate, kind_of, make_pairs, network_scores, tree_scores
from nodulens.data.folds import fold_of
from nodulens.data.shapes import Shape
from nodulens.metrics.classification import delong

pytestmark = pytest.mark.usefixtures("one_thread")

PIXEL_MM = 0.7
PATIENTS = [p for p in map("P{}".format, range(400)) if fold_of(p) < 2]
"""Of two folds: fewer classifiers to train."""
Images = NDArray[np.uint8]
Scores = Callable[[Images, NDArray[np.int_], NDArray[np.int_]], NDArray[np.float64]]


def disc(patient: str, radius_mm: float = 4.0, **ratings: float) -> Shape:
    z, y, x = np.meshgrid(np.arange(-4, 5) * 1.25, *[(np.arange(96) - 48) * PIXEL_MM] * 2, indexing="ij")
    body = z**2 + y**2 + x**2 < radius_mm**2
    rated = {"texture": 5.0, "calcification": 6.0} | ratings
    return Shape(body.astype(np.float32), (1.25, PIXEL_MM, PIXEL_MM), rated, patient)


def steps(hu: NDArray[np.floating]) -> Images:
    return np.clip(np.rint((hu + 1000) / 8), 0, 175).astype(np.uint8)


def patches(count: int, rng: np.random.Generator, noise: float = 30.0) -> Images:
    """Balls of all sizes in noisy lung."""
    y, x = np.mgrid[:PX, :PX] - PX / 2
    radius = rng.uniform(3, 8, (count, 1, 1))
    hu = np.where(np.hypot(y, x) < radius, 30.0, -850.0)
    return steps(hu + rng.normal(0, noise, hu.shape))


def pairs_of(real: Images, rendered: Images) -> Pairs:
    shapes = tuple(disc(p) for p in PATIENTS[: len(real)])
    return Pairs(real, rendered, shapes, np.zeros(real.shape, dtype=bool))


def auc(scores: Scores, pairs: Pairs) -> float:
    images, labels, folds = pairs.cases()
    return delong(labels, scores(images, labels, folds)).value


def network(images: Images, labels: NDArray[np.int_], folds: NDArray[np.int_]) -> NDArray[np.float64]:
    return network_scores(images, labels, folds, epochs=14)


@pytest.mark.parametrize(("scores", "count"), [(network, 32), (tree_scores, 100)])
def test_nothing_to_tell_is_a_half_and_other_noise_gives_itself_away(scores: Scores, count: int) -> None:
    rng = np.random.default_rng(0)
    assert auc(scores, pairs_of(patches(count, rng), patches(count, rng))) == pytest.approx(0.5, abs=0.2)
    assert auc(scores, pairs_of(patches(count, rng), patches(count, rng, noise=150))) > 0.95


def test_a_patients_own_texture_tells_nothing_of_others() -> None:
    """Every patient has a pattern of its own and a label of its own: only a classifier that has seen him would know."""
    rng = np.random.default_rng(2)
    owner = np.repeat(np.arange(40), 4)
    images = (patches(160, rng) // 2 + rng.integers(0, 80, (40, PX, PX))[owner]).astype(np.uint8)
    labels = rng.permutation(np.arange(40) % 2)[owner]
    assert delong(labels, tree_scores(images, labels, owner % 2)).value == pytest.approx(0.5, abs=0.2)
    assert delong(labels, tree_scores(images, labels, np.arange(160) % 2)).value > 0.8, "as a split at random has it"


def test_the_judgement_is_whole() -> None:
    rng = np.random.default_rng(3)
    pairs = pairs_of(patches(40, rng), patches(40, rng, noise=150))
    seen = replace(pairs, shapes=tuple(replace(s, ratings={**s.ratings, "texture": 1.0}) if k % 2 else s
                                       for k, s in enumerate(pairs.shapes)))  # fmt: skip
    found = evaluate(seen, epochs=1)
    assert found.pairs == 40 and found.trees.value > 0.8
    assert found.context.value == pytest.approx(0.5, abs=0.05), "with all blanked out there is nothing to see"
    assert {"solid", "ground glass"} <= set(found.by_kind)
    first = evaluate(seen, epochs=1, judged=1)
    assert first.trees == found.trees and 0 < first.judged < found.judged == 40


def test_kinds() -> None:
    kinds = [kind_of(disc("P", texture=t, calcification=c)) for t, c in ((1, 6), (3, 6), (4.5, 6), (5, 3), (0, 0))]
    assert kinds == ["ground glass", "part-solid", "solid", "calcified", "ground glass"]


# ---- pairs


def host(patient: str, rng: np.random.Generator, radius_mm: float = 3.5) -> Host:
    shape = disc(patient, radius_mm)
    hu = np.where(shape.body, 30.0, -850.0) + rng.normal(0, 25, shape.body.shape)
    return Host(hu.astype(np.float32), shape.body.any(axis=0), shape, 1.25)


def test_a_pair_is_of_two_patients_of_one_fold() -> None:
    rng = np.random.default_rng(4)
    everyone = tuple(host(f"P{k}", rng) for k in range(14))
    pairs = make_pairs(everyone, seed=0)
    assert len(pairs.shapes) > 8
    for real, rendered, shape in zip(pairs.real, pairs.rendered, pairs.shapes, strict=True):
        own = next(h for h in everyone if h.shape is shape)
        whole = steps(own.hu[own.largest])
        windows = np.lib.stride_tricks.sliding_window_view(whole, (PX, PX)).reshape(-1, PX, PX)
        assert (windows == real).all(axis=(1, 2)).any(), "the real patch is the scan, pixel by pixel"
        middle = slice(PX // 2 - 2, PX // 2 + 2)
        assert rendered[middle, middle].mean() * 8 - 1000 > -250
        rest = [h for h in everyone if fold_of(h.shape.patient) == fold_of(shape.patient) and h is not own]
        rim = rendered[0]
        assert any((np.lib.stride_tricks.sliding_window_view(steps(h.hu[4]), (1, PX)) == rim).all((2, 3)).any()
                   for h in rest), "the rendered one lies in another patient of the fold"  # fmt: skip
    again = make_pairs(everyone, seed=0)
    assert np.array_equal(pairs.rendered, again.rendered)
    assert len(make_pairs(everyone, 3).shapes) <= 3


def test_nobody_is_paired_with_himself() -> None:
    """One patient with many nodules, alone in his fold, has no pair; the others have."""
    rng = np.random.default_rng(5)
    alone = next(f"P{k}" for k in range(99) if fold_of(f"P{k}") == 0)
    others = [f"P{k}" for k in range(99) if fold_of(f"P{k}") == 1][:4]
    everyone = tuple(host(p, rng) for p in [alone] * 4 + others)
    assert {s.patient for s in make_pairs(everyone).shapes} <= set(others)


def test_a_rendered_nodule_has_the_grey_levels_of_its_slice() -> None:
    """Pictures whose levels lie 16 HU apart get nodules of such levels; otherwise counting levels would tell."""
    rng = np.random.default_rng(6)
    everyone = tuple(host(p, rng) for p in [p for p in PATIENTS if fold_of(p) == 0][:6])
    combed = tuple(replace(h, hu=np.float32(16) * np.rint(h.hu / 16)) for h in everyone)
    for hosts, share in ((everyone, 0.5), (combed, 1.0)):
        steps_of_16 = make_pairs(hosts).rendered % 2 == 1  # HU = 8 · value − 1000
        assert steps_of_16.mean() == pytest.approx(share, abs=0.03)
