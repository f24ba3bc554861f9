"""The networks of the recipes, by name: each a function of a :class:`~nodulens.methods.recipe.NetworkConfig`.

Inputs are float32 (N, 1, size, size), 0…1 over the window of the method. A classifier gives (N, classes) logits, a
segmenter (N, classes, size, size) logits, and one with a second head also (N, classes) logits of each class's presence.
To add a network, write a function here and name it in :data:`NETWORKS`. Those of :data:`APART` are built and trained by
external programs, see :mod:`nodulens.train.external.environment`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx
import torch
from torch import nn

from nodulens.errors import BadOption, MissingExtra
from nodulens.methods.recipe import NetworkConfig
from nodulens.stages.slices import BACKGROUNDS
from nodulens.train.loop.export import gflop
from nodulens.train.networks.attention import Conv3Attention, SmallViT
from nodulens.train.networks.classifiers import Conv3, PatchCnn
from nodulens.train.networks.unets import PlannedUNet, SeAuxUNet

RARE = 0.01
"""Initial probability of each class."""


@dataclass(frozen=True)
class Cost:
    """Size and arithmetic of a network.

    Attributes:
        parameters: all parameters, the statistics of batch norms included, as Keras counts.
        trainable: those that the optimizer updates.
        gflop: of one input, multiplications and additions.
    """

    parameters: int
    trainable: int
    gflop: float


def build(config: NetworkConfig) -> nn.Module:
    """Build the network of a recipe's part, with random weights.

    Raises:
        BadOption: there is no such network, it cannot have this size, or an external program builds it.
        MissingExtra: it needs MONAI, which is not installed.
    """
    if config.network in APART:
        raise BadOption(
            f"{config.network!r} is built and trained in an environment of its own: {APART[config.network]}."
        )
    if config.network not in NETWORKS:
        raise BadOption(f"There is no network {config.network!r}; there are {', '.join(NETWORKS)}.")
    return NETWORKS[config.network](config)


def check_window(config: NetworkConfig) -> None:
    """Check that a network can be trained on windows; nothing is computed.

    Raises:
        BadOption: the windows are larger than its input, or cannot be halved as often as the network does.
    """
    side = config.window
    assert side is not None
    fits = side <= config.size
    if fits:
        with torch.device("meta"):
            try:
                build(config).train()(torch.zeros(2, 1, side, side))
            except (RuntimeError, ValueError):  # skip connections of unequal sizes, or one pixel left to normalise
                fits = False
    if not fits:
        raise BadOption(
            f"{config.network!r} of {config.size} pixels cannot be trained on windows of {side}: they are larger than "
            "its input, or cannot be halved as often as it does. Take a half or a quarter of its size."
        )


def check_kind(part: str, config: NetworkConfig) -> None:
    """Check that a network's output fits its part, such as a segmenter's at every pixel; nothing is computed.

    Raises:
        BadOption: it does not, or the network cannot have its size.
    """
    side, classes = config.size, len(config.classes)
    with torch.device("meta"):
        try:
            found = build(config).eval()(torch.zeros(1, 1, side, side))
        except (RuntimeError, ValueError) as error:
            raise BadOption(f"{config.network!r} cannot take {part}.size={side} pixels: {error}") from error
    second, found = isinstance(found, tuple), found[0] if isinstance(found, tuple) else found
    if found.shape != ((1, classes, side, side) if part == "segmenter" else (1, classes)):
        does, needs = ("outlines", "grades") if found.dim() == 4 else ("grades", "outlines")
        raise BadOption(f"{part}.network={config.network} {does}, and a {part} is a network that {needs}.")
    if config.auxiliary and not second:
        raise BadOption(f"{part}.network={config.network} has no second head: set {part}.auxiliary=0.")


def cost(config: NetworkConfig) -> Cost:
    """Count parameters and GFLOP without computing anything."""
    with torch.device("meta"):
        net = build(config).eval()
        arithmetic = gflop(net, torch.zeros(1, 1, config.size, config.size))
    trainable = sum(p.numel() for p in net.parameters())
    statistics = sum(b.numel() for name, b in net.named_buffers() if name.endswith(("running_mean", "running_var")))
    return Cost(trainable + statistics, trainable, arithmetic)


def stored_values(path: Path) -> int:
    """Number of values in an ONNX file: the parameters of a network that ships (batch norms folded in)."""
    return sum(math.prod(tensor.dims) for tensor in onnx.load(path).graph.initializer)


def densenet121(config: NetworkConfig) -> nn.Module:
    """DenseNet-121 (Huang et al., 2017) with one output a class."""
    nets = _monai()
    return nets.DenseNet121(spatial_dims=2, in_channels=1, out_channels=len(config.classes))


def efficientnet_b0(config: NetworkConfig) -> nn.Module:
    """EfficientNet-B0 (Tan and Le, 2019)."""
    nets = _monai()
    net = nets.EfficientNetBN(
        "efficientnet-b0", pretrained=False, spatial_dims=2, in_channels=1, num_classes=len(config.classes)
    )
    net.set_swish(memory_efficient=False)  # the memory-efficient one cannot be exported
    _quicken(net)
    return net


def resnet50_unet(config: NetworkConfig) -> nn.Module:
    """A U-Net whose encoder is a ResNet-50 (He et al., 2016), see also :func:`_start_rare`."""
    net: nn.Module = _flexible_unet(config, "resnet50")
    return net


def efficientnet_lite0_unet(config: NetworkConfig) -> nn.Module:
    """A U-Net whose encoder is an EfficientNet-Lite0: EfficientNet-B0 without squeeze-and-excitation, with ReLU6.

    MONAI has no Lite0, so its B0 is changed: what a Lite0 lacks goes, and the classifying layers, which a U-Net does
    not use. No branch is dropped in training.
    """
    net: nn.Module = _flexible_unet(config, "efficientnet-b0")
    encoder: Any = net.encoder
    for unused in ("_conv_head", "_conv_head_padding", "_bn1", "_avg_pooling", "_dropout", "_fc"):
        delattr(encoder, unused)
    for block in chain.from_iterable(encoder._blocks):
        for part in ("adaptpool", "reduce", "reduce_padding", "expand", "expand_padding"):
            delattr(block, f"_se_{part}")
        block.has_se, block.drop_connect_rate = False, 0.0
        block._swish = nn.ReLU6(inplace=True)
    encoder._swish = nn.ReLU6(inplace=True)
    _quicken(encoder)
    return net


def _flexible_unet(config: NetworkConfig, encoder: str) -> Any:
    """MONAI's U-Net with a published encoder; its classes start rare."""
    if config.size % 32:
        raise BadOption(f"{config.network} halves its input five times: {config.size} pixels are no multiple of 32.")
    net = _monai().FlexibleUNet(
        in_channels=1, out_channels=len(config.classes), backbone=encoder, pretrained=False, spatial_dims=2
    )
    _start_rare(net.segmentation_head[0], exclusive=config.classes[0] in BACKGROUNDS)
    return net


def _quicken(net: nn.Module) -> None:
    """Let batch norms follow the data as soon as PyTorch's do: with MONAI's momentum of 0.01 the initial statistics
    of an EfficientNet persist for a thousand steps."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1


def _start_rare(head: nn.Conv2d, *, exclusive: bool) -> None:
    """Initialise the last bias so that every class starts at a low probability, as most pixels are of none.

    Args:
        exclusive: the first class is the background, which most pixels are.

    From even odds, binary cross entropy took 1,300 steps and more to segment its first nodule; this way some 200.
    Source: Lin et al., Focal loss for dense object detection, 2017, section 4.1.
    """
    with torch.no_grad():
        head.weight.mul_(0.1)
        assert head.bias is not None
        head.bias.fill_(math.log(RARE / (1 - RARE)))
        if exclusive:
            head.bias[0] = 0


def se_aux_unet(config: NetworkConfig) -> nn.Module:
    """See :class:`nodulens.train.networks.unets.SeAuxUNet`; it has the second head if its loss has a weight."""
    if config.size % 16:
        raise BadOption(f"This U-Net halves its input four times: {config.size} pixels are no multiple of 16.")
    return SeAuxUNet(len(config.classes), auxiliary=config.auxiliary > 0)


def planned_unet(config: NetworkConfig) -> nn.Module:
    """See :class:`nodulens.train.networks.unets.PlannedUNet` and :func:`nodulens.train.networks.unet_plan.plan`."""
    return PlannedUNet(config.size, len(config.classes))


def conv3(config: NetworkConfig) -> nn.Module:
    """See :class:`nodulens.train.networks.classifiers.Conv3`."""
    return Conv3(config.size, len(config.classes))


def conv3_attention(config: NetworkConfig) -> nn.Module:
    """See :class:`nodulens.train.networks.attention.Conv3Attention`."""
    return Conv3Attention(config.size, len(config.classes))


def vit(config: NetworkConfig) -> nn.Module:
    """See :class:`nodulens.train.networks.attention.SmallViT`."""
    return SmallViT(config.size, len(config.classes))


def patch_cnn(config: NetworkConfig) -> nn.Module:
    """See :class:`nodulens.train.networks.classifiers.PatchCnn`."""
    return PatchCnn(config.size, len(config.classes))


NETWORKS: dict[str, Callable[[NetworkConfig], nn.Module]] = {
    "densenet121": densenet121,
    "se-aux-unet": se_aux_unet,
    "planned-unet": planned_unet,
    "efficientnet-b0": efficientnet_b0,
    "resnet50-unet": resnet50_unet,
    "efficientnet-lite0-unet": efficientnet_lite0_unet,
    "patch-cnn": patch_cnn,
    "conv3": conv3,
    "conv3-attention": conv3_attention,
    "vit": vit,
}

YOLO11 = ("yolo11n-seg", "yolo11s-seg", "yolo11m-seg")
APART = {"nnunet": "nodulens nnunet train", **dict.fromkeys(YOLO11, "nodulens yolo train")}
"""Networks that external programs train, and the command for each."""


def _monai() -> ModuleType:
    """MONAI's networks, imported on first use, since that takes seconds."""
    try:
        return import_module("monai.networks.nets")
    except ImportError as error:
        raise MissingExtra("train", "monai") from error
