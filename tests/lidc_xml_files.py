"""Writing small XML files of LIDC's readers for tests."""

from __future__ import annotations

from pathlib import Path

from nodulens.data.ratings import RATINGS

HEAD = (
    "<ResponseHeader><SeriesInstanceUid>1.2.3</SeriesInstanceUid>"
    "<StudyInstanceUID>1.2</StudyInstanceUID></ResponseHeader>"
)
RATED = "<characteristics>" + "".join(f"<{n}>{k % 5 + 1}</{n}>" for k, n in enumerate(RATINGS)) + "</characteristics>"


def roi(points: list[tuple[int, int]], z: object = -10.0, inclusion: str = "TRUE") -> str:
    edges = "".join(f"<edgeMap><xCoord>{x}</xCoord><yCoord>{y}</yCoord></edgeMap>" for x, y in points)
    return f"<roi><imageZposition>{z} </imageZposition><inclusion>{inclusion}</inclusion>{edges}</roi>"


def nodule(*parts: str) -> str:
    return f"<unblindedReadNodule><noduleID> N1 </noduleID>{''.join(parts)}</unblindedReadNodule>"


def write(path: Path, *sessions: str, head: str = HEAD, root: str = "LidcReadMessage") -> Path:
    body = "".join(f"<readingSession>{s}</readingSession>" for s in sessions)
    path.write_text(f'<?xml version="1.0"?>\n<{root} xmlns="http://www.nih.gov">{head}{body}</{root}>')
    return path
