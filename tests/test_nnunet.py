"""nnU-Net from outside: what goes to it, how it is called, and what is made of what it leaves.

nnU-Net is not needed here: a pretender leaves files in its format, with a small random network. The whole path with
the real one is ``nodulens nnunet setup`` and ``nodulens nnunet train``, which compares itself with nnU-Net's predictor.
"""

from __future__ import annotations

import ast
import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from numpy.typing import NDArray
from torch import nn
from typer.testing import CliRunner

import made_environments
import small_scans
from made_material import slab
from nodulens.apps.cli import app
from nodulens.data.folds import EVALUATION_PATIENTS, fold_of
from nodulens.errors import BadOption, NodulensError, NotFound
from nodulens.evaluate.options import EvaluateOptions
from nodulens.evaluate.runs import evaluate_method
from nodulens.methods.catalogue import NNUNET_SAM
from nodulens.methods.load import load_method
from nodulens.methods.recipe import NetworkConfig, Recipe, changed
from nodulens.methods.run_record import read_run
from nodulens.ops.intensity import to_unit
from nodulens.pipeline import analyze
from nodulens.runtime.engine import compile_model
from nodulens.train.external import nnunet_inside
from nodulens.train.external.nnunet import (
    DATASET,
    NUMBER,
    Amount,
    Environment,
    Normalised,
    hounsfield,
    read_plans,
    settled,
    steadied,
    train_nnunet,
    write_dataset,
    write_split,
)
from nodulens.train.external.training import thinned
from nodulens.train.networks.registry import build
from nodulens.train.run import Division, RunSpec
from nodulens.train.tasks.segmentation import Slices

pytestmark = pytest.mark.training

FOLD = 2
CLASSES = ("background", "nodule")
VALUES = {"mean": -310.5, "std": 290.25, "percentile_00_5": -880.0, "percentile_99_5": 210.0, "median": -250.0}


def plans(
    patch: tuple[int, int] = (64, 64), whole: tuple[int, int] = (64, 64), scheme: str = "CTNormalization"
) -> dict[str, Any]:
    """What of ``nnUNetPlans.json`` counts here, as nnU-Net 2.8 writes it."""
    flat = {
        "spacing": [6.0, 6.0],
        "patch_size": list(patch),
        "median_image_size_in_voxels": list(map(float, whole)),
        "batch_size": 4,
        "normalization_schemes": [scheme],
        "architecture": {"arch_kwargs": {"n_stages": 3, "strides": [[1, 1], [2, 2], [2, 2]]}},
    }
    return {"configurations": {"2d": flat}, "foreground_intensity_properties_per_channel": {"0": VALUES}}


def written(folder: Path, **changes: Any) -> Path:
    path = folder / "plans.json"
    path.write_text(json.dumps(plans(**changes)))
    return path


def by_nnunet(hu: NDArray[Any]) -> NDArray[np.float32]:
    """CTNormalization of nnunetv2, in its own order."""
    image = hu.astype(np.float32)
    np.clip(image, VALUES["percentile_00_5"], VALUES["percentile_99_5"], out=image)
    image -= VALUES["mean"]
    image /= max(VALUES["std"], 1e-8)
    return image


CURVES = "epoch,loss,seconds\n1,0.5,1800.25\n2,0.25,3600.5\n"


def small_net() -> nn.Module:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    layers = (nn.Conv2d(1, 4, 3, 2, 1), nn.InstanceNorm2d(4, affine=True), nn.LeakyReLU(inplace=True))
    return nn.Sequential(*layers, nn.ConvTranspose2d(4, 2, 2, 2)).eval()


@dataclass(frozen=True)
class Pretender(made_environments.Pretender, Environment):
    """Leaves what nnU-Net does."""

    def plan(self, work: Path, memory_gb: float | None) -> None:
        self.done.append("plan")
        (work / "preprocessed" / DATASET).mkdir(parents=True)

    def _train(self, work: Path, *arguments: object) -> None:
        trained = work / "results" / DATASET / "nnUNetTrainer__nnUNetPlans__2d"
        (trained / "fold_0").mkdir(parents=True, exist_ok=True)
        written(trained)
        for name in ("checkpoint_final.pth", "progress.png"):
            (trained / "fold_0" / name).write_bytes(b"")
        (trained / "fold_0" / "curves.csv").write_text(CURVES)

    def _export(self, work: Path, trained: Path, target: Path, side: str) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(nnunet_inside, "_predictor", lambda trained, side: SimpleNamespace(network=small_net()))
            nnunet_inside.export(trained, target, int(side.partition("=")[2]))

    def _predict(self, work: Path, trained: Path, image: Path, target: Path, side: str) -> None:
        hu = sitk.GetArrayFromImage(sitk.ReadImage(str(image)))
        assert hu.shape == (64, 64)
        with torch.inference_mode():
            seen = small_net()(torch.from_numpy(by_nnunet(hu))[None, None]).softmax(1)[0]
        np.save(target, seen.numpy() + self.off)


def recipe(*settings: str) -> Recipe:
    short = ("classifier.network=conv3", "classifier.size=44", "classifier.epochs=1", "prompted=none")
    asked = changed(NNUNET_SAM, (*short, "renderings=1", *settings))
    assert asked.segmenter is not None
    return replace(asked, segmenter=settled(asked.segmenter, standard()))


def standard() -> NetworkConfig:
    assert NNUNET_SAM.segmenter is not None
    return NNUNET_SAM.segmenter


# ---- The whole path


def test_a_run_with_nnunet_is_judged_and_analyses(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env, run = Pretender(tmp_path, stopped=["train"]), tmp_path / "run"
    spec = RunSpec(data, run, "as typed", fold=FOLD)
    with pytest.raises(NodulensError, match="stopped"):
        train_nnunet(recipe(), spec, env, Amount(slices=60))
    other = recipe("segmenter.epochs=3")
    with pytest.raises(BadOption, match=r"holds a run with segmenter\.epochs=200; name another folder for .*=3"):
        train_nnunet(other, spec, env, Amount(slices=60))
    made = train_nnunet(recipe(), spec, env, Amount(slices=60))
    assert env.done == ["plan", "train", "train", "export", "predict"], "it goes on where nnU-Net stands"
    assert made == read_run(run) and made.seconds.keys() == {"segmenter", "classifier"}
    assert made.seconds["segmenter"] == 3600.5, "as its curves say, over all its runs"
    segmenter = made.recipe.segmenter
    assert segmenter is not None
    assert (segmenter.network, segmenter.size, segmenter.pixel_mm, segmenter.batch) == ("nnunet", 64, 6.0, 4)
    card = json.loads((run / "segmenter.json").read_text())
    taught = set(card["trained_on"]["patients"])
    assert taught and all(fold_of(p) != FOLD for p in taught) and not taught & EVALUATION_PATIENTS
    assert 0 <= card["figures"]["off_nnunets_predictor"]["largest"] < 1e-4
    assert {p.suffix for p in run.glob("segmenter.*")} == {".onnx", ".json", ".pth", ".csv", ".png"}

    found = evaluate_method(run, data, options=EvaluateOptions(threads=1)).to_json()
    assert {fold_of(p) for p in found["networks"]["segmenter"]["rows"]["patient"]} == {FOLD}
    method = load_method(run, threads=1, settings=["threshold=0"])
    report = analyze(small_scans.noisy(), method=method)
    assert report.recipe == "nnunet-sam" and "segmenter" in {w.name for w in report.weights}

    with pytest.raises(BadOption, match=r"holds a run with segmenter\.epochs=200"):
        train_nnunet(other, spec, env, Amount(slices=60))
    with pytest.raises(BadOption, match="fold 2; name another folder"):
        train_nnunet(recipe(), replace(spec, fold=3), env, Amount(slices=60))


def test_a_network_that_differs_from_nnunets_predictor_is_refused(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = Pretender(tmp_path, off=0.008)
    with pytest.raises(NodulensError, match=r"differs from its own predictor by 0\.008"):
        train_nnunet(recipe(), RunSpec(data, tmp_path / "run", "", fold=FOLD), env, Amount(slices=8))
    assert not (tmp_path / "run" / "segmenter.json").exists()


# ---- What goes out


def test_slices_become_a_data_set_of_nnunet(tmp_path: Path) -> None:
    material = Slices((slab("a"), slab("b", 0.7), slab("judge", 0.6)))
    division = Division(np.array([0, 1, 3]), np.array([4]), np.array([6, 7, 8]))
    write_dataset(material, CLASSES, division, tmp_path)
    folder = tmp_path / "raw" / DATASET
    told = json.loads((folder / "dataset.json").read_text())
    assert told["labels"] == {"background": 0, "nodule": 1} and told["numTraining"] == 4
    assert told["channel_names"] == {"0": "CT"} and told["file_ending"] == ".nii.gz"
    names = ["a_000000", "a_000001", "b_000003", "b_000004"]
    assert sorted(p.name for p in (folder / "imagesTr").iterdir()) == [f"{n}_0000.nii.gz" for n in names]
    assert sorted(p.name for p in (folder / "labelsTr").iterdir()) == [f"{n}.nii.gz" for n in names]
    image = sitk.ReadImage(str(folder / "imagesTr" / "a_000000_0000.nii.gz"))
    label = sitk.ReadImage(str(folder / "labelsTr" / "a_000000.nii.gz"))
    assert image.GetDimension() == 2 and image.GetSize() == label.GetSize() == (512, 512)
    assert image.GetSpacing() == label.GetSpacing() == pytest.approx((0.75, 0.75)), "the median of four"
    hu, drawn = sitk.GetArrayFromImage(image), sitk.GetArrayFromImage(label)
    assert hu.dtype == np.int16 and np.median(hu[drawn == 1]) == 250 and set(np.unique(drawn)) == {0, 1}
    assert (drawn == 1).sum() * 0.75**2 == pytest.approx(8 * 8 * 5.0**2, rel=0.04), "square millimetres stay"
    bright = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "imagesTr" / "a_000001_0000.nii.gz")))
    assert (bright.min(), bright.max()) == (-1000, 400)

    (tmp_path / "preprocessed" / DATASET).mkdir(parents=True)
    write_split(material, division, tmp_path)
    split = json.loads((tmp_path / "preprocessed" / DATASET / "splits_final.json").read_text())
    assert split == [{"train": names[:3], "val": names[3:]}]


def test_a_data_set_that_is_there_is_kept_and_another_refused(tmp_path: Path) -> None:
    material = Slices((slab("a"), slab("b")))
    division = Division(np.array([0]), np.array([1]), np.array([3]))
    write_dataset(material, CLASSES, division, tmp_path)
    image = tmp_path / "raw" / DATASET / "imagesTr" / "a_000000_0000.nii.gz"
    image.unlink()
    write_dataset(material, CLASSES, division, tmp_path)
    assert not image.exists()
    with pytest.raises(BadOption, match="name another folder"):
        write_dataset(material, CLASSES, replace(division, train=np.array([2])), tmp_path)
    with pytest.raises(BadOption, match="mutually exclusive"):
        write_dataset(material, ("lung", "nodule"), division, tmp_path / "other")


def test_hounsfield_units_come_back() -> None:
    hu = np.arange(-1000, 401, dtype=np.int16)
    assert np.array_equal(hounsfield(to_unit(hu)), hu)


def test_a_trial_takes_fewer_slices_in_the_same_shares() -> None:
    division = Division(np.arange(90), np.arange(90, 100), np.arange(100, 200))
    few = thinned(division, 20)
    assert (len(few.train), len(few.validation), len(few.test)) == (18, 2, 100)
    assert len(thinned(division, None).train) == 90


# ---- What comes back


def test_a_plan_is_read(tmp_path: Path) -> None:
    planned = read_plans(written(tmp_path))
    assert (planned.side, planned.pixel_mm, planned.batch) == (64, 6.0, 4)
    assert (planned.low, planned.high, planned.mean, planned.std) == (-880.0, 210.0, -310.5, 290.25)
    assert read_plans(written(tmp_path, patch=(52, 61), whole=(50, 60))).side == 64, "it is square, and halves twice"
    assert read_plans(written(tmp_path, patch=(32, 48))).side == 64, "a whole slice, though patches are smaller"
    with pytest.raises(BadOption, match="ZScoreNormalization"):
        read_plans(written(tmp_path, scheme="ZScoreNormalization"))


def test_normalisation_travels_with_the_network(tmp_path: Path) -> None:
    net = Normalised(nn.Identity(), read_plans(written(tmp_path)))
    hu = np.linspace(-1000, 400, 64, dtype=np.float32).reshape(1, 1, 8, 8)
    assert np.allclose(net(torch.from_numpy(to_unit(hu))).numpy(), by_nnunet(hu), atol=1e-5)


@pytest.mark.filterwarnings("ignore")  # of the exporter's own making
def test_slices_that_are_mostly_air_keep_their_precision(tmp_path: Path) -> None:
    """OpenVINO's own instance norm is 200 times as far off here."""
    free = ({0: torch.export.Dim("batch", min=1, max=4)},)
    x = torch.full((2, 1, 512, 512), -2.3)
    x[:, :, 200:260, 200:300] = torch.linspace(-2, 2, 6000).reshape(60, 100)
    net = nn.Sequential(small_net()[0], nn.InstanceNorm2d(4, affine=True)).eval()
    whole = steadied(torch.export.export(net, (x,), dynamic_shapes=free).module())
    path = tmp_path / "net.onnx"
    torch.onnx.export(whole, (x,), str(path), dynamo=True, external_data=False, verbose=False, dynamic_shapes=free)
    found = compile_model(path, threads=1)(x.numpy())[0]
    truth = net.double()(x.double()).detach().numpy()
    assert np.abs(found - truth).max() < 2e-5 * np.abs(truth).max()


def test_curves_are_a_table(tmp_path: Path) -> None:
    values = {
        "train_losses": [0.5, 0.1], "val_losses": [0.75, 0.25], "mean_fg_dice": [0.0, 0.3], "lrs": [0.01, 0.005],
        "epoch_start_timestamps": [100, 200], "epoch_end_timestamps": [110, 220],
    }  # fmt: skip
    nnunet_inside._write_curves(SimpleNamespace(get_value=lambda key, step: values[key]), tmp_path / "c.csv")
    assert (tmp_path / "c.csv").read_text().split() == [
        "epoch,loss,validation_loss,validation_dice,watched,learning_rate,seconds,kept",
        "1,0.5,0.75,0.0,0.0,0.01,10,0",
        "2,0.1,0.25,0.3,0.3,0.005,30,1",
    ]


# ---- How it is called


def test_one_command_makes_the_environment(tmp_path: Path, calls: list[Any]) -> None:
    answer = CliRunner().invoke(app, ["nnunet", "setup", "--env", str(tmp_path / "env")])
    assert answer.exit_code == 0
    python = str(Environment(tmp_path / "env").program("python"))
    assert [command[:3] for command, _ in calls] == [
        [sys.executable, "-m", "venv"],
        [python, "-m", "pip"],
        [python, "-m", "pip"],
    ]
    assert calls[1][0][3:] == ["install", f"torch=={torch.__version__}", "nnunetv2==2.8.1"]
    assert calls[2][0][3:] == ["uninstall", "--yes", "torchvision"]


def test_nnunet_finds_its_folders_and_none_of_our_modules(tmp_path: Path, calls: list[Any]) -> None:
    env = Environment(tmp_path / "env", threads=3)
    env.plan(tmp_path, 1.5)
    env.step(tmp_path, "train", NUMBER, "--epochs=2")
    (plan, folders), (step, same) = calls
    assert plan[1:5] == ["-d", "1", "-c", "2d"] and plan[-2:] == ["-gpu_memory_target", "1.5"]
    assert {Path(folders[f"nnUNet_{name}"]) for name in ("raw", "preprocessed", "results")} == {
        tmp_path.resolve() / name for name in ("raw", "preprocessed", "results")
    }
    assert same.items() <= folders.items()
    assert step == [str(env.program("python")), "-P", nnunet_inside.__file__, "train", "1", "--epochs=2"]
    imported = {
        name.name.split(".")[0] if isinstance(node, ast.Import) else (node.module or "").split(".")[0]
        for node in ast.walk(ast.parse(Path(nnunet_inside.__file__).read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in node.names
    }
    assert imported - set(sys.stdlib_module_names) == {"torch", "numpy", "nnunetv2"}


def test_its_steps_take_what_they_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told: dict[str, Any] = {}
    monkeypatch.setattr(nnunet_inside, "train", lambda **options: told.update(options))
    wishes = ["--epochs=2", "--iterations=8", "--learning-rate=0.01", "--weight-decay=3e-05"]
    monkeypatch.setattr(sys, "argv", ["inside", "train", "1", *wishes])
    nnunet_inside.main()
    assert told == {"dataset": "1", "epochs": 2, "iterations": 8, "learning_rate": 0.01, "weight_decay": 3e-5}


def test_a_program_that_fails_says_its_last_words(tmp_path: Path) -> None:
    env, log = Environment(tmp_path, threads=2), tmp_path / "log.txt"
    script = "import os; print(os.environ['OMP_NUM_THREADS'], os.environ['nnUNet_n_proc_DA'])"
    env.call([sys.executable, "-c", script], log)
    assert log.read_text().split() == ["2", "1"]
    with pytest.raises(NodulensError, match="out of memory") as caught:
        env.call([sys.executable, "-c", "raise SystemExit('out of memory')"], log)
    assert str(log) in str(caught.value)


def test_without_the_environment_the_message_makes_it(data: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="nodulens nnunet setup --env"):
        train_nnunet(recipe(), RunSpec(data, tmp_path / "run", ""), Environment(tmp_path / "none"))


# ---- What can be asked


def test_nnunet_decides_by_itself() -> None:
    assert settled(replace(standard(), epochs=3), standard()) == replace(standard(), epochs=3, network="nnunet")
    with pytest.raises(BadOption, match=r"chooses segmenter\.optimizer, segmenter\.size by itself"):
        settled(replace(standard(), size=64, optimizer="adam"), standard())


def test_our_trainer_sends_to_the_other_command() -> None:
    with pytest.raises(BadOption, match="nodulens nnunet train"):
        build(replace(standard(), network="nnunet"))
