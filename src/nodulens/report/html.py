"""HTML pages from Jinja templates, and the parts common to pages of reports and of evaluations.

Values are escaped unless they are :class:`markupsafe.Markup`; an undefined name is an error.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

THICK = 1.6
"""Width of the point on a scale of 100."""


@dataclass(frozen=True)
class Entry:
    """A name and its value in a list.

    Attributes:
        code: whether the value is in a monospaced font.
        copied: id of the value's element for a copy button; empty without one.
    """

    name: str
    value: object
    code: bool = False
    copied: str = ""


@dataclass(frozen=True)
class Bar:
    """A scale from 0 to 100 with a band and a point, in SVG units.

    Attributes:
        words: text alternative.
        start, width: left edge and width of the band.
        point: left edge of the point.
        thick: width of the point.
    """

    words: str
    start: str
    width: str
    point: str
    thick: float = THICK


def bar(share: float, words: str, interval: tuple[float, float] | None = None) -> Bar:
    """A scale from 0 to 1 with a point at ``share``; the band is the interval, or everything below the point."""
    point = f"{min(max(100 * share - THICK / 2, 0), 100 - THICK):.2f}"
    if interval is None:
        return Bar(words, "0", f"{100 * share:.2f}", point)
    low, high = (100 * end for end in interval)
    return Bar(words, f"{low:.2f}", f"{max(0.0, high - low):.2f}", point)


def number(value: float, decimals: int, *, sign: bool = False) -> str:
    """A number with a real minus and narrow spaces; with its sign where asked for."""
    text = f"{value:{'+' if sign else ''},.{decimals}f}".replace(",", "\u202f")
    if not float(f"{value:.{decimals}f}"):
        return text.replace("-", "").replace("+", "")
    return text.replace("-", "\u2212")


@lru_cache
def templates(*packages: str) -> Environment:
    """The templates in the folders ``templates`` of some packages; earlier packages take precedence."""
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package) for package in packages]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["policy_hash"] = policy_hash
    return environment


def source(environment: Environment, *names: str) -> Markup:
    """The style or script in some files of the templates, concatenated without escaping.

    Lines end in a newline on every platform.
    """
    assert environment.loader is not None
    texts = [environment.loader.get_source(environment, name)[0] for name in names]
    return Markup("".join(texts).replace("\r\n", "\n"))


def script_data(document: object) -> Markup:
    """JSON that cannot end its script element."""
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))


def policy_hash(text: str) -> str:
    """The hash that allows a style or script in a Content-Security-Policy."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
