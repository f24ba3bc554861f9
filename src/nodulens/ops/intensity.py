"""Hounsfield units to what a network sees."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

NETWORK_WINDOW = (-1000.0, 400.0)
"""HU that become 0 and 1: the range that every training file holds, so nothing outside it may count."""


def to_unit(
    hu: NDArray[np.floating] | NDArray[np.integer], window: tuple[float, float] = NETWORK_WINDOW
) -> NDArray[np.float32]:
    """HU, any shape → float32 0…1 over ``window``, clipped at its ends."""
    low, high = window
    unit = (hu.astype(np.float32) - np.float32(low)) * np.float32(1.0 / (high - low))
    return np.clip(unit, 0.0, 1.0, out=unit)
