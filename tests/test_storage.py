"""Weights in fewer bits: how near the network stays, how small the file gets, and what is left as it is."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from nodulens.runtime.engine import compile_bytes
from nodulens.train.loop.export import export
from nodulens.train.loop.storage import LARGEST_HALF, Bits, bits_of, in_fewer_bits

NEAR = {16: 1e-3, 8: 2e-2}
"""How far an output may be off, as a share of the largest."""


class Mixed(nn.Module):
    """Every layer whose weights have output channels, whose sizes all differ, so that no axis passes for another."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 40, 3, padding=1)
        self.apart = nn.Conv2d(40, 40, 7, padding=3, groups=40)
        self.norm = nn.BatchNorm2d(40)
        self.up = nn.ConvTranspose2d(40, 24, 2, stride=2)
        self.dense = nn.Linear(24 * 16 * 16, 5)
        self.mixing = nn.Parameter(torch.randn(5, 300))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.up(torch.relu(self.norm(self.apart(self.down(x))))))
        return self.dense(x.flatten(1)) @ self.mixing


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """An exported network in 32 bits, its channels of very different size as in trained ones."""
    torch.manual_seed(0)
    net = Mixed().eval()
    with torch.no_grad():
        for layer, axis in ((net.down, 0), (net.apart, 0), (net.up, 1), (net.dense, 0)):
            sizes = 10 ** torch.linspace(-2, 0, layer.weight.shape[axis])
            layer.weight *= sizes.view([-1 if k == axis else 1 for k in range(layer.weight.ndim)])
    folder = tmp_path_factory.mktemp("single")
    return export(net, torch.rand(2, 3, 8, 8), folder, {"name": "mixed", "input": {}}).read_bytes()


@pytest.mark.parametrize("bits", [16, 8])
def test_outputs_stay_near_and_the_file_shrinks(single: bytes, bits: Bits) -> None:
    stored = in_fewer_bits(single, bits)
    assert bits_of(single) == 32 and bits_of(stored) == bits
    batch = np.random.default_rng(0).random((3, 3, 8, 8), dtype=np.float32)
    (ours,), (theirs,) = compile_bytes(stored, 1)(batch), compile_bytes(single, 1)(batch)
    off = np.abs(ours - theirs).max() / np.abs(theirs).max()
    assert 0 < off < NEAR[bits]
    assert len(stored) < 1.15 * bits / 32 * len(single)
    assert in_fewer_bits(single, bits) == stored, "the same file again has the same hash"


def test_every_channel_has_a_scale_of_its_own(single: bytes) -> None:
    """One scale for all would round channels of a hundredth of the largest to a step or two."""
    stored = {
        t.name: numpy_helper.to_array(t) for t in onnx.load_from_string(in_fewer_bits(single, 8)).graph.initializer
    }
    weights = {t.name: numpy_helper.to_array(t) for t in onnx.load_from_string(single).graph.initializer}
    names = [name.removesuffix(".in_8") for name in stored if name.endswith(".in_8")]
    channels = {40: 0, 24: 1, 5: 0, 300: 1}
    assert len(names) == 5
    for name in names:
        whole, scale, weight = stored[f"{name}.in_8"], stored[f"{name}.scale"], weights[name]
        axis = channels[len(scale)] if weight.shape[0] != len(scale) else 0
        assert weight.shape[axis] == len(scale)
        others = tuple(k for k in range(weight.ndim) if k != axis)
        assert (np.abs(whole.astype(int)).max(axis=others) == 127).all()
        step = np.expand_dims(scale, others)
        assert (np.abs(whole * step - weight) <= step * 0.5001).all()


def test_small_and_large_values_stay_as_they_are() -> None:
    def model_with(values: np.ndarray) -> bytes:
        node = onnx.helper.make_node("Add", ["x", "w"], ["y"])
        x, y = (onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, values.shape) for n in "xy")
        graph = onnx.helper.make_graph([node], "g", [x], [y], [numpy_helper.from_array(values, "w")])
        made = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8)
        return made.SerializeToString()

    plain = np.linspace(-1, 1, 4096, dtype=np.float32).reshape(64, 64)
    assert bits_of(in_fewer_bits(model_with(plain), 8)) == 16  # an addition has no output channels
    assert bits_of(in_fewer_bits(model_with(plain * 2 * np.float32(LARGEST_HALF)), 16)) == 32
    assert bits_of(in_fewer_bits(model_with(plain[:4, :4]), 16)) == 32


def test_a_channel_of_zeros_stays_zero(single: bytes) -> None:
    model = onnx.load_from_string(single)
    (kernel,) = [t for t in model.graph.initializer if list(t.dims) == [40, 3, 3, 3]]
    values = numpy_helper.to_array(kernel).copy()
    values[7] = 0
    kernel.CopyFrom(numpy_helper.from_array(values, kernel.name))
    stored = in_fewer_bits(model.SerializeToString(), 8)
    (found,) = compile_bytes(stored, 1)(np.ones((1, 3, 8, 8), dtype=np.float32))
    assert np.isfinite(found).all()
