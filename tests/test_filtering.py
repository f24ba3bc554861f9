"""The network that keeps or rejects regions: its patches, what it learns, how it is judged."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import made_models
from nodulens.data.folds import EVALUATION_PATIENTS
from nodulens.data.material import Background
from nodulens.errors import BadOption, NotFound
from nodulens.methods.catalogue import RESNET_UNET_PATCH_CNN
from nodulens.methods.recipe import NetworkConfig
from nodulens.metrics.classification import auc, average_precision
from nodulens.metrics.statistics import bootstrap
from nodulens.runtime.engine import Array, Model, load_model
from nodulens.train.loop.curves import read_curves
from nodulens.train.loop.export import export
from nodulens.train.tasks import fp_reduction
from nodulens.train.tasks.fp_reduction import Candidates, evaluate, load, settled, train
from nodulens.train.tasks.fp_reduction_figures import EvaluatedPatches, FpReductionFigures
from nodulens.train.tasks.lung_tiles import TILES, LungSlice

pytestmark = pytest.mark.usefixtures("one_thread")

assert RESNET_UNET_PATCH_CNN.filter is not None
FILTER: NetworkConfig = replace(RESNET_UNET_PATCH_CNN.filter, epochs=2, batch=16)


@pytest.fixture(scope="module")
def material(data: Path) -> Candidates:
    return load(data, RESNET_UNET_PATCH_CNN)


def answering(material: Candidates, logits: np.ndarray) -> Model:
    """A model that knows every patch, however it is turned."""

    def values(patch: Array) -> bytes:
        return np.sort(patch, axis=None).tobytes()

    known = {values(material.images(np.array([r]))): logits[r] for r in range(len(material.patients))}

    def run(batch: Array) -> tuple[Array, ...]:
        return (np.array([[known[values(one)]] for one in batch], dtype=np.float32),)

    return made_models.model(run)


def test_patches_are_those_that_may_be_learnt_from(material: Candidates) -> None:
    assert len(material.patients) == len(material.strata) == len(material.patches.label)
    assert not set(material.patients) & EVALUATION_PATIENTS
    assert [kind == "nodule" for kind in material.strata] == material.patches.label.tolist()
    seen = material.images(np.array([3, 0]))
    assert (seen.shape, seen.dtype) == ((2, 1, 64, 64), np.float32)
    assert seen[0, 0] == pytest.approx(material.patches.unit(np.array([3]))[0])
    assert seen.min() >= 0
    assert seen.max() <= 1.0


def test_a_folder_without_patches_says_so(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="luna16"):
        load(tmp_path, RESNET_UNET_PATCH_CNN)


def test_it_learns_and_what_is_exported_is_judged(tmp_path: Path, material: Candidates) -> None:
    """Of patients that it has not seen."""
    rows = np.arange(len(material.patients))
    test = np.isin(material.patients, sorted(set(material.patients))[::4])
    net = train(FILTER, material, rows[~test], rows[test][:40], tmp_path / "run.pt")
    export(net, torch.rand(2, 1, 64, 64), tmp_path, {"name": "filter", "settings": {}, "command": "",
           "trained_on": {}, "input": {}, "figures": {}})  # fmt: skip
    found = evaluate(load_model("filter", 1, tmp_path), FILTER, material, rows[test])
    assert found.figures.kept.auc.value > 0.95
    assert [row.row for row in found.rows] == rows[test].tolist()
    assert {len(column) for column in found.to_json().values()} == {test.sum()}
    json.dumps([found.figures.to_json(), found.to_json()], allow_nan=False)


@pytest.mark.parametrize("balance", ["none", "sampling", "weights"])
def test_two_patches_are_learnt_by_heart(tmp_path: Path, material: Candidates, balance: str) -> None:
    pair = np.array([int(material.patches.label.argmax()), int(material.patches.label.argmin())])
    config = replace(FILTER, balance=balance, learning_rate=3e-3, averaging=0, augment=())  # type: ignore[arg-type]
    rows = np.tile(pair, 160 if balance == "sampling" else 60)
    net = train(replace(config, epochs=4, batch=8), material, rows, pair[:0], tmp_path / "run.pt")
    with torch.inference_mode():
        p = net(torch.from_numpy(material.images(pair))).sigmoid()[:, 0]
    assert p[0] > 0.8
    assert p[1] < 0.2


def test_nodules_weigh_alike_however_often_they_are_shown(material: Candidates) -> None:
    rng = np.random.default_rng(0)
    patches = material.patches
    logits = rng.normal(0, 2, len(patches.label)) + patches.label
    rows = np.arange(len(logits))
    evaluated = evaluate(answering(material, logits), FILTER, material, rows)
    found, scores = evaluated.figures.kept, np.array([row.score for row in evaluated.rows])
    assert scores == pytest.approx(1 / (1 + np.exp(-logits)), abs=1e-6)
    assert found.auc.value == pytest.approx(auc(patches.label, logits, patches.weight), abs=1e-4)
    wanted = average_precision(patches.label, logits, patches.weight)
    assert found.average_precision.value == pytest.approx(wanted, abs=1e-4)
    assert found.auc.low < found.auc.value < found.auc.high
    # by hand: each nodule's share of patches that are called one
    nodules = [patches.nodule == n for n in np.unique(patches.nodule[patches.label])]
    recall = np.mean([(logits[one] >= 0).mean() for one in nodules])
    wrong = (logits[~patches.label] >= 0).sum()
    assert evaluated.figures.nodules == len(nodules)
    assert found.recall.value == pytest.approx(recall, abs=1e-4)
    right = recall * len(nodules)
    assert found.precision.value == pytest.approx(right / (right + wrong), abs=1e-4)
    assert found.specificity.value == pytest.approx(1 - wrong / (~patches.label).sum(), abs=1e-4)
    assert found.recall_by_size == {"6–10 mm": found.recall.value}  # all are 8 mm wide

    def kept(some: NDArray[np.intp]) -> float:
        own = some[patches.label[some]]
        return float(np.average(logits[own] >= 0, weights=patches.weight[own]))

    drawn = bootstrap(kept, material.patients)
    assert (found.recall.low, found.recall.high) == pytest.approx((drawn.low, drawn.high), abs=1e-4)


def test_folds_are_pooled_from_their_rows(material: Candidates) -> None:
    logits = np.random.default_rng(1).normal(0, 1, len(material.patients)) + 2 * material.patches.label
    model = answering(material, logits)
    rows = np.arange(len(logits))
    parts = [evaluate(model, FILTER, material, part) for part in np.array_split(rows, 3)]
    columns = [part.to_json() for part in parts]
    pooled = {name: [value for part in columns for value in part[name]] for name in columns[0]}
    whole = evaluate(model, FILTER, material, rows)
    assert EvaluatedPatches.from_json(pooled) == whole and whole.figures.kept is not None


def test_copies_follow_their_patches(material: Candidates) -> None:
    n = len(material.patients)
    many = fp_reduction.multiplied(material, ("turn", "noise"), 2)
    assert len(many.patients) == 3 * n and many.patients == material.patients * 3
    assert many.strata == material.strata * 3
    rows = np.arange(n)
    plain, first, second = (many.images(rows + k * n) for k in range(3))
    np.testing.assert_array_equal(plain, material.images(rows))
    for one, other in ((plain, first), (plain, second), (first, second)):
        assert (np.abs(one - other).max(axis=(1, 2, 3)) > 0).mean() > 0.9
    quarter = fp_reduction.multiplied(material, ("turn",), 1)  # a turned patch holds the same values
    np.testing.assert_array_equal(np.sort(quarter.images(rows + n).reshape(n, -1)), np.sort(plain.reshape(n, -1)))
    np.testing.assert_array_equal(fp_reduction.multiplied(material, ("turn", "noise"), 2).images(rows + n), first)


@pytest.fixture(scope="module")
def with_tiles(data: Path) -> Candidates:
    return load(data, replace(RESNET_UNET_PATCH_CNN, negatives="both"))


def test_tiles_lie_side_by_side_with_their_middle_in_the_lungs() -> None:
    lungs = np.zeros((250, 200), dtype=bool)
    lungs[30:220, 30:170] = True
    y, x = np.indices(lungs.shape)
    found = [LungSlice("p", "7", -1000 + 5.49 * place, lungs) for place in (y, x)]  # a step of 8 bits is a pixel
    rows, columns = ([tile.astype(int) for tile in one.tiles()] for one in found)
    assert len(rows) == TILES
    assert all((np.diff(tile, axis=0) == 1)[10:50].all() for tile in rows), "the slice's own pixels"
    middles = np.array([(row[32, 0], column[0, 32]) for row, column in zip(rows, columns, strict=True)])
    assert all(lungs[row, column] for row, column in middles)
    apart = np.abs(middles[:, None] - middles).max(axis=2)
    assert (apart[~np.eye(TILES, dtype=bool)] >= 64).all() and not (apart % 64).any()
    assert np.array_equal(rows, [*found[0].tiles()]), "the same again"
    assert not [*LungSlice("p", "7", found[0].hu, lungs & False).tiles()]
    coarse = [*LungSlice("p", "7", found[0].hu, lungs, step=0.5).tiles()]
    assert all(int(tile[40, 0]) - int(tile[24, 0]) in (7, 8, 9) for tile in coarse), "of half a pixel"


def test_tiles_train_and_never_judge(data: Path, material: Candidates, with_tiles: Candidates) -> None:
    """Whether they come beside the candidates or in their place."""
    tile, n = with_tiles.tile, len(material.patients)
    assert not tile[:n].any() and tile[n:].all() and len(tile) > n
    rows = np.arange(len(tile))
    assert np.array_equal(with_tiles.images(rows[:n]), material.images(rows[:n]))
    assert with_tiles.items[:n] == material.items and with_tiles.strata[:n] == material.strata
    assert set(with_tiles.patients[n:]) == set(Background.PATIENTS) and set(with_tiles.strata[n:]) == {"tile"}
    assert not with_tiles.patches.label[n:].any()
    assert np.array_equal(with_tiles.trained(rows), rows) and np.array_equal(with_tiles.evaluated(rows), rows[:n])
    alone = load(data, replace(RESNET_UNET_PATCH_CNN, negatives="tiles"))
    assert set(np.array(alone.strata)[alone.trained(rows)]) == {"nodule", "tile"}
    model = answering(alone, np.random.default_rng(0).normal(size=len(tile)))
    assert evaluate(model, FILTER, alone, rows) == evaluate(model, FILTER, material, rows[:n])
    copies = fp_reduction.multiplied(alone, ("turn",), 1)
    assert copies.alone and copies.strata == alone.strata * 2
    with pytest.raises(BadOption, match="No tile of lung is of a patient to train on"):
        settled(FILTER, alone, rows[:n])


def test_without_candidates_tiles_are_learnt(tmp_path: Path, data: Path) -> None:
    alone = load(data, replace(RESNET_UNET_PATCH_CNN, negatives="tiles"))
    rows = np.arange(len(alone.tile))
    few = np.concatenate([rows[~alone.tile], rows[alone.tile][:60]])
    train(replace(FILTER, epochs=4), alone, few, rows[:60], tmp_path / "net.pt")
    last = read_curves(tmp_path / "net.csv")[-1]
    assert last["accuracy"] > 0.9 and np.isfinite(last["validation_average_precision"])


def test_one_kind_alone_has_counts_and_no_ranking(material: Candidates) -> None:
    rows = np.flatnonzero(~material.patches.label)[:5]
    found = evaluate(answering(material, np.zeros(len(material.patients))), FILTER, material, rows).figures
    assert found == FpReductionFigures(5, 0, 0.0, None)
    assert found.to_json() == {"patches": 5, "on_nodules": 0, "nodules": 0.0}


def test_a_filter_is_of_the_patches_size_and_has_one_class(material: Candidates) -> None:
    rows = np.arange(4)
    assert settled(FILTER, material, rows) == FILTER
    for change in ({"size": 32}, {"pixel_mm": 0.7}, {"classes": ("non-nodule", "nodule")}):
        with pytest.raises(BadOption, match="64 × 64"):
            settled(replace(FILTER, **change), material, rows)  # type: ignore[arg-type]


def test_real_patches(shared: Path) -> None:
    """1,291 positives less the evaluation patients' show fewer nodules; 124 negatives inside excluded findings go."""
    found = load(shared, RESNET_UNET_PATCH_CNN)
    assert 12_000 < len(found.patients) < 12_362 - 124
    assert found.strata.count("nodule") > 1_250
    positive = found.patches.label
    assert found.patches.weight[positive].sum() == pytest.approx(len(np.unique(found.patches.nodule[positive])))
