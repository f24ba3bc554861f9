"""Close-ups of real nodules and windows of slices: how they are seen, learnt from and judged."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import made_encoders
import made_models
from conftest import REPOSITORY
from experiments import places
from nodulens.data.folds import EVALUATION_PATIENTS, fold_of
from nodulens.data.material import CROP_STEPS, Cubes, Stacks
from nodulens.data.splits import Parts
from nodulens.errors import BadOption
from nodulens.evaluate.headline import metrics_of
from nodulens.methods.catalogue import NNUNET_SAM, RESNET_UNET_PATCH_CNN, SE_AUX_UNET
from nodulens.methods.recipe import NetworkConfig, changed
from nodulens.methods.shipped import IN_CLONE
from nodulens.metrics.segmentation import Overlap, compare
from nodulens.runtime.engine import Array
from nodulens.stages.slices import Field
from nodulens.train.loop.curves import curves_figure, read_curves
from nodulens.train.loop.losses import bce, loss_of_one
from nodulens.train.networks import pretrained
from nodulens.train.networks.registry import check_window
from nodulens.train.run import division
from nodulens.train.tasks import segmentation, slice_material
from nodulens.train.tasks.checks import check_config
from nodulens.train.tasks.closeups import CloseUps, nodule_probabilities, random_sheet
from nodulens.train.tasks.segmentation import evaluate, field_of, train
from nodulens.train.tasks.segmentation_figures import CLOSE_UP, EvaluatedSlices, SliceRow
from nodulens.train.tasks.slice_material import Slices, slices_and_closeups

pytestmark = [pytest.mark.training, pytest.mark.usefixtures("one_thread")]

assert SE_AUX_UNET.segmenter and NNUNET_SAM.segmenter and RESNET_UNET_PATCH_CNN.segmenter
SIDES: NetworkConfig = replace(SE_AUX_UNET.segmenter, size=64, window=32, epochs=1, batch=4)
PLANNED: NetworkConfig = replace(NNUNET_SAM.segmenter, size=64, window=32, epochs=1, batch=4)
EACH: NetworkConfig = replace(RESNET_UNET_PATCH_CNN.segmenter, size=64, window=32, epochs=1, batch=4)


@pytest.fixture(scope="module")
def closeups(data: Path) -> CloseUps:
    return CloseUps.of(Stacks(data))


@pytest.fixture(scope="module")
def material(data: Path) -> Slices:
    found = slice_material.load(data, changed(SE_AUX_UNET, ["segmenter.window=32", "renderings=1"]))
    assert isinstance(found, Slices)
    return found


@pytest.fixture(scope="module")
def with_cubes(data: Path) -> Slices:
    found = slice_material.load(data, changed(SE_AUX_UNET, ["segmenter.window=32", "renderings=1", "cubes=true"]))
    assert isinstance(found, Slices)
    return found


def dense(batch: Array) -> tuple[Array, ...]:
    """A network of one class that takes what is dense for a nodule."""
    return (40 * (batch - 0.35),)


def test_close_ups_are_slices_that_half_of_the_readers_outline(data: Path, closeups: CloseUps) -> None:
    stacks = Stacks(data)
    assert not set(closeups.patients) & EVALUATION_PATIENTS
    assert len(closeups.patients) == len(stacks.nodules)
    assert closeups.nodule.any(axis=(1, 2)).all()
    area = closeups.nodule.sum(axis=(1, 2))
    for number in range(len(closeups.patients)):
        own = closeups.owner == number
        assert own[closeups.central[number]]
        assert area[closeups.central[number]] == area[own].max()


@pytest.mark.parametrize(
    ("size", "pixel_mm", "step"), [(512, None, 1.0), (256, None, 2.0), (320, None, 1.6), (64, 1.4, 2.0)]
)
def test_they_are_seen_as_large_as_in_a_whole_slice(
    closeups: CloseUps, size: int, pixel_mm: float | None, step: float
) -> None:
    field = Field(size, ("background", "nodule"), pixel_mm)
    side = closeups.side(field)
    assert side == int(96 / step + 1e-3)
    some = closeups.central[:12]
    images, truth = closeups.examples(field, some, side)
    assert images.shape == truth.shape == (12, side, side)
    assert 0 <= images.min() <= images.max() <= 1
    assert truth.sum(axis=(1, 2)) * step**2 == pytest.approx(closeups.nodule[some].sum(axis=(1, 2)), rel=0.15, abs=6)
    assert np.median(images[truth]) > np.median(images[~truth]) + 0.4
    back = closeups.invert(field, some, truth.astype(np.float32)) >= 0.5
    dice = [compare(a, b, (1, 1)).dice for a, b in zip(closeups.nodule[some], back, strict=True)]
    assert min(dice) > 0.8


@pytest.mark.parametrize("size", [512, 256])
def test_a_network_of_whole_slices_outlines_sheets_of_them(closeups: CloseUps, size: int) -> None:
    sheets = []

    def run(batch: Array) -> tuple[Array, ...]:
        sheets.append(batch.shape)
        return dense(batch)

    nodules = np.arange(30)
    model, field = made_models.model(run), Field(size, ("nodule",))
    found = nodule_probabilities(model, field, closeups, nodules) >= 0.5
    assert sheets == [(1, 1, size, size)] * 2  # 5 × 5 on one
    dice = [compare(a, b, (1, 1)).dice for a, b in zip(closeups.nodule[closeups.central[nodules]], found, strict=True)]
    assert min(dice) > 0.75
    assert nodule_probabilities(model, field, closeups, nodules[:0]).shape == (
        0,
        96,
        96,
    )


def test_squares_cut_anywhere_show_who_knows_places(
    closeups: CloseUps, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What looks at density alone is as good wherever the nodule is; what marks the middles of squares is not."""
    field, nodules = Field(256, ("nodule",)), np.arange(30)
    middles = np.full((1, 1, 256, 256), -9.0, dtype=np.float32)
    for y, x in np.ndindex(7, 7):
        middles[0, 0, 36 * y + 11 : 36 * y + 25, 36 * x + 11 : 36 * x + 25] = 9

    def values(run: Callable[[Array], tuple[Array, ...]]) -> tuple[int, float, float]:
        return places.dice(made_models.model(run), field, closeups, nodules)

    assert closeups.side(field) == 48
    number, *looks = values(dense)
    assert 25 <= number <= 30
    assert min(looks) > max(looks) - 0.03 and min(looks) > 0.85
    _, central, moved = values(lambda batch: (middles,))
    assert central > 0.4 and moved < 0.8 * central
    shipped = REPOSITORY / IN_CLONE / "resnet-unet-patch-cnn"
    places.main([shipped], data, fold=4)
    [line] = [line for line in capsys.readouterr().out.splitlines() if str(shipped) in line]
    assert min(map(float, line.strip("| ").split(" | ")[2:])) > 0.4


def test_sheets_to_learn_from_are_full_and_keep_outline_and_image_together() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random((7, 20, 20)) < 0.4
    images = (truth * 0.75 + 0.125).astype(np.float16)
    of_nodule = [np.array([0, 1, 2]), np.array([3]), np.array([4, 5, 6])]
    sheet, nodule = random_sheet(images, truth, of_nodule, 31, np.random.default_rng(1))
    assert sheet.shape == nodule.shape == (31, 31)
    assert np.array_equal(sheet > 0.5, nodule)
    assert sheet.min() == 0.125  # no gap
    again, _ = random_sheet(images, truth, of_nodule, 31, np.random.default_rng(1))
    other, _ = random_sheet(images, truth, of_nodule, 31, np.random.default_rng(2))
    assert np.array_equal(sheet, again) and not np.array_equal(sheet, other)


def test_no_place_on_a_sheet_tells_of_a_nodule() -> None:
    """A network that sees nodules at the same places of every sheet misses them elsewhere."""
    truth = np.zeros((1, 20, 20), dtype=bool)
    truth[0, 9:11, 9:11] = True
    image, rng = truth.astype(np.float16), np.random.default_rng(0)
    nodule = np.stack([random_sheet(image, truth, [np.array([0])], 48, rng)[1] for _ in range(3000)])
    often = nodule.mean(axis=0).reshape(6, 8, 6, 8).mean(axis=(1, 3))
    assert often.std() < 0.05 * often.mean()
    columns, rows = (nodule.mean(axis=(0, axis)) for axis in (1, 2))
    assert max(columns.max(), rows.max()) < 1.15 * nodule.mean()


def test_of_a_nodule_alone_the_other_classes_are_taken_together() -> None:
    logits = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    presence = torch.randn(2, 4)
    truth = (torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(1)) < 0.3).float()
    nodule = logits.softmax(1)[:, 3:]
    expected = -(truth * nodule.log() + (1 - truth) * (1 - nodule).log()).mean()
    config = replace(SIDES, loss="cross-entropy", auxiliary=0)
    assert float(loss_of_one(config, 3)(logits, truth)) == pytest.approx(float(expected), abs=1e-5)
    both = loss_of_one(replace(config, auxiliary=0.5), 3)((logits, presence), truth)
    there = torch.nn.functional.binary_cross_entropy_with_logits(presence[:, 3], torch.ones(2))
    assert float(both) == pytest.approx(float(expected + 0.5 * there), abs=1e-5)
    each = loss_of_one(EACH, 1)(logits[:, :2], truth)
    assert float(each) == pytest.approx(float(bce(logits[:, 1:2], truth)), abs=1e-6)


def test_slices_of_cubes_are_whole_and_of_one_nodule(data: Path) -> None:
    """Of the made-up ones the fourth ends with its scan, and the fifth shows another nodule."""
    cubes = Cubes(data)
    found = CloseUps.of_cubes(cubes)
    assert found.image.shape[1:] == (50, 50) and not set(found.patients) & EVALUATION_PATIENTS
    for k, n in enumerate(found.origin.tolist()):
        own = found.owner == k
        outlined, other = cubes.truth(n).any(axis=(1, 2)), cubes.other(n).any(axis=(1, 2))
        assert own.sum() == (outlined & ~other).sum() or cubes.scanned(n).shape != (50, 50, 50)
        assert not np.isin(found.image[own], CROP_STEPS.steps(cubes.hu(n)[other])).all() or not other.any()
        assert found.nodule[found.central[k]].sum() == max(found.nodule[own].sum(axis=(1, 2)))
    assert found.items[0] == f"cube {found.origin[0]}" and found.patients[0] == cubes.patients[found.origin[0]]


@pytest.mark.parametrize("size", [64, 224, 512])
def test_cubes_have_their_scale_in_a_whole_slice(data: Path, size: int) -> None:
    """A network's pixel is as many mm in a cube as in a slice of 512 pixels of 0.7 mm."""
    found, field = CloseUps.of_cubes(Cubes(data)), Field(size, ("nodule",))
    side, pixel_mm = found.side(field), 0.7 * 512 / size
    assert side == int(50 / pixel_mm + 1e-3)
    _, truth = found.examples(field, found.central, side)
    area = found.nodule[found.central].sum(axis=(1, 2))
    assert truth.sum(axis=(1, 2)) * pixel_mm**2 == pytest.approx(area, rel=0.15, abs=2 * pixel_mm**2 + 6)


def test_cubes_teach_and_do_not_judge(with_cubes: Slices, material: Slices, tmp_path: Path) -> None:
    closeups, cubes = with_cubes.near
    n = len(with_cubes.has_nodule)
    assert with_cubes.patients[: len(material.patients)] == material.patients
    assert with_cubes.patients[len(material.patients) :] == cubes.patients
    assert len(with_cubes.items) == len(with_cubes.strata) == len(with_cubes.patients) == len(set(with_cubes.items))
    rows = np.arange(len(with_cubes.patients))
    kinds = segmentation._close_ups(with_cubes, SIDES, rows[n:] - n)
    assert [len(kind.of_nodule) for kind in kinds] == [len(closeups.patients), len(cubes.patients)]
    assert [kind.images.shape[-1] for kind in kinds] == [part.side(field_of(SIDES)) for part in with_cubes.near]
    for kind in kinds:
        for own in sorted(kind.of_nodule, key=lambda own: -kind.truth[own].sum())[:5]:  # dense where they are outlined
            image, truth = kind.images[own], kind.truth[own]
            assert np.median(image[truth]) > np.median(image[~truth])
    assert len(segmentation._close_ups(with_cubes, SIDES, rows[-1:] - n)) == 1
    for image, _, nodule in batches_of(SIDES, with_cubes, tmp_path):
        assert (image.shape, nodule.shape) == ((4, 1, 32, 32), (2, 1, 32, 32))
    some = np.append(rows[:2], rows[-len(cubes.patients) - 3 :])
    found = evaluate(made_models.model(lambda batch: (np.repeat(batch, 4, axis=1),)), SIDES, with_cubes, some)
    assert found.figures.close_ups is not None and found.figures.close_ups.nodules == 3
    many = slice_material.multiplied(with_cubes, ("flip",), 1)
    assert sorted(many.patients) == sorted(with_cubes.patients * 2) and len(many.near) == 2


def test_cubes_without_windows_are_refused(data: Path) -> None:
    with pytest.raises(BadOption, match=r"set segmenter\.window"):
        slice_material.load(data, changed(SE_AUX_UNET, ["cubes=true"]))


def test_rows_are_slices_and_then_nodules(material: Slices) -> None:
    slices, nodules = slices_and_closeups(material, np.arange(len(material.patients)))
    assert material.closeups is not None
    assert (len(slices), len(nodules)) == (len(material.has_nodule), len(material.closeups.patients))
    assert nodules.tolist() == list(range(len(nodules)))
    assert material.strata[len(slices) :] == [CLOSE_UP] * len(nodules)
    assert slice_material.load.__doc__ and material.patients[len(slices)] == material.closeups.patients[0]


def test_both_are_watched_and_no_patient_teaches_who_judges(material: Slices) -> None:
    patients = set(material.patients)
    test = frozenset(p for p in patients if fold_of(p) == 1)
    rows = division(material, Parts(frozenset(patients - test), test))
    near = np.array(material.strata) == CLOSE_UP
    for part in (rows.train, rows.validation):
        assert near[part].any() and not near[part].all()
        assert not {material.patients[r] for r in part} & test
    assert {material.patients[r] for r in rows.test} == test
    assert not {material.patients[r] for r in rows.train[near[rows.train]]} & {
        material.patients[r] for r in rows.validation[near[rows.validation]]
    }


@pytest.mark.filterwarnings("ignore:resnet50-unet starts from random weights")
@pytest.mark.parametrize("config", [SIDES, PLANNED, EACH], ids=["sides", "nodule alone", "overlapping"])
def test_slices_windows_and_close_ups_teach_together(material: Slices, tmp_path: Path, config: NetworkConfig) -> None:
    config = replace(config, examples=16)
    rows = np.arange(len(material.patients))[::3]
    net = train(config, material, rows, rows[:6], tmp_path / "run.pt")
    assert np.isfinite(float(np.loadtxt(tmp_path / "run.csv", delimiter=",", skiprows=1)[1]))

    def run(batch: Array) -> tuple[Array, ...]:
        with torch.inference_mode():
            found = net(torch.from_numpy(batch))
        return tuple(t.numpy() for t in (found if isinstance(found, tuple) else (found,)))

    found = evaluate(made_models.model(run), config, material, np.append(rows[:5], rows[-12:]))
    assert found.figures.slices == 5
    assert found.figures.close_ups.nodules == 12
    columns = found.to_json()
    assert {len(column) for column in columns.values()} == {17}
    assert EvaluatedSlices.from_json(columns, field_of(config).foreground) == found
    json.dumps(found.figures.to_json(), allow_nan=False)


@pytest.mark.parametrize("config", [SIDES, EACH], ids=["exclusive", "overlapping"])
def test_every_epoch_has_the_average_precision_of_the_boxes(
    material: Slices, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: NetworkConfig
) -> None:
    """The same as an evaluation of the validation slices gives; drawn and listed beside the other figures."""
    net = torch.nn.Conv2d(1, len(config.classes), 1)  # what is dense is a nodule
    torch.nn.init.zeros_(net.weight)
    torch.nn.init.constant_(net.bias, -1)
    net.weight.data[-1], net.bias.data[-1] = 40, -16
    monkeypatch.setattr(segmentation, "started", lambda *_: net)
    config = replace(config, examples=8, learning_rate=1e-12, auxiliary=0)
    seen = material.has_nodule
    rows = np.concatenate([np.flatnonzero(seen)[:8], np.flatnonzero(~seen)[:4]])
    train(config, material, np.arange(len(seen)), rows, tmp_path / "segmenter.pt")

    def run(batch: Array) -> tuple[Array, ...]:
        with torch.inference_mode():
            return (net(torch.from_numpy(batch)).numpy(),)

    boxes = evaluate(made_models.model(run), config, material, rows).figures.boxes
    assert boxes is not None and 0 < boxes.map50_95 < boxes.map50
    (row,) = read_curves(tmp_path / "segmenter.csv")
    found = row["validation_map50"], row["validation_map50_95"]
    assert found == pytest.approx((boxes.map50, boxes.map50_95), abs=1e-4)
    panels = [axes.get_ylabel() for axes in curves_figure(tmp_path / "segmenter.csv", "").axes]
    assert panels.index("mAP@0.5") + 1 == panels.index("mAP@0.5:0.95")

    train(config, material, np.arange(len(seen)), rows[8:], tmp_path / "healthy.pt")
    assert "validation_map50" not in read_curves(tmp_path / "healthy.csv")[0], "there is no true box"


def test_a_named_encoder_is_settled_loaded_and_trained(
    material: Slices, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By ``pretrained`` alone; at a rate near 0 the stem stays what the file holds."""
    path = tmp_path / "lite.pth"
    torch.save(state := made_encoders.published("efficientnet-lite0-unet"), path)
    monkeypatch.setattr(pretrained, "find_pretrained", lambda place: path)
    rows = np.arange(len(material.patients))[::5]
    asked = replace(EACH, pretrained="efficientnet-lite0", examples=8, learning_rate=1e-9)
    config = segmentation.settled(asked, material, rows)
    assert config == replace(asked, network="efficientnet-lite0-unet")
    assert segmentation.settled(config, material, rows) == config  # as a run is resumed
    net = train(config, material, rows, rows[:0], tmp_path / "run.pt")
    stem = state["_conv_stem.weight"].sum(1, keepdim=True) * 255 / 128
    torch.testing.assert_close(net.state_dict()["encoder._conv_stem.weight"], stem, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore:efficientnet-lite0-unet starts from random weights")
def test_close_ups_alone_are_evaluated() -> None:
    """As of test patients of whom there are no whole slices."""
    overlap = {"nodule": Overlap.of_counts(10, 9, 8), "lung": Overlap.of_counts(0, 0, 0)}
    rows = tuple(SliceRow(k, f"P{k}", CLOSE_UP, 0.7, 100, 90, overlap, [0.9], 1, [[0.7]]) for k in range(3))
    found = EvaluatedSlices(rows)
    assert found.figures.close_ups is not None and found.figures.close_ups.dice.value == round(16 / 19, 4)
    assert found.figures.accuracy is None and not found.figures.classes and found.figures.slices == 0
    assert [metric.name for metric in metrics_of(found)] == ["Dice, close-ups of real nodules"]
    json.dumps(found.figures.to_json(), allow_nan=False)


def test_classes_as_method_d_s_publication_names_them(material: Slices, tmp_path: Path) -> None:
    """Two that exclude one another: of every pixel the softmax is over nodule and non-nodule."""
    config = replace(EACH, network="efficientnet-lite0-unet", classes=("non-nodule", "nodule"), examples=8)
    with pytest.raises(BadOption, match="take cross-entropy"):
        check_config("segmenter", config)
    config = replace(config, loss="cross-entropy")
    check_config("segmenter", config)
    assert field_of(config).foreground == ("nodule",)
    rows = np.arange(len(material.patients))[::5]
    train(config, material, rows, rows[:0], tmp_path / "run.pt")
    rows = np.flatnonzero(material.has_nodule)[:3]
    found = evaluate(
        made_models.model(lambda b: (np.concatenate([0.35 - b, b - 0.35], axis=1),)), config, material, rows
    )
    assert list(found.figures.classes) == ["nodule"] and found.figures.with_nodule == 3


def test_copies_are_changed_and_keep_their_outlines(material: Slices) -> None:
    config = replace(EACH, augment=("flip", "noise"))
    field, n = segmentation.field_of(config), len(material.has_nodule)
    many = slice_material.multiplied(material, config.augment, 2)
    assert len(many.has_nodule) == 3 * n and len(many.patients) == 3 * len(material.patients)
    assert sorted(many.patients) == sorted(material.patients * 3)
    assert sorted(many.strata) == sorted(material.strata * 3)
    rows = np.flatnonzero(material.has_nodule)[:4]
    image, truth = material.examples(field, rows)
    for k in range(3):
        seen, drawn = many.examples(field, rows + k * n)
        np.testing.assert_array_equal(drawn.sum(axis=(2, 3)), truth.sum(axis=(2, 3)))  # mirrored at most
        assert (seen == image).all() == (k == 0)
        np.testing.assert_array_equal(many.examples(field, rows[[3, 0]] + k * n)[0], seen[[3, 0]])
    near, own = many.closeups, material.closeups
    assert near is not None and own is not None
    nodules = np.arange(len(own.patients))
    for k in range(3):
        copies = nodules + k * len(nodules)
        np.testing.assert_array_equal(near.origin[copies], own.origin)
        areas = [c.nodule[c.central[of]].sum(axis=(1, 2)) for c, of in ((near, copies), (own, nodules))]
        np.testing.assert_array_equal(*areas)
        assert (near.image[near.central[copies]] == own.image[own.central]).all() == (k == 0)


def batches_of(config: NetworkConfig, material: Slices, tmp_path: Path) -> list[tuple[torch.Tensor, ...]]:
    """An epoch as the training loop gets it."""
    made: list[tuple[torch.Tensor, ...]] = []

    def remember(
        net: torch.nn.Module, task: segmentation.Task, training: NetworkConfig, checkpoint: Path, follow: object
    ) -> torch.nn.Module:
        made.extend(make() for make in task.batches(np.random.default_rng(0)))
        return net

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segmentation, "fit", remember)
        rows = np.arange(len(material.patients))
        train(replace(config, examples=48), material, rows, rows[:0], tmp_path / "run.pt")
    return made


def test_every_batch_holds_windows_and_sheets(material: Slices, tmp_path: Path) -> None:
    made = batches_of(SIDES, material, tmp_path)
    assert len(made) == 12
    for image, target, nodule in made:
        assert (image.shape, target.shape, nodule.shape) == ((4, 1, 32, 32), (2, 32, 32), (2, 1, 32, 32))
        assert (image.dtype, target.dtype, nodule.dtype) == (torch.float32, torch.int64, torch.float32)
        # nodules are dense wherever they are drawn
        assert image[2:][nodule > 0].median() > image[2:][nodule == 0].median()
    nodules = [int((target == 3).any(dim=0).any()) for _, target, _ in made]
    assert np.mean(nodules) > 0.4


def test_without_close_ups_a_batch_is_of_windows_alone(material: Slices, tmp_path: Path) -> None:
    alone = replace(material, closeups=None)
    made = batches_of(EACH, alone, tmp_path)
    assert len(made) == 12
    assert all(len(image) == len(target) == 4 and not len(nodule) for image, target, nodule in made)
    whole = batches_of(replace(SIDES, window=None), alone, tmp_path)
    assert {(tuple(image.shape[1:]), len(nodule)) for image, _, nodule in whole} == {((1, 64, 64), 0)}


def test_a_stopped_training_on_windows_goes_on_to_the_same_network(material: Slices, tmp_path: Path) -> None:
    rows = np.arange(len(material.patients))[::9]
    config = replace(SIDES, epochs=2, examples=16)
    whole = train(config, material, rows, rows[:4], tmp_path / "whole.pt")
    train(replace(config, minutes=1e-9), material, rows, rows[:4], tmp_path / "parts.pt")
    state = torch.load(tmp_path / "parts.pt", weights_only=True)
    asked = torch.load(tmp_path / "whole.pt", weights_only=True)["training"]
    torch.save(state | {"training": asked}, tmp_path / "parts.pt")
    resumed = train(config, material, rows, rows[:4], tmp_path / "parts.pt")
    assert state["progress"]["epoch"] == 1
    for one, other in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (replace(SIDES, window=128), "larger than its input"),
        (replace(SIDES, window=40), "windows of 40"),
        (replace(PLANNED, window=16), "windows of 16"),
    ],
)
def test_windows_that_do_not_fit_are_refused(config: NetworkConfig, words: str) -> None:
    with pytest.raises(BadOption, match=words):
        check_window(config)
    check_window(replace(config, window=32))
    if config.network != "planned-unet":  # whose size is not known before its material
        with pytest.raises(BadOption, match=words):
            check_config("segmenter", config)
