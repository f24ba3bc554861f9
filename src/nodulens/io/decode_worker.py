"""The process in which compressed images are decoded, so that a codec that dies takes no one along.

Run as a script by :mod:`nodulens.io.decoders`: it imports neither nodulens nor anything that decoding does not need.
A request on the standard input is a length, as much JSON (options of pydicom's decoder), a length and the encoded
frame; an answer on the standard output is a status, a length, and the pixels with their number type before them, or
the reason why there are none.
"""

from __future__ import annotations

import json
import os
import signal
import struct
from typing import Any, BinaryIO

# Decoding the largest CT image there is takes some hundred MiB.
MAX_MEMORY_BYTES = 4 * 2**30
LENGTH = struct.Struct("<Q")
ANSWER = struct.Struct("<?Q")
JPEG_LS = ("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81")


def decode(options: dict[str, Any], data: bytes) -> bytes:
    """The pixels of one encoded frame: eight bytes of number type ("<u2"), then rows after rows."""
    image = (_jpeg_ls if options["syntax"] in JPEG_LS else _by_pydicom)(options, data)
    pixels: bytes = image.dtype.str.encode().ljust(8) + image.tobytes()
    return pixels


def _jpeg_ls(options: dict[str, Any], data: bytes) -> Any:
    """JPEG-LS by its codec alone, with the values that pydicom gives: to load pydicom takes as long as 30 slices."""
    import jpeg_ls
    import numpy as np

    pixels, header = jpeg_ls.decode_pixel_data(data)
    bits, kind = header["bits_per_sample"], "i" if options["pixel_representation"] else "u"
    if bits > options["bits_allocated"]:
        raise ValueError(f"{bits} bits are compressed, and {options['bits_allocated']} announced")
    image = np.frombuffer(pixels, f"<{kind}{1 if bits <= 8 else 2}").astype(f"<{kind}{options['bits_allocated'] // 8}")
    if kind == "i":  # the format knows no sign: the highest of its bits is that
        unused = 8 * image.itemsize - bits
        image <<= unused
        image >>= unused
    return image.reshape(options["rows"], options["columns"])


def _by_pydicom(options: dict[str, Any], data: bytes) -> Any:
    from pydicom.encaps import encapsulate
    from pydicom.pixels import get_decoder

    decoder = get_decoder(options.pop("syntax"))
    plugins = options.pop("plugins")
    plugin = next((p for p in plugins if p in decoder.available_plugins), "")
    source = encapsulate([data], has_bot=False)
    image, _ = decoder.as_array(source, index=0, raw=True, decoding_plugin=plugin, **options)
    return image


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer requests until there are no more."""
    while head := requests.read(LENGTH.size):
        options = json.loads(requests.read(*LENGTH.unpack(head)))
        data = requests.read(*LENGTH.unpack(requests.read(LENGTH.size)))
        try:
            well, body = True, decode(options, data)
        except BaseException as error:  # a panic in Rust is no Exception
            well, body = False, f"{type(error).__name__}: {error}".encode()
        answers.write(ANSWER.pack(well, len(body)))
        answers.write(body)
        answers.flush()


def confine() -> None:
    """No core dump, which would contain the image, and a limit of memory; Ctrl-C is left to the parent process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        import resource
    except ImportError:  # Windows knows no such limits
        return
    for kind, limit in ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_AS, MAX_MEMORY_BYTES)):
        _, hard = resource.getrlimit(kind)
        resource.setrlimit(kind, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def main() -> None:
    """Serve the standard streams, which codecs cannot write to."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    confine()
    serve(requests, answers)


if __name__ == "__main__":
    main()
