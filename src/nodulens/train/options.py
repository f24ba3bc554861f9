"""Options of a training: test patients, epochs, threads, and where its curves go."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from nodulens.data.folds import FOLDS
from nodulens.data.splits import Split, read_split
from nodulens.errors import BadOption
from nodulens.methods.run_record import fold_name

FOLD = 1
"""The default test fold: it holds a background."""


@dataclass(frozen=True)
class TrainOptions:
    """Options of a training beside its recipe.

    Attributes:
        split: file of a split, as ``nodulens data split`` writes it; None: the five fixed folds.
        fold: test fold; None: the second one, or the test part of a split into shares.
        everybody: train on all patients: for networks to apply, not to evaluate.
        epochs: of each network, in place of the recipe's.
        threads: CPU threads; None for as many as there are cores.
        mlflow: URI of an MLflow server, or of another place that its client knows, for the curves; None: none.
        command: that reproduces the run, for its record; None: the call itself.
    """

    split: Path | None = None
    fold: int | None = None
    everybody: bool = False
    epochs: int | None = None
    threads: int | None = None
    mlflow: str | None = None
    command: str | None = None


DEFAULTS = TrainOptions()


def test_patients_of(path: Path | None, fold: int | None, *, everybody: bool) -> tuple[Split | None, int | None]:
    """The split and the test fold.

    Args:
        path: of a split's file; None for the fixed folds.
        fold: None for the default.
        everybody: train on all patients.

    Returns:
        The split is None for the fixed folds, also as a run has recorded them. The fold is None for a split into
        shares, which names its test patients itself, and with ``everybody``.

    Raises:
        BadOption: options that contradict each other, or no such fold.
        NotFound, UnreadableFile, PatientOverlap: see :func:`nodulens.data.splits.read_split`.
    """
    split = read_split(path) if path else None
    if everybody and (split or fold is not None):
        raise BadOption("--everybody leaves nobody out; leave out --split and --fold, or --everybody.")
    if split and not split.folds and fold is not None:
        raise BadOption(f"{path} is a split into shares, which names its own test patients: leave out --fold.")
    if everybody or (split and not split.folds):
        return split, None
    left_out = FOLD if fold is None else fold
    if split:
        split.parts(left_out)  # refuses a fold that the split does not have
    return split if split and split.names_all else None, left_out


def every_fold(output: Path, options: TrainOptions) -> dict[Path, TrainOptions]:
    """The folder and the options of a run for every fold of a split, or of the fixed five.

    Raises:
        BadOption: options that choose the test patients in another way.
        NotFound, UnreadableFile, PatientOverlap: see :func:`nodulens.data.splits.read_split`.
    """
    folds = read_split(options.split).folds if options.split else FOLDS
    if options.fold is not None or options.everybody or not folds:
        raise BadOption("--every-fold trains a run a fold: leave out --fold, --everybody and splits into shares.")
    return {output / fold_name(k): replace(options, fold=k) for k in range(folds)}
