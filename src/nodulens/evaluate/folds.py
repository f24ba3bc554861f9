"""The runs of a cross-validation, one for each fold of a split: every patient is judged by the run that left it out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nodulens.data.folds import fold_of
from nodulens.data.splits import EVALUATION, read_split
from nodulens.errors import BadOption
from nodulens.methods.recipe import Recipe, to_dict
from nodulens.methods.run_record import SPLIT, fold_name, is_run, method_named, read_run

PLANNED, PLANS = "planned-unet", ("size", "batch")
"""A network whose input and batch follow from its training slices."""


@dataclass(frozen=True)
class FoldRuns:
    """Runs of one recipe, by one split.

    Attributes:
        folders: of the run that leaves out fold 0, 1, ….
        groups: patient → fold, for those whom the split names.
        fixed: the split is the project's own, which knows the fold of every patient.
    """

    folders: tuple[Path, ...]
    groups: Mapping[str, int]
    fixed: bool

    def fold(self, patient: str) -> int:
        """The fold whose run was not trained on a patient; 0 for a patient of no fold, on whom none was."""
        return fold_of(patient) if self.fixed else self.groups.get(patient, 0)


def read_folds(folder: Path) -> FoldRuns | None:
    """The runs that ``nodulens train --every-fold`` leaves in a folder; None where there are none.

    Raises:
        BadOption: a fold is missing or not trained yet, or the runs are of several recipes, settings or splits.
        UnreadableFile: a run cannot be read.
    """
    if is_run(folder) or not is_run(folder / fold_name(0)):
        return None
    first = read_split(folder / fold_name(0) / SPLIT)
    folders = tuple(folder / fold_name(k) for k in range(first.folds))
    fixed = not first.names_all
    for number, place in enumerate(folders):
        if not is_run(place):
            raise BadOption(f"There is no run in {place}; train it: {read_run(folders[0]).command}")
        method_named(str(place))  # refuses a run that is not done
        split, run, start = read_split(place / SPLIT), read_run(place), read_run(folders[0])
        if run.fold != number or run.recipe.name != start.recipe.name:
            raise BadOption(
                f"{place} holds a run of {run.recipe.name} without fold {run.fold}, where one of {start.recipe.name} "
                f"without fold {number} belongs."
            )
        if others := _differing(start.recipe, run.recipe):
            raise BadOption(
                f"{place} and {folders[0]} hold runs with other settings ({', '.join(others)}), which are no "
                "cross-validation of one method; train all folds with the same."
            )
        if split.names_all == fixed or (not fixed and split.groups != first.groups):
            raise BadOption(f"{place} and {folders[0]} hold runs by different splits; train all folds by one.")
    groups = {patient: int(group) for patient, group in first.groups.items() if group != EVALUATION}
    return FoldRuns(folders, groups, fixed)


def _differing(one: Recipe, other: Recipe) -> list[str]:
    """The settings, as dotted names, by which two recipes of a name differ, but for what a network plans by the slices
    that it is trained on: those of each fold are others."""
    flat = [dict(_flat(to_dict(recipe), "")) for recipe in (one, other)]
    planned = {f"{part}.{name}" for part, c in one.networks.items() if c.network == PLANNED for name in PLANS}
    return sorted(name for name in {*flat[0], *flat[1]} - planned if flat[0].get(name) != flat[1].get(name))


def _flat(values: Mapping[str, Any], before: str) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}.")
        else:
            yield before + name, value
