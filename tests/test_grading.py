"""The methods' classifiers: their material, how they learn, and how they are judged."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch

import made_encoders
import made_models
from nodulens.data.folds import EVALUATION_PATIENTS, is_left_out
from nodulens.data.material import Stacks
from nodulens.data.ratings import Malignancy
from nodulens.errors import BadOption, NotFound
from nodulens.evaluate.headline import metrics_of
from nodulens.methods.catalogue import CONV3_CLASSIFIER, NNUNET_SAM, RESNET_UNET_PATCH_CNN, SAM2_DENSENET
from nodulens.methods.recipe import NetworkConfig, Recipe, changed, changed_to_train, from_dict, to_dict
from nodulens.metrics.classification import auc
from nodulens.metrics.estimates import Estimate
from nodulens.metrics.statistics import bootstrap
from nodulens.runtime.engine import Model
from nodulens.stages.classify_crop import SIDES
from nodulens.train.default import calibration
from nodulens.train.default.calibration import BesideDiameter, ScoredNodules, beside_diameter
from nodulens.train.loop.fit import predict
from nodulens.train.networks.pretrained import started
from nodulens.train.tasks import classification
from nodulens.train.tasks.checks import check_config
from nodulens.train.tasks.classification_figures import EvaluatedNodules
from nodulens.train.tasks.nodule_material import nodules_of

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = changed(
    CONV3_CLASSIFIER,
    ["classifier.size=32", "classifier.pixel_mm=1.4", "classifier.crop_scale=none", "classifier.epochs=1"],
)
NOBODY = np.zeros(0, int)


assert RESNET_UNET_PATCH_CNN.filter is not None
FILTER = RESNET_UNET_PATCH_CNN.filter


def config_of(recipe: Recipe) -> NetworkConfig:
    assert recipe.classifier is not None
    return recipe.classifier


def model_of(net: torch.nn.Module) -> Model:
    """As the exported network would run."""

    def run(batch: np.ndarray) -> tuple[np.ndarray, ...]:
        return (predict(net, torch.from_numpy(np.ascontiguousarray(batch)).split(64)).numpy(),)

    return made_models.model(run, name="classifier")


# ---- Material


def test_classes_of_the_real_nodules(shared: Path) -> None:
    """925, 748 and 401 by the median over all 2,074, as the data say of themselves."""
    stacks = Stacks(shared)
    by_median = stacks.ratings.malignancy()
    assert len(by_median) == 2074
    assert [int((by_median == k).sum()) for k in (Malignancy.BENIGN, Malignancy.INDETERMINATE, Malignancy.MALIGNANT)] \
        == [925, 748, 401]  # fmt: skip
    two = nodules_of(stacks, ("benign", "malignant"))
    # five lie in evaluation patients, four of them malignant
    assert np.bincount(two.truth).tolist() == [924, 397]
    np.testing.assert_array_equal(two.truth == 1, stacks.ratings.median("malignancy")[two.origin] > 3)
    panel = two.readers >= 3
    assert (int(panel.sum()), int(two.truth[panel].sum())) == (657, 304)
    assert auc(two.truth[panel], two.diameter_mm[panel]) == pytest.approx(0.945, abs=0.002)
    middle = panel & (two.diameter_mm >= 6) & (two.diameter_mm < 12)
    assert auc(two.truth[middle], two.diameter_mm[middle]) == pytest.approx(0.80, abs=0.005)

    three = nodules_of(stacks, ("indeterminate", "benign", "malignant"))
    assert np.bincount(three.truth).tolist() == [1143, 656, 270]
    values = stacks.ratings.of("malignancy")[three.origin].astype(int)
    apart = values.max(1) - np.where(values > 0, values, 9).min(1) >= 4
    assert set(three.truth[apart]) == {0}
    for nodules in (two, three):
        assert not set(nodules.patients) & EVALUATION_PATIENTS
        area = nodules.outline.sum((1, 2))
        np.testing.assert_allclose(np.pi / 4 * nodules.diameter_mm**2, area * nodules.pixel_mm**2, rtol=1e-4)


def test_what_the_crops_hold_gives_no_label_away(shared: Path) -> None:
    """Whatever is not the nodule: the pixel, on which the repeated edge depends, and how far the stack is off it."""
    stacks = Stacks(shared)
    nodules = nodules_of(stacks, ("benign", "malignant"))
    assert abs(auc(nodules.truth, nodules.pixel_mm) - 0.5) < 0.04
    few = nodules.take(np.arange(0, len(nodules.truth), 40))
    assert config_of(SAM2_DENSENET).pixel_mm is not None
    crops = classification.crops(stacks, few, classification.crop_of(SAM2_DENSENET))
    lit = (crops.image > 0).sum((1, 2, 3)) * 0.7**2
    area = np.pi / 4 * few.diameter_mm**2
    # only the nodule, and at most the pixels that its rim is mixed into
    assert np.all(lit < (np.sqrt(area) + 2 * 1.6) ** 2)


def test_evaluation_patients_and_the_undecided_stay_out(data: Path) -> None:
    material = classification.load(data, SMALL)
    assert not set(material.patients) & EVALUATION_PATIENTS
    assert set(material.strata) == {"benign", "malignant"}
    assert material.image.shape == (len(material.patients), 1, 32, 32)
    assert 0 <= material.image.min() < material.image.max() <= 1
    three = classification.load(data, replace(NNUNET_SAM, classifier=replace(config_of(NNUNET_SAM), size=16)))
    assert three.nodules.classes == ("indeterminate", "benign", "malignant")
    six = classification.load(data, changed(SMALL, ["classifier.classes=0,1,2,3,4,5"])).nodules
    values = Stacks(data).ratings.of("malignancy")[six.origin].astype(int)
    for row, name in zip(values, six.strata, strict=True):
        own = row[row > 0].tolist()
        votes = sorted((own.count(k) for k in set(own)), reverse=True)
        tied = len(votes) > 1 and votes[0] == votes[1]
        assert name == ("0" if tied or max(own) - min(own) >= 4 else str(max(set(own), key=own.count)))


def test_what_cannot_be_loaded(data: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        classification.load(tmp_path, SMALL)
    with pytest.raises(BadOption, match="no classifier of its own"):
        classification.load(data, RESNET_UNET_PATCH_CNN)
    with pytest.raises(BadOption, match="crop_scale can only be set for a classifier"):
        check_config("filter", replace(FILTER, crop_scale=1.0))
    with pytest.raises(BadOption, match="benign or malignant"):
        classification.load(data, replace(SMALL, classifier=replace(config_of(SMALL), classes=("cat", "dog"))))


def test_outlines_of_a_method_take_the_place_of_the_readers(data: Path) -> None:
    stacks = Stacks(data)
    nodules = nodules_of(stacks, ("benign", "malignant"))
    crop = replace(classification.crop_of(SMALL), masked=True)
    found = nodules.outline.copy()
    found[0] = False
    found[1:] = np.roll(found[1:], 3, axis=2) & found[1:]
    mine, theirs = classification.crops(stacks, nodules, crop, found), classification.crops(stacks, nodules, crop)
    assert not mine.image[0].any() and theirs.image[0].any()
    lit = [crops.image[1:].astype(float).sum((1, 2, 3)) for crops in (mine, theirs)]
    assert np.all(lit[0] < lit[1])


# ---- Training


@pytest.mark.parametrize("classes", [("benign", "malignant"), ("malignant", "benign")])
def test_an_epochs_precision_and_recall_are_of_malignant(classes: tuple[str, str]) -> None:
    """Of four nodules all are called malignant, and three are; in whichever order the classes are."""
    tally = classification._tally(replace(config_of(SMALL), classes=classes))
    called = torch.tensor([classes.index("malignant")] * 4)
    true = torch.tensor([classes.index(name) for name in ("benign", "malignant", "malignant", "malignant")])
    tally.add(torch.nn.functional.one_hot(called, 2).float(), true)
    assert (tally.figures()["precision"], tally.figures()["recall"]) == (0.75, 1.0)


def test_it_learns_by_heart(data: Path, tmp_path: Path) -> None:
    """Sixteen nodules, over and over, half of them with the wrong label: it must know them."""
    material = classification.load(data, SMALL)
    rows = np.arange(16)
    nodules = replace(material.nodules, truth=np.random.default_rng(0).integers(0, 2, len(material.patients)))
    known = replace(material, nodules=nodules)
    config = replace(config_of(SMALL), epochs=80, augment=(), batch=16, learning_rate=3e-3, averaging=0)
    net = classification.train(config, known, rows, NOBODY, tmp_path / "c.pt")
    logits = predict(net, [torch.from_numpy(known.image[rows].astype(np.float32))]).numpy()
    assert classification.evaluated(nodules, rows, logits).figures.all_readers.decisions.rates.accuracy.value == 1


@pytest.mark.parametrize("settings", [
    ["classifier.balance=sampling", "classifier.augment=flip,rotate,zoom"],
    ["classifier.balance=weights", "classifier.loss=focal", "classifier.augment=none"],
    ["classifier.balance=none", "classifier.loss=bce"],
    ["classifier.balance=weights", "classifier.loss=bce"],
])  # fmt: skip
def test_what_was_not_judged_on_never_teaches(data: Path, tmp_path: Path, settings: list[str]) -> None:
    """The rows left out, made noise with other labels, change nothing; the same seed gives the same network."""
    settings = [s for s in settings if not s.endswith("augment=none")]
    config = config_of(changed(SMALL, settings))
    material = classification.load(data, SMALL)
    left = is_left_out(material.patients, 0)
    rows, validation = np.flatnonzero(~left), np.flatnonzero(left)[:4]
    other = replace(
        material,
        image=np.where(left[:, None, None, None], 0.5, material.image).astype(np.float16),
        nodules=replace(material.nodules, truth=np.where(left, 1 - material.nodules.truth, material.nodules.truth)),
    )
    nets = [
        classification.train(config, known, rows, validation, tmp_path / name / "c.pt")
        for name, known in (("a", material), ("b", other))
    ]
    for one, two in zip(nets[0].state_dict().values(), nets[1].state_dict().values(), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=0)
    curves = [(tmp_path / name / "c.csv").read_text() for name in "ab"]
    assert curves[0] != curves[1], "but what is watched is followed"


def test_balance_by_sampling_draws_all_classes_alike() -> None:
    truth = np.repeat([0, 1, 2], [50, 7, 30])
    config = replace(config_of(NNUNET_SAM), balance="sampling")
    rows = np.arange(len(truth))
    drawn = classification._epoch_rows(config, truth, rows, np.random.default_rng(0))
    assert np.bincount(truth[drawn]).tolist() == [29, 29, 29]
    assert set(drawn[truth[drawn] == 1]) == set(range(50, 57))
    plain = classification._epoch_rows(replace(config, balance="none"), truth, rows, np.random.default_rng(0))
    assert sorted(plain) == rows.tolist()


@pytest.mark.parametrize("settings", [
    ["classifier.classes=0,1,2,3,4,5"],
    ["classifier.network=vit", "classifier.classes=0,1,2,3,4,5", "masked=true"],
    ["classifier.network=conv3-attention", "classifier.crop_scale=1.5"],
])  # fmt: skip
def test_other_classes_networks_and_crops_are_trained_and_judged(
    data: Path, tmp_path: Path, settings: list[str]
) -> None:
    recipe = changed_to_train(SMALL, [*settings, "classifier.batch=8"])
    config, material = config_of(recipe), classification.load(data, recipe)
    check_config("classifier", config)
    net = classification.train(config, material, np.arange(16), np.arange(16, 20), tmp_path / "c.pt")
    found = classification.evaluate(model_of(net), config, material, np.arange(16, len(material.patients)))
    decisions = found.figures.all_readers.decisions
    assert decisions is not None and decisions.classes == config.classes
    assert (decisions.rates.macro_auc is not None) == (len(config.classes) > 2)
    ranking = found.figures.all_readers.beside_diameter
    sides = [SIDES.get(row.truth, -1) for row in found.rows]
    assert ranking.nodules == sum(side >= 0 for side in sides) > 0
    # sensitivity is of one side together
    called = [max(config.classes, key=row.logits.__getitem__) for row in found.rows]
    of_malignant = [SIDES.get(name) == 1 for name, side in zip(called, sides, strict=True) if side == 1]
    assert decisions.rates.sensitivity.value == pytest.approx(np.mean(of_malignant), abs=1e-4)
    assert EvaluatedNodules.from_json(found.to_json(), config.classes).figures == found.figures


@pytest.mark.parametrize("recipe", [SAM2_DENSENET, NNUNET_SAM])
def test_the_larger_networks_take_a_step(data: Path, tmp_path: Path, recipe: Recipe) -> None:
    recipe = changed(recipe, ["classifier.size=32", "classifier.epochs=1", "classifier.batch=8"])
    config, material = config_of(recipe), classification.load(data, recipe)
    with pytest.warns(UserWarning, match="random weights"):
        net = classification.train(config, material, np.arange(16), NOBODY, tmp_path / "c.pt")
    found = classification.evaluate(model_of(net), config, material, np.arange(16, len(material.patients)))
    assert [row.truth for row in found.rows] == list(material.strata[16:])
    assert all(tuple(row.logits) == config.classes for row in found.rows)


def test_copies_made_before_a_random_split_leak(data: Path) -> None:
    material = classification.load(data, SMALL)
    many = classification.multiplied(material, ("flip", "rotate", "zoom"), 2)
    n = len(material.patients)
    assert len(many.image) == 3 * n and many.image.dtype == np.float16
    np.testing.assert_array_equal(many.image[:n], material.image)
    assert np.abs(many.image[n : 2 * n].astype(float) - material.image).mean() > 0.01
    np.testing.assert_array_equal(many.nodules.origin, np.tile(material.nodules.origin, 3))
    test = np.random.default_rng(0).random(3 * n) < 0.3
    assert np.isin(many.nodules.origin[test], many.nodules.origin[~test]).mean() > 0.8
    by_patient = is_left_out(many.patients, 0)
    assert not np.isin(many.nodules.origin[by_patient], many.nodules.origin[~by_patient]).any()


# ---- Judging


def test_figures_of_a_known_classifier(data: Path) -> None:
    """Scores by the diameter: as good as it, and no better; decisions counted by hand."""
    material = classification.load(data, SMALL)
    nodules, rows = material.nodules, np.arange(len(material.patients))
    logits = np.stack([np.zeros(len(rows)), nodules.diameter_mm - 12], 1)
    found = classification.evaluated(nodules, rows, logits)
    panel = nodules.readers >= 3
    figures = found.figures.three_readers_or_more
    ranking, rates = figures.beside_diameter.ranking, figures.decisions.rates
    alone = round(auc(nodules.truth[panel], nodules.diameter_mm[panel]), 4)
    assert ranking.auc == ranking.diameter_alone == alone
    assert ranking.gain_interval_95 == (0, 0) and ranking.gain_p_one_sided == 1
    called, truth = nodules.diameter_mm[panel] > 12, nodules.truth[panel] == 1
    assert rates.sensitivity.value == round(float(called[truth].mean()), 4)
    assert rates.specificity.value == round(float(1 - called[~truth].mean()), 4)
    assert rates.precision.value == round(float(truth[called].mean()), 4)
    assert rates.accuracy.value == round(float((called == truth).mean()), 4)
    assert np.array_equal(figures.decisions.confusion, np.histogram2d(truth, called, 2)[0])
    assert figures.beside_diameter.nodules == panel.sum()
    assert found.figures.by_slice_calibration_code.keys() == {"1"}
    told = found.figures.to_json()["three_readers_or_more"]
    assert list(told)[:6] == ["accuracy", "balanced_accuracy", "sensitivity", "specificity", "precision", "f1"]
    assert list(told)[6:10] == ["intervals", "classes", "confusion", "judged"]
    assert told["accuracy"] == told["intervals"]["accuracy"]["value"] and told["auc"] == alone


def test_folds_pooled_are_the_whole(data: Path) -> None:
    material = classification.load(data, SMALL)
    logits = np.random.default_rng(0).normal(size=(len(material.patients), 2))
    parts = []
    for fold in range(5):
        rows = np.flatnonzero(is_left_out(material.patients, fold))
        parts.append(classification.evaluated(material.nodules, rows, logits[rows]).to_json())
    pooled = {name: list(chain.from_iterable(part[name] for part in parts)) for name in parts[0]}
    order = np.array(pooled["row"])
    assert sorted(order) == list(range(len(material.patients)))
    whole = classification.evaluated(material.nodules, order, logits[order])
    again = EvaluatedNodules.from_json(pooled, material.nodules.classes)
    assert again == whole and again.figures == whole.figures
    made_of = calibration.settings(again.scored)
    assert made_of.keys() == {"calibration", "interval"} and 0 < made_of["interval"]["coverage_measured"] <= 1


def test_the_interval_holds_the_share_of_three_readers_and_of_four() -> None:
    """Readers who draw by the nodule's own share; one alone says all or nothing, which is said, not promised."""
    rng = np.random.default_rng(0)

    def drawn(n: int) -> calibration.ScoredNodules:
        score = rng.normal(0, 5, n)
        readers = rng.integers(1, 5, n)
        share = rng.binomial(readers, 1 / (1 + np.exp(-score))) / readers
        truth = np.where(share == 0.5, -1, share > 0.5)
        patients = [f"p{k}" for k in rng.integers(n // 2, size=n)]
        return calibration.ScoredNodules(
            patients, score, truth, readers, share, np.full(n, 9.0), np.zeros(n, dtype=int)
        )

    found = calibration.settings(drawn(2400))["interval"]
    assert found["coverage_by_readers"].keys() == set("1234")
    assert min(found["coverage_by_readers"][k] for k in "34") > 0.88
    assert f"{found['coverage_by_readers']['1']:.1%} of those of 1 reader," in found["meaning"]
    new = drawn(4000)
    p = 1 / (1 + np.exp(-new.score))
    bins = np.minimum(np.searchsorted(found["upper_edge"], p), len(found["low"]) - 1)
    low, high = np.array(found["low"])[bins], np.array(found["high"])[bins]
    inside = (new.share >= low) & (new.share <= high)
    assert all(inside[new.readers == k].mean() > 0.88 for k in (3, 4))
    assert (high - low).mean() < 0.85 and low.max() > 0 and high.min() < 1, "and it says something"


def test_probabilities_and_decisions_are_judged_out_of_fold() -> None:
    rng = np.random.default_rng(1)
    n = 900
    score, noise = rng.normal(size=(2, n))
    truth = (rng.random(n) < 1 / (1 + np.exp(-(2 * score + 0.5)))).astype(int)
    patients, codes = [f"p{k // 2}" for k in range(n)], np.zeros(n, dtype=int)
    scored = calibration.ScoredNodules(patients, score, truth, np.full(n, 3), truth.astype(float), noise, codes)
    p = calibration.cross_fitted(scored)
    np.testing.assert_allclose(p, 1 / (1 + np.exp(-(2 * score + 0.5))), atol=0.1)
    figures = calibration.figures(scored, p)
    assert figures["calibration"]["ece_10_bins"] < 0.06
    called = p >= 0.5
    assert figures["at_the_cut"]["sensitivity"]["value"] == pytest.approx(called[truth == 1].mean(), abs=1e-4)
    assert figures["at_the_cut"]["specificity"]["value"] == pytest.approx(1 - called[truth == 0].mean(), abs=1e-4)


def test_draws_of_one_class_prove_nothing() -> None:
    """Score and diameter rank alike, in the half of the draws that have both patients; one patient has no interval."""
    two = ScoredNodules(
        patients=["A", "A", "B", "B"],
        score=np.array([1.0, 2.0, 3.0, 4.0]),
        truth=np.array([0, 0, 1, 1]),
        readers=np.full(4, 4),
        share=np.zeros(4),
        diameter_mm=np.array([5.0, 6.0, 7.0, 8.0]),
        calibration=np.zeros(4, dtype=int),
    )
    ranking = beside_diameter(two, np.ones(4, dtype=bool)).ranking
    assert ranking is not None and ranking.gain_p_one_sided == 1 and ranking.auc_interval_95 is None
    alone = beside_diameter(replace(two, patients=["A"] * 4), np.ones(4, dtype=bool)).ranking
    assert alone is not None and alone.auc_estimate == Estimate(1.0, None, None) and alone.gain_interval_95 is None


def test_three_classes_are_judged_as_three_and_as_two() -> None:
    n = 60
    rng = np.random.default_rng(0)
    names = np.array(["indeterminate", "benign", "malignant"])
    truth = rng.integers(0, 3, n)
    logits = rng.normal(size=(n, 3)) + 2 * np.eye(3)[truth]
    rows = {
        "row": list(range(n)), "patient": [f"p{k % 20}" for k in range(n)], "truth": names[truth].tolist(),
        "score": (logits[:, 2] - logits[:, 1]).tolist(), "diameter_mm": rng.uniform(4, 20, n).tolist(),
        "readers": [3] * n, "share": [0.5] * n, "calibration": [1] * n,
        **{f"logit_{name}": logits[:, k].tolist() for k, name in enumerate(names)},
    }  # fmt: skip
    evaluated = EvaluatedNodules.from_json(rows, names.tolist())
    figures = evaluated.figures.three_readers_or_more
    rates = figures.decisions.rates
    counts = {metric.name.partition(",")[0]: metric.n for metric in metrics_of(evaluated)}
    assert counts == {
        "AUC": (truth > 0).sum(), "Accuracy": n, "Sensitivity": (truth == 2).sum(), "Specificity": (truth < 2).sum(),
    }, "what each is a share of"  # fmt: skip
    assert figures.decisions.judged == n and figures.beside_diameter.nodules == (truth > 0).sum()
    assert rates.accuracy.value == round(float((logits.argmax(1) == truth).mean()), 4)
    two = truth > 0
    assert figures.beside_diameter.ranking.auc == round(auc(truth[two] == 2, (logits[:, 2] - logits[:, 1])[two]), 4)
    assert 0.5 < rates.macro_auc.value < 1 and 0.5 < rates.macro_f1.value < 1
    called = logits.argmax(1)
    drawn = bootstrap(lambda some: float((called[some] == truth[some]).mean()), rows["patient"])
    assert rates.accuracy == Estimate(*(round(end, 4) for end in (drawn.value, drawn.low, drawn.high)))
    for rate in (rates.sensitivity, rates.specificity, rates.macro_f1, rates.macro_auc):
        assert rate.low < rate.value < rate.high


def test_a_fold_without_one_class_or_without_nodules_has_fewer_figures(data: Path) -> None:
    material = classification.load(data, SMALL)
    benign = np.flatnonzero(material.nodules.truth == 0)[:3]
    figures = classification.evaluated(material.nodules, benign, np.zeros((3, 2))).figures
    group = figures.all_readers
    assert group.beside_diameter == BesideDiameter(None, 3, 0)
    assert group.decisions.rates.sensitivity.value is None
    assert "auc" not in figures.to_json()["all_readers"]


# ---- Encoders from elsewhere


def test_training_starts_from_the_encoder_that_is_named(tmp_path: Path) -> None:
    path = tmp_path / "densenet121.pth"
    torch.save(made_encoders.published("densenet121"), path)
    config = replace(config_of(SAM2_DENSENET), pretrained=str(path))
    net, plain = (started(one, "classifier") for one in (config, replace(config, pretrained=None, network="conv3")))
    assert plain.state_dict().keys() != net.state_dict().keys()
    theirs = torch.load(path, weights_only=True)["features.denseblock1.denselayer1.conv1.weight"]
    ours = net.state_dict()["features.denseblock1.denselayer1.layers.conv1.weight"]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_a_note_where_an_encoder_could_have_been_named(recwarn: pytest.WarningsRecorder) -> None:
    with pytest.warns(UserWarning, match=r"densenet121 starts from random weights.*--set classifier\.pretrained=PLACE"):
        first = started(config_of(SAM2_DENSENET), "classifier")
    recwarn.clear()
    second = started(config_of(CONV3_CLASSIFIER), "classifier")
    assert not recwarn.list
    with pytest.warns(UserWarning):
        again = started(config_of(SAM2_DENSENET), "classifier")
    for part in ("filter", "segmenter"):
        with pytest.warns(UserWarning, match=rf"--set {part}\.pretrained=PLACE"):
            started(config_of(SAM2_DENSENET), part)
    for one, two in zip(first.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=0)
    assert sum(p.numel() for p in second.parameters()) == 1_440_898


def test_the_encoder_is_part_of_the_recipe() -> None:
    recipe = changed(SAM2_DENSENET, ["classifier.pretrained=timm/densenet121.ra_in1k"])
    assert config_of(recipe).pretrained == "timm/densenet121.ra_in1k"
    assert from_dict(to_dict(recipe)) == recipe
    assert config_of(changed(recipe, ["classifier.pretrained=none"])).pretrained is None
    with pytest.raises(BadOption, match="no published encoder"):
        started(replace(config_of(CONV3_CLASSIFIER), pretrained=__file__), "classifier")
