"""Curves and diagrams of an evaluation, as Matplotlib figures.

Neither pyplot, the backend nor any global setting is changed. Colours are Okabe and Ito's, which are
distinguishable in every kind of colour vision, and lines differ by their dashes too. Under every figure is its basis.
Pictures of pixels are in :mod:`nodulens.presentation.panels`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from nodulens.errors import BadOption, BadValues, MissingExtra
from nodulens.io.atomic import whole_file
from nodulens.metrics.agreement import bland_altman, pearson
from nodulens.metrics.classification import Calibration, Confusion
from nodulens.metrics.detection import FP_RATES, GRID
from nodulens.metrics.statistics import proportion

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Float = NDArray[np.float64]
Style = dict[str, Any]
Place = Literal["lower left", "lower right", "upper left", "best"]

INK, PAPER = "#17212b", "#fefefe"
"""The colours of everything but data and pictures; a page may replace them by its own."""
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
DASHES: tuple[Any, ...] = (
    "solid", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.2, 1.5)), (0, (9, 2)), (0, (3, 1, 1, 1, 1, 1))
)  # fmt: skip
TEXT, SMALL = 9.0, 7.5
MOST_IN_A_COLUMN = 4
"""Panels of learning curves."""
"""Font sizes in points."""
_FAINT: Style = {"color": INK, "alpha": 0.35, "linewidth": 0.9, "linestyle": (0, (2, 2))}


@dataclass(frozen=True)
class Basis:
    """The basis of a figure, printed under it.

    Attributes:
        count: number of cases.
        unit: what a case is, in the plural.
        scans, patients: number of each; None if unknown or obvious.
        note: a remark, for instance what the band is.
    """

    count: int
    unit: str = "nodules"
    scans: int | None = None
    patients: int | None = None
    note: str = ""

    def __str__(self) -> str:
        where = "" if self.scans is None else f" in {self.scans:,} scans"
        whose = "" if self.patients is None else f" of {self.patients:,} patients"
        return f"n = {self.count:,} {self.unit}{where}{whose}" + (f"; {self.note}" if self.note else "")


@dataclass(frozen=True, eq=False)
class Line:
    """A line, and the band of its interval.

    Attributes:
        name: of the model or reader.
        x, y: (n,) points in order.
        low, high: (n,) ends of the interval of ``y``, or None.
        summary: a figure for the legend, for instance "AUC 0.91 (0.88 to 0.94)".

    Raises:
        BadValues: lengths that differ, no point, or NaN in ``x``.
    """

    name: str
    x: Float
    y: Float
    low: Float | None = None
    high: Float | None = None
    summary: str = ""

    def __post_init__(self) -> None:
        for field in ("x", "y", "low", "high"):
            value = getattr(self, field)
            if value is not None:
                object.__setattr__(self, field, np.asarray(value, np.float64))
        shapes = {value.shape for value in (self.x, self.y, self.low, self.high) if value is not None}
        if len(shapes) > 1 or self.x.ndim != 1 or not self.x.size or np.isnan(self.x).any():
            raise BadValues(f"The line {self.name!r} needs x, y and its band of one length, got shapes {shapes}.")
        if (self.low is None) is not (self.high is None):
            raise BadValues(f"The band of the line {self.name!r} needs both ends, low and high.")


@dataclass(frozen=True)
class Point:
    """A marked point, for instance an operating point or a reader."""

    name: str
    x: float
    y: float


@dataclass(frozen=True, eq=False)
class Pairs:
    """Two values a case, (n,) each: ``first`` the measurement and ``second`` the ground truth, or any two scores."""

    name: str
    first: Float
    second: Float


# ---- Figures


def roc_figure(lines: Sequence[Line], basis: Basis, points: Sequence[Point] = ()) -> Figure:
    """Sensitivity against the false-positive rate, with interval bands.

    Args:
        lines: ``x`` 1 − specificity and ``y`` sensitivity, 0…1.
        basis: what it was measured on.
        points: operating points, or readers.
    """
    figure, axes = _sheet(4.3, 4.3, basis)
    axes.plot([0, 1], [0, 1], **_FAINT)
    _draw(axes, lines)
    _mark(axes, points)
    _shares(axes, "1 − specificity", "Sensitivity")
    _legend(axes, "lower right")
    return figure


def froc_figure(lines: Sequence[Line], basis: Basis, points: Sequence[Point] = ()) -> Figure:
    """Sensitivity against false positives a scan, 1/8 to 8 on a logarithmic axis, with interval bands.

    Between its points a line is interpolated on the linear axis, as in LUNA16's evaluation, and beyond the last one it
    is flat.

    Args:
        lines: ``x`` false positives a scan, rising, and ``y`` sensitivity, 0…1.
        basis: what it was measured on.
        points: operating points.
    """
    figure, axes = _sheet(5.2, 3.9, basis)
    _draw(axes, [_on_grid(line, GRID) for line in lines])
    for line, colour in zip(lines, _cycle(COLOURS, len(lines)), strict=True):
        at = np.interp(FP_RATES, line.x, line.y)
        axes.plot(FP_RATES, at, linestyle="none", marker="o", markersize=3.6, color=colour, clip_on=False)
    _mark(axes, points)
    axes.set_xscale("log", base=2)
    axes.set_xlim(FP_RATES[0] / 1.12, FP_RATES[-1] * 1.12)
    axes.set_xticks(FP_RATES, ["1/8", "1/4", "1/2", "1", "2", "4", "8"])
    axes.minorticks_off()
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("False positives a scan")
    axes.set_ylabel("Sensitivity")
    _legend(axes, "lower right")
    return figure


def precision_recall_figure(
    lines: Sequence[Line], basis: Basis, prevalence: float | None = None, points: Sequence[Point] = ()
) -> Figure:
    """Precision against recall as steps, the area under which is average precision.

    Args:
        lines: ``x`` recall and ``y`` precision, 0…1; recall may rise or fall.
        basis: what it was measured on.
        prevalence: share of positives, the precision of chance; drawn as a line.
        points: operating points.
    """
    figure, axes = _sheet(4.3, 4.3, basis)
    if prevalence is not None:
        axes.axhline(prevalence, **_FAINT)
        _note(axes, 0.01, prevalence, f"prevalence {prevalence:.2f}")
    _draw(axes, [_rising(line) for line in lines], steps="pre")
    _mark(axes, points)
    _shares(axes, "Recall (sensitivity)", "Precision")
    _legend(axes, "lower left" if prevalence is None or prevalence < 0.4 else "best")
    return figure


def calibration_figure(found: Mapping[str, Calibration], basis: Basis) -> Figure:
    """Reliability diagram above the number of cases in each bin.

    Bars are Wilson's 95 % intervals of the shares; there are none if cases are weighted.

    Args:
        found: model → its calibration.
        basis: what it was measured on.
    """
    figure, (axes, below) = _sheets((4.3, 5.0), basis, rows=2, heights=(4, 1))
    axes.plot([0, 1], [0, 1], **_FAINT)
    for i, (name, one) in enumerate(found.items()):
        colour, dashes, aside = COLOURS[i % len(COLOURS)], DASHES[i % len(DASHES)], i - (len(found) - 1) / 2
        here = one.predicted + 0.012 * aside
        if (one.weight == np.round(one.weight)).all():
            hits = np.round(one.observed * one.weight).astype(int)
            ends = [proportion(k, int(n)) for k, n in zip(hits.tolist(), one.weight, strict=True)]
            axes.vlines(here, [e.low for e in ends], [e.high for e in ends], color=colour, linewidth=1.1, alpha=0.75)
        look: Style = {"marker": "o", "markersize": 4.5, "linewidth": 1.3, "clip_on": False}
        axes.plot(here, one.observed, color=colour, linestyle=dashes, label=f"{name}, ECE {one.ece:.3f}", **look)
        below.bar(one.predicted + 0.03 * aside, one.weight, width=0.026, color=colour)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), ylabel="Observed share")
    below.set_xlabel("Predicted probability")
    below.set_ylabel(basis.unit[:1].upper() + basis.unit[1:])
    below.set_ylim(bottom=0)
    below.grid(axis="x", visible=False)
    figure.align_ylabels()
    _legend(axes, "upper left")
    return figure


def confusion_figure(found: Confusion, basis: Basis) -> Figure:
    """Confusion matrix, ground truth by row and prediction by column: counts, and the share of each true class.

    Args:
        found: of :func:`nodulens.metrics.classification.confusion`.
        basis: what it was measured on.
    """
    classes, counts = [str(name) for name in found.classes], found.counts
    side = 1.6 + 0.75 * len(classes)
    figure, axes = _sheet(side + 0.5, side, basis)
    whole = counts.sum(axis=1, keepdims=True)
    share = np.divide(counts, whole, out=np.zeros(counts.shape), where=whole > 0)
    for (row, column), part in np.ndenumerate(share):
        # opacity, not a paler colour: the cell works on light and dark backgrounds
        axes.bar(column, 0.96, 0.96, row - 0.48, color=COLOURS[0], alpha=0.06 + 0.94 * float(part))
        ink = "#ffffff" if part > 0.8 else INK
        where: Style = {"ha": "center", "color": ink}
        axes.text(column, row, f"{counts[row, column]:,.6g}", va="bottom", fontsize=TEXT + 2, **where)
        axes.text(column, row + 0.06, f"{100 * part:.0f} %", va="top", fontsize=SMALL + 0.5, **where)
    axes.set_xlim(-0.5, len(classes) - 0.5)
    axes.set_ylim(len(classes) - 0.5, -0.5)
    axes.set_aspect("equal")
    axes.grid(visible=False)
    axes.set_xticks(range(len(classes)), classes)
    axes.set_yticks(range(len(classes)), [f"{name}\n{n:,.6g}" for name, n in zip(classes, whole[:, 0], strict=True)])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("Predicted")
    axes.set_ylabel("Truth")
    return figure


def bland_altman_figure(pairs: Sequence[Pairs], quantity: str, unit: str, basis: Basis) -> Figure:
    """Differences of two measurements against their means, a panel a class: bias and limits of agreement.

    The figures and their intervals, drawn as bands, are those of :func:`nodulens.metrics.agreement.bland_altman`.

    Args:
        pairs: measured and true values; a panel each.
        quantity: what was measured, for instance "Area".
        unit: of both, for instance "mm²"; may be empty.
        basis: what it was measured on.

    Raises:
        BadValues: nothing to compare, or NaN.
    """
    figure, row = _sheets((3.6 * len(pairs) + 0.6, 3.6), basis, columns=len(pairs))
    in_unit = f", {unit}" if unit else ""
    for axes, pair, colour in zip(row, pairs, _cycle(COLOURS, len(pairs)), strict=True):
        found = bland_altman(pair.first, pair.second)
        first, second = np.asarray(pair.first, np.float64), np.asarray(pair.second, np.float64)
        axes.axhline(0, color=INK, alpha=0.25, linewidth=0.8)
        axes.plot((first + second) / 2, first - second, **_dots(found.count, colour))
        dashed = (0, (4, 2))
        for words, level, dashes in (
            ("mean", found.difference, "solid"),
            ("+1.96 SD", found.upper, dashed),
            ("−1.96 SD", found.lower, dashed),
        ):
            if not np.isnan(level.value):
                axes.axhline(level.value, color=INK, linewidth=1.1, linestyle=dashes)
                _note(axes, 1.01, level.value, f"{words}\n{_number(level.value)}", va="center")
            if not np.isnan(level.low):
                axes.axhspan(level.low, level.high, color=INK, alpha=0.07, linewidth=0)
        axes.margins(0.06, 0.12)
        axes.set_xlabel(f"{quantity}, mean of both{in_unit}")
        if len(pairs) > 1:
            axes.set_title(f"{pair.name}, n = {found.count:,}", loc="left", fontsize=TEXT, color=INK)
    row[0].set_ylabel(f"Measured − truth{in_unit}")
    return figure


def scatter_figure(pairs: Pairs, labels: tuple[str, str], basis: Basis) -> Figure:
    """One score against another, a dot a case, with Pearson's r and its interval.

    Args:
        pairs: two scores a case, for instance Dice of the lungs and Dice of the nodule, 0…1.
        labels: what ``first`` (across) and ``second`` (up) are.
        basis: what it was measured on.

    Raises:
        BadValues: nothing to compare, or NaN.
    """
    figure, axes = _sheet(4.3, 4.0, basis)
    axes.plot(pairs.first, pairs.second, **_dots(len(pairs.first), COLOURS[0]))
    axes.margins(0.05)
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    r = pearson(pairs.first, pairs.second).r
    ends = "" if np.isnan(r.low) else f" ({_number(r.low)} to {_number(r.high)})"
    words = "Pearson's r is not defined" if np.isnan(r.value) else f"Pearson's r = {_number(r.value)}{ends}"
    figure.suptitle(words, x=0.99, ha="right", fontsize=TEXT, color=INK)
    return figure


@dataclass(frozen=True)
class Course:
    """One quantity over the epochs: a panel of the learning curves.

    Attributes:
        quantity: with its unit, for instance "Loss" or "Memory, GB".
        lines: ``x`` epochs from 1, ``y`` the quantity; of training, validation, or a line a seed.
        logarithmic: for learning rates, and losses over decades.
    """

    quantity: str
    lines: tuple[Line, ...]
    logarithmic: bool = False


def learning_figure(courses: Sequence[Course], basis: Basis, chosen: float | None = None) -> Figure:
    """Learning curves on the same epochs: up to four panels below each other, more in two columns.

    Args:
        courses: losses, scores, learning rate, memory.
        basis: the training data.
        chosen: the epoch whose weights were kept; it is marked.
    """
    columns = 1 if len(courses) <= MOST_IN_A_COLUMN else 2
    rows = -(-len(courses) // columns)
    figure, panels = _sheets((5.2 * columns, 0.7 + 1.9 * rows), basis, rows=rows, columns=columns)
    for axes in panels[len(courses) :]:
        axes.set_axis_off()
    panels = panels[: len(courses)]
    listed: set[tuple[str, ...]] = set()  # a legend once for the same lines
    for axes, course in zip(panels, courses, strict=True):
        _draw(axes, course.lines)
        if course.logarithmic:
            axes.set_yscale("log")
            axes.locator_params(axis="y", subs=(1, 2, 5))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.minorticks_off()
        if chosen is not None:
            axes.axvline(chosen, **_FAINT)
        axes.set_ylabel(course.quantity)
        named = tuple(map(_words, course.lines))
        if any(named) and named not in listed:
            listed.add(named)
            _legend(axes, "best")
    if chosen is not None:
        panels[0].set_title(f"kept: epoch {chosen:g}", loc="right", fontsize=SMALL, color=INK)
    for axes in panels[-columns:]:
        axes.set_xlabel("Epoch")
        axes.tick_params(axis="x", labelbottom=True)
        axes.locator_params(axis="x", integer=True, min_n_ticks=1)  # of one epoch there is one
    figure.align_ylabels()
    return figure


# ---- As files


def to_svg(figure: Figure) -> str:
    """A figure as SVG with real text; the same figure gives the same bytes."""
    from matplotlib import rc_context

    _settle(figure)
    buffer = BytesIO()
    with rc_context({"svg.hashsalt": "nodulens", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return buffer.getvalue().decode("utf-8")


def to_png(figure: Figure, dpi: int = 200) -> bytes:
    """A figure as PNG on white."""
    _settle(figure)
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write a figure atomically.

    Args:
        figure: as the functions here and in :mod:`nodulens.presentation.panels` return it.
        path: ends in ``.png`` or ``.svg``; an existing file is replaced.

    Raises:
        BadOption: another suffix.
    """
    path = Path(path)
    writers: dict[str, Callable[[Figure], bytes]] = {".png": to_png, ".svg": lambda one: to_svg(one).encode()}
    if path.suffix.lower() not in writers:
        raise BadOption(f"{path}: figures are written as .png or .svg; use one of these extensions.")
    data = writers[path.suffix.lower()](figure)
    with whole_file(path) as part:
        part.write_bytes(data)
    return path


def _settle(figure: Figure) -> None:
    """Compute the layout once: repeated at each drawing, it would differ slightly each time."""
    if figure.get_layout_engine() is not None:
        figure.draw_without_rendering()
        figure.set_layout_engine("none")


# ---- Drawing


def new_figure(width: float, height: float, basis: Basis | None) -> Figure:
    """An empty figure, its size in inches, with automatic layout and its basis below.

    Raises:
        MissingExtra: Matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("evaluate", "matplotlib") from error
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="none")
    if basis is not None:
        figure.supxlabel(str(basis), x=0.01, ha="left", fontsize=SMALL, color=INK, alpha=0.75, wrap=True)
    return figure


def _sheet(width: float, height: float, basis: Basis) -> tuple[Figure, Axes]:
    figure, (axes,) = _sheets((width, height), basis)
    return figure, axes


def _sheets(
    size: tuple[float, float], basis: Basis, *, rows: int = 1, columns: int = 1, heights: Sequence[float] | None = None
) -> tuple[Figure, list[Axes]]:
    """A figure with axes in our style; those in a column share their x axis."""
    figure = new_figure(*size, basis)
    grid = figure.subplots(rows, columns, sharex="col", squeeze=False, height_ratios=heights)
    for axes in grid.flat:
        axes.set_facecolor("none")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        for spine in axes.spines.values():
            spine.set(color=INK, alpha=0.5, linewidth=0.8)
        axes.grid(color=INK, alpha=0.1, linewidth=0.7)
        axes.tick_params(which="both", colors=INK, labelsize=SMALL + 0.5, length=3, width=0.7)
        for label in (axes.xaxis.label, axes.yaxis.label):
            label.set(color=INK, fontsize=TEXT)
    return figure, list(grid.flat)


def _cycle(values: Sequence[Any], count: int) -> list[Any]:
    return [values[i % len(values)] for i in range(count)]


def _words(line: Line) -> str:
    return ", ".join(filter(None, [line.name, line.summary]))


def _draw(axes: Axes, lines: Sequence[Line], steps: Literal["pre"] | None = None) -> None:
    """Draw lines over their bands, cycling colours and dashes."""
    style: Style = {} if steps is None else {"drawstyle": f"steps-{steps}"}
    for i, line in enumerate(lines):
        colour = COLOURS[i % len(COLOURS)]
        if line.low is not None and line.high is not None:
            axes.fill_between(line.x, line.low, line.high, color=colour, alpha=0.16, linewidth=0, step=steps)
        dashes = DASHES[i % len(DASHES)]
        style["marker"] = "o" if len(line.x) == 1 else None  # a line of a single point is not seen
        axes.plot(line.x, line.y, color=colour, linestyle=dashes, linewidth=1.6, label=_words(line), **style)


def _mark(axes: Axes, points: Sequence[Point]) -> None:
    for point in points:
        look: Style = {
            "marker": "D",
            "markersize": 5,
            "markerfacecolor": INK,
            "markeredgecolor": PAPER,
            "clip_on": False,
        }
        axes.plot(point.x, point.y, linestyle="none", zorder=4, **look)
        offset: Style = {"xytext": (6, -4), "textcoords": "offset points"}
        ground: Style = {"facecolor": PAPER, "alpha": 0.75, "edgecolor": "none", "pad": 1}
        axes.annotate(
            point.name, (point.x, point.y), ha="left", va="top", fontsize=SMALL, color=INK, bbox=ground, **offset
        )


def _legend(axes: Axes, place: Place) -> None:
    if any(not label.startswith("_") for label in axes.get_legend_handles_labels()[1]):
        axes.legend(
            loc=place, frameon=True, facecolor=PAPER, edgecolor="none", framealpha=0.85,
            fontsize=SMALL + 0.5, labelcolor=INK, handlelength=2.4,
        )  # fmt: skip


def _shares(axes: Axes, across: str, up: str) -> None:
    """Set both axes to 0…1, square."""
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(-0.01, 1.01)
    axes.set_aspect("equal")
    axes.set_xlabel(across)
    axes.set_ylabel(up)


def _note(axes: Axes, x: float, y: float, text: str, va: str = "bottom") -> None:
    """Write small text at a horizontal line; ``x`` is a share of the width."""
    axes.text(x, y, text, transform=axes.get_yaxis_transform(), va=va, fontsize=SMALL, color=INK)


def _dots(count: int, colour: str) -> Style:
    """A style of dots that is legible from ten to ten thousand of them."""
    alpha = float(np.clip(12 / np.sqrt(max(count, 1)), 0.25, 0.8))
    return {"linestyle": "none", "marker": "o", "markersize": 3.6, "color": colour, "alpha": alpha, "mew": 0}


def _on_grid(line: Line, grid: Float) -> Line:
    """Interpolate a line, flat beyond its ends."""
    low, high = (None if end is None else np.interp(grid, line.x, end) for end in (line.low, line.high))
    return replace(line, x=grid, y=np.interp(grid, line.x, line.y), low=low, high=high)


def _rising(line: Line) -> Line:
    """A line with ascending ``x``."""
    if line.x[0] <= line.x[-1]:
        return line
    low, high = (None if end is None else end[::-1] for end in (line.low, line.high))
    return replace(line, x=line.x[::-1], y=line.y[::-1], low=low, high=high)


def _number(value: float) -> str:
    """Format with three significant digits or more, and a true minus sign."""
    text = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return text.replace("-", "−")
