"""HTML from the package's templates, where nothing but the templates becomes markup.

A template file holds named fragments, ``<!-- begin name -->`` to ``<!-- end name -->``, with places for values as
``{{name}}``. Whatever is put there is escaped unless it is :class:`Markup`.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files


class Markup(str):
    """Text that is HTML already, and safe."""

    __slots__ = ()


@dataclass(frozen=True)
class Template:
    """The fragments of some files of ``nodulens/templates``; of two with one name the later file's counts."""

    names: tuple[str, ...]

    def fill(self, fragment: str, values: Mapping[str, object]) -> Markup:
        """A fragment with its ``{{names}}`` replaced.

        Raises:
            KeyError: no such fragment, or no value for one of its names.
        """

        def put(match: re.Match[str]) -> str:
            value = values[match[1]]
            return value if isinstance(value, Markup) else html.escape(str(value))

        return Markup(re.sub(r"\{\{(\w+)\}\}", put, _fragments(self.names)[fragment]))

    def each(self, fragment: str, rows: Iterable[Mapping[str, object]]) -> Markup:
        """The fragment once a row, each on a line of its own."""
        return Markup("\n".join(self.fill(fragment, row) for row in rows))

    def pairs(self, fragment: str, pairs: Iterable[tuple[str, object]]) -> Markup:
        """The fragment once a ``name`` and ``value``."""
        return self.each(fragment, ({"name": name, "value": value} for name, value in pairs))


@lru_cache
def resource(name: str) -> str:
    """The text of a file of ``nodulens/templates``, with lines ending in a newline on every system."""
    return (files("nodulens") / "templates" / name).read_text("utf-8").replace("\r\n", "\n")


def policy_hash(text: str) -> Markup:
    """What a Content-Security-Policy calls a style or script that may take part."""
    return Markup("sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii"))


@lru_cache
def _fragments(names: tuple[str, ...]) -> Mapping[str, str]:
    found = re.findall(r"<!-- begin (\w+) -->\n(.*?)\n<!-- end \1 -->", "\n".join(map(resource, names)), re.DOTALL)
    return dict(found)
