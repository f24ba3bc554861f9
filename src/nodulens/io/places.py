"""The files of a path: of a folder, of a zip, or a single one. Only regular files are ever opened."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nodulens.core.text import file_name
from nodulens.errors import NotFound
from nodulens.io.archive import unpacked
from nodulens.io.files import KINDS, open_regular

ZIP_MAGIC = (b"PK\x03\x04", b"PK\x05\x06")


@dataclass(frozen=True)
class Place:
    """The files at a path.

    Attributes:
        files: regular files that can be opened, in order of name.
        warnings: other files that were left out, with the count and first name of each kind.
    """

    files: tuple[Path, ...]
    warnings: tuple[str, ...] = ()


@contextmanager
def opened_place(path: Path) -> Iterator[Place]:
    """The files of a path, in order of name; those of a zip in a temporary folder.

    Raises:
        NotFound: there is nothing.
        UnreadableFile: a pipe, socket or device, or what cannot be opened.
        UnsafeArchive: as :func:`nodulens.io.archive.unpacked`.
    """
    # Names too long for the system are of nothing.
    if os.path.isdir(path):
        yield _below(path)
    elif not os.path.exists(path):
        raise NotFound(f"There is no file or folder {path}.")
    elif is_zip(path):
        with unpacked(path) as folder:
            yield _below(folder)
    else:
        yield Place((path,))


def is_zip(path: Path) -> bool:
    """Whether a file begins as a zip does.

    Raises:
        UnreadableFile: it is no regular file, or may not be read.
    """
    with open_regular(path) as file:
        return file.read(4) in ZIP_MAGIC


def counted(what: str, names: Sequence[str]) -> str:
    """ "3 files that …, first «NAME»." """
    return f"{len(names)} {what}, first {file_name(Path(names[0]))}."


def folders_below(root: Path) -> Iterator[tuple[Path, tuple[Path, ...]]]:
    """The folders from ``root`` down, but hidden ones, each with its files, but hidden ones, all in order of name.

    Links are followed, unlike within a scan: data sets are often folders of links to a store. A folder that is reached
    twice comes once, as it was reached first.
    """
    known: set[str] = set()
    for place, folders, names in os.walk(root, followlinks=True):
        own = os.path.realpath(place)
        if own in known:
            folders.clear()
            continue
        known.add(own)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield Path(place), tuple(Path(place, name) for name in sorted(names) if not name.startswith("."))


def _below(folder: Path) -> Place:
    """All files of a folder and its subfolders, but hidden ones and what macOS adds."""
    closed: list[str] = []
    linked: list[str] = []
    files: list[Path] = []
    faults: dict[str, list[str]] = {}
    for place, folders, names in os.walk(folder, onerror=lambda error: closed.append(Path(error.filename).name)):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        linked += [name for name in folders if Path(place, name).is_symlink()]
        for name in sorted(name for name in names if not name.startswith(".")):
            if fault := _fault(Path(place, name)):
                faults.setdefault(fault, []).append(name)
            else:
                files.append(Path(place, name))
    warnings = [counted(f"files were left out ({fault})", names) for fault, names in faults.items()]
    if closed:
        warnings.append(counted("folders cannot be opened and were left out", closed))
    if linked:
        warnings.append(counted("folders that are links were left out", linked))
    return Place(tuple(files), tuple(warnings))


def _fault(path: Path) -> str | None:
    """Why something is no file that can be opened; None where it is one."""
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            return next((name for is_kind, name in KINDS if is_kind(mode)), "no regular file")
        with path.open("rb"):
            return None
    except OSError as error:
        return (error.strerror or type(error).__name__).lower()
