"""A rule applied to a case of which not everything is known: to every way in which it may be completed.

Rules are functions of complete cases. What is missing is a list of questions, each with the values that its answer can
take; those whose answer would change nothing are dropped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from nodulens.clinical.facts import NODULE_FIELDS, Case
from nodulens.clinical.record import Estimate, Missing, Outcome, Result

Values = tuple[tuple[str, Any], ...]
"""Answers: in words, and as a value."""
OPEN: Final = object()
"""Nothing is taken in place of an answer: each of its values is tried."""
RANGED: Final = object()
"""As OPEN, but the rule itself takes a case without the answer, and gives every decision that it may come to."""
Range = tuple[float, float]
"""Lowest and highest probability, 0…1."""


@dataclass(frozen=True)
class Decision:
    """What a rule says of a complete case.

    Attributes:
        category: None where the source has no rule for the case.
        recommendation, next_ct_months, rule, cell: as of :class:`~nodulens.clinical.record.Result`.
    """

    category: str | None
    recommendation: str
    next_ct_months: tuple[int, int] | None
    rule: str
    cell: str


def always(case: Case) -> bool:
    """A question of every case."""
    return True


@dataclass(frozen=True)
class Question:
    """An input that a rule takes, and that may not be stated.

    Attributes:
        name: of a field of the nodule's or the patient's facts.
        ask: how to state it.
        values: the answer in words, and as a value of the field; or a function of the case that gives them.
        applies: whether a case needs it; called with what was stated so far.
        unstated: what is taken until a reader states it; ``OPEN`` and ``RANGED``: nothing,
            the result is left open.
    """

    name: str
    ask: str
    values: Values | Callable[[Case], Values]
    applies: Callable[[Case], bool] = always
    unstated: Any = OPEN

    def answers(self, case: Case) -> Values:
        """The values that the answer can take in a case."""
        return self.values(case) if callable(self.values) else self.values

    def open(self, case: Case) -> bool:
        """Whether the case needs an answer and has none."""
        return self.applies(case) and _get(case, self.name) is None


YES_NO: Values = (("yes", True), ("no", False))


def decide(
    guideline: str,
    rule: Callable[[Case], Sequence[Decision]],
    case: Case,
    questions: Sequence[Question],
    order: Sequence[str],
    notes: Sequence[str] = (),
) -> Result:
    """What a guideline says of a case, open inputs and all.

    Args:
        guideline: its name and edition.
        rule: every decision that it may come to in a case that is known but for ranged questions.
        case: as far as it is known.
        questions: in the order in which they are asked.
        order: every category, the least suspicious first.
        notes: sentences on how the inputs were taken.
    """

    def decisions_of(given: Case) -> list[Decision]:
        return [decision for one in _completed(given, questions) for decision in rule(one)]

    def categories(given: Case) -> tuple[str, ...]:
        found = {one.category for one in decisions_of(given)}
        return tuple(name for name in order if name in found)

    decisions = list(dict.fromkeys(decisions_of(case)))
    known = len({(one.category, one.recommendation) for one in decisions}) == 1
    possible = categories(case)
    missing = []
    for question in questions:
        if question.open(case):
            outcomes = tuple(
                Outcome(word, categories(with_answer(case, question.name, value)))
                for word, value in question.answers(case)
            )
            decisive = question.unstated in (OPEN, RANGED)
            if len({one.categories for one in outcomes}) > 1 or (decisive and not known and len(possible) > 1):
                missing.append(Missing(question.name, question.ask, decisive, outcomes))
    rules, cells = (
        "; ".join(dict.fromkeys(words)) for words in zip(*((d.rule, d.cell) for d in decisions), strict=True)
    )
    if known:
        first = decisions[0]
        return Result(
            guideline, first.category, possible, first.recommendation, first.next_ct_months, rules, cells,
            tuple(missing), tuple(notes),
        )  # fmt: skip
    asked = "; ".join(one.ask for one in missing if one.decisive)
    return Result(
        guideline, None, possible, f"Open. Not stated: {asked}.", None, rules, cells, tuple(missing), tuple(notes)
    )


def estimate(
    model: str,
    probability: Callable[[Case], float],
    case: Case,
    questions: Sequence[Question],
    notes: Sequence[str] = (),
) -> Estimate:
    """The probability of a model, or its range over what is open.

    Args:
        model: its name and year.
        probability: of a complete case, 0…1; its log odds are a sum of one term for each input.
        case: as far as it is known.
        questions: in the order in which they are asked.
        notes: sentences on how the inputs were taken.
    """
    whole, answered = ranges(probability, case, questions)
    missing = []
    for question in questions:
        if not question.open(case):
            continue
        outcomes = tuple(
            Outcome(
                word,
                probability=answered[question.name, word]
                if question.unstated is OPEN
                else ranges(probability, with_answer(case, question.name, value), questions)[0],
            )
            for word, value in question.answers(case)
        )
        missing.append(Missing(question.name, question.ask, question.unstated is OPEN, outcomes))
    low, high = whole
    return Estimate(model, low if low == high else None, low, high, tuple(missing), tuple(notes))


def ranges(
    probability: Callable[[Case], float], case: Case, questions: Sequence[Question]
) -> tuple[Range, dict[tuple[str, str], Range]]:
    """Lowest and highest probability over what is open; and for each answer to an open question, by field and words.

    As the log odds are a sum of one term for each input, the extremes are those of every input by itself.
    """
    open_ = [one for one in questions if one.open(case) and one.unstated is OPEN]
    base = next(iter(_completed(case, questions))) if open_ else case
    if not open_:
        exact = probability(case)
        return (exact, exact), {}
    start = _log_odds(probability(base))
    terms = {
        one.name: {
            word: _log_odds(probability(with_answer(base, one.name, value))) - start
            for word, value in one.answers(case)
        }
        for one in open_
    }

    def extremes(fixed: Mapping[str, float]) -> Range:
        low, high = (
            start + sum(fixed[name] if name in fixed else end(row.values()) for name, row in terms.items())
            for end in (min, max)
        )
        return probability_of(low), probability_of(high)

    answered = {(name, word): extremes({name: term}) for name, row in terms.items() for word, term in row.items()}
    return extremes({}), answered


def _log_odds(probability: float) -> float:
    return math.log(probability / (1 - probability))


def probability_of(log_odds: float) -> float:
    """What a logistic model's sum stands for, 0…1."""
    return 1 / (1 + math.exp(-log_odds))


def with_answer(case: Case, name: str, value: Any) -> Case:
    """The case with one more fact of the nodule or the patient."""
    if name in NODULE_FIELDS:
        return replace(case, nodule=replace(case.nodule, **{name: value}))
    return replace(case, patient=replace(case.patient, **{name: value}))


def _get(case: Case, name: str) -> Any:
    return getattr(case.nodule if name in NODULE_FIELDS else case.patient, name)


def _completed(case: Case, questions: Sequence[Question]) -> Iterator[Case]:
    """Every way to complete a case; what a reader has not stated is taken as such, ranged questions stay open."""
    for question in questions:
        if question.unstated is OPEN and question.open(case):
            for _, value in question.answers(case):
                yield from _completed(with_answer(case, question.name, value), questions)
            return
    for question in questions:
        if question.unstated not in (OPEN, RANGED, None) and question.open(case):
            case = with_answer(case, question.name, question.unstated)
    yield case
