"""What guidelines say, in words: for the page and for a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from nodulens.clinical import lung_rads_v2022
from nodulens.clinical.record import Estimate, Missing, Outcome, Result


@dataclass(frozen=True)
class Line:
    """What a guideline or a risk model says, as a page shows it.

    Attributes:
        name: of the guideline or model.
        text: the category and the next step, or the probability.
        more: the rest of the recommendation, how it came about, and what would change it.
    """

    name: str
    text: str
    more: tuple[str, ...]


def line_of_result(result: Result) -> Line:
    """The next step of a known category is the first sentence of its recommendation; what is open is said whole."""
    step, rest = result.recommendation, ""
    if result.category is not None:
        step, stop, rest = step.partition(". ")
        step += stop.rstrip()
    more = (*filter(None, [rest]), *basis(result), *questions(result.missing))
    return Line(result.guideline, f"{_stem(result)}{step}", more)


def line_of_estimate(estimate: Estimate) -> Line:
    """The probability of a model."""
    text = f"{chance(estimate)} probability of malignancy"
    return Line(estimate.model, text, (*estimate.notes, *questions(estimate.missing)))


def said(result: Result) -> str:
    """The category, or those that it can be, and the recommendation, which alone is what sources without names say."""
    return f"{_stem(result)}{result.recommendation}"


def _stem(result: Result) -> str:
    """What is said before a recommendation."""
    if result.category is not None:
        return f"{result.category}. " if result.guideline == lung_rads_v2022.NAME else ""
    return f"{either(result.possible)}. " if result.possible else ""


def basis(result: Result) -> list[str]:
    """The rule and the cell that led to a category, and how the inputs were taken; what is open has no one cell."""
    led = [f"{result.rule}: {result.cell}"] if result.category is not None or not result.possible else []
    return [*led, *result.notes]


def chance(estimate: Estimate) -> str:
    """The probability of a model, or its range."""
    if estimate.probability is not None:
        return percent(estimate.probability)
    if estimate.lowest is None or estimate.highest is None:
        return "none" if not estimate.missing else "open"
    return between((estimate.lowest, estimate.highest))


def questions(missing: tuple[Missing, ...]) -> Iterator[str]:
    """What would change the result, a line each: what leaves it open first, then what a reader may state."""
    for one in missing:
        if one.decisive:
            yield f"Not stated: {_question(one)}"
    for one in missing:
        if not one.decisive:
            yield f"Until stated otherwise: {_question(one)}"


def _question(one: Missing) -> str:
    runs = groupby(one.outcomes, _outcome)
    outcomes = "; ".join(f"{', '.join(outcome.value for outcome in run)} → {said_}" for said_, run in runs)
    return f"{one.ask}{': ' if outcomes else ''}{outcomes}"


def _outcome(outcome: Outcome) -> str:
    if outcome.probability is not None:
        return between(outcome.probability)
    return either(outcome.categories) if outcome.categories else "no category"


def either(names: tuple[str, ...]) -> str:
    """Such as "2, 3 or 4A"; names with commas of their own are divided by slashes."""
    if any("," in name for name in names):
        return " / ".join(names)
    return " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def between(ends: tuple[float, float]) -> str:
    """A range of probabilities; one number where its ends look the same."""
    low, high = map(percent, ends)
    return low if low == high else f"{low} to {high}"


def percent(share: float) -> str:
    """Whole per cent from 10 %, one decimal below; "< 0.1 %" and "> 99 %" at the ends."""
    if share < 0.001:
        return "< 0.1 %"
    if share > 0.99:
        return "> 99 %"
    return f"{100 * share:.1f} %" if share < 0.0995 else f"{100 * share:.0f} %"
