"""One training loop for every network."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor, nn

from nodulens.errors import BadOption

Net = TypeVar("Net", bound=nn.Module)


@dataclass(frozen=True)
class Schedule:
    """How long and how fast.

    Attributes:
        epochs: passes over what ``batches`` yields.
        learning_rate: the peak; it warms up over a twentieth of the steps and falls along a cosine.
        averaging: the weights used are an exponential moving average with this decay.
    """

    epochs: int
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    averaging: float = 0.99
    seed: int = 0


Maker = Callable[[], tuple[Tensor, ...]]
"""Makes one batch when it is called."""


def device() -> torch.device:
    """A GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def fit(
    net: Net,
    batches: Callable[[np.random.Generator], list[Maker]],
    loss: Callable[[nn.Module, tuple[Tensor, ...]], Tensor],
    schedule: Schedule,
    checkpoint: Path,
) -> Net:
    """Train ``net`` and return it with averaged weights, in evaluation mode.

    Args:
        batches: from a random generator, one epoch: functions that each make one batch of tensors.
        loss: of the network on a batch.
        checkpoint: written after every epoch; where it exists, training goes on from it to the same result.

    Raises:
        BadOption: the checkpoint was made with another schedule.
    """
    torch.manual_seed(schedule.seed)
    place = device()
    fmt = torch.channels_last_3d if any(p.dim() == 5 for p in net.parameters()) else torch.channels_last
    net.to(place, memory_format=fmt)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(net.parameters(), lr=schedule.learning_rate, weight_decay=schedule.weight_decay)
    average = {k: v.detach().clone() for k, v in net.state_dict().items()}
    first, step = 0, 0
    if checkpoint.exists():
        state: dict[str, Any] = torch.load(checkpoint, weights_only=True, map_location=place)
        wanted = asdict(schedule)
        if state.get("schedule", wanted) != wanted:
            raise BadOption(f"{checkpoint} is of {state['schedule']}, not {wanted}; name another --run folder.")
        net.load_state_dict(state["net"])
        optimizer.load_state_dict(state["optimizer"])
        average, first, step = state["average"], state["epoch"], state["step"]
    with Progress(transient=True, disable=not os.isatty(2)) as progress:
        bar = progress.add_task("training", total=schedule.epochs, completed=first)
        for epoch in range(first, schedule.epochs):
            # seeded by epoch, so that a resumed run sees what an uninterrupted one would
            torch.manual_seed(schedule.seed * 1000 + epoch)
            makers = batches(np.random.default_rng([schedule.seed, epoch]))
            net.train()
            for number, make in enumerate(makers):
                done = (epoch + number / len(makers)) / schedule.epochs
                rate = min(1.0, done / 0.05 + 1e-2) * 0.5 * (1 + math.cos(math.pi * done))
                for group in optimizer.param_groups:
                    group["lr"] = schedule.learning_rate * rate
                batch = tuple(t.to(place) for t in make())
                optimizer.zero_grad(set_to_none=True)
                value = loss(net, batch)
                value.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(net.parameters(), 5.0)
                optimizer.step()
                step += 1
                decay = min(schedule.averaging, step / (step + 10))
                with torch.no_grad():
                    for key, live in net.state_dict().items():
                        if live.dtype.is_floating_point:
                            average[key].lerp_(live, 1 - decay)
                        else:
                            average[key].copy_(live)
            progress.advance(bar)
            _save(
                {
                    "net": net.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "average": average,
                    "epoch": epoch + 1,
                    "step": step,
                    "schedule": asdict(schedule),
                },
                checkpoint,
            )
    net.load_state_dict(average)
    return net.eval()


def _save(state: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    os.replace(partial, path)


@torch.inference_mode()
def predict(net: nn.Module, inputs: Iterable[Tensor]) -> Tensor:
    """The network's (first) output over batches, joined, on the CPU."""
    place = device()
    out = []
    for batch in inputs:
        result = net(batch.to(place))
        out.append((result[0] if isinstance(result, tuple) else result).cpu())
    return torch.cat(out)
