"""How long LUNA16's scoring takes, beside the rules in plain loops as the challenge's script has them.

    python benchmarks/froc.py ../shared/data/luna16

Takes the folder of the challenge's tables with ``example_predictions.csv``, and prints a Markdown table of the best of
several runs. Reading is bounded by Python's own CSV reader, which only splits the lines.
"""

from __future__ import annotations

import csv
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from nodulens.data.luna16 import read_findings_table, read_series
from nodulens.evaluate.froc import read_predictions
from nodulens.metrics.detection import Findings, Marks, bootstrap, froc


def main(
    folder: Annotated[Path, typer.Argument(help="Folder with LUNA16's tables.")],
    runs: Annotated[int, typer.Option(min=1)] = 5,
) -> None:
    """Print the table."""
    files = [
        folder / f"{name}.csv" for name in ("seriesuids", "annotations", "annotations_excluded", "example_predictions")
    ]

    def read() -> tuple[Findings, Findings, tuple[str, ...], Marks]:
        series = read_series(files[0])
        excluded = read_findings_table(files[2], unique=False)
        return read_findings_table(files[1]), excluded, series, read_predictions(files[3], series)

    tables = read()
    result = froc(*tables)
    rows = [
        ("read the tables", best(read, runs), "split their lines", best(lambda: [*map(split, files)], runs)),
        (
            "hits, curve, CPM",
            best(lambda: froc(*tables).cpm, runs),
            "hits in plain loops",
            best(lambda: loops(*tables), 1),
        ),
        ("1,000 resamples", best(lambda: bootstrap(result), runs), "", None),
    ]
    print("| what | seconds | beside it | seconds |\n|---|---|---|---|")
    for what, seconds, peer, others in rows:
        print(f"| {what} | {seconds:.3f} | {peer} | {'' if others is None else f'{others:.3f}'} |")


def best(work: Callable[[], object], runs: int) -> float:
    """Least processor seconds of several runs: other work on the machine only ever adds."""
    took = []
    for _ in range(runs):
        start = time.process_time()
        work()
        took.append(time.process_time() - start)
    return min(took)


def split(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.reader(stream))


def loops(annotations: Findings, excluded: Findings, series: tuple[str, ...], marks: Marks) -> int:
    """Pairs of a mark and a finding that it hits, one by one, scan by scan."""
    found = defaultdict(list)
    for uid, point in zip(marks.series, marks.centre_lps.tolist(), strict=True):
        found[uid].append(point)
    hits = 0
    for findings in (annotations, excluded):
        radius = np.where(findings.diameter_mm < 0, 5.0, findings.diameter_mm / 2).tolist()
        for uid, (x, y, z), r in zip(findings.series, findings.centre_lps.tolist(), radius, strict=True):
            hits += sum((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2 < r * r for a, b, c in found[uid])
    return hits


if __name__ == "__main__":
    typer.run(main)
