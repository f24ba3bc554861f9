"""One training loop for every network."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.utils.tensorboard import SummaryWriter

from nodulens.errors import BadOption
from nodulens.io.atomic import whole_file
from nodulens.io.tables import table_text
from nodulens.methods.recipe import Training
from nodulens.train.loop.ranks import Ranks

Net = TypeVar("Net", bound=nn.Module)
Batch = tuple[Tensor, ...]
Maker = Callable[[], Batch]
"""Makes one batch when it is called."""


@dataclass(frozen=True)
class Task:
    """What is learnt.

    Attributes:
        batches: from a random generator, one epoch: functions that each make one batch.
        loss: of the network on a batch.
        augment: a batch changed at random, where the network computes (on the GPU where there is one).
        validate: how good a network in evaluation mode is on material kept out of training: the higher, the better.
            Without it the loss in training is watched.
    """

    batches: Callable[[np.random.Generator], list[Maker]]
    loss: Callable[[nn.Module, Batch], Tensor]
    augment: Callable[[Batch, np.random.Generator], Batch] | None = None
    validate: Callable[[nn.Module], float] | None = None


@dataclass
class _Progress:
    """How far a training is: all that a checkpoint holds beside tensors.

    Attributes:
        epoch, step: done.
        factor: that the plateau schedule has brought the rate down by.
        best: value watched; ``since``: epochs without a better one.
        seconds: spent, over all runs.
        rows: of the curves, one an epoch.
    """

    epoch: int = 0
    step: int = 0
    factor: float = 1.0
    best: float = -math.inf
    since: int = 0
    seconds: float = 0.0
    rows: tuple[dict[str, float], ...] = ()


def fit(net: Net, task: Task, training: Training, checkpoint: Path) -> Net:
    """Train ``net`` and return it in evaluation mode, on the CPU or GPU where it was trained.

    Args:
        checkpoint: written after every epoch; where it exists, training goes on from it to the same result. Beside it
            lie the curves under the same name, as a table (.csv) and for TensorBoard (.events).

    Raises:
        BadOption: the checkpoint was made with other settings, or there are fewer batches than processes.
    """
    torch.manual_seed(training.seed)
    ranks = Ranks.joined()
    net.to(ranks.device, memory_format=_layout(net))  # type: ignore[call-overload]
    optimizer = _optimizer(net, training)
    mixed = training.precision == "mixed" and _has_halves(ranks.device)
    scaler = torch.amp.GradScaler(enabled=mixed and ranks.device.type == "cuda")
    average = _copy(net.state_dict())
    kept = average
    at = _Progress()
    if checkpoint.exists():
        state: dict[str, Any] = torch.load(checkpoint, weights_only=True, map_location=ranks.device)
        wanted = asdict(training)
        # what an older checkpoint does not speak of was as it is by default
        unsaid = {f.name: f.default for f in fields(training) if f.default is not MISSING}
        if unsaid | state["training"] != wanted:
            known = unsaid | state["training"]
            other = [f"{k}={known.get(k)}, not {v}" for k, v in wanted.items() if known.get(k) != v]
            raise BadOption(
                f"{checkpoint} was trained with {'; '.join(other) or 'settings that there are no more'}: name another "
                "folder for the run (-o of nodulens train, --run of python -m nodulens.train)."
            )
        net.load_state_dict(state["net"])
        optimizer.load_state_dict(state["optimizer"])
        scaler.load_state_dict(state["scaler"])
        average, kept, at = state["average"], state["kept"], _Progress(**state["progress"])
    live = ranks.wrap(net)
    with Progress(transient=True, disable=not (ranks.first and os.isatty(2))) as progress:
        bar = progress.add_task("training", total=training.epochs, completed=at.epoch)
        while at.epoch < training.epochs and not _over(at, training):
            start = time.monotonic()
            # seeded by epoch, so that a resumed run sees what an uninterrupted one would
            torch.manual_seed((training.seed * 1000 + at.epoch) * ranks.world + ranks.rank)
            rng = np.random.default_rng([training.seed, at.epoch])
            every = task.batches(rng)
            makers = ranks.mine(every)
            if not makers:
                raise BadOption(
                    f"An epoch has {len(every)} batches, too few for {ranks.world} processes; take smaller batches, "
                    "fewer processes or more material."
                )
            total = torch.zeros((), device=ranks.device)
            net.train()
            for number, make in enumerate(makers):
                rate = _rate(training, at, (at.epoch + number / len(makers)) / training.epochs)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                batch = tuple(t.to(ranks.device) for t in make())
                if task.augment:
                    batch = task.augment(batch, rng)
                optimizer.zero_grad(set_to_none=True)
                with torch.autocast(ranks.device.type, enabled=mixed):
                    value = task.loss(live, batch)
                scaler.scale(value).backward()
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(net.parameters(), 5.0)
                scaler.step(optimizer)
                scaler.update()
                at.step += 1
                total += value.detach()
                _follow(average, net.state_dict(), min(training.averaging, at.step / (at.step + 10)))
            at.epoch += 1
            loss = ranks.mean(total) / len(makers)
            validation = -loss
            if task.validate is not None:
                validation = ranks.from_first([_validate(net, average, task.validate) if ranks.first else 0.0])[0]
            better = validation > at.best
            at.best, at.since = (validation, 0) if better else (at.best, at.since + 1)
            if better or training.patience is None:
                kept = _copy(average)
            if training.schedule == "plateau" and at.since and at.since % training.plateau == 0:
                at.factor /= 2
            at.seconds += time.monotonic() - start
            at.rows = (*at.rows, _row(at, loss, validation, rate))
            if ranks.first:
                parts = {"net": net.state_dict(), "optimizer": optimizer.state_dict(), "scaler": scaler.state_dict()}
                parts |= {"average": average, "kept": kept, "training": asdict(training), "progress": asdict(at)}
                _save(parts, checkpoint)
            at.seconds = ranks.from_first([at.seconds])[0]  # all must agree on when to stop
            ranks.wait()
            progress.advance(bar)
    if ranks.world > 1:  # the others' batch statistics are of their own batches
        kept = torch.load(checkpoint, weights_only=True, map_location=ranks.device)["kept"]
    net.load_state_dict(kept)
    return net.eval()


def _layout(net: nn.Module) -> torch.memory_format:
    """How a network's arrays lie in memory: channels innermost, as convolutions compute fastest; but norms of single
    channels would turn every array round and back, a third of the time."""
    if any(isinstance(module, nn.InstanceNorm2d) for module in net.modules()):
        return torch.contiguous_format
    return torch.channels_last_3d if any(p.dim() == 5 for p in net.parameters()) else torch.channels_last


def _has_halves(device: torch.device) -> bool:
    """Whether it computes in 16 bits of its own; a CPU that only imitates them takes ten times as long."""
    own = torch.cpu.get_capabilities()
    return device.type == "cuda" or any(own.get(name) for name in ("amx_bf16", "avx512_bf16", "bf16"))


def _optimizer(net: nn.Module, training: Training) -> torch.optim.Optimizer:
    rate, decay = training.learning_rate, training.weight_decay
    if training.optimizer == "adam":
        return torch.optim.Adam(net.parameters(), rate, weight_decay=decay)
    if training.optimizer == "sgd":
        return torch.optim.SGD(net.parameters(), rate, momentum=0.9, nesterov=True, weight_decay=decay)
    return torch.optim.AdamW(net.parameters(), rate, weight_decay=decay)


def _rate(training: Training, at: _Progress, done: float) -> float:
    """Learning rate with ``done`` 0…1 of the epochs behind."""
    fall = {
        "cosine": 0.5 * (1 + math.cos(math.pi * done)),
        "polynomial": (1 - done) ** 0.9,
        "step": 0.01 if done >= 0.75 else 0.1 if done >= 0.5 else 1.0,
        "plateau": at.factor,
        "constant": 1.0,
    }[training.schedule]
    rise = min(1.0, done / training.warm_up + 1e-2) if training.warm_up > 0 else 1.0
    return training.learning_rate * rise * fall


def _over(at: _Progress, training: Training) -> bool:
    """Whether nothing better came for too long, or the time is spent."""
    waited = training.patience is not None and at.since >= training.patience
    return waited or (training.minutes is not None and at.seconds >= 60 * training.minutes)


@torch.no_grad()
def _follow(average: dict[str, Tensor], live: dict[str, Tensor], decay: float) -> None:
    real = [key for key, value in live.items() if value.is_floating_point()]
    # all at once: a GPU would wait for hundreds of calls
    get_ema_multi_avg_fn(decay)([average[key] for key in real], [live[key] for key in real], None)
    for key in live.keys() - set(real):
        average[key].copy_(live[key])


def _validate(net: nn.Module, weights: dict[str, Tensor], validate: Callable[[nn.Module], float]) -> float:
    """The value of the averaged weights; the network goes on with its own."""
    own = _copy(net.state_dict())
    net.load_state_dict(weights)
    net.eval()
    with torch.inference_mode():
        value = validate(net)
    net.load_state_dict(own)
    return value


def _copy(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: v.detach().clone() for k, v in state.items()}


def _row(at: _Progress, loss: float, validation: float, rate: float) -> dict[str, float]:
    """One line of the curves; memory is the most ever held."""
    named = {"epoch": at.epoch, "loss": loss, "watched": validation, "learning_rate": rate}
    return {**named, "seconds": at.seconds, "memory_mb": _memory_mb()}


def _memory_mb() -> float:
    """The most held so far, on the GPU where there is one; NaN where the system does not say."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    try:
        import resource
    except ImportError:  # Windows has none
        return math.nan
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def _save(state: dict[str, Any], checkpoint: Path) -> None:
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    rows = state["progress"]["rows"]
    # TensorBoard appends: opened anew it goes on after the epochs that are there
    with SummaryWriter(str(checkpoint.with_suffix(".events")), purge_step=int(rows[-1]["epoch"])) as events:
        for name in ("loss", "watched", "learning_rate"):
            events.add_scalar(name, rows[-1][name], int(rows[-1]["epoch"]))
    with whole_file(checkpoint) as path:
        torch.save(state, path)
    with whole_file(checkpoint.with_suffix(".csv")) as path:
        path.write_text(table_text(tuple(rows[0]), rows), encoding="utf-8")


@torch.inference_mode()
def predict(net: nn.Module, inputs: Iterable[Tensor]) -> Tensor:
    """The network's (first) output over batches, joined, on the CPU."""
    place = next(net.parameters()).device
    out = []
    for batch in inputs:
        result = net(batch.to(place))
        out.append((result[0] if isinstance(result, tuple) else result).cpu())
    return torch.cat(out)
