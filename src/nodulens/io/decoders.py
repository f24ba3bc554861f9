"""Decoding compressed images where a codec's death is an error message.

Codecs are native code that meets bytes from strangers: gdcm aborts on some damaged JPEG, a codec in Rust panics past
``except Exception``, any of them may loop or overrun its memory. So they run in processes of their own, started when
the first compressed image is met, kept for the next ones, and gone with the process that asked. With as many of them
as there are processors, a scan is read faster than by one process alone.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from queue import LifoQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodulens.io.decode_worker import ANSWER, LENGTH

MAX_PROCESSES = 4
# A frame takes some 10 to 100 ms.
TIMEOUT_S = 60.0
GRACE_S = 1.0
# Faster than gdcm on the same bytes, and stricter about truncated ones; gdcm decodes JPEG itself.
PREFERRED_PLUGINS = ("pyjpegls", "pylibjpeg")


class DecodingError(Exception):
    """A frame that could not be decoded; the message says why, but not which file holds it."""


@dataclass(frozen=True)
class EncodedFrame:
    """One compressed image.

    Attributes:
        syntax: UID of the transfer syntax.
        data: the codestream.
        size: rows, columns.
        bits_allocated: of each pixel.
        bits_stored: of each pixel.
        signed: whether pixels are two's complement.
        photometric: such as "MONOCHROME2".
    """

    syntax: str
    data: bytes
    size: tuple[int, int]
    bits_allocated: int
    bits_stored: int
    signed: bool
    photometric: str

    def request(self) -> bytes:
        """All but the codestream, as :mod:`nodulens.io.decode_worker` reads it."""
        options = {
            "syntax": self.syntax,
            "plugins": PREFERRED_PLUGINS,
            "rows": self.size[0],
            "columns": self.size[1],
            "number_of_frames": 1,
            "samples_per_pixel": 1,
            "bits_allocated": self.bits_allocated,
            "bits_stored": self.bits_stored,
            "pixel_representation": int(self.signed),
            "photometric_interpretation": self.photometric,
        }
        text = json.dumps(options).encode()
        return LENGTH.pack(len(text)) + text + LENGTH.pack(len(self.data))


def decode(frame: EncodedFrame) -> Future[NDArray[Any]]:
    """Begin to decode a frame.

    Returns:
        what will hold the stored values (rows, columns) as integers of the frame's bits, or raise
        :class:`DecodingError`.
    """
    return _pool(os.getpid()).decode(frame)


class _Process:
    """One process that decodes, started when it is needed, and anew after it died."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def decode(self, frame: EncodedFrame) -> NDArray[Any]:
        process = self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        late = threading.Event()

        def give_up() -> None:
            late.set()
            process.kill()

        watch = threading.Timer(TIMEOUT_S, give_up)
        watch.start()
        try:
            process.stdin.write(frame.request())
            process.stdin.write(frame.data)
            process.stdin.flush()
            head = process.stdout.read(ANSWER.size)
            well, length = ANSWER.unpack(head) if len(head) == ANSWER.size else (False, 0)
            body = process.stdout.read(length)
        except OSError:
            head = body = b""
            well, length = False, 0
        finally:
            watch.cancel()
        if len(head) < ANSWER.size or len(body) < length:
            code = self.close()
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            raise DecodingError(f"no answer within {TIMEOUT_S:.0f} s" if late.is_set() else f"the decoder died, {how}")
        if not well:
            raise DecodingError(" ".join(body.decode(errors="replace").split()))
        return np.frombuffer(body, np.dtype(body[:8].decode().strip()), offset=8).reshape(frame.size)

    def close(self) -> int:
        """End the process; its exit code, 0 where none runs."""
        process, self._process = self._process, None
        if process is None:
            return 0
        # One that is dying is left to say what it dies of.
        with suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=GRACE_S)
        process.kill()
        process.communicate()
        return process.returncode

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is not None:
            self.close()
        if self._process is None:
            script = str(Path(__file__).with_name("decode_worker.py"))
            paths = os.pathsep.join(path for path in sys.path if path)
            # -P: the script's folder holds modules that are named as some of the standard library.
            self._process = subprocess.Popen(
                [sys.executable, "-P", script],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            )
        return self._process


class _Pool:
    """Processes that decode, and a thread for each that waits for it."""

    def __init__(self) -> None:
        count = min(MAX_PROCESSES, os.cpu_count() or 1)
        self._all = [_Process() for _ in range(count)]
        # Last in, first out: one frame after another needs no second process.
        self._idle: LifoQueue[_Process] = LifoQueue()
        for process in self._all:
            self._idle.put(process)
        self._threads = ThreadPoolExecutor(count, "nodulens-decode")

    def decode(self, frame: EncodedFrame) -> Future[NDArray[Any]]:
        return self._threads.submit(self._decode, frame)

    def _decode(self, frame: EncodedFrame) -> NDArray[Any]:
        process = self._idle.get()
        try:
            return process.decode(frame)
        finally:
            self._idle.put(process)

    def close(self) -> None:
        self._threads.shutdown(cancel_futures=True)
        for process in self._all:
            process.close()


@lru_cache(maxsize=1)
def _pool(process_id: int) -> _Pool:
    """The processes of this process: after a fork, others than those of the parent."""
    pool = _Pool()
    atexit.register(pool.close)
    return pool
