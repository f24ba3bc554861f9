"""The lines of a training, one an epoch, on stderr where that is no terminal; on one, there is a bar."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

NAME = "nodulens.train"
"""The logger that the training loop tells of its epochs."""


@contextmanager
def lines_shown() -> Iterator[None]:
    """Write the log of a training to stderr with the time of day, while the block runs."""
    log, handler = logging.getLogger(NAME), logging.StreamHandler(sys.stderr)
    if sys.stderr.isatty():
        yield
        return
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    before = log.level, log.propagate
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(before[0])
        log.propagate = before[1]
