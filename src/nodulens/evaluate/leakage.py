"""Leakage: figures under careless splits, and inputs that give the label away.

Two small classifiers are trained on the real crops, three times on the same rows: split at random, by nodule, and by
patient. Only the last says what to expect of a new patient; what the others gain on it is memory. For comparison the
report has predictors that need no image: metadata of the crops that give the label away by how the files were made.
Everything is seeded and reproducible.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from nodulens.data.folds import FOLDS, fold_of
from nodulens.data.material import CROP_STEPS, PATCH_STEPS, Patches, Stacks, patch_places
from nodulens.errors import MissingExtra
from nodulens.metrics.classification import auc, ranking_draws
from nodulens.metrics.statistics import Interval, percentiles
from nodulens.presentation.evaluation import Table

NODULE, MALIGNANT = "nodule or non-nodule", "malignant or benign"
NEIGHBOURS, LOGISTIC = "5 nearest neighbours", "logistic regression"
AT_RANDOM, BY_NODULE, BY_PATIENT = "at random", "by nodule", "by patient"
COPIES = 3
"""Turned and enlarged copies of each slice, where slices are multiplied before they are split."""
SIDE = 16
"""Side of the classifiers' input in pixels."""

Float = NDArray[np.float64]
Bool = NDArray[np.bool_]
Index = NDArray[np.int_]


@dataclass(frozen=True)
class Figure:
    """How well a source predicts a label.

    Attributes:
        question: the classes, and which crops.
        source: the classifier, or the number used as a score.
        split: what was kept together in one fold; "" without training.
        auc: area under the ROC curve over all folds, with a 95 % interval from drawing patients.
        rows: crops or nodules evaluated on.
        patients: number of patients they are of.
    """

    question: str
    source: str
    split: str
    auc: Interval
    rows: int
    patients: int


@dataclass(frozen=True)
class Leakage:
    """The report.

    Attributes:
        splits: the same classifiers on the same crops under different splits.
        inputs: predictors of the label that need no image; last the diameter, for comparison.
    """

    splits: tuple[Figure, ...]
    inputs: tuple[Figure, ...]

    def tables(self) -> tuple[Table, Table]:
        """The same classifiers under three splits, and the predictors without image."""
        arms: dict[tuple[str, str], list[Figure]] = {}
        for figure in self.splits:
            arms.setdefault((figure.question, figure.source), []).append(figure)
        splits = [figure.split for figure in next(iter(arms.values()))]
        rows = tuple((question, source, *map(_auc, figures)) for (question, source), figures in arms.items())
        columns = ("classes", "by", *(f"split {split}" for split in splits))
        title = "AUC (95 % interval by patient) of one classifier under three splits"
        beside = tuple((f.question, f.source, f.rows, _auc(f)) for f in self.inputs)
        head = ("classes", "by", "rows", "AUC")
        return Table(title, columns, rows), Table("AUC without the image", head, beside)


def _auc(figure: Figure) -> str:
    return f"{figure.auc.value:.3f} ({figure.auc.low:.3f}–{figure.auc.high:.3f})"


@dataclass(frozen=True, eq=False)
class _Crops:
    """Examples: images (N, SIDE²), and the label, nodule and patient of each."""

    question: str
    image: NDArray[np.float32]
    label: Bool
    nodule: Index
    patient: NDArray[np.str_]

    def take(self, rows: Index, question: str) -> _Crops:
        return _Crops(question, self.image[rows], self.label[rows], self.nodule[rows], self.patient[rows])


@dataclass(frozen=True, eq=False)
class _Nodules:
    """The nodules whose median malignancy is not 3, (N,) each."""

    number: Index
    label: Bool
    patient: NDArray[np.str_]
    largest: Index
    diameter_mm: Float
    many: Bool  # marked by three readers or more


def leakage(data: Path, seed: int = 0, progress: Callable[[int, int], None] | None = None) -> Leakage:
    """Make the report from ``lidc/lidc_nodule_stacks.npz`` and ``luna16/luna16_axial_patches_64.npz``.

    Args:
        data: the folder that holds them.
        seed: of random splits, copies and bootstraps.
        progress: called with steps done and their number.

    Raises:
        NotFound: a file does not exist.
        MissingExtra: scikit-learn is not installed.
    """
    if find_spec("sklearn") is None:
        raise MissingExtra("train", "scikit-learn")
    show = progress or (lambda *_: None)
    stacks = Stacks(data)
    nodules = _nodules(stacks)
    slices, largest, patches = _slices(stacks, nodules), _largest(stacks, nodules), _patches(Patches(data))
    work = (
        (slices, NEIGHBOURS),
        (slices, LOGISTIC),
        (_multiplied(stacks, nodules, seed), NEIGHBOURS),
        (_balanced(largest, seed), NEIGHBOURS),
        (patches, NEIGHBOURS),
        (patches, LOGISTIC),
    )
    splits: list[Figure] = []
    for number, (crops, classifier) in enumerate(work):
        splits += _under_each_split(crops, classifier, seed)
        show(number + 1, len(work))
    inputs = (*_beside_the_patches(data), *_beside_the_stacks(stacks, nodules))
    return Leakage(tuple(splits), inputs)


# ---------------------------------------------------------------- the crops


def _nodules(stacks: Stacks) -> _Nodules:
    median = stacks.ratings.median("malignancy")
    rows: list[tuple[int, int, float]] = []
    for n in stacks.nodules[median[stacks.nodules] != 3].tolist():
        if (central := stacks.central(n)) is not None:
            rows.append((n, central.index, central.diameter_mm))
    number, largest = (np.array([row[k] for row in rows], dtype=int) for k in (0, 1))
    return _Nodules(
        number,
        median[number] > 3,
        np.array(stacks.patients)[number],
        largest,
        np.array([row[2] for row in rows]),
        stacks.ratings.readers[number] >= 3,
    )


def _slices(stacks: Stacks, nodules: _Nodules) -> _Crops:
    """Every slice that a reader outlined."""
    owner = np.repeat(np.arange(len(nodules.number)), [stacks.slices(n) for n in nodules.number])
    image = np.concatenate([_small(CROP_STEPS.steps(stacks.hu(n))) for n in nodules.number.tolist()])
    return _Crops(f"{MALIGNANT}, every slice", image, nodules.label[owner], owner, nodules.patient[owner])


def _largest(stacks: Stacks, nodules: _Nodules) -> _Crops:
    image, owner = _small(_largest_slices(stacks, nodules)), np.arange(len(nodules.number))
    return _Crops(f"{MALIGNANT}, largest slice", image, nodules.label, owner, nodules.patient)


def _largest_slices(stacks: Stacks, nodules: _Nodules) -> NDArray[np.uint8]:
    """(N, 96, 96) in 8 bits, as published pictures of nodules are."""
    places = zip(nodules.number.tolist(), nodules.largest.tolist(), strict=True)
    return np.stack([CROP_STEPS.steps(stacks.hu(n)[z]) for n, z in places])


def _multiplied(stacks: Stacks, nodules: _Nodules, seed: int) -> _Crops:
    """The largest slices with turned, mirrored and enlarged copies of each: augmentation before the split."""
    rng = np.random.default_rng(seed)
    plain = _largest_slices(stacks, nodules)
    copies = [_small(np.stack([_moved(image, rng) for image in plain])) for _ in range(COPIES)]
    owner = np.tile(np.arange(len(plain)), COPIES + 1)
    image = np.concatenate([_small(plain), *copies])
    question = f"{MALIGNANT}, largest slice and {COPIES} changed copies"
    return _Crops(question, image, nodules.label[owner], owner, nodules.patient[owner])


def _balanced(crops: _Crops, seed: int) -> _Crops:
    """The rarer class repeated until both are equal: balancing before the split."""
    rare = np.flatnonzero(crops.label == (crops.label.mean() < 0.5))
    more = np.random.default_rng(seed).choice(rare, len(crops.label) - 2 * len(rare))
    return crops.take(np.r_[np.arange(len(crops.label)), more], f"{crops.question}, classes made equal")


def _patches(patches: Patches) -> _Crops:
    alone = -1 - np.arange(len(patches.label))
    nodule = np.where(patches.nodule >= 0, patches.nodule, alone)
    steps = PATCH_STEPS.steps_of_unit(patches.unit(np.arange(len(patches))))
    return _Crops(f"{NODULE}, patches", _small(steps), patches.label, nodule, np.array(patches.patients))


def _small(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(N, side, side) → the middle as (N, SIDE²), averaged over blocks of whole pixels, 0…1."""
    block = images.shape[-1] * 2 // 3 // SIDE or 1
    start = (images.shape[-1] - SIDE * block) // 2
    middle = images[:, start : start + SIDE * block, start : start + SIDE * block]
    blocks = middle.reshape(len(images), SIDE, block, SIDE, block)
    return np.asarray(blocks.mean(axis=(2, 4), dtype=np.float32).reshape(len(images), -1) / 255)


def _moved(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Turned by up to 15°, enlarged by up to a tenth, mirrored half of the time."""
    turn = np.deg2rad(rng.uniform(-15, 15))
    matrix = rng.uniform(0.9, 1.1) * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    matrix[:, 1] *= rng.choice((-1, 1))
    middle = np.full(2, (image.shape[0] - 1) / 2)
    return np.asarray(ndimage.affine_transform(image, matrix, middle - matrix @ middle, order=1, mode="nearest"))


# ---------------------------------------------------------------- splits of one and the same


def _under_each_split(crops: _Crops, classifier: str, seed: int) -> list[Figure]:
    everyone = np.arange(len(crops.label))
    folds = {
        AT_RANDOM: _dealt(everyone, seed),
        BY_NODULE: _dealt(crops.nodule, seed),
        BY_PATIENT: _folds(crops.patient),
    }
    return [
        _figure(crops.question, classifier, split, _scores(crops, classifier, fold), crops.label, crops.patient)
        for split, fold in folds.items()
    ]


def _dealt(group: Index, seed: int) -> Index:
    """A random fold for each group."""
    names, place = np.unique(group, return_inverse=True)
    return np.asarray(np.random.default_rng(seed).permutation(np.arange(len(names)) % FOLDS)[place])


def _folds(patient: NDArray[np.str_]) -> Index:
    """The project's fold of each row's patient."""
    names, place = np.unique(patient, return_inverse=True)
    return np.array([fold_of(str(name)) for name in names])[place]


def _scores(crops: _Crops, classifier: str, fold: Index) -> Float:
    """Out-of-fold scores of a classifier for all rows."""
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    score = np.zeros(len(crops.label))
    for k in np.unique(fold):
        model = (
            make_pipeline(PCA(20, random_state=0), KNeighborsClassifier(5, weights="distance"))
            if classifier == NEIGHBOURS
            else make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500))
        )
        model.fit(crops.image[fold != k], crops.label[fold != k])
        score[fold == k] = model.predict_proba(crops.image[fold == k])[:, 1]
    return score


# ---------------------------------------------------------------- inputs that give the label away


def _beside_the_patches(data: Path) -> tuple[Figure, ...]:
    """How the centres are rounded: annotations were written with more digits than candidates."""
    places = patch_places(data)
    centre = places.centre_lps
    rough = np.concatenate([np.abs(centre - np.round(centre, digits)) < 1e-4 for digits in (2, 3)], axis=1)
    code = rough @ (1 << np.arange(rough.shape[1]))
    return (_by_code(f"{NODULE}, patches", "rounding of the coordinates", code, places.label, places.patients),)


def _beside_the_stacks(stacks: Stacks, nodules: _Nodules) -> tuple[Figure, ...]:
    numbers_of = nodules.number.tolist()
    length = np.array([stacks.slices(n) for n in numbers_of])
    length_mm = length * np.array([stacks.spacing_zyx(n)[0] for n in numbers_of])
    question = f"{MALIGNANT}, nodules"
    agreed, between = f"{question} of three readers or more", (nodules.diameter_mm >= 6) & (nodules.diameter_mm <= 12)
    numbers = (
        (question, "number of slices", length, np.ones_like(nodules.many)),
        (question, "number of slices × spacing", length_mm, np.ones_like(nodules.many)),
        (agreed, "number of slices × spacing", length_mm, nodules.many),
        (question, "diameter", nodules.diameter_mm, np.ones_like(nodules.many)),
        (agreed, "diameter", nodules.diameter_mm, nodules.many),
        (f"{agreed}, 6–12 mm", "diameter", nodules.diameter_mm, nodules.many & between),
    )
    figures = [_figure(q, s, "", v[on], nodules.label[on], nodules.patient[on]) for q, s, v, on in numbers]
    code = np.array([stacks.calibration(n)[z] for n, z in zip(numbers_of, nodules.largest.tolist(), strict=True)], int)
    coded = _by_code(question, "calibration code of the largest slice", code, nodules.label, nodules.patient)
    return (coded, *figures)


def _by_code(question: str, source: str, code: Index, label: Bool, patient: NDArray[np.str_]) -> Figure:
    """A code scored by the share of positives that it has among the patients of the other folds."""
    fold, score = _folds(patient), np.zeros(len(code))
    for k in range(FOLDS):
        train, test = fold != k, fold == k
        of_code = np.bincount(code[train], minlength=code.max() + 1)
        positive = np.bincount(code[train], label[train], minlength=code.max() + 1)
        # one row of the mean is added, so that a rare code has little weight
        score[test] = ((positive + label[train].mean()) / (of_code + 1))[code[test]]
    return _figure(question, source, BY_PATIENT, score, label, patient)


def _figure(
    question: str, source: str, split: str, score: NDArray[np.floating], label: Bool, patient: NDArray[np.str_]
) -> Figure:
    interval = percentiles(auc(label, score), ranking_draws(label, score, patient).auc)
    return Figure(question, source, split, interval, len(label), len(np.unique(patient)))
