"""Which files may be opened: regular ones, and only inside the folder they belong to."""

from __future__ import annotations

import stat
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import BinaryIO

from nodulens.errors import NotFound, UnreadableFile

KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def check_regular(path: Path) -> None:
    """Refuse what is no regular file before it is opened: opening a pipe waits, opening a device may act.

    Raises:
        NotFound: there is no such file.
        UnreadableFile: a folder, a pipe, a device or a socket, or a place that may not be looked at.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFound(f"There is no file {path}.") from error
    except (OSError, ValueError) as error:
        raise UnreadableFile(f"{path} cannot be read ({_reason(error)}).") from error
    if not stat.S_ISREG(mode):
        kind = next((name for is_kind, name in KINDS if is_kind(mode)), "no regular file")
        raise UnreadableFile(f"{path} is {kind}, not a file that can be read; save the data as a file and give that.")


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading.

    Raises:
        NotFound, UnreadableFile: as :func:`check_regular`, and a file that may not be read.
    """
    check_regular(path)
    try:
        return path.open("rb")
    except OSError as error:
        raise UnreadableFile(f"{path} cannot be read ({_reason(error)}).") from error


def beside(header: Path, name: str) -> Path:
    """The file that an image header names, which must be in the header's folder or below it.

    A header from a stranger must not open any file, so links are followed before the place is compared.

    Args:
        header: path of the header.
        name: as the header writes it.

    Returns:
        the path of an existing regular file, links resolved.

    Raises:
        UnreadableFile: it is elsewhere, missing, or not a regular file.
    """
    elsewhere = f"{header} points at {name!r}; its voxels must lie in the same folder."
    windows = PureWindowsPath(name)
    parts = {*PurePosixPath(name).parts, *windows.parts}
    if not name or ".." in parts or name.startswith("/") or windows.drive or windows.root:
        raise UnreadableFile(elsewhere)
    try:
        found = (header.parent / name).resolve()
        # Where header and voxels are both links, as in a folder of links to a store, the store is their folder too.
        homes = (header.parent.resolve(), header.resolve().parent)
    except (OSError, RuntimeError, ValueError) as error:
        raise UnreadableFile(f"{header} points at {name!r}, which cannot be found ({error}).") from error
    if not any(found.is_relative_to(home) for home in homes):
        raise UnreadableFile(elsewhere)
    try:
        check_regular(found)
    except NotFound as error:
        raise UnreadableFile(f"{header} needs {name!r} beside it, which is not there; copy both files.") from error
    return found


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
