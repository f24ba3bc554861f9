"""Conversion of Hounsfield units to network inputs."""

from __future__ import annotations

from dataclasses import dataclass

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


def from_unit(unit: NDArray[np.float32], window: tuple[float, float] = NETWORK_WINDOW) -> NDArray[np.float32]:
    """The inverse of :func:`to_unit` within the window: float32 0…1, any shape → HU."""
    low, high = window
    return np.asarray(unit * np.float32(high - low) + np.float32(low))


@dataclass(frozen=True)
class Quantization:
    """HU in 8 bits, as files of crops hold them: HU = ``hu_per_step`` · value − 1000, −1000…400 HU being kept."""

    hu_per_step: float

    @property
    def unit_per_step(self) -> float:
        """One step on the networks' 0…1 scale."""
        low, high = NETWORK_WINDOW
        return self.hu_per_step / (high - low)

    @property
    def top(self) -> int:
        """The step of the highest HU that are kept."""
        low, high = NETWORK_WINDOW
        return round((high - low) / self.hu_per_step)

    def steps(self, hu: NDArray[np.floating] | NDArray[np.integer]) -> NDArray[np.uint8]:
        """HU, any shape → the nearest steps, clipped to the window."""
        low, high = NETWORK_WINDOW
        clipped = np.clip(hu.astype(np.float32), low, high)
        return np.asarray(np.rint((clipped - np.float32(low)) / np.float32(self.hu_per_step)), dtype=np.uint8)

    def steps_of_unit(self, unit: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Network input 0…1, any shape → the nearest steps."""
        return np.asarray(np.rint(unit / np.float32(self.unit_per_step)), dtype=np.uint8)

    def hu(self, steps: NDArray[np.integer]) -> NDArray[np.float32]:
        """Steps, any shape → HU."""
        return steps.astype(np.float32) * np.float32(self.hu_per_step) + np.float32(NETWORK_WINDOW[0])

    def unit(self, steps: NDArray[np.integer]) -> NDArray[np.float32]:
        """Steps, any shape → network input 0…1."""
        return steps.astype(np.float32) * np.float32(self.unit_per_step)
