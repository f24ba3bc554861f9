"""Training, judging, storing and placing the weights of the published methods."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from experiments import methods
from experiments.budgets import SHIPPED, Budget
from experiments.cells import PATIENTS, SCANS
from experiments.methods import LARGE, UNTIMED, Release, networks, packed_size, release
from experiments.table import Bench, recipe_of
from nodulens.data.folds import EVALUATION_PATIENTS
from nodulens.data.splits import read_split
from nodulens.errors import BadOption, NodulensError
from nodulens.methods.catalogue import RECIPES
from nodulens.methods.load import load_method
from nodulens.methods.recipe import changed
from nodulens.methods.run_record import read_run
from nodulens.methods.shipped import FILE, SCHEMA
from nodulens.runtime.weights import METHODS, card, check
from nodulens.train.loop.storage import bits_of
from nodulens.train.networks.registry import cost

E5, D_FILTER = "conv3-classifier.classifier", "resnet-unet-patch-cnn.filter"


@pytest.fixture
def work(data: Path, tmp_path: Path) -> Release:
    """A release of networks that are small and hardly trained."""
    short = {"conv3": {"epochs": 1, "size": 44}, "patch-cnn": {"epochs": 1}}
    return Release(
        data,
        tmp_path / "run",
        tmp_path / METHODS,
        tmp_path / "table",
        Budget({**UNTIMED.networks, **short}),
        folds=False,
    )


def test_the_budget_is_that_of_the_table_without_a_clock() -> None:
    for recipe, part in networks():
        assert UNTIMED.networks[recipe.networks[part].network]["minutes"] == "none"
    with pytest.raises(BadOption, match=r"No network.*conv3-classifier\.classifier"):
        networks("conv4")


def test_the_epochs_that_are_asked_for_are_those_of_every_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of one that ships with epochs of its own, and of the folds that its figures come from."""
    asked = []
    monkeypatch.setattr(methods, "release", lambda work, only, tell: asked.append(work))
    methods.main(tmp_path, tmp_path, tmp_path, tmp_path, epochs=3, bits=None, folds=True, threads=None, only="")
    (work,) = asked
    assert work.command.endswith("--epochs 3")
    for recipe, part in networks():
        for split in (SCANS, PATIENTS):
            within = recipe_of(methods._cell(recipe, part, split, 0), Bench(tmp_path, tmp_path, work.budget))
            config = within.networks[part]
            assert (config.epochs, config.minutes) == (3, None), _name(recipe, part)


def test_the_large_networks_are_stored_in_8_bits(work: Release) -> None:
    """In 16 they alone would take more than there is room for."""
    sizes = {_name(r, p): cost(r.networks[p]).parameters for r, p in networks()}
    assert 2 * sum(sizes.values()) > methods.MOST_BYTES
    eight = {name for (r, p), name in zip(networks(), sizes, strict=True) if methods._bits(work, r.networks[p])[0] == 8}
    assert eight == {name for name, size in sizes.items() if size > LARGE} and D_FILTER not in eight
    everything_in_8 = replace(work, bits=8)
    assert {methods._bits(everything_in_8, r.networks[p]) for r, p in networks()} == {(8,)}


def _name(recipe: object, part: str) -> str:
    return f"{recipe.name}.{part}"  # type: ignore[attr-defined]


@pytest.mark.training
@pytest.mark.usefixtures("one_thread")
def test_one_command_trains_judges_stores_and_places(work: Release, unshipped: Path) -> None:
    work, told = replace(work, folds=True, out=unshipped / METHODS), []
    release(work, E5, told.append)
    folder = work.out / "conv3-classifier"
    assert {path.name for path in folder.iterdir()} == {"run.json", "split.json", "classifier.onnx", "classifier.json"}
    assert [line.partition(": ")[2].split(",")[0] for line in told[:2]] == ["trained", "stored in 16 bits"]
    made, known = read_run(folder), card("classifier", folder)
    check(known)
    assert bits_of(known.path.read_bytes()) == 16 and packed_size(folder) < known.path.stat().st_size
    assert not made.untrained and made.fold is None and made.seconds["classifier"] > 0
    patients = set(read_split(folder / "split.json").groups)
    assert known.patients == patients - EVALUATION_PATIENTS
    assert known.command.endswith("--only conv3-classifier.classifier") and str(work.run) not in str(vars(known))
    figures = known.figures
    assert "5 folds by patient" in figures["stands_on"] and figures["epochs"] == 1
    assert all(row["low"] <= row["value"] <= row["high"] for row in figures["by_patient"].values())
    assert figures["stored"]["bits"] == 16 and 0 < figures["stored"]["largest_difference_of_outputs"] < 0.05
    assert figures["stored"]["in_32_bits"].keys() == figures["stored"]["as_stored"].keys()
    (work.out / FILE).write_text(f'{{"schema": "{SCHEMA}"}}')
    method = load_method("conv3-classifier")
    assert method.classifier.card.sha256 == known.sha256 and method.recipe.classifier == made.recipe.classifier

    # again: nothing is trained anew, and the table's own cells serve as well as those computed here
    trained = work.run / E5 / "classifier.onnx"
    before = trained.stat().st_mtime_ns
    release(replace(work, cells=work.run / "cells", folds=False), E5)
    assert trained.stat().st_mtime_ns == before and card("classifier", folder).figures == figures
    assert read_run(folder) == made


@pytest.mark.training
@pytest.mark.usefixtures("one_thread")
def test_figures_of_other_settings_are_not_taken(work: Release) -> None:
    recipe = RECIPES["conv3-classifier"]
    classifier = changed(recipe, SHIPPED[E5]).classifier
    assert classifier is not None and classifier != recipe.classifier, "a variant ships, and its figures are taken"
    published = replace(work, cells=Path(__file__).parents[1] / "docs" / "cells")
    as_table = replace(classifier, epochs=12, minutes=3)
    assert methods._cells(published, recipe, "classifier", as_table)
    assert not methods._cells(published, recipe, "classifier", replace(as_table, epochs=13))
    assert not methods._cells(published, recipe, "classifier", replace(as_table, crop_scale=1.0))


@pytest.mark.training
@pytest.mark.usefixtures("one_thread")
def test_a_method_waits_for_all_its_networks(work: Release, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    release(work, D_FILTER, told.append)
    assert told[-1] == "resnet-unet-patch-cnn: waits for its segmenter" and not work.out.exists()
    stored = work.run / D_FILTER / "stored"
    assert card("filter", stored).figures.keys() == {"epochs", "stored"}, "no folds, no figures"

    # 8 bits where they lose nothing, else 16; and an error where those lose something too
    monkeypatch.setattr(methods, "LARGE", 0)
    monkeypatch.setattr(methods, "LOST", 1.0)
    release(work, D_FILTER)
    assert card("filter", stored).figures["stored"]["bits"] == 8 == bits_of((stored / "filter.onnx").read_bytes())
    monkeypatch.setattr(methods, "LOST", -1.0)
    with pytest.raises(NodulensError, match=rf"{D_FILTER} loses .* in 16 bits"):
        release(work, D_FILTER)
