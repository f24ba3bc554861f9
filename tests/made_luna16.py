"""A small LUNA16 in the challenge's own layout: MetaImages with voxels apart, three ways round, and its tables.

Every scan holds one block of 0 HU in lung of −850, outlined by three readers, with one bright voxel to the patient's
left of it, behind it and above it: what mirrors, shifts or turns a scan moves that.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nodulens.core.nodule import Box
from nodulens.data.lidc import LidcScan, Reading
from nodulens.data.luna16 import Luna16, open_luna16
from nodulens.data.outlines import Contour

SHAPE, SPACING = (24, 64, 80), (2.0, 0.8, 0.8)
OFFSET = (-30.0, 12.0, -200.0)
DIRECTIONS = ("1 0 0 0 1 0 0 0 1", "-1 0 0 0 -1 0 0 0 1", "1 0 0 0 1 0 0 0 -1")
"""As LUNA16 stores most scans, as it stores the flipped ones, and a third way that a converter may choose."""
BLOCK = Box((9, 20, 30), (14, 31, 43))
BLOCK_MM = (5 * SPACING[0], 11 * SPACING[1], 13 * SPACING[2])
MARKER_MM = 14.0
LUNG, NODULE, BRIGHT = -850, 0, 380
READERS = 3
WIDEST = 18
"""The stored slice on which the lungs are largest."""


def uid(number: int) -> str:
    return f"1.3.6.1.4.1.14519.5.2.1.6279.6001.{number:030d}"


def opened(root: Path, count: int = 3) -> Luna16:
    """What :func:`write` writes there, lung masks of all scans with it."""
    return open_luna16(root, write(root, count, count))


def write(root: Path, count: int = 3, masks: int = 0) -> tuple[LidcScan, ...]:
    """``count`` scans in as many subsets, of patients P0, P1, …, and lung masks of the first ``masks`` of them.

    Returns:
        what the LIDC database would say of the scans.
    """
    scans, rows, candidates = [], [], []
    for number in range(count):
        folder = root / f"subset{number % 10}"
        folder.mkdir(parents=True, exist_ok=True)
        image = metaimage(folder, number)
        centre = middle(image)
        scans.append(_scan(number, image))
        rows.append(f"{uid(number)},{','.join(f'{v:.10g}' for v in centre)},9.5")
        candidates += [f"{uid(number)},{centre[0] + 1:.2f},{centre[1]:.2f},{centre[2]:.2f},1"]
        candidates += [f"{uid(number)},{centre[0] - 9:.2f},{centre[1] + k:.2f},{centre[2] + 4:.2f},0" for k in range(6)]
    header = "seriesuid,coordX,coordY,coordZ,"
    (root / "annotations.csv").write_text("\n".join([header + "diameter_mm", *rows]) + "\n")
    excluded = [f"{uid(0)},-500,0,0,-1", f"{uid(0)},-600,0,0,4.5"]
    (root / "annotations_excluded.csv").write_text("\n".join([header + "diameter_mm", *excluded]) + "\n")
    (root / "candidates_V2.csv").write_text("\n".join([header + "class", *candidates]) + "\n")
    (root / "seriesuids.csv").write_text("\n".join(uid(k) for k in range(count)) + "\n")
    for number in range(masks):
        write_lungs(root, number)
    return tuple(scans)


def metaimage(folder: Path, number: int) -> sitk.Image:
    """Write scan ``number`` as header and raw voxels; returns it as ITK reads it, the oracle of where voxels lie."""
    hu = np.full(SHAPE, LUNG, dtype=np.int16)
    hu += np.random.default_rng(number).integers(-20, 20, SHAPE).astype(np.int16)
    hu[:, :3], hu[:, -3:] = 40, -1000
    hu[BLOCK.slices] = NODULE
    path = write_metaimage(folder, uid(number), hu, DIRECTIONS[number % 3])
    image = sitk.ReadImage(str(path))
    there = image.TransformPhysicalPointToIndex([float(v) for v in np.add(middle(image), MARKER_MM)])
    hu[there[::-1]] = BRIGHT
    write_metaimage(folder, uid(number), hu, DIRECTIONS[number % 3])
    return image


def write_metaimage(folder: Path, name: str, array: np.ndarray, direction: str, *, packed: bool = False) -> Path:
    """As LUNA16's files are: header in ``.mhd``, voxels in ``.raw``, or squeezed in ``.zraw`` as its lung masks."""
    data = zlib.compress(array.tobytes()) if packed else array.tobytes()
    raw = f"{name}.{'zraw' if packed else 'raw'}"
    (folder / raw).write_bytes(data)
    lines = [
        "ObjectType = Image",
        "NDims = 3",
        "BinaryData = True",
        "BinaryDataByteOrderMSB = False",
        f"CompressedData = {packed}",
        *([f"CompressedDataSize = {len(data)}"] if packed else []),
        f"TransformMatrix = {direction}",
        f"Offset = {OFFSET[0]:g} {OFFSET[1]:g} {OFFSET[2]:g}",
        "CenterOfRotation = 0 0 0",
        "AnatomicalOrientation = RAI",
        f"ElementSpacing = {SPACING[2]:g} {SPACING[1]:g} {SPACING[0]:g}",
        f"DimSize = {array.shape[2]} {array.shape[1]} {array.shape[0]}",
        f"ElementType = {'MET_UCHAR' if array.dtype == np.uint8 else 'MET_SHORT'}",
        f"ElementDataFile = {raw}",
    ]
    path = folder / f"{name}.mhd"
    path.write_text("\n".join(lines) + "\n")
    return path


def write_lungs(root: Path, number: int, left_value: int = 3) -> np.ndarray:
    """The lung mask of scan ``number``: 3 and 4 on the sides where the patient has them, 5 on every second slice.

    Returns:
        its labels as stored.
    """
    folder = root / "seg-lungs-LUNA16"
    folder.mkdir(exist_ok=True)
    (scan,) = root.glob(f"subset*/{uid(number)}.mhd")
    image = sitk.ReadImage(str(scan))
    x = np.array([image.TransformIndexToPhysicalPoint((k, 0, 0))[0] for k in range(SHAPE[2])])
    off = np.broadcast_to(x - x.mean(), SHAPE)
    labels = np.where(off > 8, left_value, np.where(off < -8, 7 - left_value, 0)).astype(np.uint8)
    labels[[z for z in range(SHAPE[0]) if z != WIDEST], 56:] = 0
    labels[::2, 5:8, 38:42] = 5
    write_metaimage(folder, uid(number), labels, DIRECTIONS[number % 3], packed=True)
    return labels


def middle(image: sitk.Image) -> tuple[float, ...]:
    """LPS mm of the block's middle, by ITK."""
    return tuple(image.TransformContinuousIndexToPhysicalPoint([float(v) for v in BLOCK.centre_zyx[::-1]]))


def _scan(number: int, image: sitk.Image) -> LidcScan:
    """Three readers who outline the very block; by LIDC's convention one pixel outside of it."""
    heights = [image.TransformIndexToPhysicalPoint((0, 0, k))[2] for k in range(SHAPE[0])]
    (_, top, left), (_, bottom, right) = BLOCK.start, BLOCK.stop
    xy = np.array([(left - 1, top - 1), (right, top - 1), (right, bottom), (left - 1, bottom)], dtype=np.int32)
    contours = tuple(Contour(heights[k], True, xy) for k in range(BLOCK.start[0], BLOCK.stop[0]))
    said = [(5, 1, 6, 4, 4, 1, 1, 5, rating) for rating in (4, 5, 4 if number % 2 else 2)]
    if number % 2 == 0:
        said = [(*s[:8], rating) for s, rating in zip(said, (1, 2, 2), strict=True)]
    readings = tuple(Reading(str(k), np.array(s, dtype=np.uint8), contours) for k, s in enumerate(said))
    spacing = (SPACING[2], SPACING[0])
    return LidcScan(uid(number), "1.2", f"P{number}", *spacing, tuple(sorted(heights)), None, readings)
