"""A run for every fold, evaluated on all patients together: the commands of docs/evaluation.md at a small size."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
from sklearn.metrics import roc_auc_score

import nodulens as nl
from conftest import REPOSITORY, Run, refused
from nodulens.data.material import Stacks
from nodulens.data.splits import read_split, stratified, write_split
from nodulens.errors import BadOption
from nodulens.evaluate import cross_validation, networks
from nodulens.evaluate.folds import FoldRuns
from nodulens.evaluate.options import DEFAULTS
from nodulens.evaluate.predictions import read_predictions
from nodulens.evaluate.runs import MethodEvaluation, _with_networks
from nodulens.methods.catalogue import RECIPES
from nodulens.presentation.evaluation import from_json

pytestmark = [pytest.mark.training, pytest.mark.usefixtures("one_thread")]

SMALL = ("--set", "classifier.size=44", "--set", "classifier.epochs=1")


def documented() -> list[list[str]]:
    """The two commands of the section, without ``nodulens``."""
    text = (REPOSITORY / "docs" / "evaluation.md").read_text(encoding="utf-8")
    _, _, section = text.partition("\n### A run for every fold\n")
    lines = section.partition("\n###")[0].splitlines()
    return [shlex.split(line)[2:] for line in lines if line.startswith("$ nodulens ")]


def test_a_network_without_test_patients_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one run, and of a fold: the figures would pass for those of all networks and folds."""
    own = {part: SimpleNamespace(card=SimpleNamespace(name=part, sha256="0")) for part in ("filter", "classifier")}
    models = SimpleNamespace(own=own)

    def evaluated(folder: Path, *_: object, **__: object) -> dict[str, SimpleNamespace]:
        some = own if folder.name == "fold0" else {"classifier": own["classifier"]}
        return {part: SimpleNamespace(evaluated=None, model=model) for part, model in some.items()}

    runs = FoldRuns((tmp_path / "fold0", tmp_path / "fold1"), {}, True)
    for name, made in {
        "read_folds": lambda _: runs,
        "method_named": lambda _: (RECIPES["resnet-unet-patch-cnn"], None),
        "load_networks": lambda *_: models,
        "evaluate_networks": evaluated,
        "predictions_of": lambda _: (),
    }.items():
        monkeypatch.setattr(cross_validation, name, made)
    found = cross_validation.cross_validate(tmp_path, tmp_path)
    assert {part: list(one.folds) for part, one in found.networks.items()} == {"filter": [0], "classifier": [0, 1]}
    assert found.notes[-1] == "The material of the filter holds no patient of fold 1."

    monkeypatch.setattr(networks, "evaluate_networks", evaluated)
    one = MethodEvaluation("a recipe", tmp_path / "fold1", {})
    notes = _with_networks(one, models, tmp_path, None, DEFAULTS).notes  # type: ignore[arg-type]
    assert notes == ("The material of the filter holds no test patient: it was not evaluated by itself.",)


def test_every_patient_counts_once_by_the_run_that_left_it_out(
    data: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_split(stratified(Stacks(data).items(), 2), Path("two.json"))

    def typed(words: Sequence[str], *more: str) -> str:
        done = run(*[str(data) if word == "DIR" else word for word in words], *more)
        assert done.code == 0, done.err
        return done.out

    train, evaluate = documented()
    typed(train, "--split", "two.json", *SMALL)
    shown = typed(evaluate).splitlines()
    assert "conv3-classifier, 2 folds together" in shown[0] and len(shown) <= 24 and max(map(len, shown)) <= 100

    page = evaluate[-1]
    rows = read_predictions(Path(page, "predictions.csv"))
    split = read_split(Path("two.json"))
    assert {row.patient: str(row.fold) for row in rows} == {p: split.groups[p] for p in {row.patient for row in rows}}
    assert len({row.item for row in rows}) == len(rows) and {row.fold for row in rows} == {0, 1}
    found = json.loads(typed(evaluate[:4], "--json"))
    classifier = found["networks"]["classifier"]
    assert classifier["rows"]["fold"] == [row.fold for row in rows] and classifier["folds"].keys() == {"0", "1"}
    ranked = [row for row in rows if row.truth in ("malignant", "benign")]
    auc = roc_auc_score([row.truth == "malignant" for row in ranked], [row.score for row in ranked])
    assert classifier["figures"]["all_readers"]["auc"] == pytest.approx(auc, abs=1e-4)

    kept = from_json(Path(page, "evaluation.json").read_text())
    assert {"Fold by fold, classifier", "By class, any number of readers"} <= {table.title for table in kept.tables}
    assert "Learning curves by fold, classifier" in {drawing.title for drawing in kept.drawings}
    assert {ref.name for ref in kept.provenance.weights} == {"fold 0: classifier", "fold 1: classifier"}

    # a comparison takes the folder of the runs too: of its own predictions it does not differ, and nobody was seen
    compared = json.loads(typed(["evaluate", "compare", evaluate[1], page, "--data", "DIR", "--json"]))
    [part] = compared["parts"]
    assert part["items"] == len(rows) and all(
        pair["difference"]["value"] == 0 for figure in part["figures"] for pair in figure["pairs"]
    )
    assert len(compared["notes"]) == 1 and page in compared["notes"][0]

    assert nl.evaluate(evaluate[1], data).to_json() == found, "the function takes the folder as well"
    with pytest.raises(BadOption, match="leave out --set"):
        nl.evaluate(evaluate[1], data, settings=["threshold=0.5"])
    refused(run("evaluate", evaluate[1], "--data", data, "--split", "two.json"), "leave out --split")
    refused(run("evaluate", evaluate[1], "--data", data, "--set", "threshold=0.5"), "leave out --set")
    refused(run("evaluate", "compare", evaluate[1], page), "--data DIR")
