"""The page of results, filled in from the cells that :mod:`experiments.table` computes; no figure is typed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from experiments.budgets import BUDGET
from nodulens.evaluate import refinement
from nodulens.evaluate.central_slices import CentralSlices
from nodulens.evaluate.records import Estimate
from nodulens.evaluate.refinement import ClassifiedMasks, Comparison
from nodulens.io.atomic import whole_file
from nodulens.methods.catalogue import RECIPES
from nodulens.methods.recipe import changed
from nodulens.presentation.evaluation import Table
from nodulens.presentation.table_writer import to_markdown
from nodulens.stages.slices import Field
from nodulens.train.tasks import classification, fp_reduction, segmentation_figures

Found = Mapping[str, Any]
"""One cell, as its file holds it."""
SPLITS = {"patients": "by patient", "random": "random", "augmented": "random, after augmentation"}
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
ALONE = {"filter": ", its CNN alone, slid over the lungs"}


def write(cells: Path, page: Path) -> None:
    """Put the tables between the page's marks; marks without a table, and the rest of the page, stay as they are."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(cells.glob("*.json"))]
    text = page.read_text(encoding="utf-8")
    for name, draw in TABLES.items():
        before, start, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"<!-- end of {name} -->")
        if start and end:
            text = f"{before}{start}{draw(found)}\n{end}{after}"
    with whole_file(page) as file:
        file.write_text(text, encoding="utf-8")


def pooled(found: Sequence[Found]) -> dict[str, Any]:
    """The figures of several folds together."""
    rows = _joined(found, "rows")
    part, config = found[0]["part"], found[0].get("learner", {})
    if part == "segmenter":
        return segmentation_figures.figures(rows, Field(config["size"], tuple(config["classes"]), config["pixel_mm"]))
    return fp_reduction.figures(rows) if part == "filter" else classification.figures(rows)


@dataclass(frozen=True)
class Line:
    """Cells that one line of a table pools.

    Attributes:
        row: recipe and part.
        settings: in which they differ from the recipe.
        beside: whether it repeats the recipe as it is, on the one fold of its variants.
    """

    row: str
    split: str
    settings: str
    cells: list[Found]
    beside: bool = False

    @property
    def method(self) -> str:
        """As a table names it."""
        return _named(self.row) + (f", `{self.settings}`" if self.settings else "")

    @property
    def shown(self) -> str:
        """Its split and folds."""
        folds = len(self.cells)
        if self.split != "patients":
            return SPLITS[self.split]
        return f"by patient, fold {self.cells[0]['fold']}" if folds == 1 else f"by patient, {folds} folds"

    @property
    def leads(self) -> bool:
        """Whether it is the recipe as it is, by patient, on all folds."""
        return self.split == "patients" and not (self.settings or self.beside)

    @property
    def published(self) -> str:
        """What the publication states, said once."""
        return PUBLISHED.get(self.row, "") if self.leads else ""


def _lines(found: Iterable[Found], parts: Sequence[str]) -> list[Line]:
    """The lines of some parts. Where a recipe has variants on one fold, it is itself repeated on that fold."""
    groups: dict[tuple[str, str, str], list[Found]] = {}
    for cell in found:
        if cell["part"] in parts and cell["split"] in SPLITS:
            key = f"{cell['recipe']}.{cell['part']}", cell["split"], ", ".join(cell["settings"])
            groups.setdefault(key, []).append(cell)
    lines = [Line(*key, cells) for key, cells in groups.items()]
    varied = {(line.row, line.cells[0]["fold"]) for line in lines if line.settings and line.split == "patients"}
    for row, fold in sorted(varied):
        own = [cell for cell in groups.get((row, "patients", ""), []) if cell["fold"] == fold]
        lines += [Line(row, "patients", "", own, beside=True)] if own else []
    return lines


def _ranked(lines: Iterable[tuple[Line, float | None, tuple[object, ...]]]) -> list[tuple[object, ...]]:
    """Methods by their figure under the split by patient; each one's other splits below it, then its variants.

    Args:
        lines: each with its figure, and with what the table shows of it after method and split.
    """
    told = list(lines)
    rank = {line.row: value or 0.0 for line, value, _ in told if line.leads}
    order = list(SPLITS)

    def place(one: tuple[Line, float | None, tuple[object, ...]]) -> tuple[Any, ...]:
        line, value, _ = one
        variant = bool(line.settings or line.beside)
        among = (order.index(line.split) if not variant else 0, not line.beside, -(value or 0.0))
        return -rank.get(line.row, 0.0), line.row, variant, *among

    return [(line.method, line.shown, *cells) for line, _, cells in sorted(told, key=place)]


def classifiers(found: Sequence[Found]) -> str:
    """Malignancy: by patient first, the best first; other splits below their method. Then those of three classes."""
    lines, three = [], []
    for line in _lines(found, ("classifier", "handcrafted")):
        figures = pooled(line.cells)
        whole, middle = figures["three_readers_or_more"], figures["six_to_twelve_mm"]
        decided, judged = whole["nodules"], whole["judged"]
        value, intervals = whole.get("auc"), whole["intervals"]
        shown = (
            decided if decided == judged else f"{decided}; decisions {judged}",
            _interval(whole, "auc"),
            _gain(whole),
            _interval(middle, "auc"),
            _gain(middle),
            *(_percent(intervals[name]) for name in ("accuracy", "sensitivity", "specificity")),
            _budget(line.cells),
            line.published,
        )
        lines.append((line, value, shown))
        if "macro_auc" in intervals:
            means = (_told(intervals[name]) for name in ("macro_auc", "macro_f1"))
            three.append((line, value, (judged, *means, _percent(intervals["accuracy"]), line.published)))
    table = _table(
        ("method", "split", "nodules", "AUC (95 %)", "over diameter", "AUC, 6–12 mm", "over diameter", "accuracy",
         "sensitivity", "specificity", "trained", "published"),
        _ranked(lines),
    )  # fmt: skip
    if not three:
        return table
    head = ("method", "split", "nodules", "AUC, mean of classes (95 %)", "F1, mean of classes", "accuracy", "published")
    return f"{table}\n\nThree classes, benign, malignant and indeterminate:\n\n{_table(head, _ranked(three))}"


def segmenters(found: Sequence[Found]) -> str:
    """Whole slices with rendered nodules, and close-ups of real ones; then by size of the nodule, then by class."""
    lines, sizes, classes = [], [], []
    for line in _lines(found, ("segmenter",)):
        figures = pooled(line.cells)
        nodule, boxes = figures["classes"]["nodule"], figures["boxes"] or {}
        near, value = figures.get("close_ups", {}), nodule["dice"]["value"]
        if line.leads:
            bands = figures["dice_by_size"]
            sizes.append((line.method, *(f"{_number(b['dice'])} ({b['slices']})" for b in bands.values())))
            classes += [(line.method, name, *_of_class(told)) for name, told in figures["classes"].items()]
            r = figures.get("pearson_of_nodule_and_lung_dice")
            whole = f"accuracy {_number(figures['accuracy'])}" + (f", Pearson's r {_number(r)}" if r else "")
            classes.append((line.method, whole, *[""] * 7))
        lungs = [c["dice"]["value"] for name, c in figures["classes"].items() if name != "nodule"]
        shown = (
            figures["with_nodule"],
            _told(nodule["dice"]),
            _told(nodule["iou"]),
            _told(nodule["sensitivity"]),
            f"{nodule['invented']} of {nodule['invented'] + nodule['both_empty']}",
            _told(near["dice"]) if near else "–",
            ", ".join(_number(v) for v in lungs) or "–",
            " / ".join(_number(boxes.get(name)) for name in ("precision", "recall", "map50", "map50_95")),
            _budget(line.cells),
            line.published,
        )
        lines.append((line, value, shown))
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
         "area, predicted less true, pixels (limits of agreement)"),
        classes,
    )  # fmt: skip
    return (
        f"{whole}\n\nNodule Dice by its diameter on the slice (slices), by patient:\n\n{by_size}"
        f"\n\nBy class, by patient; Pearson's r is of the nodule's Dice and the lungs':\n\n{by_class}"
    )


def _of_class(told: Mapping[str, Any]) -> tuple[str, ...]:
    areas = told["areas_px"]
    limits = "–" if areas is None else f"{areas['difference']:.0f} ({areas['lower']:.0f} to {areas['upper']:.0f})"
    means = (_number(told[name]["value"]) for name in ("dice", "iou", "sensitivity", "precision"))
    return *means, _number(told["dice_pooled"]), f"{told['missed']}; {told['invented']}", limits


def filters(found: Sequence[Found]) -> str:
    """LUNA16's candidates; then recall by size of the nodule."""
    lines, sizes = [], []
    for line in _lines(found, ("filter",)):
        figures = pooled(line.cells)
        names = ("auc", "average_precision", "precision", "recall")
        patches = f"{figures['on_nodules']} against {figures['patches'] - figures['on_nodules']}"
        shown = (patches, *(_told(figures[name]) for name in names), _budget(line.cells), line.published)
        lines.append((line, figures["auc"]["value"], shown))
        bands = figures["recall_by_size"]
        sizes.append((line, figures["auc"]["value"], tuple(_number(value) for value in bands.values())))
    table = _table(
        ("method", "split", "patches", "AUC (95 %)", "average precision", "precision", "recall", "trained",
         "published"),
        _ranked(lines),
    )  # fmt: skip
    if not sizes:
        return table
    return f"{table}\n\nRecall by diameter:\n\n{_table(('method', 'split', *bands), _ranked(sizes))}"


def real_scans(found: Sequence[Found]) -> str:
    """The nodules of the four real scans one by one, as the whole-slice networks outline them."""
    words = {
        "patient": "scan", "diameter_mm": "mm", "readers": "readers", "hit": "hit", "score": "score",
        "box_iou": "box IoU (3-D)", "dice": "Dice", "iou": "IoU", "sensitivity": "sensitivity",
    }  # fmt: skip
    lines: list[tuple[object, ...]] = []
    sums: list[tuple[object, ...]] = []
    for cell in (c for c in found if c["split"] == "scans"):
        columns = [cell["rows"][name] for name in words]
        method = _named(f"{cell['recipe']}.{cell['part']}") + ALONE.get(cell["part"], "")
        lines += [(method, *map(_plain, values)) for values in zip(*columns, strict=True)]
        total, scans = cell["figures"], cell["figures"]["scans"].values()
        drawn = sum(scan.get("regions", scan["findings"]) for scan in scans)
        boxes = " / ".join(_number(total["boxes"][name]) for name in ("map50", "map50_95"))
        lungs = sorted(s["lung_agreement"]["lung"] for s in scans if s.get("lung_agreement"))
        agreement = f"{lungs[0]:.2f}–{lungs[-1]:.2f}" if lungs else "–"
        hit = f"{total['hit']} of {total['nodules']}"
        sums.append((method, hit, f"{drawn}, {total['findings']}", total["other"], boxes, agreement, _budget([cell])))
    if not lines:
        return "_Not measured yet._"
    head = ("method", "nodules hit", "regions drawn, kept", "of them on none", "3-D boxes: mAP@0.5 / @0.5:0.95",
            "lungs, Dice with ours", "trained")  # fmt: skip
    counts = _table(head, sums)
    return f"{counts}\n\n{_table(('method', *words.values()), lines)}"


def prompts(found: Sequence[Found]) -> str:
    """The default's prompted network on central slices, by what it is told."""
    cells = [c for c in found if c["part"] == "prompted"]
    if not cells:
        return "_Not measured yet._"
    figures = CentralSlices.from_json(_joined(cells, "rows")).figures
    words = {
        "box": "box of the readers' outline",
        "box_shaken": "the same, every side off by a tenth",
        "diameter": "square of the annotated diameter",
        "detector": "our detector's mark (3-D)",
        "point": "a point in the middle (3-D)",
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
    head = ("prompt", "Dice (95 %)", "IoU", "sensitivity", "inscribed ellipse, Dice")
    spent = f"{cells[0]['epochs']} epochs, {_minutes(cells):.0f} min a fold{_on(cells)}"
    basis = f"{figures.nodules} nodules, {len(cells)} folds by patient; trained for {spent}"
    return f"{basis}; {cells[0]['cpu_ms']:.0f} ms a box.\n\n{_table(head, lines)}"


def refined(found: Sequence[Found]) -> str:
    """Method C with and without its second step, and its classifier on crops masked three ways."""
    every = [c for c in found if c["part"] == "refined"]
    cells = [c for c in every if not c["settings"]]
    if not cells:
        return "_Not measured yet._"
    found_steps = Comparison.from_json(_joined(cells, "rows")).figures
    found_grades = ClassifiedMasks.from_json(_joined(cells, "graded")).figures
    words = {"first": "first stage alone", "refined": "and outlined again"}
    steps = {"first": found_steps.first, "refined": found_steps.refined}
    lines = [
        (text, *(_shown(getattr(steps[step], name)) for name in refinement.SCORES), steps[step].missed)
        for step, text in words.items()
    ]
    outlines = _table(("", "Dice (95 %)", "IoU", "sensitivity", "average recall", "missed"), lines)
    masks = {"readers": "the readers' outlines", **words}
    lines = [
        (text, found_grades[name].blank, *_graded(found_grades[name].of["three_readers_or_more"]))
        for name, text in masks.items()
    ]
    crops = _table(
        ("crops masked by", "blank", "AUC, malignant against benign (95 %)", "AUC, mean of three classes", "accuracy",
         "F1, mean of classes"),
        lines,
    )  # fmt: skip
    head = f"{found_steps.nodules} nodules, {len(cells)} fold{'s' * (len(cells) > 1)} by patient."
    tests = f"Wilcoxon signed-rank, Dice: p = {found_steps.dice}."
    return f"{head}\n\n{outlines}\n\n{tests}\n\n{crops}{_by_growth(every)}"


def _by_growth(cells: Sequence[Found]) -> str:
    """The second step with boxes grown by more and by less, on the fold that has them."""
    folds = {cell["fold"] for cell in cells if cell["settings"]}
    grown: dict[float, Found] = {}
    for cell in (c for c in cells if c["fold"] in folds):
        grown[changed(RECIPES[cell["recipe"]], cell["settings"]).box_scale] = cell
    lines = []
    for factor, cell in sorted(grown.items()):
        told, grades = cell["figures"]["compared"]["refined"], cell["figures"]["graded"]["refined"]
        figures = (_told(told[name]) for name in ("dice", "iou", "average_recall"))
        lines.append((f"{factor:g}", *figures, told["missed"], _interval(grades["three_readers_or_more"], "auc")))
    if not lines:
        return ""
    head = ("box grown by", "Dice (95 %)", "IoU", "average recall", "missed", "classifier's AUC (95 %)")
    return f"\n\nThe box grown by more or less, fold {', '.join(map(str, sorted(folds)))}:\n\n{_table(head, lines)}"


def _graded(figures: Mapping[str, Any]) -> tuple[str, ...]:
    ends = figures["intervals"]
    return _interval(figures, "auc"), *(_told(ends[name]) for name in ("macro_auc", "accuracy", "macro_f1"))


def _joined(cells: Sequence[Found], name: str) -> dict[str, list[Any]]:
    """The rows of several folds, column by column."""
    rows: dict[str, list[Any]] = {}
    for cell in cells:
        for column, values in cell[name].items():
            rows.setdefault(column, []).extend(values)
    return rows


def budgets(found: Sequence[Found]) -> str:
    """What a training in a cell may take, whatever has been computed."""
    lines = []
    for recipe in RECIPES.values():
        for part, config in recipe.networks.items():
            limits = BUDGET.networks[config.network]
            epochs = limits.get("epochs", config.epochs)
            lines.append((f"`{recipe.name}`", part, f"`{config.network}`", epochs, config.epochs, limits["minutes"]))
    return _table(("method", "part", "network", "epochs", "epochs of the recipe", "minutes at most"), lines)


TABLES: Mapping[str, Callable[[Sequence[Found]], str]] = {
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


def _budget(cells: Sequence[Found]) -> str:
    minutes = _minutes(cells)
    config = cells[0].get("learner")
    pace = sorted(c["cpu_ms"] for c in cells)[len(cells) // 2]
    if not config:
        return f"{minutes:.1f} min a fold; {pace:.0f} ms an input"
    epochs = _epochs(cells, config)
    beside = f" and windows of {config['window']}²" if config.get("window") else ""
    return f"{epochs} of {config['size']}²{beside}, {minutes:.0f} min a fold{_on(cells)}; {pace:.0f} ms an input"


def _epochs(cells: Sequence[Found], config: Mapping[str, Any]) -> str:
    """That were run, of how many there might have been; where no one counted, whether it may have been fewer."""
    whole = f"{config['epochs']} epoch{'s' * (config['epochs'] > 1)}"
    if not all("epochs_run" in cell for cell in cells):
        return f"up to {whole}" if config.get("patience") else whole
    least, most = (some(cell["epochs_run"] for cell in cells) for some in (min, max))
    if least == config["epochs"]:
        return whole
    return f"{least}–{most} of {whole}" if least < most else f"{most} of {whole}"


def _minutes(cells: Sequence[Found]) -> float:
    """Minutes of training, on average."""
    return float(sum(c["train_seconds"] for c in cells)) / len(cells) / 60


def _on(cells: Sequence[Found]) -> str:
    """What trained them, where it was no CPU."""
    gpus = sorted({c["software"]["gpu"] for c in cells if "gpu" in c["software"]})
    return f" on {', '.join(gpus)}" if gpus else ""


def _interval(figures: Mapping[str, Any], name: str) -> str:
    ends = figures.get(f"{name}_interval_95")
    return _number(figures.get(name)) + (f" ({ends[0]:.3f}–{ends[1]:.3f})" if ends else "")


def _gain(figures: Mapping[str, Any]) -> str:
    ends = figures.get("gain_interval_95")
    if not ends or figures.get("auc") is None:
        return "–"
    return f"{figures['auc'] - figures['diameter_alone']:+.3f} ({ends[0]:+.3f} to {ends[1]:+.3f})"


def _told(figure: Mapping[str, Any]) -> str:
    if figure["low"] is None:
        return _number(figure["value"])
    return f"{_number(figure['value'])} ({figure['low']:.3f}–{figure['high']:.3f})"


def _shown(figure: Estimate) -> str:
    """As :func:`_told`, of a typed figure."""
    return _told(asdict(figure))


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _plain(value: object) -> str:
    """Anything in a row, as a table says it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "–" if value is None else str(value)


def _percent(figure: Mapping[str, Any]) -> str:
    value, low, high = (figure[end] for end in ("value", "low", "high"))
    if value is None:
        return "–"
    return f"{100 * value:.1f} %" + ("" if low is None else f" ({100 * low:.0f}–{100 * high:.0f})")


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    return to_markdown(Table("", tuple(head), tuple(tuple(map(str, row)) for row in rows)))
