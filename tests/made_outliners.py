"""Runs of made-up networks: one outlines what is bright, one keeps regions with a bright middle, one grades alike."""

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


def write(folder: Path, base: Recipe = RESNET_UNET_PATCH_CNN, **changes: object) -> Path:
    """A run folder of a recipe; ``changes`` to it, such as ``filter=None``."""
    folder.mkdir(parents=True, exist_ok=True)
    small = {} if base.segmenter is None else {"segmenter": replace(base.segmenter, size=SIZE)}
    recipe: Recipe = replace(base, **{**small, **changes})  # type: ignore[arg-type]
    slope = 200.0
    # what is darker than 0.4 is lung, what is bright a nodule
    seen = {"lung": (-slope, 0.4 * slope), "nodule": (slope, -BRIGHT * slope), "background": (0.0, 0.0)}
    seen["non-nodule"] = seen["background"]
    middle = np.zeros((1, 1, 64, 64))
    middle[0, 0, 32, 32] = slope
    for name, config in recipe.networks.items():
        if name == "segmenter":
            kernel, bias = np.transpose([seen[label] for label in config.classes])
            weights = kernel.reshape(-1, 1, 1, 1), bias
        elif name == "filter":
            weights = middle, np.array([-KEPT * slope])
        else:
            weights = np.zeros((len(config.classes), 1, config.size, config.size)), np.arange(len(config.classes))
        model = _convolution(*weights, config.size, flat=name != "segmenter")
        (folder / f"{name}.onnx").write_bytes(model)
        card = {"name": name, "sha256": hashlib.sha256(model).hexdigest(), "licence": "", "command": "",
                "trained_on": {"patients": []}, "input": {}, "figures": {},
                "settings": {**asdict(config), "masked": recipe.masked}}  # fmt: skip
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
