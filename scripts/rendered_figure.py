"""The figure of docs/rendering.md: pairs of real and rendered nodules.

    python scripts/rendered_figure.py --data ../shared/data

They are pairs as ``experiments.realness`` makes them, which is what the classifiers see: the rendered nodule has the
real one's outline and ratings, and is in another patient. Pairs are random, not selected.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from experiments.realness import PX, Pairs, hosts, kind_of, make_pairs
from nodulens.data.material import CROP_STEPS
from nodulens.data.shapes import Shape
from nodulens.presentation.panels import LUNG_WINDOW

DOCS = Path(__file__).resolve().parents[1] / "docs"
KINDS = (
    ("solid", 4, 6),
    ("solid", 6, 10),
    ("solid", 10, 16),
    ("part-solid", 5, 16),
    ("ground glass", 5, 16),
    ("calcified", 4, 16),
)
"""Kind, and least and greatest diameter in mm; above 16 mm a nodule fills the patch."""
ACROSS = 9
ZOOM = 3
TILE, GAP, MARGIN, HEADING = PX * ZOOM, 3, 16, 20
NAMES = 112
"""Width of the column that says which row is which."""
PAPER, INK, FAINT = 255, 20, 95


def main(
    data: Annotated[Path, typer.Option(help="Folder that holds lidc/.")] = Path("../shared/data"),
    most: Annotated[int, typer.Option(help="Pairs to draw from.")] = 500,
    seed: Annotated[int, typer.Option(help="Of pairs, positions and appearance.")] = 0,
) -> None:
    """Draw docs/rendered.png."""
    pairs = make_pairs(hosts(data), most, seed)
    path = DOCS / "rendered.png"
    draw(pairs).save(path, optimize=True)
    print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


def draw(pairs: Pairs) -> Image.Image:
    """A block of two rows for each kind, in grey."""
    block = HEADING + 2 * TILE + GAP
    size = (2 * MARGIN + NAMES + ACROSS * (TILE + GAP) - GAP, MARGIN + len(KINDS) * (block + MARGIN))
    page = Image.new("L", size, PAPER)
    pen = ImageDraw.Draw(page)
    strong, usual, small = (ImageFont.load_default(size) for size in (18, 16, 14))
    for number, wanted in enumerate(KINDS):
        top = MARGIN + number * (block + MARGIN)
        pen.text((MARGIN, top + HEADING), wanted[0], INK, strong)
        for row, name in enumerate(("real", "rendered")):
            pen.text((MARGIN, top + HEADING + row * (TILE + GAP) + TILE / 2), name, FAINT, usual, anchor="lm")
        for column, k in enumerate(some(pairs.shapes, *wanted)):
            x, y = MARGIN + NAMES + column * (TILE + GAP), top + HEADING
            pen.text((x + TILE / 2, y - 5), f"{pairs.shapes[k].diameter_mm:.1f} mm", FAINT, small, anchor="ms")
            page.paste(tile(pairs.real[k]), (x, y))
            page.paste(tile(pairs.rendered[k]), (x, y + TILE + GAP))
    return page


def some(shapes: tuple[Shape, ...], kind: str, least: float, most: float) -> list[int]:
    """The first few of a kind and size, by size; pairs come in random order."""
    fits = [k for k, s in enumerate(shapes) if kind_of(s) == kind and least <= s.diameter_mm < most]
    return sorted(fits[:ACROSS], key=lambda k: shapes[k].diameter_mm)


def tile(steps: NDArray[np.uint8]) -> Image.Image:
    """A patch in the lung window, enlarged."""
    low, high = LUNG_WINDOW
    grey = np.clip((CROP_STEPS.hu(steps) - low) / (high - low), 0, 1) * 255
    return Image.fromarray(np.rint(grey).astype(np.uint8)).resize((TILE, TILE), Image.Resampling.BICUBIC)


if __name__ == "__main__":
    typer.run(main)
