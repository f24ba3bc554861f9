"""DICOM objects of whole scans: what the standard's checkers say of them, and what is read back.

    python benchmarks/objects.py --data ../shared/data

Every scan of ct/ is analyzed and written as SEG, SR, secondary captures and RTSTRUCT; one that is stored uncompressed
is also compressed in three ways. highdicom and our own reader read them back. Then TCIA's SEG and SR of LIDC-IDRI-0001
are read and held against the outlines and ratings of LIDC's database. Two tables, in Markdown.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import highdicom as hd
import numpy as np
import pydicom
import typer
from numpy.typing import NDArray
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

import nodulens as nl
from nodulens.core.nodule import Box
from nodulens.data.folds import EVALUATION_PATIENTS
from nodulens.data.lidc import LidcScan, cluster, read_database
from nodulens.data.ratings import RATINGS
from nodulens.dicom_objects.kinds import KINDS
from nodulens.dicom_objects.write import write_dicom
from nodulens.metrics.segmentation import compare
from nodulens.rois.grid import Grid
from nodulens.rois.read import read_rois
from nodulens.rois.roi import Roi

CHECKERS = ("dciodvfy", "dcmftest", "dsrdump")
SYNTAXES = {
    "JPEG-LS": (JPEGLSLossless, "pyjpegls"),
    "JPEG 2000": (JPEG2000Lossless, "pylibjpeg"),
    "RLE": (RLELossless, "pylibjpeg"),
}
"""Name → transfer syntax, and pydicom's plugin that writes it."""
WORDS = {
    "Soft tissue": 1, "Absent": 6, "linear": 1, "ovoid": 3, "round": 5, "non-solid pulmonary nodule": 1,
    "part-solid pulmonary nodule": 3, "solid pulmonary nodule": 5,
}  # fmt: skip
"""What TCIA's reports say in words → the rating of LIDC."""
CONCEPTS = {
    "C45992": "subtlety", "200": "internalStructure", "C3672": "calcification", "400": "sphericity",
    "C25563": "margin", "C62175": "lobulation", "C28749": "spiculation", "C41144": "texture", "RID36042": "malignancy",
}  # fmt: skip
"""Code of a concept in these reports → name of the rating."""


@dataclass(frozen=True)
class Differences:
    """The largest differences between what was written and what is read back, over all nodules of a scan.

    Attributes:
        centroid_mm: of the masks.
        volume_percent: of the masks, counted in voxels.
        number_percent: of the measurements of the report; None of objects without.
    """

    centroid_mm: float
    volume_percent: float
    number_percent: float | None

    def __str__(self) -> str:
        numbers = "" if self.number_percent is None else f", {self.number_percent:.4f} %"
        return f"{self.centroid_mm:.4f} mm, {self.volume_percent:.4f} %{numbers}"


def by_highdicom(report: nl.Report, ct: nl.Volume, folder: Path) -> Differences:
    """SEG and SR as highdicom reads them."""
    seg, sr = hd.seg.segread(folder / "seg.dcm"), hd.sr.srread(folder / "sr.dcm")
    numbers = {seg.get_segment_description(n).segment_label: n for n in seg.segment_numbers}
    groups = {group.tracking_identifier: group for group in sr.content.get_volumetric_roi_measurement_groups()}
    rows = []
    for nodule in report.nodules:
        name = f"Nodule {nodule.id}"
        volume = seg.get_volume(segment_numbers=[numbers[name]])
        index = np.argwhere(volume.array[..., 0])
        stated = {one.name.meaning: float(one.value) for one in groups[name].get_measurements()}
        centre, mm3 = volume.map_indices_to_reference(index).mean(axis=0), len(index) * float(np.prod(volume.spacing))
        rows.append(_row(nodule, ct, centre, mm3, stated))
    return Differences(*_worst(rows))


def by_us(report: nl.Report, ct: nl.Volume, folder: Path, kind: str) -> Differences:
    """SEG, RTSTRUCT or SR as our own reader reads it; numbers are of the SR."""
    rois, grid = read_rois(folder / f"{kind}.dcm"), Grid.of(ct)
    rows = []
    for nodule in report.nodules:
        roi = rois.one(f"Nodule {nodule.id}")
        drawn = roi.on(grid)
        assert drawn is not None, "every nodule of these scans lies on stored images"
        stated = {one.name: one.value for one in roi.measured}
        mm3 = drawn.voxels * ct.geometry.voxel_mm3
        rows.append(_row(nodule, ct, drawn.centre(ct.geometry), mm3, stated))
    centroid, volume, number = _worst(rows)
    return Differences(centroid, volume, number if kind == "sr" else None)


def _row(
    nodule: nl.Nodule, ct: nl.Volume, centre: NDArray[np.float64], mm3: float, stated: dict[str, float]
) -> tuple[float, float, float]:
    assert nodule.mask is not None
    m, own = nodule.measurements, float(np.count_nonzero(nodule.mask)) * ct.geometry.voxel_mm3
    known = {
        "Long Axis": m.long_axis_mm,
        "Short Axis": m.short_axis_mm,
        "Diameter": m.mean_diameter_mm,
        "Volume": m.volume_mm3,
        "Attenuation Coefficient": m.mean_hu,
        "Certainty of Finding": 100 * nodule.score,
    }
    off = [100 * abs(stated[name] - value) / abs(value) for name, value in known.items() if stated]
    return float(np.linalg.norm(centre - nodule.centre_lps)), 100 * abs(mm3 - own) / own, max(off, default=0.0)


def _worst(rows: list[tuple[float, float, float]]) -> list[float]:
    worst: list[float] = np.reshape(rows, (-1, 3)).max(axis=0, initial=0.0).tolist()
    return worst


# ---------------------------------------------------------------- checkers


def errors(folder: Path) -> dict[str, int]:
    """Errors of each checker over all objects of a folder."""
    found = dict.fromkeys(CHECKERS, 0)
    for file in sorted(folder.glob("*.dcm")):
        told = _told("dciodvfy", "-new", file)
        found["dciodvfy"] += sum(line.startswith(("Error", "Abort")) for line in told)
        found["dcmftest"] += not any(line.startswith("yes:") for line in _told("dcmftest", file))
    found["dsrdump"] += sum(line.startswith(("E:", "F:")) for line in _told("dsrdump", folder / "sr.dcm"))
    return found


def _told(*words: str | Path) -> list[str]:
    done = subprocess.run([str(word) for word in words], capture_output=True, check=False, timeout=300)
    return (done.stdout + done.stderr).decode("utf-8", "replace").splitlines()


# ---------------------------------------------------------------- scans


def compressed(scan: Path, syntax: str, folder: Path) -> Path:
    """A copy of an uncompressed scan in another transfer syntax, with the same UIDs."""
    uid, plugin = SYNTAXES[syntax]
    folder.mkdir(parents=True)
    for path in sorted(scan.rglob("*.dcm")):
        data = pydicom.dcmread(path)
        if data.file_meta.TransferSyntaxUID.is_compressed:
            raise ValueError(f"{path} is compressed already")
        data.compress(uid, encoding_plugin=plugin, generate_instance_uid=False)
        data.save_as(folder / path.name)
    return folder


def written(data: Path, room: Path) -> Iterator[tuple[str, nl.Report, nl.Volume, Path]]:
    """Each scan and each compressed copy: name, report, scan, folder of its objects."""
    for name in sorted(EVALUATION_PATIENTS):
        place = data / "ct" / name
        ct = nl.read(place)
        report = nl.analyze(ct)
        yield name, report, ct, write_dicom(report, ct, room / name, kinds=KINDS)
        first = pydicom.dcmread(next(place.rglob("*.dcm")), stop_before_pixels=True)
        for syntax in () if first.file_meta.TransferSyntaxUID.is_compressed else SYNTAXES:
            copy = nl.read(compressed(place, syntax, room / f"{name} {syntax} ct"))
            yield f"{name}, {syntax}", report, copy, write_dicom(report, copy, room / f"{name} {syntax}", kinds=KINDS)


# ---------------------------------------------------------------- LIDC's own SEG and SR


@dataclass(frozen=True)
class LidcRow:
    """A reader of LIDC-IDRI-0001 as TCIA's objects have them.

    Attributes:
        annotation: its id in the database.
        dice: of the SEG with the outlines of the database.
        seg_mm3: volume of the SEG, in voxels.
        sr_mm3, sr_mm: volume and diameter that the SR states.
        polygon_mm3, polygon_mm: of the outlines as polygons through pixel centres, as pylidc computes them.
        ratings: how many of the nine the SR states as the database does.
    """

    annotation: str
    dice: float
    seg_mm3: float
    sr_mm3: float
    sr_mm: float
    polygon_mm3: float
    polygon_mm: float
    ratings: int


def lidc_rows(data: Path, scan: LidcScan) -> Iterator[LidcRow]:
    """Each SR of TCIA, with the segment that it names, against the reading of the same nodule that fits best."""
    ct = nl.read(data / "ct" / scan.patient_id)
    grid, whole = Grid.of(ct), Box((0, 0, 0), ct.geometry.shape)
    (nodule,) = cluster(scan)
    for path in sorted((data / "lidc" / "tcia_seg_sr").glob("SR_*.dcm")):
        roi = read_rois(path).one(None)
        drawn = roi.on(grid)
        assert drawn is not None
        mask = drawn.on(whole)
        dices = [compare(one.mask(scan.z_mm, whole), mask, ct.geometry.spacing_zyx).dice for one in nodule.readings]
        reading = nodule.readings[int(np.argmax(dices))]
        numbers = {one.name: one.value for one in roi.measured}
        ratings = dict(zip(RATINGS, reading.ratings.tolist(), strict=True))
        yield LidcRow(
            str(reading.id),
            max(dices),
            drawn.voxels * ct.geometry.voxel_mm3,
            numbers["Volume"],
            numbers["Diameter"],
            sum(_area(c.xy) * (1 if c.inclusion else -1) for c in reading.contours) * scan.pixel_mm**2 * scan.slice_mm,
            max(_widest(c.xy) for c in reading.contours if c.inclusion) * scan.pixel_mm,
            sum(rating == ratings[name] for name, rating in _stated(roi)),
        )


def _stated(roi: Roi) -> Iterator[tuple[str, int]]:
    for one in roi.evaluated:
        if one.code[0] in CONCEPTS:
            yield CONCEPTS[one.code[0]], WORDS.get(one.value) or int(one.value[0])


def _area(xy: NDArray[np.int32]) -> float:
    x, y = xy.astype(float).T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def _widest(xy: NDArray[np.int32]) -> float:
    apart = xy[:, None].astype(float) - xy[None]
    return float(np.sqrt((apart**2).sum(axis=-1)).max())


# ---------------------------------------------------------------- tables


def main(
    data: Annotated[Path, typer.Option(help="Folder with ct/ and lidc/tcia_seg_sr/.")] = Path("../shared/data"),
) -> None:
    """Print both tables."""
    lacking = [name for name in CHECKERS if shutil.which(name) is None]
    columns = ("scan", "nodules", f"errors of {', '.join(CHECKERS)}", "highdicom", "ours: SEG", "RTSTRUCT", "SR")
    print(f"| {' | '.join(columns)} |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as room:
        for name, report, ct, folder in written(data, Path(room)):
            counts = "not installed" if lacking else ", ".join(map(str, errors(folder).values()))
            read = [by_highdicom(report, ct, folder)]
            read += [by_us(report, ct, folder, kind) for kind in ("seg", "rtstruct", "sr")]
            print(f"| {name} | {len(report.nodules)} | {counts} | {' | '.join(map(str, read))} |", flush=True)
    scan = next(one for one in read_database() if one.patient_id == "LIDC-IDRI-0001")
    print("\n| reader | SEG: Dice | SEG, mm³ | SR, mm³ | polygons, mm³ | SR, mm | polygons, mm | ratings alike |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for number, row in enumerate(lidc_rows(data, scan), start=1):
        print(
            f"| {number} | {row.dice:.4f} | {row.seg_mm3:.1f} | {row.sr_mm3:.1f} | {row.polygon_mm3:.1f} "
            f"| {row.sr_mm:.2f} | {row.polygon_mm:.2f} | {row.ratings} of {len(CONCEPTS)} |"
        )


if __name__ == "__main__":
    typer.run(main)
