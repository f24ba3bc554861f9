"""Trainings as they are typed, resumed, extended and recorded: the commands of docs/training.md at a small size."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from conftest import REPOSITORY, Run, refused
from nodulens.apps.train import Start
from nodulens.apps.typed import typed_command
from nodulens.data.folds import FOLDS, fold_of
from nodulens.data.material import Stacks
from nodulens.data.splits import FIXED, Split, fixed, stratified, write_split
from nodulens.errors import BadOption, NotFound, UnreadableFile
from nodulens.evaluate.networks import evaluate_networks
from nodulens.methods.recipe import changed
from nodulens.methods.run_record import Conditions, read_run, write_run
from nodulens.runtime.engine import load_model
from nodulens.train import _chosen, options
from nodulens.train.conditions import commit, hardware
from nodulens.train.config_file import read_config
from nodulens.train.loop.curves import curves_figure, read_curves
from nodulens.train.options import TrainOptions

FOLD = "2"
SMALL = ("--set", "classifier.size=44", "--threads", "1")
YAML = """\
recipe: conv3-classifier
fold: 2
set:
  classifier:
    size: 44
    epochs: 2
    learning_rate: 1e-3
"""


def weights(run: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = torch.load(run / "classifier.pt", weights_only=True)["kept"]
    return found


def same(a: Path, b: Path) -> bool:
    first, second = weights(a), weights(b)
    return all(torch.equal(first[name], second[name]) for name in first)


# ---------------------------------------------------------------- without training


def test_a_file_of_options_says_what_the_command_would(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(YAML + "  prompted: network\n  sliding_window: false\n  threshold: null\nthreads: 3\n")
    found = read_config(path)
    assert found.recipe == "conv3-classifier"
    assert found.settings == (
        "classifier.size=44", "classifier.epochs=2", "classifier.learning_rate=1e-3",
        "prompted=network", "sliding_window=false", "threshold=none",
    )  # fmt: skip
    assert found.options == TrainOptions(fold=2, threads=3)
    path.write_text("recipe: se-aux-unet\nset: [segmenter.epochs=5]\nsplit: own.json\n")
    found = read_config(path)
    assert found.settings == ("segmenter.epochs=5",) and found.options.split == tmp_path / "own.json"
    path.write_text("recipe: se-aux-unet\nset: {segmenter.augment: [flip, zoom]}\neverybody: true")
    found = read_config(path)
    assert found.settings == ("segmenter.augment=flip,zoom",)
    for given in (TrainOptions(fold=0), TrainOptions(split=Path("s.json"))):
        assert found.with_options(given) == given, "what is typed replaces other test patients"
    assert found.with_options(TrainOptions(epochs=3)) == TrainOptions(everybody=True, epochs=3)


def test_epochs_that_are_typed_count_more_than_those_of_the_file(tmp_path: Path) -> None:
    """And those of one network more than those of every network."""
    path = tmp_path / "mine.yaml"

    def epochs(text: str, *settings: str, every: int | None = None) -> int:
        path.write_text(f"recipe: conv3-classifier\n{text}\n")
        found = Start(None, path, None, settings).configured(TrainOptions(epochs=every))
        classifier = _chosen(found.recipe, found.settings, found.options).classifier
        assert classifier is not None
        return classifier.epochs

    one = "set: {classifier: {epochs: 7}}"
    assert epochs("epochs: 5") == 5 and epochs(one) == 7 and epochs(f"epochs: 5\n{one}") == 7
    assert epochs("epochs: 5", "classifier.epochs=3") == 3 and epochs(one, "classifier.epochs=3") == 3
    assert epochs("epochs: 5", every=2) == 2 and epochs(one, every=2) == 2
    assert epochs(one, "classifier.epochs=3", every=2) == 3
    assert epochs("set: [classifier.epochs = 7]", every=2) == 2


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "is a mapping of recipe, set"),
        ("recipe: [a", "is no YAML"),
        ("fold: 1", "names no recipe"),
        ("recipe: a\nrates: 3", r"has rates; its keys are recipe, set"),
        ("recipe: a\nfold: yes", "fold is a whole number from 0 up, got True"),
        ("recipe: a\nepochs: 0", "epochs is a whole number from 1 up, got 0"),
        ("recipe: a\neverybody: 1", "everybody is true or false, got 1"),
        ("recipe: a\nset: 3", "set is a list of name=value or a mapping, got 3"),
        ("recipe: a\nset:\n  classifier:\n    size: 1\n    size: 2", "has size twice"),
        ("recipe: !!python/object/apply:os.getcwd []", "is no YAML"),
    ],
)
def test_a_file_of_options_that_cannot_be_meant_is_refused(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises((BadOption, UnreadableFile), match=told):
        read_config(path)
    with pytest.raises(NotFound, match=r"no file .*none\.yaml"):
        read_config(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "Name a recipe"),
        (("conv3-classifier", "--config", "x.yaml"), "RECIPE and --config exclude one another"),
        (("conv3-classifier", "--extend", "2"), "RECIPE and --extend exclude one another"),
        (("--extend", "2"), "holds no run to extend"),
        (("--extend", "2", "--set", "classifier.size=32"), "leave out --set"),
        (("--extend", "2", "--fold", "1"), "no run to extend"),
        (("--extend", "2", "--every-fold"), "extend each of them by itself"),
    ],
)
def test_a_training_starts_in_one_way(tmp_path: Path, run: Run, words: tuple[str, ...], told: str) -> None:
    refused(run("train", *words, "--data", tmp_path, "-o", tmp_path / "run"), told)
    assert not (tmp_path / "run" / "run.json").exists()


def test_a_file_of_options_is_trained_for_every_fold_of_its_split(tmp_path: Path) -> None:
    write_split(Split({"a": "0", "b": "1", "c": "2"}, 3, "luna16"), tmp_path / "three.json")
    (tmp_path / "mine.yaml").write_text("recipe: conv3-classifier\nsplit: three.json\nfold: 2\n")
    start = Start(None, tmp_path / "mine.yaml", None, ())
    found = start.trainings(tmp_path / "runs", TrainOptions(epochs=3), True)
    assert {place.name: (own.fold, own.epochs) for place, own in found.items()} == {
        f"fold{k}": (k, 3) for k in range(3)
    }


def test_the_place_of_mlflow_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    for words in (["--mlflow", "http://me:secret@host"], ["--mlflow=http://me:secret@host"]):
        monkeypatch.setattr(sys, "argv", ["nodulens", "train", "se-aux-unet", *words, "--fold", "1"])
        assert typed_command() == "nodulens train se-aux-unet --fold 1"


def test_the_commit_is_that_of_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Marked if files differ; none for a package that the checkout around it does not track."""
    git = shutil.which("git")
    if git is None:
        pytest.skip("needs git")
    package = tmp_path / "clone" / "package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")

    def tell(*words: str) -> str:
        names = ("-c", "user.name=n", "-c", "user.email=n@example.org")
        return subprocess.run([git, *names, *words], cwd=package, check=True, capture_output=True, text=True).stdout

    assert commit(package) is None
    tell("init", "-q", "..")
    assert commit(package) is None, "not tracked"
    tell("add", ".")
    tell("commit", "-qm", "first")
    head = tell("rev-parse", "HEAD").strip()
    monkeypatch.setenv("GIT_DIR", str(REPOSITORY))  # as in a hook of another repository
    assert commit(package) == head
    monkeypatch.delenv("GIT_DIR")
    (package / "new.py").write_text("")
    assert commit(package) == f"{head}-dirty"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit(package) is None, "no git"


def test_hardware_names_no_machine_and_no_person() -> None:
    import getpass
    import socket

    found = hardware()
    assert found.cores >= 1 and found.cpu and (found.memory_gb or 1) > 0
    for name in (socket.gethostname(), getpass.getuser()):
        assert name not in json.dumps(vars(found))


# ---------------------------------------------------------------- training


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs, which tests copy."""
    from nodulens.train import train

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("record") / "run"
    options = TrainOptions(fold=int(FOLD), epochs=2, threads=1, command="nodulens train conv3-classifier …")
    train("conv3-classifier", data, folder, settings=["classifier.size=44"], options=options)
    return folder


@pytest.mark.training
def test_a_run_says_what_it_was_trained_with(trained: Path) -> None:
    run = read_run(trained)
    assert run.software["torch"] == torch.__version__ and run.hardware == hardware() and run.commit == commit()
    rows = read_curves(trained / "classifier.csv")
    assert [row["kept"] for row in rows] == [0, 1]
    for name in ("accuracy", "precision", "recall"):
        assert all(0 <= row[set_ + name] <= 1 for row in rows for set_ in ("", "validation_")), name
    assert [row["validation_loss"] for row in rows] == [-row["watched"] for row in rows]
    figure = curves_figure(trained / "classifier.csv", "classifier")
    panels = [axes.get_ylabel() for axes in figure.axes if axes.axison]
    assert panels == ["Loss", "Accuracy", "Precision", "Recall", "Learning rate", "Memory, MB"]
    assert [len(axes.lines) for axes in figure.axes[:4]] == [3, 3, 3, 3], "both sets, and the epoch that was kept"


@pytest.mark.training
def test_its_record_trains_it_again(trained: Path, data: Path, tmp_path: Path, run: Run) -> None:
    """And so does YAML; what is typed beside the file counts more."""
    words = ("--data", data, "--threads", "1")
    done = run("train", "--config", trained / "run.json", *words, "-o", tmp_path / "again")
    assert done.code == 0, done.err
    assert same(trained, tmp_path / "again")
    (tmp_path / "mine.yaml").write_text(YAML)
    done = run("train", "--config", tmp_path / "mine.yaml", *words, "-o", tmp_path / "yaml")
    assert done.code == 0 and same(trained, tmp_path / "yaml"), done.err
    lines = done.err.splitlines()
    assert len(lines) == 2 and re.fullmatch(
        r"\d\d:\d\d:\d\d classifier: epoch 1 of 2: loss [\d.]+, accuracy [\d.]+, precision [\d.]+, recall [\d.]+, "
        r"validation loss [\d.]+, .* s, \d+ MB", lines[0]
    ), done.err  # fmt: skip


@pytest.mark.training
def test_a_split_comes_with_the_record(data: Path, tmp_path: Path, trained: Path) -> None:
    write_split(stratified(Stacks(data).items(), 3), tmp_path / "split.json")
    shutil.copy(trained / "run.json", tmp_path)
    found = read_config(tmp_path / "run.json")
    assert found.options == TrainOptions(split=tmp_path / "split.json", fold=int(FOLD))
    (tmp_path / "split.json").unlink()
    with pytest.raises(NotFound, match=r"split\.json, which is not beside it"):
        read_config(tmp_path / "run.json")


@pytest.mark.training
def test_a_file_of_the_fixed_folds_names_all_who_train(data: Path, tmp_path: Path, run: Run) -> None:
    """Data beside what was split adds nobody: not in the run, nor where its record trains again, nor by --extend."""
    items = Stacks(data).items()
    named = sorted({item.patient_id for item in items})[::2]
    part = fixed([item for item in items if item.patient_id in named])
    write_split(replace(part, data_sets=("stacks",)), tmp_path / "split.json")
    first, again = tmp_path / "run", tmp_path / "again"
    at = ("--data", data, "--epochs", "1")
    assert run("train", "conv3-classifier", *at, "--split", tmp_path / "split.json", *SMALL, "-o", first).code == 0
    done = run("train", "--config", first / "run.json", *at, "--threads", "1", "-o", again)
    assert done.code == 0, done.err
    for place in (first, again):
        trained_on = json.loads((place / "classifier.json").read_text())["trained_on"]
        assert {*trained_on["patients"], *trained_on["watched"]} <= set(named)
    done = run("train", "--extend", "1", "--data", data, "--threads", "1", "-o", first)
    assert done.code == 0, done.err
    (found,) = evaluate_networks(first, {"classifier": load_model("classifier", folder=first)}, data).values()
    assert {row.patient for row in found.evaluated.rows} <= set(named)  # type: ignore[attr-defined]


def test_the_fixed_folds_that_a_run_recorded_are_those_of_everybody(tmp_path: Path) -> None:
    write_split(Split({"a": str(fold_of("a"))}, FOLDS, FIXED, notes=("by a run",)), tmp_path / "split.json")
    assert options.test_patients_of(tmp_path / "split.json", 2, everybody=False) == (None, 2)


@pytest.mark.training
def test_an_extended_run_says_so(trained: Path, data: Path, tmp_path: Path, run: Run) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    words = ("train", "--extend", "2", "--data", data, "-o", folder, "--threads", "1")

    with pytest.MonkeyPatch.context() as patch:
        import nodulens.train.loop.fit as loop

        save = loop._save

        def stops(state: dict, checkpoint: Path) -> None:  # type: ignore[type-arg]
            save(state, checkpoint)
            raise OSError("stopped")

        patch.setattr(loop, "_save", stops)
        assert run(*words).code == 1
    half = read_run(folder)
    assert half.untrained == ("classifier",) and half.commands[-1].startswith("nodulens train --extend 2")
    refused(run("train", "--extend", "3", "--data", data, "-o", folder), "is being extended by 2 epochs; finish that")
    assert run(*words).code == 0
    made = read_run(folder)
    assert [(one.epochs, one.after) for one in made.extended] == [(2, {"classifier": 2})]
    assert made.command == "nodulens train conv3-classifier …" and made.recipe.networks["classifier"].epochs == 4
    card = json.loads((folder / "classifier.json").read_text())
    assert card["settings"]["epochs"] == 4 and card["command"] == "; ".join(made.commands)
    assert [row["epoch"] for row in read_curves(folder / "classifier.csv")] == [1, 2, 3, 4]
    straight = tmp_path / "straight"
    done = run("train", "--config", folder / "run.json", "--data", data, "-o", straight, "--threads", "1")
    assert same(folder, straight), "its rate is constant, but for a first step"
    assert f"nodulens: {folder / 'run.json'} is of a run that was extended: it is trained as long" in done.err
    (folder / "classifier.pt").unlink()
    refused(run(*words), "has no checkpoint classifier.pt")


@pytest.mark.training
def test_what_stopped_early_is_extended_by_what_it_lacked(trained: Path, data: Path, tmp_path: Path, run: Run) -> None:
    """Its settings are then those that it had, and yet it is not done."""
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    made = read_run(folder)
    write_run(replace(made, recipe=changed(made.recipe, ["classifier.epochs=3"])), folder)
    card = json.loads((folder / "classifier.json").read_text())
    card["settings"]["epochs"] = 3
    (folder / "classifier.json").write_text(json.dumps(card))
    state = torch.load(folder / "classifier.pt", weights_only=True)
    state["training"]["epochs"] = 3  # as if its time had been up after two
    torch.save(state, folder / "classifier.pt")
    for epochs in ([1, 2, 3], [1, 2, 3, 4]):
        assert run("train", "--extend", "1", "--data", data, "-o", folder, "--threads", "1").code == 0
        assert [row["epoch"] for row in read_curves(folder / "classifier.csv")] == epochs
    assert [one.after["classifier"] for one in read_run(folder).extended] == [2, 3]


@pytest.mark.training
def test_every_part_is_checked_before_the_first_is_trained(data: Path, tmp_path: Path, run: Run) -> None:
    small = ("--set", "segmenter.size=64", "--set", "segmenter.batch=4", "--set", "renderings=1", "--threads", "1")
    words = ("train", "nnunet-sam", "--data", data, "-o", tmp_path / "run", "--fold", FOLD, *small)
    refused(run(*words, "--set", "classifier.classes=a,b,c,d,e,f"), "Nodules are benign or malignant")
    refused(run(*words, "--set", "segmenter.classes=background,heart,nodule"), "Nothing here is called 'heart'")
    refused(run(*words, "--set", "classifier.pretrained=none.pth"), "There is no file none.pth")
    assert not (tmp_path / "run" / "run.json").exists()


@pytest.mark.training
def test_an_empty_fold_is_refused_at_once(data: Path, tmp_path: Path, run: Run) -> None:
    groups = stratified(Stacks(data).items(), 3)
    moved = {p: "0" if g == "1" else g for p, g in groups.groups.items()}
    write_split(replace(groups, groups=moved), tmp_path / "split.json")
    words = ("train", "conv3-classifier", "--data", data, "-o", tmp_path / "run", *SMALL)
    done = run(*words, "--split", tmp_path / "split.json", "--fold", "1")
    refused(done, "Fold 1 holds no patient", "Folds with patients: 0 (", "2 (", "--everybody")
    counts = {fold: sum(fold_of(p) == fold for p in set(Stacks(data).patients)) for fold in range(FOLDS)}
    assert min(counts.values()) > 0, "so none of the fixed folds is empty here"
    done = run(*words, "--split", tmp_path / "split.json", "--every-fold")
    refused(done, "Fold 1 holds no patient")
    assert not (tmp_path / "run" / "fold0").exists(), "fold 0 has patients, and is not trained before that is said"
    assert not (tmp_path / "run" / "run.json").exists()


@pytest.mark.training
def test_what_it_was_resumed_with_is_kept_apart(trained: Path, data: Path, tmp_path: Path, run: Run) -> None:
    """A run that is finished keeps its record; one that goes on elsewhere has both."""
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    begun = replace(read_run(folder), commit="0" * 40, software={"python": "3.11.0"})
    write_run(begun, folder)
    words = ("train", "conv3-classifier", "--data", data, "-o", folder, "--fold", FOLD, "--epochs", "2", *SMALL)
    assert run(*words).code == 0
    assert read_run(folder).conditions == begun.conditions, "nothing was trained"
    assert run("train", "--extend", "1", "--data", data, "-o", folder, "--threads", "1").code == 0
    made = read_run(folder)
    assert made.earlier == (Conditions("0" * 40, {"python": "3.11.0"}, begun.hardware),) and made.commit == commit()


@pytest.mark.training
def test_warnings_of_libraries_are_not_shown(
    data: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ours are a line without the place in our source."""
    from nodulens.train.tasks import classification

    load = classification.load

    def noisy(*words: object) -> object:
        source = compile("import warnings\nwarnings.warn('of a library')", "/site-packages/library/code.py", "exec")
        exec(source, {})
        warnings.warn("of ours", stacklevel=1)
        return load(*words)  # type: ignore[arg-type]

    noisy.__code__ = noisy.__code__.replace(co_filename=classification.__file__)
    monkeypatch.setattr(classification, "load", noisy)
    monkeypatch.setattr(sys, "warnoptions", [])
    words = ("train", "conv3-classifier", "--data", data, "-o", tmp_path / "run", "--fold", FOLD, "--epochs", "1")
    done = run(*words, *SMALL)
    assert done.code == 0
    lines = done.err.splitlines()
    assert lines[0] == "nodulens: of ours" and "epoch 1 of 1" in lines[1] and len(lines) == 2, done.err


# ---------------------------------------------------------------- MLflow


class Server:
    """What MLflow's client is asked for, kept in memory: the calls of ``MlflowClient`` that we make, by their names
    and arguments as in mlflow-skinny 3.17."""

    def __init__(self) -> None:
        self.metrics: list[SimpleNamespace] = []
        self.params: dict[str, str] = {}
        self.tags: dict[str, str] = {}
        self.status: list[str] = []
        self.down = False

    def get_experiment_by_name(self, name: str) -> None:
        assert name == "nodulens"

    def create_experiment(self, name: str) -> str:
        return "1"

    def create_run(self, experiment_id: str, run_name: str | None = None) -> SimpleNamespace:
        return SimpleNamespace(info=SimpleNamespace(run_id="abc"))

    def get_run(self, run_id: str) -> SimpleNamespace:
        if run_id != "abc" or not self.params:
            raise MlflowException(f"No run {run_id}")
        return SimpleNamespace(info=SimpleNamespace(run_id=run_id))

    def update_run(self, run_id: str, status: str | None = None) -> None:
        self.status.append(str(status))

    def set_terminated(self, run_id: str, status: str | None = None) -> None:
        self.status.append(str(status))

    def set_tag(self, run_id: str, key: str, value: str) -> None:
        self.tags[key] = value

    def get_metric_history(self, run_id: str, key: str) -> list[SimpleNamespace]:
        return [one for one in self.metrics if one.key == key]

    def log_batch(self, run_id: str, metrics: list = (), params: list = ()) -> None:  # type: ignore[type-arg,assignment]
        if self.down:
            raise MlflowException("no answer from http://me:secret@host/api")
        self.metrics += metrics
        self.params |= {one.key: one.value for one in params}


class MlflowException(Exception):
    """Stands for ``mlflow.exceptions.MlflowException``."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    made = Server()
    entity: Callable[..., Callable[..., SimpleNamespace]] = lambda *names: (  # noqa: E731
        lambda *values: SimpleNamespace(**dict(zip(names, values, strict=True)))
    )
    entities = SimpleNamespace(Metric=entity("key", "value", "timestamp", "step"), Param=entity("key", "value"))

    def client(tracking_uri: str) -> Server:
        assert tracking_uri == "http://127.0.0.1:5000"
        return made

    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace(MlflowClient=client))
    monkeypatch.setitem(sys.modules, "mlflow.entities", entities)
    monkeypatch.setitem(sys.modules, "mlflow.exceptions", SimpleNamespace(MlflowException=MlflowException))
    return made


def steps(server: Server, name: str) -> list[int]:
    return [one.step for one in server.metrics if one.key == name]


@pytest.mark.training
def test_mlflow_gets_every_epoch_once(trained: Path, data: Path, tmp_path: Path, run: Run, server: Server) -> None:
    """Also those of before it was asked for, and those that it did not take when they came."""
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    at = ("--data", data, "-o", folder, "--threads", "1", "--mlflow", "http://127.0.0.1:5000")
    done = run("train", "conv3-classifier", "--fold", FOLD, "--epochs", "2", *SMALL[:2], *at)
    assert done.code == 0, done.err
    assert steps(server, "classifier/validation_accuracy") == [1, 2] and server.status == ["RUNNING", "FINISHED"]
    assert server.params["classifier.size"] == "44" and server.params["fold"] == FOLD
    assert server.tags["nodulens.torch"] == torch.__version__
    assert not {one.key for one in server.metrics} & {"classifier/epoch", "classifier/kept"}
    assert not any(math.isnan(one.value) for one in server.metrics)
    assert read_run(folder).mlflow == "abc"
    text = "".join(path.read_text() for path in folder.glob("*.json"))
    assert "127.0.0.1" not in text and "mlflow http" not in text
    assert run("train", "--extend", "2", *at).code == 0
    server.down = True
    done = run("train", "--extend", "1", *at)
    assert done.code == 0 and "training goes on: no answer from http://host/api" in done.err
    server.down = False
    assert run("train", "--extend", "1", *at).code == 0
    assert steps(server, "classifier/loss") == [1, 2, 3, 4, 5, 6]
    assert server.tags["nodulens.classifier.epochs"] == "6" and server.params["classifier.epochs"] == "2"


def test_without_mlflow_it_says_what_to_install(
    data: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    words = ("train", "conv3-classifier", "--data", data, "-o", tmp_path / "run", "--fold", FOLD, *SMALL)
    refused(run(*words, "--mlflow", "http://127.0.0.1:5000"), "pip install 'nodulens[mlflow]'", code=1)
    assert not (tmp_path / "run" / "run.json").exists()
