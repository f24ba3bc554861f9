"""How long an analysis takes, stage by stage, beside what this machine allows.

    python benchmarks/analyze.py ../shared/data/ct/LIDC-IDRI-0003
    python benchmarks/analyze.py ../shared/data/ct/LIDC-IDRI-0003 --slices 1000 --runs 1

Runs the whole program in a process of its own, several times, and prints a Markdown table of medians. The bound of the
networks is their arithmetic at the speed of a large matrix product; the bound of every other stage is one pass over the
scan at the speed of memory. No stage can be faster than its bound; the difference is what can be gained. The networks
are loaded while the scan is read, and ``models`` is what that takes longer. ``--slices`` interpolates the scan to so
many slices, written as uncompressed DICOM for the time of the runs: it shows how memory grows with a scan.
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import pydicom
import typer

CHILD = """
import json, resource, sys, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
start = time.perf_counter()
import nodulens as nl
from nodulens.report.outputs import write_outputs
marks = {}
def lap(name, since):
    marks[name] = time.perf_counter() - since
    return time.perf_counter()
t = lap("import", start)
with ThreadPoolExecutor(1) as beside:  # as the command line does
    loading = beside.submit(nl.load_method, "default", threads=int(sys.argv[3]))
    ct = nl.read(sys.argv[1]); t = lap("read", t)
    method = loading.result(); t = lap("models", t)
report = nl.analyze(ct, method=method); t = time.perf_counter()
marks |= {k: v for k, v in report.timing_s.items() if k not in ("total", "models")}
write_outputs(report, ct, sys.argv[2]); t = lap("report", t)
nl.write_dicom(report, ct, sys.argv[2] + "/dicom"); lap("DICOM objects", t)
marks["total"] = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 if sys.platform == "darwin" else 1024) / 1024
print(json.dumps({"seconds": marks, "peak_gb": peak, "voxels": ct.hu.size, "nodules": len(report.nodules)}))
"""


def main(
    ct: Annotated[Path, typer.Argument(help="A DICOM series.")],
    runs: Annotated[int, typer.Option(min=1)] = 5,
    threads: Annotated[int, typer.Option(min=1)] = os.cpu_count() or 1,
    slices: Annotated[int | None, typer.Option(min=2, help="Interpolate the scan to so many.")] = None,
) -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as folder:
        scan = ct if slices is None else interpolated(ct, slices, Path(folder))
        results = [once(scan, threads) for _ in range(runs)]
    speed, bandwidth = matrix_gflops(), memory_gbs()
    voxels = results[0]["voxels"]
    bound = {"detect": detector_gflop() / speed}
    made = "" if slices is None else ", interpolated"
    print(f"{ct.name}{made}: {voxels / 2**18:.0f} slices of 512 × 512, {threads} threads, median of {runs} runs")
    print(f"this machine: {speed:.0f} GFLOP/s in float32, {bandwidth:.1f} GB/s\n")
    print("| stage | seconds | bound | |\n|---|---|---|---|")
    for stage in results[0]["seconds"]:
        seconds = median(r["seconds"][stage] for r in results)
        least = bound.get(stage, voxels * 2 / bandwidth / 1e9 if stage in ("read", "lungs") else None)
        what = "arithmetic of the networks" if stage in bound else "one pass over the scan" if least is not None else ""
        print(f"| {stage} | {seconds:.2f} | {'' if least is None else f'{least:.2f}'} | {what} |")
    print(f"\npeak memory {max(r['peak_gb'] for r in results):.2f} GB")


def once(ct: Path, threads: int) -> dict[str, Any]:
    """One analysis in a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        out = subprocess.run(
            [sys.executable, "-c", CHILD, str(ct), str(Path(folder) / "out"), str(threads)],
            check=True,
            capture_output=True,
            text=True,
        )
    return dict(json.loads(out.stdout))


def interpolated(ct: Path, count: int, folder: Path) -> Path:
    """The same extent in ``count`` slices, as uncompressed DICOM in ``folder``."""
    given = sorted(map(pydicom.dcmread, ct.glob("*.dcm")), key=lambda data: float(data.ImagePositionPatient[2]))
    stored = np.stack([data.pixel_array for data in given])
    for data in given:
        del data.PixelData
        data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    for number, place in enumerate(np.linspace(0, len(given) - 1, count), start=1):
        low = min(int(place), len(given) - 2)
        share = place - low
        data = copy.deepcopy(given[low])
        ends = [float(given[z].ImagePositionPatient[2]) for z in (low, low + 1)]
        data.ImagePositionPatient[2] = f"{ends[0] + share * (ends[1] - ends[0]):.4f}"
        data.SliceThickness = f"{(ends[1] - ends[0]) * (len(given) - 1) / (count - 1):.4f}"
        data.InstanceNumber, data.SOPInstanceUID = number, pydicom.uid.generate_uid()
        data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
        image = np.rint(stored[low] * (1 - share) + stored[low + 1] * share).astype(stored.dtype)
        data.add_new("PixelData", "OW", image.tobytes())
        data.save_as(folder / f"{number:05d}.dcm", enforce_file_format=True)
    return folder


def detector_gflop() -> float:
    """Arithmetic of the detector: it screens three thousand candidates, scores a tenth, and a third of these twice."""
    from nodulens.runtime.weights import card

    return 3000 * card("screen").input["gflop"] + 400 * card("volume").input["gflop"]


def matrix_gflops(side: int = 2048) -> float:
    """Speed of a large float32 matrix product."""
    a = np.ones((side, side), np.float32)
    a @ a
    start = time.perf_counter()
    for _ in range(5):
        a @ a
    return 5 * 2 * side**3 / (time.perf_counter() - start) / 1e9


def memory_gbs(mb: int = 256) -> float:
    """Speed of reading memory."""
    a = np.ones(mb * 2**18, np.float32)
    a.sum()
    start = time.perf_counter()
    for _ in range(5):
        a.sum()
    return 5 * a.nbytes / (time.perf_counter() - start) / 1e9


if __name__ == "__main__":
    typer.run(main)
