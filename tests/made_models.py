"""Networks written in a test, as the runtime gives those of files; their cards say as little as cards may."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nodulens.runtime.engine import Model
from nodulens.runtime.weights import Card


def model(run: Callable[[Any], Any], settings: dict[str, Any] | None = None, name: str = "made") -> Model:
    """A network that is a function of a batch."""
    return Model(Card(name, Path("made.onnx"), "0" * 64, "", "", {}, {}, {}, settings or {}), run)


def model_of(net: torch.nn.Module) -> Model:
    """A trained network as its exported file would run."""

    def run(batch: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
        with torch.inference_mode():
            found = net(torch.from_numpy(batch))
        return tuple(t.numpy() for t in (found if isinstance(found, tuple) else (found,)))

    return model(run)
