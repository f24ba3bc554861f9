"""The classifiers of the methods: one slice of each nodule, benign or malignant, by what the readers rated.

Two classes: the readers' median below 3 against above it, 3 left out. Three: what most readers say, and indeterminate
where that is 3, where no rating leads, or where readers lie as far apart as 1 and 5. Training takes nodules of any
number of readers; the evaluation those of three readers or more, with all of them beside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import special
from torch import Tensor, nn

from nodulens.data.material import Stacks
from nodulens.data.ratings import Malignancy, three_classes
from nodulens.errors import BadOption
from nodulens.methods.recipe import Augmentation, NetworkConfig, Recipe
from nodulens.metrics.classification import Confusion, macro_auc, ranking_draws
from nodulens.metrics.statistics import patient_draws, percentiles
from nodulens.runtime.engine import Model
from nodulens.stages.classify_crop import Crop, classify, crop_view, log_odds
from nodulens.train.default import calibration
from nodulens.train.loop.augment import augmented, copies_of
from nodulens.train.loop.fit import Maker, Task, fit, predict
from nodulens.train.loop.losses import class_weights, loss_of
from nodulens.train.networks.pretrained import started
from nodulens.train.tasks.protocol import Outcome, Rows, with_interval

TWO, THREE = {"benign", "malignant"}, {"indeterminate", "benign", "malignant"}
TOO_FAR = 4
"""Difference between two ratings from which readers do not agree: a 1 against a 5."""


@dataclass(frozen=True, eq=False)
class Nodules:
    """Nodules with a class; (N,) all, but ``classes``.

    Attributes:
        classes: their names.
        truth: number of the class in them.
        patient: whose nodule.
        origin: number of the nodule in the stacks: rows that share it show the same nodule.
        central: its largest slice in its stack.
        outline: (N, 96, 96) what half of the readers hold there.
        pixel_mm: of that slice.
        diameter_mm: of the disc of the outline's area.
        readers: who marked it.
        share: of the readers who rated malignancy above 3.
        calibration: code of the slice; never an input.
    """

    classes: tuple[str, ...]
    truth: NDArray[np.int_]
    patient: NDArray[np.str_]
    origin: NDArray[np.int_]
    central: NDArray[np.int_]
    outline: NDArray[np.bool_]
    pixel_mm: NDArray[np.float32]
    diameter_mm: NDArray[np.float32]
    readers: NDArray[np.uint8]
    share: NDArray[np.float32]
    calibration: NDArray[np.uint8]

    @property
    def patients(self) -> Sequence[str]:
        """(N,)."""
        return self.patient.tolist()

    @property
    def strata(self) -> Sequence[str]:
        """(N,) names of the classes."""
        return [self.classes[k] for k in self.truth]

    def take(self, rows: Rows) -> Nodules:
        """Some of them, or some several times."""
        columns = {f.name: getattr(self, f.name)[rows] for f in fields(self) if f.name != "classes"}
        return replace(self, **columns)


@dataclass(frozen=True, eq=False)
class Crops:
    """Nodules as a classifier sees them.

    Attributes:
        image: (N, 1, size, size) float16, 0…1.
    """

    nodules: Nodules
    image: NDArray[np.float16]

    @property
    def patients(self) -> Sequence[str]:
        """(N,)."""
        return self.nodules.patients

    @property
    def strata(self) -> Sequence[str]:
        """(N,) names of the classes."""
        return self.nodules.strata


# ---------------------------------------------------------------- material


def load(data: Path, recipe: Recipe) -> Crops:
    """The central slice of every nodule that has a class.

    Raises:
        NotFound: the stacks do not lie in the folder.
        BadOption: the recipe has no classifier of its own, or classes that no reader's rating gives.
    """
    config = recipe.classifier
    if config is None:
        raise BadOption(f"The recipe {recipe.name!r} has no classifier of its own.")
    stacks = Stacks(data)
    return crops(stacks, nodules_of(stacks, config.classes), crop_of(recipe))


def crop_of(recipe: Recipe) -> Crop:
    """The crop of a nodule that the classifier of a recipe sees."""
    assert recipe.classifier is not None
    return Crop(recipe.classifier.size, recipe.classifier.pixel_mm, recipe.masked)


def nodules_of(stacks: Stacks, classes: tuple[str, ...]) -> Nodules:
    """The nodules whose consensus (half of the readers) is not empty, and that are of one of the classes.

    Raises:
        BadOption: other classes than benign and malignant, with or without indeterminate.
    """
    if set(classes) not in (TWO, THREE):
        raise BadOption(f"Nodules are {' or '.join(sorted(TWO))}, or one of {', '.join(sorted(THREE))}; got {classes}.")
    if len(classes) == 3:
        rated = three_classes(stacks.ratings.malignancy("majority", too_far=TOO_FAR))
    else:
        rated = stacks.ratings.malignancy("median")
    names = [Malignancy(k).name.lower() for k in rated]
    told = ((n, stacks.central(n)) for n in stacks.nodules.tolist() if names[n] in classes)
    found = {n: central for n, central in told if central is not None}
    origin = np.array(list(found))
    return Nodules(
        classes=classes,
        truth=np.array([classes.index(names[n]) for n in origin]),
        patient=np.array(stacks.patients)[origin],
        origin=origin,
        central=np.array([central.index for central in found.values()]),
        outline=np.stack([central.truth for central in found.values()]),
        pixel_mm=np.array([stacks.spacing_zyx(n)[1] for n in found], dtype=np.float32),
        diameter_mm=np.array([central.diameter_mm for central in found.values()], dtype=np.float32),
        readers=stacks.ratings.readers[origin],
        share=stacks.ratings.share_above("malignancy", 3)[origin],
        calibration=np.array([stacks.calibration(n)[central.index] for n, central in found.items()]),
    )


def crops(stacks: Stacks, nodules: Nodules, crop: Crop, outlines: NDArray[np.bool_] | None = None) -> Crops:
    """The nodules as a classifier sees them.

    Args:
        outlines: (N, 96, 96) in place of the readers', such as a method's own; where one is empty nothing was found,
            and the crop is blank.
    """
    drawn = nodules.outline if outlines is None else outlines
    image = np.zeros((len(nodules.truth), 1, crop.size, crop.size), dtype=np.float16)
    places = zip(nodules.origin.tolist(), nodules.central.tolist(), drawn, nodules.pixel_mm.tolist(), strict=True)
    for k, (number, central, mask, pixel) in enumerate(places):
        if mask.any():
            image[k] = crop_view(stacks.unit(number)[central], mask, (pixel, pixel), crop)
    return Crops(nodules, image)


def multiplied(material: Crops, kinds: Sequence[Augmentation], copies: int) -> Crops:
    """See :class:`nodulens.train.tasks.protocol.TaskModule`; rows that share their ``origin`` show the same nodule."""
    plain = torch.from_numpy(material.image.astype(np.float32))
    changed = copies_of(plain, None, kinds, copies, seed=0)[0].flatten(0, 1).numpy().astype(np.float16)
    rows = np.tile(np.arange(len(material.image)), copies + 1)
    return Crops(material.nodules.take(rows), np.concatenate([material.image, changed]))


# ---------------------------------------------------------------- training


def settled(config: NetworkConfig, material: Crops, rows: Rows) -> NetworkConfig:
    """The config as it is: the rows decide nothing."""
    return config


def train(config: NetworkConfig, material: Crops, rows: Rows, validation: Rows, checkpoint: Path) -> nn.Module:
    """A network trained on ``rows``, validated by its loss on ``validation``, where there are any."""
    truth = torch.from_numpy(material.nodules.truth)
    weights = class_weights(truth[rows], len(config.classes)) if config.balance == "weights" else None
    loss = loss_of(config, weights)
    image = torch.from_numpy(material.image)

    def batches(rng: np.random.Generator) -> list[Maker]:
        order = _epoch_rows(config, material.nodules.truth, rows, rng)
        parts = [order[i : i + config.batch] for i in range(0, len(order), config.batch)]
        # batch norm has nothing to go by in one example
        return [partial(make, r) for r in parts if len(r) > 1 or len(parts) == 1]

    def make(some: Rows) -> tuple[Tensor, Tensor]:
        return image[some].float(), truth[some]

    def compute(net: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        return loss(net(batch[0]), batch[1])

    def augment(batch: tuple[Tensor, ...], rng: np.random.Generator) -> tuple[Tensor, ...]:
        return augmented(batch[0], None, config.augment, rng)[0], batch[1]

    def validate(net: nn.Module) -> float:
        logits = predict(net, (image[r].float() for r in np.array_split(validation, -(-len(validation) // 64))))
        return -float(loss(logits, truth[validation]))

    task = Task(batches, compute, augment, validate if len(validation) else None)
    return fit(started(config, "classifier"), task, config, checkpoint)


def _epoch_rows(config: NetworkConfig, truth: NDArray[np.int_], rows: Rows, rng: np.random.Generator) -> Rows:
    """The rows of an epoch in random order; balanced by sampling, as many of each class as of any other."""
    if config.balance != "sampling":
        return rng.permutation(rows)
    groups = [rows[truth[rows] == k] for k in np.unique(truth[rows])]
    each = max(len(rows) // len(groups), 1)
    return rng.permutation(np.concatenate([np.resize(rng.permutation(g), each) for g in groups]))


# ---------------------------------------------------------------- evaluation


def evaluate(model: Model, config: NetworkConfig, material: Crops, rows: Rows) -> Outcome:
    """Evaluate the exported network on ``rows``; :func:`figures` of the rows of several folds gives the whole."""
    logits = classify(material.image[rows].astype(np.float32), model)
    return outcome(material.nodules, rows, logits)


def outcome(nodules: Nodules, rows: Rows, logits: NDArray[np.floating]) -> Outcome:
    """Figures of any classifier.

    Args:
        logits: (rows, classes).
    """
    chosen = nodules.take(rows)
    table: dict[str, list[Any]] = {
        "row": rows.tolist(),
        "patient": list(chosen.patients),
        "truth": list(chosen.strata),
        "score": log_odds(logits, nodules.classes).tolist(),
        "diameter_mm": chosen.diameter_mm.tolist(),
        "readers": chosen.readers.tolist(),
        "share": chosen.share.tolist(),
        "calibration": chosen.calibration.tolist(),
        **{f"logit_{name}": logits[:, k].astype(float).tolist() for k, name in enumerate(nodules.classes)},
    }
    return Outcome(figures(table), table)


def figures(rows: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """Figures of evaluated rows, of one fold or several.

    Decisions are the class of the largest output; sensitivity, specificity and precision are of "malignant". AUC is of
    malignant against benign, beside diameter alone, with DeLong's interval and one from drawing patients. "intervals"
    are of all else, by patient; of three classes the means of F1 and AUC over classes as well.
    """
    judged = scored_nodules(rows)
    groups = {
        "three_readers_or_more": judged.panel,
        "six_to_twelve_mm": judged.panel & judged.between,
        "all_readers": np.ones(len(judged.truth), dtype=bool),
    }
    decided = judged.decided
    p = special.expit(np.asarray(judged.score, dtype=np.float64))
    return {
        **{name: {**_decisions(rows, on), **calibration.beside_diameter(judged, on)} for name, on in groups.items()},
        "by_slice_calibration_code": calibration.by_calibration_code(judged),
        "own_probability": calibration.calibration_figures(judged.truth[decided], p[decided]) if decided.any() else {},
    }


def scored_nodules(rows: Mapping[str, Sequence[Any]]) -> calibration.ScoredNodules:
    """Evaluated rows as :mod:`nodulens.train.default.calibration` takes them; all folds give a card's settings."""
    numbers = {"benign": 0, "malignant": 1}
    return calibration.ScoredNodules(
        patients=list(rows["patient"]),
        score=np.array(rows["score"], dtype=np.float64),
        truth=np.array([numbers.get(name, -1) for name in rows["truth"]], dtype=int),
        readers=np.array(rows["readers"], dtype=int),
        share=np.array(rows["share"], dtype=np.float64),
        diameter_mm=np.array(rows["diameter_mm"], dtype=np.float64),
        calibration=np.array(rows["calibration"], dtype=int),
    )


def _decisions(rows: Mapping[str, Sequence[Any]], on: NDArray[np.bool_]) -> dict[str, Any]:
    """Figures of the decision by the largest output, with intervals by patient; empty without a nodule."""
    if not on.any():
        return {}
    classes = tuple(name.removeprefix("logit_") for name in rows if name.startswith("logit_"))
    logits = np.array([rows[f"logit_{name}"] for name in classes], dtype=np.float64).T[on]
    truth = np.array([classes.index(name) for name in rows["truth"]])[on]
    patients = np.asarray(rows["patient"])[on].tolist()
    owner, draws = patient_draws(patients)
    own = np.zeros((draws.shape[1], len(classes), len(classes)))
    np.add.at(own, (owner, truth, logits.argmax(1)), 1)
    total = own.sum(0)
    drawn = [_rates(Confusion(classes, counts)) for counts in np.tensordot(draws.astype(np.float64), own, 1)]
    out = {k: percentiles(v, [rates[k] for rates in drawn]) for k, v in _rates(Confusion(classes, total)).items()}
    present = np.unique(truth).tolist()
    if len(classes) > 2 and len(present) > 1:
        likely = np.exp(logits - logits.max(1, keepdims=True))
        likely /= likely.sum(1, keepdims=True)
        ranked = [ranking_draws(truth == k, likely[:, k], owner).auc for k in present]
        out["macro_auc"] = percentiles(macro_auc(truth, likely), np.mean(ranked, axis=0))
    told = {name: with_interval(one, patients) for name, one in out.items()}
    return {
        **{name: one["value"] for name, one in told.items()},
        "intervals": told,
        "classes": list(classes),
        "confusion": total.astype(int).tolist(),
        "judged": int(on.sum()),
    }


def _rates(found: Confusion) -> dict[str, float]:
    malignant = found.of("malignant")
    out = {"accuracy": found.accuracy, "balanced_accuracy": found.balanced_accuracy}
    out |= {name: getattr(malignant, name) for name in ("sensitivity", "specificity", "precision", "f1")}
    return {**out, "macro_f1": found.macro.f1} if len(found.classes) > 2 else out
