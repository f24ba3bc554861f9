"""Evaluation of prompted networks on the nodules of whole scans, by field of view, prompt, and propagation between
slices.

Every nodule that readers outlined is prompted in every way. The input of a network of slices is the whole slice, the
lung, the lobe (estimated, see :mod:`nodulens.stages.position`) or a close crop; our own has a window of its own, which
follows the prompt, so that for it there is one view. The prompts are

- "box": of the readers' outline in three dimensions, an upper bound;
- "box_shaken": the same with a normal error of a tenth of the side on every face;
- "diameter": of an annotation's centre and diameter; of the outline's centre and the diameter of its largest slice
  where there is no annotation;
- "detector": the highest-scored detection of our detector on the nodule, an approximate cube;
- "point": the centre, on its slice alone: how a network goes on from there is its own affair;
- "mask": an earlier mask, that of our own network at the detection.

The baselines are the ellipsoid inscribed in each box, and the earlier mask itself. A network that finds nothing, or has
no detection, counts 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from nodulens.core.geometry import ball_diameter_mm, disc_diameter_mm
from nodulens.core.nodule import Box, Candidate
from nodulens.core.text import key_of
from nodulens.core.volume import Mask
from nodulens.errors import NotFound
from nodulens.evaluate.central_slices import (
    Bool,
    own,
    prompts_at,
)
from nodulens.evaluate.scans import EvaluationScan, KnownNodule
from nodulens.io.records import columns_of
from nodulens.metrics.estimates import rounded
from nodulens.metrics.segmentation import compare
from nodulens.metrics.statistics import bootstrap_means
from nodulens.presentation.panels import Case
from nodulens.runtime.engine import Model, Models
from nodulens.stages.detect import detect
from nodulens.stages.position import central_slice
from nodulens.stages.prompted import (
    PromptedNetwork,
    ViewName,
    outlined,
    prompt_of_annotation,
    prompt_of_outline,
    view_of,
)
from nodulens.stages.prompts import DRAWN, Prompt, PromptKind
from nodulens.stages.sam import Sam
from nodulens.stages.segment import prompt_of_candidate
from nodulens.train.default.calibration import PANEL
from nodulens.train.default.outline_figures import first_on, inscribed

VIEWS: tuple[ViewName, ...] = ("slice", "lung", "lobe", "crop")
PROMPTS = ("box", "box_shaken", "diameter", "detector", "point", "mask")
KINDS: Mapping[str, PromptKind] = {"point": "point", "mask": "mask"}
"""All others are boxes."""
ALONE, CARRIED, WHOLE = "slice by slice", "memory", "3-D"
SCORES = ("dice", "iou", "sensitivity")
SHOWN = "box"
"""The prompt whose outlines are shown."""
ENOUGH = 10
"""Patients from which on means have an interval."""
SHOWN_MM = 25.0
"""Kept of a slice around truth and outline, on every side."""


@dataclass(frozen=True)
class Way:
    """A network with its input and how it goes from slice to slice.

    Attributes:
        view: one of :data:`VIEWS`, or "own window".
        carrying: :data:`ALONE`, :data:`CARRIED` or :data:`WHOLE`.
        network: the network.
    """

    view: str
    carrying: str
    network: PromptedNetwork


Ways = Callable[[Mask], Sequence[Way]]
"""A function from the lungs of a scan, on its grid, to the ways of prompting a network there."""


@dataclass(frozen=True)
class Setting:
    """A way of prompting.

    Attributes:
        view, carrying: as of :class:`Way`; None for the baselines.
        prompt: its name.
    """

    view: str | None
    carrying: str | None
    prompt: str


@dataclass(frozen=True)
class Scores:
    """Overlap with the readers' outline, each 0…1: in three dimensions, and on the largest slice."""

    dice: float
    iou: float
    sensitivity: float
    slice_dice: float
    slice_iou: float
    slice_sensitivity: float


@dataclass(frozen=True)
class _Nodule:
    row: int
    scan: str
    patient: str
    readers: int
    diameter_mm: float


@dataclass(frozen=True)
class PromptedOutline(Scores, Setting, _Nodule):
    """The outline of one nodule in one setting, against the readers'.

    Attributes:
        row: number of the nodule.
        scan: its name.
        patient: hash of the patient's id, the same for all scans of one; "" where nothing tells it.
        readers: number of readers who outlined it.
        diameter_mm: of the ball of the outline's volume.
    """


@dataclass(frozen=True)
class WayFigures(Scores, Setting):
    """Means over nodules in one setting.

    Attributes:
        missed: number of nodules without any overlap.
        panel_dice: of the nodules of three readers or more; None without one.
        dice_low, dice_high: 95 % interval of the Dice, by drawing patients; None of fewer than :data:`ENOUGH`.
    """

    missed: int
    panel_dice: float | None
    dice_low: float | None
    dice_high: float | None


@dataclass(frozen=True)
class PromptedScanFigures:
    """Means over nodules, way by way and prompt by prompt.

    Attributes:
        patients: a scan whose patient nothing tells counts as one of its own.
    """

    nodules: int
    scans: int
    patients: int
    panel_nodules: int
    ways: tuple[WayFigures, ...]


@dataclass(frozen=True)
class PromptedScans:
    """The outlines of all nodules by all ways and prompts.

    Attributes:
        rows: one a nodule, way and prompt.
        shown: view and carrying → the largest slice of each nodule, prompted by the box of the outline; for pictures.
    """

    rows: tuple[PromptedOutline, ...]
    shown: Mapping[tuple[str | None, str | None], tuple[Case, ...]] = field(
        default_factory=dict, compare=False, repr=False
    )

    @cached_property
    def figures(self) -> PromptedScanFigures:
        """Means, in the order in which ways and prompts come."""
        of: dict[tuple[str | None, str | None, str], list[PromptedOutline]] = {}
        for one in self.rows:
            of.setdefault((one.view, one.carrying, one.prompt), []).append(one)
        ways = tuple(_way_figures(some) for some in of.values())
        return PromptedScanFigures(
            nodules=len({one.row for one in self.rows}),
            scans=len({one.scan for one in self.rows}),
            patients=len(set(_patients(self.rows))),
            panel_nodules=len({one.row for one in self.rows if one.readers >= PANEL}),
            ways=ways,
        )

    def to_json(self) -> dict[str, Any]:
        """Figures, and rows column by column."""
        figures = asdict(self.figures)
        rows = columns_of(PromptedOutline, self.rows) if self.rows else {}
        return {"figures": {**figures, "ways": list(figures["ways"])}, "rows": rows}


def _way_figures(some: Sequence[PromptedOutline]) -> WayFigures:
    """Means over outlines in one setting."""
    panel = [one.dice for one in some if one.readers >= PANEL]
    patients = _patients(some)
    low = high = None
    if len(set(patients)) >= ENOUGH:
        [mean] = bootstrap_means([[one.dice] for one in some], patients)
        low, high = rounded(mean.low), rounded(mean.high)
    return WayFigures(
        view=some[0].view,
        carrying=some[0].carrying,
        prompt=some[0].prompt,
        missed=sum(one.dice == 0 for one in some),
        panel_dice=_mean(panel) if panel else None,
        dice_low=low,
        dice_high=high,
        **{score.name: _mean([getattr(one, score.name) for one in some]) for score in fields(Scores)},
    )


def _patients(some: Sequence[PromptedOutline]) -> list[str]:
    return [one.patient or one.scan for one in some]


def own_ways(model: Model) -> Ways:
    """Our own network."""
    return lambda lungs: [Way("own window", WHOLE, own(model))]


def sam_ways(sam: Sam) -> Ways:
    """SAM in every view; SAM2 in each view slice by slice, and with its memory."""
    carried = (False, True) if sam.net.remembers else (False,)

    def ways(lungs: Mask) -> list[Way]:
        out = []
        for view in VIEWS:
            with_view = replace(sam, view=partial(view_of, part=view, lungs=lungs))
            out += [Way(view, CARRIED if m else ALONE, replace(with_view, memory=m).network) for m in carried]
        return out

    return ways


def outlined_scans(data: Path) -> tuple[str, ...]:
    """The scans of a data folder that come with their readers' XML.

    Raises:
        NotFound: there is none.
    """
    names = sorted(path.stem for path in (data / "lidc" / "xml").glob("*.xml"))
    found = tuple(name for name in names if (data / "ct" / name).is_dir())
    if not found:
        raise NotFound(f"{data} holds no scan in ct/ with outlines of the same name in lidc/xml/ (ct/NAME, NAME.xml).")
    return found


def evaluate_scans(ways: Ways, scans: Iterable[EvaluationScan], models: Models, seed: int = 0) -> PromptedScans:
    """Outlines of the nodules of some scans, prompted in every way.

    Args:
        ways: the network; prompts of one nodule and view share the embeddings of the slices that they have in common.
        scans: one at a time; of their nodules those with a known outline count.
        models: of the detector and of the earlier mask.
        seed: of the shaken boxes, with the nodule's number: the same for every network.
    """
    rows: list[PromptedOutline] = []
    shown: dict[tuple[str | None, str | None], list[Case]] = {}
    number = 0
    for scan in scans:
        candidates = detect(scan.volume, scan.lungs, models.screen, models.volume)
        for known in scan.nodules:
            if known.mask is None:
                continue
            case = _case(scan, known, candidates, models.segmenter, np.random.default_rng([seed, number]))
            head = (number, scan.name, key_of(scan.patient), known.readers, round(case.size_mm, 1))
            for way, mask in _outlines(scan, case, ways(scan.lungs)):
                rows.append(PromptedOutline(*head, *way, *_scores(scan, case, mask)))
                if way[2] == SHOWN and way[0] is not None:
                    shown.setdefault(way[:2], []).append(_shown(scan, case, mask, rows[-1]))
            number += 1
    return PromptedScans(tuple(rows), {way: tuple(cases) for way, cases in shown.items()})


# ---------------------------------------------------------------- one nodule


@dataclass(frozen=True, eq=False)
class _Case:
    """A nodule and its prompts.

    Attributes:
        truth: on the scan's grid.
        z: its largest slice.
        prompts: by their names; unavailable ones are missing.
        earlier: mask on the scan's grid; empty without one.
        size_mm: diameter of the ball of its volume.
    """

    truth: Bool
    z: int
    prompts: dict[str, Prompt]
    earlier: Bool
    size_mm: float


def _case(
    scan: EvaluationScan, known: KnownNodule, candidates: list[Candidate], model: Model, rng: np.random.Generator
) -> _Case:
    assert known.mask is not None
    volume = scan.volume
    truth = np.zeros(volume.geometry.shape, dtype=bool)
    truth[known.box.slices] = known.mask
    largest = central_slice(known.mask)
    middle = np.argwhere(known.mask).mean(axis=0) + known.box.start
    diameter = disc_diameter_mm(known.mask[largest].sum(), volume.geometry.spacing_zyx[1])
    prompts = prompts_at(volume, known.box, tuple(middle.tolist()), diameter, rng)
    if known.annotated is not None:
        prompts["diameter"] = prompt_of_annotation(volume, *known.annotated)
    size = ball_diameter_mm(known.mask.sum(), volume.geometry.voxel_mm3)
    detection = first_on(candidates, volume.geometry.to_lps(middle), size)
    earlier = np.zeros_like(truth)
    if detection is not None:
        prompts["detector"] = prompt_of_candidate(volume, detection)
        earlier = outlined(own(model)("box", None), volume, prompts["detector"])
    if earlier.any():
        prompts["mask"] = prompt_of_outline(Box.of_mask(earlier))
    return _Case(truth, known.box.start[0] + largest, prompts, earlier, size)


def _outlines(
    scan: EvaluationScan, case: _Case, ways: Sequence[Way]
) -> Iterator[tuple[tuple[str | None, str | None, str], Bool]]:
    """View, carrying, prompt and mask: the ways one after another, all prompts of each; then the baselines."""
    nothing = np.zeros_like(case.truth)
    for way in ways:
        for kind in PROMPTS:
            found = nothing
            if kind in case.prompts:
                outline = way.network(KINDS.get(kind, "box"), case.earlier if kind == "mask" else None)
                found = outlined(outline, scan.volume, case.prompts[kind])
            yield (way.view, way.carrying, kind), found
    for kind, prompt in case.prompts.items():
        if prompt.trust == DRAWN and kind != "mask":
            name = kind.replace("box", "ellipsoid").replace("diameter", "ellipsoid_diameter")
            yield (None, None, name), outlined(inscribed, scan.volume, prompt)
    yield (None, None, "earlier_mask"), case.earlier


def _scores(scan: EvaluationScan, case: _Case, mask: Bool) -> list[float]:
    """The fields of :class:`Scores`."""
    spacing = scan.volume.geometry.spacing_zyx
    solid, flat = compare(case.truth, mask, spacing), compare(case.truth[case.z], mask[case.z], spacing[1:])
    return [round(float(getattr(overlap, name)), 4) for overlap in (solid, flat) for name in SCORES]


def _shown(scan: EvaluationScan, case: _Case, mask: Bool, row: PromptedOutline) -> Case:
    """The largest slice of a nodule, as far around truth and outline as a picture shows."""
    spacing = scan.volume.geometry.spacing_zyx[1:]
    both = case.truth[case.z] | mask[case.z]
    reach = (0, *(round(SHOWN_MM / mm) for mm in spacing))
    _, rows, columns = Box.of_mask(both[None]).grown(reach).clipped((1, *both.shape)).slices
    view = rows, columns
    hu = np.array(scan.volume.hu[case.z][view])
    name = f"{row.scan}, nodule {row.row + 1}"
    return Case(name, hu, case.truth[case.z][view], mask[case.z][view], row.slice_dice, (spacing[0], spacing[1]))


def _mean(values: Sequence[float]) -> float:
    return round(float(np.mean(values)), 4)
