"""Segmentation of lungs and nodules on whole axial slices.

They learn from the whole slices that :mod:`nodulens.data.prepare` cuts out of LIDC-IDRI or LUNA16. Without those, they
learn from the axial slices of nodule-free lungs (:class:`nodulens.data.material.Background`) with nodules of real
outlines and ratings rendered into them, and are judged there on a background left out, and on the real slices of whole
scans (:mod:`nodulens.evaluate.slice_networks`). Lungs are those of our own lung stage, unless LUNA16's masks were
given: what is measured of them is agreement. Or they learn from the slices of a folder of pictures and are judged there
(:mod:`nodulens.train.tasks.picture_folders`).

Whole slices are what a CPU learns slowest from. A network with a ``window`` learns from squares cut out of them
instead, and from close-ups of real nodules (:mod:`nodulens.train.tasks.closeups`), on which it is then judged as well.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nodulens.core.geometry import Geometry
from nodulens.core.volume import Volume
from nodulens.data.folds import fold_of
from nodulens.data.luna16 import AIRWAYS, LUNGS
from nodulens.data.material import STACKS, Background, Stacks
from nodulens.data.render import render_many
from nodulens.data.shapes import Shape, stack_shapes
from nodulens.data.whole_slices import SlicedScan, WholeSlices
from nodulens.errors import BadOption, NotFound
from nodulens.methods.recipe import Augmentation, NetworkConfig, Recipe
from nodulens.metrics.agreement import bland_altman, pearson
from nodulens.metrics.boxes import Image, box_iou, match, summary
from nodulens.metrics.segmentation import NAN, Overlap, overlaps, summarise
from nodulens.ops.components import components
from nodulens.runtime.engine import Model
from nodulens.stages.lungs import lung_volumes_ml, segment_lungs
from nodulens.stages.slices import NODULE, WHOLE_PX, Field
from nodulens.train.loop.augment import augmented, copies_of
from nodulens.train.loop.fit import Batch, Maker, Task, fit, predict
from nodulens.train.loop.losses import class_weights, loss_of, loss_of_one
from nodulens.train.networks.pretrained import started
from nodulens.train.networks.registry import check_window
from nodulens.train.networks.unet_plan import Fingerprint, Slice, fingerprint, plan
from nodulens.train.networks.unets import PlannedUNet
from nodulens.train.tasks.checks import check_config
from nodulens.train.tasks.closeups import CloseUps, drawn_sheets, outlined
from nodulens.train.tasks.picture_folders import Pictures, is_pictures, load_pictures
from nodulens.train.tasks.protocol import Outcome, Rows, rounded, with_interval

Bool = NDArray[np.bool_]

SLICE, CLOSE_UP = "slice", "close-up"
NODULE_ML, MOST_NODULES = 200.0, 20
"""A nodule to so much lung, and in a scene at most."""
LEAST_MM = 3.0
PER_NODULE = 3
"""Slices taken of a nodule: its largest, and others at random."""
WHOLE_MM = (0.6, 0.9)
"""Smallest and largest pixel of the whole slice of 512 pixels that a background, cut to the chest, is taken for."""
SLICES, WINDOWS = 240, 480
"""Slices of an epoch, half of them with a nodule; or windows, half of them sheets of close-ups where there are any."""
VALIDATED = 24
"""Slices of the validation set that the network is evaluated on after every epoch."""
SIZES_MM = (0, 3, 5, 8, 12)
"""Nodules on slices by the disc of their area there, from so many millimetres of diameter on."""
PLANNED_FROM = 120
"""Slices that a plan looks at."""
JUDGED, HELD = 16, 64
"""Slices at a time, where a network looks at them and where it does not."""


# ---------------------------------------------------------------- material


@dataclass(frozen=True, eq=False)
class Slab:
    """Some axial slices of one scan, with what is on them.

    Attributes:
        hu: (n, y, x) int16.
        lungs: (n, y, x), 1 left and 2 right.
        nodule: (n, y, x).
        pixel_mm: of the slab.
        whole_mm: pixel of the slice of 512 pixels that each stands for.
    """

    patient: str
    hu: NDArray[np.int16]
    lungs: NDArray[np.uint8]
    nodule: Bool
    pixel_mm: tuple[float, float]
    whole_mm: float

    @cached_property
    def shows(self) -> Bool:
        """(n,) whether there is a nodule."""
        return np.asarray(self.nodule.any(axis=(1, 2)))

    def at(self, z: NDArray[np.int_]) -> Slab:
        """Some of its slices."""
        return replace(self, hu=self.hu[z], lungs=self.lungs[z], nodule=self.nodule[z])

    def masks(self, name: str) -> Bool:
        """(n, y, x) of a class.

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
    """Some axial slices of a whole scan, in the form of :class:`Slab`; they are read whenever they are needed.

    Attributes:
        chosen: (n,) which of the scan's slices.
        airways: whether LUNA16's airways stand for nodules.
    """

    scan: SlicedScan
    chosen: NDArray[np.int_]
    airways: bool = False

    @property
    def patient(self) -> str:
        """The patient."""
        return self.scan.patient

    @property
    def whole_mm(self) -> float:
        """Pixel of the slice of 512 pixels that each stands for, see :class:`Slab`."""
        return float(np.multiply(self.scan.shape, self.scan.spacing_zyx[1:]).max()) / WHOLE_PX

    @cached_property
    def shows(self) -> Bool:
        """(n,) whether there is a nodule."""
        return np.asarray((self.scan.airway_px if self.airways else self.scan.nodule_px)[self.chosen] > 0)

    def at(self, z: NDArray[np.int_]) -> Slab:
        """Some of its slices, read."""
        hu, lungs, nodule = self.scan.read(self.chosen[z])
        shown = lungs == AIRWAYS if self.airways else nodule
        return Slab(self.patient, hu, lungs, shown, self.scan.spacing_zyx[1:], self.whole_mm)


@dataclass(frozen=True, eq=False)
class Slices:
    """All slabs; a row is a slice, counted through them. Then the close-ups, a row a nodule.

    Attributes:
        closeups: of real nodules; None: whole slices alone.
    """

    slabs: tuple[Slab | ScanSlab, ...]
    closeups: CloseUps | None = None

    @cached_property
    def _place(self) -> NDArray[np.int_]:
        """(N, 2): slab and slice in it of every row."""
        return np.array([(k, z) for k, slab in enumerate(self.slabs) for z in range(len(slab.shows))]).reshape(-1, 2)

    @cached_property
    def patients(self) -> list[str]:
        """(N,) whose lungs a slice shows, or whose nodule."""
        return [self.slabs[k].patient for k, _ in self._place] + (self.closeups.patients if self.closeups else [])

    @cached_property
    def shows(self) -> Bool:
        """(slices,) whether there is a nodule."""
        return np.concatenate([np.zeros(0, dtype=bool), *(slab.shows for slab in self.slabs)])

    @property
    def strata(self) -> list[str]:
        """(N,) "nodule", "no nodule" or "close-up"."""
        nodules = len(self.closeups.patients) if self.closeups else 0
        return np.where(self.shows, "nodule", "no nodule").tolist() + [CLOSE_UP] * nodules

    def seen(self, field: Field, rows: Rows) -> tuple[NDArray[np.float32], Bool]:
        """Slices as a network sees them, and the truth of its classes but the background.

        Returns:
            (N, size, size) 0…1, and (N, drawn, size, size); of exclusive classes the nodule goes before the lung.
        """
        images = np.empty((len(rows), field.size, field.size), dtype=np.float32)
        truth = np.empty((len(rows), len(field.drawn), field.size, field.size), dtype=bool)
        owner, height = self._place[rows].T
        for number in np.unique(owner):
            own = owner == number
            slab = self.slabs[number].at(height[own])
            geometry = Geometry.axial((len(slab.hu), *slab.hu.shape[1:]), (1.0, *slab.pixel_mm))
            shown = replace(field, pixel_mm=field.pixel_mm or slab.whole_mm * max(1, WHOLE_PX / field.size))
            images[own] = shown.look(slab.hu, geometry)
            for k, name in enumerate(field.drawn):
                truth[own, k] = shown.outlines(slab.masks(name), geometry)
        return images, field.exclusively(truth)

    def known(self, classes: tuple[str, ...]) -> tuple[str, ...]:
        """The classes of a network that are annotated here: all, or :meth:`Slab.masks` says which is not."""
        return classes

    def pixels_mm(self, field: Field, rows: Rows) -> list[float]:
        """(N,) pixel that a network sees, see :meth:`seen`."""
        whole = np.array([self.slabs[k].whole_mm for k, _ in self._place[rows]])
        return [field.pixel_mm or float(mm) for mm in whole * max(1, WHOLE_PX / field.size)]


@dataclass(frozen=True, eq=False)
class Multiplied(Slices):
    """Slices as they are, and behind them the same slabs again and again, every slice changed at random.

    Attributes:
        plain: slices that are as they are.
        kinds: see :func:`nodulens.train.loop.augment.augmented`.
    """

    plain: int = 0
    kinds: tuple[Augmentation, ...] = ()

    def seen(self, field: Field, rows: Rows) -> tuple[NDArray[np.float32], Bool]:
        """Slices as :meth:`Slices.seen` gives them; a copy is always changed in the same way."""
        images, truth = super().seen(field, rows)
        for k in np.flatnonzero(rows >= self.plain).tolist():
            shown, drawn = torch.from_numpy(images[[k], None]), torch.from_numpy(truth[[k]])
            image, labels = copies_of(shown, drawn, self.kinds, 1, seed=int(rows[k]))
            assert labels is not None
            images[k], truth[k] = image[0, 0, 0].numpy(), labels[0, 0].numpy()
        return images, truth


Material = Slices | Pictures


def load(data: Path, recipe: Recipe) -> Material:
    """Slices of whole scans where the folder holds them, else of the backgrounds, with rendered nodules and without; or
    the pictures of a folder that holds those. Beside slices close-ups, where the recipe has windows.

    A background takes outlines of patients of its own fold alone, so that where it is left out they are too.

    Raises:
        NotFound: neither whole slices nor backgrounds and stacks lie in the folder, or not all that the recipe's
            labels and slices need.
        NotFound, UnreadableFile: see :class:`nodulens.data.whole_slices.WholeSlices`.
        NotFound, BadOption: see :func:`nodulens.train.tasks.picture_folders.find_pictures`.
    """
    for caveat in recipe.caveats:
        warnings.warn(caveat, stacklevel=2)
    pictures = is_pictures(data)
    if not pictures and (whole := WholeSlices(data).scans):
        real = recipe.labels == "lidc" and (data / STACKS).exists()
        return Slices(_whole(data, recipe, whole), CloseUps.of(Stacks(data)) if real and _has_window(recipe) else None)
    if (recipe.labels, recipe.slices) != ("lidc", "all"):
        raise NotFound(
            f"{data} holds no whole slices of scans, which labels={recipe.labels} and slices={recipe.slices} need: cut "
            f"them with nodulens data prepare; for luna16-mask out of LUNA16, {LUNGS} beside its subsets."
        )
    if pictures:
        return load_pictures(data)
    stacks = Stacks(data)
    shapes = [s for s in stack_shapes(stacks).values() if s.diameter_mm >= LEAST_MM]
    slabs: list[Slab] = []
    for patient in Background.PATIENTS:
        path = data / "background" / f"{patient}.nii.gz"
        if not path.exists():
            raise NotFound(
                f"{path} is not there: --data must name the folder that holds lidc/ and background/, or one that "
                "nodulens data prepare has made of scans that may train."
            )
        own = [s for s in shapes if fold_of(s.patient) == fold_of(patient)]
        slabs += _slabs(Background.volume(data, patient), patient, own, recipe.renderings)
    return Slices(tuple(slabs), CloseUps.of(stacks) if _has_window(recipe) else None)


def multiplied(material: Slices, kinds: Sequence[Augmentation], copies: int) -> Multiplied:
    """See :class:`nodulens.train.tasks.protocol.Part`."""
    near = None if material.closeups is None else material.closeups.multiplied(kinds, copies)
    return Multiplied(material.slabs * (copies + 1), near, len(material.shows), tuple(kinds))


def _has_window(recipe: Recipe) -> bool:
    return recipe.segmenter is not None and recipe.segmenter.window is not None


def _whole(data: Path, recipe: Recipe, scans: Sequence[SlicedScan]) -> tuple[ScanSlab, ...]:
    """The slices of whole scans that a recipe learns from.

    Raises:
        NotFound: airways are asked for, and there are scans whose airways nobody drew; or no such slices.
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


def _slabs(volume: Volume, patient: str, shapes: Sequence[Shape], renderings: int) -> list[Slab]:
    """All slices of a background as they are, then some through each of the nodules that are rendered into it.

    Args:
        renderings: how often nodules are, every time others.
    """
    lungs = segment_lungs(volume)
    amount = round(sum(lung_volumes_ml(lungs).values()) / NODULE_ML)
    rng = np.random.default_rng([fold_of(patient), renderings])
    usable = _usable(volume.geometry, patient)
    plain = np.flatnonzero(usable)
    pixel_mm = volume.geometry.spacing_zyx[1:]

    def slab(hu: NDArray[Any], nodule: Bool, z: NDArray[np.int_]) -> Slab:
        stored = np.rint(hu[z]).astype(np.int16)
        return Slab(patient, stored, lungs.labels[z].astype(np.uint8), nodule[z], pixel_mm, rng.uniform(*WHOLE_MM))

    out = [slab(volume.hu, np.zeros(volume.geometry.shape, dtype=bool), plain)]
    for _ in range(renderings):
        chosen = rng.choice(len(shapes), min(max(amount, 1), MOST_NODULES, len(shapes)), replace=False)
        scene = render_many(volume, lungs, [shapes[i].turned(rng) for i in chosen], seed=int(rng.integers(2**31)))
        through = np.zeros(len(usable), dtype=bool)
        for nodule in scene.nodules:
            area = nodule.truth.labels.sum(axis=(1, 2), dtype=int)
            others = rng.permutation(np.setdiff1d(np.flatnonzero(area), area.argmax()))[: PER_NODULE - 1]
            through[nodule.box.start[0] + np.append(others, area.argmax())] = True
        out.append(slab(scene.volume.hu, scene.truth.labels > 0, np.flatnonzero(through & usable)))
    return out


def _usable(geometry: Geometry, patient: str) -> Bool:
    """(slices,) true but where a finding lies that nobody annotated."""
    if patient not in Background.PLEURAL_MASS:
        return np.ones(geometry.shape[0], dtype=bool)
    centre, radius = Background.PLEURAL_MASS[patient]
    away = np.arange(geometry.shape[0]) - geometry.to_index(centre)[0]
    return np.asarray(np.abs(away) * geometry.spacing_zyx[0] > radius)


# ---------------------------------------------------------------- training


def field_of(config: NetworkConfig) -> Field:
    """The field of view of a network."""
    return Field(config.size, config.classes, config.pixel_mm)


def settled(config: NetworkConfig, material: Material, rows: Rows) -> NetworkConfig:
    """The classes that the material shows; and the planned network's input and batch, by its training slices.

    Input and batch of the config are the most.
    """
    config = replace(config, classes=material.known(config.classes))
    if config.network != "planned-unet":
        return config
    found = plan(_fingerprint(config, material, rows), len(config.classes))
    return replace(config, size=min(found.size, config.size), batch=min(found.batch, config.batch))


def _fingerprint(config: NetworkConfig, material: Material, rows: Rows) -> Fingerprint:
    """The fingerprint of whole slices, from some that show a nodule."""
    rows, _ = parted(material, rows)
    shown = rows[material.shows[rows]]
    some = shown[:: max(1, len(shown) // PLANNED_FROM)]
    field = replace(field_of(config), size=WHOLE_PX, pixel_mm=None)

    def slices() -> list[Slice]:
        images, truth = material.seen(field, some)
        pixels = material.pixels_mm(field, some)
        return [(i, t.any(axis=0), (p, p)) for i, t, p in zip(images, truth, pixels, strict=True)]

    return replace(fingerprint(slices()), slices=len(rows))


def train(config: NetworkConfig, material: Material, rows: Rows, validation: Rows, checkpoint: Path) -> nn.Module:
    """A network trained on slices, as many of them with a nodule as without.

    It is validated by the mean Dice of its classes, pixels counted over all slices of the validation set.

    Raises:
        BadOption: see :func:`nodulens.train.tasks.checks.check_config`.
    """
    check_config("segmenter", config)
    net = started(config, "segmenter")
    if isinstance(net, PlannedUNet):
        net.normalize_by(_fingerprint(config, material, rows))
    whole, nodules = parted(material, rows)
    images, truth = _tensors(field_of(config), material, whole)
    weights = class_weights(truth, len(config.classes)) if config.balance == "weights" else None
    criterion, alone = loss_of(config, weights), loss_of_one(config, config.classes.index(NODULE))
    examples = _Examples(config, images, truth, material.shows[whole], _close_ups(material, config, nodules))

    def augment(batch: Batch, rng: np.random.Generator) -> Batch:
        image, target, nodule = batch
        near, nodule = _changed(image[len(target) :], nodule, config, rng)
        image, target = _changed(image[: len(target)], target, config, rng)
        return torch.cat([image, near]), target, nodule

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        image, target, nodule = batch
        output = net(image)
        value = criterion(_rows_of(output, slice(len(target))), target)
        if not len(nodule):
            return value
        near = alone(_rows_of(output, slice(len(target), None)), nodule)
        return (len(target) * value + len(nodule) * near) / len(image)

    task = Task(examples.batches, loss, augment if config.augment else None, _validation(config, material, validation))
    return fit(net, task, config, checkpoint)


def parted(material: Material, rows: Rows) -> tuple[Rows, Rows]:
    """Rows of whole slices, and the numbers of the nodules that the other rows show close up."""
    whole = rows < len(material.shows)
    return rows[whole], rows[~whole] - len(material.shows)


def _changed(image: Tensor, truth: Tensor, config: NetworkConfig, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    if not len(image):
        return image, truth
    changed, along = augmented(image, truth, config.augment, rng)
    assert along is not None
    return changed, along


def _rows_of(output: Tensor | tuple[Tensor, ...], rows: slice) -> Tensor | tuple[Tensor, ...]:
    return tuple(part[rows] for part in output) if isinstance(output, tuple) else output[rows]


@dataclass(frozen=True, eq=False)
class _CloseUps:
    """Close-ups as a network sees them: (M, c, c), and which of them each nodule has."""

    images: NDArray[np.float16]
    truth: Bool
    of_nodule: list[NDArray[np.int_]]


def _close_ups(material: Material, config: NetworkConfig, nodules: NDArray[np.int_]) -> _CloseUps | None:
    closeups = material.closeups if isinstance(material, Slices) else None
    if closeups is None or not len(nodules):
        return None
    field = field_of(config)
    slices = np.flatnonzero(np.isin(closeups.owner, nodules))
    images, truth = closeups.seen(field, slices, closeups.side(field))
    owner = closeups.owner[slices]
    return _CloseUps(images.astype(np.float16), truth, [np.flatnonzero(owner == n) for n in nodules])


@dataclass(frozen=True, eq=False)
class _Examples:
    """The training set: whole slices; or windows of them, half at a nodule, and as many sheets of close-ups.

    Every batch holds both, so that batch norms see in training what they will stand for in use.

    Attributes:
        images, truth: of the slices, see :func:`_tensors`.
        shows: (N,) which of these show a nodule.
        closeups: None: of slices alone.

    Raises:
        BadOption: a window that does not fit the network.
    """

    config: NetworkConfig
    images: Tensor
    truth: Tensor
    shows: Bool
    closeups: _CloseUps | None

    def __post_init__(self) -> None:
        if self.config.window is not None:
            check_window(self.config)

    def batches(self, rng: np.random.Generator) -> list[Maker]:
        """An epoch."""
        window, most = self.config.window, self.config.examples
        if window is None:
            return [partial(self._slices, part) for part in self._parts(_drawn(self.shows, rng, most or SLICES))]
        most = most or WINDOWS
        if self.closeups is None:
            rows = _drawn(self.shows, rng, most)
            return [partial(self._windows, part, _seed(rng)) for part in self._parts(rows)]
        rows = _drawn(self.shows, rng, most // 2)
        along = -(-window // self.closeups.images.shape[-1])
        nodules = rng.integers(len(self.closeups.of_nodule), size=(len(rows), along**2))
        both = zip(self._parts(rows, 2), self._parts(nodules, 2), strict=True)
        return [partial(self._windows_and_sheets, *parts, _seed(rng)) for parts in both]

    def _parts(self, rows: NDArray[np.int_], kinds: int = 1) -> list[NDArray[np.int_]]:
        """Batches, where each holds as many of every kind."""
        return np.array_split(rows, -(-len(rows) * kinds // self.config.batch))

    def _slices(self, rows: Rows) -> Batch:
        return self._batch(self.images[rows], self.truth[rows])

    def _windows(self, rows: Rows, seed: int) -> Batch:
        return self._batch(*self._cut(rows, np.random.default_rng(seed)))

    def _windows_and_sheets(self, rows: Rows, nodules: NDArray[np.int_], seed: int) -> Batch:
        assert self.closeups is not None and self.config.window is not None
        rng, near = np.random.default_rng(seed), self.closeups
        cut = self._cut(rows, rng)
        chosen = np.array([[rng.choice(near.of_nodule[n]) for n in page] for page in nodules])
        sheets = drawn_sheets(near.images, near.truth, chosen, self.config.window, rng)
        return self._batch(*cut, *(torch.from_numpy(part)[:, None] for part in sheets))

    def _batch(self, image: Tensor, truth: Tensor, near: Tensor | None = None, nodule: Tensor | None = None) -> Batch:
        """Images; the truth of the first of them; and where the nodule is on the others."""
        target = truth.float() if truth.dtype == torch.bool else truth.long()
        if near is None or nodule is None:
            near = nodule = image[:0]
        return torch.cat([image, near]).float(), target, nodule.float()

    def _cut(self, rows: Rows, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Windows of slices, at a nodule where there is one."""
        side = self.config.window
        assert side is not None
        corners = [self._corner(row, rng) for row in rows]
        images, truth = (
            [whole[row][..., y : y + side, x : x + side] for row, (y, x) in zip(rows, corners, strict=True)]
            for whole in (self.images, self.truth)
        )
        return torch.stack(images), torch.stack(truth)

    def _corner(self, row: int, rng: np.random.Generator) -> NDArray[np.int_]:
        side, index = self.config.window or 0, self.config.classes.index(NODULE)
        most = self.config.size - side
        truth = self.truth[row]
        nodule = (truth == index if truth.dim() == 2 else truth[index]).nonzero().numpy()
        if not len(nodule):
            return rng.integers(0, most + 1, 2)
        near = rng.integers(-side // 4, side // 4 + 1, 2) - side // 2
        return np.clip(nodule[rng.integers(len(nodule))] + near, 0, most)


def _seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**31))


def _tensors(field: Field, material: Material, rows: Rows) -> tuple[Tensor, Tensor]:
    """Images (N, 1, size, size) in 16 bits; truth (N, size, size) uint8, or (N, classes, size, size) bool."""
    n, side = len(rows), field.size
    images = np.empty((n, side, side), dtype=np.float16)
    if field.exclusive:
        truth: NDArray[Any] = np.zeros((n, side, side), dtype=np.uint8)
    else:
        truth = np.zeros((n, len(field.classes), side, side), dtype=bool)
    for first in range(0, len(rows), HELD):
        some = slice(first, first + HELD)
        images[some], masks = material.seen(field, rows[some])
        truth[some] = (masks * np.arange(1, 1 + masks.shape[1])[:, None, None]).sum(1) if field.exclusive else masks
    return torch.from_numpy(images)[:, None], torch.from_numpy(truth)


def _drawn(shows: Bool, rng: np.random.Generator, most: int) -> Rows:
    """Slices in random order, ``most`` of them, half with a nodule where there are both."""
    kinds = [rng.permutation(np.flatnonzero(shows == kind)) for kind in (True, False)]
    present = [kind for kind in kinds if len(kind)]
    each = min(most, len(shows)) // len(present)
    return rng.permutation(np.concatenate([np.resize(kind, max(each, 1)) for kind in present]))


def _validation(config: NetworkConfig, material: Material, validation: Rows) -> Callable[[nn.Module], float] | None:
    validation, _ = parted(material, validation)
    if not len(validation):
        return None
    field = field_of(config)
    kinds = [validation[material.shows[validation] == kind] for kind in (True, False)]
    some = np.concatenate([kind[:: max(1, -(-2 * len(kind) // VALIDATED))] for kind in kinds])
    images, truth = material.seen(field, some)

    def validate(net: nn.Module) -> float:
        parts = torch.from_numpy(images)[:, None].split(config.batch)
        found = field.decided(field.probabilities(predict(net, parts).numpy()))
        both, either = (np.sum(a, axis=(0, 2, 3)) for a in (found & truth, found.astype(np.uint8) + truth))
        return float(np.mean((2 * both + 1) / (either + 1)))

    return validate


# ---------------------------------------------------------------- evaluation


def evaluate(model: Model, config: NetworkConfig, material: Material, rows: Rows) -> Outcome:
    """Evaluate masks and nodules' boxes, slice by slice, as the network sees them; of close-ups the central slices of
    the nodules, on their own pixels. See :func:`figures`."""
    field = field_of(config)
    columns: dict[str, list[Any]] = {}

    def note(some: Rows, kind: str, counts: dict[str, list[Any]]) -> None:
        patients = [material.patients[r] for r in some]
        for name, values in {"row": some.tolist(), "patient": patients, "kind": [kind] * len(some), **counts}.items():
            columns.setdefault(name, []).extend(values)

    slices, nodules = parted(material, rows)
    for first in range(0, len(slices), JUDGED):
        some = slices[first : first + JUDGED]
        images, truth = material.seen(field, some)
        counts = compared(field, truth, field.probabilities(model.run(images[:, None])[0]))
        note(some, SLICE, {"pixel_mm": material.pixels_mm(field, some), **counts})
    if len(nodules):
        assert isinstance(material, Slices) and material.closeups is not None
        closeups = material.closeups
        drawn = outlined(model, field, closeups, nodules) >= 0.5
        truth = closeups.nodule[closeups.central[nodules]]
        nodule_alone = replace(field, classes=(NODULE,))
        counts = {"pixel_mm": closeups.pixel_mm[closeups.central[nodules]].tolist()}
        counts |= compared(nodule_alone, truth[:, None], drawn[:, None].astype(np.float32))
        lungs = [f"{n} {what}" for n in field.drawn if n != NODULE for what in ("truth", "predicted", "common")]
        note(nodules + len(material.shows), CLOSE_UP, counts | {name: [0] * len(nodules) for name in lungs})
    return Outcome(figures(columns, field), columns)


def compared(field: Field, truth: Bool, seen: NDArray[np.float32]) -> dict[str, list[Any]]:
    """Pixels and boxes of slices, predicted against true.

    Args:
        truth: (N, drawn, y, x).
        seen: probabilities of the same shape.

    Returns:
        Columns: "pixels" and how many of them are "right" in every class; of each class its pixels in truth, as
        predicted and in common; of the nodules' boxes (connected parts) the "scores" of those found (mean probability),
        how many "truths" there are, and their "iou", found × truths.
    """
    found = field.decided(seen)
    out: dict[str, list[Any]] = {"pixels": [found[0, 0].size] * len(found)}
    out["right"] = (found == truth).all(axis=1).sum(axis=(1, 2)).tolist()
    for k, name in enumerate(field.drawn):
        for what, mask in (("truth", truth[:, k]), ("predicted", found[:, k]), ("common", truth[:, k] & found[:, k])):
            out[f"{name} {what}"] = mask.sum(axis=(1, 2)).tolist()
    nodule = field.drawn.index(NODULE)
    out |= {"scores": [], "truths": [], "iou": []}
    for true, drawn, sure in zip(truth[:, nodule], found[:, nodule], seen[:, nodule], strict=True):
        real, marks = components(true, 8), components(drawn, 8)
        scores = [float(sure[w][marks.labels[w] == n].mean()) for n, w in enumerate(marks.slices, start=1)]
        out["scores"].append(scores)
        out["truths"].append(len(real))
        out["iou"].append(box_iou(_corners(marks.slices), _corners(real.slices)).tolist())
    return out


def _corners(slices: Sequence[tuple[slice, ...]]) -> NDArray[np.float64]:
    """(n, 2, 2) lower and upper corner of boxes."""
    ends = [[[s.start for s in where], [s.stop for s in where]] for where in slices]
    return np.array(ends, dtype=np.float64).reshape(-1, 2, 2)


def figures(columns: Mapping[str, Sequence[Any]], field: Field) -> dict[str, Any]:
    """Figures of evaluated slices, of one fold or of several.

    Dice, IoU, sensitivity and precision are means over the slices whose truth has the class (a missed one counts 0),
    with intervals by patient. Slices whose truth lacks it are counted apart: "both_empty" where none is predicted
    either, "invented" where one is. "dice_pooled" counts pixels over all slices, and "dice_all" is the mean over all
    slices with 1 for both empty and 0 for invented: the two ways in which small things vanish behind large ones.

    Args:
        columns: of :class:`~nodulens.train.tasks.protocol.Outcome` rows. Close-ups are summed up apart.
    """
    columns, near = of_slices(columns), of_slices(columns, CLOSE_UP)
    patients = columns["patient"]
    means = ("dice", "iou", "sensitivity", "precision", "dice_all")
    classes, areas = {}, {}
    for name in field.drawn:
        cases = overlaps(columns, name)
        told = summarise(cases, patients)
        areas[name] = np.array([(c.truth_voxels, c.predicted_voxels) for c in cases], dtype=float)
        classes[name] = {
            **{key: with_interval(getattr(told, key), patients) for key in means},
            **{key: getattr(told, key) for key in ("cases", "both_empty", "invented", "missed")},
            "dice_pooled": rounded(_pooled_dice(cases)),
            "areas_px": _agreement(areas[name]),
        }
    shown = np.array(columns[f"{NODULE} truth"]) > 0
    out: dict[str, Any] = {
        "slices": len(patients),
        "with_nodule": int(shown.sum()),
        "accuracy": rounded(sum(columns["right"]) / max(sum(columns["pixels"]), 1)),
        "classes": classes,
        "boxes": _boxes(columns),
        "dice_by_size": _dice_by_size(columns),
    }
    lungs = [name for name in field.drawn if name != NODULE]
    if lungs and shown.sum() > 2:
        lung, nodule = dice_by_slice(columns, lungs)[shown], dice_by_slice(columns, [NODULE])[shown]
        out["pearson_of_nodule_and_lung_dice"] = rounded(pearson(lung, nodule).r.value)
    if near["row"]:
        told = summarise(overlaps(near, NODULE), near["patient"])
        rates = {key: with_interval(getattr(told, key), near["patient"]) for key in ("dice", "iou", "sensitivity")}
        out["close_ups"] = {"nodules": told.cases, "missed": told.missed, **rates}
    return out


def of_slices(columns: Mapping[str, Sequence[Any]], kind: str = SLICE) -> dict[str, list[Any]]:
    """The columns of evaluated rows, those of one kind."""
    own = [k for k, name in enumerate(columns["kind"]) if name == kind]
    return {name: [values[k] for k in own] for name, values in columns.items()}


def _dice_by_size(columns: Mapping[str, Sequence[Any]]) -> dict[str, dict[str, float | None]]:
    """Mean Dice of the nodule on the slices that show so much of it, and how many slices those are."""
    pixels, dice = np.array(columns[f"{NODULE} truth"]), dice_by_slice(columns, [NODULE])
    wide = 2 * np.sqrt(pixels / np.pi) * np.array(columns["pixel_mm"])
    out = {}
    for low, high in pairwise((*SIZES_MM, np.inf)):
        own = dice[(pixels > 0) & (wide >= low) & (wide < high)]
        band = f"from {low} mm" if high == np.inf else f"{low}–{high} mm" if low else f"under {high} mm"
        out[band] = {"slices": len(own), "dice": rounded(own.mean()) if len(own) else None}
    return out


def _pooled_dice(cases: Sequence[Overlap]) -> float:
    total = sum(c.truth_voxels + c.predicted_voxels for c in cases)
    return 2 * sum(c.common_voxels for c in cases) / total if total else NAN


def dice_by_slice(columns: Mapping[str, Sequence[Any]], names: Sequence[str]) -> NDArray[np.float64]:
    """(N,) Dice of some classes together; 1 where they are nowhere."""
    truth, predicted, common = (
        np.sum([columns[f"{name} {what}"] for name in names], axis=0) for what in ("truth", "predicted", "common")
    )
    either = truth + predicted
    return np.where(either > 0, 2 * common / np.maximum(either, 1), 1.0)


def _agreement(areas: NDArray[np.float64]) -> dict[str, Any] | None:
    """Bland–Altman of areas in pixels, predicted less true, over the slices where there is either."""
    some = areas[areas.any(axis=1)]
    if len(some) < 2:
        return None
    found = bland_altman(some[:, 1], some[:, 0])
    limits = {"difference": found.difference, "lower": found.lower, "upper": found.upper}
    return {"slices": found.count, **{key: rounded(limit.value) for key, limit in limits.items()}}


def _boxes(columns: Mapping[str, Sequence[Any]]) -> dict[str, Any] | None:
    """COCO's figures of the nodules' boxes; precision and recall of all predicted ones, at an IoU of 0.5."""
    if not sum(columns["truths"]):
        return None
    rows = zip(columns["scores"], columns["iou"], columns["truths"], strict=True)
    matches = match([Image(np.array(s), np.reshape(iou, (len(s), n))) for s, iou, n in rows])
    at, means = matches.at(0.0), summary({NODULE: matches})
    told = {"precision": at.precision, "recall": at.recall, "f1": at.f1, "mean_iou": at.mean_iou, **asdict(means)}
    return {"truths": matches.truths, "found": at.true_positives, **{key: rounded(v) for key, v in told.items()}}
