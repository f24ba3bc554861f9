"""Weights of the published methods from a distribution of their own: found, not there, of another version, damaged."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import made_outliners
from conftest import REPOSITORY, Run, environment, refused
from nodulens.apps.doctor import examine
from nodulens.errors import CorruptWeights, MissingWeights
from nodulens.methods import shipped as module
from nodulens.methods.catalogue import RECIPES, RESNET_UNET_PATCH_CNN
from nodulens.methods.load import load_method
from nodulens.methods.run_record import method_named, read_run, write_run
from nodulens.methods.shipped import FILE, IN_CLONE, RELEASED, SCHEMA, places, shipped
from nodulens.runtime.weights import METHODS, card, check

NAME = RESNET_UNET_PATCH_CNN.name
COMMITTED = sorted(path.parent for path in (REPOSITORY / IN_CLONE).glob("*/run.json"))
INSTALL = r"pip install 'nodulens\[methods\]'"


def write(site: Path, schema: str = SCHEMA) -> Path:
    """The package as pip would install it, with made-up networks of method D."""
    package = site / METHODS
    made_outliners.write(package / NAME)
    (package / "__init__.py").write_text("raise AssertionError('never imported')\n")
    (package / FILE).write_text(json.dumps({"schema": schema}))
    return package


def test_installed_weights_are_found_by_name(unshipped: Path) -> None:
    package = write(unshipped)
    method = load_method(NAME, settings=["threshold=0.7"])
    assert method.recipe.segmenter is not None and method.recipe.segmenter.size == made_outliners.SIZE  # as trained
    assert method.threshold == 0.7
    assert set(method.models.own) == {"segmenter", "filter"}
    assert method.models.own["filter"].card.path == package / NAME / "filter.onnx"
    assert METHODS not in sys.modules


def test_a_folder_of_a_run_comes_first(unshipped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(unshipped)
    monkeypatch.chdir(unshipped)
    made_outliners.write(unshipped / NAME)
    assert method_named(NAME)[1] == Path(NAME)


def test_a_recipe_as_a_value_takes_them_where_it_trains_the_same(unshipped: Path) -> None:
    write(unshipped)
    mine = replace(RECIPES[NAME], threshold=0.25)
    assert load_method(mine).threshold == 0.25
    trained, _ = method_named(NAME)
    assert load_method(trained).recipe == trained
    assert RESNET_UNET_PATCH_CNN.filter is not None
    other = replace(mine, filter=replace(RESNET_UNET_PATCH_CNN.filter, network="mine"))
    with pytest.raises(MissingWeights, match=rf"segmenter and filter\. Train it: nodulens train {NAME}"):
        load_method(other)


def test_without_them_the_line_that_installs_comes_first(
    unshipped: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RELEASED", (NAME,))
    with pytest.raises(MissingWeights, match=rf"{INSTALL}.*nodulens train {NAME}"):
        load_method(NAME)
    refused(run("stream", unshipped, "--recipe", NAME), "pip install 'nodulens[methods]'", "nodulens train", code=1)
    states = examine()["methods"]
    assert set(states) == {name for name, recipe in RECIPES.items() if recipe.networks}
    assert states.pop(NAME) == "in nodulens-methods, not installed: pip install 'nodulens[methods]'"
    assert all(state == f"in no release, to be trained: nodulens train {name}" for name, state in states.items())
    assert examine()["well"]
    monkeypatch.setattr(module, "RELEASED", ())
    with pytest.raises(MissingWeights, match=rf"its segmenter and filter\. Train it: nodulens train {NAME}"):
        load_method(NAME)


def test_what_is_released_is_what_is_in_the_package() -> None:
    """Weights that are added to the package are named in RELEASED too."""
    assert {folder.name for folder in COMMITTED} == set(RELEASED) and COMMITTED


def test_stream_works_at_once(unshipped: Path, run: Run) -> None:
    write(unshipped)
    frames = unshipped / "frames"
    frames.mkdir()
    pixels = np.full((64, 64), 60, dtype=np.uint8)
    pixels[20:40, 20:40] = 255
    Image.fromarray(pixels).save(frames / "0.png")
    done = run("stream", frames, "--recipe", NAME, "--json")
    assert done.code == 0 and json.loads(done.out)["regions"] == 1, done


def test_recipes_and_doctor_say_what_is_there(unshipped: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    write(unshipped)
    monkeypatch.setattr(module, "RELEASED", (NAME, "sam2-densenet"))
    listed = {recipe["name"]: recipe["weights"] for recipe in json.loads(run("recipes", "--json").out)}
    assert listed == {name: name in ("default", NAME) for name in RECIPES}
    words = run("recipes").out
    assert all(state in words for state in ("here", "not installed", "to be trained"))
    assert "Weights that are not installed: pip install" in words and "nodulens train RECIPE" in words
    found = examine()
    assert found["methods"][NAME].startswith("intact, segmenter and filter, ") and found["well"]


def test_weights_of_another_format_are_refused(unshipped: Path) -> None:
    package = write(unshipped, "nodulens-methods/99")
    with pytest.raises(MissingWeights, match=r"nodulens-methods/99.*nodulens-methods/1.*pip install --upgrade"):
        load_method(NAME)
    assert "nodulens-methods/99" in examine()["methods"][NAME] and not examine()["well"]
    assert load_method("default").recipe.name == "default", "what ships with nodulens itself works"
    for wrong in ("{", "[]", "{}"):
        (package / FILE).write_text(wrong)
        with pytest.raises(CorruptWeights, match="Reinstall nodulens-methods"):
            load_method(NAME)


def test_damaged_weights_are_found(unshipped: Path) -> None:
    folder = write(unshipped) / NAME
    (folder / "filter.onnx").write_bytes(b"no network")
    with pytest.raises(CorruptWeights, match=r"filter\.onnx is not the file.*Reinstall nodulens-methods"):
        load_method(NAME)
    assert "Reinstall nodulens-methods" in examine()["methods"][NAME] and not examine()["well"]
    (folder / "filter.onnx").unlink()
    with pytest.raises(MissingWeights, match=r"filter\.onnx does not exist\. Reinstall nodulens-methods"):
        load_method(NAME)
    (folder / "run.json").write_text("{}")
    with pytest.raises(CorruptWeights, match=r"run\.json cannot be read.*Reinstall nodulens-methods"):
        load_method(NAME)


def test_a_clone_needs_nothing_installed(unshipped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder in the repository comes before an installed one, whose weights may be of another version."""
    installed = write(unshipped)
    clone = write(unshipped / "distributions")
    monkeypatch.setattr(module, "IN_CLONE", clone)
    assert places() == (clone, installed)
    assert shipped(NAME) == clone / NAME
    (clone / NAME).rename(clone / "elsewhere")
    assert shipped(NAME) == installed / NAME


def test_the_clone_finds_its_own_folder() -> None:
    code = "from nodulens.methods.shipped import places; print(*places())"
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    assert str(REPOSITORY / IN_CLONE) in done.stdout.split()


@pytest.mark.parametrize("folder", COMMITTED, ids=lambda folder: folder.name)
def test_what_ships_is_described_and_never_saw_an_evaluation_patient(folder: Path) -> None:
    from nodulens.data.folds import EVALUATION_PATIENTS
    from nodulens.data.splits import read_split

    made = read_run(folder)
    assert made.recipe.name == folder.name and not made.untrained and made.fold is None
    groups = read_split(folder / "split.json").groups
    assert {path.name for path in folder.iterdir()} == {
        "run.json", "split.json", *(f"{part}.{kind}" for part in made.recipe.networks for kind in ("onnx", "json"))
    }  # fmt: skip
    for part in made.recipe.networks:
        known = card(part, folder)
        check(known)
        assert "Apache-2.0" in known.licence and "CC BY" in known.licence
        assert known.command.startswith("python -m experiments.methods --data ../shared/data")
        assert known.patients and known.patients <= groups.keys() and not known.patients & EVALUATION_PATIENTS
        assert set(known.trained_on["never"]) == EVALUATION_PATIENTS
        assert known.figures["by_patient"] and known.figures["stored"]["bits"] in (8, 16)
    text = "".join(path.read_text("utf-8") for path in folder.glob("*.json"))
    assert not any(word in text for word in ("/tmp", "/home", "/work", "/root", "Users"))


def test_an_unfinished_run_in_the_package_is_not_taken(unshipped: Path) -> None:
    folder = write(unshipped) / NAME
    write_run(replace(read_run(folder), seconds={}), folder)
    with pytest.raises(CorruptWeights, match="Reinstall nodulens-methods"):
        load_method(NAME)
