"""Recipes from a name to a report: trained into a folder, judged on patients left out, and run on a scan."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

import made_material
import made_outliners
import small_scans
from conftest import Run
from nodulens.apps.methods import evaluate, load_method, train
from nodulens.data.folds import EVALUATION_PATIENTS, fold_of
from nodulens.data.splits import Parts, read_split
from nodulens.errors import BadOption, MissingWeights, PatientOverlap, UnreadableFile
from nodulens.evaluate.evaluation import from_json
from nodulens.pipeline import analyze
from nodulens.recipes import CONV3_CLASSIFIER, RECIPES
from nodulens.report import Report
from nodulens.runs import method_named, read_run
from nodulens.train.networks import NETWORKS
from nodulens.train.run import division

FOLD = 2
"""A fold that holds a background and some of the made-up patients."""
SHORT = {
    "sam2-densenet": ("classifier.size=32", "prompted=network"),
    "se-aux-unet": ("segmenter.size=64", "segmenter.batch=4", "segmenter.window=32"),
    "nnunet-sam": ("segmenter.size=64", "segmenter.batch=4", "classifier.size=32", "prompted=network"),
    "resnet-unet-patch-cnn": ("segmenter.size=64", "segmenter.batch=4"),
    "conv3-classifier": ("classifier.size=44",),
}
"""What makes each recipe small enough for a test; the networks stay the published ones."""
SHOWN = {
    "segmenter": {"Learning curves, segmenter", "Input, truth, prediction, overlay"},
    "filter": {"Learning curves, filter", "ROC", "Precision and recall"},
    "classifier": {"Learning curves, classifier", "ROC", "Confusion", "What it looked at"},
}
"""What the page of a run shows of each part."""


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_material.write(tmp_path_factory.mktemp("material"))


@pytest.fixture(scope="module", autouse=True)
def few() -> Iterator[None]:
    """As many slices as show that the path holds."""
    from nodulens.train import outlining

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outlining, "SCENES", 1)
        patch.setattr(outlining, "EPOCH", 16)
        patch.setattr(outlining, "WINDOWS", 16)
        yield


def trained(name: str, data: Path, run: Path, *more: str, fold: int | None = FOLD) -> Path:
    epochs = [f"{part}.epochs=1" for part in RECIPES[name].learners]
    settings = (*SHORT.get(name, ()), *epochs, *more)
    train(name, data, run, settings=settings, split=None, fold=fold)
    return run


def analysed(run: Path, **changes: object) -> Report:
    method = load_method(str(run), threads=1)
    recipe = replace(method.recipe, threshold=0.0, most_findings=3, **changes)  # type: ignore[arg-type]
    return analyze(small_scans.noisy(), recipe=recipe, models=method.models, prompted=method.prompted)


@pytest.mark.parametrize("name", SHORT)
def test_a_recipe_trains_is_judged_and_analyses(name: str, data: Path, tmp_path: Path) -> None:
    run = trained(name, data, tmp_path / "run")
    recipe = RECIPES[name]
    for part in recipe.learners:
        assert {p.suffix for p in run.glob(f"{part}.*")} == {".pt", ".csv", ".png", ".events", ".onnx", ".json"}
        card = json.loads((run / f"{part}.json").read_text())
        taught = set(card["trained_on"]["patients"])
        assert taught and not taught & EVALUATION_PATIENTS and all(fold_of(p) != FOLD for p in taught)
    split = read_split(run / "split.json")
    assert {p for p, group in split.groups.items() if group == str(FOLD)}
    found = evaluate(str(run), data, None, output=tmp_path / "page", threads=1)
    assert found["networks"].keys() == recipe.learners.keys()
    page = from_json((tmp_path / "page" / "evaluation.json").read_text())
    assert {drawing.title for drawing in page.drawings} >= {title for part in recipe.learners for title in SHOWN[part]}
    assert (tmp_path / "page" / "evaluation.html").stat().st_size > 10_000
    for outcome in found["networks"].values():
        assert all(fold_of(p) == FOLD for p in outcome["rows"]["patient"])
    json.dumps(found, allow_nan=False)
    report = analysed(run)
    assert report.recipe == name
    names = {w.name for w in report.weights}
    assert recipe.learners.keys() <= names
    assert ("patch" in names) is (recipe.segmenter is None)
    for nodule in report.nodules:
        assert nodule.risk is not None and (nodule.risk.model == "classifier") is (recipe.classifier is not None)


def test_a_run_goes_on_and_is_not_mixed_with_another(data: Path, tmp_path: Path) -> None:
    run = trained("conv3-classifier", data, tmp_path / "run")
    before = (run / "classifier.onnx").stat().st_mtime_ns
    again = trained("conv3-classifier", data, run)
    assert (again / "classifier.onnx").stat().st_mtime_ns == before, "what is there is kept"
    with pytest.raises(BadOption, match="name another folder"):
        trained("conv3-classifier", data, run, fold=3)
    with pytest.raises(BadOption, match="name another"):
        trained("conv3-classifier", data, run, "classifier.epochs=2")


def test_resumed_is_uninterrupted(data: Path, tmp_path: Path) -> None:
    """Stopped after its first epoch by the clock, and gone on with."""
    whole = trained("conv3-classifier", data, tmp_path / "whole", "classifier.epochs=2")
    import nodulens.train.fit as loop

    stop = pytest.MonkeyPatch()
    with stop.context() as patch:
        patch.setattr(loop, "_save", _then_stop(loop._save))
        with pytest.raises(KeyboardInterrupt):
            trained("conv3-classifier", data, tmp_path / "parts", "classifier.epochs=2")
    assert not (tmp_path / "parts" / "classifier.onnx").exists()
    parts = trained("conv3-classifier", data, tmp_path / "parts", "classifier.epochs=2")
    a, b = (torch.load(run / "classifier.pt", weights_only=True)["kept"] for run in (whole, parts))
    assert all(torch.equal(a[key], b[key]) for key in a)


def _then_stop(save):  # type: ignore[no-untyped-def]
    def stopping(state, checkpoint):  # type: ignore[no-untyped-def]
        save(state, checkpoint)
        raise KeyboardInterrupt

    return stopping


def test_a_recipe_without_weights_says_how_to_train_it() -> None:
    with pytest.raises(MissingWeights, match=r"nodulens train se-aux-unet --data FOLDER -o RUN"):
        load_method("se-aux-unet")
    with pytest.raises(MissingWeights, match=r"facebook/sam2|nodulens train sam2-densenet"):
        load_method("sam2-densenet")
    assert load_method("default").recipe.name == "default"


def test_names(tmp_path: Path) -> None:
    with pytest.raises(BadOption, match="se-aux-unet"):
        method_named("unet")
    with pytest.raises(BadOption, match="no folder that nodulens train"):
        method_named(str(tmp_path))
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(UnreadableFile):
        read_run(tmp_path)


def test_nobody_left_out_is_nobody_to_judge_on(data: Path, tmp_path: Path) -> None:
    run = trained("conv3-classifier", data, tmp_path / "run", fold=None)
    taught = json.loads((run / "classifier.json").read_text())["trained_on"]["patients"]
    assert {fold_of(p) for p in taught} == set(range(5))
    with pytest.raises(BadOption, match="nobody to judge on"):
        evaluate(str(run), data, None)


def test_a_file_where_the_page_goes_is_refused_before_anything_is_judged(data: Path, tmp_path: Path) -> None:
    file = tmp_path / "page"
    file.write_text("kept")
    with pytest.raises(BadOption, match="is a file"):
        evaluate("conv3-classifier", data, None, output=file)
    with pytest.raises(BadOption, match="no run"):
        evaluate("default", data, None, output=tmp_path / "other")
    assert file.read_text() == "kept"


def test_without_torch_the_line_to_type(
    run: Run, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = made_outliners.write(tmp_path / "run")
    monkeypatch.delitem(sys.modules, "nodulens.train.run")
    monkeypatch.setitem(sys.modules, "torch", None)
    for words in (("evaluate", made), ("train", "conv3-classifier", "-o", tmp_path / "new")):
        done = run(*words, "--data", data)
        assert (done.code, done.out) == (1, "")
        assert done.err == "nodulens: torch is not installed: pip install 'nodulens[train]'\n"


def test_who_taught_may_not_judge(data: Path, tmp_path: Path) -> None:
    run = trained("conv3-classifier", data, tmp_path / "run")
    other = read_split(run / "split.json")
    from nodulens.data.splits import write_split

    moved = {p: str((int(g) + 1) % 5) if g.isdigit() else g for p, g in other.groups.items()}
    write_split(replace(other, groups=moved), tmp_path / "moved.json")
    with pytest.raises(PatientOverlap):
        evaluate(str(run), data, tmp_path / "moved.json")


@dataclass(frozen=True)
class Owners:
    """Rows of which nothing but the patients is known."""

    patients: list[str]

    @property
    def strata(self) -> list[str]:
        return ["all"] * len(self.patients)


def test_rows_that_are_watched_neither_teach_nor_judge() -> None:
    patients = [f"P{n}" for n in range(200) for _ in range(2)]
    parts = Parts(frozenset(patients[:300]), frozenset(patients[300:]))
    rows = division(Owners(patients), parts)
    sides = [{patients[r] for r in part} for part in (rows.train, rows.watched, rows.test)]
    assert all(sides) and not (sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2])
    assert sum(map(len, (rows.train, rows.watched, rows.test))) == len(patients)
    few = division(Owners(["A"] * 30 + ["B"] * 30), Parts(frozenset("A"), frozenset("B")))
    assert (len(few.train), len(few.watched), len(few.test)) == (27, 3, 30)
    validation = frozenset(patients[100:300])
    given = division(Owners(patients), Parts(frozenset(patients[:100]), frozenset(patients[300:]), validation))
    assert {patients[r] for r in given.watched} == validation


def test_a_sixth_method_is_a_record_and_a_function(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wide(learner):  # type: ignore[no-untyped-def]
        layers = (torch.nn.Conv2d(1, 8, 3, 2), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
        return torch.nn.Sequential(*layers, torch.nn.Linear(8, len(learner.classes)))

    assert CONV3_CLASSIFIER.classifier is not None
    classifier = replace(CONV3_CLASSIFIER.classifier, network="wide")
    monkeypatch.setitem(NETWORKS, "wide", wide)
    monkeypatch.setitem(RECIPES, "wide", replace(CONV3_CLASSIFIER, name="wide", classifier=classifier))
    run = trained("wide", data, tmp_path / "run")
    assert np.isfinite(evaluate(str(run), data, None)["networks"]["classifier"]["rows"]["score"]).all()
    assert analysed(run).recipe == "wide"
