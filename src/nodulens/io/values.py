"""Which numbers can be Hounsfield units of a chest, and which voxels are outside the scanner's field of view.

A rescale that was lost, halved or applied twice leaves a picture that looks right and measures wrong. What a chest
holds gives it away: air at −1000 HU outside and in the windpipe, lung above it, and fat and muscle from −120 to 60 HU,
whose peak is the highest of all that is dense, with contrast and metal too. Air, fat and muscle that are all off by
the same amount show a shift that is too small for any one of them. A slice whose rescale is wrong stands out from its
neighbours.

All is measured on some 4,000 pixels a slice. Thresholds were set so that whole scans, scans cropped to the lungs or to
one of them, masked, padded with any constant, clipped, noisy (100 HU) and made-up ones pass, and the same scans shifted
by 150 HU, halved, or with half or twice their slope do not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodulens.core.volume import AIR_HU
from nodulens.errors import BadValues

Float = NDArray[np.float64]

# Noise takes air below −1024 at times, nothing takes it this low: scanners fill what they did not see
# with −2000, −2048, −3024 and the like.
FIELD_HU = -1500
# Any chest holds air; fat alone ends near −120.
MUST_REACH_BELOW_HU = -300
MUST_REACH_ABOVE_HU = -200
# Sixteen bits and a rescale; metal ends near 31,000.
BEYOND_HU = 70_000

# Pixels of a slice are taken at regular distances, about so many along its shorter side.
SAMPLED = 64
COUNTED_HU = (-4200, 3100)
# Half-way between lung and soft tissue.
TISSUE_FROM_HU = -500
# With less than this share of dense voxels there is no usable peak of soft tissue.
LEAST_TISSUE = 0.1
SMOOTHING_HU = 15
# A value of this share of all voxels that is the lowest or highest, or has this many times the voxels of its neighbours
# together, is a filled-in constant, or a limit at which values were cut off.
CONSTANT_SHARE, CONSTANT_TIMES, CONSTANT_NEIGHBOURS_HU = 0.01, 3, 32
# A scan with a larger filled-in share is a mask or synthetic: it is not refused by the rest.
MOST_FILLED = 0.4
# A chest is at least this large along two axes, and along the third; a crop of a nodule need not hold any of it.
CHEST_MM, CHEST_THIRD_MM = 180.0, 20.0
# Where the peak of soft tissue can be, and where it is.
TISSUE_HU, USUAL_TISSUE_HU = (-200, 200), (-150, 130)
# One voxel in a hundred is at least this dark wherever there is a lung or air outside.
AIR_REACHES_HU = -550
# Peaks of air, fat and muscle. Scanners differ by some 20 HU, by 50 where they are badly calibrated.
PEAKS_HU = (-1000, -102, 45)
# What fat and muscle may lie apart, and by what share of the highest a peak has to rise.
APART_HU, LEAST_PROMINENCE = (115, 185), 0.05
# All peaks off by so much are a warning, and with that of air a refusal.
SHIFT_WARNS_HU, SHIFT_REFUSED_HU = 75, 125
# So far a shift of air may be from that of soft tissue: some scanners end at −1024, and lose the peak there.
SAME_SHIFT_HU = 45
# A shift upwards leaves hardly a voxel so far below where it puts air.
BELOW_AIR_HU, MOST_BELOW_AIR = 70, 0.002
# Voxels below FIELD_HU that are no constant: hardly any, unless lossy compression blurred the constant, or all HU are
# too low or doubled, and then what is dense or what is lung is missing.
MOST_BELOW_FIELD = 0.05
LUNG_HU, LEAST_LUNG = (-1100, -600), 0.05
# Neighbouring slices differ by less, in the median of air and of tissue alike.
JUMP_HU = 150.0
MOST_JUMPS = 0.25
ALIKE_SHARE = 0.2
LEAST_COMPARED = 0.1


@dataclass(frozen=True, eq=False)
class _Histogram:
    """How many voxels of a sample have each HU; constants that were filled in are left out.

    Attributes:
        counts: (n,) for each HU from the first of :data:`COUNTED_HU`; what lies beyond counts at the ends.
        filled: share of all voxels that hold a constant.
        lowest: the lowest constant that is no padding, which can be air that was cut off or filled in; None: none.
    """

    counts: Float
    filled: float
    lowest: int | None

    @classmethod
    def of(cls, sample: NDArray[Any]) -> _Histogram:
        low, high = COUNTED_HU
        whole = np.clip(sample, low, high).astype(np.int16).ravel() - low
        counts = np.bincount(whole, minlength=high - low + 1).astype(np.float64)
        around = np.convolve(counts, np.ones(2 * CONSTANT_NEIGHBOURS_HU + 1), mode="same") - counts
        alone = counts > CONSTANT_TIMES * around
        alone[[whole.min(), whole.max()]] = True
        constant = alone & (counts > CONSTANT_SHARE * whole.size)
        filled = float(counts[constant].sum() / whole.size)
        constants = np.flatnonzero(constant) + low
        constants = constants[constants >= FIELD_HU]
        return cls(np.where(constant, 0.0, counts), filled, int(constants[0]) if constants.size else None)

    def share(self, start: int, stop: int) -> float:
        """Share of voxels with ``start`` ≤ HU < ``stop``."""
        return float(self.counts[start - COUNTED_HU[0] : stop - COUNTED_HU[0]].sum() / max(self.counts.sum(), 1.0))

    @cached_property
    def smooth(self) -> Float:
        """The counts with noise smoothed away."""
        reach = 3 * SMOOTHING_HU
        bell = np.exp(-0.5 * (np.arange(-reach, reach + 1) / SMOOTHING_HU) ** 2)
        return np.convolve(self.counts, bell, mode="same")

    def peak(self, start: int, stop: int) -> int:
        """The most frequent HU from ``start`` to ``stop``."""
        return start + int(self.smooth[start - COUNTED_HU[0] : stop - COUNTED_HU[0]].argmax())

    def peaks(self, start: int, stop: int) -> list[int]:
        """All HU from ``start`` to ``stop`` whose peak rises from what is around by a share of the highest."""
        part = self.smooth[start - COUNTED_HU[0] : stop - COUNTED_HU[0]]
        least = LEAST_PROMINENCE * max(float(part.max()), 1.0)
        tops = np.flatnonzero((part[1:-1] > part[:-2]) & (part[1:-1] >= part[2:])) + 1
        return [start + int(top) for top in tops if _prominence(part, int(top)) >= least]

    def reaches(self, share: float) -> int:
        """The HU below which there is a share of all voxels."""
        rising = np.cumsum(self.counts)
        return COUNTED_HU[0] + int(np.searchsorted(rising, share * rising[-1]))


def _prominence(values: Float, top: int) -> float:
    """How far a peak rises above the higher of the two valleys between it and higher values, or the ends.

    As that of scipy.signal, whose import takes longer than reading a scan.
    """
    valleys = []
    for side in (values[top::-1], values[top:]):
        higher = np.flatnonzero(side > side[0])
        valleys.append(side[: higher[0] if higher.size else None].min())
    return float(values[top] - max(valleys))


def outside_to_air(hu: NDArray[Any]) -> None:
    """Set what the scanner did not see (below −1500 HU) to air, in place, (z, y, x)."""
    for image in hu:  # slice by slice: no mask of the whole scan is made, and a slice stays in the processor's cache
        np.copyto(image, AIR_HU, where=image < FIELD_HU)


def check_hounsfield(hu: NDArray[Any], name: str, spacing_zyx: Sequence[float] | None = None) -> tuple[str, ...]:
    """Refuse numbers that cannot be a chest in Hounsfield units.

    Args:
        hu: (z, y, x), finite, before :func:`outside_to_air`.
        name: of the file or series, for the message.
        spacing_zyx: mm between voxels; None where it is unknown, and only what holds for any crop is checked.

    Returns:
        warnings: what is odd, but may be.

    Raises:
        BadValues: no air, nothing but air, numbers no scanner gives, soft tissue or air where neither can be, or
            slices that do not fit one another.
    """
    _check_extremes(hu, name)
    sample = _sampled(hu)
    warnings = _check_jumps(sample, name)
    if spacing_zyx is not None and _chest_sized(hu.shape, spacing_zyx):
        warnings += _check_tissues(_Histogram.of(sample), name)
    return warnings


def _check_extremes(hu: NDArray[Any], name: str) -> None:
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


def _sampled(hu: NDArray[Any]) -> NDArray[Any]:
    step = max(1, min(hu.shape[1:]) // SAMPLED)
    return hu[:, step // 2 :: step, step // 2 :: step]


def _chest_sized(shape: Sequence[int], spacing_zyx: Sequence[float]) -> bool:
    third, second, _ = sorted(np.multiply(shape, spacing_zyx).tolist())
    return bool(second >= CHEST_MM and third >= CHEST_THIRD_MM)


def _check_tissues(histogram: _Histogram, name: str) -> tuple[str, ...]:
    """Check that air and soft tissue have the HU they have in any chest; warnings if that is uncertain."""
    certain = histogram.filled <= MOST_FILLED
    below = histogram.share(COUNTED_HU[0], FIELD_HU)
    dark, peak = histogram.reaches(0.01), histogram.peak(TISSUE_FROM_HU, COUNTED_HU[1])
    has_tissue = histogram.share(TISSUE_FROM_HU, COUNTED_HU[1] + 1) >= LEAST_TISSUE
    if below > MOST_BELOW_FIELD and (not has_tissue or histogram.share(*LUNG_HU) < LEAST_LUNG):
        what = f"{below:.0%} of the voxels lie below {FIELD_HU} HU, where nothing is"
    elif dark > AIR_REACHES_HU:
        what = f"hardly a voxel lies below {dark} HU, but air is near −1000"
    elif has_tissue and not TISSUE_HU[0] <= peak <= TISSUE_HU[1]:
        what = f"soft tissue lies near {peak} HU, but fat is near −100 and muscle near 50"
    elif has_tissue and (shift := _shift(histogram)):
        off, with_air = shift
        what = f"{'air, ' * with_air}fat and muscle lie about {abs(off)} HU too {'high' if off > 0 else 'low'}"
        certain = certain and with_air and abs(off) >= SHIFT_REFUSED_HU
    elif has_tissue and not USUAL_TISSUE_HU[0] <= peak <= USUAL_TISSUE_HU[1]:
        what, certain = f"soft tissue lies near {peak} HU, but fat is near −100 and muscle near 50", False
    else:
        return ()
    what = what.replace("-", "−")
    if certain:
        raise BadValues(f"{name}: {what}: its rescale to HU is wrong or was applied twice; export it again.")
    return (f"The values may not be Hounsfield units: {what}.",)


def _shift(histogram: _Histogram) -> tuple[int, bool] | None:
    """By how many HU fat and muscle lie off alike, and whether air does so too; None where nothing says so.

    Of several pairs of peaks, as with contrast, that counts which is off least. Air where it belongs, or darker than
    the shift would leave it, speaks against one.
    """
    air, fat, muscle = PEAKS_HU
    dense = histogram.peaks(TISSUE_FROM_HU, COUNTED_HU[1])
    pairs = [(low, high) for low in dense for high in dense if APART_HU[0] <= high - low <= APART_HU[1]]
    if not pairs:
        return None
    shift = min(((low - fat + high - muscle) // 2 for low, high in pairs), key=abs)
    dark = [hu - air for hu in (*histogram.peaks(FIELD_HU, TISSUE_FROM_HU)[:1], histogram.lowest) if hu is not None]
    if abs(shift) < SHIFT_WARNS_HU or any(abs(off) < SAME_SHIFT_HU for off in dark):
        return None
    if histogram.share(COUNTED_HU[0], air + max(shift, 0) - BELOW_AIR_HU) > MOST_BELOW_AIR and shift > 0:
        return None
    return shift, any(abs(off - shift) <= SAME_SHIFT_HU for off in dark)


def _check_jumps(sample: NDArray[Any], name: str) -> tuple[str, ...]:
    """A warning where the HU of neighbouring slices do not go together."""
    changes = [_changes(a, b) for a, b in pairwise(sample)]
    jumps = [_agreed(change) for change in changes]
    # A slice of another slope leaves air as it is; its neighbours on both sides agree on what it is.
    for z in range(1, len(changes)):
        before, after = (max(c, key=abs, default=0.0) for c in changes[z - 1 : z + 1])
        smaller, larger = sorted((abs(before), abs(after)))
        if smaller >= JUMP_HU and abs(before + after) <= ALIKE_SHARE * larger:
            jumps[z - 1], jumps[z] = before, after
    at = [z for z, jump in enumerate(jumps) if jump]
    if not at:
        return ()
    where = ", ".join(f"{z + 1} and {z + 2} ({jumps[z]:+.0f} HU)".replace("-", "−") for z in at[:4])
    where += f" and {len(at) - 4} more" if len(at) > 4 else ""
    if len(at) > max(2, MOST_JUMPS * len(jumps)):
        raise BadValues(
            f"{name}: HU jump between {len(at)} of {len(jumps)} pairs of neighbouring slices, {where}; "
            "their rescales do not belong together. Export it again."
        )
    return (f"HU jump between neighbouring slices {where}: the rescale of some is wrong, or they are of another scan.",)


def _changes(a: NDArray[Any], b: NDArray[Any]) -> list[float]:
    """By how many HU most of what is dense, and most of what is not, changes from one slice to the next.

    What there is too little of is left out.
    """
    change = np.subtract(b, a, dtype=np.float32)
    dense = np.minimum(a, b) >= TISSUE_FROM_HU
    parts = (change[dense], change[~dense])
    return [float(np.median(part)) for part in parts if part.size >= LEAST_COMPARED * a.size]


def _agreed(changes: list[float]) -> float:
    """The change where air and tissue jump by about as much, as with no anatomy; else 0."""
    if len(changes) < 2 or min(map(abs, changes)) < JUMP_HU:
        return 0.0
    return changes[0] if abs(changes[0] - changes[1]) <= ALIKE_SHARE * abs(changes[0]) else 0.0
