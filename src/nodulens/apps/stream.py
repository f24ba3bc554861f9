"""``nodulens stream``: what is typed, and what is printed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from nodulens.apps.show import plain
from nodulens.errors import BadOption
from nodulens.stream import StreamStatistics


def window_of(text: str) -> tuple[float, float]:
    """``low,high`` in HU.

    Raises:
        BadOption: anything else.
    """
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        low = high = np.nan
    if not (np.isfinite([low, high]).all() and low < high):
        raise BadOption(f"--window is black and white in HU, such as -1350,150; got {text!r}.")
    return low, high


def sentence(found: dict[str, Any]) -> str:
    """:func:`nodulens.stream.summary` for people."""
    left = f", {len(found['left_out'])} left out" if found["left_out"] else ""
    stopped = "Stopped after " if found["stopped"] else ""
    return (
        f"{stopped}{found['frames']} frames{left}: {found['fps_mean']:.1f} a second "
        f"(median {found['fps_median']:.1f}), work {1000 * found['work_s'] / found['frames']:.0f} ms a frame, networks "
        f"{1000 * found['model_s'] / found['frames']:.0f} ms of it, "
        f"{found['total_s']:.1f} s in all; {found['regions']} regions on {found['frames_with_regions']} frames"
    )


@contextmanager
def pace(count: int | None) -> Iterator[Callable[[StreamStatistics], None]]:
    """Frames and frames a second on a terminal; unreadable frames are always reported."""
    columns = (TextColumn("{task.completed:g} frames, {task.fields[pace]:.1f} a second"), BarColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not sys.stderr.isatty()) as progress:
        task, reported = progress.add_task("", total=count, pace=0.0), 0

        def show(statistics: StreamStatistics) -> None:
            nonlocal reported
            for problem in statistics.left_out[reported:]:
                console.print(plain(f"Left out: {problem}"), soft_wrap=True)
            reported = len(statistics.left_out)
            progress.update(task, completed=len(statistics.shown) + reported, pace=statistics.pace)

        yield show
