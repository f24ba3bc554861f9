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
from nodulens.recipe import DEFAULT, Learner, Recipe, changed, from_dict, to_dict
from nodulens.recipes import NNUNET_SAM, RECIPES, RESNET_UNET_PATCH_CNN, SE_AUX_UNET, recipe_named
from nodulens.train.losses import LOSSES


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
    assert list(NNUNET_SAM.learners) == ["segmenter", "classifier"]


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
        ("segmenter.epoch=5", "no 'epoch' in 'segmenter.epoch'; Learner has epochs, learning_rate"),
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
    ],
)
def test_a_typo_is_an_error(setting: str, message: str) -> None:
    with pytest.raises(BadOption, match=message):
        changed(SE_AUX_UNET, [setting])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"segmentr": None}, "recipe holds segmentr; known are name"),
        ({"threshold": "high"}, r"recipe.threshold cannot be 'high'"),
        ({"most_findings": True}, r"recipe.most_findings cannot be True; it is a whole number"),
        ({"segmenter": {"network": "u"}}, "recipe.segmenter lacks classes, epochs, loss, pixel_mm, size"),
        ({"segmenter": 3}, "recipe.segmenter holds 3"),
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
    hints = get_type_hints(Learner)
    assert {f.name for f in fields(Learner)} <= documented.keys()
    assert "rotate" in words_of(hints["augment"])
    for name, hint in hints.items():
        words = set(LOSSES) if name == "loss" else set(words_of(hint))
        assert documented[name] in (words, words | {"none"}), name


def _quoted(cell: str) -> set[str]:
    return set(re.findall("`(.+?)`", cell))
