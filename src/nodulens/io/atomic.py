"""Outputs that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nodulens.errors import BadOption, NotFound

CANNOT_WRITE = {
    getattr(errno, name, None)
    for name in ("EACCES", "EDQUOT", "EFBIG", "EIO", "ENAMETOOLONG", "ENOSPC", "EPERM", "EROFS")
}
NAME_END = 40
"""Characters of the target's name that the temporary one ends in: together they stay below 255 bytes."""


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """A temporary path beside the target, which takes its place when the block ends well.

    The temporary name is hidden and ends as the target's does, so writers that choose a format by
    suffix work. The bytes are on the disk before the name changes: a reader, a crash or a power cut
    sees the old file or the new one. Where the block raises, the temporary file goes; where the process
    is killed it stays under its hidden name, and the target is as it was.

    Args:
        path: the file to write; replaced if it exists.

    Yields:
        the path to write to.

    Raises:
        NotFound: the folder is not there.
        BadOption: a folder, a pipe or a device stands where the file should go, or it cannot be written: a full
            disk, a folder that is read-only, a name too long.
    """
    target = Path(path)
    part = target.with_name(f".part-{secrets.token_hex(4)}-{target.name[-NAME_END:]}")
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
        # Those of other files that the block opened go their way.
        if error.errno in CANNOT_WRITE and error.filename in (None, *map(str, (part, target))):
            raise BadOption(f"{target} cannot be written: {error.strerror}. Choose another place.") from error
        raise
    finally:
        part.unlink(missing_ok=True)
    if os.name == "posix":
        # The new name is an entry of the folder, which has its own buffer.
        _flush(target.parent)


def _flush(path: Path) -> None:
    # Windows flushes only what is open for writing; a folder opens only for reading.
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
