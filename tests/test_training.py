"""Training: it learns, it resumes, it repeats, it keeps patients apart, and what it exports is what it trained."""

from __future__ import annotations

import errno
import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import typer
from sklearn.ensemble import ExtraTreesRegressor
from torch import Tensor, nn
from torch.nn import functional
from typer.testing import CliRunner

import made_material
import made_models
import small_scans
from conftest import REPOSITORY
from nodulens.core.nodule import Box
from nodulens.data.folds import EVALUATION_PATIENTS, FOLDS, fold_of
from nodulens.data.jpegls import Streams
from nodulens.data.material import STACKS, Background, Cubes, Patches, Stacks, read_arrays
from nodulens.data.splits import read_split
from nodulens.errors import BadOption, CannotWrite, CorruptWeights, NodulensError, NotFound
from nodulens.methods.load import load_method
from nodulens.methods.recipe import Augmentation, Training
from nodulens.pipeline import analyze
from nodulens.runtime.engine import Model, load_model
from nodulens.runtime.weights import NAMES, TOGETHER, Card, card
from nodulens.stages.prompts import CHANNELS, GRID
from nodulens.stages.views import ball_view, screen_view
from nodulens.train.__main__ import main
from nodulens.train.default import detector as detector_task
from nodulens.train.default import malignancy as malignancy_task
from nodulens.train.default import release, rendered_nodules
from nodulens.train.default import segmenter as segmenter_task
from nodulens.train.default.own_outlines import own_outlines
from nodulens.train.default.regions import backgrounds, cube_regions
from nodulens.train.default.training import DefaultTraining
from nodulens.train.loop.export import WithFeatures, check_parity, export
from nodulens.train.loop.fit import Maker, Task, fit
from nodulens.train.networks.default_method import PooledClassifier, PromptUNet, malignancy_net, screen_net, volume_net
from nodulens.train.networks.forest import MeasuredForest, forest_of
from nodulens.train.networks.whitening import Whitening
from nodulens.train.run import train_default

pytestmark = [pytest.mark.training, pytest.mark.usefixtures("one_thread")]

Loss = Callable[[nn.Module, tuple[Tensor, ...]], Tensor]


# ---- The loop


def small_net() -> nn.Module:
    torch.manual_seed(0)
    return PooledClassifier(2, 1, 4, (4, 8), (False, True))


def disc_batches(rng: np.random.Generator) -> list[Maker]:
    """Three batches of noise, half of them with a bright middle, drawn from the generator."""

    def make() -> tuple[Tensor, Tensor]:
        label = np.arange(8) % 2
        x = rng.normal(0.3, 0.1, (8, 1, 32, 32))
        x[label == 1, :, 12:20, 12:20] += 0.4
        return torch.from_numpy(x.astype(np.float32)), torch.from_numpy(label.astype(np.float32))

    return [make, make, make]


def entropy(net: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
    return functional.binary_cross_entropy_with_logits(net(batch[0])[:, 0], batch[1])


class Stopped(Exception):
    """As if the process had been killed."""


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize("after", [1, 2, 3])
def test_resuming_is_as_if_never_stopped(tmp_path: Path, after: int) -> None:
    training = Training(epochs=4)
    whole = fit(small_net(), Task(disc_batches, entropy), training, tmp_path / "whole.pt")

    calls = 0

    def stops(rng: np.random.Generator) -> list[Maker]:
        nonlocal calls
        calls += 1
        if calls > after:
            makers = disc_batches(rng)
            return [makers[0], partial(_raise)]
        return disc_batches(rng)

    with pytest.raises(Stopped):
        fit(small_net(), Task(stops, entropy), training, tmp_path / "parts.pt")
    resumed = fit(small_net(), Task(disc_batches, entropy), training, tmp_path / "parts.pt")
    assert same(whole, resumed)


def test_a_resumed_training_knows_what_is_hard(tmp_path: Path) -> None:
    """Batches are drawn by the hardness that the loss has noted, in the same order whether stopped or not."""
    training = Training(epochs=4)

    def trained(checkpoint: Path, stop: int) -> list[int]:
        """The examples drawn, by a loss that notes each; stopped in the epoch ``stop``."""
        hardness, drawn = torch.ones(6), []

        def batches(rng: np.random.Generator) -> list[Maker]:
            row = int(hardness.argmax())
            drawn.append(row)
            ahead = len(drawn) > stop
            images = disc_batches(rng)[0]
            return [lambda: _raise() if ahead else (*images(), torch.tensor(row))]

        def loss(net: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
            hardness[batch[2]] -= float(batch[0].mean())
            return entropy(net, batch)

        fit(small_net(), Task(batches, loss, hardness=hardness), training, checkpoint)
        return drawn

    whole = trained(tmp_path / "whole.pt", 9)
    assert len(whole) == 4 and len(set(whole)) == 4, "what was seen is no longer the hardest"
    with pytest.raises(Stopped):
        trained(tmp_path / "parts.pt", 2)
    assert trained(tmp_path / "parts.pt", 9) == whole[2:]


def _raise() -> tuple[Tensor, ...]:
    raise Stopped


def test_a_finished_run_is_read_and_not_trained_again(tmp_path: Path) -> None:
    whole = fit(small_net(), Task(disc_batches, entropy), Training(epochs=2), tmp_path / "run.pt")

    def none(rng: np.random.Generator) -> list[Maker]:
        raise AssertionError("nothing is left to train")

    assert same(whole, fit(small_net(), Task(none, entropy), Training(epochs=2), tmp_path / "run.pt"))


def test_the_seed_decides(tmp_path: Path) -> None:
    a, b = (fit(small_net(), Task(disc_batches, entropy), Training(epochs=1), tmp_path / f"{n}.pt") for n in "ab")
    c = fit(small_net(), Task(disc_batches, entropy), Training(epochs=1, seed=1), tmp_path / "c.pt")
    assert same(a, b) and not same(a, c)


@pytest.mark.parametrize("change", [{"epochs": 3}, {"seed": 4}, {"learning_rate": 0.1}])
def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path, change: dict[str, int]) -> None:
    """Going on from it would give weights that no seed and no command can give again."""
    training = Training(epochs=1)
    fit(small_net(), Task(disc_batches, entropy), training, tmp_path / "run.pt")
    with pytest.raises(BadOption, match=r"name another folder for the run .*--run of python"):
        fit(small_net(), Task(disc_batches, entropy), replace(training, **change), tmp_path / "run.pt")  # type: ignore[arg-type]


def test_checkpoints_are_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fit(small_net(), Task(disc_batches, entropy), Training(epochs=1), tmp_path / "run.pt")
    before = (tmp_path / "run.pt").read_bytes()

    def fails(state: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", fails)
    with pytest.raises(CannotWrite, match=r"other\.pt"):
        fit(small_net(), Task(disc_batches, entropy), Training(epochs=2), tmp_path / "other.pt")
    assert not (tmp_path / "other.pt").exists()
    assert (tmp_path / "run.pt").read_bytes() == before


# ---- Each network learns


def two_candidates() -> tuple[Tensor, Tensor, Tensor]:
    ct = small_scans.noisy()
    places = [(28.0, 86.0, 136.0), (20.0, 60.0, 70.0)]
    views = (np.stack([view(ct, np.array(p), 8.0) for p in places])[:, None] for view in (screen_view, ball_view))
    screens, balls = map(torch.from_numpy, views)
    return screens, balls, torch.tensor([1.0, 0.0])


def two_prompts(data: Path) -> tuple[Tensor, Tensor]:
    cubes = Cubes(data)
    pairs = []
    for number in (0, 1):
        example = segmenter_task.from_cube(cubes, number)
        rng = np.random.default_rng(number)
        pairs.append(segmenter_task.draw(example, rng))
    return torch.from_numpy(np.stack([p[0] for p in pairs])), torch.from_numpy(np.stack([p[1] for p in pairs]))


def two_ratings(data: Path) -> tuple[Tensor, Tensor, Tensor]:
    material = malignancy_task.planes(Stacks(data), Cubes(data), {})
    order = np.argsort(material.target[:, 0])
    rows = [int(np.flatnonzero(material.nodule == order[k])[0]) for k in (0, -1)]
    target = torch.tensor([[0.0] * 7, [1.0] * 7])
    return torch.from_numpy(material.image[rows].astype(np.float32)), target, torch.ones(2)


@pytest.mark.parametrize("name", release.MAKERS)
def test_each_network_overfits_two_samples(data: Path, name: str) -> None:
    net, batch, loss = {
        "detector": lambda: (
            detector_task.DetectorNets(),
            two_candidates(),
            lambda net, batch: detector_task.nodule_loss(net, batch, detector_task.SMOOTHING)[0],
        ),
        "segmenter": lambda: (PromptUNet(), two_prompts(data), segmenter_task.overlap_loss),
        "malignancy": lambda: (malignancy_net(7), two_ratings(data), malignancy_task.rating_loss),
    }[name]()
    torch.manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    values = []
    for _ in range(40):
        optimizer.zero_grad()
        value = loss(net, batch)
        value.backward()
        optimizer.step()
        values.append(float(value.detach()))
    assert values[-1] < 0.3 * values[0]


# ---- Export


def small_forest() -> ExtraTreesRegressor:
    """Of six features, on 300 examples."""
    rng = np.random.default_rng(0)
    x = rng.random((300, 6)).astype(np.float32)
    return ExtraTreesRegressor(20, max_depth=5, random_state=0).fit(x, np.clip(x[:, 0] * x[:, 1], 0, 1))


def test_a_forest_computes_what_was_fitted() -> None:
    """Also where a value is just at a threshold, and where a feature counts by its logarithm."""
    fitted = small_forest()
    x = np.random.default_rng(1).random((500, 6)).astype(np.float32)
    tree = fitted.estimators_[0].tree_
    x[:50, tree.feature[0]] = np.float32(tree.threshold[0])
    for logarithmic in ((), (0, 2)):
        raw = x.copy()
        raw[:, list(logarithmic)] = np.exp(raw[:, list(logarithmic)])
        rows = slice(50 if logarithmic else 0, None)  # an exponential is rounded: no value may be at a threshold
        found = torch.sigmoid(forest_of(fitted, logarithmic)(torch.from_numpy(raw[rows])))[:, 0].numpy()
        np.testing.assert_allclose(found, np.clip(fitted.predict(x[rows]), 1e-3, 1 - 1e-3), atol=1e-5)


def whitening(features: int) -> Whitening:
    """With a mean of 0.1, and features multiplied by 1, 2, …"""
    return Whitening(np.full(features, 0.1), np.diag(np.arange(1.0, features + 1)))


@pytest.mark.parametrize("name", NAMES)
def test_what_is_exported_is_what_was_trained(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(1)
    net, example = {
        "screen": lambda: (screen_net(), torch.rand(3, 1, 16, 16, 16)),
        "volume": lambda: (volume_net(), torch.rand(2, 1, 32, 32, 32)),
        "segmenter": lambda: (PromptUNet(), torch.rand(2, CHANNELS, *GRID)),
        "malignancy": lambda: (WithFeatures(malignancy_net(7), whitening(48)), torch.rand(3, 2, 64, 64)),
        "measured": lambda: (MeasuredForest(forest_of(small_forest()), whitening(6), [0, 2]), torch.rand(3, 6)),
    }[name]()
    for module in net.modules():  # as if trained: statistics that are not 0 and 1
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2.0)  # type: ignore[arg-type]
    facts = {"name": name, "command": "", "trained_on": {}, "settings": {}, "input": {}, "figures": {}}
    path = export(net, example, tmp_path, facts)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING], "the exporter's own"
    assert {p.name for p in tmp_path.iterdir()} == {f"{name}.onnx", f"{name}.json"}
    model = load_model(name, 1, tmp_path)
    assert model.card == card(name, tmp_path)
    other = torch.rand(5, *example.shape[1:])
    with torch.inference_mode():
        wanted = net.eval()(other)
    for ours, theirs in zip(model.run(other.numpy()), wanted if isinstance(wanted, tuple) else (wanted,), strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-3)
    if name == "malignancy":
        _, whitened = model.run(other.numpy())
        with torch.inference_mode():
            features = net.net.pooled(other).numpy()  # type: ignore[union-attr, operator]
        np.testing.assert_allclose(whitened, (features - 0.1) * np.arange(1, 49), atol=1e-3)
    if name == "measured":
        values = other.numpy().copy()
        values[:, [0, 2]] = np.log(values[:, [0, 2]])
        np.testing.assert_allclose(model.run(other.numpy())[1], (values - 0.1) * np.arange(1, 7), atol=1e-3)
    raw = path.read_bytes()
    assert str(REPOSITORY).encode() not in raw and b"site-packages" not in raw and b"stack_trace" not in raw


def test_a_file_that_computes_something_else_is_refused(tmp_path: Path) -> None:
    facts = {"name": "screen", "command": "", "trained_on": {}, "settings": {}, "input": {}, "figures": {}}
    example = torch.rand(2, 1, 16, 16, 16)
    path = export(screen_net(), example, tmp_path, facts)
    with pytest.raises(NodulensError, match="differs from the trained one"):
        check_parity(screen_net().eval(), path, 10 * example)
    with path.open("ab") as file:
        file.write(b"\0")
    with pytest.raises(CorruptWeights):
        load_model("screen", 1, tmp_path)


# ---- More augmentation than what ships needs


def tasks(data: Path) -> dict[str, tuple[ModuleType, tuple[object, ...]]]:
    """Each network's module with its material."""
    stacks, cubes = Stacks(data), Cubes(data)
    return {
        "detector": (detector_task, ([*cube_regions(cubes), *backgrounds(data)], stacks)),
        "segmenter": (segmenter_task, (segmenter_task.examples(stacks, cubes),)),
        "malignancy": (malignancy_task, (malignancy_task.planes(stacks, cubes, {}),)),
    }


def test_each_training_is_augmented_only_where_it_is_asked(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And then inputs change, and what is to be learnt of them stays, or goes along."""
    caught: list[Task] = []
    for name, (module, material) in tasks(data).items():
        monkeypatch.setattr(module, "fit", lambda net, task, training, checkpoint: caught.append(task))
        training = getattr(FEW, name)
        module.train(*material, None, Path(), training)
        plain = caught[-1]
        module.train(*material, None, Path(), replace(training, augment=("rotate", "zoom", "noise")))
        changed = caught[-1]
        assert plain.augment is None and changed.augment is not None
        batch = changed.batches(np.random.default_rng(0))[0]()
        again = changed.augment(batch, np.random.default_rng(0))
        assert [t.shape for t in again] == [t.shape for t in batch]
        assert not torch.equal(again[0], batch[0])
        if name != "segmenter":
            images = 2 if name == "detector" else 1
            assert all(torch.equal(a, b) for a, b in zip(again[images:], batch[images:], strict=True))
    assert len(caught) == 8, "the detector's training has two parts"


@pytest.mark.parametrize("kind", ["flip", "turn", "rotate", "zoom", "shift", "contrast"])
def test_a_prompted_view_changes_with_its_truth_under_the_same_box(data: Path, kind: Augmentation) -> None:
    x, y = two_prompts(data)
    x[:, 2], y[:, 0] = (x[:, 0] > 0.6).float(), (x[:, 0] > 0.6).float()
    seen, truth = segmenter_task.changed((x, y), (kind,), np.random.default_rng(3))
    assert torch.equal(seen[:, 1], x[:, 1]) and torch.equal(seen[:, 2], truth[:, 0])
    assert torch.equal(truth, y) == (kind == "contrast") and not torch.equal(seen[:, 0], x[:, 0])
    if kind in ("flip", "turn", "shift"):
        assert torch.equal(seen[:, 0] > 0.6, truth[:, 0] > 0.5)


# ---- From a folder of data to a file and its card


def small(name: str, examples: int | None = None) -> DefaultTraining:
    """A network's training with batches for little material."""
    return replace(getattr(release.SHIPPED, name), batch=12, examples=examples)


FEW = release.Trainings(small("detector", 24), small("segmenter"), small("malignancy"))
"""As many examples as show that the path holds."""


def test_the_seconds_of_the_default_method_are_of_all_its_runs(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of both parts of a training, by their curves: where nothing is left to train, no second is."""

    def make(job: release.Release) -> Path:
        for part, seconds in (("foldNone", 60.5), ("foldNone-sharp", 30.25), ("fold1", 7.0)):
            table = job.run / "detector" / f"{part}.csv"
            table.parent.mkdir(parents=True, exist_ok=True)
            table.write_text(f"epoch,loss,watched,seconds\n1,1,-1,1.5\n2,0.5,-0.5,{seconds}\n")
        return job.out

    monkeypatch.setattr(release, "MAKERS", {"detector": make})
    for _ in range(2):
        assert train_default(data, tmp_path, command="typed", epochs=2).seconds == {"detector": 90.75}


def test_all_networks_are_made_one_after_the_other(data: Path, tmp_path: Path) -> None:
    """What ``python -m nodulens.train all`` does: five folds, the final one, export and cards, into a folder that
    works."""
    out, runs = tmp_path / "weights", tmp_path / "runs"
    asked = release.Release(data, out, runs, trainings=FEW.changed(1), masses=2, one_stack_in=16)
    assert [make(asked) for make in release.MAKERS.values()] == [out / f"{name}.onnx" for name in NAMES[1:-1]]
    for name in NAMES:
        known = card(name, out)
        assert known.command == f"python -m nodulens.train {TOGETHER.get(name, name)} --data ../shared/data"
        assert known.input and (known.settings if name == "screen" else known.figures)
        assert name == "measured" or known.trained_on["schedule"]["epochs"] == 1
        assert not EVALUATION_PATIENTS & set(known.trained_on["patients"])
        assert len(known.trained_on["patients"]) >= 20
        assert json.dumps(known.settings, allow_nan=False) and json.dumps(known.figures, allow_nan=False)
    before = {name: card(name, out).sha256 for name in NAMES}
    run = tmp_path / "run"
    again = train_default(data, run, command="again", epochs=1, trainings=FEW)
    assert again.seconds.keys() == release.MAKERS.keys() and min(again.seconds.values()) > 0
    made = {name: card(name, run).sha256 for name in NAMES}
    alike = [name for name in NAMES if made[name] == before[name]]
    assert alike[:3] == list(NAMES[:3]), "the same weights without the folds, but for those that learn from the folds'"
    assert all(card(name, run).settings == card(name).settings for name in NAMES)
    assert not any(card(name, run).figures for name in NAMES), "those that ship are of another training"
    for name in release.MAKERS:
        beside = run / "checkpoints" / name
        parts = ("foldNone", "foldNone-sharp") if name == "detector" else ("foldNone",)
        ends = ("pt", "csv", "png", "events")
        assert {p.name for p in beside.iterdir()} == {f"{part}.{end}" for part in parts for end in ends}
    split = read_split(run / "split.json")
    taught = {p for name in NAMES for p in card(name, run).trained_on["patients"]}
    assert {p for p, group in split.groups.items() if group.isdigit()} == taught
    assert split.patients("evaluation") and split.patients("evaluation") <= EVALUATION_PATIENTS
    other = shutil.copytree(data, tmp_path / "other")
    raw = dict(np.load(other / STACKS))
    raw["patient_id"][0] = "LIDC-IDRI-0999"
    np.savez(other / STACKS, **raw)
    with pytest.raises(BadOption, match="was trained on other rows or patients"):
        train_default(other, run, command="again", epochs=1, trainings=FEW)
    method = load_method(str(run), threads=1)
    recipe = replace(method.recipe, threshold=0.0, max_findings=5)
    report = analyze(small_scans.noisy(), method=replace(method, recipe=recipe))
    assert {w.sha256 for w in report.weights} == set(made.values())


def test_a_segmenter_taught_on_rendered_nodules_stands_apart(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that no run takes it for one that is not."""
    monkeypatch.setattr(rendered_nodules, "SCENES", 1)
    material = rendered_nodules.outline_material(data, rendered=True)
    training = replace(FEW.segmenter, epochs=1)
    for shown, name, option in ((material, "segmenter-rendered", " --rendered"), (material[:40], "segmenter", "")):
        known = release.segmenter_without(0, shown, tmp_path, training).card
        assert known.path == tmp_path / name / "fold0" / "segmenter.onnx"
        assert known.command == f"python -m nodulens.train segmenter --data ../shared/data{option} --fold 0"
        assert ("rendered" in known.trained_on["material"]) is bool(option)
    assert {e.patient for e in material if e.rendered} == set(Background.PATIENTS)


def test_own_outlines_are_of_the_fold_that_left_the_patient_out(data: Path, tmp_path: Path) -> None:
    """And are kept until the segmenter changes."""
    cubes = Cubes(data)
    asked: list[int] = []

    def model(sha256: str) -> Model:
        made = made_models.model(lambda batch: (20 * (batch[:, :1] - 0.6),))
        return replace(made, card=replace(made.card, sha256=sha256))

    def marks() -> Callable[[int], None]:
        return asked.append

    models = [model(str(fold)) for fold in range(FOLDS)]
    found = own_outlines(cubes, models, marks, tmp_path)
    assert sorted(asked) == cubes.nodules.tolist() and found
    for n, mask in found.items():
        assert (mask & cubes.outlined(n)).any() and 1 < mask.sum() < 20 * cubes.truth(n).sum()
    asked.clear()
    again = own_outlines(cubes, models, marks, tmp_path)
    assert not asked and again.keys() == found.keys() and all((again[n] == found[n]).all() for n in found)
    own_outlines(cubes, [*models[:2], model("new"), *models[3:]], marks, tmp_path)
    assert asked == [n for n in cubes.nodules.tolist() if fold_of(cubes.patients[n]) == 2]


def test_more_augmentation_stands_on_the_card(data: Path, tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(main)
    words = ["malignancy", "--data", str(data), "--out", str(tmp_path), "--epochs", "1", "--no-folds"]

    def trained(*more: str, run: str) -> Card:
        done = CliRunner().invoke(app, [*words, "--run", str(tmp_path / run), *more], catch_exceptions=False)
        assert done.exit_code == 0 and done.stdout == f"{tmp_path / 'malignancy'}.onnx and its card\n"
        return card("malignancy", tmp_path)

    plain, more = trained(run="plain"), trained("--augment", "rotate,zoom", run="more")
    assert "augment" not in plain.trained_on["schedule"] and "--augment" not in plain.command
    assert more.trained_on["schedule"] == plain.trained_on["schedule"] | {"augment": ["rotate", "zoom"]}
    assert more.command == f"{plain.command} --augment rotate,zoom"
    assert more.sha256 != plain.sha256
    with pytest.raises(BadOption, match=r"name another folder for the run .*--run of python"):
        trained("--augment", "flip", run="more")
    with pytest.raises(BadOption, match="one of flip"):
        trained("--augment", "spin", run="new")
    # a checkpoint from before there was a choice is one without, and with the batch that there was
    checkpoint = tmp_path / "plain" / "malignancy" / "foldNone.pt"
    state = torch.load(checkpoint, weights_only=True)
    assert state["training"].pop("augment") == () and state["training"].pop("batch") == 64
    torch.save(state, checkpoint)
    assert trained(run="plain").sha256 == plain.sha256


def test_training_again_gives_the_same_weights(data: Path, tmp_path: Path) -> None:
    material, training = malignancy_task.planes(Stacks(data), Cubes(data), {}), replace(FEW.malignancy, epochs=1)
    first, second = (malignancy_task.train(material, 0, tmp_path / run, training) for run in "ab")
    assert same(first, second)


def test_data_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"luna16_axial_patches_64\.npz is not there: --data must name"):
        Patches(tmp_path)


# ---- Who teaches whom


class Spy(Exception):
    """Carries what a network would have been trained on."""


def test_no_fold_teaches_a_network_that_judges_it(data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """For every network and fold: the patients whose rows its batches draw from."""
    stacks, cubes = Stacks(data), Cubes(data)
    ratings, examples = malignancy_task.planes(stacks, cubes, {}), segmenter_task.examples(stacks, cubes)
    regions = [*cube_regions(cubes), *backgrounds(data)]
    asked: list[tuple[list[str], int | None]] = []

    def validation(original: Callable[[object, int | None], object]) -> Callable[[object, int | None], object]:
        def call(patients: list[str], left_out: int | None) -> object:
            asked.append((list(patients), left_out))
            return original(patients, left_out)

        return call

    def stop(*_: object) -> None:
        raise Spy

    for task, material in (
        (malignancy_task, (ratings,)),
        (segmenter_task, (examples,)),
        (detector_task, (regions, stacks)),
    ):
        monkeypatch.setattr(task, "may_train", validation(task.may_train))
        monkeypatch.setattr(task, "fit", stop)
        for fold in (*range(FOLDS), None):
            asked.clear()
            with pytest.raises(Spy):
                task.train(*material, fold, tmp_path)  # type: ignore[arg-type]
            assert asked and all(left_out == fold for _, left_out in asked), task.__name__


def patients_of(data: Path) -> dict[str, list[str]]:
    """Whose material each loader hands on."""
    stacks, cubes, patches = Stacks(data), Cubes(data), Patches(data)
    few = Stacks(data)
    few.nodules = stacks.nodules[:40]
    return {
        "stacks": [stacks.patients[n] for n in stacks.nodules],
        "cubes": cubes.patients,
        "patches": patches.patients,
        "ratings": malignancy_task.planes(few, cubes, {}).patients,
        "examples": [e.patient for e in segmenter_task.examples(few, cubes)],
    }


def test_evaluation_patients_are_in_no_material(data: Path) -> None:
    for name, patients in patients_of(data).items():
        assert patients and not EVALUATION_PATIENTS & set(patients), name


def test_evaluation_patients_are_in_no_real_material(shared: Path) -> None:
    raw = set()
    for path in (*(shared / "lidc").glob("*.npz"), *(shared / "luna16").glob("*.npz")):
        with np.load(path) as archive:
            raw |= set(map(str, archive["patient_id"]))
    assert len(EVALUATION_PATIENTS & raw) == 3, "they do stand in the files, so that leaving them out means something"
    found = patients_of(shared)
    for name, patients in found.items():
        assert patients and not EVALUATION_PATIENTS & set(patients), name
    everybody = set().union(*found.values())
    assert len(everybody) > 700
    sizes = np.bincount([fold_of(p) for p in everybody], minlength=FOLDS)
    assert sizes.min() > 0.15 * len(everybody), "folds are of like size"


# ---- What the material says


def test_patches_leave_out_what_luna16_excludes_and_weigh_by_nodule(data: Path) -> None:
    patches = Patches(data)
    patients = made_material.NODULES - 3
    assert patches.label.sum() == patients + sum(
        n % 2 == 0 for n in range(made_material.NODULES) if n not in (5, 17, 29)
    )
    assert (~patches.label).sum() == 5 * patients, "one of six non-nodules lies in an excluded finding"
    for nodule in set(patches.nodule[patches.label]):
        assert patches.weight[patches.nodule == nodule].sum() == pytest.approx(1)
    assert (patches.weight[~patches.label] == 1).all() and (patches.nodule[~patches.label] == -1).all()


def test_stacks_are_put_in_order(data: Path) -> None:
    stacks = Stacks(data)
    raw = read_arrays(data / STACKS)
    streams = Streams(raw["hu_jls"], raw["hu_offset"])
    mixed = 0
    for nodule in (0, 7, 30):
        own = raw["slice_nodule"] == nodule
        order = np.argsort(raw["slice_z_mm"][own])
        stored = streams.picture(nodule).reshape(-1, 96, 96)
        assert np.array_equal(stacks.hu(nodule), np.float32(8) * stored[order] - 1000)
        assert np.array_equal(stacks.outlined(nodule), raw["reader_bits"][own][order] > 0)
        mixed += not np.array_equal(order, np.arange(len(order)))
    assert mixed, "some do stand in another order"
    share = stacks.share(0)
    assert set(np.unique(share)) == {0.0, 1.0}
    assert share.shape == (made_material.SLICES, 96, 96)


def test_ratings_of_readers_who_are_not_there_do_not_count(data: Path) -> None:
    ratings = Stacks(data).ratings
    values = ratings.values[0, :, -1]
    assert (values > 0).sum() == 3 == ratings.readers[0]
    there = values[values > 0].astype(float)
    assert ratings.mean("malignancy")[0] == pytest.approx(there.mean())
    assert ratings.median("malignancy")[0] == pytest.approx(np.median(there))
    above = ((there > 3) + 0.5 * (there == 3)).mean()
    assert ratings.share_above("malignancy", 3)[0] == pytest.approx(above)


def test_an_example_of_a_stack_ends_where_nothing_was_scanned(data: Path) -> None:
    stacks = Stacks(data)
    example = segmenter_task.from_stack(stacks, int(stacks.nodules[0]))
    first, last = example.real
    assert last - first == made_material.SLICES and example.is_stack
    assert not example.truth[:first].any() and not example.truth[last:].any()
    assert (example.weight[first:last] == 1).all() and (example.weight[:first] < 1).all()
    # what is invented above and below holds no nodule: about as dark as the lung round it
    inner = Box.of_mask(example.truth).slices[1:]
    assert example.image[0][inner].mean() < 0.3 < example.image[first + 1][inner].mean()
