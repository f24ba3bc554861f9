"""What a page holds, tag by tag, without a browser."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from typing import Any


class PageReader(HTMLParser):
    """Reads a page as it is made.

    Attributes:
        tags: each with its attributes, in their order.
        text: outside of scripts and styles, runs of white space as one space.
        data: what a script with the id ``data`` holds in JSON; None where there is no such script.
    """

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._words: list[str] = []
        self._data: list[str] = []
        self._inside: tuple[str, dict[str, str | None]] = ("", {})
        self.feed(page)
        self.data: Any = json.loads("".join(self._data) or "null")
        self.text = " ".join(" ".join(self._words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = (tag, dict(attrs))
        self.tags.append(self._inside)

    def handle_endtag(self, tag: str) -> None:
        self._inside = ("", {})

    def handle_data(self, data: str) -> None:
        tag, attributes = self._inside
        if tag == "script" and attributes.get("id") == "data":
            self._data.append(data)
        elif tag not in ("script", "style"):
            self._words.append(data)
