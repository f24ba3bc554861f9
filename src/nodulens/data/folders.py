"""Folders of PNG or JPEG slices with masks or boxes, slices without a nodule included.

Masks are pictures beside the slices, of the same stem: ``masks/p1/7.png`` belongs to ``images/p1/7.jpg``. Boxes are
Pascal VOC ``.xml`` or YOLO ``.txt`` files of the same stem, or one CSV table with a row a box. A slice without any has
no nodule; a mask or box without a slice is an error, since otherwise mismatched names would make every slice healthy.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodulens.core.nodule import Box
from nodulens.data.dataset import Item, Sample
from nodulens.errors import BadOption, BadValues, NotFound, UnreadableFile
from nodulens.io.files import check_regular, open_regular
from nodulens.io.places import folders_below
from nodulens.io.tables import read_table

PICTURES = (".png", ".jpg", ".jpeg")
BOX_FILES = (".xml", ".txt")
MASK = "_mask"
CORNERS = ("xmin", "ymin", "xmax", "ymax")
PRESENCE = {False: "no nodule", True: "nodule"}
LABELS_END = 32
"""A mask whose brightest channel stays below this holds label numbers, not grey values."""
FORMATS = ("PNG", "JPEG")
"""Accepted formats, by content; Pillow would open dozens, some by other programs."""
MAX_PIXELS = 8192**2
"""Larger pictures are refused before decoding: 64 MiB with 8 bits of grey, 192 MiB in colour."""
MAX_PIXEL = 65_535
"""Limit of box corners, beyond any picture."""

Colour = int | tuple[int, int, int]


@dataclass(frozen=True)
class SliceFolder:
    """A :class:`nodulens.data.dataset.Dataset` of single slices.

    A sample's image is (1, y, x) on 0…1 of the picture's range, colours turned to grey; its label is 1 where it
    shows a nodule, and so is its stratum. Boxes come from the masks where there are masks, one a connected part.

    Attributes:
        name: of the data set.
        images: key → picture; a key is the path below the folder without its suffix.
        patients: key → patient.
        masks: key → mask picture; None where the folder is described by boxes.
        boxes: key → boxes, (1, y, x) half-open; None where it is described by masks.
        nodule: the grey value or colour of nodules; None for bright pixels.
    """

    name: str
    images: Mapping[str, Path]
    patients: Mapping[str, str]
    masks: Mapping[str, Path] | None = None
    boxes: Mapping[str, tuple[Box, ...]] | None = None
    nodule: Colour | None = None

    def items(self) -> tuple[Item, ...]:
        """One item a slice; the masks are opened once to find empty ones."""
        return self._items

    @cached_property
    def _items(self) -> tuple[Item, ...]:
        return tuple(Item(key, self.patients[key], PRESENCE[self._shows(key)]) for key in self.images)

    def _shows(self, key: str) -> bool:
        if self.boxes is not None:
            return bool(self.boxes.get(key))
        masks = self.masks or {}
        return key in masks and bool(read_mask_picture(masks[key], self.nodule).any())

    def load(self, item: Item) -> Sample:
        """Read one slice with its mask or boxes.

        Raises:
            UnreadableFile: no picture, or damaged.
            BadValues: mask and slice differ in size, or a box reaches beyond the slice.
        """
        path = self.images[item.key]
        image = read_picture(path)[None]
        if self.boxes is not None:
            boxes = self.boxes.get(item.key, ())
            for box in boxes:
                if min(box.start) < 0 or any(b > n for b, n in zip(box.stop, image.shape, strict=True)):
                    raise BadValues(f"{path}: a box to {box.stop[1:]} is outside its {image.shape[1:]} pixels (y, x).")
            return Sample(item, image, "unit", boxes=boxes, label=int(bool(boxes)))
        mask = np.zeros(image.shape, dtype=bool)
        if self.masks is not None and item.key in self.masks:
            nodule = read_mask_picture(self.masks[item.key], self.nodule)
            if nodule.shape != image.shape[1:]:
                raise BadValues(
                    f"{self.masks[item.key]} is {nodule.shape}, its slice {image.shape[1:]} pixels (y, x); "
                    "export them at one size."
                )
            mask[0] = nodule
        return Sample(item, image, "unit", mask=mask, boxes=_parts(mask), label=int(mask.any()))


def open_folder(
    images: str | Path,
    *,
    masks: str | Path | None = None,
    boxes: str | Path | None = None,
    patient: str | None = None,
    nodule: Colour | None = None,
) -> SliceFolder:
    """Find the slices of a folder, with their masks or boxes.

    Args:
        images: the folder of slices, sub-folders included.
        masks: the folder of masks; exactly one of this and ``boxes``. A mask is called as its slice, or ends in
            ``_mask`` beside that; the folder may then be ``images`` itself.
        boxes: a folder of ``.xml`` or ``.txt`` files, or a CSV table with the columns ``filename, xmin, ymin, xmax,
            ymax`` in pixels from 0, the last column and row not included.
        patient: a regular expression whose first group names the patient, looked for in a slice's path below
            ``images``; default is the first folder of that path. ``(.+)`` makes every slice a patient.
        nodule: grey value or (red, green, blue) of the nodules where masks hold other things as well.

    Raises:
        NotFound: no such folder, no pictures in it, or masks or boxes that belong to no slice.
        BadOption: not exactly one of masks and boxes, a slice whose patient is unknown, or two pictures of one name.
        UnreadableFile, BadValues: a box file that cannot be read.
    """
    root = Path(images)
    if (masks is None) == (boxes is None):
        raise BadOption("Name the masks or the boxes: exactly one of the two.")
    found: dict[str, Path] = {}
    if masks is not None:
        together = Path(masks).resolve() == root.resolve()
        found = {k: p for k, p in files_below(Path(masks), PICTURES).items() if not together or k.endswith(MASK)}
    pictures, taken = files_below(root, PICTURES), set(found.values())
    slices = {key: path for key, path in pictures.items() if path not in taken}
    if not slices:
        raise NotFound(f"{root} holds no {', '.join(PICTURES)} slices.")
    patients = {key: _patient(key, patient, root) for key in slices}
    if boxes is not None:
        return SliceFolder(root.resolve().name, slices, patients, boxes=_read_boxes(Path(boxes), slices))
    named = {key.removesuffix(MASK): path for key, path in found.items()}
    _check_belonging(named, slices, Path(masks or root))
    return SliceFolder(root.resolve().name, slices, patients, masks=named, nodule=nodule)


def read_picture(path: str | Path) -> NDArray[np.float32]:
    """A PNG or JPEG as grey values, (y, x) float32, 0…1 of what its bits can hold.

    Eight bits a channel, or sixteen of grey, as PNG has them; at most :data:`MAX_PIXELS`.

    Raises:
        NotFound: there is no such file.
        UnreadableFile: no picture, damaged, or too large.
    """
    with _opened(Path(path)) as picture:
        if picture.mode.startswith("I"):  # 16 bits
            return np.asarray(picture, dtype=np.float32) / np.float32(65535)
        return np.asarray(picture.convert("L"), dtype=np.float32) / np.float32(255)


def read_mask_picture(path: str | Path, nodule: Colour | None = None) -> NDArray[np.bool_]:
    """The nodule pixels of a mask picture, (y, x).

    Args:
        path: a coloured, grey or palette picture.
        nodule: the grey value or colour that means nodule. By default it is whatever is not dark: pixels whose
            brightest channel is above half of its range (edges that JPEG or scaling have softened do no harm), or
            anything but 0 where a picture without loss holds small label numbers only.

    Raises:
        NotFound: there is no such file.
        UnreadableFile: no picture, damaged, or too large.
    """
    with _opened(Path(path)) as picture:
        lossy = picture.format == "JPEG"
        deep = picture.mode.startswith("I")
        values = np.asarray(picture if deep or picture.mode == "L" else picture.convert("RGB"))
    if isinstance(nodule, tuple):
        wide = values if values.ndim == 3 else np.repeat(values[..., None], 3, axis=2)
        return np.asarray((wide == np.array(nodule)).all(axis=2))
    brightest = values if values.ndim == 2 else values.max(axis=2)
    if nodule is not None:
        return np.asarray(brightest == nodule)
    if not lossy and brightest.max() < LABELS_END:
        return np.asarray(brightest > 0)
    return np.asarray(brightest > (32767 if deep and brightest.max() > 255 else 127))


def boxes_of_voc(path: Path) -> tuple[Box, ...]:
    """The boxes of a Pascal VOC file, (1, y, x); it counts pixels from 1 and includes the last.

    Raises:
        UnreadableFile: it is none.
    """
    from xml.etree import ElementTree

    try:
        found = ElementTree.parse(path).iterfind(".//object/bndbox")
        corners = [[float(box.findtext(name) or "nan") for name in CORNERS] for box in found]
    except (ElementTree.ParseError, OSError, LookupError, ValueError) as error:
        raise UnreadableFile(f"{path} is no Pascal VOC file ({error}); export it again.") from error
    return tuple(_box(np.array(c) - (1, 1, 0, 0), str(path)) for c in corners)


def _opened(path: Path) -> Any:
    """A decoded picture; a context manager."""
    from PIL import Image

    too_large = f"{path} has more than {MAX_PIXELS:,} pixels, no slice of a CT; scale it down."
    with open_regular(path) as file:
        try:
            picture = Image.open(file, formats=FORMATS)
            if picture.width * picture.height > MAX_PIXELS:
                raise UnreadableFile(too_large)
            picture.load()
        except Image.DecompressionBombError as error:
            raise UnreadableFile(too_large) from error
        except (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error) as error:
            raise UnreadableFile(
                f"{path} is no PNG or JPEG, or is damaged ({error}); copy or export it again."
            ) from error
    return picture


def files_below(folder: Path, suffixes: Sequence[str]) -> dict[str, Path]:
    """Path below the folder without its suffix → file, in order of name; see :func:`folders_below`.

    Raises:
        NotFound: no such folder.
        BadOption: two files whose names differ in the suffix alone.
        UnreadableFile: a pipe, a device or a socket among them.
    """
    if not folder.is_dir():
        raise NotFound(f"There is no folder {folder}.")
    found: dict[str, Path] = {}
    for path in sorted(path for _, files in folders_below(folder) for path in files):
        if path.suffix.lower() not in suffixes:
            continue
        check_regular(path)
        key = path.relative_to(folder).with_suffix("").as_posix()
        if key in found:
            raise BadOption(f"{path} and {found[key]} have one name; keep one of them.")
        found[key] = path
    return found


def _patient(key: str, pattern: str | None, root: Path) -> str:
    if pattern is None:
        folders = PurePosixPath(key).parts[:-1]
        if not folders:
            raise BadOption(
                f"{root / key} is in no folder of a patient. Give a pattern for the patient in its name, such as "
                r"'(LIDC-IDRI-\d{4})', or (.+) where every slice is a patient of its own (--patient, patient=…)."
            )
        return folders[0]
    try:
        match = re.search(pattern, key)
        name = match[1] if match else None
    except (re.error, IndexError) as error:
        raise BadOption(
            f"{pattern!r} is no regular expression with a group ({error}); write one like (P\\d+)."
        ) from error
    if not name:
        raise BadOption(f"{pattern!r} finds no patient in {key!r}; every slice needs one.")
    return name


def _check_belonging(marks: Mapping[str, object], slices: Mapping[str, Path], where: Path) -> None:
    astray = sorted(marks.keys() - slices.keys())
    if astray:
        raise NotFound(
            f"{len(astray)} of {len(marks)} masks or boxes in {where} belong to no slice, first {astray[0]!r}: "
            "their names, suffix aside, must be those of the slices."
        )


def _parts(mask: NDArray[np.bool_]) -> tuple[Box, ...]:
    """The boxes around the connected components (8 neighbours) of a mask (1, y, x)."""
    from scipy import ndimage

    labels, _ = ndimage.label(mask, structure=np.ones((3, 3, 3)))
    return tuple(
        Box(tuple(s.start for s in place), tuple(s.stop for s in place)) for place in ndimage.find_objects(labels)
    )


def _read_boxes(path: Path, slices: Mapping[str, Path]) -> dict[str, tuple[Box, ...]]:
    if path.is_file():
        marked: dict[str, tuple[Box, ...]] = _boxes_of_table(path, slices)
    else:
        files = files_below(path, BOX_FILES)
        _check_belonging(files, slices, path)
        marked = {
            key: boxes_of_voc(file) if file.suffix.lower() == ".xml" else _boxes_of_yolo(file, slices[key])
            for key, file in files.items()
        }
    return marked


def _boxes_of_table(path: Path, slices: Mapping[str, Path]) -> dict[str, tuple[Box, ...]]:
    """``filename`` is a path below the slices, with its suffix or without, or a bare name that only one slice has."""
    table = read_table(path, ("filename", *CORNERS))
    bare: dict[str, list[str]] = {}
    for key in slices:
        bare.setdefault(PurePosixPath(key).name, []).append(key)
    marked: dict[str, tuple[Box, ...]] = {}
    for row, (name, corners) in enumerate(zip(table.cells["filename"], table.points(CORNERS), strict=True)):
        key = name.replace("\\", "/")
        key = key.rpartition(".")[0] if key.lower().endswith(PICTURES) else key
        known = [key] if key in slices else bare.get(key, [])
        if len(known) != 1:
            raise NotFound(
                f"{table.at(row)}: {len(known)} slices are called {name!r}; give the path below their folder."
            )
        marked[known[0]] = (*marked.get(known[0], ()), _box(corners, table.at(row)))
    return marked


def _boxes_of_yolo(path: Path, picture: Path) -> tuple[Box, ...]:
    """A line a box: class, middle x and y, width and height, as shares of the picture's size."""
    try:
        lines = [line.split() for line in path.read_text("utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UnreadableFile(f"{path} is no text in UTF-8, or cannot be read ({error}); export it again.") from error
    if not lines:
        return ()
    with _opened(picture) as image:
        size = np.array(image.size * 2)
    boxes = []
    for number, words in enumerate(lines, 1):
        try:
            x, y, width, height = (float(word) for word in words[1:])
        except ValueError as error:
            raise UnreadableFile(f"{path}, line {number}: a box is a class and four numbers, got {words}.") from error
        shares = np.array([x - width / 2, y - height / 2, x + width / 2, y + height / 2])
        boxes.append(_box(np.clip(shares, 0, 1) * size, f"{path}, line {number}"))
    return tuple(boxes)


def _box(corners: NDArray[np.float64], where: str) -> Box:
    """(x0, y0, x1, y1) → the box of the pixels that it touches.

    Raises:
        BadValues: not finite, of no size, or out of all bounds.
    """
    # Written so that NaN fails as well.
    if not (np.abs(corners) <= MAX_PIXEL).all() or (corners[2:] <= corners[:2]).any():
        raise BadValues(
            f"{where}: a box runs from a smaller to a larger x and y, to {MAX_PIXEL:,} at most, got {corners.tolist()}."
        )
    # a hair for the rounding of shares of the picture's size
    x0, y0 = np.floor(corners[:2] + 1e-3).astype(int)
    x1, y1 = np.ceil(corners[2:] - 1e-3).astype(int)
    return Box((0, y0, x0), (1, y1, x1))
