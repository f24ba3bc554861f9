"""How well prompted networks outline the nodules of whole scans: by what they are shown, what they are told, and how
they go from slice to slice.

Every nodule that readers outlined is asked for in every way. A network that outlines slices is shown the whole slice,
the lung, the lobe (estimated, see :mod:`nodulens.stages.position`) or a close crop; our own looks through a window of
its own, which follows the prompt, so that for it there is one view. The prompts are

- "box": of the readers' outline in three dimensions; nobody has it in use;
- "box_shaken": the same, every face off by a normal error of a tenth of the side;
- "diameter": what the outline's middle and the diameter of its largest slice give, as an annotation would;
- "detector": the surest mark of our detector on the nodule, a rough cube;
- "point": the middle, and for slices and place the blob that is found there;
- "mask": an earlier mask, that which our own network draws at the detector's mark.

Beside them stand the ellipsoid that each box inscribes, and the earlier mask itself. A network that finds nothing, or
has no mark to go by, counts 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from nodulens.core.geometry import ball_diameter_mm, disc_diameter_mm
from nodulens.core.nodule import Box, Candidate
from nodulens.core.volume import Mask
from nodulens.errors import NotFound
from nodulens.evaluate.central_slices import (
    Bool,
    PromptedNetwork,
    outlined,
    own,
    prompts_at,
    sam_prompted,
)
from nodulens.evaluate.slice_networks import Known, Scan
from nodulens.metrics.segmentation import Overlap, compare
from nodulens.runtime.engine import Model, Models
from nodulens.stages.detect import detect
from nodulens.stages.position import central_slice
from nodulens.stages.prompted import ViewName, prompt_of_outline, view_of
from nodulens.stages.prompts import DRAWN, Prompt
from nodulens.stages.sam import Ask, Sam
from nodulens.stages.segment import prompt_of_candidate
from nodulens.train.default.calibration import PANEL
from nodulens.train.default.segmenter import first_on, inscribed
from nodulens.train.tasks.protocol import Outcome

VIEWS: tuple[ViewName, ...] = ("slice", "lung", "lobe", "crop")
PROMPTS = ("box", "box_shaken", "diameter", "detector", "point", "mask")
ASKED: Mapping[str, Ask] = {"point": "point", "mask": "mask"}
"""All others are boxes."""
ALONE, CARRIED, WHOLE = "slice by slice", "memory", "3-D"
SCORES = ("dice", "iou", "sensitivity")


@dataclass(frozen=True)
class Way:
    """A network with what it is shown and how it goes from slice to slice.

    Attributes:
        view: one of :data:`VIEWS`, or "own window".
        carrying: :data:`ALONE`, :data:`CARRIED` or :data:`WHOLE`.
        told: the network.
    """

    view: str
    carrying: str
    told: PromptedNetwork


Ways = Callable[[Mask], Sequence[Way]]
"""From the lungs of a scan, on its grid, to the ways in which a network is asked there."""


def own_ways(model: Model) -> Ways:
    """Our own network."""
    return lambda lungs: [Way("own window", WHOLE, own(model))]


def sam_ways(sam: Sam) -> Ways:
    """SAM in every view; SAM2 in each slice by slice, and with its memory."""
    carried = (False, True) if sam.net.remembers else (False,)

    def ways(lungs: Mask) -> list[Way]:
        out = []
        for view in VIEWS:
            shown = replace(sam, view=partial(view_of, part=view, lungs=lungs))
            out += [Way(view, CARRIED if m else ALONE, sam_prompted(replace(shown, memory=m))) for m in carried]
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


def evaluate_scans(ways: Ways, scans: Iterable[Scan], models: Models, seed: int = 0) -> Outcome:
    """Outlines of the nodules of some scans, asked for in every way.

    Args:
        ways: the network; prompts of one nodule and view share the embeddings of the slices that they have in common.
        scans: one at a time; of their nodules those with a known outline count.
        models: of the detector and of the earlier mask.
        seed: of the shaken boxes, with the nodule's number: the same for every network.

    Returns:
        A row for each nodule, way and prompt; see :func:`figures`.
    """
    columns: dict[str, list[Any]] = {}
    row = 0
    for scan in scans:
        marks = detect(scan.volume, scan.lungs, models.patch, models.volume)
        for known in scan.nodules:
            if known.mask is None:
                continue
            case = _case(scan, known, marks, models.segmenter, np.random.default_rng([seed, row]))
            head = {"row": row, "patient": scan.name, "readers": known.readers, "diameter_mm": round(case.size_mm, 1)}
            for told in _judged(scan, case, ways(scan.lungs)):
                for name, value in {**head, **told}.items():
                    columns.setdefault(name, []).append(value)
            row += 1
    return Outcome(figures(columns), columns)


def figures(rows: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """Means over nodules, way by way and prompt by prompt, in the order in which they come.

    Returns:
        "nodules", "patients", "panel_nodules", and "ways": of each its view, carrying, prompt, how many nodules nothing
        was found of ("missed"), mean Dice, IoU and sensitivity in three dimensions and ("slice_…") on the central
        slice, and ("panel_dice") Dice of the nodules of three readers or more. So few patients give no interval.
    """
    of: dict[tuple[Any, ...], list[int]] = {}
    for number, way in enumerate(zip(*(rows.get(k, ()) for k in ("view", "carrying", "prompt")), strict=True)):
        of.setdefault(way, []).append(number)
    ways = []
    for (view, carrying, prompt), some in of.items():
        missed = sum(rows["dice"][k] == 0 for k in some)
        means: dict[str, float | None] = {n: round(float(np.mean([rows[n][k] for k in some])), 4) for n in _names()}
        panel = [rows["dice"][k] for k in some if rows["readers"][k] >= PANEL]
        means["panel_dice"] = round(float(np.mean(panel)), 4) if panel else None
        ways.append({"view": view, "carrying": carrying, "prompt": prompt, "missed": missed, **means})
    counts = {name: len(set(rows.get(key, ()))) for name, key in (("nodules", "row"), ("patients", "patient"))}
    panel_rows = {r for r, n in zip(rows.get("row", ()), rows.get("readers", ()), strict=True) if n >= PANEL}
    return {**counts, "panel_nodules": len(panel_rows), "ways": ways}


# ---------------------------------------------------------------- one nodule


@dataclass(frozen=True, eq=False)
class _Case:
    """A nodule, and what is told of it.

    Attributes:
        truth: on the scan's grid.
        z: its largest slice.
        prompts: by their names; one that cannot be had is not among them.
        earlier: on the scan's grid; empty where there is none.
        size_mm: diameter of the ball of its volume.
    """

    truth: Bool
    z: int
    prompts: dict[str, Prompt]
    earlier: Bool
    size_mm: float


def _case(scan: Scan, known: Known, marks: list[Candidate], model: Model, rng: np.random.Generator) -> _Case:
    assert known.mask is not None
    volume = scan.volume
    truth = np.zeros(volume.geometry.shape, dtype=bool)
    truth[known.box.slices] = known.mask
    largest = central_slice(known.mask)
    middle = np.argwhere(known.mask).mean(axis=0) + known.box.start
    diameter = disc_diameter_mm(known.mask[largest].sum(), volume.geometry.spacing_zyx[1])
    prompts = prompts_at(volume, known.box, tuple(middle.tolist()), diameter, rng)
    size = ball_diameter_mm(known.mask.sum(), volume.geometry.voxel_mm3)
    mark = first_on(marks, volume.geometry.to_lps(middle), size)
    earlier = np.zeros_like(truth)
    if mark is not None:
        prompts["detector"] = prompt_of_candidate(volume, mark)
        earlier = outlined(own(model)("box", None), volume, prompts["detector"])
    if earlier.any():
        prompts["mask"] = prompt_of_outline(Box.of_mask(earlier))
    return _Case(truth, known.box.start[0] + largest, prompts, earlier, size)


def _judged(scan: Scan, case: _Case, ways: Sequence[Way]) -> Iterable[dict[str, Any]]:
    """The ways one after another, all prompts of each; then what stands beside them."""
    nothing = np.zeros_like(case.truth)
    spacing = scan.volume.geometry.spacing_zyx

    def told(view: str | None, carrying: str | None, prompt: str, mask: Bool) -> dict[str, Any]:
        solid, flat = compare(case.truth, mask, spacing), compare(case.truth[case.z], mask[case.z], spacing[1:])
        names = {"view": view, "carrying": carrying, "prompt": prompt}
        return {**names, **_scores(solid), **_scores(flat, "slice_")}

    for way in ways:
        for kind in PROMPTS:
            found = nothing
            if kind in case.prompts:
                outline = way.told(ASKED.get(kind, "box"), case.earlier if kind == "mask" else None)
                found = outlined(outline, scan.volume, case.prompts[kind])
            yield told(way.view, way.carrying, kind, found)
    for kind, prompt in case.prompts.items():
        if prompt.trust == DRAWN and kind != "mask":
            name = kind.replace("box", "ellipsoid").replace("diameter", "ellipsoid_diameter")
            yield told(None, None, name, outlined(inscribed, scan.volume, prompt))
    yield told(None, None, "earlier_mask", case.earlier)


def _scores(overlap: Overlap, before: str = "") -> dict[str, float]:
    return {before + name: round(float(getattr(overlap, name)), 4) for name in SCORES}


def _names() -> list[str]:
    return [before + name for before in ("", "slice_") for name in SCORES]
