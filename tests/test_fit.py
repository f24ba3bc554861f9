"""The training loop: schedules, early stopping, budgets, precision, curves, resuming, several processes."""

from __future__ import annotations

import csv
import math
import os
import pkgutil
import socket
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from conftest import launched
from nodulens.errors import BadOption, NotFound
from nodulens.methods.recipe import Training
from nodulens.train.loop.curves import curves_figure, read_curves
from nodulens.train.loop.distributed import Ranks
from nodulens.train.loop.fit import Batch, Maker, Task, epochs_done, extend, fit, kept_epoch
from nodulens.train.loop.tally import Tally, Validation

PLAIN = Training(epochs=4, learning_rate=0.1, schedule="constant", warm_up=0, averaging=0, weight_decay=0)


def batches(rng: np.random.Generator) -> list[Maker]:
    return [partial(_line, rng.normal(size=(8, 1))) for _ in range(6)]


def _line(x: np.ndarray) -> Batch:
    """Points of y = 3 x − 1."""
    values = torch.from_numpy(x.astype(np.float32))
    return values, 3 * values - 1


def square(net: nn.Module, batch: Batch) -> Tensor:
    return functional.mse_loss(net(batch[0]), batch[1])


def line() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(1, 1)


def curves(checkpoint: Path) -> list[dict[str, float]]:
    with checkpoint.with_suffix(".csv").open(newline="") as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_every_optimizer_finds_the_line(tmp_path: Path, optimizer: str) -> None:
    training = replace(PLAIN, epochs=12, optimizer=optimizer)  # type: ignore[arg-type]
    net = fit(line(), Task(batches, square), training, tmp_path / "run.pt")
    assert net.weight.item() == pytest.approx(3, abs=0.15)
    assert net.bias.item() == pytest.approx(-1, abs=0.15)


@pytest.mark.parametrize(
    ("schedule", "last"),
    [
        ("constant", 0.1),
        ("cosine", 0.05 * (1 + math.cos(math.pi * (3 + 5 / 6) / 4))),
        ("polynomial", 0.1 * (1 - (3 + 5 / 6) / 4) ** 0.9),
        ("step", 0.001),
    ],
)
def test_the_rate_falls_as_it_says(tmp_path: Path, schedule: str, last: float) -> None:
    fit(line(), Task(batches, square), replace(PLAIN, schedule=schedule), tmp_path / "run.pt")  # type: ignore[arg-type]
    assert curves(tmp_path / "run.pt")[-1]["learning_rate"] == pytest.approx(last)


@pytest.mark.parametrize("warm_up", [0.0, 0.3])
@pytest.mark.parametrize("schedule", ["cosine", "polynomial", "step", "plateau", "constant"])
def test_every_step_has_the_rate_of_the_closed_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, schedule: str, warm_up: float
) -> None:
    """Torch's scheduler against the rate of a step by hand, also where training goes on from an older checkpoint."""
    training = replace(PLAIN, epochs=5, schedule=schedule, warm_up=warm_up, optimizer="sgd", plateau=2)  # type: ignore[arg-type]
    rates: list[float] = []
    step = torch.optim.SGD.step

    def noted(self: torch.optim.SGD) -> None:
        rates.append(self.param_groups[0]["lr"])
        step(self)

    def by_hand(number: int) -> float:
        done = number / 30
        rise = min(1.0, done / warm_up + 0.01) if warm_up else 1.0
        return 0.1 * rise * {
            "cosine": 0.5 * (1 + math.cos(math.pi * done)),
            "polynomial": (1 - done) ** 0.9,
            "step": 0.01 if done >= 0.75 else 0.1 if done >= 0.5 else 1.0,
            "plateau": 0.5 ** max((number // 6 - 1) // 2, 0),
            "constant": 1.0,
        }[schedule]  # fmt: skip

    def dies(rng: np.random.Generator) -> list[Maker]:
        if len(rates) == 18:
            raise RuntimeError("killed")
        return batches(rng)

    monkeypatch.setattr(torch.optim.SGD, "step", noted)
    task = Task(batches, square, validate=lambda net: Validation(0.5))
    with pytest.raises(RuntimeError, match="killed"):
        fit(line(), replace(task, batches=dies), training, tmp_path / "run.pt")
    state = torch.load(tmp_path / "run.pt", weights_only=True)
    assert state["optimizer"]["param_groups"][0].pop("initial_lr") == 0.1  # which version 0.1 did not write
    torch.save(state, tmp_path / "run.pt")
    fit(line(), task, training, tmp_path / "run.pt")
    assert rates == pytest.approx([by_hand(number) for number in range(30)], abs=1e-9)


def test_the_rate_warms_up(tmp_path: Path) -> None:
    fit(line(), Task(batches, square), replace(PLAIN, warm_up=0.5), tmp_path / "run.pt")
    rates = [row["learning_rate"] for row in curves(tmp_path / "run.pt")]
    assert rates[0] < rates[1] < rates[2] == rates[3] == 0.1


def test_a_plateau_halves_the_rate(tmp_path: Path) -> None:
    task = Task(batches, square, validate=lambda net: Validation(0.5))
    fit(line(), task, replace(PLAIN, epochs=8, schedule="plateau", plateau=2), tmp_path / "run.pt")
    rates = [row["learning_rate"] for row in curves(tmp_path / "run.pt")]
    assert rates == pytest.approx([0.1, 0.1, 0.1, 0.05, 0.05, 0.025, 0.025, 0.0125])


def test_patience_stops_and_keeps_the_best(tmp_path: Path) -> None:
    values = iter([0.1, 0.9, 0.3, 0.2, 0.8, 0.95])
    seen: list[float] = []

    def validate(net: nn.Module) -> Validation:
        assert not net.training
        seen.append(net.weight.item())  # type: ignore[arg-type]
        return Validation(next(values))

    task = Task(batches, square, validate=validate)
    net = fit(line(), task, replace(PLAIN, epochs=6, patience=3), tmp_path / "run.pt")
    assert [row["watched"] for row in curves(tmp_path / "run.pt")] == [0.1, 0.9, 0.3, 0.2, 0.8]
    assert net.weight.item() == seen[1] != seen[-1]
    again = fit(line(), task, replace(PLAIN, epochs=6, patience=3), tmp_path / "run.pt")
    assert again.weight.item() == seen[1], "a run that stopped early is over"


def test_a_budget_of_minutes_ends_it_after_an_epoch(tmp_path: Path) -> None:
    fit(line(), Task(batches, square), replace(PLAIN, epochs=500, minutes=0.001), tmp_path / "run.pt")
    rows = curves(tmp_path / "run.pt")
    assert 1 <= len(rows) < 500
    assert rows[-1]["seconds"] >= 0.06 > ([0.0] + [r["seconds"] for r in rows])[-2]


def test_averaging_follows_behind(tmp_path: Path) -> None:
    plain = fit(line(), Task(batches, square), replace(PLAIN, epochs=1), tmp_path / "a.pt")
    behind = fit(line(), Task(batches, square), replace(PLAIN, epochs=1, averaging=0.99), tmp_path / "b.pt")
    start = line().weight.item()
    assert abs(behind.weight.item() - start) < abs(plain.weight.item() - start)


def test_augmentation_is_applied_where_the_network_computes(tmp_path: Path) -> None:
    def shifted(batch: Batch, rng: np.random.Generator) -> Batch:
        return batch[0], batch[1] + 5

    task = Task(batches, square, augment=shifted)
    net = fit(line(), task, replace(PLAIN, epochs=20, optimizer="sgd"), tmp_path / "run.pt")
    assert net.bias.item() == pytest.approx(4, abs=0.1)


@pytest.mark.parametrize("has", [True, False])
def test_mixed_precision_learns_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has: bool) -> None:
    """In 16 bits where the processor has them; where it would imitate them, in 32."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": has})
    seen: set[torch.dtype] = set()

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        seen.add(net(batch[0]).dtype)
        return square(net, batch)

    training = replace(PLAIN, epochs=12, optimizer="sgd", precision="mixed")
    net = fit(line(), Task(batches, loss), training, tmp_path / "run.pt")
    assert seen == {torch.bfloat16 if has else torch.float32}
    assert net.weight.dtype == torch.float32
    assert net.weight.item() == pytest.approx(3, abs=0.1)


def test_early_stopping_resumes_to_the_same(tmp_path: Path) -> None:
    """The best weights, the count of epochs without better ones, and the plateau's factor live in the checkpoint."""
    training = replace(PLAIN, epochs=9, schedule="plateau", plateau=1, patience=4)

    def validate(net: nn.Module) -> Validation:
        return Validation(-abs(net.weight.item() - 1.0))  # type: ignore[arg-type]  # passed on the way, then ever worse

    task = Task(batches, square, validate=validate)
    whole = fit(line(), task, training, tmp_path / "whole.pt")
    calls = 0

    def dies(rng: np.random.Generator) -> list[Maker]:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise RuntimeError("killed")
        return batches(rng)

    with pytest.raises(RuntimeError, match="killed"):
        fit(line(), replace(task, batches=dies), training, tmp_path / "parts.pt")
    resumed = fit(line(), task, training, tmp_path / "parts.pt")
    assert torch.equal(whole.weight, resumed.weight)
    names = ("epoch", "loss", "watched", "learning_rate")
    a, b = ([[r[n] for n in names] for r in curves(tmp_path / f"{run}.pt")] for run in ("whole", "parts"))
    assert a == b


def test_tensorboard_reads_the_curves(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    fit(line(), Task(batches, square), PLAIN, tmp_path / "run.pt")
    events = EventAccumulator(str(tmp_path / "run.events"))
    events.Reload()
    rows = curves(tmp_path / "run.pt")
    assert [(e.step, pytest.approx(e.value)) for e in events.Scalars("loss")] == [(r["epoch"], r["loss"]) for r in rows]
    files = [path.name for path in (tmp_path / "run.events").iterdir()]
    assert len(files) == len(rows) and not any(socket.gethostname() in name for name in files)


def test_a_row_holds_the_figures_of_both_sets(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """In the table, for TensorBoard, in the log, and for who follows; the epoch whose weights are kept is marked."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tally, scores = Tally(("a", "b"), exclusive=True, reported=[1]), iter([0.1, 0.9, 0.3, 0.2])
    truth, seen = torch.tensor([0, 1, 1, 1]), []

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        tally.add(torch.tensor([[2.0, 1.0], [2.0, 1.0], [1.0, 2.0], [1.0, 2.0]]), truth)
        return square(net, batch)

    def validate(net: nn.Module) -> Validation:
        return Validation(score := next(scores), {"loss": 1 - score, "recall": math.nan})

    task = Task(batches, loss, validate=validate, tally=tally)
    with caplog.at_level("INFO", "nodulens.train"):
        fit(line(), task, replace(PLAIN, patience=4), tmp_path / "net.pt", lambda rows: seen.append(len(rows)))
    rows = curves(tmp_path / "net.pt")
    assert [row["kept"] for row in rows] == [0, 1, 0, 0] and seen == [1, 2, 3, 4]
    assert [row["validation_loss"] for row in rows] == pytest.approx([0.9, 0.1, 0.7, 0.8])
    for row in rows:
        assert (row["accuracy"], row["precision"], row["recall"]) == (0.75, 1.0, pytest.approx(2 / 3))
        assert math.isnan(row["validation_recall"]) and row["memory_mb"] > 0
    assert [record.message.split(":")[1] for record in caplog.records] == [f" epoch {n} of 4" for n in range(1, 5)]
    assert "accuracy 0.75" in caplog.text and "validation loss 0.1," in caplog.text and " s, " in caplog.text
    events = EventAccumulator(str(tmp_path / "net.events"))
    events.Reload()
    assert [e.value for e in events.Scalars("accuracy")] == [0.75] * 4
    assert [e.step for e in events.Scalars("validation_loss")] == [1, 2, 3, 4]


def test_without_patience_the_last_epoch_is_kept(tmp_path: Path) -> None:
    scores = iter([0.1, 0.9, 0.3, 0.2])
    task = Task(batches, square, validate=lambda net: Validation(next(scores)))
    fit(line(), task, PLAIN, tmp_path / "run.pt")
    assert [row["kept"] for row in curves(tmp_path / "run.pt")] == [0, 0, 0, 1]
    assert kept_epoch([{"epoch": 1, "watched": math.nan}], patience=3) is None, "nothing was ever better"


def test_a_checkpoint_of_an_older_version_goes_on(tmp_path: Path) -> None:
    """Its rows have fewer columns; a finished one is returned as it is."""
    whole = fit(line(), Task(batches, square), PLAIN, tmp_path / "whole.pt")

    def dies(rng: np.random.Generator) -> list[Maker]:
        if (tmp_path / "old.csv").exists() and len(curves(tmp_path / "old.pt")) == 2:
            raise RuntimeError("killed")
        return batches(rng)

    with pytest.raises(RuntimeError, match="killed"):
        fit(line(), Task(dies, square), PLAIN, tmp_path / "old.pt")
    state = torch.load(tmp_path / "old.pt", weights_only=True)
    del state["progress"]["extended"]
    names = ("epoch", "loss", "watched", "learning_rate", "seconds", "memory_mb")
    state["progress"]["rows"] = tuple({name: row[name] for name in names} for row in state["progress"]["rows"])
    torch.save(state, tmp_path / "old.pt")
    tally = Tally(("a", "b"), exclusive=True)

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        tally.add(torch.tensor([[0.0, 1.0]]), torch.tensor([1]))
        return square(net, batch)

    resumed = fit(line(), Task(batches, loss, tally=tally), PLAIN, tmp_path / "old.pt")
    assert torch.equal(resumed.weight, whole.weight)
    rows = read_curves(tmp_path / "old.csv")
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    assert [row["accuracy"] for row in rows] == pytest.approx([math.nan, math.nan, 1, 1], nan_ok=True)
    assert curves_figure(tmp_path / "old.csv", "old").axes[0].get_title("right") == "kept: epoch 4"

    before = (tmp_path / "old.pt").read_bytes()
    assert torch.equal(fit(line(), Task(batches, square), PLAIN, tmp_path / "old.pt").weight, whole.weight)
    assert (tmp_path / "old.pt").read_bytes() == before


@pytest.mark.parametrize("writer", ["_save_events", "table_text", "torch.save"])
def test_a_training_stopped_while_it_writes_its_last_epoch_has_all_rows_once_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writer: str
) -> None:
    whole = fit(line(), Task(batches, square), PLAIN, tmp_path / "whole.pt")
    name = f"nodulens.train.loop.fit.{writer}"
    write, calls = pkgutil.resolve_name(name), iter(range(PLAIN.epochs))

    def stops(*words: object) -> object:
        if next(calls) == PLAIN.epochs - 1:
            raise KeyboardInterrupt
        return write(*words)

    with monkeypatch.context() as patch:
        patch.setattr(name, stops)
        with pytest.raises(KeyboardInterrupt):
            fit(line(), Task(batches, square), PLAIN, tmp_path / "run.pt")
    assert torch.equal(fit(line(), Task(batches, square), PLAIN, tmp_path / "run.pt").weight, whole.weight)
    assert [(row["epoch"], row["kept"]) for row in curves(tmp_path / "run.pt")] == [(1, 0), (2, 0), (3, 0), (4, 1)]


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_an_extended_training_goes_on_from_where_it_ended(tmp_path: Path, schedule: str) -> None:
    """At the rate that the longer schedule has there; a constant one ends as if it had been longer from the start."""
    training = replace(PLAIN, schedule=schedule, averaging=0.9)  # type: ignore[arg-type]
    fit(line(), Task(batches, square), training, tmp_path / "run.pt")
    assert epochs_done(tmp_path / "run.pt") == 4
    longer = replace(training, epochs=7)
    for _ in range(2):  # interrupted after the checkpoint was changed, it is changed no further
        assert extend(tmp_path / "run.pt", 4, 7)
    net = fit(line(), Task(batches, square), longer, tmp_path / "run.pt")
    assert not extend(tmp_path / "run.pt", 4, 7), "it has gone on"
    straight = fit(line(), Task(batches, square), longer, tmp_path / "straight.pt")
    assert torch.equal(net.weight, straight.weight) == (schedule == "constant")
    rows = curves(tmp_path / "run.pt")
    assert [row["epoch"] for row in rows] == list(range(1, 8)) and rows[-1]["kept"] == 1
    same = [row["learning_rate"] for row in curves(tmp_path / "straight.pt")][4:]
    assert [row["learning_rate"] for row in rows][4:] == pytest.approx(same)


def test_an_extension_counts_patience_and_minutes_anew(tmp_path: Path) -> None:
    task = Task(batches, square, validate=lambda net: Validation(0.5))
    patient = replace(PLAIN, epochs=9, patience=2, minutes=0.5)
    fit(line(), task, patient, tmp_path / "run.pt")
    assert len(curves(tmp_path / "run.pt")) == 3
    state = torch.load(tmp_path / "run.pt", weights_only=True)
    state["progress"]["seconds"] = 31.0  # of half a minute
    torch.save(state, tmp_path / "run.pt")
    extend(tmp_path / "run.pt", 3, 4)
    fit(line(), task, replace(patient, epochs=4), tmp_path / "run.pt")
    assert len(curves(tmp_path / "run.pt")) == 4
    with pytest.raises(NotFound, match=r"other\.pt, so its training cannot be extended"):
        extend(tmp_path / "other.pt", 3, 4)


def test_what_stopped_early_goes_on_to_the_epochs_that_it_was_set_to(tmp_path: Path) -> None:
    """Three of nine epochs, and six more."""
    task = Task(batches, square, validate=lambda net: Validation(0.5))
    patient = replace(PLAIN, epochs=9, patience=2)
    fit(line(), task, patient, tmp_path / "run.pt")
    extend(tmp_path / "run.pt", 3, 9)
    fit(line(), task, patient, tmp_path / "run.pt")
    assert len(curves(tmp_path / "run.pt")) == 5, "patience is counted anew"


def test_every_process_gets_as_many_batches() -> None:
    shares = [Ranks(rank, 3, torch.device("cpu")).mine(list(range(11))) for rank in range(3)]
    assert shares == [[0, 3, 6], [1, 4, 7], [2, 5, 8]]


def test_processes_that_would_get_no_batch_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ranks, "mine", lambda self, batches: batches[: len(batches) // 7])
    with pytest.raises(BadOption, match="An epoch has 6 batches, too few"):
        fit(line(), Task(batches, square), PLAIN, tmp_path / "run.pt")


def test_two_processes_train_one_network(tmp_path: Path) -> None:
    """By PyTorch's own launcher, with gloo: both end with the weights that the averaged gradients give."""
    done = launched(__file__, tmp_path)
    assert done.returncode == 0, done.stderr
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert torch.equal(first["weight"], second["weight"])
    assert first["hardness"].tolist() == second["hardness"].tolist() == [0.5, 3.0], "of what each has seen, the mean"

    def joined(rng: np.random.Generator) -> list[Maker]:
        """What two processes see at once, as one batch: the mean of two gradients is that of their batches joined."""
        pairs = [make() for make in batches(rng)]
        both = [tuple(torch.cat(parts) for parts in zip(*pairs[i : i + 2], strict=True)) for i in range(0, 6, 2)]
        return [partial(tuple, pair) for pair in both]

    alone = fit(line(), Task(joined, square), replace(PLAIN, optimizer="sgd"), tmp_path / "alone.pt")
    assert torch.allclose(alone.weight, first["weight"], atol=1e-6)
    assert len(curves(tmp_path / "run.pt")) == PLAIN.epochs


def _one_process(folder: Path) -> None:
    """What each of the two processes runs."""
    rank = os.environ["RANK"]
    hardness = torch.tensor([float(rank), 3.0])
    net = fit(line(), Task(batches, square, hardness=hardness), replace(PLAIN, optimizer="sgd"), folder / "run.pt")
    torch.save({**net.state_dict(), "hardness": hardness}, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    _one_process(Path(sys.argv[1]))
