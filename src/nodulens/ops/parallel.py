"""Work on several parts of an array at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
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


def made_ahead(make: Callable[[Part], Result], parts: Iterable[Part]) -> Iterator[Result]:
    """``make`` of each part, in their order; in a thread of its own the next is made while one is used."""
    with ThreadPoolExecutor(1) as maker:
        waiting: Future[Result] | None = None
        for part in parts:
            following = maker.submit(make, part)
            if waiting is not None:
                yield waiting.result()
            waiting = following
        if waiting is not None:
            yield waiting.result()


@cache
def _libraries() -> ThreadpoolController:
    """The libraries that are loaded; finding them takes milliseconds."""
    return ThreadpoolController()
