"""Recipes: values that can be changed by name, written down and read back; a typo is an error."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

from conftest import REPOSITORY
from nodulens.errors import BadOption
from nodulens.methods.catalogue import (
    CONV3_CLASSIFIER,
    NNUNET_SAM,
    RECIPES,
    RESNET_UNET_PATCH_CNN,
    SE_AUX_UNET,
    recipe_named,
)
from nodulens.methods.recipe import (
    DEFAULT,
    RENAMED,
    NetworkConfig,
    Recipe,
    Training,
    changed,
    changed_in_use,
    changed_to_train,
    from_dict,
    to_dict,
)
from nodulens.train.loop.losses import LOSSES


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_a_recipe_comes_back_from_json(recipe: Recipe) -> None:
    assert from_dict(json.loads(json.dumps(to_dict(recipe)))) == recipe


def test_what_the_publications_state() -> None:
    """A few of their numbers, so that nobody changes them by the way."""
    assert SE_AUX_UNET.segmenter is not None and RESNET_UNET_PATCH_CNN.segmenter is not None
    b, d = SE_AUX_UNET.segmenter, RESNET_UNET_PATCH_CNN.segmenter
    assert (b.size, b.batch, b.epochs, b.learning_rate, b.patience, b.optimizer) == (320, 8, 50, 1e-3, 10, "adam")
    assert (d.size, d.batch, d.epochs, d.learning_rate, d.optimizer) == (224, 16, 50, 1e-4, "adam")
    e = recipe_named("conv3-classifier").classifier
    assert e is not None and (e.size, e.batch, e.epochs, e.learning_rate) == (124, 20, 50, 1e-3)
    a = recipe_named("sam2-densenet").classifier
    assert a is not None and (a.batch, a.epochs, a.learning_rate, a.optimizer) == (32, 100, 1e-3, "sgd")
    assert list(NNUNET_SAM.networks) == ["segmenter", "classifier"]


def test_values_change_by_name() -> None:
    words = ["segmenter.epochs=5", "segmenter.augment=flip, noise", "segmenter.patience=none", "threshold=0.3"]
    recipe = changed(SE_AUX_UNET, [*words, "masked=true", "prompted=sam2", "segmenter.learning_rate=1"])
    assert recipe.segmenter is not None and SE_AUX_UNET.segmenter is not None
    assert recipe.segmenter == replace(
        SE_AUX_UNET.segmenter, epochs=5, augment=("flip", "noise"), patience=None, learning_rate=1.0
    )
    assert (recipe.threshold, recipe.masked, recipe.prompted) == (0.3, True, "sam2")
    assert isinstance(recipe.segmenter.learning_rate, float)


def test_only_what_outlines_airways_as_nodules_says_so() -> None:
    airways = changed(SE_AUX_UNET, ["labels=luna16-mask"])
    assert len(airways.caveats) == 1 and "trachea and airways" in airways.caveats[0]
    assert from_dict(json.loads(json.dumps(to_dict(airways)))) == airways
    assert not SE_AUX_UNET.caveats and not changed(recipe_named("conv3-classifier"), ["labels=luna16-mask"]).caveats


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("segmenter.epoch=5", "no 'epoch' in 'segmenter.epoch'; NetworkConfig has epochs, learning_rate"),
        ("segmentor.epochs=5", "no 'segmentor'"),
        ("segmenter.loss", "takes name=value"),
        ("segmenter=3", "is a group; name one of segmenter.epochs"),
        ("classifier.size=3", "is not set in this recipe"),
        ("threshold.size=3", "is not set in this recipe|is a plain value"),
        ("name.size=3", "is a plain value"),
        ("segmenter.optimizer=adamm", "cannot be 'adamm'; it is one of adam, adamw, sgd"),
        ("segmenter.epochs=1.5", "cannot be '1.5'; it is a whole number"),
        ("segmenter.epochs=", "cannot be ''; it is a whole number"),
        ("segmenter.learning_rate=fast", "it is a number"),
        ("segmenter.augment=flip,flop", "cannot be 'flop'; it is one of flip"),
        ("masked=1", "it is true or false"),
        ("labels=luna16", "cannot be 'luna16'; it is one of lidc, luna16-mask"),
        ("slices=some", "cannot be 'some'; it is one of middle, central, all"),
        ("classifier=conv3", "'classifier' is a network that this recipe has not"),
        ("classifier=none", "'classifier' is a network that this recipe has not"),
        ("rounds_drawn=2", "no 'rounds_drawn'"),
        ("name=mine", "name identifies the recipe and cannot be set"),
        ("title=mine", "title identifies the recipe"),
        ("source=mine", "source identifies the recipe"),
    ],
)
def test_a_typo_is_an_error(setting: str, message: str) -> None:
    with pytest.raises(BadOption, match=message):
        changed(SE_AUX_UNET, [setting])


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("segmenter.epochs", "0 -1", "a whole number from 1 up"),
        ("segmenter.batch", "0 -8", "a whole number from 1 up"),
        ("segmenter.size", "0 -64", "a whole number from 1 up"),
        ("segmenter.window", "0 -1", "a whole number from 1 up"),
        ("segmenter.patience", "0 -1", "a whole number from 1 up"),
        ("segmenter.plateau", "0", "a whole number from 1 up"),
        ("segmenter.learning_rate", "0 -0.1 nan inf", "a number above 0"),
        ("segmenter.minutes", "0 -1 nan inf", "a number above 0"),
        ("segmenter.pixel_mm", "0 -0.7 nan inf", "a number above 0"),
        ("segmenter.weight_decay", "-0.1 nan inf", "a number from 0 up"),
        ("segmenter.auxiliary", "-0.3 nan inf", "a number from 0 up"),
        ("segmenter.warm_up", "-0.1 1.1 nan", "a number from 0 to 1"),
        ("segmenter.averaging", "-0.1 1 nan", "a number from 0 to below 1"),
        ("segmenter.seed", "-1 4294967296", "a whole number from 0 to 4294967295"),
        ("segmenter.augment", "noise,noise", "kinds of augmentation, each once"),
        ("segmenter.classes", ", none nodule,nodule", "one name or several, each once"),
        ("box_scale", "0 -1 nan inf", "a number above 0"),
        ("max_findings", "0 -1", "a whole number from 1 up"),
        ("rounds_detected", "0", "a whole number from 1 up"),
        ("threshold", "-0.1 1.1 nan", "a score from 0 to 1"),
    ],
)
def test_a_value_out_of_its_range_is_an_error(name: str, values: str, message: str) -> None:
    for value in values.split():
        with pytest.raises(BadOption, match=message):
            changed(SE_AUX_UNET, [f"{name}={value}"])


def test_every_number_that_can_be_set_has_a_range() -> None:
    """What stands at the ends of it is allowed, and "none" where a field may be that."""
    for record in (Training(1), SE_AUX_UNET.segmenter, SE_AUX_UNET):
        for name, hint in get_type_hints(type(record)).items():
            kinds = {hint, *get_args(hint)}
            if kinds & {int, float}:
                with pytest.raises(BadOption):
                    changed(record, [f"{name}=-1"])  # type: ignore[type-var]
                if type(None) in kinds:
                    changed(record, [f"{name}=none"])  # type: ignore[type-var]
    edges = ["warm_up=0", "warm_up=1", "averaging=0", "weight_decay=0", "auxiliary=0", "seed=0", "batch=1", "epochs=1"]
    changed(SE_AUX_UNET, [f"segmenter.{edge}" for edge in edges])
    changed(SE_AUX_UNET, ["threshold=0", "threshold=1"])


def test_none_is_no_augmentation() -> None:
    recipe = changed(NNUNET_SAM, ["segmenter.augment=none"])
    assert recipe.segmenter is not None and recipe.segmenter.augment == ()


def test_something_outlines() -> None:
    assert changed(NNUNET_SAM, ["prompted=none"]).prompted is None
    for name in ("default", "conv3-classifier"):
        with pytest.raises(BadOption, match="has no segmenter, so prompted is what segments"):
            changed(recipe_named(name), ["prompted=none"])


def test_only_a_filter_is_slid() -> None:
    assert not changed(RESNET_UNET_PATCH_CNN, ["sliding_window=true"]).detects
    alone = replace(RESNET_UNET_PATCH_CNN, segmenter=None, sliding_window=True, prompted="network")
    assert not alone.detects and list(alone.networks) == ["filter"] and "box_scale" in alone.in_use
    for recipe in (DEFAULT, SE_AUX_UNET):
        with pytest.raises(BadOption, match="has no filter for a sliding window"):
            changed(recipe, ["sliding_window=true"])


@pytest.mark.parametrize(
    ("recipe", "acts", "idle"),
    [
        (
            DEFAULT,
            ["rounds_detected=2", "prompted=network"],
            ["box_scale=1.5", "checkpoint=a", "shown=crop", "masked=true"],
        ),
        (SE_AUX_UNET, ["prompted=none"], ["sliding_window=false", "box_scale=1.5", "shown=crop", "labels=luna16-mask"]),
        (
            NNUNET_SAM,
            ["box_scale=1.5", "checkpoint=a", "shown=slice", "intensity=scan"],
            ["rounds_detected=2", "segmenter.epochs=5"],
        ),
        (
            RESNET_UNET_PATCH_CNN,
            ["max_findings=3", "sliding_window=true"],
            ["filter.size=32", "slices=middle", "negatives=tiles", "box_scale=1.5"],
        ),
    ],
)
def test_in_use_only_what_acts_there_is_set(recipe: Recipe, acts: list[str], idle: list[str]) -> None:
    assert changed_in_use(recipe, ["threshold=0.3", *acts]) == changed(recipe, ["threshold=0.3", *acts])
    for setting in idle:
        with pytest.raises(BadOption, match=rf"{setting.split('=')[0]} has no effect.*threshold, max_findings"):
            changed_in_use(recipe, [setting])
    with pytest.raises(BadOption, match="no 'epoch'"):
        changed_in_use(SE_AUX_UNET, ["segmenter.epoch=5"])


@pytest.mark.parametrize(
    ("recipe", "idle"),
    [
        (
            CONV3_CLASSIFIER,
            ["labels=luna16-mask", "slices=middle", "box_scale=2", "sliding_window=false", "checkpoint=a"],
        ),
        (SE_AUX_UNET, ["masked=true", "rounds_detected=3", "memory=true", "negatives=tiles"]),
        (changed(NNUNET_SAM, ["prompted=network"]), ["shown=lung", "checkpoint=a", "sliding_window=false"]),
    ],
)
def test_what_is_set_to_train_acts_then_or_later(recipe: Recipe, idle: list[str]) -> None:
    part = next(iter(recipe.networks))
    acts = [f"{part}.epochs=3", "threshold=0.4", "prompted=network"]
    acts += ["masked=true"] * ("classifier" in recipe.networks) + ["slices=middle"] * (recipe.segmenter is not None)
    assert changed_to_train(recipe, acts) == changed(recipe, acts)
    for setting in idle:
        with pytest.raises(BadOption, match=rf"^{setting.split('=')[0]} has no effect: .*{part}"):
            changed_to_train(recipe, [setting])


@pytest.mark.parametrize(
    ("recipe", "idle", "beside"),
    [
        (CONV3_CLASSIFIER, "classifier.pixel_mm=0.5", "classifier.crop_scale=none"),
        (CONV3_CLASSIFIER, "classifier.plateau=5", "classifier.schedule=plateau"),
        (NNUNET_SAM, "segmenter.plateau=5", "segmenter.schedule=plateau"),
    ],
)
def test_a_setting_that_another_one_makes_idle_is_refused(recipe: Recipe, idle: str, beside: str) -> None:
    """Unless that is set, too, in whichever order."""
    with pytest.raises(BadOption, match=rf"^{idle.split('=')[0]} has no effect.*{beside.split('.')[0]}"):
        changed_to_train(recipe, [idle])
    for some in ([idle, beside], [beside, idle]):
        assert changed_to_train(recipe, some) == changed(recipe, some)
    assert changed_to_train(SE_AUX_UNET, ["segmenter.plateau=5"]).networks["segmenter"].plateau == 5
    assert changed_to_train(NNUNET_SAM, ["classifier.pixel_mm=0.5"]).networks["classifier"].pixel_mm == 0.5


def test_what_acts_hangs_on_what_outlines() -> None:
    """In whichever order it is set."""
    settings = ["box_scale=1.5", "prompted=network", "rounds_detected=3"]
    for some in (settings, settings[::-1]):
        assert changed_in_use(SE_AUX_UNET, some).box_scale == 1.5
    with pytest.raises(BadOption, match="checkpoint has no effect"):
        changed_in_use(SE_AUX_UNET, ["prompted=network", "checkpoint=a"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"segmentr": None}, r"recipe has unknown keys \['segmentr'\]"),
        ({"threshold": "high"}, r'recipe\.threshold should be float or null, is "high"'),
        ({"max_findings": True}, r"recipe\.max_findings should be int, is true"),
        (
            {"segmenter": {"network": "u"}},
            r"recipe\.segmenter .* lacks \['epochs', 'size', 'pixel_mm', 'classes', 'loss'\]",
        ),
        ({"segmenter": 3}, r"recipe\.segmenter should be an object, is 3"),
    ],
)
def test_a_file_with_anything_else_in_it_is_an_error(change: dict[str, object], message: str) -> None:
    with pytest.raises(BadOption, match=message):
        from_dict({**to_dict(DEFAULT), **change})


def test_a_name_that_is_none_lists_those_there_are() -> None:
    with pytest.raises(BadOption, match="no recipe 'unet'; there are default, sam2-densenet, se-aux-unet"):
        recipe_named("unet")


def words_of(hint: Any) -> Iterator[str]:
    """What a type lets be chosen from, however deep it lies."""
    if get_origin(hint) is Literal:
        yield from get_args(hint)
    else:
        for inner in get_args(hint):
            yield from words_of(inner)


def test_the_docs_say_what_can_be_set_of_a_training() -> None:
    page = (REPOSITORY / "docs" / "training.md").read_text("utf-8").split("## What can be set")[1].split("\n## ")[0]
    rows = [line.split("|")[1:3] for line in page.splitlines() if line.startswith("| `")]
    documented = {name: _quoted(values) for names, values in rows for name in _quoted(names)}
    hints = get_type_hints(NetworkConfig)
    assert {f.name for f in fields(NetworkConfig)} <= documented.keys()
    assert "rotate" in words_of(hints["augment"])
    for name, hint in hints.items():
        words = set(LOSSES) if name == "loss" else set(words_of(hint))
        assert documented[name] in (words, words | {"none"}), name


def test_the_docs_have_the_settings_of_every_network() -> None:
    """Those that decide how it is trained, in the order of their columns."""
    page = (REPOSITORY / "docs" / "methods.md").read_text("utf-8").split("| network | optimizer, rate |")[1]
    rows = [line.split(" | ") for line in page.partition("\n\n")[0].splitlines()[2:]]
    configs = [(recipe.title[0], c) for recipe in RECIPES.values() for c in recipe.networks.values()]
    for (letter, c), row in zip(configs, rows, strict=True):
        cells = [cell.strip("| ").replace("`", "") for cell in row]
        plateau = f"plateau of {c.plateau}" if c.schedule == "plateau" else c.schedule
        epochs = f"{c.epochs}, patience {c.patience}" if c.patience else f"{c.epochs}"
        batch = f"{c.batch}" + ", or as planned" * (c.network == "planned-unet")
        wanted = [
            f"{letter} {c.network}", f"{c.optimizer} {c.learning_rate:g}", plateau, f"{c.weight_decay:g}", batch,
            epochs, f"{c.averaging:g}", ", ".join(c.augment) or "none", c.balance,
        ]  # fmt: skip
        assert cells == wanted
        assert c.warm_up == 0.05, "the page has one figure for all"


def _quoted(cell: str) -> set[str]:
    return set(re.findall("`(.+?)`", cell))


def test_renamed_fields_read_and_say_what_they_are_called_now() -> None:
    old = to_dict(RESNET_UNET_PATCH_CNN)
    for before, now in RENAMED.items():
        old[before] = old.pop(now)
    assert from_dict(old) == RESNET_UNET_PATCH_CNN
    with pytest.raises(BadOption, match="grow and box_scale"):
        from_dict({**old, "box_scale": 1.0})
    with pytest.raises(BadOption, match="slide is now called sliding_window: --set sliding_window=true"):
        changed(RESNET_UNET_PATCH_CNN, ["slide=true"])
