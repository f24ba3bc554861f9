"""Zip files from strangers, unpacked where they can do no harm."""

from __future__ import annotations

import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath

from nodulens.errors import UnreadableFile, UnsafeArchive

MAX_BYTES = 16 * 2**30
MAX_MEMBERS = 100_000
# CT compresses two- to threefold; a phantom of constant air some hundredfold. Deflate ends at 1032.
MAX_RATIO = 400
RATIO_FREE_BYTES = 64 * 2**20


@contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """A temporary folder with the archive's files, gone when the block ends.

    Yields:
        the folder.

    Raises:
        UnsafeArchive: a member lies outside the folder or is a link, or it all unpacks too large.
        UnreadableFile: encrypted, damaged, or packed by a method unknown here.
    """
    with tempfile.TemporaryDirectory(prefix="nodulens-") as name:
        folder = Path(name).resolve()
        try:
            with zipfile.ZipFile(path) as archive:
                members = [m for m in archive.infolist() if not m.is_dir()]
                _check(path, members, shutil.disk_usage(folder).free)
                for member in members:
                    _extract(archive, member, folder)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OSError) as error:
            raise UnreadableFile(f"{path} cannot be unpacked ({error}); export or download it again.") from error
        yield folder


def _check(path: Path, members: list[zipfile.ZipInfo], free: int) -> None:
    for member in members:
        name = member.filename
        parts = PurePosixPath(name.replace("\\", "/")).parts
        if ".." in parts or name.startswith(("/", "\\")) or PureWindowsPath(name).drive or "\0" in name:
            raise UnsafeArchive(f"{path} holds {name!r}, which would be written outside its folder; not unpacked.")
        if stat.S_ISLNK(member.external_attr >> 16):
            raise UnsafeArchive(f"{path} holds {name!r}, a link; not unpacked. Pack the file it points to.")
        if member.flag_bits & 0x1:
            raise UnreadableFile(f"{path} is encrypted; unpack it with its password and give the folder.")
    packed = path.stat().st_size
    total = sum(member.file_size for member in members)
    limit = min(MAX_BYTES, free, max(RATIO_FREE_BYTES, MAX_RATIO * packed))
    if total > limit or len(members) > MAX_MEMBERS:
        raise UnsafeArchive(
            f"{path} would unpack to {total / 2**30:.1f} GiB in {len(members)} files, beyond the limit of "
            f"{limit / 2**30:.1f} GiB and {MAX_MEMBERS} files; unpack it yourself and give the folder."
        )


def _extract(archive: zipfile.ZipFile, member: zipfile.ZipInfo, folder: Path) -> None:
    target = folder.joinpath(*PurePosixPath(member.filename.replace("\\", "/")).parts)
    target.parent.mkdir(parents=True, exist_ok=True)
    # zipfile stops at the size that was checked, whatever the stream goes on to hold.
    with archive.open(member) as source, target.open("wb") as out:
        shutil.copyfileobj(source, out, 2**20)
