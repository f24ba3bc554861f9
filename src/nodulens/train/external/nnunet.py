"""Real nnU-Net v2 as the first stage of a recipe, in an environment of its own.

Our slices are exported as one of its 2-D data sets; its fingerprint, plan, preprocessing and trainer are used
unchanged; the trained network is imported as an ONNX file with a card, its normalisation the first layer. The two
environments exchange only files; the script that runs in the other is :mod:`nodulens.train.external.nnunet_inside`.
"""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from nodulens.errors import BadOption
from nodulens.methods.recipe import NetworkConfig, Recipe
from nodulens.methods.run_record import Run
from nodulens.ops.intensity import NETWORK_WINDOW, to_unit
from nodulens.stages.slices import WHOLE_PX, Field
from nodulens.train.external import environment, nnunet_inside, training
from nodulens.train.external.dataset import case, cases, is_written, views, write_json
from nodulens.train.external.training import ExternalNetwork, Job, Trained, largest_difference, train_external
from nodulens.train.networks.unets import steady_norm
from nodulens.train.run import Division, RunSpec
from nodulens.train.tasks import segmentation
from nodulens.train.tasks.slice_material import Material

NAME = "nnunet"
"""The network's name in a recipe."""
NUMBER, DATASET = "1", "Dataset001_Slices"
PLAN = "nnUNetPlans"
FREE = ("network", "classes", "epochs", "learning_rate", "weight_decay")
"""The settings that nnU-Net takes; it chooses all others by itself."""
ITERATIONS = 250
"""Iterations of nnU-Net's epoch."""
TOLERANCE = 5e-3
"""Largest difference of a probability from that of nnU-Net's predictor, which sums logits in half precision: one
between 16 and 32 is rounded by 0.008, which for a pair of them is 0.004 of a probability."""


# ---------------------------------------------------------------- its environment


@dataclass(frozen=True)
class Environment(environment.Environment):
    """A virtual environment with nnU-Net."""

    TITLE = "nnU-Net"
    NAME = NAME
    REQUIREMENT = "nnunetv2==2.8.1"
    SIGN = "nnUNetv2_plan_and_preprocess"
    INSIDE = nnunet_inside.__file__

    @property
    def variables(self) -> dict[str, str]:
        """Threads of torch, and of nnU-Net's data loading."""
        return {**super().variables, "nnUNet_n_proc_DA": str(self.threads - 1)}

    def places(self, work: Path) -> dict[str, str]:
        """nnU-Net's three folders."""
        names = {"nnUNet_raw": "raw", "nnUNet_preprocessed": "preprocessed", "nnUNet_results": "results"}
        return {variable: str(work.resolve() / folder) for variable, folder in names.items()}

    def plan(self, work: Path, memory_gb: float | None) -> None:
        """Run fingerprint, plan and preprocessing of the data set."""
        command = [self.program(self.SIGN), "-d", NUMBER, "-c", "2d", "--verify_dataset_integrity"]
        command += ["-np", str(self.threads), "-npfp", str(self.threads), "--no_pbar"]
        memory = [] if memory_gb is None else ["-gpu_memory_target", str(memory_gb)]
        # 0, which means to train without workers, is an error for the planner
        own = {**self.places(work), "nnUNet_n_proc_DA": str(self.threads)}
        self.call([*command, *memory], work / "log.txt", own)


# ---------------------------------------------------------------- what goes out


def write_dataset(material: Material, classes: tuple[str, ...], division: Division, work: Path) -> None:
    """Write slices as a 2-D data set of nnU-Net: HU in our networks' window, 512 × 512 pixels of the median size.

    nnU-Net would resample to that pixel size, so it leaves them unchanged and is trained on exactly the input of our
    runtime. Only slices of the training and validation set are written, so that no test patient is in anything, its
    fingerprint included. The description is written last: if it exists, the data set is complete.

    Args:
        classes: exclusive ones, the background first.
        work: folder; the data set is written to ``raw/`` in it.

    Raises:
        BadOption: classes that may overlap, or the folder holds another data set.
    """
    field, rows = Field(WHOLE_PX, classes), np.concatenate([division.train, division.validation])
    if not field.exclusive:
        raise BadOption(f"nnU-Net needs mutually exclusive classes here, background first; got {classes}.")
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
        "train": cases(material, division.train),
        "watched": cases(material, division.validation),
    }
    if is_written(folder / "dataset.json", description):
        return
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for name, image, truth in views(material, field, rows):
        label = (truth * np.arange(1, 1 + len(truth), dtype=np.uint8)[:, None, None]).sum(0, dtype=np.uint8)
        write_slice(hounsfield(image), pixel, folder / "imagesTr" / f"{name}_0000.nii.gz")
        write_slice(label, pixel, folder / "labelsTr" / f"{name}.nii.gz")
    write_json(folder / "dataset.json", description)


def write_split(material: Material, division: Division, work: Path) -> None:
    """Write our training and validation set as nnU-Net's only fold."""
    fold = {"train": cases(material, division.train), "val": cases(material, division.validation)}
    write_json(work / "preprocessed" / DATASET / "splits_final.json", [fold])


def hounsfield(unit: NDArray[np.float32]) -> NDArray[np.int16]:
    """A network's input 0…1 in HU: the inverse of :func:`nodulens.ops.intensity.to_unit`."""
    low, high = NETWORK_WINDOW
    return np.rint(unit * (high - low) + low).astype(np.int16)


def write_slice(pixels: NDArray[Any], pixel_mm: float, path: Path) -> None:
    """Write pixels (y, x) as a 2-D NIfTI file."""
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(pixels)
    image.SetSpacing((pixel_mm, pixel_mm))
    sitk.WriteImage(image, str(path), useCompression=True, compressionLevel=1)


# ---------------------------------------------------------------- what comes back


@dataclass(frozen=True)
class Planned:
    """The part of nnU-Net's 2d plan that our runtime needs.

    Attributes:
        pixel_mm: of the slices.
        side: of the smallest square that holds a whole slice and can be halved as often as the network does. A patch is
            as large, unless nnU-Net planned for less memory.
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
        BadOption: its normalisation is not that of CT, or it has more than one channel.
    """
    plans = json.loads(path.read_text(encoding="utf-8"))  # nnU-Net's own format, so no record of ours
    flat = plans["configurations"]["2d"]
    if flat["normalization_schemes"] != ["CTNormalization"]:
        raise BadOption(f"{path} normalises by {flat['normalization_schemes']}; one channel of CT is needed.")
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


class Normalised(ExternalNetwork):
    """An exported network preceded by nnU-Net's normalisation of CT: clipping, then z-score.

    Args:
        net: (N, 1, side, side) normalised → (N, classes, side, side) logits, an exported program.

    Shape:
        input (N, 1, side, side) 0…1 over our window, output as of ``net``.
    """

    def __init__(self, net: nn.Module, planned: Planned) -> None:
        super().__init__(net)
        self.planned = planned

    def forward(self, x: Tensor) -> Tensor:
        low, high = NETWORK_WINDOW
        known = self.planned
        hu = (x * (high - low) + low).clamp(known.low, known.high)
        logits: Tensor = self.net((hu - known.mean) / max(known.std, 1e-8))
        return logits


def steadied(program: fx.GraphModule) -> fx.GraphModule:
    """Replace an exported program's instance norms by :class:`nodulens.train.networks.unets.SteadyNorm`, in place."""
    for node in program.graph.nodes:
        if node.target == torch.ops.aten.instance_norm.default:
            node.target = _instance_norm
    program.recompile()
    return program


def _instance_norm(x: Tensor, weight: Tensor, bias: Tensor, *others: Any) -> Tensor:
    """Steady norm with the parameters of torch's operator: others are the running mean and variance, …, ε, …"""
    return steady_norm(x, weight, bias, others[-2])


# ---------------------------------------------------------------- a run


def settled(config: NetworkConfig, standard: NetworkConfig) -> NetworkConfig:
    """The config for nnU-Net; see :func:`nodulens.train.external.training.settled`."""
    return replace(training.settled(config, standard, FREE, Environment.TITLE), network=NAME)


@dataclass(frozen=True)
class Amount:
    """The amount of nnU-Net's training; its own defaults unless for a trial.

    Attributes:
        iterations: steps an epoch.
        memory_gb: of the GPU that it plans for; None: its default.
        slices: largest number, evenly spaced; None: all.
    """

    iterations: int = ITERATIONS
    memory_gb: float | None = None
    slices: int | None = None


WHOLE = Amount()


def train_nnunet(recipe: Recipe, spec: RunSpec, environment: Environment, amount: Amount = WHOLE) -> Run:
    """Train a recipe whose segmenter is nnU-Net, and its other networks by our loop, into a run folder.

    Finished steps are kept, interrupted ones resumed. nnU-Net's own folders and log are in ``nnunet/``.

    Args:
        recipe: its segmenter :func:`settled`.
        spec: see :func:`nodulens.train.run.train_recipe`.

    Raises:
        NotFound, BadOption, NodulensError: see :func:`nodulens.train.external.training.train_external`.
    """

    def make(job: Job) -> NetworkConfig:
        _train(job, environment, amount)
        return _bring_back(job, environment)

    return train_external(recipe, spec, environment, make, FREE, amount.slices)


def _train(job: Job, environment: Environment, amount: Amount) -> None:
    config, work = job.config, job.work
    write_dataset(job.material, config.classes, job.division, work)
    if not (work / "preprocessed" / DATASET / "splits_final.json").exists():
        environment.plan(work, amount.memory_gb)
        write_split(job.material, job.division, work)
    wishes = {"epochs": config.epochs, "learning-rate": config.learning_rate, "weight-decay": config.weight_decay}
    wishes["iterations"] = amount.iterations
    environment.step(work, "train", NUMBER, *(f"--{name}={value}" for name, value in wishes.items()))


def _bring_back(job: Job, environment: Environment) -> NetworkConfig:
    """Export nnU-Net's network, checked against its own predictor on a slice; copy checkpoint and curves."""
    work, material = job.work, job.material
    trained = work / "results" / DATASET / f"nnUNetTrainer__{PLAN}__2d"
    planned = read_plans(trained / "plans.json")
    config = replace(job.config, size=planned.side, pixel_mm=planned.pixel_mm, batch=planned.batch)
    side = f"--side={planned.side}"
    environment.step(work, "export", trained, work / "network.pt2", side)
    net = Normalised(steadied(torch.export.load(work / "network.pt2").module()), planned)

    rows = job.examples()
    hu = hounsfield(material.examples(segmentation.field_of(config), rows)[0])
    write_slice(hu[0], planned.pixel_mm, work / "parity.nii.gz")
    environment.step(work, "predict", trained, work / "parity.nii.gz", work / "parity.npy", side)
    unit = to_unit(hu)
    with torch.inference_mode():
        ours = net(torch.from_numpy(unit[:1])[:, None]).softmax(1)[0].numpy()
    largest = largest_difference(ours, np.load(work / "parity.npy"), TOLERANCE, environment.TITLE)
    parity = {"largest": largest, "tolerance": TOLERANCE, "slice": case(material, rows[0])}
    figures, settings = {"off_nnunets_predictor": parity}, {"plan": asdict(planned)}
    job.bring_back(Trained(net, config, unit, figures, settings))
    for name, suffix in (("checkpoint_final.pth", "pth"), ("curves.csv", "csv"), ("progress.png", "png")):
        shutil.copyfile(trained / "fold_0" / name, job.folder / f"segmenter.{suffix}")
    return config
