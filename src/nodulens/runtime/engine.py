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

from nodulens.runtime.weights import FOLDER, NAMES, Card, card, checked

Array = NDArray[np.float32]
Run = Callable[[Array], tuple[Array, ...]]
BATCH = 64
"""Examples a call: enough to keep the cores busy, little enough for a gigabyte of activations."""
KEPT = 9
"""Compiled networks that are kept: the default's five, the three of a recipe, and one more."""


@dataclass(frozen=True, eq=False)
class Model:
    """A network ready to run.

    Attributes:
        card: what it is.
        run: float32 batch (N, …) → its outputs, each (N, …).
    """

    card: Card
    run: Run


@dataclass(frozen=True)
class Models:
    """The networks of an analysis.

    Attributes:
        screen, volume, segmenter, malignancy: the default's.
        measured: the forest that grades by measured features beside the malignancy network.
        own: those that a recipe has trained for itself, by its field: "segmenter", "filter", "classifier".
    """

    screen: Model
    volume: Model
    segmenter: Model
    malignancy: Model
    measured: Model
    own: Mapping[str, Model] = field(default_factory=dict)


def load_models(threads: int | None = None, folder: Path = FOLDER) -> Models:
    """The default's networks, checked and compiled.

    Args:
        threads: CPU threads; None for as many as there are cores.
        folder: of the ONNX files and their cards.

    Raises:
        MissingWeights, CorruptWeights: a file is not there, or not what its card says.
    """
    screen, volume, segmenter, malignancy, measured = (load_model(name, threads, folder) for name in NAMES)
    return Models(screen, volume, segmenter, malignancy, measured)


def load_model(name: str, threads: int | None = None, folder: Path = FOLDER) -> Model:
    """One network, checked and compiled.

    A file is read, hashed and compiled once a process. One that has changed since is so again: the hash on its card,
    its size and its time of change tell.

    Args:
        name: of the ONNX file and its card, without a suffix.
        threads: CPU threads; None for as many as there are cores.
        folder: of the models.

    Raises:
        MissingWeights, CorruptWeights: a file is not there, or not what its card says.
    """
    known = card(name, folder)
    there = known.path.stat()
    stamp = (there.st_ino, there.st_size, there.st_mtime_ns)
    return Model(known, _compiled(known.path.absolute(), known.sha256, stamp, threads or _cores()))


@lru_cache(maxsize=KEPT)
def _compiled(path: Path, sha256: str, stamp: tuple[int, int, int], threads: int) -> Run:
    """A checked model file as a function of a batch of any length.

    ``stamp`` identifies a state of the file.
    """
    compiled = compile_bytes(checked(path, sha256), threads)

    def run(batch: Array) -> tuple[Array, ...]:
        parts = [compiled(batch[start : start + BATCH]) for start in range(0, max(len(batch), 1), BATCH)]
        return tuple(np.concatenate(pieces) for pieces in zip(*parts, strict=True))

    return run


def compile_model(path: Path, threads: int | None = None) -> Run:
    """An ONNX file without a card as a function of one batch; outputs in the file's order."""
    return compile_bytes(path.read_bytes(), threads or _cores())


def compile_bytes(content: bytes, threads: int) -> Run:
    """The content of an ONNX file as a function of one batch; outputs in the file's order."""
    core = _openvino().Core()
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": str(threads)}
    compiled = core.compile_model(core.read_model(BytesIO(content)), "CPU", options)

    def run(batch: Array) -> tuple[Array, ...]:
        result = compiled(np.ascontiguousarray(batch, dtype=np.float32))
        return tuple(np.array(result[output]) for output in compiled.outputs)

    return run


def _cores() -> int:
    return os.cpu_count() or 1


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
