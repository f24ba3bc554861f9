"""``nodulens evaluate prompts``: one network, asked for the same nodules in every way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from nodulens.apps.typed import typed_command
from nodulens.data.material import STACKS
from nodulens.errors import BadOption, MissingExtra
from nodulens.presentation.evaluation import LIDC_IDRI, Evaluation, Provenance, Table, hashed, software
from nodulens.report.record import WeightRef
from nodulens.runtime.engine import load_models

if TYPE_CHECKING:
    from nodulens.evaluate.slice_networks import Scan

SCHEMA = "nodulens-prompts/1"
Kind = Literal["sam2", "sam"]

EARLIER = (
    "The earlier mask, and the detector's mark, are those of the networks that ship; the mask's own figures stand "
    "beside those of what is made of it."
)
LOBE = "The lobe that is shown is estimated from position; fissures are not looked for."
ONE_VIEW = (
    "Our own network looks through a window that follows the prompt, in three dimensions at once: whole slice, lung, "
    "lobe and crop make no difference to it, nor does going from slice to slice."
)
TAUGHT = (
    "The stacks taught the network that ships, and are left out; by networks that have not seen the patient they are "
    "judged with: python -m experiments.table --only prompted."
)
FEW = "Nodules of so few patients give no interval."
NAMES = {
    "box": "box of the outline", "box_shaken": "shaken by a tenth", "diameter": "box of the diameter",
    "detector": "our detector's mark", "point": "point", "mask": "earlier mask",
    "ellipsoid": "ellipsoid in the box", "ellipsoid_shaken": "ellipsoid, shaken box",
    "ellipsoid_diameter": "ellipsoid, diameter's box", "earlier_mask": "earlier mask as it is",
    "ellipse": "ellipse in the box", "ellipse_shaken": "ellipse, shaken box",
    "ellipse_diameter": "ellipse, diameter's box",
}  # fmt: skip


def compare(
    data: Path,
    checkpoint: str | None,
    kind: Kind | None,
    most: int | None,
    tell: Callable[[str], None],
    threads: int | None = None,
) -> dict[str, Any]:
    """One prompted network on whole scans, in every view; and SAM on the central slices of the stacks.

    Args:
        data: folder with ``ct/`` and ``lidc/``.
        checkpoint: folder or hub name of SAM's weights; None for our own network.
        kind: of the checkpoint.
        most: so many nodules of the stacks at most; None for every fourth of all.
        tell: what is being done, a line at a time.
        threads: CPU threads; None for as many as there are cores.

    Returns:
        For JSON: ``network``, ``scans`` and ``stacks`` (figures and judged rows; None where there are none), ``notes``
        and where it comes from.

    Raises:
        NotFound: there is no scan with outlines.
        BadOption: a checkpoint without its kind, or the other way round.
        MissingWeights, CorruptWeights: of the checkpoint; the message says what to do.
        MissingExtra: a package is not installed.
    """
    if (checkpoint is None) is not (kind is None):
        raise BadOption("--checkpoint and --kind go together: --checkpoint FOLDER_OR_HUB_NAME --kind sam2, or sam.")
    try:
        from nodulens.evaluate import central_slices, prompts
        from nodulens.evaluate.slice_networks import read_scan
        from nodulens.stages.sam import load_sam
        from nodulens.train.run import use_threads
    except ImportError as error:
        raise MissingExtra("train", error.name or "torch") from error
    names = prompts.outlined_scans(data)
    use_threads(threads)
    models = load_models(threads)
    sam = load_sam(checkpoint, kind) if checkpoint is not None and kind is not None else None

    def scans() -> Iterator[Scan]:
        for name in names:
            tell(f"{name} …")
            yield read_scan(data, name)

    stacks = None
    if sam is not None:
        weights = WeightRef(str(checkpoint), sam.sha256)
        ways = prompts.sam_ways(sam)
        if most != 0 and (data / STACKS).exists():
            material = central_slices.every_fourth(data, most)
            tell(f"{len(material)} nodules of the stacks …")
            stacks = central_slices.evaluate_prompted(
                central_slices.close_up(sam), material, np.arange(len(material)), flat=True
            )
    else:
        card = models.segmenter.card
        weights = WeightRef(card.name, card.sha256)
        ways = prompts.own_ways(models.segmenter)
    found = prompts.evaluate_scans(ways, scans(), models)
    beside = [WeightRef(m.card.name, m.card.sha256) for m in (models.patch, models.volume, models.segmenter)]
    read = [data / "lidc" / "xml" / f"{name}.xml" for name in names]
    return {
        "schema": SCHEMA,
        "network": {**asdict(weights), "kind": kind or "network"},
        "scans": asdict(found),
        "stacks": stacks and asdict(stacks),
        "notes": [FEW, EARLIER, *([LOBE] if sam else [ONE_VIEW, TAUGHT])],
        "command": typed_command(),
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "weights": [asdict(w) for w in dict.fromkeys([weights, *beside])],
        "inputs": hashed(*read, *([data / STACKS] if stacks else [])),
        "software": software(),
    }


def evaluation(found: dict[str, Any]) -> Evaluation:
    """What :func:`compare` found, as a page shows it."""
    scans = found["scans"]["figures"]
    counts = f"{scans['nodules']} nodules of {scans['patients']} whole scans"
    if found["stacks"]:
        counts += f", and the central slices of {found['stacks']['figures']['nodules']} nodules of the stacks"
    provenance = Provenance(
        command=found["command"],
        made=found["made"],
        seeds={"shaken boxes": 0},
        inputs=found["inputs"],
        weights=tuple(WeightRef(**w) for w in found["weights"]),
        software=found["software"],
        data=(LIDC_IDRI,),
    )
    return Evaluation(
        title=f"Prompts: {found['network']['name']}",
        summary=(f"{counts}, asked for in every way.",),
        interval="95 %, 1,000 bootstraps by patient" if found["stacks"] else "",
        tables=tuple(tables(found)),
        warnings=tuple(found["notes"]),
        provenance=provenance,
    )


def tables(found: dict[str, Any]) -> Iterator[Table]:
    """What :func:`compare` found, in rows."""
    scores = ("Dice", "IoU", "sensitivity")
    scans = found["scans"]["figures"]
    head = ("prompt", "shown", "slices", "missed", *scores, *(f"central {name}" for name in scores), "3 readers Dice")
    columns = ("missed", "dice", "iou", "sensitivity", "slice_dice", "slice_iou", "slice_sensitivity", "panel_dice")
    rows = [(NAMES[way["prompt"]], way["view"], way["carrying"], *(way[c] for c in columns)) for way in scans["ways"]]
    title = f"{found['network']['name']}: {scans['nodules']} nodules of whole scans"
    note = (
        "Means over nodules, a missed one 0. Central: on the largest slice. 3 readers: of the "
        f"{scans['panel_nodules']} nodules that three or more marked. Rows without a view are what stands beside."
    )
    yield Table(title, head, tuple(rows), note)
    if not found["stacks"]:
        return
    figures = found["stacks"]["figures"]
    lines = [
        (NAMES[kind], one["dice"]["value"], f"{one['dice']['low']:.3f} to {one['dice']['high']:.3f}",
         one["iou"]["value"], one["sensitivity"]["value"])
        for kind, one in figures.items()
        if kind != "nodules"
    ]  # fmt: skip
    title = f"{found['network']['name']}: central slices of {figures['nodules']} nodules, close crops"
    yield Table(title, ("prompt", "Dice", "interval", *scores[1:]), tuple(lines), "Intervals by drawing patients.")
