"""``nodulens yolo``: YOLO's own environment, and training for comparison."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

import typer

from nodulens.apps import external
from nodulens.apps.typed import typed_command

ABOUT = "YOLO11-seg to compare nnunet-sam with, in its own environment; Ultralytics is under the AGPL-3.0."

app = typer.Typer(no_args_is_help=True, help=ABOUT)


@app.callback()
def yolo() -> None:
    """YOLO11-seg to compare nnunet-sam with, in its own environment; Ultralytics is under the AGPL-3.0."""


@app.command()
def setup(env: external.Env) -> None:
    """Make the environment: torch as it is here, ultralytics (AGPL-3.0), and no torchvision."""
    external.trainer("yolo").Environment(env, external.threads_of(None)).set_up()
    print(f"{env}, YOLO's environment; ultralytics in it is under the AGPL-3.0")


@app.command()
def train(
    env: external.Env,
    data: external.Data,
    output: external.Output,
    size: Annotated[
        Literal["n", "s", "m"] | None, typer.Option(help="Of YOLO11-seg; default: m, the publication's best.")
    ] = None,
    settings: external.Settings = None,
    split: external.SplitFile = None,
    fold: external.Fold = None,
    everybody: external.Everybody = False,
    slices: external.Slices = None,
    threads: external.Threads = None,
) -> None:
    """Train YOLO11-seg from random weights, or from your file; evaluate and apply the run as any other.

    Weights to start from: --set segmenter.pretrained=FILE.pt. Nothing is fetched.
    """
    from nodulens.methods.catalogue import YOLO_SEG
    from nodulens.methods.recipe import changed_to_train
    from nodulens.train.options import test_patients_of

    framework = external.trainer("yolo")
    sized = [] if size is None else [f"segmenter.network=yolo11{size}-seg"]
    recipe = changed_to_train(YOLO_SEG, [*sized, *(settings or ())])
    known, left_out = test_patients_of(split, fold, everybody=everybody)
    with external.trained_into(output):
        run = framework.train_yolo(
            replace(recipe, segmenter=framework.settled(recipe.segmenter)),
            framework.RunSpec(data, output, typed_command(), known, left_out),
            framework.Environment(env, external.threads_of(threads)),
            slices,
        )
    external.tell(run, output)
