"""Handcrafted features of a nodule: shape, density and texture of its largest slice at a pixel of 0.5 mm, and size and
density over all slices. Training and inference share this file.

The number of slices is not a feature: stacks end where the readers' outlines end, which leaks the label.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import ConvexHull

from nodulens.core.nodule import Box
from nodulens.core.volume import Volume
from nodulens.ops.intensity import to_unit
from nodulens.stages.crops import FIELD_PX, Crop, crop_view, crop_window

Float = NDArray[np.float64]
Bool = NDArray[np.bool_]

PIXEL_MM = 0.5
FIELD = Crop(96, PIXEL_MM)
RING_MM = 2.0
"""Width of the ring around the outline whose density is compared with the nodule's."""
ROUGH_MM = 1.5
"""Radius of the disc for opening an outline, which removes spikes."""
LEVELS = 16
STEPS_MM = (0.5, 2.0)
"""Distances between the pixels of a co-occurrence."""


def nodule_features(
    image: NDArray[np.float32], mask: Bool, spacing_zyx: tuple[float, float, float]
) -> dict[str, float]:
    """All features of a nodule: those of its largest slice, and those over all of them.

    Args:
        image: (z, y, x) 0…1, with the tissue around the nodule.
        mask: the same shape, not empty.
        spacing_zyx: mm.
    """
    z = int(mask.sum(axis=(1, 2)).argmax())
    of_slice = slice_features(image[z], mask[z], spacing_zyx[1:])
    return of_slice | depth_features(image[mask], float(np.prod(spacing_zyx)))


def measured_view(volume: Volume, box: Box, mask: Bool) -> NDArray[np.float32]:
    """Input (features,) of the forest that ships: the values of :func:`nodule_features` of a nodule in a scan.

    Args:
        volume: canonical orientation.
        box: around the nodule.
        mask: of ``box.shape``, not empty.
    """
    around = box.grown((0, FIELD_PX, FIELD_PX)).clipped(volume.geometry.shape)
    start = np.subtract(box.start, around.start)
    whole = np.zeros(around.shape, dtype=bool)
    whole[Box.between(start, start + mask.shape).slices] = mask
    found = nodule_features(to_unit(volume.hu[around.slices]), whole, volume.geometry.spacing_zyx)
    return np.array(list(found.values()), dtype=np.float32)


def slice_features(image: NDArray[np.float32], mask: Bool, pixel_mm: tuple[float, float]) -> dict[str, float]:
    """Shape, density and texture on one slice.

    Args:
        image: (y, x) 0…1.
        mask: (y, x), not empty.
        pixel_mm: of both, along y and x; features are computed at 0.5 mm in any case.
    """
    fine = crop_window(mask, pixel_mm, FIELD).sample(mask[None])[0]
    outline = fine >= min(0.5, float(fine.max()))
    crop = crop_view(image, mask, pixel_mm, FIELD)[0].astype(np.float64)
    return shape_features(outline) | density_features(crop, outline) | texture_features(crop, outline)


def shape_features(mask: Bool) -> dict[str, float]:
    """Shape in millimetres of a mask (y, x) of half-millimetre pixels."""
    area = float(mask.sum()) * PIXEL_MM**2
    around = perimeter(mask) * PIXEL_MM
    places: Float = np.argwhere(mask).astype(np.float64) * PIXEL_MM
    # variance within a pixel
    spread = np.linalg.eigvalsh(np.cov(places.T, bias=True) + np.eye(2) * PIXEL_MM**2 / 12)
    short, long = 4 * np.sqrt(spread)
    rim = np.argwhere(mask & ~ndimage.binary_erosion(mask)) * PIXEL_MM
    radii = np.linalg.norm(rim - places.mean(0), axis=1)
    hull, longest = _hull(places)
    opened = ndimage.binary_opening(np.pad(mask, 4), _disc(ROUGH_MM))
    return {
        "area_mm2": area,
        "diameter_mm": 2 * float(np.sqrt(area / np.pi)),
        "perimeter_mm": around,
        "circularity": 4 * np.pi * area / around**2,
        "long_axis_mm": float(long),
        "short_axis_mm": float(short),
        "elongation": float(long / short),
        "longest_mm": longest,
        "solidity": area / hull,
        "radius_variation": float(radii.std() / max(radii.mean(), PIXEL_MM / 2)),
        "spiky_share": 1 - float(opened.sum() / mask.sum()),
    }


def density_features(image: Float, mask: Bool) -> dict[str, float]:
    """Statistics of the values 0…1 inside a mask, at its rim, and in a ring around it."""
    inside = image[mask]
    ring = ndimage.binary_dilation(mask, _disc(RING_MM)) & ~mask
    outside = image[ring] if ring.any() else np.zeros(1)  # an outline that fills the field has nothing around it
    rim = ndimage.binary_dilation(mask) ^ ndimage.binary_erosion(mask)
    steep = ndimage.gaussian_gradient_magnitude(image, 1.0)[rim]
    return {
        **_moments("inside", inside),
        **{f"inside_p{q}": float(np.percentile(inside, q)) for q in (5, 25, 50, 75, 95)},
        "ring_mean": float(outside.mean()),
        "ring_std": float(outside.std()),
        "contrast": float(inside.mean() - outside.mean()),
        "rim_gradient": float(steep.mean()),
        "rim_gradient_std": float(steep.std()),
    }


def texture_features(image: Float, mask: Bool) -> dict[str, float]:
    """Texture by grey-level co-occurrence inside the mask, pooled over four directions (Haralick et al. 1973).

    If no two pixels of the mask are that far apart, the values are those of a uniform grey.
    """
    level = np.minimum((image * LEVELS).astype(int), LEVELS - 1)
    high, low = np.indices((LEVELS, LEVELS))
    out: dict[str, float] = {}
    for step_mm in STEPS_MM:
        step = round(step_mm / PIXEL_MM)
        p = _together(level, mask, step)
        mean = float((p * low).sum())
        variance = float((p * (low - mean) ** 2).sum())
        covariance = float((p * (low - mean) * (high - mean)).sum())
        name = f"texture_{step_mm:g}mm"
        out |= {
            f"{name}_contrast": float((p * (high - low) ** 2).sum()),
            f"{name}_correlation": covariance / variance if variance > 0 else 1.0,
            f"{name}_energy": float((p**2).sum()),
            f"{name}_homogeneity": float((p / (1 + (high - low) ** 2)).sum()),
            f"{name}_entropy": float(-(p[p > 0] * np.log2(p[p > 0])).sum()),
        }
    return out


def depth_features(inside: NDArray[np.floating], voxel_mm3: float) -> dict[str, float]:
    """Size and density from the values 0…1 of all voxels of a nodule."""
    volume = len(inside) * voxel_mm3
    return {
        "volume_mm3": volume,
        "diameter_3d_mm": (6 * volume / np.pi) ** (1 / 3),
        **_moments("voxels", inside.astype(np.float64)),
        "voxels_p95": float(np.percentile(inside, 95)),
    }


def perimeter(mask: Bool) -> float:
    """Length of the border of a mask (y, x) in pixels, from its crossings by lines in four directions.

    Crofton's formula: π times the mean width over directions, where two crossings of a line count the distance between
    lines as width.
    """
    m = np.pad(mask, 1)
    crossed = [
        (m[1:] != m[:-1]).sum(),
        (m[:, 1:] != m[:, :-1]).sum(),
        (m[1:, 1:] != m[:-1, :-1]).sum() / np.sqrt(2),
        (m[1:, :-1] != m[:-1, 1:]).sum() / np.sqrt(2),
    ]
    return float(np.pi * np.mean(crossed) / 2)


def _moments(name: str, values: Float) -> dict[str, float]:
    """Mean, standard deviation, skewness and excess kurtosis; the last two are 0 if all values are equal.

    They are those of :mod:`scipy.stats`, whose import would take longer than all gradings of a scan.
    """
    mean, std = values.mean(), values.std()
    standard = (values - mean) / std if std >= 1e-6 else None
    return {
        f"{name}_mean": float(mean),
        f"{name}_std": float(std),
        f"{name}_skewness": 0.0 if standard is None else float((standard**3).mean()),
        f"{name}_kurtosis": 0.0 if standard is None else float((standard**4).mean() - 3),
    }


def _together(level: NDArray[np.int_], mask: Bool, step: int) -> Float:
    """(LEVELS, LEVELS) co-occurrence: share of pixel pairs of two grey levels, ``step`` pixels apart."""
    counts = np.zeros(LEVELS**2)
    rows, columns = level.shape
    for dy, dx in ((0, step), (step, 0), (step, step), (step, -step)):
        one = (slice(0, rows - dy), slice(max(-dx, 0), columns - max(dx, 0)))
        other = (slice(dy, rows), slice(max(dx, 0), columns - max(-dx, 0)))
        on = mask[one] & mask[other]
        counts += np.bincount(level[one][on] * LEVELS + level[other][on], minlength=LEVELS**2)
    p = counts.reshape(LEVELS, LEVELS)
    p = p + p.T
    if not p.any():
        p[0, 0] = 1
    out: Float = p / p.sum()
    return out


def _hull(places: Float) -> tuple[float, float]:
    """Area of the convex hull of pixels centred at (n, 2) mm, and its largest diameter."""
    half = PIXEL_MM / 2 * np.array([(-1, -1), (-1, 1), (1, -1), (1, 1)])
    corners = (places[:, None] + half).reshape(-1, 2)
    hull = ConvexHull(corners)
    rim = corners[hull.vertices]
    return float(hull.volume), float(np.linalg.norm(rim[:, None] - rim[None], axis=-1).max())


def _disc(radius_mm: float) -> Bool:
    reach = int(radius_mm / PIXEL_MM)
    y, x = np.ogrid[-reach : reach + 1, -reach : reach + 1]
    out: Bool = y**2 + x**2 <= reach**2
    return out
