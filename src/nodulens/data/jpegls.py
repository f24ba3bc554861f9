"""Grey pictures of 8 bits as the files of crops hold them: JPEG-LS streams, one after another in one array.

A file has the streams in ``hu_jls``, where each begins and the last one ends in ``hu_offset``, and the shape of all
pictures together in ``hu_shape``. What a stream shows is said in :mod:`nodulens.data.material`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodulens.errors import UnreadableFile


@dataclass(frozen=True, eq=False)
class Streams:
    """JPEG-LS streams.

    Attributes:
        data: (bytes,) uint8, all streams one after another.
        offset: (streams + 1,) int64, where each begins, and where the last one ends.
    """

    data: NDArray[np.uint8]
    offset: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offset) - 1

    def picture(self, number: int) -> NDArray[np.uint8]:
        """(rows, columns) of one stream; 1.1 ms for the 83,000 pixels of a mean stack.

        Raises:
            UnreadableFile: the stream is damaged, or no picture of 8 bits.
        """
        import jpeg_ls

        stream = self.data[self.offset[number] : self.offset[number + 1]].tobytes()
        try:
            pixels, header = jpeg_ls.decode_buffer(stream)
        except RuntimeError as error:
            raise UnreadableFile(
                f"Picture {number} of the crops is damaged ({error}): get the file again, or run nodulens data prepare."
            ) from error
        shape = header["height"], header["width"]
        if len(pixels) != shape[0] * shape[1]:
            raise UnreadableFile(
                f"Picture {number} of the crops has {len(pixels)} bytes for {shape[0]} × {shape[1]} pixels, and must "
                "have one a pixel: run nodulens data prepare again."
            )
        return np.frombuffer(pixels, dtype=np.uint8).reshape(shape)


def encode(pictures: Iterable[NDArray[np.uint8]]) -> Streams:
    """Pictures, each (rows, columns), as lossless JPEG-LS."""
    import jpeg_ls

    streams = [np.frombuffer(jpeg_ls.encode_array(np.ascontiguousarray(p)), dtype=np.uint8) for p in pictures]
    data = np.concatenate([np.zeros(0, dtype=np.uint8), *streams])
    return Streams(data, np.cumsum([0, *map(len, streams)], dtype=np.int64))


def mosaic(tiles: NDArray[Any], rows: int, columns: int) -> NDArray[Any]:
    """(rows · columns, y, x) → one picture (rows · y, columns · x), the tiles row by row."""
    y, x = tiles.shape[1:]
    return tiles.reshape(rows, columns, y, x).swapaxes(1, 2).reshape(rows * y, columns * x)


def tiles_of(picture: NDArray[Any], rows: int, columns: int) -> NDArray[Any]:
    """The tiles of a :func:`mosaic`: (rows · y, columns · x) → (rows · columns, y, x)."""
    y, x = picture.shape[0] // rows, picture.shape[1] // columns
    return picture.reshape(rows, y, columns, x).swapaxes(1, 2).reshape(rows * columns, y, x)
