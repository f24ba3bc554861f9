"""Folders of pictures as material: whole slices for segmenters, patches for filters.

    FOLDER/images/PATIENT/7.png     slices, those without a nodule included
    FOLDER/masks/PATIENT/7.png      masks of the nodules; or 7_mask.png beside the slice
    FOLDER/boxes/PATIENT/7.xml      instead of masks: Pascal VOC, YOLO's .txt, or one table FOLDER/boxes.csv
    FOLDER/lungs/PATIENT/7.png      masks of the lungs, optional

Names, colours and patients are as in :mod:`nodulens.data.folders`. Grey values are the network's input, black 0 and
white 1.
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
from nodulens.stages.slices import BACKGROUNDS, NODULE, Field
from nodulens.stages.views import PATCH_PX, patch_view
from nodulens.train.tasks.protocol import Material, Rows

Bool = NDArray[np.bool_]

IMAGES, MASKS, BOXES, LUNGS = "images", "masks", "boxes", "lungs"
LUNG = "lung"
NEGATIVES = 4
"""Largest number of non-nodule patches of a slice."""
SPOT_PX = 4
"""Bright spots in a lung of fewer pixels are noise."""


def is_pictures(data: Path) -> bool:
    """Whether a data folder is a folder of pictures."""
    return (data / IMAGES).is_dir()


def find_pictures(data: Path) -> SliceFolder:
    """The slices of a data folder with their masks or boxes.

    Raises:
        NotFound: neither masks nor boxes.
        BadOption: a slice whose patient is unknown, or both masks and boxes.
    """
    images, boxes = data / IMAGES, [p for p in (data / BOXES, data / f"{BOXES}.csv") if p.exists()]
    beside = any(key.endswith(MASK) for key in files_below(images, PICTURES))
    masks = [p for p, there in ((data / MASKS, (data / MASKS).is_dir()), (images, beside)) if there]
    if not masks and not boxes:
        raise NotFound(f"{data} holds {IMAGES}/ and neither {MASKS}/ nor {BOXES}/: every slice would pass for healthy.")
    if len(masks) + len(boxes) > 1:
        raise BadOption(f"{data} has annotations twice: {', '.join(p.name for p in (*masks, *boxes))}. Keep one.")
    try:
        return open_folder(images, masks=masks[0] if masks else None, boxes=boxes[0] if boxes else None)
    except BadOption as error:
        raise BadOption(f"{error} To train, give every patient a folder of its own below {images}.") from error


@dataclass(frozen=True, eq=False)
class Pictures(Material):
    """Whole slices of a folder; a row is a slice, read on demand.

    Attributes:
        folder: slices and nodules.
        lungs: key of a slice → mask of the lungs; None if lungs are not annotated.
    """

    folder: SliceFolder
    lungs: Mapping[str, Path] | None = None

    @cached_property
    def patients(self) -> list[str]:
        """(N,) patient of each slice."""
        return [item.patient_id for item in self.folder.items()]

    @cached_property
    def strata(self) -> list[str]:
        """(N,) "nodule" or "no nodule"."""
        return [item.stratum for item in self.folder.items()]

    @cached_property
    def items(self) -> list[str]:
        """(N,) key of each slice in the folder."""
        return [item.key for item in self.folder.items()]

    @cached_property
    def has_nodule(self) -> Bool:
        """(N,) whether there is a nodule."""
        return np.array(self.strata) == NODULE

    def annotated(self, classes: tuple[str, ...]) -> tuple[str, ...]:
        """Those of a network's classes that are annotated here, which excludes left and right lung."""
        present = (*BACKGROUNDS, NODULE, *((LUNG,) if self.lungs is not None else ()))
        left = [name for name in classes if name not in present]
        if left:
            warnings.warn(
                f"{self.folder.name} does not show {', '.join(left)}: the network learns "
                f"{', '.join(name for name in classes if name in present)} alone.",
                stacklevel=2,
            )
        return tuple(name for name in classes if name in present)

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
        """(N,) pixel of a network's input in mm, with every picture taken for a whole slice."""
        return [field.grid(_geometry(self._read(int(row))[0])).spacing_zyx[1] for row in rows]

    def _read(self, row: int) -> tuple[NDArray[np.float32], Bool, str]:
        item = self.folder.items()[row]
        return *_annotated(self.folder, item), item.key

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


def _annotated(folder: SliceFolder, item: Item) -> tuple[NDArray[np.float32], Bool]:
    """(1, y, x) 0…1, and the mask of the nodules."""
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

    A positive is centred on a connected component of the mask, its diameter that of the disc of the same area, with the
    picture taken for a whole slice. Negatives of a slice are up to :data:`NEGATIVES` bright spots in the lung by the
    classic steps, or any place if there are none. All weigh 1, as it is unknown which components of several slices are
    one nodule.
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
    """Patches of a slice, and the diameter of the nodule on each in mm, 0 without one."""
    grey, nodule = _annotated(folder, item)
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
    """Places (y, x) of non-nodules that resemble nodules."""
    lungs = classic_steps(grey)["filled"] > 0
    spots = components(lungs & (grey >= otsu(grey)), 8)
    excluded = ndimage.binary_dilation(nodule, iterations=SPOT_PX)
    able = np.setdiff1d(np.flatnonzero(spots.sizes >= SPOT_PX) + 1, spots.labels[excluded])
    if len(able):
        return [np.argwhere(spots.labels == n).mean(axis=0) for n in rng.permutation(able)[:NEGATIVES]]
    anywhere = np.argwhere(lungs & ~excluded) if (lungs & ~excluded).any() else np.argwhere(~excluded)
    return [rng.choice(anywhere).astype(np.float64)] if len(anywhere) else []
