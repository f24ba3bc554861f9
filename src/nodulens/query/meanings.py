"""What words mean: every meaning that a word file may name, and what a nodule's record has for it.

:data:`PROPERTIES` is the one place where a word about a nodule's look, place or course is bound to its record. An entry
is a :class:`~nodulens.query.criteria.Property`, or the reason why the record cannot tell; to make a word answerable,
replace its reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from nodulens.core.nodule import Rating, Side, Texture
from nodulens.query.criteria import Finding, Measure, Order, Place, Property, Range, Tracked

# ---------------------------------------------------------------- measures

DIAMETER = Measure(lambda nodule: nodule.measurements.mean_diameter_mm, "mm")
VOLUME = Measure(lambda nodule: nodule.measurements.volume_mm3, "mm³")
RISK = Measure(lambda nodule: None if nodule.risk is None else nodule.risk.probability, "share")
CONFIDENCE = Measure(lambda nodule: nodule.score, "share")
PLEURA = Measure(lambda nodule: nodule.measurements.distance_to_pleura_mm, "mm")
MEASURES = {
    "DIAMETER": DIAMETER,
    "LONG_AXIS": Measure(lambda nodule: nodule.measurements.long_axis_mm, "mm"),
    "SHORT_AXIS": Measure(lambda nodule: nodule.measurements.short_axis_mm, "mm"),
    "SOLID_PART": Measure(lambda nodule: nodule.measurements.solid_diameter_mm, "mm"),
    "PLEURA_DISTANCE": PLEURA,
    "VOLUME": VOLUME,
    "RISK": RISK,
    "CONFIDENCE": CONFIDENCE,
}
SAID = {"IN_DIAMETER": DIAMETER, "IN_VOLUME": VOLUME, "FROM_PLEURA": PLEURA}
"""What was measured, said after the number."""
ORDERS = {
    "LARGEST": Order(DIAMETER, most=True),
    "SMALLEST": Order(DIAMETER, most=False),
    "MOST_VOLUME": Order(VOLUME, most=True),
    "BY_VOLUME": Order(VOLUME, most=True),
    "LEAST_VOLUME": Order(VOLUME, most=False),
    "MOST_SUSPICIOUS": Order(RISK, most=True),
    "LEAST_SUSPICIOUS": Order(RISK, most=False),
    "MOST_CERTAIN": Order(CONFIDENCE, most=True),
    "LEAST_CERTAIN": Order(CONFIDENCE, most=False),
    "BY_SIZE": Order(DIAMETER, most=True),
    "BY_SIZE_RISING": Order(DIAMETER, most=False),
    "BY_RISK": Order(RISK, most=True),
    "BY_CONFIDENCE": Order(CONFIDENCE, most=True),
}
SORTED = ("BY_VOLUME", "BY_SIZE", "BY_SIZE_RISING", "BY_RISK", "BY_CONFIDENCE")
"""Orders of all nodules, where no noun says that one is meant."""
UNITS = {"MM": ("mm", 1.0), "CM": ("mm", 10.0), "MM3": ("mm³", 1.0), "ML": ("mm³", 1000.0), "PERCENT": ("share", 0.01)}
"""Unit of a measure, and how much of it one is."""
UNMARKED = {"mm": DIAMETER, "mm³": VOLUME}
"""What a number measures where only its unit says it."""

ABOUT_MM, ABOUT_VOLUME = 1.5, 0.25
"""Two readings of one nodule differ by as much: Lung-RADS v2022 calls more than 1.5 mm of mean diameter growth, the
British Thoracic Society (2015) 25 % of volume or more."""


def about(measure: Measure, value: float) -> Range:
    """What cannot be told from a size."""
    margin = ABOUT_VOLUME * value if measure.unit == "mm³" else ABOUT_MM
    return Range(measure, value - margin, value + margin)


BOUNDS: dict[str, Callable[[Measure, float], Range]] = {
    "ABOVE": lambda measure, value: Range(measure, low=value, open=True),
    "AT_LEAST": lambda measure, value: Range(measure, low=value),
    "BELOW": lambda measure, value: Range(measure, high=value, open=True),
    "AT_MOST": lambda measure, value: Range(measure, high=value),
    "WITHIN": lambda measure, value: Range(measure, high=value),
    "ABOUT": about,
}
BOUNDS_AFTER: dict[str, Callable[[Measure, float], Range]] = {
    "OR_MORE": BOUNDS["AT_LEAST"],
    "OR_LESS": BOUNDS["AT_MOST"],
}

# ---------------------------------------------------------------- texture, size and place

TEXTURES: dict[str, frozenset[Texture]] = {
    "SOLID": frozenset({"solid"}),
    "PART_SOLID": frozenset({"part-solid"}),
    "SUBSOLID": frozenset({"part-solid", "ground-glass"}),
    "GROUND_GLASS": frozenset({"ground-glass"}),
}
SIZES: dict[str, tuple[Range, str]] = {
    "MASS": (Range(DIAMETER, low=30.0, open=True), "A mass has a mean diameter over 30 mm."),
    "MICRONODULE": (Range(DIAMETER, high=3.0, open=True), "A micronodule has a mean diameter under 3 mm."),
    "SUBCENTIMETRE": (Range(DIAMETER, high=10.0, open=True), "Subcentimetre is a mean diameter under 10 mm."),
}
"""Kinds of nodule by size (Hansell et al., Fleischner Society glossary, 2008), each with its definition."""
SIDES: dict[str, Side | None] = {"LEFT": "left", "RIGHT": "right", "BOTH": None}
AFTER = "_AFTER"
"""Ends the meaning of a side that is said after a lobe or zone, as in "upper lobe on the right"."""
LEVELS = {"UPPER": "upper", "MIDDLE": "middle", "LOWER": "lower"}
LOBES = {
    "RUL": Place("right", "upper"),
    "RML": Place("right", "middle"),
    "RLL": Place("right", "lower"),
    "LUL": Place("left", "upper"),
    "LLL": Place("left", "lower"),
}
AREAS = {"APICAL": "upper", "BASAL": "lower"}
AREAS_ARE_ZONES = "Apical and basal mean the upper and the lower third of the lung's height."

# ---------------------------------------------------------------- properties

SUBPLEURAL_MM = 10.0
CALCIFIED_HU = 200.0
SUSPICIOUS = 0.5
_PLEURA_IS = "the edge of the lung, at the mediastinum and the diaphragm too"
PRIOR = (
    "one scan cannot tell: that needs a comparison with a prior scan, and this report has none; ask what "
    "nodulens compare has written"
)
_CONTOUR = "the report does not rate how smooth a contour is; say well-defined, ill-defined, spiculated or lobulated"
_DIAGNOSIS = "imaging does not tell what a nodule is; say suspicious, or risk over 50 %"
_THIRDS = "of the way from the hilum to the edge of the lung; the hilum is estimated from position alone"
_GROWTH = "is a volume {} by a quarter or more, and by more than two measurements of one nodule differ"
_UNSURE = ("merged", "split", "not comparable")
_OTHER_ORGANS = "the report has nodules of the lungs alone"
_WITHIN = "the report does not say where in a nodule the calcium lies, nor how it is spread; say calcified"


def _rated(name: Rating, word: str, *, high: bool = True) -> Property:
    """A rating that readers would give, beyond the middle of LIDC's scale of 1 to 5."""

    def has(nodule: Finding) -> bool | None:
        found = [attribute.rating for attribute in nodule.attributes if attribute.name == name]
        return (found[0] > 3 if high else found[0] < 3) if found else None

    way = "over" if high else "under"
    said = f"{word} is a {name} {way} 3 of 5, as readers of LIDC-IDRI would rate it: a prediction."
    return Property(has, said, f"no rating of {name} is known", kind=name)


def _third(definition: str, low: float, high: float) -> Property:
    """A third of the way from the hilum to the edge of the lung."""

    def has(nodule: Finding) -> bool | None:
        way = nodule.position.hilum_to_edge_estimate
        return None if way is None else low <= way <= high

    return Property(has, f"{definition} {_THIRDS}.", "how far it is from the hilum is not known", kind="way")


def _became(definition: str, *statuses: str) -> Property:
    """What became of a nodule since the scan before."""

    def has(nodule: Finding) -> bool | None:
        if not isinstance(nodule, Tracked) or nodule.status in _UNSURE:
            return None
        return nodule.status in statuses

    unknown = "it has merged with another or split, or no other scan shows its place"
    return Property(has, definition, unknown, prior=True, kind="course")


CURRENT = Property(
    lambda nodule: isinstance(nodule, Tracked) and nodule.current,
    "Nodules of the current scan are meant; say resolved for those that are gone.",
)
"""What a query of a comparison that does not say "resolved" asks for."""

_PROPERTIES: Mapping[str, Property | str] = {
    "SUBPLEURAL": Property(
        lambda nodule: nodule.measurements.distance_to_pleura_mm < SUBPLEURAL_MM,
        f"Subpleural is less than {SUBPLEURAL_MM:g} mm from the pleura: {_PLEURA_IS}.",
    ),
    "AT_PLEURA": Property(
        lambda nodule: nodule.measurements.distance_to_pleura_mm == 0,
        f"At the pleura is an outline that touches {_PLEURA_IS}.",
    ),
    "SUSPICIOUS": Property(
        lambda nodule: None if nodule.risk is None else nodule.risk.probability >= SUSPICIOUS,
        f"Suspicious is a malignancy estimate of {SUSPICIOUS:.0%} or more.",
        kind="estimate",
    ),
    "BENIGN_LOOKING": Property(
        lambda nodule: None if nodule.risk is None else nodule.risk.probability < SUSPICIOUS,
        f"Benign-looking is a malignancy estimate under {SUSPICIOUS:.0%}.",
        kind="estimate",
    ),
    "CALCIFIED": Property(
        lambda nodule: nodule.measurements.p95_hu >= CALCIFIED_HU,
        f"Calcified is {CALCIFIED_HU:g} HU or more in a twentieth of the volume: smaller specks are not seen.",
        kind="calcium",
    ),
    "NONCALCIFIED": Property(
        lambda nodule: nodule.measurements.p95_hu < CALCIFIED_HU,
        f"Calcified is {CALCIFIED_HU:g} HU or more in a twentieth of the volume: smaller specks are not seen.",
        kind="calcium",
    ),
    "CALCIFIED_WITHIN": _WITHIN,
    "SPICULATED": _rated("spiculation", "Spiculated"),
    "LOBULATED": _rated("lobulation", "Lobulated"),
    "SHARP": _rated("margin", "Well-defined"),
    "ILL_DEFINED": _rated("margin", "Ill-defined", high=False),
    "SMOOTH": _CONTOUR,
    "IRREGULAR": _CONTOUR,
    "PLEURAL_TAG": "the report has no rating of tags to the pleura",
    "CAVITARY": "the report does not say whether a nodule has a cavity",
    "FATTY": "the report does not say whether a nodule has fat",
    "ENHANCING": "one scan does not tell how a nodule takes up contrast or tracer",
    "CENTRAL": _third("Central is the inner third", 0, 1 / 3),
    "PERIPHERAL": _third("Peripheral is the outer third", 2 / 3, 1),
    "NEW": _became("New is looked for in the scan before, and not there.", "new", "returned"),
    "GROWING": _became(f"Growing {_GROWTH.format('larger')}.", "growing"),
    "SHRINKING": _became(f"Shrinking {_GROWTH.format('smaller')}.", "shrinking"),
    "STABLE": _became("Stable is neither growing nor shrinking.", "stable"),
    "RESOLVED": _became("Resolved is looked for in the current scan, and not there.", "resolved"),
    "PERIHILAR": "structures at the hilum are not segmented; say central",
    "PERIFISSURAL": "fissures are not segmented",
    "SEGMENT": "segments of a lobe are not known; say a lobe or a zone",
    "ENDOBRONCHIAL": "airways are not segmented",
    "MEDIASTINAL": _OTHER_ORGANS,
    "LYMPH_NODE": _OTHER_ORGANS,
    "MALIGNANT": _DIAGNOSIS,
    "BENIGN": _DIAGNOSIS,
    "SMALL": "how small is meant? Say a size, as in under 6 mm",
    "LARGE": "how large is meant? Say a size, as in over 8 mm",
    "HIGH_RISK": "how high is meant? Say risk over 50 %, or suspicious",
    "LOW_RISK": "how low is meant? Say risk under 10 %, or benign-looking",
    "DOMINANT": "by size or by risk? Say largest, or most suspicious",
    "TWO_AXES": "a size is one number here, the mean diameter",
}
NAMED = {"CALCIFICATION": "CALCIFIED", "SPICULATION": "SPICULATED", "LOBULATION": "LOBULATED", "GROWTH": "GROWING"}
"""Nouns for a property. A property beside one would be the noun's, as in "new calcification", which no record tells."""
PROPERTIES: Mapping[str, Property | str] = {
    **_PROPERTIES,
    **{noun: _PROPERTIES[meaning] for noun, meaning in NAMED.items()},
}

# ---------------------------------------------------------------- numbers, and what has a meaning by itself

NUMBERS = {
    word: k
    for k, word in enumerate(["ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT", "NINE", "TEN"], start=1)
}
ORDINALS = {word: k for k, word in enumerate(["FIRST", "SECOND", "THIRD", "FOURTH", "FIFTH"], start=1)}
NODULES = {"NODULE": False, "NODULES": True}
"""Whether there are several."""
CONNECTIVES = ("FILLER", "OF", "ALL", "NOT", "EXCEPT", "AND", "OR", "BUT", "TO", "BETWEEN", "TOP", "TH", "LUNG")

TERMINALS: Mapping[str, str] = {
    **{meaning: meaning for meaning in CONNECTIVES},
    "OPENER": "FILLER",
    "SINCE": "FILLER",
    "NO": "NOT",  # "no solid nodules" denies that there are any, "nodules, no masses" leaves some out
    "NON": "NOT",  # "non-spiculated or calcified": of the first alone, or of both
    "IS": "FILLER",  # asks of what an order has chosen, as in "is the largest nodule solid?"
    "AMONG": "OF",  # before an order it chooses first, as in "solid nodules among the three largest"
    "FROM": "OF",  # after a length it would be a distance
    "UNTIL": "TO",  # "bis" is "up to" where no number comes before it
    **dict.fromkeys(TEXTURES, "TEXTURE"),
    **dict.fromkeys(SIZES, "SIZE"),
    **dict.fromkeys(PROPERTIES, "PROPERTY"),
    **dict.fromkeys(ORDERS, "ORDER"),
    **dict.fromkeys(MEASURES, "MEASURE"),
    **dict.fromkeys(SAID, "SAID"),
    **dict.fromkeys(UNITS, "UNIT"),
    **dict.fromkeys(BOUNDS, "BOUND"),
    **dict.fromkeys(BOUNDS_AFTER, "BOUND_AFTER"),
    **dict.fromkeys(SIDES, "SIDE"),
    **dict.fromkeys((side + AFTER for side in SIDES), "SIDE_AFTER"),
    **dict.fromkeys(LEVELS, "LEVEL"),
    **dict.fromkeys(("LOBE", "ZONE"), "KIND"),
    **dict.fromkeys(LOBES, "LOBE_NAME"),
    **dict.fromkeys(AREAS, "AREA"),
    **dict.fromkeys(NUMBERS, "NUMBER_WORD"),
    **dict.fromkeys(ORDINALS, "ORDINAL"),
    **dict.fromkeys(NODULES, "NOUN"),
}
"""Meaning → terminal of the grammar."""
