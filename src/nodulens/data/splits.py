"""Splits by patient into training, validation and test sets, in a file that names every patient.

A split gives each patient one group, so its parts cannot overlap. :func:`refuse_overlap` and :func:`check_together`
check this across files and data sets. The patients of :data:`nodulens.data.folds.EVALUATION_PATIENTS` are a group of
their own in every split and never train.

The project's own figures use :func:`fixed`, which depends only on the patient's name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nodulens.data.dataset import Item
from nodulens.data.folds import EVALUATION_PATIENTS, FOLDS, fold_of
from nodulens.errors import BadOption, NotFound, PatientOverlap, UnreadableFile
from nodulens.io.atomic import whole_file
from nodulens.io.records import Format, decode, encode

SCHEMA = "nodulens-split/1"
FORM = Format(SCHEMA, "split")
EVALUATION = "evaluation"
FIXED = "fixed"
"""The ``method`` of a split by the project's own folds, see :attr:`Split.names_all`."""
MAX_FOLDS = 1000
PARTS = ("train", "validation", "test")
NAMED = 5
"""Number of patients that an error names."""


@dataclass(frozen=True)
class Parts:
    """The disjoint training, validation and test patients of one round.

    Raises:
        PatientOverlap: a patient in two parts, or an evaluation patient in one that trains or tunes.
    """

    train: frozenset[str]
    test: frozenset[str]
    validation: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        parts = (("train", self.train), ("validation", self.validation), ("test", self.test))
        for (a, first), (b, second) in combinations(parts, 2):
            refuse_overlap(first, second, (a, b))
        for name, part in parts[:2]:
            refuse_overlap(part, EVALUATION_PATIENTS, (name, EVALUATION))


@dataclass(frozen=True)
class Split:
    """The group of every patient.

    Attributes:
        groups: patient → group. Folds are "0", "1", …; a split into shares has "train", "test" and perhaps
            "validation"; patients for evaluation only are in "evaluation" either way.
        folds: how many; 0 for a split into shares. A small set may leave a fold empty.
        method: how it was made: "fixed", "stratified", or the name of who gave it.
        seed: of the random numbers; None where there are none.
        data_sets: the names of what was split.
        notes: what a reader of the file should know.

    Raises:
        PatientOverlap: an evaluation patient in a group that trains.
        BadOption: a single fold, or a group that is neither a fold nor a share.
    """

    groups: Mapping[str, str]
    folds: int
    method: str
    seed: int | None = None
    data_sets: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.folds > MAX_FOLDS:
            raise BadOption(f"A split has {MAX_FOLDS} folds at most, got {self.folds}.")
        known = {str(k) for k in range(self.folds)} or set(PARTS)
        strange = set(self.groups.values()) - known - {EVALUATION}
        if strange or self.folds == 1 or self.folds < 0 or not self.groups:
            raise BadOption(f"A split puts patients into {sorted(known)} or {EVALUATION}; got {sorted(strange)}.")
        learning = (p for p, group in self.groups.items() if group not in ("test", EVALUATION))
        refuse_overlap(learning, EVALUATION_PATIENTS, ("the split", EVALUATION))

    @property
    def names_all(self) -> bool:
        """Whether it holds nobody but those whom it names: not the project's own folds as a run records them, which
        hold every patient of its data."""
        return self.method != FIXED or bool(self.data_sets)

    def patients(self, group: str) -> frozenset[str]:
        """Those of one group; none where there is no such group."""
        return frozenset(p for p, own in self.groups.items() if own == group)

    def parts(self, fold: int | None = None) -> Parts:
        """The training, validation and test patients.

        Args:
            fold: the test fold; None for a split into shares.

        Raises:
            BadOption: no such fold, or a fold for a split into shares.
        """
        if self.folds == 0 and fold is None:
            return Parts(*(self.patients(name) for name in ("train", "test", "validation")))
        if fold is None or not 0 <= fold < self.folds:
            raise BadOption(f"The split has {self.folds} folds, counted from 0; got {fold}.")
        test = self.patients(str(fold))
        return Parts(frozenset(self.groups) - self.patients(EVALUATION) - test, test)

    def rounds(self) -> tuple[Parts, ...]:
        """One a fold; a single one where the split is into shares."""
        return tuple(self.parts(fold) for fold in range(self.folds)) or (self.parts(),)

    def group_of(self, items: Sequence[Item]) -> tuple[str, ...]:
        """The group of each item.

        Raises:
            BadOption: a patient whom the split does not name: it was made for other data.
        """
        strangers = sorted({i.patient_id for i in items} - self.groups.keys())
        if strangers:
            raise BadOption(
                f"The split does not name {_listed(strangers)}; make one for this data: nodulens data split."
            )
        return tuple(self.groups[i.patient_id] for i in items)


def fixed(items: Sequence[Item]) -> Split:
    """The project's own five folds: by :func:`nodulens.data.folds.fold_of`, whatever else is split."""
    return Split(_grouped(items, lambda p: str(fold_of(p))), FOLDS, FIXED)


def stratified(items: Sequence[Item], folds: int = FOLDS, seed: int = 0) -> Split:
    """Random folds of like size, with the strata spread evenly over them.

    Args:
        items: of one data set, or of several one after the other: a patient of several stays in one fold.
        folds: two or more.
        seed: another seed, other folds.

    Raises:
        BadOption: fewer than two folds, or fewer patients than folds.
    """
    if folds < 2:
        raise BadOption(f"Folds are two or more, got {folds}.")
    dealt = _deal(items, np.full(folds, 1 / folds), seed)
    return Split(_grouped(items, lambda p: str(dealt[p])), folds, "stratified", seed)


def in_shares(items: Sequence[Item], shares: Sequence[float], seed: int = 0) -> Split:
    """Random parts of given sizes, with the strata spread evenly over them.

    Args:
        items: as for :func:`stratified`.
        shares: of train and test, or of train, validation and test; only their ratios count (7, 1, 2 and
            1902, 265, 475 alike).
        seed: another seed, other parts.

    Raises:
        BadOption: shares that are not two or three positive numbers, or fewer patients than parts.
    """
    ratio = np.asarray(shares, dtype=np.float64)
    if len(ratio) not in (2, 3) or not np.all(np.isfinite(ratio) & (ratio > 0)):
        raise BadOption(
            f"Shares are two or three positive numbers, of train[, validation] and test; got {list(shares)}."
        )
    names = PARTS if len(ratio) == 3 else ("train", "test")
    dealt = _deal(items, ratio / ratio.sum(), seed)
    return Split(_grouped(items, lambda p: names[dealt[p]]), 0, "stratified", seed)


def of_groups(items: Sequence[Item], group: Mapping[str, int], method: str) -> Split:
    """A split from given folds, such as the ten subsets of LUNA16.

    A patient with items in several folds is put into the first of them as a whole, and a note says so.

    Args:
        items: of one data set.
        group: key of each item → its fold, from 0 without a gap.
        method: name of their source.

    Raises:
        BadOption: an item without a fold.
    """
    missing = [i.key for i in items if i.key not in group]
    if missing:
        raise BadOption(f"No {method} fold is given for {_listed(missing)}.")
    first: dict[str, int] = {}
    moved: set[str] = set()
    for item in items:
        known = first.setdefault(item.patient_id, group[item.key])
        if known != group[item.key]:
            moved.add(item.patient_id)
            first[item.patient_id] = min(known, group[item.key])
    notes = tuple(f"{p} stands in several folds of {method}; all of it is in fold {first[p]}." for p in sorted(moved))
    return Split(_grouped(items, lambda p: str(first[p])), max(group.values()) + 1, method, notes=notes)


def refuse_overlap(one: Iterable[str], other: Iterable[str], names: tuple[str, str] = ("train", "test")) -> None:
    """Check that two sets share no patient.

    Args:
        one, other: patient ids, in any order, with repetitions.
        names: of the sides, for the message.

    Raises:
        PatientOverlap: they share some; the message names the first, ``patients`` all.
    """
    both = tuple(sorted(set(one) & set(other)))
    if both:
        raise PatientOverlap(
            f"{len(both)} patient{'s' if len(both) > 1 else ''} in both {names[0]} and {names[1]}: {_listed(both)}. "
            "A model would be evaluated on its training patients; leave them out of one of the two.",
            both,
        )


def check_together(splits: Mapping[str, Split]) -> None:
    """Refuse splits that, used together, would train on a patient in one data set and test on the same in another.

    Splits with equally many folds are compared round by round (fold 0 is the test fold in all of them, then fold 1, …);
    otherwise every round of one is compared with every round of the other.

    Args:
        splits: name, for the message → split.

    Raises:
        PatientOverlap: a patient who trains in one and is a test patient in the other.
    """
    for (a, first), (b, second) in combinations(splits.items(), 2):
        alike = first.folds == second.folds
        pairs = zip(first.rounds(), second.rounds(), strict=True) if alike else product(first.rounds(), second.rounds())
        for one, other in pairs:
            refuse_overlap(one.train | one.validation, other.test, (f"train of {a}", f"test of {b}"))
            refuse_overlap(other.train | other.validation, one.test, (f"train of {b}", f"test of {a}"))


def write_split(split: Split, path: str | Path) -> None:
    """Write a split as JSON atomically, patients in order of name.

    Raises:
        NotFound, BadOption: as :func:`nodulens.io.atomic.whole_file`.
    """
    sizes = dict(sorted(Counter(split.groups.values()).items()))
    patients = dict(sorted(split.groups.items()))
    stored = _Stored(split.folds, split.method, split.seed, split.data_sets, split.notes, sizes, patients)
    with whole_file(path) as part:
        part.write_text(encode(stored, FORM), "utf-8")


def read_split(path: str | Path) -> Split:
    """Read a split from :func:`write_split`.

    Raises:
        NotFound: no such file.
        UnreadableFile: not JSON, another schema, a patient named twice, or the sizes do not fit the patients: the file
            was cut or edited.
        PatientOverlap: an evaluation patient in a part that trains.
    """
    path = Path(path)
    if not path.is_file():
        raise NotFound(f"There is no split file {path}; nodulens data split makes one.")
    try:
        stored = decode(_Stored, path.read_text("utf-8"), FORM)
        split = Split(stored.patients, stored.folds, stored.method, stored.seed, stored.data_sets, stored.notes)
    except (UnicodeDecodeError, UnreadableFile, BadOption) as error:
        raise UnreadableFile(f"{path}: {error} Make it again with nodulens data split.") from error
    if Counter(stored.patients.values()) != Counter(stored.sizes):
        raise UnreadableFile(f"{path}: its sizes {stored.sizes} do not fit its patients; it was cut or edited.")
    return split


@dataclass(frozen=True)
class _Stored:
    """A split as its file has it: with the size of each group, which shows whether the file was cut."""

    folds: int
    method: str
    seed: int | None
    data_sets: tuple[str, ...]
    notes: tuple[str, ...]
    sizes: dict[str, int]
    patients: dict[str, str]


def _grouped(items: Sequence[Item], group: Callable[[str], str]) -> dict[str, str]:
    """Patient → group; those for evaluation to theirs."""
    patients = sorted({i.patient_id for i in items})
    return {p: EVALUATION if p in EVALUATION_PATIENTS else group(p) for p in patients}


def _deal(items: Sequence[Item], share: NDArray[np.float64], seed: int) -> dict[str, int]:
    """Patient → part, assigned greedily: patients with most items first, each to the part that lacks them most.

    What is balanced is the number of items of each stratum, and the number of patients, each measured as a share of
    its total. Evaluation patients are not dealt.
    """
    items = [i for i in items if i.patient_id not in EVALUATION_PATIENTS]
    patients, owner = np.unique([i.patient_id for i in items], return_inverse=True)
    strata, kind = np.unique([i.stratum for i in items], return_inverse=True)
    if len(patients) < len(share):
        raise BadOption(f"{len(patients)} patients cannot be split into {len(share)} parts.")
    counts = np.ones((len(patients), len(strata) + 1))
    counts[:, :-1] = 0
    np.add.at(counts, (owner, kind), 1)
    counts /= counts.sum(axis=0)
    shuffled = np.random.default_rng(seed).permutation(len(patients))
    order = shuffled[np.argsort(-counts[shuffled].max(axis=1), kind="stable")]
    lacking = np.outer(share, np.ones(counts.shape[1]))
    part = np.empty(len(patients), dtype=int)
    for p in order:
        # (lacking − counts)² − lacking², summed: what the squared distance from the goal changes by. Sizes of parts
        # differ, so the change counts by its share.
        change = ((counts[p] - 2 * lacking) * counts[p]).sum(axis=1)
        part[p] = int(np.argmin(change / share))
        lacking[part[p]] -= counts[p]
    return {str(p): int(k) for p, k in zip(patients, part, strict=True)}


def _listed(names: Sequence[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")


def by_group(split: Split, items: Sequence[Item]) -> Iterator[tuple[str, Counter[str]]]:
    """Each group, in order of name, with the number of its items of each stratum."""
    counts: dict[str, Counter[str]] = {}
    for group, item in zip(split.group_of(items), items, strict=True):
        counts.setdefault(group, Counter())[item.stratum] += 1
    yield from sorted(counts.items())
