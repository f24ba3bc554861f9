"""Frames from pictures of a folder, slices of a DICOM folder, a video or a camera."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodulens.core.volume import Volume
from nodulens.data.folders import MAX_PIXELS, PICTURES, files_below, read_picture
from nodulens.errors import BadGeometry, MissingExtra, NotFound, UnreadableFile
from nodulens.io import read_one_by_one
from nodulens.io.files import open_regular
from nodulens.ops.intensity import NETWORK_WINDOW
from nodulens.ops.orient import canonical

WIDE_MM = 360.0
"""Width of a picture, which has no scale: each is taken for a whole slice, such as 512 pixels of 0.7 mm."""
PACE = 10.0
"""Frames a second of a source without a frame rate."""

Hounsfield = NDArray[np.float32] | NDArray[np.int16]


@dataclass(frozen=True)
class Frame:
    """An axial slice, read on demand.

    Attributes:
        number: in the source, from 1.
        name: path of a picture below the source without its suffix, which may name the patient; else "".
        read: gives HU (y, x), rows towards posterior and columns towards the patient's left, and the pixel's height
            and width in mm. For a video it works until the next frame is requested. Raises InputError where this one
            cannot be read.
    """

    number: int
    name: str
    read: Callable[[], tuple[Hounsfield, tuple[float, float]]]


@dataclass(frozen=True)
class Source:
    """A source of frames.

    Attributes:
        frames: an iterator, to be used once.
        count: number of frames, or None if unknown.
        pace: frames a second.
    """

    frames: Iterator[Frame]
    count: int | None
    pace: float = PACE


def open_source(name: str, window: tuple[float, float] = NETWORK_WINDOW, series: str | None = None) -> Source:
    """Frames of a folder of PNG or JPEG slices in natural order, of a DICOM folder, of a video, or of a camera.

    Args:
        name: a folder, a video or a picture; or the number of a camera, where no file is called so.
        window: HU of black and of white in pictures.
        series: of a DICOM folder that holds several.

    Raises:
        NotFound: no such file, folder or camera, or a folder without slices.
        UnreadableFile: a file that is no video, a pipe, a device or a socket, or frames larger than
            :data:`nodulens.data.folders.MAX_PIXELS`.
        MissingExtra: videos and cameras need a package that is not installed.
        BadOption: pictures whose names differ in the suffix alone.
        NodulensError: what reading the headers of a DICOM folder raises.
    """
    path = Path(name)
    there = os.path.exists(path)
    if os.path.isdir(path):
        pictures = files_below(path, PICTURES)
        return _pictures(pictures, window) if pictures else _dicom(path, series)
    if path.suffix.lower() in PICTURES and there:
        return _pictures({path.stem: path}, window)
    if there:
        _check_video(path)
    elif not re.fullmatch("[0-9]{1,4}", name):
        raise NotFound(f"There is no file or folder {name}; a camera is given by its number.")
    return _video(name, window, camera=not there)


def grey_as_hu(grey: NDArray[np.float32], window: tuple[float, float] = NETWORK_WINDOW) -> NDArray[np.float32]:
    """A picture (y, x) 0…1 as HU, by the HU of black and of white."""
    low, high = window
    return np.asarray(np.float32(low) + grey * np.float32(high - low))


def picture_mm(shape: tuple[int, ...]) -> tuple[float, float]:
    """Height and width of a pixel of a picture, taken as a whole slice, see :data:`WIDE_MM`."""
    side = WIDE_MM / max(shape)
    return side, side


def _shown(grey: NDArray[np.float32], window: tuple[float, float]) -> tuple[Hounsfield, tuple[float, float]]:
    return grey_as_hu(grey, window), picture_mm(grey.shape)


def _pictures(files: dict[str, Path], window: tuple[float, float]) -> Source:
    def read(path: Path) -> tuple[Hounsfield, tuple[float, float]]:
        return _shown(read_picture(path), window)

    names = sorted(files, key=_natural)
    frames = (Frame(number, name, partial(read, files[name])) for number, name in enumerate(names, start=1))
    return Source(frames, len(names))


def _natural(name: str) -> list[tuple[int, str]]:
    """A sort key for natural order: 10 after 9."""
    parts = re.split(r"(\d+)", name)
    return [(int(part), part) if number % 2 else (0, part) for number, part in enumerate(parts)]


def _dicom(folder: Path, series: str | None) -> Source:
    slices = read_one_by_one(folder, series=series)

    def read(slice_: Callable[[], Volume]) -> tuple[Hounsfield, tuple[float, float]]:
        volume, _ = canonical(slice_())
        if volume.geometry.shape[0] != 1:
            raise BadGeometry(f"{folder} holds slices that are not axial; choose another series.")
        _, height, width = volume.geometry.spacing_zyx
        return volume.hu[0], (height, width)

    frames = (Frame(number, "", partial(read, one)) for number, one in enumerate(slices, start=1))
    return Source(frames, len(slices))


def _check_video(path: Path) -> None:
    """Refuse what is no regular file, and text: a playlist would have the decoder open other files.

    Raises:
        UnreadableFile: it is one of these.
    """
    with open_regular(path) as file:
        head = file.read(4096)
    if not any(byte < 9 for byte in head):
        raise UnreadableFile(f"{path} is no video, or is damaged; nodulens analyze reads scans in one file.")


def _video(name: str, window: tuple[float, float], *, camera: bool) -> Source:
    try:
        import cv2
    except ImportError as error:
        raise MissingExtra("video", "opencv-python-headless") from error
    capture: Any = cv2.VideoCapture(int(name)) if camera else cv2.VideoCapture(name)
    if not capture.isOpened() or not capture.grab():
        capture.release()
        if camera:
            raise NotFound(f"There is no camera {name}, or another program uses it.")
        raise UnreadableFile(f"{name} is no video, or is damaged; nodulens analyze reads scans in one file.")
    width, height = (capture.get(key) for key in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
    if not width * height <= MAX_PIXELS:
        capture.release()
        raise UnreadableFile(f"{name} has frames of {width:g} × {height:g} pixels, beyond {MAX_PIXELS:,}; scale it.")

    def read() -> tuple[Hounsfield, tuple[float, float]]:
        there, image = capture.retrieve()
        if not there:
            raise UnreadableFile(f"A frame of {name} is damaged.")
        grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY) if image.ndim == 3 else image
        return _shown(grey.astype(np.float32) / np.float32(255), window)

    def frames() -> Iterator[Frame]:
        number = 1
        try:
            yield Frame(number, "", read)
            while capture.grab():
                number += 1
                yield Frame(number, "", read)
        finally:
            capture.release()

    count, pace = (capture.get(key) for key in (cv2.CAP_PROP_FRAME_COUNT, cv2.CAP_PROP_FPS))
    known = not camera and 0 < count < 1e7
    return Source(frames(), int(count) if known else None, float(pace) if 0 < pace <= 1000 else PACE)
