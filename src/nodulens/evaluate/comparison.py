"""Paired comparison of methods on the same patients and items: runs, or files of predictions.

Only items that all methods predict are compared, and what is left out is counted. Nothing is compared that would not be
fair: a method on patients that it was trained on, or items whose truth differs from file to file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodulens.data.splits import refuse_overlap
from nodulens.errors import BadOption, BadValues
from nodulens.evaluate.entrants import Entrant, Part
from nodulens.evaluate.predictions import Prediction
from nodulens.metrics.estimates import Estimate
from nodulens.metrics.paired import USUAL, Paired, Resampling, paired_auc, paired_decisions, paired_means
from nodulens.metrics.statistics import holm
from nodulens.presentation.evaluation import Cell, Drawing, Evaluation, Metric, Provenance, Table, hashed, software
from nodulens.presentation.figures import Basis, Pairs, roc_figure, scatter_figure
from nodulens.presentation.tables import roc_line
from nodulens.report.record import WeightRef

SCHEMA = "nodulens-comparison/1"
POSITIVE, NEGATIVE = ("malignant", "nodule", "1"), ("benign", "non-nodule", "0")
"""Classes that a high score speaks for, and against; items of other classes have no part in AUC."""
Bool = NDArray[np.bool_]


# ---------------------------------------------------------------- cases


@dataclass(frozen=True, eq=False)
class Cases:
    """Predictions of M methods on the same N items.

    Attributes:
        truth: (N,) classes.
        patients: (N,).
        score: (M, N); None if they are structures.
        called: (M, N) classes; None unless all methods decide.
        dice: (M, N); None if they are no structures.
    """

    truth: NDArray[np.str_]
    patients: NDArray[np.str_]
    score: NDArray[np.float64] | None
    called: NDArray[np.str_] | None
    dice: NDArray[np.float64] | None

    @classmethod
    def of(cls, rows: Sequence[Sequence[Prediction]]) -> Cases:
        """The cases of (M, N) predictions."""
        structures = rows[0][0].dice is not None
        decided = all(one.called is not None for row in rows for one in row)
        values = np.array([[one.dice if structures else one.score for one in row] for row in rows], dtype=np.float64)
        return cls(
            truth=np.array([one.truth for one in rows[0]]),
            patients=np.array([one.patient for one in rows[0]]),
            score=None if structures else values,
            called=np.array([[one.called for one in row] for row in rows]) if decided and not structures else None,
            dice=values if structures else None,
        )

    def figures(self, resampling: Resampling) -> Iterator[tuple[str, Bool, Paired]]:
        """Name of every figure, the items that it is of, and the methods' values."""
        everything = np.ones(len(self.truth), dtype=bool)
        if self.dice is not None:
            yield "Dice", everything, paired_means(self.dice, self.patients, resampling)
        if self.score is not None and self.ranked.any():
            some = self.ranked
            scores = self.score[:, some]
            yield "AUC", some, paired_auc(self.positive[some], scores, self.patients[some], resampling)
        if self.called is not None:
            right = self.called == self.truth
            for name, some in (
                ("accuracy", everything),
                ("sensitivity", self.positive),
                ("specificity", np.isin(self.truth, NEGATIVE)),
            ):
                if some.any():
                    yield name, some, paired_decisions(right[:, some], self.patients[some], resampling)

    @property
    def positive(self) -> Bool:
        """(N,) items of :data:`POSITIVE` classes."""
        return np.isin(self.truth, POSITIVE)

    @property
    def ranked(self) -> Bool:
        """(N,) items of positive and negative classes; none if one of the two is missing."""
        negative = np.isin(self.truth, NEGATIVE)
        return (self.positive | negative) & bool(self.positive.any() and negative.any())


# ---------------------------------------------------------------- results


@dataclass(frozen=True)
class ComparedPair:
    """Two methods by one figure.

    Attributes:
        first, second: their names.
        difference: first minus second, with its interval by patient.
        test: see :mod:`nodulens.metrics.paired`.
        p_value: None where it is undefined.
        p_holm: the same, corrected for all tests of the comparison (Holm 1979).
        details: what else the test gives.
    """

    first: str
    second: str
    difference: Estimate
    test: str
    p_value: float | None
    p_holm: float | None
    details: Mapping[str, float]


@dataclass(frozen=True)
class ComparedFigure:
    """A figure of every method on the same items.

    Attributes:
        items, patients: that it is of.
        values: method → figure with its interval by patient.
    """

    name: str
    items: int
    patients: int
    values: Mapping[str, Estimate]
    pairs: tuple[ComparedPair, ...]


@dataclass(frozen=True)
class ComparedPart:
    """The methods' networks of one kind.

    Attributes:
        name: of the network, and of the structure that is segmented.
        items, patients: that are compared.
        left_out: method → number of its items that are not compared, since another one lacks them.
        cases: what the figures are computed from.
    """

    name: str
    items: int
    patients: int
    left_out: Mapping[str, int]
    figures: tuple[ComparedFigure, ...]
    cases: Cases = field(compare=False, repr=False)

    def table(self) -> Table:
        """The figures, a column a method."""
        methods = tuple(self.left_out)
        rows: list[tuple[Cell, ...]] = [
            (one.name, *(str(one.values[m]) for m in methods), one.items) for one in self.figures
        ]
        rows.append(("items left out", *(str(self.left_out[m]) for m in methods), None))
        title = f"{self.name}: {self.items} items of {self.patients} patients"
        return Table(title, ("(95 % by patient)", *methods, "items"), tuple(rows))


@dataclass(frozen=True)
class Comparison:
    """A paired comparison.

    Attributes:
        methods: names of those compared.
        parts: networks of the same kind.
        resampling: the bootstrap.
        notes: what limits it, or was left out; sentences.
        weights: of the networks of runs.
        files: of predictions that were read, by the name of the method.
    """

    methods: tuple[str, ...]
    parts: tuple[ComparedPart, ...]
    resampling: Resampling
    notes: tuple[str, ...] = ()
    weights: tuple[WeightRef, ...] = ()
    files: Mapping[str, Path] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As ``nodulens evaluate compare --json`` prints it."""
        parts = [
            {
                "name": part.name,
                "items": part.items,
                "patients": part.patients,
                "left_out": dict(part.left_out),
                "figures": [asdict(figure) for figure in part.figures],
            }
            for part in self.parts
        ]
        return {
            "schema": SCHEMA,
            "methods": list(self.methods),
            "bootstrap": asdict(self.resampling),
            "parts": parts,
            "notes": list(self.notes),
        }

    def tables(self) -> tuple[Table, ...]:
        """Figures of each part, then all differences."""
        rows = tuple(
            (
                f"{part.name}: {figure.name}",
                f"{one.first} − {one.second}",
                str(one.difference),
                one.test,
                *("–" if p is None else f"{p:.2g}" for p in (one.p_value, one.p_holm)),
            )
            for part in self.parts
            for figure in part.figures
            for one in figure.pairs
        )
        columns = ("", "difference of", "(95 % by patient)", "test", "p", "p, Holm")
        note = "p, Holm: corrected for all tests of this table. DeLong and McNemar take items as independent."
        return (*(part.table() for part in self.parts), Table("Differences", columns, rows, note))

    def evaluation(self, command: str) -> Evaluation:
        """As a page.

        Args:
            command: as typed.

        Raises:
            MissingExtra: Matplotlib is not installed.
        """
        return Evaluation(
            title=" against ".join(self.methods),
            summary=tuple(
                f"{part.name}: compared on {part.items:,} items of {part.patients:,} patients, the same for all."
                for part in self.parts
            ),
            metrics=tuple(
                Metric(f"{figure.name}, {part.name}, {name}", one.value, one.low, one.high, figure.items)
                for part in self.parts
                for figure in part.figures
                for name, one in figure.values.items()
            ),
            interval=f"95 %, {self.resampling.samples:,} bootstraps by patient",
            tables=self.tables(),
            drawings=tuple(drawing for part in self.parts for drawing in _drawings(part)),
            warnings=self.notes,
            provenance=Provenance(
                command=command,
                seeds={"bootstrap": self.resampling.seed},
                inputs={f"{name}: {path.name}": hashed(path)[path.name] for name, path in self.files.items()},
                weights=self.weights,
                software=software(),
            ),
        )


def _drawings(part: ComparedPart) -> Iterator[Drawing]:
    """ROC curves on one sheet; of structures the first method's Dice against that of each other."""
    cases, methods = part.cases, tuple(part.left_out)
    if cases.score is not None and cases.ranked.any():
        some = cases.ranked
        lines = [
            roc_line(name, cases.positive[some], score[some], cases.patients[some])
            for name, score in zip(methods, cases.score, strict=True)
        ]
        basis = Basis(int(some.sum()), "items", patients=len(np.unique(cases.patients[some])))
        yield Drawing.of_lines(f"ROC, {part.name}", roc_figure(lines, basis))
    if cases.dice is not None and part.items > 2:
        basis = Basis(part.items, "items", patients=part.patients)
        for name, dice in zip(methods[1:], cases.dice[1:], strict=True):
            labels = (f"Dice, {methods[0]}", f"Dice, {name}")
            figure = scatter_figure(Pairs("", cases.dice[0], dice), labels, basis)
            yield Drawing.of_lines(f"Dice, {part.name}: {methods[0]} and {name}", figure)


# ---------------------------------------------------------------- comparing


def compare(entrants: Sequence[Entrant], resampling: Resampling = USUAL) -> Comparison:
    """Compare methods on the items that all of them predict.

    Raises:
        BadOption: fewer than two.
        PatientOverlap: one was trained on patients that it would be compared on.
        BadValues: no item is common to all, or one has another truth or patient in another file.
    """
    if len(entrants) < 2:
        raise BadOption(f"A comparison needs two runs or files of predictions at least, got {len(entrants)}.")
    notes = [
        f"{one.name} has no record of its training patients: whether these are among them was not checked."
        for one in entrants
        if one.trained_on is None
    ]
    parts = []
    for key in dict.fromkeys(key for one in entrants for key in one.parts):
        able = [one for one in entrants if key in one.parts]
        items = sorted(set.intersection(*(set(one.parts[key]) for one in able)))
        if len(able) > 1 and items:
            parts.append(_part(key, able, _cases(key, able, items), resampling))
        else:
            why = "no item is common to all that have it" if len(able) > 1 else f"{able[0].name} alone has it"
            notes.append(f"{key.name} is not compared: {why}.")
    if not parts:
        _refuse_seen(entrants)
        raise BadValues(
            f"{', '.join(one.name for one in entrants)} have no item in common: compare what was trained on the same "
            "material with the same test patients (--fold, --split), by networks of the same kind."
        )
    notes += [
        f"{part.name}: decisions are not compared, as the column called is not filled in every file."
        for part in parts
        if part.cases.score is not None and part.cases.called is None
    ]
    notes += [
        f"{part.name}: AUC is not compared: it takes items of {' or '.join(POSITIVE)} and of {' or '.join(NEGATIVE)}, "
        f"and the truth has {', '.join(sorted(set(part.cases.truth.tolist())))}."
        for part in parts
        if part.cases.score is not None and not part.cases.ranked.any()
    ]
    return Comparison(
        methods=tuple(one.name for one in entrants),
        parts=_corrected(parts),
        resampling=resampling,
        notes=tuple(notes),
        weights=tuple(ref for one in entrants for ref in one.weights),
        files={one.name: one.file for one in entrants if one.file is not None},
    )


def _cases(key: Part, able: Sequence[Entrant], items: Sequence[str]) -> Cases:
    """The predictions of the same items.

    Raises:
        PatientOverlap, BadValues: see :func:`compare`.
    """
    rows = [[one.parts[key][item] for item in items] for one in able]
    for name in ("patient", "truth"):
        differing = [k for k in range(len(items)) if len({getattr(row[k], name) for row in rows}) > 1]
        if differing:
            told = ", ".join(
                f"{getattr(row[differing[0]], name)!r} in {one.name}" for row, one in zip(rows, able, strict=True)
            )
            raise BadValues(
                f"{len(differing)} of {len(items)} common items differ in their {name}: {items[differing[0]]!r} has "
                f"{told}. Compare methods by one and the same ground truth."
            )
    cases = Cases.of(rows)
    for one in able:
        refuse_overlap(one.trained_on or (), cases.patients.tolist(), (f"the training of {one.name}", "the comparison"))
    return cases


def _refuse_seen(entrants: Sequence[Entrant]) -> None:
    """Refuse methods that have no item in common since one was trained on what another is evaluated on."""
    for one, other in permutations(entrants, 2):
        tested = {prediction.patient for prediction in other.predictions}
        refuse_overlap(one.trained_on or (), tested, (f"the training of {one.name}", f"the test of {other.name}"))


def _part(key: Part, able: Sequence[Entrant], cases: Cases, resampling: Resampling) -> ComparedPart:
    methods = [one.name for one in able]
    figures = []
    for word, some, paired in cases.figures(resampling):
        patients = cases.patients[some].tolist()
        pairs = tuple(
            ComparedPair(
                first=methods[one.first],
                second=methods[one.second],
                difference=Estimate.of(one.interval, patients),
                test=one.test,
                p_value=None if np.isnan(one.p_value) else one.p_value,
                p_holm=None,
                details={k: v for k, v in one.details.items() if not np.isnan(v)},
            )
            for one in paired.differences
        )
        values = {m: Estimate.of(one, patients) for m, one in zip(methods, paired.figures, strict=True)}
        figures.append(ComparedFigure(word, len(patients), len(set(patients)), values, pairs))
    left_out = {one.name: len(one.parts[key]) - len(cases.truth) for one in able}
    patients = len(set(cases.patients.tolist()))
    return ComparedPart(key.name, len(cases.truth), patients, left_out, tuple(figures), cases)


def _corrected(parts: Sequence[ComparedPart]) -> tuple[ComparedPart, ...]:
    """The parts with p-values corrected for all tests together."""
    pairs = [pair for part in parts for figure in part.figures for pair in figure.pairs]
    known = [pair.p_value for pair in pairs if pair.p_value is not None]
    adjusted = iter(holm(known).tolist() if known else [])

    def of(pair: ComparedPair) -> ComparedPair:
        return pair if pair.p_value is None else replace(pair, p_holm=next(adjusted))

    return tuple(
        replace(
            part,
            figures=tuple(replace(figure, pairs=tuple(map(of, figure.pairs))) for figure in part.figures),
        )
        for part in parts
    )
