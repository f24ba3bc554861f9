"""``nodulens nnunet``: nnU-Net's own environment, and the recipe that it takes part in."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from nodulens.apps import external
from nodulens.apps.typed import typed_command

app = typer.Typer(no_args_is_help=True, help="Real nnU-Net as the first stage of nnunet-sam, in its own environment.")


@app.callback()
def nnunet() -> None:
    """Real nnU-Net as the first stage of nnunet-sam, in its own environment."""


@app.command()
def setup(env: external.Env) -> None:
    """Make the environment: torch as it is here, nnU-Net, and no torchvision."""
    external.trainer("nnunet").Environment(env, external.threads_of(None)).set_up()
    print(f"{env}, nnU-Net's environment")


@app.command()
def train(
    env: external.Env,
    data: external.Data,
    output: external.Output,
    settings: external.Settings = None,
    split: external.SplitFile = None,
    fold: external.Fold = None,
    everybody: external.Everybody = False,
    iterations: Annotated[int, typer.Option(min=1, help="Steps an epoch; fewer for a trial.")] = 250,
    memory_gb: Annotated[
        float | None, typer.Option(min=0.1, help="GPU memory that nnU-Net plans for; default: its own target.")
    ] = None,
    slices: external.Slices = None,
    threads: external.Threads = None,
) -> None:
    """Train nnunet-sam with nnU-Net as its segmenter; evaluate and apply the run as any other."""
    from nodulens.methods.catalogue import NNUNET_SAM
    from nodulens.methods.recipe import changed_to_train
    from nodulens.train.options import test_patients_of

    framework = external.trainer("nnunet")
    recipe = changed_to_train(NNUNET_SAM, settings or ())
    known, left_out = test_patients_of(split, fold, everybody=everybody)
    with external.trained_into(output):
        run = framework.train_nnunet(
            replace(recipe, segmenter=framework.settled(recipe.segmenter, NNUNET_SAM.segmenter)),
            framework.RunSpec(data, output, typed_command(), known, left_out),
            framework.Environment(env, external.threads_of(threads)),
            framework.Amount(iterations, memory_gb, slices),
        )
    external.tell(run, output)
