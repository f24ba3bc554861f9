"""Encoders with random weights, under the names and shapes of published files: timm's, of EfficientNet-Lite0 PyPI's."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

Shapes = Iterator[tuple[str, tuple[int, ...]]]


def published(network: str) -> dict[str, Tensor]:
    """Three colours, a thousand classes; every value 0.5…1.5, so that none can stay unnoticed."""
    torch.manual_seed(1)
    return {name: torch.rand(shape) + 0.5 for name, shape in SHAPES[network]()}


def _norm(name: str, width: int) -> Shapes:
    yield from ((f"{name}.{part}", (width,)) for part in ("weight", "bias", "running_mean", "running_var"))
    yield f"{name}.num_batches_tracked", ()


def _dense(name: str, width: int) -> Shapes:
    yield from ((f"{name}.weight", (1000, width)), (f"{name}.bias", (1000,)))


def _densenet121() -> Shapes:
    yield "features.conv0.weight", (64, 3, 7, 7)
    yield from _norm("features.norm0", 64)
    width = 64
    for block, layers in enumerate((6, 12, 24, 16), 1):
        for layer in range(1, layers + 1):
            name = f"features.denseblock{block}.denselayer{layer}"
            yield from _norm(f"{name}.norm1", width)
            yield f"{name}.conv1.weight", (128, width, 1, 1)
            yield from _norm(f"{name}.norm2", 128)
            yield f"{name}.conv2.weight", (32, 128, 3, 3)
            width += 32
        if block < 4:
            yield from _norm(f"features.transition{block}.norm", width)
            yield f"features.transition{block}.conv.weight", (width // 2, width, 1, 1)
            width //= 2
    yield from _norm("features.norm5", width)
    yield from _dense("classifier", width)


def _resnet50() -> Shapes:
    yield "conv1.weight", (64, 3, 7, 7)
    yield from _norm("bn1", 64)
    entry = 64
    for stage, blocks in enumerate((3, 4, 6, 3), 1):
        inner, width = 32 * 2**stage, 128 * 2**stage
        for block in range(blocks):
            name = f"layer{stage}.{block}"
            for i, shape in enumerate(((inner, entry, 1, 1), (inner, inner, 3, 3), (width, inner, 1, 1)), 1):
                yield f"{name}.conv{i}.weight", shape
                yield from _norm(f"{name}.bn{i}", shape[0])
            if block == 0:
                yield f"{name}.downsample.0.weight", (width, entry, 1, 1)
                yield from _norm(f"{name}.downsample.1", width)
            entry = width
    yield from _dense("fc", entry)


STAGES = (
    (1, 16, 1, 3),
    (2, 24, 6, 3),
    (2, 40, 6, 5),
    (3, 80, 6, 3),
    (3, 112, 6, 5),
    (4, 192, 6, 5),
    (1, 320, 6, 3),
)
"""Blocks of EfficientNet-B0 and -Lite0, their width, expansion and kernel."""


def _efficientnet_b0() -> Shapes:
    yield "conv_stem.weight", (32, 3, 3, 3)
    yield from _norm("bn1", 32)
    entry = 32
    for stage, (blocks, width, expand, kernel) in enumerate(STAGES):
        for block in range(blocks):
            name, inner = f"blocks.{stage}.{block}", entry * expand
            norms = iter(("bn1", "bn2", "bn3"))
            if expand > 1:
                yield f"{name}.conv_pw.weight", (inner, entry, 1, 1)
                yield from _norm(f"{name}.{next(norms)}", inner)
            yield f"{name}.conv_dw.weight", (inner, 1, kernel, kernel)
            yield from _norm(f"{name}.{next(norms)}", inner)
            for part, shape in (("reduce", (entry // 4, inner)), ("expand", (inner, entry // 4))):
                yield f"{name}.se.conv_{part}.weight", (*shape, 1, 1)
                yield f"{name}.se.conv_{part}.bias", shape[:1]
            yield f"{name}.{'conv_pwl' if expand > 1 else 'conv_pw'}.weight", (width, inner, 1, 1)
            yield from _norm(f"{name}.{next(norms)}", width)
            entry = width
    yield "conv_head.weight", (1280, 320, 1, 1)
    yield from _norm("bn2", 1280)
    yield from _dense("classifier", 1280)


def _efficientnet_lite0() -> Shapes:
    yield "_conv_stem.weight", (32, 3, 3, 3)
    yield from _norm("_bn0", 32)
    entry, number = 32, 0
    for blocks, width, expand, kernel in STAGES:
        for _ in range(blocks):
            name, inner = f"_blocks.{number}", entry * expand
            if expand > 1:
                yield f"{name}._expand_conv.weight", (inner, entry, 1, 1)
                yield from _norm(f"{name}._bn0", inner)
            yield f"{name}._depthwise_conv.weight", (inner, 1, kernel, kernel)
            yield from _norm(f"{name}._bn1", inner)
            yield f"{name}._project_conv.weight", (width, inner, 1, 1)
            yield from _norm(f"{name}._bn2", width)
            entry, number = width, number + 1
    yield "_conv_head.weight", (1280, 320, 1, 1)
    yield from _norm("_bn1", 1280)
    yield from _dense("_fc", 1280)


SHAPES: dict[str, Callable[[], Shapes]] = {
    "densenet121": _densenet121,
    "resnet50-unet": _resnet50,
    "efficientnet-b0": _efficientnet_b0,
    "efficientnet-lite0-unet": _efficientnet_lite0,
}
