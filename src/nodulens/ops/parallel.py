"""Work on several parts of an array at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

from threadpoolctl import ThreadpoolController

Part = TypeVar("Part")
Result = TypeVar("Result")


def on_all_cores(function: Callable[[Part], Result], parts: Iterable[Part]) -> list[Result]:
    """``function`` of each part, in their order, computed in one thread a core.

    For numpy and scipy, which release the interpreter. Matrix products get a single thread meanwhile: where each takes
    all cores, they wait for one another.
    """
    with _libraries().limit(limits=1, user_api="blas"), ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return list(pool.map(function, parts))


@cache
def _libraries() -> ThreadpoolController:
    """The libraries that are loaded; finding them takes milliseconds."""
    return ThreadpoolController()
