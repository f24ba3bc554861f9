"""What reconstruction kernels do to an image, by the names that makers give them."""

from __future__ import annotations

import re

# Kernels that sharpen edges and noise: GE and Philips by name, Siemens by number, Canon (FC) by range.
SHARP_NAMES = ("BONE", "EDGE", "LUNG", "SHARP", "ULTRA", "YC", "YD")
SHARP_PHILIPS = ("D", "E", "L")
SIEMENS = re.compile(r"[A-Z]{1,2}(\d{2})[A-Z]?")
CANON = re.compile(r"FC(\d{2})")
SIEMENS_SHARP_FROM = 57
CANON_SHARP = (range(30, 36), range(50, 60), range(80, 90))


def sharp_kernel(kernel: str | None) -> bool:
    """Whether a reconstruction kernel is known to sharpen edges and noise; unknown ones are not."""
    name = (kernel or "").upper().split("/")[0].strip()
    if siemens := SIEMENS.fullmatch(name):
        canon = CANON.fullmatch(name)
        number = int(siemens[1])
        return any(number in sharp for sharp in CANON_SHARP) if canon else number >= SIEMENS_SHARP_FROM
    return name in SHARP_PHILIPS or any(part in name for part in SHARP_NAMES)
