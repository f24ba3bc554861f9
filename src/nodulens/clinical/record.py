"""What a guideline says of a nodule or an examination, as a record that shows how it came about."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    """What would be said if a missing input had one of the values that it can take.

    Attributes:
        value: the value, in words.
        categories: the category; several where it also depends on other missing inputs.
        probability: lowest and highest probability, 0…1, of a model; None of a guideline.
    """

    value: str
    categories: tuple[str, ...] = ()
    probability: tuple[float, float] | None = None


@dataclass(frozen=True)
class Missing:
    """An input that was not stated and would change the result.

    Attributes:
        input: its name.
        ask: how to state it.
        decisive: nothing was taken in its place. Otherwise the result holds until a reader states it.
        outcomes: for each value that it can take; empty for a length, which can take any.
    """

    input: str
    ask: str
    decisive: bool
    outcomes: tuple[Outcome, ...]


@dataclass(frozen=True)
class Result:
    """What one guideline says.

    Attributes:
        guideline: its name and edition.
        category: by Lung-RADS' names, or what the table asks for in a few words; None while it is open.
        possible: the categories that it can be, the least suspicious first; one where it is known, none where the
            source has no rule or lacks a size.
        recommendation: what the source recommends, in our words.
        next_ct_months: earliest and latest month of the next CT; None where none is due, or it is open.
        rule: the part of the source that was applied.
        cell: the cell of the table, or the branch of the algorithm.
        missing: inputs that would change it.
        notes: sentences on how the inputs were taken.
    """

    guideline: str
    category: str | None
    possible: tuple[str, ...]
    recommendation: str
    next_ct_months: tuple[int, int] | None
    rule: str
    cell: str
    missing: tuple[Missing, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Estimate:
    """The probability that one risk model gives.

    Attributes:
        model: its name and year.
        probability: that the nodule is malignant, 0…1; None while it is open.
        lowest, highest: over the values that the missing inputs can take; None where a size is missing, or the model
            does not apply.
        missing: inputs that would change it.
        notes: sentences on how the inputs were taken.
    """

    model: str
    probability: float | None
    lowest: float | None
    highest: float | None
    missing: tuple[Missing, ...] = ()
    notes: tuple[str, ...] = ()
