"""The page of results, filled in from the cells that :mod:`nodulens.train.table` computes; no figure is typed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nodulens.io.atomic import whole_file
from nodulens.stages.slices import Field
from nodulens.train import filtering, grading, outlining, prompting, refining

Found = Mapping[str, Any]
"""One cell, as its file holds it."""
SPLITS = {"patients": "by patient", "random": "random", "augmented": "random, after augmentation"}
PUBLISHED = {
    "sam2-densenet.classifier": "accuracy 97.3, sensitivity 98.5, specificity 96.2 %",
    "nnunet-sam.classifier": "AUC 0.822",
    "conv3-classifier.classifier": "accuracy 80, sensitivity 86, specificity 76, precision 75 %, AUC 0.87",
    "se-aux-unet.segmenter": "Dice 98.4 %, of all classes together",
    "resnet-unet-patch-cnn.segmenter": "Dice 0.85, IoU 0.75, recall 0.90, mAP@0.5 0.80",
    "resnet-unet-patch-cnn.filter": "precision 0.75, recall 0.80, mAP@0.5 0.70",
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
    part, learner = found[0]["part"], found[0].get("learner", {})
    if part == "segmenter":
        return outlining.figures(rows, Field(learner["size"], tuple(learner["classes"]), learner["pixel_mm"]))
    if part == "prompted":
        return prompting.figures(rows)
    return filtering.figures(rows) if part == "filter" else grading.figures(rows)


def _grouped(found: Iterable[Found], parts: Sequence[str]) -> list[tuple[str, str, list[Found]]]:
    """(row, split, cells) of some parts."""
    groups: dict[tuple[str, str], list[Found]] = {}
    for cell in found:
        if cell["part"] in parts and cell["split"] in SPLITS:
            settings = ", ".join(cell["settings"])
            row = f"{cell['recipe']}.{cell['part']}" + f".{settings}" * bool(settings)
            groups.setdefault((row, cell["split"]), []).append(cell)
    return [(row, split, cells) for (row, split), cells in groups.items()]


def classifiers(found: Sequence[Found]) -> str:
    """Malignancy: by patient first, the best first; other splits below their method."""
    lines = []
    for row, split, cells in _grouped(found, ("classifier", "handcrafted")):
        figures = pooled(cells)
        whole, middle = figures["three_readers_or_more"], figures["six_to_twelve_mm"]
        lines.append(
            (
                (row, split, whole.get("auc") or 0.0),
                _named(row),
                _split(split, cells),
                whole["nodules"],
                _interval(whole, "auc"),
                _gain(whole),
                _interval(middle, "auc"),
                _gain(middle),
                *(_percent(whole.get(name)) for name in ("accuracy", "sensitivity", "specificity")),
                _budget(cells),
                PUBLISHED.get(row, "") if split == "patients" else "",
            )
        )
    return _table(
        ("method", "split", "nodules", "AUC (95 %)", "over diameter", "AUC, 6–12 mm", "over diameter", "accuracy",
         "sensitivity", "specificity", "trained", "published"),
        _ranked(lines),
    )  # fmt: skip


def segmenters(found: Sequence[Found]) -> str:
    """Whole slices with rendered nodules, and close-ups of real ones; then the former by size."""
    lines, sizes = [], []
    for row, split, cells in _grouped(found, ("segmenter",)):
        figures = pooled(cells)
        nodule, boxes = figures["classes"]["nodule"], figures["boxes"] or {}
        near = figures.get("close_ups", {})
        if split == "patients" and not cells[0]["settings"]:
            bands = figures["dice_by_size"]
            sizes.append((_named(row), *(f"{_number(b['dice'])} ({b['slices']})" for b in bands.values())))
        lungs = [c["dice"]["value"] for name, c in figures["classes"].items() if name != "nodule"]
        lines.append(
            (
                (row, split, nodule["dice"]["value"] or 0.0),
                _named(row),
                _split(split, cells),
                figures["with_nodule"],
                _told(nodule["dice"]),
                _told(nodule["iou"]),
                _told(nodule["sensitivity"]),
                f"{nodule['invented']} of {nodule['invented'] + nodule['both_empty']}",
                _told(near["dice"]) if near else "–",
                ", ".join(_number(v) for v in lungs) or "–",
                f"{_number(boxes.get('map50'))} / {_number(boxes.get('map50_95'))}",
                _budget(cells),
                PUBLISHED.get(row, "") if split == "patients" else "",
            )
        )
    whole = _table(
        ("method", "split", "slices with a nodule", "nodule Dice", "IoU", "sensitivity", "invented on slices without",
         "close-ups of real nodules, Dice", "agreement with our lungs, Dice", "mAP@0.5 / @0.5:0.95", "trained",
         "published"),
        _ranked(lines),
    )  # fmt: skip
    if not sizes:
        return whole
    by_size = _table(("method", *bands), sizes)
    return f"{whole}\n\nNodule Dice by the pixels that a slice shows of it (slices), by patient:\n\n{by_size}"


def filters(found: Sequence[Found]) -> str:
    """LUNA16's candidates."""
    lines = []
    for row, split, cells in _grouped(found, ("filter",)):
        figures = pooled(cells)
        lines.append(
            (
                (row, split, figures["auc"]["value"] or 0.0),
                _named(row),
                _split(split, cells),
                f"{figures['on_nodules']} against {figures['patches'] - figures['on_nodules']}",
                _told(figures["auc"]),
                _told(figures["average_precision"]),
                _number(figures["precision"]),
                _number(figures["recall"]),
                _budget(cells),
                PUBLISHED.get(row, "") if split == "patients" else "",
            )
        )
    return _table(
        ("method", "split", "patches", "AUC (95 %)", "average precision", "precision", "recall", "trained",
         "published"),
        _ranked(lines),
    )  # fmt: skip


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
        total = cell["figures"]
        sums.append((method, f"{total['hit']} of {total['nodules']}", total["other"], _budget([cell])))
    if not lines:
        return "_Not measured yet._"
    counts = _table(("method", "nodules hit", "findings on none", "trained"), sums)
    return f"{counts}\n\n{_table(('method', *words.values()), lines)}"


def prompts(found: Sequence[Found]) -> str:
    """The default's prompted network on central slices, by what it is told."""
    cells = [c for c in found if c["part"] == "prompted"]
    if not cells:
        return "_Not measured yet._"
    figures = pooled(cells)
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
            *(_told(figures[kind][name]) for name in ("dice", "iou", "sensitivity")),
            _told(figures[beside[kind]]["dice"]) if kind in beside else "–",
        )
        for kind, text in words.items()
    ]
    head = ("prompt", "Dice (95 %)", "IoU", "sensitivity", "inscribed ellipse, Dice")
    told = f"{cells[0]['epochs']} epochs, {_minutes(cells):.0f} min a fold{_on(cells)}"
    return f"{figures['nodules']} nodules, {len(cells)} folds by patient; trained for {told}.\n\n{_table(head, lines)}"


def refined(found: Sequence[Found]) -> str:
    """Method C with and without its second step, and its classifier on crops masked three ways."""
    cells = [c for c in found if c["part"] == "refined"]
    if not cells:
        return "_Not measured yet._"
    rows, graded = (_joined(cells, name) for name in ("rows", "graded"))
    told, grades = refining.figures(rows), refining.grades(graded)
    words = {"first": "first stage alone", "refined": "and outlined again"}
    lines = [
        (text, *(_told(told[stage][name]) for name in refining.SCORES), told[stage]["missed"])
        for stage, text in words.items()
    ]
    p = told["wilcoxon"]["dice"]
    tests = ", ".join(f"{p[k]['p_value']:.2g} {k.replace('_', ' ')}" for k in p if p[k]["p_value"] is not None)
    outlines = _table(("", "Dice (95 %)", "IoU", "sensitivity", "average recall", "missed"), lines)
    masks = {"readers": "the readers' outlines", **words}
    lines = [
        (text, grades[name]["blank"], *_graded(grades[name]["three_readers_or_more"])) for name, text in masks.items()
    ]
    crops = _table(("crops masked by", "blank", "AUC (95 %)", "accuracy, three classes", "macro F1"), lines)
    head = f"{told['nodules']} nodules, {len(cells)} fold{'s' * (len(cells) > 1)} by patient."
    return f"{head}\n\n{outlines}\n\nWilcoxon signed-rank, Dice: p = {tests}.\n\n{crops}"


def _graded(figures: Mapping[str, Any]) -> tuple[str, str, str]:
    ends = figures["intervals"]
    return _interval(figures, "auc"), _told(ends["accuracy"]), _told(ends["macro_f1"])


def _joined(cells: Sequence[Found], name: str) -> dict[str, list[Any]]:
    """The rows of several folds, column by column."""
    rows: dict[str, list[Any]] = {}
    for cell in cells:
        for column, values in cell[name].items():
            rows.setdefault(column, []).extend(values)
    return rows


TABLES: Mapping[str, Callable[[Sequence[Found]], str]] = {
    "classifiers": classifiers,
    "segmenters": segmenters,
    "filters": filters,
    "real scans": real_scans,
    "prompts": prompts,
    "refined": refined,
}


def _ranked(lines: list[tuple[Any, ...]]) -> list[tuple[object, ...]]:
    """Methods by their figure under the split by patient; each one's other splits below it."""
    rank = {key[0]: key[2] for key, *_ in lines if key[1] == "patients"}
    order = list(SPLITS)
    lines.sort(key=lambda line: (-rank.get(line[0][0], 0.0), line[0][0], order.index(line[0][1])))
    return [tuple(cells) for _, *cells in lines]


def _named(row: str) -> str:
    recipe, _, *settings = row.split(".", 2)
    words = {"svm": "SVM on handcrafted features (E)", "forest": "random forest on handcrafted features (E)"}
    name = words.get(recipe, f"`{recipe}`")
    return f"{name}, `{settings[0]}`" if settings else name


def _split(split: str, cells: Sequence[Found]) -> str:
    return f"{SPLITS[split]}, {len(cells)} fold{'s' * (len(cells) > 1)}"


def _budget(cells: Sequence[Found]) -> str:
    minutes = _minutes(cells)
    learner = cells[0].get("learner")
    if not learner:
        return f"{minutes:.1f} min a fold"
    pace = sorted(c["cpu_ms"] for c in cells)[len(cells) // 2]
    epochs = f"{learner['epochs']} epoch{'s' * (learner['epochs'] > 1)}"
    beside = f" and windows of {learner['window']}²" if learner.get("window") else ""
    return f"{epochs} of {learner['size']}²{beside}, {minutes:.0f} min a fold{_on(cells)}; {pace:.0f} ms an input"


def _minutes(cells: Sequence[Found]) -> float:
    """Of training, on average."""
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


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _plain(value: object) -> str:
    """Anything in a row, as a table says it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "–" if value is None else str(value)


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
