"""Folders of pictures as material: whole slices for what outlines, patches for what keeps or rejects.

    FOLDER/images/PATIENT/7.png     slices, those without a nodule included
    FOLDER/masks/PATIENT/7.png      what is drawn of the nodules; or 7_mask.png beside the slice
    FOLDER/boxes/PATIENT/7.xml      instead of masks: Pascal VOC, YOLO's .txt, or one table FOLDER/boxes.csv
    FOLDER/lungs/PATIENT/7.png      the lungs, where they are drawn too

Names, colours and patients are as in :mod:`nodulens.data.folders`. A picture is seen as it is, black 0 and white 1.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from nodulens.core.geometry import Geometry
from nodulens.core.volume import Volume
from nodulens.data.dataset import Item
from nodulens.data.folders import MASK, PICTURES, SliceFolder, files_below, open_folder, read_mask_picture
from nodulens.data.frames import grey_as_hu, picture_mm
from nodulens.data.material import MadePatches
from nodulens.errors import BadOption, BadValues, NotFound
from nodulens.ops.components import components
from nodulens.stages.classical import classic_steps, otsu
from nodulens.stages.slices import BACKGROUND, NODULE, Field
from nodulens.stages.views import PATCH_PX, patch_view
from nodulens.train.tasks.protocol import Rows

Bool = NDArray[np.bool_]

IMAGES, MASKS, BOXES, LUNGS = "images", "masks", "boxes", "lungs"
LUNG = "lung"
LOOK_ALIKES = 4
"""Patches of a slice that show no nodule, at most."""
SPOT_PX = 4
"""Size below which a bright spot in a lung is noise."""


def is_pictures(data: Path) -> bool:
    """Whether a data folder is one of pictures."""
    return (data / IMAGES).is_dir()


def find_pictures(data: Path) -> SliceFolder:
    """The slices of a data folder with their masks or boxes.

    Raises:
        NotFound: neither masks nor boxes.
        BadOption: a slice whose patient cannot be told, or both masks and boxes.
    """
    images, boxes = data / IMAGES, [p for p in (data / BOXES, data / f"{BOXES}.csv") if p.exists()]
    beside = any(key.endswith(MASK) for key in files_below(images, PICTURES))
    masks = [p for p, there in ((data / MASKS, (data / MASKS).is_dir()), (images, beside)) if there]
    if not masks and not boxes:
        raise NotFound(f"{data} holds {IMAGES}/ and neither {MASKS}/ nor {BOXES}/: every slice would pass for healthy.")
    if len(masks) + len(boxes) > 1:
        raise BadOption(f"{data} says twice what is drawn: {', '.join(p.name for p in (*masks, *boxes))}. Keep one.")
    try:
        return open_folder(images, masks=masks[0] if masks else None, boxes=boxes[0] if boxes else None)
    except BadOption as error:
        raise BadOption(f"{error} To train, give every patient a folder of its own below {images}.") from error


@dataclass(frozen=True, eq=False)
class Pictures:
    """Whole slices of a folder; a row is a slice, read when it is needed.

    Attributes:
        folder: slices and nodules.
        lungs: key of a slice → mask of the lungs; None where nobody drew them.
    """

    folder: SliceFolder
    lungs: Mapping[str, Path] | None = None

    @cached_property
    def patients(self) -> list[str]:
        """(N,) whose slice it is."""
        return [item.patient_id for item in self.folder.items()]

    @cached_property
    def strata(self) -> list[str]:
        """(N,) "nodule" or "no nodule"."""
        return [item.stratum for item in self.folder.items()]

    @cached_property
    def has_nodule(self) -> Bool:
        """(N,) whether there is a nodule."""
        return np.array(self.strata) == NODULE

    def annotated(self, classes: tuple[str, ...]) -> tuple[str, ...]:
        """Those of a network's classes that are drawn here; which lung is which, no picture says."""
        drawn = (BACKGROUND, NODULE, *((LUNG,) if self.lungs is not None else ()))
        left = [name for name in classes if name not in drawn]
        if left:
            warnings.warn(
                f"{self.folder.name} does not show {', '.join(left)}: the network learns "
                f"{', '.join(name for name in classes if name in drawn)} alone.",
                stacklevel=2,
            )
        return tuple(name for name in classes if name in drawn)

    def examples(self, field: Field, rows: Rows) -> tuple[NDArray[np.float32], Bool]:
        """Images and truth of some rows, see :meth:`nodulens.train.tasks.slice_material.Slices.examples`."""
        images = np.empty((len(rows), field.size, field.size), dtype=np.float32)
        truth = np.empty((len(rows), len(field.foreground), field.size, field.size), dtype=bool)
        for n, row in enumerate(rows):
            grey, nodule, key = self._read(int(row))
            geometry = _geometry(grey)
            images[n] = field.input(grey_as_hu(grey), geometry)[0]
            for k, name in enumerate(field.foreground):
                mask = nodule if name == NODULE else self._lungs(key, nodule.shape)
                truth[n, k] = field.outlines(mask, geometry)[0]
        return images, field.exclusively(truth)

    def pixels_mm(self, field: Field, rows: Rows) -> list[float]:
        """(N,) pixel that a network sees, every picture taken for a whole slice."""
        return [field.grid(_geometry(self._read(int(row))[0])).spacing_zyx[1] for row in rows]

    def _read(self, row: int) -> tuple[NDArray[np.float32], Bool, str]:
        item = self.folder.items()[row]
        return *_drawn(self.folder, item), item.key

    def _lungs(self, key: str, shape: tuple[int, ...]) -> Bool:
        if self.lungs is None or key not in self.lungs:
            return np.zeros(shape, dtype=bool)
        mask = read_mask_picture(self.lungs[key])[None]
        if mask.shape != shape:
            raise BadValues(f"{self.lungs[key]} is {mask.shape[1:]}, its slice {shape[1:]} pixels (y, x).")
        return mask


def load_pictures(data: Path) -> Pictures:
    """Whole slices of a data folder; boxes are filled, and a warning says so."""
    folder = find_pictures(data)
    if folder.boxes is not None:
        warnings.warn(f"{data} holds boxes, not masks: nodules are learnt as filled boxes.", stacklevel=2)
    if not (data / LUNGS).is_dir():
        return Pictures(folder)
    return Pictures(folder, open_folder(data / IMAGES, masks=data / LUNGS, patient="(.+)").masks)


def _drawn(folder: SliceFolder, item: Item) -> tuple[NDArray[np.float32], Bool]:
    """(1, y, x) 0…1, and where a nodule is."""
    sample = folder.load(item)
    if sample.mask is not None:
        return sample.image, sample.mask
    mask = np.zeros(sample.image.shape, dtype=bool)
    for box in sample.boxes or ():
        mask[box.slices] = True
    return sample.image, mask


def _geometry(grey: NDArray[np.float32]) -> Geometry:
    return Geometry.axial((1, *grey.shape[1:]), (1.0, *picture_mm(grey.shape[1:])))


# ---------------------------------------------------------------- patches


def load_patches(data: Path) -> MadePatches:
    """Patches of the slices of a data folder.

    A positive lies on the middle of what is drawn as one part, as large as a disc of the part's area, the picture taken
    for a whole slice. Its non-nodules are up to :data:`LOOK_ALIKES` spots of the same slice that are bright in what the
    classic steps take for lung, or any place where there is none. All weigh 1: what parts of several slices are one
    nodule, nobody says.
    """
    folder = find_pictures(data)
    rows = [(patch, size, item.patient_id) for item in folder.items() for patch, size in _patches(folder, item)]
    size = np.array([size for _, size, _ in rows], dtype=np.float32)
    label = size > 0
    return MadePatches(
        steps=np.array([patch for patch, _, _ in rows], dtype=np.uint8).reshape(-1, PATCH_PX, PATCH_PX),
        label=label,
        diameter_mm=size,
        patients=[patient for _, _, patient in rows],
        nodule=np.where(label, np.cumsum(label) - 1, -1),
        weight=np.ones(len(rows)),
    )


def _patches(folder: SliceFolder, item: Item) -> Iterator[tuple[NDArray[np.uint8], float]]:
    """Patches of a slice, and the diameter of what each shows."""
    grey, nodule = _drawn(folder, item)
    geometry = _geometry(grey)
    volume = Volume(grey_as_hu(grey), geometry)
    parts = components(nodule[0], 8)
    areas = np.asarray(parts.sizes) * geometry.spacing_zyx[1] ** 2
    middles = [np.argwhere(parts.labels == n).mean(axis=0) for n in range(1, len(areas) + 1)]
    places = [*zip(middles, 2 * np.sqrt(areas / np.pi), strict=True)]
    places += [(place, 0.0) for place in _non_nodules(grey[0], nodule[0], np.random.default_rng([*item.key.encode()]))]
    for middle, size in places:
        patch = patch_view(volume, np.array([0.0, *middle]), 0.0)
        yield np.rint(patch * 255).astype(np.uint8), float(size)


def _non_nodules(grey: NDArray[np.float32], nodule: Bool, rng: np.random.Generator) -> list[NDArray[np.float64]]:
    """Places (y, x) that may be taken for a nodule, and are none."""
    lungs = classic_steps(grey)["filled"] > 0
    spots = components(lungs & (grey >= otsu(grey)), 8)
    near = ndimage.binary_dilation(nodule, iterations=SPOT_PX)
    able = np.setdiff1d(np.flatnonzero(spots.sizes >= SPOT_PX) + 1, spots.labels[near])
    if len(able):
        return [np.argwhere(spots.labels == n).mean(axis=0) for n in rng.permutation(able)[:LOOK_ALIKES]]
    anywhere = np.argwhere(lungs & ~near) if (lungs & ~near).any() else np.argwhere(~near)
    return [rng.choice(anywhere).astype(np.float64)] if len(anywhere) else []
