"""The two plain classifiers of the publications: three convolutions on a region of interest, and a patch CNN."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from nodulens.errors import BadOption


class Conv3(nn.Module):
    """Three convolutions 32-64-64, each with batch norm and max pooling; dense 128; dropout.

    Convolutions are not padded, as is Keras's default: 124 → 61 → 29 → 13.

    Shape:
        input (N, 1, size, size), output (N, outputs) logits; ``features`` gives (N, 64, 13, 13) at a size of 124.
    """

    WIDTHS = (1, 32, 64, 64)

    def __init__(self, size: int, outputs: int) -> None:
        super().__init__()
        widths, side = self.WIDTHS, size
        for _ in widths[1:]:
            side = (side - 2) // 2
        if side < 1:
            raise BadOption(f"Three convolutions with pooling need 22 × 22 pixels at least, not {size} × {size}.")
        self.side = side
        self.features = nn.Sequential(
            *(
                layer
                for cin, cout in pairwise(widths)
                for layer in (nn.Conv2d(cin, cout, 3), nn.BatchNorm2d(cout), nn.ReLU(inplace=True), nn.MaxPool2d(2))
            )
        )
        hidden = nn.Linear(widths[-1] * side * side, 128)
        self.classify = nn.Sequential(
            nn.Flatten(), hidden, nn.ReLU(inplace=True), nn.Dropout(0.3), nn.Linear(128, outputs)
        )

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classify(self.features(x))
        return logits


class PatchCnn(nn.Module):
    """Nodule or non-nodule, from a patch: four convolutions, each with batch norm and max pooling; dense 128; dropout.

    Shape:
        input (N, 1, size, size), output (N, outputs) logits; ``features`` gives (N, 128, size / 16, size / 16).
    """

    def __init__(self, size: int, outputs: int) -> None:
        super().__init__()
        if size % 16:
            raise BadOption(f"The patch CNN halves its input four times: {size} pixels are no multiple of 16.")
        widths = (1, 32, 64, 128, 128)
        self.features = nn.Sequential(
            *(
                layer
                for cin, cout in pairwise(widths)
                for layer in (
                    nn.Conv2d(cin, cout, 3, padding=1, bias=False),  # batch norm removes any bias
                    nn.BatchNorm2d(cout),
                    nn.ReLU(inplace=True),
                    nn.MaxPool2d(2),
                )
            )
        )
        hidden = nn.Linear(widths[-1] * (size // 16) ** 2, 128)
        self.classify = nn.Sequential(
            nn.Flatten(), nn.Dropout(0.5), hidden, nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Linear(128, outputs)
        )

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classify(self.features(x))
        return logits
