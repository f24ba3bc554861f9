"""The networks that outline lungs and nodules on whole axial slices.

They learn from the whole slices that :mod:`nodulens.data.prepare` cuts out of LIDC-IDRI or LUNA16. Without those, they
learn from the axial slices of nodule-free lungs (:class:`nodulens.data.crops.Background`) with nodules of real outlines
and ratings rendered into them, and are judged there on a background left out, and on the real slices of whole scans
(:mod:`nodulens.train.scans`). Lungs are those of our own lung stage, unless LUNA16's masks were given: what is measured
of them is agreement. Or they learn from the slices of a folder of pictures and are judged there
(:mod:`nodulens.train.pictures`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
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
from nodulens.data.crops import Background, SlicedScan, Stacks, WholeSlices
from nodulens.data.folds import fold_of
from nodulens.data.luna16 import AIRWAYS, LUNGS
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
from nodulens.stages.slices import NODULE, Field
from nodulens.train.augment import augmented
from nodulens.train.fit import Batch, Maker, Task, fit, predict
from nodulens.train.losses import class_weights, loss_of
from nodulens.train.parts import Outcome, Rows
from nodulens.train.pictures import Pictures, is_pictures, load_pictures
from nodulens.train.plan import Fingerprint, Slice, fingerprint, plan
from nodulens.train.pretrained import started
from nodulens.train.unets import PlannedUNet
from nodulens.train.volume import background_volume

Bool = NDArray[np.bool_]

SCENES = 6
"""How often nodules are rendered into each background, every time others at other places."""
NODULE_ML, MOST_NODULES = 200.0, 20
"""A nodule to so much lung, and in a scene at most."""
LEAST_MM = 3.0
PER_NODULE = 3
"""Slices taken of a nodule: its largest, and others at random."""
WHOLE_PX, WHOLE_MM = 512, (0.6, 0.9)
"""Backgrounds are cut to the chest. They are shown as far off as whole slices of 512 pixels of this width would be."""
EPOCH = 240
"""Slices an epoch, half of them with a nodule."""
WATCHED = 48
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
    """Some axial slices of a whole scan, in the form of :class:`Slab`; they are read whenever they are asked for.

    Attributes:
        chosen: (n,) which of the scan's slices.
        airways: whether LUNA16's airways stand for nodules.
    """

    scan: SlicedScan
    chosen: NDArray[np.int_]
    airways: bool = False

    @property
    def patient(self) -> str:
        """Whose they are."""
        return self.scan.patient

    @property
    def whole_mm(self) -> float:
        """As of :class:`Slab`."""
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
    """All slabs; a row is a slice, counted through them."""

    slabs: tuple[Slab | ScanSlab, ...]

    @cached_property
    def _place(self) -> NDArray[np.int_]:
        """(N, 2): slab and slice in it of every row."""
        return np.array([(k, z) for k, slab in enumerate(self.slabs) for z in range(len(slab.shows))]).reshape(-1, 2)

    @cached_property
    def patients(self) -> list[str]:
        """(N,) whose lungs a slice shows."""
        return [self.slabs[k].patient for k, _ in self._place]

    @cached_property
    def shows(self) -> Bool:
        """(N,) whether there is a nodule."""
        return np.concatenate([np.zeros(0, dtype=bool), *(slab.shows for slab in self.slabs)])

    @property
    def strata(self) -> list[str]:
        """(N,) "nodule" or "no nodule"."""
        return np.where(self.shows, "nodule", "no nodule").tolist()

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
            slab = self.slabs[number].at(height[own])
            geometry = Geometry.axial((len(slab.hu), *slab.hu.shape[1:]), (1.0, *slab.pixel_mm))
            shown = replace(field, pixel_mm=field.pixel_mm or slab.whole_mm * max(1, WHOLE_PX / field.size))
            images[own] = shown.look(slab.hu, geometry)
            for k, name in enumerate(field.drawn):
                truth[own, k] = shown.outlines(slab.masks(name), geometry)
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
    """Slices of whole scans where the folder holds them, else of the backgrounds, with rendered nodules and without; or
    the pictures of a folder that holds those.

    A background takes outlines of patients of its own fold alone, so that where it is left out they are too.

    Raises:
        NotFound: neither whole slices nor backgrounds and stacks lie in the folder, or not all that the recipe's
            labels and slices need.
        NotFound, UnreadableFile: see :class:`nodulens.data.crops.WholeSlices`.
        NotFound, BadOption: see :func:`nodulens.train.pictures.find_pictures`.
    """
    for caveat in recipe.caveats:
        warnings.warn(caveat, stacklevel=2)
    pictures = is_pictures(data)
    if not pictures and (whole := WholeSlices(data).scans):
        return Slices(_whole(data, recipe, whole))
    if (recipe.labels, recipe.slices) != ("lidc", "all"):
        raise NotFound(
            f"{data} holds no whole slices of scans, which labels={recipe.labels} and slices={recipe.slices} need: cut "
            f"them with nodulens data prepare; for luna16-mask out of LUNA16, {LUNGS} beside its subsets."
        )
    if pictures:
        return load_pictures(data)
    shapes = [s for s in stack_shapes(Stacks(data)).values() if s.diameter_mm >= LEAST_MM]
    slabs: list[Slab] = []
    for patient in Background.PATIENTS:
        path = data / "background" / f"{patient}.nii.gz"
        if not path.exists():
            raise NotFound(
                f"{path} is not there: --data must name the folder that holds lidc/ and background/, or one that "
                "nodulens data prepare has made of scans that may train."
            )
        own = [s for s in shapes if fold_of(s.patient) == fold_of(patient)]
        slabs += _slabs(background_volume(data, patient), patient, own)
    return Slices(tuple(slabs))


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
    images, truth = _tensors(field, material, rows)
    shows = material.shows[rows]
    weights = class_weights(truth, len(learner.classes)) if learner.balance == "weights" else None
    criterion = loss_of(learner, weights)

    def batches(rng: np.random.Generator) -> list[Maker]:
        chosen = _drawn(shows, rng)
        return [partial(make, part) for part in np.array_split(chosen, -(-len(chosen) // learner.batch))]

    def make(chosen: Rows) -> Batch:
        target = truth[chosen]
        return images[chosen].float(), target.float() if target.dtype == torch.bool else target.long()

    def augment(batch: Batch, rng: np.random.Generator) -> Batch:
        image, target = augmented(batch[0], batch[1], learner.augment, rng)
        assert target is not None
        return image, target

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        return criterion(net(batch[0]), batch[1])

    task = Task(batches, loss, augment if learner.augment else None, _validation(learner, material, watched))
    return fit(net, task, learner, checkpoint)


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


def _drawn(shows: Bool, rng: np.random.Generator) -> Rows:
    """An epoch's slices in random order, half of them with a nodule where there are both."""
    kinds = [rng.permutation(np.flatnonzero(shows == kind)) for kind in (True, False)]
    present = [kind for kind in kinds if len(kind)]
    most = min(EPOCH, len(shows)) // len(present)
    return rng.permutation(np.concatenate([np.resize(kind, max(most, 1)) for kind in present]))


def _validation(learner: Learner, material: Material, watched: Rows) -> Callable[[nn.Module], float] | None:
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
    """Outlines and nodules' boxes, slice by slice, as the network sees them; see :func:`figures`."""
    field = field_of(learner)
    columns: dict[str, list[Any]] = {}
    for first in range(0, len(rows), JUDGED):
        some = rows[first : first + JUDGED]
        images, truth = material.seen(field, some)
        seen = field.probabilities(model.run(images[:, None])[0])
        own = {"row": some.tolist(), "patient": [material.patients[r] for r in some], **compared(field, truth, seen)}
        for name, values in own.items():
            columns.setdefault(name, []).extend(values)
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
        columns: of :class:`~nodulens.train.parts.Outcome` rows.
    """
    patients = columns["patient"]
    means = ("dice", "iou", "sensitivity", "precision", "dice_all")
    classes, areas = {}, {}
    for name in field.drawn:
        counts = zip(*(columns[f"{name} {what}"] for what in ("truth", "predicted", "common")), strict=True)
        cases = [Overlap(true, predicted, common, 1.0, NAN, NAN) for true, predicted, common in counts]
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
    return out


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
