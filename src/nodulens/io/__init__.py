"""Reading scans into a :class:`~nodulens.core.volume.Volume`, and writing volumes and masks."""

from nodulens.io.images import read_mask, write_mask, write_volume
from nodulens.io.kernels import sharp_kernel
from nodulens.io.series import SeriesInfo, list_series, read, read_one_by_one

__all__ = [
    "SeriesInfo",
    "list_series",
    "read",
    "read_mask",
    "read_one_by_one",
    "sharp_kernel",
    "write_mask",
    "write_volume",
]
