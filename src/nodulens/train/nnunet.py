"""Real nnU-Net v2 as the first stage of a recipe, in an environment of its own.

Our slices go out as one of its 2-D data sets; its fingerprint, plan, preprocessing and trainer are used as they are;
what it has trained comes back as an ONNX file and card that our runtime knows, its normalisation the first layer. Only
files pass between the two environments; what runs in the other is :mod:`nodulens.train.nnunet_inside`.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from nodulens.data.folds import EVALUATION_PATIENTS
from nodulens.data.splits import Split
from nodulens.errors import BadOption, NodulensError, NotFound
from nodulens.io.atomic import whole_file
from nodulens.ops.intensity import NETWORK_WINDOW, to_unit
from nodulens.recipe import Learner, Recipe
from nodulens.runs import Run, write_run
from nodulens.stages.slices import WHOLE_PX, Field
from nodulens.train import nnunet_inside, outlining
from nodulens.train.export import export
from nodulens.train.outlining import Material
from nodulens.train.run import Division, division, parts_of, train_recipe
from nodulens.train.unets import steady_norm

REQUIREMENT = "nnunetv2==2.8.1"
NAME = "nnunet"
"""Of the network, in a recipe."""
NUMBER, DATASET = "1", "Dataset001_Slices"
PLAN = "nnUNetPlans"
FREE = ("network", "classes", "epochs", "learning_rate", "weight_decay")
"""What a learner may ask of nnU-Net; all else it decides for itself."""
ITERATIONS = 250
"""An epoch of nnU-Net."""
TOLERANCE = 5e-3
"""Probability by which our network may differ from nnU-Net's predictor, which adds up logits in half precision: of
one between 16 and 32 it rounds 0.008 away, of a pair of them that is 0.004 of a probability."""
CHUNK = 64
WORDS = 1500
"""Characters of a failed program's last words in the error."""


# ---------------------------------------------------------------- its environment


@dataclass(frozen=True)
class Environment:
    """A virtual environment with nnU-Net.

    Attributes:
        folder: of the environment.
        threads: CPU threads and processes that it may use.
    """

    folder: Path
    threads: int = 1

    def program(self, name: str) -> Path:
        """One of its programs."""
        return self.folder / ("Scripts" if os.name == "nt" else "bin") / name

    def set_up(self) -> None:
        """Make it: torch as it is here, nnU-Net, and no torchvision (timm brings one that torch for CPUs cannot load).

        Raises:
            NodulensError: something could not be installed.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        log = self.folder / "setup.log"
        pip = [self.program("python"), "-m", "pip"]
        self.call([sys.executable, "-m", "venv", self.folder], log)
        self.call([*pip, "install", f"torch=={version('torch')}", REQUIREMENT], log)
        self.call([*pip, "uninstall", "--yes", "torchvision"], log)

    def check(self) -> None:
        """See that it is there.

        Raises:
            NotFound: the message says how to make it.
        """
        if not self.program("nnUNetv2_plan_and_preprocess").exists():
            raise NotFound(f"{self.folder} holds no nnU-Net. Make it: nodulens nnunet setup --env {self.folder}")

    def plan(self, work: Path, memory_gb: float | None) -> None:
        """Fingerprint, plan and preprocessing of the data set."""
        command = [self.program("nnUNetv2_plan_and_preprocess"), "-d", NUMBER, "-c", "2d", "--verify_dataset_integrity"]
        command += ["-np", str(self.threads), "-npfp", str(self.threads), "--no_pbar"]
        memory = [] if memory_gb is None else ["-gpu_memory_target", str(memory_gb)]
        # the planner takes no 0 here, which means to train without workers
        own = {**_folders(work), "nnUNet_n_proc_DA": str(self.threads)}
        self.call([*command, *memory], work / "log.txt", own)

    def step(self, work: Path, name: str, *arguments: object) -> None:
        """A step of :mod:`nodulens.train.nnunet_inside`."""
        # -P: the folder of the script is ours, and its modules must hide none of theirs
        command = [self.program("python"), "-P", Path(nnunet_inside.__file__), name, *arguments]
        self.call(command, work / "log.txt", _folders(work))

    def call(self, command: Sequence[object], log: Path, more: Mapping[str, str] | None = None) -> None:
        """Run a program to its end, what it says added to a log.

        Raises:
            NodulensError: it failed; with its last words.
        """
        words = [str(part) for part in command]
        own = {"OMP_NUM_THREADS": str(self.threads), "nnUNet_n_proc_DA": str(self.threads - 1), **(more or {})}
        with log.open("a", encoding="utf-8") as file:
            done = subprocess.run(words, env={**os.environ, **own}, stdout=file, stderr=file, check=False)
        if done.returncode:
            last = log.read_text(encoding="utf-8", errors="replace")[-WORDS:]
            raise NodulensError(f"{' '.join(words[:4])} … failed ({done.returncode}); all it said is in {log}:\n{last}")


def _folders(work: Path) -> dict[str, str]:
    names = {"nnUNet_raw": "raw", "nnUNet_preprocessed": "preprocessed", "nnUNet_results": "results"}
    return {variable: str(work.resolve() / folder) for variable, folder in names.items()}


# ---------------------------------------------------------------- what goes out


def write_dataset(material: Material, classes: tuple[str, ...], division: Division, work: Path) -> None:
    """Slices as a 2-D data set of nnU-Net: HU as our networks see them, 512 × 512 pixels of their median width.

    That is the pixel nnU-Net would bring them to, so it leaves them as they are and learns from the very view that our
    runtime will show: had it resampled and padded them its own way, it would draw other things here. Only slices that
    teach or are watched are written, so that nothing, its fingerprint included, knows who judges. The description is
    written last: where it is there already, so is the rest.

    Args:
        classes: exclusive ones, the background first.
        work: the data set goes into ``raw/`` of it.

    Raises:
        BadOption: classes that may overlap, or another data set lies there.
    """
    field, rows = Field(WHOLE_PX, classes), np.concatenate([division.train, division.watched])
    if not field.exclusive:
        raise BadOption(f"Here nnU-Net learns classes that exclude one another, background first; got {classes}.")
    pixel = float(np.median(material.pixels_mm(field, rows)))
    field = replace(field, pixel_mm=pixel)
    folder = work / "raw" / DATASET
    description = {
        "channel_names": {"0": "CT"},
        "labels": {name: number for number, name in enumerate(classes)},
        "numTraining": len(rows),
        "file_ending": ".nii.gz",
        "overwrite_image_reader_writer": "SimpleITKIO",
        "pixel_mm": pixel,
        "train": [case(material, row) for row in division.train],
        "watched": [case(material, row) for row in division.watched],
    }
    known = folder / "dataset.json"
    if known.exists():
        if json.loads(known.read_text(encoding="utf-8")) != description:
            raise BadOption(f"{work} holds other slices or classes than are asked for; name another folder.")
        return
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for first in range(0, len(rows), CHUNK):
        some = rows[first : first + CHUNK]
        images, truth = material.seen(field, some)
        labels = (truth * np.arange(1, 1 + truth.shape[1], dtype=np.uint8)[:, None, None]).sum(1, dtype=np.uint8)
        for row, image, label in zip(some, images, labels, strict=True):
            name = case(material, row)
            write_slice(hounsfield(image), pixel, folder / "imagesTr" / f"{name}_0000.nii.gz")
            write_slice(label, pixel, folder / "labelsTr" / f"{name}.nii.gz")
    with whole_file(known) as part_file:
        part_file.write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")


def write_split(material: Material, division: Division, work: Path) -> None:
    """Our division as nnU-Net's only fold."""
    fold = {"train": division.train, "val": division.watched}
    path = work / "preprocessed" / DATASET / "splits_final.json"
    with whole_file(path) as part:
        split = [{name: [case(material, row) for row in rows] for name, rows in fold.items()}]
        part.write_text(json.dumps(split, indent=1) + "\n", encoding="utf-8")


def case(material: Material, row: int) -> str:
    """The name of a slice: patient and row."""
    return f"{material.patients[row]}_{row:06d}"


def hounsfield(unit: NDArray[np.float32]) -> NDArray[np.int16]:
    """What a network sees, 0…1, in HU again: the inverse of :func:`nodulens.ops.intensity.to_unit`."""
    low, high = NETWORK_WINDOW
    return np.rint(unit * (high - low) + low).astype(np.int16)


def write_slice(pixels: NDArray[Any], pixel_mm: float, path: Path) -> None:
    """A 2-D NIfTI file of (y, x)."""
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(pixels)
    image.SetSpacing((pixel_mm, pixel_mm))
    sitk.WriteImage(image, str(path), useCompression=True, compressionLevel=1)


# ---------------------------------------------------------------- what comes back


@dataclass(frozen=True)
class Planned:
    """What our runtime has to know of nnU-Net's 2d plan.

    Attributes:
        pixel_mm: of the slices.
        side: of the smallest square that holds a whole slice and halves as often as the network does. A patch is as
            large, unless nnU-Net had less memory to plan for.
        batch: slices a step.
        low, high: HU at which values are clipped: percentiles 0.5 and 99.5 of the foreground.
        mean, std: HU, of the foreground.
    """

    pixel_mm: float
    side: int
    batch: int
    low: float
    high: float
    mean: float
    std: float


def read_plans(path: Path) -> Planned:
    """Read ``nnUNetPlans.json``.

    Raises:
        BadOption: it does not normalise as for CT, or takes more channels than one.
    """
    plans = json.loads(path.read_text(encoding="utf-8"))
    flat = plans["configurations"]["2d"]
    if flat["normalization_schemes"] != ["CTNormalization"]:
        raise BadOption(f"{path} normalises by {flat['normalization_schemes']}; ours is one channel of CT.")
    strides = np.prod(flat["architecture"]["arch_kwargs"]["strides"], axis=0)
    step = math.lcm(*(int(s) for s in np.atleast_1d(strides)))
    values = plans["foreground_intensity_properties_per_channel"]["0"]
    return Planned(
        pixel_mm=float(flat["spacing"][0]),
        side=-(-math.ceil(max(*flat["patch_size"], *flat["median_image_size_in_voxels"])) // step) * step,
        batch=flat["batch_size"],
        low=values["percentile_00_5"],
        high=values["percentile_99_5"],
        mean=values["mean"],
        std=values["std"],
    )


class Normalised(nn.Module):
    """An exported network behind nnU-Net's normalisation of CT: clipped, then less the mean, by the deviation.

    Args:
        net: (N, 1, side, side) normalised → (N, classes, side, side) logits, an exported program.

    Shape:
        input (N, 1, side, side) 0…1 over our window, output as of ``net``.
    """

    def __init__(self, net: nn.Module, planned: Planned) -> None:
        super().__init__()
        self.net = net
        self.planned = planned

    def train(self, mode: bool = True) -> Normalised:
        """An exported program has no modes, and says so by an error."""
        self.training = mode
        return self

    def forward(self, x: Tensor) -> Tensor:
        low, high = NETWORK_WINDOW
        known = self.planned
        hu = (x * (high - low) + low).clamp(known.low, known.high)
        logits: Tensor = self.net((hu - known.mean) / max(known.std, 1e-8))
        return logits


def steadied(program: fx.GraphModule) -> fx.GraphModule:
    """An exported program whose instance norms are :func:`nodulens.train.unets.steady_norm`; changed in place."""
    for node in program.graph.nodes:
        if node.target == torch.ops.aten.instance_norm.default:
            node.target = _instance_norm
    program.recompile()
    return program


def _instance_norm(x: Tensor, weight: Tensor, bias: Tensor, *others: Any) -> Tensor:
    """By the parameters of torch's operator: others are the running mean and variance, …, ε, …"""
    return steady_norm(x, weight, bias, others[-2])


@torch.inference_mode()
def difference(net: nn.Module, unit: NDArray[np.float32], theirs: NDArray[np.float32]) -> float:
    """By how much the class probabilities of a slice differ at most.

    Args:
        net: ours.
        unit: (side, side).
        theirs: (classes, side, side), of nnU-Net's predictor.

    Raises:
        NodulensError: by more than :data:`TOLERANCE`.
    """
    ours = net(torch.from_numpy(unit)[None, None]).softmax(1)[0].numpy()
    off = float(np.abs(ours - theirs).max())
    if off > TOLERANCE:
        raise NodulensError(f"The network exported from nnU-Net differs from its own predictor by {off:.2g}.")
    return off


# ---------------------------------------------------------------- a run


def settled(learner: Learner, standard: Learner) -> Learner:
    """The learner as nnU-Net can be told of it.

    Args:
        standard: the recipe's own.

    Raises:
        BadOption: a value is changed that nnU-Net decides by itself.
    """
    asked = replace(standard, **{name: getattr(learner, name) for name in FREE})
    own = [name for name, value in asdict(learner).items() if value != getattr(asked, name)]
    if own:
        raise BadOption(
            f"nnU-Net decides {', '.join(f'segmenter.{n}' for n in own)} by itself; what can be set is "
            f"{', '.join(f'segmenter.{n}' for n in FREE[1:])}."
        )
    return replace(asked, network=NAME)


@dataclass(frozen=True)
class Amount:
    """How much nnU-Net works; its defaults but for a trial.

    Attributes:
        iterations: steps an epoch.
        memory_gb: of the GPU that it plans for; None: its own target.
        slices: at most, evenly taken; None: all.
    """

    iterations: int = ITERATIONS
    memory_gb: float | None = None
    slices: int | None = None


def train_nnunet(
    recipe: Recipe,
    data: Path,
    folder: Path,
    environment: Environment,
    amount: Amount = Amount(),
    *,
    command: str,
    split: Split | None = None,
    fold: int | None = None,
) -> Run:
    """Train a recipe whose segmenter is nnU-Net, and its other networks as always, into a run folder.

    What is there already is kept; what was stopped goes on. nnU-Net's own folders and log lie in ``nnunet/``.

    Args:
        recipe: its segmenter :func:`settled`.
        data, folder, command, split, fold: see :func:`nodulens.train.run.train_recipe`.

    Raises:
        NotFound: no environment or no material.
        BadOption: there is no such fold, the folder holds another run, or nobody is left to train on.
        NodulensError: nnU-Net failed, or what was exported does not do what it does.
    """
    environment.check()
    start = time.monotonic()
    learner = recipe.segmenter
    assert learner is not None
    work = folder / NAME
    material = outlining.load(data, recipe)
    chosen = thinned(division(material, parts_of(material.patients, split, fold)), amount.slices)
    if not len(chosen.train) or not len(chosen.watched):
        raise BadOption("Too few slices are left to train on and to watch; leave out another fold, or fewer slices.")
    work.mkdir(parents=True, exist_ok=True)
    write_dataset(material, learner.classes, chosen, work)
    if not (work / "preprocessed" / DATASET / "splits_final.json").exists():
        environment.plan(work, amount.memory_gb)
        write_split(material, chosen, work)
    wishes = {"epochs": learner.epochs, "learning-rate": learner.learning_rate, "weight-decay": learner.weight_decay}
    wishes["iterations"] = amount.iterations
    environment.step(work, "train", NUMBER, *(f"--{name}={value}" for name, value in wishes.items()))
    learner = _bring_back(recipe, material, chosen, folder, environment, command)
    seconds = round(time.monotonic() - start, 1)
    # it finds the segmenter done, and trains the others
    run = train_recipe(replace(recipe, segmenter=learner), data, folder, command=command, split=split, fold=fold)
    run = replace(run, seconds={**run.seconds, "segmenter": seconds}, software={**run.software, NAME: REQUIREMENT})
    write_run(run, folder)
    return run


def thinned(division: Division, slices: int | None) -> Division:
    """At most so many rows that teach or are watched, in the shares they have."""
    total = len(division.train) + len(division.watched)
    step = 1 if slices is None else max(1, -(-total // slices))
    return replace(division, train=division.train[::step], watched=division.watched[::step])


def _bring_back(
    recipe: Recipe, material: Material, chosen: Division, folder: Path, environment: Environment, command: str
) -> Learner:
    """Export what nnU-Net trained, held against its own predictor on a slice; checkpoint and curves go along."""
    assert recipe.segmenter is not None
    work = folder / NAME
    trained = work / "results" / DATASET / f"nnUNetTrainer__{PLAN}__2d"
    planned = read_plans(trained / "plans.json")
    learner = replace(recipe.segmenter, size=planned.side, pixel_mm=planned.pixel_mm, batch=planned.batch)
    side = f"--side={planned.side}"
    environment.step(work, "export", trained, work / "network.pt2", side)
    net = Normalised(steadied(torch.export.load(work / "network.pt2").module()), planned)

    shown = chosen.train[np.argsort(~material.shows[chosen.train], kind="stable")][:2]
    hu = hounsfield(material.seen(outlining.field_of(learner), shown)[0])
    write_slice(hu[0], planned.pixel_mm, work / "parity.nii.gz")
    environment.step(work, "predict", trained, work / "parity.nii.gz", work / "parity.npy", side)
    unit = to_unit(hu)
    off = difference(net, unit[0], np.load(work / "parity.npy"))
    parity = {"largest": off, "tolerance": TOLERANCE, "slice": case(material, shown[0])}
    card = {
        "name": "segmenter",
        "command": command,
        "trained_on": {
            "material": recipe.title,
            "never": sorted(EVALUATION_PATIENTS),
            "patients": sorted({material.patients[row] for row in (*chosen.train, *chosen.watched)}),
        },
        "input": {"shape": f"(N, 1, {planned.side}, {planned.side}) float32, 0…1"},
        "settings": {**asdict(learner), "masked": recipe.masked, "plan": asdict(planned)},
        "figures": {"off_nnunets_predictor": parity},
    }
    export(net, torch.from_numpy(np.resize(unit, (2, *unit.shape[1:])))[:, None], folder, card)
    for theirs, ours in (("checkpoint_final.pth", "pth"), ("curves.csv", "csv"), ("progress.png", "png")):
        shutil.copyfile(trained / "fold_0" / theirs, folder / f"segmenter.{ours}")
    return learner
