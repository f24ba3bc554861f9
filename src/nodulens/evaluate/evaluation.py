"""A whole evaluation as one value: figures, tables, drawings, and all that it takes to make them again.

Its JSON (:func:`to_json`) is kept beside the page, so that pages can be made anew from it.
"""

from __future__ import annotations

import base64
import platform
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from math import inf, isnan
from typing import TYPE_CHECKING

from nodulens.data.splits import Split
from nodulens.errors import BadValues
from nodulens.evaluate.detection import FP_RATES, Froc, SizeBand, by_size
from nodulens.evaluate.detection import Interval as FrocInterval
from nodulens.evaluate.figures import Basis, Curve, froc_figure, to_png, to_svg
from nodulens.io.records import decode, encode
from nodulens.report import WeightRef

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCHEMA = "nodulens-evaluation/1"
Cell = str | int | float | None
PACKAGES = ("nodulens", "numpy", "scipy", "SimpleITK", "openvino", "onnxruntime-gpu", "torch", "matplotlib")
PNG_DPI = 160


@dataclass(frozen=True)
class Metric:
    """One figure of the evaluation.

    Attributes:
        name: for instance "AUC".
        value: None where it is undefined; NaN becomes None.
        low, high: ends of its interval; None where there is none.
        n: how many cases it stands on, or None.
        unit: of value and interval; empty for shares and scores, which lie in 0…1.
        note: more to say, for instance what the cases are.

    Raises:
        BadValues: an end of the interval without the other, or a value outside it.
    """

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    unit: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        for end in ("value", "low", "high"):
            given = getattr(self, end)
            object.__setattr__(self, end, None if given is None or isnan(given) else float(given))
        if (self.low is None) is not (self.high is None):
            raise BadValues(f"The interval of {self.name} needs both ends.")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise BadValues(f"The interval of {self.name} runs from {self.low} to {self.high}: turn it round.")


@dataclass(frozen=True)
class Table:
    """Rows of words and numbers, for instance a row a class or size; the first column names them.

    Raises:
        BadValues: a row of another length than there are columns.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise BadValues(f"{self.title}: {len(self.columns)} columns, but a row of {len(row)}: {row[:3]}.")


@dataclass(frozen=True)
class Drawing:
    """A figure as it stands on the page.

    Attributes:
        title, caption: its words; the caption may be empty.
        svg: an SVG document; empty where it is a picture of pixels.
        png: a PNG file in base64; empty where it is lines.
    """

    title: str
    caption: str = ""
    svg: str = ""
    png: str = ""

    def __post_init__(self) -> None:
        if bool(self.svg) is bool(self.png):
            raise BadValues(f"The drawing {self.title!r} needs either SVG or PNG.")

    @classmethod
    def of_lines(cls, title: str, figure: Figure, caption: str = "") -> Drawing:
        """A diagram, as SVG."""
        return cls(title, caption, svg=to_svg(figure))

    @classmethod
    def of_pixels(cls, title: str, figure: Figure, caption: str = "") -> Drawing:
        """A figure of :mod:`nodulens.evaluate.panels`, as PNG."""
        return cls(title, caption, png=base64.b64encode(to_png(figure, PNG_DPI)).decode("ascii"))


@dataclass(frozen=True)
class Part:
    """Who stands in one part of a split: names of patients, or of scans where patients are not known."""

    name: str
    members: tuple[str, ...]
    unit: str = "patients"


@dataclass(frozen=True)
class DataSet:
    """What was evaluated on, with the licence and the citation that it asks for."""

    name: str
    licence: str
    citation: str
    note: str = ""


LUNA16 = DataSet(
    "LUNA16",
    "CC BY 3.0",
    "Setio et al., Validation, comparison, and combination of algorithms for automatic detection of pulmonary nodules "
    "in computed tomography images: the LUNA16 challenge. Medical Image Analysis 42, 1–13, 2017.",
)
LIDC_IDRI = DataSet(
    "LIDC-IDRI",
    "CC BY 3.0",
    "Armato et al., The Lung Image Database Consortium (LIDC) and Image Database Resource Initiative (IDRI): a "
    "completed reference database of lung nodules on CT scans. Medical Physics 38, 915–931, 2011.",
)
LUNG_PET_CT_DX = DataSet(
    "Lung-PET-CT-Dx",
    "CC BY 4.0",
    "Li et al., A large-scale CT and PET/CT dataset for lung cancer diagnosis. The Cancer Imaging Archive, 2020.",
)


@dataclass(frozen=True)
class Provenance:
    """All that it takes to make an evaluation again.

    Attributes:
        command: the line that was typed.
        made: when, as ISO 8601; empty where it should not be told.
        split: everyone, part by part.
        split_method: how the split was made, with its seed.
        seeds: what was drawn at random → seed.
        weights: the model files that took part.
        software: package → version, as of :func:`software`.
        data: the data sets.
    """

    command: str = ""
    made: str = ""
    split: tuple[Part, ...] = ()
    split_method: str = ""
    seeds: dict[str, int] = field(default_factory=dict)
    weights: tuple[WeightRef, ...] = ()
    software: dict[str, str] = field(default_factory=dict)
    data: tuple[DataSet, ...] = ()


@dataclass(frozen=True)
class Evaluation:
    """Everything that one evaluation found, with its provenance.

    Attributes:
        title: what was evaluated.
        summary: sentences: what was found.
        metrics: the figures.
        interval: what an interval is, for instance "95 %, 1,000 bootstraps by patient".
        tables: figures by class, size, texture, …
        drawings: curves, diagrams and pictures, in the order in which they are shown.
        warnings: what makes the figures less sure, sentences.
        provenance: how it came about.
    """

    title: str
    summary: tuple[str, ...] = ()
    metrics: tuple[Metric, ...] = ()
    interval: str = ""
    tables: tuple[Table, ...] = ()
    drawings: tuple[Drawing, ...] = ()
    warnings: tuple[str, ...] = ()
    provenance: Provenance = Provenance()


def to_json(evaluation: Evaluation) -> str:
    """The evaluation as indented JSON of schema ``nodulens-evaluation/1``.

    Raises:
        NodulensError: a number in a table is NaN or infinite; the message says which.
    """
    return encode(evaluation, SCHEMA)


def from_json(text: str) -> Evaluation:
    """The evaluation that :func:`to_json` wrote, equal to the one it was given.

    Raises:
        UnreadableFile: not JSON, another schema, or a key that is unknown, missing or of the wrong type.
    """
    return decode(Evaluation, text, SCHEMA)


def software() -> dict[str, str]:
    """Versions of Python and of the packages that figures depend on, those that are installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def parts_of(split: Split) -> tuple[Part, ...]:
    """Every patient of a split, group by group."""
    groups = sorted(set(split.groups.values()))
    named = {group: f"fold {group}" if group.isdigit() else group for group in groups}
    return tuple(Part(named[group], tuple(sorted(split.patients(group)))) for group in groups)


def shared(parts: Sequence[Part]) -> tuple[str, ...]:
    """Who stands in more than one part: where there is anyone, the figures do not hold."""
    times = Counter(member for part in parts for member in set(part.members))
    return tuple(sorted(member for member, count in times.items() if count > 1))


# ---- Detection


def froc_curve(name: str, result: Froc, interval: FrocInterval | None = None) -> Curve:
    """The curve of a detector, with the band of its bootstrap."""
    summary = f"CPM {result.cpm:.3f}"
    if interval is None:
        return Curve(name, result.fp_rate, result.sensitivity, summary=summary)
    low, high = interval.cpm
    return Curve(
        name, interval.fp_rate, result.sensitivity_at(interval.fp_rate), interval.low, interval.high,
        f"{summary} ({low:.3f} to {high:.3f})",
    )  # fmt: skip


def froc_evaluation(
    result: Froc, interval: FrocInterval | None, series: Iterable[str], provenance: Provenance, name: str = "marks"
) -> Evaluation:
    """A detector's FROC as a whole evaluation.

    Args:
        result: of :func:`nodulens.evaluate.detection.froc`.
        interval: of its bootstrap, or None.
        series: UIDs of all scans that were searched; they become the part that was tested.
        provenance: how it came about; a split that it holds already is kept.
        name: of the detector.

    Raises:
        MissingExtra: Matplotlib is not installed.
    """
    tally, sensitivity = result.tally, result.sensitivity_at(FP_RATES)
    means = "" if interval is None else f"{100 * interval.confidence:g} %, {len(interval.cpms):,} bootstraps by scan"
    basis = Basis(result.nodules, "nodules", result.scans, note=means and f"band: {means}")
    lost = tally.marks - tally.candidates
    warnings = [
        f"{tally.nodules_elsewhere:,} annotated nodules lie in series that are not listed, and are not counted."
        if tally.nodules_elsewhere
        else "",
        f"{lost:,} marks were dropped: in their scans there are more than 100." if lost else "",
    ]
    ends: list[tuple[float | None, float | None]] = [(None, None)] * len(FP_RATES)
    cpm_low = cpm_high = None
    if interval is not None:
        at = [int(i) for i in interval.fp_rate.searchsorted(FP_RATES)]
        ends = [(float(interval.low[i]), float(interval.high[i])) for i in at]
        cpm_low, cpm_high = interval.cpm
    metrics = [
        Metric("CPM", result.cpm, cpm_low, cpm_high, result.nodules, note="mean sensitivity at the seven rates below"),
        *(
            Metric(f"Sensitivity at {_rate(rate)} false positives a scan", float(value), *pair, result.nodules)
            for rate, value, pair in zip(FP_RATES, sensitivity, ends, strict=True)
        ),
    ]
    counts = (
        ("nodules found", result.true_positives),
        ("nodules missed", result.false_negatives),
        ("marks given", tally.marks),
        ("false positives", result.false_positives),
        ("ignored: on a nodule, beside a better mark", tally.ignored_double),
        ("ignored: on an excluded finding", tally.ignored_on_excluded),
    )
    split = provenance.split or (Part("test", tuple(sorted(series)), "scans"),)
    return Evaluation(
        title=f"Nodule detection: {name}",
        summary=(
            f"In {result.scans:,} scans {result.true_positives:,} of {result.nodules:,} nodules were marked, with "
            f"{result.false_positives / result.scans:.1f} false positives a scan. CPM is {result.cpm:.4f}.",
        ),
        metrics=tuple(metrics),
        interval=means,
        tables=(_by_size(by_size(result)), Table("What became of the marks", ("", "count"), counts)),
        drawings=(
            Drawing.of_lines(
                "Free response",
                froc_figure([froc_curve(name, result, interval)], basis),
                "Scored as LUNA16 does: at most 100 marks a scan, findings that are excluded count neither way, a "
                "second mark on a nodule is ignored.",
            ),
        ),
        warnings=tuple(filter(None, warnings)),
        provenance=replace(provenance, split=split),
    )


def _by_size(bands: Sequence[SizeBand]) -> Table:
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (
            f"{band.lo_mm:g} to {band.hi_mm:g} mm" if band.hi_mm < inf else f"{band.lo_mm:g} mm or more",
            band.froc.nodules,
            band.froc.true_positives,
            *(float(value) for value in band.froc.sensitivity_at((1, 4))),
            band.froc.cpm,
        )
        for band in bands
    )
    columns = ("diameter", "nodules", "marked", "sensitivity at 1", "at 4", "CPM")
    return Table("By size", columns, rows, "Against the false positives of all sizes.")


def _rate(rate: float) -> str:
    return f"1/{1 / rate:g}" if rate < 1 else f"{rate:g}"
