"""Refuses what the grammar takes and what has two readings, or none.

The grammar lets phrases stand in any order, so it cannot tell what a word belongs to. A rule here looks at one word and
its neighbours before the text is parsed, and returns what to say where the word cannot stand there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

from nodulens.errors import BadPrompt
from nodulens.query.criteria import Place, Property, Query, Range
from nodulens.query.lexicon import Word
from nodulens.query.meanings import MEASURES, NAMED, PROPERTIES, UNMARKED
from nodulens.query.parts import EDGE, NUMBERS_BEGIN, NUMBERS_END, SILENT, after, before, first

HAD = (*NAMED, "SOLID_PART")
"""What a nodule has, as nouns."""
GROWTH = ("GROWING", "SHRINKING", "GROWTH")
PLACES = ("SIDE", "LEVEL", "AREA", "KIND", "LUNG", "LOBE_NAME")
RANKS = ("ORDER", "ORDINAL", "TH")
COUNTS = ("NUMBER", "NUMBER_WORD")
ORDER_OF_ALL = "an order is for all that is asked for, as in largest solid nodule"

Rule = Callable[[Sequence[Word], int], str | None]
"""What to say of a text where the word at an index cannot stand; None where it can."""


def check_words(words: Sequence[Word]) -> None:
    """Apply all rules to a text.

    Raises:
        BadPrompt: a word cannot stand where it does.
    """
    for rules in RULES:
        for at in range(len(words)):
            for rule in rules:
                said = rule(words, at)
                if said:
                    raise BadPrompt(said)


# ---- one question at a time, with an order for all of it


def _all_but(words: Sequence[Word], at: int) -> str | None:
    """Refuse "all but masses", which means except."""
    if words[at].meaning == "BUT" and before(words, at, "COMMA").terminal in (EDGE.terminal, "ALL", "NOUN"):
        return f"I do not understand {words[at].text!r} here: say except, or but not"
    return None


def _joined_to_order(words: Sequence[Word], at: int) -> str | None:
    """Refuse "solid nodules and the largest", which asks for two things."""
    if words[at].terminal not in (*RANKS, "ALL", "TOP"):
        return None
    joined = before(words, at, *SILENT, *COUNTS, "COMMA")
    if joined.terminal in ("AND", "OR"):
        return f"I do not understand {joined.text!r} before {words[at].text!r}: ask for one thing at a time"
    return None


def _order_in_each(words: Sequence[Word], at: int) -> str | None:
    """Refuse "largest nodule in every lung", which asks for several; "the largest of all left lung nodules" does
    not."""
    if words[at].meaning != "ALL" or after(words, at, "FILLER").terminal not in PLACES:
        return None
    if first(words[:at], "ORDER") and not first(words[at:], "NOUN"):
        return f"I do not understand {words[at].text!r} before a place: ask for one lung or lobe at a time"
    return None


def _ordinal_after_order(words: Sequence[Word], at: int) -> str | None:
    """Refuse "smallest second", and "most certain first", which may ask for one or for all."""
    order = before(words, at)
    if words[at].terminal == "ORDINAL" and order.terminal == "ORDER":
        return f"I do not understand {words[at].text!r} after {order.text!r}: say nodules by size, or second largest"
    return None


def _among_chosen(words: Sequence[Word], at: int) -> str | None:
    """Refuse "solid nodules among the three largest", which chooses first and asks then: the answer would be the
    largest solid nodules."""
    if words[at].meaning != "AMONG":
        return None
    order = after(words, at, "FILLER", "TOP", *COUNTS)
    if order.terminal in RANKS:
        return f"I do not understand {words[at].text!r} before {order.text!r}: {ORDER_OF_ALL}"
    return None


def _asked_of_chosen(words: Sequence[Word], at: int) -> str | None:
    """Refuse "is the largest nodule solid?" and "the largest nodule is solid", which choose first and ask then."""
    if words[at].meaning != "IS":
        return None
    opens = at == 0 and first(words, "ORDER")
    follows = before(words, at).terminal in ("NOUN", "ORDER") and first(words[:at], "ORDER")
    return f"I do not understand {words[at].text!r} here: {ORDER_OF_ALL}" if opens or follows else None


# ---- what is denied


def _none_asked_for(words: Sequence[Word], at: int) -> str | None:
    """Refuse "no solid nodules" and "are there no masses?", which ask for none, and "nodule no 5"."""
    if words[at].meaning != "NO":
        return None
    opens = first(words[at:], "NOUN") and not first(words[:at], "NOUN")
    if opens or after(words, at).terminal == "NUMBER":
        return f"I do not understand {words[at].text!r} before what is asked for: say nodules, no masses"
    return None


# ---- what has a property, a course or a size


def _time_alone(words: Sequence[Word], at: int) -> str | None:
    """Refuse "over 8 mm since the last CT", which does not say what became of a nodule."""
    if words[at].meaning != "SINCE":
        return None
    known = [PROPERTIES.get(word.meaning) for word in words]
    if any(isinstance(one, Property) and one.prior for one in known):
        return None
    return f"{words[at].text!r} goes with new, growing, shrinking, stable or resolved"


def _property_of_part(words: Sequence[Word], at: int) -> str | None:
    """Refuse "new calcification" and "central solid component", whose property is the part's; but not "new nodules with
    calcification"."""
    former, latter = before(words, at, *SILENT), words[at]
    if former.meaning in HAD:
        part, other = former, latter
    elif former == before(words, at):  # "central, with calcification" is two things
        part, other = latter, former
    else:
        return None
    if part.meaning in HAD and other.terminal == "PROPERTY":
        return (
            f"I do not understand {other.text!r} beside {part.text!r}: it is known of whole nodules alone, as in "
            "new nodules with calcification"
        )
    return None


def _size_of_growth(words: Sequence[Word], at: int) -> str | None:
    """Refuse "grown by over 2 mm" and "um 2 mm gewachsen": a size is what a nodule has, not what it has gained."""
    former, latter = before(words, at, *SILENT), words[at]
    if former.meaning in GROWTH and latter.terminal in (*NUMBERS_BEGIN, "MEASURE"):
        growth = former
    elif latter.meaning in GROWTH and former.terminal in (*NUMBERS_END, "SAID"):
        growth = latter
    else:
        return None
    return (
        f"I do not understand {growth.text!r} beside a number: by how much a nodule has grown is not asked for here; "
        "of its size say growing nodules over 8 mm"
    )


def _order_of_measure(words: Sequence[Word], at: int) -> str | None:
    """Refuse "largest solid component over 5 mm", where it is not clear what is largest."""
    order = before(words, at)
    if words[at].terminal == "MEASURE" and order.terminal == "ORDER":
        return f"I do not understand {order.text!r} before {words[at].text!r}: say largest nodule, or a size"
    return None


def _measure_between_sizes(words: Sequence[Word], at: int) -> str | None:
    """Refuse "over 6 mm long axis over 4 mm", where it is not clear which of the two is the long axis."""
    if words[at].terminal != "MEASURE" or MEASURES[words[at].meaning] in UNMARKED.values():
        return None
    if before(words, at).terminal in NUMBERS_END and after(words, at).terminal in NUMBERS_BEGIN:
        return f"Which of the two is {words[at].text!r}? Put a comma between the sizes"
    return None


def _distance_from_other(words: Sequence[Word], at: int) -> str | None:
    """Refuse "2 cm from the diaphragm": the distance to the pleura alone is known."""
    if words[at].meaning == "FROM" and before(words, at).terminal in ("NUMBER", "UNIT"):
        return f"I do not understand {words[at].text!r} after a length: say from the pleura"
    return None


RULES: Sequence[Sequence[Rule]] = (
    (_all_but, _joined_to_order),
    (_time_alone,),
    (_property_of_part,),
    (_size_of_growth,),
    (_none_asked_for,),
    (_order_in_each,),
    (_ordinal_after_order,),
    (_among_chosen, _asked_of_chosen),
    (_order_of_measure, _measure_between_sizes),
    (_distance_from_other,),
)
"""Where several refuse a text, the earlier row has its say; in one row, what refuses the earlier word."""


# ---- the whole query


def check_query(query: Query) -> None:
    """Refuse a number without an order that it counts in, and what no nodule can be.

    Raises:
        BadPrompt: the query asks for it.
    """
    if query.order is None and query.place_in_order is not None:
        raise BadPrompt("Which order is counted in? Say second largest, or third most suspicious")
    if query.order is None and query.count is not None:
        count = query.count
        raise BadPrompt(f"Which {count}? Say {count} largest, smallest, most suspicious or most certain")
    wanted = [condition.any_of for condition in query.conditions if not condition.negated]
    possible = {Place()}
    for any_of in wanted:
        places = [one for one in any_of if isinstance(one, Place)]
        if places:
            possible = {a.common(b) for a in possible for b in places if a.agrees(b)}
    if not possible:
        raise BadPrompt("No place in the lungs is in all of the places named; join them with or")
    ranges = [one for any_of in wanted if len(any_of) == 1 for one in any_of if isinstance(one, Range)]
    if any(a.measure is b.measure and not a.meets(b) for a, b in combinations(ranges, 2)):
        raise BadPrompt("No nodule is in all of the ranges named; ask for one range at a time")
