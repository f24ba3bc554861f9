"""A run of two made-up networks: one outlines what is bright, one keeps regions with a bright middle."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from nodulens.methods.catalogue import RESNET_UNET_PATCH_CNN
from nodulens.methods.recipe import Recipe
from nodulens.methods.run_record import Run, write_run

SIZE = 64
BRIGHT, KEPT = 0.6, 0.8
"""Brighter than the first is drawn as a nodule; a region whose middle is brighter than the second is kept."""


def write(folder: Path, **changes: object) -> Path:
    """A run folder; ``changes`` to its recipe, such as ``filter=None``."""
    folder.mkdir(parents=True, exist_ok=True)
    assert RESNET_UNET_PATCH_CNN.segmenter is not None
    small = replace(RESNET_UNET_PATCH_CNN.segmenter, size=SIZE)
    recipe: Recipe = replace(RESNET_UNET_PATCH_CNN, segmenter=small, **changes)  # type: ignore[arg-type]
    slope = 200.0
    weights = {
        # what is darker than 0.4 is lung, what is bright a nodule
        "segmenter": (np.array([-slope, slope]).reshape(2, 1, 1, 1), np.array([0.4 * slope, -BRIGHT * slope])),
        "filter": (np.zeros((1, 1, 64, 64)), np.array([-KEPT * slope])),
    }
    weights["filter"][0][0, 0, 32, 32] = slope
    for name, config in recipe.networks.items():
        model = _convolution(*weights[name], config.size, flat=name == "filter")
        (folder / f"{name}.onnx").write_bytes(model)
        card = {"name": name, "sha256": hashlib.sha256(model).hexdigest(), "licence": "", "command": "",
                "trained_on": {"patients": []}, "input": {}, "figures": {}, "settings": asdict(config)}  # fmt: skip
        (folder / f"{name}.json").write_text(json.dumps(card))
    write_run(Run(recipe, "made up", None, seconds=dict.fromkeys(recipe.networks, 0.0)), folder)
    return folder


def _convolution(kernel: np.ndarray, bias: np.ndarray, size: int, *, flat: bool) -> bytes:
    """(N, 1, size, size) → (N, classes, size, size), or (N, classes) where it is ``flat``."""
    arrays = {"kernel": kernel.astype(np.float32), "bias": bias.astype(np.float32)}
    nodes = [helper.make_node("Conv", ["seen", "kernel", "bias"], ["maps"])]
    if flat:
        nodes.append(helper.make_node("Flatten", ["maps"], ["out"], axis=1))
    classes = len(bias)
    shape = ["n", classes] if flat else ["n", classes, size, size]
    graph = helper.make_graph(
        nodes,
        "made",
        [helper.make_tensor_value_info("seen", TensorProto.FLOAT, ["n", 1, size, size])],
        [helper.make_tensor_value_info("out" if flat else "maps", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()
