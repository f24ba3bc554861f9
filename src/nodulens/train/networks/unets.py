"""The U-Nets of the methods: one with squeeze-and-excitation and a second head, one that plans itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from nodulens.errors import BadOption
from nodulens.train.networks.unet_plan import Fingerprint, widths_for

SQUARE = 16
"""Side in pixels of the blocks that are averaged first, see :func:`steady_norm`."""


class Layers(NamedTuple):
    """The layers of a U-Net in the plane or in space."""

    convolution: type[nn.Module]
    transposed: type[nn.Module]
    norm: type[nn.Module]
    pool: type[nn.Module]


LAYERS = {
    2: Layers(nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d, nn.MaxPool2d),
    3: Layers(nn.Conv3d, nn.ConvTranspose3d, nn.BatchNorm3d, nn.MaxPool3d),
}
"""By the number of dimensions."""


class SqueezeExcite(nn.Module):
    """Squeeze-and-excitation (Hu et al., 2018) with ratio 8 and bias, of (N, channels, …)."""

    def __init__(self, channels: int, ratio: int = 8) -> None:
        super().__init__()
        self.weigh = nn.Sequential(
            nn.Linear(channels, channels // ratio),
            nn.ReLU(inplace=True),
            nn.Linear(channels // ratio, channels),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        over = tuple(range(2, x.dim()))
        return x * self.weigh(x.mean(over))[(..., *[None] * len(over))]


class SeAuxUNet(nn.Module):
    """A U-Net of separable convolutions with squeeze-and-excitation; a second head predicts which classes are present.

    With four classes and the second head it has 6,577,217 parameters by Keras's count, as published.

    Args:
        classes: number of classes.
        auxiliary: whether it has the second head, at the bottleneck: mean pooling, dense 128, dense ``classes``.
        widths: channels of its levels, the published ones, or those of a smaller network.
        dimensions: 2, of slices as published; or 3.

    Shape:
        input (N, 1, H, W) or (N, 1, D, H, W), sides multiples of 16, or of 2 to the power of the levels below the
        first; output (N, classes, …) logits of the same sides and, with the second head, (N, classes) logits.
    """

    WIDTHS = (64, 128, 256, 512, 1024)

    def __init__(
        self, classes: int, *, auxiliary: bool = True, widths: Sequence[int] = WIDTHS, dimensions: int = 2
    ) -> None:
        super().__init__()
        layers = LAYERS[dimensions]
        self.down = nn.ModuleList(_separable_block(cin, cout, layers) for cin, cout in pairwise((1, *widths)))
        self.pool = layers.pool(2)
        rising = list(pairwise(reversed(widths)))
        self.grow = nn.ModuleList(layers.transposed(cin, cout, 2, 2) for cin, cout in rising)
        self.up = nn.ModuleList(_separable_block(2 * cout, cout, layers) for _, cout in rising)
        self.leave = layers.convolution(widths[0], classes, 1)
        self.presence = None
        if auxiliary:
            hidden = nn.Linear(widths[-1], 128)
            self.presence = nn.Sequential(hidden, nn.ReLU(inplace=True), nn.Linear(128, classes))

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        skips = [self.down[0](x)]
        for block in self.down[1:]:
            skips.append(block(self.pool(skips[-1])))
        y = bottom = skips.pop()
        for grow, block in zip(self.grow, self.up, strict=True):
            y = block(torch.cat([grow(y), skips.pop()], 1))
        outline: Tensor = self.leave(y)
        return outline if self.presence is None else (outline, self.presence(bottom.mean(tuple(range(2, x.dim())))))


def _separable_block(cin: int, cout: int, layers: Layers) -> nn.Sequential:
    """Two separable convolutions, each with batch norm and ReLU; then squeeze-and-excitation."""
    parts: list[nn.Module] = []
    for width in (cin, cout):
        depthwise = layers.convolution(width, width, 3, padding=1, groups=width, bias=False)
        parts += [depthwise, layers.convolution(width, cout, 1), layers.norm(cout), nn.ReLU(inplace=True)]
    return nn.Sequential(*parts, SqueezeExcite(cout))


class PlannedUNet(nn.Module):
    """A plain U-Net whose depth follows from its input: two convolutions a stage, instance norm, leaky ReLU.

    Clipping and z-score of its input are part of it (:meth:`normalize_by`), so a model file needs no card for them.

    Args:
        size: side of its input; :func:`nodulens.train.networks.unet_plan.widths_for` gives the stages.

    Shape:
        input (N, 1, size, size) 0…1, output (N, classes, size, size) logits.
    """

    low: Tensor
    high: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, size: int, classes: int) -> None:
        super().__init__()
        widths = widths_for(size)
        halvings = len(widths) - 1
        if size % 2**halvings:
            possible = -(-size // 2**halvings) * 2**halvings
            raise BadOption(
                f"A U-Net of {size} pixels halves {halvings} times: take {possible}, a multiple of {2**halvings}."
            )
        for name, value in (("low", 0.0), ("high", 1.0), ("mean", 0.0), ("std", 1.0)):
            self.register_buffer(name, torch.tensor(value))
        entries = pairwise((1, *widths))
        self.down = nn.ModuleList(_plain_block(cin, cout, 2 if i else 1) for i, (cin, cout) in enumerate(entries))
        rising = list(pairwise(reversed(widths)))
        self.grow = nn.ModuleList(nn.ConvTranspose2d(cin, cout, 2, 2) for cin, cout in rising)
        self.up = nn.ModuleList(_plain_block(2 * cout, cout, 1) for _, cout in rising)
        self.leave = nn.Conv2d(widths[0], classes, 1)

    def normalize_by(self, fingerprint: Fingerprint) -> None:
        """Clip and scale inputs by the foreground statistics of a data set; stored with the weights."""
        for name in ("low", "high", "mean", "std"):
            getattr(self, name).fill_(getattr(fingerprint, name))

    def forward(self, x: Tensor) -> Tensor:
        y = (torch.minimum(torch.maximum(x, self.low), self.high) - self.mean) / self.std
        skips = []
        for block in self.down:
            y = block(y)
            skips.append(y)
        y = skips.pop()
        for grow, block in zip(self.grow, self.up, strict=True):
            y = block(torch.cat([grow(y), skips.pop()], 1))
        outline: Tensor = self.leave(y)
        return outline


def _plain_block(cin: int, cout: int, stride: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width, step in ((cin, stride), (cout, 1)):
        layers += [nn.Conv2d(width, cout, 3, step, 1), SteadyNorm(cout, affine=True), nn.LeakyReLU(0.01, True)]
    return nn.Sequential(*layers)


class SteadyNorm(nn.InstanceNorm2d):
    """An instance norm that is exact in OpenVINO, see :func:`steady_norm`; training is unchanged."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            if x.shape[2:].numel() == 1:
                raise ValueError("Instance norm needs more than one pixel.")
            # equal to torch's own instance norm, in two thirds of the time
            return functional.group_norm(x, x.shape[1], self.weight, self.bias, self.eps)
        return steady_norm(x, self.weight, self.bias, self.eps)


def steady_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Instance norm of (N, C, y, x) with means of blocks of pixels, then of those.

    OpenVINO's own sums all pixels of a map sequentially in single precision. Where most of a slice is air of one value
    the errors accumulate: logits were 0.08 off.
    """
    centred = x - _mean(x)
    deviation = (_mean(centred * centred) + eps).sqrt()
    return centred * (weight[:, None, None] / deviation) + bias[:, None, None]


def _mean(x: Tensor) -> Tensor:
    # two ReduceMean would be fused into one
    squares = functional.avg_pool2d(x, math.gcd(*x.shape[2:], SQUARE))
    return squares.mean((2, 3), keepdim=True)
