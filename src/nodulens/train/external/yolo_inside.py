"""The script that runs in YOLO's own environment: ``ENV/bin/python -P yolo_inside.py train|export|predict …``.

That environment has ultralytics and torch but not nodulens, which is not imported here. Input and output are files.
Ultralytics is used unchanged, except that it is kept off the network. Called by :mod:`nodulens.train.external.yolo`.
"""

from __future__ import annotations

import argparse
import csv
import importlib.metadata
import importlib.util
import os
import socket
import sys
from dataclasses import dataclass, fields
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch

TORCHVISION = "0.28.0"
"""The version that matches our torch."""
INTEGRATIONS = ("sync", "clearml", "comet", "dvc", "mlflow", "raytune", "tensorboard", "wandb", "vscode_msg")


def main() -> None:
    """Run one step."""
    parser = argparse.ArgumentParser()
    steps = parser.add_subparsers(required=True)
    training = steps.add_parser("train")
    training.add_argument("data", type=Path)
    training.add_argument("target", type=Path)
    training.add_argument("--network", required=True)
    training.add_argument("--weights", type=Path)
    training.add_argument("--size", type=int, required=True)
    training.add_argument("--batch", type=int, required=True)
    training.add_argument("--epochs", type=int, required=True)
    training.add_argument("--patience", type=int, required=True)
    training.add_argument("--optimizer", required=True)
    training.add_argument("--learning-rate", type=float, required=True)
    training.add_argument("--weight-decay", type=float, required=True)
    training.add_argument("--warm-up", type=float, required=True)
    training.add_argument("--seed", type=int, required=True)
    training.set_defaults(step=train)
    exporting = steps.add_parser("export")
    exporting.add_argument("weights", type=Path)
    exporting.add_argument("target", type=Path)
    exporting.add_argument("--size", type=int, required=True)
    exporting.set_defaults(step=export)
    predicting = steps.add_parser("predict")
    predicting.add_argument("weights", type=Path)
    predicting.add_argument("image", type=Path)
    predicting.add_argument("target", type=Path)
    predicting.set_defaults(step=predict)
    options = vars(parser.parse_args())
    prepare()
    step = options.pop("step")
    if step is train:
        settings = Settings(**{f.name: options.pop(f.name) for f in fields(Settings)})
        options["settings"] = settings
    step(**options)


# ---------------------------------------------------------------- ultralytics, and nothing but it


def prepare() -> None:
    """Import ultralytics so that it uses no network, installs nothing, and does not need torchvision."""
    refuse_network()
    os.environ.update(YOLO_OFFLINE="true", YOLO_AUTOINSTALL="false", ULTRALYTICS_SAFE_LOAD="true")
    os.environ.pop("ULTRALYTICS_API_KEY", None)
    if importlib.util.find_spec("torchvision") is None:
        do_without_torchvision()
    from ultralytics.utils import SETTINGS  # type: ignore[import-not-found]

    SETTINGS.update(dict.fromkeys(INTEGRATIONS, False))


def refuse_network() -> None:
    """Make every connection to other machines fail; what ultralytics would fetch, such as fonts, is optional."""
    connect = socket.socket.connect

    def local(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6):
            raise OSError("nodulens keeps YOLO off the network")
        connect(self, address)

    def no_names(*address: Any, **options: Any) -> Any:
        raise OSError("nodulens keeps YOLO off the network")

    socket.socket.connect = local  # type: ignore[method-assign,assignment]
    socket.getaddrinfo = no_names


def do_without_torchvision() -> None:
    """Let ultralytics import and validate without torchvision, which torch for CPUs cannot load.

    It checks torchvision's version when it is imported, and validation uses only its non-maximum suppression, of which
    ultralytics has an equivalent of its own.
    """
    known = importlib.metadata.version

    def version(distribution_name: str) -> str:
        return TORCHVISION if distribution_name == "torchvision" else known(distribution_name)

    importlib.metadata.version = version
    from ultralytics.utils.nms import TorchNMS  # type: ignore[import-not-found]

    importlib.metadata.version = known
    stub = ModuleType("torchvision")
    stub.__spec__ = ModuleSpec("torchvision", None)
    stub.ops = SimpleNamespace(nms=TorchNMS.nms)  # type: ignore[attr-defined]
    sys.modules["torchvision"] = stub


# ---------------------------------------------------------------- its steps


@dataclass(frozen=True)
class Settings:
    """Ultralytics' training settings.

    Attributes:
        network: its name for it, such as "yolo11n-seg".
        weights: its file of initial weights; None: random.
        patience: of early stopping, in epochs; 0: none.
        warm_up: in epochs.
    """

    network: str
    weights: Path | None
    size: int
    batch: int
    epochs: int
    patience: int
    optimizer: str
    learning_rate: float
    weight_decay: float
    warm_up: float
    seed: int


def train(data: Path, target: Path, settings: Settings) -> None:
    """Run ultralytics' own trainer, or resume from its last checkpoint; nothing is done if it has finished.

    Args:
        data: its description of the data set.
        target: folder for its files; ``curves.csv`` is written last.
    """
    from ultralytics.models.yolo.segment import SegmentationTrainer  # type: ignore[import-not-found]
    from ultralytics.nn.tasks import load_checkpoint  # type: ignore[import-not-found]
    from ultralytics.utils.plotting import plot_results  # type: ignore[import-not-found]

    if (target / "curves.csv").exists():
        return
    threads = int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads()))
    torch.set_num_threads(threads)
    last = target / "weights" / "last.pt"
    wishes = {
        "model": str(last) if last.exists() else f"{settings.network}.yaml",
        "resume": last.exists(),
        "pretrained": False if settings.weights is None else str(settings.weights),
        "data": str(data),
        "save_dir": str(target),
        "imgsz": settings.size,
        "batch": settings.batch,
        "epochs": settings.epochs,
        "patience": settings.patience,
        "optimizer": settings.optimizer,
        "lr0": settings.learning_rate,
        "weight_decay": settings.weight_decay,
        "cos_lr": True,
        "warmup_epochs": settings.warm_up,
        "seed": settings.seed,
        "amp": False,  # its check would fetch weights
        "plots": False,
        "workers": threads - 1,
        "device": "0" if torch.cuda.is_available() else "cpu",
    }
    # a finished training cannot be resumed: it was interrupted during the final validation
    if not last.exists() or load_checkpoint(str(last))[1]["epoch"] >= 0:
        SegmentationTrainer(overrides=wishes).train()
    plot_results(file=str(target / "results.csv"))
    write_curves(target / "results.csv", target / "curves.csv")


def write_curves(results: Path, target: Path) -> None:
    """Write curves in the format of the other networks: sums of losses; on the validation set precision and recall of
    masks, mAP of boxes, and mAP of masks, which is the score; learning rate, seconds of training. Which epoch is kept
    ultralytics chooses by boxes and masks together; it is not written."""
    with results.open(newline="", encoding="utf-8") as file:
        rows = [{name.strip(): float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    with target.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(
            (
                "epoch", "loss", "validation_loss", "validation_precision", "validation_recall",
                "validation_map50", "validation_map50_95", "watched", "learning_rate", "seconds",
            )
        )  # fmt: skip
        earlier = before = 0.0  # YOLO counts seconds anew when it is resumed
        for row in rows:
            earlier += before if row["time"] < before else 0.0
            before = row["time"]
            losses = [sum(v for name, v in row.items() if name.startswith(part)) for part in ("train/", "val/")]
            names = ("precision(M)", "recall(M)", "mAP50(B)", "mAP50-95(B)", "mAP50-95(M)")
            found = [row[f"metrics/{name}"] for name in names]
            table.writerow((int(row["epoch"]), *losses, *found, row["lr/pg0"], earlier + row["time"]))


def export(weights: Path, target: Path, size: int) -> None:
    """Export the trained network as a program that torch alone can load.

    Its outputs are the decoded head (N, 4 + 1 + masks, places): centre x and y, width and height in pixels, score, mask
    coefficients; and prototypes (N, masks, size / 4, size / 4).

    Args:
        size: of its square input of three channels; the batch size is free.
    """
    net = load(weights)
    head = net.model[-1]
    head.export, head.format, head.dynamic = True, "onnx", True  # dynamic: compute its grid for this size
    example = torch.zeros(2, 3, size, size)
    net(example)
    free = ({0: torch.export.Dim("batch", min=1, max=4096)},)
    torch.export.save(torch.export.export(net, (example,), dynamic_shapes=free), target)


@torch.inference_mode()
def predict(weights: Path, image: Path, target: Path) -> None:
    """Write the output of ultralytics' own network on a slice, batch norms fused as in its predictor: .npz of "found"
    and "prototypes", see :func:`export`.

    Args:
        image: .npy of (size, size), 0…1.
    """
    import numpy as np

    pixels = torch.from_numpy(np.load(image))[None, None].expand(1, 3, -1, -1)
    (found, prototypes), _ = load(weights).fuse(verbose=False)(pixels)
    np.savez(target, found=found.numpy(), prototypes=prototypes.numpy())


def load(weights: Path) -> Any:
    """Load a network from ultralytics' file, in single precision and evaluation mode."""
    from ultralytics.nn.tasks import load_checkpoint  # type: ignore[import-not-found]

    return load_checkpoint(str(weights))[0].eval()


if __name__ == "__main__":
    main()
