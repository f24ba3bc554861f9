"""What the results of evaluations share: figures with intervals, and rows kept column by column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from typing import TYPE_CHECKING, Any, TypeVar

from nodulens.metrics.statistics import Interval
from nodulens.train.tasks.protocol import with_interval

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Row = TypeVar("Row", bound=DataclassInstance)

Columns = Mapping[str, Sequence[Any]]
"""Name → one value a row: how cells of the table of results and JSON keep rows."""


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval by patient, to four digits.

    Attributes:
        value: None where it is undefined.
        low, high: None where there is no interval, as of one patient alone.
    """

    value: float | None
    low: float | None
    high: float | None

    @classmethod
    def of(cls, figure: Interval, patients: Sequence[str]) -> Estimate:
        """A figure of rows of these patients."""
        return cls(**with_interval(figure, patients))

    def __str__(self) -> str:
        """As tables print it: the figure, and its interval where there is one."""
        if self.value is None:
            return "–"
        return f"{self.value:.3f}" + ("" if self.low is None else f" ({self.low:.3f} to {self.high:.3f})")


def columns_of(kind: type[Row], rows: Sequence[Row]) -> dict[str, list[Any]]:
    """Rows of one kind as columns, in the order of its fields."""
    values = [astuple(row) for row in rows]
    return {field.name: [value[k] for value in values] for k, field in enumerate(fields(kind))}


def rows_of(kind: type[Row], columns: Columns) -> tuple[Row, ...]:
    """Rows from columns; columns that the kind does not know are left out."""
    names = [field.name for field in fields(kind)]
    return tuple(kind(**dict(zip(names, row, strict=True))) for row in zip(*(columns[n] for n in names), strict=True))
