"""Opening DICOM files from strangers: no more is read than a file holds, and what is packed unfolds within limits."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from nodulens.errors import UnreadableFile

# The functional groups of a thousand frames: some 3 MiB in 150,000 reads. Private elements are skipped.
MAX_HEADER_BYTES = 48 * 2**20
READ_COST_BYTES = 64
# CT deflates two- to fourfold, a phantom of constant air some hundredfold.
MAX_INFLATION = 20
FREE_INFLATED_BYTES = 64 * 2**20


class DeflatedRestError(Exception):
    """The rest of the file is deflated.

    Attributes:
        at: offset of the first packed byte.
    """

    def __init__(self, at: int) -> None:
        super().__init__("the data set is deflated")
        self.at = at


class DicomStream:
    """A binary file for pydicom, of which a header cannot make it read more than headers are large.

    Args:
        file: open and seekable, at any position.
        budget: bytes that may be read; every reading costs :data:`READ_COST_BYTES` besides.

    Attributes:
        size: bytes in the file.
        short: whether a read went beyond the end.
        cut: whether the file ended within an element or a list: a whole one is read beyond once, for the next element.
    """

    def __init__(self, file: BinaryIO, budget: int) -> None:
        self.size = file.seek(0, io.SEEK_END)
        file.seek(0)
        self.short = self.cut = False
        # pydicom seeks once an element: bound methods cost it nothing.
        self.seek, self.tell = file.seek, file.tell
        self._read, self._left = file.read, budget

    def read(self, size: int = -1) -> bytes:
        """The next bytes, fewer where the file ends.

        Raises:
            DeflatedRestError: all bytes are requested, which pydicom does only to inflate them without a limit.
            OSError: the budget is spent.
        """
        if size < 0:
            raise DeflatedRestError(self.tell())
        data = self._read(min(size, self._left, self.size))
        if len(data) < size:
            self.cut = self.cut or self.short or bool(data)
            self.short = True
        self._left -= len(data) + READ_COST_BYTES
        if self._left < 0:
            raise OSError("the header is larger than that of any CT")
        return data


def inflated(path: Path, packed: bytes) -> io.BytesIO:
    """A deflated data set, unpacked.

    Raises:
        UnreadableFile: truncated, damaged, or larger than any CT unpacks to.
    """
    limit = max(FREE_INFLATED_BYTES, MAX_INFLATION * len(packed))
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        data = unpacker.decompress(packed, limit)
    except zlib.error as error:
        raise UnreadableFile(f"{path}: the deflated DICOM is damaged ({error}); copy or export it again.") from error
    if not unpacker.eof and unpacker.unconsumed_tail:
        raise UnreadableFile(
            f"{path}: {len(packed) / 2**20:.1f} MiB of deflated DICOM unpack to more than {limit / 2**20:.0f} MiB, "
            "which no CT does; export it again without deflating."
        )
    if not unpacker.eof:
        raise UnreadableFile(f"{path}: the deflated DICOM ends early; copy or export it again.")
    return io.BytesIO(data)


@contextmanager
def opened(path: Path, deflated_at: int | None = None, budget: int = MAX_HEADER_BYTES) -> Iterator[DicomStream]:
    """A DICOM file, or what is deflated in it.

    Args:
        path: a regular file.
        deflated_at: offset where the deflated data set begins; None where nothing is deflated.
        budget: as for :class:`DicomStream`.

    Raises:
        UnreadableFile: as :func:`inflated`.
        OSError: it cannot be opened.
    """
    with path.open("rb") as file:
        if deflated_at is None:
            yield DicomStream(file, budget)
        else:
            file.seek(deflated_at)
            yield DicomStream(inflated(path, file.read()), budget)
