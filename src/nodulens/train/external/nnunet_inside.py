"""The script that runs in nnU-Net's own environment: ``ENV/bin/python -P nnunet_inside.py train|export|predict …``.

That environment has nnunetv2 and torch but not nodulens, which is not imported here. Input and output are files;
nnU-Net's folders are named by its own variables (nnUNet_raw, nnUNet_preprocessed, nnUNet_results). Called by
:mod:`nodulens.train.external.nnunet`.
"""

from __future__ import annotations

import argparse
import csv
import os
from pathlib import Path
from typing import Any

import torch


def main() -> None:
    """Run one step."""
    parser = argparse.ArgumentParser()
    steps = parser.add_subparsers(required=True)
    training = steps.add_parser("train")
    training.add_argument("dataset")
    training.add_argument("--epochs", type=int, required=True)
    training.add_argument("--iterations", type=int, required=True)
    training.add_argument("--learning-rate", type=float, required=True)
    training.add_argument("--weight-decay", type=float, required=True)
    training.set_defaults(step=train)
    exporting = steps.add_parser("export")
    exporting.add_argument("trained", type=Path)
    exporting.add_argument("target", type=Path)
    exporting.add_argument("--side", type=int, required=True)
    exporting.set_defaults(step=export)
    predicting = steps.add_parser("predict")
    predicting.add_argument("trained", type=Path)
    predicting.add_argument("image", type=Path)
    predicting.add_argument("target", type=Path)
    predicting.add_argument("--side", type=int, required=True)
    predicting.set_defaults(step=predict)
    options = vars(parser.parse_args())
    options.pop("step")(**options)


def train(dataset: str, epochs: int, iterations: int, learning_rate: float, weight_decay: float) -> None:
    """Run nnU-Net's own trainer on its 2d plan, fold 0, or resume from its last checkpoint.

    Args:
        iterations: of an epoch; nnU-Net's default is 250, and a fifth as many on the validation set.
    """
    from nnunetv2.paths import nnUNet_results  # type: ignore[import-not-found]
    from nnunetv2.run.run_training import get_trainer_from_args, maybe_load_checkpoint  # type: ignore[import-not-found]

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
    started = any(Path(nnUNet_results).rglob("checkpoint_*.pth"))
    trainer = get_trainer_from_args(dataset, "2d", 0, continue_training=started, device=device)
    trainer.num_epochs, trainer.num_iterations_per_epoch = epochs, iterations
    trainer.num_val_iterations_per_epoch = max(1, iterations // 5)
    trainer.initial_lr, trainer.weight_decay = learning_rate, weight_decay
    maybe_load_checkpoint(trainer, started, False)
    trainer.run_training()
    _write_curves(trainer.logger, Path(trainer.output_folder) / "curves.csv")


def _write_curves(logger: Any, path: Path) -> None:
    """Write the curves in the format of the other networks: losses, validation Dice, which is the score, learning rate,
    seconds of training; its last weights are kept."""
    losses, against, dice, rates = (
        logger.get_value(key, None) for key in ("train_losses", "val_losses", "mean_fg_dice", "lrs")
    )
    starts, ends = (logger.get_value(f"epoch_{key}_timestamps", None) for key in ("start", "end"))
    took = [end - start for start, end in zip(starts, ends, strict=True)]
    seconds = [sum(took[: n + 1]) for n in range(len(took))]
    kept = [int(n == len(losses) - 1) for n in range(len(losses))]
    courses = (losses, against, dice, dice, rates, seconds, kept)
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(
            ("epoch", "loss", "validation_loss", "validation_dice", "watched", "learning_rate", "seconds", "kept")
        )
        table.writerows((epoch, *values) for epoch, values in enumerate(zip(*courses, strict=True), start=1))


def export(trained: Path, target: Path, side: int) -> None:
    """Export the trained network, deep supervision off, as a program that torch alone can load.

    Args:
        side: of its square input; the batch size is free.
    """
    net = _predictor(trained, side).network.eval().cpu()
    example = torch.zeros(2, 1, side, side)
    free = ({0: torch.export.Dim("batch", min=1, max=4096)},)
    torch.export.save(torch.export.export(net, (example,), dynamic_shapes=free), target)


def predict(trained: Path, image: Path, target: Path, side: int) -> None:
    """Write the class probabilities of a slice by nnU-Net's own predictor, (classes, y, x) as .npy.

    Args:
        side: of its single window.
    """
    import numpy as np
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO  # type: ignore[import-not-found]

    pixels, properties = SimpleITKIO().read_images([str(image)])
    _, probabilities = _predictor(trained, side).predict_single_npy_array(pixels, properties, None, None, True)
    np.save(target, probabilities[:, 0].astype(np.float32))


def _predictor(trained: Path, side: int) -> Any:
    """The predictor without mirroring, which our runtime does not do either, and without Gaussian weights."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor  # type: ignore[import-not-found]

    predictor = nnUNetPredictor(
        use_gaussian=False, use_mirroring=False, perform_everything_on_device=False, device=torch.device("cpu")
    )
    predictor.initialize_from_trained_model_folder(str(trained), (0,), "checkpoint_final.pth")
    predictor.configuration_manager.configuration["patch_size"] = [side, side]
    return predictor


if __name__ == "__main__":
    main()
