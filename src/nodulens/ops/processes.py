"""Jobs in processes of their own: one that fails, or is killed, loses no other."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from nodulens.errors import CannotWrite, NodulensError


def in_processes(
    work: Callable[..., None], jobs: Mapping[str, tuple[Any, ...]], workers: int
) -> Iterator[tuple[str, str]]:
    """Name and error of each job as it ends, "" without an error.

    If a process is killed from outside (mostly for its memory), its pool ends. The remaining jobs then run one at a
    time, so that only the one that fails is lost.

    Args:
        work: a function of a module.
        jobs: name → arguments of ``work``.
        workers: number of processes at most.

    Raises:
        CannotWrite: the disk is full, which is no job's fault.
    """
    waiting = dict(jobs)
    while waiting:
        left: set[str] = set()
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(min(workers, len(waiting)), mp_context=context, initializer=_begin)
        try:
            futures = {pool.submit(_outcome, work, arguments): name for name, arguments in waiting.items()}
            for future in as_completed(futures):
                name = futures[future]
                try:
                    yield name, future.result()
                except BrokenProcessPool:
                    left.add(name)
        finally:
            pool.shutdown(cancel_futures=True)
        waiting = {name: arguments for name, arguments in waiting.items() if name in left}
        if waiting and workers == 1:
            first = next(iter(waiting))
            del waiting[first]
            yield first, "Its process was killed, perhaps for lack of memory."
        workers = 1


def _begin() -> None:
    """Set up a worker process: one thread, and it ends with its parent."""
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    parent = multiprocessing.parent_process()

    def follow() -> None:
        if parent is not None:
            parent.join()
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=follow, daemon=True).start()


def _outcome(work: Callable[..., None], arguments: tuple[Any, ...]) -> str:
    """Why a job failed; "" if it did not."""
    try:
        work(*arguments)
    except CannotWrite:
        raise
    except NodulensError as error:
        return str(error)
    except Exception as error:  # no error of one job may lose the others
        return f"{type(error).__name__}: {error}"
    return ""
