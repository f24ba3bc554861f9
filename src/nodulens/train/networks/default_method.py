"""The default method's four networks, each a function of its widths. Inputs are float32 0…1 over −1000…400 HU."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nodulens.stages.prompts import CHANNELS


def _conv(dim: int, cin: int, cout: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution with padding, batch norm, ReLU."""
    conv = nn.Conv2d if dim == 2 else nn.Conv3d
    norm = nn.BatchNorm2d if dim == 2 else nn.BatchNorm3d
    return nn.Sequential(
        conv(cin, cout, kernel, stride, padding=kernel // 2, bias=False), norm(cout), nn.ReLU(inplace=True)
    )


class PooledClassifier(nn.Module):
    """A plain CNN that ends in mean pooling and one linear layer.

    Args:
        dim: 2 or 3.
        channels: of the input.
        stem: width after the first convolution (kernel 5, stride 2: most of the work would be at full resolution).
        widths: of the stages, two convolutions each.
        pools: whether to halve before each of ``widths``.
        outputs: number of logits.
        central: also pool the centre of the last feature map on its own: the candidate, while the rest is its context.

    Shape:
        input (N, channels, …), output (N, outputs) logits.
    """

    def __init__(
        self,
        dim: int,
        channels: int,
        stem: int,
        widths: tuple[int, ...],
        pools: tuple[bool, ...],
        *,
        outputs: int = 1,
        central: bool = False,
    ) -> None:
        super().__init__()
        pool = nn.MaxPool2d if dim == 2 else nn.MaxPool3d
        layers: list[nn.Module] = [_conv(dim, channels, stem, 5, 2)]
        cin = stem
        for width, halve in zip(widths, pools, strict=True):
            if halve:
                layers += [pool(2), _conv(dim, cin, width), _conv(dim, width, width)]
            else:
                layers.append(_conv(dim, cin, width))
            cin = width
        self.features = nn.Sequential(*layers)
        self.dropout = nn.Dropout(0.3)
        self.central = central
        self.classify = nn.Linear(2 * cin if central else cin, outputs)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classify(self.dropout(self.pooled(x)))
        return logits

    def pooled(self, x: Tensor) -> Tensor:
        """The input of the linear layer: (N, widths[-1]) features, twice as many with ``central``."""
        fmap = self.features(x)
        whole: Tensor = fmap.flatten(2).mean(2)
        if not self.central:
            return whole
        middle = fmap
        for axis in range(2, fmap.dim()):
            middle = middle.narrow(axis, fmap.shape[axis] // 2 - 1, 2)
        return torch.cat([whole, middle.flatten(2).mean(2)], 1)


class PromptUNet(nn.Module):
    """A small 3-D U-Net that segments the nodule at its prompt channels.

    A strided convolution enters and a transposed one leaves, so that the finest level, which would take most of the
    time, is never convolved at full size.

    Shape:
        input (N, 4, 32, 32, 32): image, box (1 drawn by a person, 0.5 rough), earlier mask or 0, clicks or 0;
        output (N, 1, 32, 32, 32) logits.
    """

    def __init__(self, widths: tuple[int, int, int] = (16, 32, 64)) -> None:
        super().__init__()
        a, b, c = widths
        self.enter = nn.Conv3d(CHANNELS, a, 4, 2, 1)
        self.down0 = _conv(3, a, a)
        self.down1 = nn.Sequential(_conv(3, a, b), _conv(3, b, b))
        self.down2 = nn.Sequential(_conv(3, b, c), _conv(3, c, c))
        self.up1 = _conv(3, c + b, b)
        self.up0 = nn.Sequential(_conv(3, b + a, a), _conv(3, a, a))
        self.leave = nn.ConvTranspose3d(a, 1, 4, 2, 1)
        self.pool = nn.MaxPool3d(2)
        self.grow = nn.Upsample(scale_factor=2, mode="nearest")

    def forward(self, x: Tensor) -> Tensor:
        x0 = self.down0(self.enter(x))
        x1 = self.down1(self.pool(x0))
        x2 = self.down2(self.pool(x1))
        y = self.up1(torch.cat([self.grow(x2), x1], 1))
        y = self.up0(torch.cat([self.grow(y), x0], 1))
        logits: Tensor = self.leave(y)
        return logits


def volume_net() -> PooledClassifier:
    """Nodule or non-nodule, in three dimensions: (N, 1, 32, 32, 32)."""
    return PooledClassifier(3, 1, 16, (24, 48, 96), (False, True, True), central=True)


def screen_net() -> PooledClassifier:
    """Nodule or non-nodule at little cost, to screen candidates: (N, 1, 16, 16, 16)."""
    return PooledClassifier(3, 1, 8, (16, 32), (False, True), central=True)


def malignancy_net(outputs: int) -> PooledClassifier:
    """Readers' ratings of a nodule from an axial slice and its outline: (N, 2, 64, 64); its last map is 16 × 16."""
    return PooledClassifier(2, 2, 12, (16, 48), (False, True), outputs=outputs)
