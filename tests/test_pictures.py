"""Folders of pictures as material: slices and patches, what is not drawn, and a method trained, judged and streamed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import Run
from nodulens.data.folds import fold_of
from nodulens.data.frames import WIDE_MM
from nodulens.errors import BadOption, BadValues, NotFound
from nodulens.methods.catalogue import NNUNET_SAM, RESNET_UNET_PATCH_CNN, SE_AUX_UNET
from nodulens.methods.recipe import changed
from nodulens.methods.run_record import read_run
from nodulens.stages.slices import Field
from nodulens.train.tasks import fp_reduction, segmentation
from nodulens.train.tasks.picture_folders import NEGATIVES, Pictures, find_pictures, load_patches, load_pictures

pytestmark = pytest.mark.usefixtures("one_thread")

SIDE = 96
NODULE = np.s_[30:42, 20:32]
PEOPLE = ("anna", "bert", "cora", "dora", "emil", "fred")
ALONE = "ignore:.* does not show"
LUNG_AND_NODULE, SIDES = Field(64, ("lung", "nodule")), ("background", "left lung", "right lung", "nodule")


def slice_of(*, nodule: bool, seed: int) -> np.ndarray:
    """A body with two lungs, a vessel in each, and a nodule in the right one."""
    rng = np.random.default_rng(seed)
    image = np.zeros((SIDE, SIDE))
    image[4:92, 2:94] = 180
    image[14:84, 10:44] = image[14:84, 52:86] = 30
    image[60:64, 26:30] = image[60:64, 66:70] = 170
    if nodule:
        image[NODULE] = 190
    return np.clip(image + rng.normal(0, 4, image.shape), 0, 255).astype(np.uint8)


def masks() -> tuple[np.ndarray, np.ndarray]:
    """The nodule and the lungs, the nodule among them."""
    nodule, lungs = np.zeros((2, SIDE, SIDE), np.uint8)
    nodule[NODULE] = 255
    lungs[14:84, 10:44] = lungs[14:84, 52:86] = 255
    return nodule, lungs


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Six patients of two slices each, the first with a nodule."""
    nodule, lungs = masks()
    for seed, person in enumerate(PEOPLE):
        for folder in ("images", "masks", "lungs"):
            (tmp_path / "data" / folder / person).mkdir(parents=True)
        for number in (0, 1):
            own = tmp_path / "data" / "images" / person / f"{number}.png"
            Image.fromarray(slice_of(nodule=number == 0, seed=2 * seed + number)).save(own)
            Image.fromarray(lungs).save(tmp_path / "data" / "lungs" / person / f"{number}.png")
        Image.fromarray(nodule).save(tmp_path / "data" / "masks" / person / "0.png")
    return tmp_path / "data"


def without(pictures: Path, name: str) -> Path:
    (pictures / name).rename(pictures.parent / name)
    return pictures


# ---- slices


def test_rows_are_the_slices_of_patients_with_a_nodule_and_without(pictures: Path) -> None:
    material = segmentation.load(pictures, RESNET_UNET_PATCH_CNN)
    assert isinstance(material, Pictures)
    assert material.patients == [person for person in PEOPLE for _ in (0, 1)]
    assert material.strata == ["nodule", "no nodule"] * len(PEOPLE)
    assert material.has_nodule.tolist() == [True, False] * len(PEOPLE)


def test_a_slice_is_seen_as_it_is_used(pictures: Path) -> None:
    """The picture itself where the network's input is as large, with masks on the same pixels."""
    material = load_pictures(pictures)
    field = replace(LUNG_AND_NODULE, size=SIDE)
    images, truth = material.examples(field, np.array([0, 1]))
    assert np.allclose(images[0], slice_of(nodule=True, seed=0) / 255, atol=1e-3)
    nodule, lungs = masks()
    assert np.array_equal(truth[0], [lungs > 0, nodule > 0])
    assert truth[1, 0].any() and not truth[1, 1].any()
    exclusive = replace(field, classes=("background", "lung", "nodule"))
    assert np.array_equal(material.examples(exclusive, np.array([0]))[1][0, 0], (lungs > 0) & (nodule == 0))
    images, truth = material.examples(LUNG_AND_NODULE, np.array([0]))
    assert truth[0, 1].sum() == pytest.approx((nodule > 0).sum() * (64 / SIDE) ** 2, rel=0.1)
    assert material.pixels_mm(LUNG_AND_NODULE, np.array([0])) == pytest.approx([WIDE_MM / 64])


@pytest.mark.filterwarnings("ignore:.*filled boxes")
def test_boxes_are_filled_and_a_warning_says_so(pictures: Path) -> None:
    without(pictures, "masks")
    rows = "".join(f"{person}/0,20,30,32,42\n" for person in PEOPLE)
    (pictures / "boxes.csv").write_text("filename,xmin,ymin,xmax,ymax\n" + rows)
    with pytest.warns(UserWarning, match="filled boxes"):
        material = load_pictures(pictures)
    _, truth = material.examples(replace(LUNG_AND_NODULE, size=SIDE), np.array([0, 1]))
    assert np.array_equal(truth[0, 1], masks()[0] > 0)
    assert not truth[1, 1].any()
    assert load_patches(pictures).label.sum() == len(PEOPLE)


def test_classes_that_are_not_drawn_are_not_learnt(pictures: Path) -> None:
    material = load_pictures(pictures)
    assert material.annotated(("lung", "nodule")) == ("lung", "nodule")
    with pytest.warns(UserWarning, match="left lung, right lung"):
        assert material.annotated(SIDES) == ("background", "nodule")
    bare = load_pictures(without(pictures, "lungs"))
    assert RESNET_UNET_PATCH_CNN.segmenter is not None
    with pytest.warns(UserWarning, match="does not show lung: the network learns nodule alone"):
        settled = segmentation.settled(RESNET_UNET_PATCH_CNN.segmenter, bare, np.arange(12))
    assert settled.classes == ("nodule",)


def test_masks_may_lie_beside_the_slices(pictures: Path) -> None:
    for person in PEOPLE:
        (pictures / "masks" / person / "0.png").rename(pictures / "images" / person / "0_mask.png")
        (pictures / "masks" / person).rmdir()
    (pictures / "masks").rmdir()
    material = load_pictures(pictures)
    assert material.strata == ["nodule", "no nodule"] * len(PEOPLE)
    assert material.examples(LUNG_AND_NODULE, np.array([1]))[1][0, 0].any()


def test_a_folder_that_does_not_say_enough_is_refused(pictures: Path, tmp_path: Path) -> None:
    (pictures / "boxes.csv").write_text("filename,xmin,ymin,xmax,ymax\n")
    with pytest.raises(BadOption, match=r"twice.*masks, boxes\.csv"):
        find_pictures(pictures)
    (pictures / "boxes.csv").unlink()
    Image.fromarray(masks()[1][:50]).save(pictures / "lungs" / "anna" / "0.png")
    with pytest.raises(BadValues, match="lungs"):
        load_pictures(pictures).examples(LUNG_AND_NODULE, np.array([0]))
    (pictures / "images" / "anna" / "0.png").rename(pictures / "images" / "0.png")
    with pytest.raises(BadOption, match="a folder of its own below"):
        find_pictures(pictures)
    with pytest.raises(NotFound, match="pass for healthy"):
        find_pictures(without(pictures, "masks"))


# ---- patches


def test_patches_show_nodules_and_what_is_like_them(pictures: Path) -> None:
    material = fp_reduction.load(pictures, RESNET_UNET_PATCH_CNN)
    patches = material.patches
    shown = patches.unit(np.arange(len(patches)))
    assert shown.shape[1:] == (64, 64) and shown.dtype == np.float32
    assert patches.label.sum() == len(PEOPLE)
    assert set(material.strata) == {"nodule", "non-nodule"}
    assert 2 * len(PEOPLE) <= (~patches.label).sum() <= 2 * len(PEOPLE) * NEGATIVES
    assert set(material.patients) == set(PEOPLE)
    side = 2 * np.sqrt(144 / np.pi) * WIDE_MM / SIDE
    assert patches.diameter_mm[patches.label] == pytest.approx([side] * len(PEOPLE))
    assert patches.nodule[patches.label].tolist() == list(range(len(PEOPLE)))
    # the nodule of 12 pixels lies in the middle; the vessel of 4 fills less of it
    inner = shown[:, 28:36, 28:36] * 255
    assert inner[patches.label].min() > 150
    assert (inner[~patches.label] < 60).any(axis=(1, 2)).all()
    seen = material.images(np.array([0]))
    assert seen[0, 0] * 255 == pytest.approx(shown[0] * 255, rel=1e-3, abs=0.1)
    assert np.array_equal(shown, load_patches(pictures).unit(np.arange(len(patches)))), "the same again"


def test_tiles_are_of_slices_without_a_nodule(pictures: Path) -> None:
    material = fp_reduction.load(pictures, changed(RESNET_UNET_PATCH_CNN, ["negatives=tiles"]))
    rows = np.flatnonzero(material.tile)
    assert len(rows) >= 3
    for row, image in zip(rows, material.images(rows)[:, 0] * 255, strict=True):
        person = PEOPLE.index(material.patients[row])
        slices = [slice_of(nodule=number == 0, seed=2 * person + number).astype(float) for number in (0, 1)]
        block = np.lib.stride_tricks.sliding_window_view(slices, (8, 8), (1, 2))  # type: ignore[call-overload]
        assert [bool((np.abs(one - image[28:36, 28:36]).max((2, 3)) < 1).any()) for one in block] == [False, True]
    for person in PEOPLE:
        (pictures / "images" / person / "1.png").unlink()
    with pytest.raises(NotFound, match="No slice without a nodule"):
        fp_reduction.load(pictures, changed(RESNET_UNET_PATCH_CNN, ["negatives=both"]))


def test_a_slice_without_lungs_still_gives_a_patch(tmp_path: Path) -> None:
    for folder in ("images", "masks"):
        (tmp_path / folder / "p").mkdir(parents=True)
    Image.fromarray(np.full((40, 50), 90, np.uint8)).save(tmp_path / "images" / "p" / "0.png")
    found = load_patches(tmp_path)
    assert found.label.tolist() == [False] and found.unit(np.array([0])).shape == (1, 64, 64)


# ---- the whole way


@pytest.mark.filterwarnings(ALONE)
@pytest.mark.training
def test_a_method_is_trained_judged_and_used_on_pictures(run: Run, pictures: Path, tmp_path: Path) -> None:
    without(pictures, "lungs")
    left_out = next(f for f in range(5) if 0 < sum(fold_of(p) == f for p in PEOPLE) < 4)
    small = [f"{name}={value}" for name, value in (("segmenter.size", 64), ("segmenter.batch", 4), ("filter.batch", 8),
             ("segmenter.epochs", 1), ("segmenter.examples", 4), ("filter.epochs", 1),
             ("segmenter.network", "planned-unet"), ("negatives", "both"))]  # fmt: skip
    changes = [word for setting in small for word in ("--set", setting)]
    folder = tmp_path / "run"
    words = ("--data", pictures, "-o", folder, "--fold", str(left_out), "--threads", "1")
    done = run("train", "resnet-unet-patch-cnn", *words, *changes)
    assert done.code == 0, done.err
    recipe = read_run(folder).recipe
    assert recipe.segmenter is not None and recipe.segmenter.classes == ("nodule",) and recipe.negatives == "both"
    for part in ("segmenter", "filter"):
        taught = json.loads((folder / f"{part}.json").read_text())["trained_on"]["patients"]
        assert taught and all(fold_of(p) != left_out for p in taught)
    judged = json.loads(run("evaluate", folder, "--data", pictures, "--json").out)
    figures = judged["networks"]["segmenter"]["figures"]
    assert figures["classes"].keys() == {"nodule"}
    assert figures["slices"] == 2 * figures["with_nodule"] == 2 * sum(fold_of(p) == left_out for p in PEOPLE)
    judges = [p for p in load_patches(pictures).patients if fold_of(p) == left_out]
    assert judged["networks"]["filter"]["figures"]["patches"] == len(judges), "no tiles"
    streamed = json.loads(run("stream", pictures / "images", "--recipe", folder, "--threads", "1", "--json").out)
    assert streamed["frames"] == 2 * len(PEOPLE)


@pytest.mark.filterwarnings(ALONE)
@pytest.mark.parametrize("recipe", [NNUNET_SAM, SE_AUX_UNET], ids=lambda r: r.name)
def test_other_segmenters_learn_from_pictures_too(recipe, pictures: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    material = segmentation.load(pictures, recipe)
    rows = np.arange(len(material.patients))
    config = replace(recipe.segmenter, size=64, batch=4, epochs=1, examples=4, augment=())
    config = segmentation.settled(config, material, rows)
    assert config.classes == ("background", "nodule")
    segmentation.train(config, material, rows, rows[:2], tmp_path / "net.pt")
