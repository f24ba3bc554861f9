"""``segment`` by SAM, SAM2 and MedSAM: by a point, a box, a mask and a text, with every recipe that prompts."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import made_outliners
import made_reports
import small_scans
from conftest import Run, refused
from made_sam import Drawn
from nodulens.apps.panels import faces_on
from nodulens.core.nodule import Box
from nodulens.core.volume import Mask, Volume
from nodulens.errors import BadOption, BadValues
from nodulens.io import read_mask, write_mask
from nodulens.methods.catalogue import NNUNET_SAM, RESNET_UNET_PATCH_CNN, SAM2_DENSENET
from nodulens.methods.load import load_method
from nodulens.methods.recipe import Recipe
from nodulens.pipeline import segment, segment_text
from nodulens.presentation.prompted import nodule_figure
from nodulens.query import only, parse
from nodulens.report.outputs import DICOM, FILES, PANELS
from nodulens.report.record import Report
from nodulens.stages.prompts import Prompt
from nodulens.stages.sam import Sam
from nodulens.stages.user_prompts import UserPrompt

CENTRE, DIAMETER = made_reports.NODULES[0]
POINT = ",".join(map(str, CENTRE))
BOX = ",".join(str(c + s * DIAMETER / 2) for s in (-1, 1) for c in CENTRE)
FLAT = ",".join(str(c + s * (0 if k == 2 else DIAMETER / 2)) for s in (-1, 1) for k, c in enumerate(CENTRE))
RUNS = {"sam2-densenet": SAM2_DENSENET, "nnunet-sam": NNUNET_SAM}

pytest.importorskip("transformers", reason="needs pip install 'nodulens[sam]'")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of the recipes that prompt SAM, without SAM's weights: ``--checkpoint`` names them."""
    folder = tmp_path_factory.mktemp("runs")
    for name, recipe in RUNS.items():
        made_outliners.write(folder / name, recipe, threshold=small_scans.LOW)
    with pytest.MonkeyPatch.context() as patch:  # it keeps what is bright in the middle, as the balls are
        patch.setattr(made_outliners, "KEPT", made_outliners.BRIGHT)
        made_outliners.write(folder / "sliding", RESNET_UNET_PATCH_CNN)
    return folder


@pytest.fixture(scope="module")
def ct() -> Volume:
    return small_scans.noisy()


@pytest.fixture(scope="module")
def rough(ct: Volume, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A rough mask of the first ball, as a file: the cube around it."""
    path = tmp_path_factory.mktemp("rough") / "rough.nii.gz"
    write_mask(_cube(ct), path)
    return path


def _cube(ct: Volume) -> Mask:
    labels = np.zeros(ct.geometry.shape, dtype=np.uint8)
    middle = np.round(ct.geometry.to_index(CENTRE)).astype(int)
    reach = np.round(DIAMETER / 2 / np.asarray(ct.geometry.spacing_zyx)).astype(int)
    labels[tuple(slice(m - r, m + r + 1) for m, r in zip(middle, reach, strict=True))] = 1
    return Mask(labels, ct.geometry, {1: "nodule"})


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Prompt]:
    """A network that draws what it is told, in place of SAM's weights; and the prompts that it was given."""
    seen: list[Prompt] = []

    class Noting(Sam):
        def segment(self, volume: Volume, prompt: Prompt, prior: Any = None) -> Any:
            seen.append(prompt)
            return super().segment(volume, prompt, prior)

    monkeypatch.setattr("nodulens.stages.sam.load_sam", lambda *args, **more: Noting(Drawn(square=True)))
    monkeypatch.setattr("nodulens.stages.sam.kind_of", lambda checkpoint: "sam2")
    return seen


# ---------------------------------------------------------------- the documented commands


@pytest.mark.parametrize(
    ("recipe", "checkpoint", "prompt", "more"),
    [
        ("sam2-densenet", "sam2", "--box", ()),
        ("sam2-densenet", "sam2", "--point", ("--set", "memory=true")),
        ("sam2-densenet", "sam2", "--mask", ()),
        ("nnunet-sam", "sam", "--point", ()),
        ("nnunet-sam", "sam", "--box", ()),
        ("default", "sam2", "--mask", ("--set", "shown=crop")),
        ("default", "sam", "--box", ()),
    ],
)
def test_a_person_prompts_sam(
    run: Run,
    runs: Path,
    sams: Path,
    dicom: Path,
    rough: Path,
    tmp_path: Path,
    recipe: str,
    checkpoint: str,
    prompt: str,
    more: tuple[str, ...],
) -> None:
    """Random weights in the published format: that they take part, and that the outputs are whole."""
    named = runs / recipe if recipe in RUNS else recipe
    given = {"--point": POINT, "--box": BOX, "--mask": rough}[prompt]
    words = ("--recipe", named, "--checkpoint", sams / checkpoint, prompt, given, "--threads", "1", *more)
    done = run("segment", dicom, "-o", tmp_path / "out", *words)
    assert done.code == 0, done.err
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["prompted"] and len(report["nodules"]) == 1
    held = report["weights"][-1]
    assert held["name"] == f"…/{checkpoint}" and len(held["sha256"]) == 64
    assert report["nodules"][0]["risk"]["model"] == ("classifier" if recipe in RUNS else "malignancy")
    assert read_mask(tmp_path / "out" / "nodules.nii.gz").labels.any()


def test_what_is_given_is_what_prompts(ct: Volume, drawn: list[Prompt]) -> None:
    """A network that draws what it is told: a box is filled, a mask comes back as it was given, a point is a disc."""
    method = load_method(Recipe(prompted="sam2", checkpoint="anything"), threads=1)
    box = segment(ct, box=[float(v) for v in BOX.split(",")], method=method).nodules[0]
    start = ct.geometry.to_index(np.subtract(CENTRE, DIAMETER / 2)) + 0.5
    assert np.allclose(drawn[0].start, start) and not drawn[0].flat
    assert box.mask is not None and box.mask.all(), "a box, and nothing but it"
    cube = _cube(ct)
    again = segment(ct, mask=cube, method=method).nodules[0]
    assert again.box == Box.of_mask(cube.labels > 0) and again.mask is not None and again.mask.all()
    point = segment(ct, point=CENTRE, method=method).nodules[0]
    assert np.linalg.norm(np.subtract(point.centre_lps, CENTRE)) < 2
    assert point.mask is not None and not point.mask.all(), "a disc"
    flat = segment(ct, box=[float(v) for v in FLAT.split(",")], method=method).nodules[0]
    assert drawn[-1].flat and flat.box == box.box, "as high as it is wide"


@pytest.mark.parametrize("memory", [False, True])
def test_a_method_is_loaded_with_a_checkpoint(sams: Path, ct: Volume, memory: bool) -> None:
    method = load_method("default", checkpoint=sams / "sam2", settings=[f"memory={str(memory).lower()}"])
    assert (method.recipe.prompted, method.recipe.memory) == ("sam2", memory)
    assert isinstance(segment(ct, box=[float(v) for v in BOX.split(",")], method=method), Report)
    with pytest.raises(BadOption, match="memory has no effect"):
        load_method("default", checkpoint=sams / "sam", settings=["memory=true"])


# ---------------------------------------------------------------- what is missing


@pytest.mark.usefixtures("unshipped")
def test_what_is_missing_is_said_in_a_line(run: Run, dicom: Path, tmp_path: Path, runs: Path) -> None:
    def asked(*words: str | Path) -> tuple[Any, ...]:
        return run("segment", dicom, "-o", tmp_path / "out", "--point", POINT, *words), *()

    (done,) = asked("--recipe", "sam2-densenet")
    refused(done, "nodulens train sam2-densenet", "--recipe default --checkpoint FOLDER", code=1)
    (done,) = asked("--recipe", runs / "sam2-densenet", "--set", "checkpoint=nobody/sam2")
    refused(done, "hf download nobody/sam2", "--set checkpoint=FOLDER", code=1)
    (done,) = asked("--checkpoint", "nobody/sam2")
    refused(done, "hf download nobody/sam2", "--set prompted=network", code=1)
    (done,) = asked("--recipe", runs / "sam2-densenet", "--checkpoint", tmp_path)
    refused(done, "config.json", code=1)
    assert not (tmp_path / "out").exists()


def test_without_the_package_the_line_to_type(
    run: Run, dicom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sams: Path
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "transformers", None)
    done = run("segment", dicom, "-o", tmp_path / "out", "--point", POINT, "--checkpoint", sams / "sam2")
    refused(done, "pip install 'nodulens[sam]'", code=1)


# ---------------------------------------------------------------- pictures


def test_panels_are_written_beside_the_outputs(run: Run, dicom: Path, rough: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs pip install 'nodulens[evaluate]'")
    words = ("segment", dicom, "-o", tmp_path / "out", "--point", POINT, "--threads", "1")
    done = run(*words, "--panels", "--truth", rough)
    assert done.code == 0, done.err
    assert (tmp_path / "out" / PANELS).read_bytes().startswith(b"\x89PNG")
    refused(run(*words, "--truth", rough), "--panels")
    refused(run(*words, "--panels", "--truth", tmp_path / "none.nii.gz"), "none.nii.gz")
    assert (tmp_path / "out" / PANELS).is_file(), "what was refused has changed nothing"
    assert run(*words).code == 0
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert left == {*FILES, DICOM}, "no picture of another run"


def test_a_panel_has_input_truth_and_result(ct: Volume) -> None:
    pytest.importorskip("matplotlib", reason="needs pip install 'nodulens[evaluate]'")
    nodule = small_scans.nearest(small_scans.noisy_report(), 0)[0]
    placed = partial(faces_on, UserPrompt(point=CENTRE).on(ct, ct))
    alone = nodule_figure(ct, nodule, None, placed)
    assert {axes.get_title(loc="left") for axes in alone.axes} == {"input", "result", ""}
    truth = _cube(ct)
    labels = truth.labels.copy()
    labels[:2, :4, :4] = 1  # another nodule, which is not shown
    both = nodule_figure(ct, nodule, Mask(labels, ct.geometry, {1: "nodules"}), placed)
    assert [axes.get_title(loc="left") for axes in both.axes[:3]] == ["input", "truth", "result"]
    own = np.zeros_like(labels, dtype=bool)
    own[nodule.box.slices] = nodule.mask
    dice = 2 * (own & (truth.labels > 0)).sum() / (own.sum() + truth.labels.sum())
    assert both.get_suptitle() == f"Dice {dice:.3f} in three dimensions"
    pointed = [axes for axes in both.axes for line in axes.lines if line.get_marker() == "+"]
    assert len(pointed) == 1, "the point, on its slice alone"
    with pytest.raises(BadValues, match="no voxel"):
        nodule_figure(ct, nodule, Mask(np.zeros_like(labels), ct.geometry, {1: "nodules"}))


# ---------------------------------------------------------------- texts


@pytest.mark.parametrize("recipe", ["default", "sam2-densenet", "nnunet-sam", "sliding"])
def test_a_text_prompts_with_the_box_of_the_finding(runs: Path, ct: Volume, drawn: list[Prompt], recipe: str) -> None:
    """The findings are found without SAM; it is prompted once, by the box of the one that is meant."""
    named = "default" if recipe == "default" else str(runs / recipe)
    settings = ["sliding_window=true"] if recipe == "sliding" else [f"threshold={small_scans.LOW}"]
    method = load_method(named, checkpoint="anything", settings=settings)
    from nodulens.pipeline import analyze

    among = analyze(ct, method=method.finder)
    meant, _ = only(parse("largest nodule in the left lung"), among.nodules)
    assert not drawn, "nothing is prompted to find them"
    report = segment_text(ct, "largest nodule in the left lung", method=method)
    (prompt,) = drawn
    scale = 1.2 if recipe == "nnunet-sam" else 1.0
    middle, half = np.add(meant.box.start, meant.box.stop) / 2, scale * np.asarray(meant.box.shape) / 2
    assert np.allclose(prompt.start, middle - half) and np.allclose(prompt.stop, middle + half)
    (one,) = report.nodules
    assert one.mask is not None and one.mask.all(), "the network has filled the box"
    assert np.linalg.norm(np.subtract(one.centre_lps, meant.centre_lps)) < 3
    assert f"number {meant.id} of {len(among.nodules)} findings" in " ".join(report.warnings)
    named_weights = [w.name for w in report.weights]
    assert named_weights[-1] == "anything" and len(set(named_weights)) == len(named_weights)
    assert {w.name for w in among.weights} <= set(named_weights), "what has found it is named too"


def test_the_command_with_a_text(run: Run, runs: Path, sams: Path, dicom: Path, tmp_path: Path) -> None:
    words = ("--recipe", runs / "sam2-densenet", "--checkpoint", sams / "sam2", "--threads", "1")
    done = run("segment", dicom, "-o", tmp_path / "out", "--text", "largest nodule in the left lung", *words)
    assert done.code == 0, done.err
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert len(report["nodules"]) == 1 and report["prompted"], "random weights draw what they like"
    assert [w["name"] for w in report["weights"]] == ["screen", "volume", "segmenter", "classifier", "…/sam2"]


def test_a_folder_that_moved_is_named_anew(runs: Path, sams: Path, tmp_path: Path) -> None:
    """A run keeps where SAM lay when it was trained; ``--checkpoint`` is where it lies now."""
    run = shutil.copytree(runs / "sam2-densenet", tmp_path / "run")
    here = shutil.copytree(sams / "sam2", tmp_path / "here")
    method = load_method(str(run), checkpoint=here)
    assert method.recipe == replace(SAM2_DENSENET, threshold=small_scans.LOW, checkpoint=str(here))
