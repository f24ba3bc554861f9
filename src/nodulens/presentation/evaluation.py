"""A whole evaluation as one value: figures, tables, drawings, and their provenance.

Its JSON (:func:`to_json`) is written beside the page, which can be rendered from it again.
"""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING

from nodulens.core.versions import versions
from nodulens.data.splits import Split
from nodulens.errors import BadValues
from nodulens.io.records import Format, decode, encode
from nodulens.metrics.statistics import Interval
from nodulens.presentation.figures import to_png, to_svg
from nodulens.report.record import WeightRef

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCHEMA = "nodulens-evaluation/1"
FORM = Format(SCHEMA, "evaluation")
Cell = str | int | float | None
PACKAGES = ("nodulens", "numpy", "scipy", "SimpleITK", "openvino", "torch", "matplotlib")
PNG_DPI = 160


@dataclass(frozen=True)
class Metric:
    """One figure of the evaluation.

    Attributes:
        name: for instance "AUC".
        value: None where it is undefined; NaN becomes None.
        low, high: ends of its interval; None without one.
        n: number of cases, or None.
        unit: of value and interval; empty for proportions and scores, which are in 0…1.
        note: a remark, for instance what the cases are.

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
            raise BadValues(f"The interval of {self.name} is {self.low} to {self.high}: swap its ends.")

    @classmethod
    def of(cls, name: str, figure: Interval, n: int | None = None, unit: str = "", note: str = "") -> Metric:
        """A figure with its interval, as :mod:`nodulens.metrics.statistics` gives it."""
        return cls(name, figure.value, figure.low, figure.high, n, unit, note)


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

    @property
    def numeric(self) -> tuple[bool, ...]:
        """Which columns are numeric; never the first, which names the rows."""
        columns = list(zip(*self.rows, strict=True)) if self.rows else [()] * len(self.columns)
        return tuple(k > 0 and not any(type(v) is str for v in column) for k, column in enumerate(columns))


@dataclass(frozen=True)
class Drawing:
    """A figure on the page.

    Attributes:
        title, caption: text; the caption may be empty.
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
        """A figure of :mod:`nodulens.presentation.panels`, as PNG."""
        return cls(title, caption, png=base64.b64encode(to_png(figure, PNG_DPI)).decode("ascii"))


@dataclass(frozen=True)
class SplitPart:
    """One part of a split: names of patients, or of scans if patients are not known."""

    name: str
    members: tuple[str, ...]
    unit: str = "patients"


@dataclass(frozen=True)
class DataSet:
    """A data set that was used, with its licence and citation."""

    name: str
    licence: str
    citation: str
    note: str = ""


LUNA16 = DataSet(
    "LUNA16",
    "CC BY 4.0",
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
    """All that is needed to reproduce an evaluation.

    Attributes:
        command: the command line.
        made: date and time, ISO 8601; empty if it is to be left out.
        split: every patient, part by part.
        split_method: how the split was made, with its seed.
        seeds: random process → seed.
        inputs: file that was read → sha256.
        weights: the model files that took part.
        software: package → version, as of :func:`software`.
        data: the data sets.
    """

    command: str = ""
    made: str = ""
    split: tuple[SplitPart, ...] = ()
    split_method: str = ""
    seeds: dict[str, int] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    weights: tuple[WeightRef, ...] = ()
    software: dict[str, str] = field(default_factory=dict)
    data: tuple[DataSet, ...] = ()


@dataclass(frozen=True)
class Evaluation:
    """The results of an evaluation, with their provenance.

    Attributes:
        title: what was evaluated.
        summary: the results in sentences.
        metrics: the figures.
        interval: what an interval is, for instance "95 %, 1,000 bootstraps by patient".
        tables: figures by class, size, texture, …
        drawings: curves, diagrams and pictures, in display order.
        warnings: sentences on what makes the figures less certain.
        provenance: how it was made.
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
    return encode(evaluation, FORM)


def from_json(text: str) -> Evaluation:
    """Read an evaluation from :func:`to_json`, equal to the original.

    Raises:
        UnreadableFile: not JSON, another schema, or a key that is unknown, missing or of the wrong type.
    """
    return decode(Evaluation, text, FORM)


def hashed(*paths: Path) -> dict[str, str]:
    """SHA-256 of files by name, for :attr:`Provenance.inputs`."""
    found = {}
    for path in paths:
        with path.open("rb") as stream:
            found[path.name] = hashlib.file_digest(stream, "sha256").hexdigest()
    return found


def software() -> dict[str, str]:
    """Versions of Python and of the installed packages that affect figures."""
    return versions(PACKAGES)


def split_parts(split: Split) -> tuple[SplitPart, ...]:
    """Every patient of a split, group by group."""
    groups = sorted(set(split.groups.values()))
    named = {group: f"fold {group}" if group.isdigit() else group for group in groups}
    return tuple(SplitPart(named[group], tuple(sorted(split.patients(group)))) for group in groups)


def shared(parts: Sequence[SplitPart]) -> tuple[str, ...]:
    """Patients in more than one part, for whom the figures are not valid."""
    times = Counter(member for part in parts for member in set(part.members))
    return tuple(sorted(member for member, count in times.items() if count > 1))
