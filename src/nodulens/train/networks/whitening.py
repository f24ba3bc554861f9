"""Whitening of features: in what it gives, how far a nodule is from a training set is a plain length."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.covariance import LedoitWolf
from torch import Tensor, nn

WITHIN = 0.95
"""Share of the training set whose root mean square is below 1. Networks differ in how far their outliers are, so that
with a covariance of 1 a limit for one of them would be none for another."""


class Whitening(nn.Module):
    """Features less their mean in a training set, times what makes their covariance there a multiple of the identity.

    Args:
        mean: (features,).
        matrix: (features, features).

    Shape:
        input and output (N, features).
    """

    mean: Tensor
    matrix: Tensor

    def __init__(self, mean: NDArray[np.floating], matrix: NDArray[np.floating]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.from_numpy(mean.astype(np.float32)))
        self.register_buffer("matrix", torch.from_numpy(matrix.astype(np.float32)))

    @classmethod
    def fitted(cls, features: NDArray[np.floating]) -> Whitening:
        """To a training set (N, features), by its covariance, shrunk as Ledoit and Wolf (2004) have it."""
        spread = LedoitWolf().fit(features)
        variance, axes = np.linalg.eigh(spread.covariance_)
        matrix = axes / np.sqrt(variance)
        away = np.sqrt(np.square((features - spread.location_) @ matrix).mean(1))
        return cls(spread.location_, matrix / np.quantile(away, WITHIN))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) @ self.matrix
