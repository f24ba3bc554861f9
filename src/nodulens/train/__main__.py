"""``python -m nodulens.train NAME --data DIR``: cross-validate and train the networks that ship."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import torch
import typer

from nodulens.data.folds import FOLDS
from nodulens.methods.recipe import Training, changed
from nodulens.runtime.weights import FOLDER
from nodulens.train.default import release
from nodulens.train.default.rendered_nodules import outline_material
from nodulens.train.lines import lines_shown


class Name(StrEnum):
    """What is trained together."""

    detector = "detector"
    segmenter = "segmenter"
    malignancy = "malignancy"
    all = "all"


def main(
    name: Annotated[Name, typer.Argument(help="Which network, or all in turn.")],
    data: Annotated[Path, typer.Option(help="Folder with lidc/, luna16/ and background/.")],
    out: Annotated[
        Path | None, typer.Option(help="Where the ONNX files and cards go; default: where those that ship are.")
    ] = None,
    run: Annotated[Path, typer.Option(help="Checkpoints; an interrupted run resumes from them.")] = Path("runs"),
    epochs: Annotated[int | None, typer.Option(help="Number of epochs, if not the default.")] = None,
    folds: Annotated[
        bool, typer.Option(help="Cross-validate too; without it the figures of the cards that ship are kept.")
    ] = True,
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
    augment: Annotated[
        str, typer.Option(help="More augmentation, such as rotate,zoom. The networks that ship have none.")
    ] = "",
    rendered: Annotated[
        bool,
        typer.Option(
            help="Teach the segmenter on rendered part-solid and ground-glass nodules too (docs/outlines.md)."
        ),
    ] = False,
    fold: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=FOLDS - 1,
            help="Of detector or segmenter: train only what leaves this fold out, into RUN; RUN/segmenter/foldK is a "
            "model that nodulens evaluate takes with --prompted. Nothing that ships is touched.",
        ),
    ] = None,
) -> None:
    """Cross-validate by patient, then train on all patients, export, and write the card with the figures."""
    if threads:
        torch.set_num_threads(threads)
    trainings = release.SHIPPED.changed(epochs, changed(Training(1), [f"augment={augment}"]).augment)
    if fold is not None:
        if out is not None or not folds:
            raise typer.BadParameter("it goes into --run, so leave out --out and --no-folds", param_hint="--fold")
        if name is Name.detector:
            release.detector_without(fold, data, run, trainings.detector)
            typer.echo(f"{run / 'detector' / f'fold{fold}-sharp.pt'}")
            return
        if name is not Name.segmenter:
            raise typer.BadParameter("only detector and segmenter are trained one fold at a time", param_hint="--fold")
        material = outline_material(data, rendered=rendered)
        model = release.segmenter_without(fold, material, run, trainings.segmenter)
        typer.echo(f"{model.card.path} and its card")
        return
    chosen = release.Release(data, out or FOLDER, run, folds, trainings, rendered=rendered)
    for each in release.MAKERS if name is Name.all else (name.value,):
        typer.echo(f"{release.MAKERS[each](chosen)} and its card")


if __name__ == "__main__":
    with lines_shown():
        typer.run(main)
