"""Reports and scans made up for tests: two lungs of air in a body, balls as nodules, any orientation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from nodulens.core.coverage import Coverage, SideCoverage
from nodulens.core.geometry import Geometry
from nodulens.core.nodule import Attribute, Box, Measurements, Nodule, Position, Risk
from nodulens.core.volume import Mask, Patient, SliceRef, Source, Volume
from nodulens.report.record import LungVolumes, Report, ScanSummary, SizeSensitivity, WeightRef

SPACING = (2.5, 1.5, 1.5)
PATIENT = Patient("DOE^JANE", "MRN-20817", "19500229")
# LPS mm: the first in the patient's left lung, the others in the right.
NODULES = (((55.0, 10.0, -40.0), 16.0), ((-60.0, -15.0, -75.0), 9.0), ((-45.0, 20.0, -30.0), 6.0))


def scan(shape: tuple[int, int, int] = (44, 160, 200), *, description: str = "CHEST 2.5 MM") -> Volume:
    """An axial CT with the nodules of ``NODULES`` in it."""
    _, rows, columns = shape
    origin = (-SPACING[2] * (columns - 1) / 2, -SPACING[1] * (rows - 1) / 2, -110.0)
    geometry = Geometry.axial(shape, SPACING, origin)
    x, y = _points(geometry)[0][0, :, :, 0], _points(geometry)[0][0, :, :, 1]
    plane = np.where((x / 135) ** 2 + (y / 100) ** 2 < 1, 30, -1000)
    plane[(np.abs(np.abs(x) - 55) / 42) ** 2 + (y / 65) ** 2 < 1] = -850
    hu = np.repeat(plane[None], shape[0], axis=0).astype(np.int16)
    for centre, diameter in NODULES:
        hu[_ball(geometry, centre, diameter)] = 40
    slices = tuple(SliceRef(f"1.2.826.0.1.3680043.8.498.{z + 1}", shape[0] - z) for z in range(shape[0]))
    source = Source("dicom", "1.2.826.0.1.3680043.8.498.99", slices=slices, patient=PATIENT)
    source = replace(source, description=description, manufacturer="ACME", kernel="B30f", slice_thickness_mm=2.5)
    return Volume(hu, geometry, source)


def report(ct: Volume, count: int = 2) -> Report:
    """What an analysis of :func:`scan` (or of a turned one) would say about its first ``count`` nodules."""
    nodules = tuple(_nodule(ct, number) for number in range(1, count + 1))
    points, _ = _points(ct.geometry)
    labels = np.where(ct.hu < -500, np.where(points[..., 0] > 0, 1, 2), 0).astype(np.uint8)
    labels[np.abs(np.abs(points[..., 0]) - 55) > 45] = 0
    lungs = Mask(labels, ct.geometry, {1: "left lung", 2: "right lung"})
    return Report(
        software="nodulens 0.1.0",
        recipe="default",
        weights=(WeightRef("detector", "0a" * 32), WeightRef("malignancy", "1b" * 32)),
        series_uid=ct.source.series_uid,
        input_sha256=ct.source.input_sha256,
        scan=ScanSummary.of(ct),
        case="CASE-7",
        patient=None,
        warnings=("Slices are 2.5 mm apart.",),
        timing_s={"read": 0.5, "lungs": 1.25, "total": 1.75},
        lungs=LungVolumes(2412.5, 2698.0),
        coverage=Coverage(True, (), SideCoverage(2412.5, 0.0, 0.0), SideCoverage(2698.0, 0.0, 0.0), ()),
        threshold=0.42,
        nodules=nodules,
        sensitivity=(SizeSensitivity(3.0, 6.0, 30, 60), SizeSensitivity(6.0, 30.0, 95, 100)),
        attribute_auc={"spiculation": 0.86, "margin": 0.9},
        interval_meaning="Nine of ten such intervals held the answer in patients left out.",
        lung_mask=lungs,
    )


def _nodule(ct: Volume, number: int) -> Nodule:
    centre, diameter = NODULES[number - 1]
    ball = _ball(ct.geometry, centre, diameter)
    box = Box.of_mask(ball)
    mask = ball[box.slices]
    heat = np.where(mask, np.linspace(0, 1, mask.size).reshape(mask.shape), 0).astype(np.float32)
    z = round(float(ct.geometry.to_index(centre)[0]))
    ref = ct.source.slices[z] if ct.source.slices else None
    side = "left" if centre[0] > 0 else "right"
    measured = Measurements(
        diameter * 1.05, diameter * 0.95, diameter, diameter * 1.08, np.pi / 6 * diameter**3, diameter,
        np.pi * diameter**2, 0.97, -12.5, 80.0, -210.0, 4.0, 96.0, 0.9, diameter * 0.9, 3.5,
    )  # fmt: skip
    look = (Attribute("spiculation", 3.5, "spiculated"), Attribute("margin", 4.25, "sharply defined"))
    return Nodule(
        id=number,
        score=0.95 - 0.2 * number,
        centre_lps=centre,
        box=box,
        texture=("solid", "part-solid", "ground-glass")[number - 1],  # type: ignore[arg-type]
        position=Position(
            side,  # type: ignore[arg-type]
            "middle",
            f"{side} lower lobe",
            z,
            ref.instance_number if ref else None,
            ref.sop_instance_uid if ref else None,
        ),
        measurements=measured,
        risk=Risk(0.8, (0.55, 0.93), True, "malignancy") if number == 1 else None,
        attributes=look if number == 1 else (),
        volume_interval_mm3=None if number == 3 else (0.7 * measured.volume_mm3, 1.4 * measured.volume_mm3),
        warnings=("Touches the pleura.",) if number == 1 else (),
        mask=mask,
        heat=heat if number == 1 else None,
    )


def _points(geometry: Geometry) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    index = np.stack(np.meshgrid(*[np.arange(n) for n in geometry.shape], indexing="ij"), axis=-1)
    return geometry.to_lps(index), index


def _ball(geometry: Geometry, centre: tuple[float, float, float], diameter: float) -> np.ndarray:  # type: ignore[type-arg]
    points, _ = _points(geometry)
    return np.asarray(((points - centre) ** 2).sum(axis=-1) < (diameter / 2) ** 2)
