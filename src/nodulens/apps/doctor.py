"""Is everything there that an analysis needs?"""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from nodulens import __version__
from nodulens.errors import NodulensError
from nodulens.methods.catalogue import RECIPES
from nodulens.methods.run_record import shipped_method
from nodulens.methods.shipped import INSTALL, released
from nodulens.runtime.weights import FOLDER, NAMES, card, check

PACKAGES = (
    "numpy", "scipy", "SimpleITK", "pydicom", "pyjpegls", "pylibjpeg-openjpeg", "pylibjpeg-rle", "python-gdcm",
    "connected-components-3d", "fill-voids", "edt", "openvino", "pillow", "lark", "typer", "rich",
)  # fmt: skip
OPTIONAL = ("nodulens-methods", "torch", "pylidc")


def examine() -> dict[str, Any]:
    """Versions, engine, threads, the state of every model file, and that of the published methods' (recipe → state).

    ``well`` where nothing is missing or damaged; the published methods' weights may be missing, and their state then
    says whether they are installed or trained.
    """
    versions = {"nodulens": __version__, "python": platform.python_version()}
    versions |= {name: _version(name) or "missing" for name in PACKAGES}
    versions |= {name: found for name in OPTIONAL if (found := _version(name))}
    weights = {name: _state(name) for name in NAMES}
    methods = {name: _method_state(name) for name, recipe in RECIPES.items() if recipe.networks}
    states = (*weights.values(), *(state for name, state in methods.items() if state != _absent(name)))
    well = "missing" not in versions.values() and all(state.startswith("intact") for state in states)
    return {
        "versions": versions,
        "engine": f"OpenVINO {versions['openvino']} on CPU, float32",
        "threads": os.cpu_count() or 1,
        "weights": weights,
        "methods": methods,
        "well": well,
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _state(name: str, folder: Path = FOLDER) -> str:
    try:
        known = card(name, folder)
        check(known)
    except NodulensError as error:
        return str(error)
    return f"intact, sha256 {known.sha256[:12]}…, {known.path.stat().st_size / 1e6:.1f} MB"


def _absent(name: str) -> str:
    """The state of a recipe whose weights are not on this machine."""
    if released(name):
        return f"in nodulens-methods, not installed: {INSTALL}"
    return f"in no release, to be trained: nodulens train {name}"


def _method_state(name: str) -> str:
    """The state of the networks of a recipe that ship; the first that is damaged stands for all."""
    try:
        recipe, folder = shipped_method(name)
    except NodulensError as error:
        return str(error)
    if folder is None:
        return _absent(name)
    states = {part: _state(part, folder) for part in recipe.networks}
    damaged = [state for state in states.values() if not state.startswith("intact")]
    size = sum((folder / f"{part}.onnx").stat().st_size for part in states) if not damaged else 0
    return damaged[0] if damaged else f"intact, {' and '.join(states)}, {size / 1e6:.1f} MB"
