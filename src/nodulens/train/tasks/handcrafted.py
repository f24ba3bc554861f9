"""Baselines without networks: handcrafted features of a nodule, and a support vector machine or random forest on them.

Features are shape, density and texture of the largest slice at a pixel of 0.5 mm, and size and density over all slices.
The number of slices of a stack is not a feature: stacks end where the readers' outlines end, which leaks the label.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, stats
from scipy.spatial import ConvexHull

from nodulens.data.material import Stacks
from nodulens.errors import BadOption
from nodulens.stages.classify_crop import Crop, crop_view, crop_window
from nodulens.train.tasks.classification import evaluated
from nodulens.train.tasks.classification_figures import EvaluatedNodules
from nodulens.train.tasks.nodule_material import NoduleMaterial, Nodules, load_nodules
from nodulens.train.tasks.protocol import Rows, median_ms

Float = NDArray[np.float64]
Bool = NDArray[np.bool_]
Kind = Literal["svm", "forest"]

CLASSES = ("benign", "malignant")

PIXEL_MM = 0.5
FIELD = Crop(96, PIXEL_MM)
RING_MM = 2.0
"""Width of the ring around the outline whose density is compared with the nodule's."""
ROUGH_MM = 1.5
"""Radius of the disc for opening an outline, which removes spikes."""
LEVELS = 16
STEPS_MM = (0.5, 2.0)
"""Distances between the pixels of a co-occurrence."""
TREES = 500


@dataclass(frozen=True, eq=False)
class Features(NoduleMaterial):
    """Benign and malignant nodules with their features.

    Attributes:
        names: of the features.
        values: (N, features).
    """

    names: tuple[str, ...]
    values: Float


def load(data: Path) -> Features:
    """Every nodule whose median malignancy is not 3.

    Raises:
        NotFound: the folder has no stacks.
    """
    stacks, nodules = load_nodules(data, CLASSES)
    rows = [_features(stacks, nodules, k) for k in range(len(nodules.truth))]
    return Features(nodules, tuple(rows[0]), np.array([list(r.values()) for r in rows]))


def _features(stacks: Stacks, nodules: Nodules, k: int) -> dict[str, float]:
    """The features of one nodule."""
    n, pixel = int(nodules.origin[k]), float(nodules.pixel_mm[k])
    image, spacing = stacks.unit(n), stacks.spacing_zyx(n)
    of_slice = slice_features(image[nodules.central[k]], nodules.outline[k], pixel)
    return of_slice | depth_features(image[stacks.truth(n)], pixel**2 * spacing[0])


def evaluate(
    kind: Kind, material: Features, rows: Rows, test: Rows, *, seed: int = 0, trees: int = TREES
) -> EvaluatedNodules:
    """Train a classifier on ``rows`` and evaluate it on ``test``; figures as for the networks.

    Args:
        trees: number in the forest.

    Raises:
        BadOption: another kind.
    """
    if kind not in get_args(Kind):
        raise BadOption(f"There is no classifier {kind!r}; there are {', '.join(get_args(Kind))}.")
    score = _trained(kind, material, rows, seed, trees)(material.values[test])
    return evaluated(material.nodules, test, np.stack([np.zeros_like(score), score], axis=1))


def milliseconds(kind: Kind, material: Features, data: Path, count: int = 10) -> float:
    """Time of features and classification of a nodule on the CPU, median over nodules spread evenly over all."""
    stacks, nodules = Stacks(data), material.nodules
    score = _trained(kind, material, np.arange(len(nodules.truth)))

    def grade(k: int) -> None:
        score(np.array([list(_features(stacks, nodules, k).values())]))

    return median_ms(partial(grade, k) for k in np.linspace(0, len(nodules.truth) - 1, count).astype(int).tolist())


def _trained(kind: Kind, material: Features, rows: Rows, seed: int = 0, trees: int = TREES) -> Callable[[Float], Float]:
    values, truth = material.values[rows], material.nodules.truth[rows]
    return _svm(values, truth, seed) if kind == "svm" else _forest(values, truth, seed, trees)


def _svm(values: Float, truth: NDArray[np.int_], seed: int) -> Callable[[Float], Float]:
    """A support vector machine with radial basis functions on standardised features; the score is its decision
    function."""
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    model = make_pipeline(StandardScaler(), SVC(class_weight="balanced", random_state=seed)).fit(values, truth)
    return model.decision_function


def _forest(values: Float, truth: NDArray[np.int_], seed: int, trees: int) -> Callable[[Float], Float]:
    """A random forest; the score is the log odds of its trees' mean probability."""
    from sklearn.ensemble import RandomForestClassifier

    model = RandomForestClassifier(trees, min_samples_leaf=2, class_weight="balanced", random_state=seed)
    model.fit(values, truth)

    def score(features: Float) -> Float:
        p = np.clip(model.predict_proba(features)[:, 1], 0.5 / trees, 1 - 0.5 / trees)
        return np.log(p / (1 - p))

    return score


# ---------------------------------------------------------------- features


def slice_features(image: NDArray[np.float32], mask: Bool, pixel_mm: float) -> dict[str, float]:
    """Shape, density and texture on one slice.

    Args:
        image: (y, x) 0…1.
        mask: (y, x), not empty.
        pixel_mm: of both; features are computed at 0.5 mm in any case.
    """
    both = (pixel_mm, pixel_mm)
    fine = crop_window(mask, both, FIELD).sample(mask[None])[0]
    outline = fine >= min(0.5, float(fine.max()))
    crop = crop_view(image, mask, both, FIELD)[0].astype(np.float64)
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
    outside = image[ring]
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
    """Mean, standard deviation, skewness and kurtosis; the last two are 0 if all values are equal."""
    flat = values.std() < 1e-6
    return {
        f"{name}_mean": float(values.mean()),
        f"{name}_std": float(values.std()),
        f"{name}_skewness": 0.0 if flat else float(stats.skew(values)),
        f"{name}_kurtosis": 0.0 if flat else float(stats.kurtosis(values)),
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
    return p / p.sum()


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
    return y**2 + x**2 <= reach**2
