"""Outputs that appear whole or not at all.

Unfinished output is in a private folder on the same file system (:mod:`nodulens.core.private`) and takes its name
when it is whole and on the disk. What a killed process leaves there goes when the next one writes into the same place.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from nodulens.core.private import claimed_beside, folders_made, nearest, private_folder, remove_empty
from nodulens.errors import BadOption, CannotWrite, NotFound, as_input_error


@contextmanager
def whole_file(path: str | Path, staging: Path | None = None) -> Iterator[Path]:
    """A temporary path, whose file takes the target's place when the block ends well.

    It bears the target's name, so writers that choose a format by suffix work. The bytes are on the disk before the
    file moves: a reader, a crash or a power cut sees the old file or the new one. Where the block raises or the process
    is killed, the target is as it was.

    Args:
        path: the file to write; replaced if it exists.
        staging: a private folder on the same file system that the caller holds; None for one beside the target.

    Yields:
        the path to write to.

    Raises:
        NotFound: the folder is not there.
        BadOption: a folder, a pipe or a device has the name of the file.
        CannotWrite: the disk is full, the folder read-only, or the name too long.
    """
    target = Path(path)
    with _of_target(target):
        if not target.parent.is_dir():
            raise NotFound(f"There is no folder {target.parent} to write {target.name} into; create it first.")
        if target.is_dir():
            raise BadOption(f"{target} is a folder; give the name of a file.")
        if target.exists() and not target.is_file():
            raise BadOption(f"{target} is a pipe or a device; give the name of a file.")
    room = nullcontext(staging) if staging else private_folder(target.parent, hidden=True, owner=target)
    with room as folder:
        part = folder / target.name
        try:
            with _of_target(target, part):
                yield part
                _flush(part)
                os.replace(part, target)
        finally:
            part.unlink(missing_ok=True)
    if os.name == "posix":
        # The new name is an entry of the folder, which has its own buffer.
        _flush(target.parent)


def write_whole(path: str | Path, data: bytes) -> None:
    """Write a file whole or not at all, and read it back: what cannot be read as it was written is not left there.

    Raises:
        NotFound, BadOption, CannotWrite: as :func:`whole_file`; also where other bytes are found than were given.
    """
    with whole_file(path) as part:
        part.write_bytes(data)
        if part.read_bytes() != data:
            raise CannotWrite(f"{path} was not written whole: the disk may be full or damaged. Choose another place.")


@contextmanager
def whole_folder(folder: str | Path) -> Iterator[Path]:
    """A temporary folder, which becomes the target when the block ends well, with all that is in it on the disk.

    Args:
        folder: the target, made with its parents; it is not there yet, or empty.

    Yields:
        the folder to write into.

    Raises:
        BadOption: as :func:`check_new`.
        CannotWrite: the disk is full, the place read-only, the name too long, or another run is writing the target.
    """
    target = Path(folder).absolute()
    check_new(target)
    made = folders_made(target.parent)
    try:
        with claimed_beside(target) as staging:
            room = staging / "made"
            with _of_target(target, staging):
                room.mkdir()
                yield room
                for path in room.rglob("*"):
                    _flush(path)
                check_new(target)
                with suppress(FileNotFoundError):
                    target.rmdir()
                room.rename(target)
        if os.name == "posix":
            _flush(target.parent)
    finally:
        remove_empty(made)


def check_new(folder: Path) -> None:
    """Refuse a target for :func:`whole_folder` before the work.

    Raises:
        BadOption: a folder that holds something, a file, or a link to nothing.
        CannotWrite: the name is too long.
    """
    there = nearest(folder.absolute())
    if there == folder.absolute() and any(there.iterdir()):
        raise BadOption(f"{folder} is there already and not empty; name a new folder.")


@contextmanager
def _of_target(target: Path, staging: Path | None = None) -> Iterator[None]:
    """Say of the target what the system says of it, of what is made in its place, or of nothing named."""
    try:
        yield
    except OSError as error:
        named = None if error.filename is None else Path(os.fsdecode(error.filename))
        ours = named in (None, target) or (staging is not None and named.is_relative_to(staging))
        if error.errno is None or not ours:
            raise  # of another file that the block opened
        error.filename = error.filename2 = str(target)
        raise as_input_error(error, writing=target) or error from error


def _flush(path: Path) -> None:
    if path.is_dir() and os.name != "posix":
        return
    # Windows flushes only what is open for writing; a folder opens only for reading.
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
