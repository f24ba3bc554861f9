"""Tables with a header and commas between columns (CSV), read so that a wrong cell is named by its line, and written so
that no cell is more than its text."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nodulens.core.text import csv_cell
from nodulens.errors import BadValues, NotFound, UnreadableFile


@dataclass(frozen=True, eq=False)
class Table:
    """Named columns of a file.

    Attributes:
        path: of the file, for messages.
        columns: the names in the file's header, as written there.
        cells: requested column → its texts, in the order of the rows, without outer spaces.
        lines: line of the file on which each row ends, from 1.
    """

    path: Path
    columns: tuple[str, ...]
    cells: dict[str, tuple[str, ...]]
    lines: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.lines)

    def numbers(self, name: str) -> NDArray[np.float64]:
        """A column as numbers, (rows,).

        Raises:
            BadValues: a cell that is no finite number; the message names its line.
        """
        cells = self.cells[name]
        try:
            values = np.array([float(cell) for cell in cells], dtype=np.float64)
        except ValueError:
            values = np.array([_number(cell) for cell in cells], dtype=np.float64)
        wrong = np.flatnonzero(~np.isfinite(values))
        if wrong.size:
            row = int(wrong[0])
            raise BadValues(
                f"{self.at(row)}: {name} is {cells[row]!r}, which is no finite number; "
                f"write numbers as 12.5 or 1.25e1{_more(wrong.size)}."
            )
        return values

    def points(self, names: Sequence[str]) -> NDArray[np.float64]:
        """Several columns of numbers beside one another, (rows, len(names))."""
        return np.stack([self.numbers(name) for name in names], axis=1)

    def refuse_repeats(self) -> None:
        """Refuse a row that repeats an earlier one in all requested columns.

        Raises:
            BadValues: the message names both lines.
        """
        first: dict[tuple[str, ...], int] = {}
        for row, cells in enumerate(zip(*self.cells.values(), strict=True)):
            earlier = first.setdefault(cells, row)
            if earlier != row:
                raise BadValues(f"{self.at(row)} repeats line {self.lines[earlier]}; every row may stand there once.")

    def at(self, row: int) -> str:
        """File and line of a row, for a message."""
        return f"{self.path}, line {self.lines[row]}"


def read_table(path: str | Path, columns: Sequence[str], *, optional: Sequence[str] = ()) -> Table:
    """Read a CSV file with a header; columns may be in any order, and there may be others.

    A byte order mark, upper or lower case in the header, spaces around cells and empty lines do no harm.

    Args:
        path: the file, UTF-8.
        columns: the columns to read.
        optional: columns to read where the file has them.

    Raises:
        NotFound: no such file.
        UnreadableFile: not text, empty, no such column, a column twice, or a row with too few or too many cells.
    """
    path = Path(path)
    rows, lines = _rows(path)
    if not rows:
        raise UnreadableFile(f"{path} is empty; it needs a header with the columns {', '.join(columns)}.")
    header = [name.strip() for name in rows[0]]
    folded = [name.casefold() for name in header]
    wanted = [*columns, *(name for name in optional if name.casefold() in folded)]
    missing = [name for name in wanted if name.casefold() not in folded]
    if missing:
        split = next((name for name in (";", "\t") if len(header) == 1 and name in header[0]), "")
        hint = f" Its columns are divided by {split!r}; divide them by commas." if split else ""
        raise UnreadableFile(f"{path}, line {lines[0]}: no column {', '.join(missing)} in {', '.join(header)}.{hint}")
    places = [folded.index(name.casefold()) for name in wanted]
    for name in wanted:
        if folded.count(name.casefold()) > 1:
            raise UnreadableFile(f"{path}, line {lines[0]}: the column {name} stands there twice; remove one.")
    for row, line in zip(rows, lines, strict=True):
        if len(row) != len(header):
            raise UnreadableFile(f"{path}, line {line}: {len(row)} cells where the header has {len(header)}.")
    body = rows[1:]
    cells = {name: tuple(row[place].strip() for row in body) for name, place in zip(wanted, places, strict=True)}
    return Table(path, tuple(header), cells, tuple(lines[1:]))


def read_lines(path: str | Path, name: str) -> Table:
    """Read a file of one column, with the header ``name`` or, as LUNA16's list of series, without one.

    Raises:
        NotFound: no such file.
        UnreadableFile: not text, empty, or more than one column.
    """
    path = Path(path)
    rows, lines = _rows(path)
    for row, line in zip(rows, lines, strict=True):
        if len(row) != 1:
            raise UnreadableFile(f"{path}, line {line}: {len(row)} cells where one is expected, the {name}.")
    start = int(bool(rows) and rows[0][0].strip().casefold() == name.casefold())
    if len(rows) == start:
        raise UnreadableFile(f"{path} is empty; it should hold one {name} a line.")
    return Table(path, (name,), {name: tuple(row[0].strip() for row in rows[start:])}, tuple(lines[start:]))


def table_text(columns: Sequence[str], rows: Iterable[Mapping[str, object]], *, digits: int = 17) -> str:
    """A table as CSV with a header, its cells as :func:`nodulens.core.text.csv_cell` writes them.

    Args:
        columns: names, in the order of the file.
        rows: column → value; empty where a row has none.
        digits: significant ones of floats.

    Raises:
        KeyError: a row has a column that the table has not.
    """
    lines = [",".join(map(csv_cell, columns))]
    for row in rows:
        unknown = set(row).difference(columns)
        if unknown:
            raise KeyError(f"No column {sorted(unknown)} in the table.")
        lines.append(",".join(csv_cell(row.get(name), digits) for name in columns))
    return "\n".join(lines) + "\n"


def _rows(path: Path) -> tuple[list[list[str]], list[int]]:
    """All rows that are not empty, and the line each ends on."""
    try:
        text = path.read_text("utf-8-sig")
    except (FileNotFoundError, IsADirectoryError) as error:
        raise NotFound(f"There is no file {path}.") from error
    except UnicodeDecodeError as error:
        raise UnreadableFile(f"{path} is no text in UTF-8; save it as CSV in UTF-8.") from error
    except OSError as error:
        raise UnreadableFile(f"{path} cannot be read: {error.strerror}.") from error
    reader = csv.reader(StringIO(text), strict=True)
    rows, lines = [], []
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                rows.append(row)
                lines.append(reader.line_num)
    except csv.Error as error:
        raise UnreadableFile(f"{path}, line {reader.line_num}: {error}; save it as CSV again.") from error
    return rows, lines


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return math.nan


def _more(count: int) -> str:
    return f"; {count - 1} more such cells follow" if count > 1 else ""
