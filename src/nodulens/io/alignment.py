"""What slices must have in common to be stacked: each knows its place, and matrix, pixel size and orientation agree."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from nodulens.errors import BadGeometry, MixedSeries
from nodulens.io.plane import Plane
from nodulens.io.same_scan import grouped

Float = NDArray[np.float64]

# A table moves some metres; positions farther away are not in a scanner.
MAX_POSITION_MM = 100_000.0
# Micro-CT lies below, and nothing above.
SPACING_MM = (0.05, 20.0)
# Cosines are stored with six decimals or so; the same for spacing, as a share of it.
SAME_DIRECTION = 1e-3
SAME_SPACING = 1e-3
UNIT_LENGTH = 1e-2


def common_grid(planes: Sequence[Plane]) -> tuple[Float, Float, tuple[float, float]]:
    """Directions of rising column and row index, and pixel spacing, which all planes share.

    Returns:
        two LPS unit vectors at right angles, and mm between rows and between columns.

    Raises:
        BadGeometry: a single plane, no or impossible positions, orientations or spacings.
        MixedSeries: matrices, orientations or spacings differ.
    """
    if len(planes) == 1:
        path = planes[0].path
        raise BadGeometry(f"{path.name} is a single slice; give the folder with the whole series ({path.parent}?).")
    _check_placed(planes)
    _check_numbers(planes)
    _check_agreement(planes, "image sizes", lambda p: p.size, lambda p: f"{p.size[0]} × {p.size[1]}", 0)
    _check_agreement(planes, "orientations", lambda p: p.cosines, _orientation_words, SAME_DIRECTION)
    _check_agreement(planes, "pixel spacings", _logarithms, _spacing_words, SAME_SPACING)
    cosines = np.array(planes[0].cosines, dtype=np.float64)
    across, down = cosines[:3], cosines[3:]
    lengths = np.linalg.norm(across), np.linalg.norm(down)
    if not np.allclose(lengths, 1, atol=UNIT_LENGTH) or abs(across @ down) > UNIT_LENGTH:
        raise BadGeometry(f"The image orientation {cosines.tolist()} is not two unit vectors at right angles.")
    across = across / lengths[0]
    down = down - across * (across @ down)
    assert planes[0].spacing is not None
    return across, down / np.linalg.norm(down), (planes[0].spacing[0], planes[0].spacing[1])


def orientation(cosines: Sequence[float] | Float) -> str:
    """ "axial", "coronal", "sagittal" or "oblique", from row and column direction (six numbers, LPS)."""
    normal = np.abs(np.cross(cosines[:3], cosines[3:]))
    return ("sagittal", "coronal", "axial")[int(normal.argmax())] if normal.max() > 0.95 else "oblique"


def _check_placed(planes: Sequence[Plane]) -> None:
    bare = [p for p in planes if p.position is None or p.cosines is None or p.spacing is None]
    if bare:
        raise BadGeometry(
            f"{len(bare)} of {len(planes)} images, first {bare[0].path.name}, do not say where they lie (position, "
            "orientation or pixel spacing missing); export the original slices."
        )


def _check_numbers(planes: Sequence[Plane]) -> None:
    _check_range(planes, "position", [p.position for p in planes], (-MAX_POSITION_MM, MAX_POSITION_MM), " mm")
    _check_range(planes, "orientation", [p.cosines for p in planes], (-1 - UNIT_LENGTH, 1 + UNIT_LENGTH), "")
    _check_range(planes, "pixel spacing", [p.spacing for p in planes], SPACING_MM, " mm")


def _check_range(
    planes: Sequence[Plane], what: str, rows: Sequence[object], allowed: tuple[float, float], unit: str
) -> None:
    numbers = np.array(rows, dtype=np.float64)
    # Written so that NaN, on which every comparison fails, is wrong as well.
    wrong = np.flatnonzero(~((numbers >= allowed[0]) & (numbers <= allowed[1])).all(axis=1))
    if len(wrong):
        shown = ", ".join(f"{v:g}" for v in numbers[wrong[0]]).replace("-", "−")
        ends = f"{allowed[0]:g} to {allowed[1]:g}{unit}".replace("-", "−")
        raise BadGeometry(
            f"{len(wrong)} of {len(planes)} images, first {planes[wrong[0]].path.name}, have an impossible {what}, "
            f"{shown}; it must be finite and from {ends}. Export them again."
        )


def _check_agreement(
    planes: Sequence[Plane],
    several: str,
    numbers: Callable[[Plane], Sequence[float] | None],
    words: Callable[[Plane], str],
    tolerance: float,
) -> None:
    values = np.array([numbers(plane) for plane in planes], dtype=np.float64)
    # Written so that NaN fails as well.
    if not np.abs(values - values[0]).max() <= tolerance:
        listed = grouped(planes, [words(plane) for plane in planes])
        raise MixedSeries(f"The series mixes {several}: {listed}; export one reconstruction only.")


def _orientation_words(plane: Plane) -> str:
    assert plane.cosines is not None
    return f"{orientation(plane.cosines)} ({', '.join(f'{v:.3g}' for v in plane.cosines)})"


def _logarithms(plane: Plane) -> tuple[float, ...]:
    """The logarithms of the spacing: their difference is the relative one."""
    assert plane.spacing is not None
    return tuple(np.log(plane.spacing))


def _spacing_words(plane: Plane) -> str:
    assert plane.spacing is not None
    return f"{plane.spacing[0]:g} × {plane.spacing[1]:g} mm"
