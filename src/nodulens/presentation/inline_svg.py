"""SVG drawings inside a page: without styles, scripts and URLs, in the page's own colours.

A page whose security policy allows no inline style ignores ``style`` attributes too, so they become presentation
attributes. Only what Matplotlib uses is kept, so a drawing from a file is harmless.
"""

from __future__ import annotations

import html
import re
from xml.etree import ElementTree

from markupsafe import Markup

from nodulens.errors import UnreadableFile
from nodulens.presentation.figures import INK, PAPER

_TAGS = frozenset({"g", "defs", "clipPath", "path", "rect", "use", "text", "tspan"})
_KEPT = frozenset(
    {
        "d", "x", "y", "width", "height", "transform", "fill", "fill-opacity", "opacity", "stroke", "stroke-dasharray",
        "stroke-dashoffset", "stroke-linecap", "stroke-linejoin", "stroke-opacity", "stroke-width", "font-size",
        "font-style", "font-weight", "text-anchor",
    }
)  # fmt: skip
_COLOURS = {INK: "currentColor", PAPER: "var(--panel)"}
_SHORT = frozenset({"d", "x", "y"})
_DEPTH = 40
_BROAD = 620
_HREF, _XLINK = "href", "{http://www.w3.org/1999/xlink}href"


def inline_svg(svg: str, prefix: str, words: str) -> Markup:
    """An SVG document as an element of an HTML page.

    Args:
        svg: the document, as :func:`nodulens.presentation.figures.to_svg` writes it.
        prefix: of every id in it; unique for each drawing of a page.
        words: text alternative.

    Raises:
        UnreadableFile: not SVG, with entities, or nested too deeply.
    """
    if "<!ENTITY" in svg:
        raise UnreadableFile("An SVG drawing with entities is not read; write it again with to_svg.")
    try:
        root = ElementTree.fromstring(svg)
    except ElementTree.ParseError as error:
        raise UnreadableFile(f"Not an SVG drawing: {error}.") from error
    box = root.get("viewBox", "").split()
    if _local(root.tag) != "svg" or len(box) != 4 or not all(re.fullmatch(r"-?[\d.]+", number) for number in box):
        raise UnreadableFile("Not an SVG drawing with a viewBox; write it again with to_svg.")
    inside = "".join(_element(child, prefix, 0) for child in root)
    # a point of the drawing becomes 1.25 pixels if there is room, so that text of 8 points is legible
    width = round(1.25 * float(box[2]))
    kind = "drawing broad" if width > _BROAD else "drawing"
    return Markup(
        f'<svg class="{kind}" viewBox="{" ".join(box)}" width="{width}" role="img" aria-label="{html.escape(words)}" '
        f'stroke-linejoin="round">{inside}</svg>'
    )


def _local(tag: object) -> str:
    """A tag without its namespace; empty for comments and the like."""
    return tag.rpartition("}")[2] if isinstance(tag, str) else ""


def _element(element: ElementTree.Element, prefix: str, depth: int) -> str:
    tag = _local(element.tag)
    if depth > _DEPTH:
        raise UnreadableFile("An SVG drawing is nested too deeply; write it again with to_svg.")
    if tag not in _TAGS:
        return ""
    spoken = tag in ("text", "tspan")
    parts = [html.escape(element.text or "")] if spoken else []
    for child in element:
        parts.append(_element(child, prefix, depth + 1))
        parts.append(html.escape(child.tail or "") if spoken else "")
    inside = "".join(parts)
    if tag in ("g", "defs", "text") and not inside:
        return ""
    attributes = "".join(f' {name}="{html.escape(value)}"' for name, value in _attributes(element, prefix).items())
    return f"<{tag}{attributes}>{inside}</{tag}>" if inside else f"<{tag}{attributes}/>"


def _attributes(element: ElementTree.Element, prefix: str) -> dict[str, str]:
    styles = (rule.partition(":") for rule in element.get("style", "").split(";"))
    given = {**dict(element.items()), **{name.strip(): value.strip() for name, _, value in styles}}
    size = re.search(r"([\d.]+)px", given.get("font", ""))  # older Matplotlib writes the shorthand
    if size:
        given["font-size"] = f"{size[1]}px"
    kept = {name: _short(value) if name in _SHORT else value for name, value in given.items() if name in _KEPT}
    kept = {name: _COLOURS.get(value, value) for name, value in kept.items() if "url(" not in value}
    # only definitions keep their ids, and references stay within the drawing
    if _local(element.tag) in ("path", "clipPath") and "id" in given:
        kept["id"] = prefix + given["id"]
    clip = re.fullmatch(r"url\(#([\w-]+)\)", given.get("clip-path", ""))
    if clip:
        kept["clip-path"] = f"url(#{prefix}{clip[1]})"
    target = given.get(_XLINK, given.get(_HREF, ""))
    if target.startswith("#"):
        kept["href"] = f"#{prefix}{target[1:]}"
    return kept


def _short(path: str) -> str:
    """Round coordinates to a hundredth of a point."""
    text = re.sub(r"-?\d+\.\d+", lambda number: f"{float(number[0]):.2f}".rstrip("0").rstrip("."), path)
    return " ".join(text.split())
