"""Draw the import graph of the package into docs/layout.svg, and count its lines in docs/architecture.md.

    python scripts/layout.py           write both
    python scripts/layout.py --check   exit with 1 if either is stale

The nodes are the folders and modules directly below ``nodulens``, each above all those that it imports. An arrow that
follows from others is left out. Lines are rounded to hundreds.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "nodulens"
PICTURE = ROOT / "docs" / "layout.svg"
TABLE = ROOT / "docs" / "architecture.md"
ROW = re.compile(r"^(\| `(\w+)(?:/|\.py)` \| .* \| )[\d,]+( \|)$", re.MULTILINE)
"""A row of the table: its text, the node, and the lines between."""
WIDTH, HEIGHT, GAP_X, GAP_Y, MARGIN = 190, 64, 24, 46, 16
WORDS = 30
"""Characters of a line in a box."""
Graph = Mapping[str, frozenset[str]]


def main() -> None:
    """Write the picture and the table, or compare them."""
    for path, text in {PICTURE: render(imports()), TABLE: counted(TABLE.read_text("utf-8"))}.items():
        if "--check" not in sys.argv[1:]:
            path.write_text(text, "utf-8")
        elif not path.exists() or path.read_text("utf-8") != text:
            sys.exit(f"{path} is stale: python scripts/layout.py\n")


def counted(page: str) -> str:
    """The page with the lines of each node.

    Raises:
        ValueError: a node has no row in the table.
    """
    known = nodes()
    missing = known.keys() - {row[2] for row in ROW.finditer(page)}
    if missing:
        raise ValueError(f"docs/architecture.md has no row for {sorted(missing)}")
    return ROW.sub(lambda row: f"{row[1]}{round(lines(known[row[2]]), -2):,}{row[3]}", page)


def lines(path: Path) -> int:
    """Lines of Python of a folder or module."""
    return sum(len(file.read_text("utf-8").splitlines()) for file in files(path))


def files(path: Path) -> list[Path]:
    """The modules of a folder, or a module itself."""
    return sorted(path.rglob("*.py")) if path.is_dir() else [path]


def nodes() -> dict[str, Path]:
    """Name → folder or module, without the package itself."""
    folders = {path.parent.name: path.parent for path in PACKAGE.glob("*/__init__.py")}
    return folders | {path.stem: path for path in PACKAGE.glob("*.py") if not path.stem.startswith("__")}


def imports() -> Graph:
    """Node → the others that it imports, at any place."""
    known = nodes()
    found = {}
    for name, path in known.items():
        used = {node for file in files(path) for node in _imported(file)}
        found[name] = frozenset((used & known.keys()) - {name})
    return found


def _imported(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "nodulens":
            yield from [node.module.split(".")[1]] if "." in node.module else [alias.name for alias in node.names]


def levels(graph: Graph) -> dict[str, int]:
    """Node → its level: 0 imports nothing; otherwise one above the highest that it imports.

    Raises:
        ValueError: nodes import one another in a circle.
    """
    out: dict[str, int] = {}
    while len(out) < len(graph):
        free = [name for name in graph if name not in out and graph[name] <= out.keys()]
        if not free:
            raise ValueError(f"these import one another: {sorted(graph.keys() - out.keys())}")
        out |= {name: max((out[below] + 1 for below in graph[name]), default=0) for name in free}
    return out


def needed(graph: Graph) -> list[tuple[str, str]]:
    """The arrows that do not follow from others, from importer to imported."""

    def reach(name: str) -> frozenset[str]:
        return frozenset().union(*(graph[below] | reach(below) for below in graph[name]))

    return [(name, below) for name in sorted(graph) for below in sorted(graph[name] - reach(name))]


def purpose(name: str) -> str:
    """The first paragraph of a node's docstring."""
    path = nodes()[name]
    text = ast.get_docstring(ast.parse((path / "__init__.py" if path.is_dir() else path).read_text("utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split())


def render(graph: Graph) -> str:
    """The picture as SVG; the same code gives the same text."""
    height = levels(graph)
    rows = [sorted(name for name in graph if height[name] == k) for k in reversed(range(max(height.values()) + 1))]
    across = max(map(len, rows))
    total = MARGIN * 2 + across * WIDTH + (across - 1) * GAP_X
    place: dict[str, tuple[float, float]] = {}
    for k, row in enumerate(rows):
        left = (total - len(row) * WIDTH - (len(row) - 1) * GAP_X) / 2
        for j, name in enumerate(row):
            place[name] = (left + j * (WIDTH + GAP_X), MARGIN + k * (HEIGHT + GAP_Y))
    tall = MARGIN * 2 + len(rows) * HEIGHT + (len(rows) - 1) * GAP_Y
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total} {tall}" font-family="sans-serif">',
        '<defs><marker id="end" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 8 4 0 8z" fill="#789"/></marker></defs>',
        f'<rect width="{total}" height="{tall}" fill="#fff"/>',
    ]
    for above, below in needed(graph):
        (x0, y0), (x1, y1) = place[above], place[below]
        start, end = (x0 + WIDTH / 2, y0 + HEIGHT), (x1 + WIDTH / 2, y1)
        bend = (end[1] - start[1]) / 2
        out.append(
            f'<path d="M{start[0]:g} {start[1]:g}C{start[0]:g} {start[1] + bend:g} {end[0]:g} {end[1] - bend:g} '
            f'{end[0]:g} {end[1]:g}" fill="none" stroke="#789" marker-end="url(#end)"/>'
        )
    for name, (x, y) in place.items():
        out.append(f'<rect x="{x:g}" y="{y:g}" width="{WIDTH}" height="{HEIGHT}" rx="6" fill="#eef3f8" stroke="#456"/>')
        out.append(f'<text x="{x + 8:g}" y="{y + 18:g}" font-size="14" font-weight="bold">{escape(name)}</text>')
        out += [
            f'<text x="{x + 8:g}" y="{y + 33 + 12 * k:g}" font-size="10" fill="#345">{escape(line)}</text>'
            for k, line in enumerate(_lines(purpose(name)))
        ]
    return "\n".join([*out, "</svg>", ""])


def _lines(text: str) -> list[str]:
    """At most three lines; longer text ends in an ellipsis."""
    out = [""]
    for word in text.split():
        if out[-1] and len(out[-1]) + 1 + len(word) > WORDS:
            out.append(word)
        else:
            out[-1] = f"{out[-1]} {word}".strip()
    return out if len(out) <= 3 else [*out[:2], f"{out[2][: WORDS - 1].rstrip()}…"]


if __name__ == "__main__":
    main()
