"""The table of results: cells once computed stay, splits are what they say, and the page holds what the cells hold."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from experiments import results, table
from experiments.budgets import BUDGET, SHIPPED, Budget
from experiments.cells import AUGMENTED, PATIENTS, RANDOM, SCANS, Cell, ComputedCell, read_cell
from experiments.table import Bench, cells, fill, main
from nodulens.data.folds import EVALUATION_PATIENTS, fold_of
from nodulens.evaluate import central_slices
from nodulens.evaluate.slice_networks import ScanBoxFigures, ScanFigures, SliceNetworkFigures
from nodulens.methods.catalogue import RECIPES
from nodulens.methods.recipe import NetworkConfig
from nodulens.runtime.engine import BATCH, Model, load_model
from nodulens.train.default import release
from nodulens.train.default.rendered_nodules import outline_material
from nodulens.train.networks.registry import build
from nodulens.train.tasks import classification

pytestmark = [pytest.mark.training, pytest.mark.usefixtures("one_thread")]

E5 = "conv3-classifier.classifier"
PAGE = """# Results

<!-- classifiers -->
yesterday's figures
<!-- end of classifiers -->

Words that stay.

<!-- prompts -->
<!-- end of prompts -->
"""


def budget(copies: int = 3, renderings: int | None = None, **networks: dict[str, int]) -> Budget:
    """The table's budget, but for some networks."""
    return Budget({**BUDGET.networks, **networks}, copies, renderings)


def test_the_table_has_every_part_of_every_recipe_by_five_folds() -> None:
    plan = list(cells())
    assert len({cell.name for cell in plan}) == len(plan)
    for recipe in RECIPES.values():
        for part in recipe.networks:
            own = [c for c in plan if (c.recipe, c.part, c.settings) == (recipe.name, part, ())]
            folds = table.BACKGROUND_FOLDS if part == "segmenter" else list(range(5))
            assert [c.fold for c in own if c.split == PATIENTS] == folds
            assert sum(c.split == RANDOM for c in own) == 1
            copied = [c for c in plan if (c.recipe, c.part, c.split) == (recipe.name, part, AUGMENTED)]
            assert len(copied) == bool(recipe.networks[part].augment)
            assert all(replace(c, split=RANDOM) in plan for c in copied)  # what each is held against


def test_cells_are_computed_once_and_the_page_is_filled(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, out = Bench(data, tmp_path / "run", budget(copies=1, conv3={"epochs": 1})), tmp_path / "cells"
    page = tmp_path / "results.md"
    page.write_text(PAGE)
    for only in (f"{E5}.patients-1", f"{E5}.random", f"{E5}.augmented", "svm.handcrafted.patients-1"):
        fill(bench, out, only)
    made = sorted((tmp_path / "cells").glob("*.json"))
    assert [p.stem for p in made] == [
        f"{E5}.augmented-0", f"{E5}.patients-1", f"{E5}.random-0", "svm.handcrafted.patients-1",
    ]  # fmt: skip
    times = [p.stat().st_mtime_ns for p in made]
    fill(bench, out, f"{E5}.patients-1")
    assert [p.stat().st_mtime_ns for p in made] == times
    with monkeypatch.context() as patch:
        patch.setattr(table, "_milliseconds", lambda exported, config: 4321.0)
        main(data, out, tmp_path / "run", page, f"{E5}.patients-1", 1, times=True)
    cell = json.loads((tmp_path / "cells" / f"{E5}.patients-1.json").read_text())
    assert cell["cpu_ms"] == 4321 and "4321 ms" in page.read_text() and cell["epochs_run"] == 1
    by_hand = json.loads((tmp_path / "cells" / "svm.handcrafted.patients-1.json").read_text())
    assert by_hand["cpu_ms"] > 0
    assert {fold_of(p) for p in cell["rows"]["patient"]} == {1}
    assert cell["learner"]["epochs"] == 1
    text = page.read_text()
    assert "yesterday" not in text and "Words that stay." in text and "_Not measured yet._" in text
    (line,) = [row for row in text.splitlines() if "`conv3-classifier`" in row and "by patient" in row]
    computed = read_cell(tmp_path / "cells" / f"{E5}.patients-1.json")
    pooled = results.pooled_nodules([computed]).figures.three_readers_or_more.beside_diameter
    assert f" {pooled.nodules} " in line and "AUC 0.87" in line
    assert "SVM on handcrafted" in text and "random, after augmentation" in text


def test_a_network_is_judged_where_it_is_as_its_file_is(tmp_path: Path) -> None:
    """On a GPU judging runs the network itself; here on the CPU, with more inputs than go at once."""
    config = RECIPES["se-aux-unet"].segmenter
    assert config is not None
    small = replace(config, size=32)
    net = build(small).eval()
    batch = np.random.default_rng(0).random((BATCH + 3, 1, 32, 32), dtype=np.float32)[:, :, ::-1]  # mirrored views too
    exported = table._exported("net", net, small, tmp_path)
    for ours, theirs in zip(table._computed(net)(batch), exported.run(batch), strict=True):
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, theirs, atol=1e-3)


def cell_of(learner: NetworkConfig) -> ComputedCell:
    return ComputedCell(
        "se-aux-unet", "segmenter", SCANS, 0, software={"torch": "2"}, learner=learner, train_seconds=60, cpu_ms=2
    )


def test_what_trained_a_cell_is_said() -> None:
    config = RECIPES["conv3-classifier"].classifier
    assert config is not None
    cell = replace(cell_of(replace(config, epochs=3, size=64, patience=2)), epochs_run=3)
    on = replace(cell, software={"torch": "2", "gpu": "NVIDIA Thing"})
    assert results._budget([cell]) == "3 epochs of 64², 1 min a fold; 2.0 ms an input"
    assert results._budget([cell, on, on]) == "3 epochs of 64², 1 min a fold on NVIDIA Thing; 2.0 ms an input"
    assert results._budget([cell, replace(cell, epochs_run=2)]).startswith("2–3 of 3 epochs of 64²")
    assert results._budget([replace(cell, epochs_run=1)]).startswith("1 of 3 epochs of 64²")
    uncounted = replace(cell, epochs_run=None)
    assert results._budget([cell, uncounted]).startswith("up to 3 epochs of 64²")


def test_nodules_of_the_real_scans_are_said_one_by_one() -> None:
    names = ("row", "patient", "diameter_mm", "readers", "hit", "score", "box_iou", "dice", "iou", "sensitivity")
    hit = (0, "P1", 9.4, 4, True, 0.8434, 0.6667, 0.8267, 0.7045, 0.7126)
    missed = (1, "P2", 74.5, 0, False, *[None] * 5)
    config = RECIPES["se-aux-unet"].segmenter
    assert config is not None
    scans = {
        "P1": ScanFigures(1, 1, 5, 4, regions=11, lung_agreement={"lung": 0.912}, ms_per_slice=1.0),
        "P2": ScanFigures(1, 0, 4, 3, regions=4, lung_agreement={"lung": 0.87}, ms_per_slice=1.0),
    }
    cell = replace(
        cell_of(replace(config, epochs=1, size=320, window=None)),
        epochs_run=1,
        rows={name: list(values) for name, *values in zip(names, hit, missed, strict=True)},
        scans=SliceNetworkFigures(scans, 2, 1, 9, 7, ScanBoxFigures(0.5, None, None)),
    )
    text = results.real_scans([cell])
    assert "| `se-aux-unet` | 1 of 2 | 15, 9 | 7 | 0.500 / – | 0.87–0.91 | 1 epoch of 320²" in text
    assert "| `se-aux-unet` | P1 | 9.4 | 4 | yes | 0.8434 | 0.6667 | 0.8267 | 0.7045 | 0.7126 |" in text
    assert "| `se-aux-unet` | P2 | 74.5 | 0 | no | – | – | – | – | – |" in text


def test_the_first_screen_ranks_methods_by_patient_and_says_what_other_splits_claim() -> None:
    docs = Path(__file__).parents[1] / "docs" / "cells"
    named = ("conv3-classifier.classifier.patients-1", "conv3-classifier.classifier.random-0")
    svm = "svm.handcrafted.patients-1"
    found = [read_cell(docs / f"{name}.json") for name in (*named, svm)]
    _, _, first, second = results.overview(found).splitlines()[:4]
    ours, theirs = (results._auc([found[k]]) for k in (0, 2))
    assert ours is not None and theirs is not None and ours.value is not None and theirs.value is not None
    lead, follow = (ours, theirs) if ours.value > theirs.value else (theirs, ours)
    assert first.startswith("| benign or malignant") and f"{lead.value:.3f} (" in first
    assert second.startswith("|  |") and f"{follow.value:.3f} (" in second and second.count("**") == 2
    own = next(row for row in (first, second) if "conv3-classifier" in row)
    claimed = results._auc([found[1]])
    assert claimed is not None and f"| {claimed.value:.3f} | – |" in own


def test_close_ups_whose_places_a_network_may_know_are_marked() -> None:
    """Unless sheets were cut at random: in one grid each nodule is in the middle of its square."""
    docs = Path(__file__).parents[1] / "docs" / "cells"
    ours, theirs = (read_cell(docs / f"{name}.segmenter.patients-1.json") for name in ("se-aux-unet", "nnunet-sam"))
    refined = read_cell(docs / "nnunet-sam.refined.patients-1.json")
    figure = results._close_up_dice([ours])
    assert figure is not None
    for random_sheets in (False, True):
        assert ("†" in results.refined([replace(refined, random_sheets=random_sheets)])) is not random_sheets
        found = [replace(cell, random_sheets=random_sheets) for cell in (ours, theirs)]
        for text in (results.overview(found), results.segmenters(found)):
            marked = [line for line in text.splitlines() if "†" in line]
            assert bool(marked) is not random_sheets
            assert random_sheets or any(f"{figure.value:.3f}" in line for line in marked)
    before = read_cell(docs / "se-aux-unet.segmenter.random-0.json")
    claims = results.overview([replace(ours, random_sheets=True), replace(before, random_sheets=False)])
    [line] = [line for line in claims.splitlines() if "†" in line]
    by_patient, claimed = line.split(" | ")[2:4]
    assert "†" in claimed and "†" not in by_patient, "of a random split, the figure of close-ups alone"


def test_the_page_holds_what_the_cells_hold(tmp_path: Path) -> None:
    """Nobody typed a figure into the tables, and nobody forgot to fill them in."""
    docs = Path(__file__).parents[1] / "docs"
    page = tmp_path / "results.md"
    page.write_bytes((docs / "results.md").read_bytes())
    results.write(docs / "cells", page)
    assert page.read_text(encoding="utf-8") == (docs / "results.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [
    "conv3-classifier.classifier.patients-1",
    "nnunet-sam.classifier.patients-1",
    "forest.handcrafted.patients-0",
    "resnet-unet-patch-cnn.filter.patients-1",
    "se-aux-unet.segmenter.patients-1",
    "nnunet-sam.segmenter.patients-1",
    "se-aux-unet.segmenter.scans-0",
    "resnet-unet-patch-cnn.filter.scans-0",
])  # fmt: skip
def test_rows_and_figures_of_a_cell_are_written_as_they_are_read(name: str) -> None:
    """Byte by byte, but for figures from rows, which the file holds to five digits."""
    path = Path(__file__).parents[1] / "docs" / "cells" / f"{name}.json"
    stored, cell = json.loads(path.read_text(encoding="utf-8")), read_cell(path)
    assert cell.name == name
    if cell.scans is not None:
        assert json.dumps(cell.scans.to_json()) == json.dumps(stored["figures"])
        return
    found = results.POOLED[cell.part]([cell])
    assert json.dumps(found.to_json()) == json.dumps(stored["rows"])
    told, figures = flat(stored["figures"]), flat(found.figures.to_json())
    assert list(told) == list(figures)
    for key, value in told.items():
        same = value == figures[key]
        assert same or figures[key] == pytest.approx(value, abs=2e-3, rel=1e-2), key


def flat(value: object, place: str = "") -> dict[str, object]:
    """Place → plain value, in the order of the file."""
    if not isinstance(value, dict | list):
        return {place: value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return {key: one for name, item in items for key, one in flat(item, f"{place}.{name}").items()}


def test_variants_stand_under_their_method_beside_it_on_their_fold() -> None:
    def cell(recipe: str, fold: int, *settings: str) -> ComputedCell:
        return ComputedCell(recipe, "classifier", PATIENTS, fold, settings)

    found = [cell("a", 0), cell("a", 1), cell("a", 1, "x=1"), cell("a", 1, "x=2"), cell("b", 0), cell("b", 1)]
    lines = results._lines(found, ["classifier"])
    values = {("a", "", False): 0.7, ("a", "", True): 0.6, ("a", "x=1", False): 0.5, ("a", "x=2", False): 0.99}
    ranked = results._ranked(
        (line, values.get((line.row[0], line.settings, line.beside), 0.8), (len(line.cells),)) for line in lines
    )
    assert ranked == [
        ("`b`", "by patient, 2 folds", 2),
        ("`a`", "by patient, 2 folds", 2),
        ("`a`", "by patient, fold 1", 1),
        ("`a`, `x=2`", "by patient, fold 1", 1),
        ("`a`, `x=1`", "by patient, fold 1", 1),
    ]


def test_splits_are_what_they_say(data: Path) -> None:
    material = classification.load(data, RECIPES["conv3-classifier"])
    rows = table._rows(Cell("conv3-classifier", "classifier", PATIENTS, 2), material)
    sides = [{material.patients[r] for r in part} for part in (rows.train, rows.validation, rows.test)]
    assert not (sides[0] & sides[2] or sides[1] & sides[2] or (sides[0] | sides[1] | sides[2]) & EVALUATION_PATIENTS)
    rows = table._rows(Cell("conv3-classifier", "classifier", RANDOM, 0), material)
    strata = np.array(material.strata)
    shares = [np.mean(strata[part] == "malignant") for part in (rows.train, rows.validation, rows.test)]
    assert np.ptp(shares) < 0.1
    copied = classification.multiplied(material, ("flip",), 3)
    rows = table._rows(Cell("conv3-classifier", "classifier", AUGMENTED, 0), copied)
    origins = [set(copied.nodules.origin[part].tolist()) for part in (rows.train, rows.test)]
    assert origins[0] & origins[1], "copies of a judged nodule teach: that is what this split is there to show"
    assert not {copied.patients[r] for r in rows.train} & EVALUATION_PATIENTS


def test_method_c_is_compared_with_and_without_its_second_step(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First stage and classifier of one fold; the prompted network is the one that ships, as this tests the path."""
    small = {"epochs": 1, "size": 64, "window": 32, "batch": 4, "examples": 16}
    networks = {"planned-unet": small, "efficientnet-b0": {"epochs": 1}}
    bench, out = Bench(data, tmp_path / "run", budget(renderings=1, **networks)), tmp_path / "cells"

    def shipped(fold: int, material: object, run: Path) -> Model:
        (run / "segmenter").mkdir()
        (run / "segmenter" / f"fold{fold}.csv").write_text("epoch,seconds\n1,90\n")
        return load_model("segmenter", 1)

    monkeypatch.setattr(release, "segmenter_without", shipped)
    page = tmp_path / "results.md"
    page.write_text("<!-- refined -->\n<!-- end of refined -->\n")
    fill(bench, out, "nnunet-sam.refined.patients-1")
    results.write(out, page)
    cell = json.loads((tmp_path / "cells" / "nnunet-sam.refined.patients-1.json").read_text())
    assert {fold_of(p) for p in cell["rows"]["patient"]} == {1}
    assert cell["rows"]["row"] == cell["graded"]["row"]
    taught = json.loads((tmp_path / "run" / "nnunet-sam.segmenter.patients-1" / "segmenter.json").read_text())
    assert taught["settings"]["window"] == 32 and cell["train_seconds"] == 90
    text = page.read_text()
    assert "Wilcoxon" in text and "the readers' outlines" in text and "first stage alone" in text


def test_prompts_are_judged_on_the_central_slice(data: Path) -> None:
    """Balls: a box says nearly all, and a box that is off says less."""
    material = outline_material(data)
    rows = central_slices.rows_of(material, 1)
    assert len(rows) and all(fold_of(material[r].patient) == 1 and material[r].is_stack for r in rows)
    found = central_slices.evaluate(load_model("segmenter", 1), material, rows[:3])
    dice = {kind: one.dice.value or 0.0 for kind, one in found.figures.by_prompt.items()}
    assert list(dice) == [*central_slices.PROMPTED, *central_slices.BESIDE]
    assert dice["box"] > 0.8 and dice["ellipse"] > 0.9 > dice["ellipse_shaken"]
    assert all(0 <= value <= 1 for value in dice.values())
    assert found.figures.nodules == len(rows[:3]) == len(found.patient)
    columns = found.to_json()
    assert np.array_equal(columns["box truth"], columns["point truth"])
    assert central_slices.CentralSlices.from_json(columns).figures == found.figures


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ("", "`resnet-unet-patch-cnn`"),
        (", ".join(SHIPPED["resnet-unet-patch-cnn.segmenter"]), "`resnet-unet-patch-cnn` as it ships"),
        ("segmenter.loss=hybrid", "`resnet-unet-patch-cnn`, `segmenter.loss=hybrid`"),
    ],
)
def test_a_line_names_its_settings_or_that_it_ships(settings: str, name: str) -> None:
    cell = ComputedCell("resnet-unet-patch-cnn", "segmenter", PATIENTS, 1)
    assert results.Line("resnet-unet-patch-cnn.segmenter", PATIENTS, settings, [cell]).method == name
