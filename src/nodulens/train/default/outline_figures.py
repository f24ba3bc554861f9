"""Evaluation of the prompted segmenter, out of fold: Dice by prompt, and how far apart readers' outlines lie."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from nodulens.core.geometry import Geometry, ball_diameter_mm
from nodulens.core.nodule import Box, Candidate
from nodulens.core.volume import Volume
from nodulens.data.folds import FOLDS, fold_of
from nodulens.data.material import Cubes
from nodulens.errors import BadPrompt
from nodulens.methods.recipe import DEFAULT
from nodulens.metrics.segmentation import Overlap
from nodulens.metrics.statistics import bootstrap_means
from nodulens.ops.intensity import from_unit
from nodulens.runtime.engine import Model
from nodulens.stages.candidates import propose
from nodulens.stages.prompted import outlined
from nodulens.stages.prompts import Click, Prompt
from nodulens.stages.segment import (
    DRAWN_ROUNDS,
    prompt_of_candidate,
    prompt_of_point,
    rough_cube,
    segment,
    settled_logits,
)
from nodulens.train.default.detector_figures import strata
from nodulens.train.default.segmenter import Example, drawn_prompt, near

Bool = NDArray[np.bool_]
Marks = Callable[[int], Candidate | None]
"""The number of a cube → the detector's mark on its nodule; None where it has none."""

PROMPTS = ("box", "box_shaken", "point", "point_inside", "candidate", "mark", "mark_corrected")
BESIDE = ("ellipsoid", "ellipsoid_shaken", "ball_candidate")
RENDERED = ("box", "point", "point_inside")
"""Prompts of rendered nodules."""
LEAKED = 3.0
"""Times the ground truth's volume beyond which an outline has run into what is beside the nodule."""
PARTIAL = 0.5
"""Times the ground truth's volume below which an outline holds a part of the nodule only."""
LEVEL = 0.8
"""Share of the readers' outlines that the band between its two edges holds."""


@dataclass(frozen=True, eq=False)
class Outlined:
    """A nodule with what came of each prompt.

    Attributes:
        example: the nodule.
        overlap: kind of prompt → overlap with the consensus, of counted voxels. A kind that this nodule cannot have,
            as no mark of the detector is on it, is not there.
        borders: logits on the readers' outlines, the network seeing the outline that the mark led to; empty without.
    """

    example: Example
    overlap: Mapping[str, Overlap]
    borders: NDArray[np.float32]


def evaluate(model: Model, example: Example, rng: np.random.Generator, mark: Candidate | None = None) -> Outlined:
    """Segment a held-out nodule from every kind of prompt; what is not found is an empty mask.

    "box" is the true one, "box_shaken" has a normal error of a tenth of the side on every face; "ellipsoid" is
    inscribed in the same boxes. "point" is 1 mm off the centre, "point_inside" anywhere in the nodule. "candidate" is
    the strongest of the candidate stage on the nodule, "ball_candidate" that candidate as a ball; "mark" is the
    detector's, "mark_corrected" the same and then one click in the middle of the largest part that is wrong.

    The candidate stage runs on the stack extended by end slices without the nodule, so that the nodule ends as in the
    patient. Segmentation runs on repeated end slices, so that nothing shows the network where to stop; mask and ground
    truth do not count there.
    """
    first, last = example.real
    image = without_ends(example)
    box = Box.of_mask(example.truth)
    counts = np.zeros(image.shape, dtype=bool)
    counts[first:last] = example.weight[first:last] > 0
    true, shaken = drawn_prompt(box, rng, 0.0), drawn_prompt(box, rng, 0.1)
    grid = Geometry.axial(_shape(image), example.spacing_zyx)
    patient, repeated = (Volume(from_unit(unit), grid) for unit in (example.image, image))
    centre = grid.to_lps(ndimage.center_of_mass(example.truth)) + rng.normal(0, 1, 3)
    inside = grid.to_lps(rng.choice(np.argwhere(example.truth)))
    rounds = DEFAULT.rounds_detected
    prompts: dict[str, tuple[Prompt, int]] = {"box": (true, DRAWN_ROUNDS), "box_shaken": (shaken, DRAWN_ROUNDS)}
    for kind, (x, y, z) in (("point", centre.tolist()), ("point_inside", inside.tolist())):
        prompts[kind] = prompt_of_point(patient, (x, y, z)), rounds
    masks = {"ellipsoid": ellipsoid(true, image.shape), "ellipsoid_shaken": ellipsoid(shaken, image.shape)}
    candidate = strongest_candidate(patient, example.truth)
    masks |= {"candidate": np.zeros_like(counts), "ball_candidate": np.zeros_like(counts)}
    if candidate is not None:
        prompts["candidate"] = prompt_of_candidate(patient, candidate), rounds
        blob = rough_cube(patient, candidate.centre_lps, candidate.diameter_mm)
        masks["ball_candidate"] = ellipsoid(blob, image.shape)
    if mark is not None:
        prompts["mark"] = prompt_of_candidate(patient, mark), rounds
    outline = partial(segment, model=model)
    masks |= {k: outlined(partial(outline, rounds=most), repeated, prompt) for k, (prompt, most) in prompts.items()}
    borders = np.empty(0, np.float32)
    if mark is not None:
        clicks = _click(example.truth, masks["mark"], counts)
        again = partial(outline, rounds=rounds, clicks=clicks)
        masks["mark_corrected"] = outlined(again, repeated, prompts["mark"][0]) if clicks else masks["mark"]
        if masks["mark"].any():
            borders = _borders(example, *settled_logits(repeated, Box.of_mask(masks["mark"]), model))
    truth = example.truth & counts
    overlap = {
        kind: Overlap.of_counts(int(truth.sum()), int((mask & counts).sum()), int((mask & truth).sum()))
        for kind, mask in masks.items()
    }
    return Outlined(example, overlap, borders)


def _click(truth: Bool, mask: Bool, counts: Bool) -> tuple[Click, ...]:
    """A click in the middle of the largest part that is wrong, where that counts; none where nothing is wrong."""
    parts, number = ndimage.label((truth ^ mask) & counts)
    if not number:
        return ()
    largest = parts == 1 + int(np.bincount(parts.ravel())[1:].argmax())
    deepest = np.unravel_index(int(ndimage.distance_transform_edt(largest).argmax()), truth.shape)
    z, y, x = (float(v) for v in deepest)
    return (Click((z, y, x), bool(truth[deepest])),)


def _borders(example: Example, box: Box, logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logits on the readers' outlines: between each pair of neighbouring voxels of which one is inside."""
    found = []
    for reader in example.readers:
        mask = reader[box.slices]
        for axis in range(3):
            m, v = np.moveaxis(mask, axis, 0), np.moveaxis(logits, axis, 0)
            crossed = m[1:] != m[:-1]
            found.append(((v[1:] + v[:-1]) / 2)[crossed])
    return np.concatenate(found)


def without_ends(example: Example) -> NDArray[np.float32]:
    """The image with the scanned end slices repeated beyond, so that nothing shows where the nodule ends."""
    first, last = example.real
    image = example.image.copy()
    image[:first], image[last:] = image[first], image[last - 1]
    return image


def strongest_candidate(volume: Volume, truth: Bool) -> Candidate | None:
    """The strongest candidate of the candidate stage on a nodule; None if there is none."""
    size = ball_diameter_mm(truth.sum(), volume.geometry.voxel_mm3)
    return first_on(propose(volume, near(truth)), volume.geometry.to_lps(ndimage.center_of_mass(truth)), size)


def first_on(candidates: Iterable[Candidate], middle_lps: NDArray[np.float64], diameter_mm: float) -> Candidate | None:
    """The first candidate on a nodule: within half its diameter of the centre, 2.5 mm at least.

    Args:
        candidates: the best first.
        middle_lps: centre of the nodule, LPS mm (x, y, z).
        diameter_mm: of the ball of its volume.
    """
    reach = max(diameter_mm / 2, 2.5)
    return next((c for c in candidates if float(np.linalg.norm(middle_lps - c.centre_lps)) <= reach), None)


def _shape(image: NDArray[np.float32]) -> tuple[int, int, int]:
    z, y, x = image.shape
    return z, y, x


def ellipsoid(prompt: Prompt, shape: tuple[int, ...]) -> Bool:
    """The mask of the ellipsoid inscribed in a prompt's box."""
    start, stop = np.asarray(prompt.start), np.asarray(prompt.stop)
    axes = [
        ((np.arange(n) + 0.5 - m) / max(r, 1e-6)) ** 2
        for n, m, r in zip(shape, (start + stop) / 2, (stop - start) / 2, strict=True)
    ]
    return np.asarray(axes[0][:, None, None] + axes[1][:, None] + axes[2] <= 1)


def inscribed(volume: Volume, prompt: Prompt) -> tuple[Box, Bool]:
    """The ellipsoid inscribed in a prompt's box, in the form of a prompted network's output: the baseline for one.

    Raises:
        BadPrompt: it contains no voxel of the volume.
    """
    start, stop, shape = np.asarray(prompt.start), np.asarray(prompt.stop), np.asarray(volume.geometry.shape)
    low = np.clip(np.floor(start), 0, shape - 1)
    box = Box.between(low, np.clip(np.ceil(stop), low + 1, shape))
    mask = ellipsoid(Prompt.between(start - low, stop - low, prompt.trust), box.shape)
    if not mask.any():
        raise BadPrompt(f"The ellipsoid in {prompt.start} to {prompt.stop} (z, y, x) contains no voxel of the scan.")
    return box, mask


# ---------------------------------------------------------------- the card


def readers_dice(example: Example) -> float:
    """Dice of one reader against the consensus of the others, the mean over readers; NaN of a single one."""
    votes = example.votes.astype(np.int16)
    others = len(example.readers) - 1
    if not others:
        return float("nan")
    found = []
    for reader in example.readers:
        rest = 2 * (votes - reader) >= others
        found.append(2 * (rest & reader).sum() / max(rest.sum() + reader.sum(), 1))
    return float(np.mean(found))


def settings(found: Sequence[Outlined]) -> dict[str, Any]:
    """Settings of the card: logits at the edges of the band that holds :data:`LEVEL` of the readers' outlines."""
    inner, outer = _edges(found)
    return {"band": {"level": LEVEL, "inner": round(inner, 3), "outer": round(outer, 3)}}


def _edges(found: Sequence[Outlined]) -> tuple[float, float]:
    """Logits at the inner and the outer edge: quantiles over the outlines, every nodule counting once."""
    known = [o.borders for o in found if len(o.borders)]
    logits = np.concatenate(known)
    weight = np.concatenate([np.full(len(b), 1 / len(b)) for b in known])
    order = np.argsort(logits)
    share = np.cumsum(weight[order]) / weight.sum()
    tail = (1 - LEVEL) / 2
    return (float(logits[order][np.searchsorted(share, at)]) for at in (1 - tail, tail))  # type: ignore[return-value]


def _held(found: Sequence[Outlined]) -> float:
    """Share of the readers' outlines in the band, each fold by the edges of the other four; a mean over nodules."""
    held = []
    fold = np.array([fold_of(o.example.patient) for o in found])
    for left in range(FOLDS):
        own = [o for o, f in zip(found, fold, strict=True) if f == left and len(o.borders)]
        inner, outer = _edges([o for o, f in zip(found, fold, strict=True) if f != left])
        held += [float(((o.borders > outer) & (o.borders < inner)).mean()) for o in own]
    return float(np.mean(held))


def figures(found: Sequence[Outlined], cubes: Cubes, marked_by: str) -> dict[str, Any]:
    """Figures for the card.

    Args:
        found: stacks, cubes and rendered nodules, each by a network that was not trained on its patient.
        cubes: the material of the cubes.
        marked_by: whose the marks are.
    """
    whole, flat = [o for o in found if o.example.is_cube], [o for o in found if o.example.is_stack]
    rendered = [o.overlap for o in found if o.example.rendered]
    by_kind = {kind: [o.overlap[kind] for o in whole if kind in o.overlap] for kind in (*PROMPTS, *BESIDE)}
    patients = {kind: [o.example.patient for o in whole if kind in o.overlap] for kind in by_kind}
    among = bootstrap_means([[readers_dice(o.example)] for o in whole], [o.example.patient for o in whole])[0]
    return {
        "stacks": {kind: _dice([o.overlap[kind] for o in flat]) for kind in by_kind if not kind.startswith("mark")},
        "cubes": {
            kind: {**reached(cases), "interval_95": _interval(cases, patients[kind])}
            for kind, cases in by_kind.items()
            if cases
        },
        "one_reader_against_the_others": [round(v, 4) for v in (among.value, among.low, among.high)],
        "groups": _by_group(whole, cubes),
        "rendered": {kind: reached([overlap[kind] for overlap in rendered]) for kind in RENDERED if rendered},
        "band": {"level": LEVEL, "held_out_of_fold": round(_held(whole), 4)},
        "marks": marked_by,
        "stands_on": f"{len(flat)} stacks (judged within their slices) and {len(whole)} cubes, five folds by patient",
    }


def _by_group(whole: Sequence[Outlined], cubes: Cubes) -> dict[str, list[float | None]]:
    """Group of nodules → how many, and the mean Dice from the box, a point and the detector's mark; None of no mark."""
    numbers = np.array([o.example.number for o in whole])
    size = np.array([cubes.size_mm(n) for n in numbers.tolist()])
    out: dict[str, list[float | None]] = {}
    for name, own in strata(cubes, numbers, size).items():
        chosen = [o for o, ok in zip(whole, own, strict=True) if ok]
        if chosen:
            kinds = ("box", "point", "mark")
            out[name] = [len(chosen), *(_dice([o.overlap[k] for o in chosen if k in o.overlap]) for k in kinds)]
    return out


def reached(cases: Sequence[Overlap]) -> dict[str, Any]:
    """The mean Dice, the median ratio of the volume to the ground truth's, and the shares of outlines beyond
    :data:`LEAKED` and below :data:`PARTIAL`."""
    ratio = np.array([case.predicted_voxels / case.truth_voxels for case in cases])
    return {
        "nodules": len(cases),
        "dice": _dice(cases),
        "volume_ratio": round(float(np.median(ratio)), 3),
        "leaked": round(float((ratio > LEAKED).mean()), 4),
        "partial": round(float((ratio < PARTIAL).mean()), 4),
    }


def _dice(cases: Sequence[Overlap]) -> float | None:
    return round(float(np.mean([case.dice for case in cases])), 4) if cases else None


def _interval(cases: Sequence[Overlap], patients: Sequence[str]) -> list[float]:
    interval = bootstrap_means([[case.dice] for case in cases], patients)[0]
    return [round(interval.low, 4), round(interval.high, 4)]
