"""Options of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nodulens.data.splits import Split
from nodulens.pipeline import Progress, silent


@dataclass(frozen=True)
class EvaluateOptions:
    """Options of an evaluation.

    Attributes:
        split: of the test patients, or its file; None: the run's own.
        prompted: folder of a prompted network of ours, in place of the one that ships, which was trained on all
            training patients.
        threads: CPU threads; None for as many as there are cores.
        progress: called with each stage and the share of it that is done, 0…1.
    """

    split: Split | Path | None = None
    prompted: Path | None = None
    threads: int | None = None
    progress: Progress = silent


DEFAULTS = EvaluateOptions()
