"""The networks that outline lungs and nodules on whole axial slices.

They learn from the axial slices of nodule-free lungs (:class:`nodulens.data.crops.Background`) with nodules of real
outlines and ratings rendered into them, and are judged there on a background left out, and on the real slices of whole
scans (:mod:`nodulens.train.scans`). Lungs are those of our own lung stage: what is measured of them is agreement. Or
they learn from the slices of a folder of pictures and are judged there (:mod:`nodulens.train.pictures`).

Whole slices are what a CPU learns slowest from. A learner with a ``window`` learns from squares cut out of them too,
and from close-ups of real nodules (:mod:`nodulens.train.closeups`), on which it is then judged as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nodulens.core.geometry import Geometry
from nodulens.core.volume import Volume
from nodulens.data.crops import Background, Stacks
from nodulens.data.folds import fold_of
from nodulens.data.render import render_many
from nodulens.data.shapes import Shape, stack_shapes
from nodulens.errors import BadOption, NotFound
from nodulens.evaluate.agreement import bland_altman, pearson
from nodulens.evaluate.boxes import Image, box_iou, match, summary
from nodulens.evaluate.segmentation import NAN, Overlap, summarise
from nodulens.evaluate.statistics import Interval
from nodulens.ops.components import components
from nodulens.recipe import Learner, Recipe
from nodulens.runtime.engine import Model
from nodulens.stages.lungs import lung_volumes_ml, segment_lungs
from nodulens.stages.slices import NODULE, WHOLE_PX, Field
from nodulens.train.augment import augmented
from nodulens.train.closeups import CloseUps, drawn_sheets, outlined
from nodulens.train.fit import Batch, Maker, Task, fit, predict
from nodulens.train.losses import class_weights, loss_of, loss_of_one
from nodulens.train.networks import check_window
from nodulens.train.parts import Outcome, Rows
from nodulens.train.pictures import Pictures, is_pictures, load_pictures
from nodulens.train.plan import Fingerprint, Slice, fingerprint, plan
from nodulens.train.pretrained import started
from nodulens.train.unets import PlannedUNet
from nodulens.train.volume import background_volume

Bool = NDArray[np.bool_]

SCENES = 6
"""How often nodules are rendered into each background, every time others at other places."""
SLICE, CLOSE_UP = "slice", "close-up"
NODULE_ML, MOST_NODULES = 200.0, 20
"""A nodule to so much lung, and in a scene at most."""
LEAST_MM = 3.0
PER_NODULE = 3
"""Slices taken of a nodule: its largest, and others at random."""
WHOLE_MM = (0.6, 0.9)
"""Backgrounds are cut to the chest. They are shown as far off as whole slices of 512 pixels of this width would be."""
EPOCH = 240
"""Slices an epoch, half of them with a nodule."""
WINDOWS = 480
"""Windows an epoch, and as many whole slices beside them as hold half of their pixels."""
SETTLED = 16
"""Whole slices by which batch norms go in use, where windows teach too."""
WATCHED = 24
"""Slices watched after every epoch."""
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
class Slices:
    """All slabs; a row is a slice, counted through them. Then the close-ups, a row a nodule.

    Attributes:
        closeups: of real nodules; None: whole slices alone.
    """

    slabs: tuple[Slab, ...]
    closeups: CloseUps | None = None

    @cached_property
    def _place(self) -> NDArray[np.int_]:
        """(N, 2): slab and slice in it of every row."""
        return np.array([(k, z) for k, slab in enumerate(self.slabs) for z in range(len(slab.hu))]).reshape(-1, 2)

    @cached_property
    def patients(self) -> list[str]:
        """(N,) whose lungs a slice shows, or whose nodule."""
        return [self.slabs[k].patient for k, _ in self._place] + (self.closeups.patients if self.closeups else [])

    @cached_property
    def shows(self) -> Bool:
        """(slices,) whether there is a nodule."""
        return np.array([self.slabs[k].nodule[z].any() for k, z in self._place], dtype=bool)

    @property
    def strata(self) -> list[str]:
        """(N,) "nodule", "no nodule" or "close-up"."""
        nodules = len(self.closeups.patients) if self.closeups else 0
        return np.where(self.shows, "nodule", "no nodule").tolist() + [CLOSE_UP] * nodules

    def seen(self, field: Field, rows: Rows) -> tuple[NDArray[np.float32], Bool]:
        """What a network sees of slices, and the truth of its drawn classes there.

        Returns:
            (N, size, size) 0…1, and (N, drawn, size, size); of exclusive classes the nodule goes before the lung.
        """
        images = np.empty((len(rows), field.size, field.size), dtype=np.float32)
        truth = np.empty((len(rows), len(field.drawn), field.size, field.size), dtype=bool)
        owner, height = self._place[rows].T
        for number in np.unique(owner):
            own = owner == number
            slab, z = self.slabs[number], height[own]
            geometry = Geometry.axial((len(z), *slab.hu.shape[1:]), (1.0, *slab.pixel_mm))
            shown = replace(field, pixel_mm=field.pixel_mm or slab.whole_mm * max(1, WHOLE_PX / field.size))
            images[own] = shown.look(slab.hu[z], geometry)
            for k, name in enumerate(field.drawn):
                truth[own, k] = shown.outlines(slab.masks(name)[z], geometry)
        return images, field.exclusively(truth)

    def known(self, classes: tuple[str, ...]) -> tuple[str, ...]:
        """Those of a network's classes that are drawn here: all, or :meth:`Slab.masks` says which it lacks."""
        return classes

    def pixels_mm(self, field: Field, rows: Rows) -> list[float]:
        """(N,) pixel that a network sees, see :meth:`seen`."""
        whole = np.array([self.slabs[k].whole_mm for k, _ in self._place[rows]])
        return [field.pixel_mm or float(mm) for mm in whole * max(1, WHOLE_PX / field.size)]


Material = Slices | Pictures


def load(data: Path, recipe: Recipe) -> Material:
    """Slices of the backgrounds, with rendered nodules and without, and close-ups where the recipe has windows; or the
    pictures of a folder that holds those.

    A background takes outlines of patients of its own fold alone, so that where it is left out they are too.

    Raises:
        NotFound: backgrounds or stacks do not lie in the folder.
        NotFound, BadOption: see :func:`nodulens.train.pictures.find_pictures`.
    """
    if is_pictures(data):
        return load_pictures(data)
    stacks = Stacks(data)
    shapes = [s for s in stack_shapes(stacks).values() if s.diameter_mm >= LEAST_MM]
    slabs: list[Slab] = []
    for patient in Background.PATIENTS:
        path = data / "background" / f"{patient}.nii.gz"
        if not path.exists():
            raise NotFound(f"{path} is not there: --data must name the folder that holds lidc/ and background/.")
        own = [s for s in shapes if fold_of(s.patient) == fold_of(patient)]
        slabs += _slabs(background_volume(data, patient), patient, own)
    windows = recipe.segmenter is not None and recipe.segmenter.window is not None
    return Slices(tuple(slabs), CloseUps.of(stacks) if windows else None)


def _slabs(volume: Volume, patient: str, shapes: Sequence[Shape]) -> list[Slab]:
    """All slices of a background as they are, then some through each of the nodules of every scene."""
    lungs = segment_lungs(volume)
    amount = round(sum(lung_volumes_ml(lungs).values()) / NODULE_ML)
    rng = np.random.default_rng([fold_of(patient), SCENES])
    usable = _usable(volume.geometry, patient)
    plain = np.flatnonzero(usable)
    pixel_mm = volume.geometry.spacing_zyx[1:]

    def slab(hu: NDArray[Any], nodule: Bool, z: NDArray[np.int_]) -> Slab:
        stored = np.rint(hu[z]).astype(np.int16)
        return Slab(patient, stored, lungs.labels[z].astype(np.uint8), nodule[z], pixel_mm, rng.uniform(*WHOLE_MM))

    out = [slab(volume.hu, np.zeros(volume.geometry.shape, dtype=bool), plain)]
    for _ in range(SCENES):
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


def field_of(learner: Learner) -> Field:
    """What a learner's network sees."""
    return Field(learner.size, learner.classes, learner.pixel_mm)


def settled(learner: Learner, material: Material, rows: Rows) -> Learner:
    """The classes that the material shows; and the planned network's input and batch, by its training slices.

    Input and batch of the learner are the most.
    """
    learner = replace(learner, classes=material.known(learner.classes))
    if learner.network != "planned-unet":
        return learner
    found = plan(_fingerprint(learner, material, rows), len(learner.classes))
    return replace(learner, size=min(found.size, learner.size), batch=min(found.batch, learner.batch))


def _fingerprint(learner: Learner, material: Material, rows: Rows) -> Fingerprint:
    """Of whole slices; looked at on some that show a nodule."""
    rows, _ = parted(material, rows)
    shown = rows[material.shows[rows]]
    some = shown[:: max(1, len(shown) // PLANNED_FROM)]
    field = replace(field_of(learner), size=WHOLE_PX, pixel_mm=None)

    def slices() -> list[Slice]:
        images, truth = material.seen(field, some)
        pixels = material.pixels_mm(field, some)
        return [(i, t.any(axis=0), (p, p)) for i, t, p in zip(images, truth, pixels, strict=True)]

    return replace(fingerprint(slices()), slices=len(rows))


def train(learner: Learner, material: Material, rows: Rows, watched: Rows, checkpoint: Path) -> nn.Module:
    """A network trained on slices, as many of them with a nodule as without.

    The mean Dice of its classes, pixels counted over all watched slices, says when it is best.

    Raises:
        BadOption: mirrored patients would have their lungs on the wrong sides.
    """
    mirrors = {"flip", "turn"} & set(learner.augment)
    if mirrors and any(name.startswith(("left", "right")) for name in learner.classes):
        raise BadOption(f"{', '.join(sorted(mirrors))} takes left for right: leave it out, or the sides of the lungs.")
    net = started(learner)
    if isinstance(net, PlannedUNet):
        net.normalize_by(_fingerprint(learner, material, rows))
    field = field_of(learner)
    whole, nodules = parted(material, rows)
    images, truth = _tensors(field, material, whole)
    shows = material.shows[whole]
    weights = class_weights(truth, len(learner.classes)) if learner.balance == "weights" else None
    criterion = loss_of(learner, weights)
    windows = _windows(learner, images, truth, shows, _close_ups(material, field, nodules))

    def batches(rng: np.random.Generator) -> list[Maker]:
        most = EPOCH if learner.window is None else round(WINDOWS / 2 * (learner.window / learner.size) ** 2)
        chosen = _drawn(shows, rng, most)
        slices: list[Maker] = [partial(make, part) for part in _batched(chosen, learner.batch)]
        makers = slices + windows(rng)
        return [makers[k] for k in rng.permutation(len(makers))]

    def make(chosen: Rows) -> Batch:
        return images[chosen].float(), _as_target(truth[chosen])

    def augment(batch: Batch, rng: np.random.Generator) -> Batch:
        image, target = augmented(batch[0], batch[1], learner.augment, rng)
        assert target is not None
        return image, target

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        image, target = batch
        one_class = target.dim() == 4 and target.shape[1] < len(learner.classes)
        return (alone if one_class else criterion)(net(image), target)

    alone = loss_of_one(learner, learner.classes.index(NODULE))
    def settle(net: nn.Module) -> None:
        some = _drawn(shows, np.random.default_rng(0), SETTLED)
        settle_norms(net, (images[part].float() for part in _batched(some, learner.batch)))

    task = Task(
        batches,
        loss,
        augment if learner.augment else None,
        _validation(learner, material, watched),
        settle if learner.window is not None else None,
    )
    return fit(net, task, learner, checkpoint)


def parted(material: Material, rows: Rows) -> tuple[Rows, Rows]:
    """Rows of whole slices, and the numbers of the nodules that the other rows show close up."""
    whole = rows < len(material.shows)
    return rows[whole], rows[~whole] - len(material.shows)


def settle_norms(net: nn.Module, inputs: Iterable[Tensor]) -> None:
    """Batch norms take the mean statistics of these inputs, and forget others.

    Args:
        net: in training mode.
        inputs: (N, 1, y, x) each.
    """
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    if not norms:
        return
    usual = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean of all batches
    place = next(net.parameters()).device
    for batch in inputs:
        net(batch.to(place))
    for norm, momentum in zip(norms, usual, strict=True):
        norm.momentum = momentum


def _batched(chosen: NDArray[np.int_], batch: int) -> list[NDArray[np.int_]]:
    return np.array_split(chosen, -(-len(chosen) // batch))


def _as_target(truth: Tensor) -> Tensor:
    return truth.float() if truth.dtype == torch.bool else truth.long()


@dataclass(frozen=True, eq=False)
class _CloseUps:
    """Close-ups as a network sees them: (M, c, c), and which of them each nodule has."""

    images: NDArray[np.float16]
    truth: Bool
    of_nodule: list[NDArray[np.int_]]


def _close_ups(material: Material, field: Field, nodules: NDArray[np.int_]) -> _CloseUps | None:
    closeups = material.closeups if isinstance(material, Slices) else None
    if closeups is None or not len(nodules):
        return None
    slices = np.flatnonzero(np.isin(closeups.owner, nodules))
    images, truth = closeups.seen(field, slices, closeups.side(field))
    owner = closeups.owner[slices]
    return _CloseUps(images.astype(np.float16), truth, [np.flatnonzero(owner == n) for n in nodules])


def _windows(
    learner: Learner, images: Tensor, truth: Tensor, shows: Bool, closeups: _CloseUps | None
) -> Callable[[np.random.Generator], list[Maker]]:
    """An epoch's batches of windows: cut out of slices, half of them at a nodule, and as many sheets of close-ups.

    Args:
        images, truth: of the slices, see :func:`_tensors`.
    """
    side = learner.window
    if side is None:
        return lambda rng: []
    check_window(learner)
    index = learner.classes.index(NODULE)
    half = WINDOWS if closeups is None else WINDOWS // 2

    def cut(chosen: Rows, corners: NDArray[np.int_]) -> Batch:
        places = [(..., slice(y, y + side), slice(x, x + side)) for y, x in corners]
        cuts = [(images[r][p], truth[r][p]) for r, p in zip(chosen, places, strict=True)]
        return torch.stack([image for image, _ in cuts]).float(), _as_target(torch.stack([mask for _, mask in cuts]))

    def sheet(chosen: NDArray[np.int_], seed: int) -> Batch:
        assert closeups is not None
        found = drawn_sheets(closeups.images, closeups.truth, chosen, side, np.random.default_rng(seed))
        image, nodule = (torch.from_numpy(part)[:, None].float() for part in found)
        return image, nodule

    def corner(row: int, rng: np.random.Generator) -> NDArray[np.int_]:
        most = learner.size - side
        if not shows[row]:
            return rng.integers(0, most + 1, 2)
        places = (truth[row] == index if truth.dim() == 3 else truth[row, index]).nonzero().numpy()
        if not len(places):  # too small to be seen
            return rng.integers(0, most + 1, 2)
        near = rng.integers(-side // 4, side // 4 + 1, 2) - side // 2
        return np.clip(places[rng.integers(len(places))] + near, 0, most)

    def batches(rng: np.random.Generator) -> list[Maker]:
        rows = _drawn(shows, rng, half)
        corners = np.array([corner(int(r), rng) for r in rows])
        out: list[Maker] = [
            partial(cut, rows[some], corners[some]) for some in _batched(np.arange(len(rows)), learner.batch)
        ]
        if closeups is not None:
            along = -(-side // closeups.images.shape[-1])
            nodules = rng.integers(len(closeups.of_nodule), size=(WINDOWS - half, along**2))
            slices = np.vectorize(lambda n: rng.choice(closeups.of_nodule[n]))(nodules)
            parts = _batched(np.arange(len(slices)), learner.batch)
            out += [partial(sheet, slices[some], int(rng.integers(2**31))) for some in parts]
        return out

    return batches


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


def _validation(learner: Learner, material: Material, watched: Rows) -> Callable[[nn.Module], float] | None:
    watched, _ = parted(material, watched)
    if not len(watched):
        return None
    field = field_of(learner)
    kinds = [watched[material.shows[watched] == kind] for kind in (True, False)]
    some = np.concatenate([kind[:: max(1, -(-2 * len(kind) // WATCHED))] for kind in kinds])
    images, truth = material.seen(field, some)

    def validate(net: nn.Module) -> float:
        parts = torch.from_numpy(images)[:, None].split(learner.batch)
        found = field.decided(field.probabilities(predict(net, parts).numpy()))
        both, either = (np.sum(a, axis=(0, 2, 3)) for a in (found & truth, found.astype(np.uint8) + truth))
        return float(np.mean((2 * both + 1) / (either + 1)))

    return validate


# ---------------------------------------------------------------- judging


def judge(model: Model, learner: Learner, material: Material, rows: Rows) -> Outcome:
    """Outlines and nodules' boxes, slice by slice, as the network sees them; of close-ups the central slices of the
    nodules, on their own pixels. See :func:`figures`."""
    field = field_of(learner)
    columns: dict[str, list[Any]] = {}

    def note(some: Rows, kind: str, counts: dict[str, list[Any]]) -> None:
        patients = [material.patients[r] for r in some]
        for name, values in {"row": some.tolist(), "patient": patients, "kind": [kind] * len(some), **counts}.items():
            columns.setdefault(name, []).extend(values)

    slices, nodules = parted(material, rows)
    for first in range(0, len(slices), JUDGED):
        some = slices[first : first + JUDGED]
        images, truth = material.seen(field, some)
        note(some, SLICE, compared(field, truth, field.probabilities(model.run(images[:, None])[0])))
    if len(nodules):
        assert isinstance(material, Slices) and material.closeups is not None
        closeups = material.closeups
        drawn = outlined(model, field, closeups, nodules) >= 0.5
        truth = closeups.nodule[closeups.central[nodules]]
        nodule_alone = replace(field, classes=(NODULE,))
        counts = compared(nodule_alone, truth[:, None], drawn[:, None].astype(np.float32))
        lungs = [f"{n} {what}" for n in field.drawn if n != NODULE for what in ("truth", "predicted", "common")]
        note(nodules + len(material.shows), CLOSE_UP, counts | {name: [0] * len(nodules) for name in lungs})
    return Outcome(figures(columns, field), columns)


def compared(field: Field, truth: Bool, seen: NDArray[np.float32]) -> dict[str, list[Any]]:
    """What is counted of slices.

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
    """What judged slices add up to, of one fold or of several.

    Dice, IoU, sensitivity and precision are means over the slices whose truth has the class (a missed one counts 0),
    with intervals by patient. Slices whose truth lacks it are counted apart: "both_empty" where none is predicted
    either, "invented" where one is. "dice_pooled" counts pixels over all slices, and "dice_all" is the mean over all
    slices with 1 for both empty and 0 for invented: the two ways in which small things vanish behind large ones.

    Args:
        columns: of :class:`~nodulens.train.parts.Outcome` rows. Close-ups are summed up apart.
    """
    kinds = columns["kind"]
    apart = {k: {n: _where(v, kinds, k) for n, v in columns.items()} for k in (SLICE, CLOSE_UP)}
    columns, near = apart[SLICE], apart[CLOSE_UP]
    patients = columns["patient"]
    means = ("dice", "iou", "sensitivity", "precision", "dice_all")
    classes, areas = {}, {}
    for name in field.drawn:
        cases = _cases(columns, name)
        told = summarise(cases, patients)
        areas[name] = np.array([(c.truth_voxels, c.predicted_voxels) for c in cases], dtype=float)
        classes[name] = {
            **{key: told_of(getattr(told, key), patients) for key in means},
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
    }
    lungs = [name for name in field.drawn if name != NODULE]
    if lungs and shown.sum() > 2:
        lung, nodule = _dice_by_slice(columns, lungs)[shown], _dice_by_slice(columns, [NODULE])[shown]
        out["pearson_of_nodule_and_lung_dice"] = rounded(pearson(lung, nodule).r.value)
    if near["row"]:
        told = summarise(_cases(near, NODULE), near["patient"])
        rates = {key: told_of(getattr(told, key), near["patient"]) for key in ("dice", "iou", "sensitivity")}
        out["close_ups"] = {"nodules": told.cases, "missed": told.missed, **rates}
    return out


def _where(values: Sequence[Any], kinds: Sequence[str], kind: str) -> list[Any]:
    return [value for value, own in zip(values, kinds, strict=True) if own == kind]


def _cases(columns: Mapping[str, Sequence[Any]], name: str) -> list[Overlap]:
    counts = zip(*(columns[f"{name} {what}"] for what in ("truth", "predicted", "common")), strict=True)
    return [Overlap(true, predicted, common, 1.0, NAN, NAN) for true, predicted, common in counts]


def _pooled_dice(cases: Sequence[Overlap]) -> float:
    total = sum(c.truth_voxels + c.predicted_voxels for c in cases)
    return 2 * sum(c.common_voxels for c in cases) / total if total else NAN


def _dice_by_slice(columns: Mapping[str, Sequence[Any]], names: Sequence[str]) -> NDArray[np.float64]:
    """Of some classes together; 1 where they are nowhere."""
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
    """COCO's figures of the nodules' boxes; precision and recall of all that is drawn, at an IoU of 0.5."""
    if not sum(columns["truths"]):
        return None
    rows = zip(columns["scores"], columns["iou"], columns["truths"], strict=True)
    matches = match([Image(np.array(s), np.reshape(iou, (len(s), n))) for s, iou, n in rows])
    at, means = matches.at(0.0), summary({NODULE: matches})
    told = {"precision": at.precision, "recall": at.recall, "f1": at.f1, "mean_iou": at.mean_iou, **asdict(means)}
    return {"truths": matches.truths, "found": at.true_positives, **{key: rounded(v) for key, v in told.items()}}


def told_of(interval: Interval, patients: Sequence[str]) -> dict[str, float | None]:
    """A figure and its interval by patient for JSON; one patient alone gives none."""
    ends = {"low": interval.low, "high": interval.high} if len(set(patients)) > 1 else {"low": NAN, "high": NAN}
    return {"value": rounded(interval.value), **{key: rounded(end) for key, end in ends.items()}}


def rounded(value: float) -> float | None:
    """For JSON, which has no NaN."""
    return round(float(value), 4) if np.isfinite(value) else None
