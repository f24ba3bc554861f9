"""Zip files from strangers, unpacked where they can do no harm."""

from __future__ import annotations

import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from nodulens.core.private import private_folder
from nodulens.errors import UnreadableFile, UnsafeArchive
from nodulens.io.files import open_regular

MAX_BYTES = 16 * 2**30
MAX_MEMBERS = 100_000
DIRECTORY_BYTES = 16 * 2**20
"""The list of members, which is read at once: as many as may be there, with names of a hundred characters."""
# CT compresses two- to threefold; a phantom of constant air some hundredfold. Deflate ends at 1032.
MAX_RATIO = 400
RATIO_FREE_BYTES = 64 * 2**20
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""What zips of scans are packed by. Of bzip2 and LZMA zipfile unpacks all it has read at once, gigabytes from 2 KiB."""
METHOD_NAMES = {9: "Deflate64", 12: "bzip2", 14: "LZMA", 93: "Zstandard", 95: "xz"}
LOCAL_HEADER_BYTES = 30
BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OSError, RuntimeError, ValueError)
"""What zipfile raises for damaged archives."""


@contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """A temporary folder with the archive's files, gone when the block ends.

    Yields:
        the folder.

    Raises:
        UnsafeArchive: a member is outside the folder, is a link, a device or there twice, shares its bytes with
            another, or it all unpacks too large.
        UnreadableFile: encrypted, damaged, or packed by another method than deflate.
    """
    with private_folder() as temporary:
        folder = temporary.resolve() / "files"
        folder.mkdir()
        try:
            with open_regular(path) as file, zipfile.ZipFile(_Sized(file)) as archive:
                members = [m for m in archive.infolist() if not m.is_dir()]
                _check(path, members, shutil.disk_usage(folder).free)
                for member in members:
                    _extract(archive, member, folder)
        except BROKEN as error:
            raise UnreadableFile(
                f"{path} cannot be unpacked ({error or type(error).__name__}); export or download it again."
            ) from error
        yield folder


class _Sized:
    """An open file whose reads are limited: zipfile reads the list of members at once, however long it says it is."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def read(self, count: int = -1) -> bytes:
        if count > DIRECTORY_BYTES:
            raise zipfile.BadZipFile(f"a list of members of {count:,} bytes")
        return bytes(self._file.read(count))


def _check(path: Path, members: list[zipfile.ZipInfo], free: int) -> None:
    places: set[str] = set()
    for member in members:
        name = member.filename
        parts = PurePosixPath(name.replace("\\", "/")).parts
        if ".." in parts or name.startswith(("/", "\\")) or PureWindowsPath(name).drive or "\0" in name or not parts:
            raise UnsafeArchive(f"{path} holds {name!r}, which would be written outside its folder; not unpacked.")
        mode = member.external_attr >> 16
        if stat.S_ISLNK(mode):
            raise UnsafeArchive(f"{path} holds {name!r}, a link; not unpacked. Pack the file it points to.")
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
            raise UnsafeArchive(f"{path} holds {name!r}, which is no regular file; not unpacked.")
        if member.flag_bits & 0x1:
            raise UnreadableFile(f"{path} is encrypted; unpack it with its password and give the folder.")
        if member.compress_type not in METHODS:
            method = METHOD_NAMES.get(member.compress_type, "an unknown method")
            raise UnreadableFile(f"{path} is packed by {method}; pack it again by deflate, or give the folder.")
        # Some disks know no capitals.
        if (place := "/".join(parts).casefold()) in places:
            raise UnsafeArchive(f"{path} holds {name!r} twice; which of the two is meant? Not unpacked.")
        places.add(place)
    packed = path.stat().st_size
    total = sum(member.file_size for member in members)
    limit = min(MAX_BYTES, free, max(RATIO_FREE_BYTES, MAX_RATIO * packed))
    if total > limit or len(members) > MAX_MEMBERS:
        raise UnsafeArchive(
            f"{path} would unpack to {total / 2**30:.1f} GiB in {len(members)} files, beyond the limit of "
            f"{limit / 2**30:.1f} GiB and {MAX_MEMBERS} files; unpack it yourself and give the folder."
        )
    end = 0
    for member in sorted(members, key=lambda m: m.header_offset):
        if member.header_offset < end:
            raise UnsafeArchive(f"{path} holds {member.filename!r} within another member; not unpacked.")
        end = member.header_offset + LOCAL_HEADER_BYTES + member.compress_size


def _extract(archive: zipfile.ZipFile, member: zipfile.ZipInfo, folder: Path) -> None:
    target = folder.joinpath(*PurePosixPath(member.filename.replace("\\", "/")).parts)
    target.parent.mkdir(parents=True, exist_ok=True)
    # zipfile stops at the size that was checked, whatever the stream goes on to hold.
    with archive.open(member) as source, target.open("xb") as out:
        shutil.copyfileobj(source, out, 2**20)
    if target.stat().st_size != member.file_size:
        raise zipfile.BadZipFile(f"{member.filename!r} is {target.stat().st_size:,} of {member.file_size:,} bytes")
