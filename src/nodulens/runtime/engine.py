"""A model file becomes a function of a float32 batch.

OpenVINO runs it on any CPU. Results are computed in float32 on every machine, so that they repeat.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import import_module
from io import BytesIO
from pathlib import Path
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from nodulens.runtime.weights import FOLDER, NAMES, Card, card, check

Array = NDArray[np.float32]
BATCH = 64
"""Examples a call: enough to keep the cores busy, little enough for a gigabyte of activations."""


@dataclass(frozen=True, eq=False)
class Model:
    """A network ready to run.

    Attributes:
        card: what it is.
        run: float32 batch (N, …) → its outputs, each (N, …).
    """

    card: Card
    run: Callable[[Array], tuple[Array, ...]]


@dataclass(frozen=True)
class Models:
    """The networks of an analysis.

    Attributes:
        patch, volume, segmenter, malignancy: the default's.
        own: those that a recipe has trained for itself, by its field: "segmenter", "filter", "classifier".
    """

    patch: Model
    volume: Model
    segmenter: Model
    malignancy: Model
    own: Mapping[str, Model] = field(default_factory=dict)


def load_models(threads: int | None = None, folder: Path = FOLDER) -> Models:
    """The default's networks; see :func:`load_model`.

    Args:
        threads: CPU threads; None for as many as there are cores.
        folder: of the ONNX files and their cards.

    Raises:
        MissingWeights, CorruptWeights: a file is not there, or not what its card says.
    """
    return _together(*(load_model(name, threads, folder) for name in NAMES))


def load_model(name: str, threads: int | None = None, folder: Path = FOLDER) -> Model:
    """One network, checked and compiled; a second call gives the same one as long as its files are the same.

    Args:
        name: of the ONNX file and its card, without a suffix.
        threads: CPU threads; None for as many as there are cores.
        folder: that they lie in.

    Raises:
        MissingWeights, CorruptWeights: a file is not there, or not what its card says.
    """
    known = card(name, folder)
    return _compiled(name, threads, folder.resolve(), _state(known.path), _state(known.path.with_suffix(".json")))


@lru_cache(maxsize=16)
def _compiled(name: str, threads: int | None, folder: Path, *states: tuple[int, ...]) -> Model:
    """A network, hashed, read and compiled once for files in these states."""
    known = card(name, folder)
    compiled = compile_bytes(check(known), threads)

    def run(batch: Array) -> tuple[Array, ...]:
        parts = [compiled(batch[start : start + BATCH]) for start in range(0, max(len(batch), 1), BATCH)]
        return tuple(np.concatenate(pieces) for pieces in zip(*parts, strict=True))

    return Model(known, run)


@lru_cache(maxsize=4)
def _together(patch: Model, volume: Model, segmenter: Model, malignancy: Model) -> Models:
    return Models(patch, volume, segmenter, malignancy)


def _state(path: Path) -> tuple[int, ...]:
    """What changes when a file is written anew."""
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def compile_model(path: Path, threads: int | None = None) -> Callable[[Array], tuple[Array, ...]]:
    """An ONNX file as a function of one batch; outputs in the file's order."""
    return compile_bytes(path.read_bytes(), threads)


def compile_bytes(content: bytes, threads: int | None = None) -> Callable[[Array], tuple[Array, ...]]:
    """The content of an ONNX file as a function of one batch; outputs in the file's order."""
    core = _openvino().Core()
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": str(threads or os.cpu_count() or 1)}
    compiled = core.compile_model(core.read_model(BytesIO(content)), "CPU", settings)

    def run(batch: Array) -> tuple[Array, ...]:
        result = compiled(np.ascontiguousarray(batch, dtype=np.float32))
        return tuple(np.array(result[output]) for output in compiled.outputs)

    return run


def _openvino() -> ModuleType:
    """OpenVINO without its telemetry: importing it would send an event and leave an identifier in the home folder."""
    name = "openvino_telemetry"
    earlier = sys.modules.get(name)
    sys.modules[name] = None  # type: ignore[assignment]  # importing it now fails, and OpenVINO takes its own stub
    try:
        return import_module("openvino")
    finally:
        del sys.modules[name]
        if earlier is not None:
            sys.modules[name] = earlier
