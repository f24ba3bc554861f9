"""Recipes from a name to a report: trained into a folder, judged on patients left out, and run on a scan."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

import made_outliners
import made_reports
import small_scans
from conftest import Run, launched
from nodulens.core.nodule import Box, Candidate
from nodulens.data.folds import EVALUATION_PATIENTS, fold_of
from nodulens.data.material import STACKS, Stacks
from nodulens.data.splits import Parts, Split, in_shares, read_split, stratified, write_split
from nodulens.errors import BadOption, BadPrompt, MissingWeights, PatientOverlap, UnreadableFile
from nodulens.evaluate.comparison import compare
from nodulens.evaluate.entrants import RunMaterial, entrants_of
from nodulens.evaluate.options import EvaluateOptions
from nodulens.evaluate.predictions import read_predictions
from nodulens.evaluate.run_page import page_of, sources_of
from nodulens.evaluate.runs import check_page, evaluate_method
from nodulens.evaluate.scans import ScanEvaluation
from nodulens.methods.catalogue import CONV3_CLASSIFIER, NNUNET_SAM, RECIPES, YOLO_SEG
from nodulens.methods.load import load_method
from nodulens.methods.recipe import changed
from nodulens.methods.run_record import Run as StoredRun
from nodulens.methods.run_record import method_named, read_run, write_run
from nodulens.pipeline import analyze
from nodulens.presentation.evaluation import from_json
from nodulens.presentation.page import write_evaluation
from nodulens.report.record import Report
from nodulens.runtime import engine
from nodulens.runtime.weights import card
from nodulens.stages.lungs import segment_lungs
from nodulens.stages.prompted import view_of
from nodulens.stages.sam import load_sam
from nodulens.stages.segment import prompt_of_candidate
from nodulens.train import train
from nodulens.train.__main__ import main as train_networks
from nodulens.train.loop.curves import read_curves
from nodulens.train.loop.distributed import Ranks
from nodulens.train.loop.export import export
from nodulens.train.networks.registry import NETWORKS, build
from nodulens.train.options import TrainOptions
from nodulens.train.run import RunSpec, division, open_run, train_recipe
from nodulens.train.tasks.classification import load
from nodulens.train.tasks.segmentation import field_of

pytestmark = [pytest.mark.training, pytest.mark.usefixtures("one_thread")]

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
    "classifier": {"Learning curves, classifier", "ROC", "Confusion", "Explanations"},
}
"""What the page of a run shows of each part."""


def trained(name: str, data: Path, run: Path, *more: str, fold: int | None = FOLD, split: Path | None = None) -> Path:
    epochs = [f"{part}.epochs=1" for part in RECIPES[name].networks]
    few = ("renderings=1", "segmenter.examples=16") if RECIPES[name].segmenter else ()
    settings = (*SHORT.get(name, ()), *few, *epochs, *more)
    options = TrainOptions(split=split, fold=fold, everybody=fold is None and split is None, command="nodulens train …")
    train(name, data, run, settings=settings, options=options)
    return run


def evaluate(
    name: str,
    data: Path,
    split: Path | None = None,
    *,
    output: Path | None = None,
    prompted: Path | None = None,
    settings: Sequence[str] = (),
) -> dict[str, Any]:
    """What the command does: the JSON that it prints, and the page."""
    if output is not None:
        check_page(name, output)
    found = evaluate_method(name, data, settings=settings, options=EvaluateOptions(split, prompted, threads=1))
    if output is not None:
        write_evaluation(page_of(found, "nodulens evaluate"), output)
    return found.to_json()


def analysed(run: Path, **changes: object) -> Report:
    method = load_method(str(run), threads=1)
    recipe = replace(method.recipe, threshold=0.0, max_findings=3, **changes)  # type: ignore[arg-type]
    return analyze(small_scans.noisy(), method=replace(method, recipe=recipe))


@pytest.mark.parametrize("name", SHORT)
def test_a_recipe_trains_is_judged_and_analyses(name: str, data: Path, tmp_path: Path) -> None:
    run = trained(name, data, tmp_path / "run")
    recipe = RECIPES[name]
    for part in recipe.networks:
        assert {p.suffix for p in run.glob(f"{part}.*")} == {".pt", ".csv", ".png", ".events", ".onnx", ".json"}
        card = json.loads((run / f"{part}.json").read_text())
        taught = set(card["trained_on"]["patients"])
        assert taught and not taught & EVALUATION_PATIENTS and all(fold_of(p) != FOLD for p in taught)
    split = read_split(run / "split.json")
    assert {p for p, group in split.groups.items() if group == str(FOLD)}
    found = evaluate(str(run), data, None, output=tmp_path / "page")
    assert found["networks"].keys() == recipe.networks.keys()
    page = from_json((tmp_path / "page" / "evaluation.json").read_text())
    assert {drawing.title for drawing in page.drawings} >= {title for part in recipe.networks for title in SHOWN[part]}
    assert (tmp_path / "page" / "evaluation.html").stat().st_size > 10_000
    for outcome in found["networks"].values():
        assert all(fold_of(p) == FOLD for p in outcome["rows"]["patient"])
    json.dumps(found, allow_nan=False)
    report = analysed(run)
    assert report.recipe == name
    names = {w.name for w in report.weights}
    assert recipe.networks.keys() <= names
    assert ("screen" in names) is (recipe.segmenter is None)
    for nodule in report.nodules:
        assert nodule.risk is not None and (nodule.risk.model == "classifier") is (recipe.classifier is not None)


def test_a_page_cites_the_data_of_every_scan() -> None:
    def scan(name: str) -> ScanEvaluation:
        return ScanEvaluation(name, 0.1, (), 0, 0, ())

    names = [[one.name for one in sources_of([scan(name)])] for name in ("LIDC-IDRI-0001", "Lung_Dx-A0001")]
    assert names == [["LIDC-IDRI", "LUNA16"], ["LIDC-IDRI", "LUNA16", "Lung-PET-CT-Dx"]]


# ---------------------------------------------------------------- runs against each other


@pytest.fixture(scope="module")
def pair(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two runs of method B's network on one fold, which differ by their seed."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("pair")
    one, other = (trained("se-aux-unet", data, folder / f"seed{k}", f"segmenter.seed={k}") for k in (0, 1))
    return one, other


def test_runs_are_compared_on_the_items_of_their_test_patients(
    pair: tuple[Path, Path], data: Path, tmp_path: Path, run: Run
) -> None:
    words = ("--data", data, "--threads", "1")
    done = run("evaluate", "compare", *pair, *words, "-o", tmp_path / "page", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["methods"] == ["seed0", "seed1"] and found["notes"] == []
    parts = {part["name"]: part for part in found["parts"]}
    assert set(parts) >= {"segmenter: nodule", "segmenter: nodule, close-up"}
    whole = {}
    for one in pair:
        done = run("evaluate", one, *words, "-o", tmp_path / one.name, "--json")
        assert done.code == 0, done.err
        whole[one] = json.loads(done.out)["networks"]["segmenter"]["figures"]
    for name, of in (("segmenter: nodule, close-up", "close_ups"), ("segmenter: nodule", "nodule")):
        [figure] = parts[name]["figures"]
        for one, figures in whole.items():
            alone = figures["close_ups"] if of == "close_ups" else figures["classes"]["nodule"]
            assert figure["values"][one.name]["value"] == pytest.approx(alone["dice"]["value"], abs=1e-4)
        assert parts[name]["left_out"] == {"seed0": 0, "seed1": 0}
    page = from_json((tmp_path / "page" / "evaluation.json").read_text())
    assert {ref.name for ref in page.provenance.weights} == {"seed0: segmenter", "seed1: segmenter"}

    folders = [tmp_path / one.name for one in pair]
    written = json.loads(run("evaluate", "compare", *folders, "--json").out)
    assert written["parts"] == found["parts"], "of the files as of the runs"


def test_runs_of_other_folds_are_not_compared(data: Path, tmp_path: Path) -> None:
    """Each has learnt from the test patients of the other."""
    runs = [trained("conv3-classifier", data, tmp_path / str(fold), fold=fold) for fold in (FOLD, FOLD + 1)]
    with pytest.raises(PatientOverlap, match=r"in both the training of \d and the test of \d"):
        compare(entrants_of(runs, RunMaterial(data, threads=1)))


def test_what_is_printed_of_a_run_fits_a_screen(two_steps: Path, prompted: Path, with_scan: Path, run: Run) -> None:
    """Of the recipe with most to say: two networks, a second step, whole scans."""
    done = run("evaluate", two_steps, "--data", with_scan, "--threads", "1", "--prompted", prompted / f"fold{FOLD}")
    lines = done.out.splitlines()
    assert done.code == 0 and len(lines) <= 40 - len(EVALUATION_PATIENTS) + 1, "and more scans have a line each"
    assert max(map(len, lines)) <= 100
    assert "AUC, three readers or more" in done.out and "Dice, refined minus first step" in done.out


def test_a_page_has_the_predictions_beside_it(densenet: Path, data: Path, tmp_path: Path, run: Run) -> None:
    done = run("evaluate", densenet, "--data", data, "--threads", "1", "-o", tmp_path, "--json")
    assert done.code == 0, done.err
    found, network = read_predictions(tmp_path / "predictions.csv"), json.loads(done.out)["networks"]["classifier"]
    rows, figures = network["rows"], network["figures"]
    assert [(one.patient, one.truth, one.score) for one in found] == list(
        zip(rows["patient"], rows["truth"], rows["score"], strict=True)
    )
    assert {one.fold for one in found} == {FOLD} and len({one.item for one in found}) == len(found)
    right = np.mean([one.called == one.truth for one in found])
    assert figures["all_readers"]["accuracy"] == pytest.approx(right, abs=1e-4)


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
    stopped(data, tmp_path / "parts", "classifier.epochs=2")
    assert not (tmp_path / "parts" / "classifier.onnx").exists()
    parts = trained("conv3-classifier", data, tmp_path / "parts", "classifier.epochs=2")
    a, b = (torch.load(run / "classifier.pt", weights_only=True)["kept"] for run in (whole, parts))
    assert all(torch.equal(a[key], b[key]) for key in a)


def stopped(data: Path, run: Path, *more: str, fold: int | None = FOLD, split: Path | None = None) -> None:
    """A training that goes no further than its first checkpoint."""
    import nodulens.train.loop.fit as loop

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "_save", _then_stop(loop._save))
        with pytest.raises(KeyboardInterrupt):
            trained("conv3-classifier", data, run, *more, fold=fold, split=split)


def _then_stop(save):  # type: ignore[no-untyped-def]
    def stopping(state, checkpoint):  # type: ignore[no-untyped-def]
        save(state, checkpoint)
        raise KeyboardInterrupt

    return stopping


@pytest.fixture(scope="module")
def other_data(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same stacks, one nodule of which is somebody else's."""
    folder = tmp_path_factory.mktemp("other")
    (folder / "lidc").mkdir()
    raw = dict(np.load(data / STACKS))
    raw["patient_id"][0] = "LIDC-IDRI-0999"
    np.savez(folder / STACKS, **raw)
    return folder


@pytest.mark.parametrize("by_file", [False, True], ids=["fixed folds", "split file"])
@pytest.mark.parametrize("finished", [False, True], ids=["stopped", "finished"])
def test_a_run_goes_on_with_nothing_but_what_it_was_begun_with(
    data: Path, other_data: Path, tmp_path: Path, finished: bool, by_file: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another fold, split, material or setting is refused by its name, and the folder stays as it is."""
    run, own, other = tmp_path / "run", tmp_path / "own.json", tmp_path / "other.json"
    made = stratified(Stacks(data).items(), 3)
    write_split(made, own)
    moved = {p: str((int(g) + 1) % 3) for p, g in made.groups.items() if g.isdigit()}
    write_split(replace(made, groups={**made.groups, **moved}), other)
    split = own if by_file else None
    stopped(data, run, split=split)
    if finished:
        trained("conv3-classifier", data, run, split=split)
    else:
        with pytest.raises(BadOption, match=r"classifier is not trained yet; resume it: nodulens"):
            method_named(str(run))
    files = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}

    with pytest.raises(BadOption, match=r"fold 2; name another folder for conv3-classifier, fold 1"):
        trained("conv3-classifier", data, run, split=split, fold=1)
    for strange in {own, other, None} - {split}:
        with pytest.raises(BadOption, match=r"patients, .* are in other parts\). Give the split that it was"):
            trained("conv3-classifier", data, run, split=strange)
    with pytest.raises(BadOption, match="started with"):
        trained("conv3-classifier", other_data, run, split=split)
    for setting, told in {
        "masked=true": "with masked=false; name another folder for masked=true",
        "classifier.epochs=2": "with classifier.epochs=1; name another folder for classifier.epochs=2",
    }.items():
        with pytest.raises(BadOption, match=told):
            trained("conv3-classifier", data, run, setting, split=split)
    recipe, parts = read_run(run).recipe, read_split(split) if split else None
    for setting, told in {
        "slices=middle": "with slices=all; name another folder for slices=middle",
        "labels=luna16-mask": "with labels=lidc; name another folder for labels=luna16-mask",
    }.items():
        with pytest.raises(BadOption, match=told):
            open_run(changed(recipe, [setting]), RunSpec(data, run, "", parts, FOLD))
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == files
    trained("conv3-classifier", data, run, split=split)
    assert (run / "classifier.onnx").exists() and not read_run(run).untrained


def test_a_checkpoint_that_nobody_answers_for_is_not_gone_on_with(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    stopped(data, run)
    (run / "run.json").unlink()
    with pytest.raises(BadOption, match=r"classifier\.pt exists, but .* does not record its training patients"):
        trained("conv3-classifier", data, run)


def typed(data: Path, run: Path, epochs: int, *more: str) -> list[str]:
    """The words of a short training."""
    words = ["train", "conv3-classifier", "--data", str(data), "-o", str(run), "--fold", str(FOLD), "--threads", "1"]
    return [*words, "--epochs", str(epochs), "--set", "classifier.size=44", *more]


def test_killed_and_typed_again_it_ends_as_if_nothing_had_been(data: Path, tmp_path: Path, run: Run) -> None:
    """By SIGKILL, which nothing can answer, wherever it meets a training that has left its first checkpoint."""
    folder, epochs = tmp_path / "run", 20
    words = typed(data, folder, epochs)
    with subprocess.Popen([sys.executable, "-m", "nodulens", *words]) as process:
        while not (folder / "classifier.pt").exists():
            assert process.poll() is None, "it ended before it had left a checkpoint"
            time.sleep(0.005)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert torch.load(folder / "classifier.pt", weights_only=True)["progress"]["epoch"] < epochs
    assert not (folder / "classifier.onnx").exists() and read_run(folder).untrained == ("classifier",)
    assert run(*words).code == 0
    assert [row["epoch"] for row in read_curves(folder / "classifier.csv")] == list(range(1, epochs + 1))
    whole = trained("conv3-classifier", data, tmp_path / "whole", f"classifier.epochs={epochs}")
    a, b = (torch.load(made / "classifier.pt", weights_only=True)["kept"] for made in (folder, whole))
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_two_processes_leave_one_run(data: Path, tmp_path: Path) -> None:
    """As docs/training.md says."""
    run = tmp_path / "run"
    done = launched("-m", "nodulens", *typed(data, run, 1, "--set", "classifier.batch=8"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("classifier.onnx and its card") == 1
    parts = {f"classifier.{suffix}" for suffix in ("pt", "csv", "png", "events", "onnx", "json")}
    assert {p.name for p in run.iterdir()} == {*parts, "run.json", "split.json"}
    assert len(list((run / "classifier.events").iterdir())) == 1
    assert read_run(run).command.startswith("torchrun --nproc-per-node 2 -m nodulens train conv3-classifier")
    assert all(fold_of(p) == FOLD for p in evaluate(str(run), data, None)["networks"]["classifier"]["rows"]["patient"])


def test_only_the_first_process_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ranks, "joined", lambda: Ranks(1, 2, torch.device("cpu")))
    monkeypatch.setattr(Ranks, "wait", lambda self: None)
    open_run(CONV3_CLASSIFIER, RunSpec(tmp_path, tmp_path / "run", "", Split({"P": "train", "Q": "test"}, 0, "mine")))
    export(torch.nn.Linear(2, 2), torch.zeros(2, 2), tmp_path / "run", {"name": "classifier", "input": {}})
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("unshipped")
def test_a_recipe_without_weights_says_how_to_train_it() -> None:
    with pytest.raises(MissingWeights, match=r"nodulens train se-aux-unet --data FOLDER -o RUN"):
        load_method("se-aux-unet")
    with pytest.raises(MissingWeights, match=r"facebook/sam2|nodulens train sam2-densenet"):
        load_method("sam2-densenet")
    assert load_method("default").recipe.name == "default"


# ---------------------------------------------------------------- SAM


@pytest.fixture(scope="module")
def densenet(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of method A as it is published: SAM2 outlines, by a name that is not on this machine."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("densenet") / "run"
    settings = ("classifier.size=32", "classifier.epochs=1", "checkpoint=nobody/sam2")
    train("sam2-densenet", data, folder, settings=settings, options=TrainOptions(fold=FOLD))
    return folder


@pytest.fixture(scope="module")
def with_scan(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same material, and a whole scan to judge on."""
    folder = tmp_path_factory.mktemp("with_scan")
    for part in ("lidc", "luna16", "background"):
        (folder / part).symlink_to(data / part, target_is_directory=True)
    (folder / "ct").mkdir()
    small_scans.dicom(folder / "ct" / min(EVALUATION_PATIENTS))
    return folder


def test_without_sam_its_networks_are_judged_and_scans_left_out(
    densenet: Path, with_scan: Path, tmp_path: Path, run: Run
) -> None:
    pytest.importorskip("transformers", reason="needs pip install 'nodulens[sam]'")
    words = ("evaluate", densenet, "--data", with_scan, "--threads", "1")
    done = run(*words, "-o", tmp_path / "page", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["networks"]["classifier"]["figures"] and found["scans"] == []
    [note] = found["notes"]
    for told in ("Whole scans were left out", "hf download nobody/sam2", "--set checkpoint=", "--set prompted=network"):
        assert told in note
    page = from_json((tmp_path / "page" / "evaluation.json").read_text())
    assert page.warnings == (note,)
    assert [w.name for w in page.provenance.weights] == ["classifier"]
    assert note in run(*words).out

    done = run(*words, "--set", "prompted=network", "--json")
    assert done.code == 0, done.err
    again = json.loads(done.out)
    assert [s["name"] for s in again["scans"]] == [min(EVALUATION_PATIENTS)] and again["notes"] == []
    assert again["networks"] == found["networks"]


def test_what_training_decided_is_not_set_to_judge(densenet: Path, data: Path) -> None:
    for setting in ("classifier.size=64", "masked=false"):
        with pytest.raises(BadOption, match=f"{setting.partition('=')[0]} has no effect: sam2-densenet"):
            evaluate(str(densenet), data, None, settings=[setting])


def test_where_nothing_else_is_judged_missing_sam_is_a_fault(with_scan: Path, run: Run) -> None:
    pytest.importorskip("transformers", reason="needs pip install 'nodulens[sam]'")
    for checkpoint, told in (("nobody/sam2", "hf download nobody/sam2"), ("none", "names no weights")):
        words = ("--set", "prompted=sam2", "--set", f"checkpoint={checkpoint}")
        done = run("evaluate", "default", "--data", with_scan, *words)
        assert done.code == 1 and told in done.err and "--set checkpoint=FOLDER" in done.err


@pytest.mark.parametrize(
    ("kind", "asked"),
    [("sam2", ()), ("sam", ()), ("sam2", ("shown=lung", "memory=true")), ("sam", ("shown=lobe", "intensity=scan"))],
)
def test_sam_outlines_what_a_run_analyses(
    densenet: Path, sams: Path, dicom: Path, tmp_path: Path, run: Run, kind: str, asked: tuple[str, ...]
) -> None:
    """Random weights in the published format: that they take part, not that they are any good."""
    files = sams / kind
    words = ("--recipe", densenet, "--set", f"prompted={kind}", "--set", f"checkpoint={files}")
    words += tuple(word for setting in asked for word in ("--set", setting))
    done = run("analyze", dicom, "-o", tmp_path / "out", *words, "--threshold", "0.02", "--threads", "1")
    assert done.code == 0, done.err
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    held = hashlib.sha256((files / "model.safetensors").read_bytes()).hexdigest()
    assert report["weights"][-1] == {"name": f"…/{kind}", "sha256": held}
    assert [w["name"] for w in report["weights"]] == ["screen", "volume", "classifier", f"…/{kind}"]
    assert report["nodules"] and all(n["risk"]["model"] == "classifier" for n in report["nodules"])


def test_a_classifier_is_evaluated_by_outlines_of_readers_sam_and_ours(
    densenet: Path, data: Path, sams: Path, prompted: Path, tmp_path: Path, run: Run
) -> None:
    words = ("--checkpoint", sams / "sam2", "--checkpoint", sams / "sam", "--threads", "1")
    own = ("--prompted", prompted / f"fold{FOLD}")
    done = run("evaluate", "outlines", densenet, "--data", data, *words, *own, "-o", tmp_path / "out")
    assert done.code == 0, done.err
    assert "the readers" in done.out and "our network" in done.out and "…/sam2" in done.out
    found = json.loads((tmp_path / "out" / "outlines.json").read_text())
    assert found["schema"] == "nodulens-outlines/1" and found["notes"] == []
    judges = {p for p in Stacks(data).patients if fold_of(p) == FOLD} - EVALUATION_PATIENTS
    assert set(found["rows"]["patient"]) <= judges and found["patients"] == len(set(found["rows"]["patient"]))
    figures = found["figures"]
    assert len(figures) == 1 + 3 * 5
    assert figures["the readers"]["dice"]["value"] == 1 and figures["the readers"]["blank"] == 0
    box, jittered = (
        figures[f"our network, {words}"]["dice"] for words in ("box of the outline", "jittered by a tenth")
    )
    assert 0 < jittered["value"] < 1 and 0 < box["value"] < 1
    alone = run("evaluate", densenet, "--data", data, "--json", "--threads", "1")
    same = json.loads(alone.out)["networks"]["classifier"]["figures"]["all_readers"]
    assert figures["the readers"]["all_readers"]["accuracy"] == same["accuracy"], "as the run is evaluated"
    held = [w["sha256"] for w in found["weights"]]
    assert held[-1] == card("segmenter", prompted / f"fold{FOLD}").sha256 and len(set(held)) == 4
    page = from_json((tmp_path / "out" / "evaluation.json").read_text())
    assert page.tables[0].title == "The classifier by outline, three readers or more"


def test_a_classifier_is_evaluated_by_outlines_of_networks_of_whole_slices(
    densenet: Path, outliners: Path, data: Path, tmp_path: Path, run: Run
) -> None:
    """Unprompted; those that draw what is dense, one of them a run of YOLO, find most of the made nodules, coarsely."""
    words = ("evaluate", "outlines", densenet, "--data", data, "--threads", "1")
    yolo = made_outliners.write(tmp_path / "yolo", YOLO_SEG)
    done = run(*words, "--first-stage", outliners, "--first-stage", yolo, "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    readers, drawn, of_yolo = found["figures"].values()
    assert of_yolo["network"] == "…/yolo" and of_yolo["all_readers"] == drawn["all_readers"]
    assert [f["network"] for f in (readers, drawn)] == [None, f"…/{outliners.name}"] and drawn["prompt"] is None
    assert list(found["figures"])[1] == f"…/{outliners.name}, without a prompt"
    assert readers["dice"]["value"] == 1 and 0.3 < drawn["dice"]["value"] < 1 and found["notes"] == []
    held = [one["sha256"] for one in found["weights"][-2:]]
    assert held == [card("segmenter", folder).sha256 for folder in (outliners, yolo)]
    for first_stages, said in (
        ([densenet], "no network of whole slices"),
        ([outliners, outliners], "named twice"),
        (["conv3-classifier"], "no network of whole slices"),
    ):
        asked = (word for stage in first_stages for word in ("--first-stage", stage))
        done = run(*words, *asked)
        assert done.code == 2 and said in done.err


def test_what_cannot_be_evaluated_by_outline_is_refused(
    densenet: Path, outliners: Path, data: Path, prompted: Path, run: Run
) -> None:
    done = run("evaluate", "outlines", outliners, "--data", data)
    assert done.code == 2 and "no classifier of segmented nodules" in done.err
    done = run("evaluate", "outlines", densenet, "--data", data, "--prompted", prompted / f"fold{FOLD + 1}")
    assert done.code != 0 and "none of these networks was trained on" in done.err
    done = run("evaluate", "outlines", densenet, "--data", data, "--checkpoint", "nobody/sam2")
    assert done.code == 1 and "hf download nobody/sam2" in done.err


# ---------------------------------------------------------------- with and without the second step


@pytest.fixture(scope="module")
def two_steps(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of method C whose second step is our own prompted network."""
    torch.set_num_threads(1)
    return trained("nnunet-sam", data, tmp_path_factory.mktemp("two_steps") / "run")


@pytest.fixture(scope="module")
def prompted(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prompted networks of two folds, as their command leaves them."""
    app, folder = typer.Typer(), tmp_path_factory.mktemp("prompted")
    app.command()(train_networks)
    for fold in (FOLD, FOLD + 1):
        words = ["segmenter", "--data", str(data), "--fold", str(fold), "--run", str(folder)]
        done = CliRunner().invoke(app, [*words, "--epochs", "1", "--threads", "1"], catch_exceptions=False)
        assert done.stdout == f"{folder / 'segmenter' / f'fold{fold}' / 'segmenter.onnx'} and its card\n"
    return folder / "segmenter"


def test_a_fold_of_the_prompted_network_names_whom_it_has_seen(prompted: Path, data: Path, tmp_path: Path) -> None:
    known = card("segmenter", prompted / f"fold{FOLD}")
    taught = set(known.trained_on["patients"])
    everybody = set(Stacks(data).patients) - EVALUATION_PATIENTS
    assert taught == {p for p in everybody if fold_of(p) != FOLD}
    assert known.command.endswith(f"--fold {FOLD}") and known.trained_on["schedule"]["epochs"] == 1
    app = typer.Typer()
    app.command()(train_networks)
    wrong = (
        ["malignancy", "--fold", "1"],
        ["segmenter", "--fold", "5"],
        ["segmenter", "--fold", "-1"],
        ["segmenter", "--fold", "1", "--no-folds"],
        ["segmenter", "--fold", "1", "--out", str(tmp_path)],
    )
    for words in wrong:
        done = CliRunner().invoke(app, [*words, "--data", str(data), "--run", str(tmp_path)])
        assert done.exit_code == 2 and "--fold" in done.output
    assert not list(tmp_path.iterdir())


def test_the_second_step_is_judged_by_what_has_not_seen_who_judges(
    two_steps: Path, prompted: Path, with_scan: Path, tmp_path: Path, run: Run
) -> None:
    words = ("evaluate", two_steps, "--data", with_scan, "--threads", "1")
    done = run(*words, "--prompted", prompted / f"fold{FOLD}", "-o", tmp_path / "page", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["notes"] == [] and found["scans"]
    compared, graded = (found["second_step"][key] for key in ("compared", "graded"))
    stacks = Stacks(with_scan)
    owners = {p for p in stacks.patients if fold_of(p) == FOLD} - EVALUATION_PATIENTS
    assert set(compared["rows"]["patient"]) == owners
    assert compared["rows"]["row"] == graded["rows"]["row"] and compared["figures"]["nodules"] == len(owners)
    assert list(graded["figures"]) == ["readers", "first", "refined"]
    page = from_json((tmp_path / "page" / "evaluation.json").read_text())
    assert "With and without the second step" in {t.title for t in page.tables}
    assert "Refined: best and worst" in {d.title for d in page.drawings}
    assert any(m.name == "Dice, refined minus first step" for m in page.metrics)
    held = card("segmenter", prompted / f"fold{FOLD}").sha256
    assert held in {w.sha256 for w in page.provenance.weights}
    shown = {table.title: table for table in page.tables}
    assert "Wilcoxon" in shown["With and without the second step"].note
    assert shown["The classifier by mask"].columns[0] == "crops masked by"


def test_networks_are_hashed_and_compiled_once(
    two_steps: Path, prompted: Path, with_scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the whole of an evaluation: its networks one by one, whole scans, the second step and the page."""
    hashed, compiled = Counter[Path](), Counter[bytes]()
    checking, compiling = engine.checked, engine.compile_bytes

    def checked(path: Path, sha256: str) -> bytes:
        hashed[path] += 1
        return checking(path, sha256)

    def compile_bytes(model: bytes, threads: int) -> engine.Run:
        compiled[model] += 1
        return compiling(model, threads)

    monkeypatch.setattr(engine, "checked", checked)
    monkeypatch.setattr(engine, "compile_bytes", compile_bytes)
    run = shutil.copytree(two_steps, tmp_path / "run")
    own = shutil.copytree(prompted / f"fold{FOLD}", tmp_path / "own")
    found = evaluate(str(run), with_scan, output=tmp_path / "page", prompted=own)
    assert found["scans"] and found["second_step"]
    fresh = {run / "segmenter.onnx", run / "classifier.onnx", own / "segmenter.onnx"}
    assert hashed.keys() >= fresh and len(compiled) == len(hashed)
    assert set(hashed.values()) == set(compiled.values()) == {1}


def test_a_prompted_network_that_has_seen_them_all_does_not_judge(
    two_steps: Path, prompted: Path, data: Path, run: Run
) -> None:
    """Such as one of another fold."""
    stacks = Stacks(data)
    judges = {p for p in stacks.patients if fold_of(p) == FOLD} - EVALUATION_PATIENTS
    other = prompted / f"fold{FOLD + 1}"
    assert judges <= set(card("segmenter", other).trained_on["patients"])
    done = run("evaluate", two_steps, "--data", data, "--threads", "1", "--json", "--prompted", other)
    found = json.loads(done.out)
    assert "second_step" not in found and found["networks"]
    [note] = found["notes"]
    assert f"was trained on all {len(judges)} test patients" in note
    assert f"--data {data} --fold {FOLD} --run FOLDER" in note and f"--prompted FOLDER/segmenter/fold{FOLD}" in note


def test_sam_takes_the_second_step_of_a_run(two_steps: Path, data: Path, sams: Path) -> None:
    """Random weights, and no figure of them: that it is SAM who is asked, about everybody who judges."""
    settings = ["prompted=sam", f"checkpoint={sams / 'sam'}"]
    found = evaluate(str(two_steps), data, None, settings=settings)
    assert found["notes"] == []
    owners = {p for p in Stacks(data).patients if fold_of(p) == FOLD} - EVALUATION_PATIENTS
    assert set(found["second_step"]["compared"]["rows"]["patient"]) == owners
    missing = evaluate(str(two_steps), data, None, settings=["prompted=sam", "checkpoint=nobody/sam"])
    [note] = missing["notes"]
    assert "second_step" not in missing and "the second step were left out" in note and "hf download" in note


def test_what_is_no_prompted_network_is_refused(two_steps: Path, densenet: Path, prompted: Path, data: Path) -> None:
    with pytest.raises(BadOption, match="takes no prompt"):
        evaluate(str(two_steps), data, None, prompted=two_steps)
    with pytest.raises(BadOption, match="sam2-densenet segments by sam2: add --set prompted=network"):
        evaluate(str(densenet), data, None, prompted=prompted / f"fold{FOLD}")
    with pytest.raises(BadOption, match="segments by its segmenter"):
        evaluate(str(two_steps), data, None, prompted=prompted / f"fold{FOLD}", settings=["prompted=none"])
    with pytest.raises(MissingWeights, match="does not exist"):
        evaluate(str(two_steps), data, None, prompted=prompted / "fold4")


# ---------------------------------------------------------------- method D's second arm


def test_the_filter_finds_by_itself(dicom: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """It keeps what is bright in the middle, as the balls are."""
    monkeypatch.setattr(made_outliners, "KEPT", made_outliners.BRIGHT)
    folder = made_outliners.write(tmp_path / "run")
    reports = {}
    for arm in ("false", "true"):
        words = ("--recipe", folder, "--set", f"sliding_window={arm}", "--threads", "1")
        done = run("analyze", dicom, "-o", tmp_path / arm, *words)
        assert done.code == 0, done.err
        reports[arm] = json.loads((tmp_path / arm / "report.json").read_text())
    whole, alone = reports["false"], reports["true"]
    assert [w["name"] for w in whole["weights"]] == ["segmenter", "filter", "malignancy", "measured"]
    assert [w["name"] for w in alone["weights"]] == ["filter", "malignancy", "measured"]
    assert not any("sliding_window=true" in w for w in whole["warnings"])
    assert any("cells of 8 pixels" in w for w in alone["warnings"]), "sizes are those of cells, and it says so"
    assert alone["nodules"] and alone["threshold"] == 0.5 and alone["sensitivity"] == []
    words = ("--recipe", folder, "--set", "sliding_window=true", "--set", "prompted=network", "--threads", "1")
    assert run("analyze", dicom, "-o", tmp_path / "outlined", *words).code == 0
    outlined = json.loads((tmp_path / "outlined" / "report.json").read_text())
    assert not any("cells of 8 pixels" in w for w in outlined["warnings"])
    assert [w["name"] for w in outlined["weights"]] == ["filter", "segmenter", "malignancy", "measured"]


def test_both_arms_are_judged_on_whole_scans(tmp_path: Path, data: Path, with_scan: Path, run: Run) -> None:
    folder = trained("resnet-unet-patch-cnn", data, tmp_path / "run", "segmenter.window=32")
    found = evaluate(str(folder), with_scan, None, output=tmp_path / "page")
    assert [s["name"] for s in found["slid"]] == [s["name"] for s in found["scans"]] == [min(EVALUATION_PATIENTS)]
    page = from_json((tmp_path / "page" / "evaluation.json").read_text())
    [table] = [t for t in page.tables if t.title == "Whole scans"]
    assert [row[0] for row in table.rows] == [min(EVALUATION_PATIENTS), f"{min(EVALUATION_PATIENTS)}, filter alone"]
    alone = evaluate(str(folder), with_scan, None, settings=["sliding_window=true"])
    assert alone["scans"] == found["slid"] and "slid" not in alone


# ---------------------------------------------------------------- method C's two slots


def taught_brightness(folder: Path, network: str) -> Path:
    """A run of method C whose first stage has learnt nothing but that what is bright in one scan is a nodule."""
    assert NNUNET_SAM.segmenter is not None
    config = replace(NNUNET_SAM.segmenter, network=network, size=64)
    recipe = replace(NNUNET_SAM, segmenter=config, classifier=None, prompted="network")
    ct = small_scans.noisy()
    seen = torch.from_numpy(field_of(config).input(ct.hu, ct.geometry)[:, None])
    truth = (seen[:, 0] > made_outliners.BRIGHT).long()
    torch.manual_seed(0)
    net = build(config).train()
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for step in range(20):
        rows = torch.arange(step % 11, len(seen), 11)
        loss = torch.nn.functional.cross_entropy(net(seen[rows]), truth[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for norm in (m for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        norm.reset_running_stats()
        norm.momentum = None  # the mean of what comes now: so few steps leave the running ones behind
    with torch.no_grad():
        net(seen[::4])
    card = {"name": "segmenter", "trained_on": {"patients": []}, "input": {}, "settings": asdict(config)}
    export(net.eval(), seen[20:22], folder, {**card, "command": "", "figures": {}})
    write_run(StoredRun(recipe, "made up", None, seconds={"segmenter": 0.0}), folder)
    return folder


@pytest.mark.parametrize("network", ["planned-unet", "se-aux-unet"])
def test_the_second_step_outlines_anew_what_either_first_stage_finds(network: str, tmp_path: Path) -> None:
    run = str(taught_brightness(tmp_path / "run", network))
    first, again = load_method(run, threads=1, settings=["prompted=none"]), load_method(run, threads=1)
    ct = small_scans.noisy()
    before, after = (analyze(ct, method=m) for m in (first, again))
    for report in (before, after):
        assert small_scans.nearest(report, 0)[1] < 4, "the largest ball is found"
    assert [n.score for n in after.nodules] == [n.score for n in before.nodules]
    pairs = zip(before.nodules, after.nodules, strict=True)
    assert any(a.box != b.box or not np.array_equal(a.mask, b.mask) for a, b in pairs)
    own, ours = again.models.own["segmenter"].card.sha256, again.models.segmenter.card.sha256
    assert own in {w.sha256 for w in before.weights} and ours not in {w.sha256 for w in before.weights}
    assert {own, ours} <= {w.sha256 for w in after.weights}


@pytest.mark.parametrize("network", ["densenet121", "conv3", "vit"])
def test_another_classifier_fits_its_slot(network: str, data: Path, tmp_path: Path) -> None:
    """Three classes, one step; without the first stage, which the classifier has nothing to do with."""
    settings = (f"classifier.network={network}", "classifier.size=32", "classifier.epochs=1", "classifier.batch=64")
    recipe = changed(replace(NNUNET_SAM, segmenter=None, prompted="network"), settings)
    run = tmp_path / "run"
    train_recipe(recipe, RunSpec(data, run, "", fold=FOLD))
    assert json.loads((run / "classifier.json").read_text())["settings"]["network"] == network
    judged = evaluate(str(run), data, None)["networks"]["classifier"]
    assert judged["figures"]["all_readers"]["classes"] == ["indeterminate", "benign", "malignant"]
    logits = [judged["rows"][f"logit_{name}"] for name in judged["figures"]["all_readers"]["classes"]]
    assert np.isfinite(logits).all() and len({len(column) for column in logits}) == 1
    report = analysed(run)
    assert report.nodules and all(n.risk is not None and n.risk.model == "classifier" for n in report.nodules)
    held = hashlib.sha256((run / "classifier.onnx").read_bytes()).hexdigest()
    assert held in {w.sha256 for w in report.weights}


@pytest.mark.parametrize("part", ["slice", "lung", "lobe", "crop"])
def test_a_recipe_says_what_sam_is_shown(
    densenet: Path, sams: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """The lungs that views need are those of the scan."""
    seen: list[Box] = []

    def noting(*args: object, **more: object) -> Box:
        seen.append(view_of(*args, **more))  # type: ignore[arg-type]
        return seen[-1]

    monkeypatch.setattr("nodulens.methods.load.view_of", noting)
    settings = ["prompted=sam", f"checkpoint={sams / 'sam'}", f"shown={part}"]
    prompted = load_method(str(densenet), settings=settings).prompted
    assert prompted is not None
    ct = small_scans.noisy()
    lungs = segment_lungs(ct)
    prompt = prompt_of_candidate(ct, Candidate(*made_reports.NODULES[0], 1.0))
    with suppress(BadPrompt):  # random weights may well find nothing
        prompted.within(lungs)("box", None)(ct, prompt)
    assert seen == [view_of(ct, prompt, part, lungs)]  # type: ignore[arg-type]


def test_memory_is_of_sam2_alone(densenet: Path, sams: Path, tmp_path: Path) -> None:
    with pytest.raises(BadOption, match="memory has no effect"):
        load_method(str(densenet), settings=["prompted=sam", "memory=true"])
    load_sam(sams / "sam2", "sam2").net.model.save_pretrained(tmp_path / "alone")  # type: ignore[attr-defined]
    with pytest.raises(BadOption, match=r"has no memory .* --set memory=false"):
        load_method(str(densenet), settings=[f"checkpoint={tmp_path / 'alone'}", "memory=true"])


def test_names(tmp_path: Path) -> None:
    with pytest.raises(BadOption, match="se-aux-unet"):
        method_named("unet")
    with pytest.raises(BadOption, match="not a run of nodulens train"):
        method_named(str(tmp_path))
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(UnreadableFile):
        read_run(tmp_path)


def test_a_run_is_used_as_it_was_trained(tmp_path: Path) -> None:
    run = str(made_outliners.write(tmp_path / "run", labels="luna16-mask"))
    method = load_method(
        run, threads=1, settings=("threshold=0.2", "max_findings=3", "prompted=network", "box_scale=2")
    )
    assert (method.threshold, method.recipe.max_findings, method.recipe.box_scale) == (0.2, 3, 2.0)
    assert method.outline is not None and method.recipe.caveats == read_run(Path(run)).recipe.caveats != ()
    for setting in ("labels=lidc", "slices=middle", "masked=true", "segmenter.size=32", "filter.loss=dice"):
        with pytest.raises(BadOption, match="has no effect: resnet-unet-patch-cnn is used as it was trained"):
            load_method(run, settings=[setting])
    with pytest.raises(BadOption, match="cannot be set"):
        load_method(run, settings=["name=mine"])


def test_a_run_that_holds_what_recipes_held_once_is_read(tmp_path: Path) -> None:
    run = made_outliners.write(tmp_path / "run")
    now, record = read_run(run), json.loads((run / "run.json").read_text())
    record["recipe"]["rounds_drawn"] = 1
    (run / "run.json").write_text(json.dumps(record))
    assert read_run(run) == now
    record["recipe"]["rounds"] = 1
    (run / "run.json").write_text(json.dumps(record))
    with pytest.raises(UnreadableFile, match=r"run\.recipe has unknown keys \['rounds'\]"):
        read_run(run)


@pytest.mark.parametrize(
    "words",
    [("--set", "threshold=0.3"), ("--fold", "1"), ("--split", "split.json"), ("--everybody", "--set", "threshold=0.3")],
)
def test_the_default_is_trained_as_it_ships(
    run: Run, words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever else is asked for is refused, not dropped."""
    write_split(Split({f"P{n}": str(n % 2) for n in range(4)}, 2, "stratified"), tmp_path / "split.json")
    monkeypatch.chdir(tmp_path)
    done = run("train", "default", "--data", tmp_path, "-o", tmp_path / "run", *words)
    assert done.code == 2 and "is trained on all training patients, as it ships" in done.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("words", [(), ("--everybody",), ("--epochs", "1")])
def test_what_the_default_is_trained_with_is_passed_on(run: Run, words: tuple[str, ...], tmp_path: Path) -> None:
    done = run("train", "default", "--data", tmp_path, "-o", tmp_path / "run", *words)
    assert done.code == 2 and "lidc_nodule_stacks.npz is not there" in done.err


def test_judging_the_default_says_what_it_needs(run: Run, tmp_path: Path) -> None:
    done = run("evaluate", "default", "--data", tmp_path)
    assert done.code == 2 and done.out == ""
    assert str(tmp_path / "ct") in done.err and all(patient in done.err for patient in EVALUATION_PATIENTS)
    done = run("evaluate", "default", "--data", tmp_path, "--split", tmp_path / "split.json")
    assert done.code == 2 and "leave out --split" in done.err


def test_nobody_left_out_is_nobody_to_judge_on(data: Path, with_scan: Path, tmp_path: Path) -> None:
    run = trained("conv3-classifier", data, tmp_path / "run", fold=None)
    taught = json.loads((run / "classifier.json").read_text())["trained_on"]["patients"]
    assert {fold_of(p) for p in taught} == set(range(5))
    with pytest.raises(BadOption, match="there are no test patients"):
        evaluate(str(run), data, None)
    found = evaluate(str(run), with_scan, None, output=tmp_path / "page")
    assert found["networks"] == {} and [s["name"] for s in found["scans"]] == [min(EVALUATION_PATIENTS)]
    [note] = found["notes"]
    assert "on whole scans alone" in note and "there are no test patients" in note
    page = from_json((tmp_path / "page" / "evaluation.json").read_text())
    assert page.summary[0].startswith("Evaluated on whole scans")
    assert page.warnings == (note,) and [t.title for t in page.tables] == ["Whole scans", "Nodules of whole scans"]


def test_a_file_where_the_page_goes_is_refused_before_anything_is_judged(data: Path, tmp_path: Path) -> None:
    file = tmp_path / "page"
    file.write_text("kept")
    with pytest.raises(BadOption, match="is a file"):
        evaluate("conv3-classifier", data, None, output=file)
    with pytest.raises(BadOption, match="not a run"):
        evaluate("default", data, None, output=tmp_path / "other")
    assert file.read_text() == "kept"


def test_without_torch_the_line_to_type(
    run: Run, data: Path, outliners: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "nodulens.train.run")
    monkeypatch.setitem(sys.modules, "torch", None)
    for words in (("evaluate", outliners), ("train", "conv3-classifier", "-o", tmp_path / "new")):
        done = run(*words, "--data", data)
        assert (done.code, done.out) == (1, "")
        assert done.err == "nodulens: torch is not installed: pip install 'nodulens[train]'\n"


def test_who_taught_may_not_judge(data: Path, tmp_path: Path) -> None:
    run = trained("conv3-classifier", data, tmp_path / "run")
    other = read_split(run / "split.json")
    moved = {p: str((int(g) + 1) % 5) if g.isdigit() else g for p, g in other.groups.items()}
    write_split(replace(other, groups=moved), tmp_path / "moved.json")
    with pytest.raises(PatientOverlap):
        evaluate(str(run), data, tmp_path / "moved.json")


@pytest.mark.parametrize(
    ("how", "fold", "judges"),
    [
        (("--shares", "60,20,20"), (), "test"),
        (("--shares", "75,25"), (), "test"),
        (("--method", "stratified", "--folds", "3", "--seed", "1"), ("--fold", "2"), "2"),
        (("--method", "stratified", "--folds", "3", "--seed", "1"), (), "1"),
    ],
)
def test_a_split_file_says_who_judges(
    data: Path, tmp_path: Path, run: Run, how: tuple[str, ...], fold: tuple[str, ...], judges: str
) -> None:
    """From the file to the judged rows by the command line; evaluate needs no second word of who judges."""
    file, folder = tmp_path / "split.json", tmp_path / "run"
    short = ("--set", "classifier.size=44", "--epochs", "1", "--threads", "1")
    assert run("data", "split", "--crops", data, *how, "-o", file).code == 0
    done = run("train", "conv3-classifier", "--data", data, "-o", folder, "--split", file, *fold, *short)
    assert done.code == 0, done.err
    split = read_split(file)
    assert read_split(folder / "split.json") == split
    known = set(load(data, CONV3_CLASSIFIER).patients)
    taught = json.loads((folder / "classifier.json").read_text())["trained_on"]
    judged = split.patients(judges) & known
    assert judged and not judged & {*taught["patients"], *taught["watched"]}
    if validation := split.patients("validation") & known:
        assert set(taught["watched"]) == validation
    done = run("evaluate", folder, "--data", data, "--json")
    assert done.code == 0, done.err
    assert set(json.loads(done.out)["networks"]["classifier"]["rows"]["patient"]) == judged


def test_words_that_contradict_a_split_are_refused(data: Path, tmp_path: Path, run: Run) -> None:
    shares, folds = tmp_path / "shares.json", tmp_path / "folds.json"
    write_split(in_shares(Stacks(data).items(), (3, 1)), shares)
    write_split(stratified(Stacks(data).items(), 3), folds)
    for recipe, words, told in (
        ("conv3-classifier", ("--split", shares, "--fold", "1"), "which names its own test patients"),
        ("conv3-classifier", ("--split", shares, "--everybody"), "--everybody leaves nobody out"),
        ("conv3-classifier", ("--everybody", "--fold", "1"), "--everybody leaves nobody out"),
        ("conv3-classifier", ("--split", folds, "--fold", "3"), "The split has 3 folds"),
        ("conv3-classifier", ("--fold", "5"), "There are 5 folds"),
        ("default", ("--split", folds), "is trained on all training patients"),
    ):
        done = run("train", recipe, "--data", data, "-o", tmp_path / "run", *words)
        assert done.code == 2 and told in done.err
    assert not (tmp_path / "run" / "run.json").exists(), "what is refused leaves nothing"
    stopped(data, tmp_path / "run", fold=FOLD)
    assert read_run(tmp_path / "run").fold == FOLD, "where nothing was taught, a mistake can be typed again"


def test_who_says_when_to_stop_may_not_judge(data: Path, tmp_path: Path) -> None:
    """A patient that was watched chose the weights that are kept."""
    run = trained("conv3-classifier", data, tmp_path / "run")
    taught = json.loads((run / "classifier.json").read_text())["trained_on"]
    alone = sorted(set(taught["watched"]) - set(taught["patients"]))
    write_split(Split(dict.fromkeys(alone, "test"), 0, "mine"), tmp_path / "watched.json")
    with pytest.raises(PatientOverlap, match=f"both validation and test: {alone[0]}"):
        evaluate(str(run), data, tmp_path / "watched.json")


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
    sides = [{patients[r] for r in part} for part in (rows.train, rows.validation, rows.test)]
    assert all(sides) and not (sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2])
    assert sum(map(len, (rows.train, rows.validation, rows.test))) == len(patients)
    few = division(Owners(["A"] * 30 + ["B"] * 30), Parts(frozenset("A"), frozenset("B")))
    assert (len(few.train), len(few.validation), len(few.test)) == (27, 3, 30)
    validation = frozenset(patients[100:300])
    given = division(Owners(patients), Parts(frozenset(patients[:100]), frozenset(patients[300:]), validation))
    assert {patients[r] for r in given.validation} == validation


def test_a_sixth_method_is_a_record_and_a_function(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wide(config):  # type: ignore[no-untyped-def]
        layers = (torch.nn.Conv2d(1, 8, 3, 2), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
        return torch.nn.Sequential(*layers, torch.nn.Linear(8, len(config.classes)))

    assert CONV3_CLASSIFIER.classifier is not None
    classifier = replace(CONV3_CLASSIFIER.classifier, network="wide")
    monkeypatch.setitem(NETWORKS, "wide", wide)
    monkeypatch.setitem(RECIPES, "wide", replace(CONV3_CLASSIFIER, name="wide", classifier=classifier))
    run = trained("wide", data, tmp_path / "run")
    assert np.isfinite(evaluate(str(run), data, None)["networks"]["classifier"]["rows"]["score"]).all()
    assert analysed(run).recipe == "wide"
