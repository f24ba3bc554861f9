"""A method's classifier on crops masked by different outlines of the same nodules: the readers', SAM's, our network's,
and those of networks of whole slices, such as method C's first stage, nnU-Net and YOLO.

Method A classifies the segmented nodule, so how it grades depends on what has segmented it. The nodules are those of a
run's test patients, on the central slices of the stacks; the prompted networks are prompted there by the box of the
readers' outline, by the same with every side off by a tenth, by a point in the middle, and by the strongest candidate;
networks of whole slices are not prompted.
An empty outline leaves a blank crop, which is graded like any other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from nodulens.core.text import without_places
from nodulens.data.material import STACKS, Stacks
from nodulens.data.splits import read_split
from nodulens.errors import BadOption, NoTestPatients
from nodulens.evaluate import central_slices
from nodulens.evaluate.central_slices import PROMPTED, Bool, central_masks
from nodulens.evaluate.networks import unseen_patients
from nodulens.evaluate.options import DEFAULTS, EvaluateOptions
from nodulens.evaluate.refinement import ClassifiedMasks, first_masks, grade
from nodulens.methods.load import load_networks
from nodulens.methods.recipe import NetworkConfig, Recipe
from nodulens.methods.run_record import method_named
from nodulens.metrics.estimates import Estimate
from nodulens.metrics.segmentation import compare
from nodulens.metrics.statistics import bootstrap_means
from nodulens.pipeline import Progress
from nodulens.presentation.evaluation import LIDC_IDRI, Evaluation, Provenance, Table, hashed, software
from nodulens.report.record import WeightRef
from nodulens.runtime.engine import Model, load_model
from nodulens.stages.prompted import PromptedNetwork
from nodulens.stages.sam import load_sam
from nodulens.train.default.segmenter import from_stack
from nodulens.train.run import use_threads
from nodulens.train.tasks.classification import crop_of
from nodulens.train.tasks.closeups import CloseUps
from nodulens.train.tasks.nodule_material import Nodules, nodules_of

SCHEMA = "nodulens-outlines/1"
READERS = "the readers"
PROMPTS = {
    "box": "box of the outline", "box_shaken": "jittered by a tenth", "diameter": "box of the diameter",
    "detector": "candidate", "point": "point",
}  # fmt: skip
NO_OTHERS = (
    "Only the readers' outlines: name a prompted network, --checkpoint FOLDER of SAM, or --prompted FOLDER of ours, "
    "trained without the test patients; or --first-stage RUN of a network of whole slices, trained without them too."
)


@dataclass(frozen=True)
class Source:
    """Where outlines come from.

    Attributes:
        network: its name, or that of its run; None for the readers.
        prompt: its prompt; None for the readers, and for a network of whole slices.
    """

    network: str | None = None
    prompt: str | None = None

    def __str__(self) -> str:
        if self.network is None:
            return READERS
        return f"{self.network}, {'without a prompt' if self.prompt is None else PROMPTS[self.prompt]}"


@dataclass(frozen=True, eq=False)
class OutlineEvaluation:
    """A classifier on the same nodules by each outline.

    Attributes:
        run: its folder, without the places above it.
        nodules: how many, of how many patients.
        sources: name → where its outlines come from, the readers first.
        graded: the classifier, by those names.
        dice: with the readers' outline on that slice, mean over nodules; an empty outline 0.
        weights: of the classifier and the networks that outline.
        inputs: input file → sha256.
        notes: sentences.
        made: when, ISO 8601.
    """

    run: str
    nodules: int
    patients: int
    sources: Mapping[str, Source]
    graded: ClassifiedMasks
    dice: Mapping[str, Estimate]
    weights: tuple[WeightRef, ...]
    inputs: dict[str, str]
    notes: tuple[str, ...]
    made: str

    def to_json(self) -> dict[str, Any]:
        """As ``nodulens evaluate outlines --json`` prints it."""
        figures = {
            name: {**asdict(self.sources[name]), "dice": asdict(self.dice[name]), **found.to_json()}
            for name, found in self.graded.figures.items()
        }
        return {
            "schema": SCHEMA,
            "run": self.run,
            "nodules": self.nodules,
            "patients": self.patients,
            "figures": figures,
            "rows": self.graded.to_json(),
            "notes": list(self.notes),
            "weights": [asdict(w) for w in self.weights],
            "inputs": self.inputs,
        }

    def tables(self) -> Iterator[Table]:
        """The classifier by outline: nodules of three readers or more, and all."""
        head = ("outlines of", "prompt", "Dice", "blank", "nodules", "AUC", "accuracy", "sensitivity", "specificity")
        for group in ("three readers or more", "any number of readers"):
            rows = []
            for name, found in self.graded.figures.items():
                some = found.of.groups[group]
                ranking, rates = some.beside_diameter.ranking, some.decisions and some.decisions.rates
                cells = (rates.accuracy, rates.sensitivity, rates.specificity) if rates else (None, None, None)
                source = self.sources[name]
                rows.append(
                    (
                        READERS if source.network is None else source.network,
                        PROMPTS.get(source.prompt or "", "–"),
                        str(self.dice[name]),
                        found.blank,
                        some.decisions.judged if some.decisions else 0,
                        ranking.auc if ranking else None,
                        *(None if cell is None else str(cell) for cell in cells),
                    )
                )
            note = "Dice and blank outlines: of all nodules. Intervals 95 %, by patient."
            yield Table(f"The classifier by outline, {group}", head, tuple(rows), note)

    def evaluation(self, command: str) -> Evaluation:
        """As a page."""
        return Evaluation(
            title=f"The classifier of {self.run} by outline",
            summary=(f"{self.nodules} nodules of {self.patients} test patients, one axial slice of each.",),
            interval="95 %, 1,000 bootstraps by patient",
            tables=tuple(self.tables()),
            warnings=self.notes,
            provenance=Provenance(
                command=command,
                made=self.made,
                seeds={"shaken boxes": 0},
                inputs=self.inputs,
                weights=self.weights,
                software=software(),
                data=(LIDC_IDRI,),
            ),
        )


def evaluate_outlines(
    run: str | Path,
    data: Path,
    checkpoints: Sequence[str] = (),
    first_stages: Sequence[Path] = (),
    options: EvaluateOptions = DEFAULTS,
) -> OutlineEvaluation:
    """The classifier of a run on its test patients' nodules, outlined by the readers and by networks.

    Args:
        run: folder of a run whose classifier sees the segmented nodule alone, as ``sam2-densenet``.
        data: folder with the stacks.
        checkpoints: of SAM, SAM2 or MedSAM, folders or hub names that are on this machine.
        first_stages: folders of runs with a network of whole slices, which outlines without a prompt.
        options: test patients, our own prompted network, threads and progress.

    Raises:
        BadOption: no run, or one whose classifier sees no outline; a first stage that segments no slices.
        NoTestPatients: there is no nodule of a patient that no network was trained on.
        MissingWeights, CorruptWeights, MissingExtra: of a network; the message says what to do.
    """
    recipe, folder = method_named(str(run))
    if folder is None or recipe.classifier is None or not recipe.masked:
        raise BadOption(
            f"{run} has no classifier of segmented nodules: name the folder of a run of sam2-densenet or nnunet-sam."
        )
    use_threads(options.threads)
    classifier = load_networks(recipe, folder, options.threads).own["classifier"]
    networks, refs, ours = _networks(checkpoints, options)
    stages = _stages(first_stages, options.threads)
    stacks = Stacks(data)
    split = read_split(options.split) if isinstance(options.split, Path) else options.split
    own = [classifier, *ours, *(model for model, _ in stages.values())]
    test = unseen_patients(folder, stacks.patients, own, split)
    nodules = nodules_of(stacks, recipe.classifier.classes)
    nodules = nodules.take(np.flatnonzero([patient in test for patient in nodules.patients]))
    if not len(nodules.truth):
        raise NoTestPatients(
            f"No nodule of a known class in {data / STACKS} is of a patient that none of these networks was trained on."
        )
    sources, masks = _outlined(stacks, nodules, networks, options.progress)
    close_ups = CloseUps.of(stacks) if stages else None
    for name, (model, config) in stages.items():
        assert close_ups is not None
        source = Source(name)
        sources[str(source)], masks[str(source)] = source, first_masks(model, config, close_ups, nodules)
        refs.append(WeightRef(name, model.card.sha256))
    options.progress("grade", 0.0)
    graded = grade(classifier, stacks, nodules, crop_of(recipe), masks)
    options.progress("grade", 1.0)
    return OutlineEvaluation(
        run=without_places(str(folder)),
        nodules=len(nodules.truth),
        patients=len(set(nodules.patients)),
        sources=sources,
        graded=graded,
        dice={name: _dice(nodules, some) for name, some in masks.items()},
        weights=(WeightRef(classifier.card.name, classifier.card.sha256), *refs),
        inputs=hashed(data / STACKS),
        notes=_notes(recipe, [*networks, *stages]),
        made=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _stages(runs: Sequence[Path], threads: int | None) -> dict[str, tuple[Model, NetworkConfig]]:
    """The networks of whole slices of some runs, by the names of their folders.

    Raises:
        BadOption: no run, one without such a network, or two of a name.
    """
    found: dict[str, tuple[Model, NetworkConfig]] = {}
    for run in runs:
        recipe, folder = method_named(str(run))
        name = without_places(str(folder or run))
        if folder is None or recipe.segmenter is None:
            raise BadOption(f"{run} has no network of whole slices: name the folder of a run that segments slices.")
        if name in found:
            raise BadOption(f"{name} is named twice; keep one, or rename its folder.")
        found[name] = load_model("segmenter", threads, folder), recipe.segmenter
    return found


def _notes(recipe: Recipe, networks: Sequence[str]) -> tuple[str, ...]:
    return (*recipe.caveats, *(() if networks else (NO_OTHERS,)))


def _networks(
    checkpoints: Sequence[str], options: EvaluateOptions
) -> tuple[dict[str, tuple[PromptedNetwork, bool]], list[WeightRef], list[Model]]:
    """The prompted networks by name, each with whether it works slice by slice; their weights; and ours among them."""
    networks: dict[str, tuple[PromptedNetwork, bool]] = {}
    refs, ours = [], []
    for checkpoint in checkpoints:
        sam, name = load_sam(checkpoint), without_places(str(checkpoint))
        if name in networks:
            raise BadOption(f"{name} is named twice; keep one, or rename its folder.")
        networks[name] = central_slices.close_up(sam), True
        refs.append(WeightRef(name, sam.sha256))
    if options.prompted is not None:
        model = load_model("segmenter", options.threads, options.prompted)
        if "prompts" not in model.card.input:
            raise BadOption(f"{options.prompted} holds a segmenter of whole slices, which takes no prompt.")
        networks["our network"] = central_slices.own(model), False
        refs.append(WeightRef(model.card.name, model.card.sha256))
        ours.append(model)
    return networks, refs, ours


def _outlined(
    stacks: Stacks, nodules: Nodules, networks: Mapping[str, tuple[PromptedNetwork, bool]], progress: Progress
) -> tuple[dict[str, Source], dict[str, Bool]]:
    """Where outlines come from, and the masks (N, 96, 96), by name."""
    sources, masks = {READERS: Source()}, {READERS: nodules.outline}
    for network in networks:
        for prompt in PROMPTED:
            source = Source(network, prompt)
            sources[str(source)], masks[str(source)] = source, np.zeros_like(nodules.outline)
    pairs = list(zip(nodules.origin.tolist(), nodules.central.tolist(), strict=True)) if networks else []
    for k, (number, central) in enumerate(pairs):
        progress("outlines", k / len(pairs))
        example = from_stack(stacks, number)
        for network, (prompted, flat) in networks.items():
            rng = np.random.default_rng([0, number])  # the same shaken box for every network
            found = central_masks(prompted, flat, example, example.real[0] + central, rng)
            for prompt in PROMPTED:
                masks[str(Source(network, prompt))][k] = found[prompt]
    if pairs:
        progress("outlines", 1.0)
    return sources, masks


def _dice(nodules: Nodules, masks: Bool) -> Estimate:
    """Mean Dice with the readers' outline, by patient."""
    pairs = zip(nodules.outline, masks, nodules.pixel_mm.tolist(), strict=True)
    values = np.array([[compare(truth, mask, (mm, mm)).dice] for truth, mask, mm in pairs], dtype=np.float64)
    (mean,) = bootstrap_means(values, nodules.patient)
    return Estimate.of(mean, nodules.patients)
