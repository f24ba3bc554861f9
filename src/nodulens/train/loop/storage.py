"""An ONNX file with its weights in fewer bits, which the runtime computes with in float32 all the same.

In 16 bits a weight is a half-precision number, exact to a twentieth of a percent. In 8 bits it is a whole number times
a scale of its output channel, as in Krishnamoorthi, "Quantizing deep convolutional networks for efficient inference"
(2018), section 3.1.1, without a zero point; activations are not quantized. The casts are nodes of the file, which the
runtime carries out once, when it compiles it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

Bits = Literal[8, 16]
LEAST = 1024
"""Values of a tensor from which on it is stored in fewer bits. Smaller ones, such as biases and the statistics of batch
norms, take no room."""
LARGEST_HALF = 65504.0
LEVELS = 127
"""Steps of 8 bits on each side of zero."""


def in_fewer_bits(content: bytes, bits: Bits) -> bytes:
    """The content of an ONNX file with its larger weights in 16 or 8 bits.

    Weights that do not belong to a convolution or a dense layer have no output channels and are stored in 16 bits at
    least; what exceeds half precision stays as it is.

    Args:
        content: of a file with float32 weights.
        bits: of a weight.
    """
    model = onnx.load_from_string(content)
    casts = []
    for tensor in list(model.graph.initializer):
        values = numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.ndim < 2 or values.size < LEAST:
            continue
        axis = _channels(tensor.name, values.ndim, model.graph.node) if bits == 8 else None
        if axis is not None:
            stored, node = _in_8(tensor.name, values, axis)
        elif np.abs(values).max() <= LARGEST_HALF:
            stored, node = _in_16(tensor.name, values)
        else:
            continue
        model.graph.initializer.remove(tensor)
        model.graph.initializer.extend(stored)
        casts.append(node)
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return _checked(model)


def bits_of(content: bytes) -> int:
    """The bits in which most weights of an ONNX file are stored."""
    kinds = {TensorProto.INT8: 8, TensorProto.FLOAT16: 16, TensorProto.FLOAT: 32}
    counts = dict.fromkeys(kinds.values(), 0)
    for tensor in onnx.load_from_string(content).graph.initializer:
        if tensor.data_type in kinds:
            counts[kinds[tensor.data_type]] += int(np.prod(tensor.dims, dtype=np.int64))
    return max(counts, key=lambda bits: counts[bits])


def _channels(name: str, dimensions: int, nodes: Iterable[NodeProto]) -> int | None:
    """The axis of a weight's output channels; None where it has none, or several users see different ones."""
    axes = {_axis(node, dimensions) if node.input[1:2] == [name] else None for node in nodes if name in node.input}
    return axes.pop() if len(axes) == 1 else None


def _axis(node: NodeProto, dimensions: int) -> int | None:
    match node.op_type:
        case "Conv":
            return 0
        case "ConvTranspose":
            return 1
        case "MatMul":
            return dimensions - 1
        case "Gemm":
            return 0 if any(a.name == "transB" and a.i for a in node.attribute) else 1
    return None


def _in_16(name: str, values: NDArray[np.float32]) -> tuple[list[TensorProto], NodeProto]:
    stored = f"{name}.in_16"
    node = helper.make_node("Cast", [stored], [name], to=TensorProto.FLOAT)
    return [numpy_helper.from_array(values.astype(np.float16), stored)], node


def _in_8(name: str, values: NDArray[np.float32], axis: int) -> tuple[list[TensorProto], NodeProto]:
    others = tuple(k for k in range(values.ndim) if k != axis)
    scale = np.abs(values).max(axis=others, keepdims=True) / LEVELS
    scale[scale == 0] = 1  # a channel of zeros
    whole = np.rint(values / scale).astype(np.int8)
    stored, of_channel = f"{name}.in_8", f"{name}.scale"
    node = helper.make_node("DequantizeLinear", [stored, of_channel], [name], axis=axis)
    return [
        numpy_helper.from_array(whole, stored),
        numpy_helper.from_array(scale.reshape(-1).astype(np.float32), of_channel),
    ], node


def _checked(model: ModelProto) -> bytes:
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content
