"""The folder of a comparison: ``comparison.html``, ``changes.csv``, DICOM objects and, last, ``comparison.json``."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nodulens.core.private import nearest, own_folder
from nodulens.errors import BadOption, input_errors
from nodulens.followup.compare import Compared
from nodulens.followup.csv import to_csv
from nodulens.followup.json import to_json
from nodulens.followup.page import render_page
from nodulens.io.atomic import write_whole

PAGE, TABLE, RECORD, DICOM = "comparison.html", "changes.csv", "comparison.json", "dicom"
FILES = (PAGE, TABLE, RECORD)
"""In the order of writing: where the record is, the set is complete."""
_OURS = re.compile(rb'\s*\{\s*"schema"\s*:\s*"nodulens-comparison/')


@dataclass(frozen=True)
class Room:
    """A folder that only this run may write, and a private one in it."""

    folder: Path
    staging: Path


@contextmanager
def claimed(folder: str | Path, sources: Sequence[Path]) -> Iterator[Room]:
    """Claim the output folder before the work.

    Args:
        folder: created with its parents; of an existing one only the files of an earlier comparison are replaced.
        sources: scans and folders of analyses: nothing is written inside them.

    Raises:
        BadOption: it is inside a source, is a file, or holds a file with the name of an output that is none.
        CannotWrite: nothing can be written there, or another run is writing there.
    """
    target = Path(folder).absolute()
    nearest(target)
    for one in sources:
        if one.is_dir() and target.resolve().is_relative_to(one.resolve()):
            raise BadOption(f"{target} is inside {one}, which is compared: name another folder.")
    held = [target / name for name in (*FILES, DICOM) if os.path.lexists(target / name)]
    if held and not _is_ours(target / RECORD):
        names = ", ".join(path.name for path in held)
        raise BadOption(f"{target} holds {names}, not written by a comparison, which would be replaced. Move it away.")
    with own_folder(target) as staging:
        yield Room(target, staging)


def write_comparison(room: Room, compared: Compared, objects: Callable[[Path], None] | None = None) -> Path:
    """Write all outputs, whole or not at all.

    Args:
        room: claimed.
        compared: to write.
        objects: writes DICOM objects into a folder that it is given; None: there are none.

    Returns:
        the folder.
    """
    comparison = compared.comparison
    with input_errors(writing=room.folder):
        for name, text in (
            (PAGE, render_page(compared)),
            (TABLE, to_csv(comparison)),
            (RECORD, to_json(comparison)),
        ):
            write_whole(room.staging / name, text.encode())
        names = list(FILES)
        if objects is not None:
            (room.staging / DICOM).mkdir()
            objects(room.staging / DICOM)
            names.insert(0, DICOM)
        (room.folder / RECORD).unlink(missing_ok=True)
        if (room.folder / DICOM).is_dir():
            shutil.rmtree(room.folder / DICOM)
        for name in names:
            os.replace(room.staging / name, room.folder / name)
    return room.folder


def _is_ours(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return bool(_OURS.match(file.read(200)))
