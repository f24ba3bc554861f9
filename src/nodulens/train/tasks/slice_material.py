"""Material of segmentation on whole axial slices: annotated slices, and close-ups of real nodules.

Whole slices are those that :mod:`nodulens.data.prepare` cuts out of LIDC-IDRI or LUNA16. Without those, they are the
axial slices of nodule-free lungs (:class:`nodulens.data.material.Background`) with nodules of real outlines and
ratings rendered into them. Lungs are those of our own lung stage, unless LUNA16's masks were given, so their figures
measure agreement. Or the slices are of a folder of pictures (:mod:`nodulens.train.tasks.picture_folders`).
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nodulens.core.geometry import Geometry
from nodulens.core.volume import Volume
from nodulens.data.folds import fold_of
from nodulens.data.luna16 import AIRWAYS, LUNGS
from nodulens.data.material import STACKS, Background, Cubes, Stacks
from nodulens.data.render import render_many
from nodulens.data.shapes import Shape, stack_shapes
from nodulens.data.splits import Split
from nodulens.data.whole_slices import UNKNOWN, ScanFacts, SlicedScan, WholeSlices
from nodulens.errors import BadOption, NotFound
from nodulens.methods.recipe import Augmentation, Recipe
from nodulens.stages.lungs import lung_volumes_ml, segment_lungs
from nodulens.stages.slices import NODULE, WHOLE_PX, Field
from nodulens.train.loop.augment import copies_of
from nodulens.train.tasks.closeups import CloseUps
from nodulens.train.tasks.picture_folders import Pictures, is_pictures, load_pictures
from nodulens.train.tasks.protocol import Rows
from nodulens.train.tasks.segmentation_figures import CLOSE_UP

Bool = NDArray[np.bool_]

LUNG_ML_PER_NODULE, MAX_NODULES = 200.0, 20
"""Lung volume for each rendered nodule, and largest number of nodules in a scan."""
MIN_DIAMETER_MM = 3.0
"""Of rendered nodules."""
SLICES_PER_NODULE = 3
"""Slices taken through a rendered nodule: its largest, and others at random."""
WHOLE_SLICE_MM = (0.6, 0.9)
"""Range of the pixel of a whole slice of 512 pixels, sampled for a background, which is cropped to the chest."""


@dataclass(frozen=True, eq=False)
class Slab:
    """Some axial slices of one scan, annotated.

    Attributes:
        hu: (n, y, x) int16.
        lungs: (n, y, x), 1 left and 2 right.
        nodule: (n, y, x).
        pixel_mm: (y, x).
        whole_mm: pixel of the whole slice at 512 × 512 pixels.
        facts: of the scan.
        rendered: patients whose nodules are rendered into it.
    """

    patient: str
    hu: NDArray[np.int16]
    lungs: NDArray[np.uint8]
    nodule: Bool
    pixel_mm: tuple[float, float]
    whole_mm: float
    facts: ScanFacts = UNKNOWN
    rendered: frozenset[str] = frozenset()

    @cached_property
    def has_nodule(self) -> Bool:
        """(n,) whether there is a nodule."""
        return np.asarray(self.nodule.any(axis=(1, 2)))

    @cached_property
    def items(self) -> list[str]:
        """(n,) names, by a hash of the content: what is rendered depends on the recipe."""
        content = hashlib.sha256(repr((self.pixel_mm, self.whole_mm, self.hu.shape)).encode())
        for array in (self.hu, self.lungs, self.nodule):
            content.update(np.ascontiguousarray(array).tobytes())
        return [f"{self.patient} {content.hexdigest()[:12]} slice {z}" for z in range(len(self.hu))]

    def at(self, z: NDArray[np.int_]) -> Slab:
        """Some of its slices."""
        return replace(self, hu=self.hu[z], lungs=self.lungs[z], nodule=self.nodule[z])

    def masks(self, name: str) -> Bool:
        """(n, y, x) mask of a class.

        Raises:
            BadOption: no such class.
        """
        if name == NODULE:
            return self.nodule
        sides = {"lung": (1, 2), "left lung": (1,), "right lung": (2,)}
        if name not in sides:
            raise BadOption(f"Nothing here is called {name!r}; classes are background, {', '.join(sides)}, {NODULE}.")
        return np.isin(self.lungs, sides[name])


@dataclass(frozen=True, eq=False)
class ScanSlab:
    """Some axial slices of a whole scan, with the interface of :class:`Slab`; they are read on demand.

    Attributes:
        chosen: (n,) indices of the scan's slices.
        airways: whether LUNA16's airways replace nodules as the class.
    """

    scan: SlicedScan
    chosen: NDArray[np.int_]
    airways: bool = False

    @property
    def patient(self) -> str:
        """The patient."""
        return self.scan.patient

    @property
    def facts(self) -> ScanFacts:
        """Of the scan."""
        return self.scan.facts

    @property
    def whole_mm(self) -> float:
        """Pixel of the whole slice at 512 × 512 pixels, see :class:`Slab`."""
        return float(np.multiply(self.scan.shape, self.scan.spacing_zyx[1:]).max()) / WHOLE_PX

    @property
    def rendered(self) -> frozenset[str]:
        """Nobody: nothing is rendered into it."""
        return frozenset()

    @cached_property
    def has_nodule(self) -> Bool:
        """(n,) whether there is a nodule."""
        return np.asarray((self.scan.airway_px if self.airways else self.scan.nodule_px)[self.chosen] > 0)

    @property
    def items(self) -> list[str]:
        """(n,) series and index of each slice."""
        kind = " airways" if self.airways else ""
        return [f"{self.scan.series_uid}{kind} slice {z}" for z in self.chosen]

    def at(self, z: NDArray[np.int_]) -> Slab:
        """Some of its slices, read."""
        hu, lungs, nodule = self.scan.read(self.chosen[z])
        target = lungs == AIRWAYS if self.airways else nodule
        return Slab(self.patient, hu, lungs, target, self.scan.spacing_zyx[1:], self.whole_mm, self.facts)


@dataclass(frozen=True, eq=False)
class Slices:
    """Slabs and close-ups; a row is a slice, numbered through all slabs, then a nodule of the close-ups.

    Attributes:
        closeups: of real nodules; None: whole slices only.
        cubes: further ones, which train only; their rows are the last.
    """

    slabs: tuple[Slab | ScanSlab, ...]
    closeups: CloseUps | None = None
    cubes: CloseUps | None = None

    @property
    def near(self) -> tuple[CloseUps, ...]:
        """Those that there are of close-ups and cubes, in the order of their rows."""
        return tuple(part for part in (self.closeups, self.cubes) if part is not None)

    @cached_property
    def _place(self) -> NDArray[np.int_]:
        """(N, 2): slab of every row, and slice in it."""
        places = [(k, z) for k, slab in enumerate(self.slabs) for z in range(len(slab.has_nodule))]
        return np.array(places).reshape(-1, 2)

    @cached_property
    def patients(self) -> list[str]:
        """(N,) patient of each slice or nodule."""
        return [self.slabs[k].patient for k, _ in self._place] + [p for part in self.near for p in part.patients]

    @cached_property
    def has_nodule(self) -> Bool:
        """(slices,) whether there is a nodule."""
        return np.concatenate([np.zeros(0, dtype=bool), *(slab.has_nodule for slab in self.slabs)])

    @property
    def strata(self) -> list[str]:
        """(N,) "nodule", "no nodule" or "close-up"."""
        nodules = sum(len(part.patients) for part in self.near)
        return np.where(self.has_nodule, "nodule", "no nodule").tolist() + [CLOSE_UP] * nodules

    @property
    def items(self) -> list[str]:
        """(N,) names of the slices, then of the nodules."""
        return [item for part in (*self.slabs, *self.near) for item in part.items]

    def shown(self, rows: Rows) -> set[str]:
        """The patients of some rows, and those whose nodules are rendered into their slabs."""
        slabs = np.unique(self._place[rows[rows < len(self._place)], 0])
        return {self.patients[row] for row in rows}.union(*(self.slabs[k].rendered for k in slabs))

    def examples(self, field: Field, rows: Rows) -> tuple[NDArray[np.float32], Bool]:
        """Network input of slices, and the truth of its foreground classes.

        Returns:
            (N, size, size) 0…1, and (N, foreground classes, size, size); nodule before lung if classes are exclusive.
        """
        images = np.empty((len(rows), field.size, field.size), dtype=np.float32)
        truth = np.empty((len(rows), len(field.foreground), field.size, field.size), dtype=bool)
        owner, height = self._place[rows].T
        for number in np.unique(owner):
            own = owner == number
            slab = self.slabs[number].at(height[own])
            geometry = Geometry.axial((len(slab.hu), *slab.hu.shape[1:]), (1.0, *slab.pixel_mm))
            scaled = replace(field, pixel_mm=field.pixel_mm or slab.whole_mm * max(1, WHOLE_PX / field.size))
            images[own] = scaled.input(slab.hu, geometry)
            for k, name in enumerate(field.foreground):
                truth[own, k] = scaled.outlines(slab.masks(name), geometry)
        return images, field.exclusively(truth)

    def facts(self, rows: Rows) -> list[ScanFacts]:
        """(N,) of each slice's scan."""
        return [self.slabs[k].facts for k, _ in self._place[rows]]

    def annotated(self, classes: tuple[str, ...]) -> tuple[str, ...]:
        """Those of a network's classes that are annotated here: all; :meth:`Slab.masks` refuses others."""
        return classes

    def pixels_mm(self, field: Field, rows: Rows) -> list[float]:
        """(N,) pixel of a network's input in mm, see :meth:`examples`."""
        whole = np.array([self.slabs[k].whole_mm for k, _ in self._place[rows]])
        return [field.pixel_mm or float(mm) for mm in whole * max(1, WHOLE_PX / field.size)]


@dataclass(frozen=True, eq=False)
class Multiplied(Slices):
    """Slices, followed by copies of the same slabs, every slice augmented at random.

    Attributes:
        plain: number of slices before the copies.
        kinds: see :func:`nodulens.train.loop.augment.augmented`.
    """

    plain: int = 0
    kinds: tuple[Augmentation, ...] = ()

    def examples(self, field: Field, rows: Rows) -> tuple[NDArray[np.float32], Bool]:
        """As :meth:`Slices.examples`; each copy is always augmented in the same way."""
        images, truth = super().examples(field, rows)
        for k in np.flatnonzero(rows >= self.plain).tolist():
            plain, masks = torch.from_numpy(images[[k], None]), torch.from_numpy(truth[[k]])
            image, labels = copies_of(plain, masks, self.kinds, 1, seed=int(rows[k]))
            assert labels is not None
            images[k], truth[k] = image[0, 0, 0].numpy(), labels[0, 0].numpy()
        return images, truth


Material = Slices | Pictures


def load(data: Path, recipe: Recipe, split: Split | None = None) -> Material:
    """Load the material of a folder: its pictures; or slices of its whole scans; or else of the backgrounds, with and
    without rendered nodules. Close-ups are added if the recipe has windows.

    Nodules rendered into a background are of patients of its own fold or part, so they are held out with it.

    Args:
        split: see :class:`nodulens.train.tasks.protocol.TaskModule`; a background that it does not name is left out.

    Raises:
        BadOption: the recipe wants cubes without windows, or for a folder of pictures.
        NotFound: the folder has neither whole slices nor backgrounds and stacks, or not all that the recipe's labels,
            slices and cubes need.
        NotFound, UnreadableFile: see :class:`nodulens.data.whole_slices.WholeSlices`.
        NotFound, BadOption: see :func:`nodulens.train.tasks.picture_folders.find_pictures`.
    """
    for caveat in recipe.caveats:
        warnings.warn(caveat, stacklevel=2)
    pictures = is_pictures(data)
    if recipe.cubes and (pictures or not _has_window(recipe) or recipe.labels != "lidc"):
        raise BadOption(
            "cubes=true adds close-ups of LIDC's nodules to windows of CT: set segmenter.window, and leave it out for "
            "pictures and for labels=luna16-mask."
        )
    if not pictures and (whole := WholeSlices(data).scans):
        with_closeups = recipe.labels == "lidc" and (data / STACKS).exists() and _has_window(recipe)
        closeups = CloseUps.of(Stacks(data)) if with_closeups else None
        return Slices(_scan_slabs(data, recipe, whole), closeups, _cubes(data, recipe))
    if (recipe.labels, recipe.slices) != ("lidc", "all"):
        raise NotFound(
            f"{data} holds no whole slices of scans, which labels={recipe.labels} and slices={recipe.slices} need: cut "
            f"them with nodulens data prepare; for luna16-mask out of LUNA16, {LUNGS} beside its subsets."
        )
    if pictures:
        return load_pictures(data)
    stacks = Stacks(data)
    shapes = [s for s in stack_shapes(stacks).values() if s.diameter_mm >= MIN_DIAMETER_MM]
    slabs: list[Slab] = []
    for patient in Background.PATIENTS:
        volume, group = background(data, patient), _group(patient, split)
        if group is not None:
            own = [s for s in shapes if _group(s.patient, split) == group]
            slabs += _rendered_slabs(volume, patient, own, recipe.renderings if own else 0)
    return Slices(tuple(slabs), CloseUps.of(stacks) if _has_window(recipe) else None, _cubes(data, recipe))


def multiplied(material: Slices, kinds: Sequence[Augmentation], copies: int) -> Multiplied:
    """See :class:`nodulens.train.tasks.protocol.TaskModule`."""
    closeups, cubes = (
        None if part is None else part.multiplied(kinds, copies) for part in (material.closeups, material.cubes)
    )
    return Multiplied(material.slabs * (copies + 1), closeups, cubes, len(material.has_nodule), tuple(kinds))


def slices_and_closeups(material: Material, rows: Rows) -> tuple[Rows, Rows]:
    """Rows of whole slices, and the numbers of the nodules of the other rows, which are close-ups."""
    whole = rows < len(material.has_nodule)
    return rows[whole], rows[~whole] - len(material.has_nodule)


def _cubes(data: Path, recipe: Recipe) -> CloseUps | None:
    return CloseUps.of_cubes(Cubes(data)) if recipe.cubes else None


def _group(patient: str, split: Split | None) -> str | None:
    """A patient's fold or part; None for one whom the split does not name."""
    return str(fold_of(patient)) if split is None else split.groups.get(patient)


def _has_window(recipe: Recipe) -> bool:
    return recipe.segmenter is not None and recipe.segmenter.window is not None


def _scan_slabs(data: Path, recipe: Recipe, scans: Sequence[SlicedScan]) -> tuple[ScanSlab, ...]:
    """The slices of whole scans that a recipe is trained on.

    Raises:
        NotFound: scans without airways for a recipe that needs them, or no such slices.
    """
    airways = recipe.labels == "luna16-mask"
    lacking = [scan.series_uid for scan in scans if not scan.airways_known]
    if airways and lacking:
        raise NotFound(
            f"{len(lacking)} of {len(scans)} scans in {data} were prepared without LUNA16's lung masks, which "
            f"labels=luna16-mask needs ({lacking[0]} …): unpack {LUNGS} beside LUNA16's subsets, and run nodulens data "
            "prepare on that folder again."
        )
    kinds = {"middle": [s.middle for s in scans], "central": [s.central for s in scans]}
    wanted = kinds.get(recipe.slices, [np.ones(len(s.middle), dtype=bool) for s in scans])
    slabs = [ScanSlab(s, np.flatnonzero(kind), airways) for s, kind in zip(scans, wanted, strict=True) if kind.any()]
    if not slabs:
        raise NotFound(f"None of {len(scans)} scans in {data} has slices={recipe.slices}; take others.")
    return tuple(slabs)


def _rendered_slabs(volume: Volume, patient: str, shapes: Sequence[Shape], renderings: int) -> list[Slab]:
    """All slices of a background unchanged, then some through each of the nodules that are rendered into it.

    Args:
        renderings: how often nodules are rendered, other ones each time.
    """
    lungs = segment_lungs(volume)
    lungs_ml = sum(lung_volumes_ml(lungs).values())
    amount = round(lungs_ml / LUNG_ML_PER_NODULE)
    rng = np.random.default_rng([fold_of(patient), renderings])
    may_train = usable(volume.geometry, patient)
    plain = np.flatnonzero(may_train)
    slice_mm, *pixel_mm = volume.geometry.spacing_zyx
    facts = ScanFacts(slice_mm, lungs_ml=lungs_ml)

    def slab(hu: NDArray[Any], nodule: Bool, z: NDArray[np.int_], theirs: Iterable[str] = ()) -> Slab:
        stored, lung = np.rint(hu[z]).astype(np.int16), lungs.labels[z].astype(np.uint8)
        whole_mm = rng.uniform(*WHOLE_SLICE_MM)
        return Slab(patient, stored, lung, nodule[z], (pixel_mm[0], pixel_mm[1]), whole_mm, facts, frozenset(theirs))

    out = [slab(volume.hu, np.zeros(volume.geometry.shape, dtype=bool), plain)]
    for _ in range(renderings):
        chosen = rng.choice(len(shapes), min(max(amount, 1), MAX_NODULES, len(shapes)), replace=False)
        scene = render_many(volume, lungs, [shapes[i].turned(rng) for i in chosen], seed=int(rng.integers(2**31)))
        through = np.zeros(len(may_train), dtype=bool)
        for nodule in scene.nodules:
            area = nodule.truth.labels.sum(axis=(1, 2), dtype=int)
            others = rng.permutation(np.setdiff1d(np.flatnonzero(area), area.argmax()))[: SLICES_PER_NODULE - 1]
            through[nodule.box.start[0] + np.append(others, area.argmax())] = True
        theirs = (shapes[i].patient for i in chosen)
        out.append(slab(scene.volume.hu, scene.truth.labels > 0, np.flatnonzero(through & may_train), theirs))
    return out


def background(data: Path, patient: str) -> Volume:
    """One of the nodule-free lungs.

    Raises:
        NotFound: the folder does not have it.
    """
    path = data / "background" / f"{patient}.nii.gz"
    if not path.exists():
        raise NotFound(
            f"{path} is not there: --data must name the folder that holds lidc/ and background/, or one that "
            "nodulens data prepare has made of scans that may train."
        )
    return Background.volume(data, patient)


def usable(geometry: Geometry, patient: str) -> Bool:
    """(slices,) of a background: False where there is a finding that is not annotated."""
    if patient not in Background.PLEURAL_MASS:
        return np.ones(geometry.shape[0], dtype=bool)
    centre, radius = Background.PLEURAL_MASS[patient]
    away = np.arange(geometry.shape[0]) - geometry.to_index(centre)[0]
    return np.asarray(np.abs(away) * geometry.spacing_zyx[0] > radius)
