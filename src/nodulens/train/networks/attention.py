"""Classifiers with attention: a small vision transformer, and the three convolutions with attention over their map."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from nodulens.errors import BadOption
from nodulens.train.networks.classifiers import Conv3


class AttentionBlock(nn.Module):
    """Multi-head self-attention and two dense layers, each after a layer norm and added to its input (Vaswani et al.,
    2017; norms first as in Dosovitskiy et al., 2021).

    Shape:
        input and output (N, tokens, width).
    """

    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.project, self.join = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.dense = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(0.1), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        parts = self.project(self.before(x)).chunk(3, -1)
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        found = functional.scaled_dot_product_attention(query, key, value)
        x = x + self.join(found.transpose(1, 2).flatten(2))
        y: Tensor = x + self.dense(self.between(x))
        return y


class MapAttention(nn.Module):
    """Attention blocks over the cells of a map, each of which knows its place.

    Shape:
        input and output (N, width, side, side).
    """

    def __init__(self, width: int, side: int, blocks: int) -> None:
        super().__init__()
        self.place = nn.Parameter(0.02 * torch.randn(1, side * side, width))
        self.blocks = nn.Sequential(*(AttentionBlock(width) for _ in range(blocks)))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        cells = self.norm(self.blocks(x.flatten(2).transpose(1, 2) + self.place))
        found: Tensor = cells.transpose(1, 2).unflatten(2, x.shape[2:])
        return found


class SmallViT(nn.Module):
    """A vision transformer of four blocks whose cells are 8 × 8 pixels, cut by convolutions (Xiao et al., 2021), as it
    has thousands of images to learn from and not millions. Its class is read from the mean of the cells.

    Shape:
        input (N, 1, size, size), output (N, outputs) logits.
    """

    WIDTHS = (1, 32, 64, 128)

    def __init__(self, size: int, outputs: int) -> None:
        super().__init__()
        if size < 16:
            raise BadOption(f"The vision transformer needs 16 × 16 pixels at least, not {size} × {size}.")
        self.cut = nn.Sequential(
            *(
                layer
                for cin, cout in pairwise(self.WIDTHS)
                for layer in (nn.Conv2d(cin, cout, 3, 2, 1, bias=False), nn.BatchNorm2d(cout), nn.ReLU(inplace=True))
            )
        )
        self.attend = MapAttention(self.WIDTHS[-1], -(-size // 8), blocks=4)
        self.classify = nn.Linear(self.WIDTHS[-1], outputs)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classify(self.attend(self.cut(x)).mean((2, 3)))
        return logits


class Conv3Attention(Conv3):
    """Three convolutions with one attention block over their map, before the dense layers; all else as :class:`Conv3`.

    Shape:
        input (N, 1, size, size), output (N, outputs) logits.
    """

    def __init__(self, size: int, outputs: int) -> None:
        super().__init__(size, outputs)
        self.attend = MapAttention(self.WIDTHS[-1], self.side, blocks=1)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classify(self.attend(self.features(x)))
        return logits
