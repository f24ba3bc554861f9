"""The lungs from the front with every finding on them; the numbers stand in columns beside them, a line to each dot.

So numbers never cover one another, however close together the findings are. Coordinates are pixels of the picture at
its natural size, from its top left corner.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from nodulens.core.geometry import Float
from nodulens.core.nodule import Nodule
from nodulens.report.pictures import UNITS_PER_MM, DisplayScan

ROW = 15.0
"""From number to number in a column; their type is 12 pixels."""
MOST = 40
"""Numbers in a column; of a report with more findings the others are dots alone."""
COLUMN, GAP, HEAD = 40.0, 12.0, 18.0
"""Width of a column, its distance from the lungs included, and the height of the letters above."""
LUNGS_LOW, LUNGS_HIGH, BROAD = 180.0, 300.0, 1.4
"""Height of the lungs with few findings and with many; their width at most, in heights."""


@dataclass(frozen=True)
class Dot:
    """A finding on the map.

    Attributes:
        id: of the nodule.
        words: what it is, for a screen reader and as a tooltip.
        x, y, r: centre and radius; the radius grows with the mean diameter, but is not to scale.
        text_x, text_y: end of the number's baseline on the side of the lungs; None without a number.
        line: from the number to the rim of the dot, x and y of both ends; None likewise.
    """

    id: int
    words: str
    x: float
    y: float
    r: float
    text_x: float | None = None
    text_y: float | None = None
    line: tuple[float, float, float, float] | None = None


@dataclass(frozen=True)
class LungMap:
    """The picture.

    Attributes:
        width, height: natural size.
        lungs: SVG paths in units of 1 / ``UNITS_PER_MM`` mm.
        shift_x, shift_y, scale: from these units to pixels, the scale first.
        right_x, left_x: where the columns of the patient's right and left end, on the side of the lungs.
        right, left: findings by column.
        all_numbered: whether every finding has its number.
    """

    width: float
    height: float
    lungs: tuple[str, ...]
    shift_x: float
    shift_y: float
    scale: float
    right_x: float
    left_x: float
    right: tuple[Dot, ...]
    left: tuple[Dot, ...]
    all_numbered: bool

    @property
    def dots(self) -> list[Dot]:
        """All findings by their id."""
        return sorted((*self.right, *self.left), key=lambda dot: dot.id)


def lung_map(scene: DisplayScan, nodules: Sequence[Nodule], words: Sequence[str]) -> LungMap | None:
    """Draw the map.

    Args:
        scene: the scan with its lungs.
        nodules: the most certain first; of each side the first ``MOST`` are numbered.
        words: what each nodule is.

    Returns:
        None without lungs.
    """
    lungs = tuple(outline.path for outline in scene.silhouette() if outline.path)
    if not lungs:
        return None
    left, top, right, bottom = scene.silhouette_frame()
    places = np.array([scene.silhouette_place(nodule) for nodule in nodules]).reshape(-1, 2)
    in_right = places[:, 0] < (left + right) / 2  # the patient's right is on the left of the picture
    rows = ROW * min(MOST, max(int(in_right.sum()), int((~in_right).sum())))
    tall = min(max(LUNGS_LOW, rows), LUNGS_HIGH)
    scale = min(tall / (bottom - top), BROAD * tall / (right - left))
    wide, tall = (right - left) * scale, (bottom - top) * scale
    height = HEAD + max(tall, rows)
    shift = np.array([COLUMN - left * scale, HEAD + (height - HEAD - tall) / 2 - top * scale])
    centres = (places * scale + shift).tolist()
    dots = [Dot(n.id, text, x, y, _radius(n)) for n, text, (x, y) in zip(nodules, words, centres, strict=True)]
    columns = []
    for side, end in ((in_right, COLUMN - GAP), (~in_right, COLUMN + wide + GAP)):
        of_side = [dot for dot, inside in zip(dots, side, strict=True) if inside]
        columns.append((*_numbered(of_side[:MOST], end, height), *of_side[MOST:]))
    return LungMap(
        width=wide + 2 * COLUMN,
        height=height,
        lungs=lungs,
        shift_x=float(shift[0]),
        shift_y=float(shift[1]),
        scale=scale / UNITS_PER_MM,
        right_x=COLUMN - GAP,
        left_x=COLUMN + wide + GAP,
        right=columns[0],
        left=columns[1],
        all_numbered=all(len(column) <= MOST for column in columns),
    )


def _radius(nodule: Nodule) -> float:
    return 2 + min(nodule.measurements.mean_diameter_mm, 40.0) / 4


def _numbered(dots: list[Dot], x: float, height: float) -> list[Dot]:
    """The dots with their numbers in a column that ends at ``x``."""
    if not dots:
        return []
    points = np.array([(dot.x, dot.y) for dot in dots])
    rows = untangled(points, x, apart(points[:, 1], HEAD + ROW / 2, height - ROW / 2))
    out = []
    for dot, y in zip(dots, rows.tolist(), strict=True):
        start = np.array([x + np.sign(dot.x - x) * 3, y])
        way = np.array([dot.x, dot.y]) - start
        end = start + way * max(0.0, 1 - dot.r / max(float(np.hypot(*way)), 1e-6))
        out.append(replace(dot, text_x=x, text_y=y + 4, line=(*start.tolist(), *end.tolist())))
    return out


def apart(wanted: Float, low: float, high: float) -> Float:
    """Rows near those that are wanted, ``ROW`` apart or more, between ``low`` and ``high``.

    Args:
        wanted: (n,), one or more; they must have room.

    Returns:
        (n,), in the order of ``wanted``.
    """
    order = np.argsort(wanted, kind="stable")
    steps = ROW * np.arange(len(wanted))
    free = wanted[order] - steps  # to keep the distance, these must not fall
    rising = (np.maximum.accumulate(free) + np.minimum.accumulate(free[::-1])[::-1]) / 2
    rows = np.empty(len(wanted))
    rows[order] = np.clip(rising, low, high - steps[-1]) + steps
    return rows


def untangled(points: Float, x: float, rows: Float) -> Float:
    """The rows exchanged among the points until no two straight lines from ``(x, row)`` to its point cross.

    Lines that cross are longer together than those with their ends exchanged, so it ends.

    Args:
        points: (n, 2), x and y, all on one side of ``x``.
        rows: (n,).
    """
    row = np.arange(len(rows))
    length = np.hypot(points[:, :1] - x, points[:, 1:] - rows)
    while True:
        crossed = length[:, row]
        own = np.diag(crossed)
        gain = own[:, None] + own - crossed - crossed.T
        i, j = np.unravel_index(gain.argmax(), gain.shape)
        if gain[i, j] < 1e-6:
            return rows[row]
        row[[i, j]] = row[[j, i]]
