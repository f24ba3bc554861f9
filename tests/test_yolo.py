"""YOLO from outside: what goes to it, how it is called, and what is made of what it leaves.

YOLO is not needed here: a pretender leaves files in its format, with a small network that finds what is bright. The
whole path with the real one is ``nodulens yolo setup`` and ``nodulens yolo train``, which compares itself with
ultralytics' own network.
"""

from __future__ import annotations

import ast
import csv
import importlib.metadata
import importlib.util
import json
import math
import socket
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional

import made_environments
import small_scans
from conftest import Run
from made_material import slab
from nodulens.data.folds import EVALUATION_PATIENTS, fold_of
from nodulens.errors import BadOption, NodulensError, NotFound
from nodulens.evaluate.options import EvaluateOptions
from nodulens.evaluate.runs import evaluate_method
from nodulens.methods.catalogue import RECIPES, YOLO_SEG
from nodulens.methods.load import load_method
from nodulens.methods.recipe import NetworkConfig, Recipe, changed
from nodulens.methods.run_record import read_run
from nodulens.pipeline import analyze
from nodulens.train.external import yolo, yolo_inside
from nodulens.train.external.yolo import (
    INSET,
    MOST,
    Environment,
    Outlines,
    label_lines,
    polygon,
    settled,
    train_yolo,
    write_dataset,
)
from nodulens.train.networks.registry import APART, build
from nodulens.train.run import Division, RunSpec
from nodulens.train.tasks.segmentation import Slices

pytestmark = pytest.mark.training

FOLD = 2
SIZE = 64


class Bright(nn.Module):
    """Puts out what YOLO's network does, as its head is told to: every 8 × 8 pixels a detection as sure as it is
    bright there, 16 pixels wide, whose mask is what is bright; two prototypes."""

    def __init__(self) -> None:
        super().__init__()
        self.model = [SimpleNamespace(export=False)]

    def fuse(self, verbose: bool = True) -> Bright:
        return self

    def forward(self, x: Tensor) -> Any:
        grey = x[:, :1]
        score = (30 * (functional.max_pool2d(grey, 8) - 0.7)).sigmoid().flatten(2)
        along = 8 * torch.arange(x.shape[-1] // 8) + 4.0
        y, x_ = torch.meshgrid(along, along, indexing="ij")
        side = torch.full_like(y, 16.0)
        box = torch.stack([x_, y, side, side]).flatten(1).expand(x.shape[0], -1, -1)
        weights = torch.ones_like(box[:, :2])
        bright = 40 * (functional.max_pool2d(grey, 4) - 0.7)
        out = (torch.cat([box, score, weights], 1), torch.cat([bright, torch.zeros_like(bright)], 1))
        return out if self.model[-1].export else (out, None)


@dataclass(frozen=True)
class Pretender(made_environments.Pretender, Environment):
    """Leaves what YOLO does."""

    def step(self, work: Path, name: str, *arguments: object) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(yolo_inside, "load", lambda weights: Bright())
            super().step(work, name, *arguments)

    def _train(self, work: Path, data: Path, target: Path, *told: str) -> None:
        assert json.loads(data.read_text())["names"] == ["nodule"] and f"--size={SIZE}" in told
        (target / "weights").mkdir(parents=True, exist_ok=True)
        for name in ("weights/best.pt", "weights/last.pt", "curves.csv", "results.png"):
            (target / name).write_text(name)

    def _export(self, work: Path, weights: Path, target: Path, size: str) -> None:
        yolo_inside.export(weights, target, int(size.partition("=")[2]))

    def _predict(self, work: Path, weights: Path, image: Path, target: Path) -> None:
        yolo_inside.predict(weights, image, target)
        with np.load(target) as said:
            found, prototypes = said["found"], said["prototypes"]
        found[:, 4] += self.off
        np.savez(target, found=found, prototypes=prototypes)


def standard() -> NetworkConfig:
    assert YOLO_SEG.segmenter is not None
    return YOLO_SEG.segmenter


def recipe(*settings: str) -> Recipe:
    asked = changed(YOLO_SEG, (f"segmenter.size={SIZE}", "renderings=1", *settings))
    assert asked.segmenter is not None
    return replace(asked, segmenter=settled(asked.segmenter))


# ---- The whole path


def test_a_run_with_yolo_is_judged_and_analyses(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env, folder = Pretender(tmp_path, stopped=["train"]), tmp_path / "run"
    spec = RunSpec(data, folder, "as typed", fold=FOLD)
    with pytest.raises(NodulensError, match="stopped"):
        train_yolo(recipe(), spec, env, 60)
    made = train_yolo(recipe(), spec, env, 60)
    assert env.done == ["train", "train", "export", "predict"], "it goes on where YOLO stands"
    assert made == read_run(folder) and made.seconds.keys() == {"segmenter"}
    assert made.software["yolo"] == "ultralytics==8.4.190"
    assert {p.suffix for p in folder.glob("segmenter.*")} == {".onnx", ".json", ".pth", ".csv", ".png"}
    assert (folder / "segmenter.pth").read_text() == "weights/best.pt"

    card = json.loads((folder / "segmenter.json").read_text())
    taught = set(card["trained_on"]["patients"])
    assert taught and all(fold_of(p) != FOLD for p in taught) and not taught & EVALUATION_PATIENTS
    assert card["licence"].startswith("AGPL-3.0") and "CC BY 3.0" in card["licence"]
    assert (card["settings"]["network"], card["settings"]["detections"]) == ("yolo11m-seg", 50)
    parity = card["figures"]["off_yolos_network"]
    assert parity["largest"] <= parity["tolerance"] == 1e-3 and parity["score_taken_for_1"] > 0

    # from here on as for any other run, without YOLO
    found = evaluate_method(folder, data, options=EvaluateOptions(threads=1)).to_json()["networks"]["segmenter"]
    assert {fold_of(p) for p in found["rows"]["patient"]} == {FOLD}
    assert found["figures"]["classes"].keys() == {"nodule"} and "f1" in found["figures"]["boxes"]
    assert sum(found["rows"]["nodule predicted"]) > 0, "what is bright is outlined"
    method = load_method(folder, threads=1, settings=["threshold=0"])
    report = analyze(small_scans.noisy(), method=method)
    assert report.recipe == "yolo-seg" and "segmenter" in {w.name for w in report.weights}

    with pytest.raises(BadOption, match="fold 2; name another folder"):
        train_yolo(recipe(), replace(spec, fold=3), env, 60)


def test_a_network_that_differs_from_yolos_own_is_refused(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = Pretender(tmp_path, off=0.02)
    with pytest.raises(NodulensError, match=r"exported from YOLO differs from its own predictor by 0\.0"):
        train_yolo(recipe(), RunSpec(data, tmp_path / "run", "", fold=FOLD), env, 8)
    assert not (tmp_path / "run" / "segmenter.json").exists()


# ---- What goes out


def test_slices_become_a_data_set_of_yolo(tmp_path: Path) -> None:
    material = Slices((slab("a"), slab("b"), slab("judge")))
    config = replace(standard(), size=128, pixel_mm=2.5)
    known = write_dataset(material, config, Division(np.array([0, 1]), np.array([3]), np.array([6, 7])), tmp_path)
    told = json.loads(known.read_text())
    assert (told["train"], told["val"], told["names"]) == ("images/train", "images/val", ["nodule"])
    folder = known.parent
    files = {p.relative_to(folder).as_posix() for p in folder.rglob("*.*")} - {"data.yaml"}
    names = ("train/a_000000", "train/a_000001", "val/b_000003")
    assert files == {f"images/{n}.png" for n in names} | {f"labels/{n}.txt" for n in names}
    image = np.asarray(Image.open(folder / "images/train/a_000000.png"))
    assert image.shape == (128, 128) and image.dtype == np.uint8
    (line,) = (folder / "labels/train/a_000000.txt").read_text().splitlines()
    drawn = filled([line], (128, 128))
    assert drawn.sum() == 16 * 16, "8 × 8 pixels of 5 mm in pixels of 2.5"
    middle = ndimage.binary_erosion(drawn, iterations=2)
    assert np.median(image[middle]) == round(255 * 1250 / 1400), "250 HU of −1000 to 400"
    assert (folder / "labels/train/a_000001.txt").read_text() == "", "no nodule, no polygon"


def test_a_data_set_that_is_there_is_kept_and_another_refused(tmp_path: Path) -> None:
    material = Slices((slab("a"), slab("b")))
    division, config = Division(np.array([0]), np.array([1]), np.array([3])), replace(standard(), size=64)
    image = write_dataset(material, config, division, tmp_path).parent / "images/train/a_000000.png"
    image.unlink()
    write_dataset(material, config, division, tmp_path)
    assert not image.exists()
    with pytest.raises(BadOption, match="name another folder"):
        write_dataset(material, replace(config, epochs=7), division, tmp_path)
    with pytest.raises(BadOption, match="name another folder"):
        write_dataset(material, config, replace(division, train=np.array([2])), tmp_path)


def filled(lines: list[str], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """What ultralytics makes of polygons (``data/utils.py``, ``polygon2mask``): rounded down, then filled by OpenCV."""
    out = np.zeros(shape, dtype=np.uint8)
    for line in lines:
        number, *shares = line.split()
        assert number == "0" and len(shares) >= 8
        points = np.array(shares, dtype=np.float32).reshape(-1, 2) * np.float32(shape[::-1])
        cv2.fillPoly(out, [points.astype(np.int32)], color=1)
    return out.astype(bool)


def drawing(*rows: str) -> NDArray[np.bool_]:
    return np.array([[c == "#" for c in row] for row in rows])


SHAPES = {
    "a pixel": drawing("....", ".#..", "...."),
    "a line": drawing("....", ".###", "...."),
    "a hook at the edge": drawing("###.", "#.#.", "#..#", "##.#"),
    "two that touch by a corner": drawing("##..", "##..", "..##", "..##"),
    "everything": drawing("###", "###"),
    "a cross": drawing(".#.", "###", ".#."),
}


@pytest.mark.parametrize("mask", SHAPES.values(), ids=SHAPES.keys())
def test_polygons_fill_the_mask_again(mask: NDArray[np.bool_]) -> None:
    assert np.array_equal(filled(label_lines(mask), mask.shape), mask)


def test_polygons_fill_any_mask_again_but_for_its_holes() -> None:
    rng = np.random.default_rng(0)
    for smooth in (0.0, 0.7, 1.5, 3.0):
        for _ in range(20):
            noise = ndimage.gaussian_filter(rng.normal(size=(48, 61)), smooth)
            mask = noise > np.quantile(noise, 0.7)
            whole = ndimage.binary_fill_holes(mask)
            lines = label_lines(mask)
            assert np.array_equal(filled(lines, mask.shape), whole)
            assert len(lines) == ndimage.label(whole)[1]
    assert label_lines(np.zeros((5, 5), dtype=bool)) == []


def test_the_box_of_a_polygon_is_that_of_the_pixels_faces() -> None:
    points = polygon(drawing("###", "..#"))
    assert points.tolist() == pytest.approx(
        np.array([[0, 0], [3, 0], [3, 2], [2, 2], [2, 1], [0, 1]])
        + INSET * np.array([[1, 1], [-1, 1], [-1, -1], [1, -1], [1, -1], [1, -1]])
    )


# ---- What comes back


def detection(box: tuple[float, float, float, float], score: float, *weights: float) -> list[float]:
    return [*box, score, *weights]


def outlines(size: int, most: int = MOST) -> Outlines:
    return Outlines(nn.Identity(), size, most)


def test_detections_become_probabilities_of_pixels() -> None:
    """Prototypes of 1, so that a mask is the sigmoid of the weight: 3/4 for ln 3, 1/2 for 0."""
    rows = [
        detection((4, 4, 4, 4), 0.8, math.log(3)),  # columns and rows 2 to 5: 0.8 · 3/4
        detection((4, 4, 4, 4), 0.7, math.log(3)),  # the same again, less sure
        detection((5.75, 4, 1.5, 2), 0.9, 0.0),  # column 5 and half of 6, rows 3 and 4: 0.9 · 1/2
        detection((0, 7.5, 2, 1), 0.4, 0.0),  # half of it beyond the edge
    ]
    seen = outlines(8).probabilities(torch.tensor([rows]).transpose(1, 2), torch.ones(1, 1, 2, 2))
    wanted = torch.zeros(8, 8)
    wanted[2:6, 2:6] = 0.6
    wanted[3:5, 6] = 0.225
    wanted[7, 0] = 0.2
    assert seen.shape == (1, 1, 8, 8) and torch.allclose(seen[0, 0], wanted, atol=1e-6)


def test_masks_are_drawn_between_prototypes() -> None:
    """Weights 1 and 2 of two prototypes; half-way between their pixels a sum is a mean weighted 3 : 1."""
    prototypes = torch.tensor([[[[0.0, 4.0]] * 2, [[1.0, -2.0]] * 2]])  # sums 2 and 0
    found = torch.tensor([[detection((2, 2, 4, 4), 1.0, 1.0, 2.0)]]).transpose(1, 2)
    row = outlines(4).probabilities(found, prototypes)[0, 0, 1]
    assert torch.allclose(row, torch.tensor([2.0, 1.5, 0.5, 0.0]).sigmoid())


def test_the_most_certain_detections_count_and_of_equals_the_first() -> None:
    rows = [detection((k + 0.5, 0.5, 1, 1), score, 0.0) for k, score in enumerate((0.2, 0.4, 0.2, 0.2))]
    seen = outlines(4, most=2).probabilities(torch.tensor([rows]).transpose(1, 2), torch.ones(1, 1, 1, 1))
    assert torch.allclose(seen[0, 0, 0], torch.tensor([0.1, 0.2, 0.0, 0.0]))


def test_logits_are_bounded() -> None:
    net = outlines(8)
    net.net = Bright()
    net.net.model[-1].export = True
    x = torch.zeros(2, 1, 8, 8)
    x[1] = 1
    logits = net.train()(x)
    assert torch.allclose(logits[0], torch.tensor(math.log(0.01 / 0.99))), "certain that there is nothing"
    assert (logits[1] > 4).all() and torch.isfinite(logits).all()


# ---- What runs inside


def test_curves_are_a_table(tmp_path: Path) -> None:
    columns = (
        "epoch", "time", "train/box_loss", " train/seg_loss", "metrics/mAP50(B)", "metrics/mAP50-95(B)",
        "metrics/precision(M)", "metrics/recall(M)", "metrics/mAP50-95(M)", "val/box_loss", "lr/pg0",
    )  # fmt: skip
    took = ((1, 3.5), (2, 7), (3, 4), (4, 8.5))  # it was resumed after the second, and counts anew
    with (tmp_path / "results.csv").open("w", newline="") as file:
        csv.writer(file).writerows([columns, *((n, s, 2, 0.5, 0.9, 0.8, 0.7, 0.6, 0.25, 7, 0.01) for n, s in took)])
    yolo_inside.write_curves(tmp_path / "results.csv", tmp_path / "curves.csv")
    assert (tmp_path / "curves.csv").read_text().split() == [
        "epoch,loss,validation_loss,validation_precision,validation_recall,"
        "validation_map50,validation_map50_95,watched,learning_rate,seconds",
        *(f"{n},2.5,7.0,0.7,0.6,0.9,0.8,0.25,0.01,{s}" for n, s in ((1, 3.5), (2, 7.0), (3, 11.0), (4, 15.5))),
    ]


def test_nothing_gets_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", socket.getaddrinfo)
    monkeypatch.setattr(socket.socket, "connect", socket.socket.connect)
    yolo_inside.refuse_network()
    with pytest.raises(OSError, match="off the network"):
        socket.create_connection(("example.org", 443))
    with socket.socket() as internet, pytest.raises(OSError, match="off the network"):
        internet.connect(("127.0.0.1", 9))


def test_torchvision_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another ultralytics asks for its version too when it is imported."""
    package = tmp_path / "ultralytics" / "utils"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").write_text("")
    (package / "__init__.py").write_text("import importlib.metadata as m\nSEEN = m.version('torchvision')\n")
    (package / "nms.py").write_text("class TorchNMS:\n    @staticmethod\n    def nms(*boxes):\n        return boxes\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("ultralytics", "ultralytics.utils", "ultralytics.utils.nms", "torchvision"):
        monkeypatch.setitem(sys.modules, name, None)  # and back to what it was afterwards
        del sys.modules[name]
    known = importlib.metadata.version
    yolo_inside.do_without_torchvision()
    assert sys.modules["ultralytics.utils"].SEEN == "0.28.0" and importlib.metadata.version is known
    stub = sys.modules["torchvision"]
    assert stub.ops.nms(1, 2) == (1, 2) and importlib.util.find_spec("torchvision") is not None


def test_its_steps_take_what_they_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[str, Any] = {}
    monkeypatch.setattr(yolo_inside, "prepare", lambda: None)

    def train(**options: Any) -> None:
        told.update(options)

    monkeypatch.setattr(yolo_inside, "train", train)
    wishes = {"network": "yolo11n-seg", "size": 64, "batch": 2, "epochs": 3, "seed": 0, "patience": 0,
              "optimizer": "SGD", "learning-rate": 0.01, "weight-decay": 5e-4, "warm-up": 0.25}  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["inside", "train", "d.yaml", "out", *(f"--{k}={v}" for k, v in wishes.items())])
    yolo_inside.main()
    settings = yolo_inside.Settings(weights=None, **{n.replace("-", "_"): v for n, v in wishes.items()})  # type: ignore[arg-type]
    assert told == {"data": Path("d.yaml"), "target": Path("out"), "settings": settings}


def test_neither_side_imports_the_other() -> None:
    def imported(path: Path) -> set[str]:
        return {
            name.name.split(".")[0] if isinstance(node, ast.Import) else (node.module or "").split(".")[0]
            for node in ast.walk(ast.parse(path.read_text("utf-8")))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in node.names
        }

    script = Path(yolo_inside.__file__)
    assert imported(script) - set(sys.stdlib_module_names) == {"torch", "numpy", "ultralytics"}
    others = [path for path in script.parents[2].rglob("*.py") if path != script]
    assert len(others) > 100 and not [path for path in others if "ultralytics" in imported(path)]
    top = [node for node in ast.parse(script.read_text("utf-8")).body if isinstance(node, ast.ImportFrom | ast.Import)]
    assert not [node for node in top if "ultralytics" in ast.unparse(node)], "our side may look where the script lies"


# ---- How it is called


def test_one_command_makes_the_environment(tmp_path: Path, calls: list[Any], run: Run) -> None:
    done = run("yolo", "setup", "--env", tmp_path / "env")
    assert done.code == 0 and "AGPL-3.0" in done.out
    python = str(Environment(tmp_path / "env").program("python"))
    assert [command for command, _ in calls] == [
        [sys.executable, "-m", "venv", str(tmp_path / "env")],
        [python, "-m", "pip", "install", f"torch=={torch.__version__}", "ultralytics==8.4.190"],
        [python, "-m", "pip", "uninstall", "--yes", "torchvision"],
    ]


def test_its_settings_lie_in_the_run(tmp_path: Path, calls: list[Any]) -> None:
    env = Environment(tmp_path / "env", threads=3)
    env.step(tmp_path, "train", "data.yaml")
    ((command, places),) = calls
    assert command == [str(env.program("python")), "-P", yolo_inside.__file__, "train", "data.yaml"]
    assert places == {"YOLO_CONFIG_DIR": str(tmp_path.resolve())} and env.variables == {"OMP_NUM_THREADS": "3"}


def test_what_is_typed_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    asked: list[Any] = []

    def remember(recipe: Recipe, spec: RunSpec, environment: Environment, slices: int | None) -> Any:
        asked.append((recipe, spec, slices))
        return SimpleNamespace(seconds={"segmenter": 3.0})

    monkeypatch.setattr(yolo, "train_yolo", remember)
    place = ("--env", tmp_path, "--data", tmp_path, "-o", tmp_path / "run")
    assert run("yolo", "train", *place).out == f"{tmp_path / 'run' / 'segmenter'}.onnx and its card, 3 s\n"
    run("yolo", "train", *place, "--size", "n", "--set", "segmenter.epochs=3", "--slices", "9", "--everybody")
    (first, whole, every), (second, few, nine) = asked
    assert first == YOLO_SEG and whole.fold == 1 and every is None
    assert second.segmenter == replace(standard(), network="yolo11n-seg", epochs=3)
    assert few.fold is None and nine == 9 and few.command.startswith("nodulens yolo train --env")


def test_without_the_environment_the_message_makes_it(data: Path, tmp_path: Path, run: Run) -> None:
    done = run("yolo", "train", "--env", tmp_path / "none", "--data", data, "-o", tmp_path / "run")
    assert done.code == 2 and f"holds no YOLO. Create it: nodulens yolo setup --env {tmp_path / 'none'}" in done.err


def test_yolo_is_told_what_the_config_says(tmp_path: Path, calls: list[Any]) -> None:
    material = Slices((slab("a"), slab("b")))
    weights = tmp_path / "mine.pt"
    weights.touch()
    asked = recipe("segmenter.patience=none", "segmenter.epochs=50", f"segmenter.pretrained={weights}")
    division = Division(np.array([0]), np.array([1]), np.array([3]))
    job = yolo.Job(asked, material, division, tmp_path, tmp_path / "yolo", "")
    job.work.mkdir()
    assert yolo._train(job, Environment(tmp_path)) == tmp_path / "yolo" / "trained"
    ((command, _),) = calls
    told = dict(part.removeprefix("--").split("=") for part in command if part.startswith("--"))
    assert told == {
        "network": "yolo11m-seg", "size": "64", "batch": "16", "epochs": "50", "seed": "0", "patience": "0",
        "optimizer": "SGD", "learning-rate": "0.01", "weight-decay": "0.0005", "warm-up": "1.5",
        "weights": str(weights),
    }  # fmt: skip


# ---- What can be asked


def test_yolo_decides_by_itself(tmp_path: Path) -> None:
    asked = replace(standard(), epochs=3, size=640, network="yolo11s-seg", optimizer="adamw")
    assert settled(asked) == asked
    with pytest.raises(BadOption, match=r"YOLO chooses segmenter\.schedule, segmenter\.classes by itself"):
        settled(replace(standard(), classes=("lung", "nodule"), schedule="step"))
    with pytest.raises(BadOption, match="no multiple of 32"):
        settled(replace(standard(), size=100))
    with pytest.raises(BadOption, match="yolo11n-seg, yolo11s-seg, yolo11m-seg"):
        settled(replace(standard(), network="yolo11x-seg"))
    with pytest.raises(NotFound, match="Nothing is fetched"):
        settled(replace(standard(), pretrained="yolo11m-seg.pt"))


def test_our_trainer_sends_to_the_other_command() -> None:
    assert YOLO_SEG.name not in RECIPES
    for network, command in APART.items():
        with pytest.raises(BadOption, match=command):
            build(replace(standard(), network=network))
