"""Outputs that appear whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nodulens.errors import BadOption, CannotWrite, NotFound, as_input_error

_NAME_END = 40


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """A temporary path beside the target, which takes its place when the block ends well.

    The temporary name is hidden, short, and ends as the target's does, so writers that choose a format by
    suffix work and a long name does no harm. The bytes are on the disk before the name changes: a reader, a
    crash or a power cut sees the old file or the new one. Where the block raises, the temporary file goes;
    where the process is killed it stays under its hidden name, and the target is as it was.

    Args:
        path: the file to write; replaced if it exists.

    Yields:
        the path to write to.

    Raises:
        NotFound: the folder is not there.
        BadOption: a folder, a pipe or a device stands where the file should go.
        CannotWrite: the disk is full, the folder read-only, or the name too long.
    """
    target = Path(path)
    part = target.with_name(f".part-{secrets.token_hex(4)}-{target.name[-_NAME_END:]}")
    try:
        if not target.parent.is_dir():
            raise NotFound(f"There is no folder {target.parent} to write {target.name} into; create it first.")
        if target.is_dir():
            raise BadOption(f"{target} is a folder; give the name of a file.")
        if target.exists() and not target.is_file():
            raise BadOption(f"{target} is a pipe or a device; give the name of a file.")
        yield part
        _flush(part)
        os.replace(part, target)
    except OSError as error:
        if error.errno is not None and error.filename in (None, *map(str, (part, target))):
            error.filename = error.filename2 = str(target)
            raise as_input_error(error, writing=target) or error from error
        raise  # of another file that the block opened
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


def _flush(path: Path) -> None:
    # Windows flushes only what is open for writing; a folder opens only for reading.
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
