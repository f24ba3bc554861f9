"""Networks of whole slices in training: their material, what they learn, how they are judged."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import made_models
from nodulens.core.geometry import Geometry
from nodulens.core.nodule import Box
from nodulens.core.volume import Mask, Volume
from nodulens.data.dataset import Item
from nodulens.data.folds import EVALUATION_PATIENTS, fold_of
from nodulens.data.luna16 import ANNOTATIONS, read_findings
from nodulens.data.material import Background, Stacks
from nodulens.data.splits import in_shares, stratified
from nodulens.data.whole_slices import ScanFacts
from nodulens.errors import BadOption, BadValues, NotFound
from nodulens.evaluate import slice_networks
from nodulens.evaluate.run_page import bias_sources
from nodulens.evaluate.scans import EvaluationScan, KnownNodule, known_nodules
from nodulens.io import read
from nodulens.methods.catalogue import NNUNET_SAM, RECIPES, RESNET_UNET_PATCH_CNN, SE_AUX_UNET
from nodulens.methods.recipe import NetworkConfig
from nodulens.ops.orient import canonical
from nodulens.runtime.engine import Array, load_model
from nodulens.stages.findings import Finding
from nodulens.stages.slices import Field
from nodulens.train.loop.augment import augmented
from nodulens.train.loop.export import export
from nodulens.train.networks.unet_plan import Plan, plan
from nodulens.train.run import parts_of
from nodulens.train.tasks import segmentation, slice_material
from nodulens.train.tasks.segmentation import evaluate, field_of, settled, train
from nodulens.train.tasks.segmentation_figures import SLICE, DiameterBand, EvaluatedSlices, slice_rows
from nodulens.train.tasks.slice_material import Slab, Slices

pytestmark = [pytest.mark.training, pytest.mark.usefixtures("one_thread")]

LEARNERS: dict[str, NetworkConfig] = {
    r.name: replace(r.segmenter, size=32, epochs=1, batch=2) for r in RECIPES.values() if r.segmenter is not None
}
SE_AUX, PLANNED, RESNET = (LEARNERS[r.name] for r in (SE_AUX_UNET, NNUNET_SAM, RESNET_UNET_PATCH_CNN))


@pytest.fixture(scope="module")
def loaded(data: Path) -> Slices:
    return slice_material.load(data, replace(SE_AUX_UNET, renderings=1))


def slab(patient: str = "a", n: int = 4, nodules: int = 2) -> Slab:
    """A chest of 40 × 60 pixels of 5 mm, noisy; the first slices show a nodule in the left lung."""
    rng = np.random.default_rng(len(patient) + n)
    lungs = np.zeros((n, 40, 60), dtype=np.uint8)
    lungs[:, 8:32, 34:52] = 1
    lungs[:, 8:32, 8:26] = 2
    nodule = np.zeros(lungs.shape, dtype=bool)
    nodule[:nodules, 14:22, 38:46] = True
    hu = np.where(nodule, 100, np.where(lungs > 0, -850, 40)) + rng.normal(0, 20, lungs.shape)
    return Slab(patient, hu.astype(np.int16), lungs, nodule, (5.0, 5.0), 0.6)


def some(*slabs: Slab) -> tuple[Slices, NDArray[np.int_]]:
    material = Slices(slabs)
    return material, np.arange(len(material.patients))


# ---- Material


def test_slices_are_of_the_backgrounds_with_nodules_and_without(loaded: Slices) -> None:
    assert set(loaded.patients) == set(Background.PATIENTS)
    assert len(loaded.patients) == len(loaded.strata) == len(loaded.has_nodule)
    for patient in Background.PATIENTS:
        own = np.array(loaded.strata)[np.array(loaded.patients) == patient]
        assert set(own) == {"nodule", "no nodule"}
        assert min((own == kind).mean() for kind in set(own)) > 0.05
    shows = [bool(s.nodule[z].any()) for s in loaded.slabs for z in range(len(s.hu))]
    assert shows == [kind == "nodule" for kind in loaded.strata]
    for one in loaded.slabs:
        assert one.hu.dtype == np.int16
        assert 0.6 <= one.whole_mm <= 0.9
        # dense where the truth says so, and in the lungs or at their edge
        if one.nodule.any():
            assert np.median(one.hu[one.nodule]) > np.median(one.hu[(one.lungs > 0) & ~one.nodule]) + 100
            assert (one.lungs[one.nodule] > 0).mean() > 0.5


def test_slices_show_the_patients_of_their_nodules_too(data: Path, loaded: Slices) -> None:
    """So that a card names everybody who has taught."""
    stacks = set(Stacks(data).patients)
    for number, patient in enumerate(Background.PATIENTS):
        own = np.flatnonzero(np.array(loaded.patients) == patient)
        plain, nodules = (own[loaded.has_nodule[own] == kind] for kind in (False, True))
        assert loaded.shown(plain[:3]) == {patient}, number
        shown = loaded.shown(nodules) - {patient}
        assert shown and shown <= stacks - EVALUATION_PATIENTS
        assert {fold_of(p) for p in shown} == {fold_of(patient)}


def test_the_same_slices_are_made_again(data: Path, loaded: Slices, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Background, "PATIENTS", Background.PATIENTS[:1])
    again = slice_material.load(data, replace(SE_AUX_UNET, renderings=1)).slabs
    for one, other in zip(loaded.slabs[: len(again)], again, strict=True):
        assert np.array_equal(one.hu, other.hu)
        assert np.array_equal(one.nodule, other.nodule)


@pytest.mark.parametrize("by", ["fold_of", "folds", "shares"])
def test_a_background_takes_outlines_of_its_own_fold_alone(
    data: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    """Or of its own part, so that no nodule of a test patient is trained on in the lungs of another."""
    used: dict[str, set[str]] = {}
    patients = {*Background.PATIENTS, *Stacks(data).patients} - EVALUATION_PATIENTS
    items = [Item(p, p, "nodule") for p in sorted(patients)]
    made = {"fold_of": None, "folds": stratified(items, 3), "shares": in_shares(items, (50, 20, 30))}[by]

    def remember(volume: Volume, patient: str, shapes: list, renderings: int) -> list[Slab]:  # type: ignore[type-arg]
        used[patient] = {s.patient for s in shapes}
        return []

    monkeypatch.setattr(slice_material, "_rendered_slabs", remember)
    slice_material.load(data, SE_AUX_UNET, made)
    assert used.keys() == set(Background.PATIENTS)
    for patient, theirs in used.items():
        assert theirs
        assert len({fold_of(p) if made is None else made.groups[p] for p in (patient, *theirs)}) == 1
        assert not theirs & EVALUATION_PATIENTS
    parts = parts_of(patients, made, None if by == "shares" else 1)
    for part in (parts.train, parts.validation, parts.test):
        assert {p for patient, theirs in used.items() if patient in part for p in theirs} <= part
    if made is not None:
        one, *others = Background.PATIENTS
        left = replace(made, groups={p: group for p, group in made.groups.items() if p != one})
        used.clear()
        slice_material.load(data, SE_AUX_UNET, left)
        assert used.keys() == set(others), "it is not named"


def test_slices_through_what_is_not_annotated_are_left_out() -> None:
    (patient, (centre, radius)), *_ = Background.PLEURAL_MASS.items()
    grid = Geometry.axial((100, 4, 4), (2.0, 1.0, 1.0), (0.0, 0.0, centre[2] - 90.0))
    usable = slice_material.usable(grid, patient)
    z = grid.to_lps(np.stack([np.arange(100), np.zeros(100), np.zeros(100)], 1))[:, 2]
    assert np.array_equal(usable, np.abs(z - centre[2]) > radius)
    assert 0 < usable.sum() < 100
    assert slice_material.usable(grid, "another").all()


def test_a_folder_without_backgrounds_says_what_is_missing(data: Path, tmp_path: Path) -> None:
    (tmp_path / "lidc").symlink_to(data / "lidc")
    with pytest.raises(NotFound, match="background"):
        slice_material.load(tmp_path, SE_AUX_UNET)


def test_the_truth_of_exclusive_classes_and_of_those_that_overlap() -> None:
    material, rows = some(slab())
    sides, each = field_of(replace(SE_AUX, size=64)), field_of(replace(RESNET, size=64))
    shown = replace(sides, pixel_mm=5.0), replace(each, pixel_mm=5.0)
    (images, exclusive), (same, both) = (material.examples(field, rows) for field in shown)
    assert np.array_equal(images, same)
    assert images.shape == (4, 64, 64)
    assert exclusive.shape == (4, 3, 64, 64)
    assert (exclusive.sum(axis=1) <= 1).all()
    # 40 × 60 pixels in the middle of 64 × 64
    assert np.array_equal(exclusive[:, 2, 12:52, 2:62], material.slabs[0].nodule)
    assert np.array_equal(both[:, 0, 12:52, 2:62], material.slabs[0].lungs > 0)
    assert np.array_equal(both[:, 1], exclusive[:, 2])
    left, right = (np.nonzero(exclusive[:, k])[2].mean() for k in (0, 1))
    assert left > right  # the patient's left is on the right of the picture
    assert np.array_equal(both[:, 0], exclusive.any(axis=1))


def test_backgrounds_are_shown_as_far_off_as_whole_slices_would_be() -> None:
    material, rows = some(slab())
    whole = 512 * material.slabs[0].whole_mm
    for size in (32, 128, 512):
        _, truth = material.examples(replace(field_of(RESNET), size=size), rows[:1])
        area_mm2 = truth[0, 0].sum() * (whole / size) ** 2
        assert area_mm2 == pytest.approx((material.slabs[0].lungs[0] > 0).sum() * 25, rel=0.1)


def test_an_unknown_class_is_refused() -> None:
    material, rows = some(slab())
    with pytest.raises(BadOption, match="'heart'"):
        material.examples(Field(32, ("heart", "nodule")), rows)


# ---- Training


@pytest.mark.parametrize(
    "config",
    [SE_AUX, PLANNED, replace(PLANNED, classes=("lung", "nodule"), loss="bce")],
    ids=["sides", "nodule alone", "overlapping"],
)
def test_two_slices_are_learnt_by_heart(tmp_path: Path, config: NetworkConfig) -> None:
    material, rows = some(slab(n=2, nodules=1))
    config = replace(config, learning_rate=3e-3, optimizer="adamw", schedule="constant", augment=(), patience=None)
    net = train(config, material, np.tile(rows, 100), rows[:0], tmp_path / "run.pt")
    found = evaluate(made_models.model_of(net), config, material, rows).figures.classes["nodule"]
    assert found.dice.value > 0.8
    assert (found.both_empty, found.invented, found.missed) == (1, 0, 0)


@pytest.mark.filterwarnings("ignore:resnet50-unet starts from random weights")
def test_a_large_network_is_trained_and_judged(tmp_path: Path) -> None:
    material, rows = some(slab())
    net = train(RESNET, material, rows, rows, tmp_path / "run.pt")
    found = evaluate(made_models.model_of(net), RESNET, material, rows)
    assert found.figures.classes.keys() == {"lung", "nodule"}
    assert found.figures.slices == 4
    json.dumps(found.figures.to_json(), allow_nan=False)


def test_what_is_exported_is_judged(tmp_path: Path) -> None:
    material, rows = some(slab("a"), slab("b", 3))
    config = settled(PLANNED, material, rows)
    net = train(config, material, rows[:4], rows[2:4], tmp_path / "run.pt")
    export(net, torch.rand(2, 1, 32, 32), tmp_path, {"name": "segmenter", "settings": field_of(config).settings,
           "command": "", "trained_on": {}, "input": {}, "figures": {}})  # fmt: skip
    model = load_model("segmenter", 1, tmp_path)
    assert Field.of(model.card.settings) == field_of(config)
    judged = evaluate(model, config, material, rows[4:])
    assert [(row.row, row.patient) for row in judged.rows] == [(4, "b"), (5, "b"), (6, "b")]
    columns = judged.to_json()
    assert {len(column) for column in columns.values()} == {3}
    json.dumps([judged.figures.to_json(), columns], allow_nan=False)
    theirs = evaluate(made_models.model_of(net), config, material, rows[4:]).to_json()
    assert theirs["nodule truth"] == columns["nodule truth"]


def test_a_stopped_training_goes_on_to_the_same_network(tmp_path: Path) -> None:
    material, rows = some(slab("a"), slab("b", 3))
    config = replace(PLANNED, epochs=2, augment=PLANNED.augment)
    whole = train(config, material, rows, rows[:2], tmp_path / "whole.pt")
    stopped = replace(config, minutes=1e-9)
    train(stopped, material, rows, rows[:2], tmp_path / "parts.pt")
    state = torch.load(tmp_path / "parts.pt", weights_only=True)
    whole_state = torch.load(tmp_path / "whole.pt", weights_only=True)
    torch.save(state | {"training": whole_state["training"]}, tmp_path / "parts.pt")
    resumed = train(config, material, rows, rows[:2], tmp_path / "parts.pt")
    assert state["progress"]["epoch"] == 1
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)


def test_an_epoch_holds_as_many_slices_with_a_nodule_as_without() -> None:
    rng = np.random.default_rng(0)
    shows = np.arange(1000) < 100
    chosen = segmentation._epoch_rows(shows, rng, 240)
    assert len(chosen) == 240
    assert shows[chosen].mean() == 0.5
    assert len(np.unique(chosen[~shows[chosen]])) == 120
    assert sorted(segmentation._epoch_rows(np.ones(7, dtype=bool), rng, 240)) == list(range(7))
    assert len(segmentation._epoch_rows(np.array([True]), rng, 240)) == 1


@pytest.mark.parametrize("kind", ["flip", "turn"])
def test_sides_are_not_mirrored(tmp_path: Path, kind: str) -> None:
    material, rows = some(slab())
    with pytest.raises(BadOption, match="left for right"):
        train(replace(SE_AUX, augment=(kind,)), material, rows, rows, tmp_path / "run.pt")  # type: ignore[arg-type]


def test_a_plan_follows_the_slices_and_stays_within_the_recipe() -> None:
    material, rows = some(*(slab(patient, 60, 30) for patient in "abcde"))
    config = replace(PLANNED, size=512, batch=12)
    planned = plan(segmentation._fingerprint(config, material, rows), 2)
    assert isinstance(planned, Plan)
    assert planned.size == 512
    found = settled(config, material, rows)
    assert (found.size, found.batch) == (512, min(planned.batch, 12))
    assert settled(replace(config, size=64, batch=3), material, rows).size == 64
    assert settled(replace(config, size=64, batch=3), material, rows).batch == 3
    assert settled(SE_AUX, material, rows) == SE_AUX


def test_the_planned_network_takes_its_foregrounds_values(tmp_path: Path) -> None:
    material, rows = some(slab())
    net = train(PLANNED, material, rows, rows, tmp_path / "run.pt")
    found = segmentation._fingerprint(PLANNED, material, rows)
    assert float(net.mean) == pytest.approx(found.mean)
    assert float(net.low) == pytest.approx(found.low)
    # the nodule is of about 100 HU, and its edge of less
    assert found.mean == pytest.approx(1100 / 1400, abs=0.05)


# ---- Augmentation of images with outlines


def outlines_moved(image: torch.Tensor, kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Images changed, and labels of what is bright in them, changed along; they have to go where the images go.

    And what is turned or moved by whole pixels keeps its values.
    """
    labels = (image[:, 0] > 0).long() * 3
    masks = torch.cat([image, 1 - image], 1)
    moved, along = augmented(image, labels, (kind,), np.random.default_rng(0))  # type: ignore[arg-type]
    again, several = augmented(image, masks, (kind,), np.random.default_rng(0))  # type: ignore[arg-type]
    assert along is not None
    assert several is not None
    assert (along.shape, along.dtype, several.shape) == (labels.shape, torch.int64, masks.shape)
    assert set(along.unique().tolist()) <= {0, 3}
    assert torch.equal(moved, again)
    assert not torch.equal(along, labels)
    assert ((moved[:, 0] > 0.5) == (along == 3)).float().mean() > 0.99
    assert torch.equal(several[:, 0] > 0.5, along == 3)
    if kind in ("flip", "turn", "shift"):
        assert torch.allclose(moved.flatten(1).sort().values, image.flatten(1).sort().values, atol=1e-4)
    return moved, along


@pytest.mark.parametrize("kind", ["flip", "turn", "rotate", "zoom", "shift"])
def test_outlines_go_where_their_images_go(kind: str) -> None:
    image = torch.zeros(6, 1, 48, 48)
    image[:, :, 14:24, 20:38] = 1
    outlines_moved(image, kind)


@pytest.mark.parametrize("kind", ["flip", "turn", "rotate", "zoom", "shift"])
def test_outlines_of_blocks_go_where_their_images_go(kind: str) -> None:
    """Slices turn in their own plane alone, and lie as far apart as they did."""
    image = torch.zeros(8, 1, 24, 48, 48)
    image[:, :, 8:14, 14:24, 20:38] = 1
    moved, along = outlines_moved(image, kind)
    heights = {tuple(torch.nonzero(one.amax((1, 2)) > 0).flatten().tolist()) for one in along}
    own = tuple(range(8, 14))
    if kind == "rotate":
        assert heights == {own}
    elif kind in ("flip", "turn"):
        assert heights == {own, tuple(range(10, 16))}
    elif kind == "shift":
        assert heights == {tuple(z + by for z in own) for by in (-1, 0, 1)}
    else:  # by one factor along the axis and in the plane
        tall, area = moved.sum(2)[:, 0, 19, 29] / 6, moved[:, 0, 11].sum((1, 2)) / 180
        assert torch.allclose(tall, area.sqrt(), rtol=0.05)
        assert tall.min() < 0.95
        assert tall.max() > 1.05


def test_a_block_turns_about_the_axis_of_the_body_as_its_slices_do() -> None:
    """Of a block whose slices are alike, every slice comes out as it would alone."""
    slices = torch.rand(4, 1, 32, 32)
    block = slices[:, :, None].expand(-1, -1, 16, -1, -1)
    kinds = ("rotate", "zoom")
    alone, _ = augmented(slices, None, kinds, np.random.default_rng(0))  # type: ignore[arg-type]
    together, _ = augmented(block, None, kinds, np.random.default_rng(0))  # type: ignore[arg-type]
    assert torch.allclose(together, alone[:, :, None].expand_as(together), atol=1e-5)
    with pytest.raises(BadValues, match="32 × 16"):
        augmented(slices[..., :16], None, kinds, np.random.default_rng(0))  # type: ignore[arg-type]


def test_values_change_alone_where_only_they_may() -> None:
    image = torch.rand(4, 1, 16, 16) * 0.5 + 0.2
    labels = torch.randint(0, 3, (4, 16, 16))
    for kind in ("brightness", "contrast", "noise"):
        changed, same = augmented(image, labels, (kind,), np.random.default_rng(1))  # type: ignore[arg-type]
        assert same is labels
        assert not torch.equal(changed, image)
        assert changed.min() >= 0
        assert changed.max() <= 1
        block, _ = augmented(image[:, :, None], None, (kind,), np.random.default_rng(1))  # type: ignore[arg-type]
        assert block.shape == (4, 1, 1, 16, 16)
        assert kind == "noise" or torch.equal(block[:, :, 0], changed)
    brighter = augmented(image, None, ("brightness",), np.random.default_rng(1))[0] - image
    assert torch.allclose(brighter, brighter[:, :, :1, :1].expand_as(brighter), atol=1e-6)
    untouched, none = augmented(image, None, (), np.random.default_rng(1))
    assert torch.equal(untouched, image)
    assert none is None


# ---- Judging


def test_slices_are_counted_by_hand() -> None:
    field = Field(4, ("lung", "nodule"))
    truth = np.zeros((3, 2, 4, 4), dtype=bool)
    truth[:, 0] = True
    truth[0, 1, 0, :2] = truth[0, 1, 3, 3] = True
    seen = np.zeros(truth.shape, dtype=np.float32)
    seen[:, 0, :2] = 0.75  # half of the lung
    seen[0, 1, 0, :3] = (0.5, 1.0, 0.75)  # three pixels, two of them right; the other nodule is missed
    seen[2, 1, 2, 2] = 0.625  # invented
    places = [(0, "a", 2.0), (1, "a", 2.0), (2, "b", 2.0)]
    evaluated = EvaluatedSlices(tuple(slice_rows(places, SLICE, field, truth, seen)))
    columns = evaluated.to_json()
    assert list(columns) == [
        "row", "patient", "kind", "pixel_mm", "pixels", "right", "lung truth", "lung predicted", "lung common",
        "nodule truth", "nodule predicted", "nodule common", "scores", "truths", "iou",
    ]  # fmt: skip
    assert columns["nodule truth"] == [3, 0, 0]
    assert columns["nodule predicted"] == [3, 0, 1]
    assert columns["nodule common"] == [2, 0, 0]
    assert columns["scores"] == [[0.75], [], [0.625]]
    assert columns["truths"] == [2, 0, 0]
    assert np.allclose(columns["iou"][0], [[2 / 3, 0]])
    assert columns["right"] == [7, 8, 8]
    found = evaluated.figures
    nodule, lung = found.classes["nodule"], found.classes["lung"]
    assert nodule.dice.value == pytest.approx(2 / 3, abs=1e-4)
    assert nodule.iou.value == 0.5
    assert nodule.sensitivity.value == pytest.approx(2 / 3, abs=1e-4)
    assert nodule.dice_pooled == pytest.approx(4 / 7, abs=1e-4)
    assert nodule.dice_all.value == pytest.approx((2 / 3 + 1 + 0) / 3, abs=1e-4)
    assert (nodule.cases, nodule.both_empty, nodule.invented, nodule.missed) == (3, 1, 1, 0)
    assert lung.dice.value == pytest.approx(2 / 3, abs=1e-4)
    assert nodule.areas_px.difference == 0.5  # 0 and 1 pixels too many; the empty slice says nothing
    assert found.accuracy == pytest.approx(23 / 48, abs=1e-4)
    assert (found.slices, found.with_nodule) == (3, 1)
    sizes = {band: held for band, held in found.dice_by_size.items() if held.slices}
    assert sizes == {"3–5 mm": DiameterBand(1, pytest.approx(2 / 3, abs=1e-4))}  # 3 pixels: a disc of 3.9 mm
    assert list(found.dice_by_size) == ["under 3 mm", "3–5 mm", "5–8 mm", "8–12 mm", "from 12 mm"]
    boxes = found.boxes
    assert (boxes.truths, boxes.found, boxes.precision, boxes.recall) == (2, 1, 0.5, 0.5)
    written = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert list(written) == ["slices", "with_nodule", "accuracy", "classes", "boxes", "dice_by_size"]
    assert written["classes"]["nodule"]["iou"]["value"] == 0.5
    assert EvaluatedSlices.from_json(columns, field.foreground) == evaluated


def test_bias_is_by_thickness_nodules_and_lungs() -> None:
    field = Field(4, ("lung", "nodule"))
    facts = ScanFacts(1.25, 2.5, 5000), ScanFacts(2.5, 3, 4000)
    material, _ = some(replace(slab("a", 2), facts=facts[0]), replace(slab("b", 1, 1), facts=facts[1]))
    truth = np.zeros((3, 2, 4, 4), dtype=bool)
    truth[:2, 0], truth[2, 0, :2] = True, True
    truth[:, 1, 0, :2] = truth[0, 1, 3, 3] = True  # two nodules on the first slice, one on the others
    seen = np.zeros(truth.shape, dtype=np.float32)
    seen[1, 1, 0, :3] = seen[2, 1, 0, 0] = 1
    rows = slice_rows([(0, "a", 5.0), (1, "a", 5.0), (2, "b", 10.0)], SLICE, field, truth, seen)
    found = {pairs.name: pairs for pairs in bias_sources(material, rows)}
    for pairs in found.values():
        np.testing.assert_allclose(pairs.second, [-75, 25, -100])
    np.testing.assert_allclose(found["slice thickness, mm"].first, [2.5, 2.5, 3])
    np.testing.assert_allclose(found["spacing of slices, mm"].first, [1.25, 1.25, 2.5])
    np.testing.assert_allclose(found["lungs, ml"].first, [5000, 5000, 4000])
    np.testing.assert_allclose(found["nodules on the slice"].first, [2, 1, 1])
    np.testing.assert_allclose(found["lungs on the slice, cm²"].first, [4, 4, 8])
    unknown, _ = some(slab("a"))
    assert [p.name for p in bias_sources(unknown, rows)] == ["nodules on the slice", "lungs on the slice, cm²"]
    assert bias_sources(unknown, rows[1:2]) == []


def test_folds_are_pooled_from_their_rows() -> None:
    config = replace(RESNET, size=64, pixel_mm=5.0)
    material, rows = some(slab("a"), slab("b", 5))

    def run(batch: Array) -> tuple[Array, ...]:
        lung = np.where(batch > 0.02, 0.4 - batch, -1)  # black is what lies round the slice
        return (np.concatenate([40 * lung, 40 * (batch - 0.6)], axis=1),)

    model = made_models.model(run)
    parts = [evaluate(model, config, material, rows[mask]) for mask in (rows < 4, rows >= 4)]
    one, other = (part.to_json() for part in parts)
    pooled = EvaluatedSlices.from_json({name: one[name] + other[name] for name in one}, field_of(config).foreground)
    whole = evaluate(model, config, material, rows)
    assert pooled == whole and pooled.figures == whole.figures
    assert whole.figures.classes["lung"].dice.value > 0.85
    assert parts[0].figures.classes["lung"].dice.low is None  # one patient


# ---- Real scans


def test_findings_are_held_against_what_is_known() -> None:
    grid = Geometry.axial((10, 40, 40), (2.0, 1.0, 1.0))
    volume = Volume(np.zeros((10, 40, 40), dtype=np.int16), grid)
    lungs = Mask(np.zeros((10, 40, 40), dtype=np.uint8), grid, {1: "left lung"})
    full = np.ones((4, 8, 8), dtype=bool)
    known = (
        KnownNodule(Box((2, 4, 4), (6, 12, 12)), full, 4),
        KnownNodule(Box((2, 20, 20), (6, 28, 28)), full, 1),
        KnownNodule(Box((0, 30, 2), (3, 36, 8)), None, 0),
    )
    scan = EvaluationScan("x", volume, lungs, known)
    findings = [
        Finding(0.9, Box((2, 4, 4), (4, 12, 12)), full[:2]),  # the lower half of the first
        Finding(0.8, Box((4, 4, 4), (6, 12, 12)), full[:2]),  # and the upper one
        Finding(0.7, Box((0, 30, 2), (3, 36, 8)), np.ones((3, 6, 6), dtype=bool)),
        Finding(0.6, Box((7, 0, 30), (9, 4, 34)), np.ones((2, 4, 4), dtype=bool)),
    ]
    found = slice_networks.evaluate_findings(scan, findings)
    assert (len(found.nodules), found.hit, found.findings, found.other) == (3, 2, 4, 1)
    assert [n.dice for n in found.nodules] == [1.0, 0.0, None]
    assert [n.hit for n in found.nodules] == [True, False, True]
    assert [n.score for n in found.nodules] == [0.9, None, 0.7]
    assert [n.box_iou for n in found.nodules] == [0.5, 0.0, 1.0]
    assert [n.readers for n in found.nodules] == [4, 1, 0]
    assert found.image.iou.shape == (4, 3)
    places = slice_networks.evaluate_findings(scan, findings, outlined=False)
    assert all(n.dice is n.iou is n.sensitivity is None for n in places.nodules)
    assert [(n.diameter_mm, n.hit) for n in places.nodules] == [(n.diameter_mm, n.hit) for n in found.nodules]
    nothing = slice_networks.evaluate_findings(scan, [])
    assert (len(nothing.nodules), nothing.hit, nothing.findings, nothing.other) == (3, 0, 0, 0)
    assert nothing.image.iou.shape == (0, 3)


def test_a_finding_on_the_edge_of_the_ball_misses() -> None:
    """As LUNA16 has it; the box of the nodule holds the place all the same."""
    grid = Geometry.axial((10, 40, 40), (2.0, 1.0, 1.0))
    scan = EvaluationScan(
        "x",
        Volume(np.zeros((10, 40, 40), dtype=np.int16), grid),
        Mask(np.zeros((10, 40, 40), dtype=np.uint8), grid, {1: "left lung"}),
        (KnownNodule(Box((0, 10, 10), (5, 18, 18)), None, 0),),  # holds a ball of 8 mm about (2, 13.5, 13.5)
    )
    one = np.ones((1, 1, 2), dtype=bool)
    edge, inside = (Finding(0.5, Box((z, 13, 13), (z + 1, 14, 15)), one) for z in (4, 3))
    [middle] = [k.ball(grid) for k in scan.nodules]
    assert middle[1] == 8 and np.allclose(middle[0], grid.to_lps((2, 13.5, 13.5)))
    assert slice_networks.evaluate_findings(scan, [edge]).hit == 0
    assert slice_networks.evaluate_findings(scan, [inside]).hit == 1


def test_a_real_scan_is_judged(shared: Path) -> None:
    """A stand-in that calls dark lung and dense tissue by their names agrees with the lung stage as it should."""
    config = replace(RESNET, size=128)

    def run(batch: Array) -> tuple[Array, ...]:
        inside = (batch > 0.05) & (batch < 0.35)
        return (np.concatenate([np.where(inside, 9, -9), np.where(batch > 0.73, -1, -9)], axis=1).astype(np.float32),)

    found = slice_networks.evaluate_network(made_models.model(run), config, shared, names=("Lung_Dx-A0001",))
    scan = found.figures.scans["Lung_Dx-A0001"]
    assert 0.85 < scan.lung_agreement["lung"] < 0.95  # it would take the table for lung, too
    assert [(nodule.patient, nodule.dice) for nodule in found.nodules] == [("Lung_Dx-A0001", None)]
    assert found.figures.hit == 0
    assert scan.ms_per_slice > 0
    written = json.loads(json.dumps(found.figures.to_json(), allow_nan=False))
    assert slice_networks.SliceNetworkFigures.from_json(written) == found.figures


def test_the_nodules_of_a_real_scan_are_where_luna16_has_them(shared: Path) -> None:
    ct = read(shared / "ct" / "LIDC-IDRI-0001")
    volume, turn = canonical(ct)
    (known,) = known_nodules(shared, "LIDC-IDRI-0001", ct, turn)
    assert known.readers == 4
    (finding,) = read_findings(shared / "luna16" / ANNOTATIONS)[ct.source.series_uid or ""]
    assert np.linalg.norm(volume.geometry.to_lps(known.box.centre_zyx) - finding.centre_lps) < 5
