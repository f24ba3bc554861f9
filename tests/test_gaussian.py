"""Gaussian filters by matrix products against scipy's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from nodulens.ops.gaussian import TRUNCATE, gaussian_filter


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 70, 5), (65, 64, 129), (2, 200, 31)])
@pytest.mark.parametrize("sigmas", [(0.1, 0.1, 0.1), (1.4, 0.6, 2.3), (11.0, 4.0, 30.0)])
def test_it_is_scipys(shape: tuple[int, int, int], sigmas: tuple[float, float, float]) -> None:
    array = np.random.default_rng(0).normal(-700, 300, shape).astype(np.float32)
    before = array.copy()
    out = gaussian_filter(array, sigmas)
    assert out.dtype == np.float32 and np.array_equal(array, before)
    np.testing.assert_allclose(out, ndimage.gaussian_filter(array, sigmas, truncate=TRUNCATE), atol=2e-3)
