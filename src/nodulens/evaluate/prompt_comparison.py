"""One prompted network, SAM or our own, on the same nodules by every prompt and in every view, as one result."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from nodulens.core.text import without_places
from nodulens.data.material import STACKS
from nodulens.errors import InputError, MissingExtra, NotFound
from nodulens.evaluate import central_slices, prompts
from nodulens.evaluate.central_slices import CentralSlices
from nodulens.evaluate.prompts import ENOUGH, PromptedScans, WayFigures
from nodulens.evaluate.scans import EvaluationScan, outlined_scan, read_scan
from nodulens.evaluate.truths import CohortScan, Truths, find_cohort, outlined_truths, patient_of, patients_of
from nodulens.io import read
from nodulens.presentation.evaluation import LIDC_IDRI, Drawing, Evaluation, Provenance, Table, hashed, software
from nodulens.presentation.figures import Basis
from nodulens.presentation.panels import cases_figure
from nodulens.report.record import WeightRef
from nodulens.runtime.engine import load_models
from nodulens.stages.sam import Kind, Sam, kind_of, load_sam
from nodulens.train.run import use_threads

SCHEMA = "nodulens-prompts/1"

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
OWN = (ONE_VIEW, TRAINED_ON_STACKS)
NOBODY = "A scan whose file names no patient counts as a patient of its own: LIDC's database was not asked."
FEW = "There are whole scans of too few patients for intervals."
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
        kind: "sam2", or "sam", if no other will do (MedSAM is a sam); None for what the files say.
    """

    path: str
    kind: Kind | None = None


@dataclass(frozen=True)
class Material:
    """What a prompted network is evaluated on.

    Attributes:
        names: of the whole scans.
        load: from a name to the scan, with outlines.
        files: of the annotations.
        stacks: data folder that holds stacks; None: whole scans alone.
        most: largest number of nodules of the stacks; None for every fourth of all.
        notes: sentences on it.
    """

    names: tuple[str, ...]
    load: Callable[[str], EvaluationScan]
    files: tuple[Path, ...]
    stacks: Path | None = None
    most: int | None = None
    notes: tuple[str, ...] = ()


def material_of_data(data: Path, most: int | None) -> Material:
    """The scans of a data folder that come with their readers' XML, and its stacks.

    Raises:
        NotFound: there is no such scan.
    """
    names = prompts.outlined_scans(data)
    xml = tuple(data / "lidc" / "xml" / f"{name}.xml" for name in names)
    stacks = data if most != 0 and (data / STACKS).exists() else None
    return Material(names, lambda name: read_scan(data, name), xml, stacks, most)


def material_of_cohort(place: Path, truth: str, annotations: Path | None = None) -> Material:
    """A cohort of whole scans, such as LUNA16's with the outlines of LIDC's readers.

    Args:
        place: see :func:`nodulens.evaluate.truths.find_cohort`.
        truth, annotations: see :func:`nodulens.evaluate.truths.outlined_truths`.

    Raises:
        NotFound, BadOption, MissingExtra: as those.
    """
    cohort = find_cohort(place)
    truths = outlined_truths(truth, place, cohort, annotations)
    scans = {scan.name: scan for scan in cohort.scans}
    files = dict.fromkeys(file for scan in cohort.scans for file in truths.files(scan))
    notes = [f"{name} was left out: {reason}" for name, reason in cohort.unusable.items()]
    known: Mapping[str, str] = {}
    try:
        known = patients_of(cohort)
    except MissingExtra as error:
        notes.append(f"{NOBODY} {error}")
    return Material(tuple(scans), lambda name: _load(scans[name], truths, known), tuple(files), notes=tuple(notes))


def _load(scan: CohortScan, truths: Truths, known: Mapping[str, str]) -> EvaluationScan:
    ct = read(scan.path, series=scan.series)
    return replace(outlined_scan(scan.name, ct, truths.of(scan, ct)), patient=patient_of(scan, ct, known))


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
        counts = f"{scans.nodules} nodules of {scans.scans} whole scans"
        if self.stacks:
            counts += f", and the central slices of {self.stacks.figures.nodules} nodules of the stacks"
        drawn = ["by patient"] * (scans.patients >= ENOUGH) + ["by patient, of stacks"] * bool(self.stacks)
        return Evaluation(
            title=f"Prompts: {self.network.name}",
            summary=(f"{counts}, prompted in every way.",),
            interval=f"95 %, 1,000 bootstraps {' and '.join(drawn)}" if drawn else "",
            tables=tuple(self.tables()),
            drawings=self.drawings,
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

    @cached_property
    def drawings(self) -> tuple[Drawing, ...]:
        """Best and worst nodules by the box of the outline: input, truth and result, in each view.

        Raises:
            MissingExtra: Matplotlib is not installed.
        """
        out = []
        for (view, carrying), cases in self.scans.shown.items():
            way = f"{view}, {carrying}"
            basis = Basis(len(cases), note=f"largest slices; prompted by the box of the outline; {way}")
            out.append(Drawing.of_pixels(f"Input, truth, result: {way}", cases_figure(cases, basis)))
        return tuple(out)

    def pictures(self) -> dict[str, bytes]:
        """:meth:`drawings` as PNG files, by name."""
        names = (f"panels-{view}-{carrying}.png".replace(" ", "-") for view, carrying in self.scans.shown)
        return {name: b64decode(one.png) for name, one in zip(names, self.drawings, strict=True)}

    def tables(self) -> Iterator[Table]:
        """The figures as tables."""
        scores = ("Dice", "IoU", "sensitivity")
        scans = self.scans.figures
        central = tuple(f"central {name}" for name in scores)
        enough = scans.patients >= ENOUGH
        rows = [
            (NAMES[way.prompt], way.view, way.carrying, way.missed, way.dice, *((_ends(way),) if enough else ()),
             way.iou, way.sensitivity, way.slice_dice, way.slice_iou, way.slice_sensitivity, way.panel_dice)
            for way in scans.ways
        ]  # fmt: skip
        note = (
            f"Means over nodules, a missed one 0{', with 95 % intervals by drawing patients' * enough}. "
            "Central: on the largest slice. 3 readers: of the "
            f"{scans.panel_nodules} nodules that three or more outlined. Rows without a view are baselines."
        )
        solid = ("Dice", *("interval",) * enough, *scores[1:])
        head = ("prompt", "input", "slices", "missed", *solid, *central, "3 readers Dice")
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


def _ends(way: WayFigures) -> str | None:
    return None if way.dice_low is None else f"{way.dice_low:.3f} to {way.dice_high:.3f}"


def compare(
    material: Material,
    checkpoint: Checkpoint | None,
    tell: Callable[[str], None],
    threads: int | None = None,
) -> PromptComparison:
    """One prompted network on whole scans, in every view; and SAM on the central slices of the stacks.

    Args:
        material: of :func:`material_of_data` or :func:`material_of_cohort`. A scan of it that cannot be read, or of
            which no outline is known, is left out, and a note says so.
        checkpoint: None for our own network.
        tell: called with lines about the progress.
        threads: CPU threads; None for as many as there are cores.

    Raises:
        NotFound: no nodule with an outline.
        MissingWeights, CorruptWeights: of the checkpoint; the message says what to do.
        MissingExtra: a package is not installed.
    """
    use_threads(threads)
    models = load_models(threads)
    stacks, kind = None, "network"
    if checkpoint is not None:
        sam = load_sam(checkpoint.path, checkpoint.kind)
        kind = kind_of(checkpoint.path)
        weights = WeightRef(without_places(checkpoint.path), sam.sha256)
        ways = prompts.sam_ways(sam)
        stacks = _on_stacks(sam, material, tell)
    else:
        card = models.segmenter.card
        weights = WeightRef(card.name, card.sha256)
        ways = prompts.own_ways(models.segmenter)
    beside = [WeightRef(m.card.name, m.card.sha256) for m in (models.screen, models.volume, models.segmenter)]
    reading = _Reading(material, tell)
    scans = prompts.evaluate_scans(ways, reading.scans(), models)
    if not scans.rows:
        raise NotFound(" ".join(["No nodule with an outline was found.", *reading.left_out, *reading.bare]))
    return PromptComparison(
        network=weights,
        kind=kind,
        scans=scans,
        stacks=stacks,
        notes=(
            *((FEW,) if scans.figures.patients < ENOUGH else ()),
            EARLIER,
            *((LOBE,) if checkpoint else OWN),
            *material.notes,
            *reading.left_out,
            *reading.bare,
        ),
        weights=tuple(dict.fromkeys([weights, *beside])),
        inputs=hashed(*material.files, *([material.stacks / STACKS] if stacks and material.stacks else [])),
        software=software(),
        made=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _on_stacks(sam: Sam, material: Material, tell: Callable[[str], None]) -> CentralSlices | None:
    """SAM on the central slices of the stacks; None where there are none."""
    if material.stacks is None:
        return None
    nodules = central_slices.every_fourth(material.stacks, material.most)
    tell(f"{len(nodules)} nodules of the stacks …")
    return central_slices.evaluate_prompted(central_slices.close_up(sam), nodules, np.arange(len(nodules)), flat=True)


@dataclass
class _Reading:
    """The scans of a material one at a time, each named before it is read; what is left out is noted."""

    material: Material
    tell: Callable[[str], None]
    left_out: list[str] = field(default_factory=list)
    unoutlined: dict[str, int] = field(default_factory=dict)

    @property
    def bare(self) -> tuple[str, ...]:
        """A note on nodules without an outline, if there are any."""
        if not self.unoutlined:
            return ()
        number, first = sum(self.unoutlined.values()), next(iter(self.unoutlined))
        return (f"{number} known nodules have no outline and are left out, the first in {first}.",)

    def scans(self) -> Iterator[EvaluationScan]:
        """Those that can be read, and whose outlines are known."""
        for number, name in enumerate(self.material.names, start=1):
            self.tell(f"{name} ({number} of {len(self.material.names)}) …")
            try:
                scan = self.material.load(name)
            except InputError as error:
                self.left_out.append(f"{name} was left out: {error}")
                self.tell(self.left_out[-1])
                continue
            if scan.unoutlined:
                self.unoutlined[name] = scan.unoutlined
            yield scan
