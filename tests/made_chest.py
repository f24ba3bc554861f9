"""The grid of chests that are made of ellipsoids."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nodulens.core.geometry import Geometry

Bool = NDArray[np.bool_]

GRID = Geometry.axial((60, 110, 140), (4.0, 2.5, 2.5), (-173.75, -136.25, 0.0))


def egg(centre: tuple[float, float, float], radii: tuple[float, float, float]) -> Bool:
    """An ellipsoid in LPS mm (x, y, z)."""
    z, y, x = np.ogrid[tuple(slice(n) for n in GRID.shape)]
    x, y, z = (x * 2.5 - 173.75 - centre[0]) / radii[0], (y * 2.5 - 136.25 - centre[1]) / radii[1], z * 4.0 - centre[2]
    return np.asarray(x**2 + y**2 + (z / radii[2]) ** 2 <= 1)
