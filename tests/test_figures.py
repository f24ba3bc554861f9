"""Figures: they show the numbers that they were given, say what these stand on, and touch nothing else."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from itertools import combinations, product
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from nodulens.data.luna16 import read_findings_table, read_series
from nodulens.data.material import Cubes
from nodulens.errors import BadOption, BadValues, MissingExtra, NotFound
from nodulens.evaluate.froc import read_predictions
from nodulens.metrics import detection
from nodulens.metrics.agreement import bland_altman
from nodulens.metrics.classification import calibration, confusion
from nodulens.presentation import panels
from nodulens.presentation.figures import (
    COLOURS,
    Basis,
    Course,
    Line,
    Pairs,
    Point,
    bland_altman_figure,
    calibration_figure,
    confusion_figure,
    froc_figure,
    learning_figure,
    precision_recall_figure,
    roc_figure,
    save_figure,
    scatter_figure,
    to_png,
    to_svg,
)
from nodulens.presentation.panels import (
    Case,
    LabelledSlice,
    best_and_worst,
    cases_figure,
    class_figure,
    class_picture,
    difference_figure,
    difference_picture,
    mismatch_picture,
)
from nodulens.presentation.tables import froc_line, precision_recall_line, roc_line

BASIS = Basis(60, "nodules", scans=45, patients=40, note="bands: 95 %, 200 bootstraps by patient")
RANDOM = np.random.default_rng(5)
TRUTH = RANDOM.random(60) < 0.4
SCORES = np.round(TRUTH + RANDOM.normal(0, 0.7, 60), 1)  # ties
PATIENTS = np.arange(60) * 2 // 3
PROBABILITIES = 1 / (1 + np.exp(-2 * (SCORES - 0.5)))
SIZES = RANDOM.gamma(3, 60, 60)
NAMES = {1: "left lung", 2: "right lung", 3: "nodule"}


def _slice() -> LabelledSlice:
    truth = np.zeros((40, 60), int)
    truth[5:35, 32:55], truth[5:35, 5:28], truth[15:22, 10:16] = 1, 2, 3
    return LabelledSlice("slice 40", np.where(truth > 0, -850, 40) + 900 * (truth == 3), truth, np.roll(truth, 2, 1))


def _case(number: int = 0, dice: float = 0.8) -> Case:
    y, x = np.mgrid[:60, :80]
    truth = (y - 30) ** 2 + (x - 30) ** 2 < 40
    shifted = (y - 30 - number) ** 2 + (x - 31) ** 2 < 40
    return Case(f"case {number}", np.where(truth, 0, -850), truth, shifted, dice, (0.7, 0.7))


def _learning() -> Figure:
    epochs = np.arange(1, 21)
    loss = Line("training", epochs, np.exp(-epochs / 9)), Line("validation", epochs, np.exp(-epochs / 12))
    rate = (Line("", epochs, 1e-3 * 0.5 ** (epochs // 8)),)
    return learning_figure([Course("Loss", loss), Course("Learning rate", rate, logarithmic=True)], BASIS, chosen=12)


EVERY: dict[str, Callable[[], Figure]] = {
    "roc": lambda: roc_figure([roc_line("model", TRUTH, SCORES, PATIENTS, 50)], BASIS, [Point("cut", 0.1, 0.8)]),
    "froc": lambda: froc_figure([Line("model", [0, 0.5, 3], [0, 0.6, 0.9], [0, 0.5, 0.8], [0, 0.7, 1])], BASIS),
    "pr": lambda: precision_recall_figure([precision_recall_line("m", TRUTH, SCORES, PATIENTS, 50)], BASIS, 0.4),
    "calibration": lambda: calibration_figure({"model": calibration(TRUTH, PROBABILITIES)}, BASIS),
    "confusion": lambda: confusion_figure(confusion(TRUTH, SCORES > 0.5), BASIS),
    "bland-altman": lambda: bland_altman_figure([Pairs("nodule", SIZES + 3, SIZES)] * 2, "Area", "mm²", BASIS),
    "scatter": lambda: scatter_figure(Pairs("Dice", SCORES, SIZES), ("Dice, lungs", "Dice, nodule"), BASIS),
    "learning": _learning,
    "difference": lambda: difference_figure(_case(3), ("A", "B"), _case(5).result),
    "classes": lambda: class_figure([_slice(), _slice()], NAMES, BASIS),
    "cases": lambda: cases_figure([_case(i, 1 - i / 10) for i in range(8)], BASIS, count=2),
}


# ---- Of every figure


@pytest.fixture(params=EVERY, scope="module")
def figure(request: pytest.FixtureRequest) -> Figure:
    return EVERY[request.param]()


def _svg_words(svg: str) -> str:
    tree = ElementTree.fromstring(svg)
    return " ".join("".join(one.itertext()) for one in tree.iter("{http://www.w3.org/2000/svg}text"))


def test_a_figure_is_written_as_png_and_svg_the_same_each_time(figure: Figure, tmp_path: Path) -> None:
    for suffix in ("png", "svg"):
        first = save_figure(figure, tmp_path / f"a.{suffix}").read_bytes()
        assert save_figure(figure, tmp_path / f"b.{suffix}").read_bytes() == first
    with Image.open(tmp_path / "a.png") as image:
        assert image.width > 400 and image.info["dpi"][0] == pytest.approx(200, abs=1)
    text = (tmp_path / "a.svg").read_text("utf-8")
    assert "<dc:date>" not in text and "Matplotlib" not in text
    assert len(_svg_words(text)) > 20  # letters are text, not outlines


@pytest.mark.parametrize("name", [name for name in EVERY if name != "difference"])
def test_a_figure_says_what_it_stands_on(name: str) -> None:
    svg = to_svg(EVERY[name]())
    words = _svg_words(svg)
    assert "n = 60 nodules in 45 scans of 40 patients; bands: 95 %" in words, words


def test_two_equal_figures_give_the_same_bytes() -> None:
    assert to_svg(EVERY["froc"]()) == to_svg(EVERY["froc"]())
    assert to_png(EVERY["roc"](), 60) == to_png(EVERY["roc"](), 60)


def test_a_basis_in_words() -> None:
    assert str(Basis(1186, "nodules", 888)) == "n = 1,186 nodules in 888 scans"
    assert str(Basis(7)) == "n = 7 nodules"
    assert str(Basis(7, "slices", patients=3, note="no band")) == "n = 7 slices of 3 patients; no band"


def test_no_pyplot_no_backend_no_settings() -> None:
    code = """
import sys
import nodulens.presentation.figures as f
import nodulens.presentation.panels
import nodulens.presentation.tables
assert "matplotlib" not in sys.modules, "importing draws in matplotlib"
import matplotlib
before = matplotlib.rcParams.copy()  # reading the backend would choose one, and import pyplot
figure = f.froc_figure([f.Line("a", [0, 1], [0, 1])], f.Basis(3))
f.to_svg(figure), f.to_png(figure, 50)
assert "matplotlib.pyplot" not in sys.modules
assert dict.__eq__(matplotlib.rcParams, before)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_matplotlib_the_line_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    for name, make in EVERY.items():
        with pytest.raises(MissingExtra, match=r"pip install 'nodulens\[evaluate\]'"):
            make()
            pytest.fail(name)


def test_figures_are_written_whole_under_names_that_say_how(tmp_path: Path) -> None:
    with pytest.raises(BadOption, match=r"\.png or \.svg"):
        save_figure(EVERY["confusion"](), tmp_path / "figure.jpg")
    with pytest.raises(NotFound, match="no folder"):
        save_figure(EVERY["confusion"](), tmp_path / "none" / "figure.svg")
    assert list(tmp_path.iterdir()) == []


# ---- Colours


def _lab(colours: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    """Linear RGB (n, 3), 0…1 → CIE L*a*b*, D65."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = np.clip(colours, 0, 1) @ to_xyz.T / [0.9505, 1, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)


# Severity 1 of Machado, Oliveira and Fernandes (2009), on linear RGB.
SIGHT = {
    "normal": np.eye(3),
    "protanopia": np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                            [-0.003882, -0.048116, 1.051998]]),
    "deuteranopia": np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                              [-0.011820, 0.042940, 0.968881]]),
    "tritanopia": np.array([[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
                            [0.004733, 0.691367, 0.303900]]),
}  # fmt: skip


@pytest.mark.parametrize("sight", SIGHT)
def test_colours_are_told_apart_by_everyone(sight: str) -> None:
    lines = [tuple(int(c[i : i + 2], 16) for i in (1, 3, 5)) for c in COLOURS[:4]]
    pixels = [panels.RED, panels.GREEN, panels.YELLOW, panels.BLUE, panels.SKY]
    for group in (lines, pixels):
        srgb = np.array(group) / 255
        linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
        seen = _lab(linear @ SIGHT[sight].T)
        for a, b in combinations(range(len(group)), 2):
            assert np.linalg.norm(seen[a] - seen[b]) > 15, (sight, group[a], group[b])


def test_truth_and_results_differ_in_lightness_alone() -> None:
    light = [float(np.dot(colour, [0.299, 0.587, 0.114])) for colour in (panels.RED, panels.GREEN, panels.YELLOW)]
    assert light[1] > light[0] + 40 and light[2] > light[1] + 40


# ---- Curves


def test_roc_line_is_the_curve_with_a_band_around_it() -> None:
    line = roc_line("model", TRUTH, SCORES, PATIENTS, samples=200)
    fpr, tpr, _ = roc_curve(TRUTH, SCORES, drop_intermediate=False)
    assert np.allclose(line.x, fpr) and np.allclose(line.y, tpr)
    assert f"AUC {roc_auc_score(TRUTH, SCORES):.3f} (" in line.summary
    assert line.low is not None and line.high is not None
    assert (line.low <= line.high).all()
    inner = (line.x > 0.05) & (line.x < 0.95)
    inside = (line.low <= line.y + 0.05) & (line.y <= line.high + 1e-9)
    assert inside[inner].all()
    again = roc_line("model", TRUTH, SCORES, PATIENTS, samples=200)
    assert (again.low == line.low).all()
    (axes,) = roc_figure([line], BASIS).axes
    drawn = next(one for one in axes.lines if str(one.get_label()).startswith("model"))
    assert np.array_equal(drawn.get_xydata(), np.stack([line.x, line.y], 1))


def test_roc_band_skips_draws_of_one_class() -> None:
    """Where they are few; else, as of one patient, neither AUC nor curve has an interval."""
    labels, scores = [1, 0, 0, 1, 1, 0], [0.9, 0.1, 0.6, 0.4, 0.8, 0.3]
    line = roc_line("few", labels, scores, list("abcdef"), samples=1000)
    assert line.low is not None and np.isfinite(line.low).all()
    for patients, some in ((list("abcd"), slice(4)), (["a"] * 6, slice(6))):
        line = roc_line("fewer", labels[some], scores[some], patients, samples=1000)
        assert line.low is None and "to" not in line.summary
        assert "to" not in precision_recall_line("fewer", labels[some], scores[some], patients).summary


def test_precision_recall_line_has_the_official_area() -> None:
    line = precision_recall_line("model", TRUTH, SCORES, PATIENTS, samples=50)
    assert np.isfinite(line.y).all()
    area = float(np.sum(np.diff(line.x, prepend=0) * line.y))  # steps, as they are drawn
    assert area == pytest.approx(average_precision_score(TRUTH, SCORES))
    assert f"average precision {area:.3f} (" in line.summary


def test_precision_recall_takes_recall_that_falls() -> None:
    line = Line("m", [0, 0.5, 1], [1, 0.8, 0.4])
    turned = Line("m", line.x[::-1], line.y[::-1])
    pictures = [to_svg(precision_recall_figure([one], BASIS)) for one in (line, turned)]
    assert pictures[0] == pictures[1]


def test_froc_figure_shows_luna16s_own_figures(shared: Path) -> None:
    luna = shared / "luna16"
    series = read_series(luna / "seriesuids.csv")
    result = detection.froc(
        read_findings_table(luna / "annotations.csv"),
        read_findings_table(luna / "annotations_excluded.csv", unique=False),
        series,
        read_predictions(luna / "example_predictions.csv", series),
    )
    expected = json.loads((luna / "example_expected.json").read_text())
    interval = detection.bootstrap(result, 40)
    for line in (froc_line("example", result), froc_line("example", result, interval)):
        (axes,) = froc_figure([line], BASIS).axes
        dots = next(one for one in axes.lines if one.get_marker() == "o")
        assert np.array_equal(dots.get_xdata(), detection.FP_RATES)
        assert np.allclose(dots.get_ydata(), expected["sensitivity"], atol=1e-9)
        assert f"CPM {expected['cpm']:.3f}" in line.summary
    ticks = [label.get_text() for label in axes.get_xticklabels()]
    assert ticks == ["1/8", "1/4", "1/2", "1", "2", "4", "8"]
    assert axes.get_xscale() == "log" and axes.collections, "the band"


def test_froc_is_flat_past_its_last_false_positive() -> None:
    (axes,) = froc_figure([Line("model", [0, 0.25], [0.2, 0.7])], BASIS).axes
    curve = axes.lines[0]
    assert np.asarray(curve.get_ydata())[-1] == 0.7 and np.asarray(curve.get_xdata())[-1] == 8


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        (([0, 1], [0, 1, 2]), "one length"),
        (([], []), "one length"),
        (([0, np.nan], [0, 1]), "one length"),
        (([[0, 1]], [[0, 1]]), "one length"),
        (([0, 1], [0, 1], [0, 1]), "both ends"),
        (([0, 1], [0, 1], [0, 1], [1]), "one length"),
    ],
)
def test_lines_that_cannot_be_drawn_are_refused(arrays: tuple[list[float], ...], words: str) -> None:
    with pytest.raises(BadValues, match=words):
        Line("bad", *arrays)


# ---- Diagrams


def test_calibration_shows_bins_with_wilsons_intervals() -> None:
    found = calibration([0, 1, 1, 1, 0, 1], [0.1, 0.15, 0.9, 0.95, 0.92, 0.97], bins=2)
    axes, below = calibration_figure({"model": found}, BASIS).axes
    dots = next(one for one in axes.lines if one.get_marker() == "o")
    assert np.allclose(dots.get_xydata(), [[0.125, 0.5], [0.935, 0.75]])
    (bars,) = axes.collections
    (low, high) = bars.get_segments()[0][:, 1]
    assert (low, high) == pytest.approx((0.0945, 0.9055), abs=1e-4)  # Wilson, 1 of 2
    assert [bar.get_height() for bar in below.patches] == [2, 4]


def test_calibration_of_weighted_cases_has_no_bars() -> None:
    found = calibration([0, 1, 1], [0.2, 0.3, 0.9], weights=[0.5, 1, 0.25])
    axes, _ = calibration_figure({"model": found, "other": found}, BASIS).axes
    assert not axes.collections


def test_confusion_shows_counts_and_shares() -> None:
    found = confusion([0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 1, 1], classes=(0, 1, 2, 3))
    (axes,) = confusion_figure(found, Basis(6)).axes
    words = {(round(t.get_position()[1]), round(t.get_position()[0])): [] for t in axes.texts}  # type: ignore[var-annotated]
    for text in axes.texts:
        words[round(text.get_position()[1]), round(text.get_position()[0])].append(text.get_text())
    assert words[0, 0] == ["2", "67 %"] and words[0, 1] == ["1", "33 %"] and words[2, 1] == ["1", "100 %"]
    assert words[3, 3] == ["0", "0 %"]  # a class that does not occur
    assert [label.get_text() for label in axes.get_yticklabels()] == ["0\n3", "1\n2", "2\n1", "3\n0"]


def test_bland_altman_draws_its_figures() -> None:
    measured = SIZES + RANDOM.normal(-4, 9, 60)
    found = bland_altman(measured, SIZES)
    one, two = bland_altman_figure(
        [Pairs("nodule", measured, SIZES), Pairs("lung", SIZES, SIZES)], "Area", "mm²", BASIS
    ).axes
    levels = sorted(
        float(np.asarray(line.get_ydata())[0]) for line in one.lines if len(np.asarray(line.get_xdata())) == 2
    )
    assert levels == pytest.approx(sorted([0, found.difference.value, found.lower.value, found.upper.value]))
    dots = next(line for line in one.lines if line.get_marker() == "o")
    assert np.allclose(dots.get_ydata(), measured - SIZES)
    assert one.get_title(loc="left") == "nodule, n = 60" and one.get_xlabel() == "Area, mean of both, mm²"
    assert two.get_title(loc="left") == "lung, n = 60"  # no difference at all


def test_bland_altman_of_one_pair_has_no_limits() -> None:
    (axes,) = bland_altman_figure([Pairs("nodule", [3], [2])], "Area", "", BASIS).axes
    assert [text.get_text() for text in axes.texts] == ["mean\n1"]
    with pytest.raises(BadValues):
        bland_altman_figure([Pairs("nodule", [np.nan, 1], [2, 1])], "Area", "", BASIS)


def test_scatter_says_pearsons_r() -> None:
    def title(first: list[float], second: list[float]) -> str:
        return scatter_figure(Pairs("Dice", first, second), ("a", "b"), BASIS).get_suptitle()

    r = np.corrcoef(SCORES, SIZES)[0, 1]
    assert f"Pearson's r = {r:.3g}".replace("-", "−") in title(SCORES.tolist(), SIZES.tolist())
    assert title([1, 2, 3], [1, 2, 3]) == "Pearson's r = 1"
    assert title([1, 1, 1], [1, 2, 3]) == "Pearson's r is not defined"


def test_learning_curves_name_their_lines_once() -> None:
    epochs = [1, 2, 3]
    lines = Line("training", epochs, [3, 2, 1]), Line("validation", epochs, [3, 2.5, 2])
    made = learning_figure([Course("Loss", lines), Course("Dice", lines)], BASIS)
    assert [axes.get_legend() is not None for axes in made.axes] == [True, False]
    assert made.axes[1].get_xlabel() == "Epoch"


# ---- Pixels


def test_every_combination_has_its_colour() -> None:
    """Truth only red, first only green, second only yellow; two light blue, three blue, none grey."""
    sets = np.array(list(product((False, True), repeat=3)))
    for hu, light in ((5000.0, 1.0), (-5000.0, panels.GROUND)):
        picture = difference_picture(np.full((1, 8), hu), *(sets[None, :, k] for k in range(3)))[0]
        for own, pixel in zip(sets, picture, strict=True):
            lone = [panels.RED, panels.GREEN, panels.YELLOW]
            colour = {0: None, 1: lone[int(np.argmax(own))], 2: panels.SKY, 3: panels.BLUE}[int(own.sum())]
            expected = [255 * (hu > 0)] * 3 if colour is None else np.array(colour) * light
            assert np.abs(pixel - np.asarray(expected, float)).max() <= 1, own


def test_two_masks_are_red_green_and_blue() -> None:
    truth, result = np.array([[1, 1, 0, 0]], bool), np.array([[1, 0, 1, 0]], bool)
    picture = difference_picture(np.full((1, 4), 5000.0), truth, result)
    assert picture[0].tolist() == [list(panels.BLUE), list(panels.RED), list(panels.GREEN), [255] * 3]


def test_classes_have_their_colours_and_mismatch_is_yellow() -> None:
    one = LabelledSlice("s", np.full((1, 5), 5000.0), np.array([[0, 1, 2, 3, 3]]), np.array([[0, 1, 2, 3, 0]]))
    classes = class_picture(one.hu, one.truth, NAMES)[0].tolist()
    assert classes == [[255] * 3, list(panels.RED), list(panels.GREEN), list(panels.BLUE), list(panels.BLUE)]
    assert mismatch_picture(one, NAMES)[0].tolist() == [*classes[:4], list(panels.YELLOW)]
    with pytest.raises(BadOption, match="no colour for 'heart'"):
        class_picture(one.hu, one.truth, {4: "heart"})


def test_difference_figure_counts_pixels_and_area() -> None:
    case = Case("c", np.zeros((30, 30)), np.zeros((30, 30), bool), np.zeros((30, 30), bool), 0.5, (0.5, 2.0))
    case.truth[10:14, 10], case.result[12:16, 10] = True, True
    words = _svg_words(to_svg(difference_figure(case, ("model",))))
    for expected in ("truth only: 2 px, 2 mm²", "model only: 2 px, 2 mm²", "both: 2 px, 2 mm²", "Dice 0.500"):
        assert expected in words
    with pytest.raises(BadOption, match="names"):
        difference_figure(case, ("a", "b"))


def test_views_are_square_in_millimetres_and_stay_inside() -> None:
    covered = np.zeros((100, 200), bool)
    covered[40:44, 100:104] = True
    rows, columns = panels._view(covered, (1.0, 0.5), 10)
    assert (rows.stop - rows.start, columns.stop - columns.start) == (24, 48)
    assert rows.start <= 40 - 10 + 1 and covered[rows, columns].sum() == 16
    corner = np.zeros((100, 200), bool)
    corner[0, 0] = True
    assert panels._view(corner, (1.0, 1.0), 5)[0].start == 0
    assert covered[panels._view(np.zeros_like(covered), (1, 1), 5)].shape == covered.shape


@pytest.mark.parametrize(("pixels", "edges"), [([(2, 3)], 4), ([(2, 3), (2, 4)], 6), ([(2, 3), (3, 4)], 8), ([], 0)])
def test_outlines_run_along_the_edges_of_pixels(pixels: list[tuple[int, int]], edges: int) -> None:
    mask = np.zeros((6, 7), bool)
    for pixel in pixels:
        mask[pixel] = True
    axes = Figure().subplots()
    panels._outline(axes, mask, panels.RED)
    segments = [np.array(one) for collection in axes.collections for one in collection.get_segments()]  # type: ignore[attr-defined]
    assert len(segments) == edges
    for segment in segments:
        assert np.abs(np.diff(segment, axis=0)).sum() == 1
        middle = segment.mean(axis=0)
        assert min(np.abs(middle - [x, y]).max() for y, x in pixels) == 0.5


def test_best_and_worst_cases() -> None:
    def names(dice: list[float], count: int) -> list[list[str]]:
        cases = [_case(i, score) for i, score in enumerate(dice)]
        return [[case.name.removeprefix("case ") for case in end] for end in best_and_worst(cases, count)]

    assert names([0.5, 0.9, 0.1, 0.7, 0.3], 2) == [["1", "3"], ["2", "4"]]
    assert names([0.5, 0.5, 0.5, 0.5], 1) == [["0"], ["1"]]  # ties go by name, nobody twice
    assert names([0.4, 0.8, 0.6], 3) == [["1", "2"], ["0"]]
    assert names([0.4], 3) == [["0"], []]
    assert names([], 3) == [[], []]
    with pytest.raises(BadValues, match="no case"):
        cases_figure([], BASIS)


def test_cases_without_truth_or_result_are_shown_whole() -> None:
    empty = np.zeros((60, 80), bool)
    case = _case()
    cases = [Case("missed", case.hu, case.truth, empty, 0.0), Case("both empty", case.hu, empty, empty, 1.0)]
    words = _svg_words(to_svg(cases_figure(cases, BASIS)))
    assert "best, Dice 1.000" in words and "worst, Dice 0.000" in words


def test_cases_that_do_not_fit_are_refused() -> None:
    mask = np.zeros((4, 4), bool)
    with pytest.raises(BadValues, match="one shape"):
        Case("c", np.zeros((4, 5)), mask, mask, 0.5)
    with pytest.raises(BadValues, match="one shape"):
        Case("c", np.zeros((2, 4, 4)), np.zeros((2, 4, 4), bool), np.zeros((2, 4, 4), bool), 0.5)
    with pytest.raises(BadValues, match="no Dice"):
        Case("c", np.zeros((4, 4)), mask, mask, float("nan"))
    with pytest.raises(BadValues, match="one shape"):
        LabelledSlice("s", np.zeros((4, 4)), np.zeros((4, 4)), np.zeros((4, 5)))


def test_pictures_of_real_nodules(shared: Path) -> None:
    """One reader against another on real nodules: the picture shows the nodule, bright, inside the outlines."""
    cubes = Cubes(shared)
    cases = []
    for number, name in enumerate(cubes.patients[:6]):
        first, second = cubes.masks(number)[:2, 25]
        dice = 2 * (first & second).sum() / max((first.astype(int) + second).sum(), 1)
        cases.append(Case(f"{name} {number}", cubes.hu(number)[25].astype(float), first, second, float(dice)))
    made = cases_figure(cases, Basis(len(cases), "nodules", note="reader 2 against reader 1"), count=2)
    image = np.asarray(Image.open(io.BytesIO(to_png(made, 80))).convert("RGB")).astype(int)
    red = (image[..., 0] > 150) & (image[..., 1:] < 90).all(axis=-1)
    green = (image[..., 1] > 150) & (image[..., 0] < 110) & (image[..., 2] < 130)
    assert red.sum() > 100 and green.sum() > 100
