"""One prompted network, SAM or our own, on the same nodules by every prompt and in every view, as one result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np

from nodulens.core.text import without_places
from nodulens.data.material import STACKS
from nodulens.evaluate import central_slices, prompts
from nodulens.evaluate.central_slices import CentralSlices
from nodulens.evaluate.prompts import PromptedScans
from nodulens.evaluate.scans import EvaluationScan, read_scan
from nodulens.presentation.evaluation import LIDC_IDRI, Evaluation, Provenance, Table, hashed, software
from nodulens.report.record import WeightRef
from nodulens.runtime.engine import load_models
from nodulens.stages.sam import load_sam
from nodulens.train.run import use_threads

SCHEMA = "nodulens-prompts/1"
Kind = Literal["sam2", "sam"]

EARLIER = (
    "The earlier mask and the detection are by the networks that ship; the mask's own figures are listed as a baseline."
)
LOBE = "The lobe is estimated from position, without fissures."
ONE_VIEW = (
    "Our own network has a three-dimensional window that follows the prompt: field of view and propagation between "
    "slices do not apply to it."
)
TRAINED_ON_STACKS = (
    "The network that ships was trained on the stacks, so they are left out; for out-of-fold figures run "
    "python -m experiments.table --only prompted."
)
FEW = "There are too few patients for intervals."
NAMES = {
    "box": "box of the outline", "box_shaken": "jittered by a tenth", "diameter": "box of the diameter",
    "detector": "our detection", "point": "point", "mask": "earlier mask",
    "ellipsoid": "ellipsoid in the box", "ellipsoid_shaken": "ellipsoid, shaken box",
    "ellipsoid_diameter": "ellipsoid, diameter's box", "earlier_mask": "earlier mask as it is",
    "ellipse": "ellipse in the box", "ellipse_shaken": "ellipse, shaken box",
    "ellipse_diameter": "ellipse, diameter's box",
}  # fmt: skip


@dataclass(frozen=True)
class Checkpoint:
    """Weights of SAM, SAM2 or MedSAM.

    Attributes:
        path: a folder, or a hub name that is on this machine.
        kind: "sam2", or "sam"; MedSAM is a sam.
    """

    path: str
    kind: Kind


@dataclass(frozen=True)
class PromptComparison:
    """The results of a prompted network by prompt and view.

    Attributes:
        network: its weights.
        kind: "network" for our own, else of the checkpoint.
        scans: whole scans.
        stacks: central slices of the stacks; None where there are none for this network.
        notes: sentences.
        weights: of all networks used, the prompted one first.
        inputs: input file → sha256.
        software: package → version.
        made: when, ISO 8601.
    """

    network: WeightRef
    kind: str
    scans: PromptedScans
    stacks: CentralSlices | None
    notes: tuple[str, ...]
    weights: tuple[WeightRef, ...]
    inputs: dict[str, str]
    software: dict[str, str]
    made: str

    def to_json(self, command: str) -> dict[str, Any]:
        """As in ``prompts.json``.

        Args:
            command: as typed.
        """
        stacks = self.stacks and {"figures": self.stacks.figures.to_json(), "rows": self.stacks.to_json()}
        return {
            "schema": SCHEMA,
            "network": {**asdict(self.network), "kind": self.kind},
            "scans": self.scans.to_json(),
            "stacks": stacks,
            "notes": list(self.notes),
            "command": command,
            "made": self.made,
            "weights": [asdict(w) for w in self.weights],
            "inputs": self.inputs,
            "software": self.software,
        }

    def evaluation(self, command: str) -> Evaluation:
        """As a page."""
        scans = self.scans.figures
        counts = f"{scans.nodules} nodules of {scans.patients} whole scans"
        if self.stacks:
            counts += f", and the central slices of {self.stacks.figures.nodules} nodules of the stacks"
        return Evaluation(
            title=f"Prompts: {self.network.name}",
            summary=(f"{counts}, prompted in every way.",),
            interval="95 %, 1,000 bootstraps by patient" if self.stacks else "",
            tables=tuple(self.tables()),
            warnings=self.notes,
            provenance=Provenance(
                command=command,
                made=self.made,
                seeds={"shaken boxes": 0},
                inputs=self.inputs,
                weights=self.weights,
                software=self.software,
                data=(LIDC_IDRI,),
            ),
        )

    def tables(self) -> Iterator[Table]:
        """The figures as tables."""
        scores = ("Dice", "IoU", "sensitivity")
        scans = self.scans.figures
        central = tuple(f"central {name}" for name in scores)
        rows = [
            (NAMES[way.prompt], way.view, way.carrying, way.missed, way.dice, way.iou, way.sensitivity,
             way.slice_dice, way.slice_iou, way.slice_sensitivity, way.panel_dice)
            for way in scans.ways
        ]  # fmt: skip
        note = (
            "Means over nodules, a missed one 0. Central: on the largest slice. 3 readers: of the "
            f"{scans.panel_nodules} nodules that three or more outlined. Rows without a view are baselines."
        )
        head = ("prompt", "input", "slices", "missed", *scores, *central, "3 readers Dice")
        yield Table(f"{self.network.name}: {scans.nodules} nodules of whole scans", head, tuple(rows), note)
        if self.stacks is None:
            return
        figures = self.stacks.figures
        lines = [
            (NAMES[kind], one.dice.value, f"{one.dice.low:.3f} to {one.dice.high:.3f}", one.iou.value,
             one.sensitivity.value)
            for kind, one in figures.by_prompt.items()
        ]  # fmt: skip
        title = f"{self.network.name}: central slices of {figures.nodules} nodules, close crops"
        yield Table(title, ("prompt", "Dice", "interval", *scores[1:]), tuple(lines), "Intervals by drawing patients.")


def compare(
    data: Path,
    checkpoint: Checkpoint | None,
    most: int | None,
    tell: Callable[[str], None],
    threads: int | None = None,
) -> PromptComparison:
    """One prompted network on whole scans, in every view; and SAM on the central slices of the stacks.

    Args:
        data: folder with ``ct/`` and ``lidc/``.
        checkpoint: None for our own network.
        most: largest number of nodules of the stacks; None for every fourth of all.
        tell: called with lines about the progress.
        threads: CPU threads; None for as many as there are cores.

    Raises:
        NotFound: there is no scan with outlines.
        MissingWeights, CorruptWeights: of the checkpoint; the message says what to do.
        MissingExtra: a package is not installed.
    """
    names = prompts.outlined_scans(data)
    use_threads(threads)
    models = load_models(threads)
    stacks = None
    if checkpoint is not None:
        sam = load_sam(checkpoint.path, checkpoint.kind)
        weights = WeightRef(without_places(checkpoint.path), sam.sha256)
        ways = prompts.sam_ways(sam)
        if most != 0 and (data / STACKS).exists():
            material = central_slices.every_fourth(data, most)
            tell(f"{len(material)} nodules of the stacks …")
            rows = np.arange(len(material))
            stacks = central_slices.evaluate_prompted(central_slices.close_up(sam), material, rows, flat=True)
    else:
        card = models.segmenter.card
        weights = WeightRef(card.name, card.sha256)
        ways = prompts.own_ways(models.segmenter)
    beside = [WeightRef(m.card.name, m.card.sha256) for m in (models.screen, models.volume, models.segmenter)]
    read = [data / "lidc" / "xml" / f"{name}.xml" for name in names]
    return PromptComparison(
        network=weights,
        kind=checkpoint.kind if checkpoint else "network",
        scans=prompts.evaluate_scans(ways, _read(data, names, tell), models),
        stacks=stacks,
        notes=(FEW, EARLIER, *((LOBE,) if checkpoint else (ONE_VIEW, TRAINED_ON_STACKS))),
        weights=tuple(dict.fromkeys([weights, *beside])),
        inputs=hashed(*read, *([data / STACKS] if stacks else [])),
        software=software(),
        made=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _read(data: Path, names: tuple[str, ...], tell: Callable[[str], None]) -> Iterator[EvaluationScan]:
    """The scans one at a time, each named to ``tell`` before it is read."""
    for name in names:
        tell(f"{name} …")
        yield read_scan(data, name)
