"""What readers reach among themselves on the nodule stacks: pairs, and each reader against the consensus of the others.

    python benchmarks/readers.py --data ../shared/data

Methods are compared with these figures. Evaluation patients are left out, as everywhere on the stacks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nodulens.data.material import Stacks
from nodulens.metrics.segmentation import Overlap, Summary, reader_pairs, readers_left_out, summarise


def main(data: Annotated[Path, typer.Option(help="The folder that holds lidc/.")]) -> None:
    stacks = Stacks(data)
    table: dict[str, list[tuple[Overlap, str]]] = {}
    for nodule in stacks.nodules.tolist():
        readers = stacks.readers(nodule)
        if readers < 2:
            continue
        masks, spacing = stacks.masks(nodule), stacks.spacing_zyx(nodule)
        patient = stacks.patients[nodule]
        table.setdefault(f"pairs, {readers} readers", []).extend((o, patient) for o in reader_pairs(masks, spacing))
        if readers > 2:
            left = [(o, patient) for o in readers_left_out(masks, spacing)]
            table.setdefault("reader against the rest, 3 or more", []).extend(left)
    print("| | comparisons | Dice [95 %] | IoU | HD95 mm | surface mm | volume error, either way |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, rows in sorted(table.items()):
        print(line(name, summarise([o for o, _ in rows], [p for _, p in rows])))


def line(name: str, found: Summary) -> str:
    """One row of the table."""
    dice = found.dice
    return (
        f"| {name} | {found.cases} | {dice.value:.3f} [{dice.low:.3f}, {dice.high:.3f}] | {found.iou.value:.3f} "
        f"| {found.hd95_mm.value:.2f} | {found.surface_mm.value:.2f} "
        f"| {found.absolute_volume_error_percent.value:.0f} % |"
    )


if __name__ == "__main__":
    typer.run(main)
