"""Options of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nodulens.data.splits import Split
from nodulens.pipeline import Progress, silent


@dataclass(frozen=True)
class EvaluateOptions:
    """Options of an evaluation beside its method.

    Attributes:
        split: names the test patients, where they are not those of the run; or the file of such a split.
        prompted: folder of a prompted network of ours in place of the one that ships, which has seen every patient who
            may train.
        threads: CPU threads; None for as many as there are cores.
        progress: called with each stage and how much of it is done, 0…1.
    """

    split: Split | Path | None = None
    prompted: Path | None = None
    threads: int | None = None
    progress: Progress = silent


DEFAULTS = EvaluateOptions()
