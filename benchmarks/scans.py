"""The four whole scans for evaluation: nodules found, false positives, and agreement of outlines.

    python benchmarks/scans.py --data ../shared/data

Writes docs/scans.json; :mod:`nodulens.evaluate.scans` says how it is counted.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer

import nodulens as nl
from nodulens.evaluate.scans import evaluate_scans, response_curve
from nodulens.methods.recipe import DEFAULT

LEAST = 0.02
"""Marks below this score are not outlined: the curve ends there."""


def main(
    data: Annotated[Path, typer.Option(help="Folder with ct/, luna16/ and lidc/xml.")] = Path("../shared/data"),
    output: Annotated[Path, typer.Option(help="JSON to write.")] = Path("docs/scans.json"),
) -> None:
    """Analyze the four scans and write the figures."""
    everything = replace(DEFAULT, threshold=LEAST, max_findings=200)
    scans = evaluate_scans(data, lambda ct: (nl.analyze(ct), nl.analyze(ct, method=everything)))
    result = {
        "command": "python benchmarks/scans.py --data ../shared/data",
        "threshold": scans[0].threshold,
        "scans": [scan.to_json() for scan in scans],
        "curve": [asdict(point) for point in response_curve(scans)],
    }
    output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for scan in scans:
        print({k: v for k, v in scan.to_json().items() if k != "marks"})


if __name__ == "__main__":
    typer.run(main)
