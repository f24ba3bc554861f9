"""A CT and its masks for a web page: JPEG and PNG data URIs, SVG paths.

Everything here is in canonical orientation (z, y, x rise towards superior, posterior, left), displayed by
radiological convention: the patient's left on the image's right, anterior on top in axial planes, the head on top
in the others.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nodulens.core.geometry import Float
from nodulens.core.nodule import Box, Nodule
from nodulens.core.volume import Mask, Volume, crop_array
from nodulens.ops.orient import canonical
from nodulens.ops.parallel import on_all_cores

GREY_HU = (-1350.0, 250.0)
"""HU that become black and white in the pictures; the page narrows this to the chosen window."""
STACK_PIXELS = 512
"""Longer side of the axial pictures."""
LEAST_STACK_PIXELS = 256
ALL_STACK_PIXELS = 200 * STACK_PIXELS**2
"""Of all axial pictures together: those of a longer scan are smaller, so that its page is not."""
VIEW_PIXELS = 288
UNITS_PER_MM = 4
"""Outlines have integer coordinates of a quarter of a millimetre."""

Array = NDArray[np.float32]
BICUBIC, BILINEAR = Image.Resampling.BICUBIC, Image.Resampling.BILINEAR


@dataclass(frozen=True)
class Outline:
    """Closed curves as the ``d`` of an SVG path, in units of 1 / ``UNITS_PER_MM`` mm from the picture's corner."""

    label: int
    path: str


@dataclass(frozen=True)
class Slice:
    """One axial picture of the stack.

    Attributes:
        image: data URI.
        lungs: outlines with labels 1 left, 2 right.
        nodules: outlines of the nodules on the slice; the label is the nodule's id.
    """

    image: str
    lungs: tuple[Outline, ...]
    nodules: tuple[Outline, ...]


@dataclass(frozen=True)
class Plane:
    """A nodule in one plane, a square picture.

    Attributes:
        name: "axial", "coronal" or "sagittal".
        letters: direction of the top, right, bottom and left edge: A, P, R, L, H (head) or F (feet).
        image, heat: data URIs; heat is None if none was computed.
        outline: as in :class:`Outline`.
    """

    name: str
    letters: str
    image: str
    heat: str | None
    outline: str


@dataclass(frozen=True)
class _Shape:
    """A nodule's mask (0, 1) and heat map with a margin of one voxel, and their canonical box."""

    box: Box
    mask: Array
    heat: Array | None


@dataclass(frozen=True)
class _Closeup:
    """A block of a canonical volume around a nodule, (z, y, x), and the square crop of its planes.

    Attributes:
        grey: 8-bit.
        mask, heat: of the nodule, on the same grid.
        centre: continuous index of the centre of the square in the block.
        cut: index of the plane along each axis.
        side: of the square, voxels along (z, y, x).
        side_mm: the same in millimetres.
    """

    grey: NDArray[np.uint8]
    mask: Array
    heat: Array | None
    centre: Float
    cut: tuple[int, ...]
    side: Float
    side_mm: float

    def plane(self, name: str, through: int, letters: str) -> Plane:
        """The plane perpendicular to the axis ``through``."""
        half = VIEW_PIXELS // 2
        heat = None if self.heat is None else _heat_png(np.asarray(self._cut(self.heat, through, half, BILINEAR)))
        return Plane(
            name=name,
            letters=letters,
            image=_jpeg(self._cut(self.grey, through, VIEW_PIXELS, BICUBIC), 88),
            heat=heat,
            outline=_path(np.asarray(self._cut(self.mask, through, half, BILINEAR)), (self.side_mm / half,) * 2),
        )

    def _cut(self, block: NDArray[Any], through: int, pixels: int, how: Image.Resampling) -> Image.Image:
        """The square through the nodule in one plane, resampled to ``pixels`` a side."""
        across = [axis for axis in range(3) if axis != through]
        middle, reach = self.centre[across] + 0.5, self.side[across] / 2
        region = (*(middle - reach)[::-1].tolist(), *(middle + reach)[::-1].tolist())
        image = Image.fromarray(np.ascontiguousarray(block.take(self.cut[through], axis=through)))
        square = image.resize((pixels, pixels), how, box=region)
        return square if through == 0 else square.transpose(Image.Transpose.FLIP_TOP_BOTTOM)


class DisplayScan:
    """A CT in canonical orientation for display, with its findings.

    Args:
        ct: the volume as read.
        nodules: in indices of the volume as read; the box replaces a missing mask.
        lungs: labels 1 left, 2 right on the grid of the volume as read, or None.
    """

    def __init__(self, ct: Volume, nodules: Sequence[Nodule], lungs: Mask | None) -> None:
        self.ct = ct
        self.volume, self._orientation = canonical(ct)
        self.lungs = None if lungs is None else self._orientation.apply(lungs.labels)
        self._shapes = {nodule.id: self._shape(nodule) for nodule in nodules}

    def _shape(self, nodule: Nodule) -> _Shape:
        grid = self.ct.geometry.crop(nodule.box).transposed(self._orientation.axes, self._orientation.flips)
        start = np.round(self.volume.geometry.to_index(grid.origin_lps)).astype(int)
        box = _box(start, start + np.asarray(grid.shape)).grown((1, 1, 1))
        mask = np.ones(nodule.box.shape, bool) if nodule.mask is None else nodule.mask
        heat = None if nodule.heat is None else np.pad(self._orientation.apply(nodule.heat), 1)
        return _Shape(box, np.pad(self._orientation.apply(mask), 1).astype(np.float32), heat)

    def place(self, nodule: Nodule) -> Float:
        """Continuous canonical (z, y, x) of a nodule's centroid, moved onto its central slice as read."""
        index = self.ct.geometry.to_index(nodule.centre_lps)
        index[0] = nodule.position.central_slice
        return self.volume.geometry.to_index(self.ct.geometry.to_lps(index))

    @property
    def size_mm(self) -> tuple[float, float, float]:
        """Height, depth and width of the volume, (z, y, x)."""
        z, y, x = np.asarray(self.volume.geometry.shape) * self.volume.geometry.spacing_zyx
        return float(z), float(y), float(x)

    @property
    def frame(self) -> dict[str, int]:
        """Width and height of an axial picture, in the units of its outlines."""
        _, height, width = self.size_mm
        return {"width": round(width * UNITS_PER_MM), "height": round(height * UNITS_PER_MM)}

    @property
    def stack_size(self) -> tuple[int, int]:
        """Width and height of the axial pictures in pixels."""
        count = self.volume.geometry.shape[0]
        side = min(STACK_PIXELS, max(LEAST_STACK_PIXELS, math.isqrt(ALL_STACK_PIXELS // count)))
        _, height, width = self.size_mm
        scale = side / max(width, height)
        return max(1, round(width * scale)), max(1, round(height * scale))

    def stack(self) -> list[Slice]:
        """All axial slices from the feet to the head, in the order of z in the canonical volume."""
        return on_all_cores(self._slice, range(self.volume.geometry.shape[0]))

    def _slice(self, z: int) -> Slice:
        size = self.stack_size
        half = (size[0] // 2 or 1, size[1] // 2 or 1)
        lungs = [] if self.lungs is None else [(v, self.lungs[z] == v) for v in (1, 2)]
        cut = [(n, s.mask[z - s.box.start[0]], s.box) for n, s in self._shapes.items() if _spans(s.box, z)]
        return Slice(
            image=_jpeg(Image.fromarray(_grey(self.volume.hu[z])).resize(size, BILINEAR), 70),
            lungs=tuple(Outline(v, self._lung_path(mask, half)) for v, mask in lungs if mask.any()),
            nodules=tuple(Outline(n, self._nodule_path(mask, box)) for n, mask, box in cut if mask.any()),
        )

    def _lung_path(self, mask: NDArray[np.bool_], size: tuple[int, int]) -> str:
        _, height, width = self.size_mm
        small = Image.fromarray(np.where(mask, np.uint8(255), np.uint8(0))).resize(size, BILINEAR)
        return _path(np.asarray(small, np.float32) / np.float32(255), (width / size[0], height / size[1]), every=2)

    def _nodule_path(self, mask: Array, box: Box) -> str:
        _, sy, sx = self.volume.geometry.spacing_zyx
        finer = Image.fromarray(mask).resize((mask.shape[1] * 2, mask.shape[0] * 2), BILINEAR)
        return _path(np.asarray(finer), (sx / 2, sy / 2), (box.start[2] * sx, box.start[1] * sy))

    def side_mm(self, nodule: Nodule) -> float:
        """Side of the square crop of a nodule: 50 mm, or more if needed, in steps of 10 mm."""
        extent = max(n * mm for n, mm in zip(nodule.box.shape, self.ct.geometry.spacing_zyx, strict=True))
        return max(50.0, 10 * math.ceil(extent * 1.4 / 10))

    def planes(self, nodule: Nodule) -> tuple[Plane, Plane, Plane]:
        """A nodule in its axial, coronal and sagittal plane."""
        closeup = self._closeup(nodule)
        return (
            closeup.plane("axial", 0, "ALPR"),
            closeup.plane("coronal", 1, "HLFR"),
            closeup.plane("sagittal", 2, "HPFA"),
        )

    def _closeup(self, nodule: Nodule) -> _Closeup:
        spacing = np.asarray(self.volume.geometry.spacing_zyx)
        side, centre, shape = self.side_mm(nodule), self.place(nodule), self._shapes[nodule.id]
        box = Box.around(centre, [math.ceil(side / mm) + 5 for mm in spacing])
        offset = np.asarray(shape.box.start)
        own = _box(np.asarray(box.start) - offset, np.asarray(box.stop) - offset)
        heat = None if shape.heat is None else crop_array(shape.heat, own)
        grey = _grey(self.volume.crop(box).hu)
        cut = tuple(round(float(c)) - start for c, start in zip(centre, box.start, strict=True))
        return _Closeup(grey, crop_array(shape.mask, own), heat, centre - box.start, cut, side / spacing, side)

    def silhouette(self) -> tuple[Outline, ...]:
        """Projections of the lungs from the front, head on top; empty without lung masks."""
        if self.lungs is None:
            return ()
        height, _, width = self.size_mm
        size = (math.ceil(width / 2), math.ceil(height / 2))
        shadows = [(v, np.array([(z == v).any(axis=0) for z in self.lungs[::-1]], np.float32)) for v in (1, 2)]
        scale = (width / size[0], height / size[1])
        small = [(v, np.asarray(Image.fromarray(shadow).resize(size, BILINEAR))) for v, shadow in shadows]
        return tuple(Outline(v, _path(shadow, scale)) for v, shadow in small)

    def silhouette_frame(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of the lungs on the silhouette in mm; there must be lungs."""
        assert self.lungs is not None
        sz, _, sx = self.volume.geometry.spacing_zyx
        shadow = np.argwhere(self.lungs.any(axis=1))
        (first, start), (last, stop) = shadow.min(axis=0).tolist(), shadow.max(axis=0).tolist()
        height, _, _ = self.size_mm
        return start * sx, height - (last + 1) * sz, (stop + 1) * sx, height - first * sz

    def silhouette_place(self, nodule: Nodule) -> tuple[float, float]:
        """Position of a nodule on the silhouette: mm from the left and from the top."""
        z, _, x = self.volume.geometry.to_index(nodule.centre_lps)
        sz, _, sx = self.volume.geometry.spacing_zyx
        return float((x + 0.5) * sx), float(self.size_mm[0] - (z + 0.5) * sz)


def _box(start: NDArray, stop: NDArray) -> Box:  # type: ignore[type-arg]
    return Box.between(start, stop)


def _spans(box: Box, z: int) -> bool:
    return box.start[0] <= z < box.stop[0]


def _grey(hu: NDArray) -> NDArray[np.uint8]:  # type: ignore[type-arg]
    """HU → 0…255 over ``GREY_HU``."""
    low, high = GREY_HU
    grey = (hu.astype(np.float32) - np.float32(low)) * np.float32(255 / (high - low)) + np.float32(0.5)
    return np.clip(grey, 0, 255, out=grey).astype(np.uint8)


def _data_uri(image: Image.Image, kind: str, **options: int) -> str:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _jpeg(image: Image.Image, quality: int) -> str:
    return _data_uri(image, "jpeg", quality=quality)


def _heat_png(heat: Array) -> str:
    """0…1 → violet to yellow, more transparent for lower values."""
    image = Image.fromarray(np.clip(heat * 255 + 0.5, 0, 255).astype(np.uint8))
    image.putpalette(_heat_palette(), "RGBA")
    return _data_uri(image, "png")


@lru_cache
def _heat_palette() -> bytes:
    # nodes of the "inferno" map, even in lightness; transparency replaces its black end
    colours = [(66, 10, 104), (147, 38, 103), (221, 81, 58), (252, 165, 10), (252, 255, 164)]
    level = np.linspace(0, 1, 256)
    channels = [np.interp(level, np.linspace(0, 1, 5), channel) for channel in zip(*colours, strict=True)]
    return np.stack([*channels, 255 * level**0.7], axis=1).astype(np.uint8).tobytes()


# Marching squares. Corners of a cell: 8 top left, 4 top right, 2 bottom right, 1 bottom left, set where inside.
# For each case the edges where its curve enters and leaves, in one direction, so that curves close; saddles separate.
_TOP, _RIGHT, _BOTTOM, _LEFT = range(4)
_CASES = {
    1: [(_LEFT, _BOTTOM)], 2: [(_BOTTOM, _RIGHT)], 4: [(_RIGHT, _TOP)], 8: [(_TOP, _LEFT)],
    3: [(_LEFT, _RIGHT)], 6: [(_BOTTOM, _TOP)], 12: [(_RIGHT, _LEFT)], 9: [(_TOP, _BOTTOM)],
    14: [(_BOTTOM, _LEFT)], 13: [(_RIGHT, _BOTTOM)], 11: [(_TOP, _RIGHT)], 7: [(_LEFT, _TOP)],
    10: [(_TOP, _LEFT), (_BOTTOM, _RIGHT)], 5: [(_RIGHT, _TOP), (_LEFT, _BOTTOM)],
}  # fmt: skip


def contours(image: Array) -> list[Float]:
    """The closed curves where an image crosses one half.

    This is our own marching squares rather than contourpy's, whose curves of masks are the same (a test compares them)
    but start at other points, and which joins at saddles of smooth images what we separate: every page would change,
        and
    the core would need a compiled package for forty lines.

    Args:
        image: (rows, columns); beyond its edge it counts as 0.

    Returns:
        One (n, 2) array of (x, y) a curve, in pixels: the centre of the first pixel is (0.5, 0.5).
    """
    field = np.pad(image, 1)
    columns = field.shape[1]
    inside = (field >= 0.5).view(np.uint8)
    case = 8 * inside[:-1, :-1] + 4 * inside[:-1, 1:] + 2 * inside[1:, 1:] + inside[1:, :-1]
    y, x = np.nonzero((case > 0) & (case < 15))  # the curves pass through few cells
    case = case[y, x]
    # an edge is numbered by its first corner: even numbers are along a row, odd ones along a column
    first = 2 * (y * columns + x)
    edges = [first, first + 3, first + 2 * columns, first + 1]
    onward: dict[int, int] = {}
    for number, steps in _CASES.items():
        here = case == number
        for start, stop in steps:
            onward.update(zip(edges[start][here].tolist(), edges[stop][here].tolist(), strict=True))
    curves = []
    while onward:
        curve = [next(iter(onward))]
        while curve[-1] in onward:
            curve.append(onward.pop(curve[-1]))
        curves.append(_crossings(field, np.array(curve[:-1])))
    return curves


def _crossings(field: Array, edges: NDArray[np.int_]) -> Float:
    """Points (x, y) where the field crosses one half along numbered edges."""
    columns = field.shape[1]
    down = edges % 2
    values = field.ravel()
    begin = edges // 2
    end = begin + np.where(down, columns, 1)
    share = (0.5 - values[begin]) / (values[end] - values[begin])
    y, x = np.divmod(begin, columns)
    return np.stack([x + share * (1 - down), y + share * down], axis=1).astype(np.float64) - 0.5


def _path(
    image: Array, pixel_mm: tuple[float, float], corner_mm: tuple[float, float] = (0.0, 0.0), every: int = 1
) -> str:
    """The contours of an image as an SVG path.

    Args:
        image: (rows, columns), about 1 inside and 0 outside.
        pixel_mm: width and height of a pixel.
        corner_mm: position of the image's first corner.
        every: keep only one point in so many, but at least eight a curve.
    """
    parts = []
    for curve in contours(image):
        points = np.round((curve * pixel_mm + corner_mm) * UNITS_PER_MM).astype(int)
        points = points[:: max(1, min(every, len(points) // 8))]
        steps = np.diff(points, axis=0)
        text = " ".join(f"{x} {y}" for x, y in steps[steps.any(axis=1)].tolist())
        parts.append(f"M{points[0, 0]} {points[0, 1]}l{text}z" if text else "")
    return "".join(parts)
