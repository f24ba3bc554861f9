"""Unpacking zlib and gzip streams into a room of known size: neither short nor beyond it."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import IO

from nodulens.errors import UnreadableFile

GZIP_MAGIC = b"\x1f\x8b"
READ_BYTES = 2**18
"""Packed bytes read at a time."""
BLOCK_BYTES = 2**20
"""Unpacked bytes in memory at a time, whatever the size of the stream."""
WINDOW_BITS = {"gzip": 31, "zlib": 47}
"""zlib's code for a gzip stream, and for either of the two (MetaImage says zlib, some writers mean gzip)."""
MAX_MEMBERS = 100_000
"""Streams that one gzip file may hold one after the other: bgzip makes one of every 64 KiB."""


def blocks(file: IO[bytes], packing: str) -> Iterator[bytes]:
    """The unpacked bytes of a stream, at most :data:`BLOCK_BYTES` at a time; checksums are compared at the end.

    Args:
        file: at the beginning of the stream, which reaches to its end.
        packing: "gzip" (one member or several, zeros behind them) or "zlib".

    Raises:
        zlib.error, EOFError: damaged, truncated, or followed by something else.
    """
    engine, members = zlib.decompressobj(WINDOW_BITS[packing]), 1
    data = file.read(READ_BYTES)
    while True:
        if block := engine.decompress(data, BLOCK_BYTES):
            yield block
        if not engine.eof:
            # A full block may leave output behind even where all input is used up.
            data = engine.unconsumed_tail or (b"" if len(block) == BLOCK_BYTES else file.read(READ_BYTES))
            if not data and len(block) < BLOCK_BYTES:
                raise EOFError("the packed stream ends early")
            continue
        data = engine.unused_data.lstrip(b"\0") if packing == "gzip" else engine.unused_data
        while not data and (data := file.read(READ_BYTES)):
            data = data.lstrip(b"\0") if packing == "gzip" else data
        if not data:
            return
        members += 1
        if packing != "gzip" or members > MAX_MEMBERS:
            raise zlib.error("something follows the packed stream")
        engine = zlib.decompressobj(WINDOW_BITS[packing])


def beginning(file: IO[bytes], count: int) -> bytes:
    """Up to ``count`` bytes (at most :data:`BLOCK_BYTES`) from the start of a gzip stream; none where it is damaged."""
    try:
        return next(blocks(file, "gzip"), b"")[:count]
    except (zlib.error, EOFError):
        return b""


def fill(path: Path, file: IO[bytes], room: memoryview, packing: str | None, skip: int = 0) -> None:
    """Read a file from its current position to its end into a buffer that it must fill exactly.

    Args:
        path: for messages.
        file: open, at the first byte to read.
        room: writable bytes.
        packing: "gzip", "zlib", or None for bytes as they are.
        skip: unpacked bytes to leave out before the first that counts.

    Raises:
        UnreadableFile: truncated, damaged, or longer than the room.
    """
    done = 0
    for piece in pieces(path, file, len(room), packing, skip):
        room[done : done + len(piece)] = piece
        done += len(piece)


def check(path: Path, file: IO[bytes], size: int, packing: str | None, skip: int = 0) -> None:
    """As :func:`fill` of a room of ``size`` bytes, but nothing is kept: what is packed is unfolded block by block.

    Raises:
        UnreadableFile: as :func:`fill`.
    """
    if packing is None:
        file.seek(skip, 1)
        left = max(0, os.fstat(file.fileno()).st_size - file.tell())
        _check_size(path, min(left, size), size, surplus=left > size)
        return
    for _ in pieces(path, file, size, packing, skip):
        pass


def pieces(path: Path, file: IO[bytes], size: int, packing: str | None, skip: int = 0) -> Iterator[bytes]:
    """What :func:`fill` reads into a room of ``size`` bytes, at most :data:`BLOCK_BYTES` at a time.

    Raises:
        UnreadableFile: as :func:`fill`, once that is seen.
    """
    done, surplus = -skip, False
    try:
        for block in blocks(file, packing) if packing else iter(partial(file.read, BLOCK_BYTES), b""):
            if surplus := done + len(block) > size:
                break
            if done + len(block) > 0:
                yield block[max(0, -done) :]
            done += len(block)
    except (OSError, EOFError, zlib.error) as error:
        raise UnreadableFile(f"{path} is truncated or damaged ({error}); copy or export it again.") from error
    _check_size(path, done, size, surplus=surplus)


def _check_size(path: Path, done: int, size: int, *, surplus: bool) -> None:
    """Refuse a file of other than ``size`` bytes, of which ``done`` were read; ``surplus``: whether more follow."""
    if surplus:
        raise UnreadableFile(
            f"{path} holds more than the {size:,} bytes of voxels that its header promises; the header is wrong. "
            "Export it again."
        )
    if done < size:
        raise UnreadableFile(f"{path} is truncated: {max(done, 0):,} of {size:,} bytes; copy or export it again.")
