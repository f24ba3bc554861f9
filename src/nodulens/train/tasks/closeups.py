"""Close-ups of real nodules, on which networks of whole slices are trained and evaluated beside whole slices.

The nodule stacks have 96 × 96 of a scan's own pixels around a nodule, the cubes 50 × 50 pixels of 1 mm. A network gets
them at their scale in a whole slice, side by side on a sheet. Only the nodule is annotated, not the lungs; and their
outlines have the readers' variability, where those of rendered nodules are exact. Cubes only train: on stacks alone
figures are comparable.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nodulens.core.geometry import Geometry
from nodulens.data.material import CROP_STEPS, CUBE_MM, Cubes, NoduleMaterial, Stacks
from nodulens.methods.recipe import Augmentation
from nodulens.runtime.engine import Model
from nodulens.stages.slices import NODULE, WHOLE_PX, Field
from nodulens.train.loop.augment import copies_of

Bool = NDArray[np.bool_]
Int = NDArray[np.int_]

CHUNK = 1024
"""Slices resampled or augmented at a time."""
TYPICAL_MM = 0.7
"""Pixel of a whole slice of 512 pixels where it is unknown: of cubes. LIDC-IDRI's median."""


@dataclass(frozen=True, eq=False)
class CloseUps:
    """Slices of the stacks, or of the cubes, on which half of the readers outline something.

    Attributes:
        name: of a nodule of the material.
        image: (S, c, c) uint8, as :data:`nodulens.data.material.CROP_STEPS`.
        nodule: (S, c, c) consensus of half of the readers.
        pixel_mm: (S,).
        whole_mm: (S,) pixel of the whole slice at 512 × 512 pixels: of stacks the same as ``pixel_mm``.
        owner: (S,) number of the nodule on the slice, 0…N − 1.
        patients: (N,) patient of each nodule.
        origin: (N,) its number in the material.
    """

    name: str
    image: NDArray[np.uint8]
    nodule: Bool
    pixel_mm: NDArray[np.float32]
    whole_mm: NDArray[np.float32]
    owner: Int
    patients: list[str]
    origin: Int

    @classmethod
    def of(cls, stacks: Stacks) -> CloseUps:
        """All of the stacks, which have no evaluation patients."""
        outlined = {n: np.asarray(stacks.truth(n).any(axis=(1, 2))) for n in stacks.nodules.tolist()}
        found = {n: slices for n, slices in outlined.items() if slices.any()}
        return cls._of(stacks, "nodule", found, {n: stacks.spacing_zyx(n)[1] for n in found})

    @classmethod
    def of_cubes(cls, cubes: Cubes) -> CloseUps:
        """The slices of the cubes that are wholly inside the scan and show no other nodule; at the scale of a slice of
        :data:`TYPICAL_MM`."""
        found = {}
        for n in cubes.nodules.tolist():
            outside = np.ones((CUBE_MM, CUBE_MM, CUBE_MM), dtype=bool)
            outside[cubes.scanned(n).slices] = False
            usable = np.asarray(cubes.truth(n).any(axis=(1, 2)) & ~(cubes.other(n) | outside).any(axis=(1, 2)))
            if usable.any():
                found[n] = usable
        return cls._of(cubes, "cube", found, dict.fromkeys(found, TYPICAL_MM))

    @classmethod
    def _of(
        cls, material: NoduleMaterial, name: str, slices: Mapping[int, Bool], whole_mm: Mapping[int, float]
    ) -> CloseUps:
        """Some slices of some nodules."""
        counts = [int(chosen.sum()) for chosen in slices.values()]
        pixels = [material.spacing_zyx(n)[1] for n in slices]
        return cls(
            name=name,
            image=np.concatenate([CROP_STEPS.steps(material.hu(n)[chosen]) for n, chosen in slices.items()]),
            nodule=np.concatenate([material.truth(n)[chosen] for n, chosen in slices.items()]),
            pixel_mm=np.repeat(np.array(pixels, dtype=np.float32), counts),
            whole_mm=np.repeat(np.array(list(whole_mm.values()), dtype=np.float32), counts),
            owner=np.repeat(np.arange(len(slices)), counts),
            patients=[material.patients[n] for n in slices],
            origin=np.array(list(slices)),
        )

    def multiplied(self, kinds: Sequence[Augmentation], copies: int) -> CloseUps:
        """These, then ``copies`` of all of them, each slice augmented at random, see
        :func:`nodulens.train.loop.augment.augmented`. A copy counts as a nodule of the same patient and ``origin``."""
        image, nodule = [np.empty((copies, *a.shape), dtype=a.dtype) for a in (self.image, self.nodule)]
        for first in range(0, len(self.image), CHUNK):
            some = slice(first, first + CHUNK)
            plain = torch.from_numpy(self.image[some, None].astype(np.float32) / 255)
            truth = torch.from_numpy(self.nodule[some])
            changed, along = copies_of(plain, truth, kinds, copies, seed=first)
            assert along is not None
            image[:, some] = (255 * changed[:, :, 0]).round().to(torch.uint8).numpy()
            nodule[:, some] = along.numpy()
        times = copies + 1
        return replace(
            self,
            image=np.concatenate([self.image, *image]),
            nodule=np.concatenate([self.nodule, *nodule]),
            pixel_mm=np.tile(self.pixel_mm, times),
            whole_mm=np.tile(self.whole_mm, times),
            owner=np.concatenate([self.owner + k * len(self.patients) for k in range(times)]),
            patients=self.patients * times,
            origin=np.tile(self.origin, times),
        )

    @property
    def items(self) -> list[str]:
        """(N,) name and number of each nodule in its material."""
        return [f"{self.name} {n}" for n in self.origin]

    @cached_property
    def central(self) -> Int:
        """(N,) the slice on which each nodule is largest."""
        area = self.nodule.sum(axis=(1, 2))
        order = np.lexsort((-area, self.owner))
        return np.asarray(order[np.searchsorted(self.owner[order], np.arange(len(self.patients)))])

    def side(self, field: Field) -> int:
        """Side of the square, in whole pixels of a network's input, that every close-up fills."""
        return max(int(self.image.shape[-1] / max(self._step(field).max(), 1e-9) + 1e-6), 1)

    def examples(self, field: Field, slices: Int, side: int) -> tuple[NDArray[np.float32], Bool]:
        """Input of a network of whole slices for some close-ups, and ground truth of their nodule.

        Args:
            slices: numbers of slices.
            side: of the result in pixels; padded with air beyond a close-up.

        Returns:
            (n, side, side) 0…1, and the nodule's mask.
        """
        images = np.empty((len(slices), side, side), dtype=np.float32)
        truth = np.empty(images.shape, dtype=bool)
        for own, view, grid in self._views(field, slices, side):
            hu = CROP_STEPS.hu(self.image[slices[own]])
            images[own] = view.input(hu, grid)
            truth[own] = view.outlines(self.nodule[slices[own]], grid)
        return images, truth

    def invert(self, field: Field, slices: Int, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Values (n, side, side) on the network's input grid → (n, 96, 96) on the close-ups' own pixels."""
        out = np.empty((len(slices), *self.image.shape[1:]), dtype=np.float32)
        for own, view, grid in self._views(field, slices, values.shape[-1]):
            out[own] = view.invert(values[own], grid)
        return out

    def _step(self, field: Field) -> NDArray[np.float64]:
        """(S,) a network's pixel over a slice's own, as in a whole slice of 512 pixels."""
        own = self.pixel_mm.astype(np.float64)
        if field.pixel_mm is None:
            return np.asarray(max(1.0, WHOLE_PX / field.size) * (self.whole_mm.astype(np.float64) / own))
        return np.asarray(field.pixel_mm / own)

    def _views(self, field: Field, slices: Int, side: int) -> Iterator[tuple[Int, Field, Geometry]]:
        """Some slices of one step at a time, with their field and their grid, whose pixels are 1 wide."""
        steps = self._step(field)[slices]
        for step in np.unique(steps):
            all_of_step = np.flatnonzero(steps == step)
            for first in range(0, len(all_of_step), CHUNK):
                own = all_of_step[first : first + CHUNK]
                grid = Geometry.axial((len(own), *self.image.shape[1:]), (1.0, 1.0, 1.0))
                yield own, replace(field, size=side, pixel_mm=float(step)), grid


def nodule_probabilities(model: Model, field: Field, closeups: CloseUps, nodules: Int) -> NDArray[np.float32]:
    """Probabilities of a network of whole slices on central slices, as many on a sheet as fit its input.

    Args:
        model: (N, 1, size, size) → (N, classes, size, size) logits first.
        field: its field of view.
        nodules: (n,) numbers of nodules.

    Returns:
        (n, 96, 96) 0…1, probability of a nodule on the slices' own pixels.
    """
    side = field.size // max(field.size // closeups.side(field), 1)
    slices = closeups.central[nodules]
    images, _ = closeups.examples(field, slices, side)
    return closeups.invert(field, slices, on_sheets(model, field, images))


def on_sheets(model: Model, field: Field, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probabilities of a network of whole slices on squares, as many on a sheet as fit its input, rows first.

    Args:
        model: (N, 1, size, size) → (N, classes, size, size) logits first.
        field: its field of view.
        images: (n, side, side) 0…1.

    Returns:
        (n, side, side) 0…1, probability of a nodule.
    """
    side = images.shape[1]
    along, index = field.size // side, field.foreground.index(NODULE)
    out = np.empty(images.shape, dtype=np.float32)
    for first in range(0, len(images), along**2):
        some = slice(first, first + along**2)
        places = [np.s_[y : y + side, x : x + side] for y, x in side * np.array(list(np.ndindex(along, along)))]
        sheet = np.zeros((field.size, field.size), dtype=np.float32)
        for place, image in zip(places, images[some], strict=False):  # the last sheet may be part empty
            sheet[place] = image
        probability = field.probabilities(model.run(sheet[None, None])[0])[0, index]
        for place, found in zip(places, out[some], strict=False):
            found[:] = probability[place]
    return out


def random_sheet(
    images: NDArray[np.float16], truth: Bool, of_nodule: Sequence[Int], side: int, rng: np.random.Generator
) -> tuple[NDArray[np.float16], Bool]:
    """A sheet of close-ups of random nodules for training: side by side without gaps.

    It is cut at random out of a grid of squares, which are half to all of a close-up wide, and each nodule is anywhere
    in its square: on a fixed grid a network learns where nodules are in place of how they look.

    Args:
        images, truth: (M, c, c) close-ups as network input.
        of_nodule: numbers of the close-ups of each nodule.
        side: of the sheet, in pixels.

    Returns:
        (side, side) each.
    """
    most = images.shape[-1]
    width = int(rng.integers(-(-most // 2), most + 1))
    top, left = rng.integers(0, width, 2).tolist()
    down, across = (-(-(side + first) // width) for first in (top, left))
    cuts = []
    for _ in range(down * across):
        slices = of_nodule[int(rng.integers(len(of_nodule)))]
        chosen, (y, x) = rng.choice(slices), rng.integers(0, most - width + 1, 2)
        cuts.append((chosen, slice(y, y + width), slice(x, x + width)))

    def laid(source: NDArray[Any]) -> NDArray[Any]:
        squares = np.reshape([source[cut] for cut in cuts], (down, across, width, width))
        grid = squares.swapaxes(1, 2).reshape(down * width, across * width)
        return grid[top : top + side, left : left + side]

    return laid(images), laid(truth)
