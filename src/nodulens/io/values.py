"""What numbers can be Hounsfield units, and what lies outside the scanner's field."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodulens.core.volume import AIR_HU
from nodulens.errors import BadValues

# Noise takes air below −1024 at times, nothing takes it this low: scanners fill what they did not see
# with −2000, −2048, −3024 and the like.
FIELD_HU = -1500
# Any chest holds air; fat alone ends near −120.
MUST_REACH_BELOW_HU = -300
MUST_REACH_ABOVE_HU = -200
# Sixteen bits and a rescale; metal ends near 31,000.
BEYOND_HU = 70_000


def outside_to_air(hu: NDArray[Any]) -> None:
    """Set what the scanner did not see (below −1500 HU) to air, in place."""
    np.putmask(hu, hu < FIELD_HU, AIR_HU)


def check_hounsfield(hu: NDArray[Any], name: str) -> None:
    """Refuse numbers that cannot be a chest in Hounsfield units.

    Args:
        hu: (z, y, x), finite.
        name: of the file or series, for the message.

    Raises:
        BadValues: no air, nothing but air, or numbers no scanner gives.
    """
    low, high = float(hu.min()), float(hu.max())
    if low <= MUST_REACH_BELOW_HU and MUST_REACH_ABOVE_HU <= high <= BEYOND_HU:
        return
    if high <= 1.01 and low >= -1.01:
        hint = "They look normalised; give the scan before that step."
    elif low >= 0 and high <= 255:
        hint = "They look like an 8-bit picture; export the scan itself as DICOM."
    elif low >= 0 and high <= BEYOND_HU:
        hint = "They look like stored values whose rescale (often minus 1024) was lost; export again with it."
    else:
        hint = "Export the scan again as DICOM."
    raise BadValues(f"{name}: values from {low:g} to {high:g} are no chest in HU, where air is near −1000. {hint}")
