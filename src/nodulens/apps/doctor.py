"""Is everything there that an analysis needs?"""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from nodulens import __version__
from nodulens.errors import NodulensError
from nodulens.runtime.weights import NAMES, card, check

PACKAGES = (
    "numpy", "scipy", "SimpleITK", "pydicom", "pyjpegls", "pylibjpeg-openjpeg", "pylibjpeg-rle", "python-gdcm",
    "connected-components-3d", "fill-voids", "edt", "openvino", "pillow", "lark", "typer", "rich",
)  # fmt: skip
OPTIONAL = ("torch", "pylidc")


def examine() -> dict[str, Any]:
    """Versions, engine, threads, and the state of every model file; ``well`` where nothing is missing."""
    versions = {"nodulens": __version__, "python": platform.python_version()}
    versions |= {name: _version(name) or "missing" for name in PACKAGES}
    versions |= {name: found for name in OPTIONAL if (found := _version(name))}
    weights = {name: _state(name) for name in NAMES}
    well = "missing" not in versions.values() and all(state.startswith("intact") for state in weights.values())
    return {
        "versions": versions,
        "engine": f"OpenVINO {versions['openvino']} on CPU, float32",
        "threads": os.cpu_count() or 1,
        "weights": weights,
        "well": well,
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _state(name: str) -> str:
    try:
        known = card(name)
        check(known)
    except NodulensError as error:
        return str(error)
    return f"intact, sha256 {known.sha256[:12]}…, {known.path.stat().st_size / 1e6:.1f} MB"
