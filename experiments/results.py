"""The page of results, filled in from the cells that :mod:`experiments.table` computes; no figure is typed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from experiments.budgets import BUDGET, SHIPPED
from experiments.cells import AUGMENTED, PATIENTS, RANDOM, ComputedCell, joined, read_cell
from nodulens.evaluate import refinement
from nodulens.evaluate.central_slices import CentralSlices
from nodulens.evaluate.refinement import ClassifiedMasks, Comparison
from nodulens.evaluate.slice_networks import NoduleResult
from nodulens.io.atomic import whole_file
from nodulens.io.records import records_of
from nodulens.methods.catalogue import RECIPES
from nodulens.methods.recipe import NetworkConfig, changed
from nodulens.metrics.estimates import Estimate
from nodulens.presentation.evaluation import Table
from nodulens.presentation.table_writer import to_markdown
from nodulens.stages.slices import NODULE
from nodulens.train.default.calibration import Ranking
from nodulens.train.tasks.classification_figures import EvaluatedNodules, GroupFigures
from nodulens.train.tasks.fp_reduction_figures import EvaluatedPatches
from nodulens.train.tasks.handcrafted import CLASSES
from nodulens.train.tasks.protocol import Evaluated
from nodulens.train.tasks.segmentation import field_of
from nodulens.train.tasks.segmentation_figures import ClassFigures, EvaluatedSlices

SPLITS = {PATIENTS: "by patient", RANDOM: "random", AUGMENTED: "random, after augmentation"}
PUBLISHED = {
    "sam2-densenet.classifier": "accuracy 97.3, sensitivity 98.5, specificity 96.2 %",
    "nnunet-sam.classifier": "AUC of three classes 0.822",
    "conv3-classifier.classifier": "accuracy 80, sensitivity 86, specificity 76, precision 75 %, AUC 0.87",
    "se-aux-unet.segmenter": "Dice 98.4, accuracy 98.6 %, of all classes together",
    "nnunet-sam.segmenter": "no Dice in our copy; average recall 0.684",
    "resnet-unet-patch-cnn.segmenter": (
        "Dice 0.85, IoU 0.75, precision 0.85, recall 0.90, mAP@0.5 0.80, @0.5:0.95 0.60"
    ),
    "resnet-unet-patch-cnn.filter": "precision 0.75, recall 0.80, IoU 0.65, mAP@0.5 0.70, @0.5:0.95 0.55",
}
"""What the publications state, on their own material and splits."""
PUBLISHED_PROMPTS = {
    "box of the truth, LUNA16": ("0.957", "0.918", "0.964"),
    "crops of LIDC, prompt not stated": ("0.979", "0.958", "0.979"),
}
"""Dice, IoU and sensitivity of method A's segmentation by its publication; LUNA16 itself has no masks of nodules."""
ALONE = {"filter": ", its CNN alone as a sliding window"}
WITH = {"refined": " with its second step"}


def write(cells: Path, page: Path) -> None:
    """Put the tables between the page's marks; marks without a table, and the rest of the page, are unchanged."""
    found = [read_cell(path) for path in sorted(cells.glob("*.json"))]
    text = page.read_text(encoding="utf-8")
    for name, draw in TABLES.items():
        before, start, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"<!-- end of {name} -->")
        if start and end:
            text = f"{before}{start}{draw(found)}\n{end}{after}"
    with whole_file(page) as file:
        file.write_text(text, encoding="utf-8")


def pooled_nodules(cells: Sequence[ComputedCell]) -> EvaluatedNodules:
    """The nodules of several folds together."""
    learner = cells[0].learner
    return EvaluatedNodules.from_json(joined(cell.rows for cell in cells), learner.classes if learner else CLASSES)


def pooled_slices(cells: Sequence[ComputedCell]) -> EvaluatedSlices:
    """The slices of several folds together."""
    assert cells[0].learner is not None
    return EvaluatedSlices.from_json(joined(cell.rows for cell in cells), field_of(cells[0].learner).foreground)


def pooled_patches(cells: Sequence[ComputedCell]) -> EvaluatedPatches:
    """The patches of several folds together."""
    return EvaluatedPatches.from_json(joined(cell.rows for cell in cells))


POOLED: Mapping[str, Callable[[Sequence[ComputedCell]], Evaluated]] = {
    "segmenter": pooled_slices,
    "filter": pooled_patches,
    "classifier": pooled_nodules,
    "handcrafted": pooled_nodules,
}
"""Part of a cell → what its rows, of several folds together, tell."""


def pooled_masks(cells: Sequence[ComputedCell]) -> ClassifiedMasks:
    """The crops that method C's classifier was evaluated on, of several folds together."""
    classifier = RECIPES[cells[0].recipe].classifier
    assert classifier is not None
    return ClassifiedMasks.from_json(joined(cell.graded for cell in cells), classifier.classes)


@dataclass(frozen=True)
class Line:
    """Cells that one line of a table pools.

    Attributes:
        row: recipe and part.
        settings: in which they differ from the recipe.
        beside: whether it repeats the unchanged recipe on the one fold of its variants.
    """

    row: str
    split: str
    settings: str
    cells: list[ComputedCell]
    beside: bool = False

    @property
    def method(self) -> str:
        """Its name in a table."""
        name = _named(self.row) + WITH.get(self.cells[0].part, "")
        if not self.settings:
            return name
        ships = self.settings == ", ".join(SHIPPED.get(self.row, ()))
        return f"{name} as it ships" if ships else f"{name}, `{self.settings}`"

    @property
    def split_and_folds(self) -> str:
        """As text."""
        folds = len(self.cells)
        if self.split != PATIENTS:
            return SPLITS[self.split]
        return f"by patient, fold {self.cells[0].fold}" if folds == 1 else f"by patient, {folds} folds"

    @property
    def leads(self) -> bool:
        """Whether it is the unchanged recipe, by patient, on all folds."""
        return self.split == PATIENTS and not (self.settings or self.beside)

    @property
    def on_one_fold(self) -> bool:
        """Whether it is a variant on one fold, or the recipe repeated there."""
        return self.beside or (bool(self.settings) and self.split == PATIENTS and len(self.cells) == 1)

    @property
    def published(self) -> str:
        """What the publication states, in the leading line only."""
        return PUBLISHED.get(self.row, "") if self.leads else ""


def _key(cell: ComputedCell) -> tuple[str, str, str]:
    """Row, split and settings of the line of a cell."""
    return f"{cell.recipe}.{cell.part}", cell.split, ", ".join(cell.settings)


def _lines(found: Iterable[ComputedCell], parts: Sequence[str]) -> list[Line]:
    """The lines of some parts. A recipe with variants on one fold alone is itself repeated on that fold."""
    groups: dict[tuple[str, str, str], list[ComputedCell]] = {}
    for cell in found:
        if cell.part in parts and cell.split in SPLITS:
            groups.setdefault(_key(cell), []).append(cell)
    lines = [Line(*key, cells) for key, cells in groups.items()]
    varied = {(line.row, line.cells[0].fold) for line in lines if line.on_one_fold}
    for row, fold in sorted(varied):
        own = [cell for cell in groups.get((row, PATIENTS, ""), []) if cell.fold == fold]
        lines += [Line(row, PATIENTS, "", own, beside=True)] if own else []
    return lines


def _ranked(lines: Iterable[tuple[Line, float | None, tuple[object, ...]]]) -> list[tuple[object, ...]]:
    """Methods by their figure under the split by patient; each one's other splits below it, then its variants.

    Args:
        lines: each with its figure, and its cells after method and split.
    """
    every = list(lines)
    rank = {line.row: value or 0.0 for line, value, _ in every if line.leads}
    order = list(SPLITS)

    def place(one: tuple[Line, float | None, tuple[object, ...]]) -> tuple[Any, ...]:
        line, value, _ = one
        variant = bool(line.settings or line.beside)
        among = (order.index(line.split) if not variant else 0, not line.beside, -(value or 0.0))
        return -rank.get(line.row, 0.0), line.row, variant, *among

    return [(line.method, line.split_and_folds, *cells) for line, _, cells in sorted(every, key=place)]


@dataclass(frozen=True)
class Question:
    """What a reader wants done, and the figure that says how well a method does it.

    Attributes:
        name: with the name of the figure.
        parts: of the cells that answer it.
        answer: the figure of cells that are pooled.
    """

    name: str
    parts: tuple[str, ...]
    answer: Callable[[Sequence[ComputedCell]], Estimate | None]

    def mark(self, line: Line) -> str:
        """What is shown beside its figure, see :func:`_places`."""
        return _places(line.cells) if self.answer is _close_up_dice else ""


def overview(found: Sequence[ComputedCell]) -> str:
    """Which method for what: by patient, the best first, beside what the other splits would have claimed."""
    rows: list[tuple[object, ...]] = []
    for question in QUESTIONS:
        every = [line for line in _lines(found, question.parts) if not line.on_one_fold]
        lines = {(line.row, line.settings, line.split): line for line in every}
        leading = [(line, one) for line in every if line.split == PATIENTS and (one := question.answer(line.cells))]
        leading.sort(key=lambda one: -(one[1].value or 0.0))
        for line, figure in leading:
            name = f"**{line.method}**" if _reaches(figure, leading[0][1]) else line.method
            others = (lines.get((line.row, line.settings, split)) for split in (RANDOM, AUGMENTED))
            claimed = (_claimed(question, other) for other in others)
            first = question.name if line is leading[0][0] else ""
            rows.append((first, name, _shown(figure) + question.mark(line), *claimed, *_times(line.cells)))
    return _table(
        ("what for (figure)", "method", "by patient (95 %)", "a random split claims", "random, after augmentation",
         "an input", "trained, a fold"),
        rows,
    )  # fmt: skip


def _reaches(figure: Estimate, best: Estimate) -> bool:
    """Whether intervals overlap; without one, whether it is the best."""
    return figure is best or (figure.high is not None and best.low is not None and figure.high >= best.low)


def _places(cells: Sequence[ComputedCell]) -> str:
    """Marks a figure of close-ups whose places a network may know."""
    return " †" if any(cell.may_know_places for cell in cells) else ""


def _claimed(question: Question, line: Line | None) -> str:
    """The figure of another split, if there is one."""
    return "–" if line is None else _shown_shortly(question.answer(line.cells)) + question.mark(line)


def _shown_shortly(figure: Estimate | None) -> str:
    return "–" if figure is None else _number(figure.value)


def _times(cells: Sequence[ComputedCell]) -> tuple[str, str]:
    """Of an input, and of a training; several networks together have no time of their own."""
    pace = _pace(cells)
    return ("–", "–") if pace is None else (f"{_ms(pace)} ms", f"{_minutes(cells):.1f} min{_on(cells)}")


def _auc(cells: Sequence[ComputedCell]) -> Estimate | None:
    ranking = pooled_nodules(cells).figures.three_readers_or_more.beside_diameter.ranking
    return ranking.auc_estimate if ranking else None


def _average_precision(cells: Sequence[ComputedCell]) -> Estimate | None:
    kept = pooled_patches(cells).figures.kept
    return kept.average_precision if kept else None


def _slice_dice(cells: Sequence[ComputedCell]) -> Estimate | None:
    return pooled_slices(cells).figures.classes[NODULE].dice


def _close_up_dice(cells: Sequence[ComputedCell]) -> Estimate | None:
    if cells[0].part == "refined":
        return Comparison.from_json(joined(cell.rows for cell in cells)).figures.refined.dice
    close_ups = pooled_slices(cells).figures.close_ups
    return close_ups.dice if close_ups else None


def _prompted_dice(cells: Sequence[ComputedCell]) -> Estimate | None:
    return CentralSlices.from_json(joined(cell.rows for cell in cells)).figures.by_prompt["box_shaken"].dice


QUESTIONS = (
    Question("benign or malignant, outlines given (AUC)", ("classifier", "handcrafted"), _auc),
    Question("candidate: nodule or not (average precision)", ("filter",), _average_precision),
    Question("outline at a rough box, a tenth off (Dice)", ("prompted",), _prompted_dice),
    Question("outline without a prompt, real close-ups (Dice)", ("segmenter", "refined"), _close_up_dice),
    Question("whole slices, rendered nodules (Dice)", ("segmenter",), _slice_dice),
)


def classifiers(found: Sequence[ComputedCell]) -> str:
    """Malignancy: by patient first, the best first; other splits below their method. Then those of three classes."""
    lines, three = [], []
    for line in _lines(found, ("classifier", "handcrafted")):
        figures = pooled_nodules(line.cells).figures
        whole, middle = figures.three_readers_or_more, figures.six_to_twelve_mm
        assert whole.decisions is not None
        ranked, decided, rates = whole.beside_diameter.nodules, whole.decisions.judged, whole.decisions.rates
        ranking = whole.beside_diameter.ranking
        value = ranking.auc if ranking else None
        cells = (
            ranked if ranked == decided else f"{ranked}; decisions {decided}",
            *_auc_and_gain(ranking),
            *_auc_and_gain(middle.beside_diameter.ranking),
            *(_percent(rate) for rate in (rates.accuracy, rates.sensitivity, rates.specificity)),
            _budget(line.cells),
            line.published,
        )
        lines.append((line, value, cells))
        if rates.macro_auc is not None:
            means = _shown(rates.macro_auc), _shown(rates.macro_f1)
            three.append((line, value, (decided, *means, _percent(rates.accuracy), line.published)))
    table = _table(
        ("method", "split", "nodules", "AUC (95 %)", "over diameter", "AUC, 6–12 mm", "over diameter", "accuracy",
         "sensitivity", "specificity", "trained", "published"),
        _ranked(lines),
    )  # fmt: skip
    if not three:
        return table
    head = ("method", "split", "nodules", "AUC, mean of classes (95 %)", "F1, mean of classes", "accuracy", "published")
    text = "Three classes, benign, malignant and indeterminate, or those that a line names:"
    return f"{table}\n\n{text}\n\n{_table(head, _ranked(three))}"


def segmenters(found: Sequence[ComputedCell]) -> str:
    """Whole slices with rendered nodules, and close-ups of real ones; then by size of the nodule, then by class."""
    lines, sizes, classes = [], [], []
    for line in _lines(found, ("segmenter",)):
        figures = pooled_slices(line.cells).figures
        nodule, boxes, close_ups = figures.classes[NODULE], figures.boxes, figures.close_ups
        if line.leads:
            bands = figures.dice_by_size
            sizes.append((line.method, *(f"{_number(b.dice)} ({b.slices})" for b in bands.values())))
            classes += [(line.method, name, *_of_class(found)) for name, found in figures.classes.items()]
            r = figures.pearson_of_nodule_and_lung_dice
            whole = f"accuracy {_number(figures.accuracy)}" + (f", Pearson's r {_number(r)}" if r else "")
            classes.append((line.method, whole, *[""] * 7))
        lungs = [found.dice.value for name, found in figures.classes.items() if name != NODULE]
        coco = (boxes.precision, boxes.recall, boxes.map50, boxes.map50_95) if boxes else (None,) * 4
        cells = (
            figures.with_nodule,
            _shown(nodule.dice),
            _shown(nodule.iou),
            _shown(nodule.sensitivity),
            f"{nodule.invented} of {nodule.invented + nodule.both_empty}",
            _shown(close_ups.dice) + _places(line.cells) if close_ups else "–",
            ", ".join(_number(v) for v in lungs) or "–",
            " / ".join(map(_number, coco)),
            _budget(line.cells),
            line.published,
        )
        lines.append((line, nodule.dice.value, cells))
    whole = _table(
        ("method", "split", "slices with a nodule", "nodule Dice", "IoU", "sensitivity", "invented on slices without",
         "close-ups of real nodules, Dice", "agreement with our lungs, Dice",
         "boxes: precision / recall / mAP@0.5 / @0.5:0.95", "trained", "published"),
        _ranked(lines),
    )  # fmt: skip
    if not sizes:
        return whole
    by_size = _table(("method", *bands), sizes)
    by_class = _table(
        ("method", "class", "Dice", "IoU", "sensitivity", "precision", "Dice of all pixels", "missed; invented slices",
         "area, predicted minus true, pixels (limits of agreement)"),
        classes,
    )  # fmt: skip
    return (
        f"{whole}\n\nNodule Dice by its diameter on the slice (slices), by patient:\n\n{by_size}"
        f"\n\nBy class, by patient; Pearson's r is of the nodule's Dice and the lungs':\n\n{by_class}{_by_split(found)}"
    )


def _by_split(found: Sequence[ComputedCell]) -> str:
    """Networks of whole slices on each split alone, beside other seeds on the same split."""
    cells = [cell for cell in found if cell.part == "segmenter" and cell.split == PATIENTS]
    seeded = sorted({cell.recipe for cell in cells if cell.settings and _only_seed(cell)})
    lines = []
    for cell in cells:
        if cell.recipe in seeded and (not cell.settings or _only_seed(cell)):
            assert cell.learner is not None
            dice = (answer([cell]) for answer in (_slice_dice, _close_up_dice))
            lungs = [one.dice.value for name, one in pooled_slices([cell]).figures.classes.items() if name != NODULE]
            on_slices, near = map(_shown_shortly, dice)
            row = (_named(cell.row), cell.fold, cell.learner.seed, on_slices, near + _places([cell]))
            lines.append((*row, ", ".join(map(_number, lungs))))
    if not lines:
        return ""
    head = ("method", "split (fold)", "seed", "nodule Dice", "close-ups, Dice", "lungs, Dice with ours")
    return f"\n\nEach split alone, and other seeds on one:\n\n{_table(head, lines)}"


def _only_seed(cell: ComputedCell) -> bool:
    return all(setting.startswith(f"{cell.part}.seed=") for setting in cell.settings)


def _of_class(found: ClassFigures) -> tuple[str, ...]:
    areas = found.areas_px
    limits = "–" if areas is None else f"{areas.difference:.0f} ({areas.lower:.0f} to {areas.upper:.0f})"
    means = (_number(mean.value) for mean in (found.dice, found.iou, found.sensitivity, found.precision))
    return *means, _number(found.dice_pooled), f"{found.missed}; {found.invented}", limits


def filters(found: Sequence[ComputedCell]) -> str:
    """LUNA16's candidates; then recall by size of the nodule."""
    lines, sizes = [], []
    for line in _lines(found, ("filter",)):
        figures = pooled_patches(line.cells).figures
        kept = figures.kept
        assert kept is not None
        patches = f"{figures.on_nodules} against {figures.patches - figures.on_nodules}"
        means = (kept.auc, kept.average_precision, kept.precision, kept.recall)
        lines.append((line, kept.auc.value, (patches, *map(_shown, means), _budget(line.cells), line.published)))
        bands = kept.recall_by_size
        sizes.append((line, kept.auc.value, tuple(_number(value) for value in bands.values())))
    table = _table(
        ("method", "split", "patches", "AUC (95 %)", "average precision", "precision", "recall", "trained",
         "published"),
        _ranked(lines),
    )  # fmt: skip
    if not sizes:
        return table
    return f"{table}\n\nRecall by diameter:\n\n{_table(('method', 'split', *bands), _ranked(sizes))}"


def real_scans(found: Sequence[ComputedCell]) -> str:
    """Each nodule of the four real scans, as segmented by the networks of whole slices."""
    lines: list[tuple[object, ...]] = []
    sums: list[tuple[object, ...]] = []
    for cell in found:
        if cell.scans is None:
            continue
        method = Line(*_key(cell), [cell]).method + ALONE.get(cell.part, "")
        total, scans = cell.scans, cell.scans.scans.values()
        lines += [(method, *map(_plain, astuple(one))) for one in records_of(NoduleResult, cell.rows)]
        regions = sum(scan.findings if scan.regions is None else scan.regions for scan in scans)
        boxes = " / ".join(map(_number, (total.boxes.map50, total.boxes.map50_95) if total.boxes else (None, None)))
        lungs = sorted(
            lung for scan in scans if scan.lung_agreement and (lung := scan.lung_agreement["lung"]) is not None
        )
        agreement = f"{lungs[0]:.2f}–{lungs[-1]:.2f}" if lungs else "–"
        hit = f"{total.hit} of {total.nodules}"
        sums.append((method, hit, f"{regions}, {total.findings}", total.other, boxes, agreement, _budget([cell])))
    if not lines:
        return "_Not measured yet._"
    head = ("method", "nodules hit", "regions segmented, kept", "on no nodule", "3-D boxes: mAP@0.5 / @0.5:0.95",
            "lungs, Dice with ours", "trained")  # fmt: skip
    counts = _table(head, sums)
    columns = ("method", "scan", "mm", "readers", "hit", "score", "box IoU (3-D)", "Dice", "IoU", "sensitivity")
    return f"{counts}\n\n{_table(columns, lines)}"


def prompts(found: Sequence[ComputedCell]) -> str:
    """The default's prompted network on central slices, by prompt."""
    cells = [cell for cell in found if cell.part == "prompted"]
    if not cells:
        return "_Not measured yet._"
    figures = CentralSlices.from_json(joined(cell.rows for cell in cells)).figures
    words = {
        "box": "box of the readers' outline",
        "box_shaken": "the same, every side off by a tenth",
        "diameter": "square of the annotated diameter",
        "detector": "our detector's mark (3-D)",
        "point": "the point at the centre (3-D)",
    }
    beside = {"box": "ellipse", "box_shaken": "ellipse_shaken", "diameter": "ellipse_diameter"}
    lines = [
        (
            text,
            *(_shown(one) for one in vars(figures.by_prompt[kind]).values()),
            _shown(figures.by_prompt[beside[kind]].dice) if kind in beside else "–",
        )
        for kind, text in words.items()
    ]
    lines += [(f"published, SAM2: {text}", *figures, "–") for text, figures in PUBLISHED_PROMPTS.items()]
    head = ("prompt", "Dice (95 %)", "IoU", "sensitivity", "inscribed ellipse, Dice")
    spent = f"{cells[0].epochs} epochs, {_minutes(cells):.0f} min a fold{_on(cells)}"
    basis = f"{figures.nodules} nodules, {len(cells)} folds by patient; trained for {spent}"
    return f"{basis}; {cells[0].cpu_ms:.0f} ms a box.\n\n{_table(head, lines)}"


def refined(found: Sequence[ComputedCell]) -> str:
    """Method C with and without its second step, and its classifier on crops masked three ways."""
    every = [cell for cell in found if cell.part == "refined"]
    cells = [cell for cell in every if not cell.settings]
    if not cells:
        return "_Not measured yet._"
    found_steps = Comparison.from_json(joined(cell.rows for cell in cells)).figures
    found_grades = pooled_masks(cells).figures
    words = {"first": "first stage alone", "refined": "refined"}
    steps = {"first": found_steps.first, "refined": found_steps.refined}
    lines = [
        (text, *(_shown(getattr(steps[step], name)) for name in refinement.SCORES), steps[step].missed)
        for step, text in words.items()
    ]
    outlines = _table(("", "Dice (95 %)", "IoU", "sensitivity", "average recall", "missed"), lines)
    masks = {"readers": "the readers' outlines", **words}
    lines = [
        (text, found_grades[name].blank, *_graded(found_grades[name].of.three_readers_or_more))
        for name, text in masks.items()
    ]
    crops = _table(
        ("crops masked by", "blank", "AUC, malignant against benign (95 %)", "AUC, mean of three classes", "accuracy",
         "F1, mean of classes"),
        lines,
    )  # fmt: skip
    head = f"{found_steps.nodules} nodules, {len(cells)} fold{'s' * (len(cells) > 1)} by patient."
    tests = f"Wilcoxon signed-rank, Dice: p = {found_steps.dice}."
    known = " The first stage may know the places of close-ups (†)." if _places(cells) else ""
    return f"{head}{known}\n\n{outlines}\n\n{tests}\n\n{crops}{_by_growth(every)}"


def _by_growth(cells: Sequence[ComputedCell]) -> str:
    """The second step with boxes grown by more and by less, on the fold that has them."""
    folds = {cell.fold for cell in cells if cell.settings}
    grown = {changed(RECIPES[c.recipe], c.settings).box_scale: c for c in cells if c.fold in folds}
    lines = []
    for factor, cell in sorted(grown.items()):
        found = Comparison.from_json(cell.rows).figures.refined
        ranking = pooled_masks([cell]).figures["refined"].of.three_readers_or_more.beside_diameter.ranking
        means = (_shown(mean) for mean in (found.dice, found.iou, found.average_recall))
        lines.append((f"{factor:g}", *means, found.missed, _auc_and_gain(ranking)[0]))
    if not lines:
        return ""
    head = ("box grown by", "Dice (95 %)", "IoU", "average recall", "missed", "classifier's AUC (95 %)")
    return f"\n\nThe box grown by more or less, fold {', '.join(map(str, sorted(folds)))}:\n\n{_table(head, lines)}"


def _graded(figures: GroupFigures) -> tuple[str, ...]:
    assert figures.decisions is not None
    rates = figures.decisions.rates
    means = (_shown(mean) for mean in (rates.macro_auc, rates.accuracy, rates.macro_f1))
    return _auc_and_gain(figures.beside_diameter.ranking)[0], *means


def budgets(found: Sequence[ComputedCell]) -> str:
    """What a training in a cell has in place of the recipe, whatever has been computed."""
    lines = []
    for recipe in RECIPES.values():
        for part, config in recipe.networks.items():
            own = {**BUDGET.networks[config.network]}
            minutes = own.pop("minutes")
            changes = ", ".join(f"`{name}` {_set(new)} ({_set(getattr(config, name))})" for name, new in own.items())
            lines.append((f"`{recipe.name}`", part, f"`{config.network}`", changes or "–", minutes))
    return _table(("method", "part", "network", "set in the table (in the recipe)", "minutes at most"), lines)


def _set(value: object) -> str:
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


TABLES: Mapping[str, Callable[[Sequence[ComputedCell]], str]] = {
    "overview": overview,
    "budgets": budgets,
    "classifiers": classifiers,
    "segmenters": segmenters,
    "filters": filters,
    "real scans": real_scans,
    "prompts": prompts,
    "refined": refined,
}


def _named(row: str) -> str:
    words = {"svm": "SVM on handcrafted features (E)", "forest": "random forest on handcrafted features (E)"}
    recipe = row.split(".")[0]
    return words.get(recipe, f"`{recipe}`")


def _budget(cells: Sequence[ComputedCell]) -> str:
    minutes, pace = _minutes(cells), _pace(cells) or 0.0
    config = cells[0].learner
    if config is None:
        return f"{minutes:.1f} min a fold; {_ms(pace)} ms an input"
    epochs = _epochs(cells, config)
    beside = f" and windows of {config.window}²" if config.window else ""
    return f"{epochs} of {config.size}²{beside}, {minutes:.0f} min a fold{_on(cells)}; {_ms(pace)} ms an input"


def _epochs(cells: Sequence[ComputedCell], config: NetworkConfig) -> str:
    """Number of epochs run, of the most possible; if it was not recorded, whether it may have been fewer."""
    whole = f"{config.epochs} epoch{'s' * (config.epochs > 1)}"
    counted = [cell.epochs_run for cell in cells if cell.epochs_run is not None]
    if len(counted) < len(cells):
        return f"up to {whole}" if config.patience else whole
    least, most = min(counted), max(counted)
    if least == config.epochs:
        return whole
    return f"{least}–{most} of {whole}" if least < most else f"{most} of {whole}"


def _pace(cells: Sequence[ComputedCell]) -> float | None:
    """Milliseconds of an input, the median of the cells; None of several networks together."""
    paces = sorted(cell.cpu_ms for cell in cells if cell.cpu_ms is not None)
    return paces[len(paces) // 2] if paces else None


def _ms(pace: float) -> str:
    """Milliseconds, with a decimal below ten."""
    return f"{pace:.0f}" if pace >= 10 else f"{pace:.1f}"


def _minutes(cells: Sequence[ComputedCell]) -> float:
    """Minutes of training, on average."""
    return sum(cell.train_seconds for cell in cells) / len(cells) / 60


def _on(cells: Sequence[ComputedCell]) -> str:
    """The GPUs that trained them, if any."""
    gpus = sorted({cell.software["gpu"] for cell in cells if "gpu" in cell.software})
    return f" on {', '.join(gpus)}" if gpus else ""


def _auc_and_gain(ranking: Ranking | None) -> tuple[str, str]:
    """AUC, and its gain over that of the diameter alone."""
    if ranking is None:
        return "–", "–"
    ends = ranking.gain_interval_95
    gain = f"{ranking.auc - ranking.diameter_alone:+.3f} ({ends[0]:+.3f} to {ends[1]:+.3f})" if ends else "–"
    return _shown(ranking.auc_estimate), gain


def _shown(figure: Estimate | None) -> str:
    """A figure with its interval; a dash for None."""
    if figure is None:
        return "–"
    if figure.low is None:
        return _number(figure.value)
    return f"{_number(figure.value)} ({figure.low:.3f}–{figure.high:.3f})"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _plain(value: object) -> str:
    """Any value of a row as text."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "–" if value is None else str(value)


def _percent(figure: Estimate) -> str:
    if figure.value is None:
        return "–"
    ends = "" if figure.low is None or figure.high is None else f" ({100 * figure.low:.0f}–{100 * figure.high:.0f})"
    return f"{100 * figure.value:.1f} %{ends}"


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    return to_markdown(Table("", tuple(head), tuple(tuple(map(str, row)) for row in rows)))
