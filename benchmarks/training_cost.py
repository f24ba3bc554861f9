"""What a step of each published method costs on this machine, and the hours of its training on the full data sets.

    python benchmarks/training_cost.py [--examples 2] [--device cuda]

A step is forward, backward and update of the network of the recipe at its published size, on noise; one step warms up,
the next is measured, on a CPU in seconds of one core (so that other work does not count), on a GPU in seconds. Making
the examples and validation come on top. The hours are those of the published number of epochs over the published
material.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Annotated

import torch
import typer

from nodulens.methods.catalogue import RECIPES
from nodulens.train.networks.registry import build


@dataclass(frozen=True)
class Published:
    """How often a network sees an example in its publication: examples of the training set, and epochs."""

    recipe: str
    part: str
    examples: int
    epochs: int


PUBLISHED = (
    Published("sam2-densenet", "classifier", 1220, 100),  # nine in ten of four fifths of 1,695 benign or malignant
    Published("se-aux-unet", "segmenter", 799, 50),
    Published("nnunet-sam", "segmenter", 1902, 200),
    Published("nnunet-sam", "classifier", 1902, 50),
    Published("resnet-unet-patch-cnn", "segmenter", 1902, 50),  # its number is not stated: as many as in C
    Published("resnet-unet-patch-cnn", "filter", 14800, 100),  # of 20 non-nodules a scan and LUNA16's nodules
    Published("conv3-classifier", "classifier", 1190, 50),  # 70 % of 1,695
)


def seconds(recipe: str, part: str, examples: int, device: str) -> float:
    """Seconds of one example in a step."""
    torch.manual_seed(0)
    config = RECIPES[recipe].networks[part]
    net = build(config).to(device).train()
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-6)
    batch = torch.rand(examples, 1, config.size, config.size, device=device)
    on_cpu, took = device == "cpu", 0.0
    for _ in range(2):
        start = time.process_time() if on_cpu else time.perf_counter()
        out = net(batch)
        loss = sum(part.square().mean() for part in (out if isinstance(out, tuple | list) else (out,)))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[union-attr]
        optimizer.step()
        if not on_cpu:
            torch.cuda.synchronize()
        took = (time.process_time() if on_cpu else time.perf_counter()) - start
    return took / examples


def main(
    examples: Annotated[int, typer.Option(min=2, help="In a step.")] = 2,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    print("| recipe | part | network | input | s an example | examples × epochs | hours |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for one in PUBLISHED:
        config = RECIPES[one.recipe].networks[one.part]
        each = seconds(one.recipe, one.part, examples, device)
        hours = each * one.examples * one.epochs / 3600
        size, count = f"{config.size}²", f"{one.examples:,} × {one.epochs}"
        print(
            f"| `{one.recipe}` | {one.part} | `{config.network}` | {size} | {each:.3f} | {count} | {hours:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    typer.run(main)
