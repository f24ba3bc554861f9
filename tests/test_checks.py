"""Every loss and balance of every network of the recipes: it teaches, or it is refused before anything is loaded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import made_material
from experiments.table import VARIANTS, Bench, Cell, recipe_of
from nodulens.errors import BadOption
from nodulens.methods.catalogue import (
    CONV3_CLASSIFIER,
    NNUNET_SAM,
    RECIPES,
    RESNET_UNET_PATCH_CNN,
    SAM2_DENSENET,
    SE_AUX_UNET,
    YOLO_SEG,
)
from nodulens.methods.recipe import NetworkConfig, changed
from nodulens.stages.slices import BACKGROUND
from nodulens.train.loop.fit import Task
from nodulens.train.loop.losses import LOSSES, OVERLAPS
from nodulens.train.run import PARTS, RunSpec, train_recipe
from nodulens.train.tasks import classification, fp_reduction, segmentation, slice_material
from nodulens.train.tasks.checks import check_config

MODULES: dict[str, ModuleType] = {"segmenter": segmentation, "filter": fp_reduction, "classifier": classification}
LEARNERS = [(recipe.name, *config) for recipe in RECIPES.values() for config in recipe.networks.items()]
BALANCES = get_args(get_type_hints(NetworkConfig)["balance"])
SIDE = 32


def refused(part: str, config: NetworkConfig) -> bool:
    """What cannot teach, by hand."""
    background = config.classes[0] == BACKGROUND
    exclusive = part == "classifier" or (part == "segmenter" and background)
    one = len(config.classes) - exclusive == 1
    return (
        (part == "segmenter" and config.balance == "sampling")
        or (config.loss == ("bce" if exclusive else "cross-entropy"))
        or (config.balance == "weights" and config.loss in OVERLAPS and one)
    )


class Tiny(nn.Module):
    """As many outputs as the network has, of what a pixel and its neighbours are; of ``flat`` ones the mean of all."""

    def __init__(self, config: NetworkConfig, *, flat: bool) -> None:
        super().__init__()
        n = len(config.classes)
        self.see = nn.Sequential(nn.Conv2d(1, 8, 5, padding=2), nn.ReLU(), nn.Conv2d(8, n, 3, padding=1))
        self.second = nn.Linear(n, n) if config.auxiliary else None
        self.flat = flat

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        maps = self.see(x)
        if self.flat:
            return maps.mean((2, 3))
        return maps if self.second is None else (maps, self.second(maps.mean((2, 3))))


def steps(net: nn.Module, task: Task, config: NetworkConfig, checkpoint: Path, follow: object) -> nn.Module:
    """In place of a training: a few steps on one batch, each of which must be one that teaches."""
    batch = task.batches(np.random.default_rng(0))[0]()
    values = []
    for _ in range(12):
        value = task.loss(net, batch)
        slopes = torch.autograd.grad(value, list(net.parameters()))
        size = torch.sqrt(sum((s**2).sum() for s in slopes))  # type: ignore[arg-type]
        assert torch.isfinite(value) and torch.isfinite(size) and size > 1e-7
        values.append(float(value.detach()))
        with torch.no_grad():
            for weight, slope in zip(net.parameters(), slopes, strict=True):
                weight -= 0.02 * slope / size
    assert values[-1] < values[0]
    return net


@pytest.fixture(scope="module")
def loaded(data: Path) -> dict[str, Any]:
    """Material by recipe and part, small."""
    slabs = tuple(made_material.slab(patient) for patient in "abcd")
    small = {"classifier": "classifier.size=32"}
    out: dict[str, Any] = {}
    for name, part, _ in LEARNERS:
        recipe = changed(RECIPES[name], [small[part]] if part in small else [])
        out[f"{name} {part}"] = slice_material.Slices(slabs) if part == "segmenter" else PARTS[part].load(data, recipe)
    return out


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    for part, module in MODULES.items():

        def started(config: NetworkConfig, name: str | None = None, flat: bool = part != "segmenter") -> nn.Module:
            torch.manual_seed(1)
            return Tiny(config, flat=flat)

        monkeypatch.setattr(module, "started", started)
        monkeypatch.setattr(module, "fit", steps)


@pytest.mark.parametrize("balance", BALANCES)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("name", "part", "config"), LEARNERS, ids=[f"{name} {part}" for name, part, _ in LEARNERS])
def test_a_loss_and_a_balance_teach_or_are_refused(
    name: str, part: str, config: NetworkConfig, loss: str, balance: Any, loaded: dict[str, Any]
) -> None:
    small = {} if part == "filter" else {"size": SIDE}
    config = replace(config, loss=loss, balance=balance, augment=(), batch=16, **small)  # type: ignore[arg-type]
    if refused(part, config):
        with pytest.raises(BadOption, match=r"cross-entropy|take bce|has no effect"):
            check_config(part, config)
        return
    check_config(part, config)
    material = loaded[f"{name} {part}"]
    rows = np.arange(len(material.patients))
    PARTS[part].train(config, material, rows, rows[:0], Path())


@pytest.mark.parametrize(
    ("recipe", "setting", "message"),
    [
        (RESNET_UNET_PATCH_CNN, "filter.loss=cross-entropy", "take bce"),
        (RESNET_UNET_PATCH_CNN, "segmenter.loss=cross-entropy", "lung, nodule are not: take bce"),
        (RESNET_UNET_PATCH_CNN, "segmenter.balance=sampling", "always sampled equally"),
        (RESNET_UNET_PATCH_CNN, "filter.window=32", "filter.window can only be set for a segmenter"),
        (RESNET_UNET_PATCH_CNN, "filter.batch=1", "filter.batch must be 2 or more"),
        (SAM2_DENSENET, "classifier.window=32", "classifier.window can only be set for a segmenter"),
        (SAM2_DENSENET, "classifier.auxiliary=0.3", "classifier.auxiliary can only be set for a segmenter"),
        (SAM2_DENSENET, "classifier.batch=1", "classifier.batch must be 2 or more"),
        (NNUNET_SAM, "segmenter.classes=nodule,background", "background is .* name it first"),
        (NNUNET_SAM, "segmenter.classes=background,non-nodule,nodule", "non-nodule is .* name it first"),
        (RESNET_UNET_PATCH_CNN, "segmenter.classes=lung", "must have nodule"),
        (
            NNUNET_SAM,
            "classifier.pretrained=efficientnet-lite0",
            "encoder for resnet50-unet or planned-unet, which eff",
        ),
        (SE_AUX_UNET, "segmenter.pretrained=efficientnet-lite0", "which se-aux-unet cannot have: leave it out"),
        (NNUNET_SAM, "segmenter.auxiliary=0.3", "planned-unet has no second head: set segmenter.auxiliary=0"),
        (NNUNET_SAM, "classifier.loss=entropy", "no loss 'entropy'; there are cross-entropy"),
        (SE_AUX_UNET, "segmenter.augment=flip", "takes left for right"),
        (SE_AUX_UNET, "segmenter.loss=bce", "nodule are exclusive: take cross-entropy"),
        (SAM2_DENSENET, "classifier.loss=bce", "benign, malignant are exclusive"),
        (SE_AUX_UNET, "segmenter.network=conv3", "segmenter.network=conv3 grades, and a segmenter is .* outlines"),
        (SAM2_DENSENET, "classifier.network=resnet50-unet", "resnet50-unet outlines, and a classifier is .* grades"),
        (RESNET_UNET_PATCH_CNN, "filter.network=se-aux-unet", "outlines, and a filter"),
        (CONV3_CLASSIFIER, "classifier.size=9", "need 22 × 22 pixels at least"),
        (SAM2_DENSENET, "classifier.size=2", "'densenet121' cannot take classifier.size=2 pixels"),
    ],
)
def test_what_a_network_cannot_learn_by_is_said_before_anything_is_loaded(
    recipe: Any, setting: str, message: str, tmp_path: Path
) -> None:
    """Even where it is the last of a recipe's networks."""
    with pytest.raises(BadOption, match=message):
        train_recipe(changed(recipe, [setting]), RunSpec(tmp_path / "nothing", tmp_path / "run", ""))
    assert not (tmp_path / "run").exists()


def test_what_others_train_is_theirs_to_check() -> None:
    assert YOLO_SEG.segmenter is not None and YOLO_SEG.segmenter.loss not in LOSSES
    check_config("segmenter", YOLO_SEG.segmenter)


def test_whatever_the_table_of_results_trains_is_allowed() -> None:
    for name, part, config in LEARNERS:
        check_config(part, config)
        for settings in ((), *VARIANTS.get((name, part), ())):
            cell = Cell(name, part, "patients", 1, settings)
            check_config(part, recipe_of(cell, Bench(Path(), Path())).networks[part])
