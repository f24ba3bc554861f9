"""What a query asks of a nodule, and whether a nodule has it: yes, no, or unknown."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import astuple, dataclass
from typing import Protocol

from nodulens.core.nodule import Attribute, Measurements, Position, Risk, Side, Texture

LITTLE_LUNG = "the scan shows too little of the lung to say where"
NO_RISK = "no risk is known"


class Finding(Protocol):
    """What a query asks of: a :class:`~nodulens.core.nodule.Nodule`, or :class:`Tracked`."""

    @property
    def id(self) -> int: ...
    @property
    def score(self) -> float: ...
    @property
    def texture(self) -> Texture: ...
    @property
    def position(self) -> Position: ...
    @property
    def measurements(self) -> Measurements: ...
    @property
    def risk(self) -> Risk | None: ...
    @property
    def attributes(self) -> tuple[Attribute, ...]: ...


@dataclass(frozen=True)
class Tracked:
    """A nodule of compared examinations, as the latest that shows it has it.

    Attributes:
        status: what became of it, as :data:`nodulens.followup.record.Status` says.
        current: whether the latest examination shows it.
    """

    id: int
    status: str
    current: bool
    score: float
    texture: Texture
    position: Position
    measurements: Measurements
    risk: Risk | None
    attributes: tuple[Attribute, ...]


class Criterion(Protocol):
    """One thing that a nodule has or lacks."""

    @property
    def unknown(self) -> str:
        """Why it may be unknown, as the end of a sentence."""

    def holds(self, nodule: Finding) -> bool | None:
        """Whether the nodule has it; None where its record does not say."""


@dataclass(frozen=True)
class Textured:
    """Of one of these textures."""

    textures: frozenset[Texture]
    unknown: str = "no texture is known"

    def holds(self, nodule: Finding) -> bool | None:
        """As :meth:`Criterion.holds`."""
        return nodule.texture in self.textures


@dataclass(frozen=True)
class Place:
    """Where in the lungs; None: anywhere."""

    side: Side | None = None
    lobe: str | None = None
    zone: str | None = None

    @property
    def unknown(self) -> str:
        """As :attr:`Criterion.unknown`."""
        return LITTLE_LUNG

    def agrees(self, other: Place) -> bool:
        """Whether a nodule can be in both; the left lung has no middle lobe."""
        both = self.common(other)
        alike = all(not a or not b or a == b for a, b in zip(astuple(self), astuple(other), strict=True))
        return alike and (both.side, both.lobe) != ("left", "middle")

    def common(self, other: Place) -> Place:
        """Where a nodule is that is in both, if they agree."""
        return Place(self.side or other.side, self.lobe or other.lobe, self.zone or other.zone)

    def holds(self, nodule: Finding) -> bool | None:
        """As :meth:`Criterion.holds`; lobes are estimated."""
        found = nodule.position
        parts = (
            self.side in (None, found.side),
            _same(self.lobe and f"{found.side} {self.lobe} lobe", found.lobe_estimate),
            _same(self.zone, found.zone),
        )
        return _all(parts)


@dataclass(frozen=True)
class Measure:
    """A number in a nodule's record.

    Attributes:
        value: of a nodule, in ``unit``; None where its record has none.
        unit: "mm", "mm³" or "share" (0…1).
        unknown: why there may be none.
    """

    value: Callable[[Finding], float | None]
    unit: str
    unknown: str = NO_RISK


@dataclass(frozen=True)
class Range:
    """A range of one measure.

    Attributes:
        measure: what is measured.
        low, high: ends.
        open: whether the ends themselves are out.
    """

    measure: Measure
    low: float = -math.inf
    high: float = math.inf
    open: bool = False

    @property
    def unknown(self) -> str:
        """As :attr:`Criterion.unknown`."""
        return self.measure.unknown

    def meets(self, other: Range) -> bool:
        """Whether a value can be in both."""
        low, high = max(self.low, other.low), min(self.high, other.high)
        return low < high or (low == high and not (self.open or other.open))

    def holds(self, nodule: Finding) -> bool | None:
        """As :meth:`Criterion.holds`."""
        value = self.measure.value(nodule)
        if value is None:
            return None
        return self.low < value < self.high if self.open else self.low <= value <= self.high


@dataclass(frozen=True)
class Property:
    """What a word says of a nodule.

    Attributes:
        has: whether a nodule has it; None where its record does not say.
        definition: a sentence that goes with every answer.
        unknown: why it may be unknown.
        prior: whether only a comparison with a prior scan tells.
        kind: of those of one kind a nodule has one at most; "" where others may go with it.
    """

    has: Callable[[Finding], bool | None]
    definition: str
    unknown: str = NO_RISK
    prior: bool = False
    kind: str = ""

    def holds(self, nodule: Finding) -> bool | None:
        """As :meth:`Criterion.holds`."""
        return self.has(nodule)


@dataclass(frozen=True)
class Condition:
    """A nodule must have one of these, or none of them where ``negated``."""

    any_of: tuple[Criterion, ...]
    negated: bool = False

    def holds(self, nodule: Finding) -> bool | None:
        """Whether a nodule meets it; None where its record does not say."""
        found = _any([criterion.holds(nodule) for criterion in self.any_of])
        return found if found is None or not self.negated else not found


@dataclass(frozen=True)
class Order:
    """What comes first: the most, or the least, of a measure."""

    measure: Measure
    most: bool


@dataclass(frozen=True)
class Query:
    """What is asked for: nodules that meet every condition.

    Attributes:
        conditions: all must hold.
        excluded: nodules that meet all of these are left out; none are where it is empty.
        order: what comes first; None: detection confidence.
        one: whether the query is for a single nodule.
        count: how many of the order's first; None: all that fit.
        place_in_order: 2 for "second largest".
        definitions: of words that could be read otherwise, as sentences.
    """

    conditions: tuple[Condition, ...] = ()
    excluded: tuple[Condition, ...] = ()
    order: Order | None = None
    one: bool = False
    count: int | None = None
    place_in_order: int | None = None
    definitions: tuple[str, ...] = ()

    @property
    def criteria(self) -> tuple[Criterion, ...]:
        """All that a nodule's record is asked for."""
        return tuple(one for condition in (*self.conditions, *self.excluded) for one in condition.any_of)

    def fits(self, nodule: Finding) -> bool | None:
        """Whether a nodule fits; None where its record does not say."""
        kept = _all(condition.holds(nodule) for condition in self.conditions)
        if not self.excluded or kept is False:
            return kept
        out = _all(condition.holds(nodule) for condition in self.excluded)
        return False if out else None if out is None else kept


def _same(wanted: str | None, found: str) -> bool | None:
    if wanted is None:
        return True
    return None if found == "unknown" else wanted == found


def _all(found: Iterable[bool | None]) -> bool | None:
    """Whether all hold: no where one does not, else unknown where one is."""
    known = list(found)
    return False if False in known else None if None in known else True


def _any(found: Iterable[bool | None]) -> bool | None:
    known = list(found)
    return True if True in known else None if None in known else False
