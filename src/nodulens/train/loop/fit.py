"""One training loop for every network."""

from __future__ import annotations

import logging
import math
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from rich.progress import Progress
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import get_ema_multi_avg_fn

from nodulens.errors import BadOption, NotFound
from nodulens.io.atomic import whole_file
from nodulens.io.tables import table_text
from nodulens.methods.recipe import Training
from nodulens.train.lines import NAME
from nodulens.train.loop.distributed import Ranks
from nodulens.train.loop.tally import Tally, Validation

Net = TypeVar("Net", bound=nn.Module)
Batch = tuple[Tensor, ...]
Maker = Callable[[], Batch]
"""Makes one batch when it is called."""
Row = dict[str, float]
"""An epoch: name → value, see :func:`fit`."""
Follow = Callable[[Sequence[Row]], None]
"""Called with the rows of all epochs so far."""
LOG = logging.getLogger(NAME)
"""Has a line an epoch."""
VALIDATION = "validation_"
"""Before the names of figures of the validation set; those of the training set have none."""
_OTHER = ("epoch", "watched", "learning_rate", "seconds", "memory_mb")
"""Names in a row that are no figures."""


@dataclass(frozen=True)
class Task:
    """A network's training task.

    Attributes:
        batches: random generator → functions that each make one batch of an epoch, as many in every epoch.
        loss: of the network on a batch.
        augment: augments a batch on the network's device.
        validate: evaluates a network in evaluation mode on the validation set. Without it the training loss is used.
        tally: of the decisions on training batches, in which ``loss`` counts those of each.
        hardness: (N,) of the examples, by which ``batches`` samples and which ``loss`` updates in place. It is kept in
            the checkpoint, so that a resumed training samples as an uninterrupted one.
    """

    batches: Callable[[np.random.Generator], list[Maker]]
    loss: Callable[[nn.Module, Batch], Tensor]
    augment: Callable[[Batch, np.random.Generator], Batch] | None = None
    validate: Callable[[nn.Module], Validation] | None = None
    tally: Tally | None = None
    hardness: Tensor | None = None


@dataclass
class _Progress:
    """The progress of a training: all that a checkpoint holds beside tensors.

    Attributes:
        epoch, step: number completed.
        factor: of the plateau schedule on the learning rate.
        best: the best validation score so far.
        since: epochs without improvement.
        seconds: training time, over all runs.
        extended: ``seconds`` at which a finished training was last extended.
        rows: of the curves, one an epoch.
    """

    epoch: int = 0
    step: int = 0
    factor: float = 1.0
    best: float = -math.inf
    since: int = 0
    seconds: float = 0.0
    extended: float = 0.0
    rows: tuple[Row, ...] = ()


def fit(net: Net, task: Task, training: Training, checkpoint: Path, follow: Follow | None = None) -> Net:
    """Train ``net`` and return it in evaluation mode, on the device where it was trained.

    Every epoch is a row: "epoch" from 1; "loss" and the figures of the task's tally, over the training batches as they
    passed; "watched", the validation score; figures of the validation set after :data:`VALIDATION`; "learning_rate" of
    the last step; "seconds" and "memory_mb" (peak) so far. :data:`LOG` has it as a line.

    Args:
        checkpoint: written after every epoch; where it exists, training resumes from it, with the same result as an
            uninterrupted one. The curves are beside it under the same name, as a table (.csv) whose column "kept" is 1
            for the epoch whose weights are returned, and for TensorBoard (.events).
        follow: called after every epoch, by the first process.

    Raises:
        BadOption: the checkpoint was made with other settings, or there are fewer batches than processes.
    """
    torch.manual_seed(training.seed)
    ranks = Ranks.joined()
    state = _State.initial(net, training, ranks.device, task.hardness)
    if checkpoint.exists():
        state.resume(checkpoint)
    live, scheduler, at = ranks.wrap(net), None, state.at
    with Progress(transient=True, disable=not (ranks.first and os.isatty(2))) as progress:
        bar = progress.add_task("training", total=training.epochs, completed=at.epoch)
        while at.epoch < training.epochs and not _over(at, training):
            start = time.monotonic()
            # seeded by epoch, so that a resumed run gets the batches of an uninterrupted one
            torch.manual_seed((training.seed * 1000 + at.epoch) * ranks.world + ranks.rank)
            rng = np.random.default_rng([training.seed, at.epoch])
            makers = _batches(task, rng, ranks)
            scheduler = scheduler or _scheduler(state, len(makers))
            total, rate = _epoch(state, live, task, scheduler, (_prepared(make, task, rng, ranks) for make in makers))
            figures = {"loss": ranks.mean(total) / len(makers)}
            if task.hardness is not None:  # each process has updated it by its own examples
                ranks.average(task.hardness)
            if task.tally is not None:
                figures |= _counted(task.tally, ranks)
            found = Validation(-figures["loss"])
            if task.validate is not None:
                found = _validate(state, task.validate) if ranks.first else found
                found = Validation(ranks.from_first([found.score])[0], found.figures)
            state.end_epoch(found.score)
            at.seconds += time.monotonic() - start
            at.rows = (*at.rows, _row(at, figures, found, rate))
            if ranks.first:
                state.save(checkpoint)
                LOG.info("%s", epoch_line(checkpoint.stem, at.rows, training.epochs))
                if follow is not None:
                    follow(at.rows)
            at.seconds = ranks.from_first([at.seconds])[0]  # all must agree on when to stop
            ranks.wait()
            progress.advance(bar)
    if ranks.world > 1:  # batch norm statistics differ between processes
        state.kept = torch.load(checkpoint, weights_only=True, map_location=ranks.device)["kept"]
    net.load_state_dict(state.kept)
    return net.eval()


@dataclass(eq=False)
class _State:
    """A network in training, with all state that changes from step to step.

    Attributes:
        average: moving average of the weights.
        kept: the averaged weights that training returns: the best, or the last.
        hardness: the task's, if it has one.
    """

    net: nn.Module
    training: Training
    device: torch.device
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    average: dict[str, Tensor]
    kept: dict[str, Tensor]
    at: _Progress
    hardness: Tensor | None

    @classmethod
    def initial(cls, net: nn.Module, training: Training, device: torch.device, hardness: Tensor | None) -> _State:
        """A training at its start; the network is moved to the device."""
        net.to(device, memory_format=_layout(net))  # type: ignore[call-overload]
        scaler = torch.amp.GradScaler(enabled=_is_mixed(training, device) and device.type == "cuda")
        average = _copy(net.state_dict())
        return cls(net, training, device, _optimizer(net, training), scaler, average, average, _Progress(), hardness)

    def resume(self, checkpoint: Path) -> None:
        """Load a checkpoint.

        Raises:
            BadOption: it was made with other settings.
        """
        state: dict[str, Any] = torch.load(checkpoint, weights_only=True, map_location=self.device)
        _check_same(state["training"], self.training, checkpoint)
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.average, self.kept, self.at = state["average"], state["kept"], _Progress(**state["progress"])
        if self.hardness is not None:
            self.hardness.copy_(state["hardness"])

    def end_epoch(self, validation: float) -> None:
        """Record whether an epoch was the best, and lower the learning rate if the plateau schedule says so."""
        training, at = self.training, self.at
        at.epoch += 1
        better = validation > at.best
        at.best, at.since = (validation, 0) if better else (at.best, at.since + 1)
        if better or training.patience is None:
            self.kept = _copy(self.average)
        if training.schedule == "plateau" and at.since and at.since % training.plateau == 0:
            at.factor /= 2
            for group in self.optimizer.param_groups:
                group["lr"] /= 2

    def save(self, checkpoint: Path) -> None:
        """Write the curves, then the checkpoint, each atomically: so no epoch of the checkpoint lacks its row."""
        parts: dict[str, Any] = {"net": self.net.state_dict(), "optimizer": self.optimizer.state_dict()}
        parts |= {"scaler": self.scaler.state_dict(), "average": self.average, "kept": self.kept}
        if self.hardness is not None:
            parts["hardness"] = self.hardness
        _save({**parts, "training": asdict(self.training), "progress": asdict(self.at)}, checkpoint)


def extend(checkpoint: Path, after: int, epochs: int) -> bool:
    """Let a training that ended after some epochs go on to ``epochs`` when it is resumed; nothing if it has already.

    The learning rate goes on as that of a training of ``epochs`` has it from there. Patience, epochs of the plateau
    schedule and minutes count anew.

    Args:
        after: epochs after which it ended: of those that it was set to, or fewer if it stopped early.

    Returns:
        Whether it has not gone on yet.

    Raises:
        NotFound: there is no checkpoint.
    """
    if not checkpoint.exists():
        raise NotFound(f"There is no {checkpoint}, so its training cannot be extended.")
    state: dict[str, Any] = torch.load(checkpoint, weights_only=True, map_location="cpu")
    at = _Progress(**state["progress"])
    if at.epoch > after:
        return False
    at.since, at.extended = 0, at.seconds
    with whole_file(checkpoint) as path:
        torch.save({**state, "training": {**state["training"], "epochs": epochs}, "progress": asdict(at)}, path)
    return True


def epochs_done(checkpoint: Path) -> int:
    """The number of epochs that a checkpoint has completed; 0 without one."""
    if not checkpoint.exists():
        return 0
    state: dict[str, Any] = torch.load(checkpoint, weights_only=True, map_location="cpu", mmap=True)
    return int(state["progress"]["epoch"])


def kept_epoch(rows: Sequence[Row], patience: int | None) -> int | None:
    """The epoch whose weights a training keeps: the first of the best, or the last without patience.

    Returns:
        None if the score never was a number.
    """
    if patience is None:
        return int(rows[-1]["epoch"])
    best, epoch = -math.inf, None
    for row in rows:
        if row["watched"] > best:
            best, epoch = row["watched"], int(row["epoch"])
    return epoch


def epoch_line(name: str, rows: Sequence[Row], epochs: int) -> str:
    """The last epoch of a training as a line of text."""
    row, before = rows[-1], rows[-2]["seconds"] if len(rows) > 1 else 0.0
    figures = [f"{key.replace('_', ' ')} {value:.4g}" for key, value in row.items() if key not in _OTHER]
    rate, seconds = f"learning rate {row['learning_rate']:.2g}", f"{row['seconds'] - before:.1f} s"
    parts = [*figures, f"watched {row['watched']:.4g}", rate, seconds, f"{row['memory_mb']:.0f} MB"]
    return f"{name}: epoch {row['epoch']:.0f} of {epochs}: {', '.join(parts)}"


def _check_same(known: dict[str, Any], training: Training, checkpoint: Path) -> None:
    """Refuse to resume with other settings than those of a checkpoint."""
    wanted = asdict(training)
    # a setting that an older checkpoint does not have was at its default
    known = {f.name: wanted[f.name] if f.default is MISSING else f.default for f in fields(training)} | known
    if known != wanted:
        other = [f"{k}={known.get(k)}, not {v}" for k, v in wanted.items() if known.get(k) != v]
        raise BadOption(
            f"{checkpoint} was trained with {'; '.join(other) or 'settings of an older version'}: name another "
            "folder for the run (-o of nodulens train, --run of python -m nodulens.train)."
        )


def _batches(task: Task, rng: np.random.Generator, ranks: Ranks) -> list[Maker]:
    """This process's batches of an epoch.

    Raises:
        BadOption: there are fewer than processes.
    """
    every = task.batches(rng)
    makers = ranks.mine(every)
    if not makers:
        raise BadOption(
            f"An epoch has {len(every)} batches, too few for {ranks.world} processes; take smaller batches, "
            "fewer processes or more material."
        )
    return makers


def _prepared(make: Maker, task: Task, rng: np.random.Generator, ranks: Ranks) -> Batch:
    """A batch on the network's device, augmented there."""
    batch = tuple(t.to(ranks.device) for t in make())
    return task.augment(batch, rng) if task.augment else batch


def _epoch(
    state: _State, live: nn.Module, task: Task, scheduler: LambdaLR, batches: Iterable[Batch]
) -> tuple[Tensor, float]:
    """One step for each batch.

    Args:
        live: the network wrapped to average gradients over all processes.

    Returns:
        The sum of the losses, and the learning rate of the last step.
    """
    net, training, at, scaler = state.net, state.training, state.at, state.scaler
    total, rate = torch.zeros((), device=state.device), 0.0
    net.train()
    if task.tally is not None:
        task.tally.clear()
    with warnings.catch_warnings():
        # a scaler skips steps whose gradients overflow, which the scheduler mistakes for calls in the wrong order
        warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
        for batch in batches:
            state.optimizer.zero_grad(set_to_none=True)
            with torch.autocast(state.device.type, enabled=_is_mixed(training, state.device)):
                value = task.loss(live, batch)
            scaler.scale(value).backward()
            scaler.unscale_(state.optimizer)
            nn.utils.clip_grad_norm_(net.parameters(), 5.0)
            scaler.step(state.optimizer)
            scaler.update()
            rate = float(state.optimizer.param_groups[0]["lr"])
            at.step += 1
            scheduler.step()
            total += value.detach()
            _follow(state.average, net.state_dict(), min(training.averaging, at.step / (at.step + 10)))
    return total, rate


def _is_mixed(training: Training, device: torch.device) -> bool:
    """Whether mixed precision is set, and the device supports it."""
    return training.precision == "mixed" and _has_halves(device)


def _layout(net: nn.Module) -> torch.memory_format:
    """The memory format of a network: channels last, which is fastest for convolutions, unless it has instance norms,
    which would convert every array there and back, for a third of the time."""
    if any(isinstance(module, nn.InstanceNorm2d) for module in net.modules()):
        return torch.contiguous_format
    return torch.channels_last_3d if any(p.dim() == 5 for p in net.parameters()) else torch.channels_last


def _has_halves(device: torch.device) -> bool:
    """Whether a device has 16-bit arithmetic; a CPU that emulates it takes ten times as long."""
    own = torch.cpu.get_capabilities()
    return device.type == "cuda" or any(own.get(name) for name in ("amx_bf16", "avx512_bf16", "bf16"))


def _optimizer(net: nn.Module, training: Training) -> torch.optim.Optimizer:
    rate, decay = training.learning_rate, training.weight_decay
    if training.optimizer == "adam":
        return torch.optim.Adam(net.parameters(), rate, weight_decay=decay)
    if training.optimizer == "sgd":
        return torch.optim.SGD(net.parameters(), rate, momentum=0.9, nesterov=True, weight_decay=decay)
    return torch.optim.AdamW(net.parameters(), rate, weight_decay=decay)


def _scheduler(state: _State, steps: int) -> LambdaLR:
    """The learning rate schedule, starting at the next step.

    It is a function of the progress alone, so that a checkpoint need not hold it. Torch's ReduceLROnPlateau is not
    used: it multiplies a rate that this schedule sets at every step.

    Args:
        steps: number in an epoch.
    """
    training, at = state.training, state.at

    def share(step: int) -> float:
        epoch, number = divmod(step, steps)
        return rate_share(training, (epoch + number / steps) / training.epochs) * at.factor

    for group in state.optimizer.param_groups:
        group["initial_lr"] = training.learning_rate
    return LambdaLR(state.optimizer, share, at.step - 1)


def rate_share(training: Training, done: float) -> float:
    """The learning rate as a share of its peak.

    Args:
        done: share of the epochs completed, 0…1.
    """
    fall = {
        "cosine": 0.5 * (1 + math.cos(math.pi * done)),
        "polynomial": (1 - done) ** 0.9,
        "step": 0.01 if done >= 0.75 else 0.1 if done >= 0.5 else 1.0,
        "plateau": 1.0,
        "constant": 1.0,
    }[training.schedule]
    rise = min(1.0, done / training.warm_up + 1e-2) if training.warm_up > 0 else 1.0
    return rise * fall


def _over(at: _Progress, training: Training) -> bool:
    """Whether to stop early: no improvement for too long, or the time is spent."""
    waited = training.patience is not None and at.since >= training.patience
    return waited or (training.minutes is not None and at.seconds - at.extended >= 60 * training.minutes)


@torch.no_grad()
def _follow(average: dict[str, Tensor], live: dict[str, Tensor], decay: float) -> None:
    real = [key for key, value in live.items() if value.is_floating_point()]
    # all at once, to spare the GPU hundreds of calls
    get_ema_multi_avg_fn(decay)([average[key] for key in real], [live[key] for key in real], None)
    for key in live.keys() - set(real):
        average[key].copy_(live[key])


def _validate(state: _State, validate: Callable[[nn.Module], Validation]) -> Validation:
    """The validation of the averaged weights; the network's own are restored."""
    net, own = state.net, _copy(state.net.state_dict())
    net.load_state_dict(state.average)
    net.eval()
    with torch.inference_mode():
        found = validate(net)
    net.load_state_dict(own)
    return found


def _counted(tally: Tally, ranks: Ranks) -> dict[str, float]:
    """The figures of a tally over all processes."""
    for counts in (tally.counts, tally.decisions):
        ranks.average(counts)
        counts *= ranks.world
    return tally.figures()


def _copy(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: v.detach().clone() for k, v in state.items()}


def _row(at: _Progress, figures: Row, validation: Validation, rate: float) -> Row:
    """A row of the curves; memory is the peak so far."""
    watched = {"watched": validation.score, **{VALIDATION + k: v for k, v in validation.figures.items()}}
    rest = {"learning_rate": rate, "seconds": at.seconds, "memory_mb": _memory_mb()}
    return {"epoch": at.epoch, **figures, **watched, **rest}


def _memory_mb() -> float:
    """Peak memory so far, on the GPU if there is one; NaN if the system does not report it."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    try:
        import resource
    except ImportError:  # not on Windows
        return math.nan
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def _save(state: dict[str, Any], checkpoint: Path) -> None:
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    rows: Sequence[Row] = state["progress"]["rows"]
    _save_events(rows[-1], checkpoint.with_suffix(".events"))
    kept = kept_epoch(rows, state["training"]["patience"])
    marked = [{**row, "kept": int(row["epoch"] == kept)} for row in rows]
    # an older version's rows have fewer columns
    columns = dict.fromkeys([*marked[-1], *(name for row in marked for name in row)])
    with whole_file(checkpoint.with_suffix(".csv")) as path:
        path.write_text(table_text(tuple(columns), marked), encoding="utf-8")
    with whole_file(checkpoint) as path:
        torch.save(state, path)


def _save_events(row: Row, folder: Path) -> None:
    """Write an epoch for TensorBoard, in a file of its own, which a resumed training writes again.

    PyTorch's SummaryWriter would put the name of the machine into the name of the file.
    """
    now, epoch, content = time.time(), int(row["epoch"]), BytesIO()
    values = [Summary.Value(tag=name, simple_value=value) for name, value in row.items() if name != "epoch"]
    records = RecordWriter(content)
    for event in (
        Event(wall_time=now, file_version="brain.Event:2"),
        Event(wall_time=now, step=epoch, summary=Summary(value=values)),
    ):
        records.write(event.SerializeToString())
    folder.mkdir(exist_ok=True)
    (folder / f"events.out.tfevents.{epoch:06}").write_bytes(content.getvalue())


@torch.inference_mode()
def predict(net: nn.Module, inputs: Iterable[Tensor]) -> Tensor:
    """The network's (first) output over batches, concatenated, on the CPU."""
    place = next(net.parameters()).device
    out = []
    for batch in inputs:
        result = net(batch.to(place))
        out.append((result[0] if isinstance(result, tuple) else result).cpu())
    return torch.cat(out)
