"""How well a plain threshold at half contrast finds rendered nodules again: their Dice against the exact truth.

    python benchmarks/rendered.py --data ../shared/data

Nodules are drawn at random from the real outlines of each kind, and rendered one at a time at random places of each
scan: the three lungs without nodules, and the phantom. One in five lies at the edge of the lung. The threshold is
half-way between the median HU of the nodule and that of the lung around it; what is found is the connected part above
it that holds most of the nodule. Voxels that were above it before the nodule came are left out of both: they tell of
vessels and the chest wall, not of the renderer. The figure with them, within the lung, is also given.

Prints the tables of docs/rendering.md and writes every figure to docs/rendered.json.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from scipy import ndimage

from nodulens.core.volume import Mask, Volume
from nodulens.data.material import Background, Stacks
from nodulens.data.phantom import phantom_ct
from nodulens.data.render import BEYOND_MM, Rendered, render_many
from nodulens.data.shapes import Shape, stack_shapes
from nodulens.errors import BadOption
from nodulens.io.atomic import whole_file
from nodulens.metrics.segmentation import compare
from nodulens.metrics.statistics import bootstrap
from nodulens.ops.components import distance_mm
from nodulens.stages.lungs import segment_lungs

Float = NDArray[np.floating]
DOCS = Path(__file__).resolve().parents[1] / "docs"
PHANTOM = "phantom"
SCANS = (*Background.PATIENTS, PHANTOM)
MOST_MM = 30.0
AT_EDGE = 0.2

KINDS: dict[str, Callable[[float, float], bool]] = {
    "solid, 6 mm or more": lambda texture, mm: texture >= 4.5 and mm >= 6,
    "solid, under 6 mm": lambda texture, mm: texture >= 4.5 and mm < 6,
    "part-solid": lambda texture, mm: 2 <= texture < 4.5,
    "ground glass": lambda texture, mm: texture < 2,
}
"""By the readers' median texture and the diameter in mm."""


@dataclass(frozen=True)
class Found:
    """One nodule, rendered and found again.

    Attributes:
        kind, scan: of :data:`KINDS` and :data:`SCANS`.
        at_edge: whether it was put at the edge of the lung.
        patient: whose outline it is.
        dice: against the truth, 0…1, over what was lung before.
        with_vessels: over all of the lung.
    """

    kind: str
    scan: str
    at_edge: bool
    patient: str
    dice: float
    with_vessels: float


def main(
    data: Annotated[Path, typer.Option(help="Folder with lidc/ and background/.")] = Path("../shared/data"),
    each: Annotated[int, typer.Option(min=2, help="Nodules of a kind in a scan.")] = 60,
    seed: Annotated[int, typer.Option(help="Of nodules, positions and appearance.")] = 0,
) -> None:
    """Print the tables, write the file."""
    stacks = Stacks(data)
    shapes = [s for n, s in stack_shapes(stacks).items() if stacks.readers(n) >= 2 and s.diameter_mm <= MOST_MM]
    found, tried = [], 0
    for number, name in enumerate(SCANS):
        volume = phantom_ct()[0] if name == PHANTOM else Background.volume(data, name)
        lungs = segment_lungs(volume)
        for kind, fits in KINDS.items():
            rng = np.random.default_rng((seed, number, list(KINDS).index(kind)))
            known = [s for s in shapes if fits(s.ratings["texture"], s.diameter_mm)]
            chosen = [known[i].turned(rng) for i in rng.choice(len(known), min(each, len(known)), replace=False)]
            tried += len(chosen)
            found += [Found(kind, name, *rest) for rest in find_again(volume, lungs, chosen, rng)]
    groups = list(summaries(found))
    for row in table(groups):
        print(row)
    print(f"\n{tried - len(found)} of {tried} nodules found no room.")
    command = f"python benchmarks/rendered.py --data ../shared/data --each {each} --seed {seed}"
    record = {"schema": "nodulens-rendered-dice/1", "command": command, "no_room": tried - len(found), "groups": groups}
    with whole_file(DOCS / "rendered.json") as part:
        part.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def find_again(
    volume: Volume, lungs: Mask, shapes: Iterable[Shape], rng: np.random.Generator
) -> Iterator[tuple[bool, str, float, float]]:
    """Render each nodule alone and find it: at the edge or not, whose it is, Dice without and with vessels.

    Those without room are left out.
    """
    inside = np.asarray(lungs.labels > 0)
    # where bodies may be: a lung mask ends before the blurred edge of the lung does
    room = inside | (distance_mm(~inside, volume.geometry.spacing_zyx) <= BEYOND_MM)
    for shape in shapes:
        at_edge = bool(rng.random() < AT_EDGE)
        try:
            scene = render_many(volume, lungs, [shape], seed=int(rng.integers(2**31)), juxtapleural=float(at_edge))
        except BadOption:
            continue
        made = scene.nodules[0]
        yield at_edge, shape.patient, *half_contrast_dice(made, volume.hu[made.box.slices], room[made.box.slices])


def half_contrast_dice(made: Rendered, before: Float, room: NDArray[np.bool_]) -> tuple[float, float]:
    """Dice over what was below half contrast before, and over all of the lung."""
    hu, truth, spacing = made.piece.hu, made.truth.labels > 0, made.piece.geometry.spacing_zyx
    level = (np.median(hu[truth]) + np.median(hu[room & (made.share == 0)])) / 2
    lung = before <= level
    return tuple(compare(truth & where, most_of(truth & where, (hu > level) & where), spacing).dice
                 for where in (lung, room))  # fmt: skip


def most_of(truth: NDArray[np.bool_], above: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The connected part that holds most of the truth; nothing where none holds any."""
    parts, _ = ndimage.label(above)
    overlap = np.bincount(parts[truth], minlength=2)
    overlap[0] = 0
    return np.asarray((parts == overlap.argmax()) & (parts > 0))


def summaries(found: list[Found]) -> Iterator[dict[str, Any]]:
    """Of each kind: in all scans, free and at the edge of the lung, in real scans, and in each scan."""
    for kind in KINDS:
        own = [f for f in found if f.kind == kind]
        cuts = {
            "all scans": own,
            "free in the lung": [f for f in own if not f.at_edge],
            "at the edge of the lung": [f for f in own if f.at_edge],
            "real scans": [f for f in own if f.scan != PHANTOM],
            **{scan: [f for f in own if f.scan == scan] for scan in SCANS},
        }
        for where, some in cuts.items():
            if some:
                yield {"kind": kind, "where": where, **summary(some)}


def summary(some: list[Found]) -> dict[str, float]:
    """Mean with its 95 % interval by patient, spread, and number."""
    dice = np.array([f.dice for f in some])
    mean = bootstrap(lambda rows: float(dice[rows].mean()), [f.patient for f in some])
    low, middle, high = np.quantile(dice, (0.1, 0.5, 0.9))
    values = {
        "mean": mean.value, "low": mean.low, "high": mean.high, "deviation": float(dice.std(ddof=1)),
        "tenth": low, "median": middle, "ninetieth": high, "with_vessels": np.mean([f.with_vessels for f in some]),
    }  # fmt: skip
    return {name: round(float(v), 4) for name, v in values.items()} | {"n": len(some)}


def table(groups: list[dict[str, Any]]) -> Iterator[str]:
    """Markdown."""
    yield "| nodules | where | n | mean Dice (95 %) | deviation | one in ten under | median | with vessels |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for g in groups:
        mean = f"{g['mean']:.3f} ({g['low']:.3f}–{g['high']:.3f})"
        yield (
            f"| {g['kind']} | {g['where']} | {g['n']} | {mean} | {g['deviation']:.3f} | {g['tenth']:.3f} "
            f"| {g['median']:.3f} | {g['with_vessels']:.3f} |"
        )


if __name__ == "__main__":
    typer.run(main)
