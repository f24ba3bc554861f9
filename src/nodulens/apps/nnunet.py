"""``nodulens nnunet``: nnU-Net's own environment, and the recipe that it takes part in."""

from __future__ import annotations

import os
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from nodulens.train.nnunet import Environment

app = typer.Typer(no_args_is_help=True, help="Real nnU-Net as the first stage of nnunet-sam, in its own environment.")

Env = Annotated[Path, typer.Option(help="Folder of nnU-Net's virtual environment.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads and processes; default: all cores.")]


@app.callback()
def nnunet() -> None:
    """Real nnU-Net as the first stage of nnunet-sam, in its own environment."""


@app.command()
def setup(env: Env) -> None:
    """Make the environment: torch as it is here, nnU-Net, and no torchvision."""
    environment(env).set_up()
    print(f"{env}, nnU-Net's environment")


@app.command()
def train(
    env: Env,
    data: Annotated[Path, typer.Option(help="Folder with lidc/ and background/.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the run; one that was stopped goes on.")],
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Change a value of nnunet-sam: segmenter.epochs=5. Repeatable.")
    ] = None,
    split: Annotated[Path | None, typer.Option(help="Split by nodulens data split; default: five fixed folds.")] = None,
    fold: Annotated[int, typer.Option(min=0, help="The fold that is left out to judge on.")] = 1,
    everybody: Annotated[bool, typer.Option("--everybody", help="Leave no fold out.")] = False,
    iterations: Annotated[int, typer.Option(min=1, help="Steps an epoch; fewer for a trial.")] = 250,
    memory_gb: Annotated[
        float | None, typer.Option(min=0.1, help="GPU memory that nnU-Net plans for; default: its own target.")
    ] = None,
    slices: Annotated[int | None, typer.Option(min=2, help="Slices at most, for a trial.")] = None,
    threads: Threads = None,
) -> None:
    """Train nnunet-sam with nnU-Net as its segmenter; judge and use the run as any other."""
    from nodulens.recipe import changed
    from nodulens.recipes import NNUNET_SAM

    where = environment(env, threads)  # and all that training imports
    from nodulens.data.splits import read_split
    from nodulens.train.nnunet import Amount, settled, train_nnunet

    recipe = changed(NNUNET_SAM, settings or ())
    assert recipe.segmenter is not None and NNUNET_SAM.segmenter is not None
    recipe = replace(recipe, segmenter=settled(recipe.segmenter, NNUNET_SAM.segmenter))
    run = train_nnunet(
        recipe,
        data,
        output,
        where,
        Amount(iterations, memory_gb, slices),
        command=shlex.join(["nodulens", *sys.argv[1:]]),
        split=read_split(split) if split else None,
        fold=None if everybody else fold,
    )
    for name, seconds in run.seconds.items():
        print(f"{output / name}.onnx and its card, {seconds:.0f} s")


def environment(env: Path, threads: int | None = None) -> Environment:
    """nnU-Net's environment; what trains has to be installed here too.

    Raises:
        MissingExtra: training needs packages that are not installed.
    """
    from nodulens.errors import MissingExtra

    try:
        from nodulens.train.nnunet import Environment
    except ImportError as error:
        raise MissingExtra("train", error.name or "torch") from error
    return Environment(env, threads or os.cpu_count() or 1)
