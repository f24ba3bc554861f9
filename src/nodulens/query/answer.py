"""The nodules that fit a query, in its order, and what must be said of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from nodulens.errors import BadPrompt
from nodulens.query.criteria import Finding, Order, Place, Query
from nodulens.query.lexicon import Lexicon
from nodulens.query.meanings import CONFIDENCE
from nodulens.query.parser import parse

LOBES_ESTIMATED = (
    "Lobes are estimated from position alone, without fissures: near one, the neighbouring lobe may be meant."
)

Asked = TypeVar("Asked", bound=Finding)


@dataclass(frozen=True)
class QueryResult(Generic[Asked]):
    """The nodules that fit a query in its order, and notes on them, each a sentence."""

    nodules: tuple[Asked, ...]
    notes: tuple[str, ...] = field(default=())


def resolve(
    text: str, nodules: Sequence[Asked], lexicons: Sequence[Lexicon] | None = None, *, compared: bool = False
) -> QueryResult[Asked]:
    """The nodules that match a text query, in its order; by detection confidence if it has none.

    Args:
        text: in any of the languages; all its words are of one.
        nodules: of a report, or of :func:`nodulens.followup.findings.tracked`.
        lexicons: see :func:`~nodulens.query.lexicon.load_lexicons`; None for the languages that ship.
        compared: whether they are of a comparison.

    Raises:
        BadPrompt: as :func:`~nodulens.query.parser.parse`.
    """
    return answer(parse(text, lexicons, compared=compared), nodules)


def answer(query: Query, nodules: Sequence[Asked]) -> QueryResult[Asked]:
    """The nodules that match a query, in its order; by detection confidence if it has none."""
    fits = [n for n in nodules if query.fits(n)]
    order = query.order or Order(CONFIDENCE, most=True)
    value = order.measure.value
    known = sorted(
        (n for n in fits if value(n) is not None),
        key=lambda n: (-(value(n) or 0.0) if order.most else (value(n) or 0.0), n.id),
    )
    first = (query.place_in_order or 1) - 1
    wanted = 1 if query.one and query.order else query.count
    found = known[first:] if wanted is None else known[first : first + wanted]
    notes = _notes(query, nodules, known)
    if (
        wanted is not None
        and found
        and len(known) > first + wanted
        and value(known[first + wanted]) == value(found[-1])
    ):
        notes.append(f"Nodule {known[first + wanted].id} comes next with the very same value.")
    if len(found) < (wanted or 1):
        notes.insert(0, f"{len(known)} of {_nodules(len(nodules))} fit; you asked for {_wanted(query)}.")
    return QueryResult(tuple(found), tuple(notes))


def only(query: Query, nodules: Sequence[Asked]) -> tuple[Asked, tuple[str, ...]]:
    """The one nodule that matches a query, and notes on it.

    Raises:
        BadPrompt: none or several match; the message says which.
    """
    found = answer(query, nodules)
    notes = " ".join(found.notes)
    if not found.nodules:
        raise BadPrompt(f"No finding is meant. {notes}")
    if len(found.nodules) > 1:
        raise BadPrompt(f"More than one finding is meant: {_numbered(found.nodules)}. Say largest, or where. {notes}")
    return found.nodules[0], found.notes


def _notes(query: Query, nodules: Sequence[Finding], known: Sequence[Finding]) -> list[str]:
    notes = list(query.definitions)
    if any(isinstance(criterion, Place) and criterion.lobe for criterion in query.criteria):
        notes.append(LOBES_ESTIMATED)
    unknown: dict[str, list[Finding]] = {}
    for nodule in nodules:
        reason = _unknown(query, nodule)
        if reason:
            unknown.setdefault(reason, []).append(nodule)
    notes += [f"Left out because {reason}: {_numbered(left)}." for reason, left in unknown.items()]
    if query.one and not query.order and len(known) > 1:
        notes.append(f"You asked for one and {len(known)} fit: all of them are given, for none is singled out.")
    return notes


def _unknown(query: Query, nodule: Finding) -> str | None:
    """Why a nodule that may fit is left out; None where it is not."""
    fits = query.fits(nodule)
    if fits is None:
        return next(criterion.unknown for criterion in query.criteria if criterion.holds(nodule) is None)
    if fits and query.order and query.order.measure.value(nodule) is None:
        return query.order.measure.unknown
    return None


def _numbered(nodules: Sequence[Finding]) -> str:
    return f"nodule{'s' * (len(nodules) > 1)} {', '.join(str(nodule.id) for nodule in nodules)}"


def _nodules(count: int) -> str:
    return f"{count} nodule{'s' * (count != 1)}"


def _wanted(query: Query) -> str:
    if query.place_in_order:
        return f"number {query.place_in_order}"
    return "one" if query.one else str(query.count) if query.count else "all that do"
