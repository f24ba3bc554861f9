"""Pictures of pixels: differences of masks, the classes of a slice, the best and worst cases, and single nodules.

Slices are (rows, columns) of an axial slice in canonical orientation: row 0 anterior, column 0 at the patient's right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from nodulens.errors import BadOption, BadValues
from nodulens.presentation.figures import INK, SMALL, TEXT, Basis, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Colour = tuple[int, int, int]
Picture = NDArray[np.uint8]
Bits = NDArray[np.bool_]

LUNG_WINDOW = (-1350.0, 150.0)
"""HU shown as black and white."""
RED, GREEN, YELLOW = (206, 32, 41), (60, 190, 90), (255, 222, 66)
"""Each clearly lighter than the one before, so distinguishable in grey and in every kind of colour vision."""
BLUE, SKY = (0, 114, 178), (120, 195, 240)
CLASS_COLOURS: Mapping[str, Colour] = {"nodule": BLUE, "left lung": RED, "right lung": GREEN, "lung": GREEN}
MISMATCH = YELLOW
GROUND = 0.7
"""Lightness of a colour over black, rising to 1 over white, so that the picture shows through the colour."""


@dataclass(frozen=True, eq=False)
class Case:
    """A slice with ground truth and result.

    Attributes:
        name: of the case, for instance a pseudonym or series.
        hu: (rows, columns) the slice.
        truth, result: bool of the same shape.
        dice: of the two, 0…1; cases are ranked by it.
        pixel_mm: height and width of a pixel.

    Raises:
        BadValues: shapes that differ, or a Dice that is NaN.
    """

    name: str
    hu: NDArray[Any]
    truth: Bits
    result: Bits
    dice: float
    pixel_mm: tuple[float, float] = (1.0, 1.0)

    def __post_init__(self) -> None:
        _same_shape(self.name, self.hu, self.truth, self.result)
        if np.isnan(self.dice):
            raise BadValues(f"{self.name} has no Dice: leave out cases without one, and report their number.")


@dataclass(frozen=True, eq=False)
class Panel:
    """A slice with a result, and what is known beside it, (rows, columns) each.

    Attributes:
        name: of the slice; it may have two lines.
        hu: the slice.
        result: bool.
        truth: bool; None where it is unknown.
        prompt: the box that prompted it, corners (row, column) as faces: pixel 0 reaches from 0 to 1; or one point.
        pixel_mm: height and width of a pixel.

    Raises:
        BadValues: shapes that differ.
    """

    name: str
    hu: NDArray[Any]
    result: Bits
    truth: Bits | None = None
    prompt: tuple[tuple[float, float], ...] = ()
    pixel_mm: tuple[float, float] = (1.0, 1.0)

    def __post_init__(self) -> None:
        _same_shape(self.name, self.hu, self.result, *([] if self.truth is None else [self.truth]))


@dataclass(frozen=True, eq=False)
class LabelledSlice:
    """A slice with the true and the predicted class of every pixel, (rows, columns) each.

    Raises:
        BadValues: shapes that differ.
    """

    name: str
    hu: NDArray[Any]
    truth: NDArray[Any]
    predicted: NDArray[Any]
    pixel_mm: tuple[float, float] = (1.0, 1.0)

    def __post_init__(self) -> None:
        _same_shape(self.name, self.hu, self.truth, self.predicted)


@dataclass(frozen=True, eq=False)
class Explained:
    """A crop with explanations of a network's output, (rows, columns) each.

    Attributes:
        name: of the case, with its true and predicted class.
        image: 0…1.
        heat: 0…1, evidence for the class, such as Grad-CAM.
        shares: signed contribution of each pixel, such as SHAP values.

    Raises:
        BadValues: shapes that differ.
    """

    name: str
    image: NDArray[Any]
    heat: NDArray[Any]
    shares: NDArray[Any]

    def __post_init__(self) -> None:
        _same_shape(self.name, self.image, self.heat, self.shares)


# ---- Pictures as arrays


def grey(hu: NDArray[Any], window: tuple[float, float] = LUNG_WINDOW) -> Picture:
    """HU as RGB (rows, columns, 3), black and white at the ends of the window."""
    low, high = window
    level = np.clip((np.asarray(hu, np.float32) - low) * (255 / (high - low)) + 0.5, 0, 255).astype(np.uint8)
    return np.repeat(level[..., None], 3, axis=-1)


def difference_picture(hu: NDArray[Any], truth: Bits, first: Bits, second: Bits | None = None) -> Picture:
    """Differences of two or three masks over the slice.

    Red is the ground truth only, green the first result only, yellow the second only. Blue is common to all, light blue
    to two of three.

    Args:
        hu: (rows, columns).
        truth, first, second: bool of the same shape.

    Returns:
        RGB (rows, columns, 3).
    """
    return _laid_over(grey(hu), [(colour, where) for _, colour, where in _regions(truth, first, second)])


def class_picture(hu: NDArray[Any], labels: NDArray[Any], names: Mapping[int, str]) -> Picture:
    """The classes of a slice: nodule blue, left lung red, right lung green; unnamed labels are grey.

    Args:
        hu, labels: (rows, columns).
        names: label value → one of :data:`CLASS_COLOURS`.

    Raises:
        BadOption: another name.
    """
    return _laid_over(grey(hu), [(_colour(name), labels == value) for value, name in names.items()])


def mismatch_picture(one: LabelledSlice, names: Mapping[int, str]) -> Picture:
    """The predicted classes in their colours where they are right, and yellow where they are not.

    Args:
        one: the slice with its labels; 0 is the background.
        names: as in :func:`class_picture`.

    Raises:
        BadOption: a name without a colour.
    """
    right = one.predicted == one.truth
    layers = [(_colour(name), right & (one.truth == value)) for value, name in names.items()]
    return _laid_over(grey(one.hu), [*layers, (MISMATCH, ~right)])


# ---- Figures


def difference_figure(
    case: Case, names: tuple[str, ...], second: Bits | None = None, *, margin_mm: float | None = 15.0
) -> Figure:
    """The pixels of ground truth and one or two results, with their counts.

    Args:
        case: the slice, its ground truth and the first result.
        names: of the results, one or two.
        second: the second result, or None.
        margin_mm: margin around the masks; None for the whole slice.

    Raises:
        BadOption: not as many names as results.
    """
    if len(names) != (1 if second is None else 2):
        raise BadOption(f"{1 if second is None else 2} results need as many names, got {len(names)}.")
    masks = [case.truth, case.result, *([] if second is None else [second])]
    view = slice(None), slice(None)
    if margin_mm is not None:
        view = _view(np.any(masks, axis=0), case.pixel_mm, margin_mm)
    figure = new_figure(7.0, 3.9, None)
    plain, coloured = figure.subplots(1, 2)
    others = None if second is None else second[view]
    _show(plain, grey(case.hu[view]), case.pixel_mm, "input")
    picture = difference_picture(case.hu[view], case.truth[view], case.result[view], others)
    _show(coloured, picture, case.pixel_mm, "coverage")
    _scale_bar(plain, case.pixel_mm)
    area = case.pixel_mm[0] * case.pixel_mm[1]
    entries = []
    for words, colour, where in _regions(case.truth, case.result, second):
        count = int(where.sum())
        words = words.format(*names)
        entries.append((f"{words}: {count:,} px, {count * area:,.0f} mm²", colour))
    _colour_legend(figure, entries, "outside lower left")
    figure.suptitle(f"{case.name}, Dice {case.dice:.3f}", x=0.01, ha="left", fontsize=TEXT, color=INK)
    return figure


def class_figure(slices: Sequence[LabelledSlice], names: Mapping[int, str], basis: Basis) -> Figure:
    """Input, ground truth, prediction and overlay, a row a slice; the overlay is yellow where the prediction is wrong.

    Args:
        slices: to show.
        names: label value → one of :data:`CLASS_COLOURS`.
        basis: origin of the slices.
    """
    figure = new_figure(7.4, 0.9 + 1.78 * len(slices), basis)
    grid = figure.subplots(len(slices), 4, squeeze=False)
    for row, one in zip(grid, slices, strict=True):
        pictures = {
            "input": grey(one.hu),
            "truth": class_picture(one.hu, one.truth, names),
            "prediction": class_picture(one.hu, one.predicted, names),
            "overlay": mismatch_picture(one, names),
        }
        for axes, (title, picture) in zip(row, pictures.items(), strict=True):
            _show(axes, picture, one.pixel_mm, title if one is slices[0] else "")
        row[0].set_ylabel(one.name, fontsize=SMALL, color=INK)
    _colour_legend(
        figure, [*((name, _colour(name)) for name in names.values()), ("mismatch", MISMATCH)], "outside upper left"
    )
    return figure


def explained_figure(cases: Sequence[Explained], basis: Basis) -> Figure:
    """Input, heat map and the pixels' contributions, a row a case.

    The heat map is yellow over the crop. Contributions are red for the class, light blue against it, scaled by the
    largest of each row; they vary between adjacent pixels, so the mean over 5 × 5 is shown.

    Args:
        cases: one or more.
        basis: what they are, which class, and which network.

    Raises:
        BadValues: no case.
    """
    if not cases:
        raise BadValues("There is no case to show.")
    from scipy.ndimage import uniform_filter

    figure = new_figure(5.6, 0.8 + 1.85 * len(cases), basis)
    grid = figure.subplots(len(cases), 3, squeeze=False)
    for row, one in zip(grid, cases, strict=True):
        plain = grey(one.image, (0.0, 1.0))
        shares = uniform_filter(np.asarray(one.shares, np.float64), 5, mode="constant")
        shares /= max(float(np.abs(shares).max()), 1e-12)
        pictures = {
            "input": plain,
            "Grad-CAM": _tinted(plain, one.heat, YELLOW),
            "SHAP": _tinted(_tinted(plain // 2, shares, RED), -shares, SKY),
        }
        for axes, (title, picture) in zip(row, pictures.items(), strict=True):
            _show(axes, picture, (1.0, 1.0), title if one is cases[0] else "")
        row[0].set_ylabel(one.name, fontsize=SMALL, color=INK)
    entries = [("seen for it", YELLOW), ("speaks for it", RED), ("speaks against it", SKY)]
    _colour_legend(figure, entries, "outside upper left")
    return figure


def best_and_worst(cases: Sequence[Case], count: int = 3) -> tuple[tuple[Case, ...], tuple[Case, ...]]:
    """The best cases, best first, and the worst, worst first; cases of equal Dice are in order of name.

    If there are too few for both, none is repeated: the best come first.
    """
    ranked = sorted(cases, key=lambda case: (-case.dice, case.name))
    best = ranked[: min(count, (len(ranked) + 1) // 2)]
    worst = sorted(ranked[len(best) :], key=lambda case: (case.dice, case.name))[:count]
    return tuple(best), tuple(worst)


def cases_figure(cases: Sequence[Case], basis: Basis, *, count: int = 3, margin_mm: float | None = 15.0) -> Figure:
    """Best and worst cases: input, ground truth and result, a row a case.

    Args:
        cases: all cases; the figure shows those at both ends.
        basis: of the cases.
        count: number of each.
        margin_mm: margin around ground truth and result; None for whole slices.

    Raises:
        BadValues: no case.
    """
    if not cases:
        raise BadValues("There is no case to show.")
    best, worst = best_and_worst(cases, count)
    rows = [("best", case) for case in best] + [("worst", case) for case in reversed(worst)]
    panels = [
        Panel(f"{rank}, Dice {case.dice:.3f}\n{case.name}", case.hu, case.result, case.truth, (), case.pixel_mm)
        for rank, case in rows
    ]
    return panels_figure(panels, basis, margin_mm=margin_mm)


def panels_figure(
    panels: Sequence[Panel], basis: Basis | None, *, margin_mm: float | None = 15.0, together: bool = False
) -> Figure:
    """Input, ground truth (where it is known of any) and result, a row a slice; the prompt is yellow on the input.

    Args:
        panels: one or more.
        basis: of the figure.
        margin_mm: margin around ground truth and result; None for whole slices.
        together: whether all show the same place, for slices of one scan.

    Raises:
        BadValues: no panel.
    """
    if not panels:
        raise BadValues("There is no slice to show.")
    titles = ("input", "truth", "result") if any(one.truth is not None for one in panels) else ("input", "result")
    figure = new_figure(0.5 + 1.7 * len(titles), 0.5 + 1.75 * len(panels), basis)
    grid = figure.subplots(len(panels), len(titles), squeeze=False)
    covered = [one.result if one.truth is None else one.truth | one.result for one in panels]
    if together:
        covered = [np.any(covered, axis=0)] * len(panels)
    for row, one, shown in zip(grid, panels, covered, strict=True):
        whole = slice(0, one.hu.shape[0]), slice(0, one.hu.shape[1])
        view = whole if margin_mm is None else _view(shown, one.pixel_mm, margin_mm)
        for axes, title in zip(row, titles, strict=True):
            _show(axes, grey(one.hu[view]), one.pixel_mm, title if one is panels[0] else "")
        if one.truth is not None:
            _outline(row[1], one.truth[view], RED)
        _outline(row[-1], one.result[view], GREEN)
        _prompt(row[0], one.prompt, (view[0].start, view[1].start))
        _scale_bar(row[0], one.pixel_mm)
        row[0].set_ylabel(one.name, fontsize=SMALL, color=INK)
    return figure


# ---- Parts


def _same_shape(name: str, *arrays: NDArray[Any]) -> None:
    shapes = {array.shape for array in arrays}
    if len(shapes) > 1 or arrays[0].ndim != 2:
        raise BadValues(f"{name}: slice and masks must be (rows, columns) of one shape, got {sorted(shapes)}.")


def _colour(name: str) -> Colour:
    if name not in CLASS_COLOURS:
        raise BadOption(f"There is no colour for {name!r}; classes are {', '.join(CLASS_COLOURS)}.")
    return CLASS_COLOURS[name]


def _hex(colour: Colour) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _regions(truth: Bits, first: Bits, second: Bits | None) -> list[tuple[str, Colour, Bits]]:
    """Regions of the masks: description with placeholders for the results' names, colour, pixels."""
    one = [("truth only", RED, truth & ~first), ("{0} only", GREEN, first & ~truth)]
    if second is None:
        return [*one, ("both", BLUE, truth & first)]
    votes = truth.astype(np.uint8) + first + second
    lone = votes == 1
    return [
        ("truth only", RED, truth & lone),
        ("{0} only", GREEN, first & lone),
        ("{1} only", YELLOW, second & lone),
        ("two of three", SKY, votes == 2),
        ("all three", BLUE, votes == 3),
    ]


def _laid_over(picture: Picture, layers: Sequence[tuple[Colour, Bits]]) -> Picture:
    result = picture.copy()
    for colour, where in layers:
        light = GROUND + (1 - GROUND) / 255 * picture[where].astype(np.float32)
        result[where] = (light * np.asarray(colour, np.float32) + 0.5).astype(np.uint8)
    return result


def _tinted(picture: Picture, strength: NDArray[Any], colour: Colour) -> Picture:
    """Blend a colour over a picture by 0…1, seven tenths at most; values below 0 count as 0."""
    share = GROUND * np.clip(strength, 0, 1)[..., None].astype(np.float32)
    return np.asarray(picture * (1 - share) + np.asarray(colour, np.float32) * share + 0.5, dtype=np.uint8)


def _view(covered: Bits, pixel_mm: tuple[float, float], margin_mm: float) -> tuple[slice, slice]:
    """A square in millimetres around the masks, clipped to the slice; the whole slice if they are empty."""
    places = np.argwhere(covered)
    if not len(places):
        return slice(0, covered.shape[0]), slice(0, covered.shape[1])
    low, high = places.min(axis=0), places.max(axis=0) + 1
    side = float(((high - low) * pixel_mm).max()) + 2 * margin_mm
    start = np.round((low + high) / 2 - side / 2 / np.asarray(pixel_mm)).astype(int)
    stop = start + np.ceil(side / np.asarray(pixel_mm)).astype(int)
    rows, columns = (slice(max(0, int(a)), int(b)) for a, b in zip(start, stop, strict=True))
    return rows, columns


def _show(axes: Axes, picture: Picture, pixel_mm: tuple[float, float], title: str) -> None:
    axes.imshow(picture, aspect=pixel_mm[0] / pixel_mm[1], interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    if title:
        axes.set_title(title, loc="left", fontsize=TEXT, color=INK, pad=4)


def _outline(axes: Axes, mask: Bits, colour: Colour) -> None:
    """Draw the border of a mask along the edges of its pixels."""
    framed = np.pad(mask, 1)
    style: dict[str, Any] = {"color": _hex(colour), "linewidth": 1.3, "capstyle": "projecting"}
    row, column = np.nonzero(framed[:, 1:] != framed[:, :-1])
    axes.vlines(column - 0.5, row - 1.5, row - 0.5, **style)
    row, column = np.nonzero(framed[1:] != framed[:-1])
    axes.hlines(row - 0.5, column - 1.5, column - 0.5, **style)


def _prompt(axes: Axes, faces: tuple[tuple[float, float], ...], first: tuple[int, int]) -> None:
    """Draw a box by its corners, or a point; ``first`` is the picture's first pixel."""
    limits = axes.get_xlim(), axes.get_ylim()
    places = [(column - first[1] - 0.5, row - first[0] - 0.5) for row, column in faces]
    if len(places) == 1:
        axes.plot(*places[0], "+", color=_hex(YELLOW), markersize=8, markeredgewidth=1.3)
    elif places:
        (left, top), (right, bottom) = places
        ring = [left, right, right, left, left], [top, top, bottom, bottom, top]
        axes.plot(*ring, color=_hex(YELLOW), linewidth=1.1, linestyle=(0, (3, 1.5)))
    axes.set_xlim(limits[0])  # a prompt beyond the picture does not widen it
    axes.set_ylim(limits[1])


def _scale_bar(axes: Axes, pixel_mm: tuple[float, float]) -> None:
    """Draw a scale bar of 10 mm (100 mm over whole slices) in the lower right corner, on a dark background."""
    rows, columns = axes.get_images()[0].get_size()
    length_mm = 10 if columns * pixel_mm[1] < 150 else 100
    length = length_mm / pixel_mm[1]
    right, below = columns * 0.95, rows * 0.94
    for colour, width in (("black", 4.5), ("white", 2)):
        axes.plot([right - length, right], [below, below], color=colour, linewidth=width, solid_capstyle="butt")
    ground: dict[str, Any] = {"facecolor": "black", "edgecolor": "none", "alpha": 0.55, "pad": 1}
    place: dict[str, Any] = {"ha": "right", "va": "bottom", "bbox": ground}
    axes.text(right, below - rows * 0.025, f"{length_mm} mm", color="white", fontsize=SMALL - 1, **place)


def _colour_legend(
    figure: Figure, entries: Sequence[tuple[str, Colour]], place: Literal["outside upper left", "outside lower left"]
) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(color=_hex(colour), label=words) for words, colour in entries]
    figure.legend(
        handles=handles, loc=place, ncols=2 if len(entries) == 5 else len(entries), frameon=False,
        fontsize=SMALL + 0.5, labelcolor=INK, handlelength=1.2,
    )  # fmt: skip
