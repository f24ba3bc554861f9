"""A nodule prompted by a person: a point, a box or a rough mask, in LPS millimetres or voxels of the stored array."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal, Protocol, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from nodulens.core.geometry import Float
from nodulens.core.nodule import Box
from nodulens.core.volume import Mask, Volume
from nodulens.errors import BadPrompt
from nodulens.ops.resample import resample_array
from nodulens.stages.prompts import Click, Prompt, PromptKind
from nodulens.stages.segment import prompt_of_box, prompt_of_point

Space = Literal["lps", "voxel"]
NOTHING = "The mask has no voxel inside the scan: it is empty, or elsewhere in the patient."
APART_MM = 10.0
"""Pieces of a mask that are farther apart are not one nodule."""
LISTED = 5
"""Pieces that a message names."""
BESIDE_MM = 2.0
"""How far from its outline a point may be that was put on the edge of a nodule."""
POINT, BOX = ("x", "y", "z"), ("x0", "y0", "z0", "x1", "y1", "z1")


@dataclass(frozen=True, eq=False)
class PlacedPrompt:
    """What a person gave, in the indices of a volume.

    Attributes:
        box: where the nodule is.
        prior: a mask (z, y, x) on the volume's grid, if one was given.
        clicks: corrections of the outline.
        kind: what was given.
    """

    box: Prompt
    prior: NDArray[np.bool_] | None = None
    clicks: tuple[Click, ...] = ()
    kind: PromptKind = "box"


class GivenPrompt(Protocol):
    """What a person gave, before the scan is known."""

    def on(self, volume: Volume, ct: Volume) -> PlacedPrompt:
        """The prompt in the indices of a volume.

        Args:
            volume: ``ct`` in canonical orientation.
            ct: the scan as read.

        Raises:
            BadPrompt: it is empty, or outside the scan.
        """


class PromptFields(TypedDict, total=False):
    """The fields of :class:`UserPrompt` as keyword arguments."""

    point: Sequence[float] | None
    box: Sequence[float] | None
    mask: Mask | None
    space: Space
    include: Sequence[Sequence[float]]
    exclude: Sequence[Sequence[float]]


@dataclass(frozen=True)
class UserPrompt:
    """One point, box or mask, and corrections of the outline that comes of it.

    Attributes:
        point: (x, y, z) in the nodule.
        box: (x0, y0, z0, x1, y1, z1), two corners; on one slice where z0 = z1.
        mask: a rough mask of the nodule, on the scan's grid or any other in the same patient space.
        space: of the numbers: LPS millimetres, or voxel indices from 0 in the array as the file stores it, x first; the
            voxels at both corners of a box are included.
        include, exclude: points (x, y, z) that the outline must contain, and must not.

    Raises:
        BadPrompt: not exactly one of the three, a wrong count of numbers, or another space.
    """

    point: Sequence[float] | None = None
    box: Sequence[float] | None = None
    mask: Mask | None = None
    space: Space = "lps"
    include: Sequence[Sequence[float]] = ()
    exclude: Sequence[Sequence[float]] = ()

    def __post_init__(self) -> None:
        if sum(given is not None for given in (self.point, self.box, self.mask)) != 1:
            raise BadPrompt("Give exactly one of point x,y,z, box x0,y0,z0,x1,y1,z1 and mask.")
        if self.space not in ("lps", "voxel"):
            raise BadPrompt(f"The space of a prompt is lps (millimetres) or voxel (indices), not {self.space!r}.")
        clicks = [(numbers, POINT) for numbers in (*self.include, *self.exclude)]
        for numbers, names in ((self.point, POINT), (self.box, BOX), *clicks):
            if numbers is not None:
                _check(numbers, names)

    def on(self, volume: Volume, ct: Volume) -> PlacedPrompt:
        """The prompt in the indices of a volume.

        Args:
            volume: ``ct`` in canonical orientation.
            ct: the scan as read, whose stored array "voxel" counts in.

        Raises:
            BadPrompt: it is empty, or outside the scan.
        """
        clicks = self.clicks_on(volume, ct)
        if self.mask is not None:
            return PlacedPrompt(*_prompt_of_mask(volume, self.mask), clicks, "mask")
        if self.box is not None:
            return PlacedPrompt(self._prompt_of_box(volume, ct, self.box), None, clicks)
        assert self.point is not None, "one of the three is given"
        x, y, z = self._to_lps(ct, self.point)
        prompt = prompt_of_point(volume, (x, y, z))
        _check_apart({_voxel(volume.geometry.to_index((x, y, z)))}, [click for click in clicks if not click.inside])
        return PlacedPrompt(prompt, None, clicks, "point")

    def clicks_on(self, volume: Volume, ct: Volume) -> tuple[Click, ...]:
        """The corrections in the indices of a volume; arguments as of :meth:`on`.

        Raises:
            BadPrompt: one is outside the scan, or is to be excluded on the voxel of one to be included.
        """
        wanted = [self._click(volume, ct, xyz, inside=True) for xyz in self.include]
        unwanted = [self._click(volume, ct, xyz, inside=False) for xyz in self.exclude]
        _check_apart({_voxel(click.index) for click in wanted}, unwanted)
        return (*wanted, *unwanted)

    def _click(self, volume: Volume, ct: Volume, xyz: Sequence[float], *, inside: bool) -> Click:
        point = self._to_lps(ct, xyz)
        if not volume.geometry.contains(point):
            raise BadPrompt(f"The point {_text(xyz)} to {'in' if inside else 'ex'}clude is outside the scan.")
        z, y, x = volume.geometry.to_index(point).tolist()
        return Click((z, y, x), inside)

    def _to_lps(self, ct: Volume, xyz: Sequence[float]) -> Float:
        if self.space == "lps":
            return np.asarray(xyz)
        x, y, z = xyz
        return ct.geometry.to_lps((ct.geometry.shape[0] - 1 - z if ct.source.z_reversed else z, y, x))

    def _prompt_of_box(self, volume: Volume, ct: Volume, corners: Sequence[float]) -> Prompt:
        """The box in the volume's axes around all eight corners of the given one."""
        low, high = np.array(corners[:3], dtype=float), np.array(corners[3:], dtype=float)
        if self.space == "voxel":  # the corners are voxels, and the last one belongs to the box
            low, high = np.minimum(low, high) - 0.5, np.maximum(low, high) + 0.5
        elif np.any(high < low) or np.any(high[:2] == low[:2]):
            raise BadPrompt("The box is empty: the second corner must exceed the first (x1 > x0, y1 > y0, z1 ≥ z0).")
        eight = product(*zip(low.tolist(), high.tolist(), strict=True))
        index = volume.geometry.to_index(np.array([self._to_lps(ct, corner) for corner in eight])) + 0.5
        start, stop = index.min(axis=0), index.max(axis=0)
        if stop[0] - start[0] < 1:  # drawn on one slice, as z0 = z1 says
            middle = (start[0] + stop[0]) / 2
            start[0], stop[0] = middle - 0.5, middle + 0.5
        return prompt_of_box(volume, start, stop)


def misfit(prompt: PlacedPrompt, box: Box, mask: NDArray[np.bool_], volume: Volume) -> tuple[str, ...]:
    """What an outline has of another place than the one that was prompted, a sentence each.

    Args:
        prompt: in the indices of ``volume``.
        box: around the outline.
        mask: the outline, bool (z, y, x) of ``box.shape``.
        volume: canonical orientation.
    """
    notes = []
    start, stop = np.asarray(prompt.box.start), np.asarray(prompt.box.stop)
    voxels = np.argwhere(mask) + box.start
    if prompt.kind == "point":
        away = (voxels - ((start + stop) / 2 - 0.5)) * volume.geometry.spacing_zyx
        nearest = float(np.linalg.norm(away, axis=1).min())
        if nearest > BESIDE_MM:
            notes.append(
                f"The point that was given is {nearest:.0f} mm outside the outline, which may be of another nodule."
            )
    elif prompt.kind == "box":
        own = slice(1 if prompt.box.flat else 0, 3)  # the height of a box on one slice is a guess
        held = ((voxels + 0.5 > start) & (voxels + 0.5 < stop))[:, own].all(axis=1)
        if held.mean() < 0.5:
            notes.append("Most of the outline is outside the box that was given: it may be of another nodule.")
    elif prompt.prior is not None:
        shared = np.count_nonzero(prompt.prior[box.slices] & mask)
        if 2 * shared < 0.5 * (len(voxels) + np.count_nonzero(prompt.prior)):
            notes.append("The outline and the mask that was given hardly overlap: it may be of another nodule.")
    if ndimage.label(mask, np.ones((3, 3, 3)))[1] > 1:
        notes.append("The outline is in several pieces, so that it has the points to include.")
    return tuple(notes)


def _check_apart(own: Collection[tuple[int, ...]], unwanted: Sequence[Click]) -> None:
    """Refuse to exclude what is said to be the nodule's.

    Raises:
        BadPrompt: a click is on one of the voxels.
    """
    for click in unwanted:
        if _voxel(click.index) in own:
            raise BadPrompt("A point to exclude is on the same voxel as one that is in the nodule: give one of them.")


def _voxel(index: ArrayLike) -> tuple[int, ...]:
    return tuple(np.round(np.asarray(index)).astype(int).tolist())


def _check(numbers: Sequence[float], names: tuple[str, ...]) -> None:
    form = ",".join(names)
    if len(numbers) != len(names):
        raise BadPrompt(f"{_text(numbers)} has {len(numbers)} numbers; {len(names)} are needed: {form}.")
    try:
        finite = np.isfinite(np.asarray(numbers, dtype=float)).all()
    except (TypeError, ValueError):
        finite = False
    if not finite:
        raise BadPrompt(f"{_text(numbers)} has a value that is not a finite number; the form is {form}.")


def _text(numbers: Sequence[float]) -> str:
    return repr(",".join(str(n) for n in numbers))


def _prompt_of_mask(volume: Volume, mask: Mask) -> tuple[Prompt, NDArray[np.bool_]]:
    on_grid = resample_array(mask.labels, mask.geometry, volume.geometry, order=0, fill=0) > 0
    if not on_grid.any():
        raise BadPrompt(NOTHING)
    box = Box.of_mask(on_grid)
    _check_one_piece(volume, box, on_grid[box.slices])
    prompt = prompt_of_box(volume, np.asarray(box.start, dtype=float), np.asarray(box.stop, dtype=float))
    return prompt, on_grid


def _check_one_piece(volume: Volume, box: Box, mask: NDArray[np.bool_]) -> None:
    """Refuse a mask of several nodules, between which the box around them has another middle.

    Raises:
        BadPrompt: pieces of it are more than :data:`APART_MM` apart; the message says where they are.
    """
    if ndimage.label(mask, np.ones((3, 3, 3)))[1] < 2:
        return
    near = ndimage.distance_transform_edt(~mask, sampling=volume.geometry.spacing_zyx) <= APART_MM / 2
    groups, pieces = ndimage.label(near, np.ones((3, 3, 3)))
    if pieces < 2:
        return
    middles = ndimage.center_of_mass(mask, np.where(mask, groups, 0), range(1, pieces + 1))
    places = [volume.geometry.to_lps(np.add(middle, box.start)) for middle in middles[:LISTED]]
    listed = ", ".join(f"({x:.0f}, {y:.0f}, {z:.0f})" for x, y, z in places)
    raise BadPrompt(
        f"The mask is in {pieces} pieces more than {APART_MM:g} mm apart, at {listed} mm, and prompts one nodule: "
        "give a mask of one."
    )
